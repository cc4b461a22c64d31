//! Claims to devices, and slices of them: who may write what, through the real engine. Source: `pkg/registry/resource/utils.go`,
//! `plugin/pkg/auth/authorizer/node`, `plugin/pkg/admission/noderestriction`.

use std::sync::Arc;

use api::GroupResource;
use apiserver::identity::{Attributes, Auth, Authorizer, Decision, User};
use kinds::auth::node::NodeAuthorizer;
use serde_json::{Value, json};

use crate::stock::Stock;

const GROUP: &str = "resource.k8s.io";
const CLAIMS: &str = "/apis/resource.k8s.io/v1/namespaces/a/resourceclaims";
const SLICES: &str = "/apis/resource.k8s.io/v1/resourceslices";

/// Anything but what is named apart from subresources: schedulers bind, drivers tell of devices, each in its own way.
struct Roles;

impl Authorizer for Roles {
    fn authorize(&self, a: &Attributes<'_>) -> Decision {
        let may = match (a.subresource, a.user.name.as_str()) {
            ("binding", name) => name == "scheduler" && a.namespace.is_empty() && a.name.is_empty(),
            ("driver", "system:serviceaccount:a:driver") => a.verb.starts_with("associated-node:") && a.name == "d.example.com",
            ("driver", name) => name == "controller" && a.verb.starts_with("arbitrary-node:"),
            _ => !a.user.name.starts_with("system:node:"),
        };
        if may { Decision::Allow(String::new()) } else { Decision::NoOpinion(String::new()) }
    }
}

async fn stock() -> Stock {
    let stock = Stock::new(|_| Auth {
        authorizers: vec![Arc::new(NodeAuthorizer::default()), Arc::new(Roles)],
        admission: kinds::admission::chain(),
        ..Auth::default()
    })
    .await;
    let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "a"}});
    let namespaces = GroupResource::new("", "namespaces");
    let made = stock.engine.create(&namespaces, "", namespace, &kinds::auth::system_user()).await;
    assert!(made.is_ok_and(|_| true) || stock.engine.cached(&namespaces, &api::Key::new("", "a")).is_some());
    stock
}

fn user(name: &str) -> User {
    User { name: name.into(), ..User::default() }
}

fn driver_on(node: &str) -> User {
    let extra = [("authentication.kubernetes.io/node-name".to_owned(), vec![node.to_owned()])].into();
    User { name: "system:serviceaccount:a:driver".into(), extra, ..User::default() }
}

async fn ask(stock: &Stock, who: &User, method: &str, path: &str, body: Option<Value>) -> (u16, String) {
    let answer = stock.ask(who, method, path, body.as_ref()).await.unwrap();
    (answer.code, answer.body.to_string())
}

fn claim(exactly: Value) -> Value {
    json!({"apiVersion": "resource.k8s.io/v1", "kind": "ResourceClaim", "metadata": {"name": "c"},
        "spec": {"devices": {"requests": [{"name": "r", "exactly": exactly}]}}})
}

#[tokio::test]
async fn only_labelled_namespaces_have_claims_of_administrators() {
    let stock = stock().await;
    let admin = claim(json!({"deviceClassName": "c", "adminAccess": true}));
    let (code, body) = ask(&stock, &user("jane"), "POST", CLAIMS, Some(admin.clone())).await;
    let words = "spec.devices.requests[0].adminAccess: Forbidden: admin access to devices requires the `resource.kubernetes.io/admin-access: true` label";
    assert!(code == 422 && body.contains(words), "{code} {body}");
    let label = json!({"metadata": {"labels": {"resource.kubernetes.io/admin-access": "true"}}});
    assert_eq!(ask(&stock, &user("jane"), "PATCH", "/api/v1/namespaces/a", Some(label)).await.0, 200);
    assert_eq!(ask(&stock, &user("jane"), "POST", CLAIMS, Some(admin)).await.0, 201);
}

