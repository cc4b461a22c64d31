//! A store in this process: one writer thread; all that arrives while a commit runs joins the next, and in a crowd a moment is waited for
//! more. Or no thread: each caller writes itself.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{
        Arc, Weak,
        mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel},
    },
    thread,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use async_trait::async_trait;
use futures::{StreamExt, stream};
use parking_lot::{Mutex, RwLock};
use tokio::{
    sync::{Notify, Semaphore, oneshot, watch},
    time::{Instant, timeout},
};

use crate::{
    Condition, Entry, Error, Event, Events, Expect, Listener, Op, Outcome, Page, Range, Rev, Store, Txn,
    index::{Index, Staged, TXN_BYTES_MAX},
    trouble::{Answer, Health, PROBE_EACH, Trouble},
};

/// Writes that may wait for the writer; more wait at the door.
const QUEUE_MAX: usize = 4096;
/// Writes that share one commit at most.
const BATCH_MAX: usize = 1024;
/// Just after a commit of so many the next one is begun a moment later: who writes in a crowd shares syncs with more of it, and who writes
/// alone waits for nobody (as PostgreSQL's `commit_siblings` and `commit_delay`).
const CROWD_MIN: usize = 4;
const CROWD_FOR: Duration = Duration::from_millis(10);
const GATHER: Duration = Duration::from_micros(500);

/// Where committed transactions are made durable.
pub(crate) trait Disk: Send {
    /// Makes all of `batches` durable, or none; blocks until it is so. `deadlines` holds the expiry (Unix seconds) of each key put with a TTL.
    fn commit(&mut self, batches: &[Arc<Vec<Event>>], deadlines: &HashMap<Arc<str>, u64>) -> Result<(), Trouble>;
    /// Work that may be put off until what was committed is answered: an error of it says nothing about that.
    fn tidy(&mut self) -> Result<(), Trouble> {
        Ok(())
    }
    /// Whether a commit costs so much that others are waited for.
    fn gathers(&self) -> bool {
        false
    }
    /// Whether a commit would go now, after one that did not.
    fn probe(&mut self) -> Result<(), Trouble> {
        Ok(())
    }
    /// Nothing more comes: leaves all in order for the next start.
    fn close(&mut self) {}
}

/// What stood on disk at the start.
#[derive(Default)]
pub(crate) struct Loaded {
    pub rev: Rev,
    pub entries: Vec<Entry>,
    pub deadlines: HashMap<Arc<str>, u64>,
}

/// The store: an index that all read, and the way to the one writer.
pub struct Local {
    index: Arc<RwLock<Index>>,
    listeners: Arc<Listeners>,
    condition: watch::Receiver<Condition>,
    hands: Hands,
}

/// Locked while a commit is published, so that a new listener hears of each exactly once.
type Listeners = Mutex<Vec<Weak<dyn Fn(&[Arc<Vec<Event>>]) + Send + Sync>>>;

/// Who carries writes out.
enum Hands {
    /// A thread of the store's own: a commit may block.
    Thread { queue: SyncSender<Work>, slots: Semaphore },
    /// Whoever asks, at once and in its own task: nothing happens that a simulation did not cause. `None` once closed.
    Caller { writer: Mutex<Option<Writer>>, deadline: Notify },
}

enum Work {
    Write(Txn, oneshot::Sender<Result<Outcome, Error>>),
    Close(oneshot::Sender<()>),
}

struct Writer {
    index: Arc<RwLock<Index>>,
    listeners: Arc<Listeners>,
    disk: Box<dyn Disk>,
    health: Health,
    expiry: Expiry,
    clock: Clock,
}

/// Where deadlines are read from, in seconds.
enum Clock {
    /// Unix time: deadlines outlive the process.
    Wall,
    /// The runtime's, which may be paused, from when the store was made.
    Runtime(Instant),
}

/// Keys with a time to live, by deadline (seconds of the writer's clock).
#[derive(Default)]
struct Expiry {
    by_key: HashMap<Arc<str>, u64>,
    by_time: BTreeSet<(u64, Arc<str>)>,
}

