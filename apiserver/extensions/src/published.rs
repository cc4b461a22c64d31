//! A version's definition in OpenAPI v3 -> what v2 publishes of it. Source: `pkg/controller/openapi/{builder,v2}`.

use serde_json::{Map, Value};

/// What OpenAPI v2 has no words for, and what kubectl cannot read (`ToStructuralOpenAPIV2`, of the schema without `x-kubernetes-validations`).
pub fn v2(definition: &Value) -> Value {
    let mut out = reduced(definition);
    if definition["x-kubernetes-preserve-unknown-fields"] == true
        && let Some(map) = out.as_object_mut()
    {
        // Fields that anybody may add are not known to kubectl.
        map.retain(|name, _| name == "x-kubernetes-group-version-kind");
        map.insert("type".into(), "object".into());
    }
    out
}

fn reduced(schema: &Value) -> Value {
    let Value::Object(map) = schema else { return schema.clone() };
    let is = |name: &str| map.get(name) == Some(&Value::Bool(true));
    let (nullable, preserve, int_or_string) =
        (is("nullable"), is("x-kubernetes-preserve-unknown-fields"), is("x-kubernetes-int-or-string"));
    let mut out = Map::new();
    for (name, value) in map {
        match name.as_str() {
            "allOf" | "oneOf" | "anyOf" | "not" | "nullable" => {}
            "properties" | "items" if nullable || preserve => {}
            "type" if nullable || int_or_string || preserve && value == "object" => {}
            "properties" => drop(out.insert(name.clone(), each(value, reduced))),
            "items" => drop(out.insert(name.clone(), reduced(value))),
            "additionalProperties" if value.is_object() => drop(out.insert(name.clone(), reduced(value))),
            "required" => drop(required(map, value).map(|required| out.insert(name.clone(), required))),
            _ => drop(out.insert(name.clone(), value.clone())),
        }
    }
    if out.get("type").is_some_and(|typ| typ == "array") && !out.contains_key("items") {
        out.shift_remove("type");
    }
    out.into()
}

/// A field that may be null need not be there for kubectl.
fn required(map: &Map<String, Value>, required: &Value) -> Option<Value> {
    let nullable = |schema: Option<&Value>| schema.is_some_and(|schema| schema["nullable"] == true);
    if nullable(map.get("additionalProperties")) {
        return None;
    }
    let kept = |name: &&Value| !nullable(name.as_str().and_then(|name| map.get("properties")?.get(name)));
    let left: Vec<Value> = required.as_array()?.iter().filter(kept).cloned().collect();
    (!left.is_empty()).then(|| left.into())
}

fn each(properties: &Value, change: fn(&Value) -> Value) -> Value {
    let Value::Object(map) = properties else { return properties.clone() };
    map.iter().map(|(name, schema)| (name.clone(), change(schema))).collect::<Map<_, _>>().into()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn version_2_has_what_kubectl_can_read() {
        let schema = json!({"type": "object", "required": ["a", "n"], "properties": {
            "a": {"type": "string", "anyOf": [{"minLength": 1}]},
            "n": {"type": "array", "nullable": true, "items": {"type": "string"}},
            "p": {"type": "object", "x-kubernetes-preserve-unknown-fields": true, "properties": {"x": {"type": "string"}}},
            "l": {"type": "array", "x-kubernetes-preserve-unknown-fields": true, "items": {"type": "string"}},
            "i": {"x-kubernetes-int-or-string": true, "anyOf": [{"type": "integer"}, {"type": "string"}]}}});
        let wanted = json!({"type": "object", "required": ["a"], "properties": {
            "a": {"type": "string"}, "n": {}, "p": {"x-kubernetes-preserve-unknown-fields": true},
            "l": {"x-kubernetes-preserve-unknown-fields": true}, "i": {"x-kubernetes-int-or-string": true}}});
        assert_eq!(v2(&schema), wanted);
    }
}
