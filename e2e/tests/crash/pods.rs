//! Running pods, and what each of them is -> proof that nobody touched them.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    process::Command,
    time::Duration,
};

use e2e::{Api, Server, eventually, node, object, path_of};
use serde_json::{Value, json};

use crate::visitor::visit;

const PODS: &str = "/api/v1/namespaces/pods/pods";
const BOUND: Duration = Duration::from_secs(90);
/// Four times a second a number, for as long as nobody restarts it.
const COUNT: &str = "i=0; while true; do echo $i; i=$((i+1)); sleep 0.25; done";

/// By name: uid, address, and of each container its id, process, number of restarts and start.
pub type State = BTreeMap<String, String>;

/// Three that serve, one that counts; where the service answers on the node.
pub async fn start(api: &Api) -> SocketAddr {
    api.post("/api/v1/namespaces", &object("v1", "Namespace", "pods", json!({}))).await.expect(201);
    let serving = json!({"metadata": {"labels": {"app": "steady"}}, "spec": {"containers": [{"name": "c", "image": "hello:v1",
        "readinessProbe": {"httpGet": {"path": "/healthz", "port": 8080}, "periodSeconds": 1},
        "livenessProbe": {"httpGet": {"path": "/healthz", "port": 8080}, "periodSeconds": 1}}]}});
    let spec = json!({"spec": {"replicas": 3, "selector": {"matchLabels": {"app": "steady"}}, "template": serving}});
    let deployment = object("apps/v1", "Deployment", "steady", spec);
    api.post(&path_of("apps/v1", "pods", "deployments"), &deployment).await.expect(201);
    let service = json!({"spec": {"type": "NodePort", "selector": {"app": "steady"}, "ports": [{"port": 80, "targetPort": 8080}]}});
    let service = api.post(&path_of("v1", "pods", "services"), &object("v1", "Service", "steady", service)).await.expect(201);
    let counting = json!({"name": "c", "image": "busybox:1.35", "command": ["sh", "-c", COUNT]});
    let spec = json!({"spec": {"terminationGracePeriodSeconds": 1, "containers": [counting]}});
    eventually("the namespace has its account", BOUND, async || {
        let reply = api.post(PODS, &object("v1", "Pod", "count", spec.clone())).await;
        if reply.status == 201 { Ok(()) } else { Err(reply.text()) }
    })
    .await;
    ready(api, 4).await;
    let port = service["spec"]["ports"][0]["nodePort"].as_u64().and_then(|p| u16::try_from(p).ok()).expect("a NodePort service has one");
    let address = SocketAddr::new(node_address(api).await, port);
    eventually("the service answers", BOUND, async || visit(address)).await;
    address
}

async fn node_address(api: &Api) -> IpAddr {
    let node = api.get(&format!("/api/v1/nodes/{}", node::NAME)).await.expect(200);
    let addresses = node["status"]["addresses"].as_array().expect("a node has addresses");
    let internal = addresses.iter().find(|a| a["type"] == "InternalIP").expect("one of them is internal");
    internal["address"].as_str().and_then(|a| a.parse().ok()).expect("it is an address")
}

/// Waits until so many are ready, and no others are there.
pub async fn ready(api: &Api, count: usize) {
    eventually("the pods are ready", BOUND, async || {
        let list = list(api).await?;
        let ready = list.iter().filter(|pod| pod["status"]["containerStatuses"][0]["ready"] == true).count();
        let states: Vec<_> = list.iter().map(|pod| pod["status"]["containerStatuses"][0]["state"].to_string()).collect();
        if ready == count && list.len() == count { Ok(()) } else { Err(format!("{ready} of {}: {states:?}", list.len())) }
    })
    .await;
}

/// What runs now.
pub async fn state(server: &Server) -> State {
    let processes = processes(server);
    let pods = list(&server.api()).await.expect("the server is there");
    pods.iter().map(|pod| (text(&pod["metadata"]["name"]), state_of(pod, &processes))).collect()
}

fn state_of(pod: &Value, processes: &BTreeMap<String, String>) -> String {
    let status = &pod["status"]["containerStatuses"][0];
    let id = text(&status["containerID"]).replace("containerd://", "");
    let process = processes.get(&id).map_or("no process", String::as_str);
    let started = &status["state"]["running"]["startedAt"];
    format!("{} {} {id} {process} {started} {}", pod["metadata"]["uid"], pod["status"]["podIP"], status["restartCount"])
}

/// Container -> its process and state, as the runtime has it.
fn processes(server: &Server) -> BTreeMap<String, String> {
    let mut ctr = Command::new("ctr");
    ctr.arg("--address").arg(node::containerd(server)).args(["--namespace", "k8s.io", "tasks", "ls"]);
    let out = ctr.output().expect("ctr comes with containerd");
    assert!(out.status.success(), "ctr: {}", String::from_utf8_lossy(&out.stderr));
    let tasks = String::from_utf8_lossy(&out.stdout).into_owned();
    tasks.lines().skip(1).filter_map(|line| line.split_once(' ')).map(|(id, rest)| (id.into(), rest.trim().into())).collect()
}

async fn list(api: &Api) -> Result<Vec<Value>, String> {
    let reply = api.send("GET", PODS, &[], Vec::new()).await.map_err(|e| format!("{e:#}"))?;
    if reply.status != 200 {
        return Err(reply.text());
    }
    Ok(reply.json()["items"].as_array().cloned().unwrap_or_default())
}

/// The one that counts has left out nothing and said nothing twice: it was never stopped, and its log was never torn.
pub async fn counted(api: &Api) -> usize {
    let reply = api.get(&format!("{PODS}/count/log")).await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    let text = reply.text();
    let numbers: Vec<&str> = text.lines().collect();
    let wrong = numbers.iter().enumerate().find(|(i, number)| i.to_string() != **number);
    assert!(wrong.is_none(), "line {wrong:?} of {}", numbers.len());
    numbers.len()
}

/// It still cares for them: one that is deleted is replaced.
pub async fn replaced(api: &Api) {
    let pods = list(api).await.expect("the server is there");
    let name = pods.iter().map(|pod| text(&pod["metadata"]["name"])).find(|name| name.starts_with("steady-")).expect("one of three");
    api.delete(&format!("{PODS}/{name}")).await.expect(200);
    eventually("it is gone", BOUND, async || {
        let reply = api.get(&format!("{PODS}/{name}")).await;
        if reply.status == 404 { Ok(()) } else { Err(reply.text()) }
    })
    .await;
    ready(api, 4).await;
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}
