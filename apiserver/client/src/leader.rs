//! A Lease -> one leader: loops that run in one of several processes, and have stopped in it before they start in another.
//!
//! **What holds of writes.** (1) A leader whose Lease was not renewed in time begins no request any more ([`Guard`]), and its loops are dropped with what
//! they wait for. (2) What it had sent to a store that others share, and was not carried out yet, is not carried out after the next leader has begun:
//! that one seals the store first ([`Led::seal`]). (3) Left is a process that stood still within a request, just before it was sent to the store, and woke after the
//! next leader had begun: it finds that write refused where it updates or deletes what was changed since (each write names the revision or uid that it
//! is about), and what it creates is one too many, which the next look removes. The time is that of [`Clock`], which goes on while the machine sleeps.

mod clock;
mod election;
mod guard;
mod lease;

use std::{sync::Arc, time::Duration};

use api::{
    faults::catch_all,
    k8s::{
        api::{coordination::v1::Lease, core::v1::ObjectReference},
        apimachinery::pkg::apis::meta::v1::ObjectMeta,
    },
    task::Group,
    time::Timestamp,
};
use futures::future::BoxFuture;
use rand::Rng;
use tokio::{
    sync::{oneshot, watch},
    time::{sleep, timeout},
};

pub use clock::Clock;
pub use election::Timing;
pub use guard::{Guard, Guarded};

use self::{
    election::{Answer, Ask, Election, Next, Seen, Time},
    lease::{Lock, NAMESPACE, seen},
};
use crate::{
    Recorder,
    watch::{Change, Query, follow},
};

/// A request that is under way when we are told to end.
const LAST_BOUND: Duration = Duration::from_secs(1);
/// For giving the Lease back.
const RELEASE_BOUND: Duration = Duration::from_secs(2);

/// Who stands for what.
#[derive(Clone, Debug)]
pub struct Candidate {
    /// The Lease's name in kube-system: `kube-scheduler`.
    pub lease: &'static str,
    /// Nobody else's: `<hostname>_<uuid>`.
    pub identity: String,
    pub timing: Timing,
    pub clock: Clock,
}

/// What is led.
pub trait Led: Send + Sync + 'static {
    /// Before anything is started: once it resolves, nothing that an earlier leader has sent is carried out any more.
    fn seal(&self) -> BoxFuture<'_, Result<(), String>>;

    /// Starts the loops in the term's group, their requests through its guard.
    fn start(&self, term: &Term);

    /// All tasks of the term have ended.
    fn ended(&self) {}
}

/// A candidate that stands. It goes on when this is dropped.
pub struct Standing {
    stop: Group,
    done: oneshot::Receiver<()>,
}

/// A time of leading. Its loops stop when it is dropped.
pub struct Term {
    pub group: Group,
    pub guard: Guard,
}

impl Standing {
    /// Leads no more: what was led has ended, and the Lease is given back, once this resolves, or `bound` has passed.
    pub async fn leave(self, bound: Duration) {
        self.stop.stop();
        // Who is gone already has nothing to say.
        let _ = timeout(bound, self.done).await;
    }
}

impl Drop for Term {
    fn drop(&mut self) {
        self.group.stop();
    }
}

/// Stands for election until the group stops, or [`Standing::leave`], and leads whenever elected. Where the loops end unasked, or do not end when asked
/// to, the group ends.
pub fn stand(candidate: Candidate, client: kube::Client, led: Arc<dyn Led>, group: &Group) -> Standing {
    let (tell, told) = watch::channel(None);
    let (ended, done) = oneshot::channel();
    let (name, stop) = (candidate.lease, group.child());
    let following = follow::<Lease>(client.clone(), Query::named(NAMESPACE, name), move |change| {
        if let Some(heard) = heard(name, change) {
            tell.send_replace(Some(heard));
        }
    });
    stop.spawn_loop("lease", Box::pin(following));
    let runner = Runner {
        election: Election::new(candidate.identity.clone(), candidate.timing),
        recorder: Recorder::new(client.clone(), name, None, group),
        lock: Lock { client, name, kept: ObjectMeta::default() },
        group: group.clone(),
        stop: stop.clone(),
        candidate,
        led,
        told,
    };
    let (group, stopped) = (group.clone(), stop.clone());
    // It gives the Lease back when it is told to end.
    group.clone().spawn_careful(async move {
        match catch_all(name, Box::pin(runner.run())).await {
            Ok(()) if stopped.is_stopping() => {}
            Ok(()) => group.fail(name, "ended unasked"),
            Err(panic) => group.fail(name, panic),
        }
        let _ = ended.send(());
    });
    Standing { stop, done }
}

struct Runner {
    candidate: Candidate,
    election: Election,
    lock: Lock,
    led: Arc<dyn Led>,
    /// Ends with a fault of ours.
    group: Group,
    /// Tells us to end.
    stop: Group,
    told: watch::Receiver<Option<(Seen, Box<Lease>)>>,
    recorder: Recorder,
}

impl Runner {
    async fn run(mut self) {
        tracing::info!(lease = self.candidate.lease, identity = self.candidate.identity, "attempting to acquire leader lease");
        let mut term: Option<Term> = None;
        while !self.stop.is_stopping() {
            self.hear();
            term = match term {
                Some(running) if !self.election.leads(self.now()) => {
                    self.end(running).await;
                    None
                }
                None if self.election.leads(self.now()) => self.begin().await,
                as_it_was => as_it_was,
            };
            let next = self.election.next(self.now(), Timestamp::now());
            match next {
                Next::Ask(ask) => self.ask(ask, term.as_ref()).await,
                Next::Wait(until) => self.wait(until, term.as_ref()).await,
            }
        }
        let has_ended = match term {
            Some(running) => self.end(running).await,
            None => true,
        };
        if has_ended {
            self.release().await;
        }
    }

