//! A listener -> served requests: TLS, HTTP/1.1 and 2, deadlines, upgrades, and a graceful end.

use std::{
    convert::Infallible,
    net::SocketAddr,
    pin::{Pin, pin},
    sync::{Arc, LazyLock},
    task::{Context, Poll},
    time::Duration,
};

use api::{
    Status,
    metrics::{Family, Series},
    seats::{Held, Limits, Patience, Seat, Seats, Socket, Standing, bound_unsent},
    task::Group,
    time::Timestamp,
};
use bytes::Bytes;
use futures::TryFutureExt;
use http::{HeaderValue, StatusCode, Version, header};
use hyper::body::Incoming;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::conn::auto,
};
use tokio::{
    io::AsyncWriteExt,
    net::{TcpListener, TcpStream},
    sync::Notify,
};
use tokio_rustls::TlsAcceptor;
use tower::{Service, ServiceExt};

use crate::{
    body::{Body, BoxError, Request, Response, boxed, full},
    drain_body,
    front_proxy::FrontProxy,
    identity::Peer,
    notify::{Rarely, Stop, Stopped},
    stall,
    tls::{Shown, Tls},
};

/// How long a peer may take for the TLS handshake.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// Upstream: `ReadHeaderTimeout` and `IdleTimeout` (`server/secure_serving.go`).
const HTTP1: Patience = Patience { first: Duration::from_secs(32), head: Some(Duration::from_secs(32)), idle: Duration::from_secs(90) };
/// Go's HTTP/2 server waits ten seconds for the preface.
const HTTP2: Patience = Patience { first: Duration::from_secs(10), head: None, idle: Duration::from_secs(90) };
/// How long a connection that is told to go may take for that.
const GOODBYE: Duration = Duration::from_secs(1);
/// Go's `http.DefaultMaxHeaderBytes` is 1 MiB; nobody needs that much.
const HEADER_BYTES_MAX: usize = 256 * 1024;
/// Connections at one time, if as many files may be open.
pub const CONNECTIONS_MAX: Limits = Limits { arriving: 2048, strangers: 6144, known: 8192 };
/// How long open requests may go on after the group was asked to stop.
pub const DRAIN: Duration = Duration::from_secs(5);
/// Streams of one HTTP/2 connection, the window of each, and of all (`server/secure_serving.go`).
const STREAMS_MAX: u32 = 100;
const STREAM_WINDOW_BYTES: u32 = 256 * 1024;
const CONNECTION_WINDOW_BYTES: u32 = 16 * STREAM_WINDOW_BYTES;
/// Streams of one HTTP/2 connection that were reset before they were looked at, and that we reset for an error of the peer's: h2 ends
/// the connection then. CONTINUATION frames are bounded by [`HEADER_BYTES_MAX`]; PING and SETTINGS are answered before more is read.
const RESETS_PENDING_MAX: usize = 20;
const RESETS_LOCAL_MAX: usize = 256;
/// A silent HTTP/2 peer is asked after this long whether it is still there.
const PING: Duration = Duration::from_secs(60);

/// Serves until the group stops, then drains for at most [`DRAIN`]. A connection that fails harms nobody else. `seats` says how many
/// connections there may be; of the requests over HTTP/2 the part `goaway_chance` ends its connection, whose other requests go on.
///
/// # Errors
/// Where the listener cannot be set up. What goes wrong with one connection is logged and ends that connection.
pub async fn serve<S>(
    listener: TcpListener,
    seats: Arc<Seats>,
    tls: Arc<Tls>,
    service: S,
    group: Group,
    goaway_chance: f64,
) -> std::io::Result<()>
where
    S: Service<Request, Response = Response, Error = Infallible> + Clone + Send + Sync + 'static,
    S::Future: Send + 'static,
{
    bound_unsent(&listener)?;
    let stop = Stop::of(&group);
    loop {
        let accepted = tokio::select! {
            biased;
            () = group.stopping() => return Ok(()),
            accepted = accept(&listener, &seats) => accepted,
        };
        let Some((stream, address, seat)) = accepted else { continue };
        let (tls, service, stopped) = (tls.clone(), service.clone(), (stop.stopped(), goaway_chance));
        group.spawn_careful(Box::pin(connection(stream, address, Arc::new(seat), tls, service, stopped)));
    }
}

