//! Changes -> the watchers they can concern. Who watches one value of one field sleeps through all others.

use std::{collections::HashMap, sync::Arc};

use parking_lot::Mutex;
use tokio::sync::watch;

use super::{object::Object, ring::Event, select::Source};
use crate::kind::Kind;

/// A field and the value of it that a watcher waits for.
type Interest = (Source, Box<str>);

pub(crate) struct Wakes {
    all: watch::Sender<u64>,
    keyed: Mutex<HashMap<Interest, watch::Sender<u64>>>,
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
        let mut keyed = self.keyed.lock();
        keyed.retain(|_, sender| sender.receiver_count() > 0);
        keyed.entry((source, value.into())).or_insert_with(|| watch::Sender::new(0)).subscribe()
    }

    /// The ring has grown to `end` by `events`.
    pub fn wake(&self, kind: &Kind, events: &[Arc<Event>], end: u64, sleepers: Sleepers) {
        self.all.send_replace(end);
        let keyed = self.keyed.lock();
        if keyed.is_empty() {
            return;
        }
        if sleepers == Sleepers::Woken {
            for sender in keyed.values() {
                sender.send_replace(end);
            }
            return;
        }
        for object in events.iter().flat_map(|event| event.old.iter().chain(&event.new)) {
            for interest in interests(kind, object) {
                if let Some(sender) = keyed.get(&interest) {
                    sender.send_replace(end);
                }
            }
        }
    }
}

fn interests(kind: &Kind, object: &Object) -> impl Iterator<Item = Interest> {
    let fields = (0..kind.fields.len()).map(Source::Field);
    let sources = [Source::Name, Source::Namespace].into_iter().chain(fields);
    sources.map(|source| (source, source.value(kind, object).into()))
}
