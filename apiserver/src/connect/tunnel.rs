//! A connection that a node's agent holds to us -> streams to that agent, which need no port that we could reach.
//!
//! Over the connection runs HTTP/2 with the roles reversed: we open streams (`CONNECT`), the agent joins each with its own port. What passes is the TLS of
//! the direct way, so that neither end need trust what lies between. The words are in [`api::tunnel`].

use std::{
    collections::HashMap,
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use api::{
    Status,
    task::Group,
    tunnel::{AGENT, PROTOCOL, SERVER, STREAM_BOUND, STREAM_WINDOW_BYTES, STREAMS_MAX, TUNNEL_WINDOW_BYTES},
};
use bytes::Bytes;
use http::{HeaderValue, Method, StatusCode, Version, header, request::Parts};
use http_body_util::Empty;
use hyper::{
    client::conn::http2::{self, SendRequest},
    rt::{Executor, Read, Write},
    upgrade::{self, OnUpgrade, Upgraded},
};
use hyper_util::rt::{TokioIo, TokioTimer};
use parking_lot::Mutex;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, timeout},
};

use super::headers;
use crate::body::{Response, empty};

/// Until the connection is ours after the answer that says so.
const UPGRADE_BOUND: Duration = Duration::from_secs(10);
/// A silent agent is asked after that long whether it is there: what passes through a tunnel that is dead ends then. Who calls does not wait for it
/// ([`STREAM_BOUND`]).
const PING: Duration = Duration::from_secs(30);
const PONG_BOUND: Duration = Duration::from_secs(10);
/// Once a stream was not taken in time, the node's own address is dialled for that long: who calls now does not wait in vain again. The tunnel stays, for it
/// may have been that one call's fault, and what passes through it is no reason for the agent to open another.
const DIRECT_FOR: Duration = Duration::from_secs(10);

/// The tunnels that this server holds, by the name of their node: the newest of each.
pub struct Tunnels {
    /// Which server this is: an agent that reaches it at two addresses holds one tunnel.
    server: HeaderValue,
    held: Mutex<HashMap<String, Tunnel>>,
    next: AtomicU64,
}

#[derive(Clone)]
struct Tunnel {
    id: u64,
    sender: SendRequest<Empty<Bytes>>,
    streams: Arc<Semaphore>,
    /// Until then it is left alone ([`DIRECT_FOR`]).
    direct_until: Option<Instant>,
}

/// Why there is no stream through a tunnel.
#[derive(Debug)]
pub enum NoStream {
    /// It leads nowhere, or is full: there may be another way.
    Lost(io::Error),
    /// The agent's machine says no, and would on any way.
    Refused(io::Error),
}

/// A stream to a node's agent.
pub struct Through {
    stream: TokioIo<Upgraded>,
    _place: OwnedSemaphorePermit,
}

impl Default for Tunnels {
    fn default() -> Self {
        let id = HeaderValue::try_from(format!("{:032x}", rand::random::<u128>())).expect("hexadecimal digits are fit for a header");
        Self { server: id, held: Mutex::default(), next: AtomicU64::new(1) }
    }
}

impl Tunnels {
    /// Takes the connection of a request by the agent of `node`, which its caller has authorized, and holds it until it ends. It replaces the one that there
    /// was: what passes through that goes on to its end.
    ///
    /// # Errors
    /// 400 for what is no offer of a tunnel.
    pub fn accept(self: &Arc<Self>, node: &str, request: Parts, group: &Group) -> Result<Response, Status> {
        let mut request = http::Request::from_parts(request, ());
        let named = request.headers().get(header::UPGRADE).is_some_and(|name| name.as_bytes().eq_ignore_ascii_case(PROTOCOL.as_bytes()));
        let offered = named && headers::wants_upgrade(request.headers());
        if !offered || request.method() != Method::GET || request.version() != Version::HTTP_11 {
            return Err(Status::bad_request(format!("a tunnel begins with GET in HTTP/1.1, and Upgrade: {PROTOCOL}")));
        }
        let (this, node, upgrade, in_group) = (self.clone(), node.to_owned(), upgrade::on(&mut request), group.clone());
        group.spawn(Box::pin(async move { this.hold(&node, upgrade, in_group).await }));
        let mut response = http::Response::new(empty());
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
        response.headers_mut().insert(header::UPGRADE, HeaderValue::from_static(PROTOCOL));
        response.headers_mut().insert(SERVER, self.server.clone());
        Ok(response)
    }

