//! Jobs, CronJobs, sets and claims on hollow nodes: how long they take, what each pod costs, and how often the store is written to for it.

use std::{collections::HashSet, time::Duration};

use anyhow::{Context, ensure};
use api::time::Timestamp;
use serde_json::{Value, json};

use super::{Ctx, Found, hollow::Hollow};
use crate::{
    load::Pool,
    report::less,
    subject::Subject,
    usage::Meter,
    watch::{Watcher, revision},
};

const BOUND: Duration = Duration::from_secs(300);
/// What upstream's controllers make at a time.
const PARALLELISM: usize = 1000;

/// One collection whose objects are watched while others work on them.
struct Run<'a> {
    subject: &'a Subject,
    pool: Pool,
    collection: String,
    /// The first revision that nobody has seen.
    seen: u64,
}

impl<'a> Run<'a> {
    /// `collection` is below the group's path and the namespace's.
    async fn start(subject: &'a Subject, group: &str, name: &str, collection: &str) -> anyhow::Result<Self> {
        let mut pool = subject.pool(16).await?;
        let namespace = subject.namespace(&mut pool, name).await?;
        Ok(Self { subject, pool, collection: format!("{group}/namespaces/{namespace}/{collection}"), seen: 0 })
    }

    async fn revision(&mut self) -> anyhow::Result<u64> {
        let list = self.pool.must("GET", &format!("{}?limit=1", self.collection), &Value::Null).await?;
        revision(list.to_string().as_bytes()).context("a list has a revision")
    }

