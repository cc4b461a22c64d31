//! Handshakes -> who is there: the serving certificate, and client certificates judged after the handshake, as upstream does.
//!
//! Upstream asks for a client certificate without verifying it (`tls.RequestClientCert`) and judges it in its x509 authenticator, so
//! that a foreign or expired one gives 401 and not a broken handshake (`authentication/request/x509/x509.go`).

use std::{collections::BTreeMap, fmt, net::IpAddr, sync::Arc};

use api::{
    certificate::Identity,
    csr::{CERTIFICATE_SINCE, NODES_GROUP, SOURCE_ADDRESS},
    time::Timestamp,
};
use parking_lot::RwLock;
use rustls::{
    ClientConfig, DigitallySignedStruct, DistinguishedName, RootCertStore, ServerConfig, SignatureScheme,
    client::danger::HandshakeSignatureValid,
    crypto::CryptoProvider,
    server::{
        ClientHello, ResolvesServerCert, WebPkiClientVerifier,
        danger::{ClientCertVerified, ClientCertVerifier},
    },
    sign::CertifiedKey,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, UnixTime, pem::PemObject};
use sha2::{Digest, Sha256};
use x509_parser::prelude::*;

use crate::{
    certs::Certs,
    front_proxy::{FrontProxy, RequestHeader},
    identity::User,
};

/// Everything the acceptor needs. Follows the renewals of [`Certs`].
pub struct Tls {
    pub(crate) config: Arc<ServerConfig>,
    trust: Arc<Trust>,
    /// Whose certificates say that they may ask for others.
    front_proxies: Option<(Trust, Arc<RequestHeader>)>,
    serving: Arc<Serving>,
}

/// A client certificate as the transport found it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Shown {
    /// None was shown, or one without a common name, which says nothing.
    Nothing,
    /// Signed by our authority; good until this second.
    Good { user: Arc<User>, not_after: i64 },
    /// Foreign, expired or malformed, and why.
    Bad(String),
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("TLS: {0}")]
    Rustls(#[from] rustls::Error),
    #[error("PEM: {0}")]
    Pem(String),
    #[error("client certificate verifier: {0}")]
    Verifier(String),
}

impl Tls {
    pub fn new(certs: &Certs) -> Result<Self, Error> {
        Self::with_front_proxies(certs, None)
    }

    /// The same; front proxies of that authority are believed for whom they ask.
    pub fn with_front_proxies(certs: &Certs, believed: Option<Arc<RequestHeader>>) -> Result<Self, Error> {
        let provider = provider();
        // Clients of Go show a certificate only where the server names its authority.
        let hints = believed.as_ref().map(|believed| believed.ca.as_str()).unwrap_or_default();
        let trust = Arc::new(Trust::new(certs.ca(), hints, &provider)?);
        let front_proxies = believed.map(|believed| Ok::<_, Error>((Trust::new(&believed.ca, "", &provider)?, believed))).transpose()?;
        let serving = Arc::new(Serving(RwLock::new(certified(&certs.leaves().serving, &provider)?)));
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_client_cert_verifier(trust.clone())
            .with_cert_resolver(serving.clone());
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(Self { config: Arc::new(config), trust, front_proxies, serving })
    }

    /// Takes the renewed serving certificate into use; connections that stand are not touched.
    pub fn reload(&self, certs: &Certs) -> Result<(), Error> {
        *self.serving.0.write() = certified(&certs.leaves().serving, &provider())?;
        Ok(())
    }

    /// Reloads at each renewal while the group runs.
    pub fn follow(self: &Arc<Self>, certs: &Arc<Certs>, group: &api::task::Group) {
        let (tls, certs, mut renewals) = (self.clone(), certs.clone(), certs.renewals());
        group.spawn(async move {
            while renewals.changed().await.is_ok() {
                if let Err(error) = tls.reload(&certs) {
                    tracing::error!(%error, "renewed serving certificate cannot be used");
                }
            }
        });
    }

    /// Judges what a client has shown, as of `now`.
    pub fn judge(&self, chain: &[CertificateDer<'_>], now: Timestamp) -> Shown {
        self.trust.judge(chain, now)
    }

    /// Whether it is a front proxy that has shown it.
    pub(crate) fn front_proxy(&self, chain: &[CertificateDer<'_>], now: Timestamp) -> Option<FrontProxy> {
        let (trust, believed) = self.front_proxies.as_ref()?;
        match trust.judge(chain, now) {
            Shown::Good { user, not_after } if believed.allows(&user.name) => Some(FrontProxy { believed: believed.clone(), not_after }),
            _ => None,
        }
    }
}

/// How we call a node's agent: its certificate is checked against `ca`, and `shown` is ours.
pub fn client_config(ca: &str, shown: &Identity) -> Result<ClientConfig, Error> {
    let (chain, key) = parse(shown)?;
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots(ca)?)
        .with_client_auth_cert(chain, key)?;
    // Upgrades (SPDY, websocket) exist in HTTP/1.1 only.
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

/// A server of the cluster's other parts (a node's agent): client certificates are required to be ours where they are shown.
pub fn server_config(ca: &str, serving: &Identity) -> Result<ServerConfig, Error> {
    let (chain, key) = parse(serving)?;
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots(ca)?), provider())
        .allow_unauthenticated()
        .build()
        .map_err(|e| Error::Verifier(e.to_string()))?;
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()?
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain, key)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

