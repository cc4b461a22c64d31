//! Node snapshot + pod -> a node, or the reasons why there is none.
//!
//! Source: scheduler `schedule_one.go` (`schedulePod`, `findNodesThatFitPod`, `prioritizeNodes`). Pure: random numbers come in.

use std::collections::BTreeSet;

use crate::{
    crowds::{Answers, Group, Question},
    framework::{Ask, Cycle, EquivalenceClass, Plugin, PreFilterResult},
    node::{NodeInfo, Slot},
    preemption::{self, Preemption},
    refusal::{Diagnosis, Refusal},
    snapshot::Snapshot,
};

#[derive(Debug, PartialEq)]
pub enum Outcome {
    /// The pod goes to this node.
    Bind(String),
    Refused(Box<Refused>),
}

#[derive(Debug, PartialEq)]
pub struct Refused {
    /// As the event and the condition say it.
    pub message: String,
    /// Who refused: only what helps them can help the pod. Empty: anything may.
    pub plugins: BTreeSet<&'static str>,
    pub nomination: Nomination,
}

impl Refused {
    /// The node that was chosen does not do after all.
    pub fn of_one(refusal: &Refusal) -> Self {
        let mut diagnosis = Diagnosis::default();
        diagnosis.add(refusal, 1);
        Self { message: diagnosis.message(1), plugins: diagnosis.plugins, nomination: Nomination::Clear }
    }
}

/// What becomes of `status.nominatedNodeName`.
#[derive(Debug, PartialEq)]
pub enum Nomination {
    Keep,
    Clear,
    /// Lower priorities leave a node for it.
    Preempt(Preemption),
}

/// Where the pod goes. Equal arguments give equal answers; `class` is the pod's, as the snapshot is; `random` breaks ties.
pub fn plan(snapshot: &Snapshot, class: &EquivalenceClass, ask: &Ask, random: u64) -> Outcome {
    if snapshot.is_empty() {
        return refused("no nodes available to schedule pods".into(), BTreeSet::new(), Nomination::Clear);
    }
    let cycle = Cycle::new(snapshot, class, ask);
    if let Some(refusal) = &ask.refusal {
        return refused_by_all(&cycle, refusal, random);
    }
    if let Some(node) = nominated(&cycle) {
        return Outcome::Bind(node.name().to_owned());
    }
    match &ask.pre_filter_result {
        Some(result) => among_pre_filtered(&cycle, result, random),
        None => among_all(&cycle, random),
    }
}

/// The node that was made free for it, if it fits there now.
fn nominated<'a>(cycle: &Cycle<'a>) -> Option<&'a NodeInfo> {
    let name = cycle.snapshot.nominated_node(&cycle.ask.info.key).or_else(|| cycle.ask.info.nominated())?;
    cycle.snapshot.find(name).filter(|node| cycle.filter_with_nominated_pods(node).is_none())
}

fn among_all(cycle: &Cycle<'_>, random: u64) -> Outcome {
    let alone = cycle.stands_alone();
    let fits = |slot: &Slot| alone || cycle.filter_extensions_with_nominated_pods(*slot).is_none();
    let best = if let Some((place, questions)) = only_groups(cycle) {
        best_group(cycle, place, &questions, random)
    } else if compared(cycle).next().is_none() {
        cycle.class.ranking.best_first(random).find(fits)
    } else {
        let feasible: Vec<Slot> = cycle.class.ranking.slots().filter(fits).collect();
        best(cycle, &feasible, random)
    };
    best.map_or_else(|| diagnose(cycle, random), |slot| bind(cycle.snapshot, slot))
}

