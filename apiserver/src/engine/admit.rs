//! The admission chain that every write passes: those who change it, then those who only say no. Source: apiserver `pkg/admission/chain.go`,
//! `reinvocation.go`.

use api::Status;
use serde_json::Value;

use super::{
    context::{Ctx, Origin},
    meta,
};
use crate::{
    identity::{Admission, Operation, Reinvocation, Review, Reviewed},
    schema::FieldValidation,
};

/// The mutating half. Where a plugin asks for it, all are asked once more, as what came after it may have changed what it decided on.
pub(crate) async fn mutate(ctx: &Ctx<'_>, mut object: Option<&mut Value>, old: Option<&Value>) -> Result<(), Status> {
    if ctx.origin == Origin::Action {
        return Ok(());
    }
    let mut reinvocation = Reinvocation::default();
    pass(ctx, object.as_deref_mut(), old, &mut reinvocation).await?;
    if reinvocation.begin_again() {
        pass(ctx, object, old, &mut reinvocation).await?;
    }
    Ok(())
}

async fn pass(ctx: &Ctx<'_>, mut object: Option<&mut Value>, old: Option<&Value>, reinvocation: &mut Reinvocation) -> Result<(), Status> {
    for plugin in &ctx.engine.auth.admission {
        let reviewed = object.as_deref_mut().map_or(Reviewed::Nothing, Reviewed::Admitted);
        let mut review = Review { ctx, object: reviewed, old, reinvocation };
        plugin.admit(&mut review).await?;
        if let Some(object) = object.as_deref_mut()
            && plugin.is_external()
        {
            check_again(ctx, plugin.as_ref(), object)?;
        }
    }
    Ok(())
}

/// What comes back from outside is checked and defaulted as what a client sends is.
fn check_again(ctx: &Ctx<'_>, plugin: &dyn Admission, object: &mut Value) -> Result<(), Status> {
    let is_whole = ctx.kind.is_object_of(ctx.subresource);
    if !is_whole || ctx.operation == Operation::Connect {
        return Ok(());
    }
    let refused =
        |status: Status| Status::internal(format!("admission plugin {:?} made an invalid object: {}", plugin.name(), status.message));
    ctx.kind.schema.check(&ctx.kind.gvk(), object, &[], FieldValidation::Ignore).map_err(refused)?;
    meta::typed(object).map_err(|why| refused(Status::bad_request(why)))?;
    if meta::text(object, "namespace") != ctx.namespace {
        return Err(Status::bad_request("the namespace of the provided object does not match the namespace sent on the request"));
    }
    ctx.kind.strategy.default(object);
    Ok(())
}

/// The validating half.
pub(crate) async fn validate(ctx: &Ctx<'_>, object: Option<&Value>, old: Option<&Value>) -> Result<(), Status> {
    if ctx.origin == Origin::Action {
        return Ok(());
    }
    let mut reinvocation = Reinvocation::default();
    let object = object.map_or(Reviewed::Nothing, Reviewed::Validated);
    let review = Review { ctx, object, old, reinvocation: &mut reinvocation };
    for plugin in &ctx.engine.auth.admission {
        plugin.validate(&review).await?;
    }
    Ok(())
}
