//! What the whole chain of admission refuses, in upstream's words.

use std::sync::Arc;

use apiserver::identity::{Auth, User};
use serde_json::json;

use crate::{room::Room, stock::Stock};

/// What cannot be reached by a path could be neither seen nor deleted.
#[tokio::test]
async fn no_object_has_a_name_that_no_path_leads_to() {
    let room = Room::new(kinds::table(&kinds::Config::default()), Auth::default()).await;
    let request = json!({"request": "", "signerName": "example.com/any", "usages": ["client auth"]});
    for (path, spec) in [
        ("/apis/certificates.k8s.io/v1/certificatesigningrequests", request),
        ("/apis/rbac.authorization.k8s.io/v1/clusterroles", json!(null)),
    ] {
        for name in ["a/1", "a%2f", "..", "."] {
            let (code, status) = room.post(path, json!({"metadata": {"name": name}, "spec": spec})).await;
            assert_eq!((code, &status["reason"]), (422, &json!("Invalid")), "{path} {name}: {status}");
            assert!(status["message"].as_str().unwrap().contains("metadata.name"), "{status}");
        }
    }
}

#[tokio::test]
async fn a_runtime_class_gives_its_overhead_and_its_place() {
    let auth = Auth { admission: kinds::admission::chain(), ..Auth::default() };
    let room = Room::new(kinds::table(&kinds::Config::default()), auth).await;
    Room::ok(room.post("/api/v1/namespaces", json!({"metadata": {"name": "default"}})).await);
    Room::ok(room.post("/api/v1/namespaces/default/serviceaccounts", json!({"metadata": {"name": "default"}})).await);
    let scheduling = json!({"nodeSelector": {"sandbox": "yes"}, "tolerations": [{"key": "sandbox", "operator": "Exists"}]});
    let gvisor =
        json!({"metadata": {"name": "gvisor"}, "handler": "runsc", "overhead": {"podFixed": {"cpu": "0.25"}}, "scheduling": scheduling});
    Room::ok(room.post("/apis/node.k8s.io/v1/runtimeclasses", gvisor).await);
    Room::ok(room.post("/apis/node.k8s.io/v1/runtimeclasses", json!({"metadata": {"name": "bare"}, "handler": "runc"})).await);
    let pod = |name: &str, class: Option<&str>, more: serde_json::Value| {
        let mut spec = json!({"containers": [{"name": "c", "image": "i"}], "runtimeClassName": class});
        spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        json!({"metadata": {"name": name}, "spec": spec})
    };
    let pods = "/api/v1/namespaces/default/pods";
    let made = Room::ok(room.post(pods, pod("good", Some("gvisor"), json!({"nodeSelector": {"disk": "ssd"}}))).await);
    assert_eq!(made["spec"]["overhead"], json!({"cpu": "250m"}));
    assert_eq!(made["spec"]["nodeSelector"], json!({"disk": "ssd", "sandbox": "yes"}));
    assert!(made["spec"]["tolerations"].as_array().unwrap().contains(&json!({"key": "sandbox", "operator": "Exists"})), "{made}");
    Room::ok(room.post(pods, pod("none", None, json!({}))).await);
    Room::ok(room.post(pods, pod("bare", Some("bare"), json!({}))).await);
    let mismatch = "pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead";
    let undefined = "pod rejected: Pod Overhead set without corresponding RuntimeClass defined Overhead";
    let conflict = "conflict: runtimeClass.scheduling.nodeSelector[sandbox] = yes; pod.spec.nodeSelector[sandbox] = no";
    for (class, more, words) in [
        (Some("kata"), json!({}), "pod rejected: RuntimeClass \"kata\" not found"),
        (Some("gvisor"), json!({"overhead": {"cpu": "1"}}), mismatch),
        (Some("gvisor"), json!({"nodeSelector": {"sandbox": "no"}}), conflict),
        (Some("bare"), json!({"overhead": {"cpu": "1"}}), undefined),
        (None, json!({"overhead": {"cpu": "1"}}), undefined),
    ] {
        let (code, status) = room.post(pods, pod("p", class, more)).await;
        assert_eq!((code, &status["message"]), (403, &json!(format!("pods \"p\" is forbidden: {words}"))));
    }
}

/// Source: `admitCSINode` and `authorizeCSINode`.
#[tokio::test]
async fn a_node_writes_its_own_csi_node_only() {
    let stock = Stock::new(|_| Auth {
        authorizers: vec![Arc::new(kinds::auth::node::NodeAuthorizer::default())],
        admission: kinds::admission::chain(),
        ..Auth::default()
    })
    .await;
    let node = User { name: "system:node:n1".into(), groups: vec!["system:nodes".into()], ..User::default() };
    let nodes = "/apis/storage.k8s.io/v1/csinodes";
    let of =
        |name: &str| json!({"apiVersion": "storage.k8s.io/v1", "kind": "CSINode", "metadata": {"name": name}, "spec": {"drivers": []}});
    let (resource, system) = (api::GroupResource::new("storage.k8s.io", "csinodes"), kinds::auth::system_user());
    stock.engine.create(&resource, "", of("n2"), &system).await.unwrap();
    for (method, target, body, code) in [
        ("POST", nodes.to_owned(), Some(of("n1")), 201),
        ("POST", nodes.to_owned(), Some(of("n3")), 403),
        ("GET", nodes.to_owned(), None, 403),
        ("GET", format!("{nodes}/n2"), None, 403),
        ("PATCH", format!("{nodes}/n2"), Some(json!({"metadata": {"labels": {"a": "b"}}})), 403),
        ("DELETE", format!("{nodes}/n2"), None, 403),
        ("GET", format!("{nodes}/n1"), None, 200),
        ("PATCH", format!("{nodes}/n1"), Some(json!({"spec": {"drivers": [{"name": "a.example", "nodeID": "1"}]}})), 200),
        ("DELETE", format!("{nodes}/n1"), None, 200),
    ] {
        let answer = stock.ask(&node, method, &target, body.as_ref()).await.unwrap();
        assert_eq!(answer.code, code, "{method} {target}: {}", answer.body);
    }
}
