//! Many nodes, many pods: what one of them costs where there are a hundred thousand.

use std::{collections::HashMap, time::Duration};

use anyhow::{Context, ensure};
use serde_json::{Value, json};

use super::{Ctx, Found, hollow, hollow::Hollow};
use crate::{
    load::Pool,
    report::{less, more},
    subject::Subject,
    usage::{Meter, usage},
    watch::Watcher,
};

const BOUND: Duration = Duration::from_secs(600);
const DEPLOYMENTS: usize = 10;
const PODS_PER_NODE: usize = 110;
/// Objects of a page of a list.
const PAGE: usize = 2000;
/// Room for 65,536 nodes.
pub const WIDE: [&str; 2] = ["--cluster-cidr", "10.0.0.0/8"];

/// Hollow nodes that all join at once.
pub async fn nodes(ctx: &Ctx<'_>) -> Found {
    let subject = ctx.subject_with(&WIDE).await?;
    let count = ctx.scale.of(200, 20_000);
    let meter = Meter::start(&subject.pids);
    let hollow = Hollow::start(ctx, &subject, count).await?;
    let spent = meter.stop();
    // Longer than a Lease holds: who was not renewed meanwhile shows.
    tokio::time::sleep(Duration::from_secs(ctx.scale.of(1, 45) as u64)).await;
    hollow::all_ready(&subject, count).await?;
    hollow.pid()?;
    check_nodes(&subject, count).await?;
    Ok(vec![
        less("all registered", "s", hollow.registered_in.as_secs_f64()).goal(20.0),
        more("registered", "nodes/s", count as f64 / hollow.registered_in.as_secs_f64()),
        less("all Ready, and without taints", "s", spent.elapsed.as_secs_f64()),
        less("each node", "CPU-ms", spent.cpu_ms_each(count)),
        less("resident", "MiB", usage(&subject.pids).rss_kib as f64 / 1024.0),
    ])
}

/// Ten Deployments on hollow nodes, from nothing to all Ready.
pub async fn pods(ctx: &Ctx<'_>) -> Found {
    let subject = ctx.subject_with(&WIDE).await?;
    let (nodes, each) = (ctx.scale.of(20, 5000), ctx.scale.of(20, 10_000));
    let hollow = Hollow::start(ctx, &subject, nodes).await?;
    let mut pool = subject.pool(2).await?;
    let namespace = subject.namespace(&mut pool, "crowd").await?;
    let path = format!("/apis/apps/v1/namespaces/{namespace}/deployments");
    let list = pool.must("GET", &path, &Value::Null).await?;
    let revision = list["metadata"]["resourceVersion"].as_str().unwrap_or_default();
    let mut watcher = Watcher::open(&subject.door, &format!("{path}?watch=true&resourceVersion={revision}")).await?;
    let meter = Meter::start(&subject.pids);
    for n in 0..DEPLOYMENTS {
        pool.must("POST", &path, &deployment(n, each)).await?;
    }
    let mut available: HashMap<String, u64> = HashMap::new();
    let done = |line: &[u8]| {
        let event: Value = serde_json::from_slice(line)?;
        let count = event["object"]["status"]["availableReplicas"].as_u64().unwrap_or(0);
        available.insert(event["object"]["metadata"]["name"].as_str().unwrap_or_default().to_owned(), count);
        Ok(available.len() == DEPLOYMENTS && available.values().all(|count| *count == each as u64))
    };
    let waited = tokio::time::timeout(BOUND, watcher.until_one(done)).await;
    waited.ok().with_context(|| format!("the Deployments are not there within {} s", BOUND.as_secs()))??;
    let spent = meter.stop();
    let rss = usage(&subject.pids).rss_kib as f64 / 1024.0;
    hollow.pid()?;
    let count = DEPLOYMENTS * each;
    check_pods(&mut pool, &namespace, count).await?;
    hollow::all_ready(&subject, nodes).await?;
    Ok(vec![
        less("0 to all Ready", "s", spent.elapsed.as_secs_f64()).goal(90.0),
        less("each pod", "CPU-ms", spent.cpu_ms_each(count)).goal(0.8),
        less("resident", "MiB", rss).goal(900.0),
    ])
}

/// Each node has a range of its own, and none was ever given up.
pub async fn check_nodes(subject: &Subject, count: usize) -> anyhow::Result<()> {
    let mut pool = subject.pool(1).await?;
    let mut ranges: HashMap<String, usize> = HashMap::new();
    for_each(&mut pool, "/api/v1/nodes", |node| {
        if node["metadata"]["name"].as_str().is_some_and(|name| name.starts_with("hollow-")) {
            let range = node["spec"]["podCIDR"].as_str().context("a node without a range")?;
            *ranges.entry(range.to_owned()).or_default() += 1;
        }
        Ok(())
    })
    .await?;
    ensure!(ranges.len() == count && ranges.values().all(|n| *n == 1), "{} ranges for {count} nodes", ranges.len());
    for_each(&mut pool, "/api/v1/namespaces/default/events", |event| {
        ensure!(event["reason"] != "NodeNotReady", "a node was NotReady meanwhile: {event}");
        Ok(())
    })
    .await
}

/// As many pods as asked for, all Ready, no address twice, and no node with more than it holds.
async fn check_pods(pool: &mut Pool, namespace: &str, count: usize) -> anyhow::Result<()> {
    let (mut on, mut addresses): (HashMap<String, usize>, HashMap<String, usize>) = Default::default();
    for_each(pool, &format!("/api/v1/namespaces/{namespace}/pods"), |pod| {
        let conditions = pod["status"]["conditions"].as_array().map(Vec::as_slice).unwrap_or_default();
        ensure!(conditions.iter().any(|c| c["type"] == "Ready" && c["status"] == "True"), "a pod that is not Ready: {pod}");
        *on.entry(pod["spec"]["nodeName"].as_str().unwrap_or_default().to_owned()).or_default() += 1;
        *addresses.entry(pod["status"]["podIP"].as_str().unwrap_or_default().to_owned()).or_default() += 1;
        Ok(())
    })
    .await?;
    let there: usize = on.values().sum();
    ensure!(there == count, "{there} pods of {count}");
    ensure!(addresses.len() == count, "{} addresses for {count} pods", addresses.len());
    let most = on.values().max().copied().unwrap_or(0);
    ensure!(most <= PODS_PER_NODE, "a node has {most} pods");
    Ok(())
}

/// Reads a collection in pages.
pub async fn for_each(pool: &mut Pool, path: &str, mut look: impl FnMut(&Value) -> anyhow::Result<()>) -> anyhow::Result<()> {
    let mut token = String::new();
    loop {
        let page = pool.must("GET", &format!("{path}?limit={PAGE}&continue={token}"), &Value::Null).await?;
        page["items"].as_array().into_iter().flatten().try_for_each(&mut look)?;
        token = page["metadata"]["continue"].as_str().unwrap_or_default().to_owned();
        if token.is_empty() {
            return Ok(());
        }
    }
}

fn deployment(n: usize, replicas: usize) -> Value {
    let (name, labels) = (format!("crowd-{n}"), json!({"app": format!("crowd-{n}")}));
    let resources = json!({"requests": {"cpu": "10m", "memory": "10Mi"}});
    let spec = json!({"containers": [{"name": "c", "image": "example.test/c:1", "resources": resources}]});
    json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name}, "spec": {
        "replicas": replicas, "selector": {"matchLabels": labels}, "template": {"metadata": {"labels": labels}, "spec": spec}}})
}
