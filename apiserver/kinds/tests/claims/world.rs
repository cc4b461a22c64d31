//! A server over a shared store, and what stands in that store: Services, addresses, node ports.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use api::task::Group;
use apiserver::{
    engine::Engine,
    front::{self, Front},
    identity::{Attributes, Auth, Authorizer, Decision, Peer, User},
};
use base64::Engine as _;
use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Full};
use kinds::Config;
use serde_json::{Value, json};
use store::{Op, Range, Store, Txn};
use tower::ServiceExt;

pub const SERVICES: &str = "/api/v1/namespaces/default/services";
pub const ADDRESSES: &str = "/apis/networking.k8s.io/v1/ipaddresses";
pub const CIDRS: &str = "/apis/networking.k8s.io/v1/servicecidrs";
pub const PORTS_KEY: &str = "/registry/ranges/servicenodeports";
/// After which a test that waits has failed.
const BOUND: Duration = Duration::from_secs(30);

/// One API server. Dropped, it is as if it had been killed.
#[derive(Clone)]
pub struct Server {
    pub engine: Arc<Engine>,
    pub config: Config,
    front: Front,
    pub group: Group,
}

/// What the store says.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Claimed {
    /// By address: whose it is.
    pub addresses: BTreeMap<String, String>,
    pub ports: BTreeSet<i64>,
}

struct Everyone;

impl Authorizer for Everyone {
    fn authorize(&self, _: &Attributes<'_>) -> Decision {
        Decision::Allow(String::new())
    }
}

/// 14 addresses, 4 node ports.
pub fn small() -> Config {
    Config { service_cidrs: vec!["10.96.0.0/28".parse().unwrap()], node_ports: 30000..=30003, ..Config::default() }
}

impl Server {
    pub async fn start(store: Arc<dyn Store>, config: &Config) -> Self {
        let group = Group::new();
        let auth = Auth { authorizers: vec![Arc::new(Everyone)], ..Auth::default() };
        let engine = Engine::new(store, kinds::table(config), auth, group.clone());
        engine.ready().await;
        Self { front: front::service(engine.clone()), engine, config: config.clone(), group }
    }

    pub async fn bootstrap(&self) {
        kinds::service::bootstrap(&self.engine, &self.config).await;
    }

    pub async fn send(&self, method: &str, path: &str, body: Value) -> (u16, Value) {
        let user = User { name: "tester".into(), ..User::default() };
        let content = if method == "PATCH" { "application/merge-patch+json" } else { "application/json" };
        let text = if body.is_null() { String::new() } else { body.to_string() };
        let request = Request::builder().method(method).uri(path).header("content-type", content);
        let request = request.extension(Peer::local(user)).body(Full::new(text.into())).unwrap();
        let (parts, body) = self.front.clone().oneshot(request).await.unwrap().into_parts();
        let bytes = body.collect().await.unwrap().to_bytes();
        (parts.status.as_u16(), serde_json::from_slice(&bytes).unwrap_or_else(|_| panic!("{bytes:?}")))
    }

    pub async fn make(&self, name: &str, mut spec: Value) -> (u16, Value) {
        if spec.get("ports").is_none() {
            spec["ports"] = json!([{"port": 80}]);
        }
        self.send("POST", SERVICES, json!({"metadata": {"name": name}, "spec": spec})).await
    }

    pub async fn drop_service(&self, name: &str) -> u16 {
        self.send("DELETE", &format!("{SERVICES}/{name}"), Value::Null).await.0
    }

    pub async fn get(&self, path: &str) -> Value {
        let (code, value) = self.send("GET", path, Value::Null).await;
        assert_eq!(code, 200, "{path} {value}");
        value
    }
}

pub fn message(reply: &(u16, Value)) -> &str {
    reply.1["message"].as_str().unwrap_or_default()
}

/// Values under a prefix.
async fn read(store: &dyn Store, prefix: &str) -> Vec<Value> {
    let page = store.range(Range { prefix: prefix.into(), ..Range::default() }).await.unwrap();
    page.entries.iter().map(|entry| serde_json::from_slice(&entry.value).unwrap()).collect()
}

/// As if another server had written it.
pub async fn put(store: &dyn Store, key: &str, value: impl Into<Bytes>) {
    let op = Op::Put { key: key.into(), value: value.into(), ttl: None };
    store.txn(Txn { expect: Vec::new(), ops: vec![op] }).await.unwrap();
}

pub async fn remove(store: &dyn Store, prefix: &str) {
    let page = store.range(Range { prefix: prefix.into(), ..Range::default() }).await.unwrap();
    for entry in page.entries {
        let op = Op::Delete { key: entry.key.to_string() };
        store.txn(Txn { expect: Vec::new(), ops: vec![op] }).await.unwrap();
    }
}

/// What the stored Services have. Nothing is anybody else's, too.
pub async fn had(store: &dyn Store) -> Claimed {
    let mut had = Claimed::default();
    for service in read(store, "/registry/services/specs/").await {
        let (spec, name) = (&service["spec"], service["metadata"]["name"].as_str().unwrap());
        let kind = spec["type"].as_str().unwrap();
        if kind == "ExternalName" {
            continue;
        }
        for address in spec["clusterIPs"].as_array().into_iter().flatten().filter_map(Value::as_str).filter(|address| *address != "None") {
            let other = had.addresses.insert(address.into(), name.into());
            assert_eq!(other, None, "{address} is {name}'s, too");
        }
        let ports = spec["ports"].as_array().into_iter().flatten().filter_map(|port| port["nodePort"].as_i64());
        let own: BTreeSet<i64> = ports.chain(spec["healthCheckNodePort"].as_i64()).filter(|port| *port != 0).collect();
        for port in own {
            assert!(matches!(kind, "NodePort" | "LoadBalancer") && had.ports.insert(port), "{port} is {name}'s, too");
        }
    }
    had
}

/// What is claimed.
pub async fn claimed(store: &dyn Store) -> Claimed {
    let mut claimed = Claimed::default();
    for address in read(store, "/registry/ipaddresses/").await {
        let parent = &address["spec"]["parentRef"];
        assert_eq!((&parent["resource"], &parent["namespace"]), (&json!("services"), &json!("default")), "{address}");
        assert_eq!(address["metadata"]["labels"]["ipaddress.kubernetes.io/managed-by"], "ipallocator.k8s.io");
        claimed.addresses.insert(address["metadata"]["name"].as_str().unwrap().into(), parent["name"].as_str().unwrap().into());
    }
    let Some(entry) = store.get(PORTS_KEY).await.unwrap() else { return claimed };
    let allocation: Value = serde_json::from_slice(&entry.value).unwrap();
    let first: i64 = allocation["range"].as_str().unwrap().split('-').next().unwrap().parse().unwrap();
    let data = base64::engine::general_purpose::STANDARD.decode(allocation["data"].as_str().unwrap()).unwrap();
    assert_ne!(data.first(), Some(&0), "Go writes no zeros in front");
    for (at, byte) in data.iter().rev().enumerate() {
        claimed.ports.extend((0..8).filter(|bit| byte >> bit & 1 == 1).map(|bit| first + i64::try_from(at * 8 + bit).unwrap()));
    }
    claimed
}

/// What is claimed is what is had.
pub async fn check(store: &dyn Store) -> Claimed {
    let (had, claimed) = (had(store).await, claimed(store).await);
    assert_eq!(claimed, had);
    claimed
}

/// Waits until it holds.
pub async fn eventually(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let held = tokio::time::timeout(BOUND, async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    });
    held.await.unwrap_or_else(|_| panic!("{what}: not in time"));
}
