//! The admission chain that every write passes: those who change it, then those who only say no. Source: apiserver `pkg/admission/chain.go`,
//! `reinvocation.go`.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::Instant,
};

use api::Status;
use serde_json::Value;

use super::{
    context::{Ctx, Origin},
    managed_fields, meta,
};
use crate::{
    fields::{self, Typ},
    identity::{Admission, Operation, Reinvocation, Review, Reviewed},
    kind::Kind,
    metrics::admission::{self, Step},
    schema::FieldValidation,
};

/// The mutating half. Where a plugin asks for it, all are asked once more, as what came after it may have changed what it decided on.
pub(crate) async fn mutate(ctx: &Ctx<'_>, object: Option<&mut Value>, old: Option<&Value>) -> Result<(), Status> {
    if ctx.origin == Origin::Action {
        return Ok(());
    }
    let began = Instant::now();
    let done = mutate_all(ctx, object, old).await;
    admission::step(Step::Admit, ctx.operation, done.is_err(), began.elapsed());
    done
}

async fn mutate_all(ctx: &Ctx<'_>, mut object: Option<&mut Value>, old: Option<&Value>) -> Result<(), Status> {
    let mut reinvocation = Reinvocation::default();
    pass(ctx, object.as_deref_mut(), old, &mut reinvocation).await?;
    if reinvocation.begin_again() {
        pass(ctx, object, old, &mut reinvocation).await?;
    }
    Ok(())
}

async fn pass(ctx: &Ctx<'_>, mut object: Option<&mut Value>, old: Option<&Value>, reinvocation: &mut Reinvocation) -> Result<(), Status> {
    let mut told = Telling::new(ctx, Step::Admit);
    for (at, plugin) in ctx.engine.auth.admission.iter().enumerate() {
        let object = object.as_deref_mut().map_or(Reviewed::Nothing, Reviewed::Admitted);
        let mut review = Review { ctx, object, old, reinvocation, is_passed_over: AtomicBool::new(false) };
        let done = plugin.admit(&mut review).await;
        told.plugin(at, &**plugin, &review, done.is_err());
        done?;
    }
    Ok(())
}

/// The validating half.
pub(crate) async fn validate(ctx: &Ctx<'_>, object: Option<&Value>, old: Option<&Value>) -> Result<(), Status> {
    if ctx.origin == Origin::Action {
        return Ok(());
    }
    let mut reinvocation = Reinvocation::default();
    let object = object.map_or(Reviewed::Nothing, Reviewed::Validated);
    let review = Review { ctx, object, old, reinvocation: &mut reinvocation, is_passed_over: AtomicBool::new(false) };
    let mut told = Telling::new(ctx, Step::Validate);
    let began = told.since;
    let mut done = Ok(());
    for (at, plugin) in ctx.engine.auth.admission.iter().enumerate() {
        done = plugin.validate(&review).await;
        told.plugin(at, &**plugin, &review, done.is_err());
        if done.is_err() {
            break;
        }
    }
    admission::step(Step::Validate, ctx.operation, done.is_err(), told.since - began);
    done
}

/// How long each plugin takes. The clock is read once for each: where one ends, the next begins.
struct Telling<'c> {
    ctx: &'c Ctx<'c>,
    step: Step,
    since: Instant,
}

impl<'c> Telling<'c> {
    fn new(ctx: &'c Ctx<'c>, step: Step) -> Self {
        Self { ctx, step, since: Instant::now() }
    }

    fn plugin(&mut self, at: usize, plugin: &dyn Admission, review: &Review<'_>, is_rejected: bool) {
        if review.is_passed_over.swap(false, Ordering::Relaxed) {
            return;
        }
        let now = Instant::now();
        self.ctx.engine.admission_told.plugin(at, plugin, self.step, self.ctx.operation, is_rejected, now - self.since);
        self.since = now;
    }
}

/// An object of `kind` with what an apply configuration says put over it, which nobody comes to own (`ApplyStructuredMergeDiff`).
///
/// # Errors
/// The configuration is not of the schema, nor is what it is about, or it would change a part as a whole.
pub fn merged(kind: &Kind, subresource: &str, object: &Value, patch: &Value) -> Result<Value, String> {
    let structure = kind.body_schema(subresource).structure();
    let typ = structure.as_ref().map_or(Typ::OPEN, Typ::of);
    fields::validate(typ, patch).map_err(|why| format!("failed to convert patch object to typed object: {why}"))?;
    let atomics = fields::atomics(typ, patch);
    if !atomics.is_empty() {
        let all = atomics.join(", ");
        return Err(format!("invalid ApplyConfiguration: may not mutate atomic arrays, maps or structs: {all}"));
    }
    let mut merged = object.clone();
    fields::merge(typ, &mut merged, patch).map_err(|why| format!("failed to convert original object to typed object: {why}"))?;
    Ok(merged)
}

impl Review<'_> {
    /// Puts what came from outside (a webhook's patch, a policy's mutation) in the place of the object: checked and defaulted as what a client sends is,
    /// so that whoever looks next sees a whole one.
    ///
    /// # Errors
    /// 500 where it is no object of the kind, 400 where it is of another namespace, or where nothing may be changed.
    pub fn replace(&mut self, plugin: &str, mut new: Value) -> Result<(), Status> {
        let ctx = self.ctx;
        let refused = |why: &str| Status::internal(format!("admission plugin {plugin:?} made an invalid object: {why}"));
        let (schema, gvk) = ctx.body();
        schema.check(&gvk, &mut new, &[], FieldValidation::Ignore).map_err(|status| refused(&status.message))?;
        meta::typed(&new).map_err(|why| refused(&why))?;
        if ctx.kind.is_object_of(ctx.subresource) {
            if meta::text(&new, "namespace") != ctx.namespace {
                return Err(Status::bad_request("the namespace of the provided object does not match the namespace sent on the request"));
            }
            if ctx.operation == Operation::Create {
                meta::wipe(&mut new);
            }
            ctx.kind.strategy.default(&mut new);
        }
        let Some(object) = self.object.as_deref_mut() else { return Err(refused("there is none to be changed")) };
        managed_fields::keep(ctx, &mut new, object);
        *object = new;
        Ok(())
    }
}
