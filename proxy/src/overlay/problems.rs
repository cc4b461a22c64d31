//! This machine -> what would stand between its pods and those of other nodes, and the command that mends it.

use std::{
    fs,
    net::{IpAddr, Ipv4Addr},
    path::{Path, PathBuf},
};

use api::{
    preflight::{Problem, Weight},
    task::Group,
};
use ipnet::{IpNet, Ipv4Net};

use super::{
    Config, LINK_PREFIX, PodNetwork,
    firewall::{Closed, Hook, Maker, Port, Protocol, closed_chains},
    kernel::{Interface, Kernel, VxlanSeen},
    mtu::{LONGEST, is_own, pod_mtu, underlay},
    path::path_mtu,
};
use crate::iptables::exec::run;

const SYS: &str = "/proc/sys";
const CNI_CONFIG: &str = "/etc/cni/net.d";
/// Interfaces that other pod networks leave behind.
const OF_OTHERS: [&str; 10] = [
    "cni0",
    "flannel.1",
    "flannel-v6.1",
    "cilium_host",
    "cilium_net",
    "cilium_vxlan",
    "kube-bridge",
    "vxlan.calico",
    "weave",
    "antrea-gw0",
];

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
    /// Of iptables, and of tables of nftables other than ours.
    pub closed: Vec<Closed>,
    /// Addresses of other interfaces than ours.
    pub addresses: Vec<(String, Ipv4Net)>,
    /// Interfaces that other pod networks make.
    pub of_others: Vec<String>,
    pub cni_configs: Vec<PathBuf>,
    /// The interface with the node's address takes nothing in that it would not answer by, and the default route leads out by this one.
    pub strict_beside: Option<String>,
    /// Nobody may turn forwarding on.
    pub never_forwards: bool,
    pub lacks_br_netfilter: bool,
}

impl Seen {
    /// The MTU of pods and of the network beneath, for people.
    pub fn mtu(&self, config: &Config) -> Option<String> {
        let (name, mtu) = self.underlay.as_ref()?;
        Some(format!("pods' MTU {}, of {name} {mtu}", pod_mtu(config.mode, *mtu, config.node_ip)))
    }
}

/// Looks at this machine, and sends a few packets to the server, if there is one yet. Needs root for all of it: what cannot be seen is not wrong.
pub async fn see(config: &Config, server: Option<IpAddr>, group: &Group) -> Seen {
    let mut seen = Seen::default();
    if let Ok(kernel) = Kernel::open(group) {
        seen.vxlans = kernel.vxlans().await.unwrap_or_default();
        let (all, node_ip) = (kernel.interfaces().await.unwrap_or_default(), four(config.node_ip));
        seen.underlay = node_ip.and_then(|ip| underlay(&all, ip)).map(|link| (link.name.clone(), link.mtu));
        seen.has_node_ip = all.iter().any(|link| link.addresses.iter().any(|net| Some(net.addr()) == node_ip));
        seen.addresses = addresses(&all);
    }
    if let (Some((_, mtu)), Some(server)) = (&seen.underlay, server.and_then(four).filter(|ip| !ip.is_loopback())) {
        let (mtu, port) = (*mtu, config.port);
        seen.path_mtu = tokio::task::spawn_blocking(move || path_mtu(server, port, mtu)).await.ok().flatten();
    }
    let ufw = fs::read_to_string("/etc/ufw/ufw.conf").unwrap_or_default();
    seen.ufw = Path::new("/usr/sbin/ufw").exists() && ufw.lines().any(|line| line.trim().eq_ignore_ascii_case("ENABLED=yes"));
    let defaults = fs::read_to_string("/etc/default/ufw").unwrap_or_default();
    seen.ufw_rejects_forwarded = defaults.lines().any(|line| line.trim() == "DEFAULT_FORWARD_POLICY=\"REJECT\"");
    seen.firewalld =
        run("nft", &["list", "tables"], "").await.is_ok_and(|tables| tables.lines().any(|table| table.ends_with(" firewalld")));
    seen.closed = closed_chains().await;
    seen.of_others = names(Path::new("/sys/class/net")).into_iter().filter(|name| is_of_others(name)).collect();
    seen.cni_configs = names(Path::new(CNI_CONFIG)).into_iter().map(|name| Path::new(CNI_CONFIG).join(name)).collect();
    seen.cni_configs.retain(|path| path.extension().is_some_and(|end| end == "conf" || end == "conflist" || end == "json"));
    seen.strict_beside = seen.underlay.as_ref().and_then(|(name, _)| strict_beside(name));
    seen.never_forwards = setting("net/ipv4/ip_forward").is_some_and(|now| now != "1") && !may_write("net/ipv4/ip_forward");
    seen.lacks_br_netfilter = setting("net/bridge/bridge-nf-call-iptables").is_none() && !has_module("br_netfilter");
    seen
}

