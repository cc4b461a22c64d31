//! The etcd back end: the same contract, kept by an etcd cluster.
//!
//! etcd's own words are used as they are: `mod_revision` is [`Rev`], a lease carries a TTL. Watches of etcd-client never reconnect:
//! they are resumed here, from the last revision seen.

mod tls;

use std::{collections::HashMap, sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use etcd_client::{
    Client, Compare, CompareOp, ConnectOptions, GetOptions, KeyValue, PutOptions, TxnOp, TxnOpResponse, WatchOptions, WatchStream,
};
use futures::stream;
use tokio::{sync::Mutex, time::Instant};

use self::tls::Files;
pub use self::tls::Tls;
use crate::{Entry, Error, Event, Events, Expect, Op, Outcome, Page, Range, Rev, Store, Txn, index::TXN_BYTES_MAX};

const CONNECT_BOUND: Duration = Duration::from_secs(5);
/// A read or write that takes longer has an unknown outcome.
const REQUEST_BOUND: Duration = Duration::from_secs(10);
const KEEP_ALIVE: Duration = Duration::from_secs(10);
const RETRY_MIN: Duration = Duration::from_millis(100);
const RETRY_MAX: Duration = Duration::from_secs(3);
/// Keys with the same TTL share a lease for this part of it, but no longer than [`LEASE_SHARED_MAX`] (upstream: `etcd3/lease_manager.go`).
const LEASE_SHARED_PART: u64 = 20;
const LEASE_SHARED_MAX: Duration = Duration::from_secs(60);

/// A store kept by etcd. See [`Store`].
pub struct Etcd {
    client: Client,
    /// By TTL in seconds: a lease that is still shared.
    leases: Mutex<HashMap<u64, Lease>>,
}

struct Lease {
    id: i64,
    shared_until: Instant,
}

/// A watch that resumes.
struct Following {
    client: Client,
    prefix: String,
    seen: Rev,
    stream: Option<WatchStream>,
    backoff: Duration,
}

/// # Errors
/// No server answers within a few seconds, or the TLS files cannot be used. The text says why, for each server.
pub async fn open(servers: &[String], tls: &Tls) -> Result<Etcd, Error> {
    let mut options = ConnectOptions::new()
        .with_connect_timeout(CONNECT_BOUND)
        .with_timeout(REQUEST_BOUND)
        .with_keep_alive(KEEP_ALIVE, KEEP_ALIVE)
        .with_keep_alive_while_idle(true);
    let files = Files::read(servers, tls)?;
    if let Some(files) = &files {
        options = options.with_tls(files.options());
    }
    let client = Client::connect(servers, Some(options)).await.map_err(explain)?;
    let store = Etcd { client, leases: Mutex::default() };
    let first = tokio::time::timeout(CONNECT_BOUND, store.revision()).await;
    let why = match first {
        Ok(Ok(_)) => return Ok(store),
        Ok(Err(error)) => error.to_string(),
        Err(_) => format!("no answer within {} s", CONNECT_BOUND.as_secs()),
    };
    let mut reasons = Vec::new();
    for server in servers {
        let seen = tls::diagnose(server, files.as_ref()).await;
        reasons.push(format!("etcd at {server} does not answer: {}", seen.as_ref().unwrap_or(&why)));
    }
    Err(Error::Unusable(reasons.join("; ")))
}

#[async_trait]
impl Store for Etcd {
    async fn revision(&self) -> Result<Rev, Error> {
        let options = GetOptions::new().with_count_only();
        let got = self.client.kv_client().get("/", Some(options)).await.map_err(explain)?;
        Ok(rev(got.header().map_or(0, |h| h.revision())))
    }

    async fn get(&self, key: &str) -> Result<Option<Entry>, Error> {
        let mut got = self.client.kv_client().get(key, None).await.map_err(explain)?;
        Ok(got.take_kvs().into_iter().next().map(entry))
    }

    async fn range(&self, range: Range) -> Result<Page, Error> {
        let end = end_of(&range.prefix);
        // The first key after `after` is `after` with a zero byte.
        let from = range.after.as_ref().map_or_else(|| range.prefix.clone().into_bytes(), |a| [a.as_bytes(), &[0]].concat());
        let mut options = GetOptions::new().with_range(end).with_limit(i64::try_from(range.limit).unwrap_or(0));
        if let Some(at) = range.at {
            options = options.with_revision(i64::try_from(at).unwrap_or(i64::MAX));
        }
        let mut got = match self.client.kv_client().get(from, Some(options)).await {
            Ok(got) => got,
            Err(error) => return Err(self.with_newest(explain(error)).await),
        };
        let newest = rev(got.header().map_or(0, |h| h.revision()));
        let total = usize::try_from(got.count()).unwrap_or(0);
        let entries: Vec<Entry> = got.take_kvs().into_iter().map(entry).collect();
        let remaining = total.saturating_sub(entries.len());
        Ok(Page { entries, rev: range.at.unwrap_or(newest), remaining })
    }

    async fn txn(&self, txn: Txn) -> Result<Outcome, Error> {
        let size = txn.size();
        if size > TXN_BYTES_MAX {
            return Err(Error::TooLarge(size));
        }
        let compares: Vec<Compare> = txn.expect.iter().map(compare).collect();
        let reads: Vec<TxnOp> = txn.expect.iter().map(|(key, _)| TxnOp::get(key.as_str(), None)).collect();
        let mut writes = Vec::with_capacity(txn.ops.len());
        for op in txn.ops {
            writes.push(self.write(op).await?);
        }
        let request = etcd_client::Txn::new().when(compares).and_then(writes).or_else(reads);
        let reply = self.client.kv_client().txn(request).await.map_err(explain)?;
        let at = rev(reply.header().map_or(0, |h| h.revision()));
        if reply.succeeded() {
            return Ok(Outcome::Done(at));
        }
        let found = reply.op_responses().into_iter().map(|r| match r {
            TxnOpResponse::Get(mut got) => got.take_kvs().into_iter().next().map(entry),
            _ => None,
        });
        Ok(Outcome::Refused { found: found.collect(), rev: at })
    }

    async fn watch(&self, prefix: &str, after: Rev) -> Result<Events, Error> {
        let mut following = Following { client: self.client.clone(), prefix: prefix.into(), seen: after, stream: None, backoff: RETRY_MIN };
        following.connect().await?;
        Ok(Box::pin(stream::unfold(Some(following), |following| async move {
            let mut following = following?;
            match following.next().await {
                Ok(events) => Some((Ok(events), Some(following))),
                Err(error) => Some((Err(error), None)),
            }
        })))
    }

    async fn compact(&self, rev: Rev) -> Result<(), Error> {
        match self.client.kv_client().compact(i64::try_from(rev).unwrap_or(i64::MAX), None).await.map_err(explain) {
            // Somebody else has compacted further already.
            Ok(_) | Err(Error::Compacted { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    async fn close(&self) {}
}

impl Etcd {
    async fn write(&self, op: Op) -> Result<TxnOp, Error> {
        Ok(match op {
            Op::Delete { key } => TxnOp::delete(key, None),
            Op::Put { key, value, ttl: None } => TxnOp::put(key, value.to_vec(), None),
            Op::Put { key, value, ttl: Some(ttl) } => {
                let lease = self.lease(ttl.as_secs() + u64::from(ttl.subsec_nanos() > 0)).await?;
                TxnOp::put(key, value.to_vec(), Some(PutOptions::new().with_lease(lease)))
            }
        })
    }

    async fn lease(&self, seconds: u64) -> Result<i64, Error> {
        let mut leases = self.leases.lock().await;
        if let Some(lease) = leases.get(&seconds)
            && Instant::now() < lease.shared_until
        {
            return Ok(lease.id);
        }
        let shared = Duration::from_secs(seconds / LEASE_SHARED_PART).min(LEASE_SHARED_MAX);
        let ttl = i64::try_from(seconds + shared.as_secs()).unwrap_or(i64::MAX);
        let id = self.client.lease_client().grant(ttl, None).await.map_err(explain)?.id();
        leases.insert(seconds, Lease { id, shared_until: Instant::now() + shared });
        Ok(id)
    }

    /// etcd's error does not say which revision is the newest.
    async fn with_newest(&self, error: Error) -> Error {
        match error {
            Error::Future { .. } => Error::Future { newest: self.revision().await.unwrap_or(0) },
            other => other,
        }
    }
}

impl Following {
    async fn next(&mut self) -> Result<Vec<Event>, Error> {
        loop {
            let message = match &mut self.stream {
                Some(stream) => stream.message().await,
                None => {
                    self.reconnect().await?;
                    continue;
                }
            };
            let Ok(Some(reply)) = message else {
                tracing::warn!(prefix = self.prefix, rev = self.seen, "watch on etcd broke; resuming");
                self.stream = None;
                continue;
            };
            if reply.compact_revision() > 0 {
                return Err(Error::Compacted { oldest: rev(reply.compact_revision()) });
            }
            if reply.canceled() {
                self.stream = None;
                continue;
            }
            let events: Vec<Event> = reply.events().iter().filter_map(event).filter(|e| e.rev() > self.seen).collect();
            if let Some(last) = events.last() {
                self.seen = last.rev();
                self.backoff = RETRY_MIN;
                return Ok(events);
            }
        }
    }

    async fn connect(&mut self) -> Result<(), Error> {
        let from = i64::try_from(self.seen + 1).unwrap_or(i64::MAX);
        let options = WatchOptions::new().with_range(end_of(&self.prefix)).with_start_revision(from).with_prev_key();
        self.stream = Some(self.client.watch_client().watch(self.prefix.as_str(), Some(options)).await.map_err(explain)?);
        Ok(())
    }

    async fn reconnect(&mut self) -> Result<(), Error> {
        tokio::time::sleep(self.backoff).await;
        self.backoff = (self.backoff * 2).min(RETRY_MAX);
        match self.connect().await {
            Ok(()) | Err(Error::Unavailable(_)) => Ok(()),
            Err(error) => Err(error),
        }
    }
}

fn compare((key, expect): &(String, Expect)) -> Compare {
    let at = match expect {
        Expect::Absent => 0,
        Expect::At(rev) => i64::try_from(*rev).unwrap_or(i64::MAX),
    };
    Compare::mod_revision(key.as_str(), CompareOp::Equal, at)
}

fn entry(kv: KeyValue) -> Entry {
    let at = rev(kv.mod_revision());
    let (key, value) = kv.into_key_value();
    Entry { key: Arc::from(String::from_utf8_lossy(&key)), value: Bytes::from(value), rev: at }
}

fn event(event: &etcd_client::Event) -> Option<Event> {
    let kv = event.kv()?;
    let prev = event.prev_kv().cloned().map(entry);
    Some(match event.event_type() {
        etcd_client::EventType::Put => Event::Put { entry: entry(kv.clone()), prev },
        etcd_client::EventType::Delete => {
            Event::Delete { key: Arc::from(String::from_utf8_lossy(kv.key())), rev: rev(kv.mod_revision()), prev }
        }
    })
}

fn rev(revision: i64) -> Rev {
    Rev::try_from(revision).unwrap_or(0)
}

/// The first key after all that begin with `prefix`.
fn end_of(prefix: &str) -> Vec<u8> {
    let mut end = prefix.as_bytes().to_vec();
    while let Some(last) = end.pop() {
        if last < u8::MAX {
            end.push(last + 1);
            return end;
        }
    }
    vec![0]
}

fn explain(error: etcd_client::Error) -> Error {
    let etcd_client::Error::GRpcStatus(status) = &error else { return Error::Unavailable(error.to_string()) };
    match status.message() {
        // The revision that is still there is not in the message.
        m if m.contains("has been compacted") => Error::Compacted { oldest: 0 },
        m if m.contains("is a future revision") => Error::Future { newest: 0 },
        m if m.contains("request is too large") => Error::TooLarge(TXN_BYTES_MAX),
        m => Error::Unavailable(m.to_owned()),
    }
}
