//! A write by a node -> refused, unless it is about itself and the pods on it.
//!
//! Source: `plugin/pkg/admission/noderestriction/admission.go`.

use std::collections::BTreeSet;

use api::{GroupResource, Key, Status, annotations::CONFIG_MIRROR};
use apiserver::identity::{Admission, Operation, Review};
use async_trait::async_trait;
use podspec::claims::name_for_pod;
use serde_json::Value;

use super::forbidden;
use crate::{
    auth::node::{first_reference, node_name},
    common::{Read, diff, edit, read},
};

/// Labels under kubernetes.io and k8s.io that a node may set on itself (`kubelet/pkg/apis/well_known_labels.go`).
const OWN_LABELS: [&str; 12] = [
    "kubernetes.io/hostname",
    "topology.kubernetes.io/zone",
    "topology.kubernetes.io/region",
    "failure-domain.beta.kubernetes.io/zone",
    "failure-domain.beta.kubernetes.io/region",
    "node.kubernetes.io/instance-type",
    "beta.kubernetes.io/instance-type",
    "kubernetes.io/os",
    "kubernetes.io/arch",
    "beta.kubernetes.io/os",
    "beta.kubernetes.io/arch",
    "node.kubernetes.io/windows-build",
];
const OWN_PREFIXES: [&str; 2] = ["kubelet.kubernetes.io", "node.kubernetes.io"];

pub struct NodeRestriction;

type Verdict = Result<(), String>;

#[async_trait]
impl Admission for NodeRestriction {
    fn name(&self) -> &'static str {
        "NodeRestriction"
    }

    async fn admit(&self, review: &mut Review<'_>) -> Result<(), Status> {
        let Some(node) = node_name(review.ctx.user) else { return Ok(()) };
        if node.is_empty() {
            return Err(forbidden(review, &format!("could not determine node from user {:?}", review.ctx.user.name)));
        }
        let ctx = review.ctx;
        match (ctx.kind.group.as_ref(), ctx.kind.plural.as_ref(), ctx.subresource) {
            ("", "pods", "") => pod(node, review),
            ("", "pods", "status") => pod_status(node, review).map_err(|why| forbidden(review, &why)),
            ("", "pods", "eviction") => eviction(node, review),
            ("", "pods", other) => {
                Err(forbidden(review, &format!("unexpected pod subresource {other:?}, only 'status' and 'eviction' are allowed")))
            }
            ("", "nodes", _) => own_node(node, review).map_err(|why| forbidden(review, &why)),
            ("", "persistentvolumeclaims", "status") => claim_status(node, review).map_err(|why| forbidden(review, &why)),
            ("", "persistentvolumeclaims", _) => Err(forbidden(review, "may only update PVC status")),
            ("", "serviceaccounts", "token") => token(node, review),
            ("coordination.k8s.io", "leases", _) => lease(node, review).map_err(|why| forbidden(review, &why)),
            ("storage.k8s.io", "csinodes", _) => csi_node(node, review).map_err(|why| forbidden(review, &why)),
            ("resource.k8s.io", "resourceslices", _) => slice(node, review).map_err(|why| forbidden(review, &why)),
            _ => Ok(()),
        }
    }
}

/// The rest of what is asked of slices the authorizer knows.
fn slice(node: &str, review: &Review<'_>) -> Verdict {
    let (of, what) = match review.ctx.operation {
        Operation::Create => (review.object.as_deref(), "create"),
        Operation::Delete => (review.old, "delete"),
        _ => return Ok(()),
    };
    if of.at("spec").text("nodeName") == node {
        return Ok(());
    }
    Err(format!("can only {what} ResourceSlice with the same NodeName as the requesting node"))
}

/// A node says how large a volume is and how that came about, and nothing else of a claim.
fn claim_status(node: &str, review: &Review<'_>) -> Verdict {
    if review.ctx.operation != Operation::Update {
        return Err(format!("unexpected operation {:?}", operation_word(review.ctx.operation)));
    }
    let (new, old) = (beyond_its_own(review.object.as_deref()), beyond_its_own(review.old));
    if read::same(Some(&new), Some(&old)) {
        return Ok(());
    }
    let what = "update fields other than status.quantity and status.conditions";
    Err(format!("node {node:?} is not allowed to {what}: {}", diff::unified(&old, &new)))
}

