//! A `Value` and a field name -> what is there: lenient reading, where absent, null and mistyped are one.

use serde_json::{Map, Value};

/// Reading of a field by name.
pub trait Read {
    /// The field, if it is there and not null.
    fn at(&self, name: &str) -> Option<&Value>;

    /// A string; empty where absent.
    fn text(&self, name: &str) -> &str {
        self.at(name).and_then(Value::as_str).unwrap_or("")
    }

    fn int(&self, name: &str) -> Option<i64> {
        self.at(name).and_then(Value::as_i64)
    }

    /// A boolean, where its absence matters.
    fn flag(&self, name: &str) -> Option<bool> {
        self.at(name).and_then(Value::as_bool)
    }

    fn is_true(&self, name: &str) -> bool {
        self.flag(name) == Some(true)
    }

    fn list(&self, name: &str) -> &[Value] {
        self.at(name).and_then(Value::as_array).map_or(&[], Vec::as_slice)
    }

    fn object(&self, name: &str) -> Option<&Map<String, Value>> {
        self.at(name).and_then(Value::as_object)
    }

    /// The string entries of a map, in its order.
    fn entries(&self, name: &str) -> impl Iterator<Item = (&str, &str)> {
        self.object(name).into_iter().flatten().map(|(k, v)| (k.as_str(), v.as_str().unwrap_or("")))
    }
}

impl Read for Value {
    fn at(&self, name: &str) -> Option<&Value> {
        self.get(name).filter(|v| !v.is_null())
    }
}

impl Read for Map<String, Value> {
    fn at(&self, name: &str) -> Option<&Value> {
        self.get(name).filter(|v| !v.is_null())
    }
}

impl Read for Option<&Value> {
    fn at(&self, name: &str) -> Option<&Value> {
        self.as_ref().and_then(|v| v.at(name))
    }
}

/// A number at a pointer, 0 where absent: for counts in `status`.
pub fn count(object: &Value, pointer: &str) -> i64 {
    object.pointer(pointer).and_then(Value::as_i64).unwrap_or(0)
}

/// A string at a pointer, empty where absent.
pub fn text_at<'a>(object: &'a Value, pointer: &str) -> &'a str {
    object.pointer(pointer).and_then(Value::as_str).unwrap_or("")
}

pub fn name(object: &Value) -> &str {
    text_at(object, "/metadata/name")
}

pub fn namespace(object: &Value) -> &str {
    text_at(object, "/metadata/namespace")
}

/// Semantic equality: absent, null, `{}`, `[]` and `""` fields are the same, the order of map keys does not matter
/// (apimachinery `equality.Semantic`).
pub fn same(a: Option<&Value>, b: Option<&Value>) -> bool {
    match (a, b) {
        (Some(Value::Object(a)), Some(Value::Object(b))) => {
            a.iter().all(|(k, v)| same(Some(v), b.get(k))) && b.iter().all(|(k, v)| a.contains_key(k) || is_nothing(v))
        }
        (Some(Value::Array(a)), Some(Value::Array(b))) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(Some(a), Some(b))),
        (Some(a), Some(b)) => a == b || (is_nothing(a) && is_nothing(b)),
        (one, other) => one.is_none_or(is_nothing) && other.is_none_or(is_nothing),
    }
}

fn is_nothing(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::String(s) => s.is_empty(),
        Value::Array(a) => a.is_empty(),
        Value::Object(o) => o.is_empty(),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn absent_null_and_mistyped_are_one() {
        let v = json!({"a": null, "b": 1, "c": "x", "d": [1], "e": {"k": "v"}});
        assert_eq!((v.text("a"), v.text("b"), v.text("c")), ("", "", "x"));
        assert_eq!((v.int("b"), v.int("c")), (Some(1), None));
        assert_eq!(v.list("d").len(), 1);
        assert!(v.list("e").is_empty());
        assert_eq!(v.entries("e").collect::<Vec<_>>(), [("k", "v")]);
    }

    #[test]
    fn nothing_equals_nothing() {
        let cases = [
            (json!({"a": 1, "b": {}}), json!({"a": 1}), true),
            (json!({"a": 1, "b": 2}), json!({"b": 2, "a": 1}), true),
            (json!({"a": []}), json!({"a": null}), true),
            (json!({"a": 1}), json!({"a": 2}), false),
            (json!({"a": [1]}), json!({"a": [1, 2]}), false),
            (json!({"a": false}), json!({}), false),
        ];
        for (a, b, equal) in cases {
            assert_eq!(same(Some(&a), Some(&b)), equal, "{a} {b}");
        }
    }
}
