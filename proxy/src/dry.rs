//! Caches -> rules and answers that go nowhere: for the fuzz targets.

use std::net::{IpAddr, Ipv4Addr};

use api::Key;
use client::Caches;
use hickory_proto::rr::{Name, RecordType};

use crate::{
    dns::{Answer, Index, Zone},
    family::Family,
    iptables::rules::Fragment,
    model::{Node, NodeNetwork, ServicePort, service_ports},
    nftables::Table,
    service_tracker::ServiceTracker,
};

/// The model of both back ends and the cluster's zone, kept current by the caches.
#[doc(hidden)]
pub struct Dry {
    tracker: ServiceTracker,
    zone: Zone,
}

/// What one service needs and answers, counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[doc(hidden)]
pub struct ServiceCounts {
    pub service_ports: usize,
    pub rules: usize,
    pub answers: usize,
}

impl Dry {
    pub fn follow(caches: &Caches) -> Self {
        let index = Index::follow(caches);
        index.set_complete();
        Self { tracker: ServiceTracker::follow(caches), zone: Zone::new("cluster.local", IpAddr::from([10, 96, 0, 10]), index) }
    }

    /// Plans and asks for all services that changed since.
    pub fn changed(&self) -> Vec<(Key, ServiceCounts)> {
        self.tracker.take_changed().into_iter().map(|key| (key.clone(), self.one(&key))).collect()
    }

    pub fn one(&self, key: &Key) -> ServiceCounts {
        let entry = self.tracker.entry(key);
        let node = Node { name: "n1".into(), zone: "a".into(), answered_here: Vec::new(), vxlan_port: None };
        let slices = || entry.slices.values().map(|slice| &**slice);
        let of = |family| -> Vec<ServicePort> {
            entry.service.iter().flat_map(|service| service_ports(service, slices(), &node, family)).collect()
        };
        let node_network = |family, ip: &str| NodeNetwork { node_ips: ip.parse().into_iter().collect(), ..NodeNetwork::of(family) };
        let (four, six) = (of(Family::V4), of(Family::V6));
        let count = four.len();
        let rules = Fragment::of(&four, &node_network(Family::V4, "192.0.2.1")).chains.len();
        Fragment::of(&six, &node_network(Family::V6, "2001:db8::1"));
        let _ = Table::new(Family::V4).full(node_network(Family::V4, "192.0.2.1"), &[(key.clone(), four)]);
        ServiceCounts { service_ports: count, rules, answers: self.ask(key) }
    }

    /// All questions that a service's own names allow; how many have an answer.
    fn ask(&self, key: &Key) -> usize {
        let entry = self.tracker.entry(key);
        let own = format!("{}.{}.svc.cluster.local.", key.name, key.namespace);
        let mut names = vec![own.clone(), format!("_p._tcp.{own}"), format!("{}.svc.cluster.local.", key.namespace)];
        let ports = entry.service.iter().filter_map(|s| s.spec.as_ref()?.ports.as_ref()).flatten();
        names.extend(ports.filter_map(|p| p.name.as_ref()).map(|port| format!("_{port}._tcp.{own}")));
        let endpoints = entry.slices.values().flat_map(|s| s.endpoints.iter().flatten());
        for endpoint in endpoints {
            names.extend(endpoint.hostname.iter().map(|host| format!("{host}.{own}")));
            let reverse = |ip: Ipv4Addr| ip.octets().iter().rev().map(u8::to_string).collect::<Vec<_>>().join(".") + ".in-addr.arpa.";
            names.extend(endpoint.addresses.iter().filter_map(|a| a.parse().ok()).map(reverse));
        }
        let kinds = [RecordType::A, RecordType::AAAA, RecordType::SRV, RecordType::PTR, RecordType::ANY];
        // What is no name is nothing that anybody could ask for.
        let names = names.iter().filter_map(|name| Name::from_ascii(name).ok());
        names.map(|name| kinds.iter().filter(|kind| matches!(self.zone.answer(&name, **kind), Answer::Records { .. })).count()).sum()
    }

    /// Whether the service's own name has an address, and its rules.
    pub fn knows(&self, namespace: &str, name: &str) -> bool {
        self.one(&Key::new(namespace, name)).service_ports > 0
    }
}
