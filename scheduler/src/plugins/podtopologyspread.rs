//! PodTopologySpread: pods of a kind evenly over domains. Source: `plugins/podtopologyspread`.

use api::{
    k8s::api::core::v1::TopologySpreadConstraint,
    selector::{Labels, Op, Requirement},
};

use crate::{
    column::Column,
    counters::CounterId,
    crowds::{Answer, Answers, Question},
    cycle_state::StateData,
    framework::{Ask, Cell, Change, Cycle, EquivalenceClass, Plugin, PreFilter, PreFilterExtensions, SCORE_MAX},
    node::{Facts, NodeInfo, Slot},
    pod::PodInfo,
    refusal::Refusal,
    snapshot::Snapshot,
    sums::Sums,
    terms::{Matcher, selector},
    topology::{Domain, HOSTNAME, NO_DOMAIN, TopologyId},
};

const NAME: &str = "PodTopologySpread";
/// In place of a crowd: the node lacks a key.
const IGNORED: i64 = -1;

pub struct PodTopologySpread;

/// The pod's constraints.
#[derive(Default)]
struct Spread {
    /// `DoNotSchedule`
    hard: Vec<Constraint>,
    /// `ScheduleAnyway`
    soft: Vec<Constraint>,
    /// Nodes that lack a key of a soft constraint are the worst. Not so with the cluster's defaults.
    needs_all_keys: bool,
}

struct Constraint {
    max_skew: i64,
    topology: TopologyId,
    per_node: bool,
    counter: CounterId,
    matches_self: bool,
    min_domains: usize,
    honors_affinity: bool,
    honors_taints: bool,
}

/// Per hard constraint: how many pods are in each domain.
#[derive(Clone)]
struct Tallies<'a> {
    snapshot: &'a Snapshot,
    class: &'a EquivalenceClass,
    hard: &'a [Constraint],
    /// One for each.
    tallies: Vec<Tally<'a>>,
}

#[derive(Clone)]
struct Tally<'a> {
    sums: Sums<'a>,
    /// The domains that count: some node in them is one the pod could use.
    counted: Vec<Domain>,
    least: i64,
}

impl StateData for Spread {}

impl Spread {
    fn new(snapshot: &mut Snapshot, pod: &PodInfo, own: &[TopologySpreadConstraint]) -> Self {
        let mut out = Self { needs_all_keys: true, ..Self::default() };
        for constraint in own {
            let made = Constraint::new(snapshot, pod, constraint);
            if constraint.when_unsatisfiable == "DoNotSchedule" { out.hard.push(made) } else { out.soft.push(made) }
        }
        out
    }

    fn counter(snapshot: &mut Snapshot, matcher: Matcher, key: &str) -> CounterId {
        let topology = snapshot.topology(key);
        snapshot.summed(matcher, topology)
    }

    /// As the cluster's default says.
    fn by_default(snapshot: &mut Snapshot, pod: &PodInfo, siblings: &Labels) -> Self {
        let matcher = Matcher::spread(&pod.key.namespace, siblings.clone());
        let mut soft = |key: &str, max_skew: i64| Constraint {
            max_skew,
            topology: snapshot.topology(key),
            per_node: key == HOSTNAME,
            counter: Self::counter(snapshot, matcher.clone(), key),
            matches_self: siblings.matches(pod.labels()),
            min_domains: 1,
            honors_affinity: true,
            honors_taints: false,
        };
        Self { soft: vec![soft(HOSTNAME, 3), soft("topology.kubernetes.io/zone", 5)], ..Self::default() }
    }
}

