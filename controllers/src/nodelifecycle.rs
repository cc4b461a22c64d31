//! A node that falls silent -> Ready Unknown, its taints, its pods not ready. Source: `pkg/controller/nodelifecycle`.
//!
//! What a node's silence means depends on the others: [`zones`] says how fast nodes may be given up, and whether at all.

mod signs;
mod taints;
#[cfg(test)]
mod tests;
mod zones;

use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};

use api::{
    Key,
    k8s::{
        api::{
            coordination::v1::Lease,
            core::v1::{Node, NodeCondition},
        },
        apimachinery::pkg::apis::meta::v1::Time,
    },
    time::{Timestamp, rfc3339},
};
use client::{Cache, Caches, kube, pods::Pod};
use kube::ResourceExt;
use parking_lot::Mutex;
use reconcile::{Action, Controller, Plan, Wake};
use serde_json::json;
use tokio::time::Instant;

use crate::index::ByNode;
use signs::Signs;
use taints::{Execute, NOT_READY, UNREACHABLE};
use zones::{Answer, Turn, Zones};

const LEASES: &str = "kube-node-lease";
/// Conditions a silent node can no longer vouch for.
const VOUCHED: [&str; 4] = ["Ready", "MemoryPressure", "DiskPressure", "PIDPressure"];
/// How long a node has to be not ready before it may be given up: one renewal of a lease. Nodes that fall silent at the same moment are found
/// out one after the other within that time, and no verdict is passed on the first before the last is known.
const SETTLING: Duration = Duration::from_secs(10);

/// When nodes count as silent, and how fast silent ones are given up. Flags of kube-controller-manager's names.
#[derive(Clone, Debug)]
pub struct NodeConfig {
    /// `--node-monitor-grace-period`.
    pub monitor_grace: Duration,
    /// `--node-startup-grace-period`.
    pub startup_grace: Duration,
    /// `--node-eviction-rate`: nodes per second, in each zone.
    pub eviction_rate: f32,
    /// `--secondary-node-eviction-rate`: the same in a large zone where most nodes are not ready; in a small one it is none.
    pub secondary_eviction_rate: f32,
    /// `--unhealthy-zone-threshold`: the part of a zone's nodes (at least three) that makes it unhealthy.
    pub unhealthy_zone_threshold: f32,
    /// `--large-cluster-size-threshold`: a zone of more nodes is large.
    pub large_cluster_size: usize,
}

pub struct NodeLifecycle {
    nodes: Cache<Node>,
    leases: Cache<Lease>,
    pods: ByNode,
    health: Arc<Mutex<Health>>,
    config: NodeConfig,
    /// Wakes another node's key.
    wake: OnceLock<WakeNode>,
}

type WakeNode = Box<dyn Fn(Key) + Send + Sync>;

struct Health {
    signs: Signs,
    zones: Zones,
}

pub struct World {
    node: Arc<Node>,
    /// Until the node counts as silent; zero once it does.
    left: Duration,
    /// Its pods, where it is silent.
    pods: Vec<Arc<Pod>>,
    execute: Execute,
    /// When more can be said about `execute`.
    again: Option<Duration>,
    now: Timestamp,
}

impl Default for NodeConfig {
    fn default() -> Self {
        Self {
            monitor_grace: Duration::from_secs(50),
            startup_grace: Duration::from_secs(60),
            eviction_rate: 0.1,
            secondary_eviction_rate: 0.01,
            unhealthy_zone_threshold: 0.55,
            large_cluster_size: 50,
        }
    }
}

impl NodeLifecycle {
    pub fn new(caches: &Caches, on_node: &ByNode, config: &NodeConfig) -> Self {
        let health = Health { signs: Signs::default(), zones: Zones::new(config.clone()) };
        let health = Arc::new(Mutex::new(health));
        Self { nodes: caches.of(), leases: caches.of(), pods: on_node.clone(), health, config: config.clone(), wake: OnceLock::new() }
    }
}