impl Local {
    pub(crate) fn start(disk: Box<dyn Disk>, loaded: Loaded) -> Self {
        let (writer, condition) = Writer::new(disk, loaded, Clock::Wall);
        let (index, listeners) = (writer.index.clone(), writer.listeners.clone());
        let (queue, work) = sync_channel(QUEUE_MAX);
        // The thread ends when the last `Local` is dropped or closed: it is the store's own, and no task of any group.
        let started = thread::Builder::new().name("store-writer".into()).spawn(move || writer.run(&work));
        if let Err(error) = started {
            tracing::error!(%error, "store writer could not be started");
        }
        Self { index, listeners, condition, hands: Hands::Thread { queue, slots: Semaphore::new(QUEUE_MAX) } }
    }

    /// Without a thread. Keys with a time to live go while [`Local::tend`] runs. Must be called within a runtime.
    pub(crate) fn inline(disk: Box<dyn Disk>, loaded: Loaded) -> Self {
        let (writer, condition) = Writer::new(disk, loaded, Clock::Runtime(Instant::now()));
        let (index, listeners) = (writer.index.clone(), writer.listeners.clone());
        Self { index, listeners, condition, hands: Hands::Caller { writer: Mutex::new(Some(writer)), deadline: Notify::new() } }
    }

    /// Deletes what is due, by the runtime's clock, until the store is closed: for a task of whoever made the store without a thread of its
    /// own. A store with one needs no tending: this returns at once.
    pub async fn tend(&self) {
        let Hands::Caller { writer, deadline } = &self.hands else { return };
        loop {
            let wait = match &mut *writer.lock() {
                None => return,
                Some(writer) => {
                    writer.look_again();
                    writer.carry_out(std::iter::empty());
                    writer.wait()
                }
            };
            // Either way it is time to look.
            let _ = timeout(wait.unwrap_or(Duration::MAX), deadline.notified()).await;
        }
    }

    async fn ask<T>(&self, work: impl FnOnce(oneshot::Sender<T>) -> Work) -> Result<T, Error> {
        let (reply, answer) = oneshot::channel();
        match &self.hands {
            Hands::Thread { queue, slots } => {
                // As many slots as the queue has places: with one in hand the send below never blocks.
                let _slot = slots.acquire().await.map_err(|_| closed())?;
                queue.send(work(reply)).map_err(|_| closed())?;
                answer.await.map_err(|_| closed())
            }
            Hands::Caller { writer, deadline } => {
                carry_out_here(&mut writer.lock(), work(reply))?;
                deadline.notify_one();
                answer.await.map_err(|_| closed())
            }
        }
    }
}

#[async_trait]
impl Store for Local {
    async fn revision(&self) -> Result<Rev, Error> {
        Ok(self.index.read().rev())
    }

    async fn get(&self, key: &str) -> Result<Option<Entry>, Error> {
        Ok(self.index.read().get(key).cloned())
    }

    async fn range(&self, range: Range) -> Result<Page, Error> {
        self.index.read().range(&range)
    }

    async fn txn(&self, txn: Txn) -> Result<Outcome, Error> {
        let size = txn.size();
        if size > TXN_BYTES_MAX {
            return Err(Error::TooLarge(size));
        }
        self.ask(|reply| Work::Write(txn, reply)).await?
    }

    async fn watch(&self, prefix: &str, after: Rev) -> Result<Events, Error> {
        let (missed, commits) = self.index.write().watch(prefix, after)?;
        let prefix = prefix.to_owned();
        let first = stream::iter((!missed.is_empty()).then_some(Ok(missed)));
        // The sender is dropped when the watcher is cut: the stream then ends, with the reason last.
        let live = stream::unfold(Some(commits), move |commits| {
            let prefix = prefix.clone();
            async move {
                let mut commits = commits?;
                let Some(commit) = commits.recv().await else { return Some((Err(Error::Slow), None)) };
                let all = commit.iter().flat_map(|b| b.iter());
                let events: Vec<Event> = all.filter(|e| e.key().starts_with(&prefix) && e.rev() > after).cloned().collect();
                Some((Ok(events), Some(commits)))
            }
        });
        let live = live.filter(|item| futures::future::ready(!matches!(item, Ok(events) if events.is_empty())));
        Ok(Box::pin(first.chain(live)))
    }

