//! What is known of a Job and its pods in one run, and what follows of it: how many ended, whether it is over, when to look again.
//! Source: `syncJob` in `pkg/controller/job/job_controller.go`.

use std::{
    collections::{BTreeMap, HashSet},
    sync::Arc,
    time::Duration,
};

use api::{
    k8s::{
        api::batch::v1::{Job, JobCondition, JobStatus},
        apimachinery::pkg::apis::meta::v1::Time,
    },
    selector::Labels,
    time::{Timestamp, span, whole_seconds},
};
use client::pods::Pod;
use reconcile::{Action, Owner};

use super::{
    World,
    backoff::Record,
    conditions::{CRITERIA_MET, FAILED, FAILURE_TARGET, condition, holding},
    indexes::Indexes,
    pods::{self, is_terminating, is_tracked, spec, uid},
    policy::{is_success, judge},
    wanted::Wanted,
};
use crate::lasted::Lasted;

/// What is remembered and counted once it is carried out.
#[derive(Debug, Default, PartialEq)]
pub struct Outcome {
    pub record: Record,
    /// Upstream's word for what the run was about.
    pub doing: &'static str,
    /// Whether pods are released or deleted before anything is told.
    pub acts_first: bool,
    /// How many pods are to be made, and why.
    pub creations: (usize, &'static str),
    /// Failures that a rule was for, by its action.
    pub judged: BTreeMap<&'static str, i64>,
}

/// Numbers as the status will say them.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counts {
    pub active: i32,
    pub ready: i32,
    pub terminating: i32,
    pub succeeded: i32,
    pub failed: i32,
}

/// How far an indexed Job is.
#[derive(Debug, Default)]
pub struct Progress {
    /// As the status says.
    pub before: Indexes,
    /// With those that succeeded since.
    pub succeeded: Indexes,
    /// Of Jobs whose indexes fail one by one.
    pub failed: Option<Indexes>,
    /// The last pod of each index that is to be tried again: it stays until its successor is there, which is told how often the index failed.
    pub delayed: BTreeMap<i32, Arc<Pod>>,
}

pub struct Sync<'a> {
    pub job: &'a Job,
    pub wanted: Wanted<'a>,
    pub owner: Owner,
    pub lasted: &'a Lasted,
    pub now: Timestamp,
    pub random: u64,
    /// Pods could not be made or deleted lately: nothing is told of what is only hoped for.
    pub is_stuck: bool,
    pub pods: Vec<Arc<Pod>>,
    pub active: Vec<Arc<Pod>>,
    pub counts: Counts,
    pub progress: Progress,
    pub finish: Option<JobCondition>,
    pub status: JobStatus,
    pub again: Option<Duration>,
    /// What comes before the status, what comes after it, and what comes last.
    pub first: Vec<Action>,
    pub then: Vec<Action>,
    pub last: Vec<Action>,
    pub events: Vec<Action>,
    pub outcome: Outcome,
}

pub fn selector(job: &Job) -> Option<Labels> {
    Labels::from_selector(spec(job).selector.as_ref()).ok().flatten()
}

impl<'a> Sync<'a> {
    pub fn look(world: &'a World, owner: Owner, mut pods: Vec<Arc<Pod>>) -> Self {
        let job = &*world.job;
        let wanted = Wanted::of(job);
        if wanted.is_indexed {
            pods.sort_by_cached_key(|pod| pods::index(pod));
        }
        let active: Vec<Arc<Pod>> = pods.iter().filter(|pod| pod.is_active()).cloned().collect();
        let count = |n: usize| i32::try_from(n).unwrap_or(i32::MAX);
        let counts = Counts {
            active: count(active.len()),
            ready: count(active.iter().filter(|pod| pod.ready_since().is_some()).count()),
            terminating: count(pods.iter().filter(|pod| is_terminating(pod)).count()),
            ..Counts::default()
        };
        let mut this = Self {
            job,
            wanted,
            owner,
            lasted: &world.lasted,
            now: whole_seconds(world.lasted.now),
            random: world.random,
            is_stuck: world.memory.is_stuck,
            pods,
            active,
            counts,
            progress: Progress::default(),
            finish: None,
            status: job.status.clone().unwrap_or_default(),
            again: None,
            first: Vec::new(),
            then: Vec::new(),
            last: Vec::new(),
            events: Vec::new(),
            outcome: Outcome { doing: "reconciling", ..Outcome::default() },
        };
        this.count_ends(world.memory.record);
        this
    }

