//! Events as they are told -> what of them is worth a write: repeats counted, similar ones combined, the talkative held back.
//!
//! Source: client-go `tools/record/events_cache.go` (`EventCorrelator`), with its numbers.

use std::{
    collections::{HashMap, HashSet, VecDeque, hash_map::RandomState},
    hash::BuildHasher,
};

use api::{k8s::api::core::v1::ObjectReference, time::Timestamp};

use super::Told;

/// Keys that are remembered in each of the three memories.
const REMEMBERED_MAX: usize = 4096;
/// Different messages of one object and reason, after which they are combined...
const SIMILAR_MAX: usize = 10;
/// ... unless there was silence for so long.
const SIMILAR_SECONDS: i64 = 600;
/// Events about one object that may come at once...
const BURST: f64 = 25.0;
/// ... and the time until another one may.
const REFILL_SECONDS: f64 = 300.0;
const COMBINED: &str = "(combined from similar events): ";

/// What one component told lately. Keys are hashes: the texts themselves would be most of the memory.
#[derive(Default)]
pub(super) struct Correlator {
    keys: RandomState,
    similar: Memory<Similar>,
    told: Memory<Counted>,
    budgets: Memory<Budget>,
}

/// An event to write: made if it is the first of its kind, counted up if not.
#[derive(Debug)]
pub(super) struct Write {
    pub told: Told,
    /// What makes it the same event.
    pub key: u64,
    pub name: String,
    pub count: i32,
}

struct Similar {
    messages: HashSet<u64>,
    last: Timestamp,
}

struct Counted {
    name: String,
    count: i32,
}

struct Budget {
    left: f64,
    since: Timestamp,
}

/// The newest keys; the oldest goes when there are too many.
struct Memory<V> {
    by_key: HashMap<u64, V>,
    order: VecDeque<u64>,
}

impl Correlator {
    /// `None` for one event too many about its object. It counts all the same.
    pub fn correlate(&mut self, mut told: Told) -> Option<Write> {
        let r = &told.regarding;
        let object = self.keys.hash_one(identity(r));
        let reason = self.keys.hash_one((object, told.kind, &told.reason));
        let single = self.keys.hash_one((reason, &r.field_path, &told.message));
        let key = if self.is_one_of_many(reason, single, told.at) { reason } else { single };
        if key == reason {
            told.message.insert_str(0, COMBINED);
        }
        let fresh = || Counted { name: told.fresh_name(), count: 0 };
        let counted = self.told.entry(key, fresh);
        counted.count = counted.count.saturating_add(1);
        let (name, count) = (counted.name.clone(), counted.count);
        self.may_tell(object, told.at).then_some(Write { told, key, name, count })
    }

    fn is_one_of_many(&mut self, reason: u64, single: u64, now: Timestamp) -> bool {
        let fresh = || Similar { messages: HashSet::new(), last: now };
        let similar = self.similar.entry(reason, fresh);
        if now.as_second() - similar.last.as_second() > SIMILAR_SECONDS {
            similar.messages.clear();
        }
        similar.last = now;
        let is_many = similar.messages.len() + usize::from(!similar.messages.contains(&single)) >= SIMILAR_MAX;
        if !is_many {
            similar.messages.insert(single);
        }
        is_many
    }

    fn may_tell(&mut self, object: u64, now: Timestamp) -> bool {
        let budget = self.budgets.entry(object, || Budget { left: BURST, since: now });
        let passed = now.duration_since(budget.since).as_secs_f64().max(0.0);
        budget.left = (budget.left + passed / REFILL_SECONDS).min(BURST);
        budget.since = now;
        let may = budget.left >= 1.0;
        if may {
            budget.left -= 1.0;
        }
        may
    }
}

fn identity(r: &ObjectReference) -> [&str; 5] {
    [&r.kind, &r.namespace, &r.name, &r.uid, &r.api_version].map(|part| part.as_deref().unwrap_or(""))
}

impl<V> Default for Memory<V> {
    fn default() -> Self {
        Self { by_key: HashMap::new(), order: VecDeque::new() }
    }
}

impl<V> Memory<V> {
    fn entry(&mut self, key: u64, fresh: impl FnOnce() -> V) -> &mut V {
        if !self.by_key.contains_key(&key) {
            self.order.push_back(key);
            if self.order.len() > REMEMBERED_MAX
                && let Some(oldest) = self.order.pop_front()
            {
                self.by_key.remove(&oldest);
            }
        }
        self.by_key.entry(key).or_insert_with(fresh)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn told(object: &str, message: &str, second: i64) -> Told {
        Told {
            regarding: ObjectReference { name: Some(object.into()), ..ObjectReference::default() },
            kind: "Normal",
            reason: "SuccessfulCreate".into(),
            message: message.into(),
            source: Arc::default(),
            at: Timestamp::from_second(second).unwrap(),
        }
    }

    fn tell(correlator: &mut Correlator, message: &str, second: i64) -> Option<(String, i32)> {
        correlator.correlate(told("web", message, second)).map(|w| (w.told.message, w.count))
    }

    #[test]
    fn repeats_are_counted_under_one_name() {
        let mut correlator = Correlator::default();
        let first = correlator.correlate(told("web", "a", 1)).unwrap();
        let again = correlator.correlate(told("web", "a", 2)).unwrap();
        let other = correlator.correlate(told("db", "a", 2)).unwrap();
        assert_eq!((first.count, again.count, other.count), (1, 2, 1));
        assert_eq!((&first.name, first.key), (&again.name, again.key));
        assert_ne!(first.key, other.key);
    }

    #[test]
    fn the_tenth_message_of_a_kind_is_combined() {
        let mut correlator = Correlator::default();
        let all: Vec<_> = (0..12).filter_map(|i| tell(&mut correlator, &format!("m{i}"), 1)).collect();
        assert_eq!(all[8], ("m8".into(), 1));
        assert_eq!(all[9], (format!("{COMBINED}m9"), 1));
        assert_eq!(all[11], (format!("{COMBINED}m11"), 3));
        assert_eq!(tell(&mut correlator, "m12", 2 + SIMILAR_SECONDS), Some(("m12".into(), 1)), "after a silence");
    }

    #[test]
    fn one_object_has_a_budget() {
        let mut correlator = Correlator::default();
        let written = (0..100).filter(|i| tell(&mut correlator, &format!("m{i}"), 1).is_some()).count();
        assert_eq!(written, 25);
        assert!(correlator.correlate(told("db", "m", 1)).is_some(), "another object has its own");
        assert_eq!(tell(&mut correlator, "m", 299), None);
        assert!(tell(&mut correlator, "m", 302).is_some());
    }
}
