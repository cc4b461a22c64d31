//! A CronJob's schedule and now -> the time that is due, and how long until the next one.

use std::time::Duration;

use api::{
    cron::Schedule,
    k8s::api::batch::v1::{CronJob, Job},
    time::{TimeZone, Timestamp},
    zone,
};

/// Clocks that are compared over the network may differ so much (`nextScheduleDelta`).
const LATE: Duration = Duration::from_millis(100);
/// Nobody sleeps longer: the timers of a machine that sleeps stand still, and its clock may be set.
const WAIT_MAX: Duration = Duration::from_secs(600);
/// More than so many missed times are told about.
const MANY_MISSED: i64 = 100;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Due {
    /// The most recent time that is over, and for which nothing was started as far as the status says.
    pub at: Option<Timestamp>,
    pub many_missed: bool,
    pub wait: Duration,
}

/// `mostRecentScheduleTime` and `nextScheduleTimeDuration`; `last` is the time for which something was started last.
///
/// # Errors
/// Reason and message of an event: there is no such time.
pub fn due(cron_job: &CronJob, last: Option<Timestamp>, now: Timestamp, local: &TimeZone) -> Result<Due, (&'static str, String)> {
    let spec = &cron_job.spec;
    let text = &spec.schedule;
    let schedule = Schedule::parse(text).map_err(|why| ("UnparseableSchedule", format!("unparseable schedule: {text:?} : {why}")))?;
    let zone = spec.time_zone.as_deref().and_then(zone::load);
    let schedule = schedule.within(zone.unwrap_or_else(|| local.clone()));
    let created = cron_job.metadata.creation_timestamp.as_ref().map_or(now, |time| time.0);
    let earliest = last.unwrap_or(created);
    let invalid = || ("InvalidSchedule", format!("invalid schedule: {text} : time difference between two schedules is less than 1 second"));
    // Before the deadline nothing is looked for.
    let deadline = spec.starting_deadline_seconds.map(|seconds| api::time::before(now, seconds));
    let since = deadline.map_or(earliest, |deadline| deadline.max(earliest));
    let first = schedule.next(since).ok_or_else(invalid)?;
    let at = if first > now { None } else { schedule.last(since, now) };
    let newest = if first > now { schedule.last(earliest, now) } else { at };
    let next = schedule.next(newest.unwrap_or(earliest).max(earliest)).ok_or_else(invalid)?;
    let between = schedule.next(first).map_or(1, |second| (second.as_second() - first.as_second()).max(1));
    let many_missed = at.is_some() && (now.as_second() - first.as_second()) / between + 1 > MANY_MISSED;
    let wait = Duration::try_from(next.duration_since(now)).unwrap_or_default().saturating_add(LATE);
    Ok(Due { at, many_missed, wait: wait.min(WAIT_MAX) })
}

/// `getJobName`: the same for one time, whoever makes it.
pub fn job_name(cron_job: &CronJob, at: Timestamp) -> String {
    format!("{}-{}", cron_job.metadata.name.as_deref().unwrap_or_default(), at.as_second().div_euclid(60))
}

/// The time that a job of this name was made for; `None` where it was not made for any, or for one that is still to come.
pub fn time_of(cron_job: &CronJob, job: &Job, now: Timestamp) -> Option<Timestamp> {
    let told = job.metadata.annotations.as_ref()?.get(super::SCHEDULED)?;
    let at = api::time::parse(told).filter(|at| *at <= now)?;
    (job.metadata.name.as_deref() == Some(&job_name(cron_job, at))).then_some(at)
}

/// Message of `UnsupportedSchedule`.
pub fn zone_within(schedule: &str) -> String {
    format!(
        "CRON_TZ or TZ used in schedule {schedule:?} is not officially supported, see https://kubernetes.io/docs/concepts/workloads/controllers/cron-jobs/ for more details"
    )
}