    /// The pods that came to their end, those whose end is yet to be counted included.
    fn count_ends(&mut self, record: Record) {
        let uncounted = self.status.uncounted_terminated_pods.clone().unwrap_or_default();
        let (succeeded, failed) = (uncounted.succeeded.unwrap_or_default(), uncounted.failed.unwrap_or_default());
        let new_succeeded = self.valid_but(&succeeded, |pod| pod.phase() == "Succeeded");
        let new_failed = self.valid_but(&failed, |pod| self.has_failed(pod));
        let counting = new_failed.iter().filter(|pod| judge(self.wanted.failure_policy, pod).counts).count();
        let sum = |told: Option<i32>, known: usize, fresh: usize| {
            told.unwrap_or(0).saturating_add(i32::try_from(known + fresh).unwrap_or(i32::MAX))
        };
        self.counts.succeeded = sum(self.status.succeeded, succeeded.len(), new_succeeded.len());
        self.counts.failed = sum(self.status.failed, failed.len(), counting);
        self.outcome.record = record.after(&new_succeeded, &new_failed);
    }

    /// `getValidPodsWithFilter`: those that are not counted yet, and have an index that counts.
    fn valid_but(&self, uncounted: &[String], filter: impl Fn(&Pod) -> bool) -> Vec<Arc<Pod>> {
        let known: HashSet<&str> = uncounted.iter().map(String::as_str).collect();
        let is_valid = |pod: &&Arc<Pod>| {
            is_tracked(pod) && !known.contains(uid(pod)) && (!self.wanted.is_indexed || self.index_of(pod).is_some()) && filter(pod)
        };
        self.pods.iter().filter(is_valid).cloned().collect()
    }

    /// The pod's index, where the Job has it.
    pub fn index_of(&self, pod: &Pod) -> Option<i32> {
        pods::index(pod).filter(|index| *index < self.wanted.completions.unwrap_or(0))
    }

    /// `isPodFailed`: of most Jobs a pod that is being deleted has failed, for it may never say so.
    pub fn has_failed(&self, pod: &Pod) -> bool {
        match pod.phase() {
            "Failed" => true,
            "Succeeded" => false,
            _ => !self.wanted.replaces_failed_only && pod.metadata.deletion_timestamp.is_some(),
        }
    }

    /// Whether the Job comes to its end. What was said before holds; failures come before success.
    pub fn judge(&mut self) {
        if self.status.start_time.is_none() && !self.wanted.is_suspended {
            self.status.start_time = Some(Time(self.now));
        }
        self.finish = self.already().or_else(|| self.failed_by_policy()).or_else(|| self.failed_by_limits());
        if self.wanted.is_indexed {
            self.look_at_indexes();
            if self.finish.is_none() {
                self.finish = self.by_indexes();
            }
        }
    }

    fn already(&self) -> Option<JobCondition> {
        if let Some(met) = holding(&self.status, CRITERIA_MET) {
            return Some(met.clone());
        }
        let target = holding(&self.status, FAILURE_TARGET)?;
        let of = |text: &'_ Option<String>| text.clone().unwrap_or_default();
        Some(condition(FAILED, "True", (&of(&target.reason), &of(&target.message)), self.now))
    }

    fn failure(&self, reason: &str, message: &str) -> Option<JobCondition> {
        Some(condition(FAILURE_TARGET, "True", (reason, message), self.now))
    }

    fn failed_by_policy(&self) -> Option<JobCondition> {
        let policy = self.wanted.failure_policy;
        policy?;
        let failed = self.pods.iter().filter(|pod| self.has_failed(pod));
        let message = failed.filter_map(|pod| judge(policy, pod).fails_job).next()?;
        self.failure("PodFailurePolicy", &message)
    }

