//! PodDisruptionBudgets as they change -> whose eviction would break one. Source: `filterPodsWithPDBViolation` in `plugins/defaultpreemption`.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use api::{Key, k8s::api::policy::v1::PodDisruptionBudget, selector::Labels};

use crate::{pod::PodInfo, terms::selector};

/// All there are.
#[derive(Debug, Default)]
pub struct Budgets {
    /// Per namespace, per name.
    all: HashMap<String, HashMap<String, Budget>>,
    /// How often one changed.
    pub version: u64,
}

#[derive(Debug)]
struct Budget {
    selector: Labels,
    allowed: i32,
    /// Pods that the API server has let go already.
    disrupted: HashSet<String>,
}

impl Budgets {
    pub fn set(&mut self, key: &Key, budget: Option<&PodDisruptionBudget>) {
        self.version += 1;
        let Some(budget) = budget.and_then(Budget::new) else {
            if let Some(others) = self.all.get_mut(&key.namespace) {
                others.remove(&key.name);
                if others.is_empty() {
                    self.all.remove(&key.namespace);
                }
            }
            return;
        };
        self.all.entry(key.namespace.clone()).or_default().insert(key.name.clone(), budget);
    }

    /// Those whose eviction would break a budget, if they go in this order, and the rest.
    pub fn split(&self, pods: Vec<Arc<PodInfo>>) -> (Vec<Arc<PodInfo>>, Vec<Arc<PodInfo>>) {
        if self.all.is_empty() {
            return (Vec::new(), pods);
        }
        let mut taken: HashMap<(&str, &str), i32> = HashMap::new();
        pods.into_iter().partition(|pod| {
            let mut breaks = false;
            for (place, budget) in self.of(pod) {
                let taken = taken.entry(place).or_insert(0);
                *taken += 1;
                breaks |= *taken > budget.allowed;
            }
            breaks
        })
    }

    fn of<'a, 'p>(&'a self, pod: &'p PodInfo) -> impl Iterator<Item = ((&'a str, &'a str), &'a Budget)> + use<'a, 'p> {
        let budgets = self.all.get_key_value(&pod.key.namespace).into_iter();
        let placed =
            budgets.flat_map(|(namespace, all)| all.iter().map(move |(name, budget)| ((namespace.as_str(), name.as_str()), budget)));
        placed.filter(|(_, budget)| budget.selector.matches(pod.labels()) && !budget.disrupted.contains(&pod.key.name))
    }
}

impl Budget {
    /// `None` for one that guards nobody. An empty selector guards nobody here, other than in evictions: so it is upstream.
    fn new(budget: &PodDisruptionBudget) -> Option<Self> {
        let selector = selector(budget.spec.as_ref().and_then(|s| s.selector.as_ref())).filter(|s| !s.is_empty())?;
        let status = budget.status.as_ref();
        let disrupted = status.and_then(|s| s.disrupted_pods.as_ref()).into_iter().flat_map(|map| map.keys().cloned()).collect();
        Some(Self { selector, allowed: status.and_then(|s| s.disruptions_allowed).unwrap_or(0), disrupted })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::pod;
    use serde_json::json;

    #[test]
    fn each_budget_bears_what_it_allows() {
        let budget = |allowed: i32| -> PodDisruptionBudget {
            let status = json!({"disruptionsAllowed": allowed, "disruptedPods": {"gone": "2026-01-01T00:00:00Z"}});
            serde_json::from_value(json!({"spec": {"selector": {"matchLabels": {"app": "db"}}}, "status": status})).unwrap()
        };
        let named = |name: &str, app: &str| Arc::new(pod(&json!({"metadata": {"name": name, "labels": {"app": app}}})));
        let pods = || vec![named("a", "db"), named("b", "db"), named("c", "web"), named("gone", "db")];
        let names = |pods: Vec<Arc<PodInfo>>| pods.iter().map(|p| p.key.name.clone()).collect::<Vec<_>>();
        let mut budgets = Budgets::default();
        assert_eq!(names(budgets.split(pods()).0), Vec::<String>::new());
        let key = Key::new("default", "guard");
        for (allowed, breaking) in [(0, vec!["a", "b"]), (1, vec!["b"]), (2, vec![])] {
            budgets.set(&key, Some(&budget(allowed)));
            assert_eq!(names(budgets.split(pods()).0), breaking, "{allowed}");
        }
        budgets.set(&key, None);
        assert!(budgets.all.is_empty());
    }
}
