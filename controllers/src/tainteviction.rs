//! A NoExecute taint -> pods that do not tolerate it deleted, when their time is up. Source: `pkg/controller/tainteviction`.
//!
//! A pod's time runs from when it is first seen on the tainted node, by our own clock: whether and when somebody wrote `timeAdded` does not
//! matter, and a new pod on a node that was tainted long ago has all its time.

use std::{collections::HashMap, sync::Arc, time::Duration};

use api::{
    Key,
    k8s::api::core::v1::{Node, Taint, Toleration},
    time::Timestamp,
};
use client::{Cache, Caches, kube, pods::Pod};
use kube::ResourceExt;
use parking_lot::Mutex;
use reconcile::{Action, Controller, Plan, Wake, own_key};
use tokio::time::Instant;

use crate::{
    doomed::{self, Why},
    index::ByNode,
};

/// Longer waits are taken in pieces.
const WAIT_MAX: Duration = Duration::from_secs(24 * 3600);
const EVENT: &str = "TaintManagerEviction";

pub struct TaintEviction {
    pods: Cache<Pod>,
    nodes: Cache<Node>,
    on_node: ByNode,
    due: Arc<Mutex<HashMap<Key, Due>>>,
}

/// When a pod's time is up.
struct Due {
    uid: Option<String>,
    at: Instant,
}

pub struct World {
    pod: Arc<Pod>,
    fate: Fate,
    now: Timestamp,
}

/// How long a pod may stay on its node, taints and tolerations alone considered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stay {
    ForEver,
    For(Duration),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Stays,
    /// It was to go, and may stay.
    Reprieved,
    Waits(Duration),
    Goes,
}

impl TaintEviction {
    pub fn new(caches: &Caches, on_node: &ByNode) -> Self {
        Self { on_node: on_node.clone(), pods: caches.of(), nodes: caches.of(), due: Arc::default() }
    }
}

impl Controller for TaintEviction {
    type World = World;

    fn name(&self) -> &'static str {
        "taint-eviction-controller"
    }

    fn watches(&self, wake: &Wake) {
        let nodes = self.nodes.clone();
        wake.on(&self.pods, move |pod, wake| {
            let node = pod.spec.as_ref().and_then(|s| s.node_name.as_deref()).unwrap_or("");
            if nodes.get(&Key::new("", node)).is_some_and(|n| no_execute(&n).next().is_some()) {
                wake(own_key(pod));
            }
        });
        let due = self.due.clone();
        self.pods.on_change(move |old, new| {
            if let (Some(pod), None) = (old, new) {
                due.lock().remove(&own_key(&**pod));
            }
        });
        let (handle, on_node) = (wake.handle(), self.on_node.clone());
        wake.needs(&self.nodes);
        self.nodes.on_change(move |old, new| {
            let changed = !old.into_iter().flat_map(|n| no_execute(n)).eq(new.into_iter().flat_map(|n| no_execute(n)));
            let Some(node) = new.or(old).filter(|_| changed) else { return };
            on_node.at(&node.name_any()).iter().for_each(|pod| handle(own_key(&**pod)));
        });
    }

    async fn observe(&self, key: &Key) -> Option<World> {
        let pod = self.pods.get(key).filter(|pod| pod.metadata.deletion_timestamp.is_none());
        let node = pod.as_ref().and_then(|p| self.nodes.get(&Key::new("", p.spec.as_ref()?.node_name.as_deref()?)));
        let mut due = self.due.lock();
        let (Some(pod), Some(node)) = (pod, node) else {
            due.remove(key);
            return None;
        };
        let tolerations = pod.spec.as_ref().and_then(|s| s.tolerations.as_deref()).unwrap_or_default();
        let known = due.remove(key).filter(|due| due.uid == pod.uid()).map(|due| due.at);
        let (fate, at) = fate(stay(no_execute(&node), tolerations), known, Instant::now());
        if let Some(at) = at {
            due.insert(key.clone(), Due { uid: pod.uid(), at });
        }
        Some(World { pod, fate, now: Timestamp::now() })
    }

    fn plan(&self, world: &World, _: &Key) -> Plan {
        plan(world)
    }
}