    /// A stream to the agent of a node, or why there is none, within [`STREAM_BOUND`]; `None` where it has no tunnel here, or one that did
    /// not answer a moment ago.
    pub async fn open(&self, node: &str) -> Option<Result<Through, NoStream>> {
        let is_of_use = |tunnel: &&Tunnel| !tunnel.sender.is_closed() && tunnel.direct_until.is_none_or(|until| until <= Instant::now());
        let tunnel = self.held.lock().get(node).filter(is_of_use).cloned()?;
        let id = tunnel.id;
        let opened = timeout(STREAM_BOUND, tunnel.open()).await;
        Some(opened.unwrap_or_else(|_| {
            // If it is dead, it is found out by its pings.
            if let Some(tunnel) = self.held.lock().get_mut(node).filter(|tunnel| tunnel.id == id) {
                tunnel.direct_until = Some(Instant::now() + DIRECT_FOR);
            }
            Err(NoStream::Lost(failed(&format_args!("no answer within {} s", STREAM_BOUND.as_secs()))))
        }))
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.held.lock().len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    async fn hold(&self, node: &str, upgrade: OnUpgrade, group: Group) {
        match timeout(UPGRADE_BOUND, upgrade).await {
            Ok(Ok(connection)) => self.carry(node, connection, group).await,
            Ok(Err(error)) => tracing::debug!(node, %error, "a tunnel went away before it began"),
            Err(_) => tracing::debug!(node, "a tunnel did not begin in time"),
        }
    }

    pub(super) async fn carry<C>(&self, node: &str, connection: C, group: Group)
    where
        C: Read + Write + Send + Unpin + 'static,
    {
        let mut builder = http2::Builder::new(InGroup(group));
        builder
            .timer(TokioTimer::new())
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(TUNNEL_WINDOW_BYTES)
            .max_send_buf_size(STREAM_WINDOW_BYTES as usize)
            .keep_alive_interval(PING)
            .keep_alive_timeout(PONG_BOUND)
            .keep_alive_while_idle(true);
        let (sender, connection) = match builder.handshake(connection).await {
            Ok(begun) => begun,
            Err(error) => return tracing::debug!(node, %error, "a tunnel ended before it began"),
        };
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let streams = Arc::new(Semaphore::new(STREAMS_MAX as usize));
        // The old one ends when its last stream does: nobody holds its sender any more.
        let old = self.held.lock().insert(node.to_owned(), Tunnel { id, sender, streams, direct_until: None });
        tracing::info!(node, replaced = old.is_some(), "tunnel opened");
        drop(old);
        let ended = connection.await;
        if self.forget(node, id) {
            tracing::info!(node, error = ended.err().map(tracing::field::display), "tunnel closed");
        }
    }

    /// Whether it was the node's own still.
    fn forget(&self, node: &str, id: u64) -> bool {
        let mut held = self.held.lock();
        let is_own = held.get(node).is_some_and(|tunnel| tunnel.id == id);
        if is_own {
            held.remove(node);
        }
        is_own
    }
}

impl Tunnel {
    /// Its caller waits no longer than it likes.
    async fn open(mut self) -> Result<Through, NoStream> {
        let lost = |why: &dyn std::fmt::Display| NoStream::Lost(failed(why));
        let place = self.streams.try_acquire_owned().map_err(|_| lost(&format_args!("{STREAMS_MAX} streams are open")))?;
        let mut ask = http::Request::new(Empty::new());
        *ask.method_mut() = Method::CONNECT;
        *ask.uri_mut() = http::Uri::from_static(AGENT);
        self.sender.ready().await.map_err(|error| lost(&error))?;
        let answer = self.sender.send_request(ask).await.map_err(|error| lost(&error))?;
        if answer.status() != StatusCode::OK {
            return Err(NoStream::Refused(failed(&format_args!("the agent answers {}", answer.status()))));
        }
        let stream = upgrade::on(answer).await.map_err(|error| lost(&error))?;
        Ok(Through { stream: TokioIo::new(stream), _place: place })
    }
}

fn failed(why: &dyn std::fmt::Display) -> io::Error {
    io::Error::other(format!("through the node's tunnel: {why}"))
}

impl AsyncRead for Through {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, into)
    }
}

impl AsyncWrite for Through {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// hyper's tasks are the server's: they end with it.
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

#[cfg(test)]
mod tests;
