//! The whole node agent beside the real API server, on a real containerd. Needs root, containerd, runc and a static busybox.

use std::{
    net::IpAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use api::{
    k8s::api::{
        core::v1::{ContainerStatus, Event, Pod},
        node::v1::RuntimeClass,
    },
    task::Group,
};
use apiserver::certs::Certs;
use client::kube::{
    Api, Client,
    api::{DeleteParams, ListParams, PostParams},
};
use door::Door;
use futures::FutureExt;
use serde_json::{Value, json};

use crate::{
    Agent, Config, clean, containerd,
    metrics::{POD_START, RELIST},
    run,
    server::containerd_tests::{IMAGE, image},
    stop_pods,
};

const BOUND: Duration = Duration::from_secs(60);
const NODE: &str = "n1";

struct TestKubelet {
    dir: tempfile::TempDir,
    admin: Client,
    agent: Agent,
    /// Of the node alone.
    group: Group,
}

fn config(dir: &Path, certs: &Arc<Certs>) -> Config {
    let mut config = Config::new(dir.join("agent"), NODE.into(), Arc::new(|_, _| Ok(())));
    config.node_ips = vec![IpAddr::from([127, 0, 0, 1])];
    config.address = "127.0.0.1:0".parse().unwrap();
    config.client_ca_pem = certs.ca().to_owned();
    let certs = certs.clone();
    config.serving = Arc::new(move || {
        let pair = certs.issue_node(NODE, &[IpAddr::from([127, 0, 0, 1])]).map_err(|e| e.to_string());
        Box::pin(std::future::ready(pair))
    });
    config
}

impl TestKubelet {
    async fn new() -> Self {
        let _ = tracing_subscriber::fmt().with_test_writer().try_init();
        let (dir, group) = (tempfile::tempdir().unwrap(), Group::new());
        let door = Door::new(&group).await;
        door.make_account().await;
        let (admin, as_node) = (door.admin(), door.client(&format!("system:node:{NODE}"), &["system:nodes"]));
        let caches = client::Caches::new(as_node.clone(), group.clone());
        let config = config(dir.path(), &door.certs);
        let layout = config.layout();
        let agent = Box::pin(run(config, as_node, caches, group.clone())).await.unwrap();
        containerd::import_image(&layout, &image(dir.path())).await.unwrap();
        Self { dir, admin, agent, group }
    }

    fn agent_dir(&self) -> PathBuf {
        self.dir.path().join("agent")
    }

    fn pods(&self) -> Api<Pod> {
        Api::namespaced(self.admin.clone(), "default")
    }

    /// One container on the host's network, bound to this node from the beginning.
    async fn pod(&self, name: &str, policy: &str, script: &str, more: Value) {
        let mut container = json!({"name": "c", "image": IMAGE, "command": ["sh", "-c", script]});
        container.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let volumes = json!([{"name": "h", "hostPath": {"path": self.dir.path()}}]);
        let spec = json!({"nodeName": NODE, "hostNetwork": true, "restartPolicy": policy, "automountServiceAccountToken": false,
            "terminationGracePeriodSeconds": 1, "containers": [container], "volumes": volumes});
        let pod: Pod = serde_json::from_value(json!({"metadata": {"name": name}, "spec": spec})).unwrap();
        self.pods().create(&PostParams::default(), &pod).await.unwrap();
    }

    async fn until(&self, pod: &str, holds: impl Fn(&Pod) -> bool) -> Pod {
        let mut last = None;
        let waited = tokio::time::timeout(BOUND, async {
            loop {
                let now = self.pods().get(pod).await.unwrap();
                if holds(&now) {
                    return now;
                }
                last = now.status;
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        });
        let found = waited.await;
        found.unwrap_or_else(|_| panic!("{pod}: not in time; its status is {last:#?}"))
    }

    /// Waits for an event about the pod.
    async fn told(&self, pod: &str, reason: &str, words: &str) {
        let events: Api<Event> = Api::namespaced(self.admin.clone(), "default");
        let of_pod = ListParams::default().fields(&format!("involvedObject.name={pod}"));
        let is_it = |event: &Event| {
            event.reason.as_deref() == Some(reason) && event.message.as_deref().is_some_and(|message| message.contains(words))
        };
        let waited = tokio::time::timeout(BOUND, async {
            while !events.list(&of_pod).await.unwrap().items.iter().any(is_it) {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        });
        waited.await.unwrap_or_else(|_| panic!("{pod}: nobody told {reason} {words}"));
    }

    async fn end(self) {
        self.pods().delete_collection(&DeleteParams::default(), &ListParams::default()).await.unwrap();
        self.group.drain(Duration::from_secs(10)).await;
        let stopped = stop_pods(&self.agent_dir()).await;
        let cleaned = clean(&self.agent_dir()).await;
        stopped.and(cleaned).unwrap();
    }
}

fn container(pod: &Pod) -> ContainerStatus {
    pod.status.iter().flat_map(|s| s.container_statuses.iter().flatten()).next().cloned().unwrap_or_default()
}

fn phase(pod: &Pod) -> &str {
    pod.status.as_ref().and_then(|s| s.phase.as_deref()).unwrap_or_default()
}

/// Reason and exit code of a container that has ended, now or before its last restart.
fn ended(pod: &Pod) -> Option<(String, i32)> {
    let status = container(pod);
    let state = status.state.and_then(|s| s.terminated).or(status.last_state.and_then(|s| s.terminated));
    state.map(|t| (t.reason.unwrap_or_default(), t.exit_code))
}

async fn in_a_house(checks: impl AsyncFnOnce(&TestKubelet)) {
    assert!(Path::new("/bin/busybox").exists(), "apt-get install busybox-static");
    let kubelet = TestKubelet::new().await;
    let checked = std::panic::AssertUnwindSafe(Box::pin(checks(&kubelet))).catch_unwind().await;
    kubelet.end().await;
    checked.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_ends_is_told_and_nothing_is_listed_for_it() {
    in_a_house(async |kubelet| {
        // Longer than the lists at the start go on: only events can tell of these ends.
        kubelet.pod("ends", "Never", "sleep 3; exit 3", json!({})).await;
        kubelet.pod("again", "Always", "sleep 3; exit 4", json!({})).await;
        let limits = json!({"resources": {"limits": {"memory": "24Mi"}}});
        kubelet.pod("eats", "Never", "sleep 3; x=0123456789abcdef; while true; do x=$x$x; done", limits.clone()).await;
        kubelet.pod("eats-again", "Always", "sleep 3; x=0123456789abcdef; while true; do x=$x$x; done", limits).await;
        let pod = kubelet.until("ends", |p| phase(p) == "Failed").await;
        assert_eq!(ended(&pod), Some(("Error".into(), 3)));
        kubelet.until("again", |p| container(p).restart_count >= 1).await;
        for eater in ["eats", "eats-again"] {
            let pod = kubelet.until(eater, |p| ended(p).is_some_and(|(reason, _)| reason == "OOMKilled")).await;
            assert_eq!(ended(&pod), Some(("OOMKilled".into(), 137)), "{eater}");
        }
        let metrics = &kubelet.agent.metrics;
        assert!(metrics.count(RELIST, "") <= 2, "the runtime was listed {} times", metrics.count(RELIST, ""));
        assert_eq!(metrics.count(POD_START, ""), 4);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_runtime_that_came_back_is_heard_again() {
    in_a_house(async |kubelet| {
        let more = json!({"volumeMounts": [{"name": "h", "mountPath": "/h"}]});
        for (name, file) in [("first", "a"), ("second", "b")] {
            kubelet.pod(name, "Never", &format!("while [ ! -e /h/{file} ]; do sleep 0.1; done; exit 7"), more.clone()).await;
            kubelet.until(name, |p| phase(p) == "Running").await;
        }
        let pid: i32 = std::fs::read_to_string(kubelet.agent_dir().join("run/containerd/containerd.pid")).unwrap().trim().parse().unwrap();
        rustix::process::kill_process(rustix::process::Pid::from_raw(pid).unwrap(), rustix::process::Signal::KILL).unwrap();
        // One ends while nobody listens, the other when containerd is back.
        std::fs::write(kubelet.dir.path().join("a"), "").unwrap();
        kubelet.until("first", |p| phase(p) == "Failed").await;
        let before = kubelet.agent.metrics.count(RELIST, "");
        std::fs::write(kubelet.dir.path().join("b"), "").unwrap();
        let pod = kubelet.until("second", |p| phase(p) == "Failed").await;
        assert_eq!(ended(&pod), Some(("Error".into(), 7)));
        assert!(kubelet.agent.metrics.count(RELIST, "") <= before + 1, "it is listed again and again");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_container_runs_while_the_other_is_pulled() {
    in_a_house(async |kubelet| {
        // A registry that never answers.
        let registry = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let image = format!("{}/x:1", registry.local_addr().unwrap());
        let spec = json!({"nodeName": NODE, "hostNetwork": true, "automountServiceAccountToken": false, "terminationGracePeriodSeconds": 1,
            "containers": [{"name": "a", "image": IMAGE, "command": ["sleep", "1000"]}, {"name": "b", "image": image}]});
        let pod: Pod = serde_json::from_value(json!({"metadata": {"name": "two"}, "spec": spec})).unwrap();
        kubelet.pods().create(&PostParams::default(), &pod).await.unwrap();
        let pod = kubelet.until("two", |p| container(p).state.is_some_and(|s| s.running.is_some())).await;
        let waits = pod.status.and_then(|s| s.container_statuses).unwrap().into_iter().find(|s| s.name == "b").unwrap();
        assert_eq!(waits.state.and_then(|s| s.waiting).and_then(|w| w.reason).as_deref(), Some("ContainerCreating"));
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_runs_with_the_handler_of_its_runtime_class_or_is_told_why_not() {
    in_a_house(async |kubelet| {
        let classes: Api<RuntimeClass> = Api::all(kubelet.admin.clone());
        for (name, handler) in [("plain", "runc"), ("other", "no-such-runtime"), ("gone", "runc")] {
            let class = json!({"metadata": {"name": name}, "handler": handler});
            classes.create(&PostParams::default(), &serde_json::from_value(class).unwrap()).await.unwrap();
            let spec = json!({"hostNetwork": true, "automountServiceAccountToken": false, "runtimeClassName": name,
                "terminationGracePeriodSeconds": 1, "containers": [{"name": "c", "image": IMAGE, "command": ["sleep", "1000"]}]});
            let pod: Pod = serde_json::from_value(json!({"metadata": {"name": name}, "spec": spec})).unwrap();
            kubelet.pods().create(&PostParams::default(), &pod).await.unwrap();
        }
        classes.delete("gone", &DeleteParams::default()).await.unwrap();
        for name in ["plain", "other", "gone"] {
            let binding =
                json!({"apiVersion": "v1", "kind": "Binding", "metadata": {"name": name}, "target": {"kind": "Node", "name": NODE}});
            let (pods, options) = (kubelet.pods(), PostParams::default());
            pods.create_subresource::<Value, Value>("binding", name, &options, &binding).await.unwrap();
        }
        kubelet.until("plain", |p| phase(p) == "Running").await;
        let sandboxes = kubelet.agent.runtime.list_pod_sandbox(cri::ListPodSandboxRequest::default()).await.unwrap().items;
        assert_eq!(sandboxes.iter().map(|sandbox| sandbox.runtime_handler.as_str()).collect::<Vec<_>>(), ["runc"]);
        for (pod, words) in [("other", "no runtime for \"no-such-runtime\""), ("gone", "runtimeclasses.node.k8s.io \"gone\" not found")] {
            kubelet.told(pod, "FailedCreatePodSandBox", words).await;
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_writes_more_than_it_may_is_evicted() {
    in_a_house(async |kubelet| {
        let rows = [
            ("volume", json!({"sizeLimit": "1Mi"}), json!({}), "Usage of EmptyDir volume \"e\" exceeds the limit \"1Mi\". "),
            (
                "logs",
                json!({}),
                json!({"limits": {"ephemeral-storage": "1Mi"}}),
                "Pod ephemeral local storage usage exceeds the total limit of containers 1Mi. ",
            ),
            // What is written to a container's own root file system is measured by the runtime, once in a minute.
            ("modest", json!({"sizeLimit": "8Mi"}), json!({"limits": {"ephemeral-storage": "16Mi"}}), ""),
        ];
        for (name, source, resources, _) in &rows {
            let script = "dd if=/dev/zero of=/e/a bs=1M count=2; dd if=/dev/zero bs=1M count=2 | tr '\\0' x | fold -w 200; sleep 1000";
            let container = json!({"name": "c", "image": IMAGE, "command": ["sh", "-c", script], "resources": resources,
                "volumeMounts": [{"name": "e", "mountPath": "/e"}]});
            let spec = json!({"nodeName": NODE, "hostNetwork": true, "automountServiceAccountToken": false, "terminationGracePeriodSeconds": 1000,
                "containers": [container], "volumes": [{"name": "e", "emptyDir": source}]});
            let pod: Pod = serde_json::from_value(json!({"metadata": {"name": name}, "spec": spec})).unwrap();
            kubelet.pods().create(&PostParams::default(), &pod).await.unwrap();
        }
        for (name, _, _, message) in rows.iter().filter(|(.., message)| !message.is_empty()) {
            let status = kubelet.until(name, |p| phase(p) == "Failed").await.status.unwrap();
            assert_eq!((status.reason.as_deref(), status.message.as_deref()), (Some("Evicted"), Some(*message)));
            kubelet.told(name, "Evicted", message).await;
        }
        assert_eq!(phase(&kubelet.pods().get("modest").await.unwrap()), "Running");
    })
    .await;
}
