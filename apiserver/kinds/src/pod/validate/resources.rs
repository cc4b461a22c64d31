//! Requests, limits and overhead -> what is wrong with them.

use api::{field_errors::FieldErrors, quantity::Quantity};
use podspec::Side;
use serde_json::{Map, Value, json};

use super::{Whole, claims};
use crate::common::{
    Path, Read, name_rules, not_supported,
    resource_names::{is_extended, is_huge_page, is_native, is_of_containers, is_standard},
    resources::quantity,
    well_formed,
};

type NameRule = fn(&str, Path<'_>, &mut FieldErrors);

/// `ValidateContainerResourceRequirements`
pub fn container(container: &Value, whole: &Whole<'_>, path: Path<'_>, causes: &mut FieldErrors) {
    let Some(resources) = container.at("resources") else { return };
    requirements(resources, container_name, path, causes);
    claims::of_container(resources.list("claims"), &whole.claims, path.field("claims"), causes);
}

/// `validatePodResources`: requests and limits of the whole pod.
pub fn pod_level(whole: &Whole<'_>, path: Path<'_>, causes: &mut FieldErrors) {
    let Some(resources) = whole.spec.at("resources") else { return };
    if whole.os() == Some("windows") {
        return causes.forbidden(path, "may not be set for a windows pod");
    }
    if resources.at("claims").is_some() {
        causes.forbidden(path.field("claims"), "claims may not be set for Resources at pod-level");
    }
    requirements(resources, pod_name, path, causes);
    for (side, list) in [(Side::Requests, "requests"), (Side::Limits, "limits")] {
        for (name, sum) in podspec::aggregate(whole.spec, side, &[], |_, _| {}).sorted() {
            // What can be overcommitted may be limited to less than the containers are together.
            let own = resources.at(list).at(name).and_then(quantity).filter(|own| sum > *own);
            if let Some(own) = own.filter(|_| side == Side::Requests || is_huge_page(name)) {
                let text = format!("must be greater than or equal to aggregate container {list} of {sum}");
                causes.invalid(path.field(list).key(name), own.to_string(), &text);
            }
        }
    }
    for (i, container) in whole.spec.list("containers").iter().enumerate() {
        for (name, limit) in quantities(container.at("resources").object("limits")) {
            let Some(most) = resources.at("limits").at(name).and_then(quantity).filter(|most| limit > *most) else { continue };
            let at = format!("{}[{name}].limits", path.field("containers").index(i));
            causes.invalid(at, limit.to_string(), &format!("must be less than or equal to pod limits of {most}"));
        }
    }
}

/// `validateOverhead`
pub fn overhead(spec: &Value, path: Path<'_>, causes: &mut FieldErrors) {
    for (name, value) in spec.object("overhead").into_iter().flatten() {
        container_name(name, path.key(name), causes);
        amount(name, value, path.key(name), causes);
    }
}

/// `ValidateContainerResourceRequirements` of limits alone.
pub fn limits(limits: Option<&Value>, path: Path<'_>, causes: &mut FieldErrors) {
    requirements(&json!({"limits": limits}), container_name, path, causes);
}

/// `validateResourceRequirements`
fn requirements(resources: &Value, check_name: NameRule, path: Path<'_>, causes: &mut FieldErrors) {
    let (limits_at, requests_at) = (path.field("limits"), path.field("requests"));
    let (limits, requests) = (resources.object("limits"), resources.object("requests"));
    for (name, value) in limits.into_iter().flatten() {
        check_name(name, limits_at.key(name), causes);
        amount(name, value, limits_at.key(name), causes);
    }
    for (name, value) in requests.into_iter().flatten() {
        check_name(name, requests_at.key(name), causes);
        let Some(wanted) = amount(name, value, requests_at.key(name), causes) else { continue };
        match limits.and_then(|l| l.get(name)).and_then(quantity) {
            Some(limit) => within_limit(name, wanted, limit, requests_at, causes),
            None if !may_overcommit(name) => causes.required(limits_at, "Limit must be set for non overcommitable resources"),
            None => {}
        }
    }
    let any = |test: fn(&str) -> bool| limits.into_iter().chain(requests).flatten().any(|(name, _)| test(name));
    if any(is_huge_page) && !any(|name| matches!(name, "cpu" | "memory")) {
        causes.forbidden(path, "HugePages require cpu or memory");
    }
}

fn within_limit(name: &str, wanted: Quantity, limit: Quantity, path: Path<'_>, causes: &mut FieldErrors) {
    let equal = wanted.partial_cmp(&limit) == Some(std::cmp::Ordering::Equal);
    if !equal && !may_overcommit(name) {
        causes.invalid(path, wanted.to_string(), &format!("must be equal to {name} limit of {limit}"));
    } else if wanted > limit {
        causes.invalid(path, wanted.to_string(), &format!("must be less than or equal to {name} limit of {limit}"));
    }
}

/// `ValidateResourceQuantityValue`, and the value where it can be read.
fn amount(name: &str, value: &Value, path: Path<'_>, causes: &mut FieldErrors) -> Option<Quantity> {
    let Some(found) = quantity(value) else {
        causes.invalid(path, value.clone(), api::quantity::RULE);
        return None;
    };
    if found.is_negative() {
        causes.invalid(path, found.to_string(), "must be greater than or equal to 0");
    }
    if is_extended(name) && found.milli() % 1000 != 0 {
        causes.invalid(path, found.to_string(), "must be an integer");
    }
    if is_huge_page(name) && !divisible(name, found) {
        causes.invalid(path, found.to_string(), &format!("{found} is not positive integer multiple of {name}"));
    }
    Some(found)
}

/// `validateContainerResourceName`
fn container_name(name: &str, path: Path<'_>, causes: &mut FieldErrors) {
    resource_name(name, path, causes);
    if !name.contains('/') {
        if !is_of_containers(name) {
            causes.invalid(path, name, "must be a standard resource for containers");
        }
    } else if !is_native(name) && !is_extended(name) {
        causes.invalid(path, name, "doesn't follow extended resource name standard");
    }
}

/// `validatePodResourceName`
fn pod_name(name: &str, path: Path<'_>, causes: &mut FieldErrors) {
    let before = causes.0.len();
    resource_name(name, path, causes);
    if causes.0.len() == before && !matches!(name, "cpu" | "memory") && !is_huge_page(name) {
        not_supported(name, &["cpu", "memory"], path, causes);
    }
}

/// `validateResourceName`
fn resource_name(name: &str, path: Path<'_>, causes: &mut FieldErrors) {
    let errors = name_rules::qualified(name);
    let plain = !name.contains('/') && !is_standard(name);
    if errors.is_empty() && plain {
        causes.invalid(path, name, "must be a standard resource type or fully qualified");
    }
    well_formed(name, errors, path, causes);
}

fn quantities(list: Option<&Map<String, Value>>) -> impl Iterator<Item = (&str, Quantity)> {
    list.into_iter().flatten().filter_map(|(name, value)| Some((name.as_str(), quantity(value)?)))
}

fn may_overcommit(name: &str) -> bool {
    is_native(name) && !is_huge_page(name)
}

fn divisible(name: &str, amount: Quantity) -> bool {
    let page = name.strip_prefix("hugepages-").and_then(|s| Quantity::parse(s).ok()).map_or(0, Quantity::units);
    page > 0 && amount.milli() % 1000 == 0 && amount.units() % page == 0
}
