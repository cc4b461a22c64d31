//! A pod -> its row in `kubectl get pods`, with the status word. Source: `printPod` in `pkg/printers/internalversion/printers.go`.

use std::collections::HashSet;

use api::time::Timestamp;
use apiserver::kind::Column;
use serde_json::Value;

use crate::common::{
    Read,
    read::{name, text_at},
    table::{AGE_COLUMN, NAME_COLUMN, age, column, or_none, since, wide},
};

pub const COLUMNS: &[Column] = &[
    NAME_COLUMN,
    column("Ready", "string", "The aggregate readiness state of this pod for accepting traffic."),
    column("Status", "string", "The aggregate status of the containers in this pod."),
    column(
        "Restarts",
        "string",
        "The number of times the containers in this pod have been restarted and when the last container in this pod has restarted.",
    ),
    AGE_COLUMN,
    wide("IP", "string", "podIP address allocated to the pod. Routable at least within the cluster. Empty if not yet allocated."),
    wide(
        "Node",
        "string",
        "NodeName indicates in which node this pod is scheduled. If empty, this pod is a candidate for scheduling by the scheduler defined in schedulerName. Once this field is set, the kubelet for this node becomes responsible for the lifecycle of this pod. This field should not be used to express a desire for the pod to be scheduled on a specific node. https://kubernetes.io/docs/concepts/scheduling-eviction/assign-pod-node/#nodename",
    ),
    wide(
        "Nominated Node",
        "string",
        "nominatedNodeName is set only when this pod preempts other pods on the node, but it cannot be scheduled right away as preemption victims receive their graceful termination periods. This field does not guarantee that the pod will be scheduled on this node. Scheduler may decide to place the pod elsewhere if other nodes become available sooner. Scheduler may also decide to give the resources on this node to a higher priority pod that is created after preemption. As a result, this field may be different than PodSpec.nodeName when the pod is scheduled.",
    ),
    wide(
        "Readiness Gates",
        "string",
        "If specified, all readiness gates will be evaluated for pod readiness. A pod is ready when all its containers are ready AND all conditions specified in the readiness gates have status equal to \"True\" More info: https://git.k8s.io/enhancements/keps/sig-network/580-pod-readiness-gates",
    ),
];

/// Adds up what the row shows.
#[derive(Default)]
struct Summary {
    reason: String,
    ready: usize,
    restarts: i64,
    /// RFC 3339; compares as text since all are UTC in whole seconds.
    last_restart: String,
}

pub fn cells(pod: &Value, now: Timestamp) -> Vec<Value> {
    let sum = summary(pod);
    let spec = pod.at("spec");
    let sidecars = spec.list("initContainers").iter().filter(|c| podspec::is_sidecar(*c)).count();
    let total = spec.list("containers").len() + sidecars;
    let restarts = match (sum.restarts, sum.last_restart.as_str()) {
        (0, _) | (_, "") => sum.restarts.to_string(),
        (n, last) => format!("{n} ({} ago)", since(last, now)),
    };
    vec![
        name(pod).into(),
        format!("{}/{total}", sum.ready).into(),
        sum.reason.into(),
        restarts.into(),
        age(pod, now),
        or_none(text_at(pod, "/status/podIPs/0/ip")),
        or_none(spec.text("nodeName")),
        or_none(pod.at("status").text("nominatedNodeName")),
        readiness_gates(pod).into(),
    ]
}

fn summary(pod: &Value) -> Summary {
    let status = pod.at("status");
    let mut sum = Summary { reason: first_of(&[status.text("reason"), status.text("phase")]).to_owned(), ..Summary::default() };
    if status.list("conditions").iter().any(|c| c.text("type") == "PodScheduled" && c.text("reason") == "SchedulingGated") {
        sum.reason = "SchedulingGated".into();
    }
    let (initializing, sidecars) = init_containers(pod, &mut sum);
    if !initializing || condition(status, "Initialized") {
        (sum.restarts, sum.last_restart) = sidecars;
        containers(status, &mut sum);
    }
    if pod.at("metadata").at("deletionTimestamp").is_some() {
        deleted(status, &mut sum);
    }
    sum
}

/// Whether the pod still initializes; and restarts of the sidecars alone, which count on after that.
fn init_containers(pod: &Value, sum: &mut Summary) -> (bool, (i64, String)) {
    let specs = pod.at("spec").list("initContainers");
    let named: HashSet<&str> = specs.iter().filter(|c| podspec::is_sidecar(*c)).map(|c| c.text("name")).collect();
    let mut sidecars = (0, String::new());
    for (i, status) in pod.at("status").list("initContainerStatuses").iter().enumerate() {
        let sidecar = named.contains(status.text("name"));
        count_restarts(status, &mut sum.restarts, &mut sum.last_restart);
        if sidecar {
            count_restarts(status, &mut sidecars.0, &mut sidecars.1);
        }
        let state = status.at("state");
        let terminated = state.at("terminated");
        if terminated.is_some() && terminated.int("exitCode").unwrap_or(0) == 0 {
            continue;
        }
        if sidecar && status.is_true("started") {
            sum.ready += usize::from(status.is_true("ready"));
            continue;
        }
        sum.reason = init_reason(state, i, specs.len());
        return (true, sidecars);
    }
    (false, sidecars)
}

