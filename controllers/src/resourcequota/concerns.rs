//! Quotas -> which of them a change concerns, however much each of them lists.

use std::collections::{HashMap, HashSet};

use api::{Key, k8s::api::core::v1::ResourceQuota};
use parking_lot::Mutex;
use reconcile::own_key;

use super::{counts::count_name, ledger::Of};
use crate::{catalog::Collection, census};

/// By namespace, by name.
#[derive(Default)]
pub struct Concerns(Mutex<HashMap<String, HashMap<String, Limits>>>);

/// What a quota limits.
struct Limits {
    /// Of [`Of::ALL`].
    sums: [bool; 3],
    /// As [`census::name`] has them.
    counts: HashSet<String>,
}

impl Concerns {
    pub fn put(&self, quota: &ResourceQuota) {
        let names = || quota.spec.iter().flat_map(|spec| &spec.hard).flat_map(|hard| hard.keys());
        let limits = Limits {
            sums: Of::ALL.map(|of| {
                let evaluator = of.evaluator();
                names().any(|name| evaluator.counts(name))
            }),
            counts: names().filter_map(|name| count_name(name)).collect(),
        };
        let key = own_key(quota);
        self.0.lock().entry(key.namespace).or_default().insert(key.name, limits);
    }

    pub fn remove(&self, key: &Key) {
        let mut all = self.0.lock();
        let Some(of_namespace) = all.get_mut(&key.namespace) else { return };
        of_namespace.remove(&key.name);
        if of_namespace.is_empty() {
            all.remove(&key.namespace);
        }
    }

    /// Whether there is any.
    pub fn has(&self, namespace: &str) -> bool {
        self.0.lock().contains_key(namespace)
    }

    /// Those that are about sums over these.
    pub fn about(&self, of: Of, namespace: &str) -> Vec<Key> {
        let all = self.0.lock();
        let concerned = all.get(namespace).into_iter().flatten().filter(|(_, limits)| limits.sums[of as usize]);
        concerned.map(|(name, _)| Key::new(namespace, name)).collect()
    }

    /// Those that are about the number of its objects in a namespace, or in any.
    pub fn counting(&self, collection: &Collection, namespace: Option<&str>) -> Vec<Key> {
        let all = self.0.lock();
        let found: Vec<_> = match namespace {
            Some(namespace) => all.get_key_value(namespace).into_iter().collect(),
            None => all.iter().collect(),
        };
        if found.is_empty() {
            return Vec::new();
        }
        let count = census::name(&collection.group, &collection.plural);
        let of_namespace = |(namespace, quotas): (&String, &HashMap<String, Limits>)| {
            let concerned = quotas.iter().filter(|(_, limits)| limits.counts.contains(&count));
            concerned.map(|(name, _)| Key::new(namespace, name)).collect::<Vec<_>>()
        };
        found.into_iter().flat_map(of_namespace).collect()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn changes_concern_those_that_limit_them() {
        let concerns = Concerns::default();
        let quota = |namespace: &str, name: &str, hard: &[&str]| {
            let hard: HashMap<&str, &str> = hard.iter().map(|name| (*name, "1")).collect();
            let quota = json!({"metadata": {"namespace": namespace, "name": name}, "spec": {"hard": hard}});
            concerns.put(&serde_json::from_value(quota).unwrap());
            Key::new(namespace, name)
        };
        let (pods, secrets) = (quota("a", "pods", &["requests.cpu", "count/secrets"]), quota("a", "secrets", &["secrets"]));
        let other = quota("b", "other", &["count/secrets", "services"]);
        let collection = Collection { plural: "secrets".into(), ..Collection::default() };
        let sorted = |mut keys: Vec<Key>| {
            keys.sort();
            keys
        };
        assert_eq!(concerns.about(Of::Pods, "a"), std::slice::from_ref(&pods));
        assert!(concerns.about(Of::Services, "a").is_empty() && concerns.about(Of::Pods, "c").is_empty());
        assert_eq!(sorted(concerns.counting(&collection, Some("a"))), [pods.clone(), secrets.clone()]);
        assert_eq!(sorted(concerns.counting(&collection, None)), [pods.clone(), secrets.clone(), other]);
        quota("a", "pods", &["pods"]);
        concerns.remove(&secrets);
        assert!(concerns.counting(&collection, Some("a")).is_empty());
        concerns.remove(&pods);
        assert!(!concerns.has("a") && concerns.has("b"));
    }
}
