//! Objects -> who controls them, so that an owner finds its own without a scan.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use api::Key;
use client::{Cache, Object};
use parking_lot::RwLock;
use reconcile::{controller_of, own_key};

/// The objects of one collection by the uid of their controller, and those without one by namespace.
pub struct ByController<K> {
    cache: Cache<K>,
    sets: Arc<RwLock<HashMap<Place, BTreeSet<Key>>>>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Place {
    Of(String),
    Orphans(String),
}

impl<K: Object> ByController<K> {
    pub fn new(cache: Cache<K>) -> Self {
        let sets: Arc<RwLock<HashMap<Place, BTreeSet<Key>>>> = Arc::default();
        let kept = sets.clone();
        cache.on_change(move |old, new| {
            let (from, to) = (old.map(|o| place(&**o)), new.map(|o| place(&**o)));
            if from == to {
                return;
            }
            let mut sets = kept.write();
            if let (Some(from), Some(old)) = (from, old) {
                remove(&mut sets, &from, &own_key(&**old));
            }
            if let (Some(to), Some(new)) = (to, new) {
                sets.entry(to).or_default().insert(own_key(&**new));
            }
        });
        Self { cache, sets }
    }

    /// Those the object with this uid controls.
    pub fn controlled_by(&self, uid: &str) -> Vec<Arc<K>> {
        self.all(&Place::Of(uid.to_owned()))
    }

    /// Those the object controls, and those of its namespace that nobody does: the candidates of a claim.
    pub fn candidates(&self, namespace: &str, uid: &str) -> Vec<Arc<K>> {
        let mut all = self.controlled_by(uid);
        all.extend(self.all(&Place::Orphans(namespace.to_owned())));
        all
    }

    fn all(&self, place: &Place) -> Vec<Arc<K>> {
        let sets = self.sets.read();
        sets.get(place).into_iter().flatten().filter_map(|key| self.cache.get(key)).collect()
    }
}

fn place<K: Object>(object: &K) -> Place {
    match controller_of(object.meta()) {
        Some(reference) => Place::Of(reference.uid.clone()),
        None => Place::Orphans(object.meta().namespace.clone().unwrap_or_default()),
    }
}

fn remove(sets: &mut HashMap<Place, BTreeSet<Key>>, place: &Place, key: &Key) {
    if let Some(set) = sets.get_mut(place) {
        set.remove(key);
        if set.is_empty() {
            sets.remove(place);
        }
    }
}
