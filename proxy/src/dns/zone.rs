//! A name of the cluster's zone -> its records. Synchronous: all records are in memory.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    str::FromStr,
};

use api::{
    k8s::api::{
        core::v1::ServiceSpec,
        discovery::v1::{Endpoint, EndpointPort},
    },
    steps,
};
use hickory_proto::rr::{
    Name, RData, Record, RecordType,
    rdata::{A, AAAA, CNAME, NS, PTR, SOA, SRV, TXT},
};
use rand::seq::SliceRandom;

use super::index::{Holder, Index, cluster_ips, endpoint_name, is_ready};
use crate::service_tracker::Entry;

/// Seconds, of every record and of every refusal: what CoreDNS' plugin answers by default.
pub const TTL: u32 = 5;
/// The specification that `dns-version` tells.
const VERSION: &str = "1.1.0";

/// The cluster's names.
pub struct Zone {
    /// Labels of the domain, lower case.
    domain: Vec<String>,
    apex: String,
    address: IpAddr,
    serial: u32,
    index: Index,
}

/// What a server answers from.
pub trait Names: Send + Sync + 'static {
    /// Rises when answers may have changed.
    fn generation(&self) -> u64;

    fn answer(&self, name: &Name, kind: RecordType) -> Answer;

    /// What a refusal carries, so that it may be kept for as long as an answer.
    fn authority(&self) -> Vec<Record>;
}

/// What a question gets.
#[derive(Debug, PartialEq)]
pub enum Answer {
    /// Somebody else knows.
    NotOurs,
    /// We would know, but are not filled yet.
    NotYet,
    NoName,
    NoData,
    Records {
        answers: Vec<Record>,
        additionals: Vec<Record>,
    },
    /// The name stands for another one.
    Alias(Name),
}

/// An endpoint with one of its addresses, and the ports of its slice.
struct EndpointAddress<'a> {
    name: String,
    address: IpAddr,
    ports: &'a [EndpointPort],
}

/// Which ports an SRV question is about: `_name._protocol`, or all.
struct PortFilter<'a>(Option<(&'a str, &'a str)>);

impl Names for Zone {
    fn generation(&self) -> u64 {
        self.index.generation()
    }

    fn answer(&self, name: &Name, kind: RecordType) -> Answer {
        Zone::answer(self, name, kind)
    }

    fn authority(&self) -> Vec<Record> {
        let Some(apex) = self.full("") else { return Vec::new() };
        self.soa().map(|soa| record(&apex, soa)).into_iter().collect()
    }
}

impl Zone {
    pub fn new(domain: &str, address: IpAddr, index: Index) -> Self {
        let apex = domain.trim_matches('.').to_lowercase();
        let serial = api::time::Timestamp::now().as_second();
        Self { domain: apex.split('.').map(str::to_owned).collect(), apex, address, serial: u32::try_from(serial).unwrap_or(1), index }
    }

    pub fn answer(&self, name: &Name, kind: RecordType) -> Answer {
        let labels: Vec<String> = name.iter().map(|l| String::from_utf8_lossy(l).to_lowercase()).collect();
        if let Some(address) = reverse_address(&labels) {
            return self.by_address(name, address, kind);
        }
        let Some(split) = labels.len().checked_sub(self.domain.len()).filter(|at| labels.get(*at..) == Some(&self.domain)) else {
            return Answer::NotOurs;
        };
        let below: Vec<&str> = labels.iter().take(split).map(String::as_str).collect();
        match below.as_slice() {
            [] => self.apex(name, kind),
            ["dns-version"] => only(kind, RecordType::TXT, || vec![record(name, RData::TXT(TXT::new(vec![VERSION.to_owned()])))]),
            ["dns"] | ["svc"] | ["pod"] => Answer::NoData,
            ["ns", "dns"] => addresses(name, [self.address].into_iter(), kind),
            [.., "svc" | "pod"] if !self.index.is_complete() => Answer::NotYet,
            [rest @ .., "svc"] => self.in_services(name, rest, kind),
            [rest @ .., "pod"] => self.in_pods(name, rest, kind),
            _ => Answer::NoName,
        }
    }

