//! InterPodAffinity: near some pods, far from others; both what the pod says and what placed pods say. Source: `plugins/interpodaffinity`.

use crate::{
    counters::{CounterId, Force, forces},
    cycle_state::StateData,
    framework::{Ask, Change, Cycle, EquivalenceClass, Plugin, PreFilter, PreFilterExtensions, SCORE_MAX},
    node::{NodeInfo, Slot},
    pod::{Affinity, PodInfo},
    refusal::Refusal,
    snapshot::Snapshot,
    sums::Sums,
    terms::{Matcher, Namespaces, Term},
    topology::{Domain, NO_DOMAIN, TopologyId},
};

const NAME: &str = "InterPodAffinity";

pub struct InterPodAffinity;

/// The pod's own terms, each with the counter of the pods it means.
#[derive(Default)]
struct PodTerms {
    affinity: Option<RequiredAffinity>,
    anti_affinity: Vec<(CounterId, TopologyId)>,
    /// Weight, negative for anti-affinity.
    preferred: Vec<(i64, CounterId, TopologyId)>,
}

/// Required affinity: one and the same pod must match all terms to count.
struct RequiredAffinity {
    counter: CounterId,
    topologies: Vec<TopologyId>,
    matches_self: bool,
}

/// Pods per domain that match each term. Upstream: `preFilterState`.
#[derive(Clone)]
struct PreFilterState<'a> {
    snapshot: &'a Snapshot,
    ask: &'a Ask,
    terms: Option<&'a PodTerms>,
    affinity_counts: Vec<TopologyCount<'a>>,
    /// Nowhere is a pod that the pod wants to be near to.
    lonely: bool,
    anti_affinity_counts: Vec<TopologyCount<'a>>,
    /// Placed pods that want this one far.
    existing_anti_affinity_counts: Vec<TopologyCount<'a>>,
}

type TopologyCount<'a> = (TopologyId, Sums<'a>);

impl StateData for PodTerms {}

impl PodTerms {
    fn new(snapshot: &mut Snapshot, pod: &PodInfo, affinity: &Affinity) -> Self {
        let required = (!affinity.required.is_empty()).then(|| {
            let topologies: Vec<TopologyId> = affinity.required.iter().map(|t| snapshot.topology(&t.topology_key)).collect();
            let counter = snapshot.counter(Matcher::all_of(&affinity.required));
            topologies.iter().for_each(|topology| snapshot.counters.sum(counter, *topology, &snapshot.topologies));
            let matches_self = affinity.required.iter().all(|t| means(t, pod, &snapshot.namespaces));
            RequiredAffinity { counter, topologies, matches_self }
        });
        let mut one = |term: &Term| {
            let topology = snapshot.topology(&term.topology_key);
            (snapshot.summed(Matcher::all_of([term]), topology), topology)
        };
        let anti_affinity = affinity.required_anti.iter().map(&mut one).collect();
        let likes = affinity.preferred.iter().map(|(weight, term)| (*weight, term));
        let dislikes = affinity.preferred_anti.iter().map(|(weight, term)| (-weight, term));
        let preferred = likes.chain(dislikes).map(|(weight, term)| {
            let (counter, topology) = one(term);
            (weight, counter, topology)
        });
        Self { preferred: preferred.collect(), anti_affinity, affinity: required }
    }
}

impl<'a> PreFilterState<'a> {
    fn new(snapshot: &'a Snapshot, ask: &'a Ask) -> Self {
        let (none, terms) = (Vec::new, ask.state.read::<PodTerms>());
        let mut out = Self {
            snapshot,
            ask,
            terms,
            affinity_counts: none(),
            lonely: false,
            anti_affinity_counts: none(),
            existing_anti_affinity_counts: none(),
        };
        let sums = |counter: CounterId, topology: TopologyId| (topology, Sums::shared(snapshot.counters.sums(counter, topology)));
        if let Some(affinity) = out.affinity() {
            out.affinity_counts = affinity.topologies.iter().map(|topology| sums(affinity.counter, *topology)).collect();
            out.update_lonely();
        }
        out.anti_affinity_counts = out.anti_affinity().iter().map(|(counter, topology)| sums(*counter, *topology)).collect();
        let repelling = snapshot.terms.about(&ask.info, &snapshot.namespaces).filter(|g| g.force == Force::Repels);
        out.existing_anti_affinity_counts = repelling.map(|group| (group.topology, Sums::shared(Some(&group.sums)))).collect();
        out
    }

