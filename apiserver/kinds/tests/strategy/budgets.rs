//! Evictions and budgets, and a few answers of the front door, through the real engine over the memory store.

use apiserver::identity::Auth;
use serde_json::{Value, json};

use crate::room::Room;

const PODS: &str = "/api/v1/namespaces/default/pods";
const BUDGETS: &str = "/apis/policy/v1/namespaces/default/poddisruptionbudgets";
const CLASSES: &str = "/apis/scheduling.k8s.io/v1/priorityclasses";

async fn room() -> Room {
    let auth = Auth { admission: kinds::admission::chain(), ..Auth::default() };
    let room = Room::new(kinds::table(&kinds::Config::default()), auth).await;
    Room::ok(room.post("/api/v1/namespaces", json!({"metadata": {"name": "default"}})).await);
    Room::ok(room.post("/api/v1/namespaces/default/serviceaccounts", json!({"metadata": {"name": "default"}})).await);
    room
}

impl Room {
    /// A pod with label `app: db` that runs, ready or not.
    async fn running(&self, name: &str, ready: &str) {
        let spec = json!({"containers": [{"name": "c", "image": "i"}]});
        Room::ok(self.post(PODS, json!({"metadata": {"name": name, "labels": {"app": "db"}}, "spec": spec})).await);
        let status = json!({"phase": "Running", "conditions": [{"type": "Ready", "status": ready}]});
        let (code, reply) = self.patch(&format!("{PODS}/{name}/status"), json!({"status": status})).await;
        assert_eq!(code, 200, "{reply}");
    }

    async fn budget(&self, name: &str, mut status: Value) {
        let spec = json!({"minAvailable": 1, "selector": {"matchLabels": {"app": "db"}}});
        Room::ok(self.post(BUDGETS, json!({"metadata": {"name": name}, "spec": spec})).await);
        status["observedGeneration"] = 1.into();
        let (code, reply) = self.patch(&format!("{BUDGETS}/{name}/status"), json!({"status": status})).await;
        assert_eq!(code, 200, "{reply}");
    }

    async fn evict(&self, name: &str, query: &str) -> (u16, Value) {
        let eviction = json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": name}});
        self.post(&format!("{PODS}/{name}/eviction{query}"), eviction).await
    }

    async fn is_there(&self, path: &str) -> bool {
        self.send("GET", path, Value::Null).await.0 == 200
    }
}

fn reason(reply: &Value) -> &str {
    reply["details"]["causes"][0]["message"].as_str().unwrap_or_default()
}

#[tokio::test]
async fn a_budget_holds_evictions_back() {
    let room = room().await;
    for name in ["a", "b", "c"] {
        room.running(name, "True").await;
    }
    room.budget("guard", json!({"disruptionsAllowed": 1, "currentHealthy": 3, "desiredHealthy": 2})).await;
    let (code, reply) = room.evict("a", "?dryRun=All").await;
    assert_eq!((code, &reply["status"]), (201, &json!("Success")));
    let (code, reply) = room.evict("a", "").await;
    assert_eq!((code, &reply["status"]), (201, &json!("Success")), "the dry run took nothing: {reply}");
    assert!(!room.is_there(&format!("{PODS}/a")).await);
    let budget = room.send("GET", &format!("{BUDGETS}/guard"), Value::Null).await.1;
    assert_eq!(
        (&budget["status"]["disruptionsAllowed"], budget["status"]["disruptedPods"]["a"].is_string()),
        (&json!(0), true),
        "{budget}"
    );
    let (code, reply) = room.evict("b", "").await;
    assert_eq!((code, &reply["reason"]), (429, &json!("TooManyRequests")));
    assert_eq!(reply["message"], "Cannot evict pod as it would violate the pod's disruption budget.");
    assert_eq!(reply["details"]["causes"][0]["reason"], "DisruptionBudget");
    assert_eq!(reason(&reply), "The disruption budget guard does not allow evicting pods currently");
    assert!(room.is_there(&format!("{PODS}/b")).await);
    // A spec that the controller has not seen yet counts for nothing.
    let changed = json!({"spec": {"minAvailable": 2}});
    let version = room.send("GET", &format!("{BUDGETS}/guard"), Value::Null).await.1["metadata"]["resourceVersion"].clone();
    let unconditional = room.send("PUT", &format!("{BUDGETS}/guard"), json!({"metadata": {"name": "guard"}, "spec": {}})).await;
    assert_eq!(unconditional.0, 422, "updates say what they are based on");
    let (code, reply) =
        room.patch(&format!("{BUDGETS}/guard"), json!({"metadata": {"resourceVersion": version}, "spec": changed["spec"]})).await;
    assert_eq!((code, &reply["metadata"]["generation"]), (200, &json!(2)));
    let (code, reply) = room.evict("b", "").await;
    assert_eq!((code, reason(&reply)), (429, "The disruption budget guard is still being processed by the server."));
    assert_eq!(reply["details"]["retryAfterSeconds"], 10);
}

