//! What a claim asks for (requests, constraints, configuration) -> defaults, and what is wrong with it.

use std::collections::{HashMap, HashSet};

use api::field_errors::FieldErrors;
use serde_json::Value;

use super::{
    as_text,
    config::{self, Stored},
    each, each_once, names, selectors,
};
use crate::common::{
    Path, Read,
    edit::{self, child},
    not_supported, resources,
};

/// `DeviceRequestsMaxSize`
pub const REQUESTS: usize = 32;
const CONSTRAINTS: usize = 32;
/// `DeviceConfigMaxSize`
pub const CONFIGS: usize = 32;
const ALTERNATIVES: usize = 8;
const MODES: &[&str] = &["All", "ExactCount"];
const REFERENCE: &str = "must be the name of a request in the claim or the name of a request and a subrequest separated by '/'";

/// Names of requests, and of the alternatives of those that have some.
pub struct Names<'v>(HashMap<&'v str, HashSet<&'v str>>);

impl<'v> Names<'v> {
    /// Of the claim's `spec.devices`: `gatherRequestNames`.
    pub fn of(devices: Option<&'v Value>) -> Self {
        let alternatives = |request: &'v Value| request.list("firstAvailable").iter().map(|one| one.text("name")).collect();
        Self(devices.list("requests").iter().map(|request| (request.text("name"), alternatives(request))).collect())
    }

    fn has(&self, name: &str) -> bool {
        match name.split_once('/') {
            None => self.0.contains_key(name),
            Some((request, alternative)) => self.0.get(request).is_some_and(|known| known.contains(alternative)),
        }
    }

    /// `validateRequestNameRef`
    pub fn reference(&self, name: &str, path: Path<'_>, causes: &mut FieldErrors) {
        if name.split('/').count() > 2 {
            return causes.invalid(path, name, REFERENCE);
        }
        name.split('/').for_each(|part| names::label(part, path, causes));
        if !self.has(name) {
            causes.invalid(path, name, REFERENCE);
        }
    }

    /// A list of such references.
    pub fn references(&self, list: &[Value], path: Path<'_>, causes: &mut FieldErrors) {
        each_once(list, REQUESTS, path, causes, as_text, |name, at, causes| self.reference(as_text(name), at, causes));
    }
}

/// `SetDefaults_ExactDeviceRequest`, `SetDefaults_DeviceSubRequest`: of a claim's spec. Amounts become canonical.
pub fn default(spec: &mut Value) {
    let Some(devices) = child(spec, "devices") else { return };
    for request in edit::each(devices, "requests") {
        if let Some(exactly) = child(request, "exactly") {
            default_request(exactly);
        }
        edit::each(request, "firstAvailable").for_each(default_request);
    }
}

fn default_request(request: &mut Value) {
    edit::default_text(request, "allocationMode", "ExactCount");
    if request.text("allocationMode") == "ExactCount" {
        edit::default_number(request, "count", 1);
    }
    if let Some(requests) = child(request, "capacity").and_then(|capacity| child(capacity, "requests")).and_then(Value::as_object_mut) {
        requests.values_mut().for_each(resources::canonical);
    }
    default_tolerations(request);
}

/// Those of a request, or of a result of an allocation.
pub fn default_tolerations(of: &mut Value) {
    edit::each(of, "tolerations").for_each(|toleration| edit::default_text(toleration, "operator", "Equal"));
}

/// `validateDeviceClaim`; `path` is that of the devices.
pub fn validate(devices: Option<&Value>, path: Path<'_>, causes: &mut FieldErrors) {
    let names = Names::of(devices);
    each_once(devices.list("requests"), REQUESTS, path.field("requests"), causes, |one| one.text("name"), request);
    each(devices.list("constraints"), CONSTRAINTS, path.field("constraints"), causes, |one, at, causes| {
        constraint(one, &names, at, causes);
    });
    each(devices.list("config"), CONFIGS, path.field("config"), causes, |one, at, causes| {
        names.references(one.list("requests"), at.field("requests"), causes);
        config::validate(one, Stored::New, at, causes);
    });
}

/// `validateDeviceRequest`
fn request(request: &Value, path: Path<'_>, causes: &mut FieldErrors) {
    const ONE: &str = "exactly one of `exactly` or `firstAvailable` is required";
    names::label(request.text("name"), path.field("name"), causes);
    let alternatives = request.list("firstAvailable");
    match (request.at("exactly"), alternatives.is_empty()) {
        (None, true) => causes.required(path, ONE),
        (Some(_), false) => causes.invalid(path, Value::Null, &format!("{ONE}, but multiple fields are set")),
        (Some(exactly), true) => wanted(exactly, path.field("exactly"), causes),
        (None, false) => {
            each_once(
                alternatives,
                ALTERNATIVES,
                path.field("firstAvailable"),
                causes,
                |one| one.text("name"),
                |one, at, causes| {
                    names::label(one.text("name"), at.field("name"), causes);
                    wanted(one, at, causes);
                },
            );
        }
    }
}

/// `validateExactDeviceRequest`, and what is the same of an alternative.
fn wanted(request: &Value, path: Path<'_>, causes: &mut FieldErrors) {
    names::class(request.text("deviceClassName"), path.field("deviceClassName"), causes);
    selectors::validate(request.list("selectors"), path.field("selectors"), causes);
    let (at, count) = (path.field("count"), request.int("count").unwrap_or(0));
    match request.text("allocationMode") {
        "All" if count != 0 => causes.invalid(at, count, "must not be specified when allocationMode is 'All'"),
        "ExactCount" if count <= 0 => causes.invalid(at, count, "must be greater than zero"),
        "All" | "ExactCount" => {}
        other => not_supported(other, MODES, path.field("allocationMode"), causes),
    }
    let list = path.field("tolerations");
    for (i, toleration) in request.list("tolerations").iter().enumerate() {
        selectors::toleration(toleration, list.index(i), causes);
    }
}

/// `validateDeviceConstraint`
fn constraint(constraint: &Value, names: &Names<'_>, path: Path<'_>, causes: &mut FieldErrors) {
    const ONE: &str = "exactly one of \"matchAttribute\" or \"distinctAttribute\" is required, but multiple fields are set";
    names.references(constraint.list("requests"), path.field("requests"), causes);
    let named = |field: &str| constraint.at(field).and_then(Value::as_str);
    match (named("matchAttribute"), named("distinctAttribute")) {
        (Some(name), _) => names::fully_qualified(name, path.field("matchAttribute"), causes),
        (None, Some(name)) => names::fully_qualified(name, path.field("distinctAttribute"), causes),
        (None, None) => causes.required(path, ONE),
    }
}
