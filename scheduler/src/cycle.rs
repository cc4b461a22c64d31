//! One pod against the whole cluster -> counts per domain, which can be bent for "what if".

use crate::{
    ask::Ask,
    memo::Class,
    node::Row,
    plugins::{interpodaffinity::Neighbours, podtopologyspread::Tallies},
    pod::PodInfo,
    table::Table,
};

/// The state of one plan. A clone can be asked "what if", see [`Cycle::shift`].
#[derive(Clone)]
pub struct Cycle<'a> {
    pub table: &'a Table,
    pub class: &'a Class,
    pub ask: &'a Ask,
    pub tallies: Tallies<'a>,
    pub neighbours: Neighbours<'a>,
}

impl<'a> Cycle<'a> {
    pub fn new(table: &'a Table, class: &'a Class, ask: &'a Ask) -> Self {
        let tallies = Tallies::new(table, class, &ask.spread);
        let neighbours = Neighbours::new(table, ask);
        Self { table, class, ask, tallies, neighbours }
    }

    /// No node that fits by itself is refused because of other nodes or pods: what it says, and what it would say without some of its
    /// pods, is the same for all pods of the class.
    pub fn stands_alone(&self) -> bool {
        self.tallies.is_empty() && self.is_spread_alone()
    }

    /// As [`Cycle::stands_alone`], but for what the pod's own constraints on spreading say.
    pub fn is_spread_alone(&self) -> bool {
        self.neighbours.is_empty() && !self.table.has_speaking_nominations()
    }

    /// As if the pod were (`by` = 1) or were not (-1) on the node.
    pub fn shift(&mut self, pod: &PodInfo, row: &Row, by: i64) {
        self.tallies.shift(self.table, self.class, self.ask, pod, row, by);
        self.neighbours.shift(self.table, self.ask, pod, row, by);
    }
}