/// A claim without what a node may write.
fn beyond_its_own(claim: Option<&Value>) -> Value {
    let mut claim = claim.cloned().unwrap_or(Value::Null);
    if let Some(metadata) = edit::child(&mut claim, "metadata") {
        ["resourceVersion", "managedFields"].iter().for_each(|field| edit::remove(metadata, field));
    }
    if let Some(status) = edit::child(&mut claim, "status") {
        let own = ["capacity", "conditions", "allocatedResourceStatuses", "allocatedResources"];
        own.iter().for_each(|field| edit::remove(status, field));
    }
    claim
}

fn pod(node: &str, review: &Review<'_>) -> Result<(), Status> {
    match review.ctx.operation {
        Operation::Create => {
            let Some(pod) = review.object.as_deref() else { return Ok(()) };
            mirror_pod(node, pod).map_err(|why| forbidden(review, &why))?;
            own_uid(node, pod, review)
        }
        Operation::Delete => match on_node(review, review.ctx.name)? {
            runs_on if runs_on == node => Ok(()),
            _ => Err(forbidden(review, &format!("node {node:?} can only delete pods with spec.nodeName set to itself"))),
        },
        other => {
            let operation = operation_word(other);
            Err(forbidden(review, &format!("unexpected operation {operation:?}, node {node:?} can only create and delete mirror pods")))
        }
    }
}

fn mirror_pod(node: &str, pod: &Value) -> Verdict {
    let metadata = pod.at("metadata");
    if metadata.at("annotations").at(CONFIG_MIRROR).is_none() {
        return Err(format!("pod does not have {CONFIG_MIRROR:?} annotation, node {node:?} can only create mirror pods"));
    }
    if pod.at("spec").text("nodeName") != node {
        return Err(format!("node {node:?} can only create pods with spec.nodeName set to itself"));
    }
    let owner = match metadata.list("ownerReferences") {
        [] => return Err(format!("node {node:?} can only create pods with an owner reference set to itself")),
        [owner] => owner,
        _ => return Err(format!("node {node:?} can only create pods with a single owner reference set to itself")),
    };
    if (owner.text("apiVersion"), owner.text("kind"), owner.text("name")) != ("v1", "Node", node) {
        return Err(format!("node {node:?} can only create pods with an owner reference set to itself"));
    }
    if !owner.is_true("controller") {
        return Err(format!("node {node:?} can only create pods with a controller owner reference set to itself"));
    }
    if owner.is_true("blockOwnerDeletion") {
        return Err(format!("node {node:?} must not set blockOwnerDeletion on an owner reference"));
    }
    match first_reference(pod) {
        Some(resource) => Err(format!("node {node:?} can not create pods that reference {resource}")),
        None => Ok(()),
    }
}

fn own_uid(node: &str, pod: &Value, review: &Review<'_>) -> Result<(), Status> {
    let claimed = pod.at("metadata").list("ownerReferences").first().text("uid").to_owned();
    let gr = GroupResource::new("", "nodes");
    let found = review.ctx.engine.cached(&gr, &Key::new("", node)).ok_or_else(|| Status::not_found(&gr, node))?;
    let real = found.uid();
    if real == claimed {
        return Ok(());
    }
    Err(forbidden(review, &format!("node {node} UID mismatch: expected {claimed} got {real}")))
}

fn pod_status(node: &str, review: &Review<'_>) -> Verdict {
    let (Operation::Update, Some(new), Some(old)) = (review.ctx.operation, review.object.as_deref(), review.old) else {
        return Err(format!("unexpected operation {:?}", operation_word(review.ctx.operation)));
    };
    if old.at("spec").text("nodeName") != node {
        return Err(format!("node {node:?} can only update pod status for pods with spec.nodeName set to itself"));
    }
    if !read::same(new.at("metadata").at("labels"), old.at("metadata").at("labels")) {
        return Err(format!("node {node:?} cannot update labels through pod status"));
    }
    let told = |field: &str| read::same(new.at("status").at(field), old.at("status").at(field));
    if !told("resourceClaimStatuses") {
        return Err(format!("node {node:?} cannot update resource claim statues"));
    }
    if !told("extendedResourceClaimStatus") {
        return Err(format!("node {node:?} cannot update extended resource claim status"));
    }
    Ok(())
}

