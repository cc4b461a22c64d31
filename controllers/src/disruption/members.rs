//! Budgets and pods as they change -> the pods of each budget, without a scan per event.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use api::{Key, k8s::api::policy::v1::PodDisruptionBudget, selector::Labels};
use client::{Cache, kube, pods::Pod};
use kube::ResourceExt;
use parking_lot::Mutex;
use reconcile::own_key;

/// Per namespace, per budget's name: whom it selects.
type Sets = HashMap<String, HashMap<String, Members>>;

/// Costs O(budgets of the namespace) per change of a pod, and O(pods of the namespace) per change of a budget's selector.
#[derive(Clone, Default)]
pub struct Memberships {
    sets: Arc<Mutex<Sets>>,
}

struct Members {
    selector: Labels,
    pods: BTreeSet<Key>,
}

impl Memberships {
    pub fn new(budgets: &Cache<PodDisruptionBudget>, pods: &Cache<Pod>) -> Self {
        let this = Self::default();
        let (kept, all) = (this.sets.clone(), pods.clone());
        budgets.on_change(move |old, new| {
            let Some(key) = old.or(new).map(|budget| own_key(&**budget)) else { return };
            let mut sets = kept.lock();
            let of_namespace = sets.entry(key.namespace.clone()).or_default();
            match new.and_then(|budget| selector(budget)) {
                Some(selector) if of_namespace.get(&key.name).is_some_and(|m| m.selector == selector) => {}
                Some(selector) => drop(of_namespace.insert(key.name, Members::new(selector, &all.in_namespace(&key.namespace)))),
                None => drop(of_namespace.remove(&key.name)),
            }
            if of_namespace.is_empty() {
                sets.remove(&key.namespace);
            }
        });
        let kept = this.sets.clone();
        pods.on_change(move |old, new| {
            let Some(key) = old.or(new).map(|pod| own_key(&**pod)) else { return };
            let mut sets = kept.lock();
            for members in sets.get_mut(&key.namespace).into_iter().flat_map(HashMap::values_mut) {
                if new.is_some_and(|pod| members.selector.matches(Some(pod.labels()))) {
                    members.pods.insert(key.clone());
                } else {
                    members.pods.remove(&key);
                }
            }
        });
        this
    }

    /// The pods of a budget; `None` where its selector selects nothing at all.
    pub fn pods(&self, budget: &Key) -> Vec<Key> {
        let sets = self.sets.lock();
        let members = sets.get(&budget.namespace).and_then(|of_namespace| of_namespace.get(&budget.name));
        members.into_iter().flat_map(|m| m.pods.iter().cloned()).collect()
    }

    /// The budgets whose selector matches the pod.
    pub fn budgets(&self, pod: &Pod) -> Vec<Key> {
        let namespace = pod.namespace().unwrap_or_default();
        let sets = self.sets.lock();
        let all = sets.get(&namespace).into_iter().flatten();
        all.filter(|(_, members)| members.selector.matches(Some(pod.labels()))).map(|(name, _)| Key::new(&namespace, name)).collect()
    }
}

impl Members {
    fn new(selector: Labels, pods: &[Arc<Pod>]) -> Self {
        let pods = pods.iter().filter(|pod| selector.matches(Some(pod.labels()))).map(|pod| own_key(&**pod)).collect();
        Self { selector, pods }
    }
}

fn selector(budget: &PodDisruptionBudget) -> Option<Labels> {
    Labels::from_selector(budget.spec.as_ref()?.selector.as_ref()).ok().flatten()
}
