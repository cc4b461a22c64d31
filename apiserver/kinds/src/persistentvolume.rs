//! PersistentVolume: the strategy of storage that is there. Source: `pkg/registry/core/persistentvolume`, `pkg/api/persistentvolume/util.go`,
//! `SetDefaults_PersistentVolume`.

pub mod validate;

use std::borrow::Cow;

use api::{
    field_errors::FieldErrors,
    time::{Timestamp, rfc3339},
};
use apiserver::kind::{Column, Ctx, Kind, MetaCheck, Strategy, names};
use serde_json::{Value, json};

use crate::{
    common::{
        self, Path, Read,
        edit::{child, default_text, default_to, make_child, set},
        read,
        resources::canonical_list,
        table,
    },
    persistentvolumeclaim::{CLASS_ANNOTATION, class, modes, phase},
    pod,
};

const SPEC: Path<'static> = Path::new("spec");
const ANNOTATIONS: [(&str, &str); 2] = [
    (CLASS_ANNOTATION, "deprecated since v1.8; use \"storageClassName\" attribute instead"),
    (validate::MOUNT_OPTIONS, "deprecated since v1.31; use \"mountOptions\" attribute instead"),
];
const RECYCLE: &str = "The Recycle reclaim policy is deprecated. Instead, the recommended approach is to use dynamic provisioning.";
/// Types whose time is over, in upstream's order, and where upstream says so.
const OLD_TYPES: [(&str, &str, &str); 6] = [
    ("cephfs", "cephfs", "deprecated in v1.28, non-functional in v1.31+"),
    ("photonPersistentDisk", "photonPersistentDisk", "deprecated in v1.11, non-functional in v1.16+"),
    ("scaleIO", "scaleIO", "deprecated in v1.16, non-functional in v1.22+"),
    ("storageos", "storageOS", "deprecated in v1.22, non-functional in v1.25+"),
    ("glusterfs", "glusterfs", "deprecated in v1.25, non-functional in v1.26+"),
    ("rbd", "rbd", "deprecated in v1.28, non-functional in v1.31+"),
];
const COLUMNS: &[Column] = &[
    table::NAME_COLUMN,
    table::column(
        "Capacity",
        "string",
        "capacity is the description of the persistent volume's resources and capacity. More info: https://kubernetes.io/docs/concepts/storage/persistent-volumes#capacity",
    ),
    table::column(
        "Access Modes",
        "string",
        "accessModes contains all ways the volume can be mounted. More info: https://kubernetes.io/docs/concepts/storage/persistent-volumes#access-modes",
    ),
    table::column(
        "Reclaim Policy",
        "string",
        "persistentVolumeReclaimPolicy defines what happens to a persistent volume when released from its claim. Valid options are Retain (default for manually created PersistentVolumes), Delete (default for dynamically provisioned PersistentVolumes), and Recycle (deprecated). Recycle must be supported by the volume plugin underlying this PersistentVolume. More info: https://kubernetes.io/docs/concepts/storage/persistent-volumes#reclaiming",
    ),
    table::column(
        "Status",
        "string",
        "phase indicates if a volume is available, bound to a claim, or released by a claim. More info: https://kubernetes.io/docs/concepts/storage/persistent-volumes#phase",
    ),
    table::column(
        "Claim",
        "string",
        "claimRef is part of a bi-directional binding between PersistentVolume and PersistentVolumeClaim. Expected to be non-nil when bound. claim.VolumeName is the authoritative bind between PV and PVC. More info: https://kubernetes.io/docs/concepts/storage/persistent-volumes#binding",
    ),
    table::column("StorageClass", "string", "StorageClass of the pv"),
    table::column("VolumeAttributesClass", "string", "VolumeAttributesClass of the pv"),
    table::column(
        "Reason",
        "string",
        "reason is a brief CamelCase string that describes any failure and is meant for machine parsing and tidy display in the CLI.",
    ),
    table::AGE_COLUMN,
    table::wide(
        "VolumeMode",
        "string",
        "volumeMode defines if a volume is intended to be used with a formatted filesystem or to remain in raw block state. Value of Filesystem is implied when not included in spec.",
    ),
];

