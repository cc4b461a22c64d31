//! Pods that came to their end -> counted, once. Source: `trackJobStatusAndRemoveFinalizers` in `pkg/controller/job/job_controller.go`.
//!
//! Whoever is killed at any point finds what he needs: the status names the pods that are to be counted before their finalizers go, and they are counted
//! when these are gone. An index is counted by its number.

use std::{collections::HashSet, sync::Arc};

use api::k8s::{api::batch::v1::UncountedTerminatedPods, apimachinery::pkg::apis::meta::v1::Time};
use client::pods::Pod;
use reconcile::Action;

use super::{
    conditions::{COMPLETE, CRITERIA_MET, FAILURE_TARGET, condition, ensure, holding},
    pods::{TRACKING, is_tracked, uid},
    policy::judge,
    sync::Sync,
};

/// Pods that a status names at a time, some 20 KB (`MaxUncountedPods`).
const UNCOUNTED_MAX: usize = 500;

/// Those that are to be counted.
struct Ended {
    succeeded: Vec<String>,
    failed: Vec<String>,
    /// How many indexes came to their end.
    indexes: usize,
    /// Those that the status named before.
    named: Named,
    /// Those whose finalizers may go, once the status is written.
    released: Vec<Arc<Pod>>,
}

#[derive(Default)]
struct Named {
    succeeded: HashSet<String>,
    failed: HashSet<String>,
}

pub fn track(sync: &mut Sync<'_>) {
    let mut ended = count_released(sync);
    for pod in sync.pods.iter().filter(|pod| is_tracked(pod)) {
        if !may_be_released(sync, pod) {
            continue;
        }
        ended.released.push(pod.clone());
        if let Some(action) = name_ended(sync, pod, &mut ended) {
            *sync.outcome.judged.entry(action).or_default() += 1;
        }
        if ended.indexes + ended.succeeded.len() + ended.failed.len() >= UNCOUNTED_MAX {
            break;
        }
    }
    tell_indexes(sync);
    let is_all_counted = ended.succeeded.is_empty() && ended.failed.is_empty() && ended.released.is_empty();
    let list = |all: Vec<String>| (!all.is_empty()).then_some(all);
    sync.status.uncounted_terminated_pods = Some(UncountedTerminatedPods { succeeded: list(ended.succeeded), failed: list(ended.failed) });
    tell_end(sync, is_all_counted);
    sync.then.extend(ended.released.iter().map(|pod| Action::without_finalizer(&**pod, TRACKING)));
}

/// `cleanUncountedPodsWithoutFinalizers`: those that were named, and have lost their finalizer or are gone, are counted.
fn count_released(sync: &mut Sync<'_>) -> Ended {
    let named = sync.status.uncounted_terminated_pods.take().unwrap_or_default();
    let tracked: HashSet<&str> = sync.pods.iter().filter(|pod| is_tracked(pod)).map(uid).collect();
    let split = |all: Option<Vec<String>>, told: Option<i32>| {
        let (left, counted): (Vec<String>, Vec<String>) =
            all.unwrap_or_default().into_iter().partition(|uid| tracked.contains(uid.as_str()));
        let sum = told.unwrap_or(0).saturating_add(i32::try_from(counted.len()).unwrap_or(i32::MAX));
        (left, (sum != 0).then_some(sum))
    };
    let (succeeded, all_succeeded) = split(named.succeeded, sync.status.succeeded);
    let (failed, all_failed) = split(named.failed, sync.status.failed);
    (sync.status.succeeded, sync.status.failed) = (all_succeeded, all_failed);
    let named = Named { succeeded: succeeded.iter().cloned().collect(), failed: failed.iter().cloned().collect() };
    Ended { succeeded, failed, indexes: 0, named, released: Vec::new() }
}

