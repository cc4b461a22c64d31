//! Pods as they change -> those of each controller, and how many of them stand how, without a look at all of them.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use api::{selector::Labels, steps, time::Timestamp};
use client::{Cache, pods::Pod};
use parking_lot::RwLock;
use reconcile::{
    controller_of,
    selectors::{Map, anchor},
};

/// By namespace: who owns what in another one owns nothing. A change of a pod costs O(its labels).
#[derive(Clone, Default)]
pub struct Owned {
    spaces: Arc<RwLock<HashMap<String, Space>>>,
}

#[derive(Default)]
struct Space {
    /// By the controller's uid.
    by_owner: HashMap<String, Entry>,
    orphans: Orphans,
}

#[derive(Default)]
struct Entry {
    /// By name.
    pods: HashMap<String, Arc<Pod>>,
    tally: Tally,
}

/// Pods without a controller.
#[derive(Default)]
struct Orphans {
    by_name: BTreeMap<String, Arc<Pod>>,
    by_label: HashMap<String, HashMap<String, BTreeSet<String>>>,
}

/// How the pods of one controller stand.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Tally {
    /// By the labels, which pods of one template share; in the order of [`Standing`].
    groups: HashMap<Map, [usize; 4]>,
    /// Of those that are ready: how many since each second.
    ready: BTreeMap<i64, usize>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    Ready,
    NotReady,
    Terminating,
    Over,
}

impl Owned {
    pub fn new(pods: &Cache<Pod>) -> Self {
        let this = Self::default();
        let kept = this.clone();
        pods.on_change(move |old, new| kept.put(old, new));
        this
    }

    /// A pod that is there, changed, or is gone.
    pub fn put(&self, old: Option<&Arc<Pod>>, new: Option<&Arc<Pod>>) {
        change(&mut self.spaces.write(), old, new);
    }

    /// All pods that the object with this uid controls, in no order.
    pub fn pods(&self, namespace: &str, uid: &str) -> Vec<Arc<Pod>> {
        let spaces = self.spaces.read();
        let entry = spaces.get(namespace).and_then(|space| space.by_owner.get(uid));
        steps::counted(entry.into_iter().flat_map(|entry| entry.pods.values())).cloned().collect()
    }

    /// How they stand. Of the times only those after `since` are told. Costs O(different labels, and seconds since then).
    pub fn tally(&self, namespace: &str, uid: &str, since: Timestamp) -> Tally {
        let spaces = self.spaces.read();
        let Some(entry) = spaces.get(namespace).and_then(|space| space.by_owner.get(uid)) else { return Tally::default() };
        let young = steps::counted(entry.tally.ready.range(since.as_second().saturating_add(1)..));
        steps::took(entry.tally.groups.len());
        Tally { ready: young.map(|(at, n)| (*at, *n)).collect(), groups: entry.tally.groups.clone() }
    }

    /// Pods without a controller that the selector matches, by name. Costs O(those that have one of its labels).
    pub fn orphans(&self, namespace: &str, selector: &Labels) -> Vec<Arc<Pod>> {
        let spaces = self.spaces.read();
        let Some(Space { orphans, .. }) = spaces.get(namespace) else { return Vec::new() };
        let matches = |pod: &&Arc<Pod>| selector.matches(Some(pod.labels()));
        match anchor(selector) {
            Some((label, value)) => {
                let names = orphans.by_label.get(label).and_then(|values| values.get(value)).into_iter().flatten();
                steps::counted(names).filter_map(|name| orphans.by_name.get(name)).filter(matches).cloned().collect()
            }
            None => steps::counted(orphans.by_name.values()).filter(matches).cloned().collect(),
        }
    }

    /// Whether the object with this uid controls pods that are not over.
    pub fn has_living(&self, namespace: &str, uid: &str) -> bool {
        let spaces = self.spaces.read();
        let entry = spaces.get(namespace).and_then(|space| space.by_owner.get(uid));
        entry.is_some_and(|entry| entry.tally.groups.values().any(|[ready, not_ready, terminating, _]| ready + not_ready + terminating > 0))
    }
}

