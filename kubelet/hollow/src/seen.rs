//! JSON of lists and watches -> the little that hollow nodes keep of pods and nodes.

use std::net::IpAddr;

use api::time::Timestamp;
use client::kube::Client;
use ipnet::IpNet;
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::sync::oneshot;
use uuid::Uuid;

use super::{
    plan::PodView,
    stages::{Phase, RestartPolicy},
};

/// News for the fleet.
#[derive(Debug)]
pub enum Seen {
    /// All there is of a kind, of all nodes or of one, follows, up to `Listed`: what does not come is gone.
    Listing(What, Option<u32>),
    Listed(What, Option<u32>),
    Pod(Box<PodSeen>),
    PodGone(u128),
    Node(NodeSeen),
    NodeGone(Box<str>),
    Joined(Box<Joined>),
    /// The node's server has its certificate.
    Certified,
    /// A node tries again to join, for that reason.
    Failed(String),
    /// A node, and why the cluster does not take it.
    Refused(Box<str>),
}

/// A node that may come to the API server as itself.
pub struct Joined {
    pub number: u32,
    pub client: Client,
    /// Told once the node is registered.
    pub is_up: oneshot::Sender<()>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    Pods,
    Nodes,
}

#[derive(Debug)]
pub struct PodSeen {
    pub uid: u128,
    pub rev: u64,
    pub generation: i64,
    pub name: Box<str>,
    pub node: Box<str>,
    pub view: PodView,
    pub containers: Box<[Container]>,
    pub host_network: bool,
    pub ip: Option<IpAddr>,
    pub start: Option<Timestamp>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Container {
    pub name: Box<str>,
    pub image: Box<str>,
    pub role: Role,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    Main,
    /// Has ended before the main ones begin.
    Init,
    /// An init container that goes on.
    Sidecar,
}

#[derive(Debug)]
pub struct NodeSeen {
    pub name: Box<str>,
    pub uid: u128,
    pub cidr: Option<IpNet>,
    /// The condition Ready.
    pub ready: Ready,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Ready {
    True,
    False,
    /// Said by the control plane of a node that it does not hear of.
    #[default]
    Unknown,
}

impl std::fmt::Debug for Joined {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Joined({}, ..)", self.number)
    }
}

/// One line of a watch.
#[derive(Deserialize)]
pub struct Event<'a> {
    #[serde(rename = "type")]
    pub kind: &'a str,
    #[serde(borrow)]
    pub object: &'a RawValue,
}

/// One page of a list.
#[derive(Deserialize)]
pub struct Page<'a> {
    pub metadata: PageMeta,
    #[serde(borrow, default)]
    pub items: Option<Vec<&'a RawValue>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PageMeta {
    pub resource_version: String,
    #[serde(default, rename = "continue")]
    pub next: Option<String>,
}

