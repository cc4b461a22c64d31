//! Bodies that are not what they should be: broken, too large, of wrong types, too deep.

use e2e::{Patch, object};
use serde_json::json;

use crate::{CONFIGMAPS, Victim};

#[tokio::test(flavor = "multi_thread")]
async fn broken_bodies() {
    let victim = Victim::new().await;
    let deep = |open: &str, close: &str, times: usize| format!("{}{}", open.repeat(times), close.repeat(times));
    let json = [
        String::new(),
        "{".into(),
        "{\"kind\":".into(),
        "null".into(),
        "[]".into(),
        "\"text\"".into(),
        "{\"apiVersion\":\"v1\",\"kind\":\"ConfigMap\",\"metadata\":{\"name\":\"a\"}} trailing".into(),
        "{\"apiVersion\":\"v1\",\"kind\":\"ConfigMap\",\"metadata\":[]}".into(),
        "{\"apiVersion\":\"v1\",\"kind\":\"ConfigMap\",\"metadata\":{\"name\":1}}".into(),
        "{\"apiVersion\":\"v1\",\"kind\":\"ConfigMap\",\"metadata\":{\"name\":\"a\",\"labels\":{\"a\":1}}}".into(),
        "{\"apiVersion\":\"v1\",\"kind\":\"ConfigMap\",\"metadata\":{\"name\":\"a\"},\"data\":{\"k\":{\"nested\":true}}}".into(),
        "{\"apiVersion\":\"v1\",\"kind\":\"ConfigMap\",\"metadata\":{\"name\":\"a\"},\"binaryData\":{\"k\":\"not base64!\"}}".into(),
        "{\"apiVersion\":\"v1\",\"kind\":\"Secret\",\"metadata\":{\"name\":\"a\"}}".into(),
        "{\"apiVersion\":\"v2\",\"kind\":\"ConfigMap\",\"metadata\":{\"name\":\"a\"}}".into(),
        "{\"apiVersion\":\"v1\",\"kind\":\"ConfigMap\",\"metadata\":{\"name\":\"a\",\"creationTimestamp\":\"yesterday\"}}".into(),
        deep("[", "]", 100_000),
        deep("{\"a\":", "1}", 100_000),
        format!(
            "{{\"apiVersion\":\"v1\",\"kind\":\"ConfigMap\",\"metadata\":{{\"name\":\"a\"}},\"data\":{}}}",
            deep("{\"a\":", "}", 20_000)
        ),
    ];
    for body in &json {
        let reply = victim.api.send("POST", CONFIGMAPS, &[("content-type", "application/json")], body.clone().into_bytes()).await.unwrap();
        assert!([400, 422].contains(&reply.status), "{} for {:.120}: {}", reply.status, body, reply.text());
        assert_eq!(reply.json()["kind"], "Status", "{:.120}", body);
    }
    let yaml = [
        "a: b: c".to_owned(),
        "a:\n  b: c\n d: e".into(),
        "- [unclosed".into(),
        "a: &a [*a]".into(),
        "x: *nowhere".into(),
        "!!python/object/apply:os.system [\"true\"]".into(),
        format!("a: {}", deep("[", "]", 50_000)),
        // Aliases of aliases: ten to the ninth, if they were written out.
        format!(
            "a0: &a0 x\n{}",
            (1..10).fold(String::new(), |all, i| all + &format!("a{i}: &a{i} [{}]\n", format!("*a{}, ", i - 1).repeat(10)))
        ),
    ];
    for body in &yaml {
        let reply = victim.api.send("POST", CONFIGMAPS, &[("content-type", "application/yaml")], body.clone().into_bytes()).await.unwrap();
        assert_eq!(reply.status, 400, "{:.120}: {}", body, reply.text());
    }
    for body in [&b""[..], b"k8s\0", b"k8s\0\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", b"{}", b"k8s\0\x0a\xff\x01"] {
        let typ = [("content-type", "application/vnd.kubernetes.protobuf")];
        let reply = victim.api.send("POST", CONFIGMAPS, &typ, body.to_vec()).await.unwrap();
        assert_eq!(reply.status, 400, "{body:?}: {}", reply.text());
    }
    victim.unharmed().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn large_bodies() {
    let victim = Victim::new().await;
    let body = |bytes: usize| object("v1", "ConfigMap", "large", json!({"data": {"k": "x".repeat(bytes)}}));
    victim.api.post(CONFIGMAPS, &body(4 << 20)).await.refused(413, "RequestEntityTooLarge");
    let refused = victim.api.post(CONFIGMAPS, &body(2 << 20)).await.refused(422, "Invalid");
    assert!(refused["message"].as_str().unwrap_or_default().contains("Too long"), "{refused}");
    // Small on the wire, large when unpacked.
    let packed = gzip_of_zeros();
    let headers = [("content-type", "application/json"), ("content-encoding", "gzip")];
    let reply = victim.api.send("POST", CONFIGMAPS, &headers, packed).await.unwrap();
    assert!((400..500).contains(&reply.status), "{} {}", reply.status, reply.text());
    victim.unharmed().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn broken_patches() {
    let victim = Victim::new().await;
    let path = format!("{CONFIGMAPS}/kube-root-ca.crt");
    let before = victim.api.get(&path).await.expect(200);
    let many: Vec<_> = (0..10_001).map(|i| json!({"op": "add", "path": format!("/data/k{i}"), "value": "x"})).collect();
    let json = [
        json!({}),
        json!([{"op": "fly", "path": "/data"}]),
        json!([{"op": "remove", "path": "/data/none"}]),
        json!([{"op": "add", "path": "data", "value": 1}]),
        json!([{"op": "copy", "from": "/x/y", "path": "/data/z"}]),
        json!([{"op": "replace", "path": "/metadata/name", "value": "other"}]),
        json!([{"op": "remove", "path": ""}]),
        json!(many),
    ];
    for patch in &json {
        let reply = victim.api.patch(&path, Patch::Json, patch).await;
        assert!((400..500).contains(&reply.status), "{} for {:.120}: {}", reply.status, patch.to_string(), reply.text());
    }
    for patch in [json!([]), json!("x"), json!({"data": []}), json!({"metadata": null}), json!({"kind": "Secret"})] {
        for kind in [Patch::Merge, Patch::Strategic] {
            let reply = victim.api.patch(&path, kind, &patch).await;
            assert!((400..500).contains(&reply.status), "{} for {kind:?} {patch}: {}", reply.status, reply.text());
        }
    }
    let wrong = json!({"spec": {"containers": [{"$patch": "explode", "name": "c"}]}});
    let reply = victim.api.patch("/api/v1/namespaces/default/pods/none", Patch::Strategic, &wrong).await;
    assert!((400..500).contains(&reply.status), "{}", reply.text());
    for typ in ["", "x", "application/json; charset", "application/apply-patch+yaml/..", "text/html", "application/\u{7f}"] {
        let sent = victim.api.send("PATCH", &path, &[("content-type", typ)], b"{}".to_vec()).await;
        // What is no header cannot be sent at all.
        let Ok(reply) = sent else { continue };
        assert_eq!(reply.status, 415, "{typ:?}: {}", reply.text());
    }
    assert_eq!(victim.api.get(&path).await.expect(200), before);
    victim.unharmed().await;
}

/// 64 MiB of spaces, as gzip: stored blocks of flate would be as long, so this is deflate's own run of matches.
fn gzip_of_zeros() -> Vec<u8> {
    use std::io::Write;
    let mut child = std::process::Command::new("gzip")
        .args(["-9", "-c"])
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .expect("gzip is essential in Debian");
    let mut stdin = child.stdin.take().expect("it is piped");
    let writer = std::thread::spawn(move || {
        let block = vec![b' '; 1 << 20];
        (0..64).try_for_each(|_| stdin.write_all(&block))
    });
    let out = child.wait_with_output().expect("it was started").stdout;
    writer.join().expect("it does not panic").expect("gzip reads all");
    out
}
