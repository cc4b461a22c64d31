//! Objects between their forms: served by one kind, stored as another, and bytes.

use std::{sync::Arc, time::Duration};

use api::{Gvk, Key, Status};
use bytes::{BufMut, Bytes, BytesMut};
use serde::{Serialize, Serializer, ser::SerializeMap};
use serde_json::{Map, Value};

use store::Rev;

use super::{meta, object::Object, registry::Served};
use crate::kind::{Came, Conversion, Converter, Kind, ReadStep, Storage};

/// Room for most objects.
const STORED_BYTES_USUAL: usize = 2048;
/// Of objects that are asked for together, as they are stored; a larger one goes alone.
const BATCH_BYTES_MAX: usize = 4 << 20;
/// How long one conversion may take (`defaultWebhookTimeout` of conversion webhooks).
const CONVERT_MAX: Duration = Duration::from_secs(30);

/// The value as `served` shows it, from a cached object.
///
/// # Errors
/// Those of a conversion that is asked for.
pub(crate) async fn value(served: &Served, object: &Object) -> Result<Value, Status> {
    match remote(served, object) {
        Some(converter) => {
            let converted = one(convert(&converter, &served.kind.gvk(), vec![object.value()]).await?)?;
            Ok(read(&served.kind, converted, Came::Converted))
        }
        None => Ok(value_at(served, object, object.rev)),
    }
}

/// The object as `served` shows it: itself, where nothing is converted.
///
/// # Errors
/// As of [`value`].
pub(crate) async fn view(served: &Served, object: Arc<Object>) -> Result<Arc<Object>, Status> {
    if is_as_stored(served, &object) {
        return Ok(object);
    }
    let value = value(served, &object).await?;
    if is_as_stored(served, &object) {
        return Ok(object);
    }
    Ok(Arc::new(Object::from_shown(&served.kind, object.key.clone(), bytes(&value), object.rev)))
}

/// Whether an object that `served` shows may be in another version, and has to be asked for.
pub(crate) fn is_remote(served: &Served) -> bool {
    matches!(served.kind.conversion, Conversion::Remote(_))
}

/// What has to be asked for of many, before they are written: a batch at a time, each object under its own revision. What [`value_at`] converts
/// itself stays as it is.
///
/// # Errors
/// As of [`value`]: then none is shown.
pub(crate) async fn views(served: &Served, objects: Vec<(Arc<Object>, Rev)>) -> Result<Vec<(Arc<Object>, Rev)>, Status> {
    let Conversion::Remote(converter) = &served.kind.conversion else { return Ok(objects) };
    let (mut out, to) = (objects, served.kind.gvk());
    let mut at = 0;
    while at < out.len() {
        let (mut batch, mut places, mut room) = (Vec::new(), Vec::new(), BATCH_BYTES_MAX);
        while let Some((object, rev)) = out.get(at).filter(|(object, _)| batch.is_empty() || object.stored().len() <= room) {
            if converts(served, object) {
                room = room.saturating_sub(object.stored().len());
                batch.push(object.value_at(*rev));
                places.push(at);
            }
            at += 1;
        }
        if batch.is_empty() {
            continue;
        }
        for (place, value) in places.into_iter().zip(convert(converter, &to, batch).await?) {
            if let Some((object, rev)) = out.get_mut(place) {
                let shown = bytes(&read(&served.kind, value, Came::Converted));
                *object = Arc::new(Object::from_shown(&served.kind, object.key.clone(), shown, *rev));
            }
        }
    }
    Ok(out)
}

/// As [`value`] under another resource version, of an object that needs no asking for.
pub(crate) fn value_at(served: &Served, object: &Object, rev: Rev) -> Value {
    let (kind, value) = (&served.kind, object.value_at(rev));
    if object.is_shown() {
        return value;
    }
    match &kind.conversion {
        Conversion::Direct(convert) if converts(served, object) => {
            let mut value = typed_as(kind, convert(&kind.gvk(), value));
            kind.schema.complete(&mut value);
            read(kind, value, Came::Converted)
        }
        Conversion::None | Conversion::Direct(_) | Conversion::Remote(_) => {
            let Some(step) = kind.read.as_ref().filter(|step| !object.is_unchanged_by(step.number())) else { return value };
            let mut shown = value.clone();
            step.run(&mut shown, Came::AsStored);
            // Most are as the step would have them: it was run when they were written. They are not gone through again.
            if shown == value {
                object.note_unchanged_by(step.number());
            }
            shown
        }
    }
}

fn read(kind: &Kind, mut value: Value, came: Came) -> Value {
    if let Some(step) = &kind.read {
        step.run(&mut value, came);
    }
    value
}

/// Whether an object is shown as it is stored.
pub(crate) fn is_as_stored(served: &Served, object: &Object) -> bool {
    let is_kept = |step: &ReadStep| object.is_unchanged_by(step.number());
    served.kind.read.as_ref().is_none_or(is_kept) && !converts(served, object)
}

