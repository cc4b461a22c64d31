//! Quotas: what is used is told soon after a quota came or changed, and taken back when something goes.

use std::collections::BTreeMap;

use api::{
    k8s::api::core::v1::{ConfigMap, PersistentVolumeClaim, Pod, ResourceQuota, Service},
    task::Group,
};
use client::kube::{
    Api, Client,
    api::{ApiResource, DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PostParams},
};
use door::{Door, until};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::{GROUPS, account, start};

struct House {
    door: Door,
    group: Group,
    quotas: Api<ResourceQuota>,
}

fn of<T: DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).unwrap()
}

impl House {
    async fn new() -> Self {
        let house = Self::idle().await;
        house.start();
        house
    }

    /// Without controllers.
    async fn idle() -> Self {
        let group = Group::new();
        let door = Door::new(&group).await;
        door.make_account().await;
        let quotas = Api::namespaced(door.admin(), "default");
        Self { door, group, quotas }
    }

    fn start(&self) {
        start(&self.door, &self.group, &|name| self.door.client(&account(name), &GROUPS));
    }

    fn client(&self) -> Client {
        self.door.admin()
    }

    async fn limit(&self, name: &str, spec: Value) {
        self.quotas.create(&PostParams::default(), &of(json!({"metadata": {"name": name}, "spec": spec}))).await.unwrap();
    }

    /// Waits until so much is used, all of it told.
    async fn used(&self, name: &str, wanted: Value) {
        let wanted: BTreeMap<String, String> = of(wanted);
        let mut last = None;
        until(&format!("{name} is used"), async || {
            let quota = self.quotas.get(name).await.unwrap();
            let status = quota.status.unwrap_or_default();
            let used: BTreeMap<String, String> = status.used.into_iter().flatten().map(|(name, amount)| (name, amount.0)).collect();
            let is_told = status.hard == quota.spec.and_then(|spec| spec.hard);
            if last.as_ref() != Some(&used) {
                println!("{name}: {used:?}");
                last = Some(used.clone());
            }
            (is_told && used == wanted).then_some(())
        })
        .await;
    }

    fn end(self) {
        assert_eq!(self.group.fault(), None);
        self.group.stop();
    }
}

