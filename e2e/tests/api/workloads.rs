//! The ring without nodes: deployments to pods, scale, eviction, service addresses, bindings and events.

use e2e::{Patch, eventually, object};
use serde_json::{Value, json};

use crate::world::{PODS, SOON, World, message, names, pod, pod_spec};

const DEPLOYMENTS: &str = "/apis/apps/v1/namespaces/default/deployments";
const REPLICASETS: &str = "/apis/apps/v1/namespaces/default/replicasets";
const SERVICES: &str = "/api/v1/namespaces/default/services";

fn deployment(name: &str, replicas: u32) -> Value {
    let labels = json!({"app": name});
    let template = json!({"metadata": {"labels": labels}, "spec": pod_spec()});
    object(
        "apps/v1",
        "Deployment",
        name,
        json!({"spec": {"replicas": replicas, "selector": {"matchLabels": labels}, "template": template}}),
    )
}

async fn pods_of(w: &World, app: &str, count: usize) -> Value {
    eventually(&format!("{app} has {count} pods"), SOON, async || {
        let list = w.api.get(&format!("{PODS}?labelSelector=app%3D{app}")).await.expect(200);
        let living =
            list["items"].as_array().map_or(0, |items| items.iter().filter(|p| p["metadata"]["deletionTimestamp"].is_null()).count());
        if living == count { Ok(list) } else { Err(format!("{living}: {:?}", names(&list))) }
    })
    .await
}

pub async fn a_deployment_makes_pods(w: &World) {
    let made = w.api.post(DEPLOYMENTS, &deployment("web", 3)).await.expect(201);
    let pods = pods_of(w, "web", 3).await;
    let sets = w.api.get(&format!("{REPLICASETS}?labelSelector=app%3Dweb")).await.expect(200);
    let set = &sets["items"][0];
    assert_eq!(set["metadata"]["ownerReferences"][0]["uid"], made["metadata"]["uid"]);
    let hash = set["metadata"]["labels"]["pod-template-hash"].as_str().unwrap();
    assert_eq!(set["metadata"]["name"], format!("web-{hash}"));
    for pod in pods["items"].as_array().unwrap() {
        assert_eq!(pod["metadata"]["ownerReferences"][0]["uid"], set["metadata"]["uid"]);
        assert_eq!((&pod["status"]["phase"], &pod["spec"]["nodeName"]), (&json!("Pending"), &Value::Null));
        assert_eq!(pod["metadata"]["labels"]["pod-template-hash"], hash);
    }
    let victim = names(&pods)[0].to_owned();
    w.api.delete(&format!("{PODS}/{victim}")).await.expect(200);
    w.is_gone(&format!("{PODS}/{victim}")).await;
    pods_of(w, "web", 3).await;
    eventually("the deployment's status is told", SOON, async || {
        let status = w.api.get(&format!("{DEPLOYMENTS}/web")).await.json()["status"].clone();
        if status["replicas"] == 3 && status["unavailableReplicas"] == 3 && status["observedGeneration"] == 1 {
            Ok(())
        } else {
            Err(status)
        }
    })
    .await;
    w.api.delete_with(&format!("{DEPLOYMENTS}/web"), json!({"propagationPolicy": "Foreground"})).await.expect(200);
    w.is_gone(&format!("{DEPLOYMENTS}/web")).await;
    pods_of(w, "web", 0).await;
}

