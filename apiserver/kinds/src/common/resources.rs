//! Resource lists -> canonical quantities: `1` -> `"1"`, `1024Mi` -> `1Gi`, nothing finer than a thousandth.
//!
//! Source: apimachinery `Quantity.UnmarshalJSON` and `SetDefaults_ResourceList` (`pkg/apis/core/v1/defaults.go`).

use api::quantity::Quantity;
use serde_json::Value;

/// Rewrites every quantity of the map under `name`; what is no quantity stays, for validation to name.
pub fn canonical_list(object: &mut Value, name: &str) {
    for value in object.get_mut(name).and_then(Value::as_object_mut).into_iter().flat_map(|m| m.values_mut()) {
        rewrite(value, Finest::Milli);
    }
}

/// Rewrites one quantity under `name`, if there.
pub fn canonical_field(object: &mut Value, name: &str) {
    if let Some(value) = object.get_mut(name) {
        canonical(value);
    }
}

/// Rewrites one quantity.
pub fn canonical(value: &mut Value) {
    rewrite(value, Finest::Nano);
}

/// A quantity from a JSON string or number.
pub fn quantity(value: &Value) -> Option<Quantity> {
    match value {
        Value::String(text) => Quantity::parse(text).ok(),
        Value::Number(number) => Quantity::parse(&number.to_string()).ok(),
        _ => None,
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Finest {
    Milli,
    Nano,
}

fn rewrite(value: &mut Value, finest: Finest) {
    let Some(parsed) = quantity(value) else { return };
    let rounded = parsed.rounded_to_milli();
    let text = match (finest, value.as_str()) {
        (Finest::Milli, _) if rounded != parsed => rounded.to_string(),
        // What Go takes to be in canonical form stays as it came.
        (_, Some(text)) if api::quantity::written(text).is_ok_and(|written| written == text) => return,
        _ => parsed.to_string(),
    };
    *value = text.into();
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn quantities_become_canonical() {
        let mut v = json!({"limits": {"cpu": 1, "memory": "1024Mi", "a": 0.5, "b": "0.0001", "c": "1000m", "d": "-1.0001", "e": "1e-6", "f": "1.500", "bad": "x"}});
        canonical_list(&mut v, "limits");
        assert_eq!(
            v["limits"],
            json!({"cpu": "1", "memory": "1Gi", "a": "500m", "b": "1m", "c": "1", "d": "-1001m", "e": "1e-3", "f": "1.500", "bad": "x"})
        );
    }
}
