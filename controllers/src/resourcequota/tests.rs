//! What is written of a quota, and what it is counted for; the rest is tried beside the real server (`tests/room/quota.rs`).

use serde_json::{Value, json};

use super::*;

fn quota(hard: Value, status: Value) -> Arc<ResourceQuota> {
    let metadata = json!({"name": "q", "namespace": "a", "uid": "u", "resourceVersion": "7"});
    Arc::new(serde_json::from_value(json!({"metadata": metadata, "spec": {"hard": hard}, "status": status})).unwrap())
}

fn world(status: Value, counted: &[(&str, &str)], may_lower: bool) -> World {
    let quota = quota(json!({"pods": "5", "requests.memory": "1024Mi", "count/widgets.g": "3"}), status);
    let hard = amounts(quota.spec.as_ref().unwrap().hard.as_ref());
    let counted = counted.iter().map(|(name, amount)| ((*name).to_owned(), Quantity::parse(amount).unwrap())).collect();
    World { quota, hard, counted, may_lower, again: RESYNC }
}

/// The status that is written, if one is.
fn written(world: &World) -> Option<Value> {
    let Plan { actions, again } = plan(world);
    assert_eq!(again, Some(RESYNC), "it is looked at again in any case");
    match &actions[..] {
        [] => None,
        [Action::Update { path, object, .. }] => {
            assert_eq!(path, "/api/v1/namespaces/a/resourcequotas/q/status");
            assert_eq!(object["metadata"]["resourceVersion"], "7", "what was charged meanwhile is not written over");
            Some(object["status"].clone())
        }
        other => panic!("{other:?}"),
    }
}

const HARD: &str = r#"{"pods": "5", "requests.memory": "1Gi", "count/widgets.g": "3"}"#;

fn hard() -> Value {
    serde_json::from_str(HARD).unwrap()
}

#[test]
fn a_new_quota_is_told_what_is_used() {
    let found = written(&world(json!({}), &[("pods", "2"), ("requests.memory", "512Mi")], true));
    // Nobody knows of widgets: nothing is said of them.
    assert_eq!(found, Some(json!({"hard": hard(), "used": {"pods": "2", "requests.memory": "512Mi"}})));
}

#[test]
fn what_is_right_is_not_written_again() {
    let status = json!({"hard": hard(), "used": {"pods": "2", "requests.memory": "536870912", "count/widgets.g": "1"}});
    // By value; and what could not be counted is as it was.
    assert_eq!(written(&world(status, &[("pods", "2"), ("requests.memory", "512Mi")], true)), None);
}

#[test]
fn less_is_written_where_it_is_believed_and_more_at_once() {
    let status = json!({"hard": hard(), "used": {"pods": "2", "requests.memory": "1Gi", "gone": "1"}});
    let counted = [("pods", "3"), ("requests.memory", "512Mi")];
    let found = written(&world(status.clone(), &counted, false)).unwrap();
    assert_eq!(found["used"], json!({"pods": "3", "requests.memory": "1Gi"}));
    let found = written(&world(status, &counted, true)).unwrap();
    assert_eq!(found["used"], json!({"pods": "3", "requests.memory": "512Mi"}));
}

#[test]
fn a_status_of_another_spec_is_mended() {
    let status = json!({"hard": {"pods": "9"}, "used": {"pods": "2"}});
    assert_eq!(written(&world(status, &[("pods", "2"), ("requests.memory", "0")], false)).unwrap()["hard"], hard());
}

#[test]
fn what_is_told_to_be_used_is_looked_at_later() {
    let of = |pods: &str, used: Value, told: &str| quota(json!({"pods": pods}), json!({"hard": {"pods": told}, "used": used}));
    let told = of("5", json!({"pods": "1"}), "5");
    let rows = [
        (None, &of("5", json!({}), "5"), Matters::Much),
        (None, &told, Matters::Somewhat),
        (Some(&told), &told, Matters::Not),
        (Some(&told), &of("5", json!({"pods": "2"}), "5"), Matters::Somewhat),
        (Some(&told), &of("6", json!({"pods": "1"}), "5"), Matters::Much),
        (Some(&told), &of("5", json!({"pods": "1"}), "6"), Matters::Much),
        (Some(&told), &of("5", json!({}), "5"), Matters::Much),
        (Some(&of("6", json!({"pods": "1"}), "6")), &told, Matters::Somewhat),
    ];
    for (row, (old, new, wanted)) in rows.into_iter().enumerate() {
        assert_eq!(matters(old.map(Arc::as_ref), Some(new)), wanted, "row {row}");
    }
    assert_eq!(matters(Some(&told), None), Matters::Not);
}

#[test]
fn pods_are_measured_as_they_are_kept() {
    let mut said = json!({
        "metadata": {"name": "p", "namespace": "a"},
        "spec": {"activeDeadlineSeconds": 5, "priorityClassName": "high", "containers": [{"name": "c", "resources": {"requests": {"cpu": "1"}}}],
            "affinity": {"podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [{"topologyKey": "k", "namespaceSelector": {}}]}}},
        "status": {"phase": "Running"},
    });
    let kept = |said: &Value| measured_pod(&serde_json::from_value(said.clone()).unwrap());
    assert_eq!(kept(&said), (Evaluator::Pods.measure(&said), None));
    said["status"]["phase"] = "Failed".into();
    assert_eq!(kept(&said).0, Evaluator::Pods.measure(&said));
    said["metadata"]["deletionTimestamp"] = "1970-01-01T00:01:00Z".into();
    said["metadata"]["deletionGracePeriodSeconds"] = 30.into();
    assert_eq!(kept(&said).1, Some(Timestamp::new(90, 0).unwrap()));
}
