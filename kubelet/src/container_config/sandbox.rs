//! Pod + node -> PodSandboxConfig: its name, network, namespaces and place among the cgroups.
//!
//! Source: `pkg/kubelet/kuberuntime/kuberuntime_sandbox.go`.

use std::{collections::HashMap, fs};

use api::k8s::api::core::v1::{Container, Pod};

use super::{ConfigError, Hostname, Limits, runtime_resources, security};
use crate::{
    cgroups,
    context::{NodeContext, PodContext},
    dns_config::{self, Dns},
    meta,
};

/// The config of a pod's sandbox, but for what names it (metadata, labels, annotations, log directory: [`crate::labels`]).
///
/// # Errors
/// [`ConfigError`] in upstream's words (`CreatePodSandboxConfig` fails with it).
pub fn sandbox(cx: &PodContext) -> Result<cri::PodSandboxConfig, ConfigError> {
    let pod = &*cx.pod;
    let Dns { servers, searches, options } = dns(&cx.node, pod)?.dns;
    Ok(cri::PodSandboxConfig {
        hostname: hostname(&cx.node, pod)?,
        dns_config: Some(cri::DnsConfig { servers, searches, options }),
        port_mappings: meta::spec(pod).map(|s| s.containers.iter().flat_map(port_mappings).collect()).unwrap_or_default(),
        linux: Some(linux(cx)?),
        ..cri::PodSandboxConfig::default()
    })
}

/// What of the pod's DNS configuration had to be left out: reason and message of Warning events on the pod.
pub fn dns_warnings(cx: &PodContext) -> Vec<(&'static str, String)> {
    dns(&cx.node, &cx.pod).map(|formed| formed.warnings).unwrap_or_default()
}

fn dns(node: &NodeContext, pod: &Pod) -> Result<dns_config::Formed, ConfigError> {
    let host = if node.resolv_conf.as_os_str().is_empty() {
        None
    } else {
        let what = || format!("resolv.conf {}", node.resolv_conf.display());
        Some(Dns::parse(&fs::read_to_string(&node.resolv_conf).map_err(|source| ConfigError::File { what: what(), source })?))
    };
    let cluster_dns = node.cluster_dns.iter().map(ToString::to_string).collect();
    Ok(dns_config::for_pod(&dns_config::Node { host, cluster_dns, cluster_domain: node.cluster_domain.clone() }, pod))
}

/// Empty on the node's network: the node's own name is kept.
fn hostname(node: &NodeContext, pod: &Pod) -> Result<String, ConfigError> {
    if meta::host_network(pod) {
        return Ok(String::new());
    }
    let name = Hostname::of(pod, &node.cluster_domain).and_then(|name| name.for_kernel(pod));
    name.map_err(ConfigError::Refused)
}

fn port_mappings(container: &Container) -> Vec<cri::PortMapping> {
    let ports = container.ports.as_deref().unwrap_or_default();
    let protocol = |name: Option<&str>| match name {
        Some("UDP") => cri::Protocol::Udp,
        Some("SCTP") => cri::Protocol::Sctp,
        _ => cri::Protocol::Tcp,
    };
    let one = |port: &api::k8s::api::core::v1::ContainerPort| cri::PortMapping {
        protocol: protocol(port.protocol.as_deref()) as i32,
        container_port: port.container_port,
        host_port: port.host_port.unwrap_or(0),
        host_ip: port.host_ip.clone().unwrap_or_default(),
    };
    ports.iter().map(one).collect()
}

fn linux(cx: &PodContext) -> Result<cri::LinuxPodSandboxConfig, ConfigError> {
    let pod = &*cx.pod;
    let sysctls = meta::spec(pod).and_then(|s| s.security_context.as_ref()).and_then(|s| s.sysctls.as_ref());
    let sysctls: HashMap<String, String> = sysctls.into_iter().flatten().map(|s| (s.name.clone(), s.value.clone())).collect();
    Ok(cri::LinuxPodSandboxConfig {
        cgroup_parent: cgroups::parent(&cx.node.cgroup_root, pod),
        security_context: Some(security::of_sandbox(&cx.node, pod).map_err(ConfigError::Refused)?),
        sysctls,
        resources: Some(runtime_resources(Limits::of_pod(pod), cx.node.cpu_cfs_quota)),
        ..cri::LinuxPodSandboxConfig::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::container_config::testing::{context, pod};

    fn made(spec: &str) -> cri::PodSandboxConfig {
        let dir = tempfile::tempdir().unwrap();
        sandbox(&context(pod(spec), dir.path())).unwrap()
    }

    #[test]
    fn a_sandbox_reads_as_upstream_writes_it() {
        let got = made(
            r#"{"containers":[{"name":"a","ports":[{"containerPort":53,"hostPort":5353,"protocol":"UDP","hostIP":"127.0.0.1"}]}],
            "subdomain":"s","shareProcessNamespace":true,
            "securityContext":{"sysctls":[{"name":"net.x","value":"1"}],"fsGroup":7,"supplementalGroups":[8],"runAsUser":5}}"#,
        );
        assert_eq!(got.hostname, "web");
        assert_eq!(got.dns_config.unwrap().searches[0], "default.svc.cluster.local");
        assert_eq!(got.port_mappings[0].host_port, 5353);
        assert_eq!(got.port_mappings[0].protocol, cri::Protocol::Udp as i32);
        let linux = got.linux.unwrap();
        assert_eq!(linux.cgroup_parent, "/kubepods/besteffort/podu1");
        assert_eq!(linux.sysctls["net.x"], "1");
        let security = linux.security_context.unwrap();
        assert_eq!(security.supplemental_groups, [7, 8]);
        assert_eq!(security.run_as_user.unwrap().value, 5);
        assert_eq!(security.namespace_options.unwrap().pid, cri::NamespaceMode::Pod as i32);
    }

    #[test]
    fn host_namespaces_are_the_nodes() {
        let got = made(r#"{"containers":[{"name":"a"}],"hostNetwork":true,"hostPID":true,"hostIPC":true}"#);
        let options = got.linux.unwrap().security_context.unwrap().namespace_options.unwrap();
        let node = cri::NamespaceMode::Node as i32;
        assert_eq!((options.network, options.pid, options.ipc), (node, node, node));
        assert_eq!(got.hostname, "");
        assert_eq!(got.dns_config.unwrap().servers, ["8.8.8.8"]);
        let own = made(r#"{"containers":[{"name":"a"}]}"#).linux.unwrap().security_context.unwrap().namespace_options.unwrap();
        assert_eq!((own.network, own.pid), (cri::NamespaceMode::Pod as i32, cri::NamespaceMode::Container as i32));
    }
}
