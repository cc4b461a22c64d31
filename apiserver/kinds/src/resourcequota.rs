//! ResourceQuota: what all objects of a namespace may take together. Source: `pkg/registry/core/resourcequota`, `pkg/apis/core/validation`.

use std::{borrow::Cow, collections::BTreeSet};

use api::{field_errors::FieldErrors, time::Timestamp};
use apiserver::kind::{Column, Kind, Strategy, names};
use serde_json::{Value, json};

use crate::common::{
    self, Path, Read,
    edit::{child, make_child},
    name_rules,
    read::name,
    resource_names::{COMPUTE, is_standard, is_standard_of_quota, is_whole},
    resources::{canonical_list, quantity},
    table::{AGE_COLUMN, NAME_COLUMN, age, column},
    well_formed,
};

const COLUMNS: &[Column] = &[
    NAME_COLUMN,
    column("Request", "string", "Request represents a minimum amount of cpu/memory that a container may consume."),
    column(
        "Limit",
        "string",
        "Limits control the maximum amount of cpu/memory that a container may use independent of contention on the node.",
    ),
    AGE_COLUMN,
];
/// Scopes that a selector names with `Exists` alone.
const PLAIN_SCOPES: &[&str] = &["Terminating", "NotTerminating", "BestEffort", "NotBestEffort", "CrossNamespacePodAffinity"];
const PLAIN: &str = "must be 'Exists' when scope is any of ResourceQuotaScopeTerminating, ResourceQuotaScopeNotTerminating, ResourceQuotaScopeBestEffort, ResourceQuotaScopeNotBestEffort or ResourceQuotaScopeCrossNamespacePodAffinity";
const CONFLICTS: [[&str; 2]; 2] = [["BestEffort", "NotBestEffort"], ["Terminating", "NotTerminating"]];

pub fn kind() -> Kind {
    Kind {
        short_names: names(&["quota"]),
        subresources: vec![common::status("", "v1", "ResourceQuota")],
        columns: Cow::Borrowed(COLUMNS),
        ..common::kind("", "v1", "ResourceQuota", "resourcequotas", "io.k8s.api.core.v1", ResourceQuotas)
    }
}

struct ResourceQuotas;

impl Strategy for ResourceQuotas {
    fn default(&self, object: &mut Value) {
        make_child(object, "spec").into_iter().for_each(|spec| canonical_list(spec, "hard"));
        if let Some(status) = child(object, "status") {
            ["hard", "used"].into_iter().for_each(|list| canonical_list(status, list));
        }
    }

    fn validate(&self, object: &Value, causes: &mut FieldErrors) {
        let (spec, path) = (object.at("spec"), Path::new("spec"));
        amounts(spec.at("hard"), path.field("hard"), causes);
        scopes(spec, path.field("scopes"), causes);
        selector(spec, path.field("scopeSelector"), causes);
    }

    fn validate_update(&self, new: &Value, old: &Value, causes: &mut FieldErrors) {
        let all = |object: &Value| -> BTreeSet<String> {
            object.at("spec").list("scopes").iter().filter_map(Value::as_str).map(str::to_owned).collect()
        };
        if all(new) != all(old) {
            let shown = new.at("spec").at("scopes").cloned().unwrap_or(Value::Null);
            causes.invalid("spec.scopes", shown, "field is immutable");
        }
    }

    fn validate_subresource(&self, _subresource: &str, new: &Value, _old: &Value, causes: &mut FieldErrors) {
        let (status, path) = (new.at("status"), Path::new("status"));
        ["hard", "used"].into_iter().for_each(|list| amounts(status.at(list), path.field(list), causes));
    }

    fn warnings(&self, new: &Value, old: Option<&Value>) -> Vec<String> {
        if old.is_some() { Vec::new() } else { more_requested_than_limited(new.at("spec").at("hard")) }
    }

    fn returns_deleted(&self) -> bool {
        true
    }

    fn cells(&self, object: &Value, now: Timestamp) -> Vec<Value> {
        let (status, mut requests, mut limits) = (object.at("status"), Vec::new(), Vec::new());
        let text = |list: &str, name: &str| status.at(list).at(name).and_then(quantity).map_or("0".to_owned(), |q| q.to_string());
        let names: BTreeSet<&str> = status.object("hard").into_iter().flatten().map(|(name, _)| name.as_str()).collect();
        for name in names {
            let cell = format!("{name}: {}/{}", text("used", name), text("hard", name));
            if name.starts_with("limits.") { limits.push(cell) } else { requests.push(cell) }
        }
        vec![name(object).into(), requests.join(", ").into(), limits.join(", ").into(), age(object, now)]
    }
}

