//! Definitions and operations -> the OpenAPI v3 document of one group version.

use std::{
    io::{self, Write},
    sync::Arc,
};

use serde_json::{Map, Value, json};

use super::{
    definitions::{Definitions, lists},
    operations::{MEDIA, Operation, PATCHES, Parameter, operations},
    v2::{info, shared},
};
use crate::kind::Kind;

pub fn write(out: &mut impl Write, all: &Definitions<'_>, kinds: &[Arc<Kind>], group: &str, version: &str) -> io::Result<()> {
    let kinds: Vec<Arc<Kind>> = kinds.iter().filter(|k| k.group == group && k.version == version).cloned().collect();
    write!(out, r#"{{"openapi":"3.0.0","info":{},"paths":"#, info())?;
    serde_json::to_writer(&mut *out, &paths(all, &kinds))?;
    write!(out, r#","components":{{"securitySchemes":{},"schemas":{{"#, schemes())?;
    let needed = all.needed(&kinds).into_iter().filter_map(|name| all.value(name).map(|value| (name.to_owned(), value)));
    let mut separator = "";
    for (name, value) in needed.chain(lists(all, &kinds)) {
        write!(out, "{separator}{}:{}", json!(name), schema(&name, value))?;
        separator = ",";
    }
    write!(out, "}}}}}}")
}

fn schemes() -> Value {
    json!({"BearerToken": {"type": "apiKey", "name": "authorization", "in": "header", "description": "Bearer Token authentication"}})
}

fn paths(all: &Definitions<'_>, kinds: &[Arc<Kind>]) -> Map<String, Value> {
    let mut paths = Map::new();
    for operation in kinds.iter().flat_map(|kind| operations(kind, all)) {
        let item = paths.entry(operation.path.clone()).or_insert_with(|| json!({"parameters": shared(&operation.path, parameter)}));
        item[operation.method] = method(&operation);
    }
    paths
}

fn parameter(parameter: &Parameter, place: &str) -> Value {
    let mut out = json!({
        "name": parameter.name, "in": place, "description": parameter.description, "schema": {"type": parameter.typ, "uniqueItems": true},
    });
    if place == "path" {
        out["required"] = true.into();
    }
    out
}

fn method(operation: &Operation) -> Value {
    let reply = match &operation.reply {
        Some(name) => json!({"description": "OK", "content": content(name, &MEDIA)}),
        None => json!({"description": "OK", "content": {"*/*": {"schema": {"type": "string"}}}}),
    };
    let mut responses: Map<String, Value> = operation.codes.iter().map(|code| ((*code).to_owned(), reply.clone())).collect();
    responses.insert("401".into(), json!({"description": "Unauthorized"}));
    let mut out = json!({
        "operationId": operation.id, "description": operation.description, "tags": [operation.tag],
        "parameters": operation.parameters.iter().map(|p| parameter(p, "query")).collect::<Vec<_>>(), "responses": responses,
        "x-kubernetes-action": operation.action,
        "x-kubernetes-group-version-kind": {"group": operation.gvk.group, "version": operation.gvk.version, "kind": operation.gvk.kind},
    });
    if let Some(body) = &operation.body {
        let media: &[&str] = if operation.action == "patch" { &PATCHES } else { &["*/*"] };
        out["requestBody"] = json!({"content": content(body, media)});
        if !matches!(operation.action, "delete" | "deletecollection") {
            out["requestBody"]["required"] = true.into();
        }
    }
    out
}

fn content(name: &str, media: &[&str]) -> Value {
    media
        .iter()
        .map(|m| ((*m).to_owned(), json!({"schema": {"$ref": format!("#/components/schemas/{name}")}})))
        .collect::<Map<_, _>>()
        .into()
}

/// A v2 definition in v3's form.
fn schema(name: &str, mut value: Value) -> Value {
    let one_of = match name.rsplit('.').next() {
        Some("Quantity") => json!([{"type": "string"}, {"type": "number"}]),
        Some("IntOrString") => json!([{"type": "integer"}, {"type": "string"}]),
        _ => {
            refer(&mut value);
            return value;
        }
    };
    if let Some(map) = value.as_object_mut() {
        map.shift_remove("type");
        map.insert("oneOf".into(), one_of);
    }
    value
}

/// References may have no siblings in v3.
fn refer(value: &mut Value) {
    match value {
        Value::Object(map) => {
            map.values_mut().for_each(refer);
            let to = match map.get("$ref") {
                Some(Value::String(to)) => to.replace("#/definitions/", "#/components/schemas/"),
                _ => return,
            };
            map.shift_remove("$ref");
            match map.is_empty() {
                true => map.insert("$ref".into(), to.into()),
                false => map.insert("allOf".into(), json!([{"$ref": to}])),
            };
        }
        Value::Array(list) => list.iter_mut().for_each(refer),
        _ => {}
    }
}
