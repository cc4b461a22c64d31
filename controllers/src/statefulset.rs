//! StatefulSet -> Pods with an ordinal each, and claims of their own: made, ended and replaced in order.
//!
//! Source: `pkg/controller/statefulset`. A pod's name is its identity: the API server keeps two of one ordinal from being there.

mod claims;
mod history;
mod identity;
mod run;
mod status;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use api::{
    Key,
    k8s::{
        api::{
            apps::v1::{ControllerRevision, StatefulSet, StatefulSetSpec},
            core::v1::PersistentVolumeClaim,
        },
        apimachinery::pkg::apis::meta::v1::OwnerReference,
    },
    selector::Labels,
    time::Timestamp,
};
use client::{Cache, Caches, Object, kube, pods::Pod};
use kube::ResourceExt;
use reconcile::{Action, Controller, Owner, Plan, Wake, claim, claim_if, selectors};

use crate::{
    Config,
    index::{ByController, by_controller},
    lasted::{Ages, Lasted},
    owned::Owned,
    replicas::{next_available, on_dependents, young},
    revisions,
};
use history::{History, Place};
use run::Run;

/// Pods made, and pods deleted, in one run of a set that goes in parallel (`MaxBatchSize`); the next run does the rest.
const BURST: usize = 500;
/// A claim that goes keeps a pod from being made. Its end wakes the set, unless its labels say nothing of it.
const BLOCKED: Duration = Duration::from_secs(10);

pub struct StatefulSets {
    sets: Cache<StatefulSet>,
    pods: Cache<Pod>,
    claims: Cache<PersistentVolumeClaim>,
    revisions: Cache<ControllerRevision>,
    revisions_of: ByController<ControllerRevision>,
    owned: Owned,
    ages: Ages,
}

/// A `StatefulSet`, and what there is of it.
pub struct World {
    pub set: Arc<StatefulSet>,
    /// Its pods, and the orphans that its selector matches.
    pub pods: Vec<Arc<Pod>>,
    /// Its revisions, and orphans, that its selector matches.
    pub revisions: Vec<Arc<ControllerRevision>>,
    /// Where the current one would stand, if it is not among those.
    pub place: Place,
    /// By name: those of its pods, and of the pods that may be made now.
    pub claims: BTreeMap<String, Arc<PersistentVolumeClaim>>,
    pub lasted: Lasted,
}

impl StatefulSets {
    pub fn new(caches: &Caches, owned: &Owned, config: &Config) -> Self {
        let revisions = caches.of();
        Self {
            sets: caches.of(),
            pods: caches.of(),
            claims: caches.of(),
            revisions_of: by_controller(&revisions),
            revisions,
            owned: owned.clone(),
            ages: Ages::new(&config.clock),
        }
    }
}

impl Controller for StatefulSets {
    type World = World;

    fn name(&self) -> &'static str {
        "statefulset-controller"
    }

    fn watches(&self, wake: &Wake) {
        wake.on_own(&self.sets);
        let selectors = selectors::follow(&self.sets, selector);
        on_dependents::<StatefulSet, _>(wake, &self.pods, &selectors);
        on_dependents::<StatefulSet, _>(wake, &self.revisions, &selectors);
        // A claim bears the labels that its set selects by, whoever owns it.
        wake.on(&self.claims, move |claim, wake| {
            let meta = claim.object_meta();
            let Some(labels) = meta.labels else { return };
            selectors.read().matching(meta.namespace, labels).for_each(|name| wake(Key::new(meta.namespace, name)));
        });
    }

    /// A run looks at each pod.
    fn weight(&self, world: &World) -> usize {
        world.pods.len()
    }

    async fn observe(&self, key: &Key) -> Option<World> {
        let (set, now) = (self.sets.get(key), Timestamp::now());
        let Some((set, selector)) = set.and_then(|set| selector(&set).map(|selector| (set, selector))) else {
            self.ages.of(key, [], now);
            return None;
        };
        let uid = set.uid().unwrap_or_default();
        let mut pods = self.owned.pods(&key.namespace, &uid);
        pods.extend(self.owned.orphans(&key.namespace, &selector));
        let mut revisions = self.revisions_of.candidates(&key.namespace, &uid);
        revisions.retain(|revision| selector.matches(revision.metadata.labels.as_ref()));
        let spec = set.spec.as_ref()?;
        let data = revisions::data_of(&spec.template);
        let is_known = revisions.iter().any(|revision| revisions::are_same(revisions::data(revision), &data));
        let place = if is_known { Place::default() } else { history::place(&set, &data, &self.revisions) };
        let lasted = self.ages.of(key, young(&pods, spec.min_ready_seconds.unwrap_or(0), now), now);
        let claims = claims_in_view(&set, &pods).into_iter();
        let claims = claims.filter_map(|name| Some((name.clone(), self.claims.get(&Key::new(&key.namespace, &name))?))).collect();
        Some(World { set, pods, revisions, place, claims, lasted })
    }

    fn plan(&self, world: &World, _: &Key) -> Plan {
        plan(world)
    }

    fn failed(&self, key: &Key, action: &Action, error: &kube::Error) -> Option<Action> {
        run::failed(&*self.sets.get(key)?, action, error)
    }
}

