//! The built binary -> the numbers of the README: size, start, idle memory and CPU, what a write and a bound pod cost.
//!
//! `cargo run -p e2e --bin measure -- target/release/skiff [--up]`; with `--up` (root) also the idle memory of `skiff up`.

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use e2e::{Api, Options, Server, Usage, eventually, object};
use serde_json::{Value, json};
use tokio::{task::JoinSet, time::sleep};

const STREAMS: usize = 64;
const CONFIGMAPS: usize = 20_000;
const PODS: usize = 2_000;
const NODES: usize = 20;
const STARTS: usize = 5;
/// Long enough for what is done once after a start to be over.
const SETTLE: Duration = Duration::from_secs(30);
const IDLE: Duration = Duration::from_secs(30);
const BOUND: Duration = Duration::from_secs(120);

/// What was measured, and where it should be (ARCHITECTURE.md).
struct Row(&'static str, String, &'static str);

fn main() -> anyhow::Result<()> {
    let mut args = std::env::args().skip(1);
    let bin = PathBuf::from(args.next().context("usage: measure <binary> [--up]")?);
    let up = args.next().is_some_and(|a| a == "--up");
    if !bin.is_file() {
        bail!("{} is not there: cargo build --release -p skiff", bin.display());
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let rows = runtime.block_on(measure(bin.canonicalize()?, up))?;
    println!("| what | measured | goal |\n| --- | --- | --- |");
    for Row(what, value, goal) in rows {
        println!("| {what} | {value} | {goal} |");
    }
    Ok(())
}

async fn measure(bin: PathBuf, up: bool) -> anyhow::Result<Vec<Row>> {
    let options = Options { bin: Some(bin.clone()), ..Options::default() };
    #[expect(clippy::cast_precision_loss, reason = "a file's size")]
    let size = bin.metadata()?.len() as f64 / f64::from(1 << 20);
    let mut rows = vec![Row("binary", format!("{size:.1} MiB"), "40 MiB")];
    rows.extend(starts(&options).await?);
    let server = Server::start(options.clone()).await;
    rows.extend(idle("`skiff server`", &server, ["40 MiB", "under 0.15 %"]).await);
    rows.push(creates(&server).await?);
    drop(server);
    let server = Server::start(options.clone()).await;
    rows.push(bound_pods(&server).await?);
    drop(server);
    if up {
        let server = Server::up(options).await;
        rows.extend(idle("`skiff up` (containerd apart)", &server, ["60 MiB", ""]).await);
    }
    Ok(rows)
}

/// From exec until `/readyz` says ok: on an empty folder, and on one that was used.
async fn starts(options: &Options) -> anyhow::Result<[Row; 2]> {
    let (mut first, mut again) = (Vec::new(), Vec::new());
    for _ in 0..STARTS {
        let begun = Instant::now();
        let mut server = Server::spawn("server", options.clone());
        first.push(until_ready(&server, begun).await?);
        server.stop().await;
        let begun = Instant::now();
        server.respawn();
        again.push(until_ready(&server, begun).await?);
    }
    let row = |what, times: Vec<Duration>| Row(what, format!("{:.3} s", median(times).as_secs_f64()), "0.15 s");
    Ok([row("exec to `/readyz` ok, empty data directory", first), row("exec to `/readyz` ok, again", again)])
}

async fn until_ready(server: &Server, begun: Instant) -> anyhow::Result<Duration> {
    while begun.elapsed() < BOUND {
        if let Ok(api) = Api::from_kubeconfig(&server.kubeconfig())
            && let Ok(reply) = api.send("GET", "/readyz", &[], Vec::new()).await
            && reply.status == 200
        {
            return Ok(begun.elapsed());
        }
        sleep(Duration::from_millis(1)).await;
    }
    bail!("not ready within {} s", BOUND.as_secs())
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times.get(times.len() / 2).copied().unwrap_or_default()
}

async fn idle(who: &'static str, server: &Server, goals: [&'static str; 2]) -> Vec<Row> {
    sleep(SETTLE).await;
    let before = server.usage();
    sleep(IDLE).await;
    let after = server.usage();
    let percent = (after.cpu_ms - before.cpu_ms) / 10.0 / IDLE.as_secs_f64();
    let memory = format!("{} MiB RSS, {} MiB PSS", after.rss_kib / 1024, after.pss_kib / 1024);
    let named = |what: &str| -> &'static str { format!("{who}: {what}").leak() };
    vec![Row(named("idle memory"), memory, goals[0]), Row(named("idle CPU"), format!("{percent:.2} % of a core"), goals[1])]
}

