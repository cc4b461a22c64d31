//! One file per plugin, one snapshot. A plugin says which nodes do not fit, which are better, and what could change its mind.

pub mod imagelocality;
pub mod interpodaffinity;
pub mod nodeaffinity;
pub mod nodename;
pub mod nodeports;
pub mod noderesources;
pub mod nodeunschedulable;
pub mod podtopologyspread;
pub mod tainttoleration;
pub mod volumebinding;

use std::sync::Arc;

use crate::{
    cycle::Cycle,
    node::{Facts, NodeInfo, Slot},
    pod::PodInfo,
    refusal::Refusal,
    snapshot::Snapshot,
};

/// All of them, in upstream's order: the first that refuses a node is the one that is told.
pub const PLUGINS: [&dyn Plugin; 11] = [
    &nodeunschedulable::NodeUnschedulable,
    &nodename::NodeName,
    &tainttoleration::TaintToleration,
    &nodeaffinity::NodeAffinity,
    &nodeports::NodePorts,
    &noderesources::Fit,
    &volumebinding::VolumeBinding,
    &podtopologyspread::PodTopologySpread,
    &interpodaffinity::InterPodAffinity,
    &noderesources::BalancedAllocation,
    &imagelocality::ImageLocality,
];

/// Those of them that look at other nodes too ([`Plugin::refuses_in`]), in the same order.
pub const LOOKING_AROUND: [&dyn Plugin; 2] = [&podtopologyspread::PodTopologySpread, &interpodaffinity::InterPodAffinity];

/// The best score of one plugin for one node.
pub const SCORE_MAX: i64 = 100;

/// Pure, all of it.
pub trait Plugin: Sync {
    /// Upstream's name.
    fn name(&self) -> &'static str;

    /// No node will do, whatever it is.
    fn pre_filter(&self, _pod: &PodInfo) -> Option<Refusal> {
        None
    }

    /// Looks at this node alone: remembered until the node changes.
    fn filter(&self, _pod: &PodInfo, _node: &NodeInfo) -> Option<Refusal> {
        None
    }

    /// Looks at other nodes too: asked for each pod.
    fn refuses_in(&self, _cycle: &Cycle<'_>, _node: Slot) -> Option<Refusal> {
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

    /// Whether the change could make the plugin take the pod that it refused.
    fn queueing_hint(&self, pod: &PodInfo, change: &Change<'_>) -> bool;
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
}

/// A node that a pod has left.
#[derive(Clone, Copy, Debug)]
pub struct Freed<'a> {
    pub row: &'a NodeInfo,
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

/// Scores from 0 to the highest, stretched to 0 to 100; the other way round if `reverse`. Source: `plugins/helper/normalize_score.go`.
fn stretch(scores: &mut [i64], order: Order) {
    let top = scores.iter().copied().max().unwrap_or(0);
    for score in scores {
        let part = if top == 0 { 0 } else { SCORE_MAX * *score / top };
        *score = if order == Order::LessIsBetter { SCORE_MAX - part } else { part };
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Order {
    MoreIsBetter,
    LessIsBetter,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stretching() {
        let snapshot = [
            (vec![0, 5, 10], Order::MoreIsBetter, vec![0, 50, 100]),
            (vec![0, 5, 10], Order::LessIsBetter, vec![100, 50, 0]),
            (vec![0, 0], Order::MoreIsBetter, vec![0, 0]),
            (vec![0, 0], Order::LessIsBetter, vec![100, 100]),
        ];
        for (mut scores, order, want) in snapshot {
            stretch(&mut scores, order);
            assert_eq!(scores, want);
        }
    }
}
