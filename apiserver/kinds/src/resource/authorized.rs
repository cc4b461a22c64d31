//! A write of a claim -> whether its writer may: access as an administrator is for namespaces that are labelled for it, allocations are for
//! schedulers, and what drivers say of devices is for drivers, each on its own nodes. Source: `pkg/registry/resource/utils.go` (KEP-5018, KEP-4817).

use std::collections::{BTreeSet, HashMap};

use api::{
    GroupResource, Key, Status,
    field_errors::{FieldErrors, Reason},
};
use apiserver::{
    front::allowed_at_once,
    identity::{Attributes, User},
    kind::Ctx,
};
use serde_json::Value;

use super::status::DeviceId;
use crate::common::{Path, Read, name_rules, read};

const ADMIN_LABEL: &str = "resource.kubernetes.io/admin-access";
const NODE_NAME: &str = "authentication.kubernetes.io/node-name";

/// `AuthorizedForAdmin`
pub fn admin_requests(ctx: &Ctx<'_>, requests: &[Value], causes: &mut FieldErrors) {
    if let Some(i) = requests.iter().position(|request| request.at("exactly").is_true("adminAccess")) {
        admin(ctx, Path::new("spec.devices.requests").index(i).field("adminAccess"), causes);
    }
}

/// All that a write to the status asks for.
pub fn status(ctx: &Ctx<'_>, new: Option<&Value>, old: Option<&Value>, causes: &mut FieldErrors) {
    let granted = |status: Option<&Value>| {
        let results = status.at("allocation").at("devices").list("results");
        results.iter().position(|result| result.is_true("adminAccess"))
    };
    // What was granted stays: an allocation never changes.
    if let (Some(i), None) = (granted(new), granted(old)) {
        admin(ctx, Path::new("status.allocation.devices.results").index(i).field("adminAccess"), causes);
    }
    binding(ctx, new, old, causes);
    // The statuses of devices go with the allocation, whoever ends it.
    if new.at("allocation").is_some() {
        devices(ctx, new, old, causes);
    }
}

fn admin(ctx: &Ctx<'_>, path: Path<'_>, causes: &mut FieldErrors) {
    let found = ctx.engine.cached(&GroupResource::new("", "namespaces"), &Key::new("", ctx.namespace)).map(|found| found.value());
    let Some(namespace) = found else {
        let why = format!("could not retrieve namespace to verify admin access: namespaces {:?} not found", ctx.namespace);
        return causes.push(Reason::Internal, path, format!("Internal error: {why}"));
    };
    if namespace.at("metadata").at("labels").text(ADMIN_LABEL) != "true" {
        causes.forbidden(path, &format!("admin access to devices requires the `{ADMIN_LABEL}: true` label on the containing namespace"));
    }
}

/// `AuthorizedForBinding`
fn binding(ctx: &Ctx<'_>, new: Option<&Value>, old: Option<&Value>, causes: &mut FieldErrors) {
    let same = |field: &str| read::same(new.at(field), old.at(field));
    if same("allocation") && same("reservedFor") {
        return;
    }
    let asked = Attributes { subresource: "binding", namespace: "", name: "", ..asked(ctx) };
    if let Err(status) = allowed_at_once(ctx.engine, &asked) {
        let needs = format!("requires resource=\"resourceclaims/binding\", verb=\"{}\" permission", ctx.verb);
        let why = format!("changing status.allocation or status.reservedFor {needs}: {}", status.message);
        causes.forbidden("status.allocation", &why);
    }
}

/// `AuthorizedForDeviceStatus`
fn devices(ctx: &Ctx<'_>, new: Option<&Value>, old: Option<&Value>, causes: &mut FieldErrors) {
    let drivers = changed(new.list("devices"), old.list("devices"));
    if drivers.is_empty() {
        return;
    }
    let mut verbs = vec![format!("arbitrary-node:{}", ctx.verb)];
    if is_on(ctx.user, node_of(new.at("allocation"))) {
        verbs.insert(0, format!("associated-node:{}", ctx.verb));
    }
    for driver in drivers {
        let asked = |verb| Attributes { verb, subresource: "driver", name: driver, ..asked(ctx) };
        let refusals: Result<Vec<Status>, ()> =
            verbs.iter().map(|verb| allowed_at_once(ctx.engine, &asked(verb)).err().ok_or(())).collect();
        // One that is allowed is enough.
        let Ok(refusals) = refusals else { continue };
        let first = refusals.first().map_or("", |status| &status.message);
        let needs = format!("requires resource=\"resourceclaims/driver\", verb=\"[{}]\" permission", verbs.join(" "));
        causes.forbidden("status.devices", &format!("changing status.devices {needs}: {first}"));
    }
}

fn asked<'a>(ctx: &Ctx<'a>) -> Attributes<'a> {
    Attributes {
        user: ctx.user,
        verb: ctx.verb,
        resource_request: true,
        group: &ctx.kind.group,
        version: &ctx.kind.version,
        resource: &ctx.kind.plural,
        subresource: ctx.subresource,
        namespace: ctx.namespace,
        name: ctx.name,
        ..Attributes::default()
    }
}

/// `getModifiedDrivers`: of entries that came, went or changed.
fn changed<'v>(new: &'v [Value], old: &'v [Value]) -> BTreeSet<&'v str> {
    let mut before: HashMap<DeviceId, &Value> = old.iter().map(|device| (DeviceId::of(device), device)).collect();
    let mut drivers = BTreeSet::new();
    for device in new {
        if before.remove(&DeviceId::of(device)).is_none_or(|was| !read::same(Some(was), Some(device))) {
            drivers.insert(device.text("driver"));
        }
    }
    drivers.extend(before.into_values().map(|device| device.text("driver")));
    drivers
}

/// `nodeNameFromAllocation`: the one node that an allocation is for; empty where it may be for others.
fn node_of(allocation: Option<&Value>) -> &str {
    let [term] = allocation.at("nodeSelector").list("nodeSelectorTerms") else { return "" };
    let ([], [field]) = (term.list("matchExpressions"), term.list("matchFields")) else { return "" };
    match (field.text("key"), field.text("operator"), field.list("values")) {
        ("metadata.name", "In", [name]) => super::as_text(name),
        _ => "",
    }
}

/// `saAssociatedWithAllocatedNode`: whether it is a service account whose token is of a pod on that node.
fn is_on(user: &User, node: &str) -> bool {
    let is_account = user.name.strip_prefix("system:serviceaccount:").is_some_and(|rest| rest.split(':').count() == 2);
    let of_token = user.extra.get(NODE_NAME).map(Vec::as_slice);
    !node.is_empty() && is_account && of_token.is_some_and(|names| names == [node]) && name_rules::dns_subdomain(node).is_empty()
}