    fn listen(&self, after: Rev, listener: &Listener) -> Option<Result<(), Error>> {
        let mut listeners = self.listeners.lock();
        let missed: Vec<_> = match self.index.read().since(after) {
            Ok(missed) => missed.cloned().collect(),
            Err(error) => return Some(Err(error)),
        };
        if !missed.is_empty() {
            listener(&missed);
        }
        listeners.push(Arc::downgrade(listener));
        Some(Ok(()))
    }

    async fn compact(&self, rev: Rev) -> Result<(), Error> {
        self.index.write().compact(rev);
        Ok(())
    }

    fn condition(&self) -> Option<watch::Receiver<Condition>> {
        Some(self.condition.clone())
    }

    async fn close(&self) {
        // An error means that the writer has ended already.
        let _ = self.ask(Work::Close).await;
    }
}

impl Writer {
    fn new(disk: Box<dyn Disk>, loaded: Loaded, clock: Clock) -> (Self, watch::Receiver<Condition>) {
        let index = Arc::new(RwLock::new(Index::load(loaded.entries.into_iter(), loaded.rev)));
        let mut expiry = Expiry::default();
        loaded.deadlines.into_iter().for_each(|(key, at)| expiry.set(&key, Some(at)));
        let (health, condition) = Health::new();
        (Self { index, listeners: Arc::default(), disk, health, expiry, clock }, condition)
    }

    fn run(mut self, work: &Receiver<Work>) {
        let (mut crowd, mut done, mut looked) = (0, Instant::now(), Instant::now());
        loop {
            let first = match self.wait() {
                None => work.recv().map_err(|_| RecvTimeoutError::Disconnected),
                Some(wait) => work.recv_timeout(wait),
            };
            let first = match first {
                Ok(first) => Some(first),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => return,
            };
            // Also where there is never a moment without writes, which are refused.
            if looked.elapsed() >= PROBE_EACH {
                self.look_again();
                looked = Instant::now();
            }
            if first.is_some() && is_crowd(crowd, done.elapsed()) && self.disk.gathers() {
                gather();
            }
            crowd = 0;
            let batch = first.into_iter().chain(work.try_iter().take(BATCH_MAX - 1)).inspect(|_| crowd += 1);
            if let Some(closing) = self.carry_out(batch) {
                self.disk.close();
                let index = self.index.clone();
                // Files are closed before we say that they are.
                drop(self);
                index.write().close();
                // Nobody waiting for the end is no error.
                let _ = closing.send(());
                return;
            }
            done = Instant::now();
        }
    }

    /// How long until there is something to do unasked.
    fn wait(&self) -> Option<Duration> {
        match self.health.now() {
            Condition::Sound => self.expiry.wait(self.clock.now()),
            // What is due would be tried in vain until the disk takes writes again.
            Condition::Failing(_) => Some(PROBE_EACH),
            Condition::Ended(_) => None,
        }
    }

    fn look_again(&mut self) {
        if matches!(self.health.now(), Condition::Failing(_)) {
            let done = self.disk.probe();
            self.health.note(done.as_ref().copied());
        }
    }

    /// One commit for all of `batch`. Some: the store is to close.
    fn carry_out(&mut self, batch: impl Iterator<Item = Work>) -> Option<oneshot::Sender<()>> {
        let (mut staged, mut replies, mut closing) = (Staged::default(), Vec::new(), None);
        let now = self.clock.now();
        let mut deadlines: HashMap<Arc<str>, Option<u64>> = HashMap::new();
        {
            let index = self.index.read();
            for txn in self.expiry.due(now, &index) {
                deadlines.extend(txn.deadlines(now));
                index.stage(&mut staged, txn);
            }
            for work in batch {
                match work {
                    Work::Close(reply) => closing = Some(reply),
                    Work::Write(txn, reply) => {
                        let wanted = txn.deadlines(now);
                        let outcome = index.stage(&mut staged, txn);
                        if matches!(outcome, Outcome::Done(_)) {
                            deadlines.extend(wanted);
                        }
                        replies.push((reply, outcome));
                    }
                }
            }
        }
        let done = self.make_durable(staged, deadlines);
        for (reply, outcome) in replies {
            let answer = match &done {
                Ok(()) => Ok(outcome),
                Err((error, why)) => Err(error(why.clone())),
            };
            // A caller that went away does not want to know.
            let _ = reply.send(answer);
        }
        if done.is_ok()
            && let Err(trouble) = self.disk.tidy()
        {
            self.health.note(Err(&trouble));
        }
        closing
    }

