//! PersistentVolumeClaim: the strategy of what a user asks of storage. Source: `pkg/registry/core/persistentvolumeclaim`,
//! `pkg/api/persistentvolumeclaim/util.go`, `SetDefaults_PersistentVolumeClaim`.

mod datasource;
pub mod update;
pub mod validate;

use std::borrow::Cow;

use api::{field_errors::FieldErrors, time::Timestamp};
use apiserver::kind::{Column, Ctx, Kind, MetaCheck, Strategy, names};
pub use podspec::quota::{CLASS_ANNOTATION, class};
use serde_json::{Value, json};

use crate::common::{
    self, Path, Read,
    edit::{child, default_text, default_to, make_child, set},
    read,
    resources::{canonical_list, quantity},
    table,
};

const CLASS_WARNING: &str = "deprecated since v1.8; use \"storageClassName\" attribute instead";
/// The words of the table for access modes, in its order.
const MODES: &[(&str, &str)] = &[("ReadWriteOnce", "RWO"), ("ReadOnlyMany", "ROX"), ("ReadWriteMany", "RWX"), ("ReadWriteOncePod", "RWOP")];
const COLUMNS: &[Column] = &[
    table::NAME_COLUMN,
    table::column("Status", "string", "phase represents the current phase of PersistentVolumeClaim."),
    table::column("Volume", "string", "volumeName is the binding reference to the PersistentVolume backing this claim."),
    table::column("Capacity", "string", "capacity represents the actual resources of the underlying volume."),
    table::column(
        "Access Modes",
        "string",
        "accessModes contains the actual access modes the volume backing the PVC has. More info: https://kubernetes.io/docs/concepts/storage/persistent-volumes#access-modes-1",
    ),
    table::column("StorageClass", "string", "StorageClass of the pvc"),
    table::column("VolumeAttributesClass", "string", "VolumeAttributesClass of the pvc"),
    table::AGE_COLUMN,
    table::wide(
        "VolumeMode",
        "string",
        "volumeMode defines what type of volume is required by the claim. Value of Filesystem is implied when not included in claim spec.",
    ),
];

pub fn kind() -> Kind {
    Kind {
        short_names: names(&["pvc"]),
        subresources: vec![common::status("", "v1", "PersistentVolumeClaim")],
        columns: Cow::Borrowed(COLUMNS),
        ..common::kind("", "v1", "PersistentVolumeClaim", "persistentvolumeclaims", "io.k8s.api.core.v1", Claims)
    }
}

/// `SetDefaults_PersistentVolumeClaimSpec`, for whatever holds one.
pub fn default_spec(spec: &mut Value) {
    default_to(spec, "volumeMode", "Filesystem");
    if let Some(resources) = make_child(spec, "resources") {
        canonical_list(resources, "limits");
        canonical_list(resources, "requests");
    }
}

/// What defaulting does to a claim's status wherever one stands.
pub fn default_status(status: &mut Value) {
    canonical_list(status, "capacity");
    canonical_list(status, "allocatedResources");
}

/// `GetAccessModesAsString`
pub fn modes(list: &[Value]) -> String {
    let shown = MODES.iter().filter(|(mode, _)| list.iter().any(|m| m.as_str() == Some(mode)));
    shown.map(|(_, short)| *short).collect::<Vec<_>>().join(",")
}

/// Whether it is on its way out, or its phase.
pub fn phase(object: &Value) -> &str {
    if object.at("metadata").at("deletionTimestamp").is_some() { "Terminating" } else { object.at("status").text("phase") }
}

struct Claims;

impl Strategy for Claims {
    fn default(&self, object: &mut Value) {
        make_child(object, "spec").into_iter().for_each(default_spec);
        child(object, "status").into_iter().for_each(default_status);
    }

    fn prepare_create(&self, _ctx: &Ctx<'_>, object: &mut Value) {
        set(object, "status", json!({"phase": "Pending"}));
        child(object, "spec").into_iter().for_each(|spec| datasource::prepare(spec, None));
    }

    fn prepare_update(&self, _ctx: &Ctx<'_>, new: &mut Value, old: &Value) {
        child(new, "spec").into_iter().for_each(|spec| datasource::prepare(spec, old.at("spec")));
    }

    fn prepare_subresource(&self, _ctx: &Ctx<'_>, new: &mut Value, _old: &Value) {
        make_child(new, "status").into_iter().for_each(|status| default_text(status, "phase", "Pending"));
    }

    fn validate_create(&self, object: &Value, causes: &mut FieldErrors) {
        validate::spec(object.at("spec"), validate::Groups::Checked, Path::new("spec"), causes);
    }

