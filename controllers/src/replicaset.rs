//! ReplicaSet -> Pods: keep the count.

use std::sync::Arc;

use api::{
    Key,
    k8s::{
        api::apps::v1::{ReplicaSet, ReplicaSetCondition, ReplicaSetStatus},
        apimachinery::pkg::apis::meta::v1::Time,
    },
    selector::Labels,
    time::Timestamp,
};
use client::{Cache, Caches, kube, pods::Pod};
use reconcile::{Action, Controller, Owner, Plan, Wake};

use crate::{
    Config,
    lasted::Ages,
    owned::Owned,
    replicas::{Counts, FAILURE, Failures, Pods, Seen, Wanted, creation_failed, decide, watches, with_failure},
};

pub struct ReplicaSets {
    sets: Cache<ReplicaSet>,
    pods: Cache<Pod>,
    owned: Owned,
    ages: Ages,
    failures: Failures,
}

pub struct World {
    set: Arc<ReplicaSet>,
    seen: Seen,
}

impl ReplicaSets {
    pub fn new(caches: &Caches, owned: &Owned, config: &Config) -> Self {
        Self { sets: caches.of(), owned: owned.clone(), ages: Ages::new(&config.clock), pods: caches.of(), failures: Failures::default() }
    }
}

impl Controller for ReplicaSets {
    type World = World;

    fn name(&self) -> &'static str {
        "replicaset-controller"
    }

    /// Every run may write the status.
    fn weight(&self, world: &World) -> usize {
        world.seen.pods.count()
    }

    fn watches(&self, wake: &Wake) {
        watches(wake, &self.sets, &self.pods, selector);
    }

    async fn observe(&self, key: &Key) -> Option<World> {
        let Some(set) = self.sets.get(key) else {
            self.failures.forget(key);
            self.ages.of(key, [], Timestamp::now());
            return None;
        };
        let now = Timestamp::now();
        let pods = Pods::look(&self.owned, &set.metadata, selector(&set).as_ref(), bounds(&set), now);
        let lasted = self.ages.of(key, pods.young(bounds(&set).1, now), now);
        let failure = self.failures.of(key, pods.count(), bounds(&set).0);
        Some(World { set, seen: Seen { pods, lasted, random: rand::random(), failure } })
    }

    fn plan(&self, world: &World, _: &Key) -> Plan {
        let set = &*world.set;
        let Some(owner) = selector(set).and_then(|s| Owner::of(set, s)) else { return Plan::rest() };
        let (replicas, min_ready_seconds) = bounds(set);
        let template = set.spec.as_ref().and_then(|s| s.template.as_ref());
        let wanted = Wanted { set, owner, replicas, min_ready_seconds, template };
        let decided = decide(&wanted, &world.seen);
        let mut actions = decided.actions;
        let status = status(set, wanted.replicas, decided.counts, &world.seen);
        if set.status.as_ref() != Some(&status) {
            // The status first: a pod that cannot be made must not keep it from being told.
            actions.insert(0, Action::update_status(&ReplicaSet { status: Some(status), ..set.clone() }));
        }
        Plan { actions, again: decided.again }
    }

    fn failed(&self, key: &Key, action: &Action, error: &kube::Error) -> Option<Action> {
        let (told, message) = creation_failed(&*self.sets.get(key)?, action, error)?;
        self.failures.note(key, message);
        Some(told)
    }
}

/// How many pods it wants, and for how many seconds they must be ready to count as available.
fn bounds(set: &ReplicaSet) -> (i32, i32) {
    let spec = set.spec.as_ref();
    (spec.and_then(|s| s.replicas).unwrap_or(1), spec.and_then(|s| s.min_ready_seconds).unwrap_or(0))
}

fn selector(set: &ReplicaSet) -> Option<Labels> {
    Labels::from_selector(Some(&set.spec.as_ref()?.selector)).ok().flatten()
}

fn status(set: &ReplicaSet, replicas: i32, counts: Counts, seen: &Seen) -> ReplicaSetStatus {
    let some = |n: i32| (n != 0).then_some(n);
    let fresh = |message: &str| ReplicaSetCondition {
        type_: FAILURE.into(),
        status: "True".into(),
        reason: Some("FailedCreate".into()),
        message: Some(message.into()),
        last_transition_time: Some(Time(seen.lasted.now)),
    };
    let old = set.status.as_ref().and_then(|s| s.conditions.as_ref());
    let failure = seen.failure.as_ref().filter(|_| counts.replicas < replicas);
    ReplicaSetStatus {
        replicas: counts.replicas,
        fully_labeled_replicas: some(counts.fully_labeled),
        ready_replicas: some(counts.ready),
        available_replicas: some(counts.available),
        terminating_replicas: Some(counts.terminating),
        observed_generation: set.metadata.generation,
        conditions: with_failure(old, failure, |condition| &condition.type_, fresh),
    }
}
