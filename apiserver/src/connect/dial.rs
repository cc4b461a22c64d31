//! A target -> a byte stream to it: plain, TLS, or TLS to a node's agent with certificates on both sides.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

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

use super::{
    lookups,
    of_node::Calls,
    tunnel::{NoStream, Tunnels},
    unreachable,
};
use crate::{certs::Certs, kind::Target, tls};

const DIAL_BOUND: Duration = Duration::from_secs(10);

/// How node agents are called: with our client certificate, which is renewed now and then, and through the tunnels that they hold to us.
#[derive(Default)]
pub struct Agents {
    calls: RwLock<Option<Arc<Calls>>>,
    tunnels: Arc<Tunnels>,
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

    pub fn tunnels(&self) -> &Arc<Tunnels> {
        &self.tunnels
    }

    /// Both ends show who they are, whichever way the stream takes.
    async fn shaken(&self, node: &str, target: &Target, stream: impl Stream + 'static) -> io::Result<Box<dyn Stream>> {
        let calls = self.calls.read().clone().ok_or_else(|| io::Error::other("no client certificate for node agents"))?;
        encrypted(calls.of(node), target, stream).await
    }

    fn load(&self, certs: &Certs) -> Result<(), tls::Error> {
        let calls = Calls::new(certs.ca(), &certs.leaves().kubelet_client)?;
        *self.calls.write() = Some(Arc::new(calls));
        Ok(())
    }
}

/// Why there is no stream.
enum Failed {
    /// The name stands for an address that is nobody's but ours.
    NotAllowed,
    Io(io::Error),
}

