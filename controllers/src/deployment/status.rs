//! What the deployment says of itself: counts and conditions. Source: `sync.go` (`calculateStatus`) and `progress.go`.

use std::time::Duration;

use api::{
    k8s::api::apps::v1::{DeploymentCondition, DeploymentStatus, ReplicaSet},
    time::span,
};
use client::kube::ResourceExt;

use super::{
    conditions::{NEW_AVAILABLE, PAUSED, TIMED_OUT, UPDATED, condition, deadline, find, set},
    math::{available, desired, fences, replicas, sum, total},
    rollout::Rollout,
};

impl Rollout<'_> {
    pub fn is_complete(&self) -> bool {
        self.is_complete_with(&self.counts())
    }

    /// The status, and when to look whether the deadline has passed.
    pub fn status(&self) -> (DeploymentStatus, Option<Duration>) {
        let mut status = self.counts();
        let mut conditions = status.conditions.take().unwrap_or_default();
        set(&mut conditions, self.availability(&status));
        match deadline(&self.deployment) {
            None => conditions.retain(|c| c.type_ != "Progressing"),
            Some(_) => self.progress(&status, &mut conditions),
        }
        conditions.retain(|c| c.type_ != "ReplicaFailure");
        conditions.extend(self.failure());
        let again = self.until_deadline(&status, &conditions);
        status.conditions = (!conditions.is_empty()).then_some(conditions);
        (status, again)
    }

    fn counts(&self) -> DeploymentStatus {
        let all = |of: fn(&ReplicaSet) -> i32| sum(self.sets.iter().map(of));
        let (there, ready, available) = (all(replicas), all(ready), all(available));
        let some = |n: i32| (n != 0).then_some(n);
        let terminating = all(|set| set.status.as_ref().and_then(|s| s.terminating_replicas).unwrap_or(0));
        DeploymentStatus {
            observed_generation: self.deployment.metadata.generation,
            replicas: some(there),
            updated_replicas: some(self.new.map_or(0, |i| replicas(&self.sets[i]))),
            ready_replicas: some(ready),
            available_replicas: some(available),
            unavailable_replicas: some(total(&self.sets).saturating_sub(available).max(0)),
            terminating_replicas: Some(terminating),
            collision_count: self.deployment.status.as_ref().and_then(|s| s.collision_count),
            conditions: self.deployment.status.as_ref().and_then(|s| s.conditions.clone()),
        }
    }

    fn availability(&self, status: &DeploymentStatus) -> DeploymentCondition {
        let enough = status.available_replicas.unwrap_or(0) >= desired(&self.deployment).saturating_sub(fences(&self.deployment).1);
        let (word, reason, message) = if enough {
            ("True", "MinimumReplicasAvailable", "Deployment has minimum availability.")
        } else {
            ("False", "MinimumReplicasUnavailable", "Deployment does not have minimum availability.")
        };
        condition("Available", word, reason, message.into(), self.now)
    }

    fn progress(&self, status: &DeploymentStatus, conditions: &mut Vec<DeploymentCondition>) {
        let current = find(Some(conditions), "Progressing").cloned();
        let settled =
            status.replicas == status.updated_replicas && current.as_ref().is_some_and(|c| c.reason.as_deref() == Some(NEW_AVAILABLE));
        if settled {
            return;
        }
        let subject = match self.new {
            Some(i) => format!("ReplicaSet {:?}", self.sets[i].name_any()),
            None => format!("Deployment {:?}", self.deployment.name_any()),
        };
        let now = self.now;
        if self.is_complete_with(status) {
            set(conditions, condition("Progressing", "True", NEW_AVAILABLE, format!("{subject} has successfully progressed."), now));
        } else if self.has_moved(status) {
            let mut moved = condition("Progressing", "True", UPDATED, format!("{subject} is progressing."), now);
            if let Some(current) = current.filter(|c| c.status == "True") {
                moved.last_transition_time = current.last_transition_time;
            }
            // Taken out first: the time of the last update is what the deadline counts from.
            conditions.retain(|c| c.type_ != "Progressing");
            conditions.push(moved);
        } else if current.is_some_and(|c| self.is_late(&c)) {
            set(conditions, condition("Progressing", "False", TIMED_OUT, format!("{subject} has timed out progressing."), now));
        }
    }

    fn is_complete_with(&self, status: &DeploymentStatus) -> bool {
        let wanted = desired(&self.deployment);
        let all = [status.updated_replicas, status.replicas, status.available_replicas];
        all.iter().all(|n| n.unwrap_or(0) == wanted)
    }

    fn has_moved(&self, status: &DeploymentStatus) -> bool {
        let before = self.before.status.clone().unwrap_or_default();
        let n = |value: Option<i32>| value.unwrap_or(0);
        let old_pods = |s: &DeploymentStatus| n(s.replicas).saturating_sub(n(s.updated_replicas));
        n(status.updated_replicas) > n(before.updated_replicas)
            || old_pods(status) < old_pods(&before)
            || n(status.ready_replicas) > n(before.ready_replicas)
            || n(status.available_replicas) > n(before.available_replicas)
    }

    fn is_late(&self, current: &DeploymentCondition) -> bool {
        match current.reason.as_deref() {
            Some(NEW_AVAILABLE) => false,
            Some(TIMED_OUT) => true,
            _ => self.left(current).is_some_and(|left| left < 0),
        }
    }

    /// Seconds until the deadline passes.
    fn left(&self, current: &DeploymentCondition) -> Option<i64> {
        Some(self.lasted.left_seconds(current.last_update_time.as_ref()?.0, deadline(&self.deployment)?))
    }

    fn until_deadline(&self, status: &DeploymentStatus, conditions: &[DeploymentCondition]) -> Option<Duration> {
        let current = find(Some(conditions), "Progressing")?;
        if self.is_complete_with(status) || matches!(current.reason.as_deref(), Some(TIMED_OUT | NEW_AVAILABLE | PAUSED)) {
            return None;
        }
        self.left(current).map(span)
    }

    fn failure(&self) -> Option<DeploymentCondition> {
        let failing = |set: &ReplicaSet| set.status.as_ref()?.conditions.as_ref()?.iter().find(|c| c.type_ == "ReplicaFailure").cloned();
        let first = self.new.and_then(|i| failing(&self.sets[i]));
        let found = first.or_else(|| self.sets.iter().find_map(failing))?;
        Some(DeploymentCondition {
            type_: found.type_,
            status: found.status,
            reason: found.reason,
            message: found.message,
            last_transition_time: found.last_transition_time.clone(),
            last_update_time: found.last_transition_time,
        })
    }
}

fn ready(set: &ReplicaSet) -> i32 {
    set.status.as_ref().and_then(|s| s.ready_replicas).unwrap_or(0)
}
