//! A volume -> what is wrong with it, in upstream's words. Source: `ValidatePersistentVolumeSpec`, `ValidatePersistentVolumeUpdate`,
//! `checkMountOption` in `pkg/volume/validation`.

use api::field_errors::FieldErrors;
use serde_json::{Map, Value, json};

use crate::{
    common::{Path, Read, diff, edit, name_rules, read, unchanged, well_formed},
    persistentvolumeclaim::validate::{access_modes, amounts, class_name, positive, volume_mode},
    pod,
    schema::internal,
    volumesources::{self, Of},
};

pub const MOUNT_OPTIONS: &str = "volume.beta.kubernetes.io/mount-options";

const RECLAIM: &[&str] = &["Delete", "Recycle", "Retain"];
const SOURCE: Path<'static> = Path::new("spec.persistentvolumesource");
const CLASS: Path<'static> = Path::new("spec.volumeAttributesClassName");
const INLINE: &str = "in the context of inline volumes";
/// Every type, in upstream's order of checks.
const TYPES: &[&str] = &[
    "hostPath",
    "gcePersistentDisk",
    "awsElasticBlockStore",
    "glusterfs",
    "flocker",
    "nfs",
    "rbd",
    "quobyte",
    "cephfs",
    "iscsi",
    "cinder",
    "fc",
    "flexVolume",
    "azureFile",
    "vsphereVolume",
    "photonPersistentDisk",
    "portworxVolume",
    "azureDisk",
    "scaleIO",
    "local",
    "storageos",
    "csi",
];
/// Those that are mounted with options.
const MOUNTED_WITH_OPTIONS: &[&str] = &[
    "gcePersistentDisk",
    "awsElasticBlockStore",
    "glusterfs",
    "nfs",
    "rbd",
    "quobyte",
    "iscsi",
    "cinder",
    "cephfs",
    "azureFile",
    "vsphereVolume",
    "azureDisk",
    "photonPersistentDisk",
];

/// The spec of the volume `name`.
pub fn spec(spec: Option<&Value>, name: &str, path: Path<'_>, causes: &mut FieldErrors) {
    modes(spec, path, causes);
    capacity(spec.object("capacity"), path.field("capacity"), causes);
    let (policy, at) = (spec.text("persistentVolumeReclaimPolicy"), path.field("persistentVolumeReclaimPolicy"));
    if !policy.is_empty() && !RECLAIM.contains(&policy) {
        causes.not_supported(at, policy, RECLAIM);
    }
    if let Some(affinity) = spec.at("nodeAffinity") {
        match affinity.at("required") {
            Some(required) => pod::validate::node_selector(required, path.field("nodeAffinity").field("required"), causes),
            None => causes.required(path.field("nodeAffinity").field("required"), "must specify required node constraints"),
        }
    }
    source(spec, Of::Persistent(name), path, causes);
    if policy == "Recycle" && spec.at("hostPath").is_some_and(|host| is_root(host.text("path"))) {
        causes.forbidden(at, "may not be 'recycle' for a hostPath mount of '/'");
    }
    class_name(spec.text("storageClassName"), path.field("storageClassName"), causes);
    volume_mode(spec, path, causes);
    let at = path.field("volumeAttributesClassName");
    match spec.at("volumeAttributesClassName").and_then(Value::as_str) {
        None => return,
        Some("") => causes.required(at, "an empty string is disallowed"),
        Some(name) => well_formed(name, name_rules::dns_subdomain(name), at, causes),
    }
    if spec.at("csi").is_none() {
        causes.required(path.field("csi"), "has to be specified when using volumeAttributesClassName");
    }
}

