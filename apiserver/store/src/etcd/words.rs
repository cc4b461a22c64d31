//! etcd's words <-> ours: entries, events, revisions, and what its errors say about the request.

use std::sync::Arc;

use bytes::Bytes;
use etcdpb::{
    Compare, DeleteRangeRequest, KeyValue, PutRequest, RangeRequest, RequestOp,
    compare::{CompareResult, CompareTarget, TargetUnion},
    event::EventType,
    request_op::Request,
};
use tonic::Status;

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
pub(super) fn judge(status: &Status) -> Verdict {
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
    Compare {
        result: CompareResult::Equal.into(),
        target: CompareTarget::Mod.into(),
        key: key.into(),
        target_union: Some(TargetUnion::ModRevision(number(at))),
    }
}

/// One key, read at the newest revision.
pub(super) fn one(key: impl Into<Vec<u8>>) -> RangeRequest {
    RangeRequest { key: key.into(), ..RangeRequest::default() }
}

/// A step of a transaction.
pub(super) fn read(key: &str) -> RequestOp {
    RequestOp { request: Some(Request::RequestRange(one(key))) }
}

/// A step of a transaction; 0 is no lease.
pub(super) fn put(key: &str, value: &[u8], lease: i64) -> RequestOp {
    RequestOp { request: Some(Request::RequestPut(PutRequest { key: key.into(), value: value.into(), lease })) }
}

/// A step of a transaction.
pub(super) fn delete(key: &str) -> RequestOp {
    RequestOp { request: Some(Request::RequestDeleteRange(DeleteRangeRequest { key: key.into(), range_end: Vec::new() })) }
}

pub(super) fn entry(kv: KeyValue) -> Entry {
    Entry { key: Arc::from(String::from_utf8_lossy(&kv.key)), value: Bytes::from(kv.value), rev: rev(kv.mod_revision) }
}

pub(super) fn event(event: etcdpb::Event) -> Option<Event> {
    let deleted = event.r#type() == EventType::Delete;
    let (entry, prev) = (entry(event.kv?), event.prev_kv.map(entry));
    Some(if deleted { Event::Delete { key: entry.key, rev: entry.rev, prev } } else { Event::Put { entry, prev } })
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
