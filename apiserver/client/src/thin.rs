//! A pod as it is served -> what schedulers and controllers read of it: a third of the memory.
//!
//! k8s-openapi's types are wide: a volume takes 3 KiB and an environment variable 360 bytes before anything is in them. Whoever runs
//! pods needs all of it; those who place and count them need none of that, and there are many pods.

use api::k8s::{
    api::core::v1::{Container, Pod, PodSpec, PodStatus, Volume},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};

/// The whole object once more, as kubectl keeps it.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// Leaves out of a pod what only its node needs. What is left must not be written back.
pub fn pod(pod: &mut Pod) {
    metadata(&mut pod.metadata);
    if let Some(spec) = &mut pod.spec {
        placing(spec);
    }
    if let Some(status) = &mut pod.status {
        counting(status);
    }
}

fn metadata(metadata: &mut ObjectMeta) {
    metadata.managed_fields = None;
    if let Some(annotations) = &mut metadata.annotations {
        annotations.remove(LAST_APPLIED);
    }
    if let Some(owners) = &mut metadata.owner_references {
        owners.shrink_to_fit();
    }
}

fn placing(spec: &mut PodSpec) {
    let containers = spec.containers.iter_mut().chain(spec.init_containers.iter_mut().flatten());
    containers.for_each(container);
    spec.containers.shrink_to_fit();
    if let Some(volumes) = &mut spec.volumes {
        volumes.retain(is_placed);
        volumes.shrink_to_fit();
    }
    spec.volumes = spec.volumes.take().filter(|volumes| !volumes.is_empty());
    if let Some(tolerations) = &mut spec.tolerations {
        tolerations.shrink_to_fit();
    }
    (spec.dns_config, spec.host_aliases, spec.image_pull_secrets, spec.service_account) = (None, None, None, None);
}

fn container(container: &mut Container) {
    (container.env, container.env_from, container.command, container.args, container.working_dir) = (None, None, None, None, None);
    (container.volume_mounts, container.volume_devices, container.lifecycle) = (None, None, None);
    (container.liveness_probe, container.readiness_probe, container.startup_probe) = (None, None, None);
    (container.termination_message_path, container.termination_message_policy, container.image_pull_policy) = (None, None, None);
    if let Some(ports) = &mut container.ports {
        ports.shrink_to_fit();
    }
}

/// Whether a volume says something about where its pod can run.
fn is_placed(volume: &Volume) -> bool {
    let Volume { config_map, secret, projected, downward_api, empty_dir, host_path, .. } = volume;
    let anywhere = config_map.is_some() || secret.is_some() || projected.is_some() || downward_api.is_some();
    !(anywhere || empty_dir.is_some() || host_path.is_some())
}

fn counting(status: &mut PodStatus) {
    let containers = status.container_statuses.iter_mut().chain(&mut status.init_container_statuses);
    for container in containers {
        container.iter_mut().for_each(|one| {
            (one.image, one.image_id, one.container_id) = (String::new(), String::new(), None);
            (one.allocated_resources, one.resources, one.volume_mounts, one.user) = (None, None, None, None);
        });
        container.shrink_to_fit();
    }
    if let Some(conditions) = &mut status.conditions {
        conditions.shrink_to_fit();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_places_a_pod_is_left() {
        let mut thin: Pod = serde_json::from_value(serde_json::json!({
            "metadata": {"name": "a", "labels": {"k": "v"}, "annotations": {LAST_APPLIED: "{}", "x": "y"}},
            "spec": {
                "nodeName": "n",
                "containers": [{"name": "c", "image": "i", "env": [{"name": "A"}], "resources": {"requests": {"cpu": "1"}}, "ports": [{"containerPort": 1}]}],
                "volumes": [{"name": "t", "projected": {}}, {"name": "p", "persistentVolumeClaim": {"claimName": "q"}}, {"name": "e", "emptyDir": {}}],
            },
            "status": {"phase": "Running", "containerStatuses": [{"name": "c", "image": "i", "imageID": "x", "ready": true, "restartCount": 3}]},
        }))
        .unwrap();
        pod(&mut thin);
        let left = serde_json::to_value(&thin).unwrap();
        let (spec, status) = (&left["spec"], &left["status"]["containerStatuses"][0]);
        assert_eq!(left["metadata"]["annotations"], serde_json::json!({"x": "y"}));
        assert_eq!(spec["volumes"], serde_json::json!([{"name": "p", "persistentVolumeClaim": {"claimName": "q"}}]));
        assert_eq!(spec["containers"][0]["resources"]["requests"]["cpu"], "1");
        assert_eq!(spec["containers"][0]["ports"][0]["containerPort"], 1);
        assert_eq!((&spec["containers"][0]["image"], &spec["containers"][0]["env"]), (&"i".into(), &serde_json::Value::Null));
        assert_eq!((&status["restartCount"], &status["ready"]), (&3.into(), &true.into()));
    }
}
