//! MutatingAdmissionPolicy: what its expressions make of an object. Sources: apiserver `pkg/admission/plugin/policy/mutating/{dispatcher,reinvocationcontext}.go`,
//! `mutating/patch/{smd,json_patch}.go`, `generic/policy_dispatcher.go`.

use std::{
    collections::BTreeSet,
    io::{self, Write},
    sync::Arc,
    time::Instant,
};

use api::Status;
use apiserver::{
    engine::{Engine, merged},
    front::{PatchWork, json_patch_within},
    identity::{Admission, Operation, Review},
    kind::Kind,
    metrics::admission,
};
use async_trait::async_trait;
use cel::{Authority, Failure, V};
use serde_json::{Map, Value, json};

use super::{
    Source,
    evaluation::{NO_ERROR, Told, conditions},
    patch_errors::why_not,
    policy::{Binding, Mutation, Policy},
};
use crate::{
    admission::{
        expressions::{ADMIT, Authorizers, Evaluation, Failed, POLICY_COST_MAX, Program, Scope},
        forbidden,
        request::{self, Versioned, converted_back, namespace_object, namespace_of},
    },
    common::read,
};

const PLUGIN: &str = "MutatingAdmissionPolicy";
/// What the patches of one policy may weigh together, in units of cost: ten bytes of text are one, so that this is twice the largest object.
const PATCH_WEIGHT_MAX: u64 = 600_000;
/// What all policies together may add to the object of one request, in bytes of JSON, be it in the second pass; what one takes away again is not
/// reckoned up. Each stays within its own bounds, and there may be any number of them.
const GROWTH_BYTES_MAX: u64 = 6 << 20;
/// Operations of one patch: as many as one that a client sends may have.
const OPERATIONS_MAX: usize = 10_000;

/// See the module.
#[derive(Default)]
pub struct MutatingAdmissionPolicy(Source);

/// What is kept for the second pass (`policyReinvokeContext`).
#[derive(Default)]
struct Memory {
    output: Option<Value>,
    /// Those that ran, and are run again where something changes after them.
    asked: BTreeSet<String>,
    /// Those of them that something changed after.
    again: BTreeSet<String>,
    /// What has been added, in bytes of JSON.
    grown: u64,
}

/// A policy that is about the write, with one object of parameters.
struct Invocation<'h> {
    policy: &'h Policy,
    binding: &'h Binding,
    kind: Arc<Kind>,
    params: Option<Arc<Value>>,
}

/// What the mutations of one policy may still make of one object. Each begins with what the one before left, so that bounds of their own would bound
/// nothing.
struct Left {
    weight: u64,
    work: PatchWork,
}

impl Default for Left {
    fn default() -> Self {
        Self { weight: PATCH_WEIGHT_MAX, work: PatchWork::default() }
    }
}

/// What is wrong with a policy, its binding or what they say.
struct Wrong {
    message: String,
    reason: &'static str,
}

#[async_trait]
impl Admission for MutatingAdmissionPolicy {
    fn name(&self) -> &'static str {
        PLUGIN
    }

    fn start(&self, engine: &Arc<Engine>) {
        self.0.follow(engine, "mutatingadmissionpolicies", "mutatingadmissionpolicybindings");
    }

    async fn admit(&self, review: &mut Review<'_>) -> Result<(), Status> {
        // Of what is deleted there is nothing to change.
        if review.ctx.operation == Operation::Delete {
            return Ok(());
        }
        let Some(hooks) = self.0.hooks(review)? else { return Ok(()) };
        let (mut invocations, mut wrong) = (Vec::new(), Vec::new());
        for hook in hooks.about(review) {
            self.select(review, hook, &mut invocations, &mut wrong).await;
        }
        if !invocations.is_empty() {
            run(review, &invocations, &mut wrong).await?;
        }
        if wrong.is_empty() { Ok(()) } else { Err(refusal(review, &wrong)) }
    }
}

