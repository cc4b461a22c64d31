//! MutatingAdmissionWebhook, ValidatingAdmissionWebhook: writes are shown to those outside whom the configurations name; the first may change them,
//! both may refuse.
//!
//! Sources: apiserver `pkg/admission/plugin/webhook/{generic,mutating,validating,errors,matchconditions}`.

mod config;
mod exchange;
pub(crate) mod rules;

use std::{collections::BTreeSet, sync::Arc, time::Instant};

use api::Status;
use apiserver::{
    engine::{Engine, View},
    front::json_patch,
    identity::{Admission, Operation, Review},
    kind::{Ctx, Kind},
    metrics::admission::{self, Called},
    outbound::Unanswered,
};
use async_trait::async_trait;
use cel::Authority;
use serde_json::{Value, json};

pub use self::config::ClientConfig;
pub(crate) use self::config::resource;
use self::{
    config::{Configuration, Hook},
    exchange::Answer,
};
use super::{
    expressions::{ADMIT, Authorizers, CONDITIONS_COST_MAX, Evaluation, Scope, VALIDATE, came_to},
    forbidden,
    policies::matching::{matched, selects_namespace, selects_object},
    request::{self, Versioned, converted_back},
};

const MUTATING: &str = "MutatingAdmissionWebhook";

/// See the module.
#[derive(Default)]
pub struct MutatingAdmissionWebhook(View<Configuration>);

/// See the module.
#[derive(Default)]
pub struct ValidatingAdmissionWebhook(View<Configuration>);

/// What the first plugin keeps for the second pass (`webhookReinvokeContext`).
#[derive(Default)]
struct Memory {
    /// What the last webhook left.
    output: Option<Value>,
    /// Those that ran, and are asked again where something changes after them.
    asked: BTreeSet<String>,
    /// Those of them that something changed after.
    again: BTreeSet<String>,
}

/// Why a webhook did not let a write pass.
#[derive(Debug)]
enum Failed {
    /// It could not be asked: its failure policy has the word.
    Calling(String),
    /// It said no.
    Denied(Status),
    /// The server says no.
    Refused(Status),
}

#[async_trait]
impl Admission for MutatingAdmissionWebhook {
    fn name(&self) -> &'static str {
        MUTATING
    }

    fn start(&self, engine: &Arc<Engine>) {
        self.0.follow(engine, &resource("mutatingwebhookconfigurations"));
    }

    async fn admit(&self, review: &mut Review<'_>) -> Result<(), Status> {
        let configurations = all(&self.0, review)?;
        if configurations.iter().all(|configuration| configuration.hooks.is_empty()) {
            return Ok(());
        }
        let is_again = review.reinvocation.is_again();
        if is_again {
            let object = review.object.as_deref().cloned();
            let memory = review.reinvocation.memory::<Memory>(MUTATING);
            if memory.output != object {
                memory.again = memory.asked.clone();
            }
        }
        let mut index = 0;
        for configuration in &*configurations {
            for (at, hook) in configuration.hooks.iter().enumerate() {
                self.one(review, configuration, hook, at, index).await?;
                index += 1;
            }
        }
        let output = review.object.as_deref().cloned();
        review.reinvocation.memory::<Memory>(MUTATING).output = output;
        Ok(())
    }
}

impl MutatingAdmissionWebhook {
    /// `at` is its place in the configuration, `index` that among all.
    async fn one(
        &self,
        review: &mut Review<'_>,
        configuration: &Configuration,
        hook: &Hook,
        at: usize,
        index: usize,
    ) -> Result<(), Status> {
        let Some(kind) = is_asked(hook, review, ADMIT).await? else { return Ok(()) };
        let (id, is_again) = (format!("{}/{}/{at}", configuration.name, hook.name), review.reinvocation.is_again());
        if is_again && !review.reinvocation.memory::<Memory>(MUTATING).again.contains(&id) {
            return Ok(());
        }
        let began = Instant::now();
        let done = mutate(review, hook, &kind).await;
        told(&done, hook, ADMIT, review.ctx.operation, began);
        let place = format!("round_{}_index_{index}", u8::from(is_again));
        let changed = matches!(done, Ok(true));
        let told = json!({"configuration": configuration.name, "webhook": hook.name, "mutated": changed});
        review.ctx.annotate(&format!("mutation.webhook.admission.k8s.io/{place}"), told.to_string());
        if changed {
            let memory = review.reinvocation.memory::<Memory>(MUTATING);
            memory.again.extend(memory.asked.iter().cloned());
            review.reinvocation.request();
        }
        if hook.is_reinvoked {
            review.reinvocation.memory::<Memory>(MUTATING).asked.insert(id);
        }
        let failed_open = format!("failed-open.mutation.webhook.admission.k8s.io/{place}");
        done.map(drop).or_else(|failed| settled(failed, hook, review.ctx, &failed_open))
    }
}

