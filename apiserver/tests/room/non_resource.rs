//! Routes beside the resources: what comes to them was authorized as they see it, and what goes wrong with them harms nobody else.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use apiserver::{
    body::Body,
    discovery::Discovery,
    engine::Engine,
    front::{self, Front},
    health::Health,
    identity::{Attributes, Auth, Authorizer, Decision, Peer, User},
    metrics::Metrics,
    non_resource::{Router, non_resource_routes},
    version, wire,
};
use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tower::ServiceExt;

use crate::kit::{self, PLACES, Reply, Room};

/// A route that says its path, and how often it ran.
fn counted(paths: &[&str]) -> (Router, Arc<AtomicUsize>) {
    let ran = Arc::<AtomicUsize>::default();
    let count = ran.clone();
    let routes = non_resource_routes(paths, move |request| {
        count.fetch_add(1, Ordering::SeqCst);
        let path = request.uri.path().to_owned();
        assert_eq!(front::user_of(&request).map(|user| user.name.as_str()), Some("tester"));
        async move { Some(wire::text(StatusCode::OK, path)) }
    });
    (routes, ran)
}

async fn with(routes: Router) -> Room {
    Room::behind(store::memory::Memory::new(), Vec::new(), |front| front.mount(routes)).await
}

async fn as_nobody(room: &Room, path: &str) -> u16 {
    room.raw("GET", path, "", &[("authorization", "Bearer token-nobody")]).await.code
}

#[tokio::test]
async fn a_route_that_is_mounted_is_authorized_before_it_runs() {
    let (routes, ran) = counted(&["/console", "/console/{*page}", "/apis/far.io/v1/{*rest}"]);
    let room = with(routes).await;
    for path in ["/console", "/console/a/b", "/apis/far.io/v1/namespaces/a/things/b"] {
        let before = (ran.load(Ordering::SeqCst), room.refused.load(Ordering::SeqCst));
        assert_eq!(as_nobody(&room, path).await, 403, "{path}");
        let wrong = room.raw("GET", path, "", &[("authorization", "Bearer nobody-knows")]).await;
        assert_eq!(wrong.code, 401, "{path}");
        assert_eq!((ran.load(Ordering::SeqCst), room.refused.load(Ordering::SeqCst)), (before.0, before.1 + 1), "{path}");
        let reply = room.get(path).await;
        assert_eq!((reply.code, reply.body.as_ref()), (200, path.as_bytes()));
        assert_eq!(ran.load(Ordering::SeqCst), before.0 + 1, "{path}");
    }
}

#[tokio::test]
async fn what_has_no_route_is_answered_as_before() {
    let (routes, ran) = counted(&["/console"]);
    let room = with(routes).await;
    // No redirect, no 405 of the router's.
    for (method, path) in [("GET", "/console/"), ("GET", "//console"), ("GET", "/Console"), ("POST", "/nowhere"), ("OPTIONS", "/")] {
        let reply = room.raw(method, path, "", &[]).await;
        assert_eq!((reply.code, reply.body.as_ref()), (404, &b"404 page not found\n"[..]), "{method} {path}");
        assert_eq!(reply.headers["content-type"], "text/plain; charset=utf-8");
        assert!(!reply.headers.contains_key("allow") && !reply.headers.contains_key("location"), "{method} {path}");
    }
    for method in ["GET", "HEAD", "POST", "DELETE", "OPTIONS", "TRACE"] {
        let reply = room.raw(method, "/console", "", &[]).await;
        assert_eq!((reply.code, reply.body.as_ref()), (200, &b"/console"[..]), "{method}");
    }
    assert_eq!(ran.load(Ordering::SeqCst), 6);
    room.raw("PUT", PLACES, "{}", &[]).await.refused(405, "the server does not allow this method on the requested resource");
}

/// Allows everything and remembers what it was asked: the path, and whether it is about a resource.
#[derive(Default)]
struct Recorder(Mutex<Vec<(String, bool)>>);

impl Authorizer for Recorder {
    fn authorize(&self, asked: &Attributes<'_>) -> Decision {
        self.0.lock().push((asked.path.to_owned(), asked.resource_request));
        Decision::Allow(String::new())
    }
}

