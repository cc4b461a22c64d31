//! Volumes of a pod -> what is wrong with them, and the well-formed ones by name.

use std::collections::HashMap;

use api::field_errors::FieldErrors;
use serde_json::Value;

use super::{Owner, descending_path, file_mode, label, projected, require, volume_files};
use crate::{
    common::{Path, Read, name_rules, one_of, resources::quantity, well_formed},
    persistentvolumeclaim,
    volumesources::{self, Of, iscsi},
};

/// Every volume type, in upstream's order of checks.
const TYPES: &[&str] = &[
    "emptyDir",
    "hostPath",
    "gitRepo",
    "gcePersistentDisk",
    "awsElasticBlockStore",
    "secret",
    "nfs",
    "iscsi",
    "glusterfs",
    "flocker",
    "persistentVolumeClaim",
    "rbd",
    "cinder",
    "cephfs",
    "quobyte",
    "downwardAPI",
    "fc",
    "flexVolume",
    "configMap",
    "azureFile",
    "vsphereVolume",
    "photonPersistentDisk",
    "portworxVolume",
    "azureDisk",
    "storageos",
    "projected",
    "scaleIO",
    "csi",
    "ephemeral",
    "image",
];

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
    let mut found = TYPES.iter().filter_map(|name| Some((*name, volume.at(name)?)));
    let Some((name, source)) = found.next() else {
        return causes.required(path, "must specify a volume type");
    };
    check(name, source, owner, path.field(name), causes);
    volumesources::check(name, source, Of::Pod, path, causes);
    if name == "iscsi" {
        iscsi::volume_name(source, volume.text("name"), path, causes);
    }
    for (name, _) in found {
        causes.forbidden(path.field(volumesources::second(name)), "may not specify more than 1 volume type");
    }
}

/// What only pods have.
fn check(name: &str, source: &Value, owner: Owner, path: Path<'_>, causes: &mut FieldErrors) {
    match name {
        "emptyDir" if source.at("sizeLimit").and_then(quantity).is_some_and(|q| q.is_negative()) => {
            causes.forbidden(path.field("sizeLimit"), "SizeLimit field must be a valid resource quantity");
        }
        "gitRepo" => {
            require(source, "repository", path, causes);
            descending_path(source.text("directory"), path.field("directory"), causes);
        }
        "secret" | "configMap" => {
            require(source, if name == "secret" { "secretName" } else { "name" }, path, causes);
            file_mode(source, "defaultMode", path, causes);
            volume_files::keys(source.list("items"), path.field("items"), causes);
        }
        "persistentVolumeClaim" => {
            require(source, "claimName", path, causes);
        }
        "downwardAPI" => {
            file_mode(source, "defaultMode", path, causes);
            source.list("items").iter().for_each(|file| volume_files::downward_file(file, path, causes));
        }
        "projected" => {
            file_mode(source, "defaultMode", path, causes);
            projected::sources(source.list("sources"), path, causes);
        }
        "ephemeral" => match source.at("volumeClaimTemplate") {
            None => causes.required(path.field("volumeClaimTemplate"), ""),
            Some(template) => persistentvolumeclaim::validate::template(template, path.field("volumeClaimTemplate"), causes),
        },
        "image" => {
            if owner == Owner::Pod {
                require(source, "reference", path, causes);
            }
            one_of(source.text("pullPolicy"), &["Always", "IfNotPresent", "Never"], path.field("pullPolicy"), causes);
        }
        _ => {}
    }
}

/// The claims that are made for a pod's ephemeral volumes must have names that claims can have.
pub fn claim_names(pod: &str, volumes: &[Value], path: Path<'_>, causes: &mut FieldErrors) {
    let names = volumes.iter().map(|volume| volume.text("name")).enumerate();
    for (i, name) in names.filter(|(i, name)| !name.is_empty() && volumes[*i].at("ephemeral").is_some()) {
        let claim = format!("{pod}-{name}");
        let errors = name_rules::dns_subdomain(&claim).into_iter().map(|e| format!("PVC name {claim:?}: {e}")).collect();
        well_formed(name, errors, path.index(i).field("name"), causes);
    }
}
