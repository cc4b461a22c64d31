//! Lists that are sets or maps -> what stands in them twice. Source: `pkg/apiserver/schema/listtype/validation.go`.

use std::collections::HashMap;

use api::field_errors::FieldErrors;
use kinds::common::Path;
use serde_json::{Map, Value};

use super::{Additional, ListType, Node};

/// `ValidateListSetsAndMaps`
pub fn unique(schema: &Node, value: &Value, path: Path<'_>, causes: &mut FieldErrors) {
    match value {
        Value::Object(map) => {
            for (key, value) in map {
                match (schema.properties.get(key), &schema.additional) {
                    (Some(node), _) => unique(node, value, path.field(key), causes),
                    (None, Additional::Of(node)) => unique(node, value, path.key(key), causes),
                    (None, _) => {}
                }
            }
        }
        Value::Array(list) => {
            match schema.list_type {
                ListType::Atomic => {}
                ListType::Set => repeated(list.iter()).into_iter().for_each(|at| causes.duplicate(path.index(at), list[at].clone())),
                ListType::Map => keyed(schema, list, path, causes),
            }
            if let Some(items) = &schema.items {
                for (index, element) in list.iter().enumerate() {
                    unique(items, element, path.index(index), causes);
                }
            }
        }
        _ => {}
    }
}

fn keyed(schema: &Node, list: &[Value], path: Path<'_>, causes: &mut FieldErrors) {
    if let Some((index, bad)) = list.iter().enumerate().find(|(_, element)| !element.is_object() && !element.is_null()) {
        return causes.invalid(path.index(index), bad.clone(), "must be an object for an array of list-type map");
    }
    let keys: Vec<Value> = list.iter().map(|element| key(schema, element)).collect();
    for at in repeated(keys.iter()) {
        causes.duplicate(path.index(at), keys[at].clone());
    }
}

/// The key fields of an element that are there.
pub fn key(schema: &Node, element: &Value) -> Value {
    let fields = schema.more().map_keys.iter().filter_map(|name| Some((name.clone(), element.get(name)?.clone())));
    Value::Object(fields.collect::<Map<_, _>>())
}

/// Places of the second of each value that stands more than once.
fn repeated<'v>(values: impl Iterator<Item = &'v Value>) -> Vec<usize> {
    let mut seen: HashMap<String, usize> = HashMap::new();
    let mut out = Vec::new();
    for (index, value) in values.enumerate() {
        let times = seen.entry(canonical(value)).or_default();
        *times += 1;
        if *times == 2 {
            out.push(index);
        }
    }
    out
}

/// The same text for the same value, whatever the order of its fields.
pub fn canonical(value: &Value) -> String {
    match value {
        Value::Object(map) => {
            let mut fields: Vec<_> = map.iter().collect();
            fields.sort_by_key(|(key, _)| *key);
            let texts = fields.into_iter().map(|(key, value)| format!("{}:{}", Value::from(key.as_str()), canonical(value)));
            format!("{{{}}}", texts.collect::<Vec<_>>().join(","))
        }
        Value::Array(list) => format!("[{}]", list.iter().map(canonical).collect::<Vec<_>>().join(",")),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_stands_twice_is_told_once() {
        let schema = Node::of(&json!({"type": "object", "properties": {
            "set": {"type": "array", "x-kubernetes-list-type": "set", "items": {"type": "string"}},
            "map": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["a", "b"],
                "items": {"type": "object"}}}}));
        let mut causes = FieldErrors::default();
        let value = json!({"set": ["x", "y", "x", "x"], "map": [{"a": 1, "b": 2, "c": 3}, {"b": 2, "a": 1}, {"a": 1}]});
        unique(&schema, &value, Path::ROOT, &mut causes);
        let texts: Vec<String> = causes.0.iter().map(|cause| cause.text()).collect();
        assert_eq!(texts, [r#"set[2]: Duplicate value: "x""#, r#"map[1]: Duplicate value: {"a":1,"b":2}"#]);
    }
}
