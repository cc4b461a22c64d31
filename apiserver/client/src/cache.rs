//! list + watch -> one shared typed view of each object per process.

use std::{
    any::{Any, TypeId},
    borrow::Cow,
    collections::{BTreeMap, HashMap},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use api::{
    Key,
    faults::{catch, unreadable},
    k8s::api::core::v1::ObjectReference,
    seldom::Seldom,
    steps,
    task::Group,
};
use kube::Resource;
use parking_lot::{Mutex, RwLock};
use tokio::sync::watch;

use crate::{
    Object, Recorder,
    lenient::Seen,
    watch::{Change, Listed, Query, follow},
};

/// One collection, kept current by a watch. Cloning shares it.
///
/// Reads never block on the network and give what the server had published at some recent moment; see [`Cache::revision`].
///
/// An object that cannot be read as its type says ([`crate::lenient`]) is there all the same, so that nothing is deleted on its account: in
/// its place stands the last view that could be read, with the metadata of now, or, where there was none, what can be read of it.
/// [`Cache::is_unreadable`] tells; who acts on objects leaves such alone (`reconcile` does so for every loop).
pub struct Cache<K> {
    shared: Arc<Shared<K>>,
    scope: Scope,
}

/// The caches of one process: each collection is watched once, however many rooms ask for it.
#[derive(Clone)]
pub struct Caches {
    /// Who asks: handlers go with it.
    scope: Scope,
    scopes: Arc<AtomicU64>,
    client: kube::Client,
    group: Group,
    made: Arc<Mutex<Made>>,
    /// Tells of objects that cannot be read; made when the first is found.
    recorder: Arc<OnceLock<Recorder>>,
    source: Source,
}

/// Who fills the caches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Source {
    Watches,
    /// See [`Cache::feed`].
    Caller,
}

/// By type and field selector.
type Made = HashMap<(TypeId, String), Slot>;
/// Counted by [`Caches::scoped`]; the first is 0.
type Scope = u64;

struct Slot {
    /// A `Cache` of that type.
    cache: Box<dyn Any + Send + Sync>,
    forget: Arc<dyn Fn(Scope) + Send + Sync>,
}

type Handler<K> = Box<dyn Fn(Option<&Arc<K>>, Option<&Arc<K>>) + Send + Sync>;
type RevisionHandler = Box<dyn Fn(u64) + Send + Sync>;

struct Shared<K> {
    state: RwLock<State<K>>,
    /// See [`Cache::revision`].
    revision: AtomicU64,
    /// Held while handlers run, so that a new handler sees each change exactly once.
    handlers: Mutex<Handlers<K>>,
    filled: watch::Sender<Filled>,
    /// A server may refuse a kind for hours (its objects cannot be decrypted, say), and is asked every few seconds.
    failures: Seldom,
}

/// How often it is told of each kind that its watch fails.
const FAILURES_TOLD_EVERY: Duration = Duration::from_secs(60);

/// Of when what a cache holds is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Filled {
    Not,
    /// Of before the start, since no server answers.
    Before,
    Now,
}

struct Handlers<K> {
    change: Vec<(Scope, Handler<K>)>,
    revision: Vec<(Scope, RevisionHandler)>,
}

struct State<K> {
    /// By namespace, by name: most questions are about one object, and orders are made for those who list.
    objects: HashMap<String, HashMap<String, Arc<K>>>,
    /// Those that cannot be read, and why. There are hardly ever any.
    unreadable: BTreeMap<Key, String>,
}

/// Who writes the event of an object that cannot be read.
const COMPONENT: &str = "skiff";
/// Upstream's word for it (`metav1.StatusReasonStoreReadError`).
const REASON: &str = "StorageReadError";

impl Caches {
    /// Watches run in `group`, as the user of `client`.
    pub fn new(client: kube::Client, group: Group) -> Self {
        let (made, recorder, scopes) = (Arc::default(), Arc::default(), Arc::default());
        Self { scope: 0, scopes, client, group, made, recorder, source: Source::Watches }
    }

