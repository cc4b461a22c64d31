//! A watcher's place in the changes of one resource: what was there when it came, then what concerns it.

use std::{
    ops::Range,
    sync::Arc,
    task::{Context, Poll, ready},
};

use store::Rev;

use super::{
    cache::{Cache, Snapshot},
    event_history::{Batch, Event, Expired},
    select::Interest,
    select::Selection,
    wake::Topic,
};
use crate::notify::Waiter;

pub(crate) struct Reader {
    cache: Arc<Cache>,
    topic: Arc<Topic>,
    waiter: Arc<Waiter>,
    /// Something may be there that was not read.
    unread: bool,
    scope: Scope,
    /// Cursors of events that are looked at one by one: those in the history when the reader came, or all.
    backlog: Range<u64>,
    /// The next mark.
    next: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Scope {
    All,
    Marked,
}

impl Reader {
    /// Hears of all that is pushed from now on; reads nothing before it is placed.
    pub fn new(cache: &Arc<Cache>, interest: Interest<'_>) -> Self {
        let scope = if interest.is_some() { Scope::Marked } else { Scope::All };
        let (topic, waiter) = (cache.topic(interest), Arc::default());
        topic.notifier.add(&waiter);
        cache.reader_comes();
        let next = topic.marks.lock().end();
        Self { cache: cache.clone(), topic, waiter, unread: true, scope, backlog: 0..0, next }
    }

    /// What wakes the reader; others may notify it, too.
    pub fn waiter(&self) -> &Arc<Waiter> {
        &self.waiter
    }

    /// Begins behind `rev`.
    pub fn place_after(&mut self, rev: Rev) -> Result<(), Expired> {
        self.place(self.cache.cursors_after(rev)?);
        Ok(())
    }

    /// Begins behind the state of now, which it returns: at least what `selection` takes; `applied` reads how far the store has been followed.
    pub fn place_at_state(&mut self, selection: &Selection, applied: impl Fn() -> Rev) -> Snapshot {
        let snapshot = self.cache.state(selection, applied);
        self.place(snapshot.cursor..snapshot.cursor);
        snapshot
    }

    fn place(&mut self, backlog: Range<u64>) {
        self.backlog = match self.scope {
            Scope::All => backlog.start..u64::MAX,
            Scope::Marked => backlog,
        };
    }

    /// Some events, oldest first; not all of them concern the reader. Pending: all that happened before the call has been read.
    pub fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<Result<Vec<Arc<Event>>, Expired>> {
        loop {
            if !self.unread {
                ready!(self.waiter.poll_notified(cx));
            }
            self.unread = true;
            let events = self.read()?;
            if !events.is_empty() {
                return Poll::Ready(Ok(events));
            }
            self.unread = false;
        }
    }

    fn read(&mut self) -> Result<Vec<Arc<Event>>, Expired> {
        if !self.backlog.is_empty() {
            let Batch { events, more } = self.cache.read(self.backlog.clone())?;
            self.backlog.start += events.len() as u64;
            self.unread = self.scope == Scope::Marked || more;
            if !events.is_empty() {
                return Ok(events);
            }
        }
        if self.scope == Scope::All {
            return Ok(Vec::new());
        }
        let marks = self.topic.marks.lock();
        let Some(cursors) = marks.since(self.next) else { return Err(self.cache.expired()) };
        // What was in the history when the reader came may have been marked only after that.
        let (mut taken, backlog) = (0, self.backlog.end);
        let cursors = cursors.inspect(|_| taken += 1).skip_while(|cursor| *cursor < backlog);
        let Batch { events, more } = self.cache.pick(cursors)?;
        self.next += taken;
        self.unread = more;
        Ok(events)
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.cache.reader_goes();
    }
}

#[cfg(test)]
mod tests;
