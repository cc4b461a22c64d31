//! Keys that were woken -> keys that may run: each once, one run at a time, resting where it must.

use std::{
    collections::{BTreeMap, HashMap, HashSet, VecDeque},
    sync::Arc,
    time::{Duration, Instant},
};

use api::{GroupResource, Key, steps};
use parking_lot::Mutex;
use rand::Rng;
use tokio::sync::Notify;

use crate::told::{self, Standing, Told};

const BACKOFF_MIN: Duration = Duration::from_millis(5);
const BACKOFF_MAX: Duration = Duration::from_secs(60);

/// What a key wrote last: per resource, the revision that the caches must have seen before it may run again.
pub(crate) type Written = Vec<(GroupResource, u64)>;

/// Bounded by the number of objects: a key stands in here once.
#[derive(Default)]
pub(crate) struct Queue {
    inner: Mutex<Inner>,
    pub woken: Notify,
}

#[derive(Default)]
struct Inner {
    /// Since when, on the machine's clock: for who looks at it from outside.
    ready: VecDeque<(Key, Instant)>,
    queued: HashSet<Key>,
    running: HashMap<Key, Instant>,
    /// Woken while running, held or resting: runs again afterwards.
    dirty: HashSet<Key>,
    held: HashMap<Key, Hold>,
    /// By resource, by revision: the keys that wait for it, each with the stamp of its hold.
    awaited: HashMap<GroupResource, Awaited>,
    stamp: u64,
    /// Until [`Queue::rested`].
    resting: HashSet<Key>,
    failures: HashMap<Key, u32>,
    told: Option<Told>,
}

/// By revision: who waits for it.
type Awaited = BTreeMap<u64, Vec<(Key, u64)>>;

/// A key that waits for the caches.
struct Hold {
    /// Others of the key's are over.
    stamp: u64,
    /// Resources of which the caches have not seen enough.
    left: usize,
}

impl Queue {
    /// One that is on the page of metrics, under the name of the controller's queue.
    pub fn of(controller: &'static str) -> Arc<Self> {
        let (this, name) = (Arc::new(Self::default()), told::queue_name(controller));
        this.inner.lock().told = Some(Told::new(&name));
        let followed = Arc::downgrade(&this);
        told::follow(name, move || followed.upgrade().map(|queue| queue.standing()));
        this
    }

    pub fn standing(&self) -> Standing {
        let inner = self.inner.lock();
        let took = || inner.running.values().map(Instant::elapsed);
        Standing { depth: inner.ready.len(), unfinished: took().sum(), longest: took().max().unwrap_or_default() }
    }

    pub fn wake(&self, key: Key) {
        self.wake_as(key, false);
    }

    /// As [`Queue::wake`], before all others that wait; one that waits already keeps its place.
    pub fn wake_first(&self, key: Key) {
        self.wake_as(key, true);
    }

    fn wake_as(&self, key: Key, is_first: bool) {
        let mut inner = self.inner.lock();
        let waiting = inner.queued.len() + inner.dirty.len();
        let is_ready = inner.wake(key);
        if is_ready && is_first {
            inner.ready.rotate_right(1);
        }
        if let Some(told) = inner.told.as_ref().filter(|_| inner.queued.len() + inner.dirty.len() > waiting) {
            told.added();
        }
        drop(inner);
        if is_ready {
            self.woken.notify_one();
        }
    }

    /// The next key to run; it counts as running until [`Queue::finish`].
    pub fn next(&self) -> Option<Key> {
        let mut inner = self.inner.lock();
        let (key, since) = inner.ready.pop_front()?;
        inner.queued.remove(&key);
        let now = Instant::now();
        if let Some(told) = &inner.told {
            told.waited(now - since);
        }
        inner.running.insert(key.clone(), now);
        Some(key)
    }

    /// From the end of its run on, the key runs no more until [`Queue::rested`]: what happens meanwhile is seen in one look.
    pub fn rest(&self, key: &Key) {
        self.inner.lock().resting.insert(key.clone());
    }

