//! A certificate that is issued -> refused, unless who writes it may sign for the signer. Source: `plugin/pkg/admission/certificates/signing`.

use api::Status;
use apiserver::identity::{Admission, Review};
use async_trait::async_trait;

use super::{
    certificate_approval::{may, updates},
    forbidden,
};
use crate::common::{Read, read};

pub struct CertificateSigning;

#[async_trait]
impl Admission for CertificateSigning {
    fn name(&self) -> &'static str {
        "CertificateSigning"
    }

    async fn validate(&self, review: &Review<'_>) -> Result<(), Status> {
        if !updates(review, "status") {
            return Ok(());
        }
        let (new, old) = (review.object.as_deref().at("status"), review.old.at("status"));
        if ["certificate", "conditions"].iter().all(|field| read::same(new.at(field), old.at(field))) {
            return Ok(());
        }
        let signer = review.old.at("spec").text("signerName");
        if may(review, "sign", signer).await {
            return Ok(());
        }
        Err(forbidden(review, &format!("user not permitted to sign requests with signerName {signer:?}")))
    }
}