/// Seconds of any number, and the null that upstream's own conformance test writes.
pub async fn odd_objects_stop_no_loop(w: &World) {
    let mut odd = deployment("odd", 1);
    odd["spec"]["progressDeadlineSeconds"] = 2_147_483_647.into();
    odd["spec"]["minReadySeconds"] = 2_147_483_646.into();
    w.api.post(DEPLOYMENTS, &odd).await.expect(201);
    let pods = pods_of(w, "odd", 1).await;
    let service = object("v1", "Service", "odd", json!({"spec": {"selector": {"app": "odd"}, "ports": [{"port": 80}]}}));
    w.api.post(SERVICES, &service).await.expect(201);
    let ready = json!([{"type": "Ready", "status": "True", "lastTransitionTime": null}]);
    let status = json!({"status": {"phase": "Running", "podIP": "10.9.9.9", "podIPs": [{"ip": "10.9.9.9"}], "conditions": ready}});
    w.api.patch(&format!("{PODS}/{}/status", names(&pods)[0]), Patch::Merge, &status).await.expect(200);
    let slices = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices?labelSelector=kubernetes.io/service-name%3Dodd";
    let sliced = async || {
        let list = w.api.get(slices).await.expect(200);
        let name = names(&list).first().map(|name| (*name).to_owned());
        if list.to_string().contains("10.9.9.9") { Ok(name) } else { Err(list) }
    };
    let before = eventually("the pod is behind its service", SOON, sliced).await;
    let conditions = json!([{"type": "Odd", "status": "True", "reason": "Odd", "message": "", "lastTransitionTime": null}]);
    let path = format!("{SERVICES}/odd/status");
    w.api.patch(&path, Patch::Merge, &json!({"status": {"conditions": conditions}})).await.expect(200);
    // What comes after it is seen by the same loops, and the slice is the same one.
    w.api.patch(&format!("{SERVICES}/odd"), Patch::Merge, &json!({"metadata": {"labels": {"later": "yes"}}})).await.expect(200);
    eventually("the slice has the service's new label", SOON, async || {
        let list = w.api.get(&format!("{slices},later%3Dyes")).await.expect(200);
        if names(&list).first().map(|name| (*name).to_owned()) == before { Ok(()) } else { Err(list) }
    })
    .await;
    w.api.post(DEPLOYMENTS, &deployment("plain", 1)).await.expect(201);
    pods_of(w, "plain", 1).await;
}

pub async fn a_rolling_update(w: &World) {
    w.api.post(DEPLOYMENTS, &deployment("roll", 2)).await.expect(201);
    pods_of(w, "roll", 2).await;
    let change = json!({"spec": {"template": {"spec": {"containers": [{"name": "c", "image": "example.test/c:2"}]}}}});
    let changed = w.api.patch(&format!("{DEPLOYMENTS}/roll"), Patch::Strategic, &change).await.expect(200);
    assert_eq!(changed["metadata"]["generation"], 2);
    // No pod of the old set may go, since none of the new becomes ready: one more (25 % of 2, rounded up) is made.
    let pods = pods_of(w, "roll", 3).await;
    let images = pods["items"].as_array().unwrap().iter().filter(|p| p["spec"]["containers"][0]["image"] == "example.test/c:2");
    assert_eq!(images.count(), 1);
    eventually("the new set is the second revision", SOON, async || {
        let sets = w.api.get(&format!("{REPLICASETS}?labelSelector=app%3Droll")).await.expect(200);
        let mut revisions: Vec<Value> = sets["items"]
            .as_array()
            .unwrap()
            .iter()
            .map(|s| s["metadata"]["annotations"]["deployment.kubernetes.io/revision"].clone())
            .collect();
        revisions.sort_by_key(ToString::to_string);
        if revisions == [json!("1"), json!("2")] { Ok(()) } else { Err(revisions) }
    })
    .await;
}

pub async fn scale(w: &World) {
    w.api.post(DEPLOYMENTS, &deployment("s", 1)).await.expect(201);
    let path = format!("{DEPLOYMENTS}/s/scale");
    let mut scale = w.api.get(&path).await.expect(200);
    assert_eq!((&scale["kind"], &scale["spec"]["replicas"]), (&json!("Scale"), &json!(1)));
    assert_eq!(scale["status"]["selector"], "app=s");
    // The controller writes to the same object meanwhile: a conflict is answered by reading again.
    eventually("the scale is written", SOON, async || {
        scale["spec"]["replicas"] = json!(4);
        let reply = w.api.put(&path, &scale).await;
        scale = w.api.get(&path).await.expect(200);
        if reply.status == 409 { Err(reply.text()) } else { Ok(reply.expect(200)) }
    })
    .await;
    pods_of(w, "s", 4).await;
    w.api.patch(&path, Patch::Merge, &json!({"spec": {"replicas": 1}})).await.expect(200);
    pods_of(w, "s", 1).await;
    w.api.patch(&path, Patch::Merge, &json!({"spec": {"replicas": -1}})).await.refused(422, "Invalid");
    let labels = json!({"app": "rc"});
    let spec = json!({"replicas": 2, "selector": labels, "template": {"metadata": {"labels": labels}, "spec": pod_spec()}});
    let rcs = "/api/v1/namespaces/default/replicationcontrollers";
    w.api.post(rcs, &object("v1", "ReplicationController", "rc", json!({"spec": spec}))).await.expect(201);
    pods_of(w, "rc", 2).await;
    w.api.patch(&format!("{rcs}/rc/scale"), Patch::Merge, &json!({"spec": {"replicas": 3}})).await.expect(200);
    pods_of(w, "rc", 3).await;
}

