//! A real API server behind its door and its socket, and a real server of another group version behind it.

mod server;

use std::{net::SocketAddr, sync::atomic::Ordering::SeqCst};

use api::seats::Seats;
use apiserver::{
    certs::{Certs, ServingNames, Subject, Usage, issue},
    discovery::Discovery,
    front::Front,
    front_proxy::RequestHeader,
    identity::{Attributes, Auth, Authorizer, Decision, Peer},
    openapi::OpenApi,
    serve,
    tls::{Tls, client_config},
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use http::{Request, header};
use http_body_util::{BodyExt, Full};
use hyper::upgrade;
use hyper_util::rt::TokioIo;
use rustls_pki_types::ServerName;
use store::{Op, Store, Txn, memory::Memory};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    time::Instant,
};
use tokio_rustls::TlsConnector;
use tower::ServiceExt;

use self::server::{Mood, Thing};
use super::*;

const BOUND: Duration = Duration::from_secs(30);
const NAME: &str = "v1.things.example";
const STORED: &str = "/apis/apiregistration.k8s.io/v1/apiservices";

/// Everybody may do everything but what is called secret.
struct AllButSecrets;

impl Authorizer for AllButSecrets {
    fn authorize(&self, asked: &Attributes<'_>) -> Decision {
        if asked.resource == "secretthings" { Decision::NoOpinion(String::new()) } else { Decision::Allow(String::new()) }
    }
}

struct World {
    front: Front,
    aggregator: Arc<Aggregator>,
    store: Arc<Memory>,
    certs: Certs,
    /// Of the serving certificate of aggregated servers.
    ca: Identity,
    thing: Arc<Thing>,
    address: SocketAddr,
    group: Group,
}

impl Drop for World {
    fn drop(&mut self) {
        self.group.stop();
    }
}

impl World {
    async fn new() -> Self {
        let (dir, group, store) = (tempfile::tempdir().unwrap(), Group::new(), Arc::new(Memory::new()));
        let certs = Certs::open(dir.path(), &ServingNames::standard("h", &[], None, "cluster.local")).unwrap();
        let believed = Arc::new(RequestHeader::standard(certs.front_proxy_ca().to_owned()));
        let auth = Auth { authorizers: vec![Arc::new(AllButSecrets)], ..Auth::default() };
        let engine = Engine::new(store.clone(), crate::table(&crate::Config::default()), auth, group.clone());
        engine.ready().await;
        let delegations = Arc::<Delegations>::default();
        delegations.believe(believed.clone());
        let front = Front::builder(engine.clone()).delegations(delegations.clone());
        let front = front.mount(Discovery::new(delegations.clone()).routes(engine.clone()));
        let front = front.mount(OpenApi::new(delegations.clone()).routes(engine.clone())).build();
        let aggregator = Aggregator::reaching(&engine, crate::auth::system_user(), &delegations, |_| true);
        aggregator.show(certs.leaves().front_proxy_client.clone());
        aggregator.bring_about();
        group.spawn_loop("aggregator", aggregator.clone().run());
        let now = api::time::Timestamp::now();
        let ca = issue::authority("things", now).unwrap();
        let dns = vec!["thing.space.svc".to_owned(), "kubernetes.default.svc".to_owned()];
        let subject = Subject { common_name: "thing".into(), organization: None, usage: Usage::Server, dns, addresses: Vec::new() };
        let serving = issue::leaf(&ca, &subject, now).unwrap();
        let thing = Thing::start(&group, certs.front_proxy_ca(), &serving).await;
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let tls = Arc::new(Tls::with_front_proxies(&certs, Some(believed)).unwrap());
        let serving = serve::serve(listener, Seats::new(serve::CONNECTIONS_MAX), tls, front.clone(), group.clone(), 0.0);
        group.spawn_careful(async move { serving.await.unwrap() });
        Self { front, aggregator, store, certs, ca, thing, address, group }
    }

    /// With everything in its place, and found to be so.
    async fn ready() -> Self {
        let world = Self::new().await;
        world.service("thing", "space", world.thing.port).await;
        world.register(&world.spec(json!({}))).await;
        world.until_is("True", "Passed").await;
        // What is written is heard of a moment later.
        until("it is asked", || async { (world.get("/apis/things.example/v1").await.0 == 200).then_some(()) }).await;
        world
    }

