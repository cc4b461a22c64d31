//! DaemonSet -> Pods: one on each node that it wants, replaced as its strategy allows when its template changes.
//!
//! Source: `pkg/controller/daemon`. Pods are bound by the scheduler: each names its node in a required affinity.

mod backoff;
mod history;
mod manage;
mod nodes;
mod pods;
mod rolling;
mod status;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, HashSet},
    sync::Arc,
    time::Duration,
};

use api::{
    Key,
    k8s::{
        api::{
            apps::v1::{ControllerRevision, DaemonSet, DaemonSetSpec},
            core::v1::Node,
        },
        apimachinery::pkg::apis::meta::v1::OwnerReference,
    },
    selector::Labels,
    time::Timestamp,
};
use client::{Cache, Caches, kube, leader::Clock, pods::Pod};
use kube::ResourceExt;
use parking_lot::Mutex;
use reconcile::{Action, Controller, Owner, Plan, Wake, claim, selectors};
use serde_json::Value;

use crate::{
    Config,
    index::{ByController, by_controller},
    lasted::{Ages, Lasted},
    owned::Owned,
    replicas::{creation_failed, is_available, next_available, on_dependents, young},
    revisions,
};
use backoff::Backoffs;
use nodes::{Fits, Nodes};

/// Pods made, and pods deleted, in one run (`BurstReplicas`); the next run does the rest.
const BURST: usize = 250;

pub struct DaemonSets {
    sets: Cache<DaemonSet>,
    nodes: Cache<Node>,
    pods: Cache<Pod>,
    revisions: Cache<ControllerRevision>,
    revisions_of: ByController<ControllerRevision>,
    owned: Owned,
    fits: Fits,
    ages: Ages,
    backoffs: Backoffs,
    clock: Clock,
    /// Whose last run was refused a pod.
    refused: Mutex<HashSet<Key>>,
}

/// A `DaemonSet` that is not being deleted, and what there is of it.
pub struct World {
    pub set: Arc<DaemonSet>,
    pub nodes: Arc<Nodes>,
    /// What its current revision keeps.
    pub data: Arc<Value>,
    /// Its pods, and the orphans that it would have.
    pub pods: Vec<Arc<Pod>>,
    /// Its revisions, and the orphans of its namespace.
    pub revisions: Vec<Arc<ControllerRevision>>,
    /// What bears the name that the current revision would have, if it is not among those.
    pub occupant: Option<Arc<ControllerRevision>>,
    /// The pods that failed and must wait until they are replaced, by name.
    pub waits: BTreeMap<String, Duration>,
    pub lasted: Lasted,
    /// The run before was refused a pod.
    was_refused: bool,
    /// Names of new pods come from here: another number each time.
    pub random: u64,
}

/// What the steps of a run look at.
struct Daemon<'a> {
    world: &'a World,
    set: &'a DaemonSet,
    spec: &'a DaemonSetSpec,
    owner: OwnerReference,
    /// Of the current revision, as pods bear it.
    hash: String,
    generation: Option<String>,
    /// By node, without those that are over and going.
    on_node: BTreeMap<&'a str, Vec<&'a Arc<Pod>>>,
}

/// Pods that are to go, and nodes that are to have one more.
#[derive(Debug, Default, PartialEq)]
struct Changes<'a> {
    delete: Vec<&'a Arc<Pod>>,
    create: Vec<&'a str>,
    told: Vec<Action>,
    again: Option<Duration>,
}

impl DaemonSets {
    pub fn new(caches: &Caches, owned: &Owned, config: &Config) -> Self {
        let revisions = caches.of();
        Self {
            sets: caches.of(),
            nodes: caches.of(),
            pods: caches.of(),
            revisions_of: by_controller(&revisions),
            revisions,
            owned: owned.clone(),
            fits: Fits::default(),
            ages: Ages::new(&config.clock),
            backoffs: Backoffs::default(),
            clock: config.clock.clone(),
            refused: Mutex::default(),
        }
    }

