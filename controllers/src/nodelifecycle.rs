//! A node that falls silent -> Ready Unknown, its taints, its pods not ready. Source: `pkg/controller/nodelifecycle`.

use std::{collections::HashMap, sync::Arc, time::Duration};

use api::{
    Key,
    k8s::{
        api::{
            coordination::v1::Lease,
            core::v1::{Node, NodeCondition, Taint},
        },
        apimachinery::pkg::apis::meta::v1::Time,
    },
    time::{Timestamp, rfc3339},
};
use client::{Cache, Caches, kube, pods::Pod};
use kube::ResourceExt;
use parking_lot::Mutex;
use reconcile::{Action, Loop, Plan, Wake, own_key};
use serde_json::json;

use crate::{
    index::{Index, by_node},
    replicas::ready_since,
};

const LEASES: &str = "kube-node-lease";
/// `--node-monitor-grace-period`.
const GRACE_SECONDS: i64 = 50;
/// `--node-startup-grace-period`.
const STARTUP_SECONDS: i64 = 60;
/// Conditions a silent node can no longer vouch for.
const VOUCHED: [&str; 4] = ["Ready", "MemoryPressure", "DiskPressure", "PIDPressure"];
pub const NOT_READY: &str = "node.kubernetes.io/not-ready";
pub const UNREACHABLE: &str = "node.kubernetes.io/unreachable";
const UNSCHEDULABLE: &str = "node.kubernetes.io/unschedulable";

pub struct NodeLifecycle {
    nodes: Cache<Node>,
    leases: Cache<Lease>,
    pods: Index<Pod, String>,
    /// Per node: the last sign of life, and when we saw it. Nodes' clocks are not trusted.
    signs: Mutex<HashMap<String, (String, Timestamp)>>,
}

pub struct World {
    node: Arc<Node>,
    pods: Vec<Arc<Pod>>,
    /// When the node last showed a sign of life, by our own clock.
    heard: Timestamp,
    now: Timestamp,
}

impl NodeLifecycle {
    pub fn new(caches: &Caches) -> Self {
        Self { nodes: caches.of(), leases: caches.of(), pods: by_node(&caches.of()), signs: Mutex::default() }
    }

    fn heard(&self, node: &Node, now: Timestamp) -> Timestamp {
        let lease = self.leases.get(&Key::new(LEASES, &node.name_any()));
        let renewed = lease.and_then(|l| l.spec.as_ref()?.renew_time.clone()).map(|t| t.0.to_string());
        let reported = condition(node, "Ready").and_then(|c| c.last_heartbeat_time.as_ref()).map(|t| t.0.to_string());
        let sign = format!("{renewed:?} {reported:?}");
        let mut signs = self.signs.lock();
        let known = signs.entry(node.name_any()).or_insert_with(|| (sign.clone(), now));
        if known.0 != sign {
            *known = (sign, now);
        }
        known.1
    }
}

impl Loop for NodeLifecycle {
    type World = World;

    fn name(&self) -> &'static str {
        "node-lifecycle-controller"
    }

    fn wire(&self, wake: &Wake) {
        wake.on_own(&self.nodes);
        wake.on(&self.leases, |lease, wake| {
            let key = own_key(lease);
            if key.namespace == LEASES {
                wake(Key::new("", &key.name));
            }
        });
    }

    async fn look(&self, key: &Key) -> Option<World> {
        let Some(node) = self.nodes.get(key) else {
            self.signs.lock().remove(&key.name);
            return None;
        };
        let now = Timestamp::now();
        let heard = self.heard(&node, now);
        Some(World { pods: self.pods.at(&key.name), heard, node, now })
    }

    fn plan(&self, world: &World, _: &Key) -> Plan {
        plan(world)
    }
}