fn eviction(node: &str, review: &Review<'_>) -> Result<(), Status> {
    if review.ctx.operation != Operation::Create {
        return Err(forbidden(review, &format!("unexpected operation {}", operation_word(review.ctx.operation))));
    }
    let named = [review.ctx.name, review.object.as_deref().map(read::name).unwrap_or_default()];
    let Some(name) = named.into_iter().find(|n| !n.is_empty()) else {
        return Err(forbidden(review, "could not determine pod from request data"));
    };
    if on_node(review, name)? == node {
        return Ok(());
    }
    Err(forbidden(review, &format!("node {node} can only evict pods with spec.nodeName set to itself")))
}

fn own_node(node: &str, review: &Review<'_>) -> Verdict {
    let named = [review.ctx.name, review.object.as_deref().map(read::name).unwrap_or_default()];
    let asked = named.into_iter().find(|n| !n.is_empty()).unwrap_or_default();
    if asked != node {
        return Err(format!("node {node:?} is not allowed to modify node {asked:?}"));
    }
    let Some(new) = review.object.as_deref() else { return review.old.map_or(Ok(()), |old| may_leave(node, old)) };
    match (review.ctx.operation, review.old) {
        (Operation::Create, _) => {
            if new.at("spec").at("configSource").is_some() {
                return Err(format!("node {node:?} is not allowed to create pods with a non-nil configSource"));
            }
            if new.at("spec").at("podCIDR").is_some() || !new.at("spec").list("podCIDRs").is_empty() {
                return Err(format!("node {node:?} is not allowed to choose its podCIDR"));
            }
            let labels = forbidden_labels(new, None);
            if labels.is_empty() {
                return Ok(());
            }
            Err(format!("node {node:?} is not allowed to set the following labels: {}", labels.join(", ")))
        }
        (Operation::Update, Some(old)) => own_node_update(node, new, old),
        _ => Ok(()),
    }
}

/// A node that could go and come again would shed what it may not change. (Upstream's nodes may not go at all.)
fn may_leave(node: &str, old: &Value) -> Verdict {
    let is_own_taint = |taint: &Value| taint.text("key").starts_with("node.kubernetes.io/");
    let taints = old.at("spec").list("taints").iter().filter(|taint| !is_own_taint(taint)).map(|taint| taint.text("key"));
    let labels = old.at("metadata").entries("labels").map(|(key, _)| key).filter(|key| key.contains("node-restriction.kubernetes.io/"));
    let kept: Vec<&str> = taints.chain(labels).collect();
    if kept.is_empty() {
        return Ok(());
    }
    Err(format!("node {node:?} is not allowed to delete itself while others have set on it: {}", kept.join(", ")))
}

fn own_node_update(node: &str, new: &Value, old: &Value) -> Verdict {
    let same = |part: &str, field: &str| read::same(new.at(part).at(field), old.at(part).at(field));
    if new.at("spec").at("configSource").is_some() && !same("spec", "configSource") {
        return Err(format!("node {node:?} is not allowed to update configSource to a new non-nil configSource"));
    }
    if !same("spec", "taints") {
        return Err(format!("node {node:?} is not allowed to modify taints"));
    }
    // It may be set once, from nothing: by who gives ranges out, and by no node, which could take one that others need.
    if !same("spec", "podCIDR") || !same("spec", "podCIDRs") {
        return Err(format!("node {node:?} is not allowed to choose its podCIDR"));
    }
    if !same("metadata", "ownerReferences") {
        return Err(format!("node {node:?} is not allowed to modify ownerReferences"));
    }
    let labels = forbidden_labels(new, Some(old));
    if labels.is_empty() { Ok(()) } else { Err(format!("is not allowed to modify labels: {}", labels.join(", "))) }
}

/// Labels that differ and that are not the node's to set, sorted.
fn forbidden_labels(new: &Value, old: Option<&Value>) -> Vec<String> {
    let labels = |o: Option<&Value>| o.at("metadata").entries("labels").map(|(k, v)| (k.to_owned(), v.to_owned())).collect::<BTreeSet<_>>();
    let (new, old) = (labels(Some(new)), labels(old));
    let changed: BTreeSet<&str> = new.symmetric_difference(&old).map(|(key, _)| key.as_str()).collect();
    changed.into_iter().filter(|key| !is_own_label(key)).map(str::to_owned).collect()
}

