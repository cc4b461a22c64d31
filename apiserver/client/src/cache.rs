//! list + watch -> one shared typed view of each object per process.

use std::{
    any::{Any, TypeId},
    collections::HashMap,
    fmt::Debug,
    sync::Arc,
};

use api::{Key, task::Group};
use futures::StreamExt;
use kube::{
    Api, Resource, ResourceExt,
    runtime::{
        WatchStreamExt,
        watcher::{self, Event},
    },
};
use parking_lot::{Mutex, RwLock};
use serde::de::DeserializeOwned;
use tokio::sync::watch;

/// What can be cached: any k8s-openapi type that is served as a collection, and what is read of one ([`crate::pods`]).
pub trait Object: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + Sync + 'static {}
impl<K> Object for K where K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + Sync + 'static {}

/// One collection, kept current by a watch. Cloning shares it.
///
/// Reads never block on the network and give what the server had published at some recent moment; see [`Cache::revision`].
pub struct Cache<K> {
    shared: Arc<Shared<K>>,
}

/// The caches of one process: each collection is watched once, however many rooms ask for it.
#[derive(Clone)]
pub struct Caches {
    client: kube::Client,
    group: Group,
    made: Arc<Mutex<Made>>,
}

/// By type and field selector: a `Cache` of that type.
type Made = HashMap<(TypeId, String), Box<dyn Any + Send + Sync>>;
type Handler<K> = Box<dyn Fn(Option<&Arc<K>>, Option<&Arc<K>>) + Send + Sync>;

struct Shared<K> {
    state: RwLock<State<K>>,
    /// Held while handlers run, so that a new handler sees each change exactly once.
    handlers: Mutex<Vec<Handler<K>>>,
    synced: watch::Sender<bool>,
}

struct State<K> {
    /// By namespace, by name: most questions are about one object, and orders are made for those who list.
    objects: HashMap<String, HashMap<String, Arc<K>>>,
    revision: u64,
}

impl Caches {
    /// Watches run in `group`, as the user of `client`.
    pub fn new(client: kube::Client, group: Group) -> Self {
        Self { client, group, made: Arc::default() }
    }

    pub fn client(&self) -> kube::Client {
        self.client.clone()
    }

    /// The whole collection, of all namespaces. The first call starts the watch.
    pub fn of<K: Object>(&self) -> Cache<K> {
        self.filtered("")
    }

    /// Only what `field_selector` selects (`spec.nodeName=n1`).
    pub fn filtered<K: Object>(&self, field_selector: &str) -> Cache<K> {
        let mut made = self.made.lock();
        let slot = made.entry((TypeId::of::<K>(), field_selector.to_owned())).or_insert_with(|| Box::new(self.start::<K>(field_selector)));
        slot.downcast_ref::<Cache<K>>().expect("the slot's key holds the type").clone()
    }

    fn start<K: Object>(&self, field_selector: &str) -> Cache<K> {
        let cache = Cache { shared: Arc::new(Shared::default()) };
        let mut config = watcher::Config::default().streaming_lists();
        config.field_selector = (!field_selector.is_empty()).then(|| field_selector.to_owned());
        let api = Api::<K>::all(self.client.clone());
        let shared = cache.shared.clone();
        self.group.spawn(Box::pin(follow(api, config, shared)));
        cache
    }
}

impl<K: Object> Cache<K> {
    pub fn get(&self, key: &Key) -> Option<Arc<K>> {
        self.shared.state.read().get(key).cloned()
    }

    /// All objects, in key order. Costs O(collection): not for one event.
    pub fn list(&self) -> Vec<Arc<K>> {
        let all = self.shared.state.read().objects.values().flat_map(HashMap::values).cloned().collect();
        in_order(all)
    }

    /// All objects of one namespace, in name order; costs O(namespace).
    pub fn in_namespace(&self, namespace: &str) -> Vec<Arc<K>> {
        let all = self.shared.state.read().objects.get(namespace).into_iter().flat_map(HashMap::values).cloned().collect();
        in_order(all)
    }

    /// Costs O(namespaces).
    pub fn len(&self) -> usize {
        self.shared.state.read().objects.values().map(HashMap::len).sum()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The newest `resourceVersion` seen in this collection: a loop that wrote revision r may rest until this is at least r.
    pub fn revision(&self) -> u64 {
        self.shared.state.read().revision
    }

    /// Calls `handler(old, new)` for each object there is (`old` = `None`) and for each change after it, in order, without gap or
    /// duplicate. The cache already shows the change. `handler` runs on the watch's task: it must not block, and must not call `on_change`.
    pub fn on_change(&self, handler: impl Fn(Option<&Arc<K>>, Option<&Arc<K>>) + Send + Sync + 'static) {
        let mut handlers = self.shared.handlers.lock();
        for object in self.list() {
            handler(None, Some(&object));
        }
        handlers.push(Box::new(handler));
    }

    /// Resolves once the first list is in.
    pub async fn synced(&self) {
        let mut synced = self.shared.synced.subscribe();
        // The sender lives in `shared`, which `self` holds: the wait cannot fail.
        let _ = synced.wait_for(|done| *done).await;
    }

    pub fn is_synced(&self) -> bool {
        *self.shared.synced.borrow()
    }
}

impl<K> Clone for Cache<K> {
    fn clone(&self) -> Self {
        Self { shared: self.shared.clone() }
    }
}

impl<K> Default for Shared<K> {
    fn default() -> Self {
        let state = RwLock::new(State { objects: HashMap::new(), revision: 0 });
        Self { state, handlers: Mutex::default(), synced: watch::channel(false).0 }
    }
}

impl<K> State<K> {
    fn get(&self, key: &Key) -> Option<&Arc<K>> {
        self.objects.get(&key.namespace)?.get(&key.name)
    }

