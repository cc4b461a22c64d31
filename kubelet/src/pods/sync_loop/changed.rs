//! Changes of the API's pods -> the keys to look at; bounded by the number of pods of this node.

use std::{collections::BTreeSet, sync::Arc};

use api::{Key, k8s::api::core::v1::Pod};
use client::Cache;
use parking_lot::Mutex;
use tokio::sync::Notify;

/// Clones share it.
#[derive(Clone, Default)]
pub struct Changed {
    keys: Arc<Mutex<BTreeSet<Key>>>,
    notify: Arc<Notify>,
}

impl Changed {
    /// Follows the cache from now on.
    pub fn of(cache: &Cache<Pod>) -> Self {
        let this = Self::default();
        let marks = this.clone();
        cache.on_change(move |old, new| {
            let text = |t: Option<&String>| t.cloned().unwrap_or_default();
            let Some(meta) = new.or(old).map(|pod| &pod.metadata) else { return };
            marks.mark(Key { namespace: text(meta.namespace.as_ref()), name: text(meta.name.as_ref()) });
        });
        this
    }

    pub fn mark(&self, key: Key) {
        self.keys.lock().insert(key);
        self.notify.notify_one();
    }

    /// Resolves once there is something to take.
    pub async fn notified(&self) {
        self.notify.notified().await;
    }

    pub fn take(&self) -> BTreeSet<Key> {
        std::mem::take(&mut *self.keys.lock())
    }
}
