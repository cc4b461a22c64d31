//! Volumes of drivers on a node, with a real server and a driver at its socket: staged, published, shared, kept over the agent's end, grown, and gone.

use std::{fs, path::PathBuf, sync::Arc};

use api::{
    k8s::api::core::v1::{Node, Pod},
    task::Group,
};
use client::{Cache, Caches, Recorder, kube};
use csi::{tonic::Status, v1::node_service_capability::rpc::Type};
use door::{Door, until};
use http::Method;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::{Error, Manager, PodVolumes, is_mounted, testing::Scratch};
use crate::{
    csi::{
        Csi,
        objects::{JSON, MERGE_PATCH, Objects},
        testing::{NAME, TestDriver},
    },
    dirs,
};

const ALL: [Type; 2] = [Type::StageUnstageVolume, Type::ExpandVolume];

/// A server that outlives the agents.
struct House {
    dir: Scratch,
    client: kube::Client,
    admin: Objects,
    driver: Arc<TestDriver>,
    served: Group,
}

/// One run of the agent.
struct Agent {
    manager: Manager,
    csi: Arc<Csi>,
    nodes: Cache<Node>,
    group: Group,
}

impl House {
    async fn new(can: &[Type]) -> Self {
        let (dir, served) = (Scratch::new(), Group::new());
        let door = Door::new(&served).await;
        door.make_account().await;
        let driver = TestDriver::new(&dir.path().join("driver"), can);
        driver.serve(&served);
        let client = door.client("system:node:n1", &["system:nodes"]);
        let house = Self { dir, client, admin: Objects::new(door.admin()), driver, served };
        house.make("/api/v1/nodes", json!({"kind": "Node", "metadata": {"name": "n1"}})).await;
        house
    }

    async fn make(&self, path: &str, mut object: Value) -> Value {
        object["apiVersion"] = if path.starts_with("/api/v1") { "v1".into() } else { "storage.k8s.io/v1".into() };
        self.admin.ask(Method::POST, path, JSON, Some(&object)).await.unwrap()
    }

    async fn say(&self, mut spec: Value) {
        spec["attachRequired"] = json!(spec["attachRequired"] == true);
        self.make("/apis/storage.k8s.io/v1/csidrivers", json!({"kind": "CSIDriver", "metadata": {"name": NAME}, "spec": spec})).await;
    }

    async fn patch(&self, path: &str, patch: Value) -> Value {
        self.admin.ask(Method::PATCH, path, MERGE_PATCH, Some(&patch)).await.unwrap()
    }

