//! Job -> pods that run to their end, each end counted once.
//!
//! Source: `pkg/controller/job`. Gang scheduling of Jobs (`WorkloadWithJob`, alpha) is left out.

mod backoff;
mod conditions;
mod decide;
mod indexes;
mod manage;
mod orphans;
mod pods;
mod policy;
mod sync;
#[cfg(test)]
mod tests;
mod told;
mod tracking;
mod wanted;

use std::{
    collections::HashMap,
    sync::{Arc, OnceLock},
};

use api::{Key, k8s::api::batch::v1::Job, time::Timestamp};
use client::{Cache, Caches, kube, pods::Pod};
use kube::ResourceExt;
use parking_lot::Mutex;
use reconcile::{Action, Controller, Done, Plan, Wake};

use crate::{
    Config,
    lasted::{Ages, Lasted},
    owned::Owned,
    replicas::watches,
};
use backoff::Record;
use decide::decide;
pub use orphans::Orphans;
pub use pods::is_finished;
use pods::{finished_at, managed_elsewhere, spec};
use sync::{Outcome, selector};

/// A run rests as one about so many objects for each pod, 1 ms: of a Job of a thousand it looks once in a second (`SyncJobBatchPeriod`).
const WEIGHT: usize = 100;

pub struct Jobs {
    jobs: Cache<Job>,
    pods: Cache<Pod>,
    owned: Owned,
    ages: Ages,
    memory: Mutex<HashMap<Key, Memory>>,
}

/// What is known of a Job beside what is stored. As large as the number of Jobs that are not over.
#[derive(Clone, Debug, Default)]
struct Memory {
    uid: String,
    record: Record,
    /// The last run could not make or delete pods.
    is_stuck: bool,
}

pub struct World {
    job: Arc<Job>,
    /// Its own, and those without a controller that it would have; by name.
    pods: Vec<Arc<Pod>>,
    memory: Memory,
    lasted: Lasted,
    /// Names of new pods come from here.
    random: u64,
    /// What the plan comes to, for [`Jobs::ran`].
    outcome: OnceLock<Outcome>,
}

impl Jobs {
    pub fn new(caches: &Caches, owned: &Owned, config: &Config) -> Self {
        let (jobs, pods) = (caches.of(), caches.of());
        Self { jobs, pods, owned: owned.clone(), ages: Ages::new(&config.clock), memory: Mutex::default() }
    }

    fn forget(&self, key: &Key) {
        self.memory.lock().remove(key);
        self.ages.of(key, [], Timestamp::now());
    }

    fn pods_of(&self, job: &Job) -> Vec<Arc<Pod>> {
        let (namespace, uid) = (job.metadata.namespace.as_deref().unwrap_or_default(), job.metadata.uid.as_deref().unwrap_or_default());
        let mut all = self.owned.pods(namespace, uid);
        if let Some(selector) = selector(job).filter(|_| job.metadata.deletion_timestamp.is_none()) {
            all.extend(self.owned.orphans(namespace, &selector).into_iter().filter(|pod| pod.metadata.deletion_timestamp.is_none()));
        }
        all.sort_unstable_by(|a, b| a.metadata.name.cmp(&b.metadata.name));
        all
    }

    /// What the Job waits for the end of began then.
    fn beginnings(job: &Job, memory: &Memory, pods: &[Arc<Pod>]) -> Vec<Timestamp> {
        let start =
            job.status.as_ref().and_then(|status| status.start_time.as_ref()).filter(|_| spec(job).active_deadline_seconds.is_some());
        let is_counted = |pod: &&Arc<Pod>| pods::is_tracked(pod) && (pod.phase() == "Failed" || pods::is_terminating(pod));
        let failed = pods.iter().filter(|_| spec(job).backoff_limit_per_index.is_some()).filter(is_counted).map(|pod| finished_at(pod));
        start.map(|at| at.0).into_iter().chain(memory.record.last).chain(failed).collect()
    }
}

impl Controller for Jobs {
    type World = World;

    fn name(&self) -> &'static str {
        "job-controller"
    }

    fn weight(&self, world: &World) -> usize {
        world.pods.len().saturating_mul(WEIGHT)
    }

    fn watches(&self, wake: &Wake) {
        watches(wake, &self.jobs, &self.pods, selector);
        told::follow(&self.jobs, &self.pods);
    }

    async fn observe(&self, key: &Key) -> Option<World> {
        let Some(job) = self.jobs.get(key).filter(|job| !is_finished(job) && managed_elsewhere(job).is_none()) else {
            self.forget(key);
            return None;
        };
        let uid = job.uid()?;
        let memory = self.memory.lock().get(key).filter(|memory| memory.uid == uid).cloned();
        let memory = memory.unwrap_or(Memory { uid, ..Memory::default() });
        let pods = self.pods_of(&job);
        let lasted = self.ages.of(key, Self::beginnings(&job, &memory, &pods), Timestamp::now());
        Some(World { job, pods, memory, lasted, random: rand::random(), outcome: OnceLock::new() })
    }

    fn plan(&self, world: &World, _: &Key) -> Plan {
        let decided = decide(world);
        // A plan of the same world is the same.
        let _ = world.outcome.set(decided.outcome);
        decided.plan
    }

    fn ran(&self, key: &Key, world: &World, done: &Done<'_>) {
        let Some(outcome) = world.outcome.get() else { return };
        let mut memory = world.memory.clone();
        // What failed before the status was told will be found again.
        let is_told = done.failed.iter().all(|(action, _)| match action {
            Action::Create { .. } => true,
            Action::Patch { .. } | Action::Delete { .. } => !outcome.acts_first,
            _ => false,
        });
        if is_told {
            memory.record = outcome.record;
        }
        memory.is_stuck = done.failed.iter().any(|(action, error)| is_of_pod(action) && !is_gone(error));
        self.memory.lock().insert(key.clone(), memory);
        told::ran(&world.job, outcome, done);
    }

    fn failed(&self, key: &Key, action: &Action, error: &kube::Error) -> Option<Action> {
        let kube::Error::Api(status) = error else { return None };
        let job = self.jobs.get(key)?;
        match action {
            Action::Create { .. } => Some(Action::warning(&*job, "FailedCreate", format!("Error creating: {}", status.message))),
            Action::Delete { .. } => Some(Action::warning(&*job, "FailedDelete", format!("Error deleting: {}", status.message))),
            _ => None,
        }
    }
}

fn is_of_pod(action: &Action) -> bool {
    matches!(action, Action::Create { .. } | Action::Delete { .. } | Action::Patch { .. })
}

fn is_gone(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == 404)
}
