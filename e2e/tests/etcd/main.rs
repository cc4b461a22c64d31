//! skiff over a real etcd: with TLS and client certificates, and while etcd is away.

mod certificates;
mod line;
mod lost;

use std::{path::Path, time::Duration};

use certificates::Authority;
use e2e::{Api, Backend, Etcd, EtcdTls, Options, Server, eventually, object};
use serde_json::json;
use tempfile::TempDir;

const CONFIGMAPS: &str = "/api/v1/namespaces/default/configmaps";
const SOON: Duration = Duration::from_secs(60);

/// An etcd that wants certificates, and the files to speak to it.
struct Guarded {
    etcd: Etcd,
    dir: TempDir,
    ours: Authority,
}

impl Guarded {
    async fn start() -> Self {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let ours = Authority::new("etcd-ca");
        let path = |name: &str| dir.path().join(name);
        ours.write(&path("ca.crt"));
        ours.sign("etcd-server", &path("server"));
        ours.sign("skiff", &path("client"));
        let tls = EtcdTls { cert: path("server.crt"), key: path("server.key"), client_ca: path("ca.crt") };
        Self { etcd: Etcd::start_tls(tls).await, dir, ours }
    }

    /// A server that is told of these files.
    fn options(&self, files: &[(&str, &Path)]) -> Options {
        let args = files.iter().flat_map(|(flag, path)| [format!("--etcd-{flag}"), path.display().to_string()]);
        Options { backend: Backend::Etcd(self.etcd.url()), args: args.collect(), ..Options::default() }
    }

    /// What the server says when it ends because of these files.
    async fn refused(&self, files: &[(&str, &Path)]) -> String {
        let mut server = Server::spawn("server", self.options(files));
        assert!(!server.ended().await.success(), "{files:?}");
        server.log()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_with_client_certificates() {
    let guarded = Guarded::start().await;
    let path = |name: &str| guarded.dir.path().join(name);
    let (ca, cert, key) = (path("ca.crt"), path("client.crt"), path("client.key"));
    let all = [("cafile", &*ca), ("certfile", &*cert), ("keyfile", &*key)];
    let mut server = Server::start(guarded.options(&all)).await;
    let body = object("v1", "ConfigMap", "kept", json!({"data": {"a": "b"}}));
    server.api().post(CONFIGMAPS, &body).await.expect(201);
    server.kill_9();
    server.restart().await;
    assert_eq!(server.api().get(&format!("{CONFIGMAPS}/kept")).await.expect(200)["data"]["a"], "b");
    server.assert_sound();
    assert_eq!(server.api().get("/livez/etcd").await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_with_tls_is_told() {
    let guarded = Guarded::start().await;
    let path = |name: &str| guarded.dir.path().join(name);
    let stranger = Authority::new("somebody-else");
    stranger.write(&path("other-ca.crt"));
    stranger.sign("skiff", &path("foreign"));
    guarded.ours.sign("other", &path("second"));
    let (ca, cert, key) = (path("ca.crt"), path("client.crt"), path("client.key"));
    let (other_ca, foreign_cert, foreign_key) = (path("other-ca.crt"), path("foreign.crt"), path("foreign.key"));
    let second_key = path("second.key");
    let table: [(&str, Files<'_>, &str); 6] = [
        ("a CA of somebody else", &[("cafile", &other_ca), ("certfile", &cert), ("keyfile", &key)], "UnknownIssuer"),
        ("no client certificate", &[("cafile", &ca)], "it wants a client certificate, and none was named"),
        (
            "a client certificate by another CA",
            &[("cafile", &ca), ("certfile", &foreign_cert), ("keyfile", &foreign_key)],
            "received fatal alert",
        ),
        ("a certificate without its key", &[("cafile", &ca), ("certfile", &cert)], "go together"),
        ("another certificate's key", &[("cafile", &ca), ("certfile", &cert), ("keyfile", &second_key)], "do not fit"),
        ("no CA", &[("certfile", &cert), ("keyfile", &key)], "needs the CA"),
    ];
    for (what, files, want) in table {
        let said = guarded.refused(files).await;
        assert!(said.contains(want), "{what}: {said}");
    }
}

/// Flags after `--etcd-`, and the files they name.
type Files<'a> = &'a [(&'a str, &'a Path)];

/// The status and body of a health endpoint.
async fn health(api: &Api, path: &str) -> (u16, String) {
    let reply = api.get(path).await;
    (reply.status, reply.text())
}

#[tokio::test(flavor = "multi_thread")]
async fn health_fails_while_etcd_is_away_and_heals() {
    let mut etcd = Etcd::start().await;
    let server = Server::start(Options { backend: Backend::Etcd(etcd.url()), ..Options::default() }).await;
    let api = server.api();
    let (status, text) = health(&api, "/readyz?verbose").await;
    assert!(status == 200 && text.contains("[+]etcd ok\n[+]etcd-readiness ok\n") && text.ends_with("readyz check passed\n"), "{text}");
    let (_, text) = health(&api, "/livez?verbose").await;
    assert!(text.contains("[+]etcd ok\n") && !text.contains("etcd-readiness"), "{text}");

    etcd.kill_9();
    for (endpoint, lines) in [
        ("readyz", "[-]etcd failed: reason withheld\n[-]etcd-readiness failed: reason withheld\n"),
        ("livez", "[-]etcd failed: reason withheld\n"),
        ("healthz", "[-]etcd failed: reason withheld\n"),
    ] {
        let failing = async || Some(health(&api, &format!("/{endpoint}")).await).filter(|(status, _)| *status == 500);
        let (_, text) = eventually("the endpoint fails", SOON, failing).await;
        assert!(text.contains("[+]ping ok\n") && text.contains(lines) && text.ends_with(&format!("{endpoint} check failed\n")), "{text}");
    }
    let (status, text) = health(&api, "/livez?verbose&exclude=etcd").await;
    assert!(status == 200 && text.contains("[+]etcd excluded: ok\n"), "{status} {text}");
    let (status, text) = health(&api, "/readyz/etcd-readiness").await;
    assert!(status == 500 && text.starts_with("internal server error: error getting data from etcd: "), "{status} {text}");

    etcd.restart().await;
    for endpoint in ["/readyz", "/livez", "/healthz"] {
        eventually("the endpoint heals", SOON, async || health(&api, endpoint).await == (200, "ok".to_owned())).await;
    }
    eventually("writes are taken again", SOON, async || {
        api.post(CONFIGMAPS, &object("v1", "ConfigMap", "after", json!({}))).await.status == 201
    })
    .await;
    server.assert_sound();
}