/// The ways to write a path that leads to the same place for whoever is careless.
fn disguises(path: &str) -> Vec<String> {
    let inner = path.trim_start_matches('/');
    let all_encoded: String = inner.bytes().map(|byte| format!("%{byte:02x}")).collect();
    let mut forms = vec![format!("/{all_encoded}")];
    for (from, to) in [("/", "//"), ("/", "%2f"), ("/", "/./"), ("/", "/x/../"), ("a", "%61"), ("o", "%6F"), (".", "%2e"), ("s", "%2573")] {
        for (at, _) in path.match_indices(from) {
            forms.push(format!("{}{to}{}", &path[..at], &path[at + from.len()..]));
        }
    }
    for around in ["/{}", "{}/", "{}//", "{}%2f", "{}%00", "{};x", "{}?x", "{}%zz", "/%2e{}", "/%2e%2e{}", "/%2f{}"] {
        forms.push(around.replace("{}", path));
    }
    forms
}

#[tokio::test]
async fn no_disguise_of_a_path_reaches_a_handler_that_authorization_did_not_see() {
    let (recorder, seen) = (Arc::<Recorder>::default(), Arc::<Mutex<Vec<String>>>::default());
    let auth = Auth { authorizers: vec![recorder.clone()], ..Auth::default() };
    let group = api::task::Group::new();
    let engine = Engine::new(Arc::new(store::memory::Memory::new()), kit::kinds(), auth, group.clone());
    engine.ready().await;
    let sees = seen.clone();
    let routes = non_resource_routes(&["/console", "/console/{*page}", "/apis/far.io/v1/{*rest}"], move |request| {
        sees.lock().push(request.uri.path().to_owned());
        async { Some(wire::text(StatusCode::OK, "")) }
    });
    let front = Front::builder(engine).mount(routes).build();
    let plain = ["/console", "/console/pages/a", "/apis/far.io/v1/namespaces/a/things/so", "/apis/far.io/v1/things"];
    let paths = plain.iter().flat_map(|path| disguises(path)).chain(plain.map(str::to_owned));
    let mut reached = 0;
    for path in paths {
        recorder.0.lock().clear();
        let user = User { name: "tester".into(), ..User::default() };
        let peer = Peer::local(user);
        let Ok(request) = Request::builder().uri(&path).extension(peer).body(Body::empty()) else { continue };
        let reply = front.clone().oneshot(request).await.unwrap();
        let asked = std::mem::take(&mut *recorder.0.lock());
        let Some(at) = std::mem::take(&mut *seen.lock()).pop() else {
            assert!([400, 404].contains(&reply.status().as_u16()), "{path}: {}", reply.status());
            continue;
        };
        reached += 1;
        let is_resource = at.starts_with("/apis/");
        assert_eq!(asked, [(at.clone(), is_resource)], "{path}");
        assert!(!at.contains('%') && !at.starts_with("//"), "{at}");
    }
    assert!(reached > plain.len(), "{reached}");
    group.stop();
}

#[tokio::test]
async fn a_handler_that_panics_answers_500_and_the_connection_lives_on() {
    let (routes, ran) = counted(&["/console"]);
    let broken = non_resource_routes(&["/broken"], async |_| panic!("no way on"));
    let room = with(routes.merge(broken)).await;
    let (ours, theirs) = tokio::io::duplex(64 << 10);
    let front = room.front.clone();
    let service = hyper::service::service_fn(move |mut request: Request<hyper::body::Incoming>| {
        let user = User { name: "tester".into(), ..User::default() };
        request.extensions_mut().insert(Peer::local(user));
        front.clone().oneshot(request)
    });
    room.group.spawn(async move { drop(hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(theirs), service).await) });
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(ours)).await.unwrap();
    room.group.spawn(async move { drop(connection.await) });
    let mut ask = async |path: &str| {
        let request = Request::get(path).header("host", "x").body(Full::new(Bytes::new())).unwrap();
        let (parts, body) = sender.send_request(request).await.unwrap().into_parts();
        Reply { code: parts.status.as_u16(), headers: parts.headers, body: body.collect().await.unwrap().to_bytes() }
    };
    for path in ["/broken", "/broken"] {
        ask(path).await.refused(500, "the request handler panicked");
        assert_eq!(ask("/console").await.code, 200);
    }
    assert_eq!(ran.load(Ordering::SeqCst), 2);
    // It holds nothing of what all share.
    assert!(room.front.metrics().text().contains("apiserver_current_inflight_requests{request_kind=\"readOnly\"} 0"));
}

