//! Objects -> found by what they point at, without a scan.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    hash::{Hash, Hasher},
    sync::Arc,
};

use api::{Key, steps};
use client::{Cache, Object, pods::Pod};
use parking_lot::RwLock;

/// The objects of one collection by place: each object says at which places it is to be found. Cloning shares it.
pub struct Index<K, P> {
    sets: Arc<RwLock<Sets<K, P>>>,
}

impl<K, P> Clone for Index<K, P> {
    fn clone(&self) -> Self {
        Self { sets: self.sets.clone() }
    }
}

/// The objects themselves, in no order: one of a hundred thousand comes and goes without being compared with its neighbours.
type Sets<K, P> = HashMap<P, HashSet<Named<K>>>;

/// Found by its namespace and name: a key beside it would take ten times its room.
struct Named<K>(Arc<K>);

impl<K: Object, P: Eq + Hash + Clone + Send + Sync + 'static> Index<K, P> {
    pub fn new(cache: &Cache<K>, places: fn(&K) -> Vec<P>) -> Self {
        let sets: Arc<RwLock<Sets<K, P>>> = Arc::default();
        let kept = sets.clone();
        cache.on_change(move |old, new| change(&mut kept.write(), places, old, new));
        Self { sets }
    }

    /// In the order of their names.
    pub fn at(&self, place: &P) -> Vec<Arc<K>> {
        let mut all: Vec<Arc<K>> = steps::counted(self.sets.read().get(place).into_iter().flatten()).map(|named| named.0.clone()).collect();
        all.sort_unstable_by(|a, b| name(a).cmp(&name(b)));
        all
    }

    pub fn count(&self, place: &P) -> usize {
        self.sets.read().get(place).map_or(0, HashSet::len)
    }
}

fn name<K: Object>(object: &Arc<K>) -> (&str, &str) {
    object.object_meta().full_name()
}

impl<K: Object> Hash for Named<K> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        name(&self.0).hash(state);
    }
}

impl<K: Object> PartialEq for Named<K> {
    fn eq(&self, other: &Self) -> bool {
        name(&self.0) == name(&other.0)
    }
}

impl<K: Object> Eq for Named<K> {}

/// Who controls an object; those without a controller by namespace.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Place {
    /// In a namespace, by uid: who controls what in another one controls nothing.
    Of(String, String),
    Orphans(String),
}

pub type ByController<K> = Index<K, Place>;

pub fn by_controller<K: Object>(cache: &Cache<K>) -> ByController<K> {
    Index::new(cache, |object| {
        let meta = object.object_meta();
        let namespace = meta.namespace.to_owned();
        vec![match meta.controller() {
            Some(reference) => Place::Of(namespace, reference.uid.clone()),
            None => Place::Orphans(namespace),
        }]
    })
}

impl<K: Object> ByController<K> {
    /// Those the object controls, and those of its namespace that nobody does: the candidates of a claim.
    pub fn candidates(&self, namespace: &str, uid: &str) -> Vec<Arc<K>> {
        let mut all = self.at(&Place::Of(namespace.to_owned(), uid.to_owned()));
        all.extend(self.at(&Place::Orphans(namespace.to_owned())));
        all
    }
}

/// Namespace, label key, label value.
pub type Label = (String, String, String);
pub type ByLabel<K> = Index<K, Label>;

pub fn by_label<K: Object>(cache: &Cache<K>) -> ByLabel<K> {
    Index::new(cache, |object| {
        let meta = object.object_meta();
        meta.labels.into_iter().flatten().map(|(k, v)| (meta.namespace.to_owned(), k.clone(), v.clone())).collect()
    })
}

