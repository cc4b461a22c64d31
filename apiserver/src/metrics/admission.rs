//! What admission does with writes, and how long it takes -> `apiserver_admission_*` and the checks of policies.
//!
//! Sources: apiserver `pkg/admission/metrics`, `pkg/admission/plugin/policy/{validating,mutating}/metrics`.

use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};

use api::metrics::{Family, Series};

use crate::identity::{Admission, Operation};

/// Seconds.
const BUCKETS: &[f64] = &[0.005, 0.025, 0.1, 0.5, 1.0, 2.5];
const WEBHOOK_BUCKETS: &[f64] = &[0.005, 0.025, 0.1, 0.5, 1.0, 2.5, 10.0, 25.0];
const CONDITION_BUCKETS: &[f64] = &[0.001, 0.005, 0.01, 0.025, 0.1, 0.2, 0.25];
const CHECK_BUCKETS: &[f64] = &[0.000_000_5, 0.001, 0.01, 0.1, 1.0];
/// Of a status code (`ObserveWebhook`).
const CODE_LAST: u16 = 600;

static STEP: Family = Family::times(
    "apiserver_admission_step_admission_duration_seconds",
    "[STABLE] Admission sub-step latency histogram in seconds, broken out for each operation and API resource and step type (validate or admit).",
    &["type", "operation", "rejected"],
    BUCKETS,
);
static CONTROLLER: Family = Family::times(
    "apiserver_admission_controller_admission_duration_seconds",
    "[STABLE] Admission controller latency histogram in seconds, identified by name and broken out for each operation and API resource and type (validate or admit).",
    &["name", "type", "operation", "rejected"],
    BUCKETS,
);
static WEBHOOK: Family = Family::times(
    "apiserver_admission_webhook_admission_duration_seconds",
    "[STABLE] Admission webhook latency histogram in seconds, identified by name and broken out for each operation and API resource and type (validate or admit).",
    &["name", "type", "operation", "rejected"],
    WEBHOOK_BUCKETS,
);
static WEBHOOK_REQUESTS: Family = Family::counter(
    "apiserver_admission_webhook_request_total",
    "[ALPHA] Admission webhook request total, identified by name and broken out for each admission type (validating or admit) and operation. Additional labels specify whether the request was rejected or not and an HTTP status code. Codes greater than 600 are truncated to 600, to keep the metrics cardinality bounded.",
    &["name", "type", "operation", "code", "rejected"],
);
static WEBHOOK_REJECTIONS: Family = Family::counter(
    "apiserver_admission_webhook_rejection_count",
    "[ALPHA] Admission webhook rejection count, identified by name and broken out for each admission type (validating or admit) and operation. Additional labels specify an error type (calling_webhook_error or apiserver_internal_error if an error occurred; no_error otherwise) and optionally a non-zero rejection code if the webhook rejects the request with an HTTP status code (honored by the apiserver when the code is greater or equal to 400). Codes greater than 600 are truncated to 600, to keep the metrics cardinality bounded.",
    &["name", "type", "operation", "error_type", "rejection_code"],
);
static WEBHOOK_FAIL_OPEN: Family = Family::counter(
    "apiserver_admission_webhook_fail_open_count",
    "[ALPHA] Admission webhook fail open count, identified by name and broken out for each admission type (validating or admit).",
    &["name", "type"],
);
static CONDITION_ERRORS: Family = Family::counter(
    "apiserver_admission_match_condition_evaluation_errors_total",
    "[ALPHA] Admission match condition evaluation errors count, identified by name of resource containing the match condition and broken out for each kind containing matchConditions (webhook or policy), operation and admission type (validate or admit).",
    &["name", "kind", "type", "operation"],
);
static CONDITION_EXCLUSIONS: Family = Family::counter(
    "apiserver_admission_match_condition_exclusions_total",
    "[ALPHA] Admission match condition evaluation exclusions count, identified by name of resource containing the match condition and broken out for each kind containing matchConditions (webhook or policy), operation and admission type (validate or admit).",
    &["name", "kind", "type", "operation"],
);
static CONDITIONS: Family = Family::times(
    "apiserver_admission_match_condition_evaluation_seconds",
    "[ALPHA] Admission match condition evaluation time in seconds, identified by name and broken out for each kind containing matchConditions (webhook or policy), operation and type (validate or admit).",
    &["name", "kind", "type", "operation"],
    CONDITION_BUCKETS,
);
static VALIDATING_CHECKS: Family = Family::counter(
    "apiserver_validating_admission_policy_check_total",
    "[BETA] Validation admission policy check total, labeled by policy and further identified by binding and enforcement action taken.",
    &["policy", "policy_binding", "error_type", "enforcement_action"],
);
static VALIDATING_CHECK: Family = Family::times(
    "apiserver_validating_admission_policy_check_duration_seconds",
    "[BETA] Validation admission latency for individual validation expressions in seconds, labeled by policy and further including binding and enforcement action taken.",
    &["policy", "policy_binding", "error_type", "enforcement_action"],
    CHECK_BUCKETS,
);
static MUTATING_CHECKS: Family = Family::counter(
    "apiserver_mutating_admission_policy_check_total",
    "[BETA] Mutation admission policy check total, labeled by policy and further identified by binding.",
    &["policy", "policy_binding", "error_type"],
);
static MUTATING_CHECK: Family = Family::times(
    "apiserver_mutating_admission_policy_check_duration_seconds",
    "[BETA] Mutation admission latency for individual mutation expressions in seconds, labeled by policy and binding.",
    &["policy", "policy_binding", "error_type"],
    CHECK_BUCKETS,
);

