//! The policies of a job -> what is wrong with them: when its pods' failures and successes count, and when a pod is replaced.
//!
//! Source: `validatePodFailurePolicy`, `validateSuccessPolicy`, `validatePodReplacementPolicy` in `pkg/apis/batch/validation`.

use std::collections::HashSet;

use api::field_errors::{FieldErrors, Reason};
use serde_json::{Value, json};

use super::indexes;
use crate::common::{Path, Read, name_rules, not_negative, not_supported, well_formed};

const RULES_MAX: usize = 20;
const EXIT_CODES_MAX: usize = 255;
const PATTERNS_MAX: usize = 20;
/// Of the text of a rule's indexes.
const INDEXES_BYTES_MAX: usize = 64 << 10;
const ACTIONS: &[&str] = &["Count", "FailIndex", "FailJob", "Ignore"];
const OPERATORS: &[&str] = &["In", "NotIn"];
const STATUSES: &[&str] = &["False", "True", "Unknown"];

/// `spec` is the job's.
pub fn failure(spec: &Value, path: Path<'_>, causes: &mut FieldErrors) {
    let Some(policy) = spec.at("podFailurePolicy") else { return };
    let (rules, at) = (policy.list("rules"), path.field("rules"));
    if rules.len() > RULES_MAX {
        causes.too_many(at, rules.len(), RULES_MAX);
    }
    let pod = spec.at("template").at("spec");
    let containers = pod.list("containers").iter().chain(pod.list("initContainers")).map(|c| c.text("name")).collect();
    for (i, rule) in rules.iter().enumerate() {
        failure_rule(spec, rule, &containers, at.index(i), causes);
    }
}

pub fn success(spec: &Value, path: Path<'_>, causes: &mut FieldErrors) {
    let Some(policy) = spec.at("successPolicy") else { return };
    if spec.text("completionMode") != "Indexed" {
        causes.invalid(path, internal_success(Some(policy)), "requires indexed completion mode");
        return;
    }
    let (rules, at) = (policy.list("rules"), path.field("rules"));
    if rules.is_empty() {
        causes.required(at, "at least one rules must be specified when the successPolicy is specified");
    }
    if rules.len() > RULES_MAX {
        causes.too_many(at, rules.len(), RULES_MAX);
    }
    for (i, rule) in rules.iter().enumerate() {
        success_rule(spec.int("completions").unwrap_or(0), rule, at.index(i), causes);
    }
}

pub fn replacement(spec: &Value, path: Path<'_>, causes: &mut FieldErrors) {
    let Some(policy) = spec.at("podReplacementPolicy").and_then(Value::as_str) else { return };
    let allowed: &[&str] = if spec.at("podFailurePolicy").is_some() { &["Failed"] } else { &["Failed", "TerminatingOrFailed"] };
    if !allowed.contains(&policy) {
        not_supported(policy, allowed, path, causes);
    }
}

/// A failure policy as upstream prints it: its internal type.
pub fn internal_failure(policy: Option<&Value>) -> Value {
    let codes = |codes: &Value| json!({"ContainerName": codes.at("containerName"), "Operator": codes.text("operator"), "Values": codes.at("values")});
    let condition = |pattern: &Value| json!({"Type": pattern.text("type"), "Status": pattern.text("status")});
    let rule = |rule: &Value| {
        let conditions = rule.list("onPodConditions");
        let conditions = (!conditions.is_empty()).then(|| conditions.iter().map(condition).collect::<Vec<_>>());
        json!({"Action": rule.text("action"), "OnExitCodes": rule.at("onExitCodes").map(codes), "OnPodConditions": conditions})
    };
    policy.map_or(Value::Null, |policy| json!({"Rules": policy.list("rules").iter().map(rule).collect::<Vec<_>>()}))
}

/// The same of a success policy.
pub fn internal_success(policy: Option<&Value>) -> Value {
    let rule = |rule: &Value| json!({"SucceededIndexes": rule.at("succeededIndexes"), "SucceededCount": rule.at("succeededCount")});
    policy.map_or(Value::Null, |policy| json!({"Rules": policy.list("rules").iter().map(rule).collect::<Vec<_>>()}))
}