    fn now(&self) -> Time {
        self.candidate.clock.now()
    }

    fn hear(&mut self) {
        let heard = self.told.borrow_and_update().clone();
        let now = self.now();
        if let Some((seen, lease)) = heard {
            if seen.record.is_some() {
                self.lock.kept = lease.metadata;
            }
            self.election.saw(seen, now);
        }
    }

    async fn begin(&mut self) -> Option<Term> {
        let name = self.candidate.lease;
        let sealed = timeout(self.candidate.timing.retry_period, self.led.seal()).await.unwrap_or_else(|_| Err("no answer in time".into()));
        if let Err(error) = sealed {
            tracing::warn!(lease = name, error, "acquired the lease, but the store cannot be written; giving it back");
            self.election.resign();
            self.release().await;
            return None;
        }
        tracing::info!(lease = name, identity = self.candidate.identity, "successfully acquired lease");
        self.say("became leader");
        let term = Term { group: Group::new(), guard: Guard::new(self.candidate.clock.clone()) };
        term.guard.set(self.election.leads_until());
        self.led.start(&term);
        Some(term)
    }

    /// False where tasks of the term may still run.
    async fn end(&mut self, term: Term) -> bool {
        let (name, timing) = (self.candidate.lease, self.candidate.timing);
        self.election.resign();
        term.guard.set(None);
        let has_ended = term.group.drain(timing.lease_duration - timing.renew_deadline).await;
        if has_ended {
            self.led.ended();
        } else {
            self.group.fail(name, "what the leader ran has not ended in time");
        }
        if !self.stop.is_stopping() {
            tracing::warn!(lease = name, holder = self.election.holder(), "failed to renew lease: leading no longer");
        }
        self.say("stopped leading");
        has_ended
    }

    /// An answer is waited for as long as we lead.
    async fn ask(&mut self, ask: Ask, term: Option<&Term>) {
        let begun = self.now();
        let until = self.election.leads_until().unwrap_or(begun + self.candidate.timing.renew_deadline);
        let (stop, left) = (self.stop.clone(), until.saturating_sub(begun));
        let answer = tokio::select! {
            biased;
            answer = self.lock.ask(&ask) => answer,
            () = sleep(left) => Answer::Open,
            () = async { stop.stopping().await; sleep(LAST_BOUND).await } => Answer::Open,
            () = fault(term) => return self.fail(term),
        };
        let now = self.now();
        self.election.answered(ask, begun, now, answer, rand::rng().random());
        if let Some(term) = term {
            term.guard.set(self.election.leads_until());
        }
    }

    async fn wait(&mut self, until: Option<Time>, term: Option<&Term>) {
        let lead = self.election.leads_until();
        let until = until.into_iter().chain(lead).min();
        let (now, stop) = (self.now(), self.stop.clone());
        let due = async {
            match until {
                Some(until) => sleep(until.saturating_sub(now)).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            () = stop.stopping() => {}
            () = fault(term) => self.fail(term),
            Ok(()) = self.told.changed() => {}
            () = due => {}
        }
    }

    fn fail(&self, term: Option<&Term>) {
        let why = term.and_then(|term| term.group.fault()).unwrap_or("stopped unasked");
        self.group.fail(self.candidate.lease, why);
    }

    async fn release(&mut self) {
        let Some(ask) = self.election.release(Timestamp::now()) else { return };
        let begun = self.now();
        let answer = timeout(RELEASE_BOUND, self.lock.ask(&ask)).await.unwrap_or(Answer::Open);
        if !matches!(answer, Answer::Written(_)) {
            tracing::info!(lease = self.candidate.lease, "failed to release lease: others wait for its end");
        }
        let now = self.now();
        self.election.answered(ask, begun, now, answer, 1.0);
    }

    fn say(&self, what: &str) {
        let regarding = ObjectReference {
            api_version: Some("coordination.k8s.io/v1".into()),
            kind: Some("Lease".into()),
            name: Some(self.candidate.lease.into()),
            namespace: Some(NAMESPACE.into()),
            uid: self.lock.kept.uid.clone(),
            resource_version: self.lock.kept.resource_version.clone(),
            ..ObjectReference::default()
        };
        self.recorder.normal(&regarding, "LeaderElection", format!("{} {what}", self.candidate.identity));
    }
}

/// Resolves once the term's loops have ended unasked.
async fn fault(term: Option<&Term>) {
    match term {
        Some(term) => term.group.stopping().await,
        None => std::future::pending().await,
    }
}

fn heard(name: &str, change: Change<Lease>) -> Option<(Seen, Box<Lease>)> {
    match change {
        Change::Listed(all, rev) => Some(match all.into_values().next() {
            Some(there) => (seen(&there.object), Box::new(there.object)),
            None => (Seen { record: None, rev }, Box::default()),
        }),
        Change::Put(there) => Some((seen(&there.object), Box::new(there.object))),
        Change::Gone(gone) => Some((Seen { record: None, ..seen(&gone.object) }, Box::default())),
        // What was kept from before says nothing of who leads now.
        Change::Reached(_) | Change::Kept(..) => None,
        Change::Failed(error) => {
            tracing::debug!(lease = name, %error, "the lease is not followed; trying again");
            None
        }
    }
}
