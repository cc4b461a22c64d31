//! Objects that match a selector -> which are mine, which I adopt, which I let go.
//!
//! Source of the rules: `pkg/controller/controller_ref_manager.go`.

use std::sync::Arc;

use api::{k8s::apimachinery::pkg::apis::meta::v1::OwnerReference, selector::Labels, steps};
use client::{Object, kube};
use kube::Resource;
use serde_json::json;

use crate::Action;

/// Who claims.
#[derive(Clone, Debug)]
pub struct Owner {
    /// With `controller` and `blockOwnerDeletion` true.
    pub reference: OwnerReference,
    pub selector: Labels,
    /// An owner that is being deleted adopts nothing.
    pub deleting: bool,
    /// What is adopted gets it, and what is let go loses it.
    pub finalizer: Option<&'static str>,
}

/// The outcome of a claim. Adopted objects count as owned from the next look on.
#[derive(Debug)]
pub struct Claimed<K> {
    pub owned: Vec<Arc<K>>,
    pub actions: Vec<Action>,
    /// Whether some are to be adopted.
    pub adopts: bool,
}

impl Owner {
    /// `None` where the object has no uid yet.
    pub fn of<K: Object>(object: &K, selector: Labels) -> Option<Self> {
        let meta = object.object_meta();
        let reference = OwnerReference {
            api_version: K::Served::api_version(&()).into_owned(),
            kind: K::Served::kind(&()).into_owned(),
            name: meta.name.to_owned(),
            uid: meta.uid?.to_owned(),
            controller: Some(true),
            block_owner_deletion: Some(true),
        };
        Some(Self { reference, selector, deleting: meta.is_deleting, finalizer: None })
    }
}

/// Sorts `candidates` (all objects of the owner's namespace that match or are controlled by it).
pub fn claim<K: Object>(owner: &Owner, candidates: impl IntoIterator<Item = Arc<K>>) -> Claimed<K> {
    claim_if(owner, candidates, |_| true)
}

/// As [`claim`], where a selector does not say it all: what `is_member` denies does not match.
pub fn claim_if<K: Object>(owner: &Owner, candidates: impl IntoIterator<Item = Arc<K>>, is_member: impl Fn(&K) -> bool) -> Claimed<K> {
    let mut claimed = Claimed { owned: Vec::new(), actions: Vec::new(), adopts: false };
    for object in steps::counted(candidates.into_iter()) {
        let meta = object.object_meta();
        let matches = owner.selector.matches(meta.labels) && is_member(&object);
        match meta.controller() {
            Some(reference) if reference.uid != owner.reference.uid => {}
            Some(_) if matches => claimed.owned.push(object),
            Some(_) if owner.deleting => {}
            Some(_) => claimed.actions.push(release(owner, &*object)),
            None if !matches || owner.deleting || meta.is_deleting => {}
            None => {
                claimed.adopts = true;
                claimed.actions.push(adopt(owner, &*object));
            }
        }
    }
    claimed
}

/// The owner reference that says `controller: true`.
pub fn controller_of<K: Object>(object: &K) -> Option<&OwnerReference> {
    object.object_meta().controller()
}

fn adopt<K: Object>(owner: &Owner, object: &K) -> Action {
    let mut references = object.object_meta().owner_references.to_vec();
    references.push(owner.reference.clone());
    with_references(object, &references, owner.finalizer.map(|own| (own, true)))
}

fn release<K: Object>(owner: &Owner, object: &K) -> Action {
    let kept: Vec<_> = object.object_meta().owner_references.iter().filter(|r| r.uid != owner.reference.uid).cloned().collect();
    with_references(object, &kept, owner.finalizer.map(|own| (own, false)))
}

/// A merge patch replaces whole lists: the revision guards what others put into them meanwhile. With or without a finalizer, where one is named.
fn with_references<K: Object>(object: &K, references: &[OwnerReference], finalizer: Option<(&str, bool)>) -> Action {
    let meta = object.object_meta();
    let mut metadata = json!({"ownerReferences": references, "resourceVersion": meta.resource_version});
    if let Some((own, is_wanted)) = finalizer {
        let others = meta.finalizers.iter().map(String::as_str).filter(|name| *name != own);
        metadata["finalizers"] = others.chain(is_wanted.then_some(own)).collect();
    }
    Action::patch(object, json!({"metadata": metadata}))
}

#[cfg(test)]
mod tests {
    use super::*;
    use api::k8s::api::{apps::v1::ReplicaSet, core::v1::Pod};

    fn pod(name: &str, app: &str, owner: Option<&str>) -> Arc<Pod> {
        let mut pod = Pod::default();
        pod.metadata.name = Some(name.into());
        pod.metadata.labels = Some([("app".to_owned(), app.to_owned())].into());
        let reference = |uid: &str| OwnerReference { uid: uid.into(), controller: Some(true), ..OwnerReference::default() };
        pod.metadata.owner_references = owner.map(|uid| vec![reference(uid)]);
        Arc::new(pod)
    }

    fn owner(deleting: bool) -> Owner {
        let mut set = ReplicaSet::default();
        set.metadata.name = Some("web".into());
        set.metadata.uid = Some("mine".into());
        Owner { deleting, ..Owner::of(&set, Labels::parse("app=web").unwrap()).unwrap() }
    }

    #[test]
    fn matching_orphans_are_adopted_and_strays_released() {
        let pods = [pod("a", "web", Some("mine")), pod("b", "web", None), pod("c", "db", Some("mine")), pod("d", "web", Some("other"))];
        let claimed = claim(&owner(false), pods.clone());
        assert_eq!(claimed.owned.len(), 1);
        assert_eq!(claimed.actions.len(), 2, "b adopted, c released");
        let claimed = claim(&owner(true), pods);
        assert_eq!((claimed.owned.len(), claimed.actions.len()), (1, 0));
    }

    #[test]
    fn a_finalizer_comes_and_goes_with_the_owner() {
        let with = |finalizers: &[&str], pod: Arc<Pod>| {
            let mut pod = Arc::unwrap_or_clone(pod);
            pod.metadata.finalizers = Some(finalizers.iter().map(|name| (*name).to_owned()).collect());
            Arc::new(pod)
        };
        let pods = [with(&["x"], pod("b", "web", None)), with(&["x", "own"], pod("c", "db", Some("mine")))];
        let claimed = claim(&Owner { finalizer: Some("own"), ..owner(false) }, pods);
        let lists = claimed.actions.iter().map(|action| {
            let Action::Patch { patch, .. } = action else { panic!("{action:?}") };
            patch["metadata"]["finalizers"].clone()
        });
        let lists: Vec<_> = lists.collect();
        assert_eq!(lists, [json!(["x", "own"]), json!(["x"])]);
        assert!(claimed.adopts);
    }
}
