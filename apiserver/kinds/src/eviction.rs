//! Eviction -> the pod is marked as disrupted and deleted. Source: `pkg/registry/core/pod/storage/eviction.go`.
//!
//! There are no PodDisruptionBudgets yet, so nothing holds an eviction back.

use api::{GroupResource, Gvk, Key, Status, causes::Causes, time::Timestamp};
use apiserver::kind::{Action, Ctx};
use async_trait::async_trait;
use serde_json::{Value, json};

use crate::{
    binding::success,
    common::{
        Read,
        edit::{make_child, set},
        read,
    },
    pod::prepare::set_condition,
};

/// `POST .../pods/<name>/eviction`.
pub struct EvictPod;

#[async_trait]
impl Action for EvictPod {
    async fn run(&self, ctx: &Ctx<'_>, body: Value) -> Result<(u16, Value), Status> {
        if ctx.name != read::name(&body) {
            return Err(Status::bad_request("name in URL does not match name in Eviction object"));
        }
        let mut options = delete_options(&body, ctx.name)?;
        let (pods, key) = (GroupResource::new("", "pods"), Key::new(ctx.namespace, ctx.name));
        let dry = ctx.dry_run || !options.list("dryRun").is_empty();
        if dry {
            set(&mut options, "dryRun", json!(["All"]));
        } else {
            let now = ctx.now;
            let mark = |pod: &mut Value| disrupt(pod, &options, now);
            let marked = ctx.engine.update(&pods, &key, "status", ctx.user, &mark).await?;
            follow(&mut options, marked.rev);
        }
        ctx.engine.delete(&pods, &key, options, ctx.user).await?;
        Ok((201, success()))
    }
}

fn delete_options(body: &Value, name: &str) -> Result<Value, Status> {
    let options = body.at("deleteOptions").cloned().unwrap_or_else(|| json!({}));
    let unsafe_option = "ignoreStoreReadErrorWithClusterBreakingPotential";
    if options.is_true(unsafe_option) {
        let mut causes = Causes::default();
        causes.invalid(format!("deleteOptions.{unsafe_option}"), true, "can not be set for pod eviction, try after removing the option");
        return Err(Status::invalid(&Gvk::new("policy", "v1", "Eviction"), name, &causes));
    }
    Ok(options)
}

/// Adds the condition `DisruptionTarget` to the pod that the preconditions mean.
fn disrupt(pod: &mut Value, options: &Value, now: Timestamp) -> Result<(), Status> {
    let (wanted, metadata) = (options.at("preconditions"), pod.at("metadata"));
    let checks = [
        ("uid", "UID", "The object might have been deleted and then recreated"),
        ("resourceVersion", "ResourceVersion", "The object might have been modified"),
    ];
    for (field, word, hint) in checks {
        let (asked, found) = (wanted.text(field), metadata.text(field));
        if !asked.is_empty() && asked != found {
            let why = format!("the {word} in the precondition ({asked}) does not match the {word} in record ({found}). {hint}");
            return Err(Status::conflict(&GroupResource::new("", "Pod"), read::name(pod), &why));
        }
    }
    set_condition(pod, "DisruptionTarget", "True", "EvictionByEvictionAPI", "Eviction API: evicting", now);
    Ok(())
}

/// A resourceVersion precondition follows our own write.
fn follow(options: &mut Value, rev: u64) {
    if options.at("preconditions").text("resourceVersion").is_empty() {
        return;
    }
    if let Some(preconditions) = make_child(options, "preconditions") {
        set(preconditions, "resourceVersion", rev.to_string());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pod_meant_is_marked() {
        let now = api::time::parse("2026-01-01T00:00:00Z").unwrap();
        let mut pod = json!({"metadata": {"name": "p", "uid": "1", "resourceVersion": "7"}});
        let other = json!({"preconditions": {"uid": "2"}});
        let text = disrupt(&mut pod, &other, now).unwrap_err().message;
        assert!(text.contains("the UID in the precondition (2) does not match the UID in record (1)"), "{text}");
        let mut options = json!({"preconditions": {"uid": "1", "resourceVersion": "7"}});
        disrupt(&mut pod, &options, now).unwrap();
        assert_eq!(pod["status"]["conditions"][0]["reason"], "EvictionByEvictionAPI");
        follow(&mut options, 9);
        assert_eq!(options["preconditions"]["resourceVersion"], "9");
    }
}
