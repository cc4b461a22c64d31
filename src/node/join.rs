//! An invitation and the address of a server -> this machine is a node of that cluster: `skiff agent`.

mod kubelet_certificate;
mod rights;
mod servers;

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    pin::pin,
    time::Duration,
};

use anyhow::{Context, bail};
use api::{certificate::Identity, preflight::in_the_way, task::Group, time::Timestamp};
use client::{
    Caches,
    certificate::{life, tls},
    kube, may_pass,
    node_cache::Shelf,
    patient,
    transport::{Server, Transport},
    trust::pinned,
    tunnel,
};
use tokio::time::{Instant, error::Elapsed, timeout};

use crate::{
    flags::{AgentVerbFlags, own_labels},
    machine::{
        address::{host_name, node_address},
        dirs::Dirs,
        instance::{Instance, NodeLock},
        open_files,
        process::{END_BOUND, end, settle, shutdown_signal, unfaulted},
        progress::Progress,
    },
    node::{
        self, Access, NodeConfig,
        cluster_config::Facts,
        discover::{self, NotYet},
        join_token::JoinToken,
        kept::Kept,
        preflight::{self, Needs, Wish, here, programs},
    },
};
use kubelet_certificate::Member;

/// How long a machine that was never a node waits for a server: both may have been switched on together.
const SERVER_BOUND: Duration = Duration::from_secs(600);
/// A server that has just started may not have said or signed yet what is public.
const SIGNATURE_BOUND: Duration = Duration::from_secs(20);
const PAUSE_MIN: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_secs(10);
/// Below the node's directory: what servers told.
const CACHE: &str = "cache";
/// So long a server is waited for before the node starts what it had without one.
const ALONE_AFTER: Duration = Duration::from_secs(5);
/// Until what was kept of the cluster must do.
const FACTS_BOUND: Duration = Duration::from_secs(10);

pub async fn run(flags: AgentVerbFlags) -> anyhow::Result<()> {
    if let Some(lacking) = programs::lacking() {
        bail!(lacking);
    }
    let (progress, group, dirs) = (Progress::default(), Group::new(), Dirs::new(flags.common.data_dir.as_deref()));
    own_labels(&flags.agent.labels()).map_err(anyhow::Error::msg)?;
    dirs.claim()?;
    let _instance = Instance::start(&dirs)?;
    open_files::raise();
    // One listener for the whole life: no signal falls between two.
    let mut told = pin!(shutdown_signal(&group));
    let node = tokio::select! {
        // Told to end before we were up: that is no failure.
        () = &mut told => Ok(None),
        started = Box::pin(start(&flags, &dirs, &group, &progress)) => started.map(Some),
    };
    if let Ok(Some(_)) = &node {
        group.spawn(settle());
        told.await;
    }
    // Before anything is looked at: a port that we have ourselves is not taken.
    end(&group, END_BOUND).await;
    let node = match node {
        Err(error) => Err(Box::pin(explained(error, &flags)).await),
        done => done,
    };
    node.map(drop).and_then(|()| unfaulted(&group))
}

/// With what `skiff check` would say: often it is not what the error names.
async fn explained(error: anyhow::Error, flags: &AgentVerbFlags) -> anyhow::Error {
    let group = Group::new();
    let found = preflight::look(&flags.join, &wish(flags, None), &group).await;
    end(&group, END_BOUND).await;
    let between = in_the_way(&found);
    if between.is_empty() { error } else { anyhow::anyhow!("{error:#}\nwhat stands in between:{between}") }
}

