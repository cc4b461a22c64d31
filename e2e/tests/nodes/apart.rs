//! Nodes that share no L2, and one that nobody reaches -> one cluster all the same: VXLAN between the two, a tunnel to the third.

use std::time::Duration;

use e2e::{
    eventually,
    nodes::{Machine, World},
};

use crate::cluster::{BOUND, ROOM, TOKEN};

const SERVER: &str = "https://10.8.0.10:6443";
const PODS: &str = r#"---
{apiVersion: v1, kind: Pod, metadata: {name: near, labels: {app: web}}, spec: {nodeName: server, terminationGracePeriodSeconds: 1,
  containers: [{name: web, image: "hello:v1", ports: [{containerPort: 8080}]}]}}
---
{apiVersion: v1, kind: Pod, metadata: {name: far, labels: {app: web}}, spec: {nodeName: distant, terminationGracePeriodSeconds: 1,
  containers: [{name: web, image: "hello:v1", ports: [{containerPort: 8080}]}]}}
---
{apiVersion: v1, kind: Pod, metadata: {name: hidden}, spec: {nodeName: hidden, terminationGracePeriodSeconds: 1,
  containers: [{name: web, image: "hello:v1", ports: [{containerPort: 8080}]}]}}
---
{apiVersion: v1, kind: Service, metadata: {name: web}, spec: {selector: {app: web}, ports: [{port: 80, targetPort: 8080}]}}
"#;

#[tokio::test]
async fn nodes_of_two_networks_and_one_behind_nat_are_one_cluster() {
    let world = World::new();
    world.switch("near", None);
    world.switch("far", None);
    world.switch("home", None);
    world.router("gate", &["near=10.8.0.254/24", "far=10.9.0.254/24"]);
    world.router("nat", &["home=192.168.1.1/24", "near=10.8.0.253/24", "nat=near"]);
    let server = world.machine("server", &["near=10.8.0.10/24", "via=10.8.0.254"]);
    let far = world.machine("distant", &["far=10.9.0.10/24", "via=10.9.0.254"]);
    let hidden = world.machine("hidden", &["home=192.168.1.10/24", "via=192.168.1.1"]);
    provision(&world, &server, &["server", "--network", "10.8.0.0/24"]);
    provision(&world, &far, &["agent", "--server", SERVER, "--network", "10.9.0.0/24"]);
    provision(&world, &hidden, &["agent", "--server", SERVER, "--network", "192.168.1.0/24"]);
    assert!(!server.try_sh("busybox ping -c 1 -W 1 192.168.1.10").ok, "nobody reaches the hidden one");

    std::fs::write(world.scratch().join("pods.yaml"), PODS).unwrap();
    server.kubectl(&format!("create -f {}", world.scratch().join("pods.yaml").display()));
    server.kubectl("wait --for=condition=Ready pod/near pod/far pod/hidden --timeout=120s");
    let ip = |pod: &str| server.kubectl(&format!("get pod {pod} -o jsonpath='{{.status.podIP}}'"));
    let service = server.kubectl("get service web -o jsonpath='{.spec.clusterIP}'");
    let answers = async |machine: &Machine<'_>, url: String| {
        eventually(&format!("{} reaches {url}", machine.name()), Duration::from_secs(30), async || {
            let said = machine.try_sh(&format!("curl -sf -m 3 {url}"));
            if said.ok && said.out.contains("v1") { Ok(()) } else { Err(format!("{}{}", said.out, said.err)) }
        })
        .await;
    };
    for machine in [&server, &far] {
        for pod in ["near", "far"] {
            answers(machine, format!("http://{}:8080/", ip(pod))).await;
        }
        answers(machine, format!("http://{service}/")).await;
        assert!(machine.sh("ip -4 route show proto 83").contains("skiff.1"), "{}", machine.sh("ip -4 route"));
    }
    for (from, to) in [("near", "far"), ("far", "near")] {
        let line = format!("exec {from} -- wget -q -O - http://{}:8080/", ip(to));
        eventually(&line, Duration::from_secs(30), async || {
            let said = server.try_kubectl(&line);
            if said.ok && said.out.contains("v1") { Ok(()) } else { Err(format!("{}{}", said.out, said.err)) }
        })
        .await;
    }

    // Nobody can dial the hidden node: what is asked of it comes through its tunnel.
    eventually("exec into the hidden node", BOUND, async || {
        let said = server.try_kubectl("exec hidden -- echo inside");
        if said.ok && said.out.contains("inside") { Ok(()) } else { Err(format!("{}{}", said.out, said.err)) }
    })
    .await;
    assert!(server.try_kubectl("logs hidden").ok);
    let forwarded = server.background(&format!(
        "{} --kubeconfig /etc/skiff/kubeconfig port-forward pod/hidden 18080:8080",
        e2e::tools().join("kubectl-1.32").display()
    ));
    eventually("port-forward to the hidden node", BOUND, async || {
        let said = server.try_sh("curl -sf -m 3 http://127.0.0.1:18080/");
        if said.ok { Ok(()) } else { Err(format!("{}{}", said.err, forwarded.said())) }
    })
    .await;
    drop((forwarded, server, far, hidden));
    world.end();
}

fn provision(world: &World, machine: &Machine<'_>, words: &[&str]) {
    let images = world.images().display().to_string();
    let words: Vec<&str> = words.iter().copied().chain(["--token", TOKEN, "--set", ROOM, "--images", &images]).collect();
    machine.provision(&words);
}
