//! Changes of one kind of object, newest last, bounded in bytes; watchers keep cursors into it.

use std::{collections::VecDeque, ops::Range, sync::Arc};

use bytes::Bytes;
use parking_lot::Mutex;
use store::Rev;

use super::object::Object;

/// History kept per resource. A watcher that falls behind by more is cut.
pub(crate) const BYTES_MAX: usize = 16 << 20;
/// What an event costs besides its object.
const EVENT_BYTES: usize = 200;
/// Of the newest events, which keep what watchers in protobuf were sent of them: those that are up to date share it.
const WRITTEN_BYTES_MAX: usize = 1 << 20;

/// One change. At least one of `old` and `new` is there.
pub(crate) struct Event {
    pub rev: Rev,
    pub old: Option<Arc<Object>>,
    pub new: Option<Arc<Object>>,
    written: Mutex<Written>,
}

/// What an event's object is in protobuf.
enum Written {
    NotYet,
    Is(Bytes),
    /// The event is old: who reads it now writes for itself.
    NoMore,
}

pub(crate) struct EventHistory {
    events: VecDeque<Arc<Event>>,
    /// The cursor of the front event.
    first: u64,
    /// The cursor of the first event that keeps what is written of it, and the bytes of those from there on.
    first_written: u64,
    written_bytes: usize,
    bytes: usize,
    bytes_max: usize,
    /// All events above this revision are there.
    floor: Rev,
}

/// The revision asked for is older than the history; `floor` is the oldest that can be continued.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Expired {
    pub floor: Rev,
}

/// Events that are read at one time: what a reader holds of them it holds for as long as it is not heard.
pub(crate) struct Batch {
    pub events: Vec<Arc<Event>>,
    /// There may be more.
    pub more: bool,
}

impl Batch {
    pub const EVENTS_MAX: usize = 256;
    /// Once they are of this size there is no further event.
    pub const BYTES_MIN: usize = 64 << 10;

    fn of(mut found: impl Iterator<Item = Result<Arc<Event>, Expired>>) -> Result<Self, Expired> {
        let (mut events, mut bytes) = (Vec::with_capacity(found.size_hint().0.min(Self::EVENTS_MAX)), 0);
        while events.len() < Self::EVENTS_MAX && bytes < Self::BYTES_MIN {
            let Some(event) = found.next().transpose()? else { return Ok(Self { events, more: false }) };
            bytes += event.size();
            events.push(event);
        }
        Ok(Self { events, more: true })
    }
}

impl Event {
    pub fn new(rev: Rev, old: Option<Arc<Object>>, new: Option<Arc<Object>>) -> Self {
        Self { rev, old, new, written: Mutex::new(Written::NotYet) }
    }

    /// What `write` makes of the event's object: once for all that ask while it is new.
    pub fn written(&self, write: impl FnOnce() -> Vec<u8>) -> Bytes {
        let mut written = self.written.lock();
        match &*written {
            Written::Is(bytes) => bytes.clone(),
            Written::NoMore => {
                drop(written);
                write().into()
            }
            Written::NotYet => {
                let bytes = Bytes::from(write().into_boxed_slice());
                *written = Written::Is(bytes.clone());
                bytes
            }
        }
    }

    /// Bytes it keeps, about; at least those of its frame.
    pub fn size(&self) -> usize {
        EVENT_BYTES + self.new.as_ref().or(self.old.as_ref()).map_or(0, |object| object.stored().len())
    }
}

impl EventHistory {
    pub fn new(bytes_max: usize) -> Self {
        Self { events: VecDeque::new(), first: 1, first_written: 1, written_bytes: 0, bytes: 0, bytes_max, floor: 0 }
    }

    pub fn push(&mut self, event: Arc<Event>) {
        self.bytes += event.size();
        self.written_bytes += event.size();
        self.events.push_back(event);
        self.forget_written();
        while self.bytes > self.bytes_max {
            let Some(old) = self.events.pop_front() else { return };
            self.bytes -= old.size();
            self.floor = old.rev;
            if self.first_written == self.first {
                self.written_bytes -= old.size();
                self.first_written += 1;
            }
            self.first += 1;
        }
    }

    fn forget_written(&mut self) {
        while self.written_bytes > WRITTEN_BYTES_MAX {
            let Some(event) = self.place(self.first_written).ok().and_then(|at| self.events.get(at)) else { return };
            *event.written.lock() = Written::NoMore;
            self.written_bytes -= event.size();
            self.first_written += 1;
        }
    }

    /// Forgets everything: who was reading must begin anew from `floor`.
    pub fn reset(&mut self, floor: Rev) {
        self.first = self.end() + 1;
        self.events.clear();
        (self.first_written, self.written_bytes) = (self.first, 0);
        self.bytes = 0;
        self.floor = floor;
    }

    /// The cursor behind the newest event.
    pub fn end(&self) -> u64 {
        self.first + self.events.len() as u64
    }