impl Constraint {
    fn new(snapshot: &mut Snapshot, pod: &PodInfo, of: &TopologySpreadConstraint) -> Self {
        let selector = meant(pod, of);
        Self {
            max_skew: i64::from(of.max_skew),
            topology: snapshot.topology(&of.topology_key),
            per_node: of.topology_key == HOSTNAME,
            matches_self: selector.as_ref().is_some_and(|s| s.matches(pod.labels())),
            // An absent selector and an empty one both count nothing.
            counter: Spread::counter(snapshot, Matcher::spread(&pod.key.namespace, selector.unwrap_or_default()), &of.topology_key),
            min_domains: of.min_domains.and_then(|n| usize::try_from(n).ok()).unwrap_or(1),
            honors_affinity: of.node_affinity_policy.as_deref() != Some("Ignore"),
            honors_taints: of.node_taints_policy.as_deref() == Some("Honor"),
        }
    }

    /// Every node counts, as far as its key is not asked for.
    fn includes_all(&self, class: &EquivalenceClass) -> bool {
        (class.foreign == 0 || !self.honors_affinity) && (class.untolerated == 0 || !self.honors_taints)
    }

    fn includes(&self, cell: Option<&Cell>) -> bool {
        cell.is_none_or(|c| (c.affinity_matches || !self.honors_affinity) && (c.taints_tolerated || !self.honors_taints))
    }
}

impl<'a> Tallies<'a> {
    fn new(snapshot: &'a Snapshot, class: &'a EquivalenceClass, hard: &'a [Constraint]) -> Self {
        let all_counted = all_have_keys(snapshot, hard) && hard.iter().all(|c| c.includes_all(class));
        let tally = |c: &Constraint| if all_counted { Tally::shared(snapshot, c) } else { Tally::counted(snapshot, class, hard, c) };
        Self { snapshot, class, hard, tallies: hard.iter().map(tally).collect() }
    }
}

impl<'a> PreFilterExtensions<'a> for Tallies<'a> {
    fn filter(&self, node: Slot) -> Option<Refusal> {
        for (constraint, tally) in self.hard.iter().zip(&self.tallies) {
            let domain = self.snapshot.topologies.domain(constraint.topology, node);
            if domain == NO_DOMAIN {
                let reason = "node(s) didn't match pod topology spread constraints (missing required label)";
                return Some(Refusal::unresolvable(NAME, reason));
            }
            let least = if tally.counted.len() < constraint.min_domains { 0 } else { tally.least };
            if tally.sums.get(domain) + i64::from(constraint.matches_self) - least > constraint.max_skew {
                return Some(Refusal::resolvable(NAME, "node(s) didn't match pod topology spread constraints"));
            }
        }
        None
    }

    fn is_silent(&self) -> bool {
        self.hard.is_empty()
    }

    fn update_with_pod(&mut self, pod: &PodInfo, node: &NodeInfo, by: i64) {
        let snapshot = self.snapshot;
        if !has_all_keys(snapshot, self.hard, node.slot) {
            return;
        }
        let cell = self.class.cell(node.slot);
        for (constraint, tally) in self.hard.iter().zip(&mut self.tallies) {
            if constraint.includes(cell) && !pod.terminating && snapshot.counters.matches(constraint.counter, pod, &snapshot.namespaces) {
                tally.sums.add(snapshot.topologies.domain(constraint.topology, node.slot), by);
                tally.find_least();
            }
        }
    }

    fn boxed(&self) -> Box<dyn PreFilterExtensions<'a> + 'a> {
        Box::new(self.clone())
    }
}

impl<'a> Tally<'a> {
    /// All nodes count: the sums are those of the snapshot.
    fn shared(snapshot: &'a Snapshot, constraint: &Constraint) -> Self {
        let counted = snapshot.topologies.domains(constraint.topology).collect();
        Self::new(Sums::shared(snapshot.counters.sums(constraint.counter, constraint.topology)), counted)
    }