/// The two halves of admission.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    Admit,
    Validate,
}

/// The series of those plugins that let pass, by their place, the half and the operation: what every write counts is found without a look-up.
pub(crate) struct Told(Vec<[[OnceLock<Arc<Series>>; 4]; 2]>);

impl Step {
    fn word(self) -> &'static str {
        match self {
            Self::Admit => "admit",
            Self::Validate => "validate",
        }
    }
}

impl Told {
    pub fn new(plugins: usize) -> Self {
        Self((0..plugins).map(|_| Default::default()).collect())
    }

    /// A plugin, at that place, is done with a write.
    pub fn plugin(&self, at: usize, plugin: &dyn Admission, step: Step, operation: Operation, is_rejected: bool, took: Duration) {
        let find = || CONTROLLER.with(&[plugin.name(), step.word(), operation.word(), word(is_rejected)]);
        let kept = self.0.get(at).and_then(|steps| steps.get(step as usize)?.get(operation as usize));
        match kept.filter(|_| !is_rejected) {
            Some(kept) => kept.get_or_init(find).took(took),
            None => find().took(took),
        }
    }
}

/// All plugins are done with a write, or one refused it.
pub(crate) fn step(step: Step, operation: Operation, is_rejected: bool, took: Duration) {
    STEP.took(&[step.word(), operation.word(), word(is_rejected)], took);
}

/// How a call of a webhook ended.
pub enum Called {
    Admitted,
    /// By the webhook, with that code.
    Denied(u16),
    /// It could not be called, or did not answer well; true where the write goes on all the same.
    Failed(bool),
    /// The server could make nothing of it.
    Internal,
}

/// A webhook was called; `step` is `admit` or `validating`.
pub fn webhook(name: &str, step: &'static str, operation: Operation, called: &Called, took: Duration) {
    let operation = operation.word();
    let (code, is_rejected, why) = match called {
        Called::Admitted => (200, false, None),
        Called::Denied(code) => ((*code).min(CODE_LAST), true, Some("no_error")),
        Called::Failed(is_ignored) => (503, !is_ignored, (!is_ignored).then_some("calling_webhook_error")),
        Called::Internal => (0, true, Some("apiserver_internal_error")),
    };
    let code = code.to_string();
    WEBHOOK.took(&[name, step, operation, word(is_rejected)], took);
    WEBHOOK_REQUESTS.count(&[name, step, operation, &code, word(is_rejected)]);
    if let Some(why) = why {
        WEBHOOK_REJECTIONS.count(&[name, step, operation, why, &code]);
    }
    if matches!(called, Called::Failed(true)) {
        WEBHOOK_FAIL_OPEN.count(&[name, step]);
    }
}

