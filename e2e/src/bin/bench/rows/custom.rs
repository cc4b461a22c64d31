//! Custom resources: created, read, applied, listed; and objects of a built-in kind, with as much in them. Skipped where the server does not serve their definitions.

use std::{sync::Arc, time::Duration};

use anyhow::{bail, ensure};
use serde_json::{Value, json};

use super::{Ctx, Found, Skip};
use crate::{
    door::JSON,
    load::{Pool, status},
    report::less,
    subject::Subject,
    usage::Meter,
};

const DEFINITIONS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";

pub async fn resources(ctx: &Ctx<'_>) -> Found {
    let subject = ctx.subject().await?;
    let mut pool = subject.pool(64).await?;
    let (code, served) = pool.ask("GET", "/apis/apiextensions.k8s.io/v1", "", &Value::Null).await?;
    let verbs = served["resources"].as_array().and_then(|all| all.iter().find(|r| r["name"] == "customresourcedefinitions"));
    if code != 200 || !verbs.is_some_and(|r| r["verbs"].as_array().is_some_and(|v| v.iter().any(|v| v == "create"))) {
        bail!(Skip("custom resources are not served yet".into()));
    }
    let count = ctx.scale.of(200, 10_000);
    subject.object(&mut pool, DEFINITIONS, &definition()).await?;
    let one = format!("{DEFINITIONS}/widgets.bench.example.test");
    let established = |crd: &Value| {
        let conditions = crd["status"]["conditions"].as_array().map(Vec::as_slice).unwrap_or_default();
        conditions.iter().any(|c| c["type"] == "Established" && c["status"] == "True")
    };
    pool.until("the definition is established", &one, Duration::from_secs(30), established).await?;
    let namespace = subject.namespace(&mut pool, "custom").await?;
    let path = format!("/apis/bench.example.test/v1/namespaces/{namespace}/widgets");
    pool.until("the resource is served", &path, Duration::from_secs(30), |_| true).await?;

    let own = cost(&subject, &mut pool, &path, count, widget).await?;
    let maps = format!("/api/v1/namespaces/{namespace}/configmaps");
    let built_in = cost(&subject, &mut pool, &maps, count, config_map).await?;
    let list = pool.must("GET", &path, &Value::Null).await?;
    let items = list["items"].as_array().map(Vec::as_slice).unwrap_or_default();
    let right = items.iter().filter(|i| i["spec"]["size"] == 2 && i["spec"]["color"] == "blue").count();
    ensure!(right == count && items.len() == count, "{right} of {} widgets are as applied, of {count}", items.len());
    let mut figures = Vec::new();
    for ((what, own), (_, built_in)) in own.into_iter().zip(built_in) {
        figures.push(less(what, "CPU-ms", own));
        figures.push(less(format!("{what}: built in"), "CPU-ms", built_in));
        figures.push(less(format!("{what}: of a built-in's"), "times", own / built_in.max(0.001)).goal(1.3));
    }
    Ok(figures)
}

/// CPU-ms of what is done with as many objects.
async fn cost(
    subject: &Subject,
    pool: &mut Pool,
    path: &str,
    count: usize,
    body: fn(usize, usize) -> String,
) -> anyhow::Result<[(&'static str, f64); 4]> {
    pool.create(path, count / 10, move |n| body(count + n, 1)).await?;
    let meter = Meter::start(&subject.pids);
    pool.create(path, count, move |n| body(n, 1)).await?;
    let create = meter.stop().cpu_ms_each(count);
    let request = subject.door.bare("GET", &format!("{path}/w1"), JSON);
    let make = Arc::new(move |_, out: &mut Vec<u8>| out.clone_from(&request));
    let meter = Meter::start(&subject.pids);
    pool.run(2 * count, make, status(200)).await?;
    let get = meter.stop().cpu_ms_each(2 * count);
    let (door, applied) = (subject.door.clone(), path.to_owned());
    let make = move |n: usize, out: &mut Vec<u8>| {
        let path = format!("{applied}/w{n}?fieldManager=bench&force=true");
        door.full("PATCH", &path, "application/apply-patch+yaml", body(n, 2).as_bytes(), out);
    };
    let meter = Meter::start(&subject.pids);
    pool.run(count, Arc::new(make), status(200)).await?;
    let apply = meter.stop().cpu_ms_each(count);
    for n in count..count + count / 10 {
        pool.must("DELETE", &format!("{path}/w{n}"), &Value::Null).await?;
    }
    let rounds = 8;
    let meter = Meter::start(&subject.pids);
    for _ in 0..rounds {
        pool.must("GET", path, &Value::Null).await?;
    }
    let list = meter.stop().cpu_ms_each(rounds);
    Ok([("create", create), ("get", get), ("apply", apply), ("list of all", list)])
}

fn definition() -> Value {
    let properties =
        json!({"size": {"type": "integer", "minimum": 0}, "color": {"type": "string", "default": "blue"}, "text": {"type": "string"}});
    let schema = json!({"openAPIV3Schema": {"type": "object", "properties": {"spec": {"type": "object", "properties": properties}}}});
    json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": {"name": "widgets.bench.example.test"},
        "spec": {"group": "bench.example.test", "scope": "Namespaced", "names": {"plural": "widgets", "singular": "widget", "kind": "Widget"},
            "versions": [{"name": "v1", "served": true, "storage": true, "schema": schema}]}})
}

fn widget(n: usize, size: usize) -> String {
    let spec = json!({"size": size, "text": "x".repeat(512)});
    json!({"apiVersion": "bench.example.test/v1", "kind": "Widget", "metadata": {"name": format!("w{n}")}, "spec": spec}).to_string()
}

fn config_map(n: usize, size: usize) -> String {
    let data = json!({"size": size.to_string(), "color": "blue", "text": "x".repeat(512)});
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": format!("w{n}")}, "data": data}).to_string()
}
