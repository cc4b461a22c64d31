//! InterPodAffinity: near some pods, far from others; both what the pod says and what placed pods say. Source: `plugins/interpodaffinity`.

use crate::{
    counters::{CounterId, Force, forces},
    framework::{Ask, Change, Cycle, EquivalenceClass, Looking, Plugin, PreFilter, SCORE_MAX},
    node::{NodeInfo, Slot},
    plugin_states::PluginState,
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
struct Wishes {
    near: Option<Near>,
    far: Vec<(CounterId, TopologyId)>,
    /// Weight, negative for anti-affinity.
    preferred: Vec<(i64, CounterId, TopologyId)>,
}

/// Required affinity: one and the same pod must match all terms to count.
struct Near {
    counter: CounterId,
    topologies: Vec<TopologyId>,
    matches_self: bool,
}

/// Pods per domain, for each question.
#[derive(Clone)]
struct Neighbours<'a> {
    snapshot: &'a Snapshot,
    ask: &'a Ask,
    wishes: Option<&'a Wishes>,
    near: Vec<Asked<'a>>,
    /// Nowhere is a pod that the pod wants to be near to.
    lonely: bool,
    far: Vec<Asked<'a>>,
    /// Placed pods that want this one far.
    repelling: Vec<Asked<'a>>,
}

type Asked<'a> = (TopologyId, Sums<'a>);

impl PluginState for Wishes {}

impl Wishes {
    fn new(snapshot: &mut Snapshot, pod: &PodInfo, affinity: &Affinity) -> Self {
        let near = (!affinity.required.is_empty()).then(|| {
            let topologies: Vec<TopologyId> = affinity.required.iter().map(|t| snapshot.topology(&t.topology_key)).collect();
            let counter = snapshot.counter(Matcher::all_of(&affinity.required));
            topologies.iter().for_each(|topology| snapshot.counters.sum(counter, *topology, &snapshot.topologies));
            let matches_self = affinity.required.iter().all(|t| means(t, pod, &snapshot.namespaces));
            Near { counter, topologies, matches_self }
        });
        let mut one = |term: &Term| {
            let topology = snapshot.topology(&term.topology_key);
            (snapshot.summed(Matcher::all_of([term]), topology), topology)
        };
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

impl<'a> Neighbours<'a> {
    fn new(snapshot: &'a Snapshot, ask: &'a Ask) -> Self {
        let (none, wishes) = (Vec::new, ask.state.read::<Wishes>());
        let mut out = Self { snapshot, ask, wishes, near: none(), lonely: false, far: none(), repelling: none() };
        let sums = |counter: CounterId, topology: TopologyId| (topology, Sums::shared(snapshot.counters.sums(counter, topology)));
        if let Some(near) = out.wanted() {
            out.near = near.topologies.iter().map(|topology| sums(near.counter, *topology)).collect();
            out.look_around();
        }
        out.far = out.unwanted().iter().map(|(counter, topology)| sums(*counter, *topology)).collect();
        let repelling = snapshot.terms.about(&ask.info, &snapshot.namespaces).filter(|g| g.force == Force::Repels);
        out.repelling = repelling.map(|group| (group.topology, Sums::shared(Some(&group.sums)))).collect();
        out
    }

    fn wanted(&self) -> Option<&'a Near> {
        self.wishes?.near.as_ref()
    }

    fn unwanted(&self) -> &'a [(CounterId, TopologyId)] {
        self.wishes.map_or(&[], |wishes| &wishes.far)
    }

    fn look_around(&mut self) {
        self.lonely = self.near.iter().all(|(_, sums)| sums.is_empty());
    }

    fn is_near(&self, near: &Near, slot: Slot) -> bool {
        let topologies = &self.snapshot.topologies;
        if near.topologies.iter().any(|t| topologies.domain(*t, slot) == NO_DOMAIN) {
            return false;
        }
        let all = self.near.iter().all(|(topology, sums)| sums.get(topologies.domain(*topology, slot)) > 0);
        // The first of its kind may start anywhere.
        all || (near.matches_self && self.lonely)
    }
}

