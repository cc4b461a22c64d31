//! Objects -> the form that was asked for: as they are, as a Table, as metadata alone; JSON or YAML.

use std::sync::Arc;

use api::time::Timestamp;
use bytes::{BufMut, Bytes, BytesMut};
use http::StatusCode;
use serde_json::{Map, Value, json};

use super::negotiate::{Format, Include, Output, Shape};
use crate::{
    body::{Response, full},
    engine::Object,
    kind::Kind,
    wire,
};

/// Room for the metadata of most objects.
const PARTIAL_BYTES_USUAL: usize = 512;

/// The metadata of a list.
#[derive(Clone, Debug, Default)]
pub(crate) struct ListMeta {
    pub rev: u64,
    /// Empty for none.
    pub token: String,
    pub remaining: Option<usize>,
}

/// Whether a table carries its column definitions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Headers {
    Shown,
    Left,
}

impl ListMeta {
    pub fn value(&self) -> Value {
        let mut meta = Map::new();
        if self.rev > 0 {
            meta.insert("resourceVersion".into(), self.rev.to_string().into());
        }
        if !self.token.is_empty() {
            meta.insert("continue".into(), self.token.as_str().into());
        }
        if let Some(remaining) = self.remaining {
            meta.insert("remainingItemCount".into(), remaining.into());
        }
        Value::Object(meta)
    }
}

/// One object, of which `bytes` is the JSON.
pub(crate) fn object(kind: &Kind, output: &Output, code: StatusCode, bytes: Bytes, now: Timestamp) -> Response {
    if *output == (Output { format: Format::Json, shape: Shape::Plain }) {
        return wire::reply(code, "application/json", full(bytes));
    }
    let value: Value = serde_json::from_slice(&bytes).unwrap_or_default();
    let shaped = shaped(kind, &output.shape, value, Headers::Shown, now);
    encoded(output.format, code, &shaped)
}

/// One object in the shape asked for; a table has one row then.
pub(crate) fn shaped(kind: &Kind, shape: &Shape, object: Value, headers: Headers, now: Timestamp) -> Value {
    match shape {
        Shape::Plain => object,
        Shape::Partial { version } => partial(version, &object),
        Shape::Table { version, include } => {
            let meta = json!({"resourceVersion": object.pointer("/metadata/resourceVersion").cloned().unwrap_or_default()});
            table(kind, version, *include, meta, vec![object], headers, now)
        }
    }
}

/// A list of objects in the shape asked for.
pub(crate) fn list(kind: &Kind, shape: &Shape, meta: &ListMeta, objects: Vec<Value>, now: Timestamp) -> Value {
    match shape {
        Shape::Plain => json!({"kind": kind.list_kind(), "apiVersion": kind.api_version(), "metadata": meta.value(), "items": objects}),
        Shape::Partial { version } => {
            let items: Vec<Value> = objects.iter().map(|object| partial(version, object)).collect();
            let api_version = format!("meta.k8s.io/{version}");
            json!({"kind": "PartialObjectMetadataList", "apiVersion": api_version, "metadata": meta.value(), "items": items})
        }
        Shape::Table { version, include } => table(kind, version, *include, meta.value(), objects, Headers::Shown, now),
    }
}

/// Any value in the syntax asked for.
pub(crate) fn encoded(format: Format, code: StatusCode, value: &Value) -> Response {
    match format {
        Format::Json => wire::json(code, value),
        Format::Pretty => {
            let text = serde_json::to_string_pretty(value).unwrap_or_default();
            wire::reply(code, "application/json", full(text))
        }
        Format::Yaml => wire::reply(code, "application/yaml", full(serde_yaml::to_string(value).unwrap_or_default())),
    }
}

/// The metadata of a cached object, cut out of its bytes. Metadata is the same in all forms of a kind.
pub(crate) fn partial_bytes(version: &str, object: &Object, rev: u64) -> Option<Bytes> {
    let mut out = BytesMut::with_capacity(1024);
    put_partial(version, object, rev, &mut out).then(|| out.freeze())
}

