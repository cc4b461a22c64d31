//! A definition whose versions a webhook converts: it is asked over TLS, in batches; it may change labels and annotations alone; what fails is told
//! in upstream's words, and stores nothing.

use std::{
    convert::Infallible,
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use api::task::Group;
use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{Request, Response, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use rcgen::{CertificateParams, Issuer, KeyPair};
use rustls_pki_types::PrivateKeyDer;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use crate::room::{DEFINITIONS, Room, eventually};

const OLD: &str = "/apis/test.io/v1/namespaces/default/knobs";
const NEW: &str = "/apis/test.io/v2/namespaces/default/knobs";

/// What becomes of a converted object, or of the whole answer.
type Spoil = fn(&mut Value);

/// Between v1 (`spec.size`) and v2 (`spec.width`).
struct Hook {
    port: u16,
    ca_bundle: String,
    spoil: Arc<Mutex<Spoil>>,
    /// How many objects each call had.
    calls: Arc<Mutex<Vec<usize>>>,
    hangs: Arc<AtomicUsize>,
    group: Group,
}

impl Drop for Hook {
    fn drop(&mut self) {
        self.group.stop();
    }
}

impl Hook {
    async fn start() -> Self {
        let address: IpAddr = "127.0.0.1".parse().unwrap();
        let ca_key = KeyPair::generate().unwrap();
        let mut ca = CertificateParams::new(Vec::new()).unwrap();
        ca.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let ca_bundle = STANDARD.encode(ca.self_signed(&ca_key).unwrap().pem());
        let key = KeyPair::generate().unwrap();
        let leaf = CertificateParams::new(vec![address.to_string()]).unwrap().signed_by(&key, &Issuer::new(ca, ca_key)).unwrap();
        let private = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = rustls::ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        let config = builder.with_no_client_auth().with_single_cert(vec![leaf.der().clone()], private).unwrap();
        let (acceptor, listener) = (TlsAcceptor::from(Arc::new(config)), TcpListener::bind((address, 0)).await.unwrap());
        let (port, group) = (listener.local_addr().unwrap().port(), Group::new());
        let nothing: Spoil = |_| {};
        let (spoil, calls, hangs) = (Arc::new(Mutex::new(nothing)), Arc::<Mutex<Vec<usize>>>::default(), Arc::<AtomicUsize>::default());
        let hook = Self { port, ca_bundle, spoil: spoil.clone(), calls: calls.clone(), hangs: hangs.clone(), group: group.clone() };
        let connections = group.child();
        group.spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (acceptor, spoil, calls, hangs) = (acceptor.clone(), spoil.clone(), calls.clone(), hangs.clone());
                connections.spawn(async move {
                    let Ok(stream) = acceptor.accept(stream).await else { return };
                    let service = service_fn(move |request| answer(request, spoil.clone(), calls.clone(), hangs.clone()));
                    let _ends = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
                });
            }
        });
        hook
    }

    fn definition(&self, stored: &str, review: &str) -> Value {
        let version = |name: &str, field: &str| {
            let schema = json!({"type": "object", "properties": {
                "spec": {"type": "object", "properties": {field: {"type": "integer"}}},
                "status": {"type": "object", "properties": {"turned": {"type": "integer"}}},
            }});
            json!({"name": name, "served": true, "storage": name == stored, "schema": {"openAPIV3Schema": schema}, "subresources": {"status": {}}})
        };
        let client = json!({"url": format!("https://127.0.0.1:{}/convert", self.port), "caBundle": self.ca_bundle});
        json!({
            "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": {"name": "knobs.test.io"},
            "spec": {
                "group": "test.io", "scope": "Namespaced", "names": {"plural": "knobs", "kind": "Knob"},
                "versions": [version("v1", "size"), version("v2", "width")],
                "conversion": {"strategy": "Webhook", "webhook": {"clientConfig": client, "conversionReviewVersions": [review]}},
            },
        })
    }
}

async fn answer(
    request: Request<Incoming>,
    spoil: Arc<Mutex<Spoil>>,
    calls: Arc<Mutex<Vec<usize>>>,
    hangs: Arc<AtomicUsize>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    assert_eq!((request.method().as_str(), request.uri().to_string()), ("POST", "/convert?timeout=30s".to_owned()));
    let review: Value = serde_json::from_slice(&request.into_body().collect().await.unwrap().to_bytes()).unwrap();
    if hangs.load(Ordering::SeqCst) > 0 {
        std::future::pending::<()>().await;
    }
    let (to, mut objects) = (review["request"]["desiredAPIVersion"].clone(), review["request"]["objects"].clone());
    calls.lock().push(objects.as_array().unwrap().len());
    for object in objects.as_array_mut().unwrap() {
        assert_ne!(object["apiVersion"], to, "only what is in another version is asked about");
        let (from, field) = if to == "test.io/v2" { ("size", "width") } else { ("width", "size") };
        object["apiVersion"] = to.clone();
        if let Some(worth) = object["spec"].as_object_mut().and_then(|spec| spec.remove(from)) {
            object["spec"][field] = worth;
        }
    }
    let response = json!({"uid": review["request"]["uid"], "convertedObjects": objects, "result": {"status": "Success"}});
    let mut out = json!({"apiVersion": review["apiVersion"], "kind": review["kind"], "response": response});
    let spoil = *spoil.lock();
    spoil(&mut out);
    let code = out.get("code").and_then(Value::as_u64).and_then(|code| u16::try_from(code).ok()).unwrap_or(200);
    Ok(Response::builder().status(code).body(Full::new(out.to_string().into())).unwrap())
}

