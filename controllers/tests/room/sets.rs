//! DaemonSets and StatefulSets beside the real API server; the test is the scheduler and the nodes.

use std::collections::BTreeMap;

use api::{
    k8s::api::{
        apps::v1::{ControllerRevision, DaemonSet, StatefulSet},
        core::v1::{Binding, Event, Node, PersistentVolumeClaim, Pod},
    },
    task::Group,
};
use client::kube::{
    Api, Client, ResourceExt,
    api::{DeleteParams, ListParams, Patch, PatchParams, PostParams},
};
use door::{Door, until};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::{GROUPS, account, start};

const LOOK_EACH: std::time::Duration = std::time::Duration::from_millis(20);

struct House {
    door: Door,
    group: Group,
}

fn of<T: DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).unwrap()
}

impl House {
    async fn new() -> Self {
        let group = Group::new();
        let door = Door::new(&group).await;
        door.make_account().await;
        start(&door, &group, &|name| door.client(&account(name), &GROUPS));
        group.spawn(Box::pin(play(door.admin())));
        Self { door, group }
    }

    fn api<K>(&self) -> Api<K>
    where
        K: client::kube::Resource<DynamicType = (), Scope = api::k8s::NamespaceResourceScope>,
    {
        Api::namespaced(self.door.admin(), "default")
    }

    fn nodes(&self) -> Api<Node> {
        Api::all(self.door.admin())
    }

    /// One that is ready.
    async fn node(&self, name: &str) {
        self.nodes().create(&PostParams::default(), &of(json!({"metadata": {"name": name}}))).await.unwrap();
        let now = api::time::rfc3339(api::time::Timestamp::now());
        let ready = json!({"type": "Ready", "status": "True", "lastHeartbeatTime": now, "lastTransitionTime": now});
        let ready = Patch::Strategic(json!({"status": {"conditions": [ready]}}));
        self.nodes().patch_status(name, &PatchParams::default(), &ready).await.unwrap();
    }

    /// The image of each pod of the label, by what `key` says.
    async fn images(&self, app: &str, key: fn(&Pod) -> String) -> BTreeMap<String, String> {
        let pods = self.api::<Pod>().list(&ListParams::default().labels(&format!("app={app}"))).await.unwrap();
        let living = pods.into_iter().filter(|pod| pod.metadata.deletion_timestamp.is_none());
        living.map(|pod| (key(&pod), pod.spec.as_ref().unwrap().containers[0].image.clone().unwrap())).collect()
    }

    async fn revisions(&self) -> Vec<i64> {
        let all = self.api::<ControllerRevision>().list(&ListParams::default()).await.unwrap();
        let mut all: Vec<i64> = all.into_iter().map(|revision| revision.revision).collect();
        all.sort_unstable();
        all
    }

    async fn told(&self, reason: &str, message: &str) {
        until(message, async || {
            let events = self.api::<Event>().list(&ListParams::default()).await.unwrap();
            let is_it =
                |event: &Event| event.reason.as_deref() == Some(reason) && event.message.iter().any(|text| text.starts_with(message));
            events.iter().any(is_it).then_some(())
        })
        .await;
    }

    fn end(self) {
        assert_eq!(self.group.fault(), None);
        self.group.stop();
    }
}

/// Binds each pod to the node that it names, or to `elsewhere`, runs it, and ends it when it is to go.
async fn play(client: Client) {
    let pods = Api::<Pod>::namespaced(client, "default");
    let (made, gone) = (PostParams::default(), DeleteParams::default().grace_period(0));
    loop {
        for pod in pods.list(&ListParams::default()).await.into_iter().flatten() {
            let (name, spec) = (pod.name_any(), pod.spec.clone().unwrap());
            if pod.metadata.deletion_timestamp.is_some() {
                drop(pods.delete(&name, &gone).await);
            } else if spec.node_name.is_none() {
                let target = serde_json::to_value(&spec.affinity).unwrap();
                let term = "/nodeAffinity/requiredDuringSchedulingIgnoredDuringExecution/nodeSelectorTerms/0/matchFields/0/values/0";
                let node = target.pointer(term).and_then(Value::as_str).unwrap_or("elsewhere");
                let binding: Binding = of(json!({"metadata": {"name": name}, "target": {"kind": "Node", "name": node}}));
                drop(pods.create_subresource::<_, Value>("binding", &name, &made, &binding).await);
            } else if pod.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Pending") {
                let now = api::time::rfc3339(api::time::Timestamp::now());
                let ready = json!({"type": "Ready", "status": "True", "lastTransitionTime": now});
                let status = json!({"metadata": {"uid": pod.uid()}, "status": {"phase": "Running", "conditions": [ready]}});
                drop(pods.patch_status(&name, &PatchParams::default(), &Patch::Strategic(status)).await);
            }
        }
        tokio::time::sleep(LOOK_EACH).await;
    }
}