    fn apex(&self, name: &Name, kind: RecordType) -> Answer {
        match kind {
            RecordType::SOA => some(self.soa().map(|soa| record(name, soa)).into_iter().collect()),
            RecordType::NS => {
                let Some(ns) = self.full("ns.dns") else { return Answer::NoData };
                let glue = record(&ns, ip_data(self.address));
                Answer::Records { answers: vec![record(name, RData::NS(NS(ns)))], additionals: vec![glue] }
            }
            _ => Answer::NoData,
        }
    }

    fn in_services(&self, name: &Name, below: &[&str], kind: RecordType) -> Answer {
        match *below {
            [namespace] if self.index.has_namespace(namespace) => Answer::NoData,
            [service, namespace] => self.service(name, service, namespace, kind, &PortFilter(None)),
            [port, protocol, service, namespace] => {
                let (Some(port), Some(protocol)) = (port.strip_prefix('_'), protocol.strip_prefix('_')) else { return Answer::NoName };
                self.service(name, service, namespace, kind, &PortFilter(Some((port, protocol))))
            }
            [endpoint, service, namespace] => self.endpoint(name, endpoint, service, namespace, kind),
            _ => Answer::NoName,
        }
    }

    /// `1-2-3-4.<namespace>.pod`: the address itself, whoever has it (CoreDNS' `pods insecure`, which every installer sets).
    fn in_pods(&self, name: &Name, below: &[&str], kind: RecordType) -> Answer {
        match *below {
            [namespace] if self.index.has_namespace(namespace) => Answer::NoData,
            [dashed, _] => match pod_address(dashed) {
                Some(address) => addresses(name, [address].into_iter(), kind),
                None => Answer::NoName,
            },
            _ => Answer::NoName,
        }
    }

    fn service(&self, name: &Name, service: &str, namespace: &str, kind: RecordType, ports: &PortFilter<'_>) -> Answer {
        let there = self.index.alone(namespace, service);
        let Some((object, spec)) = there.as_deref().and_then(|s| Some((s, s.spec.as_ref()?))) else { return Answer::NoName };
        if spec.type_.as_deref() == Some("ExternalName") {
            return if ports.0.is_none() { alias(spec) } else { Answer::NoName };
        }
        let ips = cluster_ips(object);
        let target = format!("{service}.{namespace}.svc");
        if ips.is_empty() {
            return self.headless(name, &self.index.entry(namespace, service), &target, kind, ports);
        }
        let matching: Vec<u16> = service_ports(spec, ports).collect();
        match (kind, &ports.0) {
            (_, Some(_)) if matching.is_empty() => Answer::NoName,
            (RecordType::SRV, _) => {
                let targets = matching.iter().map(|port| (*port, target.clone(), ips.clone())).collect();
                self.located(name, targets)
            }
            (_, Some(_)) => Answer::NoData,
            _ => addresses(name, ips.into_iter(), kind),
        }
    }

    fn headless(&self, name: &Name, entry: &Entry, target: &str, kind: RecordType, ports: &PortFilter<'_>) -> Answer {
        let mut targets = Vec::new();
        let all = endpoints(entry);
        for found in &all {
            for port in found.ports.iter().filter(|p| ports.takes(p.name.as_deref(), p.protocol.as_deref())) {
                let Some(number) = port.port.and_then(|p| u16::try_from(p).ok()) else { continue };
                targets.push((number, format!("{}.{target}", found.name), vec![found.address]));
            }
        }
        match (kind, &ports.0) {
            (_, Some(_)) if targets.is_empty() => Answer::NoName,
            (RecordType::SRV, _) if !targets.is_empty() => self.located(name, targets),
            (_, Some(_)) => Answer::NoData,
            // As CoreDNS: without endpoints the name does not exist.
            _ if all.is_empty() => Answer::NoName,
            _ => addresses(name, all.iter().map(|f| f.address), kind),
        }
    }

