//! A value -> what it costs to go through it, in units of the meter.

use serde_json::Value;

use super::value::V;

/// Counts no further than `most`: a value that holds another twice, and that one a third twice, is as good as endless.
pub fn weight(value: &V<'_>, most: u64) -> usize {
    let mut left = most;
    if weigh(value, &mut left) {
        usize::try_from(most - left).unwrap_or(usize::MAX)
    } else {
        usize::try_from(most).unwrap_or(usize::MAX).saturating_add(1)
    }
}

/// False: nothing is left.
fn weigh(value: &V<'_>, left: &mut u64) -> bool {
    let own = match value {
        V::Text(text) => text.len() / 10 + 1,
        V::Bytes(bytes) => bytes.len() / 10 + 1,
        // Its keys are found one by one.
        V::Map(map) => map.len().saturating_mul(map.len()) / 8 + 1,
        _ => 1,
    };
    take(own, left)
        && match value {
            V::Fields(map, ..) => map.values().all(|value| weigh_json(value, left)),
            V::Array(list, _) => list.iter().all(|value| weigh_json(value, left)),
            V::List(list) => list.iter().all(|value| weigh(value, left)),
            V::Map(map) => map.iter().all(|(key, value)| weigh(key, left) && weigh(value, left)),
            V::Optional(Some(value)) => weigh(value, left),
            V::Message(message) => {
                take(message.fields.len().saturating_mul(message.fields.len()) / 8 + 1, left)
                    && message.fields.iter().all(|(_, value)| weigh(value, left))
            }
            _ => true,
        }
}

fn weigh_json(value: &Value, left: &mut u64) -> bool {
    match value {
        Value::String(text) => take(text.len() / 10 + 1, left),
        Value::Array(list) => take(1, left) && list.iter().all(|value| weigh_json(value, left)),
        Value::Object(map) => take(1, left) && map.values().all(|value| weigh_json(value, left)),
        _ => take(1, left),
    }
}

fn take(cost: usize, left: &mut u64) -> bool {
    let rest = left.checked_sub(cost as u64);
    *left = rest.unwrap_or(0);
    rest.is_some()
}