fn plan(world: &World) -> Plan {
    let pod = &*world.pod;
    match world.fate {
        Fate::Stays => Plan::rest(),
        Fate::Reprieved => Plan::act(vec![Action::normal(pod, EVENT, format!("Cancelling deletion of Pod {}", own_key(pod)))]),
        Fate::Waits(left) => Plan::rest().again_in(left.min(WAIT_MAX)),
        Fate::Goes => Plan::act(evict(pod, world.now)),
    }
}

/// What becomes of a pod whose time was up at `known`, if that was settled before, and when its time is up now. What is settled stays: a
/// toleration that grows longer meanwhile changes nothing.
fn fate(stay: Stay, known: Option<Instant>, now: Instant) -> (Fate, Option<Instant>) {
    let Stay::For(time) = stay else {
        return (if known.is_some() { Fate::Reprieved } else { Fate::Stays }, None);
    };
    // Without any time left at all, nothing of before counts.
    let at = if time.is_zero() { now } else { known.unwrap_or_else(|| now.checked_add(time).unwrap_or(now + WAIT_MAX)) };
    let left = at.saturating_duration_since(now);
    (if left.is_zero() { Fate::Goes } else { Fate::Waits(left) }, Some(at))
}

/// Of each taint the first toleration that matches counts, and of these the shortest.
fn stay<'a>(taints: impl Iterator<Item = &'a Taint>, tolerations: &[Toleration]) -> Stay {
    let mut shortest = Stay::ForEver;
    for taint in taints {
        let Some(toleration) = tolerations.iter().find(|t| podspec::tolerates(t, taint)) else { return Stay::For(Duration::ZERO) };
        // The largest number there is means for ever, as it does upstream.
        let Some(seconds) = toleration.toleration_seconds.filter(|s| *s != i64::MAX) else { continue };
        let time = Duration::from_secs(seconds.max(0).unsigned_abs());
        shortest = match shortest {
            Stay::For(other) if other <= time => shortest,
            _ => Stay::For(time),
        };
    }
    shortest
}

fn evict(pod: &Pod, now: Timestamp) -> Vec<Action> {
    let why = Why("DeletionByTaintManager", "Taint manager: deleting due to NoExecute taint");
    let told = Action::normal(pod, EVENT, format!("Marking for deletion Pod {}", own_key(pod)));
    [told].into_iter().chain(doomed::mark(pod, Some(&why), None, now)).chain([Action::delete(pod)]).collect()
}