    fn endpoint(&self, name: &Name, endpoint: &str, service: &str, namespace: &str, kind: RecordType) -> Answer {
        let entry = self.index.entry_with(namespace, service, endpoint);
        let is_there = entry.service.as_ref().and_then(|s| s.spec.as_ref()).is_some_and(|s| s.type_.as_deref() != Some("ExternalName"));
        let all = endpoints(&entry);
        let matching: Vec<&EndpointAddress<'_>> = all.iter().filter(|f| f.name.eq_ignore_ascii_case(endpoint)).collect();
        match kind {
            _ if !is_there || matching.is_empty() => Answer::NoName,
            _ => addresses(name, matching.iter().map(|f| f.address), kind),
        }
    }

    /// Names of an address of a service or an endpoint; unknown ones may be another server's.
    fn by_address(&self, name: &Name, address: IpAddr, kind: RecordType) -> Answer {
        let holders = self.index.holders(address);
        // A service's address is its own; one pod may be an endpoint of many services.
        let services = holders.iter().any(|h| matches!(h, Holder::Service(_)));
        let names = holders.iter().filter_map(|holder| match holder {
            Holder::Service(key) => self.full(&format!("{}.{}.svc", key.name, key.namespace)),
            Holder::Endpoint(..) if services => None,
            Holder::Endpoint(key, endpoint) => self.full(&format!("{endpoint}.{}.{}.svc", key.name, key.namespace)),
        });
        let records: Vec<Record> = names.map(|target| record(name, RData::PTR(PTR(target)))).collect();
        if records.is_empty() { Answer::NotOurs } else { only(kind, RecordType::PTR, || records) }
    }

    /// SRV records, and the addresses of their targets.
    fn located(&self, name: &Name, targets: Vec<(u16, String, Vec<IpAddr>)>) -> Answer {
        let weight = u16::try_from(100 / targets.len().max(1)).unwrap_or(1).max(1);
        let (mut answers, mut additionals) = (Vec::new(), Vec::new());
        for (port, target, ips) in targets {
            let Some(target) = self.full(&target) else { continue };
            additionals.extend(ips.into_iter().map(|ip| record(&target, ip_data(ip))));
            answers.push(record(name, RData::SRV(SRV::new(0, weight, port, target))));
        }
        additionals.sort_by_key(|r| r.name.clone());
        additionals.dedup();
        if answers.is_empty() { Answer::NoData } else { Answer::Records { answers, additionals } }
    }

    fn soa(&self) -> Option<RData> {
        let (mname, rname) = (self.full("ns.dns")?, self.full("hostmaster")?);
        Some(RData::SOA(SOA::new(mname, rname, self.serial, 7200, 1800, 86400, TTL)))
    }

    /// `None` where an object's name is longer than a name may be.
    fn full(&self, below: &str) -> Option<Name> {
        let dot = if below.is_empty() { "" } else { "." };
        Name::from_ascii(format!("{below}{dot}{}.", self.apex)).ok()
    }
}

impl PortFilter<'_> {
    fn takes(&self, name: Option<&str>, protocol: Option<&str>) -> bool {
        let is = |(n, p): (&str, &str)| name.unwrap_or("").eq_ignore_ascii_case(n) && protocol.unwrap_or("TCP").eq_ignore_ascii_case(p);
        self.0.is_none_or(is)
    }
}

fn endpoints(entry: &Entry) -> Vec<EndpointAddress<'_>> {
    let everybody = entry.service.as_ref().and_then(|s| s.spec.as_ref()?.publish_not_ready_addresses).unwrap_or(false);
    let mut all = Vec::new();
    for slice in entry.slices.values() {
        let ports = slice.ports.as_deref().unwrap_or(&[]);
        let published = steps::counted(slice.endpoints.iter().flatten()).filter(|e| everybody || is_ready(e));
        all.extend(published.flat_map(|endpoint| addresses_of(endpoint, ports)));
    }
    all
}