impl<'a> Looking<'a> for Neighbours<'a> {
    fn refuses(&self, node: Slot) -> Option<Refusal> {
        if self.wanted().is_some_and(|near| !self.is_near(near, node)) {
            return Some(Refusal::unresolvable(NAME, "node(s) didn't match pod affinity rules"));
        }
        if any_at(&self.far, self.snapshot, node) {
            return Some(Refusal::resolvable(NAME, "node(s) didn't match pod anti-affinity rules"));
        }
        if any_at(&self.repelling, self.snapshot, node) {
            return Some(Refusal::resolvable(NAME, "node(s) didn't satisfy existing pods anti-affinity rules"));
        }
        None
    }

    /// Nobody's wishes speak about the pod, nor its own about others.
    fn is_silent(&self) -> bool {
        self.near.is_empty() && self.far.is_empty() && self.repelling.is_empty()
    }

    fn shift(&mut self, pod: &PodInfo, row: &NodeInfo, by: i64) {
        let snapshot = self.snapshot;
        let domain = |topology: TopologyId| snapshot.topologies.domain(topology, row.slot);
        let matches = |counter: CounterId| snapshot.counters.matches(counter, pod, &snapshot.namespaces);
        if self.wanted().is_some_and(|n| matches(n.counter)) {
            self.near.iter_mut().for_each(|(topology, sums)| bend(sums, domain(*topology), by));
            self.look_around();
        }
        let unwanted = self.unwanted();
        for ((_, sums), (counter, topology)) in self.far.iter_mut().zip(unwanted) {
            if matches(*counter) {
                bend(sums, domain(*topology), by);
            }
        }
        let repels = forces(pod).filter(|(term, force)| *force == Force::Repels && means(term, &self.ask.info, &snapshot.namespaces));
        for topology in repels.filter_map(|(term, _)| snapshot.topologies.find(&term.topology_key)) {
            if !self.repelling.iter().any(|(t, _)| *t == topology) {
                self.repelling.push((topology, Sums::shared(None)));
            }
            if let Some((_, sums)) = self.repelling.iter_mut().find(|(t, _)| *t == topology) {
                bend(sums, domain(topology), by);
            }
        }
    }

    fn boxed(&self) -> Box<dyn Looking<'a> + 'a> {
        Box::new(self.clone())
    }
}

impl Plugin for InterPodAffinity {
    fn name(&self) -> &'static str {
        NAME
    }

    fn pre_filter(&self, at: &mut PreFilter<'_>) -> Result<(), Refusal> {
        if let Some(affinity) = &at.pod.affinity {
            let wishes = Wishes::new(at.snapshot, at.pod, affinity);
            at.keep(wishes);
        }
        Ok(())
    }

    fn looks_around<'a>(&self, ask: &'a Ask, snapshot: &'a Snapshot, _class: &'a EquivalenceClass) -> Option<Box<dyn Looking<'a> + 'a>> {
        let neighbours = Neighbours::new(snapshot, ask);
        // Those who are expected somewhere may want it far from them.
        (!neighbours.is_silent() || snapshot.has_speaking_nominations()).then(|| neighbours.boxed())
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
        let wishes = preferred(cycle).iter().map(|(weight, counter, t)| (*weight, *t, snapshot.counters.sums(*counter, *t)));
        let groups = snapshot.terms.about(&cycle.ask.info, &snapshot.namespaces).filter_map(|group| match group.force {
            Force::Pulls(weight) => Some((weight, group.topology, Some(&group.sums))),
            Force::Repels => None,
        });
        scores.fill(0);
        // Node by node within a question: what is read then lies together.
        for (weight, topology, sums) in wishes.chain(groups).filter_map(|(w, t, sums)| Some((w, t, sums?))) {
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
            Change::NodeGone(_) => false,
        }
    }
}

fn preferred<'a>(cycle: &Cycle<'a>) -> &'a [(i64, CounterId, TopologyId)] {
    cycle.ask.state.read::<Wishes>().map_or(&[], |wishes| &wishes.preferred)
}

fn any_at(asked: &[Asked<'_>], snapshot: &Snapshot, slot: Slot) -> bool {
    asked.iter().any(|(topology, sums)| {
        let domain = snapshot.topologies.domain(*topology, slot);
        domain != NO_DOMAIN && sums.get(domain) > 0
    })
}

fn bend(sums: &mut Sums<'_>, domain: Domain, by: i64) {
    if domain != NO_DOMAIN {
        sums.bend(domain, by);
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
        let snapshot = [
            (saying("new", "web", "podAffinity", &json!([term("db")])), [None, None, some(NEAR)]),
            (saying("new", "web", "podAffinity", &json!([term("cache")])), [some(NEAR), some(NEAR), some(NEAR)]),
            (saying("new", "web", "podAffinity", &json!([term("web")])), [None, None, None]),
            (saying("new", "web", "podAntiAffinity", &json!([term("db")])), [some(FAR), some(FAR), None]),
            (saying("new", "web", "podAntiAffinity", &json!([term("cache")])), [None, None, None]),
        ];
        for (ask, want) in snapshot {
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
        world.snapshot.set_namespace("prod", Some(&[("tier".to_owned(), "gold".to_owned())].into()));
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
        assert!(InterPodAffinity.queueing_hint(&waiting, &Change::PodGone(&db, None)));
        assert!(!InterPodAffinity.queueing_hint(&waiting, &Change::PodGone(&other, None)));
        assert!(!InterPodAffinity.queueing_hint(&waiting, &Change::PodPlaced(&db)));
    }
}