fn plan(world: &World) -> Plan {
    let mut node = (*world.node).clone();
    let grace = if condition(&node, "Ready").is_some() { GRACE_SECONDS } else { STARTUP_SECONDS };
    let left = grace - (world.now.as_second() - world.heard.as_second());
    let mut actions = Vec::new();
    if left <= 0
        && let Some(conditions) = silenced(&node, world.now)
    {
        let patch = json!({"status": {"conditions": conditions}});
        actions.push(Action::patch_status(&node, patch));
        actions.push(Action::normal(&node, "NodeNotReady", format!("Node {} status is now: NodeNotReady", node.name_any())));
        node.status.get_or_insert_default().conditions = Some(conditions);
    }
    actions.extend(taints(&node, world.now));
    if condition(&node, "Ready").is_some_and(|c| c.status != "True") {
        actions.extend(world.pods.iter().filter(|pod| ready_since(pod).is_some()).flat_map(|pod| not_ready(pod, world.now)));
    }
    let plan = Plan::act(actions);
    if left > 0 { plan.again_in(Duration::from_secs(left.unsigned_abs())) } else { plan }
}

fn condition<'a>(node: &'a Node, kind: &str) -> Option<&'a NodeCondition> {
    node.status.as_ref()?.conditions.as_ref()?.iter().find(|c| c.type_ == kind)
}

/// The conditions of a node nobody hears of; `None` if they say so already.
fn silenced(node: &Node, now: Timestamp) -> Option<Vec<NodeCondition>> {
    let mut conditions = node.status.as_ref().and_then(|s| s.conditions.clone()).unwrap_or_default();
    let mut changed = false;
    for kind in VOUCHED {
        let found = conditions.iter_mut().find(|c| c.type_ == kind);
        let never = found.is_none();
        let (reason, message) = if never {
            ("NodeStatusNeverUpdated", "Kubelet never posted node status.")
        } else {
            ("NodeStatusUnknown", "Kubelet stopped posting node status.")
        };
        let unknown = NodeCondition {
            type_: kind.into(),
            status: "Unknown".into(),
            reason: Some(reason.into()),
            message: Some(message.into()),
            last_heartbeat_time: found.as_ref().and_then(|c| c.last_heartbeat_time.clone()),
            last_transition_time: Some(Time(now)),
        };
        match found {
            Some(condition) if condition.status == "Unknown" => continue,
            Some(condition) => *condition = unknown,
            None => conditions.push(unknown),
        }
        changed = true;
    }
    changed.then_some(conditions)
}

/// The taints that follow from the conditions; others are left alone.
fn taints(node: &Node, now: Timestamp) -> Option<Action> {
    let current = node.spec.as_ref().and_then(|s| s.taints.clone()).unwrap_or_default();
    let wanted = wanted_taints(node);
    let managed = |t: &Taint| MANAGED.contains(&t.key.as_str()) && (t.effect == "NoSchedule" || is_condition_taint(t));
    let has = |list: &[(&str, &str)], t: &Taint| list.iter().any(|(k, e)| *k == t.key && *e == t.effect);
    let mut next: Vec<Taint> = current.iter().filter(|t| !managed(t) || has(&wanted, t)).cloned().collect();
    for (key, effect) in &wanted {
        if !next.iter().any(|t| t.key == *key && t.effect == *effect) {
            let time_added = (*effect == "NoExecute").then_some(Time(now));
            next.push(Taint { key: (*key).into(), effect: (*effect).into(), time_added, value: None });
        }
    }
    (next != current)
        .then(|| Action::patch(node, json!({"spec": {"taints": next}, "metadata": {"resourceVersion": node.resource_version()}})))
}

const MANAGED: [&str; 7] = [
    NOT_READY,
    UNREACHABLE,
    UNSCHEDULABLE,
    "node.kubernetes.io/memory-pressure",
    "node.kubernetes.io/disk-pressure",
    "node.kubernetes.io/pid-pressure",
    "node.kubernetes.io/network-unavailable",
];

fn is_condition_taint(taint: &Taint) -> bool {
    taint.effect == "NoExecute" && (taint.key == NOT_READY || taint.key == UNREACHABLE)
}