async fn creates(server: &Server) -> anyhow::Result<Row> {
    let path = "/api/v1/namespaces/default/configmaps";
    let text = "x".repeat(1024);
    let body = move |n: usize| object("v1", "ConfigMap", &format!("c{n}"), json!({"data": {"k": text}}));
    // Connections and code paths are warm before it counts.
    post_all(server, path, 0..1000, body.clone()).await?;
    let (before, begun) = (server.usage(), Instant::now());
    post_all(server, path, 1000..1000 + CONFIGMAPS, body).await?;
    Ok(Row("create a 1 KiB ConfigMap, durable", cost(before, server.usage(), begun, CONFIGMAPS), "0.1 CPU-ms"))
}

async fn bound_pods(server: &Server) -> anyhow::Result<Row> {
    let api = server.api();
    for n in 0..NODES {
        add_node(&api, &format!("hollow-{n}")).await;
    }
    let account = "/api/v1/namespaces/default/serviceaccounts/default";
    eventually("pods can be made", BOUND, async || api.get(account).await.status == 200).await;
    let spec =
        json!({"containers": [{"name": "c", "image": "example.test/c:1", "resources": {"requests": {"cpu": "1m", "memory": "1Mi"}}}]});
    let body = move |n: usize| object("v1", "Pod", &format!("p{n}"), json!({"spec": spec}));
    let path = "/api/v1/namespaces/default/pods";
    let (before, begun) = (server.usage(), Instant::now());
    post_all(server, path, 0..PODS, body).await?;
    let unbound = format!("{path}?fieldSelector=spec.nodeName%3D&limit=1");
    let none_left = async || api.get(&unbound).await.expect(200)["items"] == json!([]);
    eventually("all pods are bound", BOUND, none_left).await;
    Ok(Row("create and bind one pod, 20 nodes", cost(before, server.usage(), begun, PODS), "0.5 CPU-ms"))
}

async fn add_node(api: &Api, name: &str) {
    api.post("/api/v1/nodes", &object("v1", "Node", name, json!({}))).await.expect(201);
    let now = api::time::rfc3339(api::time::Timestamp::now());
    let room = json!({"cpu": "64", "memory": "256Gi", "pods": "1000"});
    let ready = json!({"type": "Ready", "status": "True", "reason": "KubeletReady", "lastHeartbeatTime": now, "lastTransitionTime": now});
    let status = json!({"status": {"capacity": room, "allocatable": room, "conditions": [ready]}});
    api.patch(&format!("/api/v1/nodes/{name}/status"), e2e::Patch::Merge, &status).await.expect(200);
}

/// POSTs one object per number, over [`STREAMS`] connections.
async fn post_all(
    server: &Server,
    path: &'static str,
    numbers: std::ops::Range<usize>,
    body: impl Fn(usize) -> Value + Clone + Send + 'static,
) -> anyhow::Result<()> {
    let mut streams = JoinSet::new();
    for stream in 0..STREAMS {
        let (api, body, mine) = (server.api(), body.clone(), numbers.clone().skip(stream).step_by(STREAMS));
        streams.spawn(async move {
            for n in mine {
                let sent = api.send("POST", path, &[("content-type", "application/json")], body(n).to_string().into_bytes()).await?;
                if sent.status != 201 {
                    bail!("{} {}", sent.status, sent.text());
                }
            }
            Ok(())
        });
    }
    while let Some(stream) = streams.join_next().await {
        stream??;
    }
    Ok(())
}

#[expect(clippy::cast_precision_loss, reason = "counts of thousands")]
fn cost(before: Usage, after: Usage, begun: Instant, count: usize) -> String {
    let count = count as f64;
    format!("{:.3} CPU-ms, {:.0}/s at {STREAMS} streams", (after.cpu_ms - before.cpu_ms) / count, count / begun.elapsed().as_secs_f64())
}
