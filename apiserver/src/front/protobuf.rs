//! Objects -> protobuf: alone, as a list, and as frames of a watch. Source: apimachinery `pkg/runtime/serializer/protobuf`.
//!
//! All of it is made of JSON bytes by the schema's table ([`crate::schema::Writer`]). A list says how long it is before its first item: its objects
//! are written once to know that, and what fits is kept for the reply.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::{BufMut, Bytes, BytesMut};
use http::StatusCode;
use http_body::{Frame, SizeHint};
use serde_json::Value;
use store::Rev;

use super::{negotiate::Transform, stream::CHUNK_BYTES};
use crate::{
    body::{BoxError, Response, boxed, full},
    engine::{Object, form, registry::Served},
    kind::Kind,
    pace::Turn,
    schema::{ENVELOPE_END, Schema, enveloped, put_bytes, put_envelope},
    wire,
};

pub(crate) const MEDIA_TYPE: &str = "application/vnd.kubernetes.protobuf";
pub(crate) const STREAM_MEDIA_TYPE: &str = "application/vnd.kubernetes.protobuf;stream=watch";
/// What is kept of a list that had to be written to know how long it is; the rest is written once more.
const KEPT_BYTES_MAX: usize = 4 << 20;
const NO_FORM: &str = "the object has no protobuf form";
/// Fields 1 and 2 that hold bytes.
const FIRST: u32 = 1 << 3 | 2;
const SECOND: u32 = 2 << 3 | 2;

/// An object of `kind` on its own. `None` where the schema does not know it.
pub(crate) fn object(kind: &Kind, json: &[u8]) -> Option<Vec<u8>> {
    let mut message = Vec::with_capacity(json.len());
    kind.schema.put_message(json, &mut message).then(|| enveloped(&kind.api_version(), &kind.kind, &message))
}

/// A value that names its kind, which need not be the schema's own.
pub(crate) fn value(schema: &Schema, value: &Value) -> Option<Vec<u8>> {
    let word = |name: &str| value.get(name).and_then(Value::as_str).unwrap_or_default();
    let (api_version, kind) = (word("apiVersion"), word("kind"));
    let mut message = Vec::new();
    let done = match kind {
        "PartialObjectMetadata" => {
            let metadata = value.get("metadata").map(Value::to_string).unwrap_or_default();
            schema.put_meta("ObjectMeta", metadata.as_bytes(), FIRST, &mut message)
        }
        _ => schema.put_message_of(api_version, kind, value.to_string().as_bytes(), &mut message),
    };
    done.then(|| enveloped(api_version, kind, &message))
}

/// A frame of a watch. `object` is what [`event`] made.
pub(crate) fn put_frame(out: &mut BytesMut, word: &str, object: &[u8]) {
    let mut head = Vec::with_capacity(16);
    put_bytes(&mut head, FIRST, word.as_bytes());
    out.put_u32(u32::try_from(head.len() + object.len()).unwrap_or(u32::MAX));
    out.put_slice(&head);
    out.put_slice(object);
}

/// The object of a watch's event, as the field of the frame that it is. `enveloped` is an object on its own.
pub(crate) fn event(enveloped: &[u8]) -> Vec<u8> {
    let mut raw = Vec::with_capacity(enveloped.len() + 16);
    put_bytes(&mut raw, FIRST, enveloped);
    let mut out = Vec::with_capacity(raw.len() + 8);
    put_bytes(&mut out, SECOND, &raw);
    out
}

/// One object as a watch shows it.
pub(crate) fn shown(served: &Served, transform: &Transform, object: &Object, rev: Rev) -> Option<Vec<u8>> {
    let mut message = Vec::with_capacity(object.stored().len());
    if !put_message(served, transform, object, rev, &mut message) {
        return None;
    }
    let (api_version, kind) = named(served, transform, "");
    Some(enveloped(&api_version, &kind, &message))
}

/// Version and kind of what is shown, or of its list.
fn named(served: &Served, transform: &Transform, list: &str) -> (String, String) {
    match transform {
        Transform::Partial { version, .. } => (format!("meta.k8s.io/{version}"), format!("PartialObjectMetadata{list}")),
        Transform::Plain | Transform::Table { .. } if list.is_empty() => (served.kind.api_version(), served.kind.kind.to_string()),
        Transform::Plain | Transform::Table { .. } => (served.kind.api_version(), served.kind.list_kind()),
    }
}

fn put_message(served: &Served, transform: &Transform, object: &Object, rev: Rev, out: &mut Vec<u8>) -> bool {
    let mut json = BytesMut::with_capacity(object.shown_len());
    let Transform::Partial { .. } = transform else {
        form::put_at(served, object, rev, &mut json);
        return served.kind.schema.put_message(&json, out);
    };
    let left_out = served.kind.strategy.annotations_of_fields();
    if !left_out.is_empty() || !object.put_metadata_at(rev, &mut json) {
        json.put_slice(form::metadata_alone(&form::value_at(served, object, rev), left_out).to_string().as_bytes());
    }
    served.kind.schema.put_meta("ObjectMeta", &json, FIRST, out)
}