/// `ValidateResourceQuotaResourceName` and `ValidateResourceQuantityValue` of each.
fn amounts(list: Option<&Value>, path: Path<'_>, causes: &mut FieldErrors) {
    for (name, amount) in list.and_then(Value::as_object).into_iter().flatten() {
        let at = path.key(name);
        let errors = name_rules::qualified(name);
        let is_plain = !name.contains('/');
        if errors.is_empty() && is_plain && !is_standard(name) {
            causes.invalid(at, name.as_str(), "must be a standard resource type or fully qualified");
        }
        well_formed(name, errors, at, causes);
        if is_plain && !is_standard_of_quota(name) {
            causes.invalid(at, name.as_str(), "must be a standard resource for quota");
        }
        let Some(amount) = quantity(amount) else { continue };
        if amount.is_negative() {
            causes.invalid(at, amount.to_string(), "must be greater than or equal to 0");
        }
        if is_whole(name) && amount.milli() % 1000 != 0 {
            causes.invalid(at, amount.to_string(), "must be an integer");
        }
    }
}

fn is_scope(scope: &str) -> bool {
    PLAIN_SCOPES.contains(&scope) || matches!(scope, "PriorityClass" | "VolumeAttributesClass")
}

/// Requests that may be larger than the limits of the same resource.
fn more_requested_than_limited(hard: Option<&Value>) -> Vec<String> {
    let of = |name: String| hard.at(&name).and_then(quantity).map(|amount| (name, amount));
    let told = |resource: &str| {
        let bare = || of(resource.to_owned()).filter(|_| matches!(resource, "cpu" | "memory"));
        let (request, asked) = of(format!("requests.{resource}")).or_else(bare)?;
        let (limit, most) = of(format!("limits.{resource}"))?;
        (asked > most).then(|| format!("ResourceQuota {request} ({asked}) should be less than {limit} ({most})"))
    };
    ["cpu", "memory", "storage", "ephemeral-storage"].into_iter().filter_map(told).collect()
}

/// Whether a scope means anything for each of the quota's resources without a domain.
fn misfits<'v>(hard: Option<&'v Value>, scope: &str) -> impl Iterator<Item = &'v str> {
    let counts_pods = matches!(scope, "Terminating" | "NotTerminating" | "NotBestEffort" | "PriorityClass" | "CrossNamespacePodAffinity");
    let scope = scope.to_owned();
    let names: BTreeSet<&str> = hard.and_then(Value::as_object).into_iter().flatten().map(|(name, _)| name.as_str()).collect();
    names.into_iter().filter(move |name| {
        let fits = match scope.as_str() {
            "BestEffort" => *name == "pods",
            "VolumeAttributesClass" => matches!(*name, "persistentvolumeclaims" | "requests.storage"),
            _ if counts_pods => *name == "pods" || COMPUTE.contains(name),
            _ => true,
        };
        is_standard_of_quota(name) && !fits
    })
}

/// `validateResourceQuotaScopes`
fn scopes(spec: Option<&Value>, path: Path<'_>, causes: &mut FieldErrors) {
    let all: Vec<&str> = spec.list("scopes").iter().filter_map(Value::as_str).collect();
    let shown = || Value::from(all.clone());
    for scope in &all {
        if !is_scope(scope) {
            causes.invalid(path, shown(), "unsupported scope");
        }
        misfits(spec.at("hard"), scope).for_each(|_| causes.invalid(path, shown(), "unsupported scope applied to resource"));
    }
    conflicts(&all, &shown(), path, causes);
}

fn conflicts(all: &[&str], shown: &Value, path: Path<'_>, causes: &mut FieldErrors) {
    for _ in CONFLICTS.iter().filter(|pair| pair.iter().all(|scope| all.contains(scope))) {
        causes.invalid(path, shown.clone(), "conflicting scopes");
    }
}

