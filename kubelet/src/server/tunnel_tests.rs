//! API server, tunnel and node agent, all over real TLS; the node's own address leads nowhere. The runtime and its streaming server are played by the test.

use std::{
    path::Path,
    sync::atomic::{AtomicUsize, Ordering},
};

use api::{
    certificate::Identity,
    k8s::api::core::v1::{Node as NodeObject, Pod},
};
use apiserver::{
    serve,
    tls::{Tls, client_config},
};
use bytes::Bytes;
use client::{
    certificate::tls as identity_tls,
    kube::{Api, api::PostParams},
    transport::{Server as ApiServer, Transport},
    tunnel,
};
use door::{Door, until};
use http_body_util::{BodyExt, Empty, StreamBody};
use hyper::{client::conn::http1, upgrade};
use hyper_util::rt::TokioExecutor;
use rustls_pki_types::ServerName;
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixListener,
};
use tokio_rustls::TlsConnector;

use super::{tests::denying, *};
use crate::view::{ContainerView, PodView};

const BOUND: Duration = Duration::from_secs(60);
/// TEST-NET-3 (RFC 5737): nobody is there.
const NOWHERE: &str = "203.0.113.7";
const WEB: &str = "/api/v1/namespaces/default/pods/web";
const PATH: &str = "/skiff/v1/tunnels/";
const LOG_BYTES: usize = 3 << 20;

/// A server, and a node that it cannot call.
struct House {
    door: Door,
    address: SocketAddr,
    /// How often a tunnel was asked for.
    asked: Arc<AtomicUsize>,
    transport: Transport,
    group: Group,
    _dir: tempfile::TempDir,
}

type Talk = TokioIo<upgrade::Upgraded>;

impl House {
    /// With a tunnel that stands.
    async fn new() -> Self {
        let house = Self::without_tunnel().await;
        tunnel::keep(&house.transport, "n1", house.agent().await, &house.group);
        until("a tunnel", async || (house.door.agents.tunnels().len() == 1).then_some(())).await;
        house
    }

    async fn without_tunnel() -> Self {
        let (dir, group) = (tempfile::tempdir().unwrap(), Group::new());
        let door = Door::new(&group).await;
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, asked) = (listener.local_addr().unwrap(), Arc::<AtomicUsize>::default());
        let (front, count) = (door.front.clone(), asked.clone());
        let counted = tower::service_fn(move |request: apiserver::body::Request| {
            if request.uri().path().starts_with(PATH) {
                count.fetch_add(1, Ordering::Relaxed);
            }
            front.clone().oneshot(request)
        });
        let (seats, tls) = (Seats::new(serve::CONNECTIONS_MAX), Arc::new(Tls::new(&door.certs).unwrap()));
        let server = serve::serve(listener, seats, tls, counted, group.clone(), 0.0);
        group.spawn(async move { server.await.unwrap() });
        let identity = identity(&door, "n1");
        let servers = vec![ApiServer::parse(&format!("https://{address}")).unwrap()];
        let transport = Transport::new(servers, identity_tls(door.certs.ca(), Some(&identity)).unwrap(), &group);
        let house = Self { door, address, asked, transport, group, _dir: dir };
        house.objects().await;
        house
    }

    async fn objects(&self) {
        let (nodes, pods) = (Api::<NodeObject>::all(self.door.admin()), Api::<Pod>::namespaced(self.door.admin(), "default"));
        let node = json!({"metadata": {"name": "n1"}, "status": {
            "addresses": [{"type": "InternalIP", "address": NOWHERE}], "daemonEndpoints": {"kubeletEndpoint": {"Port": 10250}}}});
        nodes.create(&PostParams::default(), &serde_json::from_value(node).unwrap()).await.unwrap();
        self.door.make_account().await;
        let pod = json!({"metadata": {"name": "web"}, "spec": {"nodeName": "n1", "containers": [{"name": "a", "image": "i"}]}});
        pods.create(&PostParams::default(), &serde_json::from_value(pod).unwrap()).await.unwrap();
    }

    /// The agent of node n1, with a pod and a log of [`LOG_BYTES`].
    async fn agent(&self) -> SocketAddr {
        let (log, socket) = (self._dir.path().join("0.log"), self._dir.path().join("cri.sock"));
        let line = format!("2026-01-02T03:04:05Z stdout F {}\n", "x".repeat(1023));
        std::fs::write(&log, line.repeat(LOG_BYTES / 1024)).unwrap();
        runtime(&socket, &self.group).await;
        let served = self.door.certs.issue_node("n1", &[NOWHERE.parse().unwrap()]).unwrap();
        let config = Config {
            address: "127.0.0.1:0".parse().unwrap(),
            serving: Serving::new(&served.chain_pem, &served.key_pem).unwrap(),
            client_ca_pem: self.door.certs.ca().to_owned(),
            node_name: "n1".into(),
        };
        let node = Node {
            runtime: Runtime::at(&socket),
            pods: pods(&log),
            client: denying(),
            metrics: Metrics::default(),
            stats: crate::stats::Stats::default(),
        };
        serve_agent(config, node, &self.group).await
    }

    async fn connected(&self, shown: &Identity) -> http1::SendRequest<Empty<Bytes>> {
        let config = client_config(self.door.certs.ca(), shown).unwrap();
        let tcp = TcpStream::connect(self.address).await.unwrap();
        let name = ServerName::try_from("127.0.0.1").unwrap();
        let stream = TlsConnector::from(Arc::new(config)).connect(name, tcp).await.unwrap();
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
        self.group.spawn(async move { drop(connection.with_upgrades().await) });
        sender
    }

    async fn ask(&self, shown: &Identity, method: Method, path: &str, upgrade: Option<&str>) -> http::Response<Incoming> {
        let mut request = http::Request::builder().method(method).uri(path).header("host", "x");
        if let Some(protocol) = upgrade {
            request = request.header("connection", "Upgrade").header("upgrade", protocol);
        }
        if upgrade == Some("websocket") {
            request = request.header("sec-websocket-protocol", "v4.channel.k8s.io").header("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==");
            request = request.header("sec-websocket-version", "13");
        }
        let mut sender = self.connected(shown).await;
        let sent = sender.send_request(request.body(Empty::new()).unwrap());
        tokio::time::timeout(BOUND, sent).await.expect("an answer").unwrap()
    }

    fn admin(&self) -> Identity {
        self.door.certs.issue_client("admin", Some("system:masters")).unwrap()
    }

    async fn get(&self, path: &str) -> (u16, String) {
        let answer = self.ask(&self.admin(), Method::GET, path, None).await;
        let code = answer.status().as_u16();
        let body = tokio::time::timeout(BOUND, answer.into_body().collect()).await.expect("a body").unwrap().to_bytes();
        (code, String::from_utf8_lossy(&body).into_owned())
    }

    async fn talk(&self, method: Method, path: &str, protocol: &str) -> Talk {
        let answer = self.ask(&self.admin(), method, &format!("{WEB}/{path}"), Some(protocol)).await;
        assert_eq!(answer.status(), StatusCode::SWITCHING_PROTOCOLS, "{path}");
        TokioIo::new(upgrade::on(answer).await.unwrap())
    }

    async fn exec(&self) -> Talk {
        self.talk(Method::POST, "exec?command=cat&stdin=true&stdout=true", "SPDY/3.1").await
    }
}

