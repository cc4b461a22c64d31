//! Which kinds take finalizers without a domain: those whose packages use apimachinery's checks of metadata, and not the core group's.
//!
//! Sources: `pkg/apis/*/validation`, kube-aggregator `pkg/apis/apiregistration/validation`.

use apiserver::identity::Auth;
use serde_json::{Value, json};

use crate::room::Room;

const ODD: &str = "odd";
const WHY: &str = "name is neither a standard finalizer name nor is it fully qualified";

fn with(mut object: Value, finalizer: &str) -> Value {
    object["metadata"] = json!({"name": "f", "finalizers": [finalizer]});
    object
}

/// Each is asked to be made, and changed, with a finalizer that has no domain.
#[tokio::test]
async fn names_without_a_domain() {
    let room = Room::new(kinds::table(&kinds::Config::default()), Auth::default()).await;
    Room::ok(room.post("/api/v1/namespaces", json!({"metadata": {"name": "a"}})).await);
    let any = [
        ("/apis/coordination.k8s.io/v1/namespaces/a/leases", json!({})),
        ("/apis/node.k8s.io/v1/runtimeclasses", json!({"handler": "h"})),
        ("/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations", json!({})),
        ("/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations", json!({})),
        (
            "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicybindings",
            json!({"spec": {"policyName": "p", "validationActions": ["Deny"]}}),
        ),
        ("/apis/admissionregistration.k8s.io/v1/mutatingadmissionpolicybindings", json!({"spec": {"policyName": "p"}})),
    ];
    for (path, object) in any {
        Room::ok(room.post(path, with(object, ODD)).await);
        Room::ok(room.patch(&format!("{path}/f"), json!({"metadata": {"finalizers": [ODD, "other"]}})).await);
    }
    let qualified = [
        ("/api/v1/namespaces/a/configmaps", json!({})),
        ("/apis/rbac.authorization.k8s.io/v1/namespaces/a/roles", json!({"rules": []})),
        ("/apis/scheduling.k8s.io/v1/priorityclasses", json!({"value": 1})),
        ("/apis/resource.k8s.io/v1/deviceclasses", json!({"spec": {}})),
        ("/apis/storage.k8s.io/v1/storageclasses", json!({"provisioner": "example.com/p"})),
    ];
    for (path, object) in qualified {
        let (code, status) = room.post(path, with(object.clone(), ODD)).await;
        assert_eq!((code, &status["details"]["causes"][0]["field"]), (422, &json!("metadata.finalizers[0]")), "{path}: {status}");
        assert!(status["message"].as_str().is_some_and(|message| message.contains(WHY)), "{path}: {status}");
        Room::ok(room.post(path, with(object, "example.com/f")).await);
        let (code, status) = room.patch(&format!("{path}/f"), json!({"metadata": {"finalizers": [ODD]}})).await;
        assert_eq!(code, 422, "{path}: {status}");
    }
}
