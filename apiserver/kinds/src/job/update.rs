//! A job and what it was -> what may not have changed. Source: `ValidateJobSpecUpdate` in `pkg/apis/batch/validation`, `validationOptionsForJob` in
//! `pkg/registry/batch/job`.

use api::field_errors::FieldErrors;
use serde_json::{Value, json};

use super::{has, policy, validate};
use crate::{
    common::{
        Path, Read,
        edit::{carry, carry_as, child, each, make_child, remove},
        read::{is_nothing, same},
        unchanged, unchanged_as,
    },
    schema::internal,
};

/// Runs after the new job has been validated by itself.
pub fn spec(new: &Value, old: &Value, causes: &mut FieldErrors) {
    let (null, path) = (Value::Null, Path::new("spec"));
    let (spec, before) = (new.get("spec").unwrap_or(&null), old.get("spec").unwrap_or(&null));
    validate::job_spec(spec, path, causes);
    completions(spec, before, path.field("completions"), causes);
    let mut fixed = |field: &str| unchanged(spec.at(field), before.at(field), path.field(field), causes);
    fixed("selector");
    template(new, old, path, causes);
    let mut fixed = |field: &str| unchanged(spec.at(field), before.at(field), path.field(field), causes);
    fixed("completionMode");
    let shown = policy::internal_failure;
    unchanged_as(spec.at("podFailurePolicy"), before.at("podFailurePolicy"), shown, path.field("podFailurePolicy"), causes);
    let mut fixed = |field: &str| unchanged(spec.at(field), before.at(field), path.field(field), causes);
    fixed("backoffLimitPerIndex");
    fixed("managedBy");
    let shown = policy::internal_success;
    unchanged_as(spec.at("successPolicy"), before.at("successPolicy"), shown, path.field("successPolicy"), causes);
}

fn completions(spec: &Value, before: &Value, path: Path<'_>, causes: &mut FieldErrors) {
    let (now, was) = (spec.at("completions"), before.at("completions"));
    if spec.text("completionMode") != "Indexed" {
        return unchanged(now, was, path, causes);
    }
    if let Some(number) = now.filter(|_| !same(now, was) && now != spec.at("parallelism")) {
        causes.invalid(path, number.clone(), "can only be modified in tandem with spec.parallelism");
    }
}

/// `shouldAllowMutablePodTemplate`: a suspended job without pods may still be placed and sized anew.
fn is_idle(job: &Value) -> bool {
    let status = job.at("status");
    let stopped = status.at("startTime").is_none() || has(job, "Suspended");
    job.at("spec").is_true("suspend") && stopped && status.int("active").unwrap_or(0) == 0
}

/// `validatePodTemplateUpdate`
fn template(new: &Value, old: &Value, path: Path<'_>, causes: &mut FieldErrors) {
    let of = |job: &Value| job.at("spec").at("template").cloned().unwrap_or_else(|| json!({}));
    let (now, mut was) = (of(new), of(old));
    if !is_idle(old) {
        let shown = |template: Option<&Value>| internal::shown("core.PodTemplateSpec", template);
        return unchanged_as(Some(&now), Some(&was), shown, path.field("template"), causes);
    }
    placed_as(&mut was, &now);
    // Of such a job's template upstream compares the spec alone.
    if let Some(pod) = child(&mut was, "spec") {
        sized_as(pod, now.at("spec"));
    }
    let shown = |spec: Option<&Value>| internal::shown("core.PodSpec", spec);
    unchanged_as(now.at("spec"), was.at("spec"), shown, path.field("template.spec"), causes);
}

