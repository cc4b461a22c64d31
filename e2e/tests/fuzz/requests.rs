//! Broken requests -> the real server: it answers each, with no 5xx and no panic, and goes on.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use e2e::{Backend, Options, Server};
use rand::{Rng, SeedableRng, rngs::StdRng};

use crate::{corpus, mutate::Mutator, run::Run};

const TYPES: &[(&str, &str)] = &[
    ("POST", "application/json"),
    ("POST", "application/yaml"),
    ("POST", "application/vnd.kubernetes.protobuf"),
    ("PATCH", "application/json-patch+json"),
    ("PATCH", "application/merge-patch+json"),
    ("PATCH", "application/strategic-merge-patch+json"),
    ("DELETE", "application/json"),
];

const QUERIES: &[&[u8]] = &[
    b"labelSelector=a%20in%20(b,c),!d&fieldSelector=metadata.name%3Da&limit=2",
    b"resourceVersion=5&resourceVersionMatch=NotOlderThan&watch=false&timeoutSeconds=1&pretty=1",
    b"dryRun=All&fieldManager=x&fieldValidation=Strict&propagationPolicy=Background&gracePeriodSeconds=0",
];

/// Escapes what a request line cannot hold, so that broken bytes reach the server's own parser.
fn escaped(bytes: &[u8]) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-_.~=&%,()!/:;*+@$'?".contains(&b);
    bytes.iter().map(|b| if plain(*b) { char::from(*b).to_string() } else { format!("%{b:02X}") }).collect()
}

/// A revision that has not come, and strategic patches that do not fit their list: upstream answers both with a 5xx. A failure of our own
/// says InternalError.
fn is_upstreams(status: u16, text: &str) -> bool {
    match status {
        504 => text.contains("Too large resource version"),
        500 => !text.contains("InternalError"),
        _ => false,
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "run by every_target_for_a_while, beside the others"]
async fn requests() {
    let server = Server::start(Options { backend: Backend::Memory, ..Options::default() }).await;
    let api = server.api();
    let mut run = Run::new("requests::requests");
    let seed = run.seed;
    let mut random = StdRng::seed_from_u64(seed);
    let samples = corpus::protobuf();
    let bodies: Vec<&[u8]> =
        [corpus::JSON, corpus::YAML, corpus::PATCHES].concat().into_iter().chain(samples.iter().map(Vec::as_slice)).collect();
    let token = br#"{"v":"meta.k8s.io/v1","rv":3,"start":"default/a\u0000"}"#;
    let (mut body, mut query, mut tokens) = (Mutator::new(&bodies, seed), Mutator::new(QUERIES, seed), Mutator::new(&[token], seed));
    // The first value of a key counts: a watch that was asked for by accident would not end.
    let mut answers = std::collections::BTreeMap::new();
    while run.next() {
        let resource = ["pods", "configmaps", "services", "secrets"][random.random_range(0..4)];
        let base = format!("/api/v1/namespaces/default/{resource}");
        let (method, typ) = TYPES[random.random_range(0..TYPES.len())];
        let (method, path, sent) = match random.random_range(0..4) {
            0 => ("GET", format!("{base}?watch=0&{}", escaped(&query.next())), Vec::new()),
            1 => ("GET", format!("{base}?limit=1&continue={}", URL_SAFE_NO_PAD.encode(tokens.next())), Vec::new()),
            _ if method == "POST" => ("POST", base, body.next()),
            _ => (method, format!("{base}/a"), body.next()),
        };
        let reply = api.send(method, &path, &[("content-type", typ)], sent.clone()).await;
        let reply = reply.unwrap_or_else(|e| panic!("{method} {path} {typ}: {e:#}: {:?} {sent:02x?}", String::from_utf8_lossy(&sent)));
        let known = reply.status < 500 || is_upstreams(reply.status, &reply.text());
        assert!(known, "{method} {path} {typ}: {} {}: {:?} {sent:02x?}", reply.status, reply.text(), String::from_utf8_lossy(&sent));
        *answers.entry(reply.status).or_insert(0_u32) += 1;
    }
    println!("{answers:?}");
    run.end();
    server.assert_sound();
    assert_eq!(api.get("/readyz").await.status, 200);
}
