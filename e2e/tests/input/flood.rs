//! Too much on the wire, or nothing at all: connections, resets, headers, frames. Others are served meanwhile, and it has an end.

use std::time::Duration;

use e2e::{eventually, object};
use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit, setrlimit};
use serde_json::json;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use crate::{
    BOUND, CONFIGMAPS, Victim,
    frames::{
        CONTINUATION, DATA, END_HEADERS, END_STREAM, GOAWAY, HEADERS, PING, RST_STREAM, SETTINGS, ends, frame, get, hello, request, until,
    },
};

/// The server's own bounds are 32 s at most; what comes on top is a loaded machine's.
const SILENCE_BOUND: Duration = Duration::from_secs(90);
const STREAM_WINDOW: u16 = 4;

/// Somebody else reads and writes, over connections of his own.
async fn served(victim: &Victim) {
    let api = victim.server.api();
    assert_eq!(api.get("/readyz").await.status, 200);
    api.post(CONFIGMAPS, &object("v1", "ConfigMap", "served", json!({}))).await.expect(201);
    api.delete(&format!("{CONFIGMAPS}/served")).await.expect(200);
}

async fn closed(mut stream: impl AsyncRead + Unpin, what: &str) {
    let reading = async {
        let mut buffer = [0; 4096];
        while let Ok(1..) = stream.read(&mut buffer).await {}
    };
    timeout(SILENCE_BOUND, reading).await.unwrap_or_else(|_| panic!("{what}: it is still open"));
}

/// As many files as the system allows: a test opens more connections than a shell's limit.
fn many_files() {
    let maximum = getrlimit(Resource::Nofile).maximum;
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).expect("up to the hard limit");
}

