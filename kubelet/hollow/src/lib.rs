//! N simulated nodes in one process: they register, renew Leases, and say of pods bound to them what a kubelet would. Nothing runs.
//!
//! One task ([`fleet`]) holds all of them: one wheel of timers, one watch on all pods, one on nodes, one connection with a bounded number of
//! writes in flight. What becomes of pods follows from stages ([`Stages`], `docs/hollow.md`), chosen by a pure [`plan`].

mod ask;
mod fleet;
mod follow;
mod node;
mod payloads;
mod plan;
mod seen;
mod stages;
mod transport;
mod wheel;

use std::collections::BTreeMap;

use api::task::Group;
use client::kube::Client;
use tokio::sync::{mpsc, watch};

pub use stages::Stages;
pub use transport::{Error, client};

use fleet::Fleet;
use follow::Follow;
use seen::{Labels, What};

/// News that the fleet has not looked at: then the watches are not read.
const NEWS_MAX: usize = 1024;

/// What the nodes are.
#[derive(Clone, Debug)]
pub struct Config {
    pub nodes: u32,
    /// Nodes are named `<prefix>-0`, `<prefix>-1`, ...
    pub prefix: String,
    /// Capacity of each node, as quantities.
    pub cpu: String,
    pub memory: String,
    pub pods: u32,
    pub labels: BTreeMap<String, String>,
    /// Node i is in `zone-<i mod zones>`; 0 is no zone.
    pub zones: u32,
    /// Equal seeds, equal throws for equal uids.
    pub seed: u64,
    /// Leases hold that long, and are renewed each quarter of it.
    pub lease_seconds: u32,
    /// `status.nodeInfo.kubeletVersion`
    pub version: String,
}

/// Nodes that live in a group.
pub struct Hollow {
    registered: watch::Receiver<u32>,
    nodes: u32,
}

impl Config {
    pub fn new(nodes: u32) -> Self {
        Self {
            nodes,
            prefix: "hollow".into(),
            cpu: "32".into(),
            memory: "256Gi".into(),
            pods: 110,
            labels: BTreeMap::new(),
            zones: 0,
            seed: 0,
            lease_seconds: 40,
            version: String::new(),
        }
    }
}

impl Hollow {
    /// Resolves once all nodes are registered. False where they were ended before.
    pub async fn registered(&mut self) -> bool {
        self.registered.wait_for(|n| *n >= self.nodes).await.is_ok()
    }
}

/// Nodes live while `group` does; they write through `client`, which may create nodes and leases, and write the status of pods and delete them.
pub fn run(config: Config, stages: Stages, client: &Client, group: &Group) -> Hollow {
    let (tell, news) = mpsc::channel(NEWS_MAX);
    let labels = if stages.read_labels() { Labels::Keep } else { Labels::Drop };
    for what in [What::Nodes, What::Pods] {
        let follow = Follow { client: client.clone(), what, labels, out: tell.clone() };
        group.spawn_loop("hollow watch", Box::pin(follow.run()));
    }
    let (say, registered) = watch::channel(0);
    let nodes = config.nodes;
    group.spawn_loop("hollow nodes", Box::pin(Fleet::new(config, stages, client.clone(), say).run(news)));
    Hollow { registered, nodes }
}
