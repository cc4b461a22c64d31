//! Claims and volumes: bound by the real server's rules and roles, released, made for a node, enlarged, attached and detached.

use api::{
    k8s::api::{
        core::v1::{Node, PersistentVolume, PersistentVolumeClaim, Pod},
        storage::v1::{StorageClass, VolumeAttachment},
    },
    task::Group,
};
use client::kube::{
    Api, ResourceExt,
    api::{DeleteParams, Patch, PatchParams, PostParams},
};
use door::{Door, until};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};

use super::{GROUPS, account, start};

struct House {
    group: Group,
    claims: Api<PersistentVolumeClaim>,
    volumes: Api<PersistentVolume>,
    door: Door,
}

fn of<T: DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).unwrap()
}

async fn make<K>(api: &Api<K>, object: Value)
where
    K: client::kube::Resource + Clone + std::fmt::Debug + Serialize + DeserializeOwned,
{
    api.create(&PostParams::default(), &of(object)).await.unwrap();
}

fn claim(name: &str, class: &str, more: Value) -> Value {
    let spec = json!({"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}, "storageClassName": class});
    let mut claim = json!({"metadata": {"name": name}, "spec": spec});
    claim["metadata"].as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    claim
}

fn volume(name: &str, size: &str, policy: &str) -> Value {
    let spec = json!({"accessModes": ["ReadWriteOnce"], "capacity": {"storage": size}, "persistentVolumeReclaimPolicy": policy, "hostPath": {"path": "/tmp/x"}});
    json!({"metadata": {"name": name}, "spec": spec})
}

impl House {
    async fn new() -> Self {
        let group = Group::new();
        let door = Door::new(&group).await;
        door.make_account().await;
        start(&door, &group, &|name| door.client(&account(name), &GROUPS));
        Self { group, claims: Api::namespaced(door.admin(), "default"), volumes: Api::all(door.admin()), door }
    }

    async fn claim_is(&self, name: &str, phase: &str) -> PersistentVolumeClaim {
        until(&format!("claim {name} is {phase}"), async || {
            let claim = self.claims.get(name).await.unwrap();
            (claim.status.as_ref().and_then(|status| status.phase.as_deref()) == Some(phase)).then_some(claim)
        })
        .await
    }

    async fn volume_is(&self, name: &str, phase: &str) -> PersistentVolume {
        until(&format!("volume {name} is {phase}"), async || {
            let volume = self.volumes.get_opt(name).await.unwrap()?;
            (volume.status.as_ref().and_then(|status| status.phase.as_deref()) == Some(phase)).then_some(volume)
        })
        .await
    }

    fn end(self) {
        assert_eq!(self.group.fault(), None);
        self.group.stop();
    }
}

#[tokio::test]
async fn claims_have_one_volume_each_and_give_it_back() {
    let house = House::new().await;
    for at in 0..8 {
        make(&house.volumes, volume(&format!("v{at}"), "1Gi", "Retain")).await;
    }
    for at in 0..8 {
        make(&house.claims, claim(&format!("c{at}"), "", json!({}))).await;
    }
    let mut names = std::collections::BTreeSet::new();
    for at in 0..8 {
        let claim = house.claim_is(&format!("c{at}"), "Bound").await;
        let volume = house.volume_is(claim.spec.as_ref().unwrap().volume_name.as_deref().unwrap(), "Bound").await;
        assert_eq!(volume.spec.as_ref().unwrap().claim_ref.as_ref().unwrap().uid, claim.metadata.uid);
        assert_eq!(claim.status.unwrap().capacity.unwrap()["storage"].0, "1Gi");
        names.insert(volume.name_any());
    }
    assert_eq!(names.len(), 8);
    // Made after the claim, and held while it is bound.
    make(&house.claims, claim("late", "", json!({}))).await;
    make(&house.volumes, volume("last", "1Gi", "Retain")).await;
    house.claim_is("late", "Bound").await;
    house.volumes.delete("last", &DeleteParams::default()).await.unwrap();
    assert!(house.volumes.get("last").await.unwrap().metadata.deletion_timestamp.is_some());
    house.claims.delete("late", &DeleteParams::default()).await.unwrap();
    until("the volume goes after its claim", async || house.volumes.get_opt("last").await.unwrap().is_none().then_some(())).await;
    let name = house.claims.get("c0").await.unwrap().spec.unwrap().volume_name.unwrap();
    house.claims.delete("c0", &DeleteParams::default()).await.unwrap();
    house.volume_is(&name, "Released").await;
    // An administrator gives it free.
    house.volumes.patch(&name, &PatchParams::default(), &Patch::Merge(json!({"spec": {"claimRef": null}}))).await.unwrap();
    house.volume_is(&name, "Available").await;
    house.end();
}

#[tokio::test]
async fn a_directory_is_made_for_the_node_that_was_chosen() {
    let house = House::new().await;
    let classes = Api::<StorageClass>::all(house.door.admin());
    make(&house.claims, claim("waits", "skiff-local", json!({}))).await;
    let class = json!({"metadata": {"name": "skiff-local"}, "provisioner": "skiff.dev/local", "volumeBindingMode": "WaitForFirstConsumer", "allowVolumeExpansion": true});
    make(&classes, class).await;
    let storage = json!({"skiff.dev/local-storage": "/data/storage"});
    let node = json!({"metadata": {"name": "n1", "labels": {"kubernetes.io/hostname": "n1"}, "annotations": storage}});
    make(&Api::<Node>::all(house.door.admin()), node).await;
    // As the scheduler does.
    let chosen = Patch::Merge(json!({"metadata": {"annotations": {"volume.kubernetes.io/selected-node": "n1"}}}));
    house.claims.patch("waits", &PatchParams::default(), &chosen).await.unwrap();
    let pods = Api::<Pod>::namespaced(house.door.admin(), "default");
    let used = json!([{"name": "v", "persistentVolumeClaim": {"claimName": "waits"}}]);
    make(&pods, json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "image": "i"}], "volumes": used}})).await;
    let bound = house.claim_is("waits", "Bound").await;
    let name = format!("pvc-{}", bound.uid().unwrap());
    let volume = house.volume_is(&name, "Bound").await;
    assert_eq!(volume.spec.unwrap().local.unwrap().path, format!("/data/storage/{name}_default_waits"));
    let larger = Patch::Merge(json!({"spec": {"resources": {"requests": {"storage": "3Gi"}}}}));
    house.claims.patch("waits", &PatchParams::default(), &larger).await.unwrap();
    until("the claim has what it asks for", async || {
        let claim = house.claims.get("waits").await.unwrap();
        (claim.status.unwrap().capacity.unwrap()["storage"].0 == "3Gi").then_some(())
    })
    .await;
    assert_eq!(house.volumes.get(&name).await.unwrap().spec.unwrap().capacity.unwrap()["storage"].0, "3Gi");
    // Its node, and no other, may read it and delete it once it is over.
    let as_node = |node: &str| {
        Api::<PersistentVolume>::all(house.door.client(&format!("system:node:{node}"), &["system:nodes", "system:authenticated"]))
    };
    assert!(as_node("n2").get(&name).await.is_err());
    assert!(as_node("n2").delete(&name, &DeleteParams::default()).await.is_err());
    pods.delete("p", &DeleteParams::default().grace_period(0)).await.unwrap();
    house.claims.delete("waits", &DeleteParams::default()).await.unwrap();
    house.volume_is(&name, "Released").await;
    assert!(as_node("n1").get(&name).await.is_ok());
    as_node("n1").delete(&name, &DeleteParams::default()).await.unwrap();
    until("the volume goes", async || house.volumes.get_opt(&name).await.unwrap().is_none().then_some(())).await;
    house.end();
}