fn init_reason(state: Option<&Value>, index: usize, total: usize) -> String {
    if let Some(terminated) = state.at("terminated") {
        return format!("Init:{}", end_reason(terminated));
    }
    match state.at("waiting").text("reason") {
        "" | "PodInitializing" => format!("Init:{index}/{total}"),
        reason => format!("Init:{reason}"),
    }
}

fn containers(status: Option<&Value>, sum: &mut Summary) {
    let (mut running, mut error) = (false, String::new());
    for container in status.list("containerStatuses").iter().rev() {
        count_restarts(container, &mut sum.restarts, &mut sum.last_restart);
        let state = container.at("state");
        let waiting = state.at("waiting").text("reason");
        if !waiting.is_empty() {
            sum.reason = waiting.to_owned();
        } else if let Some(terminated) = state.at("terminated") {
            sum.reason = end_reason(terminated);
            if terminated.int("exitCode").unwrap_or(0) != 0 {
                error.clone_from(&sum.reason);
            }
        } else if container.is_true("ready") && state.at("running").is_some() {
            running = true;
            sum.ready += 1;
        }
    }
    // A pod of which something still runs is not done.
    if sum.reason == "Completed" {
        match (running, error) {
            (true, _) if condition(status, "Ready") => sum.reason = "Running".into(),
            (_, e) if !e.is_empty() => sum.reason = e,
            (true, _) => sum.reason = "NotReady".into(),
            _ => {}
        }
    }
}

fn deleted(status: Option<&Value>, sum: &mut Summary) {
    if status.text("reason") == "NodeLost" {
        sum.reason = "Unknown".into();
    } else if !matches!(status.text("phase"), "Succeeded" | "Failed") {
        sum.reason = "Terminating".into();
    }
}

fn end_reason(terminated: &Value) -> String {
    let number = |name| terminated.int(name).unwrap_or(0);
    match (terminated.text("reason"), number("signal")) {
        ("", 0) => format!("ExitCode:{}", number("exitCode")),
        ("", signal) => format!("Signal:{signal}"),
        (reason, _) => reason.to_owned(),
    }
}

fn count_restarts(status: &Value, restarts: &mut i64, last: &mut String) {
    *restarts += status.int("restartCount").unwrap_or(0);
    let finished = status.at("lastState").at("terminated").text("finishedAt").to_owned();
    if finished > *last {
        *last = finished;
    }
}

fn readiness_gates(pod: &Value) -> String {
    let gates = pod.at("spec").list("readinessGates");
    if gates.is_empty() {
        return "<none>".into();
    }
    let ready = gates.iter().filter(|g| condition(pod.at("status"), g.text("conditionType"))).count();
    format!("{ready}/{}", gates.len())
}

fn condition(status: Option<&Value>, typ: &str) -> bool {
    status.list("conditions").iter().find(|c| c.text("type") == typ).is_some_and(|c| c.text("status") == "True")
}

