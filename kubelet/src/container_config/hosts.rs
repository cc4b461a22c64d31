//! Pod -> /etc/hosts: the file that the kubelet keeps for each pod.
//!
//! Source: `ensureHostsFile` in `pkg/kubelet/kubelet_pods.go`.

use std::{fmt::Write as _, fs, io, os::unix::fs::PermissionsExt, path::Path};

use api::k8s::api::core::v1::Pod;

use super::hostname::Hostname;
use crate::meta;

const HEADER: &str = "# Kubernetes-managed hosts file.\n";
const HEADER_HOST_NETWORK: &str = "# Kubernetes-managed hosts file (host network).\n";
const LOCAL: &str = "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\nfe00::0\tip6-localnet\nfe00::0\tip6-mcastprefix\nfe00::1\tip6-allnodes\nfe00::2\tip6-allrouters\n";

/// The file's text for a pod with its own network.
pub fn managed(pod: &Pod, ips: &[String], name: &Hostname) -> String {
    let mut text = format!("{HEADER}{LOCAL}");
    for ip in ips {
        let _ = match name.domain.is_empty() {
            true => writeln!(text, "{ip}\t{}", name.host),
            false => writeln!(text, "{ip}\t{0}.{1}\t{0}", name.host, name.domain),
        };
    }
    text + &aliases(pod)
}

/// The file's text for a pod on the node's network: the node's own file, and the pod's aliases.
pub fn of_host(pod: &Pod, node_file: &str) -> String {
    format!("{HEADER_HOST_NETWORK}{node_file}{}", aliases(pod))
}

/// Writes the file with mode 0644.
///
/// # Errors
/// What the file system says.
pub fn write(path: &Path, pod: &Pod, ips: &[String], name: &Hostname) -> io::Result<()> {
    let text = if meta::host_network(pod) { of_host(pod, &fs::read_to_string("/etc/hosts")?) } else { managed(pod, ips, name) };
    fs::write(path, text)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o644))
}

fn aliases(pod: &Pod) -> String {
    let list = pod.spec.as_ref().and_then(|s| s.host_aliases.as_deref()).unwrap_or_default();
    if list.is_empty() {
        return String::new();
    }
    let mut text = "\n# Entries added by HostAliases.\n".to_owned();
    for alias in list {
        let _ = writeln!(text, "{}\t{}", alias.ip, alias.hostnames.as_deref().unwrap_or_default().join("\t"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::container_config::testing::pod;

    #[test]
    fn the_file_names_the_pod_and_its_aliases() {
        let p = pod(r#"{"containers":[],"hostAliases":[{"ip":"1.2.3.4","hostnames":["a","b"]}]}"#);
        let name = Hostname { host: "h".into(), domain: "s.ns.svc.c".into() };
        let text = managed(&p, &["10.0.0.1".into()], &name);
        assert!(text.starts_with("# Kubernetes-managed hosts file.\n127.0.0.1\tlocalhost\n"));
        assert!(text.contains("10.0.0.1\th.s.ns.svc.c\th\n"));
        assert!(text.ends_with("\n# Entries added by HostAliases.\n1.2.3.4\ta\tb\n"));
        assert_eq!(of_host(&pod(r#"{"containers":[]}"#), "x\n"), "# Kubernetes-managed hosts file (host network).\nx\n");
    }
}
