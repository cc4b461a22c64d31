//! PodDisruptionBudget + the pods it selects -> how many of them may be evicted now. Source: `pkg/controller/disruption`.

mod scales;
mod stale;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use api::{
    Key,
    k8s::{
        api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetStatus},
        apimachinery::pkg::{
            apis::meta::v1::{Condition, Time},
            util::intstr::IntOrString,
        },
    },
    selector::Labels,
    time::{Timestamp, span},
};
use client::{Cache, Caches, kube, pods::Pod};
use kube::ResourceExt;
use reconcile::{Action, Controller, Plan, Wake, controller_of};

use crate::{
    Config,
    amount::{Round, scaled},
    lasted::{Ages, Lasted},
    members::Members,
};
use scales::{Finder, Scales};

pub use stale::StaleDisruptions;

/// How long a pod that was let go may take until its deletion is seen.
const DELETION_SECONDS: i64 = 120;
const ALLOWED: &str = "DisruptionAllowed";

pub struct Budgets {
    budgets: Cache<PodDisruptionBudget>,
    pods: Cache<Pod>,
    members: Members,
    finder: Finder,
    ages: Ages,
}

pub struct World {
    budget: Arc<PodDisruptionBudget>,
    pods: Vec<Arc<Pod>>,
    scales: Scales,
    lasted: Lasted,
}

/// What a budget counts on.
#[derive(Debug, Default, PartialEq, Eq)]
struct Expected {
    pods: i32,
    healthy: i32,
    /// Some pods have no controller: nobody knows how many of them there should be.
    unmanaged: bool,
}

impl Budgets {
    pub fn new(caches: &Caches, config: &Config, client: kube::Client) -> Self {
        let (budgets, pods) = (caches.of(), caches.of());
        Self {
            members: Members::new(&budgets, &pods, selector),
            finder: Finder::new(caches, client),
            ages: Ages::new(&config.clock),
            budgets,
            pods,
        }
    }
}

impl Controller for Budgets {
    type World = World;

    fn name(&self) -> &'static str {
        "disruption-controller"
    }

    fn weight(&self, world: &World) -> usize {
        world.pods.len()
    }

    fn watches(&self, wake: &Wake) {
        self.finder.watches(wake);
        wake.on_own(&self.budgets);
        let members = self.members.clone();
        wake.on(&self.pods, move |pod, wake| members.owners(pod, wake));
    }

    async fn observe(&self, key: &Key) -> Option<World> {
        let budget = self.budgets.get(key);
        let disrupted = budget.iter().filter_map(|budget| budget.status.as_ref()?.disrupted_pods.as_ref());
        let lasted = self.ages.of(key, disrupted.flat_map(|pods| pods.values().map(|since| since.0)), Timestamp::now());
        let budget = budget?;
        let pods = self.members.pods(key);
        let scales = if counts_controllers(&budget) { self.finder.of(&pods).await } else { Scales::new() };
        Some(World { budget, pods, scales, lasted })
    }

    fn plan(&self, world: &World, _: &Key) -> Plan {
        plan(world)
    }
}

fn plan(world: &World) -> Plan {
    let budget = &*world.budget;
    let mut told = Vec::new();
    if world.pods.is_empty() {
        told.push(Action::normal(budget, "NoPods", "No matching pods found"));
    }
    let (status, again) = match expected(world) {
        Ok(expected) => {
            if expected.unmanaged {
                told.push(Action::warning(budget, "UnmanagedPods", unmanaged(budget)));
            }
            let (disrupted, again, late) = disrupted(world);
            told.extend(late.iter().map(|pod| not_deleted(budget, pod)));
            (status(world, &expected, disrupted), again)
        }
        Err(why) => {
            let message = format!("Failed to calculate the number of expected pods: {why}");
            told.push(Action::warning(budget, "CalculateExpectedPodCountFailed", message));
            (failed(world, why), None)
        }
    };
    if budget.status.as_ref() != Some(&status) {
        told.push(Action::update_status(&PodDisruptionBudget { status: Some(status), ..budget.clone() }));
    }
    Plan { actions: told, again }
}

fn selector(budget: &PodDisruptionBudget) -> Option<Labels> {
    Labels::from_selector(budget.spec.as_ref()?.selector.as_ref()).ok().flatten()
}

/// Whether the budget is a share of what the pods' controllers want, rather than a number.
fn counts_controllers(budget: &PodDisruptionBudget) -> bool {
    let spec = budget.spec.as_ref();
    let min = spec.and_then(|s| s.min_available.as_ref());
    spec.is_some_and(|s| s.max_unavailable.is_some()) || matches!(min, Some(IntOrString::String(_)))
}

/// `getExpectedPodCount`
fn expected(world: &World) -> Result<Expected, String> {
    let Some(spec) = &world.budget.spec else { return Ok(Expected::default()) };
    if !counts_controllers(&world.budget) {
        let healthy = scaled(spec.min_available.as_ref(), 0, Round::Up);
        let pods = if spec.min_available.is_some() { i32::try_from(world.pods.len()).unwrap_or(i32::MAX) } else { 0 };
        return Ok(Expected { pods, healthy, unmanaged: false });
    }
    let (pods, unmanaged) = total_scale(world)?;
    let healthy = match &spec.max_unavailable {
        Some(max) => pods.saturating_sub(scaled(Some(max), pods, Round::Up)).max(0),
        None => scaled(spec.min_available.as_ref(), pods, Round::Up),
    };
    Ok(Expected { pods, healthy, unmanaged })
}

