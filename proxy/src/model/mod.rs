//! Service + slices + node -> service ports: what this node shall let through to where. Pure; names no back end.

use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;

use crate::family::Family;

mod backends;
mod plan;
#[cfg(test)]
mod scale;

pub use plan::service_ports;

/// What of this node matters.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Node {
    pub name: String,
    /// Label `topology.kubernetes.io/zone`; empty if it has none.
    pub zone: String,
    /// Service addresses that this node answers itself (cluster DNS): no service port is made for them.
    pub answered_here: Vec<IpAddr>,
    /// UDP, where other nodes' packets for pods arrive.
    pub vxlan_port: Option<u16>,
}

/// What of the node the rules of one family speak of: all addresses are of that family.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeNetwork {
    pub family: Family,
    pub cluster_cidr: Option<IpNet>,
    /// This node's addresses.
    pub node_ips: Vec<IpAddr>,
    /// Service addresses where this node serves DNS itself.
    pub answered_here: Vec<IpAddr>,
    /// UDP, where other nodes' packets for pods arrive.
    pub vxlan_port: Option<u16>,
}

/// Where a packet may end up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Endpoint {
    pub ip: IpAddr,
    pub port: u16,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    Tcp,
    Udp,
    Sctp,
}

/// Which endpoints traffic may go to (`internalTrafficPolicy`, `externalTrafficPolicy`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Policy {
    Cluster,
    Local,
}

/// One port of one service, as this node shall serve it to one family: all addresses are of that family.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServicePort {
    /// `namespace/name:port`, without the colon where the port has no name.
    pub name: String,
    pub protocol: Protocol,
    pub cluster_ip: IpAddr,
    pub port: u16,
    pub node_port: Option<u16>,
    pub external_ips: Vec<IpAddr>,
    pub balancer_ips: Vec<IpAddr>,
    /// Who may use the balancer's addresses; empty: everybody.
    pub source_ranges: Vec<IpNet>,
    /// Seconds for which a client stays with its endpoint.
    pub affinity_seconds: Option<u32>,
    pub internal: Policy,
    pub external: Policy,
    pub health_port: Option<u16>,
    pub backends: Backends,
}

/// The endpoints of a service port by what they may be used for, each list sorted. Source: upstream's `CategorizeEndpoints`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Backends {
    /// For the policy Cluster.
    pub cluster: Vec<Endpoint>,
    /// For the policy Local.
    pub local: Vec<Endpoint>,
    /// Whether there are any at all, on any node.
    pub any: bool,
}

impl NodeNetwork {
    /// Nothing is known of the node yet.
    pub fn of(family: Family) -> Self {
        Self { family, cluster_cidr: None, node_ips: Vec::new(), answered_here: Vec::new(), vxlan_port: None }
    }
}

/// `10.0.0.1:80`, `[fd00::1]:80`.
impl std::fmt::Display for Endpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        SocketAddr::new(self.ip, self.port).fmt(f)
    }
}

impl Protocol {
    pub fn word(self) -> &'static str {
        match self {
            Protocol::Tcp => "tcp",
            Protocol::Udp => "udp",
            Protocol::Sctp => "sctp",
        }
    }
}

impl ServicePort {
    pub fn is_external(&self) -> bool {
        self.node_port.is_some() || !self.balancer_ips.is_empty() || !self.external_ips.is_empty()
    }

    /// Also with the external policy Local: traffic that starts on this node goes anywhere.
    pub fn uses_cluster(&self) -> bool {
        self.internal == Policy::Cluster || self.is_external()
    }

    pub fn uses_local(&self) -> bool {
        self.internal == Policy::Local || (self.external == Policy::Local && self.is_external())
    }

    /// All endpoints that this service port can lead to, sorted.
    pub fn reachable(&self) -> Vec<Endpoint> {
        let cluster = self.backends.cluster.iter().filter(|_| self.uses_cluster());
        let local = self.backends.local.iter().filter(|_| self.uses_local());
        let mut all: Vec<Endpoint> = cluster.chain(local).copied().collect();
        all.sort_unstable();
        all.dedup();
        all
    }
}

/// `None` for a protocol that is none; absent reads as TCP.
pub fn protocol_of(word: Option<&str>) -> Option<Protocol> {
    match word.unwrap_or("TCP") {
        "TCP" => Some(Protocol::Tcp),
        "UDP" => Some(Protocol::Udp),
        "SCTP" => Some(Protocol::Sctp),
        _ => None,
    }
}
