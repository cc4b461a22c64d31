//! The steps of a rollout: make the new set, scale up, scale down, forget the oldest.

use api::{
    k8s::{
        api::apps::v1::{Deployment, ReplicaSet},
        apimachinery::pkg::apis::meta::v1::OwnerReference,
    },
    time::Timestamp,
};
use client::kube::ResourceExt;
use reconcile::{Action, Propagation};

use super::{
    World,
    conditions::{NEW_CREATED, NEW_FOUND, PAUSED, RESUMED, progressing, set_progressing},
    math::{available, desired, fences, is_recreate, max_surge, new_size, proportion, replicas, size, sum, total},
    revision::{REVISION, annotate_new, annotate_size, find_new, new_set, revision},
};
use crate::lasted::Lasted;

/// A deployment and its sets, as they will be once the actions so far are carried out.
pub struct Rollout<'a> {
    pub deployment: Deployment,
    pub sets: Vec<ReplicaSet>,
    /// Index of the set with the current template.
    pub new: Option<usize>,
    pub now: Timestamp,
    pub lasted: &'a Lasted,
    /// How the deployment's status read before this run.
    pub before: Deployment,
    owner: &'a OwnerReference,
    with_pods: &'a [String],
    actions: Vec<Action>,
}

impl<'a> Rollout<'a> {
    pub fn new(deployment: Deployment, mut sets: Vec<ReplicaSet>, owner: &'a OwnerReference, world: &'a World) -> Self {
        sets.sort_by_key(|set| (set.metadata.creation_timestamp.as_ref().map(|t| t.0), set.name_any()));
        let new = find_new(&deployment, &sets);
        let before = deployment.clone();
        Self {
            deployment,
            sets,
            new,
            now: world.lasted.now,
            lasted: &world.lasted,
            before,
            owner,
            with_pods: &world.with_pods,
            actions: Vec::new(),
        }
    }

    pub fn run(&mut self) {
        self.note_pause();
        if self.is_paused() || self.was_scaled() {
            self.number_revision();
            self.scale();
            if self.is_paused() {
                self.forget_oldest();
            }
        } else if is_recreate(&self.deployment) {
            self.recreate();
        } else {
            self.roll();
        }
    }

    pub fn into_actions(self) -> (Vec<Action>, Deployment) {
        (self.actions, self.deployment)
    }

    fn roll(&mut self) {
        let new = self.ensure_new();
        let Some(new) = new else { return };
        if self.grow_new(new) || self.shrink_old(new) {
            return;
        }
        if self.is_complete() {
            self.forget_oldest();
        }
    }

    fn recreate(&mut self) {
        let old = self.old();
        let mut shrunk = false;
        for i in old.clone() {
            shrunk |= self.resize(i, 0);
        }
        if shrunk || old.iter().any(|i| self.sets[*i].uid().is_some_and(|uid| self.with_pods.contains(&uid))) {
            // Old pods must be gone before the first new one comes.
            self.number_revision();
            return;
        }
        let Some(new) = self.ensure_new() else { return };
        if !self.resize(new, desired(&self.deployment)) && self.is_complete() {
            self.forget_oldest();
        }
    }

    /// The set of the current template, made if it is missing.
    fn ensure_new(&mut self) -> Option<usize> {
        if self.new.is_none() {
            self.make_new();
        } else {
            self.number_revision();
        }
        self.new
    }

    fn make_new(&mut self) {
        let Some(mut set) = new_set(&self.deployment, self.owner) else { return };
        if self.sets.iter().any(|other| other.name_any() == set.name_any()) {
            // Another template has the same hash: the next one will have another.
            let status = self.deployment.status.get_or_insert_default();
            status.collision_count = Some(status.collision_count.unwrap_or(0).saturating_add(1));
            return;
        }
        let number = self.newest_old().saturating_add(1);
        let count = new_size(&self.deployment, total(&self.sets), 0);
        if let Some(spec) = &mut set.spec {
            spec.replicas = Some(count);
        }
        annotate_new(&self.deployment, &mut set, number, true);
        self.actions.push(Action::create(&set));
        if count > 0 {
            let message = format!("Scaled up replica set {} from 0 to {count}", set.name_any());
            self.actions.push(Action::normal(&self.before, "ScalingReplicaSet", message));
        }
        self.deployment.annotations_mut().insert(REVISION.into(), number.to_string());
        set_progressing(&mut self.deployment, "True", NEW_CREATED, format!("Created new replica set {:?}", set.name_any()), self.now);
        self.sets.push(set);
        self.new = Some(self.sets.len() - 1);
    }

