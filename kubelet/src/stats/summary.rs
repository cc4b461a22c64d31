//! A sample -> upstream's Summary (`kubelet/pkg/apis/stats/v1alpha1`). What is not known is left out, as the type has it.

use std::path::Path;

use api::time::{Timestamp, rfc3339};
use serde::Serialize;

use super::{
    Extent,
    network::{self, DEFAULT_INTERFACE, Interface},
    rates::{NODE, PODS, Rates},
    sample::{ContainerSample, Measured, PodSample, Sample},
};
use crate::machine::Free;

#[derive(Debug, Serialize)]
pub struct Summary {
    node: Node,
    pods: Vec<Pod>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Node {
    node_name: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    system_containers: Vec<Container>,
    start_time: Option<String>,
    cpu: Cpu,
    memory: Memory,
    #[serde(skip_serializing_if = "Option::is_none")]
    network: Option<Network>,
    #[serde(skip_serializing_if = "Option::is_none")]
    fs: Option<Fs>,
    #[serde(skip_serializing_if = "Option::is_none")]
    runtime: Option<RuntimeFs>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rlimit: Option<Rlimit>,
    #[serde(skip_serializing_if = "Option::is_none")]
    swap: Option<Swap>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Pod {
    pod_ref: PodRef,
    start_time: Option<String>,
    containers: Vec<Container>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cpu: Option<Cpu>,
    #[serde(skip_serializing_if = "Option::is_none")]
    memory: Option<Memory>,
    #[serde(skip_serializing_if = "Option::is_none")]
    network: Option<Network>,
    #[serde(rename = "process_stats", skip_serializing_if = "Option::is_none")]
    process_stats: Option<Processes>,
    #[serde(skip_serializing_if = "Option::is_none")]
    swap: Option<Swap>,
}

#[derive(Debug, Serialize)]
struct PodRef {
    name: String,
    namespace: String,
    uid: String,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Container {
    name: String,
    start_time: Option<String>,
    cpu: Cpu,
    memory: Memory,
    #[serde(skip_serializing_if = "Option::is_none")]
    logs: Option<Fs>,
    #[serde(skip_serializing_if = "Option::is_none")]
    swap: Option<Swap>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Cpu {
    time: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    usage_nano_cores: Option<u64>,
    usage_core_nano_seconds: u64,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Memory {
    time: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    available_bytes: Option<u64>,
    usage_bytes: u64,
    working_set_bytes: u64,
    rss_bytes: u64,
    page_faults: u64,
    major_page_faults: u64,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Swap {
    time: String,
    swap_usage_bytes: u64,
}

#[derive(Debug, Serialize)]
struct Processes {
    process_count: u64,
}

#[derive(Debug, Serialize)]
struct Network {
    time: String,
    /// The default one.
    #[serde(flatten)]
    interface: Interface,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    interfaces: Vec<Interface>,
}

#[derive(Debug, Serialize)]
struct Rlimit {
    time: String,
    maxpid: i64,
    curproc: i64,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct RuntimeFs {
    image_fs: Fs,
    container_fs: Fs,
}

#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Fs {
    time: String,
    available_bytes: u64,
    capacity_bytes: u64,
    used_bytes: u64,
    inodes_free: u64,
    inodes: u64,
    inodes_used: u64,
}

/// Reads what no cgroup counts: file systems and interfaces.
pub fn of(node_name: &str, dir: &Path, sample: &Sample, rates: &Rates, extent: Extent) -> Summary {
    let is_whole = extent == Extent::All;
    let now = rfc3339(Timestamp::now());
    let free = is_whole.then(|| Free::look(dir));
    let fs = is_whole.then(|| Fs::of(dir, &now)).flatten();
    let system = sample.all_pods.map(|all| Container::system("pods", &all, rates));
    let node = Node {
        node_name: node_name.to_owned(),
        system_containers: system.into_iter().collect(),
        start_time: boot_time().map(rfc3339),
        cpu: Cpu::of(&sample.node, rates.nano_cores(NODE)),
        memory: Memory::of(&sample.node),
        network: is_whole.then(|| Network::of(network::interfaces(None), &now)).flatten(),
        // Images and containers lie on the node's own.
        runtime: fs.clone().map(|fs| RuntimeFs { image_fs: fs.clone(), container_fs: fs }),
        fs,
        rlimit: free.map(|free| Rlimit { time: now.clone(), maxpid: free.pids_max, curproc: free.pids_max - free.pids }),
        swap: Swap::of(&sample.node),
    };
    Summary { node, pods: sample.pods.iter().map(|pod| Pod::of(pod, rates, extent, &now)).collect() }
}

impl Pod {
    fn of(pod: &PodSample, rates: &Rates, extent: Extent, now: &str) -> Self {
        let is_whole = extent == Extent::All;
        let network = pod.network_process.filter(|_| is_whole).and_then(|pid| Network::of(network::interfaces(Some(pid)), now));
        Self {
            pod_ref: PodRef { name: pod.name.clone(), namespace: pod.namespace.clone(), uid: pod.uid.clone() },
            start_time: pod.started.map(rfc3339),
            containers: pod.containers.iter().map(|container| Container::of(container, rates, extent, now)).collect(),
            cpu: pod.usage.map(|usage| Cpu::of(&usage, rates.nano_cores(&pod.uid))),
            memory: pod.usage.map(|usage| Memory::of(&usage)),
            network,
            process_stats: pod.usage.filter(|_| is_whole).and_then(|usage| Some(Processes { process_count: usage.usage.processes? })),
            swap: pod.usage.and_then(|usage| Swap::of(&usage)),
        }
    }
}

impl Container {
    fn of(container: &ContainerSample, rates: &Rates, extent: Extent, now: &str) -> Self {
        Self {
            name: container.name.clone(),
            start_time: container.started.map(rfc3339),
            cpu: Cpu::of(&container.usage, rates.nano_cores(&container.id)),
            memory: Memory::of(&container.usage),
            logs: (extent == Extent::All).then(|| Fs::of_file(&container.log_path, now)).flatten(),
            swap: Swap::of(&container.usage),
        }
    }

    fn system(name: &str, measured: &Measured, rates: &Rates) -> Self {
        Self {
            name: name.to_owned(),
            start_time: None,
            cpu: Cpu::of(measured, rates.nano_cores(PODS)),
            memory: Memory::of(measured),
            logs: None,
            swap: None,
        }
    }
}

impl Cpu {
    fn of(measured: &Measured, usage_nano_cores: Option<u64>) -> Self {
        Self { time: rfc3339(measured.at), usage_nano_cores, usage_core_nano_seconds: measured.usage.cpu_nano }
    }
}

impl Memory {
    fn of(measured: &Measured) -> Self {
        let memory = measured.usage.memory;
        Self {
            time: rfc3339(measured.at),
            available_bytes: memory.limit_bytes.map(|limit| limit.saturating_sub(memory.working_set_bytes)),
            usage_bytes: memory.usage_bytes,
            working_set_bytes: memory.working_set_bytes,
            rss_bytes: memory.rss_bytes,
            page_faults: memory.page_faults,
            major_page_faults: memory.major_page_faults,
        }
    }
}

impl Swap {
    fn of(measured: &Measured) -> Option<Self> {
        Some(Self { time: rfc3339(measured.at), swap_usage_bytes: measured.usage.memory.swap_bytes? })
    }
}

impl Network {
    fn of(interfaces: Vec<Interface>, now: &str) -> Option<Self> {
        if interfaces.is_empty() {
            return None;
        }
        let interface = interfaces.iter().find(|interface| interface.name == DEFAULT_INTERFACE).cloned().unwrap_or_default();
        Some(Self { time: now.to_owned(), interface, interfaces })
    }
}

impl Fs {
    /// The whole file system.
    fn of(dir: &Path, now: &str) -> Option<Self> {
        let stat = rustix::fs::statvfs(dir).ok()?;
        let bytes = |blocks: u64| blocks.saturating_mul(stat.f_frsize);
        Some(Self {
            time: now.to_owned(),
            available_bytes: bytes(stat.f_bavail),
            capacity_bytes: bytes(stat.f_blocks),
            used_bytes: bytes(stat.f_blocks.saturating_sub(stat.f_bfree)),
            inodes_free: stat.f_ffree,
            inodes: stat.f_files,
            inodes_used: stat.f_files.saturating_sub(stat.f_ffree),
        })
    }

    /// One file of it.
    fn of_file(path: &Path, now: &str) -> Option<Self> {
        let used_bytes = std::fs::metadata(path).ok()?.len();
        Some(Self { used_bytes, inodes_used: 1, ..Self::of(path, now)? })
    }
}

fn boot_time() -> Option<Timestamp> {
    let stat = std::fs::read_to_string("/proc/stat").ok()?;
    let seconds = stat.lines().find_map(|line| line.strip_prefix("btime "))?.trim().parse().ok()?;
    Timestamp::from_second(seconds).ok()
}
