//! A node's request for its serving certificate -> approved, where it asks for its own addresses and nobody else's.
//!
//! Upstream approves none: what a node says of its own addresses is but its word. Here the word must stand against all others': no address that
//! another node reports, none of the API server, of services or of pods. What is not reported yet waits, what can never be is denied.

use std::{net::IpAddr, sync::Arc};

use api::{
    Key,
    csr::{self, NODE_USER_PREFIX, NODES_GROUP, Requested},
    k8s::api::{
        certificates::v1::CertificateSigningRequest,
        core::v1::{Endpoints, Node},
    },
    time::Timestamp,
};
use client::{Cache, Caches, Object, kube};
use kube::ResourceExt;
use reconcile::{Controller, Plan, Wake, own_key};

use super::{Authority, Reserved, approve, deny, is_decided, is_issued, usages};
use crate::{Config, index::Index};

const MESSAGE: &str = "Auto approving kubelet serving certificate: its names are the node's addresses, and nobody else's.";

pub struct ServingApproval {
    requests: Cache<CertificateSigningRequest>,
    nodes: Cache<Node>,
    /// The API servers' own, under `kubernetes` in `default`.
    servers: Cache<Endpoints>,
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
        Self { requests, nodes, servers, pending, called, authority, reserved }
    }

    fn verdict(&self, node: &str, asked: &Requested) -> Verdict {
        let servers = self.servers.get(&Key::new("default", "kubernetes"));
        let servers = addresses_of(servers.as_deref());
        let reported = self.nodes.get(&Key::new("", node));
        let own = reported.as_deref().map(names_of).unwrap_or_default();
        let mut verdict = Verdict::Fine;
        let dns = asked.dns.iter().map(|name| (canonical(name), self.reserved.name(name)));
        let addresses = asked.addresses.iter().map(|address| {
            let is_server = servers.contains(&address.to_canonical()).then_some("it is an address of the API server");
            (canonical(&address.to_string()), self.reserved.address(*address).or(is_server))
        });
        for (name, reserved) in dns.chain(addresses) {
            if let Some(why) = reserved {
                return Verdict::Never(format!("no node's certificate may bear {name:?}: {why}"));
            }
            if let Some(other) = self.called.at(&name).iter().map(|other| other.name_any()).find(|other| other != node) {
                return Verdict::Never(format!(
                    "{name:?} is reported by node {other:?} as well: node {node:?} cannot have a certificate for it"
                ));
            }
            if !own.contains(&name) {
                verdict = Verdict::Waits;
            }
        }
        verdict
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
        let verdict = self.verdict(node, &asked);
        Some(World { request, verdict, now: Timestamp::now() })
    }

    fn plan(&self, world: &World, _: &Key) -> Plan {
        match &world.verdict {
            Verdict::Fine => Plan::act(vec![approve(&world.request, MESSAGE, world.now)]),
            Verdict::Waits => Plan::rest(),
            Verdict::Never(why) => Plan::act(vec![deny(&world.request, "ForeignAddress", why.clone(), world.now)]),
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

/// All that a node is called: its own name, and what it reports.
fn names_of(node: &Node) -> Vec<String> {
    let reported = node.status.iter().flat_map(|status| status.addresses.iter().flatten()).map(|reported| canonical(&reported.address));
    let mut names: Vec<String> = std::iter::once(canonical(node.object_meta().name)).chain(reported).collect();
    names.sort_unstable();
    names.dedup();
    names
}

/// One text for each name and each address.
fn canonical(name: &str) -> String {
    match name.parse::<IpAddr>() {
        Ok(address) => address.to_canonical().to_string(),
        Err(_) => name.trim_end_matches('.').to_ascii_lowercase(),
    }
}

fn addresses_of(endpoints: Option<&Endpoints>) -> Vec<IpAddr> {
    let subsets = endpoints.iter().flat_map(|endpoints| endpoints.subsets.iter().flatten());
    let all = subsets.flat_map(|subset| subset.addresses.iter().chain(&subset.not_ready_addresses).flatten());
    all.filter_map(|address| address.ip.parse::<IpAddr>().ok()).map(|address| address.to_canonical()).collect()
}

#[cfg(test)]
mod tests {
    use api::task::Group;
    use client::Cache;
    use serde_json::{Value, json};

    use super::*;
    use crate::certificates::tests::{request, written};

    const USAGES: &[&str] = &["digital signature", "server auth"];

    struct House {
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
        let node = |name: &str, addresses: &[(&str, &str)]| -> Node {
            let addresses: Vec<Value> = addresses.iter().map(|(kind, address)| json!({"type": kind, "address": address})).collect();
            serde_json::from_value(json!({"metadata": {"name": name}, "status": {"addresses": addresses}})).unwrap()
        };
        let nodes: Cache<Node> = caches.of();
        nodes.feed(
            node("a", &[("InternalIP", "192.0.2.10"), ("Hostname", "A"), ("InternalIP", "192.0.2.66"), ("InternalIP", "192.0.2.2")]),
            false,
        );
        nodes.feed(node("b", &[("InternalIP", "192.0.2.66"), ("Hostname", "b-host")]), false);
        let servers: Cache<Endpoints> = caches.filtered("metadata.namespace=default,metadata.name=kubernetes");
        let endpoints =
            json!({"metadata": {"name": "kubernetes", "namespace": "default"}, "subsets": [{"addresses": [{"ip": "192.0.2.2"}]}]});
        servers.feed(serde_json::from_value(endpoints).unwrap(), false);
        House { loops, requests: caches.of(), _group: group }
    }

    async fn asked(house: &House, user: &str, said: Value) -> Option<Plan> {
        let name = format!("r{}", house.requests.len());
        house.requests.feed(request(&name, csr::KUBELET_SERVING, user, &said, USAGES), false);
        let key = Key::new("", &name);
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
            (&["b"][..], &[][..], "reported by node \"b\""),
            (&["B-Host."], &[], "reported by node \"b\""),
            (&[], &["192.0.2.66"], "reported by node \"b\""),
            (&["a"], &["127.0.0.1"], "every machine's own"),
            (&["localhost"], &[], "every machine's own"),
            (&["kubernetes.default.svc"], &[], "a service's"),
            (&[], &["192.0.2.1"], "an address of the API server"),
            (&[], &["192.0.2.2"], "an address of the API server"),
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