/// Plugins named the only nodes that could do.
fn among_pre_filtered(cycle: &Cycle<'_>, result: &PreFilterResult, random: u64) -> Outcome {
    let (mut feasible, mut diagnosis, mut resolvable, mut asked) = (Vec::new(), Diagnosis::default(), Vec::new(), 0);
    for node in result.node_names.iter().filter_map(|name| cycle.snapshot.find(name)) {
        asked += 1;
        match cycle.filter_memoized(node) {
            None => feasible.push(node.slot),
            Some(refusal) => {
                diagnosis.add(&refusal, 1);
                resolvable.extend(refusal.resolvable.then_some(node.slot));
            }
        }
    }
    if let Some(slot) = best(cycle, &feasible, random) {
        return bind(cycle.snapshot, slot);
    }
    diagnosis.plugins.extend(&result.plugins);
    let names: Vec<&str> = result.plugins.iter().copied().collect();
    diagnosis.count(&format!("node(s) didn't satisfy plugin(s) [{}]", names.join(" ")), cycle.snapshot.len() - asked);
    after_preemption(cycle, diagnosis, &resolvable, random)
}

/// The plugins whose scores differ between nodes only when they are compared, with their places.
fn compared<'a>(cycle: &'a Cycle<'_>) -> impl Iterator<Item = (usize, &'static dyn Plugin)> + 'a {
    let plugins = cycle.ask.plugins.iter().copied().enumerate().filter(|(_, p)| p.compares() && p.weight() > 0);
    plugins.filter(|(at, p)| !(cycle.class.is_even(*at) && p.is_even(cycle)))
}

/// The place of a plugin that asks little about the nodes, and what it asks, where nothing else compares them, or refuses one because of others.
fn only_groups(cycle: &Cycle<'_>) -> Option<(usize, Vec<Question>)> {
    let mut compared = compared(cycle).map(|(place, _)| place);
    let place = match compared.next() {
        Some(place) => Some(place).filter(|place| cycle.class.is_even(*place))?,
        None => cycle.speaking().next()?,
    };
    if compared.next().is_some() || !cycle.only_listens_to(place) {
        return None;
    }
    Some((place, cycle.ask.plugins.get(place)?.questions(cycle)?))
}

/// As [`best`] of all that fit: nodes of equal answers differ in the scores that need no comparing alone.
fn best_group(cycle: &Cycle<'_>, place: usize, questions: &[Question], random: u64) -> Option<Slot> {
    let plugin = cycle.ask.plugins.get(place)?;
    let mut crowds = cycle.class.crowds.borrow_mut();
    let grouping = crowds.grouping(cycle.snapshot, &cycle.class.ranking, questions);
    // What is said of one node of a group is said of all.
    let fits = |group: &&Group| {
        group.ranking.top().and_then(|(_, nodes)| nodes.first()).is_some_and(|slot| cycle.filter_extensions(*slot).is_none())
    };
    let fitting: Vec<&Group> = grouping.groups().filter(fits).collect();
    let groups: Vec<(&Answers, usize)> = fitting.iter().map(|g| (&g.answers, g.ranking.len())).collect();
    let scores = plugin.compare_groups(cycle, &groups);
    let tops = fitting.iter().zip(&scores).filter_map(|(group, score)| {
        let (known, nodes) = group.ranking.top()?;
        Some((i64::try_from(known).unwrap_or(i64::MAX) + plugin.weight() * score, nodes))
    });
    let tops: Vec<(i64, &[Slot])> = tops.collect();
    let top = tops.iter().map(|(total, _)| *total).max()?;
    let equal = || tops.iter().filter(|(total, _)| *total == top).flat_map(|(_, nodes)| *nodes);
    let count: usize = tops.iter().filter(|(total, _)| *total == top).map(|(_, nodes)| nodes.len()).sum();
    let nth = usize::try_from(random % count.max(1) as u64).unwrap_or(0);
    equal().nth(nth).copied()
}

/// One with the highest score; all of `nodes` fit.
fn best(cycle: &Cycle<'_>, nodes: &[Slot], random: u64) -> Option<Slot> {
    if let [only] = nodes {
        return Some(*only);
    }
    let totals = totals(cycle, nodes);
    let top = totals.iter().copied().max()?;
    let equal = totals.iter().filter(|t| **t == top).count();
    let nth = usize::try_from(random % equal.max(1) as u64).unwrap_or(0);
    totals.iter().zip(nodes).filter(|(t, _)| **t == top).nth(nth).map(|(_, slot)| *slot)
}

