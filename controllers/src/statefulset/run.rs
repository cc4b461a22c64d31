//! What one run of a `StatefulSet` does with its pods: those that are wanted first, then those that are too many, then those of an older revision.
//!
//! Source: `updateStatefulSet` of `pkg/controller/statefulset/stateful_set_control.go`, and `stateful_pod_control.go`. What is done in order ends at
//! the first pod that is not as it should be: whatever becomes of it wakes the set.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use api::{k8s::api::apps::v1::StatefulSet, steps};
use client::{
    kube::{self, ResourceExt},
    pods::Pod,
};
use reconcile::Action;

use super::{
    BLOCKED, BURST, History, OwnerReference, StatefulSetSpec, World,
    claims::{self, Owners, Policy, claim_name, claim_of, templates},
    history::Revision,
    identity::{self, identity_matches, ordinal, pod_name, revision, storage_matches},
    is_parallel, ordinals, partition, pods_at_once, strategy,
};
use crate::replicas::is_available;

pub struct Run<'a> {
    pub world: &'a World,
    pub set: &'a StatefulSet,
    pub spec: &'a StatefulSetSpec,
    pub history: &'a History,
    /// All of its pods.
    pub pods: &'a [Arc<Pod>],
    /// By ordinal: those that are wanted.
    pub replicas: BTreeMap<i64, &'a Arc<Pod>>,
    /// The highest ordinal first.
    pub condemned: Vec<&'a Arc<Pod>>,
    /// How many were ended for an update.
    pub ended: i32,
    pub again: Option<Duration>,
    owner: &'a OwnerReference,
    policy: Policy,
    monotonic: bool,
    actions: Vec<Action>,
}

/// Whether the next pod may be looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    Go,
    Stop,
}

impl<'a> Run<'a> {
    pub fn new(world: &'a World, spec: &'a StatefulSetSpec, owner: &'a OwnerReference, history: &'a History, pods: &'a [Arc<Pod>]) -> Self {
        let set = &*world.set;
        let wanted = ordinals(set);
        let numbered = steps::counted(pods.iter()).filter_map(|pod| Some((ordinal(pod)?, pod)));
        let (replicas, condemned): (BTreeMap<_, _>, BTreeMap<_, _>) = numbered.partition(|(ordinal, _)| wanted.contains(ordinal));
        Self {
            world,
            set,
            spec,
            history,
            pods,
            replicas,
            condemned: condemned.into_values().rev().collect(),
            ended: 0,
            again: None,
            owner,
            policy: claims::policy(set),
            monotonic: !is_parallel(spec),
            actions: Vec::new(),
        }
    }

    pub fn into_actions(self) -> Vec<Action> {
        self.actions
    }

    pub fn all(&mut self) {
        let done = if self.monotonic { self.in_order() } else { self.at_once() };
        if done == Next::Go && self.condemn() == Next::Go {
            self.update();
        }
    }

    fn in_order(&mut self) -> Next {
        for ordinal in ordinals(self.set) {
            match self.replicas.get(&ordinal).copied() {
                Some(pod) if self.process(pod) == Next::Go => {}
                Some(_) => return Next::Stop,
                None => {
                    self.create(ordinal);
                    return Next::Stop;
                }
            }
        }
        Next::Go
    }

    fn at_once(&mut self) -> Next {
        let there: Vec<&'a Arc<Pod>> = self.replicas.values().copied().collect();
        for pod in there {
            self.process(pod);
        }
        let missing = ordinals(self.set).filter(|ordinal| !self.replicas.contains_key(ordinal)).take(pods_at_once(self.set));
        let missing: Vec<i64> = missing.collect();
        missing.into_iter().for_each(|ordinal| self.create(ordinal));
        Next::Go
    }

    /// `processReplica`
    fn process(&mut self, pod: &'a Arc<Pod>) -> Next {
        let is_going = pod.metadata.deletion_timestamp.is_some();
        if pod.is_over() {
            if !is_going {
                self.delete(pod);
            }
            return Next::Stop;
        }
        if pod.phase() == "Pending" && self.make_claims(pod, true) == Next::Stop {
            return Next::Stop;
        }
        if self.monotonic && (is_going || !is_running_and_ready(pod) || !self.is_available(pod)) {
            return Next::Stop;
        }
        self.correct(pod)
    }

    /// `CreateStatefulPod`
    fn create(&mut self, ordinal: i64) {
        let name = pod_name(self.set, ordinal);
        let owners = Owners { reference: self.owner, pod: (&name, None), is_wanted: true };
        let names = templates(self.set).iter().map(|template| claim_name(self.set, template, ordinal));
        let mut there = names.filter_map(|name| self.world.claims.get(&name));
        if there.any(|claim| claims::is_stale(self.policy, claim, &owners)) {
            self.again = Some(BLOCKED);
            return;
        }
        if let Err(why) = self.claim_all(&owners, ordinal) {
            self.told_failed("Create", &name, &why);
            return;
        }
        let Revision { name: of, template } = self.revision_of(ordinal);
        let pod = identity::new_pod(self.set, self.owner, template, of, ordinal);
        self.actions.push(Action::create(&pod));
        self.told("SuccessfulCreate", format!("Create Pod {name} in StatefulSet {} successful", self.set.name_any()));
    }