#[async_trait]
impl Admission for ValidatingAdmissionWebhook {
    fn name(&self) -> &'static str {
        "ValidatingAdmissionWebhook"
    }

    fn start(&self, engine: &Arc<Engine>) {
        self.0.follow(engine, &resource("validatingwebhookconfigurations"));
    }

    async fn validate(&self, review: &Review<'_>) -> Result<(), Status> {
        let configurations = all(&self.0, review)?;
        let mut asked = Vec::new();
        for hook in configurations.iter().flat_map(|configuration| &configuration.hooks) {
            if let Some(kind) = is_asked(hook, review, VALIDATE).await? {
                asked.push((hook, kind));
            }
        }
        // All at a time: none of them changes what the others see.
        let answers = asked.iter().enumerate().map(|(index, (hook, kind))| async move {
            let began = Instant::now();
            let done = match shown(review, hook, kind).await {
                Ok(shown) => ask(review, hook, &shown, May::Refuse).await.map(drop),
                Err(failed) => Err(failed),
            };
            told(&done, hook, "validating", review.ctx.operation, began);
            let failed_open = format!("failed-open.validating.webhook.admission.k8s.io/round_0_index_{index}");
            done.or_else(|failed| settled(failed, hook, review.ctx, &failed_open))
        });
        futures::future::join_all(answers).await.into_iter().collect()
    }
}

/// What has a say in writes. Of the configurations themselves none of them sees any, nor of what the API server writes of its own: who is behind them may not run before it is done.
///
/// # Errors
/// There is more of them than is looked at with one request, or some cannot be decrypted.
fn all(view: &View<Configuration>, review: &Review<'_>) -> Result<Arc<[Arc<Configuration>]>, Status> {
    let of_admission = ["WebhookConfiguration", "AdmissionPolicy", "AdmissionPolicyBinding"];
    let kind = review.ctx.kind;
    if review.ctx.is_own() {
        return Ok(Arc::default());
    }
    if kind.group == "admissionregistration.k8s.io" && of_admission.iter().any(|end| kind.kind.ends_with(end)) {
        return Ok(Arc::default());
    }
    let too_much = || Status::internal("there are more webhook configurations than can be looked at");
    view.of(review.ctx.engine, "").map_err(|unseen| unseen.status(too_much))
}

/// Whether a webhook may send a patch.
#[derive(Clone, Copy, PartialEq, Eq)]
enum May {
    Change,
    Refuse,
}

/// The kind in whose version it is asked; `None` where it is not (`ShouldCallHook`).
async fn is_asked(hook: &Hook, review: &Review<'_>, step: &'static str) -> Result<Option<Arc<Kind>>, Status> {
    let Some(kind) = matched(&hook.rules, hook.match_policy, review) else { return Ok(None) };
    if !selects_namespace(&hook.namespaces, review)? || !selects_object(&hook.objects, review)? {
        return Ok(None);
    }
    let conditions = hook.conditions();
    if conditions.is_empty() {
        return Ok(Some(kind));
    }
    let versioned = Versioned::of(review, &kind).await?;
    let request = request::request(review, &kind);
    let authorizers = Authorizers { engine: review.ctx.engine, user: review.ctx.user };
    let scope = Scope {
        object: versioned.object.as_deref(),
        old: versioned.old.as_deref(),
        namespace: None,
        params: None,
        request: &request,
        authority: Authority::new(&authorizers, request::check(review.ctx)),
    };
    let began = Instant::now();
    let holds = Evaluation::new(&scope, &[], CONDITIONS_COST_MAX).hold(conditions);
    admission::conditions(&hook.name, "webhook", step, review.ctx.operation, came_to(&holds), began.elapsed());
    match holds {
        Ok(holds) => Ok(holds.then_some(kind)),
        Err(_) if hook.ignores_failure => Ok(None),
        Err(why) => Err(forbidden(review, &why)),
    }
}

