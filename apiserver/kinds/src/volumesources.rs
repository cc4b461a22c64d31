//! Where a volume comes from -> what is wrong with it: the rules that pods' volumes and PersistentVolumes share, and where they differ.
//!
//! Source: the `validate…VolumeSource` functions of `pkg/apis/core/validation/validation.go`.

mod disks;
pub mod iscsi;

use api::field_errors::FieldErrors;
use serde_json::Value;

use crate::common::{Path, Read, name_rules, no_backsteps, not_supported, require, well_formed};

const HOST_PATH_TYPES: &[&str] = &["", "BlockDevice", "CharDevice", "Directory", "DirectoryOrCreate", "File", "FileOrCreate", "Socket"];
const CSI_SECRETS: &[&str] = &["controllerPublishSecretRef", "controllerExpandSecretRef", "nodePublishSecretRef", "nodeExpandSecretRef"];
const DRIVER_BYTES: usize = 63;

/// Whose volume it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Of<'v> {
    Pod,
    /// A PersistentVolume's, which has this name.
    Persistent(&'v str),
}

/// Every type that is checked here, with the fields it must have.
const REQUIRED: &[(&str, &[&str])] = &[
    ("gcePersistentDisk", &["pdName"]),
    ("awsElasticBlockStore", &["volumeID"]),
    ("nfs", &["server", "path"]),
    ("glusterfs", &["endpoints", "path"]),
    ("rbd", &["monitors", "image"]),
    ("cinder", &["volumeID"]),
    ("cephfs", &["monitors"]),
    ("flexVolume", &["driver"]),
    ("azureFile", &["secretName", "shareName"]),
    ("azureDisk", &["diskName", "diskURI"]),
    ("vsphereVolume", &["volumePath"]),
    ("photonPersistentDisk", &["pdID"]),
    ("portworxVolume", &["volumeID"]),
    ("scaleIO", &["gateway", "system", "volumeName"]),
];

/// What is wrong with the volume's type `name`; a type that is not known here has no rules.
pub fn check(name: &str, source: &Value, of: Of<'_>, volume: Path<'_>, causes: &mut FieldErrors) {
    let path = volume.field(if name == "gcePersistentDisk" { "persistentDisk" } else { name });
    for field in REQUIRED.iter().filter(|(known, _)| *known == name).flat_map(|(_, fields)| *fields) {
        require(source, field, path, causes);
    }
    match name {
        "hostPath" => host_path(source, path, causes),
        "local" if require(source, "path", path, causes) => no_backsteps(source.text("path"), path.field("path"), causes),
        "gcePersistentDisk" | "awsElasticBlockStore" => disks::partition(source, path, causes),
        "azureDisk" => disks::azure(source, path, causes),
        "nfs" if !source.text("path").starts_with('/') => {
            causes.invalid(path.field("path"), source.text("path"), "must be an absolute path");
        }
        "iscsi" => iscsi::check(source, of, path, causes),
        "glusterfs" if of != Of::Pod => endpoints_namespace(source, path, causes),
        "flocker" => flocker(source, path, causes),
        "cinder" => secret(source, of, path, causes),
        "quobyte" => quobyte(source, path, causes),
        "fc" => disks::fibre_channel(source, path, causes),
        "flexVolume" => options(source, path, causes),
        "azureFile" if of != Of::Pod && source.at("secretNamespace").and_then(Value::as_str) == Some("") => {
            causes.required(path.field("secretNamespace"), "");
        }
        "storageos" => storage_os(source, of, path, causes),
        "csi" => csi(source, of, path, causes),
        _ => {}
    }
}

/// Where it is said that a second type may not be there.
pub fn second(name: &str) -> &str {
    match name {
        "cephfs" => "cephFS",
        "downwardAPI" => "downwarAPI",
        other => other,
    }
}

/// `ValidateCSIDriverName`
pub fn driver_name(name: &str, path: Path<'_>, causes: &mut FieldErrors) {
    if name.is_empty() {
        return causes.required(path, "");
    }
    if name.len() > DRIVER_BYTES {
        causes.too_long(path, DRIVER_BYTES);
    }
    well_formed(name, name_rules::dns_subdomain(&name.to_lowercase()), path, causes);
}

