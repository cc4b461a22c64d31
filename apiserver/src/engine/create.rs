//! A decoded object -> stored under a new key. Source: apiserver `pkg/registry/generic/registry/store.go`, `rest/create.go`.

use std::sync::Arc;

use api::{Key, Status, field_errors::FieldErrors};
use serde_json::Value;
use store::{Expect, Op, Outcome, Txn};

use super::{
    Engine,
    admit::{self, Asked},
    form, meta,
    object::Object,
};
use crate::{
    identity::Operation,
    kind::{Ctx, Handler, Kind, Storage},
};

/// How often a generated name is drawn before the conflict is the caller's.
const NAME_ATTEMPTS: usize = 8;

/// Creates `object` (wiped and typed already). For kinds that are kept nowhere the answer comes back with revision 0.
pub(crate) async fn create(engine: &Arc<Engine>, asked: &Asked<'_>, mut object: Value) -> Result<Arc<Object>, Status> {
    let kind = &asked.served.kind;
    kind.strategy.default(&mut object);
    let ctx = asked.ctx(engine);
    admit::mutate(&ctx, Operation::Create, Some(&mut object), None, asked.options).await?;
    if kind.storage == Storage::Nowhere {
        return answer(&ctx, asked, object).await;
    }
    if !meta::text(&object, "resourceVersion").is_empty() {
        return Err(Status::new(500, "", "resourceVersion should not be set on objects to be created"));
    }
    let base = meta::text(&object, "generateName").to_owned();
    if base.is_empty() || !meta::text(&object, "name").is_empty() {
        return Box::pin(create_named(engine, asked, object)).await;
    }
    let mut last = Status::internal("no name was generated");
    for _ in 0..NAME_ATTEMPTS {
        let mut named = object.clone();
        meta::of(&mut named).insert("name".into(), meta::generated(&base).into());
        match Box::pin(create_named(engine, asked, named)).await {
            Err(status) if status.reason == "AlreadyExists" => last = status,
            done => return done,
        }
    }
    last.message.push_str(", the server was not able to generate a unique name for the object");
    last.detail("retryAfterSeconds", 1);
    Err(last)
}

async fn answer(ctx: &Ctx<'_>, asked: &Asked<'_>, object: Value) -> Result<Arc<Object>, Status> {
    let mut causes = FieldErrors::default();
    ctx.kind.strategy.validate(&object, &mut causes);
    ctx.kind.strategy.validate_create(&object, &mut causes);
    refuse_invalid(ctx.kind, meta::text(&object, "name"), &causes)?;
    admit::validate(ctx, Operation::Create, Some(&object), None, asked.options).await?;
    let reply = ctx.kind.strategy.answer(ctx, object).await?;
    Ok(form::loose(Key::default(), &reply))
}

pub(super) async fn create_named(engine: &Arc<Engine>, asked: &Asked<'_>, mut object: Value) -> Result<Arc<Object>, Status> {
    let kind = &asked.served.kind;
    meta::fill(&mut object, asked.now);
    let name = meta::text(&object, "name").to_owned();
    let ctx = asked.ctx_named(engine, &name);
    prepare(&ctx, &mut object);
    let mut causes = FieldErrors::default();
    let typed = meta::typed(&object).map_err(|why| form::mistyped(kind, &why))?;
    kind.strategy.validate(&object, &mut causes);
    kind.strategy.validate_create(&object, &mut causes);
    meta::validate(kind, &typed, &mut causes);
    refuse_invalid(kind, &name, &causes)?;
    asked.warn(kind.strategy.warnings(&object, None));
    admit::validate(&ctx, Operation::Create, Some(&object), None, asked.options).await?;
    let key = Key::new(asked.namespace, &name);
    if asked.dry_run && engine.stored(asked.served, &key).await?.is_some() {
        return Err(Status::already_exists(&kind.group_resource(), &name));
    }
    kind.strategy.allocate(&ctx, &mut object, None).await?;
    if asked.dry_run {
        return Ok(form::loose(key, &object));
    }
    let stored = put(engine, &ctx, &key, &object).await;
    if stored.is_err() {
        kind.strategy.release(&ctx, &object).await;
    }
    stored
}

fn prepare(ctx: &Ctx<'_>, object: &mut Value) {
    let kind = ctx.kind;
    if has_status(kind)
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

async fn put(engine: &Arc<Engine>, ctx: &Ctx<'_>, key: &Key, object: &Value) -> Result<Arc<Object>, Status> {
    let served = engine.served(ctx.kind)?;
    let cache = served.cache.as_ref().ok_or_else(|| Status::method_not_allowed(&ctx.kind.group_resource(), "create"))?;
    let value = form::to_stored(&served, object);
    let at = cache.store_key(key);
    let op = Op::Put { key: at.clone(), value: value.clone(), ttl: form::ttl(&cache.kind) };
    let txn = Txn { expect: vec![(at, Expect::Absent)], ops: vec![op] };
    match engine.store.txn(txn).await.map_err(form::store_error)? {
        Outcome::Done(rev) => engine.acknowledged(&served, key, &value, rev).await,
        Outcome::Refused { found, .. } => {
            let mut status = Status::already_exists(&ctx.kind.group_resource(), &key.name);
            let there = found.into_iter().flatten().next();
            if there.and_then(|entry| cache.object(&entry)).is_some_and(|object| object.is_deleting()) {
                status.message = format!("object is being deleted: {}", status.message);
            }
            Err(status)
        }
    }
}

pub(super) fn has_status(kind: &Kind) -> bool {
    kind.subresource("status").is_some_and(|sub| matches!(sub.handler, Handler::Status))
}

pub(super) fn refuse_invalid(kind: &Kind, name: &str, causes: &FieldErrors) -> Result<(), Status> {
    if causes.is_empty() { Ok(()) } else { Err(Status::invalid(&kind.gvk(), name, causes)) }
}
