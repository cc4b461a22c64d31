//! A pod of a Job -> what the Job's controller asks of it.

use std::sync::{Arc, LazyLock};

use api::{
    k8s::api::batch::v1::{Job, JobSpec},
    time::{Timestamp, before},
};
use client::pods::{Pod, Role};

/// A pod has it until its end is counted.
pub const TRACKING: &str = "batch.kubernetes.io/job-tracking";
/// The annotation, and the label, with the pod's index.
pub const INDEX: &str = "batch.kubernetes.io/job-completion-index";
/// How often pods of the index failed before this one.
pub const FAILURES: &str = "batch.kubernetes.io/job-index-failure-count";
/// The same of those that do not count.
pub const IGNORED: &str = "batch.kubernetes.io/job-index-ignored-failure-count";
const CONTROLLER: &str = "kubernetes.io/job-controller";

pub fn is_tracked(pod: &Pod) -> bool {
    pod.metadata.finalizers.iter().flatten().any(|name| name == TRACKING)
}

/// Being deleted, and not over.
pub fn is_terminating(pod: &Pod) -> bool {
    pod.metadata.deletion_timestamp.is_some() && !pod.is_over()
}

/// What is too large stands for one that is out of range.
pub fn index(pod: &Pod) -> Option<i32> {
    let index: i64 = pod.annotations().get(INDEX)?.parse().ok()?;
    (index >= 0).then(|| i32::try_from(index).unwrap_or(i32::MAX))
}

/// `getIndexFailureCount`: what users wrote there counts as nothing.
pub fn failures(pod: &Pod) -> i32 {
    number(pod, FAILURES)
}

pub fn ignored(pod: &Pod) -> i32 {
    number(pod, IGNORED)
}

fn number(pod: &Pod, annotation: &str) -> i32 {
    pod.annotations().get(annotation).and_then(|text| text.parse().ok()).filter(|n: &i32| *n >= 0).unwrap_or(0)
}

/// `getFinishedTime`
pub fn finished_at(pod: &Pod) -> Timestamp {
    let unready = || pod.condition("Ready").filter(|c| c.status == "False").and_then(|c| c.last_transition_time.clone());
    let deleted = || {
        let at = pod.metadata.deletion_timestamp.as_ref()?;
        Some(before(at.0, pod.metadata.deletion_grace_period_seconds.unwrap_or(0)))
    };
    let created = || pod.metadata.creation_timestamp.as_ref().map(|at| at.0);
    last_exit(pod).or_else(|| unready().map(|at| at.0)).or_else(deleted).or_else(created).unwrap_or(Timestamp::UNIX_EPOCH)
}

/// When the last of its containers, sidecars included, came to its end; `None` while one has not.
fn last_exit(pod: &Pod) -> Option<Timestamp> {
    let containers = pod.status.as_ref()?.container_statuses.as_deref().unwrap_or_default();
    let ends = |role: Role| pod.exits().iter().filter(move |exit| exit.role == role);
    let init = pod.spec.iter().flat_map(|spec| spec.init_containers.iter().flatten());
    let mut all: Vec<_> = ends(Role::Main).collect();
    if all.len() < containers.len() {
        return None;
    }
    for sidecar in init.filter(|container| container.restart_policy.as_deref() == Some("Always")) {
        all.push(ends(Role::Init).find(|exit| *exit.container == *sidecar.name)?);
    }
    let at: Option<Vec<Timestamp>> = all.iter().map(|exit| exit.finished_at.as_ref().map(|at| at.0)).collect();
    at?.into_iter().max()
}

/// How often its containers were started again (`pastBackoffLimitOnFailure`).
pub fn restarts(pod: &Pod) -> i32 {
    let Some(status) = &pod.status else { return 0 };
    let containers = status.container_statuses.as_deref().unwrap_or_default();
    containers.iter().fold(status.init_restarts, |sum, one| sum.saturating_add(one.restart_count))
}

/// Uids, as a status names them.
pub fn uid(pod: &Arc<Pod>) -> &str {
    pod.metadata.uid.as_deref().unwrap_or_default()
}

/// `Complete` or `Failed`.
pub fn is_finished(job: &Job) -> bool {
    let conditions = job.status.iter().flat_map(|status| status.conditions.iter().flatten());
    conditions.into_iter().any(|c| matches!(c.type_.as_str(), "Complete" | "Failed") && c.status == "True")
}

/// What it asks for; nothing, where it has no spec.
pub fn spec(job: &Job) -> &JobSpec {
    static NOTHING: LazyLock<JobSpec> = LazyLock::new(JobSpec::default);
    job.spec.as_ref().unwrap_or(&NOTHING)
}

/// Whose it is, where it is another controller's.
pub fn managed_elsewhere(job: &Job) -> Option<&str> {
    spec(job).managed_by.as_deref().filter(|name| *name != CONTROLLER)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn pod(value: Value) -> Pod {
        serde_json::from_value(value).unwrap()
    }

    fn ended(name: &str, at: Value) -> Value {
        json!({"name": name, "state": {"terminated": {"exitCode": 1, "finishedAt": at}}})
    }

    /// `TestGetFinishedTime`.
    #[test]
    fn a_pod_finished_when_its_last_container_did_or_else_when_it_was_noticed() {
        let [a, b, c, d] = [1, 2, 3, 4].map(|n| format!("2026-01-01T00:00:0{n}Z"));
        let unready = json!([{"type": "Ready", "status": "False", "lastTransitionTime": c}]);
        let sidecar = json!({"initContainers": [{"name": "s", "restartPolicy": "Always"}, {"name": "i"}], "containers": []});
        let cases = [
            (json!({"status": {"containerStatuses": [ended("a", json!(a)), ended("b", json!(b))]}}), &b),
            (
                json!({"spec": sidecar, "status": {"containerStatuses": [ended("a", json!(a))], "initContainerStatuses": [ended("i", json!(d)), ended("s", json!(b))]}}),
                &b,
            ),
            (
                json!({"spec": sidecar, "status": {"containerStatuses": [ended("a", json!(a))], "initContainerStatuses": [{"name": "s"}], "conditions": unready}}),
                &c,
            ),
            (json!({"status": {"containerStatuses": [ended("a", json!(a)), {"name": "b"}], "conditions": unready}}), &c),
            (json!({"status": {"containerStatuses": [ended("a", Value::Null)], "conditions": unready}}), &c),
            (json!({"metadata": {"creationTimestamp": a, "deletionTimestamp": d, "deletionGracePeriodSeconds": 2}}), &b),
            (json!({"metadata": {"creationTimestamp": a}}), &a),
        ];
        for (value, wanted) in cases {
            assert_eq!(finished_at(&pod(value.clone())), wanted.parse::<Timestamp>().unwrap(), "{value}");
        }
    }

    /// `TestGetIndexFailureCount`.
    #[test]
    fn what_users_write_into_annotations_does_no_harm() {
        for (text, wanted) in [("3", 3), ("0", 0), ("-1", 0), ("x", 0), ("2147483648", 0), ("", 0)] {
            let pod = pod(json!({"metadata": {"annotations": {FAILURES: text, INDEX: "99999999999"}}}));
            assert_eq!((failures(&pod), ignored(&pod), index(&pod)), (wanted, 0, Some(i32::MAX)), "{text}");
        }
        for text in ["-1", "x", ""] {
            assert_eq!(index(&pod(json!({"metadata": {"annotations": {INDEX: text}}}))), None, "{text}");
        }
    }
}
