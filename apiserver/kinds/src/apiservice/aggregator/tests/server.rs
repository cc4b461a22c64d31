//! An aggregated API server, as small as one can be: it believes front proxies alone, and says who asks for what.

use std::{
    convert::Infallible,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    task::{Context, Poll},
    time::Duration,
};

use api::{certificate::Identity, task::Group};
use apiserver::tls::server_config;
use bytes::Bytes;
use http::{Request, Response, header};
use http_body::Frame;
use http_body_util::{BodyExt, Full, StreamBody, combinators::BoxBody};
use hyper::{body::Incoming, server::conn::http1, service::service_fn, upgrade};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::{net::TcpListener, time::sleep};
use tokio_rustls::TlsAcceptor;

pub const GROUP: &str = "things.example";
const AGGREGATED: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";

/// What it has been asked, and how it behaves.
#[derive(Default)]
pub struct Thing {
    pub port: u16,
    pub mood: Mutex<Mood>,
    pub hanging: AtomicUsize,
    pub connections: AtomicUsize,
    pub not_modified: AtomicUsize,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mood {
    #[default]
    Good,
    /// 500 to all.
    Broken,
    /// What it says of itself is nonsense.
    Lying,
    /// It has no aggregated discovery and no OpenAPI v3.
    Old,
}

type Answer = Response<BoxBody<Bytes, Infallible>>;

impl Thing {
    pub async fn start(group: &Group, front_proxy_ca: &str, serving: &Identity) -> Arc<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let thing = Arc::new(Self { port: listener.local_addr().unwrap().port(), ..Self::default() });
        let acceptor = TlsAcceptor::from(Arc::new(server_config(front_proxy_ca, serving).unwrap()));
        let (told, connections) = (thing.clone(), group.clone());
        group.spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (acceptor, thing) = (acceptor.clone(), told.clone());
                thing.connections.fetch_add(1, SeqCst);
                let group = connections.clone();
                connections.spawn(async move {
                    let Ok(stream) = acceptor.accept(stream).await else { return };
                    let is_proxy = stream.get_ref().1.peer_certificates().is_some_and(|chain| !chain.is_empty());
                    let service = service_fn(move |request| answer(thing.clone(), group.clone(), is_proxy, request));
                    // A client that goes away is no matter.
                    let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).with_upgrades().await;
                });
            }
        });
        thing
    }
}

fn whole(code: u16, content_type: &str, text: impl Into<Bytes>) -> Answer {
    let body = Full::new(text.into()).boxed();
    Response::builder()
        .status(code)
        .header("content-type", content_type)
        .header("connection", "x-hop")
        .header("x-hop", "1")
        .body(body)
        .unwrap()
}

fn json_of(value: &Value) -> Answer {
    whole(200, "application/json", value.to_string())
}

