//! A server at the other end of a pipe, or that does not listen.

use bytes::Bytes;
use http::{Method, Request, StatusCode};
use http_body_util::Empty;
use hyper::{client::conn::http2, upgrade};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, duplex},
    net::TcpListener,
};

use super::*;
use crate::transport::InGroup;

const BOUND: Duration = Duration::from_secs(30);

#[tokio::test]
async fn streams_lead_to_the_agent_and_to_nothing_else() {
    let group = Group::new();
    let (agent, other) = (TcpListener::bind("127.0.0.1:0").await.unwrap(), TcpListener::bind("127.0.0.1:0").await.unwrap());
    let (of_agent, of_other) = (agent.local_addr().unwrap(), other.local_addr().unwrap());
    let (ours, theirs) = duplex(64 << 10);
    let serving = group.clone();
    group.spawn(async move { drop(carry::serve(TokioIo::new(ours), of_agent, &serving).await) });
    let (mut sender, connection) = http2::handshake::<_, _, Empty<Bytes>>(InGroup(group.clone()), TokioIo::new(theirs)).await.unwrap();
    group.spawn(async move { drop(connection.await) });
    let mut ask = async |method: Method, uri: &str| {
        let request = Request::builder().method(method).uri(uri).body(Empty::new()).unwrap();
        tokio::time::timeout(BOUND, sender.send_request(request)).await.expect("an answer").unwrap()
    };
    for elsewhere in [of_other.to_string(), of_agent.to_string(), "agent:10251".into(), "10.0.0.1:22".into(), "localhost:10250".into()] {
        assert_eq!(ask(Method::CONNECT, &elsewhere).await.status(), StatusCode::FORBIDDEN, "{elsewhere}");
    }
    for method in [Method::GET, Method::POST] {
        assert_eq!(ask(method, &format!("http://{of_other}/")).await.status(), StatusCode::METHOD_NOT_ALLOWED);
    }
    let answer = ask(Method::CONNECT, api::tunnel::AGENT).await;
    assert_eq!(answer.status(), StatusCode::OK);
    let mut stream = TokioIo::new(upgrade::on(answer).await.unwrap());
    // The first that it has heard of all this.
    let (mut called, _) = tokio::time::timeout(BOUND, agent.accept()).await.expect("a call").unwrap();
    stream.write_all(b"ping").await.unwrap();
    let mut heard = [0; 4];
    called.read_exact(&mut heard).await.unwrap();
    assert_eq!(&heard, b"ping");
    called.write_all(b"pong").await.unwrap();
    stream.read_exact(&mut heard).await.unwrap();
    assert_eq!(&heard, b"pong");
    drop(called);
    assert_eq!(stream.read(&mut heard).await.unwrap_or_default(), 0, "its end is passed on");
    assert!(futures::FutureExt::now_or_never(other.accept()).is_none() && futures::FutureExt::now_or_never(agent.accept()).is_none());
    drop(agent);
    assert_eq!(ask(Method::CONNECT, api::tunnel::AGENT).await.status(), StatusCode::BAD_GATEWAY, "the agent is away");
    group.stop();
}

#[tokio::test(start_paused = true)]
async fn a_server_that_is_silent_is_given_up() {
    // The preface of HTTP/2 and its empty SETTINGS: a server that has begun.
    let begun = [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".as_slice(), &[0, 0, 0, 4, 0, 0, 0, 0, 0]].concat();
    for said in [&[][..], &begun[..10], &begun] {
        let ((ours, mut silent), group) = (duplex(64 << 10), Group::new());
        silent.write_all(said).await.unwrap();
        let serving = carry::serve(TokioIo::new(ours), "127.0.0.1:1".parse().unwrap(), &group);
        assert!(timeout(Duration::from_secs(60), Box::pin(serving)).await.is_ok(), "{} bytes, and then a minute", said.len());
        drop(silent);
    }
}

/// Which address of a server counts.
#[tokio::test(start_paused = true)]
async fn a_server_at_two_addresses_has_one_tunnel() {
    let server = |url: &str| Server::parse(url).unwrap();
    let (a, b) = (server("https://a:1"), server("https://b:1"));
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let tls = crate::transport::unchecked().unwrap();
    let group = Group::new();
    let keeper = Keeper {
        transport: Transport::new(vec![a.clone(), b.clone()], tls, &group),
        node: "n1".into(),
        agent: "127.0.0.1:1".parse().unwrap(),
        group,
        reached: watch::Sender::new(HashMap::new()),
    };
    let waits = async |server: &Server, id: Option<&str>| {
        timeout(Duration::from_secs(3600), keeper.not_reached_by_another(server, id)).await.is_err()
    };
    let by_a = Reached::now(&keeper.reached, "s1", &a);
    assert!(!waits(&a, Some("s1")).await && !waits(&b, None).await && !waits(&b, Some("s2")).await);
    assert!(waits(&b, Some("s1")).await, "it would take the place of the other");
    // It did not know: the one that came later counts, and the end of the first changes nothing.
    let by_b = Reached::now(&keeper.reached, "s1", &b);
    drop(by_a);
    assert!(waits(&a, Some("s1")).await && !waits(&b, Some("s1")).await);
    let ended = async {
        sleep(Duration::from_secs(10)).await;
        drop(by_b);
    };
    tokio::join!(ended, async { assert!(!waits(&a, Some("s1")).await, "it goes on once the other has ended") });
}
