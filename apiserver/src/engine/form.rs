//! Objects between their forms: served by one kind, stored as another, and bytes.

use std::{sync::Arc, time::Duration};

use api::{Key, Status};
use bytes::{BufMut, Bytes, BytesMut};
use serde_json::{Map, Value};

use super::{meta, object::Object, table::Served};
use crate::kind::{Kind, Storage};

/// The value as `served` shows it, from a cached object.
pub(crate) fn value(served: &Served, object: &Object) -> Value {
    value_at(served, object, object.rev)
}

/// As [`value`] under another resource version.
pub(crate) fn value_at(served: &Served, object: &Object, rev: u64) -> Value {
    let value = object.value_at(rev);
    if served.converts() { typed_as(&served.kind, served.kind.law.served_form(value)) } else { value }
}

/// The object as `served` shows it: itself, where nothing is converted.
pub(crate) fn view(served: &Served, object: Arc<Object>) -> Arc<Object> {
    if !served.converts() {
        return object;
    }
    let bytes = bytes(&value(served, &object));
    Arc::new(Object::from_shown(&served.kind, object.key.clone(), bytes, object.rev))
}

/// Appends an object as `served` shows it, under the resource version `rev`.
pub(crate) fn put_at(served: &Served, object: &Object, rev: u64, out: &mut BytesMut) {
    if served.converts() {
        out.put_slice(&bytes(&value_at(served, object, rev)));
    } else {
        object.put_at(rev, out);
    }
}

/// The bytes that are stored: in the storage kind's form, without a resource version.
pub(crate) fn to_stored(served: &Served, mut value: Value) -> Bytes {
    if let Some(cache) = served.cache.as_ref().filter(|_| served.converts()) {
        value = typed_as(&cache.kind, served.kind.law.stored_form(value));
    } else {
        value = typed_as(&served.kind, value);
    }
    meta::of(&mut value).shift_remove("resourceVersion");
    bytes(&value)
}

/// `kind`, `apiVersion` and `metadata` come first, as upstream writes them; a reader finds the metadata at once.
pub(crate) fn typed_as(kind: &Kind, value: Value) -> Value {
    let Value::Object(mut rest) = value else { return value };
    let mut out = Map::with_capacity(rest.len() + 2);
    out.insert("kind".into(), kind.kind.as_ref().into());
    out.insert("apiVersion".into(), kind.api_version().into());
    rest.shift_remove("kind");
    rest.shift_remove("apiVersion");
    if let Some(meta) = rest.shift_remove("metadata") {
        out.insert("metadata".into(), meta);
    }
    out.extend(rest);
    Value::Object(out)
}

/// An object that is not in the store: the reply to a dry run or a review.
pub(crate) fn loose(key: Key, value: &Value) -> Arc<Object> {
    Arc::new(Object::loose(key, bytes(value)))
}

/// In a buffer of exactly their size: what is stored stays in memory.
pub(crate) fn bytes(value: &Value) -> Bytes {
    value.to_string().into_bytes().into_boxed_slice().into()
}

pub(crate) fn ttl(kind: &Kind) -> Option<Duration> {
    match &kind.storage {
        Storage::Kept { ttl_seconds, .. } => ttl_seconds.map(Duration::from_secs),
        _ => None,
    }
}

/// A body whose fields have the wrong types.
pub(crate) fn mistyped(kind: &Kind, why: &str) -> Status {
    let Kind { kind, version, .. } = kind;
    Status::bad_request(format!("{kind} in version {version:?} cannot be handled as a {kind}: {why}"))
}

pub(crate) fn store_error(error: store::Error) -> Status {
    match error {
        store::Error::TooLarge(_) => Status::too_large(format!("Request entity too large: {error}")),
        store::Error::Unavailable(_) => {
            tracing::warn!(%error, "store failed a request");
            Status::unavailable(error.to_string())
        }
        error => Status::internal(error),
    }
}
