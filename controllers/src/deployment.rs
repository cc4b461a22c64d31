//! Deployment -> ReplicaSets: one for each template it ever had, scaled so that the newest takes over as the strategy allows.
//!
//! Source: `pkg/controller/deployment`.

mod conditions;
mod math;
mod revision;
mod rollout;
mod status;

use std::{sync::Arc, time::Duration};

use api::{
    Key,
    k8s::api::apps::v1::{Deployment, ReplicaSet},
    selector::Labels,
    time::Timestamp,
};
use client::{Cache, Caches, kube, pods::Pod};
use kube::ResourceExt;
use reconcile::{Action, Controller, Owner, Plan, Wake, claim, controller_of, selectors};

use crate::{
    Config,
    index::{ByController, by_controller},
    lasted::{Ages, Lasted},
    owned::Owned,
    replicas::on_dependents,
};
use rollout::Rollout;

pub struct Deployments {
    deployments: Cache<Deployment>,
    sets: Cache<ReplicaSet>,
    pods: Cache<Pod>,
    sets_of: ByController<ReplicaSet>,
    owned: Owned,
    ages: Ages,
}

/// A deployment and what there is of it.
pub struct World {
    pub deployment: Arc<Deployment>,
    /// Its sets, and the orphans of its namespace.
    pub sets: Vec<Arc<ReplicaSet>>,
    /// The uids of its sets that still have pods which are not over: a Recreate waits for the old ones.
    pub with_pods: Vec<String>,
    pub lasted: Lasted,
}

impl Deployments {
    pub fn new(caches: &Caches, owned: &Owned, config: &Config) -> Self {
        let sets = caches.of::<ReplicaSet>();
        Self {
            deployments: caches.of(),
            sets_of: by_controller(&sets),
            owned: owned.clone(),
            ages: Ages::new(&config.clock),
            sets,
            pods: caches.of(),
        }
    }
}

impl Controller for Deployments {
    type World = World;

    fn name(&self) -> &'static str {
        "deployment-controller"
    }

    fn watches(&self, wake: &Wake) {
        wake.on_own(&self.deployments);
        let selectors = selectors::follow(&self.deployments, selector);
        on_dependents::<Deployment, _>(wake, &self.sets, &selectors);
        // Only a Recreate waits for pods, and only for the last one to go.
        let (deployments, sets) = (self.deployments.clone(), self.sets.clone());
        wake.on(&self.pods, move |pod, wake| {
            if pod.is_active() {
                return;
            }
            let namespace = pod.namespace().unwrap_or_default();
            let set = controller_of(pod).filter(|o| o.kind == "ReplicaSet").map(|o| Key::new(&namespace, &o.name));
            let Some(set) = set.and_then(|key| sets.get(&key)) else { return };
            let Some(owner) = controller_of(&*set).filter(|o| o.kind == "Deployment") else { return };
            let key = Key::new(&namespace, &owner.name);
            if deployments.get(&key).is_some_and(|d| math::is_recreate(&d)) {
                wake(key);
            }
        });
    }

    async fn observe(&self, key: &Key) -> Option<World> {
        let deployment = self.deployments.get(key);
        let progressing =
            deployment.as_ref().and_then(|deployment| Some(conditions::progressing(deployment)?.last_update_time.as_ref()?.0));
        let lasted = self.ages.of(key, progressing, Timestamp::now());
        let deployment = deployment?;
        let sets = self.sets_of.candidates(&key.namespace, &deployment.uid().unwrap_or_default());
        let has_pods = |uid: &String| self.owned.has_living(&key.namespace, uid);
        let with_pods =
            if math::is_recreate(&deployment) { sets.iter().filter_map(|set| set.uid()).filter(has_pods).collect() } else { Vec::new() };
        Some(World { deployment, sets, with_pods, lasted })
    }

    fn plan(&self, world: &World, _: &Key) -> Plan {
        plan(world)
    }

    fn failed(&self, key: &Key, action: &Action, error: &kube::Error) -> Option<Action> {
        let (Action::Create { object, .. }, kube::Error::Api(status)) = (action, error) else { return None };
        if status.code == 409 {
            return None;
        }
        let deployment = self.deployments.get(key)?;
        let name = object.pointer("/metadata/name").and_then(|v| v.as_str()).unwrap_or_default();
        let message = format!("Failed to create new replica set {name:?}: {}", status.message);
        Some(Action::warning(&*deployment, "ReplicaSetCreateError", message))
    }
}

fn plan(world: &World) -> Plan {
    let deployment = &*world.deployment;
    let Some(selector) = selector(deployment) else { return Plan::rest() };
    if selector.is_empty() {
        let message = "This deployment is selecting all pods. A non-empty selector is required.";
        return Plan::act(vec![Action::warning(deployment, "SelectingAll", message)]);
    }
    let Some(owner) = Owner::of(deployment, selector) else { return Plan::rest() };
    let claimed = claim(&owner, world.sets.iter().cloned());
    if !claimed.actions.is_empty() {
        return Plan::act(claimed.actions);
    }
    let sets = claimed.owned.iter().map(|set| (**set).clone()).collect();
    let mut rollout = Rollout::new(deployment.clone(), sets, &owner.reference, world);
    if !owner.deleting {
        rollout.run();
    }
    let (status, again) = rollout.status();
    let (mut actions, changed) = rollout.into_actions();
    let wanted = Deployment { status: Some(status), ..changed };
    if wanted.status != deployment.status || wanted.metadata.annotations != deployment.metadata.annotations {
        actions.push(Action::update_status(&wanted));
    }
    let plan = Plan::act(actions);
    match again {
        Some(wait) => plan.again_in(wait.saturating_add(Duration::from_secs(1))),
        None => plan,
    }
}

fn selector(deployment: &Deployment) -> Option<Labels> {
    Labels::from_selector(Some(&deployment.spec.as_ref()?.selector)).ok().flatten()
}

#[cfg(test)]
mod tests;
