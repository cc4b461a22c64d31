//! Read, change, write until it fits. Source: apiserver `registry/store.go` `Update`, `rest/update.go` `BeforeUpdate`.

use std::sync::Arc;

use api::{Key, Status, field_errors::FieldErrors};
use serde_json::Value;
use store::{Expect, Op, Outcome, Txn};

use super::{
    Engine,
    admit::{self, Asked},
    create::{create_named, has_status, refuse_invalid},
    form, meta,
    object::Object,
    scale,
};
use crate::{
    identity::Operation,
    kind::{Ctx, Handler, Kind},
};

/// How often a write is tried against others before it is refused as a conflict: many may want the same small object at once.
const ATTEMPTS_MAX: usize = 64;
/// A large one as often as upstream tries a patch (`MaxRetryWhenPatchConflicts`, and the first).
const ATTEMPTS_MIN: usize = 6;
/// Most that is worked out for nothing beyond that, in bytes of objects.
const WORKED_BYTES_MAX: usize = 8 << 20;

/// The object as it is (in the served form, with its resource version) -> as it shall be. May run several times.
pub(crate) type Edit<'a> = dyn Fn(&mut Value) -> Result<(), Status> + Send + Sync + 'a;

/// What to do about an object that is not there.
#[derive(Clone, Copy)]
pub(crate) enum Missing<'a> {
    Refuse,
    /// Create it, where the strategy allows and this does not say no; `edit` then sees null.
    Create(&'a (dyn Fn() -> Result<(), Status> + Send + Sync)),
}

pub(crate) struct Updated {
    pub object: Arc<Object>,
    pub created: bool,
}

/// What one round came to.
enum Round {
    Done(Updated),
    /// Somebody else wrote in between; so many bytes were worked out for nothing.
    Again(usize),
}

/// What was tried in vain.
#[derive(Default)]
pub(super) struct Tries {
    count: usize,
    bytes: usize,
}

impl Tries {
    /// One more. False: that is enough.
    pub fn goes_on_after(&mut self, bytes: usize) -> bool {
        (self.count, self.bytes) = (self.count + 1, self.bytes.saturating_add(bytes));
        self.count < ATTEMPTS_MIN || self.count < ATTEMPTS_MAX && self.bytes < WORKED_BYTES_MAX
    }
}

/// `body_bytes` of what was sent are gone through with each try.
pub(crate) async fn update(
    engine: &Arc<Engine>,
    asked: &Asked<'_>,
    edit: &Edit<'_>,
    body_bytes: usize,
    missing: Missing<'_>,
) -> Result<Updated, Status> {
    let mut tries = Tries::default();
    loop {
        match Box::pin(round(engine, asked, edit, missing)).await? {
            Round::Done(updated) => return Ok(updated),
            Round::Again(bytes) if tries.goes_on_after(bytes.saturating_add(body_bytes)) => {}
            Round::Again(_) => return Err(Status::stale(&asked.served.kind.group_resource(), asked.name)),
        }
    }
}

async fn round(engine: &Arc<Engine>, asked: &Asked<'_>, edit: &Edit<'_>, missing: Missing<'_>) -> Result<Round, Status> {
    let kind = &asked.served.kind;
    let key = Key::new(asked.namespace, asked.name);
    let Some(current) = engine.stored(asked.served, &key).await? else {
        return create_missing(engine, asked, edit, missing).await;
    };
    let ctx = asked.ctx(engine);
    let old = form::value(asked.served, &current);
    let mut new = edited(kind, asked.subresource, &old, edit)?;
    check_version(kind, &mut new, &old)?;
    kind.strategy.default(&mut new);
    admit::mutate(&ctx, Operation::Update, Some(&mut new), Some(&old), asked.options).await?;
    let mut new = prepared(&ctx, new, &old);
    validated(&ctx, &new, &old)?;
    asked.warn(kind.strategy.warnings(&new, Some(&old)));
    admit::validate(&ctx, Operation::Update, Some(&new), Some(&old), asked.options).await?;
    if is_unchanged(&new, &old) {
        return Ok(Round::Done(Updated { object: form::view(asked.served, current), created: false }));
    }
    if finishes_deletion(kind, &new, &old) {
        return remove(engine, asked, &current, &new).await;
    }
    kind.strategy.allocate(&ctx, &mut new, Some(&old)).await?;
    if asked.dry_run {
        return Ok(Round::Done(Updated { object: form::loose(key, &new), created: false }));
    }
    let written = replace(engine, asked, &key, current.rev, &new).await;
    if !matches!(written, Ok(Some(_))) {
        kind.strategy.release(&ctx, &new).await;
    }
    Ok(written?.map_or(Round::Again(current.stored().len()), |object| Round::Done(Updated { object, created: false })))
}

