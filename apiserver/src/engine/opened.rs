//! What the store keeps of objects <-> what the caches have of them ([`AtRest`](crate::at_rest::AtRest)).

use std::{iter, sync::Arc};

use api::{GroupResource, Status};
use bytes::Bytes;
use store::Entry;
use tokio::sync::watch;

use super::{Engine, cache::Cache, form, object::Object, registry::Served};

impl Engine {
    /// What is written under `key` of the store.
    ///
    /// # Errors
    /// It cannot be encrypted now.
    pub(super) fn sealed(&self, cache: &Cache, key: &str, plain: &Bytes) -> Result<Bytes, Status> {
        self.at_rest.seal(&cache.kind, key, plain).map_err(Status::internal)
    }

    /// As it is cached. Never waits: a key that somebody has to be asked for must be known.
    ///
    /// # Errors
    /// Why it cannot be read.
    pub(super) fn plain(&self, cache: &Cache, entry: Entry) -> Result<Entry, String> {
        let value = self.at_rest.open(&cache.kind, &entry.key, &entry.value)?;
        Ok(Entry { value, ..entry })
    }

    /// The object of an entry that was read, if it is one.
    ///
    /// # Errors
    /// It cannot be decrypted.
    pub(crate) async fn object_of(&self, cache: &Cache, entry: Entry) -> Result<Option<Arc<Object>>, Status> {
        if let Some(object) = cache.cached(&entry) {
            return Ok(Some(object));
        }
        self.at_rest.learn(iter::once(&entry.value)).await;
        let entry = self.plain(cache, entry).map_err(Status::internal)?;
        Ok(cache.object(&entry))
    }

    /// All that the store has of a cache, as it is cached. What cannot be opened locks its kind, and stays what the cache knew of it: it is there, so
    /// nobody may be told that it is gone. And whether all can be opened: the kind is to be unlocked then, after its cache has that.
    pub(super) async fn opened(&self, cache: &Cache, entries: Vec<Entry>) -> (Vec<Entry>, bool) {
        self.at_rest.learn(entries.iter().map(|entry| &entry.value)).await;
        let (mut plain, mut locked) = (Vec::with_capacity(entries.len()), Vec::new());
        for entry in entries {
            let key = entry.key.clone();
            match self.plain(cache, entry) {
                Ok(entry) => plain.push(entry),
                Err(why) => {
                    let old = cache.known(&key);
                    plain.extend(old.map(|old| Entry { key: key.clone(), value: old.stored().clone(), rev: old.rev }));
                    locked.push((key, why));
                }
            }
        }
        let is_open = locked.is_empty();
        if !is_open {
            self.locked.set(&cache.prefix, locked);
        }
        (plain, is_open)
    }

    /// Whether the cache of a resource has all that the store has of it. Who takes what is not cached as a sign that it is nowhere asks this first:
    /// what cannot be decrypted is in the store all the same. Costs one load where there is no such thing. Of what is not served there is nothing.
    ///
    /// # Errors
    /// 500 that names what cannot be decrypted.
    pub fn whole(&self, gr: &GroupResource) -> Result<(), Status> {
        if !self.locked.is_any() {
            return Ok(());
        }
        let registry = self.registry.load();
        let cache = registry.resource(gr).and_then(|served| served.cache.as_ref());
        cache.map_or(Ok(()), |cache| self.locked.check(&cache.prefix))
    }

    /// Changes whenever [`Engine::whole`] is true of a resource that it was not true of: what had to be left undone can be done.
    pub fn unlocked(&self) -> watch::Receiver<u64> {
        self.locked.unlocked.subscribe()
    }

    /// Whether an update writes the object although it changes nothing: it stands there in another form than is written now.
    ///
    /// # Errors
    /// The store's.
    pub(super) async fn is_stale(&self, served: &Served, current: &Object) -> Result<bool, Status> {
        let Some(cache) = &served.cache else { return Ok(false) };
        if !current.is_shown() && !current.is_of(&cache.kind.api_version()) {
            return Ok(true);
        }
        if !self.at_rest.may_differ() {
            return Ok(false);
        }
        let entry = self.store.get(&cache.store_key(&current.key)).await.map_err(form::store_error)?;
        Ok(entry.is_some_and(|entry| entry.rev == current.rev && self.at_rest.is_stale(&cache.kind, &entry.key, &entry.value)))
    }
}