/// What is wrong. `tcp_ports` are those that other machines must reach on this one (the node agent's; the API server's). Pure.
pub fn problems(seen: &Seen, config: &Config, tcp_ports: &[u16]) -> Vec<Problem> {
    let mut all = Vec::new();
    let mut wrong = |what: String, mend: String| all.push(Problem { weight: Weight::Blocks, what, mend });
    if !seen.has_node_ip {
        let what = format!("no interface of this machine has the node's address {}", config.node_ip);
        wrong(what, "name one that others reach with --node-ip".into());
    }
    if let (Some((name, mtu)), Some(path)) = (&seen.underlay, seen.path_mtu)
        && path < (*mtu).min(LONGEST)
    {
        let what =
            format!("{name} takes packets of {mtu} bytes, but the way to the server only such of {path}: long packets of pods are lost");
        wrong(what, format!("ip link set {name} mtu {path} (and in the machine's network configuration), then start skiff anew"));
    }
    if seen.never_forwards {
        let what = "the kernel does not forward packets, and does not let itself be told to: pods reach nobody";
        wrong(what.into(), "sysctl -w net.ipv4.ip_forward=1 (where /proc/sys may be written: in a container, its host's)".into());
    }
    all.extend(firewalls(seen, config, tcp_ports));
    all.extend(other_networks(seen, config));
    let mut warned = |what: String, mend: String| all.push(Problem { weight: Weight::Warns, what, mend });
    if let (Some((name, _)), Some(beside)) = (&seen.underlay, &seen.strict_beside) {
        let what = format!(
            "{name} drops what comes from beyond its own network (rp_filter is strict, and the default route leads out by {beside})"
        );
        warned(what, format!("sysctl -w net.ipv4.conf.{name}.rp_filter=2 (and in /etc/sysctl.d)"));
    }
    if seen.lacks_br_netfilter {
        let what = "the kernel has no br_netfilter; a pod cannot reach another pod on the same node through a service";
        warned(
            what.into(),
            "install the kernel's modules (apt-get install -y linux-image-$(dpkg --print-architecture)), then boot it".into(),
        );
    }
    all
}

