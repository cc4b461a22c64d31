//! Work that may take long -> off the threads that all requests share, and only so much of it at a time.

use std::{
    future::Future,
    pin::pin,
    sync::Arc,
    task::{Context, Poll},
};

use parking_lot::Mutex;
use tokio::{
    runtime::{Handle, RuntimeFlavor},
    sync::{OwnedSemaphorePermit, Semaphore},
    task::block_in_place,
};
use tokio_util::sync::PollSemaphore;

/// Of a body, or of an object that is shown in another form than its own: above it the work may take more than 100 ms of one thread.
const LIGHT_BYTES_MAX: usize = 32 << 10;
/// Others wait for their turn, in order; each of them has its seat and its deadline.
const LONG_MAX: usize = 4;

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
        let turn = Arc::new(Mutex::new(self.turn().await));
        apart(weight, || Handle::current().block_on(TURN.scope(Held { turn, lane: self.0.clone() }, work)))
    }

    async fn turn(&self) -> Option<OwnedSemaphorePermit> {
        // Never closed.
        self.0.clone().acquire_owned().await.ok()
    }
}

/// Waits for somebody outside: who has a turn gives it up for so long, and the thread is one that others do without.
pub(crate) async fn outside<T>(wait: impl Future<Output = T>) -> T {
    let Ok(held) = TURN.try_with(Clone::clone) else { return wait.await };
    drop(held.turn.lock().take());
    let done = wait.await;
    let again = held.lane.acquire_owned().await.ok();
    *held.turn.lock() = again;
    done
}

tokio::task_local! {
    static TURN: Held;
}

/// The turn that a piece of work has.
#[derive(Clone)]
struct Held {
    turn: Arc<Mutex<Option<OwnedSemaphorePermit>>>,
    lane: Arc<Semaphore>,
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
