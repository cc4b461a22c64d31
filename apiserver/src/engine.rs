//! The engine: a table of kinds over a store. What laws, gates and the front door may ask of it stands here.

use std::sync::Arc;

use api::{GroupResource, Key, Status};
use bytes::Bytes;
use serde_json::Value;
use store::Store;

use crate::{
    identity::{Gates, User},
    kind::Kind,
};

/// One object as the cache keeps it: the bytes that are served, and a small parsed head.
pub struct Object {
    pub bytes: Bytes,
    pub rev: u64,
    pub key: Key,
    // head: uid, labels, owner references, selectable fields: the engine's owner adds them
}

/// A change as subscribers see it, after it is durable and in the cache.
pub struct Change {
    pub old: Option<Arc<Object>>,
    pub new: Option<Arc<Object>>,
}

pub struct Engine {}

impl Engine {
    /// Opens the engine over a store: fills no cache yet; caches are filled at first use of a resource, or by [`Engine::warm`].
    pub fn new(_store: Arc<dyn Store>, _kinds: Vec<Arc<Kind>>, _gates: Gates, _group: api::task::Group) -> Arc<Self> {
        todo!()
    }
    /// All kinds, in table order.
    pub fn kinds(&self) -> Vec<Arc<Kind>> {
        todo!()
    }
    pub fn gates(&self) -> &Gates {
        todo!()
    }
    /// From the cache, not older than what this process has acknowledged.
    pub fn cached(&self, _gr: &GroupResource, _key: &Key) -> Option<Arc<Object>> {
        todo!()
    }
    /// All of one namespace (or of all where `None`), from the cache, in key order.
    pub fn cached_list(&self, _gr: &GroupResource, _namespace: Option<&str>) -> Vec<Arc<Object>> {
        todo!()
    }
    /// Calls `f` for everything there is and then for every change, in order, on the cache's task: it must not block.
    pub fn on_change(&self, _gr: &GroupResource, _f: Arc<dyn Fn(&Change) + Send + Sync>) {
        todo!()
    }
    /// Read, linearizable.
    pub async fn get(&self, _gr: &GroupResource, _key: &Key) -> Result<Arc<Object>, Status> {
        todo!()
    }
    /// Create with all of the law and admission, as `user`.
    pub async fn create(
        self: &Arc<Self>,
        _gr: &GroupResource,
        _namespace: &str,
        _object: Value,
        _user: &User,
    ) -> Result<Arc<Object>, Status> {
        todo!()
    }
    /// Read, change, write until it fits (`GuaranteedUpdate`): `change` may run several times; law and admission apply. `subresource` may be empty.
    pub async fn update(
        self: &Arc<Self>,
        _gr: &GroupResource,
        _key: &Key,
        _subresource: &str,
        _user: &User,
        _change: &(dyn for<'a> Fn(&'a mut Value) -> Result<(), Status> + Send + Sync),
    ) -> Result<Arc<Object>, Status> {
        todo!()
    }
    /// Delete with the options of `metav1.DeleteOptions` (JSON).
    pub async fn delete(self: &Arc<Self>, _gr: &GroupResource, _key: &Key, _options: Value, _user: &User) -> Result<(), Status> {
        todo!()
    }
    /// Adds a server of non-resource paths. Sites are asked in the order they were mounted.
    pub fn mount(&self, _site: Arc<dyn crate::site::Site>) {
        todo!()
    }
    /// Gives the engine the shapes of its kinds; before it serves.
    pub fn set_schemas(&self, _schemas: Arc<dyn crate::decode::Schemas>) {
        todo!()
    }
    /// Resolves once everything that was in the store is in the caches.
    pub async fn ready(&self) {
        todo!()
    }
    /// May `user` do this? Asks the authorizers in order.
    pub fn authorize(&self, _attributes: &crate::identity::Attributes) -> crate::identity::Decision {
        todo!()
    }
}

impl Object {
    /// Parsed afresh; for paths where the head is not enough.
    pub fn value(&self) -> Value {
        todo!()
    }
}