fn firewalls(seen: &Seen, config: &Config, tcp_ports: &[u16]) -> Vec<Problem> {
    let mut all = Vec::new();
    let mut wrong = |what: String, mend: String| all.push(Problem { weight: Weight::Blocks, what, mend });
    let by_vxlan = (config.mode != PodNetwork::Route).then_some(Port(Protocol::Udp, config.port));
    let tcp = || tcp_ports.iter().map(|port| Port(Protocol::Tcp, *port));
    let is_of_iptables = |chain: &&Closed| chain.maker == Maker::Iptables;
    if seen.ufw {
        // Its rules are iptables'.
        let rules = seen.closed.iter().find(is_of_iptables);
        let shut: Vec<Port> = tcp().filter(|port| !rules.is_some_and(|rules| rules.lets_in(*port))).collect();
        if !shut.is_empty() {
            let commands: Vec<String> = shut.iter().map(|port| format!("ufw allow {port}")).collect();
            wrong(format!("ufw is active, and lets nobody in to {}", list(&shut)), commands.join(" && "));
        }
        if seen.ufw_rejects_forwarded {
            wrong("ufw refuses what is forwarded, packets of pods among it".into(), "ufw default allow routed".into());
        }
    }
    if seen.firewalld {
        wrong("firewalld is active, and drops packets of pods and of other nodes".into(), firewalld(config, tcp_ports));
    }
    for chain in &seen.closed {
        let is_iptables = is_of_iptables(&chain);
        if is_iptables && seen.ufw {
            continue;
        }
        // In iptables our own rules, which let VXLAN and pods in, stand before all others. No other table's verdict undoes a drop.
        let needed: Vec<Port> = match chain.hook {
            Hook::Input => tcp().chain(by_vxlan.filter(|_| !is_iptables)).filter(|port| !chain.lets_in(*port)).collect(),
            Hook::Forward => Vec::new(),
        };
        let pods = config.cluster_cidrs.iter().filter(|net| matches!(net, IpNet::V4(_)) && !is_iptables && !chain.lets_through());
        let mut commands: Vec<String> = needed.iter().map(|port| chain.opening(*port)).collect();
        let mut who: Vec<String> = needed.iter().map(Port::to_string).collect();
        commands.extend(pods.inspect(|net| who.push(format!("packets of pods ({net})"))).map(|net| chain.opening_to(*net)));
        if !commands.is_empty() {
            let kept = if is_iptables { "iptables-save's file" } else { "/etc/nftables.conf" };
            wrong(format!("{chain} drops {}", who.join(", ")), format!("{} (and in {kept})", commands.join(" && ")));
        }
    }
    all
}