impl From<io::Error> for Failed {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// # Errors
/// 400 for a target that would lead to ourselves or our link, else it cannot be reached or is not who it should be.
pub async fn dial(agents: &Agents, target: &Target) -> Result<Box<dyn Stream>, Status> {
    let dialing = tokio::time::timeout(DIAL_BOUND, connect(agents, target));
    let stream = dialing.await.unwrap_or_else(|_| Err(io::Error::new(io::ErrorKind::TimedOut, "i/o timeout").into()));
    stream.map_err(|failed| match failed {
        Failed::NotAllowed => Status::bad_request("address not allowed"),
        Failed::Io(error) => unreachable(target, &plain(&error)),
    })
}

async fn connect(agents: &Agents, target: &Target) -> Result<Box<dyn Stream>, Failed> {
    let Some(node) = &target.node_agent else { return direct(agents, target).await };
    match agents.tunnels.open(node).await {
        Some(Ok(stream)) => Ok(agents.shaken(node, target, stream).await?),
        Some(Err(NoStream::Refused(error))) => Err(error.into()),
        Some(Err(NoStream::Lost(error))) => {
            tracing::info!(node, %error, "the node's tunnel leads nowhere; dialling its address");
            // Who dials in vain says why the tunnel did not do.
            direct(agents, target).await.map_err(|failed| match failed {
                Failed::Io(direct) => io::Error::new(direct.kind(), format!("{}; {error}", plain(&direct))).into(),
                not_allowed => not_allowed,
            })
        }
        None => direct(agents, target).await,
    }
}

async fn direct(agents: &Agents, target: &Target) -> Result<Box<dyn Stream>, Failed> {
    // The addresses that were looked at are those that are dialled: a name may say something else a moment later.
    let addresses = resolved(&target.host, target.port).await?;
    let stream = TcpStream::connect(addresses.as_slice()).await?;
    stream.set_nodelay(true)?;
    Ok(match () {
        () if target.scheme != "https" => Box::new(stream),
        () => match &target.node_agent {
            Some(node) => agents.shaken(node, target, stream).await?,
            None => encrypted(unchecked(), target, stream).await?,
        },
    })
}

async fn encrypted(config: Arc<ClientConfig>, target: &Target, stream: impl Stream + 'static) -> io::Result<Box<dyn Stream>> {
    let name = ServerName::try_from(target.host.clone()).map_err(io::Error::other)?;
    Ok(Box::new(TlsConnector::from(config).connect(name, stream).await?))
}

/// All addresses of a host, each of which we may call (`isProxyableHostname` in `pkg/registry/core/node/strategy.go`).
async fn resolved(host: &str, port: u16) -> Result<Vec<SocketAddr>, Failed> {
    let found = lookups::looked_up(host, port).await?;
    match () {
        () if found.is_empty() => Err(io::Error::new(io::ErrorKind::NotFound, "no addresses for hostname").into()),
        () if found.iter().any(|address| !is_global_unicast(address.ip())) => Err(Failed::NotAllowed),
        () => Ok(found),
    }
}

/// The addresses of a host that is called on behalf of others, whatever they are.
///
/// # Errors
/// The name is nobody's, or cannot be looked up.
pub async fn addresses(host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
    lookups::looked_up(host, port).await
}

/// `IsGlobalUnicast` of Go: an address the API server may call on behalf of others. An IPv4 address is one in IPv6 clothes, too.
pub fn is_global_unicast(address: IpAddr) -> bool {
    let (address, link_local) = match address.to_canonical() {
        IpAddr::V4(four) => (IpAddr::V4(four), four.is_link_local() || four.is_broadcast()),
        IpAddr::V6(six) => (IpAddr::V6(six), six.is_unicast_link_local()),
    };
    !(link_local || address.is_unspecified() || address.is_loopback() || address.is_multicast())
}

/// Go's words for the errors that users know.
pub fn plain(error: &io::Error) -> String {
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

/// Takes any certificate.
#[derive(Debug)]
pub struct Anybody;

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

#[cfg(test)]
mod tests {
    use futures::FutureExt;
    use tokio::net::TcpListener;

    use super::*;

    fn target(host: &str, port: u16, agent_of: Option<&str>, prefix: Option<&str>) -> Target {
        let (rewrite_prefix, node_agent) = (prefix.map(str::to_owned), agent_of.map(str::to_owned));
        Target { scheme: "http", host: host.into(), port, path_and_query: "/".into(), node_agent, rewrite_prefix }
    }

    #[tokio::test]
    async fn nobody_is_led_to_our_own_loopback_or_link() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let hosts =
            ["localhost", "127.0.0.1", "127.1", "127.9.9.9", "::1", "::ffff:127.0.0.1", "0.0.0.0", "::", "169.254.169.254", "fe80::1"];
        for host in hosts {
            let (agent, other) = (Some("n1"), None);
            for target in [target(host, port, agent, None), target(host, port, agent, Some("/p")), target(host, port, other, Some("/p"))] {
                let refused = dial(&Agents::default(), &target).await.err().map(|status| (status.code, status.message));
                assert_eq!(refused, Some((400, "address not allowed".into())), "{target:?}");
            }
        }
        assert!(listener.accept().now_or_never().is_none(), "a connection was made before it was refused");
    }

    #[tokio::test(start_paused = true)]
    async fn a_tunnel_that_is_dead_is_no_wall() {
        let (agents, group) = (Agents::default(), Group::new());
        let (ours, _silent) = tokio::io::duplex(64 << 10);
        let (tunnels, in_group) = (agents.tunnels.clone(), group.clone());
        group.spawn(async move { tunnels.carry("n1", hyper_util::rt::TokioIo::new(ours), in_group).await });
        while agents.tunnels.is_empty() {
            tokio::task::yield_now().await;
        }
        let began = tokio::time::Instant::now();
        // The word of the direct way, for an address that nobody is led to.
        let refused = dial(&agents, &target("127.0.0.1", 1, Some("n1"), None)).await.err().map(|status| status.message);
        assert_eq!(refused, Some("address not allowed".into()));
        assert!(began.elapsed() < DIAL_BOUND / 2, "{:?}", began.elapsed());
        group.stop();
    }

    #[test]
    fn addresses_of_one_host_alone_are_not_called() {
        for yes in ["10.0.0.1", "192.168.1.1", "8.8.8.8", "fd00::1", "2001:db8::1", "::ffff:10.0.0.1"] {
            assert!(is_global_unicast(yes.parse().unwrap()), "{yes}");
        }
        for no in ["255.255.255.255", "224.0.0.1", "ff02::1", "169.254.0.1", "::ffff:169.254.0.1", "::ffff:0.0.0.0"] {
            assert!(!is_global_unicast(no.parse().unwrap()), "{no}");
        }
    }
}
