//! StatefulSets and DaemonSets in the story: what users ask of them, what must hold on the way, and what has come of it in the end.

use std::collections::HashMap;

use rand::{Rng, seq::IndexedRandom};
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::{
    invariants::{STALE, State, controls, is_active, is_ready, text},
    user::User,
};

const STATEFUL: &str = "ledger";
const DAEMON: &str = "agent";

/// When the pod of an ordinal was ready last, by its set's uid.
pub type Ready = HashMap<(String, i64), Instant>;

impl User {
    /// One thing, at random.
    pub async fn set(&mut self, namespace: &str) {
        let path = |plural: &str, name: &str| format!("/apis/apps/v1/namespaces/{namespace}/{plural}/{name}");
        let (stateful, daemon) = (path("statefulsets", STATEFUL), path("daemonsets", DAEMON));
        match self.random.random_range(0..20) {
            0..5 => self.make_stateful(namespace).await,
            5..9 => self.make_daemon(namespace).await,
            9..12 => {
                let replicas = self.random.random_range(0..5);
                self.patch(&stateful, json!({"spec": {"replicas": replicas}})).await;
            }
            12..15 => self.new_image(&stateful).await,
            15..18 => self.new_image(&daemon).await,
            18 => self.delete(&stateful, &format!("/registry/statefulsets/{namespace}/{STATEFUL}")).await,
            _ => self.delete(&daemon, &format!("/registry/daemonsets/{namespace}/{DAEMON}")).await,
        }
    }

    async fn make_stateful(&mut self, namespace: &str) {
        let policy = *["OrderedReady", "OrderedReady", "Parallel"].choose(&mut self.random).unwrap();
        let strategy = match self.random.random_range(0..4) {
            0 => json!({"type": "OnDelete"}),
            _ => json!({"type": "RollingUpdate", "rollingUpdate": {"partition": *[0, 0, 1].choose(&mut self.random).unwrap()}}),
        };
        let mut spec = self.spec(STATEFUL);
        spec["replicas"] = self.random.random_range(0..5).into();
        spec["podManagementPolicy"] = policy.into();
        spec["updateStrategy"] = strategy;
        spec["ordinals"] = json!({"start": *[0, 0, 3].choose(&mut self.random).unwrap()});
        self.make_set(namespace, "statefulsets", STATEFUL, spec).await;
    }

    async fn make_daemon(&mut self, namespace: &str) {
        let (surge, unavailable) = *[(0, 1), (0, 3), (1, 0)].choose(&mut self.random).unwrap();
        let mut spec = self.spec(DAEMON);
        spec["updateStrategy"] = match self.random.random_range(0..4) {
            0 => json!({"type": "OnDelete"}),
            _ => json!({"type": "RollingUpdate", "rollingUpdate": {"maxSurge": surge, "maxUnavailable": unavailable}}),
        };
        self.make_set(namespace, "daemonsets", DAEMON, spec).await;
    }

    fn spec(&mut self, name: &str) -> Value {
        let labels = json!({"set": name});
        let template = json!({"metadata": {"labels": labels},
            "spec": {"terminationGracePeriodSeconds": 5, "containers": [{"name": "c", "image": "i:0"}]}});
        let (seconds, kept) = (*[0, 0, 3].choose(&mut self.random).unwrap(), self.random.random_range(0..3));
        json!({"selector": {"matchLabels": labels}, "minReadySeconds": seconds, "revisionHistoryLimit": kept, "template": template})
    }

    async fn make_set(&mut self, namespace: &str, plural: &str, name: &str, spec: Value) {
        let body = json!({"metadata": {"name": name}, "spec": spec});
        self.make(&format!("/apis/apps/v1/namespaces/{namespace}/{plural}"), &format!("/registry/{plural}/{namespace}/{name}"), body).await;
    }
}

impl State {
    /// A pod of a set came or changed.
    pub fn set_pod(&mut self, old: Option<&Value>, new: &Value) {
        let daemon = self.set_of("daemonsets", new);
        if let Some(daemon) = daemon.filter(|_| old.is_none()) {
            self.one_on_its_node(&daemon, new);
        }
        if let Some(set) = self.set_of("statefulsets", new) {
            self.in_order(&set, old, new);
            self.note_ready(&set, old, new);
        }
    }

