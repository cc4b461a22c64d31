//! VolumeAttachment: the strategy of a volume that is to be attached to a node. Source: `pkg/registry/storage/volumeattachment`,
//! `ValidateVolumeAttachment` in `pkg/apis/storage/validation`.

use std::borrow::Cow;

use api::{field_errors::FieldErrors, time::Timestamp};
use apiserver::kind::{Column, Ctx, Kind, MetaCheck, Name, Scope, Strategy};
use serde_json::{Value, json};

use crate::{
    common::{
        self, Path, Read,
        edit::{child, default_to, keep_metadata, make_child, set},
        name_rules, read, table, unchanged, well_formed,
    },
    persistentvolume,
    volumesources::driver_name,
};

const METADATA_BYTES: usize = 256 << 10;
const MESSAGE_BYTES: usize = 1 << 10;
const SPEC: Path<'static> = Path::new("spec");
const STATUS: Path<'static> = Path::new("status");
const ONE_SOURCE: &str = "must specify exactly one of inlineVolumeSpec and persistentVolumeName";
const ATTACHER: Column = Column {
    name: Name::Borrowed("Attacher"),
    typ: Name::Borrowed("string"),
    format: Name::Borrowed("name"),
    description: Name::Borrowed(
        "attacher indicates the name of the volume driver that MUST handle this request. This is the name returned by GetPluginName().",
    ),
    priority: 0,
};
const COLUMNS: &[Column] = &[
    table::NAME_COLUMN,
    ATTACHER,
    table::column("PV", "string", "persistentVolumeName represents the name of the persistent volume to attach."),
    table::column("Node", "string", "nodeName represents the node that the volume should be attached to."),
    table::column(
        "Attached",
        "boolean",
        "attached indicates the volume is successfully attached. This field must only be set by the entity completing the attach operation, i.e. the external-attacher.",
    ),
    table::AGE_COLUMN,
];

pub fn kind() -> Kind {
    Kind {
        scope: Scope::Cluster,
        subresources: vec![common::status("storage.k8s.io", "v1", "VolumeAttachment")],
        columns: Cow::Borrowed(COLUMNS),
        ..common::kind("storage.k8s.io", "v1", "VolumeAttachment", "volumeattachments", "io.k8s.api.storage.v1", VolumeAttachments)
    }
}

struct VolumeAttachments;

impl Strategy for VolumeAttachments {
    fn unconditional_update(&self) -> bool {
        false
    }

    fn default(&self, object: &mut Value) {
        let source = child(object, "spec").and_then(|spec| child(spec, "source"));
        if let Some(volume) = source.and_then(|source| child(source, "inlineVolumeSpec")) {
            persistentvolume::default_source(volume);
        }
    }

    fn prepare_create(&self, _ctx: &Ctx<'_>, object: &mut Value) {
        set(object, "status", json!({"attached": false}));
    }

    fn prepare_subresource(&self, _ctx: &Ctx<'_>, new: &mut Value, old: &Value) {
        keep_metadata(new, old);
        if let Some(status) = make_child(new, "status") {
            default_to(status, "attached", false);
        }
    }

    fn validate(&self, object: &Value, causes: &mut FieldErrors) {
        let spec = object.at("spec");
        driver_name(spec.text("attacher"), SPEC.field("attacher"), causes);
        source(spec.at("source"), SPEC.field("source"), causes);
        let node = spec.text("nodeName");
        well_formed(node, name_rules::dns_subdomain(node), SPEC.field("nodeName"), causes);
        status(object.at("status"), causes);
        if let Some(volume) = spec.at("source").at("persistentVolumeName").and_then(Value::as_str) {
            well_formed(volume, name_rules::dns_subdomain(volume), Path::new("spec.source.persistentVolumeName"), causes);
        }
    }

    fn validate_update(&self, new: &Value, old: &Value, causes: &mut FieldErrors) {
        unchanged(new.at("spec"), old.at("spec"), SPEC, causes);
    }

    fn validate_subresource(&self, _subresource: &str, new: &Value, old: &Value, causes: &mut FieldErrors) {
        self.validate(new, causes);
        self.validate_update(new, old, causes);
    }

    fn meta_check(&self) -> MetaCheck {
        MetaCheck::Create
    }

    fn returns_deleted(&self) -> bool {
        true
    }

