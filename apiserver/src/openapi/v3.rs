//! Definitions and operations -> the OpenAPI v3 document of one group version, or of one path beside them.

use std::io::{self, Write};

use serde_json::{Map, Value, json};

use super::{
    definitions::{Definitions, META},
    operations::{self, Operation, PathItem},
    parameters::Parameter,
    v2::{about, info},
};

/// `lists` are definitions that `all` does not have. `group` and `version` are empty for what has none.
pub fn write(
    out: &mut impl Write,
    all: &Definitions<'_>,
    operations: Vec<Operation>,
    lists: Vec<(String, Value)>,
    (group, version): (&str, &str),
) -> io::Result<()> {
    let list_meta = super::v2::list_meta();
    let more = (!lists.is_empty()).then_some(list_meta.as_str());
    let needed = all.needed(operations::named(&operations).into_iter().chain(more));
    let paths: Map<String, Value> = operations::paths(operations).iter().map(|(path, item)| (path.clone(), path_item(item))).collect();
    write!(out, r#"{{"openapi":"3.0.0","info":{},"paths":"#, info())?;
    serde_json::to_writer(&mut *out, &paths)?;
    write!(out, r#","components":{{"securitySchemes":{},"schemas":{{"#, schemes())?;
    let needed = needed.into_iter().filter_map(|name| all.value(name).map(|value| (name.to_owned(), value)));
    let mut separator = "";
    for (name, mut value) in needed.chain(lists) {
        keep_kinds_of(&name, &mut value, group, version);
        write!(out, "{separator}{}:{}", json!(name), schema(&name, value))?;
        separator = ",";
    }
    write!(out, "}}}}}}")
}

fn schemes() -> Value {
    json!({"BearerToken": {"type": "apiKey", "name": "authorization", "in": "header", "description": "Bearer Token authentication"}})
}

fn path_item(item: &PathItem) -> Value {
    let mut out = Map::new();
    if !item.shared.is_empty() {
        out.insert("parameters".into(), item.shared.iter().map(Parameter::v3).collect::<Vec<_>>().into());
    }
    for operation in &item.operations {
        out.insert(operation.method.into(), method(operation));
    }
    out.into()
}

fn method(operation: &Operation) -> Value {
    let content = |code: &str| {
        let schema = match &operation.reply {
            Some(name) => json!({"$ref": format!("#/components/schemas/{name}")}),
            None => json!({"type": "string"}),
        };
        json!({"description": operations::reason(code), "content": content(operation.produces, &schema)})
    };
    let mut responses: Map<String, Value> = operation.codes.iter().map(|code| ((*code).to_owned(), content(code))).collect();
    responses.insert("401".into(), json!({"description": "Unauthorized"}));
    let mut out = json!({
        "operationId": operation.id, "description": operation.description, "tags": [operation.tag], "responses": responses,
    });
    about(operation, &mut out);
    if !operation.parameters.is_empty() {
        out["parameters"] = operation.parameters.iter().map(Parameter::v3).collect::<Vec<_>>().into();
    }
    if let Some(body) = &operation.body {
        out["requestBody"] =
            json!({"content": self::content(operation.consumes, &json!({"$ref": format!("#/components/schemas/{body}")}))});
        if operation.method != "delete" {
            out["requestBody"]["required"] = true.into();
        }
    }
    out
}

fn content(media: &[&str], schema: &Value) -> Value {
    media.iter().map(|media| ((*media).to_owned(), json!({"schema": schema}))).collect::<Map<_, _>>().into()
}

/// Some definitions are of a kind in every group: of these, the document's own is told, and that of none.
fn keep_kinds_of(name: &str, definition: &mut Value, group: &str, version: &str) {
    if !name.starts_with(META) {
        return;
    }
    if let Some(Value::Array(kinds)) = definition.get_mut("x-kubernetes-group-version-kind") {
        kinds.retain(|kind| kind["group"] == "" || kind["group"] == group && kind["version"] == version);
    }
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
