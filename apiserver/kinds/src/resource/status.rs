//! The status of a claim (its allocation, who uses it, what drivers say of its devices) -> what is wrong with it.
//! Source: `ValidateResourceClaimStatusUpdate`.

use std::collections::HashSet;

use api::field_errors::FieldErrors;
use serde_json::{Value, json};

use super::{
    as_text,
    config::{self, Stored},
    each, each_once, names,
    requests::{CONFIGS, Names},
};
use crate::{
    common::{Path, Read, conditions, name_rules, not_supported, read, well_formed},
    net,
    pod::validate::affinity,
    schema::internal,
};

const STATUS: Path<'static> = Path::new("status");
const RESERVED: usize = 256;
const RESULTS: usize = 32;
const CONDITIONS: usize = 8;
const BINDING_CONDITIONS: usize = 4;
const ADDRESSES: usize = 16;
const INTERFACE_BYTES: usize = 256;
const HARDWARE_BYTES: usize = 128;
const SOURCES: &[&str] = &["FromClaim", "FromClass"];

/// `SharedDeviceID`: of a result, or of a status of a device.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct DeviceId([String; 4]);

impl DeviceId {
    pub fn of(device: &Value) -> Self {
        Self(["driver", "pool", "device", "shareID"].map(|field| device.text(field).to_owned()))
    }
}

impl From<DeviceId> for Value {
    fn from(DeviceId([driver, pool, device, share]): DeviceId) -> Self {
        json!({"Driver": driver, "Pool": pool, "Device": device, "ShareID": share})
    }
}

/// Of whole claims.
pub fn validate(new: &Value, old: &Value, causes: &mut FieldErrors) {
    let (status, before) = (new.at("status"), old.at("status"));
    let reserved = STATUS.field("reservedFor");
    each_once(status.list("reservedFor"), RESERVED, reserved, causes, |user| user.text("uid"), consumer);
    let allocation = status.at("allocation");
    let allocated: HashSet<DeviceId> = allocation.at("devices").list("results").iter().map(DeviceId::of).collect();
    each_once(status.list("devices"), usize::MAX, STATUS.field("devices"), causes, DeviceId::of, |one, at, causes| {
        device(one, &allocated, at, causes);
    });
    if !status.list("reservedFor").is_empty() {
        reservations(new, old, reserved, causes);
    }
    let at = STATUS.field("allocation");
    match (allocation, before.at("allocation")) {
        (None, _) => {}
        (Some(now), Some(was)) if read::same(Some(now), Some(was)) => {}
        (Some(now), Some(_)) => causes.invalid(at, internal::shown("resource.AllocationResult", Some(now)), "field is immutable"),
        (Some(now), None) => allocation_result(now, &Names::of(new.at("spec").at("devices")), at, causes),
    }
}

fn reservations(new: &Value, old: &Value, path: Path<'_>, causes: &mut FieldErrors) {
    if new.at("status").at("allocation").is_none() {
        return causes.forbidden(path, "may not be specified when `allocated` is not set");
    }
    let (users, before) = (new.at("status").list("reservedFor"), old.at("status").list("reservedFor"));
    let is_new = |user: &Value| !before.iter().any(|was| read::same(Some(was), Some(user)));
    if new.at("metadata").at("deletionTimestamp").is_some() && users.iter().any(is_new) {
        causes.forbidden(path, "new entries may not be added while `deallocationRequested` or `deletionTimestamp` are set");
    }
}

/// `validateResourceClaimUserReference`
fn consumer(user: &Value, path: Path<'_>, causes: &mut FieldErrors) {
    for field in ["resource", "name", "uid"] {
        if user.text(field).is_empty() {
            causes.required(path.field(field), "");
        }
    }
}

/// `validateAllocationResult`
fn allocation_result(allocation: &Value, requests: &Names<'_>, path: Path<'_>, causes: &mut FieldErrors) {
    let (devices, at) = (allocation.at("devices"), path.field("devices"));
    each(devices.list("results"), RESULTS, at.field("results"), causes, |one, at, causes| result(one, requests, at, causes));
    each(devices.list("config"), 2 * CONFIGS, at.field("config"), causes, |one, at, causes| {
        match one.text("source") {
            "" => causes.required(at.field("source"), ""),
            source if SOURCES.contains(&source) => {}
            source => not_supported(source, SOURCES, at.field("source"), causes),
        }
        requests.references(one.list("requests"), at.field("requests"), causes);
        config::validate(one, Stored::New, at, causes);
    });
    if let Some(selector) = allocation.at("nodeSelector") {
        affinity::node_selector(selector, path.field("nodeSelector"), causes);
    }
}

