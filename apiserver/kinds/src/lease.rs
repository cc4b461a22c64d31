//! Lease: the strategy of who leads, and of nodes that say they live. Source: `pkg/apis/coordination/validation`.

use std::borrow::Cow;

use api::{field_errors::FieldErrors, time::Timestamp};
use apiserver::kind::{Column, Ctx, Finalizers, Kind, Strategy};
use serde_json::Value;

use crate::common::{
    self, Path, Read,
    edit::{child, remove},
    name_rules, not_negative, read, table, well_formed,
};

const COLUMNS: &[Column] = &[
    table::NAME_COLUMN,
    table::column("Holder", "string", "holderIdentity contains the identity of the holder of a current lease."),
    table::AGE_COLUMN,
];

pub fn kind() -> Kind {
    Kind {
        columns: Cow::Borrowed(COLUMNS),
        finalizers: Finalizers::Any,
        ..common::kind("coordination.k8s.io", "v1", "Lease", "leases", "io.k8s.api.coordination.v1", Leases)
    }
}

struct Leases;

/// Of elections that are coordinated, which is off by default (feature gate `CoordinatedLeaderElection`).
const COORDINATED: [&str; 2] = ["strategy", "preferredHolder"];

impl Strategy for Leases {
    fn prepare_create(&self, _ctx: &Ctx<'_>, object: &mut Value) {
        COORDINATED.into_iter().for_each(|field| child(object, "spec").into_iter().for_each(|spec| remove(spec, field)));
    }

    fn prepare_update(&self, _ctx: &Ctx<'_>, new: &mut Value, old: &Value) {
        for field in COORDINATED.into_iter().filter(|field| old.at("spec").at(field).is_none()) {
            child(new, "spec").into_iter().for_each(|spec| remove(spec, field));
        }
    }

    fn validate(&self, object: &Value, causes: &mut FieldErrors) {
        let (spec, path) = (object.at("spec"), Path::new("spec"));
        if let Some(seconds) = spec.int("leaseDurationSeconds").filter(|s| *s <= 0) {
            causes.invalid(path.field("leaseDurationSeconds"), seconds, "must be greater than 0");
        }
        not_negative(spec.int("leaseTransitions"), path.field("leaseTransitions"), causes);
        if let Some(strategy) = spec.at("strategy").and_then(Value::as_str) {
            self::strategy(strategy, path, causes);
        }
        if !spec.text("preferredHolder").is_empty() && spec.text("strategy").is_empty() {
            causes.forbidden(path.field("preferredHolder"), "may only be specified if `strategy` is defined");
        }
    }

    fn create_on_update(&self) -> bool {
        true
    }

    fn unconditional_update(&self) -> bool {
        false
    }

    fn cells(&self, object: &Value, now: Timestamp) -> Vec<Value> {
        vec![read::name(object).into(), object.at("spec").text("holderIdentity").into(), table::age(object, now)]
    }
}

fn strategy(strategy: &str, path: Path<'_>, causes: &mut FieldErrors) {
    // Upstream names the field twice.
    let path = path.field("strategy");
    let path = path.field("strategy");
    if strategy.contains('/') {
        well_formed(strategy, name_rules::qualified(strategy), path, causes);
    } else if strategy != "OldestEmulationVersion" {
        causes.not_supported(path, strategy, &["OldestEmulationVersion"]);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn each_rule_has_its_words() {
        let cases: Vec<(Value, &[&str])> = vec![
            (json!({"holderIdentity": "a", "leaseDurationSeconds": 40, "renewTime": "2026-01-01T00:00:00.000000Z"}), &[]),
            (json!({"leaseDurationSeconds": 0}), &["spec.leaseDurationSeconds: Invalid value: 0: must be greater than 0"]),
            (json!({"leaseTransitions": -1}), &["spec.leaseTransitions: Invalid value: -1: must be greater than or equal to 0"]),
            (json!({"strategy": "x"}), &[r#"spec.strategy.strategy: Unsupported value: "x": supported values: "OldestEmulationVersion""#]),
            (json!({"preferredHolder": "b"}), &["spec.preferredHolder: Forbidden: may only be specified if `strategy` is defined"]),
        ];
        for (spec, wanted) in cases {
            let mut causes = FieldErrors::default();
            Leases.validate(&json!({"spec": spec}), &mut causes);
            assert_eq!(causes.0.iter().map(|c| c.text()).collect::<Vec<_>>(), wanted, "{spec}");
        }
    }

    #[test]
    fn the_holder_is_shown() {
        let cells = Leases.cells(&json!({"metadata": {"name": "n"}, "spec": {"holderIdentity": "a"}}), Timestamp::UNIX_EPOCH);
        assert_eq!(cells, [json!("n"), json!("a"), json!("<unknown>")]);
    }
}
