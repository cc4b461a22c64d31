//! ReplicationController -> Pods: keep the count. The older sister of ReplicaSet.

use std::sync::Arc;

use api::{
    Key,
    k8s::{
        api::core::v1::{ReplicationController, ReplicationControllerCondition, ReplicationControllerStatus},
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
    replicas::{FAILURE, Failures, Pods, Seen, Wanted, creation_failed, decide, watches, with_failure},
};

pub struct Controllers {
    controllers: Cache<ReplicationController>,
    pods: Cache<Pod>,
    owned: Owned,
    ages: Ages,
    failures: Failures,
}

pub struct World {
    controller: Arc<ReplicationController>,
    seen: Seen,
}

impl Controllers {
    pub fn new(caches: &Caches, owned: &Owned, config: &Config) -> Self {
        let (owned, ages) = (owned.clone(), Ages::new(&config.clock));
        Self { controllers: caches.of(), owned, ages, pods: caches.of(), failures: Failures::default() }
    }
}

impl Controller for Controllers {
    type World = World;

    fn name(&self) -> &'static str {
        "replication-controller"
    }

    fn weight(&self, world: &World) -> usize {
        world.seen.pods.count()
    }

    fn watches(&self, wake: &Wake) {
        watches(wake, &self.controllers, &self.pods, selector);
    }

    async fn observe(&self, key: &Key) -> Option<World> {
        let (found, now) = (self.controllers.get(key), Timestamp::now());
        let Some(controller) = found else {
            self.failures.forget(key);
            self.ages.of(key, [], now);
            return None;
        };
        let pods = Pods::look(&self.owned, &controller.metadata, selector(&controller).as_ref(), bounds(&controller), now);
        let lasted = self.ages.of(key, pods.young(bounds(&controller).1, now), now);
        let failure = self.failures.of(key, pods.count(), bounds(&controller).0);
        Some(World { controller, seen: Seen { pods, lasted, random: rand::random(), failure } })
    }

    fn plan(&self, world: &World, _: &Key) -> Plan {
        let controller = &*world.controller;
        let Some(owner) = selector(controller).and_then(|s| Owner::of(controller, s)) else { return Plan::rest() };
        let (replicas, min_ready_seconds) = bounds(controller);
        let template = controller.spec.as_ref().and_then(|s| s.template.as_ref());
        let wanted = Wanted { set: controller, owner, replicas, min_ready_seconds, template };
        let decided = decide(&wanted, &world.seen);
        let mut actions = decided.actions;
        let some = |n: i32| (n != 0).then_some(n);
        let fresh = |message: &str| ReplicationControllerCondition {
            type_: FAILURE.into(),
            status: "True".into(),
            reason: Some("FailedCreate".into()),
            message: Some(message.into()),
            last_transition_time: Some(Time(world.seen.lasted.now)),
        };
        let old = controller.status.as_ref().and_then(|s| s.conditions.as_ref());
        let failure = world.seen.failure.as_ref().filter(|_| decided.counts.replicas < wanted.replicas);
        let status = ReplicationControllerStatus {
            replicas: decided.counts.replicas,
            fully_labeled_replicas: some(decided.counts.fully_labeled),
            ready_replicas: some(decided.counts.ready),
            available_replicas: some(decided.counts.available),
            observed_generation: controller.metadata.generation,
            conditions: with_failure(old, failure, |condition| &condition.type_, fresh),
        };
        if controller.status.as_ref() != Some(&status) {
            actions.insert(0, Action::update_status(&ReplicationController { status: Some(status), ..controller.clone() }));
        }
        Plan { actions, again: decided.again }
    }

    fn failed(&self, key: &Key, action: &Action, error: &kube::Error) -> Option<Action> {
        let (told, message) = creation_failed(&*self.controllers.get(key)?, action, error)?;
        self.failures.note(key, message);
        Some(told)
    }
}

fn bounds(controller: &ReplicationController) -> (i32, i32) {
    let spec = controller.spec.as_ref();
    (spec.and_then(|s| s.replicas).unwrap_or(1), spec.and_then(|s| s.min_ready_seconds).unwrap_or(0))
}

fn selector(controller: &ReplicationController) -> Option<Labels> {
    let map = controller.spec.as_ref()?.selector.as_ref()?;
    (!map.is_empty()).then(|| Labels::from_map(map))
}
