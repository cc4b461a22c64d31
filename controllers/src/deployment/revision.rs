//! Which set is the new one, what it is called, and the annotations that number the revisions.

use std::collections::BTreeMap;

use api::k8s::{
    api::{
        apps::v1::{Deployment, ReplicaSet, ReplicaSetSpec},
        core::v1::PodTemplateSpec,
    },
    apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta, OwnerReference},
};
use client::kube::ResourceExt;

use super::math::{DESIRED, MAX, desired, max_surge};
use crate::revisions::template_hash;

pub const REVISION: &str = "deployment.kubernetes.io/revision";
const HISTORY: &str = "deployment.kubernetes.io/revision-history";
const HASH: &str = "pod-template-hash";
/// Annotations of a deployment that its sets do not take over.
const KEPT_BACK: [&str; 5] = ["kubectl.kubernetes.io/last-applied-configuration", REVISION, HISTORY, DESIRED, MAX];
const HISTORY_MAX: usize = 2000;

pub fn revision(set: &ReplicaSet) -> i64 {
    set.annotations().get(REVISION).and_then(|v| v.parse().ok()).unwrap_or(0)
}

/// The oldest set with the deployment's template (there should be one at most).
pub fn find_new(deployment: &Deployment, sets: &[ReplicaSet]) -> Option<usize> {
    let wanted = without_hash(&deployment.spec.as_ref()?.template);
    let same = |set: &ReplicaSet| set.spec.as_ref().and_then(|s| s.template.as_ref()).map(without_hash).as_ref() == Some(&wanted);
    let matching = sets.iter().enumerate().filter(|(_, set)| same(set));
    matching.min_by_key(|(_, set)| (set.metadata.creation_timestamp.as_ref().map(|t| t.0), set.name_any())).map(|(i, _)| i)
}

/// A new set of no replicas for the deployment's template.
pub fn new_set(deployment: &Deployment, owner: &OwnerReference) -> Option<ReplicaSet> {
    let spec = deployment.spec.as_ref()?;
    let collisions = deployment.status.as_ref().and_then(|s| s.collision_count);
    let hash = template_hash(&spec.template, collisions);
    let mut template = spec.template.clone();
    let labels = template.metadata.get_or_insert_default().labels.get_or_insert_default();
    labels.insert(HASH.into(), hash.clone());
    let labels = labels.clone();
    let mut match_labels = spec.selector.match_labels.clone().unwrap_or_default();
    match_labels.insert(HASH.into(), hash.clone());
    let selector = LabelSelector { match_labels: Some(match_labels), ..spec.selector.clone() };
    let metadata = ObjectMeta {
        name: Some(format!("{}-{hash}", deployment.name_any())),
        namespace: deployment.namespace(),
        labels: Some(labels),
        owner_references: Some(vec![owner.clone()]),
        ..ObjectMeta::default()
    };
    let spec = ReplicaSetSpec { replicas: Some(0), min_ready_seconds: spec.min_ready_seconds, selector, template: Some(template) };
    Some(ReplicaSet { metadata, spec: Some(spec), status: None })
}

/// Brings the new set's annotations up to date.
pub fn annotate_new(deployment: &Deployment, set: &mut ReplicaSet, revision: i64, is_fresh: bool) {
    let annotations = set.metadata.annotations.get_or_insert_default();
    let copied = deployment.annotations().iter().filter(|(k, _)| !KEPT_BACK.contains(&k.as_str()));
    annotations.extend(copied.map(|(k, v)| (k.clone(), v.clone())));
    let old = annotations.get(REVISION).cloned();
    let old_number: i64 = old.as_deref().and_then(|v| v.parse().ok()).unwrap_or(0);
    if old_number < revision {
        annotations.insert(REVISION.into(), revision.to_string());
        if let Some(old) = old {
            remember(annotations, &old);
        }
    }
    if is_fresh {
        annotate_size(deployment, set);
    }
}

/// What a later scaling needs to know of how large the deployment was.
pub fn annotate_size(deployment: &Deployment, set: &mut ReplicaSet) {
    let desired = desired(deployment);
    let annotations = set.metadata.annotations.get_or_insert_default();
    annotations.insert(DESIRED.into(), desired.to_string());
    annotations.insert(MAX.into(), desired.saturating_add(max_surge(deployment)).to_string());
}

fn remember(annotations: &mut BTreeMap<String, String>, old: &str) {
    let history = annotations.get(HISTORY).map(String::as_str).unwrap_or_default();
    let mut all: Vec<&str> = history.split(',').filter(|r| !r.is_empty()).chain([old]).collect();
    while all.iter().map(|r| r.len() + 1).sum::<usize>() > HISTORY_MAX {
        all.remove(0);
    }
    let joined = all.join(",");
    annotations.insert(HISTORY.into(), joined);
}

fn without_hash(template: &PodTemplateSpec) -> PodTemplateSpec {
    let mut template = template.clone();
    if let Some(metadata) = &mut template.metadata {
        metadata.creation_timestamp = None;
        if let Some(labels) = &mut metadata.labels {
            labels.remove(HASH);
        }
    }
    template
}
