//! `api/openapi-spec` of a checkout -> its definitions: those of version 3, with references as version 2 writes them. Version 3 has all that version 2
//! has, and defaults.

use std::{collections::BTreeMap, fs, path::Path};

use serde_json::{Value, json};

pub fn read(upstream: &Path) -> BTreeMap<String, Value> {
    let spec = upstream.join("api/openapi-spec");
    let v2 = document(&spec.join("swagger.json"));
    let mut definitions = BTreeMap::new();
    let mut files: Vec<_> = fs::read_dir(spec.join("v3")).expect("there are documents").filter_map(Result::ok).map(|e| e.path()).collect();
    files.sort();
    for file in files {
        let document = document(&file);
        for (name, schema) in document["components"]["schemas"].as_object().into_iter().flatten() {
            definitions.entry(name.clone()).or_insert_with(|| as_v2(schema.clone()));
        }
    }
    for (name, definition) in &mut definitions {
        let old = &v2["definitions"][name];
        // Of each document's group only, there.
        if let Some(kinds) = old.get("x-kubernetes-group-version-kind") {
            definition["x-kubernetes-group-version-kind"] = kinds.clone();
        }
        if definition.as_object_mut().is_some_and(|map| map.remove("oneOf").is_some()) {
            definition["type"] = old["type"].clone();
        }
    }
    definitions
}

pub fn document(file: &Path) -> Value {
    let text = fs::read(file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    serde_json::from_slice(&text).expect("a document is JSON")
}

/// A reference has siblings.
fn as_v2(schema: Value) -> Value {
    match schema {
        Value::Object(mut map) => {
            let only = match map.get("allOf") {
                Some(Value::Array(list)) if list.len() == 1 => list[0].get("$ref").cloned(),
                _ => None,
            };
            if let Some(to) = only {
                map.remove("allOf");
                map.insert("$ref".into(), to);
            }
            if let Some(Value::String(to)) = map.get_mut("$ref") {
                *to = to.replace("#/components/schemas/", "#/definitions/");
            }
            map.into_iter().map(|(key, value)| (key, as_v2(value))).collect::<serde_json::Map<_, _>>().into()
        }
        Value::Array(list) => json!(list.into_iter().map(as_v2).collect::<Vec<_>>()),
        plain => plain,
    }
}
