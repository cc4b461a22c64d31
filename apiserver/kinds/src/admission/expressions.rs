//! Expressions of admission: which variables they may name, what they must come to, and what they come to.
//!
//! Sources: apiserver `pkg/admission/plugin/cel/{compile,condition,activation,composition}.go`, `pkg/admission/plugin/webhook/matchconditions`.

use std::{
    collections::HashMap,
    rc::Rc,
    sync::{Arc, LazyLock},
    time::Instant,
};

use api::{
    metrics::Family,
    selector::{Fields, Labels},
};
use apiserver::{
    engine::Engine,
    identity::{Attributes, User},
    metrics::admission::Conditions,
};
use cel::{Authority, Check, Checker, Composed, Expr, Failure, Judge, Named, Resource, Run, T, V, Verdict, schema::Node};
use serde_json::{Value, json};

/// What one expression may cost (`PerCallLimit`), all of a policy for one object of parameters (`RuntimeCELCostBudget`), and the match conditions of a
/// policy or webhook (`RuntimeCELCostBudgetMatchConditions`).
const EXPRESSION_COST_MAX: u64 = 1_000_000;
pub(crate) const POLICY_COST_MAX: u64 = 10_000_000;
pub(crate) const CONDITIONS_COST_MAX: u64 = 2_500_000;
/// Depth of an expression's tree with those of the variables that it names, one within the other: they are worked out on one stack.
const COMPOSED_DEPTH_MAX: usize = 200;
const NO_BUDGET: &str = "validation failed due to running out of cost budget, no further validation rules will be run";
const AUTHORIZER: &str = "kubernetes.authorization.Authorizer";

/// The halves of admission as metrics name them.
pub(crate) const ADMIT: &str = "admit";
pub(crate) const VALIDATE: &str = "validate";
/// Seconds (`prometheus.DefBuckets`).
const BUCKETS: &[f64] = &[0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];
static COMPILED: Family =
    Family::times("apiserver_cel_compilation_duration_seconds", "[BETA] CEL compilation time in seconds.", &[], BUCKETS);
static EVALUATED: Family =
    Family::times("apiserver_cel_evaluation_duration_seconds", "[BETA] CEL evaluation time in seconds.", &[], BUCKETS);

/// What match conditions came to, for metrics.
pub(crate) fn came_to<E>(holds: &Result<bool, E>) -> Conditions {
    match holds {
        Ok(true) => Conditions::Hold,
        Ok(false) => Conditions::Exclude,
        Err(_) => Conditions::Failed,
    }
}

/// What an expression must come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wanted {
    Bool,
    Text,
    TextOrNull,
    /// `Object{...}`
    Object,
    /// `[JSONPatch{...}]`
    Patches,
}

/// Whether `authorizer` may be named.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Asks {
    Nobody,
    Authorizer,
}

/// The variables that expressions see, with their types.
pub(crate) struct Environment<'s> {
    object: T<'s>,
    params: Option<T<'s>>,
    makes_patches: bool,
    /// Those that go by `variables`; `None` where there is no such word. Shared with the scope of every expression: there may be as many of these.
    variables: Option<Rc<Vec<(String, T<'s>)>>>,
    /// How deep each of them is; of two with one name the later.
    depths: HashMap<String, usize>,
}

/// An expression as somebody wrote it, compiled.
pub(crate) struct Program {
    pub source: String,
    /// Or why it cannot be.
    pub expr: Result<Expr, String>,
}

/// A condition of a policy's or webhook's being asked at all.
pub(crate) struct Condition {
    pub program: Program,
}

static REQUEST: LazyLock<Node> = LazyLock::new(|| {
    let text = json!({"type": "string"});
    let texts = json!({"type": "array", "items": text});
    let kind = json!({"type": "object", "properties": {"group": text, "version": text, "kind": text}});
    let resource = json!({"type": "object", "properties": {"group": text, "version": text, "resource": text}});
    let user = json!({"type": "object", "properties": {"username": text, "uid": text, "groups": texts,
        "extra": {"type": "object", "additionalProperties": texts}}});
    Node::of(&json!({"type": "object", "properties": {
        "kind": kind, "resource": resource, "subResource": text, "requestKind": kind, "requestResource": resource, "requestSubResource": text,
        "name": text, "namespace": text, "operation": text, "userInfo": user, "dryRun": {"type": "boolean"},
        // Whatever the operation's options are.
        "options": {"x-kubernetes-int-or-string": true}}}))
});

