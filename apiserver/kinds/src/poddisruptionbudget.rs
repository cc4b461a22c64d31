//! PodDisruptionBudget: how many of some pods may be evicted at a time. Source: `pkg/registry/policy/poddisruptionbudget`, `pkg/apis/policy/validation`.

use std::borrow::Cow;

use api::{field_errors::FieldErrors, time::Timestamp};
use apiserver::kind::{Column, Kind, MetaCheck, Strategy, names};
use serde_json::{Value, json};

use crate::common::{
    self, Path, Read, amount, conditions, not_negative, not_supported,
    read::{count, name},
    selector,
    table::{AGE_COLUMN, NAME_COLUMN, age, column},
};

/// The condition that says whether a disruption is allowed now.
pub const ALLOWED: &str = "DisruptionAllowed";

const COLUMNS: &[Column] = &[
    NAME_COLUMN,
    column("Min Available", "string", "The minimum number of pods that must be available."),
    column("Max Unavailable", "string", "The maximum number of pods that may be unavailable."),
    column("Allowed Disruptions", "integer", "Calculated number of pods that may be disrupted at this time."),
    AGE_COLUMN,
];

const POLICIES: &[&str] = &["AlwaysAllow", "IfHealthyBudget"];

pub fn kind() -> Kind {
    Kind {
        short_names: names(&["pdb"]),
        subresources: vec![common::status("policy", "v1", "PodDisruptionBudget")],
        columns: Cow::Borrowed(COLUMNS),
        generation: true,
        ..common::kind("policy", "v1", "PodDisruptionBudget", "poddisruptionbudgets", "io.k8s.api.policy.v1", Budgets)
    }
}

/// `UpdateDisruptionAllowedCondition`: what the condition says follows from the count.
pub fn tell_allowed(status: &mut Value, now: Timestamp) {
    let (state, reason) = match status.int("disruptionsAllowed") {
        Some(1..) => ("True", "SufficientPods"),
        _ => ("False", "InsufficientPods"),
    };
    let mut condition = json!({"type": ALLOWED, "status": state, "reason": reason, "message": ""});
    if let Some(generation) = status.int("observedGeneration").filter(|g| *g != 0) {
        condition["observedGeneration"] = generation.into();
    }
    conditions::set(status, condition, now);
}

struct Budgets;

impl Strategy for Budgets {
    fn unconditional_update(&self) -> bool {
        false
    }

    fn validate(&self, object: &Value, causes: &mut FieldErrors) {
        let (spec, path) = (object.at("spec"), Path::new("spec"));
        let (min, max) = (spec.at("minAvailable"), spec.at("maxUnavailable"));
        if min.is_some() && max.is_some() {
            causes.invalid(path, spec.cloned().unwrap_or(Value::Null), "minAvailable and maxUnavailable cannot be both set");
        }
        for (value, field) in [(min, "minAvailable"), (max, "maxUnavailable")] {
            amount::int_or_percent(value, path.field(field), causes);
            amount::at_most_all(value, path.field(field), causes);
        }
        selector::well_formed(spec.at("selector"), path.field("selector"), causes);
        if let Some(policy) = spec.at("unhealthyPodEvictionPolicy").and_then(Value::as_str).filter(|p| !POLICIES.contains(p)) {
            not_supported(policy, POLICIES, path.field("unhealthyPodEvictionPolicy"), causes);
        }
    }

    fn validate_subresource(&self, _subresource: &str, new: &Value, _old: &Value, causes: &mut FieldErrors) {
        let (status, path) = (new.at("status"), Path::new("status"));
        conditions::validate(status.list("conditions"), path.field("conditions"), causes);
        for field in ["disruptionsAllowed", "currentHealthy", "desiredHealthy", "expectedPods"] {
            not_negative(status.int(field), path.field(field), causes);
        }
    }

    /// Upstream looks at no more of it.
    fn name_error(&self, name: &str) -> Option<String> {
        apiserver::names::path_segment_error(name)
    }

    fn meta_check(&self) -> MetaCheck {
        MetaCheck::None
    }

    fn cells(&self, object: &Value, now: Timestamp) -> Vec<Value> {
        let shown = |field: &str| match object.at("spec").at(field) {
            Some(Value::String(text)) => text.as_str().into(),
            Some(number) => Value::from(number.to_string()),
            None => "N/A".into(),
        };
        let allowed = count(object, "/status/disruptionsAllowed");
        vec![name(object).into(), shown("minAvailable"), shown("maxUnavailable"), allowed.into(), age(object, now)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_rule_has_its_words() {
        let cases = [
            (json!({"minAvailable": 1, "selector": {"matchLabels": {"a": "b"}}}), vec![]),
            (json!({"maxUnavailable": "50%", "unhealthyPodEvictionPolicy": "AlwaysAllow"}), vec![]),
            (json!({}), vec![]),
            (
                json!({"minAvailable": 1, "maxUnavailable": 1}),
                vec![r#"spec: Invalid value: {"minAvailable":1,"maxUnavailable":1}: minAvailable and maxUnavailable cannot be both set"#],
            ),
            (json!({"minAvailable": -1}), vec!["spec.minAvailable: Invalid value: -1: must be greater than or equal to 0"]),
            (json!({"maxUnavailable": "101%"}), vec![r#"spec.maxUnavailable: Invalid value: "101%": must not be greater than 100%"#]),
            (
                json!({"unhealthyPodEvictionPolicy": "Never"}),
                vec![r#"spec.unhealthyPodEvictionPolicy: Unsupported value: "Never": supported values: "AlwaysAllow", "IfHealthyBudget""#],
            ),
        ];
        for (spec, wanted) in cases {
            let mut causes = FieldErrors::default();
            Budgets.validate(&json!({"spec": spec}), &mut causes);
            assert_eq!(causes.0.iter().map(|c| c.text()).collect::<Vec<_>>(), wanted, "{spec}");
        }
    }

    #[test]
    fn counts_are_not_negative() {
        let mut causes = FieldErrors::default();
        let status = json!({"status": {"disruptionsAllowed": -1, "currentHealthy": 0, "desiredHealthy": 0, "expectedPods": 0}});
        Budgets.validate_subresource("status", &status, &status, &mut causes);
        let texts: Vec<String> = causes.0.iter().map(|c| c.text()).collect();
        assert_eq!(texts, ["status.disruptionsAllowed: Invalid value: -1: must be greater than or equal to 0"]);
    }

    #[test]
    fn cells_are_upstreams() {
        let now = api::time::parse("2026-01-01T00:00:00Z").unwrap();
        let budget = |spec: Value| json!({"metadata": {"name": "b"}, "spec": spec, "status": {"disruptionsAllowed": 2}});
        let cells = |spec: Value| Value::from(Budgets.cells(&budget(spec), now));
        assert_eq!(cells(json!({"minAvailable": 1})), json!(["b", "1", "N/A", 2, "<unknown>"]));
        assert_eq!(cells(json!({"maxUnavailable": "20%"})), json!(["b", "N/A", "20%", 2, "<unknown>"]));
        assert_eq!(COLUMNS.len(), 5);
    }
}
