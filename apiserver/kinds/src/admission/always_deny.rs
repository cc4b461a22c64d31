//! Every write is refused. Source: `plugin/pkg/admission/deny`.

use api::Status;
use apiserver::identity::{Admission, Review};
use async_trait::async_trait;

use super::forbidden;

pub struct AlwaysDeny;

#[async_trait]
impl Admission for AlwaysDeny {
    fn name(&self) -> &'static str {
        "AlwaysDeny"
    }

    async fn admit(&self, review: &mut Review<'_>) -> Result<(), Status> {
        self.validate(review).await
    }

    /// The server's own writes are let through: it could not start.
    async fn validate(&self, review: &Review<'_>) -> Result<(), Status> {
        if review.ctx.is_own() { Ok(()) } else { Err(forbidden(review, "admission control is denying all modifications")) }
    }
}