fn first_of<'a>(texts: &[&'a str]) -> &'a str {
    texts.iter().copied().find(|t| !t.is_empty()).unwrap_or("")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn row(spec: Value, status: Value, deleted: bool) -> Vec<String> {
        let mut metadata = json!({"name": "p", "creationTimestamp": "2026-01-01T00:00:00Z"});
        if deleted {
            metadata["deletionTimestamp"] = "2026-01-01T00:00:30Z".into();
        }
        let now = api::time::parse("2026-01-01T00:01:40Z").unwrap();
        let cells = cells(&json!({"metadata": metadata, "spec": spec, "status": status}), now);
        cells.iter().map(|c| c.as_str().unwrap().to_owned()).collect()
    }

    /// One row per line: spec, status, whether deleted; ready, status word, restarts.
    type Case<'a> = (&'a Value, Value, bool, [&'a str; 3]);

    fn check(cases: &[Case<'_>]) {
        for (spec, status, deleted, wanted) in cases {
            let found = row((*spec).clone(), status.clone(), *deleted);
            assert_eq!(found[1..4], *wanted, "{status}");
        }
    }

    fn running() -> Value {
        json!({"name": "a", "ready": true, "state": {"running": {}}})
    }

    #[test]
    fn phases_and_deletion_make_the_status_word() {
        let one = json!({"containers": [{"name": "a"}]});
        let gated = json!({"phase": "Pending", "conditions": [{"type": "PodScheduled", "reason": "SchedulingGated"}]});
        check(&[
            (&one, json!({"phase": "Pending"}), false, ["0/1", "Pending", "0"]),
            (&one, json!({"phase": "Running", "containerStatuses": [running()]}), false, ["1/1", "Running", "0"]),
            (&one, json!({"phase": "Running", "containerStatuses": [running()]}), true, ["1/1", "Terminating", "0"]),
            (&one, json!({"phase": "Running", "reason": "NodeLost"}), true, ["0/1", "Unknown", "0"]),
            (&one, json!({"phase": "Failed", "reason": "Evicted"}), true, ["0/1", "Evicted", "0"]),
            (&one, gated, false, ["0/1", "SchedulingGated", "0"]),
        ]);
    }

    #[test]
    fn containers_make_the_status_word() {
        let one = json!({"containers": [{"name": "a"}]});
        let two = json!({"containers": [{"name": "a"}, {"name": "b"}]});
        let done = json!({"name": "b", "state": {"terminated": {"exitCode": 0, "reason": "Completed"}}});
        let ready = json!([{"type": "Ready", "status": "True"}]);
        let state = |phase: &str, state: Value| json!({"phase": phase, "containerStatuses": [{"state": state}]});
        let mut crashing = state("Running", json!({"waiting": {"reason": "CrashLoopBackOff"}}));
        crashing["containerStatuses"][0]["restartCount"] = json!(3);
        crashing["containerStatuses"][0]["lastState"] = json!({"terminated": {"finishedAt": "2026-01-01T00:01:30Z"}});
        check(&[
            (
                &two,
                json!({"phase": "Running", "conditions": ready, "containerStatuses": [done, running()]}),
                false,
                ["1/2", "Running", "0"],
            ),
            (&two, json!({"phase": "Running", "containerStatuses": [done, running()]}), false, ["1/2", "NotReady", "0"]),
            (&one, crashing, false, ["0/1", "CrashLoopBackOff", "3 (10s ago)"]),
            (&one, state("Failed", json!({"terminated": {"exitCode": 2}})), false, ["0/1", "ExitCode:2", "0"]),
            (&one, state("Failed", json!({"terminated": {"exitCode": 137, "signal": 9}})), false, ["0/1", "Signal:9", "0"]),
            (&one, state("Pending", json!({"waiting": {"reason": "ContainerCreating"}})), false, ["0/1", "ContainerCreating", "0"]),
        ]);
    }

    #[test]
    fn init_containers_make_the_status_word() {
        let init = json!({"containers": [{"name": "a"}], "initContainers": [{"name": "i"}, {"name": "j"}]});
        let side = json!({"containers": [{"name": "a"}], "initContainers": [{"name": "i", "restartPolicy": "Always"}]});
        let waiting = json!({"name": "j", "state": {"waiting": {"reason": "PodInitializing"}}});
        let first = |state: Value, restarts: i64| json!({"name": "i", "restartCount": restarts, "state": state});
        let status = |first: Value| json!({"phase": "Pending", "initContainerStatuses": [first, waiting]});
        let sidecar = json!({"name": "i", "restartCount": 1, "started": true, "ready": true, "state": {"running": {}}});
        check(&[
            (&init, status(first(json!({"running": {}}), 0)), false, ["0/1", "Init:0/2", "0"]),
            (&init, status(first(json!({"terminated": {"exitCode": 0}}), 0)), false, ["0/1", "Init:1/2", "0"]),
            (&init, status(first(json!({"waiting": {"reason": "CrashLoopBackOff"}}), 2)), false, ["0/1", "Init:CrashLoopBackOff", "2"]),
            (&init, status(first(json!({"terminated": {"exitCode": 1, "reason": "Error"}}), 0)), false, ["0/1", "Init:Error", "0"]),
            (
                &side,
                json!({"phase": "Running", "initContainerStatuses": [sidecar], "containerStatuses": [running()]}),
                false,
                ["2/2", "Running", "1"],
            ),
        ]);
    }

    #[test]
    fn wide_cells_stand_after_the_age() {
        let spec = json!({"containers": [{}], "nodeName": "n1", "readinessGates": [{"conditionType": "a"}, {"conditionType": "b"}]});
        let found =
            row(spec, json!({"phase": "Running", "podIPs": [{"ip": "10.0.0.9"}], "conditions": [{"type": "a", "status": "True"}]}), false);
        assert_eq!(found, ["p", "0/1", "Running", "0", "100s", "10.0.0.9", "n1", "<none>", "1/2"]);
        assert_eq!(COLUMNS.len(), found.len());
    }
}
