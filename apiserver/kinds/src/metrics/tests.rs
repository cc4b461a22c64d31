//! Both kinds over an engine, with agents that the test plays.

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicI64, AtomicUsize, Ordering},
    time::Duration,
};

use api::task::Group;
use apiserver::{
    engine::Engine,
    front::{Front, service},
    identity::{Attributes, Auth, Authorizer, Decision, Peer, User},
};
use http_body_util::{BodyExt, Empty};
use parking_lot::Mutex;
use tower::ServiceExt;

use super::*;
use crate::auth;

/// What agents answer, by node; how often they were asked; and what they say the time is.
#[derive(Default)]
struct Agents {
    pages: Mutex<BTreeMap<String, &'static str>>,
    asked: AtomicUsize,
    now_ms: AtomicI64,
}

struct House {
    front: Front,
    engine: Arc<Engine>,
    agents: Arc<Agents>,
    group: Group,
}

const CONTAINERS: &str = "\
container_cpu_usage_seconds_total{container=\"a\",namespace=\"ns\",pod=\"p\"} CPU NOW
container_memory_working_set_bytes{container=\"a\",namespace=\"ns\",pod=\"p\"} 2097152 NOW
container_cpu_usage_seconds_total{container=\"b\",namespace=\"ns\",pod=\"p\"} CPU NOW
container_memory_working_set_bytes{container=\"b\",namespace=\"ns\",pod=\"p\"} 1048576 NOW
container_cpu_usage_seconds_total{container=\"a\",namespace=\"ns\",pod=\"far\"} CPU NOW
container_memory_working_set_bytes{container=\"a\",namespace=\"ns\",pod=\"far\"} 1048576 NOW
node_cpu_usage_seconds_total CPU NOW
node_memory_working_set_bytes 1073741824 NOW
";

struct Everyone;

impl Authorizer for Everyone {
    fn authorize(&self, _: &Attributes<'_>) -> Decision {
        Decision::Allow(String::new())
    }
}

impl House {
    async fn new() -> Self {
        let (group, agents) = (Group::new(), Arc::new(Agents::default()));
        let played = agents.clone();
        let ask: sampler::Ask = Arc::new(move |target| {
            let agents = played.clone();
            Box::pin(async move {
                agents.asked.fetch_add(1, Ordering::Relaxed);
                // A quarter of a processor, in each window.
                let now = agents.now_ms.fetch_add(2000, Ordering::Relaxed);
                let name = target.node_agent.unwrap_or_default();
                let page = agents.pages.lock().get(&name).copied();
                let page = page.ok_or_else(|| Status::unavailable("nobody is there"))?;
                if page.is_empty() {
                    return std::future::pending().await;
                }
                let cpu = format!("{}.5", 10 + now / 4000);
                let cpu = if now % 4000 == 0 { format!("{}", 10 + now / 4000) } else { cpu };
                Ok(Bytes::from(page.replace("NOW", &(1_700_000_000_000 + now).to_string()).replace("CPU", &cpu)))
            })
        });
        let mut kinds = crate::table(&crate::Config::default());
        kinds.extend(of(&Sampler::new(ask)).map(Arc::new));
        let auth = Auth { authorizers: vec![Arc::new(Everyone)], ..Auth::default() };
        let engine = Engine::new(Arc::new(store::memory::Memory::new()), kinds, auth, group.clone());
        engine.ready().await;
        let house = Self { front: service(engine.clone()), engine, agents, group };
        house.fill().await;
        // The store has a thread of its own, whose answers take no time from here on.
        tokio::time::pause();
        house
    }

    async fn fill(&self) {
        self.make("namespaces", "", json!({"metadata": {"name": "ns"}})).await;
        for (name, ready) in [("n1", "True"), ("n2", "True"), ("silent", "True"), ("hangs", "True"), ("down", "Unknown")] {
            let conditions = json!([{"type": "Ready", "status": ready}]);
            let status = json!({"conditions": conditions, "addresses": [{"type": "InternalIP", "address": "192.0.2.1"}]});
            self.make("nodes", "", json!({"metadata": {"name": name, "labels": {"disk": name}}, "status": status})).await;
        }
        for (name, node) in [("p", "n1"), ("far", "n2"), ("pending", "")] {
            let spec = json!({"nodeName": node, "containers": [{"name": "a", "image": "i"}]});
            self.make("pods", "ns", json!({"metadata": {"name": name, "labels": {"app": name}}, "spec": spec})).await;
        }
        let mut pages = self.agents.pages.lock();
        pages.insert("n1".into(), CONTAINERS);
        pages.insert("n2".into(), "node_cpu_usage_seconds_total CPU NOW\nnode_memory_working_set_bytes 4096 NOW\n");
        pages.insert("hangs".into(), "");
        pages.insert("down".into(), CONTAINERS);
    }

    async fn make(&self, plural: &str, namespace: &str, object: Value) {
        let gr = GroupResource::new("", plural);
        self.engine.create(&gr, namespace, object, &auth::system_user()).await.unwrap();
    }

    async fn get(&self, path: &str) -> (u16, Value) {
        self.get_as(path, "application/json").await
    }

    async fn get_as(&self, path: &str, accept: &str) -> (u16, Value) {
        let uri = format!("/apis/metrics.k8s.io/v1beta1/{path}");
        let user = User { name: "root".into(), groups: vec![auth::MASTERS.into()], ..User::default() };
        let request = http::Request::get(uri).header("accept", accept).extension(Peer::local(user)).body(Empty::<Bytes>::new()).unwrap();
        let reply = self.front.clone().oneshot(request).await.unwrap();
        let code = reply.status().as_u16();
        (code, serde_json::from_slice(&reply.into_body().collect().await.unwrap().to_bytes()).unwrap_or_default())
    }

    fn asked(&self) -> usize {
        self.agents.asked.swap(0, Ordering::Relaxed)
    }
}

fn names(list: &Value) -> Vec<&str> {
    list["items"].as_array().into_iter().flatten().map(|item| item["metadata"]["name"].as_str().unwrap()).collect()
}

#[tokio::test]
async fn nodes_that_answer_are_told_and_others_left_out() {
    let house = House::new().await;
    let (code, list) = house.get("nodes").await;
    assert_eq!((code, &list["kind"], &list["metadata"]), (200, &"NodeMetricsList".into(), &json!({})), "{list}");
    assert_eq!(names(&list), ["n1", "n2"]);
    let node = &list["items"][0];
    assert_eq!((&node["usage"], &node["window"]), (&json!({"cpu": "250m", "memory": "1Gi"}), &"6s".into()), "{node}");
    assert_eq!(node["metadata"]["labels"], json!({"disk": "n1"}));
    assert!(node["timestamp"].as_str().unwrap().starts_with("2023-11-14T22:13:2"), "{node}");
    assert!(node["kind"].is_null(), "items of a list do not say what they are: {node}");
    // Two that answer, twice; one refuses, one hangs; one that is not ready is not asked.
    assert_eq!(house.asked(), 6);
    assert_eq!((house.get("nodes").await.1["items"].as_array().map(Vec::len), house.asked()), (Some(2), 0), "it was told just now");

    let (_, one) = house.get("nodes/n1").await;
    assert_eq!((&one["kind"], &one["apiVersion"], house.asked()), (&"NodeMetrics".into(), &"metrics.k8s.io/v1beta1".into(), 0), "{one}");
    let (code, status) = house.get("nodes/silent").await;
    assert_eq!((code, status["message"].as_str()), (404, Some("nodemetrics.metrics.k8s.io \"silent\" not found")));
    let (code, status) = house.get("nodes/nobody").await;
    assert_eq!((code, status["message"].as_str()), (404, Some("node \"nobody\" not found")));

    tokio::time::advance(Duration::from_secs(16)).await;
    assert_eq!(names(&house.get("nodes?labelSelector=disk%3Dn2").await.1), ["n2"]);
    assert_eq!(house.asked(), 1, "one reading is enough where there was one lately");
    assert_eq!(names(&house.get("nodes?fieldSelector=metadata.name%3Dn1").await.1), ["n1"]);
    assert_eq!(house.asked(), 1);
    house.group.stop();
}

#[tokio::test]
async fn pods_are_told_by_their_own_nodes() {
    let house = House::new().await;
    let (code, list) = house.get("pods").await;
    assert_eq!((code, names(&list)), (200, vec!["p"]), "of far n1 has nothing to say: {list}");
    let usage = |memory: &str| json!({"cpu": "250m", "memory": memory});
    let pod = &list["items"][0];
    assert_eq!(pod["containers"], json!([{"name": "a", "usage": usage("2Mi")}, {"name": "b", "usage": usage("1Mi")}]));
    assert_eq!((&pod["metadata"]["namespace"], &pod["metadata"]["labels"]), (&"ns".into(), &json!({"app": "p"})));
    assert_eq!(house.asked(), 4, "the nodes of pods, and no others");
    assert_eq!(names(&house.get("namespaces/ns/pods?labelSelector=app%3Dfar").await.1), [""; 0]);
    assert_eq!(names(&house.get("namespaces/other/pods").await.1), [""; 0]);
    let (_, one) = house.get("namespaces/ns/pods/p").await;
    assert_eq!((&one["kind"], &one["window"]), (&"PodMetrics".into(), &"4s".into()), "{one}");
    for (path, message) in [
        ("namespaces/ns/pods/far", "podmetrics.metrics.k8s.io \"ns/far\" not found"),
        ("namespaces/ns/pods/pending", "podmetrics.metrics.k8s.io \"ns/pending\" not found"),
        ("namespaces/ns/pods/nobody", "pods \"nobody\" not found"),
    ] {
        let (code, status) = house.get(path).await;
        assert_eq!((code, status["message"].as_str()), (404, Some(message)));
    }
    let (_, table) = house.get_as("pods", "application/json;as=Table;v=v1;g=meta.k8s.io").await;
    let columns: Vec<&str> = table["columnDefinitions"].as_array().unwrap().iter().map(|c| c["name"].as_str().unwrap()).collect();
    assert_eq!((columns, &table["rows"][0]["cells"]), (vec!["Name", "cpu", "memory", "Window"], &json!(["p", "500m", "3Mi", "4s"])));
    for path in ["pods?watch=true", "nodes?watch=true"] {
        assert_eq!(house.get(path).await.0, 405, "{path}");
    }
    house.group.stop();
}

/// Many who ask at once are one to the agents, and what nobody asks about is forgotten.
#[tokio::test]
async fn agents_are_asked_for_all_who_ask() {
    let house = House::new().await;
    let asking = (0..20).map(|_| house.get("nodes/n1"));
    let told = futures::future::join_all(asking).await;
    assert!(told.iter().all(|(code, _)| *code == 200), "{told:?}");
    assert_eq!(house.asked(), 2, "two readings");
    tokio::time::advance(Duration::from_secs(600)).await;
    tokio::time::sleep(Duration::from_secs(600)).await;
    assert_eq!(house.asked(), 0);
    assert_eq!(house.get("nodes/n1").await.0, 200);
    assert_eq!(house.asked(), 2, "it begins anew");
    house.group.stop();
}