fn pod(name: &str, spec: Value) -> Pod {
    let mut pod = json!({"metadata": {"name": name}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
    pod["spec"].as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
    of(pod)
}

fn asking(cpu: &str) -> Value {
    json!({"containers": [{"name": "c", "image": "i", "resources": {"requests": {"cpu": cpu, "memory": "64Mi"}, "limits": {"memory": "64Mi"}}}]})
}

#[tokio::test]
async fn pods_count_while_they_live() {
    let house = House::new().await;
    let (pods, made, gone) =
        (Api::<Pod>::namespaced(house.client(), "default"), PostParams::default(), DeleteParams::default().grace_period(0));
    pods.create(&made, &pod("early", asking("200m"))).await.unwrap();
    house.limit("q", json!({"hard": {"pods": "2", "count/pods": "5", "requests.cpu": "1", "limits.memory": "1Gi"}})).await;
    house.used("q", json!({"pods": "1", "count/pods": "1", "requests.cpu": "200m", "limits.memory": "64Mi"})).await;
    pods.create(&made, &pod("a", asking("500m"))).await.unwrap();
    let refused = pods.create(&made, &pod("b", asking("1m"))).await.unwrap_err().to_string();
    assert!(refused.contains("exceeded quota: q, requested: pods=1, used: pods=2, limited: pods=2"), "{refused}");
    let over = Patch::Merge(json!({"status": {"phase": "Succeeded"}}));
    pods.patch_status("early", &PatchParams::default(), &over).await.unwrap();
    house.used("q", json!({"pods": "1", "count/pods": "2", "requests.cpu": "500m", "limits.memory": "64Mi"})).await;
    pods.delete("early", &gone).await.unwrap();
    pods.delete("a", &gone).await.unwrap();
    house.used("q", json!({"pods": "0", "count/pods": "0", "requests.cpu": "0", "limits.memory": "0"})).await;
    // Another limit is another status, at once; and what somebody else writes there does not last.
    let more = json!({"spec": {"hard": {"pods": "7"}}});
    house.quotas.patch("q", &PatchParams::default(), &Patch::Merge(more)).await.unwrap();
    house.used("q", json!({"pods": "0", "count/pods": "0", "requests.cpu": "0", "limits.memory": "0"})).await;
    let wrong = Patch::Merge(json!({"status": {"hard": {"pods": "1000"}}}));
    house.quotas.patch_status("q", &PatchParams::default(), &wrong).await.unwrap();
    house.used("q", json!({"pods": "0", "count/pods": "0", "requests.cpu": "0", "limits.memory": "0"})).await;
    house.end();
}

#[tokio::test]
async fn scopes_choose_what_counts() {
    let house = House::new().await;
    let (pods, made) = (Api::<Pod>::namespaced(house.client(), "default"), PostParams::default());
    let scoped = |scope: &str| json!({"hard": {"pods": "5"}, "scopes": [scope]});
    for (name, scope) in [("term", "Terminating"), ("not-term", "NotTerminating"), ("best", "BestEffort"), ("not-best", "NotBestEffort")] {
        house.limit(name, scoped(scope)).await;
    }
    // Objects that are only counted are in no scope.
    house
        .limit(
            "selected",
            json!({"hard": {"pods": "5"}, "scopeSelector": {"matchExpressions":
        [{"scopeName": "PriorityClass", "operator": "In", "values": ["system-node-critical"]}]}}),
        )
        .await;
    pods.create(&made, &pod("plain", json!({}))).await.unwrap();
    pods.create(&made, &pod("short", json!({"activeDeadlineSeconds": 500}))).await.unwrap();
    pods.create(&made, &pod("asking", asking("1m"))).await.unwrap();
    for (name, used) in [("term", "1"), ("not-term", "2"), ("best", "2"), ("not-best", "1"), ("selected", "0")] {
        house.used(name, json!({"pods": used})).await;
    }
    // One that gets a deadline goes over to the other.
    let deadline = Patch::Merge(json!({"spec": {"activeDeadlineSeconds": 500}}));
    pods.patch("plain", &PatchParams::default(), &deadline).await.unwrap();
    house.used("term", json!({"pods": "2"})).await;
    house.used("not-term", json!({"pods": "1"})).await;
    house.end();
}

fn resource(group: &str, kind: &str, plural: &str) -> ApiResource {
    ApiResource { group: group.into(), version: "v1".into(), api_version: format!("{group}/v1"), kind: kind.into(), plural: plural.into() }
}

async fn define_widgets(house: &House) {
    let definitions = resource("apiextensions.k8s.io", "CustomResourceDefinition", "customresourcedefinitions");
    let definitions = Api::<DynamicObject>::all_with(house.client(), &definitions);
    let schema = json!({"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}});
    let version = json!({"name": "v1", "served": true, "storage": true, "schema": schema});
    let spec =
        json!({"group": "example.test", "scope": "Namespaced", "names": {"plural": "widgets", "kind": "Widget"}, "versions": [version]});
    let definition = json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": {"name": "widgets.example.test"}, "spec": spec});
    definitions.create(&PostParams::default(), &of(definition)).await.unwrap();
}

#[tokio::test]
async fn objects_are_counted_whatever_their_kind() {
    let house = House::idle().await;
    define_widgets(&house).await;
    let (made, gone) = (PostParams::default(), DeleteParams::default());
    let widgets = Api::<DynamicObject>::namespaced_with(house.client(), "default", &resource("example.test", "Widget", "widgets"));
    let widget = |name: &str| of(json!({"apiVersion": "example.test/v1", "kind": "Widget", "metadata": {"name": name}}));
    until("widgets are served", async || widgets.create(&made, &widget("early")).await.ok()).await;
    let maps = Api::<ConfigMap>::namespaced(house.client(), "default");
    for name in ["a", "b"] {
        maps.create(&made, &of(json!({"metadata": {"name": name}}))).await.unwrap();
    }
    house.start();
    // Nobody makes these; what is published to each namespace may be there or not.
    let hard = json!({"count/widgets.example.test": "2", "secrets": "20", "count/nothing.example.test": "1"});
    house.limit("q", json!({"hard": hard})).await;
    house.used("q", json!({"count/widgets.example.test": "1", "secrets": "0"})).await;
    widgets.create(&made, &widget("second")).await.unwrap();
    let refused = widgets.create(&made, &widget("third")).await.unwrap_err().to_string();
    assert!(refused.contains("exceeded quota: q, requested: count/widgets.example.test=1"), "{refused}");
    widgets.delete("early", &gone).await.unwrap();
    house.used("q", json!({"count/widgets.example.test": "1", "secrets": "0"})).await;
    widgets.create(&made, &widget("third")).await.unwrap();
    // Several of a kind: the server says how many follow the first.
    until("the certificate is published", async || maps.get_opt("kube-root-ca.crt").await.unwrap()).await;
    house.limit("maps", json!({"hard": {"count/configmaps": "9", "configmaps": "9"}})).await;
    house.used("maps", json!({"count/configmaps": "3", "configmaps": "3"})).await;
    maps.delete("a", &gone).await.unwrap();
    house.used("maps", json!({"count/configmaps": "2", "configmaps": "2"})).await;
    house.end();
}

#[tokio::test]
async fn services_and_claims_are_measured() {
    let house = House::new().await;
    let (made, gone) = (PostParams::default(), DeleteParams::default());
    let hard = json!({"count/services": "9", "services.nodeports": "9", "persistentvolumeclaims": "3", "requests.storage": "10Gi",
        "gold.storageclass.storage.k8s.io/requests.storage": "5Gi"});
    let used = |services: &str, ports: &str, claims: &str, storage: &str| {
        json!({"count/services": services, "services.nodeports": ports, "persistentvolumeclaims": claims, "requests.storage": storage,
            "gold.storageclass.storage.k8s.io/requests.storage": storage})
    };
    let services = Api::<Service>::namespaced(house.client(), "default");
    let before = services.list(&ListParams::default()).await.unwrap().items.len();
    let (before, after) = (before.to_string(), (before + 1).to_string());
    house.limit("q", json!({"hard": hard})).await;
    house.used("q", used(&before, "0", "0", "0")).await;
    services.create(&made, &of(json!({"metadata": {"name": "np"}, "spec": {"type": "NodePort", "ports": [{"port": 80}]}}))).await.unwrap();
    let claims = Api::<PersistentVolumeClaim>::namespaced(house.client(), "default");
    let asked = json!({"accessModes": ["ReadWriteOnce"], "storageClassName": "gold", "resources": {"requests": {"storage": "2Gi"}}});
    claims.create(&made, &of(json!({"metadata": {"name": "claim"}, "spec": asked}))).await.unwrap();
    house.used("q", used(&after, "1", "1", "2Gi")).await;
    // One that asks for no port any more gives it back.
    services.patch("np", &PatchParams::default(), &Patch::Merge(json!({"spec": {"type": "ClusterIP"}}))).await.unwrap();
    house.used("q", used(&after, "0", "1", "2Gi")).await;
    services.delete("np", &gone).await.unwrap();
    claims.delete("claim", &gone).await.unwrap();
    house.used("q", used(&before, "0", "0", "0")).await;
    house.end();
}
