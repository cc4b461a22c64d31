//! This machine -> what would stand between its pods and those of other nodes, and the command that mends it.

use std::{
    fs,
    io::ErrorKind,
    net::{IpAddr, Ipv4Addr, UdpSocket},
    path::Path,
    time::Duration,
};

use api::task::Group;
use nix::sys::socket::{getsockopt, sockopt::IpMtu};

use super::{
    Config, LINK_PREFIX, PodNetwork,
    kernel::{Kernel, VxlanSeen},
    mtu::underlay,
};
use crate::iptables::exec::run;

/// How long a packet that is as long as the interface allows is waited for.
const PROBE: Duration = Duration::from_millis(500);
/// Headers of IPv4 and UDP.
const HEADERS: u32 = 28;

/// One thing that is wrong, and what mends it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    pub what: String,
    /// A command, or a deed.
    pub mend: String,
}

/// What was seen of a machine.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// All VXLAN devices.
    pub vxlans: Vec<VxlanSeen>,
    /// Of the interface that has the node's address, in bytes; and its name.
    pub underlay: Option<(String, u32)>,
    /// Whether an interface really has the node's address.
    pub has_node_ip: bool,
    /// The longest packet that comes through to the server, as far as its answers tell.
    pub path_mtu: Option<u32>,
    pub ufw: bool,
    /// ufw refuses what is forwarded, which comes before our rules; what it drops does not.
    pub ufw_rejects_forwarded: bool,
    pub firewalld: bool,
}

/// Looks at this machine, and sends one packet to the server, if there is one yet. Needs root for all of it: what cannot be seen is not wrong.
pub async fn see(config: &Config, server: Option<IpAddr>, group: &Group) -> Seen {
    let mut seen = Seen::default();
    if let Ok(kernel) = Kernel::open(group) {
        seen.vxlans = kernel.vxlans().await.unwrap_or_default();
        let (all, node_ip) = (kernel.interfaces().await.unwrap_or_default(), four(config.node_ip));
        seen.underlay = node_ip.and_then(|ip| underlay(&all, ip)).map(|link| (link.name.clone(), link.mtu));
        seen.has_node_ip = all.iter().any(|link| link.addresses.iter().any(|net| Some(net.addr()) == node_ip));
    }
    if let (Some((_, mtu)), Some(server)) = (&seen.underlay, server.and_then(four)) {
        let (mtu, port) = (*mtu, config.port);
        seen.path_mtu = tokio::task::spawn_blocking(move || path_mtu(server, port, mtu)).await.ok().flatten();
    }
    let ufw = fs::read_to_string("/etc/ufw/ufw.conf").unwrap_or_default();
    seen.ufw = Path::new("/usr/sbin/ufw").exists() && ufw.lines().any(|line| line.trim().eq_ignore_ascii_case("ENABLED=yes"));
    let defaults = fs::read_to_string("/etc/default/ufw").unwrap_or_default();
    seen.ufw_rejects_forwarded = defaults.lines().any(|line| line.trim() == "DEFAULT_FORWARD_POLICY=\"REJECT\"");
    seen.firewalld =
        run("nft", &["list", "tables"], "").await.is_ok_and(|tables| tables.lines().any(|table| table.ends_with(" firewalld")));
    seen
}

/// What is wrong. `tcp_ports` are those that other machines must reach on this one (the node agent's; the API server's). Pure.
pub fn problems(seen: &Seen, config: &Config, tcp_ports: &[u16]) -> Vec<Problem> {
    let mut all = Vec::new();
    let mut wrong = |what: String, mend: String| all.push(Problem { what, mend });
    if !seen.has_node_ip {
        let what = format!("no interface of this machine has the node's address {}", config.node_ip);
        wrong(what, "name one that others reach with --node-ip".into());
    }
    if config.mode != PodNetwork::Route {
        for other in seen.vxlans.iter().filter(|vxlan| vxlan.port == config.port && !vxlan.name.starts_with(LINK_PREFIX)) {
            let what = format!("UDP port {} is that of another VXLAN device, {} (VNI {})", config.port, other.name, other.vni);
            let mend =
                format!("ip link del {0}, if nothing needs it any more; else --vxlan-port with another number on all nodes", other.name);
            wrong(what, mend);
        }
    }
    if let (Some((name, mtu)), Some(path)) = (&seen.underlay, seen.path_mtu)
        && path < *mtu
    {
        let what =
            format!("{name} takes packets of {mtu} bytes, but the way to the server only such of {path}: long packets of pods are lost");
        wrong(what, format!("ip link set {name} mtu {path} (and in the machine's network configuration), then start skiff anew"));
    }
    if seen.ufw && !tcp_ports.is_empty() {
        let what = format!("ufw is active, and lets nobody in to {}", list(tcp_ports));
        wrong(what, tcp_ports.iter().map(|port| format!("ufw allow {port}/tcp")).collect::<Vec<_>>().join(" && "));
    }
    if seen.ufw && seen.ufw_rejects_forwarded {
        wrong("ufw refuses what is forwarded, packets of pods among it".into(), "ufw default allow routed".into());
    }
    if seen.firewalld {
        wrong("firewalld is active, and drops packets of pods and of other nodes".into(), firewalld(config, tcp_ports));
    }
    all
}