fn addresses_of<'a>(endpoint: &'a Endpoint, ports: &'a [EndpointPort]) -> impl Iterator<Item = EndpointAddress<'a>> {
    let parsed = endpoint.addresses.iter().filter_map(|a| a.parse::<IpAddr>().ok());
    parsed.map(move |address| EndpointAddress { name: endpoint_name(endpoint, address), address, ports })
}

fn service_ports<'a>(spec: &'a ServiceSpec, filter: &'a PortFilter<'_>) -> impl Iterator<Item = u16> + 'a {
    let ports = spec.ports.iter().flatten().filter(|p| filter.takes(p.name.as_deref(), p.protocol.as_deref()));
    ports.filter_map(|p| u16::try_from(p.port).ok())
}

fn alias(spec: &ServiceSpec) -> Answer {
    let target = spec.external_name.as_deref().unwrap_or("").trim_end_matches('.');
    Name::from_ascii(format!("{target}.")).map_or(Answer::NoName, Answer::Alias)
}

/// A or AAAA records of those addresses that fit, in random order.
fn addresses(name: &Name, all: impl Iterator<Item = IpAddr>, kind: RecordType) -> Answer {
    let mut fitting: Vec<IpAddr> = all.filter(|ip| kind == if ip.is_ipv4() { RecordType::A } else { RecordType::AAAA }).collect();
    fitting.sort_unstable();
    fitting.dedup();
    fitting.shuffle(&mut rand::rng());
    some(fitting.into_iter().map(|ip| record(name, ip_data(ip))).collect())
}

fn only(kind: RecordType, wanted: RecordType, records: impl FnOnce() -> Vec<Record>) -> Answer {
    if kind == wanted { some(records()) } else { Answer::NoData }
}

fn some(answers: Vec<Record>) -> Answer {
    if answers.is_empty() { Answer::NoData } else { Answer::Records { answers, additionals: Vec::new() } }
}

/// The record by which `name` stands for `target`.
pub fn cname(name: &Name, target: &Name) -> Record {
    record(name, RData::CNAME(CNAME(target.clone())))
}

fn record(name: &Name, data: RData) -> Record {
    Record::from_rdata(name.clone(), TTL, data)
}

fn ip_data(ip: IpAddr) -> RData {
    match ip {
        IpAddr::V4(v4) => RData::A(A(v4)),
        IpAddr::V6(v6) => RData::AAAA(AAAA(v6)),
    }
}

fn pod_address(dashed: &str) -> Option<IpAddr> {
    let v4 = Ipv4Addr::from_str(&dashed.replace('-', ".")).ok().map(IpAddr::V4);
    v4.or_else(|| Ipv6Addr::from_str(&dashed.replace('-', ":")).ok().map(IpAddr::V6))
}

/// `4.3.2.1.in-addr.arpa`, or the 32 digits of `ip6.arpa`.
fn reverse_address(labels: &[String]) -> Option<IpAddr> {
    let (digits, suffix) = labels.split_at_checked(labels.len().checked_sub(2)?)?;
    match (suffix.first()?.as_str(), suffix.get(1)?.as_str(), digits.len()) {
        ("in-addr", "arpa", 4) => {
            let parts: Vec<&str> = digits.iter().rev().map(String::as_str).collect();
            parts.join(".").parse().ok().map(IpAddr::V4)
        }
        ("ip6", "arpa", 32) => {
            let all: String = digits.iter().rev().map(String::as_str).collect();
            u128::from_str_radix(&all, 16).ok().filter(|_| all.len() == 32).map(|bits| IpAddr::V6(Ipv6Addr::from(bits)))
        }
        _ => None,
    }
}
