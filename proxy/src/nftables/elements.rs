//! Service ports of one service -> its elements of the sets and maps. Pure.

use std::{collections::BTreeMap, net::IpAddr, num::NonZeroU32};

use ipnet::IpNet;

use super::{
    registers::{Words, port_word, protocol, word},
    service_chain::{DestinationMatch, List, ServiceChain},
    sets::{Refusal, Set},
    sticky::Sticky,
};
use crate::model::{Endpoint, NodeNetwork, Policy, ServicePort};

/// One element. `data` is the value of a map's, if that is words; for [`Set::FirewallSources`] its first word is where the range of sources ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Element {
    pub set: Set,
    pub key: Words,
    pub data: [u32; 2],
}

/// What packets are sent to: the words that sets of destinations are asked with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Destination {
    matched_by: DestinationMatch,
    key: [u32; 3],
}

/// One service port as the kernel has it: its number, and its endpoints by place.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PortEndpoints {
    /// Even, not 0: it is the number of the list Cluster. The next one is that of the list Local.
    pub id: u32,
    pub cluster: Vec<Endpoint>,
    pub local: Vec<Endpoint>,
}

/// All that a service needs.
#[derive(Debug, Default)]
pub struct WantedElements {
    /// What only one service can have: its destinations, each with what hangs on it.
    pub own: BTreeMap<Destination, Vec<Element>>,
    /// What others may need as well.
    pub shared: Vec<Element>,
    /// Chains of service ports whose clients stay, by number.
    pub sticky: BTreeMap<u32, Sticky>,
}

/// One service port, while its elements are written.
struct Writer<'a> {
    service_port: &'a ServicePort,
    port_endpoints: &'a PortEndpoints,
    node_network: &'a NodeNetwork,
    out: &'a mut WantedElements,
}

impl PortEndpoints {
    /// The service port's next endpoints: endpoints that stay keep their places, so that few elements change.
    pub fn next(old: Option<&PortEndpoints>, id: u32, service_port: &ServicePort) -> Self {
        let places = |old: Option<&Vec<Endpoint>>, new: &[Endpoint], used: bool| {
            let new = if used { new } else { &[] };
            keep_places(old.map_or(&[], Vec::as_slice), new)
        };
        Self {
            id,
            cluster: places(old.map(|l| &l.cluster), &service_port.backends.cluster, service_port.uses_cluster()),
            local: places(old.map(|l| &l.local), &service_port.backends.local, service_port.uses_local()),
        }
    }

    fn list(&self, list: List) -> &[Endpoint] {
        if list == List::Local { &self.local } else { &self.cluster }
    }
}

impl WantedElements {
    /// Adds a service port's.
    pub fn add(&mut self, service_port: &ServicePort, port_endpoints: &PortEndpoints, node_network: &NodeNetwork) {
        let mut writer = Writer { service_port, port_endpoints, node_network, out: self };
        writer.destinations();
        writer.shared();
        writer.sticky();
    }
}

