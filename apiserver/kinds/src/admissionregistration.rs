//! What webhooks and policies of admission share: which requests they are about. Source: `pkg/apis/admissionregistration/validation`, and its defaults.

pub mod bindings;
pub mod policies;
pub mod webhooks;

use std::collections::HashSet;

use api::field_errors::FieldErrors;
use apiserver::kind::{Finalizers, Kind, Scope, Strategy, names};
use serde_json::{Value, json};

use crate::{
    admission::expressions::{Asks, Environment, Wanted},
    common::{
        self, Path, Read,
        edit::{child, default_to, each},
        name_rules, selector, well_formed,
    },
};

const GROUP: &str = "admissionregistration.k8s.io";
const STATIC: &str = ".static.k8s.io";
const FAILURE_POLICIES: &[&str] = &["Fail", "Ignore"];
const MATCH_POLICIES: &[&str] = &["Equivalent", "Exact"];
const REINVOCATION_POLICIES: &[&str] = &["IfNeeded", "Never"];
const SCOPES: &[&str] = &["*", "Cluster", "Namespaced"];
const OPERATIONS: &[&str] = &["*", "CONNECT", "CREATE", "DELETE", "UPDATE"];
/// What is deleted is not changed.
const MUTATING_OPERATIONS: &[&str] = &["*", "CONNECT", "CREATE", "UPDATE"];
const CONDITIONS: usize = 64;

fn kind(name: &'static str, plural: &'static str, strategy: impl Strategy + 'static) -> Kind {
    Kind {
        scope: Scope::Cluster,
        categories: names(&["api-extensions"]),
        generation: true,
        finalizers: Finalizers::Any,
        ..common::kind(GROUP, "v1", name, plural, "io.k8s.api.admissionregistration.v1", strategy)
    }
}

/// `WarningsForStaticSuffix`
fn warnings(object: &Value) -> Vec<String> {
    if !common::read::name(object).ends_with(STATIC) {
        return Vec::new();
    }
    let why = "are reserved for static manifest-based configurations and cannot be managed via the API";
    vec![format!("metadata.name: names ending with {STATIC:?} {why}")]
}

/// `SetDefaults_Rule` of each rule under `field`.
fn default_rules(object: &mut Value, field: &str) {
    each(object, field).for_each(|rule| default_to(rule, "scope", "*"));
}

/// `SetDefaults_MatchResources`, and of its rules.
fn default_match(spec: &mut Value, field: &str) {
    let Some(resources) = child(spec, field) else { return };
    default_to(resources, "matchPolicy", "Equivalent");
    for selector in ["namespaceSelector", "objectSelector"] {
        default_to(resources, selector, json!({}));
    }
    for rules in ["resourceRules", "excludeResourceRules"] {
        default_rules(resources, rules);
    }
}

/// One of the words, if there is one at all.
fn word(of: Option<&Value>, field: &str, allowed: &[&str], path: Path<'_>, causes: &mut FieldErrors) {
    if let Some(found) = of.at(field).and_then(Value::as_str).filter(|found| !allowed.contains(found)) {
        causes.not_supported(path.field(field), found, allowed);
    }
}

/// One of the words, which must be there.
fn required_word(of: Option<&Value>, field: &str, allowed: &[&str], path: Path<'_>, causes: &mut FieldErrors) {
    match of.at(field) {
        None => causes.required(path.field(field), ""),
        Some(_) => word(of, field, allowed, path, causes),
    }
}

/// `validateMatchResources`; absent is fine.
fn match_resources(resources: Option<&Value>, path: Path<'_>, causes: &mut FieldErrors) {
    if resources.is_none() {
        return;
    }
    required_word(resources, "matchPolicy", MATCH_POLICIES, path, causes);
    for field in ["namespaceSelector", "objectSelector"] {
        match resources.at(field) {
            None => causes.required(path.field(field), ""),
            found => selector::well_formed(found, path.field(field), causes),
        }
    }
    for field in ["resourceRules", "excludeResourceRules"] {
        let list = path.field(field);
        for (i, rule) in resources.list(field).iter().enumerate() {
            resource_names(rule.list("resourceNames"), list.index(i).field("resourceNames"), causes);
            operations(rule, list.index(i), causes);
        }
    }
}

