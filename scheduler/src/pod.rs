//! Pod -> what the scheduler needs to know of it, read once.

use std::{
    collections::BTreeMap,
    sync::{Arc, LazyLock},
};

use api::{Key, k8s::api::core::v1::Toleration};
use client::pods::{Pod, PodSpec};

use podspec::HostPort;

use crate::{
    resources::{Resources, pod_requests},
    terms::Term,
};

/// The scheduler that this is, in `spec.schedulerName`.
pub const SCHEDULER: &str = "default-scheduler";

#[derive(Clone, Debug)]
pub struct PodInfo {
    pub key: Key,
    pub uid: String,
    pub priority: i32,
    pub requests: Resources,
    /// For scoring: thousandths of a core and bytes, with a default where a container asks for nothing.
    pub non_zero: (i64, i64),
    pub ports: Vec<HostPort>,
    pub affinity: Option<Box<Affinity>>,
    pub terminating: bool,
    pub pod: Arc<Pod>,
}

/// The pod's terms about other pods.
#[derive(Clone, Debug, Default)]
pub struct Affinity {
    pub required: Vec<Term>,
    pub required_anti: Vec<Term>,
    pub preferred: Vec<(i64, Term)>,
    pub preferred_anti: Vec<(i64, Term)>,
}

impl PodInfo {
    pub fn new(pod: &Arc<Pod>) -> Self {
        static EMPTY: LazyLock<PodSpec> = LazyLock::new(PodSpec::default);
        let meta = &pod.metadata;
        let spec = pod.spec.as_ref().unwrap_or_else(|| &EMPTY);
        let key = Key { namespace: meta.namespace.clone().unwrap_or_default(), name: meta.name.clone().unwrap_or_default() };
        let (requests, non_zero) = pod_requests(spec);
        Self {
            affinity: affinity(spec, &key.namespace),
            uid: meta.uid.clone().unwrap_or_default(),
            priority: spec.priority.unwrap_or(0),
            requests,
            non_zero,
            ports: podspec::host_ports(spec),
            terminating: meta.deletion_timestamp.is_some(),
            key,
            pod: pod.clone(),
        }
    }

    pub fn spec(&self) -> Option<&PodSpec> {
        self.pod.spec.as_ref()
    }

    pub fn labels(&self) -> Option<&BTreeMap<String, String>> {
        self.pod.metadata.labels.as_ref()
    }

    pub fn tolerations(&self) -> &[Toleration] {
        self.spec().and_then(|s| s.tolerations.as_deref()).unwrap_or(&[])
    }

    pub fn nominated(&self) -> Option<&str> {
        self.pod.status.as_ref()?.nominated_node_name.as_deref().filter(|n| !n.is_empty())
    }

    pub fn is_gated(&self) -> bool {
        self.spec().and_then(|s| s.scheduling_gates.as_ref()).is_some_and(|g| !g.is_empty())
    }

    /// True if it takes the place of the other in the node snapshot without any count changing.
    pub fn weighs_like(&self, other: &Self) -> bool {
        self.terminating == other.terminating
            && self.requests == other.requests
            && self.non_zero == other.non_zero
            && self.ports == other.ports
            && self.labels() == other.labels()
            && self.spec().map(|s| &s.affinity) == other.spec().map(|s| &s.affinity)
    }

    /// Equal for pods that say the same about others, and wait for the same.
    pub fn about_others(&self) -> String {
        let spec = self.spec();
        // Claims that are made for a pod bear its name: nobody else waits for them.
        let has_own = spec.is_some_and(|s| s.volumes.iter().flatten().any(|volume| volume.ephemeral.is_some()));
        let name = has_own.then_some(&self.key.name);
        let about_others =
            (&self.key.namespace, name, self.labels(), spec.map(|s| (&s.affinity, &s.topology_spread_constraints, &s.volumes)));
        serde_json::to_string(&about_others).unwrap_or_default()
    }
}

/// The node that the pod was bound to.
pub fn node_of(pod: &Pod) -> Option<&str> {
    pod.spec.as_ref()?.node_name.as_deref().filter(|n| !n.is_empty())
}

/// It ran to its end and uses nothing any more.
pub fn is_over(pod: &Pod) -> bool {
    matches!(pod.status.as_ref().and_then(|s| s.phase.as_deref()), Some("Succeeded" | "Failed"))
}

/// This scheduler decides about it.
pub fn is_ours(pod: &Pod) -> bool {
    pod.spec.as_ref().and_then(|s| s.scheduler_name.as_deref()).unwrap_or(SCHEDULER) == SCHEDULER
}

/// The images of containers, init containers and image volumes.
pub fn images(spec: &PodSpec) -> impl Iterator<Item = &str> {
    let containers = spec.init_containers.iter().flatten().chain(&spec.containers).filter_map(|c| c.image.as_deref());
    let volumes = spec.volumes.iter().flatten().filter_map(|v| v.image.as_ref()?.reference.as_deref());
    containers.chain(volumes)
}

fn affinity(spec: &PodSpec, namespace: &str) -> Option<Box<Affinity>> {
    let affinity = spec.affinity.as_ref()?;
    if affinity.pod_affinity.is_none() && affinity.pod_anti_affinity.is_none() {
        return None;
    }
    let mut out = Affinity::default();
    if let Some(near) = &affinity.pod_affinity {
        out.required = near.required_during_scheduling_ignored_during_execution.iter().flatten().map(|t| Term::new(t, namespace)).collect();
        let preferred = near.preferred_during_scheduling_ignored_during_execution.iter().flatten();
        out.preferred = preferred.map(|t| (i64::from(t.weight), Term::new(&t.pod_affinity_term, namespace))).collect();
    }
    if let Some(far) = &affinity.pod_anti_affinity {
        out.required_anti =
            far.required_during_scheduling_ignored_during_execution.iter().flatten().map(|t| Term::new(t, namespace)).collect();
        let preferred = far.preferred_during_scheduling_ignored_during_execution.iter().flatten();
        out.preferred_anti = preferred.map(|t| (i64::from(t.weight), Term::new(&t.pod_affinity_term, namespace))).collect();
    }
    Some(Box::new(out))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn pods_whose_claims_bear_their_names_wait_alone() {
        let about = |name: &str, source: serde_json::Value| {
            let mut volume = source;
            volume["name"] = "v".into();
            let pod = json!({"metadata": {"name": name, "namespace": "n"}, "spec": {"containers": [], "volumes": [volume]}});
            PodInfo::new(&Arc::new(serde_json::from_value(pod).unwrap())).about_others()
        };
        let (shared, own) = (json!({"persistentVolumeClaim": {"claimName": "c"}}), json!({"ephemeral": {}}));
        assert_eq!(about("a", shared.clone()), about("b", shared));
        assert_ne!(about("a", own.clone()), about("b", own));
    }
}