impl Writer<'_> {
    fn destinations(&mut self) {
        let masquerade = self.node_network.cluster_cidr.map(|_| Set::MasqueradedOutsiders);
        let internal = list(self.service_port.internal);
        let to = self.address(self.service_port.cluster_ip);
        self.destination(to, self.class(DestinationMatch::Address, 0, internal), internal, masquerade);
        for ip in &self.service_port.external_ips {
            self.external(self.address(*ip));
        }
        for ip in &self.service_port.balancer_ips {
            let to = self.address(*ip);
            self.external(to);
            self.firewall(to);
        }
        if let Some(port) = self.service_port.node_port {
            self.external(self.node_port(port));
        }
    }

    /// With the policy Local, who is inside the cluster goes anywhere all the same.
    fn external(&mut self, to: Destination) {
        let (list, matched_by) = (list(self.service_port.external), to.matched_by);
        let class = match self.service_port.external {
            Policy::Cluster => self.class(matched_by, 0, list),
            Policy::Local => self.class(matched_by, count(&self.port_endpoints.cluster), list),
        };
        let masquerade = (self.service_port.external == Policy::Cluster).then_some(Set::Masqueraded(matched_by));
        self.destination(to, class, list, masquerade);
    }

    fn class(&self, matched_by: DestinationMatch, insiders: u32, list: List) -> Option<ServiceChain> {
        let count = count(self.port_endpoints.list(list));
        let sticky = self.service_port.affinity_seconds.and_then(|_| NonZeroU32::new(self.port_endpoints.id));
        let size = |count: u32| if sticky.is_some() { count.min(1) } else { count };
        let class = ServiceChain { matched_by, insiders: size(insiders), list, count: size(count), sticky };
        (class.count > 0 || class.insiders > 0).then_some(class)
    }

    fn destination(&mut self, to: Destination, class: Option<ServiceChain>, list: List, masquerade: Option<Set>) {
        let matched_by = to.matched_by;
        // The first one counts: an address may be given twice.
        if self.out.own.contains_key(&to) {
            return;
        }
        let mut elements = Vec::new();
        if let Some(class) = class {
            elements.extend([to.among(Set::Services(matched_by)), to.among(Set::ServiceChain(class))]);
            elements.extend(masquerade.map(|set| to.among(set)));
            let lists = class.lists().filter(|_| class.sticky.is_none());
            lists.for_each(|list| self.endpoints(&to, list, &mut elements));
        }
        elements.extend(self.refusal(list).map(|refusal| to.among(Set::Refused(matched_by, refusal))));
        self.out.own.insert(to, elements);
    }

    /// What the filters say, of packets that still have their destination.
    fn refusal(&self, list: List) -> Option<Refusal> {
        let why = if self.service_port.backends.any { Refusal::Drop } else { Refusal::Reject };
        self.port_endpoints.list(list).is_empty().then_some(why)
    }

    fn endpoints(&self, to: &Destination, list: List, elements: &mut Vec<Element>) {
        for (place, endpoint) in (list.first_place()..).zip(self.port_endpoints.list(list)) {
            let data = [word(endpoint.ip), port_word(endpoint.port)];
            elements.push(Element { set: Set::Endpoints(to.matched_by), key: to.and(place), data });
        }
    }

    fn firewall(&mut self, to: Destination) {
        let ranges = &self.service_port.source_ranges;
        if !self.service_port.backends.any || ranges.is_empty() {
            return;
        }
        let mut allowed = ranges.clone();
        // A balancer's address may stand on this node: its own traffic then comes from that address.
        if ranges.iter().any(|range| self.node_network.node_ips.iter().any(|ip| range.contains(ip))) {
            allowed.extend(self.service_port.balancer_ips.iter().map(|ip| IpNet::from(*ip)));
        }
        let elements = self.out.own.entry(to).or_default();
        elements.push(to.among(Set::Firewalled));
        for range in IpNet::aggregate(&allowed) {
            let (key, data) = (to.and(word(range.network())), [word(range.broadcast()), 0]);
            elements.push(Element { set: Set::FirewallSources, key, data });
        }
    }

    fn shared(&mut self) {
        let put = |set, key| Element { set, key, data: [0; 2] };
        self.out.shared.push(put(Set::ClusterIps, [word(self.service_port.cluster_ip), 0, 0, 0]));
        let all = self.port_endpoints.cluster.iter().chain(&self.port_endpoints.local).map(|endpoint| word(endpoint.ip));
        self.out.shared.extend(all.map(|ip| put(Set::Hairpin, [ip, ip, 0, 0])));
    }

    fn sticky(&mut self) {
        for (number, list) in (self.port_endpoints.id..).zip([List::Cluster, List::Local]) {
            let made = Sticky::of(self.service_port, self.port_endpoints.list(list));
            self.out.sticky.extend(made.map(|sticky| (number, sticky)));
        }
    }

    fn address(&self, ip: IpAddr) -> Destination {
        let key = [word(ip), protocol(self.service_port.protocol), port_word(self.service_port.port)];
        Destination { matched_by: DestinationMatch::Address, key }
    }

    fn node_port(&self, port: u16) -> Destination {
        Destination { matched_by: DestinationMatch::NodePort, key: [protocol(self.service_port.protocol), port_word(port), 0] }
    }
}

impl Destination {
    fn among(&self, set: Set) -> Element {
        let [a, b, c] = self.key;
        Element { set, key: [a, b, c, 0], data: [0; 2] }
    }

    /// The key of a set that asks for one thing more.
    fn and(&self, more: u32) -> Words {
        let [a, b, c] = self.key;
        if self.matched_by == DestinationMatch::Address { [a, b, c, more] } else { [a, b, more, 0] }
    }
}

