//! Nodes in namespaces of their own -> pods that reach each other across them: on one L2, and on two that a router joins. Needs root.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, UdpSocket},
    sync::Arc,
    time::Duration,
};

use api::{k8s::api::core::v1::Service, task::Group};
use ipnet::Ipv4Net;
use parking_lot::RwLock;
use serde_json::json;

use super::{
    Config, PORT, PodNetwork,
    driver::{Driver, Inbox},
    facts::NodeFacts,
    mtu::pod_mtu,
    plan::vtep_mac,
};
use crate::{
    Family, Mode,
    cni::{self, Verb},
    model::Node,
    packet_tests::netns::{self, Namespace},
    proxier::Proxier,
    service_tracker::ServiceTracker,
    testing::{service, slice},
};

const CLUSTER: &str = "10.77.0.0/16";
const LINK_MTU: u32 = 1500;

/// Two L2s and the router between them (192.0.2.254, 198.51.100.254), with nodes and strangers on them.
struct World {
    router: Namespace,
    plugged: u32,
    nodes: BTreeMap<String, TestNode>,
    said: BTreeMap<String, NodeFacts>,
}

struct TestNode {
    ns: Namespace,
    ip: Ipv4Addr,
    range: Ipv4Net,
    pods: Vec<Namespace>,
    leases: tempfile::TempDir,
    inbox: Inbox,
    group: Group,
    keeper: Option<std::thread::JoinHandle<()>>,
    mtu: u32,
}

impl World {
    fn new() -> Self {
        let router = Namespace::new("router");
        for (bridge, address) in [("br0", "192.0.2.254/24"), ("br1", "198.51.100.254/24")] {
            router.ip(&format!("link add {bridge} type bridge"));
            router.ip(&format!("addr add {address} dev {bridge}"));
            router.ip(&format!("link set {bridge} up"));
        }
        netns::must(router.command("busybox").args(["sysctl", "-w", "net.ipv4.ip_forward=1"]));
        Self { router, plugged: 0, nodes: BTreeMap::new(), said: BTreeMap::new() }
    }

    /// A machine with that address, and the router as its way out.
    fn machine(&mut self, ip: Ipv4Addr) -> Namespace {
        let ns = Namespace::new("node");
        self.plugged += 1;
        let (port, bridge) = (format!("port{}", self.plugged), if ip.octets()[0] == 192 { "br0" } else { "br1" });
        self.router.ip(&format!("link add {port} type veth peer name eth0 netns {}", ns.name));
        self.router.ip(&format!("link set {port} master {bridge} up"));
        address(&ns, ip);
        ns
    }

    /// Node `n<number>` with the range 10.77.<number>.0/24, a pod at .2 that answers on TCP 8080 and UDP 5353, and on 8081 with a megabyte.
    fn node(&mut self, number: u8, ip: [u8; 4], mode: PodNetwork) {
        let (name, ip) = (format!("n{number}"), Ipv4Addr::from(ip));
        let (ns, leases) = (self.machine(ip), tempfile::tempdir().unwrap());
        let range = Ipv4Net::new([10, 77, number, 0].into(), 24).unwrap();
        let (pod, mtu) = (Namespace::new("pod"), pod_mtu(mode, LINK_MTU, ip.into()));
        ns.run(|| cni::run_in_for_test(Verb::Add, "p", pod.path(), leases.path(), &range.to_string(), mtu, &json!([])));
        pod.serve_tcp(8080, &format!("p{number}"));
        pod.serve_tcp(8081, &"x".repeat(1 << 20));
        pod.serve_udp(5353, &format!("p{number}"));
        let (inbox, group) = (Inbox::default(), Group::new());
        self.said.values().for_each(|facts| inbox.node(None, Some(facts)));
        let mut node = TestNode { ns, ip, range, pods: vec![pod], leases, inbox, group, keeper: None, mtu };
        node.start(&name, mode);
        self.nodes.insert(name.clone(), node);
        self.says(&name, Some(ip));
    }

