//! Work that may take long -> off the threads that all requests share, and only so much of it at a time.

use std::{
    future::Future,
    pin::pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use parking_lot::Mutex;
use tokio::{
    runtime::{Handle, RuntimeFlavor},
    sync::{OwnedSemaphorePermit, Semaphore, SemaphorePermit},
    task::block_in_place,
    time::{Instant, timeout},
};
use tokio_util::sync::PollSemaphore;

/// Of a body, or of an object that is shown in another form than its own: above it the work may take more than 100 ms of one thread.
const LIGHT_BYTES_MAX: usize = 32 << 10;
/// Others wait for their turn, in order; each of them has its seat and its deadline.
const LONG_MAX: usize = 4;
/// Pieces of such work that wait for somebody outside at a time: each keeps one of the 64 threads that block.
const OUTSIDE_MAX: usize = 32;
/// Until a piece of such work asks nobody outside any more: upstream's `--request-timeout`.
const HEAVY_BOUND: Duration = Duration::from_secs(60);

/// How long a piece of work may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Weight {
    Light,
    Heavy,
}

pub(crate) struct Lane(Arc<Semaphore>);

/// The same for a body that is made piece by piece.
pub(crate) struct Turns(PollSemaphore);

impl Weight {
    pub fn of(bytes: usize) -> Self {
        if bytes > LIGHT_BYTES_MAX { Self::Heavy } else { Self::Light }
    }
}

impl Lane {
    pub fn new() -> Self {
        Self(Arc::new(Semaphore::new(LONG_MAX)))
    }

    pub fn turns(&self) -> Turns {
        Turns(PollSemaphore::new(self.0.clone()))
    }

    /// Does light work here. Heavy work waits for its turn, and is then done [`apart`].
    pub async fn run<T>(&self, weight: Weight, work: impl Future<Output = T>) -> T {
        let work = pin!(work);
        if weight == Weight::Light || is_alone() {
            return work.await;
        }
        // Never closed.
        let turn = self.0.clone().acquire_owned().await.ok();
        let held = Held(Arc::new(Mutex::new(State { turn, outside: 0, place: None })), self.0.clone(), Instant::now() + HEAVY_BOUND);
        apart(weight, || Handle::current().block_on(TURN.scope(held, work)))
    }
}

/// Why nobody outside is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NotOutside {
    /// Others that keep a thread each wait outside already.
    TooMany,
    /// The request has lasted long enough.
    Late,
}

/// Waits for somebody outside, for `bound` at most. Who has a turn gives it up until all that it waits for has come: a turn is for work. As a piece of work
/// keeps a thread all the while, only so many may wait so, and none of them beyond the time that its request has.
pub(crate) async fn outside<T>(bound: Duration, wait: impl Future<Output = T>) -> Result<Option<T>, NotOutside> {
    let Ok(held) = TURN.try_with(Clone::clone) else { return Ok(timeout(bound, wait).await.ok()) };
    let left = held.2.checked_duration_since(Instant::now()).ok_or(NotOutside::Late)?;
    let gone = Outside::new(&held).ok_or(NotOutside::TooMany)?;
    let done = timeout(bound.min(left), wait).await.ok();
    gone.back().await;
    Ok(done)
}

tokio::task_local! {
    static TURN: Held;
}

static OUTSIDE: Semaphore = Semaphore::const_new(OUTSIDE_MAX);

/// The turn that a piece of work has, where it is to be had again, and when its time is over.
#[derive(Clone)]
struct Held(Arc<Mutex<State>>, Arc<Semaphore>, Instant);

struct State {
    turn: Option<OwnedSemaphorePermit>,
    /// How many of its parts wait outside: the first to go gives the turn up, the last to come back takes it again.
    outside: usize,
    /// Its place among those that wait outside, until it has its turn again.
    place: Option<SemaphorePermit<'static>>,
}

/// One part that waits outside; also when it is dropped there.
struct Outside<'a>(&'a Held);

impl<'a> Outside<'a> {
    /// `None` where too many wait so.
    fn new(held: &'a Held) -> Option<Self> {
        let mut state = held.0.lock();
        if state.place.is_none() {
            state.place = Some(OUTSIDE.try_acquire().ok()?);
        }
        state.outside += 1;
        state.turn = None;
        drop(state);
        Some(Self(held))
    }

    async fn back(self) {
        let held = self.0;
        drop(self);
        if held.0.lock().outside > 0 {
            return;
        }
        let turn = held.1.clone().acquire_owned().await.ok();
        let mut state = held.0.lock();
        if state.outside == 0 && state.turn.is_none() {
            state.turn = turn;
            state.place = None;
        }
    }
}

impl Drop for Outside<'_> {
    fn drop(&mut self) {
        self.0.0.lock().outside -= 1;
    }
}

impl Turns {
    /// The turn for one piece of work that is then done by [`apart`]. Light work needs none.
    pub fn poll_next(&mut self, cx: &mut Context<'_>, weight: Weight) -> Poll<Option<OwnedSemaphorePermit>> {
        if weight == Weight::Light || is_alone() { Poll::Ready(None) } else { self.0.poll_acquire(cx) }
    }
}

/// Does heavy work on this thread, in whose place the runtime takes another meanwhile.
pub(crate) fn apart<T>(weight: Weight, work: impl FnOnce() -> T) -> T {
    if weight == Weight::Light || is_alone() { work() } else { block_in_place(work) }
}

/// A runtime of one thread has no other.
fn is_alone() -> bool {
    Handle::current().runtime_flavor() != RuntimeFlavor::MultiThread
}
