//! Objects -> who controls them, so that an owner finds its own without a scan.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    hash::Hash,
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
                forget(&mut sets, &from, &own_key(&**old));
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

/// The objects of one collection by each of their labels: a selector starts from the pair with the fewest.
pub struct ByLabel<K> {
    cache: Cache<K>,
    sets: Arc<RwLock<HashMap<Pair, BTreeSet<Key>>>>,
}

/// Namespace, label key, label value.
type Pair = (String, String, String);

impl<K: Object> ByLabel<K> {
    pub fn new(cache: Cache<K>) -> Self {
        let sets: Arc<RwLock<HashMap<Pair, BTreeSet<Key>>>> = Arc::default();
        let kept = sets.clone();
        cache.on_change(move |old, new| {
            let labels = |o: Option<&Arc<K>>| o.and_then(|o| o.meta().labels.clone());
            if old.is_some() && new.is_some() && labels(old) == labels(new) {
                return;
            }
            let mut sets = kept.write();
            old.into_iter().for_each(|o| pairs(&**o).for_each(|pair| forget(&mut sets, &pair, &own_key(&**o))));
            for object in new {
                for pair in pairs(&**object) {
                    sets.entry(pair).or_default().insert(own_key(&**object));
                }
            }
        });
        Self { cache, sets }
    }

    /// Those of the namespace that have all of the labels; none where none are asked for.
    pub fn having(&self, namespace: &str, labels: &BTreeMap<String, String>) -> Vec<Arc<K>> {
        let sets = self.sets.read();
        let of = |(k, v): (&String, &String)| sets.get(&(namespace.to_owned(), k.clone(), v.clone())).map(|set| (set.len(), set));
        let Some(smallest) = labels.iter().map(of).collect::<Option<Vec<_>>>().and_then(|all| all.into_iter().min_by_key(|(n, _)| *n))
        else {
            return Vec::new();
        };
        let has_all = |o: &Arc<K>| labels.iter().all(|(k, v)| o.meta().labels.as_ref().and_then(|l| l.get(k)) == Some(v));
        smallest.1.iter().filter_map(|key| self.cache.get(key)).filter(has_all).collect()
    }
}

fn pairs<K: Object>(object: &K) -> impl Iterator<Item = Pair> {
    let namespace = object.meta().namespace.clone().unwrap_or_default();
    object.meta().labels.iter().flatten().map(move |(k, v)| (namespace.clone(), k.clone(), v.clone()))
}

fn forget<P: Eq + Hash>(sets: &mut HashMap<P, BTreeSet<Key>>, place: &P, key: &Key) {
    if let Some(set) = sets.get_mut(place) {
        set.remove(key);
        if set.is_empty() {
            sets.remove(place);
        }
    }
}
