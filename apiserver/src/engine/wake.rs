//! Changes -> the watchers they can concern. Who watches one value of one field sleeps through all others.

use std::{collections::HashMap, sync::Arc};

use parking_lot::Mutex;
use tokio::sync::watch;

use super::{ring::Event, select::Source};
use crate::kind::Kind;

/// How many values are kept before those are looked for that nobody waits for any more.
const SWEEP_MIN: usize = 64;

pub(crate) struct Wakes {
    all: watch::Sender<u64>,
    keyed: Mutex<Keyed>,
}

/// By a field, and by the value of it that a watcher waits for.
#[derive(Default)]
struct Keyed {
    by_field: HashMap<Source, HashMap<Box<str>, watch::Sender<u64>>>,
    values: usize,
    sweep_at: usize,
}

/// Whom to wake besides those whom the events concern.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sleepers {
    Left,
    /// The ring turns over: who sleeps on would be cut.
    Woken,
}

impl Wakes {
    pub fn new() -> Self {
        Self { all: watch::Sender::new(0), keyed: Mutex::default() }
    }

    /// Hears of changes to objects of this value, or of every change.
    pub fn subscribe(&self, interest: Option<(Source, &str)>) -> watch::Receiver<u64> {
        let Some((source, value)) = interest else { return self.all.subscribe() };
        self.keyed.lock().subscribe(source, value)
    }

    /// The ring has grown to `end` by `events`.
    pub fn wake(&self, kind: &Kind, events: &[Arc<Event>], end: u64, sleepers: Sleepers) {
        self.all.send_replace(end);
        let keyed = self.keyed.lock();
        if sleepers == Sleepers::Woken {
            for sender in keyed.by_field.values().flat_map(HashMap::values) {
                sender.send_replace(end);
            }
            return;
        }
        for (source, senders) in &keyed.by_field {
            for object in events.iter().flat_map(|event| event.old.iter().chain(&event.new)) {
                if let Some(sender) = senders.get(source.value(kind, object)) {
                    sender.send_replace(end);
                }
            }
        }
    }
}

impl Keyed {
    fn subscribe(&mut self, source: Source, value: &str) -> watch::Receiver<u64> {
        if let Some(sender) = self.by_field.get(&source).and_then(|senders| senders.get(value)) {
            return sender.subscribe();
        }
        if self.values >= self.sweep_at {
            self.sweep();
        }
        let (sender, receiver) = watch::channel(0);
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
