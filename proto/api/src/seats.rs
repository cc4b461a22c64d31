//! Connections -> seats: how many there may be, and whose is given up for the next.
//!
//! A door that takes whoever comes can be held shut by one client with many connections. So there are three rooms: for those that have not
//! shaken hands yet, for strangers, and for holders of a certificate. In each, one address may take a part only. Where there is no room,
//! the one that has been idle longest goes; a newcomer is refused only where all are at work. How long a connection may say nothing is
//! said here as well, after Go's `http.Server` (upstream: `apiserver/pkg/server/secure_serving.go`), and how slowly its peer may read.

mod held;
mod room;
mod socket;
mod stall;

use std::{
    net::{IpAddr, Ipv6Addr},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicI32, AtomicU32, AtomicU64, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use tokio::{
    sync::Notify,
    time::{Instant, sleep_until},
};

use self::room::Room;
pub use self::{
    held::Held,
    socket::{Socket, UNSENT_BYTES_MAX, bound_unsent},
    stall::{Pace, Stall},
};

/// Requests that a client gave up before they were answered, more than those that were: then the connection goes (HTTP/2 rapid reset).
const GIVEN_UP_MAX: i32 = 1000;

/// How many connections there may be in each room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    pub arriving: usize,
    pub strangers: usize,
    pub known: usize,
}

/// How long a connection may stay silent.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// Until the first request of a connection, or (HTTP/2) its first byte.
    pub first: Duration,
    /// From a request's first byte to the end of its head. (In HTTP/2 heads come in one go or count as idle.)
    pub head: Option<Duration>,
    /// Without a request.
    pub idle: Duration,
}

/// What a client has shown of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    Arriving,
    Stranger,
    /// It holds a certificate of ours.
    Known,
}

/// All connections of one server.
pub struct Seats {
    rooms: Mutex<[Room; 3]>,
    next: AtomicU64,
    begun: Instant,
}

/// One connection's seat; it is free again when this is dropped.
pub struct Seat {
    seats: Arc<Seats>,
    id: u64,
    home: IpAddr,
    state: Arc<State>,
}

/// A request at work: the connection is not idle while it lasts.
pub struct Work {
    state: Arc<State>,
    answered: bool,
}

/// Times are milliseconds since the server began, 0 for never.
struct State {
    begun: Instant,
    working: AtomicU32,
    /// When it became idle.
    since: AtomicU64,
    /// When the first byte came after that.
    heard: AtomicU64,
    /// There has been a request.
    served: AtomicBool,
    credit: AtomicI32,
    told: AtomicBool,
    /// A person reads: that may take as long as it likes.
    unhurried: AtomicBool,
    leave: Notify,
}

impl Limits {
    /// `whole`, or as much of it as so many open files allow for: a connection may need a second one, for what is behind it.
    #[must_use]
    pub fn for_files(whole: Self, files: u64) -> Self {
        let wanted = whole.arriving + whole.strangers + whole.known;
        let all = usize::try_from(files / 2).unwrap_or(usize::MAX).min(wanted);
        let part = |of: usize| (of * all / wanted.max(1)).max(2);
        Self { arriving: part(whole.arriving), strangers: part(whole.strangers), known: part(whole.known) }
    }
}

impl Seats {
    /// Must be called within a runtime.
    pub fn new(limits: Limits) -> Arc<Self> {
        let rooms = [limits.arriving, limits.strangers, limits.known].map(Room::new);
        Arc::new(Self { rooms: Mutex::new(rooms), next: AtomicU64::new(1), begun: Instant::now() })
    }

    /// A seat among those that have not shaken hands; `None` where none can be had.
    pub fn arrive(self: &Arc<Self>, address: IpAddr) -> Option<Seat> {
        let state = Arc::new(State {
            begun: self.begun,
            working: AtomicU32::new(0),
            since: AtomicU64::new(0),
            heard: AtomicU64::new(0),
            served: AtomicBool::new(false),
            credit: AtomicI32::new(GIVEN_UP_MAX),
            told: AtomicBool::new(false),
            unhurried: AtomicBool::new(false),
            leave: Notify::new(),
        });
        state.since.store(state.now(), Ordering::Relaxed);
        let seat = Seat { seats: self.clone(), id: self.next.fetch_add(1, Ordering::Relaxed), home: home(address), state };
        let taken = self.rooms.lock()[Standing::Arriving as usize].take(seat.id, seat.home, &seat.state);
        taken.then_some(seat)
    }

