//! Pods on a real node: created -> Running, as a watch sees it.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use anyhow::{Context, bail, ensure};
use serde_json::{Value, json};

use super::{
    Ctx, Found,
    parts::{self, Moments, Parts},
    up,
};
use crate::{
    load::Pool,
    report::{less, more},
    subject::Subject,
    usage::{Meter, cpu_ms_below},
    watch::{Watcher, text_after},
};

const BOUND: Duration = Duration::from_secs(180);

pub async fn start(ctx: &Ctx<'_>) -> Found {
    let node = up::node(ctx).await?;
    let subject = &node.subject;
    let mut pool = subject.pool(1).await?;
    let name = real_node(&mut pool).await?;
    let namespace = subject.namespace(&mut pool, "pods").await?;
    let (single, burst) = (ctx.scale.of(3, 30), ctx.scale.of(6, 50));
    // The first pays what is paid once.
    one_by_one(ctx, subject, &mut pool, &namespace, 2, "warm").await?;
    let meter = Meter::start(&subject.pids);
    let mut times = one_by_one(ctx, subject, &mut pool, &namespace, single, "one").await?;
    let spent = meter.stop();
    times.sort_by(f64::total_cmp);
    let at = |part: f64| times[((times.len() as f64 * part) as usize).min(times.len() - 1)];
    let mut figures = vec![
        less("one by one, p50", "ms", at(0.5)).goal(230.0),
        less("one by one, p90", "ms", at(0.9)),
        less("one by one, each pod", "CPU-ms", spent.cpu_ms_each(single)),
    ];
    figures.extend(stages(ctx, subject, &mut pool, &namespace, &name).await?);
    for count in [ctx.scale.of(4, 30), burst] {
        let all = all_at_once(ctx, subject, &mut pool, &namespace, count).await?;
        let rate = more(format!("{count} at once"), "pods/s", count as f64 / all.seconds);
        figures.push(if count == 30 { rate.goal(14.0) } else { rate });
        figures.push(less(format!("{count} at once, p50"), "ms", all.p50_ms));
        figures.push(less(format!("{count} at once, each, skiff"), "CPU-ms", all.own_cpu_ms / count as f64));
        if let Some(cpu_ms) = all.runtime_cpu_ms {
            figures.push(less(format!("{count} at once, each, containerd and what it starts"), "CPU-ms", cpu_ms / count as f64));
        }
    }
    Ok(figures)
}

/// The name of a node that has containers.
async fn real_node(pool: &mut Pool) -> anyhow::Result<String> {
    let nodes = pool.must("GET", "/api/v1/nodes", &Value::Null).await?;
    let all = nodes["items"].as_array().map(Vec::as_slice).unwrap_or_default();
    let runtime = |n: &Value| n["status"]["nodeInfo"]["containerRuntimeVersion"].as_str().is_some_and(|v| v.starts_with("containerd://"));
    match all.iter().find(|n| runtime(n)) {
        Some(node) => Ok(node["metadata"]["name"].as_str().unwrap_or_default().to_owned()),
        None => bail!(super::Skip("no node with containerd".into())),
    }
}

/// Some more, one by one, with a look at the agent's metrics before and after each.
async fn stages(ctx: &Ctx<'_>, subject: &Subject, pool: &mut Pool, namespace: &str, node: &str) -> Found {
    let path = format!("/api/v1/namespaces/{namespace}/pods");
    let mut watcher = watch(subject, pool, &path).await?;
    let mut all = Parts::default();
    for n in 0..ctx.scale.of(3, 15) {
        let name = format!("stages{n}");
        let before = parts::read(pool, node).await?;
        let begun = Instant::now();
        pool.must("POST", &path, &pod(&name, &ctx.args.image)).await?;
        let mut moments = Moments::answered(begun);
        let is_running = |line: &[u8]| Ok(running(line)?.as_deref() == Some(&name));
        let whole = bounded(&format!("{name} runs"), parts::until_running(&mut watcher, &mut moments, is_running)).await?;
        all.add(&moments, whole, &before, &parts::read(pool, node).await?)?;
        remove(pool, &mut watcher, &path, &name).await?;
    }
    all.figures()
}