fn template(app: &str, image: &str) -> Value {
    json!({"metadata": {"labels": {"app": app}}, "spec": {"containers": [{"name": "c", "image": image}]}})
}

fn change(image: &str) -> Patch<Value> {
    Patch::Strategic(json!({"spec": {"template": {"spec": {"containers": [{"name": "c", "image": image}]}}}}))
}

fn node_of(pod: &Pod) -> String {
    pod.spec.as_ref().and_then(|spec| spec.node_name.clone()).unwrap_or_default()
}

fn all(names: &[&str], image: &str) -> BTreeMap<String, String> {
    names.iter().map(|name| ((*name).to_owned(), image.to_owned())).collect()
}

#[tokio::test]
async fn a_daemonset_is_on_every_node_and_rolls() {
    let house = House::new().await;
    for name in ["a", "b"] {
        house.node(name).await;
    }
    let sets = house.api::<DaemonSet>();
    let spec = json!({"selector": {"matchLabels": {"app": "agent"}}, "template": template("agent", "v1")});
    sets.create(&PostParams::default(), &of(json!({"metadata": {"name": "agent"}, "spec": spec}))).await.unwrap();
    let available = async |wanted: [i32; 5]| {
        until(&format!("the status says {wanted:?}"), async || {
            let set = sets.get("agent").await.unwrap();
            let status = set.status?;
            let of = |n: Option<i32>| n.unwrap_or(0);
            let counts = [
                status.desired_number_scheduled,
                status.current_number_scheduled,
                status.number_ready,
                of(status.updated_number_scheduled),
                of(status.number_available),
            ];
            (counts == wanted && status.observed_generation == set.metadata.generation).then_some(())
        })
        .await;
    };
    available([2; 5]).await;
    assert_eq!(house.images("agent", node_of).await, all(&["a", "b"], "v1"));
    house.node("c").await;
    available([3; 5]).await;
    sets.patch("agent", &PatchParams::default(), &change("v2")).await.unwrap();
    until("all are new", async || (house.images("agent", node_of).await == all(&["a", "b", "c"], "v2")).then_some(())).await;
    available([3; 5]).await;
    assert_eq!(house.revisions().await, [1, 2]);
    // Back: the first revision is the third now. As `kubectl rollout undo` does it.
    let first = house.api::<ControllerRevision>().list(&ListParams::default()).await.unwrap();
    let first = first.into_iter().find(|revision| revision.revision == 1).unwrap();
    sets.patch("agent", &PatchParams::default(), &Patch::Strategic(first.data.unwrap().0)).await.unwrap();
    until("all are old", async || (house.images("agent", node_of).await == all(&["a", "b", "c"], "v1")).then_some(())).await;
    available([3; 5]).await;
    assert_eq!(house.revisions().await, [2, 3]);
    // A node that is not to have one loses it.
    let taint = Patch::Strategic(json!({"spec": {"taints": [{"key": "k", "effect": "NoExecute"}]}}));
    house.nodes().patch("c", &PatchParams::default(), &taint).await.unwrap();
    available([2; 5]).await;
    house.told("SuccessfulCreate", "Created pod: agent-").await;
    house.told("SuccessfulDelete", "Deleted pod: agent-").await;
    sets.delete("agent", &DeleteParams::background()).await.unwrap();
    until("nothing is left", async || {
        (house.revisions().await.is_empty() && house.images("agent", node_of).await.is_empty()).then_some(())
    })
    .await;
    house.end();
}