fn totals(cycle: &Cycle<'_>, nodes: &[Slot]) -> Vec<i64> {
    let mut totals: Vec<i64> = nodes.iter().map(|slot| i64::try_from(cycle.class.ranking.score(*slot)).unwrap_or(i64::MAX)).collect();
    let mut scores = Vec::with_capacity(nodes.len());
    for (at, plugin) in compared(cycle) {
        scores.clear();
        if cycle.class.is_even(at) {
            scores.resize(nodes.len(), 0);
        } else {
            scores.extend(nodes.iter().map(|slot| cycle.class.score(*slot, at)));
        }
        plugin.normalize_score(cycle, nodes, &mut scores);
        totals.iter_mut().zip(&scores).for_each(|(total, score)| *total += plugin.weight() * score);
    }
    totals
}

fn bind(snapshot: &Snapshot, slot: Slot) -> Outcome {
    Outcome::Bind(snapshot.node_info(slot).map(|r| r.name().to_owned()).unwrap_or_default())
}

/// Why no node fits. What single nodes said is counted already; the rest said no because of others.
fn diagnose(cycle: &Cycle<'_>, random: u64) -> Outcome {
    let mut diagnosis = Diagnosis::default();
    cycle.class.refusals.iter().for_each(|(refusal, nodes)| diagnosis.add(refusal, *nodes));
    let mut resolvable: Vec<Slot> = cycle.class.resolvable.slots().collect();
    for slot in cycle.class.ranking.slots() {
        if let Some(refusal) = cycle.filter_extensions_with_nominated_pods(slot) {
            diagnosis.add(&refusal, 1);
            resolvable.extend(refusal.resolvable.then_some(slot));
        }
    }
    after_preemption(cycle, diagnosis, &resolvable, random)
}

fn refused_by_all(cycle: &Cycle<'_>, refusal: &Refusal, random: u64) -> Outcome {
    let plugins = BTreeSet::from([refusal.plugin]);
    let diagnosis = Diagnosis { of_all: Some(refusal.reasons.join(", ")), plugins, ..Diagnosis::default() };
    after_preemption(cycle, diagnosis, &[], random)
}

/// `resolvable` are the nodes where fewer pods could help.
fn after_preemption(cycle: &Cycle<'_>, diagnosis: Diagnosis, resolvable: &[Slot], random: u64) -> Outcome {
    let message = diagnosis.message(cycle.snapshot.len());
    match preemption::find(cycle, resolvable, random) {
        Ok(preemption) => refused(message, diagnosis.plugins, Nomination::Preempt(preemption)),
        Err(no) => {
            let nomination = if no.keeps_nomination { Nomination::Keep } else { Nomination::Clear };
            refused(format!("{message} preemption: {}", no.message), diagnosis.plugins, nomination)
        }
    }
}

