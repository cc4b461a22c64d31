//! kubeconfig -> a client on one HTTP/2 connection, opened again when it breaks.
//!
//! kube's own client speaks HTTP/1.1: a connection for each request in flight, each with buffers at both ends.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use api::task::Group;
use client::kube::{
    self, Client,
    client::{Body, ConfigExt},
};
use http::{Request, Response};
use hyper::{
    body::Incoming,
    client::conn::http2::{self, SendRequest},
    rt::Executor,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use rustls_pki_types::ServerName;
use tokio::{net::TcpStream, sync::Mutex, time::timeout};
use tokio_rustls::TlsConnector;
use tower::{BoxError, Service, ServiceBuilder};

const CONNECT_BOUND: Duration = Duration::from_secs(10);
/// A server that refused is left alone for that long: requests fail at once meanwhile.
const REST: Duration = Duration::from_millis(500);
const PING_EVERY: Duration = Duration::from_secs(20);
const PING_BOUND: Duration = Duration::from_secs(20);
/// What the server may send unasked: of one stream, and of all.
const STREAM_WINDOW: u32 = 1 << 20;
const CONNECTION_WINDOW: u32 = 4 << 20;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{0}")]
    Kube(#[from] kube::Error),
    #[error("the kubeconfig's server {0}: no name that a certificate could be checked against")]
    Name(String),
}

/// A client for the server of a kubeconfig: its certificate is verified, and ours or our token is shown. Over plain HTTP or a proxy it is
/// kube's own client.
///
/// # Errors
/// Certificates or credentials that cannot be read. A closed port shows with the first request.
pub fn client(config: kube::Config, group: &Group) -> Result<Client, Error> {
    if config.cluster_url.scheme_str() != Some("https") || config.proxy_url.is_some() {
        return Ok(Client::try_from(config)?);
    }
    let url = &config.cluster_url;
    let host = url.host().unwrap_or_default().trim_matches(['[', ']']).to_owned();
    let name = config.tls_server_name.clone().unwrap_or_else(|| host.clone());
    let name = ServerName::try_from(name).map_err(|_| Error::Name(url.to_string()))?;
    let mut tls = config.rustls_client_config()?;
    tls.alpn_protocols = vec![b"h2".to_vec()];
    let tls = TlsConnector::from(Arc::new(tls));
    let address = (host, url.port_u16().unwrap_or(443));
    let connector = Http2(Arc::new(Connector { tls, name, address, group: group.clone(), connection: Mutex::default() }));
    let layers = ServiceBuilder::new().layer(config.base_uri_layer()).option_layer(config.auth_layer()?);
    let service = layers.layer(config.extra_headers_layer()?).service(connector);
    Ok(Client::new(service, config.default_namespace))
}

struct Connector {
    tls: TlsConnector,
    name: ServerName<'static>,
    address: (String, u16),
    group: Group,
    connection: Mutex<SharedConnection>,
}

#[derive(Default)]
struct SharedConnection {
    open: Option<SendRequest<Body>>,
    /// Who asks during the rest gets the same answer.
    failed: Option<(Instant, String)>,
}

#[derive(Clone)]
struct Http2(Arc<Connector>);

impl Service<Request<Body>> for Http2 {
    type Response = Response<Incoming>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, BoxError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let connector = self.0.clone();
        Box::pin(async move {
            let mut sender = connector.sender().await?;
            sender.ready().await?;
            Ok(sender.send_request(request).await?)
        })
    }
}

impl Connector {
    /// The open connection, or a new one. Who comes while it is opened waits for it.
    async fn sender(&self) -> Result<SendRequest<Body>, BoxError> {
        let mut connection = self.connection.lock().await;
        if let Some(open) = connection.open.as_ref().filter(|s| !s.is_closed()) {
            return Ok(open.clone());
        }
        if let Some((at, error)) = connection.failed.as_ref().filter(|(at, _)| at.elapsed() < REST) {
            tracing::trace!(since = ?at.elapsed(), "resting");
            return Err(error.clone().into());
        }
        match timeout(CONNECT_BOUND, Box::pin(self.connect())).await.unwrap_or_else(|_| Err("no connection in time".into())) {
            Ok(sender) => {
                *connection = SharedConnection { open: Some(sender.clone()), failed: None };
                Ok(sender)
            }
            Err(error) => {
                connection.failed = Some((Instant::now(), error.to_string()));
                Err(error)
            }
        }
    }

    async fn connect(&self) -> Result<SendRequest<Body>, BoxError> {
        let (host, port) = &self.address;
        let stream = TcpStream::connect((host.as_str(), *port)).await.map_err(|e| format!("{host}:{port}: {e}"))?;
        stream.set_nodelay(true)?;
        let stream = self.tls.connect(self.name.clone(), stream).await.map_err(|e| format!("{host}:{port}: {e}"))?;
        if stream.get_ref().1.alpn_protocol() != Some(b"h2") {
            return Err(format!("{host}:{port} does not speak HTTP/2").into());
        }
        let mut builder = http2::Builder::new(InGroup(self.group.clone()));
        builder.timer(TokioTimer::new()).keep_alive_interval(PING_EVERY).keep_alive_timeout(PING_BOUND);
        builder.initial_stream_window_size(STREAM_WINDOW).initial_connection_window_size(CONNECTION_WINDOW);
        let (sender, connection) = builder.handshake(TokioIo::new(stream)).await?;
        self.group.spawn(Box::pin(async move {
            // How a connection ends is seen by the requests on it.
            let _ = connection.await;
        }));
        Ok(sender)
    }
}

/// hyper's tasks are our group's.
#[derive(Clone)]
struct InGroup(Group);

impl<F> Executor<F> for InGroup
where
    F: Future + Send + 'static,
{
    fn execute(&self, work: F) {
        self.0.spawn(async move {
            work.await;
        });
    }
}
