//! CronJob -> Jobs: one at each time that the schedule names, as far as the ones before allow; finished ones go when there are too many.
//!
//! Source: `pkg/controller/cronjob`. The status is told from the jobs that are there, and not from what was done: whoever was ended between making
//! a job and saying so finds it by its name, which is made of the time it is for.

mod history;
mod schedule;

use std::{collections::HashSet, sync::Arc, time::Duration};

use api::{
    Key,
    k8s::{
        api::{
            batch::v1::{CronJob, CronJobStatus, Job},
            core::v1::ObjectReference,
        },
        apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time},
    },
    selector::Labels,
    time::{TimeZone, Timestamp, rfc1123z, rfc3339_in},
    zone,
};
use client::{Cache, Caches, kube};
use kube::ResourceExt;
use reconcile::{Action, Controller, Owner, Plan, Propagation, Wake, controller_of, own_key, reference};

use crate::index::{ByController, Place, by_controller};
use schedule::{Due, due};

/// The time that a job is for, in the zone of its CronJob.
const SCHEDULED: &str = "batch.kubernetes.io/cronjob-scheduled-timestamp";

pub struct CronJobs {
    cron_jobs: Cache<CronJob>,
    jobs: Cache<Job>,
    jobs_of: ByController<Job>,
    /// Of schedules that name none.
    zone: TimeZone,
}

pub struct World {
    cron_job: Arc<CronJob>,
    /// Its own, by name.
    jobs: Vec<Arc<Job>>,
    now: Timestamp,
    zone: TimeZone,
}

impl CronJobs {
    pub fn new(caches: &Caches) -> Self {
        let jobs = caches.of();
        Self { cron_jobs: caches.of(), jobs_of: by_controller(&jobs), jobs, zone: zone::local() }
    }
}

impl Controller for CronJobs {
    type World = World;

    fn name(&self) -> &'static str {
        "cronjob-controller"
    }

    fn watches(&self, wake: &Wake) {
        wake.on_own(&self.cron_jobs);
        wake.on(&self.jobs, |job, wake| {
            if let Some(owner) = controller_of(job).filter(|owner| owner.kind == "CronJob") {
                wake(Key::new(&job.namespace().unwrap_or_default(), &owner.name));
            }
        });
    }

    async fn observe(&self, key: &Key) -> Option<World> {
        let cron_job = self.cron_jobs.get(key)?;
        let uid = cron_job.uid()?;
        let jobs = self.jobs_of.at(&Place::Of(key.namespace.to_string(), uid));
        Some(World { cron_job, jobs, now: Timestamp::now(), zone: self.zone.clone() })
    }

    fn plan(&self, world: &World, _: &Key) -> Plan {
        plan(world)
    }

    fn failed(&self, key: &Key, action: &Action, error: &kube::Error) -> Option<Action> {
        let (Action::Create { .. }, kube::Error::Api(status)) = (action, error) else { return None };
        let is_terminating = status.details.as_ref().is_some_and(|d| d.causes.iter().any(|cause| cause.reason == "NamespaceTerminating"));
        if status.code == 409 || is_terminating {
            return None;
        }
        Some(Action::warning(&*self.cron_jobs.get(key)?, "FailedCreate", format!("Error creating job: {}", status.message)))
    }
}

fn plan(world: &World) -> Plan {
    let cron_job = &*world.cron_job;
    let mut told = Told { cron_job, status: cron_job.status.clone().unwrap_or_default(), actions: Vec::new() };
    told.look_at(world);
    let again = if cron_job.metadata.deletion_timestamp.is_some() { None } else { told.start_what_is_due(world) };
    // Last: one that may not be deleted must not keep others from being made.
    for job in &history::too_many(cron_job, &world.jobs) {
        told.delete(job);
    }
    let plan = told.into_plan();
    match again {
        Some(wait) => plan.again_in(wait),
        None => plan,
    }
}

/// What is going to be said and done.
struct Told<'a> {
    cron_job: &'a CronJob,
    status: CronJobStatus,
    actions: Vec<Action>,
}

