//! Leases with port mappings -> DNAT rules: the whole of our chains is written from the leases, so that nothing is ever left over.

use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;

use super::{
    ipam::Leases,
    spec::{Fault, PortMapping},
};
use crate::{
    conntrack,
    family::Family,
    iptables::exec::{restore, save_table},
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

/// Those mappings that ask for a port of the host, on addresses of that family.
///
/// # Errors
/// Code 7 for a protocol or an address we cannot map.
pub fn checked(mappings: &[PortMapping], family: Family) -> Result<Vec<PortMapping>, Fault> {
    let asked = mappings.iter().filter(|m| m.host_port != 0);
    asked.map(|mapping| one_checked(mapping, family)).filter_map(Result::transpose).collect()
}

/// Makes the rules what the leases say.
pub async fn sync(leases: &Leases, subnet: IpNet) -> Result<(), Fault> {
    let failed = |e| Fault::io("map the host's ports", &e);
    let family = Family::of_net(subnet);
    let saved = save_table(family, "nat").await.map_err(failed)?;
    restore(family, &script(leases, subnet, &saved)).await.map_err(failed)
}

/// UDP flows have no end of their own: without this a peer would go on talking to the old pod, or to nobody. Nothing to do where there
/// is none.
pub async fn forget_flows(ports: &[PortMapping], family: Family) {
    let udp: Vec<u16> = ports.iter().filter(|p| p.protocol == "udp").map(|p| p.host_port).collect();
    if !udp.is_empty() {
        let _ = conntrack::forget_to_ports(family, udp).await;
    }
}

/// The input of `iptables-restore --noflush` (or `ip6tables-restore`, as the subnet is); `saved` is what `iptables-save -t nat` printed.
pub fn script(leases: &Leases, subnet: IpNet, saved: &str) -> String {
    let mut text = format!("*nat\n:{CHAIN} - [0:0]\n:{MASQ_CHAIN} - [0:0]\n");
    for (chain, rule) in JUMPS {
        let jump = format!("-A {chain} {rule}");
        if !saved.lines().any(|line| line == jump) {
            text.push_str(&format!("-I {chain} {rule}\n"));
        }
    }
    for (address, lease) in leases.leases.iter().filter(|(address, _)| Family::of(**address) == Family::of_net(subnet)) {
        lease.ports.iter().for_each(|port| text.push_str(&rules(*address, port, subnet)));
    }
    text.push_str(&format!("-A {MASQ_CHAIN} -m mark --mark {MARK} -j MASQUERADE --random-fully\nCOMMIT\n"));
    text
}

fn one_checked(mapping: &PortMapping, family: Family) -> Result<Option<PortMapping>, Fault> {
    let protocol = mapping.protocol.to_lowercase();
    let protocol = if protocol.is_empty() { "tcp".to_owned() } else { protocol };
    if !["tcp", "udp", "sctp"].contains(&protocol.as_str()) {
        return Err(Fault::config(format!("portMappings: protocol {protocol:?} is not supported")));
    }
    if mapping.container_port == 0 {
        return Err(Fault::config("portMappings: containerPort is missing"));
    }
    let host_ip = match mapping.host_ip.as_str() {
        "" => String::new(),
        other => match other.parse::<IpAddr>() {
            Ok(ip) if ip.is_unspecified() && Family::of(ip) == family => String::new(),
            // Dual-stack callers ask for both; there is no pod address of the other family to lead to.
            Ok(ip) if ip.is_unspecified() => return Ok(None),
            Ok(ip) if Family::of(ip) == family => ip.to_string(),
            _ => return Err(Fault::config(format!("portMappings: hostIP {other:?} is not an {family} address"))),
        },
    };
    Ok(Some(PortMapping { protocol, host_ip, ..mapping.clone() }))
}

fn rules(address: IpAddr, port: &PortMapping, subnet: IpNet) -> String {
    let PortMapping { host_port, container_port, protocol, host_ip } = port;
    let whole = |ip: IpAddr| IpNet::from(ip).to_string();
    let to = host_ip.parse().map(|ip| format!(" -d {}", whole(ip))).unwrap_or_default();
    let select = |from: &str| format!("-A {CHAIN}{from}{to} -p {protocol} -m {protocol} --dport {host_port}");
    // From pods of this bridge, also the pod itself, and from localhost: the answer would take another way back.
    let localhost = if subnet.addr().is_ipv4() { IpAddr::from([127, 0, 0, 1]) } else { Family::V6.loopback().addr() };
    let local = [format!(" -s {subnet}"), format!(" -s {}", whole(localhost))];
    let mut text: String = local.iter().map(|from| format!("{} -j MARK --set-xmark {MARK}\n", select(from))).collect();
    text.push_str(&format!("{} -j DNAT --to-destination {}\n", select(""), SocketAddr::new(address, *container_port)));
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
        let ports = checked(&[port("TCP", ""), port("udp", "192.0.2.1")], Family::V4).unwrap();
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
    fn pods_of_ipv6_have_rules_of_their_own() {
        let mut leases = Leases::default();
        let ports = checked(&[port("TCP", ""), port("tcp", "2001:db8::1"), port("tcp", "0.0.0.0")], Family::V6).unwrap();
        for (address, ports) in [("fd00:77::2", ports), ("10.0.0.2", vec![port("tcp", "")])] {
            leases.leases.insert(address.parse().unwrap(), Lease { owner: Owner::default(), ports });
        }
        let text = script(&leases, "fd00:77::/64".parse().unwrap(), "");
        let rules: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("-A SKIFF-HOSTPORTS ")).collect();
        let wanted = [
            "-s fd00:77::/64 -p tcp -m tcp --dport 80 -j MARK --set-xmark 0x2000/0x2000",
            "-s ::1/128 -p tcp -m tcp --dport 80 -j MARK --set-xmark 0x2000/0x2000",
            "-p tcp -m tcp --dport 80 -j DNAT --to-destination [fd00:77::2]:8080",
            "-s fd00:77::/64 -d 2001:db8::1/128 -p tcp -m tcp --dport 80 -j MARK --set-xmark 0x2000/0x2000",
            "-s ::1/128 -d 2001:db8::1/128 -p tcp -m tcp --dport 80 -j MARK --set-xmark 0x2000/0x2000",
            "-d 2001:db8::1/128 -p tcp -m tcp --dport 80 -j DNAT --to-destination [fd00:77::2]:8080",
        ];
        assert_eq!(rules, wanted);
    }

    #[test]
    fn what_cannot_be_mapped_is_refused() {
        assert_eq!(checked(&[port("icmp", "")], Family::V4).unwrap_err().code, 7);
        assert_eq!(checked(&[port("tcp", "nowhere")], Family::V4).unwrap_err().code, 7);
        assert_eq!(checked(&[port("tcp", "fd00::1")], Family::V4).unwrap_err().code, 7);
        assert_eq!(checked(&[port("tcp", "192.0.2.1")], Family::V6).unwrap_err().code, 7);
        assert!(checked(&[port("tcp", "::")], Family::V4).unwrap().is_empty());
        assert!(checked(&[PortMapping { host_port: 0, ..port("tcp", "") }], Family::V4).unwrap().is_empty());
    }
}
