//! `skiff agent --hollow N`: simulated nodes, for any Kubernetes API server that a kubeconfig names.

use std::{fs, path::Path, time::Duration};

use ::hollow::{Config, Stages};
use anyhow::{Context, anyhow, bail};
use api::task::Group;
use client::kube::config::{KubeConfigOptions, Kubeconfig};

use crate::{
    flags::{AgentVerbFlags, HollowFlags},
    machine::progress::Progress,
    server::{shutdown_signal, unfaulted},
};

/// How long an orderly end may take before we go anyway.
const END_BOUND: Duration = Duration::from_secs(3);

pub async fn run(flags: AgentVerbFlags) -> anyhow::Result<()> {
    let Some(nodes) = flags.hollow.hollow else {
        bail!("--hollow N is missing");
    };
    let stages = stages(flags.hollow.stages.as_deref())?;
    let (group, progress) = (Group::new(), Progress::default());
    let client = ::hollow::client(kubeconfig(&flags).await?, &group)?;
    let version = client.apiserver_version().await.context("asking the API server for its version")?;
    progress.step(&format!("API server ({})", version.git_version));

    let labels = flags.agent.labels();
    let mut hollow = ::hollow::run(Config { labels, ..config(nodes, &flags.hollow) }, stages, &client, &group);
    let registered = async {
        if hollow.registered().await {
            progress.step(&format!("{nodes} hollow nodes are registered"));
        }
        std::future::pending::<()>().await;
    };
    tokio::select! {
        () = shutdown_signal(&group) => {}
        () = registered => {}
    }
    group.drain(END_BOUND).await;
    unfaulted(&group)
}

async fn kubeconfig(flags: &AgentVerbFlags) -> anyhow::Result<client::kube::Config> {
    let read = match &flags.kubeconfig {
        Some(path) => Kubeconfig::read_from(path),
        None => Kubeconfig::read(),
    };
    let options = KubeConfigOptions { context: flags.context.clone(), ..KubeConfigOptions::default() };
    let config = client::kube::Config::from_custom_kubeconfig(read.context("reading the kubeconfig")?, &options).await;
    config.context("the kubeconfig")
}

fn stages(file: Option<&Path>) -> anyhow::Result<Stages> {
    let Some(path) = file else { return Ok(Stages::default()) };
    let text = fs::read_to_string(path).with_context(|| format!("--stages {}", path.display()))?;
    Stages::parse(&text).map_err(|fault| anyhow!("--stages {}: {fault}", path.display()))
}

fn config(nodes: u32, flags: &HollowFlags) -> Config {
    Config {
        prefix: flags.hollow_prefix.clone(),
        cpu: flags.hollow_cpu.clone(),
        memory: flags.hollow_memory.clone(),
        pods: flags.hollow_pods,
        zones: flags.zones,
        seed: flags.hollow_seed,
        lease_seconds: flags.node_lease_duration_seconds,
        version: apiserver::version::GIT_VERSION.into(),
        ..Config::new(nodes)
    }
}
