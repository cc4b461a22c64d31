//! What does not depend on how a pod is kept; the rest is tested where all representations are known (`client::pods`).

use api::k8s::api::core::v1::{Taint, Toleration};
use serde_json::{Value, json};

use crate::{Side, aggregate, is_ready, is_tolerated, untolerated};

#[test]
fn tolerations() {
    let taint: Taint = serde_json::from_value(json!({"key": "k", "value": "5", "effect": "NoSchedule"})).unwrap();
    let rows = [
        (json!([]), false),
        (json!([{"key": "k", "value": "5"}]), true),
        (json!([{"key": "k", "value": "5", "operator": "Equal", "effect": ""}]), true),
        (json!([{"key": "k", "value": "6"}]), false),
        (json!([{"key": "k", "operator": "Exists"}]), true),
        (json!([{"operator": "Exists"}]), true),
        (json!([{"operator": "Exists", "effect": "NoExecute"}]), false),
        (json!([{"key": "k", "operator": "Gt", "value": "4"}]), false),
        (json!([{"key": "k", "operator": "Lt", "value": "6"}]), false),
        (json!([{"key": "other", "operator": "Exists"}, {"key": "k", "operator": "Exists", "effect": "NoSchedule"}]), true),
    ];
    for (tolerations, want) in rows {
        let parsed: Vec<Toleration> = serde_json::from_value(tolerations.clone()).unwrap();
        assert_eq!(is_tolerated(&taint, &parsed), want, "{tolerations}");
        assert_eq!(untolerated(std::slice::from_ref(&taint), &parsed, |_| true).is_none(), want);
        assert!(untolerated(std::slice::from_ref(&taint), &parsed, |taint| taint.effect == "NoExecute").is_none());
    }
}

#[test]
fn each_container_is_told_with_what_runs_beside_it() {
    let asks = |cpu: &str| json!({"resources": {"limits": {"cpu": cpu}}});
    let mut sidecar = asks("1");
    sidecar["restartPolicy"] = "Always".into();
    let spec = json!({"containers": [{}, asks("2")], "initContainers": [{}, sidecar, {}, asks("3")]});
    let mut told = Vec::new();
    aggregate::<Value>(&spec, Side::Limits, &[], |amounts| told.push(amounts.get("cpu").map_or(0, |q| q.units())));
    assert_eq!(told, [0, 2, 0, 1, 1, 4]);
}

#[test]
fn readiness_is_what_the_first_condition_of_its_type_says() {
    let rows: [(&[(&str, &str)], bool); 4] = [
        (&[], false),
        (&[("Ready", "True")], true),
        (&[("ContainersReady", "True"), ("Ready", "False")], false),
        (&[("Ready", "Unknown"), ("Ready", "True")], false),
    ];
    for (conditions, want) in rows {
        assert_eq!(is_ready(conditions.iter().copied()), want, "{conditions:?}");
    }
}