/// Appends an object as `served` shows it, under the resource version `rev`; one that needs no asking for.
pub(crate) fn put_at(served: &Served, object: &Object, rev: Rev, out: &mut BytesMut) {
    if object.is_shown() || is_as_stored(served, object) {
        return object.put_at(rev, out);
    }
    let shown = value_at(served, object, rev);
    // That may have turned out just now.
    match is_as_stored(served, object) {
        true => object.put_at(rev, out),
        false => out.put_slice(&bytes(&shown)),
    }
}

/// The bytes that are stored: in the storage kind's form, without a resource version.
///
/// # Errors
/// Those of a conversion that is asked for.
pub(crate) async fn to_stored(served: &Served, value: &Value) -> Result<Bytes, Status> {
    let Some(cache) = served.cache.as_ref().filter(|_| served.is_kept_as_another()) else { return Ok(stored(&served.kind, value)) };
    let to = cache.kind.gvk();
    match &served.kind.conversion {
        Conversion::None => Ok(stored(&cache.kind, value)),
        Conversion::Direct(convert) => {
            let mut converted = convert(&to, value.clone());
            cache.kind.schema.complete(&mut converted);
            Ok(stored(&cache.kind, &converted))
        }
        Conversion::Remote(converter) => Ok(stored(&cache.kind, &one(convert(converter, &to, vec![value.clone()]).await?)?)),
    }
}

/// A value in another form, by the conversion of the kind that is not the stored one.
///
/// # Errors
/// Those of a conversion that is asked for.
pub(crate) async fn by(conversion: &Conversion, to: &Kind, value: Value) -> Result<Value, Status> {
    match conversion {
        Conversion::None => Ok(typed_as(to, value)),
        Conversion::Direct(convert) => {
            let mut converted = typed_as(to, convert(&to.gvk(), value));
            to.schema.complete(&mut converted);
            Ok(converted)
        }
        Conversion::Remote(converter) => one(convert(converter, &to.gvk(), vec![value]).await?),
    }
}

/// Whether the object is in another version than `served` shows.
fn converts(served: &Served, object: &Object) -> bool {
    match &served.kind.conversion {
        Conversion::None => false,
        Conversion::Direct(_) | Conversion::Remote(_) => !object.is_of(&served.kind.api_version()),
    }
}

fn remote(served: &Served, object: &Object) -> Option<Arc<dyn Converter>> {
    match &served.kind.conversion {
        Conversion::Remote(converter) if converts(served, object) => Some(converter.clone()),
        Conversion::None | Conversion::Direct(_) | Conversion::Remote(_) => None,
    }
}

/// Asks, and takes no answer that is of other objects (`validateConvertedObject`, in apiextensions-apiserver `pkg/apiserver/conversion`).
async fn convert(converter: &Arc<dyn Converter>, to: &Gvk, objects: Vec<Value>) -> Result<Vec<Value>, Status> {
    let identity = |object: &Value| ["uid", "name", "namespace"].map(|name| meta::text(object, name).to_owned());
    let before: Vec<_> = objects.iter().map(identity).collect();
    let answer = tokio::time::timeout(CONVERT_MAX, converter.convert(to, objects)).await;
    let refused = |why: &str| Status::internal(format!("conversion for {}, Kind={} failed: {why}", to.api_version(), to.kind));
    let converted = answer.map_err(|_| refused("no answer in time"))??;
    if converted.len() != before.len() {
        return Err(refused(&format!("expected {} objects, got {}", before.len(), converted.len())));
    }
    for (object, was) in converted.iter().zip(&before) {
        let is_version = object.get("apiVersion").and_then(Value::as_str) == Some(&*to.api_version());
        if !is_version || object.get("kind").and_then(Value::as_str) != Some(&*to.kind) {
            return Err(refused("a converted object is of another version or kind"));
        }
        if identity(object) != *was {
            return Err(refused("must not change metadata.name, metadata.namespace, metadata.uid"));
        }
    }
    Ok(converted)
}

fn one(converted: Vec<Value>) -> Result<Value, Status> {
    converted.into_iter().next().ok_or_else(|| Status::internal("a conversion gave nothing"))
}

/// The metadata where it is shown without the rest; `left_out` are [`crate::kind::Strategy::annotations_of_fields`].
pub(crate) fn metadata_alone(object: &Value, left_out: &[&str]) -> Value {
    let mut metadata = object.get("metadata").cloned().unwrap_or_else(|| Value::Object(Default::default()));
    if let Some(annotations) = metadata.get_mut("annotations").and_then(Value::as_object_mut).filter(|_| !left_out.is_empty()) {
        annotations.retain(|key, _| !left_out.contains(&key.as_str()));
        if annotations.is_empty()
            && let Some(metadata) = metadata.as_object_mut()
        {
            metadata.shift_remove("annotations");
        }
    }
    metadata
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

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn metadata_alone_lacks_what_is_kept_in_fields() {
        let object = json!({"metadata": {"name": "n", "annotations": {"a": "b", "c": "d"}}, "spec": {}});
        assert_eq!(metadata_alone(&object, &[]), object["metadata"]);
        assert_eq!(metadata_alone(&object, &["a"]), json!({"name": "n", "annotations": {"c": "d"}}));
        assert_eq!(metadata_alone(&object, &["a", "c"]), json!({"name": "n"}));
    }
}