pub async fn evictions(w: &World) {
    w.pods_can_be_made_in("default").await;
    w.api.post(PODS, &pod("e", json!({}))).await.expect(201);
    let eviction = |name: &str| object("policy/v1", "Eviction", name, json!({}));
    w.api.post(&format!("{PODS}/none/eviction"), &eviction("none")).await.refused(404, "NotFound");
    let done = w.api.post(&format!("{PODS}/e/eviction"), &eviction("e")).await.expect(201);
    assert_eq!(done["status"], "Success");
    w.is_gone(&format!("{PODS}/e")).await;
}

/// A deployment of three, of which one may go at a time.
pub async fn budgets(w: &World) {
    let budgets = "/apis/policy/v1/namespaces/default/poddisruptionbudgets";
    w.api.post(DEPLOYMENTS, &deployment("guarded", 3)).await.expect(201);
    let list = pods_of(w, "guarded", 3).await;
    let spec = json!({"maxUnavailable": 1, "selector": {"matchLabels": {"app": "guarded"}}});
    w.api.post(budgets, &object("policy/v1", "PodDisruptionBudget", "guard", json!({"spec": spec}))).await.expect(201);
    let ready = json!({"status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}});
    for name in names(&list) {
        w.api.patch(&format!("{PODS}/{name}/status"), Patch::Merge, &ready).await.expect(200);
    }
    eventually("one may go", SOON, async || {
        let status = w.api.get(&format!("{budgets}/guard")).await.expect(200)["status"].clone();
        let counts = ["expectedPods", "currentHealthy", "desiredHealthy", "disruptionsAllowed"].map(|field| status[field].as_i64());
        if counts == [Some(3), Some(3), Some(2), Some(1)] { Ok(()) } else { Err(status.to_string()) }
    })
    .await;
    let [first, second, ..] = names(&list)[..] else { panic!("{list}") };
    // As kubectl 1.20 sends it.
    let evict = |name: &str| object("policy/v1beta1", "Eviction", name, json!({}));
    w.api.post(&format!("{PODS}/{first}/eviction"), &evict(first)).await.expect(201);
    let refused = w.api.post(&format!("{PODS}/{second}/eviction"), &evict(second)).await.refused(429, "TooManyRequests");
    assert_eq!(refused["details"]["causes"][0]["reason"], "DisruptionBudget", "{refused}");
    w.is_gone(&format!("{PODS}/{first}")).await;
    // The one that replaces it is not ready: nobody else may go.
    pods_of(w, "guarded", 3).await;
    eventually("the controller has seen the pod go", SOON, async || {
        let status = w.api.get(&format!("{budgets}/guard")).await.expect(200)["status"].clone();
        let settled =
            status["disruptedPods"].is_null() && status["currentHealthy"] == 2 && status["conditions"][0]["reason"] == "InsufficientPods";
        if settled { Ok(()) } else { Err(status.to_string()) }
    })
    .await;
    let refused = w.api.post(&format!("{PODS}/{second}/eviction"), &evict(second)).await.refused(429, "TooManyRequests");
    let why = &refused["details"]["causes"][0]["message"];
    assert_eq!(why, "The disruption budget guard needs 2 healthy pods and has 2 currently", "{refused}");
}

/// The stored rules of an aggregated role follow the roles that it takes them from.
pub async fn aggregated_roles(w: &World) {
    let roles = "/apis/rbac.authorization.k8s.io/v1/clusterroles";
    let rule = |resource: &str| json!([{"verbs": ["get"], "apiGroups": ["example.test"], "resources": [resource]}]);
    let role = |name: &str, body: Value| object("rbac.authorization.k8s.io/v1", "ClusterRole", name, body);
    let selectors = json!({"clusterRoleSelectors": [{"matchLabels": {"sum": "yes"}}]});
    w.api.post(roles, &role("sum", json!({"aggregationRule": selectors, "rules": []}))).await.expect(201);
    let has = async |wanted: Value| {
        eventually("the rules are gathered", SOON, async || {
            let rules = w.api.get(&format!("{roles}/sum")).await.expect(200)["rules"].clone();
            if rules == wanted { Ok(()) } else { Err(rules.to_string()) }
        })
        .await;
    };
    w.api.post(roles, &role("part", json!({"metadata": {"labels": {"sum": "yes"}}, "rules": rule("a")}))).await.expect(201);
    has(rule("a")).await;
    w.api.patch(&format!("{roles}/part"), Patch::Merge, &json!({"rules": rule("b")})).await.expect(200);
    has(rule("b")).await;
    w.api.delete(&format!("{roles}/part")).await.expect(200);
    has(Value::Null).await;
}

pub async fn addresses_of_services(w: &World) {
    let service = |name: &str, spec: Value| object("v1", "Service", name, json!({"spec": spec}));
    let ports = json!([{"port": 80}]);
    let one = w.api.post(SERVICES, &service("one", json!({"ports": ports}))).await.expect(201);
    let two = w.api.post(SERVICES, &service("two", json!({"ports": ports, "type": "NodePort"}))).await.expect(201);
    let address = |s: &Value| s["spec"]["clusterIP"].as_str().unwrap_or_default().to_owned();
    assert!(address(&one).starts_with("10.") && address(&one) != address(&two), "{one}");
    assert_eq!(one["spec"]["clusterIPs"], json!([address(&one)]));
    let node_port = two["spec"]["ports"][0]["nodePort"].as_u64().unwrap();
    assert!((30000..=32767).contains(&node_port), "{node_port}");
    let taken = service("three", json!({"ports": ports, "clusterIP": address(&one)}));
    let refused = w.api.post(SERVICES, &taken).await.refused(422, "Invalid");
    assert!(message(&refused).contains("provided IP is already allocated"), "{refused}");
    let taken = service("three", json!({"ports": [{"port": 80, "nodePort": node_port}], "type": "NodePort"}));
    let refused = w.api.post(SERVICES, &taken).await.refused(422, "Invalid");
    assert!(message(&refused).contains("provided port is already allocated"), "{refused}");
    w.api.delete(&format!("{SERVICES}/one")).await.expect(200);
    w.api.post(SERVICES, &service("three", json!({"ports": ports, "clusterIP": address(&one)}))).await.expect(201);
    let headless = w.api.post(SERVICES, &service("none", json!({"ports": ports, "clusterIP": "None"}))).await.expect(201);
    assert_eq!(address(&headless), "None");
    let external = w.api.post(SERVICES, &service("ext", json!({"type": "ExternalName", "externalName": "example.test"}))).await.expect(201);
    assert_eq!(address(&external), "");
    let kubernetes = w.api.get(&format!("{SERVICES}/kubernetes")).await.expect(200);
    assert_eq!(address(&kubernetes), "10.96.0.1");
    w.api.get(&format!("{SERVICES}/one")).await.refused(404, "NotFound");
}

pub async fn events_and_nodes(w: &World) {
    let node = object("v1", "Node", "hollow", json!({}));
    w.api.post("/api/v1/nodes", &node).await.expect(201);
    w.pods_can_be_made_in("default").await;
    w.api.post(PODS, &pod("b", json!({}))).await.expect(201);
    let binding = object("v1", "Binding", "b", json!({"target": {"apiVersion": "v1", "kind": "Node", "name": "hollow"}}));
    w.api.post(&format!("{PODS}/b/binding"), &binding).await.expect(201);
    let bound = w.api.get(&format!("{PODS}/b")).await.expect(200);
    assert_eq!(bound["spec"]["nodeName"], "hollow");
    w.api.post(&format!("{PODS}/b/binding"), &binding).await.refused(409, "Conflict");
    let event = json!({"apiVersion": "v1", "kind": "Event", "metadata": {"name": "b.1", "namespace": "default"}, "reason": "Test", "message": "hi",
        "type": "Normal", "involvedObject": {"kind": "Pod", "namespace": "default", "name": "b", "uid": bound["metadata"]["uid"]},
        "source": {"component": "test"}, "count": 1});
    w.api.post("/api/v1/namespaces/default/events", &event).await.expect(201);
    let found = w.api.get("/api/v1/namespaces/default/events?fieldSelector=involvedObject.name%3Db,reason%3DTest").await.expect(200);
    assert_eq!(names(&found), ["b.1"]);
    let newer = w.api.get("/apis/events.k8s.io/v1/namespaces/default/events/b.1").await.expect(200);
    assert_eq!((&newer["note"], &newer["regarding"]["name"]), (&json!("hi"), &json!("b")));
}
