//! The etcd back end: the same contract, kept by an etcd cluster.
//!
//! etcd's own words are used as they are: `mod_revision` is [`Rev`], a lease carries a TTL. What a cluster adds is in the modules: another
//! member is asked where one fails (`members`), a write without an answer is settled (`settle`), ranges of any size are read in pages
//! (`pages`), watches resume (`watch`).

mod flight;
mod members;
mod pages;
mod settle;
mod tls;
mod watch;
mod words;

use std::{collections::HashMap, sync::Arc, time::Duration};

use async_trait::async_trait;
use etcdpb::{CompactionRequest, Compare, LeaseGrantRequest, Options, RangeRequest, RequestOp, TxnRequest, response_op::Response};
use tokio::time::Instant;

pub use self::tls::Tls;
use self::{
    flight::Flight,
    members::{CALL_BOUND, Members, Patience},
    settle::Fence,
    tls::Files,
    words::{Verdict, compare, delete, entry, number, one, put, read},
};
use crate::{Entry, Error, Events, Op, Outcome, Page, Range, Rev, Store, Txn, index::TXN_BYTES_MAX};

/// For the first answer, and for a connection to one server.
const OPEN_BOUND: Duration = Duration::from_secs(5);
const CONNECT_BOUND: Duration = Duration::from_secs(2);
/// A connection on which nothing comes is asked after the first, and given up after the second. etcd itself ends connections that ask
/// oftener than each five seconds (`--grpc-keepalive-min-time`).
const KEEP_ALIVE: (Duration, Duration) = (Duration::from_secs(6), Duration::from_secs(3));
/// Keys with the same TTL share a lease for this part of it, but no longer than [`LEASE_SHARED_MAX`] (upstream: `etcd3/lease_manager.go`).
const LEASE_SHARED_PART: u64 = 20;
const LEASE_SHARED_MAX: Duration = Duration::from_secs(60);

/// A store kept by etcd. See [`Store`].
pub struct Etcd {
    members: Arc<Members>,
    fence: Fence,
    /// By TTL in seconds: a lease that is still shared.
    leases: Flight<HashMap<u64, Lease>>,
}

struct Lease {
    id: i64,
    shared_until: Instant,
}

/// What one attempt at a transaction came to.
enum Tried {
    Outcome(Outcome),
    /// The fence has been moved.
    Fenced(Rev),
    Failed(Verdict),
}

