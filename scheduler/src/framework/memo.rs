//! Pods that are alike -> what single nodes say to them, asked once per change of a node and not once per pod.

use std::{cell::RefCell, collections::HashMap};

use super::{Ask, Plugins};
use crate::{
    affinity,
    crowds::Crowds,
    evictions::Evictions,
    node::{NodeInfo, Slot},
    ranking::Ranking,
    refusal::Refusal,
    snapshot::Snapshot,
    taints,
};

/// Classes of pods that are remembered.
const CLASSES_MAX: usize = 128;

#[derive(Debug, Default)]
pub struct Memo {
    classes: HashMap<Vec<u8>, EquivalenceClass>,
    tick: u64,
    /// Of the last pod that named its node: it has none of its like, as those of a `DaemonSet`.
    pinned: EquivalenceClass,
}

/// What each node says to one class of pods, other nodes aside.
#[derive(Debug, Default)]
pub struct EquivalenceClass {
    cells: Vec<Option<Cell>>,
    /// By slot and by plugin, before they are compared with other nodes'; as many for each slot as there are plugins.
    scores: Vec<i64>,
    /// The nodes that fit, by the sum of the scores that need no comparing.
    pub ranking: Ranking,
    /// How many nodes say so.
    pub refusals: HashMap<Refusal, usize>,
    /// The nodes where fewer pods could help.
    pub resolvable: Ranking,
    /// Nodes that fit and have a score that wants comparing, by plugin.
    uneven: Vec<usize>,
    /// Nodes that the pods' own node affinity rules out.
    pub foreign: usize,
    /// Nodes with a taint that the pods do not tolerate.
    pub untolerated: usize,
    /// Who would have to leave.
    pub evictions: RefCell<Evictions>,
    /// The nodes that fit, by their crowds.
    pub crowds: RefCell<Crowds>,
    version: u64,
    images_version: u64,
    asked: u64,
    /// The only node that was looked at.
    only: Option<Slot>,
}

#[derive(Clone, Debug, Default)]
pub struct Cell {
    pub refusal: Option<Refusal>,
    pub affinity_matches: bool,
    pub taints_tolerated: bool,
}

impl Memo {
    /// The class of the pod, as the snapshot is now.
    pub fn class(&mut self, snapshot: &Snapshot, ask: &Ask) -> &EquivalenceClass {
        if let Some(name) = pinned_to(ask) {
            self.pinned.look_at_only(snapshot, ask, name);
            return &self.pinned;
        }
        self.tick += 1;
        if !self.classes.contains_key(&ask.signature) {
            if self.classes.len() >= CLASSES_MAX {
                self.forget_oldest();
            }
            self.classes.insert(ask.signature.as_slice().into(), EquivalenceClass::default());
        }
        let class = self.classes.get_mut(&ask.signature).expect("it was just put there");
        class.asked = self.tick;
        class.refresh(snapshot, ask);
        class
    }

    fn forget_oldest(&mut self) {
        let oldest = self.classes.iter().min_by_key(|(_, c)| c.asked).map(|(signature, _)| signature.clone());
        if let Some(signature) = oldest {
            self.classes.remove(&signature);
        }
    }
}

/// The one node that the pod can be on, where nothing else asks what the others say.
fn pinned_to(ask: &Ask) -> Option<&String> {
    let mut names = ask.pre_filter_result.as_ref()?.node_names.iter();
    let spreads = ask.info.spec().and_then(|spec| spec.topology_spread_constraints.as_ref()).is_some_and(|all| !all.is_empty());
    match (names.next(), names.next()) {
        (Some(name), None) if !spreads => Some(name),
        _ => None,
    }
}

impl EquivalenceClass {
    pub fn cell(&self, slot: Slot) -> Option<&Cell> {
        self.cells.get(slot)?.as_ref()
    }

    /// What the plugin in that place said of a node that fits.
    pub fn score(&self, slot: Slot, place: usize) -> i64 {
        self.scores.get(slot * self.uneven.len() + place).copied().unwrap_or(0)
    }

    /// All nodes that fit have 0 of the plugin in that place.
    pub fn is_even(&self, place: usize) -> bool {
        self.uneven.get(place).is_none_or(|nodes| *nodes == 0)
    }

    fn refresh(&mut self, snapshot: &Snapshot, ask: &Ask) {
        let fresh = self.version == 0 || self.images_version != snapshot.images_version;
        match snapshot.changed_since(self.version).filter(|_| !fresh) {
            Some(changed) => changed.for_each(|slot| self.look(snapshot, ask, slot)),
            None => {
                *self = Self { asked: self.asked, uneven: vec![0; ask.plugins.len()], ..Self::default() };
                snapshot.nodes().for_each(|node| self.look(snapshot, ask, node.slot));
            }
        }
        self.version = snapshot.version();
        self.images_version = snapshot.images_version;
    }

