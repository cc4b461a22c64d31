//! A node's request for its serving certificate -> approved, where it asks for its own addresses and nobody else's.
//!
//! Upstream approves none: what a node says of its own addresses is but its word. Here the word must stand against all others': nothing of the API servers, of
//! services or of pods, and no other node's name. What several nodes report is no reason to refuse it to all of them, or one that was taken over could keep any
//! other from its certificate. It is the oldest's, which who comes later cannot change; or that node's whose connection comes from the address, unless another
//! that reports it is Ready: a relay may lend its own. What is not reported yet waits, what can never be is denied: the node may ask again for its name alone, which
//! nobody can take from it, and by which the API server knows it.

use std::{collections::BTreeSet, net::IpAddr, sync::Arc};

use api::{
    Key,
    csr::{self, NODE_USER_PREFIX, NODES_GROUP, Requested},
    k8s::api::{
        certificates::v1::CertificateSigningRequest,
        core::v1::{ConfigMap, Endpoints, Node},
    },
    time::Timestamp,
};
use client::{Cache, Caches, Object, kube};
use kube::ResourceExt;
use reconcile::{Controller, Plan, Wake, own_key};

use super::{Authority, Reserved, approve, deny, is_decided, is_issued, usages};
use crate::{Config, index::Index};

/// Of what a node reports, no more is looked at.
const ADDRESSES_MAX: usize = 16;
/// Requests of one node that nobody has decided on.
const PENDING_MAX: usize = 16;

const MESSAGE: &str = "Auto approving kubelet serving certificate: its names are the node's addresses, and nobody else's.";

pub struct ServingApproval {
    requests: Cache<CertificateSigningRequest>,
    nodes: Cache<Node>,
    /// The API servers' own, under `kubernetes` in `default`.
    servers: Cache<Endpoints>,
    /// What they are called, and were.
    server_names: Cache<ConfigMap>,
    /// Requests that nobody has decided on, by the node that asks.
    pending: Index<CertificateSigningRequest, String>,
    /// Nodes by all that they are called.
    called: Index<Node, String>,
    authority: Arc<dyn Authority>,
    reserved: Reserved,
}

pub struct World {
    request: Arc<CertificateSigningRequest>,
    verdict: Verdict,
    now: Timestamp,
}

/// What a node may be called. Another node's name is nobody else's; but where it looks like an address, it says nothing about who has that.
#[derive(Clone, Copy)]
enum Kind {
    Name,
    /// Whether the node's connection comes from there.
    Address {
        is_proven: bool,
    },
}

#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Fine,
    /// The node may yet report what it asks for.
    Waits,
    Never(String),
}

impl ServingApproval {
    pub fn new(caches: &Caches, config: &Config) -> Self {
        let (authority, reserved) = (config.authority.clone(), config.reserved.clone());
        let (requests, nodes) = (caches.of(), caches.of());
        let pending =
            Index::new(&requests, |request: &CertificateSigningRequest| requestor(request).map(str::to_owned).into_iter().collect());
        let called = Index::new(&nodes, names_of);
        let servers = caches.filtered("metadata.namespace=default,metadata.name=kubernetes");
        let server_names = caches.filtered(&format!("metadata.namespace=kube-system,metadata.name={}", csr::SERVING_NAMES));
        Self { requests, nodes, servers, server_names, pending, called, authority, reserved }
    }

