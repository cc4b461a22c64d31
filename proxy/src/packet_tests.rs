//! Services -> real packets: a node in a namespace of its own, with pods on its bridge and a neighbour outside.

use std::{net::UdpSocket, sync::Arc};

use api::k8s::api::{core::v1::Service, discovery::v1::EndpointSlice};
use parking_lot::RwLock;
use serde_json::{Value, json};

use crate::{
    Family, Mode,
    cni::{self, Verb},
    dns, iptables,
    model::{Node, ServicePort},
    nftables::Table,
    proxier::Proxier,
    service_tracker::{Entry, ServiceTracker},
    testing::{service, slice},
};

#[path = "../tests/netns/mod.rs"]
pub mod netns;

use netns::{Namespace, ask_udp};

const OUTSIDE: &str = "192.0.2.9";
const NODE: &str = "192.0.2.1";

struct TestNetwork {
    node: Namespace,
    outside: Namespace,
    pods: Vec<Namespace>,
    tracker: ServiceTracker,
    leases: tempfile::TempDir,
}

impl TestNetwork {
    /// Pods get 10.77.0.2, 10.77.0.3, ...; each answers on TCP 8080 and UDP 5353 with `p0`, `p1`, ...
    fn new(pods: usize) -> Self {
        let (node, outside, leases) = (Namespace::new("node"), Namespace::new("out"), tempfile::tempdir().unwrap());
        node.ip(&format!("link add up0 type veth peer name eth0 netns {}", outside.name));
        node.ip(&format!("addr add {NODE}/24 dev up0"));
        node.ip("link set up0 up");
        outside.ip(&format!("addr add {OUTSIDE}/24 dev eth0"));
        outside.ip("link set eth0 up");
        node.ip(&format!("route add default via {OUTSIDE}"));
        outside.serve_tcp(9000, "outside");
        let made: Vec<Namespace> = (0..pods).map(|_| Namespace::new("pod")).collect();
        for (i, pod) in made.iter().enumerate() {
            node.run(|| cni::run_for_test(Verb::Add, &format!("p{i}"), pod.path(), leases.path(), &json!([])));
            pod.serve_tcp(8080, &format!("p{i}"));
            pod.serve_udp(5353, &format!("p{i}"));
        }
        Self { node, outside, pods: made, tracker: ServiceTracker::noting(), leases }
    }

    /// The service `d/<name>` with the pods as endpoints.
    fn serve(&self, name: &str, spec: Value, protocol: &str, pods: &[usize]) {
        self.serve_at(name, spec, protocol, &pods.iter().map(|pod| (*pod, "n1")).collect::<Vec<_>>());
    }

    /// The same with pods of which it is said on what nodes they are: this one is `n1`.
    fn serve_at(&self, name: &str, spec: Value, protocol: &str, pods: &[(usize, &str)]) {
        let endpoints: Vec<String> = pods.iter().map(|(i, node)| format!("10.77.0.{}@{node}", i + 2)).collect();
        let endpoints: Vec<&str> = endpoints.iter().map(String::as_str).collect();
        let port = if protocol == "UDP" { 5353 } else { 8080 };
        let key = format!("d/{name}");
        let slice: Arc<EndpointSlice> = Arc::new(slice(&key, "", protocol, port, &endpoints));
        let (mut spec, key) = (spec, key);
        let status = spec.as_object_mut().and_then(|s| s.remove("status"));
        let mut service: Service = service(&key, spec);
        service.status = status.and_then(|s| serde_json::from_value(s).ok());
        let service = Arc::new(service);
        self.tracker.service(None, Some(&service));
        self.tracker.slice(None, Some(&slice));
    }