static NAMESPACE: LazyLock<Node> = LazyLock::new(|| {
    let (text, time, number) = (json!({"type": "string"}), json!({"type": "string", "format": "date-time"}), json!({"type": "integer"}));
    let (texts, map) = (json!({"type": "array", "items": text}), json!({"type": "object", "additionalProperties": text}));
    let condition = json!({"type": "object", "properties": {"status": text, "type": text, "lastTransitionTime": time, "message": text, "reason": text}});
    Node::of(&json!({"type": "object", "properties": {
        "metadata": {"type": "object", "properties": {
            "name": text, "generateName": text, "namespace": text, "labels": map, "annotations": map, "UID": text, "creationTimestamp": time,
            "deletionGracePeriodSeconds": number, "deletionTimestamp": time, "generation": number, "resourceVersion": text, "finalizers": texts}},
        "spec": {"type": "object", "properties": {"finalizers": texts}},
        "status": {"type": "object", "properties": {"conditions": {"type": "array", "items": condition}, "phase": text}}}}))
});

impl Environment<'static> {
    /// Of objects of any kind.
    pub fn new() -> Self {
        Self::of(T::Dyn)
    }
}

impl<'s> Environment<'s> {
    /// Of objects of one type.
    pub fn of(object: T<'s>) -> Self {
        Self { object, params: None, makes_patches: false, variables: None, depths: HashMap::new() }
    }

    #[must_use]
    pub fn with_params(self, params: Option<T<'s>>) -> Self {
        Self { params, ..self }
    }

    /// From now on.
    pub fn make_patches(&mut self) {
        self.makes_patches = true;
    }

    /// With `variables`, as yet none where there were none.
    #[must_use]
    pub fn composing(self) -> Self {
        Self { variables: Some(self.variables.unwrap_or_default()), ..self }
    }

    /// Adds one that those after it may name, be it that it cannot be compiled.
    ///
    /// # Errors
    /// Why not.
    pub fn variable(&mut self, name: &str, source: &str) -> Result<Expr, String> {
        let found = self.checked(source, Asks::Authorizer);
        let (typ, depth) = found.as_ref().map_or((T::Dyn, 1), |(_, typ, depth)| (typ.clone(), *depth));
        // Nobody shares them now, so that nothing is copied.
        Rc::make_mut(self.variables.get_or_insert_default()).push((name.to_owned(), typ));
        self.depths.insert(name.to_owned(), depth);
        found.map(|(expr, ..)| expr)
    }

    /// Whether it is of any type at all.
    ///
    /// # Errors
    /// What is wrong with it, as cel-go says it.
    pub fn types(&self, source: &str) -> Result<(), String> {
        let found = self.checked(source, Asks::Authorizer);
        found.map(drop).map_err(|why| why.trim_start_matches("compilation failed: ").to_owned())
    }

    /// # Errors
    /// What is wrong with it, as cel-go and upstream's compiler say it.
    pub fn compile(&self, source: &str, wanted: Wanted, asks: Asks) -> Result<Expr, String> {
        let (expr, typ, _) = self.checked(source, asks)?;
        let is_message = |typ: &T<'_>, name: &str| matches!(typ, T::Message(of) if **of == *name);
        let fits = match wanted {
            Wanted::Bool => matches!(typ, T::Bool),
            Wanted::Text => matches!(typ, T::Text),
            Wanted::TextOrNull => matches!(typ, T::Text | T::Null),
            Wanted::Object => is_message(&typ, "Object"),
            // An empty list may be one of patches.
            Wanted::Patches => matches!(&typ, T::List(held) if is_message(held, "JSONPatch") || matches!(**held, T::Dyn)),
        };
        let must = match wanted {
            _ if fits => return Ok(expr),
            Wanted::Bool => "bool",
            Wanted::Text => "string",
            Wanted::TextOrNull => "one of [string null_type]",
            Wanted::Object => "Object",
            Wanted::Patches => "list(JSONPatch)",
        };
        Err(format!("must evaluate to {must} but got {}", typ.of_result()))
    }

