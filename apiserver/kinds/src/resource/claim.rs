//! ResourceClaim: devices that somebody wants, and those they got. Source: `pkg/registry/resource/resourceclaim`, `ValidateResourceClaim`.

use std::{borrow::Cow, collections::HashSet};

use api::{field_errors::FieldErrors, time::Timestamp};
use apiserver::kind::{Column, Ctx, Kind, MetaCheck, Strategy};
use serde_json::Value;

use super::{GROUP, PACKAGE, VERSION, authorized, requests, status};
use crate::{
    common::{
        self, Path, Read,
        edit::{self, child},
        read, resources, table,
    },
    schema::internal,
};

const SPEC: Path<'static> = Path::new("spec");
const COLUMNS: &[Column] = &[
    table::NAME_COLUMN,
    table::column("State", "string", "A summary of the current state (allocated, pending, reserved, etc.)."),
    table::AGE_COLUMN,
];

pub fn kind() -> Kind {
    Kind {
        subresources: vec![common::status(GROUP, VERSION, "ResourceClaim")],
        columns: Cow::Borrowed(COLUMNS),
        ..common::kind(GROUP, VERSION, "ResourceClaim", "resourceclaims", PACKAGE, Claims)
    }
}

struct Claims;

impl Strategy for Claims {
    fn shows_status_tables(&self) -> bool {
        false
    }

    fn default(&self, object: &mut Value) {
        if let Some(spec) = edit::make_child(object, "spec") {
            requests::default(spec);
        }
        let allocation = child(object, "status").and_then(|status| child(status, "allocation"));
        for result in allocation.and_then(|allocation| child(allocation, "devices")).into_iter().flat_map(|d| edit::each(d, "results")) {
            requests::default_tolerations(result);
            let consumed = child(result, "consumedCapacity").and_then(Value::as_object_mut);
            consumed.into_iter().flat_map(|all| all.values_mut()).for_each(resources::canonical);
        }
    }

    fn meta_check(&self) -> MetaCheck {
        MetaCheck::Both
    }

    fn prepare_subresource(&self, _ctx: &Ctx<'_>, new: &mut Value, old: &Value) {
        edit::keep_metadata(new, old);
        drop_deallocated(new, old);
    }

    fn reset_fields(&self, subresource: &str) -> Option<&'static [&'static [&'static str]]> {
        (subresource == "status").then_some(&[&["metadata"], &["spec"]])
    }

    fn validate_request(&self, ctx: &Ctx<'_>, new: &Value, old: Option<&Value>, causes: &mut FieldErrors) {
        match old {
            // The spec never changes.
            None => authorized::admin_requests(ctx, new.at("spec").at("devices").list("requests"), causes),
            Some(old) if ctx.subresource == "status" => authorized::status(ctx, new.at("status"), old.at("status"), causes),
            Some(_) => {}
        }
    }

    fn validate_create(&self, object: &Value, causes: &mut FieldErrors) {
        requests::validate(object.at("spec").at("devices"), SPEC.field("devices"), causes);
    }

    fn validate_update(&self, new: &Value, old: &Value, causes: &mut FieldErrors) {
        if !read::same(new.at("spec"), old.at("spec")) {
            causes.invalid(SPEC, internal::shown("resource.ResourceClaimSpec", new.at("spec")), "field is immutable");
        }
    }

    fn validate_subresource(&self, _subresource: &str, new: &Value, old: &Value, causes: &mut FieldErrors) {
        status::validate(new, old, causes);
    }

    fn cells(&self, object: &Value, now: Timestamp) -> Vec<Value> {
        vec![read::name(object).into(), state(object).into(), table::age(object, now)]
    }
}

/// `resourceClaimState`
fn state(claim: &Value) -> &'static str {
    let (deleted, status) = (claim.at("metadata").at("deletionTimestamp").is_some(), claim.at("status"));
    match (status.at("allocation").is_some(), !status.list("reservedFor").is_empty()) {
        (false, _) => ["pending", "deleted"][usize::from(deleted)],
        (true, false) => ["allocated", "deleted,allocated"][usize::from(deleted)],
        (true, true) => ["allocated,reserved", "deleted,allocated,reserved"][usize::from(deleted)],
    }
}

/// `dropDeallocatedStatusDevices`: what drivers said of devices goes with them.
fn drop_deallocated(new: &mut Value, old: &Value) {
    let allocated = |claim: &Value| -> HashSet<status::DeviceId> {
        let results = claim.at("status").at("allocation").at("devices").list("results");
        results.iter().map(status::DeviceId::of).collect()
    };
    let kept = allocated(new);
    let gone: HashSet<_> = allocated(old).into_iter().filter(|id| !kept.contains(id)).collect();
    let Some(status) = child(new, "status") else { return };
    if let Some(devices) = status.get_mut("devices").and_then(Value::as_array_mut) {
        devices.retain(|device| !gone.contains(&status::DeviceId::of(device)));
    }
    if status.list("devices").is_empty() {
        edit::remove(status, "devices");
    }
}
