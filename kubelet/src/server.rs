//! HTTPS requests -> logs, exec, attach, port-forward and the pod list of this node.
//!
//! Source: `pkg/kubelet/server/server.go`, `auth.go`.

mod auth;
mod containers;
mod logs;
mod proxy;
mod reply;
mod rotate;
mod route;
mod tls;

use std::{any::Any, convert::Infallible, fmt::Write as _, net::SocketAddr, pin::pin, sync::Arc, time::Duration};

use api::{
    seats::{Held, Limits, Pace, Patience, Seat, Seats, Socket, Standing, bound_unsent},
    task::Group,
};
use axum::{
    Router,
    extract::State,
    middleware::{Next, from_fn_with_state},
};
use client::kube;
use cri::Runtime;
use http::{Method, StatusCode};
use hyper::body::Incoming;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tower::{ServiceBuilder, ServiceExt, util::BoxCloneSyncService};
use tower_http::{catch_panic::CatchPanicLayer, trace::TraceLayer};
use tracing::{Span, field::Empty};

#[doc(hidden)]
pub use self::logs::read_all as read_log;
use self::{
    auth::Auth,
    reply::{Body, Reply, Request, text},
    route::{ContainerRef, Handler, RequestInfo},
};
pub use self::{
    rotate::{Limits as LogLimits, rotate},
    tls::{Error as TlsError, Serving},
};
use crate::{
    metrics::Metrics,
    stats::{Extent, Stats},
    view::Pods,
};

/// Connections at a time. Half of the last are one address: the API server, for all who stream.
const CONNECTIONS_MAX: Limits = Limits { arriving: 256, strangers: 256, known: 2048 };
/// For the TLS handshake.
const HANDSHAKE_WAIT: Duration = Duration::from_secs(10);
/// Upstream's `IdleTimeout` (`pkg/kubelet/server/server.go`), and the API server's `ReadHeaderTimeout`.
const PATIENCE: Patience = Patience { first: Duration::from_secs(32), head: Some(Duration::from_secs(32)), idle: Duration::from_secs(90) };
/// The slowest that a reply may be read, streams and logs apart: so many bytes in so much waiting, as the API server has it.
const PACE: Pace = Pace { window: STALL_MAX, bytes: TAKEN_BYTES_MIN };
const STALL_MAX: Duration = Duration::from_secs(60);
const TAKEN_BYTES_MIN: usize = 64 << 10;
/// How long a connection may take to close gracefully.
const GOODBYE: Duration = Duration::from_secs(1);
/// As the API server has it; Go's default is 1 MiB.
const HEADER_BYTES_MAX: usize = 256 * 1024;

/// Where and as whom the server stands.
pub struct Config {
    /// `0.0.0.0:10250`
    pub address: SocketAddr,
    /// Its certificate, which may be replaced while it serves.
    pub serving: Arc<Serving>,
    /// Whose client certificates are good (PEM).
    pub client_ca_pem: String,
    pub node_name: String,
}

/// What is served. Clones share it.
#[derive(Clone)]
pub struct Node {
    pub runtime: Runtime,
    pub pods: Pods,
    /// Asks the API server whose a token is, and what the user may do.
    pub client: kube::Client,
    pub(crate) metrics: Metrics,
    pub(crate) stats: Stats,
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot listen on {address}: {source}")]
    Listen { address: SocketAddr, source: std::io::Error },
    #[error(transparent)]
    Tls(#[from] TlsError),
}

struct Server {
    node: Node,
    group: Group,
}

/// What each request goes through: a span and a line of the log at `debug`, a net for panics, the judge, and then its route.
type Door = BoxCloneSyncService<Request, Reply, Infallible>;

/// Who sent a request, in its extensions: by certificate, where one was shown, and on which connection.
#[derive(Clone)]
struct Caller {
    peer: Arc<Option<auth::User>>,
    seat: Arc<Seat>,
}

/// Listens and serves until `group` stops. Returns the address, once connections are taken.
///
/// # Errors
/// [`Error`], where the address is taken or the CA is none.
pub async fn serve(config: Config, node: Node, group: &Group) -> Result<SocketAddr, Error> {
    let failed = |source| Error::Listen { address: config.address, source };
    let listener = TcpListener::bind(config.address).await.map_err(failed)?;
    bound_unsent(&listener).map_err(failed)?;
    let address = listener.local_addr().map_err(failed)?;
    let acceptor = TlsAcceptor::from(tls::server_config(config.serving, &config.client_ca_pem)?);
    let auth = Auth::new(node.client.clone(), &config.node_name);
    let door = door(routes(Server { node, group: group.clone() }), auth);
    group.spawn_loop("node server", Box::pin(accept(listener, acceptor, door, group.clone())));
    Ok(address)
}

async fn accept(listener: TcpListener, acceptor: TlsAcceptor, door: Door, group: Group) {
    let seats = Seats::new(CONNECTIONS_MAX);
    loop {
        let (socket, address) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "failed to accept connection");
                // Out of file descriptors, most likely: let some go first.
                seats.relieve();
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let Some(seat) = seats.arrive(address.ip()) else { continue };
        group.spawn(Box::pin(connection(socket, Arc::new(seat), acceptor.clone(), door.clone())));
    }
}