/// # Errors
/// No server answers within a few seconds, or the TLS files cannot be used. The text says why, for each server.
pub async fn open(servers: &[String], tls: &Tls) -> Result<Etcd, Error> {
    let files = Files::read(servers, tls)?;
    let options = Options { connect_timeout: CONNECT_BOUND, keep_alive: KEEP_ALIVE, tls: files.as_ref().map(Files::options) };
    let members = Arc::new(Members::new(servers, &options)?);
    let why = match revision(&members, OPEN_BOUND).await {
        Ok(_) => return Ok(Etcd { members, fence: Fence::default(), leases: Flight::default() }),
        Err(error) => error.to_string(),
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
        newest(&self.members).await
    }

    async fn get(&self, key: &str) -> Result<Option<Entry>, Error> {
        let asked = self.members.call(CALL_BOUND, |member| {
            let (mut kv, key) = (member.kv.clone(), key.to_owned());
            async move { kv.range(one(key)).await }
        });
        let got = asked.await?;
        self.members.note(got.header.as_ref());
        Ok(got.kvs.into_iter().next().map(entry))
    }

    async fn range(&self, range: Range) -> Result<Page, Error> {
        pages::range(&self.members, range).await
    }

    async fn txn(&self, txn: Txn) -> Result<Outcome, Error> {
        let size = txn.size();
        if size > TXN_BYTES_MAX {
            return Err(Error::TooLarge(size));
        }
        let (since, mut patience) = (self.members.newest(), Patience::new(CALL_BOUND));
        loop {
            let fence = self.fence.known();
            let why = match self.attempt(&txn, fence, &patience).await? {
                Tried::Outcome(outcome) => return Ok(outcome),
                Tried::Fenced(at) => {
                    self.fence.learn(at);
                    "the fence was moved meanwhile".into()
                }
                Tried::Failed(Verdict::Final(error)) => return Err(error),
                Tried::Failed(Verdict::NotDone(why)) => why,
                Tried::Failed(Verdict::Unknown(why)) => {
                    tracing::info!(why, "a write to etcd was not answered; looking whether it was carried out");
                    match self.settle(&txn, fence, since).await? {
                        Some(rev) => return Ok(Outcome::Done(rev)),
                        None => why,
                    }
                }
            };
            patience.after(why).await?;
        }
    }

    async fn seal(&self) -> Result<(), Error> {
        self.fence.seal(&self.members).await.map(drop)
    }

    async fn watch(&self, prefix: &str, after: Rev) -> Result<Events, Error> {
        watch::watch(&self.members, prefix, after, watch::Before::Untold).await
    }

    async fn compact(&self, rev: Rev) -> Result<(), Error> {
        let asked = self.members.call(CALL_BOUND, |member| {
            let mut kv = member.kv.clone();
            async move { kv.compact(CompactionRequest { revision: number(rev) }).await }
        });
        match asked.await {
            // Somebody else has compacted further already, or we have, unheard.
            Ok(_) | Err(Error::Compacted { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    async fn close(&self) {}
}

impl Etcd {
    async fn attempt(&self, txn: &Txn, fence: Rev, patience: &Patience) -> Result<Tried, Error> {
        let guards = txn.expect.iter().map(compare).chain([Fence::guard(fence)]);
        let guards: Vec<Compare> = guards.collect();
        let reads: Vec<RequestOp> = txn.expect.iter().map(|(key, _)| read(key)).chain([Fence::read()]).collect();
        let mut writes = Vec::with_capacity(txn.ops.len());
        for op in &txn.ops {
            writes.push(self.write(op).await?);
        }
        let request = TxnRequest { compare: guards, success: writes, failure: reads };
        let ask = |member: &members::Member| {
            let (mut kv, request) = (member.kv.clone(), request.clone());
            async move { kv.txn(request).await }
        };
        let reply = match self.members.attempt(patience, &ask).await {
            Ok(reply) => reply,
            Err(verdict) => return Ok(Tried::Failed(self.without_lost_leases(verdict).await)),
        };
        let at = self.members.note(reply.header.as_ref());
        if reply.succeeded {
            return Ok(Tried::Outcome(Outcome::Done(at)));
        }
        let found = reply.responses.into_iter().map(|r| match r.response {
            Some(Response::ResponseRange(got)) => got.kvs.into_iter().next().map(entry),
            _ => None,
        });
        let mut found: Vec<Option<Entry>> = found.collect();
        let stands = found.pop().flatten().map_or(0, |fence| fence.rev);
        Ok(if stands == fence { Tried::Outcome(Outcome::Refused { found, rev: at }) } else { Tried::Fenced(stands) })
    }

    async fn write(&self, op: &Op) -> Result<RequestOp, Error> {
        Ok(match op {
            Op::Delete { key } => delete(key),
            Op::Put { key, value, ttl: None } => put(key, value, 0),
            Op::Put { key, value, ttl: Some(ttl) } => {
                let lease = self.lease(ttl.as_secs() + u64::from(ttl.subsec_nanos() > 0)).await?;
                put(key, value, lease)
            }
        })
    }

    async fn lease(&self, seconds: u64) -> Result<i64, Error> {
        let shared =
            |leases: &HashMap<u64, Lease>| leases.get(&seconds).filter(|lease| Instant::now() < lease.shared_until).map(|lease| lease.id);
        let grant = async |leases: &mut HashMap<u64, Lease>| {
            let shared = Duration::from_secs(seconds / LEASE_SHARED_PART).min(LEASE_SHARED_MAX);
            let ttl = i64::try_from(seconds + shared.as_secs()).unwrap_or(i64::MAX);
            let asked = self.members.call(CALL_BOUND, |member| {
                let mut client = member.lease.clone();
                async move { client.lease_grant(LeaseGrantRequest { ttl, id: 0 }).await }
            });
            let id = asked.await?.id;
            leases.insert(seconds, Lease { id, shared_until: Instant::now() + shared });
            Ok(id)
        };
        self.leases.join(shared, grant).await
    }

    /// A shared lease that etcd does not know any more (its clock and ours went apart) is not used again, and the write is.
    async fn without_lost_leases(&self, verdict: Verdict) -> Verdict {
        match verdict {
            Verdict::Final(Error::Unavailable(why)) if why.contains("lease not found") => {
                self.leases.forget().await;
                Verdict::NotDone(why)
            }
            other => other,
        }
    }
}

async fn newest(members: &Members) -> Result<Rev, Error> {
    revision(members, CALL_BOUND).await
}

/// Linearizable.
async fn revision(members: &Members, bound: Duration) -> Result<Rev, Error> {
    let asked = members.call(bound, |member| {
        let mut kv = member.kv.clone();
        async move { kv.range(RangeRequest { count_only: true, ..one("/") }).await }
    });
    Ok(members.note(asked.await?.header.as_ref()))
}