impl Health {
    /// The nodes whose turn has come.
    fn take_in(&mut self, old: Option<&Node>, new: Option<&Node>, now: Instant) -> Vec<Arc<str>> {
        let turn = match (old, new) {
            (_, Some(node)) => {
                self.signs.reported(node, now);
                self.zones.put(&node.name_any(), &seen(node), now)
            }
            (Some(node), None) => {
                self.signs.forget(&node.name_any());
                self.zones.remove(&node.name_any(), now)
            }
            (None, None) => Turn::Nobodys,
        };
        match turn {
            Turn::Nobodys => Vec::new(),
            Turn::Of(node) => vec![node],
            Turn::Everybodys => self.zones.all().cloned().collect(),
        }
    }

    /// When the node is silent, unless it is heard of before.
    fn silent_at(&self, node: &Node, config: &NodeConfig, now: Instant) -> Instant {
        let grace = if condition(node, "Ready").is_some() { config.monitor_grace } else { config.startup_grace };
        self.counted_from(self.signs.heard(&node.name_any()).unwrap_or(now)) + grace
    }

    /// What was before the cluster was found again does not count.
    fn counted_from(&self, at: Instant) -> Instant {
        self.zones.back().map_or(at, |back| back.max(at))
    }

    /// What becomes of the taints that drive pods away; when more can be said; whose turn it is next.
    fn judge(&mut self, node: &Node, silent_at: Instant, now: Instant) -> (Execute, Option<Duration>, Turn) {
        let name = node.name_any();
        let (right, other) = match condition(node, "Ready").map(|c| c.status.as_str()) {
            Some("False") => (NOT_READY, UNREACHABLE),
            Some("Unknown") => (UNREACHABLE, NOT_READY),
            None => return (Execute::Kept, None, self.zones.withdraw(&name)),
            Some(_) => return (Execute::Without, None, self.zones.withdraw(&name)),
        };
        if self.zones.is_cut_off() {
            return (Execute::Without, None, self.zones.withdraw(&name));
        }
        if taints::has(node, right, "NoExecute") || taints::has(node, other, "NoExecute") {
            // Given up already: only the reason may have to be another.
            return (Execute::Only(right), None, self.zones.withdraw(&name));
        }
        let since = self.counted_from(self.zones.unready_since(&name).unwrap_or(now));
        // After a start, a node of which it is written that it is silent has all its time to speak.
        let since = if right == UNREACHABLE { since.max(silent_at) } else { since };
        let wait = (since + SETTLING).saturating_duration_since(now);
        if wait > Duration::ZERO {
            return (Execute::Kept, Some(wait), self.zones.withdraw(&name));
        }
        match self.zones.ask(&name, now) {
            (Answer::Yes, turn) => (Execute::Only(right), None, turn),
            (Answer::In(wait), turn) => (Execute::Kept, Some(wait), turn),
            (Answer::Waits, turn) => (Execute::Kept, None, turn),
        }
    }
}

impl Controller for NodeLifecycle {
    type World = World;

    fn name(&self) -> &'static str {
        "node-lifecycle-controller"
    }

    fn watches(&self, wake: &Wake) {
        // A renewal wakes nobody: the node's own timer finds it.
        let health = self.health.clone();
        wake.needs(&self.leases);
        self.leases.on_change(move |old, new| {
            let Some(lease) = new.or(old).filter(|l| l.metadata.namespace.as_deref() == Some(LEASES)) else { return };
            let signs = &mut health.lock().signs;
            if new.is_some() { signs.renewed(lease, Instant::now()) } else { signs.forget_lease(lease) }
        });
        let (health, handle) = (self.health.clone(), wake.handle());
        self.nodes.on_change(move |old, new| {
            let woken = health.lock().take_in(old.map(|n| &**n), new.map(|n| &**n), Instant::now());
            woken.iter().for_each(|name| handle(Key::new("", name)));
        });
        wake.on_own(&self.nodes);
        // Wired once.
        let _ = self.wake.set(Box::new(wake.handle()));
    }

    async fn observe(&self, key: &Key) -> Option<World> {
        let node = self.nodes.get(key)?;
        let (left, (execute, again, turn)) = {
            let (mut health, now) = (self.health.lock(), Instant::now());
            let silent_at = health.silent_at(&node, &self.config, now);
            (silent_at.saturating_duration_since(now), health.judge(&node, silent_at, now))
        };
        if let (Turn::Of(next), Some(wake)) = (turn, self.wake.get()) {
            wake(Key::new("", &next));
        }
        // A node that speaks again speaks for its pods, whatever is still written of it.
        let pods = if left > Duration::ZERO { Vec::new() } else { self.pods.at(&key.name) };
        Some(World { node, left, pods, execute, again, now: Timestamp::now() })
    }

    fn plan(&self, world: &World, _: &Key) -> Plan {
        plan(world)
    }
}

