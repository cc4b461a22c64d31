//! Services, namespaces and events through the real engine over the memory store: claims are given once and come back.

use std::collections::BTreeSet;

use apiserver::identity::Auth;
use futures::future::join_all;
use serde_json::{Value, json};

use crate::room::Room;

const SERVICES: &str = "/api/v1/namespaces/default/services";

/// 14 addresses, 4 node ports.
async fn room() -> Room {
    let config = kinds::Config { service_cidrs: vec!["10.96.0.0/28".parse().unwrap()], node_ports: 30000..=30003, ..Default::default() };
    Room::new(kinds::table(&config), Auth::default()).await
}

impl Room {
    async fn make(&self, name: &str, mut spec: Value) -> (u16, Value) {
        if spec.get("ports").is_none() {
            spec["ports"] = json!([{"port": 80}]);
        }
        self.post(SERVICES, json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": spec})).await
    }

    async fn drop(&self, name: &str) {
        assert_eq!(self.send("DELETE", &format!("{SERVICES}/{name}"), Value::Null).await.0, 200);
    }
}

fn message(reply: &(u16, Value)) -> &str {
    reply.1["message"].as_str().unwrap_or_default()
}

#[tokio::test]
async fn every_address_is_given_once_and_comes_back() {
    let room = room().await;
    let names: Vec<String> = (0..16).map(|i| format!("s{i}")).collect();
    let replies = join_all(names.iter().map(|name| room.make(name, json!({})))).await;
    let made: Vec<&Value> = replies.iter().filter(|r| r.0 == 201).map(|r| &r.1).collect();
    let addresses: BTreeSet<&str> = made.iter().map(|s| s["spec"]["clusterIP"].as_str().unwrap()).collect();
    assert_eq!((made.len(), addresses.len()), (14, 14), "{replies:?}");
    let refused: Vec<&(u16, Value)> = replies.iter().filter(|r| r.0 != 201).collect();
    assert!(refused.iter().all(|r| r.0 == 500 && message(r).contains("range is full")), "{refused:?}");
    let (name, address) = (made[0]["metadata"]["name"].as_str().unwrap(), made[0]["spec"]["clusterIP"].as_str().unwrap());
    room.drop(name).await;
    let again = room.make("again", json!({})).await;
    assert_eq!((again.0, again.1["spec"]["clusterIP"].as_str()), (201, Some(address)));
}

#[tokio::test]
async fn what_is_asked_for_is_given_or_refused_in_upstreams_words() {
    let room = room().await;
    assert_eq!(room.make("a", json!({"clusterIP": "10.96.0.5"})).await.0, 201);
    let taken = room.make("b", json!({"clusterIP": "10.96.0.5"})).await;
    let text = r#"Service "b" is invalid: spec.clusterIPs: Invalid value: ["10.96.0.5"]: failed to allocate IP 10.96.0.5: provided IP is already allocated"#;
    assert_eq!((taken.0, message(&taken)), (422, text));
    let outside = room.make("b", json!({"clusterIP": "10.97.0.5"})).await;
    assert!(
        outside.0 == 422 && message(&outside).ends_with("is not in the valid range. The range of valid IPs is 10.96.0.0/28"),
        "{outside:?}"
    );
    let port = |node: i64| json!({"type": "NodePort", "ports": [{"port": 80, "nodePort": node}]});
    assert_eq!(room.make("c", port(30001)).await.0, 201);
    let taken = room.make("d", port(30001)).await;
    let text = r#"Service "d" is invalid: spec.ports[0].nodePort: Invalid value: 30001: provided port is already allocated"#;
    assert_eq!((taken.0, message(&taken)), (422, text));
    let outside = room.make("d", port(80)).await;
    let text = r#"Service "d" is invalid: spec.ports[0].nodePort: Invalid value: 80: provided port is not in the valid range. The range of valid ports is 30000-30003"#;
    assert_eq!((outside.0, message(&outside)), (422, text));
}

/// A create that the store refuses must not free what the stored object of that name holds, nor keep what it claimed itself.
#[tokio::test]
async fn refused_writes_leave_no_trace() {
    let room = room().await;
    let node = json!({"type": "NodePort", "ports": [{"port": 80, "nodePort": 30000}], "clusterIP": "10.96.0.5"});
    assert_eq!(room.make("a", node.clone()).await.0, 201);
    for _ in 0..20 {
        assert_eq!(room.make("a", json!({"type": "NodePort"})).await.0, 409);
    }
    assert_eq!(room.make("a", node.clone()).await.0, 409);
    assert_eq!(room.make("b", node).await.0, 422);
    for _ in 0..20 {
        let dry = room
            .send(
                "POST",
                &format!("{SERVICES}?dryRun=All"),
                json!({"apiVersion": "v1", "kind": "Service",
            "metadata": {"name": "dry"}, "spec": {"type": "NodePort", "ports": [{"port": 80}]}}),
            )
            .await;
        assert!(dry.0 == 201 && dry.1["spec"]["clusterIP"].is_string() && dry.1["spec"]["ports"][0]["nodePort"].is_i64(), "{dry:?}");
    }
    // Three ports are left, and all of them can be had.
    for name in ["x", "y", "z"] {
        let made = room.make(name, json!({"type": "NodePort"})).await;
        assert_eq!(made.0, 201, "{made:?}");
    }
}

#[tokio::test]
async fn changing_the_type_gives_back_and_claims_anew() {
    let room = room().await;
    assert_eq!(
        room.make("a", json!({"type": "NodePort", "clusterIP": "10.96.0.5", "ports": [{"port": 80, "nodePort": 30001}]})).await.0,
        201
    );
    let path = format!("{SERVICES}/a");
    let kept = room.patch(&path, json!({"metadata": {"labels": {"x": "y"}}})).await;
    assert_eq!((kept.0, &kept.1["spec"]["ports"][0]["nodePort"]), (200, &json!(30001)));
    let fixed = room.patch(&path, json!({"spec": {"clusterIP": "10.96.0.6"}})).await;
    assert!(fixed.0 == 422 && message(&fixed).contains("may not change once set"), "{fixed:?}");
    let external = room.patch(&path, json!({"spec": {"type": "ExternalName", "externalName": "a.b"}})).await;
    assert_eq!((external.0, external.1["spec"].get("clusterIP")), (200, None));
    assert_eq!(
        room.make("b", json!({"type": "NodePort", "clusterIP": "10.96.0.5", "ports": [{"port": 80, "nodePort": 30001}]})).await.0,
        201
    );
    let back = room.patch(&path, json!({"spec": {"type": "NodePort"}})).await;
    assert!(back.0 == 200 && back.1["spec"]["clusterIP"] != "10.96.0.5" && back.1["spec"]["ports"][0]["nodePort"] != 30001, "{back:?}");
}

#[tokio::test]
async fn a_namespace_goes_when_its_finalizer_does() {
    let room = room().await;
    let made = room.post("/api/v1/namespaces", json!({"metadata": {"generateName": "n-"}})).await;
    let name = made.1["metadata"]["name"].as_str().unwrap().to_owned();
    assert_eq!(made.1["metadata"]["labels"]["kubernetes.io/metadata.name"], name.as_str());
    assert_eq!((&made.1["spec"]["finalizers"], &made.1["status"]["phase"]), (&json!(["kubernetes"]), &json!("Active")));
    let path = format!("/api/v1/namespaces/{name}");
    let going = room.send("DELETE", &path, Value::Null).await;
    assert!(going.0 < 300, "{going:?}");
    let mut seen = room.send("GET", &path, Value::Null).await.1;
    assert_eq!(seen["status"]["phase"], "Terminating");
    seen["spec"]["finalizers"] = json!([]);
    assert_eq!(room.send("PUT", &format!("{path}/finalize"), seen).await.0, 200);
    assert_eq!(room.send("GET", &path, Value::Null).await.0, 404);
}

#[tokio::test]
async fn an_event_is_one_object_in_two_shapes() {
    let room = room().await;
    let event = json!({"metadata": {"name": "e"}, "involvedObject": {"kind": "Pod", "name": "web", "namespace": "default"}, "reason": "Pulled",
        "message": "m", "type": "Normal", "source": {"component": "kubelet"}, "firstTimestamp": "2026-01-01T00:00:00Z"});
    let made = room.post("/api/v1/namespaces/default/events", event).await;
    assert_eq!(made.0, 201, "{made:?}");
    let selected = |field: &str| format!("/apis/events.k8s.io/v1/namespaces/default/events?fieldSelector={field}");
    let list = room.send("GET", &selected("regarding.name%3Dweb,type%3DNormal"), Value::Null).await.1;
    let item = &list["items"][0];
    assert_eq!(
        (&item["regarding"]["name"], &item["note"], &item["deprecatedSource"]["component"]),
        (&json!("web"), &json!("m"), &json!("kubelet"))
    );
    assert_eq!(room.send("GET", &selected("regarding.name%3Dother"), Value::Null).await.1["items"], json!([]));
}

#[tokio::test]
async fn a_node_brings_its_status_and_a_service_does_not() {
    let room = room().await;
    let status = json!({"capacity": {"cpu": "4"}});
    let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n1"}, "status": status});
    let (code, made) = room.post("/api/v1/nodes", node).await;
    assert_eq!((code, &made["status"]["capacity"]["cpu"]), (201, &json!("4")));
    let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "s1"}, "spec": {"ports": [{"port": 80}]},
        "status": {"loadBalancer": {"ingress": [{"ip": "10.1.1.1"}]}}});
    let (code, made) = room.post(SERVICES, service).await;
    assert_eq!((code, made.pointer("/status/loadBalancer/ingress")), (201, None));
}
