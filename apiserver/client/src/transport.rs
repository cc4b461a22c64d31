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

use api::{flight::Flight, task::Group};
use http::{HeaderValue, Request, Response, StatusCode, header::AUTHORIZATION};
use kube::{Client, client::Body};
use parking_lot::Mutex;
use rustls::ClientConfig;
use tokio::{sync::watch, time::timeout};
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
    /// One connection is opened at a time, and goes on where who asked first does not wait for it any more.
    opening: Flight<Result<(), String>>,
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
            opening: Flight::new(group),
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
                connector.leave(&connection);
            }
            Ok(answer)
        })
    }
}

impl Connector {
    /// A place on an open connection, or on a new one. Who comes while it is opened waits for it, and takes the failure where it cannot be.
    async fn place(self: &Arc<Self>) -> Result<(Connection, Place), BoxError> {
        // A new connection may be full before all who waited for it have a place.
        for _ in 0..=CONNECTIONS_MAX {
            if let Some(found) = self.at_hand()? {
                return Ok(found);
            }
            let connector = self.clone();
            let opened = self.opening.join((), || None, || Box::pin(async move { connector.open().await })).await;
            opened.map_err(|lost| lost.to_string())??;
        }
        Err("a new connection has no place".into())
    }

    /// A place on an open connection; `None` where one is to be opened.
    fn at_hand(&self) -> Result<Option<(Connection, Place)>, String> {
        let mut state = self.state.lock();
        let (servers, generation) = (self.servers.borrow().clone(), self.tls.borrow().generation);
        let old = state.open.first().cloned();
        state.open.retain(|open| open.is_good(generation) && servers.contains(open.server()));
        if let Some(found) = state.place() {
            return Ok(Some(found));
        }
        if let Some(old) = old.filter(|_| state.open.is_empty()) {
            // The same server first, unless it was he that ended it.
            let again = servers.iter().position(|server| server == old.server()).filter(|_| !old.is_closed());
            (state.next, state.failed) = (again.unwrap_or(state.next), None);
            self.used.send_replace(None);
        }
        match state.failed.as_ref().filter(|(at, _)| at.elapsed() < REST) {
            Some((_, error)) => Err(error.clone()),
            None => Ok(None),
        }
    }

    /// Another connection: beside those that are full, or to the first server that there is one to.
    async fn open(&self) -> Result<(), String> {
        let (full, has_place) = {
            let state = self.state.lock();
            (state.open.first().cloned(), state.open.iter().any(Connection::has_place))
        };
        if has_place {
            return Ok(());
        }
        let tls = self.tls.borrow().clone();
        let opened = match full {
            Some(full) => self.beside(&full, &tls).await,
            None => {
                let servers = self.servers.borrow().clone();
                self.first_of(&servers, &tls).await
            }
        };
        self.state.lock().failed = opened.as_ref().err().map(|error| (Instant::now(), error.clone()));
        opened
    }

    /// Another connection to the same server, whose connections are full.
    async fn beside(&self, full: &Connection, tls: &Tls) -> Result<(), String> {
        if self.state.lock().open.len() >= CONNECTIONS_MAX {
            return Err(format!("{}: too many requests are open", full.server()));
        }
        let opened = self.dial(full.server(), tls).await.map_err(|why| format!("{}: {why}", full.server()))?;
        let mut state = self.state.lock();
        // It may have been left meanwhile.
        if state.open.first().is_some_and(|open| open.is(full)) {
            state.open.push(opened.beside(full));
        }
        Ok(())
    }

    /// Tries each once, the next one first. The error tells of all.
    async fn first_of(&self, servers: &[Server], tls: &Tls) -> Result<(), String> {
        let mut errors = Vec::new();
        for _ in 0..servers.len() {
            let server = {
                let mut state = self.state.lock();
                let at = state.next % servers.len();
                state.next = at + 1;
                &servers[at]
            };
            match self.dial(server, tls).await {
                Ok(open) => {
                    if !errors.is_empty() {
                        tracing::info!(%server, others = errors.join("; "), "connected to another server");
                    }
                    self.used.send_replace(Some(server.clone()));
                    self.state.lock().open = vec![open];
                    return Ok(());
                }
                Err(why) => errors.push(format!("{server}: {why}")),
            }
        }
        if errors.is_empty() { Err("no server is known".to_owned()) } else { Err(errors.join("; ")) }
    }

    async fn dial(&self, server: &Server, tls: &Tls) -> Result<Connection, String> {
        let opening = Box::pin(Connection::open(server, tls.config.clone(), tls.generation, &self.group));
        match timeout(CONNECT_BOUND, opening).await {
            Ok(opened) => opened.map_err(|error| error.to_string()),
            Err(_) => Err(format!("no connection within {} s", CONNECT_BOUND.as_secs())),
        }
    }

    /// The server answers, but not as one should: the next one is asked, if there is one.
    fn leave(&self, connection: &Connection) {
        if self.servers.borrow().len() < 2 {
            return;
        }
        let mut state = self.state.lock();
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
