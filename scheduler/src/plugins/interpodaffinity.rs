//! InterPodAffinity: near some pods, far from others; both what the pod says and what placed pods say. Source: `plugins/interpodaffinity`.

use super::{Change, Plugin, SCORE_MAX};
use crate::{
    ask::Ask,
    column::Column,
    counters::{CounterId, Force, forces},
    cycle::Cycle,
    node::{Row, Slot},
    pod::PodInfo,
    refusal::Refusal,
    table::Table,
    terms::{Matcher, Namespaces, Term},
    topology::{NO_DOMAIN, TopologyId},
};

const NAME: &str = "InterPodAffinity";

pub struct InterPodAffinity;

/// The pod's own terms, each with the counter of the pods it means.
#[derive(Clone, Debug, Default)]
pub struct Wishes {
    near: Option<Near>,
    far: Vec<(CounterId, TopologyId)>,
    /// Weight, negative for anti-affinity.
    preferred: Vec<(i64, CounterId, TopologyId)>,
}

/// Required affinity: one and the same pod must match all terms to count.
#[derive(Clone, Debug)]
struct Near {
    counter: CounterId,
    topologies: Vec<TopologyId>,
    matches_self: bool,
}

/// Pods per domain, by topology.
#[derive(Clone, Default)]
pub struct Neighbours {
    near: Vec<(TopologyId, Column<i64>)>,
    far: Vec<(TopologyId, Column<i64>)>,
    /// Placed pods that want this one far.
    repelling: Vec<(TopologyId, Column<i64>)>,
}

impl Wishes {
    pub fn new(table: &mut Table, pod: &PodInfo) -> Self {
        let Some(affinity) = &pod.affinity else { return Self::default() };
        let near = (!affinity.required.is_empty()).then(|| Near {
            counter: table.counter(Matcher::all_of(&affinity.required)),
            topologies: affinity.required.iter().map(|t| table.topology(&t.topology_key)).collect(),
            matches_self: affinity.required.iter().all(|t| means(t, pod, &table.namespaces)),
        });
        let mut one = |term: &Term| (table.counter(Matcher::all_of([term])), table.topology(&term.topology_key));
        let far = affinity.required_anti.iter().map(&mut one).collect();
        let likes = affinity.preferred.iter().map(|(weight, term)| (*weight, term));
        let dislikes = affinity.preferred_anti.iter().map(|(weight, term)| (-weight, term));
        let preferred = likes.chain(dislikes).map(|(weight, term)| {
            let (counter, topology) = one(term);
            (weight, counter, topology)
        });
        Self { preferred: preferred.collect(), far, near }
    }
}

impl Neighbours {
    pub fn new(table: &Table, ask: &Ask) -> Self {
        let (mut out, wishes) = (Self::default(), &ask.wishes);
        if let Some(near) = &wishes.near {
            for topology in &near.topologies {
                add(&mut out.near, table, *topology, 1, |slot| table.counters.count(near.counter, slot));
            }
        }
        for (counter, topology) in &wishes.far {
            add(&mut out.far, table, *topology, 1, |slot| table.counters.count(*counter, slot));
        }
        for group in table.terms.about(&ask.info, &table.namespaces).filter(|g| g.force == Force::Repels) {
            add(&mut out.repelling, table, group.topology, 1, |slot| i64::from(group.count.get(slot)));
        }
        out
    }

    pub fn shift(&mut self, table: &Table, ask: &Ask, pod: &PodInfo, row: &Row, by: i64) {
        let wishes = &ask.wishes;
        let matches = |counter: CounterId| table.counters.matches(counter, pod, &table.namespaces);
        if let Some(near) = wishes.near.as_ref().filter(|n| matches(n.counter)) {
            for topology in &near.topologies {
                bump(&mut self.near, table, *topology, row.slot, by);
            }
        }
        for (_, topology) in wishes.far.iter().filter(|(counter, _)| matches(*counter)) {
            bump(&mut self.far, table, *topology, row.slot, by);
        }
        let repels = forces(pod).filter(|(term, force)| *force == Force::Repels && means(term, &ask.info, &table.namespaces));
        for (term, _) in repels {
            if let Some(topology) = table.topologies.find(&term.topology_key) {
                bump(&mut self.repelling, table, topology, row.slot, by);
            }
        }
    }
}

