//! Bytes under keys, with one revision for all: ranges, transactions, ordered events. Knows nothing of what it keeps.
//!
//! The contract is etcd's, so that etcd itself can stand behind it: one revision counter for the whole store, raised by one per
//! transaction that changes something; events in revision order, each seen once; a watch never shows what is not durable.

use std::{pin::Pin, sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use futures::Stream;
use tokio::sync::watch;

pub mod etcd;
pub mod faulty;
pub mod files;
mod index;
mod local;
mod log;
pub mod memory;
pub mod redb;
mod trouble;

pub use trouble::Condition;

/// A store revision. 0 is "before anything"; the first write makes 1 or more.
pub type Rev = u64;

/// One key with its value as of `rev`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub key: Arc<str>,
    pub value: Bytes,
    /// The revision of the last write to this key (etcd's `mod_revision`).
    pub rev: Rev,
}

/// One change. `prev` is what stood there before, where the back end has it at hand: the embedded ones do, etcd would read it for each event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    Put {
        entry: Entry,
        prev: Option<Entry>,
    },
    /// `rev` is the revision of the deletion.
    Delete {
        key: Arc<str>,
        rev: Rev,
        prev: Option<Entry>,
    },
}

/// Which keys to read: all that begin with `prefix`, in key order, strictly after `after` if given, as of `at` (the newest if `None`).
#[derive(Clone, Debug, Default)]
pub struct Range {
    pub prefix: String,
    pub after: Option<String>,
    /// 0 is no limit.
    pub limit: usize,
    pub at: Option<Rev>,
}

/// What a range read gave. `rev` is the revision the read was made at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    pub entries: Vec<Entry>,
    pub rev: Rev,
    /// How many keys of the range come after the last entry.
    pub remaining: usize,
}

/// What must hold for a transaction to be carried out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Expect {
    Absent,
    /// The key's last write was this revision.
    At(Rev),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// With `ttl` the key is deleted that long after this write (rounded up to seconds), unless written again.
    Put {
        key: String,
        value: Bytes,
        ttl: Option<Duration>,
    },
    Delete {
        key: String,
    },
}

/// All of `expect`, or nothing is done. At most one operation per key.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Txn {
    pub expect: Vec<(String, Expect)>,
    pub ops: Vec<Op>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Carried out and durable, at this revision.
    Done(Rev),
    /// An expectation did not hold: what stands under each expected key, in the order asked; and the revision looked at.
    Refused { found: Vec<Option<Entry>>, rev: Rev },
}

/// Events in order. Each item is one or more events, never a part of a transaction; revisions never go back.
pub type Events = Pin<Box<dyn Stream<Item = Result<Vec<Event>, Error>> + Send>>;

/// Is told of commits: their transactions, each with its events, in revision order.
pub type Listener = Arc<dyn Fn(&[Arc<Vec<Event>>]) + Send + Sync>;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The revision asked for is gone: the oldest that can still be read is `oldest`.
    #[error("the required revision has been compacted (oldest {oldest})")]
    Compacted { oldest: Rev },
    /// The revision asked for has not happened yet.
    #[error("required revision is a future revision (newest {newest})")]
    Future { newest: Rev },
    /// The watcher fell so far behind that it was cut; it must list again or resume from what it has.
    #[error("watch was too slow and has been cut")]
    Slow,
    /// The back end does not answer. Of a write, where it may have been begun, no more is known (etcd says [`Error::Undecided`] then).
    #[error("store is unavailable: {0}")]
    Unavailable(String),
    /// A write was sent and not answered, and it could not be found out whether it was, or will be, carried out.
    #[error("the outcome of the write is unknown: {0}")]
    Undecided(String),
    /// Nothing was written, and nothing of it will be there at the next start. The disk is full, say; reads go on, and so do writes once they can.
    #[error("nothing was written: {0}")]
    Unwritten(String),
    /// The data directory is not ours, or is damaged; it was left untouched. The text says what to do.
    #[error("{0}")]
    Unusable(String),
    /// A request is over the store's limit on one transaction.
    #[error("request is too large: {0} bytes")]
    TooLarge(usize),
}

/// A back end. All of them pass one conformance test (`store/tests/conformance.rs`).
#[async_trait]
pub trait Store: Send + Sync + 'static {
    /// The newest revision. Linearizable: at least that of every write acknowledged before the call.
    async fn revision(&self) -> Result<Rev, Error>;
    /// One key as of now, linearizable.
    async fn get(&self, key: &str) -> Result<Option<Entry>, Error>;
    async fn range(&self, range: Range) -> Result<Page, Error>;
    async fn txn(&self, txn: Txn) -> Result<Outcome, Error>;
    /// Once it resolves, no transaction is carried out any more that anybody, in whatever process, sent before and nobody waits for: what is on its way is
    /// refused, and only its author could send it again. Nothing to do where transactions are carried out in the order they are asked for.
    async fn seal(&self) -> Result<(), Error> {
        Ok(())
    }
    /// All events under `prefix` with a revision above `after`. `Compacted` (at once or later) where history does not reach back.
    async fn watch(&self, prefix: &str, after: Rev) -> Result<Events, Error>;
    /// As a watch of everything, for as long as `listener` is not dropped, by whoever commits: once a commit is durable and current, and
    /// before its authors are answered. The listener must neither block nor call the store. `None`: nobody commits here, watch instead.
    fn listen(&self, after: Rev, listener: &Listener) -> Option<Result<(), Error>> {
        let _ = (after, listener);
        None
    }
    /// Whether writes are taken, for a store that knows: `None` where only asking tells.
    fn condition(&self) -> Option<watch::Receiver<Condition>> {
        None
    }
    /// Forgets history below `rev`; what is current stays.
    async fn compact(&self, rev: Rev) -> Result<(), Error>;
    /// Says goodbye: all acknowledged writes are on disk, files are closed.
    async fn close(&self);
}

impl Txn {
    /// Bytes of all keys and values written.
    pub(crate) fn size(&self) -> usize {
        let size = |op: &Op| match op {
            Op::Put { key, value, .. } => key.len() + value.len(),
            Op::Delete { key } => key.len(),
        };
        self.ops.iter().map(size).sum()
    }
}
