//! The proxy and the DNS beside the real API server, as the user that they are: what that may do, and that it is enough. Needs root.

mod netns;

use std::{collections::BTreeSet, net::SocketAddr, time::Duration};

use api::{
    k8s::api::{
        core::v1::{Node, Secret, Service},
        discovery::v1::EndpointSlice,
        networking::v1::ServiceCIDR,
    },
    task::Group,
};
use apiserver::identity::{Attributes, User};
use client::{
    Caches,
    kube::{
        Api, Client,
        api::{DeleteParams, PostParams},
    },
};
use door::{Door, until};
use hickory_proto::{
    op::{Message, Query},
    rr::{Name, RecordType},
};
use netns::Namespace;
use proxy::{
    Family, Mode, dns,
    overlay::{self, PodNetwork},
};
use serde_json::json;

const VERBS: [&str; 8] = ["get", "list", "watch", "create", "update", "patch", "delete", "deletecollection"];

/// All resources and subresources that the server has: group and name.
async fn resources(client: &Client) -> Vec<(String, String)> {
    let mut lists = vec![(String::new(), client.list_core_api_resources("v1").await.unwrap())];
    for group in client.list_api_groups().await.unwrap().groups {
        for version in &group.versions {
            lists.push((group.name.clone(), client.list_api_group_resources(&version.group_version).await.unwrap()));
        }
    }
    lists.into_iter().flat_map(|(group, list)| list.resources.into_iter().map(move |r| (group.clone(), r.name))).collect()
}

/// `verb resource.group` of all that the user may.
async fn rights(door: &Door, name: &str, groups: &[&str]) -> BTreeSet<String> {
    let groups: Vec<String> = groups.iter().chain(&["system:authenticated"]).map(|group| (*group).to_owned()).collect();
    let user = User { name: name.into(), groups, ..User::default() };
    let mut rights = BTreeSet::new();
    for (group, resource) in resources(&door.admin()).await {
        let (of, subresource) = resource.split_once('/').unwrap_or((&resource, ""));
        for verb in VERBS {
            let asked = Attributes {
                user: &user,
                verb,
                resource_request: true,
                group: &group,
                resource: of,
                subresource,
                namespace: "kube-system",
                ..Attributes::default()
            };
            if door.engine.verdict(&asked).await.is_allowed() {
                rights.insert(format!("{verb} {resource}.{group}"));
            }
        }
    }
    rights
}

#[tokio::test]
async fn they_may_read_what_they_need_and_nothing_more() {
    let group = Group::new();
    let door = Door::new(&group).await;
    let anybody = rights(&door, "somebody", &[]).await;
    let of = |all: BTreeSet<String>| all.difference(&anybody).cloned().collect::<Vec<String>>();
    let proxy = of(rights(&door, proxy::USER, &[]).await);
    // Upstream's `system:node-proxier`.
    let wanted = [
        "create events.",
        "create events.events.k8s.io",
        "get nodes.",
        "list endpoints.",
        "list endpointslices.discovery.k8s.io",
        "list nodes.",
        "list servicecidrs.networking.k8s.io",
        "list services.",
        "patch events.",
        "patch events.events.k8s.io",
        "update events.",
        "update events.events.k8s.io",
        "watch endpoints.",
        "watch endpointslices.discovery.k8s.io",
        "watch nodes.",
        "watch servicecidrs.networking.k8s.io",
        "watch services.",
    ];
    assert_eq!(proxy, wanted);
    let client = door.client(proxy::USER, &[]);
    let secret = Api::<Secret>::namespaced(client.clone(), "kube-system").get("any").await.unwrap_err();
    assert!(matches!(&secret, client::kube::Error::Api(status) if status.code == 403), "{secret}");
    let made = Api::<Service>::namespaced(client, "default").create(&PostParams::default(), &service()).await.unwrap_err();
    assert!(matches!(&made, client::kube::Error::Api(status) if status.code == 403), "{made}");
    group.stop();
}

#[test]
fn services_and_names_are_served_with_these_rights() {
    let node = Namespace::new("node");
    node.run(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        // Who is refused asks again and again: then nothing is ever served.
        let served = async { tokio::time::timeout(2 * door::BOUND, Box::pin(serve(&node))).await };
        runtime.block_on(served).expect("served in time");
    });
}

