//! Portals of one service -> its elements of the maps. Pure.

use std::net::{Ipv4Addr, SocketAddrV4};

use ipnet::Ipv4Net;

use super::class::{Class, Door, Left, List, Masquerade};
use crate::model::{Policy, Portal, Protocol, Site};

/// The maps and sets whose elements services are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Set {
    ClusterIps,
    Services,
    ServiceIds,
    NodePorts,
    NodePortIds,
    Endpoints,
    Members,
    Hairpin,
    Firewalled,
    FirewallSources,
}

pub const SERVICES: &str = "service-ips";
pub const SERVICE_IDS: &str = "service-ids";
pub const NODE_PORTS: &str = "service-nodeports";
pub const NODE_PORT_IDS: &str = "service-nodeport-ids";
pub const ENDPOINTS: &str = "service-endpoints";
pub const MEMBERS: &str = "affinity-endpoints";
pub const CLUSTER_IPS: &str = "cluster-ips";
pub const HAIRPIN: &str = "hairpin-connections";
pub const FIREWALLED: &str = "firewall-ips";
pub const FIREWALL_SOURCES: &str = "firewall-sources";

/// Four words as registers have them; those that a set does not use are 0.
pub type Words = [u32; 4];

/// One element. `data` is the value of a map's; for [`Set::FirewallSources`] its first word is where the range of sources ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Element {
    pub set: Set,
    pub key: Words,
    pub data: [u32; 2],
}

/// One portal as the kernel has it: its number, and its endpoints by place.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Line {
    /// Even: it is the number of the list Cluster. The next one is that of the list Local.
    pub id: u32,
    pub cluster: Vec<SocketAddrV4>,
    pub local: Vec<SocketAddrV4>,
}

/// One portal, while its elements are written.
struct Writer<'a, N> {
    portal: &'a Portal,
    line: &'a Line,
    site: &'a Site,
    number: N,
    out: Vec<Element>,
}

impl Line {
    /// The portal's line after this one: endpoints that stay keep their places, so that few elements change.
    pub fn next(old: Option<&Line>, id: u32, portal: &Portal) -> Self {
        let places = |old: Option<&Vec<SocketAddrV4>>, new: &[SocketAddrV4], used: bool| {
            let new = if used { new } else { &[] };
            keep_places(old.map_or(&[], Vec::as_slice), new)
        };
        Self {
            id,
            cluster: places(old.map(|l| &l.cluster), &portal.backends.cluster, portal.uses_cluster()),
            local: places(old.map(|l| &l.local), &portal.backends.local, portal.uses_local()),
        }
    }
}

/// The elements of a portal; `number` tells the number of a class.
pub fn elements(portal: &Portal, line: &Line, site: &Site, number: impl FnMut(Class) -> u32) -> Vec<Element> {
    let mut writer = Writer { portal, line, site, number, out: Vec::new() };
    writer.doors();
    writer.firewall();
    writer.endpoints(List::Cluster);
    writer.endpoints(List::Local);
    writer.out
}