impl Tally {
    /// Neither over nor being deleted.
    pub fn active(&self) -> usize {
        self.groups.values().map(|[ready, not_ready, ..]| ready + not_ready).sum()
    }

    pub fn ready(&self) -> usize {
        self.groups.values().map(|[ready, ..]| ready).sum()
    }

    pub fn terminating(&self) -> usize {
        self.groups.values().map(|[.., terminating, _]| terminating).sum()
    }

    /// Of the active ones, those that have all of the labels.
    pub fn having(&self, labels: Option<&Map>) -> usize {
        let has_all = |of: &Map| labels.into_iter().flatten().all(|(k, v)| of.get(k) == Some(v));
        self.groups.iter().filter(|(of, _)| has_all(of)).map(|(_, [ready, not_ready, ..])| ready + not_ready).sum()
    }

    /// The selector matches every single one.
    pub fn is_within(&self, selector: &Labels) -> bool {
        self.groups.keys().all(|labels| selector.matches(Some(labels)))
    }

    /// Since when the youngest are ready (seconds), and how many.
    pub fn newly_ready(&self) -> impl Iterator<Item = (i64, usize)> {
        self.ready.iter().map(|(at, n)| (*at, *n))
    }

    fn add(&mut self, pod: &Pod) {
        match self.groups.get_mut(pod.labels()) {
            Some(counts) => counts[standing(pod) as usize] += 1,
            None => self.groups.entry(pod.labels().clone()).or_default()[standing(pod) as usize] += 1,
        }
        if let Some(at) = ready_second(pod) {
            *self.ready.entry(at).or_default() += 1;
        }
    }

    fn remove(&mut self, pod: &Pod) {
        if let Some(counts) = self.groups.get_mut(pod.labels()) {
            let count = &mut counts[standing(pod) as usize];
            *count = count.saturating_sub(1);
            if *counts == [0; 4] {
                self.groups.remove(pod.labels());
            }
        }
        let Some(at) = ready_second(pod) else { return };
        if let Some(count) = self.ready.get_mut(&at) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                self.ready.remove(&at);
            }
        }
    }
}

impl Orphans {
    fn put(&mut self, name: &str, pod: &Arc<Pod>) {
        self.remove(name);
        for (label, value) in pod.labels() {
            self.by_label.entry(label.clone()).or_default().entry(value.clone()).or_default().insert(name.to_owned());
        }
        self.by_name.insert(name.to_owned(), pod.clone());
    }

    fn remove(&mut self, name: &str) {
        let Some(old) = self.by_name.remove(name) else { return };
        for (label, value) in old.labels() {
            let Some(values) = self.by_label.get_mut(label) else { continue };
            if let Some(names) = values.get_mut(value) {
                names.remove(name);
                if names.is_empty() {
                    values.remove(value);
                }
            }
            if values.is_empty() {
                self.by_label.remove(label);
            }
        }
    }
}

fn standing(pod: &Pod) -> Standing {
    match () {
        () if pod.is_over() => Standing::Over,
        () if pod.metadata.deletion_timestamp.is_some() => Standing::Terminating,
        () if pod.ready_since().is_some() => Standing::Ready,
        () => Standing::NotReady,
    }
}

fn ready_second(pod: &Pod) -> Option<i64> {
    (standing(pod) == Standing::Ready).then(|| pod.ready_since().map(|at| at.as_second())).flatten()
}

fn change(spaces: &mut HashMap<String, Space>, old: Option<&Arc<Pod>>, new: Option<&Arc<Pod>>) {
    if let Some(old) = old {
        // What stays with its owner keeps its place there.
        let stays = new.is_some_and(|new| owner(new) == owner(old));
        let namespace = old.metadata.namespace.as_deref().unwrap_or_default();
        if let Some(space) = spaces.get_mut(namespace) {
            space.remove(old, stays);
            if space.by_owner.is_empty() && space.orphans.by_name.is_empty() && new.is_none() {
                spaces.remove(namespace);
            }
        }
    }
    let Some(new) = new else { return };
    let namespace = new.metadata.namespace.as_deref().unwrap_or_default();
    match spaces.get_mut(namespace) {
        Some(space) => space.put(new),
        None => spaces.entry(namespace.to_owned()).or_default().put(new),
    }
}

