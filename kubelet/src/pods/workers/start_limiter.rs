//! Pods that want to start -> a few at a time: the runtime starts more of them in a second, and the first are there sooner.
//!
//! A start is a dozen processes that use the processor. Measured with containerd 1.6 and runc on two cores, 30 pods at once
//! (`tests/floor.rs`): two or three at a time start 13.8 in a second at 77 ms of CPU each, all at once 10.2 at 109 ms.

use std::{sync::Arc, time::Duration};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// A call that takes longer waits for something else than the processor: its permit goes to the next.
const HOLD_MAX: Duration = Duration::from_secs(2);

/// Permits for sandboxes and for containers, apart, so that pods that have begun are finished before others begin.
#[derive(Clone)]
pub struct StartLimiter {
    pub sandboxes: Limit,
    pub containers: Limit,
}

/// Clones share their bound.
#[derive(Clone)]
pub struct Limit(Arc<Semaphore>);

impl StartLimiter {
    /// As many of each at a time as there are processors.
    pub fn new() -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from).max(2);
        let limit = || Limit(Arc::new(Semaphore::new(cores)));
        Self { sandboxes: limit(), containers: limit() }
    }
}

impl Limit {
    /// Waits for a permit, in the order of asking, and works in it. Waits are bounded by [`HOLD_MAX`] for each that is before.
    pub async fn during<T>(&self, work: impl Future<Output = T>) -> T {
        // Never closed.
        let mut permit = self.0.clone().acquire_owned().await.ok();
        tokio::pin!(work);
        tokio::select! {
            done = &mut work => done,
            () = give_up(&mut permit) => work.await,
        }
    }
}

async fn give_up(permit: &mut Option<OwnedSemaphorePermit>) {
    tokio::time::sleep(HOLD_MAX).await;
    permit.take();
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

    use futures::future::join_all;

    use super::*;

    #[tokio::test]
    async fn only_some_are_inside_at_a_time() {
        let (limit, inside, most) = (Limit(Arc::new(Semaphore::new(2))), AtomicUsize::new(0), AtomicUsize::new(0));
        let work = || async {
            most.fetch_max(inside.fetch_add(1, SeqCst) + 1, SeqCst);
            for _ in 0..10 {
                tokio::task::yield_now().await;
            }
            inside.fetch_sub(1, SeqCst);
        };
        join_all((0..20).map(|_| limit.during(work()))).await;
        assert_eq!((inside.into_inner(), most.into_inner()), (0, 2));
    }

    #[tokio::test]
    async fn one_that_hangs_does_not_keep_its_permit() {
        let limit = Limit(Arc::new(Semaphore::new(1)));
        let hung = limit.during(std::future::pending::<()>());
        let next = limit.during(std::future::ready(()));
        tokio::select! {
            biased;
            () = hung => unreachable!("it never ends"),
            () = next => {}
        }
    }
}
