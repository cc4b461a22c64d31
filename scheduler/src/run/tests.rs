//! Bindings that are waited for and prepared, beside the real API server over the memory store.

use std::time::Duration;

use api::k8s::api::{
    core::v1::{Node, PersistentVolume, PersistentVolumeClaim, Pod as Stored},
    storage::v1::StorageClass,
};
use client::kube::{
    Api,
    api::{Patch, PatchParams, PostParams},
};
use door::{BOUND, Door};
use serde_json::{Value, json};

use super::*;
use crate::{
    framework::{Permit, Status},
    probe::{Probe, answers, long, table},
    state::NO_ROOM,
};

struct TestCluster {
    admin: kube::Client,
    scheduler: Arc<Scheduler>,
    group: Group,
}

impl TestCluster {
    /// With one node, `n1`, of two cores.
    async fn new(plugins: Plugins) -> Self {
        Self::with_room(plugins, PREPARING_MAX).await
    }

    async fn with_room(plugins: Plugins, preparing_max: usize) -> Self {
        let group = Group::new();
        let door = Door::new(&group).await;
        door.make_account().await;
        let caches = Caches::new(door.client("system:kube-controller-manager", &[]), group.clone());
        let scheduler = start_with(plugins, preparing_max, door.client("system:kube-scheduler", &[]), &caches, &group);
        let cluster = Self { admin: door.admin(), scheduler, group };
        cluster.node("n1").await;
        cluster
    }

    async fn node(&self, name: &str) {
        let node = serde_json::from_value::<Node>(json!({"metadata": {"name": name}})).unwrap();
        let nodes = Api::<Node>::all(self.admin.clone());
        nodes.create(&PostParams::default(), &node).await.unwrap();
        // Nobody here takes the taint away that new nodes get.
        nodes.patch(name, &PatchParams::default(), &Patch::Merge(json!({"spec": {"taints": null}}))).await.unwrap();
        let status = json!({"status": {"allocatable": {"cpu": "2", "memory": "8Gi", "pods": "110"}}});
        nodes.patch_status(name, &PatchParams::default(), &Patch::Merge(status)).await.unwrap();
    }

    async fn pod(&self, name: &str, priority: &str) {
        let containers = json!([{"name": "c", "image": "i", "resources": {"requests": {"cpu": "2"}}}]);
        let spec = json!({"containers": containers, "priorityClassName": priority});
        let pod = serde_json::from_value(json!({"metadata": {"name": name}, "spec": spec})).unwrap();
        Api::<Stored>::namespaced(self.admin.clone(), "default").create(&PostParams::default(), &pod).await.unwrap();
    }