/// The spec of a volume that an attachment holds within itself: one of CSI, and without what a claim is matched by.
pub fn inline(spec: &Value, path: Path<'_>, causes: &mut FieldErrors) {
    let spec = Some(spec);
    let mut not_here = |field: &str| causes.forbidden(path.field(field), &format!("may not be specified {INLINE}"));
    if spec.at("claimRef").is_some() {
        not_here("claimRef");
    }
    if spec.object("capacity").is_some_and(|amounts| !amounts.is_empty()) {
        not_here("capacity");
    }
    if spec.at("csi").is_none() {
        causes.required(path.field("csi"), &format!("has to be specified {INLINE}"));
    }
    modes(spec, path, causes);
    if !matches!(spec.text("persistentVolumeReclaimPolicy"), "" | "Retain") {
        causes.forbidden(path.field("persistentVolumeReclaimPolicy"), &format!("may only be Retain {INLINE}"));
    }
    if spec.at("nodeAffinity").is_some() {
        causes.forbidden(path.field("nodeAffinity"), &format!("may not be specified {INLINE}"));
    }
    source(spec, Of::Persistent(""), path, causes);
    if !spec.text("storageClassName").is_empty() {
        causes.forbidden(path.field("storageClassName"), &format!("may not be specified {INLINE}"));
    }
    if spec.at("volumeMode").is_some_and(|mode| mode != "Filesystem") {
        causes.forbidden(path.field("volumeMode"), &format!("may not specify volumeMode other than Filesystem {INLINE}"));
    }
}

/// Mount options of old are for some types alone.
pub fn mount_options(volume: &Value, causes: &mut FieldErrors) {
    let is_let = MOUNTED_WITH_OPTIONS.iter().any(|name| volume.at("spec").at(name).is_some());
    if !is_let && volume.at("metadata").at("annotations").at(MOUNT_OPTIONS).is_some() {
        let at = Path::new("metadata.annotations");
        causes.forbidden(at.field(MOUNT_OPTIONS), "may not specify mount options for this volume type");
    }
}

/// What may not have changed.
pub fn update(new: &Value, old: &Value, causes: &mut FieldErrors) {
    let sources = |of: Option<&Value>| -> Value {
        TYPES.iter().filter_map(|name| Some(((*name).to_owned(), of.at(name)?.clone()))).collect::<Map<_, _>>().into()
    };
    let (mut now, was) = (sources(new.at("spec")), sources(old.at("spec")));
    // How a volume is expanded may be said later.
    if was.at("csi").is_some()
        && was.at("csi").at("controllerExpandSecretRef").is_none()
        && let Some(csi) = edit::child(&mut now, "csi")
    {
        edit::remove(csi, "controllerExpandSecretRef");
    }
    if !read::same(Some(&now), Some(&was)) {
        let [was, now] = [was, now].map(|sources| internal::shown("core.PersistentVolumeSource", Some(&sources)));
        let changes = diff::in_order(&was, &now);
        causes.forbidden(SOURCE, &format!("spec.persistentvolumesource is immutable after creation\n{changes}"));
    }
    let (spec, before) = (new.at("spec"), old.at("spec"));
    unchanged(spec.at("volumeMode"), before.at("volumeMode"), Path::new("volumeMode"), causes);
    if let Some(affinity) = before.at("nodeAffinity") {
        node_affinity(spec.at("nodeAffinity"), affinity, causes);
    }
    if before.at("volumeAttributesClassName").is_some() && spec.at("volumeAttributesClassName").is_none() {
        causes.forbidden(CLASS, "update from non-nil value to nil is forbidden");
    }
}

/// `validatePvNodeAffinity`: labels of old in it may be brought up to date.
fn node_affinity(new: Option<&Value>, old: &Value, causes: &mut FieldErrors) {
    let mut was = old.clone();
    if let Some(new) = new {
        let terms = was.pointer_mut("/required/nodeSelectorTerms").and_then(Value::as_array_mut);
        for (i, term) in terms.into_iter().flatten().enumerate() {
            for (j, expression) in edit::each(term, "matchExpressions").enumerate() {
                let key = format!("/required/nodeSelectorTerms/{i}/matchExpressions/{j}/key");
                renew(expression, new.pointer(&key).and_then(Value::as_str));
            }
        }
    }
    if !read::same(new, Some(&was)) {
        let shown = internal::shown_or_null("core.VolumeNodeAffinity", new);
        causes.invalid("nodeAffinity", shown, "field is immutable, except for updating from beta label to GA");
    }
}

