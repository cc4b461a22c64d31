//! Who wrote which field (`metadata.managedFields`): the step of a write that keeps it, and the equality that overlooks it.
//!
//! Sources: apimachinery `pkg/util/managedfields`, apiserver `pkg/endpoints/handlers/fieldmanager`.

mod apply;
mod entries;
mod scaled;
mod versions;

use api::time::rfc3339;
use serde_json::Value;

use super::{
    context::{Ctx, ManagerOperation, Origin},
    meta,
};
use crate::{
    fields::{Set, Side},
    kind::Handler,
    schema::Schema,
};
use entries::{Managed, Source, Who};
use versions::Shape;

pub(crate) use apply::{Configuration, apply};
pub(super) use scaled::{of_object, of_scale};

const FIELD: &str = "managedFields";

/// Before mutating admission, whose changes are nobody's: the object gets the entries that hold from now on. What an action does is nobody's. `object` is
/// what is written: where that is a scale, the scale.
pub(super) fn track(ctx: &Ctx<'_>, object: &mut Value, old: Option<&Value>) {
    // Who applies has been told apart already.
    if ctx.manager.operation == ManagerOperation::Apply {
        return;
    }
    let given = meta::of(object).shift_remove(FIELD);
    let live = old.and_then(|old| meta::field(old, FIELD));
    if ctx.origin == Origin::Action {
        put(object, live.cloned());
        return;
    }
    let managed = started(ctx, given, live);
    let is_untracked = old.is_some_and(|old| !meta::text(old, "uid").is_empty());
    if managed.0.is_empty() && is_untracked {
        return;
    }
    match updated(ctx, managed, object, old) {
        Ok(managed) => put(object, managed.encode()),
        Err(why) => {
            tracing::warn!(kind = %ctx.kind.kind, name = ctx.name, why, "fields of an object cannot be told apart; nobody owns them")
        }
    }
}

/// The entries that a write begins with: those that it brings, else those that are there. A list that is empty, or has an empty entry alone, says that
/// nobody owns anything.
fn started(ctx: &Ctx<'_>, given: Option<Value>, live: Option<&Value>) -> Managed {
    let given = given.filter(|given| ctx.subresource.is_empty() && !given.is_null());
    let stored = || live.and_then(|live| Managed::decode(live.clone(), Source::Store).ok()).unwrap_or_default();
    let Some(given) = given else { return stored() };
    if live.is_some_and(|live| is_same(live, &given)) {
        return Managed::decode(given, Source::Store).unwrap_or_default();
    }
    if is_reset(&given) {
        return Managed::default();
    }
    match Managed::decode(given, Source::Client) {
        Ok(managed) if !managed.0.is_empty() => managed,
        _ => stored(),
    }
}

/// An empty list is a word here, and does not go as other empty ones do: it becomes one that has an empty entry alone.
pub(crate) fn keep_reset(object: &mut Value) {
    let list = object.get_mut("metadata").and_then(|metadata| metadata.get_mut(FIELD)).and_then(Value::as_array_mut);
    if let Some(list) = list.filter(|list| list.is_empty()) {
        list.push(serde_json::json!({}));
    }
}

fn is_reset(given: &Value) -> bool {
    let Some(list) = given.as_array() else { return false };
    let is_nothing = |entry: &Value| entry.as_object().is_some_and(|entry| entry.values().all(|value| value.is_null() || value == ""));
    list.is_empty() || list.len() == 1 && list.iter().all(is_nothing)
}

fn updated(ctx: &Ctx<'_>, mut managed: Managed, object: &Value, old: Option<&Value>) -> Result<Managed, String> {
    let (schema, gvk) = ctx.body();
    let (shape, version) = (Shape::of(schema), gvk.api_version());
    shape.reconcile(&mut managed, &version);
    let nothing = serde_json::json!({});
    let new = Side { value: object, mode: shape.mode };
    let compared = versions::compared(ctx, &shape, &version, (old.unwrap_or(&nothing), new), &managed, &reset(ctx))?;
    managed.record(&Who::of(ctx, ctx.manager.name, &version), &version, &compared, &rfc3339(ctx.now));
    managed.cap();
    Ok(managed)
}

/// What this write leaves as it is whatever it says, so that nobody owns it by it (`GetResetFields`).
fn reset(ctx: &Ctx<'_>) -> Set {
    let kind = ctx.kind;
    let named: &[&[&str]] = match kind.strategy.reset_fields(ctx.subresource) {
        Some(named) => named,
        None => match kind.subresource(ctx.subresource).map(|sub| &sub.handler) {
            Some(Handler::Status) if matches!(kind.schema, Schema::Custom(_)) => &[&["metadata"], &["spec"]],
            Some(Handler::Status) => &[&["spec"]],
            None if kind.has_status() => &[&["status"]],
            _ => &[],
        },
    };
    Set::named(named)
}

fn put(object: &mut Value, managed: Option<Value>) {
    if let Some(managed) = managed {
        meta::of(object).insert(FIELD.into(), managed);
    } else if object.get("metadata").is_some() {
        meta::of(object).shift_remove(FIELD);
    }
}

