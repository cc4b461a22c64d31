//! What a namespace allows: levels of pod security, and quotas; through the whole chain of admission.

use apiserver::identity::Auth;
use serde_json::{Value, json};

use crate::room::Room;

const NAMESPACES: &str = "/api/v1/namespaces";

async fn room(labels: Value) -> Room {
    let auth = Auth { admission: kinds::admission::chain(), ..Auth::default() };
    let room = Room::new(kinds::table(&kinds::Config::default()), auth).await;
    Room::ok(room.post(NAMESPACES, json!({"metadata": {"name": "a", "labels": labels}})).await);
    Room::ok(room.post("/api/v1/namespaces/a/serviceaccounts", json!({"metadata": {"name": "default"}})).await);
    room
}

fn pod(name: &str, spec: Value) -> Value {
    let mut pod = json!({"metadata": {"name": name}, "spec": {"containers": [{"name": "c", "image": "x:1"}]}});
    pod["spec"].as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
    pod
}

#[tokio::test]
async fn a_namespace_is_held_to_its_level() {
    let room = room(json!({"pod-security.kubernetes.io/enforce": "baseline"})).await;
    let pods = "/api/v1/namespaces/a/pods";
    let (code, status) = room.post(pods, pod("bad", json!({"hostPID": true}))).await;
    let wanted = r#"pods "bad" is forbidden: violates PodSecurity "baseline:latest": host namespaces (hostPID=true)"#;
    assert_eq!((code, &status["message"]), (403, &json!(wanted)));
    Room::ok(room.post(pods, pod("good", json!({}))).await);
    // What makes pods is told, and taken.
    let template = json!({"metadata": {"labels": {"app": "x"}}, "spec": {"hostPID": true, "containers": [{"name": "c", "image": "x:1"}]}});
    let set = json!({"metadata": {"name": "d"}, "spec": {"selector": {"matchLabels": {"app": "x"}}, "template": template}});
    Room::ok(room.post("/apis/apps/v1/namespaces/a/daemonsets", set).await);
    // Debugging is held to it, too.
    let debug = json!({"spec": {"ephemeralContainers": [{"name": "e", "image": "x:1", "securityContext": {"privileged": true}}]}});
    let (code, status) = room.patch(&format!("{pods}/good/ephemeralcontainers"), debug).await;
    assert_eq!(code, 403, "{status}");
    let debug = json!({"spec": {"ephemeralContainers": [{"name": "e", "image": "x:1"}], "hostPID": true}});
    let debugged = Room::ok(room.patch(&format!("{pods}/good/ephemeralcontainers"), debug).await);
    assert_eq!((&debugged["spec"]["ephemeralContainers"][0]["name"], &debugged["spec"]["hostPID"]), (&json!("e"), &Value::Null));
    // One that has them can still be written.
    Room::ok(room.patch(&format!("{pods}/good"), json!({"metadata": {"labels": {"a": "b"}}})).await);
    let (code, status) =
        room.patch(&format!("{NAMESPACES}/a"), json!({"metadata": {"labels": {"pod-security.kubernetes.io/enforce": "x"}}})).await;
    assert_eq!((code, &status["reason"]), (422, &json!("Invalid")), "{status}");
}

#[tokio::test]
async fn a_quota_is_used_up() {
    let room = room(json!({})).await;
    let (pods, quotas) = ("/api/v1/namespaces/a/pods", "/api/v1/namespaces/a/resourcequotas");
    let hard = json!({"pods": "2", "requests.cpu": "1", "count/configmaps": "1"});
    Room::ok(room.post(quotas, json!({"metadata": {"name": "q"}, "spec": {"hard": hard}})).await);
    let asking = |name: &str, cpu: &str| {
        let container = json!({"name": "c", "image": "x:1", "resources": {"requests": {"cpu": cpu}}});
        pod(name, json!({"containers": [container]}))
    };
    let refused = |reply: (u16, Value)| {
        assert_eq!(reply.0, 403, "{}", reply.1);
        reply.1["message"].as_str().unwrap().to_owned()
    };
    // Nobody has counted yet: what the quota limits is not known, what it does not limit is free.
    Room::ok(room.post(pods, asking("early", "1m")).await);
    let used = json!({"pods": "0", "requests.cpu": "0", "count/configmaps": "0"});
    let status = json!({"status": {"hard": hard, "used": used}});
    Room::ok(room.patch(&format!("{quotas}/q/status"), json!({"status": {"hard": hard}})).await);
    let unknown = "pods \"a\" is forbidden: status unknown for quota: q, resources: pods,requests.cpu";
    assert_eq!(refused(room.post(pods, asking("a", "1m")).await), unknown);
    Room::ok(room.patch(&format!("{quotas}/q/status"), status).await);
    assert_eq!(
        refused(room.post(pods, pod("n", json!({}))).await),
        "pods \"n\" is forbidden: failed quota: q: must specify requests.cpu for: c"
    );
    Room::ok(room.post(&format!("{pods}?dryRun=All"), asking("dry", "1")).await);
    Room::ok(room.post(pods, asking("a", "600m")).await);
    let over = "pods \"b\" is forbidden: exceeded quota: q, requested: requests.cpu=500m, used: requests.cpu=600m, limited: requests.cpu=1";
    assert_eq!(refused(room.post(pods, asking("b", "500m")).await), over);
    Room::ok(room.post(pods, asking("b", "400m")).await);
    let third = refused(room.post(pods, asking("c", "0")).await);
    assert_eq!(third, "pods \"c\" is forbidden: exceeded quota: q, requested: pods=1, used: pods=2, limited: pods=2");
    let maps = "/api/v1/namespaces/a/configmaps";
    Room::ok(room.post(maps, json!({"metadata": {"name": "m"}})).await);
    let second = refused(room.post(maps, json!({"metadata": {"name": "n"}})).await);
    assert_eq!(
        second,
        "configmaps \"n\" is forbidden: exceeded quota: q, requested: count/configmaps=1, used: count/configmaps=1, limited: count/configmaps=1"
    );
    let found = room.get(&format!("{quotas}/q")).await;
    assert_eq!(found["status"]["used"], json!({"pods": "2", "requests.cpu": "1", "count/configmaps": "1"}));
}

