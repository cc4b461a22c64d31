//! What happens to a pod -> events about it, as upstream words them.

use api::k8s::api::core::v1::{Container, ObjectReference, Pod};
use client::Recorder;

use crate::meta;

/// Tells about one pod.
#[derive(Clone)]
pub struct PodRecorder {
    recorder: Recorder,
    pod: ObjectReference,
}

impl PodRecorder {
    pub fn about(recorder: &Recorder, pod: &Pod) -> Self {
        Self { recorder: recorder.clone(), pod: reference(pod) }
    }

    pub fn normal(&self, reason: &str, message: impl Into<String>) {
        self.recorder.normal(&self.pod, reason, message);
    }

    pub fn warning(&self, reason: &str, message: impl Into<String>) {
        self.recorder.warning(&self.pod, reason, message);
    }

    /// About one container of the pod.
    pub fn container(&self, pod: &Pod, container: &Container) -> Self {
        let init = pod.spec.iter().flat_map(|s| s.init_containers.iter().flatten()).any(|c| c.name == container.name);
        let list = if init { "initContainers" } else { "containers" };
        let field_path = Some(format!("spec.{list}{{{}}}", container.name));
        Self { recorder: self.recorder.clone(), pod: ObjectReference { field_path, ..self.pod.clone() } }
    }
}

/// Events about a static pod are about its uid as the directory gives it, as upstream's are.
fn reference(pod: &Pod) -> ObjectReference {
    ObjectReference {
        api_version: Some("v1".into()),
        kind: Some("Pod".into()),
        namespace: Some(meta::namespace(pod).into()),
        name: Some(meta::name(pod).into()),
        uid: Some(meta::uid(pod).into()),
        resource_version: pod.metadata.resource_version.clone(),
        field_path: None,
    }
}
