//! Controllers beside the real API server over the memory store: garbage when it cannot learn what the server serves, conditions of pods that go,
//! machines that join, quotas, DaemonSets, StatefulSets, Jobs, claims and volumes, autoscalers.

mod jobs;
mod joining;
mod quota;
mod scaling;
mod sets;
mod storage;

use std::{
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use api::{
    Status,
    k8s::api::{
        core::v1::{ConfigMap, Node, Pod, Service},
        networking::v1::ServiceCIDR,
    },
    task::Group,
};
use apiserver::{
    body::Response,
    certs::{Certs, request},
    serve::status_response,
};
use client::kube::{
    Api, Client, ResourceExt,
    api::{DeleteParams, Patch, PatchParams, PostParams},
    client::Body,
};
use client::leader::Clock;
use door::{Door, until};
use futures::future::BoxFuture;
use http::Request;
use serde_json::json;
use tower::ServiceExt;

/// Questions of discovery that come to nothing: the first of the first attempt, and the second of the second.
const FAILING: [usize; 2] = [0, 2];

/// The server, for somebody to whom it does not tell at first what it serves; how often it was asked for that.
fn silent_at_first(door: &Door, name: &str, groups: &[&str]) -> (Client, Arc<AtomicUsize>) {
    let (server, asked) = (door.service(name, groups), Arc::<AtomicUsize>::default());
    let count = asked.clone();
    let service = tower::service_fn(move |request: Request<Body>| {
        let is_discovery = matches!(request.uri().path(), "/api" | "/apis");
        let fails = is_discovery && FAILING.contains(&count.fetch_add(usize::from(is_discovery), Ordering::SeqCst));
        let server = server.clone();
        let answer: BoxFuture<'static, Result<Response, Infallible>> = if fails {
            Box::pin(std::future::ready(Ok(status_response(&Status::unavailable("not yet")))))
        } else {
            Box::pin(server.oneshot(request))
        };
        answer
    });
    (Client::new(service, "default"), asked)
}

const GROUPS: [&str; 2] = ["system:serviceaccounts", "system:serviceaccounts:kube-system"];

fn account(name: &str) -> String {
    format!("system:serviceaccount:kube-system:{name}")
}

struct Ca(Arc<Certs>);

impl std::fmt::Debug for Ca {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Ca(..)")
    }
}

impl controllers::Authority for Ca {
    fn look(&self, pem: &[u8]) -> Result<api::csr::Requested, String> {
        request::look(pem)
    }

    fn sign(&self, pem: &[u8], usages: &[String], seconds: u64) -> Result<String, String> {
        self.0.sign(pem, usages, seconds)
    }
}

/// All controllers, each with the client of its name.
fn start(door: &Door, group: &Group, clients: &dyn Fn(&str) -> Client) {
    let caches = client::Caches::new(door.client("system:kube-controller-manager", &[]), group.clone());
    let config = controllers::Config {
        cluster_cidrs: vec!["10.244.0.0/16".parse().unwrap(), "fd00:244::/48".parse().unwrap()],
        root_ca: "the authority".into(),
        authority: Arc::new(Ca(door.certs.clone())),
        signing_seconds: controllers::SIGNING_SECONDS,
        reserved: controllers::Reserved::default(),
        nodes: controllers::NodeConfig::default(),
        clock: Clock::default(),
        terminated_pods_max: controllers::TERMINATED_PODS_MAX,
        autoscalers: controllers::AutoscalerConfig { sync_period: Duration::from_millis(150), ..Default::default() },
    };
    controllers::start(&config, &caches, clients, group);
}

async fn make(maps: &Api<ConfigMap>, name: &str, owner: Option<&ConfigMap>) -> ConfigMap {
    let references: Vec<_> = owner
        .map(|owner| json!({"apiVersion": "v1", "kind": "ConfigMap", "name": owner.name_any(), "uid": owner.uid()}))
        .into_iter()
        .collect();
    let map = serde_json::from_value(json!({"metadata": {"name": name, "ownerReferences": references}})).unwrap();
    maps.create(&PostParams::default(), &map).await.unwrap()
}

#[tokio::test]
async fn collection_works_after_a_discovery_that_failed() {
    let group = Group::new();
    let door = Door::new(&group).await;
    let maps = Api::<ConfigMap>::namespaced(door.admin(), "default");
    let owner = make(&maps, "owner", None).await;
    make(&maps, "dependent", Some(&owner)).await;
    make(&maps, "other", None).await;
    let (silent, asked) = silent_at_first(&door, &account("generic-garbage-collector"), &GROUPS);
    start(&door, &group, &|name| if name == "generic-garbage-collector" { silent.clone() } else { door.client(&account(name), &GROUPS) });
    until("the first discovery fails", async || (asked.load(Ordering::SeqCst) > 0).then_some(())).await;
    maps.delete("owner", &DeleteParams::background()).await.unwrap();
    until("the dependent goes", async || maps.get_opt("dependent").await.unwrap().is_none().then_some(())).await;
    assert!(asked.load(Ordering::SeqCst) > FAILING[1] + 1, "two attempts failed, another one did not");
    assert!(maps.get_opt("other").await.unwrap().is_some());
    assert_eq!(group.fault(), None);
    group.stop();
}

