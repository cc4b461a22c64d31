//! The plugin as a container runtime calls it -> real namespaces that reach each other.

mod netns;

use std::process::Output;

use netns::{Namespace, fed, must, text};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
};

/// A node in a namespace of its own, with the leases of its network.
struct Node {
    ns: Namespace,
    dir: tempfile::TempDir,
}

impl Node {
    fn new() -> Self {
        Self { ns: Namespace::new("node"), dir: tempfile::tempdir().unwrap() }
    }

    fn conf(&self) -> Value {
        json!({
            "cniVersion": "1.0.0", "name": "skiff", "type": "skiff-cni", "bridge": "skiff0", "mtu": 1400,
            "ipam": {"subnet": "10.77.0.0/29", "dataDir": self.dir.path()},
        })
    }

    fn call(&self, command: &str, id: &str, netns: Option<&Namespace>, conf: &Value) -> Output {
        let mut plugin = self.ns.command(env!("CARGO_BIN_EXE_skiff-cni"));
        plugin.env("CNI_COMMAND", command).env("CNI_CONTAINERID", id).env("CNI_IFNAME", "eth0").env("CNI_PATH", "/nowhere");
        if let Some(ns) = netns {
            plugin.env("CNI_NETNS", ns.path());
        }
        fed(&mut plugin, &conf.to_string())
    }

    fn done(&self, command: &str, id: &str, netns: Option<&Namespace>, conf: &Value) -> Value {
        let output = self.call(command, id, netns, conf);
        assert!(output.status.success(), "{command} {id}: {}{}", text(&output), String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).unwrap_or(Value::Null)
    }

    fn refused(&self, command: &str, id: &str, netns: Option<&Namespace>, conf: &Value) -> u64 {
        let output = self.call(command, id, netns, conf);
        assert!(!output.status.success());
        let body: Value = serde_json::from_slice(&output.stdout).unwrap();
        body["code"].as_u64().unwrap()
    }

    fn leases(&self) -> usize {
        let read: Value = serde_json::from_slice(&std::fs::read(self.dir.path().join("skiff/leases.json")).unwrap()).unwrap();
        read["leases"].as_object().unwrap().len()
    }
}

fn ping(from: &Namespace, to: &str) {
    must(from.command("busybox").args(["ping", "-c", "1", "-W", "3", to]));
}

#[test]
fn pods_reach_each_other_and_are_taken_away_again() {
    let (node, a, b) = (Node::new(), Namespace::new("a"), Namespace::new("b"));
    let conf = node.conf();
    let made = node.done("ADD", "a", Some(&a), &conf);
    assert_eq!(made["ips"][0]["address"], "10.77.0.2/29");
    assert_eq!(made["interfaces"][2]["sandbox"], a.path().to_str().unwrap());
    node.done("ADD", "b", Some(&b), &conf);
    ping(&a, "10.77.0.3");
    ping(&b, "10.77.0.2");
    ping(&a, "10.77.0.1");
    ping(&a, "127.0.0.1");
    assert!(a.ip("link show eth0").contains("mtu 1400"));
    assert!(a.ip("route").contains("default via 10.77.0.1 dev eth0"));
    assert!(node.ns.ip("-d link show").contains("hairpin on"));
    node.done("DEL", "a", Some(&a), &conf);
    node.done("DEL", "a", None, &conf);
    assert!(!a.ip("link show").contains("eth0"));
    assert_eq!(node.leases(), 1);
    drop(b);
    node.done("DEL", "b", None, &conf);
    assert_eq!(node.leases(), 0);
}

#[test]
fn check_sees_what_is_missing_and_an_add_can_be_repeated() {
    let (node, a) = (Node::new(), Namespace::new("a"));
    let mut conf = node.conf();
    let made = node.done("ADD", "a", Some(&a), &conf);
    assert_eq!(node.done("ADD", "a", Some(&a), &conf)["ips"], made["ips"]);
    assert_eq!(node.refused("CHECK", "a", Some(&a), &conf), 7);
    conf["prevResult"] = made;
    node.done("CHECK", "a", Some(&a), &conf);
    a.ip("route del default");
    assert_eq!(node.refused("CHECK", "a", Some(&a), &conf), 100);
    a.ip("link del eth0");
    assert_eq!(node.refused("CHECK", "a", Some(&a), &conf), 100);
}

#[test]
fn an_exhausted_range_says_so_and_collecting_frees_it() {
    let node = Node::new();
    let pods: Vec<Namespace> = (0..6).map(|_| Namespace::new("p")).collect();
    let mut conf = node.conf();
    for (i, pod) in pods[..5].iter().enumerate() {
        node.done("ADD", &format!("c{i}"), Some(pod), &conf);
    }
    assert_eq!(node.refused("ADD", "c5", Some(&pods[5]), &conf), 11);
    conf["cniVersion"] = "1.1.0".into();
    assert_eq!(node.refused("STATUS", "", None, &conf), 50);
    conf["cni.dev/valid-attachments"] = json!([{"containerID": "c1", "ifname": "eth0"}]);
    node.done("GC", "", None, &conf);
    assert_eq!(node.leases(), 1);
    node.done("STATUS", "", None, &conf);
    node.done("ADD", "c5", Some(&pods[5]), &conf);
    ping(&pods[5], "10.77.0.3");
}