/// The service as an in-process caller reaches it, with `peer` as what a transport would have found. Takes and gives what
/// `kube::Client::new` wants.
pub fn in_process<S>(service: S, peer: Peer) -> InProcess<S> {
    InProcess { service, peer }
}

/// See [`in_process`].
#[derive(Clone)]
pub struct InProcess<S> {
    service: S,
    peer: Peer,
}

impl<S, B> Service<http::Request<B>> for InProcess<S>
where
    S: Service<Request, Response = Response, Error = Infallible>,
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    type Response = Response;
    type Error = Infallible;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.service.poll_ready(cx)
    }

    fn call(&mut self, request: http::Request<B>) -> S::Future {
        let mut request = request.map(boxed);
        request.extensions_mut().insert(self.peer.clone());
        self.service.call(request)
    }
}

async fn accept(listener: &TcpListener, seats: &Arc<Seats>) -> Option<(TcpStream, SocketAddr, Seat)> {
    match listener.accept().await {
        Ok((stream, address)) => {
            let seat = seats.arrive(address.ip());
            if seat.is_none() {
                tracing::debug!(peer = %address, "connection refused: too many are open");
            }
            seat.map(|seat| (stream, address, seat))
        }
        Err(error) => {
            tracing::warn!(%error, "cannot accept a connection");
            // Out of file descriptors, most likely: one that is idle is closed, and asking again at once would spin.
            seats.relieve();
            tokio::time::sleep(Duration::from_millis(100)).await;
            None
        }
    }
}

async fn connection<S>(
    stream: TcpStream,
    address: SocketAddr,
    seat: Arc<Seat>,
    tls: Arc<Tls>,
    service: S,
    (mut stopped, goaway_chance): (Stopped, f64),
) where
    S: Service<Request, Response = Response, Error = Infallible> + Clone + Send + Sync + 'static,
    S::Future: Send + 'static,
{
    let shaken = tokio::select! {
        () = &mut stopped => return,
        _ = seat.over(&HTTP1) => return,
        shaken = tokio::time::timeout(HANDSHAKE, handshake(stream, &seat, &tls)) => shaken,
    };
    let stream = match shaken {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return tracing::debug!(%error, peer = %address, "TLS handshake failed"),
        Err(_) => return tracing::debug!(peer = %address, "TLS handshake took too long"),
    };
    let (chain, now) = (stream.get_ref().1.peer_certificates().unwrap_or_default(), Timestamp::now());
    let (shown, front_proxy) = (tls.judge(chain, now).coming_from(address.ip()), tls.front_proxy(chain, now));
    let standing = if front_proxy.is_some() || matches!(shown, Shown::Good { .. }) { Standing::Known } else { Standing::Stranger };
    if !seat.settle(standing) {
        return tracing::debug!(peer = %address, ?standing, "connection closed: too many are open");
    }
    let (builder, patience, goaway) = match stream.get_ref().1.alpn_protocol() {
        Some(b"h2") => (http2(), HTTP2, Goaway::new(goaway_chance)),
        _ => (http1(), HTTP1, None),
    };
    let door = Door { service, shown: Arc::new(shown), front_proxy, address, seat: seat.clone(), goaway: goaway.clone() };
    let service = hyper::service::service_fn(move |request| door.clone().enter(request));
    let mut connection = pin!(builder.serve_connection_with_upgrades(TokioIo::new(stream), service));
    let mut over = pin!(seat.over(&patience));
    let mut goes = false;
    let (bound, why) = loop {
        tokio::select! {
            biased;
            ended = connection.as_mut() => {
                if let Err(error) = ended {
                    tracing::debug!(error, peer = %address, "connection ended with an error");
                }
                return;
            }
            () = &mut stopped => break (DRAIN, "the server stops"),
            // What it has begun goes on, for as long as that takes.
            () = Goaway::drawn(&goaway), if goaway.is_some() && !goes => {
                connection.as_mut().graceful_shutdown();
                goes = true;
            }
            why = Rarely::new(over.as_mut()) => break (GOODBYE, why),
        }
    };
    tracing::debug!(peer = %address, why, "connection closed");
    connection.as_mut().graceful_shutdown();
    // Whoever does not go is dropped.
    let _ = tokio::time::timeout(bound, connection).await;
}

