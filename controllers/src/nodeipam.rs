//! Node -> its pod range, cut from the cluster's. Source: `pkg/controller/nodeipam/ipam/range_allocator.go`.

use std::{collections::BTreeMap, sync::Arc};

use api::{Key, k8s::api::core::v1::Node};
use client::{Cache, Caches, kube::ResourceExt};
use ipnet::IpNet;
use parking_lot::Mutex;
use reconcile::{Action, Loop, Plan, Wake};
use serde_json::json;

/// `--node-cidr-mask-size`: upstream's defaults.
const MASK_V4: u8 = 24;
const MASK_V6: u8 = 64;

pub struct NodeIpam {
    nodes: Cache<Node>,
    cluster: IpNet,
    /// By node: what it has, or was promised.
    used: Arc<Mutex<BTreeMap<String, Vec<IpNet>>>>,
}

/// A node without a range, and the range it would get.
pub struct World {
    node: Arc<Node>,
    free: Option<IpNet>,
}

impl NodeIpam {
    pub fn new(caches: &Caches, cluster: IpNet) -> Self {
        Self { nodes: caches.of(), cluster, used: Arc::default() }
    }
}

impl Loop for NodeIpam {
    type World = World;

    fn name(&self) -> &'static str {
        "node-ipam-controller"
    }

    fn wire(&self, wake: &Wake) {
        let used = self.used.clone();
        self.nodes.on_change(move |old, new| {
            let mut used = used.lock();
            match (old, new) {
                (_, Some(node)) if !ranges(node).is_empty() => drop(used.insert(node.name_any(), ranges(node))),
                (Some(node), None) => drop(used.remove(&node.name_any())),
                _ => {}
            }
        });
        wake.on_own(&self.nodes);
    }

    async fn look(&self, key: &Key) -> Option<World> {
        let node = self.nodes.get(key)?;
        if node.metadata.deletion_timestamp.is_some() || !ranges(&node).is_empty() {
            return None;
        }
        // Promised here and now: several nodes are looked at at the same time, and a write may have to be tried again.
        let mut used = self.used.lock();
        let promised = used.get(&key.name).and_then(|ranges| ranges.first().copied());
        let free = promised.or_else(|| first_free(self.cluster, used.values().flatten()));
        used.insert(key.name.clone(), free.into_iter().collect());
        Some(World { node, free })
    }

    fn plan(&self, world: &World, _: &Key) -> Plan {
        let action = match world.free {
            Some(range) => Action::patch(&*world.node, json!({"spec": {"podCIDR": range.to_string(), "podCIDRs": [range.to_string()]}})),
            None => Action::normal(&*world.node, "CIDRNotAvailable", "Node status is now: CIDRNotAvailable"),
        };
        Plan::act(vec![action])
    }
}

fn ranges(node: &Node) -> Vec<IpNet> {
    let spec = node.spec.as_ref();
    let listed = spec.and_then(|s| s.pod_cidrs.as_deref()).unwrap_or_default();
    listed.iter().filter_map(|text| text.parse().ok()).collect()
}

fn first_free<'a>(cluster: IpNet, used: impl Iterator<Item = &'a IpNet>) -> Option<IpNet> {
    let wanted = if cluster.addr().is_ipv4() { MASK_V4 } else { MASK_V6 };
    let used: Vec<&IpNet> = used.collect();
    let mut ranges = cluster.subnets(wanted.max(cluster.prefix_len())).ok()?;
    ranges.find(|range| !used.iter().any(|u| u.contains(range) || range.contains(*u)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_handed_out_once() {
        let cluster: IpNet = "10.244.0.0/23".parse().unwrap();
        let mut used = Vec::new();
        for wanted in ["10.244.0.0/24", "10.244.1.0/24"] {
            let range = first_free(cluster, used.iter()).unwrap();
            assert_eq!(range.to_string(), wanted);
            used.push(range);
        }
        assert_eq!(first_free(cluster, used.iter()), None);
        let small: IpNet = "10.0.0.0/28".parse().unwrap();
        assert_eq!(first_free(small, [].iter()), Some(small));
    }
}
