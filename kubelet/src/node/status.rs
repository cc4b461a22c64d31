//! A machine and what its runtime says -> the Node's labels and status. Pure, but for [`Facts::look`].

use std::collections::BTreeMap;

use api::{
    k8s::{
        api::core::v1::{
            ContainerImage, DaemonEndpoint, Node, NodeAddress, NodeCondition, NodeDaemonEndpoints, NodeSpec, NodeStatus, NodeSwapStatus,
            NodeSystemInfo,
        },
        apimachinery::pkg::{
            api::resource::Quantity,
            apis::meta::v1::{ObjectMeta, Time},
        },
    },
    time::Timestamp,
};
use cri::{ListImagesRequest, Runtime, StatusRequest, VersionRequest};
use podspec::claims::LOCAL_STORAGE;
use serde_json::{Map, Value, json};

use crate::{
    Config, config, dirs,
    machine::{Free, Machine},
};

/// Upstream's defaults: `nodeStatusMaxImages`, `MaxNamesPerImageInNodeStatus`.
const IMAGES_MAX: usize = 50;
const NAMES_MAX: usize = 5;

/// What changes while we run.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    pub now: Timestamp,
    pub free: Free,
    /// Why pods cannot run; `None` where they can.
    pub unready: Option<String>,
    /// `containerd://1.6.20`
    pub runtime_version: String,
    pub images: Vec<cri::Image>,
}

impl Facts {
    pub async fn look(config: &Config, runtime: &Runtime) -> Self {
        let version = runtime.version(VersionRequest::default()).await.map(|v| format!("{}://{}", v.runtime_name, v.runtime_version));
        let images = runtime.list_images(ListImagesRequest::default()).await.map(|listed| listed.images);
        Self {
            now: Timestamp::now(),
            free: Free::look(&config.agent_dir),
            unready: unready(runtime).await,
            runtime_version: version.unwrap_or_default().trim_start_matches("://").to_owned(),
            images: images.unwrap_or_default(),
        }
    }
}