/// `validateHostPathVolumeSource`
fn host_path(source: &Value, path: Path<'_>, causes: &mut FieldErrors) {
    if !require(source, "path", path, causes) {
        return;
    }
    no_backsteps(source.text("path"), path.field("path"), causes);
    let typ = source.text("type");
    if !HOST_PATH_TYPES.contains(&typ) {
        not_supported(typ, HOST_PATH_TYPES, path.field("type"), causes);
    }
}

fn endpoints_namespace(source: &Value, path: Path<'_>, causes: &mut FieldErrors) {
    let at = path.field("endpointsNamespace");
    match source.at("endpointsNamespace").and_then(Value::as_str) {
        None => {}
        Some("") => causes.invalid(at, "", "if the endpointnamespace is set, it must be a valid namespace name"),
        Some(name) => well_formed(name, name_rules::dns_label(name), at, causes),
    }
}

fn flocker(source: &Value, path: Path<'_>, causes: &mut FieldErrors) {
    let name = source.text("datasetName");
    match (name, source.text("datasetUUID")) {
        ("", "") => causes.required(path, "one of datasetName and datasetUUID is required"),
        ("", _) | (_, "") => {}
        _ => causes.invalid(path, "resource", "datasetName and datasetUUID can not be specified simultaneously"),
    }
    if name.contains('/') {
        causes.invalid(path.field("datasetName"), name, "must not contain '/'");
    }
}

fn quobyte(source: &Value, path: Path<'_>, causes: &mut FieldErrors) {
    const PAIRS: &str = "must be a host:port pair or multiple pairs separated by commas";
    let (registry, at) = (source.text("registry"), path.field("registry"));
    if registry.is_empty() {
        causes.required(at, PAIRS);
    } else if source.text("tenant").len() > 64 {
        causes.required(path.field("tenant"), "must be a UUID and may not exceed a length of 64 characters");
    } else {
        for _ in registry.split(',').filter(|pair| !is_host_and_port(pair)) {
            causes.invalid(at, registry, PAIRS);
        }
    }
    require(source, "volume", path, causes);
}

/// Whether `net.SplitHostPort` takes it.
fn is_host_and_port(pair: &str) -> bool {
    let Some((host, port)) = pair.rsplit_once(':') else { return false };
    let is_plain = |text: &str| !text.contains(['[', ']']);
    let inner = host.strip_prefix('[').and_then(|h| h.strip_suffix(']'));
    is_plain(port) && inner.map_or_else(|| is_plain(host) && !host.contains(':'), is_plain)
}

/// Options are not those of Kubernetes itself.
fn options(source: &Value, path: Path<'_>, causes: &mut FieldErrors) {
    let list = path.field("options");
    for (key, _) in source.entries("options") {
        let domain = format!(".{}", key.split_once('/').map_or(key, |(domain, _)| domain).to_lowercase());
        if domain.ends_with(".kubernetes.io") || domain.ends_with(".k8s.io") {
            causes.invalid(list.key(key), key, "kubernetes.io and k8s.io namespaces are reserved");
        }
    }
}

fn storage_os(source: &Value, of: Of<'_>, path: Path<'_>, causes: &mut FieldErrors) {
    require(source, "volumeName", path, causes);
    for field in ["volumeName", "volumeNamespace"] {
        let name = source.text(field);
        if !name.is_empty() {
            well_formed(name, name_rules::dns_label(name), path.field(field), causes);
        }
    }
    secret(source, of, path, causes);
}

/// The secret that a volume names, if it does: a PersistentVolume's with its namespace.
fn secret(source: &Value, of: Of<'_>, path: Path<'_>, causes: &mut FieldErrors) {
    let Some(secret) = source.at("secretRef") else { return };
    let at = path.field("secretRef");
    require(secret, "name", at, causes);
    if of != Of::Pod {
        require(secret, "namespace", at, causes);
    }
}

