//! What a strategic merge patch leads to and its kind's shape -> why upstream cannot make the type of it. Source: apimachinery
//! `pkg/runtime/converter.go` (`fromUnstructured`), whose words differ from those of the decoder.

use serde_json::Value;

use super::{Structure, Table, Type};

impl Structure {
    /// `None`: it has nothing to say against it. What reads itself (times, quantities) is told of in the decoder's words.
    pub fn unrestorable(&self, object: &Value) -> Option<String> {
        of(&self.table, Type::Object(self.root), object)
    }
}

fn of(table: &Table, typ: Type, value: &Value) -> Option<String> {
    match (typ, value) {
        (_, Value::Null) => None,
        (Type::Object(at), Value::Object(map)) => {
            let definition = table.definition(at);
            map.iter().find_map(|(key, value)| of(table, definition.field(key)?.typ, value))
        }
        (Type::List(element), Value::Array(list)) => list.iter().find_map(|value| of(table, table.element(element), value)),
        (Type::Map(element), Value::Object(map)) => map.values().find_map(|value| of(table, table.element(element), value)),
        (Type::Object(_), _) => Some(format!("cannot restore struct from: {}", kind(value))),
        (Type::List(_), _) => Some(format!("cannot restore slice from {}", kind(value))),
        (Type::Map(_), _) => Some(format!("cannot restore map from {}", kind(value))),
        (Type::String, Value::String(_)) | (Type::Bool, Value::Bool(_)) | (Type::Double, Value::Number(_)) => None,
        // Go makes texts of numbers, and of whole numbers others: what could be made, and must not be, has words of its own.
        (Type::String, Value::Number(n)) if !n.is_f64() => Some("cannot convert int64 to string".into()),
        (Type::Int32 | Type::Int64, Value::Number(n)) => {
            let is_whole = n.as_f64().is_some_and(|n| n.trunc() == n);
            (!is_whole).then(|| format!("cannot convert float64 to {}", plain(typ)))
        }
        (Type::String | Type::Bool | Type::Double | Type::Int32 | Type::Int64, _) => Some(format!("unrecognized type: {}", plain(typ))),
        _ => None,
    }
}

fn plain(typ: Type) -> &'static str {
    match typ {
        Type::Bool => "bool",
        Type::Int32 => "int32",
        Type::Int64 => "int64",
        Type::Double => "float64",
        _ => "string",
    }
}

/// `reflect.Kind` of what JSON decodes into.
fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "invalid",
        Value::Bool(_) => "bool",
        Value::Number(n) if n.is_f64() => "float64",
        Value::Number(_) => "int64",
        Value::String(_) => "string",
        Value::Array(_) => "slice",
        Value::Object(_) => "map",
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::json;

    use super::*;

    #[test]
    fn what_does_not_fit_is_told_in_the_converters_words() {
        let lines = "=x.v1.Pod\nspec @x.v1.Spec\n=x.v1.Spec\ncontainers [@x.v1.Spec\nname s\nreplicas i\nlabels {s\npaused b\nat t\n";
        let schema = Structure::find(&Arc::new(Table::parse(lines)), "x.v1.Pod").unwrap();
        let table = [
            (json!("x"), Some("cannot restore struct from: string")),
            (json!({"containers": {"name": "a"}}), Some("cannot restore slice from map")),
            (json!({"containers": [{"replicas": "three"}]}), Some("unrecognized type: int32")),
            (json!({"replicas": 1.5}), Some("cannot convert float64 to int32")),
            (json!({"replicas": 2.0}), None),
            (json!({"name": 5}), Some("cannot convert int64 to string")),
            (json!({"name": true}), Some("unrecognized type: string")),
            (json!({"labels": []}), Some("cannot restore map from slice")),
            (json!({"labels": {"a": null, "b": "c"}, "paused": true, "other": 1, "at": 5}), None),
        ];
        for (spec, wanted) in table {
            assert_eq!(schema.unrestorable(&json!({"spec": spec})).as_deref(), wanted, "{spec}");
        }
    }
}