/// Source: `updateRuntimeUp` in `pkg/kubelet/kubelet.go`.
async fn unready(runtime: &Runtime) -> Option<String> {
    let status = match runtime.status(StatusRequest { verbose: false }).await {
        Ok(answer) => answer.status.unwrap_or_default(),
        Err(error) => return Some(format!("container runtime is down: {error}")),
    };
    let find = |name: &str| status.conditions.iter().find(|c| c.r#type == name);
    let words = |name: &str| match find(name) {
        Some(c) if c.status => None,
        Some(c) => Some(format!("{name}=false reason:{} message:{}", c.reason, c.message)),
        None => Some(format!("{name} condition is not set")),
    };
    let runtime = words("RuntimeReady").map(|w| format!("container runtime not ready: {w}"));
    runtime.or_else(|| words("NetworkReady").map(|w| format!("container runtime network not ready: {w}")))
}

/// The object to register.
pub fn node(config: &Config, machine: &Machine) -> Node {
    let mut labels = config.labels.clone();
    let own = [
        ("beta.kubernetes.io/arch", machine.architecture),
        ("beta.kubernetes.io/os", "linux"),
        ("kubernetes.io/arch", machine.architecture),
        ("kubernetes.io/hostname", config.hostname.as_str()),
        ("kubernetes.io/os", "linux"),
    ];
    labels.extend(own.map(|(k, v)| (k.to_owned(), v.to_owned())));
    let storage = dirs::storage(&config::root_dir(&config.agent_dir)).display().to_string();
    let annotations = [("volumes.kubernetes.io/controller-managed-attach-detach", "true".to_owned()), (LOCAL_STORAGE, storage)];
    let facts = Facts { now: Timestamp::now(), unready: Some(STARTING.into()), ..Facts::default() };
    Node {
        metadata: ObjectMeta {
            name: Some(config.node_name.clone()),
            labels: Some(labels),
            annotations: Some(annotations.map(|(name, value)| (name.to_owned(), value)).into()),
            ..ObjectMeta::default()
        },
        spec: Some(NodeSpec { taints: (!config.taints.is_empty()).then(|| config.taints.clone()), ..NodeSpec::default() }),
        status: Some(status(config, machine, &Facts { free: Free::look(&config.agent_dir), ..facts }, &NodeStatus::default())),
    }
}

/// Upstream's words before the first look at the runtime.
const STARTING: &str = "container runtime status check may not have completed yet";

/// The whole status. `old` gives the times of what did not change, and what others write.
pub fn status(config: &Config, machine: &Machine, facts: &Facts, old: &NodeStatus) -> NodeStatus {
    let capacity = capacity(config, machine);
    NodeStatus {
        addresses: Some(addresses(config)),
        allocatable: Some(allocatable(&capacity, config, machine)),
        capacity: Some(capacity),
        conditions: Some(conditions(config, machine, facts, old)),
        daemon_endpoints: Some(NodeDaemonEndpoints { kubelet_endpoint: Some(DaemonEndpoint { port: i32::from(config.address.port()) }) }),
        images: Some(images(&facts.images)),
        node_info: Some(info(config, machine, facts)),
        ..old.clone()
    }
}

/// The memory, cpu and disk that pods may have together.
pub fn allocatable_amounts(config: &Config, machine: &Machine) -> crate::downward::Allocatable {
    crate::downward::Allocatable {
        cpu_milli: machine.cpus * 1000,
        memory_bytes: (machine.memory_bytes - reserved_huge(machine) - config.eviction_hard.memory.of(machine.memory_bytes)).max(0),
        ephemeral_storage_bytes: machine.disk_bytes - config.eviction_hard.disk.of(machine.disk_bytes),
    }
}

/// A strategic merge patch for what differs, apart from heartbeats; `None` where nothing does.
pub fn changes(there: &NodeStatus, wanted: &NodeStatus) -> Option<Value> {
    let (there, wanted) = (object(there), object(wanted));
    let mut changes = Map::new();
    for (key, new) in &wanted {
        let old = there.get(key);
        let same = if key == "conditions" { same_conditions(old, Some(new)) } else { old == Some(new) };
        if same {
            continue;
        }
        let change = match (key.as_str(), new) {
            // Merged by type, which is not unique.
            ("addresses", Value::Array(items)) => [json!({"$patch": "replace"})].into_iter().chain(items.iter().cloned()).collect(),
            // Amounts that are gone are taken away.
            ("capacity" | "allocatable", Value::Object(new)) => amounts(old, new),
            _ => new.clone(),
        };
        changes.insert(key.clone(), change);
    }
    (!changes.is_empty()).then(|| Value::Object(changes))
}

/// What is sent: the changes, and all conditions, whose heartbeat times are now.
pub fn whole(changes: Option<Value>, wanted: &NodeStatus) -> Value {
    let mut changes = changes.unwrap_or_else(|| json!({}));
    changes["conditions"] = json!(wanted.conditions.iter().flatten().filter(|c| OWN.contains(&c.type_.as_str())).collect::<Vec<_>>());
    changes
}

pub fn conditions_equal(a: &NodeStatus, b: &NodeStatus) -> bool {
    same_conditions(object(a).get("conditions"), object(b).get("conditions"))
}

pub fn is_ready(status: &NodeStatus) -> bool {
    status.conditions.iter().flatten().any(|c| c.type_ == "Ready" && c.status == "True")
}

/// The event that says that a condition came to have that status.
pub fn event(condition: &str, status: &str) -> Option<&'static str> {
    Some(match (condition, status) {
        ("Ready", "True") => "NodeReady",
        ("Ready", _) => "NodeNotReady",
        ("MemoryPressure", "True") => "NodeHasInsufficientMemory",
        ("MemoryPressure", "False") => "NodeHasSufficientMemory",
        ("DiskPressure", "True") => "NodeHasDiskPressure",
        ("DiskPressure", "False") => "NodeHasNoDiskPressure",
        ("PIDPressure", "True") => "NodeHasInsufficientPID",
        ("PIDPressure", "False") => "NodeHasSufficientPID",
        _ => return None,
    })
}

const OWN: [&str; 4] = ["MemoryPressure", "DiskPressure", "PIDPressure", "Ready"];