fn wanted_taints(node: &Node) -> Vec<(&'static str, &'static str)> {
    let mut wanted = Vec::new();
    match condition(node, "Ready").map(|c| c.status.as_str()) {
        Some("False") => wanted.extend([(NOT_READY, "NoSchedule"), (NOT_READY, "NoExecute")]),
        Some("Unknown") => wanted.extend([(UNREACHABLE, "NoSchedule"), (UNREACHABLE, "NoExecute")]),
        _ => {}
    }
    let pressures = ["MemoryPressure", "DiskPressure", "PIDPressure", "NetworkUnavailable"];
    for (kind, key) in pressures.iter().zip(&MANAGED[3..]) {
        if condition(node, kind).is_some_and(|c| c.status == "True") {
            wanted.push((*key, "NoSchedule"));
        }
    }
    if node.spec.as_ref().and_then(|s| s.unschedulable) == Some(true) {
        wanted.push((UNSCHEDULABLE, "NoSchedule"));
    }
    wanted
}

fn not_ready(pod: &Pod, now: Timestamp) -> Vec<Action> {
    let mut conditions = pod.status.as_ref().and_then(|s| s.conditions.clone()).unwrap_or_default();
    for condition in conditions.iter_mut().filter(|c| c.type_ == "Ready") {
        condition.status = "False".into();
        condition.last_transition_time = Some(Time(now));
    }
    let metadata = json!({"resourceVersion": pod.resource_version()});
    let patch = json!({"metadata": metadata, "status": {"conditions": conditions}});
    vec![Action::patch_status(pod, patch), Action::warning(pod, "NodeNotReady", "Node is not ready")]
}

/// For conditions that are put into a pod's status by name.
pub fn disruption(reason: &str, message: &str, now: Timestamp) -> serde_json::Value {
    json!({"type": "DisruptionTarget", "status": "True", "reason": reason, "message": message, "lastTransitionTime": rfc3339(now)})
}

#[cfg(test)]
mod tests {
    use super::*;

    fn world(ready: &str, silent_seconds: i64) -> World {
        let node = json!({
            "metadata": {"name": "n1", "uid": "u", "resourceVersion": "5"}, "spec": {"taints": [{"key": "mine", "effect": "NoSchedule"}]},
            "status": {"conditions": [{"type": "Ready", "status": ready}]},
        });
        let pod = json!({"metadata": {"name": "p", "namespace": "d", "uid": "p"},
            "status": {"conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"}]}});
        let now = Timestamp::from_second(1_000_000).unwrap();
        World {
            node: Arc::new(serde_json::from_value(node).unwrap()),
            pods: vec![Arc::new(serde_json::from_value(pod).unwrap())],
            heard: Timestamp::from_second(1_000_000 - silent_seconds).unwrap(),
            now,
        }
    }

    fn taint_keys(plan: &Plan) -> Vec<String> {
        let patch = |a: &Action| match a {
            Action::Patch { patch, .. } => patch.pointer("/spec/taints").cloned(),
            _ => None,
        };
        let taints: Vec<Taint> = plan.actions.iter().find_map(patch).map(|t| serde_json::from_value(t).unwrap()).unwrap_or_default();
        taints.into_iter().map(|t| format!("{}:{}", t.key, t.effect)).collect()
    }

    #[test]
    fn a_node_that_speaks_is_left_alone() {
        let plan = plan(&world("True", 10));
        assert!(plan.actions.is_empty(), "{plan:?}");
        assert_eq!(plan.again, Some(Duration::from_secs(40)));
    }

    #[test]
    fn a_silent_node_is_tainted_and_its_pods_are_not_ready() {
        let plan = plan(&world("True", 60));
        let keys = taint_keys(&plan);
        assert_eq!(keys, ["mine:NoSchedule", &format!("{UNREACHABLE}:NoSchedule"), &format!("{UNREACHABLE}:NoExecute")]);
        let statuses = plan.actions.iter().filter(|a| matches!(a, Action::Patch { path, .. } if path.ends_with("/status"))).count();
        assert_eq!(statuses, 2, "the node's and the pod's");
    }

    #[test]
    fn a_node_that_says_it_is_not_ready_is_tainted_so() {
        let keys = taint_keys(&plan(&world("False", 1)));
        assert!(keys.contains(&format!("{NOT_READY}:NoExecute")), "{keys:?}");
    }
}