fn firewalld(config: &Config, tcp_ports: &[u16]) -> String {
    let vxlan = (config.mode != PodNetwork::Route).then(|| format!("--add-port={}/udp", config.port));
    let ports: Vec<String> = tcp_ports.iter().map(|port| format!("--add-port={port}/tcp")).chain(vxlan).collect();
    let sources: Vec<String> = config.cluster_cidrs.iter().map(|net| format!("--add-source={net}")).collect();
    let mut commands = Vec::new();
    if !ports.is_empty() {
        commands.push(format!("firewall-cmd --permanent {}", ports.join(" ")));
    }
    if !sources.is_empty() {
        commands.push(format!("firewall-cmd --permanent --zone=trusted {}", sources.join(" ")));
    }
    commands.push("firewall-cmd --reload".into());
    commands.join(" && ")
}

fn list(ports: &[u16]) -> String {
    let all: Vec<String> = ports.iter().map(|port| format!("{port}/tcp")).collect();
    all.join(", ")
}

fn four(ip: IpAddr) -> Option<Ipv4Addr> {
    if let IpAddr::V4(ip) = ip { Some(ip) } else { None }
}

/// Sends one packet as long as the interface allows, which nobody on the way may cut, and hears whether somebody on the way says that it is too long.
fn path_mtu(server: Ipv4Addr, port: u16, mtu: u32) -> Option<u32> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).ok()?;
    socket.connect((server, port)).ok()?;
    socket.set_read_timeout(Some(PROBE)).ok()?;
    let length = mtu.min(65_535).saturating_sub(HEADERS) as usize;
    match socket.send(&vec![0; length]) {
        // The kernel knows already.
        Err(error) if error.raw_os_error() == Some(nix::libc::EMSGSIZE) => {}
        Err(_) => return None,
        Ok(_) => match socket.recv(&mut [0; 1]) {
            // It came through, and nobody listens there.
            Err(error) if error.kind() == ErrorKind::ConnectionRefused => return Some(mtu),
            _ => {}
        },
    }
    getsockopt(&socket, IpMtu).ok().and_then(|found| u32::try_from(found).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(mode: PodNetwork) -> Config {
        Config::new(mode, "n1", [192, 0, 2, 1].into(), &["10.244.0.0/16".parse().unwrap()])
    }

    fn vxlan(name: &str, vni: u32, port: u16) -> VxlanSeen {
        VxlanSeen { name: name.into(), vni, port }
    }

    fn well() -> Seen {
        let vxlans = vec![vxlan("skiff.1", 1, 8472), vxlan("docker-swarm", 4096, 4789)];
        Seen { vxlans, underlay: Some(("eth1".into(), 1500)), has_node_ip: true, path_mtu: Some(1500), ..Seen::default() }
    }

    #[test]
    fn what_is_wrong_is_told_with_what_mends_it() {
        let of = |seen: Seen, mode| problems(&seen, &config(mode), &[10_250]);
        assert_eq!(of(well(), PodNetwork::Auto), []);
        let cases = [
            (Seen { has_node_ip: false, ..well() }, "192.0.2.1", "--node-ip"),
            (Seen { vxlans: vec![vxlan("flannel.1", 1, 8472)], ..well() }, "flannel.1 (VNI 1)", "ip link del flannel.1"),
            (Seen { path_mtu: Some(1400), ..well() }, "only such of 1400", "ip link set eth1 mtu 1400"),
            (Seen { ufw: true, ..well() }, "10250/tcp", "ufw allow 10250/tcp"),
            (Seen { firewalld: true, ..well() }, "firewalld", "--zone=trusted --add-source=10.244.0.0/16 && firewall-cmd --reload"),
            (Seen { firewalld: true, ..well() }, "firewalld", "--add-port=10250/tcp --add-port=8472/udp &&"),
        ];
        for (seen, what, mend) in cases {
            let found = of(seen, PodNetwork::Auto);
            assert!(found.len() == 1 && found[0].what.contains(what) && found[0].mend.contains(mend), "{found:?}");
        }
        assert_eq!(of(Seen { vxlans: vec![vxlan("flannel.1", 1, 8472)], ..well() }, PodNetwork::Route), []);
        assert_eq!(of(Seen { ufw: true, ufw_rejects_forwarded: true, ..well() }, PodNetwork::Auto).len(), 2);
        assert!(!of(Seen { firewalld: true, ..well() }, PodNetwork::Route)[0].mend.contains("8472"));
    }
}