async fn create_missing(engine: &Arc<Engine>, asked: &Asked<'_>, edit: &Edit<'_>, missing: Missing<'_>) -> Result<Round, Status> {
    let kind = &asked.served.kind;
    let not_found = || Status::not_found(&kind.group_resource(), asked.name);
    let Missing::Create(allowed) = missing else { return Err(not_found()) };
    if !kind.strategy.create_on_update() || !asked.subresource.is_empty() {
        return Err(not_found());
    }
    allowed()?;
    let mut object = Value::Null;
    edit(&mut object)?;
    let uid = meta::text(&object, "uid");
    if !uid.is_empty() {
        let why = format!("Precondition failed: UID in precondition: {uid}, UID in object meta: ");
        return Err(Status::conflict(&kind.group_resource(), asked.name, &why));
    }
    meta::wipe(&mut object);
    meta::of(&mut object).shift_remove("resourceVersion");
    kind.strategy.default(&mut object);
    admit::mutate(&asked.ctx(engine), Operation::Create, Some(&mut object), None, asked.options).await?;
    let object = create_named(engine, asked, object).await?;
    Ok(Round::Done(Updated { object, created: true }))
}

/// Runs `edit` on the object, or on its scale where that is what is written.
fn edited(kind: &Kind, subresource: &str, old: &Value, edit: &Edit<'_>) -> Result<Value, Status> {
    let mut new = old.clone();
    if let Some(Handler::Scale(paths)) = kind.subresource(subresource).map(|sub| &sub.handler) {
        let mut scale = scale::of(paths, old);
        edit(&mut scale)?;
        scale::put(kind, paths, &mut new, &scale)?;
    } else {
        edit(&mut new)?;
    }
    Ok(new)
}

/// The resource version and uid the writer saw must be the current ones, where they are given.
fn check_version(kind: &Kind, new: &mut Value, old: &Value) -> Result<(), Status> {
    let gr = kind.group_resource();
    let name = meta::text(old, "name");
    let (current, given) = (meta::text(old, "resourceVersion"), meta::text(new, "resourceVersion"));
    let (uid, wanted) = (meta::text(old, "uid"), meta::text(new, "uid"));
    if !wanted.is_empty() && wanted != uid {
        let why = format!("Precondition failed: UID in precondition: {wanted}, UID in object meta: {uid}");
        return Err(Status::conflict(&gr, name, &why));
    }
    // "0" is what client libraries send for "none".
    if !matches!(given, "" | "0") {
        return if given == current { Ok(()) } else { Err(Status::stale(&gr, name)) };
    }
    if !kind.strategy.unconditional_update() {
        let mut causes = FieldErrors::default();
        causes.invalid("metadata.resourceVersion", 0, "must be specified for an update");
        return Err(Status::invalid(&kind.gvk(), name, &causes));
    }
    meta::of(new).insert("resourceVersion".into(), current.into());
    Ok(())
}

/// `PrepareForUpdate` of the object or of the subresource, and what the system keeps of the metadata.
fn prepared(ctx: &Ctx<'_>, new: Value, old: &Value) -> Value {
    let kind = ctx.kind;
    let mut new = form::typed_as(kind, new);
    meta::carry_over(&mut new, old);
    let handler = kind.subresource(ctx.subresource).map(|sub| &sub.handler);
    // An action writes as the system (upstream's bindings do not pass a strategy): what it makes of the object stands, and is no new generation.
    if matches!(handler, Some(Handler::Action(_))) {
        return new;
    }
    match handler {
        Some(Handler::Status) => {
            carry_all_but(&mut new, old, &["metadata", "status"]);
            kind.strategy.prepare_subresource(ctx, &mut new, old);
        }
        Some(Handler::Object) => kind.strategy.prepare_subresource(ctx, &mut new, old),
        _ => {
            if has_status(kind) {
                carry(&mut new, old, "status");
            }
            kind.strategy.prepare_update(ctx, &mut new, old);
        }
    }
    // A status leaves the rest as it is.
    if kind.generation && !matches!(handler, Some(Handler::Status)) && has_other_content(&new, old) {
        let generation = meta::field(old, "generation").and_then(Value::as_i64).unwrap_or_default();
        meta::of(&mut new).insert("generation".into(), (generation + 1).into());
    }
    new
}

fn carry(to: &mut Value, from: &Value, part: &str) {
    let Some(map) = to.as_object_mut() else { return };
    match from.get(part) {
        Some(value) => drop(map.insert(part.to_owned(), value.clone())),
        None => drop(map.shift_remove(part)),
    }
}

/// As [`carry`], of all parts but these. Most are what they were, and are not copied.
fn carry_all_but(to: &mut Value, from: &Value, parts: &[&str]) {
    let (Some(map), Some(was)) = (to.as_object_mut(), from.as_object()) else { return };
    map.retain(|name, _| parts.contains(&name.as_str()) || was.contains_key(name));
    for (name, value) in was.iter().filter(|(name, _)| !parts.contains(&name.as_str())) {
        if map.get(name).is_none_or(|there| !is_same(there, value)) {
            map.insert(name.clone(), value.clone());
        }
    }
}

