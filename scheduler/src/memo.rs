//! Pods that are alike -> what single nodes say to them, asked once per change of a node and not once per pod.

use std::collections::HashMap;

use crate::{
    ask::Ask,
    node::{Row, Slot},
    plugins::{PLUGINS, nodeaffinity},
    refusal::Refusal,
    table::Table,
    taints,
};

/// Classes of pods that are remembered.
const CLASSES_MAX: usize = 128;

#[derive(Debug, Default)]
pub struct Memo {
    classes: HashMap<String, Class>,
    tick: u64,
}

/// What each node says to one class of pods, other nodes aside.
#[derive(Debug, Default)]
pub struct Class {
    cells: Vec<Cell>,
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
    /// The class of the pod, as the table is now.
    pub fn class(&mut self, table: &Table, ask: &Ask) -> &Class {
        self.tick += 1;
        if !self.classes.contains_key(&ask.signature) && self.classes.len() >= CLASSES_MAX {
            self.forget_oldest();
        }
        let class = self.classes.entry(ask.signature.clone()).or_default();
        class.asked = self.tick;
        class.refresh(table, ask);
        class
    }

    fn forget_oldest(&mut self) {
        let oldest = self.classes.iter().min_by_key(|(_, c)| c.asked).map(|(signature, _)| signature.clone());
        if let Some(signature) = oldest {
            self.classes.remove(&signature);
        }
    }
}

impl Class {
    pub fn cell(&self, slot: Slot) -> Option<&Cell> {
        self.cells.get(slot)
    }

    fn refresh(&mut self, table: &Table, ask: &Ask) {
        let fresh = self.version == 0 || self.images_version != table.images_version;
        match table.changed_since(self.version).filter(|_| !fresh) {
            Some(changed) => changed.for_each(|slot| self.look(table, ask, slot)),
            None => table.nodes().for_each(|row| self.look(table, ask, row.slot)),
        }
        self.version = table.version();
        self.images_version = table.images_version;
    }

    fn look(&mut self, table: &Table, ask: &Ask, slot: Slot) {
        let Some(row) = table.row(slot).filter(|r| r.exists) else { return };
        if slot >= self.cells.len() {
            self.cells.resize(slot + 1, Cell::default());
        }
        if let Some(cell) = self.cells.get_mut(slot) {
            *cell = Cell::new(table, ask, row);
        }
    }
}

impl Cell {
    fn new(table: &Table, ask: &Ask, row: &Row) -> Self {
        let info = &*ask.info;
        let refusal = PLUGINS.iter().find_map(|p| p.refuses(info, row));
        let mut scores = [0; PLUGINS.len()];
        if refusal.is_none() {
            for (score, plugin) in scores.iter_mut().zip(PLUGINS) {
                *score = plugin.score(info, row, table);
            }
        }
        let affinity_matches = nodeaffinity::required_matches(info, &row.facts);
        let taints_tolerated = taints::untolerated(&row.facts.taints, info.tolerations()).is_none();
        Self { refusal, affinity_matches, taints_tolerated, scores }
    }
}
