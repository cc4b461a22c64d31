//! The machine's routes and interfaces -> the address that others reach it at.
//!
//! Upstream: apimachinery `pkg/util/net/interface.go` (`ChooseHostInterface`), which refuses a machine with no default route; there we take what it
//! takes where it cannot see the routes (`chooseIPFromHostInterfaces`). A node that joins has one better: what it reaches the server from is what the
//! cluster reaches it at.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddrV4, SocketAddrV6, UdpSocket},
    path::Path,
};

use nix::{ifaddrs::getifaddrs, net::if_::InterfaceFlags};

/// One address of an interface.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Here {
    link: String,
    flags: InterfaceFlags,
    /// Pods, containers or virtual machines may be all there is behind it.
    bridge: bool,
    ip: IpAddr,
}

/// An address for the node, and what a person should hear of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chosen {
    pub address: IpAddr,
    pub warning: Option<Warning>,
}

/// Why others may not reach an address, and what to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Warning {
    pub why: String,
    pub mend: String,
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}; {}", self.why, self.mend)
    }
}

/// TEST-NET-1 (RFC 5737): only the route to it is looked up.
const WORLD: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));
/// What VirtualBox's NAT gives to each of its machines, and Vagrant makes their first interface.
const VIRTUALBOX_NAT: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 2, 15));
/// Any: nothing is sent there.
const PORT: u16 = 9;

/// The address that packets to `server` would leave from (to the world, where there is none yet); without a route there, one of an interface.
/// `None` where only the machine itself is reached at any.
pub fn node_address(server: Option<IpAddr>) -> Option<Chosen> {
    chosen(server, source, &here())
}

/// What `--node-ip` was not given for; see [`node_address`].
pub fn default_address() -> Option<IpAddr> {
    node_address(None).map(|chosen| chosen.address)
}

/// `source` tells where packets to an address leave from, as the machine's routes are.
fn chosen(server: Option<IpAddr>, source: impl Fn(IpAddr) -> Option<IpAddr>, here: &[Here]) -> Option<Chosen> {
    // A server on this machine is reached by way of the loopback: that tells nothing.
    let towards = server.and_then(&source).filter(|ip| is_global(*ip));
    let address = towards.or_else(|| source(WORLD)).or_else(|| choose(here))?;
    Some(Chosen { address, warning: warning(address, here) })
}

/// [`warning`] of one of this machine's addresses.
pub fn warning_of(address: IpAddr) -> Option<Warning> {
    warning(address, &here())
}

/// Vagrant's trap: the default route leads through an interface on which all machines have the same address.
fn warning(address: IpAddr, here: &[Here]) -> Option<Warning> {
    if address != VIRTUALBOX_NAT {
        return None;
    }
    let others: Vec<Here> = here.iter().filter(|one| one.ip != address).cloned().collect();
    let mend = match choose(&others).and_then(|ip| others.iter().find(|one| one.ip == ip)) {
        Some(other) => format!("`--node-ip {}` (on {}) is probably what you want", other.ip, other.link),
        None => "give the machine a private network, and its address with `--node-ip`".to_owned(),
    };
    let why = format!("{address} is what VirtualBox's NAT gives to every machine: no other node reaches this one there");
    Some(Warning { why, mend })
}

/// Nothing is sent.
fn source(to: IpAddr) -> Option<IpAddr> {
    let any: IpAddr = if to.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0)).ok()?;
    socket.connect((to, PORT)).ok()?;
    socket.local_addr().ok().map(|a| a.ip()).filter(|ip| !ip.is_unspecified())
}

fn here() -> Vec<Here> {
    let all = getifaddrs().into_iter().flatten();
    let here = all.filter_map(|one| {
        let address = one.address?;
        let v4 = address.as_sockaddr_in().map(|a| IpAddr::V4(*SocketAddrV4::from(*a).ip()));
        let ip = v4.or_else(|| address.as_sockaddr_in6().map(|a| IpAddr::V6(*SocketAddrV6::from(*a).ip())))?;
        let bridge = Path::new("/sys/class/net").join(&one.interface_name).join("bridge").exists();
        Some(Here { link: one.interface_name, flags: one.flags, bridge, ip })
    });
    here.collect()
}

/// IPv4 before IPv6, then in the kernel's order: the first global address of an interface that is up, is no loopback and leads to more than one
/// peer. Ours are for pods; what else is a bridge only where there is nothing else.
fn choose(here: &[Here]) -> Option<IpAddr> {
    let away = InterfaceFlags::IFF_LOOPBACK | InterfaceFlags::IFF_POINTOPOINT;
    let is_meant = |one: &&Here| one.flags.contains(InterfaceFlags::IFF_UP) && !one.flags.intersects(away) && !is_ours(&one.link);
    let all = here.iter().filter(is_meant).filter(|one| is_global(one.ip));
    all.min_by_key(|one| (one.ip.is_ipv6(), one.bridge)).map(|one| one.ip)
}

fn is_ours(link: &str) -> bool {
    link == proxy::cni::BRIDGE || link == proxy::dns::LINK || link.starts_with(proxy::overlay::LINK_PREFIX)
}

/// As Go's `IsGlobalUnicast`.
fn is_global(ip: IpAddr) -> bool {
    let link_local = match ip {
        IpAddr::V4(ip) => ip.is_link_local() || ip.is_broadcast(),
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    };
    !link_local && !ip.is_unspecified() && !ip.is_loopback() && !ip.is_multicast()
}

