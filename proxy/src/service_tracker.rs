//! Cache events -> services with their slices, side by side, and which of them changed.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
};

use api::{
    Key,
    k8s::api::{core::v1::Service, discovery::v1::EndpointSlice},
    steps,
};
use client::Caches;
use parking_lot::Mutex;
use tokio::sync::Notify;

/// The label that ties a slice to its service.
const SERVICE_NAME: &str = "kubernetes.io/service-name";

/// All services of the cluster and their slices; shared objects, no copies. Cloning shares it. The default one does not note changes.
#[derive(Clone, Default)]
pub struct ServiceTracker {
    inner: Arc<Mutex<Inner>>,
    changed: Arc<Notify>,
}

#[derive(Default)]
struct Inner {
    services: HashMap<Key, Entry>,
    /// `None` where nobody will take it.
    changed: Option<HashSet<Key>>,
}

/// One service name: the object and its slices may come in any order.
#[derive(Clone, Default)]
pub struct Entry {
    pub service: Option<Arc<Service>>,
    /// By name, so that the order is always the same.
    pub slices: BTreeMap<String, Arc<EndpointSlice>>,
}

impl ServiceTracker {
    /// One that notes what changed, for [`ServiceTracker::take_changed`].
    pub fn noting() -> Self {
        let tracker = Self::default();
        tracker.inner.lock().changed = Some(HashSet::new());
        tracker
    }

    /// Filled by the caches from now on, and noting changes.
    pub fn follow(caches: &Caches) -> Self {
        let tracker = Self::noting();
        let of_services = tracker.clone();
        caches.of::<Service>().on_change(move |old, new| of_services.service(old, new));
        let of_slices = tracker.clone();
        caches.of::<EndpointSlice>().on_change(move |old, new| of_slices.slice(old, new));
        tracker
    }

    pub fn service(&self, old: Option<&Arc<Service>>, new: Option<&Arc<Service>>) {
        let Some(meta) = new.or(old).map(|s| &s.metadata) else { return };
        let key = Key::new(meta.namespace.as_deref().unwrap_or(""), meta.name.as_deref().unwrap_or(""));
        self.edit(key, |entry| entry.service = new.cloned());
    }

    pub fn slice(&self, old: Option<&Arc<EndpointSlice>>, new: Option<&Arc<EndpointSlice>>) {
        let name = |s: &Arc<EndpointSlice>| s.metadata.name.clone().unwrap_or_default();
        let (before, after) = (old.and_then(|s| service_of(s)), new.and_then(|s| service_of(s)));
        // A slice may be given to another service by its label.
        if let (Some(slice), Some(key)) = (old, before.filter(|b| after.as_ref() != Some(b))) {
            self.edit(key, |entry| drop(entry.slices.remove(&name(slice))));
        }
        if let (Some(slice), Some(key)) = (new, after) {
            self.edit(key, |entry| drop(entry.slices.insert(name(slice), slice.clone())));
        }
    }

    /// The entry as it is now; empty where there is nothing of that name. O(its slices).
    pub fn entry(&self, key: &Key) -> Entry {
        let entry = self.inner.lock().services.get(key).cloned().unwrap_or_default();
        steps::took(entry.slices.len());
        entry
    }

    /// As [`ServiceTracker::entry`], with those of its slices alone.
    pub fn entry_with(&self, key: &Key, slices: &[Arc<str>]) -> Entry {
        let inner = self.inner.lock();
        let Some(entry) = inner.services.get(key) else { return Entry::default() };
        let named = steps::counted(slices.iter()).filter_map(|name| entry.slices.get_key_value(&**name));
        Entry { service: entry.service.clone(), slices: named.map(|(name, slice)| (name.clone(), slice.clone())).collect() }
    }

    /// All names that have something. O(services): for full syncs only.
    pub fn keys(&self) -> Vec<Key> {
        self.inner.lock().services.keys().cloned().collect()
    }

    /// What changed since the last call. Bounded by the number of services.
    pub fn take_changed(&self) -> HashSet<Key> {
        self.inner.lock().changed.as_mut().map(std::mem::take).unwrap_or_default()
    }

    pub fn mark_changed(&self, keys: impl IntoIterator<Item = Key>) {
        self.inner.lock().changed.get_or_insert_default().extend(keys);
        self.changed.notify_one();
    }

    /// Resolves when something has changed since the last time it did.
    pub async fn changed(&self) {
        self.changed.notified().await;
    }

    fn edit(&self, key: Key, change: impl FnOnce(&mut Entry)) {
        let mut inner = self.inner.lock();
        let entry = inner.services.entry(key.clone()).or_default();
        change(entry);
        if entry.service.is_none() && entry.slices.is_empty() {
            inner.services.remove(&key);
        }
        if let Some(changed) = &mut inner.changed {
            changed.insert(key);
        }
        drop(inner);
        self.changed.notify_one();
    }
}

/// The service that the slice belongs to.
pub fn service_of(slice: &EndpointSlice) -> Option<Key> {
    let name = slice.metadata.labels.as_ref()?.get(SERVICE_NAME)?;
    Some(Key::new(slice.metadata.namespace.as_deref().unwrap_or(""), name))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slice(name: &str, service: &str) -> Arc<EndpointSlice> {
        let mut slice = EndpointSlice::default();
        slice.metadata.name = Some(name.into());
        slice.metadata.namespace = Some("d".into());
        slice.metadata.labels = Some([(SERVICE_NAME.to_owned(), service.to_owned())].into());
        Arc::new(slice)
    }

    #[test]
    fn a_slice_follows_its_label_and_nothing_is_left_behind() {
        let tracker = ServiceTracker::noting();
        let (a, b) = (slice("s", "a"), slice("s", "b"));
        tracker.slice(None, Some(&a));
        tracker.slice(Some(&a), Some(&b));
        assert_eq!(tracker.take_changed(), [Key::new("d", "a"), Key::new("d", "b")].into());
        assert_eq!(tracker.keys(), vec![Key::new("d", "b")]);
        tracker.slice(Some(&b), None);
        assert!(tracker.keys().is_empty());
    }
}
