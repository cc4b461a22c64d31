//! A watcher's place in the changes of one resource: what was there when it came, then what concerns it.

use std::{ops::Range, sync::Arc};

use store::Rev;
use tokio::sync::watch;

use super::{
    cache::{Cache, Snapshot},
    ring::{Event, Expired},
    wake::{Interest, Marks},
};

pub(crate) struct Reader {
    cache: Arc<Cache>,
    news: watch::Receiver<Marks>,
    scope: Scope,
    /// Cursors of events that are looked at one by one: those in the ring when the reader came, or all.
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
        let news = cache.subscribe(interest);
        let next = news.borrow().end();
        Self { cache: cache.clone(), news, scope, backlog: 0..0, next }
    }

    /// Begins behind `rev`.
    pub fn place_after(&mut self, rev: Rev) -> Result<(), Expired> {
        self.place(self.cache.cursors_after(rev)?);
        Ok(())
    }

    /// Begins behind the state of now, which it returns; `applied` reads how far the store has been followed.
    pub fn place_at_state(&mut self, namespace: &str, applied: impl Fn() -> Rev) -> Snapshot {
        let snapshot = self.cache.snapshot(namespace, applied);
        self.place(snapshot.cursor..snapshot.cursor);
        snapshot
    }

    fn place(&mut self, backlog: Range<u64>) {
        self.backlog = match self.scope {
            Scope::All => backlog.start..u64::MAX,
            Scope::Marked => backlog,
        };
    }

    /// Up to `max` events, oldest first; none where there is nothing new. Not all concern the reader.
    pub fn read(&mut self, max: usize) -> Result<Vec<Arc<Event>>, Expired> {
        let marks = self.news.borrow_and_update();
        if !self.backlog.is_empty() {
            let events = self.cache.read(self.backlog.clone(), max)?;
            self.backlog.start += events.len() as u64;
            if !events.is_empty() {
                return Ok(events);
            }
        }
        if self.scope == Scope::All {
            return Ok(Vec::new());
        }
        let Some(cursors) = marks.since(self.next) else { return Err(self.cache.expired()) };
        // What was in the ring when the reader came may have been marked only after that.
        let (mut taken, backlog) = (0, self.backlog.end);
        let cursors = cursors.inspect(|_| taken += 1).skip_while(|cursor| *cursor < backlog).take(max);
        let events = self.cache.pick(cursors)?;
        self.next += taken;
        Ok(events)
    }

    /// Waits for something new. False: nothing more comes.
    pub async fn news(&mut self) -> bool {
        self.news.changed().await.is_ok()
    }
}

#[cfg(test)]
mod tests;