/// `canRemoveFinalizer`
fn may_be_released(sync: &Sync<'_>, pod: &Arc<Pod>) -> bool {
    if sync.job.metadata.deletion_timestamp.is_some() || sync.finish.is_some() || pod.phase() == "Succeeded" {
        return true;
    }
    let waits = sync.index_of(pod).and_then(|index| sync.progress.delayed.get(&index)).is_some_and(|last| uid(last) == uid(pod));
    sync.has_failed(pod) && !waits
}

/// Names it in the status, where it counts; the action of the rule that was for its failure.
fn name_ended(sync: &Sync<'_>, pod: &Arc<Pod>, ended: &mut Ended) -> Option<&'static str> {
    let has_failed_before = ended.named.failed.contains(uid(pod));
    let has_index = || !sync.wanted.is_indexed || sync.index_of(pod).is_some();
    if pod.phase() == "Succeeded" && !has_failed_before {
        if sync.wanted.is_indexed {
            ended.indexes += usize::from(sync.index_of(pod).is_some_and(|index| !sync.progress.before.has(index)));
        } else if !ended.named.succeeded.contains(uid(pod)) {
            ended.succeeded.push(uid(pod).to_owned());
        }
        return None;
    }
    // When the Job fails, so has every pod that has not ended.
    let fails = sync.finish.as_ref().is_some_and(|finish| finish.type_ != CRITERIA_MET);
    if !(sync.has_failed(pod) || fails) || has_failed_before || !has_index() {
        return None;
    }
    let judged = judge(sync.wanted.failure_policy, pod);
    if judged.counts {
        ended.failed.push(uid(pod).to_owned());
    }
    judged.action
}

fn tell_indexes(sync: &mut Sync<'_>) {
    if !sync.wanted.is_indexed {
        return;
    }
    let all = &sync.progress.succeeded;
    sync.status.succeeded = (!all.is_empty()).then(|| all.total());
    sync.status.completed_indexes = (!all.is_empty()).then(|| all.to_string());
    sync.status.failed_indexes = sync.progress.failed.as_ref().map(ToString::to_string);
}

/// First what it comes to, and once all is counted and gone, that it has. Source: also `enactJobFinished`, `recordJobFinished`.
fn tell_end(sync: &mut Sync<'_>, is_all_counted: bool) {
    let Some(finish) = sync.finish.take() else { return };
    // The server wants it of whoever is over; one that was suspended has none.
    sync.status.start_time.get_or_insert(Time(sync.now));
    if finish.type_ == FAILURE_TARGET || (finish.type_ == CRITERIA_MET && holding(&sync.status, CRITERIA_MET).is_none()) {
        ensure(&mut sync.status, finish);
        return;
    }
    if !is_all_counted || sync.counts.terminating > 0 {
        return;
    }
    let (reason, message) = (finish.reason.unwrap_or_default(), finish.message.unwrap_or_default());
    if finish.type_ != CRITERIA_MET {
        ensure(&mut sync.status, condition(&finish.type_, "True", (&reason, &message), sync.now));
        return sync.events.push(Action::warning(sync.job, failure(&reason), message));
    }
    ensure(&mut sync.status, condition(COMPLETE, "True", (&reason, &message), sync.now));
    sync.status.completion_time = Some(Time(sync.now.max(sync.status.start_time.as_ref().map_or(sync.now, |start| start.0))));
    if sync.wanted.completions.is_some_and(|wanted| sync.status.succeeded.unwrap_or(0) > wanted) {
        let message = "Too many succeeded pods running after completion count reached";
        sync.events.push(Action::warning(sync.job, "TooManySucceededPods", message));
    }
    sync.events.push(Action::normal(sync.job, "Completed", "Job completed"));
}

/// The reasons that Jobs fail for; somebody else may have said another.
fn failure(reason: &str) -> &'static str {
    const ALL: [&str; 5] = ["BackoffLimitExceeded", "DeadlineExceeded", "PodFailurePolicy", "FailedIndexes", "MaxFailedIndexesExceeded"];
    ALL.into_iter().find(|known| *known == reason).unwrap_or("Failed")
}
