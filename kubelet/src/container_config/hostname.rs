//! Pod -> its host name and domain.
//!
//! Source: `GeneratePodHostNameAndDomain` in `pkg/kubelet/kubelet_pods.go`, `GetNodenameForKernel` in `pkg/kubelet/util/util_linux.go`.

use api::{
    k8s::api::core::v1::Pod,
    selector::{is_dns_label, is_dns_subdomain},
};

use crate::meta;

const HOSTNAME_MAX: usize = 63;
const FQDN_MAX: usize = 64;
const LABEL: &str = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character";
const SUBDOMAIN: &str = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character";

/// A pod's name on its network. `domain` is empty without a subdomain.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hostname {
    pub host: String,
    pub domain: String,
}

impl Hostname {
    /// # Errors
    /// Upstream's words, where the spec's names are no DNS labels.
    pub fn of(pod: &Pod, cluster_domain: &str) -> Result<Self, String> {
        let spec = pod.spec.as_ref();
        if let Some(name) = spec.and_then(|s| s.hostname_override.as_deref()) {
            if !is_dns_subdomain(name) {
                return Err(format!("pod HostnameOverride {name:?} is not a valid DNS subdomain: {SUBDOMAIN}"));
            }
            return Ok(Self { host: truncated(pod, name)?, domain: String::new() });
        }
        let own = spec.and_then(|s| s.hostname.as_deref()).filter(|n| !n.is_empty());
        if let Some(name) = own.filter(|n| !is_dns_label(n)) {
            return Err(format!("pod Hostname {name:?} is not a valid DNS label: {LABEL}"));
        }
        let host = truncated(pod, own.unwrap_or(meta::name(pod)))?;
        let Some(sub) = spec.and_then(|s| s.subdomain.as_deref()).filter(|n| !n.is_empty()) else {
            return Ok(Self { host, domain: String::new() });
        };
        if !is_dns_label(sub) {
            return Err(format!("pod Subdomain {sub:?} is not a valid DNS label: {LABEL}"));
        }
        Ok(Self { host, domain: format!("{sub}.{}.svc.{cluster_domain}", meta::namespace(pod)) })
    }

    /// The kernel's host name: the short name, or the full one where the pod asks for it.
    ///
    /// # Errors
    /// Upstream's words, where the full name has more than 64 characters.
    pub fn for_kernel(&self, pod: &Pod) -> Result<String, String> {
        let wants_fqdn = pod.spec.as_ref().is_some_and(|s| s.set_hostname_as_fqdn == Some(true));
        if !wants_fqdn || self.domain.is_empty() {
            return Ok(self.host.clone());
        }
        let fqdn = format!("{}.{}", self.host, self.domain);
        if fqdn.len() > FQDN_MAX {
            let requested = fqdn.len();
            return Err(format!(
                "failed to construct FQDN from pod hostname and cluster domain, FQDN {fqdn} is too long ({FQDN_MAX} characters is the max, {requested} characters requested)"
            ));
        }
        Ok(fqdn)
    }
}

fn truncated(pod: &Pod, name: &str) -> Result<String, String> {
    if name.len() <= HOSTNAME_MAX {
        return Ok(name.to_owned());
    }
    let short = name.get(..HOSTNAME_MAX).unwrap_or_default().trim_end_matches(['-', '.']);
    if short.is_empty() { Err(format!("hostname for pod {:?} was invalid: {name:?}", meta::name(pod))) } else { Ok(short.to_owned()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::container_config::testing::pod;

    #[test]
    fn names_and_domains() {
        let of = |spec: &str| Hostname::of(&pod(spec), "cluster.local").unwrap();
        assert_eq!(of(r#"{"containers":[]}"#), Hostname { host: "web".into(), domain: String::new() });
        let full = of(r#"{"containers":[],"hostname":"h","subdomain":"s"}"#);
        assert_eq!(full, Hostname { host: "h".into(), domain: "s.default.svc.cluster.local".into() });
        assert!(Hostname::of(&pod(r#"{"containers":[],"hostname":"H"}"#), "c").is_err());
        assert_eq!(of(r#"{"containers":[],"hostnameOverride":"a.b"}"#).host, "a.b");
    }

    #[test]
    fn long_names_are_cut_without_a_dash_at_the_end() {
        let mut p = pod(r#"{"containers":[]}"#);
        p.metadata.name = Some(format!("{}-{}", "a".repeat(62), "b".repeat(10)));
        assert_eq!(Hostname::of(&p, "c").unwrap().host, "a".repeat(62));
    }

    #[test]
    fn the_kernel_gets_the_full_name_where_asked() {
        let p = pod(r#"{"containers":[],"hostname":"h","subdomain":"s","setHostnameAsFQDN":true}"#);
        assert_eq!(Hostname::of(&p, "c.l").unwrap().for_kernel(&p).unwrap(), "h.s.default.svc.c.l");
        assert!(Hostname::of(&p, &"x".repeat(60)).unwrap().for_kernel(&p).unwrap_err().contains("too long"));
    }
}
