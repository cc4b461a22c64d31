//! What the scheduler decides -> `scheduler_*` on the page of metrics.
//!
//! Source: `pkg/scheduler/metrics`. There is one profile, `default-scheduler`.

use std::{sync::Once, time::Duration};

use api::metrics::{self, Family};
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::{
    pod::SCHEDULER,
    queue::Pending,
    state::{Binding, Todo},
};

/// Who waits for the one that runs; who begins to lead again has another. `None` where it is gone.
static RUNNING: Mutex<Option<Look>> = Mutex::new(None);

type Look = Box<dyn Fn() -> Option<Pending> + Send + Sync>;

/// Seconds (`ExponentialBuckets(0.001, 2, 15)`).
const ATTEMPT: &[f64] = &[0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.128, 0.256, 0.512, 1.024, 2.048, 4.096, 8.192, 16.384];
/// Seconds (`ExponentialBuckets(0.01, 2, 20)`).
const SLI: &[f64] = &[
    0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92, 163.84, 327.68, 655.36, 1310.72, 2621.44,
    5242.88,
];

static ATTEMPTS: Family = Family::counter(
    "scheduler_schedule_attempts_total",
    "[STABLE] Number of attempts to schedule pods, by the result. 'unschedulable' means a pod could not be scheduled, while 'error' means an internal scheduler problem.",
    &["result", "profile"],
);
static ATTEMPT_TOOK: Family = Family::times(
    "scheduler_scheduling_attempt_duration_seconds",
    "[STABLE] Scheduling attempt latency in seconds (scheduling algorithm + binding)",
    &["result", "profile"],
    ATTEMPT,
);
static ALGORITHM_TOOK: Family =
    Family::times("scheduler_scheduling_algorithm_duration_seconds", "[ALPHA] Scheduling algorithm latency in seconds", &[], ATTEMPT);
static POD_TOOK: Family = Family::times(
    "scheduler_pod_scheduling_sli_duration_seconds",
    "[BETA] E2e latency for a pod being scheduled, from the time the pod enters the scheduling queue and might involve multiple scheduling attempts.",
    &["attempts"],
    SLI,
);
static POD_ATTEMPTS: Family = Family::sizes(
    "scheduler_pod_scheduling_attempts",
    "[STABLE] Number of attempts to successfully schedule a pod.",
    &[],
    &[1.0, 2.0, 4.0, 8.0, 16.0],
);
static PREEMPTIONS: Family =
    Family::counter("scheduler_preemption_attempts_total", "[STABLE] Total preemption attempts in the cluster till now", &[]);
static VICTIMS: Family = Family::sizes(
    "scheduler_preemption_victims",
    "[STABLE] Number of selected preemption victims",
    &[],
    &[1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0],
);
static PENDING: Family = Family::gauge(
    "scheduler_pending_pods",
    "[STABLE] Number of pending pods, by the queue type. 'active' means number of pods in activeQ; 'backoff' means number of pods in backoffQ; 'unschedulable' means number of pods in unschedulablePods that the scheduler attempted to schedule and failed; 'gated' is the number of unschedulable pods that the scheduler never attempted to schedule because they are gated.",
    &["queue"],
);

/// A try is decided; where it gave a node, it is over when the pod is bound.
pub(crate) fn decided(todo: &Todo, took: Duration) {
    match todo {
        Todo::Bind(_) => {}
        Todo::Unschedulable(..) => attempted("unschedulable", took),
        Todo::Fail(..) => attempted("error", took),
        Todo::Skip(_) => return,
    }
    ALGORITHM_TOOK.took(&[], took);
}

pub(crate) fn scheduled(binding: &Binding, now: Instant) {
    let attempts = binding.tried.attempts;
    attempted("scheduled", now.duration_since(binding.began));
    POD_ATTEMPTS.with(&[]).size(attempts.into());
    // `getAttemptsLabel`: no more than sixteen of them.
    let text = attempts.to_string();
    let label = if attempts >= 15 { "15+" } else { &text };
    POD_TOOK.took(&[label], now.duration_since(binding.tried.since));
}

pub(crate) fn not_bound(binding: &Binding, reason: &str, now: Instant) {
    let result = if reason == "Unschedulable" { "unschedulable" } else { "error" };
    attempted(result, now.duration_since(binding.began));
}

pub(crate) fn preempts(victims: usize) {
    PREEMPTIONS.count(&[]);
    VICTIMS.with(&[]).size(u64::try_from(victims).unwrap_or(u64::MAX));
}

/// Who waits is counted for each page.
pub(crate) fn follow(look: impl Fn() -> Option<Pending> + Send + Sync + 'static) {
    static READS: Once = Once::new();
    *RUNNING.lock() = Some(Box::new(look));
    // They are on the page before anything happens.
    for family in [&ALGORITHM_TOOK, &PREEMPTIONS, &POD_ATTEMPTS, &VICTIMS] {
        family.with(&[]);
    }
    POD_TOOK.with(&["1"]);
    for result in ["scheduled", "unschedulable", "error"] {
        ATTEMPTS.with(&[result, SCHEDULER]);
        ATTEMPT_TOOK.with(&[result, SCHEDULER]);
    }
    READS.call_once(|| {
        metrics::before_page(|| {
            let pending = RUNNING.lock().as_ref().and_then(|look| look()).unwrap_or_default();
            let queues = [
                ("active", pending.active),
                ("backoff", pending.backoff),
                ("gated", pending.gated),
                ("unschedulable", pending.unschedulable),
            ];
            for (queue, count) in queues {
                PENDING.set(&[queue], i64::try_from(count).unwrap_or(i64::MAX));
            }
            true
        });
    });
}

fn attempted(result: &str, took: Duration) {
    ATTEMPTS.count(&[result, SCHEDULER]);
    ATTEMPT_TOOK.took(&[result, SCHEDULER], took);
}
