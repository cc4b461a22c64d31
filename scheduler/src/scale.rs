//! What one event costs the scheduler at 1,000, 10,000 and 100,000 nodes with a pod on each: counted, not timed.

use std::{collections::BTreeMap, sync::Arc};

use api::{k8s::api::core::v1::Node, selector::Labels, steps};
use client::pods::Pod;
use serde_json::json;
use tokio::time::Instant;

use crate::{
    state::{State, Todo},
    tests::{node, pod},
};

const SIZES: [usize; 3] = [1_000, 10_000, 100_000];
const ZONES: usize = 10;

#[derive(Default)]
struct TestCluster {
    state: State,
    count: usize,
    template: Option<Arc<Pod>>,
}

type Costs = BTreeMap<&'static str, Vec<u64>>;

#[test]
fn one_event_costs_the_same_however_many_objects_there_are() {
    let (mut cluster, mut costs) = (TestCluster::default(), Costs::new());
    for size in SIZES {
        cluster.grow(size);
        cluster.measure(&mut costs);
    }
    costs.iter().for_each(|(event, costs)| steps::must_not_grow(event, costs));
}

impl TestCluster {
    fn grow(&mut self, size: usize) {
        if self.count == 0 {
            let only = self.even("only", Some("n0"));
            self.state.pod_changed(None, Some(&only));
        }
        while self.count < size {
            let at = self.count;
            self.state.node_changed(None, Some(&self.node(at)));
            let placed = self.pod(&format!("p{at}"), Some(&format!("n{at}")));
            self.state.pod_changed(None, Some(&placed));
            self.count += 1;
        }
        // What is remembered is brought up to date once, whoever asks first.
        for name in ["first", "second"] {
            let asking = self.pod(name, None);
            self.state.pod_changed(None, Some(&asking));
            self.decide();
            self.state.pod_changed(Some(&asking), None);
        }
        for asking in [self.large(0), self.even("first", None), self.even("second", None)] {
            self.state.pod_changed(None, Some(&asking));
            self.decide();
            self.state.pod_changed(Some(&asking), None);
        }
    }

    fn measure(&mut self, costs: &mut Costs) {
        let mut cost = |event: &'static str, happens: &mut dyn FnMut()| costs.entry(event).or_default().push(steps::of(happens).1);
        let waits = self.pod("new", None);
        let mut chosen = String::new();
        cost("a pod is made, and gets a node", &mut || {
            self.state.pod_changed(None, Some(&waits));
            chosen = self.decide().expect("there is room");
        });
        let bound = self.pod("new", Some(&chosen));
        cost("it shows itself bound", &mut || self.state.pod_changed(Some(&waits), Some(&bound)));
        cost("it changes", &mut || self.state.pod_changed(Some(&bound), Some(&bound)));
        let pinned = self.pinned(self.count - 1, "10m");
        cost("a pod that names its node gets it", &mut || {
            self.state.pod_changed(None, Some(&pinned));
            chosen = self.decide().expect("there is room");
        });
        assert_eq!(chosen, format!("n{}", self.count - 1));
        self.state.pod_changed(Some(&pinned), None);
        let full = self.pinned(self.count - 2, "100");
        cost("a pod that names its node does not fit there", &mut || {
            self.state.pod_changed(None, Some(&full));
            assert_eq!(self.decide(), None);
        });
        self.state.pod_changed(Some(&full), None);
        let large = self.large(self.count);
        cost("a pod fits nowhere", &mut || {
            self.state.pod_changed(None, Some(&large));
            assert_eq!(self.decide(), None);
        });
        self.state.pod_changed(Some(&large), None);
        let even = self.even("even", None);
        cost("a pod must be spread, and the best nodes are in a zone that is full", &mut || {
            self.state.pod_changed(None, Some(&even));
            chosen = self.decide().expect("there is room");
        });
        assert!(!chosen.ends_with('0'), "{chosen} is in the zone that has one already");
        self.state.pod_changed(Some(&even), None);
        cost("a pod is gone", &mut || self.state.pod_changed(Some(&bound), None));
        let node = self.node(1);
        cost("a node reports", &mut || self.state.node_changed(Some(&node), Some(&node)));
        let joins = self.node(self.count + 1);
        cost("a node joins", &mut || self.state.node_changed(None, Some(&joins)));
        let next = self.pod("next", None);
        cost("and the next pod gets a node", &mut || {
            self.state.pod_changed(None, Some(&next));
            self.decide().expect("there is room");
        });
        cost("a node is gone", &mut || self.state.node_changed(Some(&joins), None));
        self.state.pod_changed(Some(&next), None);
    }

    /// The node that the next pod gets.
    fn decide(&mut self) -> Option<String> {
        let siblings = |_: &Pod| Some(Labels::parse("app=web").unwrap());
        match self.state.next(Instant::now(), siblings, 5)? {
            Todo::Bind(binding) => Some(binding.node),
            _ => None,
        }
    }

    fn node(&self, at: usize) -> Arc<Node> {
        let name = format!("n{at}");
        let labels = json!({"kubernetes.io/hostname": name, "topology.kubernetes.io/zone": format!("z{}", at % ZONES)});
        // Those of the first zone are the emptiest.
        let allocatable = json!({"cpu": if at.is_multiple_of(ZONES) { "8" } else { "4" }, "memory": "8Gi", "pods": "110"});
        Arc::new(node(&json!({"metadata": {"name": name, "labels": labels}, "status": {"allocatable": allocatable}})))
    }

    fn pod(&mut self, name: &str, node: Option<&str>) -> Arc<Pod> {
        let said = || json!({"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "c", "resources": {"requests": {"cpu": "10m"}}}]}});
        let mut made = (**self.template.get_or_insert_with(|| pod(&said()).pod)).clone();
        (made.metadata.name, made.metadata.uid) = (Some(name.to_owned()), Some(name.to_owned()));
        if let Some(spec) = &mut made.spec {
            spec.node_name = node.map(str::to_owned);
        }
        Arc::new(made)
    }

    /// One whose like are to be as many in each zone.
    fn even(&self, name: &str, node: Option<&str>) -> Arc<Pod> {
        let labels = json!({"app": "even"});
        let constraint = json!({"maxSkew": 1, "topologyKey": "topology.kubernetes.io/zone", "whenUnsatisfiable": "DoNotSchedule", "labelSelector": {"matchLabels": labels}});
        let metadata = json!({"name": name, "uid": name, "labels": labels});
        pod(&json!({"metadata": metadata, "spec": {"nodeName": node, "topologySpreadConstraints": [constraint]}})).pod
    }

    /// As a `DaemonSet` makes it.
    fn pinned(&self, node: usize, cpu: &str) -> Arc<Pod> {
        let term = json!({"matchFields": [{"key": "metadata.name", "operator": "In", "values": [format!("n{node}")]}]});
        let affinity = json!({"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [term]}}});
        let name = format!("pinned-{node}");
        pod(&json!({"metadata": {"name": name, "uid": name, "labels": {"app": "web"}},
            "spec": {"affinity": affinity, "containers": [{"name": "c", "resources": {"requests": {"cpu": cpu}}}]}}))
        .pod
    }

    fn large(&self, number: usize) -> Arc<Pod> {
        pod(&json!({"metadata": {"name": format!("large-{number}"), "uid": format!("large-{number}")},
            "spec": {"containers": [{"name": "c", "resources": {"requests": {"cpu": "100"}}}]}}))
        .pod
    }
}