/// What came back from outside in the place of `object` may give its fields to others only in a way that can be read (`admission.go`).
pub(super) fn keep(ctx: &Ctx<'_>, object: &mut Value, before: &Value) {
    let now = meta::field(object, FIELD).cloned();
    let was = meta::field(before, FIELD).cloned();
    if now == was {
        return;
    }
    if let Err(why) = now.map_or(Ok(Managed::default()), |now| Managed::decode(now, Source::Client)) {
        put(object, was);
        let told = ".metadata.managedFields was in an invalid state after admission; this could be caused by an outdated mutating admission controller; please fix your requests";
        ctx.warn(vec![format!("{told}: {why}")]);
    }
}

/// An object that was too large to be stored, less these entries, which may be the larger part of it. `None`: it has none, or is applied, and then owned
/// by nobody it would come to nothing.
pub(super) fn without(ctx: &Ctx<'_>, object: &Value) -> Option<Value> {
    if ctx.manager.operation == ManagerOperation::Apply {
        return None;
    }
    meta::field(object, FIELD)?;
    let mut bare = object.clone();
    put(&mut bare, None);
    Some(bare)
}

/// Whether two states of an object differ in nothing but the times of their managers, so that nothing need be written.
pub(super) fn is_unchanged(new: &Value, old: &Value) -> bool {
    let (Some(now), Some(was)) = (new.as_object(), old.as_object()) else { return new == old };
    // Most writes that change something change the status.
    let fields = ["status", "spec"].into_iter().chain(now.keys().map(String::as_str).filter(|name| !matches!(*name, "status" | "spec")));
    now.len() == was.len()
        && fields.clone().all(|name| match (now.get(name), was.get(name)) {
            (Some(now), Some(was)) if name == "metadata" => is_metadata_unchanged(now, was),
            (Some(now), Some(was)) => is_same(now, was),
            (now, was) => now.is_none() && was.is_none(),
        })
}

fn is_metadata_unchanged(now: &Value, was: &Value) -> bool {
    let (Some(now), Some(was)) = (now.as_object(), was.as_object()) else { return now == was };
    now.len() == was.len()
        && now.iter().all(|(name, now)| match was.get(name) {
            Some(was) if name == FIELD => are_entries_unchanged(now, was),
            was => was.is_some_and(|was| is_same(now, was)),
        })
}

fn are_entries_unchanged(now: &Value, was: &Value) -> bool {
    let (Some(now), Some(was)) = (now.as_array(), was.as_array()) else { return now == was };
    let timeless = |entry: &Value| entry.as_object().map_or(0, |entry| entry.keys().filter(|name| *name != "time").count());
    let is_same_entry = |(now, was): (&Value, &Value)| {
        let fields = now.as_object().into_iter().flatten().filter(|(name, _)| *name != "time");
        timeless(now) == timeless(was) && fields.into_iter().all(|(name, now)| was.get(name).is_some_and(|was| is_same(now, was)))
    };
    now.len() == was.len() && now.iter().zip(was).all(is_same_entry)
}

/// As `==`, for values that most often have their fields in the same order: those are not looked up.
pub(super) fn is_same(one: &Value, other: &Value) -> bool {
    match (one, other) {
        (Value::Object(one), Value::Object(other)) if one.keys().eq(other.keys()) => {
            one.values().zip(other.values()).all(|(one, other)| is_same(one, other))
        }
        (Value::Array(one), Value::Array(other)) => {
            one.len() == other.len() && one.iter().zip(other).all(|(one, other)| is_same(one, other))
        }
        _ => one == other,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_the_same_is_no_change_in_whatever_order() {
        let (a, b) =
            (json!({"kind": "K", "spec": {"x": [1, {"y": 2, "z": 3}]}}), json!({"spec": {"x": [1, {"z": 3, "y": 2}]}, "kind": "K"}));
        assert!(is_unchanged(&a, &b));
        for other in
            [json!({"kind": "K", "spec": {"x": [1]}}), json!({"kind": "K", "spec": {"x": [1, {"y": 2, "z": 4}]}}), json!({"kind": "K"})]
        {
            assert!(!is_unchanged(&a, &other), "{other}");
        }
        let told = |phase: &str| json!({"metadata": {}, "spec": 1, "status": {"phase": phase}});
        assert!(!is_unchanged(&told("a"), &told("b")));
        assert!(!is_unchanged(&told("a"), &json!({"metadata": {}, "spec": 1})));
    }

    #[test]
    fn the_time_of_a_manager_is_no_change_and_all_else_is() {
        let of = |time: &str, fields: &str, size: i64| json!({"metadata": {"name": "a", "managedFields": [{"manager": "m", "time": time, "fieldsV1": {fields: {}}}]}, "spec": size});
        assert!(is_unchanged(&of("1", "f:a", 1), &of("2", "f:a", 1)));
        assert!(!is_unchanged(&of("1", "f:a", 1), &of("1", "f:b", 1)));
        assert!(!is_unchanged(&of("1", "f:a", 1), &of("2", "f:a", 2)));
    }
}