#[tokio::test]
async fn an_upgrade_passes_the_router_and_nothing_is_added_to_its_head() {
    let (group, (ours, theirs)) = (api::task::Group::new(), tokio::io::duplex(64 << 10));
    let streams = group.clone();
    let tunnel = non_resource_routes(&["/tunnel"], move |parts| {
        let upgrade = hyper::upgrade::on(Request::from_parts(parts, ()));
        streams.spawn(async move {
            let (mut from, mut to) = tokio::io::split(TokioIo::new(upgrade.await.unwrap()));
            tokio::io::copy(&mut from, &mut to).await.unwrap();
        });
        let reply = http::Response::builder().status(101).header("connection", "Upgrade").header("upgrade", "echo");
        std::future::ready(Some(reply.body(Body::empty()).unwrap()))
    });
    let room = with(tunnel).await;
    let front = room.front.clone();
    let service = hyper::service::service_fn(move |mut request: Request<hyper::body::Incoming>| {
        let user = User { name: "tester".into(), ..User::default() };
        request.extensions_mut().insert(Peer::local(user));
        front.clone().oneshot(request)
    });
    let serving = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(theirs), service).with_upgrades();
    group.spawn(async move { drop(serving.await) });
    let (mut from, mut to) = tokio::io::split(ours);
    to.write_all(b"GET /tunnel HTTP/1.1\r\nhost: x\r\nconnection: Upgrade\r\nupgrade: echo\r\n\r\n").await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(from.read_u8().await.unwrap());
    }
    let head = String::from_utf8(head).unwrap();
    let mut lines: Vec<&str> = head.lines().filter(|line| !line.is_empty() && !line.starts_with("date:")).collect();
    lines.sort_unstable();
    assert_eq!(lines, ["HTTP/1.1 101 Switching Protocols", "cache-control: no-cache, private", "connection: Upgrade", "upgrade: echo"]);
    to.write_all(b"there and back").await.unwrap();
    let mut heard = [0; 14];
    from.read_exact(&mut heard).await.unwrap();
    assert_eq!(&heard, b"there and back");
    group.stop();
}

#[tokio::test]
async fn the_servers_own_sites_have_their_paths_and_no_others() {
    let house = api::task::Group::new();
    let mounted = |front: front::Builder| {
        let discovery = Discovery::default().routes(front.engine().clone());
        front.mount(Health::new(&house).routes()).mount(version::routes()).mount(Metrics::new().routes()).mount(discovery)
    };
    let room = Room::behind(store::memory::Memory::new(), Vec::new(), mounted).await;
    let there = [
        ("GET", "/healthz"),
        ("POST", "/healthz/"),
        ("GET", "/livez/ping"),
        ("GET", "/readyz/shutdown"),
        ("GET", "/version"),
        ("DELETE", "/version/"),
        ("GET", "/metrics"),
        ("GET", "/"),
        ("GET", "/api"),
        ("HEAD", "/apis"),
        ("GET", "/apis/"),
        ("GET", "/apis/test.io"),
        ("GET", "/apis/test.io/v1/"),
    ];
    for (method, path) in there {
        let reply = room.raw(method, path, "", &[]).await;
        assert_eq!(reply.code, 200, "{method} {path}");
        // That is for the connection to say.
        assert!(!reply.body.is_empty() && !reply.headers.contains_key("content-length"), "{method} {path}");
    }
    for path in ["/healthz//", "/healthz/none", "/healthz/ping/", "/version//", "/version/x", "/metrics/", "/apis/none", "/apis/test.io/v9"]
    {
        let reply = room.get(path).await;
        assert_eq!((reply.code, reply.body.as_ref()), (404, &b"404 page not found\n"[..]), "{path}");
    }
    for (method, path, code) in [("POST", "/apis/test.io", 405), ("POST", "/apis/none", 404), ("POST", "/", 404), ("HEAD", "/", 404)] {
        assert_eq!(room.raw(method, path, "", &[]).await.code, code, "{method} {path}");
    }
    // A reply without a body has no length either.
    let accept = ("accept", "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList");
    let tag = room.raw("GET", "/apis", "", &[accept]).await.headers["etag"].to_str().unwrap().to_owned();
    let known = room.raw("GET", "/apis", "", &[accept, ("if-none-match", &tag)]).await;
    assert_eq!((known.code, known.body.len(), known.headers.get("content-length")), (304, 0, None));
    house.stop();
}