#[tokio::test(flavor = "multi_thread")]
async fn silence() {
    let victim = Victim::new().await;
    let connect = || TcpStream::connect(("127.0.0.1", victim.server.port()));
    let (nothing, mut half_a_hello) = (connect().await.unwrap(), connect().await.unwrap());
    half_a_hello.write_all(b"\x16\x03\x01\x02").await.unwrap();
    let (first, second) = (victim.api.connect().await.unwrap(), victim.api.connect_h2().await.unwrap());
    let mut half_a_head = victim.api.connect().await.unwrap();
    half_a_head.write_all(b"GET /readyz HTTP/1.1\r\nhost: x\r\n").await.unwrap();
    let mut trickle = victim.api.connect().await.unwrap();
    trickle.write_all(b"GET /readyz HTTP/1.1\r\n").await.unwrap();
    let trickling = async {
        // A header now and then, for ever.
        while trickle.write_all(b"x: y\r\n").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    };
    let trickling = async { timeout(SILENCE_BOUND, trickling).await.expect("a head that does not end: it is still open") };
    tokio::join!(
        closed(nothing, "no byte"),
        closed(half_a_hello, "half a handshake"),
        closed(first, "TLS and no request"),
        closed(second, "HTTP/2 and no preface"),
        closed(half_a_head, "half a head"),
        trickling,
        served(&victim),
    );
    victim.unharmed().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn thousands_of_connections() {
    many_files();
    let victim = Victim::new().await;
    let pid = Pid::from_raw(i32::try_from(victim.server.pid()).unwrap());
    let limit = prlimit(pid, Resource::Nofile, getrlimit(Resource::Nofile)).expect("the server's limit");
    assert_eq!(limit.current, limit.maximum, "the server raises its limit");
    let (mut half_open, mut idle) = (Vec::new(), Vec::new());
    for n in 0..1500 {
        half_open.push(TcpStream::connect(("127.0.0.1", victim.server.port())).await.unwrap());
        if n % 3 == 0 {
            idle.push(victim.api.connect().await.expect("a handshake among those that do not end"));
        }
        if n % 50 == 0 {
            served(&victim).await;
        }
    }
    drop((half_open, idle));
    victim.unharmed().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_more_files() {
    let victim = Victim::new().await;
    let pid = victim.server.pid();
    let open = || std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count() as u64;
    let (before, id) = (open(), Pid::from_raw(i32::try_from(pid).unwrap()));
    let old = prlimit(id, Resource::Nofile, Rlimit { current: Some(before + 30), maximum: getrlimit(Resource::Nofile).maximum }).unwrap();
    let mut silent = Vec::new();
    for _ in 0..60 {
        silent.push(TcpStream::connect(("127.0.0.1", victim.server.port())).await.unwrap());
    }
    let api = victim.server.api();
    eventually("somebody else is served", BOUND, async || api.send("GET", "/readyz", &[], vec![]).await.map(|reply| reply.status)).await;
    prlimit(id, Resource::Nofile, old).unwrap();
    drop(silent);
    victim.unharmed().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn resets() {
    let victim = Victim::new().await;
    // As fast as can be, and with a request's time in between.
    for path in ["/api/v1/configmaps", "/readyz"] {
        let flood = hello(&victim, &[]).await;
        let pieces = (0..50_000u32).map(|n| {
            let id = 2 * n + 1;
            [request(id, path), frame(RST_STREAM, 0, id, &8u32.to_be_bytes())].concat()
        });
        let (ended, ()) = tokio::join!(ends(flood, pieces), served(&victim));
        assert!(ended, "50,000 streams were reset on one connection: {path}");
    }
    victim.unharmed().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn heads_without_an_end() {
    let victim = Victim::new().await;
    let begun = || frame(HEADERS, END_STREAM, 1, &get("/readyz"));
    let filled = [&[0x00, 1, b'x', 0x7f, 0x80, 0x7e][..], &vec![b'y'; 16_255]].concat();
    for (what, body) in [("empty", Vec::new()), ("a byte", vec![0x82]), ("full", filled)] {
        let flood = hello(&victim, &[]).await;
        let pieces = std::iter::once(begun()).chain(std::iter::repeat_n(frame(CONTINUATION, 0, 1, &body), 100_000));
        let (ended, ()) = tokio::join!(ends(flood, pieces), served(&victim));
        assert!(ended, "CONTINUATION for ever: {what}");
    }
    victim.unharmed().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn heads_that_are_too_large() {
    let victim = Victim::new().await;
    // One field of 4,000 bytes in the table, and named ten thousand times: 40 MB out of 14 kB.
    let field = [&[0x40, 1, b'b', 0x7f, 0xa1, 0x1e][..], &vec![b'y'; 4000]].concat();
    let block = [get("/readyz"), field, vec![0xbe; 10_000]].concat();
    let mut bomb = hello(&victim, &[]).await;
    bomb.write_all(&frame(HEADERS, END_STREAM | END_HEADERS, 1, &block)).await.unwrap();
    // 431 is literal or indexed in many ways: it must be an answer without 200 (0x88), a reset, or the end.
    let refused = until(&mut bomb, |kind, id, body| match kind {
        HEADERS if id == 1 => body.first() != Some(&0x88),
        RST_STREAM => id == 1,
        GOAWAY => true,
        _ => false,
    });
    assert!(refused.await, "a head of 40 MB is taken");
    let mut plain = victim.api.connect().await.unwrap();
    // Hardly more than it reads: with much unread, the answer would be lost with the connection.
    plain.write_all(format!("GET /readyz HTTP/1.1\r\nhost: x\r\nx: {}\r\n\r\n", "y".repeat(256 << 10)).as_bytes()).await.unwrap();
    let mut answer = [0; 12];
    timeout(BOUND, plain.read_exact(&mut answer)).await.unwrap().unwrap();
    assert_eq!(&answer, b"HTTP/1.1 431");
    served(&victim).await;
    victim.unharmed().await;
}

/// What the kernel keeps to be sent from a port: bytes, of how many connections.
fn kept_by_kernel(port: u16) -> (usize, usize) {
    let table = std::fs::read_to_string("/proc/net/tcp").expect("the kernel tells");
    let queues: Vec<usize> = table
        .lines()
        .skip(1)
        .filter_map(|line| {
            let mut fields = line.split_whitespace().skip(1);
            let (local, queues) = (fields.next()?, fields.nth(2)?);
            let is_of_port = u16::from_str_radix(local.split_once(':')?.1, 16) == Ok(port);
            usize::from_str_radix(queues.split_once(':')?.0, 16).ok().filter(|bytes| is_of_port && *bytes > 0)
        })
        .collect();
    (queues.iter().sum(), queues.len())
}

#[tokio::test(flavor = "multi_thread")]
async fn watches_that_nobody_reads() {
    const WATCHES: usize = 100;
    let victim = Victim::new().await;
    let api = victim.server.api();
    // More in all than the kernel would take for one reader.
    let data = json!({"data": {"text": "x".repeat(900_000)}});
    for n in 0..8 {
        api.post(CONFIGMAPS, &object("v1", "ConfigMap", &format!("large-{n}"), data.clone())).await.expect(201);
    }
    let mut unread = Vec::new();
    for _ in 0..WATCHES {
        let mut line = victim.api.connect().await.unwrap();
        rustix::net::sockopt::set_socket_recv_buffer_size(line.get_ref().0, 4 << 10).unwrap();
        line.write_all(format!("GET {CONFIGMAPS}?watch=1 HTTP/1.1\r\nhost: x\r\n\r\n").as_bytes()).await.unwrap();
        unread.push(line);
    }
    let port = victim.server.port();
    eventually("all wait for their readers", BOUND, async || kept_by_kernel(port).1 == WATCHES).await;
    served(&victim).await;
    let (bytes, _) = kept_by_kernel(port);
    // What is unsent, and a segment on its way.
    assert!(bytes <= WATCHES * (512 << 10), "the kernel keeps {bytes} bytes for {WATCHES} readers");
    drop(unread);
    for n in 0..8 {
        api.delete(&format!("{CONFIGMAPS}/large-{n}")).await.expect(200);
    }
    victim.unharmed().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn frames_whose_answers_nobody_reads() {
    let victim = Victim::new().await;
    let before = victim.server.usage().rss_kib;
    let mut floods = Vec::new();
    for piece in [frame(PING, 0, 0, &[7; 8]), frame(SETTINGS, 0, 0, &[0, 4, 0, 0, 0xff, 0xff])] {
        for _ in 0..4 {
            let (mut stream, piece) = (hello(&victim, &[]).await, piece.repeat(1000));
            let mut written = 0;
            // Until the server reads no more, or has heard enough.
            while written < 200_000
                && let Ok(Ok(())) = timeout(Duration::from_secs(2), stream.write_all(&piece)).await
            {
                written += 1000;
            }
            served(&victim).await;
            floods.push(stream);
        }
    }
    let grown = victim.server.usage().rss_kib.saturating_sub(before);
    assert!(grown < 64 << 10, "{grown} KiB are kept for answers that nobody reads");
    drop(floods);
    victim.unharmed().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tiny_windows_and_slow_bodies() {
    let victim = Victim::new().await;
    let mut kept = Vec::new();
    for _ in 0..5 {
        // A window of one byte for each of a hundred answers.
        let mut stream = hello(&victim, &[(STREAM_WINDOW, 1)]).await;
        let all: Vec<u8> = (0..100).flat_map(|n| request(2 * n + 1, "/openapi/v2")).collect();
        stream.write_all(&all).await.unwrap();
        assert!(until(&mut stream, |kind, _, _| kind == DATA).await, "the first byte comes");
        kept.push(stream);
    }
    let head = format!("POST {CONFIGMAPS} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 1000000\r\n\r\n{{");
    for _ in 0..300 {
        let mut stream = victim.api.connect().await.unwrap();
        stream.write_all(head.as_bytes()).await.unwrap();
        kept.push(stream);
    }
    served(&victim).await;
    drop(kept);
    victim.unharmed().await;
}
