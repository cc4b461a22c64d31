//! Volume mounts and devices of a container -> what is wrong with them.

use std::collections::HashSet;

use api::field_errors::FieldErrors;
use serde_json::Value;

use super::{Whole, descending_path, has_backsteps};
use crate::common::{Path, Read, not_supported};

/// `ValidateVolumeMounts`
pub fn mounts(container: &Value, whole: &Whole<'_>, path: Path<'_>, causes: &mut FieldErrors) {
    let devices = container.list("volumeDevices");
    let mut places = HashSet::new();
    let (taken_names, taken_places) = (texts(devices, "name"), texts(devices, "devicePath"));
    for (i, mount) in container.list("volumeMounts").iter().enumerate() {
        let at = path.index(i);
        let (name, place) = (mount.text("name"), mount.text("mountPath"));
        if name.is_empty() {
            causes.required(at.field("name"), "");
        }
        if !whole.volumes.contains_key(name) {
            causes.not_found(at.field("name"), name);
        }
        if place.is_empty() {
            causes.required(at.field("mountPath"), "");
        }
        if !places.insert(place) {
            causes.invalid(at.field("mountPath"), place, "must be unique");
        }
        if taken_names.contains(name) {
            causes.invalid(at.field("name"), name, "must not already exist in volumeDevices");
        }
        if taken_places.contains(place) {
            causes.invalid(at.field("mountPath"), place, "must not already exist as a path in volumeDevices");
        }
        sub_paths(mount, path, at, causes);
        propagation(mount, container, path.field("mountPropagation"), causes);
        recursive_read_only(mount, path.field("recursiveReadOnly"), causes);
    }
}

/// `ValidateVolumeDevices`
pub fn devices(container: &Value, whole: &Whole<'_>, path: Path<'_>, causes: &mut FieldErrors) {
    let mounts = container.list("volumeMounts");
    let (taken_names, taken_places) = (texts(mounts, "name"), texts(mounts, "mountPath"));
    let (mut names, mut places) = (HashSet::new(), HashSet::new());
    for (i, device) in container.list("volumeDevices").iter().enumerate() {
        let at = path.index(i);
        let (name, place) = (device.text("name"), device.text("devicePath"));
        let (name_at, place_at) = (at.field("name"), at.field("devicePath"));
        if name.is_empty() {
            causes.required(name_at, "");
        } else if !names.insert(name) {
            causes.invalid(name_at, name, "must be unique");
        }
        match whole.volumes.get(name) {
            None => causes.not_found(name_at, name),
            Some(v) if v.at("persistentVolumeClaim").or(v.at("ephemeral")).is_some() => {}
            Some(_) => {
                causes.invalid(name_at, name, "can only use volume source type of PersistentVolumeClaim or Ephemeral for block mode")
            }
        }
        if place.is_empty() {
            causes.required(place_at, "");
        }
        if has_backsteps(place) {
            causes.invalid(place_at, place, "can not contain backsteps ('..')");
        } else if !places.insert(place) {
            causes.invalid(place_at, place, "must be unique");
        }
        if taken_names.contains(name) {
            causes.invalid(name_at, name, "must not already exist in volumeMounts");
        }
        if taken_places.contains(place) {
            causes.invalid(place_at, place, "must not already exist as a path in volumeMounts");
        }
    }
}

fn texts<'v>(list: &'v [Value], field: &str) -> HashSet<&'v str> {
    list.iter().map(|item| item.text(field)).collect()
}

/// `list` is the path of all mounts: upstream names some faults there, without the index.
fn sub_paths(mount: &Value, list: Path<'_>, at: Path<'_>, causes: &mut FieldErrors) {
    let (plain, expanded) = (mount.text("subPath"), mount.text("subPathExpr"));
    if !plain.is_empty() {
        descending_path(plain, list.field("subPath"), causes);
    }
    if expanded.is_empty() {
        return;
    }
    if !plain.is_empty() {
        causes.invalid(at.field("subPathExpr"), expanded, "subPathExpr and subPath are mutually exclusive");
    }
    descending_path(expanded, list.field("subPathExpr"), causes);
}

/// `validateMountPropagation`
fn propagation(mount: &Value, container: &Value, path: Path<'_>, causes: &mut FieldErrors) {
    let Some(mode) = mount.at("mountPropagation").and_then(Value::as_str) else { return };
    let known = ["Bidirectional", "HostToContainer", "None"];
    if !known.contains(&mode) {
        not_supported(mode, &known, path, causes);
    }
    if mode == "Bidirectional" && !container.at("securityContext").is_true("privileged") {
        causes.forbidden(path, "Bidirectional mount propagation is available only to privileged containers");
    }
}

/// `validateMountRecursiveReadOnly`
fn recursive_read_only(mount: &Value, path: Path<'_>, causes: &mut FieldErrors) {
    let Some(mode) = mount.at("recursiveReadOnly").and_then(Value::as_str) else { return };
    match mode {
        "Disabled" => {}
        "Enabled" | "IfPossible" => {
            if !mount.is_true("readOnly") {
                causes.forbidden(path, "may only be specified when readOnly is true");
            }
            if !matches!(mount.text("mountPropagation"), "" | "None") {
                causes.forbidden(path, "may only be specified when mountPropagation is None or not specified");
            }
        }
        other => not_supported(other, &["Disabled", "Enabled", "IfPossible"], path, causes),
    }
}