/// What other pod networks have left, or still use.
fn other_networks(seen: &Seen, config: &Config) -> Vec<Problem> {
    let mut all = Vec::new();
    let mut told = |weight: Weight, what: String, mend: String| all.push(Problem { weight, what, mend });
    let mut named = Vec::new();
    if config.mode != PodNetwork::Route {
        for other in seen.vxlans.iter().filter(|vxlan| vxlan.port == config.port && !vxlan.name.starts_with(LINK_PREFIX)) {
            let what = format!("UDP port {} is that of another VXLAN device, {} (VNI {})", config.port, other.name, other.vni);
            let mend =
                format!("ip link del {0}, if nothing needs it any more; else --vxlan-port with another number on all nodes", other.name);
            told(Weight::Blocks, what, mend);
            named.push(&other.name);
        }
    }
    for (name, net) in &seen.addresses {
        let pods = config.cluster_cidrs.iter().find(|range| matches!(range, IpNet::V4(range) if range.contains(&net.addr())));
        if let Some(pods) = pods.filter(|_| !named.contains(&name)) {
            let what = format!("{name} has {net}, which is of the cluster's pods ({pods}): their packets go there");
            let mend = format!("ip link del {name}, if nothing needs it any more; else another --cluster-cidr for the cluster");
            told(Weight::Blocks, what, mend);
            named.push(name);
        }
    }
    let left: Vec<&str> = seen.of_others.iter().filter(|name| !named.contains(name)).map(String::as_str).collect();
    if !left.is_empty() {
        let commands: Vec<String> = left.iter().map(|name| format!("ip link del {name}")).collect();
        let mend = format!("{}, if nothing needs it any more", commands.join(" && "));
        told(Weight::Warns, format!("another pod network has been here: {}", left.join(", ")), mend);
    }
    if !seen.cni_configs.is_empty() {
        let files: Vec<String> = seen.cni_configs.iter().map(|path| path.display().to_string()).collect();
        let what = format!(
            "another pod network is configured in {}; skiff's containerd does not read it, another with --container-runtime-endpoint would",
            files.join(", ")
        );
        told(Weight::Warns, what, format!("rm {}, if nothing needs it any more", files.join(" ")));
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

fn list(ports: &[Port]) -> String {
    let all: Vec<String> = ports.iter().map(Port::to_string).collect();
    all.join(", ")
}

fn four(ip: IpAddr) -> Option<Ipv4Addr> {
    if let IpAddr::V4(ip) = ip { Some(ip) } else { None }
}

fn addresses(all: &[Interface]) -> Vec<(String, Ipv4Net)> {
    let others = all.iter().filter(|link| !is_own(link));
    others.flat_map(|link| link.addresses.iter().map(|net| (link.name.clone(), *net))).collect()
}

fn is_of_others(link: &str) -> bool {
    OF_OTHERS.contains(&link)
        || link.strip_prefix("cali").is_some_and(|rest| rest.len() == 11 && rest.bytes().all(|b| b.is_ascii_hexdigit()))
}

/// What a directory has, sorted.
fn names(dir: &Path) -> Vec<String> {
    let all = fs::read_dir(dir).into_iter().flatten().flatten();
    let mut names: Vec<String> = all.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

fn setting(name: &str) -> Option<String> {
    fs::read_to_string(Path::new(SYS).join(name)).ok().map(|text| text.trim().to_owned())
}

/// Opened and not written.
fn may_write(name: &str) -> bool {
    fs::OpenOptions::new().write(true).open(Path::new(SYS).join(name)).is_ok()
}

fn has_module(name: &str) -> bool {
    let release = setting("kernel/osrelease").unwrap_or_default();
    let lists = ["modules.dep", "modules.builtin"].map(|list| Path::new("/lib/modules").join(&release).join(list));
    lists.iter().any(|list| fs::read_to_string(list).unwrap_or_default().contains(&format!("/{name}.ko")))
}

/// By which interface the default route leads out, where that is another one, and this one is strict (RFC 3704).
fn strict_beside(name: &str) -> Option<String> {
    // The kernel goes by the greater of the two: 1 is strict, 2 is loose.
    let of = |link: &str| setting(&format!("net/ipv4/conf/{link}/rp_filter")).and_then(|text| text.parse::<u8>().ok()).unwrap_or(0);
    let routes = fs::read_to_string("/proc/net/route").unwrap_or_default();
    let out = default_link(&routes)?;
    (of("all").max(of(name)) == 1 && out != name).then(|| out.to_owned())
}

/// Of `/proc/net/route`.
fn default_link(routes: &str) -> Option<&str> {
    let rows = routes.lines().skip(1).map(|line| line.split_whitespace().collect::<Vec<_>>());
    rows.filter(|row| row.len() > 7 && row[1] == "00000000" && row[7] == "00000000").map(|row| row[0]).next()
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
        let addresses = vec![("eth1".into(), "192.0.2.1/24".parse().unwrap())];
        Seen { vxlans, underlay: Some(("eth1".into(), 1500)), has_node_ip: true, path_mtu: Some(1500), addresses, ..Seen::default() }
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

    #[test]
    fn closed_chains_are_opened_for_what_a_node_needs() {
        let of = |closed: &[Closed], ufw: bool, mode| {
            let found = problems(&Seen { closed: closed.to_vec(), ufw, ..well() }, &config(mode), &[10_250]);
            found.into_iter().map(|problem| format!("{}: {}", problem.what, problem.mend)).collect::<Vec<_>>()
        };
        let (shut, open) = (Closed::of_iptables(""), Closed::of_iptables("-A INPUT -p tcp --dport 10250 -j ACCEPT"));
        let said = of(std::slice::from_ref(&shut), false, PodNetwork::Auto);
        let wanted =
            "iptables' chain INPUT drops 10250/tcp: iptables -I INPUT -p tcp --dport 10250 -j ACCEPT (and in iptables-save's file)";
        assert_eq!(said, [wanted]);
        assert_eq!(
            of(std::slice::from_ref(&shut), true, PodNetwork::Auto),
            ["ufw is active, and lets nobody in to 10250/tcp: ufw allow 10250/tcp"]
        );
        assert!(of(std::slice::from_ref(&open), false, PodNetwork::Auto).is_empty() && of(&[open], true, PodNetwork::Auto).is_empty());

        let (input, forward) = (Closed::of_nft("in", "input"), Closed::of_nft("fwd", "forward"));
        let said = of(&[input, forward], false, PodNetwork::Auto);
        assert!(said[0].contains("inet t in drops 10250/tcp, 8472/udp, packets of pods (10.244.0.0/16)"), "{said:?}");
        assert!(
            said[0].contains("nft insert rule inet t in udp dport 8472 accept && nft insert rule inet t in ip saddr 10.244.0.0/16 accept")
        );
        assert!(
            said[1].contains("inet t fwd drops packets of pods") && said[1].contains("inet t fwd ip daddr 10.244.0.0/16 accept"),
            "{said:?}"
        );
    }

    #[test]
    fn what_another_network_left_is_told() {
        let of = |seen: Seen| {
            let found = problems(&seen, &config(PodNetwork::Auto), &[]);
            found.into_iter().map(|problem| (problem.weight, problem.what)).collect::<Vec<_>>()
        };
        let in_the_way = ("cni0".to_owned(), "10.244.3.1/24".parse().unwrap());
        let found = of(Seen { addresses: vec![in_the_way], of_others: vec!["cni0".into()], ..well() });
        assert!(matches!(&found[..], [(Weight::Blocks, what)] if what.contains("cni0 has 10.244.3.1/24")), "{found:?}");
        let beside = ("cni0".to_owned(), "10.42.0.1/24".parse().unwrap());
        let found = of(Seen { addresses: vec![beside], of_others: vec!["cni0".into()], ..well() });
        assert!(matches!(&found[..], [(Weight::Warns, what)] if what.ends_with("has been here: cni0")), "{found:?}");
        // One thing is told once.
        let vxlans = vec![vxlan("flannel.1", 1, 8472)];
        let addresses = vec![("flannel.1".to_owned(), "10.244.3.0/32".parse().unwrap())];
        assert_eq!(of(Seen { vxlans, addresses, of_others: vec!["flannel.1".into()], ..well() }).len(), 1);
        let found = of(Seen { cni_configs: vec!["/etc/cni/net.d/10-flannel.conflist".into()], ..well() });
        assert!(matches!(&found[..], [(Weight::Warns, what)] if what.contains("10-flannel.conflist")), "{found:?}");
        let name = |link| is_of_others(link);
        assert!(name("cni0") && name("cali0123456789a") && !name("calendar") && !name("eth0") && !name("skiff.1"));
    }

    #[test]
    fn the_kernel_s_settings_are_told() {
        let of = |seen: Seen| problems(&seen, &config(PodNetwork::Auto), &[]).remove(0);
        let strict = of(Seen { strict_beside: Some("eth0".into()), ..well() });
        assert!(strict.weight == Weight::Warns && strict.mend.contains("net.ipv4.conf.eth1.rp_filter=2"), "{strict:?}");
        assert_eq!(of(Seen { never_forwards: true, ..well() }).weight, Weight::Blocks);
        assert_eq!(of(Seen { lacks_br_netfilter: true, ..well() }).weight, Weight::Warns);
        let routes = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\neth1\t0038A8C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\neth0\t00000000\t0202000A\t0003\t0\t0\t0\t00000000\t0\n";
        assert_eq!((default_link(routes), default_link("")), (Some("eth0"), None));
    }

    #[test]
    fn the_mtu_of_pods_is_told() {
        assert_eq!(well().mtu(&config(PodNetwork::Auto)).as_deref(), Some("pods' MTU 1450, of eth1 1500"));
        assert_eq!(Seen::default().mtu(&config(PodNetwork::Auto)), None);
    }
}
