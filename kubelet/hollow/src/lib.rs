//! N simulated nodes in one process: they register, renew Leases, and say of pods bound to them what a kubelet would. Nothing runs.
//!
//! One task ([`fleet`]) holds all of them: one wheel of timers, one watch on all pods, one on nodes, one connection with a bounded number of
//! writes in flight. What becomes of pods follows from stages ([`Stages`], `docs/hollow.md`), chosen by a pure [`plan`]. Nodes that join by
//! token ([`join()`]) have certificates, a connection and watches of their own each, as machines have.

mod ask;
mod fleet;
mod follow;
mod join;
mod node;
mod payloads;
mod plan;
mod seen;
mod stages;
mod transport;
mod wheel;

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use api::task::Group;
use client::kube::Client;
use tokio::sync::{Semaphore, mpsc, watch};

pub use join::{Authority, JoinConfiguration, NoEntry};
pub use stages::Stages;
pub use transport::{Error, client};

use fleet::{Clients, Fleet};
use follow::{Follow, Of};
use join::{ENTERING_MAX, Joining};
use seen::{Labels, Seen, What};

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
#[derive(Clone)]
pub struct Hollow {
    progress: watch::Receiver<Progress>,
    nodes: u32,
}

/// How far the nodes have come.
#[derive(Clone, Debug, Default)]
struct Progress {
    registered: u32,
    /// Their servers have certificates of the cluster.
    certified: u32,
    /// The first that was not let in, and why.
    refused: Option<Box<str>>,
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
        self.progress.wait_for(|p| p.registered >= self.nodes).await.is_ok()
    }

    /// Of nodes that join: resolves once the servers of all have certificates of the cluster. False where they were ended before.
    pub async fn certified(&mut self) -> bool {
        self.progress.wait_for(|p| p.certified >= self.nodes).await.is_ok()
    }

    /// Of nodes that join: resolves once the cluster has refused one of them for good, with its reason. `None` where they were ended before.
    pub async fn refused(&mut self) -> Option<String> {
        let refused = self.progress.wait_for(|p| p.refused.is_some()).await.ok()?;
        refused.refused.as_deref().map(str::to_owned)
    }
}

/// Nodes live while `group` does; they write through `client`, which may create nodes and leases, and write the status of pods and delete them.
pub fn run(config: Config, stages: Stages, client: &Client, group: &Group) -> Hollow {
    let (tell, news) = mpsc::channel(NEWS_MAX);
    let labels = labels(&stages);
    for what in [What::Nodes, What::Pods] {
        let follow = Follow { client: client.clone(), what, of: Of::All, labels, out: tell.clone() };
        group.spawn_loop("hollow watch", Box::pin(follow.run()));
    }
    live(config, stages, Clients::One(client.clone()), news, group)
}

/// As [`run`]; each node joins with the token first, all of them as fast as they can, and is a user of its own from then on.
pub fn join(config: Config, stages: Stages, configuration: &Arc<JoinConfiguration>, group: &Group) -> Hollow {
    let (tell, news) = mpsc::channel(NEWS_MAX);
    let turns = Arc::new(Semaphore::new(ENTERING_MAX));
    for number in 0..config.nodes {
        let (name, labels) = (format!("{}-{number}", config.prefix), labels(&stages));
        let (configuration, turns, out) = (configuration.clone(), turns.clone(), tell.clone());
        let joining = Joining { number, name, labels, configuration, turns, out, group: group.clone() };
        group.spawn(Box::pin(joining.run()));
    }
    live(config, stages, Clients::Own(HashMap::new()), news, group)
}

fn live(config: Config, stages: Stages, clients: Clients, news: mpsc::Receiver<Seen>, group: &Group) -> Hollow {
    let (say, progress) = watch::channel(Progress::default());
    let nodes = config.nodes;
    group.spawn_loop("hollow nodes", Box::pin(Fleet::new(config, stages, clients, say).run(news)));
    Hollow { progress, nodes }
}

fn labels(stages: &Stages) -> Labels {
    if stages.read_labels() { Labels::Keep } else { Labels::Drop }
}