    /// The new set has the highest number; the deployment shows it.
    fn number_revision(&mut self) {
        let (Some(new), number) = (self.new, self.newest_old().saturating_add(1)) else { return };
        let mut set = self.sets[new].clone();
        annotate_new(&self.deployment, &mut set, number, false);
        if let (Some(spec), Some(wanted)) = (&mut set.spec, &self.deployment.spec) {
            spec.min_ready_seconds = wanted.min_ready_seconds;
        }
        if set != self.sets[new] {
            self.actions.push(Action::update(&set));
            self.sets[new] = set;
        }
        let number = revision(&self.sets[new]).to_string();
        self.deployment.annotations_mut().insert(REVISION.into(), number);
        if progressing(&self.deployment).is_none() {
            let message = format!("Found new replica set {:?}", self.sets[new].name_any());
            set_progressing(&mut self.deployment, "True", NEW_FOUND, message, self.now);
        }
    }

    fn grow_new(&mut self, new: usize) -> bool {
        let (desired, current) = (desired(&self.deployment), size(&self.sets[new]));
        let wanted = if current >= desired { desired } else { new_size(&self.deployment, total(&self.sets), current) };
        self.resize(new, wanted)
    }

    fn shrink_old(&mut self, new: usize) -> bool {
        let old = self.old();
        if old.iter().all(|i| size(&self.sets[*i]) == 0) {
            return false;
        }
        let min_available = desired(&self.deployment).saturating_sub(fences(&self.deployment).1);
        let new_unavailable = size(&self.sets[new]).saturating_sub(available(&self.sets[new]));
        let mut spare = total(&self.sets).saturating_sub(min_available).saturating_sub(new_unavailable);
        if spare <= 0 {
            return false;
        }
        let mut shrunk = false;
        // First the pods that do no work anyway.
        for i in &old {
            let broken = size(&self.sets[*i]).saturating_sub(available(&self.sets[*i])).clamp(0, spare);
            shrunk |= self.resize(*i, size(&self.sets[*i]) - broken);
            spare -= broken;
        }
        // A set that is just being made smaller still counts pods that are as good as gone.
        let mut working = sum(self.sets.iter().map(|set| available(set).min(size(set)))).saturating_sub(min_available);
        for i in old {
            let given = size(&self.sets[i]).min(working).max(0);
            shrunk |= self.resize(i, size(&self.sets[i]) - given);
            working -= given;
        }
        shrunk
    }

    /// The deployment was resized, perhaps in the middle of a rollout: each set takes its share.
    fn scale(&mut self) {
        let desired = desired(&self.deployment);
        let active: Vec<usize> = (0..self.sets.len()).filter(|i| size(&self.sets[*i]) > 0).collect();
        if active.len() <= 1 {
            let latest = active.first().copied().or(self.new).or_else(|| self.sets.len().checked_sub(1));
            if let Some(i) = latest {
                self.resize(i, desired);
            }
            return;
        }
        if self.new.is_some_and(|new| self.is_saturated(new)) {
            for i in self.old() {
                self.resize(i, 0);
            }
        } else if !is_recreate(&self.deployment) {
            self.share_out(active);
        }
    }

    fn share_out(&mut self, mut active: Vec<usize>) {
        let desired = desired(&self.deployment);
        let allowed = if desired > 0 { desired.saturating_add(max_surge(&self.deployment)) } else { 0 };
        let to_add = allowed.saturating_sub(total(active.iter().map(|i| &self.sets[*i])));
        // Growing, the newest of the largest come first; shrinking, the oldest of them.
        active.sort_by_key(|i| {
            (
                size(&self.sets[*i]).saturating_neg(),
                if to_add > 0 { -(i64::try_from(*i).unwrap_or(0)) } else { i64::try_from(*i).unwrap_or(0) },
            )
        });
        let (mut added, mut sizes) = (0, Vec::new());
        for i in &active {
            let share = proportion(&self.deployment, &self.sets[*i], to_add, added);
            sizes.push(size(&self.sets[*i]).saturating_add(share));
            added = added.saturating_add(share);
        }
        if let Some(first) = sizes.first_mut() {
            *first = first.saturating_add(to_add.saturating_sub(added)).max(0);
        }
        for (i, count) in active.into_iter().zip(sizes) {
            self.resize(i, count);
        }
    }

