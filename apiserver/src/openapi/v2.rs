//! Definitions and operations -> the OpenAPI v2 document.

use std::{
    io::{self, Write},
    sync::Arc,
};

use serde_json::{Map, Value, json};

use super::{
    definitions::{Definitions, lists},
    merge::Merged,
    operations::{MEDIA, NAME, NAMESPACE, Operation, PATCHES, PRETTY, Parameter, operations},
};
use crate::kind::Kind;

pub fn write(out: &mut impl Write, all: &Definitions<'_>, kinds: &[Arc<Kind>], others: &Merged) -> io::Result<()> {
    write!(out, r#"{{"swagger":"2.0","info":{},"security":{},"securityDefinitions":{},"paths":"#, info(), security(), schemes())?;
    let mut paths = paths(all, kinds);
    paths.extend(others.paths.clone());
    serde_json::to_writer(&mut *out, &paths)?;
    write!(out, r#","definitions":{{"#)?;
    let mut separator = "";
    for name in all.needed(kinds) {
        write!(out, "{separator}{}:{}", json!(name), all.text(name).unwrap_or("{}"))?;
        separator = ",";
    }
    let lists = lists(all, kinds);
    for (name, value) in lists.iter().map(|(name, value)| (name, value)).chain(&others.definitions) {
        write!(out, "{separator}{}:{value}", json!(name))?;
        separator = ",";
    }
    write!(out, "}}}}")
}

pub fn info() -> Value {
    json!({"title": "Kubernetes", "version": crate::version::GIT_VERSION})
}

fn security() -> Value {
    json!([{"BearerToken": []}])
}

fn schemes() -> Value {
    json!({"BearerToken": {"type": "apiKey", "name": "authorization", "in": "header", "description": "Bearer Token authentication"}})
}

/// Path -> its methods and the parameters that they share.
pub fn paths(all: &Definitions<'_>, kinds: &[Arc<Kind>]) -> Map<String, Value> {
    let mut paths = Map::new();
    for operation in kinds.iter().flat_map(|kind| operations(kind, all)) {
        let item = paths.entry(operation.path.clone()).or_insert_with(|| json!({"parameters": shared(&operation.path, path_parameter)}));
        item[operation.method] = method(&operation);
    }
    paths
}

/// The parameters that a path itself implies.
pub fn shared(path: &str, write: fn(&Parameter, &str) -> Value) -> Vec<Value> {
    let mut out = Vec::new();
    for parameter in [&NAME, &NAMESPACE] {
        if path.contains(&format!("{{{}}}", parameter.name)) {
            out.push(write(parameter, "path"));
        }
    }
    out.push(write(&PRETTY, "query"));
    out
}

fn path_parameter(parameter: &Parameter, place: &str) -> Value {
    let mut out = json!({
        "name": parameter.name, "in": place, "type": parameter.typ, "uniqueItems": true, "description": parameter.description,
    });
    if place == "path" {
        out["required"] = true.into();
    }
    out
}

fn method(operation: &Operation) -> Value {
    let mut parameters: Vec<Value> = operation.parameters.iter().map(|p| path_parameter(p, "query")).collect();
    if let Some(body) = &operation.body {
        parameters.insert(0, json!({"name": "body", "in": "body", "required": operation.action != "delete" && operation.action != "deletecollection", "schema": reference(body)}));
    }
    let reply = match &operation.reply {
        Some(name) => json!({"description": "OK", "schema": reference(name)}),
        None => json!({"description": "OK", "schema": {"type": "string"}}),
    };
    let mut responses: Map<String, Value> = operation.codes.iter().map(|code| ((*code).to_owned(), reply.clone())).collect();
    responses.insert("401".into(), json!({"description": "Unauthorized"}));
    let consumes: &[&str] = if operation.action == "patch" { &PATCHES } else { &["*/*"] };
    json!({
        "operationId": operation.id, "description": operation.description, "tags": [operation.tag], "schemes": ["https"],
        "consumes": consumes, "produces": MEDIA, "parameters": parameters, "responses": responses,
        "x-kubernetes-action": operation.action,
        "x-kubernetes-group-version-kind": {"group": operation.gvk.group, "version": operation.gvk.version, "kind": operation.gvk.kind},
    })
}

fn reference(name: &str) -> Value {
    json!({"$ref": format!("#/definitions/{name}")})
}
