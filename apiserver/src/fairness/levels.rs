//! Seats -> levels and flows: who may sit, who waits, who is refused. Pure: the time comes in as an argument.
//!
//! Each level has its nominal part of all seats. What it lends of that is in a pool that all levels take from: up to its nominal part each,
//! and beyond that as long as at least as much stays in the pool as is borrowed, and nobody waits for what is its own. Upstream moves the
//! limits every ten seconds by what was asked for (`updateBorrowingLocked`); here they move with each request, and nothing runs while nothing is asked.
//!
//! A flow, too, leaves something: it may take more only while half of what it has then is still free for its level, and not the last seats,
//! which are for flows that have none. Upstream's flows are equal before the queues alone, so that one flow of slow requests can have all
//! seats for as long as they last.

use std::time::Duration;

use super::{
    config::{Config, Level, Response},
    queues::{Arriving, Queues, Seat, Ticket},
};

/// A flow's seats per seat that it leaves free.
const FLOW_SHARE: usize = 2;
/// One of so many of a level's nominal seats is for flows that have none.
const RESERVE: usize = 8;
/// Of a level's nominal seats, the most that one request may take (`priorityLevelMaxSeatsPercent`).
const WIDTH_PERCENT: usize = 15;

pub(crate) struct Levels<W> {
    levels: Vec<State<W>>,
    /// Seats that can be lent, and those that are taken of them.
    pool: usize,
    pooled: usize,
    waiting: usize,
}

pub(crate) struct State<W> {
    pub bounds: Bounds,
    pub queues: Queues<W>,
    /// Somebody waits for seats that are the level's own, and others have them.
    claims: bool,
}

/// Numbers of seats.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Bounds {
    pub nominal: usize,
    /// What is never lent.
    pub lower: usize,
    pub upper: usize,
    /// The most that one request takes.
    pub width: usize,
    /// For flows that have none.
    pub reserve: usize,
}

/// What becomes of a request.
#[derive(Debug)]
pub(crate) enum Answer {
    Sits(Seat),
    Waits(Ticket),
    Refused(Why),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Why {
    QueueFull,
    TimeOut,
    ConcurrencyLimit,
    Cancelled,
}

impl<W> Levels<W> {
    /// Exempt levels are in it, with no seats: they need none.
    pub fn new(config: &Config) -> Self {
        let shares: u64 = config.levels.iter().map(|level| u64::from(level.shares)).sum();
        let seats = config.limits.reading.saturating_add(config.limits.mutating);
        let state = |level: &Level| {
            let queuing = match level.response {
                Response::Queue(queuing) => Some(queuing),
                Response::Reject | Response::Exempt => None,
            };
            State { bounds: Bounds::of(level, seats, shares), queues: Queues::new(queuing), claims: false }
        };
        let levels: Vec<State<W>> = config.levels.iter().map(state).collect();
        let pool = levels.iter().map(|level| level.bounds.nominal - level.bounds.lower).sum();
        Self { levels, pool, pooled: 0, waiting: 0 }
    }

    pub fn level(&self, at: u16) -> Option<&State<W>> {
        self.levels.get(usize::from(at))
    }

    /// A request comes. `waiter` is made only where it waits; it may sit by the time that this returns.
    pub fn arrive(&mut self, mut asked: Arriving, now: Duration, waiter: impl FnOnce() -> W, sits: &mut dyn FnMut(W, Seat)) -> Answer {
        let Some(at) = self.sync(asked.level, now) else { return Answer::Refused(Why::ConcurrencyLimit) };
        asked.seats = asked.seats.clamp(1, self.levels[at].bounds.width);
        let first = self.levels[at].queues.waiting() == 0;
        if first && self.fits(at, asked.seats) && self.leaves_enough(at, &asked) {
            return Answer::Sits(self.taking(at, |queues| queues.start(asked, now)));
        }
        if !self.levels[at].queues.has_queues() {
            return Answer::Refused(Why::ConcurrencyLimit);
        }
        let Ok(ticket) = self.levels[at].queues.enqueue(asked, waiter()) else { return Answer::Refused(Why::QueueFull) };
        self.waiting += 1;
        // Those before it may be of flows that have enough.
        self.serve(now, sits);
        Answer::Waits(ticket)
    }

    /// A request has ended; whoever sits now is told of by `sits`.
    pub fn finish(&mut self, seat: &Seat, now: Duration, sits: &mut dyn FnMut(W, Seat)) {
        let Some(at) = self.sync(seat.level, now) else { return };
        self.taking(at, |queues| queues.finish(seat, now));
        self.serve(now, sits);
    }

    /// A request does not wait any longer. `None`: it sits by now.
    pub fn leave(&mut self, ticket: Ticket, now: Duration, sits: &mut dyn FnMut(W, Seat)) -> Option<Arriving> {
        let at = self.sync(ticket.level, now)?;
        let left = self.levels[at].queues.leave(ticket)?;
        self.waiting -= 1;
        // It may have been wide, and in the way of others.
        self.serve(now, sits);
        Some(left)
    }

    /// Seats whoever can sit: first those within their level's own, then those who borrow.
    fn serve(&mut self, now: Duration, sits: &mut dyn FnMut(W, Seat)) {
        for own in [true, false] {
            for at in 0..self.levels.len() {
                self.serve_level(at, own, now, sits);
            }
        }
    }

