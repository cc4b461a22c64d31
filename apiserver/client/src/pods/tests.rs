//! Pods as JSON -> what is kept of them.

use serde_json::{Value, json};

use api::k8s::api::core::v1::Pod as Full;

use super::*;

fn pod(name: &str, node: &str) -> Value {
    json!({
        "metadata": {"name": name, "labels": {"k": "v"}, "annotations": {LAST_APPLIED: "{}", "x": "y"},
            "managedFields": [{"manager": "kubectl"}], "ownerReferences": [{"apiVersion": "v1", "kind": "K", "name": "o", "uid": "u"}]},
        "spec": {
            "nodeName": node, "hostname": "h", "subdomain": "s", "schedulerName": "mine", "priority": 7, "preemptionPolicy": "Never",
            "nodeSelector": {"a": "b"}, "overhead": {"cpu": "1m"}, "resources": {"requests": {"cpu": "2"}},
            "resourceClaims": [{"name": "r"}], "schedulingGates": [{"name": "g"}],
            "affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": []}}},
            "tolerations": [{"key": "t", "operator": "Exists", "tolerationSeconds": 300}],
            "topologySpreadConstraints": [{"maxSkew": 1, "topologyKey": "z", "whenUnsatisfiable": "DoNotSchedule"}],
            "containers": [{"name": "c", "image": "i", "env": [{"name": "A", "value": name}], "ports": [{"name": "p", "containerPort": 1}],
                "resources": {"requests": {"cpu": "1"}}, "volumeMounts": [{"name": name, "mountPath": "/t"}]}],
            "initContainers": [{"name": "i", "image": "j", "restartPolicy": "Always"}],
            "volumes": [{"name": name, "projected": {}}, {"name": "p", "persistentVolumeClaim": {"claimName": "q"}}, {"name": "e", "emptyDir": {}},
                {"name": "f", "ephemeral": {}}, {"name": "g", "image": {"reference": "r"}}],
        },
        "status": {"phase": "Running", "podIP": "10.0.0.1", "podIPs": [{"ip": "10.0.0.1"}], "nominatedNodeName": "m",
            "startTime": "2026-01-01T00:00:00Z", "conditions": [{"type": "Initialized", "status": "True"},
                {"type": "Ready", "status": "True", "reason": "r", "message": "m", "lastTransitionTime": "2026-01-01T00:00:00Z", "observedGeneration": 2}],
            "containerStatuses": [{"name": "c", "image": "i", "imageID": "x", "ready": true, "restartCount": 3, "state": {"running": {}}}]},
    })
}

fn read(from: &Value) -> Pod {
    serde_json::from_str(&from.to_string()).unwrap()
}

/// What is read of a pod, from either type: the fields have the same names.
macro_rules! read_of {
    ($pod:expr) => {{
        let (spec, status) = ($pod.spec.as_ref().unwrap(), $pod.status.as_ref().unwrap());
        macro_rules! containers {
            ($all:expr) => {
                $all.iter()
                    .map(|c| (c.name.clone(), c.image.clone(), c.ports.clone(), c.resources.clone(), c.restart_policy.clone()))
                    .collect::<Vec<_>>()
            };
        }
        format!(
            "{:?}",
            (
                (&$pod.metadata.name, &$pod.metadata.labels, &$pod.metadata.owner_references),
                (&spec.node_name, &spec.hostname, &spec.subdomain, &spec.scheduler_name, spec.priority, &spec.preemption_policy),
                (&spec.node_selector, &spec.overhead, &spec.resources, &spec.resource_claims, &spec.scheduling_gates),
                (&spec.affinity, &spec.tolerations, &spec.topology_spread_constraints),
                (containers!(spec.containers), containers!(spec.init_containers.as_ref().unwrap())),
                (&status.phase, &status.pod_ip, &status.pod_ips, &status.nominated_node_name, &status.start_time),
                status
                    .conditions
                    .iter()
                    .flatten()
                    .filter(|c| CONDITIONS.contains(&c.type_.as_str()))
                    .map(|c| (
                        c.type_.clone(),
                        c.status.clone(),
                        c.reason.clone(),
                        c.message.clone(),
                        c.last_transition_time.clone(),
                        c.observed_generation
                    ))
                    .collect::<Vec<_>>(),
                status.container_statuses.iter().flatten().map(|c| c.restart_count).collect::<Vec<_>>(),
            )
        )
    }};
}

#[test]
fn it_says_what_the_whole_pod_says() {
    let said = pod("a", "n");
    let (whole, kept): (Full, Pod) = (serde_json::from_value(said.clone()).unwrap(), read(&said));
    assert_eq!(read_of!(kept), read_of!(whole));
    let names: Vec<&str> = kept.spec.iter().flat_map(|s| s.volumes.iter().flatten()).map(|v| v.name.as_str()).collect();
    assert_eq!(names, ["p", "f", "g"], "volumes that are not the same everywhere");
    assert_eq!(kept.metadata.annotations, Some([("x".to_owned(), "y".to_owned())].into()));
    let kinds: Vec<&str> = kept.status.iter().flat_map(|s| s.conditions.iter().flatten()).map(|c| c.type_.as_str()).collect();
    assert_eq!(kinds, ["Ready"], "what only a node reads is left out");
}