/// `valid values: ["In" "NotIn"]`, as Go prints a list.
fn valid_values(all: &[&str]) -> String {
    let words: Vec<String> = all.iter().map(|word| format!("{word:?}")).collect();
    format!("valid values: [{}]", words.join(" "))
}

/// A word that must be there and one of `all`.
fn word(value: &str, all: &[&str], path: Path<'_>, causes: &mut FieldErrors) {
    match value {
        "" => causes.required(path, &valid_values(all)),
        known if all.contains(&known) => {}
        other => not_supported(other, all, path, causes),
    }
}

fn failure_rule(spec: &Value, rule: &Value, containers: &HashSet<&str>, path: Path<'_>, causes: &mut FieldErrors) {
    match rule.text("action") {
        "FailIndex" if spec.at("backoffLimitPerIndex").is_none() => {
            causes.invalid(path.field("action"), "FailIndex", "requires the backoffLimitPerIndex to be set");
        }
        action => word(action, ACTIONS, path.field("action"), causes),
    }
    let (codes, conditions) = (rule.at("onExitCodes"), rule.list("onPodConditions"));
    if let Some(codes) = codes {
        exit_codes(codes, containers, path.field("onExitCodes"), causes);
    }
    pod_conditions(conditions, path.field("onPodConditions"), causes);
    let mut invalid = |why: &str| causes.push(Reason::Invalid, path, format!("Invalid value: {why}"));
    match (codes.is_some(), conditions.is_empty()) {
        (true, false) => invalid("specifying both OnExitCodes and OnPodConditions is not supported"),
        (false, true) => invalid("specifying one of OnExitCodes and OnPodConditions is required"),
        _ => {}
    }
}

fn pod_conditions(patterns: &[Value], path: Path<'_>, causes: &mut FieldErrors) {
    if patterns.len() > PATTERNS_MAX {
        causes.too_many(path, patterns.len(), PATTERNS_MAX);
    }
    for (i, pattern) in patterns.iter().enumerate() {
        let (at, typ) = (path.index(i), pattern.text("type"));
        well_formed(typ, name_rules::qualified(typ), at.field("type"), causes);
        word(pattern.text("status"), STATUSES, at.field("status"), causes);
    }
}

fn exit_codes(codes: &Value, containers: &HashSet<&str>, path: Path<'_>, causes: &mut FieldErrors) {
    let operator = codes.text("operator");
    word(operator, OPERATORS, path.field("operator"), causes);
    if let Some(name) = codes.at("containerName").and_then(Value::as_str).filter(|name| !containers.contains(name)) {
        let why = "must be one of the container or initContainer names in the pod template";
        causes.invalid(path.field("containerName"), name, why);
    }
    let (values, at) = (codes.list("values"), path.field("values"));
    let shown = || codes.at("values").cloned().unwrap_or(Value::Null);
    if values.is_empty() {
        causes.invalid(at, shown(), "at least one value is required");
    } else if values.len() > EXIT_CODES_MAX {
        causes.too_many(at, values.len(), EXIT_CODES_MAX);
    }
    let numbers: Vec<i64> = values.iter().map(|v| v.as_i64().unwrap_or(0)).collect();
    let mut seen = HashSet::new();
    for (i, number) in numbers.iter().enumerate() {
        if operator == "In" && *number == 0 {
            causes.invalid(at.index(i), 0, "must not be 0 for the In operator");
        }
        if !seen.insert(*number) {
            causes.duplicate(at.index(i), *number);
        }
    }
    if !numbers.is_sorted() {
        causes.invalid(at, shown(), "must be ordered");
    }
}

