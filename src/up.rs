//! `skiff up`: control plane and node in one process, in the background unless told otherwise.

pub mod machines;

use std::{
    fs,
    net::IpAddr,
    os::unix::{fs::OpenOptionsExt, process::CommandExt},
    pin::pin,
    process::{Command, Stdio},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, bail};
use api::k8s::api::core::v1::Node;
use client::kube::{
    Api,
    api::{Patch, PatchParams},
};
use serde_json::json;
use tokio::io::{AsyncBufReadExt, BufReader};

use self::machines::Machines;
use crate::{
    flags::{UpFlags, own_labels},
    kubeconfig,
    machine::{
        address::{default_address, host_name, node_address},
        dirs::Dirs,
        instance,
        process::{settle, shutdown_signal, unfaulted},
        progress::{DONE, Progress},
        sd_notify,
    },
    node::{self, Access, NodeConfig, preflight::programs},
    server::{Control, cluster_dns, kinds_config},
};

/// How long the background process may take until the node is Ready.
const READY_BOUND: Duration = Duration::from_secs(180);
const MARK_BOUND: Duration = Duration::from_secs(10);

pub async fn run(mut flags: UpFlags) -> anyhow::Result<()> {
    // One machine, one address: whoever named it for the node means it for the server as well.
    flags.server.advertise_address = flags.server.advertise_address.or(flags.agent.node_ip);
    // Before anything is started: the control plane could serve more than the node.
    node::are_served("--service-cluster-ip-range", &kinds_config(&flags.server)?.service_cidrs)?;
    node_config(&flags)?.check()?;
    own_labels(&flags.agent.labels()).map_err(anyhow::Error::msg)?;
    if flags.foreground { Box::pin(foreground(flags)).await } else { background(&flags).await }
}

/// Starts ourselves again in the background, shows its progress, and ends when the cluster is ready.
async fn background(flags: &UpFlags) -> anyhow::Result<()> {
    let dirs = Dirs::new(flags.server.common.data_dir.as_deref());
    if let Some(lacking) = programs::lacking() {
        bail!(lacking);
    }
    if dirs.is_ours()
        && let Some(running) = instance::running(&dirs)?
    {
        say!("skiff is running already (process {}, data in {})", running.pid, dirs.root.display());
        return Ok(());
    }
    dirs.claim()?;
    let log = fs::OpenOptions::new().create(true).append(true).mode(0o600).open(dirs.log()).context("opening the log")?;
    let mut command = Command::new(std::env::current_exe()?);
    command.args(std::env::args_os().skip(1)).arg("--foreground").stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log);
    // Its own process group: the terminal's Ctrl-C is not meant for it.
    command.process_group(0);
    let mut child = tokio::process::Command::from(command).spawn().context("starting skiff in the background")?;
    let out = child.stdout.take().context("the child's output is piped")?;
    match tokio::time::timeout(READY_BOUND, relay(out)).await {
        Ok(true) => Ok(()),
        Ok(false) => bail!("skiff did not come up: {}", last_error(&dirs)),
        Err(_) => bail!("skiff is not ready after {} s; it goes on trying, see {}", READY_BOUND.as_secs(), dirs.log().display()),
    }
}

/// Prints the child's lines; true when it said that it is done.
async fn relay(out: tokio::process::ChildStdout) -> bool {
    let mut lines = BufReader::new(out).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        if line == DONE {
            return true;
        }
        say!("{line}");
    }
    false
}

fn last_error(dirs: &Dirs) -> String {
    let log = fs::read_to_string(dirs.log()).unwrap_or_default();
    let lines: Vec<&str> = log.lines().rev().take(5).collect();
    format!("the end of {} is:\n{}", dirs.log().display(), lines.into_iter().rev().collect::<Vec<_>>().join("\n"))
}

