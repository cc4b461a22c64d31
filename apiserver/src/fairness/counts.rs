//! What happens to requests -> `apiserver_flowcontrol_*`. Source: apiserver `pkg/util/flowcontrol/metrics`.

use std::{
    fmt::Write,
    sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use super::levels::Why;

/// Seconds (`requestDurationSecondsBuckets`).
const BUCKETS: [f64; 13] = [0.0, 0.005, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 15.0, 30.0];
pub(super) const REASONS: [(Why, &str); 4] = [
    (Why::Cancelled, "cancelled"),
    (Why::ConcurrencyLimit, "concurrency-limit"),
    (Why::QueueFull, "queue-full"),
    (Why::TimeOut, "time-out"),
];

/// The requests of one schema. Every number by itself is right; together they may be of different moments.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    dispatched: AtomicU64,
    pub(super) refused: [AtomicU64; REASONS.len()],
    pub(super) executing: AtomicI64,
    pub(super) seats: AtomicI64,
    pub(super) queued: AtomicI64,
    /// Of those that had to wait: those that were served, and those that were not.
    waits: [Waits; 2],
}

#[derive(Debug, Default)]
struct Waits {
    buckets: [AtomicU64; BUCKETS.len()],
    count: AtomicU64,
    nanos: AtomicU64,
}

impl Counts {
    pub fn sits(&self, seats: usize) {
        self.dispatched.fetch_add(1, Relaxed);
        self.executing.fetch_add(1, Relaxed);
        self.seats.fetch_add(signed(seats), Relaxed);
    }

    pub fn rises(&self, seats: usize) {
        self.executing.fetch_sub(1, Relaxed);
        self.seats.fetch_sub(signed(seats), Relaxed);
    }

    pub fn waits(&self) {
        self.queued.fetch_add(1, Relaxed);
    }

    pub fn leaves(&self) {
        self.queued.fetch_sub(1, Relaxed);
    }

    pub fn refused(&self, why: Why) {
        let place = REASONS.iter().position(|(reason, _)| *reason == why).unwrap_or_default();
        self.refused[place].fetch_add(1, Relaxed);
    }

    pub fn waited(&self, took: Duration, served: bool) {
        let waits = &self.waits[usize::from(served)];
        for (bound, count) in BUCKETS.iter().zip(&waits.buckets) {
            if took.as_secs_f64() <= *bound {
                count.fetch_add(1, Relaxed);
            }
        }
        waits.count.fetch_add(1, Relaxed);
        waits.nanos.fetch_add(u64::try_from(took.as_nanos()).unwrap_or(u64::MAX), Relaxed);
    }

    pub fn dispatched(&self) -> u64 {
        self.dispatched.load(Relaxed)
    }

    pub fn is_used(&self) -> bool {
        self.dispatched() > 0 || self.queued.load(Relaxed) > 0 || self.refused.iter().any(|refused| refused.load(Relaxed) > 0)
    }

    /// Requests that are served, their seats, and requests that wait.
    pub fn now(&self) -> (i64, i64, i64) {
        (self.executing.load(Relaxed), self.seats.load(Relaxed), self.queued.load(Relaxed))
    }

    pub fn refused_for(&self, why: Why) -> u64 {
        REASONS.iter().zip(&self.refused).filter(|((reason, _), _)| *reason == why).map(|(_, count)| count.load(Relaxed)).sum()
    }

    pub(super) fn histogram(&self, out: &mut String, names: &str, served: bool) {
        let (waits, name) = (&self.waits[usize::from(served)], "apiserver_flowcontrol_request_wait_duration_seconds");
        // Who sat at once has waited no time; that is not counted where it happens, since it happens to nearly all.
        let all = waits.count.load(Relaxed);
        let at_once = if served { self.dispatched.load(Relaxed).saturating_sub(all) } else { 0 };
        if all + at_once == 0 {
            return;
        }
        let labels = format!("execute=\"{served}\",{names}");
        for (bound, count) in BUCKETS.iter().zip(&waits.buckets) {
            let _ = writeln!(out, "{name}_bucket{{{labels},le=\"{bound}\"}} {}", count.load(Relaxed) + at_once);
        }
        let _ = writeln!(out, "{name}_bucket{{{labels},le=\"+Inf\"}} {}", all + at_once);
        let _ = writeln!(out, "{name}_sum{{{labels}}} {}", Duration::from_nanos(waits.nanos.load(Relaxed)).as_secs_f64());
        let _ = writeln!(out, "{name}_count{{{labels}}} {}", all + at_once);
    }
}

fn signed(seats: usize) -> i64 {
    i64::try_from(seats).unwrap_or(i64::MAX)
}
