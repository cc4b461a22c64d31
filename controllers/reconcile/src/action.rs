//! What a controller wants done, as data: the one place where controllers write to the API.

use std::time::Duration;

use api::{Gvr, k8s::api::core::v1::ObjectReference, names::segment};
use client::{Object, kube};
use kube::Resource;
use serde::Serialize;
use serde_json::{Value, json};

/// What [`crate::Controller::plan`] decided.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Plan {
    /// Carried out in order, but neighbours of one verb in one collection together: no order is meant between them. An event is told once
    /// the write before it is done. The first failure ends the run, and the key is tried again.
    pub actions: Vec<Action>,
    /// Look again after this long, whatever happens.
    pub again: Option<Duration>,
}

/// One write. Made by the functions below from typed objects; compared in tests as it is.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    Create {
        resource: Gvr,
        path: String,
        object: Value,
    },
    /// A PUT: the object carries `resourceVersion` (and with it the precondition).
    Update {
        resource: Gvr,
        path: String,
        object: Value,
    },
    Patch {
        resource: Gvr,
        path: String,
        form: PatchType,
        patch: Value,
    },
    Delete {
        resource: Gvr,
        path: String,
        options: Value,
    },
    /// Deletes all of a collection, each object with its own grace period.
    DeleteAll {
        resource: Gvr,
        path: String,
    },
    Event {
        regarding: Box<ObjectReference>,
        warning: bool,
        reason: &'static str,
        message: String,
    },
}

/// How a patch is to be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PatchType {
    /// RFC 7396: lists are replaced.
    Merge,
    /// Kubernetes': entries of lists are merged by their keys. For built-in kinds.
    Strategic,
}

/// What happens to the dependents of what is deleted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Propagation {
    Background,
    Foreground,
    Orphan,
}

impl PatchType {
    pub(crate) fn content_type(self) -> &'static str {
        match self {
            Self::Merge => "application/merge-patch+json",
            Self::Strategic => "application/strategic-merge-patch+json",
        }
    }
}

impl Plan {
    /// Nothing to do.
    pub fn rest() -> Self {
        Self::default()
    }

    pub fn act(actions: Vec<Action>) -> Self {
        Self { actions, again: None }
    }

    #[must_use]
    pub fn again_in(mut self, wait: Duration) -> Self {
        self.again = Some(self.again.map_or(wait, |w| w.min(wait)));
        self
    }
}

impl Action {
    pub fn create<K: Object + Serialize>(object: &K) -> Self {
        Self::Create { resource: resource::<K>(), path: collection::<K>(object.object_meta().namespace), object: value(object) }
    }

    /// Writes all of the object but its status; it must carry the `resourceVersion` it was read with.
    pub fn update<K: Object + Serialize>(object: &K) -> Self {
        Self::Update { resource: resource::<K>(), path: path(object), object: value(object) }
    }

    /// Writes the object's status, with the `resourceVersion` it was read with.
    pub fn update_status<K: Object + Serialize>(object: &K) -> Self {
        Self::update_part(object, "status")
    }

    /// As [`Action::update_status`], of another subresource that is the object itself.
    pub fn update_part<K: Object + Serialize>(object: &K, subresource: &str) -> Self {
        Self::Update { resource: resource::<K>(), path: format!("{}/{subresource}", path(object)), object: value(object) }
    }

    /// A merge patch, refused by the server if the object is not the same one (uid) any more.
    pub fn patch<K: Object>(object: &K, patch: Value) -> Self {
        Self::patch_at(object, path(object), PatchType::Merge, patch)
    }

    /// As [`Action::patch`], by Kubernetes' rules: of lists, only the entries that change are named.
    pub fn patch_entries<K: Object>(object: &K, patch: Value) -> Self {
        Self::patch_at(object, path(object), PatchType::Strategic, patch)
    }

    /// As [`Action::patch`], of the status, by Kubernetes' rules: of conditions, only those that change are named.
    pub fn patch_status<K: Object>(object: &K, patch: Value) -> Self {
        Self::patch_at(object, format!("{}/status", path(object)), PatchType::Strategic, patch)
    }

    /// As [`Action::patch`], without the finalizer, whichever others come or go meanwhile.
    pub fn without_finalizer<K: Object>(object: &K, finalizer: &str) -> Self {
        let patch = json!({"metadata": {"$deleteFromPrimitiveList/finalizers": [finalizer]}});
        Self::patch_at(object, path(object), PatchType::Strategic, patch)
    }

