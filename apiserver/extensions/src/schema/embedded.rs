//! Resources within a custom resource -> what is wrong with their type and metadata. Source: `pkg/apiserver/schema/objectmeta/validation.go`.

use api::field_errors::FieldErrors;
use kinds::common::{Path, name_rules, well_formed};
use serde_json::{Map, Value};

use super::{Additional, Node};

/// `schemaobjectmeta.Validate`
pub fn embedded(schema: &Node, value: &Value, path: Path<'_>, causes: &mut FieldErrors) {
    match value {
        Value::Object(map) => {
            if schema.embedded {
                resource(map, path, causes);
            }
            for (key, value) in map {
                match (schema.properties.get(key), &schema.additional) {
                    (Some(node), _) => embedded(node, value, path.field(key), causes),
                    (None, Additional::Of(node)) => embedded(node, value, path.key(key), causes),
                    (None, _) => {}
                }
            }
        }
        Value::Array(list) => {
            let Some(items) = &schema.items else { return };
            for (index, element) in list.iter().enumerate() {
                embedded(items, element, path.index(index), causes);
            }
        }
        _ => {}
    }
}

fn resource(map: &Map<String, Value>, path: Path<'_>, causes: &mut FieldErrors) {
    for name in ["apiVersion", "kind"] {
        let at = path.field(name);
        match map.get(name) {
            None => causes.required(at, ""),
            Some(Value::String(text)) if text.is_empty() => causes.invalid(at, "", "must not be empty"),
            Some(Value::String(text)) if name == "kind" => {
                let errors = crate::names::label_1035(&text.to_lowercase());
                if !errors.is_empty() {
                    let why = format!("may have mixed case, but should otherwise match: {}", errors.join(","));
                    causes.invalid(at, text.as_str(), &why);
                }
            }
            Some(Value::String(text)) if text.matches('/').count() > 1 => {
                causes.invalid(at, text.as_str(), &format!("unexpected GroupVersion string: {text}"));
            }
            Some(Value::String(_)) => {}
            Some(other) => causes.invalid(at, other.clone(), "must be a string"),
        }
    }
    match map.get("metadata") {
        None | Some(Value::Null) => {}
        Some(Value::Object(metadata)) => meta(metadata, path.field("metadata"), causes),
        Some(other) => {
            let why = format!("json: cannot unmarshal {} into Go value of type v1.ObjectMeta", word(other));
            causes.invalid(path.field("metadata"), other.clone(), &why);
        }
    }
}

fn meta(metadata: &Map<String, Value>, path: Path<'_>, causes: &mut FieldErrors) {
    if let Some(namespace) = metadata.get("namespace").and_then(Value::as_str).filter(|text| !text.is_empty()) {
        well_formed(namespace, name_rules::dns_label(namespace), path.field("namespace"), causes);
    }
    for (name, value) in metadata.get("labels").and_then(Value::as_object).into_iter().flatten() {
        let at = path.field("labels");
        well_formed(name, name_rules::qualified(name), at, causes);
        match value {
            Value::String(text) => well_formed(text, name_rules::label_value(text), at, causes),
            other => causes.invalid(at, other.clone(), "must be a string"),
        }
    }
    for name in metadata.get("annotations").and_then(Value::as_object).into_iter().flatten().map(|(name, _)| name) {
        well_formed(name, name_rules::qualified(&name.to_lowercase()), path.field("annotations"), causes);
    }
}

fn word(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "bool",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}