pub fn kind() -> Kind {
    Kind {
        short_names: names(&["pv"]),
        scope: apiserver::kind::Scope::Cluster,
        subresources: vec![common::status("", "v1", "PersistentVolume")],
        columns: Cow::Borrowed(COLUMNS),
        ..common::kind("", "v1", "PersistentVolume", "persistentvolumes", "io.k8s.api.core.v1", Volumes)
    }
}

/// What defaulting does to a volume's spec wherever one stands: of its source, and its amounts.
pub fn default_source(spec: &mut Value) {
    canonical_list(spec, "capacity");
    child(spec, "hostPath").into_iter().for_each(|source| default_to(source, "type", ""));
    pod::defaults::remote_volume(spec);
}

struct Volumes;

impl Strategy for Volumes {
    fn default(&self, object: &mut Value) {
        let Some(spec) = make_child(object, "spec") else { return };
        default_text(spec, "persistentVolumeReclaimPolicy", "Retain");
        default_to(spec, "volumeMode", "Filesystem");
        default_source(spec);
    }

    fn prepare_create(&self, ctx: &Ctx<'_>, object: &mut Value) {
        set(object, "status", json!({"phase": "Pending", "lastPhaseTransitionTime": rfc3339(ctx.now)}));
    }

    fn prepare_subresource(&self, ctx: &Ctx<'_>, new: &mut Value, old: &Value) {
        if let Some(status) = make_child(new, "status") {
            transition(status, old.at("status"), ctx.now);
        }
    }

    fn validate(&self, object: &Value, causes: &mut FieldErrors) {
        validate::spec(object.at("spec"), read::name(object), SPEC, causes);
        validate::mount_options(object, causes);
    }

    fn validate_update(&self, new: &Value, old: &Value, causes: &mut FieldErrors) {
        // Upstream says twice what is wrong with the new one by itself.
        validate::spec(new.at("spec"), read::name(new), SPEC, causes);
        validate::update(new, old, causes);
    }

    fn warnings(&self, new: &Value, _old: Option<&Value>) -> Vec<String> {
        let spec = new.at("spec");
        let annotations = ANNOTATIONS.iter().filter(|(key, _)| new.at("metadata").at("annotations").at(key).is_some());
        let mut out: Vec<String> = annotations.map(|(key, text)| format!("metadata.annotations[{key}]: {text}")).collect();
        if spec.text("persistentVolumeReclaimPolicy") == "Recycle" {
            out.push(format!("spec.persistentVolumeReclaimPolicy: {RECYCLE}"));
        }
        if let Some(required) = spec.at("nodeAffinity").at("required") {
            out.extend(pod::warnings::node_selector(required, Path::new("spec.nodeAffinity.required")));
        }
        let old = OLD_TYPES.iter().filter(|(name, ..)| spec.at(name).is_some());
        out.extend(old.map(|(_, at, text)| format!("spec.{at}: {text}")));
        out
    }

    fn meta_check(&self) -> MetaCheck {
        MetaCheck::Both
    }

    fn returns_deleted(&self) -> bool {
        true
    }

    fn cells(&self, object: &Value, now: Timestamp) -> Vec<Value> {
        let spec = object.at("spec");
        let claim = spec.at("claimRef").map(|claim| format!("{}/{}", claim.text("namespace"), claim.text("name")));
        let or_unset = |field: &str| spec.at(field).cloned().unwrap_or_else(|| "<unset>".into());
        vec![
            read::name(object).into(),
            spec.at("capacity").at("storage").and_then(Value::as_str).unwrap_or("0").into(),
            modes(spec.list("accessModes")).into(),
            spec.text("persistentVolumeReclaimPolicy").into(),
            phase(object).into(),
            claim.unwrap_or_default().into(),
            class(object).into(),
            or_unset("volumeAttributesClassName"),
            object.at("status").text("reason").into(),
            table::age(object, now),
            or_unset("volumeMode"),
        ]
    }
}

