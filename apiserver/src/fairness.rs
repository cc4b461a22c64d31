//! A request -> a seat, in its turn: priority and fairness, so that nobody can starve the rest.
//!
//! A request is of a flow (who asks, or for which namespace), a flow of a level; each level has seats of its own, and each flow its turn
//! among the level's. What a request holds is given back when the value that stands for it is dropped, however it ends: done, failed,
//! panicked, or its client gone. Source: KEP-1040; apiserver `pkg/util/flowcontrol`, `pkg/server/filters/priority-and-fairness.go`.

mod bodies;
mod config;
mod counts;
mod deal;
mod dropped;
mod hold;
mod levels;
mod matching;
mod queues;
mod width;

#[cfg(test)]
mod tests;

use std::{fmt::Write, sync::Arc, time::Duration};

use api::Status;
use parking_lot::Mutex;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, oneshot},
    time::Instant,
};

pub use bodies::{BODIES_BYTES_MAX, BODY_BYTES_MAX, Charge, STALL_MAX};
pub use config::{Config, Distinguisher, Level, Limits, Paths, Queuing, Resources, Response, Rule, Schema, Subject};
pub use hold::hold;
pub use matching::{Classification, RequestDigest};
pub use width::Listing;

use crate::metrics::RequestKind;
use bodies::Bodies;
use counts::Counts;
use dropped::Dropped;
use levels::{Answer, Levels, Why};
use matching::Matcher;
use queues::{Arriving, Seat, Ticket};

/// How long a request waits for a seat: a quarter of what a request may take in all, as upstream.
pub const WAIT_MAX: Duration = Duration::from_secs(15);
/// What upstream tells whom it refuses, as plain text.
pub(crate) const REFUSED: &str = "Too many requests, please try again later.";

type Waiter = oneshot::Sender<Seat>;

/// All seats of the server, and who has them. One per engine, shared.
pub struct Fairness {
    matcher: Matcher,
    /// By level.
    exempt: Vec<bool>,
    dropped: Vec<Mutex<Dropped>>,
    /// By schema.
    counts: Vec<Counts>,
    levels: Mutex<Levels<Waiter>>,
    bodies: Bodies,
    /// Where fairness is off: places for those who read and for those who change, `None` being no limit.
    places: Option<[Option<Arc<Semaphore>>; 2]>,
    began: Instant,
}

/// The seats that a request has. Dropped, they are somebody else's.
pub struct Permit {
    fairness: Arc<Fairness>,
    held: Held,
}