#[tokio::test]
async fn an_ephemeral_volume_is_a_claim_that_goes_with_its_pod() {
    let house = House::new().await;
    let pods = Api::<Pod>::namespaced(house.door.admin(), "default");
    let template =
        json!({"spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}, "storageClassName": ""}});
    let volumes = json!([{"name": "scratch", "ephemeral": {"volumeClaimTemplate": template}}]);
    make(&pods, json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "image": "i"}], "volumes": volumes}})).await;
    let claim = until("the claim is made", async || house.claims.get_opt("p-scratch").await.unwrap()).await;
    assert_eq!(claim.owner_references()[0].uid, pods.get("p").await.unwrap().uid().unwrap());
    pods.delete("p", &DeleteParams::default().grace_period(0)).await.unwrap();
    until("the claim goes", async || house.claims.get_opt("p-scratch").await.unwrap().is_none().then_some(())).await;
    house.end();
}

#[tokio::test]
async fn a_volume_of_a_driver_is_attached_and_detached() {
    let house = House::new().await;
    let (nodes, pods) = (Api::<Node>::all(house.door.admin()), Api::<Pod>::namespaced(house.door.admin(), "default"));
    let attachments = Api::<VolumeAttachment>::all(house.door.admin());
    let managed = json!({"volumes.kubernetes.io/controller-managed-attach-detach": "true"});
    make(&nodes, json!({"metadata": {"name": "n1", "annotations": managed}})).await;
    let spec =
        json!({"accessModes": ["ReadWriteOnce"], "capacity": {"storage": "1Gi"}, "csi": {"driver": "d.example", "volumeHandle": "h"}});
    make(&house.volumes, json!({"metadata": {"name": "v"}, "spec": spec})).await;
    make(&house.claims, claim("c", "", json!({}))).await;
    house.claim_is("c", "Bound").await;
    let used = json!([{"name": "v", "persistentVolumeClaim": {"claimName": "c"}}]);
    let spec = json!({"nodeName": "n1", "containers": [{"name": "c", "image": "i"}], "volumes": used});
    make(&pods, json!({"metadata": {"name": "p"}, "spec": spec})).await;
    let name = podspec::csi::attachment_name("h", "d.example", "n1");
    let made = until("the attachment is made", async || attachments.get_opt(&name).await.unwrap()).await;
    assert_eq!((made.spec.attacher.as_str(), made.spec.source.persistent_volume_name.as_deref()), ("d.example", Some("v")));
    let listed = async || nodes.get("n1").await.unwrap().status.unwrap_or_default().volumes_attached.unwrap_or_default();
    assert!(listed().await.is_empty());
    // As an external-attacher does.
    let done = Patch::Merge(json!({"status": {"attached": true}}));
    attachments.patch_status(&name, &PatchParams::default(), &done).await.unwrap();
    let one = until("the node may mount it", async || listed().await.pop()).await;
    assert_eq!((one.name.as_str(), one.device_path.as_str()), ("kubernetes.io/csi/d.example^h", ""));
    // Its agent mounts it, and lets it go after the pod.
    let mounted = |names: Value| Patch::Merge(json!({"status": {"volumesInUse": names}}));
    nodes.patch_status("n1", &PatchParams::default(), &mounted(json!([one.name]))).await.unwrap();
    pods.delete("p", &DeleteParams::default().grace_period(0)).await.unwrap();
    until("the pod goes", async || pods.get_opt("p").await.unwrap().is_none().then_some(())).await;
    assert_eq!(listed().await.len(), 1);
    nodes.patch_status("n1", &PatchParams::default(), &mounted(Value::Null)).await.unwrap();
    until("it is detached", async || attachments.get_opt(&name).await.unwrap().is_none().then_some(())).await;
    assert!(listed().await.is_empty());
    house.end();
}
