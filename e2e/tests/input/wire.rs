//! What comes over the wire: paths, queries, headers, and bytes that are no HTTP.

use e2e::eventually;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use crate::{BOUND, CONFIGMAPS, Victim};

/// Writes raw bytes over TLS; the status of the answer, `None` where the connection was closed without one.
async fn raw(victim: &Victim, bytes: &[u8]) -> Option<u16> {
    let mut stream = victim.api.connect().await.expect("the server takes connections");
    // A server that has read enough may close while we write.
    let _ = stream.write_all(bytes).await;
    let _ = stream.flush().await;
    let mut answer = [0; 64];
    let mut read = 0;
    while read < 12 {
        match timeout(BOUND, stream.read(&mut answer[read..])).await.expect("an answer, or an end") {
            Ok(0) | Err(_) => return None,
            Ok(n) => read += n,
        }
    }
    std::str::from_utf8(&answer[9..12]).ok()?.parse().ok()
}

fn get(path: &str) -> Vec<u8> {
    format!("GET {path} HTTP/1.1\r\nhost: x\r\n\r\n").into_bytes()
}

#[tokio::test(flavor = "multi_thread")]
async fn paths() {
    let victim = Victim::new().await;
    let long = format!("{CONFIGMAPS}/{}", "a".repeat(30_000));
    let tricks = [
        format!("{CONFIGMAPS}/%2e%2e"),
        format!("{CONFIGMAPS}/.."),
        format!("{CONFIGMAPS}/../secrets/x"),
        format!("{CONFIGMAPS}/%2e%2e%2f%2e%2e%2fkube-system%2fsecrets"),
        format!("{CONFIGMAPS}/a%2fb"),
        format!("{CONFIGMAPS}/a%00b"),
        format!("{CONFIGMAPS}/%ff%fe"),
        format!("{CONFIGMAPS}/%"),
        format!("{CONFIGMAPS}/%zz"),
        "/api/v1/namespaces/..%2fkube-system/secrets/x".into(),
        "/api/v1/namespaces/%00/configmaps/a".into(),
        "/../../etc/passwd".into(),
        "//etc/passwd".into(),
        "/api//v1".into(),
        "/apis/../api/v1/../../x".into(),
        "/openapi/v3/../../etc/passwd".into(),
        "/logs/../../etc/passwd".into(),
        long,
    ];
    for path in &tricks {
        let status = raw(&victim, &get(path)).await;
        assert!(status.is_some_and(|s| (300..500).contains(&s)), "{status:?} for {path:.100}");
    }
    let huge = format!("{CONFIGMAPS}/{}", "a".repeat(2 << 20));
    let status = raw(&victim, &get(&huge)).await;
    assert!(status.is_none_or(|s| (400..500).contains(&s)), "{status:?} for a path of 2 MiB");
    for name in ["%2e%2e", "a%2fb", "a%00b", "%20"] {
        let body = r#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{}}"#;
        let reply =
            victim.api.send("PUT", &format!("{CONFIGMAPS}/{name}"), &[("content-type", "application/json")], body.into()).await.unwrap();
        assert!((400..500).contains(&reply.status), "{} for {name}: {}", reply.status, reply.text());
    }
    victim.unharmed().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_that_are_no_http() {
    let victim = Victim::new().await;
    let header = |name: &str, value: &str| format!("GET {CONFIGMAPS} HTTP/1.1\r\nhost: x\r\n{name}: {value}\r\n\r\n").into_bytes();
    let many = (0..5000).fold(format!("GET {CONFIGMAPS} HTTP/1.1\r\nhost: x\r\n"), |all, i| all + &format!("x-{i}: y\r\n")) + "\r\n";
    let refused: [(&str, Vec<u8>); 9] = [
        ("no HTTP", b"\x16\x03\x01 hello there\r\n\r\n".to_vec()),
        ("no version", b"GET /api\r\n\r\n".to_vec()),
        ("a NUL in the path", b"GET /api\0/v1 HTTP/1.1\r\nhost: x\r\n\r\n".to_vec()),
        ("a huge header", header("x", &"y".repeat(2 << 20))),
        ("many headers", many.into_bytes()),
        ("a header that goes on", header("x", "y\r\n z")),
        (
            "two lengths",
            format!("POST {CONFIGMAPS} HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\n{{}}").into_bytes(),
        ),
        ("a negative length", format!("POST {CONFIGMAPS} HTTP/1.1\r\nhost: x\r\ncontent-length: -1\r\n\r\n").into_bytes()),
        (
            "a broken chunk",
            format!("POST {CONFIGMAPS} HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n{{}}\r\n").into_bytes(),
        ),
    ];
    for (what, bytes) in refused {
        let status = raw(&victim, &bytes).await;
        assert!(status.is_none_or(|s| (400..500).contains(&s)), "{status:?} for {what}");
    }
    // Half a body, and then nobody.
    let mut half = victim.api.connect().await.unwrap();
    half.write_all(
        format!("POST {CONFIGMAPS} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 90\r\n\r\n").as_bytes(),
    )
    .await
    .unwrap();
    half.write_all(br#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"half"}}"#).await.unwrap();
    drop(half);
    // Not even TLS.
    let mut plain = TcpStream::connect(("127.0.0.1", victim.server.port())).await.unwrap();
    plain.write_all(&get("/api")).await.unwrap();
    let mut answer = Vec::new();
    let _ = timeout(BOUND, plain.read_to_end(&mut answer)).await.expect("the connection is ended");
    assert!(!answer.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&answer));
    victim.unharmed().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn queries() {
    let victim = Victim::new().await;
    let long = format!("labelSelector=a%20in%20({})", "x,".repeat(5000));
    let refused = [
        "labelSelector=a%20b".to_owned(),
        "labelSelector=!".into(),
        "labelSelector=a=%00".into(),
        format!("labelSelector={}", "a".repeat(10_000)),
        format!("labelSelector=a%3D{}", "b".repeat(10_000)),
        "fieldSelector=metadata.name".into(),
        "fieldSelector=none%3Da".into(),
        "continue=%00".into(),
        "continue=bm90IGpzb24".into(),
        "continue=eyJ2IjoibWV0YS5rOHMuaW8vdjEiLCJydiI6MCwic3RhcnQiOiJhIn0".into(),
        "continue=eyJ2IjoibWV0YS5rOHMuaW8vdjkiLCJydiI6MSwic3RhcnQiOiJhIn0".into(),
        "limit=x".into(),
        "limit=99999999999999999999".into(),
        "resourceVersion=-1".into(),
        "resourceVersion=x".into(),
        "resourceVersion=1&resourceVersionMatch=Perhaps".into(),
        "timeoutSeconds=soon".into(),
    ];
    for query in &refused {
        let reply = victim.api.get(&format!("{CONFIGMAPS}?{query}")).await;
        assert!([400, 422].contains(&reply.status), "{} for {query:.100}: {}", reply.status, reply.text());
    }
    // Strange, but sound.
    for query in [long.as_str(), "limit=-1", "unknown=1", "%", "&&&==", "pretty=%ff"] {
        let reply = victim.api.get(&format!("{CONFIGMAPS}?{query}")).await;
        assert!([200, 400].contains(&reply.status), "{} for {query:.100}: {}", reply.status, reply.text());
    }
    let outside = "eyJ2IjoibWV0YS5rOHMuaW8vdjEiLCJydiI6MSwic3RhcnQiOiIuLi8uLi9zZWNyZXRzL2t1YmUtc3lzdGVtL1x1MDAwMCJ9";
    let reply = victim.api.get(&format!("{CONFIGMAPS}?limit=1&continue={outside}")).await;
    assert!([200, 400, 410].contains(&reply.status), "{} {}", reply.status, reply.text());
    assert!(!reply.text().contains("\"Secret\""), "a token must not lead out of its collection");
    victim.unharmed().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn many_connections_that_say_nothing() {
    let victim = Victim::new().await;
    let mut silent = Vec::new();
    for _ in 0..300 {
        silent.push(TcpStream::connect(("127.0.0.1", victim.server.port())).await.unwrap());
    }
    eventually("others are served", BOUND, async || victim.server.api().send("GET", "/readyz", &[], vec![]).await).await;
    drop(silent);
    victim.unharmed().await;
}
