//! The engine: a table of kinds over a store. What strategies, authorizers, admission and the front door may ask of it stands here.

pub(crate) mod admit;
pub(crate) mod cache;
mod claims;
pub(crate) mod context;
pub(crate) mod create;
pub(crate) mod delete;
pub(crate) mod derived;
mod equivalent;
pub(crate) mod event_history;
mod follow;
pub(crate) mod form;
mod head;
pub mod identity;
pub mod kind;
pub(crate) mod list;
mod locked;
pub(crate) mod managed_fields;
pub(crate) mod messages;
pub(crate) mod meta;
mod object;
mod opened;
mod own_request;
pub(crate) mod reader;
pub(crate) mod registry;
pub(crate) mod scale;
pub(crate) mod select;
mod serving;
pub(crate) mod subresource;
pub mod union;
pub(crate) mod update;
mod view;
mod wake;

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use api::{GroupResource, Key, Status};
use arc_swap::ArcSwap;
use bytes::Bytes;
use serde_json::Value;
use store::{Rev, Store};
use tokio::sync::{Mutex, watch};

use locked::Locked;
use registry::{Registry, Served};

pub use admit::merged;
pub use cache::Change;
pub use claims::Claims;
pub use context::{Ctx, Manager, ManagerOperation};
pub use object::Object;
pub use own_request::{OWN_USER, OwnRequest};
pub use view::{Unseen, VIEW_BYTES_MAX, View, Viewed};

use crate::{
    at_rest::AtRest,
    identity::{Attributes, Auth, Operation, User, Verdict},
    kind::Kind,
    metrics::{admission, store::Measured},
    notify::Stop,
};

/// How long a request waits for the caches to reach a revision that the store already has.
const FRESH_MAX: Duration = Duration::from_secs(3);

pub struct Engine {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) at_rest: Arc<AtRest>,
    pub(crate) locked: Locked,
    pub(crate) registry: ArcSwap<Registry>,
    /// One changes it at a time.
    changing: Mutex<()>,
    /// By resource, whether it is served already or not.
    listeners: parking_lot::Mutex<HashMap<GroupResource, Vec<cache::Listener>>>,
    pub(crate) auth: Auth,
    pub(crate) admission_told: admission::Told,
    pub(crate) group: api::task::Group,
    pub(crate) stop: Arc<Stop>,
    /// Of objects that are read in protobuf again and again.
    pub(crate) messages: Arc<messages::Messages>,
    /// All caches have come this far.
    pub(crate) applied: watch::Sender<Rev>,
    pub(crate) loaded: watch::Sender<bool>,
    /// Lists of before are refused.
    pub(crate) forgotten: AtomicU64,
}

impl Engine {
    /// Opens the engine over a store: the caches are filled by a task of `group`; [`Engine::ready`] says when. Must be called within a runtime.
    pub fn new(store: Arc<dyn Store>, kinds: Vec<Arc<Kind>>, auth: Auth, group: api::task::Group) -> Arc<Self> {
        Self::with_rest(store, Arc::default(), kinds, auth, group)
    }

    /// As [`Engine::new`], where objects stand in the store so.
    pub fn with_rest(store: Arc<dyn Store>, at_rest: Arc<AtRest>, kinds: Vec<Arc<Kind>>, auth: Auth, group: api::task::Group) -> Arc<Self> {
        let stop = Stop::of(&group);
        let engine = Arc::new(Self {
            store: Arc::new(Measured::new(store, &kinds)),
            at_rest,
            locked: Locked::default(),
            registry: ArcSwap::from_pointee(Registry::new(kinds)),
            changing: Mutex::default(),
            listeners: parking_lot::Mutex::default(),
            admission_told: admission::Told::new(auth.admission.len()),
            auth,
            group,
            stop,
            messages: Arc::default(),
            applied: watch::Sender::new(0),
            loaded: watch::Sender::new(false),
            forgotten: AtomicU64::new(0),
        });
        engine.group.spawn_loop("watch cache", follow::run(engine.clone()));
        engine.group.spawn_loop("what cannot be decrypted", locked::retry(engine.clone()));
        for authorizer in &engine.auth.authorizers {
            authorizer.start(&engine);
        }
        for plugin in &engine.auth.admission {
            plugin.start(&engine);
        }
        for kind in engine.registry().kinds() {
            kind.subresources.iter().for_each(|sub| sub.handler.start(&engine));
        }
        engine
    }

