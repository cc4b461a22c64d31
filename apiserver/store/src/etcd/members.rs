//! Server names -> answers: a connection to each member of the cluster, and the next one where one does not answer.
//!
//! All requests go to one member until it fails. A balancer goes on asking a member that is dead or cut off for its share.

use std::{
    sync::atomic::{AtomicU64, AtomicUsize, Ordering},
    time::Duration,
};

use etcdpb::{Options, ResponseHeader, Wire, kv_client::KvClient, lease_client::LeaseClient, watch_client::WatchClient};
use tokio::time::{Instant, sleep, timeout};
use tonic::Status;

use super::words::{Verdict, judge, rev};
use crate::{Error, Rev};

/// For one member's answer to one request. etcd itself gives a request up after seven seconds.
pub(super) const ATTEMPT_BOUND: Duration = Duration::from_secs(5);
/// For an answer from any of them.
pub(super) const CALL_BOUND: Duration = Duration::from_secs(10);
/// Pause before the next member is asked; doubles.
const PAUSE: (Duration, Duration) = (Duration::from_millis(25), Duration::from_secs(1));
/// One message of etcd's; what would be larger is asked for in parts. (tonic's own bound is 4 MiB.)
const MESSAGE_BYTES_MAX: usize = 256 << 20;

pub(super) struct Members {
    members: Vec<Member>,
    /// Goes up by one when a member fails: whose turn it is, counted round.
    turn: AtomicUsize,
    newest: AtomicU64,
}

/// A connection, made when it is first used and again after it broke.
pub(super) struct Member {
    pub kv: KvClient<Wire>,
    pub watch: WatchClient<Wire>,
    pub lease: LeaseClient<Wire>,
}

/// Time left, and how long to wait before the next attempt.
pub(super) struct Patience {
    end: Instant,
    pause: Duration,
}

impl Members {
    /// Dials nobody yet.
    ///
    /// # Errors
    /// A name is no URL, or does not go with the TLS options.
    pub fn new(servers: &[String], options: &Options) -> Result<Self, Error> {
        let mut members = Vec::with_capacity(servers.len());
        for server in servers {
            let wire = etcdpb::wire(server, options).map_err(|error| Error::Unusable(format!("etcd at {server}: {error}")))?;
            members.push(Member {
                kv: KvClient::new(wire.clone()).max_decoding_message_size(MESSAGE_BYTES_MAX),
                watch: WatchClient::new(wire.clone()).max_decoding_message_size(MESSAGE_BYTES_MAX),
                lease: LeaseClient::new(wire),
            });
        }
        if members.is_empty() {
            return Err(Error::Unusable("no etcd server is named".into()));
        }
        Ok(Self { members, turn: AtomicUsize::new(0), newest: AtomicU64::new(0) })
    }

    /// Who answers now, and the turn, for [`Members::leave`].
    pub fn current(&self) -> (usize, &Member) {
        let turn = self.turn.load(Ordering::Relaxed);
        (turn, &self.members[turn % self.members.len()])
    }

    /// The member of this turn has failed; many may say so of the same turn.
    pub fn leave(&self, turn: usize) {
        // Somebody else has said so already: the next one is not to blame.
        let _ = self.turn.compare_exchange(turn, turn.wrapping_add(1), Ordering::Relaxed, Ordering::Relaxed);
    }

    /// The newest revision that any answer has told of.
    pub fn newest(&self) -> Rev {
        self.newest.load(Ordering::Acquire)
    }

    /// Takes note of an answer's revision, and returns it.
    pub fn note(&self, header: Option<&ResponseHeader>) -> Rev {
        let at = rev(header.map_or(0, |header| header.revision));
        self.newest.fetch_max(at, Ordering::AcqRel);
        at
    }

    /// Asks until there is an answer, for what may be asked twice.
    ///
    /// # Errors
    /// What etcd says against the request; [`Error::Unavailable`] where nobody answers in time, with the last reason.
    pub async fn call<T, F, A>(&self, bound: Duration, ask: F) -> Result<T, Error>
    where
        F: Fn(&Member) -> A,
        A: Future<Output = Result<tonic::Response<T>, Status>>,
    {
        let mut patience = Patience::new(bound);
        loop {
            match self.attempt(&patience, &ask).await {
                Ok(answer) => return Ok(answer),
                Err(Verdict::Final(error)) => return Err(error),
                Err(Verdict::NotDone(why) | Verdict::Unknown(why)) => patience.after(why).await?,
            }
        }
    }

    /// Asks one member once; one that fails has had its turn.
    pub async fn attempt<T, F, A>(&self, patience: &Patience, ask: &F) -> Result<T, Verdict>
    where
        F: Fn(&Member) -> A,
        A: Future<Output = Result<tonic::Response<T>, Status>>,
    {
        let (turn, member) = self.current();
        let verdict = match timeout(patience.left().min(ATTEMPT_BOUND), ask(member)).await {
            Ok(Ok(answer)) => return Ok(answer.into_inner()),
            Ok(Err(status)) => judge(&status),
            Err(_) => Verdict::Unknown("no answer in time".into()),
        };
        if !matches!(verdict, Verdict::Final(_)) {
            self.leave(turn);
        }
        Err(verdict)
    }
}

impl Patience {
    pub fn new(bound: Duration) -> Self {
        Self { end: Instant::now() + bound, pause: PAUSE.0 }
    }

    fn left(&self) -> Duration {
        self.end.saturating_duration_since(Instant::now())
    }

    /// Waits a little after a failure.
    ///
    /// # Errors
    /// [`Error::Unavailable`] with `why`, where time is up.
    pub async fn after(&mut self, why: String) -> Result<(), Error> {
        if self.left() <= self.pause {
            return Err(Error::Unavailable(why));
        }
        sleep(self.pause).await;
        self.pause = (self.pause * 2).min(PAUSE.1);
        Ok(())
    }
}
