//! A claim that grows -> refused, unless it is bound and its class lets its volumes grow.
//!
//! Source: `plugin/pkg/admission/storage/persistentvolume/resize`.

use api::{Key, Status};
use apiserver::identity::{Admission, Operation, Review};
use async_trait::async_trait;
use serde_json::Value;

use super::{forbidden, is};
use crate::{
    common::{Read, resources::quantity},
    persistentvolumeclaim::class,
    storageclass,
};

const UNBOUND: &str = "Only bound persistent volume claims can be expanded";
const FIXED: &str = "only dynamically provisioned pvc can be resized and the storageclass that provisions the pvc must support resize";

pub struct PersistentVolumeClaimResize;

#[async_trait]
impl Admission for PersistentVolumeClaimResize {
    fn name(&self) -> &'static str {
        "PersistentVolumeClaimResize"
    }

    async fn validate(&self, review: &Review<'_>) -> Result<(), Status> {
        let is_meant = review.ctx.operation == Operation::Update && is(review, "", "persistentvolumeclaims");
        let (Some(new), Some(old)) = (review.object.as_deref(), review.old) else { return Ok(()) };
        if !is_meant || !review.ctx.subresource.is_empty() || !grows(new, old) {
            return Ok(());
        }
        if old.at("status").text("phase") != "Bound" {
            return Err(forbidden(review, UNBOUND));
        }
        let name = class(new);
        let class_of = || review.ctx.engine.cached(&storageclass::resource(), &Key::new("", name));
        let may_grow = !name.is_empty() && name == class(old) && class_of().is_some_and(|c| c.value().is_true("allowVolumeExpansion"));
        if may_grow { Ok(()) } else { Err(forbidden(review, FIXED)) }
    }
}

fn grows(new: &Value, old: &Value) -> bool {
    let size = |claim: &Value| claim.at("spec").at("resources").at("requests").at("storage").and_then(quantity);
    match (size(new), size(old)) {
        (Some(now), Some(was)) => now > was,
        (Some(now), None) => !now.is_zero() && !now.is_negative(),
        (None, _) => false,
    }
}
