//! The requests of one level: who waits in which queue, and whose turn it is. Source: apiserver `pkg/util/flowcontrol/fairqueuing/queueset`.
//!
//! Pure: the time comes in as an argument. Each queue gets an equal part of the level's seats; how far each has come is told in seat time,
//! against a common meter (`meter`, upstream's R) that goes on as fast as one of the busy queues would be served by itself.

use std::{
    collections::{HashMap, VecDeque},
    time::Duration,
};

use super::{about::About, config::Queuing, deal::deal};

/// Queues of one level: whose turn it is, all of them are asked for. More are taken for so many.
const QUEUES_MAX: usize = 1024;

/// What a request is taken to last before anybody knows (`estimatedServiceDuration`).
const GUESS: Duration = Duration::from_millis(3);

/// Seats times nanoseconds. 128 bits do not overflow while anything runs, so that there are no epochs.
type SeatTime = i128;

/// A request that is served: what must be known to end it.
#[derive(Debug)]
pub(crate) struct Seat {
    pub level: u32,
    pub flow: u64,
    pub seats: usize,
    /// `None` where the level has no queues.
    queue: Option<usize>,
    /// Among those who sit.
    place: usize,
    /// On the caller's clock.
    pub began: Duration,
}

/// A request that waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ticket {
    pub level: u32,
    queue: usize,
    id: u64,
}

/// A request that asks.
#[derive(Debug)]
pub(crate) struct Arriving {
    pub level: u32,
    pub flow: u64,
    pub seats: usize,
    pub about: About,
}

/// A request that is served, for who looks at it.
#[derive(Debug)]
pub(crate) struct Sitting {
    pub queue: Option<usize>,
    pub seats: usize,
    pub began: Duration,
    pub about: About,
}

/// A queue, for who looks at it.
#[derive(Debug)]
pub(crate) struct Digest<'a> {
    pub waiting: Vec<&'a Arriving>,
    pub executing: usize,
    pub seats: usize,
    /// In hundred-millionths of a seat's second, as upstream tells it.
    pub next: i128,
    pub work: i128,
}

struct Waiting<W> {
    id: u64,
    asked: Arriving,
    /// The meter when it came.
    arrived: SeatTime,
    waiter: W,
}

struct Queue<W> {
    waiting: VecDeque<Waiting<W>>,
    /// Sum of what waits.
    work: SeatTime,
    /// The meter's reading at which its next request is due.
    next: SeatTime,
    executing: usize,
    seats: usize,
}

/// The state of one level.
pub(crate) struct Queues<W> {
    queuing: Option<Queuing>,
    queues: Vec<Queue<W>>,
    meter: SeatTime,
    synced: Duration,
    /// Queues with anything in them.
    busy: usize,
    /// Where the search for the next queue begins: equals take turns.
    robin: usize,
    dealt: usize,
    ids: u64,
    waiting: usize,
    seats_waiting: usize,
    seats: usize,
    /// Seats taken by each flow that has any.
    flows: HashMap<u64, usize>,
    /// Queues looked at to find whose turn it is, for tests of cost.
    looks: u64,
    /// Who sits, by place, and which places are free.
    sitting: Vec<Option<Sitting>>,
    free: Vec<usize>,
}

impl<W> Queues<W> {
    /// Without queues: nothing waits here.
    pub fn new(now: Duration) -> Self {
        Self {
            queuing: None,
            queues: Vec::new(),
            meter: 0,
            synced: now,
            busy: 0,
            robin: 0,
            dealt: 0,
            ids: 0,
            waiting: 0,
            seats_waiting: 0,
            seats: 0,
            flows: HashMap::new(),
            looks: 0,
            sitting: Vec::new(),
            free: Vec::new(),
        }
    }

    /// `None`: nothing comes to wait here any more. Queues that are too many go when they are empty (`setConfiguration`).
    pub fn configure(&mut self, queuing: Option<Queuing>) {
        self.queuing = queuing.map(|queuing| Queuing { queues: queuing.queues.clamp(1, QUEUES_MAX), ..queuing });
        if let Some(queuing) = self.queuing {
            let empty = || Queue { waiting: VecDeque::new(), work: 0, next: 0, executing: 0, seats: 0 };
            self.queues.resize_with(queuing.queues.max(self.queues.len()), empty);
        }
        self.trim();
    }

