//! This machine, as the node that it would be -> what stands between its pods and those of others.

use std::{
    fs,
    io::ErrorKind,
    net::{IpAddr, Ipv4Addr, TcpListener, UdpSocket},
    time::Duration,
};

use api::{
    preflight::{Finding, Problem, Weight},
    task::Group,
};
use client::transport::Server;
use ipnet::IpNet;
use proxy::overlay::{self, PodNetwork};
use tokio::{net::lookup_host, time::timeout};

use crate::machine::{
    address::{node_address, warning_of},
    instance::NodeLock,
};

/// What findings of the overlay are about.
pub const POD_NETWORK: &str = "pod network";

/// Until the names of all servers are looked up.
const NAMES_BOUND: Duration = Duration::from_secs(2);

/// How this machine would be a node: what flags say, or would by default.
#[derive(Clone, Debug)]
pub struct Wish {
    /// `None` where it is one already.
    pub name: Option<String>,
    pub node_ip: Option<IpAddr>,
    pub kubelet_port: u16,
    pub pod_network: PodNetwork,
    pub vxlan_port: u16,
    pub cluster_cidrs: Vec<IpNet>,
}

/// Who must be let in to a port of this machine.
#[derive(Clone, Copy, Debug)]
pub enum Needs {
    /// Without it the node is none of the cluster's.
    Others(u16),
    /// Only a machine that joins this one.
    Joiners(u16),
    /// Servers come by the tunnel.
    Nobody,
}

/// Looks at addresses, ports, firewalls, MTU and what other pod networks left. A few packets are sent to the first server; nothing is changed.
pub async fn look(wish: &Wish, servers: &[Server], needs: Needs, group: &Group) -> Vec<Finding> {
    let server = address_of(servers).await;
    let mut found = Vec::new();
    match wish.node_ip.or_else(|| node_address(server).map(|chosen| chosen.address)) {
        Some(ip) => {
            found.push(named(ip));
            found.extend(pod_network(wish, ip, servers, needs, group).await);
        }
        None => found.push(Finding::wrong(
            "node address",
            "this machine has no address that others could reach",
            "connect it to a network, or give --node-ip",
        )),
    }
    if NodeLock::holder().is_none() {
        found.extend(ports(wish));
    }
    found.extend(swap(&fs::read_to_string("/proc/swaps").unwrap_or_default()));
    found
}

/// The part of [`look`] that a node may ask while it starts: nothing is listened at. `ip`: the node's.
pub async fn pod_network(wish: &Wish, ip: IpAddr, servers: &[Server], needs: Needs, group: &Group) -> Vec<Finding> {
    let server = address_of(servers).await;
    let name = wish.name.as_deref().unwrap_or_default();
    let config = overlay::Config::new(wish.pod_network, name, ip, &wish.cluster_cidrs);
    let config = overlay::Config { port: wish.vxlan_port, ..config };
    let seen = overlay::see(&config, server, group).await;
    let (must, may) = match needs {
        Needs::Others(port) => (vec![port], vec![port]),
        Needs::Joiners(port) => (Vec::new(), vec![port]),
        Needs::Nobody => (Vec::new(), Vec::new()),
    };
    let blocking = overlay::problems(&seen, &config, &must);
    let all = overlay::problems(&seen, &config, &may);
    let mut found: Vec<Finding> = seen.mtu(&config).into_iter().map(Finding::fine).collect();
    found.extend(all.iter().map(|problem| of_problem(problem, &blocking)));
    found
}

/// Another machine than this one has its id: `other` says who.
pub fn cloned(other: &str) -> Finding {
    Finding::wrong(
        "machine-id",
        format!("{other} has this machine's machine-id: one was cloned from the other, and DHCP may give both the same address"),
        "rm -f /etc/machine-id /var/lib/dbus/machine-id && systemd-machine-id-setup (on the clone, then boot it anew)",
    )
}

/// What stands in nobody's way that matters here is but told.
fn of_problem(problem: &Problem, blocking: &[Problem]) -> Finding {
    let is_blocking = blocking.iter().any(|one| one.what == problem.what);
    let weight = if is_blocking { problem.weight } else { Weight::Warns };
    Finding { what: POD_NETWORK.into(), problem: Some(Problem { weight, ..problem.clone() }) }
}

fn named(ip: IpAddr) -> Finding {
    match warning_of(ip) {
        Some(warning) => Finding::wrong(format!("node address {ip}"), warning.why, warning.mend),
        None => Finding::fine(format!("node address {ip}")),
    }
}

