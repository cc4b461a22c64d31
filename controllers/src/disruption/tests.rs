//! Budgets and pods -> statuses.

use super::{scales::Scale, *};
use serde_json::{Value, json};

const NOW: &str = "2026-01-01T01:00:00Z";

fn budget(spec: &Value, status: &Value) -> Arc<PodDisruptionBudget> {
    let metadata = json!({"name": "b", "namespace": "d", "uid": "b", "generation": 3, "resourceVersion": "7"});
    Arc::new(serde_json::from_value(json!({"metadata": metadata, "spec": spec, "status": status})).unwrap())
}

fn pod(name: &str, owner: &str, ready: &str) -> Arc<Pod> {
    let mut metadata = json!({"name": name, "namespace": "d", "uid": name});
    if !owner.is_empty() {
        metadata["ownerReferences"] =
            json!([{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": owner, "uid": owner, "controller": true}]);
    }
    let conditions = json!([{"type": "Ready", "status": ready, "lastTransitionTime": NOW}]);
    Arc::new(serde_json::from_value(json!({"metadata": metadata, "status": {"phase": "Running", "conditions": conditions}})).unwrap())
}

fn world(spec: &Value, status: &Value, pods: Vec<Arc<Pod>>, scales: &[(&str, i32)]) -> World {
    let scale = |(uid, replicas): &(&str, i32)| ((*uid).to_owned(), Ok(Some(Scale { uid: (*uid).into(), replicas: *replicas })));
    World {
        budget: budget(spec, status),
        pods,
        scales: scales.iter().map(scale).collect(),
        lasted: Lasted::at(api::time::parse(NOW).unwrap()),
    }
}

fn written(plan: &Plan) -> Option<Value> {
    let status = |action: &Action| match action {
        Action::Update { path, object, .. } => {
            assert_eq!(path, "/apis/policy/v1/namespaces/d/poddisruptionbudgets/b/status");
            Some(object["status"].clone())
        }
        _ => None,
    };
    plan.actions.iter().find_map(status)
}

fn reasons(plan: &Plan) -> Vec<&str> {
    let reason = |action: &Action| match action {
        Action::Event { reason, .. } => Some(*reason),
        _ => None,
    };
    plan.actions.iter().filter_map(reason).collect()
}

#[test]
fn what_is_allowed_follows_from_what_is_healthy() {
    let three = || vec![pod("x", "s", "True"), pod("y", "s", "True"), pod("z", "s", "False")];
    // (spec, pods, scales) -> expected, current, desired, allowed
    let cases = [
        (json!({"minAvailable": 1}), three(), vec![], [3, 2, 1, 1]),
        (json!({"minAvailable": 2}), three(), vec![], [3, 2, 2, 0]),
        (json!({"minAvailable": 5}), three(), vec![], [3, 2, 5, 0]),
        (json!({"minAvailable": "50%"}), three(), vec![("s", 4)], [4, 2, 2, 0]),
        (json!({"minAvailable": "34%"}), three(), vec![("s", 3)], [3, 2, 2, 0]),
        (json!({"maxUnavailable": 2}), three(), vec![("s", 3)], [3, 2, 1, 1]),
        (json!({"maxUnavailable": "40%"}), three(), vec![("s", 3)], [3, 2, 1, 1]),
        (json!({"maxUnavailable": 9}), three(), vec![("s", 3)], [3, 2, 0, 2]),
        (json!({"maxUnavailable": 1}), vec![pod("x", "s", "True"), pod("y", "t", "True")], vec![("s", 1), ("t", 2)], [3, 2, 2, 0]),
        (json!({"minAvailable": 0}), vec![], vec![], [0, 0, 0, 0]),
        (json!({}), three(), vec![], [0, 2, 0, 0]),
    ];
    for (spec, pods, scales, wanted) in cases {
        let status = written(&plan(&world(&spec, &json!(null), pods, &scales))).unwrap();
        let counts =
            ["expectedPods", "currentHealthy", "desiredHealthy", "disruptionsAllowed"].map(|field| status[field].as_i64().unwrap());
        assert_eq!(counts, wanted, "{spec}");
        let reason = if wanted[3] > 0 { "SufficientPods" } else { "InsufficientPods" };
        assert_eq!((&status["conditions"][0]["reason"], &status["observedGeneration"]), (&json!(reason), &json!(3)), "{spec}");
    }
}

#[test]
fn an_unchanged_status_is_not_written() {
    let spec = json!({"minAvailable": 1});
    let pods = vec![pod("x", "s", "True")];
    let status = written(&plan(&world(&spec, &json!(null), pods.clone(), &[]))).unwrap();
    assert_eq!(plan(&world(&spec, &status, pods, &[])), Plan::rest());
}

#[test]
fn who_is_let_go_does_not_count_until_the_time_is_up() {
    let spec = json!({"minAvailable": 1});
    let status = json!({"disruptedPods": {"x": "2026-01-01T00:59:00Z", "gone": "2026-01-01T00:59:00Z", "y": "2026-01-01T00:57:00Z"}});
    let pods = vec![pod("x", "s", "True"), pod("y", "s", "True")];
    let planned = plan(&world(&spec, &status, pods, &[]));
    let status = written(&planned).unwrap();
    assert_eq!((&status["currentHealthy"], &status["disruptedPods"]), (&json!(1), &json!({"x": "2026-01-01T00:59:00Z"})));
    assert_eq!((planned.again, reasons(&planned)), (Some(Duration::from_secs(61)), vec!["NotDeleted"]));
}

#[test]
fn nobody_goes_while_nobody_can_count() {
    let spec = json!({"maxUnavailable": 1});
    let old = json!({"disruptionsAllowed": 1, "currentHealthy": 2, "observedGeneration": 2});
    let planned = plan(&world(&spec, &old, vec![pod("x", "s", "True")], &[]));
    let status = written(&planned).unwrap();
    let condition = &status["conditions"][0];
    assert_eq!((&condition["reason"], &condition["message"]), (&json!("SyncFailed"), &json!("found no controllers for pod \"x\"")));
    assert_eq!((&status["disruptionsAllowed"], &status["currentHealthy"]), (&json!(0), &json!(2)));
    assert_eq!(reasons(&planned), ["CalculateExpectedPodCountFailed"]);
    // Said once: the next look changes nothing.
    assert_eq!(written(&plan(&world(&spec, &status, vec![pod("x", "s", "True")], &[]))), None);
}

#[test]
fn pods_of_nobody_are_told_of() {
    let planned = plan(&world(&json!({"maxUnavailable": 1}), &json!(null), vec![pod("x", "", "True")], &[]));
    assert_eq!(reasons(&planned), ["UnmanagedPods"]);
    assert_eq!(reasons(&plan(&world(&json!({"minAvailable": 1}), &json!(null), vec![], &[]))), ["NoPods"]);
}