impl<K: Object> ByLabel<K> {
    /// Those of the namespace that have all of the labels; none where none are asked for.
    pub fn having(&self, namespace: &str, labels: &BTreeMap<String, String>) -> Vec<Arc<K>> {
        let places = labels.iter().map(|(k, v)| (namespace.to_owned(), k.clone(), v.clone()));
        let Some(rarest) = places.min_by_key(|place| self.count(place)) else { return Vec::new() };
        let has_all = |o: &Arc<K>| labels.iter().all(|(k, v)| o.object_meta().labels.and_then(|l| l.get(k)) == Some(v));
        self.at(&rarest).into_iter().filter(has_all).collect()
    }
}

/// Pods by the node they are bound to; unbound ones at the empty name.
pub type ByNode = Index<Pod, String>;

pub fn by_node(cache: &Cache<Pod>) -> ByNode {
    Index::new(cache, |pod| vec![pod.spec.as_ref().and_then(|s| s.node_name.clone()).unwrap_or_default()])
}

/// Pods by the claims that their volumes may be.
pub type ByClaim = Index<Pod, Key>;

pub fn by_claim(cache: &Cache<Pod>) -> ByClaim {
    Index::new(cache, claims_of)
}

/// Those that a pod's volumes name, and those that are made for it.
pub fn claims_of(pod: &Pod) -> Vec<Key> {
    let meta = pod.object_meta();
    let volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    volumes.filter_map(|volume| volume.claim(meta.name)).map(|(name, _)| Key::new(meta.namespace, &name)).collect()
}

fn change<K: Object, P: Eq + Hash>(sets: &mut Sets<K, P>, places: fn(&K) -> Vec<P>, old: Option<&Arc<K>>, new: Option<&Arc<K>>) {
    let to = new.map_or_else(Vec::new, |new| places(new));
    if let Some(old) = old {
        places(old).iter().filter(|place| !to.contains(place)).for_each(|place| forget(sets, place, old));
    }
    let Some(new) = new else { return };
    for place in to {
        sets.entry(place).or_default().replace(Named(new.clone()));
    }
}

fn forget<K: Object, P: Eq + Hash>(sets: &mut Sets<K, P>, place: &P, object: &Arc<K>) {
    if let Some(set) = sets.get_mut(place) {
        set.remove(&Named(object.clone()));
        if set.is_empty() {
            sets.remove(place);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(name: &str, node: &str, version: &str) -> Arc<Pod> {
        let metadata = serde_json::json!({"name": name, "namespace": "d", "resourceVersion": version});
        Arc::new(serde_json::from_value(serde_json::json!({"metadata": metadata, "spec": {"nodeName": node}})).unwrap())
    }

    fn node(pod: &Pod) -> Vec<String> {
        pod.spec.iter().filter_map(|s| s.node_name.clone()).collect()
    }

    fn at(sets: &Sets<Pod, String>, place: &str) -> Vec<String> {
        let version =
            |p: &Named<Pod>| format!("{}@{}", p.0.metadata.name.as_deref().unwrap(), p.0.metadata.resource_version.as_deref().unwrap());
        let mut all: Vec<String> = sets.get(place).into_iter().flatten().map(version).collect();
        all.sort_unstable();
        all
    }

    #[test]
    fn the_newest_of_each_name_stands_at_its_places_alone() {
        let mut sets = Sets::default();
        let (first, second, moved) = (pod("a", "n", "1"), pod("a", "n", "2"), pod("a", "m", "3"));
        change(&mut sets, node, None, Some(&first));
        change(&mut sets, node, None, Some(&pod("b", "n", "1")));
        change(&mut sets, node, Some(&first), Some(&second));
        assert_eq!(at(&sets, "n"), ["a@2", "b@1"]);
        change(&mut sets, node, Some(&second), Some(&moved));
        assert_eq!((at(&sets, "n"), at(&sets, "m")), (vec!["b@1".to_owned()], vec!["a@3".to_owned()]));
        change(&mut sets, node, Some(&moved), None);
        assert_eq!(sets.keys().collect::<Vec<_>>(), ["n"], "nothing is left of a place without objects");
    }
}
