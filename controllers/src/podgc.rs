//! Pods that nobody will take care of -> deleted. Source: `pkg/controller/podgc/gc_controller.go`.

use std::{sync::Arc, time::Duration};

use api::{Key, k8s::api::core::v1::Node, time::Timestamp};
use client::{Cache, Caches, kube, pods::Pod};
use parking_lot::Mutex;
use reconcile::{Action, Loop, Plan, Wake, own_key};
use serde_json::json;

use crate::{
    catalog::get,
    index::{Index, by_node},
    nodelifecycle::disruption,
};

/// How long a node may be missing before its pods are given up.
const QUARANTINE: Duration = Duration::from_secs(40);
/// `--terminated-pod-gc-threshold`.
const TERMINATED_MAX: usize = 12_500;

pub struct PodGc {
    client: kube::Client,
    pods: Cache<Pod>,
    nodes: Cache<Node>,
    on_node: Arc<Index<Pod, String>>,
    /// Terminated pods by the time they were made: the oldest go first.
    terminated: Arc<Mutex<std::collections::BTreeSet<(Timestamp, Key)>>>,
}

pub struct World {
    pod: Arc<Pod>,
    fate: Fate,
    now: Timestamp,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Stays,
    /// Its node is missing, but perhaps not for long.
    Quarantined,
    Orphaned,
    /// Deleted before it was ever bound: no node will finish the deletion.
    NeverBound,
    OneTooMany,
}

impl PodGc {
    pub fn new(caches: &Caches, client: kube::Client) -> Self {
        let pods = caches.of::<Pod>();
        Self { client, on_node: Arc::new(by_node(&pods)), pods, nodes: caches.of(), terminated: Arc::default() }
    }

    async fn fate(&self, pod: &Pod, key: &Key, now: Timestamp) -> Fate {
        let node = pod.spec.as_ref().and_then(|s| s.node_name.as_deref()).unwrap_or("");
        if node.is_empty() {
            return if pod.metadata.deletion_timestamp.is_some() { Fate::NeverBound } else { Fate::Stays };
        }
        if is_terminated(pod) {
            let terminated = self.terminated.lock();
            let surplus = terminated.len().saturating_sub(TERMINATED_MAX);
            if terminated.iter().take(surplus).any(|(_, k)| k == key) {
                return Fate::OneTooMany;
            }
        }
        if self.nodes.get(&Key::new("", node)).is_some() {
            return Fate::Stays;
        }
        let started = pod.metadata.creation_timestamp.as_ref().map_or(now, |t| t.0);
        let old = now.as_second() - started.as_second() >= i64::try_from(QUARANTINE.as_secs()).unwrap_or(i64::MAX);
        match get(&self.client, &format!("/api/v1/nodes/{node}")).await {
            Err(kube::Error::Api(status)) if status.code == 404 && old => Fate::Orphaned,
            Ok(_) => Fate::Stays,
            Err(_) => Fate::Quarantined,
        }
    }
}

impl Loop for PodGc {
    type World = World;

    fn name(&self) -> &'static str {
        "pod-garbage-collector-controller"
    }

    fn wire(&self, wake: &Wake) {
        let (handle, terminated, nodes) = (wake.handle(), self.terminated.clone(), self.nodes.clone());
        wake.needs(&self.nodes);
        wake.on(&self.pods, |_, _| {});
        self.pods.on_change(move |old, new| {
            let mut terminated = terminated.lock();
            if let Some(pod) = old.filter(|p| is_terminated(p)) {
                terminated.remove(&place(pod));
            }
            if let Some(pod) = new.filter(|p| is_terminated(p)) {
                terminated.insert(place(pod));
            }
            if terminated.len() > TERMINATED_MAX
                && let Some((_, key)) = terminated.first()
            {
                handle(key.clone());
            }
            let Some(pod) = new else { return };
            let node = pod.spec.as_ref().and_then(|s| s.node_name.as_deref()).unwrap_or("");
            let gone = !node.is_empty() && nodes.is_synced() && nodes.get(&Key::new("", node)).is_none();
            if gone || (node.is_empty() && pod.metadata.deletion_timestamp.is_some()) {
                handle(own_key(&**pod));
            }
        });
        let (handle, on_node) = (wake.handle(), self.on_node.clone());
        self.nodes.on_change(move |old, new| {
            let (Some(node), None) = (old, new) else { return };
            let name = node.metadata.name.clone().unwrap_or_default();
            on_node.at(&name).iter().for_each(|pod| handle(own_key(&**pod)));
        });
    }

    async fn look(&self, key: &Key) -> Option<World> {
        let (pod, now) = (self.pods.get(key)?, Timestamp::now());
        let fate = self.fate(&pod, key, now).await;
        Some(World { pod, fate, now })
    }

    fn plan(&self, world: &World, _: &Key) -> Plan {
        plan(world)
    }
}

fn plan(world: &World) -> Plan {
    let pod = &*world.pod;
    let delete = Action::delete_with(pod, json!({"gracePeriodSeconds": 0}));
    match world.fate {
        Fate::Stays => Plan::rest(),
        Fate::Quarantined => Plan::rest().again_in(QUARANTINE),
        Fate::NeverBound | Fate::OneTooMany => Plan::act(vec![delete]),
        Fate::Orphaned if is_terminated(pod) => Plan::act(vec![delete]),
        Fate::Orphaned => Plan::act(vec![failed(pod, world.now), delete]),
    }
}

fn failed(pod: &Pod, now: Timestamp) -> Action {
    let mut conditions = json!(pod.status.as_ref().and_then(|s| s.conditions.clone()).unwrap_or_default());
    if let Some(list) = conditions.as_array_mut() {
        list.retain(|c| c["type"] != "DisruptionTarget");
        list.push(disruption("DeletionByPodGC", "PodGC: node no longer exists", now));
    }
    Action::patch_status(pod, json!({"status": {"phase": "Failed", "conditions": conditions}}))
}

fn is_terminated(pod: &Pod) -> bool {
    matches!(pod.status.as_ref().and_then(|s| s.phase.as_deref()), Some("Succeeded" | "Failed"))
}

fn place(pod: &Pod) -> (Timestamp, Key) {
    (pod.metadata.creation_timestamp.as_ref().map_or(Timestamp::UNIX_EPOCH, |t| t.0), own_key(pod))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_forsaken_are_deleted() {
        let pod: Pod = serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "d", "uid": "u"}})).unwrap();
        let actions = |fate| plan(&World { pod: Arc::new(pod.clone()), fate, now: Timestamp::UNIX_EPOCH }).actions.len();
        assert_eq!((actions(Fate::Stays), actions(Fate::Quarantined), actions(Fate::NeverBound), actions(Fate::Orphaned)), (0, 0, 1, 2));
    }
}
