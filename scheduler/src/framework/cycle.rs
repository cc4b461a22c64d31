//! One pod against the whole cluster -> does it fit; and what if pods came or went.

use std::borrow::Cow;

use super::{Ask, EquivalenceClass, Looking};
use crate::{
    node::{NodeInfo, Slot},
    pod::PodInfo,
    refusal::Refusal,
    snapshot::Snapshot,
};

/// The state of one plan. A clone can be asked "what if", see [`Cycle::shift`].
#[derive(Clone)]
pub struct Cycle<'a> {
    pub snapshot: &'a Snapshot,
    pub class: &'a EquivalenceClass,
    pub ask: &'a Ask,
    /// In the order of the plugins.
    around: Vec<Around<'a>>,
}

/// What the plugin in that place knows.
struct Around<'a> {
    place: usize,
    looking: Box<dyn Looking<'a> + 'a>,
}

impl<'a> Cycle<'a> {
    pub fn new(snapshot: &'a Snapshot, class: &'a EquivalenceClass, ask: &'a Ask) -> Self {
        let all = ask.plugins.iter().enumerate();
        let around = all.filter_map(|(place, plugin)| Some(Around { place, looking: plugin.looks_around(ask, snapshot, class)? }));
        Self { snapshot, class, ask, around: around.collect() }
    }

    /// No node that fits by itself is refused because of other nodes or pods: what it says, and what it would say without some of its
    /// pods, is the same for all pods of the class.
    pub fn stands_alone(&self) -> bool {
        !self.snapshot.has_speaking_nominations() && self.speaking().next().is_none()
    }

    /// As [`Cycle::stands_alone`], but for what the plugin in that place says.
    pub fn only_listens_to(&self, place: usize) -> bool {
        !self.snapshot.has_speaking_nominations() && self.speaking().all(|speaks| speaks == place)
    }

    /// The places of the plugins that may refuse nodes because of others.
    pub fn speaking(&self) -> impl Iterator<Item = usize> + '_ {
        self.around.iter().filter(|around| !around.looking.is_silent()).map(|around| around.place)
    }

    /// As if the pod were (`by` = 1) or were not (-1) on the node.
    pub fn shift(&mut self, pod: &PodInfo, row: &NodeInfo, by: i64) {
        self.around.iter_mut().for_each(|around| around.looking.shift(pod, row, by));
    }

    /// Why the node does not take the pod as things are, or as the cycle and `row` were bent to be; pods that are nominated to it count.
    pub fn refuses(&self, row: &NodeInfo) -> Option<Refusal> {
        self.with_nominated(row, Self::refuses_now)
    }

    /// What was remembered of the node, and what depends on others.
    pub fn answer(&self, row: &NodeInfo) -> Option<Cow<'a, Refusal>> {
        let remembered = self.class.cell(row.slot).and_then(|c| c.refusal.as_ref());
        remembered.map(Cow::Borrowed).or_else(|| self.refuses_for_others(row.slot).map(Cow::Owned))
    }

    /// Why a node that fits by itself does not do; pods that are nominated to it count.
    pub fn refuses_for_others(&self, slot: Slot) -> Option<Refusal> {
        if !self.snapshot.has_nominations() {
            return self.refuses_around(slot);
        }
        self.with_nominated(self.snapshot.row(slot)?, |cycle, row| cycle.refuses_around(row.slot))
    }

    /// As [`Cycle::refuses_for_others`], nominated pods aside.
    pub fn refuses_around(&self, slot: Slot) -> Option<Refusal> {
        self.around.iter().find_map(|around| around.looking.refuses(slot))
    }

    fn refuses_now(&self, row: &NodeInfo) -> Option<Refusal> {
        self.ask.plugins.iter().find_map(|p| p.filter(&self.ask.info, row)).or_else(|| self.refuses_around(row.slot))
    }

    /// It must fit with the stronger pods that are expected on the node, and without: they may not come.
    fn with_nominated(&self, row: &NodeInfo, asked: impl Fn(&Self, &NodeInfo) -> Option<Refusal>) -> Option<Refusal> {
        if row.expected == 0 {
            return asked(self, row);
        }
        let own = &self.ask.info;
        let stronger: Vec<_> = self.snapshot.nominated_on(row.name()).filter(|p| p.priority >= own.priority && p.key != own.key).collect();
        if !stronger.is_empty() {
            let (mut bent, mut fuller) = (self.clone(), row.clone());
            for pod in stronger {
                fuller.add(pod);
                bent.shift(pod, row, 1);
            }
            if let Some(refusal) = bent.refuses_now(&fuller) {
                return Some(refusal);
            }
        }
        asked(self, row)
    }
}

impl Clone for Around<'_> {
    fn clone(&self) -> Self {
        Self { place: self.place, looking: self.looking.boxed() }
    }
}
