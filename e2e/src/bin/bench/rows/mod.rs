//! The rows of the table, and what they have in common.

mod apart;
mod apply;
mod audited;
mod crash;
mod custom;
mod dns;
mod hollow;
mod idle;
mod joins;
mod leases;
mod lists;
mod namespaces;
mod nodes;
mod objects;
mod parts;
mod pods;
mod rollout;
mod scale;
mod schedule;
mod services;
mod start;
mod up;
mod watches;
mod workloads;
mod writes;

use std::{fmt, future::Future, path::PathBuf, pin::Pin, sync::Arc};

use anyhow::bail;
use parking_lot::Mutex;

use crate::{
    args::{Args, Scale},
    report::Figure,
    subject::{Side, Subject},
};

/// What a row found. It ends with a check of what was done: an error is a wrong result, or a [`Skip`].
pub type Found = anyhow::Result<Vec<Figure>>;
type Run = for<'a> fn(&'a Ctx<'a>) -> Pin<Box<dyn Future<Output = Found> + 'a>>;

pub struct Row {
    pub name: &'static str,
    pub what: &'static str,
    pub run: Run,
}

macro_rules! row {
    ($name:literal, $run:path, $what:literal) => {
        Row { name: $name, what: $what, run: |ctx| Box::pin($run(ctx)) }
    };
}

pub const ROWS: &[Row] = &[
    row!("cold-start", start::cold, "exec to readyz, to the default ServiceAccount, to a first Deployment's pod bound"),
    row!("idle", idle::bare, "memory, CPU and bytes written of a server that has nothing to do"),
    row!("idle-hollow", hollow::idle, "the same with 100 hollow nodes"),
    row!("idle-up", idle::whole, "the same of `skiff up`: with node agent, proxy and DNS"),
    row!("idle-agent", apart::agent, "an agent alone on a machine (a namespace), its server on another"),
    row!("idle-etcd", apart::beside_etcd, "a server whose objects are in etcd, which is another process"),
    row!("loaded", idle::loaded, "memory with 1,000 nodes, 30,000 pods and 10,000 ConfigMaps"),
    row!("create", writes::create, "1 KiB ConfigMaps, durable, over 1, 64 and 512 connections"),
    row!("get", writes::get, "one of them"),
    row!(
        "audited",
        audited::requests,
        "both with each request's event written to a log, by the administrator and by an account that has its turn"
    ),
    row!("apply", apply::one_field, "server-side apply of one field of objects of 2 KiB that others own"),
    row!("list", lists::list, "10,000 objects: JSON and protobuf, cached and consistent"),
    row!("list-memory", lists::memory, "32 lists of 100 MB at once: by how much memory grows"),
    row!("watch", watches::fan_out, "100 and 1,000 watchers, events in a trickle and in a burst"),
    row!("watch-protobuf", watches::in_protobuf, "a streaming list of 10,000 objects in protobuf, and 100 watchers in a burst"),
    row!("watch-filtered", watches::filtered, "1,000 watchers by spec.nodeName, for events that are not theirs, and that are"),
    row!("leases", leases::renew, "Lease updates of 5,000 nodes"),
    row!("schedule-1000", schedule::thousand, "10,000 pods on 1,000 nodes"),
    row!("schedule-5000", schedule::five_thousand, "10,000 pods on 5,000 nodes"),
    row!("schedule-affinity", schedule::affinity, "groups of pods, each in one zone"),
    row!("schedule-anti", schedule::anti_affinity, "groups of pods over two namespaces, no two of one on a node"),
    row!("schedule-spread", schedule::spread, "pods spread over zones with a skew of one"),
    row!("schedule-preempt", schedule::preemption, "pods that must evict others first"),
    row!("schedule-mixed", schedule::mixed, "a fifth of the pods fits nowhere"),
    row!("rollout", rollout::deployment, "a Deployment from 0 to 2,000 replicas on 100 hollow nodes, a rolling update, deletion"),
    row!("job-5000", workloads::job, "an indexed Job of 5,000 completions on 100 hollow nodes, 1,000 at a time"),
    row!("cronjobs-200", workloads::cron_jobs, "200 CronJobs that are due at once, until their Jobs are complete"),
    row!("daemonset-1000", workloads::daemon_set, "a DaemonSet on 1,000 hollow nodes, and rolled"),
    row!("statefulset-500", workloads::stateful_set, "a StatefulSet of 500 replicas that are made at once"),
    row!("claims-1000", workloads::claims, "1,000 claims that wait for their pods, and local volumes of 100 hollow nodes"),
    row!("nodes-20000", scale::nodes, "20,000 hollow nodes that join at once, and stay Ready"),
    row!(
        "nodes-join-2000",
        joins::by_token,
        "2,000 hollow nodes that join at once by token: keys, certificates and connections of their own"
    ),
    row!("pods-100000", scale::pods, "ten Deployments of 10,000 replicas on 5,000 hollow nodes"),
    row!("namespace", namespaces::delete, "deletion of a namespace with 5,000 pods, 5,000 ConfigMaps, 1,000 Services"),
    row!("custom", custom::resources, "10,000 custom resources created, read, applied, listed, and as many of a built-in kind"),
    row!("crash", crash::kill_9, "kill -9 under load with 100,000 objects, until ready and listed again"),
    row!("hollow", hollow::agent, "what the agent of 5,000 hollow nodes needs itself"),
    row!("proxy", services::alone, "the service proxy alone with 1,000, 10,000 and 30,000 services: cold, one change, first packet"),
    row!("pods", pods::start, "30 pods one by one, 30 and 50 at once, on real containerd: create to Running, and the stages of a start"),
    row!("dns", dns::queries, "questions to the cluster's DNS"),
];

