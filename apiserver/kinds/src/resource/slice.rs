//! ResourceSlice: devices of one driver, on a node or for several. Source: `pkg/registry/resource/resourceslice`, `ValidateResourceSlice`.

use std::{borrow::Cow, collections::HashMap};

use api::{field_errors::FieldErrors, time::Timestamp, time::rfc3339};
use apiserver::kind::{Column, Ctx, Field, Kind, Scope, Strategy};
use serde_json::Value;

use super::{
    GROUP, PACKAGE, VERSION, as_text, counters,
    device::{self, Place},
    each_once, names,
};
use crate::{
    common::{
        self, Path, Read,
        edit::{self, child},
        read, resources, table, unchanged,
    },
    pod::validate::affinity,
    schema::internal,
};

const SPEC: Path<'static> = Path::new("spec");
const DEVICES: usize = 128;
/// Of those with taints, counters or lists.
const ADVANCED_DEVICES: usize = 64;
const COUNTER_SETS: usize = 8;
const FIELDS: &[Field] = &[table::indexed("spec.nodeName", "/spec/nodeName"), table::field("spec.driver", "/spec/driver", "")];
const COLUMNS: &[Column] = &[
    table::NAME_COLUMN,
    table::column(
        "Node",
        "string",
        "NodeName identifies the node which provides the resources in this pool. A field selector can be used to list only ResourceSlice objects belonging to a certain node.\n\nThis field can be used to limit access from nodes to ResourceSlices with the same node name. It also indicates to autoscalers that adding new nodes of the same type as some old node might also make new resources available.\n\nExactly one of NodeName, NodeSelector, AllNodes, and PerDeviceNodeSelection must be set. This field is immutable.",
    ),
    table::column(
        "Driver",
        "string",
        "Driver identifies the DRA driver providing the capacity information. A field selector can be used to list only ResourceSlice objects with a certain driver name.\n\nMust be a DNS subdomain and should end with a DNS domain owned by the vendor of the driver. It should use only lower case characters. This field is immutable.",
    ),
    table::column(
        "Pool",
        "string",
        "Name is used to identify the pool. For node-local devices, this is often the node name, but this is not required.\n\nIt must not be longer than 253 characters and must consist of one or more DNS sub-domains separated by slashes. This field is immutable.",
    ),
    table::AGE_COLUMN,
];

pub fn kind() -> Kind {
    Kind {
        scope: Scope::Cluster,
        columns: Cow::Borrowed(COLUMNS),
        fields: Cow::Borrowed(FIELDS),
        generation: true,
        ..common::kind(GROUP, VERSION, "ResourceSlice", "resourceslices", PACKAGE, Slices)
    }
}

struct Slices;

impl Strategy for Slices {
    fn default(&self, object: &mut Value) {
        let Some(spec) = edit::make_child(object, "spec") else { return };
        for device in edit::each(spec, "devices") {
            default_device(device);
        }
        for set in edit::each(spec, "sharedCounters") {
            amounts(set, "counters", "value");
        }
    }

    fn prepare_create(&self, ctx: &Ctx<'_>, object: &mut Value) {
        prepare(object, None, ctx.now);
    }

    fn prepare_update(&self, ctx: &Ctx<'_>, new: &mut Value, old: &Value) {
        prepare(new, Some(old), ctx.now);
    }

    fn validate_create(&self, object: &Value, causes: &mut FieldErrors) {
        spec(object.at("spec"), None, causes);
    }

    fn validate_update(&self, new: &Value, old: &Value, causes: &mut FieldErrors) {
        spec(new.at("spec"), old.at("spec"), causes);
    }

    fn warnings(&self, new: &Value, _old: Option<&Value>) -> Vec<String> {
        let driver = new.at("spec").text("driver");
        if driver == driver.to_lowercase() {
            return Vec::new();
        }
        vec![format!("spec.driver: driver names should be lowercase; {driver:?} contains uppercase characters")]
    }

    fn cells(&self, object: &Value, now: Timestamp) -> Vec<Value> {
        let spec = object.at("spec");
        let (node, driver, pool) = (spec.text("nodeName"), spec.text("driver"), spec.at("pool").text("name"));
        vec![read::name(object).into(), node.into(), driver.into(), pool.into(), table::age(object, now)]
    }
}

/// `SetDefaults_Device`; amounts become canonical.
fn default_device(device: &mut Value) {
    amounts(device, "capacity", "value");
    let policies = child(device, "capacity").and_then(Value::as_object_mut).into_iter().flat_map(|all| all.values_mut());
    for policy in policies.filter_map(|capacity| child(capacity, "requestPolicy")) {
        resources::canonical_field(policy, "default");
        edit::each(policy, "validValues").for_each(resources::canonical);
        if let Some(range) = child(policy, "validRange") {
            ["min", "max", "step"].into_iter().for_each(|field| resources::canonical_field(range, field));
        }
    }
    for consumption in edit::each(device, "consumesCounters") {
        amounts(consumption, "counters", "value");
    }
    let mappings = child(device, "nodeAllocatableResourceMappings").and_then(Value::as_object_mut);
    for mapping in mappings.into_iter().flat_map(|all| all.values_mut()) {
        edit::default_to(mapping, "allocationMultiplier", "1");
        resources::canonical_field(mapping, "allocationMultiplier");
    }
}

/// Of each value of a map.
fn amounts(of: &mut Value, map: &str, field: &str) {
    let values = child(of, map).and_then(Value::as_object_mut).into_iter().flat_map(|all| all.values_mut());
    values.for_each(|value| resources::canonical_field(value, field));
}

