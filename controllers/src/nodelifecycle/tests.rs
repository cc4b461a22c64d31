//! Nodes that speak, are silent, come back: what is planned for each, and how a cluster of them fares.

use super::*;
use api::k8s::api::core::v1::Taint;
use serde_json::Value;

const NOW: &str = "2026-01-01T00:00:00Z";

fn node(name: &str, ready: &str, heartbeat: u64, taints: &Value) -> Node {
    let heartbeat = Timestamp::from_second(i64::try_from(heartbeat).unwrap()).unwrap();
    let ready = json!({"type": "Ready", "status": ready, "lastHeartbeatTime": heartbeat});
    let metadata = json!({"name": name, "uid": name, "resourceVersion": "5", "creationTimestamp": "2020-01-01T00:00:00Z"});
    serde_json::from_value(json!({"metadata": metadata, "spec": {"taints": taints}, "status": {"conditions": [ready]}})).unwrap()
}

fn world(ready: &str, left_seconds: u64, execute: Execute) -> World {
    let pod = json!({"metadata": {"name": "p", "namespace": "d", "uid": "p"},
        "status": {"conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": NOW}]}});
    World {
        node: Arc::new(node("n1", ready, 1, &json!([{"key": "mine", "effect": "NoSchedule"}]))),
        left: Duration::from_secs(left_seconds),
        pods: vec![Arc::new(serde_json::from_value(pod).unwrap())],
        execute,
        again: None,
        now: NOW.parse().unwrap(),
    }
}

fn patched(plan: &Plan) -> Option<Vec<Taint>> {
    let patch = |a: &Action| match a {
        Action::Patch { patch, .. } => patch.pointer("/spec/taints").cloned(),
        _ => None,
    };
    plan.actions.iter().find_map(patch).map(|t| serde_json::from_value(t).unwrap())
}

fn names(taints: &[Taint]) -> Vec<String> {
    taints.iter().map(|t| format!("{}:{}", t.key, t.effect)).collect()
}

fn statuses(plan: &Plan) -> Vec<&str> {
    let path = |a: &'_ Action| if let Action::Patch { path, .. } = a { path.strip_suffix("/status").map(str::len) } else { None };
    plan.actions.iter().filter(|a| path(a).is_some()).map(|a| if let Action::Patch { path, .. } = a { path.as_str() } else { "" }).collect()
}

#[test]
fn a_node_that_speaks_is_left_alone() {
    let plan = plan(&world("True", 40, Execute::Without));
    assert!(plan.actions.is_empty(), "{plan:?}");
    assert_eq!(plan.again, Some(Duration::from_secs(40)));
}

#[test]
fn a_silent_node_takes_no_more_pods_and_its_own_are_not_ready() {
    let plan = plan(&world("True", 0, Execute::Without));
    let taints = patched(&plan).unwrap();
    assert_eq!(names(&taints), ["mine:NoSchedule", &format!("{UNREACHABLE}:NoSchedule")], "nothing that drives pods away");
    assert_eq!(taints[1].time_added, Some(Time(NOW.parse().unwrap())));
    assert_eq!(statuses(&plan).len(), 2, "the node's and the pod's");
    let told = plan.actions.iter().filter(|a| matches!(a, Action::Event { reason: "NodeNotReady", .. })).count();
    assert_eq!(told, 2);
}

#[test]
fn a_silent_node_that_never_spoke_says_so() {
    let mut world = world("True", 0, Execute::Kept);
    Arc::make_mut(&mut world.node).status = None;
    let plan = plan(&world);
    let Some(Action::Patch { patch, form: reconcile::PatchType::Strategic, .. }) = plan.actions.first() else { panic!("{plan:?}") };
    assert_eq!(patch["status"]["conditions"][0]["reason"], "NodeStatusNeverUpdated");
    assert_eq!(patch["status"]["conditions"][0]["lastHeartbeatTime"], "2020-01-01T00:00:00Z");
}

