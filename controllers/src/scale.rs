//! What one event costs the controllers of the table at 1,000, 10,000 and 100,000 pods: counted, not timed.

use std::{cell::RefCell, collections::BTreeMap, rc::Rc, sync::Arc};

use api::{
    k8s::{
        api::{
            apps::v1::{Deployment, ReplicaSet},
            batch::v1::Job,
            coordination::v1::Lease,
            core::v1::{Namespace, Node, ResourceQuota, Service},
            discovery::v1::{Endpoint, EndpointSlice},
            policy::v1::PodDisruptionBudget,
        },
        apimachinery::pkg::apis::meta::v1::Time,
    },
    steps,
    task::Group,
    time::Timestamp,
};
use client::{
    Cache, Caches, Object, kube,
    pods::{Pod, PodCondition, PodStatus, Shared, SharedMeta},
};
use futures::future::LocalBoxFuture;
use reconcile::{Controller, Still};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::{Config, Entry, Start, TABLE, census::Census, owned::Owned, services::Selected};

const SIZES: [usize; 3] = [1_000, 10_000, 100_000];
const NAMESPACE: &str = "crowd";
const ON_A_NODE: usize = 20;
const IN_A_SLICE: usize = 100;
/// The last digit of those behind the service.
const FRONT: usize = 7;

/// Loops by component, instead of their runners.
pub type Stills = Rc<RefCell<Vec<(&'static str, Rc<dyn Driven>)>>>;

pub trait Driven {
    fn run(&self) -> LocalBoxFuture<'_, u64>;
}

impl<C: Controller> Driven for Still<C> {
    fn run(&self) -> LocalBoxFuture<'_, u64> {
        Box::pin(Still::run(self))
    }
}

/// One set of pods, a tenth of them behind a service and under a budget, the nodes they are on, and pods of nobody's beside them.
struct World {
    stills: Stills,
    pods: Cache<Pod>,
    nodes: Cache<Node>,
    leases: Cache<Lease>,
    slices: Cache<EndpointSlice>,
    sets: Cache<ReplicaSet>,
    template: Pod,
    count: usize,
    revision: u64,
}

/// By event, by component: the cost at each size.
type Costs = BTreeMap<(&'static str, &'static str), Vec<u64>>;

#[tokio::test]
async fn one_event_costs_the_same_however_many_objects_there_are() {
    let mut world = World::new();
    let mut costs = Costs::new();
    for size in SIZES {
        world.grow(size).await;
        world.measure(&mut costs).await;
    }
    for ((event, component), costs) in costs {
        steps::must_not_grow(&format!("{event}, {component}"), &costs);
    }
}

fn of<T: DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).unwrap()
}

impl World {
    fn new() -> Self {
        let nobody = tower::service_fn(|_: http::Request<kube::client::Body>| async {
            let answer = http::Response::builder().status(404).body(kube::client::Body::empty());
            Ok::<_, std::convert::Infallible>(answer.unwrap())
        });
        let client = kube::Client::new(nobody, "default");
        let (group, stills) = (Group::new(), Stills::default());
        let caches = Caches::unfollowed(client.clone(), group.clone());
        let config = crate::Config::of_tests();
        let (on_node, users) = (crate::index::by_node(&caches.of()), crate::index::by_claim(&caches.of()));
        let start = Start {
            config: &config,
            caches: &caches,
            clients: &|_| client.clone(),
            group: &group,
            owned: Owned::new(&caches.of()),
            selected: Arc::new(Selected::new(&caches)),
            on_node: on_node.clone(),
            users: users.clone(),
            shelf: crate::persistentvolume::Shelf::of(&caches.of(), &caches.of()),
            attached: crate::attachdetach::View::new(&caches, &users, &on_node),
            census: Census::default(),
            stills: Some(stills.clone()),
        };
        TABLE.iter().for_each(|&(account, component, begin)| begin(&Entry { start: &start, account, component }));
        let template = of(json!({
            "metadata": {"namespace": NAMESPACE, "labels": {"app": "web", "pod-template-hash": "h"}, "ownerReferences": [owner("ReplicaSet", "web-h", "set")]},
            "spec": {"containers": [{"name": "c", "image": "i"}]},
        }));
        let (pods, nodes, leases, slices) = (caches.of(), caches.of(), caches.of(), caches.of());
        let world = Self { stills, pods, nodes, leases, slices, sets: caches.of(), template, count: 0, revision: 0 };
        caches
            .of::<Namespace>()
            .feed(of(json!({"metadata": {"name": NAMESPACE, "resourceVersion": "1"}, "status": {"phase": "Active"}})), false);
        world.owners(&caches);
        world
    }

