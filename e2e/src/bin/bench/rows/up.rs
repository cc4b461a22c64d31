//! A whole node to measure: the running one that a kubeconfig names, or `skiff up` started here, with an image.

use std::{
    fs::File,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{bail, ensure};
use e2e::{Server, images};
use serde_json::Value;

use super::{Ctx, Skip};
use crate::subject::{Side, Subject, options, ready};

/// Bridges, rules and ports are the machine's: one node at a time, whoever starts it.
const LOCK: &str = "/tmp/skiff-node-test.lock";
const CONTAINERD: &str = "agent/run/containerd/containerd.sock";
const READY_BOUND: Duration = Duration::from_secs(120);
/// Apart from what a cluster of the developer's own uses.
const FLAGS: [&str; 4] = [
    "--node-name=bench-node",
    "--cluster-cidr=10.77.0.0/16",
    "--service-cluster-ip-range=10.99.0.0/16",
    "--service-node-port-range=31000-32999",
];

pub struct Node {
    pub subject: Arc<Subject>,
    _lock: Option<File>,
}

pub async fn node(ctx: &Ctx<'_>) -> anyhow::Result<Node> {
    let bin = match ctx.side {
        Side::Running { .. } => return Ok(Node { subject: ctx.subject().await?, _lock: None }),
        Side::Binary(_) if !ctx.args.up => bail!(Skip("needs a node: --up as root, or --kubeconfig of a running `skiff up`".into())),
        Side::Binary(bin) => bin,
    };
    ensure!(rustix::process::geteuid().is_root(), "--up needs root");
    let lock = File::options().create(true).append(true).open(LOCK)?;
    lock.lock()?;
    let mut options = options(bin);
    options.args = FLAGS.iter().map(|f| (*f).to_owned()).collect();
    let server = Server::spawn("up", options);
    let (door, _) = ready(&server, Instant::now()).await?;
    let (scratch, socket) = (server.scratch(), server.data_dir().join(CONTAINERD));
    let subject = Arc::new(Subject::of(server, door));
    let is_ready = |list: &Value| {
        let conditions = list["items"][0]["status"]["conditions"].as_array().map(Vec::as_slice).unwrap_or_default();
        conditions.iter().any(|c| c["type"] == "Ready" && c["status"] == "True")
    };
    subject.pool(1).await?.until("the node is Ready", "/api/v1/nodes", READY_BOUND, is_ready).await?;
    for archive in images::make(&scratch.join("images"))? {
        images::import(&socket, Path::new(&archive))?;
    }
    Ok(Node { subject, _lock: Some(lock) })
}
