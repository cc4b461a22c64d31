//! Pods POSTed on a cluster of Ready nodes -> bound, as a watch sees it; then every placement is checked against what was asked.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, ensure};
use serde_json::{Value, json};

use super::{
    Ctx, Found,
    nodes::{self, check_room},
    objects,
};
use crate::{
    door::JSON,
    load::{Pool, status},
    report::{Figure, less, more},
    subject::Subject,
    usage::Meter,
    watch::Watcher,
};

const BOUND: Duration = Duration::from_secs(600);
/// A pod that fits nowhere must say so by then.
const SAID_BOUND: Duration = Duration::from_secs(60);
const UNFIT_EVERY: usize = 5;

/// Pod `n` of a run: what its labels and spec hold besides the usual.
type Shape = Arc<dyn Fn(usize) -> Asked + Send + Sync>;

/// What pod `n` asks for.
struct Asked {
    labels: Value,
    cpu: &'static str,
    more: Value,
}

struct Plan {
    nodes: usize,
    pods: usize,
    /// How many of them fit.
    fit: usize,
    shape: Shape,
    rate_goal: f64,
    cpu_goal: Option<f64>,
}

/// A cluster with nodes and namespaces, before the pods.
struct Stage {
    subject: Arc<Subject>,
    pool: Pool,
    namespaces: Vec<String>,
    _nodes: nodes::Nodes,
}

pub async fn thousand(ctx: &Ctx<'_>) -> Found {
    simple(ctx, ctx.scale.of(50, 1000), 2000.0).await
}

pub async fn five_thousand(ctx: &Ctx<'_>) -> Found {
    simple(ctx, ctx.scale.of(200, 5000), 1500.0).await
}

async fn simple(ctx: &Ctx<'_>, nodes: usize, rate_goal: f64) -> Found {
    let pods = ctx.scale.of(500, 10_000);
    let shape = Arc::new(|_| Asked { labels: json!({"app": "simple"}), cpu: "100m", more: json!({}) });
    let mut stage = Stage::set(ctx, nodes, 1).await?;
    let (figures, _) = stage.bind(&Plan { nodes, pods, fit: pods, shape, rate_goal, cpu_goal: Some(0.5) }).await?;
    Ok(figures)
}

pub async fn affinity(ctx: &Ctx<'_>) -> Found {
    let groups = ctx.scale.of(10, 100);
    let shape = move |n: usize| {
        let labels = json!({"group": format!("g{}", n % groups)});
        let term = json!([{"labelSelector": {"matchLabels": labels}, "topologyKey": "topology.kubernetes.io/zone"}]);
        let more = json!({"affinity": {"podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": term}}});
        Asked { labels, cpu: "100m", more }
    };
    let (mut stage, plan) = hard(ctx, 1, Arc::new(shape)).await?;
    let (figures, pods) = stage.bind(&plan).await?;
    for (group, zones) in by_group(&pods, zone_of)? {
        ensure!(zones.iter().collect::<HashSet<_>>().len() == 1, "group {group} is in more than one zone");
    }
    Ok(figures)
}

