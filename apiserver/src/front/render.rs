//! Objects -> the form that was asked for: as they are, as a Table, as metadata alone; JSON or YAML.

use std::collections::HashSet;

use api::{Status, time::Timestamp};
use bytes::{BufMut, Bytes, BytesMut};
use http::StatusCode;
use serde_json::{Map, Value, json};

use super::{
    negotiate::{Answer, Format, Include, Output, Transform},
    protobuf, yaml,
};
use crate::{
    body::{Response, full},
    engine::{Object, form},
    kind::Kind,
    schema::Schema,
    wire,
};

/// Characters of all `Warning` headers together, and of each where all are more (`truncateAtTotalRunes`, `truncateItemRunes`).
const WARNINGS_CHARS_MAX: usize = 4 << 10;
const WARNING_CHARS_MAX: usize = 256;

/// The metadata of a list.
#[derive(Clone, Debug, Default)]
pub(crate) struct ListMeta {
    pub rev: u64,
    /// Empty for none.
    pub token: String,
    pub remaining: Option<usize>,
    /// Whether an empty token is told (lists of custom resources: `unstructured.UnstructuredList`).
    pub tells_no_token: bool,
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
        if !self.token.is_empty() || self.tells_no_token {
            meta.insert("continue".into(), self.token.as_str().into());
        }
        if let Some(remaining) = self.remaining {
            meta.insert("remainingItemCount".into(), remaining.into());
        }
        Value::Object(meta)
    }
}

/// One object, of which `bytes` is the JSON.
///
/// # Errors
/// It cannot be shown as it was asked for, although it is there.
pub(crate) fn object(kind: &Kind, output: &Output, code: StatusCode, bytes: Bytes, now: Timestamp) -> Result<Response, Status> {
    output.fits(kind, Answer::One)?;
    if *output == Output::JSON {
        return Ok(wire::reply(code, "application/json", full(line(bytes))));
    }
    if output.format == Format::Protobuf && output.transform == Transform::Plain {
        return Ok(protobuf::reply(code, protobuf::object(kind, &bytes)));
    }
    let value: Value = serde_json::from_slice(&bytes).unwrap_or_default();
    let transformed = transformed(kind, &output.transform, value, Headers::Shown, now);
    Ok(encoded(&kind.schema, output.format, code, &transformed))
}

/// One object as it was asked for; a table has one row then.
pub(crate) fn transformed(kind: &Kind, transform: &Transform, object: Value, headers: Headers, now: Timestamp) -> Value {
    match transform {
        Transform::Plain => object,
        Transform::Partial { version, .. } => partial(kind, version, &object),
        Transform::Table { version, include } => {
            let rev = object.pointer("/metadata/resourceVersion").filter(|rev| !rev.is_null());
            let meta = rev.map_or_else(|| json!({}), |rev| json!({"resourceVersion": rev}));
            table(kind, version, *include, meta, object, headers, now)
        }
    }
}

/// One of a list's items, or a table's rows.
pub(crate) fn item(kind: &Kind, transform: &Transform, object: Value, now: Timestamp) -> Value {
    match transform {
        Transform::Plain => object,
        Transform::Partial { version, .. } => partial(kind, version, &object),
        Transform::Table { version, include } => row(kind, version, *include, object, now),
    }
}

/// A table without its rows.
pub(crate) fn table_head(kind: &Kind, version: &str, meta: Value) -> Value {
    let columns: Vec<Value> = kind.columns.iter().map(column).collect();
    json!({
        "kind": "Table", "apiVersion": format!("meta.k8s.io/{version}"), "metadata": meta,
        "columnDefinitions": if columns.is_empty() { Value::Null } else { Value::Array(columns) },
    })
}

/// Any object that names its kind, in the syntax asked for; `schema` is of the tables that have its own.
pub(crate) fn encoded(schema: &Schema, format: Format, code: StatusCode, value: &Value) -> Response {
    match format {
        Format::Json => wire::json(code, value),
        Format::Pretty => {
            let text = serde_json::to_string_pretty(value).unwrap_or_default();
            wire::reply(code, "application/json", full(text))
        }
        Format::Protobuf => protobuf::reply(code, protobuf::value(schema, value)),
        Format::Yaml => wire::reply(code, "application/yaml", full(yaml::write(value))),
    }
}

/// The metadata of a cached object, cut out of its bytes. Metadata is the same in all forms of a kind.
pub(crate) fn partial_bytes(kind: &Kind, version: &str, object: &Object, rev: u64) -> Option<Bytes> {
    let mut out = BytesMut::with_capacity(1024);
    put_partial(kind, version, object, rev, &mut out).then(|| out.freeze())
}

