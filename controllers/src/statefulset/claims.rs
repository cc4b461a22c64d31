//! Volume claim templates and an ordinal -> the claims; a retention policy -> who owns them.
//!
//! Source: `pkg/controller/statefulset/stateful_set_utils.go` (KEP-1847).

use api::k8s::{
    api::{apps::v1::StatefulSet, core::v1::PersistentVolumeClaim},
    apimachinery::pkg::apis::meta::v1::OwnerReference,
};
use client::{kube::ResourceExt, pods::Pod};

/// What becomes of the claims: of pods that are scaled away, and of the set's end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    pub deletes_scaled: bool,
    pub deletes_deleted: bool,
}

/// Whose claims they are. A pod that is to be made has no uid.
#[derive(Clone, Copy)]
pub struct Owners<'a> {
    /// The set, as owner.
    pub reference: &'a OwnerReference,
    pub pod: (&'a str, Option<&'a str>),
    /// The pod's ordinal is one that the set wants.
    pub is_wanted: bool,
}

pub fn templates(set: &StatefulSet) -> &[PersistentVolumeClaim] {
    set.spec.as_ref().and_then(|spec| spec.volume_claim_templates.as_deref()).unwrap_or_default()
}

/// `getPersistentVolumeClaimName`
pub fn claim_name(set: &StatefulSet, template: &PersistentVolumeClaim, ordinal: i64) -> String {
    format!("{}-{}-{ordinal}", template.name_any(), set.name_any())
}

/// As it is to be made. `getPersistentVolumeClaims`
pub fn claim_of(set: &StatefulSet, template: &PersistentVolumeClaim, ordinal: i64) -> PersistentVolumeClaim {
    let mut claim = template.clone();
    claim.metadata.name = Some(claim_name(set, template, ordinal));
    claim.metadata.namespace.clone_from(&set.metadata.namespace);
    let wanted = set.spec.as_ref().and_then(|spec| spec.selector.match_labels.clone()).unwrap_or_default();
    if claim.metadata.labels.is_some() || !wanted.is_empty() {
        claim.metadata.labels.get_or_insert_default().extend(wanted);
    }
    claim
}

/// `getPersistentVolumeClaimRetentionPolicy`
pub fn policy(set: &StatefulSet) -> Policy {
    let stated = set.spec.as_ref().and_then(|spec| spec.persistent_volume_claim_retention_policy.as_ref());
    let deletes = |word: Option<&String>| word.is_some_and(|word| word == "Delete");
    Policy {
        deletes_scaled: stated.is_some_and(|policy| deletes(policy.when_scaled.as_ref())),
        deletes_deleted: stated.is_some_and(|policy| deletes(policy.when_deleted.as_ref())),
    }
}

/// An earlier pod of the name is still its owner: it is about to go. `PodClaimIsStale`
pub fn is_stale(policy: Policy, claim: &PersistentVolumeClaim, owners: &Owners<'_>) -> bool {
    policy.deletes_scaled && owners.is_stale(claim, &POD, owners.pod.0, owners.pod.1)
}

const POD: [&str; 2] = ["v1", "Pod"];
const SET: [&str; 2] = ["apps/v1", "StatefulSet"];

impl<'a> Owners<'a> {
    pub fn of(reference: &'a OwnerReference, pod: &'a Pod, is_wanted: bool) -> Self {
        let pod = (pod.metadata.name.as_deref().unwrap_or_default(), pod.metadata.uid.as_deref());
        Self { reference, pod, is_wanted }
    }

    fn is_named(&self, reference: &OwnerReference, kind: [&str; 2], name: &str) -> bool {
        [reference.api_version.as_str(), reference.kind.as_str()] == kind && reference.name == name
    }

    fn names_set(&self, reference: &OwnerReference) -> bool {
        self.is_named(reference, SET, &self.reference.name)
    }

    fn names_pod(&self, reference: &OwnerReference) -> bool {
        self.is_named(reference, POD, self.pod.0)
    }

    /// `hasStaleOwnerRef`: the first of the name decides.
    fn is_stale(&self, claim: &PersistentVolumeClaim, kind: &[&str; 2], name: &str, uid: Option<&str>) -> bool {
        let named = claim.owner_references().iter().find(|reference| self.is_named(reference, *kind, name));
        named.is_some_and(|reference| Some(reference.uid.as_str()) != uid)
    }

    fn is_set(&self, reference: &OwnerReference) -> bool {
        reference.uid == self.reference.uid
    }

    fn is_pod(&self, reference: &OwnerReference) -> bool {
        Some(reference.uid.as_str()) == self.pod.1
    }

    /// Somebody else manages the claim, whatever the policy. `hasUnexpectedController`
    pub fn is_managed_elsewhere(&self, policy: Policy, claim: &PersistentVolumeClaim) -> bool {
        if policy == Policy::default() {
            return false;
        }
        claim.owner_references().iter().any(|reference| {
            if self.names_set(reference) {
                !self.is_set(reference)
            } else if self.names_pod(reference) {
                !self.is_pod(reference)
            } else {
                reference.controller == Some(true)
            }
        })
    }

    /// `isClaimOwnerUpToDate`
    pub fn are_told(&self, policy: Policy, claim: &PersistentVolumeClaim) -> bool {
        let references = claim.owner_references();
        let is_stale = self.is_stale(claim, &SET, &self.reference.name, Some(&self.reference.uid))
            || self.is_stale(claim, &POD, self.pod.0, self.pod.1);
        if is_stale {
            // It belongs to an earlier one, which is gone: the garbage collector sees to it.
            return true;
        }
        let (of_set, of_pod) = (references.iter().any(|r| self.is_set(r)), references.iter().any(|r| self.is_pod(r)));
        if self.is_managed_elsewhere(policy, claim) {
            return !of_set && !of_pod;
        }
        let is_only_owner = |r: &OwnerReference| (self.is_set(r) || self.is_pod(r)) && r.controller != Some(true);
        !references.iter().any(is_only_owner) && (of_set, of_pod) == self.wanted(policy)
    }

    /// Whether the set, and whether the pod, is to own it.
    fn wanted(&self, policy: Policy) -> (bool, bool) {
        let of_pod = policy.deletes_scaled && !self.is_wanted;
        (policy.deletes_deleted && !of_pod, of_pod)
    }

    /// `updateClaimOwnerRefForSetAndPod`
    pub fn tell(&self, policy: Policy, claim: &mut PersistentVolumeClaim) {
        let is_managed_elsewhere = self.is_managed_elsewhere(policy, claim);
        let mut references = claim.metadata.owner_references.take().unwrap_or_default();
        references.retain(|reference| !self.names_set(reference) && !self.names_pod(reference));
        if !is_managed_elsewhere {
            let (of_set, of_pod) = self.wanted(policy);
            let pod = |uid: &str| OwnerReference {
                api_version: POD[0].into(),
                kind: POD[1].into(),
                name: self.pod.0.to_owned(),
                uid: uid.to_owned(),
                controller: Some(true),
                block_owner_deletion: Some(true),
            };
            references.extend(self.pod.1.filter(|_| of_pod).map(pod));
            references.extend(of_set.then(|| self.reference.clone()));
        }
        claim.metadata.owner_references = (!references.is_empty()).then_some(references);
    }
}