    /// A claim that is bound to the driver's volume `disk`.
    async fn claim(&self, block: bool) {
        let mode = if block { "Block" } else { "Filesystem" };
        let spec = json!({"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}, "volumeName": "pv", "storageClassName": "", "volumeMode": mode});
        let claims = "/api/v1/namespaces/default/persistentvolumeclaims";
        let claim = self.make(claims, json!({"kind": "PersistentVolumeClaim", "metadata": {"name": "data"}, "spec": spec})).await;
        let reference = json!({"kind": "PersistentVolumeClaim", "namespace": "default", "name": "data", "uid": claim["metadata"]["uid"]});
        let source = json!({"driver": NAME, "volumeHandle": "disk", "fsType": "ext4", "volumeAttributes": {"a": "b"}});
        let spec = json!({"accessModes": ["ReadWriteOnce"], "capacity": {"storage": "1Gi"}, "claimRef": reference, "csi": source, "volumeMode": mode});
        self.make("/api/v1/persistentvolumes", json!({"kind": "PersistentVolume", "metadata": {"name": "pv"}, "spec": spec})).await;
        self.patch(&format!("{claims}/data/status"), json!({"status": {"phase": "Bound", "capacity": {"storage": "1Gi"}}})).await;
    }

    async fn pod(&self, name: &str, volume: Value) -> Arc<Pod> {
        let mut volume = volume;
        volume["name"] = "v".into();
        let container = json!({"name": "c", "image": "i", "volumeMounts": [{"name": "v", "mountPath": "/v"}]});
        let spec = json!({"nodeName": "n1", "automountServiceAccountToken": false, "securityContext": {"fsGroup": 4321}, "containers": [container], "volumes": [volume]});
        let pod = self.make("/api/v1/namespaces/default/pods", json!({"kind": "Pod", "metadata": {"name": name}, "spec": spec})).await;
        Arc::new(serde_json::from_value(pod).unwrap())
    }

    fn root(&self) -> PathBuf {
        self.dir.path().join("kubelet")
    }

    /// The agent is started, and the driver has registered.
    fn agent(&self) -> Agent {
        let group = Group::new();
        let nodes: Cache<Node> = Caches::unfollowed(self.client.clone(), group.clone()).of();
        let recorder = Recorder::new(self.client.clone(), "kubelet", None, &group);
        let csi = Csi::new("n1", self.client.clone(), nodes.clone(), recorder);
        let manager = Manager::new(self.root(), self.client.clone(), csi.clone(), &group);
        csi.drivers.put(NAME, &self.dir.path().join("driver/csi.sock"), vec![1], "/r".as_ref());
        Agent { manager, csi, nodes, group }
    }

    fn is_clean(&self) -> bool {
        let empty = |dir: PathBuf| fs::read_dir(dir).map_or(0, Iterator::count) == 0;
        empty(self.root().join("pods")) && empty(dirs::node_volumes(&self.root()).join("csi"))
    }
}

fn bound() -> Value {
    json!({"persistentVolumeClaim": {"claimName": "data"}})
}

fn inline() -> Value {
    json!({"csi": {"driver": NAME, "volumeAttributes": {"a": "b"}}})
}

fn uid(pod: &Pod) -> &str {
    crate::meta::uid(pod)
}

fn why(done: Result<PodVolumes, Error>) -> String {
    done.err().expect("it fails").to_string()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_volume_is_staged_once_and_outlives_the_agent() {
    let house = House::new(&ALL).await;
    house.say(json!({})).await;
    house.claim(false).await;
    let (first, second) = (house.pod("one", bound()).await, house.pod("two", bound()).await);
    let agent = house.agent();
    let path = agent.manager.prepare(&first).await.unwrap().get("v").unwrap().path.clone();
    assert!(path.ends_with(format!("pods/{}/volumes/kubernetes.io~csi/v/mount", uid(&first))) && is_mounted(&path));
    fs::write(path.join("file"), "kept").unwrap();
    assert_eq!(fs::read_to_string(house.driver.data("disk").join("file")).unwrap(), "kept");
    assert_eq!(std::os::unix::fs::MetadataExt::gid(&fs::metadata(&path).unwrap()), 4321);
    let request = house.driver.published().pop().unwrap();
    assert_eq!((request.volume_id.as_str(), request.volume_context), ("disk", [("a".to_owned(), "b".to_owned())].into()));
    assert!(request.staging_target_path.starts_with(house.root().to_str().unwrap()));
    agent.manager.prepare(&second).await.unwrap();
    assert_eq!(house.driver.calls(), ["stage disk", "publish disk", "publish disk"]);
    // The agent ends, and its next run needs neither the server nor the driver for what is there.
    assert!(agent.group.drain(std::time::Duration::from_secs(10)).await);
    let alone = Group::new();
    let again = super::testing::manager(house.root(), super::testing::nobody(), &alone);
    assert_eq!(again.present(), [uid(&first), uid(&second)].map(str::to_owned).into());
    assert_eq!(again.prepare(&first).await.unwrap().get("v").unwrap().path, path);
    alone.stop();
    let agent = house.agent();
    agent.manager.teardown(uid(&first)).await.unwrap();
    assert!(!path.exists() && house.driver.data("disk").join("file").exists());
    assert_eq!(house.driver.calls(), ["unpublish disk"]);
    // A driver that fails keeps all as it is.
    house.driver.fail("unstage", Some(Status::internal("busy")));
    let failed = agent.manager.teardown(uid(&second)).await.unwrap_err().to_string();
    assert!(failed.contains("UnmountDevice failed for volume \"disks.example.com^disk\" : attacher.UnmountDevice failed: rpc error: code = Internal desc = busy"), "{failed}");
    house.driver.fail("unstage", None);
    agent.manager.teardown(uid(&second)).await.unwrap();
    assert_eq!(house.driver.calls(), ["unpublish disk", "unstage disk", "unstage disk"]);
    assert!(house.is_clean() && house.driver.data("disk").join("file").exists());
    agent.group.stop();
    house.served.stop();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_driver_says_is_the_pods_event_and_its_lies_are_seen() {
    let house = House::new(&ALL).await;
    house.say(json!({})).await;
    house.claim(false).await;
    let (pod, agent) = (house.pod("one", bound()).await, house.agent());
    house.driver.fail("stage", Some(Status::internal("no such disk")));
    let failed = why(agent.manager.prepare(&pod).await);
    assert_eq!(failed, "MountVolume.MountDevice failed for volume \"v\" : rpc error: code = Internal desc = no such disk");
    house.driver.fail("stage", None);
    house.driver.fail("publish", Some(Status::unavailable("later")));
    let failed = why(agent.manager.prepare(&pod).await);
    assert_eq!(failed, "MountVolume.SetUp failed for volume \"v\" : rpc error: code = Unavailable desc = later");
    house.driver.fail("publish", None);
    house.driver.lie();
    let failed = why(agent.manager.prepare(&pod).await);
    assert_eq!(failed, "MountVolume.SetUp failed for volume \"v\" : the driver published no directory");
    agent.manager.teardown(uid(&pod)).await.unwrap();
    assert!(house.is_clean() && std::path::Path::new("/etc/passwd").exists());
    agent.group.stop();
    house.served.stop();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_never_had_a_driver_goes_without_one() {
    let house = House::new(&ALL).await;
    house.say(json!({"volumeLifecycleModes": ["Persistent", "Ephemeral"]})).await;
    house.claim(false).await;
    let (bound, inline, agent) = (house.pod("one", bound()).await, house.pod("two", inline()).await, house.agent());
    assert!(agent.csi.drivers.remove(NAME, "/r".as_ref()));
    let (first, second) = tokio::join!(agent.manager.prepare(&bound), agent.manager.prepare(&inline));
    let missing = "driver name disks.example.com not found in the list of registered CSI drivers";
    assert_eq!(
        why(first),
        format!("MountVolume.MountDevice failed for volume \"v\" : attacher.MountDevice failed to create newCsiDriverClient: {missing}")
    );
    assert_eq!(why(second), format!("MountVolume.SetUp failed for volume \"v\" : mounter.SetUpAt failed to get CSI client: {missing}"));
    agent.manager.teardown(uid(&bound)).await.unwrap();
    agent.manager.teardown(uid(&inline)).await.unwrap();
    assert!(house.is_clean() && house.driver.calls().is_empty());
    agent.group.stop();
    house.served.stop();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_is_staged_once_the_api_has_it_as_used_here_and_attached() {
    let house = House::new(&ALL).await;
    house.say(json!({"attachRequired": true})).await;
    house.claim(false).await;
    let (pod, agent) = (house.pod("one", bound()).await, house.agent());
    let (manager, used) = (agent.manager.clone(), format!("kubernetes.io/csi/{NAME}^disk"));
    let name = format!("csi-{}", api::hex(Sha256::digest(format!("disk{NAME}n1"))));
    let attach = async {
        until("it is said to be used", async || agent.csi.in_use.shown(None)).await;
        assert_eq!(house.driver.calls(), Vec::<String>::new());
        let source = json!({"persistentVolumeName": "pv"});
        let spec = json!({"attacher": NAME, "nodeName": "n1", "source": source});
        let attachments = "/apis/storage.k8s.io/v1/volumeattachments";
        house.make(attachments, json!({"kind": "VolumeAttachment", "metadata": {"name": name}, "spec": spec})).await;
        let status = json!({"status": {"attached": true, "attachmentMetadata": {"lun": "5"}}});
        house.patch(&format!("{attachments}/{name}/status"), status).await;
        let status = json!({"volumesInUse": [used], "volumesAttached": [{"name": used, "devicePath": ""}]});
        agent.nodes.feed(serde_json::from_value(json!({"metadata": {"name": "n1"}, "status": status})).unwrap(), false);
    };
    let (prepared, ()) = tokio::join!(manager.prepare(&pod), attach);
    prepared.unwrap();
    assert_eq!(house.driver.published()[0].publish_context, [("lun".to_owned(), "5".to_owned())].into());
    // The next run says from its start on that it is used.
    agent.group.stop();
    let agent = house.agent();
    assert_eq!(agent.csi.in_use.shown(None), Some(vec![used.clone()]));
    agent.manager.teardown(uid(&pod)).await.unwrap();
    assert_eq!(agent.csi.in_use.shown(Some(&vec![used])), Some(Vec::new()));
    assert!(house.is_clean());
    agent.group.stop();
    house.served.stop();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_volume_in_a_pod_has_its_facts_and_tokens_and_is_published_again() {
    let house = House::new(&ALL).await;
    let pod = house.pod("one", inline()).await;
    let agent = house.agent();
    let failed = why(agent.manager.prepare(&pod).await);
    assert!(failed.ends_with("volume mode \"Ephemeral\" not supported by driver disks.example.com (no CSIDriver object)"), "{failed}");
    let wanted = json!({"podInfoOnMount": true, "requiresRepublish": true, "volumeLifecycleModes": ["Ephemeral"], "tokenRequests": [{"audience": "vault"}]});
    house.say(wanted).await;
    agent.manager.prepare(&pod).await.unwrap();
    let request = house.driver.published().pop().unwrap();
    let of = |key: &str| request.volume_context.get(&format!("csi.storage.k8s.io/{key}")).cloned().unwrap_or_default();
    assert_eq!(
        (of("pod.name"), of("pod.namespace"), of("pod.uid"), of("ephemeral")),
        ("one".into(), "default".into(), uid(&pod).into(), "true".into())
    );
    let tokens: Value = serde_json::from_str(&of("serviceAccount.tokens")).unwrap();
    assert!(tokens["vault"]["token"].is_string() && tokens["vault"]["expirationTimestamp"].is_string(), "{tokens}");
    assert!(request.staging_target_path.is_empty() && request.volume_id.starts_with("csi-"));
    let calls = house.driver.calls();
    assert!(calls.iter().all(|call| call.starts_with("publish")), "{calls:?}");
    super::tending::look(&agent.manager).await;
    assert_eq!(house.driver.published().len(), 1, "once more");
    agent.manager.teardown(uid(&pod)).await.unwrap();
    assert!(house.is_clean());
    agent.group.stop();
    house.served.stop();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_claim_grows_while_it_is_used_and_before() {
    let house = House::new(&ALL).await;
    house.say(json!({})).await;
    house.claim(false).await;
    let (pod, agent) = (house.pod("one", bound()).await, house.agent());
    agent.manager.prepare(&pod).await.unwrap();
    house.driver.calls();
    super::tending::look(&agent.manager).await;
    assert_eq!(house.driver.calls(), Vec::<String>::new(), "nothing is to be done");
    let path = "/api/v1/namespaces/default/persistentvolumeclaims/data";
    let grow = async |size: &str| {
        house.patch("/api/v1/persistentvolumes/pv", json!({"spec": {"capacity": {"storage": size}}})).await;
        let pending = json!({"allocatedResources": {"storage": size}, "allocatedResourceStatuses": {"storage": "NodeResizePending"},
            "conditions": [{"type": "FileSystemResizePending", "status": "True"}]});
        house.patch(&format!("{path}/status"), json!({"status": pending})).await;
    };
    grow("2Gi").await;
    super::tending::look(&agent.manager).await;
    assert_eq!(house.driver.calls(), [format!("expand disk {} true", 2_i64 << 30)]);
    let status = house.admin.get(path).await.unwrap().unwrap()["status"].clone();
    assert_eq!(
        (&status["capacity"]["storage"], &status["allocatedResourceStatuses"], &status["conditions"]),
        (&json!("2Gi"), &Value::Null, &Value::Null)
    );
    // One that the driver can never make so large.
    grow("9Gi").await;
    house.driver.fail("expand", Some(Status::out_of_range("too large")));
    super::tending::look(&agent.manager).await;
    let status = house.admin.get(path).await.unwrap().unwrap()["status"].clone();
    assert_eq!(
        (&status["capacity"]["storage"], &status["allocatedResourceStatuses"]["storage"]),
        (&json!("2Gi"), &json!("NodeResizeInfeasible"))
    );
    assert_eq!(status["conditions"][1]["type"], "NodeResizeError");
    house.driver.calls();
    super::tending::look(&agent.manager).await;
    assert_eq!(house.driver.calls(), Vec::<String>::new(), "it is not asked again");
    house.driver.fail("expand", None);
    // Before it is used.
    agent.manager.teardown(uid(&pod)).await.unwrap();
    grow("3Gi").await;
    house.driver.calls();
    let next = house.pod("two", bound()).await;
    agent.manager.prepare(&next).await.unwrap();
    assert_eq!(house.driver.calls(), ["stage disk".to_owned(), format!("expand disk {} true", 3_i64 << 30), "publish disk".into()]);
    agent.manager.teardown(uid(&next)).await.unwrap();
    assert!(house.is_clean());
    agent.group.stop();
    house.served.stop();
}
