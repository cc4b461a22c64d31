//! Leases as 5,000 node agents renew them: PUT, each with the revision it read last.

use std::sync::Arc;

use anyhow::ensure;
use parking_lot::Mutex;
use serde_json::Value;

use super::{Ctx, Found};
use crate::{
    door::JSON,
    report::{less, more},
    usage::Meter,
    watch::revision,
};

const RENEW_SECONDS: f64 = 10.0;

pub async fn renew(ctx: &Ctx<'_>) -> Found {
    let subject = ctx.subject().await?;
    let (count, rounds) = (ctx.scale.of(200, 5000), ctx.scale.of(4, 10));
    let mut pool = subject.pool(64).await?;
    let namespace = subject.namespace(&mut pool, "leases").await?;
    let path = format!("/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases");
    let make = |n| lease(n, 0, None);
    pool.create(&path, count, make).await?;
    let list = pool.must("GET", &path, &Value::Null).await?;
    let revisions: Vec<Mutex<u64>> = (0..count).map(|_| Mutex::new(0)).collect();
    for item in list["items"].as_array().into_iter().flatten() {
        let n: Option<usize> = item["metadata"]["name"].as_str().and_then(|n| n.strip_prefix("node-")).and_then(|n| n.parse().ok());
        if let Some(slot) = n.and_then(|n| revisions.get(n)) {
            *slot.lock() = revision(item.to_string().as_bytes()).unwrap_or(0);
        }
    }
    let revisions = Arc::new(revisions);
    let meter = Meter::start(&subject.pids);
    let mut p99 = 0.0_f64;
    for round in 1..=rounds {
        let (own, door, path) = (revisions.clone(), subject.door.clone(), path.clone());
        let make = move |n: usize, out: &mut Vec<u8>| {
            let body = lease(n, round, Some(*own[n].lock()));
            door.full("PUT", &format!("{path}/node-{n}"), JSON, body.as_bytes(), out);
        };
        let own = revisions.clone();
        let check = move |n: usize, status, body: &[u8]| {
            ensure!(status == 200, "lease {n}: {status} {}", String::from_utf8_lossy(body));
            let new = revision(body).unwrap_or(0);
            let mut last = own[n].lock();
            ensure!(new > *last, "lease {n}: revision {new} after {last}");
            *last = new;
            Ok(())
        };
        p99 = p99.max(pool.run(count, Arc::new(make), Arc::new(check)).await?.quantile(0.99));
    }
    let (spent, updates) = (meter.stop(), count * rounds);
    let each = spent.cpu_ms_each(updates);
    Ok(vec![
        less("each update", "CPU-ms", each),
        more("rate over 64 connections", "/s", spent.per_second(updates)),
        less("p99", "ms", p99),
        less("5,000 nodes, every 10 s", "% of a core", each * 5000.0 / RENEW_SECONDS / 10.0),
        less("written per update", "B", spent.written as f64 / updates as f64),
    ])
}

fn lease(n: usize, round: usize, revision: Option<u64>) -> String {
    let revision = revision.map(|r| format!(r#","resourceVersion":"{r}""#)).unwrap_or_default();
    let time = format!("2026-01-01T00:00:{:02}.{:06}Z", round % 60, n);
    format!(
        r#"{{"apiVersion":"coordination.k8s.io/v1","kind":"Lease","metadata":{{"name":"node-{n}"{revision}}},"spec":{{"holderIdentity":"node-{n}","leaseDurationSeconds":40,"renewTime":"{time}"}}}}"#
    )
}