/// Operations that change nothing, of a policy that changes objects.
fn mutating_operations(resources: Option<&Value>, path: Path<'_>, causes: &mut FieldErrors) {
    let of_rules = resources.list("resourceRules").iter().flat_map(|rule| rule.list("operations"));
    for operation in of_rules.filter_map(Value::as_str).filter(|op| !MUTATING_OPERATIONS.contains(op)) {
        causes.not_supported(path.field("resourceRules").field("operations"), operation, MUTATING_OPERATIONS);
    }
}

fn resource_names(list: &[Value], path: Path<'_>, causes: &mut FieldErrors) {
    let mut seen = HashSet::new();
    for (i, name) in list.iter().filter_map(Value::as_str).enumerate() {
        well_formed(name, name_rules::path_segment(name), path.index(i), causes);
        if !seen.insert(name) {
            causes.duplicate(path.index(i), name);
        }
    }
}

/// `validateRuleWithOperations`
fn operations(rule: &Value, path: Path<'_>, causes: &mut FieldErrors) {
    let (found, at) = (rule.list("operations"), path.field("operations"));
    alone(found, "operations", at, causes);
    for (i, operation) in found.iter().filter_map(Value::as_str).enumerate().filter(|(_, op)| !OPERATIONS.contains(op)) {
        causes.not_supported(at.index(i), operation, OPERATIONS);
    }
    alone(rule.list("apiGroups"), "API groups", path.field("apiGroups"), causes);
    let (versions, at) = (rule.list("apiVersions"), path.field("apiVersions"));
    alone(versions, "API versions", at, causes);
    for (i, _) in versions.iter().enumerate().filter(|(_, version)| *version == "") {
        causes.required(at.index(i), "");
    }
    resources(rule.list("resources"), path.field("resources"), causes);
    word(Some(rule), "scope", SCOPES, path, causes);
}

/// `validateCELCondition`
fn compiles(environment: &Environment<'_>, text: &str, wanted: Wanted, asks: Asks, path: Path<'_>, causes: &mut FieldErrors) {
    if let Err(why) = environment.compile(text, wanted, asks) {
        causes.invalid(path, text, &why);
    }
}

/// A list that must not be empty, and in which `*` stands alone.
fn alone(list: &[Value], what: &str, path: Path<'_>, causes: &mut FieldErrors) {
    if list.is_empty() {
        causes.required(path, "");
    }
    if list.len() > 1 && list.iter().any(|member| member == "*") {
        causes.invalid(path, Value::from(list.to_vec()), &format!("if '*' is present, must not specify other {what}"));
    }
}

/// `validateResources`
fn resources(list: &[Value], path: Path<'_>, causes: &mut FieldErrors) {
    if list.is_empty() {
        causes.required(path, "");
    }
    let (mut whole, mut parts) = (HashSet::new(), HashSet::new());
    let (mut has_all_parts, mut has_all, mut has_bare) = (false, false, false);
    for (i, text) in list.iter().filter_map(Value::as_str).enumerate() {
        has_all_parts |= text == "*/*";
        has_all |= text == "*";
        if text.is_empty() {
            causes.required(path.index(i), "");
            continue;
        }
        let Some((resource, part)) = text.split_once('/') else {
            // As upstream: the last one without a part decides.
            has_bare = text != "*";
            continue;
        };
        if whole.contains(resource) {
            causes.invalid(path.index(i), text, &format!("if '{resource}/*' is present, must not specify {text}"));
        }
        if parts.contains(part) {
            causes.invalid(path.index(i), text, &format!("if '*/{part}' is present, must not specify {text}"));
        }
        if part == "*" {
            whole.insert(resource);
        }
        if resource == "*" {
            parts.insert(part);
        }
    }
    let shown = || Value::from(list.to_vec());
    if list.len() > 1 && has_all_parts {
        causes.invalid(path, shown(), "if '*/*' is present, must not specify other resources");
    }
    if has_all && has_bare {
        causes.invalid(path, shown(), "if '*' is present, must not specify other resources without subresources");
    }
}