#[tokio::test]
async fn budgets_do_not_guard_what_does_not_run_or_count() {
    let room = room().await;
    room.running("sick", "False").await;
    Room::ok(
        room.post(
            PODS,
            json!({"metadata": {"name": "new", "labels": {"app": "db"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}}),
        )
        .await,
    );
    room.budget("guard", json!({"disruptionsAllowed": 0, "currentHealthy": 0, "desiredHealthy": 1})).await;
    assert_eq!(room.evict("new", "").await.0, 201, "it never ran");
    assert_eq!(room.evict("sick", "").await.0, 429, "too few are healthy");
    let always = json!({"spec": {"unhealthyPodEvictionPolicy": "AlwaysAllow"}});
    let (code, reply) = room.patch(&format!("{BUDGETS}/guard"), always).await;
    assert_eq!(code, 200, "{reply}");
    assert_eq!(room.evict("sick", "").await.0, 201);
    room.running("one", "True").await;
    room.budget("second", json!({"disruptionsAllowed": 1})).await;
    let (code, reply) = room.evict("one", "").await;
    assert_eq!(code, 500);
    assert!(reply["message"].as_str().unwrap().starts_with("This pod has more than one PodDisruptionBudget"), "{reply}");
}

#[tokio::test]
async fn bodies_of_the_first_version_are_taken_for_evictions_alone() {
    let room = room().await;
    room.running("a", "True").await;
    let old = |name: &str| json!({"apiVersion": "policy/v1beta1", "kind": "Eviction", "metadata": {"name": name, "namespace": "default"}});
    let other = json!({"apiVersion": "policy/v2", "kind": "Eviction", "metadata": {"name": "a"}});
    let (code, reply) = room.post(&format!("{PODS}/a/eviction"), other).await;
    assert_eq!(code, 400, "{reply}");
    let (code, reply) = room.post(&format!("{PODS}/a/eviction"), old("a")).await;
    assert_eq!(code, 201, "{reply}");
    let budget = json!({"apiVersion": "policy/v1beta1", "kind": "PodDisruptionBudget", "metadata": {"name": "x"}});
    assert_eq!(room.post(BUDGETS, budget).await.0, 400);
}

#[tokio::test]
async fn scales_have_a_table_of_their_own() {
    let room = room().await;
    let sets = "/apis/apps/v1/namespaces/default/replicasets";
    let labels = json!({"app": "web"});
    let template = json!({"metadata": {"labels": labels}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
    let spec = json!({"replicas": 3, "selector": {"matchLabels": labels}, "template": template});
    Room::ok(room.post(sets, json!({"metadata": {"name": "web"}, "spec": spec})).await);
    let accept = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json";
    let (code, table) = room.ask("GET", &format!("{sets}/web/scale"), accept, Value::Null).await;
    let names: Vec<&str> = table["columnDefinitions"].as_array().unwrap().iter().filter_map(|c| c["name"].as_str()).collect();
    assert_eq!((code, names), (200, vec!["Name", "Desired", "Available", "Age"]), "{table}");
    let cells = table["rows"][0]["cells"].as_array().unwrap();
    assert_eq!(cells[..3], [json!("web"), json!(3), json!(0)]);
}

#[tokio::test]
async fn what_is_not_done_is_refused_in_upstreams_words() {
    let room = room().await;
    let (code, reply) = room.send("OPTIONS", PODS, Value::Null).await;
    assert_eq!((code, &reply["message"]), (405, &json!("the server does not allow this method on the requested resource")));
    for class in kinds::priorityclass::system_classes() {
        Room::ok(room.post(CLASSES, class).await);
    }
    let (code, reply) = room.send("DELETE", &format!("{CLASSES}/system-node-critical"), Value::Null).await;
    let words =
        r#"priorityclasses.scheduling.k8s.io "system-node-critical" is forbidden: this is a system priority class and cannot be deleted"#;
    assert_eq!((code, &reply["message"]), (403, &json!(words)));
    Room::ok(room.post(CLASSES, json!({"metadata": {"name": "mine"}, "value": 5})).await);
    assert_eq!(room.send("DELETE", &format!("{CLASSES}/mine"), Value::Null).await.0, 200);
}

#[tokio::test]
async fn a_new_node_is_tainted_until_it_is_found_ready() {
    let room = room().await;
    let node = Room::ok(room.post("/api/v1/nodes", json!({"metadata": {"name": "n"}})).await);
    assert_eq!(node["spec"]["taints"], json!([{"key": "node.kubernetes.io/not-ready", "effect": "NoSchedule"}]));
}
