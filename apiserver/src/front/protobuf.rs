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
    engine::{Engine, Object, form, messages::Messages, registry::Served},
    kind::Kind,
    pace::Turn,
    schema::{ENVELOPE_END, Schema, enveloped, put_bytes, put_envelope, put_head},
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
    named_message(schema, value).map(|((api_version, kind), message)| enveloped(api_version, kind, &message))
}

/// Version and kind, and the message.
fn named_message<'v>(schema: &Schema, value: &'v Value) -> Option<((&'v str, &'v str), Vec<u8>)> {
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
    done.then_some(((api_version, kind), message))
}

/// A frame of a watch. `object` is what [`event`] made.
pub(crate) fn put_frame(out: &mut BytesMut, word: &str, object: &[u8]) {
    let mut head = Vec::with_capacity(16);
    put_bytes(&mut head, FIRST, word.as_bytes());
    out.put_u32(u32::try_from(head.len() + object.len()).unwrap_or(u32::MAX));
    out.put_slice(&head);
    out.put_slice(object);
}

/// The object of a watch's event, as the field of the frame that it is: a message in its envelope, in a `RawExtension`.
fn event(api_version: &str, kind: &str, message: &[u8]) -> Vec<u8> {
    let mut head = Vec::with_capacity(32 + api_version.len() + kind.len());
    put_envelope(&mut head, api_version, kind, message.len());
    let enveloped = head.len() + message.len() + ENVELOPE_END.len();
    let raw = 1 + varint_len(enveloped) + enveloped;
    let mut out = Vec::with_capacity(16 + raw);
    put_head(&mut out, SECOND, raw);
    put_head(&mut out, FIRST, enveloped);
    out.extend_from_slice(&head);
    out.extend_from_slice(message);
    out.extend_from_slice(ENVELOPE_END);
    out
}

/// One object as a watch shows it, as the field of the frame that it is.
pub(crate) fn shown(served: &Served, transform: &Transform, object: &Arc<Object>, rev: Rev, messages: &Messages) -> Option<Vec<u8>> {
    let (api_version, kind) = named(served, transform, "");
    let is_known = rev == object.rev && is_known(served, transform, object);
    if is_known && let Some(message) = object.message().as_ref() {
        return Some(event(&api_version, &kind, message.read()));
    }
    let mut message = Vec::with_capacity(object.stored().len());
    if !put_message(served, transform, object, rev, &mut message) {
        return None;
    }
    let shown = event(&api_version, &kind, &message);
    if is_known {
        // For the second time: it may be read for the third.
        if object.message_len().is_some() {
            messages.keep(object, message);
        } else {
            object.know_message_len(message.len());
        }
    }
    Some(shown)
}

/// Whether its message is that of what is stored, which is the same for all who ask.
fn is_known(served: &Served, transform: &Transform, object: &Object) -> bool {
    *transform == Transform::Plain && !object.is_shown() && form::is_as_stored(served, object)
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

/// A list with this metadata. How long it is comes first in it: what is not known of that is written to learn it, and kept where it is little.
pub(crate) async fn list(
    engine: &Engine,
    served: &Served,
    transform: &Transform,
    metadata: &Value,
    objects: Arc<Vec<Arc<Object>>>,
) -> Response {
    let mut head = Vec::new();
    served.kind.schema.put_meta("ListMeta", metadata.to_string().as_bytes(), FIRST, &mut head);
    let mut items = Items { served: served.clone(), transform: transform.clone(), messages: engine.messages.clone(), is_again: false };
    let (mut kept, mut kept_items, mut item, mut known_items, mut length) = (Vec::new(), 0, Vec::new(), 0, head.len());
    let mut turn = Turn::default();
    for (at, object) in objects.iter().enumerate() {
        if let Some(known) = object.message_len().filter(|_| is_known(served, transform, object)) {
            length += 1 + varint_len(known) + known;
            known_items += 1;
            turn.took(0);
        } else {
            item.clear();
            if items.put(object, &mut item).is_none() {
                return reply(StatusCode::OK, None);
            }
            length += item.len();
            if kept_items == at && kept.len() < KEPT_BYTES_MAX {
                kept.extend_from_slice(&item);
                kept_items += 1;
            }
            turn.took(object.stored().len());
        }
        turn.rest().await;
    }
    items.is_again = known_items * 2 > objects.len();
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
    let rest = List { items, objects, next: kept_items, begun: begun.into(), left: total as u64, turn };
    wire::reply(StatusCode::OK, MEDIA_TYPE, boxed(rest))
}

/// How the items of one list are written.
struct Items {
    served: Served,
    transform: Transform,
    messages: Arc<Messages>,
    /// Most of them were written before: they are kept from now on. What is listed but once is not.
    is_again: bool,
}

impl Items {
    /// How many bytes were parsed for it. `None`: it has no protobuf form, and nothing was put.
    fn put(&self, object: &Arc<Object>, out: &mut Vec<u8>) -> Option<usize> {
        let is_known = is_known(&self.served, &self.transform, object);
        if is_known && let Some(message) = object.message().as_ref() {
            put_bytes(out, SECOND, message.read());
            return Some(0);
        }
        let mut message = Vec::with_capacity(object.stored().len());
        if !put_message(&self.served, &self.transform, object, object.rev, &mut message) {
            return None;
        }
        put_bytes(out, SECOND, &message);
        if is_known {
            object.know_message_len(message.len());
            if self.is_again {
                self.messages.keep(object, message);
            }
        }
        Some(object.stored().len())
    }
}

fn varint_len(number: usize) -> usize {
    (usize::BITS - (number | 1).leading_zeros()).div_ceil(7) as usize
}

/// The end of a long list: only one chunk exists at a time.
struct List {
    items: Items,
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
                let Some(parsed) = self.items.put(&object, &mut out) else {
                    self.left = 0;
                    return Poll::Ready(Some(Err(NO_FORM.into())));
                };
                self.turn.took(parsed);
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
    named_message(schema, object).map_or_else(Vec::new, |((api_version, kind), message)| event(api_version, kind, &message))
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
        put_frame(&mut out, "ADDED", &event("v1", "K", b"xyz"));
        let enveloped = enveloped("v1", "K", b"xyz");
        let length = u8::try_from(enveloped.len()).unwrap();
        let frame = [b"\x0a\x05ADDED\x12".as_slice(), &[length + 2, 0x0a, length], &enveloped].concat();
        assert_eq!(out[..4], [0, 0, 0, u8::try_from(frame.len()).unwrap()]);
        assert_eq!(out[4..], frame);
    }
}