    /// The rest is over: a key that was woken meanwhile goes on.
    pub fn rested(&self, key: &Key) {
        let mut inner = self.inner.lock();
        inner.resting.remove(key);
        let due = !inner.running.contains_key(key) && !inner.held.contains_key(key) && inner.dirty.remove(key);
        if due && inner.wake(key.clone()) {
            self.woken.notify_one();
        }
    }

    /// Ends the rest of a key that somebody changed himself: he waits for it.
    pub fn hurry(&self, key: &Key) {
        if self.inner.lock().resting.contains(key) {
            self.rested(key);
        }
    }

    /// The run is over; `pending` is what the caches have not seen yet of what it wrote.
    pub fn finish(&self, key: &Key, pending: Written) {
        let mut inner = self.inner.lock();
        let since = inner.running.remove(key);
        if let (Some(told), Some(since)) = (&inner.told, since) {
            told.worked(since.elapsed());
        }
        if !pending.is_empty() {
            inner.hold(key, pending);
        } else if !inner.resting.contains(key) && inner.dirty.remove(key) && inner.wake(key.clone()) {
            self.woken.notify_one();
        }
    }

    /// The caches have seen `resource` up to `rev`: keys that waited for it go on.
    pub fn seen(&self, resource: &GroupResource, rev: u64) {
        let mut inner = self.inner.lock();
        if inner.held.is_empty() {
            inner.awaited.clear();
            return;
        }
        for (key, stamp) in inner.reached(resource, rev) {
            let Some(hold) = inner.held.get_mut(&key).filter(|hold| hold.stamp == stamp) else { continue };
            hold.left = hold.left.saturating_sub(1);
            if hold.left > 0 {
                continue;
            }
            inner.held.remove(&key);
            // Its own writes changed what it looks at: it has to see them, woken or not.
            inner.dirty.remove(&key);
            inner.wake(key);
            self.woken.notify_one();
        }
    }

    /// Lets a key go on although the caches have not seen its writes; true if it was held.
    pub fn release(&self, key: &Key) -> bool {
        let mut inner = self.inner.lock();
        let held = inner.held.remove(key).is_some();
        if held {
            inner.dirty.remove(key);
            inner.wake(key.clone());
            self.woken.notify_one();
        }
        held
    }

    /// How long to wait before the next try; longer with each failure in a row.
    pub fn failed(&self, key: &Key) -> Duration {
        let mut inner = self.inner.lock();
        if let Some(told) = &inner.told {
            told.retried();
        }
        let failures = inner.failures.entry(key.clone()).or_insert(0);
        let wait = BACKOFF_MIN.saturating_mul(1u32.checked_shl(*failures).unwrap_or(u32::MAX)).min(BACKOFF_MAX);
        *failures = failures.saturating_add(1);
        wait.mul_f64(rand::rng().random_range(0.75..1.25))
    }

    pub fn succeeded(&self, key: &Key) {
        self.inner.lock().failures.remove(key);
    }
}

impl Inner {
    fn hold(&mut self, key: &Key, pending: Written) {
        self.stamp += 1;
        self.held.insert(key.clone(), Hold { stamp: self.stamp, left: pending.len() });
        for (resource, rev) in pending {
            self.awaited.entry(resource).or_default().entry(rev).or_default().push((key.clone(), self.stamp));
        }
    }

    /// Who waited for the resource at a revision up to this.
    fn reached(&mut self, resource: &GroupResource, rev: u64) -> Vec<(Key, u64)> {
        let Some(waiting) = self.awaited.get_mut(resource) else { return Vec::new() };
        let mut out = Vec::new();
        while let Some(first) = waiting.first_entry().filter(|first| *first.key() <= rev) {
            out.append(&mut first.remove());
        }
        steps::took(out.len());
        out
    }