async fn start(flags: &AgentVerbFlags, dirs: &Dirs, group: &Group, progress: &Progress) -> anyhow::Result<NodeLock> {
    let kept = Kept::open(&dirs.node())?;
    kept.keep(group);
    let member = Box::pin(member(flags, &kept, group, progress)).await?;
    let urls: Vec<String> = member.transport.servers().iter().map(Server::to_string).collect();
    kept.set_servers(&urls);
    let life = life(&kept.client()?.context("the certificate was just kept")?).map_err(anyhow::Error::msg)?;
    member.keep_fresh(life, group);
    if let Some(warning) = Box::pin(preflight::clock_warning(&member.transport)).await {
        tracing::warn!(warning, "comparing clocks");
        progress.say(&format!("warning: {warning}"));
    }
    // Before anything of this cluster is kept, and anything is started here: what was a node before has the right, or what it read with it.
    if kept.facts()?.is_none()
        && let Some(lacking) = Box::pin(rights::lacking(&member.transport.client())).await
    {
        bail!(lacking);
    }
    let facts = Box::pin(facts(flags, &member)).await?;
    let address = own_address(flags.agent.node_ip, &member.transport.servers(), progress).await;
    let address = address.context("this machine has no address that others could reach: connect it to a network, or give --node-ip")?;
    let client = if flags.join.offline_start {
        let shelf = Shelf::open(&dirs.node().join(CACHE), ALONE_AFTER, group).context("opening what was kept of the cluster")?;
        patient(shelf.over(member.transport.clone()), "kubelet")
    } else {
        member.transport.client()
    };
    let caches = Caches::new(client, group.clone());
    servers::follow(&member, &flags.join.server, &caches, group);
    if flags.join.tunnel {
        let of_agent = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), flags.agent.kubelet_port);
        tunnel::keep(&member.transport, &member.node, of_agent, group);
    }
    let access =
        Access { kubelet: caches.clone(), proxy: caches, serving: member.serving(&host_name(), address), client_ca: member.ca.clone() };
    let config = NodeConfig {
        dirs: dirs.clone(),
        name: member.node.clone(),
        host_name: host_name(),
        address,
        cluster_cidrs: facts.cluster_cidrs,
        cluster_dns: facts.cluster_dns,
        cluster_domain: facts.cluster_domain,
        flags: flags.agent.clone(),
    };
    let used = member.transport.used();
    let is_alone = move || used.borrow().is_none();
    let (wish, servers) = (wish(flags, Some(&config)), member.transport.servers());
    let (started, ()) = tokio::join!(
        Box::pin(node::start(&config, access, &is_alone, group, progress)),
        Box::pin(warn(&wish, &servers, needs(flags), group, progress)),
    );
    let node = started?;
    progress.say(&format!("\nOn a server, try:\n  kubectl get node {} -o wide", config.name));
    Ok(node)
}

/// As what this machine joins: as flags say, and as `node` is, once that is known.
fn wish(flags: &AgentVerbFlags, node: Option<&NodeConfig>) -> Wish {
    let given = flags.facts.cluster_cidr.as_ref().map(|ranges| ranges.list().to_vec()).unwrap_or_default();
    Wish {
        name: None,
        node_ip: node.map(|node| node.address).or(flags.agent.node_ip),
        kubelet_port: flags.agent.kubelet_port,
        pod_network: flags.agent.pod_network,
        vxlan_port: flags.agent.vxlan_port,
        cluster_cidrs: node.map_or(given, |node| node.cluster_cidrs.clone()),
    }
}

/// What `skiff check` would say of the pod network, for who did not ask. What was wrong of the address was told when it was chosen.
async fn warn(wish: &Wish, servers: &[Server], needs: Needs, group: &Group, progress: &Progress) {
    let Some(ip) = wish.node_ip else { return };
    let found = here::pod_network(wish, ip, servers, needs, group).await;
    for problem in found.iter().filter(|finding| finding.blocks()).filter_map(|finding| finding.problem.as_ref()) {
        tracing::warn!(why = problem.what, mend = problem.mend, "what stands between pods of this node and those of others");
        progress.say(&format!("warning: {}; mend with: {}", problem.what, problem.mend));
    }
}

fn needs(flags: &AgentVerbFlags) -> Needs {
    if flags.join.tunnel { Needs::Nobody } else { Needs::Others(flags.agent.kubelet_port) }
}