    /// Of another pod each time: nothing but its room is kept.
    fn look_at_only(&mut self, snapshot: &Snapshot, ask: &Ask, name: &str) {
        self.uneven.resize(ask.plugins.len(), 0);
        if let Some(slot) = self.only.take()
            && let Some(old) = self.cells.get_mut(slot).and_then(Option::take)
        {
            self.uncount(ask.plugins, slot, &old);
        }
        (self.evictions, self.crowds) = Default::default();
        if let Some(node) = snapshot.find(name) {
            self.look(snapshot, ask, node.slot);
            self.only = Some(node.slot);
        }
    }

    fn look(&mut self, snapshot: &Snapshot, ask: &Ask, slot: Slot) {
        if slot >= self.cells.len() {
            self.cells.resize(slot + 1, None);
            self.scores.resize(self.cells.len() * ask.plugins.len(), 0);
        }
        if let Some(old) = self.cells.get_mut(slot).and_then(Option::take) {
            self.uncount(ask.plugins, slot, &old);
        }
        let Some(node) = snapshot.node_info(slot).filter(|r| r.exists) else { return };
        let cell = Cell::new(snapshot, ask, node);
        if cell.refusal.is_none() {
            for (score, plugin) in self.scores.iter_mut().skip(slot * ask.plugins.len()).zip(ask.plugins) {
                *score = plugin.score(&ask.info, node, snapshot);
            }
        }
        self.count(ask.plugins, slot, &cell);
        if let Some(place) = self.cells.get_mut(slot) {
            *place = Some(cell);
        }
    }

    fn count(&mut self, plugins: Plugins, slot: Slot, cell: &Cell) {
        self.foreign += usize::from(!cell.affinity_matches);
        self.untolerated += usize::from(!cell.taints_tolerated);
        let Some(refusal) = &cell.refusal else {
            self.count_uneven(plugins, slot, usize::wrapping_add);
            return self.ranking.put(slot, self.total(plugins, slot));
        };
        match self.refusals.get_mut(refusal) {
            Some(nodes) => *nodes += 1,
            None => drop(self.refusals.insert(refusal.clone(), 1)),
        }
        if refusal.resolvable {
            self.resolvable.put(slot, 0);
        }
    }

    fn uncount(&mut self, plugins: Plugins, slot: Slot, old: &Cell) {
        self.foreign -= usize::from(!old.affinity_matches);
        self.untolerated -= usize::from(!old.taints_tolerated);
        let Some(refusal) = &old.refusal else {
            self.count_uneven(plugins, slot, usize::wrapping_sub);
            return self.ranking.remove(slot);
        };
        self.resolvable.remove(slot);
        if let Some(nodes) = self.refusals.get_mut(refusal) {
            *nodes -= 1;
            if *nodes == 0 {
                self.refusals.remove(refusal);
            }
        }
    }

    /// By plugin: the node has a score that wants comparing.
    fn count_uneven(&mut self, plugins: Plugins, slot: Slot, with: impl Fn(usize, usize) -> usize) {
        let scores = self.scores.iter().skip(slot * plugins.len());
        for ((nodes, score), plugin) in self.uneven.iter_mut().zip(scores).zip(plugins) {
            *nodes = with(*nodes, usize::from(*score != 0 && plugin.compares()));
        }
    }

    /// The sum of the scores that need no comparing.
    fn total(&self, plugins: Plugins, slot: Slot) -> usize {
        let scores = self.scores.iter().skip(slot * plugins.len()).zip(plugins);
        let known = scores.filter(|(_, plugin)| !plugin.compares());
        usize::try_from(known.map(|(score, plugin)| plugin.weight() * score).sum::<i64>()).unwrap_or(0)
    }
}

impl Cell {
    fn new(snapshot: &Snapshot, ask: &Ask, node: &NodeInfo) -> Self {
        let info = &*ask.info;
        // Pods nominated to this node of at least this priority count; the nominated node of the pod itself is filtered apart.
        let stronger: Vec<_> = snapshot.expected_on(node).filter(|p| p.priority >= info.priority).collect();
        let fuller = (!stronger.is_empty()).then(|| {
            let mut fuller = node.clone();
            stronger.iter().for_each(|p| fuller.add(p));
            fuller
        });
        let refusal = ask.plugins.iter().find_map(|p| p.filter(info, fuller.as_ref().unwrap_or(node)));
        let affinity_matches = affinity::required_matches(info, &node.facts);
        let taints_tolerated = taints::untolerated(&node.facts.taints, info.tolerations()).is_none();
        Self { refusal, affinity_matches, taints_tolerated }
    }
}