    fn affinity(&self) -> Option<&'a RequiredAffinity> {
        self.terms?.affinity.as_ref()
    }

    fn anti_affinity(&self) -> &'a [(CounterId, TopologyId)] {
        self.terms.map_or(&[], |terms| &terms.anti_affinity)
    }

    fn update_lonely(&mut self) {
        self.lonely = self.affinity_counts.iter().all(|(_, sums)| sums.is_empty());
    }

    fn satisfies_affinity(&self, affinity: &RequiredAffinity, slot: Slot) -> bool {
        let topologies = &self.snapshot.topologies;
        if affinity.topologies.iter().any(|t| topologies.domain(*t, slot) == NO_DOMAIN) {
            return false;
        }
        let all = self.affinity_counts.iter().all(|(topology, sums)| sums.get(topologies.domain(*topology, slot)) > 0);
        // The first of its kind may start anywhere.
        all || (affinity.matches_self && self.lonely)
    }
}

impl<'a> PreFilterExtensions<'a> for PreFilterState<'a> {
    fn filter(&self, node: Slot) -> Option<Refusal> {
        if self.affinity().is_some_and(|affinity| !self.satisfies_affinity(affinity, node)) {
            return Some(Refusal::unresolvable(NAME, "node(s) didn't match pod affinity rules"));
        }
        if any_at(&self.anti_affinity_counts, self.snapshot, node) {
            return Some(Refusal::resolvable(NAME, "node(s) didn't match pod anti-affinity rules"));
        }
        if any_at(&self.existing_anti_affinity_counts, self.snapshot, node) {
            return Some(Refusal::resolvable(NAME, "node(s) didn't satisfy existing pods anti-affinity rules"));
        }
        None
    }

    /// Nobody's terms speak about the pod, nor its own about others.
    fn is_silent(&self) -> bool {
        self.affinity_counts.is_empty() && self.anti_affinity_counts.is_empty() && self.existing_anti_affinity_counts.is_empty()
    }

    fn update_with_pod(&mut self, pod: &PodInfo, node: &NodeInfo, by: i64) {
        let snapshot = self.snapshot;
        let domain = |topology: TopologyId| snapshot.topologies.domain(topology, node.slot);
        let matches = |counter: CounterId| snapshot.counters.matches(counter, pod, &snapshot.namespaces);
        if self.affinity().is_some_and(|n| matches(n.counter)) {
            self.affinity_counts.iter_mut().for_each(|(topology, sums)| add_to(sums, domain(*topology), by));
            self.update_lonely();
        }
        let anti_affinity = self.anti_affinity();
        for ((_, sums), (counter, topology)) in self.anti_affinity_counts.iter_mut().zip(anti_affinity) {
            if matches(*counter) {
                add_to(sums, domain(*topology), by);
            }
        }
        let repels = forces(pod).filter(|(term, force)| *force == Force::Repels && means(term, &self.ask.info, &snapshot.namespaces));
        for topology in repels.filter_map(|(term, _)| snapshot.topologies.find(&term.topology_key)) {
            if !self.existing_anti_affinity_counts.iter().any(|(t, _)| *t == topology) {
                self.existing_anti_affinity_counts.push((topology, Sums::shared(None)));
            }
            if let Some((_, sums)) = self.existing_anti_affinity_counts.iter_mut().find(|(t, _)| *t == topology) {
                add_to(sums, domain(topology), by);
            }
        }
    }

    fn boxed(&self) -> Box<dyn PreFilterExtensions<'a> + 'a> {
        Box::new(self.clone())
    }
}

