//! `skiff leave`: a node's pods go elsewhere, the node goes from the cluster, and what made this machine its node goes from the disk. Images stay.

use std::{path::Path, process::Stdio, time::Duration};

use anyhow::{Context, bail};
use api::{
    annotations::CONFIG_MIRROR,
    k8s::api::core::v1::{Node, Pod},
    task::Group,
};
use client::{
    ANSWER_BOUND,
    certificate::tls,
    kube::{
        self, Api, Client, ResourceExt,
        api::{DeleteParams, EvictParams, ListParams, Patch, PatchParams},
    },
    transport::{Server, Transport},
};
use serde_json::json;
use tokio::time::{Instant, timeout};

use crate::{
    flags::LeaveFlags,
    machine::{dirs::Dirs, instance},
    node::{self, kept::Kept},
};

const STOP_BOUND: Duration = Duration::from_secs(20);
/// Between looks at the pods that are still here, and tries to evict those that a budget holds back.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// A unit that is enabled would start the agent again, and at the next boot make this machine a node again.
async fn stop_service() {
    const UNIT: &str = "skiff-agent.service";
    let systemctl = |args: &[&str]| {
        let mut command = tokio::process::Command::new("systemctl");
        command.args(args).stdout(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
        timeout(STOP_BOUND, async move { command.status().await.is_ok_and(|status| status.success()) })
    };
    if Path::new("/run/systemd/system").is_dir() && systemctl(&["is-enabled", UNIT]).await == Ok(true) {
        match systemctl(&["disable", "--now", UNIT]).await {
            Ok(true) => say!(" \u{2713} {UNIT} disabled"),
            _ => say!(" \u{2717} {UNIT} is not disabled: `systemctl disable --now {UNIT}` does it, else this machine joins again"),
        }
    }
}

pub async fn run(flags: LeaveFlags) -> anyhow::Result<()> {
    let dirs = Dirs::new(flags.common.data_dir.as_deref());
    if !dirs.is_ours() || !dirs.node().is_dir() {
        bail!(
            "{} is not of a node that joined a cluster: there is nothing to leave (`skiff reset` removes a cluster of one)",
            dirs.root.display()
        );
    }
    // The agent may be writing.
    let (kept, group) = (Kept::read_only(&dirs.node()), Group::new());
    let known = who(&kept, &group);
    let asked = match &known {
        Ok((node, client)) => drain(client, node, flags.timeout).await,
        Err(error) => Err(anyhow::anyhow!("{error:#}")),
    };
    step(asked, "pods evicted", flags.force)?;
    stop_service().await;
    instance::stop(&dirs, STOP_BOUND).await?;
    say!(" \u{2713} skiff stopped");
    // Only now: the agent would register it again.
    if let Ok((node, client)) = &known {
        step(delete(client, node).await, &format!("node {node} deleted"), flags.force)?;
    }
    if rustix::process::geteuid().is_root() && dirs.agent().exists() {
        node::stop_pods(&dirs).await?;
        node::clean(&dirs).await?;
        say!(" \u{2713} pods, rules, links, mounts and cgroups removed");
    }
    for below in [kubelet::config::root_dir(&dirs.agent()), kubelet::config::log_dir(&dirs.agent()), dirs.node()] {
        remove(&below)?;
    }
    say!(" \u{2713} this machine is no node any more; its images and the data of local volumes are kept in {}", dirs.agent().display());
    Ok(())
}

/// What the servers have no part in goes on where it is forced.
fn step(done: anyhow::Result<()>, what: &str, is_forced: bool) -> anyhow::Result<()> {
    match done {
        Ok(()) => say!(" \u{2713} {what}"),
        Err(error) if is_forced => say!(" \u{2717} not done: {what}: {error:#}"),
        Err(error) => {
            return Err(error.context(format!(
                "not done: {what}. `skiff leave --force` leaves all the same; then `kubectl delete node` on a server removes the node"
            )));
        }
    }
    Ok(())
}

/// The node that this machine is, and how it speaks to servers.
fn who(kept: &Kept, group: &Group) -> anyhow::Result<(String, Client)> {
    let (Some(ca), Some(identity), Some(node)) = (kept.ca()?, kept.client()?, kept.node()?) else {
        bail!("this machine has no certificate of the cluster");
    };
    let servers = kept.servers()?.iter().filter_map(|url| Server::parse(url).ok()).collect();
    let transport = Transport::new(servers, tls(&ca, Some(&identity)).map_err(anyhow::Error::msg)?, group);
    Ok((node, transport.client()))
}

/// Cordons the node, and evicts its pods until none is left that can be elsewhere, for `bound` at most. Source: `kubectl drain`.
async fn drain(client: &Client, node: &str, bound: Duration) -> anyhow::Result<()> {
    let nodes: Api<Node> = Api::all(client.clone());
    let cordon = Patch::Merge(json!({"spec": {"unschedulable": true}}));
    match timeout(ANSWER_BOUND, nodes.patch(node, &PatchParams::default(), &cordon)).await.context("no server answers in time")? {
        Ok(_) => {}
        Err(kube::Error::Api(status)) if status.code == 404 => return Ok(()),
        Err(error) => return Err(error).context("cordoning the node"),
    }
    let (pods, until): (Api<Pod>, _) = (Api::all(client.clone()), Instant::now() + bound);
    let here = ListParams::default().fields(&format!("spec.nodeName={node}"));
    loop {
        let all = timeout(ANSWER_BOUND, pods.list(&here)).await.context("no server answers in time")?.context("listing the node's pods")?;
        let left: Vec<&Pod> = all.items.iter().filter(|pod| goes_elsewhere(pod)).collect();
        if left.is_empty() {
            return Ok(());
        }
        let mut held = None;
        for pod in left.iter().filter(|pod| pod.metadata.deletion_timestamp.is_none()) {
            held = evict(client, pod).await?.or(held);
        }
        if Instant::now() >= until {
            let names: Vec<String> = left.iter().map(|pod| format!("{}/{}", pod.namespace().unwrap_or_default(), pod.name_any())).collect();
            let why = held.map(|why| format!(" ({why})")).unwrap_or_default();
            bail!("pods are still here after {} s{why}: {}", bound.as_secs(), names.join(", "));
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// Why a budget holds the pod back; `None` where it goes.
async fn evict(client: &Client, pod: &Pod) -> anyhow::Result<Option<String>> {
    let pods: Api<Pod> = Api::namespaced(client.clone(), &pod.namespace().unwrap_or_default());
    let answer = timeout(ANSWER_BOUND, pods.evict(&pod.name_any(), &EvictParams::default())).await.context("no server answers in time")?;
    match answer {
        Ok(_) => Ok(None),
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(None),
        Err(kube::Error::Api(status)) if status.code == 429 => Ok(Some(status.message.clone())),
        Err(error) => Err(error).with_context(|| format!("evicting pod {}", pod.name_any())),
    }
}

/// Not those of the machine itself, of a DaemonSet, or that have ended.
fn goes_elsewhere(pod: &Pod) -> bool {
    let of_set = pod.owner_references().iter().any(|owner| owner.kind == "DaemonSet" && owner.controller == Some(true));
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    !of_set && !pod.annotations().contains_key(CONFIG_MIRROR) && !matches!(phase, Some("Succeeded" | "Failed"))
}

async fn delete(client: &Client, node: &str) -> anyhow::Result<()> {
    let nodes: Api<Node> = Api::all(client.clone());
    match timeout(ANSWER_BOUND, nodes.delete(node, &DeleteParams::default())).await.context("no server answers in time")? {
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
        done => done.map(drop).context("deleting the node"),
    }
}

fn remove(dir: &std::path::Path) -> anyhow::Result<()> {
    kubelet::volumes::remove_all(dir).with_context(|| format!("removing {}", dir.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pods_of_the_machine_and_of_daemonsets_are_not_waited_for() {
        let pod = |metadata: serde_json::Value, phase: &str| {
            serde_json::from_value::<Pod>(json!({"metadata": metadata, "status": {"phase": phase}})).unwrap()
        };
        let owner = |kind: &str| json!({"name": "a", "ownerReferences": [{"apiVersion": "apps/v1", "kind": kind, "name": "o", "uid": "u", "controller": true}]});
        assert!(goes_elsewhere(&pod(json!({"name": "a"}), "Running")) && goes_elsewhere(&pod(owner("ReplicaSet"), "Pending")));
        assert!(!goes_elsewhere(&pod(owner("DaemonSet"), "Running")) && !goes_elsewhere(&pod(json!({"name": "a"}), "Succeeded")));
        assert!(!goes_elsewhere(&pod(json!({"name": "a", "annotations": {CONFIG_MIRROR: "x"}}), "Running")));
    }

    #[test]
    fn what_the_servers_have_no_part_in_goes_on_where_it_is_forced() {
        let failed = || Err(anyhow::anyhow!("nobody is there"));
        assert!(step(failed(), "pods evicted", true).is_ok() && step(Ok(()), "pods evicted", false).is_ok());
        let error = format!("{:#}", step(failed(), "pods evicted", false).unwrap_err());
        assert!(error.contains("skiff leave --force") && error.contains("nobody is there"), "{error}");
    }

    #[tokio::test]
    async fn a_node_that_leaves_evicts_its_pods_and_deletes_itself_and_no_other() {
        let group = Group::new();
        let door = door::Door::new(&group).await;
        crate::server::manifests::apply(&door.engine, "10.96.0.10".parse().unwrap(), true).await.unwrap();
        let make = async |name: &str| {
            let object: Node = serde_json::from_value(json!({"metadata": {"name": name}})).unwrap();
            Api::<Node>::all(door.admin()).create(&kube::api::PostParams::default(), &object).await.unwrap();
        };
        make("a").await;
        make("b").await;
        let client = door.client("system:node:a", &["system:nodes", "system:authenticated"]);
        drain(&client, "a", Duration::from_secs(1)).await.unwrap();
        let seen = Api::<Node>::all(door.admin()).get("a").await.unwrap();
        assert_eq!(seen.spec.unwrap().unschedulable, Some(true));
        assert!(delete(&client, "b").await.is_err(), "another node is not its to delete");
        delete(&client, "a").await.unwrap();
        delete(&client, "a").await.unwrap();
        assert!(Api::<Node>::all(door.admin()).get("b").await.is_ok());
        group.stop();
    }
}