/// `validateScopedResourceSelectorRequirement`
fn selector(spec: Option<&Value>, path: Path<'_>, causes: &mut FieldErrors) {
    let expressions = spec.at("scopeSelector").list("matchExpressions");
    let path = path.field("matchExpressions");
    let shown = || {
        let one = |e: &Value| json!({"ScopeName": e.text("scopeName"), "Operator": e.text("operator"), "Values": e.at("values")});
        json!({"MatchExpressions": expressions.iter().map(one).collect::<Vec<_>>()})
    };
    for expression in expressions {
        let (scope, operator, values) = (expression.text("scopeName"), expression.text("operator"), expression.list("values"));
        if !is_scope(scope) {
            causes.invalid(path.field("scopeName"), scope, "unsupported scope");
        }
        misfits(spec.at("hard"), scope).for_each(|_| causes.invalid(path, shown(), "unsupported scope applied to resource"));
        if PLAIN_SCOPES.contains(&scope) && operator != "Exists" {
            causes.invalid(path.field("operator"), operator, PLAIN);
        }
        match operator {
            "In" | "NotIn" if values.is_empty() => {
                causes.required(path.field("values"), "must be at least one value when `operator` is 'In' or 'NotIn' for scope selector");
            }
            "Exists" | "DoesNotExist" if !values.is_empty() => {
                let text = "must be no value when `operator` is 'Exist' or 'DoesNotExist' for scope selector";
                causes.invalid(path.field("values"), values.to_vec(), text);
            }
            "In" | "NotIn" | "Exists" | "DoesNotExist" => {}
            other => causes.invalid(path.field("operator"), other, "not a valid selector operator"),
        }
    }
    let all: Vec<&str> = expressions.iter().map(|e| e.text("scopeName")).collect();
    conflicts(&all, &spec.at("scopes").cloned().unwrap_or(Value::Null), path, causes);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn causes(spec: Value) -> Vec<String> {
        let mut object = json!({"metadata": {"name": "q"}, "spec": spec});
        ResourceQuotas.default(&mut object);
        let mut causes = FieldErrors::default();
        ResourceQuotas.validate(&object, &mut causes);
        causes.0.iter().map(|c| c.text()).collect()
    }

    #[test]
    fn names_amounts_and_scopes_have_rules() {
        let fine = json!({"hard": {"cpu": "1", "pods": "5", "count/deployments.apps": "2", "requests.example.com/gpu": "1", "requests.hugepages-2Mi": "1Gi",
            "gold.storageclass.storage.k8s.io/requests.storage": "1Gi"}});
        assert_eq!(causes(fine), Vec::<String>::new());
        let cases = [
            (json!({"hard": {"pods": "-1"}}), vec![r#"spec.hard[pods]: Invalid value: "-1": must be greater than or equal to 0"#]),
            (json!({"hard": {"pods": "1500m"}}), vec![r#"spec.hard[pods]: Invalid value: "1500m": must be an integer"#]),
            (
                json!({"hard": {"bikes": "1"}}),
                vec![
                    r#"spec.hard[bikes]: Invalid value: "bikes": must be a standard resource type or fully qualified"#,
                    r#"spec.hard[bikes]: Invalid value: "bikes": must be a standard resource for quota"#,
                ],
            ),
            (json!({"scopes": ["Sometimes"]}), vec![r#"spec.scopes: Invalid value: ["Sometimes"]: unsupported scope"#]),
            (
                json!({"scopes": ["BestEffort", "NotBestEffort"]}),
                vec![r#"spec.scopes: Invalid value: ["BestEffort","NotBestEffort"]: conflicting scopes"#],
            ),
            (
                json!({"hard": {"cpu": "1"}, "scopes": ["BestEffort"]}),
                vec![r#"spec.scopes: Invalid value: ["BestEffort"]: unsupported scope applied to resource"#],
            ),
        ];
        for (spec, wanted) in cases {
            assert_eq!(causes(spec), wanted);
        }
    }

    #[test]
    fn requests_above_limits_are_warned_of() {
        let told = |hard: Value| ResourceQuotas.warnings(&json!({"spec": {"hard": hard}}), None);
        assert_eq!(told(json!({"cpu": "2", "limits.cpu": "1"})), ["ResourceQuota cpu (2) should be less than limits.cpu (1)"]);
        let both = json!({"cpu": "2", "requests.cpu": "1", "limits.cpu": "1", "requests.memory": "2Gi", "limits.memory": "1Gi"});
        assert_eq!(told(both), ["ResourceQuota requests.memory (2Gi) should be less than limits.memory (1Gi)"]);
    }

    #[test]
    fn selectors_have_rules() {
        let at = "spec.scopeSelector.matchExpressions";
        let cases = [
            (json!({"scopeName": "PriorityClass", "operator": "In", "values": ["a"]}), vec![]),
            (
                json!({"scopeName": "PriorityClass", "operator": "In"}),
                vec![format!(
                    "{at}.values: Required value: must be at least one value when `operator` is 'In' or 'NotIn' for scope selector"
                )],
            ),
            (
                json!({"scopeName": "BestEffort", "operator": "In", "values": ["a"]}),
                vec![format!("{at}.operator: Invalid value: \"In\": {PLAIN}")],
            ),
            (
                json!({"scopeName": "X", "operator": "Near"}),
                vec![
                    format!("{at}.scopeName: Invalid value: \"X\": unsupported scope"),
                    format!("{at}.operator: Invalid value: \"Near\": not a valid selector operator"),
                ],
            ),
        ];
        for (expression, wanted) in cases {
            assert_eq!(causes(json!({"scopeSelector": {"matchExpressions": [expression]}})), wanted);
        }
    }

    #[test]
    fn scopes_stay_and_cells_are_upstreams() {
        let quota = |scopes: Value| json!({"metadata": {"name": "q"}, "spec": {"scopes": scopes}});
        let mut found = FieldErrors::default();
        ResourceQuotas.validate_update(&quota(json!(["Terminating"])), &quota(json!(["BestEffort"])), &mut found);
        assert_eq!(found.0[0].text(), r#"spec.scopes: Invalid value: ["Terminating"]: field is immutable"#);
        let mut shown = quota(json!([]));
        shown["status"] = json!({"hard": {"pods": "3", "limits.cpu": "2", "cpu": "1"}, "used": {"pods": "1"}});
        let cells = ResourceQuotas.cells(&shown, Timestamp::UNIX_EPOCH);
        assert_eq!(Value::from(cells), json!(["q", "cpu: 0/1, pods: 1/3", "limits.cpu: 0/2", "<unknown>"]));
    }
}