async fn connection(socket: TcpStream, seat: Arc<Seat>, acceptor: TlsAcceptor, door: Door) {
    let _ = socket.set_nodelay(true);
    let shaken = tokio::select! {
        _ = seat.over(&PATIENCE) => return,
        shaken = tokio::time::timeout(HANDSHAKE_WAIT, acceptor.accept(Socket::new(socket, seat.clone(), PACE))) => shaken,
    };
    let Ok(Ok(stream)) = shaken else { return };
    let peer = Arc::new(tls::peer(&stream));
    if !seat.settle(if peer.is_some() { Standing::Known } else { Standing::Stranger }) {
        return;
    }
    let caller = Caller { peer, seat: seat.clone() };
    let service = hyper::service::service_fn(move |request: http::Request<Incoming>| {
        let (door, work, mut request) = (door.clone(), caller.seat.work(), request.map(Body::new));
        request.extensions_mut().insert(caller.clone());
        async move { Ok::<_, Infallible>(door.oneshot(request).await?.map(|body| Held::new(body, work))) }
    });
    let mut http = hyper::server::conn::http1::Builder::new();
    // How long a head may take, and silence, is the seat's to say.
    http.timer(TokioTimer::new()).header_read_timeout(None).max_buf_size(HEADER_BYTES_MAX);
    let mut connection = pin!(http.serve_connection(TokioIo::new(stream), service).with_upgrades());
    tokio::select! {
        ended = connection.as_mut() => {
            if let Err(error) = ended {
                tracing::debug!(%error, "connection ended");
            }
            return;
        }
        why = seat.over(&PATIENCE) => tracing::debug!(why, "connection closed"),
    }
    connection.as_mut().graceful_shutdown();
    // Whoever does not go is dropped.
    let _ = tokio::time::timeout(GOODBYE, connection).await;
}

fn routes(server: Server) -> Router {
    let server = Arc::new(server);
    route::router(move |handler, request| {
        let server = server.clone();
        async move { server.serve(handler, request).await }
    })
}

fn door(routes: Router, auth: Auth) -> Door {
    let span = |request: &Request| tracing::debug_span!("request", method = %request.method(), path = request.uri().path(), user = Empty);
    let log_response =
        |reply: &http::Response<_>, elapsed: Duration, _: &Span| tracing::debug!(code = reply.status().as_u16(), ?elapsed, "HTTP");
    let traced = TraceLayer::new_for_http().make_span_with(span).on_request(()).on_response(log_response);
    let door = ServiceBuilder::new()
        .map_response(|reply: http::Response<_>| reply.map(Body::new))
        .layer(traced.on_body_chunk(()).on_eos(()).on_failure(()))
        .layer(CatchPanicLayer::custom(panicked))
        .layer(from_fn_with_state(Arc::new(auth), judged))
        .service(routes);
    BoxCloneSyncService::new(door)
}

/// Whoever may not pass learns nothing of what there is.
async fn judged(State(auth): State<Arc<Auth>>, request: Request, next: Next) -> Reply {
    let asked = RequestInfo::new(request.method(), request.uri().path());
    let peer = request.extensions().get::<Caller>().map(|caller| caller.peer.clone());
    match auth.pass(request.headers(), &asked, peer.as_deref().and_then(Option::as_ref)).await {
        Err(refused) => text(refused.code, refused.text),
        Ok(()) => next.run(asked.of(request)).await,
    }
}

