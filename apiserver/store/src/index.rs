//! Writes, in order -> what is current, and the recent past: the part that `memory` and `redb` share.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::Arc,
};

use tokio::sync::mpsc;

use crate::{Entry, Error, Event, Expect, Op, Outcome, Page, Range, Rev, Txn};

/// Recent events kept for watches that resume and for reads of the recent past.
const HISTORY_BYTES_MAX: usize = 8 << 20;
/// Commits a watcher may fall behind before it is cut.
const WATCHER_QUEUE_MAX: usize = 4096;
/// etcd's default limit on a request.
pub(crate) const TXN_BYTES_MAX: usize = 3 << 20;

/// The state after some revision. Only what is durable is in here.
#[derive(Default)]
pub(crate) struct Index {
    rev: Rev,
    /// History reaches back to here: events with a revision above it are all in `history`.
    floor: Rev,
    current: BTreeMap<Arc<str>, Entry>,
    history: VecDeque<Arc<Vec<Event>>>,
    history_bytes: usize,
    watchers: Vec<Watcher>,
}

/// Transactions that are accepted but not yet durable: later ones of the same batch see them.
#[derive(Default)]
pub(crate) struct Staged {
    pub batches: Vec<Arc<Vec<Event>>>,
    over: HashMap<Arc<str>, Option<Entry>>,
}

/// The transactions of one commit: a watcher hears of them at once, and is woken once.
pub(crate) type Commit = Arc<[Arc<Vec<Event>>]>;
pub(crate) type Commits = mpsc::Receiver<Commit>;

struct Watcher {
    prefix: String,
    queue: mpsc::Sender<Commit>,
}

impl Index {
    pub fn load(entries: impl Iterator<Item = Entry>, rev: Rev) -> Self {
        let current = entries.map(|e| (e.key.clone(), e)).collect();
        Self { rev, floor: rev, current, ..Self::default() }
    }

    pub fn rev(&self) -> Rev {
        self.rev
    }

    pub fn get(&self, key: &str) -> Option<&Entry> {
        self.current.get(key)
    }

    /// Checks one transaction against what is current and staged, and stages its events.
    pub fn stage(&self, staged: &mut Staged, txn: Txn) -> Outcome {
        let found: Vec<Option<&Entry>> = txn.expect.iter().map(|(key, _)| self.staged(staged, key)).collect();
        let holds = txn.expect.iter().zip(&found).all(|((_, expect), entry)| match (expect, entry) {
            (Expect::Absent, None) => true,
            (Expect::At(rev), Some(entry)) => entry.rev == *rev,
            _ => false,
        });
        let newest = self.rev + staged.batches.len() as Rev;
        if !holds {
            return Outcome::Refused { found: found.into_iter().map(|e| e.cloned()).collect(), rev: newest };
        }
        let rev = newest + 1;
        let events: Vec<Event> = txn.ops.into_iter().filter_map(|op| self.event(staged, op, rev)).collect();
        if events.is_empty() {
            return Outcome::Done(newest);
        }
        for event in &events {
            let after = match event {
                Event::Put { entry, .. } => Some(entry.clone()),
                Event::Delete { .. } => None,
            };
            staged.over.insert(event.key().clone(), after);
        }
        staged.batches.push(Arc::new(events));
        Outcome::Done(rev)
    }

    /// Makes staged transactions current and tells the watchers. Call only once they are durable.
    pub fn publish(&mut self, batches: Vec<Arc<Vec<Event>>>) -> Commit {
        let commit: Commit = batches.into();
        for batch in commit.iter() {
            self.rev += 1;
            for event in batch.iter() {
                self.history_bytes += event.cost();
                match event {
                    Event::Put { entry, .. } => drop(self.current.insert(entry.key.clone(), entry.clone())),
                    Event::Delete { key, .. } => drop(self.current.remove(key)),
                }
            }
            self.history.push_back(batch.clone());
        }
        self.watchers.retain(|w| w.offer(&commit));
        while self.history_bytes > HISTORY_BYTES_MAX && self.forget_oldest() {}
        commit
    }

    /// All transactions after `after`.
    pub fn since(&self, after: Rev) -> Result<impl Iterator<Item = &Arc<Vec<Event>>>, Error> {
        if after < self.floor {
            return Err(Error::Compacted { oldest: self.floor });
        }
        Ok(self.history.iter().skip(usize::try_from(after - self.floor).unwrap_or(usize::MAX)))
    }

    pub fn compact(&mut self, rev: Rev) {
        while self.floor < rev.min(self.rev) && self.forget_oldest() {}
    }

