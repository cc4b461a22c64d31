//! Namespace: the strategy of what holds all namespaced objects: the `kubernetes` finalizer in its spec, its phase, the finalize subresource.
//!
//! Source: `pkg/registry/core/namespace/strategy.go`.

use std::borrow::Cow;

use api::{Gvk, field_errors::FieldErrors, time::Timestamp};
use apiserver::kind::{Column, Ctx, Field, Handler, Kind, MetaCheck, Scope, Strategy, Subresource, names};
use serde_json::{Value, json};

use crate::common::{self, Path, Read, edit, name_rules, read, table, well_formed};

const VERBS: &[&str] = &["create", "delete", "get", "list", "patch", "update", "watch"];
const COLUMNS: &[Column] = &[table::NAME_COLUMN, table::column("Status", "string", "The status of the namespace"), table::AGE_COLUMN];
// The second is a bug of old that upstream keeps, as clients use it.
const FIELDS: &[Field] = &[table::field("status.phase", "/status/phase", ""), table::field("name", "/metadata/name", "")];
const NAME_LABEL: &str = "kubernetes.io/metadata.name";
const FINALIZER: &str = "kubernetes";

pub fn kind() -> Kind {
    Kind {
        short_names: names(&["ns"]),
        scope: Scope::Cluster,
        verbs: names(VERBS),
        subresources: vec![finalize(), common::status("", "v1", "Namespace")],
        columns: Cow::Borrowed(COLUMNS),
        fields: Cow::Borrowed(FIELDS),
        ..common::kind("", "v1", "Namespace", "namespaces", "io.k8s.api.core.v1", Namespaces)
    }
}

struct Namespaces;

impl Strategy for Namespaces {
    fn reset_fields(&self, subresource: &str) -> Option<&'static [&'static [&'static str]]> {
        (subresource == "finalize").then_some(&[&["status"]])
    }

    fn default(&self, object: &mut Value) {
        label_with_name(object);
        if let Some(status) = edit::make_child(object, "status") {
            edit::default_text(status, "phase", "Active");
        }
    }

    /// With `generateName` the name is known only now.
    fn prepare_create(&self, _ctx: &Ctx<'_>, object: &mut Value) {
        label_with_name(object);
        edit::set(object, "status", json!({"phase": "Active"}));
        let Some(spec) = edit::make_child(object, "spec") else { return };
        let mut finalizers = spec.list("finalizers").to_vec();
        if !finalizers.iter().any(|f| f == FINALIZER) {
            finalizers.push(FINALIZER.into());
        }
        edit::set(spec, "finalizers", finalizers);
    }

    fn prepare_update(&self, _ctx: &Ctx<'_>, new: &mut Value, old: &Value) {
        let finalizers = old.pointer("/spec/finalizers").cloned();
        let Some(spec) = edit::make_child(new, "spec") else { return };
        match finalizers {
            Some(list) => edit::set(spec, "finalizers", list),
            None => edit::remove(spec, "finalizers"),
        }
    }

    fn prepare_subresource(&self, ctx: &Ctx<'_>, new: &mut Value, old: &Value) {
        if ctx.subresource == "finalize" {
            edit::carry(new, old, "status");
        }
    }

    fn name_error(&self, name: &str) -> Option<String> {
        apiserver::names::label_error(name)
    }

    fn validate(&self, object: &Value, causes: &mut FieldErrors) {
        for finalizer in finalizers(object) {
            finalizer_name(finalizer, Path::new("spec.finalizers"), causes);
        }
    }

    fn validate_subresource(&self, subresource: &str, new: &Value, _old: &Value, causes: &mut FieldErrors) {
        match subresource {
            "finalize" => {
                let path = Path::new("spec.finalizers");
                finalizers(new).enumerate().for_each(|(i, name)| finalizer_name(name, path.index(i), causes));
            }
            _ => phase(new, causes),
        }
    }

    fn begin_delete(&self, _ctx: &Ctx<'_>, object: &mut Value) {
        if let Some(metadata) = edit::child(object, "metadata") {
            // Upstream marks it by itself: no grace.
            edit::remove(metadata, "deletionGracePeriodSeconds");
        }
        if let Some(status) = edit::make_child(object, "status") {
            edit::set(status, "phase", "Terminating");
        }
    }

