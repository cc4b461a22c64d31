//! Hollow nodes beside the real API server over the memory store, in one process.

use std::net::IpAddr;

use api::task::Group;
use client::kube::{Client, Error};
use door::{BOUND, Door, until};
use hollow::{Config, Stages};
use http::Request;
use serde_json::{Value, json};

const LEASES: &str = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases";
const PODS: &str = "/api/v1/namespaces/default/pods";
/// Without delays, so that tests are quick.
const QUICK: &str = "stages:
- {name: delete, kind: Pod, when: {deleted: true}, next: {delete: true}}
- {name: fail, kind: Pod, when: {phase: [Pending], labels: {luck: bad}}, next: {phase: Failed, exitCode: 3, reason: Unlucky}}
- {name: ready, kind: Pod, when: {deleted: false, phase: [Pending]}, next: {phase: Running, ready: true}}
- {name: done, kind: Pod, when: {deleted: false, phase: [Running], restartPolicy: [Never]}, next: {phase: Succeeded}}
";

struct TestCluster {
    admin: Client,
    group: Group,
}

impl Drop for TestCluster {
    fn drop(&mut self) {
        self.group.stop();
    }
}

impl TestCluster {
    async fn new() -> Self {
        let group = Group::new();
        let door = Door::new(&group).await;
        door.make_account().await;
        Self { admin: door.admin(), group }
    }

    /// Nodes in a group of their own.
    async fn nodes(&self, config: &Config, stages: &str) -> Group {
        let group = self.group.child();
        let mut hollow = hollow::run(config.clone(), Stages::parse(stages).unwrap(), &self.admin, &group);
        assert!(tokio::time::timeout(BOUND, hollow.registered()).await.expect("they are registered"));
        group
    }

    async fn ask(&self, method: &str, path: &str, body: &Value) -> Result<Value, Error> {
        let content = if method == "PATCH" { "application/merge-patch+json" } else { "application/json" };
        let body = if body.is_null() { Vec::new() } else { body.to_string().into_bytes() };
        self.admin.request(Request::builder().method(method).uri(path).header("content-type", content).body(body).unwrap()).await
    }

    async fn ok(&self, method: &str, path: &str, body: &Value) -> Value {
        self.ask(method, path, body).await.unwrap_or_else(|e| panic!("{method} {path}: {e}"))
    }

    async fn get(&self, path: &str) -> Option<Value> {
        self.ask("GET", path, &Value::Null).await.ok()
    }

    async fn pod(&self, name: &str, node: &str, mut more: Value) {
        more["nodeName"] = json!(node);
        more["containers"] = json!([{"name": "c", "image": "i"}]);
        let labels = more.as_object_mut().unwrap().remove("labels").unwrap_or_default();
        self.ok("POST", PODS, &json!({"metadata": {"name": name, "labels": labels}, "spec": more})).await;
    }

    async fn phase(&self, name: &str, phase: &str) -> Value {
        let path = format!("{PODS}/{name}");
        until(&format!("{name} is {phase}"), async || self.get(&path).await.filter(|p| p["status"]["phase"] == phase)).await
    }
}