fn identity(door: &Door, node: &str) -> Identity {
    door.certs.issue_client(&format!("system:node:{node}"), Some("system:nodes")).unwrap()
}

async fn serve_agent(config: Config, node: Node, group: &Group) -> SocketAddr {
    super::serve(config, node, group).await.unwrap()
}

fn pods(log: &Path) -> Pods {
    let pod = crate::container_config::testing::pod(r#"{"containers":[{"name":"a"}]}"#);
    let status = r#"{"containerStatuses":[{"name":"a","image":"","imageID":"","ready":true,"restartCount":0,"containerID":"containerd://x","state":{"running":{}}}]}"#;
    let container = ContainerView { name: "a".into(), id: "x".into(), attempt: 0, running: true, log_path: log.to_owned() };
    let view = PodView {
        pod: Arc::new(pod),
        status: Some(Arc::new(serde_json::from_str(status).unwrap())),
        sandbox_id: Some("s".into()),
        containers: vec![container],
    };
    let pods = Pods::default();
    pods.put("u1", view);
    pods
}

/// CRI, of which it knows how to lead streams to a server that echoes.
async fn runtime(socket: &Path, group: &Group) {
    let echo = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/stream", echo.local_addr().unwrap());
    let listener = UnixListener::bind(socket).unwrap();
    let in_group = group.clone();
    group.spawn(async move {
        while let Ok((stream, _)) = echo.accept().await {
            in_group.spawn(async move { drop(echoed(stream).await) });
        }
    });
    let in_group = group.clone();
    group.spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let url = url.clone();
            in_group.spawn(async move {
                let answer = hyper::service::service_fn(move |_| std::future::ready(Ok::<_, Infallible>(of_cri(&url))));
                drop(hyper::server::conn::http2::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), answer).await);
            });
        }
    });
}

