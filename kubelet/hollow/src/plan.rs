//! What a hollow pod or node is, since when, and random numbers -> which stage comes next, and when. Pure.

use super::stages::{Phase, RestartPolicy, Stage, Stages, When};

/// Milliseconds since the process began.
pub type Millis = u64;

/// What stages look at in a pod.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PodView {
    pub namespace: Box<str>,
    pub phase: Phase,
    pub restart_policy: RestartPolicy,
    pub ready: bool,
    pub deleted: bool,
    /// The kind of the owner that controls it.
    pub owner: Option<Box<str>>,
    /// Empty where no stage looks at them.
    pub labels: Box<[(Box<str>, Box<str>)]>,
}

/// Which stage (its place in the list), and when it is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Planned {
    pub stage: u16,
    pub at: Millis,
}

/// A row of throws that depends on nothing but what it was made from.
#[derive(Clone, Copy, Debug)]
pub struct Random(u64);

impl Random {
    /// `visit` counts the states that `who` came through: each has throws of its own.
    pub fn new(seed: u64, who: u128, visit: u32) -> Self {
        #[expect(clippy::cast_possible_truncation, reason = "both halves are used")]
        let (low, high) = (who as u64, (who >> 64) as u64);
        let mut random = Self(seed);
        for part in [low, high, u64::from(visit)] {
            random.0 = random.throw() ^ part;
        }
        random
    }

    /// From 0 to `below`, without it; 0 where that is 0.
    pub fn below(&mut self, below: u64) -> u64 {
        ((u128::from(self.throw()) * u128::from(below)) >> 64) as u64
    }

    /// SplitMix64 (Steele, Lea, Flood 2014).
    fn throw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn comes_up(&mut self, chance: f64) -> bool {
        #[expect(clippy::cast_precision_loss, reason = "53 bits of it are exact")]
        let thrown = (self.throw() >> 11) as f64 / (1u64 << 53) as f64;
        thrown < chance
    }
}

/// The first stage that matches and whose chance comes up. `since` is when the pod came into its state.
pub fn pod(stages: &Stages, view: &PodView, since: Millis, random: Random) -> Option<Planned> {
    first(&stages.pods, |when| holds(when, view), since, random)
}

/// The same for a node.
pub fn node(stages: &Stages, ready: bool, since: Millis, random: Random) -> Option<Planned> {
    first(&stages.nodes, |when| when.ready.is_none_or(|wanted| wanted == ready), since, random)
}

fn first(stages: &[Stage], holds: impl Fn(&When) -> bool, since: Millis, mut random: Random) -> Option<Planned> {
    for (place, stage) in stages.iter().enumerate() {
        // Each stage throws, whether it matches or not: what one does not match changes nothing for the others.
        let (taken, later) = (random.comes_up(stage.chance), random.below(stage.jitter.saturating_add(1)));
        if taken && holds(&stage.when) {
            return Some(Planned { stage: u16::try_from(place).ok()?, at: since + stage.delay + later });
        }
    }
    None
}

