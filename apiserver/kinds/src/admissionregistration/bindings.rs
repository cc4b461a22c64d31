//! ValidatingAdmissionPolicyBinding and MutatingAdmissionPolicyBinding: the strategy of where a policy is in force, and with what parameters. Source:
//! `pkg/registry/admissionregistration`, `validateValidatingAdmissionPolicyBindingSpec`, `validateMutatingAdmissionPolicyBindingSpec`.

use std::{borrow::Cow, collections::HashSet};

use api::{field_errors::FieldErrors, time::Timestamp};
use apiserver::kind::{Column, Kind, MetaCheck, Strategy};
use serde_json::Value;

use super::{default_match, match_resources, mutating_operations};
use crate::common::{Path, Read, edit::child, name_rules, not_supported, read, selector, table, well_formed};

const SPEC: Path<'static> = Path::new("spec");
const ACTIONS: &[&str] = &["Audit", "Deny", "Warn"];
const NOT_FOUND_ACTIONS: &[&str] = &["Deny", "Allow"];
const EITHER: &str = "name and selector are mutually exclusive";
const BOTH: &str = "must not contain both Deny and Warn (repeating the same validation failure information in the API response and headers serves no purpose)";
const COLUMNS: &[Column] = &[
    table::NAME_COLUMN,
    table::column("PolicyName", "string", "PolicyName indicates the policy definition which the policy binding binded to"),
    table::column("ParamRef", "string", "ParamRef indicates the param resource which sets the configuration param"),
    table::AGE_COLUMN,
];

pub fn validating() -> Kind {
    let kind = super::kind("ValidatingAdmissionPolicyBinding", "validatingadmissionpolicybindings", Bindings { mutating: false });
    Kind { columns: Cow::Borrowed(COLUMNS), ..kind }
}

pub fn mutating() -> Kind {
    let kind = super::kind("MutatingAdmissionPolicyBinding", "mutatingadmissionpolicybindings", Bindings { mutating: true });
    Kind { columns: Cow::Borrowed(COLUMNS), ..kind }
}

struct Bindings {
    mutating: bool,
}

impl Strategy for Bindings {
    fn unconditional_update(&self) -> bool {
        false
    }

    fn meta_check(&self) -> MetaCheck {
        MetaCheck::Create
    }

    fn default(&self, object: &mut Value) {
        if let Some(spec) = child(object, "spec") {
            default_match(spec, "matchResources");
        }
    }

    fn validate(&self, object: &Value, causes: &mut FieldErrors) {
        let spec = object.at("spec");
        match spec.text("policyName") {
            "" => causes.required(SPEC.field("policyName"), ""),
            name => well_formed(name, name_rules::dns_subdomain(name), SPEC.field("policyName"), causes),
        }
        if let Some(reference) = spec.at("paramRef") {
            param_ref(reference, SPEC.field("paramRef"), causes);
        }
        let resources = spec.at("matchResources");
        match_resources(resources, SPEC.field("matchResources"), causes);
        if self.mutating {
            mutating_operations(resources, SPEC.field("matchResources"), causes);
        } else {
            actions(spec.list("validationActions"), SPEC.field("validationActions"), causes);
        }
    }

    fn warnings(&self, new: &Value, _old: Option<&Value>) -> Vec<String> {
        super::warnings(new)
    }

    fn cells(&self, object: &Value, now: Timestamp) -> Vec<Value> {
        let (spec, reference) = (object.at("spec"), object.at("spec").at("paramRef"));
        let params = match (reference.text("namespace"), reference.text("name"), reference.at("selector")) {
            (_, "", None) => "<unset>".to_owned(),
            (_, "", selector) => selector::print(selector),
            ("", name, _) => format!("*/{name}"),
            (namespace, name, _) => format!("{namespace}/{name}"),
        };
        vec![read::name(object).into(), spec.text("policyName").into(), params.into(), table::age(object, now)]
    }
}