fn csi(source: &Value, of: Of<'_>, path: Path<'_>, causes: &mut FieldErrors) {
    driver_name(source.text("driver"), path.field("driver"), causes);
    if of == Of::Pod {
        let Some(secret) = source.at("nodePublishSecretRef") else { return };
        if require(secret, "name", path.field("nodePublishSecretRef"), causes) {
            well_formed(secret.text("name"), name_rules::dns_subdomain(secret.text("name")), path.field("name"), causes);
        }
        return;
    }
    require(source, "volumeHandle", path, causes);
    for field in CSI_SECRETS {
        let Some(secret) = source.at(field) else { continue };
        let (at, name, namespace) = (path.field(field), secret.text("name"), secret.text("namespace"));
        if require(secret, "name", at, causes) {
            well_formed(name, name_rules::dns_subdomain(name), at.field("name"), causes);
        }
        if require(secret, "namespace", at, causes) {
            well_formed(namespace, name_rules::dns_label(namespace), at.field("namespace"), causes);
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn texts(name: &str, source: Value, of: Of<'_>) -> Vec<String> {
        let mut causes = FieldErrors::default();
        check(name, &source, of, Path::new("v"), &mut causes);
        causes.0.iter().map(|c| c.text()).collect()
    }

    #[test]
    fn each_type_has_its_rules() {
        let (pod, pv) = (Of::Pod, Of::Persistent("pv"));
        let cases: Vec<(&str, Value, Of<'_>, &[&str])> = vec![
            ("hostPath", json!({}), pod, &["v.hostPath.path: Required value"]),
            ("hostPath", json!({"path": "/a/../b"}), pv, &[r#"v.hostPath.path: Invalid value: "/a/../b": must not contain '..'"#]),
            ("local", json!({"path": "/a"}), pv, &[]),
            ("local", json!({}), pv, &["v.local.path: Required value"]),
            ("nfs", json!({"server": "s", "path": "p"}), pod, &[r#"v.nfs.path: Invalid value: "p": must be an absolute path"#]),
            (
                "gcePersistentDisk",
                json!({"partition": 256}),
                pod,
                &[
                    "v.persistentDisk.pdName: Required value",
                    "v.persistentDisk.partition: Invalid value: 256: must be between 1 and 255, inclusive",
                ],
            ),
            ("cinder", json!({"volumeID": "x", "secretRef": {"name": "s"}}), pod, &[]),
            ("cinder", json!({"volumeID": "x", "secretRef": {"name": "s"}}), pv, &["v.cinder.secretRef.namespace: Required value"]),
            ("flocker", json!({}), pv, &["v.flocker: Required value: one of datasetName and datasetUUID is required"]),
            (
                "quobyte",
                json!({"registry": "a:1,b", "volume": "v"}),
                pod,
                &[r#"v.quobyte.registry: Invalid value: "a:1,b": must be a host:port pair or multiple pairs separated by commas"#],
            ),
            ("quobyte", json!({"registry": "[::1]:1", "volume": "v"}), pod, &[]),
            (
                "flexVolume",
                json!({"driver": "d", "options": {"a.K8S.io/x": "1", "ok": "1"}}),
                pod,
                &[r#"v.flexVolume.options[a.K8S.io/x]: Invalid value: "a.K8S.io/x": kubernetes.io and k8s.io namespaces are reserved"#],
            ),
            ("csi", json!({"driver": "D.example"}), pod, &[]),
            (
                "csi",
                json!({"nodeExpandSecretRef": {}}),
                pv,
                &[
                    "v.csi.driver: Required value",
                    "v.csi.volumeHandle: Required value",
                    "v.csi.nodeExpandSecretRef.name: Required value",
                    "v.csi.nodeExpandSecretRef.namespace: Required value",
                ],
            ),
            (
                "azureFile",
                json!({"secretName": "s", "shareName": "s", "secretNamespace": ""}),
                pv,
                &["v.azureFile.secretNamespace: Required value"],
            ),
            (
                "glusterfs",
                json!({"endpoints": "e", "path": "p", "endpointsNamespace": ""}),
                pv,
                &[
                    r#"v.glusterfs.endpointsNamespace: Invalid value: "": if the endpointnamespace is set, it must be a valid namespace name"#,
                ],
            ),
        ];
        for (name, source, of, wanted) in cases {
            assert_eq!(texts(name, source.clone(), of), wanted, "{name} {source}");
        }
    }
}
