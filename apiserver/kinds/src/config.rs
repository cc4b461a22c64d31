//! Flags -> what strategies must know of the cluster: address ranges, ports, names.

use std::{net::IpAddr, ops::RangeInclusive};

use ipnet::IpNet;

/// What the server's flags say that strategies depend on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// `--service-cluster-ip-range`: cluster IPs come from here; its first address is the `kubernetes` Service.
    pub service_cidr: IpNet,
    /// `--service-node-port-range`.
    pub node_ports: RangeInclusive<u16>,
    /// `--cluster-domain`.
    pub cluster_domain: String,
}

impl Config {
    /// The address of the `kubernetes` Service: the first after the network address.
    pub fn kubernetes_address(&self) -> IpAddr {
        match self.service_cidr.network() {
            IpAddr::V4(base) => IpAddr::V4((u32::from(base).saturating_add(1)).into()),
            IpAddr::V6(base) => IpAddr::V6((u128::from(base).saturating_add(1)).into()),
        }
    }
}

impl Default for Config {
    fn default() -> Self {
        let service_cidr = "10.96.0.0/12".parse().expect("a constant network is well-formed");
        Self { service_cidr, node_ports: 30000..=32767, cluster_domain: "cluster.local".into() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kubernetes_is_the_first_address() {
        assert_eq!(Config::default().kubernetes_address().to_string(), "10.96.0.1");
        let six = Config { service_cidr: "fd00::/112".parse().unwrap(), ..Config::default() };
        assert_eq!(six.kubernetes_address().to_string(), "fd00::1");
    }
}
