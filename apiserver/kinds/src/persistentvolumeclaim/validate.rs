//! A claim -> what is wrong with it, in upstream's words. Source: `ValidatePersistentVolumeClaimSpec`, `ValidatePersistentVolumeClaimTemplate`,
//! `ValidatePersistentVolumeClaimStatusUpdate`.

use api::{field_errors::FieldErrors, quantity::Quantity};
use serde_json::Value;

use crate::common::{Path, Read, name_rules, read, resource_names, resources::quantity, selector, well_formed};

const MODES: &[&str] = &["ReadOnlyMany", "ReadWriteMany", "ReadWriteOnce", "ReadWriteOncePod"];
const VOLUME_MODES: &[&str] = &["Block", "Filesystem"];
const RESIZING: &[&str] =
    &["ControllerResizeInProgress", "ControllerResizeInfeasible", "NodeResizePending", "NodeResizeInProgress", "NodeResizeInfeasible"];

/// Whether the group of a data source must be well-formed: one that was there before an update need not be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Groups {
    Checked,
    Unchecked,
}

pub fn spec(spec: Option<&Value>, groups: Groups, path: Path<'_>, causes: &mut FieldErrors) {
    let modes = spec.list("accessModes");
    if modes.is_empty() {
        causes.required(path.field("accessModes"), "at least 1 access mode is required");
    }
    selector::well_formed(spec.at("selector"), path.field("selector"), causes);
    access_modes(modes, path.field("accessModes"), causes);
    let resources = path.field("resources");
    match spec.at("resources").at("requests").at("storage") {
        None => causes.required(resources.key("storage"), ""),
        Some(size) => positive(size, resources.key("storage"), causes),
    }
    class_name(spec.text("storageClassName"), path.field("storageClassName"), causes);
    volume_mode(spec, path, causes);
    sources(spec, groups, path, causes);
    class_name(spec.text("volumeAttributesClassName"), path.field("volumeAttributesClassName"), causes);
}

/// A claim within something else: of its metadata, labels and annotations alone are used.
pub fn template(template: &Value, path: Path<'_>, causes: &mut FieldErrors) {
    let (metadata, at) = (template.at("metadata"), path.field("metadata"));
    selector::annotations(metadata.at("annotations"), at.field("annotations"), causes);
    selector::labels(metadata.at("labels"), at.field("labels"), causes);
    for (field, value) in metadata.and_then(Value::as_object).into_iter().flatten() {
        let is_allowed = matches!(field.as_str(), "annotations" | "labels");
        if !is_allowed && !read::is_nothing(field, value) {
            causes.forbidden(at.field(field), "cannot be set");
        }
    }
    spec(template.at("spec"), Groups::Checked, path.field("spec"), causes);
}

/// The modes of a claim, or of a volume.
pub fn access_modes(modes: &[Value], path: Path<'_>, causes: &mut FieldErrors) {
    let modes = modes.iter().filter_map(Value::as_str);
    for mode in modes.clone().filter(|mode| !MODES.contains(mode)) {
        causes.not_supported(path, mode, MODES);
    }
    let mut known = modes.filter(|mode| MODES.contains(mode));
    let is_for_one = |mode: &str| mode == "ReadWriteOncePod";
    if known.clone().any(is_for_one) && !known.all(is_for_one) {
        causes.forbidden(path, "may not use ReadWriteOncePod with other access modes");
    }
}

/// `ValidatePositiveQuantityValue`
pub fn positive(amount: &Value, path: Path<'_>, causes: &mut FieldErrors) {
    if let Some(found) = quantity(amount).filter(|q| q.is_negative() || q.is_zero()) {
        causes.invalid(path, found.to_string(), "must be greater than zero");
    }
}

/// `ValidateClassName` where there is one.
pub fn class_name(name: &str, path: Path<'_>, causes: &mut FieldErrors) {
    if !name.is_empty() {
        well_formed(name, name_rules::dns_subdomain(name), path, causes);
    }
}

