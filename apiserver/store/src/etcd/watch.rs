//! A revision -> all events after it: a watch that resumes, at another member where need be, and says so when it cannot.

use std::{sync::Arc, time::Duration};

use etcdpb::{WatchCreateRequest, WatchRequest, WatchResponse, watch_request::RequestUnion};
use futures::{StreamExt, stream};
use tonic::Streaming;

use super::{
    members::{ATTEMPT_BOUND, CALL_BOUND, Members, Patience},
    newest,
    words::{Verdict, end_of, event, judge, number, rev},
};
use crate::{Error, Event, Events, Rev};

const RETRY_MIN: Duration = Duration::from_millis(100);
const RETRY_MAX: Duration = Duration::from_secs(3);

/// Whether events say what stood there before: etcd reads and sends it for each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Before {
    Told,
    Untold,
}

struct Following {
    members: Arc<Members>,
    prefix: String,
    before: Before,
    seen: Rev,
    /// With the turn of the member that it comes from.
    stream: Option<(usize, Streaming<WatchResponse>)>,
    backoff: Duration,
}

/// See [`crate::Store::watch`].
pub(super) async fn watch(members: &Arc<Members>, prefix: &str, after: Rev, before: Before) -> Result<Events, Error> {
    let (members, prefix) = (members.clone(), prefix.into());
    let mut following = Following { members, prefix, before, seen: after, stream: None, backoff: RETRY_MIN };
    let mut patience = Patience::new(CALL_BOUND);
    while let Err(verdict) = following.connect().await {
        match verdict {
            Verdict::Final(error) => return Err(error),
            Verdict::NotDone(why) | Verdict::Unknown(why) => patience.after(why).await?,
        }
    }
    Ok(Box::pin(stream::unfold(Some(following), |following| async move {
        let mut following = following?;
        match following.next().await {
            Ok(events) => Some((Ok(events), Some(following))),
            Err(error) => Some((Err(error), None)),
        }
    })))
}

impl Following {
    async fn next(&mut self) -> Result<Vec<Event>, Error> {
        loop {
            let Some((turn, stream)) = &mut self.stream else {
                self.reconnect().await?;
                continue;
            };
            let turn = *turn;
            let reply = match stream.message().await {
                Ok(Some(reply)) => reply,
                Ok(None) => {
                    self.broken(turn, "the stream ended");
                    continue;
                }
                Err(error) => match judge(&error) {
                    // More was missed than fits into a message: what is there now is read in parts instead.
                    Verdict::Final(Error::TooLarge(_)) => return Err(Error::Slow),
                    _ => {
                        self.broken(turn, &error.to_string());
                        continue;
                    }
                },
            };
            let ended = reply.canceled.then(|| reply.cancel_reason.clone());
            let events = self.take(reply).await?;
            if let Some(why) = ended {
                self.broken(turn, &why);
            }
            if !events.is_empty() {
                return Ok(events);
            }
        }
    }

    async fn take(&mut self, reply: WatchResponse) -> Result<Vec<Event>, Error> {
        if reply.compact_revision > 0 {
            return Err(Error::Compacted { oldest: rev(reply.compact_revision) });
        }
        let at = self.members.note(reply.header.as_ref());
        if reply.created && at < self.seen {
            // This member lags behind, or the cluster has been put back to an older state: then what we have seen has not happened.
            let newest = newest(&self.members).await?;
            if newest < self.seen {
                return Err(Error::Future { newest });
            }
        }
        let events: Vec<Event> = reply.events.into_iter().filter_map(event).filter(|e| e.rev() > self.seen).collect();
        if let Some(last) = events.last() {
            self.seen = last.rev();
            self.backoff = RETRY_MIN;
        }
        Ok(events)
    }

    fn broken(&mut self, turn: usize, why: &str) {
        tracing::warn!(prefix = self.prefix, rev = self.seen, why, "watch on etcd broke; resuming");
        self.members.leave(turn);
        self.stream = None;
    }

    async fn connect(&mut self) -> Result<(), Verdict> {
        let create = WatchCreateRequest {
            key: self.prefix.as_bytes().to_vec(),
            range_end: end_of(&self.prefix),
            start_revision: number(self.seen + 1),
            prev_kv: self.before == Before::Told,
        };
        // Our side stays open: where it ends, etcd ends the watch.
        let asked = stream::iter([WatchRequest { request_union: Some(RequestUnion::CreateRequest(create)) }]).chain(stream::pending());
        let (turn, member) = self.members.current();
        let mut client = member.watch.clone();
        let verdict = match tokio::time::timeout(ATTEMPT_BOUND, client.watch(asked)).await {
            Ok(Ok(stream)) => {
                self.stream = Some((turn, stream.into_inner()));
                return Ok(());
            }
            Ok(Err(error)) => judge(&error),
            Err(_) => Verdict::Unknown("no answer in time".into()),
        };
        self.members.leave(turn);
        Err(verdict)
    }

    async fn reconnect(&mut self) -> Result<(), Error> {
        tokio::time::sleep(self.backoff).await;
        self.backoff = (self.backoff * 2).min(RETRY_MAX);
        match self.connect().await {
            Err(Verdict::Final(error)) if !matches!(error, Error::Unavailable(_)) => Err(error),
            _ => Ok(()),
        }
    }
}
