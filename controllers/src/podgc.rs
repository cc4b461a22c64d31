//! Pods that nobody will take care of -> deleted. Source: `pkg/controller/podgc/gc_controller.go`.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
    time::Duration,
};

use api::{Key, k8s::api::core::v1::Node, names::segment, time::Timestamp};
use client::{Cache, Caches, kube, pods::Pod};
use kube::ResourceExt;
use parking_lot::Mutex;
use reconcile::{Action, Controller, Plan, Wake, own_key};
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::{
    Config,
    catalog::{get_metadata, is_absent},
    doomed::{self, Why, is_terminated},
    index::ByNode,
};

/// How long a node may be missing before its pods are given up: from when we first miss it, by our own clock.
const QUARANTINE: Duration = Duration::from_secs(40);
/// Terminated pods that are deleted at the same time.
const SURPLUS_AT_ONCE: usize = 20;
const OUT_OF_SERVICE: &str = "node.kubernetes.io/out-of-service";

pub struct PodGc {
    client: kube::Client,
    pods: Cache<Pod>,
    nodes: Cache<Node>,
    on_node: ByNode,
    /// Terminated pods by the time they were made: the oldest go first.
    terminated: Arc<Mutex<BTreeSet<(Timestamp, Key)>>>,
    /// `--terminated-pod-gc-threshold`: so many may stay; 0 is any number.
    terminated_max: usize,
    /// Nodes that pods are bound to, and that are not there.
    missing: Arc<Mutex<Missing>>,
}

/// By name: since when.
#[derive(Default)]
struct Missing(HashMap<String, Instant>);

pub struct World {
    pod: Arc<Pod>,
    fate: Fate,
    now: Timestamp,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Stays,
    /// Its node is missing, but perhaps not for long.
    Quarantined(Duration),
    Orphaned,
    /// Deleted before it was ever bound: no node will finish the deletion.
    NeverBound,
    /// Its node will not finish the deletion: an administrator says that it is down.
    OutOfService,
    OneTooMany,
}

impl PodGc {
    pub fn new(caches: &Caches, on_node: &ByNode, client: kube::Client, config: &Config) -> Self {
        let (pods, nodes, on_node) = (caches.of(), caches.of(), on_node.clone());
        let terminated_max = config.terminated_pods_max;
        Self { client, on_node, pods, nodes, terminated: Arc::default(), terminated_max, missing: Arc::default() }
    }

    async fn fate(&self, pod: &Pod, key: &Key) -> Fate {
        if self.is_surplus(pod, key) {
            return Fate::OneTooMany;
        }
        let node = bound_to(pod);
        if node.is_empty() {
            return if pod.metadata.deletion_timestamp.is_some() { Fate::NeverBound } else { Fate::Stays };
        }
        if let Some(node) = self.nodes.get(&Key::new("", node)) {
            let goes = pod.metadata.deletion_timestamp.is_some() && is_out_of_service(&node);
            return if goes { Fate::OutOfService } else { Fate::Stays };
        }
        let left = self.missing.lock().left(node, Instant::now());
        if left > Duration::ZERO {
            return Fate::Quarantined(left);
        }
        // What we see may be old.
        match get_metadata::<Value>(&self.client, &format!("/api/v1/nodes/{}", segment(node))).await {
            Err(error) if is_absent(&error, node) => Fate::Orphaned,
            _ => Fate::Quarantined(QUARANTINE),
        }
    }

    fn is_surplus(&self, pod: &Pod, key: &Key) -> bool {
        let terminated = self.terminated.lock();
        is_terminated(pod) && surplus(&terminated, self.terminated_max).any(|surplus| surplus == key)
    }
}

impl Missing {
    /// How much of the quarantine is left; it begins now if it has not.
    fn left(&mut self, node: &str, now: Instant) -> Duration {
        let since = match self.0.get(node) {
            Some(since) => *since,
            None => *self.0.entry(node.to_owned()).or_insert(now),
        };
        (since + QUARANTINE).saturating_duration_since(now)
    }

    fn is_back(&mut self, node: &str) {
        self.0.remove(node);
    }
}

impl Controller for PodGc {
    type World = World;

    fn name(&self) -> &'static str {
        "pod-garbage-collector-controller"
    }

    fn watches(&self, wake: &Wake) {
        let (handle, terminated, max) = (wake.handle(), self.terminated.clone(), self.terminated_max);
        let (nodes, missing, on_node) = (self.nodes.clone(), self.missing.clone(), self.on_node.clone());
        wake.needs(&self.nodes);
        wake.on(&self.pods, |_, _| {});
        self.pods.on_change(move |old, new| {
            note_terminated(&mut terminated.lock(), old.map(|p| &**p), new.map(|p| &**p));
            surplus(&terminated.lock(), max).for_each(|key| handle(key.clone()));
            let Some(pod) = new.or(old) else { return };
            let (node, going) = (bound_to(pod), pod.metadata.deletion_timestamp.is_some());
            let there = nodes.get(&Key::new("", node));
            if new.is_none() {
                if there.is_none() && on_node.count(&node.to_owned()) == 0 {
                    missing.lock().is_back(node);
                }
                return;
            }
            let gone = !node.is_empty() && nodes.is_synced() && there.is_none();
            if gone || (going && (node.is_empty() || there.is_some_and(|node| is_out_of_service(&node)))) {
                handle(own_key(&**pod));
            }
        });
        let (handle, on_node, missing) = (wake.handle(), self.on_node.clone(), self.missing.clone());
        self.nodes.on_change(move |old, new| {
            let Some(node) = new.or(old) else { return };
            let name = node.name_any();
            match new {
                Some(_) => missing.lock().is_back(&name),
                None => drop(missing.lock().left(&name, Instant::now())),
            }
            let is_news = new.is_none_or(|new| is_out_of_service(new) && !old.is_some_and(|old| is_out_of_service(old)));
            let pods = if is_news { on_node.at(&name) } else { Vec::new() };
            if new.is_none() && pods.is_empty() {
                missing.lock().is_back(&name);
            }
            pods.iter().for_each(|pod| handle(own_key(&**pod)));
        });
    }

    async fn observe(&self, key: &Key) -> Option<World> {
        let pod = self.pods.get(key)?;
        let fate = self.fate(&pod, key).await;
        Some(World { pod, fate, now: Timestamp::now() })
    }

    fn plan(&self, world: &World, _: &Key) -> Plan {
        plan(world)
    }
}

