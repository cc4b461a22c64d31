//! Roles and bindings that come and go -> what is bound to whom. Who asks holds a lock only to look subjects up; who writes, to change one scope.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use api::{Key, selector::Labels, steps};
use apiserver::identity::User;
use parking_lot::{Mutex, RwLock};
use serde_json::Value;

use super::{
    super::ruleset::RuleSet,
    bindings::{Binding, Grant, Kind, RoleKey, Scope, Slot},
};
use crate::common::{Read, read, selector};

/// Groups that are looked up under one lock.
const CHUNK: usize = 64;

#[derive(Default)]
pub struct Index {
    cluster: RwLock<Scope>,
    namespaces: RwLock<HashMap<String, Arc<RwLock<Scope>>>>,
    slots: RwLock<HashMap<RoleKey, Held>>,
    /// Held by who writes, and never by who asks.
    ledger: Mutex<Ledger>,
}

/// A slot is kept as long as its role is there, or a binding names it.
struct Held {
    slot: Arc<Slot>,
    bindings: usize,
}

#[derive(Default)]
struct Ledger {
    /// All bindings; those of the cluster have an empty namespace.
    bindings: HashMap<Key, Arc<Binding>>,
    cluster_roles: HashMap<String, ClusterRole>,
    /// The names of those that are aggregated.
    aggregated: BTreeSet<String>,
}

struct ClusterRole {
    labels: Value,
    own: Arc<RuleSet>,
    /// Of an aggregated role: whose rules it is made of.
    selectors: Option<Vec<Labels>>,
    /// Of an aggregated role: what it was last made of.
    parts: Vec<Arc<RuleSet>>,
}

/// Is shown each role that is bound, with its rules if it is there; says whether to go on.
pub type Visitor<'a> = &'a mut dyn FnMut(&Grant, Option<Arc<RuleSet>>) -> bool;

impl Index {
    /// Shows `see` each role that is bound to `user`, once, until it says false.
    pub fn visit(&self, user: &User, namespace: &str, see: Visitor<'_>) {
        let mut seen = Seen::default();
        if !visit_scope(&self.cluster, user, &mut seen, see) || namespace.is_empty() {
            return;
        }
        let scope = self.namespaces.read().get(namespace).cloned();
        if let Some(scope) = scope {
            visit_scope(&scope, user, &mut seen, see);
        }
    }

    pub fn resolve(&self, kind: &str, name: &str, namespace: &str) -> Result<Arc<RuleSet>, String> {
        let key = RoleKey::new(kind, name, namespace);
        let slot = self.slots.read().get(&key).map(|held| held.slot.clone());
        slot.and_then(|slot| slot.rules()).ok_or_else(|| key.missing())
    }

    pub fn put_role(&self, role: &Value) {
        let rules = Arc::new(RuleSet::of_role(role));
        let _ledger = self.ledger.lock();
        self.set(RoleKey::new("Role", read::name(role), read::namespace(role)), Some(rules));
    }

    pub fn remove_role(&self, key: &Key) {
        let _ledger = self.ledger.lock();
        self.set(RoleKey::new("Role", &key.name, &key.namespace), None);
    }

    pub fn put_cluster_role(&self, role: &Value) {
        let (name, new) = (read::name(role).to_owned(), ClusterRole::parse(role));
        let mut ledger = self.ledger.lock();
        if new.selectors.is_none() {
            self.set(RoleKey::new("ClusterRole", &name, ""), Some(new.own.clone()));
        }
        let mut matters = ledger.selects(&new);
        if new.selectors.is_some() {
            ledger.aggregated.insert(name.clone());
        } else {
            ledger.aggregated.remove(&name);
        }
        if let Some(old) = ledger.cluster_roles.insert(name, new) {
            matters |= ledger.selects(&old);
        }
        if matters {
            self.aggregate(&mut ledger);
        }
    }

    pub fn remove_cluster_role(&self, key: &Key) {
        let mut ledger = self.ledger.lock();
        self.set(RoleKey::new("ClusterRole", &key.name, ""), None);
        ledger.aggregated.remove(&key.name);
        if let Some(old) = ledger.cluster_roles.remove(&key.name)
            && ledger.selects(&old)
        {
            self.aggregate(&mut ledger);
        }
    }

    pub fn put_binding(&self, binding: &Value) {
        let binding = Arc::new(Binding::parse(binding));
        let mut ledger = self.ledger.lock();
        let slot = self.slot(&binding.role);
        let old = ledger.bindings.insert(binding.key.clone(), binding.clone());
        self.in_scope(&binding.key.namespace, |scope| {
            if let Some(old) = &old {
                scope.remove(old);
            }
            scope.put(&binding, &slot);
        });
        if let Some(old) = &old {
            self.release(&old.role);
        }
    }

    pub fn remove_binding(&self, key: &Key) {
        let mut ledger = self.ledger.lock();
        let Some(old) = ledger.bindings.remove(key) else { return };
        self.in_scope(&key.namespace, |scope| scope.remove(&old));
        self.release(&old.role);
    }

    /// Changes what is bound in one namespace, or in the cluster. A namespace without bindings has no scope.
    fn in_scope(&self, namespace: &str, change: impl FnOnce(&mut Scope)) {
        if namespace.is_empty() {
            return change(&mut self.cluster.write());
        }
        let scope = self.namespaces.write().entry(namespace.to_owned()).or_default().clone();
        let mut open = scope.write();
        change(&mut open);
        if open.is_empty() {
            self.namespaces.write().remove(namespace);
        }
    }

