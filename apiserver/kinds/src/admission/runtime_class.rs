//! A pod that names a RuntimeClass -> refused, as the kind is not served and none exists: rather that than another runtime than the one it asked for.
//!
//! Source: `plugin/pkg/admission/runtimeclass/admission.go`.

use api::Status;
use apiserver::identity::{Admission, Review};
use async_trait::async_trait;

use super::{creates_pod, forbidden};
use crate::common::Read;

pub struct RuntimeClass;

#[async_trait]
impl Admission for RuntimeClass {
    fn name(&self) -> &'static str {
        "RuntimeClass"
    }

    async fn admit(&self, review: &mut Review<'_>) -> Result<(), Status> {
        if !creates_pod(review) {
            return Ok(());
        }
        match review.object.as_deref().at("spec").text("runtimeClassName") {
            "" => Ok(()),
            name => Err(forbidden(review, &format!("pod rejected: RuntimeClass {name:?} not found"))),
        }
    }
}