    /// The same caches for somebody who may leave before the others do ([`Caches::leave`]).
    pub fn scoped(&self) -> Self {
        Self { scope: self.scopes.fetch_add(1, Ordering::Relaxed) + 1, ..self.clone() }
    }

    /// Forgets the handlers that were registered through these caches and what came of them, and with them all that they hold.
    pub fn leave(&self) {
        // A handler may ask for a cache: nothing is locked while one is dropped.
        let all: Vec<_> = self.made.lock().values().map(|slot| slot.forget.clone()).collect();
        all.iter().for_each(|forget| forget(self.scope));
    }

    /// Empty ones that nobody fills but the caller ([`Cache::feed`]): to try what is built on caches at sizes that no server is filled with.
    pub fn unfollowed(client: kube::Client, group: Group) -> Self {
        Self { source: Source::Caller, ..Self::new(client, group) }
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
        let slot = made.entry((TypeId::of::<K>(), field_selector.to_owned())).or_insert_with(|| {
            let cache = self.start::<K>(field_selector);
            let shared = cache.shared.clone();
            Slot { cache: Box::new(cache), forget: Arc::new(move |scope| shared.forget(scope)) }
        });
        let made = slot.cache.downcast_ref::<Cache<K>>().expect("the slot's key holds the type");
        Cache { scope: self.scope, ..made.clone() }
    }

    fn start<K: Object>(&self, field_selector: &str) -> Cache<K> {
        let cache = Cache { shared: Arc::new(Shared::default()), scope: self.scope };
        if self.source == Source::Caller {
            cache.shared.filled(Filled::Now);
            return cache;
        }
        let query = Query { namespace: None, field_selector: field_selector.to_owned() };
        let (shared, this) = (cache.shared.clone(), self.clone());
        self.group.spawn_loop("cache", Box::pin(follow(self.client.clone(), query, move |change| this.take(&shared, change))));
        cache
    }

    fn take<K: Object>(&self, shared: &Shared<K>, change: Change<K>) {
        match change {
            Change::Listed(all, revision) => shared.replace(all, revision, Filled::Now, &|object, why| self.tell(object, why)),
            Change::Kept(all, revision) => shared.replace(all, revision, Filled::Before, &|object, why| self.tell(object, why)),
            Change::Put(seen) => shared.put(seen, &|object, why| self.tell(object, why)),
            Change::Reached(revision) => {
                shared.reached(revision);
                shared.filled(Filled::Now);
            }
            Change::Gone(seen) => shared.remove(&key_of(&seen.object), revision_of(&seen.object)),
            Change::Failed(error) => shared.tell_failed(&error),
        }
    }

