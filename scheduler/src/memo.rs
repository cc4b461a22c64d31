//! Pods that are alike -> what single nodes say to them, asked once per change of a node and not once per pod.

use std::{cell::RefCell, collections::HashMap};

use crate::{
    ask::Ask,
    crowds::Crowds,
    node::{NodeInfo, Slot},
    plugins::{PLUGINS, nodeaffinity},
    preemption::Evictions,
    ranking::Ranking,
    refusal::Refusal,
    snapshot::Snapshot,
    taints,
};

/// Classes of pods that are remembered.
const CLASSES_MAX: usize = 128;

#[derive(Debug, Default)]
pub struct Memo {
    classes: HashMap<String, EquivalenceClass>,
    tick: u64,
}

/// What each node says to one class of pods, other nodes aside.
#[derive(Debug, Default)]
pub struct EquivalenceClass {
    cells: Vec<Option<Cell>>,
    /// The nodes that fit, by the sum of the scores that need no comparing.
    pub ranking: Ranking,
    /// How many nodes say so.
    pub refusals: HashMap<Refusal, usize>,
    /// The nodes where fewer pods could help.
    pub resolvable: Ranking,
    /// Nodes that fit and have a score that wants comparing, by plugin.
    uneven: [usize; PLUGINS.len()],
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
}

#[derive(Clone, Debug, Default)]
pub struct Cell {
    pub refusal: Option<Refusal>,
    pub affinity_matches: bool,
    pub taints_tolerated: bool,
    /// By plugin, before they are compared with other nodes'.
    pub scores: [i64; PLUGINS.len()],
}

impl Memo {
    /// The class of the pod, as the snapshot is now.
    pub fn class(&mut self, snapshot: &Snapshot, ask: &Ask) -> &EquivalenceClass {
        self.tick += 1;
        if !self.classes.contains_key(&ask.signature) && self.classes.len() >= CLASSES_MAX {
            self.forget_oldest();
        }
        let class = self.classes.entry(ask.signature.clone()).or_default();
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

impl EquivalenceClass {
    pub fn cell(&self, slot: Slot) -> Option<&Cell> {
        self.cells.get(slot)?.as_ref()
    }

    /// All nodes that fit have 0 of the plugin with this number.
    pub fn is_even(&self, plugin: usize) -> bool {
        self.uneven.get(plugin).is_none_or(|nodes| *nodes == 0)
    }

    fn refresh(&mut self, snapshot: &Snapshot, ask: &Ask) {
        let fresh = self.version == 0 || self.images_version != snapshot.images_version;
        match snapshot.changed_since(self.version).filter(|_| !fresh) {
            Some(changed) => changed.for_each(|slot| self.look(snapshot, ask, slot)),
            None => {
                *self = Self { asked: self.asked, ..Self::default() };
                snapshot.nodes().for_each(|row| self.look(snapshot, ask, row.slot));
            }
        }
        self.version = snapshot.version();
        self.images_version = snapshot.images_version;
    }

    fn look(&mut self, snapshot: &Snapshot, ask: &Ask, slot: Slot) {
        let cell = snapshot.row(slot).filter(|r| r.exists).map(|row| Cell::new(snapshot, ask, row));
        if slot >= self.cells.len() {
            self.cells.resize(slot + 1, None);
        }
        let Some(place) = self.cells.get_mut(slot) else { return };
        if let Some(old) = std::mem::replace(place, cell) {
            self.uncount(slot, &old);
        }
        self.count(slot);
    }

    fn count(&mut self, slot: Slot) {
        let Some(Some(cell)) = self.cells.get(slot) else { return };
        self.foreign += usize::from(!cell.affinity_matches);
        self.untolerated += usize::from(!cell.taints_tolerated);
        let Some(refusal) = &cell.refusal else {
            self.uneven.iter_mut().zip(cell.wanting()).for_each(|(nodes, wants)| *nodes += usize::from(wants));
            return self.ranking.put(slot, cell.total());
        };
        match self.refusals.get_mut(refusal) {
            Some(nodes) => *nodes += 1,
            None => drop(self.refusals.insert(refusal.clone(), 1)),
        }
        if refusal.resolvable {
            self.resolvable.put(slot, 0);
        }
    }

    fn uncount(&mut self, slot: Slot, old: &Cell) {
        self.foreign -= usize::from(!old.affinity_matches);
        self.untolerated -= usize::from(!old.taints_tolerated);
        let Some(refusal) = &old.refusal else {
            self.uneven.iter_mut().zip(old.wanting()).for_each(|(nodes, wants)| *nodes -= usize::from(wants));
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
}

impl Cell {
    fn new(snapshot: &Snapshot, ask: &Ask, row: &NodeInfo) -> Self {
        let info = &*ask.info;
        // Who is expected here and at least as strong counts; who asks for itself is asked about its own node apart.
        let stronger: Vec<_> = snapshot.expected_on(row).filter(|p| p.priority >= info.priority).collect();
        let fuller = (!stronger.is_empty()).then(|| {
            let mut fuller = row.clone();
            stronger.iter().for_each(|p| fuller.add(p));
            fuller
        });
        let refusal = PLUGINS.iter().find_map(|p| p.filter(info, fuller.as_ref().unwrap_or(row)));
        let mut scores = [0; PLUGINS.len()];
        if refusal.is_none() {
            for (score, plugin) in scores.iter_mut().zip(PLUGINS) {
                *score = plugin.score(info, row, snapshot);
            }
        }
        let affinity_matches = nodeaffinity::required_matches(info, &row.facts);
        let taints_tolerated = taints::untolerated(&row.facts.taints, info.tolerations()).is_none();
        Self { refusal, affinity_matches, taints_tolerated, scores }
    }

    /// By plugin: it has a score that wants comparing.
    fn wanting(&self) -> impl Iterator<Item = bool> + '_ {
        self.scores.iter().zip(PLUGINS).map(|(score, plugin)| *score != 0 && plugin.compares())
    }

    /// The sum of the scores that need no comparing.
    fn total(&self) -> usize {
        let known = self.scores.iter().zip(PLUGINS).filter(|(_, plugin)| !plugin.compares());
        usize::try_from(known.map(|(score, plugin)| plugin.weight() * score).sum::<i64>()).unwrap_or(0)
    }
}