async fn answer(thing: Arc<Thing>, group: Group, is_proxy: bool, mut request: Request<Incoming>) -> Result<Answer, Infallible> {
    let mood = *thing.mood.lock();
    if mood == Mood::Broken {
        return Ok(whole(500, "text/plain", "out of order"));
    }
    let path = request.uri().path().to_owned();
    Ok(match path.as_str() {
        "/apis" => discovery(&thing, mood, &request),
        "/openapi/v3" if mood == Mood::Good => {
            json_of(&json!({"paths": {"apis/things.example/v1": {"serverRelativeURL": "/openapi/v3/apis/things.example/v1?hash=H1"}}}))
        }
        "/openapi/v3/apis/things.example/v1" => json_of(&json!({"openapi": "3.0.0", "by": "the thing"})),
        "/openapi/v2" => openapi(mood),
        "/apis/things.example/v1" => json_of(&json!({"kind": "APIResourceList", "groupVersion": "things.example/v1", "resources": [
            {"name": "things", "singularName": "thing", "namespaced": true, "kind": "Thing", "verbs": ["get", "list"]}]})),
        "/apis/things.example/v1/hang" => {
            thing.hanging.fetch_add(1, SeqCst);
            let _gone = Gone(thing.clone());
            std::future::pending().await
        }
        "/apis/things.example/v1/redirect" => {
            let mut away = whole(302, "text/plain", "");
            away.headers_mut().insert(header::LOCATION, "https://127.0.0.1:1/".parse().unwrap());
            away
        }
        "/apis/things.example/v1/flood" => Response::new(BodyExt::boxed(Flood)),
        "/apis/things.example/v1/upload" => {
            let mut bytes = 0;
            while let Some(Ok(frame)) = request.body_mut().frame().await {
                bytes += frame.data_ref().map_or(0, Bytes::len);
            }
            json_of(&json!({"bytes": bytes}))
        }
        "/apis/things.example/v1/pods/x/exec" if request.headers().contains_key(header::UPGRADE) => {
            let ours = upgrade::on(&mut request);
            group.spawn(async move {
                let stream = ours.await.unwrap();
                let (mut read, mut write) = tokio::io::split(TokioIo::new(stream));
                // The other end says when it is over.
                let _ = tokio::io::copy(&mut read, &mut write).await;
            });
            Response::builder().status(101).header("connection", "Upgrade").header("upgrade", "echo").body(Full::default().boxed()).unwrap()
        }
        _ if request.uri().query().is_some_and(|query| query.contains("watch=1")) => {
            let lines = futures::stream::unfold(0, |n| async move {
                sleep(Duration::from_millis(50)).await;
                (n < 2).then(|| (Ok(Frame::data(Bytes::from(format!("{{\"n\":{n}}}\n")))), n + 1))
            });
            Response::new(BodyExt::boxed(StreamBody::new(lines)))
        }
        _ => json_of(&who(&request, is_proxy)),
    })
}

/// Who asks, as far as it is believed.
fn who(request: &Request<Incoming>, is_proxy: bool) -> Value {
    let all = |name: &str| request.headers().get_all(name).iter().map(|v| v.to_str().unwrap_or("?").to_owned()).collect::<Vec<_>>();
    let seen: Vec<&str> = request.headers().keys().map(|name| name.as_str()).collect();
    json!({
        "believed": is_proxy, "user": all("x-remote-user"), "uid": all("x-remote-uid"), "groups": all("x-remote-group"), "path": request.uri().path(),
        "query": request.uri().query(), "method": request.method().as_str(), "headers": seen, "host": all("host"), "auditID": all("audit-id"),
    })
}

fn discovery(thing: &Thing, mood: Mood, request: &Request<Incoming>) -> Answer {
    if mood == Mood::Old {
        return whole(404, "text/plain", "404 page not found");
    }
    if request.headers().get(header::IF_NONE_MATCH).is_some_and(|etag| etag == "\"one\"") && mood == Mood::Good {
        thing.not_modified.fetch_add(1, SeqCst);
        return whole(304, "text/plain", "");
    }
    let resource =
        if mood == Mood::Lying { json!({"resource": 7}) } else { json!({"resource": "things", "scope": "Namespaced", "verbs": ["get"]}) };
    let versions = json!([{"version": "v1", "resources": [resource], "freshness": "Current"}]);
    let list = json!({"kind": "APIGroupDiscoveryList", "apiVersion": "apidiscovery.k8s.io/v2", "items": [
        {"metadata": {"name": "apps"}, "versions": []}, {"metadata": {"name": GROUP}, "versions": versions}]});
    let mut answer = whole(200, AGGREGATED, list.to_string());
    answer.headers_mut().insert(header::ETAG, "\"one\"".parse().unwrap());
    answer
}

fn openapi(mood: Mood) -> Answer {
    if mood == Mood::Lying {
        return whole(200, "application/json", "[1,2");
    }
    json_of(&json!({
        "swagger": "2.0",
        "paths": {"/apis/things.example/v1/things": {"get": {"responses": {"200": {"schema": {"$ref": "#/definitions/example.Thing"}}}}}, "/api/v1/pods": {"get": {}}},
        "definitions": {"example.Thing": {"type": "object"}, "example.Unused": {"type": "object"}},
    }))
}

struct Gone(Arc<Thing>);

impl Drop for Gone {
    fn drop(&mut self) {
        self.0.hanging.fetch_sub(1, SeqCst);
    }
}

/// A body without end.
struct Flood;

impl http_body::Body for Flood {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        static ZEROS: [u8; 64 << 10] = [0; 64 << 10];
        Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(&ZEROS)))))
    }
}
