//! How many nodes there are -> how long each may keep Secrets and ConfigMaps: the annotation `node.alpha.kubernetes.io/ttl`, in seconds.
//!
//! Source: `pkg/controller/ttl`. Stock kubelets read it; ours is told of changes and keeps nothing by time.

use std::sync::Arc;

use api::{Key, k8s::api::core::v1::Node};
use client::{Cache, Caches, kube::ResourceExt};
use parking_lot::Mutex;
use reconcile::{Action, Controller, Plan, Wake};
use serde_json::json;

const ANNOTATION: &str = "node.alpha.kubernetes.io/ttl";

/// Nodes: from, to (both included; they overlap, so that one node more or less does not write to all) -> seconds. `ttlBoundaries`
const STEPS: [(usize, usize, &str); 5] =
    [(0, 100, "0"), (90, 500, "15"), (450, 1_000, "30"), (900, 2_000, "60"), (1_800, usize::MAX, "300")];

pub struct NodeTtl {
    nodes: Cache<Node>,
    size: Arc<Mutex<Size>>,
}

#[derive(Default)]
struct Size {
    nodes: usize,
    step: usize,
}

/// A node whose annotation is another than it should be.
pub struct World {
    node: Arc<Node>,
    seconds: &'static str,
}

impl NodeTtl {
    pub fn new(caches: &Caches) -> Self {
        Self { nodes: caches.of(), size: Arc::default() }
    }
}

impl Size {
    fn add(&mut self) {
        self.nodes = self.nodes.saturating_add(1);
        let is_over = STEPS.get(self.step).is_some_and(|(_, most, _)| self.nodes > *most);
        self.step += usize::from(is_over);
    }

    fn remove(&mut self) {
        self.nodes = self.nodes.saturating_sub(1);
        let is_under = STEPS.get(self.step).is_some_and(|(least, _, _)| self.nodes < *least);
        self.step -= usize::from(is_under);
    }

    fn seconds(&self) -> &'static str {
        STEPS.get(self.step).map_or("300", |(_, _, seconds)| seconds)
    }
}

impl Controller for NodeTtl {
    type World = World;

    fn name(&self) -> &'static str {
        "node-ttl-controller"
    }

    fn watches(&self, wake: &Wake) {
        let size = self.size.clone();
        self.nodes.on_change(move |old, new| match (old, new) {
            (None, Some(_)) => size.lock().add(),
            (Some(_), None) => size.lock().remove(),
            _ => {}
        });
        // When the number of nodes passes a bound the others are written with their next reports, as upstream does: not all at once.
        wake.on_own(&self.nodes);
    }

    async fn observe(&self, key: &Key) -> Option<World> {
        let node = self.nodes.get(key).filter(|node| node.metadata.deletion_timestamp.is_none())?;
        let seconds = self.size.lock().seconds();
        // `Atoi`: `+0` and `00` say the same.
        let is_so = node.annotations().get(ANNOTATION).and_then(|text| text.parse::<i64>().ok()) == seconds.parse().ok();
        (!is_so).then_some(World { node, seconds })
    }

    fn plan(&self, world: &World, _: &Key) -> Plan {
        Plan::act(vec![Action::patch(&*world.node, json!({"metadata": {"annotations": {ANNOTATION: world.seconds}}}))])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_grows_with_the_cluster_and_a_node_more_or_less_changes_nothing() {
        let mut size = Size::default();
        let mut grown = |to: usize| {
            while size.nodes < to {
                size.add();
            }
            while size.nodes > to {
                size.remove();
            }
            size.seconds()
        };
        let seen = [0, 100, 101, 100, 90, 89, 500, 501, 450, 449, 2_001, 1_800, 1_799, 0].map(&mut grown);
        assert_eq!(seen, ["0", "0", "15", "15", "15", "0", "15", "30", "30", "15", "300", "300", "60", "0"]);
    }
}
