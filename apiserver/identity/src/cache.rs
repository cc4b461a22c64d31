//! What somebody outside has said -> said again for a while. Bounded; what was asked is kept as a digest alone, under a key that is this process's own.
//!
//! Source: apiserver `pkg/authentication/token/cache/cached_token_authenticator.go`.

use std::{collections::HashMap, future::Future, hash::Hash, sync::Arc, time::Duration};

use api::{
    flight::{Flights, Lost},
    task::Group,
};
use parking_lot::Mutex;
use sha2::{Digest, Sha256};
use tokio::time::Instant;

use crate::remote::ASKING_MAX;

/// How many answers are kept (upstream: 8192 of an authorizer). Where it is full, what ends first goes.
const KEPT_MAX: usize = 8192;
/// Questions that are asked whether or not anybody waits for them still. Further ones end with who asks them: whoever makes up tokens and hangs up would
/// leave any number of them behind.
const FLYING_MAX: usize = 64;
/// They leave room for those that somebody waits for.
const _: () = assert!(FLYING_MAX <= ASKING_MAX / 2);

/// What was asked, as a digest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Asked([u8; 32]);

/// Answers of one who is asked.
pub struct Answers<V> {
    seed: [u8; 32],
    kept: Arc<Kept<V>>,
    /// Those being asked for: who asks the same waits for the same answer, and who asks again after it went away finds it.
    flying: Flights<Asked, V>,
}

struct Kept<V>(Mutex<HashMap<Asked, (Instant, V)>>);

impl<V: Clone + Send + Sync + 'static> Answers<V> {
    /// Questions are tasks of `group`.
    pub fn new(group: &Group) -> Self {
        Self { seed: rand::random(), kept: Arc::new(Kept(Mutex::default())), flying: Flights::bounded(group, FLYING_MAX) }
    }

    /// Parts are told apart: `xy` and `z` is something else than `x` and `yz`.
    pub fn asked<'a>(&self, parts: impl IntoIterator<Item = &'a [u8]>) -> Asked {
        let mut hash = Sha256::new_with_prefix(self.seed);
        for part in parts {
            hash.update(u64::try_from(part.len()).unwrap_or(u64::MAX).to_be_bytes());
            hash.update(part);
        }
        // The seed at both ends: nothing can be appended.
        hash.update(self.seed);
        Asked(hash.finalize().into())
    }

    /// What is kept, or else what `ask` says; `keep` says for how long.
    ///
    /// # Errors
    /// [`Lost`], while the server stops.
    pub async fn get<F>(&self, asked: Asked, keep: impl FnOnce(&V) -> Duration + Send + 'static, ask: F) -> Result<V, Lost>
    where
        F: Future<Output = V> + Send + 'static,
    {
        if let Some(answer) = self.kept.get(&asked) {
            return Ok(answer);
        }
        let kept = self.kept.clone();
        let kept_answer = async move {
            let answer = ask.await;
            let ttl = keep(&answer);
            if !ttl.is_zero() {
                kept.keep(asked, answer.clone(), ttl);
            }
            answer
        };
        self.flying.join(asked, || self.kept.get(&asked), || kept_answer).await
    }
}

impl<V: Clone> Kept<V> {
    fn get(&self, asked: &Asked) -> Option<V> {
        let kept = self.0.lock();
        let (until, answer) = kept.get(asked)?;
        (*until > Instant::now()).then(|| answer.clone())
    }

