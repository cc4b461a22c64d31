//! Ports of containers -> those of the node. Source: scheduler `util/utils.go` (`GetHostPorts`), kube-scheduler `framework/types.go` (`HostPortInfo`).

use crate::{ContainerView, SpecView, running};

const ANY: &str = "0.0.0.0";

/// What can be had once on a node.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct HostPort {
    pub ip: String,
    pub protocol: String,
    pub port: i32,
}

/// Those of the containers that run for as long as the pod does.
pub fn host_ports<S: SpecView>(spec: &S) -> Vec<HostPort> {
    let or = |text: &str, default: &str| if text.is_empty() { default.to_owned() } else { text.to_owned() };
    let stated = running(spec).flat_map(ContainerView::host_ports).filter(|(port, ..)| *port > 0);
    stated.map(|(port, ip, protocol)| HostPort { ip: or(ip, ANY), protocol: or(protocol, "TCP"), port }).collect()
}

impl HostPort {
    /// Two pods cannot have both on one node.
    pub fn conflicts(&self, other: &Self) -> bool {
        self.port == other.port && self.protocol == other.protocol && (self.ip == other.ip || self.ip == ANY || other.ip == ANY)
    }
}
