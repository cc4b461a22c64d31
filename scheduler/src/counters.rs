//! Pods that come and go -> counts per node, for every question that was asked about pods.
//!
//! Two kinds: how many pods a selector matches (asked by the pod that is to be placed), and how many pods have a term (asked about by
//! every pod). Each event touches only the counters of its namespace. Where somebody asks about a topology key, sums per domain are kept too.

use std::collections::HashMap;

use api::steps;

use crate::{
    column::Column,
    node::Slot,
    pod::PodInfo,
    terms::{Matcher, Namespaces, Term},
    topology::{Move, NO_DOMAIN, Topologies, TopologyId},
};

/// Counters that are kept; beyond it those that nobody asked for lately go.
const COUNTERS_MAX: usize = 1024;

pub type CounterId = usize;

/// How many pods match, per node.
#[derive(Debug, Default)]
pub struct Counters {
    by_id: HashMap<String, CounterId>,
    /// By the one namespace they look at; the rest under "".
    by_namespace: HashMap<String, Vec<CounterId>>,
    all: Vec<Option<Counter>>,
    tick: u64,
}

#[derive(Debug)]
struct Counter {
    matcher: Matcher,
    count: Column<i32>,
    /// By the topologies that were asked for.
    sums: Vec<(TopologyId, Column<i64>)>,
    asked: u64,
    born: u64,
}

/// What a term of a pod means for pods that come after it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Force {
    /// Required anti-affinity: keeps others away.
    Repels,
    /// Everything else only counts in scores: by its weight, negative for anti-affinity.
    Pulls(i64),
}

/// How many pods have each term, per node.
#[derive(Debug, Default)]
pub struct Terms {
    by_id: HashMap<String, usize>,
    by_namespace: HashMap<String, Vec<usize>>,
    all: Vec<Option<Group>>,
    free: Vec<usize>,
}

/// Equal terms of any number of pods.
#[derive(Debug)]
pub struct Group {
    id: String,
    pub term: Term,
    pub force: Force,
    pub topology: TopologyId,
    count: Column<i32>,
    /// Per domain of its topology.
    pub sums: Column<i64>,
    total: i64,
}

