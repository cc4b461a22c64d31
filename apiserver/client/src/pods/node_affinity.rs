//! A pod's node selector and required node affinity, a node's name and labels -> whether the pod may run there.
//!
//! Source: component-helpers `scheduling/corev1/nodeaffinity` (`RequiredNodeAffinity`).

use std::collections::BTreeMap;

use api::k8s::api::core::v1::{NodeAffinity, NodeSelectorRequirement, NodeSelectorTerm};

/// What is asked of a node.
#[derive(Clone, Copy, Debug)]
pub struct NamedLabels<'a> {
    pub name: &'a str,
    pub labels: &'a BTreeMap<String, String>,
}

/// `nodeSelector` and the required node affinity.
pub fn required_matches(selector: Option<&BTreeMap<String, String>>, affinity: Option<&NodeAffinity>, node: NamedLabels<'_>) -> bool {
    let required = affinity.and_then(|affinity| affinity.required_during_scheduling_ignored_during_execution.as_ref());
    selector.into_iter().flatten().all(|(key, value)| node.labels.get(key) == Some(value))
        && required.is_none_or(|required| required.node_selector_terms.iter().any(|term| term_matches(term, node)))
}

/// An empty term matches nothing.
pub fn term_matches(term: &NodeSelectorTerm, node: NamedLabels<'_>) -> bool {
    let (labels, fields) = (term.match_expressions.as_deref().unwrap_or(&[]), term.match_fields.as_deref().unwrap_or(&[]));
    let field = |r: &NodeSelectorRequirement| r.key == "metadata.name" && requirement_matches(r, Some(node.name));
    !(labels.is_empty() && fields.is_empty())
        && labels.iter().all(|r| requirement_matches(r, node.labels.get(&r.key).map(String::as_str)))
        && fields.iter().all(field)
}

fn requirement_matches(requirement: &NodeSelectorRequirement, value: Option<&str>) -> bool {
    let values = requirement.values.as_deref().unwrap_or(&[]);
    let is_listed = |value: &str| values.iter().any(|listed| listed == value);
    match requirement.operator.as_str() {
        "In" => value.is_some_and(is_listed),
        "NotIn" => !value.is_some_and(is_listed),
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        "Gt" => compared(value, values).is_some_and(|(a, b)| a > b),
        "Lt" => compared(value, values).is_some_and(|(a, b)| a < b),
        _ => false,
    }
}

fn compared(value: Option<&str>, values: &[String]) -> Option<(i64, i64)> {
    let [bound] = values else { return None };
    Some((value?.parse().ok()?, bound.parse().ok()?))
}
