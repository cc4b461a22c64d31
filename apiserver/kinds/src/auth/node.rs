//! Pods, as they change -> what each node may read: kept as counts of references, answered without a scan.
//!
//! Source: `plugin/pkg/auth/authorizer/node/{node_authorizer,graph}.go`.

mod mirror;
mod references;
#[cfg(test)]
mod scale;
mod slices;
mod volumes;

use std::{collections::HashMap, sync::Arc};

use api::{GroupResource, Key, steps};
use apiserver::{
    engine::{Change, Engine},
    identity::{Attributes, Authorizer, Decision, Rules, User},
};
use parking_lot::RwLock;

use super::ruleset::RuleSet;
use crate::common::read;
pub use mirror::{first_reference, names_secret};
use references::Pod;
use slices::Slices;
use volumes::Volumes;

/// Parts of names of a pod's fields that may refer to something else later on: `resourceClaims`, `resourceClaimStatuses`,
/// `extendedResourceClaimStatus`.
const MOVING: [&str; 2] = ["\"ephemeralContainers\"", "esourceClaim"];

/// The Node authorizer: speaks for users `system:node:<name>` of the group `system:nodes` only.
pub struct NodeAuthorizer {
    graph: Arc<RwLock<Graph>>,
    volumes: Arc<RwLock<Volumes>>,
    slices: Arc<RwLock<Slices>>,
    /// What every node may do besides: the role `system:node`.
    rules: RuleSet,
}

/// The name of the node that `user` is; `None` where it is none.
pub fn node_name(user: &User) -> Option<&str> {
    let name = user.name.strip_prefix("system:node:")?;
    user.groups.iter().any(|g| g == "system:nodes").then_some(name)
}

/// Which node runs which pod, and what pods refer to.
#[derive(Default)]
struct Graph {
    pods: HashMap<Key, PodEdges>,
    /// Node -> object -> how many pods on the node refer to it.
    referred: HashMap<Arc<str>, HashMap<Arc<Thing>, usize>>,
}

