//! Volumes of a pod -> what is wrong with them, and the well-formed ones by name.

use std::collections::HashMap;

use api::field_errors::FieldErrors;
use serde_json::Value;

use super::{Owner, descending_path, file_mode, label, no_backsteps, projected, require, volume_files};
use crate::common::{Path, Read, not_supported, one_of, resources::quantity};

/// Every volume type, in upstream's order of checks, with the fields it must have.
const TYPES: &[(&str, &[&str])] = &[
    ("emptyDir", &[]),
    ("hostPath", &["path"]),
    ("gitRepo", &["repository"]),
    ("gcePersistentDisk", &["pdName"]),
    ("awsElasticBlockStore", &["volumeID"]),
    ("secret", &["secretName"]),
    ("nfs", &["server", "path"]),
    ("iscsi", &["targetPortal", "iqn"]),
    ("glusterfs", &["endpoints", "path"]),
    ("flocker", &[]),
    ("persistentVolumeClaim", &["claimName"]),
    ("rbd", &["monitors", "image"]),
    ("cinder", &["volumeID"]),
    ("cephfs", &["monitors"]),
    ("quobyte", &["registry", "volume"]),
    ("downwardAPI", &[]),
    ("fc", &[]),
    ("flexVolume", &["driver"]),
    ("configMap", &["name"]),
    ("azureFile", &["secretName", "shareName"]),
    ("vsphereVolume", &["volumePath"]),
    ("azureDisk", &["diskName", "diskURI"]),
    ("storageos", &["volumeName"]),
    ("photonPersistentDisk", &["pdID"]),
    ("projected", &[]),
    ("portworxVolume", &["volumeID"]),
    ("scaleIO", &["gateway", "system", "volumeName"]),
    ("csi", &["driver"]),
    ("ephemeral", &["volumeClaimTemplate"]),
    ("image", &[]),
];

const HOST_PATH_TYPES: &[&str] = &["", "BlockDevice", "CharDevice", "Directory", "DirectoryOrCreate", "File", "FileOrCreate", "Socket"];

/// `ValidateVolumes`
pub fn all<'v>(volumes: &'v [Value], owner: Owner, path: Path<'_>, causes: &mut FieldErrors) -> HashMap<&'v str, &'v Value> {
    let mut well = HashMap::new();
    for (i, volume) in volumes.iter().enumerate() {
        let (at, before) = (path.index(i), causes.0.len());
        source(volume, owner, at, causes);
        let name = volume.text("name");
        label(name, at.field("name"), causes);
        if well.contains_key(name) {
            causes.duplicate(at.field("name"), name);
        }
        if causes.0.len() == before {
            well.insert(name, volume);
        }
    }
    well
}

/// `validateVolumeSource`
fn source(volume: &Value, owner: Owner, path: Path<'_>, causes: &mut FieldErrors) {
    let mut found = TYPES.iter().filter_map(|(name, fields)| Some((*name, *fields, volume.at(name)?)));
    let Some((name, fields, source)) = found.next() else {
        return causes.required(path, "must specify a volume type");
    };
    let at = path.field(name);
    for field in fields {
        require(source, field, at, causes);
    }
    check(name, source, owner, at, causes);
    for (name, ..) in found {
        causes.forbidden(path.field(name), "may not specify more than 1 volume type");
    }
}

fn check(name: &str, source: &Value, owner: Owner, path: Path<'_>, causes: &mut FieldErrors) {
    match name {
        "emptyDir" if source.at("sizeLimit").and_then(quantity).is_some_and(|q| q.is_negative()) => {
            causes.forbidden(path.field("sizeLimit"), "SizeLimit field must be a valid resource quantity");
        }
        "hostPath" => host_path(source, path, causes),
        "gitRepo" => descending_path(source.text("directory"), path.field("directory"), causes),
        "nfs" if !source.text("path").starts_with('/') => {
            causes.invalid(path.field("path"), source.text("path"), "must be an absolute path");
        }
        "secret" | "configMap" => {
            file_mode(source, "defaultMode", path, causes);
            volume_files::keys(source.list("items"), path.field("items"), causes);
        }
        "downwardAPI" => {
            file_mode(source, "defaultMode", path, causes);
            source.list("items").iter().for_each(|file| volume_files::downward_file(file, path, causes));
        }
        "projected" => {
            file_mode(source, "defaultMode", path, causes);
            projected::sources(source.list("sources"), path, causes);
        }
        "image" => {
            if owner == Owner::Pod {
                require(source, "reference", path, causes);
            }
            one_of(source.text("pullPolicy"), &["Always", "IfNotPresent", "Never"], path.field("pullPolicy"), causes);
        }
        _ => {}
    }
}

/// `validateHostPathVolumeSource`
fn host_path(source: &Value, path: Path<'_>, causes: &mut FieldErrors) {
    no_backsteps(source.text("path"), path.field("path"), causes);
    let typ = source.text("type");
    if !HOST_PATH_TYPES.contains(&typ) {
        not_supported(typ, HOST_PATH_TYPES, path.field("type"), causes);
    }
}
