//! What is told in an autoscaler's status: conditions, counts, metrics.

use api::{
    k8s::{
        api::autoscaling::v2::{HorizontalPodAutoscaler, HorizontalPodAutoscalerCondition, HorizontalPodAutoscalerStatus, MetricStatus},
        apimachinery::pkg::apis::meta::v1::Time,
    },
    time::{Timestamp, whole_seconds},
};
use reconcile::Action;

pub const ABLE: &str = "AbleToScale";
pub const ACTIVE: &str = "ScalingActive";
pub const LIMITED: &str = "ScalingLimited";
/// Of those that scale to zero, which nothing here does: what another server left is taken away.
pub const SCALED_TO_ZERO: &str = "ScaledToZero";

/// A scale that could not be written, and how the status shall be once that is told.
#[derive(Clone, Debug, PartialEq)]
pub struct Failed {
    pub status: HorizontalPodAutoscalerStatus,
    pub desired: i32,
    pub reason: String,
    pub message: String,
}

/// `setConditionInList`: its time moves with its status alone.
pub fn set(status: &mut HorizontalPodAutoscalerStatus, kind: &str, is: bool, (reason, message): (&str, impl Into<String>), now: Timestamp) {
    let all = status.conditions.get_or_insert_default();
    let place = all.iter().position(|condition| condition.type_ == kind).unwrap_or_else(|| {
        all.push(HorizontalPodAutoscalerCondition { type_: kind.into(), ..HorizontalPodAutoscalerCondition::default() });
        all.len() - 1
    });
    let word = if is { "True" } else { "False" };
    let Some(condition) = all.get_mut(place) else { return };
    if condition.status != word {
        condition.last_transition_time = Some(Time(whole_seconds(now)));
    }
    condition.status = word.into();
    condition.reason = Some(reason.into());
    condition.message = Some(message.into());
}

pub fn remove(status: &mut HorizontalPodAutoscalerStatus, kind: &str) {
    if let Some(all) = &mut status.conditions {
        all.retain(|condition| condition.type_ != kind);
    }
}

/// `setStatus`: what is not named here is not told, the generation among it, as upstream.
pub fn measured(status: &mut HorizontalPodAutoscalerStatus, current: i32, desired: i32, metrics: Vec<MetricStatus>) {
    status.current_replicas = Some(current);
    status.desired_replicas = desired;
    status.current_metrics = Some(metrics);
    status.observed_generation = None;
}

/// The write that tells it, unless it is told already (`updateStatusIfNeeded`).
pub fn update(autoscaler: &HorizontalPodAutoscaler, status: HorizontalPodAutoscalerStatus) -> Option<Action> {
    let (told, status) = (plain(autoscaler.status.clone().unwrap_or_default()), plain(status));
    (told != status).then(|| Action::update_status(&HorizontalPodAutoscaler { status: Some(status), ..autoscaler.clone() }))
}

/// Nothing and an empty list are alike, as are nothing and zero.
fn plain(mut status: HorizontalPodAutoscalerStatus) -> HorizontalPodAutoscalerStatus {
    status.conditions = status.conditions.filter(|all| !all.is_empty());
    status.current_metrics = status.current_metrics.filter(|all| !all.is_empty());
    status.current_replicas = status.current_replicas.filter(|count| *count != 0);
    status
}