/// Gives a template the scheduling directives, labels and annotations of another.
fn placed_as(was: &mut Value, now: &Value) {
    if let Some(metadata) = make_child(was, "metadata") {
        ["annotations", "labels"].into_iter().for_each(|field| carry_as(metadata, field, now.at("metadata").at(field)));
    }
    let (Some(pod), spec) = (make_child(was, "spec"), now.get("spec").unwrap_or(&Value::Null)) else { return };
    ["nodeSelector", "tolerations", "schedulingGates"].into_iter().for_each(|field| carry(pod, spec, field));
    let wanted = spec.at("affinity").at("nodeAffinity");
    if let Some(affinity) = make_child(pod, "affinity") {
        carry_as(affinity, "nodeAffinity", wanted);
        if is_nothing("affinity", affinity) {
            remove(pod, "affinity");
        }
    }
}

/// Gives containers the resources of those of the same place and name.
fn sized_as(was: &mut Value, now: Option<&Value>) {
    for list in ["containers", "initContainers"] {
        if was.list(list).len() != now.list(list).len() {
            continue;
        }
        for (container, wanted) in each(was, list).zip(now.list(list)) {
            if container.text("name") == wanted.text("name") {
                carry(container, wanted, "resources");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{super::tests::object, *};

    fn causes(start: Value, change: impl Fn(&mut Value)) -> Vec<String> {
        let old = object(start);
        let mut new = old.clone();
        change(&mut new);
        let mut causes = FieldErrors::default();
        spec(&new, &old, &mut causes);
        causes.0.iter().map(|c| c.text()).collect()
    }

    #[test]
    fn what_is_fixed_stays() {
        let change = |field: &'static str, value: Value| causes(json!({}), move |job| job["spec"][field] = value.clone());
        assert_eq!(change("completions", json!(3)), ["spec.completions: Invalid value: 3: field is immutable"]);
        assert_eq!(change("managedBy", json!("a.b/c")), [r#"spec.managedBy: Invalid value: "a.b/c": field is immutable"#]);
        assert_eq!(change("parallelism", json!(3)), Vec::<String>::new());
        let policy = json!({"rules": [{"action": "Ignore", "onExitCodes": {"operator": "In", "values": [1]}}]});
        let wanted = [
            r#"spec.podReplacementPolicy: Unsupported value: "TerminatingOrFailed": supported values: "Failed""#,
            r#"spec.podFailurePolicy: Invalid value: {"Rules":[{"Action":"Ignore","OnExitCodes":{"ContainerName":null,"Operator":"In","Values":[1]},"OnPodConditions":null}]}: field is immutable"#,
        ];
        assert_eq!(change("podFailurePolicy", policy), wanted);
    }

    #[test]
    fn an_indexed_job_is_scaled_as_a_whole() {
        let start = || json!({"completionMode": "Indexed", "completions": 2, "parallelism": 2});
        let wanted = "spec.completions: Invalid value: 4: can only be modified in tandem with spec.parallelism";
        assert_eq!(causes(start(), |job| job["spec"]["completions"] = json!(4)), [wanted]);
        let both = causes(start(), |job| {
            job["spec"]["completions"] = json!(4);
            job["spec"]["parallelism"] = json!(4);
        });
        assert_eq!(both, Vec::<String>::new());
    }

    #[test]
    fn a_suspended_job_may_be_placed_anew() {
        type Change = fn(&mut Value);
        let changes: [Change; 4] = [
            |job| job["spec"]["template"]["spec"]["nodeSelector"] = json!({"a": "b"}),
            |job| job["spec"]["template"]["spec"]["affinity"] = json!({"nodeAffinity": {"x": []}}),
            |job| job["spec"]["template"]["metadata"]["annotations"] = json!({"a": "b"}),
            |job| job["spec"]["template"]["spec"]["containers"][0]["resources"] = json!({"limits": {"cpu": "1"}}),
        ];
        for (i, change) in changes.into_iter().enumerate() {
            let told = |suspend: bool| causes(json!({"suspend": suspend}), change).iter().any(|cause| cause.contains("field is immutable"));
            assert!(told(false) && !told(true), "change {i}");
        }
        let image = causes(json!({"suspend": true}), |job| job["spec"]["template"]["spec"]["containers"][0]["image"] = json!("y"));
        assert!(image[0].starts_with("spec.template.spec: Invalid value: "), "{image:?}");
    }
}
