//! Rules of IPv6 -> the kernel's word on them, in a namespace: before the node's pods have such addresses.

use std::io::Write;

use serde_json::json;

use super::{exec, rules::Fragment, table::Rules};
use crate::{
    family::Family,
    model::{Node, NodeNetwork, ServicePort, service_ports},
    packet_tests::netns::{Namespace, must, text},
    testing::{service, slice},
};

fn ports() -> Vec<ServicePort> {
    let spec = json!({
        "clusterIP": "fd00:96::1", "type": "LoadBalancer", "externalTrafficPolicy": "Local", "externalIPs": ["fd00:96::2"],
        "loadBalancerSourceRanges": ["fd00::/16"], "ports": [{"port": 80, "nodePort": 30080}],
    });
    let mut all = service("d/s", spec);
    all.status = serde_json::from_value(json!({"loadBalancer": {"ingress": [{"ip": "fd00:96::3"}]}})).ok();
    let sticky = service("d/t", json!({"clusterIP": "fd00:96::4", "sessionAffinity": "ClientIP", "ports": [{"port": 80}]}));
    let none = service("d/n", json!({"clusterIP": "fd00:96::5", "ports": [{"port": 80}]}));
    let slices = [slice("d/s", "", "TCP", 8080, &["fd00:77::1@n1"])];
    let node = Node { name: "n1".into(), ..Node::default() };
    let of = |service, slices: &[_]| service_ports(service, slices.iter(), &node, Family::V6);
    [of(&all, &slices), of(&sticky, &slices), of(&none, &[])].concat()
}

async fn written(rules: &Rules) -> bool {
    let saved = exec::save(Family::V6).await.unwrap();
    exec::restore_all(Family::V6, rules.full(&saved)).await.unwrap();
    exec::is_whole(Family::V6).await
}

#[test]
fn the_kernel_takes_them_and_leads_packets() {
    let node = Namespace::new("six");
    ["addr add fd00:77::1/128 dev lo", "-6 route add fd00:96::/64 dev lo src fd00:77::1"].iter().for_each(|words| drop(node.ip(words)));
    let listener = node.run(|| std::net::TcpListener::bind("[fd00:77::1]:8080").unwrap());
    // Ends with the process.
    std::thread::spawn(move || listener.incoming().flatten().for_each(|mut stream| drop(stream.write_all(b"here"))));
    let node_network = NodeNetwork {
        cluster_cidr: Some("fd00:77::/48".parse().unwrap()),
        node_ips: vec!["fd00::9".parse().unwrap()],
        answered_here: vec!["fd00:96::a".parse().unwrap()],
        ..NodeNetwork::of(Family::V6)
    };
    let mut rules = Rules::new(node_network);
    rules.update(vec![(api::Key::new("d", "s"), Fragment::of(&ports(), rules.node_network()))]);
    let block_on = |work| tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work);
    assert!(node.run(|| block_on(Box::pin(written(&rules)))), "they are found again");
    for address in ["[fd00:96::1]:80", "[fd00:96::2]:80", "[fd00:96::4]:80"] {
        assert_eq!(node.ask(address).unwrap(), "here", "{address}");
    }
    assert_eq!(node.ask("[fd00:96::5]:80").unwrap_err().kind(), std::io::ErrorKind::ConnectionRefused);
    let shown = |program: &str| text(&must(&mut node.command(program)));
    assert!(!shown("iptables-save").contains("KUBE-"), "IPv4 has rules of its own");
    node.run(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(crate::remove_rules(Family::V6)).unwrap();
    });
    let left = shown("ip6tables-save");
    assert!(!left.contains("KUBE-") && !left.contains("SKIFF-"), "{left}");
}
