//! exec -> ready, the default account, a first pod bound.

use std::time::{Duration, Instant};

use e2e::Server;
use serde_json::{Value, json};

use super::{Ctx, Found};
use crate::{
    report::less,
    subject::{Subject, options, ready},
    watch::Watcher,
};

const BOUND: Duration = Duration::from_secs(60);
const ACCOUNT: &str = "/api/v1/namespaces/default/serviceaccounts/default";

pub async fn cold(ctx: &Ctx<'_>) -> Found {
    let bin = ctx.binary()?;
    let (mut first, mut again, mut account, mut bound) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for _ in 0..ctx.scale.of(2, 5) {
        let begun = Instant::now();
        let server = Server::spawn("server", options(&bin));
        let (door, took) = ready(&server, begun).await?;
        let subject = Subject::of(server, door);
        first.push(took);
        let mut pool = subject.pool(1).await?;
        pool.until("the default account is there", ACCOUNT, BOUND, |_| true).await?;
        account.push(begun.elapsed());
        drop(pool);
        bound.push(first_pod(&subject, begun).await?);
    }
    let mut server = Server::spawn("server", options(&bin));
    ready(&server, Instant::now()).await?;
    for _ in 0..ctx.scale.of(2, 5) {
        server.stop().await;
        let begun = Instant::now();
        server.respawn();
        again.push(ready(&server, begun).await?.1);
    }
    let size = bin.metadata()?.len() as f64 / f64::from(1 << 20);
    Ok(vec![
        less("binary", "MiB on disk", size).goal(40.0),
        less("exec to readyz, empty folder", "ms", median(first)).goal(150.0),
        less("exec to readyz, again", "ms", median(again)).goal(150.0),
        less("exec to the default ServiceAccount", "ms", median(account)),
        less("exec to a first Deployment's pod bound", "ms", median(bound)).goal(300.0),
    ])
}

/// A node and a Deployment -> the time since `begun` at which a watch saw its pod bound.
async fn first_pod(subject: &Subject, begun: Instant) -> anyhow::Result<Duration> {
    let mut pool = subject.pool(1).await?;
    pool.must("POST", "/api/v1/nodes", &super::nodes::node(0)).await?;
    let template = json!({"metadata": {"labels": {"app": "first"}}, "spec": {"containers": [{"name": "c", "image": "example.test/c:1"}]}});
    let spec = json!({"replicas": 1, "selector": {"matchLabels": {"app": "first"}}, "template": template});
    let deployment = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "first"}, "spec": spec});
    pool.must("POST", "/apis/apps/v1/namespaces/default/deployments", &deployment).await?;
    let path = "/api/v1/namespaces/default/pods?watch=true&fieldSelector=spec.nodeName%21%3D";
    let mut watcher = Watcher::open(&subject.door, path).await?;
    tokio::time::timeout(BOUND, watcher.until(1, |_| {})).await.map_err(|_| anyhow::anyhow!("the first pod is not bound"))??;
    let took = begun.elapsed();
    let pods = pool.must("GET", "/api/v1/namespaces/default/pods", &Value::Null).await?;
    anyhow::ensure!(pods["items"][0]["spec"]["nodeName"] == super::nodes::name(0), "the pod is not where it must be: {pods}");
    Ok(took)
}

/// In milliseconds.
fn median(mut times: Vec<Duration>) -> f64 {
    times.sort_unstable();
    times.get(times.len() / 2).copied().unwrap_or_default().as_secs_f64() * 1000.0
}
