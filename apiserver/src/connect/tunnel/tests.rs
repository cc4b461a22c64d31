//! An agent at the other end of a pipe, which echoes.

use std::{convert::Infallible, sync::atomic::AtomicBool};

use hyper::{server, service::service_fn};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex},
    sync::oneshot,
    time::sleep,
};

use super::*;

const BOUND: Duration = Duration::from_secs(30);

async fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let until = Instant::now() + BOUND;
    while !is_so() {
        assert!(Instant::now() < until, "{what}");
        sleep(Duration::from_millis(10)).await;
    }
}

/// What an agent of `node` offers, held. The other end of the pipe.
fn offered(tunnels: &Arc<Tunnels>, node: &'static str, group: &Group) -> DuplexStream {
    let (ours, theirs) = duplex(64 << 10);
    let (tunnels, in_group) = (tunnels.clone(), group.clone());
    group.spawn(async move { tunnels.carry(node, TokioIo::new(ours), in_group).await });
    theirs
}

/// Joins each stream with itself, or (a flood) sends without end. What is returned resolves when the connection has ended.
fn agent(connection: DuplexStream, floods: bool, group: &Group) -> oneshot::Receiver<()> {
    agent_that(connection, floods, Arc::default(), group)
}

/// The same, which answers no stream while it stalls.
fn agent_that(connection: DuplexStream, floods: bool, stalls: Arc<AtomicBool>, group: &Group) -> oneshot::Receiver<()> {
    let (in_group, (ends, ended)) = (group.clone(), oneshot::channel());
    group.spawn(async move {
        let service = service_fn(|request: http::Request<hyper::body::Incoming>| {
            let (streams, is_stalled) = (in_group.clone(), stalls.load(Ordering::Relaxed));
            async move {
                if is_stalled {
                    std::future::pending::<()>().await;
                }
                assert_eq!((request.method(), request.uri().to_string().as_str()), (&Method::CONNECT, AGENT));
                streams.spawn(async move {
                    let mut stream = TokioIo::new(upgrade::on(request).await.unwrap());
                    if floods && stream.read_u8().await.is_ok_and(|kind| kind == b'f') {
                        while stream.write_all(&[7; 8 << 10]).await.is_ok() {}
                    }
                    let (mut from, mut to) = tokio::io::split(stream);
                    let _ = tokio::io::copy(&mut from, &mut to).await;
                    let _ = to.shutdown().await;
                });
                Ok::<_, Infallible>(http::Response::new(Empty::<Bytes>::new()))
            }
        });
        let mut builder = server::conn::http2::Builder::new(InGroup(in_group.clone()));
        builder.max_concurrent_streams(STREAMS_MAX).initial_stream_window_size(STREAM_WINDOW_BYTES);
        builder.initial_connection_window_size(TUNNEL_WINDOW_BYTES);
        let _ = builder.serve_connection(TokioIo::new(connection), service).await;
        let _ = ends.send(());
    });
    ended
}

async fn opened(tunnels: &Tunnels, node: &str) -> Through {
    tunnels.open(node).await.expect("a tunnel").expect("a stream")
}

async fn echoes(stream: &mut Through, text: &str) {
    stream.write_all(text.as_bytes()).await.unwrap();
    stream.flush().await.unwrap();
    let mut heard = vec![0; text.len()];
    tokio::time::timeout(BOUND, stream.read_exact(&mut heard)).await.expect("in time").unwrap();
    assert_eq!(heard, text.as_bytes());
}

#[tokio::test]
async fn streams_are_bounded_and_each_that_ends_makes_room() {
    let (tunnels, group) = (Arc::<Tunnels>::default(), Group::new());
    assert!(tunnels.open("n1").await.is_none());
    agent(offered(&tunnels, "n1", &group), false, &group);
    eventually("a tunnel", || tunnels.len() == 1).await;
    assert!(tunnels.open("n2").await.is_none(), "another node has none");
    let mut all = Vec::new();
    for _ in 0..STREAMS_MAX {
        all.push(opened(&tunnels, "n1").await);
    }
    echoes(all.last_mut().unwrap(), "the last").await;
    let Some(Err(NoStream::Lost(refused))) = tunnels.open("n1").await else { panic!() };
    assert_eq!(refused.to_string(), "through the node's tunnel: 256 streams are open");
    assert_eq!(tunnels.len(), 1, "a tunnel that is full is not dead");
    drop(all.pop());
    echoes(&mut opened(&tunnels, "n1").await, "room").await;
    echoes(&mut all[0], "the first").await;
    group.stop();
}

#[tokio::test]
async fn the_newest_tunnel_counts_and_the_old_one_goes_after_its_last_stream() {
    let (tunnels, group) = (Arc::<Tunnels>::default(), Group::new());
    let mut ended = agent(offered(&tunnels, "n1", &group), false, &group);
    eventually("a tunnel", || tunnels.len() == 1).await;
    let mut old = opened(&tunnels, "n1").await;
    let first = tunnels.held.lock()["n1"].id;
    agent(offered(&tunnels, "n1", &group), false, &group);
    eventually("another", || tunnels.held.lock()["n1"].id != first).await;
    echoes(&mut opened(&tunnels, "n1").await, "through the new one").await;
    echoes(&mut old, "through the old one").await;
    assert!(ended.try_recv().is_err());
    drop(old);
    tokio::time::timeout(BOUND, ended).await.expect("nothing passes through the old one any more").unwrap();
    assert_eq!(tunnels.len(), 1, "what ended was not the node's tunnel any more");
    echoes(&mut opened(&tunnels, "n1").await, "still").await;
    group.stop();
}