fn holds(when: &When, pod: &PodView) -> bool {
    when.ready.is_none_or(|wanted| wanted == pod.ready)
        && when.deleted.is_none_or(|wanted| wanted == pod.deleted)
        && when.phase.as_ref().is_none_or(|phases| phases.contains(&pod.phase))
        && when.restart_policy.as_ref().is_none_or(|policies| policies.contains(&pod.restart_policy))
        && when.namespace.as_ref().is_none_or(|names| names.iter().any(|n| **n == *pod.namespace))
        && when.owner.as_ref().is_none_or(|kinds| kinds.iter().any(|k| Some(k.as_str()) == pod.owner.as_deref()))
        && when.labels.iter().all(|(k, v)| pod.labels.iter().any(|(key, value)| **key == **k && **value == **v))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(stages: &Stages, view: &PodView, random: Random) -> Option<String> {
        pod(stages, view, 0, random).map(|p| stages.pods[usize::from(p.stage)].name.clone())
    }

    #[test]
    fn the_embedded_stages_lead_a_pod_through_its_life() {
        use {Phase as P, RestartPolicy as R};
        let stages = Stages::default();
        let table = [
            (P::Pending, R::Always, false, Some("pod-ready")),
            (P::Pending, R::Never, false, Some("pod-ready")),
            (P::Running, R::Always, false, None),
            (P::Running, R::Never, false, Some("pod-complete")),
            (P::Running, R::OnFailure, false, Some("pod-complete")),
            (P::Succeeded, R::Never, false, None),
            (P::Failed, R::Never, false, None),
            (P::Pending, R::Always, true, Some("pod-delete")),
            (P::Running, R::Never, true, Some("pod-delete")),
            (P::Succeeded, R::Never, true, Some("pod-delete")),
        ];
        for (phase, restart_policy, deleted, wanted) in table {
            let view = PodView { phase, restart_policy, deleted, ..PodView::default() };
            assert_eq!(name(&stages, &view, Random::new(1, 2, 3)).as_deref(), wanted, "{view:?}");
        }
    }

    #[test]
    fn the_delay_counts_from_when_the_state_began_and_jitter_is_within_its_bounds() {
        let stages = Stages::parse("stages: [{name: a, kind: Pod, delay: 100ms, jitter: 50ms, next: {delete: true}}]").unwrap();
        let at = |who| pod(&stages, &PodView::default(), 1000, Random::new(7, who, 0)).unwrap().at;
        let all: Vec<u64> = (0..500).map(at).collect();
        assert!(all.iter().all(|at| (1100..=1150).contains(at)), "{all:?}");
        assert!(all.contains(&1100) && all.contains(&1150), "the bounds are reached: {all:?}");
        assert_eq!(at(3), at(3), "the same throws, the same plan");
    }

    #[test]
    fn chances_are_what_they_say_and_the_rest_goes_on() {
        let text =
            "stages:\n- {name: fails, kind: Pod, chance: 0.2, next: {phase: Failed}}\n- {name: works, kind: Pod, next: {phase: Running}}\n";
        let stages = Stages::parse(text).unwrap();
        let of = |seed| (0..2000u128).map(move |who| Random::new(seed, who << 70, 0));
        let failed = |seed| of(seed).filter(|d| name(&stages, &PodView::default(), *d).as_deref() == Some("fails")).count();
        assert!((320..480).contains(&failed(1)), "{} of 2000", failed(1));
        assert!(of(1).all(|d| name(&stages, &PodView::default(), d).is_some()), "who does not fail works");
        let which = |seed| of(seed).map(|d| name(&stages, &PodView::default(), d)).collect::<Vec<_>>();
        assert_ne!(which(1), which(2), "another seed, others fail");
        assert_eq!(which(1), which(1));
    }

    #[test]
    fn each_visit_has_its_own_throws() {
        let stages = Stages::parse("stages: [{name: a, kind: Pod, chance: 0.5, next: {delete: true}}]").unwrap();
        let taken = |visit| pod(&stages, &PodView::default(), 0, Random::new(1, 1, visit)).is_some();
        assert!((0..64).any(taken) && !(0..64).all(taken));
    }

    #[test]
    fn selectors_all_must_hold() {
        let of = |when: &str| Stages::parse(&format!("stages: [{{name: a, kind: Pod, when: {when}, next: {{delete: true}}}}]")).unwrap();
        let labels: Box<[(Box<str>, Box<str>)]> = Box::new([("app".into(), "web".into()), ("tier".into(), "1".into())]);
        let view = PodView { namespace: "ns".into(), owner: Some("Job".into()), labels, ready: true, ..PodView::default() };
        for (when, matches) in [
            ("{}", true),
            ("{labels: {app: web}}", true),
            ("{labels: {app: web, tier: '2'}}", false),
            ("{owner: [Job, ReplicaSet]}", true),
            ("{owner: [ReplicaSet]}", false),
            ("{namespace: [ns]}", true),
            ("{namespace: [other]}", false),
            ("{ready: true}", true),
            ("{ready: false}", false),
            ("{owner: [Job], ready: false}", false),
        ] {
            assert_eq!(pod(&of(when), &view, 0, Random::new(0, 0, 0)).is_some(), matches, "{when}");
        }
    }

    #[test]
    fn a_node_that_is_ready_may_have_other_stages() {
        let text = "stages:\n- {name: a, kind: Node, when: {ready: false}, delay: 2s, next: {heartbeat: true}}\n- {name: b, kind: Node, delay: 9s, next: {silent: 1s}}\n";
        let stages = Stages::parse(text).unwrap();
        assert_eq!(node(&stages, false, 5, Random::new(0, 0, 0)), Some(Planned { stage: 0, at: 2005 }));
        assert_eq!(node(&stages, true, 5, Random::new(0, 0, 0)), Some(Planned { stage: 1, at: 9005 }));
    }
}
