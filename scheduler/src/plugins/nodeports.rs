//! NodePorts: a host port is had once per node. Source: `plugins/nodeports`.

use podspec::HostPort;

use super::sign;
use crate::{
    framework::{Change, Plugin},
    node::NodeInfo,
    pod::PodInfo,
    refusal::Refusal,
};

pub struct NodePorts;

impl Plugin for NodePorts {
    fn name(&self) -> &'static str {
        "NodePorts"
    }

    fn sign(&self, pod: &PodInfo, signature: &mut Vec<u8>) {
        let ports: Vec<_> = pod.ports.iter().map(|p| (&p.ip, &p.protocol, p.port)).collect();
        sign(signature, &ports);
    }

    fn filter(&self, pod: &PodInfo, node: &NodeInfo) -> Option<Refusal> {
        let taken = conflict(&pod.ports, &node.ports);
        taken.then(|| Refusal::resolvable(self.name(), "node(s) didn't have free ports for the requested pod ports"))
    }

    fn queueing_hint(&self, pod: &PodInfo, change: &Change<'_>) -> bool {
        match change {
            Change::NodeAdded(_) => true,
            Change::PodGone(gone, _) => conflict(&pod.ports, &gone.ports),
            _ => false,
        }
    }
}

fn conflict(wanted: &[HostPort], used: &[HostPort]) -> bool {
    wanted.iter().any(|w| used.iter().any(|u| u.conflicts(w)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::{node_info, pod};
    use serde_json::{Value, json};
    use std::sync::Arc;

    fn with_port(port: &Value) -> PodInfo {
        pod(&json!({"spec": {"containers": [{"name": "c", "ports": [port]}]}}))
    }

    #[test]
    fn ports_conflict_by_number_protocol_and_address() {
        let snapshot = [
            (json!({"containerPort": 80}), true),
            (json!({"containerPort": 80, "hostPort": 80}), false),
            (json!({"containerPort": 80, "hostPort": 81}), true),
            (json!({"containerPort": 80, "hostPort": 80, "protocol": "UDP"}), true),
            (json!({"containerPort": 80, "hostPort": 80, "hostIP": "127.0.0.1"}), false),
            (json!({"containerPort": 80, "hostPort": 90, "hostIP": "127.0.0.1"}), true),
        ];
        let mut node = node_info(&json!({"metadata": {"name": "a"}}));
        node.add(&Arc::new(with_port(&json!({"containerPort": 80, "hostPort": 80}))));
        node.add(&Arc::new(with_port(&json!({"containerPort": 80, "hostPort": 90, "hostIP": "10.0.0.1"}))));
        for (port, fits) in snapshot {
            assert_eq!(NodePorts.filter(&with_port(&port), &node).is_none(), fits, "{port}");
        }
    }
}
