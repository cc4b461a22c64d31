//! A `Value` and a field name -> what is there: lenient reading, where absent, null and mistyped are one.

use serde_json::{Map, Value};

/// Reading of a field by name, of a value, a map, or what may not be there. What is found lives as long as the value.
pub trait Read<'v>: Copy {
    /// The field, if it is there and not null.
    fn at(self, name: &str) -> Option<&'v Value>;

    /// A string; empty where absent.
    fn text(self, name: &str) -> &'v str {
        self.at(name).and_then(Value::as_str).unwrap_or("")
    }

    fn int(self, name: &str) -> Option<i64> {
        self.at(name).and_then(Value::as_i64)
    }

    /// A boolean, where its absence matters.
    fn flag(self, name: &str) -> Option<bool> {
        self.at(name).and_then(Value::as_bool)
    }

    fn is_true(self, name: &str) -> bool {
        self.flag(name) == Some(true)
    }

    fn list(self, name: &str) -> &'v [Value] {
        self.at(name).and_then(Value::as_array).map_or(&[], Vec::as_slice)
    }

    fn object(self, name: &str) -> Option<&'v Map<String, Value>> {
        self.at(name).and_then(Value::as_object)
    }

    /// The string entries of a map, in its order.
    fn entries(self, name: &str) -> impl Iterator<Item = (&'v str, &'v str)> {
        self.object(name).into_iter().flatten().map(|(k, v)| (k.as_str(), v.as_str().unwrap_or("")))
    }
}

impl<'v> Read<'v> for &'v Value {
    fn at(self, name: &str) -> Option<&'v Value> {
        self.get(name).filter(|v| !v.is_null())
    }
}

impl<'v> Read<'v> for &'v Map<String, Value> {
    fn at(self, name: &str) -> Option<&'v Value> {
        self.get(name).filter(|v| !v.is_null())
    }
}

impl<'v> Read<'v> for Option<&'v Value> {
    fn at(self, name: &str) -> Option<&'v Value> {
        self.and_then(|v| v.at(name))
    }
}
