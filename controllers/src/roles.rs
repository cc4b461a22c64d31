//! ClusterRoles that a rule of aggregation selects -> the rules of the role that has it. Source: `pkg/controller/clusterroleaggregation`.

use std::sync::Arc;

use api::{
    Key,
    k8s::api::rbac::v1::{ClusterRole, PolicyRule},
    selector::Labels,
};
use client::{Cache, Caches, kube};
use kube::ResourceExt;
use reconcile::{Action, Controller, Plan, Wake, own_key};
use serde_json::json;

pub struct Roles {
    roles: Cache<ClusterRole>,
}

pub struct World {
    role: Arc<ClusterRole>,
    /// All roles of the cluster, by name.
    all: Vec<Arc<ClusterRole>>,
}

impl Roles {
    pub fn new(caches: &Caches) -> Self {
        Self { roles: caches.of() }
    }
}

impl Controller for Roles {
    type World = World;

    fn name(&self) -> &'static str {
        "clusterrole-aggregation-controller"
    }

    /// A role wakes itself and those that take its rules, before and after a change.
    fn watches(&self, wake: &Wake) {
        let roles = self.roles.clone();
        wake.on(&self.roles, move |role, wake| {
            if role.aggregation_rule.is_some() {
                wake(own_key(role));
            }
            roles.list().iter().filter(|other| takes(other, role)).for_each(|other| wake(own_key(&**other)));
        });
    }

    async fn observe(&self, key: &Key) -> Option<World> {
        let role = self.roles.get(key).filter(|role| role.aggregation_rule.is_some())?;
        Some(World { role, all: self.roles.list() })
    }

    fn plan(&self, world: &World, _: &Key) -> Plan {
        let rules = rules(&world.role, &world.all);
        if world.role.rules.as_deref().unwrap_or_default() == rules {
            return Plan::rest();
        }
        let metadata = json!({"resourceVersion": world.role.resource_version()});
        Plan::act(vec![Action::patch(&*world.role, json!({"metadata": metadata, "rules": rules}))])
    }
}

/// The rules of all that the selectors select, in the order of selectors and names, each once.
fn rules(role: &ClusterRole, all: &[Arc<ClusterRole>]) -> Vec<PolicyRule> {
    let mut rules: Vec<PolicyRule> = Vec::new();
    for selector in selectors(role) {
        let selected = all.iter().filter(|other| other.name_any() != role.name_any() && selector.matches(Some(other.labels())));
        for rule in selected.flat_map(|other| other.rules.iter().flatten()) {
            if !rules.contains(rule) {
                rules.push(rule.clone());
            }
        }
    }
    rules
}

fn takes(role: &ClusterRole, other: &ClusterRole) -> bool {
    role.name_any() != other.name_any() && selectors(role).any(|selector| selector.matches(Some(other.labels())))
}

fn selectors(role: &ClusterRole) -> impl Iterator<Item = Labels> {
    let all = role.aggregation_rule.iter().flat_map(|rule| rule.cluster_role_selectors.iter().flatten());
    all.filter_map(|selector| Labels::from_selector(Some(selector)).ok().flatten())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn role(name: &str, label: &str, resources: &[&str]) -> Arc<ClusterRole> {
        let rule = |resource: &&str| json!({"verbs": ["get"], "apiGroups": [""], "resources": [resource]});
        let rules: Vec<_> = resources.iter().map(rule).collect();
        Arc::new(serde_json::from_value(json!({"metadata": {"name": name, "labels": {"to": label}}, "rules": rules})).unwrap())
    }

    #[test]
    fn rules_are_gathered_once_each() {
        let mut sum = (*role("sum", "x", &["old"])).clone();
        sum.aggregation_rule =
            serde_json::from_value(json!({"clusterRoleSelectors": [{"matchLabels": {"to": "x"}}, {"matchLabels": {"to": "y"}}]})).unwrap();
        let sum = Arc::new(sum);
        let all = vec![role("a", "y", &["pods", "nodes"]), role("b", "x", &["pods"]), role("c", "z", &["secrets"]), sum.clone()];
        let names: Vec<String> = rules(&sum, &all).iter().map(|r| r.resources.as_ref().unwrap().join(",")).collect();
        assert_eq!(names, ["pods", "nodes"], "of b, then what a adds; its own old rules are no source");
        assert!(takes(&sum, &all[0]) && !takes(&sum, &all[2]) && !takes(&all[0], &sum));
    }
}
