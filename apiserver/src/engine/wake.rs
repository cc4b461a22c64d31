//! Changes -> the watchers they can concern: an index of the ring by the values that somebody watches. Nobody looks at what is not theirs.

use std::{
    collections::{HashMap, VecDeque},
    ops::Range,
    sync::Arc,
};

use parking_lot::Mutex;
use tokio::sync::watch;

use super::{ring::Event, select::Source};
use crate::kind::Kind;

/// How many values are kept before those are looked for that nobody watches any more.
const SWEEP_MIN: usize = 64;

pub(crate) struct Wakes {
    all: watch::Sender<Marks>,
    keyed: Mutex<Keyed>,
}

/// By a field, and by the value of it that a watcher waits for.
#[derive(Default)]
struct Keyed {
    by_field: HashMap<Source, HashMap<Box<str>, watch::Sender<Marks>>>,
    values: usize,
    sweep_at: usize,
}

/// Where in the ring the events of one value are: its watchers go from mark to mark, and all others' events pass them by. Who watches
/// everything has no marks.
#[derive(Default)]
pub(crate) struct Marks {
    /// Cursors into the ring, rising.
    cursors: VecDeque<u64>,
    /// The number of the front mark.
    first: u64,
}

/// What has been pushed onto the ring.
pub(crate) struct Pushed<'a> {
    pub events: &'a [Arc<Event>],
    /// Cursors: of all that the ring holds now, the events at its end.
    pub held: Range<u64>,
}

/// Who is told of changes: of those to objects with this value, or of all.
pub(crate) type Interest<'a> = Option<(Source, &'a str)>;

impl Wakes {
    pub fn new() -> Self {
        Self { all: watch::Sender::new(Marks::default()), keyed: Mutex::default() }
    }

    pub fn subscribe(&self, interest: Interest<'_>) -> watch::Receiver<Marks> {
        let Some((source, value)) = interest else { return self.all.subscribe() };
        self.keyed.lock().subscribe(source, value)
    }

    /// Marks the events for those whom they concern, and wakes these, each once.
    pub fn wake(&self, kind: &Kind, pushed: &Pushed<'_>) {
        if pushed.events.is_empty() {
            return;
        }
        self.all.send_modify(|_| ());
        let keyed = self.keyed.lock();
        for (source, senders) in &keyed.by_field {
            for sender in pushed.mark(kind, *source, senders) {
                sender.send_modify(|_| ());
            }
        }
    }

    /// The ring has been reset: all who read it must begin anew.
    pub fn reset(&self) {
        self.all.send_modify(|_| ());
        for sender in self.keyed.lock().by_field.values().flat_map(HashMap::values) {
            sender.send_modify(Marks::reset);
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
    /// Marks the events by one field; returns who is to be woken.
    fn mark<'s>(&self, kind: &Kind, source: Source, senders: &'s HashMap<Box<str>, watch::Sender<Marks>>) -> Vec<&'s watch::Sender<Marks>> {
        let batch = self.held.end - self.events.len() as u64;
        let mut woken = Vec::new();
        for (event, cursor) in self.events.iter().zip(batch..) {
            let old = event.old.as_deref().map(|object| source.value(kind, object));
            let new = event.new.as_deref().map(|object| source.value(kind, object));
            for value in old.into_iter().chain(new.filter(|new| old != Some(*new))) {
                let Some(sender) = senders.get(value) else { continue };
                let mut is_first = false;
                // Told later: who is woken now would be woken again by the next event.
                sender.send_if_modified(|marks| {
                    is_first = marks.push(cursor, self.held.start, batch);
                    false
                });
                if is_first {
                    woken.push(sender);
                }
            }
        }
        woken
    }
}

impl Keyed {
    fn subscribe(&mut self, source: Source, value: &str) -> watch::Receiver<Marks> {
        if let Some(sender) = self.by_field.get(&source).and_then(|senders| senders.get(value)) {
            return sender.subscribe();
        }
        if self.values >= self.sweep_at {
            self.sweep();
        }
        let (sender, receiver) = watch::channel(Marks::default());
        self.by_field.entry(source).or_default().insert(value.into(), sender);
        self.values += 1;
        receiver
    }

    fn sweep(&mut self) {
        for senders in self.by_field.values_mut() {
            senders.retain(|_, sender| sender.receiver_count() > 0);
        }
        self.by_field.retain(|_, senders| !senders.is_empty());
        self.values = self.by_field.values().map(HashMap::len).sum();
        self.sweep_at = (self.values * 2).max(SWEEP_MIN);
    }
}
