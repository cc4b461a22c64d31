//! An ordinal -> the pod of that name, host name and volumes; a pod -> whether it is that.
//!
//! Source: `pkg/controller/statefulset/stateful_set_utils.go`.

use api::k8s::{
    api::{
        apps::v1::StatefulSet,
        core::v1::{self, PersistentVolumeClaimVolumeSource, PodTemplateSpec, Volume},
    },
    apimachinery::pkg::apis::meta::v1::OwnerReference,
};
use client::{kube::ResourceExt, pods::Pod};
use serde_json::{Value, json};

use super::claims::{claim_name, templates};
use crate::{replicas::pod_of, revisions::HASH};

const NAME: &str = "statefulset.kubernetes.io/pod-name";
const INDEX: &str = "apps.kubernetes.io/pod-index";

/// What a name says whose pod it is, and the ordinal where it can be read: at most 32 bits, as far as `start` and `replicas` together reach.
/// `getParentNameAndOrdinal` reads `web-01` as 1 as well, which would make two pods of one ordinal, and no more than 31 bits.
pub fn parent_and_ordinal(name: &str) -> Option<(&str, Option<i64>)> {
    let (parent, digits) = name.rsplit_once('-')?;
    let is_number = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
    let is_as_written = digits.len() == 1 || !digits.starts_with('0');
    is_number.then(|| (parent, digits.parse::<u32>().ok().filter(|_| is_as_written).map(i64::from)))
}

pub fn ordinal(pod: &Pod) -> Option<i64> {
    parent_and_ordinal(pod.metadata.name.as_deref().unwrap_or_default())?.1
}

/// `isMemberOf`
pub fn is_member(set: &StatefulSet, pod: &Pod) -> bool {
    let parent = parent_and_ordinal(pod.metadata.name.as_deref().unwrap_or_default()).map(|(parent, _)| parent);
    parent.is_some() && parent == set.metadata.name.as_deref()
}

pub fn pod_name(set: &StatefulSet, ordinal: i64) -> String {
    format!("{}-{ordinal}", set.name_any())
}

pub fn revision(pod: &Pod) -> &str {
    pod.labels().get(HASH).map_or("", String::as_str)
}

/// `identityMatches`
pub fn identity_matches(set: &StatefulSet, pod: &Pod) -> bool {
    let name = pod.metadata.name.as_ref();
    ordinal(pod).is_some_and(|ordinal| name == Some(&pod_name(set, ordinal))) && pod.labels().get(NAME) == name
}

/// Its volumes are the claims of its ordinal. `storageMatches`
pub fn storage_matches(set: &StatefulSet, pod: &Pod) -> bool {
    let Some(ordinal) = ordinal(pod) else { return false };
    let volumes = pod.spec.as_ref().and_then(|spec| spec.volumes.as_deref()).unwrap_or_default();
    templates(set).iter().all(|template| {
        let volume = volumes.iter().rfind(|volume| Some(&volume.name) == template.metadata.name.as_ref());
        let claim = volume.and_then(|volume| volume.persistent_volume_claim.as_ref());
        claim.is_some_and(|claim| claim.claim_name == claim_name(set, template, ordinal))
    })
}

/// What makes a pod such a one: labels, and, where they are not, volumes. `updateIdentity`, `updateStorage`
pub fn corrections(set: &StatefulSet, pod: &Pod) -> Option<Value> {
    let ordinal = ordinal(pod)?;
    let mut patch = json!({});
    if !identity_matches(set, pod) {
        patch["metadata"] = json!({"labels": labels(set, ordinal).into_iter().collect::<serde_json::Map<_, _>>()});
    }
    if !storage_matches(set, pod) {
        patch["spec"] = json!({"volumes": volumes(set, ordinal)});
    }
    patch.as_object().is_some_and(|fields| !fields.is_empty()).then_some(patch)
}

fn labels(set: &StatefulSet, ordinal: i64) -> [(String, Value); 2] {
    [(NAME.to_owned(), pod_name(set, ordinal).into()), (INDEX.to_owned(), ordinal.to_string().into())]
}

fn volumes(set: &StatefulSet, ordinal: i64) -> Vec<Volume> {
    let volume = |template: &v1::PersistentVolumeClaim| Volume {
        name: template.name_any(),
        persistent_volume_claim: Some(PersistentVolumeClaimVolumeSource {
            claim_name: claim_name(set, template, ordinal),
            read_only: None,
        }),
        ..Volume::default()
    };
    templates(set).iter().map(volume).collect()
}

/// `newStatefulSetPod`, `setPodRevision`
pub fn new_pod(set: &StatefulSet, owner: &OwnerReference, template: &PodTemplateSpec, revision: &str, ordinal: i64) -> v1::Pod {
    let mut pod = pod_of(set, owner, template, 0);
    pod.metadata.name = Some(pod_name(set, ordinal));
    let all = pod.metadata.labels.get_or_insert_default();
    all.extend(labels(set, ordinal).map(|(key, value)| (key, value.as_str().unwrap_or_default().to_owned())));
    all.insert(HASH.into(), revision.into());
    let service = set.spec.as_ref().and_then(|spec| spec.service_name.clone()).filter(|name| !name.is_empty());
    let spec = pod.spec.get_or_insert_default();
    spec.hostname = Some(pod_name(set, ordinal));
    spec.subdomain = service;
    let mut all = volumes(set, ordinal);
    let own = spec.volumes.take().unwrap_or_default();
    let kept: Vec<Volume> = own.into_iter().filter(|own| !all.iter().any(|volume| volume.name == own.name)).collect();
    all.extend(kept);
    spec.volumes = (!all.is_empty()).then_some(all);
    pod
}
