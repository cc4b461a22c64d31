//! Pods that want a node -> the one that is next.
//!
//! Ready pods by priority, then by age; refused pods wait for a change that a plugin that refused them finds helpful, and back off after each
//! try. Source: scheduler `backend/queue/scheduling_queue.go`. No clock: time comes in.

use std::{
    cmp::{Ordering, Reverse},
    collections::{BTreeSet, BinaryHeap, HashMap, HashSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use api::{Key, faults::catch, steps};
use tokio::time::Instant;

use crate::{
    framework::{Change, Freed, More, Plugin, Plugins, signature},
    pod::PodInfo,
};

const BACKOFF_MIN: Duration = Duration::from_secs(1);
const BACKOFF_MAX: Duration = Duration::from_secs(10);
/// A refused pod is tried again after so long, whatever happened.
const WAIT_MAX: Duration = Duration::from_secs(5 * 60);

/// Bounded by the number of unbound pods: each stands in here once.
pub struct Queue {
    plugins: Plugins,
    entries: HashMap<Key, Entry>,
    active_q: BinaryHeap<ActivePod>,
    backoff_q: BinaryHeap<Reverse<(Instant, u64, Key)>>,
    /// Those in `backoff_q` that may go before their time.
    early: BinaryHeap<Reverse<(Instant, u64, Key)>>,
    /// By what they have in common: what helps one of them helps all.
    unschedulable_pods: HashMap<Arc<[u8]>, HashSet<Key>>,
    /// In the order they were refused. Also those that left since: bounded by the refusals of [`WAIT_MAX`].
    flush: VecDeque<(Instant, u64, Key)>,
    stamp: u64,
}

/// A pod that is being tried, with how often it was.
#[derive(Clone, Debug)]
pub struct QueuedPodInfo {
    pub info: Arc<PodInfo>,
    pub attempts: u32,
    /// Since when it waits for a node.
    pub since: Instant,
}

/// How many pods wait, and for what.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pending {
    pub active: usize,
    pub backoff: usize,
    pub unschedulable: usize,
    pub gated: usize,
}

/// How a try ended that did not bind.
#[derive(Clone, Debug)]
pub enum Ended {
    /// Refused by these plugins; nobody: anything may help.
    Refused(BTreeSet<&'static str>),
    /// Refused, and victims are being deleted: it waits until that was done.
    Preempting(BTreeSet<&'static str>),
    /// It has a node, if these plugins permit it: until [`Queue::permitted`], changes are only remembered.
    Permitting(BTreeSet<&'static str>),
    /// Not carried out.
    Failed,
}

#[derive(Debug)]
struct Entry {
    info: Arc<PodInfo>,
    attempts: u32,
    since: Instant,
    /// The last try.
    tried: Option<Instant>,
    sub_queue: SubQueue,
    /// Of the one valid item in the heaps.
    stamp: u64,
    unschedulable_plugins: BTreeSet<&'static str>,
    /// Where it stands in `unschedulable_pods`, if it does.
    kin: Option<Arc<[u8]>>,
    /// It has its victims: it needs no others.
    preempts: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum SubQueue {
    Active,
    /// `early`: may go before its time when nothing else is ready.
    Backoff {
        early: bool,
    },
    Unschedulable,
    /// Has scheduling gates.
    Gated,
    /// Its victims are being deleted; `helped` if something changed meanwhile.
    Preempting {
        helped: bool,
    },
    /// It has a node and waits for its permit; `helped` as above.
    Permitting {
        helped: bool,
    },
}

#[derive(Debug, PartialEq, Eq)]
struct ActivePod {
    priority: i32,
    stamp: u64,
    key: Key,
}

impl Ord for ActivePod {
    fn cmp(&self, other: &Self) -> Ordering {
        (self.priority, Reverse(self.stamp), &self.key).cmp(&(other.priority, Reverse(other.stamp), &other.key))
    }
}

impl PartialOrd for ActivePod {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Queue {
    pub fn new(plugins: Plugins) -> Self {
        Self {
            plugins,
            entries: HashMap::new(),
            active_q: BinaryHeap::new(),
            backoff_q: BinaryHeap::new(),
            early: BinaryHeap::new(),
            unschedulable_pods: HashMap::new(),
            flush: VecDeque::new(),
            stamp: 0,
        }
    }

    /// A pod that is new, or that changed. What changed in its status alone wakes nobody.
    pub fn put(&mut self, info: Arc<PodInfo>, now: Instant) {
        let key = info.key.clone();
        let Some(entry) = self.entries.get_mut(&key).filter(|e| e.info.uid == info.uid) else {
            self.remove(&key);
            return self.insert(QueuedPodInfo { info, attempts: 0, since: now }, None, BTreeSet::new(), now);
        };
        let old = std::mem::replace(&mut entry.info, info);
        let changed = old.pod.spec != entry.info.pod.spec || old.labels() != entry.info.labels();
        match entry.sub_queue {
            _ if !changed => {}
            // Its place among the others may be another.
            SubQueue::Preempting { .. } => entry.sub_queue = SubQueue::Preempting { helped: true },
            SubQueue::Permitting { .. } => entry.sub_queue = SubQueue::Permitting { helped: true },
            _ => self.settle(&key, now),
        }
    }

    pub fn remove(&mut self, key: &Key) -> Option<Arc<PodInfo>> {
        self.wait_no_more(key);
        self.entries.remove(key).map(|e| e.info)
    }

    /// Looks at each pod that waits.
    pub fn pending(&self) -> Pending {
        let mut pending = Pending::default();
        for entry in self.entries.values() {
            let of_its_kind = match entry.sub_queue {
                SubQueue::Active => &mut pending.active,
                SubQueue::Backoff { .. } => &mut pending.backoff,
                SubQueue::Gated => &mut pending.gated,
                SubQueue::Unschedulable | SubQueue::Preempting { .. } | SubQueue::Permitting { .. } => &mut pending.unschedulable,
            };
            *of_its_kind += 1;
        }
        pending
    }

    /// The next pod; it leaves the queue until [`Queue::back`].
    pub fn pop(&mut self, now: Instant) -> Option<QueuedPodInfo> {
        self.flush(now);
        while let Some(ActivePod { stamp, key, .. }) = self.active_q.pop() {
            if self.is_current(&key, stamp) {
                return self.take(&key);
            }
        }
        // No pod is active: one that only backs off goes first.
        while let Some(Reverse((_, stamp, key))) = self.early.pop() {
            if self.is_current(&key, stamp) {
                return self.take(&key);
            }
        }
        None
    }

    /// The try ended without a binding.
    pub fn back(&mut self, tried: QueuedPodInfo, ended: Ended, now: Instant) {
        let key = tried.info.key.clone();
        match ended {
            Ended::Failed => {
                self.insert(tried, Some(now), BTreeSet::new(), now);
                self.rest(&key, now, SubQueue::Backoff { early: false });
            }
            Ended::Refused(unschedulable_plugins) => self.wait(tried, unschedulable_plugins, SubQueue::Unschedulable, now),
            Ended::Preempting(unschedulable_plugins) => {
                self.wait(tried, unschedulable_plugins, SubQueue::Preempting { helped: false }, now)
            }
            Ended::Permitting(permitting) => self.wait(tried, permitting, SubQueue::Permitting { helped: false }, now),
        }
    }

    /// The victims are gone, or could not be deleted (`failed`).
    pub fn preempted(&mut self, key: &Key, outcome: Result<(), ()>, now: Instant) {
        let Some(entry) = self.entries.get_mut(key) else { return };
        let SubQueue::Preempting { helped } = entry.sub_queue else { return };
        entry.sub_queue = SubQueue::Unschedulable;
        if helped || outcome.is_err() {
            self.settle(key, now);
        }
    }

    /// Its permit was given, or not. It leaves the queue; true if something changed meanwhile that those who permit find helpful.
    pub fn permitted(&mut self, info: &PodInfo) -> bool {
        let Some(entry) = self.entries.get(&info.key).filter(|e| e.info.uid == info.uid) else { return false };
        let SubQueue::Permitting { helped } = entry.sub_queue else { return false };
        self.remove(&info.key);
        helped
    }

    /// What could help a waiting pod happened already.
    pub fn wake(&mut self, key: &Key, now: Instant) {
        if self.is_unschedulable(key) {
            self.settle(key, now);
        }
    }

    /// Wakes the pods that the change could help. Costs O(kinds of refused pods), and what is woken.
    pub fn changed(&mut self, change: &Change<'_>, now: Instant) {
        let expected = if let Change::PodGone(_, Some(freed)) = change { freed.nominated } else { &[] };
        let is_helped = |key: &Key| self.entries.get(key).is_some_and(|e| e.queueing_hint(self.plugins, change));
        // For who is expected there the room means something else than for its kin.
        let mut helped: Vec<Key> =
            expected.iter().map(|p| &p.key).filter(|key| self.is_unschedulable(key) && is_helped(key)).cloned().collect();
        for kin in steps::counted(self.unschedulable_pods.values()) {
            let others = || kin.iter().filter(|key| !expected.iter().any(|p| p.key == **key));
            if others().next().is_some_and(is_helped) {
                helped.extend(others().cloned());
            }
        }
        for key in steps::counted(helped.into_iter()) {
            match self.entries.get_mut(&key) {
                Some(entry) if matches!(entry.sub_queue, SubQueue::Preempting { .. }) => {
                    entry.sub_queue = SubQueue::Preempting { helped: true }
                }
                Some(entry) if matches!(entry.sub_queue, SubQueue::Permitting { .. }) => {
                    entry.sub_queue = SubQueue::Permitting { helped: true }
                }
                _ => self.settle(&key, now),
            }
        }
    }

    /// When [`Queue::pop`] could give something that it does not give now.
    pub fn due(&self) -> Option<Instant> {
        let rested = self.backoff_q.peek().map(|Reverse((due, ..))| *due);
        let flushed = self.flush.front().map(|(since, ..)| *since + WAIT_MAX);
        rested.into_iter().chain(flushed).min()
    }

    fn insert(&mut self, tried: QueuedPodInfo, at: Option<Instant>, unschedulable_plugins: BTreeSet<&'static str>, now: Instant) {
        let key = tried.info.key.clone();
        self.wait_no_more(&key);
        let entry = Entry {
            info: tried.info,
            attempts: tried.attempts,
            since: tried.since,
            tried: at,
            sub_queue: SubQueue::Active,
            stamp: 0,
            unschedulable_plugins,
            kin: None,
            preempts: false,
        };
        self.entries.insert(key.clone(), entry);
        self.settle(&key, now);
    }

    fn wait(&mut self, tried: QueuedPodInfo, unschedulable_plugins: BTreeSet<&'static str>, sub_queue: SubQueue, now: Instant) {
        let key = tried.info.key.clone();
        self.wait_no_more(&key);
        self.stamp += 1;
        let (stamp, preempts) = (self.stamp, matches!(sub_queue, SubQueue::Preempting { .. }));
        let mut kin = format!("{preempts}{unschedulable_plugins:?}{}", tried.info.about_others()).into_bytes();
        kin.append(&mut signature(self.plugins, &tried.info));
        let kin: Arc<[u8]> = kin.into();
        let QueuedPodInfo { info, attempts, since } = tried;
        let (tried, kept) = (Some(now), Some(kin.clone()));
        let entry = Entry { info, attempts, since, tried, sub_queue, stamp, unschedulable_plugins, kin: kept, preempts };
        self.entries.insert(key.clone(), entry);
        self.unschedulable_pods.entry(kin).or_default().insert(key.clone());
        self.flush.push_back((now, self.stamp, key));
    }

    fn is_unschedulable(&self, key: &Key) -> bool {
        self.entries.get(key).is_some_and(|e| e.kin.is_some())
    }

    fn wait_no_more(&mut self, key: &Key) {
        let Some(kin) = self.entries.get_mut(key).and_then(|e| e.kin.take()) else { return };
        let Some(keys) = self.unschedulable_pods.get_mut(&kin) else { return };
        keys.remove(key);
        if keys.is_empty() {
            self.unschedulable_pods.remove(&kin);
        }
    }

    /// ActivePod if it has no gates and has rested.
    fn settle(&mut self, key: &Key, now: Instant) {
        self.wait_no_more(key);
        let Some(entry) = self.entries.get_mut(key) else { return };
        if entry.info.is_gated() {
            entry.sub_queue = SubQueue::Gated;
            return;
        }
        match entry.backoff_expires().filter(|due| *due > now) {
            Some(due) => self.move_to_backoff_q(key, due, SubQueue::Backoff { early: true }),
            None => self.move_to_active_q(key),
        }
    }

    fn rest(&mut self, key: &Key, now: Instant, sub_queue: SubQueue) {
        let due = self.entries.get(key).and_then(Entry::backoff_expires).unwrap_or(now);
        self.move_to_backoff_q(key, due, sub_queue);
    }

    fn move_to_backoff_q(&mut self, key: &Key, due: Instant, sub_queue: SubQueue) {
        self.stamp += 1;
        if let Some(entry) = self.entries.get_mut(key) {
            (entry.sub_queue, entry.stamp) = (sub_queue, self.stamp);
            self.backoff_q.push(Reverse((due, self.stamp, key.clone())));
            if sub_queue == (SubQueue::Backoff { early: true }) {
                self.early.push(Reverse((due, self.stamp, key.clone())));
            }
        }
    }

    fn move_to_active_q(&mut self, key: &Key) {
        self.stamp += 1;
        if let Some(entry) = self.entries.get_mut(key) {
            (entry.sub_queue, entry.stamp) = (SubQueue::Active, self.stamp);
            self.active_q.push(ActivePod { priority: entry.info.priority, stamp: self.stamp, key: key.clone() });
        }
    }

    /// Moves those whose time has come.
    fn flush(&mut self, now: Instant) {
        while let Some(Reverse((due, stamp, key))) = self.backoff_q.peek() {
            let (current, key) = (self.is_current(key, *stamp), key.clone());
            if current && *due > now {
                break;
            }
            self.backoff_q.pop();
            if current {
                self.move_to_active_q(&key);
            }
        }
        while self.early.peek().is_some_and(|Reverse((_, stamp, key))| !self.is_current(key, *stamp)) {
            self.early.pop();
        }
        while let Some((since, stamp, key)) = self.flush.front() {
            let current = self.is_current(key, *stamp);
            if current && *since + WAIT_MAX > now {
                break;
            }
            let key = key.clone();
            self.flush.pop_front();
            let permitting = self.entries.get(&key).is_some_and(|e| matches!(e.sub_queue, SubQueue::Permitting { .. }));
            if current && !permitting {
                self.settle(&key, now);
            }
        }
    }

    fn is_current(&self, key: &Key, stamp: u64) -> bool {
        self.entries.get(key).is_some_and(|e| e.stamp == stamp)
    }

    fn take(&mut self, key: &Key) -> Option<QueuedPodInfo> {
        let entry = self.entries.remove(key)?;
        Some(QueuedPodInfo { info: entry.info, attempts: entry.attempts + 1, since: entry.since })
    }
}

impl Entry {
    fn queueing_hint(&self, plugins: Plugins, change: &Change<'_>) -> bool {
        let change = &match *change {
            Change::PodGone(gone, Some(freed)) if self.preempts => Change::PodGone(gone, Some(Freed { more: More::AsItIs, ..freed })),
            other => other,
        };
        // One that panics knows nothing: the change may help.
        let hint = |plugin: &dyn Plugin| catch(plugin.name(), || plugin.queueing_hint(&self.info, change)).unwrap_or(true);
        let asked = |name: &&'static str| plugins.iter().any(|p| p.name() == *name && hint(*p));
        self.unschedulable_plugins.is_empty() || self.unschedulable_plugins.iter().any(asked)
    }

    /// When the rest after the last try is over: one second, doubled with each try.
    fn backoff_expires(&self) -> Option<Instant> {
        let doubled = BACKOFF_MIN.saturating_mul(1u32.checked_shl(self.attempts.saturating_sub(1)).unwrap_or(u32::MAX));
        Some(self.tried? + doubled.min(BACKOFF_MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{plugins::PLUGINS, tests::pod};
    use serde_json::json;

    fn named(name: &str, priority: i32) -> Arc<PodInfo> {
        Arc::new(pod(&json!({"metadata": {"name": name}, "spec": {"priority": priority}})))
    }

    fn popped(queue: &mut Queue, now: Instant) -> Option<String> {
        queue.pop(now).map(|t| t.info.key.name.clone())
    }

    fn secs(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    #[test]
    fn priority_then_age() {
        let (mut queue, now) = (Queue::new(PLUGINS), Instant::now());
        for (name, priority) in [("a", 0), ("b", 5), ("c", 0), ("d", 5)] {
            queue.put(named(name, priority), now);
        }
        queue.put(named("a", 0), now);
        let order: Vec<String> = std::iter::from_fn(|| popped(&mut queue, now)).collect();
        assert_eq!(order, ["b", "d", "a", "c"]);
    }

    #[test]
    fn the_refused_wait_for_what_helps_them() {
        let (mut queue, now) = (Queue::new(PLUGINS), Instant::now());
        queue.put(named("a", 0), now);
        let tried = queue.pop(now).unwrap();
        queue.back(tried, Ended::Refused(BTreeSet::from(["NodeResourcesFit"])), now);
        queue.changed(&Change::PodPlaced(&named("x", 0)), now);
        assert_eq!(popped(&mut queue, now + secs(1)), None);
        queue.changed(&Change::PodGone(&named("x", 0), None), now + secs(2));
        let tried = queue.pop(now + secs(2)).unwrap();
        assert_eq!(tried.attempts, 2);
        queue.back(tried, Ended::Refused(BTreeSet::from(["NodeResourcesFit"])), now);
        assert_eq!(queue.due(), Some(now + WAIT_MAX));
        assert_eq!(popped(&mut queue, now + WAIT_MAX), Some("a".into()), "after five minutes, whatever happened");
    }

    #[test]
    fn failures_rest_longer_each_time() {
        let (mut queue, mut now) = (Queue::new(PLUGINS), Instant::now());
        queue.put(named("a", 0), now);
        for rest in [1, 2, 4, 8, 10, 10] {
            let tried = queue.pop(now).unwrap();
            queue.back(tried, Ended::Failed, now);
            assert_eq!(popped(&mut queue, now + secs(rest) - Duration::from_millis(1)), None);
            now += secs(rest);
        }
    }

    #[test]
    fn the_woken_rest_only_while_others_are_ready() {
        let (mut queue, now) = (Queue::new(PLUGINS), Instant::now());
        queue.put(named("a", 9), now);
        let tried = queue.pop(now).unwrap();
        queue.back(tried, Ended::Refused(BTreeSet::new()), now);
        queue.changed(&Change::PodGone(&named("x", 0), None), now);
        queue.put(named("b", 0), now);
        assert_eq!(popped(&mut queue, now), Some("b".into()));
        assert_eq!(popped(&mut queue, now), Some("a".into()));
        assert_eq!(popped(&mut queue, now), None);
    }

    #[test]
    fn gates_are_waited_for() {
        let (mut queue, now) = (Queue::new(PLUGINS), Instant::now());
        let gated = |gates: serde_json::Value| Arc::new(pod(&json!({"metadata": {"name": "a"}, "spec": {"schedulingGates": gates}})));
        queue.put(gated(json!([{"name": "g"}])), now);
        queue.changed(&Change::PodGone(&named("x", 0), None), now);
        assert_eq!(popped(&mut queue, now + WAIT_MAX), None);
        queue.put(gated(json!([])), now);
        assert_eq!(popped(&mut queue, now), Some("a".into()));
    }

    #[test]
    fn a_preemptor_waits_for_its_victims() {
        let (mut queue, now) = (Queue::new(PLUGINS), Instant::now());
        queue.put(named("a", 0), now);
        let tried = queue.pop(now).unwrap();
        queue.back(tried, Ended::Preempting(BTreeSet::from(["NodeResourcesFit"])), now);
        queue.changed(&Change::PodGone(&named("x", 0), None), now);
        assert_eq!(popped(&mut queue, now), None, "the victims are still being deleted");
        queue.preempted(&Key::new("default", "a"), Ok(()), now);
        assert_eq!(popped(&mut queue, now), Some("a".into()));
    }

    #[test]
    fn a_pod_that_was_made_anew_starts_anew() {
        let (mut queue, now) = (Queue::new(PLUGINS), Instant::now());
        queue.put(named("a", 0), now);
        let tried = queue.pop(now).unwrap();
        queue.back(tried, Ended::Failed, now);
        let fresh = Arc::new(pod(&json!({"metadata": {"name": "a", "uid": "other"}})));
        queue.put(fresh, now);
        assert_eq!(queue.pop(now).map(|t| t.attempts), Some(1));
    }
}
