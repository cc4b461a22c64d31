//! Writes, and webhooks that change them, refuse them, hang, lie or babble: what the server makes of it.

use std::{
    convert::Infallible,
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use api::task::Group;
use base64::{Engine as _, engine::general_purpose::STANDARD};
use e2e::{Server, eventually, object};
use http_body_util::{BodyExt, Full};
use hyper::{Request, Response, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use rcgen::{CertificateParams, Issuer, KeyPair};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio_rustls::{
    TlsAcceptor,
    rustls::{self, pki_types::PrivateKeyDer},
};

use crate::world::{CONFIGMAPS, SOON};

const SECRETS: &str = "/api/v1/namespaces/default/secrets";
const GROUP: &str = "/apis/admissionregistration.k8s.io/v1";

/// A webhook server whose answer goes by the path.
struct Hooks {
    port: u16,
    ca_bundle: String,
    seen: Arc<Seen>,
    group: Group,
}

impl Drop for Hooks {
    fn drop(&mut self) {
        self.group.stop();
    }
}

#[derive(Default)]
struct Seen {
    /// Of the administrator's writes.
    reviews: Mutex<Vec<Value>>,
    /// Calls that hang now.
    hanging: AtomicUsize,
}

impl Hooks {
    async fn start() -> Self {
        let address: IpAddr = "127.0.0.1".parse().unwrap();
        let ca_key = KeyPair::generate().unwrap();
        let mut ca = CertificateParams::new(Vec::new()).unwrap();
        ca.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let ca_certificate = ca.self_signed(&ca_key).unwrap();
        let key = KeyPair::generate().unwrap();
        let issuer = Issuer::new(ca, ca_key);
        let leaf = CertificateParams::new(vec![address.to_string()]).unwrap().signed_by(&key, &issuer).unwrap();
        let private = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = rustls::ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        let config = builder.with_no_client_auth().with_single_cert(vec![leaf.der().clone()], private).unwrap();
        let (acceptor, listener) = (TlsAcceptor::from(Arc::new(config)), TcpListener::bind((address, 0)).await.unwrap());
        let (port, seen) = (listener.local_addr().unwrap().port(), Arc::<Seen>::default());
        let told = seen.clone();
        let group = Group::new();
        let connections = group.child();
        group.spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (acceptor, seen) = (acceptor.clone(), told.clone());
                connections.spawn(async move {
                    let Ok(stream) = acceptor.accept(stream).await else { return };
                    let service = service_fn(move |request| answer(seen.clone(), request));
                    // A client that goes away is no matter.
                    let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
                });
            }
        });
        Self { port, ca_bundle: STANDARD.encode(ca_certificate.pem()), seen, group }
    }

    /// A webhook for creates of `resource`.
    fn hook(&self, path: &str, resource: &str, more: Value) -> Value {
        let url = format!("https://127.0.0.1:{}{path}", self.port);
        let mut hook = json!({
            "name": "hook.example.com", "clientConfig": {"url": url, "caBundle": self.ca_bundle}, "sideEffects": "None",
            "admissionReviewVersions": ["v2", "v1"], "timeoutSeconds": 2,
            "rules": [{"operations": ["CREATE"], "apiGroups": [""], "apiVersions": ["v1"], "resources": [resource]}],
        });
        hook.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        hook
    }
}

