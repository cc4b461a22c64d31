//! The store's events -> the caches: one load, then one watch for all resources, so that one revision says how far all have come. A store
//! that commits in this process tells us itself: what is answered is in the caches then, and its author waits for nobody else.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use futures::StreamExt;
use store::{Entry, Error, Event, Listener, Range, Rev};

use super::{
    Engine,
    cache::{Cache, Write},
    claims,
};

/// Pause before the store is asked again after it failed; doubles up to the second.
const RETRY: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(2));

/// How long kinds that are objects themselves may take to be served.
const UNSERVED_AFTER: Duration = Duration::from_secs(30);
/// Where objects without a kind stand, so many are told apart.
const PLACES_MAX: usize = 1000;

/// What stands beside objects: what has been given out of ranges, and which servers there are (`pkg/controlplane/reconcilers/lease.go`).
const KEYS_OF_NO_KIND: [&str; 2] = [claims::RANGES, "/registry/masterleases/"];

pub(super) async fn run(engine: Arc<Engine>) {
    let mut pause = RETRY.0;
    let mut from = None;
    loop {
        let error = match from {
            None => load(&engine).await.map(|rev| from = Some(rev)).err(),
            Some(rev) => tokio::select! {
                error = follow(&engine, rev) => Some(error),
                () = engine.locked.opened.notified() => {
                    tracing::info!("what could not be decrypted can be now: reading all again");
                    from = None;
                    None
                }
            },
        };
        match error {
            None => pause = RETRY.0,
            // What was missed cannot be told in order any more: read all again.
            Some(error @ (Error::Compacted { .. } | Error::Slow | Error::Future { .. })) => {
                tracing::warn!(%error, "store was followed too slowly, or was put back: reading all again");
                from = None;
                tokio::time::sleep(RETRY.0).await;
            }
            Some(error) => {
                tracing::warn!(%error, "store cannot be followed, trying again");
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(RETRY.1);
                from = from.map(|_| *engine.applied.borrow());
            }
        }
    }
}

async fn load(engine: &Arc<Engine>) -> Result<Rev, Error> {
    let page = engine.store.range(Range { prefix: "/registry/".into(), ..Range::default() }).await?;
    let registry = engine.registry();
    let (mut by_cache, mut unserved): (HashMap<&str, Vec<Entry>>, _) = (HashMap::new(), Unserved::default());
    for entry in page.entries {
        match registry.cache_of(&entry.key) {
            Some(cache) => by_cache.entry(&cache.prefix).or_default().push(entry),
            None if KEYS_OF_NO_KIND.iter().any(|prefix| entry.key.starts_with(prefix)) => {}
            None => unserved.note(&entry.key),
        }
    }
    // Once for all kinds: whoever has the keys may be slow, and is asked for all of them together.
    engine.at_rest.learn(by_cache.values().flatten().map(|entry| &entry.value)).await;
    for cache in registry.caches() {
        let stored = by_cache.remove(&*cache.prefix).unwrap_or_default();
        let (entries, is_open) = engine.opened(cache, stored).await;
        cache.reload(&entries, page.rev);
        if is_open {
            engine.locked.set(&cache.prefix, Vec::new());
        }
    }
    unserved.told_later(engine);
    engine.applied.send_replace(page.rev);
    engine.loaded.send_replace(true);
    Ok(page.rev)
}

/// Stored objects that had no kind when all was read, by where they stand. Kinds that are objects themselves come after that.
#[derive(Default)]
struct Unserved(BTreeMap<String, usize>);

impl Unserved {
    fn note(&mut self, key: &str) {
        // `/registry/<group>/<resource>/`, as caches have it, or `/registry/<resource>/<namespace>/`.
        let place: String = key.split_inclusive('/').take(4).collect();
        if self.0.len() < PLACES_MAX || self.0.contains_key(&place) {
            *self.0.entry(place).or_default() += 1;
        }
    }

