//! `skiff agent --hollow N` beside a server: nodes that register and run pods without running them.

use std::{
    path::Path,
    process::Stdio,
    time::{Duration, Instant},
};

use anyhow::{Context, bail, ensure};
use serde_json::Value;
use tempfile::NamedTempFile;
use tokio::{
    io::{AsyncBufReadExt, BufReader, Lines},
    process::{Child, ChildStdout, Command},
};

use super::{Ctx, Found, Skip, idle};
use crate::{
    report::{less, more},
    subject::Subject,
    usage::{Meter, usage},
};

const REGISTERED_BOUND: Duration = Duration::from_secs(300);
/// Pods become Ready, and go, as soon as they are told to: what is measured is the control plane.
const STAGES: &str = "\
stages:
- name: pod-ready
  kind: Pod
  when: {deleted: false, phase: [Pending]}
  next: {phase: Running, ready: true}
- name: pod-complete
  kind: Pod
  when: {deleted: false, phase: [Running], restartPolicy: [Never, OnFailure]}
  next: {phase: Succeeded}
- name: pod-delete
  kind: Pod
  when: {deleted: true}
  next: {delete: true}
";

/// The agent; it ends with this.
pub struct Hollow {
    child: Child,
    out: Lines<BufReader<ChildStdout>>,
    _stages: NamedTempFile,
    /// From its start until all nodes were registered.
    pub registered_in: Duration,
}

impl Hollow {
    pub async fn start(ctx: &Ctx<'_>, subject: &Subject, count: usize) -> anyhow::Result<Self> {
        let begun = Instant::now();
        let mut hollow = Self::spawn(ctx, subject, count, &["--kubeconfig", &path(&subject.kubeconfig)]).await?;
        hollow.said("hollow nodes are registered").await?;
        hollow.registered_in = begun.elapsed();
        until_usable(subject, count).await?;
        Ok(hollow)
    }

    /// Nodes that join with a token, each as itself.
    pub async fn join(ctx: &Ctx<'_>, subject: &Subject, count: usize, token: &str) -> anyhow::Result<Self> {
        Self::spawn(ctx, subject, count, &["--server", &subject.door.url(), "--token", token]).await
    }

    async fn spawn(ctx: &Ctx<'_>, subject: &Subject, count: usize, way: &[&str]) -> anyhow::Result<Self> {
        let Some(bin) = &ctx.args.hollow else { bail!(Skip("needs --hollow: a binary that makes nodes".into())) };
        let help = Command::new(bin).args(["agent", "--help"]).output().await?;
        if !String::from_utf8_lossy(&help.stdout).contains("--hollow") {
            bail!(Skip(format!("{} makes no hollow nodes", bin.display())));
        }
        let stages = tempfile::Builder::new().prefix("bench-stages-").suffix(".yaml").tempfile()?;
        std::fs::write(stages.path(), STAGES)?;
        for n in 0..count {
            subject.forget_later(format!("/api/v1/nodes/hollow-{n}"));
        }
        let mut command = Command::new(bin);
        command.arg("agent").arg("--hollow").arg(count.to_string()).args(way).arg("--stages").arg(stages.path());
        command.args(["--zones", "10"]).env_remove("KUBECONFIG").stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.kill_on_drop(true).spawn().with_context(|| path(bin))?;
        let out = BufReader::new(child.stdout.take().context("its output is piped")?).lines();
        Ok(Self { child, out, _stages: stages, registered_in: Duration::ZERO })
    }

    pub fn pid(&self) -> anyhow::Result<u32> {
        self.child.id().context("the hollow agent ended")
    }

    /// Waits until it says so.
    pub async fn said(&mut self, what: &str) -> anyhow::Result<()> {
        let said = async {
            while let Some(line) = self.out.next_line().await? {
                if line.contains(what) {
                    return Ok(());
                }
            }
            bail!("the hollow agent ended before it said {what:?}")
        };
        let waited = tokio::time::timeout(REGISTERED_BOUND, said).await;
        waited.map_err(|_| anyhow::anyhow!("the hollow agent has not said {what:?} within {} s", REGISTERED_BOUND.as_secs()))?
    }
}

fn path(of: &Path) -> String {
    of.display().to_string()
}

/// Until pods may be put on all of them.
pub async fn until_usable(subject: &Subject, count: usize) -> anyhow::Result<()> {
    let free = move |list: &Value| {
        let items = list["items"].as_array().map(Vec::as_slice).unwrap_or_default();
        let ours = items.iter().filter(|i| i["metadata"]["name"].as_str().is_some_and(|n| n.starts_with("hollow-")));
        ours.filter(|i| i["spec"]["taints"].as_array().is_none_or(Vec::is_empty)).count() == count
    };
    subject.pool(1).await?.until("hollow nodes are Ready", "/api/v1/nodes", REGISTERED_BOUND, free).await.map(drop)
}

/// A server with 100 hollow nodes and nothing to do.
pub async fn idle(ctx: &Ctx<'_>) -> Found {
    let subject = ctx.subject().await?;
    let count = ctx.scale.of(20, 100);
    let hollow = Hollow::start(ctx, &subject, count).await?;
    let spent = idle::left_alone(ctx, &subject.pids).await;
    all_ready(&subject, count).await?;
    hollow.pid()?;
    let mut figures = idle::figures(&spent, 40.0);
    figures.iter_mut().for_each(|f| f.goal = None);
    Ok(figures)
}

/// What the hollow agent itself needs.
pub async fn agent(ctx: &Ctx<'_>) -> Found {
    let subject = ctx.subject().await?;
    let count = ctx.scale.of(100, 5000);
    let hollow = Hollow::start(ctx, &subject, count).await?;
    let pids = [hollow.pid()?];
    tokio::time::sleep(Duration::from_secs(ctx.scale.of(1, 15) as u64)).await;
    let (meter, of_server) = (Meter::start(&pids), Meter::start(&subject.pids));
    tokio::time::sleep(Duration::from_secs(ctx.scale.of(3, 40) as u64)).await;
    let (spent, of_server) = (meter.stop(), of_server.stop());
    all_ready(&subject, count).await?;
    let percent = |cpu_ms: f64| cpu_ms / 10.0 / spent.elapsed.as_secs_f64();
    Ok(vec![
        less("agent: resident", "MiB", usage(&pids).rss_kib as f64 / 1024.0).goal(150.0),
        less("agent: CPU", "% of a core", percent(spent.cpu_ms)).goal(10.0),
        less("server: CPU", "% of a core", percent(of_server.cpu_ms)),
        less("server: resident", "MiB", of_server.after.rss_kib as f64 / 1024.0),
        more("registered", "nodes/s", count as f64 / hollow.registered_in.as_secs_f64()),
    ])
}

pub async fn all_ready(subject: &Subject, count: usize) -> anyhow::Result<()> {
    let mut pool = subject.pool(1).await?;
    let nodes = pool.must("GET", "/api/v1/nodes", &Value::Null).await?;
    let is_ready = |node: &&Value| {
        let conditions = node["status"]["conditions"].as_array().map(Vec::as_slice).unwrap_or_default();
        conditions.iter().any(|c| c["type"] == "Ready" && c["status"] == "True")
    };
    let hollow = nodes["items"].as_array().map(Vec::as_slice).unwrap_or_default().iter();
    let ready = hollow.filter(|n| n["metadata"]["name"].as_str().is_some_and(|n| n.starts_with("hollow-"))).filter(is_ready).count();
    ensure!(ready == count, "{ready} of {count} hollow nodes are Ready");
    Ok(())
}
