//! Levels and schemas, with their counts -> what `/metrics` tells of them (`apiserver_flowcontrol_*`).

use std::{fmt::Write, sync::atomic::Ordering::Relaxed};

use super::{
    Fairness,
    counts::{Counts, REASONS},
    levels::{Levels, State},
    matching::Matched,
};
use crate::metrics::head;

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