/// What all controllers of the pods want together, and whether some pods have none.
fn total_scale(world: &World) -> Result<(i32, bool), String> {
    let (mut wanted, mut unmanaged) = (BTreeMap::new(), false);
    for pod in &world.pods {
        let Some(owner) = controller_of(&**pod) else {
            unmanaged = true;
            continue;
        };
        match world.scales.get(&owner.uid) {
            Some(Ok(Some(scale))) => drop(wanted.insert(&scale.uid, scale.replicas)),
            Some(Err(why)) => return Err(why.clone()),
            Some(Ok(None)) | None => return Err(format!("found no controllers for pod {:?}", pod.name_any())),
        }
    }
    Ok((wanted.values().fold(0, |sum: i32, n| sum.saturating_add(*n)), unmanaged))
}

/// `buildDisruptedPodMap`: who is still to go, when to look again, and who should have gone and did not.
fn disrupted(world: &World) -> (BTreeMap<String, Time>, Option<Duration>, Vec<&Arc<Pod>>) {
    let told = world.budget.status.as_ref().and_then(|s| s.disrupted_pods.as_ref());
    let (mut waiting, mut again, mut late) = (BTreeMap::new(), None, Vec::new());
    for pod in world.pods.iter().filter(|pod| pod.metadata.deletion_timestamp.is_none()) {
        let Some(since) = told.and_then(|map| map.get(&pod.name_any())) else { continue };
        let left = world.lasted.left_seconds(since.0, DELETION_SECONDS);
        if left < 0 {
            late.push(pod);
            continue;
        }
        // One second more, so that it is over then.
        let wait = span(left + 1);
        again = Some(again.map_or(wait, |soonest: Duration| soonest.min(wait)));
        waiting.insert(pod.name_any(), since.clone());
    }
    (waiting, again, late)
}

fn status(world: &World, expected: &Expected, disrupted: BTreeMap<String, Time>) -> PodDisruptionBudgetStatus {
    let healthy = |pod: &&Arc<Pod>| {
        pod.metadata.deletion_timestamp.is_none() && !disrupted.contains_key(&pod.name_any()) && pod.ready_since().is_some()
    };
    let current = i32::try_from(world.pods.iter().filter(healthy).count()).unwrap_or(i32::MAX);
    let allowed = if expected.pods > 0 { current.saturating_sub(expected.healthy).max(0) } else { 0 };
    let (state, reason) = if allowed > 0 { ("True", "SufficientPods") } else { ("False", "InsufficientPods") };
    let generation = world.budget.metadata.generation;
    PodDisruptionBudgetStatus {
        current_healthy: Some(current),
        desired_healthy: Some(expected.healthy),
        expected_pods: Some(expected.pods),
        disruptions_allowed: Some(allowed),
        disrupted_pods: (!disrupted.is_empty()).then_some(disrupted),
        observed_generation: generation,
        conditions: Some(conditions(world, (state, reason, ""), generation)),
    }
}

/// `failSafe`: nobody is evicted while nobody can count.
fn failed(world: &World, why: String) -> PodDisruptionBudgetStatus {
    let old = world.budget.status.clone().unwrap_or_default();
    let observed = old.observed_generation;
    let zero = |count: Option<i32>| Some(count.unwrap_or(0));
    PodDisruptionBudgetStatus {
        disruptions_allowed: Some(0),
        current_healthy: zero(old.current_healthy),
        desired_healthy: zero(old.desired_healthy),
        expected_pods: zero(old.expected_pods),
        conditions: Some(conditions(world, ("False", "SyncFailed", &why), observed)),
        ..old
    }
}

/// The budget's conditions with DisruptionAllowed as given (status, reason, message); it keeps its time while its status is the same.
fn conditions(world: &World, (state, reason, message): (&str, &str, &str), observed: Option<i64>) -> Vec<Condition> {
    let mut all = world.budget.status.as_ref().and_then(|s| s.conditions.clone()).unwrap_or_default();
    let old = all.iter().position(|c| c.type_ == ALLOWED);
    let since =
        old.and_then(|at| all.get(at)).filter(|c| c.status == state).map_or(Time(world.lasted.now), |c| c.last_transition_time.clone());
    let condition = Condition {
        type_: ALLOWED.into(),
        status: state.into(),
        reason: reason.into(),
        message: message.into(),
        observed_generation: observed.filter(|g| *g != 0),
        last_transition_time: since,
    };
    match old.and_then(|at| all.get_mut(at)) {
        Some(slot) => *slot = condition,
        None => all.push(condition),
    }
    all
}

fn unmanaged(budget: &PodDisruptionBudget) -> String {
    let selector = Labels::from_selector(budget.spec.as_ref().and_then(|s| s.selector.as_ref())).ok().flatten().unwrap_or_default();
    format!(
        "Pods selected by this PodDisruptionBudget (selector: {selector}) were found to be unmanaged. As a result, the status of the PDB cannot be calculated correctly, which may result in undefined behavior. To account for these pods please set \".spec.minAvailable\" field of the PDB to an integer value."
    )
}

fn not_deleted(budget: &PodDisruptionBudget, pod: &Pod) -> Action {
    let place = format!("{}/{}", budget.namespace().unwrap_or_default(), budget.name_any());
    Action::warning(pod, "NotDeleted", format!("Pod was expected by PDB {place} to be deleted but it wasn't"))
}

#[cfg(test)]
mod tests;
