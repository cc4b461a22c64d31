//! What does not depend on how a pod is kept; the rest is tested where all representations are known (`client::pods`).

use api::{
    k8s::api::core::v1::{Taint, Toleration},
    quantity::Quantity,
};
use proptest::prelude::*;
use serde_json::{Value, json};

use crate::{Amounts, Side, aggregate, is_ready, is_tolerated, untolerated};

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
    let cpu = |amounts: &Amounts<'_>| amounts.get("cpu").map_or(0, |q| q.units());
    aggregate::<Value>(&spec, Side::Limits, &[], |own, beside| told.push((cpu(own), cpu(beside))));
    assert_eq!(told, [(0, 0), (2, 0), (0, 0), (1, 0), (0, 1), (3, 1)]);
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

const NAMES: [&str; 5] = ["cpu", "memory", "x.io/a", "x.io/b", "x.io/c"];
const AMOUNTS: [&str; 10] = ["0", "0Ki", "1", "1000m", "2", "1Ki", "1024", "3Ki", "1e3", "2e3"];

/// A pod's containers: which are sidecars, and what each states, none of it negative, in all formats.
fn pods() -> impl Strategy<Value = Value> {
    let list = proptest::collection::btree_map(prop::sample::select(&NAMES[..]), prop::sample::select(&AMOUNTS[..]), 0..4);
    let container = (list, any::<bool>()).prop_map(|(list, sidecar)| {
        let mut container = json!({"resources": {"requests": list}});
        if sidecar {
            container["restartPolicy"] = "Always".into();
        }
        container
    });
    let some = || proptest::collection::vec(container.clone(), 0..6);
    (some(), some()).prop_map(|(containers, inits)| json!({"containers": containers, "initContainers": inits}))
}

/// As upstream does it: all that runs at each moment is added up, over all names, and the most of any moment counts.
fn model<'a>(spec: &'a Value, missing: &[(&'a str, Quantity)]) -> (Amounts<'a>, Vec<Amounts<'a>>) {
    let of = |container: &'a Value| {
        let mut own = Amounts::default();
        let list = container["resources"]["requests"].as_object().unwrap();
        list.iter().for_each(|(name, text)| own.set(name, Quantity::parse(text.as_str().unwrap()).unwrap()));
        missing.iter().filter(|(name, _)| !list.contains_key(*name)).for_each(|(name, amount)| own.set(name, *amount));
        own
    };
    let (mut sum, mut sidecars, mut peak, mut moments) = (Amounts::default(), Amounts::default(), Amounts::default(), Vec::new());
    for container in spec["containers"].as_array().unwrap() {
        let own = of(container);
        sum.add_all(own.iter());
        moments.push(own);
    }
    for container in spec["initContainers"].as_array().unwrap() {
        let mut moment = of(container);
        if container["restartPolicy"] == "Always" {
            sum.add_all(moment.iter());
            sidecars.add_all(moment.iter());
            moment = sidecars.clone();
        } else {
            moment.add_all(sidecars.iter());
        }
        moment.iter().for_each(|(name, amount)| peak.raise(name, amount));
        moments.push(moment);
    }
    peak.iter().for_each(|(name, amount)| sum.raise(name, amount));
    (sum, moments)
}

proptest! {
    #[test]
    fn the_aggregate_is_the_most_that_runs_at_any_moment(spec in pods(), defaulted in any::<bool>()) {
        let defaults = [("cpu", Quantity::from_milli(100)), ("x.io/a", Quantity::from_bytes(1 << 10))];
        let missing = if defaulted { &defaults[..] } else { &[] };
        let (wanted, moments) = model(&spec, missing);
        let mut told = Vec::new();
        let found = aggregate::<Value>(&spec, Side::Requests, missing, |own, beside| {
            let mut both = own.clone();
            both.add_all(beside.iter());
            told.push(both);
        });
        // As text: how an amount is written is part of it.
        let text = |amounts: &Amounts<'_>| amounts.sorted().iter().map(|(name, amount)| format!("{name}={amount}")).collect::<Vec<_>>();
        prop_assert_eq!(text(&found), text(&wanted));
        let units = |amounts: &Amounts<'_>| NAMES.map(|name| amounts.get(name).map(|amount| amount.milli()));
        prop_assert_eq!(told.iter().map(units).collect::<Vec<_>>(), moments.iter().map(units).collect::<Vec<_>>());
    }
}