/// `validateMatchConditions`
fn match_conditions(list: &[Value], environment: &Environment<'_>, path: Path<'_>, causes: &mut FieldErrors) {
    if list.len() > CONDITIONS {
        causes.too_many(path, list.len(), CONDITIONS);
    }
    let mut seen = HashSet::new();
    for (i, condition) in list.iter().enumerate() {
        let (at, name) = (path.index(i), condition.text("name"));
        match condition.text("expression").trim() {
            "" => causes.required(at.field("expression"), ""),
            text => compiles(environment, text, Wanted::Bool, Asks::Authorizer, at.field("expression"), causes),
        }
        match name {
            "" => causes.required(at.field("name"), ""),
            name => {
                well_formed(name, name_rules::qualified(name), at.field("name"), causes);
                if !seen.insert(name) {
                    causes.duplicate(at.field("name"), name);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(check: impl FnOnce(&mut FieldErrors)) -> Vec<String> {
        let mut causes = FieldErrors::default();
        check(&mut causes);
        causes.0.iter().map(|c| c.text()).collect()
    }

    #[test]
    fn rules_say_each_thing_once() {
        let rule = |resources: Value| json!({"operations": ["CREATE"], "apiGroups": [""], "apiVersions": ["v1"], "resources": resources});
        let words = |list: &str, text: &str| format!("r.resources: Invalid value: {list}: {text}");
        let cases: Vec<(Value, Vec<String>)> = vec![
            (rule(json!(["pods", "pods/status"])), vec![]),
            (rule(json!(["*", "*/status"])), vec![]),
            (
                json!({"operations": ["*", "GET"], "apiGroups": ["*", "a"], "apiVersions": [""], "scope": "Town"}),
                vec![
                    r#"r.operations: Invalid value: ["*","GET"]: if '*' is present, must not specify other operations"#.into(),
                    r#"r.operations[1]: Unsupported value: "GET": supported values: "*", "CONNECT", "CREATE", "DELETE", "UPDATE""#.into(),
                    r#"r.apiGroups: Invalid value: ["*","a"]: if '*' is present, must not specify other API groups"#.into(),
                    "r.apiVersions[0]: Required value".into(),
                    "r.resources: Required value".into(),
                    r#"r.scope: Unsupported value: "Town": supported values: "*", "Cluster", "Namespaced""#.into(),
                ],
            ),
            (
                rule(json!(["*", "pods"])),
                vec![words(r#"["*","pods"]"#, "if '*' is present, must not specify other resources without subresources")],
            ),
            (
                rule(json!(["*/*", "pods/*", "pods/log", "a/log", ""])),
                vec![
                    "r.resources[1]: Invalid value: \"pods/*\": if '*/*' is present, must not specify pods/*".into(),
                    "r.resources[2]: Invalid value: \"pods/log\": if 'pods/*' is present, must not specify pods/log".into(),
                    "r.resources[4]: Required value".into(),
                    words(r#"["*/*","pods/*","pods/log","a/log",""]"#, "if '*/*' is present, must not specify other resources"),
                ],
            ),
        ];
        for (of, wanted) in cases {
            assert_eq!(texts(|c| operations(&of, Path::new("r"), c)), wanted, "{of}");
        }
    }

    #[test]
    fn conditions_have_names_of_their_own() {
        let list = [json!({"name": "a", "expression": "true"}), json!({"name": "a", "expression": " "}), json!({"expression": "1 == 1"})];
        let wanted = ["c[1].expression: Required value", "c[1].name: Duplicate value: \"a\"", "c[2].name: Required value"];
        let environment = Environment::new();
        assert_eq!(texts(|c| match_conditions(&list, &environment, Path::new("c"), c)), wanted);
        let many: Vec<Value> = (0..65).map(|i| json!({"name": format!("a{i}"), "expression": "true"})).collect();
        assert_eq!(texts(|c| match_conditions(&many, &environment, Path::new("c"), c)), ["c: Too many: 65: must have at most 64 items"]);
    }

    #[test]
    fn what_is_matched_is_whole() {
        let mut spec = json!({"matchResources": {"resourceRules": [{"resourceNames": ["a", "a", ".."]}]}});
        default_match(&mut spec, "matchResources");
        assert_eq!(spec["matchResources"]["resourceRules"][0]["scope"], "*");
        let found = texts(|c| match_resources(spec.at("matchResources"), Path::new("m"), c));
        assert_eq!(
            found[..2],
            [
                "m.resourceRules[0].resourceNames[1]: Duplicate value: \"a\"",
                "m.resourceRules[0].resourceNames[2]: Invalid value: \"..\": may not be '..'"
            ]
        );
        assert_eq!(texts(|c| match_resources(None, Path::new("m"), c)), Vec::<String>::new());
        assert_eq!(texts(|c| match_resources(Some(&json!({})), Path::new("m"), c)).len(), 3);
    }
}
