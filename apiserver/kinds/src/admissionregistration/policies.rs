//! ValidatingAdmissionPolicy and MutatingAdmissionPolicy: the strategy of rules in CEL about what may be stored, and of changes before it is. Source:
//! `pkg/registry/admissionregistration`, `validateValidatingAdmissionPolicySpec`, `validateMutatingAdmissionPolicySpec`.

use std::{borrow::Cow, collections::HashSet};

use api::{field_errors::FieldErrors, time::Timestamp};
use apiserver::kind::{Column, Ctx, Kind, MetaCheck, Strategy};
use cel::T;
use serde_json::Value;

use super::{
    FAILURE_POLICIES, REINVOCATION_POLICIES, compiles, default_match, match_conditions, match_resources, mutating_operations,
    required_word, word,
};
use crate::{
    admission::{
        expressions::{Asks, Environment, Wanted},
        policies::policy::{BOUNDED, EXPRESSIONS_MAX},
    },
    common::{
        self, Path, Read, conditions,
        edit::{default_to, keep_metadata, make_child, set},
        name_rules, read, table, well_formed,
    },
};

const SPEC: Path<'static> = Path::new("spec");
const REASONS: &[&str] = &["Forbidden", "Invalid", "RequestEntityTooLarge"];
const PATCHES: &[&str] = &["ApplyConfiguration", "JSONPatch"];
const ANNOTATIONS: usize = 20;
const VALUE_BYTES: usize = 5 << 10;
const NO_RULES: &str = "validations or auditAnnotations must contain at least one item";
const PARAM_KIND: Column =
    table::column("ParamKind", "string", "ParamKind specifies the kind of resources used to parameterize this policy");
const VALIDATING: &[Column] = &[
    table::NAME_COLUMN,
    table::column("Validations", "integer", "Validations indicates the number of validation rules defined in this configuration"),
    PARAM_KIND,
    table::AGE_COLUMN,
];
const MUTATING: &[Column] = &[
    table::NAME_COLUMN,
    table::column("Mutations", "integer", "Mutation indicates the number of mutations rules defined in this configuration"),
    PARAM_KIND,
    table::AGE_COLUMN,
];

pub fn validating() -> Kind {
    Kind {
        subresources: vec![common::status(super::GROUP, "v1", "ValidatingAdmissionPolicy")],
        columns: Cow::Borrowed(VALIDATING),
        ..super::kind("ValidatingAdmissionPolicy", "validatingadmissionpolicies", ValidatingPolicies)
    }
}

pub fn mutating() -> Kind {
    let kind = super::kind("MutatingAdmissionPolicy", "mutatingadmissionpolicies", MutatingPolicies);
    Kind { columns: Cow::Borrowed(MUTATING), ..kind }
}

struct ValidatingPolicies;
struct MutatingPolicies;

impl Strategy for ValidatingPolicies {
    fn unconditional_update(&self) -> bool {
        false
    }

    fn meta_check(&self) -> MetaCheck {
        MetaCheck::Create
    }

    fn default(&self, object: &mut Value) {
        default_policy(object);
    }

    fn prepare_create(&self, _ctx: &Ctx<'_>, object: &mut Value) {
        set(object, "status", serde_json::json!({}));
    }

    fn prepare_subresource(&self, _ctx: &Ctx<'_>, new: &mut Value, old: &Value) {
        keep_metadata(new, old);
    }

    fn validate_create(&self, object: &Value, causes: &mut FieldErrors) {
        let Some(environment) = policy(object, None, causes) else { return };
        rules(object, &environment, causes);
    }

    fn validate_update(&self, new: &Value, old: &Value, causes: &mut FieldErrors) {
        let Some(environment) = policy(new, Some(old), causes) else { return };
        rules(new, &environment, causes);
    }

    fn validate_subresource(&self, _subresource: &str, new: &Value, _old: &Value, causes: &mut FieldErrors) {
        let (status, list) = (new.at("status"), Path::new("status.typeChecking.expressionWarnings"));
        for (i, warning) in status.at("typeChecking").list("expressionWarnings").iter().enumerate() {
            for field in ["warning", "fieldRef"] {
                if warning.text(field).trim().is_empty() {
                    causes.required(list.index(i).field(field), "");
                }
            }
        }
        conditions::validate(status.list("conditions"), Path::new("status.conditions"), causes);
    }

    fn warnings(&self, new: &Value, _old: Option<&Value>) -> Vec<String> {
        super::warnings(new)
    }

    fn cells(&self, object: &Value, now: Timestamp) -> Vec<Value> {
        cells(object, "validations", now)
    }
}