fn knob(name: &str, version: &str) -> Value {
    let field = if version == "v1" { "size" } else { "width" };
    json!({"apiVersion": format!("test.io/{version}"), "kind": "Knob", "metadata": {"name": name}, "spec": {field: 3}})
}

async fn room(review: &str) -> (Room, Hook) {
    let (room, hook) = (Room::new().await, Hook::start().await);
    room.define(&hook.definition("v1", review)).await;
    (room, hook)
}

#[tokio::test]
async fn objects_are_read_written_listed_and_migrated_in_another_version() {
    for review in ["v1", "v1beta1"] {
        let (room, hook) = room(review).await;
        for at in 0..50 {
            assert_eq!(room.post(OLD, &knob(&format!("k{at:02}"), "v1")).await.0, 201);
        }
        assert!(hook.calls.lock().is_empty(), "the stored version needs nobody");
        let (code, list) = room.get(NEW).await;
        assert_eq!((code, list["items"][7]["spec"]["width"].clone()), (200, json!(3)), "{list}");
        assert_eq!(*hook.calls.lock(), [50], "a list is one call");
        let (code, made) = room.post(NEW, &knob("new", "v2")).await;
        assert_eq!((code, &made["spec"]["width"], &made["apiVersion"]), (201, &json!(3), &json!("test.io/v2")), "{made}");
        assert_eq!(room.get(&format!("{OLD}/new")).await.1["spec"]["size"], 3);
        let status = json!({"status": {"turned": 9}});
        assert_eq!(room.send("PATCH", &format!("{NEW}/k00/status"), &status).await.0, 200);
        let (_, patched) = room.send("PATCH", &format!("{NEW}/k00"), &json!({"spec": {"width": 4}})).await;
        assert_eq!((&patched["spec"]["width"], &patched["status"]["turned"]), (&json!(4), &json!(9)));
        assert_eq!(room.get(&format!("{OLD}/k00")).await.1["spec"]["size"], 4);
        // The other version is stored from now on: an update that changes nothing brings an object over.
        let stored = hook.definition("v2", review)["spec"]["versions"].clone();
        assert_eq!(room.send("PATCH", &format!("{DEFINITIONS}/knobs.test.io"), &json!({"spec": {"versions": stored}})).await.0, 200);
        let before = room.get(&format!("{NEW}/k01")).await.1;
        eventually("k01 is stored as v2", async || {
            let (code, after) = room.send("PATCH", &format!("{NEW}/k01"), &json!({"spec": {"width": 3}})).await;
            code == 200 && after["metadata"]["resourceVersion"] != before["metadata"]["resourceVersion"]
        })
        .await;
        hook.calls.lock().clear();
        assert_eq!(room.get(&format!("{NEW}/k01")).await.1["spec"]["width"], 3);
        assert!(hook.calls.lock().is_empty(), "nobody is asked about it any more");
        assert_eq!(room.send("DELETE", &format!("{OLD}/k01"), &Value::Null).await.0, 200);
    }
}

#[tokio::test]
async fn labels_and_annotations_are_the_webhooks_and_other_metadata_are_not() {
    let (room, hook) = room("v1").await;
    let mut object = knob("a", "v1");
    object["metadata"]["labels"] = json!({"was": "here"});
    assert_eq!(room.post(OLD, &object).await.0, 201);
    *hook.spoil.lock() = |answer| {
        let object = &mut answer["response"]["convertedObjects"][0];
        object["metadata"]["labels"] = json!({"now": "there"});
        object["metadata"]["annotations"] = json!({"a": "b"});
        object["metadata"]["finalizers"] = json!(["test.io/never"]);
        object["metadata"]["generation"] = json!(77);
    };
    let metadata = room.get(&format!("{NEW}/a")).await.1["metadata"].clone();
    assert_eq!((&metadata["labels"], &metadata["annotations"]), (&json!({"now": "there"}), &json!({"a": "b"})));
    assert_eq!((&metadata["generation"], metadata.get("finalizers")), (&json!(1), None));
    assert_eq!(metadata["uid"], room.get(&format!("{OLD}/a")).await.1["metadata"]["uid"]);
}

