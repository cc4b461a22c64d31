//! One write -> many watchers: what a delivered event costs, and what one costs that a watcher did not ask for.

use std::time::Duration;

use anyhow::ensure;
use serde_json::{Value, json};

use super::{Ctx, Found, nodes, objects};
use crate::{
    conn::Conn,
    door::PROTOBUF,
    load::Pool,
    report::{less, more},
    subject::Subject,
    usage::Meter,
    watch::{Form, Watchers, frames, of_frame},
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
        less(named("burst, each event delivered"), "CPU-us", fast.cpu_ms_each(delivered(burst)) * 1000.0).goal(3.0),
        more(named("burst, events delivered"), "/s", fast.per_second(delivered(burst))),
    ])
}

/// What informers of client-go do: they list by a watch that begins with what is there, and then are told; all of it in protobuf.
pub async fn in_protobuf(ctx: &Ctx<'_>) -> Found {
    let subject = ctx.subject().await?;
    let mut pool = subject.pool(64).await?;
    let namespace = subject.namespace(&mut pool, "informed").await?;
    let path = format!("/api/v1/namespaces/{namespace}/configmaps");
    let (count, rounds, watchers) = (ctx.scale.of(500, 10_000), ctx.scale.of(4, 20), 100);
    pool.create(&path, count, |n| objects::config_map(&format!("c{n}"), 1024)).await?;
    let list = format!("{path}?watch=true&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true");
    let first = Meter::start(&subject.pids);
    let bytes = streamed(&subject, &list, count).await?;
    let first = first.stop();
    let meter = Meter::start(&subject.pids);
    for _ in 0..rounds {
        streamed(&subject, &list, count).await?;
    }
    let listed = meter.stop();
    let revision = list_revision(&mut pool, &path).await?;
    let watch = format!("{path}?watch=true&resourceVersion={revision}");
    let mut informers = Watchers::open_as(&subject.door, vec![watch; watchers], Form::Frames).await?;
    let burst = ctx.scale.of(100, 1000);
    let meter = Meter::start(&subject.pids);
    let all = informers.begin_until(burst);
    pool.create(&path, burst, |n| objects::config_map(&format!("b{n}"), 1024)).await?;
    informers.end_until(all, burst).await?;
    let told = meter.stop();
    let mib = (bytes * rounds) as f64 / f64::from(1 << 20);
    Ok(vec![
        less(format!("streaming list of {count}: the first time"), "CPU-ms", first.cpu_ms),
        less(format!("streaming list of {count}: each"), "CPU-ms", listed.cpu_ms_each(rounds)),
        more("streaming list: per CPU second", "MiB/CPU-s", mib * 1000.0 / listed.cpu_ms.max(1.0)),
        less(format!("{watchers} watchers: burst, each event delivered"), "CPU-us", told.cpu_ms_each(burst * watchers) * 1000.0).goal(3.0),
    ])
}

/// Reads what is there, up to the bookmark at its end; how many bytes that was.
async fn streamed(subject: &Subject, path: &str, count: usize) -> anyhow::Result<usize> {
    let mut conn = Conn::open(&subject.door).await?;
    let status = conn.begin(&subject.door.bare("GET", path, PROTOBUF)).await?;
    ensure!(status == 200, "GET {path}: {status}");
    let (mut begun, mut added, mut bytes, mut is_over) = (Vec::new(), 0, 0, false);
    while !is_over {
        let take = &mut |frame: &[u8]| match of_frame(frame) {
            Some((b'A', Some(_))) => added += 1,
            Some((b'B', _)) => is_over = true,
            _ => {}
        };
        let goes_on = conn.piece(|piece| {
            bytes += piece.len();
            frames(piece, &mut begun, take);
        });
        ensure!(goes_on.await?, "the watch ended after {added} objects");
    }
    // The namespace's own stands among them.
    ensure!((count..=count + 1).contains(&added), "{added} objects of {count}");
    Ok(bytes)
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