fn conditions(config: &Config, machine: &Machine, facts: &Facts, old: &NodeStatus) -> Vec<NodeCondition> {
    let (free, hard) = (facts.free, config.eviction_hard);
    let low_memory = free.memory_bytes < hard.memory.of(machine.memory_bytes);
    let low_disk = free.disk_bytes < hard.disk.of(machine.disk_bytes) || free.inodes < hard.inodes.of(free.inodes_total);
    let low_pids = free.pids < hard.pids.of(free.pids_max);
    let either =
        |low: bool, yes: (&'static str, &'static str), no: (&'static str, &'static str)| if low { (true, yes) } else { (false, no) };
    let pressures = [
        either(
            low_memory,
            ("KubeletHasInsufficientMemory", "kubelet has insufficient memory available"),
            ("KubeletHasSufficientMemory", "kubelet has sufficient memory available"),
        ),
        either(
            low_disk,
            ("KubeletHasDiskPressure", "kubelet has disk pressure"),
            ("KubeletHasNoDiskPressure", "kubelet has no disk pressure"),
        ),
        either(
            low_pids,
            ("KubeletHasInsufficientPID", "kubelet has insufficient PID available"),
            ("KubeletHasSufficientPID", "kubelet has sufficient PID available"),
        ),
    ];
    let ready = match &facts.unready {
        None => (true, ("KubeletReady", "kubelet is posting ready status")),
        Some(why) => (false, ("KubeletNotReady", why.as_str())),
    };
    let others = old.conditions.iter().flatten().filter(|c| !OWN.contains(&c.type_.as_str())).cloned();
    let own = OWN.into_iter().zip(pressures.into_iter().chain([ready]));
    others.chain(own.map(|(kind, (holds, (reason, message)))| condition(facts.now, old, kind, holds, reason, message))).collect()
}

fn condition(now: Timestamp, old: &NodeStatus, kind: &str, holds: bool, reason: &str, message: &str) -> NodeCondition {
    let status = if holds { "True" } else { "False" };
    let now = Time(Timestamp::from_second(now.as_second()).unwrap_or(now));
    let before = old.conditions.iter().flatten().find(|c| c.type_ == kind && c.status == status);
    NodeCondition {
        type_: kind.into(),
        status: status.into(),
        reason: Some(reason.into()),
        message: Some(message.into()),
        last_heartbeat_time: Some(now.clone()),
        last_transition_time: before.and_then(|c| c.last_transition_time.clone()).or(Some(now)),
    }
}

fn addresses(config: &Config) -> Vec<NodeAddress> {
    let address = |kind: &str, address: String| NodeAddress { type_: kind.into(), address };
    let ips = config.node_ips.iter().map(|ip| address("InternalIP", ip.to_string()));
    ips.chain([address("Hostname", config.hostname.clone())]).collect()
}

fn capacity(config: &Config, machine: &Machine) -> BTreeMap<String, Quantity> {
    let mut capacity = BTreeMap::from([
        ("cpu".to_owned(), Quantity(machine.cpus.to_string())),
        ("memory".to_owned(), kib(machine.memory_bytes)),
        ("ephemeral-storage".to_owned(), kib(machine.disk_bytes)),
        ("pods".to_owned(), Quantity(config.max_pods.to_string())),
    ]);
    for pages in &machine.huge_pages {
        capacity.insert(format!("hugepages-{}", size_name(pages.size_kib)), kib((pages.count * pages.size_kib) << 10));
    }
    capacity
}

fn allocatable(capacity: &BTreeMap<String, Quantity>, config: &Config, machine: &Machine) -> BTreeMap<String, Quantity> {
    let amounts = allocatable_amounts(config, machine);
    let mut allocatable = capacity.clone();
    allocatable.insert("memory".into(), kib(amounts.memory_bytes));
    allocatable.insert("ephemeral-storage".into(), Quantity(amounts.ephemeral_storage_bytes.to_string()));
    allocatable
}

fn reserved_huge(machine: &Machine) -> i64 {
    machine.huge_pages.iter().map(|pages| (pages.count * pages.size_kib) << 10).sum()
}

fn kib(bytes: i64) -> Quantity {
    Quantity(if bytes == 0 { "0".into() } else { format!("{}Ki", bytes >> 10) })
}

fn size_name(size_kib: i64) -> String {
    match size_kib {
        s if s % (1 << 20) == 0 => format!("{}Gi", s >> 20),
        s if s % (1 << 10) == 0 => format!("{}Mi", s >> 10),
        s => format!("{s}Ki"),
    }
}

fn info(config: &Config, machine: &Machine, facts: &Facts) -> NodeSystemInfo {
    NodeSystemInfo {
        architecture: machine.architecture.into(),
        boot_id: machine.boot_id.clone(),
        container_runtime_version: facts.runtime_version.clone(),
        kernel_version: machine.kernel_version.clone(),
        kube_proxy_version: String::new(),
        kubelet_version: config.version.clone(),
        machine_id: machine.machine_id.clone(),
        operating_system: "linux".into(),
        os_image: machine.os_image.clone(),
        swap: (machine.swap_bytes > 0).then_some(NodeSwapStatus { capacity: Some(machine.swap_bytes) }),
        system_uuid: machine.system_uuid.clone(),
    }
}

