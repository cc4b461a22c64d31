//! The scheduler beside the real API server over the memory store, in one process, with the rights it has in a cluster.

use std::{io, sync::Arc, time::Duration};

use api::{
    k8s::api::{
        core::v1::{Event, Node, PersistentVolume, PersistentVolumeClaim, Pod},
        storage::v1::CSINode,
    },
    task::Group,
};
use client::kube::{
    Api, Client,
    api::{DeleteParams, ListParams, Patch, PatchParams, PostParams},
};
use door::{BOUND, Door};
use parking_lot::Mutex;
use serde_json::{Value, json};

struct TestCluster {
    admin: Client,
    group: Group,
}

impl TestCluster {
    async fn new() -> Self {
        let _ = tracing_subscriber::fmt().with_test_writer().try_init();
        let group = Group::new();
        let door = Door::new(&group).await;
        door.make_account().await;
        let caches = client::Caches::new(door.client("system:kube-controller-manager", &[]), group.clone());
        scheduler::start(door.client("system:kube-scheduler", &[]), &caches, &group);
        Self { admin: door.admin(), group }
    }

    fn pods(&self) -> Api<Pod> {
        Api::namespaced(self.admin.clone(), "default")
    }

    async fn node(&self, name: &str, cpu: &str) {
        let allocatable = json!({"cpu": cpu, "memory": "8Gi", "pods": "110"});
        let node = json!({"metadata": {"name": name, "labels": {"kubernetes.io/hostname": name}}});
        let (node, nodes) = (serde_json::from_value::<Node>(node).unwrap(), Api::<Node>::all(self.admin.clone()));
        nodes.create(&PostParams::default(), &node).await.unwrap();
        // Nobody here takes the taint away that new nodes get.
        nodes.patch(name, &PatchParams::default(), &Patch::Merge(json!({"spec": {"taints": null}}))).await.unwrap();
        let status = Patch::Merge(json!({"status": {"allocatable": allocatable}}));
        nodes.patch_status(name, &PatchParams::default(), &status).await.unwrap();
    }

    async fn pod(&self, name: &str, cpu: &str, mut spec: Value) {
        spec["containers"] = json!([{"name": "c", "image": "i", "resources": {"requests": {"cpu": cpu}}}]);
        let pod: Pod = serde_json::from_value(json!({"metadata": {"name": name}, "spec": spec})).unwrap();
        self.pods().create(&PostParams::default(), &pod).await.unwrap();
    }