fn is_own_label(key: &str) -> bool {
    let Some((domain, _)) = key.split_once('/') else { return true };
    let within = |of: &str| domain == of || domain.strip_suffix(of).is_some_and(|rest| rest.ends_with('.'));
    if within("node-restriction.kubernetes.io") {
        return false;
    }
    let reserved = within("kubernetes.io") || within("k8s.io");
    !reserved || OWN_LABELS.contains(&key) || OWN_PREFIXES.iter().any(|p| within(p))
}

fn token(node: &str, review: &Review<'_>) -> Result<(), Status> {
    if review.ctx.operation != Operation::Create {
        return Ok(());
    }
    let spec = review.object.as_deref().at("spec");
    let reference = spec.at("boundObjectRef");
    if reference.text("apiVersion") != "v1" || reference.text("kind") != "Pod" || reference.text("name").is_empty() {
        return Err(forbidden(review, "node requested token not bound to a pod"));
    }
    let uid = reference.text("uid");
    if uid.is_empty() {
        return Err(forbidden(review, "node requested token with a pod binding without a uid"));
    }
    let pod = find_pod(review, reference.text("name"))?;
    if read::text_at(&pod, "/metadata/uid") != uid {
        let why = "does not match the UID in record. The object might have been deleted and then recreated";
        return Err(forbidden(review, &format!("the UID in the bound object reference ({uid}) {why}")));
    }
    if pod.at("spec").text("nodeName") != node {
        return Err(forbidden(review, "node requested token bound to a pod scheduled on a different node"));
    }
    let find = |group: &str, resource: &str, namespace: &str, name: &str| {
        let gr = GroupResource::new(group, resource);
        (!name.is_empty()).then(|| review.ctx.engine.cached(&gr, &Key::new(namespace, name))).flatten().map(|object| object.value())
    };
    audience(spec, &pod, &review.ctx.user.name, &find).map_err(|why| forbidden(review, &why))
}

/// An object by group, resource, namespace and name.
type Find<'a> = dyn Fn(&str, &str, &str, &str) -> Option<Value> + 'a;

/// A node may ask for the audience of one of the pod's volumes only, or of their drivers. Source: `podReferencesAudience`.
fn audience(spec: Option<&Value>, pod: &Value, user: &str, find: &Find<'_>) -> Verdict {
    let wanted = match spec.list("audiences") {
        [] => "",
        [one] => one.as_str().unwrap_or_default(),
        _ => return Err("node may only request 0 or 1 audiences".into()),
    };
    let mut sources = pod.at("spec").list("volumes").iter().flat_map(|v| v.at("projected").list("sources").to_vec());
    if sources.any(|s| s.at("serviceAccountToken").is_some_and(|t| t.text("audience") == wanted)) {
        return Ok(());
    }
    let wants = |driver: &str| {
        let driver = find("storage.k8s.io", "csidrivers", "", driver);
        driver.as_ref().at("spec").list("tokenRequests").iter().any(|request| request.text("audience") == wanted)
    };
    if pod.at("spec").list("volumes").iter().any(|volume| wants(&driver_of(pod, volume, find))) {
        return Ok(());
    }
    Err(format!("audience {wanted:?} not found in pod spec volume, {user} is not authorized to request tokens for this audience"))
}

/// The driver that a volume names, or what its claim is bound to; empty where there is none.
fn driver_of(pod: &Value, volume: &Value, find: &Find<'_>) -> String {
    let (named, of) = (volume.at("csi").text("driver"), pod.at("metadata"));
    if !named.is_empty() {
        return named.to_owned();
    }
    let claim = match volume.at("ephemeral") {
        Some(_) => name_for_pod(of.text("name"), volume.text("name")),
        None => volume.at("persistentVolumeClaim").text("claimName").to_owned(),
    };
    let claim = find("", "persistentvolumeclaims", of.text("namespace"), &claim);
    let bound = find("", "persistentvolumes", "", claim.as_ref().at("spec").text("volumeName"));
    bound.as_ref().at("spec").at("csi").text("driver").to_owned()
}

fn lease(node: &str, review: &Review<'_>) -> Verdict {
    if review.ctx.operation != Operation::Create || review.ctx.namespace != "kube-node-lease" {
        return Ok(());
    }
    match review.object.as_deref().map(read::name) {
        Some(name) if name != node => Err("can only access node lease with the same name as the requesting node".into()),
        _ => Ok(()),
    }
}

