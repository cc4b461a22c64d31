//! Roles and bindings, as they change -> may this user do that: answered from an index by subject, never by a scan.
//!
//! Source: `plugin/pkg/auth/authorizer/rbac/rbac.go`, `pkg/registry/rbac/validation/rule.go`.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    sync::Arc,
};

use api::{GroupResource, Key, selector::Labels};
use apiserver::{
    engine::{Change, Engine},
    identity::{Attributes, Authorizer, Decision, Rules, User},
};
use parking_lot::RwLock;
use serde_json::{Value, json};

use super::rules::Rule;
use crate::common::{Read, read, selector};

pub const GROUP: &str = "rbac.authorization.k8s.io";

/// The RBAC authorizer.
#[derive(Default)]
pub struct Rbac {
    index: Arc<RwLock<Index>>,
}

/// What a role lets do. Shared with those who look at it.
type RuleSet = Arc<[Rule]>;

#[derive(Default)]
struct Index {
    /// By namespace and name.
    roles: HashMap<Key, RuleSet>,
    cluster_roles: HashMap<String, ClusterRole>,
    /// All bindings; those of the cluster have an empty namespace.
    bindings: HashMap<Key, Arc<Binding>>,
    /// By namespace, those of the cluster under the empty one.
    scopes: HashMap<String, Scope>,
}

struct ClusterRole {
    labels: Value,
    own: RuleSet,
    /// Of an aggregated role: whose rules it is made of.
    selectors: Option<Vec<Labels>>,
    /// What counts: `own`, or what the selectors find.
    effective: RuleSet,
}

/// Bindings by whom they speak of. Service accounts are users by their long name.
#[derive(Default)]
struct Scope {
    users: HashMap<String, Vec<Arc<Binding>>>,
    groups: HashMap<String, Vec<Arc<Binding>>>,
}

struct Binding {
    key: Key,
    role_kind: String,
    role_name: String,
    subjects: Vec<Subject>,
}

struct Subject {
    kind: Kind,
    name: String,
    /// As messages show it.
    shown: String,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    User,
    Group,
}

impl Rbac {
    /// All rules that hold for `user` in `namespace` (empty: the cluster), and what could not be resolved.
    pub fn rules_for(&self, user: &User, namespace: &str) -> (Vec<Rule>, Vec<String>) {
        let (mut rules, mut errors) = (Vec::new(), Vec::new());
        self.index.read().visit(user, namespace, &mut |found| {
            match found {
                Ok((_, set)) => rules.extend(set.iter().cloned()),
                Err(error) => errors.push(error),
            }
            true
        });
        (rules, errors)
    }

    /// The rules a role reference stands for; the error is upstream's.
    pub fn role_rules(&self, kind: &str, name: &str, namespace: &str) -> Result<RuleSet, String> {
        self.index.read().resolve(kind, name, namespace)
    }
}

impl Authorizer for Rbac {
    fn authorize(&self, attributes: &Attributes) -> Decision {
        let (mut allowed, mut errors) = (None, Vec::new());
        self.index.read().visit(&attributes.user, &attributes.namespace, &mut |found| {
            match found {
                Ok((source, rules)) if rules.iter().any(|r| r.allows(attributes)) => allowed = Some(source.to_string()),
                Ok(_) => {}
                Err(error) => errors.push(error),
            }
            allowed.is_none()
        });
        match allowed {
            Some(source) => Decision::Allow(format!("RBAC: allowed by {source}")),
            None if errors.is_empty() => Decision::NoOpinion(String::new()),
            None => Decision::NoOpinion(format!("RBAC: {}", aggregate(errors))),
        }
    }

    fn rules(&self, user: &User, namespace: &str) -> Rules {
        let (found, errors) = self.rules_for(user, namespace);
        let mut rules = Rules { error: aggregate(errors), ..Rules::default() };
        for rule in found {
            if !rule.resources.is_empty() {
                rules.resource.push(Rule { urls: Vec::new(), ..rule.clone() }.json());
            }
            if !rule.urls.is_empty() {
                rules.non_resource.push(json!({"verbs": rule.verbs, "nonResourceURLs": rule.urls}));
            }
        }
        rules
    }

