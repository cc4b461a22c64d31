//! What the API server takes and nobody writes: fields at the ends of their types, odd names, null. None of it changes what must come to be.

use rand::{Rng, rngs::StdRng, seq::IndexedRandom};
use serde_json::{Value, json};

use crate::house::House;

/// Puts some of it into a deployment.
pub fn spice(spec: &mut Value, random: &mut StdRng) {
    let wait = *[2_147_483_645, i64::from(i32::MAX), 600, 4].choose(random).unwrap();
    spec["progressDeadlineSeconds"] = wait.into();
    if random.random_ratio(1, 3) {
        spec["revisionHistoryLimit"] = i32::MAX.into();
    }
    if random.random_ratio(1, 3) {
        let seconds = *[i64::MAX, 100_000_000, 0, -1, i64::MIN].choose(random).unwrap();
        let toleration = json!({"key": "odd", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": seconds});
        spec["template"]["spec"]["tolerations"] = json!([toleration]);
    }
    if random.random_ratio(1, 3) {
        let spread = json!({"maxSkew": i32::MAX, "topologyKey": "odd", "whenUnsatisfiable": "ScheduleAnyway", "minDomains": null});
        spec["template"]["spec"]["topologySpreadConstraints"] = json!([spread]);
    }
}

/// A condition as upstream's own conformance test writes it: its time is null.
pub fn service_status() -> Value {
    json!({"status": {"conditions": [{"type": "Odd", "status": "True", "reason": "Odd", "message": "", "lastTransitionTime": null}]}})
}

/// Something that stands beside the story, as path of the collection and body.
pub fn beside(random: &mut StdRng) -> (&'static str, Value) {
    let maps = "/api/v1/namespaces/default/configmaps";
    let owned = |name: &str| json!({"apiVersion": "v1", "kind": "ConfigMap", "name": name, "uid": "nobody"});
    match random.random_range(0..4) {
        0 => (maps, json!({"metadata": {"generateName": "odd-", "ownerReferences": [owned("a b")]}})),
        1 => (maps, json!({"metadata": {"generateName": "odd-", "ownerReferences": [owned("ä/../%41?x")]}, "data": {"k": null}})),
        2 => (
            "/apis/policy/v1/namespaces/default/poddisruptionbudgets",
            json!({"metadata": {"generateName": "odd-"}, "spec": {"maxUnavailable": "100%", "selector": {}}}),
        ),
        _ => (
            "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices",
            json!({"metadata": {"generateName": "odd-"}, "addressType": "IPv4", "endpoints": [], "ports": [{"port": null, "name": null}]}),
        ),
    }
}

/// Whatever was written, nothing of the house has panicked, ended, or could not read it.
pub fn check(house: &House) {
    let faults = api::faults::metrics();
    let unread = faults.lines().any(|line| line.starts_with("skiff_unreadable_objects{") && !line.ends_with(" 0"));
    assert!(api::faults::panics() == 0 && !unread && house.group.fault().is_none(), "{faults}{:?}", house.group.fault());
}
