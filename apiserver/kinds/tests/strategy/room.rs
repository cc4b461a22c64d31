//! The real engine over the memory store, behind its front door, where everything is allowed.

use std::sync::Arc;

use api::task::Group;
use apiserver::{
    engine::Engine,
    front::{self, Front},
    identity::{Attributes, Auth, Authorizer, Decision, Peer, User},
    kind::Kind,
};
use http::Request;
use http_body_util::{BodyExt, Full};
use serde_json::Value;
use tower::ServiceExt;

pub struct Everyone;

impl Authorizer for Everyone {
    fn authorize(&self, _: &Attributes<'_>) -> Decision {
        Decision::Allow(String::new())
    }
}

pub struct Room {
    pub front: Front,
    pub engine: Arc<Engine>,
    pub group: Group,
}

impl Room {
    pub async fn new(kinds: Vec<Arc<Kind>>, auth: Auth) -> Self {
        let group = Group::new();
        let auth = Auth { authorizers: vec![Arc::new(Everyone)], ..auth };
        let engine = Engine::new(Arc::new(store::memory::Memory::new()), kinds, auth, group.clone());
        engine.ready().await;
        Self { front: front::service(engine.clone()), engine, group }
    }

    pub async fn send(&self, method: &str, path: &str, body: Value) -> (u16, Value) {
        self.ask(method, path, "application/json", body).await
    }

    pub async fn ask(&self, method: &str, path: &str, accept: &str, body: Value) -> (u16, Value) {
        let user = User { name: "tester".into(), ..User::default() };
        let content = if method == "PATCH" { "application/merge-patch+json" } else { "application/json" };
        let text = if body.is_null() { String::new() } else { body.to_string() };
        let request = Request::builder().method(method).uri(path).header("content-type", content).header("accept", accept);
        let request = request.extension(Peer::local(user)).body(Full::new(text.into())).unwrap();
        let (parts, body) = self.front.clone().oneshot(request).await.unwrap().into_parts();
        let bytes = body.collect().await.unwrap().to_bytes();
        (parts.status.as_u16(), serde_json::from_slice(&bytes).unwrap_or_else(|_| panic!("{bytes:?}")))
    }

    pub async fn post(&self, path: &str, body: Value) -> (u16, Value) {
        self.send("POST", path, body).await
    }

    pub async fn patch(&self, path: &str, body: Value) -> (u16, Value) {
        self.send("PATCH", path, body).await
    }

    pub async fn get(&self, path: &str) -> Value {
        Self::ok(self.send("GET", path, Value::Null).await)
    }

    pub async fn delete(&self, path: &str) -> Value {
        Self::ok(self.send("DELETE", path, Value::Null).await)
    }

    /// The answer of a request that must have succeeded.
    #[track_caller]
    pub fn ok(reply: (u16, Value)) -> Value {
        assert!(reply.0 < 300, "{reply:?}");
        reply.1
    }
}
