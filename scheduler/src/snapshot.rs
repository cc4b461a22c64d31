//! Nodes and pods as they change -> the node snapshot that plans read.
//!
//! Kept by events: a node costs its own `NodeInfo` and labels, a pod its node's `NodeInfo` and the counters that are about it.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
};

use api::{Key, steps};

use crate::{
    budgets::Budgets,
    column::Column,
    counters::{CounterId, Counters, Terms, forces},
    cycle_state::CycleState,
    node::{Facts, NodeInfo, Slot},
    pod::PodInfo,
    terms::{Matcher, Namespaces},
    topology::{Topologies, TopologyId},
    volumes::Volumes,
};

/// Nodes that changed, remembered for readers that keep results per node; a reader further behind starts anew.
const CHANGES_MAX: usize = 8192;

#[derive(Debug, Default)]
pub struct Snapshot {
    node_infos: Vec<NodeInfo>,
    by_name: HashMap<String, Slot>,
    free: Vec<Slot>,
    live: Vec<Slot>,
    /// Where a slot stands among the living, counted from 1; 0 is nowhere.
    live_at: Column<usize>,
    pods: HashMap<Key, Placed>,
    pub topologies: Topologies,
    pub counters: Counters,
    pub terms: Terms,
    pub namespaces: Namespaces,
    pub budgets: Budgets,
    pub volumes: Volumes,
    /// What plugins reserved for pods that are to be bound, or know beyond one pod.
    pub reserved: CycleState,
    /// How many nodes have an image.
    images: HashMap<String, usize>,
    /// Changes where a score of images may change on nodes that did not.
    pub images_version: u64,
    changes: VecDeque<Slot>,
    /// How many changes were forgotten.
    changes_base: u64,
    nominated: HashMap<Key, (String, Arc<PodInfo>)>,
    nominated_on: HashMap<String, Vec<Key>>,
    /// How many of the nominated speak about other pods.
    nominated_speaking: usize,
}

#[derive(Debug)]
struct Placed {
    slot: Slot,
    info: Arc<PodInfo>,
    assumed: bool,
}

/// What became of a node, for those who wait for it.
pub enum NodeChange {
    Added(Arc<Facts>),
    Changed(Arc<Facts>, Arc<Facts>),
}

/// What became of a bound pod.
#[derive(Debug)]
pub enum PodChange {
    Placed,
    /// As it was, as far as it matters here.
    Same,
    /// It was like this before.
    Changed(Arc<PodInfo>),
}

impl Snapshot {
    pub fn node_info(&self, slot: Slot) -> Option<&NodeInfo> {
        self.node_infos.get(slot)
    }

    pub fn find(&self, node: &str) -> Option<&NodeInfo> {
        self.node_infos.get(*self.by_name.get(node)?).filter(|r| r.exists)
    }

    /// The nodes that exist.
    pub fn nodes(&self) -> impl Iterator<Item = &NodeInfo> {
        steps::counted(self.live.iter()).filter_map(|slot| self.node_infos.get(*slot))
    }

    pub fn len(&self) -> usize {
        self.live.len()
    }

    pub fn is_empty(&self) -> bool {
        self.live.is_empty()
    }

    /// `None` if nothing changed that matters here (a heartbeat).
    pub fn set_node(&mut self, facts: Facts) -> Option<NodeChange> {
        let slot = self.slot_of(&facts.name);
        let node = self.node_infos.get_mut(slot)?;
        if node.exists && *node.facts == facts {
            return None;
        }
        let facts = Arc::new(facts);
        node.stamp += 1;
        let old = std::mem::replace(&mut node.facts, facts.clone());
        let existed = std::mem::replace(&mut node.exists, true);
        self.relabel(slot, Some(&facts.labels));
        if existed {
            self.swap_images(&old, &facts);
        } else {
            self.live.push(slot);
            *self.live_at.slot(slot) = self.live.len();
            self.swap_images(&Facts::default(), &facts);
            self.share_of_images_changed();
        }
        self.changed(slot);
        Some(if existed { NodeChange::Changed(old, facts) } else { NodeChange::Added(facts) })
    }