/// `validateParamRef`
fn param_ref(reference: &Value, path: Path<'_>, causes: &mut FieldErrors) {
    let (name, selector) = (reference.text("name"), reference.at("selector"));
    if !name.is_empty() {
        well_formed(name, name_rules::path_segment(name), path.field("name"), causes);
        if selector.is_some() {
            causes.forbidden(path.field("name"), EITHER);
        }
    }
    selector::well_formed(selector, path.field("selector"), causes);
    match (name.is_empty(), selector.is_some()) {
        (false, true) => causes.forbidden(path.field("selector"), EITHER),
        (true, false) => causes.required(path, "one of name or selector must be specified"),
        _ => {}
    }
    let at = path.field("parameterNotFoundAction");
    match reference.text("parameterNotFoundAction") {
        "" => causes.required(at, ""),
        action if !NOT_FOUND_ACTIONS.contains(&action) => not_supported(action, NOT_FOUND_ACTIONS, at, causes),
        _ => {}
    }
}

/// `validateValidationActions`
fn actions(list: &[Value], path: Path<'_>, causes: &mut FieldErrors) {
    let mut seen = HashSet::new();
    for (i, action) in list.iter().filter_map(Value::as_str).enumerate() {
        if !ACTIONS.contains(&action) {
            causes.not_supported(path.index(i), action, ACTIONS);
        }
        if !seen.insert(action) {
            causes.duplicate(path.index(i), action);
        }
    }
    if seen.contains("Deny") && seen.contains("Warn") {
        causes.invalid(path, Value::from(list.to_vec()), BOTH);
    }
    if seen.is_empty() {
        causes.required(path, "at least one validation action is required");
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const VALIDATING: Bindings = Bindings { mutating: false };

    fn texts(kind: &Bindings, spec: Value) -> Vec<String> {
        let mut object = json!({"metadata": {"name": "b"}, "spec": spec});
        kind.default(&mut object);
        let mut causes = FieldErrors::default();
        kind.validate(&object, &mut causes);
        causes.0.iter().map(|c| c.text()).collect()
    }

    #[test]
    fn each_rule_has_its_words() {
        let both = format!(r#"spec.validationActions: Invalid value: ["Deny","Warn","Warn","Shout"]: {BOTH}"#);
        let odd = [
            "spec.validationActions[2]: Duplicate value: \"Warn\"",
            r#"spec.validationActions[3]: Unsupported value: "Shout": supported values: "Audit", "Deny", "Warn""#,
            &both,
        ];
        let cases: Vec<(Value, &[&str])> = vec![
            (json!({"policyName": "p", "validationActions": ["Deny", "Audit"], "matchResources": {}}), &[]),
            (
                json!({}),
                &["spec.policyName: Required value", "spec.validationActions: Required value: at least one validation action is required"],
            ),
            (json!({"policyName": "p", "validationActions": ["Deny", "Warn", "Warn", "Shout"]}), &odd),
            (
                json!({"policyName": "p", "validationActions": ["Deny"], "paramRef": {"name": "n", "selector": {}}}),
                &[
                    "spec.paramRef.name: Forbidden: name and selector are mutually exclusive",
                    "spec.paramRef.selector: Forbidden: name and selector are mutually exclusive",
                    "spec.paramRef.parameterNotFoundAction: Required value",
                ],
            ),
            (
                json!({"policyName": "p", "validationActions": ["Deny"], "paramRef": {"parameterNotFoundAction": "Shrug"}}),
                &[
                    "spec.paramRef: Required value: one of name or selector must be specified",
                    r#"spec.paramRef.parameterNotFoundAction: Unsupported value: "Shrug": supported values: "Deny", "Allow""#,
                ],
            ),
        ];
        for (spec, wanted) in cases {
            assert_eq!(texts(&VALIDATING, spec.clone()), wanted, "{spec}");
        }
        assert_eq!(texts(&Bindings { mutating: true }, json!({"policyName": "p"})), Vec::<String>::new());
    }

    #[test]
    fn cells_are_upstreams() {
        let cells = |reference: Value| {
            let object = json!({"metadata": {"name": "b"}, "spec": {"policyName": "p", "paramRef": reference}});
            VALIDATING.cells(&object, Timestamp::UNIX_EPOCH)[2].clone()
        };
        assert_eq!(cells(Value::Null), "<unset>");
        assert_eq!(cells(json!({"name": "x"})), "*/x");
        assert_eq!(cells(json!({"name": "x", "namespace": "n"})), "n/x");
    }
}
