//! Service ports -> UDP flows that lead to endpoints which are gone, forgotten. TCP ends by itself; UDP would go on into nothing.
//!
//! Source: upstream `pkg/proxy/conntrack/cleanup.go`.

use std::{io::ErrorKind, net::IpAddr};

use crate::{
    family::Family,
    model::{Protocol, ServicePort},
    netlink::{Error, Socket, Verb, Writer, parts},
};

/// One tracked flow: as its first packet was, and who answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flow {
    src: IpAddr,
    dst: IpAddr,
    sport: u16,
    dport: u16,
    answers: IpAddr,
}

/// One direction of a flow.
struct Tuple {
    src: IpAddr,
    dst: IpAddr,
    protocol: u8,
    sport: u16,
    dport: u16,
}

// `enum ctattr_type`, `ctattr_tuple`, `ctattr_ip`, `ctattr_l4proto` of the kernel's nfnetlink_conntrack.h.
const TUPLE_ORIG: u16 = 1;
const TUPLE_REPLY: u16 = 2;
const TUPLE_IP: u16 = 1;
const TUPLE_PROTO: u16 = 2;
/// Source and destination, by family.
const IPS_V4: [u16; 2] = [1, 2];
const IPS_V6: [u16; 2] = [3, 4];
const PROTO_NUM: u16 = 1;
const PROTO_SPORT: u16 = 2;
const PROTO_DPORT: u16 = 3;
const UDP: u8 = 17;

/// Whether the change from `old` to `new` can leave stale flows: an endpoint went away, or the first one came.
pub fn is_due(old: &[ServicePort], new: &[ServicePort]) -> bool {
    let due = |old: &ServicePort| {
        let now = new.iter().find(|p| p.name == old.name && p.protocol == old.protocol);
        let (before, after) = (old.reachable(), now.map(ServicePort::reachable).unwrap_or_default());
        before.iter().any(|e| !after.contains(e)) || (before.is_empty() && !after.is_empty())
    };
    let fresh = |new: &ServicePort| !old.iter().any(|p| p.name == new.name && p.protocol == new.protocol);
    udp(old).any(due) || udp(new).any(fresh)
}

/// Forgets the stale flows of these service ports, which are of that family; `gone` are service ports that no longer exist. How many those were.
///
/// # Errors
/// Where the kernel does not tell its flows, or refuses to forget one.
pub async fn clean(family: Family, service_ports: Vec<ServicePort>, gone: Vec<ServicePort>, node_ips: Vec<IpAddr>) -> Result<usize, Error> {
    forget_those(family, move |flows| stale(flows, &service_ports, &gone, &node_ips)).await
}

/// Forgets the flows to these ports of whatever address of that family. How many those were.
///
/// # Errors
/// As [`clean`].
pub async fn forget_to_ports(family: Family, ports: Vec<u16>) -> Result<usize, Error> {
    forget_those(family, move |flows| flows.iter().filter(|flow| ports.contains(&flow.dport)).cloned().collect()).await
}

async fn forget_those(family: Family, choose: impl FnOnce(&[Flow]) -> Vec<Flow> + Send + 'static) -> Result<usize, Error> {
    // Here: it is of this thread's network namespace.
    let socket = Socket::open()?;
    // A busy node has hundreds of thousands of flows to look through.
    let work = tokio::task::spawn_blocking(move || {
        let chosen = choose(&flows(&socket, family)?);
        chosen.iter().try_for_each(|flow| forget(&socket, flow)).map(|()| chosen.len())
    });
    work.await.unwrap_or_else(|error| Err(std::io::Error::other(error).into()))
}

/// All flows of UDP over that family.
fn flows(socket: &Socket, family: Family) -> Result<Vec<Flow>, Error> {
    let mut all = Vec::new();
    socket.list(&Writer::dump(family, Verb::GetFlow, |_| {}), |message| all.extend(flow(message)))?;
    Ok(all)
}

/// `None` for what is not UDP, or not understood.
fn flow(message: &[u8]) -> Option<Flow> {
    let tuple = |wanted| parts(message).find(|(kind, _)| *kind == wanted).and_then(|(_, value)| Tuple::read(value));
    let (first, answer) = (tuple(TUPLE_ORIG).filter(|first| first.protocol == UDP)?, tuple(TUPLE_REPLY)?);
    Some(Flow { src: first.src, dst: first.dst, sport: first.sport, dport: first.dport, answers: answer.src })
}