#[tokio::test]
async fn what_a_webhook_does_wrong_is_told_in_upstreams_words_and_stores_nothing() {
    let cases: [(Spoil, &str); 14] = [
        (|answer| *answer = json!([]), "failed: "),
        (|answer| answer["code"] = json!(503), "failed: an error on the server"),
        (|answer| answer["code"] = json!(404), "failed: the server could not find the requested resource"),
        (|answer| answer["code"] = json!(302), "failed: the server rejected our request: 302"),
        (
            |answer| answer["kind"] = json!("Other"),
            "failed: expected webhook response of apiextensions.k8s.io/v1, Kind=ConversionReview, got apiextensions.k8s.io/v1, Kind=Other",
        ),
        (|answer| answer["response"] = Value::Null, "failed: no response provided"),
        (|answer| answer["response"]["uid"] = json!("x"), "failed: expected response.uid=\""),
        (|answer| answer["response"]["result"] = json!({"status": "Failure", "message": "no such knob"}), "failed: no such knob"),
        (|answer| answer["response"]["result"] = json!({}), "failed: response.result.status was '', not 'Success'"),
        (|answer| answer["response"]["convertedObjects"] = json!([]), "returned 0 objects, expected 1"),
        (
            |answer| answer["response"]["convertedObjects"][0]["apiVersion"] = json!("test.io/v9"),
            "returned invalid object at index 0: invalid groupVersion (expected test.io/v2, received test.io/v9)",
        ),
        (
            |answer| answer["response"]["convertedObjects"][0]["kind"] = json!("Door"),
            "returned invalid object at index 0: invalid kind (expected Knob, received Door)",
        ),
        (
            |answer| answer["response"]["convertedObjects"][0]["metadata"]["name"] = json!("b"),
            "returned invalid object: must have the same name: a != b",
        ),
        (
            |answer| answer["response"]["convertedObjects"][0]["metadata"]["labels"] = json!({"a": "not a value!"}),
            "returned invalid metadata: metadata.labels: Invalid value: \"not a value!\"",
        ),
    ];
    let (room, hook) = room("v1").await;
    assert_eq!(room.post(OLD, &knob("a", "v1")).await.0, 201);
    let before = room.get(&format!("{OLD}/a")).await.1;
    for (spoil, words) in cases {
        *hook.spoil.lock() = spoil;
        for (method, path, body) in [
            ("GET", format!("{NEW}/a"), Value::Null),
            ("GET", NEW.to_owned(), Value::Null),
            ("PATCH", format!("{NEW}/a"), json!({"spec": {"width": 9}})),
        ] {
            let (code, status) = room.send(method, &path, &body).await;
            let message = status["message"].as_str().unwrap_or_default();
            assert_eq!((code, status.get("reason")), (500, None), "{words}: {status}");
            assert!(message.starts_with("conversion webhook for test.io/v1, Kind=Knob ") && message.contains(words), "{words}\n{message}");
        }
    }
    assert_eq!(room.get(&format!("{OLD}/a")).await, (200, before));
}

#[tokio::test]
async fn a_webhook_that_hangs_or_is_gone_holds_up_nobody_else() {
    let (room, hook) = room("v1").await;
    assert_eq!(room.post(OLD, &knob("a", "v1")).await.0, 201);
    hook.hangs.store(1, Ordering::SeqCst);
    let read = format!("{NEW}/a");
    let mut waiting: Vec<_> = (0..20).map(|_| Box::pin(room.get(&read))).collect();
    for one in &mut waiting {
        assert!(futures::poll!(one).is_pending());
    }
    assert_eq!(room.post(OLD, &knob("b", "v1")).await.0, 201);
    assert_eq!(room.send("PATCH", &format!("{OLD}/a"), &json!({"spec": {"size": 8}})).await.0, 200);
    assert_eq!(room.send("DELETE", &format!("{OLD}/b"), &Value::Null).await.0, 200);
    drop(waiting);
    hook.group.stop();
    let gone = tokio::time::timeout(Duration::from_secs(20), async {
        loop {
            let (code, status) = room.get(&read).await;
            if code == 500 {
                break status;
            }
        }
    });
    let message = gone.await.unwrap()["message"].as_str().unwrap_or_default().to_owned();
    assert!(message.starts_with("conversion webhook for test.io/v1, Kind=Knob failed: Post \"https://127.0.0.1:"), "{message}");
    // The definition can be deleted all the same, objects and all.
    assert_eq!(room.send("DELETE", &format!("{DEFINITIONS}/knobs.test.io"), &Value::Null).await.0, 200);
    eventually("the definition goes", async || room.get(&format!("{DEFINITIONS}/knobs.test.io")).await.0 == 404).await;
}