    /// Only nodes with all keys count that the pod could use.
    fn counted(snapshot: &Snapshot, class: &EquivalenceClass, all: &[Constraint], constraint: &Constraint) -> Self {
        let (mut sums, mut counts, mut counted) = (Column::default(), Column::<bool>::default(), Vec::new());
        for node in snapshot.nodes().filter(|node| has_all_keys(snapshot, all, node.slot) && constraint.includes(class.cell(node.slot))) {
            let domain = snapshot.topologies.domain(constraint.topology, node.slot);
            *sums.slot(domain) += snapshot.counters.count(constraint.counter, node.slot);
            if !std::mem::replace(counts.slot(domain), true) {
                counted.push(domain);
            }
        }
        Self::new(Sums::own(sums), counted)
    }

    fn new(sums: Sums<'a>, counted: Vec<Domain>) -> Self {
        let mut tally = Self { sums, counted, least: 0 };
        tally.find_least();
        tally
    }

    fn find_least(&mut self) {
        self.least = self.counted.iter().map(|domain| self.sums.get(*domain)).min().unwrap_or(0);
    }
}

impl Plugin for PodTopologySpread {
    fn name(&self) -> &'static str {
        NAME
    }

    fn pre_filter(&self, at: &mut PreFilter<'_>) -> Result<(), Refusal> {
        let own = at.pod.spec().and_then(|s| s.topology_spread_constraints.as_deref()).unwrap_or(&[]);
        let spread = if own.is_empty() {
            at.siblings.filter(|s| !s.is_empty()).map(|siblings| Spread::by_default(at.snapshot, at.pod, siblings))
        } else {
            Some(Spread::new(at.snapshot, at.pod, own))
        };
        if let Some(spread) = spread {
            at.keep(spread);
        }
        Ok(())
    }

    fn pre_filter_extensions<'a>(
        &self,
        ask: &'a Ask,
        snapshot: &'a Snapshot,
        class: &'a EquivalenceClass,
    ) -> Option<Box<dyn PreFilterExtensions<'a> + 'a>> {
        let hard = &ask.state.read::<Spread>()?.hard;
        (!hard.is_empty()).then(|| Tallies::new(snapshot, class, hard).boxed())
    }

    fn weight(&self) -> i64 {
        2
    }

    fn compares(&self) -> bool {
        true
    }

    fn is_even(&self, cycle: &Cycle<'_>) -> bool {
        spread(cycle).is_none_or(|spread| spread.soft.is_empty())
    }

    fn normalize_score(&self, cycle: &Cycle<'_>, nodes: &[Slot], scores: &mut [i64]) {
        let Some(spread) = spread(cycle).filter(|spread| !spread.soft.is_empty()) else { return };
        let some_lack_keys = spread.needs_all_keys && !all_have_keys(cycle.snapshot, &spread.soft);
        let ignored = |slot: Slot| some_lack_keys && !has_all_keys(cycle.snapshot, &spread.soft, slot);
        let mut sums = vec![0.0; nodes.len()];
        for constraint in &spread.soft {
            add_crowd(cycle, spread, constraint, nodes, &ignored, &mut sums);
        }
        // The crowd of a node that is ignored is never looked at.
        for ((score, sum), slot) in scores.iter_mut().zip(&sums).zip(nodes) {
            *score = if ignored(*slot) { IGNORED } else { sum.round() as i64 };
        }
        less_is_better(scores);
    }

    /// What the soft constraints ask of each node, then the hard ones; `None` where nodes that the pod cannot use, or that lack keys, have to be
    /// left out one by one, and where a hard one has as many domains as there are nodes.
    fn questions(&self, cycle: &Cycle<'_>) -> Option<Vec<Question>> {
        let spread = spread(cycle)?;
        let lacking = spread.needs_all_keys && !all_have_keys(cycle.snapshot, &spread.soft);
        if lacking || spread.soft.iter().any(|c| !c.per_node && !c.includes_all(cycle.class)) || spread.hard.iter().any(|c| c.per_node) {
            return None;
        }
        let question = |c: &Constraint| Question {
            topology: c.topology,
            per_node: c.per_node.then(|| (c.counter, cycle.snapshot.counters.born(c.counter))),
        };
        Some(spread.soft.iter().chain(&spread.hard).map(question).collect())
    }

    fn compare_groups(&self, cycle: &Cycle<'_>, groups: &[(&Answers, usize)]) -> Vec<i64> {
        let mut sums = vec![0.0; groups.len()];
        for (at, constraint) in spread(cycle).iter().flat_map(|spread| &spread.soft).enumerate() {
            let answers = || groups.iter().filter_map(|(answers, _)| answers.get(at).copied());
            let size = if constraint.per_node {
                groups.iter().map(|(_, nodes)| nodes).sum()
            } else {
                answers().collect::<std::collections::HashSet<_>>().len()
            };
            let in_domain = Sums::shared(cycle.snapshot.counters.sums(constraint.counter, constraint.topology));
            let weight = ((size + 2) as f64).ln();
            for (sum, answer) in sums.iter_mut().zip(answers()) {
                let pods = match answer {
                    Answer::Domain(NO_DOMAIN) => continue,
                    Answer::Domain(domain) => in_domain.get(domain),
                    Answer::Pods(pods) => pods,
                };
                *sum += pods as f64 * weight + (constraint.max_skew - 1) as f64;
            }
        }
        let mut scores: Vec<i64> = sums.iter().map(|sum: &f64| sum.round() as i64).collect();
        less_is_better(&mut scores);
        scores
    }

    fn queueing_hint(&self, pod: &PodInfo, change: &Change<'_>) -> bool {
        let constraints = hard(pod);
        let counted = |other: &PodInfo| {
            other.key.namespace == pod.key.namespace && constraints.iter().any(|c| meant(pod, c).is_some_and(|s| s.matches(other.labels())))
        };
        let has_keys = |node: &Facts| constraints.iter().all(|c| node.labels.contains_key(&c.topology_key));
        match change {
            Change::PodPlaced(other) | Change::PodGone(other, _) => counted(other),
            Change::PodChanged(old, new) => old.labels() != new.labels() && (counted(old) || counted(new)),
            Change::NodeAdded(node) | Change::NodeGone(node) => has_keys(node),
            Change::NodeChanged(old, new) => (has_keys(old) || has_keys(new)) && (old.labels != new.labels || old.taints != new.taints),
            _ => false,
        }
    }
}

