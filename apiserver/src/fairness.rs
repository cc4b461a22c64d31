//! A request -> a seat, in its turn: priority and fairness, so that nobody can starve the rest.
//!
//! A request is of a flow (who asks, or for which namespace), a flow of a level; each level has seats of its own, and each flow its turn
//! among the level's. What a request holds is given back when the value that stands for it is dropped, however it ends: done, failed,
//! panicked, or its client gone. Source: KEP-1040; apiserver `pkg/util/flowcontrol`, `pkg/server/filters/priority-and-fairness.go`.

mod about;
mod bodies;
mod config;
mod counts;
mod deal;
mod demand;
mod dropped;
mod dump;
mod hold;
mod levels;
mod matching;
mod queues;
mod width;

#[cfg(test)]
mod tests;
mod told;

use std::{
    hash::RandomState,
    sync::Arc,
    time::{Duration, SystemTime},
};

use api::Status;
use arc_swap::ArcSwap;
use parking_lot::Mutex;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, oneshot},
    time::Instant,
};

pub use about::{About, Asks, Told};
pub use bodies::{BODIES_BYTES_MAX, BODY_BYTES_MAX, Charge, STALL_MAX};
pub use config::{CATCH_ALL, Config, Distinguisher, EXEMPT, Level, Limits, Paths, Queuing, Resources, Response, Rule, Schema, Subject};
pub use hold::hold;
pub use matching::{Classification, RequestDigest};
pub use width::{Listing, Telling};

use crate::metrics::RequestKind;
use bodies::Bodies;
use counts::Counts;
use levels::{Answer, Exempt, Levels, Why};
use matching::Matcher;
use queues::{Arriving, Seat, Ticket};

/// The longest that a request waits for a seat: a quarter of what it may take in all, and no more than this (`getRequestWaitContext`).
pub const WAIT_MAX: Duration = Duration::from_secs(60);
/// What upstream tells whom it refuses, as plain text.
pub(crate) const REFUSED: &str = "Too many requests, please try again later.";

/// Whom to tell of a seat.
struct Waiter {
    sender: oneshot::Sender<Seat>,
    counts: Arc<Counts>,
}

/// All seats of the server, and who has them. One per engine, shared.
pub struct Fairness {
    matcher: ArcSwap<Matcher>,
    /// Held while levels and schemas change.
    configuring: Mutex<()>,
    /// Secret, so that nobody can choose names that share the queues of somebody else.
    hasher: RandomState,
    levels: Mutex<Levels<Waiter>>,
    exempt: Arc<Exempt>,
    bodies: Bodies,
    /// Where fairness is off: places for those who read and for those who change, `None` being no limit.
    places: Option<[Option<Arc<Semaphore>>; 2]>,
    began: Instant,
    began_at: SystemTime,
}

/// A request that wants its turn.
pub struct Asking<'a> {
    pub class: &'a Classification,
    pub seats: usize,
    pub kind: RequestKind,
    pub about: About,
    /// It waits no longer.
    pub until: Instant,
    /// Upstream's administrators, who are served also where fairness is off and there is no place.
    pub privileged: bool,
}

/// The seats that a request has. Dropped, they are somebody else's.
pub struct Permit {
    fairness: Arc<Fairness>,
    held: Held,
}

enum Held {
    Seat(Seat, Arc<Counts>),
    /// Of an exempt level: it is only counted.
    Counted(usize, Arc<Counts>),
    Place(#[expect(dead_code, reason = "held until dropped")] OwnedSemaphorePermit),
    Nothing,
}

/// A request in a queue. Dropped before it sits, it leaves.
struct Waiting {
    fairness: Arc<Fairness>,
    /// `None` once it has left the queue.
    ticket: Option<Ticket>,
    receiver: oneshot::Receiver<Seat>,
    class: Classification,
    since: Instant,
}

impl Fairness {
    pub fn new(config: &Config) -> Arc<Self> {
        let places = |number: usize| (number > 0).then(|| Arc::new(Semaphore::new(number.min(Semaphore::MAX_PERMITS))));
        let (limits, exempt) = (config.limits, Arc::<Exempt>::default());
        let fairness = Self {
            matcher: ArcSwap::default(),
            configuring: Mutex::default(),
            hasher: RandomState::new(),
            levels: Mutex::new(Levels::new(limits.reading.saturating_add(limits.mutating), exempt.clone())),
            exempt,
            bodies: Bodies::new(BODIES_BYTES_MAX),
            places: (!limits.fair).then(|| [places(limits.reading), places(limits.mutating)]),
            began: Instant::now(),
            began_at: SystemTime::now(),
        };
        fairness.configure(config.levels.clone(), config.schemas.iter().cloned().map(Arc::new).collect());
        Arc::new(fairness)
    }

