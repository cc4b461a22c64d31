//! The engine with CustomResourceDefinitions behind its front door, where everything is allowed.

use std::{sync::Arc, time::Duration};

use api::task::Group;
use apiserver::{
    engine::Engine,
    front::{self, Front},
    identity::{Attributes, Auth, Authorizer, Decision, Peer, User},
    kind::Kind,
    openapi::OpenApi,
};
use http::Request;
use http_body_util::{BodyExt, Full};
use serde_json::Value;
use tower::ServiceExt;

pub const DEFINITIONS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
const BOUND: Duration = Duration::from_secs(120);

struct Everyone;

impl Authorizer for Everyone {
    fn authorize(&self, _: &Attributes<'_>) -> Decision {
        Decision::Allow(String::new())
    }
}

pub struct Room {
    pub engine: Arc<Engine>,
    front: Front,
    _group: Group,
}

impl Room {
    pub async fn new() -> Self {
        Self::over(Arc::new(store::memory::Memory::new()), Vec::new()).await
    }

    /// A server that has `more` kinds, and finds what is in the store.
    pub async fn over(store: Arc<dyn store::Store>, more: Vec<Arc<Kind>>) -> Self {
        let group = Group::new();
        let auth = Auth { authorizers: vec![Arc::new(Everyone)], ..Auth::default() };
        let kinds = [vec![Arc::new(apiextensions::kind())], more].concat();
        let engine = Engine::new(store, kinds, auth, group.clone());
        engine.ready().await;
        apiextensions::start(&engine).await;
        let front = front::Front::builder(engine.clone()).mount(OpenApi::default().routes(engine.clone())).build();
        Self { engine, front, _group: group }
    }

    pub async fn send(&self, method: &str, path: &str, body: &Value) -> (u16, Value) {
        let user = User { name: "tester".into(), ..User::default() };
        let content = if method == "PATCH" { "application/merge-patch+json" } else { "application/json" };
        let text = if body.is_null() { String::new() } else { body.to_string() };
        let request = Request::builder().method(method).uri(path).header("content-type", content).header("accept", "application/json");
        let request = request.extension(Peer::local(user)).body(Full::new(text.into())).unwrap();
        let (parts, body) = self.front.clone().oneshot(request).await.unwrap().into_parts();
        let bytes = body.collect().await.unwrap().to_bytes();
        (parts.status.as_u16(), serde_json::from_slice(&bytes).unwrap_or(Value::Null))
    }

    pub async fn post(&self, path: &str, body: &Value) -> (u16, Value) {
        self.send("POST", path, body).await
    }

    pub async fn get(&self, path: &str) -> (u16, Value) {
        self.send("GET", path, &Value::Null).await
    }

    /// Makes a definition and waits until it is served.
    pub async fn define(&self, definition: &Value) {
        let (code, reply) = self.post(DEFINITIONS, definition).await;
        assert_eq!(code, 201, "{reply}");
        self.established(definition["metadata"]["name"].as_str().unwrap()).await;
    }

    pub async fn established(&self, name: &str) {
        let path = format!("{DEFINITIONS}/{name}");
        eventually(name, async || condition(&self.get(&path).await.1, "Established") == "True").await;
    }
}

/// A condition's status; empty where there is none.
pub fn condition<'d>(definition: &'d Value, typ: &str) -> &'d str {
    let all = definition["status"]["conditions"].as_array().map_or(&[][..], Vec::as_slice);
    all.iter().find(|condition| condition["type"] == typ).and_then(|condition| condition["status"].as_str()).unwrap_or_default()
}

pub async fn eventually(what: &str, mut look: impl AsyncFnMut() -> bool) {
    let found = tokio::time::timeout(BOUND, async {
        while !look().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    assert!(found.await.is_ok(), "{what}: not in time");
}