fn forget(socket: &Socket, flow: &Flow) -> Result<(), Error> {
    match socket.commit(&Writer::single(Family::of(flow.dst), Verb::DelFlow, |w| w.nested(TUPLE_ORIG, |w| flow.write(w)))) {
        // It has timed out by now.
        Err(Error::Refused { why, .. }) if why.kind() == ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

impl Flow {
    fn write(&self, w: &mut Writer) {
        w.nested(TUPLE_IP, |w| {
            let kinds = if Family::of(self.dst) == Family::V4 { IPS_V4 } else { IPS_V6 };
            for (kind, ip) in kinds.into_iter().zip([self.src, self.dst]) {
                match ip {
                    IpAddr::V4(ip) => w.attr(kind, &ip.octets()),
                    IpAddr::V6(ip) => w.attr(kind, &ip.octets()),
                }
            }
        });
        w.nested(TUPLE_PROTO, |w| {
            w.attr(PROTO_NUM, &[UDP]);
            w.attr(PROTO_SPORT, &self.sport.to_be_bytes());
            w.attr(PROTO_DPORT, &self.dport.to_be_bytes());
        });
    }
}

impl Tuple {
    fn read(bytes: &[u8]) -> Option<Self> {
        let within = |outer, inner| {
            let (_, group) = parts(bytes).find(|(kind, _)| *kind == outer)?;
            parts(group).find(|(kind, _)| *kind == inner).map(|(_, value)| value)
        };
        let v4 = |kind| within(TUPLE_IP, kind)?.first_chunk::<4>().map(|octets| IpAddr::from(*octets));
        let v6 = |kind| within(TUPLE_IP, kind)?.first_chunk::<16>().map(|octets| IpAddr::from(*octets));
        let ip = |place: usize| v4(IPS_V4[place]).or_else(|| v6(IPS_V6[place]));
        let port = |kind| within(TUPLE_PROTO, kind)?.first_chunk::<2>().map(|bytes| u16::from_be_bytes(*bytes));
        let protocol = *within(TUPLE_PROTO, PROTO_NUM)?.first()?;
        // Other protocols have no ports.
        let (sport, dport) = (port(PROTO_SPORT).unwrap_or(0), port(PROTO_DPORT).unwrap_or(0));
        Some(Self { src: ip(0)?, dst: ip(1)?, protocol, sport, dport })
    }
}

fn stale(flows: &[Flow], service_ports: &[ServicePort], gone: &[ServicePort], node_ips: &[IpAddr]) -> Vec<Flow> {
    let lost = |flow: &Flow, service_port: &ServicePort| !service_port.reachable().iter().any(|e| e.ip == flow.answers);
    let is_stale = |flow: &&Flow| {
        let alive = udp(service_ports).find(|p| leads_through(flow, p, node_ips));
        alive.map_or_else(|| udp(gone).any(|p| leads_through(flow, p, node_ips)), |p| lost(flow, p))
    };
    flows.iter().filter(is_stale).cloned().collect()
}

fn leads_through(flow: &Flow, service_port: &ServicePort, node_ips: &[IpAddr]) -> bool {
    let addresses = || [&service_port.cluster_ip].into_iter().chain(&service_port.external_ips).chain(&service_port.balancer_ips);
    let by_address = flow.dport == service_port.port && addresses().any(|ip| *ip == flow.dst);
    by_address || (service_port.node_port == Some(flow.dport) && node_ips.contains(&flow.dst))
}

fn udp(service_ports: &[ServicePort]) -> impl Iterator<Item = &ServicePort> {
    service_ports.iter().filter(|p| p.protocol == Protocol::Udp)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        model::{Node, service_ports},
        testing::{service, slice},
    };
    use serde_json::json;

    fn dns(endpoints: &[&str]) -> Vec<ServicePort> {
        let spec = json!({"clusterIP": "10.96.0.5", "ports": [{"name": "d", "port": 53, "protocol": "UDP", "nodePort": 30053}]});
        let slices = [slice("d/s", "d", "UDP", 5353, endpoints)];
        service_ports(&service("d/s", spec), slices.iter(), &Node::default(), Family::V4)
    }

    /// As the kernel tells it: the first packet's way, and the answer's.
    fn message(protocol: u8, way: (&str, &str, u16, u16), answers: &str) -> Vec<u8> {
        let (src, dst, sport, dport) = way;
        let flow = |src: &str, dst: &str, sport, dport| Flow {
            src: src.parse().unwrap(),
            dst: dst.parse().unwrap(),
            sport,
            dport,
            answers: "0.0.0.0".parse().unwrap(),
        };
        let mut bytes = Writer::single(Family::V4, Verb::GetFlow, |w| {
            w.nested(TUPLE_ORIG, |w| flow(src, dst, sport, dport).write(w));
            w.nested(TUPLE_REPLY, |w| flow(answers, src, dport, sport).write(w));
        });
        bytes.drain(..20);
        let at = bytes.windows(5).position(|b| b == [5, 0, 1, 0, UDP]).unwrap();
        bytes[at + 4] = protocol;
        bytes
    }

    fn listing() -> Vec<Flow> {
        let all = [
            message(UDP, ("10.0.0.9", "10.96.0.5", 4000, 53), "10.0.0.1"),
            message(UDP, ("10.0.0.9", "10.96.0.5", 4001, 53), "10.0.0.2"),
            message(UDP, ("10.0.0.9", "10.96.0.5", 4002, 53), "10.96.0.5"),
            message(UDP, ("192.0.2.9", "192.0.2.2", 4003, 30053), "10.0.0.1"),
            message(UDP, ("10.0.0.9", "8.8.8.8", 4004, 30053), "8.8.8.8"),
            message(6, ("10.0.0.9", "10.96.0.5", 4005, 53), "10.0.0.1"),
            b"nonsense".to_vec(),
        ];
        all.iter().filter_map(|message| flow(message)).collect()
    }

    fn stale_ports(service_ports: &[ServicePort], gone: &[ServicePort]) -> Vec<u16> {
        stale(&listing(), service_ports, gone, &["192.0.2.2".parse().unwrap()]).iter().map(|f| f.sport).collect()
    }

    #[test]
    fn flows_to_lost_endpoints_are_stale() {
        assert_eq!(listing().len(), 5);
        assert_eq!(stale_ports(&dns(&["10.0.0.2@n"]), &[]), [4000, 4002, 4003]);
        assert_eq!(stale_ports(&dns(&["10.0.0.1@n", "10.0.0.2@n"]), &[]), [4002]);
        assert_eq!(stale_ports(&[], &dns(&["10.0.0.1@n"])), [4000, 4001, 4002, 4003]);
    }

    #[test]
    fn flows_of_ipv6_are_read_and_told_back() {
        let bytes = message(UDP, ("fd00::9", "fd00:96::5", 4000, 53), "fd00::1");
        let read = flow(&bytes).unwrap();
        assert_eq!((read.dst, read.answers), ("fd00:96::5".parse().unwrap(), "fd00::1".parse().unwrap()));
        let spec = json!({"clusterIP": "fd00:96::5", "ports": [{"name": "d", "port": 53, "protocol": "UDP"}]});
        let of = |endpoint: &str| {
            let slices = [slice("d/s", "d", "UDP", 5353, &[endpoint])];
            service_ports(&service("d/s", spec.clone()), slices.iter(), &Node::default(), Family::V6)
        };
        assert!(stale(std::slice::from_ref(&read), &of("fd00::1@n"), &[], &[]).is_empty());
        assert_eq!(stale(std::slice::from_ref(&read), &of("fd00::2@n"), &[], &[]), [read]);
    }

    #[test]
    fn cleaning_is_due_when_an_endpoint_goes_or_the_first_comes() {
        let (none, one, two) = (dns(&[]), dns(&["10.0.0.1@n"]), dns(&["10.0.0.1@n", "10.0.0.2@n"]));
        assert!(is_due(&two, &one) && is_due(&none, &one) && is_due(&one, &none) && is_due(&one, &[]) && is_due(&[], &one));
        assert!(!is_due(&one, &two) && !is_due(&one, &one) && !is_due(&[], &[]));
    }
}