/// Node and things are shared with the node's other pods: most pods refer to what their neighbours refer to.
struct PodEdges {
    uid: Box<str>,
    node: Arc<str>,
    things: Box<[Arc<Thing>]>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Thing {
    kind: What,
    namespace: String,
    name: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum What {
    Pod,
    Secret,
    ConfigMap,
    Claim,
    ResourceClaim,
    ServiceAccount,
}

impl Default for NodeAuthorizer {
    fn default() -> Self {
        let wanted = super::policy::wanted();
        let role = wanted.iter().find(|w| w.resource == "clusterroles" && read::name(&w.object) == "system:node");
        let rules = role.map(|w| RuleSet::of_role(&w.object)).unwrap_or_default();
        Self { graph: Arc::default(), volumes: Arc::default(), slices: Arc::default(), rules }
    }
}

impl Authorizer for NodeAuthorizer {
    fn authorize(&self, a: &Attributes<'_>) -> Decision {
        let Some(node) = node_name(a.user) else { return no("") };
        if node.is_empty() {
            return no(format!("unknown node for user {:?}", a.user.name));
        }
        if !a.resource_request
            && let Some(of) = a.path.strip_prefix(api::tunnel::PATH)
        {
            return own_tunnel(node, of, a.verb);
        }
        if a.resource_request
            && let Some(decision) = self.special(node, a)
        {
            return decision;
        }
        if self.rules.allows(a) { yes() } else { no("") }
    }

    fn rules(&self, user: &User, _: &str) -> Rules {
        match node_name(user) {
            None => Rules::default(),
            Some(_) => {
                Rules { incomplete: true, error: "node authorizer does not support user rule resolution".into(), ..Rules::default() }
            }
        }
    }

    fn start(&self, engine: &Arc<Engine>) {
        let graph = self.graph.clone();
        let on = move |change: &Change| match (&change.new, &change.old) {
            // What a pod on a node refers to is fixed, but for ephemeral containers and claims of devices: its many changes of status need no look.
            (Some(new), _) if graph.read().is_settled(&new.key, new.uid()) && !MOVING.iter().any(|part| mentions(new.stored(), part)) => {}
            // Pods are made without a node, and give nothing to read then.
            (Some(new), _) if !mentions(new.stored(), "\"nodeName\"") => graph.write().remove(&new.key),
            (Some(new), _) => graph.write().put(&new.key, &Pod::read(new.stored())),
            (None, Some(old)) => graph.write().remove(&old.key),
            (None, None) => {}
        };
        engine.on_change(&GroupResource::new("", "pods"), Arc::new(on));
        Volumes::follow(&self.volumes, engine);
        Slices::follow(&self.slices, engine);
    }
}

impl NodeAuthorizer {
    /// What the agent does with directories of its own, and no more.
    fn is_local_storage(&self, node: &str, a: &Attributes<'_>) -> bool {
        match a.verb {
            "get" => self.volumes.read().is_local_to(a.name, node),
            "delete" => self.volumes.read().is_over_on(a.name, node),
            _ => false,
        }
    }

    /// The resources to which a node's access is subdivided; `None` for all others.
    fn special(&self, node: &str, a: &Attributes<'_>) -> Option<Decision> {
        Some(match (a.group, a.resource) {
            ("", "secrets") => self.read_one(node, What::Secret, a),
            ("", "configmaps") => self.read_one(node, What::ConfigMap, a),
            ("", "persistentvolumeclaims") if a.subresource == "status" => match a.verb {
                "update" | "patch" => self.related(node, What::Claim, a),
                _ => no("can only get/update/patch this type"),
            },
            ("", "persistentvolumeclaims") => self.get_one(node, What::Claim, a),
            // Ours: docs/storage.md.
            ("", "persistentvolumes") if a.subresource.is_empty() && self.is_local_storage(node, a) => yes(),
            ("", "persistentvolumes") => self.get_of_cluster(node, a, |this| this.may_read_volume(node, a.name)),
            ("storage.k8s.io", "volumeattachments") => {
                self.get_of_cluster(node, a, |this| this.volumes.read().is_attached_to(a.name, node))
            }
            ("resource.k8s.io", "resourceclaims") => self.get_one(node, What::ResourceClaim, a),
            ("resource.k8s.io", "resourceslices") => self.slices.read().decide(node, a),
            ("", "serviceaccounts") => self.service_account(node, a),
            ("", "nodes") => own_node(node, a),
            ("", "pods") => self.pod(node, a),
            ("coordination.k8s.io", "leases") => lease(node, a),
            ("storage.k8s.io", "csinodes") => csi_node(node, a),
            _ => return None,
        })
    }

    fn read_one(&self, node: &str, what: What, a: &Attributes<'_>) -> Decision {
        match () {
            () if !matches!(a.verb, "get" | "list" | "watch") => no("can only read resources of this type"),
            () if !a.subresource.is_empty() => no("cannot read subresource"),
            () if a.namespace.is_empty() => no("can only read namespaced object of this type"),
            () => self.related(node, what, a),
        }
    }

    fn get_one(&self, node: &str, what: What, a: &Attributes<'_>) -> Decision {
        match () {
            () if a.verb != "get" => no("can only get individual resources of this type"),
            () if !a.subresource.is_empty() => no("cannot get subresource"),
            () => self.related(node, what, a),
        }
    }

    /// As [`Self::get_one`], of a kind without namespaces.
    fn get_of_cluster(&self, node: &str, a: &Attributes<'_>, is_related: impl FnOnce(&Self) -> bool) -> Decision {
        match () {
            () if a.verb != "get" => no("can only get individual resources of this type"),
            () if !a.subresource.is_empty() => no("cannot get subresource"),
            () if a.name.is_empty() => no("No Object name found"),
            () if is_related(self) => yes(),
            () => unrelated(node),
        }
    }

    /// A volume that is meant for a claim of one of the node's pods.
    fn may_read_volume(&self, node: &str, volume: &str) -> bool {
        self.volumes.read().claim(volume).is_some_and(|claim| self.uses(node, claim))
    }

    fn uses(&self, node: &str, claim: &Key) -> bool {
        let thing = Thing { kind: What::Claim, namespace: claim.namespace.clone(), name: claim.name.clone() };
        self.graph.read().knows(node, &thing)
    }

    fn service_account(&self, node: &str, a: &Attributes<'_>) -> Decision {
        match () {
            () if a.verb == "get" && a.subresource.is_empty() => self.read_one(node, What::ServiceAccount, a),
            () if a.verb != "create" || a.name.is_empty() => no("can only create tokens for individual service accounts"),
            () if a.subresource != "token" => no("can only create token subresource of serviceaccount"),
            () => self.related(node, What::ServiceAccount, a),
        }
    }

    fn pod(&self, node: &str, a: &Attributes<'_>) -> Decision {
        match (a.subresource, a.verb) {
            ("", "get") => self.get_one(node, What::Pod, a),
            ("", "list" | "watch") => match () {
                () if a.fields.and_then(|fields| fields.exact("spec.nodeName")) == Some(node) => yes(),
                () if !a.name.is_empty() => self.related(node, What::Pod, a),
                () => no("can only list/watch pods with spec.nodeName field selector"),
            },
            ("", "create" | "delete") | ("status", "update" | "patch") | ("eviction", "create") => yes(),
            _ => no(""),
        }
    }

    fn related(&self, node: &str, kind: What, a: &Attributes<'_>) -> Decision {
        if a.name.is_empty() {
            return no("No Object name found");
        }
        let thing = Thing { kind, namespace: a.namespace.to_owned(), name: a.name.to_owned() };
        let through_volume = || {
            kind == What::Secret && self.volumes.read().claims_of_secret(&Key::new(a.namespace, a.name)).any(|claim| self.uses(node, claim))
        };
        if self.graph.read().knows(node, &thing) || through_volume() { yes() } else { unrelated(node) }
    }
}

impl Graph {
    fn put(&mut self, key: &Key, pod: &Pod) {
        self.remove(key);
        let node = pod.node();
        if node.is_empty() {
            return;
        }
        let node = self.referred.get_key_value(node).map_or_else(|| node.into(), |(known, _)| known.clone());
        let counts = self.referred.entry(node.clone()).or_default();
        let count = |thing: Thing| {
            let shared = counts.get_key_value(&thing).map(|(known, _)| known.clone()).unwrap_or_else(|| thing.into());
            *counts.entry(shared.clone()).or_default() += 1;
            shared
        };
        let things = steps::counted(pod.things(key).into_iter()).map(count).collect();
        self.pods.insert(key.clone(), PodEdges { uid: pod.uid().into(), node, things });
    }

    fn remove(&mut self, key: &Key) {
        let Some(old) = self.pods.remove(key) else { return };
        let Some(counts) = self.referred.get_mut(&old.node) else { return };
        for thing in steps::counted(old.things.iter()) {
            if let Some(count) = counts.get_mut(thing) {
                *count -= 1;
                if *count == 0 {
                    counts.remove(thing);
                }
            }
        }
        if counts.is_empty() {
            self.referred.remove(&old.node);
        }
    }

    fn is_settled(&self, key: &Key, uid: &str) -> bool {
        self.pods.get(key).is_some_and(|edges| *edges.uid == *uid)
    }

    fn knows(&self, node: &str, thing: &Thing) -> bool {
        if thing.kind == What::Pod {
            return self.pods.get(&Key::new(&thing.namespace, &thing.name)).is_some_and(|edges| *edges.node == *node);
        }
        self.referred.get(node).is_some_and(|counts| counts.contains_key(thing))
    }
}

fn own_node(node: &str, a: &Attributes<'_>) -> Decision {
    match (a.subresource, a.verb, a.name) {
        ("", "create" | "update" | "patch", _) | ("status", "update" | "patch", _) => yes(),
        ("", "get" | "list" | "watch", name) if name == node => yes(),
        ("", "get" | "list" | "watch", "") => no(format!("node '{node}' cannot read all nodes, only its own Node object")),
        ("", "get" | "list" | "watch", name) => no(format!("node '{node}' cannot read '{name}', only its own Node object")),
        _ => no(""),
    }
}

/// Ours: docs/decisions/tunnel.md.
fn own_tunnel(node: &str, of: &str, verb: &str) -> Decision {
    match () {
        () if of != node => no(format!("node '{node}' can only open its own tunnel")),
        () if verb != "get" => no("can only get a tunnel"),
        () => yes(),
    }
}

fn lease(node: &str, a: &Attributes<'_>) -> Decision {
    match () {
        () if !matches!(a.verb, "get" | "create" | "update" | "patch" | "delete") => {
            no("can only get, create, update, patch, or delete a node lease")
        }
        () if a.namespace != "kube-node-lease" => no("can only access leases in the \"kube-node-lease\" system namespace"),
        () if a.verb != "create" && a.name != node => no("can only access node lease with the same name as the requesting node"),
        () => yes(),
    }
}

fn csi_node(node: &str, a: &Attributes<'_>) -> Decision {
    match () {
        () if !matches!(a.verb, "get" | "create" | "update" | "patch" | "delete") => {
            no("can only get, create, update, patch, or delete a CSINode")
        }
        () if !a.subresource.is_empty() => no("cannot authorize CSINode subresources"),
        () if a.verb != "create" && a.name != node => no("can only access CSINode with the same name as the requesting node"),
        () => yes(),
    }
}

fn yes() -> Decision {
    Decision::Allow(String::new())
}

fn no(reason: impl Into<String>) -> Decision {
    Decision::NoOpinion(reason.into())
}

fn unrelated(node: &str) -> Decision {
    no(format!("no relationship found between node '{node}' and this object"))
}

/// Whether a field of that name may be there: looked for in the JSON, for most pods have no such field, and decoding one costs many times as much.
fn mentions(json: &[u8], part: &str) -> bool {
    std::str::from_utf8(json).is_ok_and(|text| text.contains(part))
}

#[cfg(test)]
mod tests {
    use api::selector::Fields;
    use serde_json::json;

    use super::*;

    fn house() -> NodeAuthorizer {
        let node = NodeAuthorizer::default();
        let pod = json!({
            "metadata": {"name": "web", "namespace": "a"},
            "spec": {
                "nodeName": "n1", "serviceAccountName": "robot", "imagePullSecrets": [{"name": "pull"}],
                "containers": [{"env": [{"valueFrom": {"secretKeyRef": {"name": "env"}}}], "envFrom": [{"configMapRef": {"name": "from"}}]}],
                "volumes": [
                    {"secret": {"secretName": "vol"}},
                    {"projected": {"sources": [{"configMap": {"name": "kube-root-ca.crt"}}]}},
                    {"persistentVolumeClaim": {"claimName": "data"}},
                ],
            },
        });
        let mirror = json!({
            "metadata": {"name": "static", "namespace": "a", "annotations": {"kubernetes.io/config.mirror": "x"}},
            "spec": {"nodeName": "n1", "volumes": [{"secret": {"secretName": "stolen"}}]},
        });
        let mut graph = node.graph.write();
        graph.put(&Key::new("a", "web"), &Pod::of(&pod));
        graph.put(&Key::new("a", "static"), &Pod::of(&mirror));
        drop(graph);
        node
    }

    fn of_node(name: &str) -> User {
        User { name: format!("system:node:{name}"), groups: vec!["system:nodes".into()], ..User::default() }
    }

    fn ask<'a>(user: &'a User, verb: &'a str, what: &'a str, namespace: &'a str, name: &'a str) -> Attributes<'a> {
        let (group, resource) = what.split_once(':').unwrap_or(("", what));
        let (resource, subresource) = resource.split_once('/').unwrap_or((resource, ""));
        Attributes { user, verb, resource_request: true, group, resource, subresource, namespace, name, ..Attributes::default() }
    }