#[tokio::test(start_paused = true)]
async fn who_is_silent_for_too_long_is_gone() {
    let (tunnels, group) = (Arc::<Tunnels>::default(), Group::new());
    let silent = offered(&tunnels, "n1", &group);
    eventually("a tunnel", || tunnels.len() == 1).await;
    sleep(PING / 2).await;
    assert_eq!(tunnels.len(), 1);
    sleep(PING / 2 + PONG_BOUND + Duration::from_secs(1)).await;
    assert!(tunnels.is_empty(), "nobody has answered");
    drop(silent);
}

/// A machine that lost its power, a router that forgot: nothing comes back, and nothing says so.
#[tokio::test(start_paused = true)]
async fn who_calls_through_a_dead_tunnel_knows_it_in_seconds_and_nobody_after_that_waits() {
    let (tunnels, group) = (Arc::<Tunnels>::default(), Group::new());
    let silent = offered(&tunnels, "n1", &group);
    eventually("a tunnel", || tunnels.len() == 1).await;
    let began = Instant::now();
    assert!(matches!(tunnels.open("n1").await, Some(Err(NoStream::Lost(_)))));
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    assert!(tunnels.open("n1").await.is_none(), "the way by the node's address");
    assert_eq!(tunnels.len(), 1, "its pings tell when it is dead");
    sleep(DIRECT_FOR).await;
    assert!(matches!(tunnels.open("n1").await, Some(Err(NoStream::Lost(_)))), "it may have been that one call's fault");
    // An agent that is there calls again.
    let dead = tunnels.held.lock()["n1"].id;
    agent(offered(&tunnels, "n1", &group), false, &group);
    eventually("another", || tunnels.held.lock()["n1"].id != dead).await;
    echoes(&mut opened(&tunnels, "n1").await, "through the new one").await;
    drop(silent);
    group.stop();
}

/// The node has no address that we reach: while one stream lives, its agent opens no other tunnel.
#[tokio::test(start_paused = true)]
async fn one_slow_call_does_not_cost_a_node_its_tunnel_while_a_stream_lives() {
    let (tunnels, group) = (Arc::<Tunnels>::default(), Group::new());
    let stalls = Arc::new(AtomicBool::new(false));
    let mut ended = agent_that(offered(&tunnels, "n1", &group), false, stalls.clone(), &group);
    eventually("a tunnel", || tunnels.len() == 1).await;
    let mut living = opened(&tunnels, "n1").await;
    stalls.store(true, Ordering::Relaxed);
    assert!(matches!(tunnels.open("n1").await, Some(Err(NoStream::Lost(_)))));
    assert!(tunnels.open("n1").await.is_none(), "nobody waits in vain again at once");
    stalls.store(false, Ordering::Relaxed);
    sleep(DIRECT_FOR).await;
    echoes(&mut opened(&tunnels, "n1").await, "through the same tunnel").await;
    echoes(&mut living, "the whole time").await;
    assert!(ended.try_recv().is_err() && tunnels.len() == 1);
    group.stop();
}

#[tokio::test]
async fn readers_that_do_not_read_hold_up_nobody_else() {
    let (tunnels, group) = (Arc::<Tunnels>::default(), Group::new());
    agent(offered(&tunnels, "n1", &group), true, &group);
    eventually("a tunnel", || tunnels.len() == 1).await;
    let mut unread = Vec::new();
    for _ in 0..STREAMS_MAX - 1 {
        let mut stream = opened(&tunnels, "n1").await;
        stream.write_all(b"f").await.unwrap();
        unread.push(stream);
    }
    let mut read = opened(&tunnels, "n1").await;
    read.write_all(b"e").await.unwrap();
    for _ in 0..20 {
        echoes(&mut read, &"x".repeat(50_000)).await;
    }
    group.stop();
}

#[tokio::test]
async fn only_an_offer_is_taken() {
    let (tunnels, group) = (Arc::<Tunnels>::default(), Group::new());
    let asked = |method: Method, version, headers: &[(&'static str, &'static str)]| {
        let mut request = http::Request::builder().method(method).version(version);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        tunnels.accept("n1", request.body(()).unwrap().into_parts().0, &group).map_err(|status| status.code)
    };
    let good = [("connection", "Upgrade"), ("upgrade", PROTOCOL)];
    let taken = asked(Method::GET, Version::HTTP_11, &good).unwrap();
    assert_eq!((taken.status(), &taken.headers()["upgrade"]), (StatusCode::SWITCHING_PROTOCOLS, &HeaderValue::from_static(PROTOCOL)));
    assert_eq!(taken.headers()[SERVER], tunnels.server);
    for (method, version, headers) in [
        (Method::POST, Version::HTTP_11, &good[..]),
        (Method::GET, Version::HTTP_2, &good[..]),
        (Method::GET, Version::HTTP_11, &good[1..]),
        (Method::GET, Version::HTTP_11, &[("connection", "Upgrade"), ("upgrade", "websocket")][..]),
        (Method::GET, Version::HTTP_11, &[][..]),
    ] {
        assert_eq!(asked(method, version, headers).err(), Some(400), "{headers:?}");
    }
    assert!(tunnels.is_empty(), "there was no connection behind any of them");
}
