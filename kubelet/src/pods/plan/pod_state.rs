//! What the pod loop knows of a pod beyond the API and the runtime: failures, probe results, why it stops.
//!
//! None of it survives us; all of it can be lost without harm to what runs.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use api::{k8s::api::core::v1::PodStatus, time::Timestamp};

use super::backoff::Backoff;
use crate::pods::runtime_state::pod::Exit;

#[derive(Clone, Debug, Default)]
pub struct PodState {
    /// Why a container waits, by its name: shown as `state.waiting`.
    pub waiting: BTreeMap<String, Waiting>,
    /// Restarts in a row, by the container's name.
    pub crashes: BTreeMap<String, Backoff>,
    /// Failed pulls, by image.
    pub pulls: BTreeMap<String, PullFailure>,
    /// Probe results, by the container's id.
    pub probes: BTreeMap<String, ProbeResults>,
    /// No try before this: the sandbox, or the volumes, could not be made.
    pub hold_until: Option<Timestamp>,
    pub hold_failures: u32,
    /// Set once, never taken back: the pod ends.
    pub stop: Option<Stop>,
    /// Volumes and cgroup are gone.
    pub cleaned: bool,
    /// The pod's containers and sandboxes are removed from the runtime.
    pub removed: bool,
    /// The status as it was last worked out.
    pub status: Option<Arc<PodStatus>>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Waiting {
    pub reason: String,
    pub message: String,
    /// No try to start it before this.
    pub retry_at: Option<Timestamp>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PullFailure {
    pub backoff: Backoff,
    pub failed_at: Timestamp,
    /// `ErrImagePull: text`
    pub text: String,
}

/// What probes said last; `None` until one has said something.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ProbeResults {
    pub startup: Option<Health>,
    pub liveness: Option<Health>,
    pub readiness: Option<Health>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Health {
    Good,
    Bad,
}

/// Why a pod ends, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stop {
    pub cause: StopCause,
    pub grace_seconds: u32,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StopCause {
    /// `metadata.deletionTimestamp` is set.
    Deleted,
    /// The API (or the directory) no longer has it.
    Gone,
    /// Its containers have ended and none is to be restarted.
    Completed,
    /// We end it, or never begin it: the status says why, its phase is Failed.
    Failed { reason: String, message: String },
}

impl Stop {
    /// True where nothing of the pod is to be left in the runtime.
    pub fn removes(&self) -> bool {
        matches!(self.cause, StopCause::Deleted | StopCause::Gone)
    }
}

impl PodState {
    /// When a container that ended so may be started again; `None` is now.
    pub fn crash_until(&self, container: &str, exit: &Exit, now: Timestamp) -> Option<Timestamp> {
        Backoff::until(self.crashes.get(container), exit.finished_at, now)
    }

    /// When an image may be pulled again; `None` is now.
    pub fn pull_until(&self, image: &str, now: Timestamp) -> Option<Timestamp> {
        let failure = self.pulls.get(image)?;
        Backoff::until(Some(&failure.backoff), failure.failed_at, now)
    }

    /// Remembers that a container is started again after `exit`.
    pub fn restarted(&mut self, container: &str, exit: &Exit, now: Timestamp) {
        let next = Backoff::next(self.crashes.get(container), exit.finished_at, now);
        self.crashes.insert(container.into(), next);
    }

    pub fn pull_failed(&mut self, image: &str, text: String, now: Timestamp) {
        let backoff = Backoff::next(self.pulls.get(image).map(|p| &p.backoff), now, now);
        self.pulls.insert(image.into(), PullFailure { backoff, failed_at: now, text });
    }

    /// The sandbox or the volumes could not be made: the next try waits longer each time.
    pub fn hold(&mut self, now: Timestamp) {
        let seconds = 1_u64 << self.hold_failures.min(5);
        self.hold_failures += 1;
        self.hold_until = Some(now + Duration::from_secs(seconds.min(20)));
    }

    pub fn release(&mut self) {
        (self.hold_until, self.hold_failures) = (None, 0);
    }

    pub fn health(&self, container_id: &str) -> ProbeResults {
        self.probes.get(container_id).copied().unwrap_or_default()
    }
}
