//! PriorityClass: the strategy of how much a pod matters. Source: `pkg/apis/scheduling/validation`, `pkg/registry/scheduling/priorityclass`.

use std::borrow::Cow;

use api::{field_errors::FieldErrors, time::Timestamp};
use apiserver::kind::{Column, Ctx, Kind, Scope, Strategy, names};
use serde_json::{Value, json};

use crate::common::{self, Path, Read, edit, read, table, unchanged};

/// The highest value that is not for the system.
pub const USER_MAX: i64 = 1_000_000_000;

/// The classes every cluster has: name, value, description.
pub const SYSTEM: [(&str, i64, &str); 2] = [
    ("system-node-critical", 2 * USER_MAX + 1000, "Used for system critical pods that must not be moved from their current node."),
    (
        "system-cluster-critical",
        2 * USER_MAX,
        "Used for system critical pods that must run in the cluster, but can be moved to another node if necessary.",
    ),
];

const COLUMNS: &[Column] = &[
    table::NAME_COLUMN,
    table::column("Value", "integer", "value represents the integer value of this priority class."),
    table::column(
        "Global-Default",
        "boolean",
        "globalDefault specifies whether this PriorityClass should be considered as the default priority for pods that do not have any priority class.",
    ),
    table::AGE_COLUMN,
    table::column("PreemptionPolicy", "string", "preemptionPolicy is the Policy for preempting pods with lower priority."),
];

pub fn kind() -> Kind {
    Kind {
        short_names: names(&["pc"]),
        scope: Scope::Cluster,
        columns: Cow::Borrowed(COLUMNS),
        ..common::kind("scheduling.k8s.io", "v1", "PriorityClass", "priorityclasses", "io.k8s.api.scheduling.v1", PriorityClasses)
    }
}

/// The objects of [`SYSTEM`], as a fresh cluster creates them.
pub fn system_classes() -> Vec<Value> {
    let class = |(name, value, description): (&str, i64, &str)| {
        json!({"apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass", "metadata": {"name": name},
            "value": value, "description": description, "preemptionPolicy": "PreemptLowerPriority"})
    };
    SYSTEM.into_iter().map(class).collect()
}

struct PriorityClasses;

impl Strategy for PriorityClasses {
    fn default(&self, object: &mut Value) {
        edit::default_to(object, "preemptionPolicy", "PreemptLowerPriority");
        // A Go number without `omitempty`: it is always written.
        edit::default_to(object, "value", 0);
    }

    /// It starts at 1 and stays there.
    fn prepare_create(&self, _ctx: &Ctx<'_>, object: &mut Value) {
        if let Some(metadata) = edit::child(object, "metadata") {
            edit::set(metadata, "generation", 1);
        }
    }

    fn validate(&self, object: &Value, causes: &mut FieldErrors) {
        let (name, value) = (read::name(object), object.int("value").unwrap_or(0));
        if name.starts_with("system-") {
            if let Some(why) = not_a_system_class(name, value, object.is_true("globalDefault")) {
                let detail = format!("priority class names with 'system-' prefix are reserved for system use only. error: {why}");
                causes.forbidden("metadata.name", &detail);
            }
        } else if value > USER_MAX {
            causes.forbidden("value", &format!("maximum allowed value of a user defined priority is {USER_MAX}"));
        }
        match object.at("preemptionPolicy").and_then(Value::as_str) {
            None | Some("PreemptLowerPriority" | "Never") => {}
            Some("") => causes.required("preemptionPolicy", ""),
            Some(other) => causes.not_supported("preemptionPolicy", other, &["PreemptLowerPriority", "Never"]),
        }
    }

    fn validate_update(&self, new: &Value, old: &Value, causes: &mut FieldErrors) {
        if new.int("value").unwrap_or(0) != old.int("value").unwrap_or(0) {
            causes.forbidden("value", "may not be changed in an update.");
        }
        unchanged(new.at("preemptionPolicy"), old.at("preemptionPolicy"), Path::new("preemptionPolicy"), causes);
    }

    fn cells(&self, object: &Value, now: Timestamp) -> Vec<Value> {
        vec![
            read::name(object).into(),
            object.int("value").unwrap_or(0).into(),
            object.is_true("globalDefault").into(),
            table::age(object, now),
            object.text("preemptionPolicy").into(),
        ]
    }
}

fn not_a_system_class(name: &str, value: i64, global_default: bool) -> Option<String> {
    match SYSTEM.iter().find(|(known, ..)| *known == name) {
        None => Some(format!("{name} is not a known system priority class")),
        Some((_, wanted, _)) if *wanted != value => Some(format!("value of {name} PriorityClass must be {wanted}")),
        Some(_) if global_default => Some(format!("globalDefault of {name} PriorityClass must be false")),
        Some(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_rule_has_its_words() {
        let class = |name: &str, value: i64, default: bool| json!({"metadata": {"name": name}, "value": value, "globalDefault": default});
        let reserved = "metadata.name: Forbidden: priority class names with 'system-' prefix are reserved for system use only. error:";
        let cases: Vec<(Value, Vec<String>)> = vec![
            (class("high", USER_MAX, true), vec![]),
            (class("low", -5, false), vec![]),
            (
                class("high", USER_MAX + 1, false),
                vec!["value: Forbidden: maximum allowed value of a user defined priority is 1000000000".into()],
            ),
            (class("system-x", 1, false), vec![format!("{reserved} system-x is not a known system priority class")]),
            (
                class("system-node-critical", 1, false),
                vec![format!("{reserved} value of system-node-critical PriorityClass must be 2000001000")],
            ),
            (
                class("system-cluster-critical", 2 * USER_MAX, true),
                vec![format!("{reserved} globalDefault of system-cluster-critical PriorityClass must be false")],
            ),
        ];
        for (object, wanted) in cases {
            let mut causes = FieldErrors::default();
            PriorityClasses.validate(&object, &mut causes);
            assert_eq!(causes.0.iter().map(|c| c.text()).collect::<Vec<_>>(), wanted, "{object}");
        }
    }

    #[test]
    fn system_classes_pass() {
        for object in system_classes() {
            let mut causes = FieldErrors::default();
            PriorityClasses.validate(&object, &mut causes);
            assert!(causes.is_empty(), "{object}: {causes:?}");
        }
    }

    #[test]
    fn value_and_policy_stay() {
        let class = |value: i64, policy: &str| json!({"value": value, "preemptionPolicy": policy});
        let mut causes = FieldErrors::default();
        PriorityClasses.validate_update(&class(2, "Never"), &class(1, "PreemptLowerPriority"), &mut causes);
        let texts: Vec<String> = causes.0.iter().map(|c| c.text()).collect();
        assert_eq!(
            texts,
            ["value: Forbidden: may not be changed in an update.", r#"preemptionPolicy: Invalid value: "Never": field is immutable"#]
        );
    }
}