    fn start(&self, engine: &Arc<Engine>) {
        for (resource, put, remove) in WATCHED {
            let index = self.index.clone();
            let on = move |change: &Change| match (&change.new, &change.old) {
                (Some(new), _) => put(&mut index.write(), &new.value()),
                (None, Some(old)) => remove(&mut index.write(), &old.key),
                (None, None) => {}
            };
            engine.on_change(&GroupResource::new(GROUP, resource), Arc::new(on));
        }
    }
}

/// Is shown the rules of one binding, or why they cannot be had; says whether to go on.
type Visitor<'a> = &'a mut dyn for<'b> FnMut(Result<(Source<'b>, RuleSet), String>) -> bool;
type Put = fn(&mut Index, &Value);
type Remove = fn(&mut Index, &Key);

/// The resources the index is made of.
const WATCHED: [(&str, Put, Remove); 4] = [
    ("roles", Index::put_role, Index::remove_role),
    ("clusterroles", Index::put_cluster_role, Index::remove_cluster_role),
    ("rolebindings", Index::put_binding, Index::remove_binding),
    ("clusterrolebindings", Index::put_binding, Index::remove_binding),
];

impl Index {
    /// Shows each applying binding's rules to `see` until it says false.
    fn visit(&self, user: &User, namespace: &str, see: Visitor<'_>) {
        let mut namespaces = vec![""];
        if !namespace.is_empty() {
            namespaces.push(namespace);
        }
        for namespace in namespaces {
            let Some(scope) = self.scopes.get(namespace) else { continue };
            let of_user = std::iter::once((Kind::User, user.name.as_str())).chain(user.groups.iter().map(|g| (Kind::Group, g.as_str())));
            // Sorted.
            let mut seen: Vec<*const Binding> = Vec::new();
            for (kind, name) in of_user {
                for binding in scope.of(kind, name) {
                    let pointer = Arc::as_ptr(binding);
                    match seen.binary_search(&pointer) {
                        Ok(_) => continue,
                        Err(at) => seen.insert(at, pointer),
                    }
                    let rules = self.resolve(&binding.role_kind, &binding.role_name, namespace);
                    if !see(rules.map(|rules| (Source { binding, kind, name }, rules))) {
                        return;
                    }
                }
            }
        }
    }

    fn resolve(&self, kind: &str, name: &str, namespace: &str) -> Result<RuleSet, String> {
        let missing = |what: &str| format!("{what}.{GROUP} {name:?} not found");
        match kind {
            "Role" => self.roles.get(&Key::new(namespace, name)).cloned().ok_or_else(|| missing("role")),
            "ClusterRole" => self.cluster_roles.get(name).map(|r| r.effective.clone()).ok_or_else(|| missing("clusterrole")),
            other => Err(format!("unsupported role reference kind: {other:?}")),
        }
    }

    fn put_role(&mut self, role: &Value) {
        self.roles.insert(key(role), Rule::parse_all(role).into());
    }

    fn remove_role(&mut self, key: &Key) {
        self.roles.remove(key);
    }

    fn put_cluster_role(&mut self, role: &Value) {
        let own: RuleSet = Rule::parse_all(role).into();
        let selectors = role.at("aggregationRule").map(|rule| {
            let selectors = rule.list("clusterRoleSelectors").iter();
            selectors.filter_map(|s| selector::parse(Some(s)).ok().flatten()).collect()
        });
        let labels = role.at("metadata").at("labels").cloned().unwrap_or(Value::Null);
        let role_name = read::name(role).to_owned();
        self.cluster_roles.insert(role_name, ClusterRole { labels, effective: own.clone(), own, selectors });
        self.aggregate();
    }

