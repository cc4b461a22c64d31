//! Containers and init containers -> what is wrong with them.

use std::collections::HashSet;

use api::field_errors::FieldErrors;
use serde_json::Value;

use super::{Owner, Whole, env, label, mounts, ports, probes, resources, security};
use crate::common::{Path, Read, not_supported, one_of};

/// `validateContainers`
pub fn regular(whole: &Whole<'_>, path: Path<'_>, causes: &mut FieldErrors) {
    let containers = whole.spec.list("containers");
    if containers.is_empty() {
        return causes.required(path, "");
    }
    let mut names = HashSet::new();
    for (i, container) in containers.iter().enumerate() {
        let at = path.index(i);
        common(container, whole, at, causes);
        let name = container.text("name");
        if !names.insert(name) {
            causes.duplicate(at.field("name"), name);
        }
        probes::all(container, whole, at, causes);
        restart_policy(container, at, causes);
    }
    ports::host_conflicts(containers, path, causes);
}

/// `validateInitContainers`
pub fn init(whole: &Whole<'_>, path: Path<'_>, causes: &mut FieldErrors) {
    let mut names: HashSet<&str> = whole.spec.list("containers").iter().map(|c| c.text("name")).collect();
    for (i, container) in whole.spec.list("initContainers").iter().enumerate() {
        let at = path.index(i);
        common(container, whole, at, causes);
        restart_policy(container, at, causes);
        let name = container.text("name");
        if !name.is_empty() && !names.insert(name) {
            causes.duplicate(at.field("name"), name);
        }
        ports::host_conflicts(std::slice::from_ref(container), path, causes);
        if container.text("restartPolicy") == "Always" {
            probes::all(container, whole, at, causes);
        } else {
            not_for_init(container, at, causes);
        }
    }
}

fn not_for_init(container: &Value, path: Path<'_>, causes: &mut FieldErrors) {
    for field in ["lifecycle", "livenessProbe", "readinessProbe", "startupProbe"] {
        if container.at(field).is_some() {
            causes.forbidden(path.field(field), "may not be set for init containers without restartPolicy=Always");
        }
    }
    let list = path.field("resizePolicy");
    for (i, _) in container.list("resizePolicy").iter().enumerate().filter(|(_, p)| p.text("restartPolicy") == "RestartContainer") {
        let text = "must not be set to 'RestartContainer' for non-sidecar initContainers";
        causes.invalid(list.index(i).field("restartPolicy"), "RestartContainer", text);
    }
}

/// `validateContainerCommon`, and what pods alone must keep.
pub(super) fn common(container: &Value, whole: &Whole<'_>, path: Path<'_>, causes: &mut FieldErrors) {
    label(container.text("name"), path.field("name"), causes);
    let image = container.text("image");
    if image.is_empty() {
        causes.required(path.field("image"), "");
    }
    if whole.owner == Owner::Pod && image.trim() != image {
        causes.invalid(path.field("image"), image, "must not have leading or trailing whitespace");
    }
    let policies = ["File", "FallbackToLogsOnError"];
    one_of(container.text("terminationMessagePolicy"), &policies, path.field("terminationMessagePolicy"), causes);
    ports::container(container.list("ports"), path.field("ports"), causes);
    env::variables(container.list("env"), path.field("env"), causes);
    env::sources(container.list("envFrom"), path.field("envFrom"), causes);
    mounts::mounts(container, whole, path.field("volumeMounts"), causes);
    mounts::devices(container, whole, path.field("volumeDevices"), causes);
    one_of(container.text("imagePullPolicy"), &["Always", "IfNotPresent", "Never"], path.field("imagePullPolicy"), causes);
    resources::container(container, whole, path.field("resources"), causes);
    resize_policy(container, whole, path.field("resizePolicy"), causes);
    security::container(container, whole, path.field("securityContext"), causes);
}

/// `validateContainerRestartPolicy`
fn restart_policy(container: &Value, path: Path<'_>, causes: &mut FieldErrors) {
    let (at, list) = (path.field("restartPolicy"), path.field("restartPolicyRules"));
    let rules = container.list("restartPolicyRules");
    match container.at("restartPolicy").and_then(Value::as_str) {
        None if rules.is_empty() => return,
        None => causes.required(at, "must specify restartPolicy when restart rules are used"),
        Some("Always" | "Never" | "OnFailure") => {}
        Some(other) => not_supported(other, &["Always", "Never", "OnFailure"], at, causes),
    }
    if rules.len() > 20 {
        causes.too_many(list, rules.len(), 20);
    }
    for (i, rule) in rules.iter().enumerate() {
        restart_rule(rule, list.index(i), causes);
    }
}

fn restart_rule(rule: &Value, path: Path<'_>, causes: &mut FieldErrors) {
    let action = rule.text("action");
    if !matches!(action, "Restart" | "RestartAllContainers") {
        not_supported(action, &["Restart", "RestartAllContainers"], path.field("action"), causes);
    }
    let at = path.field("exitCodes");
    let Some(codes) = rule.at("exitCodes") else { return causes.required(at, "must be specified") };
    let operator = codes.text("operator");
    if !matches!(operator, "In" | "NotIn") {
        not_supported(operator, &["In", "NotIn"], at.field("operator"), causes);
    }
    let values = codes.list("values").len();
    if values > 255 {
        causes.too_many(at.field("values"), values, 255);
    }
}

/// `validateResizePolicy`
fn resize_policy(container: &Value, whole: &Whole<'_>, path: Path<'_>, causes: &mut FieldErrors) {
    let mut seen = HashSet::new();
    for (i, policy) in container.list("resizePolicy").iter().enumerate() {
        let (resource, restart) = (policy.text("resourceName"), policy.text("restartPolicy"));
        if !seen.insert(resource) {
            causes.duplicate(path.index(i), resource);
        }
        one_of(resource, &["cpu", "memory"], path, causes);
        one_of(restart, &["NotRequired", "RestartContainer"], path, causes);
        if whole.spec.text("restartPolicy") == "Never" && restart != "NotRequired" {
            causes.invalid(path, restart, "must be 'NotRequired' when pod `restartPolicy` is 'Never'");
        }
    }
}
