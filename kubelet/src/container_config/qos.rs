//! Pod -> quality of service: its class, and how readily the kernel kills each container for memory.
//!
//! Source: `pkg/kubelet/qos/policy.go`.

use std::collections::BTreeMap;

use api::{
    annotations::CONFIG_MIRROR,
    k8s::{
        api::core::v1::{Container, Pod},
        apimachinery::pkg::api::resource::Quantity as Text,
    },
    quantity::Quantity,
};

pub use podspec::QosClass;
use podspec::Side;

use crate::meta;

const GUARANTEED_ADJ: i64 = -997;
const BEST_EFFORT_ADJ: i64 = 1000;
/// Priorities from here on are system critical (`SystemCriticalPriority`).
const SYSTEM_CRITICAL: i32 = 2_000_000_000;

pub(crate) type ResourceList = BTreeMap<String, Text>;

/// The class the API server wrote, else the computed one.
pub fn class(pod: &Pod) -> QosClass {
    let written = pod.status.as_ref().and_then(|s| s.qos_class.as_deref()).and_then(QosClass::named);
    written.or_else(|| pod.spec.as_ref().map(QosClass::of)).unwrap_or(QosClass::BestEffort)
}

/// How readily the kernel kills the containers of one pod: worked out once for all of them.
#[derive(Clone, Copy, Debug)]
pub enum OomScores {
    Fixed(i64),
    /// By the memory that each container asks for, in bytes.
    Burstable {
        /// Of the node.
        capacity: i64,
        /// For each container, of what the pod as a whole asks for and its containers do not.
        unclaimed: i64,
        /// What that of its containers asks for that asks for the least, sidecars aside.
        least: i64,
    },
}

impl OomScores {
    /// `memory_capacity` is the node's memory in bytes.
    pub fn of(pod: &Pod, memory_capacity: i64) -> Self {
        if is_node_critical(pod) {
            return Self::Fixed(GUARANTEED_ADJ);
        }
        match class(pod) {
            QosClass::Guaranteed => Self::Fixed(GUARANTEED_ADJ),
            QosClass::BestEffort => Self::Fixed(BEST_EFFORT_ADJ),
            QosClass::Burstable => {
                let main = pod.spec.as_ref().map(|s| s.containers.as_slice()).unwrap_or_default();
                let least = main.iter().map(memory_request).min().unwrap_or(0);
                Self::Burstable { capacity: memory_capacity.max(1), unclaimed: unclaimed_memory(pod), least }
            }
        }
    }

    /// The kernel's `oom_score_adj` of one of the pod's containers.
    pub fn adj(self, container: &Container) -> i64 {
        let (capacity, unclaimed, least) = match self {
            Self::Fixed(adj) => return adj,
            Self::Burstable { capacity, unclaimed, least } => (capacity, unclaimed, least),
        };
        let score = |bytes: i64| 1000i64.saturating_sub(1000i64.saturating_mul(bytes.saturating_add(unclaimed)) / capacity);
        let mut adjust = score(memory_request(container));
        if meta::is_sidecar(container) {
            // A sidecar must not go before the containers it serves.
            adjust = adjust.min(score(least));
        }
        adjust.clamp(1000 + GUARANTEED_ADJ, BEST_EFFORT_ADJ - 1)
    }
}

/// One entry of a resource list, parsed.
pub(crate) fn amount(list: Option<&ResourceList>, name: &str) -> Option<Quantity> {
    Quantity::parse(&list?.get(name)?.0).ok()
}

/// Bytes for each container of what the pod as a whole asks for and its containers do not (`remainingPodMemReqPerContainer`).
fn unclaimed_memory(pod: &Pod) -> i64 {
    let Some(spec) = &pod.spec else { return 0 };
    let own = amount(spec.resources.as_ref().and_then(|r| r.requests.as_ref()), "memory").map_or(0, Quantity::units);
    if own == 0 {
        return 0;
    }
    let claimed = podspec::aggregate(spec, Side::Requests, &[], |_, _| {}).get("memory").map_or(0, Quantity::units);
    let containers = i64::try_from(meta::containers(pod).count()).unwrap_or(i64::MAX);
    own.saturating_sub(claimed) / containers.max(1)
}