impl Counters {
    /// `pods` are all there are: looked at once, if nobody asked this before.
    pub fn intern<'a>(&mut self, matcher: Matcher, pods: impl Iterator<Item = (Slot, &'a PodInfo)>, namespaces: &Namespaces) -> CounterId {
        self.tick += 1;
        if let Some(id) = self.by_id.get(&matcher.id).copied() {
            if let Some(Some(counter)) = self.all.get_mut(id) {
                counter.asked = self.tick;
            }
            return id;
        }
        if self.by_id.len() >= COUNTERS_MAX {
            self.forget_half();
        }
        let id = self.all.iter().position(Option::is_none).unwrap_or(self.all.len());
        self.by_id.insert(matcher.id.clone(), id);
        self.by_namespace.entry(matcher.home().unwrap_or("").to_owned()).or_default().push(id);
        let mut counter = Counter { matcher, count: Column::default(), sums: Vec::new(), asked: self.tick, born: self.tick };
        counter.recount(pods, namespaces);
        if id == self.all.len() {
            self.all.push(Some(counter));
        } else if let Some(slot) = self.all.get_mut(id) {
            *slot = Some(counter);
        }
        id
    }

    /// From now on, [`Counters::sums`] of this topology are there.
    pub fn sum(&mut self, id: CounterId, topology: TopologyId, topologies: &Topologies) {
        let Some(Some(counter)) = self.all.get_mut(id) else { return };
        if counter.sums.iter().any(|(t, _)| *t == topology) {
            return;
        }
        let mut sums = Column::default();
        for (slot, count) in counter.count.iter().enumerate() {
            shift(&mut sums, topologies, topology, slot, count);
        }
        counter.sums.push((topology, sums));
    }

    /// Pods per domain; `None` if nobody asked for them.
    pub fn sums(&self, id: CounterId, topology: TopologyId) -> Option<&Column<i64>> {
        self.all.get(id)?.as_ref()?.sums.iter().find(|(t, _)| *t == topology).map(|(_, sums)| sums)
    }

    /// Labels of a node changed.
    pub fn moved(&mut self, moves: &[Move]) {
        for counter in self.all.iter_mut().flatten() {
            for to in moves {
                let count = counter.count.get(to.slot);
                counter.sums.iter_mut().filter(|(t, _)| *t == to.topology).for_each(|(_, sums)| carry(sums, to, count));
            }
        }
    }

    /// A pod came to the node (`by` = 1) or left it (-1).
    pub fn update(&mut self, pod: &PodInfo, slot: Slot, by: i32, namespaces: &Namespaces, topologies: &Topologies) {
        for home in [pod.key.namespace.as_str(), ""] {
            for id in steps::counted(self.by_namespace.get(home).into_iter().flatten()) {
                if let Some(Some(counter)) = self.all.get_mut(*id) {
                    counter.update(pod, slot, by, namespaces, topologies);
                }
            }
        }
    }

    /// Labels of a namespace changed: what selects by them is counted again.
    pub fn recount<'a, I: Iterator<Item = (Slot, &'a PodInfo)>>(&mut self, pods: impl Fn() -> I, namespaces: &Namespaces) {
        for counter in self.all.iter_mut().flatten().filter(|c| c.matcher.reads_namespaces()) {
            counter.recount(pods(), namespaces);
        }
    }

    pub fn count(&self, id: CounterId, slot: Slot) -> i64 {
        self.all.get(id).and_then(Option::as_ref).map_or(0, |c| i64::from(c.count.get(slot)))
    }

    /// Another one for each counter that ever had the id.
    pub fn born(&self, id: CounterId) -> u64 {
        self.all.get(id).and_then(Option::as_ref).map_or(0, |c| c.born)
    }

    pub fn matches(&self, id: CounterId, pod: &PodInfo, namespaces: &Namespaces) -> bool {
        let counter = self.all.get(id).and_then(Option::as_ref);
        counter.is_some_and(|c| c.matcher.matches(&pod.key.namespace, pod.labels(), false, namespaces))
    }

    /// Ids that a caller still holds stay valid for as long as it asks for fewer than half of them.
    fn forget_half(&mut self) {
        let keep = self.tick.saturating_sub(COUNTERS_MAX as u64 / 2);
        let all = &mut self.all;
        for slot in all.iter_mut() {
            if slot.as_ref().is_some_and(|c| c.asked < keep) {
                *slot = None;
            }
        }
        let stays = |id: &CounterId| all.get(*id).is_some_and(Option::is_some);
        self.by_id.retain(|_, id| stays(id));
        self.by_namespace.retain(|_, ids| {
            ids.retain(stays);
            !ids.is_empty()
        });
    }
}

impl Counter {
    fn update(&mut self, pod: &PodInfo, slot: Slot, by: i32, namespaces: &Namespaces, topologies: &Topologies) {
        if self.matcher.matches(&pod.key.namespace, pod.labels(), pod.terminating, namespaces) {
            *self.count.slot(slot) += by;
            self.sums.iter_mut().for_each(|(topology, sums)| shift(sums, topologies, *topology, slot, by));
        }
    }

    /// The sums are made anew when they are asked for.
    fn recount<'a>(&mut self, pods: impl Iterator<Item = (Slot, &'a PodInfo)>, namespaces: &Namespaces) {
        self.count.clear();
        self.sums.clear();
        for (slot, pod) in pods {
            self.update(pod, slot, 1, namespaces, &Topologies::default());
        }
    }
}

