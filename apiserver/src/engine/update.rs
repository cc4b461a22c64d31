//! Read, change, write until it fits. Source: apiserver `registry/store.go` `Update`, `rest/update.go` `BeforeUpdate`.

use std::sync::Arc;

use api::{Gvk, Status, field_errors::FieldErrors};
use futures::future::BoxFuture;
use serde_json::Value;
use store::{Expect, Op, Outcome, Rev};

use super::{
    admit,
    claims::Claims,
    context::Ctx,
    create::{create_named, refuse_invalid},
    form,
    managed_fields::{self, is_same, is_unchanged},
    meta,
    object::Object,
    scale,
};
use crate::{
    identity::Operation,
    kind::{Handler, Kind, MetaCheck, ScalePaths},
};

/// How often a write is tried against others before it is refused as a conflict: many may want the same small object at once.
const ATTEMPTS_MAX: usize = 64;
/// A large one as often as upstream tries a patch (`MaxRetryWhenPatchConflicts`, and the first).
const ATTEMPTS_MIN: usize = 6;
/// Most that is worked out for nothing beyond that, in bytes of objects.
const WORKED_BYTES_MAX: usize = 8 << 20;

/// The object as it is (in the served form, with its resource version) -> as it shall be. May run several times.
pub(crate) type Edit<'a> = dyn Fn(&mut Value) -> Result<(), Status> + Send + Sync + 'a;

/// Whether who asks may create it.
pub(crate) type MayCreate<'a> = dyn Fn() -> BoxFuture<'a, Result<(), Status>> + Send + Sync + 'a;

/// What to do about an object that is not there.
#[derive(Clone, Copy)]
pub(crate) enum Missing<'a> {
    Refuse,
    /// Create it, where the strategy allows and this does not say no; `edit` then sees null.
    Create(&'a MayCreate<'a>),
    /// The same whatever the strategy says: it is applied.
    Apply(&'a MayCreate<'a>),
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
pub(crate) async fn update(ctx: &Ctx<'_>, edit: &Edit<'_>, body_bytes: usize, missing: Missing<'_>) -> Result<Updated, Status> {
    let mut tries = Tries::default();
    loop {
        match Box::pin(round(ctx, edit, missing)).await? {
            Round::Done(updated) => return Ok(updated),
            Round::Again(bytes) if tries.goes_on_after(bytes.saturating_add(body_bytes)) => {}
            Round::Again(_) => return Err(Status::stale(&ctx.kind.group_resource(), ctx.name)),
        }
    }
}

async fn round(ctx: &Ctx<'_>, edit: &Edit<'_>, missing: Missing<'_>) -> Result<Round, Status> {
    let Some(current) = ctx.engine.stored(ctx.served, &ctx.key()).await? else {
        return create_missing(ctx, edit, missing).await;
    };
    let strategy = &ctx.kind.strategy;
    let mut old = form::value(ctx.served, &current).await?;
    // An older server, or another, may have left it out.
    ctx.kind.schema.complete(&mut old);
    let mut new = prepared(ctx, edited(ctx, &old, edit).await?, &old);
    validated(ctx, &new, &old)?;
    // Strategies of subresources have none (`WarningsOnUpdate`); a scale goes through the object's own.
    if ctx.subresource.is_empty() || scale_paths(ctx).is_some() {
        ctx.warn(strategy.warnings(&new, Some(&old)));
    }
    reviewed(ctx, &new, &old).await?;
    if is_unchanged(&new, &old) && !ctx.engine.is_stale(ctx.served, &current).await? {
        return Ok(Round::Done(Updated { object: form::view(ctx.served, current).await?, created: false }));
    }
    if finishes_deletion(ctx.kind, &new, &old) {
        return remove(ctx, &current, &new).await;
    }
    let claims = match strategy.claimant() {
        Some(claimant) => claimant.claim(ctx, &mut new, Some(&old)).await?,
        None => Claims::default(),
    };
    if ctx.dry_run {
        return Ok(Round::Done(Updated { object: form::loose(ctx.key(), &new), created: false }));
    }
    let written = replace(ctx, current.rev, &new, claims).await?;
    Ok(written.map_or(Round::Again(current.stored().len()), |object| Round::Done(Updated { object, created: false })))
}

