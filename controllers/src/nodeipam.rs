//! Node -> its pod ranges, one of each family, cut from the cluster's. Source: `pkg/controller/nodeipam/ipam/range_allocator.go`.

mod cluster;
mod ranges;

use std::sync::Arc;

use api::{Key, k8s::api::core::v1::Node};
use client::{Cache, Caches, kube::ResourceExt};
use ipnet::IpNet;
use parking_lot::Mutex;
use reconcile::{Action, Controller, Plan, Wake};
use serde_json::json;

use cluster::{ClusterRanges, Promise};

pub struct NodeIpam {
    nodes: Cache<Node>,
    /// What each node has, or was promised.
    ranges: Arc<Mutex<ClusterRanges>>,
}

/// A node without ranges, and those that it would get.
pub struct World {
    node: Arc<Node>,
    promise: Promise,
}

impl NodeIpam {
    pub fn new(caches: &Caches, cluster: &[IpNet]) -> Self {
        Self { nodes: caches.of(), ranges: Arc::new(Mutex::new(ClusterRanges::new(cluster))) }
    }
}

impl Controller for NodeIpam {
    type World = World;

    fn name(&self) -> &'static str {
        "node-ipam-controller"
    }

    fn watches(&self, wake: &Wake) {
        let (kept, handle) = (self.ranges.clone(), wake.handle());
        self.nodes.on_change(move |old, new| match (old, new) {
            (_, Some(node)) if !ranges(node).is_empty() => kept.lock().set(&node.name_any(), &ranges(node)),
            (Some(node), None) => {
                let next = kept.lock().remove(&node.name_any());
                next.into_iter().for_each(|next| handle(Key::new("", &next)));
            }
            _ => {}
        });
        wake.on_own(&self.nodes);
    }

    async fn observe(&self, key: &Key) -> Option<World> {
        // Promised here and now: several nodes are looked at at the same time, and a write may have to be tried again. The lock comes first:
        // whoever goes after this look takes its promise along.
        let mut kept = self.ranges.lock();
        let node = self.nodes.get(key)?;
        if node.metadata.deletion_timestamp.is_some() || !ranges(&node).is_empty() {
            return None;
        }
        let promise = kept.promise(&key.name);
        Some(World { node, promise })
    }

    fn plan(&self, world: &World, _: &Key) -> Plan {
        match &world.promise {
            Promise::Ranges(all) => {
                let all: Vec<String> = all.iter().map(IpNet::to_string).collect();
                let ranges = json!({"spec": {"podCIDR": all.first(), "podCIDRs": all}});
                Plan::act(vec![Action::patch(&*world.node, ranges)])
            }
            Promise::NoneLeft => {
                let message = format!("Node {} status is now: CIDRNotAvailable", world.node.name_any());
                Plan::act(vec![Action::normal(&*world.node, "CIDRNotAvailable", message)])
            }
            Promise::Waits => Plan::rest(),
        }
    }
}

fn ranges(node: &Node) -> Vec<IpNet> {
    let spec = node.spec.as_ref();
    let listed = spec.and_then(|s| s.pod_cidrs.as_deref()).unwrap_or_default();
    listed.iter().filter_map(|text| text.parse().ok()).collect()
}
