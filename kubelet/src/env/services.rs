//! Services -> the environment variables that name them.
//!
//! Source: `pkg/kubelet/envvars/envvars.go`, `getServiceEnvVarMap` in `pkg/kubelet/kubelet_pods.go`.

use std::{collections::BTreeMap, sync::Arc};

use api::k8s::api::core::v1::{Service, ServicePort};

/// The variables of a pod in `namespace`: of `kubernetes` in `master_namespace` always, of its own namespace's services where `links` are on.
pub fn variables(services: &[Arc<Service>], namespace: &str, master_namespace: &str, links: Links) -> BTreeMap<String, String> {
    let mut chosen: BTreeMap<&str, &Service> = BTreeMap::new();
    for service in services {
        let (ns, name) = (service.metadata.namespace.as_deref().unwrap_or_default(), service.metadata.name.as_deref().unwrap_or_default());
        let master = ns == master_namespace && name == "kubernetes";
        if master {
            chosen.entry(name).or_insert(service);
        } else if ns == namespace && links == Links::All {
            chosen.insert(name, service);
        }
    }
    let mut variables = BTreeMap::new();
    for (name, service) in chosen {
        add(&mut variables, name, service);
    }
    variables
}

/// Which services a pod gets variables for (`spec.enableServiceLinks`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Links {
    All,
    MasterOnly,
}

fn add(variables: &mut BTreeMap<String, String>, name: &str, service: &Service) {
    let Some(spec) = service.spec.as_ref() else { return };
    let Some(ip) = spec.cluster_ip.as_deref().filter(|ip| !ip.is_empty() && *ip != "None") else { return };
    let ports = spec.ports.as_deref().unwrap_or_default();
    let Some(first) = ports.first() else { return };
    let prefix = upper(name);
    variables.insert(format!("{prefix}_SERVICE_HOST"), ip.to_owned());
    variables.insert(format!("{prefix}_SERVICE_PORT"), first.port.to_string());
    variables.insert(format!("{prefix}_PORT"), url(ip, first));
    for port in ports {
        if let Some(port_name) = port.name.as_deref().filter(|n| !n.is_empty()) {
            variables.insert(format!("{prefix}_SERVICE_PORT_{}", upper(port_name)), port.port.to_string());
        }
        let link = format!("{prefix}_PORT_{}_{}", port.port, protocol(port));
        variables.insert(format!("{link}_PROTO"), protocol(port).to_lowercase());
        variables.insert(format!("{link}_PORT"), port.port.to_string());
        variables.insert(format!("{link}_ADDR"), ip.to_owned());
        variables.insert(link, url(ip, port));
    }
}

fn upper(name: &str) -> String {
    name.replace('-', "_").to_uppercase()
}

fn protocol(port: &ServicePort) -> String {
    port.protocol.as_deref().filter(|p| !p.is_empty()).unwrap_or("TCP").to_uppercase()
}

fn url(ip: &str, port: &ServicePort) -> String {
    let host = if ip.contains(':') { format!("[{ip}]") } else { ip.to_owned() };
    format!("{}://{host}:{}", protocol(port).to_lowercase(), port.port)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service(namespace: &str, name: &str, ip: &str) -> Arc<Service> {
        let text = format!(
            r#"{{"metadata":{{"name":"{name}","namespace":"{namespace}"}},"spec":{{"clusterIP":"{ip}",
            "ports":[{{"name":"https","port":443,"protocol":"TCP"}},{{"name":"u-x","port":53,"protocol":"UDP"}}]}}}}"#
        );
        Arc::new(serde_json::from_str(&text).unwrap())
    }

    #[test]
    fn a_service_becomes_upstreams_variables() {
        let got = variables(&[service("ns", "my-web", "10.0.0.5")], "ns", "default", Links::All);
        let wanted = [
            ("MY_WEB_PORT", "tcp://10.0.0.5:443"),
            ("MY_WEB_PORT_443_TCP", "tcp://10.0.0.5:443"),
            ("MY_WEB_PORT_443_TCP_ADDR", "10.0.0.5"),
            ("MY_WEB_PORT_443_TCP_PORT", "443"),
            ("MY_WEB_PORT_443_TCP_PROTO", "tcp"),
            ("MY_WEB_PORT_53_UDP", "udp://10.0.0.5:53"),
            ("MY_WEB_PORT_53_UDP_ADDR", "10.0.0.5"),
            ("MY_WEB_PORT_53_UDP_PORT", "53"),
            ("MY_WEB_PORT_53_UDP_PROTO", "udp"),
            ("MY_WEB_SERVICE_HOST", "10.0.0.5"),
            ("MY_WEB_SERVICE_PORT", "443"),
            ("MY_WEB_SERVICE_PORT_HTTPS", "443"),
            ("MY_WEB_SERVICE_PORT_U_X", "53"),
        ];
        let got: Vec<(&str, &str)> = got.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
        assert_eq!(got, wanted);
    }

    #[test]
    fn only_what_the_pod_may_see() {
        let all = [
            service("default", "kubernetes", "10.0.0.1"),
            service("default", "other", "10.0.0.2"),
            service("ns", "mine", "10.0.0.3"),
            service("ns", "headless", "None"),
        ];
        let hosts = |links| -> Vec<String> {
            variables(&all, "ns", "default", links).into_keys().filter(|k| k.ends_with("_SERVICE_HOST")).collect()
        };
        assert_eq!(hosts(Links::All), ["KUBERNETES_SERVICE_HOST", "MINE_SERVICE_HOST"]);
        assert_eq!(hosts(Links::MasterOnly), ["KUBERNETES_SERVICE_HOST"]);
    }
}
