//! Hollow nodes and pods -> the JSON that a kubelet would send of them.

use std::{collections::BTreeMap, net::IpAddr};

use api::time::{Timestamp, rfc3339, rfc3339_micro};
use serde_json::{Map, Value, json};
use uuid::Uuid;

use super::{
    Config,
    seen::{Container, Role},
    stages::{Condition, Next, Phase},
};

pub const LEASES: &str = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases";
/// Label of all hollow nodes, by which they can be selected.
const INSTANCE_TYPE: &str = "node.kubernetes.io/instance-type";

/// What a status of a pod is written from.
pub struct PodFacts<'a> {
    pub uid: u128,
    pub generation: i64,
    pub phase: Phase,
    pub containers: &'a [Container],
    pub ip: Option<IpAddr>,
    pub host_ip: IpAddr,
    pub start: Option<Timestamp>,
    pub now: Timestamp,
}

/// A node to register.
pub fn node(config: &Config, name: &str, number: u32, address: IpAddr, now: Timestamp) -> Value {
    let mut labels: BTreeMap<&str, String> = BTreeMap::from([
        ("beta.kubernetes.io/arch", "amd64".to_owned()),
        ("beta.kubernetes.io/os", "linux".to_owned()),
        ("kubernetes.io/arch", "amd64".to_owned()),
        ("kubernetes.io/hostname", name.to_owned()),
        ("kubernetes.io/os", "linux".to_owned()),
        (INSTANCE_TYPE, "hollow".to_owned()),
    ]);
    if config.zones > 0 {
        labels.insert("topology.kubernetes.io/zone", format!("zone-{}", number % config.zones));
    }
    labels.extend(config.labels.iter().map(|(k, v)| (k.as_str(), v.clone())));
    let mut status = node_status(config, now, true, &[]);
    status["addresses"] = json!([{"type": "InternalIP", "address": address}, {"type": "Hostname", "address": name}]);
    json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": labels}, "spec": {}, "status": status})
}

/// Conditions and capacity. `changed`: their times of transition are now; otherwise they stay.
pub fn node_status(config: &Config, now: Timestamp, changed: bool, over: &[Condition]) -> Value {
    let now = rfc3339(now);
    let mut conditions = Vec::new();
    let good = [
        ("MemoryPressure", "False", "KubeletHasSufficientMemory", "kubelet has sufficient memory available"),
        ("DiskPressure", "False", "KubeletHasNoDiskPressure", "kubelet has no disk pressure"),
        ("PIDPressure", "False", "KubeletHasSufficientPID", "kubelet has sufficient PID available"),
        ("Ready", "True", "KubeletReady", "kubelet is posting ready status"),
    ];
    let mut push = |kind: &str, status: &str, reason: &str, message: &str, changed: bool| {
        let mut condition = json!({"type": kind, "status": status, "reason": reason, "message": message, "lastHeartbeatTime": now});
        if changed {
            condition["lastTransitionTime"] = json!(now);
        }
        conditions.push(condition);
    };
    for (kind, status, reason, message) in good {
        if !over.iter().any(|c| c.kind == kind) {
            push(kind, status, reason, message, changed);
        }
    }
    for c in over {
        push(&c.kind, &c.status, &c.reason, &c.message, true);
    }
    let amounts = json!({"cpu": config.cpu, "memory": config.memory, "pods": config.pods.to_string(), "ephemeral-storage": "1Ti"});
    let info = json!({
        "architecture": "amd64", "operatingSystem": "linux", "osImage": "hollow", "kernelVersion": "", "machineID": "", "systemUUID": "",
        "bootID": "", "containerRuntimeVersion": "hollow://", "kubeletVersion": config.version, "kubeProxyVersion": "",
    });
    json!({"capacity": amounts, "allocatable": amounts, "conditions": conditions, "nodeInfo": info})
}