/// All of a list that comes before its items, as JSON.
pub(crate) fn list_head(kind: &str, api_version: &str, meta: &ListMeta) -> String {
    let mut text = json!({"kind": kind, "apiVersion": api_version, "metadata": meta.value()}).to_string();
    text.pop();
    text.push_str(",\"items\":[");
    text
}

/// Writes the metadata of a cached object, cut out of its bytes. False: it could not be found, or not as it stands there, and nothing was written.
pub(crate) fn put_partial(kind: &Kind, version: &str, object: &Object, rev: u64, out: &mut BytesMut) -> bool {
    if !kind.strategy.annotations_of_fields().is_empty() {
        return false;
    }
    let before = out.len();
    out.put_slice(b"{\"kind\":\"PartialObjectMetadata\",\"apiVersion\":\"meta.k8s.io/");
    out.put_slice(version.as_bytes());
    out.put_slice(b"\",\"metadata\":");
    let found = object.put_metadata_at(rev, out);
    out.put_u8(b'}');
    if !found {
        out.truncate(before);
    }
    found
}

/// Ended as Go's encoder ends JSON.
fn line(json: Bytes) -> Bytes {
    let mut out = BytesMut::from(json);
    out.put_u8(b'\n');
    out.freeze()
}

fn partial(kind: &Kind, version: &str, object: &Value) -> Value {
    let metadata = form::metadata_alone(object, kind.strategy.annotations_of_fields());
    json!({"kind": "PartialObjectMetadata", "apiVersion": format!("meta.k8s.io/{version}"), "metadata": metadata})
}

fn table(kind: &Kind, version: &str, include: Include, meta: Value, object: Value, headers: Headers, now: Timestamp) -> Value {
    let mut table = table_head(kind, version, meta);
    if headers == Headers::Left {
        table["columnDefinitions"] = Value::Null;
    }
    table["rows"] = json!([row(kind, version, include, object, now)]);
    table
}

fn column(column: &crate::kind::Column) -> Value {
    json!({
        "name": column.name, "type": column.typ, "format": column.format,
        "description": column.description, "priority": column.priority,
    })
}

fn row(kind: &Kind, version: &str, include: Include, object: Value, now: Timestamp) -> Value {
    let cells = kind.strategy.cells(&object, now);
    let conditions = kind.strategy.row_conditions(&object);
    let shown = match include {
        Include::None => Value::Null,
        Include::Metadata => partial(kind, version, &object),
        Include::Object => object,
    };
    let mut row = json!({"cells": cells});
    if let Some(conditions) = conditions {
        row["conditions"] = conditions;
    }
    row["object"] = shown;
    row
}

/// `Warning: 299 - "text"` for each text, once. Source: apiserver `pkg/endpoints/filters/warning.go`.
pub(crate) fn warn(response: &mut Response, texts: Vec<String>) {
    for text in warnings_shown(texts) {
        let clean: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
        let quoted = format!("299 - \"{}\"", clean.replace('\\', "\\\\").replace('"', "\\\""));
        if let Ok(value) = http::HeaderValue::from_bytes(quoted.as_bytes()) {
            response.headers_mut().append(http::header::WARNING, value);
        }
    }
}

/// Each text once. If they are more than a header may carry, the beginnings of as many as fit.
fn warnings_shown(mut texts: Vec<String>) -> Vec<String> {
    let mut seen = HashSet::new();
    texts.retain(|text| !text.is_empty() && seen.insert(text.clone()));
    let chars = |text: &String| text.chars().count();
    if texts.iter().map(chars).sum::<usize>() <= WARNINGS_CHARS_MAX {
        return texts;
    }
    let mut left = WARNINGS_CHARS_MAX;
    let mut shortened: Vec<String> = texts.into_iter().map(|text| text.chars().take(WARNING_CHARS_MAX).collect()).collect();
    shortened.retain(|text| {
        let fits = left > 0;
        left = left.saturating_sub(chars(text));
        fits
    });
    shortened
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn warnings_have_upstreams_bounds() {
        let texts = |count: usize, chars: usize| (0..count).map(|i| format!("{i:04}{}", "ä".repeat(chars - 4))).collect::<Vec<_>>();
        assert_eq!(warnings_shown(texts(2, 2048)), texts(2, 2048), "as much as fits is whole");
        assert_eq!(warnings_shown([texts(1, 4096), texts(1, 4096)].concat()), texts(1, 4096), "each once");
        assert_eq!(warnings_shown(texts(3, 2000)), texts(3, 256), "then all are shortened");
        assert_eq!(warnings_shown(texts(9000, 2000)), texts(16, 256), "and end where the bound is reached");
        assert_eq!(warnings_shown(texts(1, 1 << 20)), texts(1, 256));
    }
}
