//! A pod that has its node -> permitted, prepared and bound, or back among those who wait.
//!
//! Source: scheduler `schedule_one.go` (`bindingCycle`, `handleBindingCycleError`).

use std::{sync::Arc, time::Duration};

use api::faults::catch_all;
use client::{kube, pods::Pod};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::Scheduler;
use crate::{
    act::is_gone,
    framework::{Change, Failure},
    plan::Refused,
    pod::{PodInfo, SCHEDULER, node_of},
    queue::{Ended, QueuedPodInfo},
    state::Binding,
    told,
};

/// What a plugin writes before one pod is bound.
const PRE_BIND_BOUND: Duration = Duration::from_secs(15 * 60);

impl Scheduler {
    /// Waits for its permit, and lets plugins write what must be there first; `None` if it is not to be bound.
    pub(super) async fn prepare(&self, mut binding: Box<Binding>) -> Option<Box<Binding>> {
        let done = catch_all(SCHEDULER, self.permit_and_pre_bind(&mut binding)).await;
        let failure = match done {
            Ok(Ok(())) => None,
            Ok(Err(failure)) => Some(failure),
            Err(panic) => Some(Failure::error(panic.to_string())),
        };
        self.state.lock().waited(&mut binding);
        if let Some(failure) = failure {
            let key = binding.tried.info.key.clone();
            if let Err(panic) = catch_all(SCHEDULER, self.not_bound(&mut binding, failure)).await {
                tracing::error!(ns = key.namespace, name = key.name, error = %panic, "binding cycle panicked while it undid a binding");
            }
            return None;
        }
        Some(binding)
    }

    async fn permit_and_pre_bind(&self, binding: &mut Binding) -> Result<(), Failure> {
        let Some(waiting) = binding.waiting.clone() else { return Ok(()) };
        let info = &binding.tried.info;
        // For those who make room for pods: this one needs none any more.
        self.write_status(info, json!({"nominatedNodeName": binding.node})).await;
        waiting.permitted().await?;
        tokio::select! {
            done = binding.pre_binds.pre_bind(info, &binding.node, &mut binding.state, &self.act.client, PRE_BIND_BOUND) => done?,
            why = waiting.preempted() => return Err(why),
        }
        waiting.pre_bound()
    }

    pub(super) async fn bind(&self, mut binding: Box<Binding>) {
        let info = binding.tried.info.clone();
        let error = match catch_all(SCHEDULER, self.act.bind(&info, &binding.node)).await {
            Ok(Ok(())) => {
                let message = format!("Successfully assigned {} to {}", info.key, binding.node);
                self.recorder.normal(&reconcile::reference(&*info.pod), "Scheduled", message);
                told::scheduled(&binding, Instant::now());
                return;
            }
            Ok(Err(error)) if is_gone(&error) => return self.let_go(&mut binding, &error),
            Ok(Err(error)) => error.to_string(),
            // One that panics counts as one that was refused.
            Err(panic) => panic.to_string(),
        };
        let failure = Failure::error(format!("running Bind plugin \"DefaultBinder\": {error}"));
        self.not_bound(&mut binding, failure).await;
    }

    fn let_go(&self, binding: &mut Binding, error: &kube::Error) {
        let key = binding.tried.info.key.clone();
        self.back(binding, Ended::Failed);
        tracing::debug!(ns = key.namespace, name = key.name, %error, "pod changed; binding dropped");
    }

    async fn not_bound(&self, binding: &mut Binding, failure: Failure) {
        let info = binding.tried.info.clone();
        let (ended, reason, message) = match failure {
            Failure::Refused(refusal) => {
                let Refused { message, plugins, .. } = Refused::of_one(&refusal);
                (Ended::Refused(plugins), "Unschedulable", message)
            }
            Failure::Again(reason, message) => (Ended::Failed, reason, message),
        };
        if !self.back(binding, ended) {
            tracing::debug!(ns = info.key.namespace, name = info.key.name, message, "pod changed; binding dropped");
            return;
        }
        tracing::warn!(ns = info.key.namespace, name = info.key.name, message, "failed to bind pod; retrying");
        told::not_bound(binding, reason, Instant::now());
        // Where it was prepared it was nominated, by us.
        let nominated = if binding.prepared { Some(&*binding.node) } else { info.nominated() };
        self.say(&info, reason, &message, nominated, Some(Value::Null)).await;
    }

    /// Takes the pod from where it was to be, and lets it wait again; false where it does not wait any more.
    fn back(&self, binding: &mut Binding, ended: Ended) -> bool {
        let now = Instant::now();
        let state = &mut *self.state.lock();
        // Not so if the cache showed meanwhile that it was bound after all.
        if state.unreserve(binding) {
            state.queue.changed(&Change::PodGone(&binding.tried.info, None), now);
        }
        let info = &binding.tried.info;
        // Between: somebody else bound it, deleted or ended it, or made another of the same name.
        let is_it = |p: &Arc<Pod>| p.metadata.uid.as_deref() == Some(&info.uid) && node_of(p).is_none() && !p.is_over();
        let current = self.pods.get(&info.key).filter(is_it);
        if let Some(pod) = &current {
            let tried = QueuedPodInfo { info: Arc::new(PodInfo::new(pod)), attempts: binding.tried.attempts, since: binding.tried.since };
            state.queue.back(tried, ended, now);
            if binding.helped {
                state.queue.wake(&info.key, now);
            }
        }
        self.woken.notify_one();
        current.is_some()
    }
}