/// A Lease, made (`rev` 0) or renewed. Names and numbers need no escapes.
pub fn lease(name: &str, node_uid: u128, rev: u64, seconds: u32, now: Timestamp) -> String {
    let (uid, now) = (Uuid::from_u128(node_uid), rfc3339_micro(now));
    let rev = if rev == 0 { String::new() } else { format!(r#","resourceVersion":"{rev}""#) };
    format!(
        r#"{{"apiVersion":"coordination.k8s.io/v1","kind":"Lease","metadata":{{"name":"{name}","namespace":"kube-node-lease"{rev},"ownerReferences":[{{"apiVersion":"v1","kind":"Node","name":"{name}","uid":"{uid}"}}]}},"spec":{{"holderIdentity":"{name}","leaseDurationSeconds":{seconds},"renewTime":"{now}"}}}}"#
    )
}

/// Options of the last delete of a pod.
pub fn delete(uid: u128) -> String {
    let uid = Uuid::from_u128(uid);
    format!(r#"{{"apiVersion":"v1","kind":"DeleteOptions","gracePeriodSeconds":0,"preconditions":{{"uid":"{uid}"}}}}"#)
}

/// A strategic merge patch of the status: what `next` says, and what follows from it.
pub fn pod_status(pod: &PodFacts, next: &Next) -> Value {
    let phase = next.phase.unwrap_or(pod.phase);
    let state = state(next, phase);
    let mut status = Map::new();
    let mut put = |key: &str, value: Value| drop(status.insert(key.to_owned(), value));
    put("observedGeneration", json!(pod.generation));
    if pod.start.is_none() {
        put("startTime", json!(rfc3339(pod.now)));
        put("hostIP", json!(pod.host_ip));
        put("hostIPs", json!([{"ip": pod.host_ip}]));
    }
    if next.phase.is_some() {
        put("phase", json!(format!("{phase:?}")));
    }
    for (key, text) in [("reason", &next.reason), ("message", &next.message)] {
        if let Some(text) = text {
            put(key, json!(text));
        }
    }
    if let Some(ip) = pod.ip {
        put("podIP", json!(ip));
        put("podIPs", json!([{"ip": ip}]));
    }
    put("conditions", conditions(pod, next, &state));
    let (init, main): (Vec<_>, Vec<_>) = pod.containers.iter().partition(|c| c.role != Role::Main);
    let of = |containers: Vec<&Container>| containers.into_iter().map(|c| container(pod, c, &state)).collect::<Vec<_>>();
    put("containerStatuses", json!(of(main)));
    if !init.is_empty() {
        put("initContainerStatuses", json!(of(init)));
    }
    json!({"metadata": {"uid": Uuid::from_u128(pod.uid).to_string()}, "status": status})
}

/// How its containers fare.
enum State<'a> {
    Running { ready: bool },
    Waiting(&'a str),
    Ended { exit_code: i32 },
}

fn state(next: &Next, phase: Phase) -> State<'_> {
    match (phase, &next.waiting) {
        (Phase::Succeeded, _) => State::Ended { exit_code: next.exit_code.unwrap_or(0) },
        (Phase::Failed, _) => State::Ended { exit_code: next.exit_code.unwrap_or(1) },
        (_, Some(reason)) => State::Waiting(reason),
        (Phase::Pending, None) => State::Waiting("ContainerCreating"),
        (Phase::Running, None) => State::Running { ready: next.ready.unwrap_or(true) },
    }
}

fn conditions(pod: &PodFacts, next: &Next, state: &State) -> Value {
    let now = rfc3339(pod.now);
    let mut all = Vec::new();
    let mut put = |kind: &str, status: &str, reason: &str, message: &str| {
        if next.conditions.iter().any(|c| c.kind == kind) {
            return;
        }
        all.push(condition(pod, kind, status, reason, message, &now));
    };
    let names = || pod.containers.iter().filter(|c| c.role == Role::Main).map(|c| &*c.name).collect::<Vec<_>>().join(" ");
    let (ready, reason, message) = match state {
        State::Running { ready: true } => ("True", "", String::new()),
        State::Running { ready: false } | State::Waiting(_) => {
            ("False", "ContainersNotReady", format!("containers with unready status: [{}]", names()))
        }
        State::Ended { .. } if next.phase == Some(Phase::Failed) => ("False", "PodFailed", String::new()),
        State::Ended { .. } => ("False", "PodCompleted", String::new()),
    };
    if next.phase.is_some() {
        let (sandbox, done) = (if matches!(state, State::Ended { .. }) { "False" } else { "True" }, ready == "False" && message.is_empty());
        put("PodReadyToStartContainers", sandbox, "", "");
        put("Initialized", "True", if done && reason == "PodCompleted" { reason } else { "" }, "");
    }
    put("Ready", ready, reason, &message);
    put("ContainersReady", ready, reason, &message);
    all.extend(next.conditions.iter().map(|c| condition(pod, &c.kind, &c.status, &c.reason, &c.message, &now)));
    Value::Array(all)
}

/// An empty reason or message takes the old one away.
fn condition(pod: &PodFacts, kind: &str, status: &str, reason: &str, message: &str, now: &str) -> Value {
    let text = |text: &str| if text.is_empty() { Value::Null } else { json!(text) };
    json!({"type": kind, "status": status, "reason": text(reason), "message": text(message), "lastTransitionTime": now,
        "observedGeneration": pod.generation})
}

fn container(pod: &PodFacts, of: &Container, state: &State) -> Value {
    let id = format!("hollow://{}/{}", Uuid::from_u128(pod.uid).simple(), of.name);
    let (now, began) = (rfc3339(pod.now), rfc3339(pod.start.unwrap_or(pod.now)));
    let ended = |code: i32, began: &str| {
        let reason = if code == 0 { "Completed" } else { "Error" };
        json!({"terminated": {"exitCode": code, "reason": reason, "startedAt": began, "finishedAt": now, "containerID": id}})
    };
    let (is_ready, started, state, has_id) = match (of.role, state) {
        (Role::Init, State::Waiting(_)) => (false, false, json!({"waiting": {"reason": "PodInitializing"}}), false),
        (Role::Init, _) => (true, false, ended(0, &began), true),
        (_, State::Running { ready }) => (*ready, true, json!({"running": {"startedAt": began}}), true),
        (_, State::Waiting(reason)) => (false, false, json!({"waiting": {"reason": reason}}), false),
        (_, State::Ended { exit_code }) => (false, false, ended(*exit_code, &began), true),
    };
    let mut status = json!({"name": of.name, "image": of.image, "imageID": "", "ready": is_ready, "started": started, "restartCount": 0, "state": state});
    if has_id {
        status["imageID"] = json!(of.image);
        status["containerID"] = json!(id);
    }
    status
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(containers: &[Container]) -> PodFacts<'_> {
        let now = "2026-01-02T03:04:05Z".parse().unwrap();
        let ip = "10.0.0.2".parse().ok();
        PodFacts { uid: 1, generation: 2, phase: Phase::Pending, containers, ip, host_ip: "10.9.0.1".parse().unwrap(), start: None, now }
    }

    fn containers() -> [Container; 3] {
        let of = |name: &str, role| Container { name: name.into(), image: "i".into(), role };
        [of("once", Role::Init), of("side", Role::Sidecar), of("c", Role::Main)]
    }

    fn condition_of<'a>(patch: &'a Value, kind: &str) -> &'a Value {
        let all = patch["status"]["conditions"].as_array().unwrap();
        let found: Vec<&Value> = all.iter().filter(|c| c["type"] == kind).collect();
        assert_eq!(found.len(), 1, "{kind}: {patch}");
        found[0]
    }

    #[test]
    fn a_pod_that_runs() {
        let containers = containers();
        let patch = pod_status(&facts(&containers), &Next { phase: Some(Phase::Running), ready: Some(true), ..Next::default() });
        let status = &patch["status"];
        assert_eq!(patch["metadata"]["uid"], "00000000-0000-0000-0000-000000000001");
        assert_eq!(
            (&status["phase"], &status["podIP"], &status["startTime"]),
            (&json!("Running"), &json!("10.0.0.2"), &json!("2026-01-02T03:04:05Z"))
        );
        for kind in ["Ready", "ContainersReady", "Initialized", "PodReadyToStartContainers"] {
            assert_eq!(condition_of(&patch, kind)["status"], "True", "{kind}");
        }
        assert_eq!(status["containerStatuses"][0]["state"]["running"]["startedAt"], "2026-01-02T03:04:05Z");
        let init = &status["initContainerStatuses"];
        assert_eq!(init[0]["state"]["terminated"]["exitCode"], 0);
        assert!(init[1]["state"]["running"].is_object());
    }

    #[test]
    fn pods_that_end_wait_or_are_unready() {
        let containers = containers();
        let of = |next: Next| pod_status(&facts(&containers), &next);
        let done = of(Next { phase: Some(Phase::Succeeded), ..Next::default() });
        assert_eq!(condition_of(&done, "Ready")["reason"], "PodCompleted");
        assert_eq!(done["status"]["containerStatuses"][0]["state"]["terminated"]["reason"], "Completed");
        let failed = of(Next { phase: Some(Phase::Failed), exit_code: Some(137), reason: Some("Evicted".into()), ..Next::default() });
        assert_eq!((&failed["status"]["reason"], &condition_of(&failed, "Ready")["reason"]), (&json!("Evicted"), &json!("PodFailed")));
        assert_eq!(failed["status"]["containerStatuses"][0]["state"]["terminated"]["exitCode"], 137);
        let waits = of(Next { phase: Some(Phase::Pending), waiting: Some("ErrImagePull".into()), ..Next::default() });
        assert_eq!(waits["status"]["containerStatuses"][0]["state"]["waiting"]["reason"], "ErrImagePull");
        let unready =
            pod_status(&PodFacts { phase: Phase::Running, ..facts(&containers) }, &Next { ready: Some(false), ..Next::default() });
        assert_eq!(condition_of(&unready, "Ready")["message"], "containers with unready status: [c]");
        assert!(unready["status"].get("phase").is_none());
    }

    #[test]
    fn conditions_of_the_file_win() {
        let own = Condition { kind: "Ready".into(), status: "False".into(), reason: "Gate".into(), message: String::new() };
        let patch = pod_status(&facts(&[]), &Next { phase: Some(Phase::Running), conditions: vec![own.clone()], ..Next::default() });
        assert_eq!(condition_of(&patch, "Ready")["reason"], "Gate");
        let status = node_status(&Config::new(1), Timestamp::UNIX_EPOCH, false, &[own]);
        let ready: Vec<&Value> = status["conditions"].as_array().unwrap().iter().filter(|c| c["type"] == "Ready").collect();
        assert_eq!((ready.len(), &ready[0]["status"]), (1, &json!("False")));
    }

    #[test]
    fn a_lease_is_json_as_upstream_writes_it() {
        let now = "2026-01-02T03:04:05.000006Z".parse().unwrap();
        let made: Value = serde_json::from_str(&lease("h-1", 1, 0, 40, now)).unwrap();
        assert!(made["metadata"].get("resourceVersion").is_none());
        let renewed: Value = serde_json::from_str(&lease("h-1", 1, 9, 40, now)).unwrap();
        assert_eq!(renewed["metadata"]["resourceVersion"], "9");
        assert_eq!(
            renewed["spec"],
            json!({"holderIdentity": "h-1", "leaseDurationSeconds": 40, "renewTime": "2026-01-02T03:04:05.000006Z"})
        );
        assert_eq!(renewed["metadata"]["ownerReferences"][0]["kind"], "Node");
        assert!(serde_json::from_str::<Value>(&delete(5)).is_ok());
    }

    #[test]
    fn zones_and_labels() {
        let mut config = Config::new(1);
        (config.zones, config.labels) = (3, BTreeMap::from([("a".to_owned(), "b".to_owned())]));
        let node = node(&config, "h-4", 4, "198.18.0.4".parse().unwrap(), Timestamp::UNIX_EPOCH);
        let labels = &node["metadata"]["labels"];
        assert_eq!(
            (&labels["topology.kubernetes.io/zone"], &labels["a"], &labels["kubernetes.io/hostname"]),
            (&json!("zone-1"), &json!("b"), &json!("h-4"))
        );
    }
}
