//! A pod and its container -> the labels and annotations by which the runtime's sandboxes and containers are found again.
//!
//! Keys are upstream's (`pkg/kubelet/kuberuntime/labels.go`), so that a stock kubelet could adopt what we run, and we what it runs.

use std::{
    collections::{BTreeMap, HashMap},
    path::{Path, PathBuf},
};

use api::k8s::api::core::v1::{Container, Pod};

use crate::meta;

pub const POD_NAME: &str = "io.kubernetes.pod.name";
pub const POD_NAMESPACE: &str = "io.kubernetes.pod.namespace";
pub const POD_UID: &str = "io.kubernetes.pod.uid";
pub const CONTAINER_NAME: &str = "io.kubernetes.container.name";
pub const CONTAINER_HASH: &str = "io.kubernetes.container.hash";
pub const CONTAINER_RESTART_COUNT: &str = "io.kubernetes.container.restartCount";
pub const CONTAINER_TERMINATION_MESSAGE_PATH: &str = "io.kubernetes.container.terminationMessagePath";
pub const CONTAINER_TERMINATION_MESSAGE_POLICY: &str = "io.kubernetes.container.terminationMessagePolicy";
pub const CONTAINER_PRE_STOP: &str = "io.kubernetes.container.preStopHandler";
pub const CONTAINER_PORTS: &str = "io.kubernetes.container.ports";
pub const POD_DELETION_GRACE_PERIOD: &str = "io.kubernetes.pod.deletionGracePeriod";
pub const POD_TERMINATION_GRACE_PERIOD: &str = "io.kubernetes.pod.terminationGracePeriod";

/// `<log_dir>/<namespace>_<name>_<uid>`
pub fn log_directory(log_dir: &Path, pod: &Pod) -> PathBuf {
    log_dir.join(format!("{}_{}_{}", meta::namespace(pod), meta::name(pod), meta::uid(pod)))
}

pub fn sandbox_metadata(pod: &Pod, attempt: u32) -> cri::PodSandboxMetadata {
    let text = str::to_owned;
    cri::PodSandboxMetadata { name: text(meta::name(pod)), uid: text(meta::uid(pod)), namespace: text(meta::namespace(pod)), attempt }
}

/// The pod's own labels, and who it is.
pub fn of_sandbox(pod: &Pod) -> HashMap<String, String> {
    let own = pod.metadata.labels.clone().unwrap_or_default();
    own.into_iter().chain(who(pod)).collect()
}

pub fn of_container(pod: &Pod, container: &Container) -> HashMap<String, String> {
    who(pod).into_iter().chain([(CONTAINER_NAME.to_owned(), container.name.clone())]).collect()
}

/// What is needed to judge, stop and report the container when its pod is known no longer.
pub fn annotations(pod: &Pod, container: &Container, restart_count: u32, hash: &str) -> BTreeMap<String, String> {
    let path = container.termination_message_path.clone().unwrap_or_else(|| "/dev/termination-log".into());
    let policy = container.termination_message_policy.clone().unwrap_or_else(|| "File".into());
    let pre_stop = container.lifecycle.as_ref().and_then(|l| l.pre_stop.as_ref()).and_then(|h| serde_json::to_string(h).ok());
    let ports = container.ports.as_ref().filter(|p| !p.is_empty()).and_then(|p| serde_json::to_string(p).ok());
    let grace = pod.spec.as_ref().and_then(|s| s.termination_grace_period_seconds).map(|s| s.to_string());
    let deletion = pod.metadata.deletion_grace_period_seconds.map(|s| s.to_string());
    let all = [
        (CONTAINER_HASH, Some(hash.to_owned())),
        (CONTAINER_RESTART_COUNT, Some(restart_count.to_string())),
        (CONTAINER_TERMINATION_MESSAGE_PATH, Some(path)),
        (CONTAINER_TERMINATION_MESSAGE_POLICY, Some(policy)),
        (CONTAINER_PRE_STOP, pre_stop),
        (CONTAINER_PORTS, ports),
        (POD_TERMINATION_GRACE_PERIOD, grace),
        (POD_DELETION_GRACE_PERIOD, deletion),
    ];
    all.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value?))).collect()
}

fn who(pod: &Pod) -> [(String, String); 3] {
    [(POD_NAME, meta::name(pod)), (POD_NAMESPACE, meta::namespace(pod)), (POD_UID, meta::uid(pod))]
        .map(|(k, v)| (k.to_owned(), v.to_owned()))
}