impl<'a, N: FnMut(Class) -> u32> Writer<'a, N> {
    fn list(&self, list: List) -> &'a [SocketAddrV4] {
        if list == List::Local { &self.line.local } else { &self.line.cluster }
    }

    fn doors(&mut self) {
        let internal = self.internal();
        self.put(Set::ClusterIps, &[word(self.portal.cluster_ip)], [0; 2]);
        self.address(self.portal.cluster_ip, internal);
        let external = self.external(Door::Address);
        self.portal.external_ips.iter().chain(&self.portal.balancer_ips).for_each(|ip| self.address(*ip, external));
        if let Some(port) = self.portal.node_port {
            let class = self.external(Door::NodePort);
            let class = (self.number)(class);
            let key = [protocol(self.portal.protocol), port_word(port)];
            self.put(Set::NodePorts, &key, [class, 0]);
            self.put(Set::NodePortIds, &key, [self.line.id, 0]);
        }
    }

    fn address(&mut self, ip: Ipv4Addr, class: Class) {
        let class = (self.number)(class);
        let key = self.key(ip);
        self.put(Set::Services, &key, [class, 0]);
        self.put(Set::ServiceIds, &key, [self.line.id, 0]);
    }

    fn internal(&self) -> Class {
        let list = list(self.portal.internal);
        let masquerade = if self.site.cluster_cidr.is_some() { Masquerade::Outsiders } else { Masquerade::Never };
        self.class(Door::Address, masquerade, 0, list)
    }

    /// With the policy Local, who is inside the cluster goes anywhere all the same.
    fn external(&self, door: Door) -> Class {
        match self.portal.external {
            Policy::Cluster => self.class(door, Masquerade::Always, 0, List::Cluster),
            Policy::Local => self.class(door, Masquerade::Never, count(&self.line.cluster), List::Local),
        }
    }

    fn class(&self, door: Door, masquerade: Masquerade, insiders: u32, list: List) -> Class {
        let count = count(self.list(list));
        let left = match (count, self.portal.backends.any) {
            (1.., _) => Left::Pass,
            // Nothing here: another node might be asked. Nothing anywhere: say so.
            (0, true) => Left::Drop,
            (0, false) => Left::Reject,
        };
        if count == 0 && insiders == 0 {
            return Class {
                door: Door::Address,
                masquerade: Masquerade::Never,
                insiders,
                list: List::Cluster,
                count,
                affinity_seconds: None,
                left,
            };
        }
        Class { door, masquerade, insiders, list, count, affinity_seconds: self.portal.affinity_seconds, left }
    }

    fn firewall(&mut self) {
        let ranges = &self.portal.source_ranges;
        if !self.portal.backends.any || ranges.is_empty() || self.portal.balancer_ips.is_empty() {
            return;
        }
        let mut allowed = ranges.clone();
        // A balancer's address may stand on this node: its own traffic then comes from that address.
        if ranges.iter().any(|range| self.site.node_ips.iter().any(|ip| range.contains(ip))) {
            allowed.extend(self.portal.balancer_ips.iter().map(|ip| Ipv4Net::from(*ip)));
        }
        for ip in &self.portal.balancer_ips {
            let key = self.key(*ip);
            self.put(Set::Firewalled, &key, [self.line.id, 0]);
        }
        for range in Ipv4Net::aggregate(&allowed) {
            self.put(Set::FirewallSources, &[self.line.id, word(range.network())], [word(range.broadcast()), 0]);
        }
    }

    fn endpoints(&mut self, list: List) {
        let id = self.line.id + u32::from(list == List::Local);
        for (place, endpoint) in (0..).zip(self.list(list)) {
            let address = [word(*endpoint.ip()), port_word(endpoint.port())];
            self.put(Set::Endpoints, &[id, place], address);
            self.put(Set::Hairpin, &[address[0], address[0]], [0; 2]);
            if self.portal.affinity_seconds.is_some() {
                self.put(Set::Members, &[id, address[0], address[1]], [0; 2]);
            }
        }
    }

    fn key(&self, ip: Ipv4Addr) -> [u32; 3] {
        [word(ip), protocol(self.portal.protocol), port_word(self.portal.port)]
    }

    fn put(&mut self, set: Set, key: &[u32], data: [u32; 2]) {
        let mut words = Words::default();
        words.iter_mut().zip(key).for_each(|(to, from)| *to = *from);
        self.out.push(Element { set, key: words, data });
    }
}

/// The new list in the order of the old one; who takes the place of one that went comes from the end.
fn keep_places(old: &[SocketAddrV4], new: &[SocketAddrV4]) -> Vec<SocketAddrV4> {
    let wanted: std::collections::HashSet<&SocketAddrV4> = new.iter().collect();
    let held: std::collections::HashSet<&SocketAddrV4> = old.iter().collect();
    let mut fresh = new.iter().filter(|e| !held.contains(e)).copied();
    let mut places: Vec<Option<SocketAddrV4>> = old.iter().map(|e| if wanted.contains(e) { Some(*e) } else { fresh.next() }).collect();
    places.extend(fresh.map(Some));
    while let Some(hole) = places.iter().position(Option::is_none) {
        places.swap_remove(hole);
    }
    places.into_iter().flatten().collect()
}

fn list(policy: Policy) -> List {
    if policy == Policy::Local { List::Local } else { List::Cluster }
}

fn count(list: &[SocketAddrV4]) -> u32 {
    u32::try_from(list.len()).unwrap_or(u32::MAX)
}

/// An address as a register has it.
pub fn word(ip: Ipv4Addr) -> u32 {
    u32::from_ne_bytes(ip.octets())
}