    fn cells(&self, object: &Value, now: Timestamp) -> Vec<Value> {
        let spec = object.at("spec");
        vec![
            read::name(object).into(),
            spec.text("attacher").into(),
            spec.at("source").text("persistentVolumeName").into(),
            spec.text("nodeName").into(),
            object.at("status").is_true("attached").into(),
            table::age(object, now),
        ]
    }
}

/// `validateVolumeAttachmentSource`
fn source(source: Option<&Value>, path: Path<'_>, causes: &mut FieldErrors) {
    match (source.at("inlineVolumeSpec"), source.at("persistentVolumeName").and_then(Value::as_str)) {
        (None, None) => causes.required(path, ONE_SOURCE),
        (Some(_), Some(_)) => causes.forbidden(path, ONE_SOURCE),
        (None, Some("")) => causes.required(path.field("persistentVolumeName"), "must specify non empty persistentVolumeName"),
        (None, Some(_)) => {}
        (Some(inline), None) => persistentvolume::validate::inline(inline, path.field("inlineVolumeSpec"), causes),
    }
}

/// `validateVolumeAttachmentStatus`
fn status(status: Option<&Value>, causes: &mut FieldErrors) {
    let bytes: usize = status.entries("attachmentMetadata").map(|(key, value)| key.len() + value.len()).sum();
    if bytes > METADATA_BYTES {
        causes.too_long(STATUS.field("attachmentMetadata"), METADATA_BYTES);
    }
    for field in ["attachError", "detachError"] {
        let (error, path) = (status.at(field), STATUS.field(field));
        if error.text("message").len() > MESSAGE_BYTES {
            // Upstream names the other bound.
            causes.too_long(path.field("message"), METADATA_BYTES);
        }
        if let Some(code) = error.int("errorCode").filter(|code| *code < 0) {
            causes.invalid(path.field("errorCode"), code, "must be between 0 and 2147483647, inclusive");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(source: Value) -> Value {
        json!({"metadata": {"name": "a"}, "spec": {"attacher": "d.example", "nodeName": "n", "source": source}})
    }

    fn texts(object: &Value) -> Vec<String> {
        let mut causes = FieldErrors::default();
        VolumeAttachments.validate(object, &mut causes);
        causes.0.iter().map(|c| c.text()).collect()
    }

    #[test]
    fn each_rule_has_its_words() {
        let csi = json!({"csi": {"driver": "d", "volumeHandle": "h"}, "accessModes": ["ReadWriteOnce"]});
        let cases: Vec<(Value, Vec<String>)> = vec![
            (json!({"persistentVolumeName": "pv"}), vec![]),
            (json!({"inlineVolumeSpec": csi}), vec![]),
            (json!({}), vec![format!("spec.source: Required value: {ONE_SOURCE}")]),
            (
                json!({"inlineVolumeSpec": {"nfs": {"server": "s", "path": "/"}}}),
                vec![
                    "spec.source.inlineVolumeSpec.csi: Required value: has to be specified in the context of inline volumes".into(),
                    "spec.source.inlineVolumeSpec.accessModes: Required value".into(),
                ],
            ),
        ];
        for (source, wanted) in cases {
            assert_eq!(texts(&of(source.clone())), wanted, "{source}");
        }
        let mut bare = json!({"spec": {"source": {"persistentVolumeName": "A"}}, "status": {"attachError": {"errorCode": -1}}});
        bare["status"]["detachError"] = json!({"message": "x".repeat(1025)});
        let found: Vec<String> = texts(&bare).iter().map(|t| t.chars().take(50).collect()).collect();
        assert_eq!(found.len(), 5, "{found:?}");
        assert_eq!(found[0], "spec.attacher: Required value");
    }

    #[test]
    fn the_spec_stays() {
        let (old, new) = (of(json!({"persistentVolumeName": "a"})), of(json!({"persistentVolumeName": "b"})));
        let mut causes = FieldErrors::default();
        VolumeAttachments.validate_update(&new, &old, &mut causes);
        assert!(causes.0[0].text().ends_with("field is immutable"), "{causes:?}");
    }

    #[test]
    fn cells_are_upstreams() {
        let mut object = of(json!({"persistentVolumeName": "pv"}));
        object["status"] = json!({"attached": true});
        let cells = VolumeAttachments.cells(&object, Timestamp::UNIX_EPOCH);
        assert_eq!(Value::from(cells), json!(["a", "d.example", "pv", "n", true, "<unknown>"]));
    }
}
