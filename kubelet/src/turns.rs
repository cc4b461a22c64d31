//! Questions to one who may be silent -> some at a time, and all who wait for their turn when one is not answered are not answered either: they would
//! each wait for the same silence, one bound after another.

use std::time::Duration;

use parking_lot::Mutex;
use tokio::{
    sync::Semaphore,
    time::{Instant, timeout},
};

pub struct Turns {
    places: Semaphore,
    /// When somebody was not answered last.
    silent: Mutex<Option<Instant>>,
}

/// There was no answer within the bound, to this question or to one that it waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Silent;

impl Turns {
    /// So many ask at a time.
    pub fn new(places: usize) -> Self {
        Self { places: Semaphore::new(places), silent: Mutex::default() }
    }

    /// What is answered within `bound`, which begins with the turn.
    ///
    /// # Errors
    /// [`Silent`].
    pub async fn within<T>(&self, bound: Duration, ask: impl Future<Output = T>) -> Result<T, Silent> {
        let since = Instant::now();
        // Never closed.
        let _place = self.places.acquire().await;
        if self.silent.lock().is_some_and(|at| at > since) {
            return Err(Silent);
        }
        timeout(bound, ask).await.map_err(|_| {
            *self.silent.lock() = Some(Instant::now());
            Silent
        })
    }
}

#[cfg(test)]
mod tests {
    use futures::future::join_all;

    use super::*;

    const BOUND: Duration = Duration::from_secs(10);

    #[tokio::test(start_paused = true)]
    async fn who_waited_takes_the_silence_and_who_comes_later_asks() {
        let turns = Turns::new(2);
        let begun = Instant::now();
        let all = join_all((0..50).map(|_| turns.within(BOUND, std::future::pending::<()>()))).await;
        assert!(all.iter().all(|one| *one == Err(Silent)) && begun.elapsed() < BOUND * 2, "{:?}", begun.elapsed());
        let answered = join_all((0..50).map(|at| turns.within(BOUND, async move { at }))).await;
        assert_eq!(answered, (0..50).map(Ok).collect::<Vec<_>>());
    }
}