#[tokio::test]
async fn a_node_gets_a_range_of_each_family() {
    let group = Group::new();
    let door = Door::new(&group).await;
    start(&door, &group, &|name| door.client(&account(name), &GROUPS));
    let nodes = Api::<Node>::all(door.admin());
    let node = serde_json::from_value(json!({"metadata": {"name": "n"}})).unwrap();
    nodes.create(&PostParams::default(), &node).await.unwrap();
    let spec = until("the node has ranges", async || nodes.get("n").await.unwrap().spec.filter(|spec| spec.pod_cidr.is_some())).await;
    assert_eq!(spec.pod_cidr.as_deref(), Some("10.244.0.0/24"));
    assert_eq!(spec.pod_cidrs.unwrap(), ["10.244.0.0/24", "fd00:244::/64"]);
    group.stop();
}

#[tokio::test]
async fn who_marks_a_pod_leaves_its_other_conditions() {
    let group = Group::new();
    let door = Door::new(&group).await;
    door.make_account().await;
    start(&door, &group, &|name| door.client(&account(name), &GROUPS));
    let (nodes, pods) = (Api::<Node>::all(door.admin()), Api::<Pod>::namespaced(door.admin(), "default"));
    let node = serde_json::from_value(json!({"metadata": {"name": "n"}})).unwrap();
    nodes.create(&PostParams::default(), &node).await.unwrap();
    let pod = json!({"metadata": {"name": "p"}, "spec": {"nodeName": "n", "containers": [{"name": "c", "image": "i"}]}});
    pods.create(&PostParams::default(), &serde_json::from_value(pod).unwrap()).await.unwrap();
    let told = [json!({"type": "Initialized", "status": "True", "message": "m"}), json!({"type": "Ready", "status": "False"})];
    let status = Patch::Strategic(json!({"status": {"phase": "Running", "conditions": told}}));
    pods.patch_status("p", &PatchParams::default(), &status).await.unwrap();
    let taint = json!({"spec": {"taints": [{"key": "k", "effect": "NoExecute"}]}});
    nodes.patch("n", &PatchParams::default(), &Patch::Strategic(taint)).await.unwrap();
    let gone = until("the pod is to go", async || {
        let pod = pods.get("p").await.unwrap();
        pod.metadata.deletion_timestamp.is_some().then_some(pod)
    })
    .await;
    let conditions = gone.status.unwrap().conditions.unwrap();
    let of = |kind: &str| conditions.iter().find(|condition| condition.type_ == kind);
    assert_eq!(of("Initialized").unwrap().message.as_deref(), Some("m"), "{conditions:?}");
    assert!(of("Ready").is_some(), "{conditions:?}");
    let target = of("DisruptionTarget").unwrap();
    // Its deletion came after that, and is another generation.
    assert_eq!((target.reason.as_deref(), target.observed_generation), (Some("DeletionByTaintManager"), Some(1)));
    group.stop();
}

#[tokio::test]
async fn a_range_stays_while_a_service_has_an_address_of_it() {
    let group = Group::new();
    let door = Door::new(&group).await;
    start(&door, &group, &|name| door.client(&account(name), &GROUPS));
    let (ranges, services) = (Api::<ServiceCIDR>::all(door.admin()), Api::<Service>::namespaced(door.admin(), "default"));
    let range = serde_json::from_value(json!({"metadata": {"name": "more"}, "spec": {"cidrs": ["10.97.0.0/24"]}})).unwrap();
    ranges.create(&PostParams::default(), &range).await.unwrap();
    let is_ready = |range: &ServiceCIDR, wanted: &str, reason: &str| {
        let conditions = range.status.iter().flat_map(|status| status.conditions.iter().flatten());
        conditions.into_iter().any(|c| c.type_ == "Ready" && c.status == wanted && c.reason == reason)
    };
    until("the range is held and ready", async || {
        let range = ranges.get("more").await.unwrap();
        (range.finalizers() == ["networking.k8s.io/service-cidr-finalizer"] && is_ready(&range, "True", "")).then_some(())
    })
    .await;
    let service = |name: &str, address: &str| -> Service {
        serde_json::from_value(json!({"metadata": {"name": name}, "spec": {"clusterIP": address, "ports": [{"port": 80}]}})).unwrap()
    };
    services.create(&PostParams::default(), &service("web", "10.97.0.5")).await.unwrap();
    ranges.delete("more", &DeleteParams::default()).await.unwrap();
    until("the range is held by the address", async || is_ready(&ranges.get("more").await.unwrap(), "False", "Terminating").then_some(()))
        .await;
    let refused = services.create(&PostParams::default(), &service("late", "10.97.0.6")).await.unwrap_err();
    assert!(refused.to_string().contains("is not in the valid range"), "{refused}");
    services.delete("web", &DeleteParams::default()).await.unwrap();
    until("the range goes", async || ranges.get_opt("more").await.unwrap().is_none().then_some(())).await;
    assert_eq!(group.fault(), None);
    group.stop();
}
