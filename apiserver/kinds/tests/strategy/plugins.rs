//! Admission plugins that are off without a flag, and those that a configuration sets up: through the real engine.

use apiserver::identity::Auth;
use kinds::admission::{self, Options};
use serde_json::{Value, json};

use crate::room::Room;

const PODS: &str = "/api/v1/namespaces/a/pods";

async fn room(enable: &[&str], configuration: Value, annotations: Value) -> Room {
    let enable = enable.iter().map(|name| (*name).to_owned()).collect();
    let configuration = serde_json::from_value(configuration).unwrap();
    let options = Options { enable, configuration, ..Options::default() };
    let auth = Auth { admission: options.arrange(admission::chain()).unwrap(), ..Auth::default() };
    let room = Room::new(kinds::table(&kinds::Config::default()), auth).await;
    Room::ok(room.post("/api/v1/namespaces", json!({"metadata": {"name": "a", "annotations": annotations}})).await);
    Room::ok(room.post("/api/v1/namespaces/a/serviceaccounts", json!({"metadata": {"name": "default"}})).await);
    room
}

fn pod(name: &str, more: Value) -> Value {
    let mut pod = json!({"metadata": {"name": name}, "spec": {"containers": [{"name": "c", "image": "x:1", "imagePullPolicy": "Never"}]}});
    pod["spec"].as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    pod
}

#[track_caller]
fn refused(reply: (u16, Value), code: u16, words: &str) {
    assert_eq!((reply.0, reply.1["message"].as_str().unwrap().contains(words)), (code, true), "{}", reply.1);
}

#[tokio::test]
async fn what_is_off_by_default_works_where_it_is_on() {
    let on = ["AlwaysPullImages", "DenyServiceExternalIPs", "ExtendedResourceToleration", "NamespaceAutoProvision", "NamespaceExists"];
    let room = room(&[&on[..], &["LimitPodHardAntiAffinityTopology"]].concat(), json!({}), json!({})).await;
    let asking = json!({"containers": [{"name": "c", "image": "x:1", "resources": {"limits": {"example.com/gpu": "1"}}}]});
    let made = Room::ok(room.post(PODS, pod("p", asking)).await);
    assert_eq!(made["spec"]["containers"][0]["imagePullPolicy"], "Always");
    let toleration = json!({"key": "example.com/gpu", "operator": "Exists", "effect": "NoSchedule"});
    assert!(made["spec"]["tolerations"].as_array().unwrap().contains(&toleration), "{made}");
    let spread = |key: &str| {
        json!({"affinity": {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [
        {"topologyKey": key, "labelSelector": {}}]}}})
    };
    refused(room.post(PODS, pod("q", spread("zone"))).await, 403, "has TopologyKey zone but only key kubernetes.io/hostname is allowed");
    Room::ok(room.post(PODS, pod("q", spread("kubernetes.io/hostname"))).await);
    // A namespace that nobody made.
    Room::ok(room.post("/api/v1/namespaces/new/configmaps", json!({"metadata": {"name": "c"}})).await);
    assert_eq!(room.get("/api/v1/namespaces/new").await["metadata"]["name"], "new");
}

#[tokio::test]
async fn a_namespace_says_where_its_pods_run_and_what_they_tolerate() {
    let allowed = json!([{"key": "node.kubernetes.io/not-ready", "operator": "Exists"}, {"key": "node.kubernetes.io/unreachable", "operator": "Exists"},
        {"key": "team", "operator": "Exists"}]);
    let annotations = json!({
        "scheduler.alpha.kubernetes.io/node-selector": "disk=ssd",
        "scheduler.alpha.kubernetes.io/defaultTolerations": "[{\"key\": \"team\", \"operator\": \"Exists\"}]",
        "scheduler.alpha.kubernetes.io/tolerationsWhitelist": allowed.to_string(),
    });
    let configuration =
        json!({"PodNodeSelector": {"podNodeSelectorPluginConfig": {"clusterDefaultNodeSelector": "x=y", "a": "disk=ssd,zone=1"}}});
    let room = room(&["PodNodeSelector", "PodTolerationRestriction"], configuration, annotations).await;
    let made = Room::ok(room.post(PODS, pod("p", json!({"nodeSelector": {"zone": "1"}}))).await);
    assert_eq!(made["spec"]["nodeSelector"], json!({"disk": "ssd", "zone": "1"}));
    assert!(made["spec"]["tolerations"].as_array().unwrap().iter().any(|one| one["key"] == "team"), "{made}");
    refused(
        room.post(PODS, pod("q", json!({"nodeSelector": {"disk": "hdd"}}))).await,
        403,
        "conflicts with its namespace node label selector",
    );
    refused(room.post(PODS, pod("q", json!({"nodeSelector": {"zone": "2"}}))).await, 403, "conflict with its namespace whitelist");
    let other = json!({"tolerations": [{"key": "other", "operator": "Exists"}]});
    refused(room.post(PODS, pod("q", other)).await, 500, "conflict with its namespace whitelist");
}