fn success_rule(completions: i64, rule: &Value, path: Path<'_>, causes: &mut FieldErrors) {
    let (found, wanted) = (rule.at("succeededIndexes").and_then(Value::as_str), rule.int("succeededCount"));
    if found.is_none() && wanted.is_none() {
        causes.required(path, "at least one of succeededCount or succeededIndexes must be specified");
    }
    let mut total = 0;
    if let Some(text) = found {
        let at = path.field("succeededIndexes");
        if text.len() > INDEXES_BYTES_MAX {
            causes.too_long(at, INDEXES_BYTES_MAX);
        }
        match indexes::count(text, completions) {
            Ok(count) => total = count,
            Err(why) => causes.invalid(at, text, &format!("error parsing succeededIndexes: {why}")),
        }
    }
    let Some(wanted) = wanted else { return };
    let at = path.field("succeededCount");
    not_negative(Some(wanted), at, causes);
    let mut above = |most: i64, what: &str| {
        if wanted > most {
            causes.invalid(at, wanted, &format!("must be less than or equal to {most} (the number of {what})"));
        }
    };
    above(completions, "specified completions");
    if found.is_some() {
        above(total, "indexes in the specified succeededIndexes field");
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::tests::{causes, object},
        *,
    };

    #[test]
    fn failure_rules_have_rules() {
        let at = "spec.podFailurePolicy.rules[0]";
        let codes = |codes: Value| json!({"action": "Count", "onExitCodes": codes});
        let cases = [
            (
                json!({"action": "Ignore"}),
                vec![format!("{at}: Invalid value: specifying one of OnExitCodes and OnPodConditions is required")],
            ),
            (
                json!({"action": "Shrug", "onPodConditions": [{"type": "A b"}]}),
                vec![
                    format!(r#"{at}.action: Unsupported value: "Shrug": supported values: "Count", "FailIndex", "FailJob", "Ignore""#),
                    format!(
                        "{at}.onPodConditions[0].type: Invalid value: \"A b\": {}",
                        name_rules::qualified("A b").into_iter().next().unwrap()
                    ),
                ],
            ),
            (
                codes(json!({"operator": "In", "values": [2, 1, 1, 0]})),
                vec![
                    format!("{at}.onExitCodes.values[2]: Duplicate value: 1"),
                    format!("{at}.onExitCodes.values[3]: Invalid value: 0: must not be 0 for the In operator"),
                    format!("{at}.onExitCodes.values: Invalid value: [2,1,1,0]: must be ordered"),
                ],
            ),
            (
                codes(json!({"containerName": "none"})),
                vec![
                    format!(r#"{at}.onExitCodes.operator: Required value: valid values: ["In" "NotIn"]"#),
                    format!(
                        r#"{at}.onExitCodes.containerName: Invalid value: "none": must be one of the container or initContainer names in the pod template"#
                    ),
                    format!("{at}.onExitCodes.values: Invalid value: null: at least one value is required"),
                ],
            ),
            (
                json!({"action": "FailIndex", "onPodConditions": [{"type": "A"}]}),
                vec![format!(r#"{at}.action: Invalid value: "FailIndex": requires the backoffLimitPerIndex to be set"#)],
            ),
        ];
        for (rule, wanted) in cases {
            assert_eq!(causes(&object(json!({"podFailurePolicy": {"rules": [rule]}}))), wanted);
        }
    }

    #[test]
    fn success_rules_have_rules() {
        let at = "spec.successPolicy.rules[0]";
        let cases = [
            (json!({}), format!("{at}: Required value: at least one of succeededCount or succeededIndexes must be specified")),
            (
                json!({"succeededCount": 9}),
                format!("{at}.succeededCount: Invalid value: 9: must be less than or equal to 4 (the number of specified completions)"),
            ),
            (
                json!({"succeededCount": 2, "succeededIndexes": "1"}),
                format!(
                    "{at}.succeededCount: Invalid value: 2: must be less than or equal to 1 (the number of indexes in the specified succeededIndexes field)"
                ),
            ),
            (
                json!({"succeededIndexes": "9"}),
                format!("{at}.succeededIndexes: Invalid value: \"9\": error parsing succeededIndexes: too large index: \"9\""),
            ),
        ];
        for (rule, wanted) in cases {
            let job = object(json!({"completionMode": "Indexed", "completions": 4, "successPolicy": {"rules": [rule]}}));
            assert_eq!(causes(&job), [wanted]);
        }
        let wanted = r#"spec.successPolicy: Invalid value: {"Rules":[{"SucceededIndexes":null,"SucceededCount":1}]}: requires indexed completion mode"#;
        assert_eq!(causes(&object(json!({"successPolicy": {"rules": [{"succeededCount": 1}]}}))), [wanted]);
    }
}