    /// `newVersionedStatefulSetPod`
    fn revision_of(&self, ordinal: i64) -> &'a Revision {
        let index = ordinal - ordinals(self.set).start;
        let current = self.set.status.as_ref().and_then(|status| status.current_replicas).unwrap_or(0);
        let stays = match partition(self.spec) {
            Some(partition) => index < partition,
            None => strategy(self.spec) == "RollingUpdate" && index < i64::from(current),
        };
        if stays { &self.history.current } else { &self.history.update }
    }

    /// Makes what claims are missing; why a pod cannot use one. `createPersistentVolumeClaims`
    fn claim_all(&mut self, owners: &Owners<'_>, ordinal: i64) -> Result<(), String> {
        let mut going = Vec::new();
        for template in templates(self.set) {
            let name = claim_name(self.set, template, ordinal);
            match self.world.claims.get(&name) {
                None => {
                    let mut claim = claim_of(self.set, template, ordinal);
                    // Upstream makes it, and tells it whose it is with the next look.
                    owners.tell(self.policy, &mut claim);
                    self.actions.push(Action::create(&claim));
                    let (pod, set) = (owners.pod.0, self.set.name_any());
                    self.told("SuccessfulCreate", format!("Create Claim {name} Pod {pod} in StatefulSet {set} success"));
                }
                Some(claim) if claim.metadata.deletion_timestamp.is_some() => going.push(format!("pvc {name} is being deleted")),
                Some(_) => {}
            }
        }
        if going.is_empty() {
            return Ok(());
        }
        self.again = Some(BLOCKED);
        Err(match going.as_slice() {
            [one] => one.clone(),
            all => format!("[{}]", all.join(", ")),
        })
    }

    /// `createMissingPersistentVolumeClaims`
    fn make_claims(&mut self, pod: &'a Pod, is_wanted: bool) -> Next {
        let (owners, Some(ordinal)) = (Owners::of(self.owner, pod, is_wanted), ordinal(pod)) else { return Next::Stop };
        if self.claim_all(&owners, ordinal).is_err() {
            return Next::Stop;
        }
        self.tell_claims(&owners, ordinal);
        Next::Go
    }

    /// Each claim is told whose it is; whether one did not know. `UpdatePodClaimForRetentionPolicy`
    fn tell_claims(&mut self, owners: &Owners<'_>, ordinal: i64) -> bool {
        let mut is_told = false;
        for template in templates(self.set) {
            let name = claim_name(self.set, template, ordinal);
            let Some(claim) = self.world.claims.get(&name) else { continue };
            if owners.is_managed_elsewhere(self.policy, claim) {
                let why =
                    "has a conflicting OwnerReference that acts as a manging controller, the retention policy is ignored for this claim";
                self.actions.push(Action::warning(self.set, "ConflictingController", format!("PersistentVolumeClaim {name} {why}")));
            }
            if !owners.are_told(self.policy, claim) {
                let mut claim = (**claim).clone();
                owners.tell(self.policy, &mut claim);
                self.actions.push(Action::update(&claim));
                is_told = true;
            }
        }
        is_told
    }

    /// `ClaimsMatchRetentionPolicy`
    fn claims_match(&self, owners: &Owners<'_>, ordinal: i64) -> bool {
        let claims = templates(self.set).iter().filter_map(|template| self.world.claims.get(&claim_name(self.set, template, ordinal)));
        claims.into_iter().all(|claim| owners.are_told(self.policy, claim))
    }

    /// What is not the pod of its name becomes that. `UpdateStatefulPod`
    fn correct(&mut self, pod: &'a Pod) -> Next {
        let (owners, Some(ordinal)) = (Owners::of(self.owner, pod, true), ordinal(pod)) else { return Next::Go };
        let (has_storage, is_told) = (storage_matches(self.set, pod), self.claims_match(&owners, ordinal));
        if identity_matches(self.set, pod) && has_storage && is_told {
            return Next::Go;
        }
        if !has_storage && let Err(why) = self.claim_all(&owners, ordinal) {
            self.told_failed("Update", &pod.name_any(), &why);
            return Next::Stop;
        }
        if !is_told {
            self.tell_claims(&owners, ordinal);
        }
        self.actions.extend(identity::corrections(self.set, pod).map(|patch| Action::patch_entries(pod, patch)));
        self.told("SuccessfulUpdate", format!("Update Pod {} in StatefulSet {} successful", pod.name_any(), self.set.name_any()));
        Next::Go
    }

    /// `processCondemned`
    fn condemn(&mut self) -> Next {
        let condemned = self.condemned.clone();
        for pod in &condemned {
            let (owners, Some(ordinal)) = (Owners::of(self.owner, pod, false), ordinal(pod)) else { continue };
            if !self.claims_match(&owners, ordinal) {
                self.tell_claims(&owners, ordinal);
            }
        }
        // In order all that is wanted is available by now.
        let unavailable = condemned.iter().rev().find(|pod| self.is_unavailable(pod)).copied();
        let is_first = |pod: &Arc<Pod>| unavailable.is_some_and(|first| Arc::ptr_eq(first, pod));
        let mut ended = 0;
        for pod in condemned {
            let is_going = pod.metadata.deletion_timestamp.is_some();
            let waits = is_going || !((is_running_and_ready(pod) && self.is_available(pod)) || is_first(pod));
            if self.monotonic {
                if !waits {
                    self.delete(pod);
                }
                return Next::Stop;
            }
            if !is_going && ended < BURST {
                self.delete(pod);
                ended += 1;
            }
        }
        Next::Go
    }

    /// The highest ordinal that is of another revision goes, once those above it are available.
    fn update(&mut self) {
        if strategy(self.spec) == "OnDelete" {
            return;
        }
        let wanted = ordinals(self.set);
        let least = wanted.start + partition(self.spec).unwrap_or(0);
        for ordinal in (least..wanted.end).rev() {
            // One that is only made now is not available.
            let Some(pod) = self.replicas.get(&ordinal).copied() else { return };
            if revision(pod) != self.history.update.name && pod.metadata.deletion_timestamp.is_none() {
                self.delete(pod);
                self.ended += 1;
                return;
            }
            if self.is_unavailable(pod) {
                return;
            }
        }
    }

    fn delete(&mut self, pod: &Pod) {
        self.actions.push(Action::delete(pod));
        self.told("SuccessfulDelete", format!("Delete Pod {} in StatefulSet {} successful", pod.name_any(), self.set.name_any()));
    }

    pub fn is_available(&self, pod: &Pod) -> bool {
        is_available(pod, self.spec.min_ready_seconds.unwrap_or(0), &self.world.lasted)
    }

    fn is_unavailable(&self, pod: &Pod) -> bool {
        !self.is_available(pod) || pod.metadata.deletion_timestamp.is_some()
    }

    fn told(&mut self, reason: &'static str, message: String) {
        self.actions.push(Action::normal(self.set, reason, message));
    }

    fn told_failed(&mut self, verb: &'static str, pod: &str, why: &str) {
        self.actions.push(of_pod(self.set, verb, pod, why));
    }
}