    /// True if a key became ready.
    fn wake(&mut self, key: Key) -> bool {
        if self.running.contains_key(&key) || self.held.contains_key(&key) || self.resting.contains(&key) {
            self.dirty.insert(key);
            return false;
        }
        let fresh = self.queued.insert(key.clone());
        if fresh {
            self.ready.push_back((key, Instant::now()));
        }
        fresh
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pods() -> GroupResource {
        GroupResource::new("", "pods")
    }

    fn key(name: &str) -> Key {
        Key::new("d", name)
    }

    #[test]
    fn a_key_is_queued_once_and_never_runs_twice_at_a_time() {
        let queue = Queue::default();
        queue.wake(key("a"));
        queue.wake(key("a"));
        assert_eq!(queue.next(), Some(key("a")));
        assert_eq!(queue.next(), None);
        queue.wake(key("a"));
        assert_eq!(queue.next(), None, "it runs");
        queue.finish(&key("a"), vec![]);
        assert_eq!(queue.next(), Some(key("a")), "woken while it ran");
        queue.finish(&key("a"), vec![]);
        assert_eq!(queue.next(), None);
    }

    #[test]
    fn what_matters_much_runs_before_what_waits() {
        let queue = Queue::default();
        ["a", "b"].into_iter().for_each(|name| queue.wake(key(name)));
        queue.wake_first(key("c"));
        queue.wake_first(key("b"));
        let order: Vec<_> = std::iter::from_fn(|| queue.next()).collect();
        assert_eq!(order, [key("c"), key("a"), key("b")]);
        queue.wake_first(key("a"));
        assert_eq!(queue.next(), None, "it runs");
    }

    #[test]
    fn a_key_rests_until_its_writes_were_seen() {
        let queue = Queue::default();
        queue.wake(key("a"));
        queue.next();
        queue.finish(&key("a"), vec![(pods(), 7), (pods(), 9)]);
        queue.wake(key("a"));
        queue.seen(&pods(), 8);
        queue.seen(&GroupResource::new("", "nodes"), 99);
        // Of the same plural, but of another group.
        queue.seen(&GroupResource::new("example.test", "pods"), 99);
        assert_eq!(queue.next(), None);
        queue.seen(&pods(), 9);
        assert_eq!(queue.next(), Some(key("a")));
    }

    #[test]
    fn a_key_that_rests_sees_all_that_happened_in_one_run() {
        let queue = Queue::default();
        let run = |pending| {
            assert_eq!(queue.next(), Some(key("a")));
            queue.rest(&key("a"));
            queue.finish(&key("a"), pending);
        };
        queue.wake(key("a"));
        run(vec![]);
        queue.rested(&key("a"));
        assert_eq!(queue.next(), None, "nothing happened");
        queue.wake(key("a"));
        run(vec![]);
        queue.wake(key("a"));
        queue.wake(key("a"));
        assert_eq!(queue.next(), None, "it rests");
        queue.rested(&key("a"));
        run(vec![(pods(), 7)]);
        queue.rested(&key("a"));
        assert_eq!(queue.next(), None, "its own writes were not seen");
        queue.seen(&pods(), 7);
        run(vec![(pods(), 9)]);
        queue.seen(&pods(), 9);
        assert_eq!(queue.next(), None, "they were, but it rests");
        queue.hurry(&key("a"));
        assert_eq!(queue.next(), Some(key("a")), "somebody is waiting");
    }

    #[test]
    fn failures_back_off_and_are_forgiven() {
        let queue = Queue::default();
        let waits: Vec<Duration> = (0..30).map(|_| queue.failed(&key("a"))).collect();
        assert!(waits[0] < Duration::from_millis(10));
        assert!(waits[29] >= Duration::from_secs(40) && waits[29] <= BACKOFF_MAX.mul_f64(1.25));
        queue.succeeded(&key("a"));
        assert!(queue.failed(&key("a")) < Duration::from_millis(10));
    }
}
