//! A Service that takes external IPs it had not -> refused: whoever may make one could take others' traffic (CVE-2020-8554). Source:
//! `plugin/pkg/admission/network/denyserviceexternalips`.

use api::Status;
use apiserver::identity::{Admission, Review};
use async_trait::async_trait;

use super::{forbidden, is, writes};
use crate::common::Read;

pub struct DenyServiceExternalIPs;

#[async_trait]
impl Admission for DenyServiceExternalIPs {
    fn name(&self) -> &'static str {
        "DenyServiceExternalIPs"
    }

    async fn validate(&self, review: &Review<'_>) -> Result<(), Status> {
        if !is(review, "", "services") || !review.ctx.subresource.is_empty() || !writes(review) {
            return Ok(());
        }
        let (new, old) = (review.object.as_deref().at("spec").list("externalIPs"), review.old.at("spec").list("externalIPs"));
        if new.iter().all(|address| old.contains(address)) {
            return Ok(());
        }
        Err(forbidden(review, "Use of external IPs is denied by admission control"))
    }
}
