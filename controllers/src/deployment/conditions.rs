//! The conditions of a deployment: their reasons, and how one is set. Source: `pkg/controller/deployment/util` (`SetDeploymentCondition`), `progress.go`.

use api::{
    k8s::{
        api::apps::v1::{Deployment, DeploymentCondition},
        apimachinery::pkg::apis::meta::v1::Time,
    },
    time::Timestamp,
};

pub const NEW_CREATED: &str = "NewReplicaSetCreated";
pub const NEW_FOUND: &str = "FoundNewReplicaSet";
pub const PAUSED: &str = "DeploymentPaused";
pub const RESUMED: &str = "DeploymentResumed";
pub const NEW_AVAILABLE: &str = "NewReplicaSetAvailable";
pub const UPDATED: &str = "ReplicaSetUpdated";
pub const TIMED_OUT: &str = "ProgressDeadlineExceeded";

pub fn progressing(deployment: &Deployment) -> Option<&DeploymentCondition> {
    find(deployment.status.as_ref()?.conditions.as_deref(), "Progressing")
}

/// Has no effect on a deployment without a deadline.
pub fn set_progressing(deployment: &mut Deployment, status: &str, reason: &str, message: String, now: Timestamp) {
    if deadline(deployment).is_some() {
        let conditions = deployment.status.get_or_insert_default().conditions.get_or_insert_default();
        set(conditions, condition("Progressing", status, reason, message, now));
    }
}

pub fn deadline(deployment: &Deployment) -> Option<i32> {
    deployment.spec.as_ref()?.progress_deadline_seconds.filter(|s| *s != i32::MAX)
}

pub fn find<'a>(conditions: Option<&'a [DeploymentCondition]>, kind: &str) -> Option<&'a DeploymentCondition> {
    conditions.unwrap_or_default().iter().find(|c| c.type_ == kind)
}

pub fn condition(kind: &str, status: &str, reason: &str, message: String, now: Timestamp) -> DeploymentCondition {
    DeploymentCondition {
        type_: kind.into(),
        status: status.into(),
        reason: Some(reason.into()),
        message: Some(message),
        last_transition_time: Some(Time(now)),
        last_update_time: Some(Time(now)),
    }
}

/// Puts the condition in; one that says the same already stays as it is.
pub fn set(conditions: &mut Vec<DeploymentCondition>, mut condition: DeploymentCondition) {
    if let Some(current) = conditions.iter().find(|c| c.type_ == condition.type_) {
        if current.status == condition.status && current.reason == condition.reason {
            return;
        }
        if current.status == condition.status {
            condition.last_transition_time = current.last_transition_time.clone();
        }
    }
    conditions.retain(|c| c.type_ != condition.type_);
    conditions.push(condition);
}