    /// The failed pods of nodes that keep theirs -> those that wait.
    fn waits(&self, key: &Key, set: &DaemonSet, nodes: &Nodes, pods: &[Arc<Pod>]) -> BTreeMap<String, Duration> {
        let failed = pods.iter().filter(|pod| pod.phase() == "Failed" && pod.metadata.deletion_timestamp.is_none());
        let stays = |node: &&str| nodes.get(*node).is_some_and(|fit| fit.stay);
        let failed: Vec<_> = failed.filter_map(|pod| Some((pod.name_any(), pods::target(pod).filter(stays)?.to_owned()))).collect();
        let observed = set.status.as_ref().and_then(|status| status.observed_generation).unwrap_or(0);
        self.backoffs.waits(key, (set.metadata.uid.as_deref().unwrap_or_default(), observed), &failed, self.clock.now())
    }
}

impl Controller for DaemonSets {
    type World = World;

    fn name(&self) -> &'static str {
        "daemonset-controller"
    }

    fn watches(&self, wake: &Wake) {
        wake.needs(&self.nodes);
        self.fits.follow(&self.sets, &self.nodes, wake.handle());
        wake.on_own(&self.sets);
        let selectors = selectors::follow(&self.sets, selector);
        on_dependents::<DaemonSet, _>(wake, &self.pods, &selectors);
        on_dependents::<DaemonSet, _>(wake, &self.revisions, &selectors);
    }

    /// A run looks at each node and each pod.
    fn weight(&self, world: &World) -> usize {
        world.nodes.len() + world.pods.len()
    }

    async fn observe(&self, key: &Key) -> Option<World> {
        let was_refused = self.refused.lock().remove(key);
        let kept = self.fits.get(key).filter(|kept| kept.set.metadata.deletion_timestamp.is_none());
        let Some(kept) = kept else {
            self.backoffs.forget(key);
            self.ages.of(key, [], Timestamp::now());
            return None;
        };
        let (uid, set, now) = (kept.set.uid().unwrap_or_default(), kept.set, Timestamp::now());
        let mut pods = self.owned.pods(&key.namespace, &uid);
        pods.extend(selector(&set).into_iter().flat_map(|selector| self.owned.orphans(&key.namespace, &selector)));
        let revisions = self.revisions_of.candidates(&key.namespace, &uid);
        let is_current = |revision: &Arc<ControllerRevision>| revisions::are_same(revisions::data(revision), &kept.data);
        let occupant = if revisions.iter().any(is_current) { None } else { self.revisions.get(&history::next_key(&set)) };
        let lasted = self.ages.of(key, young(&pods, min_ready_seconds(&set), now), now);
        let waits = self.waits(key, &set, &kept.nodes, &pods);
        Some(World {
            set,
            nodes: kept.nodes,
            data: kept.data,
            pods,
            revisions,
            occupant,
            waits,
            lasted,
            was_refused,
            random: rand::random(),
        })
    }

    fn plan(&self, world: &World, _: &Key) -> Plan {
        plan(world)
    }

    fn failed(&self, key: &Key, action: &Action, error: &kube::Error) -> Option<Action> {
        let set = self.sets.get(key)?;
        match (action, error) {
            (Action::Create { resource, .. }, _) if resource.resource == "pods" => {
                self.refused.lock().insert(key.clone());
                Some(creation_failed(&*set, action, error)?.0)
            }
            (Action::Delete { resource, .. }, kube::Error::Api(status)) if resource.resource == "pods" => {
                Some(Action::warning(&*set, "FailedDelete", format!("Error deleting: {}", status.message)))
            }
            _ => None,
        }
    }
}