    async fn until<T>(&self, what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
        let waited = tokio::time::timeout(BOUND, async {
            loop {
                if let Some(found) = look().await {
                    return found;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        });
        match waited.await {
            Ok(found) => found,
            Err(_) => panic!("{what}: not in time; reported was {:#?}", self.all_told().await),
        }
    }

    async fn node_of(&self, pod: &str) -> String {
        self.until(&format!("{pod} is bound"), async || self.pods().get(pod).await.unwrap().spec.unwrap().node_name).await
    }

    async fn all_told(&self) -> Vec<(Option<String>, Option<String>)> {
        let events = Api::<Event>::namespaced(self.admin.clone(), "default").list(&ListParams::default()).await.unwrap();
        events.items.into_iter().map(|e| (e.involved_object.name, e.message)).collect()
    }

    /// The message of the pod's newest event of this reason.
    async fn reported(&self, pod: &str, reason: &str, message: &str) {
        let events = Api::<Event>::namespaced(self.admin.clone(), "default");
        self.until(&format!("{pod} is reported {reason:?} {message:?}"), async || {
            let all = events.list(&ListParams::default()).await.unwrap();
            let mut about = all.items.into_iter().filter(|e| e.involved_object.name.as_deref() == Some(pod));
            about.find(|e| e.reason.as_deref() == Some(reason) && e.message.as_deref() == Some(message))
        })
        .await;
    }

    async fn condition(&self, pod: &str, kind: &str) -> (String, String, String) {
        self.until(&format!("{pod} has condition {kind}"), async || {
            let status = self.pods().get(pod).await.unwrap().status?;
            let condition = status.conditions?.into_iter().find(|c| c.type_ == kind)?;
            Some((condition.status, condition.reason.unwrap_or_default(), condition.message.unwrap_or_default()))
        })
        .await
    }

    async fn end(self) {
        assert!(self.group.drain(BOUND).await);
    }
}

/// What is logged at `debug`, on this thread, while the first of the two is held.
fn logged() -> (tracing::subscriber::DefaultGuard, Arc<Mutex<Vec<u8>>>) {
    struct Sink(Arc<Mutex<Vec<u8>>>);
    impl io::Write for Sink {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let log = Arc::new(Mutex::new(Vec::new()));
    let into = log.clone();
    let lines = tracing_subscriber::fmt().with_max_level(tracing::Level::DEBUG).with_ansi(false);
    (tracing::subscriber::set_default(lines.with_writer(move || Sink(into.clone())).finish()), log)
}

#[tokio::test]
async fn what_is_done_for_a_pod_says_so_in_the_other_room_too() {
    let (_held, log) = logged();
    let cluster = TestCluster::new().await;
    cluster.node("n1", "4").await;
    cluster.pod("p", "1", json!({})).await;
    assert_eq!(cluster.node_of("p").await, "n1");
    let uid = cluster.pods().get("p").await.unwrap().metadata.uid.unwrap();
    let bound = |line: &&str| line.contains(" HTTP ") && line.contains(r#"path="/api/v1/namespaces/default/pods/p/binding""#);
    // The pod is bound before the answer is logged.
    let line = cluster
        .until("a line tells of the binding", async || {
            let log = String::from_utf8(log.lock().clone()).unwrap();
            log.lines().find(bound).map(str::to_owned)
        })
        .await;
    cluster.end().await;
    assert!(line.contains(&format!(r#"pod{{ns="default" name="p" uid="{uid}"}}"#)) && line.contains("code=201"), "{line}");
}

#[tokio::test]
async fn a_pod_waits_for_a_node_and_is_bound() {
    let cluster = TestCluster::new().await;
    cluster.pod("p", "1", json!({})).await;
    cluster.reported("p", "FailedScheduling", "no nodes available to schedule pods").await;
    let (status, reason, message) = cluster.condition("p", "PodScheduled").await;
    assert_eq!((status.as_str(), reason.as_str(), message.as_str()), ("False", "Unschedulable", "no nodes available to schedule pods"));
    cluster.node("n1", "4").await;
    assert_eq!(cluster.node_of("p").await, "n1");
    cluster.reported("p", "Scheduled", "Successfully assigned default/p to n1").await;
    assert_eq!(cluster.condition("p", "PodScheduled").await.0, "True");
    cluster.end().await;
}

#[tokio::test]
async fn what_does_not_fit_is_told_and_tried_again_when_room_is_made() {
    let cluster = TestCluster::new().await;
    cluster.node("n1", "2").await;
    cluster.pod("first", "2", json!({})).await;
    assert_eq!(cluster.node_of("first").await, "n1");
    cluster.pod("second", "1", json!({})).await;
    let message =
        "0/1 nodes are available: 1 Insufficient cpu. preemption: 0/1 nodes are available: 1 No preemption victims found for incoming pod.";
    cluster.reported("second", "FailedScheduling", message).await;
    cluster.pod("elsewhere", "1", json!({"schedulerName": "other"})).await;
    cluster.pods().delete("first", &DeleteParams::default().grace_period(0)).await.unwrap();
    assert_eq!(cluster.node_of("second").await, "n1");
    assert_eq!(cluster.pods().get("elsewhere").await.unwrap().spec.unwrap().node_name, None);
    cluster.end().await;
}

#[tokio::test]
async fn the_stronger_pod_takes_the_room_of_the_weaker() {
    let cluster = TestCluster::new().await;
    cluster.node("n1", "2").await;
    cluster.pod("weak", "2", json!({})).await;
    assert_eq!(cluster.node_of("weak").await, "n1");
    cluster.pod("strong", "1", json!({"priorityClassName": "system-node-critical"})).await;
    let (status, reason, _) = cluster.condition("weak", "DisruptionTarget").await;
    assert_eq!((status.as_str(), reason.as_str()), ("True", "PreemptionByScheduler"));
    cluster.reported("strong", "FailedScheduling", "0/1 nodes are available: 1 Insufficient cpu.").await;
    let strong = cluster.until("strong is nominated", async || {
        Some(cluster.pods().get("strong").await.unwrap())
            .filter(|p| p.status.as_ref().unwrap().nominated_node_name.as_deref() == Some("n1"))
    });
    let uid = strong.await.metadata.uid.unwrap();
    cluster.reported("weak", "Preempted", &format!("Preempted by pod {uid} on node n1")).await;
    cluster.until("weak is being deleted", async || cluster.pods().get("weak").await.unwrap().metadata.deletion_timestamp).await;
    // As the kubelet does when the containers have ended.
    cluster.pods().delete("weak", &DeleteParams::default().grace_period(0)).await.unwrap();
    assert_eq!(cluster.node_of("strong").await, "n1");
    cluster.end().await;
}

#[tokio::test]
async fn gated_pods_wait_for_their_gates() {
    let cluster = TestCluster::new().await;
    cluster.node("n1", "2").await;
    cluster.pod("gated", "1", json!({"schedulingGates": [{"name": "example.com/g"}]})).await;
    cluster.pod("open", "1", json!({})).await;
    assert_eq!(cluster.node_of("open").await, "n1");
    assert_eq!(cluster.condition("gated", "PodScheduled").await.1, "SchedulingGated");
    let mut gated = cluster.pods().get("gated").await.unwrap();
    gated.spec.as_mut().unwrap().scheduling_gates = None;
    cluster.pods().replace("gated", &PostParams::default(), &gated).await.unwrap();
    assert_eq!(cluster.node_of("gated").await, "n1");
    cluster.end().await;
}

#[tokio::test]
async fn a_burst_fills_nodes_and_overfills_none() {
    let cluster = TestCluster::new().await;
    for at in 0..4 {
        cluster.node(&format!("n{at}"), "2").await;
    }
    for at in 0..42 {
        cluster.pod(&format!("p{at:02}"), "200m", json!({})).await;
    }
    let bound = cluster.until("40 pods are bound", async || {
        let all = cluster.pods().list(&ListParams::default()).await.unwrap();
        let bound: Vec<String> = all.items.into_iter().filter_map(|p| p.spec?.node_name).collect();
        (bound.len() >= 40).then_some(bound)
    });
    let bound = bound.await;
    for at in 0..4 {
        assert_eq!(bound.iter().filter(|n| **n == format!("n{at}")).count(), 10);
    }
    cluster.end().await;
}

#[tokio::test]
async fn a_node_takes_as_many_volumes_as_its_driver_says() {
    let cluster = TestCluster::new().await;
    cluster.node("n1", "4").await;
    let of = |said: Value| said.to_string();
    let drivers = json!([{"name": "d.example", "nodeID": "n1", "allocatable": {"count": 1}}]);
    let node = of(json!({"metadata": {"name": "n1"}, "spec": {"drivers": drivers}}));
    let nodes = Api::<CSINode>::all(cluster.admin.clone());
    nodes.create(&PostParams::default(), &serde_json::from_str(&node).unwrap()).await.unwrap();
    for name in ["one", "two"] {
        let source = json!({"driver": "d.example", "volumeHandle": name});
        let spec = json!({"accessModes": ["ReadWriteOnce"], "capacity": {"storage": "1Gi"}, "csi": source});
        let volume = of(json!({"metadata": {"name": name}, "spec": spec}));
        let volumes = Api::<PersistentVolume>::all(cluster.admin.clone());
        volumes.create(&PostParams::default(), &serde_json::from_str(&volume).unwrap()).await.unwrap();
        let meta = json!({"name": name, "annotations": {"pv.kubernetes.io/bind-completed": "yes"}});
        let asks = json!({"requests": {"storage": "1Gi"}});
        let spec = json!({"accessModes": ["ReadWriteOnce"], "storageClassName": "", "volumeName": name, "resources": asks});
        let claim = of(json!({"metadata": meta, "spec": spec}));
        let claims = Api::<PersistentVolumeClaim>::namespaced(cluster.admin.clone(), "default");
        claims.create(&PostParams::default(), &serde_json::from_str(&claim).unwrap()).await.unwrap();
    }
    let using = |claim: &str| json!({"volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": claim}}]});
    cluster.pod("one", "1", using("one")).await;
    assert_eq!(cluster.node_of("one").await, "n1");
    cluster.pod("two", "1", using("two")).await;
    let full = "0/1 nodes are available: 1 node(s) exceed max volume count.";
    cluster
        .until("the node is full", async || {
            let (_, reason, message) = cluster.condition("two", "PodScheduled").await;
            (reason == "Unschedulable" && message.starts_with(full)).then_some(())
        })
        .await;
    cluster.pods().delete("one", &DeleteParams::default().grace_period(0)).await.unwrap();
    assert_eq!(cluster.node_of("two").await, "n1");
    cluster.end().await;
}
