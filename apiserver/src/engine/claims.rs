//! What a write needs besides its own object -> conditions and writes of one transaction: all of it is stored, or nothing.

use std::{iter, mem, sync::Arc};

use api::{GroupResource, Key, Status};
use bytes::Bytes;
use serde_json::Value;
use store::{Expect, Op, Outcome, Rev, Txn};
use tokio::sync::OwnedMutexGuard;

use super::{Engine, context::Ctx, form, meta, object::Object};

/// How often a create claims anew after somebody else was faster.
pub(super) const ATTEMPTS_MAX: usize = 64;

/// Other objects and keys that are written with an object, each under its own condition. Empty for most kinds.
#[derive(Default)]
pub struct Claims {
    expect: Vec<(String, Expect)>,
    ops: Vec<Op>,
    /// Held until the transaction is over.
    turn: Option<OwnedMutexGuard<()>>,
    undo: Option<Box<dyn FnOnce() + Send + Sync>>,
}

impl Drop for Claims {
    fn drop(&mut self) {
        if let Some(undo) = self.undo.take() {
            undo();
        }
    }
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
        let (at, value) = (cache.store_key(key), form::to_stored(&served, &object).await?);
        self.expect.push((at.clone(), Expect::Absent));
        self.ops.push(Op::Put { key: at, value, ttl: form::ttl(&cache.kind) });
        Ok(())
    }

    /// Deletes an object of another kind, if it still is as it was read.
    ///
    /// # Errors
    /// 404 where the kind is not served.
    pub fn delete(&mut self, engine: &Arc<Engine>, gr: &GroupResource, object: &Object) -> Result<(), Status> {
        let served = engine.resource(gr)?;
        let Some(cache) = &served.cache else { return Ok(()) };
        let at = cache.store_key(&object.key);
        self.expect.push((at.clone(), Expect::At(object.rev)));
        self.ops.push(Op::Delete { key: at });
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

    pub fn undo(&mut self, undo: Box<dyn FnOnce() + Send + Sync>) {
        self.undo = Some(undo);
    }

    /// Writes `op` with these, where `expect` holds of its key: the first of what a refusal found.
    pub(super) async fn commit(mut self, engine: &Engine, key: String, expect: Expect, op: Op) -> Result<Outcome, Status> {
        let expect = iter::once((key, expect)).chain(mem::take(&mut self.expect)).collect();
        let ops = iter::once(op).chain(mem::take(&mut self.ops)).collect();
        let outcome = engine.store.txn(Txn { expect, ops }).await.map_err(form::store_error)?;
        if matches!(outcome, Outcome::Done(_)) {
            self.undo = None;
        }
        Ok(outcome)
    }
}

/// Others were faster too often.
pub(super) fn lost(ctx: &Ctx<'_>) -> Status {
    let why = "what it needs was taken by others, please try again";
    let mut status = Status::conflict(&ctx.kind.group_resource(), ctx.name, why);
    status.detail("retryAfterSeconds", 1);
    status
}
