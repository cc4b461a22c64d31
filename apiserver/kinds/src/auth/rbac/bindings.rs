//! Bindings -> by subject, the roles that are bound to it: each once, with one binding that says so.

use std::{cmp::Ordering, collections::HashMap, fmt, sync::Arc};

use api::Key;
use parking_lot::RwLock;
use serde_json::Value;

use super::{super::ruleset::RuleSet, GROUP};
use crate::common::{Read, read};

/// A role as bindings name it: of the namespace, or of the cluster.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RoleKey {
    pub kind: String,
    pub key: Key,
}

/// The place of a role, whether it is there or not. All who are bound to it share it.
pub struct Slot {
    pub key: RoleKey,
    rules: RwLock<Option<Arc<RuleSet>>>,
}

/// Bindings of one namespace, or of the cluster, by whom they speak of. Service accounts are users by their long name.
#[derive(Default)]
pub struct Scope {
    users: HashMap<String, Granted>,
    groups: HashMap<String, Granted>,
}

/// What one subject has, by role. Who asks takes the list away and looks at it without a lock.
#[derive(Default)]
struct Granted {
    grants: Arc<Vec<Grant>>,
    /// Of each grant, all bindings that give it, by name.
    sources: Vec<Vec<Source>>,
}

/// A role that is bound to a subject.
#[derive(Clone)]
pub struct Grant {
    pub slot: Arc<Slot>,
    source: Source,
}

/// A binding, and which of its subjects is meant.
#[derive(Clone)]
struct Source {
    binding: Arc<Binding>,
    subject: usize,
}

pub struct Binding {
    pub key: Key,
    pub role: RoleKey,
    subjects: Vec<Subject>,
}

struct Subject {
    kind: Kind,
    /// A service account's is the user's name.
    name: String,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    User,
    Group,
    ServiceAccount,
}

const ACCOUNT: &str = "system:serviceaccount:";

impl RoleKey {
    /// What a reference in a binding of `namespace` means: roles of the cluster have none.
    pub fn new(kind: &str, name: &str, namespace: &str) -> Self {
        Self { kind: kind.to_owned(), key: Key::new(if kind == "ClusterRole" { "" } else { namespace }, name) }
    }

    /// Why it cannot be had.
    pub fn missing(&self) -> String {
        match self.kind.as_str() {
            "Role" | "ClusterRole" => format!("{}.{GROUP} {:?} not found", self.kind.to_lowercase(), self.key.name),
            other => format!("unsupported role reference kind: {other:?}"),
        }
    }
}

impl Slot {
    pub fn new(key: RoleKey) -> Self {
        Self { key, rules: RwLock::default() }
    }

    pub fn rules(&self) -> Option<Arc<RuleSet>> {
        self.rules.read().clone()
    }

    /// What was there is dropped when the lock is given back: that may take a while.
    pub fn set(&self, rules: Option<Arc<RuleSet>>) {
        let old = std::mem::replace(&mut *self.rules.write(), rules);
        drop(old);
    }
}

impl Scope {
    /// Adds what each of `names` has.
    pub fn of(&self, kind: Kind, names: &[String], found: &mut Vec<Arc<Vec<Grant>>>) {
        let map = if kind == Kind::Group { &self.groups } else { &self.users };
        found.extend(names.iter().filter_map(|name| map.get(name)).map(|granted| granted.grants.clone()));
    }

    pub fn is_empty(&self) -> bool {
        self.users.is_empty() && self.groups.is_empty()
    }

    pub fn put(&mut self, binding: &Arc<Binding>, slot: &Arc<Slot>) {
        for (at, subject) in binding.subjects.iter().enumerate() {
            let granted = self.map(subject.kind).entry(subject.name.clone()).or_default();
            granted.put(slot, Source { binding: binding.clone(), subject: at });
        }
    }

    pub fn remove(&mut self, binding: &Binding) {
        for subject in &binding.subjects {
            let map = self.map(subject.kind);
            let Some(granted) = map.get_mut(&subject.name) else { continue };
            granted.remove(binding);
            if granted.grants.is_empty() {
                map.remove(&subject.name);
            }
        }
    }

