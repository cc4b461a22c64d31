//! Lists of many objects, and of large ones.

use std::sync::Arc;

use anyhow::ensure;
use serde_json::Value;

use super::{Ctx, Found, objects};
use crate::{
    conn::Conn,
    door::{Door, JSON, PROTOBUF},
    report::{Figure, less, more},
    usage::{Meter, Spent, forget_peak, usage},
};

const MIB: f64 = 1_048_576.0;
const STREAMS: usize = 4;

pub async fn list(ctx: &Ctx<'_>) -> Found {
    let subject = ctx.subject().await?;
    let mut pool = subject.pool(64).await?;
    let namespace = subject.namespace(&mut pool, "list").await?;
    let path = format!("/api/v1/namespaces/{namespace}/configmaps");
    let count = ctx.scale.of(1000, 10_000);
    pool.create(&path, count, |n| objects::config_map(&format!("c{n}"), 1024)).await?;
    let rounds = ctx.scale.of(16, 80);
    let mut figures = Vec::new();
    for (form, accept, goal) in [("JSON", JSON, 1200.0), ("protobuf", PROTOBUF, 800.0)] {
        for (how, query) in [("cached", "?resourceVersion=0"), ("consistent", "")] {
            let request = subject.door.bare("GET", &format!("{path}{query}"), accept);
            let mut body = Vec::new();
            let mut conn = Conn::open(&subject.door).await?;
            let meter = Meter::start(&subject.pids);
            let status = conn.exchange(&request, &mut body).await?;
            let first = meter.stop();
            if form == "protobuf" && (status == 406 || !body.starts_with(b"k8s\0")) {
                continue;
            }
            ensure!(status == 200, "{status} {}", String::from_utf8_lossy(&body));
            if form == "JSON" {
                check_json(&body, count)?;
            } else {
                ensure!(memchr::memmem::find_iter(&body, &[b'x'; 1024]).count() == count, "a list in protobuf lacks objects");
            }
            let meter = Meter::start(&subject.pids);
            let bytes = concurrent(&subject.door, &request, STREAMS, rounds / STREAMS, body.len()).await?;
            figures.extend(list_figures(&format!("{form}, {how}"), rounds, bytes, &meter.stop(), goal));
            if how == "cached" {
                figures.push(less(format!("{form}: the first time"), "CPU-ms", first.cpu_ms));
            }
        }
    }
    Ok(figures)
}

fn check_json(body: &[u8], count: usize) -> anyhow::Result<()> {
    let list: Value = serde_json::from_slice(body)?;
    let items = list["items"].as_array().map(Vec::as_slice).unwrap_or_default();
    let names: std::collections::HashSet<_> = items.iter().filter_map(|i| i["metadata"]["name"].as_str()).collect();
    let missing = (0..count).find(|n| !names.contains(format!("c{n}").as_str()));
    ensure!(missing.is_none() && names.len() == items.len(), "a list of {} objects lacks c{missing:?}, or has one twice", items.len());
    Ok(())
}

fn list_figures(what: &str, rounds: usize, bytes: usize, spent: &Spent, goal: f64) -> [Figure; 3] {
    let mib = bytes as f64 / MIB;
    [
        less(format!("{what}: each"), "CPU-ms", spent.cpu_ms_each(rounds)),
        more(format!("{what}: per CPU second"), "MiB/CPU-s", mib * 1000.0 / spent.cpu_ms.max(1.0)).goal(goal),
        more(format!("{what}: over {STREAMS} connections"), "MiB/s", mib / spent.elapsed.as_secs_f64()),
    ]
}

/// The same list on several connections, `rounds` times each; every answer must be as long as the one that was looked at. Bytes read.
async fn concurrent(door: &Arc<Door>, request: &[u8], streams: usize, rounds: usize, length: usize) -> anyhow::Result<usize> {
    let mut all = tokio::task::JoinSet::new();
    for _ in 0..streams {
        let (door, request) = (door.clone(), request.to_vec());
        all.spawn(async move {
            let mut conn = Conn::open(&door).await?;
            for _ in 0..rounds {
                let (status, read) = conn.drain(&request).await?;
                // The list's own revision may gain a digit.
                ensure!(status == 200 && read.abs_diff(length) <= 16, "a list of {read} bytes ({status}), not {length}");
            }
            anyhow::Ok(())
        });
    }
    while let Some(stream) = all.join_next().await {
        stream??;
    }
    Ok(streams * rounds * length)
}

pub async fn memory(ctx: &Ctx<'_>) -> Found {
    let subject = ctx.subject().await?;
    let mut pool = subject.pool(4).await?;
    let namespace = subject.namespace(&mut pool, "lists").await?;
    let path = format!("/api/v1/namespaces/{namespace}/configmaps");
    let (count, streams) = (ctx.scale.of(10, 100), ctx.scale.of(8, 32));
    pool.create(&path, count, |n| objects::config_map(&format!("c{n}"), 1_000_000)).await?;
    drop(pool);
    let request = subject.door.bare("GET", &path, JSON);
    let mut body = Vec::new();
    Conn::open(&subject.door).await?.exchange(&request, &mut body).await?;
    check_json(&body, count)?;
    let length = body.len();
    drop(body);
    // What the creations left behind is given back some time after them.
    tokio::time::sleep(std::time::Duration::from_secs(ctx.scale.of(1, 15) as u64)).await;
    forget_peak(&subject.pids);
    let before = usage(&subject.pids);
    let meter = Meter::start(&subject.pids);
    let bytes = concurrent(&subject.door, &request, streams, 1, length).await?;
    let spent = meter.stop();
    let grown = spent.after.peak_kib.saturating_sub(before.rss_kib) as f64 / 1024.0;
    Ok(vec![
        less("growth of resident memory", "MiB", grown).goal(64.0),
        less("resident before", "MiB", before.rss_kib as f64 / 1024.0),
        more("per CPU second", "MiB/CPU-s", bytes as f64 / MIB * 1000.0 / spent.cpu_ms.max(1.0)),
        more("rate", "MiB/s", bytes as f64 / MIB / spent.elapsed.as_secs_f64()),
    ])
}
