//! A plugin of tests, in no table but theirs: what it keeps is found again, its signature tells pods apart, and it can name nodes.

use serde_json::{Value, json};

use super::*;
use crate::{
    cycle_state::StateData,
    plan::Outcome,
    plugins::PLUGINS,
    tests::{TestCluster, asked},
};

/// Takes pods to nodes of the colour that they are labelled with; one at a time, for all nodes of that colour.
struct Colour;

/// The colour that the pod wants.
struct Wanted(String);

impl StateData for Wanted {}

#[derive(Clone)]
struct Crowd<'a> {
    snapshot: &'a Snapshot,
    wanted: &'a str,
    pods: i64,
}

impl Plugin for Colour {
    fn name(&self) -> &'static str {
        "Colour"
    }

    fn sign(&self, pod: &PodInfo, signature: &mut Vec<u8>) {
        signature.extend(colour(pod).bytes());
    }

    fn pre_filter(&self, at: &mut PreFilter<'_>) -> Result<(), Refusal> {
        let wanted = colour(at.pod).to_owned();
        if wanted == "none" {
            return Err(Refusal::unresolvable("Colour", "none is no colour"));
        }
        at.keep(Wanted(wanted));
        Ok(())
    }

    fn filter(&self, pod: &PodInfo, node: &NodeInfo) -> Option<Refusal> {
        let same = node.facts.labels.get("colour").is_some_and(|of_node| of_node == colour(pod));
        (!same).then(|| Refusal::unresolvable("Colour", "node(s) had another colour"))
    }

    fn pre_filter_extensions<'a>(
        &self,
        ask: &'a Ask,
        snapshot: &'a Snapshot,
        _class: &'a EquivalenceClass,
    ) -> Option<Box<dyn PreFilterExtensions<'a> + 'a>> {
        let Wanted(wanted) = ask.state.read()?;
        let placed = snapshot.nodes().flat_map(|node| &node.pods).filter(|pod| colour(pod) == wanted).count();
        Some(Box::new(Crowd { snapshot, wanted, pods: i64::try_from(placed).unwrap() }))
    }

    fn queueing_hint(&self, _pod: &PodInfo, _change: &Change<'_>) -> bool {
        true
    }
}

impl<'a> PreFilterExtensions<'a> for Crowd<'a> {
    fn filter(&self, node: Slot) -> Option<Refusal> {
        assert!(self.snapshot.node_info(node).is_some());
        (self.pods > 0).then(|| Refusal::resolvable("Colour", "node(s) had the colour of another pod"))
    }

    fn is_silent(&self) -> bool {
        false
    }

    fn update_with_pod(&mut self, pod: &PodInfo, _node: &NodeInfo, by: i64) {
        self.pods += if colour(pod) == self.wanted { by } else { 0 };
    }

    fn boxed(&self) -> Box<dyn PreFilterExtensions<'a> + 'a> {
        Box::new(self.clone())
    }
}

fn colour(pod: &PodInfo) -> &str {
    pod.labels().and_then(|labels| labels.get("colour")).map_or("", String::as_str)
}

fn of(colour: &str, priority: i32) -> Value {
    json!({"metadata": {"name": "new", "labels": {"colour": colour}}, "spec": {"priority": priority}})
}

fn cluster() -> TestCluster {
    let all: Vec<&'static dyn Plugin> = PLUGINS.iter().copied().chain([&Colour as &dyn Plugin]).collect();
    let mut cluster = TestCluster::new(Box::leak(all.into()));
    cluster.node("r", json!({"colour": "red"}));
    cluster.node("b", json!({"colour": "blue"}));
    cluster
}

#[test]
fn a_plugin_is_one_line_in_a_table() {
    let mut cluster = cluster();
    // In turn: what was remembered of one colour is not said of the other.
    for _ in 0..2 {
        assert_eq!(cluster.plan(&of("red", 0), 0), Outcome::Bind("r".into()));
        assert_eq!(cluster.plan(&of("blue", 0), 0), Outcome::Bind("b".into()));
    }
    cluster.bound("first", "r", of("red", 0));
    let told = |outcome: Outcome| match outcome {
        Outcome::Refused(refused) => (refused.message, refused.nomination),
        Outcome::Bind(node) => panic!("bound to {node}"),
    };
    let (message, _) = told(cluster.plan(&of("red", 0), 0));
    assert!(message.starts_with("0/2 nodes are available: 1 node(s) had another colour, 1 node(s) had the colour of another pod. "));
    assert!(told(cluster.plan(&of("none", 0), 0)).0.starts_with("0/2 nodes are available: none is no colour. "));
    // "What if" asks the plugin's own count.
    let (_, nomination) = told(cluster.plan(&of("red", 9), 0));
    assert!(matches!(nomination, crate::plan::Nomination::Preempt(p) if p.node == "r" && p.victims.len() == 1), "the first would leave");
}

/// Lets pods go to these nodes only.
struct Only(&'static str, &'static [&'static str]);

impl Plugin for Only {
    fn name(&self) -> &'static str {
        self.0
    }

    fn pre_filter(&self, at: &mut PreFilter<'_>) -> Result<(), Refusal> {
        at.only(self.1.iter().map(|name| (*name).to_owned()).collect());
        Ok(())
    }

    fn queueing_hint(&self, _pod: &PodInfo, _change: &Change<'_>) -> bool {
        false
    }
}

#[test]
fn plugins_name_nodes_together() {
    let both: Plugins = &[&Only("One", &["a", "b"]), &Only("Two", &["b", "c"])];
    let mut cluster = TestCluster::new(both);
    ["a", "b", "c"].into_iter().for_each(|name| cluster.node(name, json!({})));
    assert_eq!(cluster.plan(&json!({}), 0), Outcome::Bind("b".into()));
    let rows: [(Plugins, &str); 3] = [
        (both, "0/1 nodes are available: 1 node(s) didn't satisfy plugin(s) [One Two]."),
        (&[&Only("One", &[])], "0/1 nodes are available: node(s) didn't satisfy plugin One."),
        (
            &[&Only("One", &["a"]), &Only("Two", &["b"])],
            "0/1 nodes are available: node(s) didn't satisfy plugin(s) [One Two] simultaneously.",
        ),
    ];
    for (plugins, want) in rows {
        let mut cluster = TestCluster::new(plugins);
        cluster.node("other", json!({}));
        let Outcome::Refused(refused) = cluster.plan(&json!({}), 0) else { panic!("no node was named") };
        assert!(refused.message.starts_with(want), "{}", refused.message);
    }
    assert!(asked(&Colour, &of("red", 0)).state.read::<Wanted>().is_some());
}
