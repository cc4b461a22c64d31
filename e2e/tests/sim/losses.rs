//! Everything that goes -> whether it had to: nodes given up, pods evicted or collected, dependents deleted, system namespaces missed.

use std::collections::{BTreeMap, HashMap, HashSet};

use serde_json::Value;
use std::time::Duration;
use tokio::time::Instant;

use crate::invariants::{STALE, Stored, is_ready, text};

pub const SYSTEM: [&str; 4] = ["default", "kube-system", "kube-public", "kube-node-lease"];
/// The label of objects that only their owners, users and the garbage collector end.
pub const FAMILY: &str = "family";
const GIVEN_UP: [&str; 2] = ["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"];
const QUARANTINE: Duration = Duration::from_secs(40);
/// System namespaces are back within that time.
const BACK_WITHIN: Duration = Duration::from_secs(60);
/// Clocks of watchers may differ by that much: they are told one after the other.
const SLACK: Duration = Duration::from_secs(1);

type Objects = BTreeMap<String, Stored>;

#[derive(Default)]
pub struct Losses {
    /// Since when no node is ready.
    dark: Option<Instant>,
    nodes: HashMap<String, Times>,
    /// Of each pod (uid): since when it is bound.
    bound: HashMap<String, Instant>,
    /// System namespaces that are gone, and since when.
    missing: BTreeMap<String, Instant>,
    /// What users asked to end.
    asked: HashSet<String>,
    /// What users asked to leave when its owner goes.
    kept: HashSet<String>,
}

/// When what became of a node.
#[derive(Default)]
struct Times {
    /// Since when it is there, or not.
    made: Option<Instant>,
    gone: Option<Instant>,
    /// Since when it drives pods away, or no more does.
    tainted: Option<Instant>,
    free: Option<Instant>,
}

impl Losses {
    pub fn ask(&mut self, key: &str) {
        self.asked.insert(key.to_owned());
    }

    pub fn keep(&mut self, key: &str) {
        self.kept.insert(key.to_owned());
    }

    /// What a write breaks. `objects` has the new one already.
    pub fn put(&mut self, key: &str, old: Option<&Value>, new: &Value, objects: &Objects) -> Vec<String> {
        match key.split('/').nth(2).unwrap_or("") {
            "minions" => self.node(old, new, objects),
            "pods" => self.pod(old, new, objects),
            "namespaces" => {
                self.missing.remove(text(new, "/metadata/name"));
                Vec::new()
            }
            "configmaps" if is_going(new) && !old.is_some_and(is_going) => self.let_go(key, old.unwrap_or(new), objects),
            _ => Vec::new(),
        }
    }

    /// What a deletion breaks. `objects` has the old one no more.
    pub fn gone(&mut self, key: &str, old: &Value, objects: &Objects) -> Vec<String> {
        let (name, now) = (text(old, "/metadata/name"), Instant::now());
        match key.split('/').nth(2).unwrap_or("") {
            "minions" => {
                *self.nodes.entry(name.to_owned()).or_default() = Times { gone: Some(now), ..Times::default() };
                self.look(objects);
            }
            "pods" => drop(self.bound.remove(text(old, "/metadata/uid"))),
            "namespaces" if SYSTEM.contains(&name) => drop(self.missing.insert(name.to_owned(), now)),
            "configmaps" if !is_going(old) => return self.let_go(key, old, objects),
            _ => {}
        }
        Vec::new()
    }

    /// What is missed for too long.
    pub fn overdue(&self) -> Vec<String> {
        let overdue = self.missing.iter().filter(|(_, since)| since.elapsed() > BACK_WITHIN);
        overdue.map(|(name, since)| format!("namespace {name} is gone for {} s", since.elapsed().as_secs())).collect()
    }

    fn look(&mut self, objects: &Objects) {
        let mut nodes = of(objects, "/registry/minions/").peekable();
        let is_dark = nodes.peek().is_some() && !nodes.any(is_ready);
        self.dark = if is_dark { self.dark.or_else(|| Some(Instant::now())) } else { None };
    }

    fn is_dark(&self) -> bool {
        self.dark.is_some_and(|since| since.elapsed() > STALE)
    }

    /// No node is given up while none is ready.
    fn node(&mut self, old: Option<&Value>, new: &Value, objects: &Objects) -> Vec<String> {
        self.look(objects);
        let now = Instant::now();
        let times = self.nodes.entry(text(new, "/metadata/name").to_owned()).or_default();
        times.made.get_or_insert(now);
        match (taints(new).next().is_some(), times.tainted.is_some()) {
            (true, false) => times.tainted = Some(now),
            (false, true) => (times.tainted, times.free) = (None, Some(now)),
            _ => {}
        }
        let had = |key: &str| old.is_some_and(|o| taints(o).any(|t| t["key"] == key));
        let added = taints(new).filter_map(|t| t["key"].as_str()).find(|key| GIVEN_UP.contains(key) && !GIVEN_UP.iter().any(|k| had(k)));
        let broken = added.filter(|_| self.is_dark()).map(|key| format!("given up ({key}) while no node is ready"));
        broken.into_iter().collect()
    }

    fn pod(&mut self, old: Option<&Value>, new: &Value, objects: &Objects) -> Vec<String> {
        let node = text(new, "/spec/nodeName");
        if !node.is_empty() {
            self.bound.entry(text(new, "/metadata/uid").to_owned()).or_insert_with(Instant::now);
        }
        let doom = doom(new);
        if doom == old.map_or("", |o| self::doom(o)) {
            return Vec::new();
        }
        let there = objects.get(&format!("/registry/minions/{node}")).map(|stored| &stored.value);
        let broken = match doom {
            "DeletionByTaintManager" => self.evicted(new, node, there),
            "DeletionByPodGC" => self.collected(node, there.is_some()),
            _ => None,
        };
        broken.into_iter().collect()
    }