fn less_is_better(crowds: &mut [i64]) {
    let counted = || crowds.iter().copied().filter(|crowd| *crowd != IGNORED);
    let (least, most) = (counted().min().unwrap_or(i64::MAX), counted().max().unwrap_or(0));
    for crowd in crowds {
        *crowd = match *crowd {
            IGNORED => 0,
            _ if most == 0 => SCORE_MAX,
            n => SCORE_MAX * (most + least - n) / most,
        };
    }
}

fn spread<'a>(cycle: &Cycle<'a>) -> Option<&'a Spread> {
    cycle.ask.state.read()
}

/// Adds what the constraint makes of how many matching pods are in each node's domain.
fn add_crowd(
    cycle: &Cycle<'_>,
    spread: &Spread,
    constraint: &Constraint,
    nodes: &[Slot],
    ignored: &impl Fn(Slot) -> bool,
    sums: &mut [f64],
) {
    let snapshot = cycle.snapshot;
    let domain = |slot: Slot| snapshot.topologies.domain(constraint.topology, slot);
    let counting = || nodes.iter().filter(|slot| !ignored(**slot));
    let (in_domain, size) = if constraint.per_node {
        (None, counting().count())
    } else {
        let nowhere = snapshot.topologies.labelled(constraint.topology) < snapshot.len();
        let most = snapshot.topologies.size(constraint.topology) + usize::from(nowhere);
        let (seen, size) = domains_of(counting().map(|slot| domain(*slot)), most);
        (Some(pods_per_domain(cycle, spread, constraint, &seen)), size)
    };
    // Few large domains must not count less than many small ones.
    let weight = ((size + 2) as f64).ln();
    for (slot, sum) in nodes.iter().zip(sums).filter(|(slot, _)| domain(**slot) != NO_DOMAIN) {
        let pods = in_domain.as_ref().map_or_else(|| snapshot.counters.count(constraint.counter, *slot), |pods| pods.get(domain(*slot)));
        *sum += pods as f64 * weight + (constraint.max_skew - 1) as f64;
    }
}

