//! A job -> all that is wrong with it, in upstream's words. Source: `pkg/apis/batch/validation/validation.go`.

use api::field_errors::{FieldErrors, Reason};
use serde_json::{Value, json};

use super::{COMPLETIONS_SOFT, NAME_LABELS, PARALLELISM_SOFT, UID_LABELS, policy};
use crate::{
    common::{
        Path, Read, name_rules, not_negative, not_supported,
        read::{self, name, text_at},
        selector, well_formed,
    },
    podtemplate,
};

/// Pods of an indexed job at a time, and failed indexes of one.
const INDEXED_MAX: i64 = 100_000;
/// Length of `managedBy`, in bytes.
const MANAGER_BYTES_MAX: usize = 63;
const NOT_NEGATIVE: &[&str] = &[
    "parallelism",
    "completions",
    "activeDeadlineSeconds",
    "backoffLimit",
    "ttlSecondsAfterFinished",
    "backoffLimitPerIndex",
    "maxFailedIndexes",
];

/// Which of the generated labels a template must have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Labels {
    Prefixed,
    /// Jobs of before 1.27 lack the others.
    Legacy,
}

/// `ValidateJob`
pub fn job(job: &Value, labels: Labels, causes: &mut FieldErrors) {
    let found = job.get("spec").unwrap_or(&Value::Null);
    generated_selector(job, found, labels, causes);
    job_spec(found, Path::new("spec"), causes);
    let wanted = found.int("completions").filter(|n| *n > 0 && found.text("completionMode") == "Indexed");
    if let Some(completions) = wanted {
        let longest = format!("{}-{}", name(job), completions - 1);
        if !name_rules::dns_label(&longest).is_empty() {
            let text = format!("will not able to create pod with invalid DNS label: {longest}");
            causes.invalid("metadata.name", name(job), &text);
        }
    }
}

/// `validateGeneratedSelector`
fn generated_selector(job: &Value, spec: &Value, labels: Labels, causes: &mut FieldErrors) {
    let Some(selector) = spec.at("selector").filter(|_| !spec.is_true("manualSelector")) else { return };
    let (name, uid) = (name(job), text_at(job, "/metadata/uid"));
    if uid.is_empty() {
        causes.required("metadata.uid", "");
    }
    let found = spec.at("template").at("metadata").at("labels");
    let kinds = if labels == Labels::Prefixed { 2 } else { 1 };
    let path = Path::new("spec.template.metadata.labels");
    let mut expected = json!({});
    for (uid_label, name_label) in UID_LABELS.iter().zip(NAME_LABELS).take(kinds) {
        for (label, wanted) in [(*uid_label, uid), (name_label, name)] {
            expected[label] = wanted.into();
            match found.at(label) {
                None => causes.required(path.key(label), &format!("must be '{wanted}'")),
                Some(value) if value.as_str() != Some(wanted) => {
                    causes.invalid(path.key(label), read::as_map(found), &format!("must be '{wanted}'"));
                }
                Some(_) => {}
            }
        }
    }
    if selector::matches(Some(selector), Some(&expected)) == Ok(false) {
        causes.invalid("spec.selector", selector.clone(), "`selector` not auto-generated");
    }
}

/// `ValidateJobSpec`
pub fn job_spec(found: &Value, path: Path<'_>, causes: &mut FieldErrors) {
    spec(found, path, causes);
    let (wanted, at) = (found.at("selector"), path.field("selector"));
    match wanted {
        None => causes.required(at, ""),
        Some(_) => selector::well_formed(wanted, at, causes),
    }
    let template = found.at("template");
    if selector::matches(wanted, template.at("metadata").at("labels")) == Ok(false) {
        podtemplate::not_selected(template, path.field("template"), causes);
    }
}

/// `validateJobSpec`: all but the selector, for CronJobs too.
pub fn spec(spec: &Value, path: Path<'_>, causes: &mut FieldErrors) {
    for field in NOT_NEGATIVE {
        not_negative(spec.int(field), path.field(field), causes);
    }
    let per_index = path.field("backoffLimitPerIndex");
    if spec.at("maxFailedIndexes").is_some() && spec.at("backoffLimitPerIndex").is_none() {
        causes.required(per_index, "when maxFailedIndexes is specified");
    }
    if let Some(manager) = spec.at("managedBy").and_then(Value::as_str) {
        managed_by(manager, path.field("managedBy"), causes);
    }
    match spec.at("completionMode").and_then(Value::as_str) {
        Some("Indexed") => indexed(spec, path, causes),
        None | Some("NonIndexed") => {
            for field in ["backoffLimitPerIndex", "maxFailedIndexes"] {
                if let Some(value) = spec.at(field) {
                    causes.invalid(path.field(field), value.clone(), "requires indexed completion mode");
                }
            }
        }
        Some(other) => not_supported(other, &["NonIndexed", "Indexed"], path.field("completionMode"), causes),
    }
    policy::failure(spec, path.field("podFailurePolicy"), causes);
    policy::success(spec, path.field("successPolicy"), causes);
    policy::replacement(spec, path.field("podReplacementPolicy"), causes);
    template(spec, path.field("template"), causes);
}

