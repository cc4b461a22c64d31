//! What happens to requests -> `apiserver_flowcontrol_*`. Source: apiserver `pkg/util/flowcontrol/metrics`.

use std::{
    fmt::Write,
    sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use super::levels::{Bounds, Why};
use crate::metrics::head;

/// Seconds (`requestDurationSecondsBuckets`).
const BUCKETS: [f64; 13] = [0.0, 0.005, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 15.0, 30.0];
const REASONS: [(Why, &str); 4] = [
    (Why::Cancelled, "cancelled"),
    (Why::ConcurrencyLimit, "concurrency-limit"),
    (Why::QueueFull, "queue-full"),
    (Why::TimeOut, "time-out"),
];

/// A number of one level: name, help, and which.
type OfLevel = (&'static str, &'static str, fn(&Bounds) -> usize);
pub(super) const LEVELS: [OfLevel; 3] = [
    ("apiserver_flowcontrol_nominal_limit_seats", "Nominal number of execution seats configured for each priority level", |bounds| {
        bounds.nominal
    }),
    (
        "apiserver_flowcontrol_lower_limit_seats",
        "Configured lower bound on number of execution seats available to each priority level",
        |bounds| bounds.lower,
    ),
    (
        "apiserver_flowcontrol_upper_limit_seats",
        "Configured upper bound on number of execution seats available to each priority level",
        |bounds| bounds.upper,
    ),
];

/// The requests of one schema. Every number by itself is right; together they may be of different moments.
#[derive(Default)]
pub(super) struct Counts {
    dispatched: AtomicU64,
    refused: [AtomicU64; REASONS.len()],
    executing: AtomicI64,
    seats: AtomicI64,
    queued: AtomicI64,
    /// Of those that had to wait: those that were served, and those that were not.
    waits: [Waits; 2],
}

#[derive(Default)]
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

    #[cfg(test)]
    pub fn now(&self) -> (i64, i64, i64) {
        (self.executing.load(Relaxed), self.seats.load(Relaxed), self.queued.load(Relaxed))
    }

    #[cfg(test)]
    pub fn refused_for(&self, why: Why) -> u64 {
        REASONS.iter().zip(&self.refused).filter(|((reason, _), _)| *reason == why).map(|(_, count)| count.load(Relaxed)).sum()
    }

    fn histogram(&self, out: &mut String, names: &str, served: bool) {
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

/// All of it; `names` gives a schema's labels.
pub(super) fn text(out: &mut String, all: &[Counts], names: &dyn Fn(usize) -> String) {
    let mut numbers = |name: &str, typ: &str, help: &str, number: &dyn Fn(&Counts) -> i64| {
        head(out, name, typ, help);
        for (at, counts) in all.iter().enumerate() {
            let _ = writeln!(out, "{name}{{{}}} {}", names(at), number(counts));
        }
    };
    let count = |counter: &AtomicU64| i64::try_from(counter.load(Relaxed)).unwrap_or(i64::MAX);
    let name = "apiserver_flowcontrol_dispatched_requests_total";
    numbers(name, "counter", "Number of requests executed by API Priority and Fairness subsystem", &|c| count(&c.dispatched));
    let name = "apiserver_flowcontrol_current_inqueue_requests";
    let help = "Number of requests currently pending in queues of the API Priority and Fairness subsystem";
    numbers(name, "gauge", help, &|c| c.queued.load(Relaxed).max(0));
    let name = "apiserver_flowcontrol_current_executing_requests";
    let help =
        "Number of requests in initial (for a WATCH) or any (for a non-WATCH) execution stage in the API Priority and Fairness subsystem";
    numbers(name, "gauge", help, &|c| c.executing.load(Relaxed).max(0));
    let name = "apiserver_flowcontrol_current_executing_seats";
    let help = "Concurrency (number of seats) occupied by the currently executing (initial stage for a WATCH, any stage otherwise) requests in the API Priority and Fairness subsystem";
    numbers(name, "gauge", help, &|c| c.seats.load(Relaxed).max(0));
    let name = "apiserver_flowcontrol_rejected_requests_total";
    head(out, name, "counter", "Number of requests rejected by API Priority and Fairness subsystem");
    for (at, counts) in all.iter().enumerate() {
        for ((_, reason), refused) in REASONS.iter().zip(&counts.refused).filter(|(_, refused)| refused.load(Relaxed) > 0) {
            let _ = writeln!(out, "{name}{{{},reason=\"{reason}\"}} {}", names(at), refused.load(Relaxed));
        }
    }
    let name = "apiserver_flowcontrol_request_wait_duration_seconds";
    head(out, name, "histogram", "Length of time a request spent waiting in its queue");
    for (at, counts) in all.iter().enumerate() {
        for served in [false, true] {
            counts.histogram(out, &names(at), served);
        }
    }
}

fn signed(seats: usize) -> i64 {
    i64::try_from(seats).unwrap_or(i64::MAX)
}