    /// Its Node has that address, or is gone.
    fn says(&mut self, name: &str, ip: Option<Ipv4Addr>) {
        let number: u8 = name[1..].parse().unwrap();
        let new = ip.map(|ip| -> NodeFacts {
            serde_json::from_value(json!({
                "metadata": {"name": name, "creationTimestamp": "2026-11-29T17:00:00Z"},
                "spec": {"podCIDRs": [format!("10.77.{number}.0/24")]},
                "status": {"addresses": [{"type": "InternalIP", "address": ip.to_string()}]},
            }))
            .unwrap()
        });
        let old = self.said.remove(name);
        self.nodes.values().for_each(|node| node.inbox.node(old.as_ref(), new.as_ref()));
        self.said.extend(new.map(|new| (name.to_owned(), new)));
    }

    fn on(&self, name: &str) -> &TestNode {
        &self.nodes[name]
    }

    /// All pods of all nodes reach each other under their own addresses, also with packets as long as they may be.
    fn is_whole(&self) {
        for (from, to) in self.nodes.values().flat_map(|from| self.nodes.values().map(move |to| (from, to))) {
            let (source, target) = (from.pod_ip(), to.pod_ip());
            from.hears(&format!("{target}:8080"), &format!("p{} {source}", to.range.network().octets()[2]));
            assert_eq!(from.pods[0].ask(&format!("{target}:8081")).unwrap().len(), (1 << 20) + 1 + source.to_string().len());
            let client = from.pods[0].udp_client();
            let longest = vec![0; from.mtu as usize - 28];
            netns::eventually("the longest datagram is answered", || {
                client.send_to(&longest, (target, 5353)).is_ok() && client.recv(&mut [0; 64]).is_ok()
            });
            // Of the node itself.
            netns::eventually("node to pod", || from.ns.ask(&format!("{target}:8080")).is_ok());
        }
        for (name, node) in &self.nodes {
            assert_eq!(fragments(&node.ns), 0, "{name} cut packets");
        }
        assert_eq!(fragments(&self.router), 0);
    }
}

impl TestNode {
    fn start(&mut self, name: &str, mode: PodNetwork) {
        let cluster_cidrs = [CLUSTER.parse().unwrap()];
        let config = Config::new(mode, name, self.ip.into(), &cluster_cidrs);
        let (path, ip, inbox, group) = (self.ns.path(), self.ip, self.inbox.clone(), self.group.clone());
        self.ns.run(|| block_on(crate::prepare_kernel(Family::V4))).unwrap();
        self.keeper = Some(std::thread::spawn(move || {
            netns::enter(&path);
            block_on(async {
                let driver = Driver::new(&config, ip, inbox, &group).unwrap();
                tokio::select! { () = group.stopping() => {}, () = driver.keep_on() => {} }
            });
        }));
    }

    fn stop(&mut self) {
        self.group.stop();
        self.keeper.take().into_iter().for_each(|keeper| keeper.join().unwrap());
    }

    fn pod_ip(&self) -> Ipv4Addr {
        let [a, b, c, _] = self.range.network().octets();
        [a, b, c, 2].into()
    }

    fn hears(&self, address: &str, word: &str) {
        netns::eventually(&format!("{word} from {address}"), || self.pods[0].ask(address).is_ok_and(|said| said == word));
    }

    fn routes(&self) -> String {
        self.ns.ip("route show proto 83")
    }

    fn forwarding(&self) -> String {
        let shown = self.ns.command("bridge").args(["fdb", "show", "dev", "skiff.1"]).output().unwrap();
        netns::text(&shown)
    }

    fn has(&self, line: &str) {
        netns::eventually(&format!("{line:?} at {}", self.ip), || self.routes().lines().any(|have| have.trim() == line));
    }

    fn has_none(&self, word: &str) {
        netns::eventually(&format!("no {word:?} at {}", self.ip), || !self.routes().contains(word));
    }

    fn tables(&self) -> String {
        netns::text(&netns::must(self.ns.command("nft").args(["list", "ruleset"])))
    }
}

impl Drop for TestNode {
    fn drop(&mut self) {
        self.group.stop();
        if let Some(keeper) = self.keeper.take() {
            let _ = keeper.join();
        }
    }
}

fn block_on<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work)
}

fn address(ns: &Namespace, ip: Ipv4Addr) {
    let [a, b, c, _] = ip.octets();
    ns.ip("addr flush dev eth0");
    ns.ip(&format!("addr add {ip}/24 dev eth0"));
    ns.ip("link set eth0 up");
    ns.ip(&format!("route replace default via {a}.{b}.{c}.254"));
}