/// A key of old becomes the one of today, if that is what the new object has.
fn renew(expression: &mut Value, now: Option<&str>) {
    const RENEWED: [(&str, &str); 5] = [
        ("failure-domain.beta.kubernetes.io/zone", "topology.kubernetes.io/zone"),
        ("failure-domain.beta.kubernetes.io/region", "topology.kubernetes.io/region"),
        ("beta.kubernetes.io/instance-type", "node.kubernetes.io/instance-type"),
        ("beta.kubernetes.io/os", "kubernetes.io/os"),
        ("beta.kubernetes.io/arch", "kubernetes.io/arch"),
    ];
    let renewed = RENEWED.iter().find(|(old, new)| expression.text("key") == *old && now == Some(*new));
    if let Some((_, new)) = renewed {
        edit::set(expression, "key", *new);
    }
}

fn modes(spec: Option<&Value>, path: Path<'_>, causes: &mut FieldErrors) {
    let modes = spec.list("accessModes");
    if modes.is_empty() {
        causes.required(path.field("accessModes"), "");
    }
    access_modes(modes, path.field("accessModes"), causes);
}

fn capacity(capacity: Option<&Map<String, Value>>, path: Path<'_>, causes: &mut FieldErrors) {
    let shown = capacity.filter(|amounts| !amounts.is_empty());
    if shown.is_none() {
        causes.required(path, "");
    }
    if shown.is_none_or(|amounts| amounts.len() > 1 || !amounts.contains_key("storage")) {
        // As Go writes a map.
        let mut shown = json!(capacity);
        shown.sort_all_objects();
        causes.not_supported(path, shown, &["storage"]);
    }
    for (name, amount) in shown.into_iter().flatten() {
        amounts(Some(&json!({name: amount})), path, causes);
        positive(amount, path.key(name), causes);
    }
}

/// Exactly one type.
fn source(spec: Option<&Value>, of: Of<'_>, path: Path<'_>, causes: &mut FieldErrors) {
    let mut is_first = true;
    for (name, source) in TYPES.iter().filter_map(|name| Some((*name, spec.at(name)?))) {
        // Upstream lets a flexVolume stand beside another.
        if !is_first && name != "flexVolume" {
            causes.forbidden(path.field(volumesources::second(name)), "may not specify more than 1 volume type");
            continue;
        }
        is_first = false;
        volumesources::check(name, source, of, path, causes);
        if name == "local" && spec.at("nodeAffinity").is_none() {
            causes.required(path.field("nodeAffinity"), "Local volume requires node affinity");
        }
    }
    if is_first {
        causes.required(path, "must specify a volume type");
    }
}

