//! A cluster of three -> pods on each, and every way that leads to them.

use std::time::Duration;

use e2e::{eventually, nodes::World};

use crate::cluster::{BOUND, Cluster};

const WEB: &str = r#"---
{apiVersion: apps/v1, kind: Deployment, metadata: {name: web}, spec: {replicas: 3, selector: {matchLabels: {app: web}}, template: {metadata: {labels: {app: web}}, spec: {
  terminationGracePeriodSeconds: 1,
  topologySpreadConstraints: [{maxSkew: 1, topologyKey: kubernetes.io/hostname, whenUnsatisfiable: DoNotSchedule, labelSelector: {matchLabels: {app: web}}}],
  containers: [{name: web, image: "hello:v1", ports: [{containerPort: 8080}], readinessProbe: {httpGet: {path: /healthz, port: 8080}, periodSeconds: 1}}]}}}}
---
{apiVersion: v1, kind: Service, metadata: {name: web}, spec: {type: NodePort, selector: {app: web}, ports: [{port: 80, targetPort: 8080, nodePort: 30080}]}}
---
{apiVersion: v1, kind: Service, metadata: {name: local}, spec: {type: NodePort, externalTrafficPolicy: Local, selector: {only: agent1}, ports: [{port: 80, targetPort: 8080, nodePort: 30081}]}}
---
{apiVersion: v1, kind: Pod, metadata: {name: one, labels: {only: agent1}}, spec: {nodeName: agent1, terminationGracePeriodSeconds: 1,
  containers: [{name: web, image: "hello:v1", ports: [{containerPort: 8080}]}]}}
"#;

#[tokio::test]
async fn three_machines_are_one_cluster() {
    let world = World::new();
    let cluster = Cluster::new(&world);
    let told = Told(&cluster);
    let server = &cluster.server;

    // Each under the address that the others reach it at, not the one that all have.
    for (name, ip) in [("server", 10), ("agent1", 11), ("agent2", 12)] {
        cluster.until(&format!("get node {name} -o wide"), " Ready ").await;
        let seen = server.kubectl(&format!("get node {name} -o jsonpath='{{.status.addresses[?(@.type==\"InternalIP\")].address}}'"));
        assert_eq!(seen, format!("192.168.56.{ip}"), "{name}");
    }
    std::fs::write(world.scratch().join("web.yaml"), WEB).unwrap();
    server.kubectl(&format!("create -f {}", world.scratch().join("web.yaml").display()));
    server.kubectl("rollout status deployment/web --timeout=120s");
    server.kubectl("wait --for=condition=Ready pod/one --timeout=90s");
    let pods = cluster.pods("app=web");
    let mut nodes: Vec<&str> = pods.iter().map(|[_, node, _]| node.as_str()).collect();
    nodes.sort_unstable();
    assert_eq!(nodes, ["agent1", "agent2", "server"]);
    let service = server.kubectl("get service web -o jsonpath='{.spec.clusterIP}'");

    let answers = async |what: &str, machine: &e2e::nodes::Machine<'_>, line: String| {
        eventually(&format!("{what}, from {}: {line}", machine.name()), Duration::from_secs(20), async || {
            let said = machine.try_sh(&line);
            if said.ok && said.out.contains("v1") { Ok(()) } else { Err(format!("{}{}", said.out, said.err)) }
        })
        .await;
    };
    let get = |url: &str| format!("curl -sf -m 3 {url}");
    for machine in cluster.all() {
        for [_, _, ip] in &pods {
            answers("node to pod", machine, get(&format!("http://{ip}:8080/"))).await;
        }
        answers("node to Service", machine, get(&format!("http://{service}/"))).await;
        for last in [10, 11, 12] {
            answers("NodePort", machine, get(&format!("http://192.168.56.{last}:30080/"))).await;
        }
        answers("NodePort of a Service that is local to agent1", machine, get("http://192.168.56.11:30081/")).await;
    }
    // Local: where no endpoint is, nobody answers.
    assert!(!cluster.agents[1].try_sh(&get("http://192.168.56.10:30081/")).ok);
    for [from, node, _] in &pods {
        let exec = |line: &str| {
            let said = server.try_kubectl(&format!("exec {from} -- {line}"));
            if said.ok && said.out.contains("v1") { Ok(()) } else { Err(format!("{}{}", said.out, said.err)) }
        };
        for [_, _, ip] in &pods {
            eventually(&format!("pod on {node} to {ip}"), Duration::from_secs(20), async || {
                exec(&format!("wget -q -O - http://{ip}:8080/"))
            })
            .await;
        }
        let by_name = "wget -q -O - http://web.default.svc.cluster.local/";
        eventually(&format!("pod on {node} to the Service by its name"), Duration::from_secs(20), async || exec(by_name)).await;
        assert!(server.try_kubectl(&format!("logs {from}")).ok, "logs from {node}");
        let forwarded = server.background(&format!(
            "{} --kubeconfig /etc/skiff/kubeconfig port-forward pod/{from} 18080:8080",
            e2e::tools().join("kubectl-1.32").display()
        ));
        eventually(&format!("port-forward to {node}"), BOUND, async || {
            let said = server.try_sh(&get("http://127.0.0.1:18080/"));
            if said.ok { Ok(()) } else { Err(format!("{}{}", said.err, forwarded.said())) }
        })
        .await;
    }
    addresses_are_kept(&cluster, &pods).await;
    told.end();
    world.end();
}

/// A pod reaches itself through its Service; and whoever asks from another node is seen under its own address.
async fn addresses_are_kept(cluster: &Cluster<'_>, pods: &[[String; 3]]) {
    let server = &cluster.server;
    let service = server.kubectl("get service local -o jsonpath='{.spec.clusterIP}'");
    let exec = async |pod: &str, url: String| {
        eventually(&format!("{pod} reaches {url}"), Duration::from_secs(20), async || {
            let said = server.try_kubectl(&format!("exec {pod} -- timeout 3 wget -q -O - {url}"));
            if said.ok { Ok(()) } else { Err(said.err) }
        })
        .await;
    };
    exec("one", format!("http://{service}/healthz")).await;
    let [from, _, source] = pods.iter().find(|[_, node, _]| node == "agent2").expect("one is there");
    let seen = async |what: &str, source: &str| {
        eventually(&format!("{what} is seen as {source}"), Duration::from_secs(20), async || {
            // Whatever else asks that pod, it is not from there.
            let said = server.try_kubectl("logs one");
            if said.out.contains(&format!("{source}]")) { Ok(()) } else { Err(said.out) }
        })
        .await;
    };
    exec(from, format!("http://{service}/healthz")).await;
    seen("a pod of another node, through a Service", source).await;
    cluster.agents[1].sh("curl -sf -m 3 http://192.168.56.11:30081/healthz");
    seen("a machine, through a NodePort that is local", "192.168.56.12").await;
}

/// Tells of the cluster where a test fails.
pub struct Told<'a, 'w>(pub &'a Cluster<'w>);

impl Told<'_, '_> {
    pub fn end(self) {}
}

impl Drop for Told<'_, '_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.tell();
        }
    }
}
