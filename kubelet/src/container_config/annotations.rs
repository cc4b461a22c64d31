//! Pod + container -> the labels and annotations the runtime keeps for us.
//!
//! Source: `pkg/kubelet/kuberuntime/labels.go`, `HashContainer` in `pkg/kubelet/container/helpers.go`.

use std::collections::{BTreeMap, HashMap};

use api::k8s::api::core::v1::{Container, Pod};

use crate::{context::Attempt, labels, meta};

/// What a change of the container's spec is recognized by: name and image, as upstream. Hexadecimal.
pub fn hash(container: &Container) -> String {
    let text = format!("{}\0{}", container.name, container.image.as_deref().unwrap_or_default());
    let fnv = text.bytes().fold(0x811c_9dc5u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    format!("{fnv:x}")
}

/// The pod's own labels and its names.
pub fn pod_labels(pod: &Pod) -> HashMap<String, String> {
    let mut map = to_hash_map(pod.metadata.labels.as_ref());
    map.extend(names(pod));
    map
}

/// The pod's own annotations.
pub fn pod_annotations(pod: &Pod) -> HashMap<String, String> {
    to_hash_map(pod.metadata.annotations.as_ref())
}

pub fn container_labels(pod: &Pod, container: &Container) -> HashMap<String, String> {
    let mut map: HashMap<String, String> = names(pod).into();
    map.insert(labels::CONTAINER_NAME.into(), container.name.clone());
    map
}

pub fn container_annotations(pod: &Pod, container: &Container, attempt: Attempt) -> HashMap<String, String> {
    let mut map = HashMap::new();
    let mut put = |key: &str, value: Option<String>| {
        if let Some(value) = value {
            map.insert(key.to_owned(), value);
        }
    };
    put(labels::CONTAINER_HASH, Some(hash(container)));
    put(labels::CONTAINER_RESTART_COUNT, Some(attempt.0.to_string()));
    put(labels::CONTAINER_TERMINATION_MESSAGE_PATH, Some(container.termination_message_path.clone().unwrap_or_default()));
    put(labels::CONTAINER_TERMINATION_MESSAGE_POLICY, Some(container.termination_message_policy.clone().unwrap_or_default()));
    put(labels::POD_DELETION_GRACE_PERIOD, pod.metadata.deletion_grace_period_seconds.map(|s| s.to_string()));
    let grace = pod.spec.as_ref().and_then(|s| s.termination_grace_period_seconds);
    put(labels::POD_TERMINATION_GRACE_PERIOD, grace.map(|s| s.to_string()));
    let pre_stop = container.lifecycle.as_ref().and_then(|l| l.pre_stop.as_ref());
    put(labels::CONTAINER_PRE_STOP, pre_stop.and_then(|p| serde_json::to_string(p).ok()));
    let ports = container.ports.as_ref().filter(|p| !p.is_empty());
    put(labels::CONTAINER_PORTS, ports.and_then(|p| serde_json::to_string(p).ok()));
    map
}

fn names(pod: &Pod) -> [(String, String); 3] {
    [
        (labels::POD_NAME.into(), meta::name(pod).into()),
        (labels::POD_NAMESPACE.into(), meta::namespace(pod).into()),
        (labels::POD_UID.into(), meta::uid(pod).into()),
    ]
}

fn to_hash_map(map: Option<&BTreeMap<String, String>>) -> HashMap<String, String> {
    map.into_iter().flatten().map(|(k, v)| (k.clone(), v.clone())).collect()
}
