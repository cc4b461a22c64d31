//! PodTemplate: the strategy of a template by itself; and the pod template of a workload: its defaults and validation, and what
//! ReplicationController, ReplicaSet and Deployment share.
//!
//! Source: `pkg/registry/core/podtemplate`, `ValidatePodTemplateSpec` in `pkg/apis/core/validation`, `ValidatePodTemplateSpecForReplicaSet` in
//! `pkg/apis/apps/validation`.

use std::borrow::Cow;

use api::{field_errors::FieldErrors, time::Timestamp};
use apiserver::kind::{Column, Kind, Strategy};
use serde_json::Value;

use crate::{
    common::{
        self, Path, Read,
        edit::{make_child, remove},
        name_rules, not_negative, read, selector, table,
    },
    pod,
};

const TEMPLATE: Path<'static> = Path::new("template");
const COLUMNS: &[Column] = &[
    table::NAME_COLUMN,
    table::column("Containers", "string", "Names of each container in the template."),
    table::column("Images", "string", "Images referenced by each container in the template."),
    table::column("Pod Labels", "string", "The labels for the pod template."),
];

pub fn kind() -> Kind {
    Kind {
        columns: Cow::Borrowed(COLUMNS),
        generation: true,
        ..common::kind("", "v1", "PodTemplate", "podtemplates", "io.k8s.api.core.v1", PodTemplates)
    }
}

struct PodTemplates;

impl Strategy for PodTemplates {
    fn default(&self, object: &mut Value) {
        if let Some(template) = make_child(object, "template") {
            default_template(template);
        }
    }

    fn validate(&self, object: &Value, causes: &mut FieldErrors) {
        validate(object.get("template").unwrap_or(&Value::Null), TEMPLATE, causes);
    }

    fn warnings(&self, new: &Value, old: Option<&Value>) -> Vec<String> {
        let is_new = old.is_none_or(|old| !read::same(new.at("template"), old.at("template")));
        new.at("template").filter(|_| is_new).map(|template| pod::warnings::of(template, TEMPLATE)).unwrap_or_default()
    }

    fn returns_deleted(&self) -> bool {
        true
    }

    fn cells(&self, object: &Value, _now: Timestamp) -> Vec<Value> {
        let template = object.at("template");
        let [names, images] = table::containers_cells(template.at("spec"));
        vec![read::name(object).into(), names, images, selector::print_map(template.at("metadata").at("labels")).into()]
    }
}

/// Defaults of the template under `/spec/template`.
pub fn default(object: &mut Value) {
    if let Some(template) = object.pointer_mut("/spec/template").filter(|t| t.is_object()) {
        default_template(template);
    }
}

/// The same of a template that is no pointer in Go: one that is left out is an empty one.
pub fn default_within(spec: &mut Value) {
    if let Some(template) = make_child(spec, "template") {
        default_template(template);
    }
}

/// A template's pods get the rest of their defaults when they are made.
fn default_template(template: &mut Value) {
    if let Some(metadata) = make_child(template, "metadata")
        && metadata.get("creationTimestamp").is_some_and(Value::is_null)
    {
        remove(metadata, "creationTimestamp");
    }
    if let Some(spec) = make_child(template, "spec") {
        pod::defaults::pod_spec(spec);
    }
}

/// `ValidatePodTemplateSpec`
pub fn validate(template: &Value, path: Path<'_>, causes: &mut FieldErrors) {
    let metadata = template.at("metadata");
    selector::labels(metadata.at("labels"), path.field("labels"), causes);
    selector::annotations(metadata.at("annotations"), path.field("annotations"), causes);
    let spec_path = path.field("spec");
    let spec = template.get("spec").unwrap_or(&Value::Null);
    pod::validate::annotations::validate(metadata.at("annotations"), spec, path.field("annotations"), causes);
    pod::validate::spec(spec, pod::validate::Owner::Template, spec_path, causes);
    pod::validate::annotations::agree(metadata.at("annotations"), Some(spec), spec_path, causes);
    if !spec.list("ephemeralContainers").is_empty() {
        causes.forbidden(spec_path.field("ephemeralContainers"), "ephemeral containers not allowed in pod template");
    }
}

/// The template of a workload that keeps pods running: `kind` names it in messages. `matches` says whether the selector, if there is one
/// that is not empty, selects the template's labels.
pub fn validate_running(template: Option<&Value>, matches: bool, kind: &str, path: Path<'_>, causes: &mut FieldErrors) {
    let Some(template) = template else {
        causes.required(path, "");
        return;
    };
    if !matches {
        not_selected(Some(template), path, causes);
    }
    validate(template, path, causes);
    runs_always(Some(template), kind, path, causes);
}

/// The template's labels are none that the workload's selector selects.
pub fn not_selected(template: Option<&Value>, path: Path<'_>, causes: &mut FieldErrors) {
    let labels = read::as_map(template.at("metadata").at("labels"));
    causes.invalid(path.field("metadata").field("labels"), labels, "`selector` does not match template `labels`");
}