    fn trim(&mut self) {
        let wanted = self.queuing.map_or(0, |queuing| queuing.queues);
        while self.queues.len() > wanted && self.queues.last().is_some_and(|queue| queue.waiting.is_empty() && queue.executing == 0) {
            self.queues.pop();
        }
    }

    pub fn waiting(&self) -> usize {
        self.waiting
    }

    /// Seats that are taken.
    pub fn seats(&self) -> usize {
        self.seats
    }

    /// Seats that are waited for.
    pub fn seats_waiting(&self) -> usize {
        self.seats_waiting
    }

    /// Requests that are served.
    pub fn executing(&self) -> usize {
        self.sitting.len() - self.free.len()
    }

    /// Those that are served.
    pub fn sitting(&self) -> impl Iterator<Item = &Sitting> {
        self.sitting.iter().flatten()
    }

    pub fn digests(&self) -> impl Iterator<Item = Digest<'_>> {
        self.queues.iter().map(|queue| Digest {
            waiting: queue.waiting.iter().map(|waiting| &waiting.asked).collect(),
            executing: queue.executing,
            seats: queue.seats,
            next: queue.next / 10,
            work: queue.work / 10,
        })
    }

    pub fn seats_of(&self, flow: u64) -> usize {
        self.flows.get(&flow).copied().unwrap_or_default()
    }

    pub fn has_queues(&self) -> bool {
        self.queuing.is_some()
    }

    #[cfg(test)]
    pub fn looks(&self) -> u64 {
        self.looks
    }

    /// What is kept of requests that are gone: nothing.
    #[cfg(test)]
    pub fn remains(&self) -> (usize, usize, usize, usize, usize) {
        let work = self.queues.iter().filter(|queue| queue.work != 0 || queue.seats != 0 || queue.executing != 0).count();
        (self.busy, self.seats, self.seats_waiting, self.flows.len(), work)
    }

    /// The meter goes on for the time since the last call, while `limit` seats could be taken. To be called before anything changes.
    pub fn sync(&mut self, now: Duration, limit: usize) {
        let passed = now.saturating_sub(self.synced);
        self.synced = self.synced.max(now);
        if self.busy > 0 {
            let rate = (self.seats + self.seats_waiting).min(limit.max(self.seats));
            self.meter += seat_time(rate, passed) / self.busy as SeatTime;
        }
    }

    /// Takes the seat at once: nobody waits, and there is room.
    pub fn start(&mut self, asked: Arriving, now: Duration) -> Seat {
        let queue = self.has_queues().then(|| self.choose(asked.flow));
        if let Some(queue) = queue {
            self.arm(queue);
        }
        self.seat(asked, queue, now)
    }

    /// Puts it into the shortest queue of its flow's hand; gives the waiter back where that is full.
    pub fn enqueue(&mut self, asked: Arriving, waiter: W) -> Result<Ticket, W> {
        let Some(queuing) = self.queuing else { return Err(waiter) };
        let at = self.choose(asked.flow);
        if self.queues[at].waiting.len() >= queuing.length {
            return Err(waiter);
        }
        self.arm(at);
        self.ids += 1;
        let (queue, ticket, seats) = (&mut self.queues[at], Ticket { level: asked.level, queue: at, id: self.ids }, asked.seats);
        queue.waiting.push_back(Waiting { id: self.ids, asked, arrived: self.meter, waiter });
        queue.work += work(seats);
        self.waiting += 1;
        self.seats_waiting += seats;
        self.bound(at);
        Ok(ticket)
    }

    /// The queue and the seats of the request whose turn it is, of those whose flow `may` have more.
    pub fn next(&mut self, may: impl Fn(&Self, &Arriving) -> bool) -> Option<(usize, usize)> {
        if self.waiting == 0 {
            return None;
        }
        let (count, mut best) = (self.queues.len(), None);
        for step in 1..=count {
            let at = (self.robin + step) % count;
            let queue = &self.queues[at];
            self.looks += 1;
            let Some(head) = queue.waiting.front() else { continue };
            let finish = queue.next + work(head.asked.seats);
            if best.is_none_or(|(_, _, least)| finish < least) && may(self, &head.asked) {
                best = Some((at, head.asked.seats, finish));
            }
        }
        best.map(|(at, seats, _)| (at, seats))
    }

    /// Serves the head of a queue that [`Queues::next`] named.
    pub fn dispatch(&mut self, at: usize, now: Duration) -> Option<(W, Seat)> {
        let head = self.queues[at].waiting.pop_front()?;
        self.robin = at;
        self.left(at, head.asked.seats);
        let seat = self.seat(head.asked, Some(at), now);
        self.bound(at);
        Some((head.waiter, seat))
    }

    /// Takes a request out of its queue; `None` where it has left it already.
    pub fn leave(&mut self, ticket: &Ticket) -> Option<Arriving> {
        let queue = self.queues.get_mut(ticket.queue)?;
        let place = queue.waiting.binary_search_by_key(&ticket.id, |waiting| waiting.id).ok()?;
        let left = queue.waiting.remove(place)?;
        self.left(ticket.queue, left.asked.seats);
        self.rest(ticket.queue);
        self.bound(ticket.queue);
        self.trim();
        Some(left.asked)
    }

    /// Gives a seat back.
    pub fn finish(&mut self, seat: &Seat, now: Duration) {
        self.seats = self.seats.saturating_sub(seat.seats);
        if let Some(taken) = self.flows.get_mut(&seat.flow) {
            *taken = taken.saturating_sub(seat.seats);
            if *taken == 0 {
                self.flows.remove(&seat.flow);
            }
        }
        if self.sitting.get_mut(seat.place).and_then(Option::take).is_some() {
            self.free.push(seat.place);
        }
        let Some(at) = seat.queue else { return };
        let queue = &mut self.queues[at];
        queue.executing = queue.executing.saturating_sub(1);
        queue.seats = queue.seats.saturating_sub(seat.seats);
        // What it really took takes the place of the guess.
        queue.next += seat_time(seat.seats, now.saturating_sub(seat.began)) - work(seat.seats);
        self.rest(at);
        self.bound(at);
        self.trim();
    }

    fn seat(&mut self, asked: Arriving, queue: Option<usize>, now: Duration) -> Seat {
        self.seats += asked.seats;
        *self.flows.entry(asked.flow).or_default() += asked.seats;
        if let Some(at) = queue {
            let queue = &mut self.queues[at];
            queue.executing += 1;
            queue.seats += asked.seats;
            queue.next += work(asked.seats);
        }
        let (level, flow, seats) = (asked.level, asked.flow, asked.seats);
        let sitting = Some(Sitting { queue, seats, began: now, about: asked.about });
        let place = self.free.pop().unwrap_or(self.sitting.len());
        match self.sitting.get_mut(place) {
            Some(free) => *free = sitting,
            None => self.sitting.push(sitting),
        }
        Seat { level, flow, seats, queue, place, began: now }
    }

    /// Of the flow's hand, the queue in which the least waits. Equals take turns, so that overlapping hands share evenly.
    fn choose(&mut self, flow: u64) -> usize {
        let hand_size = self.queuing.map_or(1, |queuing| queuing.hand.max(1));
        let queues = self.queuing.map_or(0, |queuing| queuing.queues);
        let (cards, hand) = deal(flow, queues, hand_size);
        let first = self.dealt % hand.max(1);
        self.dealt = self.dealt.wrapping_add(1);
        let in_turn = (0..hand).map(|i| cards[(first + i) % hand]);
        in_turn.min_by_key(|at| self.queues[*at].work).unwrap_or_default()
    }

    /// A queue that was empty begins where the meter is: what it did not use, it has not saved up.
    fn arm(&mut self, at: usize) {
        let queue = &mut self.queues[at];
        if queue.waiting.is_empty() && queue.executing == 0 {
            queue.next = self.meter;
            self.busy += 1;
        }
    }

    fn rest(&mut self, at: usize) {
        let queue = &self.queues[at];
        if queue.waiting.is_empty() && queue.executing == 0 {
            self.busy = self.busy.saturating_sub(1);
        }
    }

    fn left(&mut self, at: usize, seats: usize) {
        self.queues[at].work -= work(seats);
        self.waiting = self.waiting.saturating_sub(1);
        self.seats_waiting = self.seats_waiting.saturating_sub(seats);
    }

    /// No request is due before it came (`boundNextDispatchLocked`).
    fn bound(&mut self, at: usize) {
        let queue = &mut self.queues[at];
        if let Some(head) = queue.waiting.front() {
            queue.next = queue.next.max(head.arrived);
        }
    }
}

fn work(seats: usize) -> SeatTime {
    seat_time(seats, GUESS)
}

fn seat_time(seats: usize, time: Duration) -> SeatTime {
    seats as SeatTime * time.as_nanos() as SeatTime
}