fn failed(why: String) -> Reply {
    tracing::warn!(error = why, "failed to read what this node uses");
    text(StatusCode::INTERNAL_SERVER_ERROR, format!("Internal Error: {why}"))
}

fn panicked(_: Box<dyn Any + Send>) -> Reply {
    tracing::error!("request handler panicked");
    text(StatusCode::INTERNAL_SERVER_ERROR, "the request handler panicked, the node's log has details")
}

impl Server {
    async fn serve(&self, handler: Handler, request: Request) -> Reply {
        let (mut parts, body) = request.into_parts();
        if let Some(Caller { seat, .. }) = parts.extensions.get() {
            if handler.is_read_by_people() { seat.need_not_hurry() } else { seat.must_hurry() }
        }
        if !handler.takes(&parts.method) {
            return text(StatusCode::METHOD_NOT_ALLOWED, "405: Method Not Allowed");
        }
        let container_ref = ContainerRef::of(&mut parts).await;
        let request = Request::from_parts(parts, body);
        match handler {
            Handler::Healthz => text(StatusCode::OK, "ok"),
            Handler::Pods => self.pods(),
            Handler::Metrics => text(StatusCode::OK, self.metrics()),
            Handler::Summary => self.summary(request.uri().query().unwrap_or_default()).await,
            Handler::Resource => reply::exposition(self.node.stats.resource().await),
            Handler::Cadvisor => self.node.stats.cadvisor().await.map_or_else(failed, reply::exposition),
            Handler::Logs => containers::logs(&self.node, &container_ref, request.uri().query().unwrap_or_default()).await,
            Handler::Run => containers::run(&self.node, &container_ref, request.uri().query().unwrap_or_default()).await,
            Handler::Exec => containers::exec(&self.node, &container_ref, request, &self.group).await,
            Handler::Attach => containers::attach(&self.node, &container_ref, request, &self.group).await,
            Handler::PortForward => containers::port_forward(&self.node, &container_ref, request, &self.group).await,
        }
    }

    /// Source: `handleSummary` in `pkg/kubelet/server/stats/handler.go`.
    async fn summary(&self, query: &str) -> Reply {
        let is_short = route::query(query, "only_cpu_and_memory") == ["true"];
        let extent = if is_short { Extent::CpuAndMemory } else { Extent::All };
        self.node.stats.summary(extent).await.map_or_else(failed, reply::json)
    }

    fn pods(&self) -> Reply {
        // Pods are written as they are: what makes trees of values of such wide types is dear to compile, and to run.
        let items = self.node.pods.list().into_iter().filter_map(|view| serde_json::to_string(&view.object()).ok());
        let items = items.collect::<Vec<_>>().join(",");
        reply::json(format!(r#"{{"kind":"PodList","apiVersion":"v1","metadata":{{}},"items":[{items}]}}"#))
    }

    fn metrics(&self) -> String {
        let views = self.node.pods.list();
        let running = views.iter().flat_map(|v| &v.containers).filter(|c| c.running).count();
        let stopped = views.iter().map(|v| v.containers.len()).sum::<usize>() - running;
        let mut out = String::new();
        let _ =
            writeln!(out, "# HELP kubelet_running_pods Number of pods that have a running pod sandbox\n# TYPE kubelet_running_pods gauge");
        let _ = writeln!(out, "kubelet_running_pods {}", views.iter().filter(|v| v.sandbox_id.is_some()).count());
        let _ = writeln!(out, "# HELP kubelet_running_containers Number of containers\n# TYPE kubelet_running_containers gauge");
        let _ = writeln!(out, "kubelet_running_containers{{container_state=\"running\"}} {running}");
        let _ = writeln!(out, "kubelet_running_containers{{container_state=\"exited\"}} {stopped}");
        self.node.metrics.render(&mut out);
        // The rest of what the process counts is on its API server's page, where it has one.
        api::metrics::text("rest_client_", &mut out);
        out
    }
}

/// Methods by which streams are asked for: SPDY clients POST, WebSocket clients GET.
const STREAM_METHODS: [Method; 2] = [Method::GET, Method::POST];

#[cfg(test)]
pub(crate) mod containerd_tests;
#[cfg(test)]
pub(crate) mod tests;
#[cfg(test)]
mod tunnel_tests;