    pub fn remove_node(&mut self, name: &str) -> Option<Arc<Facts>> {
        let slot = *self.by_name.get(name)?;
        let node = self.node_infos.get_mut(slot).filter(|r| r.exists)?;
        node.exists = false;
        node.stamp += 1;
        let nameless = Facts { name: name.to_owned(), ..Facts::default() };
        let old = std::mem::replace(&mut node.facts, Arc::new(nameless));
        self.bury(slot);
        self.relabel(slot, None);
        self.swap_images(&old, &Facts::default());
        self.share_of_images_changed();
        self.changed(slot);
        self.drop_if_unused(slot);
        Some(old)
    }

    /// Puts the pod on the node; one of the same name that was elsewhere leaves.
    pub fn put_pod(&mut self, info: Arc<PodInfo>, node: &str) -> PodChange {
        let same =
            self.pods.get(&info.key).filter(|p| self.by_name.get(node) == Some(&p.slot) && p.info.weighs_like(&info)).map(|p| p.slot);
        let Some(slot) = same else {
            let old = self.take_pod(&info.key);
            self.place(info, node, false);
            return old.map_or(PodChange::Placed, PodChange::Changed);
        };
        // Most events: the kubelet reports, or the cache shows what we assumed.
        if let Some(node) = self.node_infos.get_mut(slot) {
            node.replace(&info);
        }
        let placed = Placed { slot, info: info.clone(), assumed: false };
        self.pods.insert(info.key.clone(), placed);
        PodChange::Same
    }

    /// The pod will be bound to the node: it counts from now on.
    pub fn assume(&mut self, info: Arc<PodInfo>, node: &str) {
        self.take_pod(&info.key);
        self.place(info, node, true);
    }

    /// The binding failed. True if this very pod was still only assumed.
    pub fn forget(&mut self, info: &PodInfo) -> bool {
        let assumed = self.pods.get(&info.key).is_some_and(|p| p.assumed && p.info.uid == info.uid);
        if assumed {
            self.take_pod(&info.key);
        }
        assumed
    }

    /// The node that the pod counts on.
    pub fn node_of(&self, key: &Key) -> Option<&str> {
        Some(self.node_infos.get(self.pods.get(key)?.slot)?.name())
    }

    pub fn is_assumed(&self, key: &Key) -> bool {
        self.pods.get(key).is_some_and(|p| p.assumed)
    }

    pub fn take_pod(&mut self, key: &Key) -> Option<Arc<PodInfo>> {
        let Placed { slot, info, .. } = self.pods.remove(key)?;
        if let Some(node) = self.node_infos.get_mut(slot) {
            node.remove(&info);
        }
        self.count(&info, slot, -1);
        self.changed(slot);
        self.drop_if_unused(slot);
        Some(info)
    }

    pub fn set_namespace(&mut self, name: &str, labels: Option<&std::collections::BTreeMap<String, String>>) {
        if labels.is_some() && self.namespaces.get(name) == labels {
            return;
        }
        match labels {
            Some(labels) => self.namespaces.insert(name.to_owned(), labels.clone()),
            None => self.namespaces.remove(name),
        };
        let pods = &self.pods;
        self.counters.recount(|| steps::counted(pods.values()).map(|p| (p.slot, &*p.info)), &self.namespaces);
    }

    pub fn topology(&mut self, key: &str) -> TopologyId {
        let nodes = steps::counted(self.live.iter()).filter_map(|slot| self.node_infos.get(*slot));
        self.topologies.intern(key, nodes.map(|r| (r.slot, &r.facts.labels)))
    }

    pub fn counter(&mut self, matcher: Matcher) -> CounterId {
        self.counters.intern(matcher, steps::counted(self.pods.values()).map(|p| (p.slot, &*p.info)), &self.namespaces)
    }

    /// The counter, with its sums per domain.
    pub fn summed(&mut self, matcher: Matcher, topology: TopologyId) -> CounterId {
        let id = self.counter(matcher);
        self.counters.sum(id, topology, &self.topologies);
        id
    }

    pub fn nodes_with_image(&self, name: &str) -> usize {
        self.images.get(name).copied().unwrap_or(0)
    }

    /// The pod is expected on the node once its victims are gone (`None`: no longer).
    pub fn nominate(&mut self, info: &Arc<PodInfo>, node: Option<&str>) {
        if let Some((old, was)) = self.nominated.remove(&info.key) {
            self.nominated_speaking -= usize::from(was.affinity.is_some());
            if let Some(keys) = self.nominated_on.get_mut(&old) {
                keys.retain(|k| *k != info.key);
                if keys.is_empty() {
                    self.nominated_on.remove(&old);
                }
            }
            self.expect(&old);
        }
        if let Some(node) = node {
            self.nominated.insert(info.key.clone(), (node.to_owned(), info.clone()));
            self.nominated_speaking += usize::from(info.affinity.is_some());
            self.nominated_on.entry(node.to_owned()).or_default().push(info.key.clone());
            self.expect(node);
        }
    }

