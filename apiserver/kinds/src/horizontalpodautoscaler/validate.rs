//! An autoscaler -> all that is wrong with it, in upstream's words. Source: `pkg/apis/autoscaling/validation/validation.go`.

use api::field_errors::FieldErrors;
use serde_json::{Value, json};

use super::{
    metrics,
    reference::{Version, reference},
};
use crate::common::{Path, Read, not_supported, resources::quantity};

const WINDOW_SECONDS_MAX: i64 = 3600;
const PERIOD_SECONDS_MAX: i64 = 1800;

/// `old` is that of an update.
pub fn spec(spec: Option<&Value>, old: Option<&Value>, causes: &mut FieldErrors) {
    let path = Path::new("spec");
    let (min, max) = (spec.int("minReplicas"), spec.int("maxReplicas").unwrap_or(0));
    let lowest = i64::from(old.int("minReplicas") != Some(0));
    if let Some(min) = min.filter(|min| *min < lowest) {
        causes.invalid(path.field("minReplicas"), min, &format!("must be greater than or equal to {lowest}"));
    }
    let at = path.field("maxReplicas");
    match max {
        0 => causes.required(at, "must be set and greater than 0"),
        below if below < 0 => causes.invalid(at, below, "must be greater than or equal to 1"),
        _ => {}
    }
    if min.is_some_and(|min| max < min) {
        causes.invalid(at, max, "must be greater than or equal to `minReplicas`");
    }
    let target = spec.at("scaleTargetRef");
    reference(target, target_version(target, old), path.field("scaleTargetRef"), causes);
    metrics::validate(spec, old, path.field("metrics"), causes);
    let (behavior, at) = (spec.at("behavior"), path.field("behavior"));
    ["scaleUp", "scaleDown"].into_iter().for_each(|direction| rules(behavior.at(direction), at.field(direction), causes));
}

fn target_version(target: Option<&Value>, old: Option<&Value>) -> Version {
    let before = old.at("scaleTargetRef");
    let same = |field: &str| target.text(field) == before.text(field);
    match target.text("kind") {
        _ if old.is_some() && same("kind") && same("apiVersion") => Version::Any,
        "ReplicationController" => Version::Core,
        _ => Version::Group,
    }
}

/// `validateScalingRules`
fn rules(rules: Option<&Value>, path: Path<'_>, causes: &mut FieldErrors) {
    let Some(_) = rules else { return };
    if let Some(seconds) = rules.int("stabilizationWindowSeconds") {
        let at = path.field("stabilizationWindowSeconds");
        if seconds < 0 {
            causes.invalid(at, seconds, "must be greater than or equal to zero");
        }
        if seconds > WINDOW_SECONDS_MAX {
            causes.invalid(at, seconds, &format!("must be less than or equal to {WINDOW_SECONDS_MAX}"));
        }
    }
    let allowed = ["Disabled", "Max", "Min"];
    if let Some(policy) = rules.at("selectPolicy").and_then(Value::as_str).filter(|policy| !allowed.contains(policy)) {
        not_supported(policy, &allowed, path.field("selectPolicy"), causes);
    }
    let (policies, at) = (rules.list("policies"), path.field("policies"));
    if policies.is_empty() {
        causes.required(at, "must specify at least one Policy");
    }
    for (i, one) in policies.iter().enumerate() {
        policy(one, at.index(i), causes);
    }
    if let Some(tolerance) = rules.at("tolerance").and_then(quantity).filter(|q| q.is_negative()) {
        causes.invalid(path.field("tolerance"), json!(tolerance.to_string()), "must be greater than or equal to 0");
    }
}

/// `validateScalingPolicy`
fn policy(policy: &Value, path: Path<'_>, causes: &mut FieldErrors) {
    let typ = policy.text("type");
    if !matches!(typ, "Pods" | "Percent") {
        not_supported(typ, &["Percent", "Pods"], path.field("type"), causes);
    }
    let period = policy.int("periodSeconds").unwrap_or(0);
    for (field, value) in [("value", policy.int("value").unwrap_or(0)), ("periodSeconds", period)] {
        if value <= 0 {
            causes.invalid(path.field(field), value, "must be greater than zero");
        }
    }
    if period > PERIOD_SECONDS_MAX {
        causes.invalid(path.field("periodSeconds"), period, &format!("must be less than or equal to {PERIOD_SECONDS_MAX}"));
    }
}

#[cfg(test)]
mod tests {
    use super::{super::tests::object, *};

    fn causes(new: &Value, old: Option<&Value>) -> Vec<String> {
        let mut causes = FieldErrors::default();
        spec(new.at("spec"), old.at("spec"), &mut causes);
        causes.0.iter().map(|c| c.text()).collect()
    }

    #[test]
    fn all_that_is_wrong_is_told() {
        let cases = [
            (json!({}), vec![]),
            (
                json!({"maxReplicas": 0}),
                vec![
                    "spec.maxReplicas: Required value: must be set and greater than 0",
                    "spec.maxReplicas: Invalid value: 0: must be greater than or equal to `minReplicas`",
                ],
            ),
            (
                json!({"scaleTargetRef": {}}),
                vec![
                    "spec.scaleTargetRef.kind: Required value",
                    "spec.scaleTargetRef.name: Required value",
                    r#"spec.scaleTargetRef.apiVersion: Invalid value: "": apiVersion must specify API group"#,
                ],
            ),
            (json!({"scaleTargetRef": {"kind": "ReplicationController", "name": "a", "apiVersion": "v1"}}), vec![]),
            (
                json!({"behavior": {"scaleUp": {"stabilizationWindowSeconds": 3601, "selectPolicy": "X", "tolerance": "-1",
                    "policies": [{"type": "X", "value": 0, "periodSeconds": 1801}]}}}),
                vec![
                    "spec.behavior.scaleUp.stabilizationWindowSeconds: Invalid value: 3601: must be less than or equal to 3600",
                    r#"spec.behavior.scaleUp.selectPolicy: Unsupported value: "X": supported values: "Disabled", "Max", "Min""#,
                    r#"spec.behavior.scaleUp.policies[0].type: Unsupported value: "X": supported values: "Percent", "Pods""#,
                    "spec.behavior.scaleUp.policies[0].value: Invalid value: 0: must be greater than zero",
                    "spec.behavior.scaleUp.policies[0].periodSeconds: Invalid value: 1801: must be less than or equal to 1800",
                    r#"spec.behavior.scaleUp.tolerance: Invalid value: "-1": must be greater than or equal to 0"#,
                ],
            ),
        ];
        for (parts, wanted) in cases {
            assert_eq!(causes(&object(parts), None), wanted);
        }
    }

    #[test]
    fn what_was_allowed_before_may_stay() {
        let bad = object(json!({"minReplicas": 0, "scaleTargetRef": {"kind": "X", "name": "a", "apiVersion": "a/b/c"}, "metrics": [
            {"type": "External", "external": {"metric": {"name": "m"}, "target": {"type": "Value", "value": "1"}}}]}));
        assert_eq!(causes(&bad, Some(&bad)), Vec::<String>::new());
        assert_eq!(causes(&bad, None).len(), 2);
    }
}
