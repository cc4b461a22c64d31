//! A write without an answer -> done, or never to be done: a fence is moved, and the history before it is read.
//!
//! A request whose answer was lost may have been carried out, and a member that was paused may carry it out much later. So every
//! transaction also asks that one key, the fence, be as it was: once that is written anew, what has not been carried out cannot be
//! any more, and what has been stands in the history between the last revision known before and the fence.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use etcdpb::{Compare, PutRequest, RequestOp};
use futures::StreamExt;

use super::{
    Etcd,
    flight::Flight,
    members::{CALL_BOUND, Members},
    watch::{Before, watch},
    words::{read, unchanged},
};
use crate::{Entry, Error, Event, Expect, Op, Rev, Txn};

/// Beside upstream's `/registry`, and after it in key order. All servers share it: moving it costs the others a second try.
const FENCE: &str = "/skiff/fence";
const HISTORY_BOUND: Duration = Duration::from_secs(10);

#[derive(Default)]
pub(super) struct Fence {
    /// Its last write as far as we know; a transaction that is refused for it learns better.
    known: AtomicU64,
    /// When we moved it last.
    moved: Flight<Rev>,
}

impl Fence {
    pub fn known(&self) -> Rev {
        self.known.load(Ordering::Acquire)
    }

    pub fn learn(&self, rev: Rev) {
        self.known.store(rev, Ordering::Release);
    }

    /// Moves it, whoever moved it before: every transaction that was sent until now is refused. Its revision.
    pub async fn seal(&self, members: &Members) -> Result<Rev, Error> {
        self.moved.join(|_| None, async |moved| self.put(members, moved).await).await
    }

    async fn put(&self, members: &Members, moved: &mut Rev) -> Result<Rev, Error> {
        let asked = members.call(CALL_BOUND, |member| {
            let mut kv = member.kv.clone();
            async move { kv.put(PutRequest { key: FENCE.into(), ..PutRequest::default() }).await }
        });
        let at = members.note(asked.await?.header.as_ref());
        self.learn(at);
        *moved = at;
        Ok(at)
    }

    /// What a transaction asks for, that knows the fence at `rev`.
    pub fn guard(rev: Rev) -> Compare {
        unchanged(FENCE, rev)
    }

    /// Reads it, for a transaction that was refused.
    pub fn read() -> RequestOp {
        read(FENCE)
    }
}

impl Etcd {
    /// When `txn` was carried out, that was sent after `since` with the fence at `fence`; `None`: it was not, and never will be.
    ///
    /// # Errors
    /// [`Error::Undecided`], where etcd does not answer.
    pub(super) async fn settle(&self, txn: &Txn, fence: Rev, since: Rev) -> Result<Option<Rev>, Error> {
        let moved = self.move_fence(fence).await.map_err(undecided)?;
        match tokio::time::timeout(HISTORY_BOUND, self.look_back(txn, since, moved)).await {
            Ok(found) => found.map_err(undecided),
            Err(_) => Err(Error::Undecided("its history was not told in time".into())),
        }
    }

    /// The fence's revision once it is not at `from` any more. Many wait for one move.
    async fn move_fence(&self, from: Rev) -> Result<Rev, Error> {
        let further = |moved: &Rev| Some(*moved).filter(|moved| *moved > from);
        self.fence.moved.join(further, async |moved| self.fence.put(&self.members, moved).await).await
    }

    async fn look_back(&self, txn: &Txn, since: Rev, fence: Rev) -> Result<Option<Rev>, Error> {
        let mut history = watch(&self.members, "", since, Before::Told).await?;
        while let Some(events) = history.next().await {
            for one in events?.chunk_by(|a, b| a.rev() == b.rev()) {
                match one.first().map(Event::rev) {
                    Some(rev) if rev >= fence => return Ok(None),
                    Some(rev) if is(txn, one) => return Ok(Some(rev)),
                    _ => {}
                }
            }
        }
        Err(Error::Unavailable("the watch ended".into()))
    }
}

fn undecided(error: Error) -> Error {
    Error::Undecided(error.to_string())
}

/// Whether these events are `txn`: each of its operations, on what it expected. (Another's that is the same in all of this is as good.)
fn is(txn: &Txn, events: &[Event]) -> bool {
    let expected = |key: &str, prev: Option<&Entry>| match txn.expect.iter().find(|(k, _)| k == key) {
        None => true,
        Some((_, Expect::Absent)) => prev.is_none(),
        Some((_, Expect::At(rev))) => prev.is_some_and(|prev| prev.rev == *rev),
    };
    let told = |op: &Op| {
        match op {
        Op::Put { key, value, .. } => events.iter().any(|event| {
            matches!(event, Event::Put { entry, prev } if *entry.key == **key && entry.value == value && expected(key, prev.as_ref()))
        }),
        Op::Delete { key } => {
            events.iter().any(|event| matches!(event, Event::Delete { key: k, prev, .. } if **k == **key && expected(key, prev.as_ref())))
        }
    }
    };
    !txn.ops.is_empty() && txn.ops.iter().all(told)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use bytes::Bytes;

    use super::*;

    fn entry(key: &str, value: &'static str, rev: Rev) -> Entry {
        Entry { key: Arc::from(key), value: Bytes::from_static(value.as_bytes()), rev }
    }

    fn put(key: &str, value: &'static str) -> Op {
        Op::Put { key: key.into(), value: Bytes::from_static(value.as_bytes()), ttl: None }
    }

    #[test]
    fn a_transaction_is_known_by_what_it_wrote_and_what_it_expected() {
        let create = Txn { expect: vec![("/a".into(), Expect::Absent)], ops: vec![put("/a", "1")] };
        let fresh = Event::Put { entry: entry("/a", "1", 9), prev: None };
        assert!(is(&create, std::slice::from_ref(&fresh)));
        for other in [
            Event::Put { entry: entry("/a", "2", 9), prev: None },
            Event::Put { entry: entry("/b", "1", 9), prev: None },
            Event::Put { entry: entry("/a", "1", 9), prev: Some(entry("/a", "0", 5)) },
            Event::Delete { key: Arc::from("/a"), rev: 9, prev: Some(entry("/a", "1", 5)) },
        ] {
            assert!(!is(&create, &[other]));
        }
        let delete = Txn { expect: vec![("/a".into(), Expect::At(5))], ops: vec![Op::Delete { key: "/a".into() }] };
        let gone = |rev| Event::Delete { key: Arc::from("/a"), rev: 9, prev: Some(entry("/a", "1", rev)) };
        assert!(is(&delete, &[gone(5)]) && !is(&delete, &[gone(6)]));
        let both = Txn { expect: vec![], ops: vec![put("/a", "1"), Op::Delete { key: "/b".into() }] };
        assert!(!is(&both, std::slice::from_ref(&fresh)), "a part is not the whole");
        assert!(is(&both, &[fresh, Event::Delete { key: Arc::from("/b"), rev: 9, prev: None }]));
        assert!(!is(&Txn::default(), &[gone(5)]));
    }
}