fn plan(world: &World) -> Plan {
    let set = &*world.set;
    let (Some(spec), Some(selector)) = (set.spec.as_ref(), selector(set)) else { return Plan::rest() };
    let Some(owner) = Owner::of(set, selector) else { return Plan::rest() };
    let revisions = claim(&owner, world.revisions.iter().cloned());
    let pods = claim_if(&owner, world.pods.iter().cloned(), |pod| identity::is_member(set, pod));
    let claims: Vec<Action> = revisions.actions.into_iter().chain(pods.actions).collect();
    if !claims.is_empty() {
        // What is adopted counts as owned from the next look on.
        return Plan::act(claims);
    }
    let (mut revisions, data) = (revisions.owned, revisions::data_of(&spec.template));
    revisions::sort(&mut revisions);
    let Some(history) = history::of(set, &owner.reference, &data, &revisions, &world.place) else { return Plan::rest() };
    if owner.deleting && history.actions.iter().any(|action| matches!(action, Action::Create { .. })) {
        return Plan::rest();
    }
    let mut run = Run::new(world, spec, &owner.reference, &history, &pods.owned);
    if !owner.deleting {
        run.all();
    }
    let status = run.status();
    let again = run.again;
    let done = run.into_actions();
    let mut actions = history.actions.clone();
    // Told before anything is done: a pod that cannot be made must not keep it from being told.
    actions.extend(status.map(|status| Action::update_status(&StatefulSet { status: Some(status), ..set.clone() })));
    actions.extend(done);
    if !owner.deleting {
        actions.extend(history::too_many(set, revisions, &history, &pods.owned).iter().map(|revision| Action::delete(&**revision)));
    }
    let wait = next_available(spec.min_ready_seconds.unwrap_or(0), &pods.owned, &world.lasted);
    Plan { actions, again: wait.into_iter().chain(again).min() }
}

/// The names of the claims of all pods that there are, and of those that one run may make.
fn claims_in_view(set: &StatefulSet, pods: &[Arc<Pod>]) -> Vec<String> {
    let templates = claims::templates(set);
    if templates.is_empty() {
        return Vec::new();
    }
    let there: BTreeSet<i64> = pods.iter().filter(|pod| identity::is_member(set, pod)).filter_map(|pod| identity::ordinal(pod)).collect();
    let most = if set.spec.as_ref().is_some_and(is_parallel) { pods_at_once(set) } else { 1 };
    let missing: Vec<i64> = ordinals(set).filter(|ordinal| !there.contains(ordinal)).take(most).collect();
    let all = there.into_iter().chain(missing);
    all.flat_map(|ordinal| templates.iter().map(move |template| claims::claim_name(set, template, ordinal))).collect()
}

/// Those that the set wants, however many: not to be kept all at once.
fn ordinals(set: &StatefulSet) -> std::ops::Range<i64> {
    let spec = set.spec.as_ref();
    let start = i64::from(spec.and_then(|spec| spec.ordinals.as_ref()).and_then(|ordinals| ordinals.start).unwrap_or(0));
    start..start + i64::from(spec.and_then(|spec| spec.replicas).unwrap_or(1))
}

fn selector(set: &StatefulSet) -> Option<Labels> {
    Labels::from_selector(Some(&set.spec.as_ref()?.selector)).ok().flatten()
}

fn strategy(spec: &StatefulSetSpec) -> &str {
    spec.update_strategy.as_ref().and_then(|strategy| strategy.type_.as_deref()).unwrap_or("RollingUpdate")
}

/// How many pods one run makes, so that their claims are no more than that either.
fn pods_at_once(set: &StatefulSet) -> usize {
    (BURST / claims::templates(set).len().max(1)).max(1)
}

/// `allowsBurst`
fn is_parallel(spec: &StatefulSetSpec) -> bool {
    spec.pod_management_policy.as_deref() == Some("Parallel")
}

/// `None` where nothing is said of a rolling update at all.
fn partition(spec: &StatefulSetSpec) -> Option<i64> {
    let rolling = spec.update_strategy.as_ref()?.rolling_update.as_ref()?;
    Some(rolling.partition.unwrap_or(0).into())
}

#[cfg(test)]
mod tests;
