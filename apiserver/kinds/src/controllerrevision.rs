//! ControllerRevision: the strategy of what a controller keeps of an earlier state. Source: `pkg/registry/apps/controllerrevision`,
//! `ValidateControllerRevisionCreate` in `pkg/apis/apps/validation`.

use std::borrow::Cow;

use api::{field_errors::FieldErrors, time::Timestamp};
use apiserver::kind::{Column, Kind, Strategy};
use serde_json::Value;

use crate::common::{self, Path, Read, edit, not_negative, read, table};

const COLUMNS: &[Column] = &[
    table::NAME_COLUMN,
    table::column("Controller", "string", "Controller of the object"),
    table::column("Revision", "string", "Revision indicates the revision of the state represented by Data."),
    table::AGE_COLUMN,
];

pub fn kind() -> Kind {
    Kind {
        columns: Cow::Borrowed(COLUMNS),
        ..common::kind("apps", "v1", "ControllerRevision", "controllerrevisions", "io.k8s.api.apps.v1", ControllerRevisions)
    }
}

struct ControllerRevisions;

impl Strategy for ControllerRevisions {
    fn default(&self, object: &mut Value) {
        // A Go number without `omitempty`: it is always written.
        edit::default_to(object, "revision", 0);
    }

    fn validate(&self, object: &Value, causes: &mut FieldErrors) {
        not_negative(object.int("revision"), Path::new("revision"), causes);
    }

    fn validate_create(&self, object: &Value, causes: &mut FieldErrors) {
        match object.at("data") {
            None => causes.required("data", "data is mandatory"),
            Some(data) if !data.is_object() => causes.required("data", "data must be a valid JSON object"),
            Some(_) => {}
        }
    }

    fn validate_update(&self, new: &Value, old: &Value, causes: &mut FieldErrors) {
        // Whose data it is knows what is nothing in it: it must be the same to the letter.
        if new.at("data") != old.at("data") {
            causes.invalid("data", new.at("data").cloned().unwrap_or(Value::Null), "field is immutable");
        }
    }

    fn cells(&self, object: &Value, now: Timestamp) -> Vec<Value> {
        let owners = object.at("metadata").list("ownerReferences");
        let controller = owners.iter().find(|owner| owner.is_true("controller"));
        vec![
            read::name(object).into(),
            controller.map_or_else(|| "<none>".into(), controller_cell).into(),
            object.int("revision").unwrap_or(0).into(),
            table::age(object, now),
        ]
    }
}

/// `daemonset.apps/logs`
fn controller_cell(owner: &Value) -> String {
    let (kind, name) = (owner.text("kind").to_lowercase(), owner.text("name"));
    match owner.text("apiVersion").split_once('/') {
        Some((group, _)) => format!("{kind}.{}/{name}", group.to_lowercase()),
        None => format!("{kind}/{name}"),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn each_rule_has_its_words() {
        let cases: Vec<(Value, &[&str])> = vec![
            (json!({"revision": 1, "data": {}}), &[]),
            (json!({"revision": -1, "data": {}}), &["revision: Invalid value: -1: must be greater than or equal to 0"]),
            (json!({}), &["data: Required value: data is mandatory"]),
            (json!({"data": null}), &["data: Required value: data is mandatory"]),
            (json!({"data": [1]}), &["data: Required value: data must be a valid JSON object"]),
        ];
        for (object, wanted) in cases {
            let mut causes = FieldErrors::default();
            ControllerRevisions.validate(&object, &mut causes);
            ControllerRevisions.validate_create(&object, &mut causes);
            assert_eq!(causes.0.iter().map(|c| c.text()).collect::<Vec<_>>(), wanted, "{object}");
        }
    }

    #[test]
    fn data_stays_to_the_letter() {
        for (old, new, count) in
            [(json!({"a": 1}), json!({"a": 1}), 0), (json!({"a": 1}), json!({"a": 2}), 1), (json!({}), json!({"a": 0}), 1)]
        {
            let mut causes = FieldErrors::default();
            ControllerRevisions.validate_update(&json!({"revision": 2, "data": new}), &json!({"revision": 1, "data": old}), &mut causes);
            assert_eq!(causes.0.len(), count, "{new}");
        }
    }

    #[test]
    fn the_controller_is_shown() {
        let owner = json!({"apiVersion": "apps/v1", "kind": "DaemonSet", "name": "logs", "controller": true});
        let object = json!({"metadata": {"name": "a", "ownerReferences": [owner]}, "revision": 3});
        let cells = ControllerRevisions.cells(&object, Timestamp::UNIX_EPOCH);
        assert_eq!(Value::from(cells), json!(["a", "daemonset.apps/logs", 3, "<unknown>"]));
    }
}
