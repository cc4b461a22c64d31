//! A device of a slice (attributes, capacities, taints, counters, where it is) -> what is wrong with it. Source: `validateDevice`.

use api::{field_errors::FieldErrors, quantity::Quantity};
use serde_json::{Map, Value};

use super::{as_text, counters, each, each_once, names, selectors, status};
use crate::{
    common::{Path, Read, read, resource_names, resources::quantity},
    pod::validate::affinity,
    schema::internal,
};

/// `ResourceSliceMaxAttributesAndCapacitiesPerDevice`
const NAMES: usize = 32;
/// `ResourceSliceMaxAttributeValuesPerDevice`
const VALUES: usize = 48;
const VALUE_BYTES: usize = 64;
const TAINTS: usize = 16;
const CONSUMPTIONS: usize = 2;
const OPTIONS: usize = 10;
/// The fields of an attribute that hold lists.
pub const LISTS: [&str; 4] = ["ints", "bools", "strings", "versions"];

/// Whether a slice says for each device by itself where it is (`perDeviceNodeSelection`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    OfSlice,
    OfDevice,
}

/// `old` is the device of that name before an update.
pub fn validate(device: &Value, old: Option<&Value>, place: Place, path: Path<'_>, causes: &mut FieldErrors) {
    names::label(device.text("name"), path.field("name"), causes);
    let (attributes, capacity) = (device.object("attributes"), device.object("capacity"));
    counted(attributes, capacity, path, causes);
    let at = path.field("attributes");
    for (name, value) in attributes.into_iter().flatten() {
        names::qualified(name, at, causes);
        attribute(value, at.key(&names::shortened(name, names::QUALIFIED_BYTES)), causes);
    }
    let at = path.field("capacity");
    for (name, value) in capacity.into_iter().flatten() {
        names::qualified(name, at, causes);
        let (key, policy) = (names::shortened(name, names::QUALIFIED_BYTES), value.at("requestPolicy"));
        let (here, shared) = (at.key(&key), device.is_true("allowMultipleAllocations"));
        match policy {
            Some(policy) if shared => request_policy(policy, value.at("value"), here.field("requestPolicy"), causes),
            Some(_) => causes.forbidden(here.field("requestPolicy"), "allowMultipleAllocations must be true"),
            None => {}
        }
    }
    if old.is_none_or(|old| !read::same(old.at("taints"), device.at("taints"))) {
        each(device.list("taints"), TAINTS, path.field("taints"), causes, selectors::taint);
    }
    let consumed = device.list("consumesCounters");
    each_once(
        consumed,
        CONSUMPTIONS,
        path.field("consumesCounters"),
        causes,
        |one| one.text("counterSet"),
        |one, at, causes| {
            counters::validate(one, "counterSet", at, causes);
        },
    );
    place_of(device, place, path, causes);
    status::binding(device, path, causes);
    mappings(device, path.field("nodeAllocatableResourceMappings"), causes);
}

fn counted(attributes: Option<&Map<String, Value>>, capacity: Option<&Map<String, Value>>, path: Path<'_>, causes: &mut FieldErrors) {
    let all = attributes.map_or(0, Map::len) + capacity.map_or(0, Map::len);
    if all > NAMES {
        causes.invalid(path, all, &format!("the total number of attributes and capacities must not exceed {NAMES}"));
    }
    let values = |attribute: &Value| LISTS.iter().map(|list| attribute.list(list).len()).sum::<usize>().max(1);
    let all: usize = attributes.into_iter().flatten().map(|(_, attribute)| values(attribute)).sum();
    if all > VALUES {
        causes.invalid(path, all, &format!("the total number of attribute values must not exceed {VALUES}"));
    }
}

