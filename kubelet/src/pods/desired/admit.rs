//! A pod that is new here and those that run -> whether there is room for it. Pure.
//!
//! The scheduler has asked already; this answers for pods that were bound past it, or two at once.
//! Upstream: `pkg/kubelet/lifecycle/predicate.go`.

use std::collections::BTreeSet;

use api::k8s::api::core::v1::Pod;
use client::pods::node_affinity::{NamedLabels, required_matches};

use crate::{container_config::requests, downward::Allocatable};

/// What the node can give.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NodeCapacity {
    pub allocatable: Allocatable,
    pub pods_max: u32,
}

/// Why a pod is not taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    pub reason: String,
    /// As an event says it; the status puts "Pod was rejected: " before it.
    pub message: String,
}

/// `None` where there is room. `others`: the pods that are here and have not ended, without `pod`.
pub fn refusal(pod: &Pod, others: &[&Pod], room: NodeCapacity, node: Option<NamedLabels<'_>>) -> Option<Refusal> {
    let used_pods = i64::try_from(others.len()).unwrap_or(i64::MAX);
    let sum = |name: &str| others.iter().map(|p| requests(p, name)).fold(0, i64::saturating_add);
    let of = room.allocatable;
    let resources = [
        ("pods", "pods", 1, used_pods, i64::from(room.pods_max)),
        ("cpu", "cpu", requests(pod, "cpu"), sum("cpu"), of.cpu_milli),
        ("memory", "memory", requests(pod, "memory"), sum("memory"), of.memory_bytes),
        (
            "ephemeral-storage",
            "ephemeral-storage",
            requests(pod, "ephemeral-storage"),
            sum("ephemeral-storage"),
            of.ephemeral_storage_bytes,
        ),
    ];
    for (name, suffix, requested, used, capacity) in resources {
        if requested > 0 && requested > capacity.saturating_sub(used) {
            let message = format!("Node didn't have enough resource: {name}, requested: {requested}, used: {used}, capacity: {capacity}");
            return Some(Refusal { reason: format!("OutOf{suffix}"), message });
        }
    }
    if node.is_some_and(|node| !selected(pod, node)) {
        return Some(predicate("NodeAffinity", "node(s) didn't match Pod's node affinity/selector"));
    }
    let host_ports = |pod: &Pod| pod.spec.as_ref().map(podspec::host_ports).unwrap_or_default();
    let taken: BTreeSet<_> = others.iter().flat_map(|p| host_ports(p)).collect();
    let clash = host_ports(pod).into_iter().any(|port| taken.iter().any(|other| port.conflicts(other)));
    clash.then(|| predicate("NodePorts", "node(s) didn't have free ports for the requested pod ports"))
}

fn predicate(name: &str, why: &str) -> Refusal {
    Refusal { reason: name.into(), message: format!("Predicate {name} failed: {why}") }
}

fn selected(pod: &Pod, node: NamedLabels<'_>) -> bool {
    let Some(spec) = &pod.spec else { return true };
    let affinity = spec.affinity.as_ref().and_then(|affinity| affinity.node_affinity.as_ref());
    required_matches(spec.node_selector.as_ref(), affinity, node)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::container_config::testing::pod;

    #[test]
    fn what_does_not_fit_is_refused_in_upstreams_words() {
        let room =
            NodeCapacity { allocatable: Allocatable { cpu_milli: 2000, memory_bytes: 1 << 20, ephemeral_storage_bytes: 0 }, pods_max: 2 };
        let asks = |cpu: &str| pod(&format!(r#"{{"containers":[{{"name":"a","resources":{{"requests":{{"cpu":"{cpu}"}}}}}}]}}"#));
        let web = pod(r#"{"containers":[{"name":"a","ports":[{"containerPort":80,"hostPort":8080}]}]}"#);
        let picky = pod(r#"{"containers":[],"nodeSelector":{"disk":"ssd"}}"#);
        let (one, half) = (asks("1500m"), asks("500m"));
        let labels = [("zone".to_owned(), "a".to_owned())].into();
        let node = NamedLabels { name: "n", labels: &labels };
        let reason = |pod: &Pod, others: &[&Pod]| refusal(pod, others, room, Some(node)).map(|r| r.reason);
        assert_eq!(reason(&half, &[&one]), None);
        assert_eq!(reason(&asks("501m"), &[&one]).as_deref(), Some("OutOfcpu"));
        assert_eq!(reason(&web, &[&web]).as_deref(), Some("NodePorts"));
        // An init container that ends has given its port back by then.
        let init = pod(r#"{"containers":[],"initContainers":[{"name":"i","ports":[{"containerPort":80,"hostPort":8080}]}]}"#);
        assert_eq!(reason(&init, &[&web]), None);
        assert_eq!(reason(&picky, &[]).as_deref(), Some("NodeAffinity"));
        for (zone, wanted) in [("a", None), ("b", Some("NodeAffinity"))] {
            let expression = format!(r#"{{"key":"zone","operator":"In","values":["{zone}"]}}"#);
            let terms = format!(r#"{{"nodeSelectorTerms":[{{"matchExpressions":[{expression}]}}]}}"#);
            let affinity = format!(r#"{{"nodeAffinity":{{"requiredDuringSchedulingIgnoredDuringExecution":{terms}}}}}"#);
            let bound = pod(&format!(r#"{{"containers":[],"affinity":{affinity}}}"#));
            assert_eq!(reason(&bound, &[]).as_deref(), wanted, "{zone}");
        }
        assert_eq!(reason(&half, &[&half, &half]).as_deref(), Some("OutOfpods"));
        let message = refusal(&asks("3"), &[&half], room, None).unwrap().message;
        assert_eq!(message, "Node didn't have enough resource: cpu, requested: 3000, used: 500, capacity: 2000");
    }
}
