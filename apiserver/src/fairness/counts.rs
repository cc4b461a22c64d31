//! What happens to requests -> `apiserver_flowcontrol_*`. Source: apiserver `pkg/util/flowcontrol/metrics`.

use std::{
    fmt::Write,
    sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use super::{
    Fairness,
    levels::{Levels, State, Why},
    matching::Matched,
};
use crate::metrics::head;

/// Seconds (`requestDurationSecondsBuckets`).
const BUCKETS: [f64; 13] = [0.0, 0.005, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 15.0, 30.0];
const REASONS: [(Why, &str); 4] = [
    (Why::Cancelled, "cancelled"),
    (Why::ConcurrencyLimit, "concurrency-limit"),
    (Why::QueueFull, "queue-full"),
    (Why::TimeOut, "time-out"),
];

/// Schemas of which all numbers are told, zeros too. Where there are more, those are told that have ever had a request.
const TOLD_SCHEMAS: usize = 100;

/// A number of one level: name, help, and which.
type OfLevel<W> = (&'static str, &'static str, fn(&Levels<W>, &State<W>) -> f64);

#[expect(clippy::cast_precision_loss, reason = "seats are few")]
fn of_levels<W>() -> [OfLevel<W>; 8] {
    [
        ("nominal_limit_seats", "Nominal number of execution seats configured for each priority level", |_, level| {
            level.bounds.nominal as f64
        }),
        ("lower_limit_seats", "Configured lower bound on number of execution seats available to each priority level", |_, level| {
            level.bounds.lower as f64
        }),
        ("upper_limit_seats", "Configured upper bound on number of execution seats available to each priority level", |_, level| {
            level.bounds.upper as f64
        }),
        ("current_limit_seats", "current derived number of execution seats available to each priority level", |all, level| {
            all.current(level) as f64
        }),
        ("demand_seats_high_watermark", "High watermark, over last adjustment period, of demand_seats", |_, level| {
            level.demand.told().high_watermark as f64
        }),
        ("demand_seats_average", "Time-weighted average, over last adjustment period, of demand_seats", |_, level| {
            level.demand.told().average
        }),
        ("demand_seats_stdev", "Time-weighted standard deviation, over last adjustment period, of demand_seats", |_, level| {
            level.demand.told().deviation
        }),
        ("demand_seats_smoothed", "Smoothed seat demands", |_, level| level.demand.told().smoothed),
    ]
}

/// The requests of one schema. Every number by itself is right; together they may be of different moments.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    dispatched: AtomicU64,
    refused: [AtomicU64; REASONS.len()],
    executing: AtomicI64,
    seats: AtomicI64,
    queued: AtomicI64,
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

    fn is_used(&self) -> bool {
        self.dispatched() > 0 || self.queued.load(Relaxed) > 0 || self.refused.iter().any(|refused| refused.load(Relaxed) > 0)
    }

    /// Requests that are served, their seats, and requests that wait.
    pub fn now(&self) -> (i64, i64, i64) {
        (self.executing.load(Relaxed), self.seats.load(Relaxed), self.queued.load(Relaxed))
    }

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

impl Fairness {
    /// What `/metrics` tells of it (`apiserver_flowcontrol_*`).
    pub(crate) fn text(&self, out: &mut String) {
        let matcher = self.matcher.load();
        let is_told = |matched: &&Matched| matcher.schemas.len() <= TOLD_SCHEMAS || matched.counts.is_used();
        schemas(out, &matcher.schemas.iter().map(|matched| &**matched).filter(is_told).collect::<Vec<_>>());
        let mut levels = self.levels.lock();
        levels.sync_all(self.began.elapsed());
        for (name, help, number) in of_levels() {
            let name = format!("apiserver_flowcontrol_{name}");
            head(out, &name, "gauge", help);
            for level in levels.all() {
                let _ = writeln!(out, "{name}{{priority_level=\"{}\"}} {}", level.name, number(&levels, level));
            }
        }
        drop(levels);
        self.bodies.text(out);
    }
}

fn labels(matched: &Matched) -> String {
    format!("flow_schema=\"{}\",priority_level=\"{}\"", matched.schema.name, matched.level.name)
}

fn schemas(out: &mut String, all: &[&Matched]) {
    let mut numbers = |name: &str, typ: &str, help: &str, number: &dyn Fn(&Counts) -> i64| {
        head(out, name, typ, help);
        for matched in all {
            let _ = writeln!(out, "{name}{{{}}} {}", labels(matched), number(&matched.counts));
        }
    };
    let name = "apiserver_flowcontrol_dispatched_requests_total";
    let help = "Number of requests executed by API Priority and Fairness subsystem";
    numbers(name, "counter", help, &|c| i64::try_from(c.dispatched()).unwrap_or(i64::MAX));
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
    for matched in all {
        for ((_, reason), refused) in REASONS.iter().zip(&matched.counts.refused).filter(|(_, refused)| refused.load(Relaxed) > 0) {
            let _ = writeln!(out, "{name}{{{},reason=\"{reason}\"}} {}", labels(matched), refused.load(Relaxed));
        }
    }
    let name = "apiserver_flowcontrol_request_wait_duration_seconds";
    head(out, name, "histogram", "Length of time a request spent waiting in its queue");
    for matched in all {
        for served in [false, true] {
            matched.counts.histogram(out, &labels(matched), served);
        }
    }
}

fn signed(seats: usize) -> i64 {
    i64::try_from(seats).unwrap_or(i64::MAX)
}