    /// The pod as it is stored, once it is so.
    async fn eventually(&self, name: &str, what: &str, is: impl Fn(&Value) -> bool) -> Value {
        let pods = Api::<Stored>::namespaced(self.admin.clone(), "default");
        let mut last = Value::Null;
        let looked = tokio::time::timeout(BOUND, async {
            loop {
                last = serde_json::to_value(pods.get(name).await.unwrap()).unwrap();
                if is(&last) {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        });
        let looked = looked.await;
        assert!(looked.is_ok(), "{name} is not {what}: {last:#}");
        last
    }

    async fn bound(&self, name: &str) -> Value {
        self.eventually(name, "bound", |pod| pod["spec"]["nodeName"] == "n1" || pod["spec"]["nodeName"] == "n2").await
    }

    async fn reported(&self, name: &str, reason: &str, message: &str) -> Value {
        let is = |c: &Value| c["type"] == "PodScheduled" && c["status"] == "False" && c["reason"] == reason && c["message"] == message;
        self.eventually(name, message, |pod| pod["status"]["conditions"].as_array().is_some_and(|all| all.iter().any(is))).await
    }

    async fn end(self) {
        assert!(self.group.drain(BOUND).await);
    }
}

/// Both calls before a pod is bound.
const TRY: [&str; 4] = ["One reserve", "Two reserve", "One permit", "Two permit"];
const WRITES: [&str; 2] = ["One pre_bind", "Two pre_bind"];
const UNDONE: [&str; 2] = ["Two unreserve", "One unreserve"];

#[tokio::test]
async fn a_binding_waits_is_prepared_fails_and_is_tried_again() {
    let one = Probe { permits: answers([long()]), writes: true, ..Probe::default() };
    let two = Probe { pre_binds: answers([Err(Status::Error("no disk".into()))]), writes: true, ..Probe::default() };
    let (plugins, log) = table(one, two);
    let cluster = TestCluster::new(plugins).await;
    cluster.pod("p", "").await;
    let waits = cluster.eventually("p", "nominated", |pod| pod["status"]["nominatedNodeName"] == "n1").await;
    assert!(waits["spec"]["nodeName"].is_null());
    assert_eq!(*log.lock(), TRY);
    // Its place is taken meanwhile.
    cluster.pod("other", "").await;
    let full =
        "0/1 nodes are available: 1 Insufficient cpu. preemption: 0/1 nodes are available: 1 No preemption victims found for incoming pod.";
    cluster.reported("other", "Unschedulable", full).await;
    log.lock().clear();
    cluster.scheduler.waiting.get(waits["metadata"]["uid"].as_str().unwrap()).unwrap().allow("One");
    let failed = cluster.reported("p", "SchedulerError", "running PreBind plugin \"Two\": no disk").await;
    assert!(failed["status"]["nominatedNodeName"].is_null(), "{failed:#}");
    // Either of them has the cluster that was given back; each of them has a node in the end.
    cluster.node("n2").await;
    cluster.bound("p").await;
    cluster.bound("other").await;
    let calls = log.lock().clone();
    let first: Vec<&str> = calls.iter().map(String::as_str).take(4).collect();
    assert_eq!(first, [WRITES, UNDONE].concat());
    let mut again: Vec<&str> = calls.iter().skip(4).map(String::as_str).filter(|call| !call.ends_with("pre_bind")).collect();
    again.sort_unstable();
    let mut want = [TRY, TRY].concat();
    want.sort_unstable();
    assert_eq!(again, want, "two tries, and both were bound: {calls:?}");
    cluster.end().await;
}

#[tokio::test]
async fn what_is_decided_is_told() {
    let cluster = TestCluster::new(PLUGINS).await;
    cluster.pod("p", "").await;
    cluster.pod("full", "").await;
    let page = || {
        let mut page = String::new();
        api::metrics::text("", &mut page);
        page
    };
    // The tests of a process share the page.
    let counts = |name: &str| page().lines().any(|line| line.strip_prefix(name).is_some_and(|count| count.trim() != "0"));
    let all = [
        "scheduler_schedule_attempts_total{result=\"scheduled\",profile=\"default-scheduler\"}",
        "scheduler_schedule_attempts_total{result=\"unschedulable\",profile=\"default-scheduler\"}",
        "scheduler_scheduling_attempt_duration_seconds_count{result=\"scheduled\",profile=\"default-scheduler\"}",
        "scheduler_scheduling_algorithm_duration_seconds_count",
        "scheduler_pod_scheduling_sli_duration_seconds_count{attempts=\"1\"}",
        "scheduler_pod_scheduling_attempts_count",
    ];
    let pending = || {
        let pending = cluster.scheduler.pending();
        (pending.active, pending.gated, pending.backoff + pending.unschedulable)
    };
    let told = tokio::time::timeout(BOUND, async {
        while !all.iter().all(|name| counts(name)) || pending() != (0, 0, 1) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    });
    assert!(told.await.is_ok(), "{}", page());
    assert!(page().contains("scheduler_pending_pods{queue=\"unschedulable\"}"));
    cluster.end().await;
}

#[tokio::test]
async fn a_permit_that_does_not_come_in_time_is_a_refusal() {
    let one = Probe { permits: answers([Permit::Wait(Duration::from_millis(50))]), ..Probe::default() };
    let (plugins, log) = table(one, Probe::default());
    let cluster = TestCluster::new(plugins).await;
    cluster.pod("p", "").await;
    let late = "0/1 nodes are available: 1 rejected due to timeout after waiting 50ms at plugin One.";
    let refused = cluster.reported("p", "Unschedulable", late).await;
    assert!(refused["status"]["nominatedNodeName"].is_null(), "{refused:#}");
    assert_eq!(*log.lock(), [TRY.as_slice(), &UNDONE].concat());
    log.lock().clear();
    // It waits for what the plugin that refused it finds helpful.
    cluster.node("n2").await;
    cluster.bound("p").await;
    assert_eq!(*log.lock(), TRY);
    cluster.end().await;
}

#[tokio::test]
async fn a_pod_that_waits_makes_room_without_being_deleted() {
    let (plugins, log) = table(Probe { permits: answers([long()]), ..Probe::default() }, Probe::default());
    let cluster = TestCluster::new(plugins).await;
    cluster.pod("weak", "").await;
    let weak = cluster.eventually("weak", "nominated", |pod| pod["status"]["nominatedNodeName"] == "n1").await;
    cluster.pod("strong", "system-node-critical").await;
    cluster.bound("strong").await;
    let reported =
        "0/1 nodes are available: 1 Insufficient cpu. preemption: 0/1 nodes are available: 1 No preemption victims found for incoming pod.";
    let still = cluster.reported("weak", "Unschedulable", reported).await;
    assert!(still["metadata"]["uid"] == weak["metadata"]["uid"] && still["metadata"]["deletionTimestamp"].is_null(), "{still:#}");
    assert_eq!(*log.lock(), [TRY.as_slice(), &UNDONE, &TRY].concat());
    cluster.end().await;
}

/// Nobody makes the volumes: one pod waits for its own, which is all that may wait here, until it is deleted.
#[tokio::test]
async fn pods_that_wait_for_volumes_stop_nobody_else_and_leave_their_place_when_deleted() {
    let cluster = TestCluster::with_room(PLUGINS, 1).await;
    let (pods, claims) = (
        Api::<Stored>::namespaced(cluster.admin.clone(), "default"),
        Api::<PersistentVolumeClaim>::namespaced(cluster.admin.clone(), "default"),
    );
    let class = json!({"metadata": {"name": "s"}, "provisioner": "example.com/p", "volumeBindingMode": "WaitForFirstConsumer"});
    Api::<StorageClass>::all(cluster.admin.clone()).create(&PostParams::default(), &serde_json::from_value(class).unwrap()).await.unwrap();
    let using = async |name: &str| {
        let spec = json!({"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}, "storageClassName": "s"});
        let claim = json!({"metadata": {"name": name}, "spec": spec});
        claims.create(&PostParams::default(), &serde_json::from_value(claim).unwrap()).await.unwrap();
        let volumes = json!([{"name": "v", "persistentVolumeClaim": {"claimName": name}}]);
        let pod = json!({"metadata": {"name": name}, "spec": {"containers": [{"name": "c", "image": "i"}], "volumes": volumes}});
        pods.create(&PostParams::default(), &serde_json::from_value(pod).unwrap()).await.unwrap();
    };
    using("first").await;
    cluster.eventually("first", "nominated", |pod| pod["status"]["nominatedNodeName"] == "n1").await;
    using("second").await;
    cluster.reported("second", "SchedulerError", NO_ROOM).await;
    cluster.pod("plain", "").await;
    cluster.bound("plain").await;
    pods.delete("first", &client::kube::api::DeleteParams::default()).await.unwrap();
    cluster.eventually("second", "nominated", |pod| pod["status"]["nominatedNodeName"] == "n1").await;
    cluster.end().await;
}

/// The volume is reserved for the claim before the pod is bound; whoever binds claims does the rest.
#[tokio::test]
async fn a_pod_is_bound_once_its_claim_is() {
    let cluster = TestCluster::new(PLUGINS).await;
    let (claims, volumes) =
        (Api::<PersistentVolumeClaim>::namespaced(cluster.admin.clone(), "default"), Api::<PersistentVolume>::all(cluster.admin.clone()));
    let of = |said: Value| serde_json::to_string(&said).unwrap();
    let class =
        of(json!({"metadata": {"name": "s"}, "provisioner": "kubernetes.io/no-provisioner", "volumeBindingMode": "WaitForFirstConsumer"}));
    let classes = Api::<StorageClass>::all(cluster.admin.clone());
    classes.create(&PostParams::default(), &serde_json::from_str(&class).unwrap()).await.unwrap();
    let volumed = json!([{"name": "v", "persistentVolumeClaim": {"claimName": "data"}}]);
    let pod = json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "image": "i"}], "volumes": volumed}});
    Api::<Stored>::namespaced(cluster.admin.clone(), "default")
        .create(&PostParams::default(), &serde_json::from_value(pod).unwrap())
        .await
        .unwrap();
    let waits = |why: &str| {
        format!("0/1 nodes are available: {why}. preemption: 0/1 nodes are available: 1 Preemption is not helpful for scheduling.")
    };
    cluster.reported("p", "Unschedulable", &waits("persistentvolumeclaim \"data\" not found")).await;
    let spec = json!({"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}, "storageClassName": "s"});
    let claim = json!({"metadata": {"name": "data"}, "spec": spec});
    claims.create(&PostParams::default(), &serde_json::from_value(claim).unwrap()).await.unwrap();
    cluster.reported("p", "Unschedulable", &waits("1 node(s) didn't find available persistent volumes to bind")).await;
    let spec =
        json!({"accessModes": ["ReadWriteOnce"], "capacity": {"storage": "1Gi"}, "storageClassName": "s", "hostPath": {"path": "/tmp/x"}});
    let volume = json!({"metadata": {"name": "v"}, "spec": spec});
    volumes.create(&PostParams::default(), &serde_json::from_value(volume).unwrap()).await.unwrap();
    let phase = Patch::Merge(json!({"status": {"phase": "Available"}}));
    volumes.patch_status("v", &PatchParams::default(), &phase).await.unwrap();
    let reserved = async {
        loop {
            if let Some(reference) = volumes.get("v").await.unwrap().spec.unwrap().claim_ref {
                return reference;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let reference = tokio::time::timeout(BOUND, reserved).await.expect("the volume is reserved");
    assert_eq!((reference.name.as_deref(), reference.uid), (Some("data"), claims.get("data").await.unwrap().metadata.uid));
    let pods = Api::<Stored>::namespaced(cluster.admin.clone(), "default");
    assert!(pods.get("p").await.unwrap().spec.unwrap().node_name.is_none());
    let bound = json!({"metadata": {"annotations": {"pv.kubernetes.io/bind-completed": "yes"}}, "spec": {"volumeName": "v"}});
    claims.patch("data", &PatchParams::default(), &Patch::Merge(bound)).await.unwrap();
    cluster.bound("p").await;
    cluster.end().await;
}
