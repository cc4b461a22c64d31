//! Leases and statuses of nodes -> when each was last heard of, by our own clock: nodes' clocks are not trusted, only that they move.
//!
//! What is seen first counts as heard at that moment: after a start nobody is silent until a whole grace period has passed.

use std::collections::HashMap;

use api::{
    k8s::api::{
        coordination::v1::Lease,
        core::v1::{Node, NodeCondition},
    },
    time::Timestamp,
};
use client::kube::ResourceExt;
use tokio::time::Instant;

use super::condition;

#[derive(Default)]
pub struct Signs {
    nodes: HashMap<String, Sign>,
    /// Renewals of nodes that are not known yet.
    leases: HashMap<String, Timestamp>,
}

struct Sign {
    uid: Option<String>,
    /// What the node said of itself last.
    said: Option<Said>,
    heard: Instant,
}

/// Status and time of its condition `Ready`.
type Said = (String, Option<Timestamp>);

impl Signs {
    /// A node as it is now. What the control plane writes about it is no sign of life.
    pub fn reported(&mut self, node: &Node, now: Instant) {
        let said = condition(node, "Ready").and_then(said);
        let sign = self.nodes.entry(node.name_any()).or_insert_with(|| Sign { uid: node.uid(), said: said.clone(), heard: now });
        if sign.uid != node.uid() || (said.is_some() && said != sign.said) {
            sign.heard = now;
        }
        (sign.uid, sign.said) = (node.uid(), said);
    }

    /// A node's lease as it is now.
    pub fn renewed(&mut self, lease: &Lease, now: Instant) {
        let name = lease.name_any();
        let Some(at) = lease.spec.as_ref().and_then(|s| s.renew_time.as_ref()).map(|t| t.0) else { return };
        let moved = self.leases.get(&name) != Some(&at);
        if moved && let Some(sign) = self.nodes.get_mut(&name) {
            sign.heard = now;
        }
        if moved {
            self.leases.insert(name, at);
        }
    }

    pub fn forget(&mut self, node: &str) {
        self.nodes.remove(node);
    }

    pub fn forget_lease(&mut self, lease: &Lease) {
        self.leases.remove(&lease.name_any());
    }

    pub fn heard(&self, node: &str) -> Option<Instant> {
        self.nodes.get(node).map(|sign| sign.heard)
    }
}

/// Kubelets say True or False; Unknown is said of them.
fn said(ready: &NodeCondition) -> Option<Said> {
    (ready.status != "Unknown").then(|| (ready.status.clone(), ready.last_heartbeat_time.as_ref().map(|t| t.0)))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use serde_json::json;

    fn node(ready: &str, heartbeat: &str) -> Node {
        let ready = json!({"type": "Ready", "status": ready, "lastHeartbeatTime": heartbeat});
        serde_json::from_value(json!({"metadata": {"name": "n", "uid": "u"}, "status": {"conditions": [ready]}})).unwrap()
    }

    fn lease(renewed: &str) -> Lease {
        serde_json::from_value(json!({"metadata": {"name": "n"}, "spec": {"renewTime": renewed}})).unwrap()
    }

    #[test]
    fn what_moves_is_alive_whatever_its_clock_says() {
        let (start, mut signs) = (Instant::now(), Signs::default());
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut heard = |step: u64, sign: &dyn Fn(&mut Signs, Instant)| {
            sign(&mut signs, at(step));
            signs.heard("n").map(|heard| (heard - start).as_secs())
        };
        assert_eq!(heard(1, &|s, now| s.renewed(&lease("2026-01-01T00:00:00Z"), now)), None, "no such node yet");
        assert_eq!(heard(2, &|s, now| s.reported(&node("True", "2020-01-01T00:00:00Z"), now)), Some(2), "an old object, seen first");
        assert_eq!(heard(3, &|s, now| s.reported(&node("True", "2020-01-01T00:00:00Z"), now)), Some(2), "nothing new");
        assert_eq!(heard(4, &|s, now| s.renewed(&lease("2026-01-01T00:00:00Z"), now)), Some(2), "known from before");
        assert_eq!(heard(5, &|s, now| s.renewed(&lease("1999-01-01T00:00:00Z"), now)), Some(5), "set back, and alive");
        assert_eq!(heard(6, &|s, now| s.renewed(&lease("2099-01-01T00:00:00Z"), now)), Some(6), "years ahead");
        assert_eq!(heard(7, &|s, now| s.reported(&node("Unknown", "2026-01-01T00:00:00Z"), now)), Some(6), "said of it, not by it");
        assert_eq!(heard(8, &|s, now| s.reported(&node("True", "2020-01-01T00:00:00Z"), now)), Some(8), "back");
    }
}