async fn create_missing(ctx: &Ctx<'_>, edit: &Edit<'_>, missing: Missing<'_>) -> Result<Round, Status> {
    let kind = ctx.kind;
    let not_found = || Status::not_found(&kind.group_resource(), ctx.name);
    let allowed = match missing {
        _ if !ctx.subresource.is_empty() => return Err(not_found()),
        Missing::Create(allowed) if kind.strategy.create_on_update() => allowed,
        Missing::Apply(allowed) => allowed,
        Missing::Create(_) | Missing::Refuse => return Err(not_found()),
    };
    allowed().await?;
    let mut object = Value::Null;
    edit(&mut object)?;
    let uid = meta::text(&object, "uid");
    if !uid.is_empty() {
        let why = format!("Precondition failed: UID in precondition: {uid}, UID in object meta: ");
        return Err(Status::conflict(&kind.group_resource(), ctx.name, &why));
    }
    meta::wipe(&mut object);
    meta::of(&mut object).shift_remove("resourceVersion");
    kind.strategy.default(&mut object);
    let ctx = &ctx.operating(Operation::Create);
    managed_fields::track(ctx, &mut object, None);
    admit::mutate(ctx, Some(&mut object), None).await?;
    // It is written under the name that was authorized.
    if meta::text(&object, "name") != ctx.name {
        let words = format!("the name of the object ({}) does not match the name on the URL ({})", meta::text(&object, "name"), ctx.name);
        return Err(Status::bad_request(words));
    }
    let object = create_named(ctx, object).await?;
    Ok(Round::Done(Updated { object, created: true }))
}

/// What the writer and mutating admission make of the object; where its scale is written, of that.
async fn edited(ctx: &Ctx<'_>, old: &Value, edit: &Edit<'_>) -> Result<Value, Status> {
    let mut new = old.clone();
    let Some(paths) = scale_paths(ctx) else {
        edit(&mut new)?;
        check_version(ctx, &mut new, old)?;
        ctx.kind.strategy.default(&mut new);
        managed_fields::track(ctx, &mut new, Some(old));
        admit::mutate(ctx, Some(&mut new), Some(old)).await?;
        return Ok(new);
    };
    let mut was = scale::of(paths, old);
    managed_fields::of_object(paths, old, &mut was);
    let mut scale = was.clone();
    edit(&mut scale)?;
    managed_fields::track(ctx, &mut scale, Some(&was));
    admit::mutate(ctx, Some(&mut scale), Some(&was)).await?;
    scale::put(ctx.kind, paths, &mut new, &scale)?;
    managed_fields::of_scale(ctx.kind, paths, &scale, &mut new);
    check_version(ctx, &mut new, old)?;
    ctx.kind.strategy.default(&mut new);
    Ok(new)
}

/// Validating admission is shown what the writer sent: the object, or its scale (`toScaleUpdateValidation`).
async fn reviewed(ctx: &Ctx<'_>, new: &Value, old: &Value) -> Result<(), Status> {
    match scale_paths(ctx) {
        Some(paths) => admit::validate(ctx, Some(&scale::of(paths, new)), Some(&scale::of(paths, old))).await,
        None => admit::validate(ctx, Some(new), Some(old)).await,
    }
}

fn scale_paths<'a>(ctx: &Ctx<'a>) -> Option<&'a ScalePaths> {
    match &ctx.kind.subresource(ctx.subresource)?.handler {
        Handler::Scale(paths) => Some(paths),
        _ => None,
    }
}

/// The resource version and uid the writer saw must be the current ones, where they are given.
fn check_version(ctx: &Ctx<'_>, new: &mut Value, old: &Value) -> Result<(), Status> {
    let (kind, gr) = (ctx.kind, ctx.kind.group_resource());
    let name = meta::text(old, "name");
    let (current, given) = (meta::text(old, "resourceVersion"), meta::text(new, "resourceVersion"));
    let (uid, wanted) = (meta::text(old, "uid"), meta::text(new, "uid"));
    // A patch comes with no preconditions: what it makes of the uid is validated.
    if !wanted.is_empty() && wanted != uid && ctx.verb != "patch" {
        let failed = format!("Precondition failed: UID in precondition: {wanted}, UID in object meta: {uid}");
        let key = ctx.served.cache.as_ref().map(|cache| cache.store_key(&ctx.key())).unwrap_or_default();
        // A dry run does not reach the store, which puts its root in front.
        let key = key.strip_prefix("/registry").filter(|_| ctx.dry_run).unwrap_or(&key);
        let why = format!("StorageError: invalid object, Code: 4, Key: {key}, ResourceVersion: 0, AdditionalErrorMsg: {failed}");
        return Err(Status::conflict(&gr, name, &why));
    }
    // "0" is what client libraries send for "none".
    if !matches!(given, "" | "0") {
        return if given == current { Ok(()) } else { Err(Status::stale(&gr, name)) };
    }
    if !kind.strategy.unconditional_update() {
        let mut causes = FieldErrors::default();
        causes.invalid("metadata.resourceVersion", 0, "must be specified for an update");
        // The store names the resource here, not the kind.
        return Err(Status::invalid(&Gvk::new(&kind.group, &kind.version, &kind.plural), name, &causes));
    }
    meta::of(new).insert("resourceVersion".into(), current.into());
    Ok(())
}