    /// A pod is evicted from a node that is tainted, after as long as it tolerates that; and not by a silence of all nodes.
    fn evicted(&self, pod: &Value, node: &str, there: Option<&Value>) -> Option<String> {
        let times = self.nodes.get(node)?;
        let recently = |at: Option<Instant>| at.is_some_and(|at| at.elapsed() < STALE);
        let Some(tainted) = times.tainted else {
            return (!recently(times.free) && !recently(times.gone)).then(|| format!("evicted from {node}, which has no taints"));
        };
        let all: Vec<&Value> = there.into_iter().flat_map(taints).collect();
        if self.is_dark() && all.iter().all(|t| GIVEN_UP.iter().any(|key| t["key"] == *key)) {
            return Some(format!("evicted from {node} while no node is ready"));
        }
        let since = self.bound.get(text(pod, "/metadata/uid")).map_or(tainted, |bound| tainted.max(*bound));
        let patience = patience(pod, &all);
        (since.elapsed() + SLACK < patience).then(|| format!("evicted from {node} after {:?} of {patience:?}", since.elapsed()))
    }

    /// A pod is collected after its node has been away for the quarantine.
    fn collected(&self, node: &str, is_there: bool) -> Option<String> {
        let times = self.nodes.get(node)?;
        if is_there {
            let new = times.made.is_some_and(|at| at.elapsed() < STALE);
            return (!new).then(|| format!("collected although {node} is there"));
        }
        let away = times.gone?.elapsed();
        (away + SLACK < QUARANTINE).then(|| format!("collected when {node} was away for {away:?}"))
    }

    /// Whoever goes unasked had owners, and has none left; and nobody asked to spare it.
    fn let_go(&self, key: &str, was: &Value, objects: &Objects) -> Vec<String> {
        let namespace = objects.get(&format!("/registry/namespaces/{}", text(was, "/metadata/namespace")));
        let goes_with_it = namespace.is_none_or(|ns| is_going(&ns.value));
        if text(was, &format!("/metadata/labels/{FAMILY}")).is_empty() || self.asked.contains(key) || goes_with_it {
            return Vec::new();
        }
        if owners(was).next().is_none() {
            return vec!["deleted, and has no owner".into()];
        }
        let alive = owners(was).find(|owner| lives(owner, was, objects));
        let broken = alive.map(|owner| format!("deleted, and its owner lives: {owner}"));
        let spared = self.kept.contains(key).then(|| "deleted, and was to be orphaned".to_owned());
        broken.into_iter().chain(spared).collect()
    }
}

/// What of the families is not as it must be in the end: who has an owner has one that lives, and no other.
pub fn unsettled(objects: &Objects) -> Vec<String> {
    let families = of(objects, "/registry/configmaps/").filter(|o| !text(o, &format!("/metadata/labels/{FAMILY}")).is_empty());
    let wrong = |object: &&Value| is_going(object) || owners(object).any(|owner| !lives(owner, object, objects));
    families.filter(wrong).map(|object| format!("left over: {}", object["metadata"])).collect()
}

pub fn owners(object: &Value) -> impl Iterator<Item = &Value> {
    object.pointer("/metadata/ownerReferences").and_then(Value::as_array).into_iter().flatten()
}

/// Whether an owner is there, in the namespace of the object, and does not wait for the object to go.
fn lives(owner: &Value, object: &Value, objects: &Objects) -> bool {
    let key = format!("/registry/configmaps/{}/{}", text(object, "/metadata/namespace"), text(owner, "/name"));
    let found = objects.get(&key).filter(|o| o.value["metadata"]["uid"] == owner["uid"]);
    found.is_some_and(|o| !(is_going(&o.value) && finalizers(&o.value).any(|f| f == "foregroundDeletion")))
}

fn finalizers(object: &Value) -> impl Iterator<Item = &Value> {
    object.pointer("/metadata/finalizers").and_then(Value::as_array).into_iter().flatten()
}

fn of<'a>(objects: &'a Objects, prefix: &'a str) -> impl Iterator<Item = &'a Value> {
    objects.range(prefix.to_owned()..).take_while(move |(k, _)| k.starts_with(prefix)).map(|(_, s)| &s.value)
}

fn is_going(object: &Value) -> bool {
    !text(object, "/metadata/deletionTimestamp").is_empty()
}

/// Taints that drive pods away.
fn taints(node: &Value) -> impl Iterator<Item = &Value> {
    node.pointer("/spec/taints").and_then(Value::as_array).into_iter().flatten().filter(|t| t["effect"] == "NoExecute")
}

fn doom(pod: &Value) -> &str {
    let conditions = pod.pointer("/status/conditions").and_then(Value::as_array).into_iter().flatten();
    conditions.into_iter().find(|c| c["type"] == "DisruptionTarget").map_or("", |c| text(c, "/reason"))
}

/// How long a pod stays at least under these taints.
fn patience(pod: &Value, taints: &[&Value]) -> Duration {
    let tolerations: Vec<&Value> = pod.pointer("/spec/tolerations").and_then(Value::as_array).into_iter().flatten().collect();
    let tolerates = |t: &Value, taint: &Value| t["operator"] == "Exists" && (t["key"].is_null() || t["key"] == taint["key"]);
    if !taints.iter().all(|taint| tolerations.iter().any(|t| tolerates(t, taint))) {
        return Duration::ZERO;
    }
    // What was settled under one taint stays settled under another: the shortest of all counts.
    let seconds = tolerations.iter().filter_map(|t| t["tolerationSeconds"].as_i64()).min();
    seconds.map_or(Duration::MAX / 2, |s| Duration::from_secs(s.max(0).unsigned_abs()))
}