/// The host's name as the kernel has it, lower case, as node names are.
pub fn host_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().to_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    const UP: InterfaceFlags = InterfaceFlags::IFF_UP;

    fn one(link: &str, flags: InterfaceFlags, ip: &str) -> Here {
        Here { link: link.into(), flags, bridge: link.starts_with("br"), ip: ip.parse().unwrap() }
    }

    #[test]
    fn a_machine_without_a_default_route_has_the_address_of_an_interface() {
        let passed_over = [
            one("lo", UP | InterfaceFlags::IFF_LOOPBACK, "192.0.2.1"),
            one("eth9", InterfaceFlags::empty(), "192.0.2.2"),
            one("tun0", UP | InterfaceFlags::IFF_POINTOPOINT, "192.0.2.3"),
            one("skiff0", UP, "10.244.0.1"),
            one("skiff-dns", UP, "10.96.0.10"),
            one("skiff.1", UP, "10.244.0.0"),
            one("eth0", UP, "169.254.7.7"),
            one("eth0", UP, "fe80::1"),
            one("eth0", UP, "0.0.0.0"),
        ];
        assert_eq!(choose(&passed_over), None);
        let chosen = |more: &[(&str, &str)]| {
            let more = more.iter().map(|(link, ip)| one(link, UP, ip));
            choose(&passed_over.iter().cloned().chain(more).collect::<Vec<_>>()).map(|ip| ip.to_string())
        };
        let cases: [(&[(&str, &str)], &str); 5] = [
            (&[("eth0", "10.0.0.5"), ("eth1", "10.0.0.6")], "10.0.0.5"),
            (&[("eth0", "fd00::5"), ("eth1", "10.0.0.6")], "10.0.0.6"),
            (&[("eth0", "fd00::5")], "fd00::5"),
            (&[("br-1", "172.17.0.1"), ("eth1", "10.0.0.6")], "10.0.0.6"),
            (&[("br-1", "192.168.1.5"), ("eth1", "fd00::6")], "192.168.1.5"),
        ];
        for (more, wanted) in cases {
            assert_eq!(chosen(more).as_deref(), Some(wanted), "{more:?}");
        }
    }

    /// A table of routes: the longest prefix wins.
    fn routes<'a>(all: &'a [(&'a str, &'a str)]) -> impl Fn(IpAddr) -> Option<IpAddr> + 'a {
        move |to| {
            let net = |text: &str| text.parse::<ipnet::IpNet>().unwrap();
            let leads = all.iter().filter(|(range, _)| net(range).contains(&to));
            leads.max_by_key(|(range, _)| net(range).prefix_len()).map(|(_, source)| source.parse().unwrap())
        }
    }

    #[test]
    fn a_node_that_joins_has_the_address_that_it_reaches_the_server_from() {
        let vagrant = [one("eth0", UP, "10.0.2.15"), one("eth1", UP, "192.168.56.11"), one("docker0", UP, "172.17.0.1")];
        let table = [("0.0.0.0/0", "10.0.2.15"), ("192.168.56.0/24", "192.168.56.11"), ("127.0.0.0/8", "127.0.0.1")];
        let pick = |server: Option<&str>| chosen(server.map(|ip| ip.parse().unwrap()), routes(&table), &vagrant).unwrap();
        for (server, address, warned) in [
            (Some("192.168.56.10"), "192.168.56.11", false),
            (Some("203.0.113.7"), "10.0.2.15", true),
            (Some("127.0.0.1"), "10.0.2.15", true),
            (Some("2001:db8::1"), "10.0.2.15", true),
            (None, "10.0.2.15", true),
        ] {
            let chosen = pick(server);
            assert_eq!((chosen.address.to_string().as_str(), chosen.warning.is_some()), (address, warned), "{server:?}");
        }
        let said = pick(None).warning.unwrap().to_string();
        assert!(said.contains("`--node-ip 192.168.56.11` (on eth1)"), "{said}");
        let alone = chosen(None, routes(&table), &vagrant[..1]).unwrap().warning.unwrap().to_string();
        assert!(alone.contains("give the machine a private network"), "{alone}");
        assert_eq!(chosen(Some(WORLD), |_| None, &vagrant[1..]).unwrap().address, IpAddr::from([192, 168, 56, 11]));
        assert_eq!(chosen(None, |_| None, &[]), None);
    }

    #[test]
    fn this_machine_s_interfaces_are_read() {
        let lo = here().into_iter().find(|one| one.ip.is_loopback()).expect("every machine has one");
        assert!(lo.flags.contains(InterfaceFlags::IFF_LOOPBACK) && !lo.bridge);
    }

    /// Needs root, as all tests that need a network of their own.
    #[test]
    fn without_a_route_the_kernel_s_list_leads_to_an_address() {
        let apart = std::thread::spawn(|| {
            nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
            let ip = |words: &str| {
                let done = std::process::Command::new("ip").args(words.split(' ')).status().expect("iproute2 is there");
                assert!(done.success(), "ip {words}");
            };
            assert_eq!(default_address(), None, "there is nothing but a loopback that is down");
            ["link set lo up", "link add eth0 type veth peer name eth1", "addr add 192.0.3.5/24 dev eth0"]
                .iter()
                .for_each(|words| ip(words));
            assert_eq!(default_address(), None, "it is down");
            ["link set eth0 up", "link set eth1 up"].iter().for_each(|words| ip(words));
            assert_eq!(default_address(), Some(IpAddr::from([192, 0, 3, 5])));
            ["link add br0 type bridge", "addr add 192.0.4.1/24 dev br0", "link set br0 up"].iter().for_each(|words| ip(words));
            ip("route add default via 192.0.4.2");
            assert_eq!(default_address(), Some(IpAddr::from([192, 0, 4, 1])), "where there is a route, it decides");
        });
        apart.join().expect("the thread's own checks hold");
    }
}
