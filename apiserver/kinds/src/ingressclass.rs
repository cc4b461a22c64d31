//! IngressClass: the strategy of who looks after ingresses. Source: `pkg/registry/networking/ingressclass`, `ValidateIngressClass` in
//! `pkg/apis/networking/validation`, `SetDefaults_IngressClass`.

use std::borrow::Cow;

use api::{field_errors::FieldErrors, time::Timestamp};
use apiserver::kind::{Column, Kind, MetaCheck, Scope, Strategy};
use serde_json::Value;

use crate::common::{self, Path, Read, edit, name_rules, read, table, unchanged, well_formed};

const CONTROLLER_BYTES: usize = 250;
const CONTROLLER: Path<'static> = Path::new("spec.controller");
const PARAMETERS: Path<'static> = Path::new("spec.parameters");
pub const IS_DEFAULT: &str = "ingressclass.kubernetes.io/is-default-class";
const PATH_RULE: &str = "Invalid path (regex used for validation is '[A-Za-z0-9/\\-._~%!$&'()*+,;=:]+')";
const COLUMNS: &[Column] = &[
    table::NAME_COLUMN,
    table::column("Controller", "string", "Controller that is responsible for handling this class"),
    table::column("Parameters", "string", "A reference to a resource with additional parameters"),
    table::AGE_COLUMN,
];

pub fn kind() -> Kind {
    Kind {
        scope: Scope::Cluster,
        columns: Cow::Borrowed(COLUMNS),
        generation: true,
        ..common::kind("networking.k8s.io", "v1", "IngressClass", "ingressclasses", "io.k8s.api.networking.v1", IngressClasses)
    }
}

struct IngressClasses;

impl Strategy for IngressClasses {
    fn default(&self, object: &mut Value) {
        let parameters = edit::child(object, "spec").and_then(|spec| edit::child(spec, "parameters"));
        if let Some(parameters) = parameters {
            edit::default_to(parameters, "scope", "Cluster");
        }
    }

    fn validate(&self, object: &Value, causes: &mut FieldErrors) {
        let controller = object.at("spec").text("controller");
        if controller.len() > CONTROLLER_BYTES {
            causes.too_long(CONTROLLER, CONTROLLER_BYTES);
        }
        domain_prefixed_path(controller, CONTROLLER, causes);
        if let Some(parameters) = object.at("spec").at("parameters") {
            self::parameters(parameters, causes);
        }
    }

    fn validate_update(&self, new: &Value, old: &Value, causes: &mut FieldErrors) {
        unchanged(new.at("spec").at("controller"), old.at("spec").at("controller"), CONTROLLER, causes);
    }

    fn meta_check(&self) -> MetaCheck {
        MetaCheck::Both
    }

    fn cells(&self, object: &Value, now: Timestamp) -> Vec<Value> {
        let (spec, is_default) = (object.at("spec"), object.at("metadata").at("annotations").text(IS_DEFAULT) == "true");
        vec![
            format!("{}{}", read::name(object), if is_default { " (default)" } else { "" }).into(),
            spec.text("controller").into(),
            spec.at("parameters").map_or_else(|| "<none>".into(), parameters_cell).into(),
            table::age(object, now),
        ]
    }
}

/// `IngressParameters.example.com/external`
fn parameters_cell(parameters: &Value) -> String {
    let (kind, name) = (parameters.text("kind"), parameters.text("name"));
    match parameters.at("apiGroup").and_then(Value::as_str) {
        Some(group) => format!("{kind}.{group}/{name}"),
        None => format!("{kind}/{name}"),
    }
}

/// `IsDomainPrefixedPath`
fn domain_prefixed_path(text: &str, path: Path<'_>, causes: &mut FieldErrors) {
    if text.is_empty() {
        return causes.required(path, "");
    }
    let Some((host, rest)) = text.split_once('/').filter(|(host, rest)| !host.is_empty() && !rest.is_empty()) else {
        return causes.invalid(path, text, "must be a domain-prefixed path (such as \"acme.io/foo\")");
    };
    well_formed(host, name_rules::dns_subdomain(host), path, causes);
    if !rest.bytes().all(|b| b.is_ascii_alphanumeric() || b"/-._~%!$&'()*+,;=:".contains(&b)) {
        causes.invalid(path, rest, PATH_RULE);
    }
}

