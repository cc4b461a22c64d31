//! Who sits and who waits -> the tables of `/debug/api_priority_and_fairness/`. Source: apiserver `pkg/util/flowcontrol/apf_controller_debug.go`.
//!
//! Requests of exempt levels are counted and not listed: they take no seat. What is told of a request is asked for when the table is let go
//! again: the last one who has a request gives its seat back.

use std::{fmt::Write, time::Duration};

use super::{
    About, Counts, Fairness, Told, Waiter, Why,
    levels::{Levels, Standing, State},
    matching::Matched,
};
use api::time::Timestamp;

/// Go's zero time.
const NEVER: &str = "0001-01-01T00:00:00Z";
const LEVELS: [&str; 10] = [
    "PriorityLevelName",
    "ActiveQueues",
    "IsIdle",
    "IsQuiescing",
    "WaitingRequests",
    "ExecutingRequests",
    "DispatchedRequests",
    "RejectedRequests",
    "TimedoutRequests",
    "CancelledRequests",
];
const QUEUES: [&str; 9] = [
    "PriorityLevelName",
    "Index",
    "PendingRequests",
    "ExecutingRequests",
    "SeatsInUse",
    "NextDispatchR",
    "InitialSeatsSum",
    "MaxSeatsSum",
    "TotalWorkSum",
];
const REQUESTS: [&str; 10] = [
    "PriorityLevelName",
    "FlowSchemaName",
    "QueueIndex",
    "RequestIndexInQueue",
    "FlowDistingsher",
    "ArriveTime",
    "InitialSeats",
    "FinalSeats",
    "AdditionalLatency",
    "StartTime",
];
const DETAILS: [&str; 8] = ["UserName", "Verb", "APIPath", "Namespace", "Name", "APIVersion", "Resource", "SubResource"];

type Row = Vec<String>;

/// A request as the table of seats knows it.
struct Seen {
    level: String,
    /// -1 where there is none.
    queue: i64,
    /// Its place in the queue; -1 where it is served.
    place: i64,
    seats: usize,
    began: Option<Duration>,
    about: About,
}

impl Fairness {
    /// A line for each level.
    pub fn dump_priority_levels(&self) -> String {
        let matcher = self.matcher.load();
        let totals = |slot: u32| {
            let of: Vec<&Matched> =
                matcher.schemas.iter().map(|matched| &**matched).filter(|matched| matched.level.slot.at == slot).collect();
            let sum = |number: &dyn Fn(&Counts) -> u64| of.iter().map(|matched| number(&matched.counts)).sum::<u64>();
            let executing = sum(&|counts| counts.now().0.try_into().unwrap_or_default());
            let refused = sum(&|counts| counts.refused_for(Why::QueueFull) + counts.refused_for(Why::ConcurrencyLimit));
            let (timed_out, cancelled) =
                (sum(&|counts| counts.refused_for(Why::TimeOut)), sum(&|counts| counts.refused_for(Why::Cancelled)));
            (executing, [sum(&Counts::dispatched), refused, timed_out, cancelled])
        };
        let levels = self.levels.lock();
        let rows = by_name(&levels).into_iter().map(|state| {
            let (executing, totals) = totals(state.slot());
            let executing = if state.is_exempt() { executing } else { state.queues.executing() as u64 };
            let waiting = state.queues.waiting();
            let active = state.queues.digests().filter(|queue| !queue.waiting.is_empty()).count();
            let (idle, quiescing) = (waiting == 0 && executing == 0, state.standing == Standing::Quiescing);
            let first = [state.name.to_string(), active.to_string(), idle.to_string(), quiescing.to_string(), waiting.to_string()];
            first.into_iter().chain([executing].into_iter().chain(totals).map(|number| number.to_string())).collect()
        });
        table(&LEVELS, rows.collect())
    }

    /// A line for each queue.
    pub fn dump_queues(&self) -> String {
        let levels = self.levels.lock();
        let mut rows: Vec<Row> = Vec::new();
        for state in by_name(&levels) {
            for (at, queue) in state.queues.digests().enumerate() {
                let sum: usize = queue.waiting.iter().map(|asked| asked.seats).sum();
                let numbers = [at, queue.waiting.len(), queue.executing, queue.seats].map(|number| number.to_string());
                let rest = [seat_seconds(queue.next), sum.to_string(), sum.to_string(), seat_seconds(queue.work)];
                rows.push([state.name.to_string()].into_iter().chain(numbers).chain(rest).collect());
            }
        }
        table(&QUEUES, rows)
    }