/// `ExecResponse`, `AttachResponse` and `PortForwardResponse` are alike: field 1 is the URL.
fn of_cri(url: &str) -> http::Response<impl http_body::Body<Data = Bytes, Error = Infallible> + use<>> {
    let length = u8::try_from(url.len()).unwrap();
    let message = [&[0, 0, 0, 0, length + 2, 0x0a, length][..], url.as_bytes()].concat();
    let trailers = [(http::HeaderName::from_static("grpc-status"), http::HeaderValue::from_static("0"))].into_iter().collect();
    let frames = [http_body::Frame::data(Bytes::from(message)), http_body::Frame::trailers(trailers)];
    let body = StreamBody::new(futures::stream::iter(frames.map(Ok::<_, Infallible>)));
    http::Response::builder().header("content-type", "application/grpc").body(body).unwrap()
}

/// Takes whatever upgrade is asked for, then says what it hears; at a `!` it ends.
async fn echoed(mut stream: TcpStream) -> std::io::Result<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await?);
    }
    let head = String::from_utf8_lossy(&head).to_ascii_lowercase();
    let protocol = if head.contains("websocket") { "websocket" } else { "SPDY/3.1" };
    let answer = format!("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: {protocol}\r\n\r\n");
    stream.write_all(answer.as_bytes()).await?;
    let mut piece = vec![0; 16 << 10];
    loop {
        let count = stream.read(&mut piece).await?;
        if count == 0 || piece[..count].contains(&b'!') {
            return Ok(());
        }
        stream.write_all(&piece[..count]).await?;
    }
}

/// Bytes there and back, while both are under way.
async fn echoes(talk: &mut Talk, bytes: usize) {
    let sent: Vec<u8> = (0..bytes).map(|i| b'a' + (i % 23) as u8).collect();
    let mut heard = vec![0; bytes];
    let (mut from, mut to) = tokio::io::split(talk);
    let both = async { tokio::join!(to.write_all(&sent), from.read_exact(&mut heard)) };
    let (wrote, read) = tokio::time::timeout(BOUND, both).await.expect("in time");
    wrote.unwrap();
    read.unwrap();
    assert!(sent == heard);
}

#[tokio::test]
async fn what_a_node_without_a_port_serves_comes_through_its_tunnel() {
    let house = House::new().await;
    let (code, log) = house.get(&format!("{WEB}/log?container=a")).await;
    assert_eq!((code, log.len()), (200, LOG_BYTES));
    assert_eq!(house.get(&format!("{WEB}/log?container=a&limitBytes=3")).await, (200, "xxx".into()));
    let (code, metrics) = house.get("/api/v1/nodes/n1/proxy/metrics").await;
    assert_eq!((code, metrics.contains("kubelet_running_containers")), (200, true), "{metrics}");
    // The agent knows the API server by its certificate, as on its own port; its refusals are passed on.
    assert_eq!(house.get("/api/v1/nodes/n1/proxy/nothing").await.0, 404);
    for (method, path, protocol) in [
        (Method::POST, "exec?command=cat&stdin=true&stdout=true", "SPDY/3.1"),
        (Method::GET, "exec?command=cat&stdin=true&stdout=true", "websocket"),
        (Method::POST, "attach?stdin=true&stdout=true", "SPDY/3.1"),
        (Method::POST, "portforward", "SPDY/3.1"),
        (Method::GET, "portforward?ports=80", "websocket"),
    ] {
        let mut talk = house.talk(method, path, protocol).await;
        echoes(&mut talk, 10).await;
        echoes(&mut talk, 3 << 20).await;
        // The pod's end is passed on.
        talk.write_all(b"!").await.unwrap();
        let ended = tokio::time::timeout(BOUND, talk.read_u8()).await.expect("the end");
        assert!(ended.is_err(), "{path}");
    }
    let metrics = house.door.front.metrics().text();
    assert!(metrics.contains("skiff_tunnels 1\n"), "{metrics}");
    house.group.stop();
}

#[tokio::test]
async fn many_streams_at_once_and_one_that_nobody_reads() {
    let house = House::new().await;
    let mut stuck = house.exec().await;
    let flood = vec![b'x'; 64 << 10];
    let filled = async { while stuck.write_all(&flood).await.is_ok() {} };
    assert!(tokio::time::timeout(Duration::from_secs(2), filled).await.is_err(), "its windows are full");
    let mut talks = futures::future::join_all((0..64).map(|_| house.exec())).await;
    futures::future::join_all(talks.iter_mut().map(|talk| echoes(talk, 100_000))).await;
    assert_eq!(house.get(&format!("{WEB}/log?container=a&limitBytes=3")).await, (200, "xxx".into()));
    assert_eq!(house.asked.load(Ordering::Relaxed), 1, "all through one tunnel");
    house.group.stop();
}

