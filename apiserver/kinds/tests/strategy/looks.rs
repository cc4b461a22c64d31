//! What one request looks at does not grow with what a namespace holds: counted in objects that are parsed, never on a clock.

use std::future::Future;

use api::steps;
use apiserver::{engine::VIEW_BYTES_MAX, identity::Auth};
use serde_json::{Map, Value, json};

use crate::room::Room;

const PODS: &str = "/api/v1/namespaces/default/pods";
const RANGES: &str = "/api/v1/namespaces/default/limitranges";
const BUDGETS: &str = "/apis/policy/v1/namespaces/default/poddisruptionbudgets";
const CLASSES: &str = "/apis/scheduling.k8s.io/v1/priorityclasses";

async fn room() -> Room {
    let auth = Auth { admission: kinds::admission::chain(), ..Auth::default() };
    let room = Room::new(kinds::table(&kinds::Config::default()), auth).await;
    Room::ok(room.post("/api/v1/namespaces", json!({"metadata": {"name": "default"}})).await);
    Room::ok(room.post("/api/v1/namespaces/default/serviceaccounts", json!({"metadata": {"name": "default"}})).await);
    room
}

/// What the work comes to, and the steps of this thread, on which the room answers.
async fn counted<T>(work: impl Future<Output = T>) -> (T, u64) {
    let before = steps::so_far();
    let done = work.await;
    (done, steps::so_far() - before)
}

fn pod(name: &str) -> Value {
    json!({"metadata": {"name": name, "labels": {"app": "db"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}})
}

#[tokio::test]
async fn a_pod_costs_the_same_with_any_number_of_limit_ranges_budgets_and_classes() {
    let room = room().await;
    let (mut creates, mut evictions, mut made) = (Vec::new(), Vec::new(), 0);
    for count in [1, 10, 100] {
        while made < count {
            let limit = json!({"type": "Container", "max": {"cpu": "2"}, "default": {"cpu": "1"}});
            Room::ok(room.post(RANGES, json!({"metadata": {"name": format!("l{made}")}, "spec": {"limits": [limit]}})).await);
            let selector = json!({"matchLabels": {"app": format!("a{made}")}});
            let budget = json!({"metadata": {"name": format!("b{made}")}, "spec": {"minAvailable": 1, "selector": selector}});
            Room::ok(room.post(BUDGETS, budget).await);
            Room::ok(room.post(CLASSES, json!({"metadata": {"name": format!("c{made}")}, "value": made})).await);
            made += 1;
        }
        let name = format!("p{count}");
        let (reply, steps) = counted(room.post(PODS, pod(&name))).await;
        assert_eq!(Room::ok(reply)["spec"]["containers"][0]["resources"]["limits"]["cpu"], "1");
        creates.push(steps);
        let status = json!({"status": {"phase": "Running"}});
        Room::ok(room.patch(&format!("{PODS}/{name}/status"), status).await);
        let eviction = json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": name}});
        let (reply, steps) = counted(room.post(&format!("{PODS}/{name}/eviction"), eviction)).await;
        assert_eq!(reply.0, 201, "{reply:?}");
        evictions.push(steps);
    }
    assert!(creates.iter().chain(&evictions).all(|steps| *steps > 0), "the room answers on this thread");
    steps::must_not_grow("creating a pod", &creates);
    steps::must_not_grow("evicting a pod", &evictions);
}

#[tokio::test]
async fn limit_ranges_beyond_the_bound_close_their_own_namespace_until_they_go() {
    let room = room().await;
    Room::ok(room.post("/api/v1/namespaces", json!({"metadata": {"name": "other"}})).await);
    Room::ok(room.post("/api/v1/namespaces/other/serviceaccounts", json!({"metadata": {"name": "default"}})).await);
    // Each entry counts its name, and some more.
    let max: Map<String, Value> = (0..20_000).map(|i| (format!("example.com/resource-{i}"), "1".into())).collect();
    let each = max.keys().map(String::len).sum::<usize>();
    let enough = VIEW_BYTES_MAX / each + 1;
    for i in 0..enough {
        let range = json!({"metadata": {"name": format!("l{i}")}, "spec": {"limits": [{"type": "Pod", "maxLimitRequestRatio": max}]}});
        let (code, reply) = room.post(RANGES, range).await;
        assert_eq!(code, 201, "{}", reply["message"]);
    }
    let (code, reply) = room.post(PODS, pod("p")).await;
    assert_eq!((code, reply["message"].as_str().is_some_and(|m| m.contains("too large to be looked through"))), (403, true), "{reply}");
    Room::ok(room.post("/api/v1/namespaces/other/pods", pod("p")).await);
    for i in 0..enough {
        room.delete(&format!("{RANGES}/l{i}")).await;
    }
    Room::ok(room.post(PODS, pod("p")).await);
}

#[tokio::test]
async fn a_service_looks_at_each_pod_once_however_many_addresses_name_it() {
    let room = room().await;
    let mut costs = Vec::new();
    for name in ["a", "b", "c"] {
        Room::ok(room.post(PODS, pod(name)).await);
        Room::ok(room.patch(&format!("{PODS}/{name}/status"), json!({"status": {"podIPs": [{"ip": "127.0.0.1"}]}})).await);
    }
    let address = |i: usize, name: &str| json!({"ip": format!("10.0.{}.{}", i / 250, 1 + i % 250), "targetRef": {"kind": "Pod", "namespace": "default", "name": name}});
    for count in [3, 300, 3000] {
        let addresses: Vec<Value> = (0..count).map(|i| address(i, ["a", "b", "c"][i % 3])).collect();
        let name = format!("s{count}");
        let ports = json!([{"port": 80}]);
        Room::ok(room.post("/api/v1/namespaces/default/services", json!({"metadata": {"name": name}, "spec": {"ports": ports}})).await);
        let endpoints = json!({"metadata": {"name": name}, "subsets": [{"addresses": addresses, "ports": ports}]});
        Room::ok(room.post("/api/v1/namespaces/default/endpoints", endpoints).await);
        let (reply, steps) = counted(room.send("GET", &format!("/api/v1/namespaces/default/services/{name}/proxy/"), Value::Null)).await;
        assert_eq!((reply.0, reply.1["reason"].as_str()), (503, Some("ServiceUnavailable")), "{reply:?}");
        costs.push(steps);
    }
    assert!(costs[0] >= 4, "its endpoints and three pods: {costs:?}");
    steps::must_not_grow("a service's endpoints", &costs);
}