fn plan(world: &World) -> Plan {
    let why = match world.fate {
        Fate::Stays => return Plan::rest(),
        Fate::Quarantined(left) => return Plan::rest().again_in(left),
        Fate::Orphaned => Some(Why("DeletionByPodGC", "PodGC: node no longer exists")),
        Fate::NeverBound | Fate::OutOfService | Fate::OneTooMany => None,
    };
    let pod = &*world.pod;
    let failed = if is_terminated(pod) { None } else { doomed::mark(pod, why.as_ref(), Some("Failed"), world.now) };
    Plan::act(failed.into_iter().chain([Action::delete_with(pod, json!({"gracePeriodSeconds": 0}))]).collect())
}

fn bound_to(pod: &Pod) -> &str {
    pod.spec.as_ref().and_then(|s| s.node_name.as_deref()).unwrap_or("")
}

/// Not ready, and declared to be down (KEP-2268).
fn is_out_of_service(node: &Node) -> bool {
    let is_ready = || node.status.iter().flat_map(|s| s.conditions.iter().flatten()).any(|c| c.type_ == "Ready" && c.status == "True");
    node.spec.iter().flat_map(|s| s.taints.iter().flatten()).any(|t| t.key == OUT_OF_SERVICE) && !is_ready()
}

fn note_terminated(terminated: &mut BTreeSet<(Timestamp, Key)>, old: Option<&Pod>, new: Option<&Pod>) {
    if let Some(pod) = old.filter(|p| is_terminated(p)) {
        terminated.remove(&place(pod));
    }
    if let Some(pod) = new.filter(|p| is_terminated(p)) {
        terminated.insert(place(pod));
    }
}

/// The first of those that are too many.
fn surplus(terminated: &BTreeSet<(Timestamp, Key)>, max: usize) -> impl Iterator<Item = &Key> {
    let too_many = if max == 0 { 0 } else { terminated.len().saturating_sub(max) };
    terminated.iter().take(too_many.min(SURPLUS_AT_ONCE)).map(|(_, key)| key)
}

fn place(pod: &Pod) -> (Timestamp, Key) {
    (pod.metadata.creation_timestamp.as_ref().map_or(Timestamp::UNIX_EPOCH, |t| t.0), own_key(pod))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(phase: &str, second: i64) -> Pod {
        let created = Timestamp::from_second(second).unwrap();
        let metadata = json!({"name": format!("p{second}"), "namespace": "d", "uid": "u", "creationTimestamp": created});
        serde_json::from_value(json!({"metadata": metadata, "status": {"phase": phase}})).unwrap()
    }

    #[test]
    fn only_the_forsaken_are_deleted() {
        let actions = |phase, fate| plan(&World { pod: Arc::new(pod(phase, 1)), fate, now: Timestamp::UNIX_EPOCH }).actions;
        assert!(actions("Running", Fate::Stays).is_empty());
        assert!(actions("Running", Fate::Quarantined(QUARANTINE)).is_empty());
        for fate in [Fate::NeverBound, Fate::OutOfService, Fate::Orphaned] {
            let running = actions("Running", fate);
            let [Action::Patch { patch, form: reconcile::PatchType::Strategic, .. }, Action::Delete { options, .. }] = &running[..] else {
                panic!("{running:?}")
            };
            assert_eq!((&patch["status"]["phase"], &options["gracePeriodSeconds"]), (&json!("Failed"), &json!(0)));
            let reason = patch.pointer("/status/conditions/0/reason");
            assert_eq!(reason, (fate == Fate::Orphaned).then_some(&json!("DeletionByPodGC")));
            assert_eq!(actions("Succeeded", fate).len(), 1);
        }
    }

    #[test]
    fn a_quarantine_is_counted_from_when_the_node_is_missed() {
        let (mut missing, start) = (Missing::default(), Instant::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut left = |second| missing.left("n", at(second)).as_secs();
        assert_eq!((left(0), left(10), left(39), left(40), left(100)), (40, 30, 1, 0, 0));
        missing.is_back("n");
        assert_eq!(missing.left("n", at(100)), QUARANTINE, "gone once more");
    }

    #[test]
    fn the_oldest_of_too_many_go() {
        let mut terminated = BTreeSet::new();
        (1..=30).rev().for_each(|n| note_terminated(&mut terminated, None, Some(&pod("Failed", n))));
        let names = |max| surplus(&terminated, max).map(|k| k.name.clone()).collect::<Vec<_>>();
        assert_eq!(names(28), ["p1", "p2"]);
        assert_eq!((names(30).len(), names(0).len(), names(1).len()), (0, 0, SURPLUS_AT_ONCE));
        note_terminated(&mut terminated, Some(&pod("Failed", 1)), None);
        assert_eq!(surplus(&terminated, 28).count(), 1);
    }
}