/// Whether that is changed which a generation counts the changes of.
fn has_other_content(new: &Value, old: &Value) -> bool {
    let counted = |name: &str| !matches!(name, "metadata" | "status" | "kind" | "apiVersion");
    let parts = |object| Value::as_object(object).into_iter().flatten().filter(|(name, _)| counted(name));
    parts(new).count() != parts(old).count() || parts(new).any(|(name, value)| old.get(name).is_none_or(|was| !is_same(value, was)))
}

/// Most writes that change something change the status.
fn is_unchanged(new: &Value, old: &Value) -> bool {
    match (new.get("status"), old.get("status")) {
        (Some(now), Some(was)) if !is_same(now, was) => false,
        _ => is_same(new, old),
    }
}

/// As `==`, for values that most often have their fields in the same order: those are not looked up.
fn is_same(one: &Value, other: &Value) -> bool {
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

fn validated(ctx: &Ctx<'_>, new: &Value, old: &Value) -> Result<(), Status> {
    let kind = ctx.kind;
    let typed = meta::typed(new).map_err(|why| form::mistyped(kind, &why))?;
    let mut causes = FieldErrors::default();
    meta::validate_update(new, old, &typed, &mut causes);
    match kind.subresource(ctx.subresource).map(|sub| &sub.handler) {
        None | Some(Handler::Scale(_)) => {
            kind.strategy.validate(new, &mut causes);
            kind.strategy.validate_update(new, old, &mut causes);
        }
        Some(_) => kind.strategy.validate_subresource(ctx.subresource, new, old, &mut causes),
    }
    refuse_invalid(kind, ctx.name, &causes)
}

/// Whether this update takes the last thing away that kept a deleted object (`ShouldDeleteDuringUpdate`).
fn finishes_deletion(kind: &Kind, new: &Value, old: &Value) -> bool {
    let grace = meta::field(old, "deletionGracePeriodSeconds").and_then(Value::as_i64).unwrap_or_default();
    let deleted = meta::field(old, "deletionTimestamp").is_some();
    deleted && grace == 0 && meta::finalizers(new).is_empty() && !kind.strategy.holds_deletion(new)
}

async fn remove(engine: &Arc<Engine>, asked: &Asked<'_>, current: &Arc<Object>, new: &Value) -> Result<Round, Status> {
    if !asked.dry_run && !engine.erase(asked, current).await? {
        return Ok(Round::Again(current.stored().len()));
    }
    Ok(Round::Done(Updated { object: form::loose(current.key.clone(), new), created: false }))
}

/// Writes over revision `rev`. `None`: somebody else was faster.
pub(super) async fn replace(
    engine: &Arc<Engine>,
    asked: &Asked<'_>,
    key: &Key,
    rev: u64,
    new: &Value,
) -> Result<Option<Arc<Object>>, Status> {
    let served = asked.served;
    let Some(cache) = &served.cache else { return Err(Status::method_not_allowed(&served.kind.group_resource(), "update")) };
    let value = form::to_stored(served, new);
    let at = cache.store_key(key);
    let op = Op::Put { key: at.clone(), value: value.clone(), ttl: form::ttl(&cache.kind) };
    let txn = Txn { expect: vec![(at, Expect::At(rev))], ops: vec![op] };
    match engine.store.txn(txn).await.map_err(form::store_error)? {
        Outcome::Done(rev) => engine.acknowledged(served, key, &value, rev).await.map(Some),
        Outcome::Refused { .. } => Ok(None),
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
        assert!(is_unchanged(&a, &b) && !has_other_content(&a, &b));
        for other in
            [json!({"kind": "K", "spec": {"x": [1]}}), json!({"kind": "K", "spec": {"x": [1, {"y": 2, "z": 4}]}}), json!({"kind": "K"})]
        {
            assert!(!is_unchanged(&a, &other) && has_other_content(&a, &other) && has_other_content(&other, &a), "{other}");
        }
        let told = |phase: &str| json!({"metadata": {}, "spec": 1, "status": {"phase": phase}});
        assert!(!is_unchanged(&told("a"), &told("b")) && !has_other_content(&told("a"), &told("b")));
        assert!(!is_unchanged(&told("a"), &json!({"metadata": {}, "spec": 1})));
    }

    #[test]
    fn small_objects_are_tried_often_and_large_ones_as_often_as_upstream_does() {
        let most = |bytes: usize| {
            let mut tries = Tries::default();
            (1..).find(|_| !tries.goes_on_after(bytes))
        };
        assert_eq!([most(1 << 10), most(WORKED_BYTES_MAX / 8), most(3 << 20)], [Some(ATTEMPTS_MAX), Some(8), Some(ATTEMPTS_MIN)]);
    }
}
