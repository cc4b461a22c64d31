//! A pod that wants a node -> its questions about other pods, answered by counters of the snapshot.

use std::sync::Arc;

use api::selector::Labels;

use crate::{
    plugins::{interpodaffinity::Wishes, podtopologyspread::Spread},
    pod::PodInfo,
    snapshot::Snapshot,
};

/// All that a plan is asked about one pod. Valid until the snapshot is asked about another pod.
#[derive(Clone, Debug)]
pub struct Ask {
    pub info: Arc<PodInfo>,
    /// See [`PodInfo::signature`].
    pub signature: String,
    pub spread: Spread,
    pub wishes: Wishes,
}

impl Ask {
    /// `siblings` selects the pods that the pod's services and its controller select: what the cluster's default spreads.
    pub fn new(snapshot: &mut Snapshot, info: Arc<PodInfo>, siblings: Option<Labels>) -> Self {
        let spread = Spread::new(snapshot, &info, siblings);
        let wishes = Wishes::new(snapshot, &info);
        Self { signature: info.signature(), spread, wishes, info }
    }
}
