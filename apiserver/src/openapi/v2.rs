//! Definitions and operations -> the OpenAPI v2 document.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{self, Write},
    sync::Arc,
};

use base64::{Engine as _, prelude::BASE64_URL_SAFE};
use serde_json::{Map, Value, json};

use super::{
    definitions::{Definitions, META, custom_lists},
    merge::Merged,
    operations::{self, Operation, PathItem},
    parameters::Parameter,
};
use crate::kind::Kind;

/// Whose descriptions and types clients that look for what a server can do read in place.
const NEVER_SHARED: [&str; 3] = ["name", "fieldValidation", "dryRun"];

/// What of the document is ours, besides definitions.
pub struct Own {
    pub paths: Map<String, Value>,
    pub shared: BTreeMap<String, Value>,
    /// The definitions that these name.
    named: BTreeSet<String>,
}

impl Own {
    /// Of [`operations`].
    pub fn of(operations: Vec<Operation>) -> Self {
        let mut shared = BTreeMap::new();
        let named = operations::named(&operations).into_iter().map(str::to_owned).collect();
        let of_operations = operations::paths(operations);
        let paths = of_operations.iter().map(|(path, item)| (path.clone(), path_item(item, &mut |p| share(p, &mut shared)))).collect();
        Self { paths, shared, named }
    }
}

pub fn write(out: &mut impl Write, all: &Definitions<'_>, kinds: &[Arc<Kind>], own: Own, others: &Merged) -> io::Result<()> {
    let lists = custom_lists(all, kinds);
    let Own { mut paths, mut shared, named } = own;
    let needed = all.needed(named.iter().map(String::as_str).chain([list_meta().as_str()]));
    paths.extend(others.paths.clone());
    shared.extend(others.parameters.clone());
    write!(out, r#"{{"swagger":"2.0","info":{},"security":{},"securityDefinitions":{},"paths":"#, info(), security(), schemes())?;
    serde_json::to_writer(&mut *out, &paths)?;
    write!(out, r#","parameters":"#)?;
    serde_json::to_writer(&mut *out, &shared)?;
    write!(out, r#","definitions":{{"#)?;
    let mut separator = "";
    let built_in = needed.into_iter().filter_map(|name| Some((name.to_owned(), all.value_in_v2(name)?)));
    let theirs = others.definitions.iter().map(|(name, value)| (name.clone(), value.clone()));
    for (name, value) in built_in.chain(lists).chain(theirs) {
        write!(out, "{separator}{}:{value}", json!(name))?;
        separator = ",";
    }
    write!(out, "}}}}")
}

/// All that the server has.
pub fn operations(all: &Definitions<'_>, kinds: &[Arc<Kind>]) -> Vec<Operation> {
    [operations::of_no_kind(kinds), operations::of_kinds(kinds, all)].concat()
}

pub fn list_meta() -> String {
    format!("{META}ListMeta")
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

/// `place` is asked where a parameter shall stand: itself, or a reference.
pub fn path_item(item: &PathItem, place: &mut dyn FnMut(Value) -> Value) -> Value {
    let mut out = Map::new();
    if !item.shared.is_empty() {
        out.insert("parameters".into(), item.shared.iter().map(|parameter| place(parameter.v2())).collect::<Vec<_>>().into());
    }
    for operation in &item.operations {
        out.insert(operation.method.into(), method(operation, place));
    }
    out.into()
}

/// Parameters that many operations have stand once (`deduplicateParameters`, in kube-openapi `pkg/builder/parameters.go`).
fn share(parameter: Value, shared: &mut BTreeMap<String, Value>) -> Value {
    let name = parameter["name"].as_str().unwrap_or_default();
    let own_schema = parameter["schema"]["$ref"].as_str().is_some_and(|to| !to.starts_with("#/definitions/io.k8s.apimachinery"));
    if NEVER_SHARED.contains(&name) || own_schema {
        return parameter;
    }
    let name = format!("{name}-{}", hash(&parameter.to_string()));
    let reference = json!({"$ref": format!("#/parameters/{name}")});
    shared.insert(name, parameter);
    reference
}

/// FNV-1 of the text, as upstream names it.
fn hash(text: &str) -> String {
    // Go writes these so.
    let text = text.replace('<', "\\u003c").replace('>', "\\u003e").replace('&', "\\u0026");
    let hash = text.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| hash.wrapping_mul(0x0100_0000_01b3) ^ u64::from(byte));
    BASE64_URL_SAFE.encode(hash.to_be_bytes().split_at(6).0)
}

fn method(operation: &Operation, place: &mut dyn FnMut(Value) -> Value) -> Value {
    let mut parameters: Vec<Value> = Vec::new();
    if let Some(body) = &operation.body {
        let mut parameter = json!({"name": "body", "in": "body"});
        if operation.method != "delete" {
            parameter["required"] = true.into();
        }
        parameter["schema"] = reference(body);
        parameters.push(place(parameter));
    }
    let at = operation.parameters.partition_point(|parameter| *parameter.name < *"body");
    let own = operation.parameters.iter().map(Parameter::v2).map(place);
    parameters.extend(own);
    // Sorted by name, the body among them.
    if let Some(before) = parameters.get_mut(..=at).filter(|_| operation.body.is_some()) {
        before.rotate_left(1);
    }
    let reply = |code: &str| match &operation.reply {
        Some(name) => json!({"description": operations::reason(code), "schema": reference(name)}),
        None => json!({"description": operations::reason(code), "schema": {"type": "string"}}),
    };
    let mut responses: Map<String, Value> = operation.codes.iter().map(|code| ((*code).to_owned(), reply(code))).collect();
    responses.insert("401".into(), json!({"description": "Unauthorized"}));
    let mut out = json!({
        "operationId": operation.id, "description": operation.description, "tags": [operation.tag], "schemes": ["https"],
        "responses": responses,
    });
    for (name, list) in [("consumes", operation.consumes), ("produces", operation.produces)] {
        if !list.is_empty() {
            out[name] = json!(list);
        }
    }
    if !parameters.is_empty() {
        out["parameters"] = parameters.into();
    }
    about(operation, &mut out);
    out
}

/// Which kind it is about, and what it does to it.
pub fn about(operation: &Operation, out: &mut Value) {
    if let Some(gvk) = &operation.gvk {
        out["x-kubernetes-action"] = operation.action.into();
        out["x-kubernetes-group-version-kind"] = json!({"group": gvk.group, "version": gvk.version, "kind": gvk.kind});
    }
}

fn reference(name: &str) -> Value {
    json!({"$ref": format!("#/definitions/{name}")})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shared_parameters_have_upstreams_names() {
        let parameter = json!({
            "uniqueItems": true, "type": "string",
            "description": "A selector to restrict the list of returned objects by their fields. Defaults to everything.",
            "name": "fieldSelector", "in": "query",
        });
        let mut shared = BTreeMap::new();
        assert_eq!(share(parameter, &mut shared), json!({"$ref": "#/parameters/fieldSelector-xIcQKXFG"}));
        let body = json!({"name": "body", "in": "body", "schema": {"$ref": format!("#/definitions/{META}DeleteOptions")}});
        assert_eq!(share(body, &mut shared), json!({"$ref": "#/parameters/body-2Y1dVQaQ"}));
        let own = json!({"name": "body", "in": "body", "schema": {"$ref": "#/definitions/io.k8s.api.core.v1.Pod"}});
        assert_eq!(share(own.clone(), &mut shared), own);
        assert_eq!(shared.len(), 2);
    }
}