async fn answer(seen: Arc<Seen>, request: Request<Incoming>) -> Result<Response<Full<bytes::Bytes>>, Infallible> {
    let path = request.uri().path().to_owned();
    let body = request.into_body().collect().await.unwrap().to_bytes();
    let review: Value = serde_json::from_slice(&body).unwrap();
    let uid = review["request"]["uid"].clone();
    // Controllers write ConfigMaps of their own meanwhile.
    let is_ours = review["request"]["userInfo"]["groups"].as_array().is_some_and(|groups| groups.contains(&json!("system:masters")));
    if is_ours {
        seen.reviews.lock().push(review);
    }
    let patch = STANDARD.encode(r#"[{"op": "add", "path": "/metadata/labels", "value": {"by": "hook"}}]"#);
    let response = match path.as_str() {
        "/patch" => json!({"uid": uid, "allowed": true, "patchType": "JSONPatch", "patch": patch, "warnings": ["it was changed"]}),
        "/deny" => json!({"uid": uid, "allowed": false, "status": {"code": 403, "reason": "Forbidden", "message": "no such thing here"}}),
        "/lie" => json!({"uid": "another", "allowed": true}),
        "/hang" => {
            let _gone = is_ours.then(|| {
                seen.hanging.fetch_add(1, Ordering::SeqCst);
                scopeguard(seen.clone())
            });
            std::future::pending().await
        }
        _ => json!({"uid": uid, "allowed": true}),
    };
    let whole = json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": response});
    let (code, bytes) = match path.as_str() {
        "/babble" => (200, vec![b'x'; 1 << 20]),
        "/flood" => (200, vec![b' '; 20 << 20]),
        "/redirect" => (301, Vec::new()),
        "/broken" => (500, b"out of order".to_vec()),
        _ => (200, whole.to_string().into_bytes()),
    };
    let response = Response::builder().status(code).header("location", "https://127.0.0.1:1/").body(Full::new(bytes.into())).unwrap();
    Ok(response)
}

struct Gone(Arc<Seen>);

fn scopeguard(seen: Arc<Seen>) -> Gone {
    Gone(seen)
}

impl Drop for Gone {
    fn drop(&mut self) {
        self.0.hanging.fetch_sub(1, Ordering::SeqCst);
    }
}

async fn configure(server: &Server, resource: &str, kind: &str, hook: Value) {
    let api = server.api();
    api.delete(&format!("{GROUP}/{resource}/it")).await;
    api.post(&format!("{GROUP}/{resource}"), &object("admissionregistration.k8s.io/v1", kind, "it", json!({"webhooks": [hook]})))
        .await
        .expect(201);
}

async fn validating(server: &Server, hook: Value) {
    configure(server, "validatingwebhookconfigurations", "ValidatingWebhookConfiguration", hook).await;
}

fn configmap(name: &str) -> Value {
    object("v1", "ConfigMap", name, json!({"data": {"k": "v"}}))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_webhook_changes_what_is_written() {
    let (server, hooks) = (Server::start(e2e::Options::default()).await, Hooks::start().await);
    let api = server.api();
    configure(&server, "mutatingwebhookconfigurations", "MutatingWebhookConfiguration", hooks.hook("/patch", "configmaps", json!({})))
        .await;
    let reply = api.post(CONFIGMAPS, &configmap("one")).await;
    assert!(reply.header("warning").contains("it was changed"), "{}", reply.header("warning"));
    assert_eq!(reply.expect(201)["metadata"]["labels"], json!({"by": "hook"}));
    let reviews = hooks.seen.reviews.lock().clone();
    let request = &reviews[0]["request"];
    assert_eq!(
        (reviews.len(), &reviews[0]["apiVersion"], &reviews[0]["kind"]),
        (1, &json!("admission.k8s.io/v1"), &json!("AdmissionReview"))
    );
    assert_eq!((&request["operation"], &request["name"], &request["namespace"]), (&json!("CREATE"), &json!("one"), &json!("default")));
    assert_eq!(request["kind"], json!({"group": "", "version": "v1", "kind": "ConfigMap"}));
    assert_eq!(request["resource"], json!({"group": "", "version": "v1", "resource": "configmaps"}));
    assert_eq!((&request["object"]["data"], &request["oldObject"], &request["dryRun"]), (&json!({"k": "v"}), &Value::Null, &json!(false)));
    assert_eq!(request["userInfo"]["groups"], json!(["system:masters", "system:authenticated"]));
    assert_eq!(request["options"]["kind"], "CreateOptions");
    // Of other namespaces only, from here on.
    let selector = json!({"namespaceSelector": {"matchLabels": {"hooked": "yes"}}});
    configure(&server, "mutatingwebhookconfigurations", "MutatingWebhookConfiguration", hooks.hook("/patch", "configmaps", selector)).await;
    assert_eq!(api.post(CONFIGMAPS, &configmap("two")).await.expect(201)["metadata"]["labels"], Value::Null);
    api.post("/api/v1/namespaces", &object("v1", "Namespace", "hooked", json!({"metadata": {"labels": {"hooked": "yes"}}})))
        .await
        .expect(201);
    let made = api.post("/api/v1/namespaces/hooked/configmaps", &configmap("three")).await.expect(201);
    assert_eq!(made["metadata"]["labels"], json!({"by": "hook"}));
    server.assert_sound();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_webhook_refuses_and_its_failures_are_its_policys() {
    let (server, hooks) = (Server::start(e2e::Options::default()).await, Hooks::start().await);
    let api = server.api();
    validating(&server, hooks.hook("/deny", "configmaps", json!({}))).await;
    let refused = api.post(CONFIGMAPS, &configmap("no")).await.refused(403, "Forbidden");
    assert_eq!(refused["message"], "admission webhook \"hook.example.com\" denied the request: no such thing here");
    let calls = [
        ("/lie", "received invalid webhook response: expected response.uid="),
        ("/babble", "received invalid webhook response: couldn't get version/kind"),
        ("/flood", "failed to call webhook: Post \"https://127.0.0.1:"),
        ("/redirect", "failed to call webhook: the server rejected our request"),
        ("/broken", "an error on the server (\"out of order\") has prevented the request from succeeding"),
        ("/hang", "/hang?timeout=2s\": context deadline exceeded"),
    ];
    for (path, words) in calls {
        validating(&server, hooks.hook(path, "configmaps", json!({"failurePolicy": "Fail"}))).await;
        let failed = api.post(CONFIGMAPS, &configmap("no")).await.refused(500, "InternalError");
        let message = failed["message"].as_str().unwrap();
        assert!(
            message.starts_with("Internal error occurred: failed calling webhook \"hook.example.com\": ") && message.contains(words),
            "{message}"
        );
        validating(&server, hooks.hook(path, "configmaps", json!({"failurePolicy": "Ignore"}))).await;
        api.post(CONFIGMAPS, &configmap(&format!("yes-{}", &path[1..]))).await.expect(201);
    }
    let stranger = Hooks::start().await;
    let config = json!({"clientConfig": {"url": format!("https://127.0.0.1:{}/", stranger.port), "caBundle": hooks.ca_bundle}});
    validating(&server, hooks.hook("/", "configmaps", config)).await;
    let failed = api.post(CONFIGMAPS, &configmap("no")).await.refused(500, "InternalError");
    assert!(failed["message"].as_str().unwrap().contains("certificate"), "{failed}");
    validating(&server, hooks.hook("/", "configmaps", json!({"sideEffects": "NoneOnDryRun"}))).await;
    api.post(&format!("{CONFIGMAPS}?dryRun=All"), &configmap("dry")).await.expect(201);
    let of_none = json!({"clientConfig": {"service": {"namespace": "default", "name": "none"}, "caBundle": hooks.ca_bundle}});
    validating(&server, hooks.hook("/", "configmaps", of_none)).await;
    let failed = api.post(CONFIGMAPS, &configmap("no")).await.refused(500, "InternalError");
    let message = failed["message"].as_str().unwrap();
    assert!(message.contains("Post \"https://none.default.svc:443/?timeout=2s\": service \"none\" not found"), "{message}");
    server.assert_sound();
}

/// Two are asked at a time for each of many writes that each take a turn: all come to their end.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_writes_that_several_webhooks_see_come_to_their_end() {
    let (server, hooks) = (Server::start(e2e::Options::default()).await, Hooks::start().await);
    let more = |name: &str| hooks.hook("/", "configmaps", json!({"name": name, "timeoutSeconds": 30}));
    let both = json!({"webhooks": [more("one.example.com"), more("two.example.com"), more("three.example.com")]});
    let kind = "ValidatingWebhookConfiguration";
    let configuration = object("admissionregistration.k8s.io/v1", kind, "it", both);
    server.api().post(&format!("{GROUP}/validatingwebhookconfigurations"), &configuration).await.expect(201);
    let writes = (0..24).map(|number| {
        let (api, body) = (server.api(), json!({"data": {"k": "x".repeat(100_000)}}));
        async move { api.post(CONFIGMAPS, &object("v1", "ConfigMap", &format!("large-{number}"), body)).await.expect(201) }
    });
    let all = futures::future::join_all(writes);
    tokio::time::timeout(SOON, all).await.expect("all are answered");
    assert_eq!(hooks.seen.reviews.lock().len(), 24 * 3);
    server.assert_sound();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn webhooks_that_hang_hold_up_nobody_else() {
    let (server, hooks) = (Server::start(e2e::Options::default()).await, Hooks::start().await);
    let api = server.api();
    validating(&server, hooks.hook("/hang", "configmaps", json!({"timeoutSeconds": 10}))).await;
    let large = |kind: &str, name: &str, field: &str| object("v1", kind, name, json!({field: {"k": "x".repeat(100_000)}}));
    let waiting = Group::new();
    for number in 0..20 {
        let (api, body) = (server.api(), large("ConfigMap", &format!("hung-{number}"), "data"));
        waiting.spawn(async move { drop(api.post(CONFIGMAPS, &body).await) });
    }
    eventually("all hang", SOON, async || hooks.seen.hanging.load(Ordering::SeqCst) == 20).await;
    for number in 0..10 {
        api.post(SECRETS, &large("Secret", &format!("large-{number}"), "stringData")).await.expect(201);
    }
    api.get("/readyz").await.status.eq(&200).then_some(()).expect("it is ready");
    assert_eq!(hooks.seen.hanging.load(Ordering::SeqCst), 20, "they hang all the while");
    waiting.stop();
    eventually("who is gone is not asked for any more", SOON, async || hooks.seen.hanging.load(Ordering::SeqCst) == 0).await;
    server.assert_sound();
}
