//! A policy's expressions and a write -> what they say of it. Source: apiserver `pkg/admission/plugin/policy/validating/validator.go`.

use std::time::Instant;

use apiserver::{identity::Operation, metrics::admission};
use cel::V;

use super::policy::{Compiled, Validation};
use crate::admission::expressions::{CONDITIONS_COST_MAX, Evaluation, Failed, POLICY_COST_MAX, Program, Scope, came_to};

pub(super) const NO_ERROR: &str = "no_error";
/// A message that is worked out (`MaxEvaluatedMessageExpressionSizeBytes`).
const EVALUATED_MESSAGE_BYTES_MAX: usize = 5 << 10;

/// Why a write is to be refused.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Denial {
    /// Which validation says so.
    pub index: usize,
    pub message: String,
    /// Empty where it is not a validation's own.
    pub reason: String,
}

impl Denial {
    /// As metrics name why (`ValidationErrorType`); what was wrong with an expression is not told apart.
    pub fn error_type(&self) -> &'static str {
        if self.reason.is_empty() { "invalid_error" } else { NO_ERROR }
    }
}

/// An audit annotation.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Annotation {
    Published { key: String, value: String },
    Failed(String),
}

/// What metrics say of an evaluation.
pub(super) struct Told<'a> {
    pub policy: &'a str,
    pub step: &'static str,
    pub operation: Operation,
}

/// What a policy says with one object of parameters.
#[derive(Debug, Default)]
pub(super) struct Verdict {
    pub denials: Vec<Denial>,
    pub annotations: Vec<Annotation>,
}

impl Verdict {
    /// Of what could not be worked out.
    fn failed(message: String, ignores_failure: bool) -> Self {
        let denial = Denial { index: 0, message, reason: String::new() };
        Self { denials: if ignores_failure { Vec::new() } else { vec![denial] }, annotations: Vec::new() }
    }
}

/// Whether the policy's conditions hold.
///
/// # Errors
/// Why that cannot be said, where it matters.
pub(super) fn conditions(compiled: &Compiled, scope: &Scope<'_>, ignores_failure: bool, told: &Told<'_>) -> Result<bool, String> {
    if compiled.conditions.is_empty() {
        return Ok(true);
    }
    let bare = Scope { namespace: None, ..scope.clone() };
    let began = Instant::now();
    let holds = Evaluation::new(&bare, &compiled.variables, CONDITIONS_COST_MAX).hold(&compiled.conditions);
    admission::conditions(told.policy, "policy", told.step, told.operation, came_to(&holds), began.elapsed());
    match holds {
        Err(_) if ignores_failure => Ok(false),
        found => found,
    }
}

/// `Validate`
pub(super) fn validate(compiled: &Compiled, scope: &Scope<'_>, ignores_failure: bool, told: &Told<'_>) -> Verdict {
    match conditions(compiled, scope, ignores_failure, told) {
        Ok(true) => {}
        Ok(false) => return Verdict::default(),
        Err(why) => return Verdict::failed(why, ignores_failure),
    }
    let evaluation = Evaluation::new(scope, &compiled.variables, POLICY_COST_MAX);
    let mut found = Vec::with_capacity(compiled.validations.len());
    for validation in &compiled.validations {
        match evaluation.run(&validation.program) {
            Err(Failed::Budget(why)) => return Verdict::failed(why, ignores_failure),
            other => found.push(other),
        }
    }
    let mut verdict = Verdict::default();
    for (index, (validation, found)) in compiled.validations.iter().zip(found).enumerate() {
        verdict.denials.extend(denial(&evaluation, index, validation, found, ignores_failure));
    }
    let evaluation = Evaluation::new(scope, &compiled.variables, POLICY_COST_MAX);
    for (key, program) in &compiled.annotations {
        match annotation(&evaluation, key, program, ignores_failure) {
            Ok(annotation) => verdict.annotations.extend(annotation),
            Err(why) => return Verdict::failed(why, ignores_failure),
        }
    }
    verdict
}

fn denial(
    evaluation: &Evaluation<'_>,
    index: usize,
    validation: &Validation,
    found: Result<V<'_>, Failed>,
    ignores_failure: bool,
) -> Option<Denial> {
    let of_failure = |message| (!ignores_failure).then_some(Denial { index, message, reason: String::new() });
    match found {
        Err(Failed::Expression(why) | Failed::Budget(why)) => of_failure(why),
        Ok(V::Bool(true)) => None,
        Ok(_) => {
            let message = match message(evaluation, validation) {
                Ok(message) => message,
                Err(why) => return of_failure(format!("failed messageExpression: {why}")),
            };
            let reason = if validation.reason.is_empty() { "Invalid" } else { &validation.reason };
            Some(Denial { index, message, reason: reason.to_owned() })
        }
    }
}

/// # Errors
/// Nothing is left to spend on it.
fn message(evaluation: &Evaluation<'_>, validation: &Validation) -> Result<String, String> {
    let made = match validation.message_expression.as_ref().map(|program| evaluation.run(program)) {
        Some(Err(Failed::Budget(why))) => return Err(why),
        Some(Ok(V::Text(text))) => text.trim().to_owned(),
        _ => String::new(),
    };
    let is_good = !made.is_empty() && made.len() <= EVALUATED_MESSAGE_BYTES_MAX && !made.contains('\n');
    Ok(match validation.message.as_str() {
        _ if is_good => made,
        "" => format!("failed expression: {}", validation.program.source.trim()),
        message => message.to_owned(),
    })
}

/// # Errors
/// Nothing is left to spend on it.
fn annotation(evaluation: &Evaluation<'_>, key: &str, program: &Program, ignores_failure: bool) -> Result<Option<Annotation>, String> {
    Ok(match evaluation.run(program) {
        Err(Failed::Budget(why)) => return Err(why),
        Err(Failed::Expression(why)) => (!ignores_failure).then_some(Annotation::Failed(why)),
        Ok(V::Text(text)) if text.trim().is_empty() => None,
        Ok(V::Text(text)) => Some(Annotation::Published { key: key.to_owned(), value: text.trim().to_owned() }),
        Ok(V::Null) => None,
        Ok(other) => {
            let why = "Return type must be either string or null.";
            let typ = other.type_name();
            Some(Annotation::Failed(format!("valueExpression '{}' resulted in unsupported return type: {typ}. {why}", program.source)))
        }
    })
}
