//! Scenarios -> the scheduler's own cost per pod, without an API server; each run's placements are checked.
//!
//! `cargo bench -p scheduler [-- [nodes] [filter]]`. What is counted is CPU time from a pod's first event to the event that shows it bound:
//! two events, one decision. Fails on wrong placements only, never on time.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};

use api::{
    k8s::api::core::v1::{Namespace, Node},
    selector::Labels,
};
use client::pods::Pod;
use scheduler::offline::{Decision, Offline};
use serde_json::{Value, json};
use tokio::time::Instant;

const ZONES: usize = 10;
const NODE_CPU: i64 = 32_000;
const NODE_PODS: usize = 110;
/// More decisions than this per pod, and something goes round in circles.
const DECISIONS_MAX: usize = 20;
/// Bindings that are under way at the same time.
const IN_FLIGHT: usize = 64;

/// A case: its pods, and what must hold at its end.
struct Scenario {
    name: &'static str,
    /// Pods to place for so many nodes.
    pods: fn(usize) -> Vec<Value>,
    /// Pods that are there already: (pod, node).
    placed: fn(usize) -> Vec<(Value, usize)>,
    siblings: Option<&'static str>,
    check: fn(&Cluster),
}

/// What has come about.
struct Cluster {
    nodes: usize,
    asked: usize,
    /// By name: the pod and its node.
    bound: BTreeMap<String, (Arc<Pod>, String)>,
    refused: BTreeMap<String, String>,
    preempted: usize,
}

fn main() {
    let args: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with("--")).collect();
    let sizes: Vec<usize> = args.iter().find_map(|a| a.parse().ok()).map_or_else(|| vec![1000, 5000], |n| vec![n]);
    let filter = args.iter().find(|a| a.parse::<usize>().is_err()).cloned().unwrap_or_default();
    println!("{:<34} {:>6} {:>7} {:>7} {:>10} {:>12}", "scenario", "nodes", "pods", "bound", "us a pod", "pods/CPU-s");
    for nodes in sizes {
        for scenario in SCENARIOS.iter().filter(|s| s.name.contains(&filter)) {
            run(scenario, nodes);
        }
    }
}

const SCENARIOS: &[Scenario] = &[
    Scenario { name: "plain", pods: |n| many("p", plain_count(n), |_| json!({})), placed: nobody, siblings: None, check: all_bound },
    Scenario {
        name: "of a deployment (default spread)",
        pods: |n| many("p", plain_count(n), |_| json!({"metadata": {"labels": {"app": "web"}}})),
        placed: nobody,
        siblings: Some("app=web"),
        check: all_bound,
    },
    Scenario {
        name: "20 sizes",
        pods: |n| {
            many(
                "p",
                plain_count(n),
                |i| json!({"spec": {"containers": [{"resources": {"requests": {"cpu": format!("{}m", 50 + i % 20)}}}]}}),
            )
        },
        placed: nobody,
        siblings: None,
        check: all_bound,
    },
    Scenario { name: "pod affinity", pods: |n| many("p", n * 3, |_| near("blue")), placed: seed_blue, siblings: None, check: in_one_zone },
    Scenario {
        name: "preferred pod affinity",
        pods: |n| many("p", n * 3, |_| preferring("blue")),
        placed: seed_blue,
        siblings: None,
        check: all_bound,
    },
    Scenario {
        name: "required anti-affinity, namespaces",
        pods: |n| many("p", n * 3, |i| apart(&format!("c{}", i % 4))),
        placed: nobody,
        siblings: None,
        check: kept_apart,
    },
    Scenario { name: "topology spread", pods: |n| many("p", n * 3, |_| spread()), placed: nobody, siblings: None, check: evenly },
    Scenario {
        name: "preemption",
        pods: |n| many("p", n, |_| json!({"spec": {"priority": 100, "containers": [{"resources": {"requests": {"cpu": "24"}}}]}})),
        placed: full_of_weak,
        siblings: None,
        check: all_bound,
    },
    Scenario {
        name: "one in five unschedulable",
        pods: |n| many("p", n * 3, mixed),
        placed: nobody,
        siblings: None,
        check: but_the_hopeless,
    },
];