/// `volumeMode` of a claim, or of a volume.
pub fn volume_mode(spec: Option<&Value>, path: Path<'_>, causes: &mut FieldErrors) {
    if let Some(mode) = spec.at("volumeMode").and_then(Value::as_str).filter(|mode| !VOLUME_MODES.contains(mode)) {
        causes.not_supported(path.field("volumeMode"), mode, VOLUME_MODES);
    }
}

/// `validateBasicResource` of each amount of a list.
pub fn amounts(list: Option<&Value>, path: Path<'_>, causes: &mut FieldErrors) {
    for (name, amount) in list.and_then(Value::as_object).into_iter().flatten() {
        if let Some(found) = negative(amount) {
            causes.invalid(path.key(name), found.units(), "must be a valid resource quantity");
        }
    }
}

fn negative(amount: &Value) -> Option<Quantity> {
    quantity(amount).filter(|found| found.is_negative())
}

/// What a status says. `new` is the whole claim.
pub fn status(new: &Value, causes: &mut FieldErrors) {
    let (status, path) = (new.at("status"), Path::new("status"));
    amounts(status.at("capacity"), path.field("capacity"), causes);
    let at = path.field("allocatedResourceStatuses");
    for (name, state) in status.entries("allocatedResourceStatuses") {
        resource_key(name, at, causes);
        if !RESIZING.contains(&state) {
            causes.not_supported(at, name, RESIZING);
        }
    }
    let at = path.field("allocatedResources");
    for (name, amount) in status.object("allocatedResources").into_iter().flatten() {
        if resource_key(name, at, causes)
            && let Some(found) = negative(amount)
        {
            causes.invalid(at.key(name), found.units(), "must be a valid resource quantity");
        }
    }
}

/// `validatePersistentVolumeClaimResourceKey`: of Kubernetes' own resources it is storage alone.
fn resource_key(name: &str, path: Path<'_>, causes: &mut FieldErrors) -> bool {
    let errors = name_rules::qualified(name);
    let is_well = errors.is_empty() && (!resource_names::is_native(name) || name == "storage");
    if errors.is_empty() && !is_well {
        causes.not_supported(path, name, &["storage"]);
    }
    well_formed(name, errors, path, causes);
    is_well
}

fn sources(spec: Option<&Value>, groups: Groups, path: Path<'_>, causes: &mut FieldErrors) {
    let (source, reference) = (spec.at("dataSource"), spec.at("dataSourceRef"));
    for (found, field) in [(source, "dataSource"), (reference, "dataSourceRef")] {
        if let Some(found) = found {
            data_source(found, groups, path.field(field), causes);
        }
    }
    let (Some(source), Some(reference)) = (source, reference) else { return };
    let empty = || Value::Object(serde_json::Map::new());
    if !reference.text("namespace").is_empty() {
        causes.invalid(path, empty(), "may not be specified when dataSourceRef.namespace is specified");
    } else if ["apiGroup", "kind", "name"].iter().any(|field| source.at(field) != reference.at(field)) {
        causes.invalid(path, empty(), "must match dataSourceRef");
    }
}

