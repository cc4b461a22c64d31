//! Names and addresses that no node's certificate may bear: those of the API server, of services and pods, and those that mean every machine itself.

use std::net::IpAddr;

use ipnet::IpNet;

/// What the cluster itself answers under.
#[derive(Clone, Debug, Default)]
pub struct Reserved {
    /// As API servers' certificates have them.
    pub names: Vec<String>,
    pub addresses: Vec<IpAddr>,
    /// Of services and of pods.
    pub ranges: Vec<IpNet>,
    /// The cluster's domain (`cluster.local`).
    pub domain: String,
}

impl Reserved {
    /// Why a node cannot be called so; `None` if it can.
    pub fn name(&self, name: &str) -> Option<&'static str> {
        let name = name.trim_end_matches('.').to_ascii_lowercase();
        let within = |domain: &str| name == domain || name.strip_suffix(domain).is_some_and(|rest| rest.ends_with('.'));
        match () {
            () if name.is_empty() || name.contains('*') => Some("it stands for many"),
            () if within("localhost") => Some("it is every machine's own"),
            () if self.names.iter().any(|own| own.eq_ignore_ascii_case(&name)) => Some("it is a name of the API server"),
            () if name == "kubernetes" || within("svc") || name.starts_with("kubernetes.default") => Some("it is a service's"),
            () if !self.domain.is_empty() && within(&self.domain.to_ascii_lowercase()) => Some("it is of the cluster's domain"),
            () => None,
        }
    }

    /// The same of an address.
    pub fn address(&self, address: IpAddr) -> Option<&'static str> {
        let address = address.to_canonical();
        let is_link_local = match address {
            IpAddr::V4(v4) => v4.is_link_local() || v4.is_broadcast(),
            IpAddr::V6(v6) => v6.is_unicast_link_local(),
        };
        match () {
            () if address.is_loopback() || address.is_unspecified() || address.is_multicast() || is_link_local => {
                Some("it is every machine's own, or nobody's")
            }
            () if self.addresses.iter().any(|own| own.to_canonical() == address) => Some("it is an address of the API server"),
            () if self.ranges.iter().any(|range| range.contains(&address)) => Some("it is an address of services or of pods"),
            () => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reserved() -> Reserved {
        Reserved {
            names: vec!["master-1".into(), "api.example".into()],
            addresses: vec!["192.0.2.1".parse().unwrap()],
            ranges: vec!["10.96.0.0/16".parse().unwrap(), "10.244.0.0/16".parse().unwrap()],
            domain: "cluster.local".into(),
        }
    }

    #[test]
    fn what_is_the_clusters_is_no_nodes() {
        let reserved = reserved();
        for good in ["node-1", "node-1.example", "svc-1", "mysvc", "kubernetes-node", "notcluster.local"] {
            assert_eq!(reserved.name(good), None, "{good}");
        }
        for bad in [
            "",
            "*.example",
            "localhost",
            "a.localhost",
            "Master-1",
            "api.example.",
            "kubernetes",
            "kubernetes.default",
            "kubernetes.default.svc",
            "x.y.svc",
            "x.svc.cluster.local",
            "cluster.local",
            "node.Cluster.Local",
        ] {
            assert!(reserved.name(bad).is_some(), "{bad}");
        }
        assert_eq!(reserved.address("192.0.2.9".parse().unwrap()), None);
        for bad in [
            "192.0.2.1",
            "::ffff:192.0.2.1",
            "10.96.0.1",
            "10.244.3.4",
            "127.0.0.1",
            "::1",
            "0.0.0.0",
            "169.254.169.254",
            "fe80::1",
            "224.0.0.1",
        ] {
            assert!(reserved.address(bad.parse().unwrap()).is_some(), "{bad}");
        }
    }
}