    /// Nominations of the node came or went.
    fn expect(&mut self, node: &str) {
        let expected = self.nominated_on.get(node).map_or(0, Vec::len);
        let Some(slot) = self.by_name.get(node).copied() else { return };
        if let Some(node) = self.node_infos.get_mut(slot) {
            node.expected = expected;
            node.stamp += 1;
        }
        self.changed(slot);
    }

    /// Some nominated pod speaks about other pods.
    pub fn has_speaking_nominations(&self) -> bool {
        self.nominated_speaking > 0
    }

    pub fn expected_on(&self, node: &NodeInfo) -> impl Iterator<Item = &Arc<PodInfo>> {
        let name = (node.expected > 0).then(|| node.name());
        name.into_iter().flat_map(|name| self.nominated_on(name))
    }

    pub fn has_nominations(&self) -> bool {
        !self.nominated.is_empty()
    }

    pub fn nominated_on(&self, node: &str) -> impl Iterator<Item = &Arc<PodInfo>> {
        self.nominated_on.get(node).into_iter().flatten().filter_map(|key| Some(&self.nominated.get(key)?.1))
    }

    /// The nominations to the node that are worth less than `priority` end.
    pub fn unnominate_weaker(&mut self, priority: i32, node: &str) -> Vec<Arc<PodInfo>> {
        let weaker: Vec<Arc<PodInfo>> = self.nominated_on(node).filter(|p| p.priority < priority).cloned().collect();
        weaker.iter().for_each(|p| self.nominate(p, None));
        weaker
    }

    pub fn nominated_node(&self, key: &Key) -> Option<&str> {
        self.nominated.get(key).map(|(node, _)| node.as_str())
    }

    /// How many changes of nodes there were.
    pub fn version(&self) -> u64 {
        self.changes_base + self.changes.len() as u64
    }