/// What the webhook is shown.
async fn shown<'a>(review: &'a Review<'_>, hook: &Hook, kind: &Arc<Kind>) -> Result<Versioned<'a>, Failed> {
    let failed = |status: Status| Failed::Calling(format!("failed calling webhook {:?}: {}", hook.name, status.message));
    Versioned::of(review, kind).await.map_err(failed)
}

/// Whether the webhook changed the object.
async fn mutate(review: &mut Review<'_>, hook: &Hook, kind: &Arc<Kind>) -> Result<bool, Failed> {
    let internal = |why: String| Failed::Refused(Status::internal(why));
    let seen = shown(review, hook, kind).await?;
    let answer = ask(review, hook, &seen, May::Change).await?;
    let Some(operations) = answer.patch.filter(|patch| patch.as_array().is_none_or(|operations| !operations.is_empty())) else {
        return Ok(false);
    };
    let Some(object) = seen.object else {
        let why = "attempted to modify the object, which is not supported for this operation";
        return Err(internal(format!("admission webhook {:?} {why}", hook.name)));
    };
    let mut after = object.into_owned();
    json_patch(operations, &mut after).map_err(|status| internal(status.message))?;
    let after = converted_back(review.ctx, kind, after).await.map_err(Failed::Refused)?;
    let before = review.object.as_deref().cloned();
    review.replace(MUTATING, after).map_err(Failed::Refused)?;
    Ok(review.object.as_deref() != before.as_ref())
}

async fn ask(review: &Review<'_>, hook: &Hook, shown: &Versioned<'_>, may: May) -> Result<Answer, Failed> {
    let (ctx, name) = (review.ctx, &hook.name);
    if ctx.dry_run && !matches!(hook.side_effects.as_deref(), Some("None" | "NoneOnDryRun")) {
        return Err(Failed::Refused(Status::bad_request(format!("admission webhook {name:?} does not support dry run"))));
    }
    let calling = |why: &str| Failed::Calling(format!("failed calling webhook {name:?}: {why}"));
    let version = hook.version.ok_or_else(|| {
        calling("could not create admission objects: webhook does not accept known AdmissionReview versions (v1, v1beta1)")
    })?;
    let callee = hook.callee(ctx.engine).map_err(|why| calling(&format!("could not get REST client: {why}")))?;
    let uid = uuid::Uuid::new_v4().to_string();
    let body = exchange::request(review, shown, version, &uid).to_string();
    let (path, url) = (hook.path(), callee.url(&hook.path()));
    let answered = callee.post(&path, body.into(), hook.timeout).await.map_err(|unanswered| match unanswered {
        Unanswered::TooMany => {
            Failed::Refused(Status::too_many_requests("too many large requests wait for webhooks, please try again later", 1))
        }
        other => calling(&format!("failed to call webhook: {}", other.told(&url))),
    })?;
    let answer = Answer::read(&answered, version, &uid, may == May::Change);
    let answer = answer.map_err(|why| calling(&format!("received invalid webhook response: {why}")))?;
    for (key, value) in &answer.annotations {
        ctx.annotate(&format!("{name}/{key}"), value.clone());
    }
    ctx.warn(answer.warnings.clone());
    if answer.allowed { Ok(answer) } else { Err(Failed::Denied(answer.refusal(name))) }
}

/// For metrics.
fn told<T>(done: &Result<T, Failed>, hook: &Hook, step: &'static str, operation: Operation, began: Instant) {
    let called = match done {
        Ok(_) => Called::Admitted,
        Err(Failed::Denied(status)) => Called::Denied(status.code),
        Err(Failed::Calling(_)) => Called::Failed(hook.ignores_failure),
        Err(Failed::Refused(_)) => Called::Internal,
    };
    admission::webhook(&hook.name, step, operation, &called, began.elapsed());
}

/// By the failure policy.
fn settled(failed: Failed, hook: &Hook, ctx: &Ctx<'_>, failed_open: &str) -> Result<(), Status> {
    match failed {
        Failed::Denied(status) | Failed::Refused(status) => Err(status),
        Failed::Calling(why) if hook.ignores_failure => {
            tracing::warn!(webhook = hook.name, why, "failed calling webhook, failing open");
            ctx.annotate(failed_open, hook.name.clone());
            Ok(())
        }
        Failed::Calling(why) => Err(Status::internal(why)),
    }
}

#[cfg(test)]
mod tests;