pub fn is_running_and_ready(pod: &Pod) -> bool {
    pod.phase() == "Running" && pod.ready_since().is_some()
}

/// What the user is told of a write that was refused. One that is there already is no news.
pub fn failed(set: &StatefulSet, action: &Action, error: &kube::Error) -> Option<Action> {
    let kube::Error::Api(status) = error else { return None };
    if status.code == 409 {
        return None;
    }
    let last = |path: &str| path.rsplit('/').next().unwrap_or_default().to_owned();
    match action {
        Action::Create { resource, object, .. } => {
            let name = object.pointer("/metadata/name").and_then(|name| name.as_str()).unwrap_or_default();
            match resource.resource.as_ref() {
                "pods" => Some(of_pod(set, "Create", name, &status.message)),
                "persistentvolumeclaims" => {
                    let pod = identity::parent_and_ordinal(name).and_then(|(_, ordinal)| ordinal).map(|ordinal| pod_name(set, ordinal));
                    let (pod, set_name) = (pod.unwrap_or_default(), set.name_any());
                    let message = format!("Create Claim {name} for Pod {pod} in StatefulSet {set_name} failed error: {}", status.message);
                    Some(Action::warning(set, "FailedCreate", message))
                }
                _ => None,
            }
        }
        Action::Delete { resource, path, .. } if resource.resource == "pods" => Some(of_pod(set, "Delete", &last(path), &status.message)),
        Action::Patch { resource, path, .. } if resource.resource == "pods" => Some(of_pod(set, "Update", &last(path), &status.message)),
        _ => None,
    }
}

/// `recordPodEvent`
fn of_pod(set: &StatefulSet, verb: &'static str, pod: &str, why: &str) -> Action {
    let reason = match verb {
        "Create" => "FailedCreate",
        "Delete" => "FailedDelete",
        _ => "FailedUpdate",
    };
    Action::warning(set, reason, format!("{verb} Pod {pod} in StatefulSet {} failed error: {why}", set.name_any()))
}
