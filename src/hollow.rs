//! `skiff agent --hollow N`: simulated nodes, for any Kubernetes API server that a kubeconfig names, or for a cluster that they join by token.

use std::{fs, path::Path, sync::Arc, time::Duration};

use ::hollow::{Config, Hollow, JoinConfiguration, NoEntry, Stages};
use anyhow::{Context, anyhow, bail};
use api::task::Group;
use client::{
    kube::config::{KubeConfigOptions, Kubeconfig},
    transport::Server,
};

use crate::{
    flags::{AgentVerbFlags, HollowFlags, JoinFlags},
    machine::{
        open_files,
        process::{end, shutdown_signal, unfaulted},
        progress::Progress,
    },
    node::{
        discover::{self, NotYet},
        join::is_passing,
        join_token::JoinToken,
    },
};

/// How long an orderly end may take before we go anyway.
const END_BOUND: Duration = Duration::from_secs(3);

pub async fn run(flags: AgentVerbFlags) -> anyhow::Result<()> {
    let Some(nodes) = flags.hollow.hollow else {
        bail!("--hollow N is missing");
    };
    let (group, progress) = (Group::new(), Progress::default());
    let joins = !flags.join.server.is_empty() || flags.join.token.is_some() || flags.join.token_file.is_some();
    let mut hollow = if joins { joining(nodes, &flags, &group)? } else { Box::pin(known(nodes, &flags, &group, &progress)).await? };
    let mut watched = hollow.clone();
    let told = async {
        if hollow.registered().await {
            progress.step(&format!("{nodes} hollow nodes are registered"));
        }
        if joins && hollow.certified().await {
            progress.step(&format!("{nodes} hollow nodes are certified"));
        }
        std::future::pending::<()>().await;
    };
    let ended = tokio::select! {
        // Where all were refused the fleet ends as well: the reason is what is told.
        biased;
        Some(why) = watched.refused() => Err(anyhow!(why)),
        () = shutdown_signal(&group) => Ok(()),
        () = told => Ok(()),
    };
    end(&group, END_BOUND).await;
    ended.and_then(|()| unfaulted(&group))
}

/// All of them are who the kubeconfig says.
async fn known(nodes: u32, flags: &AgentVerbFlags, group: &Group, progress: &Progress) -> anyhow::Result<Hollow> {
    let stages = stages(flags.hollow.stages.as_deref())?;
    let client = ::hollow::client(kubeconfig(flags).await?, group)?;
    let version = client.apiserver_version().await.context("asking the API server for its version")?;
    progress.step(&format!("API server ({})", version.git_version));
    Ok(::hollow::run(config(nodes, flags), stages, &client, group))
}

/// Each becomes a user of its own, as a machine does.
fn joining(nodes: u32, flags: &AgentVerbFlags, group: &Group) -> anyhow::Result<Hollow> {
    if flags.kubeconfig.is_some() {
        bail!("--kubeconfig makes hollow nodes as its user, --server and --token let each join as itself: give one of them");
    }
    let stages = stages(flags.hollow.stages.as_deref())?;
    let configuration = Arc::new(configuration(&flags.join, group)?);
    open_files::raise();
    Ok(::hollow::join(config(nodes, flags), stages, &configuration, group))
}

fn configuration(flags: &JoinFlags, group: &Group) -> anyhow::Result<JoinConfiguration> {
    let Some(invited) = JoinToken::of_flags(flags)? else {
        bail!("--token is missing: `skiff token create` on a server prints one");
    };
    let servers = flags.server.iter().map(|url| Server::parse(url)).collect::<Result<Vec<_>, _>>()?;
    if servers.is_empty() {
        bail!("--server is missing: the URL of a server of the cluster, as in https://10.0.0.5:6443");
    }
    let (token, asked, group) = (invited.token.text(), servers.clone(), group.clone());
    let authority = Arc::new(move || {
        let (servers, invited, group) = (asked.clone(), invited.clone(), group.clone());
        let asked = async move { discover::authority(&servers, &invited, &group).await.map_err(|error| no_entry(&error)) };
        Box::pin(asked) as futures::future::BoxFuture<'static, _>
    });
    Ok(JoinConfiguration { servers, token, authority })
}

fn no_entry(error: &anyhow::Error) -> NoEntry {
    let words = format!("{error:#}");
    // A server that has just started may not have said or signed yet what is public.
    if is_passing(error) || error.is::<NotYet>() { NoEntry::Yet(words) } else { NoEntry::Ever(words) }
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

fn config(nodes: u32, flags: &AgentVerbFlags) -> Config {
    let labels = flags.agent.labels();
    let flags: &HollowFlags = &flags.hollow;
    Config {
        labels,
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