/// The address of one of them. Those that are named by their address go first: who is asked for a name may be silent.
pub async fn address_of(servers: &[Server]) -> Option<IpAddr> {
    if let Some(ip) = servers.iter().find_map(|server| server.host().parse().ok()) {
        return Some(ip);
    }
    let asked = async {
        for server in servers {
            let found = lookup_host((server.host(), server.port())).await.ok().and_then(|mut all| all.next());
            if let Some(address) = found {
                return Some(address.ip());
            }
        }
        None
    };
    timeout(NAMES_BOUND, asked).await.ok()?
}

/// Those that the node will listen at.
fn ports(wish: &Wish) -> Vec<Finding> {
    let taken = |port: u16, kind: &str, bound: std::io::Result<()>| match bound {
        Err(error) if error.kind() == ErrorKind::AddrInUse => Finding::wrong(
            format!("port {port}/{kind}"),
            "another program has it",
            match kind {
                "tcp" => format!("ss -ltnp sport = :{port} (shows which: stop it, or give another port)"),
                // The kernel's own sockets have no program.
                _ => format!("ss -lunp sport = :{port}, ip -d link show type vxlan (show which: stop it, or give another port)"),
            },
        ),
        _ => Finding::fine(format!("port {port}/{kind}")),
    };
    let any = |port: u16| (Ipv4Addr::UNSPECIFIED, port);
    let mut found = vec![taken(wish.kubelet_port, "tcp", TcpListener::bind(any(wish.kubelet_port)).map(drop))];
    if wish.pod_network != PodNetwork::Route {
        found.push(taken(wish.vxlan_port, "udp", UdpSocket::bind(any(wish.vxlan_port)).map(drop)));
    }
    found
}

/// Of `/proc/swaps`.
fn swap(table: &str) -> Option<Finding> {
    let names: Vec<&str> = table.lines().skip(1).filter_map(|line| line.split_whitespace().next()).collect();
    let why = "pods get none where the kernel keeps account of it; elsewhere their memory limits do not hold";
    let mend = "swapoff -a (and take it out of /etc/fstab)";
    (!names.is_empty()).then(|| Finding::warned(format!("swap is on ({})", names.join(", ")), why, mend))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wish(kubelet_port: u16, vxlan_port: u16) -> Wish {
        let pod_network = PodNetwork::Auto;
        Wish { name: None, node_ip: None, kubelet_port, pod_network, vxlan_port, cluster_cidrs: Vec::new() }
    }

    #[test]
    fn a_port_that_is_taken_is_told() {
        let (tcp, udp) = (TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap(), UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap());
        let [a, b] = [tcp.local_addr(), udp.local_addr()].map(|address| address.unwrap().port());
        for (finding, port) in ports(&wish(a, b)).iter().zip([a, b]) {
            let Problem { what: why, mend, .. } = finding.problem.as_ref().unwrap();
            assert!(why.contains("another program") && mend.contains(&port.to_string()), "{finding}");
        }
        assert_eq!(ports(&Wish { pod_network: PodNetwork::Route, ..wish(a, b) }).len(), 1);
    }

    #[tokio::test]
    async fn a_server_that_is_named_by_its_address_goes_before_names() {
        let server = |url: &str| Server::parse(url).unwrap();
        let silent = server("https://nobody.invalid:6443");
        assert_eq!(address_of(&[silent.clone(), server("https://10.0.0.5:6443")]).await, Some([10, 0, 0, 5].into()));
        assert_eq!(address_of(&[server("https://[fd00::1]:6443")]).await, Some("fd00::1".parse().unwrap()));
        assert_eq!(address_of(&[silent, server("https://localhost:6443")]).await.map(|ip| ip.is_loopback()), Some(true));
        assert_eq!(address_of(&[]).await, None);
    }

    #[test]
    fn swap_is_told_and_stands_in_nobodys_way() {
        let head = "Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n";
        assert_eq!((swap(""), swap(head)), (None, None));
        let told = swap(&format!("{head}/dev/sda2 partition\t975868\t0\t-2\n/swapfile file 1 0 -3\n")).unwrap();
        assert!(told.what.contains("/dev/sda2, /swapfile") && told.problem.is_some() && !told.blocks(), "{told}");
    }

    #[test]
    fn what_only_joiners_need_is_no_fault() {
        let problem = |weight, what: &str| Problem { weight, what: what.into(), mend: "x".into() };
        let [blocks, warns] = [Weight::Blocks, Weight::Warns].map(|weight| problem(weight, "a"));
        assert!(of_problem(&blocks, std::slice::from_ref(&blocks)).blocks());
        assert!(!of_problem(&blocks, &[problem(Weight::Blocks, "b")]).blocks());
        assert!(!of_problem(&warns, std::slice::from_ref(&warns)).blocks());
    }
}