/// Of many that come at once as many are taken as there is room for.
#[tokio::test]
async fn no_more_are_taken_at_once_than_one_after_the_other() {
    let room = room(json!({})).await;
    let quotas = "/api/v1/namespaces/a/resourcequotas";
    let hard = json!({"count/secrets": "5"});
    Room::ok(room.post(quotas, json!({"metadata": {"name": "q"}, "spec": {"hard": hard}})).await);
    let status = json!({"status": {"hard": hard, "used": {"count/secrets": "0"}}});
    Room::ok(room.patch(&format!("{quotas}/q/status"), status).await);
    let made = futures::future::join_all((0..20).map(|i| {
        let room = &room;
        async move { room.post("/api/v1/namespaces/a/secrets", json!({"metadata": {"name": format!("s{i}")}})).await.0 }
    }));
    let codes = made.await;
    let taken = codes.iter().filter(|code| **code == 201).count();
    assert!(taken <= 5 && codes.iter().all(|code| matches!(code, 201 | 403 | 409)), "{codes:?}");
    assert!(taken > 0);
    let found = room.get(&format!("{quotas}/q")).await;
    assert_eq!(found["status"]["used"]["count/secrets"], json!(taken.to_string()));
}

#[tokio::test]
async fn an_autoscaler_is_one_object_in_two_versions() {
    let room = room(json!({})).await;
    let at = |version: &str| format!("/apis/autoscaling/{version}/namespaces/a/horizontalpodautoscalers");
    let target = json!({"apiVersion": "apps/v1", "kind": "Deployment", "name": "web"});
    let spec = json!({"scaleTargetRef": target, "maxReplicas": 3, "targetCPUUtilizationPercentage": 50});
    Room::ok(room.post(&at("v1"), json!({"metadata": {"name": "h"}, "spec": spec})).await);
    let new = room.get(&format!("{}/h", at("v2"))).await;
    assert_eq!(new["spec"]["metrics"][0]["resource"]["target"]["averageUtilization"], 50);
    let condition = json!([{"type": "AbleToScale", "status": "True"}]);
    Room::ok(
        room.patch(
            &format!("{}/h/status", at("v2")),
            json!({"status": {"conditions": condition, "currentReplicas": 1, "desiredReplicas": 2}}),
        )
        .await,
    );
    let old = room.get(&format!("{}/h", at("v1"))).await;
    assert_eq!((&old["spec"]["targetCPUUtilizationPercentage"], &old["status"]["desiredReplicas"]), (&json!(50), &json!(2)));
    assert!(old["metadata"]["annotations"]["autoscaling.alpha.kubernetes.io/conditions"].is_string(), "{old}");
    let changed = Room::ok(room.patch(&format!("{}/h", at("v1")), json!({"spec": {"maxReplicas": 9}})).await);
    assert_eq!(changed["spec"]["maxReplicas"], 9);
    let new = room.get(&format!("{}/h", at("v2"))).await;
    // As Go shows a time that is none.
    let shown = json!([{"type": "AbleToScale", "status": "True", "lastTransitionTime": null}]);
    assert_eq!((&new["spec"]["maxReplicas"], &new["status"]["conditions"]), (&json!(9), &shown));
    assert_eq!(new["metadata"].get("annotations"), None);
    let (code, status) = room.patch(&format!("{}/h", at("v1")), json!({"spec": {"maxReplicas": 0}})).await;
    assert_eq!(code, 422, "{status}");
}

#[tokio::test]
async fn a_daemon_sets_template_has_a_generation() {
    let room = room(json!({})).await;
    let sets = "/apis/apps/v1/namespaces/a/daemonsets";
    let template = json!({"metadata": {"labels": {"app": "x"}}, "spec": {"containers": [{"name": "c", "image": "x:1"}]}});
    let set = json!({"metadata": {"name": "d"}, "spec": {"selector": {"matchLabels": {"app": "x"}}, "template": template}});
    let shown = |set: &Value| set["metadata"]["annotations"]["deprecated.daemonset.template.generation"].clone();
    let made = Room::ok(room.post(sets, set).await);
    assert_eq!((shown(&made), &made["metadata"]["generation"]), (json!("1"), &json!(1)));
    let patched = |body: Value| room.patch("/apis/apps/v1/namespaces/a/daemonsets/d", body);
    let same = Room::ok(patched(json!({"spec": {"minReadySeconds": 1}})).await);
    assert_eq!((shown(&same), &same["metadata"]["generation"]), (json!("1"), &json!(2)));
    let image = json!({"spec": {"template": {"spec": {"containers": [{"name": "c", "image": "x:2"}]}}}});
    let other = Room::ok(patched(image).await);
    assert_eq!((shown(&other), &other["metadata"]["generation"]), (json!("2"), &json!(3)));
    let lost = Room::ok(patched(json!({"metadata": {"annotations": null}})).await);
    assert_eq!(shown(&lost), json!("2"));
}