    /// From now on it is these levels and schemas, the mandatory ones added where they are missing. Who sits or waits goes on doing so.
    pub fn configure(&self, mut levels: Vec<Level>, mut schemas: Vec<Arc<Schema>>) {
        let _alone = self.configuring.lock();
        let mandatory = Config::mandatory(Limits::default());
        levels.extend(mandatory.levels.into_iter().filter(|own| !levels.iter().any(|level| level.name == own.name)).collect::<Vec<_>>());
        let missing = mandatory.schemas.into_iter().filter(|own| !schemas.iter().any(|schema| schema.name == own.name));
        schemas.extend(missing.map(Arc::new).collect::<Vec<_>>());
        let slots = self.change(|all, now, sits| all.configure(&levels, now, sits));
        self.matcher.store(Arc::new(self.matcher.load().next(&levels, &slots, &schemas, &self.hasher)));
        self.settle();
    }

    /// Forgets the levels that nobody wants any more, if nobody is in them; whether some are left.
    pub fn settle(&self) -> bool {
        self.change(|levels, now, sits| levels.settle(now, sits))
    }

    /// Whether the seats are shared between levels and flows.
    pub fn is_fair(&self) -> bool {
        self.places.is_none()
    }

    /// Where a request belongs. Of names and verbs alone: it costs a few comparisons, and allocates nothing.
    ///
    /// # Panics
    /// Never: there are always the mandatory schemas.
    pub fn classify(&self, asked: &RequestDigest<'_>) -> Classification {
        self.matcher.load().classify(asked, &self.hasher).expect("the mandatory schemas are always there")
    }

    /// The seats that a level has of its own.
    pub fn nominal_seats(&self, level: &str) -> Option<usize> {
        self.levels.lock().all().find(|state| state.name == level).map(|state| state.bounds.nominal)
    }

    /// Waits for its seats, no more than the level gives one request.
    ///
    /// # Errors
    /// 429 where the queue is full, the wait over, or (in a level without queues) no seat free.
    pub async fn seat(self: &Arc<Self>, asking: Asking<'_>) -> Result<Permit, Status> {
        if let Some(places) = &self.places {
            return self.place(places, &asking);
        }
        let Asking { class, seats, about, until, .. } = asking;
        let counts = &class.of.counts;
        if class.of.level.is_exempt {
            counts.sits(seats);
            self.exempt.sits(seats);
            return Ok(self.permit(Held::Counted(seats, counts.clone())));
        }
        let asked = Arriving { level: class.slot(), flow: class.flow, seats, about };
        let mut receiver = None;
        let channel = || {
            let (sender, waits) = oneshot::channel();
            receiver = Some(waits);
            Waiter { sender, counts: counts.clone() }
        };
        let answer = self.change(|levels, now, sits| levels.arrive(asked, now, channel, sits));
        match (answer, receiver) {
            (Answer::Sits(seat), _) => {
                counts.sits(seat.seats);
                Ok(self.permit(Held::Seat(seat, counts.clone())))
            }
            (Answer::Waits(ticket), Some(receiver)) => {
                counts.waits();
                Waiting { fairness: self.clone(), ticket: Some(ticket), receiver, class: class.clone(), since: Instant::now() }
                    .seat(until)
                    .await
            }
            (Answer::Refused(why), _) => Err(self.refuse(class, why)),
            (Answer::Waits(_), None) => Err(Status::internal("a request waits for nothing")),
        }
    }

