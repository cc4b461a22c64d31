//! One write -> many watchers: what a delivered event costs, and what one costs that a watcher did not ask for.

use std::time::Duration;

use anyhow::ensure;
use serde_json::{Value, json};

use super::{Ctx, Found, nodes, objects};
use crate::{
    load::Pool,
    report::{less, more},
    subject::Subject,
    usage::Meter,
    watch::Watchers,
};

const TRICKLE_PAUSE: Duration = Duration::from_millis(20);

pub async fn fan_out(ctx: &Ctx<'_>) -> Found {
    let subject = ctx.subject().await?;
    let mut figures = Vec::new();
    for watchers in [100, 1000] {
        figures.extend(fan_out_to(ctx, &subject, watchers).await?);
    }
    Ok(figures)
}

async fn fan_out_to(ctx: &Ctx<'_>, subject: &Subject, count: usize) -> Found {
    let mut pool = subject.pool(16).await?;
    let namespace = subject.namespace(&mut pool, "watch").await?;
    let path = format!("/api/v1/namespaces/{namespace}/configmaps");
    let revision = list_revision(&mut pool, &path).await?;
    let watch = format!("{path}?watch=true&resourceVersion={revision}");
    let mut watchers = Watchers::open(&subject.door, vec![watch; count]).await?;
    let (trickle, burst) = (ctx.scale.of(20, 200), ctx.scale.of(100, 100_000 / count));

    let meter = Meter::start(&subject.pids);
    let all = watchers.begin_until(trickle);
    for n in 0..trickle {
        pool.must("POST", &path, &serde_json::from_str(&objects::config_map(&format!("t{n}"), 1024))?).await?;
        tokio::time::sleep(TRICKLE_PAUSE).await;
    }
    watchers.end_until(all, trickle).await?;
    let slow = meter.stop();

    let meter = Meter::start(&subject.pids);
    let all = watchers.begin_until(trickle + burst);
    pool.create(&path, burst, |n| objects::config_map(&format!("b{n}"), 1024)).await?;
    watchers.end_until(all, trickle + burst).await?;
    let fast = meter.stop();
    let delivered = |events: usize| events * count;
    let named = |what: &str| format!("{count} watchers: {what}");
    Ok(vec![
        less(named("trickle, each event delivered"), "CPU-us", slow.cpu_ms_each(delivered(trickle)) * 1000.0).goal(12.0),
        less(named("burst, each event delivered"), "CPU-us", fast.cpu_ms_each(delivered(burst)) * 1000.0).goal(6.0),
        more(named("burst, events delivered"), "/s", fast.per_second(delivered(burst))),
    ])
}

async fn list_revision(pool: &mut Pool, path: &str) -> anyhow::Result<String> {
    let list = pool.must("GET", &format!("{path}?limit=1"), &Value::Null).await?;
    Ok(list["metadata"]["resourceVersion"].as_str().unwrap_or_default().to_owned())
}

/// As 1,000 node agents watch: each its own pods. All pods but one a node are for a node that nobody watches.
pub async fn filtered(ctx: &Ctx<'_>) -> Found {
    let subject = ctx.subject().await?;
    let (count, foreign) = (ctx.scale.of(100, 1000), ctx.scale.of(500, 10_000));
    let mut pool = subject.pool(16).await?;
    let alone = subject.namespace(&mut pool, "alone").await?;
    let alone = create_foreign(&subject, &mut pool, &alone, foreign).await?;

    let namespace = subject.namespace(&mut pool, "filter").await?;
    let path = format!("/api/v1/namespaces/{namespace}/pods");
    let revision = list_revision(&mut pool, &path).await?;
    let watch = |n| format!("/api/v1/pods?watch=true&resourceVersion={revision}&fieldSelector=spec.nodeName%3D{}", nodes::name(n));
    let mut watchers = Watchers::open(&subject.door, (0..count).map(watch).collect()).await?;
    let watched = create_foreign(&subject, &mut pool, &namespace, foreign).await?;

    let meter = Meter::start(&subject.pids);
    let mut all = watchers.begin_until(1);
    let body = |n| objects::pod(&format!("mine{n}"), &json!({"app": "mine"}), "1m", &json!({"nodeName": nodes::name(n)}));
    pool.create(&path, count, body).await?;
    let mut seen = 0;
    while let Some(watcher) = all.join_next().await {
        let watcher = watcher??;
        ensure!(watcher.seen.events == 1, "a watcher saw {} pods, not its one", watcher.seen.events);
        seen += 1;
    }
    ensure!(seen == count, "{seen} of {count} watchers saw their pod");
    let mine = meter.stop();
    Ok(vec![
        less("pod for another node, nobody watches", "CPU-ms", alone),
        less(format!("pod for another node, {count} watchers"), "CPU-ms", watched),
        less("each event that is not a watcher's", "CPU-us", (watched - alone).max(0.0) * 1000.0 / count as f64).goal(0.01),
        less("pod made and delivered to its watcher", "CPU-ms", mine.cpu_ms_each(count)),
    ])
}

/// CPU-ms of each.
async fn create_foreign(subject: &Subject, pool: &mut Pool, namespace: &str, count: usize) -> anyhow::Result<f64> {
    let path = format!("/api/v1/namespaces/{namespace}/pods");
    let body = |prefix: &'static str| {
        move |n| objects::pod(&format!("{prefix}{n}"), &json!({"app": "other"}), "1m", &json!({"nodeName": "bench-foreign"}))
    };
    pool.create(&path, count / 10, body("warm")).await?;
    let meter = Meter::start(&subject.pids);
    pool.create(&path, count, body("other")).await?;
    // What was accepted has been published, but perhaps not yet looked at by all watchers.
    let list = pool.must("GET", &format!("{path}?limit=1"), &Value::Null).await?;
    ensure!(list["items"][0]["spec"]["nodeName"] == "bench-foreign", "{list}");
    tokio::time::sleep(Duration::from_millis(200)).await;
    Ok(meter.stop().cpu_ms_each(count))
}
