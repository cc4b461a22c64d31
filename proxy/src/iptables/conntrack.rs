//! Portals -> UDP flows that lead to endpoints which are gone, forgotten. TCP ends by itself; UDP would go on into nothing.
//!
//! Source: upstream `pkg/proxy/conntrack/cleanup.go`.

use std::net::Ipv4Addr;

use super::exec;
use crate::{
    Error,
    model::{Portal, Protocol},
};

/// One tracked flow: as its first packet was, and who answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flow {
    src: Ipv4Addr,
    dst: Ipv4Addr,
    sport: u16,
    dport: u16,
    answers: Ipv4Addr,
}

/// Whether the change from `old` to `new` can leave stale flows: an endpoint went away, or the first one came.
pub fn is_due(old: &[Portal], new: &[Portal]) -> bool {
    let due = |old: &Portal| {
        let now = new.iter().find(|p| p.name == old.name && p.protocol == old.protocol);
        let (before, after) = (old.reachable(), now.map(Portal::reachable).unwrap_or_default());
        before.iter().any(|e| !after.contains(e)) || (before.is_empty() && !after.is_empty())
    };
    let fresh = |new: &Portal| !old.iter().any(|p| p.name == new.name && p.protocol == new.protocol);
    udp(old).any(due) || udp(new).any(fresh)
}

/// Forgets the stale flows of these portals; `gone` are portals that no longer exist.
///
/// # Errors
/// Where `conntrack` cannot be run.
pub async fn clean(portals: &[Portal], gone: &[Portal], node_ips: &[Ipv4Addr]) -> Result<usize, Error> {
    let listing = exec::run("conntrack", &["-L", "-p", "udp"], "").await?;
    let stale = stale(&parse(&listing), portals, gone, node_ips);
    for flow in &stale {
        let Flow { src, dst, sport, dport, .. } = flow;
        let (src, dst, sport, dport) = (src.to_string(), dst.to_string(), sport.to_string(), dport.to_string());
        let args = ["-D", "-p", "udp", "-s", &src, "-d", &dst, "--sport", &sport, "--dport", &dport];
        // Status 1: it has timed out by now.
        if let Err(error) = exec::run("conntrack", &args, "").await {
            tracing::debug!(%error, "flow was not there any more");
        }
    }
    Ok(stale.len())
}

fn stale(flows: &[Flow], portals: &[Portal], gone: &[Portal], node_ips: &[Ipv4Addr]) -> Vec<Flow> {
    let lost = |flow: &Flow, portal: &Portal| !portal.reachable().iter().any(|e| *e.ip() == flow.answers);
    let is_stale = |flow: &&Flow| {
        let alive = udp(portals).find(|p| leads_through(flow, p, node_ips));
        alive.map_or_else(|| udp(gone).any(|p| leads_through(flow, p, node_ips)), |p| lost(flow, p))
    };
    flows.iter().filter(is_stale).cloned().collect()
}

fn leads_through(flow: &Flow, portal: &Portal, node_ips: &[Ipv4Addr]) -> bool {
    let addresses = || [&portal.cluster_ip].into_iter().chain(&portal.external_ips).chain(&portal.balancer_ips);
    let by_address = flow.dport == portal.port && addresses().any(|ip| *ip == flow.dst);
    by_address || (portal.node_port == Some(flow.dport) && node_ips.contains(&flow.dst))
}

fn udp(portals: &[Portal]) -> impl Iterator<Item = &Portal> {
    portals.iter().filter(|p| p.protocol == Protocol::Udp)
}

/// Lines of `conntrack -L`; those that are not understood are left out.
fn parse(text: &str) -> Vec<Flow> {
    text.lines().filter_map(flow).collect()
}

fn flow(line: &str) -> Option<Flow> {
    let all = |name: &str| {
        let of = |word: &'_ str| word.strip_prefix(name)?.strip_prefix('=').map(str::to_owned);
        line.split_whitespace().filter_map(of).collect::<Vec<_>>()
    };
    let (src, dst, sport, dport) = (all("src"), all("dst"), all("sport"), all("dport"));
    Some(Flow {
        src: src.first()?.parse().ok()?,
        dst: dst.first()?.parse().ok()?,
        sport: sport.first()?.parse().ok()?,
        dport: dport.first()?.parse().ok()?,
        answers: src.get(1)?.parse().ok()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        model::{Node, portals},
        testing::{service, slice},
    };
    use serde_json::json;

    fn dns(endpoints: &[&str]) -> Vec<Portal> {
        let spec = json!({"clusterIP": "10.96.0.5", "ports": [{"name": "d", "port": 53, "protocol": "UDP", "nodePort": 30053}]});
        let slices = [slice("d/s", "d", "UDP", 5353, endpoints)];
        portals(&service("d/s", spec), slices.iter(), &Node::default())
    }

    const LISTING: &str = "\
udp      17 21 src=10.0.0.9 dst=10.96.0.5 sport=4000 dport=53 src=10.0.0.1 dst=10.0.0.9 sport=5353 dport=4000 mark=0 use=1
udp      17 21 src=10.0.0.9 dst=10.96.0.5 sport=4001 dport=53 src=10.0.0.2 dst=10.0.0.9 sport=5353 dport=4001 mark=0 use=1
udp      17 21 src=10.0.0.9 dst=10.96.0.5 sport=4002 dport=53 [UNREPLIED] src=10.96.0.5 dst=10.0.0.9 sport=53 dport=4002 mark=0 use=1
udp      17 21 src=192.0.2.9 dst=192.0.2.2 sport=4003 dport=30053 src=10.0.0.1 dst=192.0.2.2 sport=5353 dport=4003 mark=0 use=1
udp      17 21 src=10.0.0.9 dst=8.8.8.8 sport=4004 dport=30053 src=8.8.8.8 dst=10.0.0.9 sport=30053 dport=4004 mark=0 use=1
nonsense
";

    fn stale_ports(portals: &[Portal], gone: &[Portal]) -> Vec<u16> {
        stale(&parse(LISTING), portals, gone, &["192.0.2.2".parse().unwrap()]).iter().map(|f| f.sport).collect()
    }

    #[test]
    fn flows_to_lost_endpoints_are_stale() {
        assert_eq!(parse(LISTING).len(), 5);
        assert_eq!(stale_ports(&dns(&["10.0.0.2@n"]), &[]), [4000, 4002, 4003]);
        assert_eq!(stale_ports(&dns(&["10.0.0.1@n", "10.0.0.2@n"]), &[]), [4002]);
        assert_eq!(stale_ports(&[], &dns(&["10.0.0.1@n"])), [4000, 4001, 4002, 4003]);
    }

    #[test]
    fn cleaning_is_due_when_an_endpoint_goes_or_the_first_comes() {
        let (none, one, two) = (dns(&[]), dns(&["10.0.0.1@n"]), dns(&["10.0.0.1@n", "10.0.0.2@n"]));
        assert!(is_due(&two, &one) && is_due(&none, &one) && is_due(&one, &none) && is_due(&one, &[]) && is_due(&[], &one));
        assert!(!is_due(&one, &two) && !is_due(&one, &one) && !is_due(&[], &[]));
    }
}
