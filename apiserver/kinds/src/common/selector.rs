//! Label selectors on `Value`: are they well-formed, whom do they match, how do they print; and labels and annotations themselves.
//!
//! Source: apimachinery `pkg/apis/meta/v1/validation` and `pkg/apis/meta/v1/helpers.go`.

use std::collections::BTreeSet;

use api::{field_errors::FieldErrors, selector::Labels};
use serde_json::Value;

use super::{Path, Read, name_rules};

/// `ValidateLabels`: keys are qualified names, values label values.
pub fn labels(labels: Option<&Value>, path: Path<'_>, causes: &mut FieldErrors) {
    for (key, value) in labels.and_then(Value::as_object).into_iter().flatten() {
        super::well_formed(key, name_rules::qualified(key), path, causes);
        let value = value.as_str().unwrap_or("");
        super::well_formed(value, name_rules::label_value(value), path, causes);
    }
}

/// `ValidateAnnotations`: keys are qualified names of any case, all together at most 256 KiB.
pub fn annotations(annotations: Option<&Value>, path: Path<'_>, causes: &mut FieldErrors) {
    let mut size = 0;
    for (key, value) in annotations.and_then(Value::as_object).into_iter().flatten() {
        super::well_formed(key, name_rules::qualified(&key.to_lowercase()), path, causes);
        size += key.len() + value.as_str().map_or(0, str::len);
    }
    if size > 256 << 10 {
        causes.too_long(path, 256 << 10);
    }
}

/// `ValidateLabelSelector` of a `metav1.LabelSelector`; absent is fine.
pub fn well_formed(selector: Option<&Value>, path: Path<'_>, causes: &mut FieldErrors) {
    labels(selector.at("matchLabels"), path.field("matchLabels"), causes);
    let list = path.field("matchExpressions");
    for (i, expression) in selector.list("matchExpressions").iter().enumerate() {
        requirement(expression, list.index(i), causes);
    }
}

/// [`well_formed`], telling whether upstream makes a selector of it at all: one that it cannot is not compared with labels.
pub fn is_readable(selector: Option<&Value>, path: Path<'_>, causes: &mut FieldErrors) -> bool {
    let before = causes.0.len();
    well_formed(selector, path, causes);
    causes.0.len() == before
}

/// True for an absent selector and for one without requirements.
pub fn is_empty(selector: Option<&Value>) -> bool {
    selector.object("matchLabels").is_none_or(|m| m.is_empty()) && selector.list("matchExpressions").is_empty()
}

/// `LabelSelectorAsSelector`: `Ok(None)` for an absent selector, which matches nothing.
///
/// # Errors
/// What is wrong with it, in upstream's words.
pub fn parse(selector: Option<&Value>) -> Result<Option<Labels>, String> {
    use serde::Deserialize;
    let typed = selector.map(api::k8s::apimachinery::pkg::apis::meta::v1::LabelSelector::deserialize).transpose();
    Labels::from_selector(typed.map_err(|e| e.to_string())?.as_ref())
}

/// Whether a `metav1.LabelSelector` matches a map of labels.
///
/// # Errors
/// What is wrong with the selector.
pub fn matches(selector: Option<&Value>, labels: Option<&Value>) -> Result<bool, String> {
    Ok(parse(selector)?.is_some_and(|s| s.matches_with(|key| labels.and_then(|l| l.get(key)).and_then(Value::as_str))))
}

/// `FormatLabelSelector`: `app=web,tier in (a,b)`; `<none>` if empty, `<error>` if it cannot be read.
pub fn print(selector: Option<&Value>) -> String {
    match parse(selector) {
        Err(_) => "<error>".into(),
        Ok(None) => "<none>".into(),
        Ok(Some(s)) if s.is_empty() => "<none>".into(),
        Ok(Some(_)) => printed(selector),
    }
}

