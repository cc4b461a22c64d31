//! A cluster of three -> machines that lose power, their disk, their network, their server; and what becomes of the pods.

use std::time::{Duration, Instant, SystemTime};

use e2e::{eventually, nodes::World};

use crate::{
    cluster::{BOUND, Cluster},
    traffic::Told,
};

/// Until a change of endpoints has become rules on every node.
const RULES_BOUND_MS: u128 = 2000;
const DNS: &str = "10.96.0.10";

/// Pods leave a node that is gone within seconds, not the five minutes that are usual.
const WEB: &str = r#"---
{apiVersion: apps/v1, kind: Deployment, metadata: {name: web}, spec: {replicas: 3, selector: {matchLabels: {app: web}}, template: {metadata: {labels: {app: web}}, spec: {
  terminationGracePeriodSeconds: 1,
  tolerations: [{key: node.kubernetes.io/unreachable, operator: Exists, effect: NoExecute, tolerationSeconds: 5}, {key: node.kubernetes.io/not-ready, operator: Exists, effect: NoExecute, tolerationSeconds: 5}],
  topologySpreadConstraints: [{maxSkew: 1, topologyKey: kubernetes.io/hostname, whenUnsatisfiable: ScheduleAnyway, labelSelector: {matchLabels: {app: web}}}],
  containers: [{name: web, image: "hello:v1", ports: [{containerPort: 8080}], readinessProbe: {httpGet: {path: /healthz, port: 8080}, periodSeconds: 1}}]}}}}
---
{apiVersion: v1, kind: Service, metadata: {name: web}, spec: {selector: {app: web}, ports: [{port: 80, targetPort: 8080}]}}
---
{apiVersion: v1, kind: Pod, metadata: {name: every-server, labels: {app: every}}, spec: {nodeName: server, tolerations: [{operator: Exists}],
  terminationGracePeriodSeconds: 1, containers: [{name: c, image: "busybox:1.35", command: [sleep, "100000"]}]}}
---
{apiVersion: v1, kind: Pod, metadata: {name: every-agent1, labels: {app: every}}, spec: {nodeName: agent1, tolerations: [{operator: Exists}],
  terminationGracePeriodSeconds: 1, containers: [{name: c, image: "busybox:1.35", command: [sleep, "100000"]}]}}
---
{apiVersion: v1, kind: Pod, metadata: {name: every-agent2, labels: {app: every, only: agent2}}, spec: {nodeName: agent2, tolerations: [{operator: Exists}],
  terminationGracePeriodSeconds: 1, containers: [{name: c, image: "hello:v1", ports: [{containerPort: 8080}]}]}}
---
{apiVersion: v1, kind: Service, metadata: {name: far}, spec: {selector: {only: agent2}, ports: [{port: 80, targetPort: 8080}]}}
"#;

#[tokio::test]
async fn nodes_go_and_come_back() {
    let world = World::new();
    let cluster = Cluster::new(&world);
    let told = Told(&cluster);
    let server = &cluster.server;
    std::fs::write(world.scratch().join("web.yaml"), WEB).unwrap();
    server.kubectl(&format!("create -f {}", world.scratch().join("web.yaml").display()));
    server.kubectl("rollout status deployment/web --timeout=120s");
    server.kubectl("wait --for=condition=Ready pod -l app=every --timeout=120s");
    let nodes = cluster.pods("app=web");
    assert!(nodes.iter().any(|[_, node, _]| node == "agent1"), "{nodes:?}");

    cut_for_a_minute(&cluster).await;
    server_gone_and_a_node_rebooted(&cluster).await;
    killed_and_reinstalled(&world, &cluster).await;
    told.end();
    world.end();
}

/// Nothing is restarted.
async fn cut_for_a_minute(cluster: &Cluster<'_>) {
    let [_, agent] = &cluster.agents;
    let before = restarts(cluster);
    let since = Instant::now();
    agent.cut("private");
    cluster.until("get node agent2", " NotReady ").await;
    eventually("a minute has passed", Duration::from_secs(70), async || since.elapsed() >= Duration::from_secs(60)).await;
    agent.heal("private");
    cluster.until("get node agent2 --no-headers", " Ready ").await;
    cluster.server.kubectl("wait --for=condition=Ready pod -l app=every --timeout=60s");
    let after = restarts(cluster);
    // The deployment's may have been replaced; what belongs to the node is the same as before.
    let every = |list: &[String]| list.iter().filter(|line| line.starts_with("every")).cloned().collect::<Vec<_>>();
    assert_eq!(every(&before), every(&after));
    assert!(after.iter().all(|line| line.ends_with(" 0")), "{after:?}");
}