    /// True if the set has to change.
    ///
    /// A set that has not given up all that it was told to grows only after that: until then its status counts pods as available that go, and
    /// with its size as it was before nothing would tell them from pods that stay. (Upstream grows it at once, and may then shrink the others
    /// below what must stay available.)
    fn resize(&mut self, i: usize, to: i32) -> bool {
        let mut set = self.sets[i].clone();
        let from = size(&set);
        if to > from && replicas(&set) > from {
            return true;
        }
        if let Some(spec) = &mut set.spec {
            spec.replicas = Some(to);
        }
        if from != to || self.is_paused() || self.was_scaled() {
            annotate_size(&self.deployment, &mut set);
        }
        if set == self.sets[i] {
            return false;
        }
        // A set that was made or renumbered in this very run has no revision to build on: the next run resizes it.
        if !self.has_pending(&set) {
            self.actions.push(Action::update(&set));
            if from != to {
                let direction = if to > from { "up" } else { "down" };
                let message = format!("Scaled {direction} replica set {} from {from} to {to}", set.name_any());
                self.actions.push(Action::normal(&self.before, "ScalingReplicaSet", message));
            }
            self.sets[i] = set;
        }
        from != to
    }

    fn has_pending(&self, set: &ReplicaSet) -> bool {
        let name = format!("/{}", set.name_any());
        let fresh = set.metadata.resource_version.is_none();
        fresh
            || self
                .actions
                .iter()
                .any(|a| matches!(a, Action::Update { resource, path, .. } if resource.resource == "replicasets" && path.ends_with(&name)))
    }

    fn forget_oldest(&mut self) {
        let limit = self.deployment.spec.as_ref().and_then(|s| s.revision_history_limit).unwrap_or(10);
        let limit = usize::try_from(limit).unwrap_or(0);
        let mut old: Vec<&ReplicaSet> =
            self.old().into_iter().map(|i| &self.sets[i]).filter(|set| set.metadata.deletion_timestamp.is_none()).collect();
        let surplus = old.len().saturating_sub(limit);
        old.sort_by_key(|set| revision(set));
        let idle = |set: &&&ReplicaSet| {
            let status = set.status.as_ref();
            size(set) == 0
                && status.is_none_or(|s| s.replicas == 0)
                && status.and_then(|s| s.observed_generation).unwrap_or(0) >= set.metadata.generation.unwrap_or(0)
        };
        let gone: Vec<Action> =
            old.iter().take(surplus).filter(idle).map(|set| Action::delete_and(*set, Propagation::Background)).collect();
        self.actions.extend(gone);
    }

    fn note_pause(&mut self) {
        let reason = progressing(&self.deployment).and_then(|c| c.reason.clone()).unwrap_or_default();
        match (self.is_paused(), reason.as_str()) {
            (_, "ProgressDeadlineExceeded") => {}
            (true, reason) if reason != PAUSED => {
                set_progressing(&mut self.deployment, "Unknown", PAUSED, "Deployment is paused".into(), self.now);
            }
            (false, PAUSED) => set_progressing(&mut self.deployment, "Unknown", RESUMED, "Deployment is resumed".into(), self.now),
            _ => {}
        }
    }

    fn is_paused(&self) -> bool {
        self.deployment.spec.as_ref().and_then(|s| s.paused) == Some(true)
    }

    /// Some active set was sized for another number of replicas than the deployment has now.
    fn was_scaled(&self) -> bool {
        let desired = desired(&self.deployment).to_string();
        let sized = |set: &&ReplicaSet| set.annotations().get(super::math::DESIRED).is_some_and(|d| *d != desired);
        self.sets.iter().filter(|set| size(set) > 0).any(|set| sized(&set))
    }

    fn is_saturated(&self, new: usize) -> bool {
        let (set, desired) = (&self.sets[new], desired(&self.deployment));
        let annotated = set.annotations().get(super::math::DESIRED).and_then(|d| d.parse::<i32>().ok());
        size(set) == desired && annotated == Some(desired) && available(set) == desired
    }

    fn newest_old(&self) -> i64 {
        self.old().into_iter().map(|i| revision(&self.sets[i])).max().unwrap_or(0)
    }

    fn old(&self) -> Vec<usize> {
        (0..self.sets.len()).filter(|i| Some(*i) != self.new).collect()
    }
}