impl Strategy for MutatingPolicies {
    fn unconditional_update(&self) -> bool {
        false
    }

    fn meta_check(&self) -> MetaCheck {
        MetaCheck::Create
    }

    fn default(&self, object: &mut Value) {
        default_policy(object);
    }

    fn validate_create(&self, object: &Value, causes: &mut FieldErrors) {
        let Some(environment) = policy(object, None, causes) else { return };
        mutations(object.at("spec"), environment, causes);
    }

    fn validate_update(&self, new: &Value, old: &Value, causes: &mut FieldErrors) {
        let Some(environment) = policy(new, Some(old), causes) else { return };
        mutations(new.at("spec"), environment, causes);
    }

    fn warnings(&self, new: &Value, _old: Option<&Value>) -> Vec<String> {
        super::warnings(new)
    }

    fn cells(&self, object: &Value, now: Timestamp) -> Vec<Value> {
        cells(object, "mutations", now)
    }
}

fn default_policy(object: &mut Value) {
    if let Some(spec) = make_child(object, "spec") {
        default_to(spec, "failurePolicy", "Fail");
        default_match(spec, "matchConstraints");
    }
}

fn cells(object: &Value, field: &str, now: Timestamp) -> Vec<Value> {
    let spec = object.at("spec");
    let params = spec.at("paramKind").map(|kind| format!("{}/{}", kind.text("apiVersion"), kind.text("kind")));
    let params = params.unwrap_or_else(|| "<unset>".into());
    vec![read::name(object).into(), spec.list(field).len().into(), params.into(), table::age(object, now)]
}

/// What both have: when they fail, what they are about, conditions and variables. What their expressions may name comes back; nothing where there
/// are too many of them, of which none is compiled.
fn policy(object: &Value, old: Option<&Value>, causes: &mut FieldErrors) -> Option<Environment<'static>> {
    let spec = object.at("spec");
    if is_too_long(spec, old, causes) {
        return None;
    }
    required_word(spec, "failurePolicy", FAILURE_POLICIES, SPEC, causes);
    if let Some(kind) = spec.at("paramKind") {
        param_kind(kind, SPEC.field("paramKind"), causes);
    }
    let (constraints, at) = (spec.at("matchConstraints"), SPEC.field("matchConstraints"));
    match constraints {
        None => causes.required(at, ""),
        Some(_) => {
            match_resources(constraints, at, causes);
            if constraints.list("resourceRules").is_empty() {
                causes.required(at.field("resourceRules"), "");
            }
        }
    }
    let params = || spec.at("paramKind").map(|_| T::Dyn);
    let is_old = |field: &str| old.is_some_and(|old| read::same(spec.at(field), old.at("spec").at(field)));
    if !(is_old("paramKind") && is_old("matchConditions")) {
        let environment = Environment::new().with_params(params());
        match_conditions(spec.list("matchConditions"), &environment, SPEC.field("matchConditions"), causes);
    }
    let mut environment = Environment::new().with_params(params());
    let variables = spec.list("variables");
    if !variables.is_empty() {
        environment = environment.composing();
    }
    for (i, variable) in variables.iter().enumerate() {
        self::variable(variable, &mut environment, SPEC.field("variables").index(i), causes);
    }
    Some(environment)
}

/// Whether there are more expressions than are compiled. What another server stored so keeps its spec, and may have its metadata changed.
fn is_too_long(spec: Option<&Value>, old: Option<&Value>, causes: &mut FieldErrors) -> bool {
    let is_kept = old.is_some_and(|old| read::same(spec, old.at("spec")));
    let mut is_too_long = false;
    for field in BOUNDED {
        let count = spec.list(field).len();
        if count > EXPRESSIONS_MAX {
            is_too_long = true;
            if !is_kept {
                causes.too_many(SPEC.field(field), count, EXPRESSIONS_MAX);
            }
        }
    }
    is_too_long
}

fn variable(variable: &Value, environment: &mut Environment<'_>, path: Path<'_>, causes: &mut FieldErrors) {
    let name = variable.text("name");
    if name.trim().is_empty() {
        causes.required(path.field("name"), "name is not specified");
    } else if !is_identifier(name) {
        causes.invalid(path.field("name"), name, "must be a valid CEL identifier");
    }
    let text = variable.text("expression");
    if is_there(variable, "expression", path, causes)
        && let Err(why) = environment.variable(name, text)
    {
        causes.invalid(path.field("expression"), text, &why);
    }
}

