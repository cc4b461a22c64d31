//! The revisions of a `StatefulSet` -> the one its pods are of, the one they are to be of, and those that are too many.
//!
//! Source: `getStatefulSetRevisions`, `truncateHistory` of `pkg/controller/statefulset/stateful_set_control.go`.

use std::{collections::HashSet, sync::Arc};

use api::{
    Key,
    k8s::{
        api::{
            apps::v1::{ControllerRevision, StatefulSet},
            core::v1::PodTemplateSpec,
        },
        apimachinery::pkg::apis::meta::v1::OwnerReference,
    },
};
use client::{Cache, kube::ResourceExt, pods::Pod};
use reconcile::Action;
use serde_json::Value;

use super::identity::revision;
use crate::revisions;

/// The label of a revision that says what it keeps (`ControllerRevisionHashLabel`).
const HASH: &str = "controller.kubernetes.io/hash";

/// Where a revision of the current template would stand.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Place {
    /// So many names are taken by others.
    pub collisions: i32,
    /// One that keeps the same.
    pub occupant: Option<Arc<ControllerRevision>>,
}

/// One that pods are made of.
#[derive(Clone, Debug, PartialEq)]
pub struct Revision {
    pub name: String,
    pub template: PodTemplateSpec,
}

#[derive(Debug, PartialEq)]
pub struct History {
    pub current: Revision,
    pub update: Revision,
    pub collisions: i32,
    pub actions: Vec<Action>,
}

pub fn collisions(set: &StatefulSet) -> i32 {
    set.status.as_ref().and_then(|status| status.collision_count).unwrap_or(0)
}

/// `CreateControllerRevision`: names that others have are passed over.
pub fn place(set: &StatefulSet, data: &Value, all: &Cache<ControllerRevision>) -> Place {
    let mut place = Place { collisions: collisions(set), occupant: None };
    while let Some(occupant) = all.get(&key(set, data, place.collisions)) {
        if revisions::are_same(revisions::data(&occupant), data) {
            place.occupant = Some(occupant);
            break;
        }
        place.collisions = place.collisions.wrapping_add(1);
    }
    place
}

fn key(set: &StatefulSet, data: &Value, collisions: i32) -> Key {
    let name = revisions::name(&set.name_any(), &revisions::data_hash(data, collisions));
    Key::new(set.metadata.namespace.as_deref().unwrap_or_default(), &name)
}

/// `all`: its revisions, in order. `None` where what its pods are of cannot be read.
pub fn of(set: &StatefulSet, owner: &OwnerReference, data: &Value, all: &[Arc<ControllerRevision>], place: &Place) -> Option<History> {
    let template = set.spec.as_ref().map(|spec| spec.template.clone()).unwrap_or_default();
    let number = revisions::highest(all).saturating_add(1);
    let equal = all.iter().rfind(|revision| revisions::are_same(revisions::data(revision), data));
    let is_newest = |revision: &Arc<ControllerRevision>| all.last().is_some_and(|last| Arc::ptr_eq(last, revision));
    let mut history = History {
        current: Revision { name: String::new(), template: template.clone() },
        update: Revision { name: String::new(), template },
        collisions: collisions(set),
        actions: Vec::new(),
    };
    history.update.name = match (equal, &place.occupant) {
        (Some(equal), _) => {
            if !is_newest(equal) {
                history.actions.push(Action::update(&ControllerRevision { revision: number, ..(**equal).clone() }));
            }
            equal.name_any()
        }
        (None, Some(occupant)) => occupant.name_any(),
        (None, None) => {
            let new = new(set, owner, data, number, place.collisions);
            history.actions.push(Action::create(&new));
            new.name_any()
        }
    };
    if equal.is_none() {
        history.collisions = place.collisions;
    }
    let stated = set.status.as_ref().and_then(|status| status.current_revision.as_ref());
    let current = all.iter().find(|revision| revision.metadata.name.as_ref() == stated && stated.is_some());
    match current {
        Some(current) if current.name_any() != history.update.name => {
            history.current = Revision { name: current.name_any(), template: revisions::template_in(revisions::data(current))? };
        }
        _ => history.current.name.clone_from(&history.update.name),
    }
    Some(history)
}

/// `newRevision`
fn new(set: &StatefulSet, owner: &OwnerReference, data: &Value, number: i64, collisions: i32) -> ControllerRevision {
    let template = set.spec.as_ref().map(|spec| spec.template.clone()).unwrap_or_default();
    let name = key(set, data, collisions).name.to_string();
    let hash = revisions::data_hash(data, collisions);
    let mut revision = revisions::revision_of(set, owner, &template, data.clone(), (number, name), (HASH, hash));
    revision.metadata.annotations.clone_from(&set.metadata.annotations);
    revision
}

/// Of those that neither the set nor a pod is of, the oldest beyond what is to be kept.
pub fn too_many(
    set: &StatefulSet,
    all: Vec<Arc<ControllerRevision>>,
    history: &History,
    pods: &[Arc<Pod>],
) -> Vec<Arc<ControllerRevision>> {
    let limit = set.spec.as_ref().and_then(|spec| spec.revision_history_limit).unwrap_or(10);
    let Ok(kept) = usize::try_from(limit) else { return Vec::new() };
    if all.len() <= kept {
        return Vec::new();
    }
    let mut live: HashSet<&str> = pods.iter().map(|pod| revision(pod)).collect();
    live.extend([history.current.name.as_str(), history.update.name.as_str()]);
    let mut rest: Vec<_> = all.into_iter().filter(|revision| !live.contains(revision.name_any().as_str())).collect();
    rest.truncate(rest.len().saturating_sub(kept));
    rest
}
