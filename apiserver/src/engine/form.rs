//! Objects between their forms: served by one kind, stored as another, and bytes.

use std::{sync::Arc, time::Duration};

use api::{Gvk, Key, Status};
use bytes::{BufMut, Bytes, BytesMut};
use serde::{Serialize, Serializer, ser::SerializeMap};
use serde_json::{Map, Value};

use super::{object::Object, registry::Served};
use crate::kind::{Kind, Storage};

/// Room for most objects.
const STORED_BYTES_USUAL: usize = 2048;

/// The value as `served` shows it, from a cached object.
pub(crate) fn value(served: &Served, object: &Object) -> Value {
    value_at(served, object, object.rev)
}

/// As [`value`] under another resource version.
pub(crate) fn value_at(served: &Served, object: &Object, rev: u64) -> Value {
    let value = object.value_at(rev);
    if served.converts() { typed_as(&served.kind, served.kind.strategy.served_form(value)) } else { value }
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
pub(crate) fn to_stored(served: &Served, value: &Value) -> Bytes {
    match served.cache.as_ref().filter(|_| served.converts()) {
        Some(cache) => stored(&cache.kind, &served.kind.strategy.stored_form(value.clone())),
        None => stored(&served.kind, value),
    }
}

/// Written out as [`typed_as`] orders it, without a copy of the object.
fn stored(kind: &Kind, value: &Value) -> Bytes {
    let Value::Object(map) = value else { return bytes(value) };
    let mut out = Vec::with_capacity(STORED_BYTES_USUAL);
    serde_json::to_writer(&mut out, &Stored { kind, map }).expect("a value can be written to memory");
    out.into_boxed_slice().into()
}

struct Stored<'a> {
    kind: &'a Kind,
    map: &'a Map<String, Value>,
}

impl Serialize for Stored<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut out = serializer.serialize_map(None)?;
        out.serialize_entry("kind", &*self.kind.kind)?;
        out.serialize_entry("apiVersion", &self.kind.api_version())?;
        match self.map.get("metadata") {
            Some(Value::Object(metadata)) => out.serialize_entry("metadata", &Unversioned(metadata))?,
            // Nothing can be stored without: the version goes into it.
            _ => out.serialize_entry("metadata", &Unversioned(&Map::new()))?,
        }
        for (name, value) in self.map.iter().filter(|(name, _)| !matches!(name.as_str(), "kind" | "apiVersion" | "metadata")) {
            out.serialize_entry(name, value)?;
        }
        out.end()
    }
}

/// Metadata without its resource version.
struct Unversioned<'a>(&'a Map<String, Value>);

impl Serialize for Unversioned<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().filter(|(name, _)| *name != "resourceVersion"))
    }
}

/// `kind`, `apiVersion` and `metadata` come first, as upstream writes them; a reader finds the metadata at once.
pub(crate) fn typed_as(kind: &Kind, value: Value) -> Value {
    named_as(&kind.gvk(), value)
}

/// As [`typed_as`], of a body that is of no kind of the registry.
pub(crate) fn named_as(gvk: &Gvk, value: Value) -> Value {
    let Value::Object(mut rest) = value else { return value };
    let mut out = Map::with_capacity(rest.len() + 2);
    out.insert("kind".into(), gvk.kind.as_str().into());
    out.insert("apiVersion".into(), gvk.api_version().into());
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
        // As upstream where the request's own time is up: the client has to look.
        store::Error::Undecided(_) => {
            tracing::warn!(%error, "store did not say what became of a write");
            Status::timeout(error.to_string())
        }
        error => Status::internal(error),
    }
}
