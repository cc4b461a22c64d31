//! An object -> with the defaults of its schema, and without nulls that stand for nothing.
//!
//! Source: `pkg/apiserver/schema/defaulting/{algorithm,prunenulls}.go`.

use serde_json::{Map, Value};

use super::{Additional, Node};

/// `PruneNonNullableNullsWithoutDefaults`
pub fn drop_nulls(schema: &Node, value: &mut Value) {
    match value {
        Value::Object(map) => map.retain(|key, value| {
            let Some(node) = schema.field(key) else { return true };
            if value.is_null() && !node.nullable && node.default_value().is_none() {
                return false;
            }
            drop_nulls(node, value);
            true
        }),
        Value::Array(list) => {
            if let Some(items) = &schema.items {
                list.iter_mut().for_each(|element| drop_nulls(items, element));
            }
        }
        _ => {}
    }
}

/// `Default`. Whether anything is changed.
pub fn defaults(schema: &Node, value: &mut Value) -> bool {
    match value {
        Value::Object(map) => object(schema, map),
        Value::Array(list) => {
            let Some(items) = &schema.items else { return false };
            let mut changed = false;
            for element in list {
                changed |= fill(items, element);
                changed |= defaults(items, element);
            }
            changed
        }
        _ => false,
    }
}

fn object(schema: &Node, map: &mut Map<String, Value>) -> bool {
    let mut changed = false;
    for (name, node) in schema.properties.iter() {
        let Some(default) = node.default_value() else { continue };
        if map.get(name).is_none_or(|value| value.is_null() && !node.nullable) {
            map.insert(name.to_owned(), default.clone());
            changed = true;
        }
    }
    for (name, value) in map.iter_mut() {
        if let Some(node) = schema.properties.get(name) {
            changed |= defaults(node, value);
        } else if let Additional::Of(node) = &schema.additional {
            changed |= fill(node, value);
            changed |= defaults(node, value);
        }
    }
    changed
}

/// A null where there may be none, and a default that stands for it.
fn fill(node: &Node, value: &mut Value) -> bool {
    match node.default_value() {
        Some(default) if value.is_null() && !node.nullable => {
            *value = default.clone();
            true
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn defaults_stand_where_nothing_does() {
        let schema = Node::of(&json!({"type": "object", "properties": {
            "a": {"type": "object", "default": {}, "properties": {"x": {"type": "integer", "default": 5}}},
            "n": {"type": "string", "nullable": true, "default": "d"},
            "m": {"type": "string", "default": "d"},
            "gone": {"type": "string"},
            "list": {"type": "array", "items": {"type": "object", "properties": {"p": {"type": "string", "default": "TCP"}}}},
            "map": {"type": "object", "additionalProperties": {"type": "object", "properties": {"p": {"type": "string", "default": "q"}}}}}}));
        let mut object = json!({"n": null, "m": null, "gone": null, "list": [{}, {"p": "UDP"}], "map": {"k": {}}});
        drop_nulls(&schema, &mut object);
        assert!(defaults(&schema, &mut object));
        let wanted = json!({"a": {"x": 5}, "n": null, "m": "d", "list": [{"p": "TCP"}, {"p": "UDP"}], "map": {"k": {"p": "q"}}});
        assert_eq!(object, wanted);
        assert!(!defaults(&schema, &mut object));
    }
}
