//! A decoded object -> stored under a new key. Source: apiserver `pkg/registry/generic/registry/store.go`, `rest/create.go`.

use std::sync::Arc;

use api::{Key, Status, field_errors::FieldErrors};
use serde_json::Value;
use store::{Expect, Outcome};

use super::{
    admit,
    claims::{self, Claims},
    context::Ctx,
    form, managed_fields, meta,
    object::Object,
};
use crate::kind::{Claimant, Kind, MetaCheck, Storage};

/// How often a generated name is drawn before the conflict is the caller's.
const NAME_ATTEMPTS: usize = 8;
const BEING_DELETED: &str = "object is being deleted: ";

/// Creates `object` (wiped and typed already). For kinds that are kept nowhere the answer comes back with revision 0.
pub(crate) async fn create(ctx: &Ctx<'_>, mut object: Value) -> Result<Arc<Object>, Status> {
    let kind = ctx.kind;
    kind.strategy.default(&mut object);
    managed_fields::track(ctx, &mut object, None);
    admit::mutate(ctx, Some(&mut object), None).await?;
    if kind.storage == Storage::Nowhere {
        return answer(ctx, object).await;
    }
    if !meta::text(&object, "resourceVersion").is_empty() {
        return Err(Status::new(500, "", "resourceVersion should not be set on objects to be created"));
    }
    kind.strategy.prepare_name(&mut object);
    let base = meta::text(&object, "generateName").to_owned();
    if base.is_empty() || !meta::text(&object, "name").is_empty() {
        return Box::pin(create_named(ctx, object)).await;
    }
    let mut last = Status::internal("no name was generated");
    for _ in 0..NAME_ATTEMPTS {
        let mut named = object.clone();
        let generated = meta::generated(&base);
        meta::of(&mut named).insert("name".into(), generated.as_str().into());
        match Box::pin(create_named(ctx, named)).await {
            Err(status) if is_taken(&status, ctx.kind, &generated) => last = status,
            done => return done,
        }
    }
    last.message.push_str(", the server was not able to generate a unique name for the object");
    last.detail("retryAfterSeconds", 1);
    Err(last)
}

/// Whether it was the name that was in the way: what admission refuses in these words is its own, about another object.
fn is_taken(status: &Status, kind: &Kind, name: &str) -> bool {
    let ours = Status::already_exists(&kind.group_resource(), name);
    let told = status.message.strip_prefix(BEING_DELETED).unwrap_or(&status.message);
    (status.code, &status.reason, told) == (ours.code, &ours.reason, ours.message.as_str())
}

async fn answer(ctx: &Ctx<'_>, object: Value) -> Result<Arc<Object>, Status> {
    let mut causes = FieldErrors::default();
    ctx.kind.strategy.validate(&object, &mut causes);
    ctx.kind.strategy.validate_create(&object, &mut causes);
    refuse_invalid(ctx.kind, meta::text(&object, "name"), &causes)?;
    admit::validate(ctx, Some(&object), None).await?;
    let mut reply = ctx.kind.strategy.answer(ctx, object).await?;
    // A Status is none of the kind's objects.
    if reply.get("kind").and_then(Value::as_str) == Some(&*ctx.kind.kind) {
        ctx.kind.schema.complete(&mut reply);
    }
    Ok(form::loose(Key::default(), &reply))
}