#[tokio::test]
async fn pod_security_has_defaults_and_exemptions() {
    let configuration = json!({"PodSecurity": {
        "apiVersion": "pod-security.admission.config.k8s.io/v1", "kind": "PodSecurityConfiguration",
        "defaults": {"enforce": "baseline"}, "exemptions": {"namespaces": ["free"], "runtimeClasses": ["sandbox"]},
    }});
    let room = room(&[], configuration, json!({})).await;
    refused(room.post(PODS, pod("p", json!({"hostPID": true}))).await, 403, "violates PodSecurity \"baseline:latest\"");
    Room::ok(room.post("/apis/node.k8s.io/v1/runtimeclasses", json!({"metadata": {"name": "sandbox"}, "handler": "runsc"})).await);
    Room::ok(room.post(PODS, pod("p", json!({"hostPID": true, "runtimeClassName": "sandbox"}))).await);
    Room::ok(room.post("/api/v1/namespaces", json!({"metadata": {"name": "free"}})).await);
    Room::ok(room.post("/api/v1/namespaces/free/serviceaccounts", json!({"metadata": {"name": "default"}})).await);
    Room::ok(room.post("/api/v1/namespaces/free/pods", pod("p", json!({"hostPID": true}))).await);
}

#[tokio::test]
async fn what_is_limited_needs_a_quota_and_events_have_a_rate() {
    let configuration = json!({
        "ResourceQuota": {"apiVersion": "apiserver.config.k8s.io/v1", "kind": "ResourceQuotaConfiguration",
            "limitedResources": [{"resource": "pods", "matchContains": ["requests.cpu"]}]},
        "EventRateLimit": {"apiVersion": "eventratelimit.admission.k8s.io/v1alpha1", "kind": "Configuration",
            "limits": [{"type": "Namespace", "qps": 1, "burst": 2}]},
    });
    let room = room(&["EventRateLimit"], configuration, json!({})).await;
    let asking = || json!({"containers": [{"name": "c", "image": "x:1", "resources": {"requests": {"cpu": "1"}}}]});
    Room::ok(room.post(PODS, pod("none", json!({}))).await);
    refused(room.post(PODS, pod("p", asking())).await, 403, "insufficient quota to consume: requests.cpu");
    let quota = json!({"metadata": {"name": "q"}, "spec": {"hard": {"requests.cpu": "4"}}});
    Room::ok(room.post("/api/v1/namespaces/a/resourcequotas", quota).await);
    let counted = json!({"status": {"hard": {"requests.cpu": "4"}, "used": {"requests.cpu": "0"}}});
    Room::ok(room.patch("/api/v1/namespaces/a/resourcequotas/q/status", counted).await);
    Room::ok(room.post(PODS, pod("p", asking())).await);
    let event = |name: &str| json!({"metadata": {"name": name}, "involvedObject": {"namespace": "a"}, "reason": "x"});
    let events = "/api/v1/namespaces/a/events";
    for name in ["e1", "e2"] {
        Room::ok(room.post(events, event(name)).await);
    }
    refused(room.post(events, event("e3")).await, 429, "limit reached on type Namespace for key a");
}

#[tokio::test]
async fn a_pod_that_gets_a_node_gets_its_zone() {
    let room = room(&[], json!({}), json!({})).await;
    let labels = json!({"topology.kubernetes.io/zone": "z1", "other": "x"});
    Room::ok(room.post("/api/v1/nodes", json!({"metadata": {"name": "n", "labels": labels}})).await);
    Room::ok(room.post(PODS, pod("p", json!({}))).await);
    let binding = json!({"metadata": {"name": "p"}, "target": {"kind": "Node", "name": "n"}});
    Room::ok(room.post(&format!("{PODS}/p/binding"), binding).await);
    assert_eq!(room.get(&format!("{PODS}/p")).await["metadata"]["labels"], json!({"topology.kubernetes.io/zone": "z1"}));
    let made = Room::ok(room.post(PODS, pod("q", json!({"nodeName": "n"}))).await);
    assert_eq!(made["metadata"]["labels"]["topology.kubernetes.io/zone"], "z1");
}

/// Source: `plugin/pkg/admission/podresize`, `plugin/pkg/admission/nodedeclaredfeatures`.
#[tokio::test]
async fn a_pod_is_resized_within_its_node() {
    let room = room(&[], json!({}), json!({})).await;
    Room::ok(room.post("/api/v1/nodes", json!({"metadata": {"name": "n"}})).await);
    let allocatable = json!({"status": {"allocatable": {"cpu": "2", "memory": "1Gi"}}});
    Room::ok(room.patch("/api/v1/nodes/n/status", allocatable).await);
    let sized = |cpu: &str| json!({"spec": {"containers": [{"name": "c", "image": "x:1", "resources": {"requests": {"cpu": cpu}}}]}});
    let mut made = sized("1");
    (made["metadata"], made["spec"]["nodeName"]) = (json!({"name": "p"}), "n".into());
    Room::ok(room.post(PODS, made).await);
    refused(room.patch(&format!("{PODS}/p/resize"), sized("3")).await, 403, "cpu, requested: 3000, allocatable: 2000");
    Room::ok(room.patch(&format!("{PODS}/p/resize"), sized("2")).await);
}