/// A list with this metadata. One that is short is made at once.
pub(crate) async fn list(served: &Served, transform: &Transform, metadata: &Value, objects: Arc<Vec<Arc<Object>>>) -> Response {
    let mut head = Vec::new();
    served.kind.schema.put_meta("ListMeta", metadata.to_string().as_bytes(), FIRST, &mut head);
    let is_known = *transform == Transform::Plain && !served.converts();
    let (mut kept, mut kept_items, mut items, mut length) = (Vec::new(), 0, Vec::new(), head.len());
    let mut turn = Turn::default();
    for object in objects.iter() {
        let known = object.message_len().filter(|_| is_known && kept.len() >= KEPT_BYTES_MAX);
        if let Some(known) = known {
            length += 1 + varint_len(known) + known;
            turn.took(0);
        } else {
            items.clear();
            if !put_item(served, transform, object, is_known, &mut items) {
                return reply(StatusCode::OK, None);
            }
            length += items.len();
            if kept.len() < KEPT_BYTES_MAX {
                kept.extend_from_slice(&items);
                kept_items += 1;
            }
            turn.took(object.stored().len());
        }
        turn.rest().await;
    }
    let (api_version, kind) = named(served, transform, "List");
    let mut begun = Vec::with_capacity(64 + head.len() + kept.len());
    put_envelope(&mut begun, &api_version, &kind, length);
    let total = begun.len() + length + ENVELOPE_END.len();
    begun.extend_from_slice(&head);
    begun.extend_from_slice(&kept);
    if kept_items == objects.len() {
        begun.extend_from_slice(ENVELOPE_END);
        return wire::reply(StatusCode::OK, MEDIA_TYPE, full(begun));
    }
    let left = total as u64;
    let rest = List { served: served.clone(), transform: transform.clone(), objects, next: kept_items, begun: begun.into(), left, turn };
    wire::reply(StatusCode::OK, MEDIA_TYPE, boxed(rest))
}

/// `false`: it has no protobuf form, and nothing was put.
fn put_item(served: &Served, transform: &Transform, object: &Object, is_known: bool, out: &mut Vec<u8>) -> bool {
    let mut message = Vec::with_capacity(object.stored().len());
    if !put_message(served, transform, object, object.rev, &mut message) {
        return false;
    }
    if is_known {
        object.know_message_len(message.len());
    }
    put_bytes(out, SECOND, &message);
    true
}

fn varint_len(number: usize) -> usize {
    (usize::BITS - (number | 1).leading_zeros()).div_ceil(7) as usize
}

/// The end of a long list: only one chunk exists at a time.
struct List {
    served: Served,
    transform: Transform,
    objects: Arc<Vec<Arc<Object>>>,
    next: usize,
    /// What has been written and not yet sent.
    begun: Bytes,
    left: u64,
    turn: Turn,
}

impl http_body::Body for List {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        if self.left == 0 {
            return Poll::Ready(None);
        }
        let there = self.begun.len().min(CHUNK_BYTES);
        let mut chunk = self.begun.split_to(there);
        if chunk.is_empty() {
            ready!(self.turn.poll_rest(cx));
            let mut out = Vec::with_capacity(CHUNK_BYTES);
            while out.len() < CHUNK_BYTES && !self.turn.is_over() {
                let Some(object) = self.objects.get(self.next).cloned() else {
                    out.extend_from_slice(ENVELOPE_END);
                    break;
                };
                self.next += 1;
                if !put_item(&self.served, &self.transform, &object, false, &mut out) {
                    self.left = 0;
                    return Poll::Ready(Some(Err(NO_FORM.into())));
                }
                self.turn.took(object.stored().len());
            }
            chunk = out.into();
        }
        self.left = self.left.saturating_sub(chunk.len() as u64);
        Poll::Ready(Some(Ok(Frame::data(chunk))))
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}

/// What cannot be written in protobuf, which its schema has, would be a fault of ours.
pub(crate) fn reply(code: StatusCode, body: Option<Vec<u8>>) -> Response {
    match body {
        Some(body) => wire::reply(code, MEDIA_TYPE, full(body)),
        None => wire::refusal(&no_form()),
    }
}

/// What a reader is told of an object that cannot be written.
pub(crate) fn no_form() -> api::Status {
    api::Status::internal(NO_FORM)
}

/// A bookmark, or the status that ends a watch.
pub(crate) fn told(schema: &Schema, object: &Value) -> Vec<u8> {
    event(&value(schema, object).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_are_those_of_varints() {
        for (number, length) in [(0, 1), (127, 1), (128, 2), (16_383, 2), (16_384, 3), (1 << 28, 5)] {
            let mut out = Vec::new();
            put_bytes(&mut out, FIRST, &vec![0; if number > 1 << 20 { 0 } else { number }]);
            assert!(number > 1 << 20 || out.len() == 1 + varint_len(number) + number);
            assert_eq!(varint_len(number), length, "{number}");
        }
    }

    #[test]
    fn a_frame_says_how_long_it_is() {
        let mut out = BytesMut::new();
        put_frame(&mut out, "ADDED", &event(b"xyz"));
        assert_eq!(&out[..], b"\0\0\0\x0e\x0a\x05ADDED\x12\x05\x0a\x03xyz");
    }
}