    /// How many have none still, and where one of them stands.
    fn left(&self, is_served: impl Fn(&str) -> bool) -> (usize, Option<&str>) {
        let left = || self.0.iter().filter(|(place, _)| !is_served(place));
        (left().map(|(_, count)| count).sum(), left().next().map(|(place, _)| place.as_str()))
    }

    fn told_later(self, engine: &Arc<Engine>) {
        if self.0.is_empty() {
            return;
        }
        let this = Arc::downgrade(engine);
        engine.group().spawn(async move {
            tokio::time::sleep(UNSERVED_AFTER).await;
            let Some(this) = this.upgrade() else { return };
            let registry = this.registry();
            if let (count, Some(place)) = self.left(|place| registry.cache_of(place).is_some()) {
                tracing::warn!(count, place, "store holds objects of kinds that are not served");
            }
        });
    }
}

/// Applies events until the watch ends; the error says why.
async fn follow(engine: &Arc<Engine>, after: Rev) -> Error {
    let listener = listener(engine);
    match engine.store.listen(after, &listener) {
        Some(Ok(())) => {
            // Until the house stops.
            std::future::pending::<()>().await;
            drop(listener);
        }
        Some(Err(error)) => return error,
        None => {}
    }
    let mut events = match engine.store.watch("", after).await {
        Ok(events) => events,
        Err(error) => return error,
    };
    while let Some(batch) = events.next().await {
        match batch {
            Ok(batch) => {
                // Others write here, too, and with keys of their own.
                engine.at_rest.learn_in_passing(batch.iter().filter_map(written)).await;
                apply(engine, batch.iter());
            }
            Err(error) => return error,
        }
    }
    Error::Unavailable("watch ended".into())
}

fn listener(engine: &Arc<Engine>) -> Listener {
    // The engine has the store, which has the listener.
    let engine = Arc::downgrade(engine);
    Arc::new(move |commit| {
        if let Some(engine) = engine.upgrade() {
            apply(&engine, commit.iter().flat_map(|events| events.iter()));
        }
    })
}

fn written(event: &Event) -> Option<&Bytes> {
    match event {
        Event::Put { entry, .. } => Some(&entry.value),
        Event::Delete { .. } => None,
    }
}

fn apply<'a>(engine: &Engine, events: impl Iterator<Item = &'a Event>) {
    let registry = engine.registry.load();
    let mut newest = 0;
    // Written in a form that can be read: told once the caches have it.
    let mut open: Vec<(&Arc<Cache>, &Arc<str>)> = Vec::new();
    let mut by_cache: HashMap<&str, (&Arc<Cache>, Vec<Write>)> = HashMap::new();
    for event in events {
        newest = newest.max(event.rev());
        let Some(cache) = registry.cache_of(event.key()) else { continue };
        let entry = match event {
            Event::Put { entry, .. } => Some(engine.plain(cache, entry.clone())).transpose(),
            Event::Delete { .. } => Ok(None),
        };
        match entry {
            Ok(entry) => {
                if engine.locked.is_any() {
                    open.push((cache, event.key()));
                }
                let write = Write { key: event.key().clone(), rev: event.rev(), entry };
                by_cache.entry(&cache.prefix).or_insert_with(|| (cache, Vec::new())).1.push(write);
            }
            Err(why) => {
                open.retain(|(_, key)| *key != event.key());
                engine.locked.note(&cache.prefix, event.key(), why);
            }
        }
    }
    for (cache, writes) in by_cache.into_values() {
        cache.apply(writes);
    }
    open.into_iter().for_each(|(cache, key)| engine.locked.forget(&cache.prefix, key));
    engine.applied.send_modify(|rev| *rev = (*rev).max(newest));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_stays_without_a_kind_is_told_of() {
        let mut unserved = Unserved::default();
        for key in ["/registry/a.example/ones/ns/x", "/registry/a.example/ones/ns/y", "/registry/b.example/twos/z", "/registry/olds/ns/x"] {
            unserved.note(key);
        }
        assert_eq!(unserved.left(|place| place.starts_with("/registry/a.example/ones/")), (2, Some("/registry/b.example/twos/")));
        assert_eq!(unserved.left(|_| true), (0, None));
    }
}
