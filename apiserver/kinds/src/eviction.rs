//! Eviction -> the pod is marked as disrupted and deleted, if its budget allows. Source: `pkg/registry/core/pod/storage/eviction.go`.

mod budget;

use std::sync::Arc;

use api::{GroupResource, Gvk, Key, Status, field_errors::FieldErrors, time::Timestamp};
use apiserver::{
    engine::{Engine, Object, View},
    kind::{Action, Ctx},
};
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
use budget::Answer;

/// How often a pod that changes meanwhile is looked at again.
const ATTEMPTS: usize = 20;

/// `POST .../pods/<name>/eviction`.
#[derive(Default)]
pub struct EvictPod {
    guards: View<budget::Guard>,
}

#[async_trait]
impl Action for EvictPod {
    /// Clients of old servers send it in the version that came first.
    fn accepts(&self, api_version: &str) -> bool {
        api_version == "policy/v1beta1"
    }

    fn start(&self, engine: &Arc<Engine>) {
        self.guards.follow(engine, &budget::budgets());
    }

    async fn run(&self, ctx: &Ctx<'_>, body: Value) -> Result<(u16, Value), Status> {
        if ctx.name != read::name(&body) {
            return Err(Status::bad_request("name in URL does not match name in Eviction object"));
        }
        let mut options = delete_options(&body, ctx.name)?;
        if ctx.dry_run {
            set(&mut options, "dryRun", json!(["All"]));
        }
        let eviction = Eviction { ctx, guards: &self.guards, dry: !options.list("dryRun").is_empty(), options };
        if let Some(guarded) = eviction.unguarded().await? {
            eviction.guarded(&guarded).await?;
        }
        Ok((201, success()))
    }
}

/// One request on its way.
struct Eviction<'a> {
    ctx: &'a Ctx<'a>,
    guards: &'a View<budget::Guard>,
    /// DeleteOptions as sent.
    options: Value,
    dry: bool,
}

impl Eviction<'_> {
    /// Evicts a pod that no budget guards: one that is over, going, or never ran. Else gives it back.
    async fn unguarded(&self) -> Result<Option<Arc<Object>>, Status> {
        let mut last = Status::stale(&pods(), self.ctx.name);
        for _ in 0..ATTEMPTS {
            let pod = self.ctx.engine.get(&pods(), &self.key()).await?;
            let Some(guard) = guard(&pod.value()) else { return Ok(Some(pod)) };
            let options = if guard == Guard::Revision { self.options_at(&pod) } else { self.options.clone() };
            match self.evict(options).await {
                Ok(()) => return Ok(None),
                Err(status) if status.reason == "Conflict" && self.asked_revision().is_empty() => last = status,
                Err(status) => return Err(status),
            }
        }
        Err(last)
    }

    /// Evicts a pod that a budget may guard.
    async fn guarded(&self, pod: &Arc<Object>) -> Result<(), Status> {
        let at_revision = match budget::ask(self.ctx, self.guards, &pod.value(), self.dry).await? {
            Answer::Allowed => return self.evict(self.options.clone()).await,
            Answer::Unhealthy(budget) => budget,
        };
        // It must not have become healthy since.
        match self.evict(self.options_at(pod)).await {
            Err(status) if status.reason == "Conflict" && self.asked_revision().is_empty() => Err(budget::busy(&at_revision)),
            done => done,
        }
    }

    async fn evict(&self, mut options: Value) -> Result<(), Status> {
        let now = self.ctx.now;
        if !self.dry {
            let mark = |pod: &mut Value| disrupt(pod, &options, now);
            let marked = self.ctx.update(&pods(), &self.key(), "status", &mark).await?;
            follow(&mut options, marked.rev);
        }
        self.ctx.delete(&pods(), &self.key(), options).await
    }

    fn asked_revision(&self) -> &str {
        self.options.at("preconditions").text("resourceVersion")
    }

    /// The options, about the pod as it was seen; what the client asked for has the word.
    fn options_at(&self, pod: &Object) -> Value {
        let mut options = self.options.clone();
        if self.asked_revision().is_empty()
            && let Some(preconditions) = make_child(&mut options, "preconditions")
        {
            set(preconditions, "resourceVersion", pod.rev.to_string());
        }
        options
    }

    fn key(&self) -> Key {
        Key::new(self.ctx.namespace, self.ctx.name)
    }
}

/// What keeps a pod without budget from being evicted by mistake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Guard {
    Nothing,
    /// It must still be as it was seen: a pending pod may become ready.
    Revision,
}

/// `canIgnorePDB`, `shouldEnforceResourceVersion`; `None` where budgets count.
fn guard(pod: &Value) -> Option<Guard> {
    if pod.at("metadata").at("deletionTimestamp").is_some() {
        return Some(Guard::Nothing);
    }
    match pod.at("status").text("phase") {
        "Succeeded" | "Failed" => Some(Guard::Nothing),
        "Pending" => Some(Guard::Revision),
        _ => None,
    }
}

fn pods() -> GroupResource {
    GroupResource::new("", "pods")
}

fn delete_options(body: &Value, name: &str) -> Result<Value, Status> {
    let options = body.at("deleteOptions").cloned().unwrap_or_else(|| json!({}));
    let unsafe_option = "ignoreStoreReadErrorWithClusterBreakingPotential";
    if options.is_true(unsafe_option) {
        let mut causes = FieldErrors::default();
        causes.invalid(format!("deleteOptions.{unsafe_option}"), true, "can not be set for pod eviction, try after removing the option");
        return Err(Status::invalid(&Gvk::new("policy", "v1", "Eviction"), name, &causes));
    }
    Status::known_dry_run(&options.list("dryRun").iter().filter_map(Value::as_str).collect::<Vec<_>>())?;
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
    fn budgets_guard_pods_that_run() {
        let pod = |phase: &str| json!({"metadata": {}, "status": {"phase": phase}});
        let cases = [("Running", None), ("Pending", Some(Guard::Revision)), ("Failed", Some(Guard::Nothing))];
        for (phase, wanted) in cases {
            assert_eq!(guard(&pod(phase)), wanted, "{phase}");
        }
        let going = json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}, "status": {"phase": "Running"}});
        assert_eq!(guard(&going), Some(Guard::Nothing));
    }

    #[test]
    fn options_are_looked_at() {
        let of = |options: Value| delete_options(&json!({"deleteOptions": options}), "p").map_err(|status| status.message);
        assert!(of(json!({"dryRun": ["All"]})).is_ok());
        let wanted = "DeleteOptions.meta.k8s.io \"\" is invalid: dryRun: Unsupported value: [\"Some\"]: supported values: \"All\"";
        assert_eq!(of(json!({"dryRun": ["Some"]})), Err(wanted.into()));
    }

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
