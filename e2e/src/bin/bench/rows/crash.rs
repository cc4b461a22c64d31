//! `kill -9` while clients write -> ready again, all listed, nothing that was acknowledged is lost.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use e2e::Server;
use serde::Deserialize;
use tokio::task::JoinSet;

use super::{Ctx, Found, objects};
use crate::{
    conn::Conn,
    door::{Door, JSON},
    load::Pool,
    report::less,
    subject::{options, ready},
    usage::usage,
    watch::revision,
};

const PATH: &str = "/api/v1/namespaces/default/configmaps";
const WRITERS: usize = 64;
/// Writers write for so long before they are cut off.
const LOAD: Duration = Duration::from_millis(1500);
const BYTES: usize = 256;

/// A list, as far as it is looked at.
#[derive(Deserialize)]
struct List {
    items: Vec<Item>,
}

#[derive(Deserialize)]
struct Item {
    metadata: Meta,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Meta {
    name: String,
    resource_version: String,
}

pub async fn kill_9(ctx: &Ctx<'_>) -> Found {
    let bin = ctx.binary()?;
    let mut server = Server::spawn("server", options(&bin));
    let (door, _) = ready(&server, Instant::now()).await?;
    let count = ctx.scale.of(2000, 100_000);
    Pool::open(&door, WRITERS).await?.create(PATH, count, |n| objects::config_map(&format!("c{n}"), BYTES)).await?;

    let mut writers = JoinSet::new();
    let next = Arc::new(AtomicUsize::new(0));
    for _ in 0..WRITERS {
        writers.spawn(write(Conn::open(&door).await?, door.clone(), next.clone()));
    }
    tokio::time::sleep(LOAD).await;
    server.kill_9();
    let mut acknowledged = HashMap::new();
    while let Some(writer) = writers.join_next().await {
        acknowledged.extend(writer??);
    }
    ensure!(!acknowledged.is_empty(), "the load was no load");

    let begun = Instant::now();
    server.respawn();
    let (door, took) = ready(&server, begun).await?;
    let mut body = Vec::new();
    let status = Conn::open(&door).await?.exchange(&door.bare("GET", PATH, JSON), &mut body).await?;
    let listed = begun.elapsed();
    ensure!(status == 200, "the list was answered {status}");
    let used = usage(&[server.pid()]);
    let list: List = serde_json::from_slice(&body).context("the list is JSON")?;
    check(&list, count, &acknowledged)?;
    Ok(vec![
        less("exec to readyz", "ms", took.as_secs_f64() * 1000.0),
        less("exec to all listed", "ms", listed.as_secs_f64() * 1000.0).goal(1000.0),
        less("CPU until then", "CPU-ms", used.cpu_ms),
        less("peak memory", "MiB", used.peak_kib as f64 / 1024.0),
        less("objects there", "objects", list.items.len() as f64),
    ])
}

/// Creates until the connection breaks: what was acknowledged, with its revision.
async fn write(mut conn: Conn, door: Arc<Door>, next: Arc<AtomicUsize>) -> anyhow::Result<Vec<(String, u64)>> {
    let (mut request, mut body, mut acknowledged) = (Vec::new(), Vec::new(), Vec::new());
    loop {
        let name = format!("late{}", next.fetch_add(1, Ordering::Relaxed));
        door.full("POST", PATH, JSON, objects::config_map(&name, BYTES).as_bytes(), &mut request);
        match conn.exchange(&request, &mut body).await {
            Ok(201) => acknowledged.push((name, revision(&body).context("what was made has a revision")?)),
            Ok(429 | 503 | 504) => {}
            Ok(status) => anyhow::bail!("{status} {}", String::from_utf8_lossy(&body)),
            Err(_) => return Ok(acknowledged),
        }
    }
}

fn check(list: &List, count: usize, acknowledged: &HashMap<String, u64>) -> anyhow::Result<()> {
    let there: HashMap<&str, &str> = list.items.iter().map(|i| (i.metadata.name.as_str(), i.metadata.resource_version.as_str())).collect();
    let missing = (0..count).filter(|n| !there.contains_key(format!("c{n}").as_str())).count();
    ensure!(missing == 0, "{missing} of {count} objects are lost");
    for (name, revision) in acknowledged {
        ensure!(there.get(name.as_str()) == Some(&revision.to_string().as_str()), "{name}, acknowledged at {revision}, is lost or another");
    }
    Ok(())
}