    /// They want a few pods more than there are.
    fn owners(&self, caches: &Caches) {
        let labels = json!({"app": "web"});
        let spec = json!({"replicas": 1, "selector": {"matchLabels": labels}, "template": {"metadata": {"labels": labels}}});
        let named = |name: &str, uid: &str| json!({"name": name, "namespace": NAMESPACE, "uid": uid, "resourceVersion": "1"});
        caches.of::<Deployment>().feed(of(json!({"metadata": named("web", "deployment"), "spec": spec})), false);
        let mut set = json!({"metadata": named("web-h", "set"), "spec": spec});
        set["metadata"]["ownerReferences"] = json!([owner("Deployment", "web", "deployment")]);
        set["metadata"]["labels"] = labels.clone();
        self.sets.feed(of(set), false);
        let service = json!({"metadata": named("web", "service"), "spec": {"clusterIP": "10.96.0.9", "selector": {"tier": "front"}, "ports": [{"port": 80}]}});
        caches.of::<Service>().feed(of(service), false);
        let quota = json!({"metadata": named("all", "quota"), "spec": {"hard": {"pods": "1000000", "requests.cpu": "1k"}}});
        caches.of::<ResourceQuota>().feed(of(quota), false);
        let template = json!({"metadata": {"labels": {"job": "sum"}}, "spec": {"containers": []}});
        let spec = json!({"parallelism": 1, "completions": 5, "selector": {"matchLabels": {"job": "sum"}}, "template": template});
        caches.of::<Job>().feed(of(json!({"metadata": named("sum", "job"), "spec": spec})), false);
        let budget =
            json!({"metadata": named("web", "budget"), "spec": {"maxUnavailable": "10%", "selector": {"matchLabels": {"tier": "front"}}}});
        caches.of::<PodDisruptionBudget>().feed(of(budget), false);
    }

    async fn grow(&mut self, size: usize) {
        while self.count < size {
            let at = self.count;
            if at.is_multiple_of(ON_A_NODE) {
                let name = format!("n{}", at / ON_A_NODE);
                let (node, lease) = (self.node(&name), self.lease(&name));
                feed(&self.nodes, node);
                feed(&self.leases, lease);
            }
            let pod = self.pod(at, true);
            feed(&self.pods, pod);
            if at.is_multiple_of(10 * IN_A_SLICE) {
                let slice = self.slice(at / 10 / IN_A_SLICE);
                feed(&self.slices, slice);
            }
            if at.is_multiple_of(10) {
                let mut alone = self.pod(at, true);
                alone.metadata.name = Some(format!("alone-{at}"));
                let labels = Some([("app".to_owned(), "alone".to_owned())].into());
                alone.metadata.shared = Shared::new(SharedMeta { labels, ..SharedMeta::default() });
                feed(&self.pods, alone);
            }
            self.count += 1;
        }
        let mut set = (*self.sets.get(&api::Key::new(NAMESPACE, "web-h")).unwrap()).clone();
        self.touch(&mut set.metadata.resource_version);
        set.spec.as_mut().unwrap().replicas = i32::try_from(size + 10).ok();
        feed(&self.sets, set);
        self.settle().await;
    }

