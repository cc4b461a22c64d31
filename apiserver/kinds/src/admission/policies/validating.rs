//! ValidatingAdmissionPolicy: what its expressions say of a write, and what the bindings make of that. Source: apiserver
//! `pkg/admission/plugin/policy/validating/dispatcher.go`.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use api::Status;
use apiserver::{
    engine::Engine,
    identity::{Admission, Review},
    kind::Kind,
    metrics::admission,
};
use async_trait::async_trait;
use cel::Authority;
use serde_json::{Value, json};

use super::{
    Hook, Source,
    evaluation::{Annotation, Denial, NO_ERROR, Told, Verdict, validate},
    policy::{Binding, Policy},
};
use crate::admission::{
    expressions::{Authorizers, Scope, VALIDATE},
    forbidden,
    request::{self, Versioned, namespace_object, namespace_of},
};

/// Of an audit annotation's value (`maxAuditAnnotationValueLength`).
const ANNOTATION_BYTES_MAX: usize = 10 << 10;
const FAILURE: &str = "validation.policy.admission.k8s.io/validation_failure";

/// See the module.
#[derive(Default)]
pub struct ValidatingAdmissionPolicy(Source);

/// Who refuses a write, and why.
struct Denied {
    /// With the policy's name, and the binding's.
    message: String,
    reason: String,
}

#[async_trait]
impl Admission for ValidatingAdmissionPolicy {
    fn name(&self) -> &'static str {
        "ValidatingAdmissionPolicy"
    }

    fn start(&self, engine: &Arc<Engine>) {
        self.0.follow(engine, "validatingadmissionpolicies", "validatingadmissionpolicybindings");
    }

    async fn validate(&self, review: &Review<'_>) -> Result<(), Status> {
        let Some(hooks) = self.0.hooks(review)? else { return Ok(()) };
        let mut denied = Vec::new();
        for hook in hooks.about(review) {
            self.hook(review, hook, &mut denied).await?;
        }
        match denied.into_iter().next() {
            Some(first) => Err(refusal(review, first)),
            None => Ok(()),
        }
    }
}

/// 403, 413 or 422 by the reason, in the words of a 403.
fn refusal(review: &Review<'_>, denied: Denied) -> Status {
    let mut status = forbidden(review, &denied.message);
    let reason = if denied.reason.is_empty() { "Invalid".to_owned() } else { denied.reason };
    status.code = match reason.as_str() {
        "Forbidden" => 403,
        "Unauthorized" => 401,
        "RequestEntityTooLarge" => 413,
        _ => 422,
    };
    status.reason = reason.into();
    let causes = json!([{"message": denied.message}]);
    status.detail("causes", causes);
    status
}

fn told(policy: &Policy, binding: Option<&Binding>, message: &str) -> String {
    match binding {
        Some(binding) => {
            format!("ValidatingAdmissionPolicy '{}' with binding '{}' denied request: {message}", policy.name, binding.name)
        }
        None => format!("ValidatingAdmissionPolicy '{}' denied request: {message}", policy.name),
    }
}

/// What is wrong with a policy or its binding: by the failure policy.
fn misconfigured(policy: &Policy, binding: Option<&Binding>, why: &str, denied: &mut Vec<Denied>) {
    if !policy.ignores_failure {
        let what = if binding.is_some() { "binding" } else { "policy" };
        let message = told(policy, binding, &format!("failed to configure {what}: {why}"));
        denied.push(Denied { message, reason: String::new() });
    }
}

/// Values by key, each once.
#[derive(Default)]
struct Annotations(BTreeMap<String, Vec<String>>);

impl ValidatingAdmissionPolicy {
    async fn hook(&self, review: &Review<'_>, hook: &Hook, denied: &mut Vec<Denied>) -> Result<(), Status> {
        let (policy, engine) = (&*hook.policy, review.ctx.engine);
        let kind = match policy.constraints.matches(review) {
            Ok(Some(kind)) => kind,
            Ok(None) => return Ok(()),
            Err(why) => {
                misconfigured(policy, None, &why, denied);
                return Ok(());
            }
        };
        let param_kind = match policy.param_kind(engine) {
            Ok(kind) => kind,
            Err(why) => {
                misconfigured(policy, None, &why, denied);
                return Ok(());
            }
        };
        let (mut annotations, mut shown) = (Annotations::default(), None);
        for binding in &hook.bindings {
            match binding.resources.as_ref().map(|resources| resources.matches(review)) {
                None | Some(Ok(Some(_))) => {}
                Some(Ok(None)) => continue,
                Some(Err(why)) => {
                    misconfigured(policy, Some(binding), &why, denied);
                    continue;
                }
            }
            let params = self.0.parsed.collect(engine, param_kind.as_ref(), binding.params.as_ref(), namespace_of(review.ctx)).await;
            let params = match params {
                Ok(params) => params,
                Err(why) => {
                    misconfigured(policy, Some(binding), &why, denied);
                    continue;
                }
            };
            if params.is_empty() {
                continue;
            }
            if shown.is_none() {
                match Shown::of(review, &kind).await {
                    Ok(made) => shown = Some(made),
                    Err(Unshown::Refused(status)) => return Err(status),
                    Err(Unshown::Misconfigured(why)) => {
                        misconfigured(policy, Some(binding), &why, denied);
                        continue;
                    }
                }
            }
            let Some(shown) = &shown else { continue };
            hook.policy.ready().await;
            for params in params {
                let began = Instant::now();
                let verdict = shown.judged(review, policy, params.as_deref());
                counted(policy, binding, &verdict, began.elapsed());
                settle(review, (policy, binding), verdict, &mut annotations, denied);
                // Others have a turn between any two.
                tokio::task::yield_now().await;
            }
        }
        annotations.publish(review, &policy.name);
        Ok(())
    }
}