    fn keep(&self, asked: Asked, answer: V, ttl: Duration) {
        let now = Instant::now();
        let Some(until) = now.checked_add(ttl) else { return };
        let mut kept = self.0.lock();
        if kept.len() >= KEPT_MAX {
            kept.retain(|_, (until, _)| *until > now);
        }
        if kept.len() >= KEPT_MAX {
            let mut ends: Vec<Instant> = kept.values().map(|(until, _)| *until).collect();
            let (_, first, _) = ends.select_nth_unstable(KEPT_MAX / 8);
            let first = *first;
            kept.retain(|_, (until, _)| *until > first);
        }
        kept.insert(asked, (until, answer));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    const TTL: Duration = Duration::from_secs(10);

    type Counted = Answers<usize>;

    fn counting(calls: &Arc<AtomicUsize>, takes: Duration) -> impl Future<Output = usize> + Send + 'static {
        let calls = calls.clone();
        async move {
            tokio::time::sleep(takes).await;
            calls.fetch_add(1, Ordering::SeqCst)
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_is_kept_for_a_while() {
        let (answers, calls) = (Counted::new(&Group::new()), Arc::default());
        let asked = answers.asked([&b"t"[..]]);
        let get = async || answers.get(asked, |_| TTL, counting(&calls, Duration::ZERO)).await.unwrap();
        assert_eq!((get().await, get().await), (0, 0));
        tokio::time::advance(TTL).await;
        assert_eq!(get().await, 1);
        let nothing = answers.asked([&b"u"[..]]);
        for expected in [2, 3] {
            assert_eq!(answers.get(nothing, |_| Duration::ZERO, counting(&calls, Duration::ZERO)).await, Ok(expected));
        }
        assert_eq!(answers.flying.count(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn who_asks_the_same_waits_for_the_same_answer() {
        let (answers, calls) = (Counted::new(&Group::new()), Arc::default());
        let asked = answers.asked([&b"t"[..]]);
        let all = (0..50).map(|_| answers.get(asked, |_| Duration::ZERO, counting(&calls, TTL)));
        assert_eq!(futures::future::join_all(all).await, vec![Ok(0); 50]);
        assert_eq!(answers.flying.count(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn what_takes_longer_than_its_askers_wait_is_known_to_later_ones() {
        let (answers, calls) = (Counted::new(&Group::new()), Arc::default());
        let asked = answers.asked([&b"t"[..]]);
        let mut tries = 0;
        let answer = loop {
            tries += 1;
            assert!(tries < 10, "nobody is ever answered");
            if let Ok(answer) = tokio::time::timeout(TTL / 4, answers.get(asked, |_| TTL, counting(&calls, TTL))).await {
                break answer;
            }
        };
        assert_eq!((answer, calls.load(Ordering::SeqCst)), (Ok(0), 1));
    }

    #[tokio::test(start_paused = true)]
    async fn who_makes_up_questions_and_goes_leaves_a_bounded_number_of_them() {
        let (answers, calls) = (Counted::new(&Group::new()), Arc::default());
        for n in 0..FLYING_MAX + 100 {
            let asked = answers.asked([&n.to_be_bytes()[..]]);
            let gone = tokio::time::timeout(Duration::ZERO, answers.get(asked, |_| TTL, counting(&calls, TTL))).await;
            assert!(gone.is_err());
        }
        assert_eq!(answers.flying.count(), FLYING_MAX);
        let asked = answers.asked([&b"t"[..]]);
        assert!(answers.get(asked, |_| TTL, counting(&calls, TTL)).await.is_ok(), "who stays is answered");
    }

    #[tokio::test(start_paused = true)]
    async fn who_asks_what_is_being_asked_waits_with_it_however_much_is_asked() {
        let (answers, calls) = (Counted::new(&Group::new()), Arc::default());
        for n in 0..FLYING_MAX {
            let asked = answers.asked([&n.to_be_bytes()[..]]);
            assert!(tokio::time::timeout(Duration::ZERO, answers.get(asked, |_| TTL, counting(&calls, TTL))).await.is_err());
        }
        let first = answers.asked([&0_usize.to_be_bytes()[..]]);
        let all = (0..50).map(|_| answers.get(first, |_| TTL, counting(&calls, TTL)));
        assert!(futures::future::join_all(all).await.iter().all(Result::is_ok));
        assert!(calls.load(Ordering::SeqCst) <= FLYING_MAX, "nothing is asked twice");
    }

    #[tokio::test(start_paused = true)]
    async fn a_flood_keeps_within_its_bound() {
        let answers = Counted::new(&Group::new());
        for n in 0..3 * KEPT_MAX {
            let asked = answers.asked([&n.to_be_bytes()[..]]);
            answers.kept.keep(asked, n, TTL);
            tokio::time::advance(Duration::from_micros(1)).await;
        }
        assert!(answers.kept.0.lock().len() <= KEPT_MAX);
        let last = answers.asked([&(3 * KEPT_MAX - 1).to_be_bytes()[..]]);
        assert_eq!(answers.kept.get(&last), Some(3 * KEPT_MAX - 1), "what was said last is there");
        assert_ne!(answers.asked([&b"xy"[..], b"z"]), answers.asked([&b"x"[..], b"yz"]));
    }
}
