//! A server's certificate -> whether it is one of the cluster's API servers.
//!
//! The cluster's CA signs for nodes as well, which say themselves what they are called: whose subject is a node's serves that node and nothing else.

use std::sync::Arc;

use api::csr::NODE_USER_PREFIX;
use rustls::{
    CertificateError, DigitallySignedStruct, Error, RootCertStore, SignatureScheme,
    client::{
        WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::CryptoProvider,
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use x509_parser::parse_x509_certificate;

/// As webpki judges, and nodes' certificates are refused.
#[derive(Debug)]
pub struct Servers(Arc<WebPkiServerVerifier>);

impl Servers {
    /// # Errors
    /// There is no root.
    pub fn new(roots: RootCertStore, provider: Arc<CryptoProvider>) -> Result<Self, String> {
        let webpki = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider).build();
        webpki.map(Self).map_err(|error| error.to_string())
    }
}

impl ServerCertVerifier for Servers {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let verified = self.0.verify_server_cert(end_entity, intermediates, name, ocsp, now)?;
        if is_of_a_node(end_entity) { Err(CertificateError::ApplicationVerificationFailure.into()) } else { Ok(verified) }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.0.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.0.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_verify_schemes()
    }
}

/// What cannot be read is nobody's.
fn is_of_a_node(certificate: &[u8]) -> bool {
    let Ok((_, parsed)) = parse_x509_certificate(certificate) else { return true };
    parsed.subject().iter_common_name().any(|name| name.as_str().map_or(true, |name| name.starts_with(NODE_USER_PREFIX)))
}

#[cfg(test)]
mod tests {
    use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};

    use super::*;

    #[test]
    fn a_nodes_certificate_is_no_servers_whatever_names_it_has() {
        let key = || KeyPair::generate().unwrap();
        let (ca_key, mut ca) = (key(), CertificateParams::new(Vec::new()).unwrap());
        ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let root = ca.self_signed(&ca_key).unwrap();
        let issuer = Issuer::new(ca, ca_key);
        let mut roots = RootCertStore::empty();
        roots.add(root.der().clone()).unwrap();
        let servers = Servers::new(roots, Arc::new(rustls::crypto::aws_lc_rs::default_provider())).unwrap();
        let judged = |common_name: &str| {
            let mut leaf = CertificateParams::new(vec!["server-2".to_owned()]).unwrap();
            leaf.distinguished_name.push(DnType::CommonName, common_name);
            let leaf = leaf.signed_by(&key(), &issuer).unwrap();
            servers.verify_server_cert(leaf.der(), &[], &ServerName::try_from("server-2").unwrap(), &[], UnixTime::now()).is_ok()
        };
        assert!(judged("kube-apiserver"));
        assert!(!judged("system:node:a"));
        assert!(is_of_a_node(b"nonsense"));
    }
}
