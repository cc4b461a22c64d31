//! Changes of one kind of object, newest last, bounded in bytes; watchers keep cursors into it.

use std::{collections::VecDeque, ops::Range, sync::Arc};

use store::Rev;

use super::object::Object;

/// History kept per resource. A watcher that falls behind by more is cut.
pub(crate) const BYTES_MAX: usize = 16 << 20;
/// What an event costs besides its object.
const EVENT_BYTES: usize = 200;

/// One change. At least one of `old` and `new` is there.
pub(crate) struct Event {
    pub rev: Rev,
    pub old: Option<Arc<Object>>,
    pub new: Option<Arc<Object>>,
}

pub(crate) struct Ring {
    events: VecDeque<Arc<Event>>,
    /// The cursor of the front event.
    first: u64,
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

impl Event {
    pub fn new(rev: Rev, old: Option<Arc<Object>>, new: Option<Arc<Object>>) -> Self {
        Self { rev, old, new }
    }

    /// Bytes it keeps, about; at least those of its frame.
    pub fn size(&self) -> usize {
        EVENT_BYTES + self.new.as_ref().or(self.old.as_ref()).map_or(0, |object| object.stored().len())
    }
}

impl Ring {
    pub fn new(bytes_max: usize) -> Self {
        Self { events: VecDeque::new(), first: 1, bytes: 0, bytes_max, floor: 0 }
    }

    pub fn push(&mut self, event: Arc<Event>) {
        self.bytes += event.size();
        self.events.push_back(event);
        while self.bytes > self.bytes_max {
            let Some(old) = self.events.pop_front() else { return };
            self.bytes -= old.size();
            self.floor = old.rev;
            self.first += 1;
        }
    }

    /// Forgets everything: who was reading must begin anew from `floor`.
    pub fn reset(&mut self, floor: Rev) {
        self.first = self.end() + 1;
        self.events.clear();
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

    /// Up to `max` events of `cursors`.
    pub fn read(&self, cursors: Range<u64>, max: usize) -> Result<Vec<Arc<Event>>, Expired> {
        let (start, end) = (self.place(cursors.start)?, self.place(cursors.end)?);
        Ok(self.events.range(start..end).take(max).cloned().collect())
    }

    /// The event at each of `cursors`.
    pub fn pick(&self, cursors: impl Iterator<Item = u64>) -> Result<Vec<Arc<Event>>, Expired> {
        cursors.map(|cursor| self.events.get(self.place(cursor)?).cloned().ok_or_else(|| self.expired())).collect()
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
        let mut ring = Ring::new(EVENT_BYTES * 3);
        (1..=3).for_each(|rev| ring.push(event(rev)));
        let all = ring.after(0).unwrap();
        assert_eq!(ring.read(all.clone(), 9).unwrap().len(), 3);
        assert_eq!(ring.read(all.start..all.start + 1, 9).unwrap().len(), 1);
        ring.push(event(4));
        assert_eq!(ring.read(all.clone(), 9).err(), Some(Expired { floor: 1 }));
        assert_eq!(ring.pick([all.start].into_iter()).err(), Some(Expired { floor: 1 }));
        assert_eq!(ring.after(0), Err(Expired { floor: 1 }));
        let revs = |events: Vec<Arc<Event>>| events.iter().map(|event| event.rev).collect::<Vec<_>>();
        assert_eq!(revs(ring.read(ring.after(2).unwrap(), 9).unwrap()), [3, 4]);
        assert_eq!(revs(ring.pick([all.start + 1, all.end].into_iter()).unwrap()), [2, 4]);
        assert!(ring.read(ring.end()..u64::MAX, 9).unwrap().is_empty());
    }

    #[test]
    fn a_reset_cuts_every_reader() {
        let mut ring = Ring::new(1 << 20);
        ring.push(event(5));
        let end = ring.end();
        ring.reset(9);
        assert!(ring.read(end..u64::MAX, 1).is_err());
        assert_eq!(ring.after(9), Ok(ring.end()..ring.end()));
    }
}