/// All of a list that comes before its items, as JSON.
pub(crate) fn list_head(kind: &str, api_version: &str, meta: &ListMeta) -> String {
    let mut text = json!({"kind": kind, "apiVersion": api_version, "metadata": meta.value()}).to_string();
    text.pop();
    text.push_str(",\"items\":[");
    text
}

/// As [`list`] with [`Shape::Partial`], as JSON: no object is parsed.
pub(crate) fn partial_list_bytes(version: &str, meta: &ListMeta, objects: &[Arc<Object>]) -> Option<Bytes> {
    let head = list_head("PartialObjectMetadataList", &format!("meta.k8s.io/{version}"), meta);
    let mut out = BytesMut::with_capacity(head.len() + PARTIAL_BYTES_USUAL * objects.len());
    out.put_slice(head.as_bytes());
    for (at, object) in objects.iter().enumerate() {
        if at > 0 {
            out.put_u8(b',');
        }
        if !put_partial(version, object, object.rev, &mut out) {
            return None;
        }
    }
    out.put_slice(b"]}");
    Some(out.freeze())
}

/// False: its metadata could not be found.
fn put_partial(version: &str, object: &Object, rev: u64, out: &mut BytesMut) -> bool {
    out.put_slice(b"{\"kind\":\"PartialObjectMetadata\",\"apiVersion\":\"meta.k8s.io/");
    out.put_slice(version.as_bytes());
    out.put_slice(b"\",\"metadata\":");
    let found = object.put_metadata_at(rev, out);
    out.put_u8(b'}');
    found
}

fn partial(version: &str, object: &Value) -> Value {
    let metadata = object.get("metadata").cloned().unwrap_or_else(|| json!({}));
    json!({"kind": "PartialObjectMetadata", "apiVersion": format!("meta.k8s.io/{version}"), "metadata": metadata})
}

fn table(kind: &Kind, version: &str, include: Include, meta: Value, objects: Vec<Value>, headers: Headers, now: Timestamp) -> Value {
    let columns: Vec<Value> = match headers {
        Headers::Left => Vec::new(),
        Headers::Shown => kind.columns.iter().map(column).collect(),
    };
    let rows: Vec<Value> = objects.into_iter().map(|object| row(kind, version, include, object, now)).collect();
    json!({
        "kind": "Table", "apiVersion": format!("meta.k8s.io/{version}"), "metadata": meta,
        "columnDefinitions": if columns.is_empty() { Value::Null } else { Value::Array(columns) }, "rows": rows,
    })
}

fn column(column: &crate::kind::Column) -> Value {
    json!({
        "name": column.name, "type": column.typ, "format": column.format,
        "description": column.description, "priority": column.priority,
    })
}

fn row(kind: &Kind, version: &str, include: Include, object: Value, now: Timestamp) -> Value {
    let cells = kind.law.cells(&object, now);
    let shown = match include {
        Include::None => Value::Null,
        Include::Metadata => partial(version, &object),
        Include::Object => object,
    };
    json!({"cells": cells, "object": shown})
}

/// `Warning: 299 - "text"` for each text, once. Source: apiserver `pkg/endpoints/filters/warning.go`.
pub(crate) fn warn(response: &mut Response, warnings: &crate::engine::admit::Warnings) {
    let mut seen: Vec<String> = Vec::new();
    for text in std::mem::take(&mut *warnings.lock()) {
        let clean: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
        let quoted = format!("299 - \"{}\"", clean.replace('\\', "\\\\").replace('"', "\\\""));
        if seen.contains(&quoted) {
            continue;
        }
        if let Ok(value) = http::HeaderValue::from_bytes(quoted.as_bytes()) {
            response.headers_mut().append(http::header::WARNING, value);
        }
        seen.push(quoted);
    }
}
