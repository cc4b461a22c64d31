//! A value that many ask for -> one asks etcd for it, and all who waited meanwhile take the answer: where it is an error, too.
//!
//! Without the latter, etcd's silence would be waited for by each of them in turn, one bound after another.

use tokio::{sync::Mutex, time::Instant};

use crate::Error;

#[derive(Default)]
pub(super) struct Flight<T>(Mutex<State<T>>);

#[derive(Default)]
struct State<T> {
    value: T,
    /// When the last question failed, and why.
    failed: Option<(Instant, String)>,
}

impl<T> Flight<T> {
    /// What `ready` finds in the value, or else what `ask` makes of it; one asks at a time.
    ///
    /// # Errors
    /// Those of `ask`; of another's that failed while this one waited, as [`Error::Unavailable`].
    pub async fn join<R>(
        &self,
        ready: impl FnOnce(&T) -> Option<R>,
        ask: impl AsyncFnOnce(&mut T) -> Result<R, Error>,
    ) -> Result<R, Error> {
        let since = Instant::now();
        let mut state = self.0.lock().await;
        if let Some(found) = ready(&state.value) {
            return Ok(found);
        }
        if let Some((_, why)) = state.failed.as_ref().filter(|(at, _)| *at > since) {
            return Err(Error::Unavailable(why.clone()));
        }
        let asked = ask(&mut state.value).await;
        state.failed = asked.as_ref().err().map(|error| (Instant::now(), error.to_string()));
        asked
    }

    pub async fn forget(&self)
    where
        T: Default,
    {
        let mut state = self.0.lock().await;
        state.value = T::default();
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::atomic::{AtomicUsize, Ordering},
        time::Duration,
    };

    use super::*;

    const SILENCE: Duration = Duration::from_secs(10);

    #[tokio::test(start_paused = true)]
    async fn who_waited_takes_the_failure_and_who_comes_later_asks_again() {
        let (flight, asked) = (Flight::<u64>::default(), AtomicUsize::new(0));
        let ready = |value: &u64| Some(*value).filter(|value| *value > 0);
        let ask = |answer: Result<u64, Error>| {
            let asked = &asked;
            async move |value: &mut u64| {
                asked.fetch_add(1, Ordering::Relaxed);
                tokio::time::sleep(SILENCE).await;
                *value = answer?;
                Ok(*value)
            }
        };
        let silent = || Err(Error::Unavailable("no answer in time".into()));
        let begun = Instant::now();
        let all = futures::future::join_all((0..8).map(|_| flight.join(ready, ask(silent())))).await;
        assert!(all.iter().all(Result::is_err) && begun.elapsed() < SILENCE * 2, "{:?}", begun.elapsed());
        assert_eq!(asked.load(Ordering::Relaxed), 1, "one asked for all of them");
        let all = futures::future::join_all((0..8).map(|_| flight.join(ready, ask(Ok(7))))).await;
        assert!(all.iter().all(|one| matches!(one, Ok(7))), "{all:?}");
        assert_eq!(asked.load(Ordering::Relaxed), 2, "and one again later");
        flight.forget().await;
        assert!(flight.join(ready, ask(silent())).await.is_err());
    }
}
