//! Node affinity, pod affinity and anti-affinity -> what is wrong with them.

use api::field_errors::FieldErrors;
use serde_json::Value;

use super::scheduling::label_keys;
use crate::common::{Path, Read, name_rules, selector, well_formed};

const REQUIRED: &str = "requiredDuringSchedulingIgnoredDuringExecution";
const PREFERRED: &str = "preferredDuringSchedulingIgnoredDuringExecution";

/// Whether values of a node selector must be label values: preferences of old may hold others.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Values {
    Checked,
    Unchecked,
}

/// `validateAffinity`
pub fn validate(affinity: Option<&Value>, path: Path<'_>, causes: &mut FieldErrors) {
    if let Some(node) = affinity.at("nodeAffinity") {
        node_affinity(node, path.field("nodeAffinity"), causes);
    }
    for side in ["podAffinity", "podAntiAffinity"] {
        if let Some(terms) = affinity.at(side) {
            pod_affinity(terms, path.field(side), causes);
        }
    }
}

fn node_affinity(node: &Value, path: Path<'_>, causes: &mut FieldErrors) {
    if let Some(required) = node.at(REQUIRED) {
        node_selector(required, path.field(REQUIRED), causes);
    }
    let list = path.field(PREFERRED);
    for (i, term) in node.list(PREFERRED).iter().enumerate() {
        let at = list.index(i);
        weight(term, at, causes);
        if let Some(preference) = term.at("preference") {
            node_term(preference, Values::Unchecked, at.field("preference"), causes);
        }
    }
}

/// `ValidateNodeSelector`
pub fn node_selector(selector: &Value, path: Path<'_>, causes: &mut FieldErrors) {
    let (terms, list) = (selector.list("nodeSelectorTerms"), path.field("nodeSelectorTerms"));
    if terms.is_empty() {
        causes.required(list, "must have at least one node selector term");
    }
    for (i, term) in terms.iter().enumerate() {
        node_term(term, Values::Checked, list.index(i), causes);
    }
}

/// `ValidateNodeSelectorTerm`
fn node_term(term: &Value, values: Values, path: Path<'_>, causes: &mut FieldErrors) {
    let list = path.field("matchExpressions");
    for (i, requirement) in term.list("matchExpressions").iter().enumerate() {
        node_requirement(requirement, values, list.index(i), causes);
    }
    let list = path.field("matchFields");
    for (i, requirement) in term.list("matchFields").iter().enumerate() {
        node_field(requirement, list.index(i), causes);
    }
}

/// `ValidateNodeSelectorRequirement`
fn node_requirement(requirement: &Value, check: Values, path: Path<'_>, causes: &mut FieldErrors) {
    let (values, list) = (requirement.list("values"), path.field("values"));
    match (requirement.text("operator"), values.len()) {
        ("In" | "NotIn", 0) => causes.required(list, "must be specified when `operator` is 'In' or 'NotIn'"),
        ("In" | "NotIn", _) | ("Exists" | "DoesNotExist", 0) | ("Gt" | "Lt", 1) => {}
        ("Exists" | "DoesNotExist", _) => {
            causes.forbidden(list, "may not be specified when `operator` is 'Exists' or 'DoesNotExist'");
        }
        ("Gt" | "Lt", _) => causes.required(list, "must be specified single value when `operator` is 'Lt' or 'Gt'"),
        (other, _) => causes.invalid(path.field("operator"), other, "not a valid selector operator"),
    }
    let key = requirement.text("key");
    well_formed(key, name_rules::qualified(key), path.field("key"), causes);
    if check == Values::Checked {
        for (i, value) in values.iter().filter_map(Value::as_str).enumerate() {
            well_formed(value, name_rules::label_value(value), list.index(i), causes);
        }
    }
}

/// `ValidateNodeFieldSelectorRequirement`
fn node_field(requirement: &Value, path: Path<'_>, causes: &mut FieldErrors) {
    let (values, list) = (requirement.list("values"), path.field("values"));
    match requirement.text("operator") {
        "In" | "NotIn" if values.len() != 1 => {
            causes.required(list, "must be only one value when `operator` is 'In' or 'NotIn' for node field selector");
        }
        "In" | "NotIn" => {}
        other => causes.invalid(path.field("operator"), other, "not a valid selector operator"),
    }
    let key = requirement.text("key");
    if key != "metadata.name" {
        return causes.invalid(path.field("key"), key, "not a valid field selector key");
    }
    for (i, value) in values.iter().filter_map(Value::as_str).enumerate() {
        well_formed(value, name_rules::dns_subdomain(value), list.index(i), causes);
    }
}

fn pod_affinity(terms: &Value, path: Path<'_>, causes: &mut FieldErrors) {
    let list = path.field(REQUIRED);
    for (i, term) in terms.list(REQUIRED).iter().enumerate() {
        pod_term(term, list.index(i), causes);
    }
    let list = path.field(PREFERRED);
    for (i, term) in terms.list(PREFERRED).iter().enumerate() {
        let at = list.index(i);
        weight(term, at, causes);
        pod_term(term.get("podAffinityTerm").unwrap_or(&Value::Null), at.field("podAffinityTerm"), causes);
    }
}

/// `validatePodAffinityTerm`
fn pod_term(term: &Value, path: Path<'_>, causes: &mut FieldErrors) {
    for field in ["labelSelector", "namespaceSelector"] {
        selector::well_formed(term.at(field), path.field(field), causes);
    }
    for name in term.list("namespaces").iter().filter_map(Value::as_str) {
        well_formed(name, name_rules::dns_label(name), path.field("namespace"), causes);
    }
    label_keys(term, path, causes);
    let key = term.text("topologyKey");
    if key.is_empty() {
        causes.required(path.field("topologyKey"), "can not be empty");
    }
    well_formed(key, name_rules::qualified(key), path.field("topologyKey"), causes);
}

fn weight(term: &Value, path: Path<'_>, causes: &mut FieldErrors) {
    let weight = term.int("weight").unwrap_or(0);
    if !(1..=100).contains(&weight) {
        causes.invalid(path.field("weight"), weight, "must be in the range 1-100");
    }
}
