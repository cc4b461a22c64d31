//! A cluster's servers -> a client on HTTP/2 connections to one of them, and to the next where that one is gone.
//!
//! kube's own client speaks HTTP/1.1 to one server: a connection for each request in flight, each with buffers at both ends. A server is kept for
//! as long as it is good: nothing is gained by moving, and a server that is back has watches to fill first. One connection carries as many requests as
//! servers take on one; where there are more (a node watches each Secret by itself), another is opened beside it, as Go's clients do.

mod clock;
mod connection;
mod server;
mod unchecked;

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use api::task::Group;
use http::{HeaderValue, Request, Response, StatusCode, header::AUTHORIZATION};
use kube::{Client, client::Body};
use rustls::ClientConfig;
use tokio::{
    sync::{Mutex, watch},
    time::timeout,
};
use tower::{BoxError, Service};

use crate::patient;
pub(crate) use connection::InGroup;
pub use connection::Streamed;
use connection::{Connection, Place};
pub use server::{NoServer, Server};
pub use unchecked::unchecked;

/// Servers that are known at the same time; more are not tried.
pub const SERVERS_MAX: usize = 16;
/// Until a server has a connection for us: what does not answer by then is not waited for where there is another.
const CONNECT_BOUND: Duration = Duration::from_secs(4);
/// Who asks: an agent of a node (see [`patient`]).
const AGENT: &str = "kubelet";
/// All servers refused: they are left alone for that long, and requests fail at once meanwhile.
const REST: Duration = Duration::from_millis(500);
/// Connections to the server in use: 100 requests fit on each.
const CONNECTIONS_MAX: usize = 64;
/// So many answers in a row that say "I cannot" (500, 502, 503), and another server is asked.
const TROUBLES_MAX: u32 = 3;

/// The way to one of a cluster's servers. Cloning shares the connection; each clone may show a token of its own ([`Transport::with_token`]).
#[derive(Clone)]
pub struct Transport {
    connector: Arc<Connector>,
    authorization: Option<HeaderValue>,
}

/// What connections trust and show. A connection that was made with what is no longer used ends with the requests on it.
#[derive(Clone)]
pub(crate) struct Tls {
    config: Arc<ClientConfig>,
    generation: u64,
}

struct Connector {
    servers: watch::Sender<Arc<[Server]>>,
    tls: watch::Sender<Tls>,
    group: Group,
    state: Mutex<State>,
    /// The server of the connection, while there is one.
    used: watch::Sender<Option<Server>>,
}

#[derive(Default)]
struct State {
    /// All to one server; the first that has a place is used.
    open: Vec<Connection>,
    /// The place in the list of who is tried next.
    next: usize,
    /// Who asks during the rest gets the same answer.
    failed: Option<(Instant, String)>,
}

impl Transport {
    /// Nothing is sent before the first request. The list is cut at [`SERVERS_MAX`]; the protocol is set here (ALPN).
    pub fn new(servers: Vec<Server>, tls: ClientConfig, group: &Group) -> Self {
        let connector = Connector {
            servers: watch::Sender::new(Arc::default()),
            tls: watch::Sender::new(Tls { config: Arc::new(for_http2(tls)), generation: 0 }),
            group: group.clone(),
            state: Mutex::default(),
            used: watch::Sender::new(None),
        };
        let new = Self { connector: Arc::new(connector), authorization: None };
        new.set_servers(servers);
        new
    }

    /// The same way, for the holder of a token.
    ///
    /// # Errors
    /// A token that no header can hold.
    pub fn with_token(&self, token: &str) -> Result<Self, http::header::InvalidHeaderValue> {
        let mut authorization = HeaderValue::try_from(format!("Bearer {token}"))?;
        authorization.set_sensitive(true);
        Ok(Self { authorization: Some(authorization), ..self.clone() })
    }

    /// A client that waits out refusals ([`patient`]).
    pub fn client(&self) -> Client {
        patient(self.clone(), AGENT)
    }

    /// From now on new requests go where this is trusted and shown; those in flight, and watches, end where they are.
    pub fn set_tls(&self, tls: ClientConfig) {
        let config = Arc::new(for_http2(tls));
        self.connector.tls.send_modify(|now| *now = Tls { config, generation: now.generation + 1 });
    }

    /// Replaces the list. The server in use is kept if it is in the new one.
    pub fn set_servers(&self, mut servers: Vec<Server>) {
        servers.truncate(SERVERS_MAX);
        self.connector.servers.send_replace(servers.into());
    }

    pub fn servers(&self) -> Arc<[Server]> {
        self.connector.servers.borrow().clone()
    }

    /// The list, as it changes.
    pub(crate) fn followed_servers(&self) -> watch::Receiver<Arc<[Server]>> {
        self.connector.servers.subscribe()
    }

    /// What is trusted and shown, as it changes.
    pub(crate) fn followed_tls(&self) -> watch::Receiver<Tls> {
        self.connector.tls.subscribe()
    }

    /// The server of the connection, while there is one: for those who tell, or wait.
    pub fn used(&self) -> watch::Receiver<Option<Server>> {
        self.connector.used.subscribe()
    }
}

