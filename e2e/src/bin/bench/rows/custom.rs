//! Custom resources: created, applied, listed. Skipped where the server does not serve their definitions.

use std::{sync::Arc, time::Duration};

use anyhow::{bail, ensure};
use serde_json::{Value, json};

use super::{Ctx, Found, Skip};
use crate::{
    load::status,
    report::{less, more},
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

    let meter = Meter::start(&subject.pids);
    pool.create(&path, count, |n| widget(n, 1)).await?;
    let created = meter.stop();
    let meter = Meter::start(&subject.pids);
    let (door, applied_path) = (subject.door.clone(), path.clone());
    let apply = move |n: usize, out: &mut Vec<u8>| {
        let path = format!("{applied_path}/w{n}?fieldManager=bench&force=true");
        door.full("PATCH", &path, "application/apply-patch+yaml", widget(n, 2).as_bytes(), out);
    };
    pool.run(count, Arc::new(apply), status(200)).await?;
    let applied = meter.stop();
    let meter = Meter::start(&subject.pids);
    let list = pool.must("GET", &path, &Value::Null).await?;
    let listed = meter.stop();
    let items = list["items"].as_array().map(Vec::as_slice).unwrap_or_default();
    let right = items.iter().filter(|i| i["spec"]["size"] == 2 && i["spec"]["color"] == "blue").count();
    ensure!(right == count && items.len() == count, "{right} of {} widgets are as applied, of {count}", items.len());
    Ok(vec![
        less("create", "CPU-ms", created.cpu_ms_each(count)),
        more("create: rate", "/s", created.per_second(count)),
        less("apply", "CPU-ms", applied.cpu_ms_each(count)),
        more("apply: rate", "/s", applied.per_second(count)),
        less("list of all", "CPU-ms", listed.cpu_ms),
    ])
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
