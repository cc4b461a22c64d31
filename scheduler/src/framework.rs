//! Extension points: the methods of a plugin, and what it may read. Source: kube-scheduler `framework/interface.go`.
//!
//! What a plugin learns about a pod it keeps itself: values of its own types in [`CycleState`], counts that look at other nodes behind
//! [`PreFilterExtensions`]. Nothing outside `plugins` names a plugin but the one table there.

mod ask;
mod binding;
mod cycle;
mod memo;
#[cfg(test)]
mod tests;
mod waiting;

use std::sync::Arc;

use api::k8s::api::{
    core::v1::{PersistentVolume, PersistentVolumeClaim},
    storage::v1::{CSIDriver, CSINode, CSIStorageCapacity, StorageClass, VolumeAttachment},
};

pub use ask::{Ask, PreFilter, PreFilterResult, signature};
pub use binding::{BindingPlugin, BindingPlugins, Failure, Permit, PreBinding, PreFlight, Reserving, Status};
pub use cycle::Cycle;
pub use memo::{Cell, EquivalenceClass, Memo};
pub use waiting::{WaitingPod, WaitingPods};

pub use crate::{
    crowds::{Answer, Answers, Question},
    cycle_state::{CycleState, StateData},
    node::{Facts, NodeInfo, Slot},
    pod::PodInfo,
    refusal::Refusal,
    snapshot::Snapshot,
};

/// The best score of one plugin for one node.
pub const SCORE_MAX: i64 = 100;

/// All of a scheduler's, in order: the first that filters a node out gives the reason. A plugin's place is its index.
pub type Plugins = &'static [&'static dyn Plugin];

/// Pure, all of it but [`Plugin::binding`].
pub trait Plugin: Sync {
    /// Upstream's name.
    fn name(&self) -> &'static str;

    /// Writes what [`Plugin::filter`] and [`Plugin::score`] read of the pod: pods of equal priority that sign alike are filtered and scored once.
    fn sign(&self, _pod: &PodInfo, _signature: &mut Vec<u8>) {}

    /// Reads what the pod says, once per try, and keeps what the plugin wants to have at hand later.
    ///
    /// # Errors
    /// No node will do, whatever it is. The plugins after it are not asked.
    fn pre_filter(&self, _at: &mut PreFilter<'_>) -> Result<(), Refusal> {
        Ok(())
    }

    /// Looks at this node alone: remembered until the node changes.
    fn filter(&self, _pod: &PodInfo, _node: &NodeInfo) -> Option<Refusal> {
        None
    }

    /// Counts that look at other nodes, too: run for each pod. `None` if the plugin cannot filter out a node because of others.
    fn pre_filter_extensions<'a>(
        &self,
        _ask: &'a Ask,
        _snapshot: &'a Snapshot,
        _class: &'a EquivalenceClass,
    ) -> Option<Box<dyn PreFilterExtensions<'a> + 'a>> {
        None
    }

    /// What its score counts; 0 if it does not score.
    fn weight(&self) -> i64 {
        0
    }

    /// Looks at this node alone (and at how common images are): remembered.
    fn score(&self, _pod: &PodInfo, _node: &NodeInfo, _snapshot: &Snapshot) -> i64 {
        0
    }

    /// Scores say nothing before they were compared with other nodes'.
    fn compares(&self) -> bool {
        false
    }

    /// Comparing would make all nodes equal, if all that was remembered is 0.
    fn is_even(&self, _cycle: &Cycle<'_>) -> bool {
        true
    }

    /// Makes what was remembered of the nodes that fit into scores from 0 to [`SCORE_MAX`]. Called where [`Plugin::compares`].
    fn normalize_score(&self, _cycle: &Cycle<'_>, _nodes: &[Slot], _scores: &mut [i64]) {}

    /// All that the plugin wants to know of a node, where that is little: nodes of equal answers are filtered, or score, alike.
    fn questions(&self, _cycle: &Cycle<'_>) -> Option<Vec<Question>> {
        None
    }

    /// As [`Plugin::normalize_score`] of all nodes of these groups, of which there are so many in each: the score of each group.
    /// Called where there are [`Plugin::questions`].
    fn compare_groups(&self, _cycle: &Cycle<'_>, groups: &[(&Answers, usize)]) -> Vec<i64> {
        vec![0; groups.len()]
    }

    /// Itself, if it has anything to do with a pod between the decision and the binding.
    fn binding(&self) -> Option<&dyn BindingPlugin> {
        None
    }

    /// Whether the change could make the plugin take the pod that it refused.
    fn queueing_hint(&self, pod: &PodInfo, change: &Change<'_>) -> bool;
}

/// What one plugin counted on all nodes for one pod. A clone can be asked "what if".
pub trait PreFilterExtensions<'a> {
    /// `None` if the node, which fits by itself, fits beside the other nodes, too.
    fn filter(&self, node: Slot) -> Option<Refusal>;

    /// No node is refused as things are: what it says, and what it would say without some pods, is the same for all pods of the class.
    fn is_silent(&self) -> bool;

    /// As if the pod were (`by` = 1) or were not (-1) on the node.
    fn update_with_pod(&mut self, pod: &PodInfo, node: &NodeInfo, by: i64);

    fn boxed(&self) -> Box<dyn PreFilterExtensions<'a> + 'a>;
}

/// What happened in the cluster.
#[derive(Clone, Copy, Debug)]
pub enum Change<'a> {
    NodeAdded(&'a Facts),
    NodeChanged(&'a Facts, &'a Facts),
    NodeGone(&'a Facts),
    /// A pod was bound.
    PodPlaced(&'a PodInfo),
    PodChanged(&'a PodInfo, &'a PodInfo),
    /// A bound pod is over or deleted; what its node has now, if that is known.
    PodGone(&'a PodInfo, Option<Freed<'a>>),
    ClaimChanged(&'a PersistentVolumeClaim),
    VolumeChanged(&'a PersistentVolume),
    ClassChanged(Option<&'a StorageClass>, &'a StorageClass),
    /// What drivers a node has.
    NodeDriversChanged(Option<&'a CSINode>, &'a CSINode),
    /// Its attachment is gone.
    VolumeDetached(&'a VolumeAttachment),
    /// `None`: it is gone.
    DriverChanged(&'a CSIDriver, Option<&'a CSIDriver>),
    CapacityChanged(Option<&'a CSIStorageCapacity>, &'a CSIStorageCapacity),
}

/// A node that a pod has left.
#[derive(Clone, Copy, Debug)]
pub struct Freed<'a> {
    pub node: &'a NodeInfo,
    /// Pods that are expected on it.
    pub nominated: &'a [Arc<PodInfo>],
    /// Whether weaker pods could be made to leave, too: not for one that has its victims already.
    pub more: More,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum More {
    WeakerCouldLeave,
    AsItIs,
}
