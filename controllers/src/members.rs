//! Owners that select pods, and pods as they change -> the pods of each owner, without a scan per event.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use api::{Key, selector::Labels, steps};
use client::{Cache, Object, pods::Pod};
use parking_lot::RwLock;
use reconcile::{own_key, selectors::Selectors};

/// A change of a pod costs O(its labels and the owners that select it); a change of a selector O(pods of the namespace).
#[derive(Clone, Default)]
pub struct Members {
    index: Arc<RwLock<Index>>,
}

#[derive(Default)]
struct Index {
    selectors: Selectors,
    /// By owner, by the pod's name.
    pods: HashMap<Key, BTreeMap<String, Arc<Pod>>>,
}

impl Members {
    pub fn new<K: Object>(owners: &Cache<K>, pods: &Cache<Pod>, selector: fn(&K) -> Option<Labels>) -> Self {
        let this = Self::default();
        let (index, all) = (this.index.clone(), pods.clone());
        owners.on_change(move |old, new| {
            let Some(key) = old.or(new).map(|owner| own_key(&**owner)) else { return };
            let selector = new.and_then(|owner| selector(owner));
            let mut index = index.write();
            if index.selectors.get(&key) != selector.as_ref() {
                index.select(&key, selector, &all);
            }
        });
        let index = this.index.clone();
        pods.on_change(move |old, new| index.write().change(old, new));
        this
    }

    /// The pods of the owner, in the order of their names.
    pub fn pods(&self, owner: &Key) -> Vec<Arc<Pod>> {
        steps::counted(self.index.read().pods.get(owner).into_iter().flat_map(BTreeMap::values)).cloned().collect()
    }

    /// Calls `each` with those whose selector matches the pod.
    pub fn owners(&self, pod: &Pod, each: &mut dyn FnMut(Key)) {
        let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
        let index = self.index.read();
        index.selectors.matching(namespace, pod.labels()).for_each(|name| each(Key::new(namespace, name)));
    }
}

impl Index {
    fn select(&mut self, owner: &Key, selector: Option<Labels>, all: &Cache<Pod>) {
        let chosen = selector.as_ref().map(|selector| {
            let pods = all.in_namespace(&owner.namespace).into_iter();
            pods.filter(|pod| selector.matches(Some(pod.labels()))).map(|pod| (pod.name_any(), pod)).collect()
        });
        match chosen {
            Some(chosen) => drop(self.pods.insert(owner.clone(), chosen)),
            None => drop(self.pods.remove(owner)),
        }
        self.selectors.set(owner, selector);
    }

    fn change(&mut self, old: Option<&Arc<Pod>>, new: Option<&Arc<Pod>>) {
        let Self { selectors, pods } = self;
        if let Some(old) = old.filter(|old| new.is_none_or(|new| new.labels() != old.labels())) {
            each_match(selectors, old, |owner| {
                if let Some(members) = pods.get_mut(&owner) {
                    members.remove(old.metadata.name.as_deref().unwrap_or_default());
                }
            });
        }
        let Some(new) = new else { return };
        each_match(selectors, new, |owner| drop(pods.entry(owner).or_default().insert(new.name_any(), new.clone())));
    }
}

fn each_match(selectors: &Selectors, pod: &Pod, mut each: impl FnMut(Key)) {
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    selectors.matching(namespace, pod.labels()).for_each(|name| each(Key::new(namespace, name)));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(name: &str, app: &str) -> Arc<Pod> {
        let labels = serde_json::json!({"app": app});
        Arc::new(serde_json::from_value(serde_json::json!({"metadata": {"name": name, "namespace": "d", "labels": labels}})).unwrap())
    }

    #[test]
    fn pods_follow_their_labels() {
        let mut index = Index::default();
        for app in ["web", "db"] {
            index.selectors.set(&Key::new("d", app), Some(Labels::parse(&format!("app={app}")).unwrap()));
        }
        let names = |index: &Index, owner: &str| -> Vec<String> {
            index.pods.get(&Key::new("d", owner)).into_iter().flat_map(BTreeMap::keys).cloned().collect()
        };
        let (web, db) = (pod("a", "web"), pod("a", "db"));
        index.change(None, Some(&web));
        index.change(None, Some(&pod("b", "web")));
        index.change(Some(&web), Some(&db));
        assert_eq!((names(&index, "web"), names(&index, "db")), (vec!["b".to_owned()], vec!["a".to_owned()]));
        index.change(Some(&db), None);
        assert!(names(&index, "db").is_empty());
    }
}