fn refused(message: String, plugins: BTreeSet<&'static str>, nomination: Nomination) -> Outcome {
    Outcome::Refused(Box::new(Refused { message, plugins, nomination }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::TestCluster;
    use serde_json::{Value, json};

    fn cluster() -> TestCluster {
        let mut cluster = TestCluster::default();
        cluster.node("a", json!({"zone": "z1"}));
        cluster.node("b", json!({"zone": "z2"}));
        cluster
    }

    fn asking(cpu: &str) -> Value {
        json!({"metadata": {"name": "new"}, "spec": {"containers": [{"name": "c", "resources": {"requests": {"cpu": cpu}}}]}})
    }

    fn message(outcome: Outcome) -> String {
        match outcome {
            Outcome::Refused(refused) => refused.message,
            Outcome::Bind(node) => panic!("bound to {node}"),
        }
    }

    #[test]
    fn nodes_are_refused_in_upstreams_words() {
        let mut cluster = cluster();
        cluster.set(&json!({"metadata": {"name": "c"}, "spec": {"unschedulable": true, "taints": [{"key": "k", "effect": "NoSchedule"}]}}));
        cluster.set(&json!({"metadata": {"name": "d"}, "spec": {"taints": [{"key": "k", "effect": "NoSchedule"}]}}));
        cluster.bound("full", "a", asking("4"));
        let not_helpful = |n: usize| format!("{n} Preemption is not helpful for scheduling");
        let pinned = json!({"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["d"]}]});
        let mut to_d = json!({"metadata": {"name": "new"}});
        to_d["spec"]["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"] = json!([pinned]);
        let claim = json!({"spec": {"volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "data"}}]}});
        let snapshot = [
            (
                asking("5"),
                "2 Insufficient cpu, 1 node(s) had untolerated taint(s), 1 node(s) were unschedulable".to_owned(),
                not_helpful(4),
            ),
            (
                json!({"spec": {"nodeSelector": {"zone": "z9"}}}),
                "1 node(s) had untolerated taint(s), 1 node(s) were unschedulable, 2 node(s) didn't match Pod's node affinity/selector"
                    .to_owned(),
                not_helpful(4),
            ),
            (to_d, "1 node(s) had untolerated taint(s), 3 node(s) didn't satisfy plugin(s) [NodeAffinity]".to_owned(), not_helpful(4)),
            (claim, "persistentvolumeclaim \"data\" not found".to_owned(), not_helpful(4)),
        ];
        for (ask, reasons, preemption) in snapshot {
            let mut parts: Vec<&str> = reasons.split(", ").collect();
            parts.sort_unstable();
            let want = format!("0/4 nodes are available: {}. preemption: 0/4 nodes are available: {preemption}.", parts.join(", "));
            assert_eq!(message(cluster.plan(&ask, 0)), want, "{ask}");
        }
        assert_eq!(message(TestCluster::default().plan(&asking("1"), 0)), "no nodes available to schedule pods");
    }

    #[test]
    fn the_emptier_node_is_taken_and_random_numbers_break_ties() {
        let mut cluster = cluster();
        assert_eq!(cluster.plan(&asking("1"), 0), Outcome::Bind("a".into()));
        assert_eq!(cluster.plan(&asking("1"), 1), Outcome::Bind("b".into()));
        cluster.bound("one", "b", asking("1"));
        for random in 0..4 {
            assert_eq!(cluster.plan(&asking("1"), random), Outcome::Bind("a".into()));
        }
    }

    #[test]
    fn siblings_are_spread_by_default() {
        let mut cluster = cluster();
        cluster.bound("web", "a", json!({"metadata": {"labels": {"app": "web"}}}));
        // As full as a, but with strangers.
        cluster.bound("db", "b", json!({"metadata": {"labels": {"app": "db"}}}));
        let siblings = api::selector::Labels::parse("app=web").unwrap();
        for random in 0..4 {
            let outcome =
                cluster.plan_with(&json!({"metadata": {"name": "new", "labels": {"app": "web"}}}), random, Some(siblings.clone()));
            assert_eq!(outcome, Outcome::Bind("b".into()));
        }
    }

    #[test]
    fn nominated_pods_count_for_the_weaker_only() {
        let mut cluster = cluster();
        cluster.bound("full", "a", asking("4"));
        let with_priority = |name: &str, priority: i32| {
            let mut pod = asking("3");
            pod["metadata"]["name"] = name.into();
            pod["spec"]["priority"] = priority.into();
            pod
        };
        cluster.nominate(&with_priority("expected", 5), "b");
        assert!(message(cluster.plan(&with_priority("weak", 0), 0)).starts_with("0/2 nodes are available: 2 Insufficient cpu."));
        assert_eq!(cluster.plan(&with_priority("strong", 9), 0), Outcome::Bind("b".into()));
        assert_eq!(cluster.plan(&with_priority("expected", 5), 0), Outcome::Bind("b".into()), "it does not stand in its own way");
    }
}