    /// Somebody who is idle goes: there are too few open files.
    pub fn relieve(&self) {
        let mut rooms = self.rooms.lock();
        // Strangers first, then those that arrive.
        let _ = [1, 0, 2].into_iter().any(|room| rooms[room].give_up_one());
    }

    /// How many connections there are.
    pub fn len(&self) -> usize {
        self.rooms.lock().iter().map(Room::len).sum()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Seat {
    /// The handshake is over, and has shown this much. False: there is no room, the connection must go.
    pub fn settle(&self, standing: Standing) -> bool {
        let mut rooms = self.seats.rooms.lock();
        // Who was told to go has no seat any more.
        if !rooms[Standing::Arriving as usize].leave(self.id, self.home) {
            return false;
        }
        // What was heard so far was the handshake.
        self.state.heard.store(0, Ordering::Relaxed);
        self.state.since.store(self.state.now(), Ordering::Relaxed);
        rooms[standing as usize].take(self.id, self.home, &self.state)
    }

    /// A request begins.
    pub fn work(&self) -> Work {
        self.state.working.fetch_add(1, Ordering::AcqRel);
        self.state.served.store(true, Ordering::Relaxed);
        Work { state: self.state.clone(), answered: false }
    }

    /// The connection is a tunnel from here on, whose end others see: it is not idle any more, however silent it is.
    pub fn handed_on(&self) {
        self.state.working.fetch_add(1, Ordering::AcqRel);
    }

    /// Bytes have come.
    pub fn heard(&self) {
        let state = &self.state;
        if state.heard.load(Ordering::Relaxed) == 0 && state.working.load(Ordering::Relaxed) == 0 {
            state.heard.store(state.now(), Ordering::Relaxed);
        }
    }

    /// The answer that comes now may take its reader as long as it likes.
    pub fn need_not_hurry(&self) {
        self.state.unhurried.store(true, Ordering::Relaxed);
    }

    /// This answer may not, whatever the one before.
    pub fn must_hurry(&self) {
        self.state.unhurried.store(false, Ordering::Relaxed);
    }

    fn hurries(&self) -> bool {
        !self.state.unhurried.load(Ordering::Relaxed)
    }

    /// Resolves when the connection has been silent for too long, or has been told to go; with the reason.
    pub async fn over(&self, patience: &Patience) -> &'static str {
        loop {
            let leave = self.state.leave.notified();
            if self.state.told.load(Ordering::Acquire) {
                return "it was told to go";
            }
            let Some(due) = self.state.due(patience) else { return "it was silent for too long" };
            tokio::select! {
                () = leave => {}
                () = sleep_until(due) => {}
            }
        }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut rooms = self.seats.rooms.lock();
        rooms.iter_mut().any(|room| room.leave(self.id, self.home));
    }
}

impl Work {
    /// The head of the answer is there.
    pub fn answered(&mut self) {
        self.answered = true;
        let credit = &self.state.credit;
        if credit.load(Ordering::Relaxed) < GIVEN_UP_MAX {
            credit.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        if !self.answered && self.state.credit.fetch_sub(1, Ordering::Relaxed) <= 1 {
            self.state.tell();
        }
        // Before the count, and whoever else is at work: two may end at once, and who sees the connection idle sees since when.
        self.state.since.store(self.state.now(), Ordering::Relaxed);
        self.state.heard.store(0, Ordering::Relaxed);
        self.state.working.fetch_sub(1, Ordering::AcqRel);
    }
}

impl State {
    fn now(&self) -> u64 {
        u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX).max(1)
    }

    fn tell(&self) {
        self.told.store(true, Ordering::Release);
        self.leave.notify_one();
    }

    fn is_idle(&self) -> bool {
        self.working.load(Ordering::Acquire) == 0
    }

    /// When to look again; `None`: time is up.
    fn due(&self, patience: &Patience) -> Option<Instant> {
        let now = Instant::now();
        if !self.is_idle() {
            return Some(now + patience.first);
        }
        let (since, heard) = (self.since.load(Ordering::Relaxed), self.heard.load(Ordering::Relaxed));
        let (from, bound) = match (heard, patience.head) {
            (0, _) if !self.served.load(Ordering::Relaxed) => (since, patience.first),
            (1.., Some(head)) => (heard, head),
            _ => (since, patience.idle),
        };
        let end = self.begun + Duration::from_millis(from) + bound;
        (end > now).then_some(end)
    }
}

/// Whom an address counts for: the hosts of an IPv6 network are one.
fn home(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from(u128::from(v6) & !u128::from(u64::MAX))),
        v4 => v4,
    }
}

#[cfg(test)]
mod tests;
