//! A Job and its pods -> what is to be done, and what its status says. Source: `syncJob` in `pkg/controller/job/job_controller.go`.
//!
//! Upstream writes the status up to twice in one run, and takes the finalizers off the pods in between. Here a run ends with the finalizers: the next one,
//! which begins when the caches have seen that they are gone, counts those pods. What is written is the same, and in the same order.

use api::k8s::{api::batch::v1::Job, apimachinery::pkg::apis::meta::v1::Time};
use reconcile::{Action, Owner, Plan, claim};

use super::{
    World,
    conditions::{CRITERIA_MET, SUSPENDED, condition, ensure},
    manage,
    pods::{TRACKING, spec},
    sync::{Outcome, Sync, selector},
    tracking,
};

/// What was decided.
#[derive(Debug, Default)]
pub struct Decided {
    pub plan: Plan,
    pub outcome: Outcome,
}

pub fn decide(world: &World) -> Decided {
    let job = &*world.job;
    let Some(owner) = selector(job).and_then(|s| Owner::of(job, s)) else { return Decided::default() };
    if let Some(mode) = spec(job).completion_mode.as_deref().filter(|mode| !matches!(*mode, "Indexed" | "NonIndexed")) {
        tracing::debug!(mode, "not a mode of completion");
        let told = Action::warning(job, "UnknownCompletionMode", "Skipped Job sync because completion mode is unknown");
        return Decided { plan: Plan::act(vec![told]), ..Decided::default() };
    }
    let owner = Owner { finalizer: Some(TRACKING), ..owner };
    let claimed = claim(&owner, world.pods.iter().cloned());
    if claimed.adopts {
        // They count from the next look on: whoever made pods in their place would make too many.
        return Decided { plan: Plan::act(claimed.actions), ..Decided::default() };
    }
    let mut sync = Sync::look(world, owner, claimed.owned);
    sync.first = claimed.actions;
    sync.judge();
    if sync.finish.is_some() {
        stop_active(&mut sync);
    } else {
        go_on(&mut sync);
    }
    conclude(sync)
}

/// The Job ends: what is active goes. It keeps its finalizers until it is counted.
fn stop_active(sync: &mut Sync<'_>) {
    let active = std::mem::take(&mut sync.active);
    if sync.is_stuck && !active.is_empty() {
        // It cannot be told that the Job ends while pods that cannot be deleted go on.
        sync.finish = None;
    }
    manage::delete(sync, &active, manage::Finalizers::Stay);
}

fn go_on(sync: &mut Sync<'_>) {
    let is_going = sync.job.metadata.deletion_timestamp.is_some();
    if !is_going {
        manage::manage(sync);
    }
    let enough = match sync.wanted.completions {
        // Of such a Job any pod says that all is done; the others are waited for.
        None => sync.counts.succeeded > 0,
        Some(completions) => sync.counts.succeeded >= completions,
    };
    if enough && sync.counts.active == 0 {
        let why = ("CompletionsReached", "Reached expected number of succeeded pods");
        sync.finish = Some(condition(CRITERIA_MET, "True", why, sync.now));
    } else if !is_going {
        tell_suspension(sync);
    }
}

fn tell_suspension(sync: &mut Sync<'_>) {
    let (word, why, told) = match sync.wanted.is_suspended {
        true => ("True", ("JobSuspended", "Job suspended"), ("Suspended", "Job suspended")),
        false => ("False", ("JobResumed", "Job resumed"), ("Resumed", "Job resumed")),
    };
    if !ensure(&mut sync.status, condition(SUSPENDED, word, why, sync.now)) {
        return;
    }
    // The deadline is of the time in which the Job runs.
    sync.status.start_time = (!sync.wanted.is_suspended).then_some(Time(sync.now));
    sync.events.push(Action::normal(sync.job, told.0, told.1));
}

fn conclude(mut sync: Sync<'_>) -> Decided {
    sync.status.active = (sync.counts.active != 0).then_some(sync.counts.active);
    sync.status.ready = Some(sync.counts.ready);
    sync.status.terminating = Some(sync.counts.terminating);
    tracking::track(&mut sync);
    sync.outcome.acts_first = !sync.first.is_empty();
    let mut actions = sync.first;
    if Some(&sync.status) != sync.job.status.as_ref() {
        actions.push(Action::update_status(&Job { status: Some(sync.status), ..sync.job.clone() }));
    }
    actions.append(&mut sync.events);
    actions.append(&mut sync.then);
    actions.append(&mut sync.last);
    Decided { plan: Plan { actions, again: sync.again }, outcome: sync.outcome }
}