    /// Sends requests, and waits until an object of the collection is as `is` wants it.
    async fn phase(
        &mut self,
        what: &str,
        count: usize,
        requests: impl IntoIterator<Item = (&'static str, String, Value)>,
        mut is: impl FnMut(&Value) -> anyhow::Result<bool>,
    ) -> Found {
        self.seen = self.revision().await?;
        let watch = format!("{}?watch=true&resourceVersion={}", self.collection, self.seen);
        let mut watcher = Watcher::open(&self.subject.door, &watch).await?;
        let meter = Meter::start(&self.subject.pids);
        for (method, path, body) in requests {
            self.pool.must(method, &path, &body).await?;
        }
        let done = |line: &[u8]| is(&serde_json::from_slice::<Value>(line)?["object"]);
        tokio::time::timeout(BOUND, watcher.until_one(done))
            .await
            .with_context(|| format!("{what}: not within {} s", BOUND.as_secs()))??;
        let spent = meter.stop();
        let writes = self.revision().await? - self.seen;
        Ok(vec![
            less(what, "s", spent.elapsed.as_secs_f64()),
            less(format!("{what}: each"), "CPU-ms", spent.cpu_ms_each(count)),
            less(format!("{what}: writes for each"), "writes", writes as f64 / count as f64),
        ])
    }

    /// The pods of the namespace.
    async fn pods(&mut self) -> anyhow::Result<Vec<Value>> {
        let path = self.collection.rsplit_once("/namespaces/").and_then(|(_, rest)| rest.split_once('/')).map(|(namespace, _)| namespace);
        let path = format!("/api/v1/namespaces/{}/pods", path.context("it is in a namespace")?);
        let mut list = self.pool.must("GET", &path, &Value::Null).await?;
        Ok(list["items"].as_array_mut().map(std::mem::take).unwrap_or_default())
    }
}

fn template(version: &str, restart_policy: &str) -> Value {
    let resources = json!({"requests": {"cpu": "10m", "memory": "10Mi"}});
    let spec = json!({"restartPolicy": restart_policy, "containers": [{"name": "c", "image": "example.test/c:1", "resources": resources}]});
    json!({"metadata": {"labels": {"app": "many", "version": version}}, "spec": spec})
}

fn count(status: &Value, field: &str) -> usize {
    status[field].as_u64().and_then(|count| usize::try_from(count).ok()).unwrap_or(0)
}

fn is_complete(job: &Value) -> bool {
    let conditions = job["status"]["conditions"].as_array().map(Vec::as_slice).unwrap_or_default();
    conditions.iter().any(|condition| condition["type"] == "Complete" && condition["status"] == "True")
}

/// An indexed Job of many completions.
pub async fn job(ctx: &Ctx<'_>) -> Found {
    let subject = ctx.subject().await?;
    let indexes = ctx.scale.of(100, 5000);
    let _hollow = Hollow::start(ctx, &subject, ctx.scale.of(10, 100)).await?;
    let mut run = Run::start(&subject, "/apis/batch/v1", "job", "jobs").await?;
    let spec = json!({"completionMode": "Indexed", "completions": indexes, "parallelism": indexes.min(PARALLELISM), "template": template("v1", "Never")});
    let body = json!({"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "many"}, "spec": spec});
    let path = run.collection.clone();
    let figures = run.phase("Job", indexes, [("POST", path.clone(), body)], |job| {
        ensure!(count(&job["status"], "succeeded") <= indexes && count(&job["status"], "failed") == 0, "{}", job["status"]);
        Ok(is_complete(job))
    });
    let figures = figures.await?;
    let job = run.pool.must("GET", &format!("{path}/many"), &Value::Null).await?;
    ensure!(job["status"]["completedIndexes"] == format!("0-{}", indexes - 1), "not each index once: {}", job["status"]);
    ensure!(run.pods().await?.len() == indexes, "a pod of an index is missing, or there is more than one");
    Ok(figures)
}

/// CronJobs that are due at one moment.
pub async fn cron_jobs(ctx: &Ctx<'_>) -> Found {
    let subject = ctx.subject().await?;
    let jobs = ctx.scale.of(10, 200);
    let _hollow = Hollow::start(ctx, &subject, ctx.scale.of(2, 10)).await?;
    let mut run = Run::start(&subject, "/apis/batch/v1", "cronjobs", "jobs").await?;
    let path = run.collection.replace("/jobs", "/cronjobs");
    // All of them have missed the last minute, once they are no longer suspended: their time need not be waited for.
    let of = move |n: usize| {
        let job = json!({"spec": {"template": template("v1", "Never")}});
        let spec = json!({"schedule": "* * * * *", "suspend": true, "jobTemplate": job});
        json!({"apiVersion": "batch/v1", "kind": "CronJob", "metadata": {"name": format!("each-{n}")}, "spec": spec}).to_string()
    };
    run.pool.create(&path, jobs, of).await?;
    let missed = api::time::rfc3339(api::time::before(Timestamp::now(), 120));
    for n in 0..jobs {
        let status = json!({"status": {"lastScheduleTime": missed}});
        run.pool.must("PATCH", &format!("{path}/each-{n}/status"), &status).await?;
    }
    let goes_on = (0..jobs).map(|n| ("PATCH", format!("{path}/each-{n}"), json!({"spec": {"suspend": false}})));
    let mut owners = HashSet::new();
    let complete = |job: &Value| {
        if is_complete(job) {
            owners.insert(job["metadata"]["ownerReferences"][0]["name"].as_str().unwrap_or_default().to_owned());
        }
        Ok(owners.len() == jobs)
    };
    run.phase("CronJobs that are due", jobs, goes_on, complete).await
}

/// A DaemonSet on all nodes, and rolled.
pub async fn daemon_set(ctx: &Ctx<'_>) -> Found {
    let subject = ctx.subject().await?;
    let nodes = ctx.scale.of(20, 1000);
    let _hollow = Hollow::start(ctx, &subject, nodes).await?;
    let mut run = Run::start(&subject, "/apis/apps/v1", "daemonset", "daemonsets").await?;
    let strategy = json!({"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": "10%"}});
    let spec = json!({"selector": {"matchLabels": {"app": "many"}}, "updateStrategy": strategy, "template": template("v1", "Always")});
    let body = json!({"apiVersion": "apps/v1", "kind": "DaemonSet", "metadata": {"name": "many"}, "spec": spec});
    let path = run.collection.clone();
    let is = |generation: u64, missing: usize| {
        move |set: &Value| {
            let status = &set["status"];
            let is_seen = status["observedGeneration"].as_u64() == Some(generation);
            let available = count(status, "numberAvailable");
            ensure!(generation == 1 || available + missing >= nodes, "only {available} pods are available: {status}");
            let fields = ["desiredNumberScheduled", "updatedNumberScheduled", "numberReady", "numberAvailable"];
            Ok(is_seen && fields.iter().all(|field| count(status, field) == nodes))
        }
    };
    let mut figures = run.phase("DaemonSet", nodes, [("POST", path.clone(), body)], is(1, nodes)).await?;
    let template = json!({"spec": {"template": {"metadata": {"labels": {"version": "v2"}}}}});
    let rolled = run.phase("rolled", nodes, [("PATCH", format!("{path}/many"), template)], is(2, nodes.div_ceil(10))).await?;
    figures.extend(rolled);
    let pods = run.pods().await?;
    let on: HashSet<&str> = pods.iter().filter_map(|pod| pod["spec"]["nodeName"].as_str()).collect();
    ensure!(pods.len() == nodes && on.len() == nodes, "{} pods on {} nodes of {nodes}", pods.len(), on.len());
    ensure!(pods.iter().all(|pod| pod["metadata"]["labels"]["version"] == "v2"), "a pod is of the old version");
    Ok(figures)
}

/// A StatefulSet that makes its pods at once.
pub async fn stateful_set(ctx: &Ctx<'_>) -> Found {
    let subject = ctx.subject().await?;
    let replicas = ctx.scale.of(50, 500);
    let _hollow = Hollow::start(ctx, &subject, ctx.scale.of(5, 50)).await?;
    let mut run = Run::start(&subject, "/apis/apps/v1", "statefulset", "statefulsets").await?;
    let spec = json!({"replicas": replicas, "podManagementPolicy": "Parallel", "serviceName": "many",
        "selector": {"matchLabels": {"app": "many"}}, "template": template("v1", "Always")});
    let body = json!({"apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": {"name": "many"}, "spec": spec});
    let path = run.collection.clone();
    let is_there = |set: &Value| {
        let fields = ["replicas", "readyReplicas", "availableReplicas", "updatedReplicas"];
        Ok(fields.iter().all(|field| count(&set["status"], field) == replicas))
    };
    let figures = run.phase("StatefulSet, parallel", replicas, [("POST", path, body)], is_there).await?;
    let names: HashSet<String> = run.pods().await?.iter().filter_map(|pod| pod["metadata"]["name"].as_str().map(str::to_owned)).collect();
    ensure!(names == (0..replicas).map(|ordinal| format!("many-{ordinal}")).collect(), "not one pod of each ordinal");
    Ok(figures)
}

/// Claims that wait for their pods, and local volumes of the nodes.
pub async fn claims(ctx: &Ctx<'_>) -> Found {
    let subject = ctx.subject().await?;
    let (nodes, claims) = (ctx.scale.of(5, 100), ctx.scale.of(20, 1000));
    let _hollow = Hollow::start(ctx, &subject, nodes).await?;
    let mut run = Run::start(&subject, "/api/v1", "claims", "persistentvolumeclaims").await?;
    let (classes, class) = ("/apis/storage.k8s.io/v1/storageclasses", "bench-local");
    let body = json!({"apiVersion": "storage.k8s.io/v1", "kind": "StorageClass", "metadata": {"name": class},
        "provisioner": "kubernetes.io/no-provisioner", "volumeBindingMode": "WaitForFirstConsumer"});
    subject.object(&mut run.pool, classes, &body).await?;
    let size = json!({"storage": "1Gi"});
    let modes = json!(["ReadWriteOnce"]);
    for n in 0..claims {
        subject.forget_later(format!("/api/v1/persistentvolumes/bench-{n}"));
    }
    let (capacity, access) = (size.clone(), modes.clone());
    let volume = move |n: usize| {
        let on = json!({"key": "kubernetes.io/hostname", "operator": "In", "values": [format!("hollow-{}", n % nodes)]});
        let spec = json!({"capacity": capacity, "accessModes": access, "storageClassName": class, "local": {"path": format!("/disks/{n}")},
            "persistentVolumeReclaimPolicy": "Retain", "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [on]}]}}});
        json!({"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": format!("bench-{n}")}, "spec": spec}).to_string()
    };
    run.pool.create("/api/v1/persistentvolumes", claims, volume).await?;
    let path = run.collection.clone();
    let claim = move |n: usize| {
        let spec = json!({"accessModes": modes, "storageClassName": class, "resources": {"requests": size}});
        json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": format!("c-{n}")}, "spec": spec}).to_string()
    };
    run.pool.create(&path, claims, claim).await?;
    let pods = path.replace("/persistentvolumeclaims", "/pods");
    let of = |n: usize| {
        let mut pod = template("v1", "Always");
        pod["metadata"]["name"] = format!("p-{n}").into();
        pod["spec"]["volumes"] = json!([{"name": "v", "persistentVolumeClaim": {"claimName": format!("c-{n}")}}]);
        pod["kind"] = "Pod".into();
        pod["apiVersion"] = "v1".into();
        ("POST", pods.clone(), pod)
    };
    let mut bound = HashSet::new();
    let mut volumes = HashSet::new();
    let is_bound = |claim: &Value| {
        if claim["status"]["phase"] == "Bound" && bound.insert(claim["metadata"]["name"].to_string()) {
            let volume = claim["spec"]["volumeName"].to_string();
            ensure!(volumes.insert(volume.clone()), "{volume} is bound to two claims");
        }
        Ok(bound.len() == claims)
    };
    run.phase("claims of pods", claims, (0..claims).map(of), is_bound).await
}
