//! JSON that somebody outside is asked about -> what they answer: how webhooks are called. [`Origin`]: a server that whole requests are handed on to.
//!
//! Source: apiserver `pkg/util/webhook/client.go`. HTTP/1.1, with connections that are kept for the next call; a redirect is no answer.

mod origin;

use std::{
    future::Future,
    io,
    net::{IpAddr, SocketAddr},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use api::task::Group;
use bytes::Bytes;
use futures::future::BoxFuture;
use http::{Request, Uri, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::{
    client::legacy::{
        Client,
        connect::{Connected, Connection},
    },
    rt::{TokioIo, TokioTimer},
};
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::{CertificateDer, ServerName, pem::PemObject};
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};
use tower::Service;

pub use origin::{Origin, Trusts};

use crate::{
    connect,
    lane::{self, NotOutside},
    tls,
};

/// Of an answer: an object, in base64, and room for what goes with it.
const ANSWER_BYTES_MAX: usize = 8 << 20;
/// Of an answer that is a refusal, what is told of it.
const TOLD_BYTES_MAX: usize = 1 << 10;
/// A connection that nobody uses is kept for so long.
const IDLE_BOUND: Duration = Duration::from_secs(90);
/// How many of them, for one address.
const IDLE_MAX: usize = 4;
/// Until a connection stands, TLS included.
const DIAL_BOUND: Duration = Duration::from_secs(10);

/// Where a call leads: what is dialled now, for a name that may stand for something else later.
pub type Resolve = Arc<dyn Fn() -> BoxFuture<'static, io::Result<Vec<SocketAddr>>> + Send + Sync>;

/// One that is called, with its connections.
pub struct Callee {
    client: Client<Connector, Full<Bytes>>,
    /// `https://name:port`.
    origin: String,
}

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unanswered {
    /// They were not reached, or did not answer in time, or too much.
    Failed(String),
    /// They are not asked now: too many large requests wait for somebody outside.
    TooMany,
    /// They refused.
    Refused { code: u16, text: String },
}

impl Unanswered {
    /// In the words of client-go, of a POST to `url`.
    pub fn told(&self, url: &str) -> String {
        match self {
            Self::Failed(why) => format!("Post {}: {why}", api::quoted(url)),
            Self::TooMany => "too many large requests wait for webhooks, please try again later".into(),
            Self::Refused { code: 404, .. } => "the server could not find the requested resource".into(),
            Self::Refused { code, text } if *code >= 500 => {
                format!("an error on the server ({}) has prevented the request from succeeding", api::quoted(text))
            }
            Self::Refused { code, text } => format!("the server rejected our request: {code} {text}"),
        }
    }
}

impl Callee {
    /// `server_name` is who must show a certificate that an authority of `ca_bundle` (PEM) has signed.
    ///
    /// # Errors
    /// The bundle or the name cannot be used.
    pub fn new(group: &Group, server_name: &str, port: u16, ca_bundle: &[u8], resolve: Resolve) -> Result<Self, String> {
        let host = if server_name.contains(':') { format!("[{server_name}]") } else { server_name.to_owned() };
        let name = ServerName::try_from(server_name.to_owned()).map_err(|error| error.to_string())?;
        let connector = Connector { tls: Arc::new(trusting(ca_bundle)?), name, way: Way::Resolved(resolve) };
        let client = Client::builder(InGroup(group.clone()))
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE_BOUND)
            .pool_max_idle_per_host(IDLE_MAX)
            .build(connector);
        Ok(Self { client, origin: format!("https://{host}:{port}") })
    }

    /// The whole URL of a path.
    pub fn url(&self, path_and_query: &str) -> String {
        format!("{}{path_and_query}", self.origin)
    }

    /// Sends `body` and brings back the answer, within `bound`. Whoever waits here keeps no turn of the work that may take long.
    ///
    /// # Errors
    /// There is none.
    pub async fn post(&self, path_and_query: &str, body: Bytes, bound: Duration) -> Result<Bytes, Unanswered> {
        match lane::outside(bound, self.ask(path_and_query, body)).await {
            Ok(Some(answered)) => answered,
            Ok(None) | Err(NotOutside::Late) => Err(Unanswered::Failed("context deadline exceeded".into())),
            Err(NotOutside::TooMany) => Err(Unanswered::TooMany),
        }
    }

    async fn ask(&self, path_and_query: &str, body: Bytes) -> Result<Bytes, Unanswered> {
        let failed = |error: &dyn std::fmt::Display| Unanswered::Failed(error.to_string());
        let request = Request::post(self.url(path_and_query))
            .header(header::CONTENT_TYPE, "application/json")
            .header(header::ACCEPT, "application/json, */*")
            .header(header::USER_AGENT, concat!("kube-apiserver-admission skiff/", env!("CARGO_PKG_VERSION")))
            .body(Full::new(body))
            .map_err(|error| failed(&error))?;
        let answer = self.client.request(request).await.map_err(|error| Unanswered::Failed(innermost(&error)))?;
        let code = answer.status();
        let read = Limited::new(answer.into_body(), ANSWER_BYTES_MAX).collect().await;
        let bytes = read.map_err(|error| failed(&error))?.to_bytes();
        if code.is_success() {
            return Ok(bytes);
        }
        let told = bytes.get(..bytes.len().min(TOLD_BYTES_MAX)).unwrap_or_default();
        Err(Unanswered::Refused { code: code.as_u16(), text: String::from_utf8_lossy(told).into_owned() })
    }
}