impl Plugin for InterPodAffinity {
    fn name(&self) -> &'static str {
        NAME
    }

    fn pre_filter(&self, at: &mut PreFilter<'_>) -> Result<(), Refusal> {
        if let Some(affinity) = &at.pod.affinity {
            let terms = PodTerms::new(at.snapshot, at.pod, affinity);
            at.keep(terms);
        }
        Ok(())
    }

    fn pre_filter_extensions<'a>(
        &self,
        ask: &'a Ask,
        snapshot: &'a Snapshot,
        _class: &'a EquivalenceClass,
    ) -> Option<Box<dyn PreFilterExtensions<'a> + 'a>> {
        let state = PreFilterState::new(snapshot, ask);
        // Those who are expected somewhere may want it far from them.
        (!state.is_silent() || snapshot.has_speaking_nominations()).then(|| state.boxed())
    }

    fn weight(&self) -> i64 {
        2
    }

    fn compares(&self) -> bool {
        true
    }

    fn is_even(&self, cycle: &Cycle<'_>) -> bool {
        let pulled = || cycle.snapshot.terms.about(&cycle.ask.info, &cycle.snapshot.namespaces).any(|g| matches!(g.force, Force::Pulls(_)));
        preferred(cycle).is_empty() && !pulled()
    }

    fn normalize_score(&self, cycle: &Cycle<'_>, nodes: &[Slot], scores: &mut [i64]) {
        let snapshot = cycle.snapshot;
        let terms = preferred(cycle).iter().map(|(weight, counter, t)| (*weight, *t, snapshot.counters.sums(*counter, *t)));
        let groups = snapshot.terms.about(&cycle.ask.info, &snapshot.namespaces).filter_map(|group| match group.force {
            Force::Pulls(weight) => Some((weight, group.topology, Some(&group.sums))),
            Force::Repels => None,
        });
        scores.fill(0);
        // Node by node within a question: what is read then lies together.
        for (weight, topology, sums) in terms.chain(groups).filter_map(|(w, t, sums)| Some((w, t, sums?))) {
            for (score, slot) in scores.iter_mut().zip(nodes) {
                *score += weight * sums.get(snapshot.topologies.domain(topology, *slot));
            }
        }
        let (least, most) = (scores.iter().copied().min().unwrap_or(0), scores.iter().copied().max().unwrap_or(0));
        for score in scores {
            *score = if most == least { 0 } else { (SCORE_MAX as f64 * ((*score - least) as f64 / (most - least) as f64)) as i64 };
        }
    }

    fn queueing_hint(&self, pod: &PodInfo, change: &Change<'_>) -> bool {
        let wants = |other: &PodInfo| pod.affinity.as_ref().is_some_and(|a| a.required.iter().any(|t| could_mean(t, other)));
        match change {
            Change::PodPlaced(new) => wants(new),
            // It was in the way, or it was the one that kept a lonely pod from being the first of its kind.
            Change::PodGone(old, _) => wants(old) || in_the_way(pod, old),
            Change::PodChanged(old, new) => old.labels() != new.labels() && (wants(new) || in_the_way(pod, old)),
            Change::NodeAdded(_) => true,
            Change::NodeChanged(old, new) => old.labels != new.labels,
            _ => false,
        }
    }
}

fn preferred<'a>(cycle: &Cycle<'a>) -> &'a [(i64, CounterId, TopologyId)] {
    cycle.ask.state.read::<PodTerms>().map_or(&[], |terms| &terms.preferred)
}