impl MutatingAdmissionPolicy {
    async fn select<'h>(&self, review: &Review<'_>, hook: &'h super::Hook, invocations: &mut Vec<Invocation<'h>>, wrong: &mut Vec<Wrong>) {
        let (policy, engine) = (&*hook.policy, review.ctx.engine);
        let kind = match policy.constraints.matches(review) {
            Ok(Some(kind)) => kind,
            Ok(None) => return,
            Err(why) => return tell(policy, None, &format!("failed to configure policy: {why}"), "", wrong),
        };
        let param_kind = match policy.param_kind(engine) {
            Ok(kind) => kind,
            Err(why) => return tell(policy, None, &format!("failed to configure policy: {why}"), "", wrong),
        };
        for binding in &hook.bindings {
            let of_binding = |why: &str| format!("failed to configure binding: {why}");
            match binding.resources.as_ref().map(|resources| resources.matches(review)) {
                None | Some(Ok(Some(_))) => {}
                Some(Ok(None)) => continue,
                Some(Err(why)) => {
                    tell(policy, Some(binding), &of_binding(&why), "", wrong);
                    continue;
                }
            }
            match self.0.parsed.collect(engine, param_kind.as_ref(), binding.params.as_ref(), namespace_of(review.ctx)).await {
                Ok(params) => {
                    if !params.is_empty() {
                        hook.policy.ready().await;
                    }
                    let one = |params| Invocation { policy, binding, kind: kind.clone(), params };
                    invocations.extend(params.into_iter().map(one));
                }
                Err(why) => tell(policy, Some(binding), &of_binding(&why), "", wrong),
            }
        }
    }
}

/// By the failure policy.
fn tell(policy: &Policy, binding: Option<&Binding>, why: &str, reason: &'static str, wrong: &mut Vec<Wrong>) {
    if policy.ignores_failure {
        return;
    }
    let message = match binding {
        Some(binding) => format!("policy '{}' with binding '{}' denied request: {why}", policy.name, binding.name),
        None => format!("policy {:?} denied request: {why}", policy.name),
    };
    wrong.push(Wrong { message, reason });
}

fn refusal(review: &Review<'_>, wrong: &[Wrong]) -> Status {
    let mut status = forbidden(review, "admission request denied by policy");
    if let Some(first) = wrong.first() {
        status.message.clone_from(&first.message);
        if !first.reason.is_empty() {
            status.reason = first.reason.into();
        }
    }
    let causes: Vec<Value> = wrong.iter().map(|wrong| json!({"message": wrong.message})).collect();
    status.detail("causes", causes);
    status
}

async fn run(review: &mut Review<'_>, invocations: &[Invocation<'_>], wrong: &mut Vec<Wrong>) -> Result<(), Status> {
    let namespace = namespace_object(review.ctx)?;
    if review.reinvocation.is_again() {
        let object = review.object.as_deref().cloned();
        let memory = review.reinvocation.memory::<Memory>(PLUGIN);
        if memory.output != object {
            memory.again = memory.asked.clone();
        }
    }
    for invocation in invocations {
        one(review, invocation, namespace.as_ref(), wrong).await?;
        tokio::task::yield_now().await;
    }
    let output = review.object.as_deref().cloned();
    review.reinvocation.memory::<Memory>(PLUGIN).output = output;
    Ok(())
}

impl Invocation<'_> {
    fn id(&self) -> String {
        let params = self.params.as_deref().map(|params| format!("{}/{}", read::namespace(params), read::name(params)));
        format!("{}/{}/{}", self.policy.name, self.binding.name, params.unwrap_or_default())
    }
}

