//! Leases with port mappings -> DNAT rules: the whole of our chains is written from the leases, so that nothing is ever left over.

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;

use super::{
    ipam::Leases,
    spec::{Fault, PortMapping},
};
use crate::{
    conntrack,
    iptables::exec::{restore, run},
};

/// Destination NAT of host ports.
pub const CHAIN: &str = "SKIFF-HOSTPORTS";
/// Masquerades what [`CHAIN`] has marked.
pub const MASQ_CHAIN: &str = "SKIFF-HOSTPORTS-MASQ";
/// The mark upstream's portmap plugin uses.
const MARK: &str = "0x2000/0x2000";

/// Jumps into our chains, as iptables-save prints them.
const JUMPS: [(&str, &str); 3] = [
    ("PREROUTING", "-m addrtype --dst-type LOCAL -j SKIFF-HOSTPORTS"),
    ("OUTPUT", "-m addrtype --dst-type LOCAL -j SKIFF-HOSTPORTS"),
    ("POSTROUTING", "-j SKIFF-HOSTPORTS-MASQ"),
];

/// Those mappings that ask for a port of the host.
///
/// # Errors
/// Code 7 for a protocol or an address we cannot map.
pub fn checked(mappings: &[PortMapping]) -> Result<Vec<PortMapping>, Fault> {
    let asked = mappings.iter().filter(|m| m.host_port != 0);
    asked.map(one_checked).filter_map(Result::transpose).collect()
}

/// Makes the rules what the leases say.
pub async fn sync(leases: &Leases, subnet: Ipv4Net) -> Result<(), Fault> {
    let failed = |e| Fault::io("map the host's ports", &e);
    let saved = run("iptables-save", &["-t", "nat"], "").await.map_err(failed)?;
    restore(&script(leases, subnet, &saved)).await.map_err(failed)
}

/// UDP flows have no end of their own: without this a peer would go on talking to the old pod, or to nobody. Nothing to do where there
/// is none.
pub async fn forget_flows(ports: &[PortMapping]) {
    let udp: Vec<u16> = ports.iter().filter(|p| p.protocol == "udp").map(|p| p.host_port).collect();
    if !udp.is_empty() {
        let _ = conntrack::forget_to_ports(udp).await;
    }
}

/// The input of `iptables-restore --noflush`; `saved` is what `iptables-save -t nat` printed.
pub fn script(leases: &Leases, subnet: Ipv4Net, saved: &str) -> String {
    let mut text = format!("*nat\n:{CHAIN} - [0:0]\n:{MASQ_CHAIN} - [0:0]\n");
    for (chain, rule) in JUMPS {
        let jump = format!("-A {chain} {rule}");
        if !saved.lines().any(|line| line == jump) {
            text.push_str(&format!("-I {chain} {rule}\n"));
        }
    }
    for (address, lease) in &leases.leases {
        lease.ports.iter().for_each(|port| text.push_str(&rules(*address, port, subnet)));
    }
    text.push_str(&format!("-A {MASQ_CHAIN} -m mark --mark {MARK} -j MASQUERADE --random-fully\nCOMMIT\n"));
    text
}

fn one_checked(mapping: &PortMapping) -> Result<Option<PortMapping>, Fault> {
    let protocol = mapping.protocol.to_lowercase();
    let protocol = if protocol.is_empty() { "tcp".to_owned() } else { protocol };
    if !["tcp", "udp", "sctp"].contains(&protocol.as_str()) {
        return Err(Fault::config(format!("portMappings: protocol {protocol:?} is not supported")));
    }
    if mapping.container_port == 0 {
        return Err(Fault::config("portMappings: containerPort is missing"));
    }
    let host_ip = match mapping.host_ip.as_str() {
        "" | "0.0.0.0" => String::new(),
        // Dual-stack callers ask for both; there is no IPv6 pod address to lead to.
        "::" => return Ok(None),
        other => other
            .parse::<Ipv4Addr>()
            .map_err(|_| Fault::config(format!("portMappings: hostIP {other:?} is not an IPv4 address")))?
            .to_string(),
    };
    Ok(Some(PortMapping { protocol, host_ip, ..mapping.clone() }))
}