/// `validateDeviceRequestAllocationResult`
fn result(result: &Value, requests: &Names<'_>, path: Path<'_>, causes: &mut FieldErrors) {
    requests.reference(result.text("request"), path.field("request"), causes);
    identity(result, path, causes);
    binding(result, path, causes);
    if let Some(share) = result.at("shareID").and_then(Value::as_str) {
        names::uid(share, path.field("shareID"), causes);
    }
}

fn identity(device: &Value, path: Path<'_>, causes: &mut FieldErrors) {
    names::driver_name(device.text("driver"), path.field("driver"), causes);
    names::pool(device.text("pool"), path.field("pool"), causes);
    names::label(device.text("device"), path.field("device"), causes);
}

/// `validateDeviceBindingParameters`: of a result, or of a device.
pub fn binding(of: &Value, path: Path<'_>, causes: &mut FieldErrors) {
    let name =
        |one: &Value, at: Path<'_>, causes: &mut FieldErrors| well_formed(as_text(one), name_rules::qualified(as_text(one)), at, causes);
    let (wanted, failed) = (of.list("bindingConditions"), of.list("bindingFailureConditions"));
    let (wanted_at, failed_at) = (path.field("bindingConditions"), path.field("bindingFailureConditions"));
    each(wanted, BINDING_CONDITIONS, wanted_at, causes, name);
    each(failed, BINDING_CONDITIONS, failed_at, causes, name);
    let mut seen = HashSet::new();
    for (i, condition) in wanted.iter().map(as_text).enumerate() {
        if !seen.insert(condition) {
            causes.duplicate(wanted_at.index(i), condition);
        }
    }
    let mut seen_failed = HashSet::new();
    for (i, condition) in failed.iter().map(as_text).enumerate() {
        if !seen_failed.insert(condition) {
            causes.duplicate(failed_at.index(i), condition);
        }
        if seen.contains(condition) {
            causes.invalid(failed_at.index(i), condition, "bindingFailureConditions must not overlap with bindingConditions");
        }
    }
    let told = |field: &str| of.at(field).cloned().unwrap_or(Value::Null);
    match (wanted.is_empty(), failed.is_empty()) {
        (true, false) => {
            causes.invalid(wanted_at, told("bindingConditions"), "bindingConditions are required to use bindingFailureConditions")
        }
        (false, true) => {
            causes.invalid(failed_at, told("bindingFailureConditions"), "bindingFailureConditions are required to use bindingConditions");
        }
        _ => {}
    }
}

/// `validateDeviceStatus`
fn device(device: &Value, allocated: &HashSet<DeviceId>, path: Path<'_>, causes: &mut FieldErrors) {
    identity(device, path, causes);
    if let Some(share) = device.at("shareID").and_then(Value::as_str) {
        names::uid(share, path.field("shareID"), causes);
    }
    let id = DeviceId::of(device);
    if !allocated.contains(&id) {
        causes.invalid(path, id, "must be an allocated device in the claim");
    }
    let (told, at) = (device.list("conditions"), path.field("conditions"));
    if told.len() > CONDITIONS {
        causes.too_many(at, told.len(), CONDITIONS);
    }
    conditions::validate(told, at, causes);
    if let Some(data) = device.at("data") {
        config::raw(Some(data), Stored::New, path.field("data"), causes);
    }
    if let Some(network) = device.at("networkData") {
        network_data(network, path.field("networkData"), causes);
    }
}

/// `validateNetworkDeviceData`
fn network_data(data: &Value, path: Path<'_>, causes: &mut FieldErrors) {
    for (field, most) in [("interfaceName", INTERFACE_BYTES), ("hardwareAddress", HARDWARE_BYTES)] {
        if data.text(field).len() > most {
            causes.too_long(path.field(field), most);
        }
    }
    each_once(data.list("ips"), ADDRESSES, path.field("ips"), causes, as_text, |address, at, causes| {
        well_formed(as_text(address), net::interface_address(as_text(address)), at, causes);
    });
}
