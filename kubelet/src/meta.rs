//! Pod -> the names it goes by: what metadata holds as options, read as text.

use api::{
    annotations::CONFIG_SOURCE,
    k8s::api::core::v1::{Container, Pod, PodSpec},
};

/// A pod's name; empty where it has none.
pub fn name(pod: &Pod) -> &str {
    pod.metadata.name.as_deref().unwrap_or_default()
}

/// A pod's namespace; empty where it has none.
pub fn namespace(pod: &Pod) -> &str {
    pod.metadata.namespace.as_deref().unwrap_or_default()
}

/// A pod's uid; empty where it has none.
pub fn uid(pod: &Pod) -> &str {
    pod.metadata.uid.as_deref().unwrap_or_default()
}

/// `name_namespace(uid)`, as upstream's messages name a pod. Source: `pkg/kubelet/util/format/pod.go`.
pub fn format(pod: &Pod) -> String {
    format!("{}_{}({})", name(pod), namespace(pod), uid(pod))
}

/// The value of an annotation.
pub fn annotation<'a>(pod: &'a Pod, key: &str) -> Option<&'a str> {
    pod.metadata.annotations.as_ref()?.get(key).map(String::as_str)
}

/// Whether the pod came from anywhere but the API. Source: `IsStaticPod` in `pkg/kubelet/types/pod_update.go`.
pub fn is_static(pod: &Pod) -> bool {
    annotation(pod, CONFIG_SOURCE).is_some_and(|source| source != "api")
}

/// Containers, then init containers: the order upstream looks them up in.
pub fn containers(pod: &Pod) -> impl Iterator<Item = &Container> {
    let spec = pod.spec.as_ref();
    let main = spec.map(|s| s.containers.as_slice()).unwrap_or_default();
    main.iter().chain(spec.and_then(|s| s.init_containers.as_deref()).unwrap_or_default())
}

/// Whether an init container keeps running beside the main ones.
pub fn is_sidecar(container: &Container) -> bool {
    podspec::is_sidecar(container)
}

/// Whether the pod shares the node's network.
pub fn host_network(pod: &Pod) -> bool {
    spec(pod).is_some_and(|s| s.host_network == Some(true))
}

/// The pod's spec.
pub fn spec(pod: &Pod) -> Option<&PodSpec> {
    pod.spec.as_ref()
}