/// The new list in the order of the old one; who takes the place of one that went comes from the end.
fn keep_places(old: &[Endpoint], new: &[Endpoint]) -> Vec<Endpoint> {
    let wanted: std::collections::HashSet<&Endpoint> = new.iter().collect();
    let held: std::collections::HashSet<&Endpoint> = old.iter().collect();
    let mut fresh = new.iter().filter(|e| !held.contains(e)).copied();
    let mut places: Vec<Option<Endpoint>> = old.iter().map(|e| if wanted.contains(e) { Some(*e) } else { fresh.next() }).collect();
    places.extend(fresh.map(Some));
    let mut at = 0;
    while let Some(place) = places.get(at) {
        if place.is_some() {
            at += 1;
        } else {
            places.swap_remove(at);
        }
    }
    places.into_iter().flatten().collect()
}

fn list(policy: Policy) -> List {
    if policy == Policy::Local { List::Local } else { List::Cluster }
}

fn count(list: &[Endpoint]) -> u32 {
    u32::try_from(list.len()).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        family::Family,
        model::{Node, Protocol, service_ports},
        testing::{addr, service, slice},
    };
    use serde_json::{Value, json};

    fn written(spec: Value, endpoints: &[&str]) -> (WantedElements, Vec<ServiceChain>) {
        let mut spec = spec;
        let status = spec.as_object_mut().unwrap().remove("status");
        let mut service = service("d/s", spec);
        service.status = status.and_then(|s| serde_json::from_value(s).ok());
        let node = Node { name: "n1".into(), ..Node::default() };
        let slices = [slice("d/s", "", "TCP", 8080, endpoints)];
        let service_ports = service_ports(&service, slices.iter(), &node, Family::V4);
        let node_network = NodeNetwork {
            cluster_cidr: Some("10.77.0.0/16".parse().unwrap()),
            node_ips: vec!["192.0.2.1".parse().unwrap()],
            ..NodeNetwork::of(Family::V4)
        };
        let (port_endpoints, mut needs, mut chains) =
            (PortEndpoints::next(None, 2, &service_ports[0]), WantedElements::default(), Vec::new());
        needs.add(&service_ports[0], &port_endpoints, &node_network);
        for element in needs.own.values().flatten() {
            chains.extend(if let Set::ServiceChain(class) = element.set { Some(class) } else { None });
        }
        (needs, chains)
    }

    fn spec(more: Value) -> Value {
        let mut spec = json!({"clusterIP": "10.96.0.1", "ports": [{"port": 80}]});
        more.as_object().unwrap().iter().for_each(|(key, value)| spec[key] = value.clone());
        spec
    }

    fn in_set(needs: &WantedElements, set: Set) -> Vec<(Words, [u32; 2])> {
        let all = needs.own.values().flatten().chain(&needs.shared);
        all.filter(|e| e.set == set).map(|e| (e.key, e.data)).collect()
    }

    #[test]
    fn a_cluster_ip_is_a_member_of_its_class_with_its_endpoints_by_place() {
        let (all, chains) = written(spec(json!({})), &["10.77.0.2@n1", "10.77.0.3@n2"]);
        let [ip, tcp, port] = [word("10.96.0.1".parse().unwrap()), protocol(Protocol::Tcp), port_word(80)];
        for set in [Set::Services(DestinationMatch::Address), Set::ServiceChain(chains[0])] {
            assert_eq!(in_set(&all, set), [([ip, tcp, port, 0], [0, 0])]);
        }
        let second = [word("10.77.0.3".parse().unwrap()), port_word(8080)];
        assert_eq!(in_set(&all, Set::Endpoints(DestinationMatch::Address))[1], ([ip, tcp, port, 1], second));
        assert_eq!(in_set(&all, Set::Hairpin).len(), 2);
        assert!(all.sticky.is_empty());
        assert_eq!((chains.len(), chains[0].count, in_set(&all, Set::MasqueradedOutsiders).len()), (1, 2, 1));
        assert_eq!(chains[0].name(), "ip-cluster-2");
    }

    #[test]
    fn policies_are_told_by_the_class_and_missing_endpoints_by_a_refusal() {
        let node_port = json!({"ports": [{"port": 80, "nodePort": 30080}], "externalTrafficPolicy": "Local"});
        let refused = |needs: &WantedElements, matched_by, refusal| in_set(needs, Set::Refused(matched_by, refusal)).len();
        let (local, chains) = written(spec(node_port.clone()), &["10.77.0.2@n1", "10.77.0.3@n2"]);
        assert_eq!((chains[1].insiders, chains[1].count, chains[1].list), (2, 1, List::Local));
        assert_eq!(chains[1].name(), "nodeport-local-1-or-cluster-2");
        let places: Vec<u32> = in_set(&local, Set::Endpoints(DestinationMatch::NodePort)).iter().map(|(key, _)| key[2]).collect();
        assert_eq!(places, [1_000_000, 0, 1]);
        let (elsewhere, chains) = written(spec(node_port.clone()), &["10.77.0.3@n2"]);
        assert_eq!((chains[1].insiders, chains[1].count), (1, 0));
        assert_eq!(refused(&elsewhere, DestinationMatch::NodePort, Refusal::Drop), 1);
        let (nowhere, chains) = written(spec(node_port), &[]);
        assert_eq!((chains.len(), in_set(&nowhere, Set::Services(DestinationMatch::NodePort)).len()), (0, 0));
        assert_eq!(
            refused(&nowhere, DestinationMatch::NodePort, Refusal::Reject) + refused(&nowhere, DestinationMatch::Address, Refusal::Reject),
            2
        );
        let (internal, chains) = written(spec(json!({"internalTrafficPolicy": "Local"})), &["10.77.0.3@n2"]);
        assert_eq!((chains.len(), refused(&internal, DestinationMatch::Address, Refusal::Drop)), (0, 1));
    }

    #[test]
    fn clients_that_stay_have_chains_of_their_own() {
        let (all, chains) = written(spec(json!({"sessionAffinity": "ClientIP"})), &["10.77.0.2@n1", "10.77.0.3@n2"]);
        assert_eq!((chains[0].sticky, chains[0].count), (NonZeroU32::new(2), 1));
        assert_eq!(chains[0].name(), "ip-cluster-1-sticky-2");
        assert_eq!(all.sticky.keys().copied().collect::<Vec<_>>(), [2]);
        assert!(in_set(&all, Set::Endpoints(DestinationMatch::Address)).is_empty());
    }

    #[test]
    fn sources_of_a_balancer_are_ranges_that_do_not_overlap() {
        let ranges = json!(["192.0.2.0/24", "192.0.2.0/25", "198.51.100.0/24"]);
        let status = json!({"loadBalancer": {"ingress": [{"ip": "203.0.113.5"}]}});
        let more = json!({"type": "LoadBalancer", "loadBalancerSourceRanges": ranges, "status": status});
        let (all, _) = written(spec(more), &["10.77.0.2@n1"]);
        assert_eq!(in_set(&all, Set::Firewalled).len(), 1);
        // This node stands in one of them, so the balancer's address may be a source.
        let end = |ip: &str| word(ip.parse().unwrap());
        let mut found: Vec<(u32, u32)> = in_set(&all, Set::FirewallSources).iter().map(|(key, data)| (key[3], data[0])).collect();
        found.sort_by_key(|(start, _)| u32::from_be(*start));
        let whole = [("192.0.2.0", "192.0.2.255"), ("198.51.100.0", "198.51.100.255"), ("203.0.113.5", "203.0.113.5")];
        assert_eq!(found, whole.map(|(a, b)| (end(a), end(b))));
    }

    #[test]
    fn endpoints_that_stay_keep_their_places() {
        let (a, b, c, d) = (addr("10.0.0.1:1"), addr("10.0.0.2:1"), addr("10.0.0.3:1"), addr("10.0.0.4:1"));
        assert_eq!(keep_places(&[a, b, c], &[a, c]), [a, c]);
        assert_eq!(keep_places(&[a, b, c], &[b, c]), [c, b]);
        assert_eq!(keep_places(&[a, b], &[a, b, c]), [a, b, c]);
        assert_eq!(keep_places(&[a, b, c], &[a, c, d]), [a, d, c]);
        assert_eq!(keep_places(&[], &[a, b]), [a, b]);
        assert!(keep_places(&[a, b], &[]).is_empty());
    }
}