#[test]
fn a_node_that_says_it_is_not_ready_keeps_its_pods_conditions() {
    let plan = plan(&world("False", 40, Execute::Only(NOT_READY)));
    let taints = names(&patched(&plan).unwrap());
    assert_eq!(taints[1..], [format!("{NOT_READY}:NoSchedule"), format!("{NOT_READY}:NoExecute")]);
    assert!(statuses(&plan).is_empty(), "its kubelet speaks for them");
}

/// Taints that drive pods away: what is there, what is to be, what is left.
#[test]
fn the_two_reasons_exclude_each_other() {
    let there = |keys: &[&str]| json!(keys.iter().map(|k| json!({"key": k, "effect": "NoExecute", "timeAdded": NOW})).collect::<Vec<_>>());
    let cases: [(&[&str], Execute, &[&str]); 5] = [
        (&[NOT_READY, "mine"], Execute::Only(UNREACHABLE), &["mine", UNREACHABLE]),
        (&[NOT_READY, UNREACHABLE, "mine"], Execute::Without, &["mine"]),
        (&[UNREACHABLE], Execute::Kept, &[UNREACHABLE]),
        (&[UNREACHABLE], Execute::Only(UNREACHABLE), &[UNREACHABLE]),
        (&["mine"], Execute::Kept, &["mine"]),
    ];
    for (keys, execute, wanted) in cases {
        let node = node("n", "True", 1, &there(keys));
        let action = taints::taints(&node, execute, NOW.parse().unwrap());
        let plan = Plan::act(action.into_iter().collect());
        let left = patched(&plan)
            .map_or_else(|| keys.iter().map(|k| (*k).to_owned()).collect(), |t| t.into_iter().map(|t| t.key).collect::<Vec<_>>());
        assert_eq!(left, wanted, "{keys:?} {execute:?}");
    }
}

/// Nodes as the server has them, written to by what the controller decides: its plans are carried out to the letter.
struct Cluster {
    health: Health,
    nodes: Vec<Node>,
    silent: Vec<bool>,
    config: NodeConfig,
    start: Instant,
    second: u64,
}

impl Cluster {
    fn new(nodes: usize) -> Self {
        let config = NodeConfig::default();
        let health = Health { signs: Signs::default(), zones: Zones::new(config.clone()) };
        let nodes = (0..nodes).map(|n| node(&format!("n{n}"), "True", 0, &json!([]))).collect::<Vec<_>>();
        let silent = vec![false; nodes.len()];
        let mut cluster = Self { health, nodes, silent, config, start: Instant::now(), second: 0 };
        cluster.restart();
        cluster
    }

    fn now(&self) -> Instant {
        self.start + Duration::from_secs(self.second)
    }

    /// A server that has just been started, and knows what is stored.
    fn restart(&mut self) {
        self.health = Health { signs: Signs::default(), zones: Zones::new(self.config.clone()) };
        let now = self.now();
        self.nodes.iter().for_each(|node| drop(self.health.take_in(None, Some(node), now)));
    }

    /// Seconds pass; nodes that are not silent speak each ten seconds, not all in the same.
    fn pass(&mut self, seconds: u64) {
        for _ in 0..seconds {
            self.second += 1;
            for number in 0..self.nodes.len() {
                if !self.silent[number] && (self.second + number as u64).is_multiple_of(10) {
                    let taints = json!(self.nodes[number].spec.as_ref().unwrap().taints);
                    self.write(number, node(&format!("n{number}"), "True", self.second, &taints));
                }
                self.look(number);
            }
        }
    }

    fn write(&mut self, number: usize, new: Node) {
        let old = std::mem::replace(&mut self.nodes[number], new);
        let now = self.now();
        self.health.take_in(Some(&old), Some(&self.nodes[number]), now);
    }

