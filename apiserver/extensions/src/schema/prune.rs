//! An object -> without the fields that its schema does not have. Source: `pkg/apiserver/schema/pruning/algorithm.go`.

use serde_json::{Map, Value};

use super::{Additional, Node};

const META_FIELDS: [&str; 3] = ["apiVersion", "kind", "metadata"];
/// Paths beyond so many are not told.
const UNKNOWN_FIELDS_MAX: usize = 100;

/// Drops unknown fields of a whole resource; their paths (`spec.parts[0].x`) come back, sorted.
pub fn resource(schema: &Node, object: &mut Value) -> Vec<String> {
    let mut walk = Walk { path: String::new(), unknown: Vec::new() };
    walk.node(Some(schema), object, Root::Yes);
    walk.unknown.sort();
    walk.unknown
}

/// The same of a part of one.
pub fn part(schema: &Node, value: &mut Value) {
    Walk { path: String::new(), unknown: Vec::new() }.node(Some(schema), value, Root::No);
}

#[derive(Clone, Copy, PartialEq)]
enum Root {
    Yes,
    No,
}

struct Walk {
    path: String,
    unknown: Vec<String>,
}

impl Walk {
    /// `None`: the schema has no such place.
    fn node(&mut self, schema: Option<&Node>, value: &mut Value, root: Root) {
        match value {
            Value::Object(map) => match schema {
                Some(schema) => self.object(schema, map, root),
                None => {
                    map.keys().for_each(|key| self.record(key));
                    map.clear();
                }
            },
            Value::Array(list) => {
                // Within an open list elements are as open as it is, where they have a schema.
                let items = schema.and_then(|schema| schema.items.as_deref());
                if schema.is_some_and(|schema| schema.preserve) && items.is_none() {
                    return;
                }
                for (index, element) in list.iter_mut().enumerate() {
                    let length = self.path.len();
                    self.path.push_str(&format!("[{index}]"));
                    self.node(items, element, Root::No);
                    self.path.truncate(length);
                }
            }
            _ => {}
        }
    }

    fn object(&mut self, schema: &Node, map: &mut Map<String, Value>, root: Root) {
        let is_resource = root == Root::Yes || schema.embedded;
        map.retain(|key, value| {
            if is_resource && META_FIELDS.contains(&key.as_str()) {
                return true;
            }
            let inner = match (schema.properties.get(key), &schema.additional) {
                (Some(node), _) => Some(node),
                (None, Additional::Of(node)) => Some(&**node),
                (None, Additional::Allows(_)) => None,
                (None, Additional::None) if schema.preserve => return true,
                (None, Additional::None) => {
                    self.record(key);
                    return false;
                }
            };
            let length = self.path.len();
            self.step(key);
            self.node(inner, value, Root::No);
            self.path.truncate(length);
            true
        });
    }

    fn step(&mut self, key: &str) {
        if !self.path.is_empty() {
            self.path.push('.');
        }
        self.path.push_str(key);
    }

    fn record(&mut self, key: &str) {
        if self.unknown.len() < UNKNOWN_FIELDS_MAX {
            let length = self.path.len();
            self.step(key);
            self.unknown.push(self.path.clone());
            self.path.truncate(length);
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_what_the_schema_has_stays() {
        let schema = Node::of(&json!({"type": "object", "properties": {
            "spec": {"type": "object", "properties": {
                "size": {"type": "integer"},
                "open": {"type": "object", "x-kubernetes-preserve-unknown-fields": true, "properties": {"inner": {"type": "object"}}},
                "words": {"type": "object", "additionalProperties": {"type": "string"}},
                "template": {"type": "object", "x-kubernetes-embedded-resource": true, "properties": {"a": {"type": "string"}}},
                "parts": {"type": "array", "items": {"type": "object", "properties": {"name": {"type": "string"}}}}}}}}));
        let mut object = json!({"kind": "K", "apiVersion": "v", "metadata": {"x": 1}, "extra": {"a": 1}, "spec": {
            "size": 1, "gone": 2, "open": {"x": {"y": 1}, "inner": {"z": 1}}, "words": {"a": "b"},
            "template": {"kind": "P", "metadata": {"name": "a"}, "a": "b", "c": 1}, "parts": [{"name": "a", "y": 1}]}});
        let unknown = resource(&schema, &mut object);
        assert_eq!(unknown, ["extra", "spec.gone", "spec.open.inner.z", "spec.parts[0].y", "spec.template.c"]);
        assert_eq!(
            object["spec"],
            json!({"size": 1, "open": {"x": {"y": 1}, "inner": {}}, "words": {"a": "b"},
                "template": {"kind": "P", "metadata": {"name": "a"}, "a": "b"}, "parts": [{"name": "a"}]})
        );
    }
}
