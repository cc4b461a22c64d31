//! Writes to subresources that are not the object itself: actions (binding, eviction, token) and connects.

use api::Status;
use serde_json::Value;

use super::{admit, context::Ctx, form, managed_fields};
use crate::kind::{Action, Connect, Subresource};

/// A create on a subresource whose body is another kind, checked and typed already -> the reply's HTTP status and body.
pub(crate) async fn act(ctx: &Ctx<'_>, action: &dyn Action, mut body: Value) -> Result<(u16, Value), Status> {
    action.default(&mut body);
    managed_fields::track(ctx, &mut body, None);
    admit::mutate(ctx, Some(&mut body), None).await?;
    admit::validate(ctx, Some(&body), None).await?;
    action.run(ctx, body).await
}

/// Shows admission a connect as its options object. `place` is the path behind the subresource and the query.
pub(crate) async fn admit_connect(ctx: &Ctx<'_>, sub: &Subresource, connect: &dyn Connect, place: (&str, &str)) -> Result<(), Status> {
    let Some(options) = connect.options(place.0, place.1) else { return Ok(()) };
    let mut options = form::named_as(&sub.body, options);
    admit::mutate(ctx, Some(&mut options), None).await?;
    admit::validate(ctx, Some(&options), None).await
}
