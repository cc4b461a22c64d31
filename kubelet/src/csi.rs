//! Storage drivers on this node: who registered, what the API says of them and of what is attached, and what the node says that it uses.
//!
//! How volumes are staged and published stands with the other kinds of volumes (`volumes/plugins/csi.rs`).
//! Upstream: `pkg/volume/csi`, `pkg/kubelet/pluginmanager`.

mod drivers;
mod in_use;
mod node_info;
pub(crate) mod objects;
mod registration;
#[cfg(test)]
pub(crate) mod testing;

use std::{path::Path, sync::Arc};

use api::{k8s::api::core::v1::Node, task::Group};
use client::{Cache, Recorder, kube::Client};

use self::{drivers::Drivers, in_use::InUse, node_info::NodeInfo, objects::Objects};
use crate::dirs;

/// Below the agent's directory, as upstream's `plugins_registry`.
pub(crate) fn start(csi: &Arc<Csi>, root_dir: &Path, group: &Group) {
    csi.node_info.start(group);
    registration::start(dirs::plugins_registry(root_dir), csi.clone(), group);
}

/// What drivers and their volumes have to do with this node.
pub struct Csi {
    pub(crate) node_name: String,
    pub(crate) drivers: Drivers,
    pub(crate) objects: Objects,
    pub(crate) in_use: InUse,
    pub(crate) recorder: Recorder,
    node_info: NodeInfo,
    /// One registers or leaves at a time.
    changing: tokio::sync::Mutex<()>,
}

impl Csi {
    /// `nodes` has this node's own object.
    pub fn new(node_name: &str, client: Client, nodes: Cache<Node>, recorder: Recorder) -> Arc<Self> {
        let objects = Objects::new(client);
        Arc::new(Self {
            node_info: NodeInfo::new(node_name, &objects),
            recorder,
            node_name: node_name.to_owned(),
            drivers: Drivers::default(),
            objects,
            in_use: InUse::new(node_name, nodes),
            changing: tokio::sync::Mutex::default(),
        })
    }
}
