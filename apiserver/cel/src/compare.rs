//! Two values -> whether they are the same, and which comes first. Numbers are compared whatever their types.

use std::cmp::Ordering;

use super::value::V;

/// How large lists and maps within each other are compared; beyond that they differ.
const COMPARED_DEPTH_MAX: usize = 64;

impl<'v> V<'v> {
    /// The value under a key.
    pub fn entry(&self, key: &V<'v>) -> Option<V<'v>> {
        match self {
            Self::Fields(map, node) => {
                let Self::Text(name) = key else { return None };
                let value = map.get(&**name)?;
                Some(V::of(value, node.and_then(|node| node.field(name))))
            }
            Self::Map(map) => map.iter().find(|(other, _)| equal(other, key)).map(|(_, value)| value.clone()),
            _ => None,
        }
    }
}

pub fn equal<'v>(a: &V<'v>, b: &V<'v>) -> bool {
    equal_within(a, b, COMPARED_DEPTH_MAX)
}

fn equal_within<'v>(a: &V<'v>, b: &V<'v>, depth: usize) -> bool {
    let Some(depth) = depth.checked_sub(1) else { return false };
    match (a, b) {
        (V::Null, V::Null) => true,
        (V::Bool(a), V::Bool(b)) => a == b,
        (V::Text(a), V::Text(b)) => **a == **b,
        (V::Bytes(a), V::Bytes(b)) => a == b,
        (V::Duration(a), V::Duration(b)) => a == b,
        (V::Timestamp(a), V::Timestamp(b)) => a == b,
        (V::Type(a), V::Type(b)) => a == b,
        (V::Quantity(a), V::Quantity(b)) => a.partial_cmp(b) == Some(Ordering::Equal),
        (V::Ip(a), V::Ip(b)) => a == b,
        (V::Cidr(a, n), V::Cidr(b, m)) => a == b && n == m,
        (V::Url(a), V::Url(b)) => **a == **b,
        (V::Semver(a), V::Semver(b)) => a == b,
        (V::Format(a), V::Format(b)) => a == b,
        (V::Check(_, a), V::Check(_, b)) => a == b,
        (V::Decision(a), V::Decision(b)) => a == b,
        (V::Message(a), V::Message(b)) => {
            let other = |name: &str| b.fields.iter().find(|(field, _)| **field == *name);
            a.name == b.name
                && a.fields.len() == b.fields.len()
                && a.fields.iter().all(|(name, value)| other(name).is_some_and(|(_, other)| equal_within(value, other, depth)))
        }
        (V::Optional(a), V::Optional(b)) => match (a, b) {
            (None, None) => true,
            (Some(a), Some(b)) => equal_within(a, b, depth),
            _ => false,
        },
        (V::List(_) | V::Array(..), V::List(_) | V::Array(..)) => {
            a.length() == b.length() && a.elements().zip(b.elements()).all(|(a, b)| equal_within(&a, &b, depth))
        }
        (V::Map(_) | V::Fields(..), V::Map(_) | V::Fields(..)) => {
            a.length() == b.length()
                && a.entries().iter().all(|(key, value)| b.entry(key).is_some_and(|other| equal_within(value, &other, depth)))
        }
        _ => number(a, b) == Some(Ordering::Equal),
    }
}

/// `None`: they cannot be ordered.
pub fn order(a: &V<'_>, b: &V<'_>) -> Option<Ordering> {
    match (a, b) {
        (V::Bool(a), V::Bool(b)) => Some(a.cmp(b)),
        (V::Text(a), V::Text(b)) => Some((**a).cmp(&**b)),
        (V::Bytes(a), V::Bytes(b)) => Some(a.cmp(b)),
        (V::Duration(a), V::Duration(b)) => Some(a.cmp(b)),
        (V::Timestamp(a), V::Timestamp(b)) => Some(a.cmp(b)),
        _ => number(a, b),
    }
}

fn number(a: &V<'_>, b: &V<'_>) -> Option<Ordering> {
    match (a, b) {
        (V::Double(a), V::Double(b)) => a.partial_cmp(b),
        (V::Double(a), b) => real_to_whole(*a, whole(b)?),
        (a, V::Double(b)) => real_to_whole(*b, whole(a)?).map(Ordering::reverse),
        (a, b) => Some(whole(a)?.cmp(&whole(b)?)),
    }
}

fn whole(value: &V<'_>) -> Option<i128> {
    match value {
        V::Int(value) => Some(i128::from(*value)),
        V::Uint(value) => Some(i128::from(*value)),
        _ => None,
    }
}

fn real_to_whole(a: f64, b: i128) -> Option<Ordering> {
    if a.is_nan() {
        return None;
    }
    // Beyond 2^65 any such number is larger than what stands on the other side.
    if a.abs() > 3.7e19 {
        return Some(if a > 0.0 { Ordering::Greater } else { Ordering::Less });
    }
    let cut = a.trunc() as i128;
    Some(cut.cmp(&b).then(if a.fract() > 0.0 {
        Ordering::Greater
    } else if a.fract() < 0.0 {
        Ordering::Less
    } else {
        Ordering::Equal
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_compared_across_types() {
        assert!(equal(&V::Int(1), &V::Double(1.0)) && equal(&V::Uint(1), &V::Int(1)) && !equal(&V::Int(1), &V::text("1")));
        assert_eq!(order(&V::Uint(u64::MAX), &V::Int(-1)), Some(Ordering::Greater));
        assert_eq!(order(&V::Double(-1.5), &V::Int(-1)), Some(Ordering::Less));
        assert_eq!(order(&V::Double(f64::NAN), &V::Int(1)), None);
        assert_eq!(order(&V::Double(1e300), &V::Int(i64::MAX)), Some(Ordering::Greater));
    }
}