/// What a template of pods that run until they are deleted must not say; `kind` is the workload's in messages.
pub fn runs_always(template: Option<&Value>, kind: &str, path: Path<'_>, causes: &mut FieldErrors) {
    let (spec, spec_path) = (template.at("spec"), path.field("spec"));
    let policy = spec.text("restartPolicy");
    if policy != "Always" {
        causes.not_supported(spec_path.field("restartPolicy"), policy, &["Always"]);
    }
    if spec.at("activeDeadlineSeconds").is_some() {
        causes.forbidden(spec_path.field("activeDeadlineSeconds"), &format!("activeDeadlineSeconds in {kind} is not Supported"));
    }
}

/// Selector and template of an `apps/v1` workload.
pub fn validate_selected(spec: Option<&Value>, path: Path<'_>, causes: &mut FieldErrors) {
    let (found, at) = (spec.at("selector"), path.field("selector"));
    let mut is_readable = true;
    match found {
        None => causes.required(at, ""),
        Some(value) => {
            is_readable = selector::is_readable(found, at, causes);
            if selector::is_empty(found) {
                causes.invalid(at, value.clone(), "empty selector is invalid for deployment");
            }
        }
    }
    let template = spec.at("template");
    match selector::matches(found, template.at("metadata").at("labels")) {
        // Upstream's empty-handed selector (nil) matches nothing, and is not empty.
        Ok(matches) if is_readable => {
            let is_empty = found.is_some() && selector::is_empty(found);
            validate_running(template, matches || is_empty, "ReplicaSet", path.field("template"), causes);
        }
        _ => causes.invalid(at, found.cloned().unwrap_or(Value::Null), "invalid label selector"),
    }
}

/// Counts in a workload's status: none below 0, none of `parts` above `replicas`, available within ready.
pub fn validate_counts(status: Option<&Value>, parts: &[&str], others: &[&str], causes: &mut FieldErrors) {
    validate_parts(status, parts, others, causes);
    available_within_ready(status, "cannot be greater than readyReplicas", causes);
}

/// Available pods are ready ones; `why` is the cause's text.
pub fn available_within_ready(status: Option<&Value>, why: &str, causes: &mut FieldErrors) {
    let available = status.int("availableReplicas").unwrap_or(0);
    if available > status.int("readyReplicas").unwrap_or(0) {
        causes.invalid("status.availableReplicas", available, why);
    }
}

/// A status's collision count only rises, and does not go again (`IsDecremented`).
pub fn collisions(new: &Value, old: &Value, causes: &mut FieldErrors) {
    let count = |object: &Value| object.at("status").int("collisionCount");
    if let Some(before) = count(old)
        && count(new).is_none_or(|now| now < before)
    {
        causes.invalid("status.collisionCount", count(new).unwrap_or(0), "cannot be decremented");
    }
}

/// Counts in a workload's status: none below 0, none of `parts` above `replicas`.
pub fn validate_parts(status: Option<&Value>, parts: &[&str], others: &[&str], causes: &mut FieldErrors) {
    let path = Path::new("status");
    let count = |name: &str| status.int(name).unwrap_or(0);
    for name in ["replicas"].iter().chain(parts).chain(others) {
        not_negative(status.int(name), path.field(name), causes);
    }
    for name in parts {
        if count(name) > count("replicas") {
            causes.invalid(path.field(name), count(name), "cannot be greater than status.replicas");
        }
    }
}

/// Warnings about a workload's name, which becomes part of host names, when it is made, and about its template when that is new.
pub fn warnings(new: &Value, old: Option<&Value>) -> Vec<String> {
    name_warning(new, old).into_iter().chain(template_warnings(new, old)).collect()
}

/// About the name of a new workload that its pods are named after.
pub fn name_warning(new: &Value, old: Option<&Value>) -> Option<String> {
    let errors = if old.is_none() { name_rules::dns_label(read::name(new)) } else { Vec::new() };
    let what = "this is used in Pod names and hostnames, which can result in surprising behavior; a DNS label is recommended";
    (!errors.is_empty()).then(|| format!("metadata.name: {what}: [{}]", errors.join(" ")))
}

/// About the template under `/spec/template` where that is new.
pub fn template_warnings(new: &Value, old: Option<&Value>) -> Vec<String> {
    let template = |object: &Value| object.at("spec").at("template").cloned();
    let changed = template(new).filter(|t| old.and_then(template).as_ref() != Some(t));
    changed.map(|t| pod::warnings::of(&t, Path::new("spec.template"))).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_template_is_defaulted_judged_and_shown() {
        let pod = json!({"containers": [{"name": "a", "image": "x:1"}, {"name": "b", "image": "y:1"}]});
        let mut object = json!({"metadata": {"name": "t"}, "template": {"metadata": {"labels": {"app": "x"}}, "spec": pod}});
        PodTemplates.default(&mut object);
        assert_eq!(object["template"]["spec"]["restartPolicy"], "Always");
        let mut causes = FieldErrors::default();
        PodTemplates.validate(&object, &mut causes);
        assert!(causes.is_empty(), "{causes:?}");
        let cells = PodTemplates.cells(&object, Timestamp::UNIX_EPOCH);
        assert_eq!(Value::from(cells), json!(["t", "a,b", "x:1,y:1", "app=x"]));
        let mut empty = json!({"metadata": {"name": "t"}});
        PodTemplates.default(&mut empty);
        PodTemplates.validate(&empty, &mut causes);
        assert_eq!(causes.0.iter().map(|c| c.text()).collect::<Vec<_>>(), ["template.spec.containers: Required value"]);
    }
}
