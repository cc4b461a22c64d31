//! A server on one of the stores, and short ways to talk to it.

use std::time::Duration;

use e2e::{Api, Backend, Etcd, Options, Server, eventually, object};
use serde_json::{Value, json};

/// Long enough for a loaded machine; nothing waits longer than it must.
pub const SOON: Duration = Duration::from_secs(30);
pub const CONFIGMAPS: &str = "/api/v1/namespaces/default/configmaps";
pub const PODS: &str = "/api/v1/namespaces/default/pods";

pub struct World {
    pub server: Server,
    pub api: Api,
    // After the server: it must be there until the server has gone.
    _etcd: Option<Etcd>,
}

impl World {
    pub async fn redb() -> Self {
        Self::over(Backend::Redb, None).await
    }

    pub async fn memory() -> Self {
        Self::over(Backend::Memory, None).await
    }

    pub async fn etcd() -> Self {
        let etcd = Etcd::start().await;
        Self::over(Backend::Etcd(etcd.url()), Some(etcd)).await
    }

    async fn over(backend: Backend, etcd: Option<Etcd>) -> Self {
        let server = Server::start(Options { backend, ..Options::default() }).await;
        let api = server.api();
        let world = Self { server, api, _etcd: etcd };
        // What the server itself makes in a namespace comes after its start: whoever counts what is in `default` must not count that.
        let published = format!("{CONFIGMAPS}/kube-root-ca.crt");
        eventually("the CA is published", SOON, async || world.api.get(&published).await.status == 200).await;
        world
    }

    /// A ConfigMap in `default`, as it was answered.
    pub async fn configmap(&self, name: &str, data: Value) -> Value {
        self.api.post(CONFIGMAPS, &configmap(name, data)).await.expect(201)
    }

    pub async fn labelled(&self, name: &str, labels: Value) -> Value {
        let body = object("v1", "ConfigMap", name, json!({"metadata": {"labels": labels}}));
        self.api.post(CONFIGMAPS, &body).await.expect(201)
    }

    /// Waits until pods can be made in a namespace: they need its service account.
    pub async fn pods_can_be_made_in(&self, namespace: &str) {
        let path = format!("/api/v1/namespaces/{namespace}/serviceaccounts/default");
        eventually("the namespace has a service account", SOON, async || self.api.get(&path).await.status == 200).await;
    }

    pub async fn is_gone(&self, path: &str) {
        eventually(&format!("{path} is gone"), SOON, async || self.api.get(path).await.status == 404).await;
    }
}

pub fn configmap(name: &str, data: Value) -> Value {
    object("v1", "ConfigMap", name, json!({"data": data}))
}

/// One container that nobody runs.
pub fn pod_spec() -> Value {
    json!({"containers": [{"name": "c", "image": "example.test/c:1"}]})
}

pub fn pod(name: &str, labels: Value) -> Value {
    object("v1", "Pod", name, json!({"metadata": {"labels": labels}, "spec": pod_spec()}))
}

pub fn names(list: &Value) -> Vec<&str> {
    let items = list["items"].as_array().unwrap_or_else(|| panic!("no list: {list}"));
    items.iter().filter_map(|item| item["metadata"]["name"].as_str()).collect()
}

pub fn version(object: &Value) -> &str {
    object["metadata"]["resourceVersion"].as_str().unwrap_or_else(|| panic!("no resourceVersion: {object}"))
}

pub fn message(status: &Value) -> &str {
    status["message"].as_str().unwrap_or_default()
}
