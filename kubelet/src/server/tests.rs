//! The whole server over real TLS, with a runtime's streaming server played by the test.

use std::sync::Arc;

use api::{certificate::Identity, task::Group};
use client::kube;
use http_body_util::{BodyExt, Empty};
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use tokio_rustls::TlsConnector;

use super::*;
use crate::{
    container_config::testing::pod,
    view::{ContainerView, PodView},
};

pub struct Ca {
    pub issuer: rcgen::Issuer<'static, rcgen::KeyPair>,
    pub pem: String,
    der: CertificateDer<'static>,
}

impl Ca {
    pub fn new() -> Self {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::new(Vec::<String>::new()).unwrap();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let certificate = params.self_signed(&key).unwrap();
        let (pem, der) = (certificate.pem(), certificate.der().clone());
        Self { issuer: rcgen::Issuer::new(params, key), pem, der }
    }

    fn issue(&self, name: &str, organization: &str) -> (rcgen::Certificate, rcgen::KeyPair) {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        params.distinguished_name.push(rcgen::DnType::OrganizationName, organization);
        (params.signed_by(&key, &self.issuer).unwrap(), key)
    }

    pub fn connector(&self, client: Option<(&str, &str)>) -> TlsConnector {
        let mut roots = RootCertStore::empty();
        roots.add(self.der.clone()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        let config = config.with_root_certificates(roots);
        TlsConnector::from(Arc::new(match client {
            None => config.with_no_client_auth(),
            Some((name, organization)) => {
                let (certificate, key) = self.issue(name, organization);
                let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
                config.with_client_auth_cert(vec![certificate.der().clone()], key).unwrap()
            }
        }))
    }
}

/// An API server that denies everything.
pub fn denying() -> kube::Client {
    let server = tower::service_fn(|_: http::Request<kube::client::Body>| async {
        let body = r#"{"metadata":{},"spec":{},"status":{"allowed":false,"authenticated":false}}"#;
        Ok::<_, Infallible>(http::Response::new(kube::client::Body::from(body.as_bytes().to_vec())))
    });
    kube::Client::new(server, "default")
}

async fn started(ca: &Ca, pods: Pods, group: &Group) -> SocketAddr {
    let runtime = Runtime::at(std::path::Path::new("/nowhere"));
    started_with(ca, Node { runtime, pods, client: denying(), metrics: Metrics::default(), stats: Stats::default() }, group).await
}

pub async fn started_with(ca: &Ca, node: Node, group: &Group) -> SocketAddr {
    let (certificate, key) = ca.issue("system:node:n1", "system:nodes");
    let config = Config {
        address: "127.0.0.1:0".parse().unwrap(),
        serving: Serving::new(&certificate.pem(), &key.serialize_pem()).unwrap(),
        client_ca_pem: ca.pem.clone(),
        node_name: "n1".into(),
    };
    serve(config, node, group).await.unwrap()
}

pub async fn get(address: SocketAddr, connector: &TlsConnector, path: &str) -> std::io::Result<(u16, String)> {
    let socket = TcpStream::connect(address).await?;
    let stream = connector.connect(ServerName::try_from("localhost").unwrap(), socket).await?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(std::io::Error::other)?;
    let group = Group::new();
    group.spawn(async move { drop(connection.await) });
    let request = http::Request::builder().uri(path).header("host", "localhost").body(Empty::<bytes::Bytes>::new()).unwrap();
    let answer = sender.send_request(request).await.map_err(std::io::Error::other)?;
    let code = answer.status().as_u16();
    let body = answer.into_body().collect().await.map_err(std::io::Error::other)?.to_bytes();
    Ok((code, String::from_utf8_lossy(&body).into_owned()))
}

fn one_pod(log: &std::path::Path) -> Pods {
    let mut p = pod(r#"{"containers":[{"name":"a"}]}"#);
    p.status = serde_json::from_str(r#"{"phase":"Pending"}"#).unwrap();
    // The loop's own is newer than the object's.
    let status = serde_json::from_str(
        r#"{"phase":"Running","containerStatuses":[{"name":"a","image":"","imageID":"","ready":true,"restartCount":0,"containerID":"containerd://x","state":{"running":{}}}]}"#,
    )
    .unwrap();
    let container = ContainerView { name: "a".into(), id: "x".into(), attempt: 0, running: true, log_path: log.to_owned() };
    let pods = Pods::default();
    pods.put("u1", PodView { pod: Arc::new(p), status: Some(Arc::new(status)), containers: vec![container], ..PodView::default() });
    pods
}

/// Issues certificates of a short life, each with a key of its own.
fn short_lived(ca: &Arc<Ca>) -> crate::Issuer {
    let ca = ca.clone();
    Arc::new(move || {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        let (epoch, now) = (rcgen::date_time_ymd(1970, 1, 1), api::time::Timestamp::now().as_second().unsigned_abs());
        (params.not_before, params.not_after) = (epoch + Duration::from_secs(now), epoch + Duration::from_secs(now + 4));
        let certificate = params.signed_by(&key, &ca.issuer).unwrap();
        Box::pin(std::future::ready(Ok(Identity { chain_pem: certificate.pem(), key_pem: key.serialize_pem() })))
    })
}

async fn shown(address: SocketAddr, connector: &TlsConnector) -> Vec<u8> {
    let socket = TcpStream::connect(address).await.unwrap();
    let stream = connector.connect(ServerName::try_from("localhost").unwrap(), socket).await.expect("a certificate that is good now");
    stream.get_ref().1.peer_certificates().unwrap()[0].to_vec()
}

#[tokio::test]
async fn the_certificate_is_renewed_before_it_expires() {
    let (ca, group) = (Arc::new(Ca::new()), Group::new());
    let serving = crate::serving::start(short_lived(&ca), &group).await.unwrap();
    let config = Config { address: "127.0.0.1:0".parse().unwrap(), serving, client_ca_pem: ca.pem.clone(), node_name: "n1".into() };
    let runtime = Runtime::at(std::path::Path::new("/nowhere"));
    let node = Node { runtime, pods: Pods::default(), client: denying(), metrics: Metrics::default(), stats: Stats::default() };
    let address = serve(config, node, &group).await.unwrap();
    let (connector, mut seen) = (ca.connector(None), std::collections::BTreeSet::new());
    // Two renewals: longer than the first certificate lives. Every handshake on the way checks what is shown.
    let renewed = async {
        while seen.len() < 3 {
            seen.insert(shown(address, &connector).await);
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), renewed).await.expect("two renewals");
    group.stop();
}

#[tokio::test]
async fn who_is_not_known_or_not_allowed_gets_nothing() {
    let (ca, group) = (Ca::new(), Group::new());
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("0.log");
    std::fs::write(&log, "2026-01-02T03:04:05Z stdout F hello\n").unwrap();
    let address = started(&ca, one_pod(&log), &group).await;
    let master = ca.connector(Some(("kube-apiserver-kubelet-client", "system:masters")));

    assert_eq!(get(address, &ca.connector(None), "/pods").await.unwrap(), (401, "Unauthorized".into()));
    let (code, text) = get(address, &ca.connector(Some(("alice", "people"))), "/pods").await.unwrap();
    assert_eq!((code, text.as_str()), (403, "Forbidden (user=alice, verb=get, resource=nodes, subresource(s)=[pods proxy])\n"));
    let foreign = {
        let other = Ca::new();
        let (certificate, key) = other.issue("kube-apiserver-kubelet-client", "system:masters");
        let mut roots = RootCertStore::empty();
        roots.add(ca.der.clone()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        TlsConnector::from(Arc::new(
            config.with_root_certificates(roots).with_client_auth_cert(vec![certificate.der().clone()], key).unwrap(),
        ))
    };
    assert!(get(address, &foreign, "/pods").await.is_err(), "a foreign certificate ends the handshake");

    let (code, pods) = get(address, &master, "/pods").await.unwrap();
    let list: serde_json::Value = serde_json::from_str(&pods).unwrap();
    let item = &list["items"][0];
    assert_eq!((code, &list["kind"], list["items"].as_array().map(Vec::len)), (200, &"PodList".into(), Some(1)), "{pods}");
    assert_eq!((&item["metadata"]["name"], &item["status"]["phase"]), (&"web".into(), &"Running".into()), "{pods}");
    assert_eq!(get(address, &master, "/healthz").await.unwrap(), (200, "ok".into()));
    assert_eq!(get(address, &master, "/containerLogs/default/web/a").await.unwrap(), (200, "hello\n".into()));
    assert_eq!(get(address, &master, "/containerLogs/default/web/b").await.unwrap().0, 404);
    assert_eq!(get(address, &master, "/containerLogs/default/no/a").await.unwrap(), (404, r#"pod "no" does not exist"#.into()));
    // Without cgroups there is nothing to tell.
    assert_eq!(get(address, &master, "/stats/summary").await.unwrap(), (500, "Internal Error: this node has no cgroups".into()));
    assert!(get(address, &master, "/metrics/resource").await.unwrap().1.ends_with("\nscrape_error 1\n"));
    let (code, text) = get(address, &ca.connector(Some(("alice", "people"))), "/stats/summary").await.unwrap();
    assert_eq!((code, text.as_str()), (403, "Forbidden (user=alice, verb=get, resource=nodes, subresource(s)=[stats])\n"));
    assert_eq!(get(address, &master, "/nothing").await.unwrap().0, 404);
    assert_eq!(get(address, &master, "/run/default/web/a").await.unwrap().0, 405);
    assert!(get(address, &master, "/metrics").await.unwrap().1.contains("kubelet_running_containers{container_state=\"running\"} 1"));
    assert!(group.drain(Duration::from_secs(5)).await);
}

#[tokio::test]
async fn routes_are_judged_before_they_run_and_a_panic_is_an_answer() {
    let ran = Arc::new(std::sync::Mutex::new(Vec::new()));
    let runs = ran.clone();
    let routes = route::router(move |handler, request: Request| {
        runs.lock().unwrap().push(request.uri().to_string());
        async move { if handler == Handler::Pods { panic!("no way on") } else { text(StatusCode::OK, "ran") } }
    });
    let (door, seats) = (door(routes, Auth::new(denying(), "n1")), Seats::new(CONNECTIONS_MAX));
    let seat = Arc::new(seats.arrive([127, 0, 0, 1].into()).unwrap());
    let ask = async |name: &str, group: &str, uri: &str| {
        let user = auth::User { name: name.into(), groups: vec![group.into()], ..auth::User::default() };
        let caller = Caller { peer: Arc::new((!name.is_empty()).then_some(user)), seat: seat.clone() };
        let request = http::Request::get(uri).extension(caller).body(Body::empty()).unwrap();
        let (parts, body) = door.clone().oneshot(request).await.unwrap().into_parts();
        (parts.status.as_u16(), String::from_utf8(body.collect().await.unwrap().to_bytes().to_vec()).unwrap())
    };
    for uri in ["/metrics", "/%6detrics", "/pods", "//exec/a/b/c", "/exec//a/b/c", "/nothing"] {
        assert_eq!(ask("", "", uri).await.0, 401, "{uri}");
        assert_eq!(ask("alice", "people", uri).await.0, 403, "{uri}");
    }
    assert!(ran.lock().unwrap().is_empty());
    for (uri, code, seen) in [
        ("/metrics", 200, Some("/metrics")),
        ("/%6detrics?x=%31", 200, Some("/metrics?x=%31")),
        ("/exec//a/b/c/?command=%20", 200, Some("/exec/a/b/c?command=%20")),
        ("/exec/a/b%2fc/d", 200, Some("/exec/a/b%2Fc/d")),
        ("/pods", 500, Some("/pods")),
        ("//exec/a/b/c", 404, None),
        ("/%2fpods", 404, None),
        ("/nothing", 404, None),
        ("/healthz", 200, Some("/healthz")),
    ] {
        assert_eq!(ask("root", "system:masters", uri).await.0, code, "{uri}");
        assert_eq!(ran.lock().unwrap().pop().as_deref(), seen, "{uri}");
    }
}

/// Many who say nothing, and some who say too much.
#[tokio::test]
async fn floods_leave_room_for_others() {
    let (ca, group) = (Ca::new(), Group::new());
    let address = started(&ca, Pods::default(), &group).await;
    let master = ca.connector(Some(("kube-apiserver-kubelet-client", "system:masters")));
    let (stranger, mut kept, mut idle) = (ca.connector(None), Vec::new(), Vec::new());
    // More than half of a room: what one address may take.
    for n in 0..300 {
        let mut socket = TcpStream::connect(address).await.unwrap();
        if n % 2 == 0 {
            socket.write_all(b"\x16\x03\x01\x02").await.unwrap();
        }
        kept.push(socket);
        if n % 2 == 0 {
            let socket = TcpStream::connect(address).await.unwrap();
            let name = ServerName::try_from("localhost").unwrap();
            idle.push(stranger.connect(name, socket).await.expect("a handshake among those that do not end"));
        }
        if n % 50 == 49 {
            assert_eq!(get(address, &master, "/healthz").await.unwrap(), (200, "ok".into()));
        }
    }
    for (sent, answer) in [
        (format!("GET /healthz HTTP/1.1\r\nhost: x\r\nx: {}\r\n\r\n", "y".repeat(2 * HEADER_BYTES_MAX)), "HTTP/1.1 431"),
        (format!("GET /healthz HTTP/1.1\r\n{}\r\n", "x: y\r\n".repeat(5000)), "HTTP/1.1 431"),
        ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_owned(), "HTTP/1.1 400"),
    ] {
        let socket = TcpStream::connect(address).await.unwrap();
        let mut stream = master.connect(ServerName::try_from("localhost").unwrap(), socket).await.unwrap();
        let mut heard = [0; 12];
        // What was not read may cost the answer: the connection is reset.
        let talk = async { stream.write_all(sent.as_bytes()).await.is_ok() && stream.read_exact(&mut heard).await.is_ok() };
        let is_answered = tokio::time::timeout(Duration::from_secs(20), talk).await.expect("an answer, or the end");
        assert!(!is_answered || heard == *answer.as_bytes(), "{:?} is not {answer}", str::from_utf8(&heard));
    }
    assert_eq!(get(address, &master, "/healthz").await.unwrap(), (200, "ok".into()));
    assert!(group.drain(Duration::from_secs(5)).await);
}

/// A streaming server that answers one upgrade and echoes.
async fn echoing(listener: TcpListener) -> String {
    let (mut socket, _) = listener.accept().await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(socket.read_u8().await.unwrap());
    }
    socket
        .write_all(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\nX-Stream-Protocol-Version: v4.channel.k8s.io\r\n\r\n")
        .await
        .unwrap();
    let (mut from, mut to) = socket.split();
    tokio::io::copy(&mut from, &mut to).await.unwrap();
    String::from_utf8(head).unwrap()
}

#[tokio::test]
async fn an_upgrade_is_joined_byte_for_byte() {
    let runtime = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/exec/token", runtime.local_addr().unwrap());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let group = Group::new();
    let streams = group.clone();
    group.spawn(async move {
        let (socket, _) = listener.accept().await.unwrap();
        let service = hyper::service::service_fn(move |request| {
            let (url, group) = (url.clone(), streams.clone());
            async move { Ok::<_, Infallible>(proxy::forward(request, &url, &group).await) }
        });
        drop(hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(socket), service).with_upgrades().await);
    });
    let talk = async {
        let mut socket = TcpStream::connect(address).await.unwrap();
        let head = "POST /exec/ns/p/c?command=sh HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer secret\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\nX-Stream-Protocol-Version: v4.channel.k8s.io\r\nContent-Length: 0\r\n\r\n";
        socket.write_all(head.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        while !answer.ends_with(b"\r\n\r\n") {
            answer.push(socket.read_u8().await.unwrap());
        }
        let answer = String::from_utf8(answer).unwrap().to_lowercase();
        assert!(answer.starts_with("http/1.1 101") && answer.contains("x-stream-protocol-version: v4.channel.k8s.io"), "{answer}");
        let sent: Vec<u8> = (0..300_000u32).map(|i| (i % 251) as u8).collect();
        let (mut from, mut to) = socket.split();
        let mut heard = vec![0; sent.len()];
        let (wrote, read) = tokio::join!(to.write_all(&sent), from.read_exact(&mut heard));
        wrote.unwrap();
        read.unwrap();
        assert!(heard == sent);
        to.shutdown().await.unwrap();
    };
    let (head, ()) = tokio::time::timeout(Duration::from_secs(20), async { tokio::join!(echoing(runtime), talk) }).await.unwrap();
    assert!(head.starts_with("POST /exec/token HTTP/1.1\r\n"), "{head}");
    assert!(!head.to_lowercase().contains("authorization"), "{head}");
}