    fn failed_by_limits(&mut self) -> Option<JobCondition> {
        if self.counts.failed > self.wanted.backoff_limit || self.was_restarted_too_often() {
            return self.failure("BackoffLimitExceeded", "Job has reached the specified backoff limit");
        }
        let deadline = spec(self.job).active_deadline_seconds.filter(|_| !self.wanted.is_suspended)?;
        let left = self.lasted.left(self.status.start_time.as_ref()?.0, span(deadline));
        if left.is_zero() {
            return self.failure("DeadlineExceeded", "Job was active longer than specified deadline");
        }
        self.look_again(left);
        None
    }

    pub fn look_again(&mut self, left: Duration) {
        self.again = Some(self.again.map_or(left, |again| again.min(left)));
    }

    /// `pastBackoffLimitOnFailure`
    fn was_restarted_too_often(&self) -> bool {
        if !self.wanted.restarts_on_failure {
            return false;
        }
        let lives = self.pods.iter().filter(|pod| matches!(pod.phase(), "Running" | "Pending"));
        let restarts = lives.fold(0, |sum: i32, pod| sum.saturating_add(pods::restarts(pod)));
        restarts >= self.wanted.backoff_limit.max(1)
    }

    /// Which indexes succeeded and failed, those included that are yet to be told.
    fn look_at_indexes(&mut self) {
        let completions = self.wanted.completions.unwrap_or(0);
        let before = Indexes::parse(self.status.completed_indexes.as_deref().unwrap_or_default(), completions);
        let of = |pods: Vec<Arc<Pod>>| Indexes::of(pods.iter().filter_map(|pod| self.index_of(pod)));
        let succeeded = before.with(&of(self.valid_but(&[], |pod| pod.phase() == "Succeeded")));
        let failed = self.wanted.per_index.map(|limit| {
            let told = Indexes::parse(self.status.failed_indexes.as_deref().unwrap_or_default(), completions);
            told.with(&of(self.valid_but(&[], |pod| self.has_failed_index(pod, limit))))
        });
        self.counts.succeeded = succeeded.total();
        let delayed = failed.as_ref().map(|failed| self.delayed(&succeeded, failed)).unwrap_or_default();
        self.progress = Progress { before, succeeded, failed, delayed };
    }

    /// `isIndexFailed`
    fn has_failed_index(&self, pod: &Pod, limit: i32) -> bool {
        if !self.has_failed(pod) {
            return false;
        }
        let judged = judge(self.wanted.failure_policy, pod);
        judged.action == Some("FailIndex") || (judged.counts && pods::failures(pod) >= limit)
    }

    /// `getPodsWithDelayedDeletionPerIndex`
    fn delayed(&self, succeeded: &Indexes, failed: &Indexes) -> BTreeMap<i32, Arc<Pod>> {
        let active = Indexes::of(self.active.iter().filter_map(|pod| pods::index(pod)));
        let total = |pod: &Pod| pods::failures(pod).saturating_add(pods::ignored(pod));
        let mut out: BTreeMap<i32, Arc<Pod>> = BTreeMap::new();
        for pod in self.valid_but(&[], |pod| self.has_failed(pod)) {
            let Some(index) = self.index_of(&pod).filter(|i| !succeeded.has(*i) && !failed.has(*i) && !active.has(*i)) else { continue };
            let is_later = |last: &Arc<Pod>| total(last) <= total(&pod) && pods::finished_at(last) <= pods::finished_at(&pod);
            if out.get(&index).is_none_or(is_later) {
                out.insert(index, pod);
            }
        }
        out
    }

    fn by_indexes(&self) -> Option<JobCondition> {
        let completions = self.wanted.completions.unwrap_or(0);
        if let Some(failed) = self.progress.failed.as_ref().map(Indexes::total) {
            if spec(self.job).max_failed_indexes.is_some_and(|most| failed > most) {
                return self.failure("MaxFailedIndexesExceeded", "Job has exceeded the specified maximal number of failed indexes");
            }
            if failed > 0 && failed.saturating_add(self.progress.succeeded.total()) >= completions {
                return self.failure("FailedIndexes", "Job has failed indexes");
            }
        }
        let message = is_success(spec(self.job).success_policy.as_ref(), completions, &self.progress.succeeded)?;
        Some(condition(CRITERIA_MET, "True", ("SuccessPolicy", &message), self.now))
    }
}