    #[test]
    fn a_node_may_what_its_pods_need() {
        let house = house();
        let yes = [
            ("get", "secrets", "a", "pull"),
            ("list", "secrets", "a", "env"),
            ("watch", "secrets", "a", "vol"),
            ("get", "configmaps", "a", "from"),
            ("watch", "configmaps", "a", "kube-root-ca.crt"),
            ("get", "persistentvolumeclaims", "a", "data"),
            ("create", "serviceaccounts/token", "a", "robot"),
            ("get", "serviceaccounts", "a", "robot"),
            ("get", "pods", "a", "web"),
            ("get", "pods", "a", "static"),
            ("patch", "pods/status", "a", "any"),
            ("create", "pods/eviction", "a", "any"),
            ("get", "nodes", "", "n1"),
            ("patch", "nodes/status", "", "n1"),
            ("update", "coordination.k8s.io:leases", "kube-node-lease", "n1"),
            ("create", "coordination.k8s.io:leases", "kube-node-lease", ""),
            ("create", "events", "a", ""),
            ("list", "services", "", ""),
            ("create", "authorization.k8s.io:subjectaccessreviews", "", ""),
        ];
        for (verb, what, namespace, name) in yes {
            let decision = house.authorize(&ask(&of_node("n1"), verb, what, namespace, name));
            assert!(matches!(decision, Decision::Allow(_)), "{verb} {what} {name}: {decision:?}");
        }
    }