/// All changes of one policy, each over what the one before left.
async fn one(
    review: &mut Review<'_>,
    invocation: &Invocation<'_>,
    namespace: Option<&Value>,
    wrong: &mut Vec<Wrong>,
) -> Result<(), Status> {
    let Invocation { policy, binding, kind, params } = invocation;
    let (id, is_again) = (invocation.id(), review.reinvocation.is_again());
    let before = Versioned::of(review, kind).await?;
    let old = before.old.map(std::borrow::Cow::into_owned);
    let mut object = before.object.map(std::borrow::Cow::into_owned);
    let request = request::request(review, kind);
    let shown = Shown { review, request: &request, old: old.as_ref(), namespace, params: params.as_deref() };
    match shown.conditions(policy, object.as_ref()) {
        Ok(true) => {}
        Ok(false) => return Ok(()),
        Err(why) => {
            tell(policy, Some(binding), &why, "Invalid", wrong);
            return Ok(());
        }
    }
    if is_again && !review.reinvocation.memory::<Memory>(PLUGIN).again.contains(&id) {
        return Ok(());
    }
    let shown = Shown { review, request: &request, old: old.as_ref(), namespace, params: params.as_deref() };
    let (was, mut left) = (object.clone(), Left::default());
    for mutation in &policy.compiled().mutations {
        let Some(now) = &mut object else { break };
        let began = Instant::now();
        let made = shown.mutated(policy, kind, mutation, now, &mut left);
        let error = if made.is_ok() { NO_ERROR } else { "invalid_error" };
        admission::mutating_policy(&policy.name, &binding.name, error, began.elapsed());
        match made {
            Ok(mut made) => {
                // What is no object of the kind has no defaults of its.
                if review.ctx.body().1 == review.ctx.kind.gvk() {
                    kind.strategy.default(&mut made);
                }
                *now = made;
            }
            Err(why) => tell(policy, Some(binding), &why, "Invalid", wrong),
        }
        // Each has a budget of its own, and there may be many.
        tokio::task::yield_now().await;
    }
    if let Some(object) = object
        && was.as_ref() != Some(&object)
    {
        let grown = json_bytes(Some(&object)).saturating_sub(json_bytes(was.as_ref()));
        let memory = review.reinvocation.memory::<Memory>(PLUGIN);
        if memory.grown + grown > GROWTH_BYTES_MAX {
            let why = format!("mutating policies may add {GROWTH_BYTES_MAX} bytes to the object of a request");
            tell(policy, Some(binding), &why, "Invalid", wrong);
            return Ok(());
        }
        memory.grown += grown;
        let object = converted_back(review.ctx, kind, object).await?;
        review.replace(PLUGIN, object)?;
        let memory = review.reinvocation.memory::<Memory>(PLUGIN);
        memory.again.extend(memory.asked.iter().cloned());
        review.reinvocation.request();
    }
    if policy.is_reinvoked {
        review.reinvocation.memory::<Memory>(PLUGIN).asked.insert(id);
    }
    Ok(())
}

/// Of its text, which is not written.
fn json_bytes(value: Option<&Value>) -> u64 {
    struct Counted(u64);
    impl Write for Counted {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0 += bytes.len() as u64;
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let mut counted = Counted(0);
    // Nothing that is written fails here.
    let _ = value.map(|value| serde_json::to_writer(&mut counted, value));
    counted.0
}

/// What the expressions of one invocation see besides the object, which changes.
struct Shown<'a, 'r> {
    review: &'a Review<'r>,
    request: &'a Value,
    old: Option<&'a Value>,
    namespace: Option<&'a Value>,
    params: Option<&'a Value>,
}

impl Shown<'_, '_> {
    fn with<R>(&self, object: Option<&Value>, run: impl FnOnce(&Scope<'_>) -> R) -> R {
        let ctx = self.review.ctx;
        let authorizers = Authorizers { engine: ctx.engine, user: ctx.user };
        let authority = Authority::new(&authorizers, request::check(ctx));
        let (old, namespace, params) = (self.old, self.namespace, self.params);
        run(&Scope { object, old, namespace, params, request: self.request, authority })
    }

    fn conditions(&self, policy: &Policy, object: Option<&Value>) -> Result<bool, String> {
        let told = Told { policy: &policy.name, step: ADMIT, operation: self.review.ctx.operation };
        self.with(object, |scope| conditions(policy.compiled(), scope, policy.ignores_failure, &told))
    }

    fn mutated(&self, policy: &Policy, kind: &Kind, mutation: &Mutation, object: &Value, left: &mut Left) -> Result<Value, String> {
        let (program, is_patch) = match mutation {
            Mutation::Apply(program) => (program, false),
            Mutation::JsonPatch(program) => (program, true),
        };
        let made = self.with(Some(object), |scope| worked_out(scope, policy, program, &mut left.weight))?;
        if is_patch {
            return patched(object, made, &mut left.work);
        }
        let mut patch = made;
        for field in ["apiVersion", "kind"] {
            if let (Some(map), Some(value)) = (patch.as_object_mut(), object.get(field)) {
                map.insert(field.to_owned(), value.clone());
            }
        }
        merged(kind, self.review.ctx.subresource, object, &patch).map_err(|why| format!("error applying patch: {why}"))
    }
}

/// The JSON that a mutation's expression comes to.
fn worked_out(scope: &Scope<'_>, policy: &Policy, program: &Program, weight: &mut u64) -> Result<Value, String> {
    if let Err(why) = &program.expr {
        return Err(why.clone());
    }
    let evaluation = Evaluation::new(scope, &policy.compiled().variables, POLICY_COST_MAX);
    let value = evaluation.run(program).map_err(|failed| match failed {
        Failed::Expression(why) | Failed::Budget(why) => why,
    })?;
    let json = cel::to_json(&value, weight).map_err(|failure| match failure {
        Failure::Error(why) => why,
        Failure::Cost => "the value is too large".to_owned(),
    })?;
    let values = match &value {
        V::List(list) => list.iter().filter_map(|patch| part(patch, "value")).collect(),
        object => vec![object.clone()],
    };
    for value in &values {
        cel::check_names(value).map_err(|why| format!("type mismatch: {why}"))?;
    }
    Ok(json)
}

fn part<'v>(patch: &V<'v>, name: &str) -> Option<V<'v>> {
    let V::Message(message) = patch else { return None };
    message.fields.iter().find(|(field, _)| **field == *name).map(|(_, value)| value.clone())
}

