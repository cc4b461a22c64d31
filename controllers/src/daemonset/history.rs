//! The revisions of a `DaemonSet` -> the current one, made or found, and those that are too many.
//!
//! Source: `constructHistory`, `snapshot`, `cleanupHistory` of `pkg/controller/daemon/update.go`.

use std::{collections::HashSet, sync::Arc};

use api::{
    Key,
    k8s::{
        api::apps::v1::{ControllerRevision, DaemonSet, DaemonSetSpec},
        apimachinery::pkg::apis::meta::v1::OwnerReference,
    },
};
use client::{kube::ResourceExt, pods::Pod};
use reconcile::Action;
use serde_json::json;

use super::World;
use crate::revisions::{self, HASH};

/// The current revision's hash, the others, and what has to be written before anything else.
pub struct History {
    pub hash: String,
    pub old: Vec<Arc<ControllerRevision>>,
    pub actions: Vec<Action>,
}

/// `owned`: its revisions; `pods`: its pods. `Err`: what has to be done first, and looked at again.
pub fn of(
    world: &World,
    owner: &OwnerReference,
    mut owned: Vec<Arc<ControllerRevision>>,
    pods: &[Arc<Pod>],
) -> Result<History, Vec<Action>> {
    let unlabelled: Vec<Action> = owned.iter().filter(|revision| !revision.labels().contains_key(HASH)).map(|r| labelled(r)).collect();
    if !unlabelled.is_empty() {
        return Err(unlabelled);
    }
    revisions::sort(&mut owned);
    let is_current = |revision: &Arc<ControllerRevision>| revisions::are_same(revisions::data(revision), &world.data);
    let (current, old): (Vec<_>, Vec<_>) = owned.into_iter().partition(is_current);
    let number = revisions::highest(&old).saturating_add(1);
    let hash = |revision: &ControllerRevision| revision.labels().get(HASH).cloned().unwrap_or_default();
    match (current.as_slice(), &world.occupant) {
        ([], None) => {
            let new = snapshot(world, owner, number);
            Ok(History { hash: hash(&new), old, actions: vec![Action::create(&new)] })
        }
        ([], Some(occupant)) if is_current(occupant) => Ok(History { hash: hash(occupant), old, actions: Vec::new() }),
        ([], Some(_)) => Err(vec![collided(&world.set)]),
        ([.., kept], _) if current.len() > 1 => Err(deduplicated(kept, &current, pods)),
        ([current, ..], _) => {
            let numbered =
                (current.revision < number).then(|| Action::update(&ControllerRevision { revision: number, ..(**current).clone() }));
            Ok(History { hash: hash(current), old, actions: numbered.into_iter().collect() })
        }
    }
}

/// Under which name the current revision would be made.
pub fn next_key(set: &DaemonSet) -> Key {
    Key::new(set.metadata.namespace.as_deref().unwrap_or_default(), &revisions::name(&set.name_any(), &next_hash(set)))
}

fn next_hash(set: &DaemonSet) -> String {
    let template = set.spec.as_ref().map(|spec| spec.template.clone()).unwrap_or_default();
    revisions::template_hash(&template, set.status.as_ref().and_then(|status| status.collision_count))
}

fn snapshot(world: &World, owner: &OwnerReference, number: i64) -> ControllerRevision {
    let (set, hash) = (&*world.set, next_hash(&world.set));
    let template = set.spec.as_ref().map(|spec| spec.template.clone()).unwrap_or_default();
    let name = revisions::name(&set.name_any(), &hash);
    let mut revision = revisions::revision_of(set, owner, &template, (*world.data).clone(), (number, name), (HASH, hash));
    revision.metadata.annotations.clone_from(&set.metadata.annotations);
    revision
}

/// By its name: that needs no thought of collisions.
fn labelled(revision: &ControllerRevision) -> Action {
    let mut revision = revision.clone();
    let name = revision.name_any();
    revision.labels_mut().insert(HASH.into(), name);
    Action::update(&revision)
}

/// Another template has the same hash: the next one will have another.
fn collided(set: &DaemonSet) -> Action {
    let mut status = set.status.clone().unwrap_or_default();
    status.collision_count = Some(status.collision_count.unwrap_or(0).saturating_add(1));
    Action::update_status(&DaemonSet { status: Some(status), ..set.clone() })
}

/// Pods of the others become those of the one that is kept. `dedupCurHistories`
fn deduplicated(kept: &ControllerRevision, all: &[Arc<ControllerRevision>], pods: &[Arc<Pod>]) -> Vec<Action> {
    let hash = kept.labels().get(HASH);
    let others = pods.iter().filter(|pod| pod.labels().get(HASH) != hash);
    let relabelled = others.map(|pod| Action::patch(&**pod, json!({"metadata": {"labels": {HASH: hash}}})));
    let doubled = all.iter().filter(|revision| revision.metadata.name != kept.metadata.name).map(|revision| Action::delete(&**revision));
    relabelled.chain(doubled).collect()
}

/// The oldest that no pod is of, beyond what is to be kept. `old` is in order.
pub fn too_many(spec: &DaemonSetSpec, old: Vec<Arc<ControllerRevision>>, pods: &[Arc<Pod>]) -> Vec<Arc<ControllerRevision>> {
    let kept = usize::try_from(spec.revision_history_limit.unwrap_or(10)).unwrap_or(0);
    let spare = old.len().saturating_sub(kept);
    if spare == 0 {
        return Vec::new();
    }
    let live: HashSet<&String> = pods.iter().filter_map(|pod| pod.labels().get(HASH)).collect();
    old.into_iter().filter(|revision| revision.labels().get(HASH).is_none_or(|hash| !live.contains(hash))).take(spare).collect()
}
