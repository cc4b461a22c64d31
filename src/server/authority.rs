//! The cluster's certificates -> who signs for the controllers: one CA, whoever asks.

use std::sync::Arc;

use api::csr::Requested;
use apiserver::certs::{Certs, request};

/// The CA of this control plane.
pub struct Ca(pub Arc<Certs>);

impl std::fmt::Debug for Ca {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Ca(..)")
    }
}

impl controllers::Authority for Ca {
    fn look(&self, request: &[u8]) -> Result<Requested, String> {
        request::look(request)
    }

    fn sign(&self, request: &[u8], usages: &[String], seconds: u64) -> Result<String, String> {
        self.0.sign(request, usages, seconds)
    }
}