async fn serve(node: &Namespace) {
    let group = Group::new();
    let door = Door::new(&group).await;
    let (default, slices) = (Api::namespaced(door.admin(), "default"), Api::namespaced(door.admin(), "default"));
    default.create(&PostParams::default(), &service()).await.unwrap();
    slices.create(&PostParams::default(), &slice()).await.unwrap();
    let answers: SocketAddr = "10.96.0.10:53".parse().unwrap();
    let rules = proxy::Config {
        mode: Mode::Iptables,
        node_name: "n1".into(),
        families: Family::SERVED.to_vec(),
        cluster_cidrs: vec!["10.77.0.0/16".parse().unwrap()],
        answered_here: vec![answers.ip()],
        vxlan_port: None,
    };
    let caches = Caches::new(door.client(proxy::USER, &[]), group.clone());
    proxy::run(rules, caches.clone(), group.clone()).await.unwrap();
    let saved = netns::text(&netns::must(node.command("iptables-save").args(["-t", "nat"])));
    assert!(saved.contains("-d 10.96.0.77/32") && saved.contains("--to-destination 10.77.0.2:8080"), "{saved}");
    pods_of_others(node, &door, &caches, &group).await;
    let names = dns::Config { domain: "cluster.local".into(), address: answers.ip(), port: answers.port(), resolv_conf: "/nowhere".into() };
    dns::run(names, caches, group.clone()).await.unwrap();
    let socket = tokio::net::UdpSocket::bind("0.0.0.0:0").await.unwrap();
    until("the service's name has an address", async || ask(&socket, answers).await.filter(|said| said == "10.96.0.77")).await;
    assert!(group.drain(Duration::from_secs(30)).await);
    assert_eq!(group.fault(), None);
}

/// Nodes are read with these rights as well, and those in range become routes.
async fn pods_of_others(node: &Namespace, door: &Door, caches: &Caches, group: &Group) {
    for words in ["link add eth0 type veth peer name eth1", "addr add 192.0.2.1/24 dev eth0", "link set eth1 up", "link set eth0 up"] {
        node.ip(words);
    }
    let nodes: Api<Node> = Api::all(door.admin());
    for (name, ip) in [("n1", "192.0.2.1"), ("n2", "192.0.2.2"), ("n3", "10.96.0.7")] {
        let (number, ready) = (&name[1..], json!([{"type": "InternalIP", "address": ip}]));
        let made: Node = serde_json::from_value(json!({
            "metadata": {"name": name}, "spec": {"podCIDR": format!("10.77.{number}.0/24")}, "status": {"addresses": ready},
        }))
        .unwrap();
        nodes.create(&PostParams::default(), &made).await.unwrap();
    }
    let config = overlay::Config::new(PodNetwork::Auto, "n1", "192.0.2.1".parse().unwrap(), &["10.77.0.0/16".parse().unwrap()]);
    overlay::run(config, caches, group).await.unwrap();
    let routes = || node.ip("route show proto 83");
    until("a route to the other node's pods", async || Some(routes()).filter(|all| all.contains("10.77.2.0/24 via 192.0.2.2"))).await;
    // An address of services is no node's, as soon as it is known which those are.
    let services: ServiceCIDR = serde_json::from_value(json!({"metadata": {"name": "more"}, "spec": {"cidrs": ["10.96.0.0/24"]}})).unwrap();
    Api::<ServiceCIDR>::all(door.admin()).create(&PostParams::default(), &services).await.unwrap();
    until("no route to it", async || Some(routes()).filter(|all| !all.contains("10.77.3.0"))).await;
    assert!(routes().contains("10.77.2.0/24 via 192.0.2.2") && !node.ip("link show").contains("skiff.1"));
    // What goes is seen as well.
    nodes.delete("n2", &DeleteParams::default()).await.unwrap();
    until("no route", async || Some(routes()).filter(String::is_empty)).await;
}

/// The address of `web.default`, if there is one.
async fn ask(socket: &tokio::net::UdpSocket, server: SocketAddr) -> Option<String> {
    let mut question = Message::query();
    question.add_query(Query::query(Name::from_ascii("web.default.svc.cluster.local.").unwrap(), RecordType::A));
    socket.send_to(&question.to_vec().unwrap(), server).await.unwrap();
    let mut buffer = [0; 512];
    let (size, _) = tokio::time::timeout(Duration::from_secs(1), socket.recv_from(&mut buffer)).await.ok()?.ok()?;
    Some(Message::from_vec(&buffer[..size]).unwrap().answers.first()?.data.to_string())
}

fn service() -> Service {
    let spec = json!({"clusterIP": "10.96.0.77", "ports": [{"port": 80, "targetPort": 8080}]});
    serde_json::from_value(json!({"metadata": {"name": "web"}, "spec": spec})).unwrap()
}

fn slice() -> EndpointSlice {
    serde_json::from_value(json!({
        "metadata": {"name": "web-1", "labels": {"kubernetes.io/service-name": "web"}}, "addressType": "IPv4",
        "endpoints": [{"addresses": ["10.77.0.2"], "conditions": {"ready": true}}], "ports": [{"name": "", "protocol": "TCP", "port": 8080}],
    }))
    .unwrap()
}
