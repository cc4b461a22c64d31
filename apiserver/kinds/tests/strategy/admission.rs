//! What the whole chain of admission refuses, in upstream's words.

use apiserver::identity::Auth;
use serde_json::json;

use crate::room::Room;

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
