//! Tolerations and topology spread constraints -> what is wrong with them.

use std::collections::{HashMap, HashSet};

use api::field_errors::FieldErrors;
use serde_json::Value;

use crate::common::{Path, Read, name_rules, not_supported, selector, well_formed};

const EFFECTS: &[&str] = &["NoSchedule", "PreferNoSchedule", "NoExecute"];

/// `ValidateTolerations`
pub fn tolerations(tolerations: &[Value], path: Path<'_>, causes: &mut FieldErrors) {
    for (i, toleration) in tolerations.iter().enumerate() {
        let at = path.index(i);
        let (key, operator, effect) = (toleration.text("key"), toleration.text("operator"), toleration.text("effect"));
        if !key.is_empty() {
            well_formed(key, name_rules::qualified(key), at.field("key"), causes);
        } else if operator != "Exists" {
            let text = "operator must be Exists when `key` is empty, which means \"match all values and all keys\"";
            causes.invalid(at.field("operator"), operator, text);
        }
        if toleration.at("tolerationSeconds").is_some() && effect != "NoExecute" {
            causes.invalid(at.field("effect"), effect, "effect must be 'NoExecute' when `tolerationSeconds` is set");
        }
        operator_and_value(operator, toleration.text("value"), at.field("operator"), causes);
        if !effect.is_empty() && !EFFECTS.contains(&effect) {
            not_supported(effect, EFFECTS, at.field("effect"), causes);
        }
    }
}

/// `validateTopologySpreadConstraints`
pub fn topology_spread(constraints: &[Value], path: Path<'_>, causes: &mut FieldErrors) {
    let pair = |c: &'_ Value| (c.text("topologyKey").to_owned(), c.text("whenUnsatisfiable").to_owned());
    let last: HashMap<_, usize> = constraints.iter().enumerate().map(|(i, c)| (pair(c), i)).collect();
    for (i, constraint) in constraints.iter().enumerate() {
        let at = path.index(i);
        let skew = constraint.int("maxSkew").unwrap_or(0);
        if skew <= 0 {
            causes.invalid(at.field("maxSkew"), skew, "must be greater than zero");
        }
        let (key, action) = (constraint.text("topologyKey"), constraint.text("whenUnsatisfiable"));
        if key.is_empty() {
            causes.required(at.field("topologyKey"), "can not be empty");
        }
        if !matches!(action, "DoNotSchedule" | "ScheduleAnyway") {
            not_supported(action, &["DoNotSchedule", "ScheduleAnyway"], at.field("whenUnsatisfiable"), causes);
        }
        if last.get(&pair(constraint)).is_some_and(|last| *last > i) {
            causes.duplicate(at.field("{topologyKey, whenUnsatisfiable}"), format!("{{{key}, {action}}}"));
        }
        min_domains(constraint.int("minDomains"), action, at.field("minDomains"), causes);
        for field in ["nodeAffinityPolicy", "nodeTaintsPolicy"] {
            let policy = constraint.text(field);
            if !matches!(policy, "" | "Honor" | "Ignore") {
                not_supported(policy, &["Honor", "Ignore"], at.field(field), causes);
            }
        }
        label_keys(constraint, at, causes);
        selector::well_formed(constraint.at("labelSelector"), at.field("labelSelector"), causes);
    }
}

/// `ValidateMatchLabelKeysAndMismatchLabelKeys`, for spread constraints and pod affinity terms.
pub fn label_keys(term: &Value, path: Path<'_>, causes: &mut FieldErrors) {
    let selector = term.at("labelSelector");
    for field in ["matchLabelKeys", "mismatchLabelKeys"] {
        let (keys, at) = (term.list(field), path.field(field));
        if !keys.is_empty() && selector.is_none() {
            causes.forbidden(at, "must not be specified when labelSelector is not set");
            continue;
        }
        for (i, key) in keys.iter().filter_map(Value::as_str).enumerate() {
            well_formed(key, name_rules::qualified(key), at.index(i), causes);
        }
    }
    let matched = term.list("matchLabelKeys");
    // Preparation has added one expression per key: a second one is the user's.
    let mut places: HashMap<&str, usize> = HashMap::new();
    for (i, key) in matched.iter().enumerate().filter_map(|(i, key)| Some((i, key.as_str()?))) {
        places.entry(key).or_insert(i);
    }
    let mut seen: HashSet<&str> = selector.object("matchLabels").into_iter().flatten().map(|(k, _)| k.as_str()).collect();
    for expression in selector.list("matchExpressions") {
        let key = expression.text("key");
        if let Some(i) = places.get(key).filter(|_| seen.contains(key)) {
            causes.invalid(path.index(*i), key, "exists in both matchLabelKeys and labelSelector");
        }
        seen.insert(key);
    }
    let list = path.field("matchLabelKeys");
    let mismatched: HashSet<&Value> = term.list("mismatchLabelKeys").iter().collect();
    for (i, key) in matched.iter().enumerate().filter(|(_, k)| mismatched.contains(k)) {
        causes.invalid(list.index(i), key.clone(), "exists in both matchLabelKeys and mismatchLabelKeys");
    }
}

fn operator_and_value(operator: &str, value: &str, path: Path<'_>, causes: &mut FieldErrors) {
    match operator {
        "Equal" | "" => {
            let errors = name_rules::label_value(value);
            if !errors.is_empty() {
                causes.invalid(path, value, &errors.join(";"));
            }
        }
        "Exists" if !value.is_empty() => causes.invalid(path, value, "value must be empty when `operator` is 'Exists'"),
        "Exists" => {}
        "Lt" | "Gt" => not_supported(operator, &["Equal", "Exists", "Lt", "Gt"], path, causes),
        other => not_supported(other, &["Equal", "Exists"], path, causes),
    }
}

fn min_domains(least: Option<i64>, action: &str, path: Path<'_>, causes: &mut FieldErrors) {
    let Some(least) = least else { return };
    if least <= 0 {
        causes.invalid(path, least, "must be greater than zero");
    }
    if action != "DoNotSchedule" {
        let text = format!("can only use minDomains if whenUnsatisfiable=DoNotSchedule, not {action}");
        causes.invalid(path, least, &text);
    }
}
