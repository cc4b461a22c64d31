//! A rule of a flow schema -> what is wrong with it. Source: `ValidateFlowSchemaPolicyRulesWithSubjects`.

use api::field_errors::FieldErrors;
use serde_json::Value;

use crate::common::{Path, Read, name_rules, well_formed};

const VERBS: &[&str] = &["create", "delete", "deletecollection", "get", "list", "patch", "proxy", "update", "watch"];
const SUBJECTS: &[&str] = &["Group", "ServiceAccount", "User"];
/// Kinds of subjects, and the field that each has.
const FIELDS: &[(&str, &str)] = &[("ServiceAccount", "serviceAccount"), ("User", "user"), ("Group", "group")];
const NAMESPACE: &str = "each member of this list must be '*' or a DNS-1123 label; ";

pub fn rule(rule: &Value, path: Path<'_>, causes: &mut FieldErrors) {
    let (subjects, list) = (rule.list("subjects"), path.field("subjects"));
    if subjects.is_empty() {
        causes.required(list, "subjects must contain at least one value");
    }
    for (i, one) in subjects.iter().enumerate() {
        subject(one, list.index(i), causes);
    }
    let (resources, urls) = (rule.list("resourceRules"), rule.list("nonResourceRules"));
    if resources.is_empty() && urls.is_empty() {
        causes.required(path, "at least one of resourceRules and nonResourceRules has to be non-empty");
    }
    for (i, one) in resources.iter().enumerate() {
        resource(one, path.field("resourceRules").index(i), causes);
    }
    for (i, one) in urls.iter().enumerate() {
        non_resource(one, path.field("nonResourceRules").index(i), causes);
    }
}

/// `ValidateFlowSchemaSubject`
fn subject(subject: &Value, path: Path<'_>, causes: &mut FieldErrors) {
    let kind = subject.text("kind");
    let Some((_, own)) = FIELDS.iter().find(|(known, _)| *known == kind) else {
        return causes.not_supported(path.field("kind"), kind, SUBJECTS);
    };
    match subject.at(own) {
        None => causes.required(path.field(own), &format!("{own} is required when subject kind is '{kind}'")),
        Some(found) => named(found, kind, path.field(own), causes),
    }
    for (other, field) in FIELDS.iter().filter(|(other, field)| *other != kind && subject.at(field).is_some()) {
        causes.forbidden(path.field(field), &format!("{field} is forbidden when subject kind is not '{other}'"));
    }
}

fn named(subject: &Value, kind: &str, path: Path<'_>, causes: &mut FieldErrors) {
    let (name, namespace) = (subject.text("name"), subject.text("namespace"));
    let is_account = kind == "ServiceAccount";
    match name {
        "" => causes.required(path.field("name"), ""),
        name if is_account && name != "*" => well_formed(name, name_rules::dns_subdomain(name), path.field("name"), causes),
        _ => {}
    }
    match namespace {
        _ if !is_account => {}
        "" => causes.required(path.field("namespace"), "must specify namespace for service account"),
        namespace => well_formed(namespace, name_rules::dns_label(namespace), path.field("namespace"), causes),
    }
}

/// A list that must hold something, and nothing beside `*`. Whether its members are still to be looked at.
fn listed(rule: &Value, field: &str, required: &str, what: &str, path: Path<'_>, causes: &mut FieldErrors) -> bool {
    let list = rule.list(field);
    let has_all = list.iter().any(|member| member == "*");
    if list.is_empty() {
        causes.required(path.field(field), required);
    } else if has_all && list.len() > 1 {
        let text = format!("if '*' is present, must not specify other {what}");
        causes.invalid(path.field(field), Value::from(list.to_vec()), &text);
    }
    !list.is_empty() && !has_all
}

fn verbs(rule: &Value, path: Path<'_>, causes: &mut FieldErrors) {
    let is_open = listed(rule, "verbs", "verbs must contain at least one value", "verbs", path, causes);
    let list = rule.list("verbs");
    if is_open && !list.iter().all(|verb| verb.as_str().is_some_and(|verb| VERBS.contains(&verb))) {
        causes.not_supported(path.field("verbs"), Value::from(list.to_vec()), VERBS);
    }
}

/// `ValidateFlowSchemaResourcePolicyRule`
fn resource(rule: &Value, path: Path<'_>, causes: &mut FieldErrors) {
    verbs(rule, path, causes);
    listed(rule, "apiGroups", "resource rules must supply at least one api group", "api groups", path, causes);
    listed(rule, "resources", "resource rules must supply at least one resource", "resources", path, causes);
    if rule.list("namespaces").is_empty() && rule.is_true("clusterScope") {
        return;
    }
    let required = "resource rules that are not cluster scoped must supply at least one namespace";
    if listed(rule, "namespaces", required, "namespaces", path, causes) {
        let list = path.field("namespaces");
        for (i, name) in rule.list("namespaces").iter().filter_map(Value::as_str).enumerate() {
            let errors = name_rules::dns_label(name).into_iter().map(|error| format!("{NAMESPACE}{error}")).collect();
            well_formed(name, errors, list.index(i), causes);
        }
    }
}

