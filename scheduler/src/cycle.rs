//! One pod against the whole cluster -> counts per domain, which can be bent for "what if".

use crate::{
    ask::Ask,
    memo::EquivalenceClass,
    node::NodeInfo,
    plugins::{interpodaffinity::Neighbours, podtopologyspread::Tallies},
    pod::PodInfo,
    snapshot::Snapshot,
};

/// The state of one plan. A clone can be asked "what if", see [`Cycle::shift`].
#[derive(Clone)]
pub struct Cycle<'a> {
    pub snapshot: &'a Snapshot,
    pub class: &'a EquivalenceClass,
    pub ask: &'a Ask,
    pub tallies: Tallies<'a>,
    pub neighbours: Neighbours<'a>,
}

impl<'a> Cycle<'a> {
    pub fn new(snapshot: &'a Snapshot, class: &'a EquivalenceClass, ask: &'a Ask) -> Self {
        let tallies = Tallies::new(snapshot, class, &ask.spread);
        let neighbours = Neighbours::new(snapshot, ask);
        Self { snapshot, class, ask, tallies, neighbours }
    }

    /// No node that fits by itself is refused because of other nodes or pods: what it says, and what it would say without some of its
    /// pods, is the same for all pods of the class.
    pub fn stands_alone(&self) -> bool {
        self.tallies.is_empty() && self.is_spread_alone()
    }

    /// As [`Cycle::stands_alone`], but for what the pod's own constraints on spreading say.
    pub fn is_spread_alone(&self) -> bool {
        self.neighbours.is_empty() && !self.snapshot.has_speaking_nominations()
    }

    /// As if the pod were (`by` = 1) or were not (-1) on the node.
    pub fn shift(&mut self, pod: &PodInfo, row: &NodeInfo, by: i64) {
        self.tallies.shift(self.snapshot, self.class, self.ask, pod, row, by);
        self.neighbours.shift(self.snapshot, self.ask, pod, row, by);
    }
}