pub async fn anti_affinity(ctx: &Ctx<'_>) -> Found {
    let (mut stage, mut plan) = hard(ctx, 2, Arc::new(|_| Asked { labels: json!({}), cpu: "100m", more: json!({}) })).await?;
    let groups = plan.pods.div_ceil(plan.nodes / 2);
    let namespaces = stage.namespaces.clone();
    plan.shape = Arc::new(move |n| {
        let labels = json!({"group": format!("g{}", n % groups)});
        let term = json!([{"labelSelector": {"matchLabels": labels}, "namespaces": namespaces, "topologyKey": "kubernetes.io/hostname"}]);
        let more = json!({"affinity": {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": term}}});
        Asked { labels, cpu: "100m", more }
    });
    let (figures, pods) = stage.bind(&plan).await?;
    for (group, on) in by_group(&pods, |pod| pod["spec"]["nodeName"].as_str().map(str::to_owned))? {
        ensure!(on.iter().collect::<HashSet<_>>().len() == on.len(), "two pods of group {group} are on one node");
    }
    Ok(figures)
}

pub async fn spread(ctx: &Ctx<'_>) -> Found {
    let shape = |n: usize| {
        let labels = json!({"group": format!("g{}", n % 10)});
        let more = json!({"topologySpreadConstraints": [{"maxSkew": 1, "topologyKey": "topology.kubernetes.io/zone",
            "whenUnsatisfiable": "DoNotSchedule", "labelSelector": {"matchLabels": labels}}]});
        Asked { labels, cpu: "100m", more }
    };
    let (mut stage, plan) = hard(ctx, 1, Arc::new(shape)).await?;
    let (figures, pods) = stage.bind(&plan).await?;
    for (group, zones) in by_group(&pods, zone_of)? {
        let mut counts: HashMap<String, usize> = (0..nodes::ZONES).map(|z| (nodes::zone(z), 0)).collect();
        zones.into_iter().for_each(|zone| *counts.entry(zone).or_default() += 1);
        let (least, most) = (counts.values().min().copied().unwrap_or(0), counts.values().max().copied().unwrap_or(0));
        ensure!(most - least <= 1, "group {group} is spread with a skew of {}: {counts:?}", most - least);
    }
    Ok(figures)
}

pub async fn mixed(ctx: &Ctx<'_>) -> Found {
    let shape = |n: usize| {
        let cpu = if n.is_multiple_of(UNFIT_EVERY) { "64" } else { "100m" };
        Asked { labels: json!({"app": "mixed"}), cpu, more: json!({}) }
    };
    let (mut stage, mut plan) = hard(ctx, 1, Arc::new(shape)).await?;
    plan.fit = plan.pods - plan.pods.div_ceil(UNFIT_EVERY);
    let (figures, _) = stage.bind(&plan).await?;
    let unfit = plan.pods - plan.fit;
    let said = move |list: &Value| {
        let pods = list["items"].as_array().map(Vec::as_slice).unwrap_or_default();
        let told = pods.iter().filter(|p| p["status"]["conditions"][0]["reason"] == "Unschedulable");
        pods.len() == unfit && told.count() == unfit
    };
    let path = format!("/api/v1/namespaces/{}/pods?fieldSelector=spec.nodeName%3D", stage.namespaces[0]);
    stage.pool.until("pods that fit nowhere say so", &path, SAID_BOUND, said).await?;
    Ok(figures)
}

/// Nodes full of pods that matter less; each new pod must make room for itself.
pub async fn preemption(ctx: &Ctx<'_>) -> Found {
    let shape = |_| Asked { labels: json!({"app": "high"}), cpu: "3", more: json!({"priorityClassName": "bench-high"}) };
    let (mut stage, mut plan) = hard(ctx, 1, Arc::new(shape)).await?;
    (plan.pods, plan.fit, plan.rate_goal) = (plan.nodes / 2, plan.nodes / 2, 0.0);
    for (name, value) in [("bench-low", 10), ("bench-high", 1000)] {
        let class = json!({"apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass", "metadata": {"name": name}, "value": value});
        stage.subject.object(&mut stage.pool, "/apis/scheduling.k8s.io/v1/priorityclasses", &class).await?;
    }
    let path = format!("/api/v1/namespaces/{}/pods", stage.namespaces[0]);
    let nodes = plan.nodes;
    let low = move |n: usize| {
        let more = json!({"priorityClassName": "bench-low", "nodeName": nodes::name(n % nodes)});
        objects::pod(&format!("low{n}"), &json!({"app": "low"}), "1900m", &more)
    };
    stage.pool.create(&path, nodes * 2, low).await?;
    let (mut figures, _) = stage.bind(&plan).await?;
    let all = stage.pool.must("GET", &path, &Value::Null).await?;
    let all = all["items"].as_array().context("a list has items")?;
    check_room(all)?;
    // Two must go for each; more go where the scheduler changed its mind.
    let gone = nodes * 2 - all.iter().filter(|p| p["metadata"]["labels"]["app"] == "low").count();
    ensure!(gone >= plan.pods * 2, "{} pods fit although only {gone} were evicted", plan.pods);
    figures.push(less("evicted beyond need", "% of pods", (gone - plan.pods * 2) as f64 * 50.0 / plan.pods as f64));
    Ok(figures)
}

async fn hard(ctx: &Ctx<'_>, namespaces: usize, shape: Shape) -> anyhow::Result<(Stage, Plan)> {
    let (nodes, pods) = (ctx.scale.of(50, 1000), ctx.scale.of(200, 5000));
    let stage = Stage::set(ctx, nodes, namespaces).await?;
    Ok((stage, Plan { nodes, pods, fit: pods, shape, rate_goal: 1000.0, cpu_goal: None }))
}

impl Stage {
    async fn set(ctx: &Ctx<'_>, nodes: usize, namespaces: usize) -> anyhow::Result<Self> {
        let subject = ctx.subject().await?;
        let mut pool = subject.pool(64).await?;
        let mut names = Vec::new();
        for _ in 0..namespaces {
            names.push(subject.namespace(&mut pool, "schedule").await?);
        }
        let nodes = nodes::make(&subject, nodes).await?;
        Ok(Self { subject, pool, namespaces: names, _nodes: nodes })
    }

    /// Makes the pods, waits until all that fit are bound, and checks what holds for every run. The bound pods.
    async fn bind(&mut self, plan: &Plan) -> anyhow::Result<(Vec<Figure>, Vec<Value>)> {
        let mark = &self.namespaces[0];
        let list = self.pool.must("GET", "/api/v1/pods?limit=1", &Value::Null).await?;
        let revision = list["metadata"]["resourceVersion"].as_str().unwrap_or_default();
        let selected = format!("/api/v1/pods?labelSelector=run%3D{mark}");
        let path = format!("{selected}&watch=true&fieldSelector=spec.nodeName%21%3D&resourceVersion={revision}");
        let mut watcher = Watcher::open(&self.subject.door, &path).await?;
        let (door, namespaces, shape, run) = (self.subject.door.clone(), self.namespaces.clone(), plan.shape.clone(), mark.clone());
        let make = move |n: usize, out: &mut Vec<u8>| {
            let Asked { mut labels, cpu, more } = shape(n);
            labels["run"] = json!(run);
            let body = objects::pod(&format!("p{n}"), &labels, cpu, &more);
            door.full("POST", &format!("/api/v1/namespaces/{}/pods", namespaces[n % namespaces.len()]), JSON, body.as_bytes(), out);
        };
        let meter = Meter::start(&self.subject.pids);
        let bound = tokio::time::timeout(BOUND, watcher.until(plan.fit, |_| {}));
        let (made, bound) = tokio::join!(self.pool.run(plan.pods, Arc::new(make), status(201)), bound);
        let spent = meter.stop();
        made?;
        bound.ok().with_context(|| format!("not all of {} pods are bound within {} s", plan.fit, BOUND.as_secs()))??;

        let mut pods = self.pool.must("GET", &selected, &Value::Null).await?;
        let pods: Vec<Value> = pods["items"].as_array_mut().map(std::mem::take).context("a list has items")?;
        ensure!(pods.len() == plan.pods, "{} pods of {}", pods.len(), plan.pods);
        let (bound, free): (Vec<Value>, Vec<Value>) = pods.into_iter().partition(|p| p["spec"]["nodeName"].is_string());
        ensure!(bound.len() == plan.fit, "{} pods are bound and {} are not; {} fit", bound.len(), free.len(), plan.fit);
        check_room(&bound)?;
        let mut cpu = less("each, made and bound", "CPU-ms", spent.cpu_ms_each(plan.fit));
        cpu.goal = plan.cpu_goal;
        let mut rate = more("bound", "pods/s", spent.per_second(plan.fit));
        rate.goal = (plan.rate_goal > 0.0).then_some(plan.rate_goal);
        let peak = less("peak memory", "MiB", spent.after.peak_kib as f64 / 1024.0);
        Ok((vec![cpu, rate, peak], bound))
    }
}

/// The zone of the node that a pod is on.
fn zone_of(pod: &Value) -> Option<String> {
    let node = pod["spec"]["nodeName"].as_str()?.rsplit('-').next()?;
    Some(nodes::zone(node.parse().ok()?))
}

fn by_group(pods: &[Value], what: impl Fn(&Value) -> Option<String>) -> anyhow::Result<HashMap<String, Vec<String>>> {
    let mut groups: HashMap<String, Vec<String>> = HashMap::new();
    for pod in pods {
        let group = pod["metadata"]["labels"]["group"].as_str().context("the pod has a group")?.to_owned();
        groups.entry(group).or_default().push(what(pod).context("the pod is on one of our nodes")?);
    }
    Ok(groups)
}