/// Whether `path.Clean` makes it `/`.
fn is_root(path: &str) -> bool {
    let mut depth = 0_usize;
    for part in path.split('/').filter(|part| !matches!(*part, "" | ".")) {
        depth = if part == ".." { depth.saturating_sub(1) } else { depth + 1 };
    }
    path.starts_with('/') && depth == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(check: impl FnOnce(&mut FieldErrors)) -> Vec<String> {
        let mut causes = FieldErrors::default();
        check(&mut causes);
        causes.0.iter().map(|c| c.text()).collect()
    }

    fn with(more: Value) -> Value {
        let mut of = json!({"accessModes": ["ReadWriteOnce"], "capacity": {"storage": "1Gi"}, "hostPath": {"path": "/x"}});
        of.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        of
    }

    #[test]
    fn each_rule_has_its_words() {
        let cases: Vec<(Value, &[&str])> = vec![
            (json!({}), &[]),
            (
                json!({"hostPath": null, "capacity": {}, "accessModes": []}),
                &[
                    "spec.accessModes: Required value",
                    "spec.capacity: Required value",
                    r#"spec.capacity: Unsupported value: {}: supported values: "storage""#,
                    "spec: Required value: must specify a volume type",
                ],
            ),
            (
                json!({"capacity": {"cpu": "1", "storage": "-1"}, "cephfs": {}}),
                &[
                    r#"spec.capacity: Unsupported value: {"cpu":"1","storage":"-1"}: supported values: "storage""#,
                    "spec.capacity[storage]: Invalid value: -1: must be a valid resource quantity",
                    "spec.capacity[storage]: Invalid value: \"-1\": must be greater than zero",
                    "spec.cephFS: Forbidden: may not specify more than 1 volume type",
                ],
            ),
            (
                json!({"hostPath": {"path": "/a/.."}, "persistentVolumeReclaimPolicy": "Recycle"}),
                &[
                    "spec.hostPath.path: Invalid value: \"/a/..\": must not contain '..'",
                    "spec.persistentVolumeReclaimPolicy: Forbidden: may not be 'recycle' for a hostPath mount of '/'",
                ],
            ),
            (
                json!({"hostPath": null, "local": {"path": "/x"}}),
                &["spec.nodeAffinity: Required value: Local volume requires node affinity"],
            ),
            (
                json!({"nodeAffinity": {}, "volumeAttributesClassName": ""}),
                &[
                    "spec.nodeAffinity.required: Required value: must specify required node constraints",
                    "spec.volumeAttributesClassName: Required value: an empty string is disallowed",
                    "spec.csi: Required value: has to be specified when using volumeAttributesClassName",
                ],
            ),
        ];
        for (more, wanted) in cases {
            let of = with(more);
            assert_eq!(texts(|c| spec(Some(&of), "pv", Path::new("spec"), c)), wanted, "{of}");
        }
    }

    #[test]
    fn an_inline_volume_is_of_csi() {
        let of = with(json!({"storageClassName": "x", "volumeMode": "Block", "claimRef": {}, "nodeAffinity": {}}));
        let wanted = [
            "i.claimRef: Forbidden: may not be specified in the context of inline volumes",
            "i.capacity: Forbidden: may not be specified in the context of inline volumes",
            "i.csi: Required value: has to be specified in the context of inline volumes",
            "i.nodeAffinity: Forbidden: may not be specified in the context of inline volumes",
            "i.storageClassName: Forbidden: may not be specified in the context of inline volumes",
            "i.volumeMode: Forbidden: may not specify volumeMode other than Filesystem in the context of inline volumes",
        ];
        assert_eq!(texts(|c| inline(&of, Path::new("i"), c)), wanted);
    }

    #[test]
    fn a_source_stays_but_for_a_secret_that_comes() {
        let csi = |more: Value| {
            let mut csi = json!({"driver": "d", "volumeHandle": "h"});
            csi.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            json!({"spec": {"csi": csi, "volumeMode": "Filesystem"}})
        };
        let secret = json!({"controllerExpandSecretRef": {"name": "s", "namespace": "n"}});
        assert_eq!(texts(|c| update(&csi(secret.clone()), &csi(json!({})), c)), Vec::<String>::new());
        let found = texts(|c| update(&csi(json!({"volumeHandle": "other"})), &csi(secret), c));
        assert_eq!(found.len(), 1);
        assert!(found[0].starts_with("spec.persistentvolumesource: Forbidden: spec.persistentvolumesource is immutable"), "{found:?}");
    }

    #[test]
    fn labels_of_old_may_be_renewed() {
        let on = |key: &str| {
            let terms = json!([{"matchExpressions": [{"key": key, "operator": "In", "values": ["a"]}]}]);
            json!({"spec": {"nodeAffinity": {"required": {"nodeSelectorTerms": terms}}}})
        };
        let old = on("failure-domain.beta.kubernetes.io/zone");
        assert_eq!(texts(|c| update(&on("topology.kubernetes.io/zone"), &old, c)), Vec::<String>::new());
        assert_eq!(texts(|c| update(&on("topology.kubernetes.io/region"), &old, c)).len(), 1);
        assert_eq!(texts(|c| update(&old, &json!({"spec": {}}), c)), Vec::<String>::new());
    }
}