/// How many packets a machine has cut in pieces.
fn fragments(ns: &Namespace) -> u64 {
    let text = ns.run(|| std::fs::read_to_string("/proc/thread-self/net/snmp")).unwrap();
    let mut lines = text.lines().filter_map(|line| line.strip_prefix("Ip: "));
    let (names, values) = (lines.next().unwrap(), lines.next().unwrap());
    let found = names.split(' ').zip(values.split(' ')).find(|(name, _)| *name == "FragCreates");
    found.unwrap().1.parse().unwrap()
}

#[test]
fn nodes_of_one_l2_have_plain_routes() {
    let mut world = World::new();
    for number in 1..=3 {
        world.node(number, [192, 0, 2, number], PodNetwork::Auto);
    }
    world.on("n1").has("10.77.2.0/24 via 192.0.2.2 dev eth0 src 192.0.2.1");
    world.on("n1").has("10.77.3.0/24 via 192.0.2.3 dev eth0 src 192.0.2.1");
    world.is_whole();
    for node in world.nodes.values() {
        assert!(!node.ns.ip("link show").contains("skiff.1") && !node.tables().contains("skiff-pod-network"));
    }
}

#[test]
fn nodes_of_two_l2s_have_vxlan_where_they_share_none() {
    let mut world = World::new();
    world.node(1, [192, 0, 2, 1], PodNetwork::Auto);
    world.node(2, [192, 0, 2, 2], PodNetwork::Auto);
    world.node(3, [198, 51, 100, 3], PodNetwork::Auto);
    world.on("n1").has("10.77.2.0/24 via 192.0.2.2 dev eth0 src 192.0.2.1");
    world.on("n1").has("10.77.3.0/24 via 10.77.3.0 dev skiff.1 src 10.77.1.0 onlink");
    world.on("n3").has("10.77.1.0/24 via 10.77.1.0 dev skiff.1 src 10.77.3.0 onlink");
    world.is_whole();
    let shown = world.on("n1").ns.ip("-d link show skiff.1");
    assert!(shown.contains("mtu 1450") && shown.contains("dstport 8472") && shown.contains("nolearning"), "{shown}");
    // A pod of before, with longer packets than VXLAN takes, is told so by its node.
    let (node, old) = (world.on("n1"), Namespace::new("old"));
    node.ns.run(|| cni::run_in_for_test(Verb::Add, "old", old.path(), node.leases.path(), &node.range.to_string(), LINK_MTU, &json!([])));
    old.serve_tcp(8081, &"x".repeat(1 << 20));
    netns::eventually("a pod of before", || old.ask("10.77.3.2:8081").is_ok_and(|said| said.len() > 1 << 20));
    netns::eventually("to a pod of before", || world.on("n3").pods[0].ask("10.77.1.3:8081").is_ok_and(|said| said.len() > 1 << 20));
    // A strict filter of the machine does not stand before what another node sends from its own address.
    netns::must(world.on("n1").ns.command("busybox").args(["sysctl", "-w", "net.ipv4.conf.all.rp_filter=1"]));
    world.is_whole();
}

/// Another pod network has the VNI at the port: the kernel gives us no device.
#[test]
fn who_is_near_does_not_wait_for_a_device_that_cannot_be() {
    let mut world = World::new();
    world.node(1, [192, 0, 2, 1], PodNetwork::Auto);
    world.on("n1").ns.ip("link add flannel.1 type vxlan id 1 dstport 8472 nolearning");
    world.node(3, [198, 51, 100, 3], PodNetwork::Auto);
    world.node(2, [192, 0, 2, 2], PodNetwork::Auto);
    world.on("n1").has("10.77.2.0/24 via 192.0.2.2 dev eth0 src 192.0.2.1");
    assert!(!world.on("n1").routes().contains("10.77.3.0"));
    world.on("n1").ns.ip("link del flannel.1");
    world.on("n1").has("10.77.3.0/24 via 10.77.3.0 dev skiff.1 src 10.77.1.0 onlink");
    world.is_whole();
}