    fn remove_cluster_role(&mut self, key: &Key) {
        self.cluster_roles.remove(&key.name);
        self.aggregate();
    }

    /// Gives every aggregated role the rules of those it selects, through any number of steps. There are few of them.
    fn aggregate(&mut self) {
        let names: Vec<String> = self.cluster_roles.iter().filter(|(_, r)| r.selectors.is_some()).map(|(n, _)| n.clone()).collect();
        for name in names {
            let (mut reached, mut rules) = (BTreeSet::new(), BTreeSet::new());
            self.reach(&name, &mut reached, &mut rules);
            if let Some(role) = self.cluster_roles.get_mut(&name) {
                role.effective = rules.into_iter().collect();
            }
        }
    }

    fn reach(&self, name: &str, reached: &mut BTreeSet<String>, rules: &mut BTreeSet<Rule>) {
        if !reached.insert(name.to_owned()) {
            return;
        }
        let Some(role) = self.cluster_roles.get(name) else { return };
        let Some(selectors) = &role.selectors else { return rules.extend(role.own.iter().cloned()) };
        let selected = self.cluster_roles.iter().filter(|(_, r)| selectors.iter().any(|s| selects(s, &r.labels)));
        for (other, _) in selected {
            self.reach(other, reached, rules);
        }
    }

    /// A binding of either kind: one without a namespace is the cluster's.
    fn put_binding(&mut self, binding: &Value) {
        let binding = Arc::new(Binding::parse(binding));
        self.remove_binding(&binding.key);
        let scope = self.scopes.entry(binding.key.namespace.clone()).or_default();
        for subject in &binding.subjects {
            scope.map(subject.kind).entry(subject.name.clone()).or_default().push(binding.clone());
        }
        self.bindings.insert(binding.key.clone(), binding);
    }

    fn remove_binding(&mut self, key: &Key) {
        let Some(old) = self.bindings.remove(key) else { return };
        let Some(scope) = self.scopes.get_mut(&key.namespace) else { return };
        for subject in &old.subjects {
            let map = scope.map(subject.kind);
            if let Some(list) = map.get_mut(&subject.name) {
                list.retain(|b| !Arc::ptr_eq(b, &old));
                if list.is_empty() {
                    map.remove(&subject.name);
                }
            }
        }
        if scope.users.is_empty() && scope.groups.is_empty() {
            self.scopes.remove(&key.namespace);
        }
    }
}

impl Scope {
    fn of(&self, kind: Kind, name: &str) -> &[Arc<Binding>] {
        let map = if kind == Kind::User { &self.users } else { &self.groups };
        map.get(name).map_or(&[], Vec::as_slice)
    }

    fn map(&mut self, kind: Kind) -> &mut HashMap<String, Vec<Arc<Binding>>> {
        if kind == Kind::User { &mut self.users } else { &mut self.groups }
    }
}

impl Binding {
    fn parse(value: &Value) -> Self {
        let key = key(value);
        let role = value.at("roleRef");
        let subjects = value.list("subjects").iter().filter_map(|s| Subject::parse(s, &key.namespace)).collect();
        Self { role_kind: role.text("kind").into(), role_name: role.text("name").into(), subjects, key }
    }
}

impl Subject {
    fn parse(value: &Value, binding_namespace: &str) -> Option<Self> {
        let name = value.text("name");
        let (kind, long, shown) = match value.text("kind") {
            "User" => (Kind::User, name.to_owned(), format!("User {name:?}")),
            "Group" => (Kind::Group, name.to_owned(), format!("Group {name:?}")),
            "ServiceAccount" => {
                let namespace = Some(value.text("namespace")).filter(|n| !n.is_empty()).unwrap_or(binding_namespace);
                if namespace.is_empty() {
                    return None;
                }
                let long = format!("system:serviceaccount:{namespace}:{name}");
                (Kind::User, long, format!("ServiceAccount {:?}", format!("{name}/{namespace}")))
            }
            _ => return None,
        };
        Some(Self { kind, name: long, shown })
    }
}

