//! Values that expressions have made -> JSON. Sources: apiserver `pkg/cel/mutation/dynamic/objects.go`, cel-go's conversions to `structpb.Value`.

use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::{Map, Number, Value};

use super::{
    strings::shown,
    value::{Failure, V},
    weight::weigh_copy,
};

/// # Errors
/// It holds what JSON has no word for, or is larger than what is `left`, in units of the meter; what it is goes off.
pub fn to_json(value: &V<'_>, left: &mut u64) -> Result<Value, Failure> {
    if !weigh_copy(value, left) {
        return Err(Failure::Cost);
    }
    json(value)
}

fn json(value: &V<'_>) -> Result<Value, Failure> {
    Ok(match value {
        V::Null => Value::Null,
        V::Bool(value) => Value::Bool(*value),
        V::Int(value) => (*value).into(),
        V::Uint(value) => (*value).into(),
        V::Double(value) => number(*value)?,
        V::Text(text) => Value::String(text.to_string()),
        V::Bytes(bytes) => Value::String(STANDARD.encode(bytes)),
        V::Duration(_) | V::Timestamp(_) => Value::String(shown(value)),
        V::Fields(map, _) => Value::Object((*map).clone()),
        V::Array(list, _) => Value::Array(list.to_vec()),
        V::List(list) => Value::Array(list.iter().map(json).collect::<Result<_, _>>()?),
        V::Map(map) => {
            let mut out = Map::new();
            for (key, value) in map.iter() {
                let V::Text(key) = key else {
                    return Failure::of(format!("map key {:?} is of type {}, not string", shown(key), key.type_name()));
                };
                out.insert(key.to_string(), json(value)?);
            }
            Value::Object(out)
        }
        V::Message(message) => {
            let mut out = Map::new();
            for (name, value) in &message.fields {
                out.insert(name.to_string(), json(value)?);
            }
            Value::Object(out)
        }
        other => return Failure::of(format!("type conversion error from '{}' to 'google.protobuf.Value'", other.type_name())),
    })
}

/// A whole one is written as such.
fn number(value: f64) -> Result<Value, Failure> {
    if value.fract() == 0.0 && value.abs() < 9e15 {
        return Ok((value as i64).into());
    }
    Number::from_f64(value).map(Value::Number).ok_or_else(|| Failure::Error("no number".into()))
}

/// Whether each `Object.a.b` stands at its own place (`CheckTypeNamesMatchFieldPathNames`).
///
/// # Errors
/// Those that do not, a line each.
pub fn check_names(value: &V<'_>) -> Result<(), String> {
    let mut wrong = Vec::new();
    if let V::Message(message) = value {
        names(value, &message.name, &mut wrong);
    }
    if wrong.is_empty() { Ok(()) } else { Err(wrong.join("\n")) }
}

fn names(value: &V<'_>, path: &str, wrong: &mut Vec<String>) {
    match value {
        V::Message(message) => {
            if *message.name != *path {
                let why = "which matches field name path from root Object type";
                wrong.push(format!("unexpected type name {:?}, expected {path:?}, {why}", &*message.name));
            }
            for (name, value) in &message.fields {
                names(value, &format!("{path}.{name}"), wrong);
            }
        }
        V::List(list) => list.iter().for_each(|value| names(value, path, wrong)),
        V::Map(map) => map.iter().for_each(|(_, value)| names(value, path, wrong)),
        _ => {}
    }
}