fn owner(pod: &Pod) -> Option<&str> {
    controller_of(pod).map(|reference| reference.uid.as_str())
}

impl Space {
    fn put(&mut self, pod: &Arc<Pod>) {
        let name = pod.metadata.name.as_deref().unwrap_or_default();
        let Some(owner) = owner(pod) else { return self.orphans.put(name, pod) };
        let entry = match self.by_owner.get_mut(owner) {
            Some(entry) => entry,
            None => self.by_owner.entry(owner.to_owned()).or_default(),
        };
        entry.tally.add(pod);
        entry.pods.insert(name.to_owned(), pod.clone());
    }

    fn remove(&mut self, pod: &Pod, stays: bool) {
        let name = pod.metadata.name.as_deref().unwrap_or_default();
        let Some(owner) = owner(pod) else { return self.orphans.remove(name) };
        let Some(entry) = self.by_owner.get_mut(owner) else { return };
        entry.tally.remove(pod);
        if stays {
            return;
        }
        entry.pods.remove(name);
        if entry.pods.is_empty() {
            self.by_owner.remove(owner);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(name: &str, owner: Option<&str>, app: &str, status: &serde_json::Value) -> Arc<Pod> {
        let owners = owner.map(|uid| json!([{"uid": uid, "controller": true, "apiVersion": "v1", "kind": "X", "name": "x"}]));
        let metadata = json!({"name": name, "namespace": "d", "labels": {"app": app}, "ownerReferences": owners});
        Arc::new(serde_json::from_value(json!({"metadata": metadata, "status": status})).unwrap())
    }

    fn ready(at: &str) -> serde_json::Value {
        json!({"phase": "Running", "conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": at}]})
    }

    #[test]
    fn the_tally_is_what_counting_would_give() {
        let owned = Owned::default();
        let waiting = json!({"phase": "Pending"});
        let mut last: HashMap<&str, Arc<Pod>> = HashMap::new();
        let mut step = |name: &'static str, new: Option<Arc<Pod>>| {
            change(&mut owned.spaces.write(), last.get(name), new.as_ref());
            match new {
                Some(new) => drop(last.insert(name, new)),
                None => drop(last.remove(name)),
            }
            let mut counted = Tally::default();
            last.values().filter(|pod| owner(pod) == Some("u")).for_each(|pod| counted.add(pod));
            assert_eq!(owned.tally("d", "u", Timestamp::MIN), counted, "{name}");
            assert_eq!(owned.pods("d", "u").len(), last.values().filter(|pod| owner(pod) == Some("u")).count());
        };
        step("a", Some(pod("a", Some("u"), "web", &waiting)));
        step("b", Some(pod("b", Some("u"), "web", &waiting)));
        step("a", Some(pod("a", Some("u"), "web", &ready("2026-01-01T00:00:00Z"))));
        step("b", Some(pod("b", Some("u"), "db", &ready("2026-01-01T00:00:05Z"))));
        step("c", Some(pod("c", None, "web", &waiting)));
        step("c", Some(pod("c", Some("u"), "web", &json!({"phase": "Failed"}))));
        step("a", Some(pod("a", Some("other"), "web", &waiting)));
        step("b", None);
        step("c", Some(pod("c", None, "web", &waiting)));
        assert_eq!(owned.orphans("d", &Labels::parse("app=web").unwrap()).len(), 1);
        assert_eq!(owned.orphans("d", &Labels::parse("app in (web,db)").unwrap()).len(), 1);
        assert!(owned.orphans("d", &Labels::parse("app=db").unwrap()).is_empty());
        assert!(owned.has_living("d", "other") && !owned.has_living("e", "other") && !owned.has_living("d", "u"));
        for name in ["a", "c"] {
            let old = if name == "a" { pod("a", Some("other"), "web", &waiting) } else { pod("c", None, "web", &waiting) };
            change(&mut owned.spaces.write(), Some(&old), None);
        }
        assert!(owned.spaces.read().is_empty(), "nothing is left behind");
    }
}
