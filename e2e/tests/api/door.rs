//! What a request is about is what it is judged by: the rows of a tenant, an editor and an impersonator, over HTTPS.

use e2e::{Api, Patch, eventually, object};
use serde_json::{Value, json};

use crate::world::{CONFIGMAPS, PODS, SOON, World, configmap, message, names, pod};

const RBAC: &str = "rbac.authorization.k8s.io/v1";
const ROLES: &str = "/apis/rbac.authorization.k8s.io/v1";
const ACCOUNTS: &str = "/api/v1/namespaces/default/serviceaccounts";

/// A client of a service account that may do what the rules say: in `default`, or everywhere.
async fn account(w: &World, name: &str, cluster: bool, rules: Value) -> Api {
    w.api.post(ACCOUNTS, &object("v1", "ServiceAccount", name, json!({}))).await.expect(201);
    let (kind, place) = if cluster { ("ClusterRole", ROLES.to_owned()) } else { ("Role", format!("{ROLES}/namespaces/default")) };
    let (roles, bindings) = if cluster { ("clusterroles", "clusterrolebindings") } else { ("roles", "rolebindings") };
    w.api.post(&format!("{place}/{roles}"), &object(RBAC, kind, name, json!({"rules": rules}))).await.expect(201);
    let binding = json!({
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": name},
        "subjects": [{"kind": "ServiceAccount", "name": name, "namespace": "default"}],
    });
    w.api.post(&format!("{place}/{bindings}"), &object(RBAC, &format!("{kind}Binding"), name, binding)).await.expect(201);
    let request = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}});
    let made = w.api.post(&format!("{ACCOUNTS}/{name}/token"), &request).await.expect(201);
    let client = Api::with_token(&w.server.kubeconfig(), made["status"]["token"].as_str().unwrap()).unwrap();
    // What was granted is heard of a moment later: the rules tell.
    let review = json!({"apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectRulesReview", "spec": {"namespace": "default"}});
    let granted = rules[0]["verbs"].clone();
    eventually("the role is heard of", SOON, async || {
        let told = client.post("/apis/authorization.k8s.io/v1/selfsubjectrulesreviews", &review).await.json();
        told["status"]["resourceRules"].as_array().is_some_and(|rules| rules.iter().any(|rule| rule["verbs"] == granted))
    })
    .await;
    client
}

fn rule(verbs: &[&str], groups: &[&str], resources: &[&str]) -> Value {
    json!({"verbs": verbs, "apiGroups": groups, "resources": resources})
}

pub async fn a_tenant_stays_at_home(w: &World) {
    let tenant = account(w, "tenant", false, json!([rule(&["*"], &["*"], &["*"])])).await;
    w.configmap("mine", json!({})).await;
    tenant.get(&format!("{CONFIGMAPS}/mine")).await.expect(200);
    let label = json!({"metadata": {"labels": {"taken": "over"}}});
    for victim in
        ["namespaces/kube-system", "namespaces/default", "nodes/x", "clusterroles/cluster-admin", "namespaces/kube-system/finalize"]
    {
        let path = format!("/api/v1/namespaces/default/{victim}");
        tenant.patch(&path, Patch::Merge, &label).await.refused(404, "NotFound");
        tenant.get(&path).await.refused(404, "NotFound");
        tenant.delete(&path).await.refused(404, "NotFound");
        // Who may nothing there is told so first.
        tenant.get(&path.replace("namespaces/default/", "namespaces/kube-public/")).await.refused(403, "Forbidden");
    }
    let roles = format!("{ROLES}/namespaces/default/clusterroles");
    tenant.get(&roles).await.refused(404, "NotFound");
    assert!(w.api.get("/api/v1/namespaces/kube-system").await.expect(200)["metadata"]["labels"]["taken"].is_null());
    tenant.delete("/api/v1/configmaps").await.refused(403, "Forbidden");
    w.api.delete("/api/v1/configmaps").await.refused(405, "MethodNotAllowed");
    w.api.delete("/api/v1/namespaces//configmaps").await.refused(400, "BadRequest");
    assert!(names(&w.api.get(CONFIGMAPS).await.expect(200)).contains(&"mine"));
    for other in ["/api/v1/namespaces/default/../kube-system/secrets", "/api/v1/namespaces/default%2F..%2Fkube-system/secrets"] {
        tenant.get(other).await.refused(404, "NotFound");
    }
    tenant.get("/api/v1/namespaces//secrets").await.refused(403, "Forbidden");
}

