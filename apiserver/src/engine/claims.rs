//! What a write needs besides its own object -> conditions and writes of one transaction: all of it is stored, or nothing.

use std::iter;

use api::{GroupResource, Key, Status};
use bytes::Bytes;
use serde_json::Value;
use store::{Expect, Op, Outcome, Rev, Txn};
use tokio::sync::OwnedMutexGuard;

use super::{Engine, cache::Cache, context::Ctx, form, managed_fields, meta, object::Object};

/// How often a create claims anew after somebody else was faster.
pub(super) const ATTEMPTS_MAX: usize = 64;
/// Under it stand keys that belong to no kind: what has been given out of a range.
pub(super) const RANGES: &str = "/registry/ranges/";

/// Other objects and keys that are written with an object, each under its own condition. Empty for most kinds. Dropped, they are as if they had
/// never been.
#[derive(Default)]
pub struct Claims {
    expect: Vec<(String, Expect)>,
    ops: Vec<Op>,
    /// Held until the transaction is over.
    turn: Option<OwnedMutexGuard<()>>,
}

impl Claims {
    /// An object of another kind that must not be there yet: complete but for what the system sets on a new one.
    ///
    /// # Errors
    /// 404 where the kind is not served.
    pub async fn create(&mut self, ctx: &Ctx<'_>, gr: &GroupResource, key: &Key, mut object: Value) -> Result<(), Status> {
        let served = ctx.engine.resource(gr)?;
        let Some(cache) = &served.cache else { return Err(Status::internal("a claim on a kind that is kept nowhere")) };
        meta::fill(&mut object, ctx.now);
        let at = cache.store_key(key);
        let value = ctx.engine.sealed(cache, &at, &form::to_stored(&served, &object).await?)?;
        self.expect.push((at.clone(), Expect::Absent));
        self.ops.push(Op::Put { key: at, value, ttl: form::ttl(&cache.kind) });
        Ok(())
    }

    /// Deletes an object of another kind, if it still is as it was read. What finalizers hold is marked for deletion instead.
    ///
    /// # Errors
    /// 404 where the kind is not served.
    pub async fn delete(&mut self, ctx: &Ctx<'_>, gr: &GroupResource, object: &Object) -> Result<(), Status> {
        let served = ctx.engine.resource(gr)?;
        let Some(cache) = &served.cache else { return Ok(()) };
        let at = cache.store_key(&object.key);
        self.expect.push((at.clone(), Expect::At(object.rev)));
        let mut value = object.value();
        if meta::finalizers(&value).is_empty() {
            self.ops.push(Op::Delete { key: at });
        } else if !object.is_deleting() {
            meta::mark_deleted(&mut value, ctx.now, 0);
            let value = ctx.engine.sealed(cache, &at, &form::to_stored(&served, &value).await?)?;
            self.ops.push(Op::Put { key: at, value, ttl: form::ttl(&cache.kind) });
        }
        Ok(())
    }

    /// Leaves an object of another kind alone, but for the condition that it still is as it was seen.
    ///
    /// # Errors
    /// 404 where the kind is not served.
    pub fn unchanged(&mut self, engine: &Engine, gr: &GroupResource, seen: &Object) -> Result<(), Status> {
        if let Some(cache) = &engine.resource(gr)?.cache {
            self.expect.push((cache.store_key(&seen.key), Expect::At(seen.rev)));
        }
        Ok(())
    }

    /// The condition that an object of another kind, which was not found, still is not there. What is there and cannot be read is passed over:
    /// nothing that depends on it would ever be written.
    ///
    /// # Errors
    /// 404 where the kind is not served; the store's.
    pub async fn absent(&mut self, engine: &Engine, gr: &GroupResource, key: &Key) -> Result<(), Status> {
        let Some(cache) = &engine.resource(gr)?.cache else { return Ok(()) };
        let at = cache.store_key(key);
        match engine.store.get(&at).await.map_err(form::store_error)? {
            Some(entry) if engine.object_of(cache, entry.clone()).await.ok().flatten().is_none() => {}
            _ => self.expect.push((at, Expect::Absent)),
        }
        Ok(())
    }