#[test]
fn vxlan_alone_and_routes_alone() {
    let mut world = World::new();
    world.node(1, [192, 0, 2, 1], PodNetwork::Vxlan);
    world.node(2, [192, 0, 2, 2], PodNetwork::Vxlan);
    world.on("n1").has("10.77.2.0/24 via 10.77.2.0 dev skiff.1 src 10.77.1.0 onlink");
    world.is_whole();
    let mut world = World::new();
    world.node(1, [192, 0, 2, 1], PodNetwork::Route);
    world.node(2, [192, 0, 2, 2], PodNetwork::Route);
    world.node(3, [198, 51, 100, 3], PodNetwork::Route);
    world.on("n1").has("10.77.2.0/24 via 192.0.2.2 dev eth0 src 192.0.2.1");
    assert!(!world.on("n1").routes().contains("10.77.3.0") && world.on("n3").routes().is_empty());
}

#[test]
fn a_node_goes_and_comes_back_elsewhere() {
    let mut world = World::new();
    world.node(1, [192, 0, 2, 1], PodNetwork::Auto);
    world.node(2, [198, 51, 100, 2], PodNetwork::Auto);
    world.node(3, [198, 51, 100, 3], PodNetwork::Auto);
    world.is_whole();
    world.says("n3", None);
    world.on("n1").has_none("10.77.3.0");
    world.on("n2").has_none("10.77.3.0");
    netns::eventually("no forwarding to it", || !world.on("n1").forwarding().contains("198.51.100.3"));
    assert!(!world.on("n1").ns.ip("neigh show dev skiff.1").contains("10.77.3.0"));
    // Back with another address, first beyond the router, then on our own L2.
    let mut moved = world.nodes.remove("n3").unwrap();
    moved.stop();
    address(&moved.ns, [198, 51, 100, 33].into());
    (moved.ip, moved.group) = ([198, 51, 100, 33].into(), Group::new());
    world.said.values().for_each(|facts| moved.inbox.node(None, Some(facts)));
    moved.start("n3", PodNetwork::Auto);
    world.nodes.insert("n3".into(), moved);
    world.says("n3", Some([198, 51, 100, 33].into()));
    world.on("n1").has("10.77.3.0/24 via 10.77.3.0 dev skiff.1 src 10.77.1.0 onlink");
    world.is_whole();
    let shown = world.on("n1").forwarding();
    assert!(shown.contains("dst 198.51.100.33") && !shown.contains("198.51.100.3 "), "{shown}");
    world.says("n2", Some([192, 0, 2, 2].into()));
    world.on("n1").has("10.77.2.0/24 via 192.0.2.2 dev eth0 src 192.0.2.1");
    netns::eventually("no forwarding to it", || !world.on("n1").forwarding().contains("198.51.100.2 "));
}

#[test]
fn what_somebody_removes_comes_back_and_what_others_made_stays() {
    let mut world = World::new();
    world.node(1, [192, 0, 2, 1], PodNetwork::Auto);
    world.node(2, [192, 0, 2, 2], PodNetwork::Auto);
    world.node(3, [198, 51, 100, 3], PodNetwork::Auto);
    world.is_whole();
    let node = world.on("n1");
    node.ns.ip("route add 203.0.113.0/24 via 192.0.2.2");
    let (near, far) = ("10.77.2.0/24 via 192.0.2.2 dev eth0 src 192.0.2.1", "10.77.3.0/24 via 10.77.3.0 dev skiff.1 src 10.77.1.0 onlink");
    for removal in [
        "route del 10.77.2.0/24",
        "route del 10.77.3.0/24",
        "neigh del 10.77.3.0 dev skiff.1",
        "link del skiff.1",
        "link set skiff.1 down",
        "route add 10.77.9.0/24 via 192.0.2.2 proto 83",
    ] {
        node.ns.ip(removal);
        node.has(near);
        node.has(far);
        node.has_none("10.77.9.0");
        netns::eventually(removal, || node.pods[0].ask("10.77.3.2:8080").is_ok());
    }
    // The kernel takes its routes away with the interface, and tells of none; the way by VXLAN stays, though no plain one can be made meanwhile.
    node.ns.ip("link set eth0 down");
    node.has_none("10.77.2.0");
    node.has(far);
    node.ns.ip("link set eth0 up");
    node.ns.ip("route replace default via 192.0.2.254");
    node.ns.ip("route replace 203.0.113.0/24 via 192.0.2.2");
    node.has(near);
    netns::must(node.ns.command("bridge").args(["fdb", "del", "0a:58:0a:4d:03:00", "dev", "skiff.1", "dst", "198.51.100.3"]));
    netns::eventually("a forwarding entry is back", || node.forwarding().contains("198.51.100.3"));
    netns::must(node.ns.command("nft").args(["delete", "table", "ip", "skiff-pod-network"]));
    netns::eventually("the guard is back", || node.tables().contains("skiff-pod-network"));
    // Somebody's own route in place of ours is theirs; when it goes, ours comes back.
    node.ns.ip("route replace 10.77.2.0/24 via 192.0.2.254");
    assert!(node.ns.ip("route show 10.77.2.0/24").contains("via 192.0.2.254"));
    node.ns.ip("route del 10.77.2.0/24 via 192.0.2.254");
    node.has(near);
    assert!(node.ns.ip("route").contains("203.0.113.0/24 via 192.0.2.2"));
    // A restart finds all as it should be: the device is the same.
    let index = |node: &TestNode| node.ns.ip("-o link show skiff.1").split(':').next().map(str::to_owned);
    let before = index(node);
    let node = world.nodes.get_mut("n1").unwrap();
    node.stop();
    node.group = Group::new();
    world.said.values().for_each(|facts| node.inbox.node(None, Some(facts)));
    node.start("n1", PodNetwork::Auto);
    world.is_whole();
    assert_eq!(index(world.on("n1")), before);
    // And nothing stays of it when it is removed, also twice.
    let node = world.nodes.get_mut("n1").unwrap();
    node.stop();
    for _ in 0..2 {
        node.ns.run(|| block_on(async { super::cleanup(&Group::new()).await })).unwrap();
        assert!(node.routes().is_empty() && !node.ns.ip("link show").contains("skiff.1") && !node.tables().contains("skiff-pod-network"));
    }
    assert!(node.ns.ip("route").contains("203.0.113.0/24 via 192.0.2.2"));
}