fn memory_request(container: &Container) -> i64 {
    amount(container.resources.as_ref().and_then(|r| r.requests.as_ref()), "memory").map_or(0, Quantity::units)
}

/// Source: `IsNodeCriticalPod` in `pkg/kubelet/types/pod_update.go`.
fn is_node_critical(pod: &Pod) -> bool {
    is_critical(pod) && pod.spec.as_ref().and_then(|s| s.priority_class_name.as_deref()) == Some("system-node-critical")
}

/// One that is not evicted. Source: `IsCriticalPod` there.
pub fn is_critical(pod: &Pod) -> bool {
    meta::is_static(pod)
        || meta::annotation(pod, CONFIG_MIRROR).is_some()
        || pod.spec.as_ref().and_then(|s| s.priority).is_some_and(|p| p >= SYSTEM_CRITICAL)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::container_config::testing::pod;

    fn with(resources: &str) -> Pod {
        pod(&format!(r#"{{"containers":[{{"name":"a","resources":{resources}}}]}}"#))
    }

    #[test]
    fn classes_are_upstreams() {
        let cases = [
            ("{}", QosClass::BestEffort),
            (r#"{"requests":{"cpu":"0"}}"#, QosClass::BestEffort),
            (r#"{"requests":{"cpu":"1"}}"#, QosClass::Burstable),
            (r#"{"limits":{"cpu":"1"}}"#, QosClass::Burstable),
            (r#"{"limits":{"cpu":"1","memory":"1Gi"},"requests":{"cpu":"1","memory":"1Gi"}}"#, QosClass::Guaranteed),
            (r#"{"limits":{"cpu":"1","memory":"1Gi"},"requests":{"cpu":"1000m","memory":"1024Mi"}}"#, QosClass::Guaranteed),
            (r#"{"limits":{"cpu":"2","memory":"1Gi"},"requests":{"cpu":"1","memory":"1Gi"}}"#, QosClass::Burstable),
            (r#"{"limits":{"nvidia.com/gpu":"1"}}"#, QosClass::BestEffort),
        ];
        for (resources, wanted) in cases {
            assert_eq!(class(&with(resources)), wanted, "{resources}");
        }
    }

    #[test]
    fn an_unlimited_init_container_spoils_guaranteed() {
        let full = r#"{"limits":{"cpu":"1","memory":"1"},"requests":{"cpu":"1","memory":"1"}}"#;
        let p = pod(&format!(r#"{{"containers":[{{"name":"a","resources":{full}}}],"initContainers":[{{"name":"i"}}]}}"#));
        assert_eq!(class(&p), QosClass::Burstable);
    }

    #[test]
    fn oom_scores_are_upstreams() {
        let adj = |resources: &str| {
            let p = with(resources);
            OomScores::of(&p, 1000 << 20).adj(&p.spec.as_ref().unwrap().containers[0])
        };
        assert_eq!(adj("{}"), 1000);
        assert_eq!(adj(r#"{"requests":{"memory":"100Mi"}}"#), 900);
        assert_eq!(adj(r#"{"requests":{"cpu":"1m"}}"#), 999);
        assert_eq!(adj(r#"{"requests":{"memory":"1000Mi"}}"#), 3);
        // What the pod asks for beyond its containers is theirs in equal parts.
        let own = r#""resources":{"requests":{"memory":"500Mi"}}"#;
        let p = pod(&format!(r#"{{"containers":[{{"name":"a","resources":{{"requests":{{"memory":"100Mi"}}}}}},{{"name":"b"}}],{own}}}"#));
        let scores = OomScores::of(&p, 1000 << 20);
        let both: Vec<i64> = p.spec.as_ref().unwrap().containers.iter().map(|c| scores.adj(c)).collect();
        assert_eq!(both, [700, 800]);
        assert_eq!(adj(r#"{"limits":{"cpu":"1","memory":"1Gi"},"requests":{"cpu":"1","memory":"1Gi"}}"#), -997);
    }
}