    /// The slot of a role for one more binding.
    fn slot(&self, role: &RoleKey) -> Arc<Slot> {
        let mut slots = self.slots.write();
        let held = slots.entry(role.clone()).or_insert_with(|| Held::new(role.clone()));
        held.bindings += 1;
        held.slot.clone()
    }

    /// One binding less names the role.
    fn release(&self, role: &RoleKey) {
        let mut slots = self.slots.write();
        if let Some(held) = slots.get_mut(role) {
            held.bindings -= 1;
            if held.bindings == 0 && held.slot.rules().is_none() {
                slots.remove(role);
            }
        }
    }

    fn set(&self, role: RoleKey, rules: Option<Arc<RuleSet>>) {
        let gone = rules.is_none();
        let mut slots = self.slots.write();
        let held = slots.entry(role.clone()).or_insert_with(|| Held::new(role.clone()));
        let (slot, unbound) = (held.slot.clone(), held.bindings == 0);
        if gone && unbound {
            slots.remove(&role);
        }
        drop(slots);
        slot.set(rules);
    }

    /// Gives every aggregated role the rules of those it selects, through any number of steps. There are few of them.
    fn aggregate(&self, ledger: &mut Ledger) {
        for name in ledger.aggregated.clone() {
            let parts = ledger.parts_of(&name);
            let Some(role) = ledger.cluster_roles.get_mut(&name) else { continue };
            let same = role.parts.len() == parts.len() && role.parts.iter().zip(&parts).all(|(a, b)| Arc::ptr_eq(a, b));
            if same && !parts.is_empty() {
                continue;
            }
            let rules = if let [only] = &*parts { only.clone() } else { Arc::new(RuleSet::merged(parts.iter().map(AsRef::as_ref))) };
            role.parts = parts;
            self.set(RoleKey::new("ClusterRole", &name, ""), Some(rules));
        }
    }

    /// Whether anybody may write what is bound in the cluster and in a namespace.
    #[cfg(test)]
    pub fn is_free(&self, namespace: &str) -> bool {
        let scope = self.namespaces.try_write().and_then(|all| all.get(namespace).cloned());
        self.cluster.try_write().is_some() && scope.is_some_and(|scope| scope.try_write().is_some()) && self.slots.try_write().is_some()
    }

    /// Whether nothing is kept of a namespace.
    #[cfg(test)]
    pub fn is_forgotten(&self, namespace: &str) -> bool {
        let bound = self.ledger.lock().bindings.keys().any(|key| key.namespace == namespace);
        let slots = self.slots.read();
        let unused = |(role, held): (&RoleKey, &Held)| role.key.namespace == namespace && held.slot.rules().is_none();
        !bound && !slots.iter().any(unused) && !self.namespaces.read().contains_key(namespace)
    }
}

/// What one question has looked at. It keeps the slots, so that none makes room for another with its address.
#[derive(Default)]
struct Seen {
    slots: BTreeSet<usize>,
    kept: Vec<Arc<Vec<Grant>>>,
}

/// Whether to go on.
fn visit_scope(scope: &RwLock<Scope>, user: &User, seen: &mut Seen, see: Visitor<'_>) -> bool {
    let of_user = std::iter::once((Kind::User, std::slice::from_ref(&user.name)));
    for (kind, names) in of_user.chain(user.groups.chunks(CHUNK).map(|names| (Kind::Group, names))) {
        let Seen { slots, kept } = &mut *seen;
        let known = kept.len();
        // The lock is given back before any role is looked at.
        scope.read().of(kind, names, kept);
        for grant in steps::counted(kept[known..].iter().flat_map(|grants| grants.iter())) {
            let first = slots.insert(Arc::as_ptr(&grant.slot).addr());
            if first && !see(grant, grant.slot.rules()) {
                return false;
            }
        }
    }
    true
}

impl Held {
    fn new(role: RoleKey) -> Self {
        Self { slot: Arc::new(Slot::new(role)), bindings: 0 }
    }
}

impl ClusterRole {
    fn parse(role: &Value) -> Self {
        let selectors = role.at("aggregationRule").map(|rule| {
            let selectors = rule.list("clusterRoleSelectors").iter();
            selectors.filter_map(|s| selector::parse(Some(s)).ok().flatten()).collect()
        });
        let labels = role.at("metadata").at("labels").cloned().unwrap_or(Value::Null);
        Self { labels, own: Arc::new(RuleSet::of_role(role)), selectors, parts: Vec::new() }
    }

    fn selects(&self, other: &Self) -> bool {
        let matches = |selector: &Labels| selector.matches_with(|key| other.labels.get(key).and_then(Value::as_str));
        self.selectors.iter().flatten().any(matches)
    }
}

impl Ledger {
    /// Whether any aggregated role is made of this one, or is it.
    fn selects(&self, role: &ClusterRole) -> bool {
        let mut aggregated = self.aggregated.iter().filter_map(|name| self.cluster_roles.get(name));
        role.selectors.is_some() || aggregated.any(|other| other.selects(role))
    }

    /// The rules that `name` is made of, by the names of their roles.
    fn parts_of(&self, name: &str) -> Vec<Arc<RuleSet>> {
        let (mut reached, mut parts) = (BTreeSet::from([name]), BTreeMap::new());
        let mut next = vec![name];
        while let Some((name, role)) = next.pop().and_then(|name| self.cluster_roles.get_key_value(name)) {
            if role.selectors.is_none() {
                parts.insert(name, role.own.clone());
                continue;
            }
            let selected = self.cluster_roles.iter().filter(|(_, other)| role.selects(other));
            next.extend(selected.map(|(other, _)| other.as_str()).filter(|other| reached.insert(other)));
        }
        parts.into_values().collect()
    }
}
