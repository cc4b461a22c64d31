//! Numbers -> Node objects that are Ready, kept alive by their Leases; nobody runs pods there.

use std::{sync::Arc, time::Duration};

use anyhow::ensure;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::{
    load::{Pool, status},
    subject::Subject,
};

pub const ZONES: usize = 10;
/// Of a node of [`make`].
pub const CPU_MILLIS: u64 = 4000;
pub const PODS: usize = 110;
const LEASES: &str = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases";
/// A node whose Lease is older than 40 s is given up.
const RENEW_EVERY: Duration = Duration::from_secs(10);
const UNTAINTED_BOUND: Duration = Duration::from_secs(120);

/// Dropped, it ends the renewing of Leases.
pub struct Nodes(#[expect(dead_code, reason = "held for its drop")] JoinSet<()>);

pub fn name(n: usize) -> String {
    format!("bench-node-{n}")
}

pub fn zone(n: usize) -> String {
    format!("zone-{}", n % ZONES)
}

/// Makes nodes with 4 CPUs in ten zones, and waits until pods may be put on all of them.
pub async fn make(subject: &Arc<Subject>, count: usize) -> anyhow::Result<Nodes> {
    let mut pool = subject.pool(32).await?;
    pool.create("/api/v1/nodes", count, |n| node(n).to_string()).await?;
    pool.create(LEASES, count, |n| lease(n).to_string()).await?;
    for n in 0..count {
        subject.forget_later(format!("/api/v1/nodes/{}", name(n)));
        subject.forget_later(format!("{LEASES}/{}", name(n)));
    }
    let free = move |list: &Value| {
        let items = list["items"].as_array().map(Vec::as_slice).unwrap_or_default();
        let ours = items.iter().filter(|i| i["metadata"]["labels"]["bench"] == "node");
        ours.filter(|i| i["spec"]["taints"].as_array().is_none_or(Vec::is_empty)).count() == count
    };
    pool.until("the nodes are without taints", "/api/v1/nodes", UNTAINTED_BOUND, free).await?;
    let mut renewing = JoinSet::new();
    renewing.spawn(async move {
        loop {
            tokio::time::sleep(RENEW_EVERY).await;
            // A server that is gone is seen by the row.
            let _ = renew(&mut pool, count).await;
        }
    });
    Ok(Nodes(renewing))
}

fn now() -> String {
    let now = api::time::rfc3339(api::time::Timestamp::now());
    format!("{}.000000Z", now.trim_end_matches('Z'))
}

fn lease(n: usize) -> Value {
    let name = name(n);
    json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": name},
        "spec": {"holderIdentity": name, "leaseDurationSeconds": 40, "renewTime": now()}})
}

async fn renew(pool: &mut Pool, count: usize) -> anyhow::Result<()> {
    let door = pool.door.clone();
    let body = json!({"spec": {"renewTime": now()}}).to_string();
    let make = move |n: usize, out: &mut Vec<u8>| {
        door.full("PATCH", &format!("{LEASES}/{}", name(n)), "application/merge-patch+json", body.as_bytes(), out);
    };
    pool.run(count, Arc::new(make), status(200)).await.map(drop)
}

pub fn node(n: usize) -> Value {
    let now = api::time::rfc3339(api::time::Timestamp::now());
    let room = json!({"cpu": (CPU_MILLIS / 1000).to_string(), "memory": "32Gi", "pods": PODS.to_string(), "ephemeral-storage": "100Gi"});
    let condition = |kind: &str, status: &str, reason: &str| json!({"type": kind, "status": status, "reason": reason, "message": "made by bench", "lastHeartbeatTime": now, "lastTransitionTime": now});
    let labels = json!({"bench": "node", "kubernetes.io/hostname": name(n), "kubernetes.io/os": "linux", "kubernetes.io/arch": "amd64",
        "topology.kubernetes.io/zone": zone(n), "topology.kubernetes.io/region": "region"});
    let info = json!({"machineID": "m", "systemUUID": "s", "bootID": "b", "kernelVersion": "6.1", "osImage": "none", "containerRuntimeVersion": "none://1",
        "kubeletVersion": "v1.36.0", "kubeProxyVersion": "", "operatingSystem": "linux", "architecture": "amd64"});
    json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name(n), "labels": labels},
    "status": {"capacity": room, "allocatable": room, "nodeInfo": info,
        "addresses": [{"type": "Hostname", "address": name(n)}, {"type": "InternalIP", "address": "192.0.2.1"}],
        "conditions": [
            condition("MemoryPressure", "False", "KubeletHasSufficientMemory"),
            condition("DiskPressure", "False", "KubeletHasNoDiskPressure"),
            condition("PIDPressure", "False", "KubeletHasSufficientPID"),
            condition("Ready", "True", "KubeletReady"),
        ]}})
}

/// No node of ours has more on it than it holds; `pods` are bound.
pub fn check_room(pods: &[Value]) -> anyhow::Result<()> {
    let mut used: std::collections::HashMap<&str, (usize, u64)> = std::collections::HashMap::new();
    for pod in pods.iter().filter(|p| !matches!(p["status"]["phase"].as_str(), Some("Failed" | "Succeeded"))) {
        let cpu = pod["spec"]["containers"][0]["resources"]["requests"]["cpu"].as_str().unwrap_or("0");
        let on = used.entry(pod["spec"]["nodeName"].as_str().unwrap_or_default()).or_default();
        on.0 += 1;
        on.1 += super::objects::millis(cpu)?;
    }
    used.remove("");
    for (node, (count, cpu)) in used {
        ensure!(count <= PODS && cpu <= CPU_MILLIS, "node {node} has {count} pods with {cpu}m CPU on it");
    }
    Ok(())
}
