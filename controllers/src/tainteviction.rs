//! A NoExecute taint -> pods that do not tolerate it deleted, when their time is up. Source: `pkg/controller/tainteviction`.

use std::{sync::Arc, time::Duration};

use api::{
    Key,
    k8s::api::core::v1::{Node, Taint, Toleration},
    time::Timestamp,
};
use client::{Cache, Caches, kube, pods::Pod};
use kube::ResourceExt;
use reconcile::{Action, Loop, Plan, Wake, own_key};
use serde_json::json;

use crate::{
    index::{Index, by_node},
    nodelifecycle::disruption,
};

pub struct TaintEviction {
    pods: Cache<Pod>,
    nodes: Cache<Node>,
    on_node: Arc<Index<Pod, String>>,
}

pub struct World {
    pod: Arc<Pod>,
    taints: Vec<Taint>,
    now: Timestamp,
}

impl TaintEviction {
    pub fn new(caches: &Caches) -> Self {
        let pods = caches.of::<Pod>();
        Self { on_node: Arc::new(by_node(&pods)), pods, nodes: caches.of() }
    }
}

impl Loop for TaintEviction {
    type World = World;

    fn name(&self) -> &'static str {
        "taint-eviction-controller"
    }

    fn wire(&self, wake: &Wake) {
        let nodes = self.nodes.clone();
        wake.on(&self.pods, move |pod, wake| {
            let node = pod.spec.as_ref().and_then(|s| s.node_name.as_deref()).unwrap_or("");
            if nodes.get(&Key::new("", node)).is_some_and(|n| no_execute(&n).next().is_some()) {
                wake(own_key(pod));
            }
        });
        let (handle, on_node) = (wake.handle(), self.on_node.clone());
        wake.needs(&self.nodes);
        self.nodes.on_change(move |old, new| {
            let taints = |n: Option<&Arc<Node>>| n.map_or_else(Vec::new, |n| no_execute(n).cloned().collect::<Vec<_>>());
            let Some(node) = new.filter(|_| taints(old) != taints(new)) else { return };
            on_node.at(&node.name_any()).iter().for_each(|pod| handle(own_key(&**pod)));
        });
    }

    async fn look(&self, key: &Key) -> Option<World> {
        let pod = self.pods.get(key).filter(|pod| pod.metadata.deletion_timestamp.is_none())?;
        let node = self.nodes.get(&Key::new("", pod.spec.as_ref()?.node_name.as_deref()?))?;
        Some(World { taints: no_execute(&node).cloned().collect(), pod, now: Timestamp::now() })
    }

    fn plan(&self, world: &World, _: &Key) -> Plan {
        plan(world)
    }
}

fn plan(world: &World) -> Plan {
    let tolerations = world.pod.spec.as_ref().and_then(|s| s.tolerations.as_deref()).unwrap_or_default();
    let left = world.taints.iter().filter_map(|taint| seconds_left(taint, tolerations, world.now)).min();
    match left {
        None => Plan::rest(),
        Some(left) if left > 0 => Plan::rest().again_in(Duration::from_secs(left.unsigned_abs())),
        Some(_) => Plan::act(evict(&world.pod, world.now)),
    }
}

/// How long the pod may stay under this taint; `None` is for ever. All matching tolerations count: the shortest has the word.
fn seconds_left(taint: &Taint, tolerations: &[Toleration], now: Timestamp) -> Option<i64> {
    let matching: Vec<&Toleration> = tolerations.iter().filter(|t| tolerates(t, taint)).collect();
    if matching.is_empty() {
        return Some(0);
    }
    let shortest = matching.iter().filter_map(|t| t.toleration_seconds).min()?;
    let since = taint.time_added.as_ref().map_or(now, |t| t.0);
    Some(shortest.max(0) + since.as_second() - now.as_second())
}

fn tolerates(toleration: &Toleration, taint: &Taint) -> bool {
    let (key, op) = (toleration.key.as_deref().unwrap_or(""), toleration.operator.as_deref().unwrap_or("Equal"));
    let effect = toleration.effect.as_deref().unwrap_or("");
    let effect_fits = effect.is_empty() || effect == taint.effect;
    let key_fits = key == taint.key || (key.is_empty() && op == "Exists");
    let value_fits = op == "Exists" || toleration.value.as_deref().unwrap_or("") == taint.value.as_deref().unwrap_or("");
    effect_fits && key_fits && value_fits
}

fn evict(pod: &Pod, now: Timestamp) -> Vec<Action> {
    let mut conditions = json!(pod.status.as_ref().and_then(|s| s.conditions.clone()).unwrap_or_default());
    if let Some(list) = conditions.as_array_mut() {
        list.retain(|c| c["type"] != "DisruptionTarget");
        list.push(disruption("DeletionByTaintManager", "Taint manager: deleting due to NoExecute taint", now));
    }
    let message = format!("Marking for deletion Pod {}", own_key(pod));
    vec![
        Action::normal(pod, "TaintManagerEviction", message),
        Action::patch_status(pod, json!({"status": {"conditions": conditions}})),
        Action::delete(pod),
    ]
}

fn no_execute(node: &Node) -> impl Iterator<Item = &Taint> {
    node.spec.iter().flat_map(|s| s.taints.iter().flatten()).filter(|t| t.effect == "NoExecute")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn world(tolerations: &serde_json::Value) -> World {
        let pod = json!({"metadata": {"name": "p", "namespace": "d", "uid": "u"}, "spec": {"containers": [], "tolerations": tolerations}});
        let taint = json!([{"key": "k", "value": "v", "effect": "NoExecute", "timeAdded": "2026-01-01T00:00:00Z"}]);
        World {
            pod: Arc::new(serde_json::from_value(pod).unwrap()),
            taints: serde_json::from_value(taint).unwrap(),
            now: "2026-01-01T00:01:00Z".parse().unwrap(),
        }
    }

    #[test]
    fn pods_stay_as_long_as_they_tolerate() {
        let deletes = |t: serde_json::Value| plan(&world(&t)).actions.iter().any(|a| matches!(a, Action::Delete { .. }));
        assert!(deletes(json!([])));
        assert!(deletes(json!([{"key": "k", "operator": "Exists", "tolerationSeconds": 30}])));
        assert!(deletes(json!([{"key": "k", "value": "other"}])));
        assert!(!deletes(json!([{"operator": "Exists"}])));
        let waits = plan(&world(&json!([{"key": "k", "value": "v", "effect": "NoExecute", "tolerationSeconds": 300}])));
        assert_eq!(waits, Plan::rest().again_in(Duration::from_secs(240)));
    }
}