/// Whether an expression is there, which must be.
fn is_there(of: &Value, field: &str, path: Path<'_>, causes: &mut FieldErrors) -> bool {
    let is_there = !of.text(field).trim().is_empty();
    if !is_there {
        causes.required(path.field(field), &format!("{field} is not specified"));
    }
    is_there
}

fn is_identifier(name: &str) -> bool {
    let is_word = |b: u8| b == b'_' || b.is_ascii_alphanumeric();
    name.bytes().all(is_word) && !name.starts_with(|c: char| c.is_ascii_digit()) && !cel::is_reserved(name)
}

/// `validateParamKind`
fn param_kind(kind: &Value, path: Path<'_>, causes: &mut FieldErrors) {
    let (at, text) = (path.field("apiVersion"), kind.text("apiVersion"));
    let (group, version) = text.split_once('/').unwrap_or(("", text));
    if text.is_empty() {
        causes.required(at, "");
    } else if version.contains('/') {
        causes.invalid(at, text, &format!("unexpected GroupVersion string: {text}"));
    } else {
        let mut joined = |value: &str, errors: Vec<String>| {
            if !errors.is_empty() {
                causes.invalid(at, value, &errors.join(","));
            }
        };
        if !group.is_empty() {
            joined(group, name_rules::dns_subdomain(group));
        }
        match version {
            "" => causes.invalid(at, text, "version must be specified"),
            version => joined(version, name_rules::dns_1035_label(version)),
        }
    }
    let (at, name) = (path.field("kind"), kind.text("kind"));
    let errors = name_rules::dns_1035_label(&name.to_lowercase());
    match name {
        "" => causes.required(at, ""),
        _ if errors.is_empty() => {}
        name => causes.invalid(at, name, &format!("may have mixed case, but should otherwise match: {}", errors.join(","))),
    }
}

/// The rules of a validating policy.
fn rules(object: &Value, environment: &Environment<'_>, causes: &mut FieldErrors) {
    let spec = object.at("spec");
    let (validations, annotations) = (spec.list("validations"), spec.list("auditAnnotations"));
    let (list, audits) = (SPEC.field("validations"), SPEC.field("auditAnnotations"));
    if validations.is_empty() && annotations.is_empty() {
        causes.required(list, NO_RULES);
        return causes.required(audits, NO_RULES);
    }
    for (i, validation) in validations.iter().enumerate() {
        self::validation(validation, environment, list.index(i), causes);
    }
    if annotations.len() > ANNOTATIONS {
        let text = format!("must not have more than {ANNOTATIONS} auditAnnotations");
        causes.invalid(audits, Value::from(annotations.to_vec()), &text);
    }
    let mut seen = HashSet::new();
    for (i, annotation) in annotations.iter().enumerate() {
        self::annotation(annotation, read::name(object), environment, audits.index(i), causes);
        if !seen.insert(annotation.text("key")) {
            causes.duplicate(audits.index(i).field("key"), annotation.text("key"));
        }
    }
}

fn validation(validation: &Value, environment: &Environment<'_>, path: Path<'_>, causes: &mut FieldErrors) {
    if is_there(validation, "expression", path, causes) {
        compiles(environment, validation.text("expression"), Wanted::Bool, Asks::Authorizer, path.field("expression"), causes);
    }
    let blank = |text: &str| !text.is_empty() && text.trim().is_empty();
    let (message, computed) = (validation.text("message"), validation.text("messageExpression"));
    if blank(computed) {
        causes.invalid(path.field("messageExpression"), computed, "must be non-empty if specified");
    } else if !computed.is_empty() {
        compiles(environment, computed, Wanted::Text, Asks::Nobody, path.field("messageExpression"), causes);
    }
    if blank(message) {
        causes.invalid(path.field("message"), message, "must be non-empty if specified");
    } else if message.trim().contains(['\n', '\r']) {
        causes.invalid(path.field("message"), message, "must not contain line breaks");
    }
    word(Some(validation), "reason", REASONS, path, causes);
}

fn annotation(annotation: &Value, policy: &str, environment: &Environment<'_>, path: Path<'_>, causes: &mut FieldErrors) {
    let (key, value) = (annotation.text("key"), annotation.text("valueExpression").trim());
    if policy.is_empty() {
        causes.invalid(path.field("key"), key, "requires metadata.name be non-empty");
    } else {
        let full = format!("{policy}/{key}");
        well_formed(&full, name_rules::qualified(&full), path.field("key"), causes);
    }
    if value.len() > VALUE_BYTES {
        causes.required(path.field("valueExpression"), &format!("must not exceed {VALUE_BYTES} bytes in length"));
    } else if is_there(annotation, "valueExpression", path, causes) {
        compiles(environment, value, Wanted::TextOrNull, Asks::Authorizer, path.field("valueExpression"), causes);
    }
}