    /// The cursors of all that is there.
    pub fn held(&self) -> Range<u64> {
        self.first..self.end()
    }

    /// The cursors of the events above `rev`.
    pub fn after(&self, rev: Rev) -> Result<Range<u64>, Expired> {
        if rev < self.floor {
            return Err(self.expired());
        }
        Ok(self.first + self.events.partition_point(|event| event.rev <= rev) as u64..self.end())
    }

    /// A batch of the events at `cursors`.
    pub fn read(&self, cursors: Range<u64>) -> Result<Batch, Expired> {
        let (start, end) = (self.place(cursors.start)?, self.place(cursors.end)?);
        Batch::of(self.events.range(start..end).map(|event| Ok(event.clone())))
    }

    /// A batch of the events at each of `cursors`. No cursor is taken whose event is not.
    pub fn pick(&self, cursors: impl Iterator<Item = u64>) -> Result<Batch, Expired> {
        Batch::of(cursors.map(|cursor| self.events.get(self.place(cursor)?).cloned().ok_or_else(|| self.expired())))
    }

    pub fn expired(&self) -> Expired {
        Expired { floor: self.floor }
    }

    /// How many events are there before `cursor`.
    fn place(&self, cursor: u64) -> Result<usize, Expired> {
        let skip = cursor.checked_sub(self.first).ok_or_else(|| self.expired())?;
        Ok(usize::try_from(skip).unwrap_or(usize::MAX).min(self.events.len()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(rev: Rev) -> Arc<Event> {
        Arc::new(Event::new(rev, None, None))
    }

    #[test]
    fn cursors_survive_turnover_and_expire_behind_it() {
        let mut history = EventHistory::new(EVENT_BYTES * 3);
        (1..=3).for_each(|rev| history.push(event(rev)));
        let all = history.after(0).unwrap();
        assert_eq!(history.read(all.clone()).unwrap().events.len(), 3);
        assert_eq!(history.read(all.start..all.start + 1).unwrap().events.len(), 1);
        history.push(event(4));
        assert_eq!(history.read(all.clone()).err(), Some(Expired { floor: 1 }));
        assert_eq!(history.pick([all.start].into_iter()).err(), Some(Expired { floor: 1 }));
        assert_eq!(history.after(0), Err(Expired { floor: 1 }));
        let revs = |batch: Batch| batch.events.iter().map(|event| event.rev).collect::<Vec<_>>();
        assert_eq!(revs(history.read(history.after(2).unwrap()).unwrap()), [3, 4]);
        assert_eq!(revs(history.pick([all.start + 1, all.end].into_iter()).unwrap()), [2, 4]);
        assert!(history.read(history.end()..u64::MAX).unwrap().events.is_empty());
    }

    #[test]
    fn a_batch_is_bounded_in_bytes_and_loses_nothing() {
        let mut history = EventHistory::new(1 << 20);
        let stored = bytes::Bytes::from("x".repeat(Batch::BYTES_MIN / 4));
        let large = Arc::new(Object::loose(api::Key::default(), stored));
        (1..=10).for_each(|rev| history.push(Arc::new(Event::new(rev, None, Some(large.clone())))));
        let (mut taken, mut seen) = (0, Vec::new());
        for more in [true, true, false] {
            let batch = history.pick(history.after(0).unwrap().skip(taken).inspect(|_| taken += 1)).unwrap();
            assert!(batch.events.len() <= 4 && batch.more == more);
            seen.extend(batch.events.iter().map(|event| event.rev));
        }
        assert_eq!(seen, (1..=10).collect::<Vec<_>>());
    }

    #[test]
    fn what_is_written_of_an_event_is_shared_while_it_is_new() {
        let mut history = EventHistory::new(4 * WRITTEN_BYTES_MAX);
        let stored = bytes::Bytes::from("x".repeat(WRITTEN_BYTES_MAX / 2));
        let large = Arc::new(Object::loose(api::Key::default(), stored));
        let events: Vec<_> = (1..=3).map(|rev| Arc::new(Event::new(rev, None, Some(large.clone())))).collect();
        let count = std::cell::Cell::new(0);
        let write = || {
            count.set(count.get() + 1);
            b"protobuf".to_vec()
        };
        events.iter().for_each(|event| {
            history.push(event.clone());
            assert_eq!(event.written(write), event.written(write));
        });
        assert_eq!(count.get(), 3, "once each");
        assert_eq!(events[2].written(write), events[0].written(write));
        assert_eq!(count.get(), 4, "the first is old by now");
        history.reset(9);
        assert_eq!(history.written_bytes, 0);
    }

    #[test]
    fn a_reset_cuts_every_reader() {
        let mut history = EventHistory::new(1 << 20);
        history.push(event(5));
        let end = history.end();
        history.reset(9);
        assert!(history.read(end..u64::MAX).is_err());
        assert_eq!(history.after(9), Ok(history.end()..history.end()));
    }
}