/// When the phase was reached: now, unless it is as it was or the writer says when.
fn transition(status: &mut Value, old: Option<&Value>, now: Timestamp) {
    const TIME: &str = "lastPhaseTransitionTime";
    default_text(status, "phase", "Pending");
    let (said, before) = (status.at(TIME), old.at(TIME));
    let is_same = status.text("phase") == old.text("phase");
    match (is_same, said) {
        (true, None) => common::edit::carry_as(status, TIME, before),
        (false, said) if said.is_none() || said == before => set(status, TIME, rfc3339(now)),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(spec: Value) -> Value {
        let mut object = json!({"metadata": {"name": "a"}, "spec": spec});
        Volumes.default(&mut object);
        object
    }

    #[test]
    fn defaults_are_upstreams() {
        let found = of(json!({"hostPath": {"path": "/x"}, "capacity": {"storage": "1024Mi"}}));
        let wanted = json!({"hostPath": {"path": "/x", "type": ""}, "capacity": {"storage": "1Gi"},
            "persistentVolumeReclaimPolicy": "Retain", "volumeMode": "Filesystem"});
        assert_eq!(found["spec"], wanted);
        assert_eq!(of(json!({"iscsi": {}}))["spec"]["iscsi"]["iscsiInterface"], "default");
    }

    #[test]
    fn a_phase_has_its_time() {
        let now = api::time::parse("2026-01-02T00:00:00Z").unwrap();
        let old = json!({"phase": "Pending", "lastPhaseTransitionTime": "2026-01-01T00:00:00Z"});
        let after = |mut status: Value| {
            transition(&mut status, Some(&old), now);
            status["lastPhaseTransitionTime"].as_str().unwrap().to_owned()
        };
        assert_eq!(after(json!({"phase": "Pending"})), "2026-01-01T00:00:00Z");
        assert_eq!(after(json!({"phase": "Bound"})), "2026-01-02T00:00:00Z");
        assert_eq!(after(json!({"phase": "Bound", "lastPhaseTransitionTime": "2026-01-01T00:00:00Z"})), "2026-01-02T00:00:00Z");
        assert_eq!(after(json!({"phase": "Bound", "lastPhaseTransitionTime": "2020-01-01T00:00:00Z"})), "2020-01-01T00:00:00Z");
    }

    #[test]
    fn what_is_old_is_warned_of() {
        let mut volume = of(json!({"rbd": {}, "persistentVolumeReclaimPolicy": "Recycle", "nodeAffinity": {"required": {
            "nodeSelectorTerms": [{"matchExpressions": [{"key": "beta.kubernetes.io/os", "operator": "Exists"}]}]}}}));
        volume["metadata"]["annotations"] = json!({validate::MOUNT_OPTIONS: "x"});
        let wanted = [
            "metadata.annotations[volume.beta.kubernetes.io/mount-options]: deprecated since v1.31; use \"mountOptions\" attribute instead",
            &format!("spec.persistentVolumeReclaimPolicy: {RECYCLE}"),
            "spec.nodeAffinity.required.nodeSelectorTerms[0].matchExpressions[0].key: beta.kubernetes.io/os is deprecated since v1.14; use \"kubernetes.io/os\" instead",
            "spec.rbd: deprecated in v1.28, non-functional in v1.31+",
        ];
        assert_eq!(Volumes.warnings(&volume, None), wanted);
    }

    #[test]
    fn cells_are_upstreams() {
        let mut volume = of(json!({"capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOncePod"], "storageClassName": "s",
            "claimRef": {"namespace": "n", "name": "c"}}));
        volume["status"] = json!({"phase": "Released", "reason": "why"});
        let cells = Volumes.cells(&volume, Timestamp::UNIX_EPOCH);
        let wanted = json!(["a", "1Gi", "RWOP", "Retain", "Released", "n/c", "s", "<unset>", "why", "<unknown>", "Filesystem"]);
        assert_eq!(Value::from(cells), wanted);
        assert_eq!(COLUMNS.len(), 11);
    }
}