fn csi_node(node: &str, review: &Review<'_>) -> Verdict {
    let name = match review.ctx.operation {
        Operation::Create => review.object.as_deref().map(read::name).unwrap_or_default(),
        _ => review.ctx.name,
    };
    if name == node { Ok(()) } else { Err("can only access CSINode with the same name as the requesting node".into()) }
}

fn on_node(review: &Review<'_>, name: &str) -> Result<String, Status> {
    Ok(find_pod(review, name)?.at("spec").text("nodeName").to_owned())
}

fn find_pod(review: &Review<'_>, name: &str) -> Result<Value, Status> {
    let gr = GroupResource::new("", "pods");
    let found = review.ctx.engine.cached(&gr, &Key::new(review.ctx.namespace, name));
    found.map(|pod| pod.value()).ok_or_else(|| Status::not_found(&gr, name))
}

fn operation_word(operation: Operation) -> &'static str {
    match operation {
        Operation::Create => "CREATE",
        Operation::Update => "UPDATE",
        Operation::Delete => "DELETE",
        Operation::Connect => "CONNECT",
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_node_takes_no_range() {
        let node = |range: Option<&str>| json!({"metadata": {"name": "a"}, "spec": {"podCIDR": range, "podCIDRs": range.map(|one| [one])}});
        let (none, half) = (json!({"metadata": {"name": "a"}, "spec": {}}), "10.244.128.0/17");
        // Half of the cluster's: no node that comes later would have one.
        assert!(own_node_update("a", &node(Some(half)), &none).unwrap_err().contains("podCIDR"));
        assert_eq!(own_node_update("a", &node(Some(half)), &node(Some(half))), Ok(()));
        assert_eq!(own_node_update("a", &none, &none), Ok(()));
    }

    #[test]
    fn labels_of_the_system_are_not_the_nodes() {
        let cases = [
            ("app", true),
            ("example.com/x", true),
            ("kubernetes.io/hostname", true),
            ("node.kubernetes.io/anything", true),
            ("x.node.kubernetes.io/y", true),
            ("kubelet.kubernetes.io/y", true),
            ("node-role.kubernetes.io/control-plane", false),
            ("node-restriction.kubernetes.io/x", false),
            ("a.node-restriction.kubernetes.io/x", false),
            ("k8s.io/x", false),
            ("notkubernetes.io/x", true),
        ];
        for (label, own) in cases {
            assert_eq!(is_own_label(label), own, "{label}");
        }
        let with = |labels: Value| json!({"metadata": {"labels": labels}});
        let (new, old) = (with(json!({"k8s.io/a": "1", "b": "2"})), with(json!({"k8s.io/a": "1"})));
        assert!(forbidden_labels(&new, Some(&old)).is_empty(), "what stays is no change");
        assert_eq!(forbidden_labels(&new, None), ["k8s.io/a"]);
        assert_eq!(forbidden_labels(&with(json!({})), Some(&old)), ["k8s.io/a"], "removal is a change");
    }

    #[test]
    fn a_node_that_others_have_marked_may_not_go_and_come_again() {
        let node = |taints: Value, labels: Value| json!({"metadata": {"name": "n", "labels": labels}, "spec": {"taints": taints}});
        let own = json!([{"key": "node.kubernetes.io/unschedulable", "effect": "NoSchedule"}]);
        assert_eq!(may_leave("n", &node(own, json!({"app": "x"}))), Ok(()));
        let quarantined = node(json!([{"key": "quarantine", "effect": "NoExecute"}]), json!({}));
        assert_eq!(
            may_leave("n", &quarantined).unwrap_err(),
            "node \"n\" is not allowed to delete itself while others have set on it: quarantine"
        );
        assert!(may_leave("n", &node(json!([]), json!({"node-restriction.kubernetes.io/zone": "a"}))).is_err());
    }

    #[test]
    fn mirror_pods_belong_to_their_node() {
        let good = json!({
            "metadata": {"annotations": {CONFIG_MIRROR: "x"}, "ownerReferences": [{"apiVersion": "v1", "kind": "Node", "name": "n", "controller": true}]},
            "spec": {"nodeName": "n"},
        });
        assert_eq!(mirror_pod("n", &good), Ok(()));
        type Change = fn(&mut Value);
        let cases: [(Change, &str); 6] = [
            (|p| p["metadata"]["annotations"] = json!({}), "can only create mirror pods"),
            (|p| p["spec"]["nodeName"] = "m".into(), "spec.nodeName set to itself"),
            (|p| p["metadata"]["ownerReferences"] = json!([]), "with an owner reference set to itself"),
            (|p| p["metadata"]["ownerReferences"][0]["name"] = "m".into(), "with an owner reference set to itself"),
            (|p| p["metadata"]["ownerReferences"][0]["controller"] = false.into(), "controller owner reference"),
            (|p| p["spec"]["volumes"] = json!([{"secret": {"secretName": "x"}}]), "can not create pods that reference secrets"),
        ];
        for (change, why) in cases {
            let mut pod = good.clone();
            change(&mut pod);
            assert!(mirror_pod("n", &pod).unwrap_err().contains(why), "{why}");
        }
    }

    #[test]
    fn nodes_keep_their_taints() {
        let node = |taints: Value| json!({"spec": {"taints": taints}});
        assert!(own_node_update("n", &node(json!([])), &node(Value::Null)).is_ok());
        let why = own_node_update("n", &node(json!([])), &node(json!([{"key": "x"}]))).unwrap_err();
        assert_eq!(why, "node \"n\" is not allowed to modify taints");
    }

    #[test]
    fn tokens_are_for_audiences_of_the_pod() {
        let pod = json!({"spec": {"volumes": [{"projected": {"sources": [{"serviceAccountToken": {"audience": "vault"}}]}}]}});
        let none = |_: &str, _: &str, _: &str, _: &str| None;
        assert!(audience(Some(&json!({"audiences": ["vault"]})), &pod, "u", &none).is_ok());
        assert!(audience(Some(&json!({"audiences": ["other"]})), &pod, "u", &none).is_err());
        assert!(audience(Some(&json!({})), &pod, "u", &none).is_err());
    }

    #[test]
    fn tokens_are_for_audiences_of_the_drivers_of_the_pods_volumes() {
        let find = |_: &str, resource: &str, namespace: &str, name: &str| match (resource, namespace, name) {
            ("csidrivers", "", "d") => Some(json!({"spec": {"tokenRequests": [{"audience": "vault"}]}})),
            ("persistentvolumeclaims", "n", "data" | "p-own") => Some(json!({"spec": {"volumeName": "pv"}})),
            ("persistentvolumes", "", "pv") => Some(json!({"spec": {"csi": {"driver": "d"}}})),
            _ => None,
        };
        let asked = |volume: Value, audience: &str| {
            let pod = json!({"metadata": {"name": "p", "namespace": "n"}, "spec": {"volumes": [volume]}});
            super::audience(Some(&json!({"audiences": [audience]})), &pod, "u", &find).is_ok()
        };
        for volume in [
            json!({"name": "v", "csi": {"driver": "d"}}),
            json!({"name": "v", "persistentVolumeClaim": {"claimName": "data"}}),
            json!({"name": "own", "ephemeral": {"volumeClaimTemplate": {}}}),
        ] {
            assert!(asked(volume.clone(), "vault") && !asked(volume.clone(), "other"), "{volume}");
        }
        for other in [json!({"name": "v", "csi": {"driver": "e"}}), json!({"name": "v", "persistentVolumeClaim": {"claimName": "x"}})] {
            assert!(!asked(other, "vault"));
        }
    }

    #[test]
    fn of_a_claim_a_node_writes_its_size_alone() {
        let claim = |status: Value, label: &str| json!({"metadata": {"labels": {"a": label}, "resourceVersion": "1"}, "status": status});
        let old = beyond_its_own(Some(&claim(json!({"phase": "Bound"}), "x")));
        let grown = claim(json!({"phase": "Bound", "capacity": {"storage": "2Gi"}, "conditions": []}), "x");
        assert_eq!(beyond_its_own(Some(&grown)), old);
        assert_ne!(beyond_its_own(Some(&claim(json!({"phase": "Lost"}), "x"))), old);
        assert_ne!(beyond_its_own(Some(&claim(json!({"phase": "Bound"}), "y"))), old);
    }
}
