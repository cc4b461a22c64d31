//! Pods and workloads through the real engine over the memory store: the strategy as clients meet it.

use std::sync::Arc;

use api::{GroupResource, Status};
use apiserver::{
    identity::{Auth, Operation, User},
    kind::{Handler, Target},
};
use serde_json::{Value, json};

use crate::room::Room;

const PODS: &str = "/api/v1/namespaces/default/pods";
const DEPLOYMENTS: &str = "/apis/apps/v1/namespaces/default/deployments";

async fn room() -> Room {
    let kinds = [kinds::binding::kind(), kinds::pod::kind(), kinds::deployment::kind(), kinds::node::kind()];
    Room::new(kinds.into_iter().map(Arc::new).collect(), Auth::default()).await
}

impl Room {
    /// Where a stream of pod `p` leads.
    async fn target(&self, subresource: &str, query: &str) -> Result<Target, Status> {
        let own = self.engine.own_request(&GroupResource::new("", "pods")).unwrap();
        let user = User::default();
        let ctx = own.ctx(&self.engine, &user, Operation::Connect, ("default", "p", subresource));
        let Some(Handler::Connect(handler)) = ctx.kind.subresource(subresource).map(|s| &s.handler) else {
            panic!("{subresource} is no stream")
        };
        handler.target(&ctx, "a/b", query).await
    }
}

fn pod(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"app": "web"}},
        "spec": {"containers": [{"name": "a", "image": "nginx:1", "resources": {"limits": {"cpu": 1}}}]}, "status": {"phase": "Running"}})
}

fn deployment(labels: Value) -> Value {
    json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"}, "spec": {
        "selector": {"matchLabels": {"app": "web"}},
        "template": {"metadata": {"labels": labels}, "spec": {"containers": [{"name": "a", "image": "nginx:1"}]}}}})
}

fn binding(node: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Binding", "metadata": {"name": "p"}, "target": {"kind": "Node", "name": node}})
}

#[tokio::test]
async fn a_pod_is_made_bound_and_deleted_in_grace() {
    let room = room().await;
    let made = Room::ok(room.post(PODS, pod("p")).await);
    assert_eq!(made["status"], json!({"phase": "Pending", "qosClass": "Burstable"}));
    assert_eq!(made["spec"]["containers"][0]["resources"], json!({"limits": {"cpu": "1"}, "requests": {"cpu": "1"}}));
    assert_eq!(made["metadata"]["generation"], 1);
    let (code, reply) = room.post(&format!("{PODS}/p/binding"), binding("n1")).await;
    assert_eq!((code, &reply["status"]), (201, &json!("Success")), "{reply}");
    let bound = room.get(&format!("{PODS}/p")).await;
    assert_eq!(bound["spec"]["nodeName"], "n1");
    assert_eq!(bound["status"]["conditions"][0]["type"], "PodScheduled", "{bound}");
    assert_eq!(bound["metadata"]["generation"], 1, "a binding is no new generation");
    let (code, reply) = room.post(&format!("{PODS}/p/binding"), binding("n2")).await;
    assert_eq!(code, 409, "{reply}");
    let marked = room.delete(&format!("{PODS}/p")).await;
    assert_eq!(marked["metadata"]["deletionGracePeriodSeconds"], 30);
    room.delete(&format!("{PODS}/p?gracePeriodSeconds=0")).await;
    let (code, _) = room.send("GET", &format!("{PODS}/p"), Value::Null).await;
    assert_eq!(code, 404);
}

#[tokio::test]
async fn what_no_node_runs_goes_at_once() {
    let room = room().await;
    Room::ok(room.post(PODS, pod("p")).await);
    room.delete(&format!("{PODS}/p")).await;
    let (code, _) = room.send("GET", &format!("{PODS}/p"), Value::Null).await;
    assert_eq!(code, 404);
}

#[tokio::test]
async fn an_eviction_deletes() {
    let room = room().await;
    Room::ok(room.post(PODS, pod("p")).await);
    Room::ok(room.post(&format!("{PODS}/p/binding"), binding("n1")).await);
    let eviction = |dry: bool| {
        let options = if dry { json!({"dryRun": ["All"]}) } else { json!({"gracePeriodSeconds": 7}) };
        json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": "p"}, "deleteOptions": options})
    };
    Room::ok(room.post(&format!("{PODS}/p/eviction"), eviction(true)).await);
    assert!(room.get(&format!("{PODS}/p")).await["metadata"].get("deletionTimestamp").is_none());
    Room::ok(room.post(&format!("{PODS}/p/eviction"), eviction(false)).await);
    let evicted = room.get(&format!("{PODS}/p")).await;
    assert_eq!(evicted["metadata"]["deletionGracePeriodSeconds"], 7);
    let conditions = evicted["status"]["conditions"].as_array().unwrap();
    assert!(conditions.iter().any(|c| c["type"] == "DisruptionTarget"), "{conditions:?}");
}