pub async fn a_name_and_a_selector_agree(w: &World) {
    for name in ["mine", "theirs"] {
        w.configmap(name, json!({})).await;
    }
    let mut rules = rule(&["get", "list", "watch"], &[""], &["configmaps"]);
    rules["resourceNames"] = json!(["mine"]);
    let one = account(w, "one", false, json!([rules])).await;
    let watch = "/api/v1/watch/namespaces/default/configmaps";
    for widened in ["metadata.name!%3Dx", "metadata.name!%3Dmine", "metadata.name%3Dtheirs"] {
        let refused = one.get(&format!("{watch}/mine?fieldSelector={widened}")).await.refused(400, "BadRequest");
        assert_eq!(message(&refused), "fieldSelector metadata.name doesn't match requested name");
    }
    one.get(&format!("{watch}/theirs")).await.refused(403, "Forbidden");
    one.get(watch).await.refused(403, "Forbidden");
    one.get(&format!("{CONFIGMAPS}?fieldSelector=metadata.name!%3Dx")).await.refused(403, "Forbidden");
    assert_eq!(names(&one.get(&format!("{CONFIGMAPS}?fieldSelector=metadata.name%3Dmine")).await.expect(200)), ["mine"]);
    for query in ["?timeoutSeconds=1", "?timeoutSeconds=1&fieldSelector=", "?timeoutSeconds=1&fieldSelector=metadata.name%3Dmine"] {
        let told = one.get(&format!("{watch}/mine{query}")).await.text();
        assert!(told.contains("\"mine\"") && !told.contains("\"theirs\""), "{query}: {told}");
    }
    one.post(&format!("{watch}/mine"), &Value::Null).await.refused(405, "MethodNotAllowed");
}

pub async fn an_update_that_creates_needs_create(w: &World) {
    let updater = account(w, "updater", true, json!([rule(&["get", "update"], &["*"], &["*"])])).await;
    let service = object("v1", "Service", "new", json!({"spec": {"ports": [{"port": 80}]}}));
    let cases = [
        ("/api/v1/namespaces/default/services/new", service),
        ("/api/v1/namespaces/default/endpoints/new", object("v1", "Endpoints", "new", json!({}))),
        ("/api/v1/namespaces/default/limitranges/new", object("v1", "LimitRange", "new", json!({"spec": {"limits": []}}))),
        (
            "/apis/coordination.k8s.io/v1/namespaces/default/leases/new",
            object("coordination.k8s.io/v1", "Lease", "new", json!({"spec": {}})),
        ),
    ];
    for (path, body) in cases {
        let refused = updater.put(path, &body).await.refused(403, "Forbidden");
        assert!(message(&refused).contains("cannot create resource"), "{refused}");
        w.api.get(path).await.refused(404, "NotFound");
        w.api.put(path, &body).await.expect(201);
    }
}

pub async fn labels_are_rights(w: &World) {
    let editor = account(w, "editor", true, json!([rule(&["get", "patch", "update"], &["rbac.authorization.k8s.io"], &["*"])])).await;
    let label = json!({"metadata": {"labels": {"rbac.authorization.k8s.io/aggregate-to-view": "true"}}});
    let refused = editor.patch(&format!("{ROLES}/clusterroles/cluster-admin"), Patch::Merge, &label).await.refused(403, "Forbidden");
    assert!(message(&refused).contains("permissions not currently held"), "{refused}");
    let rule = json!({"aggregationRule": null});
    editor.patch(&format!("{ROLES}/clusterroles/view"), Patch::Merge, &rule).await.refused(403, "Forbidden");
    let free = json!({"metadata": {"finalizers": ["test.example/kept"]}});
    editor.patch(&format!("{ROLES}/clusterroles/cluster-admin"), Patch::Merge, &free).await.expect(200);
}

pub async fn streams_need_create(w: &World) {
    w.pods_can_be_made_in("default").await;
    w.api.post(PODS, &pod("x", json!({}))).await.expect(201);
    let streams = ["pods/exec", "pods/attach", "pods/portforward"];
    let reader = account(w, "reader", false, json!([rule(&["get"], &[""], &streams)])).await;
    let both = account(w, "both", false, json!([rule(&["get", "create"], &[""], &streams)])).await;
    for stream in ["exec", "attach", "portforward"] {
        let path = format!("{PODS}/x/{stream}?command=id");
        reader.get(&path).await.refused(403, "Forbidden");
        let refused = both.get(&path).await.refused(400, "BadRequest");
        assert_eq!(message(&refused), "pod x does not have a host assigned");
    }
}