fn plain_count(nodes: usize) -> usize {
    (nodes * 10).min(10_000)
}

fn many(prefix: &str, count: usize, say: impl Fn(usize) -> Value) -> Vec<Value> {
    let one = |i: usize| {
        let requests = json!({"cpu": "100m", "memory": "200Mi"});
        let mut pod = json!({"metadata": {"name": format!("{prefix}{i:06}"), "namespace": "default", "uid": format!("u-{prefix}{i}")},
            "spec": {"schedulerName": "default-scheduler", "containers": [{"name": "c", "image": "pause:3", "resources": {"requests": requests}}],
                "tolerations": [
                    {"key": "node.kubernetes.io/not-ready", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300},
                    {"key": "node.kubernetes.io/unreachable", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300}]},
            "status": {"phase": "Pending"}});
        merge(&mut pod, say(i));
        pod
    };
    (0..count).map(one).collect()
}

fn near(color: &str) -> Value {
    let term = json!({"topologyKey": "topology.kubernetes.io/zone", "labelSelector": {"matchLabels": {"color": color}}});
    json!({"metadata": {"labels": {"color": color}}, "spec": {"affinity": {"podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [term]}}}})
}

fn preferring(color: &str) -> Value {
    let term = json!({"topologyKey": "topology.kubernetes.io/zone", "labelSelector": {"matchLabels": {"color": color}}});
    let term = json!({"weight": 10, "podAffinityTerm": term});
    json!({"metadata": {"labels": {"color": color}}, "spec": {"affinity": {"podAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [term]}}}})
}

fn apart(color: &str) -> Value {
    let term = json!({"topologyKey": "kubernetes.io/hostname", "labelSelector": {"matchLabels": {"color": color}},
        "namespaceSelector": {"matchLabels": {"team": "devops"}}});
    json!({"metadata": {"labels": {"color": color}}, "spec": {"affinity": {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [term]}}}})
}

fn spread() -> Value {
    let zones = json!({"maxSkew": 5, "topologyKey": "topology.kubernetes.io/zone", "whenUnsatisfiable": "DoNotSchedule",
        "labelSelector": {"matchLabels": {"color": "blue"}}});
    json!({"metadata": {"labels": {"color": "blue"}}, "spec": {"topologySpreadConstraints": [zones]}})
}

fn mixed(i: usize) -> Value {
    if i.is_multiple_of(5) {
        json!({"metadata": {"labels": {"hopeless": "yes"}}, "spec": {"containers": [{"resources": {"requests": {"cpu": "500"}}}]}})
    } else {
        json!({})
    }
}

fn nobody(_: usize) -> Vec<(Value, usize)> {
    Vec::new()
}

fn seed_blue(_: usize) -> Vec<(Value, usize)> {
    many("seed", 1, |_| json!({"metadata": {"labels": {"color": "blue"}}})).into_iter().map(|pod| (pod, 0)).collect()
}

fn full_of_weak(nodes: usize) -> Vec<(Value, usize)> {
    let pods = many("weak", nodes * 4, |_| json!({"spec": {"priority": 1, "containers": [{"resources": {"requests": {"cpu": "7500m"}}}]}}));
    pods.into_iter().enumerate().map(|(i, pod)| (pod, i % nodes)).collect()
}

fn node(i: usize) -> Arc<Node> {
    let labels = json!({"kubernetes.io/hostname": name(i), "topology.kubernetes.io/zone": format!("z{}", i % ZONES)});
    let allocatable = json!({"cpu": format!("{NODE_CPU}m"), "memory": "64Gi", "pods": NODE_PODS.to_string()});
    let said = json!({"metadata": {"name": name(i), "labels": labels}, "status": {"allocatable": allocatable}});
    Arc::new(serde_json::from_value(said).expect("a node"))
}

fn name(node: usize) -> String {
    format!("node-{node:05}")
}

fn run(scenario: &Scenario, nodes: usize) {
    let mut offline = Offline::default();
    let team = json!({"metadata": {"name": "default", "labels": {"team": "devops"}}});
    offline.namespace(&serde_json::from_value::<Namespace>(team).expect("a namespace"));
    (0..nodes).for_each(|i| offline.node(None, Some(&node(i))));
    let mut cluster = Cluster { nodes, asked: 0, bound: BTreeMap::new(), refused: BTreeMap::new(), preempted: 0 };
    for (said, at) in (scenario.placed)(nodes) {
        let pod = Arc::new(with_node(&object(&said), &name(at)));
        offline.pod(None, Some(&pod));
        cluster.bound.insert(name_of(&pod), (pod, name(at)));
    }
    let pods: Vec<Arc<Pod>> = (scenario.pods)(nodes).iter().map(|said| Arc::new(object(said))).collect();
    cluster.asked = pods.len();
    let siblings = scenario.siblings.map(|s| Labels::parse(s).expect("a selector"));
    let spent = place(&mut offline, &pods, siblings.as_ref(), &mut cluster);
    cluster.sound();
    (scenario.check)(&cluster);
    let per_pod = spent.as_secs_f64() * 1e6 / pods.len() as f64;
    let bound = cluster.bound.len();
    println!("{:<34} {nodes:>6} {:>7} {bound:>7} {per_pod:>10.1} {:>12.0}", scenario.name, pods.len(), 1e6 / per_pod);
}

/// Feeds the pods as they would come and carries out what is decided; gives the CPU time that the scheduler had.
fn place(offline: &mut Offline, pods: &[Arc<Pod>], siblings: Option<&Labels>, cluster: &mut Cluster) -> Duration {
    let mut random = 1u64;
    let mut spent = timed(|| pods.iter().for_each(|pod| offline.pod(None, Some(pod))));
    let now = Instant::now();
    for _ in 0..pods.len() * DECISIONS_MAX {
        let mut decisions = Vec::with_capacity(IN_FLIGHT);
        spent += timed(|| {
            while decisions.len() < IN_FLIGHT {
                random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                let Some(decision) = offline.decide(now, siblings.cloned(), random >> 16) else { break };
                decisions.push(decision);
            }
        });
        if decisions.is_empty() {
            break;
        }
        let events: Vec<_> = decisions.into_iter().flat_map(|decision| cluster.carry_out(decision)).collect();
        spent += timed(|| events.iter().for_each(|(old, new)| offline.pod(Some(old), new.as_ref())));
    }
    spent
}

impl Cluster {
    /// The events that the API server would send.
    fn carry_out(&mut self, decision: Decision) -> Vec<(Arc<Pod>, Option<Arc<Pod>>)> {
        match decision {
            Decision::Refused { pod, message } => {
                self.refused.insert(name_of(&pod), message);
                Vec::new()
            }
            Decision::Bound { pod, node } => {
                let bound = Arc::new(with_node(&pod, &node));
                self.bound.insert(name_of(&pod), (bound.clone(), node));
                vec![(pod, Some(bound))]
            }
            Decision::Preempts { victims, .. } => {
                self.preempted += victims.len();
                victims.iter().for_each(|victim| drop(self.bound.remove(&name_of(victim))));
                victims.into_iter().map(|victim| (victim, None)).collect()
            }
        }
    }

    /// No node is over its capacity.
    fn sound(&self) {
        let mut used: HashMap<&str, (i64, usize)> = HashMap::new();
        for (pod, node) in self.bound.values() {
            let used = used.entry(node).or_default();
            *used = (used.0 + cpu_of(pod), used.1 + 1);
        }
        for (node, (cpu, pods)) in used {
            assert!(cpu <= NODE_CPU && pods <= NODE_PODS, "{node} is over its capacity: {cpu}m, {pods} pods");
        }
    }

    fn mine(&self) -> impl Iterator<Item = (&Arc<Pod>, &String)> {
        self.bound.iter().filter(|(name, _)| name.starts_with('p')).map(|(_, (pod, node))| (pod, node))
    }

    fn by_zone(&self) -> [usize; ZONES] {
        let mut zones = [0; ZONES];
        self.mine().for_each(|(_, node)| zones[zone(node)] += 1);
        zones
    }
}

fn all_bound(cluster: &Cluster) {
    let first = cluster.refused.iter().find(|(name, _)| !cluster.bound.contains_key(*name));
    assert_eq!(cluster.mine().count(), cluster.asked, "{first:?}");
}

fn in_one_zone(cluster: &Cluster) {
    let zones = cluster.by_zone();
    assert!(zones.iter().skip(1).all(|n| *n == 0), "{zones:?}");
    assert!(zones[0] >= cluster.asked.min(cluster.nodes / ZONES * NODE_PODS - 1), "{zones:?}");
}

fn kept_apart(cluster: &Cluster) {
    all_bound(cluster);
    let mut seen = std::collections::HashSet::new();
    for (pod, node) in cluster.mine() {
        let color = pod.metadata.labels.as_ref().and_then(|l| l.get("color")).cloned();
        assert!(seen.insert((color, node.clone())), "two of a color on {node}");
    }
}

fn evenly(cluster: &Cluster) {
    all_bound(cluster);
    let zones = cluster.by_zone();
    let (least, most) = (zones.iter().min().unwrap_or(&0), zones.iter().max().unwrap_or(&0));
    assert!(most - least <= 5, "{zones:?}");
}

fn but_the_hopeless(cluster: &Cluster) {
    assert_eq!(cluster.mine().count(), cluster.asked - cluster.asked.div_ceil(5));
    assert!(cluster.refused.values().all(|m| m.contains("Insufficient cpu")), "{:?}", cluster.refused.values().next());
}

fn cpu_of(pod: &Pod) -> i64 {
    let requests = pod.spec.iter().flat_map(|s| &s.containers).filter_map(|c| c.resources.as_ref()?.requests.as_ref()?.get("cpu"));
    requests.map(|q| api::quantity::Quantity::parse(&q.0).map_or(0, |q| q.milli())).sum()
}

fn zone(node: &str) -> usize {
    node.trim_start_matches("node-").parse::<usize>().unwrap_or(0) % ZONES
}

fn object(said: &Value) -> Pod {
    serde_json::from_value(said.clone()).expect("a pod")
}

fn name_of(pod: &Pod) -> String {
    pod.metadata.name.clone().unwrap_or_default()
}

fn with_node(pod: &Pod, node: &str) -> Pod {
    let mut pod = pod.clone();
    if let Some(spec) = &mut pod.spec {
        spec.node_name = Some(node.to_owned());
    }
    pod
}

fn merge(into: &mut Value, from: Value) {
    match (into, from) {
        (Value::Object(into), Value::Object(from)) => from.into_iter().for_each(|(k, v)| merge(into.entry(k).or_insert(Value::Null), v)),
        // Lists of one: the container.
        (Value::Array(into), Value::Array(from)) => into.iter_mut().zip(from).for_each(|(i, f)| merge(i, f)),
        (into, from) => *into = from,
    }
}

/// CPU time of the work: the first number of `/proc/self/schedstat` counts nanoseconds of this one thread.
fn timed(work: impl FnOnce()) -> Duration {
    let cpu = || {
        let stat = std::fs::read_to_string("/proc/thread-self/schedstat").expect("Linux counts CPU time");
        Duration::from_nanos(stat.split(' ').next().and_then(|n| n.parse().ok()).expect("a number"))
    };
    let began = cpu();
    work();
    cpu() - began
}