/// A frame for the pod at the other end, as `from` would send it: VXLAN, Ethernet, IPv4, UDP.
fn frame(to: Ipv4Net, from: Ipv4Addr, pod: Ipv4Addr, port: u16, word: &[u8]) -> Vec<u8> {
    let length = |more: usize| u16::try_from(more + word.len()).unwrap().to_be_bytes();
    let mut ip = [&[0x45, 0][..], &length(28), &[0, 0, 0, 0, 64, 17, 0, 0], &from.octets(), &pod.octets()].concat();
    let sum: u32 = ip.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
    let sum = u16::try_from((sum & 0xffff) + (sum >> 16)).unwrap_or(u16::MAX);
    ip[10..12].copy_from_slice(&(!sum).to_be_bytes());
    let udp = [&9u16.to_be_bytes()[..], &port.to_be_bytes(), &length(8), &[0, 0], word].concat();
    [&[8, 0, 0, 0, 0, 0, 1, 0][..], &vtep_mac(to), &[2, 0, 0, 0, 0, 1], &[8, 0], &ip, &udp].concat()
}

#[test]
fn only_nodes_may_put_packets_into_pods() {
    let mut world = World::new();
    world.node(1, [192, 0, 2, 1], PodNetwork::Auto);
    world.node(3, [198, 51, 100, 3], PodNetwork::Auto);
    world.is_whole();
    let strangers = [world.machine([192, 0, 2, 66].into()), world.machine([198, 51, 100, 66].into())];
    let node = world.on("n1");
    let inside: UdpSocket = node.pods[0].run(|| UdpSocket::bind("0.0.0.0:7777").unwrap());
    inside.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let inject = |from: &Namespace, word: &[u8]| {
        let bytes = frame(node.range, world.on("n3").pod_ip(), node.pod_ip(), 7777, word);
        from.run(|| UdpSocket::bind("0.0.0.0:0").unwrap().send_to(&bytes, (node.ip, PORT)).unwrap());
    };
    let heard = || {
        let mut buffer = [0; 64];
        let (size, from) = inside.recv_from(&mut buffer).unwrap();
        assert_eq!(from.ip(), IpAddr::from(world.on("n3").pod_ip()));
        String::from_utf8_lossy(&buffer[..size]).into_owned()
    };
    // What a node sends arrives: the frame is as it should be.
    inject(&world.on("n3").ns, b"first");
    assert_eq!(heard(), "first");
    for stranger in &strangers {
        (0..5).for_each(|_| inject(stranger, b"injected"));
        // They are on their way before this one is.
        netns::must(stranger.command("busybox").args(["ping", "-c", "1", "-W", "5", &node.ip.to_string()]));
        inject(&world.on("n3").ns, b"next");
        assert_eq!(heard(), "next");
    }
}

