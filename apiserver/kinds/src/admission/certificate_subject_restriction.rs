//! A request for a client certificate -> refused, where it asks for the administrators' group.
//!
//! Source: `plugin/pkg/admission/certificates/subjectrestriction`.

use api::{Status, csr};
use apiserver::{
    certs::request,
    identity::{Admission, Operation, Review},
};
use async_trait::async_trait;

use super::{forbidden, is};
use crate::{
    auth::MASTERS,
    certificatesigningrequest::{GROUP, request_bytes},
    common::Read,
};

pub struct CertificateSubjectRestriction;

#[async_trait]
impl Admission for CertificateSubjectRestriction {
    fn name(&self) -> &'static str {
        "CertificateSubjectRestriction"
    }

    async fn validate(&self, review: &Review<'_>) -> Result<(), Status> {
        let creates = review.ctx.operation == Operation::Create && review.ctx.subresource.is_empty();
        if !creates || !is(review, GROUP, "certificatesigningrequests") {
            return Ok(());
        }
        let Some(object) = review.object.as_deref().filter(|o| o.at("spec").text("signerName") == csr::CLIENT) else { return Ok(()) };
        let asked = request::look(&request_bytes(object)).map_err(|why| forbidden(review, &format!("failed to parse CSR: {why}")))?;
        if !asked.organizations.iter().any(|organization| organization == MASTERS) {
            return Ok(());
        }
        let (signer, masters) = (csr::CLIENT, MASTERS);
        Err(forbidden(review, &format!("use of {signer} signer with {masters} group is not allowed")))
    }
}
