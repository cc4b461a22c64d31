//! A `Value` and a field name -> what is there: lenient reading, where absent, null and mistyped are one.

use serde_json::Value;

pub use api::read::Read;

/// `object.at(name)` as a function.
pub fn part<'v>(object: &'v Value, name: &str) -> Option<&'v Value> {
    object.at(name)
}

/// A map as Go writes one: its keys in order; null where there is none.
pub fn as_map(value: Option<&Value>) -> Value {
    let mut map = value.cloned().unwrap_or(Value::Null);
    map.sort_all_objects();
    map
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

/// Fields that are pointers in Go: there `false` and `0` differ from absent. Elsewhere a Go client leaves them out when it writes back.
const POINTERS: &[&str] = &[
    "activeDeadlineSeconds",
    "allowPrivilegeEscalation",
    "automountServiceAccountToken",
    "backoffLimit",
    "backoffLimitPerIndex",
    "completions",
    "defaultMode",
    "enableServiceLinks",
    "expirationSeconds",
    "fsGroup",
    "hostUsers",
    "maxFailedIndexes",
    "minDomains",
    "mode",
    "optional",
    "parallelism",
    "priority",
    "privileged",
    "progressDeadlineSeconds",
    "readOnlyRootFilesystem",
    "replicas",
    "revisionHistoryLimit",
    "runAsGroup",
    "runAsNonRoot",
    "runAsUser",
    "setHostnameAsFQDN",
    "shareProcessNamespace",
    "succeededCount",
    "suspend",
    "terminationGracePeriodSeconds",
    "tolerationSeconds",
    "ttlSecondsAfterFinished",
];

/// Semantic equality: what a Go client leaves out (null, `{}`, `[]`, `""`, and `false` and `0` of non-pointers) equals absent; the
/// order of keys does not matter (apimachinery `equality.Semantic`).
pub fn same(a: Option<&Value>, b: Option<&Value>) -> bool {
    same_field("", a, b)
}

fn same_field(name: &str, a: Option<&Value>, b: Option<&Value>) -> bool {
    match (a, b) {
        (Some(Value::Object(a)), Some(Value::Object(b))) => {
            a.iter().all(|(k, v)| same_field(k, Some(v), b.get(k))) && b.iter().all(|(k, v)| a.contains_key(k) || is_nothing(k, v))
        }
        (Some(Value::Array(a)), Some(Value::Array(b))) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(Some(a), Some(b))),
        (Some(a), Some(b)) => a == b || (is_nothing(name, a) && is_nothing(name, b)),
        (one, other) => one.is_none_or(|v| is_nothing(name, v)) && other.is_none_or(|v| is_nothing(name, v)),
    }
}

/// What a Go client leaves out when it writes the field `name`.
pub fn is_nothing(name: &str, value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::String(s) => s.is_empty(),
        Value::Array(a) => a.is_empty(),
        Value::Object(o) => o.is_empty(),
        Value::Bool(b) => !b && !POINTERS.contains(&name),
        Value::Number(n) => n.as_i64() == Some(0) && !POINTERS.contains(&name),
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
            (json!({"hostPID": false}), json!({}), true),
            (json!({"runAsUser": 0}), json!({}), false),
        ];
        for (a, b, equal) in cases {
            assert_eq!(same(Some(&a), Some(&b)), equal, "{a} {b}");
        }
    }
}