    fn tell<K: Object>(&self, object: &K, why: &str) {
        let (kind, meta) = (kind::<K>(), object.object_meta());
        tracing::warn!(%kind, ns = meta.namespace, name = meta.name, why, "an object cannot be read; it is left as it is");
        let regarding = ObjectReference {
            api_version: Some(K::Served::api_version(&()).into_owned()),
            kind: Some(kind.into_owned()),
            name: Some(meta.name.to_owned()),
            namespace: (!meta.namespace.is_empty()).then(|| meta.namespace.to_owned()),
            uid: meta.uid.map(str::to_owned),
            resource_version: meta.resource_version.map(str::to_owned),
            field_path: None,
        };
        let recorder = self.recorder.get_or_init(|| Recorder::new(self.client.clone(), COMPONENT, None, &self.group));
        recorder.warning(&regarding, REASON, format!("The object cannot be read, and is left as it is: {why}"));
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

    /// Whether what stands here for the object is not all of it: nobody may write it back, or act on what it says. False where there is none.
    pub fn is_unreadable(&self, key: &Key) -> bool {
        let state = self.shared.state.read();
        !state.unreadable.is_empty() && state.unreadable.contains_key(key)
    }

    /// Those that [`Cache::is_unreadable`].
    pub fn unreadable(&self) -> Vec<Arc<K>> {
        let state = self.shared.state.read();
        state.unreadable.keys().filter_map(|key| state.get(key)).cloned().collect()
    }

    /// Costs O(namespaces).
    pub fn len(&self) -> usize {
        self.shared.state.read().objects.values().map(HashMap::len).sum()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// All that happened to this collection up to this revision is in the cache, and every handler has been told: a loop that wrote revision r
    /// may rest until this is at least r. It comes from events, bookmarks, and the end of a list; the objects of a list do not tell, since
    /// those that were newer may be gone.
    pub fn revision(&self) -> u64 {
        self.shared.revision.load(Ordering::Acquire)
    }

    /// Calls `handler` with what [`Cache::revision`] is, now and whenever it grows: after the handlers of the change that made it grow, whoever
    /// registered first. The same holds for it as for those of [`Cache::on_change`].
    pub fn on_revision(&self, handler: impl Fn(u64) + Send + Sync + 'static) {
        let mut handlers = self.shared.handlers.lock();
        let handler: (Scope, RevisionHandler) = (self.scope, Box::new(handler));
        caught_up::<K>(std::slice::from_ref(&handler), self.revision());
        handlers.revision.push(handler);
    }

    /// Calls `handler(old, new)` for each object there is (`old` = `None`) and for each change after it, in order, without gap or
    /// duplicate. The cache already shows the change. `handler` runs on the watch's task: it must not block, and must not call `on_change`.
    pub fn on_change(&self, handler: impl Fn(Option<&Arc<K>>, Option<&Arc<K>>) + Send + Sync + 'static) {
        let mut handlers = self.shared.handlers.lock();
        let handler: (Scope, Handler<K>) = (self.scope, Box::new(handler));
        for object in self.list() {
            told(std::slice::from_ref(&handler), None, Some(&object));
        }
        handlers.change.push(handler);
    }

    /// As if the watch had told it: the object is so now, or, where `gone`, this was its last state. For [`Caches::unfollowed`].
    pub fn feed(&self, object: K, gone: bool) {
        if gone {
            self.shared.remove(&key_of(&object), revision_of(&object));
        } else {
            self.shared.put(Seen::whole(object), &|_, _| {});
        }
    }

    /// Resolves once the first list is in: a server's, or where none answers, what was kept of one ([`crate::node_cache`]).
    pub async fn synced(&self) {
        self.is_filled(Filled::Before).await;
    }

    /// Resolves once a server has told all there is: until then, nothing may be taken for gone.
    pub async fn current(&self) {
        self.is_filled(Filled::Now).await;
    }

    async fn is_filled(&self, wanted: Filled) {
        let mut filled = self.shared.filled.subscribe();
        // The sender lives in `shared`, which `self` holds: the wait cannot fail.
        let _ = filled.wait_for(|filled| *filled >= wanted).await;
    }

    pub fn is_synced(&self) -> bool {
        *self.shared.filled.borrow() > Filled::Not
    }
}

impl<K> Clone for Cache<K> {
    fn clone(&self) -> Self {
        Self { shared: self.shared.clone(), scope: self.scope }
    }
}

impl<K> Default for Shared<K> {
    fn default() -> Self {
        let state = RwLock::new(State { objects: HashMap::new(), unreadable: BTreeMap::new() });
        let handlers = Mutex::new(Handlers { change: Vec::new(), revision: Vec::new() });
        let failures = Seldom::new(FAILURES_TOLD_EVERY);
        Self { state, revision: AtomicU64::new(0), handlers, filled: watch::channel(Filled::Not).0, failures }
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

/// Told of an object when it turns out that it cannot be read.
type Tell<'a, K> = &'a dyn Fn(&K, &str);

impl<K> Shared<K> {
    fn forget(&self, scope: Scope) {
        let mut handlers = self.handlers.lock();
        let change: Vec<_> = handlers.change.extract_if(.., |(of, _)| *of == scope).collect();
        let revision: Vec<_> = handlers.revision.extract_if(.., |(of, _)| *of == scope).collect();
        drop(handlers);
        drop((change, revision));
    }
}

impl<K: Object> Shared<K> {
    fn tell_failed(&self, error: &kube::Error) {
        match self.failures.due() {
            Some(untold) => tracing::warn!(kind = %kind::<K>(), %error, untold, "watch failed; trying again"),
            None => tracing::debug!(kind = %kind::<K>(), %error, "watch failed; trying again"),
        }
    }

    fn put(&self, seen: Seen<K>, tell: Tell<'_, K>) {
        let (handlers, revision) = (self.handlers.lock(), revision_of(&seen.object));
        self.set(&handlers, key_of(&seen.object), seen, tell);
        self.grown(&handlers, revision);
    }

    fn remove(&self, key: &Key, revision: u64) {
        let handlers = self.handlers.lock();
        self.unset(&handlers, key);
        self.grown(&handlers, revision);
    }

    /// What was not listed again is gone. The revision is reached with the last object of all: they come in the order of their names.
    fn replace(&self, listed: Listed<K>, revision: u64, of: Filled, tell: Tell<'_, K>) {
        let gone: Vec<Arc<K>> = {
            let state = self.state.read();
            let all = state.objects.values().flat_map(HashMap::values);
            all.filter(|object| !listed.contains_key(&key_of(&***object))).cloned().collect()
        };
        // A lock for each: who registers a handler meanwhile does not wait for all of them.
        in_order(gone).iter().for_each(|object| self.unset(&self.handlers.lock(), &key_of(&**object)));
        listed.into_iter().for_each(|(key, seen)| self.set(&self.handlers.lock(), key, seen, tell));
        self.reached(revision);
        self.filled(of);
    }

    /// It never becomes less.
    fn filled(&self, of: Filled) {
        self.filled.send_if_modified(|filled| std::mem::replace(filled, of.max(*filled)) < of);
    }

    fn reached(&self, revision: u64) {
        self.grown(&self.handlers.lock(), revision);
    }

    fn set(&self, handlers: &Handlers<K>, key: Key, seen: Seen<K>, tell: Tell<'_, K>) {
        let (old, object, fault) = {
            let mut state = self.state.write();
            // A watch that was opened again repeats what we have: handlers keep the one they were shown.
            if state.get(&key).is_some_and(|old| old.object_meta().resource_version == seen.object.object_meta().resource_version) {
                return;
            }
            let object = Arc::new(state.readable(&key, seen.object, seen.fault.as_deref()));
            let is_told = state.set_unreadable(&key, seen.fault.clone());
            (state.insert(key, object.clone()), object, seen.fault.filter(|_| is_told))
        };
        if let Some(why) = fault {
            tell(&object, &why);
        }
        told(&handlers.change, old.as_ref(), Some(&object));
    }

    fn unset(&self, handlers: &Handlers<K>, key: &Key) {
        let old = {
            let mut state = self.state.write();
            state.set_unreadable(key, None);
            state.remove(key)
        };
        if let Some(old) = old {
            told(&handlers.change, Some(&old), None);
        }
    }

    fn grown(&self, handlers: &Handlers<K>, revision: u64) {
        if self.revision.fetch_max(revision, Ordering::AcqRel) < revision {
            caught_up::<K>(&handlers.revision, revision);
        }
    }
}

impl<K: Object> State<K> {
    /// The new object, or where it has a fault and the one before was read: that one, with the metadata of now.
    fn readable(&self, key: &Key, object: K, fault: Option<&str>) -> K {
        let last = self.get(key).filter(|old| fault.is_some() && old.object_meta().uid == object.object_meta().uid);
        let Some(last) = last else { return object };
        let mut stands = (**last).clone();
        stands.set_meta_of(&object);
        stands
    }

    /// Whether it could be read before and cannot be now.
    fn set_unreadable(&mut self, key: &Key, fault: Option<String>) -> bool {
        let is_new = fault.is_some();
        let old = match fault {
            Some(why) => self.unreadable.insert(key.clone(), why),
            None if self.unreadable.is_empty() => None,
            None => self.unreadable.remove(key),
        };
        let by = i64::from(is_new) - i64::from(old.is_some());
        if by != 0 {
            unreadable(&kind::<K>(), by);
        }
        by > 0
    }
}

/// A handler that panics misses this change; the others, and the watch, go on.
fn told<K: Object>(handlers: &[(Scope, Handler<K>)], old: Option<&Arc<K>>, new: Option<&Arc<K>>) {
    for (_, handler) in handlers {
        if let Err(panic) = catch("cache handler", || handler(old, new)) {
            let key = new.or(old).map(|object| key_of(&**object));
            tracing::error!(kind = %kind::<K>(), key = key.map(|k| k.to_string()), error = %panic, "a change was not taken in");
        }
    }
}

/// As [`told`].
fn caught_up<K: Object>(handlers: &[(Scope, RevisionHandler)], revision: u64) {
    for (_, handler) in handlers {
        if let Err(panic) = catch("cache handler", || handler(revision)) {
            tracing::error!(kind = %kind::<K>(), revision, error = %panic, "a revision was not taken in");
        }
    }
}

fn in_order<K: Object>(mut objects: Vec<Arc<K>>) -> Vec<Arc<K>> {
    steps::took(objects.len());
    objects.sort_by(|a, b| a.object_meta().full_name().cmp(&b.object_meta().full_name()));
    objects
}

fn key_of<K: Object>(object: &K) -> Key {
    object.object_meta().key()
}

fn kind<K: Object>() -> Cow<'static, str> {
    K::Served::kind(&())
}

fn revision_of<K: Object>(object: &K) -> u64 {
    object.object_meta().resource_version.and_then(|rv| rv.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use api::k8s::api::core::v1::ConfigMap;
    use kube::ResourceExt;

    fn map(name: &str, rev: &str) -> ConfigMap {
        let mut object = ConfigMap::default();
        object.metadata.name = Some(name.into());
        object.metadata.namespace = Some("d".into());
        object.metadata.resource_version = Some(rev.into());
        object
    }

    fn seen(name: &str, rev: &str) -> Seen<ConfigMap> {
        Seen::whole(map(name, rev))
    }

    fn all<const N: usize>(seen: [Seen<ConfigMap>; N]) -> Listed<ConfigMap> {
        seen.into_iter().map(|seen| (key_of(&seen.object), seen)).collect()
    }

    fn cache(listed: Listed<ConfigMap>, revision: u64) -> Cache<ConfigMap> {
        let cache = Cache::<ConfigMap> { shared: Arc::new(Shared::default()), scope: 0 };
        cache.shared.replace(listed, revision, Filled::Now, &|_, _| {});
        cache
    }

    #[test]
    fn a_handler_sees_each_change_once_across_a_relist() {
        let cache = cache(all([seen("a", "1"), seen("b", "2")]), 2);
        let log = Arc::new(Mutex::new(Vec::new()));
        let logged = log.clone();
        cache.on_change(|_, _| panic!("a handler before it that panics"));
        cache.on_change(move |old, new| {
            let name = |o: Option<&Arc<ConfigMap>>| o.map(|o| o.name_any());
            logged.lock().push((name(old), name(new)));
        });
        cache.shared.replace(all([seen("b", "2"), seen("c", "3")]), 3, Filled::Before, &|_, _| {});
        cache.shared.remove(&Key::new("d", "c"), 4);
        let (a, b, c) = (Some("a".to_owned()), Some("b".to_owned()), Some("c".to_owned()));
        assert_eq!(*log.lock(), vec![(None, a.clone()), (None, b), (a, None), (None, c.clone()), (c, None)]);
        assert_eq!(cache.revision(), 4);
        assert!(cache.is_synced());
    }

    #[tokio::test]
    async fn who_leaves_is_told_no_more_and_nothing_of_it_is_kept() {
        let service = tower::service_fn(async |_: http::Request<kube::client::Body>| {
            Ok::<_, std::convert::Infallible>(http::Response::new(kube::client::Body::empty()))
        });
        let all = Caches::unfollowed(kube::Client::new(service, "default"), Group::new());
        let (leaving, log) = (all.scoped(), Arc::new(Mutex::new(Vec::new())));
        for (who, caches) in [("stays", &all), ("leaves", &leaving)] {
            let (cache, changes, revisions) = (caches.of::<ConfigMap>(), log.clone(), log.clone());
            // A handler that has the cache it is kept by, as most do.
            let has = cache.clone();
            cache.on_change(move |_, _| changes.lock().push(format!("{who} {}", has.len())));
            cache.on_revision(move |revision| revisions.lock().push(format!("{who} r{revision}")));
        }
        log.lock().clear();
        leaving.leave();
        all.of().feed(map("a", "7"), false);
        assert_eq!(*log.lock(), ["stays 1", "stays r7"]);
        assert_eq!(Arc::strong_count(&log), 3, "what the other's handlers held is dropped");
        assert_eq!(leaving.of::<ConfigMap>().len(), 1, "it may still look");
    }

    #[test]
    fn a_revision_is_told_once_all_up_to_it_has_been() {
        let cache = cache(all([seen("a", "9"), seen("b", "2")]), 11);
        let log = Arc::new(Mutex::new(Vec::new()));
        let (revisions, changes) = (log.clone(), log.clone());
        cache.on_revision(|_| panic!("a handler before it that panics"));
        cache.on_revision(move |revision| revisions.lock().push(revision.to_string()));
        assert_eq!(std::mem::take(&mut *log.lock()), ["11"], "what is known already is told at once");
        // Who registers later hears of a change before its revision is told all the same.
        cache.on_change(move |old, new| {
            let name = new.or(old).map(|o| o.name_any()).unwrap_or_default();
            changes.lock().push(if new.is_some() { name } else { format!("-{name}") });
        });
        log.lock().clear();
        let told = |work: &dyn Fn(&Shared<ConfigMap>)| {
            work(&cache.shared);
            std::mem::take(&mut *log.lock()).join(" ")
        };
        assert_eq!(told(&|cache| cache.put(seen("b", "12"), &|_, _| {})), "b 12");
        assert_eq!(told(&|cache| cache.remove(&Key::new("d", "unknown"), 13)), "13", "of what is not here, too");
        assert_eq!(told(&|cache| cache.reached(15)), "15", "a bookmark");
        assert_eq!(told(&|cache| cache.reached(15)), "", "it has been told");
        // The list names a newer one first, and none of the revision it was made at: that one was deleted.
        let listed = || all([seen("a", "17"), seen("c", "16")]);
        assert_eq!(told(&|cache| cache.replace(listed(), 20, Filled::Now, &|_, _| {})), "-b a c 20");
        assert_eq!(told(&|cache| cache.replace(listed(), 21, Filled::Now, &|_, _| {})), "21", "the same once more");
    }

    #[test]
    fn what_cannot_be_read_is_there_with_its_last_good_view() {
        let mut good = map("a", "1");
        good.data = Some([("k".to_owned(), "v".to_owned())].into());
        let cache = cache(all([Seen::whole(good)]), 1);
        let told = Mutex::new(Vec::new());
        let (key, key_b) = (Key::new("d", "a"), Key::new("d", "b"));
        let bad = |name: &str, rev: &str| {
            let mut object = map(name, rev);
            object.metadata.labels = Some([("new".to_owned(), String::new())].into());
            Seen { object, fault: Some("data: invalid".into()) }
        };
        let tell = |object: &ConfigMap, why: &str| told.lock().push(format!("{} {why}", object.name_any()));
        cache.shared.put(bad("a", "2"), &tell);
        cache.shared.put(bad("a", "3"), &tell);
        cache.shared.put(bad("b", "4"), &tell);
        assert_eq!(*told.lock(), ["a data: invalid", "b data: invalid"], "once for each");
        let (a, b) = (cache.get(&key).unwrap(), cache.get(&key_b).unwrap());
        assert_eq!((a.data.as_ref().unwrap()["k"].as_str(), a.labels().len(), a.resource_version().as_deref()), ("v", 1, Some("3")));
        assert_eq!((b.data.as_ref(), cache.list().len(), cache.unreadable().len()), (None, 2, 2));
        assert!(cache.is_unreadable(&key) && cache.is_unreadable(&key_b));
        cache.shared.put(seen("a", "5"), &tell);
        cache.shared.remove(&key_b, 6);
        assert!(!cache.is_unreadable(&key) && !cache.is_unreadable(&key_b));
        assert_eq!(cache.get(&key).unwrap().data, None, "what can be read counts again");
    }
}
