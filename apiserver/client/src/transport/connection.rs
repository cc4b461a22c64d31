//! A server -> one HTTP/2 connection that many requests share.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use api::task::Group;
use bytes::Bytes;
use http::{Request, Response};
use hyper::{
    body::{Frame, Incoming, SizeHint},
    client::conn::http2::{self, SendRequest},
    rt::Executor,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use kube::client::Body;
use rustls::ClientConfig;
use tokio::{
    net::TcpStream,
    sync::{OwnedSemaphorePermit, Semaphore},
};
use tokio_rustls::TlsConnector;
use tower::BoxError;

use super::Server;

/// A server that is silent for so long is asked whether it is there, while requests (or watches) wait for it; one that is silent still is given up.
const PING_EVERY: Duration = Duration::from_secs(5);
const PING_BOUND: Duration = Duration::from_secs(4);
/// What the server may send unasked: of one stream, and of all.
const STREAM_WINDOW: u32 = 1 << 20;
const CONNECTION_WINDOW: u32 = 4 << 20;
/// Requests on one connection, watches among them: what our servers take, and Go's by default. One more would wait for the end of another.
pub const STREAMS_MAX: usize = 100;

/// A request's place on a connection, until its answer is read or dropped.
pub type Place = OwnedSemaphorePermit;

/// The body of an answer.
pub struct Streamed {
    body: Incoming,
    _place: Place,
}

#[derive(Clone)]
pub struct Connection {
    sender: SendRequest<Body>,
    server: Server,
    /// Of what it showed.
    generation: u64,
    /// Answers in a row that were errors of the server.
    troubles: Arc<AtomicU32>,
    places: Arc<Semaphore>,
}

impl Connection {
    /// The caller waits no longer than it likes.
    pub async fn open(server: &Server, tls: Arc<ClientConfig>, generation: u64, group: &Group) -> Result<Self, BoxError> {
        let stream = TcpStream::connect((server.host(), server.port())).await?;
        stream.set_nodelay(true)?;
        let stream = TlsConnector::from(tls).connect(server.name(), stream).await?;
        if stream.get_ref().1.alpn_protocol() != Some(b"h2") {
            return Err("it does not speak HTTP/2".into());
        }
        let mut builder = http2::Builder::new(InGroup(group.clone()));
        builder.timer(TokioTimer::new()).keep_alive_interval(PING_EVERY).keep_alive_timeout(PING_BOUND);
        builder.initial_stream_window_size(STREAM_WINDOW).initial_connection_window_size(CONNECTION_WINDOW);
        let (sender, connection) = builder.handshake(TokioIo::new(stream)).await?;
        group.spawn(Box::pin(async move {
            // How a connection ends is seen by the requests on it.
            let _ = connection.await;
        }));
        let places = Arc::new(Semaphore::new(STREAMS_MAX));
        Ok(Self { sender, server: server.clone(), generation, troubles: Arc::default(), places })
    }

    /// To the same server: what troubles one troubles both.
    pub fn beside(self, other: &Self) -> Self {
        Self { troubles: other.troubles.clone(), ..self }
    }

    /// `None` where as many requests are open as it takes.
    pub fn place(&self) -> Option<Place> {
        self.places.clone().try_acquire_owned().ok()
    }

    pub fn has_place(&self) -> bool {
        self.places.available_permits() > 0
    }

    pub fn is_idle(&self) -> bool {
        self.places.available_permits() == STREAMS_MAX
    }

    pub fn server(&self) -> &Server {
        &self.server
    }

    pub fn is_closed(&self) -> bool {
        self.sender.is_closed()
    }

    /// Whether new requests may use it.
    pub fn is_good(&self, generation: u64) -> bool {
        !self.is_closed() && self.generation == generation
    }

    /// Whether it is the same connection, or one beside it.
    pub fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.troubles, &other.troubles)
    }

    pub async fn send(&self, mut request: Request<Body>, place: Place) -> Result<Response<Streamed>, BoxError> {
        *request.uri_mut() = self.server.uri(request.uri())?;
        let mut sender = self.sender.clone();
        sender.ready().await?;
        let answer = sender.send_request(request).await?;
        Ok(answer.map(|body| Streamed { body, _place: place }))
    }

    /// Counts an answer; how many in a row were errors of the server.
    pub fn troubles(&self, is_trouble: bool) -> u32 {
        if is_trouble {
            return self.troubles.fetch_add(1, Ordering::Relaxed) + 1;
        }
        self.troubles.store(0, Ordering::Relaxed);
        0
    }
}

impl http_body::Body for Streamed {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// hyper's tasks are our group's.
#[derive(Clone)]
pub(crate) struct InGroup(pub(crate) Group);

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
