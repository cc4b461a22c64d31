//! Pods -> the status. Source: `computeReplicaStatus`, `completeRollingUpdate`, `inconsistentStatus` of `pkg/controller/statefulset`.

use std::sync::Arc;

use api::k8s::api::apps::v1::StatefulSetStatus;
use client::pods::Pod;

use super::{identity::revision, run::Run, run::is_running_and_ready, strategy};

impl Run<'_> {
    /// After all that the run does; `None` where it is told already.
    pub fn status(&self) -> Option<StatefulSetStatus> {
        let mut status = if self.set.metadata.deletion_timestamp.is_some() {
            self.counts(self.pods.iter())
        } else {
            // Whoever bears no number that can be read counts for nothing.
            self.counts(self.replicas.values().copied().chain(self.condemned.iter().copied()))
        };
        status.current_replicas = status.current_replicas.map(|n| n.saturating_sub(self.ended));
        let wanted = self.spec.replicas.unwrap_or(1);
        let is_complete = status.replicas == wanted && status.updated_replicas == Some(wanted) && status.ready_replicas == Some(wanted);
        if strategy(self.spec) == "RollingUpdate" && is_complete {
            status.current_replicas = status.updated_replicas;
            status.current_revision.clone_from(&status.update_revision);
        }
        let before = self.set.status.clone().unwrap_or_default();
        is_news(&before, &status).then(|| trimmed(status))
    }

    fn counts<'a>(&self, pods: impl Iterator<Item = &'a Arc<Pod>>) -> StatefulSetStatus {
        let [mut replicas, mut ready, mut available, mut current, mut updated] = [0; 5];
        for pod in pods {
            replicas += 1;
            let is_ready = is_running_and_ready(pod);
            ready += i32::from(is_ready);
            available += i32::from(is_ready && self.is_available(pod));
            if pod.metadata.deletion_timestamp.is_none() {
                current += i32::from(revision(pod) == self.history.current.name);
                updated += i32::from(revision(pod) == self.history.update.name);
            }
        }
        StatefulSetStatus {
            replicas,
            ready_replicas: Some(ready),
            available_replicas: Some(available),
            current_replicas: Some(current),
            updated_replicas: Some(updated),
            current_revision: Some(self.history.current.name.clone()),
            update_revision: Some(self.history.update.name.clone()),
            observed_generation: self.set.metadata.generation,
            collision_count: Some(self.history.collisions),
            conditions: None,
        }
    }
}

fn is_news(before: &StatefulSetStatus, now: &StatefulSetStatus) -> bool {
    let counts = |s: &StatefulSetStatus| {
        let of = |n: Option<i32>| n.unwrap_or(0);
        [s.replicas, of(s.ready_replicas), of(s.available_replicas), of(s.current_replicas), of(s.updated_replicas)]
    };
    let revisions = |s: &StatefulSetStatus| [s.current_revision.clone(), s.update_revision.clone()].map(Option::unwrap_or_default);
    now.observed_generation.unwrap_or(0) > before.observed_generation.unwrap_or(0)
        || counts(before) != counts(now)
        || revisions(before) != revisions(now)
}

/// Go writes no zeros of these.
fn trimmed(status: StatefulSetStatus) -> StatefulSetStatus {
    let some = |n: Option<i32>| n.filter(|n| *n != 0);
    StatefulSetStatus {
        ready_replicas: some(status.ready_replicas),
        current_replicas: some(status.current_replicas),
        updated_replicas: some(status.updated_replicas),
        ..status
    }
}
