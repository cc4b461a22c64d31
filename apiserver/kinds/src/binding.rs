//! Binding -> the pod gets its node. Source: `pkg/registry/core/pod/storage/storage.go`, `BindingREST`.

use api::{GroupResource, Key, Status, field_errors::FieldErrors, time::Timestamp};
use apiserver::kind::{Action, Ctx, Kind, Storage, Strategy, names};
use async_trait::async_trait;
use serde_json::{Value, json};

use crate::{
    common::{
        self, Read,
        edit::{make_child, remove, set},
        read,
    },
    pod::prepare::set_condition,
};

/// `POST .../namespaces/<ns>/bindings`: the old way to bind.
pub fn kind() -> Kind {
    Kind {
        verbs: names(&["create"]),
        storage: Storage::Nowhere,
        ..common::kind("", "v1", "Binding", "bindings", "io.k8s.api.core.v1", BindingStrategy)
    }
}

struct BindingStrategy;

/// `POST .../pods/<name>/binding`.
pub struct BindPod;

#[async_trait]
impl Strategy for BindingStrategy {
    fn cells(&self, object: &Value, now: Timestamp) -> Vec<Value> {
        common::table::metadata_cells(object, now)
    }

    async fn answer(&self, ctx: &Ctx<'_>, object: Value) -> Result<Value, Status> {
        let name = read::name(&object).to_owned();
        bind(ctx, &name, &object).await?;
        Ok(success())
    }
}

#[async_trait]
impl Action for BindPod {
    async fn run(&self, ctx: &Ctx<'_>, body: Value) -> Result<(u16, Value), Status> {
        if ctx.name != read::name(&body) {
            return Err(Status::bad_request("name in URL does not match name in Binding object"));
        }
        bind(ctx, ctx.name, &body).await?;
        Ok((201, success()))
    }
}

/// The body of an action that went well.
pub fn success() -> Value {
    json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201})
}

async fn bind(ctx: &Ctx<'_>, name: &str, binding: &Value) -> Result<(), Status> {
    let causes = problems(binding);
    if !causes.is_empty() {
        // Upstream hands on the errors as they are.
        let texts: Vec<String> = causes.0.iter().map(|cause| cause.text()).collect();
        return Err(Status::new(500, "", if texts.len() == 1 { texts.concat() } else { format!("[{}]", texts.join(", ")) }));
    }
    let (pods, key) = (GroupResource::new("", "pods"), Key::new(ctx.namespace, name));
    let now = ctx.now;
    let change = |pod: &mut Value| assign(pod, binding, now);
    if ctx.dry_run {
        let mut pod = ctx.engine.get(&pods, &key).await?.value();
        return change(&mut pod);
    }
    ctx.update(&pods, &key, "binding", &change).await.map(drop)
}

/// `ValidatePodBinding`.
fn problems(binding: &Value) -> FieldErrors {
    let (target, mut causes) = (binding.at("target"), FieldErrors::default());
    let kind = target.text("kind");
    if !matches!(kind, "" | "Node") {
        causes.not_supported_as("target.kind", kind, "supported values: \"Node\", \"<empty>\"");
    }
    if target.text("name").is_empty() {
        causes.required("target.name", "");
    }
    causes
}

/// `setPodNodeAndMetadata`.
fn assign(pod: &mut Value, binding: &Value, now: Timestamp) -> Result<(), Status> {
    let name = read::name(pod).to_owned();
    preconditions(pod, binding)?;
    if let Some(why) = unassignable(pod, &name) {
        return Err(Status::conflict(&GroupResource::new("", "pods/binding"), &name, &why));
    }
    if let Some(spec) = make_child(pod, "spec") {
        set(spec, "nodeName", binding.at("target").text("name"));
    }
    if let Some(status) = make_child(pod, "status") {
        remove(status, "nominatedNodeName");
    }
    for field in ["annotations", "labels"] {
        let Some(more) = binding.at("metadata").at(field).and_then(Value::as_object).filter(|m| !m.is_empty()) else { continue };
        let Some(target) = make_child(pod, "metadata").and_then(|m| make_child(m, field)) else { continue };
        more.iter().for_each(|(key, value)| set(target, key, value.clone()));
    }
    set_condition(pod, "PodScheduled", "True", "", "", now);
    Ok(())
}

fn unassignable(pod: &Value, name: &str) -> Option<String> {
    if pod.at("metadata").at("deletionTimestamp").is_some() {
        return Some(format!("pod {name} is being deleted, cannot be assigned to a host"));
    }
    let node = pod.at("spec").text("nodeName");
    if !node.is_empty() {
        return Some(format!("pod {name} is already assigned to node {node:?}"));
    }
    let gated = !pod.at("spec").list("schedulingGates").is_empty();
    gated.then(|| format!("pod {name} has non-empty .spec.schedulingGates"))
}

/// The binding's uid and resourceVersion must be the pod's, where given.
fn preconditions(pod: &Value, binding: &Value) -> Result<(), Status> {
    let name = read::name(pod);
    for (field, word) in [("uid", "UID"), ("resourceVersion", "ResourceVersion")] {
        let (wanted, found) = (binding.at("metadata").text(field), pod.at("metadata").text(field));
        if !wanted.is_empty() && wanted != found {
            let failed = format!("Precondition failed: {word} in precondition: {wanted}, {word} in object meta: {found}");
            let key = format!("/registry/pods/{}/{name}", pod.at("metadata").text("namespace"));
            let why = format!("StorageError: invalid object, Code: 4, Key: {key}, ResourceVersion: 0, AdditionalErrorMsg: {failed}");
            return Err(Status::conflict(&GroupResource::new("", "pods"), name, &why));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now() -> Timestamp {
        api::time::parse("2026-01-01T00:00:00Z").unwrap()
    }

    #[test]
    fn a_binding_needs_a_node() {
        let texts: Vec<String> = problems(&json!({"target": {"kind": "Pod"}})).0.iter().map(|c| c.text()).collect();
        assert_eq!(texts, [r#"target.kind: Unsupported value: "Pod": supported values: "Node", "<empty>""#, "target.name: Required value"]);
    }

    #[test]
    fn a_bound_pod_has_node_condition_and_annotations() {
        let mut pod = json!({"metadata": {"name": "p", "uid": "1"}, "spec": {}, "status": {"nominatedNodeName": "x"}});
        let binding = json!({"metadata": {"name": "p", "uid": "1", "annotations": {"a": "b"}}, "target": {"name": "n"}});
        assign(&mut pod, &binding, now()).unwrap();
        assert_eq!(pod["spec"]["nodeName"], "n");
        assert_eq!(pod["metadata"]["annotations"]["a"], "b");
        assert_eq!(pod["status"]["conditions"][0]["type"], "PodScheduled");
        assert!(pod["status"].get("nominatedNodeName").is_none());
        let again = assign(&mut pod, &binding, now()).unwrap_err();
        assert_eq!(again.message, r#"Operation cannot be fulfilled on pods/binding "p": pod p is already assigned to node "n""#);
    }

    #[test]
    fn a_binding_for_another_pod_of_the_name_is_refused() {
        let mut pod = json!({"metadata": {"name": "p", "uid": "2"}});
        let found = assign(&mut pod, &json!({"metadata": {"uid": "1"}, "target": {"name": "n"}}), now()).unwrap_err();
        assert_eq!(found.code, 409);
        assert!(found.message.ends_with("Precondition failed: UID in precondition: 1, UID in object meta: 2"));
    }
}
