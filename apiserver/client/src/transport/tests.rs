//! Against servers with sockets and TLS: what is under test is how connections end.

use std::{
    convert::Infallible,
    sync::{
        LazyLock,
        atomic::{AtomicBool, AtomicU16, AtomicUsize, Ordering},
    },
};

use http_body_util::{BodyExt, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::{body::Incoming, server::conn::http2, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::{RootCertStore, ServerConfig, server::WebPkiClientVerifier};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tower::ServiceExt;

use super::*;
use crate::certificate::tls;
use api::certificate::Identity;

/// One authority for all tests.
static AUTHORITY: LazyLock<(String, String)> = LazyLock::new(|| {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    (params.self_signed(&key).unwrap().pem(), key.serialize_pem())
});

fn leaf(name: &str) -> Identity {
    let issuer = Issuer::from_ca_cert_pem(&AUTHORITY.0, KeyPair::from_pem(&AUTHORITY.1).unwrap()).unwrap();
    let mut params = CertificateParams::new(vec!["127.0.0.1".into()]).unwrap();
    params.distinguished_name.push(rcgen::DnType::CommonName, name);
    let key = KeyPair::generate().unwrap();
    Identity { chain_pem: params.signed_by(&key, &issuer).unwrap().pem(), key_pem: key.serialize_pem() }
}

/// A server that answers with its name, who it sees, and the token it was shown.
struct House {
    server: Server,
    group: Group,
    /// What it answers with.
    code: Arc<AtomicU16>,
    /// It takes connections, and does not shake hands.
    is_mute: Arc<AtomicBool>,
    connections: Arc<AtomicUsize>,
}

impl House {
    async fn open(name: &'static str) -> Self {
        let own = leaf(name);
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(AUTHORITY.0.as_bytes()).unwrap()).unwrap();
        let verifier = WebPkiClientVerifier::builder(Arc::new(roots)).allow_unauthenticated().build().unwrap();
        let chain = vec![CertificateDer::from_pem_slice(own.chain_pem.as_bytes()).unwrap()];
        let key = PrivateKeyDer::from_pem_slice(own.key_pem.as_bytes()).unwrap();
        let mut config = ServerConfig::builder().with_client_cert_verifier(verifier).with_single_cert(chain, key).unwrap();
        config.alpn_protocols = vec![b"h2".to_vec()];
        let (acceptor, listener) = (TlsAcceptor::from(Arc::new(config)), TcpListener::bind("127.0.0.1:0").await.unwrap());
        let server = Server::parse(&format!("https://{}", listener.local_addr().unwrap())).unwrap();
        let (group, code, connections) = (Group::new(), Arc::new(AtomicU16::new(200)), Arc::<AtomicUsize>::default());
        let (of_group, of_code, of_connections) = (group.clone(), code.clone(), connections.clone());
        let is_mute = Arc::<AtomicBool>::default();
        let of_mute = is_mute.clone();
        group.spawn(async move {
            let mut held = Vec::new();
            while let Ok((stream, _)) = listener.accept().await {
                of_connections.fetch_add(1, Ordering::Relaxed);
                if of_mute.load(Ordering::Relaxed) {
                    held.push(stream);
                    continue;
                }
                let (acceptor, code) = (acceptor.clone(), of_code.clone());
                of_group.spawn(async move {
                    let Ok(stream) = acceptor.accept(stream).await else { return };
                    let shown =
                        stream.get_ref().1.peer_certificates().and_then(|chain| x509_parser::parse_x509_certificate(&chain[0]).ok());
                    let seen = shown.map(|(_, c)| c.subject().iter_common_name().next().unwrap().as_str().unwrap().to_owned());
                    let seen = seen.unwrap_or_else(|| "nobody".into());
                    let answer = service_fn(|request: Request<Incoming>| {
                        let token = request.headers().get(AUTHORIZATION).map_or("-", |value| value.to_str().unwrap());
                        let text = format!("{name} {} {seen} {token}", request.uri().path());
                        // As of a watch: it is answered, and nothing happens.
                        let body = if request.uri().path() == "/watch" {
                            UnsyncBoxBody::new(StreamBody::new(futures::stream::pending::<Result<_, Infallible>>()))
                        } else {
                            UnsyncBoxBody::new(Full::<bytes::Bytes>::from(text))
                        };
                        let response = Response::builder().status(code.load(Ordering::Relaxed)).body(body).unwrap();
                        std::future::ready(Ok::<_, Infallible>(response))
                    });
                    let mut builder = http2::Builder::new(TokioExecutor::new());
                    builder.max_concurrent_streams(u32::try_from(connection::STREAMS_MAX).unwrap());
                    let _ = builder.serve_connection(TokioIo::new(stream), answer).await;
                });
            }
        });
        Self { server, group, code, is_mute, connections }
    }

    /// Its connections end with it.
    async fn close(&self) {
        self.group.drain(Duration::from_secs(5)).await;
    }
}

fn transport(servers: &[&House], group: &Group) -> Transport {
    let list = servers.iter().map(|house| house.server.clone()).collect();
    LazyLock::force(&AUTHORITY);
    Transport::new(list, tls(&AUTHORITY.0, None).unwrap(), group)
}

async fn asked(transport: &Transport) -> Result<String, String> {
    let request = Request::get("/version").body(Body::empty()).unwrap();
    let answer = transport.clone().oneshot(request).await.map_err(|error| error.to_string())?;
    let body = answer.into_body().collect().await.map_err(|error| error.to_string())?.to_bytes();
    Ok(String::from_utf8(body.to_vec()).unwrap())
}

/// Until it is answered so, within a bound.
async fn eventually(transport: &Transport, wanted: &str) {
    let mut last = None;
    let until = Instant::now() + Duration::from_secs(10);
    while Instant::now() < until {
        last = Some(asked(transport).await);
        if matches!(&last, Some(Ok(text)) if text == wanted) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("{wanted:?} was never answered, the last was {last:?}");
}

#[tokio::test]
async fn a_server_is_kept_while_it_is_good_and_the_next_taken_where_it_is_gone() {
    let (a, b, group) = (House::open("a").await, House::open("b").await, Group::new());
    let transport = transport(&[&a, &b], &group);
    let used = transport.used();
    for _ in 0..3 {
        assert_eq!(asked(&transport).await.unwrap(), "a /version nobody -");
    }
    assert_eq!((a.connections.load(Ordering::Relaxed), b.connections.load(Ordering::Relaxed)), (1, 0));
    assert_eq!(used.borrow().as_ref(), Some(&a.server));
    a.close().await;
    eventually(&transport, "b /version nobody -").await;
    assert_eq!(used.borrow().as_ref(), Some(&b.server));
    b.close().await;
    let mut last = String::new();
    let until = Instant::now() + Duration::from_secs(10);
    while Instant::now() < until && !(last.contains(&a.server.to_string()) && last.contains(&b.server.to_string())) {
        last = asked(&transport).await.expect_err("nobody is there");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(last.contains(&a.server.to_string()) && last.contains(&b.server.to_string()), "it tells of both: {last}");
    let c = House::open("c").await;
    transport.set_servers(vec![a.server.clone(), c.server.clone()]);
    eventually(&transport, "c /version nobody -").await;
}

async fn watched(transport: &Transport) -> Response<Streamed> {
    transport.clone().oneshot(Request::get("/watch").body(Body::empty()).unwrap()).await.unwrap()
}

/// A node watches each Secret of its pods by itself; its Lease is renewed all the same.
#[tokio::test]
async fn however_many_watches_are_open_the_next_request_is_answered() {
    let (a, group) = (House::open("a").await, Group::new());
    let transport = transport(&[&a], &group);
    let connections = || a.connections.load(Ordering::Relaxed);
    let answered = async || timeout(Duration::from_secs(10), asked(&transport)).await.expect("an answer in time").unwrap();
    let mut watches = Vec::new();
    for _ in 0..=2 * connection::STREAMS_MAX {
        watches.push(timeout(Duration::from_secs(10), watched(&transport)).await.expect("an answer in time"));
    }
    assert_eq!(connections(), 3);
    answered().await;
    watches.clear();
    answered().await;
    assert_eq!(connections(), 3, "there is room on those there are");
    assert_eq!(transport.connector.state.lock().open.len(), 2, "the first, and one to spare");
}

/// However many objects a pod names: a node opens no more connections than this.
#[tokio::test]
async fn a_server_is_not_flooded_with_connections() {
    let (a, group) = (House::open("a").await, Group::new());
    let transport = transport(&[&a], &group);
    asked(&transport).await.unwrap();
    let places: Vec<Place> = {
        let mut state = transport.connector.state.lock();
        let first = state.open[0].clone();
        state.open = vec![first.clone(); CONNECTIONS_MAX];
        std::iter::from_fn(|| first.place()).collect()
    };
    assert!(asked(&transport).await.unwrap_err().contains("too many requests are open"));
    drop(places);
    asked(&transport).await.unwrap();
    assert_eq!(a.connections.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn a_server_that_only_says_that_it_cannot_is_left_where_there_is_another() {
    let (a, b, group) = (House::open("a").await, House::open("b").await, Group::new());
    let both = transport(&[&a, &b], &group);
    a.code.store(503, Ordering::Relaxed);
    for _ in 0..TROUBLES_MAX {
        assert_eq!(asked(&both).await.unwrap(), "a /version nobody -");
    }
    assert_eq!(asked(&both).await.unwrap(), "b /version nobody -");
    let alone = transport(&[&a], &group);
    for _ in 0..2 * TROUBLES_MAX {
        assert_eq!(asked(&alone).await.unwrap(), "a /version nobody -");
    }
    assert_eq!(a.connections.load(Ordering::Relaxed), 2, "where there is no other it is kept");
}

#[tokio::test]
async fn a_new_certificate_is_shown_by_new_connections() {
    let (a, group) = (House::open("a").await, Group::new());
    let transport = transport(&[&a], &group);
    let with_token = transport.with_token("id.secret").unwrap();
    assert_eq!(asked(&with_token).await.unwrap(), "a /version nobody Bearer id.secret");
    transport.set_tls(tls(&AUTHORITY.0, Some(&leaf("first"))).unwrap());
    assert_eq!(asked(&transport).await.unwrap(), "a /version first -");
    transport.set_tls(tls(&AUTHORITY.0, Some(&leaf("second"))).unwrap());
    assert_eq!(asked(&transport).await.unwrap(), "a /version second -");
    assert_eq!(asked(&with_token).await.unwrap(), "a /version second Bearer id.secret", "clones share what is shown");
    assert_eq!(a.connections.load(Ordering::Relaxed), 3);
}

#[tokio::test]
async fn a_server_that_the_authority_did_not_sign_is_no_server() {
    let (a, group) = (House::open("a").await, Group::new());
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let other = params.self_signed(&key).unwrap().pem();
    let foreign = Transport::new(vec![a.server.clone()], tls(&other, None).unwrap(), &group);
    let error = asked(&foreign).await.unwrap_err();
    assert!(error.contains("certificate"), "{error}");
    let open = Transport::new(vec![a.server.clone()], unchecked().unwrap(), &group);
    assert_eq!(asked(&open).await.unwrap(), "a /version nobody -");
    let none = Transport::new(Vec::new(), unchecked().unwrap(), &group);
    assert_eq!(asked(&none).await.unwrap_err(), "no server is known");
}

/// The server takes no more connections: it hangs in the handshake of each.
#[tokio::test]
async fn who_waits_for_another_connection_takes_its_failure_and_not_each_one_of_its_own() {
    let (house, group) = (House::open("a").await, Group::new());
    let transport = transport(&[&house], &group);
    let mut open = Vec::new();
    for _ in 0..connection::STREAMS_MAX {
        open.push(watched(&transport).await);
    }
    house.is_mute.store(true, Ordering::Relaxed);
    let began = Instant::now();
    let asked = futures::future::join_all((0..20).map(|_| asked(&transport))).await;
    assert!(asked.iter().all(|one| one.as_ref().is_err_and(|why| why.contains("no connection within"))), "{asked:?}");
    assert!(began.elapsed() < CONNECT_BOUND * 2, "{:?}", began.elapsed());
    house.is_mute.store(false, Ordering::Relaxed);
    eventually(&transport, "a /version nobody -").await;
    assert!(house.connections.load(Ordering::Relaxed) <= 4, "{:?}", house.connections);
    drop(open);
    group.stop();
}
