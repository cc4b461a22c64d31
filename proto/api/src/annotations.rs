//! Annotations of pods that more than one room reads. Source: `pkg/kubelet/types/pod_update.go`.

/// The configuration that a mirror pod shows, by its hash: whoever has this annotation is run by its node's kubelet from a file.
pub const CONFIG_MIRROR: &str = "kubernetes.io/config.mirror";
/// Of a static pod: the hash of its configuration.
pub const CONFIG_HASH: &str = "kubernetes.io/config.hash";
/// Of a static pod: when its kubelet first saw it.
pub const CONFIG_SEEN: &str = "kubernetes.io/config.seen";
/// Where the kubelet has a pod from: `api`, or `file`.
pub const CONFIG_SOURCE: &str = "kubernetes.io/config.source";