#[test]
fn pods_of_one_template_share_what_it_says() {
    let (a, b) = (read(&pod("a", "n")), read(&pod("b", "m")));
    assert!(std::ptr::eq(&raw const *a.metadata.shared, &raw const *b.metadata.shared));
    let (a, b) = (a.spec.unwrap(), b.spec.unwrap());
    assert!(std::ptr::eq(&raw const *a.template, &raw const *b.template));
    assert!(std::ptr::eq(&raw const **a.affinity.as_ref().unwrap(), &raw const **b.affinity.as_ref().unwrap()));
    let mut other = pod("c", "n");
    other["spec"]["containers"][0]["image"] = "newer".into();
    assert_ne!(a.template, read(&other).spec.unwrap().template);
}

#[test]
fn what_is_null_or_absent_is_empty() {
    for said in
        [json!({}), json!({"metadata": {"creationTimestamp": null}, "spec": {"containers": null}, "status": {"containerStatuses": [{}]}})]
    {
        let pod = read(&said);
        assert_eq!(pod.spec.map_or(0, |s| s.containers.len()), 0, "{said}");
    }
}

#[test]
fn what_ended_is_told_and_what_runs_takes_no_room() {
    let mut said = pod("a", "n");
    assert!(read(&said).status.unwrap().exits.is_none());
    let ended =
        |name: &str, code: Value| json!({"name": name, "restartCount": 1, "state": {"terminated": {"exitCode": code, "reason": "Error"}}});
    let waits = json!({"name": "w", "state": {"waiting": {}}, "lastState": {"terminated": {"exitCode": 1}}});
    said["status"]["containerStatuses"] = json!([ended("c", 137.into()), waits, ended("\u{e9}\n", Value::Null)]);
    said["status"]["initContainerStatuses"] = json!([ended("i", 0.into()), {"name": "j", "restartCount": 4}]);
    said["status"]["containerStatuses"][0]["state"]["terminated"]["finishedAt"] = "2026-01-01T00:00:00Z".into();
    // As text, and as a value that is taken apart: names are borrowed in one, and owned in the other.
    for kept in [read(&said), serde_json::from_value(said.clone()).unwrap()] {
        let exits: Vec<_> = kept.exits().iter().map(|exit| (&*exit.container, exit.role, exit.code)).collect();
        assert_eq!(exits, [("c", Role::Main, 137), ("\u{e9}\n", Role::Main, 0), ("i", Role::Init, 0)]);
        let ends: Vec<bool> = kept.exits().iter().map(|exit| exit.finished_at.is_some()).collect();
        assert_eq!((ends, kept.status.as_ref().unwrap().init_restarts), (vec![true, false, false], 5));
        assert_eq!(kept.spec.unwrap().containers.iter().map(|c| c.name.as_str()).collect::<Vec<_>>(), ["c"]);
    }
}

#[test]
fn of_a_pod_that_failed_all_conditions_are_kept() {
    let mut said = pod("a", "n");
    let kinds = |said: &Value| -> Vec<String> {
        let status = read(said).status.unwrap();
        status.conditions.into_iter().flatten().map(|condition| condition.type_).collect()
    };
    said["status"]["conditions"] = json!([{"type": "Ready", "status": "False"}, {"type": "ConfigIssue", "status": "True"}]);
    assert_eq!(kinds(&said), ["Ready"]);
    said["status"]["phase"] = "Failed".into();
    assert_eq!(kinds(&said), ["Ready", "ConfigIssue"]);
}

#[test]
fn it_is_small() {
    let (kept, whole) = (size_of::<Pod>(), size_of::<Full>());
    assert!(kept <= 700 && whole > 2000, "{kept} {whole}");
}

#[test]
fn a_condition_is_written_once_and_keeps_its_time() {
    let now: Timestamp = "2026-01-02T00:00:00Z".parse().unwrap();
    let wanted = |message| Wanted { kind: "PodScheduled", status: "False", reason: "Unschedulable", message };
    let pod: Pod = serde_json::from_value(json!({"status": {"conditions": [
        {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "m", "lastTransitionTime": "2025-01-01T00:00:00Z"}]}}))
    .unwrap();
    assert_eq!(pod.changed_condition(wanted("m"), now), None);
    let changed = pod.changed_condition(wanted("other"), now).unwrap();
    assert_eq!((&changed["message"], &changed["lastTransitionTime"]), (&json!("other"), &json!("2025-01-01T00:00:00Z")));
    let first = Pod::default().changed_condition(wanted("m"), now).unwrap();
    assert_eq!(first["lastTransitionTime"], "2026-01-02T00:00:00Z");
    let none = pod.changed_condition(Wanted { reason: "", message: "", ..wanted("") }, now).unwrap();
    assert_eq!((&none["reason"], &none["message"]), (&Value::Null, &Value::Null), "what stood there goes");
}