    /// `source`: where the node's connection comes from.
    fn verdict(&self, node: &str, asked: &Requested, source: Option<IpAddr>) -> Verdict {
        if self.pending.count(&node.to_owned()) > PENDING_MAX {
            return Verdict::Never(format!("more than {PENDING_MAX} requests of node {node:?} wait already"));
        }
        let servers = self.servers_are();
        let reported = self.nodes.get(&Key::new("", node));
        let mut verdict = Verdict::Fine;
        let dns = asked.dns.iter().map(|name| (canonical(name), self.reserved.name(name), Kind::Name));
        let addresses = asked.addresses.iter().map(|address| {
            let address = address.to_canonical();
            (address.to_string(), self.reserved.address(address), Kind::Address { is_proven: source == Some(address) })
        });
        for (name, reserved, kind) in dns.chain(addresses) {
            // No server is known by a node's certificate (`client/src/certificate/servers.rs`): a machine that was one once may be a node.
            let is_own_name = matches!(kind, Kind::Name) && name == canonical(node);
            let is_server = !is_own_name && servers.contains(&name);
            if let Some(why) = reserved.or_else(|| is_server.then_some("it is the API server's")) {
                return Verdict::Never(format!("no node's certificate may bear {name:?}: {why}"));
            }
            if !is_own_name && let Some(why) = self.is_anothers(&name, kind, node, reported.as_deref()) {
                return Verdict::Never(why);
            }
            let is_known = match (&reported, kind) {
                (None, _) => false,
                (Some(node), Kind::Name) => names_of(node).contains(&name),
                (Some(node), Kind::Address { .. }) => reports(node).any(|reported| reported == name),
            };
            if !is_known {
                verdict = Verdict::Waits;
            }
        }
        verdict
    }

    /// Why the name or address is not for this node, where others are called so, too.
    fn is_anothers(&self, name: &str, kind: Kind, node: &str, reported: Option<&Node>) -> Option<String> {
        let others = self.called.at(&name.to_owned());
        let mut others = others.iter().filter(|other| other.object_meta().name != node);
        let is_proven = match kind {
            Kind::Address { is_proven } => is_proven,
            Kind::Name => {
                if let Some(other) = others.clone().find(|other| canonical(other.object_meta().name) == name) {
                    return Some(format!("{name:?} is node {:?}: node {node:?} cannot have a certificate for it", other.name_any()));
                }
                false
            }
        };
        // A connection may come through a relay on the other's machine: it is no proof against one who is there.
        let yields = |other: &Node| is_proven && !is_ready(other);
        let claims = |other: &Node| reports(other).any(|reported| reported == name);
        let first = others.find(|other| claims(other) && !yields(other) && reported.is_none_or(|own| rank(other) < rank(own)))?;
        Some(format!(
            "{name:?} is reported by node {:?} as well, which was there before, and is Ready, or the connection of node {node:?} does not come from there: it \
             cannot have a certificate for it",
            first.name_any()
        ))
    }

    /// What all API servers are called: where those are that run, and the names of all that there ever were: one that is away comes back.
    fn servers_are(&self) -> BTreeSet<String> {
        let endpoints = self.servers.get(&Key::new("default", "kubernetes"));
        let told = self.server_names.get(&Key::new("kube-system", csr::SERVING_NAMES));
        let subsets = endpoints.iter().flat_map(|endpoints| endpoints.subsets.iter().flatten());
        let all = subsets.flat_map(|subset| subset.addresses.iter().chain(&subset.not_ready_addresses).flatten());
        let names = told.as_ref().and_then(|told| told.data.as_ref()?.get(csr::SERVING_NAMES_KEY));
        let names = names.into_iter().flat_map(|names| names.split(','));
        all.map(|address| address.ip.as_str()).chain(names).map(|name| canonical(name.trim())).filter(|name| !name.is_empty()).collect()
    }
}

impl Controller for ServingApproval {
    type World = World;

    fn name(&self) -> &'static str {
        "kubelet-serving-approving-controller"
    }

    fn watches(&self, wake: &Wake) {
        wake.on_own(&self.requests);
        wake.needs(&self.servers);
        wake.needs(&self.server_names);
        let pending = self.pending.clone();
        wake.on(&self.nodes, move |node, wake| pending.at(&node.name_any()).iter().for_each(|request| wake(own_key(&**request))));
    }

    async fn observe(&self, key: &Key) -> Option<World> {
        let request = self.requests.get(key)?;
        let node = requestor(&request)?;
        let asked = self.authority.look(&request.spec.request.0).ok()?;
        csr::kubelet_serving(&asked, usages(&request)).ok()?;
        // Nobody asks for another.
        if asked.node() != Some(node) {
            return None;
        }
        let verdict = self.verdict(node, &asked, source(&request));
        Some(World { request, verdict, now: Timestamp::now() })
    }

    fn plan(&self, world: &World, _: &Key) -> Plan {
        match &world.verdict {
            Verdict::Fine => Plan::act(vec![approve(&world.request, MESSAGE, world.now)]),
            Verdict::Waits => Plan::rest(),
            Verdict::Never(why) => Plan::act(vec![deny(&world.request, csr::FOREIGN_ADDRESS, why.clone(), world.now)]),
        }
    }
}

