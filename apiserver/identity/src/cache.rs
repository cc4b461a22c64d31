//! What somebody outside has said -> said again for a while. Bounded; what was asked is kept as a digest alone, under a key that is this process's own.
//!
//! Source: apiserver `pkg/authentication/token/cache/cached_token_authenticator.go`.

use std::{collections::HashMap, future::Future, hash::Hash, sync::Arc, time::Duration};

use parking_lot::Mutex;
use sha2::{Digest, Sha256};
use tokio::{sync::OnceCell, time::Instant};

/// How many answers are kept (upstream: 8192 of an authorizer). Where it is full, what ends first goes.
const KEPT_MAX: usize = 8192;

/// What was asked, as a digest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Asked([u8; 32]);

/// Answers of one who is asked.
pub struct Answers<V> {
    seed: [u8; 32],
    kept: Mutex<HashMap<Asked, (Instant, V)>>,
    /// Those being asked for: who asks the same waits for the same answer.
    flying: Mutex<HashMap<Asked, Arc<OnceCell<V>>>>,
}

impl<V: Clone> Answers<V> {
    pub fn new() -> Self {
        Self { seed: rand::random(), kept: Mutex::default(), flying: Mutex::default() }
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
    pub async fn get(&self, asked: Asked, keep: impl Fn(&V) -> Duration, ask: impl Future<Output = V>) -> V {
        if let Some(kept) = self.kept(&asked) {
            return kept;
        }
        let flight = Flight { answers: self, asked, cell: self.flying.lock().entry(asked).or_default().clone() };
        let answer = flight.cell.get_or_init(|| ask).await.clone();
        drop(flight);
        let ttl = keep(&answer);
        if !ttl.is_zero() {
            self.keep(asked, answer.clone(), ttl);
        }
        answer
    }

    fn kept(&self, asked: &Asked) -> Option<V> {
        let kept = self.kept.lock();
        let (until, answer) = kept.get(asked)?;
        (*until > Instant::now()).then(|| answer.clone())
    }

    fn keep(&self, asked: Asked, answer: V, ttl: Duration) {
        let now = Instant::now();
        let Some(until) = now.checked_add(ttl) else { return };
        let mut kept = self.kept.lock();
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

/// One that waits for an answer; the last to go, also where it was dropped, clears the place.
struct Flight<'a, V> {
    answers: &'a Answers<V>,
    asked: Asked,
    cell: Arc<OnceCell<V>>,
}

impl<V> Drop for Flight<'_, V> {
    fn drop(&mut self) {
        let mut flying = self.answers.flying.lock();
        // Ours, and the map's.
        if Arc::strong_count(&self.cell) <= 2 || self.cell.initialized() {
            flying.remove(&self.asked);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    const TTL: Duration = Duration::from_secs(10);

    #[tokio::test(start_paused = true)]
    async fn an_answer_is_kept_for_a_while() {
        let (answers, calls) = (Answers::new(), AtomicUsize::new(0));
        let asked = answers.asked([&b"t"[..]]);
        let get = async || answers.get(asked, |_| TTL, async { calls.fetch_add(1, Ordering::SeqCst) }).await;
        assert_eq!((get().await, get().await), (0, 0));
        tokio::time::advance(TTL).await;
        assert_eq!(get().await, 1);
        let nothing = answers.asked([&b"u"[..]]);
        for expected in [2, 3] {
            assert_eq!(answers.get(nothing, |_| Duration::ZERO, async { calls.fetch_add(1, Ordering::SeqCst) }).await, expected);
        }
        assert!(answers.flying.lock().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn who_asks_the_same_waits_for_the_same_answer() {
        let (answers, calls) = (Answers::new(), AtomicUsize::new(0));
        let asked = answers.asked([&b"t"[..]]);
        let ask = || async {
            tokio::time::sleep(TTL).await;
            calls.fetch_add(1, Ordering::SeqCst)
        };
        let gone = tokio::time::timeout(Duration::from_secs(1), answers.get(asked, |_| TTL, ask())).await;
        assert!(gone.is_err() && answers.flying.lock().is_empty(), "who went away leaves nothing");
        let all = (0..50).map(|_| answers.get(asked, |_| Duration::ZERO, ask()));
        assert_eq!(futures::future::join_all(all).await, vec![0; 50]);
        assert!(answers.flying.lock().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_flood_keeps_within_its_bound() {
        let answers = Answers::new();
        for n in 0..3 * KEPT_MAX {
            let asked = answers.asked([&n.to_be_bytes()[..]]);
            answers.keep(asked, n, TTL);
            tokio::time::advance(Duration::from_micros(1)).await;
        }
        assert!(answers.kept.lock().len() <= KEPT_MAX);
        let last = answers.asked([&(3 * KEPT_MAX - 1).to_be_bytes()[..]]);
        assert_eq!(answers.kept(&last), Some(3 * KEPT_MAX - 1), "what was said last is there");
        assert_ne!(answers.asked([&b"xy"[..], b"z"]), answers.asked([&b"x"[..], b"yz"]));
    }
}