    #[test]
    fn a_node_opens_its_own_tunnel_and_no_other() {
        let house = house();
        let may = |user: &User, verb, path| {
            let asked = Attributes { user, verb, path, ..Attributes::default() };
            matches!(house.authorize(&asked), Decision::Allow(_))
        };
        assert!(may(&of_node("n1"), "get", "/skiff/v1/tunnels/n1"));
        for (verb, path) in [
            ("get", "/skiff/v1/tunnels/n2"),
            ("get", "/skiff/v1/tunnels/n1/"),
            ("get", "/skiff/v1/tunnels/n1/x"),
            ("get", "/skiff/v1/tunnels/"),
            ("get", "/skiff/v1/tunnels"),
            ("post", "/skiff/v1/tunnels/n1"),
            ("get", "/skiff/v1/other/n1"),
        ] {
            assert!(!may(&of_node("n1"), verb, path), "{verb} {path}");
        }
        let name_alone = User { groups: Vec::new(), ..of_node("n1") };
        let group_alone = User { name: "n1".into(), ..of_node("n1") };
        for other in [name_alone, group_alone, of_node(""), of_node("n1 ")] {
            assert!(!may(&other, "get", "/skiff/v1/tunnels/n1") && !may(&other, "get", "/skiff/v1/tunnels/"), "{other:?}");
        }
    }

