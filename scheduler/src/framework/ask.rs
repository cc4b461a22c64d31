//! A pod that wants a node -> what each plugin keeps of it for this try.

use std::{collections::BTreeSet, sync::Arc};

use api::selector::Labels;

use super::Plugins;
use crate::{
    cycle_state::{CycleState, StateData},
    pod::PodInfo,
    refusal::Refusal,
    snapshot::Snapshot,
};

/// Most signatures are no longer: they grow in one piece.
const SIGNATURE_BYTES: usize = 512;

/// All that a plan reads about one pod. Valid until the snapshot is used for another pod.
pub struct Ask {
    pub info: Arc<PodInfo>,
    pub plugins: Plugins,
    /// Equal for pods that every node treats alike, pods on other nodes aside.
    pub signature: Vec<u8>,
    pub state: CycleState,
    /// Why no node will do.
    pub refusal: Option<Refusal>,
    /// The only nodes that could do, where plugins named them.
    pub pre_filter_result: Option<PreFilterResult>,
}

/// The only nodes that could fit, by name.
#[derive(Debug, PartialEq, Eq)]
pub struct PreFilterResult {
    pub node_names: BTreeSet<String>,
    /// Who left out the others.
    pub plugins: BTreeSet<&'static str>,
}

/// What a plugin may look at, and where it keeps what it saw, before nodes are filtered.
pub struct PreFilter<'a> {
    pub pod: &'a PodInfo,
    /// Questions about other pods are put here, to be answered for each node.
    pub snapshot: &'a mut Snapshot,
    /// The pods that the pod's services and its controller select, if there are any of these.
    pub siblings: Option<&'a Labels>,
    plugin: &'static str,
    state: &'a mut CycleState,
    pre_filter_result: &'a mut Option<PreFilterResult>,
}

impl Ask {
    /// Runs the plugins in their order, until one says that no node will do. `siblings`: see [`PreFilter::siblings`].
    pub fn new(plugins: Plugins, snapshot: &mut Snapshot, info: Arc<PodInfo>, siblings: Option<&Labels>) -> Self {
        let (mut state, mut pre_filter_result) = (CycleState::default(), None);
        let refusal = plugins.iter().find_map(|plugin| {
            let (state, pre_filter_result) = (&mut state, &mut pre_filter_result);
            let refused =
                plugin.pre_filter(&mut PreFilter { pod: &info, snapshot, siblings, plugin: plugin.name(), state, pre_filter_result });
            refused.err().or_else(|| none_left(pre_filter_result.as_ref(), plugin.name()))
        });
        Self { plugins, signature: signature(plugins, &info), state, refusal, pre_filter_result, info }
    }
}

impl PreFilter<'_> {
    pub fn keep<T: StateData>(&mut self, value: T) {
        self.state.write(value);
    }

    /// No other node will do.
    pub fn only(&mut self, node_names: BTreeSet<String>) {
        match self.pre_filter_result {
            Some(result) => {
                result.node_names.retain(|name| node_names.contains(name));
                result.plugins.insert(self.plugin);
            }
            None => *self.pre_filter_result = Some(PreFilterResult { node_names, plugins: BTreeSet::from([self.plugin]) }),
        }
    }
}

/// Equal for pods that every node treats alike, pods on other nodes aside.
pub fn signature(plugins: Plugins, pod: &PodInfo) -> Vec<u8> {
    let mut out = Vec::with_capacity(SIGNATURE_BYTES);
    out.extend(pod.priority.to_le_bytes());
    plugins.iter().for_each(|plugin| plugin.sign(pod, &mut out));
    out
}

fn none_left(result: Option<&PreFilterResult>, last: &'static str) -> Option<Refusal> {
    let PreFilterResult { plugins, .. } = result.filter(|result| result.node_names.is_empty())?;
    let all: Vec<&str> = plugins.iter().copied().collect();
    let reason = match all.as_slice() {
        [one] => format!("node(s) didn't satisfy plugin {one}"),
        more => format!("node(s) didn't satisfy plugin(s) [{}] simultaneously", more.join(" ")),
    };
    Some(Refusal::unresolvable(last, &reason))
}
