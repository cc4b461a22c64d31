//! Policies and bindings as they are stored -> ready to be asked: read once per revision.

use std::sync::{Arc, OnceLock};

use api::Gvk;
use apiserver::{
    engine::{Engine, Object, Viewed},
    kind::Kind,
};
use cel::{Named, T};
use serde_json::Value;

use super::{matching::MatchResources, params::ParamRef};
use crate::{
    admission::expressions::{Asks, Condition, Environment, Program, Wanted},
    common::{Read, read, selector},
};

/// Variables of a policy, its validations and its mutations, of each: whoever writes one has all of them compiled at once.
pub(crate) const EXPRESSIONS_MAX: usize = 1_000;
/// So many are compiled where they are asked for: some milliseconds.
const FEW: usize = 50;
/// The lists that this is about.
pub(crate) const BOUNDED: [&str; 3] = ["variables", "validations", "mutations"];

/// A policy of either kind.
pub(super) struct Policy {
    pub name: String,
    pub constraints: MatchResources,
    /// `failurePolicy: Ignore`
    pub ignores_failure: bool,
    /// `reinvocationPolicy: IfNeeded`
    pub is_reinvoked: bool,
    param_kind: Option<Gvk>,
    spec: Value,
    compiled: OnceLock<Compiled>,
    /// One compiles it at a time.
    compiling: Arc<tokio::sync::Mutex<()>>,
    bytes: usize,
}

/// A binding of either kind.
pub(super) struct Binding {
    pub name: String,
    pub policy: String,
    /// `None` where it narrows nothing.
    pub resources: Option<MatchResources>,
    pub params: Option<ParamRef>,
    pub actions: Vec<String>,
    bytes: usize,
}

/// A policy's expressions.
pub(crate) struct Compiled {
    pub variables: Vec<Named>,
    pub conditions: Vec<Condition>,
    pub validations: Vec<Validation>,
    /// Keys and values.
    pub annotations: Vec<(String, Program)>,
    pub mutations: Vec<Mutation>,
}

pub(crate) struct Validation {
    pub program: Program,
    pub message: String,
    pub message_expression: Option<Program>,
    pub reason: String,
}

pub(crate) enum Mutation {
    Apply(Program),
    JsonPatch(Program),
}

/// `ParamKind`
pub(super) fn kind_named(kind: &Value) -> Gvk {
    let version = kind.text("apiVersion");
    let (group, version) = version.split_once('/').unwrap_or(("", version));
    Gvk::new(group, version, kind.text("kind"))
}

impl Viewed for Policy {
    fn read(object: &Object) -> Self {
        let value = object.value();
        let spec = value.at("spec");
        let kind = spec.at("paramKind").map(kind_named);
        Self {
            name: read::name(&value).to_owned(),
            constraints: MatchResources::read(spec.at("matchConstraints")),
            ignores_failure: spec.text("failurePolicy") == "Ignore",
            is_reinvoked: spec.text("reinvocationPolicy") == "IfNeeded",
            param_kind: kind,
            spec: spec.cloned().unwrap_or_default(),
            compiled: OnceLock::new(),
            compiling: Arc::default(),
            bytes: object.stored().len(),
        }
    }

    fn bytes(&self) -> usize {
        self.bytes
    }
}

impl Policy {
    /// Has it compiled before it is asked: where that takes its time, not by a thread that serves others meanwhile.
    pub async fn ready(self: &Arc<Self>) {
        let count = || BOUNDED.into_iter().chain(["auditAnnotations"]).map(|field| self.spec.list(field).len()).sum::<usize>();
        if self.compiled.get().is_some() || count() <= FEW {
            return;
        }
        let turn = self.compiling.clone().lock_owned().await;
        if self.compiled.get().is_none() {
            let policy = self.clone();
            // Should that panic, it is compiled by who asks.
            let _ = tokio::task::spawn_blocking(move || {
                let _turn = turn;
                policy.compiled();
            })
            .await;
        }
    }

    pub fn compiled(&self) -> &Compiled {
        self.compiled.get_or_init(|| {
            let params = self.param_kind.as_ref().map(|_| T::Dyn);
            compile(&self.spec, &mut Environment::new().with_params(params).composing())
        })
    }

    /// # Errors
    /// There is no such kind now.
    pub fn param_kind(&self, engine: &Arc<Engine>) -> Result<Option<Arc<Kind>>, String> {
        let Some(gvk) = &self.param_kind else { return Ok(None) };
        let unknown = || {
            let shown = format!("{}/{}, Kind={}", gvk.group, gvk.version, gvk.kind);
            format!("failed to find resource referenced by paramKind: '{shown}'")
        };
        engine.kind_of(gvk).map(Some).ok_or_else(unknown)
    }
}

/// The first list of a policy's spec that is longer than any is compiled.
pub(super) fn too_long(spec: Option<&Value>) -> Option<&'static str> {
    BOUNDED.into_iter().find(|field| spec.list(field).len() > EXPRESSIONS_MAX)
}

/// What stands for a policy that another server stored and that is too long here: it fails as a whole, as its failure policy says, since rules that
/// are left out would let through what they refuse.
fn refused(field: &str, conditions: Vec<Condition>) -> Compiled {
    let program = || Program { source: String::new(), expr: Err(format!("more than {EXPRESSIONS_MAX} {field}")) };
    let (message, reason) = (String::new(), String::new());
    Compiled {
        variables: Vec::new(),
        conditions,
        validations: vec![Validation { program: program(), message, message_expression: None, reason }],
        annotations: Vec::new(),
        mutations: vec![Mutation::Apply(program())],
    }
}