    fn make_durable(&mut self, staged: Staged, deadlines: HashMap<Arc<str>, Option<u64>>) -> Result<(), Answer> {
        if staged.batches.is_empty() {
            return Ok(());
        }
        if let Condition::Ended(why) = self.health.now() {
            return Err((Error::Unavailable, format!("no more writes are taken: {why}")));
        }
        let lasting = deadlines.iter().filter_map(|(k, at)| at.map(|at| (k.clone(), at))).collect();
        let done = self.disk.commit(&staged.batches, &lasting);
        self.health.note(done.as_ref().copied());
        done.map_err(Trouble::answer)?;
        deadlines.into_iter().for_each(|(key, at)| self.expiry.set(&key, at));
        self.publish(staged.batches);
        Ok(())
    }

    fn publish(&self, batches: Vec<Arc<Vec<Event>>>) {
        let mut listeners = self.listeners.lock();
        let commit = self.index.write().publish(batches);
        listeners.retain(|listener| listener.upgrade().map(|tell| tell(&commit)).is_some());
    }
}

impl Expiry {
    fn set(&mut self, key: &Arc<str>, at: Option<u64>) {
        if let Some(old) = self.by_key.remove(key) {
            self.by_time.remove(&(old, key.clone()));
        }
        if let Some(at) = at {
            self.by_key.insert(key.clone(), at);
            self.by_time.insert((at, key.clone()));
        }
    }

    /// How long until the next key is due; `None` while there is none.
    fn wait(&self, now: u64) -> Option<Duration> {
        let (at, _) = self.by_time.first()?;
        Some(Duration::from_secs(at.saturating_sub(now)).max(Duration::from_millis(100)))
    }

    /// Deletions of what is due. A key that was written again has another deadline by now.
    fn due(&self, now: u64, index: &Index) -> Vec<Txn> {
        let due = self.by_time.iter().take_while(|(at, _)| *at <= now).take(BATCH_MAX);
        due.filter_map(|(_, key)| {
            let entry = index.get(key)?;
            Some(Txn { expect: vec![(key.to_string(), Expect::At(entry.rev))], ops: vec![Op::Delete { key: key.to_string() }] })
        })
        .collect()
    }
}

impl Txn {
    /// The new deadline (by the store's clock) of each key written; `None` lasts.
    fn deadlines(&self, now: u64) -> Vec<(Arc<str>, Option<u64>)> {
        let deadline = |op: &Op| match op {
            Op::Put { key, ttl, .. } => (Arc::from(key.as_str()), ttl.map(|t| now + t.as_secs() + u64::from(t.subsec_nanos() > 0))),
            Op::Delete { key } => (Arc::from(key.as_str()), None),
        };
        self.ops.iter().map(deadline).collect()
    }
}

impl Clock {
    fn now(&self) -> u64 {
        match self {
            Clock::Wall => SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs()),
            Clock::Runtime(start) => start.elapsed().as_secs(),
        }
    }
}

fn carry_out_here(writer: &mut Option<Writer>, work: Work) -> Result<(), Error> {
    let closing = writer.as_mut().ok_or_else(closed)?.carry_out(std::iter::once(work));
    if let Some(closing) = closing {
        if let Some(mut writer) = writer.take() {
            writer.disk.close();
            writer.index.write().close();
        }
        // Nobody waiting for the end is no error.
        let _ = closing.send(());
    }
    Ok(())
}

/// Whether it is worth while to wait, so long after a commit of so many writes.
fn is_crowd(writes: usize, ago: Duration) -> bool {
    writes >= CROWD_MIN && ago < CROWD_FOR
}

#[expect(clippy::disallowed_methods, reason = "to wait for each that comes would wake us for each")]
fn gather() {
    thread::sleep(GATHER);
}

fn closed() -> Error {
    Error::Unavailable("the store is closed".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_crowd_is_many_writes_a_moment_ago() {
        let soon = Duration::from_millis(1);
        assert_eq!([is_crowd(3, soon), is_crowd(4, soon), is_crowd(1000, CROWD_FOR)], [false, true, false]);
    }
}