impl Told<'_> {
    fn active(&mut self) -> &mut Vec<ObjectReference> {
        self.status.active.get_or_insert_default()
    }

    fn normal(&mut self, reason: &'static str, message: String) {
        self.actions.push(Action::normal(self.cron_job, reason, message));
    }

    fn warning(&mut self, reason: &'static str, message: String) {
        self.actions.push(Action::warning(self.cron_job, reason, message));
    }

    fn delete(&mut self, job: &Job) {
        self.actions.push(Action::delete_and(job, Propagation::Background));
        self.normal("SuccessfulDelete", format!("Deleted job {}", job.name_any()));
    }

    /// The jobs that are there -> those that are active, the last time that was scheduled, and the last success.
    fn look_at(&mut self, world: &World) {
        let known: HashSet<Option<String>> = self.active().iter().map(|active| active.uid.clone()).collect();
        let mut running: HashSet<Option<&str>> = HashSet::new();
        for job in &world.jobs {
            let (uid, at) = (job.metadata.uid.as_deref(), schedule::time_of(self.cron_job, job, world.now));
            // Also of one that is over before it was told of: it is gone soon, and must not be made again.
            self.status.last_schedule_time = self.status.last_schedule_time.take().max(at.map(Time));
            let is_known = known.contains(&job.metadata.uid);
            match history::finished(job) {
                Some(how) => {
                    if is_known {
                        self.normal("SawCompletedJob", format!("Saw completed job: {}, condition: {how}", job.name_any()));
                    }
                    if how == history::COMPLETE {
                        let completed = job.status.as_ref().and_then(|status| status.completion_time.clone());
                        self.status.last_successful_time = self.status.last_successful_time.take().max(completed);
                    }
                }
                None if is_known => drop(running.insert(uid)),
                None if job.metadata.deletion_timestamp.is_some() => {}
                None if at.is_some() => {
                    running.insert(uid);
                    self.active().push(reference(&**job));
                }
                None => {
                    let message = format!("Saw a job that the controller did not create or forgot: {}", job.name_any());
                    self.warning("UnexpectedJob", message);
                }
            }
        }
        let there: HashSet<Option<&str>> = world.jobs.iter().map(|job| job.metadata.uid.as_deref()).collect();
        for active in std::mem::take(self.active()) {
            if running.contains(&active.uid.as_deref()) {
                self.active().push(active);
            } else if !there.contains(&active.uid.as_deref()) {
                self.normal("MissingJob", format!("Active job went missing: {}", active.name.unwrap_or_default()));
            }
        }
    }

    /// How long until the next time.
    fn start_what_is_due(&mut self, world: &World) -> Option<Duration> {
        let spec = &self.cron_job.spec;
        if let Some(name) = spec.time_zone.as_deref().filter(|name| !zone::is_known(name)) {
            self.warning("UnknownTimeZone", format!("invalid timeZone: {name:?}: {}", zone::unknown(name)));
            return None;
        }
        if spec.suspend == Some(true) {
            return None;
        }
        if spec.schedule.contains("TZ") {
            self.warning("UnsupportedSchedule", schedule::zone_within(&spec.schedule));
        }
        let last = self.status.last_schedule_time.as_ref().map(|time| time.0);
        let due = match due(self.cron_job, last, world.now, &world.zone) {
            Ok(due) => due,
            Err((reason, message)) => {
                self.warning(reason, message);
                return None;
            }
        };
        if let Due { at: Some(at), .. } = due {
            self.start(world, at, due.many_missed);
        }
        Some(due.wait)
    }

    fn start(&mut self, world: &World, at: Timestamp, many_missed: bool) {
        let spec = &self.cron_job.spec;
        if many_missed {
            let message = "too many missed start times. Set or decrease .spec.startingDeadlineSeconds or check clock skew";
            self.warning("TooManyMissedTimes", message.into());
        }
        if spec.starting_deadline_seconds.is_some_and(|deadline| world.now.as_second().saturating_sub(deadline) > at.as_second()) {
            self.warning("MissSchedule", format!("Missed scheduled time to start a job: {}", rfc1123z(at)));
            return;
        }
        let name = schedule::job_name(self.cron_job, at);
        let is_made = |job: &Arc<Job>| job.metadata.name.as_deref() == Some(&name);
        let is_done = self.status.last_schedule_time.as_ref().is_some_and(|last| last.0 == at);
        if is_done || world.jobs.iter().any(is_made) {
            return;
        }
        let active: HashSet<Option<String>> = self.active().iter().map(|active| active.uid.clone()).collect();
        match spec.concurrency_policy.as_deref() {
            Some("Forbid") if !active.is_empty() => {
                let message = "Not starting job because prior execution is running and concurrency policy is Forbid";
                return self.normal("JobAlreadyActive", message.into());
            }
            Some("Replace") => {
                world.jobs.iter().filter(|job| active.contains(&job.metadata.uid)).for_each(|job| self.delete(job));
                self.active().clear();
            }
            _ => {}
        }
        self.actions.push(Action::create(&job(self.cron_job, name.clone(), at)));
        self.normal("SuccessfulCreate", format!("Created job {name}"));
    }

    fn into_plan(mut self) -> Plan {
        if self.status.active.as_ref().is_some_and(Vec::is_empty) {
            self.status.active = None;
        }
        if self.status != self.cron_job.status.clone().unwrap_or_default() {
            // First: a job that cannot be made must not keep it from being told.
            self.actions.insert(0, Action::update_status(&CronJob { status: Some(self.status), ..self.cron_job.clone() }));
        }
        Plan::act(self.actions)
    }
}

/// `getJobFromTemplate2`
fn job(cron_job: &CronJob, name: String, at: Timestamp) -> Job {
    let template = &cron_job.spec.job_template;
    let of = template.metadata.as_ref();
    let mut annotations = of.and_then(|meta| meta.annotations.clone()).unwrap_or_default();
    let zone = cron_job.spec.time_zone.as_deref().and_then(zone::load);
    annotations.insert(SCHEDULED.into(), rfc3339_in(at, zone.unwrap_or(TimeZone::UTC)));
    let key = own_key(cron_job);
    Job {
        metadata: ObjectMeta {
            name: Some(name),
            namespace: Some(key.namespace.to_string()),
            labels: of.and_then(|meta| meta.labels.clone()),
            annotations: Some(annotations),
            owner_references: Owner::of(cron_job, Labels::default()).map(|owner| vec![owner.reference]),
            ..ObjectMeta::default()
        },
        spec: template.spec.clone(),
        status: None,
    }
}

#[cfg(test)]
mod tests;