/// `validateDeviceAttribute`
fn attribute(attribute: &Value, path: Path<'_>, causes: &mut FieldErrors) {
    if let Some(text) = attribute.at("string") {
        text_value(as_text(text), path.field("string"), causes);
    }
    if let Some(version) = attribute.at("version") {
        version_value(as_text(version), path.field("version"), causes);
    }
    for list in LISTS.into_iter().filter(|list| attribute.at(list).is_some()) {
        let (values, at) = (attribute.list(list), path.field(list));
        if values.is_empty() {
            causes.invalid(at, Value::Array(Vec::new()), "must not be empty if specified");
        }
        for (i, value) in values.iter().map(as_text).enumerate() {
            match list {
                "strings" => text_value(value, at.index(i), causes),
                "versions" => version_value(value, at.index(i), causes),
                _ => {}
            }
        }
    }
    match ["int", "bool", "string", "version"].into_iter().chain(LISTS).filter(|field| attribute.at(field).is_some()).count() {
        0 => causes.invalid(path, "", "exactly one value must be specified"),
        1 => {}
        _ => causes.invalid(path, internal::shown("resource.DeviceAttribute", Some(attribute)), "exactly one value must be specified"),
    }
}

fn text_value(value: &str, path: Path<'_>, causes: &mut FieldErrors) {
    if value.len() > VALUE_BYTES {
        causes.too_long(path, VALUE_BYTES);
    }
}

fn version_value(value: &str, path: Path<'_>, causes: &mut FieldErrors) {
    if !is_version(value) {
        causes.invalid(path, value, "must be a string compatible with semver.org spec 2.0.0");
    }
    text_value(value, path, causes);
}

/// `semverRe`: `major.minor.patch[-pre.release][+build]`.
fn is_version(text: &str) -> bool {
    let number = |part: &str| part == "0" || !part.is_empty() && !part.starts_with('0') && part.bytes().all(|byte| byte.is_ascii_digit());
    let word = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
    let before = |part: &str| word(part) && (number(part) || part.bytes().any(|byte| !byte.is_ascii_digit()));
    let (rest, build) = text.split_once('+').map_or((text, None), |(rest, build)| (rest, Some(build)));
    let (core, early) = rest.split_once('-').map_or((rest, None), |(core, early)| (core, Some(early)));
    let numbers: Vec<&str> = core.split('.').collect();
    let is_core = numbers.len() == 3 && numbers.into_iter().all(number);
    is_core && early.is_none_or(|early| early.split('.').all(before)) && build.is_none_or(|build| build.split('.').all(word))
}

/// `validateRequestPolicy`
fn request_policy(policy: &Value, capacity: Option<&Value>, path: Path<'_>, causes: &mut FieldErrors) {
    const BOTH: &str = "exactly one policy can be specified, cannot specify \"validValues\" and \"validRange\" at the same time";
    let amount = |value: Option<&Value>| value.and_then(quantity);
    let (most, default) = (amount(capacity).unwrap_or(Quantity::from_units(0)), amount(policy.at("default")));
    let (values, range) = (policy.list("validValues"), policy.at("validRange"));
    match (values.is_empty(), range, default) {
        (false, Some(_), _) => causes.forbidden(path, BOTH),
        (false, None, None) => causes.required(path.field("default"), "required when validValues is defined"),
        (true, Some(_), None) => causes.required(path.field("default"), "required when validRange is defined"),
        (false, None, Some(default)) => valid_values(values, default, most, path.field("validValues"), causes),
        (true, Some(range), Some(default)) => valid_range(range, default, most, path.field("validRange"), causes),
        (true, None, _) => {}
    }
}

/// `validateRequestPolicyValidValues`
fn valid_values(values: &[Value], default: Quantity, most: Quantity, path: Path<'_>, causes: &mut FieldErrors) {
    let amounts: Vec<Quantity> = values.iter().filter_map(quantity).collect();
    for (i, pair) in amounts.windows(2).enumerate() {
        if pair[0] > pair[1] {
            causes.invalid(path.index(i + 1), pair[1].to_string(), "values must be sorted in ascending order");
        }
    }
    let key = |value: &Value| quantity(value).map_or(0, Quantity::units).to_string();
    each_once(values, OPTIONS, path, causes, key, |value, at, causes| {
        if let Some(option) = quantity(value).filter(|option| *option > most) {
            causes.invalid(at, option.to_string(), &format!("option is larger than capacity value: {most}"));
        }
    });
    let is_default = |amount: &Quantity| amount.partial_cmp(&default) == Some(std::cmp::Ordering::Equal);
    if values.len() > OPTIONS || !amounts.iter().any(is_default) {
        causes.invalid(path, default.to_string(), "default value is not valid according to the requestPolicy");
    }
}