/// In the order of keys. A list of one value is one: `a in (x)` is not written as `a=x` (`Requirement.String`).
fn printed(selector: Option<&Value>) -> String {
    let pairs = selector.at("matchLabels").and_then(Value::as_object).into_iter().flatten();
    let mut terms: Vec<(&str, String)> =
        pairs.map(|(key, value)| (key.as_str(), format!("{key}={}", value.as_str().unwrap_or("")))).collect();
    for expression in selector.list("matchExpressions") {
        let key = expression.text("key");
        let mut values: Vec<&str> = expression.list("values").iter().filter_map(Value::as_str).collect();
        values.sort_unstable();
        let values = values.join(",");
        let term = match expression.text("operator") {
            "In" => format!("{key} in ({values})"),
            "NotIn" => format!("{key} notin ({values})"),
            "DoesNotExist" => format!("!{key}"),
            _ => key.to_owned(),
        };
        terms.push((key, term));
    }
    terms.sort_by_key(|(key, _)| *key);
    terms.into_iter().map(|(_, term)| term).collect::<Vec<_>>().join(",")
}

/// `FormatLabels` of a plain map: `a=b,c=d` in the order of these texts (`a.b=c` before `a=b`); `<none>` if empty.
pub fn print_map(map: Option<&Value>) -> String {
    let pairs = map.and_then(Value::as_object).into_iter().flatten();
    let sorted: BTreeSet<String> = pairs.map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or(""))).collect();
    if sorted.is_empty() {
        return "<none>".into();
    }
    sorted.into_iter().collect::<Vec<_>>().join(",")
}

fn requirement(expression: &Value, path: Path<'_>, causes: &mut FieldErrors) {
    let values = expression.list("values");
    match expression.text("operator") {
        "In" | "NotIn" if values.is_empty() => {
            causes.required(path.field("values"), "must be specified when `operator` is 'In' or 'NotIn'");
        }
        "Exists" | "DoesNotExist" if !values.is_empty() => {
            causes.forbidden(path.field("values"), "may not be specified when `operator` is 'Exists' or 'DoesNotExist'");
        }
        "In" | "NotIn" | "Exists" | "DoesNotExist" => {}
        other => causes.invalid(path.field("operator"), other, "not a valid selector operator"),
    }
    let key = expression.text("key");
    super::well_formed(key, name_rules::qualified(key), path.field("key"), causes);
    let list = path.field("values");
    for (i, value) in values.iter().filter_map(Value::as_str).enumerate() {
        super::well_formed(value, name_rules::label_value(value), list.index(i), causes);
    }
}

#[cfg(test)]
mod tests {
    use api::field_errors::FieldError;
    use serde_json::json;

    use super::*;

    #[test]
    fn selectors_match_and_print() {
        let selector = json!({"matchLabels": {"app": "web"}, "matchExpressions": [{"key": "t", "operator": "In", "values": ["b", "a"]}]});
        assert_eq!(matches(Some(&selector), Some(&json!({"app": "web", "t": "a"}))), Ok(true));
        assert_eq!(matches(Some(&selector), Some(&json!({"app": "web"}))), Ok(false));
        assert_eq!(matches(None, Some(&json!({}))), Ok(false));
        assert_eq!(print(Some(&selector)), "app=web,t in (a,b)");
        let lists = json!({"matchExpressions": [
            {"key": "c", "operator": "NotIn", "values": ["x"]}, {"key": "b", "operator": "In", "values": ["x"]}, {"key": "a", "operator": "Exists"},
            {"key": "d", "operator": "DoesNotExist"},
        ]});
        assert_eq!(print(Some(&lists)), "a,b in (x),c notin (x),!d", "a list of one value is a list");
        assert_eq!(print_map(Some(&json!({"b": "2", "a": "1"}))), "a=1,b=2");
        assert!(is_empty(Some(&json!({}))));
    }

    #[test]
    fn malformed_selectors_have_causes() {
        let selector =
            json!({"matchLabels": {"a b": "ok"}, "matchExpressions": [{"key": "k", "operator": "In"}, {"key": "k", "operator": "Is"}]});
        let mut causes = FieldErrors::default();
        well_formed(Some(&selector), Path::new("spec.selector"), &mut causes);
        let fields: Vec<&str> = causes.0.iter().map(|c: &FieldError| c.field.as_str()).collect();
        let wanted =
            ["spec.selector.matchLabels", "spec.selector.matchExpressions[0].values", "spec.selector.matchExpressions[1].operator"];
        assert_eq!(fields, wanted);
    }
}