impl Service<Request<Body>> for Transport {
    type Response = Response<Streamed>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, BoxError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        let connector = self.connector.clone();
        if let Some(authorization) = &self.authorization {
            request.headers_mut().insert(AUTHORIZATION, authorization.clone());
        }
        Box::pin(async move {
            let (connection, place) = connector.place().await?;
            let answer = Box::pin(connection.send(request, place)).await?;
            if connection.troubles(is_trouble(answer.status())) >= TROUBLES_MAX {
                connector.leave(&connection).await;
            }
            Ok(answer)
        })
    }
}

impl Connector {
    /// A place on an open connection, or on a new one. Who comes while it is opened waits for it.
    async fn place(&self) -> Result<(Connection, Place), BoxError> {
        let mut state = self.state.lock().await;
        let (servers, tls) = (self.servers.borrow().clone(), self.tls.borrow().clone());
        let old = state.open.first().cloned();
        state.open.retain(|open| open.is_good(tls.generation) && servers.contains(open.server()));
        if let Some(found) = state.place() {
            return Ok(found);
        }
        if let Some(full) = state.open.first().cloned() {
            return self.beside(&full, &tls, &mut state).await;
        }
        if let Some(old) = old {
            // The same server first, unless it was he that ended it.
            let again = servers.iter().position(|server| server == old.server()).filter(|_| !old.is_closed());
            state.next = again.unwrap_or(state.next);
            self.used.send_replace(None);
        }
        if let Some((_, error)) = state.failed.as_ref().filter(|(at, _)| at.elapsed() < REST) {
            return Err(error.clone().into());
        }
        let opened = self.first_of(&servers, &tls, &mut state).await;
        match opened {
            Ok(open) => {
                self.used.send_replace(Some(open.server().clone()));
                (state.open, state.failed) = (vec![open], None);
                state.place().ok_or_else(|| "a new connection has no place".into())
            }
            Err(error) => {
                state.failed = Some((Instant::now(), error.clone()));
                Err(error.into())
            }
        }
    }

    /// Another connection to the same server, whose connections are full.
    async fn beside(&self, full: &Connection, tls: &Tls, state: &mut State) -> Result<(Connection, Place), BoxError> {
        if state.open.len() >= CONNECTIONS_MAX {
            return Err(format!("{}: too many requests are open", full.server()).into());
        }
        let opening = Box::pin(Connection::open(full.server(), tls.config.clone(), tls.generation, &self.group));
        let opened = timeout(CONNECT_BOUND, opening).await;
        let opened = opened.map_err(|_| format!("{}: no connection within {} s", full.server(), CONNECT_BOUND.as_secs()))??;
        state.open.push(opened.beside(full));
        state.place().ok_or_else(|| "a new connection has no place".into())
    }

    /// Tries each once, the next one first. The error tells of all.
    async fn first_of(&self, servers: &[Server], tls: &Tls, state: &mut State) -> Result<Connection, String> {
        let mut errors = Vec::new();
        for _ in 0..servers.len() {
            let at = state.next % servers.len();
            // Before it is tried: who does not wait for the end of this leaves the next one to those who come after.
            state.next = at + 1;
            let server = &servers[at];
            let opening = Box::pin(Connection::open(server, tls.config.clone(), tls.generation, &self.group));
            match timeout(CONNECT_BOUND, opening).await {
                Ok(Ok(open)) => {
                    if !errors.is_empty() {
                        tracing::info!(%server, others = errors.join("; "), "connected to another server");
                    }
                    return Ok(open);
                }
                Ok(Err(error)) => errors.push(format!("{server}: {error}")),
                Err(_) => errors.push(format!("{server}: no connection within {} s", CONNECT_BOUND.as_secs())),
            }
        }
        if errors.is_empty() { Err("no server is known".to_owned()) } else { Err(errors.join("; ")) }
    }

    /// The server answers, but not as one should: the next one is asked, if there is one.
    async fn leave(&self, connection: &Connection) {
        if self.servers.borrow().len() < 2 {
            return;
        }
        let mut state = self.state.lock().await;
        if state.open.first().is_some_and(|open| open.is(connection)) {
            tracing::warn!(server = %connection.server(), "the server answers with errors; asking another");
            state.open.clear();
            self.used.send_replace(None);
        }
    }
}

impl State {
    /// On the first connection that has one. Those behind the next that carry nothing are closed.
    fn place(&mut self) -> Option<(Connection, Place)> {
        let (at, place) = self.open.iter().enumerate().find_map(|(at, open)| Some((at, open.place()?)))?;
        let mut behind = self.open.split_off(self.open.len().min(at + 2));
        behind.retain(|open| !open.is_idle());
        self.open.append(&mut behind);
        Some((self.open[at].clone(), place))
    }
}

impl Tls {
    pub(crate) fn config(&self) -> Arc<ClientConfig> {
        self.config.clone()
    }
}

/// 429 and 504 come from servers that work.
fn is_trouble(status: StatusCode) -> bool {
    matches!(status, StatusCode::INTERNAL_SERVER_ERROR | StatusCode::BAD_GATEWAY | StatusCode::SERVICE_UNAVAILABLE)
}

fn for_http2(mut tls: ClientConfig) -> ClientConfig {
    tls.alpn_protocols = vec![b"h2".to_vec()];
    tls
}

#[cfg(test)]
mod tests;
