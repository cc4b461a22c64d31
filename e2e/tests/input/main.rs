//! Bad input: the right status, nothing stored, the server goes on, and nothing in it panics.

mod bodies;
mod credentials;
mod flood;
mod frames;
mod wire;

use std::time::Duration;

use e2e::{Api, Backend, Options, Server};
use serde_json::Value;

pub const CONFIGMAPS: &str = "/api/v1/namespaces/default/configmaps";
pub const BOUND: Duration = Duration::from_secs(30);

/// A server that is asked afterwards whether all is as it was.
pub struct Victim {
    pub server: Server,
    pub api: Api,
    before: Vec<String>,
}

impl Victim {
    pub async fn new() -> Self {
        let server = Server::start(Options { backend: Backend::Memory, ..Options::default() }).await;
        let api = server.api();
        // What the server itself makes in a namespace is there before we look.
        e2e::eventually("the CA is published", BOUND, async || api.get(&format!("{CONFIGMAPS}/kube-root-ca.crt")).await.status == 200)
            .await;
        let before = stored(&api).await;
        Self { server, api, before }
    }

    /// Nothing was stored, the server is ready, and has not panicked.
    pub async fn unharmed(&self) {
        assert_eq!(stored(&self.api).await, self.before);
        assert_eq!(self.server.api().get("/readyz").await.status, 200);
        self.server.assert_sound();
    }
}

/// What a request could have left behind.
async fn stored(api: &Api) -> Vec<String> {
    let mut all = Vec::new();
    for resource in ["configmaps", "secrets", "pods", "services"] {
        let list = api.get(&format!("/api/v1/namespaces/default/{resource}")).await.expect(200);
        let name = |item: &Value| format!("{resource}/{}", item["metadata"]["name"].as_str().unwrap_or_default());
        all.extend(list["items"].as_array().unwrap().iter().map(name));
    }
    all
}