fn no_execute(node: &Node) -> impl Iterator<Item = &Taint> {
    node.spec.iter().flat_map(|s| s.taints.iter().flatten()).filter(|t| t.effect == "NoExecute")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    const FOR: fn(u64) -> Stay = |seconds| Stay::For(Duration::from_secs(seconds));

    fn taints(value: &Value) -> Vec<Taint> {
        serde_json::from_value(value.clone()).unwrap()
    }

    #[test]
    fn the_shortest_of_the_first_matching_tolerations_counts() {
        let one = json!([{"key": "k", "value": "v", "effect": "NoExecute"}]);
        let two = json!([{"key": "k", "value": "v", "effect": "NoExecute"}, {"key": "l", "effect": "NoExecute"}]);
        let seconds = |n: i64| json!([{"operator": "Exists", "tolerationSeconds": n}]);
        let cases = [
            (&one, json!([]), FOR(0)),
            (&one, json!([{"key": "k", "value": "other", "effect": "NoExecute"}]), FOR(0)),
            (&one, json!([{"key": "k", "value": "v", "effect": "NoSchedule"}]), FOR(0)),
            (&one, json!([{"operator": "Exists"}]), Stay::ForEver),
            (&one, json!([{"key": "k", "value": "v", "effect": "NoExecute", "tolerationSeconds": 300}]), FOR(300)),
            (&one, json!([{"key": "k", "operator": "Exists"}, {"operator": "Exists", "tolerationSeconds": 1}]), Stay::ForEver),
            (&one, seconds(0), FOR(0)),
            (&one, seconds(-1), FOR(0)),
            (&one, seconds(i64::MIN), FOR(0)),
            (&one, seconds(100_000_000), FOR(100_000_000)),
            (&one, seconds(i64::MAX), Stay::ForEver),
            (&one, seconds(i64::MAX - 1), FOR(i64::MAX as u64 - 1)),
            (&two, json!([{"key": "k", "operator": "Exists"}]), FOR(0)),
            (
                &two,
                json!([{"key": "k", "operator": "Exists", "tolerationSeconds": 9}, {"key": "l", "operator": "Exists", "tolerationSeconds": 5}]),
                FOR(5),
            ),
            (&two, json!([{"key": "k", "operator": "Exists"}, {"key": "l", "operator": "Exists", "tolerationSeconds": 60}]), FOR(60)),
            (&json!([]), json!([]), Stay::ForEver),
        ];
        for (on_node, tolerations, wanted) in cases {
            let tolerations: Vec<Toleration> = serde_json::from_value(tolerations).unwrap();
            assert_eq!(stay(taints(on_node).iter(), &tolerations), wanted, "{on_node} {tolerations:?}");
        }
    }

    /// Seconds of a story: what may stay how long, and what comes of it.
    #[test]
    fn time_runs_from_when_the_pod_is_first_seen_there() {
        let waits = |seconds| Fate::Waits(Duration::from_secs(seconds));
        let stories: [&[(u64, Stay, Fate)]; 5] = [
            &[(0, FOR(300), waits(300)), (100, FOR(300), waits(200)), (300, FOR(300), Fate::Goes), (301, FOR(300), Fate::Goes)],
            &[(0, FOR(10), waits(10)), (5, FOR(600), waits(5)), (10, FOR(600), Fate::Goes)],
            &[(0, FOR(60), waits(60)), (30, Stay::ForEver, Fate::Reprieved), (40, Stay::ForEver, Fate::Stays), (50, FOR(60), waits(60))],
            &[(0, FOR(60), waits(60)), (30, FOR(0), Fate::Goes)],
            &[(0, Stay::ForEver, Fate::Stays), (7, FOR(0), Fate::Goes)],
        ];
        let start = Instant::now();
        for story in stories {
            let mut known = None;
            for (second, stay, wanted) in story {
                let (fate, at) = fate(*stay, known, start + Duration::from_secs(*second));
                assert_eq!(fate, *wanted, "second {second} of {story:?}");
                known = at;
            }
        }
    }

    #[test]
    fn waits_of_any_length_are_waited() {
        for seconds in [100_000_000, i64::MAX as u64 - 1] {
            let (fate, at) = fate(FOR(seconds), None, Instant::now());
            let pod = Arc::new(serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "d"}})).unwrap());
            let plan = plan(&World { pod, fate, now: Timestamp::UNIX_EPOCH });
            assert_eq!((plan.actions.len(), plan.again, at.is_some()), (0, Some(WAIT_MAX), true));
        }
    }

    #[test]
    fn who_goes_is_told_why_once() {
        let condition = json!({"type": "DisruptionTarget", "status": "True", "reason": "DeletionByTaintManager",
            "message": "Taint manager: deleting due to NoExecute taint"});
        let pod = |conditions: Value| -> Arc<Pod> {
            Arc::new(
                serde_json::from_value(
                    json!({"metadata": {"name": "p", "namespace": "d", "uid": "u"}, "status": {"conditions": conditions}}),
                )
                .unwrap(),
            )
        };
        let plan = |conditions| plan(&World { pod: pod(conditions), fate: Fate::Goes, now: Timestamp::UNIX_EPOCH }).actions;
        let [Action::Event { message, .. }, Action::Patch { patch, .. }, Action::Delete { options, .. }] = &plan(json!([]))[..] else {
            panic!()
        };
        assert_eq!(message, "Marking for deletion Pod d/p");
        assert_eq!(patch["status"]["conditions"][0]["reason"], "DeletionByTaintManager");
        assert_eq!(options["preconditions"]["uid"], "u");
        assert_eq!(plan(json!([condition])).len(), 2, "it says so already");
    }
}