    fn checked(&self, source: &str, asks: Asks) -> Result<(Expr, T<'s>, usize), String> {
        let failed = |issue: cel::Issue| format!("compilation failed: {}", issue.print(source));
        let expr = cel::parse(source).map_err(failed)?;
        let mut checker = Checker::new(self.scope(asks));
        if self.makes_patches {
            checker = checker.making_patches();
        }
        let typ = checker.check(&expr).map_err(failed)?;
        let below = cel::selected_from(&expr, "variables").into_iter();
        let deepest = below.filter_map(|name| self.depths.get(name)).max();
        let depth = cel::depth(&expr) + deepest.copied().unwrap_or(0);
        if depth > COMPOSED_DEPTH_MAX {
            return Err(format!("compilation failed: variables nest too deep: {depth} levels, at most {COMPOSED_DEPTH_MAX}"));
        }
        Ok((expr, typ, depth))
    }

    fn scope(&self, asks: Asks) -> Vec<(String, T<'s>)> {
        let typ = |node: &'static Node| T::of(node, Resource::No).unwrap_or(T::Dyn);
        let mut scope = vec![
            ("object", self.object.clone()),
            ("oldObject", self.object.clone()),
            ("namespaceObject", typ(&NAMESPACE)),
            ("request", typ(&REQUEST)),
        ];
        scope.extend(self.params.clone().map(|params| ("params", params)));
        if asks == Asks::Authorizer {
            scope.push(("authorizer", T::Library(AUTHORIZER)));
        }
        if let Some(variables) = &self.variables {
            scope.push(("variables", T::Variables(variables.clone())));
        }
        scope.into_iter().map(|(name, typ)| (name.to_owned(), typ)).collect()
    }
}

impl Program {
    pub fn new(environment: &Environment<'_>, source: &str, wanted: Wanted, asks: Asks) -> Self {
        let began = Instant::now();
        let expr = environment.compile(source, wanted, asks);
        COMPILED.took(&[], began.elapsed());
        Self { source: source.to_owned(), expr }
    }
}

/// The values of the variables.
#[derive(Clone)]
pub(crate) struct Scope<'v> {
    pub object: Option<&'v Value>,
    pub old: Option<&'v Value>,
    pub namespace: Option<&'v Value>,
    pub params: Option<&'v Value>,
    pub request: &'v Value,
    pub authority: Authority<'v>,
}

impl<'v> Scope<'v> {
    fn values(&self) -> Vec<(String, V<'v>)> {
        let of = |value: Option<&'v Value>, node: Option<&'v Node>| value.map_or(V::Null, |value| V::of(value, node));
        let all = [
            ("object", of(self.object, None)),
            ("oldObject", of(self.old, None)),
            ("namespaceObject", of(self.namespace, Some(&NAMESPACE))),
            ("request", V::of(self.request, Some(&REQUEST))),
            ("params", of(self.params, None)),
            ("authorizer", V::Authorizer(self.authority.clone())),
        ];
        all.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
    }
}

/// Why an expression has no value.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Failed {
    /// Of its own; others are run all the same.
    Expression(String),
    /// Nothing is left to spend, and nothing more is run.
    Budget(String),
}

/// Expressions that share values, variables and a budget.
pub(crate) struct Evaluation<'v> {
    values: Vec<(String, V<'v>)>,
    composed: Rc<Composed<'v>>,
}

impl<'v> Evaluation<'v> {
    pub fn new(scope: &Scope<'v>, named: &'v [Named], budget: u64) -> Self {
        let mut values = scope.values();
        let composed = Composed::new(named, values.clone(), EXPRESSION_COST_MAX, budget);
        values.push(("variables".to_owned(), V::Variables(composed.clone())));
        Self { values, composed }
    }

    pub fn left(&self) -> u64 {
        self.composed.left()
    }