pub(crate) fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

/// The serving certificate in use now.
struct Serving(RwLock<Arc<CertifiedKey>>);

impl fmt::Debug for Serving {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Serving")
    }
}

impl ResolvesServerCert for Serving {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.read().clone())
    }
}

/// Lets every certificate through the handshake (its holder must have the key all the same) and judges it afterwards.
#[derive(Debug)]
struct Trust {
    verifier: Arc<dyn ClientCertVerifier>,
    /// The authorities that clients are told of.
    hints: Vec<DistinguishedName>,
}

impl Trust {
    /// Of the authority `ca`; clients are told of `others` too.
    fn new(ca: &str, others: &str, provider: &Arc<CryptoProvider>) -> Result<Self, Error> {
        let builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots(ca)?), provider.clone());
        let verifier = builder.allow_unauthenticated().build().map_err(|e| Error::Verifier(e.to_string()))?;
        let hints = verifier.root_hint_subjects().iter().cloned().chain(roots(others)?.subjects()).collect();
        Ok(Self { verifier, hints })
    }

    fn judge(&self, chain: &[CertificateDer<'_>], now: Timestamp) -> Shown {
        let Some((leaf, rest)) = chain.split_first() else { return Shown::Nothing };
        let since = std::time::Duration::from_secs(u64::try_from(now.as_second()).unwrap_or_default());
        if let Err(error) = self.verifier.verify_client_cert(leaf, rest, UnixTime::since_unix_epoch(since)) {
            return Shown::Bad(error.to_string());
        }
        match parse_x509_certificate(leaf) {
            Ok((_, parsed)) => shown(leaf, &parsed),
            Err(error) => Shown::Bad(error.to_string()),
        }
    }
}

impl Shown {
    /// Of a node, where its connection comes from: the one thing about its addresses that is not its own word.
    #[must_use]
    pub fn coming_from(mut self, address: IpAddr) -> Self {
        if let Self::Good { user, .. } = &mut self
            && user.groups.iter().any(|group| group == NODES_GROUP)
        {
            let source = vec![address.to_canonical().to_string()];
            Arc::make_mut(user).extra.insert(SOURCE_ADDRESS.to_owned(), source);
        }
        self
    }
}

impl ClientCertVerifier for Trust {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &self.hints
    }

    fn verify_client_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.verifier.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.verifier.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.verifier.supported_verify_schemes()
    }
}

/// Common name -> user, organizations -> groups (`CommonNameUserConversion`).
fn shown(der: &[u8], parsed: &X509Certificate<'_>) -> Shown {
    let text = |a: &AttributeTypeAndValue<'_>| a.as_str().map(str::to_owned).unwrap_or_default();
    let name = parsed.subject().iter_common_name().next().map(text).unwrap_or_default();
    if name.is_empty() {
        return Shown::Nothing;
    }
    let credential =
        ("authentication.kubernetes.io/credential-id".to_owned(), vec![format!("X509SHA256={}", api::hex(Sha256::digest(der)))]);
    let groups: Vec<String> = parsed.subject().iter_organization().map(text).collect();
    let mut extra = BTreeMap::from([credential]);
    if groups.iter().any(|group| group == NODES_GROUP) {
        extra.insert(CERTIFICATE_SINCE.to_owned(), vec![parsed.validity().not_before.timestamp().to_string()]);
    }
    let user = User { name, uid: String::new(), groups, extra };
    Shown::Good { user: User::authenticated(user.into()), not_after: parsed.validity().not_after.timestamp() }
}

pub(crate) fn roots(ca: &str) -> Result<RootCertStore, Error> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(ca.as_bytes()) {
        roots.add(certificate.map_err(|e| Error::Pem(e.to_string()))?)?;
    }
    Ok(roots)
}

pub(crate) fn parse(pair: &Identity) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), Error> {
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pair.chain_pem.as_bytes()).collect();
    let key = PrivateKeyDer::from_pem_slice(pair.key_pem.as_bytes());
    Ok((chain.map_err(|e| Error::Pem(e.to_string()))?, key.map_err(|e| Error::Pem(e.to_string()))?))
}

fn certified(pair: &Identity, provider: &CryptoProvider) -> Result<Arc<CertifiedKey>, Error> {
    let (chain, key) = parse(pair)?;
    Ok(Arc::new(CertifiedKey::from_der(chain, key, provider)?))
}
