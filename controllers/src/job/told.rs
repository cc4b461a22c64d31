//! What the Jobs' controller does -> `job_controller_*` on the page of metrics. Source: `pkg/controller/job/metrics`.

use std::sync::Arc;

use api::{
    k8s::api::batch::v1::{Job, JobStatus},
    metrics::Family,
};
use client::{Cache, pods::Pod};
use reconcile::Done;

use super::{
    conditions::{COMPLETE, FAILED, holding},
    indexes::Indexes,
    pods::{is_finished, is_tracked, managed_elsewhere, spec},
    sync::Outcome,
};

/// Seconds (`ExponentialBuckets(0.004, 2, 15)`).
const BUCKETS: &[f64] = &[0.004, 0.008, 0.016, 0.032, 0.064, 0.128, 0.256, 0.512, 1.024, 2.048, 4.096, 8.192, 16.384, 32.768, 65.536];
const OF_SYNC: &[&str] = &["completion_mode", "result", "action"];

static SYNC_TOOK: Family =
    Family::times("job_controller_job_sync_duration_seconds", "[STABLE] The time it took to sync a job", OF_SYNC, BUCKETS);
static SYNCS: Family = Family::counter("job_controller_job_syncs_total", "[STABLE] The number of job syncs", OF_SYNC);
static FINISHED: Family =
    Family::counter("job_controller_jobs_finished_total", "[STABLE] The number of finished jobs", &["completion_mode", "result", "reason"]);
static ELSEWHERE: Family = Family::counter(
    "job_controller_jobs_by_external_controller_total",
    "[ALPHA] The number of Jobs managed by an external controller",
    &["controller_name"],
);
static PODS_FINISHED: Family = Family::counter(
    "job_controller_job_pods_finished_total",
    "[STABLE] The number of finished Pods that are fully tracked",
    &["completion_mode", "result"],
);
static JUDGED: Family = Family::counter(
    "job_controller_pod_failures_handled_by_failure_policy_total",
    "[BETA] The number of failed Pods handled by failure policy with respect to the failure policy action applied based on the matched rule. Possible values of the action label correspond to the possible values for the failure policy rule action, which are: \"FailJob\", \"Ignore\" and \"Count\".",
    &["action"],
);
static TRACKED: Family = Family::counter(
    "job_controller_terminated_pods_tracking_finalizer_total",
    "[BETA] The number of terminated pods (phase=Failed|Succeeded) that have the finalizer batch.kubernetes.io/job-tracking. The event label can be \"add\" or \"delete\".",
    &["event"],
);
static INDEXES: Family = Family::counter(
    "job_controller_job_finished_indexes_total",
    "[ALPHA] The number of finished indexes. Possible values for the status label are: \"succeeded\", \"failed\". Possible values for the backoffLimit label are: \"perIndex\" and \"global\"",
    &["status", "backoffLimit"],
);
static CREATIONS: Family = Family::counter(
    "job_controller_job_pods_creation_total",
    "[ALPHA] The number of Pods created by the Job controller labelled with a reason for the Pod creation. This metric also distinguishes between Pods created using different PodReplacementPolicy settings. Possible values of the \"reason\" label are: \"new\", \"recreate_terminating_or_failed\", \"recreate_failed\". Possible values of the \"status\" label are: \"succeeded\", \"failed\".",
    &["reason", "status"],
);

/// What is told is counted where it is seen: whoever told it.
pub fn follow(jobs: &Cache<Job>, pods: &Cache<Pod>) {
    jobs.on_change(|old, new| {
        let Some(new) = new else { return };
        match (managed_elsewhere(new), old) {
            (Some(name), None) => ELSEWHERE.count(&[name]),
            (None, Some(old)) if old.metadata.uid == new.metadata.uid => changed(old, new),
            _ => {}
        }
    });
    pods.on_change(|old, new| {
        let waits = |pod: Option<&Arc<Pod>>| pod.is_some_and(|pod| pod.is_over() && is_tracked(pod));
        match (waits(old), waits(new)) {
            (false, true) => TRACKED.count(&["add"]),
            (true, false) => TRACKED.count(&["delete"]),
            _ => {}
        }
    });
}

pub fn ran(job: &Job, outcome: &Outcome, done: &Done<'_>) {
    if outcome.doing.is_empty() {
        return;
    }
    let result = if done.failed.is_empty() { "success" } else { "error" };
    let values = [mode(job), result, outcome.doing];
    SYNCS.count(&values);
    SYNC_TOOK.took(&values, done.took);
    let count = |n: usize| i64::try_from(n).unwrap_or(i64::MAX);
    let (wanted, reason) = outcome.creations;
    if wanted > 0 {
        let refused = done.failed.iter().filter(|(action, _)| matches!(action, reconcile::Action::Create { .. })).count();
        CREATIONS.with(&[reason, "succeeded"]).add(count(done.created));
        CREATIONS.with(&[reason, "failed"]).add(count(refused));
    }
    outcome.judged.iter().for_each(|(action, times)| JUDGED.with(&[action]).add(*times));
}

fn mode(job: &Job) -> &'static str {
    if is_indexed(job) { "Indexed" } else { "NonIndexed" }
}

fn is_indexed(job: &Job) -> bool {
    spec(job).completion_mode.as_deref() == Some("Indexed")
}

fn changed(old: &Job, new: &Job) {
    let none = JobStatus::default();
    let (before, now) = (old.status.as_ref().unwrap_or(&none), new.status.as_ref().unwrap_or(&none));
    let grown = |before: Option<i32>, now: Option<i32>| (i64::from(now.unwrap_or(0)) - i64::from(before.unwrap_or(0))).max(0);
    let count = |result: &str, number: i64| {
        if number > 0 {
            PODS_FINISHED.with(&[mode(new), result]).add(number)
        }
    };
    count("succeeded", grown(before.succeeded, now.succeeded));
    count("failed", grown(before.failed, now.failed));
    if is_indexed(new) {
        let limit = if spec(new).backoff_limit_per_index.is_some() { "perIndex" } else { "global" };
        let total =
            |text: Option<&String>| Some(Indexes::parse(text.map_or("", String::as_str), spec(new).completions.unwrap_or(0)).total());
        for (status, was, is) in
            [("succeeded", &before.completed_indexes, &now.completed_indexes), ("failed", &before.failed_indexes, &now.failed_indexes)]
        {
            if was != is {
                INDEXES.with(&[status, limit]).add(grown(total(was.as_ref()), total(is.as_ref())));
            }
        }
    }
    if !is_finished(old) && is_finished(new) {
        let (result, how) = if holding(now, COMPLETE).is_some() { ("succeeded", COMPLETE) } else { ("failed", FAILED) };
        let reason = holding(now, how).and_then(|condition| condition.reason.as_deref()).unwrap_or_default();
        FINISHED.count(&[mode(new), result, reason]);
    }
}