    /// One of the places of a server without fairness (`maxinflight.go`): there is one, or there is none.
    fn place(self: &Arc<Self>, places: &[Option<Arc<Semaphore>>; 2], asking: &Asking<'_>) -> Result<Permit, Status> {
        let Some(places) = &places[asking.kind as usize] else { return Ok(self.permit(Held::Nothing)) };
        match places.clone().try_acquire_owned() {
            Ok(place) => Ok(self.permit(Held::Place(place))),
            Err(_) if asking.privileged => Ok(self.permit(Held::Nothing)),
            Err(_) => Err(Status::too_many_requests(REFUSED, 1)),
        }
    }

    fn permit(self: &Arc<Self>, held: Held) -> Permit {
        Permit { fairness: self.clone(), held }
    }

    fn refuse(&self, class: &Classification, why: Why) -> Status {
        class.of.counts.refused(why);
        let second = self.began.elapsed().as_secs();
        let after = class.of.level.slot.dropped.lock().one(second);
        Status::too_many_requests(REFUSED, u32::try_from(after).unwrap_or(1))
    }

    /// Changes the state, and tells those who sit by it. They are told under the lock: whoever gives up looks there first.
    fn change<R>(&self, change: impl FnOnce(&mut Levels<Waiter>, Duration, &mut dyn FnMut(Waiter, Seat)) -> R) -> R {
        let mut lost = Vec::new();
        let mut levels = self.levels.lock();
        let now = self.began.elapsed();
        let done = change(&mut levels, now, &mut |waiter, seat| lost.extend(call(waiter, seat)));
        // Nobody goes without leaving; but a seat is never lost with whoever did.
        while let Some((seat, counts)) = lost.pop() {
            counts.rises(seat.seats);
            levels.finish(&seat, now, &mut |waiter, seat| lost.extend(call(waiter, seat)));
        }
        done
    }

    fn finish(&self, seat: &Seat, counts: &Counts) {
        counts.rises(seat.seats);
        self.change(|levels, now, sits| levels.finish(seat, now, sits));
    }
}

/// Tells a waiter that it sits; its seat where nobody listens.
fn call(waiter: Waiter, seat: Seat) -> Option<(Seat, Arc<Counts>)> {
    waiter.counts.leaves();
    waiter.counts.sits(seat.seats);
    waiter.sender.send(seat).err().map(|seat| (seat, waiter.counts))
}

impl Waiting {
    async fn seat(mut self, until: Instant) -> Result<Permit, Status> {
        let told = tokio::time::timeout_at(until.min(self.since + WAIT_MAX), &mut self.receiver).await;
        let seat = match told {
            Ok(Ok(seat)) => {
                self.ticket = None;
                Some(seat)
            }
            _ => self.leave(Why::TimeOut),
        };
        let (fairness, counts) = (self.fairness.clone(), &self.class.of.counts);
        counts.waited(self.since.elapsed(), seat.is_some());
        match seat {
            Some(seat) => Ok(fairness.permit(Held::Seat(seat, counts.clone()))),
            None => Err(fairness.refuse(&self.class, Why::TimeOut)),
        }
    }

    /// Leaves the queue; the seat, if it has one by now.
    fn leave(&mut self, why: Why) -> Option<Seat> {
        let ticket = self.ticket.take()?;
        let left = self.fairness.change(|levels, now, sits| levels.leave(ticket, now, sits));
        if left.is_some() {
            self.class.of.counts.leaves();
            if why == Why::Cancelled {
                self.class.of.counts.refused(why);
            }
            return None;
        }
        self.receiver.try_recv().ok()
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        if let Some(seat) = self.leave(Why::Cancelled) {
            self.fairness.finish(&seat, &self.class.of.counts);
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        match &self.held {
            Held::Seat(seat, counts) => self.fairness.finish(seat, counts),
            Held::Counted(seats, counts) => {
                counts.rises(*seats);
                if self.fairness.exempt.rises(*seats) {
                    self.fairness.change(|levels, now, sits| levels.serve(now, sits));
                }
            }
            Held::Place(_) | Held::Nothing => {}
        }
    }
}
