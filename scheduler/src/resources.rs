//! Resource lists -> amounts that can be added and compared; what a pod asks for.
//!
//! Source: scheduler `framework/types.go` (`Resource`).

use std::collections::BTreeMap;

use api::{k8s::apimachinery::pkg::api::resource::Quantity as Text, quantity::Quantity};
use client::pods::{Container, PodSpec};
use podspec::Overhead;

/// For scoring, a container that asks for no CPU counts as asking for this many thousandths of a core.
const DEFAULT_MILLI_CPU: i64 = 100;
/// An amount that is larger counts as this: 1 PiB, or a million million cores. What no node has fits no node either way, and the amounts of all
/// pods of a node can be added and taken away again exactly.
const AMOUNT_MAX: i64 = 1 << 50;
/// For scoring, a container that asks for no memory counts as asking for this many bytes.
const DEFAULT_MEMORY: i64 = 200 * 1024 * 1024;

/// Amounts: thousandths of a core, bytes, bytes, pods; whole units of anything else.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resources {
    pub milli_cpu: i64,
    pub memory: i64,
    pub storage: i64,
    pub pods: i64,
    pub scalar: BTreeMap<String, i64>,
}

type List = BTreeMap<String, Text>;

impl Resources {
    pub fn from_list(list: Option<&List>) -> Self {
        Self::from_amounts(podspec::List::from(list).iter())
    }

    fn from_amounts<'a>(amounts: impl Iterator<Item = (&'a str, Quantity)>) -> Self {
        let mut out = Self::default();
        amounts.for_each(|(name, quantity)| out.set(name, quantity));
        out
    }

    pub fn add(&mut self, other: &Self) {
        self.each(other, i64::saturating_add);
    }

    pub fn sub(&mut self, other: &Self) {
        self.each(other, i64::saturating_sub);
        self.scalar.retain(|_, amount| *amount != 0);
    }

    pub fn amount(&self, scalar: &str) -> i64 {
        self.scalar.get(scalar).copied().unwrap_or(0)
    }

    fn each(&mut self, other: &Self, with: impl Fn(i64, i64) -> i64) {
        self.milli_cpu = with(self.milli_cpu, other.milli_cpu);
        self.memory = with(self.memory, other.memory);
        self.storage = with(self.storage, other.storage);
        self.pods = with(self.pods, other.pods);
        for (name, amount) in &other.scalar {
            let slot = self.scalar.entry(name.clone()).or_insert(0);
            *slot = with(*slot, *amount);
        }
    }

    fn set(&mut self, name: &str, quantity: Quantity) {
        let units = quantity.units().clamp(0, AMOUNT_MAX);
        match name {
            "cpu" => self.milli_cpu = quantity.milli().clamp(0, AMOUNT_MAX),
            "memory" => self.memory = units,
            "ephemeral-storage" => self.storage = units,
            "pods" => self.pods = units,
            _ if is_scalar(name) => {
                self.scalar.insert(name.to_owned(), units);
            }
            _ => {}
        }
    }
}

/// What a pod asks for, and for scoring (thousandths of a core and bytes) with a default where a container asks for nothing.
pub fn pod_requests(spec: &PodSpec) -> (Resources, (i64, i64)) {
    let sum = |missing: &[_]| Resources::from_amounts(podspec::requests(spec, Overhead::Included, missing).iter());
    let asks = sum(&[]);
    let says_all = |c: &Container| {
        let requests = c.resources.as_ref().and_then(|r| r.requests.as_ref());
        requests.is_some_and(|list| list.contains_key("cpu") && list.contains_key("memory"))
    };
    let scored = if spec.containers.iter().chain(spec.init_containers.iter().flatten()).all(says_all) {
        (asks.milli_cpu, asks.memory)
    } else {
        let defaults = [("cpu", Quantity::from_milli(DEFAULT_MILLI_CPU)), ("memory", Quantity::from_bytes(DEFAULT_MEMORY))];
        let scored = sum(&defaults);
        (scored.milli_cpu, scored.memory)
    };
    (asks, scored)
}

/// Extended resources, huge pages, prefixed native resources, attachable volumes.
fn is_scalar(name: &str) -> bool {
    name.starts_with("hugepages-") || name.starts_with("attachable-volumes-") || (name.contains('/') && !name.starts_with("requests."))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn asks(spec: serde_json::Value) -> (Resources, (i64, i64)) {
        pod_requests(&serde_json::from_value(spec).unwrap())
    }

    fn container(cpu: &str, sidecar: bool) -> serde_json::Value {
        let mut out = json!({"name": "c", "resources": {"requests": {"cpu": cpu}}});
        if sidecar {
            out["restartPolicy"] = "Always".into();
        }
        out
    }

    #[test]
    fn a_pod_asks_for_its_widest_moment() {
        let snapshot = [
            (json!({"containers": [container("1", false), container("500m", false)]}), 1500),
            (json!({"containers": [container("1", false)], "initContainers": [container("3", false), container("2", false)]}), 3000),
            (json!({"containers": [container("1", false)], "initContainers": [container("1", true), container("3", false)]}), 4000),
            (json!({"containers": [container("1", false)], "initContainers": [container("3", false), container("1", true)]}), 3000),
            (json!({"containers": [container("1", false)], "overhead": {"cpu": "250m"}}), 1250),
            (json!({"containers": [container("1", false)], "resources": {"requests": {"cpu": "4"}}}), 4000),
        ];
        for (spec, want) in snapshot {
            assert_eq!(asks(spec.clone()).0.milli_cpu, want, "{spec}");
        }
    }

    #[test]
    fn amounts_of_any_size_are_added_and_taken_away_exactly() {
        let huge =
            json!({"requests": {"cpu": "9223372036854775807", "memory": "9E", "ephemeral-storage": "1e30", "example.com/gpu": "9E"}});
        let spec = json!({"containers": [{"name": "a", "resources": huge}, {"name": "b", "resources": huge}], "overhead": {"cpu": "9E"}});
        let (asks, _) = asks(spec);
        let mut small = Resources { milli_cpu: 7, memory: 7, storage: 7, ..Resources::default() };
        small.scalar.insert("example.com/gpu".into(), 7);
        let mut used = small.clone();
        (0..1000).for_each(|_| used.add(&asks));
        assert!(used.memory > asks.memory && used.memory < i64::MAX);
        (0..1000).for_each(|_| used.sub(&asks));
        assert_eq!(used, small);
    }

    #[test]
    fn for_scoring_nothing_asked_is_not_nothing_used() {
        let spec = json!({"containers": [{"name": "a"}, container("1", false)]});
        let (sum, scored) = asks(spec);
        assert_eq!((sum.milli_cpu, sum.memory, scored), (1000, 0, (1100, 2 * DEFAULT_MEMORY)));
        let said = json!({"containers": [{"name": "a", "resources": {"requests": {"cpu": "0", "memory": "0"}}}]});
        assert_eq!(asks(said).1, (0, 0));
    }

    #[test]
    fn scalars_are_counted_in_units() {
        let requests = json!({"example.com/gpu": "2", "hugepages-2Mi": "4Mi", "odd": "1"});
        let (sum, _) = asks(json!({"containers": [{"name": "a", "resources": {"requests": requests}}]}));
        assert_eq!(sum.scalar.len(), 2);
        assert_eq!((sum.amount("example.com/gpu"), sum.amount("hugepages-2Mi")), (2, 4 << 20));
    }
}