fn any_at(counts: &[TopologyCount<'_>], snapshot: &Snapshot, slot: Slot) -> bool {
    counts.iter().any(|(topology, sums)| {
        let domain = snapshot.topologies.domain(*topology, slot);
        domain != NO_DOMAIN && sums.get(domain) > 0
    })
}

fn add_to(sums: &mut Sums<'_>, domain: Domain, by: i64) {
    if domain != NO_DOMAIN {
        sums.add(domain, by);
    }
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
    use crate::tests::{TestCluster, pod};
    use serde_json::{Value, json};

    const NEAR: &str = "node(s) didn't match pod affinity rules";
    const FAR: &str = "node(s) didn't match pod anti-affinity rules";
    const REPELLED: &str = "node(s) didn't satisfy existing pods anti-affinity rules";

    fn cluster() -> TestCluster {
        let mut cluster = TestCluster::default();
        for (name, zone) in [("a1", "a"), ("a2", "a"), ("b1", "b")] {
            cluster.node(name, json!({"zone": zone}));
        }
        cluster
    }

    fn term(app: &str) -> Value {
        json!({"topologyKey": "zone", "labelSelector": {"matchLabels": {"app": app}}})
    }

    fn saying(name: &str, app: &str, how: &str, terms: &Value) -> Value {
        let key = if terms[0]["weight"].is_null() { "required" } else { "preferred" };
        json!({"metadata": {"name": name, "labels": {"app": app}},
            "spec": {"affinity": {how: {format!("{key}DuringSchedulingIgnoredDuringExecution"): terms}}}})
    }

    fn told(cluster: &mut TestCluster, ask: &Value) -> Vec<Option<String>> {
        cluster.refusals(ask).into_iter().map(|(_, refusal)| refusal).collect()
    }

    #[test]
    fn required_terms() {
        let mut cluster = cluster();
        cluster.bound("db", "a1", json!({"metadata": {"labels": {"app": "db"}}}));
        let some = |text: &str| Some(text.to_owned());
        let snapshot = [
            (saying("new", "web", "podAffinity", &json!([term("db")])), [None, None, some(NEAR)]),
            (saying("new", "web", "podAffinity", &json!([term("cache")])), [some(NEAR), some(NEAR), some(NEAR)]),
            (saying("new", "web", "podAffinity", &json!([term("web")])), [None, None, None]),
            (saying("new", "web", "podAntiAffinity", &json!([term("db")])), [some(FAR), some(FAR), None]),
            (saying("new", "web", "podAntiAffinity", &json!([term("cache")])), [None, None, None]),
        ];
        for (ask, want) in snapshot {
            assert_eq!(told(&mut cluster, &ask), want, "{ask}");
        }
    }

    #[test]
    fn placed_pods_keep_others_away() {
        let mut cluster = cluster();
        cluster.bound("shy", "b1", saying("shy", "db", "podAntiAffinity", &json!([term("web")])));
        let web = json!({"metadata": {"name": "new", "labels": {"app": "web"}}});
        assert_eq!(told(&mut cluster, &web), [None, None, Some(REPELLED.to_owned())]);
        cluster.unbound("shy");
        assert_eq!(told(&mut cluster, &web), [None, None, None]);
    }

    #[test]
    fn namespace_selectors_follow_labels() {
        let mut cluster = cluster();
        cluster.bound("db", "a1", json!({"metadata": {"namespace": "prod", "labels": {"app": "db"}}}));
        let mut far = term("db");
        far["namespaceSelector"] = json!({"matchLabels": {"tier": "gold"}});
        let ask = saying("new", "web", "podAntiAffinity", &json!([far]));
        assert_eq!(cluster.fitting(&ask), ["a1", "a2", "b1"]);
        cluster.snapshot.set_namespace("prod", Some(&[("tier".to_owned(), "gold".to_owned())].into()));
        assert_eq!(cluster.fitting(&ask), ["b1"]);
    }

    #[test]
    fn preferences_of_both_sides_count() {
        let mut cluster = cluster();
        cluster.bound("db", "a1", json!({"metadata": {"labels": {"app": "db"}}}));
        let prefer = |app: &str| json!([{"weight": 10, "podAffinityTerm": term(app)}]);
        let scores = |cluster: &mut TestCluster, ask: &Value| -> Vec<i64> {
            cluster.scores(&InterPodAffinity, ask).into_iter().map(|(_, s)| s).collect()
        };
        assert_eq!(scores(&mut cluster, &saying("new", "web", "podAffinity", &prefer("db"))), [100, 100, 0]);
        assert_eq!(scores(&mut cluster, &saying("new", "web", "podAntiAffinity", &prefer("db"))), [0, 0, 100]);
        cluster.bound("fan", "b1", saying("fan", "fan", "podAffinity", &prefer("web")));
        assert_eq!(scores(&mut cluster, &json!({"metadata": {"name": "new", "labels": {"app": "web"}}})), [0, 0, 100]);
    }

    #[test]
    fn who_helps() {
        let waiting = pod(&saying("new", "web", "podAntiAffinity", &json!([term("db")])));
        let db = pod(&json!({"metadata": {"labels": {"app": "db"}}}));
        let other = pod(&json!({"metadata": {"labels": {"app": "x"}}}));
        assert!(InterPodAffinity.queueing_hint(&waiting, &Change::PodGone(&db, None)));
        assert!(!InterPodAffinity.queueing_hint(&waiting, &Change::PodGone(&other, None)));
        assert!(!InterPodAffinity.queueing_hint(&waiting, &Change::PodPlaced(&db)));
    }
}