fn plan(world: &World) -> Plan {
    let silenced = if world.left.is_zero() { silenced(&world.node, world.now) } else { None };
    let node = silenced.as_ref().unwrap_or(&world.node);
    let mut actions = Vec::new();
    if let Some(node) = &silenced {
        let conditions = node.status.as_ref().and_then(|s| s.conditions.as_ref());
        actions.push(Action::patch_status(node, json!({"status": {"conditions": conditions}})));
        if condition(&world.node, "Ready").is_some_and(|c| c.status == "True") {
            actions.push(Action::normal(node, "NodeNotReady", format!("Node {} status is now: NodeNotReady", node.name_any())));
        }
    }
    actions.extend(taints::taints(node, world.execute, world.now));
    if condition(node, "Ready").is_some_and(|c| c.status == "Unknown") {
        actions.extend(world.pods.iter().filter(|pod| pod.ready_since().is_some()).flat_map(|pod| not_ready(pod, world.now)));
    }
    let left = (!world.left.is_zero()).then_some(world.left);
    left.into_iter().chain(world.again).fold(Plan::act(actions), Plan::again_in)
}

fn condition<'a>(node: &'a Node, kind: &str) -> Option<&'a NodeCondition> {
    node.status.as_ref()?.conditions.as_ref()?.iter().find(|c| c.type_ == kind)
}

fn seen(node: &Node) -> zones::Seen {
    let labels = node.labels();
    let one_of = |old: &str, new: &str| labels.get(old).or_else(|| labels.get(new)).map_or("", String::as_str);
    let zone = one_of("failure-domain.beta.kubernetes.io/zone", "topology.kubernetes.io/zone");
    let region = one_of("failure-domain.beta.kubernetes.io/region", "topology.kubernetes.io/region");
    zones::Seen {
        zone: if zone.is_empty() && region.is_empty() { String::new() } else { format!("{region}:\0:{zone}") },
        ready: condition(node, "Ready").is_some_and(|c| c.status == "True"),
        excluded: labels.contains_key("node.kubernetes.io/exclude-disruption"),
    }
}

/// A node that nobody hears of; `None` if its conditions say so already.
fn silenced(node: &Node, now: Timestamp) -> Option<Node> {
    if condition(node, "Ready").is_some_and(|c| c.status == "Unknown") {
        return None;
    }
    let mut node = node.clone();
    let created = node.metadata.creation_timestamp.clone();
    let conditions = node.status.get_or_insert_default().conditions.get_or_insert_default();
    for kind in VOUCHED {
        let found = conditions.iter_mut().find(|c| c.type_ == kind);
        let (reason, message) = match &found {
            None => ("NodeStatusNeverUpdated", "Kubelet never posted node status."),
            Some(_) => ("NodeStatusUnknown", "Kubelet stopped posting node status."),
        };
        let unknown = NodeCondition {
            type_: kind.into(),
            status: "Unknown".into(),
            reason: Some(reason.into()),
            message: Some(message.into()),
            last_heartbeat_time: found.as_ref().map_or_else(|| created.clone(), |c| c.last_heartbeat_time.clone()),
            last_transition_time: Some(Time(now)),
        };
        match found {
            Some(condition) if condition.status == "Unknown" => {}
            Some(condition) => *condition = unknown,
            None => conditions.push(unknown),
        }
    }
    Some(node)
}

fn not_ready(pod: &Pod, now: Timestamp) -> Vec<Action> {
    let metadata = json!({"resourceVersion": pod.resource_version()});
    let ready = json!({"type": "Ready", "status": "False", "lastTransitionTime": rfc3339(now)});
    let patch = json!({"metadata": metadata, "status": {"conditions": [ready]}});
    vec![Action::patch_status(pod, patch), Action::warning(pod, "NodeNotReady", "Node is not ready")]
}