#[tokio::test]
async fn a_statefulset_has_pods_and_claims_of_its_own() {
    let house = House::new().await;
    house.node("elsewhere").await;
    let (sets, claims) = (house.api::<StatefulSet>(), house.api::<PersistentVolumeClaim>());
    let claim =
        json!({"metadata": {"name": "data"}, "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Mi"}}}});
    let spec = json!({
        "replicas": 3, "serviceName": "web", "selector": {"matchLabels": {"app": "web"}}, "template": template("web", "v1"),
        "volumeClaimTemplates": [claim], "persistentVolumeClaimRetentionPolicy": {"whenDeleted": "Delete", "whenScaled": "Retain"},
    });
    sets.create(&PostParams::default(), &of(json!({"metadata": {"name": "web"}, "spec": spec}))).await.unwrap();
    let settled = async |wanted: i32| {
        until("the status says so", async || {
            let set = sets.get("web").await.unwrap();
            let status = set.status?;
            let is_told = status.observed_generation == set.metadata.generation && status.current_revision == status.update_revision;
            let all =
                [Some(status.replicas), status.ready_replicas, status.available_replicas, status.current_replicas, status.updated_replicas];
            (is_told && all == [Some(wanted); 5]).then_some(())
        })
        .await;
    };
    settled(3).await;
    let name = |pod: &Pod| pod.name_any();
    assert_eq!(house.images("web", name).await, all(&["web-0", "web-1", "web-2"], "v1"));
    let made: Vec<String> = claims.list(&ListParams::default()).await.unwrap().iter().map(ResourceExt::name_any).collect();
    assert_eq!(made, ["data-web-0", "data-web-1", "data-web-2"]);
    let uid = sets.get("web").await.unwrap().uid();
    let owner = claims.get("data-web-0").await.unwrap().owner_references()[0].clone();
    assert_eq!((Some(owner.uid), owner.controller), (uid, Some(true)));
    // Held back by a partition, then let go.
    let partition = |n: i64| Patch::Merge(json!({"spec": {"updateStrategy": {"rollingUpdate": {"partition": n}}}}));
    sets.patch("web", &PatchParams::default(), &partition(2)).await.unwrap();
    sets.patch("web", &PatchParams::default(), &change("v2")).await.unwrap();
    let mut held = all(&["web-0", "web-1"], "v1");
    held.insert("web-2".into(), "v2".into());
    until("the last is new", async || (house.images("web", name).await == held).then_some(())).await;
    until("two of the old, one of the new", async || {
        let status = sets.get("web").await.unwrap().status.unwrap();
        ([status.current_replicas, status.updated_replicas, status.ready_replicas] == [Some(2), Some(1), Some(3)]).then_some(())
    })
    .await;
    sets.patch("web", &PatchParams::default(), &partition(0)).await.unwrap();
    settled(3).await;
    assert_eq!(house.images("web", name).await, all(&["web-0", "web-1", "web-2"], "v2"));
    assert_eq!(house.revisions().await, [1, 2]);
    sets.patch("web", &PatchParams::default(), &Patch::Merge(json!({"spec": {"replicas": 1}}))).await.unwrap();
    settled(1).await;
    assert_eq!(claims.list(&ListParams::default()).await.unwrap().items.len(), 3, "they stay");
    house.told("SuccessfulCreate", "Create Pod web-0 in StatefulSet web successful").await;
    house.told("SuccessfulCreate", "Create Claim data-web-0 Pod web-0 in StatefulSet web success").await;
    house.told("SuccessfulDelete", "Delete Pod web-2 in StatefulSet web successful").await;
    sets.delete("web", &DeleteParams::background()).await.unwrap();
    until("the claims go with it", async || {
        let left = claims.list(&ListParams::default()).await.unwrap();
        (left.items.iter().all(|claim| claim.metadata.deletion_timestamp.is_some()) && house.revisions().await.is_empty()).then_some(())
    })
    .await;
    house.end();
}
