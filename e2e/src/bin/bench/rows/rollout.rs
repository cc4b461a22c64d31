//! A Deployment on hollow nodes: none to many replicas, a rolling update, its deletion.

use std::{collections::HashMap, time::Duration};

use anyhow::{Context, ensure};
use serde_json::{Value, json};

use super::{Ctx, Found, hollow::Hollow};
use crate::{
    load::Pool,
    report::{Figure, less},
    subject::Subject,
    usage::{Meter, Spent},
    watch::Watcher,
};

const BOUND: Duration = Duration::from_secs(300);
const PODS_PER_NODE: usize = 110;

pub async fn deployment(ctx: &Ctx<'_>) -> Found {
    let subject = ctx.subject().await?;
    let (nodes, replicas) = (ctx.scale.of(10, 100), ctx.scale.of(100, 2000));
    let hollow = Hollow::start(ctx, &subject, nodes).await?;
    let mut pool = subject.pool(2).await?;
    let namespace = subject.namespace(&mut pool, "rollout").await?;
    let path = format!("/apis/apps/v1/namespaces/{namespace}/deployments");
    let made = pool.must("POST", &path, &body()).await?;
    let one = format!("{path}/many");
    let revision = made["metadata"]["resourceVersion"].as_str().unwrap_or_default();
    let watch = format!("{path}?watch=true&fieldSelector=metadata.name%3Dmany&resourceVersion={revision}");
    let mut run = Run { subject: &subject, pool, watcher: Watcher::open(&subject.door, &watch).await?, replicas, namespace, one };

    let meter = Meter::start(&subject.pids);
    run.patch_until(&json!({"spec": {"replicas": replicas}}), 0).await?;
    let (up, mut figures) = (meter.stop(), Vec::new());
    run.check("v1").await?;
    figures.extend(phase("0 to all Ready", replicas, &up, Some(5.0)));

    let meter = Meter::start(&subject.pids);
    let template = json!({"spec": {"template": {"metadata": {"labels": {"version": "v2"}}}}});
    // 25 % may be missing, upstream's default: never more.
    run.patch_until(&template, replicas - replicas / 4).await?;
    let rolled = meter.stop();
    run.check("v2").await?;
    figures.extend(phase("rolling update", replicas, &rolled, None));

    let meter = Meter::start(&subject.pids);
    run.delete().await?;
    figures.extend(phase("deletion", replicas, &meter.stop(), None));
    hollow.pid()?;
    Ok(figures)
}

struct Run<'a> {
    subject: &'a Subject,
    pool: Pool,
    watcher: Watcher,
    replicas: usize,
    namespace: String,
    one: String,
}

impl Run<'_> {
    /// Patches the Deployment, and waits until it says that all its replicas are of the newest template and available.
    async fn patch_until(&mut self, patch: &Value, available_min: usize) -> anyhow::Result<()> {
        let generation = self.pool.must("PATCH", &self.one, patch).await?["metadata"]["generation"].as_u64().unwrap_or(0);
        let wanted = self.replicas as u64;
        let done = |line: &[u8]| {
            let event: Value = serde_json::from_slice(line)?;
            let status = &event["object"]["status"];
            let count = |key: &str| status[key].as_u64().unwrap_or(0);
            ensure!(
                count("availableReplicas") >= available_min as u64,
                "only {} replicas are available: {status}",
                count("availableReplicas")
            );
            let seen = status["observedGeneration"].as_u64().unwrap_or(0) >= generation;
            Ok(seen && ["replicas", "updatedReplicas", "readyReplicas", "availableReplicas"].iter().all(|key| count(key) == wanted))
        };
        let done = tokio::time::timeout(BOUND, self.watcher.until_one(done)).await;
        done.ok().with_context(|| format!("the Deployment is not there within {} s", BOUND.as_secs()))?
    }

    /// As many pods as asked for, all Ready and of one version, and no node with more than it holds.
    async fn check(&mut self, version: &str) -> anyhow::Result<()> {
        let list = self.pool.must("GET", &format!("/api/v1/namespaces/{}/pods", self.namespace), &Value::Null).await?;
        let mut on: HashMap<&str, usize> = HashMap::new();
        let mut count = 0;
        let pods = list["items"].as_array().map(Vec::as_slice).unwrap_or_default();
        for pod in pods.iter().filter(|p| p["metadata"]["deletionTimestamp"].is_null()) {
            let conditions = pod["status"]["conditions"].as_array().map(Vec::as_slice).unwrap_or_default();
            let is_ready = conditions.iter().any(|c| c["type"] == "Ready" && c["status"] == "True");
            ensure!(is_ready && pod["metadata"]["labels"]["version"] == version, "a pod that is not Ready, or not of {version}: {pod}");
            *on.entry(pod["spec"]["nodeName"].as_str().unwrap_or_default()).or_default() += 1;
            count += 1;
        }
        ensure!(count == self.replicas, "{count} pods of {}", self.replicas);
        let most = on.values().max().copied().unwrap_or(0);
        ensure!(most <= PODS_PER_NODE, "a node has {most} pods");
        Ok(())
    }

    async fn delete(&mut self) -> anyhow::Result<()> {
        let pods = format!("/api/v1/namespaces/{}/pods", self.namespace);
        let list = self.pool.must("GET", &pods, &Value::Null).await?;
        let revision = list["metadata"]["resourceVersion"].as_str().unwrap_or_default();
        let mut left = list["items"].as_array().map_or(0, Vec::len);
        let mut watcher = Watcher::open(&self.subject.door, &format!("{pods}?watch=true&resourceVersion={revision}")).await?;
        let options = json!({"apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": "Background"});
        self.pool.must("DELETE", &self.one, &options).await?;
        let gone = |line: &[u8]| {
            ensure!(!line.starts_with(b"{\"type\":\"ADDED\""), "a pod was made after the deletion");
            left -= usize::from(line.starts_with(b"{\"type\":\"DELETED\""));
            Ok(left == 0)
        };
        let gone = tokio::time::timeout(BOUND, watcher.until_one(gone)).await;
        gone.ok().with_context(|| format!("pods are left after {} s", BOUND.as_secs()))??;
        let sets = format!("/apis/apps/v1/namespaces/{}/replicasets", self.namespace);
        let none = |list: &Value| list["items"].as_array().is_some_and(Vec::is_empty);
        self.pool.until("the sets are gone", &sets, Duration::from_secs(30), none).await.map(drop)
    }
}

fn phase(what: &str, replicas: usize, spent: &Spent, goal: Option<f64>) -> [Figure; 2] {
    let mut time = less(what, "s", spent.elapsed.as_secs_f64());
    time.goal = goal;
    [time, less(format!("{what}: each pod"), "CPU-ms", spent.cpu_ms_each(replicas))]
}

fn body() -> Value {
    let resources = json!({"requests": {"cpu": "10m", "memory": "10Mi"}});
    let spec = json!({"containers": [{"name": "c", "image": "example.test/c:1", "resources": resources}]});
    let template = json!({"metadata": {"labels": {"app": "many", "version": "v1"}}, "spec": spec});
    json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "many"},
        "spec": {"replicas": 0, "selector": {"matchLabels": {"app": "many"}}, "template": template}})
}
