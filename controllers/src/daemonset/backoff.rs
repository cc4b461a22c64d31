//! Pods of a daemon that failed -> which may be replaced now, and how long the others wait: each time on one node twice as long.
//!
//! Source: client-go `util/flowcontrol/backoff.go`, as `pkg/controller/daemon` asks it: who fights with a node that refuses its pods must not do so
//! as fast as it can.

use std::{
    collections::{BTreeMap, HashMap},
    time::Duration,
};

use api::Key;
use parking_lot::Mutex;

const FIRST: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(15 * 60);

/// By `DaemonSet`: bounded by the nodes that its pods failed on, and forgotten with it.
#[derive(Default)]
pub struct Backoffs {
    sets: Mutex<HashMap<Key, OfSet>>,
}

#[derive(Default)]
struct OfSet {
    /// Whose: its uid, and the generation it has come to. Another has begun anew.
    of: (String, i64),
    nodes: BTreeMap<String, Backoff>,
}

#[derive(Clone, Copy)]
struct Backoff {
    delay: Duration,
    since: Duration,
}

impl Backoffs {
    /// `failed`: pod and node of each, in order; `now`: by a clock that is never set. How long each of these pods that must wait waits; the
    /// others count as replaced.
    pub fn waits(&self, key: &Key, of: (&str, i64), failed: &[(String, String)], now: Duration) -> BTreeMap<String, Duration> {
        let mut sets = self.sets.lock();
        if failed.is_empty() && !sets.contains_key(key) {
            return BTreeMap::new();
        }
        let set = sets.entry(key.clone()).or_default();
        if (set.of.0.as_str(), set.of.1) != of {
            *set = OfSet { of: (of.0.to_owned(), of.1), nodes: BTreeMap::new() };
        }
        set.nodes.retain(|_, backoff| now.saturating_sub(backoff.since) <= 2 * LONGEST);
        let mut waits = BTreeMap::new();
        for (pod, node) in failed {
            match set.nodes.get_mut(node) {
                Some(backoff) if now.saturating_sub(backoff.since) < backoff.delay => {
                    waits.insert(pod.clone(), backoff.delay - now.saturating_sub(backoff.since));
                }
                Some(backoff) => *backoff = Backoff { delay: (backoff.delay * 2).min(LONGEST), since: now },
                None => drop(set.nodes.insert(node.clone(), Backoff { delay: FIRST, since: now })),
            }
        }
        if set.nodes.is_empty() {
            sets.remove(key);
        }
        waits
    }

    pub fn forget(&self, key: &Key) {
        self.sets.lock().remove(key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_that_refuses_is_asked_ever_more_seldom() {
        let (backoffs, key) = (Backoffs::default(), Key::new("d", "a"));
        let failed = [("p".to_owned(), "n".to_owned())];
        let waits = |generation: i64, second: u64| {
            backoffs.waits(&key, ("u", generation), &failed, Duration::from_secs(second)).get("p").map(Duration::as_secs)
        };
        assert_eq!([0, 0, 1, 2, 3, 6, 7].map(|second| waits(1, second)), [None, Some(1), None, Some(1), None, Some(1), None]);
        assert_eq!(waits(2, 7), None, "another generation begins anew");
        let mut now = 7;
        for _ in 0..30 {
            now += waits(2, now).unwrap();
            assert_eq!(waits(2, now), None);
        }
        assert_eq!(waits(2, now), Some(LONGEST.as_secs()));
        assert_eq!(waits(2, now + 2 * LONGEST.as_secs() + 1), None);
        assert_eq!(waits(2, now + 2 * LONGEST.as_secs() + 2), None, "it was forgiven");
        backoffs.forget(&key);
        assert!(backoffs.sets.lock().is_empty());
    }

    #[test]
    fn the_second_of_a_node_waits_and_others_do_not() {
        let (backoffs, key) = (Backoffs::default(), Key::new("d", "a"));
        let failed = [("p", "n"), ("q", "n"), ("r", "m")].map(|(pod, node)| (pod.to_owned(), node.to_owned()));
        let waits = backoffs.waits(&key, ("u", 1), &failed, Duration::ZERO);
        assert_eq!(waits.keys().collect::<Vec<_>>(), ["q"]);
        assert!(backoffs.waits(&key, ("u", 1), &[], 3 * LONGEST).is_empty());
        assert!(backoffs.sets.lock().is_empty(), "nothing is left of what is long ago");
    }
}
