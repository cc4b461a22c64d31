//! Seats -> levels and flows: who may sit, who waits, who is refused. Pure: the time comes in as an argument.
//!
//! Each level has its nominal part of all seats. What it lends of that is in a pool that all levels take from: up to its nominal part each,
//! and beyond that as long as at least as much stays in the pool as is borrowed, and nobody waits for what is its own. Upstream moves the
//! limits every ten seconds by what was asked for (`updateBorrowingLocked`); here they move with each request, and nothing runs while nothing is asked.
//!
//! What exempt levels take beyond what they keep is no longer in the pool: nobody loses by it what is never lent.
//!
//! A flow, too, leaves something: it may take more only while half of what it has then is still free for its level, and not the last seats,
//! which are for flows that have none. Upstream's flows are equal before the queues alone, so that one flow of slow requests can have all
//! seats for as long as they last.

use std::{
    borrow::Cow,
    collections::{BTreeSet, HashMap},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use parking_lot::Mutex;

use super::{
    config::{Level, Queuing, Response},
    demand::Demand,
    dropped::Dropped,
    queues::{Arriving, Queues, Seat, Ticket},
};

/// A flow's seats per seat that it leaves free.
const FLOW_SHARE: usize = 2;
/// One of so many of a level's nominal seats is for flows that have none.
const RESERVE: usize = 8;
/// Of a level's nominal seats, the most that one request may take (`priorityLevelMaxSeatsPercent`).
const WIDTH_PERCENT: usize = 15;

pub(crate) struct Levels<W> {
    /// All seats of the server.
    seats: usize,
    /// By slot. Those of levels that are gone stand empty, until another level comes.
    levels: Vec<State<W>>,
    /// Seats that can be lent, and those that limited levels take of them.
    pool: usize,
    pooled: usize,
    waiting: usize,
    /// Where somebody waits.
    waiters: BTreeSet<usize>,
    /// Levels with a claim.
    claims: usize,
    exempt: Arc<Exempt>,
    /// What of the exempt levels' seats is not lent.
    exempt_lower: usize,
}

/// What requests of exempt levels take: they ask for no seat, but what can be lent becomes less.
#[derive(Debug, Default)]
pub(crate) struct Exempt {
    seats: AtomicUsize,
    /// Somebody waits for a seat of whatever level.
    waits: AtomicBool,
}

/// A level's place in the table. Who holds it keeps the level, even if nobody wants it any more.
#[derive(Debug)]
pub(crate) struct Slot {
    pub at: u32,
    pub dropped: Mutex<Dropped>,
}

pub(crate) struct State<W> {
    pub name: Cow<'static, str>,
    pub standing: Standing,
    pub bounds: Bounds,
    pub queues: Queues<W>,
    pub demand: Demand,
    /// Somebody waits for seats that are the level's own, and others have them.
    claims: bool,
    level: Level,
    slot: Arc<Slot>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    Wanted,
    /// Its object is gone; its requests are not yet. Until then it has its share, as upstream.
    Quiescing,
    Vacant,
}

/// Numbers of seats.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
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

impl Exempt {
    pub fn sits(&self, seats: usize) {
        self.seats.fetch_add(seats, SeqCst);
    }

    /// True where somebody waits, who may sit now.
    pub fn rises(&self, seats: usize) -> bool {
        self.seats.fetch_sub(seats, SeqCst);
        self.waits.load(SeqCst)
    }

    pub fn seats(&self) -> usize {
        self.seats.load(SeqCst)
    }
}

impl<W> Levels<W> {
    /// No levels yet, and so many seats.
    pub fn new(seats: usize, exempt: Arc<Exempt>) -> Self {
        let (waiters, levels) = (BTreeSet::new(), Vec::new());
        Self { seats, levels, pool: 0, pooled: 0, waiting: 0, waiters, claims: 0, exempt, exempt_lower: 0 }
    }

    /// These levels are wanted, and no others; their slots. Who sits or waits goes on doing so: levels that nobody wants any more stay for as
    /// long as anybody has their slot (`lockAndDigestConfigObjects`).
    pub fn configure(&mut self, wanted: &[Level], now: Duration, sits: &mut dyn FnMut(W, Seat)) -> Vec<Arc<Slot>> {
        let mut known: HashMap<Cow<'static, str>, usize> = HashMap::new();
        let mut vacant = Vec::new();
        for (at, state) in self.levels.iter_mut().enumerate() {
            state.sync(now);
            if state.standing == Standing::Vacant {
                vacant.push(at);
            } else {
                state.standing = Standing::Quiescing;
                known.insert(state.name.clone(), at);
            }
        }
        let mut slots = Vec::with_capacity(wanted.len());
        for level in wanted {
            let at = known.get(&level.name).copied().or_else(|| vacant.pop()).unwrap_or(self.levels.len());
            if at == self.levels.len() {
                self.levels.push(State::new(at, now));
            }
            known.insert(level.name.clone(), at);
            self.levels[at].become_of(level);
            slots.push(self.levels[at].slot.clone());
        }
        self.share();
        self.serve(now, sits);
        slots
    }

    /// Forgets the levels that nobody wants and nobody has; whether any is left that nobody wants.
    pub fn settle(&mut self, now: Duration, sits: &mut dyn FnMut(W, Seat)) -> bool {
        let mut freed = false;
        for state in self.levels.iter_mut().filter(|state| state.standing == Standing::Quiescing) {
            let is_held = Arc::strong_count(&state.slot) > 1 || state.queues.waiting() > 0 || state.queues.seats() > 0;
            if !is_held {
                *state = State::new(state.slot.at as usize, now);
                freed = true;
            }
        }
        if freed {
            self.share();
            self.serve(now, sits);
        }
        self.levels.iter().any(|state| state.standing == Standing::Quiescing)
    }

    /// Gives each level its part of the seats.
    fn share(&mut self) {
        let shares: u64 = self.levels.iter().map(|state| u64::from(state.shares())).sum();
        (self.pool, self.pooled, self.exempt_lower) = (0, 0, 0);
        for state in &mut self.levels {
            if state.standing == Standing::Vacant {
                continue;
            }
            state.bounds = Bounds::of(&state.level, self.seats, shares);
            self.pool += state.bounds.nominal - state.bounds.lower;
            self.pooled += state.pooled();
            if state.level.response == Response::Exempt {
                self.exempt_lower += state.bounds.lower;
            }
        }
    }

    #[cfg(test)]
    pub fn level(&self, at: u32) -> Option<&State<W>> {
        self.levels.get(at as usize)
    }

    /// All that there are, those that nobody wants any more among them.
    pub fn all(&self) -> impl Iterator<Item = &State<W>> {
        self.levels.iter().filter(|state| state.standing != Standing::Vacant)
    }

    /// Up to `now`, for who looks at them.
    pub fn sync_all(&mut self, now: Duration) {
        self.levels.iter_mut().for_each(|state| state.sync(now));
    }

    /// What a level could have, if all of it were asked for now.
    pub fn current(&self, state: &State<W>) -> usize {
        match state.level.response {
            Response::Exempt => state.bounds.lower.max(self.exempt.seats()),
            Response::Reject | Response::Queue(_) => state.queues.seats() + self.room(state.slot.at as usize),
        }
    }

    /// A request comes. `waiter` is made only where it waits; it may sit by the time that this returns.
    pub fn arrive(&mut self, mut asked: Arriving, now: Duration, waiter: impl FnOnce() -> W, sits: &mut dyn FnMut(W, Seat)) -> Answer {
        let Some(at) = self.sync(asked.level, now) else { return Answer::Refused(Why::ConcurrencyLimit) };
        asked.seats = asked.seats.clamp(1, self.levels[at].bounds.width.max(1));
        let first = self.levels[at].queues.waiting() == 0;
        if first && self.fits(at, asked.seats) && self.leaves_enough(at, &asked) {
            return Answer::Sits(self.taking(at, |queues| queues.start(asked, now)));
        }
        if !self.levels[at].queues.has_queues() {
            return Answer::Refused(Why::ConcurrencyLimit);
        }
        let Ok(ticket) = self.levels[at].queues.enqueue(asked, waiter()) else { return Answer::Refused(Why::QueueFull) };
        self.waits_more(at);
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
        let left = self.levels[at].queues.leave(&ticket)?;
        self.waits_less(at);
        if self.levels[at].queues.waiting() == 0 {
            self.waiters.remove(&at);
        }
        // It may have been wide, and in the way of others.
        self.serve(now, sits);
        Some(left)
    }

    /// Seats whoever can sit: first those within their level's own, then those who borrow.
    pub fn serve(&mut self, now: Duration, sits: &mut dyn FnMut(W, Seat)) {
        if self.waiting == 0 {
            return;
        }
        for own in [true, false] {
            let mut from = 0;
            while let Some(at) = self.waiters.range(from..).next().copied() {
                from = at + 1;
                self.serve_level(at, own, now, sits);
            }
        }
    }

    fn serve_level(&mut self, at: usize, own: bool, now: Duration, sits: &mut dyn FnMut(W, Seat)) {
        while let Some((waiter, seat)) = self.serve_one(at, own, now) {
            sits(waiter, seat);
        }
    }

    fn serve_one(&mut self, at: usize, own: bool, now: Duration) -> Option<(W, Seat)> {
        let (room, Bounds { nominal, reserve, .. }) = (self.room(at), self.levels[at].bounds);
        if own {
            self.claim(at, false);
        }
        let state = &mut self.levels[at];
        if state.queues.waiting() == 0 {
            return None;
        }
        state.sync(now);
        let (queue, seats) = state.queues.next(|queues, asked| leaves_enough(queues.seats_of(asked.flow), asked.seats, room, reserve))?;
        let within = state.queues.seats() + seats <= nominal;
        if own && within && seats > room {
            self.claim(at, true);
        }
        // Where the next one is too wide nobody of the level goes before it: it would wait for ever.
        if (own && !within) || !self.fits(at, seats) {
            return None;
        }
        self.waits_less(at);
        self.taking(at, |queues| queues.dispatch(queue, now))
    }

    fn sync(&mut self, level: u32, now: Duration) -> Option<usize> {
        let at = level as usize;
        self.levels.get_mut(at)?.sync(now);
        Some(at)
    }

    fn claim(&mut self, at: usize, claims: bool) {
        self.claims = self.claims + usize::from(claims) - usize::from(self.levels[at].claims);
        self.levels[at].claims = claims;
    }

    fn waits_more(&mut self, at: usize) {
        self.waiting += 1;
        self.waiters.insert(at);
        self.exempt.waits.store(true, SeqCst);
    }

    /// One waits no more, or is about to.
    fn waits_less(&mut self, at: usize) {
        self.waiting -= 1;
        if self.waiting == 0 {
            self.exempt.waits.store(false, SeqCst);
        }
        self.claim(at, false);
    }

    /// Whether so many seats are there, without borrowing what somebody waits for who would not have to borrow it.
    fn fits(&self, at: usize, seats: usize) -> bool {
        let state = &self.levels[at];
        // A level of no seats serves one request at a time (`canAccommodateSeatsLocked`).
        if state.bounds.nominal == 0 && state.queues.seats() == 0 {
            return true;
        }
        let borrows = state.queues.seats() + seats > state.bounds.nominal;
        seats <= self.room(at) && !(borrows && self.claims > 0)
    }

    fn leaves_enough(&self, at: usize, asked: &Arriving) -> bool {
        leaves_enough(self.levels[at].queues.seats_of(asked.flow), asked.seats, self.room(at), self.levels[at].bounds.reserve)
    }

    /// How many more seats a level could take.
    fn room(&self, at: usize) -> usize {
        let (Bounds { nominal, lower, upper, .. }, taken) = (self.levels[at].bounds, self.levels[at].queues.seats());
        let exempt = self.exempt.seats().saturating_sub(self.exempt_lower);
        let free = self.pool.saturating_sub(self.pooled).saturating_sub(exempt);
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
        let before = state.pooled();
        let done = change(&mut state.queues);
        self.pooled = (self.pooled + state.pooled()).saturating_sub(before);
        if state.queues.waiting() == 0 {
            self.waiters.remove(&at);
        }
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

impl<W> State<W> {
    /// An empty place.
    fn new(at: usize, now: Duration) -> Self {
        let slot = Slot { at: u32::try_from(at).unwrap_or(u32::MAX), dropped: Mutex::default() };
        let level =
            Level { name: "".into(), uid: "".into(), shares: 0, lendable_percent: 0, borrowing_percent: None, response: Response::Reject };
        Self {
            name: "".into(),
            standing: Standing::Vacant,
            bounds: Bounds::default(),
            queues: Queues::new(now),
            demand: Demand::new(now),
            claims: false,
            level,
            slot: Arc::new(slot),
        }
    }

    fn become_of(&mut self, level: &Level) {
        self.queues.configure(level.queuing());
        (self.name, self.level, self.standing) = (level.name.clone(), level.clone(), Standing::Wanted);
    }

    fn shares(&self) -> u32 {
        if self.standing == Standing::Vacant { 0 } else { self.level.shares }
    }

    pub fn is_exempt(&self) -> bool {
        self.level.response == Response::Exempt
    }

    pub fn slot(&self) -> u32 {
        self.slot.at
    }

    fn sync(&mut self, now: Duration) {
        self.demand.over(now, self.queues.seats() + self.queues.seats_waiting());
        self.queues.sync(now, self.bounds.nominal);
    }

    /// What it takes of the pool.
    fn pooled(&self) -> usize {
        self.queues.seats().saturating_sub(self.bounds.lower)
    }
}

impl Level {
    fn queuing(&self) -> Option<Queuing> {
        match self.response {
            Response::Queue(queuing) => Some(queuing),
            Response::Reject | Response::Exempt => None,
        }
    }
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
