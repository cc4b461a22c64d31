//! A full namespace -> nothing.

use std::time::{Duration, Instant};

use anyhow::ensure;
use serde_json::{Value, json};

use super::{Ctx, Found, nodes, objects};
use crate::{report::less, usage::Meter};

const BOUND: Duration = Duration::from_secs(300);
const NODES: usize = 100;

pub async fn delete(ctx: &Ctx<'_>) -> Found {
    let subject = ctx.subject().await?;
    let (pods, maps, services) = (ctx.scale.of(100, 5000), ctx.scale.of(100, 5000), ctx.scale.of(20, 1000));
    let mut pool = subject.pool(64).await?;
    let namespace = subject.namespace(&mut pool, "namespace").await?;
    let _nodes = nodes::make(&subject, NODES).await?;
    let path = |resource: &str| format!("/api/v1/namespaces/{namespace}/{resource}");
    pool.create(&path("configmaps"), maps, |n| objects::config_map(&format!("c{n}"), 1024)).await?;
    let on_node = |n| objects::pod(&format!("p{n}"), &json!({"app": "full"}), "10m", &json!({"nodeName": nodes::name(n % NODES)}));
    pool.create(&path("pods"), pods, on_node).await?;
    let service = |n: usize| {
        let spec = json!({"selector": {"app": format!("s{n}")}, "ports": [{"port": 80}]});
        json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": format!("s{n}")}, "spec": spec}).to_string()
    };
    pool.create(&path("services"), services, service).await?;

    let (begun, meter) = (Instant::now(), Meter::start(&subject.pids));
    let one = format!("/api/v1/namespaces/{namespace}");
    pool.must("DELETE", &one, &Value::Null).await?;
    while pool.ask("GET", &one, "", &Value::Null).await?.0 != 404 {
        ensure!(begun.elapsed() < BOUND, "the namespace is there {} s after its deletion", BOUND.as_secs());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let spent = meter.stop();
    for resource in ["pods", "configmaps", "services", "serviceaccounts"] {
        let list = pool.must("GET", &path(resource), &Value::Null).await?;
        let left = list["items"].as_array().map_or(0, Vec::len);
        ensure!(left == 0, "{left} {resource} outlived their namespace");
    }
    Ok(vec![
        less("until it is gone", "s", spent.elapsed.as_secs_f64()).goal(5.0),
        less("each object", "CPU-ms", spent.cpu_ms_each(pods + maps + services)),
    ])
}