    /// Writes a key that belongs to no kind, as it was read at `rev` (`None`: was not there).
    pub fn put(&mut self, key: String, rev: Option<Rev>, value: Bytes) {
        self.expect.push((key.clone(), rev.map_or(Expect::Absent, Expect::At)));
        self.ops.push(Op::Put { key, value, ttl: None });
    }

    /// Others of this process wait for `turn` to be given back instead of losing against this write.
    pub fn hold(&mut self, turn: OwnedMutexGuard<()>) {
        self.turn = Some(turn);
    }

    /// Writes these alone. False: somebody else was faster, and what he wrote is in the caches.
    ///
    /// # Errors
    /// The store's.
    pub async fn settle(self, engine: &Engine) -> Result<bool, Status> {
        let Self { expect, ops, turn } = self;
        let outcome = written(engine, Txn { expect, ops }).await?;
        drop(turn);
        Ok(matches!(outcome, Outcome::Done(_)))
    }

    /// Stores `object` with these, where `expect` holds of its key; the bytes it is kept as come back. What is too large for the store is tried once
    /// more without its managedFields (`isTooLargeError` in apiserver `handlers/create.go`, `update.go`, `patch.go`).
    pub(super) async fn store(self, ctx: &Ctx<'_>, cache: &Cache, expect: Expect, object: &Value) -> Result<(Outcome, Bytes), Status> {
        let at = cache.store_key(&ctx.key());
        let op = |value: &Bytes| -> Result<Op, Status> {
            let value = ctx.engine.sealed(cache, &at, value)?;
            Ok(Op::Put { key: at.clone(), value, ttl: form::ttl(&cache.kind) })
        };
        let value = form::to_stored(ctx.served, object).await?;
        let refused = match self.commit(ctx.engine, at.clone(), expect.clone(), op(&value)?).await {
            Err(status) if status.code == 413 => status,
            outcome => return Ok((outcome?, value)),
        };
        let Some(bare) = managed_fields::without(ctx, object) else { return Err(refused) };
        let value = form::to_stored(ctx.served, &bare).await?;
        Ok((self.commit(ctx.engine, at.clone(), expect, op(&value)?).await?, value))
    }

    /// Writes `op` with these, where `expect` holds of its key: the first of what a refusal found.
    pub(super) async fn commit(&self, engine: &Engine, key: String, expect: Expect, op: Op) -> Result<Outcome, Status> {
        let (is_alone, expect) = (self.expect.is_empty(), iter::once((key, expect)).chain(self.expect.iter().cloned()).collect());
        let txn = Txn { expect, ops: iter::once(op).chain(self.ops.iter().cloned()).collect() };
        if is_alone { engine.store.txn(txn).await.map_err(form::store_error) } else { Box::pin(written(engine, txn)).await }
    }
}

impl Engine {
    /// A key that belongs to no kind, linearizable: the revision it was written at, and its bytes.
    ///
    /// # Errors
    /// The store's.
    pub async fn kept(&self, key: &str) -> Result<Option<(Rev, Bytes)>, Status> {
        let entry = self.store.get(key).await.map_err(form::store_error)?;
        Ok(entry.map(|entry| (entry.rev, entry.value)))
    }
}

/// Who was too slow sees in the caches what others did before he tries again.
async fn written(engine: &Engine, txn: Txn) -> Result<Outcome, Status> {
    let outcome = engine.store.txn(txn).await.map_err(form::store_error)?;
    let rev = match &outcome {
        Outcome::Done(rev) | Outcome::Refused { rev, .. } => *rev,
    };
    if matches!(outcome, Outcome::Refused { .. })
        && let Err(status) = engine.reach(rev).await
    {
        tracing::warn!(rev, %status, "cache lags behind what others claimed");
    }
    Ok(outcome)
}

/// Others were faster too often.
pub(super) fn lost(ctx: &Ctx<'_>) -> Status {
    let why = "what it needs was taken by others, please try again";
    let mut status = Status::conflict(&ctx.kind.group_resource(), ctx.name, why);
    status.detail("retryAfterSeconds", 1);
    status
}