    pub fn run(&self, program: &Program) -> Result<V<'v>, Failed> {
        let expr = program.expr.as_ref().map_err(|why| Failed::Expression(format!("compilation error: {why}")))?;
        let given = EXPRESSION_COST_MAX.min(self.left());
        let mut run = Run::new(self.values.clone(), given);
        let began = Instant::now();
        let found = run.eval(expr);
        EVALUATED.took(&[], began.elapsed());
        self.composed.spend(given - run.meter.left);
        let failed = |why: &str| Failed::Expression(format!("expression '{}' resulted in error: {why}", program.source));
        match found {
            _ if self.left() == 0 => Err(Failed::Budget(NO_BUDGET.to_owned())),
            Ok(value) => Ok(value),
            Err(Failure::Cost) => Err(failed("operation cancelled: actual cost limit exceeded")),
            Err(Failure::Error(why)) => Err(failed(&why)),
        }
    }

    /// Whether all hold: one that does not has the word, be there others that have no value.
    ///
    /// # Errors
    /// Why some have none.
    pub fn hold(&self, conditions: &[Condition]) -> Result<bool, String> {
        let mut errors: Vec<String> = Vec::new();
        for condition in conditions {
            match self.run(&condition.program) {
                Ok(V::Bool(false)) => return Ok(false),
                Ok(_) => {}
                Err(Failed::Budget(why)) => return Err(why),
                Err(Failed::Expression(why)) if errors.contains(&why) => {}
                Err(Failed::Expression(why)) => errors.push(why),
            }
        }
        match errors.as_slice() {
            [] => Ok(true),
            [one] => Err(one.clone()),
            all => Err(format!("[{}]", all.join(", "))),
        }
    }
}

/// The server's authorizers, as expressions ask them.
pub(crate) struct Authorizers<'a> {
    pub engine: &'a Arc<Engine>,
    pub user: &'a User,
}

impl Judge for Authorizers<'_> {
    fn judge(&self, account: Option<(&str, &str)>, check: &Check, verb: &str) -> Verdict {
        let account = account.map(|(namespace, name)| User {
            name: format!("system:serviceaccount:{namespace}:{name}"),
            groups: vec!["system:serviceaccounts".into(), format!("system:serviceaccounts:{namespace}"), "system:authenticated".into()],
            ..User::default()
        });
        // One that cannot be read is none: the question is about all, then.
        let fields = if check.fields.is_empty() { None } else { Fields::parse(&check.fields).ok() };
        let labels = if check.labels.is_empty() { None } else { Labels::parse(&check.labels).ok() };
        let is_of_resource = check.path.is_empty();
        let attributes = Attributes {
            user: account.as_ref().unwrap_or(self.user),
            verb,
            resource_request: is_of_resource,
            group: &check.group,
            version: if is_of_resource { "*" } else { "" },
            resource: &check.resource,
            subresource: &check.subresource,
            namespace: &check.namespace,
            name: &check.name,
            path: &check.path,
            fields: fields.as_ref(),
            labels: labels.as_ref(),
        };
        let found = self.engine.verdict_at_once(&attributes);
        let (allowed, reason) = (found.is_allowed(), found.reason().to_owned());
        Verdict { allowed, reason, error: Some(found.error).filter(|error| !error.is_empty()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A copy with each of a policy's expressions would cost as much as the square of their number.
    #[test]
    fn all_expressions_share_the_variables() {
        let mut environment = Environment::new().composing();
        for name in ["a", "b", "a"] {
            assert!(environment.variable(name, "1 + 1").is_ok());
        }
        let shared = |environment: &Environment<'static>| match environment.scope(Asks::Nobody).pop() {
            Some((_, T::Variables(all))) => all,
            other => panic!("{other:?}"),
        };
        let (one, other) = (shared(&environment), shared(&environment));
        assert!(Rc::ptr_eq(&one, &other));
        assert_eq!(one.len(), 3);
        drop((one, other));
        let place = |environment: &Environment<'static>| environment.variables.as_ref().map(Rc::as_ptr);
        let before = place(&environment);
        assert!(environment.variable("c", "variables.a + variables.b").is_ok());
        assert_eq!(place(&environment), before);
        assert!(environment.compile("variables.c == 4", Wanted::Bool, Asks::Nobody).is_ok());
    }
}
