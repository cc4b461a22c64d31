//! PEM -> a TLS server that asks for client certificates, and who the other end is.

use std::sync::Arc;

use api::time::Timestamp;
use parking_lot::RwLock;
use rustls::{
    RootCertStore, ServerConfig,
    crypto::CryptoProvider,
    server::{ClientHello, ResolvesServerCert, WebPkiClientVerifier},
    sign::CertifiedKey,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use tokio_rustls::server::TlsStream;

use super::auth::User;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the {what} is no PEM: {why}")]
    Pem { what: &'static str, why: String },
    #[error("the serving certificate is not usable: {0}")]
    Certificate(rustls::Error),
    #[error("the client CA is not usable: {0}")]
    ClientCa(String),
}

/// The certificate that is shown to clients. It may be replaced at any time; new connections see the new one.
#[derive(Debug)]
pub struct Serving {
    current: RwLock<Arc<CertifiedKey>>,
}

impl Serving {
    /// # Errors
    /// Where the two are no PEM, or do not belong together.
    pub fn new(chain_pem: &str, key_pem: &str) -> Result<Arc<Self>, Error> {
        Ok(Arc::new(Self { current: RwLock::new(parse(chain_pem, key_pem)?) }))
    }

    /// From when to when it is valid.
    pub fn life(&self) -> (Timestamp, Timestamp) {
        let current = self.current.read().clone();
        let parsed = current.cert.first().and_then(|der| x509_parser::parse_x509_certificate(der).ok());
        let validity = parsed.map(|(_, certificate)| certificate.validity().clone());
        let second = |at: x509_parser::time::ASN1Time| Timestamp::from_second(at.timestamp()).unwrap_or_default();
        validity.map(|v| (second(v.not_before), second(v.not_after))).unwrap_or_default()
    }

    /// # Errors
    /// As [`Serving::new`]; the old certificate stays.
    pub fn replace(&self, chain_pem: &str, key_pem: &str) -> Result<(), Error> {
        let new = parse(chain_pem, key_pem)?;
        *self.current.write() = new;
        Ok(())
    }
}

impl ResolvesServerCert for Serving {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.current.read().clone())
    }
}

/// Client certificates are verified where they are shown; who shows none may still bring a token.
pub fn server_config(serving: Arc<Serving>, client_ca_pem: &str) -> Result<Arc<ServerConfig>, Error> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(client_ca_pem, "client CA")? {
        roots.add(certificate).map_err(|e| Error::ClientCa(e.to_string()))?;
    }
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider()).allow_unauthenticated().build();
    let verifier = verifier.map_err(|e| Error::ClientCa(e.to_string()))?;
    let config = ServerConfig::builder_with_provider(provider()).with_safe_default_protocol_versions().map_err(Error::Certificate)?;
    let mut config = config.with_client_cert_verifier(verifier).with_cert_resolver(serving);
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

/// Common name and organizations of the verified client certificate.
pub fn peer<S>(stream: &TlsStream<S>) -> Option<User> {
    let certificate = stream.get_ref().1.peer_certificates()?.first()?;
    let (_, parsed) = x509_parser::parse_x509_certificate(certificate).ok()?;
    let text = |a: &x509_parser::x509::AttributeTypeAndValue<'_>| a.as_str().ok().map(str::to_owned);
    let name = parsed.subject().iter_common_name().find_map(text)?;
    let groups = parsed.subject().iter_organization().filter_map(text).collect();
    Some(User { name, groups, ..User::default() })
}

fn parse(chain_pem: &str, key_pem: &str) -> Result<Arc<CertifiedKey>, Error> {
    let chain = certificates(chain_pem, "serving certificate")?;
    let key = PrivateKeyDer::from_pem_slice(key_pem.as_bytes()).map_err(|e| Error::Pem { what: "serving key", why: e.to_string() })?;
    let certified = CertifiedKey::from_der(chain, key, &provider()).map_err(Error::Certificate)?;
    Ok(Arc::new(certified))
}

fn certificates(pem: &str, what: &'static str) -> Result<Vec<CertificateDer<'static>>, Error> {
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem.as_bytes()).collect();
    let all = all.map_err(|e| Error::Pem { what, why: e.to_string() })?;
    if all.is_empty() { Err(Error::Pem { what, why: "there is no certificate in it".into() }) } else { Ok(all) }
}

fn provider() -> Arc<CryptoProvider> {
    CryptoProvider::get_default().cloned().unwrap_or_else(|| Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
}