/// A patch that a test of its own does not let through changes nothing.
fn patched(object: &Value, operations: Value, work: &mut PatchWork) -> Result<Value, String> {
    let Value::Array(operations) = operations else {
        return Err("type mismatch: JSONPatchType.expression should evaluate to array".into());
    };
    if operations.len() > OPERATIONS_MAX {
        return Err(format!("JSON Patch: {} operations, at most {OPERATIONS_MAX}", operations.len()));
    }
    let mut out = object.clone();
    for operation in operations {
        let Value::Object(mut operation) = operation else {
            return Err("type mismatch: JSONPatchType.expression should evaluate to array of JSONPatch".into());
        };
        let text = |operation: &Map<String, Value>, name: &str| operation.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
        if text(&operation, "op") == "test" {
            let found = out.pointer(&text(&operation, "path")).unwrap_or(&Value::Null);
            if found != operation.get("value").unwrap_or(&Value::Null) {
                return Ok(object.clone());
            }
            continue;
        }
        if text(&operation, "from").is_empty() {
            operation.shift_remove("from");
        }
        let done = json_patch_within(json!([operation]), &mut out, work);
        done.map_err(|status| format!("JSON Patch: {}", why_not(&out, &operation).unwrap_or(status.message)))?;
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn copies(count: usize) -> Value {
        (0..count).map(|i| json!({"op": "copy", "from": "/data/x", "path": format!("/data/y{i}")})).collect()
    }

    #[test]
    fn the_operations_of_a_policy_share_the_bounds_of_one_patch() {
        let object = json!({"data": {"x": "x".repeat(1 << 20)}});
        let mut work = PatchWork::default();
        let made = patched(&object, copies(2), &mut work);
        assert_eq!(made.map(|made| made["data"].as_object().map(Map::len)), Ok(Some(3)));
        // One more would be too much with those of the mutation before.
        assert!(patched(&object, copies(1), &mut work).is_err_and(|why| why.starts_with("JSON Patch: ")));
        assert!(patched(&object, copies(8), &mut PatchWork::default()).is_err());
    }

    #[test]
    fn an_operation_that_does_not_fit_says_why() {
        let remove = json!([{"op": "remove", "path": "/metadata/labels/none"}]);
        let found = patched(&json!({"metadata": {"labels": {}}}), remove, &mut PatchWork::default());
        let why = "error in remove for path: '/metadata/labels/none': Unable to remove nonexistent key: none: missing value";
        assert_eq!(found, Err(format!("JSON Patch: {why}")));
    }

    #[test]
    fn a_patch_has_no_more_operations_than_a_clients() {
        let tests = Value::from(vec![json!({"op": "test", "path": "/a"}); OPERATIONS_MAX + 1]);
        let found = patched(&json!({}), tests, &mut PatchWork::default());
        assert_eq!(found, Err("JSON Patch: 10001 operations, at most 10000".to_owned()));
    }
}