fn condition<'a>(of: &'a Value, kind: &str) -> &'a Value {
    of["status"]["conditions"].as_array().unwrap().iter().find(|c| c["type"] == kind).unwrap_or(&Value::Null)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_register_and_renew() {
    let cluster = TestCluster::new().await;
    // A quarter of it is the time between renewals.
    let config = Config { lease_seconds: 2, zones: 2, ..Config::new(20) };
    cluster.nodes(&config, QUICK).await;
    let nodes = cluster.ok("GET", "/api/v1/nodes", &Value::Null).await;
    assert_eq!(nodes["items"].as_array().unwrap().len(), 20);
    for node in nodes["items"].as_array().unwrap() {
        assert_eq!(condition(node, "Ready")["status"], "True");
        assert_eq!(node["status"]["allocatable"]["cpu"], "32");
    }
    assert_eq!(nodes["items"][1]["metadata"]["labels"]["topology.kubernetes.io/zone"], "zone-1");
    let time =
        async |n: usize| cluster.get(&format!("{LEASES}/hollow-{n}")).await.map(|l| l["spec"]["renewTime"].as_str().unwrap().to_owned());
    for n in [0, 7, 19] {
        let first = until("a lease is made", async || time(n).await).await;
        let second = until("it is renewed", async || time(n).await.filter(|t| *t > first)).await;
        until("and again", async || time(n).await.filter(|t| *t > second)).await;
    }
    let lease = cluster.get(&format!("{LEASES}/hollow-3")).await.unwrap();
    assert_eq!((&lease["spec"]["holderIdentity"], &lease["spec"]["leaseDurationSeconds"]), (&json!("hollow-3"), &json!(2)));
    assert_eq!(lease["metadata"]["ownerReferences"][0]["name"], "hollow-3");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lease_that_others_write_or_delete_is_renewed_all_the_same() {
    let cluster = TestCluster::new().await;
    cluster.nodes(&Config { lease_seconds: 2, ..Config::new(2) }, QUICK).await;
    let path = format!("{LEASES}/hollow-1");
    until("a lease is made", async || cluster.get(&path).await).await;
    cluster
        .ok("PATCH", &path, &json!({"metadata": {"labels": {"touched": "yes"}}, "spec": {"renewTime": "2020-01-01T00:00:00.000000Z"}}))
        .await;
    let renewed = async || cluster.get(&path).await.filter(|l| !l["spec"]["renewTime"].as_str().unwrap().starts_with("2020"));
    until("it is renewed after a conflict", renewed).await;
    cluster.ok("DELETE", &path, &Value::Null).await;
    until("it is made again", async || cluster.get(&path).await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pods_live_and_go() {
    let cluster = TestCluster::new().await;
    cluster.nodes(&Config::new(3), QUICK).await;
    let cidr = json!({"spec": {"podCIDR": "10.244.7.0/24", "podCIDRs": ["10.244.7.0/24"]}});
    cluster.ok("PATCH", "/api/v1/nodes/hollow-1", &cidr).await;
    cluster.pod("web", "hollow-1", json!({})).await;
    cluster.pod("net", "hollow-1", json!({"hostNetwork": true})).await;
    cluster.pod("job", "hollow-1", json!({"restartPolicy": "Never"})).await;
    cluster.pod("bad", "hollow-1", json!({"restartPolicy": "Never", "labels": {"luck": "bad"}})).await;
    cluster.pod("other", "somebody-else", json!({})).await;

    let web = cluster.phase("web", "Running").await;
    let ip: IpAddr = web["status"]["podIP"].as_str().unwrap().parse().unwrap();
    assert!("10.244.7.0/24".parse::<ipnet::IpNet>().unwrap().contains(&ip), "{ip}");
    for kind in ["Ready", "ContainersReady", "Initialized"] {
        assert_eq!(condition(&web, kind)["status"], "True", "{kind}: {web}");
    }
    assert!(web["status"]["startTime"].is_string());
    assert!(web["status"]["containerStatuses"][0]["state"]["running"].is_object());
    let net = cluster.phase("net", "Running").await;
    assert_eq!(net["status"]["podIP"], net["status"]["hostIP"]);
    let job = cluster.phase("job", "Succeeded").await;
    assert_eq!(condition(&job, "Ready")["reason"], "PodCompleted");
    let bad = cluster.phase("bad", "Failed").await;
    assert_eq!(bad["status"]["containerStatuses"][0]["state"]["terminated"]["exitCode"], 3);
    assert_eq!(bad["status"]["reason"], "Unlucky");

    for name in ["web", "job", "net", "bad"] {
        cluster.ok("DELETE", &format!("{PODS}/{name}"), &Value::Null).await;
        until("it is gone", async || cluster.get(&format!("{PODS}/{name}")).await.is_none().then_some(())).await;
    }
    assert_eq!(cluster.get(&format!("{PODS}/other")).await.unwrap()["status"]["phase"], "Pending", "not ours");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_life_takes_up_what_the_first_left() {
    let cluster = TestCluster::new().await;
    let config = Config { lease_seconds: 4, ..Config::new(2) };
    let first = cluster.nodes(&config, QUICK).await;
    until("a lease is made", async || cluster.get(&format!("{LEASES}/hollow-0")).await).await;
    first.stop();
    // As the control plane marks a node that it does not hear of.
    let unknown = json!({"status": {"conditions": [{"type": "Ready", "status": "Unknown", "reason": "NodeStatusUnknown"}]}});
    cluster.ok("PATCH", "/api/v1/nodes/hollow-0/status", &unknown).await;
    cluster.pod("p", "hollow-0", json!({})).await;
    let before = cluster.get(&format!("{LEASES}/hollow-0")).await.unwrap()["spec"]["renewTime"].as_str().unwrap().to_owned();

    cluster.nodes(&config, QUICK).await;
    cluster.phase("p", "Running").await;
    let ready = async || cluster.get("/api/v1/nodes/hollow-0").await.filter(|n| condition(n, "Ready")["status"] == "True");
    let node = until("it is ready again", ready).await;
    assert!(condition(&node, "Ready")["lastTransitionTime"].is_string());
    let renewed =
        async || cluster.get(&format!("{LEASES}/hollow-0")).await.filter(|l| l["spec"]["renewTime"].as_str().unwrap() > before.as_str());
    until("its lease is renewed", renewed).await;
    // Said to be unknown while it lives: it objects.
    cluster.ok("PATCH", "/api/v1/nodes/hollow-0/status", &unknown).await;
    until("it is ready again", ready).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_fall_silent_and_come_back() {
    let cluster = TestCluster::new().await;
    let stages = format!("{QUICK}- {{name: dies, kind: Node, when: {{ready: true}}, delay: 2s, next: {{silent: 3s}}}}\n");
    cluster.nodes(&Config { lease_seconds: 1, ..Config::new(1) }, &stages).await;
    let path = format!("{LEASES}/hollow-0");
    let time = async || cluster.get(&path).await.and_then(|l| api::time::parse(l["spec"]["renewTime"].as_str().unwrap()));
    let mut last = until("a lease is made", time).await;
    // A renewal each quarter of a second, but for a gap of three seconds.
    let gap = async || {
        let now = time().await?;
        let gap = now.duration_since(last);
        last = now;
        (gap.as_secs() >= 2).then_some(())
    };
    until("the lease was not renewed for a while, and then again", gap).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_was_deleted_stays_away() {
    let cluster = TestCluster::new().await;
    cluster.nodes(&Config { lease_seconds: 1, ..Config::new(2) }, QUICK).await;
    cluster.ok("DELETE", "/api/v1/nodes/hollow-0", &Value::Null).await;
    let time =
        async |n: usize| cluster.get(&format!("{LEASES}/hollow-{n}")).await.map(|l| l["spec"]["renewTime"].as_str().unwrap().to_owned());
    let first = until("the other has a lease", async || time(1).await).await;
    until("and renews it", async || time(1).await.filter(|t| *t > first)).await;
    assert!(cluster.get("/api/v1/nodes/hollow-0").await.is_none());
}
