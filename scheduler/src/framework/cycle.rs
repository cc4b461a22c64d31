//! One pod against the whole cluster -> does it fit; and what if pods came or went.

use std::borrow::Cow;

use super::{Ask, EquivalenceClass, PreFilterExtensions};
use crate::{
    node::{NodeInfo, Slot},
    pod::PodInfo,
    refusal::Refusal,
    snapshot::Snapshot,
};

/// The state of one plan. A clone can be asked "what if", see [`Cycle::update_with_pod`].
#[derive(Clone)]
pub struct Cycle<'a> {
    pub snapshot: &'a Snapshot,
    pub class: &'a EquivalenceClass,
    pub ask: &'a Ask,
    /// In the order of the plugins.
    extensions: Vec<PluginExtensions<'a>>,
}

/// What the plugin in that place knows of other nodes.
struct PluginExtensions<'a> {
    place: usize,
    extensions: Box<dyn PreFilterExtensions<'a> + 'a>,
}

impl<'a> Cycle<'a> {
    pub fn new(snapshot: &'a Snapshot, class: &'a EquivalenceClass, ask: &'a Ask) -> Self {
        let all = ask.plugins.iter().enumerate();
        let extensions = all.filter_map(|(place, plugin)| {
            Some(PluginExtensions { place, extensions: plugin.pre_filter_extensions(ask, snapshot, class)? })
        });
        Self { snapshot, class, ask, extensions: extensions.collect() }
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
        self.extensions.iter().filter(|one| !one.extensions.is_silent()).map(|one| one.place)
    }

    /// As if the pod were (`by` = 1) or were not (-1) on the node.
    pub fn update_with_pod(&mut self, pod: &PodInfo, node: &NodeInfo, by: i64) {
        self.extensions.iter_mut().for_each(|one| one.extensions.update_with_pod(pod, node, by));
    }

    /// Runs all filters on the node, as it is or as `node` and the cycle were changed to be; pods that are nominated to it count.
    ///
    /// Upstream: `RunFilterPluginsWithNominatedPods`.
    pub fn filter_with_nominated_pods(&self, node: &NodeInfo) -> Option<Refusal> {
        self.with_nominated(node, Self::filter)
    }

    /// As [`Cycle::filter_with_nominated_pods`] of the node as it is: what its own filters said is remembered.
    pub fn filter_memoized(&self, node: &NodeInfo) -> Option<Cow<'a, Refusal>> {
        let remembered = self.class.cell(node.slot).and_then(|c| c.refusal.as_ref());
        remembered.map(Cow::Borrowed).or_else(|| self.filter_extensions_with_nominated_pods(node.slot).map(Cow::Owned))
    }

    /// Runs the filters that depend on other nodes, on a node that fits by itself; pods that are nominated to it count.
    pub fn filter_extensions_with_nominated_pods(&self, slot: Slot) -> Option<Refusal> {
        if !self.snapshot.has_nominations() {
            return self.filter_extensions(slot);
        }
        self.with_nominated(self.snapshot.node_info(slot)?, |cycle, node| cycle.filter_extensions(node.slot))
    }

    /// As [`Cycle::filter_extensions_with_nominated_pods`], nominated pods aside.
    pub fn filter_extensions(&self, slot: Slot) -> Option<Refusal> {
        self.extensions.iter().find_map(|one| one.extensions.filter(slot))
    }

    fn filter(&self, node: &NodeInfo) -> Option<Refusal> {
        self.ask.plugins.iter().find_map(|p| p.filter(&self.ask.info, node)).or_else(|| self.filter_extensions(node.slot))
    }

    /// It must fit with the stronger pods that are expected on the node, and without: they may not come.
    fn with_nominated(&self, node: &NodeInfo, filter: impl Fn(&Self, &NodeInfo) -> Option<Refusal>) -> Option<Refusal> {
        if node.expected == 0 {
            return filter(self, node);
        }
        let own = &self.ask.info;
        let stronger: Vec<_> = self.snapshot.nominated_on(node.name()).filter(|p| p.priority >= own.priority && p.key != own.key).collect();
        if !stronger.is_empty() {
            let (mut what_if, mut fuller) = (self.clone(), node.clone());
            for pod in stronger {
                fuller.add(pod);
                what_if.update_with_pod(pod, node, 1);
            }
            if let Some(refusal) = what_if.filter(&fuller) {
                return Some(refusal);
            }
        }
        filter(self, node)
    }
}

impl Clone for PluginExtensions<'_> {
    fn clone(&self) -> Self {
        Self { place: self.place, extensions: self.extensions.boxed() }
    }
}