#[test]
fn host_ports_lead_to_the_pod_and_go_with_it() {
    let (node, a, out) = (Node::new(), Namespace::new("a"), Namespace::new("out"));
    node.ns.ip(&format!("link add up0 type veth peer name eth0 netns {}", out.name));
    node.ns.ip("addr add 192.0.2.1/24 dev up0");
    node.ns.ip("link set up0 up");
    out.ip("addr add 192.0.2.9/24 dev eth0");
    out.ip("link set eth0 up");
    let mut conf = node.conf();
    conf["runtimeConfig"] = json!({"portMappings": [{"hostPort": 8081, "containerPort": 80, "protocol": "TCP"}]});
    node.done("ADD", "a", Some(&a), &conf);
    a.serve_tcp(80, "a");
    assert_eq!(out.ask("192.0.2.1:8081").unwrap(), "a 192.0.2.9");
    assert!(node.ns.ask("127.0.0.1:8081").unwrap().starts_with("a "));
    assert!(node.ns.ask("192.0.2.1:8081").unwrap().starts_with("a "));
    assert!(a.ask("192.0.2.1:8081").unwrap().starts_with("a "));
    // The runtime's DEL comes without the mappings as often as with them.
    node.done("DEL", "a", Some(&a), &node.conf());
    let rules = text(&must(node.ns.command("iptables-save").args(["-t", "nat"])));
    assert!(rules.contains(":SKIFF-HOSTPORTS ") && !rules.contains("8081"), "{rules}");
}

#[test]
#[expect(clippy::disallowed_methods, reason = "nothing is waited for: the moment of the kill is varied")]
fn a_killed_plugin_loses_no_lease() {
    let (node, a, b) = (Node::new(), Namespace::new("a"), Namespace::new("b"));
    let conf = node.conf();
    for round in 0..8 {
        let mut plugin = node.ns.command(env!("CARGO_BIN_EXE_skiff-cni"));
        plugin.env("CNI_COMMAND", "ADD").env("CNI_CONTAINERID", "a").env("CNI_IFNAME", "eth0").env("CNI_NETNS", a.path());
        plugin.stdin(std::process::Stdio::piped()).stdout(std::process::Stdio::null());
        let mut child = plugin.spawn().unwrap();
        std::io::Write::write_all(&mut child.stdin.take().unwrap(), conf.to_string().as_bytes()).unwrap();
        std::thread::sleep(std::time::Duration::from_millis(round * 2));
        let _ = child.kill();
        let _ = child.wait();
    }
    let first = node.done("ADD", "a", Some(&a), &conf);
    let second = node.done("ADD", "b", Some(&b), &conf);
    assert_ne!(first["ips"][0]["address"], second["ips"][0]["address"]);
    ping(&b, first["ips"][0]["address"].as_str().unwrap().trim_end_matches("/29"));
    assert_eq!(node.leases(), 2);
}

/// The small program asks the agent over a socket; a caller that is gone when its ADD is done leaves nothing.
#[test]
fn the_agent_answers_and_undoes_what_nobody_hears_of() {
    let (node, a, b) = (Node::new(), Namespace::new("a"), Namespace::new("b"));
    let conf = node.conf().to_string();
    let call = |command: &str, id: &str, ns: &Namespace| {
        format!("CNI_COMMAND={command}\0CNI_CONTAINERID={id}\0CNI_IFNAME=eth0\0CNI_NETNS={}\0\0{conf}", ns.path().display())
    };
    let socket = node.dir.path().join("agent.sock");
    let group = api::task::Group::new();
    let ask = async |text: String| {
        let mut agent = UnixStream::connect(&socket).await.unwrap();
        agent.write_all(text.as_bytes()).await.unwrap();
        agent.shutdown().await.unwrap();
        agent
    };
    let hear = async |text: String| {
        let mut answer = Vec::new();
        ask(text).await.read_to_end(&mut answer).await.unwrap();
        (answer[0], serde_json::from_slice(&answer[1..]).unwrap_or(Value::Null))
    };
    node.ns.run(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            proxy::cni::serve(&socket, &group).unwrap();
            let (code, made) = hear(call("ADD", "a", &a)).await;
            assert_eq!((code, &made["ips"][0]["address"]), (0, &json!("10.77.0.2/29")));
            let (code, fault) = hear(call("ADD", "b", &a).replace("eth0", "a/b")).await;
            assert_eq!((code, &fault["code"]), (1, &json!(4)));
            drop(ask(call("ADD", "b", &b)).await);
            // Calls are taken in their order, and the group ends when all have ended.
            assert_eq!(hear(call("VERSION", "", &b)).await.0, 0);
            assert!(group.drain(std::time::Duration::from_secs(30)).await);
        });
    });
    ping(&a, "10.77.0.1");
    assert_eq!(node.leases(), 1);
    assert!(!b.ip("link show").contains("eth0"));
    node.done("DEL", "a", Some(&a), &node.conf());
}

#[test]
fn versions_and_loopback() {
    let (node, a) = (Node::new(), Namespace::new("a"));
    a.ip("link set lo down");
    let versions = node.done("VERSION", "", None, &json!({"cniVersion": "1.0.0"}));
    assert!(versions["supportedVersions"].as_array().unwrap().contains(&"0.4.0".into()));
    let loopback = json!({"cniVersion": "0.3.1", "name": "cni-loopback", "type": "loopback"});
    let made = node.done("ADD", "a", Some(&a), &loopback);
    assert_eq!(made["ips"][0]["version"], "4");
    ping(&a, "127.0.0.1");
    node.done("DEL", "a", Some(&a), &loopback);
    assert_eq!(node.refused("ADD", "a", Some(&a), &json!({"cniVersion": "7.0.0", "name": "x", "type": "skiff-cni"})), 1);
}