#[tokio::test]
async fn a_node_opens_its_own_tunnel_and_nobody_opens_it_for_it() {
    let house = House::without_tunnel().await;
    let certs = &house.door.certs;
    let cases = [
        ("system:node:n2", Some("system:nodes"), 403),
        ("system:node:n1", None, 403),
        ("n1", Some("system:nodes"), 403),
        ("system:node:", Some("system:nodes"), 403),
        ("admin", Some("system:masters"), 403),
        ("system:node:n1", Some("system:masters"), 403),
    ];
    for (name, organization, code) in cases {
        let shown = certs.issue_client(name, organization).unwrap();
        let answer = house.ask(&shown, Method::GET, &format!("{PATH}n1"), Some("skiff-tunnel")).await;
        assert_eq!(answer.status().as_u16(), code, "{name} {organization:?}");
    }
    let own = certs.issue_client("system:node:n1", Some("system:nodes")).unwrap();
    for (path, upgrade, code) in [
        ("n2", Some("skiff-tunnel"), 403),
        ("", Some("skiff-tunnel"), 403),
        ("n1/", Some("skiff-tunnel"), 403),
        ("n1%2f", Some("skiff-tunnel"), 403),
        ("n1", None, 400),
        ("n1", Some("websocket"), 400),
    ] {
        assert_eq!(house.ask(&own, Method::GET, &format!("{PATH}{path}"), upgrade).await.status().as_u16(), code, "{path} {upgrade:?}");
    }
    assert!(house.door.agents.tunnels().is_empty());
    assert_eq!(house.ask(&own, Method::GET, &format!("{PATH}n1"), Some("skiff-tunnel")).await.status().as_u16(), 101);
    house.group.stop();
}

/// What a router does that translates addresses: it forgets connections.
struct Gateway {
    address: SocketAddr,
    flows: Group,
}

impl Gateway {
    async fn new(to: SocketAddr, group: &Group) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, flows) = (listener.local_addr().unwrap(), group.child());
        let in_group = flows.clone();
        group.spawn(async move {
            let mut first = true;
            while let Ok((mut from, _)) = listener.accept().await {
                // The first flow is forgotten when told so, the others live.
                let flows = if std::mem::take(&mut first) { in_group.clone() } else { Group::new() };
                flows.spawn(async move {
                    let Ok(mut to) = TcpStream::connect(to).await else { return };
                    drop(tokio::io::copy_bidirectional(&mut from, &mut to).await);
                });
            }
        });
        Self { address, flows }
    }
}

#[tokio::test]
async fn a_tunnel_that_is_cut_ends_its_streams_and_comes_again() {
    let house = House::without_tunnel().await;
    let router = Gateway::new(house.address, &house.group).await;
    house.transport.set_servers(vec![ApiServer::parse(&format!("https://{}", router.address)).unwrap()]);
    tunnel::keep(&house.transport, "n1", house.agent().await, &house.group);
    until("a tunnel", async || (house.door.agents.tunnels().len() == 1).then_some(())).await;
    let mut talk = house.exec().await;
    echoes(&mut talk, 10).await;
    router.flows.stop();
    let ended = tokio::time::timeout(BOUND, talk.read_u8()).await.expect("the stream ends with its tunnel");
    assert!(ended.is_err());
    until("the next tunnel", async || (house.asked.load(Ordering::Relaxed) == 2 && house.door.agents.tunnels().len() == 1).then_some(()))
        .await;
    echoes(&mut house.exec().await, 10).await;
    house.group.stop();
}

#[tokio::test]
async fn a_renewed_certificate_has_a_tunnel_before_the_old_one_goes() {
    let house = House::new().await;
    let mut talk = house.exec().await;
    house.transport.set_tls(identity_tls(house.door.certs.ca(), Some(&identity(&house.door, "n1"))).unwrap());
    until("another tunnel", async || (house.asked.load(Ordering::Relaxed) == 2).then_some(())).await;
    echoes(&mut house.exec().await, 1000).await;
    echoes(&mut talk, 100_000).await;
    assert_eq!(house.door.agents.tunnels().len(), 1);
    house.group.stop();
}

#[tokio::test]
async fn a_server_at_two_addresses_is_not_asked_for_ever() {
    let house = House::without_tunnel().await;
    let urls = [format!("https://{}", house.address), format!("https://localhost:{}", house.address.port())];
    house.transport.set_servers(urls.iter().map(|url| ApiServer::parse(url).unwrap()).collect());
    tunnel::keep(&house.transport, "n1", house.agent().await, &house.group);
    until("both were tried", async || (house.asked.load(Ordering::Relaxed) == 2).then_some(())).await;
    let again = async {
        while house.asked.load(Ordering::Relaxed) == 2 {
            tokio::time::sleep(Duration::from_millis(50)).await
        }
    };
    assert!(tokio::time::timeout(Duration::from_secs(5), again).await.is_err(), "they take each other's place in turn");
    echoes(&mut house.exec().await, 1000).await;
    house.group.stop();
}