    /// All kinds that are served now, in table order.
    pub fn kinds(&self) -> Vec<Arc<Kind>> {
        self.registry.load().kinds().filter(|kind| kind.is_served()).cloned().collect()
    }

    pub(crate) fn registry(&self) -> Arc<Registry> {
        self.registry.load_full()
    }

    pub fn auth(&self) -> &Auth {
        &self.auth
    }

    /// From the cache, not older than what this process has acknowledged. In the form it is stored in.
    pub fn cached(&self, gr: &GroupResource, key: &Key) -> Option<Arc<Object>> {
        self.registry.load().resource(gr)?.cache.as_ref()?.get(key)
    }

    /// All of one namespace (or of all where `None`), from the cache, in key order.
    pub fn cached_list(&self, gr: &GroupResource, namespace: Option<&str>) -> Vec<Arc<Object>> {
        let registry = self.registry.load();
        let cache = registry.resource(gr).and_then(|served| served.cache.as_ref());
        cache.map(|cache| cache.snapshot(namespace.unwrap_or_default(), || 0).objects.to_vec()).unwrap_or_default()
    }

    /// Calls `f` for everything there is and then for every change, in order, on the cache's task: it must not block, nor subscribe itself. A resource
    /// that is not served yet is followed from then on. Where the way it is kept changes, `f` is told some things twice.
    pub fn on_change(&self, gr: &GroupResource, f: Arc<dyn Fn(&Change) + Send + Sync>) {
        let mut listeners = self.listeners.lock();
        listeners.entry(gr.clone()).or_default().push(f.clone());
        if let Some(cache) = self.registry.load().resource(gr).and_then(|served| served.cache.as_ref()) {
            cache.listen(f);
        }
    }

    /// Read, linearizable.
    pub async fn get(&self, gr: &GroupResource, key: &Key) -> Result<Arc<Object>, Status> {
        let served = self.resource(gr)?;
        let object = self.stored(&served, key).await?.ok_or_else(|| Status::not_found(gr, &key.name))?;
        form::view(&served, object).await
    }

    /// A write of this process's own: [`OwnRequest::ctx`] is its context.
    pub fn own_request(&self, gr: &GroupResource) -> Result<OwnRequest, Status> {
        Ok(OwnRequest::new(self.resource(gr)?))
    }

    /// Create with strategy and admission, as `user`.
    pub async fn create(
        self: &Arc<Self>,
        gr: &GroupResource,
        namespace: &str,
        mut object: Value,
        user: &User,
    ) -> Result<Arc<Object>, Status> {
        let own = self.own_request(gr)?;
        meta::wipe(&mut object);
        if !namespace.is_empty() {
            meta::of(&mut object).insert("namespace".into(), namespace.into());
        }
        let name = meta::text(&object, "name").to_owned();
        let ctx = own.ctx(self, user, Operation::Create, (namespace, &name, ""));
        Box::pin(create::create(&ctx, form::typed_as(&own.served.kind, object))).await
    }