enum Held {
    Seat(Seat),
    /// Of an exempt level: it is only counted.
    Counted {
        schema: u16,
        seats: usize,
    },
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
        let matcher = Matcher::new(config);
        let places = |number: usize| (number > 0).then(|| Arc::new(Semaphore::new(number.min(Semaphore::MAX_PERMITS))));
        let limits = config.limits;
        Arc::new(Self {
            exempt: config.levels.iter().map(|level| level.response == Response::Exempt).collect(),
            dropped: config.levels.iter().map(|_| Mutex::default()).collect(),
            counts: matcher.schemas.iter().map(|_| Counts::default()).collect(),
            levels: Mutex::new(Levels::new(config)),
            bodies: Bodies::new(BODIES_BYTES_MAX, config.levels.len()),
            places: (!limits.fair).then(|| [places(limits.reading), places(limits.mutating)]),
            began: Instant::now(),
            matcher,
        })
    }

    /// Where a request belongs. Of names and verbs alone: it costs a few comparisons.
    pub fn classify(&self, asked: &RequestDigest<'_>) -> Classification {
        self.matcher.classify(asked)
    }

    /// The level's and the schema's name of a class.
    pub fn names(&self, class: Classification) -> (&str, &str) {
        let level = self.matcher.levels.get(usize::from(class.level)).map_or("", |name| name);
        (level, self.matcher.schemas.get(usize::from(class.schema)).map_or("", |schema| &schema.name))
    }

    /// The seats that a level has of its own.
    pub fn nominal_seats(&self, level: &str) -> Option<usize> {
        let at = self.matcher.levels.iter().position(|name| name == level)?;
        self.levels.lock().level(u16::try_from(at).ok()?).map(|level| level.bounds.nominal)
    }

    /// Waits for `seats` seats, no more than the level gives one request, at most [`WAIT_MAX`].
    ///
    /// # Errors
    /// 429 where the queue is full, the wait over, or (in a level without queues) no seat free.
    pub async fn seat(self: &Arc<Self>, class: Classification, seats: usize, kind: RequestKind) -> Result<Permit, Status> {
        if let Some(places) = &self.places {
            return self.place(places, class, kind);
        }
        if self.is_exempt(class) {
            self.count(class.schema, |counts| counts.sits(seats));
            return Ok(self.permit(Held::Counted { schema: class.schema, seats }));
        }
        let asked = Arriving { level: class.level, schema: class.schema, flow: class.flow, seats };
        let mut receiver = None;
        let channel = || {
            let (sender, waits) = oneshot::channel();
            receiver = Some(waits);
            sender
        };
        let answer = self.change(|levels, now, sits| levels.arrive(asked, now, channel, sits));
        match (answer, receiver) {
            (Answer::Sits(seat), _) => {
                self.count(class.schema, |counts| counts.sits(seat.seats));
                Ok(self.permit(Held::Seat(seat)))
            }
            (Answer::Waits(ticket), Some(receiver)) => {
                self.count(class.schema, Counts::waits);
                Waiting { fairness: self.clone(), ticket: Some(ticket), receiver, class, since: Instant::now() }.seat().await
            }
            (Answer::Refused(why), _) => Err(self.refuse(class, why)),
            (Answer::Waits(_), None) => Err(Status::internal("a request waits for nothing")),
        }
    }

    /// One of the places of a server without fairness (`maxinflight.go`): there is one, or there is none.
    fn place(self: &Arc<Self>, places: &[Option<Arc<Semaphore>>; 2], class: Classification, kind: RequestKind) -> Result<Permit, Status> {
        let Some(places) = &places[kind as usize] else { return Ok(self.permit(Held::Nothing)) };
        match places.clone().try_acquire_owned() {
            Ok(place) => Ok(self.permit(Held::Place(place))),
            Err(_) if self.is_exempt(class) => Ok(self.permit(Held::Nothing)),
            Err(_) => Err(Status::too_many_requests(REFUSED, 1)),
        }
    }

    fn is_exempt(&self, class: Classification) -> bool {
        self.exempt.get(usize::from(class.level)).copied().unwrap_or_default()
    }

    fn permit(self: &Arc<Self>, held: Held) -> Permit {
        Permit { fairness: self.clone(), held }
    }

    fn refuse(&self, class: Classification, why: Why) -> Status {
        self.count(class.schema, |counts| counts.refused(why));
        let second = self.began.elapsed().as_secs();
        let after = self.dropped.get(usize::from(class.level)).map_or(1, |dropped| dropped.lock().one(second));
        Status::too_many_requests(REFUSED, u32::try_from(after).unwrap_or(1))
    }

    fn count(&self, schema: u16, add: impl FnOnce(&Counts)) {
        if let Some(counts) = self.counts.get(usize::from(schema)) {
            add(counts);
        }
    }

    /// Changes the state, and tells those who sit by it. They are told under the lock: whoever gives up looks there first.
    fn change<R>(&self, change: impl FnOnce(&mut Levels<Waiter>, Duration, &mut dyn FnMut(Waiter, Seat)) -> R) -> R {
        let mut lost = Vec::new();
        let mut levels = self.levels.lock();
        let now = self.began.elapsed();
        let done = change(&mut levels, now, &mut |waiter, seat| lost.extend(self.call(waiter, seat)));
        // Nobody goes without leaving; but a seat is never lost with whoever did.
        while let Some(seat) = lost.pop() {
            self.count(seat.schema, |counts| counts.rises(seat.seats));
            levels.finish(&seat, now, &mut |waiter, seat| lost.extend(self.call(waiter, seat)));
        }
        done
    }

    /// Tells a waiter that it sits; its seat where nobody listens.
    fn call(&self, waiter: Waiter, seat: Seat) -> Option<Seat> {
        self.count(seat.schema, |counts| {
            counts.leaves();
            counts.sits(seat.seats);
        });
        waiter.send(seat).err()
    }

    fn finish(&self, seat: &Seat) {
        self.count(seat.schema, |counts| counts.rises(seat.seats));
        self.change(|levels, now, sits| levels.finish(seat, now, sits));
    }

    /// What `/metrics` tells of it (`apiserver_flowcontrol_*`).
    pub(crate) fn text(&self, out: &mut String) {
        let names = |at: usize| {
            let (schema, level) = (&self.matcher.schemas[at].name, &self.matcher.schemas[at].level);
            format!("flow_schema=\"{schema}\",priority_level=\"{level}\"")
        };
        counts::text(out, &self.counts, &names);
        let levels = self.levels.lock();
        for (name, help, number) in counts::LEVELS {
            crate::metrics::head(out, name, "gauge", help);
            for (at, level) in self.matcher.levels.iter().enumerate() {
                let Some(state) = u16::try_from(at).ok().and_then(|at| levels.level(at)) else { continue };
                let _ = writeln!(out, "{name}{{priority_level=\"{level}\"}} {}", number(&state.bounds));
            }
        }
        drop(levels);
        self.bodies.text(out);
    }
}

impl Waiting {
    async fn seat(mut self) -> Result<Permit, Status> {
        let told = tokio::time::timeout(WAIT_MAX, &mut self.receiver).await;
        let seat = match told {
            Ok(Ok(seat)) => {
                self.ticket = None;
                Some(seat)
            }
            _ => self.leave(Why::TimeOut),
        };
        let fairness = self.fairness.clone();
        let waited = self.since.elapsed();
        fairness.count(self.class.schema, |counts| counts.waited(waited, seat.is_some()));
        match seat {
            Some(seat) => Ok(fairness.permit(Held::Seat(seat))),
            None => Err(fairness.refuse(self.class, Why::TimeOut)),
        }
    }

    /// Leaves the queue; the seat, if it has one by now.
    fn leave(&mut self, why: Why) -> Option<Seat> {
        let ticket = self.ticket.take()?;
        let left = self.fairness.change(|levels, now, sits| levels.leave(ticket, now, sits));
        if left.is_some() {
            self.fairness.count(self.class.schema, Counts::leaves);
            if why == Why::Cancelled {
                self.fairness.count(self.class.schema, |counts| counts.refused(why));
            }
            return None;
        }
        self.receiver.try_recv().ok()
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        if let Some(seat) = self.leave(Why::Cancelled) {
            self.fairness.finish(&seat);
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        match &self.held {
            Held::Seat(seat) => self.fairness.finish(seat),
            Held::Counted { schema, seats } => self.fairness.count(*schema, |counts| counts.rises(*seats)),
            Held::Place(_) | Held::Nothing => {}
        }
    }
}