/// All expressions of a policy's spec; those that cannot be compiled say why when they are asked.
pub(crate) fn compile(spec: &Value, environment: &mut Environment<'_>) -> Compiled {
    let conditions = spec.list("matchConditions").iter().map(|condition| {
        let program = Program::new(environment, condition.text("expression"), Wanted::Bool, Asks::Authorizer);
        Condition { program }
    });
    let conditions = conditions.collect();
    if let Some(field) = too_long(Some(spec)) {
        return refused(field, conditions);
    }
    let variables = spec.list("variables").iter().map(|variable| {
        let name = variable.text("name").to_owned();
        let expr = environment.variable(&name, variable.text("expression"));
        Named { name, expr }
    });
    let variables = variables.collect();
    let validations = spec.list("validations").iter().map(|validation| {
        let message = validation.text("messageExpression");
        let message = (!message.is_empty()).then(|| Program::new(environment, message, Wanted::Text, Asks::Nobody));
        Validation {
            program: Program::new(environment, validation.text("expression"), Wanted::Bool, Asks::Authorizer),
            message: validation.text("message").trim().to_owned(),
            message_expression: message,
            reason: validation.text("reason").to_owned(),
        }
    });
    let validations = validations.collect();
    let annotations = spec.list("auditAnnotations").iter().map(|annotation| {
        let program = Program::new(environment, annotation.text("valueExpression"), Wanted::TextOrNull, Asks::Authorizer);
        (annotation.text("key").to_owned(), program)
    });
    let annotations = annotations.collect();
    Compiled { variables, conditions, validations, annotations, mutations: mutations(spec, environment) }
}

fn mutations(spec: &Value, environment: &mut Environment<'_>) -> Vec<Mutation> {
    let list = spec.list("mutations");
    if list.is_empty() {
        return Vec::new();
    }
    environment.make_patches();
    let one = |mutation: &Value| match mutation.text("patchType") {
        "JSONPatch" => {
            let source = mutation.at("jsonPatch").text("expression");
            Mutation::JsonPatch(Program::new(environment, source, Wanted::Patches, Asks::Authorizer))
        }
        _ => {
            let source = mutation.at("applyConfiguration").text("expression");
            Mutation::Apply(Program::new(environment, source, Wanted::Object, Asks::Authorizer))
        }
    };
    list.iter().map(one).collect()
}

impl Viewed for Binding {
    fn read(object: &Object) -> Self {
        let value = object.value();
        let spec = value.at("spec");
        let params = spec.at("paramRef").map(|reference| ParamRef {
            name: reference.text("name").to_owned(),
            namespace: reference.text("namespace").to_owned(),
            selector: reference.at("selector").map(|selector| selector::parse(Some(selector))),
            denies_absence: reference.text("parameterNotFoundAction") == "Deny",
        });
        Self {
            name: read::name(&value).to_owned(),
            policy: spec.text("policyName").to_owned(),
            resources: spec.at("matchResources").map(|resources| MatchResources::read(Some(resources))),
            params,
            actions: spec.list("validationActions").iter().filter_map(Value::as_str).map(str::to_owned).collect(),
            bytes: object.stored().len(),
        }
    }

    fn bytes(&self) -> usize {
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[tokio::test]
    async fn what_takes_its_time_to_compile_is_compiled_by_a_thread_that_serves_nobody() {
        let of = |count: usize| {
            Arc::new(Policy {
                name: "p".into(),
                constraints: MatchResources::read(None),
                ignores_failure: false,
                is_reinvoked: false,
                param_kind: None,
                spec: json!({"validations": vec![json!({"expression": "true"}); count]}),
                compiled: OnceLock::new(),
                compiling: Arc::default(),
                bytes: 0,
            })
        };
        let (small, large) = (of(FEW), of(FEW + 1));
        small.ready().await;
        assert!(small.compiled.get().is_none(), "a few are compiled where they are asked");
        // Whoever goes away meanwhile leaves it to the others.
        assert!(futures::poll!(std::pin::pin!(large.ready())).is_pending());
        futures::future::join_all((0..8).map(|_| large.ready())).await;
        assert_eq!(large.compiled.get().map(|compiled| compiled.validations.len()), Some(FEW + 1));
    }

    #[test]
    fn a_stored_policy_that_is_too_long_fails_as_a_whole() {
        for field in BOUNDED {
            let of = |count: usize| {
                let many = vec![json!({"name": "a", "expression": "true"}); count];
                compile(&json!({"validations": [{"expression": "true"}], field: many}), &mut Environment::new().composing())
            };
            let good = of(EXPRESSIONS_MAX);
            assert!(good.validations.iter().all(|validation| validation.program.expr.is_ok()), "{field}");
            let refused = of(EXPRESSIONS_MAX + 1);
            let why = refused.validations.iter().map(|validation| validation.program.expr.as_ref().err().cloned());
            assert_eq!(why.collect::<Vec<_>>(), [Some(format!("more than 1000 {field}"))]);
            let [Mutation::Apply(mutation)] = refused.mutations.as_slice() else { panic!("one mutation") };
            assert!(mutation.expr.is_err());
        }
    }
}