#[derive(Deserialize)]
struct Head {
    #[serde(default)]
    metadata: Meta,
    /// Of a `Status`.
    #[serde(default)]
    code: u16,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Meta {
    name: Box<str>,
    namespace: Box<str>,
    uid: String,
    resource_version: String,
    generation: i64,
    deletion_timestamp: Option<String>,
    labels: Option<std::collections::BTreeMap<Box<str>, Box<str>>>,
    owner_references: Option<Vec<Owner>>,
}

#[derive(Deserialize)]
struct Owner {
    kind: Box<str>,
    #[serde(default)]
    controller: Option<bool>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct RawPod {
    metadata: Meta,
    spec: PodSpec,
    status: PodStatus,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct PodSpec {
    node_name: Box<str>,
    restart_policy: RestartPolicy,
    host_network: bool,
    containers: Vec<RawContainer>,
    init_containers: Option<Vec<RawContainer>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawContainer {
    name: Box<str>,
    #[serde(default)]
    image: Box<str>,
    #[serde(default)]
    restart_policy: Option<RestartPolicy>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct PodStatus {
    phase: Option<Phase>,
    #[serde(rename = "podIP")]
    pod_ip: Option<String>,
    start_time: Option<String>,
    conditions: Option<Vec<Condition>>,
}

#[derive(Deserialize)]
struct Condition {
    #[serde(rename = "type")]
    kind: String,
    status: String,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct RawNode {
    metadata: Meta,
    spec: NodeSpec,
    status: NodeStatus,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct NodeSpec {
    #[serde(rename = "podCIDR")]
    pod_cidr: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct NodeStatus {
    conditions: Option<Vec<Condition>>,
}

/// Which labels are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Labels {
    Keep,
    Drop,
}

/// An object that is there. `None` is one that is not for us: a pod without a node.
pub fn object(what: What, json: &str, labels: Labels) -> Result<Option<Seen>, serde_json::Error> {
    match what {
        What::Pods => {
            let pod: RawPod = serde_json::from_str(json)?;
            Ok((!pod.spec.node_name.is_empty()).then(|| Seen::Pod(Box::new(pod_seen(pod, labels)))))
        }
        What::Nodes => serde_json::from_str(json).map(|node| Some(Seen::Node(node_seen(node)))),
    }
}

/// An object that is gone.
pub fn gone(what: What, json: &str) -> Result<Seen, serde_json::Error> {
    let head: Head = serde_json::from_str(json)?;
    Ok(match what {
        What::Pods => Seen::PodGone(uid(&head.metadata.uid)),
        What::Nodes => Seen::NodeGone(head.metadata.name),
    })
}

/// The `resourceVersion`, uid and, of a `Status`, the code; zero and empty where there is none.
pub fn head(json: &[u8]) -> (String, u128, u16) {
    match serde_json::from_slice::<Head>(json) {
        Ok(head) => (head.metadata.resource_version, uid(&head.metadata.uid), head.code),
        Err(_) => (String::new(), 0, 0),
    }
}

/// Revisions count (KEP-5504); 0 where it is none.
pub fn revision(text: &str) -> u64 {
    text.parse().unwrap_or(0)
}

fn uid(text: &str) -> u128 {
    Uuid::parse_str(text).map_or(0, |u| u.as_u128())
}

fn pod_seen(pod: RawPod, labels: Labels) -> PodSeen {
    let (meta, spec, status) = (pod.metadata, pod.spec, pod.status);
    let kept = if labels == Labels::Keep { meta.labels.unwrap_or_default().into_iter().collect() } else { Box::default() };
    let view = PodView {
        namespace: meta.namespace,
        phase: status.phase.unwrap_or_default(),
        restart_policy: spec.restart_policy,
        ready: ready(status.conditions.as_deref()) == Ready::True,
        deleted: meta.deletion_timestamp.is_some(),
        owner: meta.owner_references.into_iter().flatten().find(|o| o.controller == Some(true)).map(|o| o.kind),
        labels: kept,
    };
    let first = spec.init_containers.unwrap_or_default().into_iter().map(|c| {
        let role = if c.restart_policy == Some(RestartPolicy::Always) { Role::Sidecar } else { Role::Init };
        Container { name: c.name, image: c.image, role }
    });
    let main = spec.containers.into_iter().map(|c| Container { name: c.name, image: c.image, role: Role::Main });
    PodSeen {
        uid: uid(&meta.uid),
        rev: revision(&meta.resource_version),
        generation: meta.generation,
        name: meta.name,
        node: spec.node_name,
        view,
        containers: first.chain(main).collect(),
        host_network: spec.host_network,
        ip: status.pod_ip.and_then(|ip| ip.parse().ok()),
        start: status.start_time.as_deref().and_then(api::time::parse),
    }
}

fn node_seen(node: RawNode) -> NodeSeen {
    NodeSeen {
        name: node.metadata.name,
        uid: uid(&node.metadata.uid),
        cidr: node.spec.pod_cidr.and_then(|cidr| cidr.parse().ok()),
        ready: ready(node.status.conditions.as_deref()),
    }
}

fn ready(conditions: Option<&[Condition]>) -> Ready {
    match conditions.into_iter().flatten().find(|c| c.kind == "Ready").map(|c| c.status.as_str()) {
        Some("True") => Ready::True,
        Some("False") => Ready::False,
        _ => Ready::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const POD: &str = r#"{"kind":"Pod","metadata":{"name":"p","namespace":"n","uid":"6fa459ea-ee8a-3ca4-894e-db77e160355e","resourceVersion":"42",
        "generation":3,"labels":{"a":"b"},"ownerReferences":[{"kind":"X","name":"x"},{"kind":"Job","name":"j","controller":true}]},
        "spec":{"nodeName":"hollow-1","restartPolicy":"Never","containers":[{"name":"c","image":"i"}],
        "initContainers":[{"name":"once","image":"j"},{"name":"side","image":"k","restartPolicy":"Always"}]},
        "status":{"phase":"Running","podIP":"10.0.0.9","startTime":"2026-01-02T03:04:05Z","conditions":[{"type":"Ready","status":"True"}]}}"#;

    #[test]
    fn a_pod_is_read() {
        let Ok(Some(Seen::Pod(pod))) = object(What::Pods, POD, Labels::Keep) else { panic!() };
        assert_eq!((pod.rev, pod.generation, &*pod.node, pod.ip), (42, 3, "hollow-1", "10.0.0.9".parse().ok()));
        assert_eq!(Uuid::from_u128(pod.uid).to_string(), "6fa459ea-ee8a-3ca4-894e-db77e160355e");
        assert_eq!(pod.view.owner.as_deref(), Some("Job"));
        assert_eq!((pod.view.phase, pod.view.restart_policy, pod.view.ready), (Phase::Running, RestartPolicy::Never, true));
        assert_eq!(pod.view.labels.len(), 1);
        assert!(pod.start.is_some());
        let roles: Vec<_> = pod.containers.iter().map(|c| (&*c.name, c.role)).collect();
        assert_eq!(roles, [("once", Role::Init), ("side", Role::Sidecar), ("c", Role::Main)]);
        let Ok(Some(Seen::Pod(pod))) = object(What::Pods, POD, Labels::Drop) else { panic!() };
        assert!(pod.view.labels.is_empty());
    }

    #[test]
    fn a_pod_without_a_node_is_not_ours() {
        let pending = r#"{"metadata":{"name":"p"},"spec":{"containers":[]},"status":{}}"#;
        assert!(object(What::Pods, pending, Labels::Drop).unwrap().is_none());
    }

    #[test]
    fn events_pages_and_statuses() {
        let event: Event = serde_json::from_str(r#"{"type":"ERROR","object":{"kind":"Status","status":"Failure","code":410}}"#).unwrap();
        assert_eq!((event.kind, head(event.object.get().as_bytes()).2), ("ERROR", 410));
        let page: Page = serde_json::from_str(r#"{"metadata":{"resourceVersion":"7","continue":"x"},"items":[{"a":1},{}]}"#).unwrap();
        assert_eq!(
            (page.metadata.resource_version.as_str(), page.metadata.next.as_deref(), page.items.unwrap().len()),
            ("7", Some("x"), 2)
        );
        let empty: Page = serde_json::from_str(r#"{"metadata":{"resourceVersion":"7"},"items":null}"#).unwrap();
        assert!(empty.items.is_none());
    }

    #[test]
    fn a_node_is_read() {
        let json = r#"{"metadata":{"name":"h","uid":"6fa459ea-ee8a-3ca4-894e-db77e160355e"},"spec":{"podCIDR":"10.1.0.0/24"},
            "status":{"conditions":[{"type":"Ready","status":"False"}]}}"#;
        let Ok(Some(Seen::Node(node))) = object(What::Nodes, json, Labels::Drop) else { panic!() };
        assert_eq!((&*node.name, node.cidr, node.ready), ("h", "10.1.0.0/24".parse().ok(), Ready::False));
    }
}
