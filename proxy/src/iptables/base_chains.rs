//! The rules that are there without any service: jumps from the kernel's chains, and the chains that mark, masquerade and forward.
//!
//! Source: upstream `pkg/proxy/iptables/proxier.go`. Chains named SKIFF-* are our own: the pod network's way out, and through.

use std::net::IpAddr;

use ipnet::IpNet;

use super::rules::Shared;
use crate::{family::Family, model::NodeNetwork};

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Table {
    Filter,
    Nat,
}

/// Where a jump stands among the rules of others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Position {
    First,
    Last,
}

/// A rule in a chain of the kernel that leads into one of ours.
pub struct Jump {
    pub table: Table,
    pub from: &'static str,
    pub to: &'static str,
    pub when: &'static str,
    pub position: Position,
}

const NEW: &str = "-m conntrack --ctstate NEW";

/// All jumps. Those that are inserted come to stand in the reverse of this order.
pub const JUMPS: [Jump; 18] = [
    jump(Table::Filter, "INPUT", "KUBE-EXTERNAL-SERVICES", NEW, Position::First),
    jump(Table::Filter, "FORWARD", "KUBE-EXTERNAL-SERVICES", NEW, Position::First),
    jump(Table::Filter, "INPUT", "KUBE-NODEPORTS", "", Position::First),
    jump(Table::Filter, "FORWARD", "KUBE-SERVICES", NEW, Position::First),
    jump(Table::Filter, "OUTPUT", "KUBE-SERVICES", NEW, Position::First),
    jump(Table::Filter, "FORWARD", "KUBE-FORWARD", "", Position::First),
    jump(Table::Filter, "INPUT", "KUBE-PROXY-FIREWALL", NEW, Position::First),
    jump(Table::Filter, "OUTPUT", "KUBE-PROXY-FIREWALL", NEW, Position::First),
    jump(Table::Filter, "FORWARD", "KUBE-PROXY-FIREWALL", NEW, Position::First),
    jump(Table::Filter, "INPUT", "KUBE-FIREWALL", "", Position::First),
    jump(Table::Filter, "OUTPUT", "KUBE-FIREWALL", "", Position::First),
    jump(Table::Filter, "INPUT", "SKIFF-INPUT", "", Position::First),
    jump(Table::Filter, "OUTPUT", "SKIFF-OUTPUT", "", Position::First),
    jump(Table::Filter, "FORWARD", "SKIFF-FORWARD", "", Position::Last),
    jump(Table::Nat, "OUTPUT", "KUBE-SERVICES", "", Position::First),
    jump(Table::Nat, "PREROUTING", "KUBE-SERVICES", "", Position::First),
    jump(Table::Nat, "POSTROUTING", "KUBE-POSTROUTING", "", Position::First),
    jump(Table::Nat, "POSTROUTING", "SKIFF-MASQ", "", Position::Last),
];

/// Chains that services share: where each stands.
pub const SHARED: [(Shared, Table, &str); 6] = [
    (Shared::FilterServices, Table::Filter, "KUBE-SERVICES"),
    (Shared::FilterExternal, Table::Filter, "KUBE-EXTERNAL-SERVICES"),
    (Shared::FilterNodePorts, Table::Filter, "KUBE-NODEPORTS"),
    (Shared::FilterFirewall, Table::Filter, "KUBE-PROXY-FIREWALL"),
    (Shared::NatServices, Table::Nat, "KUBE-SERVICES"),
    (Shared::NatNodePorts, Table::Nat, "KUBE-NODEPORTS"),
];

/// Chains that are needed whoever serves the services. For a node's own firewall: a verdict of another table cannot undo a refusal of this one.
pub const GUARDS: [&str; 3] = ["SKIFF-INPUT", "SKIFF-OUTPUT", "SKIFF-FORWARD"];

impl Table {
    pub fn word(self) -> &'static str {
        match self {
            Table::Filter => "filter",
            Table::Nat => "nat",
        }
    }
}

/// What comes after all services' lines in a shared chain.
pub fn tail(shared: Shared) -> Option<&'static str> {
    let node_ports = "-m comment --comment \"kubernetes service nodeports; NOTE: this must be the last rule in this chain\" \
                      -m addrtype --dst-type LOCAL -j KUBE-NODEPORTS";
    (shared == Shared::NatServices).then_some(node_ports)
}