    /// Read, change, write until it fits (`GuaranteedUpdate`): `change` may run several times; strategy and admission apply. `subresource` may be empty.
    pub async fn update(
        self: &Arc<Self>,
        gr: &GroupResource,
        key: &Key,
        subresource: &str,
        user: &User,
        change: &(dyn for<'a> Fn(&'a mut Value) -> Result<(), Status> + Send + Sync),
    ) -> Result<Arc<Object>, Status> {
        self.own_request(gr)?.update(self, key, subresource, user, change).await
    }

    /// Delete with the options of `metav1.DeleteOptions` (JSON).
    pub async fn delete(self: &Arc<Self>, gr: &GroupResource, key: &Key, options: Value, user: &User) -> Result<(), Status> {
        let own = OwnRequest { options, ..self.own_request(gr)? };
        own.delete(self, key, user).await
    }

    /// Lists as of a revision before `rev` are refused from now on, also those that could be told: so they are wherever the store was compacted.
    pub fn forget(&self, rev: Rev) {
        self.forgotten.fetch_max(rev, Ordering::Relaxed);
    }

    /// Resolves once everything that was in the store is in the caches.
    pub async fn ready(&self) {
        let mut loaded = self.loaded.subscribe();
        // The sender lives as long as the engine.
        let _ = loaded.wait_for(|loaded| *loaded).await;
    }

    /// Whether [`Engine::ready`] has resolved.
    pub fn is_ready(&self) -> bool {
        *self.loaded.borrow()
    }

    /// The task group of the engine; connections and streams belong to it.
    pub fn group(&self) -> &api::task::Group {
        &self.group
    }

    /// May `user` do this? Asks the authorizers in order, also those that ask somebody outside.
    pub async fn verdict(&self, attributes: &Attributes<'_>) -> Verdict {
        union::verdict(&self.auth.authorizers, attributes).await
    }

    /// As [`Self::verdict`], for who cannot wait: where somebody outside is asked, a thread waits.
    pub fn verdict_at_once(&self, attributes: &Attributes<'_>) -> Verdict {
        union::verdict_at_once(&self.auth.authorizers, attributes)
    }

    /// What the authorizers let `user` do in `namespace`, as far as it can be listed.
    pub fn rules(&self, user: &User, namespace: &str) -> identity::Rules {
        union::rules(&self.auth.authorizers, user, namespace)
    }

    pub(crate) fn resource(&self, gr: &GroupResource) -> Result<Served, Status> {
        self.registry.load().resource(gr).cloned().ok_or_else(Status::no_such_path)
    }

    /// One object as of now, linearizable, in the form it is stored in.
    pub(crate) async fn stored(&self, served: &Served, key: &Key) -> Result<Option<Arc<Object>>, Status> {
        let Some(cache) = &served.cache else { return Ok(None) };
        match self.store.get(&cache.store_key(key)).await.map_err(form::store_error)? {
            Some(entry) => self.object_of(cache, entry).await,
            None => Ok(None),
        }
    }

    /// Waits until the caches have come to `rev`.
    pub(crate) async fn reach(&self, rev: Rev) -> Result<(), Status> {
        if *self.applied.borrow() >= rev {
            return Ok(());
        }
        let mut applied = self.applied.subscribe();
        tokio::select! {
            reached = tokio::time::timeout(FRESH_MAX, applied.wait_for(|at| *at >= rev)) => {
                if matches!(reached, Ok(Ok(_))) {
                    return Ok(());
                }
            }
            // The caches are not followed any more.
            () = self.group.stopping() => return Err(Status::unavailable("the server is shutting down")),
        }
        let current = *self.applied.borrow();
        let mut status = Status::timeout(format!("Too large resource version: {rev}, current: {current}"));
        status.detail("retryAfterSeconds", 1);
        Err(status.cause("ResourceVersionTooLarge", "Too large resource version", ""))
    }

    /// Waits until the caches hold all that was acknowledged, by any server, before this call.
    pub async fn fresh(&self) -> Result<(), Status> {
        let rev = self.store.revision().await.map_err(form::store_error)?;
        self.reach(rev).await
    }

    /// A write is acknowledged when it is in the cache: who hears of it finds it there. Returns it as served.
    pub(crate) async fn acknowledged(&self, served: &Served, key: &Key, stored: &Bytes, rev: Rev) -> Result<Arc<Object>, Status> {
        let Some(cache) = &served.cache else { return Err(Status::internal("a kind that is kept nowhere was stored")) };
        if let Err(status) = self.reach(rev).await {
            // It is durable all the same.
            tracing::warn!(rev, %status, "cache lags behind an acknowledged write");
        }
        if let Some(object) = cache.get(key).filter(|object| object.rev == rev) {
            return form::view(served, object).await;
        }
        let object = Object::from_stored(&cache.kind, key.clone(), stored, rev).map_err(Status::internal)?;
        form::view(served, Arc::new(object)).await
    }
}