/// The node that asks for a serving certificate, as long as nobody has decided.
fn requestor(request: &CertificateSigningRequest) -> Option<&str> {
    let spec = &request.spec;
    if spec.signer_name != csr::KUBELET_SERVING || is_decided(request) || is_issued(request) {
        return None;
    }
    let is_node = spec.groups.iter().flatten().any(|group| group == NODES_GROUP);
    let name = spec.username.as_deref().and_then(|user| user.strip_prefix(NODE_USER_PREFIX))?;
    (is_node && !name.is_empty()).then_some(name)
}

/// Where the connection came from that the request was made on, as the API server saw it.
fn source(request: &CertificateSigningRequest) -> Option<IpAddr> {
    let seen = request.spec.extra.as_ref()?.get(csr::SOURCE_ADDRESS)?;
    seen.first()?.parse::<IpAddr>().ok().map(|address| address.to_canonical())
}

/// Who came first: by creation, then by name.
fn rank(node: &Node) -> (Timestamp, &str) {
    let created = node.metadata.creation_timestamp.as_ref().map_or(Timestamp::MAX, |created| created.0);
    (created, node.object_meta().name)
}

/// All that a node is called: its own name, and what it reports.
fn names_of(node: &Node) -> Vec<String> {
    let mut names: Vec<String> = std::iter::once(canonical(node.object_meta().name)).chain(reports(node)).collect();
    names.sort_unstable();
    names.dedup();
    names
}

/// The first [`ADDRESSES_MAX`] names and addresses that it reports.
fn reports(node: &Node) -> impl Iterator<Item = String> {
    let reported = node.status.iter().flat_map(|status| status.addresses.iter().flatten());
    reported.take(ADDRESSES_MAX).map(|address| canonical(&address.address))
}

/// One text for each name and each address.
fn canonical(name: &str) -> String {
    match name.parse::<IpAddr>() {
        Ok(address) => address.to_canonical().to_string(),
        Err(_) => name.trim_end_matches('.').to_ascii_lowercase(),
    }
}