async fn handshake(mut stream: TcpStream, seat: &Arc<Seat>, tls: &Tls) -> std::io::Result<tokio_rustls::server::TlsStream<Socket>> {
    stream.set_nodelay(true)?;
    let mut first = [0u8; 1];
    // 0x16 begins a TLS handshake; a letter begins a plain HTTP request, which Go's server answers so.
    if stream.peek(&mut first).await? == 1 && first[0].is_ascii_uppercase() {
        let plain = b"HTTP/1.0 400 Bad Request\r\n\r\nClient sent an HTTP request to an HTTPS server.\n";
        stream.write_all(plain).await?;
        return Err(std::io::Error::other("plain HTTP on the TLS port"));
    }
    TlsAcceptor::from(tls.config.clone()).accept(Socket::new(stream, seat.clone(), stall::PACE)).await
}

fn http1() -> auto::Builder<stall::Streams> {
    let mut builder = auto::Builder::new(stall::Streams::default()).http1_only();
    // How long a head may take, and silence, is the seat's to say.
    builder.http1().timer(TokioTimer::new()).header_read_timeout(None).max_buf_size(HEADER_BYTES_MAX).half_close(false);
    builder
}

fn http2() -> auto::Builder<stall::Streams> {
    let mut builder = auto::Builder::new(stall::Streams::default()).http2_only();
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS_MAX)
        .max_send_buf_size(stall::STREAM_BUFFER_BYTES_MAX)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_header_list_size(u32::try_from(HEADER_BYTES_MAX).unwrap_or(u32::MAX))
        .max_pending_accept_reset_streams(RESETS_PENDING_MAX)
        .max_local_error_reset_streams(RESETS_LOCAL_MAX)
        .keep_alive_interval(PING)
        .keep_alive_timeout(Duration::from_secs(30));
    builder
}

/// What stands between a connection and the service: the peer is written into each request.
#[derive(Clone)]
struct Door<S> {
    service: S,
    shown: Arc<Shown>,
    front_proxy: Option<FrontProxy>,
    address: SocketAddr,
    seat: Arc<Seat>,
    goaway: Option<Arc<Goaway>>,
}

/// Whether a connection is told to go, by chance (`filters/goaway.go`): clients find their way to other servers behind a load balancer.
struct Goaway {
    chance: f64,
    drawn: Notify,
}

impl Goaway {
    fn new(chance: f64) -> Option<Arc<Self>> {
        (chance > 0.0).then(|| Arc::new(Self { chance, drawn: Notify::new() }))
    }

    /// A request comes.
    fn draw(&self) {
        if rand::random::<f64>() < self.chance {
            self.drawn.notify_one();
        }
    }

    async fn drawn(of: &Option<Arc<Self>>) {
        match of {
            Some(goaway) => goaway.drawn.notified().await,
            None => std::future::pending().await,
        }
    }
}

/// Seconds that client certificates are still good for (`pkg/authentication/request/x509`).
static LEFT: LazyLock<Arc<Series>> = LazyLock::new(|| CERTIFICATES.with(&[]));
static CERTIFICATES: Family = Family::sizes(
    "apiserver_client_certificate_expiration_seconds",
    "[ALPHA] Distribution of the remaining lifetime on the certificate used to authenticate a request.",
    &[],
    &[
        0.0,
        1800.0,
        3600.0,
        7200.0,
        21_600.0,
        43_200.0,
        86_400.0,
        172_800.0,
        345_600.0,
        604_800.0,
        2_592_000.0,
        7_776_000.0,
        15_552_000.0,
        31_104_000.0,
    ],
);

type Answer = Pin<Box<dyn Future<Output = Result<http::Response<Held<Body>>, Infallible>> + Send>>;

