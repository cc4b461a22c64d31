//! What the tests of this crate share: objects from JSON, and a small cluster to ask.

use std::sync::Arc;

use api::k8s::api::core::v1::Node;
use client::pods::Pod;
use proptest::prelude::*;
use serde_json::{Value, json};

use crate::{
    framework::{Ask, Cycle, Memo, Plugin, Plugins},
    node::{Facts, NodeInfo},
    plan::{Outcome, plan},
    plugins::PLUGINS,
    pod::PodInfo,
    snapshot::Snapshot,
};

/// A snapshot, planned on as the scheduling loop does.
pub struct TestCluster {
    pub snapshot: Snapshot,
    plugins: Plugins,
    memo: Memo,
}

impl Default for TestCluster {
    fn default() -> Self {
        Self::new(PLUGINS)
    }
}

/// What one plugin makes of a pod before nodes are filtered.
pub fn asked(plugin: &'static dyn Plugin, said: &Value) -> Ask {
    Ask::new(Box::leak(Box::new([plugin])), &mut Snapshot::default(), Arc::new(pod(said)), None)
}

/// A pod in namespace `default`, named `p` with a uid unless it says otherwise.
pub fn pod(said: &Value) -> PodInfo {
    let mut whole =
        json!({"metadata": {"name": "p", "namespace": "default", "uid": "u"}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
    merge(&mut whole, said);
    PodInfo::new(&Arc::new(serde_json::from_value::<Pod>(whole).unwrap()))
}

pub fn node(said: &Value) -> Node {
    serde_json::from_value(said.clone()).unwrap()
}

/// A node without pods.
pub fn node_info(said: &Value) -> NodeInfo {
    NodeInfo { facts: Arc::new(Facts::new(&node(said))), exists: true, ..NodeInfo::default() }
}

impl TestCluster {
    pub fn new(plugins: Plugins) -> Self {
        Self { plugins, snapshot: Snapshot::default(), memo: Memo::default() }
    }

    /// A node with 4 cores, 8 GiB and room for 10 pods; labels that are null are left out.
    pub fn node(&mut self, name: &str, mut labels: Value) {
        labels["kubernetes.io/hostname"] = name.into();
        labels.as_object_mut().unwrap().retain(|_, v| !v.is_null());
        let allocatable = json!({"cpu": "4", "memory": "8Gi", "pods": "10"});
        self.set(&json!({"metadata": {"name": name, "labels": labels}, "status": {"allocatable": allocatable}}));
    }

    pub fn set(&mut self, said: &Value) {
        self.snapshot.set_node(Facts::new(&node(said)));
    }

    pub fn bound(&mut self, name: &str, node: &str, mut said: Value) {
        said["metadata"]["name"] = name.into();
        self.snapshot.put_pod(Arc::new(pod(&said)), node);
    }

    pub fn unbound(&mut self, name: &str) {
        self.snapshot.take_pod(&api::Key::new("default", name));
    }

    pub fn nominate(&mut self, said: &Value, node: &str) {
        self.snapshot.nominate(&Arc::new(pod(said)), Some(node));
    }

    pub fn plan(&mut self, said: &Value, random: u64) -> Outcome {
        self.plan_with(said, random, None)
    }

    pub fn plan_with(&mut self, said: &Value, random: u64, siblings: Option<api::selector::Labels>) -> Outcome {
        let ask = Ask::new(self.plugins, &mut self.snapshot, Arc::new(pod(said)), siblings.as_ref());
        let class = self.memo.class(&self.snapshot, &ask);
        plan(&self.snapshot, class, &ask, random)
    }

    /// Each node's first reason against the pod.
    pub fn refusals(&mut self, said: &Value) -> Vec<(String, Option<String>)> {
        let ask = Ask::new(self.plugins, &mut self.snapshot, Arc::new(pod(said)), None);
        let class = self.memo.class(&self.snapshot, &ask);
        // The plugins at hand are not about room.
        let cycle = Cycle::new(&self.snapshot, class, &ask);
        let told = |node: &NodeInfo| (node.name().to_owned(), cycle.filter_with_nominated_pods(node).map(|r| r.reasons.join(", ")));
        self.snapshot.nodes().map(told).collect()
    }

    pub fn fitting(&mut self, said: &Value) -> Vec<String> {
        self.refusals(said).into_iter().filter(|(_, refusal)| refusal.is_none()).map(|(node, _)| node).collect()
    }

    /// The nodes that fit, with all scores of all plugins: nothing is left out because it would make no difference.
    fn totals(&mut self, said: &Value) -> Vec<(String, i64)> {
        let ask = Ask::new(self.plugins, &mut self.snapshot, Arc::new(pod(said)), None);
        let class = self.memo.class(&self.snapshot, &ask);
        let cycle = Cycle::new(&self.snapshot, class, &ask);
        let fitting: Vec<&NodeInfo> = self.snapshot.nodes().filter(|node| cycle.filter_with_nominated_pods(node).is_none()).collect();
        let nodes: Vec<usize> = fitting.iter().map(|node| node.slot).collect();
        let mut totals = vec![0; nodes.len()];
        for plugin in PLUGINS.iter().filter(|p| p.weight() > 0) {
            let mut scores: Vec<i64> = fitting.iter().map(|node| plugin.score(&ask.info, node, &self.snapshot)).collect();
            plugin.normalize_score(&cycle, &nodes, &mut scores);
            totals.iter_mut().zip(scores).for_each(|(total, score)| *total += plugin.weight() * score);
        }
        fitting.iter().map(|node| node.name().to_owned()).zip(totals).collect()
    }

    pub fn scores(&mut self, plugin: &dyn Plugin, said: &Value) -> Vec<(String, i64)> {
        let ask = Ask::new(self.plugins, &mut self.snapshot, Arc::new(pod(said)), None);
        let class = self.memo.class(&self.snapshot, &ask);
        let cycle = Cycle::new(&self.snapshot, class, &ask);
        let at = PLUGINS.iter().position(|p| p.name() == plugin.name()).unwrap();
        let nodes: Vec<usize> = self.snapshot.nodes().map(|r| r.slot).collect();
        let mut scores: Vec<i64> = nodes.iter().map(|slot| class.score(*slot, at)).collect();
        plugin.normalize_score(&cycle, &nodes, &mut scores);
        self.snapshot.nodes().map(|r| r.name().to_owned()).zip(scores).collect()
    }
}

fn merge(into: &mut Value, from: &Value) {
    match (into, from) {
        (Value::Object(into), Value::Object(from)) => {
            for (key, value) in from {
                merge(into.entry(key.clone()).or_insert(Value::Null), value);
            }
        }
        (into, from) => *into = from.clone(),
    }
}

/// One thing that happens in a cluster.
#[derive(Clone, Debug)]
enum Step {
    Node { name: u8, cpu: i64, cordoned: bool },
    NodeGone(u8),
    Pod { cpu: i64, port: Option<i32>, app: u8, about: About },
    PodGone(u8),
}

/// What the pod says about its like.
#[derive(Clone, Copy, Debug)]
enum About {
    Nothing,
    Far,
    Near,
    Likes,
    Spread,
    SoftlySpread,
    /// Both, and on each node of its own.
    SpreadOverNodes,
    /// Zones by all means, nodes where that can be.
    SpreadOverBoth,
    /// As the cluster's default.
    SoftlyOverNodes,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        2 => (0..6u8, 1..6i64, any::<bool>()).prop_map(|(name, cpu, cordoned)| Step::Node { name, cpu, cordoned }),
        1 => (0..6u8).prop_map(Step::NodeGone),
        6 => (0..4i64, proptest::option::of(80..82i32), 0..2u8, about()).prop_map(|(cpu, port, app, about)| Step::Pod { cpu, port, app, about }),
        2 => any::<u8>().prop_map(Step::PodGone),
    ];
    proptest::collection::vec(step, 1..60)
}

fn about() -> impl Strategy<Value = About> {
    use About::{Far, Likes, Near, Nothing, SoftlyOverNodes, SoftlySpread, Spread, SpreadOverBoth, SpreadOverNodes};
    let all = [Nothing, Nothing, Far, Near, Likes, Spread, SoftlySpread, SpreadOverNodes, SpreadOverBoth, SoftlyOverNodes, SoftlyOverNodes];
    proptest::sample::select(all.to_vec())
}

fn pod_json(name: usize, step: &Step) -> Value {
    let Step::Pod { cpu, port, app, about } = step else { panic!("no pod") };
    let labels = json!({"app": app.to_string()});
    let ports: Vec<Value> = port.iter().map(|p| json!({"containerPort": p, "hostPort": p})).collect();
    let containers = json!([{"name": "c", "image": "i", "ports": ports, "resources": {"requests": {"cpu": cpu.to_string()}}}]);
    let mut out = json!({"metadata": {"name": format!("p{name}"), "labels": labels}, "spec": {"containers": containers}});
    let term = json!({"topologyKey": "zone", "labelSelector": {"matchLabels": labels}});
    let evenly = |key: &str, otherwise: &str| json!({"maxSkew": 1, "topologyKey": key, "whenUnsatisfiable": otherwise, "labelSelector": {"matchLabels": labels}});
    let (affinity, spread) = match about {
        About::Nothing => (json!({}), json!([])),
        About::Far => (json!({"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [term]}}), json!([])),
        About::Near => (json!({"podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [term]}}), json!([])),
        About::Likes => {
            let preferred = json!([{"weight": 3, "podAffinityTerm": term}]);
            (json!({"podAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": preferred}}), json!([]))
        }
        About::Spread => (json!({}), json!([evenly("zone", "DoNotSchedule")])),
        About::SoftlySpread => (json!({}), json!([evenly("zone", "ScheduleAnyway")])),
        About::SoftlyOverNodes => {
            (json!({}), json!([evenly("kubernetes.io/hostname", "ScheduleAnyway"), evenly("zone", "ScheduleAnyway")]))
        }
        About::SpreadOverBoth => (json!({}), json!([evenly("zone", "DoNotSchedule"), evenly("kubernetes.io/hostname", "ScheduleAnyway")])),
        About::SpreadOverNodes => (json!({}), json!([evenly("zone", "DoNotSchedule"), evenly("name", "DoNotSchedule")])),
    };
    (out["spec"]["affinity"], out["spec"]["topologySpreadConstraints"]) = (affinity, spread);
    out
}

proptest! {
    /// Whatever happens: no node takes more than it has, no port is had twice, and what is remembered is what a fresh look says.
    #[test]
    fn nodes_are_never_overfilled(steps in steps(), random in any::<u64>()) {
        let mut cluster = TestCluster::default();
        let mut bound: Vec<(String, String, Value)> = Vec::new();
        // A node that shrinks under its pods is over its capacity without our doing.
        let mut sizes = std::collections::HashMap::new();
        for (at, step) in steps.iter().enumerate() {
            match step {
                Step::Node { name, cpu, cordoned } => {
                    let cpu = *sizes.entry(*name).or_insert(*cpu);
                    // A cordon comes with another zone, and some nodes have none.
                    let mut labels = json!({"name": format!("n{name}"), "kubernetes.io/hostname": format!("n{name}"), "zone": ((name + u8::from(*cordoned)) % 3).to_string()});
                    if *name == 4 {
                        labels.as_object_mut().unwrap().remove("zone");
                    }
                    cluster.set(&json!({"metadata": {"name": format!("n{name}"), "labels": labels},
                        "spec": {"unschedulable": cordoned}, "status": {"allocatable": {"cpu": cpu.to_string(), "memory": "8Gi", "pods": "3"}}}));
                }
                Step::NodeGone(name) => drop(cluster.snapshot.remove_node(&format!("n{name}"))),
                Step::Pod { .. } => {
                    let said = pod_json(at, step);
                    let outcome = cluster.plan(&said, random);
                    match (&outcome, afresh(&cluster, &bound, &said, random)) {
                        (Outcome::Bind(node), Ok(best)) => prop_assert!(best.contains(node), "{:?}: {} is not of {:?}", step, node, best),
                        (_, Err(refused)) => prop_assert_eq!(&outcome, &refused, "{:?}", step),
                        (_, Ok(best)) => prop_assert!(false, "{:?}: {:?}, but {:?} would do", step, outcome, best),
                    }
                    if let Outcome::Bind(node) = outcome {
                        cluster.snapshot.assume(Arc::new(pod(&said)), &node);
                        bound.push((format!("p{at}"), node, said));
                    }
                }
                Step::PodGone(which) if !bound.is_empty() => {
                    let (name, ..) = bound.remove(usize::from(*which) % bound.len());
                    cluster.unbound(&name);
                }
                Step::PodGone(_) => {}
            }
            for node in cluster.snapshot.nodes() {
                prop_assert!(node.used.milli_cpu <= node.facts.allocatable.milli_cpu, "{}", node.name());
                prop_assert!(node.pods.len() <= 3);
                let twice = node.ports.iter().enumerate().any(|(i, p)| node.ports.iter().skip(i + 1).any(|q| p.conflicts(q)));
                prop_assert!(!twice, "{:?}", node.ports);
            }
        }
    }
}

/// The best nodes, or the refusal, of a snapshot that was just built from the same nodes and pods: every plugin filters every node.
fn afresh(cluster: &TestCluster, bound: &[(String, String, Value)], said: &Value, random: u64) -> Result<Vec<String>, Outcome> {
    let mut fresh = TestCluster::default();
    for node in cluster.snapshot.nodes() {
        fresh.snapshot.set_node((*node.facts).clone());
    }
    for (_, node, said) in bound {
        fresh.snapshot.put_pod(Arc::new(pod(said)), node);
    }
    let (totals, outcome) = (fresh.totals(said), fresh.plan(said, random));
    let top = totals.iter().map(|(_, total)| *total).max().ok_or(outcome)?;
    Ok(totals.into_iter().filter(|(_, total)| *total == top).map(|(node, _)| node).collect())
}
