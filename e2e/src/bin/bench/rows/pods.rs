//! Pods on a real node: created -> Running, as a watch sees it.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use anyhow::{Context, bail, ensure};
use serde_json::{Value, json};

use super::{Ctx, Found, up};
use crate::{
    load::Pool,
    report::{less, more},
    subject::Subject,
    usage::Meter,
    watch::{Watcher, text_after},
};

const BOUND: Duration = Duration::from_secs(180);

pub async fn start(ctx: &Ctx<'_>) -> Found {
    let node = up::node(ctx).await?;
    let subject = &node.subject;
    let mut pool = subject.pool(1).await?;
    ensure_node(&mut pool).await?;
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
    for count in [ctx.scale.of(4, 30), burst] {
        let (took, p50) = all_at_once(ctx, subject, &mut pool, &namespace, count).await?;
        let rate = more(format!("{count} at once"), "pods/s", count as f64 / took);
        figures.push(if count == 30 { rate.goal(14.0) } else { rate });
        figures.push(less(format!("{count} at once, p50"), "ms", p50));
    }
    Ok(figures)
}

async fn ensure_node(pool: &mut Pool) -> anyhow::Result<()> {
    let nodes = pool.must("GET", "/api/v1/nodes", &Value::Null).await?;
    let real = nodes["items"].as_array().map(Vec::as_slice).unwrap_or_default();
    if real.iter().all(|n| n["status"]["nodeInfo"]["containerRuntimeVersion"].as_str().is_none_or(|v| !v.starts_with("containerd://"))) {
        bail!(super::Skip("no node with containerd".into()));
    }
    Ok(())
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
        pool.must("DELETE", &format!("{path}/{name}"), &Value::Null).await?;
        let gone = |line: &[u8]| Ok(line.starts_with(b"{\"type\":\"DELETED\""));
        bounded(&format!("{name} is gone"), watcher.until_one(gone)).await?;
    }
    Ok(times)
}

/// Seconds until the last runs, and the median in milliseconds, both from the first creation.
async fn all_at_once(ctx: &Ctx<'_>, subject: &Subject, pool: &mut Pool, namespace: &str, count: usize) -> anyhow::Result<(f64, f64)> {
    let path = format!("/api/v1/namespaces/{namespace}/pods");
    let mut watcher = watch(subject, pool, &path).await?;
    let image = ctx.args.image.clone();
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
    let took = begun.elapsed().as_secs_f64();
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
    Ok((took, times[times.len() / 2] * 1000.0))
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