/// What the expressions of one policy see of a write, whatever the parameters.
struct Shown<'a> {
    versioned: Versioned<'a>,
    namespace: Option<Value>,
    request: Value,
}

enum Unshown {
    Refused(Status),
    Misconfigured(String),
}

impl<'a> Shown<'a> {
    async fn of(review: &'a Review<'_>, kind: &Arc<Kind>) -> Result<Self, Unshown> {
        let versioned = Versioned::of(review, kind).await;
        let versioned =
            versioned.map_err(|status| Unshown::Misconfigured(format!("failed to convert object version: {}", status.message)))?;
        let namespace = namespace_object(review.ctx).map_err(Unshown::Refused)?;
        Ok(Self { request: request::request(review, kind), versioned, namespace })
    }

    fn judged(&self, review: &Review<'_>, policy: &Policy, params: Option<&Value>) -> Verdict {
        let authorizers = Authorizers { engine: review.ctx.engine, user: review.ctx.user };
        let scope = Scope {
            object: self.versioned.object.as_deref(),
            old: self.versioned.old.as_deref(),
            namespace: self.namespace.as_ref(),
            params,
            request: &self.request,
            authority: Authority::new(&authorizers, request::check(review.ctx)),
        };
        let told = Told { policy: &policy.name, step: VALIDATE, operation: review.ctx.operation };
        validate(policy.compiled(), &scope, policy.ignores_failure, &told)
    }
}

/// For metrics: once for each action, and once where there is none.
fn counted(policy: &Policy, binding: &Binding, verdict: &Verdict, took: Duration) {
    if verdict.denials.is_empty() {
        admission::validating_policy(&policy.name, &binding.name, NO_ERROR, "allow", took);
    }
    for denial in &verdict.denials {
        for action in [("Deny", "deny"), ("Warn", "warn"), ("Audit", "audit")] {
            if binding.actions.iter().any(|own| own == action.0) {
                admission::validating_policy(&policy.name, &binding.name, denial.error_type(), action.1, took);
            }
        }
    }
}

/// Denials become what the binding's actions say.
fn settle(
    review: &Review<'_>,
    (policy, binding): (&Policy, &Binding),
    verdict: Verdict,
    annotations: &mut Annotations,
    denied: &mut Vec<Denied>,
) {
    for Denial { index, message, reason } in verdict.denials {
        for action in &binding.actions {
            match action.as_str() {
                "Deny" => denied.push(Denied { message: told(policy, Some(binding), &message), reason: reason.clone() }),
                "Warn" => {
                    let who = format!("ValidatingAdmissionPolicy '{}' with binding '{}'", policy.name, binding.name);
                    review.ctx.warn(vec![format!("Validation failed for {who}: {message}")]);
                }
                "Audit" => {
                    let failure = json!([{"message": message, "policy": binding.policy, "binding": binding.name, "expressionIndex": index,
                        "validationActions": binding.actions}]);
                    review.ctx.annotate(FAILURE, failure.to_string());
                }
                _ => {}
            }
        }
    }
    for annotation in verdict.annotations {
        match annotation {
            Annotation::Published { key, value } => annotations.add(key, value),
            Annotation::Failed(why) => denied.push(Denied { message: told(policy, Some(binding), &why), reason: String::new() }),
        }
    }
}

impl Annotations {
    fn add(&mut self, key: String, mut value: String) {
        let end = (0..=ANNOTATION_BYTES_MAX.min(value.len())).rev().find(|end| value.is_char_boundary(*end)).unwrap_or(0);
        value.truncate(end);
        let values = self.0.entry(key).or_default();
        if !values.contains(&value) {
            values.push(value);
        }
    }

    fn publish(self, review: &Review<'_>, policy: &str) {
        for (key, values) in self.0 {
            review.ctx.annotate(&format!("{policy}/{key}"), values.join(", "));
        }
    }
}
