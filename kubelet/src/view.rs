//! The pod loop -> what the node's server and its collectors may see of the pods that are here.

use std::{collections::HashMap, path::PathBuf, sync::Arc};

use api::k8s::api::core::v1::{Pod, PodStatus};
use parking_lot::RwLock;

/// Every pod this node knows, by uid. Clones share it; the pod loop alone writes.
#[derive(Clone, Debug, Default)]
pub struct Pods {
    shared: Arc<RwLock<HashMap<String, Arc<PodView>>>>,
}

/// One pod: its object, the status that was last worked out, and where its parts are in the runtime.
#[derive(Clone, Debug, Default)]
pub struct PodView {
    /// As it was given to us: [`PodView::status`] is newer than its status.
    pub pod: Arc<Pod>,
    /// `None` before the first was worked out.
    pub status: Option<Arc<PodStatus>>,
    /// The newest sandbox, where it is ready.
    pub sandbox_id: Option<String>,
    /// All containers that still exist, oldest first; of one name the last is the current one.
    pub containers: Vec<ContainerView>,
}

#[derive(Clone, Debug)]
pub struct ContainerView {
    pub name: String,
    /// The runtime's own, without `containerd://`.
    pub id: String,
    /// How often it was restarted: `N` of the log's `N.log`.
    pub attempt: u32,
    pub running: bool,
    pub log_path: PathBuf,
}

impl Pods {
    pub fn by_uid(&self, uid: &str) -> Option<Arc<PodView>> {
        self.shared.read().get(uid).cloned()
    }

    /// The pod of that name; where an old one is still being stopped beside its successor, the successor.
    pub fn by_name(&self, namespace: &str, name: &str) -> Option<Arc<PodView>> {
        let shared = self.shared.read();
        let named = |v: &&Arc<PodView>| {
            let meta = &v.pod.metadata;
            meta.namespace.as_deref() == Some(namespace) && meta.name.as_deref() == Some(name)
        };
        shared.values().filter(named).max_by_key(|v| v.pod.metadata.creation_timestamp.clone()).cloned()
    }

    pub fn list(&self) -> Vec<Arc<PodView>> {
        self.shared.read().values().cloned().collect()
    }

    pub(crate) fn put(&self, uid: &str, view: PodView) {
        self.shared.write().insert(uid.into(), Arc::new(view));
    }

    pub(crate) fn remove(&self, uid: &str) {
        self.shared.write().remove(uid);
    }
}

impl PodView {
    pub fn status(&self) -> Option<&PodStatus> {
        self.status.as_deref().or(self.pod.status.as_ref())
    }

    /// The object with the status of now.
    pub fn object(&self) -> Pod {
        Pod { metadata: self.pod.metadata.clone(), spec: self.pod.spec.clone(), status: self.status().cloned() }
    }

    /// The newest container of that name.
    pub fn container(&self, name: &str) -> Option<&ContainerView> {
        self.containers.iter().rfind(|c| c.name == name)
    }

    /// The one before the newest: `kubectl logs --previous`.
    pub fn previous(&self, name: &str) -> Option<&ContainerView> {
        self.containers.iter().rev().filter(|c| c.name == name).nth(1)
    }
}
