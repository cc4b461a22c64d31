//! Changes of one kind of object, newest last, bounded in bytes; watchers keep cursors into it.

use std::{collections::VecDeque, sync::Arc};

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
    /// What has been pushed since the last turn was told.
    pushed: usize,
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
        Self { events: VecDeque::new(), first: 1, bytes: 0, bytes_max, pushed: 0, floor: 0 }
    }

    pub fn push(&mut self, event: Arc<Event>) {
        self.bytes += event.size();
        self.pushed += event.size();
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

    /// True each time a quarter of the ring has been written anew: sleeping readers must look, or they fall behind.
    pub fn turns_over(&mut self) -> bool {
        let turned = self.pushed > self.bytes_max / 4;
        if turned {
            self.pushed = 0;
        }
        turned
    }

    /// The cursor behind the newest event.
    pub fn end(&self) -> u64 {
        self.first + self.events.len() as u64
    }

    /// The cursor of the first event above `rev`.
    pub fn after(&self, rev: Rev) -> Result<u64, Expired> {
        if rev < self.floor {
            return Err(Expired { floor: self.floor });
        }
        Ok(self.first + self.events.partition_point(|event| event.rev <= rev) as u64)
    }

    /// Up to `max` events from `cursor` on.
    pub fn read(&self, cursor: u64, max: usize) -> Result<Vec<Arc<Event>>, Expired> {
        let Some(skip) = cursor.checked_sub(self.first) else { return Err(Expired { floor: self.floor }) };
        let skip = usize::try_from(skip).unwrap_or(usize::MAX).min(self.events.len());
        Ok(self.events.range(skip..).take(max).cloned().collect())
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
        let start = ring.after(0).unwrap();
        assert_eq!(ring.read(start, 9).unwrap().len(), 3);
        ring.push(event(4));
        assert_eq!(ring.read(start, 9).err(), Some(Expired { floor: 1 }));
        assert_eq!(ring.after(0), Err(Expired { floor: 1 }));
        let revs: Vec<Rev> = ring.read(ring.after(2).unwrap(), 9).unwrap().iter().map(|e| e.rev).collect();
        assert_eq!(revs, [3, 4]);
        assert!(ring.read(ring.end(), 9).unwrap().is_empty());
    }

    #[test]
    fn a_reset_cuts_every_reader() {
        let mut ring = Ring::new(1 << 20);
        ring.push(event(5));
        let end = ring.end();
        ring.reset(9);
        assert!(ring.read(end, 1).is_err());
        assert_eq!(ring.after(9), Ok(ring.end()));
    }
}
