//! A value -> the one copy of it in this process, for as long as somebody holds it.

use std::{
    collections::BTreeMap,
    fmt,
    hash::{BuildHasher, RandomState},
    ops::Deref,
    sync::{Arc, LazyLock, Weak},
};

use parking_lot::Mutex;
use serde::{Serialize, Serializer};

/// Reads as the value itself. Equal ones that are held at one time are one.
pub struct Shared<T>(Arc<T>);

/// What is often equal. A static is needed: values are shared as they are decoded, where nothing else is at hand.
pub trait Pooled: PartialEq + Serialize + Send + Sync + 'static {
    fn pool() -> &'static Pool<Self>;
}

/// By a hash of what is said. Those that are gone are swept out each time the number of entries has doubled.
pub struct Pool<T: ?Sized>(Mutex<Known<T>>);

struct Known<T: ?Sized> {
    by_hash: BTreeMap<u64, Weak<T>>,
    sweep_at: usize,
}

/// Few enough to leave alone.
const SWEEP_MIN: usize = 64;

impl<T: Pooled> Shared<T> {
    pub fn new(value: T) -> Self {
        let hash = hash(&value);
        let mut known = T::pool().0.lock();
        match known.by_hash.get(&hash).and_then(Weak::upgrade) {
            Some(same) if *same == value => return Self(same),
            // Two values of one hash: the newer is kept apart.
            Some(_) => return Self(Arc::new(value)),
            None => {}
        }
        let fresh = Arc::new(value);
        known.by_hash.insert(hash, Arc::downgrade(&fresh));
        known.sweep();
        Self(fresh)
    }
}

impl<T> Pool<T> {
    pub(super) const fn new() -> Self {
        Self(Mutex::new(Known { by_hash: BTreeMap::new(), sweep_at: SWEEP_MIN }))
    }
}

impl<T> Known<T> {
    fn sweep(&mut self) {
        if self.by_hash.len() >= self.sweep_at {
            self.by_hash.retain(|_, held| held.strong_count() > 0);
            self.sweep_at = SWEEP_MIN.max(self.by_hash.len() * 2);
        }
    }
}

/// Of the value as JSON, which is not kept: of one text, for many small ones take longer.
fn hash(value: &impl Serialize) -> u64 {
    static KEYS: LazyLock<RandomState> = LazyLock::new(RandomState::new);
    let text = serde_json::to_vec(value).expect("a part of a Kubernetes object is JSON");
    KEYS.hash_one(text)
}

impl<T> Deref for Shared<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

impl<T> Clone for Shared<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<T: Pooled + Default> Default for Shared<T> {
    fn default() -> Self {
        Self::new(T::default())
    }
}

impl<T: PartialEq> PartialEq for Shared<T> {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0) || self.0 == other.0
    }
}

impl<T: fmt::Debug> fmt::Debug for Shared<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl<T: Serialize> Serialize for Shared<T> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(to)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(PartialEq, Serialize)]
    struct Word(String);

    impl Pooled for Word {
        fn pool() -> &'static Pool<Self> {
            static POOL: Pool<Word> = Pool::new();
            &POOL
        }
    }

    #[test]
    fn equal_values_are_one_and_are_forgotten_with_their_last_holder() {
        let word = |n: usize| Shared::new(Word(n.to_string()));
        let (a, b, c) = (word(1), word(1), word(2));
        assert!(Arc::ptr_eq(&a.0, &b.0) && !Arc::ptr_eq(&a.0, &c.0));
        (0..10_000).for_each(|n| drop(word(n)));
        let known = Word::pool().0.lock();
        assert!(known.by_hash.len() <= 2 * SWEEP_MIN, "{}", known.by_hash.len());
        assert_eq!(known.by_hash.values().filter(|held| held.strong_count() > 0).count(), 2);
    }
}