/// `validateIngressClassParametersReference`
fn parameters(parameters: &Value, causes: &mut FieldErrors) {
    if let Some(group) = parameters.at("apiGroup").and_then(Value::as_str) {
        well_formed(group, name_rules::dns_subdomain(group), PARAMETERS.field("apiGroup"), causes);
    }
    for field in ["kind", "name"] {
        match parameters.text(field) {
            "" => causes.required(PARAMETERS.field(field), ""),
            text => well_formed(text, name_rules::path_segment(text), PARAMETERS.field(field), causes),
        }
    }
    let (at, namespace) = (PARAMETERS.field("namespace"), parameters.at("namespace").and_then(Value::as_str));
    match (parameters.text("scope"), namespace) {
        ("Namespace", None) => causes.required(at, "`parameters.scope` is set to 'Namespace'"),
        ("Namespace", Some(name)) => well_formed(name, name_rules::dns_label(name), at, causes),
        ("Cluster", Some(_)) => causes.forbidden(at, "`parameters.scope` is set to 'Cluster'"),
        ("Cluster", None) => {}
        (other, _) => causes.not_supported(PARAMETERS.field("scope"), other, &["Cluster", "Namespace"]),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn of(spec: Value) -> Value {
        let mut object = json!({"metadata": {"name": "a"}, "spec": spec});
        IngressClasses.default(&mut object);
        object
    }

    #[test]
    fn each_rule_has_its_words() {
        let with = |parameters: Value| json!({"controller": "a.example/x", "parameters": parameters});
        let cases: Vec<(Value, Vec<String>)> = vec![
            (json!({"controller": "acme.io/foo/bar"}), vec![]),
            (with(json!({"apiGroup": "a.example", "kind": "Thing", "name": "x"})), vec![]),
            (json!({}), vec!["spec.controller: Required value".into()]),
            (
                json!({"controller": "foo"}),
                vec!["spec.controller: Invalid value: \"foo\": must be a domain-prefixed path (such as \"acme.io/foo\")".into()],
            ),
            (json!({"controller": "a/b c"}), vec![format!("spec.controller: Invalid value: \"b c\": {PATH_RULE}")]),
            (
                json!({"controller": format!("a/{}", "b".repeat(249))}),
                vec!["spec.controller: Too long: may not be more than 250 bytes".into()],
            ),
            (
                with(json!({"namespace": "x"})),
                vec![
                    "spec.parameters.kind: Required value".into(),
                    "spec.parameters.name: Required value".into(),
                    "spec.parameters.namespace: Forbidden: `parameters.scope` is set to 'Cluster'".into(),
                ],
            ),
            (
                with(json!({"kind": "A", "name": "..", "scope": "Namespace"})),
                vec![
                    "spec.parameters.name: Invalid value: \"..\": may not be '..'".into(),
                    "spec.parameters.namespace: Required value: `parameters.scope` is set to 'Namespace'".into(),
                ],
            ),
            (
                with(json!({"kind": "A", "name": "a", "scope": "Node"})),
                vec![r#"spec.parameters.scope: Unsupported value: "Node": supported values: "Cluster", "Namespace""#.into()],
            ),
        ];
        for (spec, wanted) in cases {
            let mut causes = FieldErrors::default();
            IngressClasses.validate(&of(spec.clone()), &mut causes);
            assert_eq!(causes.0.iter().map(|c| c.text()).collect::<Vec<_>>(), wanted, "{spec}");
        }
    }

    #[test]
    fn the_controller_stays() {
        let mut causes = FieldErrors::default();
        IngressClasses.validate_update(&of(json!({"controller": "a/b"})), &of(json!({"controller": "a/a"})), &mut causes);
        assert_eq!(causes.0.iter().map(|c| c.text()).collect::<Vec<_>>(), ["spec.controller: Invalid value: \"a/b\": field is immutable"]);
    }

    #[test]
    fn the_default_and_its_parameters_are_shown() {
        let mut object = of(json!({"controller": "a/b", "parameters": {"apiGroup": "g.example", "kind": "Thing", "name": "x"}}));
        object["metadata"]["annotations"] = json!({IS_DEFAULT: "true"});
        let cells = IngressClasses.cells(&object, Timestamp::UNIX_EPOCH);
        assert_eq!(Value::from(cells), json!(["a (default)", "a/b", "Thing.g.example/x", "<unknown>"]));
    }
}
