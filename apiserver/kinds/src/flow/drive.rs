//! Stored levels and flow schemas drive the server's, whenever one of them has changed. Source: apiserver
//! `pkg/util/flowcontrol/apf_controller.go` (`syncOne`).

use std::{collections::HashMap, sync::Arc, time::Duration};

use apiserver::{
    engine::{Engine, Object},
    fairness::{Fairness, Level, Schema},
};
use tokio::{sync::Notify, time};

use super::{digest, levels, schemas};

/// What changes at once is taken over at once.
const SETTLE: Duration = Duration::from_millis(20);
/// Levels that are gone are looked after, until their last request has ended.
const LINGER: Duration = Duration::from_secs(1);

/// What was read of each object of a resource, once per revision: nothing is parsed again because others have changed.
pub(super) struct Mirror<T> {
    read: HashMap<Box<str>, (u64, T)>,
}

impl<T> Default for Mirror<T> {
    fn default() -> Self {
        Self { read: HashMap::new() }
    }
}

impl<T> Mirror<T> {
    /// `objects` is what there is now: names, revisions, and what `read` reads. Whether anything has changed.
    pub fn refresh<'o, O>(&mut self, objects: impl Iterator<Item = (&'o str, u64, O)>, read: impl Fn(O) -> T) -> bool {
        let mut before = std::mem::take(&mut self.read);
        let mut changed = false;
        for (name, rev, object) in objects {
            let kept = before.remove_entry(name).filter(|(_, (kept, _))| *kept == rev);
            changed |= kept.is_none();
            let (name, entry) = kept.unwrap_or_else(|| (name.into(), (rev, read(object))));
            self.read.insert(name, entry);
        }
        changed || !before.is_empty()
    }

    pub fn all(&self) -> impl Iterator<Item = (&str, &T)> {
        self.read.iter().map(|(name, (_, read))| (&**name, read))
    }

    pub fn get(&self, name: &str) -> Option<&T> {
        self.read.get(name).map(|(_, read)| read)
    }
}

/// What [`Mirror::refresh`] looks at.
pub(super) fn revisions(objects: &[Arc<Object>]) -> impl Iterator<Item = (&str, u64, &Object)> {
    objects.iter().map(|object| (object.key.name.as_str(), object.rev, &**object))
}

/// What drives the server: read of the objects, and told on.
#[derive(Default)]
struct Driver {
    levels: Mirror<Option<Level>>,
    schemas: Mirror<Arc<Schema>>,
}

impl Driver {
    fn run(&mut self, engine: &Engine, fairness: &Fairness) {
        let (stored_levels, stored_schemas) = (engine.cached_list(&levels(), None), engine.cached_list(&schemas(), None));
        let levels = self.levels.refresh(revisions(&stored_levels), |object| digest::level(&object.value()));
        let schemas = self.schemas.refresh(revisions(&stored_schemas), |object| digest::schema(&object.value()));
        if levels || schemas {
            let levels = self.levels.all().filter_map(|(_, level)| level.clone()).collect();
            fairness.configure(levels, self.schemas.all().map(|(_, schema)| schema.clone()).collect());
        }
    }
}

/// For as long as the server runs. `driven` is told of each change that has been taken over: who tells schemas of their levels comes after it.
pub async fn drive(engine: Arc<Engine>, fairness: Arc<Fairness>, driven: Arc<Notify>) {
    let changed = Arc::new(Notify::new());
    for resource in [levels(), schemas()] {
        let changed = changed.clone();
        engine.on_change(&resource, Arc::new(move |_| changed.notify_one()));
    }
    let mut driver = Driver::default();
    let mut lingers = false;
    loop {
        if lingers {
            let _ = time::timeout(LINGER, changed.notified()).await;
        } else {
            changed.notified().await;
        }
        time::sleep(SETTLE).await;
        driver.run(&engine, &fairness);
        lingers = fairness.settle();
        driven.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_revision_is_read_once() {
        let (mut mirror, reads) = (Mirror::<u64>::default(), std::cell::Cell::new(0));
        let mut refresh = |objects: &[(&'static str, u64)]| {
            reads.set(0);
            let changed = mirror.refresh(objects.iter().map(|(name, rev)| (*name, *rev, ())), |()| {
                reads.set(reads.get() + 1);
                0
            });
            (changed, reads.get(), mirror.all().count())
        };
        assert_eq!(refresh(&[("a", 1), ("b", 2)]), (true, 2, 2));
        assert_eq!(refresh(&[("a", 1), ("b", 2)]), (false, 0, 2));
        assert_eq!(refresh(&[("a", 3), ("b", 2)]), (true, 1, 2));
        assert_eq!(refresh(&[("c", 4), ("b", 2)]), (true, 1, 2));
        assert_eq!(refresh(&[]), (true, 0, 0));
        assert_eq!(refresh(&[]), (false, 0, 0));
    }
}