    fn set_of(&self, plural: &str, pod: &Value) -> Option<Value> {
        self.of(plural, text(pod, "/metadata/namespace")).find(|set| controls(set, pod)).cloned()
    }

    /// Of a `DaemonSet` each node has one pod, or an old one and a new one. A write without an answer may have been done twice.
    fn one_on_its_node(&mut self, set: &Value, new: &Value) {
        let node = target(new);
        let pods = self.of("pods", text(set, "/metadata/namespace")).filter(|pod| controls(set, pod) && is_active(pod));
        let there = pods.filter(|pod| target(pod) == node).count() as i64;
        let surge = set.pointer("/spec/updateStrategy/rollingUpdate/maxSurge").and_then(Value::as_i64).unwrap_or(0);
        let most = 1 + surge.min(1) + self.unanswered_lately();
        if there > most {
            self.broken.push(format!("{there} pods of {} for {node}", text(set, "/metadata/name")));
        }
    }

    /// Of a `StatefulSet` that goes in order, who comes found all before it ready; and who goes, of the set's own doing, goes alone.
    fn in_order(&mut self, set: &Value, old: Option<&Value>, new: &Value) {
        let name = text(new, "/metadata/name");
        if text(new, "/metadata/labels/statefulset.kubernetes.io~1pod-name") != name {
            self.broken.push("it does not say which it is".into());
        }
        if text(set, "/spec/podManagementPolicy") != "OrderedReady" {
            return;
        }
        let is_going = |pod: &Value| !text(pod, "/metadata/deletionTimestamp").is_empty();
        let (uid, ordinal) = (text(set, "/metadata/uid").to_owned(), ordinal(name));
        if old.is_none() {
            let start = set.pointer("/spec/ordinals/start").and_then(Value::as_i64).unwrap_or(0);
            let was_ready = |at: i64| self.ready.get(&(uid.clone(), at)).is_some_and(|at| at.elapsed() < STALE);
            let is_ready = |at: i64| self.member(set, at).is_some_and(is_ready);
            let missing: Vec<i64> = (start..ordinal).filter(|at| !is_ready(*at) && !was_ready(*at)).collect();
            if !missing.is_empty() {
                self.broken.push(format!("made before {missing:?} were ready"));
            }
        } else if !self.pods_fail && is_going(new) && !old.is_some_and(is_going) && !is_going(set) {
            let others = self.of("pods", text(set, "/metadata/namespace")).filter(|pod| controls(set, pod) && is_going(pod)).count();
            if others > 1 {
                self.broken.push(format!("{others} of its set go at once"));
            }
        }
    }

    fn note_ready(&mut self, set: &Value, old: Option<&Value>, new: &Value) {
        if is_ready(new) || old.is_some_and(is_ready) {
            self.ready.insert((text(set, "/metadata/uid").to_owned(), ordinal(text(new, "/metadata/name"))), Instant::now());
        }
    }

    /// A pod of a set is gone.
    pub fn set_pod_gone(&mut self, old: &Value) {
        if let Some(set) = self.set_of("statefulsets", old) {
            self.note_ready(&set, Some(old), old);
        }
    }

    fn member(&self, set: &Value, ordinal: i64) -> Option<&Value> {
        let (namespace, name) = (text(set, "/metadata/namespace"), text(set, "/metadata/name"));
        self.objects.get(&format!("/registry/pods/{namespace}/{name}-{ordinal}")).map(|stored| &stored.value)
    }
}

/// All sets that have not come to what they want.
pub fn unsettled(state: &State) -> Vec<String> {
    let name = |set: &Value| format!("{}/{}", text(set, "/metadata/namespace"), text(set, "/metadata/name"));
    let stateful = state.of("statefulsets", "").filter_map(|set| Some(format!("stateful set {}: {}", name(set), of_stateful(state, set)?)));
    let daemons = state.of("daemonsets", "").filter_map(|set| Some(format!("daemon set {}: {}", name(set), of_daemon(state, set)?)));
    let has_owner =
        |revision: &&Value| ["statefulsets", "daemonsets"].iter().any(|plural| state.of(plural, "").any(|set| controls(set, revision)));
    let revisions = state.of("controllerrevisions", "").filter(|revision| !has_owner(revision));
    stateful.chain(daemons).chain(revisions.map(|revision| format!("revision {} has no owner", name(revision)))).collect()
}