fn rules(address: Ipv4Addr, port: &PortMapping, subnet: Ipv4Net) -> String {
    let PortMapping { host_port, container_port, protocol, host_ip } = port;
    let to = if host_ip.is_empty() { String::new() } else { format!(" -d {host_ip}/32") };
    let select = |from: &str| format!("-A {CHAIN}{from}{to} -p {protocol} -m {protocol} --dport {host_port}");
    // From pods of this bridge, also the pod itself, and from localhost: the answer would take another way back.
    let local = [format!(" -s {subnet}"), " -s 127.0.0.1/32".to_owned()];
    let mut text: String = local.iter().map(|from| format!("{} -j MARK --set-xmark {MARK}\n", select(from))).collect();
    text.push_str(&format!("{} -j DNAT --to-destination {address}:{container_port}\n", select("")));
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cni::{ipam::Lease, spec::Owner};

    fn port(protocol: &str, host_ip: &str) -> PortMapping {
        PortMapping { host_port: 80, container_port: 8080, protocol: protocol.into(), host_ip: host_ip.into() }
    }

    #[test]
    fn mappings_become_rules_and_jumps_are_made_once() {
        let mut leases = Leases::default();
        let ports = checked(&[port("TCP", ""), port("udp", "192.0.2.1")]).unwrap();
        leases.leases.insert([10, 0, 0, 2].into(), Lease { owner: Owner::default(), ports });
        let saved = "-A OUTPUT -m addrtype --dst-type LOCAL -j SKIFF-HOSTPORTS\n";
        let text = script(&leases, "10.0.0.0/24".parse().unwrap(), saved);
        let wanted = "\
*nat
:SKIFF-HOSTPORTS - [0:0]
:SKIFF-HOSTPORTS-MASQ - [0:0]
-I PREROUTING -m addrtype --dst-type LOCAL -j SKIFF-HOSTPORTS
-I POSTROUTING -j SKIFF-HOSTPORTS-MASQ
-A SKIFF-HOSTPORTS -s 10.0.0.0/24 -p tcp -m tcp --dport 80 -j MARK --set-xmark 0x2000/0x2000
-A SKIFF-HOSTPORTS -s 127.0.0.1/32 -p tcp -m tcp --dport 80 -j MARK --set-xmark 0x2000/0x2000
-A SKIFF-HOSTPORTS -p tcp -m tcp --dport 80 -j DNAT --to-destination 10.0.0.2:8080
-A SKIFF-HOSTPORTS -s 10.0.0.0/24 -d 192.0.2.1/32 -p udp -m udp --dport 80 -j MARK --set-xmark 0x2000/0x2000
-A SKIFF-HOSTPORTS -s 127.0.0.1/32 -d 192.0.2.1/32 -p udp -m udp --dport 80 -j MARK --set-xmark 0x2000/0x2000
-A SKIFF-HOSTPORTS -d 192.0.2.1/32 -p udp -m udp --dport 80 -j DNAT --to-destination 10.0.0.2:8080
-A SKIFF-HOSTPORTS-MASQ -m mark --mark 0x2000/0x2000 -j MASQUERADE --random-fully
COMMIT
";
        assert_eq!(text, wanted);
    }

    #[test]
    fn what_cannot_be_mapped_is_refused() {
        assert_eq!(checked(&[port("icmp", "")]).unwrap_err().code, 7);
        assert_eq!(checked(&[port("tcp", "nowhere")]).unwrap_err().code, 7);
        assert!(checked(&[port("tcp", "::")]).unwrap().is_empty());
        assert!(checked(&[PortMapping { host_port: 0, ..port("tcp", "") }]).unwrap().is_empty());
    }
}
