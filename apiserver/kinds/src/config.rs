//! Flags -> what strategies must know of the cluster: address ranges, ports, names.

use std::{
    net::{IpAddr, Ipv4Addr},
    ops::RangeInclusive,
};

use ipnet::{IpNet, Ipv4Net};

/// As kubeadm has it.
const DEFAULT_SERVICE_CIDR: IpNet = IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::new(10, 96, 0, 0), 12));

/// What the server's flags say that strategies depend on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// `--service-cluster-ip-range`: cluster IPs come from here, one range of each family; the first one's family is the default, and its first address
    /// is the `kubernetes` Service.
    pub service_cidrs: Vec<IpNet>,
    /// `--service-node-port-range`.
    pub node_ports: RangeInclusive<u16>,
    /// `--cluster-domain`.
    pub cluster_domain: String,
}

impl Config {
    /// The address of the `kubernetes` Service: the first after the network address.
    pub fn kubernetes_address(&self) -> IpAddr {
        self.service_address(1)
    }

    /// So many addresses after the network address of the first range.
    pub fn service_address(&self, offset: u16) -> IpAddr {
        match self.default_service_cidr().network() {
            IpAddr::V4(base) => IpAddr::V4((u32::from(base).saturating_add(offset.into())).into()),
            IpAddr::V6(base) => IpAddr::V6((u128::from(base).saturating_add(offset.into())).into()),
        }
    }

    /// That of Services that ask for no family.
    pub fn default_service_cidr(&self) -> IpNet {
        self.service_cidrs.first().copied().unwrap_or(DEFAULT_SERVICE_CIDR)
    }
}

impl Default for Config {
    fn default() -> Self {
        Self { service_cidrs: vec![DEFAULT_SERVICE_CIDR], node_ports: 30000..=32767, cluster_domain: "cluster.local".into() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kubernetes_is_the_first_address() {
        assert_eq!(Config::default().kubernetes_address().to_string(), "10.96.0.1");
        let six = Config { service_cidrs: vec!["fd00::/112".parse().unwrap()], ..Config::default() };
        assert_eq!(six.kubernetes_address().to_string(), "fd00::1");
    }
}