/// Who was a node before is one again; who was not joins.
async fn member(flags: &AgentVerbFlags, kept: &Kept, group: &Group, progress: &Progress) -> anyhow::Result<Member> {
    let invitation = JoinToken::of_flags(&flags.join)?;
    let servers = servers::known(&flags.join.server, &kept.servers()?)?;
    let is_damaged = kept.is_client_damaged();
    let shown = match kept.client() {
        Err(error) if is_damaged && invitation.is_some() => {
            tracing::warn!(error = format!("{error:#}"), "the certificate that was kept is of no use; joining again");
            None
        }
        Err(error) if is_damaged => {
            return Err(error.context("give a --token to join again with (`skiff token create` on a server prints one)"));
        }
        found => found?,
    };
    if let (Some(ca), Some(identity)) = (kept.ca()?, shown) {
        return Box::pin(again(flags, (ca, identity), kept, invitation, servers, group, progress)).await;
    }
    if servers.is_empty() {
        bail!(
            "--server is missing: the URL of a server of the cluster, as in https://10.0.0.5:6443 (--hollow N simulates nodes, `skiff up` makes a cluster of one)"
        );
    }
    let Some(invitation) = invitation else {
        bail!("--token is missing: this machine has not joined the cluster yet. `skiff token create` on a server prints one");
    };
    let ca = Box::pin(patiently(progress, async || discover::authority(&servers, &invitation, group).await)).await?;
    let transport = Transport::new(servers, tls(&ca, None).map_err(anyhow::Error::msg)?, group);
    let last = || if is_damaged { kept.last_node() } else { None };
    let node = flags.agent.node_name.clone().or_else(last).unwrap_or_else(host_name);
    let member = Member { node, ca, kept: kept.clone(), transport, invitation: Some(invitation.clone()) };
    Box::pin(patiently(progress, async || member.join(&invitation).await))
        .await
        .with_context(|| format!("joining as node {}", member.node))?;
    progress.step(&format!("joined as node {} ({})", member.node, servers::used(&member.transport)));
    Ok(member)
}

/// With the certificate that was kept.
async fn again(
    flags: &AgentVerbFlags,
    (ca, identity): (String, Identity),
    kept: &Kept,
    invitation: Option<JoinToken>,
    servers: Vec<Server>,
    group: &Group,
    progress: &Progress,
) -> anyhow::Result<Member> {
    let node = kept.node()?.context("the certificate was just read")?;
    if let Some(name) = flags.agent.node_name.as_ref().filter(|name| **name != node) {
        bail!("this machine joined its cluster as node {node}, not {name}: `skiff leave` takes it out again");
    }
    if let Some(pin) = invitation.as_ref().and_then(|invitation| invitation.pin.as_ref()) {
        pinned(&ca, |block| pin.matches(block)).map_err(|error| {
            anyhow::anyhow!(
                "this machine is a node of another cluster than the token is for ({error}): `skiff leave` takes it out of that one"
            )
        })?;
    }
    if servers.is_empty() {
        bail!("--server is missing, and none is known from before");
    }
    let life = life(&identity).map_err(anyhow::Error::msg)?;
    let transport = Transport::new(servers, tls(&ca, Some(&identity)).map_err(anyhow::Error::msg)?, group);
    let member = Member { node, ca, kept: kept.clone(), transport, invitation };
    if !life.is_over(Timestamp::now()) {
        progress.step(&format!("node {} (certificate until {})", member.node, life.to));
        return Ok(member);
    }
    let Some(invitation) = member.invitation.clone() else {
        bail!(
            "the certificate of node {} expired at {}: give a new --token (`skiff token create` on a server prints one), if this machine's clock is right",
            member.node,
            life.to
        );
    };
    // What has expired is not shown.
    member.transport.set_tls(tls(&member.ca, None).map_err(anyhow::Error::msg)?);
    Box::pin(patiently(progress, async || member.join(&invitation).await))
        .await
        .with_context(|| format!("joining again as node {}", member.node))?;
    progress.step(&format!("joined again as node {}", member.node));
    Ok(member)
}

