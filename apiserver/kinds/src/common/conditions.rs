//! A list of `metav1.Condition` -> what is wrong with it, and one of them set. Source: apimachinery `pkg/apis/meta/v1/validation`, `pkg/api/meta/conditions.go`.

use std::collections::HashSet;

use api::{
    field_errors::FieldErrors,
    time::{Timestamp, rfc3339},
};
use serde_json::{Value, json};

use super::{
    Path, Read,
    edit::{self, default_to},
    name_rules, not_supported, well_formed,
};

const STATUSES: &[&str] = &["False", "True", "Unknown"];
const REASON_MAX: usize = 1 << 10;
const MESSAGE_MAX: usize = 32 << 10;
const REASON: &str = "a condition reason must start with alphabetic character, optionally followed by a string of alphanumeric characters or '_,:', and must end with an alphanumeric character or '_' (e.g. 'my_name',  or 'MY_NAME',  or 'MyName',  or 'ReasonA,ReasonB',  or 'ReasonA:ReasonB', regex used for validation is '[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?')";

/// `ValidateConditions`
pub fn validate(conditions: &[Value], path: Path<'_>, causes: &mut FieldErrors) {
    let mut seen = HashSet::new();
    for (i, condition) in conditions.iter().enumerate() {
        let (at, typ) = (path.index(i), condition.text("type"));
        if !seen.insert(typ) {
            causes.duplicate(at.field("type"), typ);
        }
        one(condition, at, causes);
    }
}

/// `SetStatusCondition` on an object with `conditions`: the time of transition is kept while the status is the same. `wanted` has no time.
pub fn set(status: &mut Value, mut wanted: Value, now: Timestamp) {
    default_to(status, "conditions", json!([]));
    let Some(conditions) = status.get_mut("conditions").and_then(Value::as_array_mut) else { return };
    edit::set(&mut wanted, "lastTransitionTime", rfc3339(now));
    match conditions.iter_mut().find(|c| c.text("type") == wanted.text("type")) {
        None => conditions.push(wanted),
        Some(found) => {
            if found.text("status") == wanted.text("status") {
                edit::carry(&mut wanted, found, "lastTransitionTime");
            }
            *found = wanted;
        }
    }
}

fn one(condition: &Value, path: Path<'_>, causes: &mut FieldErrors) {
    let (typ, status, reason) = (condition.text("type"), condition.text("status"), condition.text("reason"));
    well_formed(typ, name_rules::qualified(typ), path.field("type"), causes);
    if !STATUSES.contains(&status) {
        not_supported(status, STATUSES, path.field("status"), causes);
    }
    if let Some(generation) = condition.int("observedGeneration").filter(|g| *g < 0) {
        causes.invalid(path.field("observedGeneration"), generation, "must be greater than or equal to zero");
    }
    if condition.text("lastTransitionTime").is_empty() {
        causes.required(path.field("lastTransitionTime"), "");
    }
    let at = path.field("reason");
    match reason {
        "" => causes.required(at, ""),
        _ if !is_reason(reason) => causes.invalid(at, reason, REASON),
        _ => {}
    }
    if reason.len() > REASON_MAX {
        causes.too_long(at, REASON_MAX);
    }
    if condition.text("message").len() > MESSAGE_MAX {
        causes.too_long(path.field("message"), MESSAGE_MAX);
    }
}

fn is_reason(text: &str) -> bool {
    let inner = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b',' | b':');
    text.bytes().all(inner) && text.starts_with(|c: char| c.is_ascii_alphabetic()) && !text.ends_with([',', ':'])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conditions_are_checked_as_upstream_does() {
        let good = json!({"type": "Ready", "status": "True", "reason": "A:B_", "lastTransitionTime": "2026-01-01T00:00:00Z"});
        let with = |field: &str, value: Value| {
            let mut bad = good.clone();
            bad[field] = value;
            bad
        };
        let cases = [
            (vec![good.clone()], vec![]),
            (vec![good.clone(), good.clone()], vec![r#"status.conditions[1].type: Duplicate value: "Ready""#]),
            (vec![with("reason", json!(""))], vec!["status.conditions[0].reason: Required value"]),
            (vec![with("lastTransitionTime", Value::Null)], vec!["status.conditions[0].lastTransitionTime: Required value"]),
            (
                vec![with("status", json!("true"))],
                vec![r#"status.conditions[0].status: Unsupported value: "true": supported values: "False", "True", "Unknown""#],
            ),
        ];
        for (conditions, wanted) in cases {
            let mut causes = FieldErrors::default();
            validate(&conditions, Path::new("status.conditions"), &mut causes);
            assert_eq!(causes.0.iter().map(|c| c.text()).collect::<Vec<_>>(), wanted, "{conditions:?}");
        }
        for bad in ["1a", "a,", "a b"] {
            assert!(!is_reason(bad), "{bad}");
        }
    }

    #[test]
    fn a_condition_keeps_its_time_while_its_status_is_the_same() {
        let at = |text: &str| api::time::parse(text).unwrap();
        let mut status = json!({});
        let wanted = |state: &str, reason: &str| json!({"type": "X", "status": state, "reason": reason});
        set(&mut status, wanted("True", "A"), at("2026-01-01T00:00:00Z"));
        set(&mut status, wanted("True", "B"), at("2026-01-02T00:00:00Z"));
        assert_eq!(
            (&status["conditions"][0]["reason"], &status["conditions"][0]["lastTransitionTime"]),
            (&json!("B"), &json!("2026-01-01T00:00:00Z"))
        );
        set(&mut status, wanted("False", "B"), at("2026-01-03T00:00:00Z"));
        assert_eq!(status["conditions"][0]["lastTransitionTime"], "2026-01-03T00:00:00Z");
    }
}
