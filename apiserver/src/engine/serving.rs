//! Kinds that come, change and go while the server runs: the registry is swapped whole, and who reads it is never blocked.

use std::{sync::Arc, time::Duration};

use api::{Gvr, Status};
use store::Range;

use super::{
    Engine,
    cache::{Cache, Close},
    form,
    registry::Registry,
};
use crate::kind::{Handler, Kind, Name, Storage};

/// How long the store may take to tell what it has of new kinds: what is written meanwhile is held in memory.
const FILL_MAX: Duration = Duration::from_secs(60);

/// Caches that are being filled, each with the one in whose place it comes. Where that is given up, all is as it was before.
struct Filling<'a> {
    engine: &'a Engine,
    before: Arc<Registry>,
    caches: Vec<(Arc<Cache>, Option<Arc<Cache>>)>,
    is_done: bool,
}

impl Engine {
    /// Serves `kinds` from now on, each in the place of the one of its group, version and resource where there is one. What the store has of them is
    /// in the caches before the first request sees them. Where objects are looked up, named or kept another way than before, watchers have to begin
    /// anew (410 Gone). May be given up: then nothing has changed.
    ///
    /// # Errors
    /// 500 for kinds that cannot be served together (two kept in one place, one kept as a kind that is not served) or cannot come while the server
    /// runs (those with actions); 503 where the store does not answer. Nothing has changed then.
    pub async fn serve(self: &Arc<Self>, kinds: Vec<Arc<Kind>>) -> Result<(), Status> {
        self.exchange(kinds, &[]).await
    }

    /// The same, and those of `gone` are served no more: one may take the place of another in the store.
    ///
    /// # Errors
    /// As [`Engine::serve`] and [`Engine::withdraw`].
    pub async fn exchange(self: &Arc<Self>, kinds: Vec<Arc<Kind>>, gone: &[Gvr]) -> Result<(), Status> {
        let _turn = self.changing.lock().await;
        self.ready().await;
        let before = self.registry();
        check(&before.changed(&kinds, gone, &[]))?;
        kinds.iter().try_for_each(|kind| no_actions(kind))?;
        let mut filling = Filling::begin(self, before, &kinds);
        let filled = tokio::time::timeout(FILL_MAX, filling.fill()).await;
        filled.unwrap_or_else(|_| Err(Status::unavailable("the store did not say in time what it has of the kinds")))?;
        filling.is_done = true;
        let fresh: Vec<Arc<Cache>> = filling.caches.iter().map(|(cache, _)| cache.clone()).collect();
        for (cache, old) in &filling.caches {
            if let Some(old) = old {
                cache.succeed(old);
            }
        }
        self.swap(&filling.before, filling.before.changed(&kinds, gone, &fresh), &fresh);
        Ok(())
    }

    /// Serves these no more. What is stored of them stays in the store; watchers are ended (410 Gone), listeners are told that all is gone.
    ///
    /// # Errors
    /// 500 where another kind is kept as one of them.
    pub async fn withdraw(&self, resources: &[Gvr]) -> Result<(), Status> {
        let _turn = self.changing.lock().await;
        let before = self.registry();
        let after = before.changed(&[], resources, &[]);
        check(&after)?;
        self.swap(&before, after, &[]);
        Ok(())
    }

    /// Listeners go from the old caches to the fresh ones; in between they are told some things twice.
    fn swap(&self, before: &Registry, after: Registry, fresh: &[Arc<Cache>]) {
        let listeners = self.listeners.lock();
        for cache in fresh {
            listeners.get(&cache.kind.group_resource()).into_iter().flatten().for_each(|listener| cache.listen(listener.clone()));
        }
        let is_gone = |cache: &&Arc<Cache>| !after.caches().iter().any(|other| Arc::ptr_eq(cache, other));
        let gone: Vec<Arc<Cache>> = before.caches().iter().filter(is_gone).cloned().collect();
        self.registry.store(Arc::new(after));
        for cache in gone {
            let is_replaced = fresh.iter().any(|new| new.prefix == cache.prefix);
            cache.close(if is_replaced { Close::Replaced } else { Close::Withdrawn });
        }
    }
}

impl<'a> Filling<'a> {
    /// Makes caches for what the present ones do not suit. From here on they are told what is written.
    fn begin(engine: &'a Engine, before: Arc<Registry>, kinds: &[Arc<Kind>]) -> Self {
        let is_new = |kind: &&Arc<Kind>| !before.caches().iter().any(|cache| cache.suits(kind));
        let of = |cache: Cache| {
            let old = before.caches().iter().find(|old| old.prefix == cache.prefix).cloned();
            (Arc::new(cache), old)
        };
        let caches: Vec<_> = kinds.iter().filter(is_new).filter_map(Cache::filling).map(of).collect();
        let new: Vec<Arc<Cache>> = caches.iter().filter(|(_, old)| old.is_none()).map(|(cache, _)| cache.clone()).collect();
        engine.registry.store(Arc::new(before.with_caches(&new)));
        for (cache, old) in &caches {
            if let Some(old) = old {
                old.pass_on_to(Some(cache));
            }
        }
        Self { engine, before, caches, is_done: false }
    }

    async fn fill(&self) -> Result<(), Status> {
        for (cache, _) in &self.caches {
            let range = Range { prefix: cache.prefix.clone(), ..Range::default() };
            let page = self.engine.store.range(range).await.map_err(form::store_error)?;
            // Not unlocked here: until this cache is the one that is read, its predecessor may lack something. Who tries again finds out.
            let (entries, _) = self.engine.opened(cache, page.entries).await;
            cache.fill(&entries, page.rev);
        }
        Ok(())
    }
}

impl Drop for Filling<'_> {
    fn drop(&mut self) {
        if !self.is_done {
            self.engine.registry.store(self.before.clone());
            self.caches.iter().filter_map(|(_, old)| old.as_ref()).for_each(|old| old.pass_on_to(None));
        }
    }
}

/// An action follows what it looks at from the start to the end of the server.
fn no_actions(kind: &Kind) -> Result<(), Status> {
    match kind.subresources.iter().find(|sub| matches!(sub.handler, Handler::Action(_))) {
        Some(sub) => Err(Status::internal(format!("{}/{} cannot come while the server runs: it is an action", kind.plural, sub.name))),
        None => Ok(()),
    }
}

fn check(registry: &Registry) -> Result<(), Status> {
    let prefixes =
        || registry.kinds().filter_map(|kind| if let Storage::Kept { prefix, .. } = &kind.storage { Some(prefix) } else { None });
    for kind in registry.kinds() {
        let refused = |why: &str| Err(Status::internal(format!("{}/{} {} is kept {why}", kind.group, kind.version, kind.plural)));
        match &kind.storage {
            Storage::Kept { prefix, .. } => {
                let is_below = |other: &&Name| prefix.strip_prefix(&***other).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
                // Itself is one of them.
                if prefixes().filter(is_below).count() > 1 {
                    return refused("where another kind is");
                }
            }
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