/// The domains among these, and how many, of which there are at most so many. "None" is one, too.
fn domains_of(domains: impl Iterator<Item = Domain>, most: usize) -> (Column<bool>, usize) {
    let (mut seen, mut size) = (Column::<bool>::default(), 0);
    for domain in domains {
        size += usize::from(!std::mem::replace(seen.slot(domain), true));
        if size >= most {
            break;
        }
    }
    (seen, size)
}

fn pods_per_domain<'a>(cycle: &Cycle<'a>, spread: &Spread, constraint: &Constraint, seen: &Column<bool>) -> Sums<'a> {
    let snapshot = cycle.snapshot;
    if constraint.includes_all(cycle.class) && (!spread.needs_all_keys || all_have_keys(snapshot, &spread.soft)) {
        return Sums::shared(snapshot.counters.sums(constraint.counter, constraint.topology));
    }
    let domain = |slot: Slot| snapshot.topologies.domain(constraint.topology, slot);
    let mut pods = Column::default();
    for node in snapshot.nodes().filter(|node| seen.get(domain(node.slot)) && constraint.includes(cycle.class.cell(node.slot))) {
        if !spread.needs_all_keys || has_all_keys(snapshot, &spread.soft, node.slot) {
            *pods.slot(domain(node.slot)) += snapshot.counters.count(constraint.counter, node.slot);
        }
    }
    Sums::own(pods)
}

/// On every node.
fn all_have_keys(snapshot: &Snapshot, constraints: &[Constraint]) -> bool {
    constraints.iter().all(|c| snapshot.topologies.labelled(c.topology) == snapshot.len())
}

fn has_all_keys(snapshot: &Snapshot, constraints: &[Constraint], slot: Slot) -> bool {
    constraints.iter().all(|c| snapshot.topologies.domain(c.topology, slot) != NO_DOMAIN)
}

fn hard(pod: &PodInfo) -> Vec<&TopologySpreadConstraint> {
    let all = pod.spec().and_then(|s| s.topology_spread_constraints.as_ref());
    all.into_iter().flatten().filter(|c| c.when_unsatisfiable == "DoNotSchedule").collect()
}