fn port_word(port: u16) -> u32 {
    let [high, low] = port.to_be_bytes();
    u32::from_ne_bytes([high, low, 0, 0])
}

fn protocol(protocol: Protocol) -> u32 {
    let number = match protocol {
        Protocol::Tcp => 6,
        Protocol::Udp => 17,
        Protocol::Sctp => 132,
    };
    u32::from_ne_bytes([number, 0, 0, 0])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        model::{Node, portals},
        testing::{addr, service, slice},
    };
    use serde_json::{Value, json};

    fn written(spec: Value, endpoints: &[&str]) -> (Vec<Element>, Vec<Class>) {
        let mut spec = spec;
        let status = spec.as_object_mut().unwrap().remove("status");
        let mut service = service("d/s", spec);
        service.status = status.and_then(|s| serde_json::from_value(s).ok());
        let node = Node { name: "n1".into(), ..Node::default() };
        let slices = [slice("d/s", "", "TCP", 8080, endpoints)];
        let portals = portals(&service, slices.iter(), &node);
        let site =
            Site { cluster_cidr: Some("10.77.0.0/16".parse().unwrap()), node_ips: vec!["192.0.2.1".parse().unwrap()], ..Site::default() };
        let (line, mut classes) = (Line::next(None, 2, &portals[0]), Vec::new());
        let all = elements(&portals[0], &line, &site, |class| {
            classes.push(class);
            u32::try_from(classes.len()).unwrap()
        });
        (all, classes)
    }

    fn spec(more: Value) -> Value {
        let mut spec = json!({"clusterIP": "10.96.0.1", "ports": [{"port": 80}]});
        more.as_object().unwrap().iter().for_each(|(key, value)| spec[key] = value.clone());
        spec
    }

    fn in_set(all: &[Element], set: Set) -> Vec<(Words, [u32; 2])> {
        all.iter().filter(|e| e.set == set).map(|e| (e.key, e.data)).collect()
    }

    #[test]
    fn a_cluster_ip_is_four_kinds_of_elements() {
        let (all, classes) = written(spec(json!({})), &["10.77.0.2@n1", "10.77.0.3@n2"]);
        let door = [word("10.96.0.1".parse().unwrap()), protocol(Protocol::Tcp), port_word(80), 0];
        assert_eq!(in_set(&all, Set::Services), [(door, [1, 0])]);
        assert_eq!(in_set(&all, Set::ServiceIds), [(door, [2, 0])]);
        let second = [word("10.77.0.3".parse().unwrap()), port_word(8080)];
        assert_eq!(in_set(&all, Set::Endpoints)[1], ([2, 1, 0, 0], second));
        assert_eq!(in_set(&all, Set::Hairpin).len(), 2);
        assert!(in_set(&all, Set::Members).is_empty());
        assert_eq!((classes.len(), classes[0].count, classes[0].masquerade), (1, 2, Masquerade::Outsiders));
    }

    #[test]
    fn policies_and_missing_endpoints_are_told_by_the_class() {
        let node_port = json!({"ports": [{"port": 80, "nodePort": 30080}], "externalTrafficPolicy": "Local"});
        let class = |more: Value, endpoints: &[&str]| written(spec(more), endpoints).1;
        let local = class(node_port.clone(), &["10.77.0.2@n1", "10.77.0.3@n2"])[1];
        assert_eq!((local.insiders, local.count, local.list, local.left), (2, 1, List::Local, Left::Pass));
        let elsewhere = class(node_port.clone(), &["10.77.0.3@n2"])[1];
        assert_eq!((elsewhere.insiders, elsewhere.count, elsewhere.left), (1, 0, Left::Drop));
        assert_eq!(class(node_port, &[])[1].left, Left::Reject);
        let internal = class(json!({"internalTrafficPolicy": "Local"}), &["10.77.0.3@n2"])[0];
        assert_eq!((internal.count, internal.left), (0, Left::Drop));
        assert!(internal.rules(None).is_empty());
        let sticky = class(json!({"sessionAffinity": "ClientIP"}), &["10.77.0.2@n1"])[0];
        assert_eq!((sticky.affinity_seconds, sticky.rules(None).len()), (Some(10_800), 3));
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
        let mut found: Vec<(u32, u32)> = in_set(&all, Set::FirewallSources).iter().map(|(key, data)| (key[1], data[0])).collect();
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