/// One run of a row on one side.
pub struct Ctx<'a> {
    pub args: &'a Args,
    pub side: &'a Side,
    pub scale: Scale,
    subjects: Mutex<Vec<Arc<Subject>>>,
}

/// Why a row was not run; no failure.
#[derive(Debug)]
pub struct Skip(pub String);

impl fmt::Display for Skip {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Skip {}

impl<'a> Ctx<'a> {
    pub fn new(args: &'a Args, side: usize) -> Self {
        Self { args, side: &args.sides[side], scale: args.scale, subjects: Mutex::default() }
    }

    /// A server to measure. What the row makes there is cleared up after it.
    pub async fn subject(&self) -> anyhow::Result<Arc<Subject>> {
        self.subject_with(&[]).await
    }

    /// As [`Ctx::subject`]; a server that is started here gets these flags.
    pub async fn subject_with(&self, flags: &[&str]) -> anyhow::Result<Arc<Subject>> {
        let subject = Arc::new(self.side.subject(flags).await?);
        self.subjects.lock().push(subject.clone());
        Ok(subject)
    }

    /// The binary of this side, for rows that start and kill it.
    pub fn binary(&self) -> anyhow::Result<PathBuf> {
        match self.side {
            Side::Binary(bin) => Ok(bin.clone()),
            Side::Running { .. } => bail!(Skip("starts servers of its own: needs --skiff".into())),
        }
    }

    pub fn reads_processes(&self) -> bool {
        !matches!(self.side, Side::Running { pids, .. } if pids.is_empty())
    }

    pub async fn clear(&self) -> anyhow::Result<()> {
        let subjects = std::mem::take(&mut *self.subjects.lock());
        for subject in subjects {
            subject.clear().await?;
        }
        Ok(())
    }
}

/// The rows of these names; all if there are none.
pub fn chosen(names: &[String]) -> anyhow::Result<Vec<&'static Row>> {
    let is = |row: &Row, name: &str| row.name == name || (name.ends_with('-') && row.name.starts_with(name));
    if let Some(unknown) = names.iter().find(|n| !ROWS.iter().any(|r| is(r, n))) {
        bail!("there is no row {unknown:?}: --rows list");
    }
    Ok(ROWS.iter().filter(|r| names.is_empty() || names.iter().any(|n| is(r, n))).collect())
}
