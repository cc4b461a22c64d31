//! What goes only when it has to, and in time; and what comes back.

use e2e::{eventually, object};
use serde_json::{Value, json};

use crate::world::{PODS, SOON, World, pod_spec};

pub async fn system_namespaces_come_back(w: &World) {
    let path = "/api/v1/namespaces/kube-node-lease";
    let first = w.api.get(path).await.expect(200);
    w.api.delete(path).await.expect(200);
    eventually("kube-node-lease is back", 2 * SOON, async || {
        let now = w.api.get(path).await;
        let is_back = now.status == 200 && now.json()["metadata"]["uid"] != first["metadata"]["uid"];
        if is_back && now.json()["status"]["phase"] == "Active" { Ok(()) } else { Err(now.status) }
    })
    .await;
    let leases = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases";
    w.api.post(leases, &object("coordination.k8s.io/v1", "Lease", "l", json!({"spec": {}}))).await.expect(201);
}

/// A pod on the node that tolerates its taint for so long.
async fn pod(w: &World, name: &str, seconds: Option<i64>) {
    let toleration = json!({"key": "k", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": seconds});
    let mut spec = pod_spec();
    spec["nodeName"] = "tainted".into();
    spec["tolerations"] = if seconds.is_some() { json!([toleration]) } else { json!([]) };
    w.api.post(PODS, &object("v1", "Pod", name, json!({"spec": spec}))).await.expect(201);
}

async fn goes(w: &World, name: &str) -> bool {
    let now = w.api.get(&format!("{PODS}/{name}")).await;
    now.status == 404 || now.json()["metadata"]["deletionTimestamp"].is_string()
}

async fn is_driven_away(w: &World, name: &str) {
    eventually(&format!("{name} goes"), SOON, async || goes(w, name).await).await;
}

/// Whatever number is asked for, and whether or not somebody wrote when the taint came.
pub async fn taints_drive_pods_away_in_time(w: &World) {
    w.pods_can_be_made_in("default").await;
    let taint = json!({"key": "k", "value": "v", "effect": "NoExecute"});
    w.api.post("/api/v1/nodes", &object("v1", "Node", "tainted", json!({"spec": {"taints": [taint]}}))).await.expect(201);
    let patient = [("years", 100_000_000), ("for-ever", i64::MAX), ("nearly", i64::MAX - 1), ("an-hour", 3600)];
    for (name, seconds) in patient {
        pod(w, name, Some(seconds)).await;
    }
    for (name, seconds) in [("negative", Some(-1)), ("least", Some(i64::MIN)), ("zero", Some(0)), ("none", None), ("soon", Some(2))] {
        pod(w, name, seconds).await;
        is_driven_away(w, name).await;
    }
    // A taint of long ago: who comes now has all the time it asks for.
    let old = json!({"key": "k", "value": "v", "effect": "NoExecute", "timeAdded": "2020-01-01T00:00:00Z"});
    w.api.patch("/api/v1/nodes/tainted", e2e::Patch::Merge, &json!({"spec": {"taints": [old]}})).await.expect(200);
    pod(w, "late", Some(3600)).await;
    pod(w, "witness", None).await;
    is_driven_away(w, "witness").await;
    for (name, _) in patient.into_iter().chain([("late", 3600)]) {
        assert!(!goes(w, name).await, "{name}");
    }
    let told = |events: &Value| {
        let is_it = |e: &Value| e["reason"] == "TaintManagerEviction" && e["message"] == "Marking for deletion Pod default/none";
        events["items"].as_array().is_some_and(|items| items.iter().any(is_it))
    };
    let events = "/api/v1/namespaces/default/events";
    eventually("it is told", SOON, async || told(&w.api.get(events).await.expect(200))).await;
}
