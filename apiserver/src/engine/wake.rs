//! Changes -> the watchers they can concern: an index of the history by the values that somebody watches. Nobody looks at what is not theirs.

use std::{
    collections::{HashMap, VecDeque},
    ops::Range,
    sync::Arc,
};

use parking_lot::Mutex;

use super::{
    event_history::Event,
    select::{Interest, Source},
};
use crate::{kind::Kind, notify::Notifier};

/// How many values are kept before those are looked for that nobody watches any more.
const SWEEP_MIN: usize = 64;

pub(crate) struct Wakes {
    all: Arc<Topic>,
    keyed: Mutex<Keyed>,
}

/// By a field, and by the value of it that a watcher waits for.
#[derive(Default)]
struct Keyed {
    by_field: HashMap<Source, HashMap<Box<str>, Arc<Topic>>>,
    values: usize,
    sweep_at: usize,
}

/// The changes that the same watchers are told of.
#[derive(Default)]
pub(crate) struct Topic {
    pub marks: Mutex<Marks>,
    pub notifier: Notifier,
}

/// Where in the history the events of one value are: its watchers go from mark to mark, and all others' events pass them by. Who watches
/// everything has no marks.
#[derive(Default)]
pub(crate) struct Marks {
    /// Cursors into the history, rising.
    cursors: VecDeque<u64>,
    /// The number of the front mark.
    first: u64,
}

/// What has been pushed onto the history.
pub(crate) struct Pushed<'a> {
    pub events: &'a [Arc<Event>],
    /// Cursors: of all that the history holds now, the events at its end.
    pub held: Range<u64>,
}

impl Wakes {
    pub fn new() -> Self {
        Self { all: Arc::default(), keyed: Mutex::default() }
    }

    pub fn topic(&self, interest: Interest<'_>) -> Arc<Topic> {
        let Some((source, value)) = interest else { return self.all.clone() };
        self.keyed.lock().topic(source, value)
    }

    /// How many watch all, or all of `namespace`.
    pub fn count(&self, namespace: &str) -> usize {
        // One of each is ours.
        let of = |topic: &Arc<Topic>| Arc::strong_count(topic) - 1;
        let keyed = self.keyed.lock();
        of(&self.all) + keyed.by_field.get(&Source::Namespace).and_then(|topics| topics.get(namespace)).map_or(0, of)
    }

    /// Marks the events for those whom they concern, and wakes these, each once.
    pub fn wake(&self, kind: &Kind, pushed: &Pushed<'_>) {
        if pushed.events.is_empty() {
            return;
        }
        self.all.notifier.notify();
        let keyed = self.keyed.lock();
        for (source, topics) in &keyed.by_field {
            // All is marked first: who is woken earlier would be woken again.
            pushed.mark(kind, *source, topics).into_iter().for_each(|topic| topic.notifier.notify());
        }
    }

    /// The history has been reset: all who read it must begin anew.
    pub fn reset(&self) {
        self.all.notifier.notify();
        for topic in self.keyed.lock().by_field.values().flat_map(HashMap::values) {
            topic.marks.lock().reset();
            topic.notifier.notify();
        }
    }
}

impl Marks {
    /// The number behind the newest mark.
    pub fn end(&self) -> u64 {
        self.first + self.cursors.len() as u64
    }

    /// The cursors from mark `next` on; `None` where some of them are gone, and what they stood for.
    pub fn since(&self, next: u64) -> Option<impl Iterator<Item = u64>> {
        let skip = usize::try_from(next.checked_sub(self.first)?).unwrap_or(usize::MAX).min(self.cursors.len());
        Some(self.cursors.range(skip..).copied())
    }

    /// True for the first of the marks at or behind `batch`.
    fn push(&mut self, cursor: u64, kept: u64, batch: u64) -> bool {
        let is_first = self.cursors.back().is_none_or(|last| *last < batch);
        while self.cursors.front().is_some_and(|front| *front < kept) {
            self.cursors.pop_front();
            self.first += 1;
        }
        self.cursors.push_back(cursor);
        is_first
    }

    fn reset(&mut self) {
        self.first = self.end() + 1;
        self.cursors.clear();
    }
}

impl Pushed<'_> {
    /// Marks the events by one field; returns whose watchers are to be woken.
    fn mark<'t>(&self, kind: &Kind, source: Source, topics: &'t HashMap<Box<str>, Arc<Topic>>) -> Vec<&'t Topic> {
        let batch = self.held.end - self.events.len() as u64;
        let mut marked: Vec<&Topic> = Vec::new();
        for (event, cursor) in self.events.iter().zip(batch..) {
            let old = event.old.as_deref().map(|object| source.value(kind, object));
            let new = event.new.as_deref().map(|object| source.value(kind, object));
            for value in old.into_iter().chain(new.filter(|new| old != Some(*new))) {
                let Some(topic) = topics.get(value) else { continue };
                if topic.marks.lock().push(cursor, self.held.start, batch) {
                    marked.push(topic);
                }
            }
        }
        marked
    }
}

impl Keyed {
    fn topic(&mut self, source: Source, value: &str) -> Arc<Topic> {
        if let Some(topic) = self.by_field.get(&source).and_then(|topics| topics.get(value)) {
            return topic.clone();
        }
        if self.values >= self.sweep_at {
            self.sweep();
        }
        let topic = Arc::<Topic>::default();
        self.by_field.entry(source).or_default().insert(value.into(), topic.clone());
        self.values += 1;
        topic
    }

    fn sweep(&mut self) {
        for topics in self.by_field.values_mut() {
            topics.retain(|_, topic| Arc::strong_count(topic) > 1);
        }
        self.by_field.retain(|_, topics| !topics.is_empty());
        self.values = self.by_field.values().map(HashMap::len).sum();
        self.sweep_at = (self.values * 2).max(SWEEP_MIN);
    }
}