fn roots(ca_bundle: &[u8]) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(ca_bundle) {
        roots.add(certificate.map_err(|error| error.to_string())?).map_err(|error| error.to_string())?;
    }
    Ok(roots)
}

fn trusting(ca_bundle: &[u8]) -> Result<ClientConfig, String> {
    let roots = roots(ca_bundle)?;
    let builder = ClientConfig::builder_with_provider(tls::provider()).with_safe_default_protocol_versions();
    let builder = builder.map_err(|error| error.to_string())?;
    let mut config = builder.with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

/// What is wrong in the end: `client error (Connect)` says little.
fn innermost(error: &dyn std::error::Error) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string()
}

/// Connections are tasks of the server's group.
#[derive(Clone)]
struct InGroup(Group);

impl<F: Future<Output = ()> + Send + 'static> hyper::rt::Executor<F> for InGroup {
    fn execute(&self, task: F) {
        self.0.spawn(task);
    }
}

#[derive(Clone)]
struct Connector {
    tls: Arc<ClientConfig>,
    name: ServerName<'static>,
    way: Way,
}

/// Where a connection goes.
#[derive(Clone)]
enum Way {
    /// To what is answered then, whatever the URL names.
    Resolved(Resolve),
    /// To what the URL names, as far as such an address may be called.
    Named(fn(IpAddr) -> bool),
}

impl Service<Uri> for Connector {
    type Response = Stream;
    type Error = io::Error;
    type Future = BoxFuture<'static, io::Result<Stream>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, url: Uri) -> Self::Future {
        let Self { tls, name, way } = self.clone();
        Box::pin(async move {
            let dialing = async {
                let stream = way.dial(&url).await?;
                stream.set_nodelay(true)?;
                Ok(Stream(TokioIo::new(TlsConnector::from(tls).connect(name, stream).await?)))
            };
            let late = || io::Error::new(io::ErrorKind::TimedOut, "net/http: TLS handshake timeout");
            tokio::time::timeout(DIAL_BOUND, dialing).await.unwrap_or_else(|_| Err(late()))
        })
    }
}

impl Way {
    async fn dial(&self, url: &Uri) -> io::Result<TcpStream> {
        let may_be_called = match self {
            Self::Resolved(resolve) => return TcpStream::connect(resolve().await?.as_slice()).await,
            Self::Named(may_be_called) => may_be_called,
        };
        let place = url.authority().map(ToString::to_string).unwrap_or_default();
        let told = |error: io::Error| io::Error::new(error.kind(), format!("dial tcp {place}: {}", connect::go_words(&error)));
        let host = url.host().unwrap_or_default().trim_matches(['[', ']']);
        let found = connect::addresses(host, url.port_u16().unwrap_or(443)).await.map_err(told)?;
        // What was looked at is what is dialled: a name may say something else a moment later.
        if found.is_empty() || !found.iter().all(|address| may_be_called(address.ip())) {
            return Err(told(io::Error::other("address not allowed")));
        }
        TcpStream::connect(found.as_slice()).await.map_err(told)
    }
}

struct Stream(TokioIo<TlsStream<TcpStream>>);

impl Connection for Stream {
    fn connected(&self) -> Connected {
        Connected::new()
    }
}

impl Read for Stream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buffer)
    }
}

impl Write for Stream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}
