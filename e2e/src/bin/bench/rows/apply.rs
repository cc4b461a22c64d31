//! Server-side apply of one field of an object that others own: what each costs.

use std::sync::Arc;

use anyhow::ensure;
use serde_json::Value;

use super::{Ctx, Found, objects};
use crate::{
    load::status,
    report::{less, more},
    usage::Meter,
};

const APPLY: &str = "application/apply-patch+yaml";
const CONNECTIONS: usize = 64;

pub async fn one_field(ctx: &Ctx<'_>) -> Found {
    let subject = ctx.subject().await?;
    let mut pool = subject.pool(CONNECTIONS).await?;
    let namespace = subject.namespace(&mut pool, "apply").await?;
    let path = format!("/api/v1/namespaces/{namespace}/configmaps");
    let (count, rounds) = (ctx.scale.of(100, 2000), ctx.scale.of(2, 5));
    pool.create(&path, count, |n| objects::config_map(&format!("c{n}"), 2048)).await?;
    let body = |n: usize, round: usize| {
        format!(r#"{{"apiVersion":"v1","kind":"ConfigMap","metadata":{{"name":"c{n}"}},"data":{{"round":"{round}"}}}}"#)
    };
    let mut all = Vec::new();
    for round in 0..=rounds {
        let (door, path) = (subject.door.clone(), path.clone());
        let make = move |n: usize, out: &mut Vec<u8>| {
            door.full("PATCH", &format!("{path}/c{n}?fieldManager=bench"), APPLY, body(n, round).as_bytes(), out);
        };
        let meter = Meter::start(&subject.pids);
        let latencies = pool.run(count, Arc::new(make), status(200)).await?;
        let spent = meter.stop();
        // The first makes the manager's entry.
        if round > 0 {
            all.push((spent.cpu_ms_each(count), spent.per_second(count), latencies.quantile(0.99)));
        }
    }
    let list = pool.must("GET", &path, &Value::Null).await?;
    let last = rounds.to_string();
    let is_right = |item: &&Value| {
        let managers = item["metadata"]["managedFields"].as_array().map_or(0, Vec::len);
        item["data"]["round"] == last.as_str() && item["data"]["k"].as_str().is_some_and(|text| text.len() == 2048) && managers == 2
    };
    let right = list["items"].as_array().map_or(0, |items| items.iter().filter(is_right).count());
    ensure!(right == count, "{right} of {count} objects are as applied");
    let mean = |of: fn(&(f64, f64, f64)) -> f64| all.iter().map(of).sum::<f64>() / all.len() as f64;
    Ok(vec![
        less("one field of 2 KiB: each", "CPU-ms", mean(|one| one.0)).goal(0.15),
        more("one field of 2 KiB: rate", "/s", mean(|one| one.1)),
        less("one field of 2 KiB: p99", "ms", mean(|one| one.2)),
    ])
}