/// The biggest first.
fn images(listed: &[cri::Image]) -> Vec<ContainerImage> {
    let mut listed: Vec<&cri::Image> = listed.iter().collect();
    listed.sort_by(|a, b| b.size.cmp(&a.size).then_with(|| a.id.cmp(&b.id)));
    let one = |image: &&cri::Image| ContainerImage {
        names: Some(image.repo_digests.iter().chain(&image.repo_tags).take(NAMES_MAX).cloned().collect()),
        size_bytes: i64::try_from(image.size).ok(),
    };
    listed.iter().take(IMAGES_MAX).map(one).collect()
}

fn amounts(old: Option<&Value>, new: &Map<String, Value>) -> Value {
    let mut new = new.clone();
    for key in old.and_then(Value::as_object).into_iter().flat_map(Map::keys) {
        new.entry(key.clone()).or_insert(Value::Null);
    }
    new.into()
}

fn same_conditions(a: Option<&Value>, b: Option<&Value>) -> bool {
    let own = |value: Option<&Value>| -> Vec<[Value; 4]> {
        let all = value.and_then(Value::as_array).into_iter().flatten();
        let mut own: Vec<_> = all
            .filter(|c| c["type"].as_str().is_some_and(|t| OWN.contains(&t)))
            .map(|c| [&c["type"], &c["status"], &c["reason"], &c["message"]].map(Value::clone))
            .collect();
        own.sort_by_key(|c| c[0].to_string());
        own
    };
    own(a) == own(b)
}

fn object(status: &NodeStatus) -> Map<String, Value> {
    match serde_json::to_value(status) {
        Ok(Value::Object(map)) => map,
        _ => Map::new(),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn config() -> Config {
        Config { node_ips: vec!["10.0.0.1".parse().unwrap()], ..Config::new("/x".into(), "n1".into(), Arc::new(|_, _| Ok(()))) }
    }

    fn machine() -> Machine {
        Machine { cpus: 2, memory_bytes: 1 << 30, disk_bytes: 1000 << 20, ..Machine::default() }
    }

    fn healthy() -> Facts {
        let free = Free { memory_bytes: 1 << 29, disk_bytes: 900 << 20, inodes: 100, inodes_total: 100, pids: 1000, pids_max: 1000 };
        Facts { now: Timestamp::from_second(100).unwrap(), free, ..Facts::default() }
    }

    #[test]
    fn a_healthy_node_is_ready_and_says_what_it_has() {
        let status = status(&config(), &machine(), &healthy(), &NodeStatus::default());
        assert!(is_ready(&status));
        let value = json!(status);
        assert_eq!(value["capacity"]["memory"], "1048576Ki");
        assert_eq!(value["allocatable"]["memory"], "946176Ki");
        assert_eq!(value["addresses"][0], json!({"type": "InternalIP", "address": "10.0.0.1"}));
        assert_eq!(value["conditions"][1]["reason"], "KubeletHasNoDiskPressure");
    }

    #[test]
    fn pressure_is_what_the_thresholds_call_it() {
        let facts = Facts { free: Free { disk_bytes: 99 << 20, ..healthy().free }, ..healthy() };
        for (hard, memory, disk) in [
            (crate::EvictionHard::DEFAULT, "False", "True"),
            ("nodefs.available<9%", "False", "False"),
            ("memory.available<1Gi", "True", "False"),
        ] {
            let config = Config { eviction_hard: hard.parse().unwrap(), ..config() };
            let value = json!(status(&config, &machine(), &facts, &NodeStatus::default()));
            let of = |i: usize| value["conditions"][i]["status"].clone();
            assert_eq!((of(0), of(1)), (memory.into(), disk.into()), "{hard}");
        }
    }

    #[test]
    fn a_heartbeat_alone_is_no_change() {
        let first = status(&config(), &machine(), &healthy(), &NodeStatus::default());
        let later = Facts { now: Timestamp::from_second(200).unwrap(), ..healthy() };
        let second = status(&config(), &machine(), &later, &first);
        assert_eq!(changes(&first, &second), None);
        let down = Facts { unready: Some("container runtime is down".into()), ..later };
        let third = status(&config(), &machine(), &down, &second);
        let changes = changes(&second, &third).unwrap();
        assert_eq!(changes.as_object().unwrap().keys().collect::<Vec<_>>(), ["conditions"]);
        assert!(!is_ready(&third));
        let times = |s: &NodeStatus| s.conditions.as_ref().unwrap()[3].last_transition_time.clone().unwrap().0.as_second();
        assert_eq!((times(&first), times(&second), times(&third)), (100, 100, 200));
    }
}