/// Whether the node controller hears of it, and it is well.
fn is_ready(node: &Node) -> bool {
    let conditions = node.status.iter().flat_map(|status| status.conditions.iter().flatten());
    conditions.into_iter().any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use api::task::Group;
    use client::Cache;
    use serde_json::{Value, json};

    use super::*;
    use crate::certificates::tests::{request, written};

    const USAGES: &[&str] = &["digital signature", "server auth"];

    /// Each thing that is told of is newer than what was told before.
    fn newer() -> String {
        static LAST: AtomicU64 = AtomicU64::new(10);
        LAST.fetch_add(1, Ordering::Relaxed).to_string()
    }

    /// Created in that second.
    fn node(name: &str, second: u8, addresses: &[(&str, &str)]) -> Node {
        let addresses: Vec<Value> = addresses.iter().map(|(kind, address)| json!({"type": kind, "address": address})).collect();
        let metadata = json!({"name": name, "resourceVersion": newer(), "creationTimestamp": format!("2026-01-01T00:00:{second:02}Z")});
        serde_json::from_value(json!({"metadata": metadata, "status": {"addresses": addresses}})).unwrap()
    }

    struct House {
        nodes: Cache<Node>,
        loops: ServingApproval,
        requests: Cache<CertificateSigningRequest>,
        _group: Group,
    }

    fn house() -> House {
        let group = Group::new();
        let nobody = tower::service_fn(|_: http::Request<kube::client::Body>| async {
            Ok::<_, std::convert::Infallible>(http::Response::new(kube::client::Body::empty()))
        });
        let caches = Caches::unfollowed(kube::Client::new(nobody, "default"), group.clone());
        let reserved = Reserved { addresses: vec!["192.0.2.1".parse().unwrap()], ..Reserved::default() };
        let loops = ServingApproval::new(&caches, &Config { reserved, ..Config::of_tests() });
        let node = |name: &str, addresses: &[(&str, &str)]| node(name, 1, addresses);
        let nodes: Cache<Node> = caches.of();
        nodes.feed(
            node("a", &[("InternalIP", "192.0.2.10"), ("Hostname", "A"), ("InternalIP", "192.0.2.66"), ("InternalIP", "192.0.2.2")]),
            false,
        );
        nodes.feed(node("b", &[("InternalIP", "192.0.2.66"), ("Hostname", "b-host")]), false);
        let servers: Cache<Endpoints> = caches.filtered("metadata.namespace=default,metadata.name=kubernetes");
        let endpoints = json!({
            "metadata": {"name": "kubernetes", "namespace": "default"},
            "subsets": [{"addresses": [{"ip": "192.0.2.2"}]}],
        });
        servers.feed(serde_json::from_value(endpoints).unwrap(), false);
        let names: Cache<ConfigMap> = caches.filtered("metadata.namespace=kube-system,metadata.name=skiff-serving-names");
        let told = json!({
            "metadata": {"name": csr::SERVING_NAMES, "namespace": "kube-system"}, "data": {csr::SERVING_NAMES_KEY: "master-2,vip.example,192.0.2.3"},
        });
        names.feed(serde_json::from_value(told).unwrap(), false);
        House { nodes, loops, requests: caches.of(), _group: group }
    }

    async fn asked(house: &House, user: &str, said: Value) -> Option<Plan> {
        asked_from(house, user, said, None).await
    }

    /// The request is decided on, or goes, before the next one comes.
    async fn asked_from(house: &House, user: &str, said: Value, source: Option<&str>) -> Option<Plan> {
        let name = "r";
        let mut asked = request(name, csr::KUBELET_SERVING, user, &said, USAGES);
        asked.metadata.resource_version = Some(newer());
        asked.spec.extra = source.map(|source| [(csr::SOURCE_ADDRESS.to_owned(), vec![source.to_owned()])].into());
        house.requests.feed(asked, false);
        let key = Key::new("", name);
        let world = house.loops.observe(&key).await?;
        Some(house.loops.plan(&world, &key))
    }

    fn said(cn: &str, dns: &[&str], ip: &[&str]) -> Value {
        json!({"cn": cn, "o": ["system:nodes"], "dns": dns, "ip": ip})
    }

    #[tokio::test]
    async fn a_node_gets_what_it_alone_reports() {
        let house = house();
        let (a, me) = ("system:node:a", "system:node:a");
        let plan = asked(&house, a, said(me, &["a"], &["192.0.2.10"])).await.unwrap();
        assert_eq!(written(&plan.actions[0]).0, ["Approved"]);
        for (dns, ip, why) in [
            (&["b"][..], &[][..], "is node \"b\""),
            (&["B."], &[], "is node \"b\""),
            (&["a"], &["127.0.0.1"], "every machine's own"),
            (&["localhost"], &[], "every machine's own"),
            (&["kubernetes.default.svc"], &[], "a service's"),
            (&[], &["192.0.2.1"], "an address of the API server"),
            // Another server than the one that leads.
            (&[], &["192.0.2.2"], "it is the API server's"),
            (&[], &["::ffff:192.0.2.3"], "it is the API server's"),
            (&["Master-2"], &[], "it is the API server's"),
            (&["a", "vip.example."], &[], "it is the API server's"),
        ] {
            let plan = asked(&house, a, said(me, dns, ip)).await.unwrap();
            let (kinds, _, message) = written(&plan.actions[0]);
            assert!(kinds == ["Denied"] && message.contains(why), "{dns:?} {ip:?}: {message}");
        }
        assert_eq!(asked(&house, a, said(me, &["a"], &["192.0.2.11"])).await.unwrap(), Plan::rest(), "not reported yet");
        assert!(asked(&house, a, said("system:node:b", &["b"], &[])).await.is_none(), "another's name");
        assert!(asked(&house, "jane", said("system:node:a", &["a"], &[])).await.is_none(), "no node");
        assert!(asked(&house, "system:bootstrap:abcdef", said("system:node:a", &["a"], &[])).await.is_none(), "not a node yet");
    }

    async fn kind(house: &House, node: &str, dns: &[&str], ip: &[&str], source: Option<&str>) -> String {
        let user = format!("system:node:{node}");
        let plan = asked_from(house, &user, said(&user, dns, ip), source).await.unwrap();
        plan.actions.first().map_or("waits".into(), |action| written(action).0.concat())
    }

    #[tokio::test]
    async fn no_node_keeps_another_from_its_certificate_by_what_it_reports() {
        let house = house();
        let victim = [("InternalIP", "192.0.2.20"), ("Hostname", "v-host")];
        house.nodes.feed(node("v", 5, &victim), false);
        let hostile: Vec<(&str, &str)> = victim.iter().copied().chain([("Hostname", "v"), ("ExternalIP", "v")]).collect();
        for second in [0, 5, 9] {
            house.nodes.feed(node("h", second, &hostile), false);
            assert_eq!(kind(&house, "v", &["v"], &["192.0.2.20"], Some("192.0.2.20")).await, "Approved", "{second}: its connection tells");
            assert_eq!(kind(&house, "v", &["v"], &["192.0.2.20"], Some("::ffff:192.0.2.20")).await, "Approved");
            assert_eq!(kind(&house, "v", &["v"], &[], None).await, "Approved", "{second}: its name alone, wherever it is");
            assert_eq!(kind(&house, "h", &["v"], &[], Some("192.0.2.9")).await, "Denied", "{second}: its name is nobody else's");
        }
        // Behind NAT, no connection tells: who was there before keeps what it has.
        let (near, younger) = (Some("203.0.113.1"), node("h", 9, &hostile));
        house.nodes.feed(younger, false);
        assert_eq!(kind(&house, "v", &["v", "v-host"], &["192.0.2.20"], near).await, "Approved");
        assert_eq!(kind(&house, "h", &["h"], &["192.0.2.20"], near).await, "Denied");
        assert_eq!(kind(&house, "h", &["v-host"], &[], Some("192.0.2.20")).await, "Denied", "an address proves no name");
        house.nodes.feed(node("h", 0, &hostile), false);
        assert_eq!(kind(&house, "v", &["v"], &["192.0.2.20"], near).await, "Denied");
        assert_eq!(kind(&house, "v", &["v"], &[], near).await, "Approved", "what is left to it, and enough for the API server");
        // What it may claim besides its own is little.
        let many: Vec<String> = (1..=254).map(|n| format!("198.51.100.{n}")).collect();
        let many: Vec<(&str, &str)> = many.iter().map(|address| ("InternalIP", address.as_str())).collect();
        house.nodes.feed(node("h", 0, &many), false);
        house.nodes.feed(node("v", 5, &[("InternalIP", "198.51.100.200")]), false);
        assert_eq!(kind(&house, "v", &["v"], &["198.51.100.200"], near).await, "Approved");
    }

    fn ready(mut node: Node) -> Node {
        let condition = json!({"type": "Ready", "status": "True"});
        node.status.get_or_insert_default().conditions = Some(vec![serde_json::from_value(condition).unwrap()]);
        node
    }

    /// Who leads its connection through another's machine seems to come from there.
    #[tokio::test]
    async fn a_borrowed_connection_takes_no_address_from_a_node_that_is_ready() {
        let house = house();
        let address = [("InternalIP", "192.0.2.20")];
        house.nodes.feed(node("h", 9, &address), false);
        house.nodes.feed(ready(node("v", 5, &address)), false);
        assert_eq!(kind(&house, "h", &["h"], &["192.0.2.20"], Some("192.0.2.20")).await, "Denied");
        assert_eq!(kind(&house, "h", &["h"], &[], Some("192.0.2.20")).await, "Approved", "its name alone");
        assert_eq!(kind(&house, "v", &["v"], &["192.0.2.20"], Some("192.0.2.20")).await, "Approved", "it was there before");
        assert_eq!(kind(&house, "new", &["new"], &["192.0.2.20"], Some("192.0.2.20")).await, "Denied", "of no report");
        house.nodes.feed(node("v", 5, &address), false);
        assert_eq!(
            kind(&house, "h", &["h"], &["192.0.2.20"], Some("192.0.2.20")).await,
            "Approved",
            "that one is gone: the address is given anew"
        );
    }

    #[tokio::test]
    async fn a_name_that_looks_like_an_address_takes_none() {
        let house = house();
        house.nodes.feed(node("v", 1, &[("InternalIP", "192.0.2.20")]), false);
        house.nodes.feed(node("192.0.2.20", 9, &[("InternalIP", "192.0.2.20")]), false);
        assert_eq!(kind(&house, "192.0.2.20", &[], &["192.0.2.20"], None).await, "Denied", "its name is no claim to it");
        assert_eq!(kind(&house, "v", &["v"], &["192.0.2.20"], None).await, "Approved", "nor keeps it from whose it is");
        assert_eq!(kind(&house, "192.0.2.20", &["192.0.2.20"], &[], None).await, "Approved", "as a name it is its own");
        assert_eq!(kind(&house, "v", &["192.0.2.20"], &[], None).await, "Denied");
        house.nodes.feed(node("192.0.2.21", 1, &[]), false);
        assert_eq!(kind(&house, "192.0.2.21", &[], &["192.0.2.21"], None).await, "waits", "it is not reported");
        house.nodes.feed(node("w", 9, &[("InternalIP", "192.0.2.21")]), false);
        assert_eq!(kind(&house, "w", &["w"], &["192.0.2.21"], None).await, "Approved", "who is called so does not report it");
    }

    #[tokio::test]
    async fn a_machine_that_was_a_server_once_has_its_own_name_as_a_node() {
        let house = house();
        house.nodes.feed(node("master-2", 9, &[("Hostname", "master-2"), ("InternalIP", "192.0.2.3")]), false);
        assert_eq!(kind(&house, "master-2", &["master-2"], &[], None).await, "Approved");
        assert_eq!(kind(&house, "master-2", &["master-2", "vip.example"], &[], None).await, "Denied");
        assert_eq!(kind(&house, "master-2", &["master-2"], &["192.0.2.3"], Some("192.0.2.3")).await, "Denied", "an address is no name");
        house.nodes.feed(node("192.0.2.3", 9, &[("InternalIP", "192.0.2.3")]), false);
        assert_eq!(kind(&house, "192.0.2.3", &[], &["192.0.2.3"], None).await, "Denied", "nor for who is called so");
    }

    #[tokio::test]
    async fn a_node_has_a_few_requests_at_a_time() {
        let house = house();
        let (a, said) = ("system:node:a", said("system:node:a", &["a"], &["192.0.2.99"]));
        for n in 0..PENDING_MAX {
            house.requests.feed(request(&format!("r{n}"), csr::KUBELET_SERVING, a, &said, USAGES), false);
        }
        let plan = async |name: &str| {
            let key = Key::new("", name);
            house.loops.plan(&house.loops.observe(&key).await.unwrap(), &key)
        };
        assert_eq!(plan("r0").await, Plan::rest(), "it waits for the report");
        house.requests.feed(request("one more", csr::KUBELET_SERVING, a, &said, USAGES), false);
        assert!(written(&plan("one more").await.actions[0]).2.contains("wait already"));
    }

    #[tokio::test]
    async fn a_node_that_changes_wakes_what_waits_for_it() {
        let house = house();
        house.requests.feed(request("r", csr::KUBELET_SERVING, "system:node:a", &said("system:node:a", &["x"], &[]), USAGES), false);
        assert_eq!(house.loops.pending.count(&"a".to_owned()), 1);
        let decided =
            deny(&request("r", csr::KUBELET_SERVING, "system:node:a", &json!({}), USAGES), "x", "y".into(), Timestamp::UNIX_EPOCH);
        let reconcile::Action::Update { mut object, .. } = decided else { panic!() };
        object["metadata"]["resourceVersion"] = "2".into();
        house.requests.feed(serde_json::from_value(object).unwrap(), false);
        assert_eq!(house.loops.pending.count(&"a".to_owned()), 0);
    }
}
