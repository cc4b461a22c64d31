//! When something began, as an object says -> how long it has lasted.
//!
//! The wall clock alone does not say: after it was set back, what began before lies ahead, and its end as far away as the clock was moved. Who waits for an end
//! remembers when it first saw the beginning, on the clock that is never set, and takes whichever of the two says that more has passed.

use std::{
    collections::{BTreeMap, HashMap},
    time::Duration,
};

use api::{Key, time::Timestamp};
use client::leader::Clock;
use parking_lot::Mutex;

/// The beginnings that the objects of one controller name, as they were first seen. As large as what was passed to [`Ages::of`] last, of each key.
pub struct Ages {
    clock: Clock,
    seen: Mutex<HashMap<Key, BTreeMap<Timestamp, First>>>,
}

/// When a beginning was first seen (on the clock that is never set), and how old it was then (by the wall clock).
#[derive(Clone, Copy)]
struct First {
    at: Duration,
    age: Duration,
}

/// How long things have lasted, at one moment: for a snapshot.
#[derive(Clone, Debug, PartialEq)]
pub struct Lasted {
    pub now: Timestamp,
    since_seen: BTreeMap<Timestamp, Duration>,
}

impl Ages {
    pub fn new(clock: &Clock) -> Self {
        Self { clock: clock.clone(), seen: Mutex::default() }
    }

    /// Of the object `key`, which names these beginnings and none else. One that is gone names none.
    pub fn of(&self, key: &Key, beginnings: impl IntoIterator<Item = Timestamp>, now: Timestamp) -> Lasted {
        let at = self.clock.now();
        let mut seen = self.seen.lock();
        let before = seen.remove(key).unwrap_or_default();
        let first = |began| before.get(&began).copied().unwrap_or(First { at, age: age(began, now) });
        let known: BTreeMap<Timestamp, First> = beginnings.into_iter().map(|began| (began, first(began))).collect();
        let since_seen = known.iter().map(|(began, first)| (*began, at.saturating_sub(first.at).saturating_add(first.age))).collect();
        if !known.is_empty() {
            seen.insert(key.clone(), known);
        }
        Lasted { now, since_seen }
    }
}

impl Lasted {
    /// By the wall clock alone.
    pub fn at(now: Timestamp) -> Self {
        Self { now, since_seen: BTreeMap::new() }
    }

    /// What begins in the future has not lasted.
    pub fn since(&self, began: Timestamp) -> Duration {
        age(began, self.now).max(self.since_seen.get(&began).copied().unwrap_or_default())
    }

    /// Until it has lasted for `span`: never more than that.
    pub fn left(&self, began: Timestamp, span: Duration) -> Duration {
        span.saturating_sub(self.since(began))
    }

    /// The same in whole seconds; negative once that is past.
    pub fn left_seconds(&self, began: Timestamp, seconds: impl Into<i64>) -> i64 {
        let lasted = i64::try_from(self.since(began).as_secs()).unwrap_or(i64::MAX);
        seconds.into().saturating_sub(lasted)
    }
}

fn age(began: Timestamp, now: Timestamp) -> Duration {
    Duration::try_from(now.duration_since(began)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicI64, Ordering::Relaxed},
    };

    use super::*;

    const SPAN: Duration = Duration::from_secs(60);

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    /// A clock that is never set, and who remembers by it.
    fn ages() -> (Arc<AtomicI64>, Ages) {
        let up = Arc::new(AtomicI64::new(1_000_000));
        let read = up.clone();
        (up, Ages::new(&Clock::of(move || Duration::from_secs(read.load(Relaxed).unsigned_abs()))))
    }

    /// Whatever the wall clock does, what lasts for a minute is over a minute after it was seen, at the latest, and not while both clocks say that it is not.
    #[test]
    fn a_clock_that_is_set_makes_nothing_last_longer() {
        for set in [-1_000_000_000, -86_400, -3600, -61, -59, -1, 0, 30, 86_400] {
            let ((up, ages), key, began) = (ages(), Key::new("n", "a"), at(1_800_000_000));
            assert_eq!(ages.of(&key, [began], at(1_800_000_020)).left(began, SPAN).as_secs(), 40);
            for passed in 0..60 {
                up.store(1_000_000 + passed, Relaxed);
                let left = ages.of(&key, [began], at(1_800_000_020 + set + passed)).left(began, SPAN).as_secs();
                let by_wall = (40 - set - passed).clamp(0, 60).unsigned_abs();
                let by_memory = (40 - passed).max(0).unsigned_abs();
                assert_eq!(left, by_wall.min(by_memory), "set by {set}, {passed} s later");
            }
        }
    }

    /// Seen first after the clock was set: it lasts all its time from then on, and no longer.
    #[test]
    fn what_begins_in_the_future_begins_when_it_is_seen() {
        for began in [Timestamp::MAX, at(1_900_000_000), at(1_800_000_061), at(1_800_000_001)] {
            let ((up, ages), key) = (ages(), Key::new("n", "a"));
            let left = |passed: i64| {
                up.store(1_000_000 + passed, Relaxed);
                ages.of(&key, [began], at(1_800_000_000)).left(began, SPAN).as_secs()
            };
            assert_eq!([0, 1, 59, 60, 61].map(left), [60, 59, 1, 0, 0], "{began}");
        }
    }

    #[test]
    fn what_is_gone_is_forgotten() {
        let ((_, ages), key) = (ages(), Key::new("n", "a"));
        ages.of(&key, [at(1), at(2)], at(3));
        ages.of(&key, [at(2)], at(3));
        assert_eq!(ages.seen.lock()[&key].len(), 1);
        ages.of(&key, [], at(3));
        assert!(ages.seen.lock().is_empty());
    }

    #[test]
    fn any_two_instants_have_an_age() {
        for (began, now) in [(Timestamp::MIN, Timestamp::MAX), (Timestamp::MAX, Timestamp::MIN), (Timestamp::MIN, Timestamp::MIN)] {
            let lasted = ages().1.of(&Key::default(), [began], now);
            assert!(lasted.left(began, Duration::MAX) <= Duration::MAX && lasted.left(began, SPAN) <= SPAN, "{began} {now}");
        }
        assert_eq!(Lasted::at(at(50)).left(at(10), SPAN).as_secs(), 20);
    }
}
