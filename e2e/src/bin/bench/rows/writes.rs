//! `ConfigMaps` of 1 KiB created, and one read, over few and many connections.

use std::sync::Arc;

use anyhow::ensure;
use serde_json::Value;

use super::{Ctx, Found, objects};
use crate::{
    load::Latencies,
    report::{Figure, less, more},
    subject::Subject,
    usage::{Meter, Spent},
    watch::revision,
};

const CONNECTIONS: [usize; 3] = [1, 64, 512];

pub async fn create(ctx: &Ctx<'_>) -> Found {
    let subject = ctx.subject().await?;
    let mut figures = Vec::new();
    for connections in CONNECTIONS {
        figures.extend(create_over(ctx, &subject, connections).await?);
    }
    Ok(figures)
}

async fn create_over(ctx: &Ctx<'_>, subject: &Subject, connections: usize) -> Found {
    let count = if connections == 1 { ctx.scale.of(100, 2000) } else { ctx.scale.of(1000, 20_000) };
    let mut pool = subject.pool(connections).await?;
    let namespace = subject.namespace(&mut pool, "create").await?;
    let path = format!("/api/v1/namespaces/{namespace}/configmaps");
    let warm = count / 10;
    pool.create(&path, warm, |n| objects::config_map(&format!("warm{n}"), 1024)).await?;
    let meter = Meter::start(&subject.pids);
    let latencies = pool.create(&path, count, |n| objects::config_map(&format!("c{n}"), 1024)).await?;
    let spent = meter.stop();
    let list = pool.must("GET", &path, &Value::Null).await?;
    let found = list["items"].as_array().map_or(0, |i| i.iter().filter(|o| o["metadata"]["name"] != "kube-root-ca.crt").count());
    ensure!(found == count + warm, "{found} objects after {} creations", count + warm);
    let goal = if connections == 64 { Some(0.10) } else { None };
    Ok(figures(connections, count, &spent, &latencies, goal))
}

pub async fn get(ctx: &Ctx<'_>) -> Found {
    let subject = ctx.subject().await?;
    let mut pool = subject.pool(1).await?;
    let namespace = subject.namespace(&mut pool, "get").await?;
    let path = format!("/api/v1/namespaces/{namespace}/configmaps");
    pool.create(&path, 1, |_| objects::config_map("one", 1024)).await?;
    let one = format!("{path}/one");
    let wanted = pool.must("GET", &one, &Value::Null).await?.to_string().into_bytes();
    let wanted_revision = revision(&wanted);
    let mut figures_all = Vec::new();
    for connections in CONNECTIONS {
        let mut pool = subject.pool(connections).await?;
        let count = if connections == 1 { ctx.scale.of(500, 10_000) } else { ctx.scale.of(3000, 60_000) };
        let request = subject.door.bare("GET", &one, crate::door::JSON);
        let make = Arc::new(move |_, out: &mut Vec<u8>| out.clone_from(&request));
        let check = Arc::new(move |n, status, body: &[u8]| {
            ensure!(status == 200 && revision(body) == wanted_revision, "answer {n}: {status} {}", String::from_utf8_lossy(body));
            Ok(())
        });
        pool.run(count / 10, make.clone(), check.clone()).await?;
        let meter = Meter::start(&subject.pids);
        let latencies = pool.run(count, make, check).await?;
        let goal = if connections == 64 { Some(0.03) } else { None };
        figures_all.extend(figures(connections, count, &meter.stop(), &latencies, goal));
    }
    Ok(figures_all)
}

fn figures(connections: usize, count: usize, spent: &Spent, latencies: &Latencies, goal: Option<f64>) -> Vec<Figure> {
    let named = |what: &str| format!("{connections} conn: {what}");
    let mut all = vec![
        less(named("each"), "CPU-ms", spent.cpu_ms_each(count)),
        more(named("rate"), "/s", spent.per_second(count)),
        less(named("p50"), "ms", latencies.quantile(0.5)),
        less(named("p99"), "ms", latencies.quantile(0.99)),
    ];
    all[0].goal = goal;
    if latencies.refused > 0 {
        all.push(less(named("refused for a time (429)"), "times", latencies.refused as f64));
    }
    all
}