    fn map(&mut self, kind: Kind) -> &mut HashMap<String, Granted> {
        if kind == Kind::Group { &mut self.groups } else { &mut self.users }
    }
}

impl Granted {
    fn find(&self, role: &RoleKey) -> Result<usize, usize> {
        self.grants.binary_search_by(|grant| grant.slot.key.cmp(role))
    }

    /// A subject that a binding names twice is the one that was named first.
    fn put(&mut self, slot: &Arc<Slot>, source: Source) {
        match self.find(&slot.key) {
            Ok(at) => {
                if let Err(place) = self.sources[at].binary_search_by(|other| other.compare(&source.binding)) {
                    self.sources[at].insert(place, source);
                    self.show(at, place);
                }
            }
            Err(at) => {
                Arc::make_mut(&mut self.grants).insert(at, Grant { slot: slot.clone(), source: source.clone() });
                self.sources.insert(at, vec![source]);
            }
        }
    }

    fn remove(&mut self, binding: &Binding) {
        let Ok(at) = self.find(&binding.role) else { return };
        let Ok(place) = self.sources[at].binary_search_by(|other| other.compare(binding)) else { return };
        self.sources[at].remove(place);
        if self.sources[at].is_empty() {
            self.sources.remove(at);
            Arc::make_mut(&mut self.grants).remove(at);
        } else {
            self.show(at, place);
        }
    }

    /// The first binding is the one that reasons name.
    fn show(&mut self, at: usize, changed: usize) {
        if changed == 0 {
            Arc::make_mut(&mut self.grants)[at].source = self.sources[at][0].clone();
        }
    }
}

impl Source {
    fn compare(&self, binding: &Binding) -> Ordering {
        self.binding.key.name.cmp(&binding.key.name)
    }
}

impl Grant {
    /// Why its role cannot be had.
    pub fn missing(&self) -> String {
        self.slot.key.missing()
    }
}

/// Where a right comes from, as reasons tell it.
impl fmt::Display for Grant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let b = &self.source.binding;
        match b.key.namespace.as_str() {
            "" => write!(f, "ClusterRoleBinding {:?}", b.key.name)?,
            namespace => write!(f, "RoleBinding {:?}", format!("{}/{namespace}", b.key.name))?,
        }
        write!(f, " of {} {:?} to {}", b.role.kind, b.role.key.name, b.subjects[self.source.subject])
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kind {
            Kind::User => write!(f, "User {:?}", self.name),
            Kind::Group => write!(f, "Group {:?}", self.name),
            Kind::ServiceAccount => {
                let (namespace, name) = self.name[ACCOUNT.len()..].split_once(':').unwrap_or_default();
                write!(f, "ServiceAccount {:?}", format!("{name}/{namespace}"))
            }
        }
    }
}

impl Binding {
    /// A binding of either kind: one without a namespace is the cluster's.
    pub fn parse(value: &Value) -> Self {
        let key = Key::new(read::namespace(value), read::name(value));
        let role = value.at("roleRef");
        let subjects = value.list("subjects").iter().filter_map(|s| Subject::parse(s, &key.namespace)).collect();
        Self { role: RoleKey::new(role.text("kind"), role.text("name"), &key.namespace), subjects, key }
    }
}

impl Subject {
    fn parse(value: &Value, binding_namespace: &str) -> Option<Self> {
        let name = value.text("name");
        let kind = match value.text("kind") {
            "User" => Kind::User,
            "Group" => Kind::Group,
            "ServiceAccount" => Kind::ServiceAccount,
            _ => return None,
        };
        if kind != Kind::ServiceAccount {
            return Some(Self { kind, name: name.to_owned() });
        }
        let namespace = Some(value.text("namespace")).filter(|n| !n.is_empty()).unwrap_or(binding_namespace);
        (!namespace.is_empty()).then(|| Self { kind, name: format!("{ACCOUNT}{namespace}:{name}") })
    }
}