    /// Events of every kind, each at what there was first, and undone.
    async fn measure(&mut self, costs: &mut Costs) {
        let (waiting, ready) = (self.pod(FRONT, false), self.pod(FRONT, true));
        self.cost("a pod is not ready", costs, |w| feed(&w.pods, waiting)).await;
        self.cost("a pod is ready", costs, |w| feed(&w.pods, ready)).await;
        let mut fresh = self.pod(self.count + FRONT, false);
        fresh.spec.as_mut().unwrap().node_name = None;
        self.cost("a pod is made", costs, |w| feed(&w.pods, fresh.clone())).await;
        self.touch(&mut fresh.metadata.resource_version);
        fresh.spec.as_mut().unwrap().node_name = Some("n0".into());
        self.cost("a pod is bound", costs, |w| feed(&w.pods, fresh.clone())).await;
        self.touch(&mut fresh.metadata.resource_version);
        fresh.metadata.deletion_timestamp = Some(Time(Timestamp::UNIX_EPOCH));
        self.cost("a pod is to go", costs, |w| feed(&w.pods, fresh.clone())).await;
        self.cost("a pod is gone", costs, |w| w.pods.feed(fresh, true)).await;
        let mut alone = (*self.pods.get(&api::Key::new(NAMESPACE, "alone-0")).unwrap()).clone();
        self.touch(&mut alone.metadata.resource_version);
        self.cost("a pod of nobody's changes", costs, |w| feed(&w.pods, alone)).await;
        let mut ends = self.pod(FRONT, true);
        ends.metadata.name = Some("job-0".into());
        ends.metadata.uid = Some("job-0".into());
        ends.metadata.finalizers = Some(vec!["batch.kubernetes.io/job-tracking".into()]);
        let labels = Some([("job".to_owned(), "sum".to_owned())].into());
        let mut owner = owner("Job", "sum", "job");
        owner["apiVersion"] = "batch/v1".into();
        let owner_references = Some(vec![of(owner)]);
        ends.metadata.shared = Shared::new(SharedMeta { labels, owner_references, ..SharedMeta::default() });
        self.cost("a pod of a Job runs", costs, |w| feed(&w.pods, ends.clone())).await;
        self.touch(&mut ends.metadata.resource_version);
        ends.status.as_mut().unwrap().phase = Some("Succeeded".into());
        self.cost("a pod of a Job ends", costs, |w| feed(&w.pods, ends.clone())).await;
        self.cost("a pod of a Job is gone", costs, |w| w.pods.feed(ends, true)).await;
        let (node, lease, slice) = (self.node("n1"), self.lease("n1"), self.slice(0));
        self.cost("a node reports", costs, |w| feed(&w.nodes, node)).await;
        self.cost("a lease is renewed", costs, |w| feed(&w.leases, lease)).await;
        self.cost("a slice changes", costs, |w| feed(&w.slices, slice)).await;
        let joins = self.node("joins");
        self.cost("a node joins", costs, |w| feed(&w.nodes, joins.clone())).await;
        self.cost("a node is gone", costs, |w| w.nodes.feed(joins, true)).await;
        let mut set = (*self.sets.get(&api::Key::new(NAMESPACE, "web-h")).unwrap()).clone();
        self.touch(&mut set.metadata.resource_version);
        self.cost("a set changes", costs, |w| feed(&w.sets, set)).await;
    }

    async fn cost(&mut self, event: &'static str, costs: &mut Costs, happens: impl FnOnce(&mut Self)) {
        let ((), heard) = steps::of(|| happens(self));
        costs.entry((event, "all that listen")).or_default().push(heard);
        let stills = self.loops();
        let mut by_component: BTreeMap<&'static str, u64> = BTreeMap::new();
        for (component, still) in &stills {
            *by_component.entry(component).or_default() += still.run().await;
        }
        for (component, cost) in by_component {
            costs.entry((event, component)).or_default().push(cost);
        }
    }

    fn loops(&self) -> Vec<(&'static str, Rc<dyn Driven>)> {
        self.stills.borrow().clone()
    }

    async fn settle(&self) {
        for (_, still) in self.loops() {
            still.run().await;
        }
    }

    fn touch(&mut self, version: &mut Option<String>) {
        self.revision += 1;
        *version = Some((self.revision + 10).to_string());
    }