    fn has_own_deletion(&self) -> bool {
        true
    }

    fn holds_deletion(&self, object: &Value) -> bool {
        finalizers(object).next().is_some()
    }

    fn meta_check(&self) -> MetaCheck {
        MetaCheck::Both
    }

    fn cells(&self, object: &Value, now: Timestamp) -> Vec<Value> {
        vec![read::name(object).into(), object.at("status").text("phase").into(), table::age(object, now)]
    }
}

fn finalize() -> Subresource {
    let body = Gvk::new("", "v1", "Namespace");
    Subresource {
        name: "finalize".into(),
        body,
        schema: apiserver::schema::Schema::Open,
        verbs: names(&["update"]),
        handler: Handler::Object,
    }
}

fn label_with_name(object: &mut Value) {
    let name = read::name(object).to_owned();
    if name.is_empty() {
        return;
    }
    let labels = object.get_mut("metadata").and_then(|metadata| edit::make_child(metadata, "labels"));
    if let Some(labels) = labels {
        edit::set(labels, NAME_LABEL, name);
    }
}

fn finalizers(object: &Value) -> impl Iterator<Item = &str> {
    object.pointer("/spec/finalizers").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str)
}

/// A finalizer is qualified (`example.com/name`) or one of upstream's own.
fn finalizer_name(name: &str, path: Path<'_>, causes: &mut FieldErrors) {
    well_formed(name, name_rules::qualified(name), path, causes);
    let own = ["kubernetes", "orphan", "foregroundDeletion"];
    if !name.contains('/') && !own.contains(&name) {
        causes.invalid(path, name, "name is neither a standard finalizer name nor is it fully qualified");
    }
}

fn phase(object: &Value, causes: &mut FieldErrors) {
    let phase = read::text_at(object, "/status/phase");
    let (wanted, detail) = match object.at("metadata").at("deletionTimestamp") {
        None => ("Active", "may only be 'Active' if `deletionTimestamp` is empty"),
        Some(_) => ("Terminating", "may only be 'Terminating' if `deletionTimestamp` is not empty"),
    };
    if phase != wanted {
        causes.invalid("status.Phase", phase, detail);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_namespace_carries_its_name_as_a_label() {
        let mut namespace = json!({"metadata": {"name": "a", "labels": {"x": "y"}}});
        Namespaces.default(&mut namespace);
        assert_eq!(namespace["metadata"]["labels"], json!({"x": "y", "kubernetes.io/metadata.name": "a"}));
        assert_eq!(namespace["status"]["phase"], "Active");
    }

    #[test]
    fn finalizers_hold_it_and_are_well_named() {
        let held = json!({"spec": {"finalizers": ["kubernetes"]}});
        assert!(Namespaces.holds_deletion(&held));
        assert!(!Namespaces.holds_deletion(&json!({"spec": {"finalizers": []}})));
        let mut causes = FieldErrors::default();
        Namespaces.validate(&json!({"spec": {"finalizers": ["kubernetes", "a.b/c", "odd"]}}), &mut causes);
        let texts: Vec<String> = causes.0.iter().map(|c| c.text()).collect();
        assert_eq!(
            texts,
            [r#"spec.finalizers: Invalid value: "odd": name is neither a standard finalizer name nor is it fully qualified"#]
        );
    }

    #[test]
    fn the_phase_follows_the_deletion_timestamp() {
        let cases = [
            (json!({"status": {"phase": "Active"}}), 0),
            (json!({"status": {"phase": "Terminating"}}), 1),
            (json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}, "status": {"phase": "Terminating"}}), 0),
            (json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}, "status": {"phase": "Active"}}), 1),
        ];
        for (object, count) in cases {
            let mut causes = FieldErrors::default();
            Namespaces.validate_subresource("status", &object, &object, &mut causes);
            assert_eq!(causes.0.len(), count, "{object}");
        }
    }

    #[test]
    fn cells_fill_the_columns() {
        let now = Timestamp::from_second(1000).unwrap();
        let namespace = json!({"metadata": {"name": "a", "creationTimestamp": "1970-01-01T00:16:30Z"}, "status": {"phase": "Active"}});
        assert_eq!(Namespaces.cells(&namespace, now), [json!("a"), json!("Active"), json!("10s")]);
        assert_eq!(COLUMNS.len(), 3);
    }
}