fn plan(world: &World) -> Plan {
    let set = &*world.set;
    let (Some(spec), Some(selector)) = (set.spec.as_ref(), selector(set)) else { return Plan::rest() };
    if selector.is_empty() {
        let message = "This daemon set is selecting all pods. A non-empty selector is required.";
        return Plan::act(vec![Action::warning(set, "SelectingAll", message)]);
    }
    let Some(owner) = Owner::of(set, selector) else { return Plan::rest() };
    // What is adopted counts as owned from the next look on.
    let (pods, revisions) = (claim(&owner, world.pods.iter().cloned()), claim(&owner, world.revisions.iter().cloned()));
    let claims: Vec<Action> = revisions.actions.into_iter().chain(pods.actions).collect();
    if !claims.is_empty() {
        return Plan::act(claims);
    }
    let history = match history::of(world, &owner.reference, revisions.owned, &pods.owned) {
        Ok(history) => history,
        Err(first) => return Plan::act(first),
    };
    let daemon = Daemon::new(world, spec, owner.reference, history.hash, &pods.owned);
    let mut changes = daemon.manage();
    if changes.delete.is_empty() && changes.create.is_empty() && strategy(spec) == "RollingUpdate" {
        changes = Changes { again: changes.again, ..daemon.roll() };
    }
    let mut actions = history.actions;
    // Told before anything is done: a pod that cannot be made must not keep it from being told.
    actions.extend(daemon.status().map(|status| Action::update_status(&DaemonSet { status: Some(status), ..set.clone() })));
    let again = changes.again;
    actions.extend(daemon.carry_out(changes));
    actions.extend(history::too_many(spec, history.old, &pods.owned).iter().map(|revision| Action::delete(&**revision)));
    let wait = next_available(min_ready_seconds(set), &pods.owned, &world.lasted).into_iter().chain(again).min();
    Plan { actions, again: wait }
}

impl<'a> Daemon<'a> {
    fn new(world: &'a World, spec: &'a DaemonSetSpec, owner: OwnerReference, hash: String, pods: &'a [Arc<Pod>]) -> Self {
        let mut on_node: BTreeMap<&str, Vec<&Arc<Pod>>> = BTreeMap::new();
        for pod in pods.iter().filter(|pod| !(pod.is_over() && pod.metadata.deletion_timestamp.is_some())) {
            if let Some(node) = pods::target(pod) {
                on_node.entry(node).or_default().push(pod);
            }
        }
        on_node.values_mut().for_each(|pods| pods.sort_by_key(|pod| manage::age(pod)));
        Self { world, set: &world.set, spec, owner, hash, generation: pods::generation(&world.set), on_node }
    }

    fn is_updated(&self, pod: &Pod) -> bool {
        pods::is_updated(pod, &self.hash, self.generation.as_deref())
    }

    fn is_available(&self, pod: &Pod) -> bool {
        is_available(pod, self.spec.min_ready_seconds.unwrap_or(0), &self.world.lasted)
    }

    /// Creations first. `syncNodes`, where neither waits for the other: here what stands behind a failure is not begun, so that a run after
    /// one that was refused a pod begins with the deletions. They may be what makes room.
    fn carry_out(&self, changes: Changes<'_>) -> Vec<Action> {
        let Changes { delete, create, told, .. } = changes;
        let delete = delete.into_iter().take(BURST).flat_map(|pod| crate::replicas::delete(self.set, pod));
        let create = self.create(create);
        if self.world.was_refused {
            return told.into_iter().chain(delete).chain(create).collect();
        }
        told.into_iter().chain(create).chain(delete).collect()
    }

    fn create(&self, nodes: Vec<&str>) -> Vec<Action> {
        let mut actions = Vec::new();
        let template = pods::template(self.set, &self.hash);
        for (at, node) in nodes.into_iter().take(BURST).enumerate() {
            let mut pod = crate::replicas::pod_of(self.set, &self.owner, &template, self.world.random.wrapping_add(at as u64));
            if let Some(spec) = &mut pod.spec {
                spec.affinity = Some(pods::affinity_to(spec.affinity.take(), node));
            }
            let name = pod.name_any();
            actions.extend([Action::create(&pod), Action::normal(self.set, "SuccessfulCreate", format!("Created pod: {name}"))]);
        }
        actions
    }
}

fn selector(set: &DaemonSet) -> Option<Labels> {
    Labels::from_selector(Some(&set.spec.as_ref()?.selector)).ok().flatten()
}

fn min_ready_seconds(set: &DaemonSet) -> i32 {
    set.spec.as_ref().and_then(|spec| spec.min_ready_seconds).unwrap_or(0)
}

fn strategy(spec: &DaemonSetSpec) -> &str {
    spec.update_strategy.as_ref().and_then(|strategy| strategy.type_.as_deref()).unwrap_or("RollingUpdate")
}