/// Where a rule comes from, for the reason of an allowance.
struct Source<'a> {
    binding: &'a Binding,
    kind: Kind,
    name: &'a str,
}

impl std::fmt::Display for Source<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let b = self.binding;
        match b.key.namespace.as_str() {
            "" => write!(f, "ClusterRoleBinding {:?}", b.key.name)?,
            namespace => write!(f, "RoleBinding {:?}", format!("{}/{namespace}", b.key.name))?,
        }
        let subject = b.subjects.iter().find(|s| s.kind == self.kind && s.name == self.name);
        write!(f, " of {} {:?} to {}", b.role_kind, b.role_name, subject.map_or("", |s| &s.shown))
    }
}

/// Errors as `utilerrors.NewAggregate` prints them: each once.
fn aggregate(errors: Vec<String>) -> String {
    let mut seen = HashSet::new();
    let mut unique: Vec<String> = errors.into_iter().filter(|error| seen.insert(error.clone())).collect();
    match unique.len() {
        0 => String::new(),
        1 => unique.remove(0),
        _ => format!("[{}]", unique.join(", ")),
    }
}

fn selects(selector: &Labels, labels: &Value) -> bool {
    selector.matches_with(|key| labels.get(key).and_then(Value::as_str))
}

fn key(value: &Value) -> Key {
    Key::new(read::namespace(value), read::name(value))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(verbs: &[&str], group: &str, resources: &[&str]) -> Value {
        json!([{"verbs": verbs, "apiGroups": [group], "resources": resources}])
    }

    fn role(namespace: &str, name: &str, rules: Value) -> Value {
        json!({"metadata": {"namespace": namespace, "name": name}, "rules": rules})
    }

    fn binding(namespace: &str, name: &str, role: (&str, &str), subjects: Value) -> Value {
        let metadata = json!({"namespace": namespace, "name": name});
        json!({"metadata": metadata, "roleRef": {"kind": role.0, "name": role.1}, "subjects": subjects})
    }

    fn user(name: &str, groups: &[&str]) -> User {
        User { name: name.into(), groups: groups.iter().map(|g| (*g).into()).collect(), ..User::default() }
    }

    fn ask(user: User, verb: &str, namespace: &str, resource: &str) -> Attributes {
        let (verb, namespace, resource) = (verb.into(), namespace.into(), resource.into());
        Attributes { user, verb, namespace, resource, resource_request: true, ..Attributes::default() }
    }

    fn house() -> Rbac {
        let rbac = Rbac::default();
        let mut index = rbac.index.write();
        index.put_cluster_role(&role("", "reader", rules(&["get", "list"], "", &["pods"])));
        index.put_role(&role("a", "writer", rules(&["create"], "", &["pods"])));
        index.put_binding(&binding("", "everyone", ("ClusterRole", "reader"), json!([{"kind": "Group", "name": "staff"}])));
        let robot = json!([{"kind": "ServiceAccount", "name": "robot"}, {"kind": "User", "name": "jane"}]);
        index.put_binding(&binding("a", "writers", ("Role", "writer"), robot));
        index.put_binding(&binding("b", "lost", ("Role", "none"), json!([{"kind": "User", "name": "jane"}])));
        drop(index);
        rbac
    }

    #[test]
    fn bindings_give_what_their_roles_say_where_they_stand() {
        let cases = [
            (ask(user("x", &["staff"]), "get", "a", "pods"), true),
            (ask(user("x", &["staff"]), "get", "", "pods"), true),
            (ask(user("x", &["staff"]), "create", "a", "pods"), false),
            (ask(user("x", &[]), "get", "a", "pods"), false),
            (ask(user("staff", &[]), "get", "a", "pods"), false),
            (ask(user("jane", &[]), "create", "a", "pods"), true),
            (ask(user("jane", &[]), "create", "b", "pods"), false),
            (ask(user("jane", &[]), "create", "", "pods"), false),
            (ask(user("system:serviceaccount:a:robot", &[]), "create", "a", "pods"), true),
            (ask(user("system:serviceaccount:b:robot", &[]), "create", "a", "pods"), false),
        ];
        let rbac = house();
        for (ask, yes) in cases {
            assert_eq!(matches!(rbac.authorize(&ask), Decision::Allow(_)), yes, "{ask:?}");
        }
    }

    #[test]
    fn reasons_read_as_upstream_writes_them() {
        let rbac = house();
        let reason = |ask: Attributes| match rbac.authorize(&ask) {
            Decision::Allow(reason) | Decision::Deny(reason) | Decision::NoOpinion(reason) => reason,
        };
        let cluster = reason(ask(user("x", &["staff"]), "get", "a", "pods"));
        assert_eq!(cluster, r#"RBAC: allowed by ClusterRoleBinding "everyone" of ClusterRole "reader" to Group "staff""#);
        let own = reason(ask(user("system:serviceaccount:a:robot", &[]), "create", "a", "pods"));
        assert_eq!(own, r#"RBAC: allowed by RoleBinding "writers/a" of Role "writer" to ServiceAccount "robot/a""#);
        let lost = reason(ask(user("jane", &[]), "get", "b", "pods"));
        assert_eq!(lost, r#"RBAC: role.rbac.authorization.k8s.io "none" not found"#);
    }

    #[test]
    fn what_is_taken_away_is_gone() {
        let rbac = house();
        let question = ask(user("jane", &[]), "create", "a", "pods");
        assert!(matches!(rbac.authorize(&question), Decision::Allow(_)));
        let fewer = binding("a", "writers", ("Role", "writer"), json!([{"kind": "User", "name": "joe"}]));
        rbac.index.write().put_binding(&fewer);
        assert!(matches!(rbac.authorize(&question), Decision::NoOpinion(_)));
        assert!(matches!(rbac.authorize(&ask(user("joe", &[]), "create", "a", "pods")), Decision::Allow(_)));
        rbac.index.write().remove_binding(&Key::new("a", "writers"));
        assert!(matches!(rbac.authorize(&ask(user("joe", &[]), "create", "a", "pods")), Decision::NoOpinion(_)));
        assert!(!rbac.index.read().scopes.contains_key("a"));
    }

    #[test]
    fn aggregated_roles_follow_what_they_select() {
        let rbac = Rbac::default();
        let labelled =
            |name: &str, label: &str, rules: Value| json!({"metadata": {"name": name, "labels": {label: "true"}}, "rules": rules});
        let aggregate = |name: &str, label: &str, of: &str| {
            json!({"metadata": {"name": name, "labels": {label: "true"}},
                "aggregationRule": {"clusterRoleSelectors": [{"matchLabels": {of: "true"}}]}})
        };
        let put = |role: Value| rbac.index.write().put_cluster_role(&role);
        put(aggregate("admin", "x", "to-admin"));
        put(aggregate("edit", "to-admin", "to-edit"));
        put(labelled("one", "to-edit", rules(&["get"], "", &["pods"])));
        let of_user = json!([{"kind": "User", "name": "jane"}]);
        rbac.index.write().put_binding(&binding("a", "admins", ("ClusterRole", "admin"), of_user));
        let question = ask(user("jane", &[]), "get", "a", "pods");
        assert!(matches!(rbac.authorize(&question), Decision::Allow(_)));
        rbac.index.write().remove_cluster_role(&Key::new("", "one"));
        assert!(matches!(rbac.authorize(&question), Decision::NoOpinion(_)));
        put(labelled("two", "to-admin", rules(&["get"], "", &["pods"])));
        assert!(matches!(rbac.authorize(&question), Decision::Allow(_)));
    }

    #[test]
    fn rules_are_listed_for_a_user() {
        let rules = house().rules(&user("jane", &["staff"]), "a");
        assert_eq!(rules.resource.len(), 2);
        assert!(!rules.incomplete && rules.error.is_empty());
    }
}