/// As a server says, or as one said before.
async fn facts(flags: &AgentVerbFlags, member: &Member) -> anyhow::Result<Facts> {
    let asked = timeout(FACTS_BOUND, Facts::ask(&member.transport.client(), &flags.facts)).await;
    let error = match asked {
        Ok(Ok(facts)) => {
            member.kept.set_facts(&facts);
            return Ok(facts);
        }
        Ok(Err(error)) => error,
        Err(_) => anyhow::anyhow!("no server answers within {} s", FACTS_BOUND.as_secs()),
    };
    let Some(facts) = member.kept.facts()? else { return Err(error) };
    tracing::warn!(error = format!("{error:#}"), "what is known of the cluster is from before");
    Ok(facts.with(&flags.facts))
}

/// The given one, else what packets to the servers leave from: where there are several networks, that is the one they share with us.
async fn own_address(given: Option<IpAddr>, servers: &[Server], progress: &Progress) -> Option<IpAddr> {
    if given.is_some() {
        return given;
    }
    let chosen = node_address(here::address_of(servers).await)?;
    if let Some(warning) = &chosen.warning {
        tracing::warn!(%warning, "choosing the node's address");
        progress.say(&format!("warning: {warning}"));
    }
    Some(chosen.address)
}

/// Again and again while no server is there, which may yet start; any other failure is one.
async fn patiently<T>(progress: &Progress, mut work: impl AsyncFnMut() -> anyhow::Result<T>) -> anyhow::Result<T> {
    let began = Instant::now();
    let (until, mut pause) = (began + SERVER_BOUND, PAUSE_MIN);
    loop {
        let error = match Box::pin(work()).await {
            Err(error) if is_passing(&error) && Instant::now() < until => error,
            Err(error) if error.is::<NotYet>() && began.elapsed() < SIGNATURE_BOUND => error,
            done => return done,
        };
        if pause == PAUSE_MIN {
            progress.say(&format!("   waiting for a server: {error:#}"));
        }
        tracing::info!(error = format!("{error:#}"), "waiting for a server");
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(PAUSE_MAX);
    }
}

/// There was no answer, or one that says "not now".
pub fn is_passing(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| match (cause.downcast_ref::<kube::Error>(), cause.downcast_ref::<client::certificate::Error>()) {
        _ if cause.is::<Elapsed>() => true,
        (Some(error), _) => may_pass(error),
        (_, Some(error)) => error.may_pass(),
        _ => false,
    })
}

#[cfg(test)]
mod tests;

#[cfg(test)]
mod patience {
    use super::*;

    #[test]
    fn only_what_may_pass_is_waited_for() {
        let api = |code: u16| kube::Error::Api(Box::new(kube::core::Status::failure("so", "Because").with_code(code)));
        let silent = |text: &str| kube::Error::Service(text.to_owned().into());
        for passing in [api(503), api(429), silent("https://a:1: Connection refused (os error 111)")] {
            assert!(is_passing(&anyhow::Error::from(passing).context("asking")));
        }
        for lasting in [api(401), api(403), api(404), silent("https://a:1: invalid peer certificate: UnknownIssuer")] {
            assert!(!is_passing(&anyhow::Error::from(lasting).context("asking")));
        }
        let create = client::certificate::Error::Create(Box::new(api(500)));
        assert!(is_passing(&create.into()));
        for passing in [
            client::certificate::Error::Deleted { name: "csr-a".into() },
            client::certificate::Error::Unsigned { name: "csr-a".into(), seconds: 1 },
            client::certificate::Error::Silence,
        ] {
            assert!(is_passing(&passing.into()));
        }
        let denied = client::certificate::Error::Denied { name: "csr-a".into(), reason: "so".into(), message: String::new() };
        assert!(!is_passing(&denied.into()));
    }
}
