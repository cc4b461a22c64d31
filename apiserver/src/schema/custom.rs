//! A custom resource's own schema -> a structural table like that of built-in kinds.

use serde_json::Value;

use super::{Definition, Field, ListType, MapType, Semantics, Table, Type};

/// The table and the index of its root. Objects inside get the names of their fields.
pub fn table(name: &str, schema: &Value) -> (Table, u32) {
    let mut table = Table::default();
    let root = object(&mut table, name, schema, Root::Yes);
    (table, root)
}

#[derive(PartialEq)]
enum Root {
    Yes,
    No,
}

fn object(table: &mut Table, name: &str, schema: &Value, root: Root) -> u32 {
    let mut fields: Vec<Field> = schema["properties"]
        .as_object()
        .into_iter()
        .flatten()
        .filter(|(field, _)| root == Root::No || !["apiVersion", "kind", "metadata"].contains(&field.as_str()))
        .map(|(field, property)| {
            let typ = typ(table, &format!("{name}.{field}"), property);
            Field { name: field.clone().into(), typ, absent_if_zero: false, semantics: semantics(property) }
        })
        .collect();
    let embedded = schema["x-kubernetes-embedded-resource"] == true;
    if root == Root::Yes || embedded {
        let own = [("apiVersion", Type::String), ("kind", Type::String), ("metadata", Type::Any)];
        let missing: Vec<_> = own.into_iter().filter(|(own, _)| !fields.iter().any(|f| f.name == *own)).collect();
        fields.extend(missing.into_iter().map(|(name, typ)| Field { name: name.into(), typ, absent_if_zero: false, semantics: None }));
    }
    fields.sort_by(|a, b| a.name.cmp(&b.name));
    let open = schema["x-kubernetes-preserve-unknown-fields"] == true;
    let atomic = schema["x-kubernetes-map-type"] == "atomic";
    table.push(Definition { name: name.to_owned().into(), fields, open, atomic })
}

fn typ(table: &mut Table, name: &str, schema: &Value) -> Type {
    if schema["x-kubernetes-int-or-string"] == true {
        return Type::IntOrString;
    }
    match (schema["type"].as_str(), schema["format"].as_str()) {
        (Some("string"), Some("byte")) => Type::Bytes,
        (Some("string"), _) => Type::String,
        (Some("boolean"), _) => Type::Bool,
        (Some("integer"), Some("int32")) => Type::Int32,
        (Some("integer"), _) => Type::Int64,
        (Some("number"), _) => Type::Double,
        (Some("array"), _) => {
            let element = typ(table, name, &schema["items"]);
            Type::List(table.push_element(element))
        }
        (Some("object"), _) if schema["additionalProperties"].is_object() => {
            let element = typ(table, name, &schema["additionalProperties"]);
            Type::Map(table.push_element(element))
        }
        (Some("object"), _) if schema["additionalProperties"] == true => Type::Any,
        (Some("object"), _) => Type::Object(object(table, name, schema, Root::No)),
        _ => Type::Any,
    }
}

fn semantics(schema: &Value) -> Option<Box<Semantics>> {
    let list_type = match schema["x-kubernetes-list-type"].as_str() {
        Some("map") => ListType::Map,
        Some("set") => ListType::Set,
        _ => ListType::Atomic,
    };
    let map_type = if schema["x-kubernetes-map-type"] == "atomic" { MapType::Atomic } else { MapType::Granular };
    let keys = schema["x-kubernetes-list-map-keys"].as_array().into_iter().flatten().filter_map(Value::as_str);
    let semantics = Semantics { list_type, map_type, map_keys: keys.map(|k| k.to_owned().into()).collect(), ..Semantics::default() };
    (semantics != Semantics::default()).then(|| Box::new(semantics))
}

#[cfg(test)]
mod tests {
    use api::Gvk;
    use serde_json::json;

    use crate::{decode::FieldValidation, schema};

    #[test]
    fn a_custom_schema_prunes_like_a_built_in_one() {
        let schema = schema::Schema::custom(
            "Widget",
            &json!({"type": "object", "properties": {
                "spec": {"type": "object", "properties": {"size": {"type": "integer"}, "free": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}}},
                "parts": {"type": "array", "items": {"type": "object", "properties": {"name": {"type": "string"}}}, "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"]},
            }}),
        );
        let mut widget = json!({
            "apiVersion": "x/v1", "kind": "Widget", "metadata": {"name": "a"},
            "spec": {"size": 1, "free": {"a": 1}, "gone": 1}, "parts": [{"name": "x", "y": 1}],
        });
        let gvk = Gvk::new("x", "v1", "Widget");
        let warnings = schema::check(&schema, &gvk, &mut widget, &[], FieldValidation::Warn).unwrap();
        assert_eq!(warnings, [r#"unknown field "spec.gone""#, r#"unknown field "parts[0].y""#]);
        assert_eq!(widget["spec"], json!({"size": 1, "free": {"a": 1}}));
        assert_eq!(schema.root().field("parts").unwrap().semantics.as_ref().unwrap().map_keys, ["name"]);
    }
}
