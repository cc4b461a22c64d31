//! One file per plugin, and one line in the table: which nodes do not fit, which are better, and what could change its mind.

pub mod imagelocality;
pub mod interpodaffinity;
pub mod nodeaffinity;
pub mod nodename;
pub mod nodeports;
pub mod noderesources;
pub mod nodeunschedulable;
pub mod nodevolumelimits;
pub mod podtopologyspread;
pub mod tainttoleration;
pub mod volumebinding;
pub mod volumerestrictions;
pub mod volumezone;

use serde::Serialize;

use crate::framework::{Plugin, SCORE_MAX};

/// All of them, in upstream's order: the first that filters a node out gives the reason.
pub const PLUGINS: &[&dyn Plugin] = &[
    &nodeunschedulable::NodeUnschedulable,
    &nodename::NodeName,
    &tainttoleration::TaintToleration,
    &nodeaffinity::NodeAffinity,
    &nodeports::NodePorts,
    &noderesources::Fit,
    &volumerestrictions::VolumeRestrictions,
    &nodevolumelimits::NodeVolumeLimits,
    &volumebinding::VolumeBinding,
    &volumezone::VolumeZone,
    &podtopologyspread::PodTopologySpread,
    &interpodaffinity::InterPodAffinity,
    &noderesources::BalancedAllocation,
    &imagelocality::ImageLocality,
];

/// Scores from 0 to the highest, stretched to 0 to 100; the other way round if `reverse`. Source: `plugins/helper/normalize_score.go`.
fn stretch(scores: &mut [i64], order: Order) {
    let top = scores.iter().copied().max().unwrap_or(0);
    for score in scores {
        let part = if top == 0 { 0 } else { SCORE_MAX * *score / top };
        *score = if order == Order::LessIsBetter { SCORE_MAX - part } else { part };
    }
}

/// For [`Plugin::sign`]: parts are told apart by their brackets and quotes.
fn sign<T: Serialize + ?Sized>(signature: &mut Vec<u8>, part: &T) {
    serde_json::to_writer(&mut *signature, part).expect("what is read from JSON can be written, and memory takes it");
    signature.push(b'\n');
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