    fn patch_at<K: Object>(object: &K, path: String, form: PatchType, mut patch: Value) -> Self {
        if let Some(uid) = object.object_meta().uid {
            patch["metadata"]["uid"] = uid.into();
        }
        Self::Patch { resource: resource::<K>(), path, form, patch }
    }

    /// Deletes this very object (by uid), with its own grace period.
    pub fn delete<K: Object>(object: &K) -> Self {
        Self::delete_with(object, json!({}))
    }

    pub fn delete_and<K: Object>(object: &K, propagation: Propagation) -> Self {
        Self::delete_with(object, json!({"propagationPolicy": format!("{propagation:?}")}))
    }

    /// As it was seen, and not where it has changed since.
    pub fn delete_unchanged<K: Object>(object: &K, propagation: Propagation) -> Self {
        let preconditions = json!({"resourceVersion": object.object_meta().resource_version});
        Self::delete_with(object, json!({"propagationPolicy": format!("{propagation:?}"), "preconditions": preconditions}))
    }

    /// `options` is the rest of `DeleteOptions`, e.g. `{"gracePeriodSeconds": 0}`.
    pub fn delete_with<K: Object>(object: &K, mut options: Value) -> Self {
        options["preconditions"]["uid"] = json!(object.object_meta().uid);
        Self::Delete { resource: resource::<K>(), path: path(object), options }
    }

    /// A `Normal` event about the object.
    pub fn normal<K: Object>(regarding: &K, reason: &'static str, message: impl Into<String>) -> Self {
        Self::Event { regarding: Box::new(reference(regarding)), warning: false, reason, message: message.into() }
    }

    /// A `Warning` event about the object.
    pub fn warning<K: Object>(regarding: &K, reason: &'static str, message: impl Into<String>) -> Self {
        Self::Event { regarding: Box::new(reference(regarding)), warning: true, reason, message: message.into() }
    }
}

/// The object as events name it.
pub fn reference<K: Object>(object: &K) -> ObjectReference {
    let meta = object.object_meta();
    ObjectReference {
        api_version: Some(K::Served::api_version(&()).into_owned()),
        kind: Some(K::Served::kind(&()).into_owned()),
        name: Some(meta.name.to_owned()),
        namespace: (!meta.namespace.is_empty()).then(|| meta.namespace.to_owned()),
        uid: meta.uid.map(str::to_owned),
        resource_version: meta.resource_version.map(str::to_owned),
        field_path: None,
    }
}

pub(crate) fn resource<K: Object>() -> Gvr {
    Gvr::new(K::Served::group(&()), K::Served::version(&()), K::Served::plural(&()))
}

/// An empty namespace is none.
fn collection<K: Object>(namespace: &str) -> String {
    K::Served::url_path(&(), (!namespace.is_empty()).then(|| segment(namespace)).as_deref())
}

fn path<K: Object>(object: &K) -> String {
    format!("{}/{}", collection::<K>(object.object_meta().namespace), segment(object.object_meta().name))
}

fn value<K: Object + Serialize>(object: &K) -> Value {
    // k8s-openapi types have string keys only: they always serialize.
    serde_json::to_value(object).expect("a Kubernetes object is JSON")
}

#[cfg(test)]
mod tests {
    use super::*;
    use api::k8s::api::apps::v1::Deployment;

    #[test]
    fn any_name_makes_a_path() {
        let mut object = Deployment::default();
        object.metadata.name = Some("a b/../?c#%41".into());
        object.metadata.namespace = Some("n/ä".into());
        let Action::Delete { path, .. } = Action::delete(&object) else { panic!() };
        assert_eq!(path, "/apis/apps/v1/namespaces/n%2F%C3%A4/deployments/a%20b%2F..%2F%3Fc%23%2541");
    }

    #[test]
    fn actions_name_the_resource_and_carry_the_uid() {
        let mut object = Deployment::default();
        object.metadata.name = Some("web".into());
        object.metadata.namespace = Some("shop".into());
        object.metadata.uid = Some("u1".into());
        let Action::Delete { resource, path, options } = Action::delete_and(&object, Propagation::Background) else { panic!() };
        assert_eq!((resource, path.as_str()), (Gvr::new("apps", "v1", "deployments"), "/apis/apps/v1/namespaces/shop/deployments/web"));
        assert_eq!(options, json!({"propagationPolicy": "Background", "preconditions": {"uid": "u1"}}));
        let Action::Patch { path, patch, form: PatchType::Strategic, .. } = Action::patch_status(&object, json!({"status": {}})) else {
            panic!()
        };
        assert_eq!(path, "/apis/apps/v1/namespaces/shop/deployments/web/status");
        assert_eq!(patch["metadata"]["uid"], "u1");
    }
}
