//! ValidatingAdmissionPolicies -> what their expressions take for granted of the kinds that they are about, in their status.
//!
//! Sources: `pkg/controller/validatingadmissionpolicystatus`, apiserver `pkg/admission/plugin/policy/validating/typechecking.go`. The schemas are the server's
//! own, so every server does this by itself, as it does the definitions of custom kinds: what is written is the same whoever writes it.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
    time::Duration,
};

use api::{GroupResource, Key};
use apiserver::{
    engine::{Engine, Object},
    kind::Kind,
    schema::{Structure, Type},
};
use cel::{Resource, T, schema::Node};
use serde_json::{Map, Value, json};
use tokio::sync::Notify;

use super::policy::{kind_named, too_long};
use crate::{
    admission::{expressions::Environment, webhooks::resource},
    auth::system_user,
    common::{Read, is_of_the_store, read},
};

/// Kinds that one rule is checked against (`maxTypesToCheck`).
const TYPES_MAX: usize = 10;
/// Before what failed is tried again.
const RETRY: Duration = Duration::from_secs(5);
/// Text of all warnings about one policy, each of which quotes a line of its expression, for every kind: they stand in the policy, and the others are
/// left out.
const WARNINGS_BYTES_MAX: usize = 256 << 10;
/// Of a validation, in the order in which they are told of.
const FIELDS: [&str; 2] = ["expression", "messageExpression"];
/// How deep a schema is read: some hold themselves.
const SCHEMA_DEPTH_MAX: usize = 32;

/// Checks policies from now on, those that are there first.
pub fn start(engine: &Arc<Engine>) {
    let changed = Arc::new(Notify::new());
    let notified = changed.clone();
    engine.on_change(&policies(), Arc::new(move |_| notified.notify_one()));
    engine.group().spawn_loop("admission policies' type checks", run(engine.clone(), changed));
}

fn policies() -> GroupResource {
    resource("validatingadmissionpolicies")
}

async fn run(engine: Arc<Engine>, changed: Arc<Notify>) {
    let mut seen: HashMap<Key, u64> = HashMap::new();
    let mut is_done = false;
    loop {
        if is_done {
            changed.notified().await;
        } else {
            let _is_change = tokio::time::timeout(RETRY, changed.notified()).await;
        }
        let all = engine.cached_list(&policies(), None);
        seen.retain(|key, _| all.iter().any(|object| object.key == *key));
        is_done = true;
        for object in all.iter().filter(|object| seen.get(&object.key) != Some(&object.rev)).cloned().collect::<Vec<_>>() {
            match settle(&engine, &object).await {
                Settled::Done => drop(seen.insert(object.key.clone(), object.rev)),
                Settled::Failed => is_done = false,
                Settled::StoreIsAway => {
                    is_done = false;
                    break;
                }
            }
        }
    }
}

enum Settled {
    /// The policy's status is that of its spec now.
    Done,
    Failed,
    /// Neither would the others be written.
    StoreIsAway,
}

async fn settle(engine: &Arc<Engine>, object: &Object) -> Settled {
    let policy = object.value();
    let generation = policy.at("metadata").int("generation").unwrap_or_default();
    if generation <= policy.at("status").int("observedGeneration").unwrap_or_default() {
        return Settled::Done;
    }
    // As many checks as the policy has expressions, times the kinds: no worker is to be held for that long.
    let (at, spec) = (engine.clone(), policy.at("spec").cloned());
    let warnings = match tokio::task::spawn_blocking(move || warnings(&at, spec.as_ref())).await {
        Ok(warnings) => warnings,
        Err(error) => {
            tracing::warn!(policy = read::name(&policy), %error, "an admission policy's types cannot be checked");
            return Settled::Failed;
        }
    };
    let status = move |value: &mut Value| {
        // Of a later spec the next round will tell.
        if value.at("metadata").int("generation") == Some(generation) {
            let mut checks = json!({});
            if !warnings.is_empty() {
                checks["expressionWarnings"] = warnings.clone().into();
            }
            let status = value.as_object_mut().map(|value| value.entry("status").or_insert_with(|| json!({})));
            if let Some(Value::Object(status)) = status {
                status.insert("observedGeneration".to_owned(), generation.into());
                status.insert("typeChecking".to_owned(), checks);
            }
        }
        Ok(())
    };
    match engine.update(&policies(), &object.key, "status", &system_user(), &status).await {
        Ok(_) => Settled::Done,
        // What is gone, or too large with its warnings: it would be so again.
        Err(status) if matches!(status.code, 404 | 413) => Settled::Done,
        Err(status) => {
            tracing::warn!(policy = read::name(&policy), %status, "type checks of an admission policy cannot be stored");
            if is_of_the_store(&status) { Settled::StoreIsAway } else { Settled::Failed }
        }
    }
}

