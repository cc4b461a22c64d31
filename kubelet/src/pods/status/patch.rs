//! The status that the API has and the one it should have -> a strategic merge patch of the difference. Pure.
//!
//! Upstream: `PatchPodStatus` in `pkg/util/pod/pod.go`.

use api::k8s::api::core::v1::PodStatus;
use serde_json::{Map, Value, json};

/// Lists that the API merges by key: ours replace what is there.
const MERGED: [&str; 2] = ["podIPs", "hostIPs"];
/// What only the API's own side writes.
const FOREIGN: [&str; 4] = ["nominatedNodeName", "resourceClaimStatuses", "ephemeralContainerStatuses", "resize"];

/// `None` where there is no difference.
pub fn between(there: &PodStatus, wanted: &PodStatus) -> Option<Value> {
    let (there, wanted) = (object(there), object(wanted));
    let mut changes = Map::new();
    for key in there.keys().chain(wanted.keys()) {
        let (old, new) = (there.get(key), wanted.get(key));
        if old == new || FOREIGN.contains(&key.as_str()) || changes.contains_key(key) {
            continue;
        }
        if let Some(change) = change(key, old, new) {
            changes.insert(key.clone(), change);
        }
    }
    (!changes.is_empty()).then(|| Value::Object(changes))
}

fn change(key: &str, old: Option<&Value>, new: Option<&Value>) -> Option<Value> {
    match (key, new) {
        ("conditions", new) => conditions(old, new),
        (_, None) => Some(Value::Null),
        (key, Some(Value::Array(items))) if MERGED.contains(&key) => {
            Some(Value::Array([json!({"$patch": "replace"})].into_iter().chain(items.iter().cloned()).collect()))
        }
        (_, Some(new)) => Some(new.clone()),
    }
}

/// Conditions merge by type: only those that differ are sent, so that others' are never touched.
fn conditions(old: Option<&Value>, new: Option<&Value>) -> Option<Value> {
    let list = |value: Option<&Value>| value.and_then(Value::as_array).cloned().unwrap_or_default();
    let (old, new) = (list(old), list(new));
    let differs = |c: &&Value| !old.contains(c);
    let changed: Vec<Value> = new.iter().filter(differs).map(|c| whole(c, old.iter().find(|o| o["type"] == c["type"]))).collect();
    (!changed.is_empty()).then(|| changed.into())
}

/// What the old one has and the new one has not is taken away.
fn whole(new: &Value, old: Option<&Value>) -> Value {
    let mut new = new.clone();
    for key in old.and_then(Value::as_object).into_iter().flatten().map(|(key, _)| key) {
        if new.get(key).is_none() {
            new[key] = Value::Null;
        }
    }
    new
}

fn object(status: &PodStatus) -> Map<String, Value> {
    match serde_json::to_value(status) {
        Ok(Value::Object(map)) => map,
        _ => Map::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(value: Value) -> PodStatus {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn only_what_differs_is_sent() {
        let there = status(json!({
            "phase": "Pending", "message": "m", "podIPs": [{"ip": "1.1.1.1"}],
            "conditions": [{"type": "Ready", "status": "False", "reason": "r"}, {"type": "Other", "status": "True"}],
        }));
        assert_eq!(between(&there, &there), None);
        let wanted = status(json!({
            "phase": "Running", "podIPs": [{"ip": "2.2.2.2"}],
            "conditions": [{"type": "Ready", "status": "True"}],
        }));
        let expected = json!({
            "phase": "Running", "message": null, "podIPs": [{"$patch": "replace"}, {"ip": "2.2.2.2"}],
            "conditions": [{"type": "Ready", "status": "True", "reason": null}],
        });
        assert_eq!(between(&there, &wanted), Some(expected));
    }
}