    /// Everything after `after` that is still remembered, and all that follows.
    pub fn watch(&mut self, prefix: &str, after: Rev) -> Result<(Vec<Event>, Commits), Error> {
        let missed = self.since(after)?.flat_map(|b| b.iter()).filter(|e| e.key().starts_with(prefix)).cloned().collect();
        let (queue, commits) = mpsc::channel(WATCHER_QUEUE_MAX);
        self.watchers.retain(|w| !w.queue.is_closed());
        self.watchers.push(Watcher { prefix: prefix.to_owned(), queue });
        Ok((missed, commits))
    }

    /// Ends all watches.
    pub fn close(&mut self) {
        self.watchers.clear();
    }

    pub fn range(&self, range: &Range) -> Result<Page, Error> {
        let rev = range.at.unwrap_or(self.rev);
        if rev > self.rev {
            return Err(Error::Future { newest: self.rev });
        }
        if rev < self.floor {
            return Err(Error::Compacted { oldest: self.floor });
        }
        let undone = self.undone(&range.prefix, rev);
        let mut then = self.in_prefix(range, &undone);
        let limit = if range.limit == 0 { usize::MAX } else { range.limit };
        let entries: Vec<Entry> = then.by_ref().take(limit).collect();
        Ok(Page { entries, rev, remaining: then.count() })
    }

    /// For every key that changed after `rev`: what stood there at `rev`.
    fn undone(&self, prefix: &str, rev: Rev) -> BTreeMap<Arc<str>, Option<Entry>> {
        let mut then = BTreeMap::new();
        let newer = usize::try_from(self.rev - rev).unwrap_or(usize::MAX);
        for event in self.history.iter().rev().take(newer).flat_map(|b| b.iter()).filter(|e| e.key().starts_with(prefix)) {
            let (Event::Put { prev, .. } | Event::Delete { prev, .. }) = event;
            then.insert(event.key().clone(), prev.clone());
        }
        then
    }

    fn in_prefix<'a>(&'a self, range: &'a Range, undone: &'a BTreeMap<Arc<str>, Option<Entry>>) -> Box<dyn Iterator<Item = Entry> + 'a> {
        use std::ops::Bound::{Excluded, Included, Unbounded};
        let from = match &range.after {
            Some(after) => Excluded(after.as_str()),
            None => Included(range.prefix.as_str()),
        };
        let now = self.current.range::<str, _>((from, Unbounded)).take_while(|(k, _)| k.starts_with(&range.prefix)).map(|(_, e)| e.clone());
        if undone.is_empty() {
            return Box::new(now);
        }
        let mut merged: BTreeMap<Arc<str>, Entry> = now.map(|e| (e.key.clone(), e)).collect();
        for (key, entry) in undone.range::<str, _>((from, Unbounded)) {
            match entry {
                Some(entry) => drop(merged.insert(key.clone(), entry.clone())),
                None => drop(merged.remove(key)),
            }
        }
        Box::new(merged.into_values())
    }

    fn staged<'a>(&'a self, staged: &'a Staged, key: &str) -> Option<&'a Entry> {
        match staged.over.get(key) {
            Some(entry) => entry.as_ref(),
            None => self.current.get(key),
        }
    }

    fn event(&self, staged: &Staged, op: Op, rev: Rev) -> Option<Event> {
        match op {
            Op::Put { key, value, .. } => {
                let prev = self.staged(staged, &key).cloned();
                let key = prev.as_ref().map_or_else(|| Arc::from(key), |p| p.key.clone());
                Some(Event::Put { entry: Entry { key, value, rev }, prev })
            }
            Op::Delete { key } => {
                let prev = self.staged(staged, &key).cloned()?;
                Some(Event::Delete { key: prev.key.clone(), rev, prev: Some(prev) })
            }
        }
    }

    fn forget_oldest(&mut self) -> bool {
        let Some(batch) = self.history.pop_front() else { return false };
        self.floor += 1;
        self.history_bytes -= batch.iter().map(Event::cost).sum::<usize>();
        true
    }
}

impl Watcher {
    /// False cuts the watcher: it is gone, or too slow to wait for.
    fn offer(&self, commit: &Commit) -> bool {
        if !commit.iter().flat_map(|b| b.iter()).any(|e| e.key().starts_with(&self.prefix)) {
            return true;
        }
        self.queue.try_send(commit.clone()).is_ok()
    }
}

impl Event {
    pub fn key(&self) -> &Arc<str> {
        match self {
            Event::Put { entry, .. } => &entry.key,
            Event::Delete { key, .. } => key,
        }
    }

    pub fn rev(&self) -> Rev {
        match self {
            Event::Put { entry, .. } => entry.rev,
            Event::Delete { rev, .. } => *rev,
        }
    }

    /// Bytes this event keeps alive, about.
    fn cost(&self) -> usize {
        let size = |e: &Entry| e.key.len() + e.value.len();
        let (new, prev) = match self {
            Event::Put { entry, prev } => (size(entry), prev),
            Event::Delete { key, prev, .. } => (key.len(), prev),
        };
        new + prev.as_ref().map_or(0, size) + 64
    }
}