/// What match conditions came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Conditions {
    Hold,
    Exclude,
    Failed,
}

/// Match conditions were evaluated; `kind` is `webhook` or `policy`.
pub fn conditions(name: &str, kind: &'static str, step: &'static str, operation: Operation, came_to: Conditions, took: Duration) {
    let labels = [name, kind, step, operation.word()];
    CONDITIONS.took(&labels, took);
    match came_to {
        Conditions::Hold => {}
        Conditions::Exclude => CONDITION_EXCLUSIONS.count(&labels),
        Conditions::Failed => CONDITION_ERRORS.count(&labels),
    }
}

/// A ValidatingAdmissionPolicy was evaluated; `action` is `allow`, `deny`, `warn` or `audit`.
pub fn validating_policy(policy: &str, binding: &str, error: &str, action: &str, took: Duration) {
    let labels = [policy, binding, error, action];
    VALIDATING_CHECKS.count(&labels);
    VALIDATING_CHECK.took(&labels, took);
}

/// A MutatingAdmissionPolicy was evaluated.
pub fn mutating_policy(policy: &str, binding: &str, error: &str, took: Duration) {
    let labels = [policy, binding, error];
    MUTATING_CHECKS.count(&labels);
    MUTATING_CHECK.took(&labels, took);
}

fn word(is: bool) -> &'static str {
    if is { "true" } else { "false" }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_of_webhooks_are_told_by_how_they_ended() {
        let took = Duration::from_millis(1);
        let one = |called: &Called| webhook("told.test", "validating", Operation::Update, called, took);
        [Called::Admitted, Called::Denied(418), Called::Denied(700), Called::Failed(true), Called::Failed(false), Called::Internal]
            .iter()
            .for_each(one);
        conditions("told.test", "webhook", "validating", Operation::Update, Conditions::Exclude, took);
        let mut page = String::new();
        api::metrics::text("apiserver_admission_", &mut page);
        let place = r#"name="told.test",type="validating""#;
        for line in [
            format!("webhook_request_total{{{place},operation=\"UPDATE\",code=\"200\",rejected=\"false\"}} 1"),
            format!("webhook_request_total{{{place},operation=\"UPDATE\",code=\"503\",rejected=\"false\"}} 1"),
            format!("webhook_rejection_count{{{place},operation=\"UPDATE\",error_type=\"no_error\",rejection_code=\"418\"}} 1"),
            format!("webhook_rejection_count{{{place},operation=\"UPDATE\",error_type=\"no_error\",rejection_code=\"600\"}} 1"),
            format!(
                "webhook_rejection_count{{{place},operation=\"UPDATE\",error_type=\"calling_webhook_error\",rejection_code=\"503\"}} 1"
            ),
            format!(
                "webhook_rejection_count{{{place},operation=\"UPDATE\",error_type=\"apiserver_internal_error\",rejection_code=\"0\"}} 1"
            ),
            format!("webhook_fail_open_count{{{place}}} 1"),
            format!("webhook_admission_duration_seconds_count{{{place},operation=\"UPDATE\",rejected=\"true\"}} 4"),
            "match_condition_exclusions_total{name=\"told.test\",kind=\"webhook\",type=\"validating\",operation=\"UPDATE\"} 1".to_owned(),
        ] {
            assert!(page.lines().any(|one| one == format!("apiserver_admission_{line}")), "{line}\n{page}");
        }
    }
}