    fn serve_level(&mut self, at: usize, own: bool, now: Duration, sits: &mut dyn FnMut(W, Seat)) {
        while self.waiting > 0
            && let Some((waiter, seat)) = self.serve_one(at, own, now)
        {
            sits(waiter, seat);
        }
    }

    fn serve_one(&mut self, at: usize, own: bool, now: Duration) -> Option<(W, Seat)> {
        let (room, Bounds { nominal, reserve, .. }) = (self.room(at), self.levels[at].bounds);
        let state = &mut self.levels[at];
        state.claims &= !own;
        if state.queues.waiting() == 0 {
            return None;
        }
        state.queues.sync(now, nominal);
        let (queue, asked) = state.queues.next(|queues, asked| leaves_enough(queues.seats_of(asked.flow), asked.seats, room, reserve))?;
        let within = state.queues.seats() + asked.seats <= nominal;
        state.claims |= own && within && asked.seats > room;
        // Where the next one is too wide nobody of the level goes before it: it would wait for ever.
        if (own && !within) || !self.fits(at, asked.seats) {
            return None;
        }
        self.waiting -= 1;
        self.taking(at, |queues| queues.dispatch(queue, now))
    }

    fn sync(&mut self, level: u16, now: Duration) -> Option<usize> {
        let at = usize::from(level);
        let state = self.levels.get_mut(at)?;
        state.queues.sync(now, state.bounds.nominal);
        Some(at)
    }

    /// Whether so many seats are there, without borrowing what somebody waits for who would not have to borrow it.
    fn fits(&self, at: usize, seats: usize) -> bool {
        let state = &self.levels[at];
        let borrows = state.queues.seats() + seats > state.bounds.nominal;
        seats <= self.room(at) && !(borrows && self.waiting > 0 && self.levels.iter().any(|level| level.claims))
    }

    fn leaves_enough(&self, at: usize, asked: &Arriving) -> bool {
        leaves_enough(self.levels[at].queues.seats_of(asked.flow), asked.seats, self.room(at), self.levels[at].bounds.reserve)
    }

    /// How many more seats a level could take.
    fn room(&self, at: usize) -> usize {
        let (Bounds { nominal, lower, upper, .. }, taken) = (self.levels[at].bounds, self.levels[at].queues.seats());
        let free = self.pool.saturating_sub(self.pooled);
        let kept = lower.saturating_sub(taken);
        let own = nominal.saturating_sub(taken.max(lower)).min(free);
        let (left, borrowed) = (free - own, taken.saturating_sub(nominal));
        // Half of what the borrower leaves: as much stays as it has then.
        let more = (left.saturating_sub(borrowed) / 2).min(upper.saturating_sub(taken.max(nominal)));
        kept + own + more
    }

    /// Changes what a level takes, and with it the pool.
    fn taking<R>(&mut self, at: usize, change: impl FnOnce(&mut Queues<W>) -> R) -> R {
        let state = &mut self.levels[at];
        let from_pool = |state: &State<W>| state.queues.seats().saturating_sub(state.bounds.lower);
        let before = from_pool(state);
        let done = change(&mut state.queues);
        self.pooled = (self.pooled + from_pool(state)).saturating_sub(before);
        done
    }

    #[cfg(test)]
    pub fn pooled(&self) -> (usize, usize) {
        (self.pooled, self.pool)
    }

    #[cfg(test)]
    pub fn waiting(&self) -> usize {
        self.waiting
    }

    /// Seats whoever was forgotten: nobody, ever.
    #[cfg(test)]
    pub fn serve_again(&mut self, now: Duration) -> usize {
        let mut forgotten = 0;
        self.serve(now, &mut |_, _| forgotten += 1);
        forgotten
    }
}

/// A flow that has nothing may always have something.
fn leaves_enough(taken: usize, more: usize, room: usize, reserve: usize) -> bool {
    let left = room.saturating_sub(more);
    taken == 0 || (left >= reserve && taken + more <= FLOW_SHARE.saturating_mul(left))
}

impl Bounds {
    /// `seats` and `shares` are those of all levels. As upstream, it is rounded up (`finishQueueSetReconfigsLocked`).
    fn of(level: &Level, seats: usize, shares: u64) -> Self {
        let nominal = (seats as u64).saturating_mul(u64::from(level.shares)).checked_div(shares.max(1));
        let exact = (seats as u64).saturating_mul(u64::from(level.shares)) % shares.max(1) == 0;
        let nominal = usize::try_from(nominal.unwrap_or_default() + u64::from(!exact)).unwrap_or(usize::MAX);
        let percent = |percent: u32| (nominal.saturating_mul(percent as usize) + 50) / 100;
        let lent = percent(level.lendable_percent.min(100));
        let width = match level.response {
            Response::Queue(queuing) => (nominal.saturating_mul(WIDTH_PERCENT)).div_ceil(100).min(nominal / queuing.hand.max(1)),
            Response::Reject | Response::Exempt => nominal,
        };
        Self {
            nominal,
            lower: nominal - lent,
            upper: nominal.saturating_add(level.borrowing_percent.map_or(seats, percent)),
            width: width.max(1),
            reserve: nominal / RESERVE,
        }
    }
}