pub(super) async fn create_named(ctx: &Ctx<'_>, mut object: Value) -> Result<Arc<Object>, Status> {
    let kind = ctx.kind;
    meta::fill(&mut object, ctx.now);
    let name = meta::text(&object, "name").to_owned();
    let ctx = &ctx.named(&name);
    prepare(ctx, &mut object);
    kind.schema.complete(&mut object);
    let mut causes = FieldErrors::default();
    let typed = meta::typed(&object).map_err(|why| form::mistyped(kind, &why))?;
    // Upstream's strategies look at the metadata first; those that do not are refused for it when all else is right.
    let looks_at_meta = kind.strategy.meta_check() != MetaCheck::None;
    if looks_at_meta {
        meta::validate(kind, &typed, &mut causes);
    }
    kind.strategy.validate_request(ctx, &object, None, &mut causes);
    kind.strategy.validate(&object, &mut causes);
    kind.strategy.validate_create(&object, &mut causes);
    if !looks_at_meta && causes.is_empty() {
        meta::validate(kind, &typed, &mut causes);
    }
    refuse_invalid(kind, &name, &causes)?;
    ctx.warn(kind.strategy.warnings(&object, None));
    admit::validate(ctx, Some(&object), None).await?;
    if ctx.dry_run && ctx.engine.stored(ctx.served, &ctx.key()).await?.is_some() {
        return Err(Status::already_exists(&kind.group_resource(), &name));
    }
    match kind.strategy.claimant() {
        Some(claimant) => create_claiming(ctx, claimant, object).await,
        None => stored(ctx, object, Claims::default()).await?.ok_or_else(|| claims::lost(ctx)),
    }
}

/// Claims and stores; anew where somebody else took what was to be claimed.
async fn create_claiming(ctx: &Ctx<'_>, claimant: &dyn Claimant, object: Value) -> Result<Arc<Object>, Status> {
    for _ in 0..claims::ATTEMPTS_MAX {
        let mut claiming = object.clone();
        let claims = claimant.claim(ctx, &mut claiming, None).await?;
        if let Some(created) = stored(ctx, claiming, claims).await? {
            return Ok(created);
        }
    }
    Err(claims::lost(ctx))
}

/// `None`: a claim was lost to somebody else.
async fn stored(ctx: &Ctx<'_>, object: Value, claims: Claims) -> Result<Option<Arc<Object>>, Status> {
    let key = ctx.key();
    if ctx.dry_run { Ok(Some(form::loose(key, &object))) } else { put(ctx, &key, &object, claims).await }
}

fn prepare(ctx: &Ctx<'_>, object: &mut Value) {
    let kind = ctx.kind;
    if kind.has_status()
        && !kind.strategy.created_with_status()
        && let Some(map) = object.as_object_mut()
    {
        map.shift_remove("status");
    }
    kind.strategy.prepare_create(ctx, object);
    if kind.generation {
        meta::of(object).insert("generation".into(), 1.into());
    }
}

async fn put(ctx: &Ctx<'_>, key: &Key, object: &Value, claims: Claims) -> Result<Option<Arc<Object>>, Status> {
    let (engine, served) = (ctx.engine, ctx.served);
    let cache = served.cache.as_ref().ok_or_else(|| Status::method_not_allowed(&ctx.kind.group_resource(), "create"))?;
    match claims.store(ctx, cache, Expect::Absent, object).await? {
        (Outcome::Done(rev), value) => engine.acknowledged(served, key, &value, rev).await.map(Some),
        (Outcome::Refused { found, .. }, _) => {
            let Some(there) = found.into_iter().next().flatten() else { return Ok(None) };
            let mut status = Status::already_exists(&ctx.kind.group_resource(), &key.name);
            if engine.object_of(cache, there).await.ok().flatten().is_some_and(|object| object.is_deleting()) {
                status.message = format!("{BEING_DELETED}{}", status.message);
            }
            Err(status)
        }
    }
}

/// Told of the kind that the object is kept as: upstream asks its internal type.
pub(super) fn refuse_invalid(kind: &Kind, name: &str, causes: &FieldErrors) -> Result<(), Status> {
    if causes.is_empty() {
        return Ok(());
    }
    let mut gvk = kind.gvk();
    match &kind.storage {
        Storage::As { group, .. } => gvk.group = group.to_string(),
        // The kind stands in no internal object.
        Storage::Nowhere => gvk.kind.clear(),
        Storage::Kept { .. } => {}
    }
    Err(Status::invalid(&gvk, name, causes))
}