#[tokio::test]
async fn schedulers_allocate_and_drivers_tell_of_their_devices() {
    let stock = stock().await;
    assert_eq!(ask(&stock, &user("jane"), "POST", CLAIMS, Some(claim(json!({"deviceClassName": "c"})))).await.0, 201);
    let status = format!("{CLAIMS}/c/status");
    let terms = json!([{"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["n1"]}]}]);
    let result = json!({"request": "r", "driver": "d.example.com", "pool": "p", "device": "x"});
    let allocation = json!({"status": {"allocation": {"devices": {"results": [result]}, "nodeSelector": {"nodeSelectorTerms": terms}}}});
    let (code, body) = ask(&stock, &user("jane"), "PATCH", &status, Some(allocation.clone())).await;
    assert!(code == 422 && body.contains("requires resource=\\\"resourceclaims/binding\\\", verb=\\\"patch\\\" permission"), "{body}");
    assert_eq!(ask(&stock, &user("scheduler"), "PATCH", &status, Some(allocation)).await.0, 200);
    let device = |ready: &str| {
        let condition =
            json!({"type": "Ready", "status": ready, "reason": "R", "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z"});
        json!({"status": {"devices": [{"driver": "d.example.com", "pool": "p", "device": "x", "conditions": [condition]}]}})
    };
    for (who, ready, code) in [
        (user("scheduler"), "True", 422),
        (driver_on("n2"), "True", 422),
        (driver_on("n1"), "True", 200),
        (user("controller"), "False", 200),
        // Nothing changes.
        (user("jane"), "False", 200),
    ] {
        let (found, body) = ask(&stock, &who, "PATCH", &status, Some(device(ready))).await;
        assert_eq!(found, code, "{}: {body}", who.name);
    }
    // What was told of a device goes with it.
    let freed = json!({"status": {"allocation": null}});
    let (code, body) = ask(&stock, &user("scheduler"), "PATCH", &status, Some(freed)).await;
    assert!(code == 200 && !body.contains("devices\":[{\"conditions"), "{body}");
}

#[tokio::test]
async fn a_node_has_its_own_slices_and_the_claims_of_its_pods() {
    let stock = stock().await;
    let node = User { name: "system:node:n1".into(), groups: vec!["system:nodes".into()], ..User::default() };
    let slice = |name: &str, of: &str| {
        json!({"apiVersion": "resource.k8s.io/v1", "kind": "ResourceSlice", "metadata": {"name": name},
            "spec": {"driver": "d.example.com", "nodeName": of, "pool": {"name": "p", "resourceSliceCount": 1}}})
    };
    let system = kinds::auth::system_user();
    stock.engine.create(&GroupResource::new(GROUP, "resourceslices"), "", slice("s2", "n2"), &system).await.unwrap();
    for (method, target, body, code) in [
        ("POST", SLICES.to_owned(), Some(slice("s1", "n1")), 201),
        ("POST", SLICES.to_owned(), Some(slice("s3", "n2")), 403),
        ("GET", SLICES.to_owned(), None, 403),
        ("GET", format!("{SLICES}?fieldSelector=spec.nodeName%3Dn1"), None, 200),
        ("GET", format!("{SLICES}/s1"), None, 200),
        ("GET", format!("{SLICES}/s2"), None, 403),
        ("PATCH", format!("{SLICES}/s2"), Some(json!({"metadata": {"labels": {"a": "b"}}})), 403),
        ("DELETE", format!("{SLICES}/s2"), None, 403),
        ("DELETE", format!("{SLICES}?fieldSelector=spec.nodeName%3Dn1"), None, 200),
        ("GET", format!("{CLAIMS}/c"), None, 403),
    ] {
        let (found, body) = ask(&stock, &node, method, &target, body).await;
        assert_eq!(found, code, "{method} {target}: {body}");
    }
    let claims = GroupResource::new(GROUP, "resourceclaims");
    stock.engine.create(&claims, "a", claim(json!({"deviceClassName": "c"})), &system).await.unwrap();
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": {
        "nodeName": "n1", "containers": [{"name": "c", "image": "x", "resources": {"claims": [{"name": "gpu"}]}}],
        "resourceClaims": [{"name": "gpu", "resourceClaimName": "c"}], "automountServiceAccountToken": false,
    }});
    let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"}});
    let _ = stock.engine.create(&GroupResource::new("", "serviceaccounts"), "a", account, &system).await;
    stock.engine.create(&GroupResource::new("", "pods"), "a", pod, &system).await.unwrap();
    assert_eq!(ask(&stock, &node, "GET", &format!("{CLAIMS}/c"), None).await.0, 200);
    assert_eq!(ask(&stock, &node, "GET", CLAIMS, None).await.0, 403);
}