pub async fn nobody_is_led_to_the_server_itself(w: &World) {
    w.pods_can_be_made_in("default").await;
    let port = w.server.port();
    let node = json!({"status": {"addresses": [{"type": "Hostname", "address": "localhost"}],
        "daemonEndpoints": {"kubeletEndpoint": {"Port": port}}}});
    w.api.post("/api/v1/nodes", &object("v1", "Node", "loop", node.clone())).await.expect(201);
    w.api.patch("/api/v1/nodes/loop/status", Patch::Merge, &node).await.expect(200);
    let mut held = pod("held", json!({}));
    held["spec"]["nodeName"] = "loop".into();
    held["spec"]["tolerations"] = json!([{"operator": "Exists"}]);
    w.api.post(PODS, &held).await.expect(201);
    let targets = [
        "/api/v1/nodes/loop/proxy/version".to_owned(),
        format!("/api/v1/nodes/https:loop:{port}/proxy/version"),
        format!("{PODS}/held/log"),
        format!("{PODS}/held/exec?command=id"),
    ];
    for target in targets {
        assert_eq!(message(&w.api.get(&target).await.refused(400, "BadRequest")), "address not allowed", "{target}");
    }
}

pub async fn who_impersonates_is_not_himself(w: &World) {
    let who = "/apis/authentication.k8s.io/v1/selfsubjectreviews";
    let review = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"}).to_string();
    let ask = async |headers: &[(&str, &str)]| {
        let all: Vec<(&str, &str)> = headers.iter().copied().chain([("content-type", "application/json")]).collect();
        w.api.send("POST", who, &all, review.clone().into_bytes()).await.unwrap()
    };
    let info =
        ask(&[("impersonate-user", "stra\u{df}e"), ("impersonate-group", "gr\u{fc}n")]).await.expect(201)["status"]["userInfo"].clone();
    assert_eq!((&info["username"], &info["groups"]), (&json!("stra\u{df}e"), &json!(["gr\u{fc}n", "system:authenticated"])));
    let nobody: [&[(&str, &str)]; 4] = [
        &[("impersonate-user", "")],
        &[("impersonate-user", ""), ("impersonate-group", "g")],
        &[("impersonate-uid", "u")],
        &[("impersonate-extra-x", "y")],
    ];
    for headers in nobody {
        ask(headers).await.refused(400, "BadRequest");
    }
    let refused = w.api.send("GET", CONFIGMAPS, &[("impersonate-user", "stra\u{df}e")], vec![]).await.unwrap().refused(403, "Forbidden");
    assert!(message(&refused).starts_with("configmaps is forbidden: User \"stra\u{df}e\" cannot list"), "{refused}");
    // Nor is somebody without the right to.
    let plain = account(w, "plain", false, json!([rule(&["list", "create"], &[""], &["configmaps"])])).await;
    let refused = plain.send("GET", CONFIGMAPS, &[("impersonate-user", "jane")], vec![]).await.unwrap().refused(403, "Forbidden");
    assert!(message(&refused).contains("cannot impersonate-on:user-info:list"), "{refused}");
    plain.post(CONFIGMAPS, &configmap("his", json!({}))).await.expect(201);
}

pub async fn tokens_have_audiences(w: &World) {
    w.api.post(ACCOUNTS, &object("v1", "ServiceAccount", "speaker", json!({}))).await.expect(201);
    let request = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {"audiences": ["a"]}});
    let token = w.api.post(&format!("{ACCOUNTS}/speaker/token"), &request).await.expect(201)["status"]["token"].clone();
    for (asked, answered) in [(json!(["a", "b"]), json!(["a"])), (json!(["b"]), Value::Null), (json!([]), Value::Null)] {
        let review = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": {"token": token, "audiences": asked}});
        let status = w.api.post("/apis/authentication.k8s.io/v1/tokenreviews", &review).await.expect(201)["status"].clone();
        assert_eq!(status["audiences"], answered, "{asked}: {status}");
        assert_eq!(status["authenticated"] == json!(true), !answered.is_null(), "{asked}: {status}");
    }
}