/// `ValidateFlowSchemaNonResourcePolicyRule`
fn non_resource(rule: &Value, path: Path<'_>, causes: &mut FieldErrors) {
    verbs(rule, path, causes);
    let (field, what) = ("nonResourceURLs", "non-resource URLs");
    if listed(rule, field, "nonResourceURLs must contain at least one value", what, path, causes) {
        for (i, url) in rule.list(field).iter().filter_map(Value::as_str).enumerate() {
            if let Some(error) = url_error(url) {
                causes.invalid(path.field(field).index(i), url, error);
            }
        }
    }
}

/// `ValidateNonResourceURLPath`
fn url_error(url: &str) -> Option<&'static str> {
    match url {
        "" => Some("must not be empty"),
        "/" => None,
        url if !url.starts_with('/') => Some("must start with slash"),
        url if url.contains(' ') => Some("must not contain white-space"),
        url if url.contains("//") => Some("must not contain double slash"),
        url if url.matches('*').count() > usize::from(url.ends_with("/*")) => Some("wildcard can only do suffix matching"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn texts(of: &Value) -> Vec<String> {
        let mut causes = FieldErrors::default();
        rule(of, Path::new("r"), &mut causes);
        causes.0.iter().map(|c| c.text()).collect()
    }

    #[test]
    fn each_rule_has_its_words() {
        let user = json!([{"kind": "User", "user": {"name": "a"}}]);
        let urls = |urls: Value, verbs: Value| json!({"subjects": user, "nonResourceRules": [{"verbs": verbs, "nonResourceURLs": urls}]});
        let cases: Vec<(Value, &[&str])> = vec![
            (urls(json!(["/", "/a/*"]), json!(["get"])), &[]),
            (
                json!({}),
                &[
                    "r.subjects: Required value: subjects must contain at least one value",
                    "r: Required value: at least one of resourceRules and nonResourceRules has to be non-empty",
                ],
            ),
            (
                urls(json!(["a", "/a//b", "/*/b", "/a b", ""]), json!(["dance"])),
                &[
                    r#"r.nonResourceRules[0].verbs: Unsupported value: ["dance"]: supported values: "create", "delete", "deletecollection", "get", "list", "patch", "proxy", "update", "watch""#,
                    "r.nonResourceRules[0].nonResourceURLs[0]: Invalid value: \"a\": must start with slash",
                    "r.nonResourceRules[0].nonResourceURLs[1]: Invalid value: \"/a//b\": must not contain double slash",
                    "r.nonResourceRules[0].nonResourceURLs[2]: Invalid value: \"/*/b\": wildcard can only do suffix matching",
                    "r.nonResourceRules[0].nonResourceURLs[3]: Invalid value: \"/a b\": must not contain white-space",
                    "r.nonResourceRules[0].nonResourceURLs[4]: Invalid value: \"\": must not be empty",
                ],
            ),
            (
                json!({"subjects": user, "resourceRules": [
                    {"verbs": ["*", "get"], "apiGroups": ["*"], "resources": ["pods"], "namespaces": ["A"]},
                    {"verbs": ["*"], "apiGroups": ["*"], "resources": [], "clusterScope": true}]}),
                &[
                    r#"r.resourceRules[0].verbs: Invalid value: ["*","get"]: if '*' is present, must not specify other verbs"#,
                    "r.resourceRules[0].namespaces[0]: Invalid value: \"A\": each member of this list must be '*' or a DNS-1123 label; a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')",
                    "r.resourceRules[1].resources: Required value: resource rules must supply at least one resource",
                ],
            ),
        ];
        for (of, wanted) in cases {
            assert_eq!(texts(&of), wanted, "{of}");
        }
    }

    #[test]
    fn subjects_are_what_they_say() {
        let cases: [(Value, &[&str]); 4] = [
            (json!({"kind": "Robot"}), &[r#"s.kind: Unsupported value: "Robot": supported values: "Group", "ServiceAccount", "User""#]),
            (
                json!({"kind": "Group", "user": {"name": "x"}}),
                &[
                    "s.group: Required value: group is required when subject kind is 'Group'",
                    "s.user: Forbidden: user is forbidden when subject kind is not 'User'",
                ],
            ),
            (
                json!({"kind": "ServiceAccount", "serviceAccount": {}}),
                &[
                    "s.serviceAccount.name: Required value",
                    "s.serviceAccount.namespace: Required value: must specify namespace for service account",
                ],
            ),
            (json!({"kind": "ServiceAccount", "serviceAccount": {"name": "*", "namespace": "n"}}), &[]),
        ];
        for (of, wanted) in cases {
            let mut causes = FieldErrors::default();
            subject(&of, Path::new("s"), &mut causes);
            assert_eq!(causes.0.iter().map(|c| c.text()).collect::<Vec<_>>(), wanted, "{of}");
        }
    }
}