impl Plugin for InterPodAffinity {
    fn name(&self) -> &'static str {
        NAME
    }

    fn refuses_in(&self, cycle: &Cycle<'_>, node: &Row) -> Option<Refusal> {
        let neighbours = &cycle.neighbours;
        if cycle.ask.wishes.near.as_ref().is_some_and(|near| !is_near(cycle, near, node.slot)) {
            return Some(Refusal::unresolvable(NAME, "node(s) didn't match pod affinity rules"));
        }
        if any_at(&neighbours.far, cycle.table, node.slot) {
            return Some(Refusal::resolvable(NAME, "node(s) didn't match pod anti-affinity rules"));
        }
        if any_at(&neighbours.repelling, cycle.table, node.slot) {
            return Some(Refusal::resolvable(NAME, "node(s) didn't satisfy existing pods anti-affinity rules"));
        }
        None
    }

    fn weight(&self) -> i64 {
        2
    }

    fn compares(&self) -> bool {
        true
    }

    fn is_even(&self, cycle: &Cycle<'_>) -> bool {
        let pulled = || cycle.table.terms.about(&cycle.ask.info, &cycle.table.namespaces).any(|g| matches!(g.force, Force::Pulls(_)));
        cycle.ask.wishes.preferred.is_empty() && !pulled()
    }

    fn compare(&self, cycle: &Cycle<'_>, nodes: &[Slot], scores: &mut [i64]) {
        let table = cycle.table;
        let mut pulls = Vec::new();
        for (weight, counter, topology) in &cycle.ask.wishes.preferred {
            add(&mut pulls, table, *topology, *weight, |slot| table.counters.count(*counter, slot));
        }
        for group in table.terms.about(&cycle.ask.info, &table.namespaces) {
            if let Force::Pulls(weight) = group.force {
                add(&mut pulls, table, group.topology, weight, |slot| i64::from(group.count.get(slot)));
            }
        }
        let pull = |slot: Slot| -> i64 { pulls.iter().map(|(topology, sums)| sums.get(table.topologies.domain(*topology, slot))).sum() };
        scores.iter_mut().zip(nodes).for_each(|(score, slot)| *score = if pulls.is_empty() { 0 } else { pull(*slot) });
        let (least, most) = (scores.iter().copied().min().unwrap_or(0), scores.iter().copied().max().unwrap_or(0));
        for score in scores {
            *score = if most == least { 0 } else { (SCORE_MAX as f64 * ((*score - least) as f64 / (most - least) as f64)) as i64 };
        }
    }

    fn helped_by(&self, pod: &PodInfo, change: &Change<'_>) -> bool {
        let wants = |other: &PodInfo| pod.affinity.as_ref().is_some_and(|a| a.required.iter().any(|t| could_mean(t, other)));
        match change {
            Change::PodPlaced(new) => wants(new),
            // It was in the way, or it was the one that kept a lonely pod from being the first of its kind.
            Change::PodGone(old) => wants(old) || in_the_way(pod, old),
            Change::PodChanged(old, new) => old.labels() != new.labels() && (wants(new) || in_the_way(pod, old)),
            Change::NodeAdded(_) => true,
            Change::NodeChanged(old, new) => old.labels != new.labels,
            Change::NodeGone(_) => false,
        }
    }
}

fn is_near(cycle: &Cycle<'_>, near: &Near, slot: Slot) -> bool {
    let (table, counts) = (cycle.table, &cycle.neighbours.near);
    if near.topologies.iter().any(|t| table.topologies.domain(*t, slot) == NO_DOMAIN) {
        return false;
    }
    let all = counts.iter().all(|(topology, count)| count.get(table.topologies.domain(*topology, slot)) > 0);
    // The first of its kind may start anywhere.
    all || (near.matches_self && counts.iter().all(|(_, count)| count.iter().all(|n| n <= 0)))
}

fn any_at(counts: &[(TopologyId, Column<i64>)], table: &Table, slot: Slot) -> bool {
    counts.iter().any(|(topology, count)| {
        let domain = table.topologies.domain(*topology, slot);
        domain != NO_DOMAIN && count.get(domain) > 0
    })
}

/// Adds the nodes' counts to their domains. Nodes without a domain do not count.
fn add(sums: &mut Vec<(TopologyId, Column<i64>)>, table: &Table, topology: TopologyId, weight: i64, count: impl Fn(Slot) -> i64) {
    let column = column(sums, topology);
    for row in table.nodes() {
        let (domain, count) = (table.topologies.domain(topology, row.slot), count(row.slot));
        if domain != NO_DOMAIN && count != 0 {
            *column.slot(domain) += weight * count;
        }
    }
}

fn bump(sums: &mut Vec<(TopologyId, Column<i64>)>, table: &Table, topology: TopologyId, slot: Slot, by: i64) {
    let domain = table.topologies.domain(topology, slot);
    if domain != NO_DOMAIN {
        *column(sums, topology).slot(domain) += by;
    }
}

fn column(sums: &mut Vec<(TopologyId, Column<i64>)>, topology: TopologyId) -> &mut Column<i64> {
    let at = sums.iter().position(|(t, _)| *t == topology).unwrap_or_else(|| {
        sums.push((topology, Column::default()));
        sums.len() - 1
    });
    &mut sums.get_mut(at).expect("it was found or just pushed").1
}

fn means(term: &Term, pod: &PodInfo, namespaces: &Namespaces) -> bool {
    term.selected.matches(&pod.key.namespace, pod.labels(), namespaces)
}

/// As [`means`], where the labels of namespaces are not known.
fn could_mean(term: &Term, pod: &PodInfo) -> bool {
    term.selected.limited_to().is_none() || means(term, pod, &Namespaces::new())
}