/// The pod's terms with what each means for others. A required affinity term pulls with weight 1 (upstream's `HardPodAffinityWeight`).
pub fn forces(pod: &PodInfo) -> impl Iterator<Item = (&Term, Force)> {
    pod.affinity.iter().flat_map(|a| {
        let repels = a.required_anti.iter().map(|t| (t, Force::Repels));
        let hard = a.required.iter().map(|t| (t, Force::Pulls(1)));
        let near = a.preferred.iter().map(|(weight, t)| (t, Force::Pulls(*weight)));
        let far = a.preferred_anti.iter().map(|(weight, t)| (t, Force::Pulls(-weight)));
        repels.chain(hard).chain(near).chain(far)
    })
}

impl Terms {
    pub fn update(&mut self, term: &Term, force: Force, topology: TopologyId, slot: Slot, by: i32, topologies: &Topologies) {
        let id = format!("{topology}{force:?}{}", term.selected.id());
        let at = self.by_id.get(&id).copied().unwrap_or_else(|| self.insert(id, term, force, topology));
        let Some(Some(group)) = self.all.get_mut(at) else { return };
        *group.count.slot(slot) += by;
        shift(&mut group.sums, topologies, topology, slot, by);
        group.total += i64::from(by);
        if group.total == 0 {
            self.remove(at);
        }
    }

    /// Labels of a node changed.
    pub fn moved(&mut self, moves: &[Move]) {
        for group in self.all.iter_mut().flatten() {
            let count = |to: &Move| group.count.get(to.slot);
            for to in moves.iter().filter(|to| to.topology == group.topology) {
                carry(&mut group.sums, to, count(to));
            }
        }
    }

    /// The terms of placed pods that mean this pod.
    pub fn about<'a, 'b>(&'a self, pod: &'b PodInfo, namespaces: &'b Namespaces) -> impl Iterator<Item = &'a Group> + use<'a, 'b> {
        let ids = [pod.key.namespace.as_str(), ""].into_iter().flat_map(|home| self.by_namespace.get(home).into_iter().flatten());
        let groups = steps::counted(ids).filter_map(|id| self.all.get(*id)?.as_ref());
        groups.filter(|g| g.term.selected.matches(&pod.key.namespace, pod.labels(), namespaces))
    }

    fn insert(&mut self, id: String, term: &Term, force: Force, topology: TopologyId) -> usize {
        let group =
            Group { id: id.clone(), term: term.clone(), force, topology, count: Column::default(), sums: Column::default(), total: 0 };
        let at = self.free.pop().unwrap_or(self.all.len());
        if at == self.all.len() {
            self.all.push(Some(group));
        } else if let Some(slot) = self.all.get_mut(at) {
            *slot = Some(group);
        }
        for home in homes(term) {
            self.by_namespace.entry(home).or_default().push(at);
        }
        self.by_id.insert(id, at);
        at
    }

    fn remove(&mut self, at: usize) {
        let Some(group) = self.all.get_mut(at).and_then(Option::take) else { return };
        self.by_id.remove(&group.id);
        for home in homes(&group.term) {
            if let Some(ids) = self.by_namespace.get_mut(&home) {
                ids.retain(|id| *id != at);
            }
        }
        self.free.push(at);
    }
}

/// The namespaces a term names, or "" where a selector chooses.
fn homes(term: &Term) -> Vec<String> {
    term.selected.limited_to().map_or_else(|| vec![String::new()], |spaces| spaces.iter().cloned().collect())
}

/// Nodes without the key have no domain, and count nowhere.
fn shift(sums: &mut Column<i64>, topologies: &Topologies, topology: TopologyId, slot: Slot, by: i32) {
    let domain = topologies.domain(topology, slot);
    if domain != NO_DOMAIN && by != 0 {
        *sums.slot(domain) += i64::from(by);
    }
}

fn carry(sums: &mut Column<i64>, to: &Move, count: i32) {
    if count == 0 {
        return;
    }
    if to.from != NO_DOMAIN {
        *sums.slot(to.from) -= i64::from(count);
    }
    if to.to != NO_DOMAIN {
        *sums.slot(to.to) += i64::from(count);
    }
}