/// Milliseconds of each.
async fn one_by_one(
    ctx: &Ctx<'_>,
    subject: &Subject,
    pool: &mut Pool,
    namespace: &str,
    count: usize,
    prefix: &str,
) -> anyhow::Result<Vec<f64>> {
    let path = format!("/api/v1/namespaces/{namespace}/pods");
    let mut watcher = watch(subject, pool, &path).await?;
    let mut times = Vec::new();
    for n in 0..count {
        let name = format!("{prefix}{n}");
        let begun = Instant::now();
        pool.must("POST", &path, &pod(&name, &ctx.args.image)).await?;
        let running = |line: &[u8]| Ok(running(line)?.as_deref() == Some(&name));
        bounded(&format!("{name} runs"), watcher.until_one(running)).await?;
        times.push(begun.elapsed().as_secs_f64() * 1000.0);
        remove(pool, &mut watcher, &path, &name).await?;
    }
    Ok(times)
}

async fn remove(pool: &mut Pool, watcher: &mut Watcher, path: &str, name: &str) -> anyhow::Result<()> {
    pool.must("DELETE", &format!("{path}/{name}"), &Value::Null).await?;
    let gone = |line: &[u8]| Ok(line.starts_with(b"{\"type\":\"DELETED\""));
    bounded(&format!("{name} is gone"), watcher.until_one(gone)).await
}

/// A burst, from the first creation until the last pod runs.
struct Burst {
    seconds: f64,
    p50_ms: f64,
    own_cpu_ms: f64,
    runtime_cpu_ms: Option<f64>,
}

async fn all_at_once(ctx: &Ctx<'_>, subject: &Subject, pool: &mut Pool, namespace: &str, count: usize) -> anyhow::Result<Burst> {
    let path = format!("/api/v1/namespaces/{namespace}/pods");
    let mut watcher = watch(subject, pool, &path).await?;
    let image = ctx.args.image.clone();
    let folder = subject.folder();
    let runtime = || folder.as_deref().map(|folder| cpu_ms_below(folder, &subject.pids));
    let (meter, runtime_before) = (Meter::start(&subject.pids), runtime());
    let begun = Instant::now();
    let mut makers = subject.pool(8).await?;
    makers.create(&path, count, move |n| pod(&format!("burst{n}"), &image).to_string()).await?;
    let mut times: HashMap<String, f64> = HashMap::new();
    let all = |line: &[u8]| {
        if let Some(name) = running(line)? {
            times.entry(name).or_insert_with(|| begun.elapsed().as_secs_f64());
        }
        Ok(times.len() == count)
    };
    bounded("all run", watcher.until_one(all)).await?;
    let seconds = begun.elapsed().as_secs_f64();
    let (own_cpu_ms, runtime_cpu_ms) = (meter.stop().cpu_ms, runtime().zip(runtime_before).map(|(after, before)| after - before));
    let mut times: Vec<f64> = times.into_values().collect();
    times.sort_by(f64::total_cmp);
    let list = pool.must("GET", &path, &Value::Null).await?;
    let ips: std::collections::HashSet<_> =
        list["items"].as_array().into_iter().flatten().filter_map(|p| p["status"]["podIP"].as_str()).collect();
    ensure!(ips.len() == count, "{count} pods have {} addresses", ips.len());
    for n in 0..count {
        pool.must("DELETE", &format!("{path}/burst{n}"), &Value::Null).await?;
    }
    let none = |list: &Value| list["items"].as_array().is_some_and(Vec::is_empty);
    pool.until("the pods are gone", &path, BOUND, none).await?;
    Ok(Burst { seconds, p50_ms: times[times.len() / 2] * 1000.0, own_cpu_ms, runtime_cpu_ms })
}

async fn watch(subject: &Subject, pool: &mut Pool, path: &str) -> anyhow::Result<Watcher> {
    let list = pool.must("GET", path, &Value::Null).await?;
    let revision = list["metadata"]["resourceVersion"].as_str().unwrap_or_default();
    Watcher::open(&subject.door, &format!("{path}?watch=true&resourceVersion={revision}")).await
}

/// The name of the pod that an event shows running.
fn running(line: &[u8]) -> anyhow::Result<Option<String>> {
    if memchr::memmem::find(line, b"\"phase\":\"Running\"").is_none() {
        return Ok(None);
    }
    let name = text_after(line, b"\"metadata\":{\"name\":\"").map(str::to_owned);
    let name = match name {
        Some(name) => name,
        None => serde_json::from_slice::<Value>(line)?["object"]["metadata"]["name"].as_str().unwrap_or_default().to_owned(),
    };
    Ok(Some(name))
}

async fn bounded<T>(what: &str, wait: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    tokio::time::timeout(BOUND, wait).await.ok().with_context(|| format!("{what}: not within {} s", BOUND.as_secs()))?
}

fn pod(name: &str, image: &str) -> Value {
    let container = json!({"name": "c", "image": image, "imagePullPolicy": "IfNotPresent", "command": ["sleep", "3600"]});
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": {"terminationGracePeriodSeconds": 0, "containers": [container]}})
}
