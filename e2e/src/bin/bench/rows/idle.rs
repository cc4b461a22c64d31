//! A server that is left alone -> memory, CPU time, bytes written; empty, and with a cluster in it.

use std::time::Duration;

use anyhow::ensure;
use serde_json::{Value, json};

use super::{Ctx, Found, nodes, objects, up};
use crate::{
    report::{Figure, less},
    usage::{Meter, Spent, usage},
};

const MIB: f64 = 1024.0;

pub async fn bare(ctx: &Ctx<'_>) -> Found {
    let subject = ctx.subject().await?;
    let spent = left_alone(ctx, &subject.pids).await;
    let mut pool = subject.pool(1).await?;
    pool.must("GET", "/api/v1/namespaces/default", &Value::Null).await?;
    Ok(figures(&spent, 45.0))
}

/// Control plane, node agent, proxy and DNS in one process; containerd apart.
pub async fn whole(ctx: &Ctx<'_>) -> Found {
    let node = up::node(ctx).await?;
    let spent = left_alone(ctx, &node.subject.pids).await;
    let mut pool = node.subject.pool(1).await?;
    pool.must("GET", "/api/v1/nodes", &Value::Null).await?;
    Ok(figures(&spent, 60.0))
}

/// Long enough for what is done once after a start to be over, then as long as is measured.
pub async fn left_alone(ctx: &Ctx<'_>, pids: &[u32]) -> Spent {
    tokio::time::sleep(Duration::from_secs(ctx.scale.of(1, 30) as u64)).await;
    let meter = Meter::start(pids);
    tokio::time::sleep(Duration::from_secs(ctx.scale.of(1, 60) as u64)).await;
    meter.stop()
}

pub fn figures(spent: &Spent, memory_goal: f64) -> Vec<Figure> {
    let seconds = spent.elapsed.as_secs_f64();
    vec![
        less("resident", "MiB", spent.after.rss_kib as f64 / MIB).goal(memory_goal),
        less("of it anonymous", "MiB", spent.after.anonymous_kib as f64 / MIB),
        less("CPU", "% of a core", spent.cpu_ms / 10.0 / seconds).goal(0.15),
        less("written", "B/s", spent.written as f64 / seconds).goal(1024.0),
    ]
}

pub async fn loaded(ctx: &Ctx<'_>) -> Found {
    let subject = ctx.subject().await?;
    let (node_count, pods, maps) = (ctx.scale.of(50, 1000), ctx.scale.of(500, 30_000), ctx.scale.of(200, 10_000));
    let mut pool = subject.pool(64).await?;
    let namespace = subject.namespace(&mut pool, "loaded").await?;
    let before = usage(&subject.pids);
    let _nodes = nodes::make(&subject, node_count).await?;
    pool.create(&format!("/api/v1/namespaces/{namespace}/configmaps"), maps, |n| objects::config_map(&format!("c{n}"), 1024)).await?;
    let path = format!("/api/v1/namespaces/{namespace}/pods");
    let body = move |n: usize| {
        let labels = json!({"app": format!("app-{}", n % 100), "pod-template-hash": "5d4f8c7b9"});
        objects::pod(&format!("p{n}"), &labels, "10m", &json!({"nodeName": nodes::name(n % node_count)}))
    };
    pool.create(&path, pods, body).await?;
    tokio::time::sleep(Duration::from_secs(ctx.scale.of(1, 10) as u64)).await;
    let after = usage(&subject.pids);
    let list = pool.must("GET", &path, &Value::Null).await?;
    ensure!(list["items"].as_array().is_some_and(|i| i.len() == pods), "not all pods are there");
    nodes::check_room(list["items"].as_array().map(Vec::as_slice).unwrap_or_default())?;
    let kib_each = (after.rss_kib.saturating_sub(before.rss_kib)) as f64 / (pods + maps + node_count) as f64;
    Ok(vec![
        less("resident", "MiB", after.rss_kib as f64 / MIB).goal(350.0),
        less("of it anonymous", "MiB", after.anonymous_kib as f64 / MIB),
        less("peak while it grew", "MiB", after.peak_kib as f64 / MIB),
        less("growth per object", "KiB", kib_each),
    ])
}