/// `SetDefaults_DeviceTaint`, and fields of features that are off, unless they are in use.
fn prepare(new: &mut Value, old: Option<&Value>, now: Timestamp) {
    let devices = |slice: Option<&Value>, any: fn(&Value) -> bool| slice.at("spec").list("devices").iter().any(any);
    let keeps_lists = devices(old, has_lists);
    let keeps_mappings = devices(old, |device| device.object("nodeAllocatableResourceMappings").is_some_and(|all| !all.is_empty()));
    let Some(spec) = child(new, "spec") else { return };
    for device in edit::each(spec, "devices") {
        edit::each(device, "taints").for_each(|taint| edit::default_to(taint, "timeAdded", rfc3339(now)));
        if !keeps_mappings {
            edit::remove(device, "nodeAllocatableResourceMappings");
        }
        let attributes = child(device, "attributes").filter(|_| !keeps_lists).and_then(Value::as_object_mut);
        for attribute in attributes.into_iter().flat_map(|all| all.values_mut()) {
            device::LISTS.into_iter().for_each(|list| edit::remove(attribute, list));
        }
    }
}

/// `draListTypeAttributesFeatureInUse`
fn has_lists(device: &Value) -> bool {
    let any = |attribute: &Value| device::LISTS.iter().any(|list| attribute.at(list).is_some());
    device.object("attributes").into_iter().flatten().any(|(_, attribute)| any(attribute))
}

/// `validateResourceSliceSpec`
fn spec(spec: Option<&Value>, old: Option<&Value>, causes: &mut FieldErrors) {
    names::driver_name(spec.text("driver"), SPEC.field("driver"), causes);
    pool(spec.at("pool"), SPEC.field("pool"), causes);
    if let Some(old) = old {
        let (now, was) = (spec.at("pool").at("name"), old.at("pool").at("name"));
        unchanged(now, was, SPEC.field("pool").field("name"), causes);
        unchanged(spec.at("driver"), old.at("driver"), SPEC.field("driver"), causes);
        unchanged(spec.at("nodeName"), old.at("nodeName"), SPEC.field("nodeName"), causes);
    }
    place(spec, causes);
    if spec.at("sharedCounters").is_some() && spec.at("devices").is_some() {
        causes.invalid(SPEC, "", "only one of `sharedCounters` or `devices` is allowed");
    }
    let devices = spec.list("devices");
    let is_advanced = |one: &Value| !one.list("taints").is_empty() || !one.list("consumesCounters").is_empty() || has_lists(one);
    let most = if devices.iter().any(is_advanced) { ADVANCED_DEVICES } else { DEVICES };
    let before: HashMap<&str, &Value> = old.list("devices").iter().rev().map(|device| (device.text("name"), device)).collect();
    let place = if spec.is_true("perDeviceNodeSelection") { Place::OfDevice } else { Place::OfSlice };
    each_once(
        devices,
        most,
        SPEC.field("devices"),
        causes,
        |device| device.text("name"),
        |device, at, causes| {
            device::validate(device, before.get(device.text("name")).copied(), place, at, causes);
        },
    );
    let sets = spec.list("sharedCounters");
    each_once(
        sets,
        COUNTER_SETS,
        SPEC.field("sharedCounters"),
        causes,
        |set| set.text("name"),
        |set, at, causes| {
            counters::validate(set, "name", at, causes);
        },
    );
}

/// `validateResourcePool`
fn pool(pool: Option<&Value>, path: Path<'_>, causes: &mut FieldErrors) {
    names::pool(pool.text("name"), path.field("name"), causes);
    let number = |field: &str| pool.int(field).unwrap_or(0);
    let (count, generation) = (number("resourceSliceCount"), number("generation"));
    if count <= 0 {
        causes.invalid(path.field("resourceSliceCount"), count, "must be greater than zero");
    }
    if generation < 0 {
        causes.invalid(path.field("generation"), generation, "must be greater than or equal to zero");
    }
}

/// For which nodes the devices are: said in one of four ways.
fn place(spec: Option<&Value>, causes: &mut FieldErrors) {
    const ONE: &str = "exactly one of `nodeName`, `nodeSelector`, `allNodes`, `perDeviceNodeSelection` is required";
    let mut set = Vec::new();
    match spec.at("nodeName").map(as_text) {
        Some("") => causes.invalid(SPEC.field("nodeName"), "", "must be either unset or set to a non-empty string"),
        Some(name) => {
            set.push("`nodeName`");
            names::node(name, SPEC.field("nodeName"), causes);
        }
        None => {}
    }
    if let Some(selector) = spec.at("nodeSelector") {
        set.push("`nodeSelector`");
        let at = SPEC.field("nodeSelector");
        affinity::node_selector(selector, at, causes);
        if selector.list("nodeSelectorTerms").len() != 1 {
            let terms = selector
                .at("nodeSelectorTerms")
                .map_or(Value::Null, |_| internal::shown_each("core.NodeSelectorTerm", selector.list("nodeSelectorTerms")));
            causes.invalid(at.field("nodeSelectorTerms"), terms, "must have exactly one node selector term");
        }
    }
    for (field, word) in [("allNodes", "`allNodes`"), ("perDeviceNodeSelection", "`perDeviceNodeSelection`")] {
        match spec.flag(field) {
            Some(true) => set.push(word),
            Some(false) => causes.invalid(SPEC.field(field), false, "must be either unset or set to true"),
            None => {}
        }
    }
    match set.len() {
        0 => causes.required(SPEC, ONE),
        1 => {}
        _ => causes.invalid(SPEC, format!("{{{}}}", set.join(", ")), &format!("{ONE}, but multiple fields are set")),
    }
}
