//! Keys whose work panics -> when each is tried again, later and later: the others do not wait for them.

use std::{
    collections::{BTreeSet, HashMap},
    time::Duration,
};

use api::{Key, faults::catch};
use tokio::time::Instant;

/// After the first failure, doubled up to [`RETRY_MAX`].
const RETRY: Duration = Duration::from_secs(1);
const RETRY_MAX: Duration = Duration::from_secs(30);

/// Bounded by the number of services. What never panics is not in it.
#[derive(Default)]
pub struct Late {
    failures: HashMap<Key, (u32, Instant)>,
    due: BTreeSet<(Instant, Key)>,
}

impl Late {
    pub fn failed(&mut self, key: Key, now: Instant) {
        let failures = self.take(&key);
        let at = now + RETRY.saturating_mul(1 << failures.min(16)).min(RETRY_MAX);
        self.due.insert((at, key.clone()));
        self.failures.insert(key, (failures.saturating_add(1), at));
    }

    pub fn succeeded(&mut self, key: &Key) {
        if !self.failures.is_empty() {
            self.take(key);
        }
    }

    /// When the next one is due.
    pub fn next(&self) -> Option<Instant> {
        self.due.first().map(|(at, _)| *at)
    }

    /// Those that are to be tried now.
    pub fn take_due(&mut self, now: Instant) -> Vec<Key> {
        let mut all = Vec::new();
        while let Some((_, key)) = self.due.first().filter(|(at, _)| *at <= now).cloned() {
            self.due.pop_first();
            all.push(key);
        }
        all
    }

    /// How often the key failed in a row; it waits no more.
    fn take(&mut self, key: &Key) -> u32 {
        let Some((failures, at)) = self.failures.remove(key) else { return 0 };
        self.due.remove(&(at, key.clone()));
        failures
    }
}

/// `work` done for every key, and those it panicked for: each is logged and counted, and does not disturb the others.
pub fn each<T>(keys: impl IntoIterator<Item = Key>, mut work: impl FnMut(&Key) -> T) -> (Vec<(Key, T)>, Vec<Key>) {
    let (mut done, mut left) = (Vec::new(), Vec::new());
    for key in keys {
        match one(&key, || work(&key)) {
            Some(came) => done.push((key, came)),
            None => left.push(key),
        }
    }
    (done, left)
}

/// As [`each`], for one.
pub fn one<T>(key: &Key, work: impl FnOnce() -> T) -> Option<T> {
    let log = |panic| tracing::error!(%key, error = %panic, "failed to sync rules of a service; retrying");
    catch("service proxy", work).map_err(log).ok()
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    };

    use tracing::{Event, Level, Metadata, Subscriber, span};

    use super::*;

    /// Counts what is logged as an error.
    #[derive(Clone, Default)]
    struct Errors(Arc<AtomicUsize>);

    impl Subscriber for Errors {
        fn enabled(&self, what: &Metadata<'_>) -> bool {
            *what.level() == Level::ERROR
        }
        fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
            span::Id::from_u64(1)
        }
        fn record(&self, _: &span::Id, _: &span::Record<'_>) {}
        fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}
        fn event(&self, _: &Event<'_>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
        fn enter(&self, _: &span::Id) {}
        fn exit(&self, _: &span::Id) {}
    }

    fn key(name: &str) -> Key {
        Key::new("d", name)
    }

    #[test]
    fn a_key_that_panics_is_tried_later_and_later_and_no_other_waits() {
        let (mut late, begun, panics) = (Late::default(), Instant::now(), api::faults::panics());
        let errors = Errors::default();
        let (done, left) = tracing::subscriber::with_default(errors.clone(), || {
            each(["a", "bad", "b"].map(key), |key| {
                assert_ne!(key.name, "bad");
                key.name.clone()
            })
        });
        assert_eq!(errors.0.load(Ordering::Relaxed), 1, "it is logged once");
        assert_eq!((done, left), (vec![(key("a"), "a".to_owned()), (key("b"), "b".to_owned())], vec![key("bad")]));
        assert!(api::faults::panics() > panics && api::faults::metrics().contains("skiff_panics_total{loop=\"service proxy\"}"));
        let (mut now, mut waits) = (begun, Vec::new());
        for _ in 0..7 {
            late.failed(key("bad"), now);
            let at = late.next().unwrap();
            waits.push((at - now).as_secs());
            assert!(late.take_due(now).is_empty());
            now = at;
            assert_eq!((late.take_due(now), late.next()), (vec![key("bad")], None));
        }
        assert_eq!(waits, [1, 2, 4, 8, 16, 30, 30]);
        late.failed(key("bad"), now);
        late.succeeded(&key("bad"));
        assert!(late.next().is_none() && late.failures.is_empty());
    }
}