async fn foreground(mut flags: UpFlags) -> anyhow::Result<()> {
    let progress = Progress::default();
    let machines = match flags.nodes {
        1 => None,
        _ => Some(Box::pin(Machines::prepare(&mut flags)).await?),
    };
    let control = Box::pin(Control::start(&flags.server, &progress)).await?;
    let started = async {
        let config = node_config(&flags)?;
        if let (None, Some(warning)) = (flags.agent.node_ip, node_address(None).and_then(|chosen| chosen.warning)) {
            tracing::warn!(%warning, "choosing the node's address");
            progress.say(&format!("warning: {warning}"));
        }
        let node = Box::pin(node::start(&config, access(&control, &config), &|| false, &control.group, &progress)).await?;
        mark_control_plane(&control, &config.name).await;
        if let Some(machines) = &machines {
            Box::pin(machines.start(&flags, &control.group, &progress)).await?;
        }
        let target = flags.kubeconfig.clone().unwrap_or_else(kubeconfig::default_path);
        kubeconfig::merge_into(&target, &control.admin())?;
        progress.step(&format!("kubectl context {:?} in {}", kubeconfig::CONTEXT, target.display()));
        progress.say("\nNow try:\n  kubectl get nodes\n  kubectl get pods --all-namespaces\nStop with `skiff down`; remove everything with `skiff reset`.");
        anyhow::Ok(node)
    };
    // One listener for the whole life: no signal falls between two.
    let mut end = pin!(shutdown_signal(&control.group));
    let node = tokio::select! {
        // Told to end before we were up: that is no failure.
        () = &mut end => Ok(None),
        started = started => started.map(Some),
    };
    if let Ok(Some(_)) = &node {
        control.group.spawn(settle());
        progress.done();
        sd_notify::ready();
        end.await;
    }
    control.end().await;
    node.map(drop).and_then(|()| unfaulted(&control.group))
}

/// As kubeadm marks it, and `kubectl get nodes` shows it: a node may not say so of itself. The node serves without, so that a failure is but told.
async fn mark_control_plane(control: &Control, node: &str) {
    let nodes: Api<Node> = Api::all(control.client("kubernetes-admin", &["system:masters"]));
    let label = Patch::Merge(json!({"metadata": {"labels": {"node-role.kubernetes.io/control-plane": ""}}}));
    match tokio::time::timeout(MARK_BOUND, nodes.patch(node, &PatchParams::default(), &label)).await {
        Ok(Ok(_)) => {}
        Ok(Err(error)) => tracing::warn!(%error, node, "the node cannot be labelled as the control plane's"),
        Err(_) => tracing::warn!(node, "the node cannot be labelled as the control plane's in time"),
    }
}

/// What the control plane's flags say that nodes must know as well.
fn node_config(flags: &UpFlags) -> anyhow::Result<NodeConfig> {
    let kinds = kinds_config(&flags.server)?;
    Ok(NodeConfig {
        dirs: Dirs::new(flags.server.common.data_dir.as_deref()),
        name: flags.agent.node_name.clone().unwrap_or_else(host_name),
        host_name: host_name(),
        address: flags.agent.node_ip.or_else(default_address).unwrap_or(IpAddr::from([127, 0, 0, 1])),
        cluster_cidrs: flags.server.cluster_cidr.list().to_vec(),
        cluster_dns: cluster_dns(&kinds),
        cluster_domain: kinds.cluster_domain,
        flags: flags.agent.clone(),
    })
}

/// This process has the authority itself: it lets its node's rooms in, and issues whatever they need.
fn access(control: &Control, node: &NodeConfig) -> Access {
    let (certs, name, address) = (control.certs.clone(), node.name.clone(), node.address);
    let serving: kubelet::Issuer = Arc::new(move || {
        let issued = certs.issue_node(&name, &[address, IpAddr::from([127, 0, 0, 1])]).map_err(|e| e.to_string());
        Box::pin(std::future::ready(issued))
    });
    let caches = |client| client::Caches::new(client, control.group.clone());
    Access {
        kubelet: caches(control.client(&format!("system:node:{}", node.name), &["system:nodes"])),
        proxy: caches(control.client(proxy::USER, &[])),
        serving,
        client_ca: control.certs.ca().to_owned(),
    }
}