#[tokio::test]
async fn faults_are_refused_with_all_causes() {
    let room = room().await;
    let mut bad = pod("p");
    bad["spec"]["restartPolicy"] = json!("Sometimes");
    bad["spec"]["containers"][0]["name"] = json!("A");
    let (code, reply) = room.post(PODS, bad).await;
    assert_eq!(code, 422, "{reply}");
    assert_eq!(reply["details"]["causes"].as_array().map(Vec::len), Some(2), "{reply}");
    Room::ok(room.post(PODS, pod("p")).await);
    let (code, reply) = room.patch(&format!("{PODS}/p"), json!({"spec": {"dnsPolicy": "Default"}})).await;
    assert_eq!(code, 422);
    let text = reply["message"].as_str().unwrap();
    assert!(
        text.starts_with("Pod \"p\" is invalid: spec: Forbidden: pod updates may not change fields other than `spec.containers[*].image`"),
        "{text}"
    );
    Room::ok(room.patch(&format!("{PODS}/p"), json!({"metadata": {"labels": {"a": "b"}}})).await);
}

#[tokio::test]
async fn a_status_is_written_by_its_subresource_alone() {
    let room = room().await;
    Room::ok(room.post(PODS, pod("p")).await);
    let status = json!({"status": {"phase": "Running", "podIP": "10.0.0.1", "podIPs": [{"ip": "10.0.0.1"}]}});
    Room::ok(room.patch(&format!("{PODS}/p"), status.clone()).await);
    assert_eq!(room.get(&format!("{PODS}/p")).await["status"]["phase"], "Pending");
    Room::ok(room.patch(&format!("{PODS}/p/status"), status).await);
    let found = room.get(&format!("{PODS}?fieldSelector=status.podIP=10.0.0.1,spec.hostNetwork=false")).await;
    assert_eq!(found["items"].as_array().map(Vec::len), Some(1), "{found}");
    let table = room.ask("GET", PODS, "application/json;as=Table;v=v1;g=meta.k8s.io", Value::Null).await;
    let table = Room::ok(table);
    let cells = table["rows"][0]["cells"].as_array().unwrap();
    assert_eq!(cells[..3], ["p", "0/1", "Running"]);
}

#[tokio::test]
async fn a_deployment_keeps_its_selector_and_scales() {
    let room = room().await;
    let (code, reply) = room.post(DEPLOYMENTS, deployment(json!({"app": "x"}))).await;
    assert_eq!(code, 422);
    assert!(reply["message"].as_str().unwrap().contains("`selector` does not match template `labels`"), "{reply}");
    let made = Room::ok(room.post(DEPLOYMENTS, deployment(json!({"app": "web"}))).await);
    assert_eq!((&made["spec"]["replicas"], &made["metadata"]["generation"]), (&json!(1), &json!(1)));
    let other = json!({"spec": {"selector": {"matchLabels": {"app": "y"}}, "template": {"metadata": {"labels": {"app": "y"}}}}});
    let (code, reply) = room.patch(&format!("{DEPLOYMENTS}/web"), other).await;
    assert_eq!(code, 422);
    assert!(reply["message"].as_str().unwrap().contains("field is immutable"), "{reply}");
    Room::ok(room.patch(&format!("{DEPLOYMENTS}/web/scale"), json!({"spec": {"replicas": 4}})).await);
    let scaled = room.get(&format!("{DEPLOYMENTS}/web")).await;
    assert_eq!((&scaled["spec"]["replicas"], &scaled["metadata"]["generation"]), (&json!(4), &json!(2)));
    let (code, _) = room.patch(&format!("{DEPLOYMENTS}/web/scale"), json!({"spec": {"replicas": -1}})).await;
    assert_eq!(code, 422);
}

#[tokio::test]
async fn streams_lead_to_the_pods_node() {
    let room = room().await;
    Room::ok(room.post(PODS, pod("p")).await);
    let early = room.target("exec", "command=sh").await.unwrap_err();
    assert_eq!((early.code, early.message.as_str()), (400, "pod p does not have a host assigned"));
    Room::ok(room.post("/api/v1/nodes", json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n1"}})).await);
    let status = json!({"status": {"addresses": [{"type": "InternalIP", "address": "10.0.0.7"}], "daemonEndpoints": {"kubeletEndpoint": {"Port": 10250}}}});
    Room::ok(room.patch("/api/v1/nodes/n1/status", status).await);
    Room::ok(room.post(&format!("{PODS}/p/binding"), binding("n1")).await);
    let found = room.target("exec", "command=sh&stdin=true&stdout=true").await.unwrap();
    assert_eq!((found.host.as_str(), found.port, found.node_agent.as_deref()), ("10.0.0.7", 10250, Some("n1")));
    assert_eq!(found.path_and_query, "/exec/default/p/a?command=sh&input=1&output=1");
    let logs = room.target("log", "container=a&follow=true").await.unwrap();
    assert_eq!(logs.path_and_query, "/containerLogs/default/p/a?follow=true");
    let unknown = room.target("log", "container=z").await.unwrap_err();
    assert_eq!(unknown.message, "container z is not valid for pod p");
    assert_eq!(room.target("proxy", "").await.unwrap_err().message, "address not allowed");
    Room::ok(room.patch(&format!("{PODS}/p/status"), json!({"status": {"podIP": "10.244.0.5"}})).await);
    let through = room.target("proxy", "x=1").await.unwrap();
    assert_eq!(
        (through.scheme, through.host.as_str(), through.port, through.path_and_query.as_str()),
        ("http", "10.244.0.5", 80, "/a/b?x=1")
    );
}