    fn pod(&mut self, at: usize, ready: bool) -> Pod {
        let mut pod = self.template.clone();
        let address = format!("10.{}.{}.{}", at >> 16, at >> 8 & 255, at & 255);
        pod.metadata.name = Some(format!("web-h-{at}"));
        pod.metadata.uid = Some(format!("pod-{at}"));
        self.touch(&mut pod.metadata.resource_version);
        if at % 10 == FRONT {
            let mut shared = (*pod.metadata.shared).clone();
            shared.labels.get_or_insert_default().insert("tier".into(), "front".into());
            pod.metadata.shared = Shared::new(shared);
        }
        pod.spec.as_mut().unwrap().node_name = Some(format!("n{}", at / ON_A_NODE));
        let condition = PodCondition {
            type_: "Ready".into(),
            status: if ready { "True" } else { "False" }.into(),
            last_transition_time: Some(Time(Timestamp::UNIX_EPOCH)),
            ..PodCondition::default()
        };
        pod.status = Some(PodStatus {
            phase: Some("Running".into()),
            pod_ip: Some(address),
            conditions: Some(vec![condition]),
            ..PodStatus::default()
        });
        pod
    }

    fn node(&mut self, name: &str) -> Node {
        let now = api::time::rfc3339(Timestamp::now());
        let ready = json!({"type": "Ready", "status": "True", "lastHeartbeatTime": now, "lastTransitionTime": now});
        let range = format!("10.{}.0.0/24", name.len());
        let mut node: Node =
            of(json!({"metadata": {"name": name, "uid": name}, "spec": {"podCIDRs": [range]}, "status": {"conditions": [ready]}}));
        self.touch(&mut node.metadata.resource_version);
        node
    }

    fn lease(&mut self, name: &str) -> Lease {
        let now = format!("{}.000000Z", api::time::rfc3339(Timestamp::now()).trim_end_matches('Z'));
        let mut lease: Lease = of(json!({"metadata": {"name": name, "namespace": "kube-node-lease"}, "spec": {"renewTime": now}}));
        self.touch(&mut lease.metadata.resource_version);
        lease
    }

    fn slice(&mut self, number: usize) -> EndpointSlice {
        let endpoint = |at: usize| Endpoint {
            addresses: vec![format!("10.{}.{}.{}", at >> 16, at >> 8 & 255, at & 255)],
            target_ref: Some(of(json!({"kind": "Pod", "name": format!("web-h-{at}"), "uid": format!("pod-{at}")}))),
            ..Endpoint::default()
        };
        let labels =
            json!({"kubernetes.io/service-name": "web", "endpointslice.kubernetes.io/managed-by": "endpointslice-controller.k8s.io"});
        let name = format!("web-{number}");
        let mut slice: EndpointSlice = of(json!({
            "metadata": {"name": name, "namespace": NAMESPACE, "labels": labels}, "addressType": "IPv4", "endpoints": [],
            "ports": [{"name": "", "port": 80, "protocol": "TCP"}],
        }));
        slice.endpoints = Some((number * IN_A_SLICE..(number + 1) * IN_A_SLICE).map(|nth| endpoint(nth * 10 + FRONT)).collect());
        self.touch(&mut slice.metadata.resource_version);
        slice
    }
}

fn feed<K: Object>(cache: &Cache<K>, object: K) {
    cache.feed(object, false);
}

fn owner(kind: &str, name: &str, uid: &str) -> Value {
    json!({"apiVersion": "apps/v1", "kind": kind, "name": name, "uid": uid, "controller": true})
}

impl Config {
    pub fn of_tests() -> Self {
        Self {
            cluster_cidrs: vec!["10.0.0.0/8".parse().unwrap()],
            root_ca: String::new(),
            authority: Arc::new(crate::certificates::tests::Plain),
            signing_seconds: crate::SIGNING_SECONDS,
            reserved: crate::Reserved::default(),
            nodes: crate::NodeConfig::default(),
            clock: client::leader::Clock::default(),
            terminated_pods_max: 0,
            autoscalers: crate::AutoscalerConfig::default(),
        }
    }
}