    /// A line for each request that waits or is served; `details` says more of each.
    pub fn dump_requests(&self, details: bool) -> String {
        let seen = self.seen();
        let rows = seen.iter().filter_map(|seen| {
            let told = seen.about.told()?;
            let began = seen.began.and_then(|began| Timestamp::try_from(self.began_at + began).ok());
            let mut row = seen.row(&told, began);
            if details {
                row.extend([told.user, told.verb, told.path, told.namespace, told.name, told.version, told.resource, told.subresource]);
            }
            Some(row)
        });
        let rows = rows.collect();
        if details { table(&REQUESTS.iter().chain(&DETAILS).copied().collect::<Vec<_>>(), rows) } else { table(&REQUESTS, rows) }
    }

    fn seen(&self) -> Vec<Seen> {
        let levels = self.levels.lock();
        let mut all = Vec::new();
        let index = |queue: Option<usize>| queue.and_then(|queue| i64::try_from(queue).ok()).unwrap_or(-1);
        for state in by_name(&levels) {
            let level = || state.name.to_string();
            for (at, queue) in state.queues.digests().enumerate() {
                let waiting = queue.waiting.iter().enumerate();
                all.extend(waiting.map(|(place, asked)| Seen {
                    level: level(),
                    queue: index(Some(at)),
                    place: index(Some(place)),
                    seats: asked.seats,
                    began: None,
                    about: asked.about.clone(),
                }));
            }
            all.extend(state.queues.sitting().map(|sitting| Seen {
                level: level(),
                queue: index(sitting.queue),
                place: -1,
                seats: sitting.seats,
                began: Some(sitting.began),
                about: sitting.about.clone(),
            }));
        }
        all
    }
}

fn by_name(levels: &Levels<Waiter>) -> Vec<&State<Waiter>> {
    let mut all: Vec<&State<Waiter>> = levels.all().collect();
    all.sort_by(|a, b| a.name.cmp(&b.name));
    all
}

impl Seen {
    fn row(&self, told: &Told, began: Option<Timestamp>) -> Row {
        vec![
            self.level.clone(),
            told.class.names().1.to_owned(),
            self.queue.to_string(),
            self.place.to_string(),
            told.distinguisher.clone(),
            told.arrived.to_string(),
            self.seats.to_string(),
            "0".to_owned(),
            "0s".to_owned(),
            began.map_or_else(|| NEVER.to_owned(), |began| began.to_string()),
        ]
    }
}

/// Hundred-millionths of a seat's second, as Go prints them (`SeatSeconds.String`).
fn seat_seconds(of: i128) -> String {
    const SCALE: i128 = 100_000_000;
    format!("{}.{:08}ss", of / SCALE, (of % SCALE).abs())
}

/// As Go's tabwriter sets it with a least width of 8 and a padding of 1: cells end with a comma, the last column is not padded.
fn table(heads: &[&str], rows: Vec<Row>) -> String {
    let heads: Row = heads.iter().map(|&head| head.to_owned()).collect();
    let all: Vec<Row> = std::iter::once(heads).chain(rows).collect();
    let wide = |cell: &str| cell.chars().count() + 1;
    let last = all[0].len() - 1;
    let widths: Vec<usize> = (0..last).map(|at| all.iter().map(|row| wide(&row[at]) + 1).max().unwrap_or_default().max(8)).collect();
    let mut out = String::new();
    for row in &all {
        for (cell, width) in row.iter().zip(&widths) {
            let _ = write!(out, "{cell},{:pad$}", "", pad = width - wide(cell));
        }
        let _ = writeln!(out, "{}", row[last]);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_are_set_as_go_sets_them() {
        let row = |cells: [&str; 3]| cells.map(str::to_owned).to_vec();
        let set = table(&["A", "Bbbbbbbbbb", "C"], vec![row(["workload-low", "1", "x"]), row(["é", "2", ""])]);
        let wanted = "A,            Bbbbbbbbbb, C\nworkload-low, 1,          x\né,            2,          \n";
        assert_eq!(set, wanted);
    }

    #[test]
    fn seat_seconds_are_upstreams() {
        assert_eq!(seat_seconds(123_456_789_012), "1234.56789012ss");
        assert_eq!(seat_seconds(0), "0.00000000ss");
    }
}