    fn validate_update(&self, new: &Value, old: &Value, causes: &mut FieldErrors) {
        let had_group = ["dataSource", "dataSourceRef"].iter().any(|field| old.at("spec").at(field).at("apiGroup").is_some());
        let groups = if had_group { validate::Groups::Unchecked } else { validate::Groups::Checked };
        validate::spec(new.at("spec"), groups, Path::new("spec"), causes);
        update::validate(new, old, causes);
    }

    fn validate_subresource(&self, _subresource: &str, new: &Value, _old: &Value, causes: &mut FieldErrors) {
        validate::status(new, causes);
    }

    fn warnings(&self, new: &Value, _old: Option<&Value>) -> Vec<String> {
        let mut out = Vec::new();
        if new.at("metadata").at("annotations").at(CLASS_ANNOTATION).is_some() {
            out.push(format!("metadata.annotations[{CLASS_ANNOTATION}]: {CLASS_WARNING}"));
        }
        out.extend(spec_warnings(new.at("spec"), Path::new("spec")));
        out
    }

    fn meta_check(&self) -> MetaCheck {
        MetaCheck::Both
    }

    fn returns_deleted(&self) -> bool {
        true
    }

    fn cells(&self, object: &Value, now: Timestamp) -> Vec<Value> {
        let (spec, status) = (object.at("spec"), object.at("status"));
        let volume = spec.text("volumeName");
        let bound = status.filter(|_| !volume.is_empty());
        let capacity = if volume.is_empty() { "" } else { bound.at("capacity").at("storage").and_then(Value::as_str).unwrap_or("0") };
        let or_unset = |field: &str| spec.at(field).cloned().unwrap_or_else(|| "<unset>".into());
        vec![
            read::name(object).into(),
            phase(object).into(),
            volume.into(),
            capacity.into(),
            modes(bound.list("accessModes")).into(),
            class(object).into(),
            or_unset("volumeAttributesClassName"),
            table::age(object, now),
            or_unset("volumeMode"),
        ]
    }
}

/// `GetWarningsForPersistentVolumeClaimSpec`: bytes do not come in parts.
pub fn spec_warnings(spec: Option<&Value>, path: Path<'_>) -> Vec<String> {
    let resources = path.field("resources");
    let told = |list: &'static str| {
        let amount = spec.at("resources").at(list).at("storage").and_then(quantity)?;
        let at = resources.field(list);
        let text = || format!("{}: fractional byte value \"{amount}\" is invalid, must be an integer", at.key("storage"));
        (amount.milli() % 1000 != 0).then(text)
    };
    ["requests", "limits"].into_iter().filter_map(told).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(spec: Value) -> Value {
        let mut object = json!({"metadata": {"name": "a"}, "spec": spec});
        Claims.default(&mut object);
        object
    }

    #[test]
    fn defaults_are_upstreams() {
        let found = of(json!({"resources": {"requests": {"storage": "1024Mi"}}}));
        assert_eq!(found["spec"], json!({"resources": {"requests": {"storage": "1Gi"}}, "volumeMode": "Filesystem"}));
    }

    #[test]
    fn what_is_old_or_odd_is_warned_of() {
        let mut claim = of(json!({"resources": {"requests": {"storage": "1500m"}, "limits": {"storage": "2"}}}));
        let fraction = "spec.resources.requests[storage]: fractional byte value \"1500m\" is invalid, must be an integer";
        assert_eq!(Claims.warnings(&claim, None), [fraction]);
        claim["metadata"]["annotations"] = json!({CLASS_ANNOTATION: "x"});
        let class = format!("metadata.annotations[{CLASS_ANNOTATION}]: {CLASS_WARNING}");
        assert_eq!(Claims.warnings(&claim, Some(&claim)), [class.as_str(), fraction]);
    }

    #[test]
    fn cells_are_upstreams() {
        let cells = |object: &Value| Value::from(Claims.cells(object, Timestamp::UNIX_EPOCH));
        let mut claim = of(json!({"accessModes": ["ReadWriteOnce"], "storageClassName": "fast"}));
        claim["status"] = json!({"phase": "Pending"});
        assert_eq!(cells(&claim), json!(["a", "Pending", "", "", "", "fast", "<unset>", "<unknown>", "Filesystem"]));
        claim["spec"]["volumeName"] = json!("pv");
        claim["status"] =
            json!({"phase": "Bound", "capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteMany", "ReadWriteOnce", "ReadWriteMany"]});
        claim["metadata"]["annotations"] = json!({CLASS_ANNOTATION: "old"});
        assert_eq!(cells(&claim), json!(["a", "Bound", "pv", "1Gi", "RWO,RWX", "old", "<unset>", "<unknown>", "Filesystem"]));
        claim["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        assert_eq!(cells(&claim)[1], "Terminating");
        assert_eq!(COLUMNS.len(), 9);
    }
}
