//! A store, random numbers -> a store on a bad day: late, silent, forgetful. For tests.
//!
//! It lies only as a real back end may: a write that is answered is carried out, one that is not answered may or may not be; a watch that
//! goes on shows every event.

pub mod disk;

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use futures::{Stream, StreamExt, stream};
use parking_lot::Mutex;

use crate::{Entry, Error, Event, Events, Outcome, Page, Range, Rev, Store, Txn};

/// A number, another each time: the only source of chance here.
pub type Random = Box<dyn FnMut() -> u64 + Send>;

/// How often something goes wrong: each of a thousand.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Faults {
    /// Calls that wait, before and after they are carried out, each time up to `late_max`.
    pub late: u16,
    pub late_max: Duration,
    /// Writes that are carried out and answered `Unavailable`.
    pub done_unanswered: u16,
    /// Writes that are not carried out and answered `Unavailable`.
    pub lost: u16,
    /// Reads that are answered `Unavailable`.
    pub unread: u16,
    /// Items of a watch in whose place it ends with `Slow`.
    pub cut: u16,
    /// Watches that are refused as `Compacted`.
    pub forgotten: u16,
}

/// The store that misbehaves. See [`Faults`].
pub struct Faulty {
    inner: Arc<dyn Store>,
    chance: Arc<Chance>,
}

struct Chance {
    /// Writes so far that were carried out without an answer.
    unanswered: AtomicU64,
    random: Mutex<Random>,
    faults: Mutex<Faults>,
}

impl Faulty {
    /// Without faults until [`Faulty::set`].
    pub fn new(inner: Arc<dyn Store>, random: Random) -> Self {
        Self { inner, chance: Arc::new(Chance { unanswered: AtomicU64::new(0), random: Mutex::new(random), faults: Mutex::default() }) }
    }

    /// From now on; watches that are open are meant too.
    pub fn set(&self, faults: Faults) {
        *self.chance.faults.lock() = faults;
    }

    /// How many writes were carried out without an answer: their authors may do them again.
    pub fn unanswered(&self) -> u64 {
        self.chance.unanswered.load(Ordering::Relaxed)
    }

    async fn read<T>(&self, call: impl Future<Output = Result<T, Error>> + Send) -> Result<T, Error> {
        self.chance.wait().await;
        self.chance.fail(|f| f.unread, "no answer to a read")?;
        let answer = call.await;
        self.chance.wait().await;
        answer
    }
}

#[async_trait]
impl Store for Faulty {
    async fn revision(&self) -> Result<Rev, Error> {
        self.read(self.inner.revision()).await
    }

    async fn get(&self, key: &str) -> Result<Option<Entry>, Error> {
        self.read(self.inner.get(key)).await
    }

    async fn range(&self, range: Range) -> Result<Page, Error> {
        self.read(self.inner.range(range)).await
    }

    async fn txn(&self, txn: Txn) -> Result<Outcome, Error> {
        self.chance.wait().await;
        self.chance.fail(|f| f.lost, "no answer to a write")?;
        let outcome = self.inner.txn(txn).await;
        self.chance.wait().await;
        if self.chance.strikes(|f| f.done_unanswered) {
            self.chance.unanswered.fetch_add(1, Ordering::Relaxed);
            return Err(Error::Unavailable("no answer to a write".into()));
        }
        outcome
    }

    async fn seal(&self) -> Result<(), Error> {
        self.read(self.inner.seal()).await
    }

    async fn watch(&self, prefix: &str, after: Rev) -> Result<Events, Error> {
        self.chance.wait().await;
        if self.chance.strikes(|f| f.forgotten) {
            return Err(Error::Compacted { oldest: self.inner.revision().await? });
        }
        let events = self.inner.watch(prefix, after).await?;
        Ok(Box::pin(cut_by_chance(events, self.chance.clone())))
    }

    fn condition(&self) -> Option<tokio::sync::watch::Receiver<crate::Condition>> {
        self.inner.condition()
    }

    async fn compact(&self, rev: Rev) -> Result<(), Error> {
        self.inner.compact(rev).await
    }

    async fn close(&self) {
        self.inner.close().await;
    }
}

impl Chance {
    fn strikes(&self, of: impl Fn(&Faults) -> u16) -> bool {
        let part = of(&self.faults.lock());
        // Without faults no random number is drawn: what follows does not depend on how often was asked.
        part > 0 && (*self.random.lock())() % 1000 < u64::from(part)
    }

    fn fail(&self, of: impl Fn(&Faults) -> u16, why: &str) -> Result<(), Error> {
        if self.strikes(of) { Err(Error::Unavailable(why.into())) } else { Ok(()) }
    }

    async fn wait(&self) {
        if !self.strikes(|f| f.late) {
            return;
        }
        let longest = u64::try_from(self.faults.lock().late_max.as_micros()).unwrap_or(u64::MAX);
        let wait = (*self.random.lock())() % longest.max(1);
        tokio::time::sleep(Duration::from_micros(wait)).await;
    }
}

fn cut_by_chance(events: Events, chance: Arc<Chance>) -> impl Stream<Item = Result<Vec<Event>, Error>> {
    stream::unfold(Some((events, chance)), |going| async move {
        let (mut events, chance) = going?;
        let item = events.next().await?;
        if chance.strikes(|f| f.cut) {
            return Some((Err(Error::Slow), None));
        }
        chance.wait().await;
        Some((item, Some((events, chance))))
    })
}
