//! A node's conditions -> its taints.

use api::{
    k8s::{
        api::core::v1::{Node, Taint},
        apimachinery::pkg::apis::meta::v1::Time,
    },
    time::Timestamp,
};
use client::kube::ResourceExt;
use reconcile::Action;
use serde_json::json;

use super::condition;

pub const NOT_READY: &str = "node.kubernetes.io/not-ready";
pub const UNREACHABLE: &str = "node.kubernetes.io/unreachable";
const UNSCHEDULABLE: &str = "node.kubernetes.io/unschedulable";
/// Those that say why nothing more is scheduled there.
const MANAGED: [&str; 7] = [
    NOT_READY,
    UNREACHABLE,
    UNSCHEDULABLE,
    "node.kubernetes.io/memory-pressure",
    "node.kubernetes.io/disk-pressure",
    "node.kubernetes.io/pid-pressure",
    "node.kubernetes.io/network-unavailable",
];
/// The conditions behind the last four.
const PRESSURES: [&str; 4] = ["MemoryPressure", "DiskPressure", "PIDPressure", "NetworkUnavailable"];

/// What becomes of the taints that drive pods away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Execute {
    /// They stay as they are.
    Kept,
    /// Neither of them.
    Without,
    /// This one alone.
    Only(&'static str),
}

impl Execute {
    fn allows(self, key: &str) -> bool {
        match self {
            Self::Kept => true,
            Self::Without => false,
            Self::Only(one) => key == one,
        }
    }
}

/// Makes the taints what they should be; others are left alone.
pub fn taints(node: &Node, execute: Execute, now: Timestamp) -> Option<Action> {
    let current = node.spec.as_ref().and_then(|s| s.taints.as_deref()).unwrap_or_default();
    let schedule = no_schedule(node);
    let stays = |t: &Taint| match t.effect.as_str() {
        "NoSchedule" if MANAGED.contains(&t.key.as_str()) => schedule.contains(&t.key.as_str()),
        "NoExecute" if t.key == NOT_READY || t.key == UNREACHABLE => execute.allows(&t.key),
        _ => true,
    };
    let only = if let Execute::Only(key) = execute { Some((key, "NoExecute")) } else { None };
    let wanted = schedule.iter().map(|key| (*key, "NoSchedule")).chain(only);
    let mut missing = wanted.filter(|(key, effect)| !has(node, key, effect)).peekable();
    if missing.peek().is_none() && current.iter().all(stays) {
        return None;
    }
    let added = |(key, effect): (&str, &str)| Taint { key: key.into(), effect: effect.into(), time_added: Some(Time(now)), value: None };
    let next: Vec<Taint> = current.iter().filter(|t| stays(t)).cloned().chain(missing.map(added)).collect();
    Some(Action::patch(node, json!({"spec": {"taints": next}, "metadata": {"resourceVersion": node.resource_version()}})))
}

/// Whether the node has a taint.
pub fn has(node: &Node, key: &str, effect: &str) -> bool {
    node.spec.iter().flat_map(|s| s.taints.iter().flatten()).any(|t| t.key == key && t.effect == effect)
}

fn no_schedule(node: &Node) -> Vec<&'static str> {
    let mut wanted = Vec::new();
    match condition(node, "Ready").map(|c| c.status.as_str()) {
        Some("False") => wanted.push(NOT_READY),
        Some("Unknown") => wanted.push(UNREACHABLE),
        _ => {}
    }
    let pressing = PRESSURES.iter().zip(&MANAGED[3..]).filter(|(kind, _)| condition(node, kind).is_some_and(|c| c.status == "True"));
    wanted.extend(pressing.map(|(_, key)| *key));
    if node.spec.as_ref().and_then(|s| s.unschedulable) == Some(true) {
        wanted.push(UNSCHEDULABLE);
    }
    wanted
}
