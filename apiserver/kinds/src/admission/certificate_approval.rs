//! An approval of a certificate -> refused, unless the approver may approve for the signer.
//!
//! Source: `plugin/pkg/admission/certificates/approval`, `pkg/certauthorization`.

use api::Status;
use apiserver::identity::{Admission, Attributes, Operation, Review};
use async_trait::async_trait;

use super::{forbidden, is};
use crate::{certificatesigningrequest::GROUP, common::Read};

pub struct CertificateApproval;

#[async_trait]
impl Admission for CertificateApproval {
    fn name(&self) -> &'static str {
        "CertificateApproval"
    }

    async fn validate(&self, review: &Review<'_>) -> Result<(), Status> {
        if !updates(review, "approval") {
            return Ok(());
        }
        let signer = review.old.at("spec").text("signerName");
        if may(review, "approve", signer).await {
            return Ok(());
        }
        Err(forbidden(review, &format!("user not permitted to approve requests with signerName {signer:?}")))
    }
}

/// Whether a request for a certificate is changed through `subresource`.
pub fn updates(review: &Review<'_>, subresource: &str) -> bool {
    let ctx = review.ctx;
    ctx.operation == Operation::Update && ctx.subresource == subresource && is(review, GROUP, "certificatesigningrequests")
}

/// `IsAuthorizedForSignerName`: for the signer, or for all of its domain.
pub async fn may(review: &Review<'_>, verb: &str, signer: &str) -> bool {
    let domain = signer.split('/').next().unwrap_or_default();
    for name in [signer, &format!("{domain}/*")] {
        let asked = Attributes {
            user: review.ctx.user,
            verb,
            name,
            group: GROUP,
            version: "*",
            resource: "signers",
            resource_request: true,
            ..Attributes::default()
        };
        let verdict = review.ctx.engine.verdict(&asked).await;
        if verdict.is_allowed() && verdict.error.is_empty() {
            return true;
        }
    }
    false
}
