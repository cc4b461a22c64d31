//! A value -> what it costs to go through it, in units of the meter.

use serde_json::Value;

use super::value::V;

/// Counts no further than `most`: a value that holds another twice, and that one a third twice, is as good as endless.
pub fn weight(value: &V<'_>, most: u64) -> usize {
    let mut left = most;
    if weigh(value, false, &mut left) {
        usize::try_from(most - left).unwrap_or(usize::MAX)
    } else {
        usize::try_from(most).unwrap_or(usize::MAX).saturating_add(1)
    }
}

/// Takes from `left` what a copy of all that the value holds is, the names of fields with it. False: it is more.
pub fn weigh_copy(value: &V<'_>, left: &mut u64) -> bool {
    weigh(value, true, left)
}

/// False: nothing is left.
fn weigh(value: &V<'_>, with_names: bool, left: &mut u64) -> bool {
    let own = match value {
        V::Text(text) => text.len() / 10 + 1,
        V::Bytes(bytes) => bytes.len() / 10 + 1,
        // Its keys are found one by one.
        V::Map(map) => map.len().saturating_mul(map.len()) / 8 + 1,
        _ => 1,
    };
    take(own, left)
        && match value {
            V::Fields(map, ..) => map.iter().all(|(name, value)| weigh_name(name, with_names, left) && weigh_json(value, with_names, left)),
            V::Array(list, _) => list.iter().all(|value| weigh_json(value, with_names, left)),
            V::List(list) => list.iter().all(|value| weigh(value, with_names, left)),
            V::Map(map) => map.iter().all(|(key, value)| weigh(key, with_names, left) && weigh(value, with_names, left)),
            V::Optional(Some(value)) => weigh(value, with_names, left),
            V::Message(message) => {
                take(message.fields.len().saturating_mul(message.fields.len()) / 8 + 1, left)
                    && message.fields.iter().all(|(name, value)| weigh_name(name, with_names, left) && weigh(value, with_names, left))
            }
            _ => true,
        }
}

fn weigh_json(value: &Value, with_names: bool, left: &mut u64) -> bool {
    match value {
        Value::String(text) => take(text.len() / 10 + 1, left),
        Value::Array(list) => take(1, left) && list.iter().all(|value| weigh_json(value, with_names, left)),
        Value::Object(map) => {
            take(1, left) && map.iter().all(|(name, value)| weigh_name(name, with_names, left) && weigh_json(value, with_names, left))
        }
        _ => take(1, left),
    }
}

fn weigh_name(name: &str, with_names: bool, left: &mut u64) -> bool {
    !with_names || take(name.len() / 10, left)
}

fn take(cost: usize, left: &mut u64) -> bool {
    let rest = left.checked_sub(cost as u64);
    *left = rest.unwrap_or(0);
    rest.is_some()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_copy_has_the_names_of_fields() {
        let value = json!({"x".repeat(1_000): [1]});
        let (mut scarce, mut enough) = (50, 150);
        assert_eq!(weight(&V::of(&value, None), 50), 3);
        assert!(!weigh_copy(&V::of(&value, None), &mut scarce));
        assert!(weigh_copy(&V::of(&value, None), &mut enough));
        assert_eq!(enough, 150 - 103);
    }
}