    fn sync(&self, mode: Mode) -> Syncer<'_> {
        let answered_here = vec!["10.96.0.10".parse().unwrap()];
        let node = Arc::new(RwLock::new(Node { name: "n1".into(), answered_here, ..Node::default() }));
        let cidrs = ["10.77.0.0/16".parse().unwrap()];
        let proxier = Proxier::new(mode, Family::V4, self.tracker.clone(), node, &cidrs, api::task::Group::new());
        Syncer { network: self, sync: Some(proxier.unwrap()) }
    }

    fn rules(&self) -> String {
        netns::text(&netns::must(&mut self.node.command("iptables-save"))) + &self.node.run(elements)
    }

    fn is_whole(&self, mode: Mode) -> bool {
        match mode {
            Mode::Iptables => self.node.run(|| block_on(iptables::exec::is_whole(Family::V4))),
            Mode::Nftables => self.node.run(|| Table::new(Family::V4).is_whole()),
        }
    }

    /// As a program that knows nothing of us would.
    fn flush(&self, mode: Mode) {
        match mode {
            Mode::Iptables => drop(netns::must(self.node.command("iptables").args(["-t", "nat", "-F"]))),
            Mode::Nftables => self.node.run(|| Table::remove(Family::V4).unwrap()),
        }
    }
}

struct Syncer<'a> {
    network: &'a TestNetwork,
    sync: Option<Proxier>,
}

impl Syncer<'_> {
    fn once(&mut self) {
        let mut sync = self.sync.take().unwrap();
        let sync = self.network.node.run(move || {
            block_on(async {
                crate::prepare_kernel(Family::V4).await.unwrap();
                sync.once().await.unwrap();
            });
            sync
        });
        self.sync = Some(sync);
    }
}

/// Addresses of services in our table, as text.
fn elements() -> String {
    let bytes = Table::listing("service-ips");
    let services = bytes.windows(4).filter(|ip| ip.starts_with(&[10, 96]));
    services.map(|ip| format!("kube-proxy 10.96.{}.{}\n", ip[2], ip[3])).collect()
}

fn block_on<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work)
}

fn web(ip: &str, more: &Value) -> Value {
    let mut spec = json!({"clusterIP": ip, "ports": [{"port": 80}]});
    for (key, value) in more.as_object().unwrap() {
        spec[key] = value.clone();
    }
    spec
}

/// Asks until every word has been said.
fn hears(from: &Namespace, address: &str, words: &[&str]) {
    let mut missing: Vec<&str> = words.to_vec();
    netns::eventually(&format!("{words:?} from {address}"), || {
        let said = from.ask(address).unwrap();
        assert!(words.iter().any(|w| said.starts_with(w)), "{said}");
        missing.retain(|w| !said.starts_with(w));
        missing.is_empty()
    });
}