fn of_stateful(state: &State, set: &Value) -> Option<String> {
    let number = |pointer: &str| set.pointer(pointer).and_then(Value::as_i64).unwrap_or(0);
    let (wanted, start) = (number("/spec/replicas"), number("/spec/ordinals/start"));
    let mut pods: Vec<(i64, &Value)> = state
        .of("pods", text(set, "/metadata/namespace"))
        .filter(|pod| controls(set, pod))
        .map(|pod| (ordinal(text(pod, "/metadata/name")), pod))
        .collect();
    pods.sort_unstable_by_key(|(ordinal, _)| *ordinal);
    let all: Vec<i64> = pods.iter().map(|(ordinal, _)| *ordinal).collect();
    if all != (start..start + wanted).collect::<Vec<_>>() || !pods.iter().all(|(_, pod)| is_active(pod) && is_ready(pod)) {
        return Some(format!("wants {wanted} from {start}, has {all:?}: {}", set["status"]));
    }
    let (is_rolling, partition) =
        (text(set, "/spec/updateStrategy/type") == "RollingUpdate", number("/spec/updateStrategy/rollingUpdate/partition"));
    let update = text(set, "/status/updateRevision");
    let is_new = |pod: &Value| text(pod, "/metadata/labels/controller-revision-hash") == update;
    let old = pods.iter().filter(|(ordinal, pod)| *ordinal >= start + partition && !is_new(pod)).count();
    if is_rolling && old > 0 {
        return Some(format!("{old} are old: {}", set["status"]));
    }
    let told = ["replicas", "readyReplicas", "availableReplicas"].map(|field| number(&format!("/status/{field}")));
    (told != [wanted; 3] || number("/status/observedGeneration") != number("/metadata/generation"))
        .then(|| format!("wants {wanted}, says {}", set["status"]))
}

fn of_daemon(state: &State, set: &Value) -> Option<String> {
    let number = |pointer: &str| set.pointer(pointer).and_then(Value::as_i64).unwrap_or(0);
    let mut nodes: Vec<&str> = state.of("minions", "").map(|node| text(node, "/metadata/name")).collect();
    let pods: Vec<&Value> = state.of("pods", text(set, "/metadata/namespace")).filter(|pod| controls(set, pod)).collect();
    let mut on: Vec<&str> = pods.iter().map(|pod| text(pod, "/spec/nodeName")).collect();
    [&mut nodes, &mut on].into_iter().for_each(|list| list.sort_unstable());
    if nodes != on || !pods.iter().all(|pod| is_active(pod) && is_ready(pod)) {
        return Some(format!("is on {on:?} of {nodes:?}: {}", set["status"]));
    }
    let told = ["desiredNumberScheduled", "currentNumberScheduled", "numberReady", "numberAvailable"];
    let (all, told) = (nodes.len() as i64, told.map(|field| number(&format!("/status/{field}"))));
    let is_new = text(set, "/spec/updateStrategy/type") == "OnDelete" || number("/status/updatedNumberScheduled") == all;
    let is_told = told == [all; 4] && is_new && number("/status/observedGeneration") == number("/metadata/generation");
    (!is_told).then(|| format!("is on {all}, says {}", set["status"]))
}

/// The node that a pod of a `DaemonSet` is for.
fn target(pod: &Value) -> &str {
    let terms = "/spec/affinity/nodeAffinity/requiredDuringSchedulingIgnoredDuringExecution/nodeSelectorTerms/0/matchFields/0/values/0";
    text(pod, terms)
}

fn ordinal(name: &str) -> i64 {
    name.rsplit_once('-').and_then(|(_, digits)| digits.parse().ok()).unwrap_or(-1)
}