    fn insert(&mut self, key: Key, object: Arc<K>) -> Option<Arc<K>> {
        match self.objects.get_mut(&key.namespace) {
            Some(of_namespace) => of_namespace.insert(key.name, object),
            None => self.objects.entry(key.namespace).or_default().insert(key.name, object),
        }
    }

    fn remove(&mut self, key: &Key) -> Option<Arc<K>> {
        let of_namespace = self.objects.get_mut(&key.namespace)?;
        let old = of_namespace.remove(&key.name);
        if of_namespace.is_empty() {
            self.objects.remove(&key.namespace);
        }
        old
    }
}

impl<K: Object> Shared<K> {
    fn put(&self, object: K) {
        let handlers = self.handlers.lock();
        let (key, object) = (key_of(&object), Arc::new(object));
        let old = {
            let mut state = self.state.write();
            state.revision = state.revision.max(revision_of(&*object));
            // A watch that was opened again repeats what we have: handlers keep the one they were shown.
            if state.get(&key).is_some_and(|old| old.resource_version() == object.resource_version()) {
                return;
            }
            state.insert(key, object.clone())
        };
        handlers.iter().for_each(|h| h(old.as_ref(), Some(&object)));
    }

    fn remove(&self, object: &K) {
        let handlers = self.handlers.lock();
        let old = {
            let mut state = self.state.write();
            state.revision = state.revision.max(revision_of(object));
            state.remove(&key_of(object))
        };
        if let Some(old) = old {
            handlers.iter().for_each(|h| h(Some(&old), None));
        }
    }

    /// What was not listed again is gone.
    fn replace(&self, listed: Vec<K>) {
        let keys: std::collections::HashSet<Key> = listed.iter().map(key_of).collect();
        let gone: Vec<Arc<K>> = {
            let state = self.state.read();
            let all = state.objects.values().flat_map(HashMap::values);
            all.filter(|object| !keys.contains(&key_of(&***object))).cloned().collect()
        };
        let gone = in_order(gone);
        gone.iter().for_each(|object| self.remove(object));
        listed.into_iter().for_each(|object| self.put(object));
        self.synced.send_replace(true);
    }
}

async fn follow<K: Object>(api: Api<K>, config: watcher::Config, shared: Arc<Shared<K>>) {
    let mut events = Box::pin(watcher::watcher(api, config).default_backoff());
    let mut listed = Vec::new();
    while let Some(event) = events.next().await {
        match event {
            Ok(Event::Init) => listed.clear(),
            Ok(Event::InitApply(object)) => listed.push(object),
            Ok(Event::InitDone) => shared.replace(std::mem::take(&mut listed)),
            Ok(Event::Apply(object)) => shared.put(object),
            Ok(Event::Delete(object)) => shared.remove(&object),
            Err(error) => tracing::warn!(kind = %K::kind(&()), %error, "watch failed; trying again"),
        }
    }
}

fn in_order<K: Resource>(mut objects: Vec<Arc<K>>) -> Vec<Arc<K>> {
    objects.sort_by(|a, b| (&a.meta().namespace, &a.meta().name).cmp(&(&b.meta().namespace, &b.meta().name)));
    objects
}

fn key_of<K: Resource>(object: &K) -> Key {
    let meta = object.meta();
    Key { namespace: meta.namespace.clone().unwrap_or_default(), name: meta.name.clone().unwrap_or_default() }
}

fn revision_of<K: Resource>(object: &K) -> u64 {
    object.meta().resource_version.as_deref().and_then(|rv| rv.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use api::k8s::api::core::v1::ConfigMap;

    fn map(name: &str, rev: &str) -> ConfigMap {
        let mut object = ConfigMap::default();
        object.metadata.name = Some(name.into());
        object.metadata.namespace = Some("d".into());
        object.metadata.resource_version = Some(rev.into());
        object
    }

    #[test]
    fn a_handler_sees_each_change_once_across_a_relist() {
        let cache = Cache::<ConfigMap> { shared: Arc::new(Shared::default()) };
        cache.shared.replace(vec![map("a", "1"), map("b", "2")]);
        let seen = Arc::new(Mutex::new(Vec::new()));
        let log = seen.clone();
        cache.on_change(move |old, new| {
            let name = |o: Option<&Arc<ConfigMap>>| o.map(|o| o.name_any());
            log.lock().push((name(old), name(new)));
        });
        cache.shared.replace(vec![map("b", "2"), map("c", "3")]);
        cache.shared.remove(&map("c", "4"));
        let (a, b, c) = (Some("a".to_owned()), Some("b".to_owned()), Some("c".to_owned()));
        assert_eq!(*seen.lock(), vec![(None, a.clone()), (None, b), (a, None), (None, c.clone()), (c, None)]);
        assert_eq!(cache.revision(), 4);
        assert!(cache.is_synced());
    }
}