macro_rules! in_both_modes {
    ($($name:ident),* $(,)?) => {
        mod by_iptables {
            $(#[test] fn $name() { super::$name(crate::Mode::Iptables) })*
        }
        mod by_nftables {
            $(#[test] fn $name() { super::$name(crate::Mode::Nftables) })*
        }
    };
}

in_both_modes!(
    services_lead_to_their_pods_from_everywhere,
    pods_leave_the_cluster_under_the_address_of_their_node,
    a_policy_local_keeps_the_source_and_drops_where_nothing_is_local,
    policies_local_keep_to_this_node_but_insiders_go_anywhere,
    udp_clients_move_when_their_endpoint_goes,
    ports_of_the_host_stand_beside_services,
    the_dns_address_answers_pods_and_the_node_beside_a_service_without_endpoints,
    rules_that_somebody_flushes_come_back,
    changes_are_small_restarts_are_clean_and_removal_is_whole,
    sources_of_a_balancer_are_kept_to,
    clients_that_stick_move_when_their_endpoint_goes,
    traffic_is_spread_over_endpoints_that_come_and_go,
    another_mode_takes_over,
    the_nodes_own_programs_show_our_rules_and_keep_theirs,
    a_service_that_panics_keeps_its_rules_and_the_others_go_on,
);

fn services_lead_to_their_pods_from_everywhere(mode: Mode) {
    let network = TestNetwork::new(3);
    network.serve("web", json!({"clusterIP": "10.96.0.1", "ports": [{"port": 80, "nodePort": 30080}]}), "TCP", &[0, 1]);
    network.serve("own", web("10.96.0.2", &json!({})), "TCP", &[0]);
    network.serve("none", web("10.96.0.3", &json!({})), "TCP", &[]);
    network.serve("sticky", web("10.96.0.4", &json!({"sessionAffinity": "ClientIP"})), "TCP", &[0, 1, 2]);
    network.serve("out", web("10.96.0.5", &json!({"externalIPs": ["192.0.2.77"]})), "TCP", &[1]);
    network.sync(mode).once();
    hears(&network.pods[2], "10.96.0.1:80", &["p0 10.77.0.4", "p1 10.77.0.4"]);
    hears(&network.node, "10.96.0.1:80", &["p0", "p1"]);
    hears(&network.node, "127.0.0.1:30080", &["p0", "p1"]);
    hears(&network.outside, &format!("{NODE}:30080"), &["p0 10.77.0.1", "p1 10.77.0.1"]);
    hears(&network.pods[2], &format!("{NODE}:30080"), &["p0", "p1"]);
    // A pod that reaches itself sees the node as its peer.
    hears(&network.pods[0], "10.96.0.2:80", &["p0 10.77.0.1"]);
    for from in [&network.pods[0], &network.node] {
        assert_eq!(from.ask("10.96.0.3:80").unwrap_err().kind(), std::io::ErrorKind::ConnectionRefused);
    }
    let first = network.pods[2].ask("10.96.0.4:80").unwrap();
    (0..10).for_each(|_| assert_eq!(network.pods[2].ask("10.96.0.4:80").unwrap(), first));
    network.outside.ip(&format!("route add 192.0.2.77 via {NODE}"));
    hears(&network.outside, "192.0.2.77:80", &["p1"]);
}

fn pods_leave_the_cluster_under_the_address_of_their_node(mode: Mode) {
    let network = TestNetwork::new(2);
    network.sync(mode).once();
    assert_eq!(network.pods[0].ask(&format!("{OUTSIDE}:9000")).unwrap(), format!("outside {NODE}"));
    assert_eq!(network.pods[0].ask("10.77.0.3:8080").unwrap(), "p1 10.77.0.2");
}

fn a_policy_local_keeps_the_source_and_drops_where_nothing_is_local(mode: Mode) {
    let network = TestNetwork::new(1);
    let spec = json!({"clusterIP": "10.96.0.1", "externalTrafficPolicy": "Local", "ports": [{"port": 80, "nodePort": 30080}]});
    network.serve("web", spec, "TCP", &[0]);
    network.outside.ip(&format!("route add 10.77.0.0/16 via {NODE}"));
    network.sync(mode).once();
    assert_eq!(network.outside.ask(&format!("{NODE}:30080")).unwrap(), format!("p0 {OUTSIDE}"));
}

fn policies_local_keep_to_this_node_but_insiders_go_anywhere(mode: Mode) {
    let network = TestNetwork::new(3);
    let timed_out = |from: &Namespace, address: &str| {
        assert_eq!(from.ask(address).unwrap_err().kind(), std::io::ErrorKind::TimedOut, "{address}");
    };
    let outer = |port| json!({"externalTrafficPolicy": "Local", "externalIPs": ["192.0.2.77"], "ports": [{"port": port, "nodePort": 30000 + port}]});
    let inner = json!({"internalTrafficPolicy": "Local", "ports": [{"port": 80, "nodePort": 30088}]});
    network.serve_at("away", web("10.96.0.1", &outer(80)), "TCP", &[(0, "n2")]);
    network.serve_at("both", web("10.96.0.2", &outer(81)), "TCP", &[(0, "n2"), (1, "n1")]);
    network.serve_at("inner", web("10.96.0.3", &inner), "TCP", &[(0, "n2"), (1, "n1")]);
    network.serve_at("inner-away", web("10.96.0.4", &json!({"internalTrafficPolicy": "Local"})), "TCP", &[(0, "n2")]);
    network.outside.ip(&format!("route add 10.77.0.0/16 via {NODE}"));
    network.outside.ip(&format!("route add 192.0.2.77 via {NODE}"));
    network.sync(mode).once();
    for address in [format!("{NODE}:30081"), "192.0.2.77:81".to_owned()] {
        (0..6).for_each(|_| assert_eq!(network.outside.ask(&address).unwrap(), format!("p1 {OUTSIDE}")));
        hears(&network.node, &address, &["p0 10.77.0.1", "p1 10.77.0.1"]);
        hears(&network.pods[2], &address, &["p0 10.77.0.4", "p1 10.77.0.4"]);
    }
    hears(&network.node, &format!("{NODE}:30080"), &["p0"]);
    hears(&network.pods[2], "192.0.2.77:80", &["p0"]);
    hears(&network.pods[2], "10.96.0.1:80", &["p0"]);
    (0..6).for_each(|_| assert_eq!(network.pods[2].ask("10.96.0.3:80").unwrap(), "p1 10.77.0.4"));
    hears(&network.outside, &format!("{NODE}:30088"), &["p0", "p1"]);
    std::thread::scope(|all| {
        all.spawn(|| timed_out(&network.outside, &format!("{NODE}:30080")));
        all.spawn(|| timed_out(&network.outside, "192.0.2.77:80"));
        all.spawn(|| timed_out(&network.pods[2], "10.96.0.4:80"));
    });
}

/// Whatever serves the services: host ports are iptables', and their flows are forgotten, too.
fn ports_of_the_host_stand_beside_services(mode: Mode) {
    let network = TestNetwork::new(1);
    network.serve("web", web("10.96.0.1", &json!({"ports": [{"port": 80, "nodePort": 30080}]})), "TCP", &[0]);
    network.sync(mode).once();
    let ports =
        json!([{"hostPort": 8090, "containerPort": 8080, "protocol": "TCP"}, {"hostPort": 5390, "containerPort": 5353, "protocol": "UDP"}]);
    let client = network.outside.udp_client();
    for word in ["first", "second"] {
        let pod = Namespace::new("host");
        let plugin = |command| network.node.run(|| cni::run_for_test(command, word, pod.path(), network.leases.path(), &ports));
        plugin(Verb::Add);
        pod.serve_tcp(8080, word);
        pod.serve_udp(5353, word);
        assert_eq!(network.outside.ask(&format!("{NODE}:8090")).unwrap(), format!("{word} {OUTSIDE}"));
        for (from, address) in [(&network.node, "127.0.0.1:8090"), (&network.pods[0], "192.0.2.1:8090"), (&pod, "192.0.2.1:8090")] {
            hears(from, address, &[word]);
        }
        netns::eventually(word, || ask_udp(&client, &format!("{NODE}:5390")).as_deref() == Some(word));
        hears(&network.outside, &format!("{NODE}:30080"), &["p0"]);
        plugin(Verb::Del);
    }
}

fn udp_clients_move_when_their_endpoint_goes(mode: Mode) {
    let network = TestNetwork::new(3);
    let spec = json!({"clusterIP": "10.96.0.5", "ports": [{"port": 53, "protocol": "UDP", "nodePort": 30053}]});
    network.serve("dns", spec.clone(), "UDP", &[0]);
    let mut sync = network.sync(mode);
    sync.once();
    let client: UdpSocket = network.pods[2].udp_client();
    let visitor: UdpSocket = network.outside.udp_client();
    let node_port = format!("{NODE}:30053");
    netns::eventually("p0", || ask_udp(&client, "10.96.0.5:53").as_deref() == Some("p0"));
    netns::eventually("p0", || ask_udp(&visitor, &node_port).as_deref() == Some("p0"));
    network.serve("dns", spec, "UDP", &[1]);
    sync.once();
    netns::eventually("p1", || ask_udp(&client, "10.96.0.5:53").as_deref() == Some("p1"));
    netns::eventually("p1", || ask_udp(&visitor, &node_port).as_deref() == Some("p1"));
}

fn the_dns_address_answers_pods_and_the_node_beside_a_service_without_endpoints(mode: Mode) {
    let network = TestNetwork::new(1);
    network.serve("kube-dns", json!({"clusterIP": "10.96.0.10", "ports": [{"port": 53, "protocol": "UDP"}]}), "UDP", &[]);
    network.sync(mode).once();
    // As firewalls are: all is refused but what comes from the node itself.
    netns::must(network.node.command("iptables").args(["-P", "INPUT", "DROP"]));
    netns::must(network.node.command("iptables").args(["-A", "INPUT", "-i", "lo", "-j", "ACCEPT"]));
    // Between two runs of skiff nobody listens: who asks then waits, and is not refused.
    network.node.ip("address add 10.96.0.10/32 dev lo");
    for from in [&network.pods[0], &network.node] {
        let socket = from.udp_client();
        socket.connect("10.96.0.10:53").unwrap();
        socket.send(b"question").unwrap();
        let silence = [std::io::ErrorKind::WouldBlock, std::io::ErrorKind::TimedOut];
        assert!(silence.contains(&socket.recv(&mut [0; 512]).unwrap_err().kind()));
    }
    network.node.ip("address del 10.96.0.10/32 dev lo");
    let (started, ready) = std::sync::mpsc::channel();
    let name = network.node.path();
    // The server lives until the test's process ends.
    std::thread::spawn(move || {
        netns::enter(&name);
        block_on(async {
            let group = api::task::Group::new();
            dns::serve_for_test("10.96.0.10".parse().unwrap(), &group).await;
            started.send(()).unwrap();
            std::future::pending::<()>().await;
        });
    });
    ready.recv().unwrap();
    for from in [&network.pods[0], &network.node] {
        let socket = from.udp_client();
        netns::eventually("an answer", || dns::asks_for_test(&socket, "10.96.0.10:53").is_some_and(|said| said.contains("1.1.0")));
    }
}

fn rules_that_somebody_flushes_come_back(mode: Mode) {
    let network = TestNetwork::new(1);
    network.serve("web", web("10.96.0.1", &json!({})), "TCP", &[0]);
    let mut sync = network.sync(mode);
    sync.once();
    let (keeping, path, stop) = (sync.sync.take().unwrap(), network.node.path(), api::task::Group::new());
    let stopped = stop.clone();
    let keeper = std::thread::spawn(move || {
        netns::enter(&path);
        block_on(async {
            tokio::select! { () = stopped.stopping() => {}, () = keeping.keep_on() => {} }
        });
    });
    let whole = || network.is_whole(mode);
    // Flushed again and again, as the watch may not have begun yet.
    netns::eventually("rules come back", || {
        network.flush(mode);
        let begun = std::time::Instant::now();
        while !whole() && begun.elapsed() < std::time::Duration::from_secs(10) {}
        whole()
    });
    hears(&network.pods[0], "10.96.0.1:80", &["p0"]);
    // So does the way through a firewall that was flushed, where nothing else was.
    let open = || network.node.run(|| iptables::jump::stands(Family::V4));
    netns::must(network.node.command("iptables").args(["-F", "FORWARD"]));
    netns::eventually("what is forwarded is let through again", open);
    stop.stop();
    keeper.join().unwrap();
}

fn changes_are_small_restarts_are_clean_and_removal_is_whole(mode: Mode) {
    let network = TestNetwork::new(1);
    let before = network.rules();
    network.serve("a", web("10.96.0.1", &json!({})), "TCP", &[0]);
    network.serve("b", web("10.96.0.2", &json!({})), "TCP", &[0]);
    let mut sync = network.sync(mode);
    sync.once();
    let all = network.rules();
    // Another process starts where this one stood; a service has gone in between.
    let gone = Arc::new(service("d/b", json!({})));
    network.tracker.service(Some(&gone), None);
    network.tracker.mark_changed(network.tracker.keys());
    let mut again = network.sync(mode);
    again.once();
    let fewer = network.rules();
    assert!(all.contains("10.96.0.2") && !fewer.contains("10.96.0.2") && fewer.contains("10.96.0.1"), "{all}\n{fewer}");
    assert_eq!(fewer.matches("-A OUTPUT -j KUBE-SERVICES").count(), usize::from(mode == Mode::Iptables));
    hears(&network.pods[0], "10.96.0.1:80", &["p0"]);
    network.flush(mode);
    assert!(!network.is_whole(mode));
    network.tracker.mark_changed(network.tracker.keys());
    network.sync(mode).once();
    assert!(network.is_whole(mode));
    network.node.run(|| block_on(crate::cleanup())).unwrap();
    assert!(!network.pods[0].ip("link show").contains("eth0"));
    let kept = |text: &str| text.lines().filter(|l| l.contains("KUBE-") || l.contains("SKIFF-") || l.contains("kube-proxy")).count();
    assert_eq!((kept(&before), kept(&network.rules())), (0, 0));
    let tables = netns::text(&netns::must(network.node.command("nft").args(["list", "tables"])));
    assert_eq!(tables, "", "each costs every packet");
    assert!(!network.node.ip("link show").contains("skiff0"));
}

fn sources_of_a_balancer_are_kept_to(mode: Mode) {
    let network = TestNetwork::new(1);
    let status = json!({"loadBalancer": {"ingress": [{"ip": "192.0.2.77"}]}});
    let balancer =
        |ranges: &[&str]| web("10.96.0.1", &json!({"type": "LoadBalancer", "loadBalancerSourceRanges": ranges, "status": status}));
    network.outside.ip(&format!("route add 192.0.2.77 via {NODE}"));
    network.serve("web", balancer(&["198.51.100.0/24", "192.0.2.8/31"]), "TCP", &[0]);
    let mut sync = network.sync(mode);
    sync.once();
    hears(&network.outside, "192.0.2.77:80", &["p0"]);
    network.serve("web", balancer(&["198.51.100.0/24"]), "TCP", &[0]);
    sync.once();
    assert_eq!(network.outside.ask("192.0.2.77:80").unwrap_err().kind(), std::io::ErrorKind::TimedOut);
    hears(&network.pods[0], "10.96.0.1:80", &["p0"]);
}

fn clients_that_stick_move_when_their_endpoint_goes(mode: Mode) {
    let network = TestNetwork::new(3);
    let spec = json!({"clusterIP": "10.96.0.4", "sessionAffinity": "ClientIP", "ports": [{"port": 80}]});
    network.serve("sticky", spec.clone(), "TCP", &[0, 1]);
    let mut sync = network.sync(mode);
    sync.once();
    let said = |ip: &str| network.pods[2].ask(ip).unwrap().split(' ').next().unwrap().to_owned();
    let (first, other) = if said("10.96.0.4:80") == "p0" { ("p0", 1) } else { ("p1", 0) };
    (0..8).for_each(|_| assert_eq!(said("10.96.0.4:80"), first));
    network.serve("sticky", spec.clone(), "TCP", &[other]);
    sync.once();
    let second = format!("p{other}");
    (0..4).for_each(|_| assert_eq!(said("10.96.0.4:80"), second));
    network.serve("sticky", spec, "TCP", &[0, 1]);
    sync.once();
    (0..8).for_each(|_| assert_eq!(said("10.96.0.4:80"), second));
}

fn traffic_is_spread_over_endpoints_that_come_and_go(mode: Mode) {
    let network = TestNetwork::new(3);
    let spec = web("10.96.0.1", &json!({}));
    let mut sync = network.sync(mode);
    for pods in [&[0, 1, 2][..], &[2, 1], &[0, 2], &[0], &[2, 1, 0]] {
        network.serve("web", spec.clone(), "TCP", pods);
        sync.once();
        let words: Vec<String> = pods.iter().map(|i| format!("p{i}")).collect();
        hears(&network.node, "10.96.0.1:80", &words.iter().map(String::as_str).collect::<Vec<_>>());
    }
    network.serve("web", spec.clone(), "TCP", &[]);
    sync.once();
    assert_eq!(network.node.ask("10.96.0.1:80").unwrap_err().kind(), std::io::ErrorKind::ConnectionRefused);
    network.serve("web", spec, "TCP", &[1]);
    sync.once();
    hears(&network.node, "10.96.0.1:80", &["p1"]);
}

/// Also where the other one has left services that are gone.
fn another_mode_takes_over(mode: Mode) {
    let other = if mode == Mode::Iptables { Mode::Nftables } else { Mode::Iptables };
    let network = TestNetwork::new(2);
    network.serve("web", web("10.96.0.1", &json!({})), "TCP", &[0]);
    // More than iptables writes or removes at once.
    (0..250).for_each(|n| network.serve(&format!("many{n}"), web(&format!("10.96.1.{n}"), &json!({})), "TCP", &[0, 1]));
    network.sync(other).once();
    hears(&network.pods[1], "10.96.0.1:80", &["p0"]);
    hears(&network.pods[1], "10.96.1.249:80", &["p0", "p1"]);
    network.serve("web", web("10.96.0.1", &json!({})), "TCP", &[1]);
    network.tracker.mark_changed(network.tracker.keys());
    network.sync(mode).once();
    (0..4).for_each(|_| hears(&network.pods[0], "10.96.0.1:80", &["p1"]));
    let rules = network.rules();
    assert_eq!((rules.contains("KUBE-SERVICES"), rules.contains("kube-proxy")), (mode == Mode::Iptables, mode == Mode::Nftables));
    assert!(rules.contains("-A FORWARD -j SKIFF-FORWARD") && rules.contains("KUBE-SVC-") == (mode == Mode::Iptables));
    hears(&network.pods[0], "10.96.1.249:80", &["p0", "p1"]);
}

/// `nft` before 1.0.7 cannot show a rule that looks up what another map holds: there are none.
fn the_nodes_own_programs_show_our_rules_and_keep_theirs(mode: Mode) {
    let network = TestNetwork::new(3);
    let status = json!({"loadBalancer": {"ingress": [{"ip": "192.0.2.77"}]}});
    let ports = json!([{"port": 80, "nodePort": 30080}]);
    let local = json!({"externalTrafficPolicy": "Local", "externalIPs": ["192.0.2.78"], "ports": ports, "status": status,
        "type": "LoadBalancer", "loadBalancerSourceRanges": ["192.0.2.0/28"]});
    network.serve("plain", web("10.96.0.1", &json!({})), "TCP", &[0, 1]);
    network.serve("local", web("10.96.0.2", &local), "TCP", &[0, 2]);
    network.serve("none", web("10.96.0.3", &json!({"externalIPs": ["192.0.2.79"]})), "TCP", &[]);
    let sticky = json!({"sessionAffinity": "ClientIP", "ports": [{"port": 80, "nodePort": 30081}]});
    network.serve("sticky", web("10.96.0.4", &sticky), "TCP", &[0, 1, 2]);
    let mut sync = network.sync(mode);
    sync.once();
    network.pods[1].ask("10.96.0.4:80").unwrap();
    let said = |words: &str| {
        let (program, args) = words.split_once(' ').unwrap();
        netns::text(&netns::must(network.node.command(program).args(args.split(' '))))
    };
    said("iptables-nft -A FORWARD -s 203.0.113.7 -j DROP");
    said("nft add table inet theirs");
    let shown = [said("nft list ruleset"), said("nft -j list ruleset")];
    for (shown, ip) in shown.iter().flat_map(|shown| (1..=4).map(move |n| (shown, format!("10.96.0.{n}")))) {
        assert!(shown.contains(&ip) && shown.contains("203.0.113.7") && shown.contains("theirs"), "{ip} in\n{shown}");
    }
    assert!(said("iptables-save -t filter").contains("203.0.113.7"));
    assert!(said("nft list tables").contains("table inet theirs"));
    if mode == Mode::Nftables {
        let ours = said("nft list table ip kube-proxy");
        let wanted = [
            "10.96.0.1 . tcp . 80 . 1 : 10.77.0.3 . 8080",
            "goto ip-cluster-2",
            "dnat ip to ip daddr . meta l4proto . th dport . numgen random mod 2 map @service-endpoints",
            "ip daddr . meta l4proto . th dport . ip saddr != @firewall-sources drop",
            "tcp . 30080 . 1000000 : 10.77.0.2 . 8080",
            "10.96.0.4 . tcp . 80 : goto ip-cluster-1-sticky-",
            "192.0.2.77 . tcp . 80 . 192.0.2.0/28",
            "10.77.0.3 timeout 3h expires",
        ];
        wanted.into_iter().for_each(|line| assert!(ours.contains(line), "{line} in\n{ours}"));
        // What nft shows, nft can make.
        said("nft delete table ip kube-proxy");
        let made = netns::fed(network.node.command("nft").args(["-f", "-"]), &ours);
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        hears(&network.pods[2], "10.96.0.1:80", &["p0", "p1"]);
    }
}

/// A service cannot be planned as long as its label says so.
fn touchy(entry: &Entry, node: &Node, family: Family) -> Vec<ServicePort> {
    let labels = entry.service.as_ref().and_then(|s| s.metadata.labels.as_ref());
    assert!(!labels.is_some_and(|l| l.contains_key("bad")), "a plan that panics");
    crate::proxier::plan(entry, node, family)
}

fn a_service_that_panics_keeps_its_rules_and_the_others_go_on(mode: Mode) {
    let network = TestNetwork::new(2);
    let mut sync = network.sync(mode);
    sync.sync = sync.sync.map(|sync| sync.planned_by(touchy));
    network.serve("bad", web("10.96.0.1", &json!({})), "TCP", &[0]);
    network.serve("good", web("10.96.0.2", &json!({})), "TCP", &[0]);
    sync.once();
    let mut bad = service("d/bad", web("10.96.0.1", &json!({})));
    bad.metadata.labels = Some([("bad".to_owned(), String::new())].into());
    network.serve("bad", web("10.96.0.1", &json!({})), "TCP", &[1]);
    network.serve("good", web("10.96.0.2", &json!({})), "TCP", &[1]);
    network.tracker.service(None, Some(&Arc::new(bad)));
    sync.once();
    (0..4).for_each(|_| hears(&network.pods[0], "10.96.0.1:80", &["p0"]));
    (0..4).for_each(|_| hears(&network.pods[0], "10.96.0.2:80", &["p1"]));
    assert!(api::faults::metrics().contains("skiff_panics_total{loop=\"service proxy\"}"));
    // Everything written anew leaves it as it was, too.
    network.tracker.mark_changed(network.tracker.keys());
    sync.once();
    (0..4).for_each(|_| hears(&network.pods[0], "10.96.0.1:80", &["p0"]));
    network.serve("bad", web("10.96.0.1", &json!({})), "TCP", &[1]);
    sync.once();
    (0..4).for_each(|_| hears(&network.pods[0], "10.96.0.1:80", &["p1"]));
}