    fn look(&mut self, number: usize) {
        let (now, node) = (self.now(), Arc::new(self.nodes[number].clone()));
        let silent_at = self.health.silent_at(&node, &self.config, now);
        let left = silent_at.saturating_duration_since(now);
        let (execute, again, _) = self.health.judge(&node, silent_at, now);
        let plan = plan(&World { node: node.clone(), left, pods: Vec::new(), execute, again, now: Timestamp::UNIX_EPOCH });
        for action in &plan.actions {
            let Action::Patch { path, patch, .. } = action else { continue };
            let mut new = serde_json::to_value(&self.nodes[number]).unwrap();
            if path.ends_with("/status") {
                new["status"]["conditions"] = patch["status"]["conditions"].clone();
            } else {
                new["spec"]["taints"] = patch["spec"]["taints"].clone();
            }
            self.write(number, serde_json::from_value(new).unwrap());
        }
    }

    fn silence(&mut self, numbers: std::ops::Range<usize>) {
        numbers.for_each(|n| self.silent[n] = true);
    }

    fn tainted(&self, effect: &str) -> usize {
        let keys = [NOT_READY, UNREACHABLE];
        self.nodes.iter().filter(|node| keys.iter().any(|key| taints::has(node, key, effect))).count()
    }
}

#[test]
fn a_lonely_node_that_is_silent_keeps_its_pods() {
    let mut c = Cluster::new(1);
    c.silence(0..1);
    c.pass(3600);
    assert_eq!((c.tainted("NoSchedule"), c.tainted("NoExecute")), (1, 0));
    c.silent[0] = false;
    c.pass(11);
    assert_eq!(c.tainted("NoSchedule"), 0);
}

/// Whatever the size: while all are silent, and in every second on the way there.
#[test]
fn all_nodes_silent_at_once_keep_their_pods() {
    for size in [2, 3, 8, 60] {
        let mut c = Cluster::new(size);
        c.pass(100);
        c.silence(0..size);
        for _ in 0..600 {
            c.pass(1);
            assert_eq!(c.tainted("NoExecute"), 0, "{size} nodes, second {}", c.second);
        }
        assert_eq!(c.tainted("NoSchedule"), size);
        // They come back one by one, over forty seconds, and none of the others is given up meanwhile.
        for number in 0..size {
            c.silent[number] = false;
            c.pass(((number + 1) * 40 / size - number * 40 / size) as u64);
            assert_eq!(c.tainted("NoExecute"), 0, "{size} nodes, {number} back");
        }
        c.pass(11);
        assert_eq!(c.tainted("NoSchedule"), 0);
    }
}

#[test]
fn some_silent_nodes_are_given_up_at_the_rate() {
    let mut c = Cluster::new(10);
    c.pass(100);
    c.silence(0..4);
    c.pass(50 + 20);
    assert!((1..=2).contains(&c.tainted("NoExecute")), "{}", c.tainted("NoExecute"));
    c.pass(40);
    assert_eq!(c.tainted("NoExecute"), 4);
}

#[test]
fn most_of_a_small_zone_is_not_given_up() {
    let mut c = Cluster::new(10);
    c.pass(100);
    c.silence(0..6);
    c.pass(3600);
    assert_eq!((c.tainted("NoSchedule"), c.tainted("NoExecute")), (6, 0));
}

#[test]
fn after_a_start_nobody_is_silent_for_a_grace_period() {
    let mut c = Cluster::new(5);
    c.pass(100);
    c.silence(0..2);
    c.pass(55);
    // The server was away for an hour, and so were its nodes' heartbeats.
    (c.second, c.silent) = (c.second + 3600, vec![true; 5]);
    c.restart();
    let (schedule, execute) = (c.tainted("NoSchedule"), c.tainted("NoExecute"));
    c.pass(49);
    assert_eq!((c.tainted("NoSchedule"), c.tainted("NoExecute")), (schedule, execute), "nothing is judged");
    for _ in 0..100 {
        c.pass(1);
        assert_eq!(c.tainted("NoExecute"), 0);
    }
    assert_eq!(c.tainted("NoSchedule"), 5, "all of them are silent");
}

#[test]
fn a_node_given_up_that_is_back_is_free_at_once() {
    let mut c = Cluster::new(3);
    c.pass(100);
    c.silence(0..1);
    c.pass(70);
    assert_eq!(c.tainted("NoExecute"), 1);
    c.silent[0] = false;
    c.pass(11);
    assert_eq!(c.tainted("NoExecute"), 0);
}