    /// A Service, and its endpoint slice: nobody may write one that leads here but whoever has the store.
    async fn service(&self, name: &str, namespace: &str, port: u16) {
        let object = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": namespace},
            "spec": {"clusterIP": "None", "clusterIPs": ["None"], "type": "ClusterIP", "ports": [{"name": "https", "port": 443, "protocol": "TCP"}]}});
        let slice = json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
            "metadata": {"name": name, "namespace": namespace, "labels": {resolve::SERVICE_NAME: name}},
            "ports": [{"name": "https", "port": port}], "endpoints": [{"addresses": ["127.0.0.1"], "conditions": {"ready": true}}]});
        self.put(&format!("services/specs/{namespace}/{name}"), &object).await;
        self.put(&format!("endpointslices/{namespace}/{name}"), &slice).await;
    }

    async fn put(&self, key: &str, object: &Value) {
        let put = Op::Put { key: format!("/registry/{key}"), value: object.to_string().into(), ttl: None };
        self.store.txn(Txn { expect: vec![], ops: vec![put] }).await.unwrap();
    }

    fn spec(&self, more: Value) -> Value {
        let mut spec = json!({"group": server::GROUP, "version": "v1", "groupPriorityMinimum": 2000, "versionPriority": 10,
            "service": {"name": "thing", "namespace": "space"}, "caBundle": STANDARD.encode(&self.ca.chain_pem)});
        spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        spec
    }

    async fn register(&self, spec: &Value) {
        let name = format!("{}.{}", spec.text("version"), spec.text("group"));
        let object = json!({"apiVersion": "apiregistration.k8s.io/v1", "kind": "APIService", "metadata": {"name": name}, "spec": spec});
        let (code, answer) = self.ask("POST", STORED, &[], object.to_string()).await;
        assert_eq!(code, 201, "{answer}");
    }

    async fn patch(&self, spec: Value) {
        let (code, answer) = self
            .ask(
                "PATCH",
                &format!("{STORED}/{NAME}"),
                &[("content-type", "application/merge-patch+json")],
                json!({"spec": spec}).to_string(),
            )
            .await;
        assert_eq!(code, 200, "{answer}");
    }

    async fn ask(&self, method: &str, path: &str, headers: &[(&str, &str)], body: String) -> (u16, String) {
        let user = User { name: "jane".into(), uid: "u1".into(), groups: vec!["devs".into()], ..User::default() };
        let mut request = Request::builder().method(method).uri(path);
        if !headers.iter().any(|(name, _)| *name == "content-type") {
            request = request.header("content-type", "application/json");
        }
        let request = headers.iter().fold(request, |request, (name, value)| request.header(*name, *value));
        let request = request.extension(Peer::local(user)).body(Full::new(Bytes::from(body))).unwrap();
        let (parts, body) = self.front.clone().oneshot(request).await.unwrap().into_parts();
        let bytes = body.collect().await.unwrap().to_bytes();
        (parts.status.as_u16(), String::from_utf8(bytes.to_vec()).unwrap())
    }

    async fn get(&self, path: &str) -> (u16, String) {
        self.ask("GET", path, &[], String::new()).await
    }

    async fn json(&self, path: &str) -> Value {
        let (code, text) = self.get(path).await;
        assert_eq!(code, 200, "{path}: {text}");
        serde_json::from_str(&text).unwrap()
    }

    async fn aggregated(&self) -> Value {
        let accept = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
        serde_json::from_str(&self.ask("GET", "/apis", &[("accept", accept)], String::new()).await.1).unwrap()
    }

    /// What aggregated discovery tells of the group version.
    async fn told(&self) -> Value {
        let all = self.aggregated().await;
        let group = all.list("items").iter().find(|group| group["metadata"]["name"] == server::GROUP).cloned();
        group.unwrap_or_default()["versions"][0].clone()
    }

    async fn available(&self) -> (String, String, String) {
        let object = self.json(&format!("{STORED}/{NAME}")).await;
        let condition = object["status"].list("conditions").first().cloned().unwrap_or_default();
        (condition.text("status").to_owned(), condition.text("reason").to_owned(), condition.text("message").to_owned())
    }

    async fn until_is(&self, status: &str, reason: &str) -> String {
        until(reason, || async {
            let (found, why, message) = self.available().await;
            (found == status && why == reason).then_some(message)
        })
        .await
    }

    /// A connection of its own to the server's socket, with a certificate.
    async fn connect(&self, shown: &Identity) -> hyper::client::conn::http1::SendRequest<Full<Bytes>> {
        let config = client_config(self.certs.ca(), shown).unwrap();
        let stream = TcpStream::connect(self.address).await.unwrap();
        let name = ServerName::try_from("kubernetes.default").unwrap();
        let stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await.unwrap();
        let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
        self.group.spawn(async move { drop(connection.with_upgrades().await) });
        sender
    }
}