/// One for each expression of which a kind that the policy is about has another type.
fn warnings(engine: &Arc<Engine>, spec: Option<&Value>) -> Vec<Value> {
    // What is not compiled is not checked either.
    if too_long(spec).is_some() {
        return Vec::new();
    }
    let param_kind = spec.at("paramKind").map(|kind| engine.kind_of(&kind_named(kind)));
    let params = param_kind.as_ref().map(|kind| kind.as_deref().and_then(node));
    let (mut found, mut left): (BTreeMap<(usize, &str), Vec<String>>, _) = (BTreeMap::new(), WARNINGS_BYTES_MAX);
    for kind in kinds(engine, spec) {
        let (name, node) = (shown(&kind), node(&kind));
        let environment = environment(node.as_ref(), params.as_ref(), spec);
        for (at, validation) in spec.list("validations").iter().enumerate() {
            for field in FIELDS {
                let source = validation.text(field);
                if source.is_empty() || left == 0 {
                    continue;
                }
                if let Err(why) = environment.types(source) {
                    let warning = format!("{name}: {why}\n");
                    left = left.saturating_sub(warning.len());
                    if left > 0 {
                        found.entry((at, field)).or_default().push(warning);
                    }
                }
            }
        }
    }
    let told = found.into_iter().map(|((at, field), why)| {
        let (path, text) = (format!("spec.validations[{at}].{field}"), why.join("\n"));
        json!({"fieldRef": path, "warning": text})
    });
    told.collect()
}

/// What all expressions about one kind may name: made once, since it has the types of all variables.
fn environment<'s>(node: Option<&'s Node>, params: Option<&'s Option<Node>>, spec: Option<&Value>) -> Environment<'s> {
    let params = params.map(|params| typ(params.as_ref()));
    let mut environment = Environment::of(typ(node)).with_params(params).composing();
    for variable in spec.list("variables") {
        let _is_wrong = environment.variable(variable.text("name"), variable.text("expression"));
    }
    environment
}

fn typ(node: Option<&Node>) -> T<'_> {
    node.and_then(|node| T::of(node, Resource::No)).unwrap_or(T::Dyn)
}

fn shown(kind: &Kind) -> String {
    format!("{}/{}, Kind={}", kind.group, kind.version, kind.kind)
}

/// Those that the rules name, without wildcards and subresources (`typesToCheck`).
fn kinds(engine: &Arc<Engine>, spec: Option<&Value>) -> Vec<Arc<Kind>> {
    let all = engine.kinds();
    let mut out = BTreeMap::new();
    for rule in spec.at("matchConstraints").list("resourceRules") {
        let words = |field: &str| rule.list(field).iter().filter_map(Value::as_str).collect::<BTreeSet<_>>();
        let (groups, versions, resources) = (words("apiGroups"), words("apiVersions"), words("resources"));
        if groups.iter().chain(&versions).any(|word| word.contains('*')) {
            continue;
        }
        let is_named =
            |kind: &&Arc<Kind>| groups.contains(&*kind.group) && versions.contains(&*kind.version) && resources.contains(&*kind.plural);
        for kind in all.iter().filter(is_named).take(TYPES_MAX) {
            out.insert((kind.group.clone(), kind.version.clone(), kind.kind.clone()), kind.clone());
        }
    }
    out.into_values().collect()
}

/// The types of a kind's fields; `None` where anything goes.
fn node(kind: &Kind) -> Option<Node> {
    let structure = kind.schema.structure()?;
    let mut schema = described(&structure, structure.typ(), SCHEMA_DEPTH_MAX);
    if let Some(Value::Object(fields)) = schema.get_mut("properties") {
        for name in ["apiVersion", "kind"] {
            fields.entry(name).or_insert_with(|| json!({"type": "string"}));
        }
    }
    Some(Node::of(&schema))
}

fn described(structure: &Structure, typ: Type, depth: usize) -> Value {
    let anything = || json!({"x-kubernetes-int-or-string": true});
    let Some(depth) = depth.checked_sub(1) else { return anything() };
    let table = structure.table();
    match typ {
        Type::String => json!({"type": "string"}),
        Type::Bool => json!({"type": "boolean"}),
        Type::Int32 | Type::Int64 => json!({"type": "integer"}),
        Type::Double => json!({"type": "number"}),
        Type::Bytes => json!({"type": "string", "format": "byte"}),
        Type::Time | Type::MicroTime => json!({"type": "string", "format": "date-time"}),
        Type::Quantity | Type::IntOrString | Type::Any => anything(),
        Type::List(at) => json!({"type": "array", "items": described(structure, table.element(at), depth)}),
        Type::Map(at) => json!({"type": "object", "additionalProperties": described(structure, table.element(at), depth)}),
        Type::Object(at) => {
            let definition = table.definition(at);
            // A schema that holds itself would be as large as it is deep.
            if definition.name.ends_with("JSONSchemaProps") {
                return anything();
            }
            let fields = definition.fields.iter().map(|field| (field.name.to_string(), described(structure, field.typ, depth)));
            json!({"type": "object", "properties": fields.collect::<Map<_, _>>()})
        }
    }
}
