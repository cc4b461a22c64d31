//! Roles and bindings, as they change -> may this user do that: answered from an index by subject, never by a scan.
//!
//! A question costs a few steps for each distinct role that is bound to the user, however many bindings there are and however many rules a role has.
//!
//! Source: `plugin/pkg/auth/authorizer/rbac/rbac.go`, `pkg/registry/rbac/validation/rule.go`.

use std::sync::Arc;

use api::{GroupResource, Key};
use apiserver::{
    engine::{Change, Engine},
    identity::{Attributes, Authorizer, Decision, Rules, User},
    union::aggregated,
};
use serde_json::{Value, json};

use super::{rules::Rule, ruleset::RuleSet};

mod bindings;
mod index;

use index::Index;

pub const GROUP: &str = "rbac.authorization.k8s.io";

/// Roles that are bound and not there: so many are told.
const ERRORS_MAX: usize = 100;
/// What a list of a user's rules may take in memory, reckoned with [`RULE_BYTES`] and [`WORD_BYTES`]; it is incomplete beyond.
const RULES_BYTES_MAX: usize = 2 << 20;
const RULE_BYTES: usize = 512;
const WORD_BYTES: usize = 96;

/// The RBAC authorizer.
#[derive(Default)]
pub struct Rbac {
    index: Arc<Index>,
}

impl Rbac {
    /// What holds for `user` in `namespace` (empty: the cluster), each role once, and what could not be resolved.
    pub fn rules_for(&self, user: &User, namespace: &str) -> (Vec<Arc<RuleSet>>, Vec<String>) {
        let (mut sets, mut errors) = (Vec::new(), Vec::new());
        self.index.visit(user, namespace, &mut |grant, rules| {
            match rules {
                Some(rules) => sets.push(rules),
                None => note(grant.missing(), &mut errors),
            }
            true
        });
        (sets, errors)
    }

    /// The rules a role reference stands for; the error is upstream's.
    pub fn role_rules(&self, kind: &str, name: &str, namespace: &str) -> Result<Arc<RuleSet>, String> {
        self.index.resolve(kind, name, namespace)
    }
}

impl Authorizer for Rbac {
    fn authorize(&self, attributes: &Attributes<'_>) -> Decision {
        let (mut allowed, mut errors) = (None, Vec::new());
        self.index.visit(attributes.user, attributes.namespace, &mut |grant, rules| {
            match rules {
                Some(rules) if rules.allows(attributes) => allowed = Some(format!("RBAC: allowed by {grant}")),
                Some(_) => {}
                None => note(grant.missing(), &mut errors),
            }
            allowed.is_none()
        });
        match allowed {
            Some(reason) => Decision::Allow(reason),
            None if errors.is_empty() => Decision::NoOpinion(String::new()),
            None => Decision::NoOpinion(format!("RBAC: {}", aggregated(errors))),
        }
    }

    fn rules(&self, user: &User, namespace: &str) -> Rules {
        let (sets, mut errors) = self.rules_for(user, namespace);
        let (mut rules, mut left) = (Rules::default(), RULES_BYTES_MAX);
        for (set, rule) in sets.iter().flat_map(|set| (0..set.len() as u32).map(move |rule| (set, rule))) {
            api::steps::took(1);
            let (words, bytes) = set.size(rule);
            let Some(rest) = left.checked_sub(RULE_BYTES + words * WORD_BYTES + bytes) else {
                rules.incomplete = true;
                errors.push("the rules are too many to be listed".to_owned());
                break;
            };
            left = rest;
            list(set.rule(rule), &mut rules);
        }
        rules.error = aggregated(errors);
        rules
    }

    fn start(&self, engine: &Arc<Engine>) {
        for (resource, put, remove) in WATCHED {
            let index = self.index.clone();
            let on = move |change: &Change| match (&change.new, &change.old) {
                (Some(new), _) => put(&index, &new.value()),
                (None, Some(old)) => remove(&index, &old.key),
                (None, None) => {}
            };
            engine.on_change(&GroupResource::new(GROUP, resource), Arc::new(on));
        }
    }
}

type Put = fn(&Index, &Value);
type Remove = fn(&Index, &Key);

/// The resources the index is made of.
const WATCHED: [(&str, Put, Remove); 4] = [
    ("roles", Index::put_role, Index::remove_role),
    ("clusterroles", Index::put_cluster_role, Index::remove_cluster_role),
    ("rolebindings", Index::put_binding, Index::remove_binding),
    ("clusterrolebindings", Index::put_binding, Index::remove_binding),
];

fn list(rule: Rule, rules: &mut Rules) {
    if !rule.urls.is_empty() {
        rules.non_resource.push(json!({"verbs": rule.verbs, "nonResourceURLs": rule.urls}));
    }
    if !rule.resources.is_empty() {
        rules.resource.push(Rule { urls: Vec::new(), ..rule }.json());
    }
}

fn note(error: String, errors: &mut Vec<String>) {
    if errors.len() < ERRORS_MAX {
        errors.push(error);
    }
}

#[cfg(test)]
mod scale;
#[cfg(test)]
mod tests;