async fn until<T, F: Future<Output = Option<T>>>(what: &str, mut look: impl FnMut() -> F) -> T {
    let began = Instant::now();
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(began.elapsed() < BOUND, "{what}: not in time");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn requests_are_handed_on_as_who_asks() {
    let world = World::ready().await;
    let forged =
        [("x-remote-user", "root"), ("x-remote-group", "system:masters"), ("x-remote-extra-a", "b"), ("authorization", "Bearer t")];
    let (code, text) = world.ask("PUT", "/apis/things.example/v1/namespaces/a%2Fb/things/x%20y?b=1&a=%2F", &forged, "{}".into()).await;
    let seen: Value = serde_json::from_str(&text).unwrap();
    assert_eq!((code, &seen["believed"], &seen["method"]), (200, &json!(true), &json!("PUT")), "{seen}");
    assert_eq!(
        (&seen["user"], &seen["uid"], &seen["groups"]),
        (&json!(["jane"]), &json!(["u1"]), &json!(["devs", "system:authenticated"]))
    );
    // What was authorized: the path as it was decoded.
    assert_eq!((&seen["path"], &seen["query"]), (&json!("/apis/things.example/v1/namespaces/a/b/things/x%20y"), &json!("a=%2F&b=1")));
    assert_eq!(seen["auditID"].as_array().unwrap().len(), 1);
    assert_eq!(seen["host"], json!([format!("127.0.0.1:{}", world.thing.port)]));
    for header in ["authorization", "x-remote-extra-a", "connection"] {
        assert!(!seen["headers"].as_array().unwrap().contains(&json!(header)), "{header}: {seen}");
    }
    // One gate: what is not allowed is not asked.
    assert_eq!(world.get("/apis/things.example/v1/secretthings").await.0, 403);
    for odd in ["/apis/things.example/v1/x/../../../api/v1/secrets", "/apis/things.example/v1/x/%2e%2e/y"] {
        assert_eq!(world.get(odd).await.0, 400, "{odd}");
    }
    assert_eq!(world.get("/apis/things.example/v2/x").await.0, 404);
    assert_eq!(world.json("/apis/things.example/v1").await["kind"], "APIResourceList");
}

#[tokio::test]
async fn what_is_wrong_is_said_and_mended() {
    let world = World::new().await;
    world.register(&world.spec(json!({}))).await;
    assert_eq!(world.until_is("False", "ServiceNotFound").await, "service/thing in \"space\" is not present");
    let refused = (503, "service unavailable\n".to_owned());
    assert_eq!(world.get("/apis/things.example/v1").await, refused);
    assert_eq!(world.get("/apis/things.example/v1/things").await, refused);
    assert_eq!(world.told().await, json!({"version": "v1", "freshness": "Stale"}));
    world.service("thing", "space", 1).await;
    let message = world.until_is("False", "FailedDiscoveryCheck").await;
    let url = "https://127.0.0.1:1/apis/things.example/v1";
    assert_eq!(message, format!("failing or missing response from {url}: Get {url:?}: dial tcp 127.0.0.1:1: connect: connection refused"));
    world.service("thing", "space", world.thing.port).await;
    assert_eq!(world.until_is("True", "Passed").await, "all checks passed");
    until("its resources", || async { (world.told().await["resources"][0]["resource"] == "things").then_some(()) }).await;
    // Not its authority, then another name, then an authority that cannot be read.
    let other = issue::authority("other", api::time::Timestamp::now()).unwrap();
    world.patch(json!({"caBundle": STANDARD.encode(&other.chain_pem)})).await;
    let message = world.until_is("False", "FailedDiscoveryCheck").await;
    assert!(message.contains("invalid peer certificate"), "{message}");
    world.patch(json!({"caBundle": null, "insecureSkipTLSVerify": true})).await;
    world.until_is("True", "Passed").await;
    *world.thing.mood.lock() = Mood::Broken;
    world.aggregator.remotes.lock()[NAME].to_be_asked.notify_one();
    let message = world.until_is("False", "FailedDiscoveryCheck").await;
    assert!(message.ends_with("/apis/things.example/v1: 500"), "{message}");
    // And to this server again.
    world.patch(json!({"service": null, "insecureSkipTLSVerify": null})).await;
    world.until_is("True", "Local").await;
    until("local", || async { (world.get("/apis/things.example/v1/things").await.0 == 404).then_some(()) }).await;
}

#[tokio::test]
async fn streams_and_uploads_pass_through() {
    let world = World::ready().await;
    let (code, text) = world.get("/apis/things.example/v1/things?watch=1").await;
    assert_eq!((code, text.as_str()), (200, "{\"n\":0}\n{\"n\":1}\n"));
    let (_, text) = world.ask("POST", "/apis/things.example/v1/upload", &[], "x".repeat(9 << 20)).await;
    assert_eq!(text, json!({"bytes": 9 << 20}).to_string(), "more than this server reads itself");
    let away = "the backend attempted to redirect this request, which is not permitted\n";
    assert_eq!(world.get("/apis/things.example/v1/redirect").await, (502, away.into()));
    let mut sender = world.connect(&world.certs.leaves().admin).await;
    let request = Request::post("/apis/things.example/v1/pods/x/exec")
        .header("host", "api")
        .header("connection", "Upgrade")
        .header("upgrade", "echo");
    let mut reply = sender.send_request(request.body(Full::default()).unwrap()).await.unwrap();
    assert_eq!((reply.status().as_u16(), &reply.headers()["upgrade"]), (101, &header::HeaderValue::from_static("echo")));
    let mut stream = TokioIo::new(upgrade::on(&mut reply).await.unwrap());
    stream.write_all(b"hello").await.unwrap();
    let mut echo = [0; 5];
    stream.read_exact(&mut echo).await.unwrap();
    assert_eq!(&echo, b"hello");
}

#[tokio::test]
async fn a_server_in_trouble_is_nobody_elses_trouble() {
    let world = World::ready().await;
    let front = world.front.clone();
    let hang = |user: &str| {
        let peer = Peer::local(User { name: user.into(), ..User::default() });
        Request::get("/apis/things.example/v1/hang").extension(peer).body(Full::<Bytes>::default()).unwrap()
    };
    for n in 0..400 {
        let (request, front) = (hang(&format!("user-{}", n % 8)), front.clone());
        world.group.spawn(async move { drop(front.oneshot(request).await) });
    }
    until("all hang", || async { (world.thing.hanging.load(SeqCst) == 400).then_some(()) }).await;
    let began = Instant::now();
    assert_eq!(front.clone().oneshot(hang("c")).await.unwrap().status().as_u16(), 429);
    assert_eq!(world.get("/api/v1/namespaces").await.0, 200);
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    // It is deleted while they wait: those go on, others are told that nobody serves it.
    assert_eq!(world.ask("DELETE", &format!("{STORED}/{NAME}"), &[], String::new()).await.0, 200);
    until("nobody serves it", || async { (world.get("/apis/things.example/v1/things").await.0 == 404).then_some(()) }).await;
    assert_eq!(world.thing.hanging.load(SeqCst), 400);
}

#[tokio::test]
async fn an_answer_without_end_is_read_as_far_as_its_reader_reads() {
    let world = World::ready().await;
    let request = Request::get("/apis/things.example/v1/flood").extension(Peer::local(User { name: "jane".into(), ..User::default() }));
    let request = request.body(Full::<Bytes>::default()).unwrap();
    let mut body = world.front.clone().oneshot(request).await.unwrap().into_body();
    let mut read = 0;
    while read < 32 << 20 {
        read += body.frame().await.unwrap().unwrap().data_ref().unwrap().len();
    }
    drop(body);
}

#[tokio::test]
async fn groups_come_in_the_order_of_their_priorities_and_a_lying_server_harms_none() {
    let world = World::ready().await;
    until("its resources", || async { (world.told().await["resources"][0]["resource"] == "things").then_some(()) }).await;
    let names = |list: Value, at: &str| list.pointer(at).unwrap().as_array().unwrap().clone();
    let groups = names(world.json("/apis").await, "/groups");
    assert_eq!(groups[0]["name"], GROUP);
    assert!(groups.iter().any(|group| group["name"] == server::GROUP && group["preferredVersion"]["version"] == "v1"), "{groups:?}");
    assert_eq!(world.json("/apis/things.example").await["kind"], "APIGroup");
    assert_eq!(world.told().await["resources"][0]["responseKind"], json!({"group": "", "version": "", "kind": ""}));
    world.patch(json!({"groupPriorityMinimum": 20_000})).await;
    until("first", || async { (world.aggregated().await["items"][1]["metadata"]["name"] == server::GROUP).then_some(()) }).await;
    // Nothing of it has been lost by that.
    assert_eq!(world.told().await["resources"][0]["resource"], "things");
    let etags = world.thing.not_modified.load(SeqCst);
    let reread = || world.aggregator.remotes.lock()[NAME].to_be_read.notify_one();
    reread();
    until("asked by its etag", || async { (world.thing.not_modified.load(SeqCst) > etags).then_some(()) }).await;
    *world.thing.mood.lock() = Mood::Lying;
    reread();
    until("stale", || async { (world.told().await["freshness"] == "Stale").then_some(()) }).await;
    assert_eq!(world.told().await["resources"][0]["resource"], "things", "what was known last");
    *world.thing.mood.lock() = Mood::Old;
    reread();
    until("legacy", || async { (world.told().await["resources"][0]["singularResource"] == "thing").then_some(()) }).await;
    assert_eq!(world.told().await["freshness"], "Current");
}

#[tokio::test]
async fn openapi_is_merged() {
    let world = World::ready().await;
    let root =
        || async { world.json("/openapi/v3").await["paths"]["apis/things.example/v1"]["serverRelativeURL"].as_str().map(str::to_owned) };
    let url = until("in the root", root).await;
    assert_eq!(world.json(&url).await["by"], "the thing");
    let v2 = until("in v2", || async {
        let v2 = world.json("/openapi/v2").await;
        v2["paths"].get("/apis/things.example/v1/things").is_some().then_some(v2)
    })
    .await;
    assert_eq!(v2["definitions"]["example.Thing"], json!({"type": "object"}));
    assert!(v2["definitions"].get("example.Unused").is_none() && v2["definitions"].get("io.k8s.api.core.v1.Pod").is_some());
    let front = world.front.clone();
    let peer = Peer::local(User { name: "jane".into(), ..User::default() });
    let request =
        Request::get("/openapi/v2").header("accept", "application/com.github.proto-openapi.spec.v2@v1.0+protobuf").extension(peer);
    let bytes =
        front.oneshot(request.body(Full::<Bytes>::default()).unwrap()).await.unwrap().into_body().collect().await.unwrap().to_bytes();
    assert!(bytes.windows(13).any(|part| part == b"example.Thing"));
}

#[tokio::test]
async fn a_built_in_group_version_is_served_by_whom_its_apiservice_names() {
    let world = World::new().await;
    world.service("thing", "space", world.thing.port).await;
    assert_eq!(world.json("/apis/apps/v1/deployments").await["kind"], "DeploymentList");
    world.register(&world.spec(json!({"group": "apps"}))).await;
    until("handed on", || async { world.get("/apis/apps/v1/deployments").await.1.contains("\"believed\":true").then_some(()) }).await;
    // What names API servers is never given away, nor is the core.
    world.register(&world.spec(json!({"group": "apiregistration.k8s.io"}))).await;
    let core = json!({"apiVersion": "apiregistration.k8s.io/v1", "kind": "APIService", "metadata": {"name": "v1."}, "spec": world.spec(json!({"group": ""}))});
    assert_eq!(world.ask("POST", STORED, &[], core.to_string()).await.0, 201);
    world.aggregator.bring_about();
    assert_eq!(world.json("/api/v1/namespaces").await["kind"], "NamespaceList");
    assert_eq!(world.ask("DELETE", &format!("{STORED}/v1.apps"), &[], String::new()).await.0, 200);
    until("ours again", || async { world.get("/apis/apps/v1/deployments").await.1.contains("DeploymentList").then_some(()) }).await;
}

#[tokio::test]
async fn front_proxies_are_believed_and_nobody_else_is() {
    let world = World::ready().await;
    let ask = |shown: Identity, headers: Vec<(&'static str, &'static str)>| {
        let world = &world;
        async move {
            let request = Request::get("/apis/things.example/v1/who").header("host", "api");
            let request = headers.into_iter().fold(request, |request, (name, value)| request.header(name, value));
            let reply = world.connect(&shown).await.send_request(request.body(Full::default()).unwrap()).await.unwrap();
            let code = reply.status().as_u16();
            let seen: Value = serde_json::from_slice(&reply.into_body().collect().await.unwrap().to_bytes()).unwrap_or_default();
            (code, seen["user"][0].as_str().unwrap_or_default().to_owned(), seen["groups"].clone())
        }
    };
    let leaves = world.certs.leaves();
    let bob = vec![("x-remote-user", "bob"), ("x-remote-group", "ops")];
    assert_eq!(ask(leaves.front_proxy_client.clone(), bob.clone()).await, (200, "bob".into(), json!(["ops", "system:authenticated"])));
    // It is nobody itself.
    assert_eq!(ask(leaves.front_proxy_client.clone(), vec![]).await.0, 401);
    // Who is no front proxy is who they are.
    let (code, user, _) = ask(leaves.admin.clone(), bob.clone()).await;
    assert_eq!((code, user.as_str()), (200, "kubernetes-admin"));
    let another = world.certs.issue_client("front-proxy-client", None).unwrap();
    assert_eq!(ask(another, bob).await.1, "front-proxy-client", "of another authority");
}

#[tokio::test]
async fn a_request_that_comes_back_ends() {
    let world = World::new().await;
    world.service("kubernetes", "default", world.address.port()).await;
    let spec =
        world.spec(json!({"service": {"name": "kubernetes", "namespace": "default"}, "caBundle": STANDARD.encode(world.certs.ca())}));
    world.register(&spec).await;
    // Of itself it hears that it is not there, so that it is not: as if it had been once.
    world.until_is("False", "FailedDiscoveryCheck").await;
    let remote = world.aggregator.remotes.lock()[NAME].clone();
    remote.delegate.set_available(true);
    let (code, text) = world.get("/apis/things.example/v1/things").await;
    assert_eq!((code, text.as_str()), (508, "the request came back to the server that handed it on\n"));
}

#[tokio::test]
async fn of_all_that_is_stored_what_has_changed_is_read() {
    let world = World::new().await;
    let stored = |at: usize, priority: usize| {
        json!({"apiVersion": "apiregistration.k8s.io/v1", "kind": "APIService", "metadata": {"name": format!("v1.g{at}.example")},
            "spec": {"group": format!("g{at}.example"), "version": "v1", "groupPriorityMinimum": priority, "versionPriority": 1}})
    };
    let key = |at: usize| format!("apiregistration.k8s.io/apiservices/v1.g{at}.example");
    for at in 0..50 {
        world.put(&key(at), &stored(at, 1000)).await;
    }
    let before = until("all are said to be local", || async {
        let rows = world.aggregator.rows();
        (rows.len() >= 50 && rows.iter().all(|row| row.is_local)).then_some(rows)
    })
    .await;
    world.put(&key(7), &stored(7, 2000)).await;
    let after = until("the change is seen", || async {
        let rows = world.aggregator.rows();
        rows.iter().any(|row| row.spec.group_priority == 2000).then_some(rows)
    })
    .await;
    let read: Vec<&str> =
        before.iter().zip(&after).filter(|(before, after)| !Arc::ptr_eq(before, after)).map(|(row, _)| row.name()).collect();
    assert_eq!((before.len(), after.len(), read), (50, 50, vec!["v1.g7.example"]));
}