/// `validateDataSource`, `validateDataSourceRef`
fn data_source(source: &Value, groups: Groups, path: Path<'_>, causes: &mut FieldErrors) {
    let (group, kind) = (source.text("apiGroup"), source.text("kind"));
    for field in ["name", "kind"] {
        if source.text(field).is_empty() {
            causes.required(path.field(field), "");
        }
    }
    if group.is_empty() && kind != "PersistentVolumeClaim" {
        causes.invalid(path, kind, "must be 'PersistentVolumeClaim' when referencing the default apiGroup");
    }
    if !group.is_empty() && groups == Groups::Checked {
        well_formed(group, name_rules::dns_subdomain(group), path.field("apiGroup"), causes);
    }
    let namespace = source.text("namespace");
    if !namespace.is_empty() {
        well_formed(namespace, name_rules::dns_label(namespace), path.field("namespace"), causes);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn texts(check: impl FnOnce(&mut FieldErrors)) -> Vec<String> {
        let mut causes = FieldErrors::default();
        check(&mut causes);
        causes.0.iter().map(|c| c.text()).collect()
    }

    fn with(more: Value) -> Value {
        let mut of = json!({"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}});
        of.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        of
    }

    #[test]
    fn each_rule_has_its_words() {
        let source = |kind: &str| json!({"kind": kind, "name": "x"});
        let cases: Vec<(Value, &[&str])> = vec![
            (json!({}), &[]),
            (json!({"dataSource": source("PersistentVolumeClaim"), "dataSourceRef": source("PersistentVolumeClaim")}), &[]),
            (
                json!({"accessModes": [], "resources": {}}),
                &["spec.accessModes: Required value: at least 1 access mode is required", "spec.resources[storage]: Required value"],
            ),
            (
                json!({"accessModes": ["X", "ReadWriteOncePod", "ReadWriteOnce"]}),
                &[
                    r#"spec.accessModes: Unsupported value: "X": supported values: "ReadOnlyMany", "ReadWriteMany", "ReadWriteOnce", "ReadWriteOncePod""#,
                    "spec.accessModes: Forbidden: may not use ReadWriteOncePod with other access modes",
                ],
            ),
            (
                json!({"resources": {"requests": {"storage": "0"}}}),
                &["spec.resources[storage]: Invalid value: \"0\": must be greater than zero"],
            ),
            (json!({"volumeMode": "Tape"}), &[r#"spec.volumeMode: Unsupported value: "Tape": supported values: "Block", "Filesystem""#]),
            (
                json!({"dataSource": source("Pod"), "dataSourceRef": {"kind": "Pod", "name": "y"}}),
                &[
                    "spec.dataSource: Invalid value: \"Pod\": must be 'PersistentVolumeClaim' when referencing the default apiGroup",
                    "spec.dataSourceRef: Invalid value: \"Pod\": must be 'PersistentVolumeClaim' when referencing the default apiGroup",
                    "spec: Invalid value: {}: must match dataSourceRef",
                ],
            ),
        ];
        for (more, wanted) in cases {
            let of = with(more);
            assert_eq!(texts(|c| spec(Some(&of), Groups::Checked, Path::new("spec"), c)), wanted, "{of}");
        }
    }

    #[test]
    fn a_template_has_no_name() {
        let of = json!({"metadata": {"name": "x", "labels": {"a": "b c"}, "creationTimestamp": null}, "spec": with(json!({}))});
        let found = texts(|c| template(&of, Path::new("t"), c));
        assert_eq!(found.len(), 2);
        assert!(found[0].starts_with("t.metadata.labels: Invalid value"), "{found:?}");
        assert_eq!(found[1], "t.metadata.name: Forbidden: cannot be set");
    }

    #[test]
    fn a_status_has_amounts() {
        let of = json!({"status": {
            "capacity": {"storage": "-1"}, "allocatedResources": {"cpu": "1", "storage": "-2", "x.example/y": "1"},
            "allocatedResourceStatuses": {"storage": "Lost"}}});
        let known = r#""ControllerResizeInProgress", "ControllerResizeInfeasible", "NodeResizePending", "NodeResizeInProgress", "NodeResizeInfeasible""#;
        let mut words: Vec<&str> = known.split(", ").collect();
        words.sort_unstable();
        assert_eq!(
            texts(|c| status(&of, c)),
            [
                "status.capacity[storage]: Invalid value: -1: must be a valid resource quantity".to_owned(),
                format!("status.allocatedResourceStatuses: Unsupported value: \"storage\": supported values: {}", words.join(", ")),
                "status.allocatedResources: Unsupported value: \"cpu\": supported values: \"storage\"".to_owned(),
                "status.allocatedResources[storage]: Invalid value: -2: must be a valid resource quantity".to_owned(),
            ]
        );
    }
}