/// The node has its pods before there is a server again.
async fn server_gone_and_a_node_rebooted(cluster: &Cluster<'_>) {
    let [agent, _] = &cluster.agents;
    cluster.server.cut("private");
    agent.off();
    agent.boot();
    agent.start();
    eventually("the pods of a node that was rebooted run without a server", BOUND, async || {
        let said = agent.try_sh("pgrep -f 'sleep 100000'");
        if said.ok { Ok(()) } else { Err(agent.log()) }
    })
    .await;
    // Pods that were started again have new addresses, which nobody is there to tell; another node's are as they were.
    let ip = format!("busybox nslookup -type=a far.default.svc.cluster.local {DNS} | awk '/^Address/ {{ ip = $2 }} END {{ print ip }}'");
    eventually("Services and names are there, too", BOUND, async || {
        let said = agent.try_sh(&format!("ip=$({ip}); echo $ip; curl -sSf -m 3 http://$ip/"));
        if said.ok { Ok(()) } else { Err(format!("{said:?}")) }
    })
    .await;
    cluster.server.heal("private");
    cluster.until("get node agent1 --no-headers", " Ready ").await;
    cluster.server.kubectl("wait --for=condition=Ready pod -l app=every --timeout=90s");
}

/// Its pods come back elsewhere, the Service goes on; it rejoins under its name, also with an empty disk.
async fn killed_and_reinstalled(world: &World, cluster: &Cluster<'_>) {
    let ([agent, other], server) = (&cluster.agents, &cluster.server);
    let service = server.kubectl("get service web -o jsonpath='{.spec.clusterIP}'");
    let line = format!("curl -sf -m 3 http://{service}/");
    let client = other.background(&format!(
        "while :; do at=$(date +%s%3N); if curl -sf -m 2 -o /dev/null http://{service}/; then echo $at answered; else echo $at lost; fi; sleep 0.1; done"
    ));
    agent.off();
    cluster.until("get node agent1", " NotReady ").await;
    eventually("its pods are taken out of the Service", BOUND, async || {
        let each = "{range .items[*].endpoints[*]}{.nodeName}={.conditions.ready} {end}";
        let said = server.kubectl(&format!("get endpointslices -l kubernetes.io/service-name=web -o jsonpath='{each}'"));
        if said.contains("agent1=true") { Err(said) } else { Ok(()) }
    })
    .await;
    let taken_out = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_millis();
    eventually("the Service answers ten times in a row without agent1", BOUND, async || {
        (0..10).all(|_| other.try_sh(&line).ok && server.try_sh(&line).ok)
    })
    .await;
    eventually("three pods are Ready elsewhere", BOUND, async || {
        let said = server.kubectl("get pods -l app=web --field-selector=status.phase=Running,spec.nodeName!=agent1 --no-headers");
        if said.lines().filter(|line| line.contains(" 1/1 ")).count() == 3 { Ok(()) } else { Err(said) }
    })
    .await;
    only_what_went_to_it_is_lost(&client.said(), taken_out);
    drop(client);
    agent.boot();
    agent.start();
    cluster.until("get node agent1 --no-headers", " Ready ").await;
    agent.off();
    agent.empty_disk();
    agent.boot();
    // Its name is its own while it is heard of: who has lost the key waits until it is not.
    cluster.until("get node agent1", " NotReady ").await;
    cluster.join(world, agent);
    cluster.until("get node agent1 --no-headers", " Ready ").await;
    server.kubectl("wait --for=condition=Ready pod -l app=every --timeout=90s");
}

/// Until the others know that the node is gone, what they send there is lost, and nothing else: a third. After that nothing is.
fn only_what_went_to_it_is_lost(said: &str, taken_out: u128) {
    let lines: Vec<(u128, bool)> = said
        .lines()
        .filter_map(|line| line.split_once(' '))
        .map(|(at, how)| (at.parse().expect("milliseconds"), how == "answered"))
        .collect();
    let late: Vec<_> = lines.iter().filter(|(at, answered)| *at > taken_out + RULES_BOUND_MS && !answered).collect();
    assert!(late.is_empty(), "lost after {taken_out}: {late:?}");
    let answered = lines.iter().filter(|(_, answered)| *answered).count();
    let lost = lines.len() - answered;
    eprintln!("{answered} requests were answered and {lost} lost while a node was gone");
    assert!(answered > 20 && lost < answered, "{answered} answered, {lost} lost");
}

/// `pod restarts`, a line each, sorted.
fn restarts(cluster: &Cluster<'_>) -> Vec<String> {
    let columns = "custom-columns=:.metadata.name,:.status.containerStatuses[0].restartCount";
    let said = cluster.server.kubectl(&format!("get pods --no-headers -o {columns}"));
    let mut lines: Vec<String> = said.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
    lines.sort();
    lines
}
