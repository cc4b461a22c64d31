//! Kinds that come, change and go while the server runs: the registry is swapped whole, and who reads it is never blocked.

use std::sync::Arc;

use api::{Gvr, Status};
use store::Range;

use super::{Engine, cache::Cache, form, registry::Registry};
use crate::kind::{Kind, Storage};

/// A cache that is being filled, and the one in whose place it comes.
struct Fresh {
    cache: Arc<Cache>,
    old: Option<Arc<Cache>>,
}

impl Engine {
    /// Serves `kinds` from now on, each in the place of the one of its group, version and resource where there is one. What the store has of them is
    /// in the caches before the first request sees them. Where objects are looked up, named or kept another way than before, watchers have to begin
    /// anew (410 Gone).
    ///
    /// # Errors
    /// 500 for kinds that cannot be served together (two kept in one place, one kept as a kind that is not served); 503 where the store does not
    /// answer. Nothing has changed then.
    pub async fn serve(self: &Arc<Self>, kinds: Vec<Arc<Kind>>) -> Result<(), Status> {
        let _turn = self.changing.lock().await;
        self.ready().await;
        let before = self.registry();
        check(&before.changed(&kinds, &[], &[]))?;
        let fresh = self.prepare(&before, &kinds);
        if let Err(status) = self.fill(&fresh).await {
            fresh.iter().for_each(Fresh::give_up);
            self.registry.store(before);
            return Err(status);
        }
        kinds.iter().flat_map(|kind| &kind.subresources).for_each(|sub| sub.handler.start(self));
        let caches: Vec<Arc<Cache>> = fresh.iter().map(|fresh| fresh.cache.clone()).collect();
        fresh.iter().for_each(Fresh::succeed);
        self.swap(&before, before.changed(&kinds, &[], &caches));
        Ok(())
    }

    /// Serves these no more. What is stored of them stays in the store; watchers are ended (410 Gone).
    ///
    /// # Errors
    /// 500 where another kind is kept as one of them.
    pub async fn withdraw(&self, resources: &[Gvr]) -> Result<(), Status> {
        let _turn = self.changing.lock().await;
        let before = self.registry();
        let after = before.changed(&[], resources, &[]);
        check(&after)?;
        self.swap(&before, after);
        Ok(())
    }

    /// Caches for what the present ones do not suit. From here on they are told what is written.
    fn prepare(&self, before: &Registry, kinds: &[Arc<Kind>]) -> Vec<Fresh> {
        let known = |kind: &&Arc<Kind>| !before.caches().iter().any(|cache| cache.suits(kind));
        let of = |cache: Cache| {
            let old = before.caches().iter().find(|old| old.prefix == cache.prefix).cloned();
            Fresh { cache: Arc::new(cache), old }
        };
        let fresh: Vec<Fresh> = kinds.iter().filter(known).filter_map(Cache::filling).map(of).collect();
        let new: Vec<Arc<Cache>> = fresh.iter().filter(|fresh| fresh.old.is_none()).map(|fresh| fresh.cache.clone()).collect();
        self.registry.store(Arc::new(before.with_caches(&new)));
        for fresh in &fresh {
            if let Some(old) = &fresh.old {
                old.pass_on_to(Some(&fresh.cache));
            }
        }
        fresh
    }

    async fn fill(&self, fresh: &[Fresh]) -> Result<(), Status> {
        for Fresh { cache, old } in fresh {
            let range = Range { prefix: cache.prefix.clone(), ..Range::default() };
            let page = self.store.range(range).await.map_err(form::store_error)?;
            cache.fill(&page.entries, page.rev);
            // They are told some things twice until the old one ends.
            old.iter().flat_map(|old| old.listeners()).for_each(|listener| cache.listen(listener));
        }
        Ok(())
    }

    fn swap(&self, before: &Registry, after: Registry) {
        let gone = |cache: &&Arc<Cache>| !after.caches().iter().any(|other| Arc::ptr_eq(cache, other));
        let gone: Vec<Arc<Cache>> = before.caches().iter().filter(gone).cloned().collect();
        self.registry.store(Arc::new(after));
        gone.iter().for_each(|cache| cache.close());
    }
}

impl Fresh {
    fn succeed(&self) {
        if let Some(old) = &self.old {
            self.cache.succeed(old);
        }
    }

    fn give_up(&self) {
        if let Some(old) = &self.old {
            old.pass_on_to(None);
        }
    }
}

fn check(registry: &Registry) -> Result<(), Status> {
    let mut prefixes: Vec<&str> = Vec::new();
    for kind in registry.kinds() {
        let refused = |why: &str| Err(Status::internal(format!("{}/{} {} is kept {why}", kind.group, kind.version, kind.plural)));
        match &kind.storage {
            Storage::Kept { prefix, .. } if prefixes.contains(&&**prefix) => return refused("where another kind is"),
            Storage::Kept { prefix, .. } => prefixes.push(prefix),
            Storage::As { group, version, plural } => match registry.find(group, version, plural) {
                None => return refused("as a kind that is not served"),
                Some(stored) if kind.fields.iter().any(|field| stored.kind.fields.iter().all(|other| other.pointer != field.pointer)) => {
                    return refused("as one without its selectable fields");
                }
                Some(_) => {}
            },
            Storage::Nowhere => {}
        }
    }
    Ok(())
}
