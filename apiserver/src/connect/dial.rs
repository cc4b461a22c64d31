//! A target -> a byte stream to it: plain, TLS, or TLS to a node's agent with certificates on both sides.

use std::{io, sync::Arc, time::Duration};

use api::{Status, task::Group};
use parking_lot::RwLock;
use rustls::{
    ClientConfig, DigitallySignedStruct, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};
use tokio_rustls::TlsConnector;

use super::unreachable;
use crate::{
    certs::Certs,
    kind::Target,
    tls::{self, client_config},
};

const DIAL_BOUND: Duration = Duration::from_secs(10);

/// How node agents are called: with our client certificate, which is renewed now and then.
#[derive(Default)]
pub struct Agents {
    config: RwLock<Option<Arc<ClientConfig>>>,
}

pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

impl Agents {
    /// Uses the certificates in force, and each new one as it comes.
    ///
    /// # Errors
    /// The certificates cannot be used.
    pub fn follow(self: &Arc<Self>, certs: &Arc<Certs>, group: &Group) -> Result<(), tls::Error> {
        self.load(certs)?;
        let (agents, certs, mut renewals) = (self.clone(), certs.clone(), certs.renewals());
        group.spawn(async move {
            while renewals.changed().await.is_ok() {
                if let Err(error) = agents.load(&certs) {
                    tracing::error!(%error, "renewed client certificate for node agents cannot be used");
                }
            }
        });
        Ok(())
    }

    fn load(&self, certs: &Certs) -> Result<(), tls::Error> {
        let config = client_config(certs.ca(), &certs.leaves().kubelet_client)?;
        *self.config.write() = Some(Arc::new(config));
        Ok(())
    }
}

/// # Errors
/// The target cannot be reached, or is not who it should be.
pub async fn dial(agents: &Agents, target: &Target) -> Result<Box<dyn Stream>, Status> {
    let dialing = tokio::time::timeout(DIAL_BOUND, connect(agents, target));
    let stream = dialing.await.unwrap_or_else(|_| Err(io::Error::new(io::ErrorKind::TimedOut, "i/o timeout")));
    stream.map_err(|error| unreachable(target, &plain(&error)))
}

async fn connect(agents: &Agents, target: &Target) -> io::Result<Box<dyn Stream>> {
    let stream = TcpStream::connect((target.host.as_str(), target.port)).await?;
    stream.set_nodelay(true)?;
    if target.scheme != "https" {
        return Ok(Box::new(stream));
    }
    let config = if target.node_agent {
        agents.config.read().clone().ok_or_else(|| io::Error::other("no client certificate for node agents"))?
    } else {
        unchecked()
    };
    let name = ServerName::try_from(target.host.clone()).map_err(io::Error::other)?;
    Ok(Box::new(TlsConnector::from(config).connect(name, stream).await?))
}

/// Go's words for the errors that users know.
fn plain(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => "connect: connection refused".into(),
        io::ErrorKind::HostUnreachable => "connect: no route to host".into(),
        _ => error.to_string(),
    }
}

/// For `https:` pods and services behind the proxy subresource: whose certificates they show is their own affair, as upstream has it.
fn unchecked() -> Arc<ClientConfig> {
    let builder = ClientConfig::builder_with_provider(tls::provider()).with_safe_default_protocol_versions();
    let builder = builder.expect("the provider's own protocol versions fit it");
    Arc::new(builder.dangerous().with_custom_certificate_verifier(Arc::new(Anybody)).with_no_client_auth())
}

#[derive(Debug)]
struct Anybody;

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        tls::provider().signature_verification_algorithms.supported_schemes()
    }
}