impl<S> Door<S>
where
    S: Service<Request, Response = Response, Error = Infallible> + Clone + Send + Sync + 'static,
    S::Future: Send + 'static,
{
    fn enter(self, request: http::Request<Incoming>) -> Answer {
        let work = self.seat.work();
        // Not one that has expired meanwhile, nor one that asks for itself.
        let proxy = self.front_proxy.filter(|proxy| proxy.not_after >= Timestamp::now().as_second());
        let proxy = proxy.filter(|proxy| !matches!(proxy.believed.user(request.headers()), Ok(None)));
        if let Some(goaway) = &self.goaway {
            goaway.draw();
        }
        let now = Timestamp::now().as_second();
        let certificate = match self.shown.as_ref() {
            Shown::Nothing => None,
            Shown::Good { user, not_after } if *not_after >= now => {
                LEFT.size(u64::try_from(not_after - now).unwrap_or_default());
                Some(user.clone())
            }
            // Another credential may still speak for the caller; without one the bad certificate decides.
            _ if has_token(&request) || proxy.is_some() => None,
            _ => return Box::pin(std::future::ready(Ok(unauthorized().map(|body| Held::new(body, work))))),
        };
        let (parts, body) = request.into_parts();
        let (body, rest) = drain_body::lend(boxed(body));
        let (version, seat) = (parts.version, self.seat);
        let mut request = Request::from_parts(parts, body);
        request.extensions_mut().insert(Peer { certificate, address: Some(self.address) });
        if let Some(proxy) = proxy {
            request.extensions_mut().insert(proxy);
        }
        let serving = self.service.oneshot(request).map_ok(move |answer| {
            // What is read by a person has an HTTP/1.1 connection of its own, for as long as this answer lasts.
            if version < Version::HTTP_2 {
                match answer.extensions().get::<stall::Patient>() {
                    Some(_) => seat.need_not_hurry(),
                    None => seat.must_hurry(),
                }
                if answer.status() == StatusCode::SWITCHING_PROTOCOLS {
                    seat.handed_on();
                }
            }
            stall::paced(answer)
        });
        let held = |answer: Response| answer.map(|body| Held::new(body, work));
        let Some(rest) = rest else { return Box::pin(serving.map_ok(held)) };
        let serving: Pin<Box<dyn Future<Output = Result<Response, Infallible>> + Send>> = Box::pin(serving);
        Box::pin(async move {
            let answer = serving.await?;
            rest.forget().await;
            Ok(held(answer))
        })
    }
}

fn has_token(request: &http::Request<Incoming>) -> bool {
    let value = request.headers().get(header::AUTHORIZATION).and_then(|v| v.to_str().ok()).unwrap_or_default();
    value.get(..7).is_some_and(|scheme| scheme.eq_ignore_ascii_case("bearer "))
}

fn unauthorized() -> Response {
    status_response(&Status::unauthorized())
}