/// `validateRequestPolicyRange`
fn valid_range(range: &Value, default: Quantity, most: Quantity, path: Path<'_>, causes: &mut FieldErrors) {
    let amount = |field: &str| range.at(field).and_then(quantity);
    let Some(min) = amount("min") else { return causes.required(path.field("min"), "required when validRange is defined") };
    let mut told = |wrong: bool, field: &str, value: Quantity, why: String| {
        if wrong {
            causes.invalid(path.field(field), value.to_string(), &why);
        }
    };
    told(min > most, "min", min, format!("min is larger than capacity value: {most}"));
    told(default < min, "min", default, format!("default is less than min: {min}"));
    let max = amount("max");
    if let Some(max) = max {
        told(min > max, "max", min, format!("min is larger than max: {max}"));
        told(max > most, "max", max, format!("max is larger than capacity value: {most}"));
        told(default > max, "max", default, format!("default is more than max: {max}"));
    }
    let Some(step) = amount("step") else { return };
    let added = min.plus(step);
    told(added > most, "step", step, format!("one step {added} is larger than capacity value: {most}"));
    for value in std::iter::once(default).chain(max) {
        // Upstream divides by a step of zero, and panics.
        let is_off = value.units().wrapping_sub(min.units()).checked_rem(step.units()) != Some(0);
        told(is_off, "step", value, format!("value is not a multiple of a given step ({step}) from ({min})"));
    }
}

fn place_of(device: &Value, place: Place, path: Path<'_>, causes: &mut FieldErrors) {
    const ONE: &str = "exactly one of `nodeName`, `nodeSelector`, or `allNodes` is required when `perDeviceNodeSelection` is set to true in the ResourceSlice spec";
    const NONE: &str =
        "`nodeName`, `nodeSelector` and `allNodes` can only be set if `perDeviceNodeSelection` is set to true in the ResourceSlice spec";
    if place == Place::OfSlice {
        if ["nodeName", "nodeSelector", "allNodes"].iter().any(|field| device.at(field).is_some()) {
            causes.invalid(path, Value::Null, NONE);
        }
        return;
    }
    let mut set = Vec::new();
    if let Some(name) = device.at("nodeName").map(as_text) {
        if name.is_empty() {
            causes.invalid(path.field("nodeName"), "", "must not be empty");
        } else {
            set.push("`nodeName`");
            names::node(name, path.field("nodeName"), causes);
        }
    }
    if let Some(selector) = device.at("nodeSelector") {
        set.push("`nodeSelector`");
        affinity::node_selector(selector, path.field("nodeSelector"), causes);
    }
    match device.flag("allNodes") {
        Some(true) => set.push("`allNodes`"),
        Some(false) => causes.invalid(path.field("allNodes"), false, "must be either unset or set to true"),
        None => {}
    }
    match set.len() {
        0 => causes.required(path, ONE),
        1 => {}
        _ => causes.invalid(path, format!("{{{}}}", set.join(", ")), ONE),
    }
}

/// `validateNodeAllocatableResourceMappings`
fn mappings(device: &Value, path: Path<'_>, causes: &mut FieldErrors) {
    for (name, mapping) in device.object("nodeAllocatableResourceMappings").into_iter().flatten() {
        let at = path.key(name);
        if !resource_names::is_native(name) {
            causes.invalid(at, name.as_str(), "must be a node allocatable resource name");
        }
        let (multiplier, key) = (mapping.at("allocationMultiplier").and_then(quantity), mapping.at("capacityKey").map(as_text));
        if multiplier.is_none() && key.is_none() {
            causes.invalid(at, "", "at least one of allocationMultiplier or capacityKey must be set");
        }
        if let Some(multiplier) = multiplier.filter(|amount| amount.is_zero() || amount.is_negative()) {
            causes.invalid(at.field("allocationMultiplier"), multiplier.to_string(), "must be positive");
        }
        match key {
            Some("") => causes.invalid(at.field("capacityKey"), "", "capacityKey must not be an empty string"),
            Some(key) if device.at("capacity").at(key).is_none() => causes.not_found(at.field("capacityKey"), key),
            _ => {}
        }
    }
}