/// The changes of a mutating policy.
fn mutations(spec: Option<&Value>, mut environment: Environment<'_>, causes: &mut FieldErrors) {
    // Without variables, too, there is the word for them.
    environment = environment.composing();
    environment.make_patches();
    mutating_operations(spec.at("matchConstraints"), SPEC.field("matchConstraints"), causes);
    let (mutations, list) = (spec.list("mutations"), SPEC.field("mutations"));
    if mutations.is_empty() {
        causes.required(list, "mutations must contain at least one item");
    }
    for (i, mutation) in mutations.iter().enumerate() {
        self::mutation(mutation, &environment, list.index(i), causes);
    }
    match spec.text("reinvocationPolicy") {
        "" => causes.required(SPEC.field("reinvocationPolicy"), ""),
        _ => word(spec, "reinvocationPolicy", REINVOCATION_POLICIES, SPEC, causes),
    }
}

fn mutation(mutation: &Value, environment: &Environment<'_>, path: Path<'_>, causes: &mut FieldErrors) {
    let kind = mutation.text("patchType");
    let (own, other, wanted) = match kind {
        "" => return causes.required(path.field("patchType"), ""),
        "JSONPatch" => ("jsonPatch", "applyConfiguration", Wanted::Patches),
        "ApplyConfiguration" => ("applyConfiguration", "jsonPatch", Wanted::Object),
        kind => return causes.not_supported(path.field("patchType"), kind, PATCHES),
    };
    match mutation.at(own) {
        None => causes.required(path.field(own), &format!("must be specified when patchType is {kind}")),
        Some(patch) => match patch.text("expression").trim() {
            "" => causes.required(path.field(own).field("expression"), ""),
            text => compiles(environment, text, wanted, Asks::Authorizer, path.field(own).field("expression"), causes),
        },
    }
    if mutation.at(other).is_some() {
        causes.invalid(path.field(other), format!("{{{other}}}"), &format!("must not be specified when patchType is {kind}"));
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn of(more: Value) -> Value {
        let rule = json!({"operations": ["CREATE"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods"]});
        let mut spec = json!({"matchConstraints": {"resourceRules": [rule]}});
        spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let mut object = json!({"metadata": {"name": "p"}, "spec": spec});
        default_policy(&mut object);
        object
    }

    fn texts(check: impl FnOnce(&mut FieldErrors)) -> Vec<String> {
        let mut causes = FieldErrors::default();
        check(&mut causes);
        causes.0.iter().map(|c| c.text()).collect()
    }

    #[test]
    fn a_validating_policy_has_rules() {
        let one = json!([{"expression": "true"}]);
        let cases: Vec<(Value, &[&str])> = vec![
            (json!({"validations": one}), &[]),
            (
                json!({"matchConstraints": null}),
                &[
                    "spec.matchConstraints: Required value",
                    "spec.validations: Required value: validations or auditAnnotations must contain at least one item",
                    "spec.auditAnnotations: Required value: validations or auditAnnotations must contain at least one item",
                ],
            ),
            (
                json!({"validations": [{"message": "a\nb", "messageExpression": " ", "reason": "Bad"}], "failurePolicy": "Shrug"}),
                &[
                    r#"spec.failurePolicy: Unsupported value: "Shrug": supported values: "Fail", "Ignore""#,
                    "spec.validations[0].expression: Required value: expression is not specified",
                    "spec.validations[0].messageExpression: Invalid value: \" \": must be non-empty if specified",
                    "spec.validations[0].message: Invalid value: \"a\\nb\": must not contain line breaks",
                    r#"spec.validations[0].reason: Unsupported value: "Bad": supported values: "Forbidden", "Invalid", "RequestEntityTooLarge""#,
                ],
            ),
            (
                json!({"validations": one, "variables": [{"name": "a-b"}, {"name": "in", "expression": "1"}],
                    "paramKind": {"apiVersion": "a/b/c"}}),
                &[
                    "spec.paramKind.apiVersion: Invalid value: \"a/b/c\": unexpected GroupVersion string: a/b/c",
                    "spec.paramKind.kind: Required value",
                    "spec.variables[0].name: Invalid value: \"a-b\": must be a valid CEL identifier",
                    "spec.variables[0].expression: Required value: expression is not specified",
                    "spec.variables[1].name: Invalid value: \"in\": must be a valid CEL identifier",
                ],
            ),
            (
                json!({"auditAnnotations": [{"key": "a", "valueExpression": "'x'"}, {"key": "a", "valueExpression": ""}]}),
                &[
                    "spec.auditAnnotations[1].valueExpression: Required value: valueExpression is not specified",
                    "spec.auditAnnotations[1].key: Duplicate value: \"a\"",
                ],
            ),
        ];
        for (more, wanted) in cases {
            let object = of(more);
            assert_eq!(texts(|c| ValidatingPolicies.validate_create(&object, c)), wanted, "{object}");
        }
    }

    #[test]
    fn a_mutating_policy_has_changes() {
        let patch = json!([{"patchType": "JSONPatch", "jsonPatch": {"expression": "[]"}}]);
        let cases: Vec<(Value, &[&str])> = vec![
            (json!({"mutations": patch, "reinvocationPolicy": "Never"}), &[]),
            (
                json!({}),
                &["spec.mutations: Required value: mutations must contain at least one item", "spec.reinvocationPolicy: Required value"],
            ),
            (
                json!({"reinvocationPolicy": "Always", "mutations": [{"patchType": "Magic"}, {"patchType": "JSONPatch", "applyConfiguration": {}}]}),
                &[
                    r#"spec.mutations[0].patchType: Unsupported value: "Magic": supported values: "ApplyConfiguration", "JSONPatch""#,
                    "spec.mutations[1].jsonPatch: Required value: must be specified when patchType is JSONPatch",
                    "spec.mutations[1].applyConfiguration: Invalid value: \"{applyConfiguration}\": must not be specified when patchType is JSONPatch",
                    r#"spec.reinvocationPolicy: Unsupported value: "Always": supported values: "IfNeeded", "Never""#,
                ],
            ),
        ];
        for (more, wanted) in cases {
            let object = of(more);
            assert_eq!(texts(|c| MutatingPolicies.validate_create(&object, c)), wanted, "{object}");
        }
        let mut deletes = of(json!({"mutations": patch, "reinvocationPolicy": "Never"}));
        deletes["spec"]["matchConstraints"]["resourceRules"][0]["operations"] = json!(["DELETE"]);
        let wanted = r#"spec.matchConstraints.resourceRules.operations: Unsupported value: "DELETE": supported values: "*", "CONNECT", "CREATE", "UPDATE""#;
        assert_eq!(texts(|c| MutatingPolicies.validate_create(&deletes, c)), [wanted]);
    }

    #[test]
    fn more_expressions_than_are_compiled_are_refused() {
        let many = |count: usize| Value::from(vec![json!({"name": "a", "expression": "bad("}); count]);
        let with = |field: &str, count: usize| {
            of(json!({"validations": [{"expression": "true"}], "reinvocationPolicy": "Never",
            "mutations": [{"patchType": "JSONPatch", "jsonPatch": {"expression": "[]"}}], field: many(count)}))
        };
        for field in BOUNDED {
            let (most, more) = (with(field, EXPRESSIONS_MAX), with(field, EXPRESSIONS_MAX + 1));
            let wanted = [format!("spec.{field}: Too many: 1001: must have at most 1000 items")];
            assert_eq!(texts(|c| ValidatingPolicies.validate_create(&more, c)), wanted);
            assert_eq!(texts(|c| MutatingPolicies.validate_create(&more, c)), wanted);
            assert_eq!(texts(|c| ValidatingPolicies.validate_update(&more, &most, c)), wanted);
            let none: [&str; 0] = [];
            assert_eq!(texts(|c| ValidatingPolicies.validate_update(&more, &more, c)), none);
            let all: Vec<String> = texts(|c| ValidatingPolicies.validate_create(&most, c));
            assert!(!all.iter().any(|text| text.contains("Too many")), "{all:?}");
        }
    }

    #[test]
    fn conditions_of_old_are_let_be() {
        let old = of(json!({"validations": [{"expression": "true"}], "matchConditions": [{}]}));
        assert_eq!(texts(|c| ValidatingPolicies.validate_create(&old, c)).len(), 2);
        assert_eq!(texts(|c| ValidatingPolicies.validate_update(&old, &old, c)), Vec::<String>::new());
    }

    #[test]
    fn cells_are_upstreams() {
        let mut object = of(json!({"validations": [{"expression": "true"}]}));
        let cells = |object: &Value| Value::from(ValidatingPolicies.cells(object, Timestamp::UNIX_EPOCH));
        assert_eq!(cells(&object), json!(["p", 1, "<unset>", "<unknown>"]));
        object["spec"]["paramKind"] = json!({"apiVersion": "v1", "kind": "ConfigMap"});
        assert_eq!(cells(&object), json!(["p", 1, "v1/ConfigMap", "<unknown>"]));
    }
}
