//! What the whole chain of admission refuses, in upstream's words.

use apiserver::identity::Auth;
use serde_json::json;

use crate::room::Room;

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
async fn a_pod_that_names_a_runtime_class_that_is_not_there_is_refused() {
    let auth = Auth { admission: kinds::admission::chain(), ..Auth::default() };
    let room = Room::new(kinds::table(&kinds::Config::default()), auth).await;
    Room::ok(room.post("/api/v1/namespaces", json!({"metadata": {"name": "default"}})).await);
    Room::ok(room.post("/api/v1/namespaces/default/serviceaccounts", json!({"metadata": {"name": "default"}})).await);
    let pod = |class: Option<&str>| {
        let spec = json!({"containers": [{"name": "c", "image": "i"}], "runtimeClassName": class});
        json!({"metadata": {"name": "p"}, "spec": spec})
    };
    let (code, status) = room.post("/api/v1/namespaces/default/pods", pod(Some("gvisor"))).await;
    assert_eq!((code, &status["reason"]), (403, &json!("Forbidden")));
    assert_eq!(status["message"], r#"pods "p" is forbidden: pod rejected: RuntimeClass "gvisor" not found"#);
    Room::ok(room.post("/api/v1/namespaces/default/pods", pod(None)).await);
}