/// The chains that never change, with their rules.
pub fn fixed(node_network: &NodeNetwork) -> Vec<(Table, &'static str, Vec<String>)> {
    let lines = |lines: &[&str]| lines.iter().map(|l| (*l).to_owned()).collect::<Vec<_>>();
    let (out, through) = pod_network(node_network);
    vec![
        (
            Table::Filter,
            "KUBE-FORWARD",
            lines(&[
                "-m conntrack --ctstate INVALID -j DROP",
                "-m comment --comment \"kubernetes forwarding rules\" -m mark --mark 0x4000/0x4000 -j ACCEPT",
                "-m comment --comment \"kubernetes forwarding conntrack rule\" -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
            ]),
        ),
        (Table::Filter, "KUBE-FIREWALL", localnet(node_network.family)),
        (Table::Filter, "SKIFF-INPUT", let_in(node_network)),
        (Table::Filter, "SKIFF-OUTPUT", unrefused(node_network)),
        (Table::Filter, "SKIFF-FORWARD", through),
        (
            Table::Nat,
            "KUBE-POSTROUTING",
            lines(&[
                "-m mark ! --mark 0x4000/0x4000 -j RETURN",
                // A packet may pass here twice.
                "-j MARK --xor-mark 0x4000",
                "-m comment --comment \"kubernetes service traffic requiring SNAT\" -j MASQUERADE --random-fully",
            ]),
        ),
        (Table::Nat, "KUBE-MARK-MASQ", lines(&["-j MARK --or-mark 0x4000"])),
        (Table::Nat, "SKIFF-MASQ", out),
    ]
}

/// NodePorts on localhost need `route_localnet`, which would let neighbours in to services that listen on localhost. IPv6 has neither.
fn localnet(family: Family) -> Vec<String> {
    let net = family.loopback();
    let block = format!(
        "-m comment --comment \"block incoming localnet connections\" -d {net} ! -s {net} -m conntrack ! --ctstate RELATED,ESTABLISHED,DNAT -j DROP"
    );
    if family == Family::V4 { vec![block] } else { Vec::new() }
}

/// Rules by which pods reach the outside, and each other where forwarding is refused by default (Docker's policy).
fn pod_network(node_network: &NodeNetwork) -> (Vec<String>, Vec<String>) {
    let Some(cidr) = node_network.cluster_cidr else { return (Vec::new(), Vec::new()) };
    let out = vec![
        format!("-d {cidr} -j RETURN"),
        format!("-d {} -j RETURN", node_network.family.multicast()),
        format!("-m comment --comment \"pod traffic that leaves the cluster\" -s {cidr} -j MASQUERADE --random-fully"),
    ];
    (out, vec![format!("-s {cidr} -j ACCEPT"), format!("-d {cidr} -j ACCEPT")])
}

/// Elsewhere DNS is a pod, and a firewall of the node does not stand before it. Packets of other nodes' pods are let in here, too; those of who is no
/// node were dropped before (`nftables/guard.rs`).
fn let_in(node_network: &NodeNetwork) -> Vec<String> {
    let rule = |ip: &IpAddr, protocol: &str| format!("-d {} -p {protocol} -m {protocol} --dport 53 -j ACCEPT", IpNet::from(*ip));
    let dns = node_network.answered_here.iter().flat_map(|ip| [rule(ip, "udp"), rule(ip, "tcp")]);
    let port = node_network.vxlan_port.filter(|_| node_network.family == Family::V4);
    let vxlan = |port| format!("-m comment --comment \"pods of other nodes, by VXLAN\" -p udp -m udp --dport {port} -j ACCEPT");
    dns.chain(port.map(vxlan)).collect()
}

/// While skiff is started again nobody listens on the DNS address, and these rules stay. A resolver that is refused gives up at once; one that is not
/// answered asks again (glibc after 5 s, musl after 2.5 s), and is answered then.
fn unrefused(node_network: &NodeNetwork) -> Vec<String> {
    let refusal = match node_network.family {
        Family::V4 => "-p icmp -m icmp --icmp-type 3/3",
        Family::V6 => "-p ipv6-icmp -m icmp6 --icmpv6-type 1/4",
    };
    let rule = |ip: &IpAddr| format!("-s {} {refusal} -j DROP", IpNet::from(*ip));
    node_network.answered_here.iter().map(rule).collect()
}

const fn jump(table: Table, from: &'static str, to: &'static str, when: &'static str, position: Position) -> Jump {
    Jump { table, from, to, when, position }
}