#[test]
fn who_says_anothers_address_keeps_no_packet_from_it() {
    let mut world = World::new();
    world.node(1, [192, 0, 2, 1], PodNetwork::Auto);
    world.node(3, [198, 51, 100, 3], PodNetwork::Auto);
    world.says("n0", Some([198, 51, 100, 3].into()));
    world.on("n1").has("10.77.0.0/24 via 10.77.0.0 dev skiff.1 src 10.77.1.0 onlink");
    world.is_whole();
    world.says("n0", None);
    world.on("n1").has_none("10.77.0.0/24");
    world.is_whole();
}

fn services(world: &World, mode: Mode) {
    let tracker = ServiceTracker::noting();
    let spec = json!({"clusterIP": "10.96.0.1", "ports": [{"port": 80, "nodePort": 30080}]});
    let local = json!({"clusterIP": "10.96.0.2", "externalTrafficPolicy": "Local", "ports": [{"port": 80, "nodePort": 30081}]});
    for (name, spec) in [("web", spec), ("local", local)] {
        let service: Arc<Service> = Arc::new(service(&format!("d/{name}"), spec));
        tracker.service(None, Some(&service));
        tracker.slice(None, Some(&Arc::new(slice(&format!("d/{name}"), "", "TCP", 8080, &["10.77.3.2@n3"]))));
    }
    for (name, node) in &world.nodes {
        tracker.mark_changed(tracker.keys());
        let of_node = Arc::new(RwLock::new(Node { name: name.clone(), vxlan_port: Some(PORT), ..Node::default() }));
        let cidrs = [CLUSTER.parse().unwrap()];
        let mut proxier = Proxier::new(mode, Family::V4, tracker.clone(), of_node, &cidrs, Group::new()).unwrap();
        node.ns.run(|| block_on(proxier.once())).unwrap();
        // As firewalls are.
        for chain in ["INPUT", "FORWARD"] {
            netns::must(node.ns.command("iptables").args(["-P", chain, "DROP"]));
        }
        netns::must(node.ns.command("iptables").args(["-A", "INPUT", "-m", "conntrack", "--ctstate", "ESTABLISHED", "-j", "ACCEPT"]));
    }
}

fn services_reach_across_nodes(mode: Mode) {
    let mut world = World::new();
    world.node(1, [192, 0, 2, 1], PodNetwork::Auto);
    world.node(2, [192, 0, 2, 2], PodNetwork::Auto);
    world.node(3, [198, 51, 100, 3], PodNetwork::Auto);
    let outside = world.machine([192, 0, 2, 99].into());
    outside.serve_tcp(9000, "outside");
    world.is_whole();
    services(&world, mode);
    world.is_whole();
    for node in world.nodes.values() {
        // A pod keeps its address, but for the one that reaches itself through the service.
        if node.pod_ip() != Ipv4Addr::from([10, 77, 3, 2]) {
            node.hears("10.96.0.1:80", &format!("p3 {}", node.pod_ip()));
        }
        netns::eventually("the node itself", || node.ns.ask("10.96.0.1:80").is_ok_and(|said| said.starts_with("p3 ")));
        netns::eventually("from outside", || outside.ask(&format!("{}:30080", node.ip)).is_ok_and(|said| said.starts_with("p3 ")));
        // What leaves the cluster has the node's address.
        node.hears("192.0.2.99:9000", &format!("outside {}", node.ip));
    }
    world.on("n3").hears("10.96.0.1:80", "p3 10.77.3.1");
    assert_eq!(outside.ask("198.51.100.3:30081").unwrap(), "p3 192.0.2.99");
    assert_eq!(outside.ask("192.0.2.1:30081").unwrap_err().kind(), std::io::ErrorKind::TimedOut);
    world.on("n1").hears(&format!("{}:30080", world.on("n2").ip), "p3 10.77.2.0");
}

#[test]
fn services_reach_across_nodes_by_iptables() {
    services_reach_across_nodes(Mode::Iptables);
}

#[test]
fn services_reach_across_nodes_by_nftables() {
    services_reach_across_nodes(Mode::Nftables);
}
