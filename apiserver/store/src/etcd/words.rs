//! etcd's words <-> ours: entries, events, revisions, and what its errors say about the request.

use std::sync::Arc;

use bytes::Bytes;
use etcd_client::{Compare, CompareOp, KeyValue};

use crate::{Entry, Error, Event, Expect, Rev, index::TXN_BYTES_MAX};

/// What an error says of the request that it answers.
#[derive(Debug)]
pub(super) enum Verdict {
    /// It was not carried out, and will not be if it is made again.
    Final(Error),
    /// It was not carried out; another time or another member may do it.
    NotDone(String),
    /// Nobody knows: it may have been carried out, or may yet be.
    Unknown(String),
}

/// gRPC's codes (`google.golang.org/grpc/codes`) of errors that say nothing about the request: cancelled, unknown, deadline exceeded,
/// resource exhausted, aborted, internal, unavailable.
const PASSING: [i32; 7] = [1, 2, 4, 8, 10, 13, 14];

/// etcd's errors, by their texts (`api/v3rpc/rpctypes/error.go`).
pub(super) fn judge(error: &etcd_client::Error) -> Verdict {
    let etcd_client::Error::GRpcStatus(status) = error else { return Verdict::Unknown(error.to_string()) };
    let said = status.message();
    let has = |words: &str| said.contains(words);
    if has("has been compacted") {
        // The revision that is still there is not in the message.
        return Verdict::Final(Error::Compacted { oldest: 0 });
    }
    if has("is a future revision") {
        return Verdict::Final(Error::Future { newest: 0 });
    }
    // The last two are gRPC's: what we have sent is too large for etcd, or what it has sent for either side.
    if has("request is too large") || has("message larger than max") || has("message length too large") {
        return Verdict::Final(Error::TooLarge(TXN_BYTES_MAX));
    }
    if has("no leader") || has("too many requests") {
        return Verdict::NotDone(said.to_owned());
    }
    if has("space exceeded") || !PASSING.contains(&i32::from(status.code())) {
        return Verdict::Final(Error::Unavailable(said.to_owned()));
    }
    Verdict::Unknown(said.to_owned())
}

pub(super) fn compare((key, expect): &(String, Expect)) -> Compare {
    let at = match expect {
        Expect::Absent => 0,
        Expect::At(rev) => *rev,
    };
    unchanged(key, at)
}

/// The last write to `key` was `at`; 0 is none.
pub(super) fn unchanged(key: &str, at: Rev) -> Compare {
    Compare::mod_revision(key, CompareOp::Equal, number(at))
}

pub(super) fn entry(kv: KeyValue) -> Entry {
    let at = rev(kv.mod_revision());
    let (key, value) = kv.into_key_value();
    Entry { key: Arc::from(String::from_utf8_lossy(&key)), value: Bytes::from(value), rev: at }
}

pub(super) fn event(event: &etcd_client::Event) -> Option<Event> {
    let kv = event.kv()?;
    let prev = event.prev_kv().cloned().map(entry);
    Some(match event.event_type() {
        etcd_client::EventType::Put => Event::Put { entry: entry(kv.clone()), prev },
        etcd_client::EventType::Delete => {
            Event::Delete { key: Arc::from(String::from_utf8_lossy(kv.key())), rev: rev(kv.mod_revision()), prev }
        }
    })
}

pub(super) fn rev(revision: i64) -> Rev {
    Rev::try_from(revision).unwrap_or(0)
}

pub(super) fn number(rev: Rev) -> i64 {
    i64::try_from(rev).unwrap_or(i64::MAX)
}

/// The first key after all that begin with `prefix`.
pub(super) fn end_of(prefix: &str) -> Vec<u8> {
    let mut end = prefix.as_bytes().to_vec();
    while let Some(last) = end.pop() {
        if last < u8::MAX {
            end.push(last + 1);
            return end;
        }
    }
    vec![0]
}