/// The selector, with the pod's own values of `matchLabelKeys`.
fn meant(pod: &PodInfo, constraint: &TopologySpreadConstraint) -> Option<Labels> {
    let mut meant = selector(constraint.label_selector.as_ref())?;
    for key in constraint.match_label_keys.iter().flatten() {
        if let Some(value) = pod.labels().and_then(|l| l.get(key)) {
            meant.0.push(Requirement { key: key.clone(), op: Op::In, values: vec![value.clone()] });
        }
    }
    Some(meant)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::{TestCluster, pod};
    use serde_json::{Value, json};

    const SKEWED: &str = "node(s) didn't match pod topology spread constraints";

    /// Nodes a1 and a2 in zone a, b1 in zone b, x without a zone.
    fn cluster(pods: &[(&str, &str)]) -> TestCluster {
        let mut cluster = TestCluster::default();
        for (name, zone) in [("a1", Some("a")), ("a2", Some("a")), ("b1", Some("b")), ("x", None)] {
            cluster.node(name, json!({"zone": zone}));
        }
        for (at, (node, app)) in pods.iter().enumerate() {
            cluster.bound(&format!("p{at}"), node, json!({"metadata": {"labels": {"app": app}}}));
        }
        cluster
    }

    fn wanting(constraint: Value) -> Value {
        let mut whole = json!({"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule",
            "labelSelector": {"matchLabels": {"app": "web"}}});
        whole.as_object_mut().unwrap().extend(constraint.as_object().unwrap().clone());
        json!({"metadata": {"name": "new", "labels": {"app": "web", "rev": "2"}}, "spec": {"topologySpreadConstraints": [whole]}})
    }

    #[test]
    fn hard_constraints_keep_the_skew() {
        let missing = format!("{SKEWED} (missing required label)");
        let snapshot = [
            (json!({}), vec![("a1", "web")], vec!["b1"]),
            (json!({}), vec![("a1", "web"), ("b1", "web")], vec!["a1", "a2", "b1"]),
            (json!({"maxSkew": 2}), vec![("a1", "web")], vec!["a1", "a2", "b1"]),
            (json!({}), vec![("a1", "db"), ("a2", "db")], vec!["a1", "a2", "b1"]),
            (json!({"minDomains": 3}), vec![("a1", "web"), ("b1", "web")], vec![]),
            (json!({"matchLabelKeys": ["rev"]}), vec![("a1", "web")], vec!["a1", "a2", "b1"]),
        ];
        for (constraint, pods, fit) in snapshot {
            let mut cluster = cluster(&pods);
            let refusals = cluster.refusals(&wanting(constraint.clone()));
            for (node, refusal) in refusals {
                let want = if fit.contains(&node.as_str()) {
                    None
                } else if node == "x" {
                    Some(missing.as_str())
                } else {
                    Some(SKEWED)
                };
                assert_eq!(refusal.as_deref(), want, "{constraint} {pods:?} {node}");
            }
        }
    }

    #[test]
    fn nodes_that_the_pod_cannot_use_count_only_if_asked_for() {
        let ask = |policy: &str| {
            let mut ask = wanting(json!({"nodeAffinityPolicy": policy}));
            ask["spec"]["nodeSelector"] = json!({"zone": "a"});
            ask
        };
        let mut cluster = cluster(&[("a1", "web")]);
        let fits = |refusals: Vec<(String, Option<String>)>| -> Vec<String> {
            refusals.into_iter().filter(|(_, r)| r.is_none()).map(|(node, _)| node).collect()
        };
        assert_eq!(fits(cluster.refusals(&ask("Honor"))), ["a1", "a2"]);
        assert!(fits(cluster.refusals(&ask("Ignore"))).is_empty());
    }

    #[test]
    fn soft_constraints_prefer_the_emptier_domain() {
        let mut cluster = cluster(&[("a1", "web"), ("a1", "web"), ("a2", "web")]);
        let scores = cluster.scores(&PodTopologySpread, &wanting(json!({"whenUnsatisfiable": "ScheduleAnyway"})));
        assert_eq!(scores, [("a1".to_owned(), 0), ("a2".to_owned(), 0), ("b1".to_owned(), 100), ("x".to_owned(), 0)]);
    }

    #[test]
    fn counts_follow_pods() {
        let mut cluster = cluster(&[("a1", "web")]);
        let ask = wanting(json!({}));
        assert_eq!(cluster.fitting(&ask), ["b1"]);
        cluster.bound("more", "b1", json!({"metadata": {"labels": {"app": "web"}}}));
        assert_eq!(cluster.fitting(&ask), ["a1", "a2", "b1"]);
        cluster.unbound("p0");
        assert_eq!(cluster.fitting(&ask), ["a1", "a2"]);
    }

    #[test]
    fn only_pods_that_count_help() {
        let waiting = pod(&wanting(json!({})));
        let web = pod(&json!({"metadata": {"labels": {"app": "web"}}}));
        let db = pod(&json!({"metadata": {"labels": {"app": "db"}}}));
        assert!(PodTopologySpread.queueing_hint(&waiting, &Change::PodPlaced(&web)));
        assert!(!PodTopologySpread.queueing_hint(&waiting, &Change::PodGone(&db, None)));
    }
}