fn in_the_way(pod: &PodInfo, other: &PodInfo) -> bool {
    let far = |a: &PodInfo, b: &PodInfo| a.affinity.as_ref().is_some_and(|x| x.required_anti.iter().any(|t| could_mean(t, b)));
    far(pod, other) || far(other, pod)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::{World, pod};
    use serde_json::{Value, json};

    const NEAR: &str = "node(s) didn't match pod affinity rules";
    const FAR: &str = "node(s) didn't match pod anti-affinity rules";
    const REPELLED: &str = "node(s) didn't satisfy existing pods anti-affinity rules";

    fn world() -> World {
        let mut world = World::default();
        for (name, zone) in [("a1", "a"), ("a2", "a"), ("b1", "b")] {
            world.node(name, json!({"zone": zone}));
        }
        world
    }

    fn term(app: &str) -> Value {
        json!({"topologyKey": "zone", "labelSelector": {"matchLabels": {"app": app}}})
    }

    fn saying(name: &str, app: &str, how: &str, terms: &Value) -> Value {
        let key = if terms[0]["weight"].is_null() { "required" } else { "preferred" };
        json!({"metadata": {"name": name, "labels": {"app": app}},
            "spec": {"affinity": {how: {format!("{key}DuringSchedulingIgnoredDuringExecution"): terms}}}})
    }

    fn told(world: &mut World, ask: &Value) -> Vec<Option<String>> {
        world.refusals(ask).into_iter().map(|(_, refusal)| refusal).collect()
    }

    #[test]
    fn required_terms() {
        let mut world = world();
        world.bound("db", "a1", json!({"metadata": {"labels": {"app": "db"}}}));
        let some = |text: &str| Some(text.to_owned());
        let table = [
            (saying("new", "web", "podAffinity", &json!([term("db")])), [None, None, some(NEAR)]),
            (saying("new", "web", "podAffinity", &json!([term("cache")])), [some(NEAR), some(NEAR), some(NEAR)]),
            (saying("new", "web", "podAffinity", &json!([term("web")])), [None, None, None]),
            (saying("new", "web", "podAntiAffinity", &json!([term("db")])), [some(FAR), some(FAR), None]),
            (saying("new", "web", "podAntiAffinity", &json!([term("cache")])), [None, None, None]),
        ];
        for (ask, want) in table {
            assert_eq!(told(&mut world, &ask), want, "{ask}");
        }
    }

    #[test]
    fn placed_pods_keep_others_away() {
        let mut world = world();
        world.bound("shy", "b1", saying("shy", "db", "podAntiAffinity", &json!([term("web")])));
        let web = json!({"metadata": {"name": "new", "labels": {"app": "web"}}});
        assert_eq!(told(&mut world, &web), [None, None, Some(REPELLED.to_owned())]);
        world.unbound("shy");
        assert_eq!(told(&mut world, &web), [None, None, None]);
    }

    #[test]
    fn namespace_selectors_follow_labels() {
        let mut world = world();
        world.bound("db", "a1", json!({"metadata": {"namespace": "prod", "labels": {"app": "db"}}}));
        let mut far = term("db");
        far["namespaceSelector"] = json!({"matchLabels": {"tier": "gold"}});
        let ask = saying("new", "web", "podAntiAffinity", &json!([far]));
        assert_eq!(world.fitting(&ask), ["a1", "a2", "b1"]);
        world.table.set_namespace("prod", Some(&[("tier".to_owned(), "gold".to_owned())].into()));
        assert_eq!(world.fitting(&ask), ["b1"]);
    }

    #[test]
    fn preferences_of_both_sides_count() {
        let mut world = world();
        world.bound("db", "a1", json!({"metadata": {"labels": {"app": "db"}}}));
        let prefer = |app: &str| json!([{"weight": 10, "podAffinityTerm": term(app)}]);
        let scores =
            |world: &mut World, ask: &Value| -> Vec<i64> { world.scores(&InterPodAffinity, ask).into_iter().map(|(_, s)| s).collect() };
        assert_eq!(scores(&mut world, &saying("new", "web", "podAffinity", &prefer("db"))), [100, 100, 0]);
        assert_eq!(scores(&mut world, &saying("new", "web", "podAntiAffinity", &prefer("db"))), [0, 0, 100]);
        world.bound("fan", "b1", saying("fan", "fan", "podAffinity", &prefer("web")));
        assert_eq!(scores(&mut world, &json!({"metadata": {"name": "new", "labels": {"app": "web"}}})), [0, 0, 100]);
    }

    #[test]
    fn who_helps() {
        let waiting = pod(&saying("new", "web", "podAntiAffinity", &json!([term("db")])));
        let db = pod(&json!({"metadata": {"labels": {"app": "db"}}}));
        let other = pod(&json!({"metadata": {"labels": {"app": "x"}}}));
        assert!(InterPodAffinity.helped_by(&waiting, &Change::PodGone(&db)));
        assert!(!InterPodAffinity.helped_by(&waiting, &Change::PodGone(&other)));
        assert!(!InterPodAffinity.helped_by(&waiting, &Change::PodPlaced(&db)));
    }
}