    /// The nodes that changed since; `None` if that is not remembered.
    pub fn changed_since(&self, version: u64) -> Option<impl Iterator<Item = Slot> + '_> {
        let skip = usize::try_from(version.checked_sub(self.changes_base)?).ok()?;
        Some(steps::counted(self.changes.iter().skip(skip)).copied())
    }

    fn relabel(&mut self, slot: Slot, labels: Option<&std::collections::BTreeMap<String, String>>) {
        let moves = self.topologies.update(slot, labels);
        self.counters.moved(&moves);
        self.terms.moved(&moves);
    }

    fn place(&mut self, info: Arc<PodInfo>, node: &str, assumed: bool) {
        let slot = self.slot_of(node);
        if let Some(node) = self.node_infos.get_mut(slot) {
            node.add(&info);
        }
        self.count(&info, slot, 1);
        self.pods.insert(info.key.clone(), Placed { slot, info, assumed });
        self.changed(slot);
    }

    fn count(&mut self, info: &PodInfo, slot: Slot, by: i32) {
        self.volumes.used(info, slot, by);
        self.counters.update(info, slot, by, &self.namespaces, &self.topologies);
        for (term, force) in forces(info) {
            let topology = self.topology(&term.topology_key);
            self.terms.update(term, force, topology, slot, by, &self.topologies);
        }
    }

    /// The slot of this name; a new one, of a node that does not exist yet, where the name is new.
    fn slot_of(&mut self, name: &str) -> Slot {
        if let Some(slot) = self.by_name.get(name) {
            return *slot;
        }
        let slot = self.free.pop().unwrap_or(self.node_infos.len());
        let facts = Arc::new(Facts { name: name.to_owned(), ..Facts::default() });
        // A number that this slot has not had.
        let stamp = self.node_infos.get(slot).map_or(0, |node| node.stamp + 1);
        let expected = self.nominated_on.get(name).map_or(0, Vec::len);
        let node = NodeInfo { slot, stamp, expected, facts, ..NodeInfo::default() };
        if slot == self.node_infos.len() {
            self.node_infos.push(node);
        } else if let Some(old) = self.node_infos.get_mut(slot) {
            *old = node;
        }
        self.by_name.insert(name.to_owned(), slot);
        slot
    }

    fn drop_if_unused(&mut self, slot: Slot) {
        let Some(node) = self.node_infos.get(slot).filter(|r| !r.exists && r.pods.is_empty()) else { return };
        self.by_name.remove(node.name());
        self.free.push(slot);
    }

    fn swap_images(&mut self, old: &Facts, new: &Facts) {
        if old.images == new.images {
            return;
        }
        self.images_version += 1;
        for name in new.images.keys() {
            *self.images.entry(name.clone()).or_insert(0) += 1;
        }
        for name in old.images.keys() {
            if let Some(count) = self.images.get_mut(name) {
                *count -= 1;
                if *count == 0 {
                    self.images.remove(name);
                }
            }
        }
    }

    /// How common an image is depends on how many nodes there are: of no account while no node has any.
    fn share_of_images_changed(&mut self) {
        self.images_version += u64::from(!self.images.is_empty());
    }

    fn bury(&mut self, slot: Slot) {
        let Some(at) = std::mem::take(self.live_at.slot(slot)).checked_sub(1) else { return };
        self.live.swap_remove(at);
        if let Some(moved) = self.live.get(at) {
            *self.live_at.slot(*moved) = at + 1;
        }
    }

    fn changed(&mut self, slot: Slot) {
        self.changes.push_back(slot);
        if self.changes.len() > CHANGES_MAX {
            self.changes.pop_front();
            self.changes_base += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::{node, pod};
    use serde_json::json;

    fn facts(cpu: &str) -> Facts {
        Facts::new(&node(&json!({"metadata": {"name": "a"}, "status": {"allocatable": {"cpu": cpu}, "conditions": []}})))
    }

    fn asking(uid: &str, cpu: &str) -> Arc<PodInfo> {
        let containers = json!([{"name": "c", "resources": {"requests": {"cpu": cpu}}}]);
        Arc::new(pod(&json!({"metadata": {"uid": uid}, "spec": {"containers": containers}})))
    }

    fn used(snapshot: &Snapshot) -> i64 {
        snapshot.find("a").unwrap().used.milli_cpu
    }

    #[test]
    fn heartbeats_change_nothing() {
        let mut snapshot = Snapshot::default();
        assert!(matches!(snapshot.set_node(facts("1")), Some(NodeChange::Added(_))));
        let version = snapshot.version();
        assert!(snapshot.set_node(facts("1")).is_none());
        assert_eq!(snapshot.version(), version);
        assert!(matches!(snapshot.set_node(facts("2")), Some(NodeChange::Changed(..))));
    }

    #[test]
    fn assumed_pods_count_and_are_confirmed_at_no_cost() {
        let mut snapshot = Snapshot::default();
        snapshot.set_node(facts("4"));
        snapshot.assume(asking("u", "1"), "a");
        let version = snapshot.version();
        assert_eq!(used(&snapshot), 1000);
        assert!(matches!(snapshot.put_pod(asking("u", "1"), "a"), PodChange::Same));
        assert_eq!((used(&snapshot), snapshot.version()), (1000, version));
        assert!(!snapshot.forget(&asking("u", "1")), "it is bound now");
        assert!(matches!(snapshot.put_pod(asking("u", "2"), "a"), PodChange::Changed(_)));
        assert_eq!(used(&snapshot), 2000);
    }

    #[test]
    fn a_failed_binding_frees_its_own_pod_only() {
        let mut snapshot = Snapshot::default();
        snapshot.set_node(facts("4"));
        snapshot.assume(asking("new", "1"), "a");
        assert!(!snapshot.forget(&asking("old", "1")));
        assert!(snapshot.forget(&asking("new", "1")));
        assert_eq!(used(&snapshot), 0);
    }

    #[test]
    fn pods_outlive_their_node_and_are_found_again() {
        let mut snapshot = Snapshot::default();
        snapshot.put_pod(asking("u", "1"), "a");
        assert!(snapshot.is_empty());
        snapshot.set_node(facts("4"));
        assert_eq!(used(&snapshot), 1000);
        snapshot.remove_node("a");
        assert!(snapshot.find("a").is_none());
        snapshot.set_node(facts("4"));
        assert_eq!(used(&snapshot), 1000);
        snapshot.take_pod(&Key::new("default", "p"));
        snapshot.remove_node("a");
        assert!(snapshot.by_name.is_empty(), "nothing is left of it");
    }
}