    #[test]
    fn what_is_not_its_own_is_refused_in_upstreams_words() {
        let house = house();
        let unrelated = "no relationship found between node 'n1' and this object";
        let cases = [
            (("get", "secrets", "b", "pull"), unrelated),
            (("get", "secrets", "a", "stolen"), unrelated),
            (("get", "secrets", "a", "other"), unrelated),
            (("list", "secrets", "a", ""), "No Object name found"),
            (("list", "secrets", "", ""), "can only read namespaced object of this type"),
            (("update", "secrets", "a", "pull"), "can only read resources of this type"),
            (("create", "serviceaccounts/token", "a", "other"), unrelated),
            (("create", "serviceaccounts", "a", ""), "can only create tokens for individual service accounts"),
            (("get", "pods", "a", "other"), unrelated),
            (("list", "pods", "", ""), "can only list/watch pods with spec.nodeName field selector"),
            (("list", "nodes", "", ""), "node 'n1' cannot read all nodes, only its own Node object"),
            (("get", "nodes", "", "n2"), "node 'n1' cannot read 'n2', only its own Node object"),
            (("delete", "nodes", "", "n1"), ""),
            (("get", "coordination.k8s.io:leases", "a", "n1"), "can only access leases in the \"kube-node-lease\" system namespace"),
            (
                ("get", "coordination.k8s.io:leases", "kube-node-lease", "n2"),
                "can only access node lease with the same name as the requesting node",
            ),
            (("list", "storage.k8s.io:csinodes", "", ""), "can only get, create, update, patch, or delete a CSINode"),
            (("create", "apps:deployments", "a", ""), ""),
        ];
        for ((verb, what, namespace, name), why) in cases {
            assert_eq!(house.authorize(&ask(&of_node("n1"), verb, what, namespace, name)), no(why), "{verb} {what} {name}");
        }
    }

