//! Objects whose bytes cannot be opened (their key is not to be had, or was taken out of the configuration): their kind is neither listed nor
//! watched, since it would look as if they were gone, and who reads caches in this process is told so ([`Engine::whole`]). Others are served.
//!
//! A kind is locked before its cache lacks something, and unlocked after the cache has all: who finds it whole and then reads misses nothing.
//!
//! Upstream fails such lists as well (`unable to transform key`, apiserver `pkg/storage/etcd3/store.go`).

use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use api::Status;
use futures::future::join_all;
use parking_lot::Mutex;
use tokio::sync::{Notify, watch};

use super::Engine;

/// How often some of each kind are tried again.
const RETRY: Duration = Duration::from_secs(2);
/// How many of a kind.
const TRIED_MAX: usize = 16;

/// By the prefix of their cache.
#[derive(Default)]
pub(crate) struct Locked {
    is_any: AtomicBool,
    by_cache: Mutex<HashMap<String, BTreeMap<Arc<str>, String>>>,
    /// There are some.
    some: Notify,
    /// One can be opened now: all is to be read anew.
    pub opened: Notify,
    /// Counts kinds that were locked and are not any more.
    pub unlocked: watch::Sender<u64>,
}

impl Locked {
    pub fn is_any(&self) -> bool {
        self.is_any.load(Ordering::Acquire)
    }

    /// All of a cache that are locked.
    pub fn set(&self, prefix: &str, locked: Vec<(Arc<str>, String)>) {
        if locked.is_empty() && !self.is_any() {
            return;
        }
        if let Some((key, why)) = locked.first() {
            tracing::error!(count = locked.len(), key = &**key, why, "objects cannot be decrypted; their kind is not listed");
        }
        self.change(|all| {
            all.remove(prefix);
            if !locked.is_empty() {
                all.insert(prefix.to_owned(), locked.into_iter().collect());
            }
        });
    }

    /// One more.
    pub fn note(&self, prefix: &str, key: &Arc<str>, why: String) {
        tracing::error!(key = &**key, why, "object cannot be decrypted; its kind is not listed");
        self.change(|all| drop(all.entry(prefix.to_owned()).or_default().insert(key.clone(), why)));
    }

    /// It was written anew, or is gone, and the cache has that.
    pub fn forget(&self, prefix: &str, key: &str) {
        if self.is_any() {
            self.change(|all| {
                if let Some(locked) = all.get_mut(prefix) {
                    locked.remove(key);
                }
            });
        }
    }

    fn change(&self, change: impl FnOnce(&mut HashMap<String, BTreeMap<Arc<str>, String>>)) {
        let mut all = self.by_cache.lock();
        let before: Vec<String> = all.keys().cloned().collect();
        change(&mut all);
        all.retain(|_, locked| !locked.is_empty());
        self.is_any.store(!all.is_empty(), Ordering::Release);
        if !all.is_empty() {
            self.some.notify_one();
        }
        if before.iter().any(|prefix| !all.contains_key(prefix)) {
            self.unlocked.send_modify(|count| *count += 1);
        }
    }

    /// # Errors
    /// 500 for what is not listed.
    pub fn check(&self, prefix: &str) -> Result<(), Status> {
        if !self.is_any() {
            return Ok(());
        }
        let all = self.by_cache.lock();
        match all.get(prefix).and_then(BTreeMap::first_key_value) {
            Some((key, why)) => Err(untransformed(key, why)),
            None => Ok(()),
        }
    }

    fn some_of_each(&self) -> Vec<(String, Arc<str>)> {
        let all = self.by_cache.lock();
        let some = all.iter().flat_map(|(prefix, locked)| locked.keys().take(TRIED_MAX).map(|key| (prefix.clone(), key.clone())));
        some.collect()
    }
}

/// What cannot be decrypted fails a list.
pub(super) fn untransformed(key: &str, why: &str) -> Status {
    Status::internal(format!("unable to transform key {}: {why}", api::quoted(key)))
}

/// Tries some of each kind from time to time, while there are some.
pub(super) async fn retry(engine: Arc<Engine>) {
    loop {
        engine.locked.some.notified().await;
        while engine.locked.is_any() {
            tokio::time::sleep(RETRY).await;
            if is_one_open(&engine).await {
                engine.locked.opened.notify_one();
            }
        }
    }
}

/// All are read at once: a store that is silent is waited for once, and so is whoever has the keys.
async fn is_one_open(engine: &Engine) -> bool {
    let registry = engine.registry();
    let mut asked = Vec::new();
    for (prefix, key) in engine.locked.some_of_each() {
        match registry.caches().iter().find(|cache| cache.prefix == prefix) {
            Some(cache) => asked.push(async move { (cache, engine.store.get(&key).await) }),
            None => engine.locked.set(&prefix, Vec::new()),
        }
    }
    let mut read = Vec::new();
    for (cache, entry) in join_all(asked).await {
        match entry {
            Ok(Some(entry)) => read.push((cache, entry)),
            // It went without anybody being told, while its kind was not served: nothing else would unlock that.
            Ok(None) => return true,
            Err(_) => {}
        }
    }
    engine.at_rest.learn(read.iter().map(|(_, entry)| &entry.value)).await;
    read.into_iter().any(|(cache, entry)| engine.plain(cache, entry).is_ok())
}