/// A failure as a reply.
pub fn status_response(status: &Status) -> Response {
    let mut response = Response::new(full(status.body().to_string()));
    *response.status_mut() = StatusCode::from_u16(status.code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

#[cfg(test)]
mod tests {
    use api::{certificate::Identity, csr::SOURCE_ADDRESS};
    use http_body_util::{BodyExt, Empty};
    use rustls_pki_types::ServerName;
    use tokio_rustls::TlsConnector;

    use super::*;
    use crate::{
        certs::{Certs, ServingNames, Subject, Usage, issue},
        identity::User,
        tls::client_config,
    };

    const BOUND: Duration = Duration::from_secs(10);

    struct House {
        certs: Certs,
        address: SocketAddr,
        group: Group,
        _dir: tempfile::TempDir,
    }

    async fn who(request: Request) -> Result<Response, Infallible> {
        let peer = request.extensions().get::<Peer>().cloned().unwrap();
        let source = |u: &User| u.extra.get(SOURCE_ADDRESS).map(|from| format!(" from {}", from.join(","))).unwrap_or_default();
        let name = peer.certificate.map_or("anonymous".into(), |u| format!("{}/{}{}", u.name, u.groups.join(","), source(&u)));
        if request.headers().contains_key("x-read") {
            let read = request.into_body().collect().await.map(|b| b.to_bytes().len()).unwrap_or_default();
            return Ok(Response::new(full(format!("{name} {read}"))));
        }
        Ok(Response::new(full(name)))
    }

    async fn house() -> House {
        house_for(CONNECTIONS_MAX, 0.0).await
    }

    async fn house_for(limits: Limits, goaway_chance: f64) -> House {
        let dir = tempfile::tempdir().unwrap();
        let certs = Certs::open(dir.path(), &ServingNames::standard("h", &[], None, "cluster.local")).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, group, tls) = (listener.local_addr().unwrap(), Group::new(), Arc::new(Tls::new(&certs).unwrap()));
        let server = serve(listener, Seats::new(limits), tls, tower::service_fn(who), group.clone(), goaway_chance);
        group.spawn_careful(async move { server.await.unwrap() });
        House { certs, address, group, _dir: dir }
    }

    impl House {
        async fn ask(&self, shown: Option<&Identity>, authorization: Option<&str>) -> (u16, String) {
            let ca = self.certs.ca();
            let config = match shown {
                Some(pair) => client_config(ca, pair).unwrap(),
                None => anonymous(ca),
            };
            let tcp = TcpStream::connect(self.address).await.unwrap();
            let name = ServerName::try_from("kubernetes.default").unwrap();
            let stream = TlsConnector::from(Arc::new(config)).connect(name, tcp).await.unwrap();
            let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
            self.group.spawn(async move { drop(connection.await) });
            let mut request = http::Request::get("/").header("host", "x");
            if let Some(value) = authorization {
                request = request.header("authorization", value);
            }
            let reply = sender.send_request(request.body(Empty::<Bytes>::new()).unwrap()).await.unwrap();
            let code = reply.status().as_u16();
            (code, String::from_utf8(reply.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap())
        }
    }

    fn anonymous(ca: &str) -> rustls::ClientConfig {
        let pair = issue::authority("nobody", Timestamp::now()).unwrap();
        let mut config = client_config(ca, &pair).unwrap();
        config.client_auth_cert_resolver = rustls::ClientConfig::builder_with_provider(crate::tls::provider())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(rustls::RootCertStore::empty())
            .with_no_client_auth()
            .client_auth_cert_resolver;
        config
    }

    fn user(seconds: u64) -> Subject {
        let usage = Usage::Client;
        let organization = Some(format!("org-{seconds}"));
        Subject { common_name: "jane".into(), organization, usage, dns: Vec::new(), addresses: Vec::new() }
    }

    #[tokio::test]
    async fn the_peer_is_known_by_its_certificate() {
        let house = house().await;
        assert_eq!(house.ask(None, None).await, (200, "anonymous".into()));
        let admin = house.certs.leaves().admin.clone();
        assert_eq!(house.ask(Some(&admin), None).await, (200, "kubernetes-admin/system:masters,system:authenticated".into()));
        let node = house.certs.issue_client("system:node:a", Some("system:nodes")).unwrap();
        // Where it comes from is known of nodes alone: what they say of their addresses is held against it.
        let told = "system:node:a/system:nodes,system:authenticated from 127.0.0.1";
        assert_eq!(house.ask(Some(&node), None).await, (200, told.into()));
        assert!(house.group.drain(BOUND).await);
    }

    #[tokio::test]
    async fn foreign_and_expired_certificates_are_unauthorized() {
        let house = house().await;
        let dir = tempfile::tempdir().unwrap();
        let other = Certs::open(dir.path(), &ServingNames::default()).unwrap();
        let (code, body) = house.ask(Some(&other.leaves().admin), None).await;
        assert_eq!(code, 401);
        assert!(body.contains(r#""reason":"Unauthorized""#), "{body}");
        let ca =
            Identity { chain_pem: house.certs.ca().into(), key_pem: std::fs::read_to_string(house._dir.path().join("ca.key")).unwrap() };
        let past = Timestamp::from_second(Timestamp::now().as_second() - 7200).unwrap();
        let expired = issue::leaf_for(&ca, &user(3600), past, 3600).unwrap();
        assert_eq!(house.ask(Some(&expired), None).await.0, 401);
        assert_eq!(house.ask(Some(&expired), Some("Bearer x")).await, (200, "anonymous".into()), "the token decides");
        assert!(house.group.drain(BOUND).await);
    }

    #[tokio::test]
    async fn a_serving_certificate_does_not_speak_for_a_client() {
        let house = house().await;
        let serving = house.certs.leaves().serving.clone();
        assert_eq!(house.ask(Some(&serving), None).await.0, 401);
        assert!(house.group.drain(BOUND).await);
    }

    #[tokio::test]
    async fn plain_http_is_told_so() {
        use tokio::io::AsyncReadExt;
        let house = house().await;
        let mut tcp = TcpStream::connect(house.address).await.unwrap();
        tcp.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
        let mut text = [0u8; 24];
        tcp.read_exact(&mut text).await.unwrap();
        assert_eq!(&text, b"HTTP/1.0 400 Bad Request");
        assert!(house.group.drain(BOUND).await);
    }

    /// What has begun goes on, and nothing else begins on that connection.
    #[tokio::test]
    async fn a_connection_is_told_to_go_and_ends_what_it_has_begun() {
        use hyper_util::rt::TokioExecutor;
        let house = house_for(CONNECTIONS_MAX, 1.0).await;
        let mut config = anonymous(house.certs.ca());
        config.alpn_protocols = vec![b"h2".to_vec()];
        let tcp = TcpStream::connect(house.address).await.unwrap();
        let name = ServerName::try_from("kubernetes.default").unwrap();
        let stream = TlsConnector::from(Arc::new(config)).connect(name, tcp).await.unwrap();
        let (mut sender, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
        house.group.spawn(async move { drop(connection.await) });
        let (body, frames) = tokio::sync::mpsc::channel::<Bytes>(1);
        let frames = futures::stream::unfold(frames, async |mut frames| {
            let data = frames.recv().await?;
            Some((Ok::<_, Infallible>(hyper::body::Frame::data(data)), frames))
        });
        let body_of = BodyExt::boxed_unsync(http_body_util::StreamBody::new(Box::pin(frames)));
        let request = http::Request::post("https://x/").header("x-read", "1").body(body_of).unwrap();
        let reply = sender.send_request(request);
        body.send(Bytes::from_static(b"abc")).await.unwrap();
        // Those that come before the word arrives are served.
        let told = async {
            let another = || http::Request::get("https://x/").body(BodyExt::boxed_unsync(Empty::<Bytes>::new())).unwrap();
            while sender.clone().send_request(another()).await.is_ok() {}
        };
        tokio::pin!(reply);
        tokio::select! {
            () = told => {}
            _ = &mut reply => panic!("its body is not all there"),
            () = tokio::time::sleep(BOUND) => panic!("nobody told it to go"),
        }
        body.send(Bytes::from_static(b"de")).await.unwrap();
        drop(body);
        let reply = tokio::time::timeout(BOUND, reply).await.unwrap().unwrap();
        assert_eq!(reply.into_body().collect().await.unwrap().to_bytes(), "anonymous 5");
        assert!(house.group.drain(BOUND).await);
    }

    #[tokio::test]
    async fn those_who_say_nothing_make_way() {
        let house = house_for(Limits { arriving: 8, strangers: 8, known: 8 }, 0.0).await;
        let mut silent = Vec::new();
        for _ in 0..40 {
            silent.push(TcpStream::connect(house.address).await.unwrap());
            assert_eq!(house.ask(None, None).await, (200, "anonymous".into()));
        }
        assert!(house.group.drain(BOUND).await);
    }

    #[tokio::test]
    async fn in_process_callers_pass_the_same_way() {
        let user = crate::identity::User { name: "system:apiserver".into(), ..Default::default() };
        let peer = Peer::local(user);
        let request = http::Request::post("/").header("x-read", "1").body(http_body_util::Full::new(Bytes::from_static(b"abc"))).unwrap();
        let reply = in_process(tower::service_fn(who), peer).oneshot(request).await.unwrap();
        assert_eq!(reply.into_body().collect().await.unwrap().to_bytes(), "system:apiserver/ 3");
    }
}