/// `PrepareForUpdate` of the object or of the subresource, and what the system keeps of the metadata.
fn prepared(ctx: &Ctx<'_>, new: Value, old: &Value) -> Value {
    let kind = ctx.kind;
    let mut new = form::typed_as(kind, new);
    kind.schema.complete(&mut new);
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
            if kind.has_status() {
                carry(&mut new, old, "status");
            }
            kind.strategy.prepare_update(ctx, &mut new, old);
        }
    }
    // A status leaves the rest as it is.
    let changes = has_other_content(&new, old, uncounted(kind)) || has_other_metadata(&new, old, kind.strategy.counted_metadata());
    if kind.generation && !matches!(handler, Some(Handler::Status)) && changes {
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

/// Parts whose changes make no generation. A status without a subresource is a part as any other.
fn uncounted(kind: &Kind) -> &'static [&'static str] {
    const PARTS: &[&str] = &["metadata", "kind", "apiVersion", "status"];
    if kind.has_status() { PARTS } else { &PARTS[..3] }
}

/// Whether that is changed which a generation counts the changes of.
fn has_other_content(new: &Value, old: &Value, uncounted: &[&str]) -> bool {
    let counted = |name: &str| !uncounted.contains(&name);
    let parts = |object| Value::as_object(object).into_iter().flatten().filter(|(name, _)| counted(name));
    parts(new).count() != parts(old).count() || parts(new).any(|(name, value)| old.get(name).is_none_or(|was| !is_same(value, was)))
}

/// Whether one of these maps of the metadata is changed; empty is as absent.
fn has_other_metadata(new: &Value, old: &Value, counted: &[&str]) -> bool {
    let map = |object, name| meta::field(object, name).and_then(Value::as_object).filter(|map| !map.is_empty());
    counted.iter().any(|name| map(new, name) != map(old, name))
}

fn validated(ctx: &Ctx<'_>, new: &Value, old: &Value) -> Result<(), Status> {
    let kind = ctx.kind;
    let typed = meta::typed(new).map_err(|why| form::mistyped(kind, &why))?;
    let mut causes = FieldErrors::default();
    let check = if ctx.subresource.is_empty() { kind.strategy.meta_check() } else { MetaCheck::Update };
    meta::validate_update(kind, (new, old), &typed, check, &mut causes);
    kind.strategy.validate_request(ctx, new, Some(old), &mut causes);
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

async fn remove(ctx: &Ctx<'_>, current: &Arc<Object>, new: &Value) -> Result<Round, Status> {
    if !ctx.dry_run && !erase(ctx, current).await? {
        return Ok(Round::Again(current.stored().len()));
    }
    Ok(Round::Done(Updated { object: form::loose(current.key.clone(), new), created: false }))
}

/// Writes over revision `rev`. `None`: somebody else was faster, here or at what is claimed.
pub(super) async fn replace(ctx: &Ctx<'_>, rev: Rev, new: &Value, claims: Claims) -> Result<Option<Arc<Object>>, Status> {
    let (engine, served) = (ctx.engine, ctx.served);
    let Some(cache) = &served.cache else { return Err(Status::method_not_allowed(&served.kind.group_resource(), "update")) };
    match claims.store(ctx, cache, Expect::At(rev), new).await? {
        (Outcome::Done(rev), value) => engine.acknowledged(served, &ctx.key(), &value, rev).await.map(Some),
        (Outcome::Refused { .. }, _) => Ok(None),
    }
}

/// Removes `current` and what it had claimed. False: somebody else was faster.
pub(super) async fn erase(ctx: &Ctx<'_>, current: &Object) -> Result<bool, Status> {
    let (engine, served) = (ctx.engine, ctx.served);
    let Some(cache) = &served.cache else { return Err(Status::internal("a kind that is kept nowhere was deleted")) };
    let at = cache.store_key(&current.key);
    let claims = match served.kind.strategy.claimant() {
        Some(claimant) => claimant.release(ctx, &form::value(served, current).await?).await?,
        None => Claims::default(),
    };
    let outcome = claims.commit(engine, at.clone(), Expect::At(current.rev), Op::Delete { key: at }).await?;
    drop(claims);
    let Outcome::Done(done) = outcome else { return Ok(false) };
    if let Err(status) = engine.reach(done).await {
        tracing::warn!(rev = done, %status, "cache lags behind an acknowledged deletion");
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_what_a_generation_counts_is_other_content() {
        let told = |phase: &str, x: i64| json!({"kind": "K", "metadata": {}, "spec": {"x": x}, "status": {"phase": phase}});
        let differ = |new: &Value, old: &Value| has_other_content(new, old, &["metadata", "kind", "apiVersion", "status"]);
        assert!(!differ(&told("a", 1), &told("b", 1)));
        assert!(differ(&told("a", 1), &told("a", 2)));
        let bare = json!({"kind": "K"});
        assert!(differ(&told("a", 1), &bare) && differ(&bare, &told("a", 1)));
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