fn template(spec: &Value, path: Path<'_>, causes: &mut FieldErrors) {
    let template = spec.get("template").unwrap_or(&Value::Null);
    podtemplate::validate(template, path, causes);
    let pod = path.field("spec");
    let at = pod.field("restartPolicy");
    match template.at("spec").text("restartPolicy") {
        "" | "Always" => causes.required(at, r#"valid values: "OnFailure", "Never""#),
        "Never" => {}
        "OnFailure" if spec.at("podFailurePolicy").is_none() => {}
        "OnFailure" => causes.invalid(at, "OnFailure", r#"only "Never" is supported when podFailurePolicy is specified"#),
        other => not_supported(other, &["OnFailure", "Never"], at, causes),
    }
}

fn indexed(spec: &Value, path: Path<'_>, causes: &mut FieldErrors) {
    let (completions, parallelism, failed) = (spec.int("completions"), spec.int("parallelism"), spec.int("maxFailedIndexes"));
    if completions.is_none() {
        causes.required(path.field("completions"), "when completion mode is Indexed");
    }
    let mut above = |field: &str, value: Option<i64>, most: i64, text: &str| {
        if let Some(value) = value.filter(|v| *v > most) {
            causes.invalid(path.field(field), value, text);
        }
    };
    let mode = format!("must be less than or equal to {INDEXED_MAX} when completion mode is Indexed");
    above("parallelism", parallelism, INDEXED_MAX, &mode);
    above("maxFailedIndexes", failed, completions.unwrap_or(i64::MAX), "must be less than or equal to completions");
    above("maxFailedIndexes", failed, INDEXED_MAX, &format!("must be less than or equal to {INDEXED_MAX}"));
    if completions.is_none_or(|n| n <= COMPLETIONS_SOFT) || spec.at("backoffLimitPerIndex").is_none() {
        return;
    }
    if failed.is_none() {
        causes.required(path.field("maxFailedIndexes"), &format!("must be specified when completions is above {COMPLETIONS_SOFT}"));
    }
    for (field, value) in [("parallelism", parallelism), ("maxFailedIndexes", failed)] {
        if let Some(value) = value.filter(|v| *v > PARALLELISM_SOFT) {
            let text = format!(
                "must be less than or equal to {PARALLELISM_SOFT} when completions are above {COMPLETIONS_SOFT} and used with backoff limit per index"
            );
            causes.invalid(path.field(field), value, &text);
        }
    }
}

fn managed_by(manager: &str, path: Path<'_>, causes: &mut FieldErrors) {
    domain_prefixed_path(manager, path, causes);
    if manager.len() > MANAGER_BYTES_MAX {
        causes.push(Reason::TooLong, path, format!("Too long: may not be more than {MANAGER_BYTES_MAX} bytes"));
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
        causes.invalid(path, rest, "Invalid path (regex used for validation is '[A-Za-z0-9/\\-._~%!$&'()*+,;=:]+')");
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::tests::{causes, object},
        *,
    };

    #[test]
    fn numbers_and_modes_have_rules() {
        let cases = [
            (json!({"parallelism": -1}), "spec.parallelism: Invalid value: -1: must be greater than or equal to 0"),
            (json!({"backoffLimitPerIndex": 1}), "spec.backoffLimitPerIndex: Invalid value: 1: requires indexed completion mode"),
            (json!({"completionMode": "X"}), r#"spec.completionMode: Unsupported value: "X": supported values: "NonIndexed", "Indexed""#),
            (json!({"completionMode": "Indexed", "parallelism": 1}), "spec.completions: Required value: when completion mode is Indexed"),
            (
                json!({"completionMode": "Indexed", "completions": 5, "parallelism": 100_001}),
                "spec.parallelism: Invalid value: 100001: must be less than or equal to 100000 when completion mode is Indexed",
            ),
            (
                json!({"completionMode": "Indexed", "completions": 100_001, "backoffLimitPerIndex": 1}),
                "spec.maxFailedIndexes: Required value: must be specified when completions is above 100000",
            ),
            (json!({"managedBy": "x"}), r#"spec.managedBy: Invalid value: "x": must be a domain-prefixed path (such as "acme.io/foo")"#),
            (
                json!({"podReplacementPolicy": "X"}),
                r#"spec.podReplacementPolicy: Unsupported value: "X": supported values: "Failed", "TerminatingOrFailed""#,
            ),
        ];
        for (spec, wanted) in cases {
            assert_eq!(causes(&object(spec)), [wanted]);
        }
    }

    #[test]
    fn all_that_is_wrong_is_told() {
        let mut bad = object(json!({"completions": -1, "selector": {"matchLabels": {"a": "b"}}}));
        bad["spec"]["template"]["metadata"]["labels"]["job-name"] = json!("b");
        bad["spec"]["template"]["spec"]["restartPolicy"] = json!("Always");
        let found = causes(&bad).join("\n");
        for wanted in [
            "spec.template.metadata.labels[job-name]: Invalid value: ",
            "spec.selector: Invalid value: ",
            "`selector` not auto-generated",
            "spec.completions: Invalid value: -1",
            r#"spec.template.spec.restartPolicy: Required value: valid values: "OnFailure", "Never""#,
            "`selector` does not match template `labels`",
        ] {
            assert!(found.contains(wanted), "{wanted} in {found}");
        }
    }

    #[test]
    fn an_indexed_jobs_pods_have_host_names() {
        let mut long = object(json!({"completionMode": "Indexed", "completions": 100}));
        let name = "j".repeat(62);
        long["metadata"]["name"] = json!(name);
        for label in NAME_LABELS {
            long["spec"]["template"]["metadata"]["labels"][label] = json!(name);
        }
        let wanted = format!("metadata.name: Invalid value: {name:?}: will not able to create pod with invalid DNS label: {name}-99");
        assert_eq!(causes(&long), [wanted]);
    }
}