    #[test]
    fn volumes_of_its_pods_claims_are_its_to_read() {
        let house = house();
        let claimed = |claim: &str| {
            let secret = json!({"namespace": "s", "name": "stage"});
            json!({"spec": {"claimRef": {"namespace": "a", "name": claim}, "csi": {"nodeStageSecretRef": secret}}})
        };
        let asked = |verb, what, namespace, name| house.authorize(&ask(&of_node("n1"), verb, what, namespace, name));
        let may = |what, namespace, name| asked("get", what, namespace, name) == yes();
        house.volumes.write().put("other", &claimed("none"));
        assert!(!may("persistentvolumes", "", "other") && !may("secrets", "s", "stage"));
        house.volumes.write().put("pv", &claimed("data"));
        assert!(may("persistentvolumes", "", "pv") && may("secrets", "s", "stage") && !may("persistentvolumes", "", "other"));
        house.volumes.write().attach("va", &json!({"spec": {"nodeName": "n1"}}));
        assert!(may("storage.k8s.io:volumeattachments", "", "va") && !may("storage.k8s.io:volumeattachments", "", "vb"));
        assert_eq!(asked("list", "persistentvolumes", "", ""), no("can only get individual resources of this type"));
        house.volumes.write().remove("pv");
        assert!(!may("persistentvolumes", "", "pv") && !may("secrets", "s", "stage"));
    }

    #[test]
    fn lists_of_pods_must_select_the_node() {
        let house = house();
        let node = of_node("n1");
        for (selector, good) in [("spec.nodeName=n1", true), ("spec.nodeName=n2", false), ("spec.nodeName!=n1", false)] {
            let fields = Fields::parse(selector).unwrap();
            let list = Attributes { fields: Some(&fields), ..ask(&node, "watch", "pods", "", "") };
            assert_eq!(matches!(house.authorize(&list), Decision::Allow(_)), good, "{selector}");
        }
    }

    #[test]
    fn what_goes_gives_nothing_any_more() {
        let house = house();
        let node = of_node("n1");
        let secret = ask(&node, "get", "secrets", "a", "pull");
        assert!(matches!(house.authorize(&secret), Decision::Allow(_)));
        house.graph.write().remove(&Key::new("a", "web"));
        assert_eq!(house.authorize(&secret), unrelated("n1"));
        let graph = house.graph.read();
        assert_eq!((graph.pods.len(), graph.referred.len()), (1, 0), "only the mirror pod itself is left");
    }

    #[test]
    fn what_pods_share_stays_with_the_last_of_them() {
        let house = NodeAuthorizer::default();
        let pod = json!({"metadata": {}, "spec": {"nodeName": "n1", "imagePullSecrets": [{"name": "pull"}, {"name": "pull"}]}});
        let (one, two) = (Key::new("a", "one"), Key::new("a", "two"));
        [&one, &two, &two].into_iter().for_each(|key| house.graph.write().put(key, &Pod::of(&pod)));
        let may = |what, name| matches!(house.authorize(&ask(&of_node("n1"), "get", what, "a", name)), Decision::Allow(_));
        house.graph.write().remove(&one);
        assert_eq!((may("secrets", "pull"), may("pods", "one"), may("pods", "two")), (true, false, true));
        house.graph.write().remove(&two);
        assert_eq!((may("secrets", "pull"), may("pods", "two")), (false, false));
    }

    #[test]
    fn others_are_none_of_its_business() {
        let house = house();
        let mut user = User { groups: Vec::new(), ..of_node("n1") };
        assert_eq!(house.authorize(&ask(&user, "get", "nodes", "", "n1")), no(""));
        user.name = "jane".into();
        assert_eq!(house.authorize(&ask(&user, "get", "nodes", "", "n1")), no(""));
    }
}
