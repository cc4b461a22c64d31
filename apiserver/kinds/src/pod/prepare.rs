//! What a client may not set on a pod, and what the server sets for it. Source: `pkg/registry/core/pod/strategy.go`.

use api::time::{Timestamp, rfc3339};
use podspec::QosClass;
use serde_json::{Map, Value, json};

use super::defaults::service_account_alias;
use crate::common::{
    Read,
    edit::{carry, carry_as, child, default_to, each, make_child, remove, set},
};

/// `PrepareForCreate`: the status begins afresh, label keys become part of their selectors.
pub fn create(pod: &mut Value, now: Timestamp) {
    let class = QosClass::of(pod.get("spec").unwrap_or(&Value::Null)).word();
    set(pod, "status", json!({"phase": "Pending", "qosClass": class}));
    if !pod.at("spec").list("schedulingGates").is_empty() {
        let message = "Scheduling is blocked due to non-empty scheduling gates";
        set_condition(pod, "PodScheduled", "False", "SchedulingGated", message, now);
    }
    let labels = pod.at("metadata").at("labels").cloned().unwrap_or(Value::Null);
    let Some(spec) = child(pod, "spec") else { return };
    stop_signals(spec);
    service_account_alias(spec);
    for constraint in each(spec, "topologySpreadConstraints") {
        label_keys(constraint, "matchLabelKeys", "In", &labels);
    }
    let Some(affinity) = child(spec, "affinity") else { return };
    for side in ["podAffinity", "podAntiAffinity"] {
        child(affinity, side).into_iter().for_each(|terms| affinity_terms(terms, &labels));
    }
}

/// `dropContainerStopSignals`: their gate is off.
pub fn stop_signals(spec: &mut Value) {
    for list in ["containers", "initContainers", "ephemeralContainers"] {
        for container in each(spec, list) {
            let Some(lifecycle) = child(container, "lifecycle") else { continue };
            let had = lifecycle.at("stopSignal").is_some();
            remove(lifecycle, "stopSignal");
            if had && lifecycle.as_object().is_some_and(Map::is_empty) {
                remove(container, "lifecycle");
            }
        }
    }
}

/// `PrepareForUpdate` of `status`: metadata that kubelets may not touch, and fields that an older one drops.
pub fn status(new: &mut Value, old: &Value) {
    if let (Some(metadata), Some(before)) = (child(new, "metadata"), old.get("metadata")) {
        carry(metadata, before, "deletionTimestamp");
        carry(metadata, before, "ownerReferences");
    }
    let Some(status) = make_child(new, "status") else { return };
    let before = old.at("status");
    for field in ["qosClass", "observedGeneration"] {
        if let Some(value) = before.at(field) {
            default_to(status, field, value.clone());
        }
    }
    one_and_many(status, "podIP", "podIPs");
    one_and_many(status, "hostIP", "hostIPs");
}

/// `dropNonEphemeralContainerUpdates`: all but the ephemeral containers stays as it was.
pub fn ephemeral_containers(new: &mut Value, old: &Value) {
    let added = new.at("spec").at("ephemeralContainers").cloned();
    keep(new, old);
    child(new, "spec").into_iter().for_each(|spec| carry_as(spec, "ephemeralContainers", added.as_ref()));
}

/// `dropNonResizeUpdates`: all but resources and resize policies stays as it was; containers that do not match are left for validation to name.
pub fn resize(new: &mut Value, old: &Value) {
    const LISTS: [&str; 2] = ["containers", "initContainers"];
    let (spec, before) = (new.at("spec").cloned().unwrap_or(Value::Null), old.at("spec"));
    if LISTS.iter().any(|list| spec.list(list).len() != before.list(list).len()) {
        return;
    }
    keep(new, old);
    let Some(kept) = child(new, "spec") else { return };
    carry(kept, &spec, "resources");
    for list in LISTS {
        let same_names = spec.list(list).iter().zip(before.list(list)).all(|(new, old)| new.text("name") == old.text("name"));
        if !same_names {
            carry(kept, &spec, list);
            continue;
        }
        for (container, wanted) in each(kept, list).zip(spec.list(list)) {
            ["resources", "resizePolicy"].into_iter().for_each(|field| carry(container, wanted, field));
        }
    }
}

/// Gives a pod the spec and status of before, and the metadata that a status may not change either (`ResetObjectMetaForStatus`).
fn keep(new: &mut Value, old: &Value) {
    ["spec", "status"].into_iter().for_each(|part| carry(new, old, part));
    if let (Some(metadata), Some(before)) = (child(new, "metadata"), old.get("metadata")) {
        for field in ["deletionTimestamp", "labels", "annotations", "finalizers", "ownerReferences"] {
            carry(metadata, before, field);
        }
    }
}

/// Sets a pod condition; its transition time moves only where its status changes (`UpdatePodCondition`).
pub fn set_condition(pod: &mut Value, typ: &str, state: &str, reason: &str, message: &str, now: Timestamp) {
    let Some(status) = make_child(pod, "status") else { return };
    default_to(status, "conditions", json!([]));
    let Some(conditions) = status.get_mut("conditions").and_then(Value::as_array_mut) else { return };
    let mut condition = json!({"type": typ, "status": state, "lastProbeTime": null, "lastTransitionTime": rfc3339(now)});
    for (field, text) in [("reason", reason), ("message", message)] {
        if !text.is_empty() {
            set(&mut condition, field, text);
        }
    }
    match conditions.iter_mut().find(|c| c.text("type") == typ) {
        None => conditions.push(condition),
        Some(found) => {
            if found.text("status") == state {
                carry(&mut condition, found, "lastTransitionTime");
            }
            *found = condition;
        }
    }
}

/// A single address and a list of which it is the first: where they differ, the single one holds (`conversion.go`).
fn one_and_many(status: &mut Value, one: &str, many: &str) {
    let single = status.text(one).to_owned();
    let first = status.list(many).first().map(|a| a.text("ip").to_owned()).unwrap_or_default();
    if single.is_empty() && !first.is_empty() {
        set(status, one, first);
    } else if single != first {
        set(status, many, json!([{"ip": single}]));
    }
}

fn affinity_terms(terms: &mut Value, labels: &Value) {
    let apply = |term: &mut Value| {
        label_keys(term, "matchLabelKeys", "In", labels);
        label_keys(term, "mismatchLabelKeys", "NotIn", labels);
    };
    each(terms, "requiredDuringSchedulingIgnoredDuringExecution").for_each(apply);
    let preferred = each(terms, "preferredDuringSchedulingIgnoredDuringExecution");
    preferred.filter_map(|p| child(p, "podAffinityTerm")).for_each(apply);
}

/// Adds the pod's own values of `keys` to the selector; a term without selector matches nothing and stays so.
fn label_keys(term: &mut Value, keys: &str, operator: &str, labels: &Value) {
    let found: Vec<Value> = term
        .list(keys)
        .iter()
        .filter_map(|key| Some(json!({"key": key, "operator": operator, "values": [labels.get(key.as_str()?)?]})))
        .collect();
    let Some(selector) = child(term, "labelSelector").filter(|_| !found.is_empty()) else { return };
    default_to(selector, "matchExpressions", json!([]));
    if let Some(list) = selector.get_mut("matchExpressions").and_then(Value::as_array_mut) {
        list.extend(found);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now() -> Timestamp {
        api::time::parse("2026-01-01T00:00:00Z").unwrap()
    }

    #[test]
    fn signals_that_stop_containers_are_left_out() {
        let mut pod = json!({"metadata": {}, "spec": {"containers": [{"lifecycle": {"stopSignal": "SIGTERM"}}], "initContainers": [
            {"lifecycle": {"stopSignal": "SIGTERM", "preStop": {"sleep": {"seconds": 1}}}}]}});
        create(&mut pod, now());
        assert_eq!(pod["spec"]["containers"], json!([{}]));
        assert_eq!(pod["spec"]["initContainers"], json!([{"lifecycle": {"preStop": {"sleep": {"seconds": 1}}}}]));
    }

    #[test]
    fn a_created_pod_begins_pending() {
        let mut pod = json!({"metadata": {}, "spec": {"containers": [{}], "serviceAccountName": "sa"}, "status": {"phase": "Running"}});
        create(&mut pod, now());
        assert_eq!(pod["status"], json!({"phase": "Pending", "qosClass": "BestEffort"}));
        assert_eq!(pod["spec"]["serviceAccount"], "sa");
    }

    #[test]
    fn label_keys_join_the_selector() {
        let mut pod = json!({"metadata": {"labels": {"v": "1"}}, "spec": {
            "topologySpreadConstraints": [{"labelSelector": {}, "matchLabelKeys": ["v", "absent"]}],
            "affinity": {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [{"labelSelector": {}, "mismatchLabelKeys": ["v"]}]}},
        }});
        create(&mut pod, now());
        let expression = |op: &str| json!([{"key": "v", "operator": op, "values": ["1"]}]);
        assert_eq!(pod.pointer("/spec/topologySpreadConstraints/0/labelSelector/matchExpressions"), Some(&expression("In")));
        let term = "/spec/affinity/podAntiAffinity/requiredDuringSchedulingIgnoredDuringExecution/0/labelSelector/matchExpressions";
        assert_eq!(pod.pointer(term), Some(&expression("NotIn")));
    }

    #[test]
    fn status_keeps_what_kubelets_may_not_change() {
        let old = json!({"metadata": {"ownerReferences": [1]}, "status": {"qosClass": "Burstable"}});
        let mut new = json!({"metadata": {"deletionTimestamp": "x"}, "status": {"podIP": "10.0.0.1"}});
        status(&mut new, &old);
        assert_eq!(new["metadata"], json!({"ownerReferences": [1]}));
        assert_eq!(new["status"], json!({"podIP": "10.0.0.1", "qosClass": "Burstable", "podIPs": [{"ip": "10.0.0.1"}]}));
    }

    #[test]
    fn only_the_part_of_the_subresource_is_taken() {
        let old = json!({"metadata": {"labels": {"a": "b"}}, "spec": {"nodeName": "n", "containers": [{"name": "c", "image": "1"}]}, "status": {"phase": "Running"}});
        let mut new = json!({"metadata": {"labels": {}}, "spec": {"nodeName": "m", "ephemeralContainers": [{"name": "d"}],
            "containers": [{"name": "c", "image": "2", "resources": {"limits": {"cpu": "1"}}}]}, "status": {}});
        let mut debugged = new.clone();
        ephemeral_containers(&mut debugged, &old);
        let mut wanted = old.clone();
        wanted["spec"]["ephemeralContainers"] = json!([{"name": "d"}]);
        assert_eq!(debugged, wanted);
        resize(&mut new, &old);
        let mut wanted = old.clone();
        wanted["spec"]["containers"][0]["resources"] = json!({"limits": {"cpu": "1"}});
        assert_eq!(new, wanted);
    }

    #[test]
    fn a_condition_moves_its_time_only_with_its_status() {
        let mut pod = json!({"status": {"conditions": [{"type": "A", "status": "True", "lastTransitionTime": "2020-01-01T00:00:00Z"}]}});
        set_condition(&mut pod, "A", "True", "R", "", now());
        assert_eq!(pod["status"]["conditions"][0]["lastTransitionTime"], "2020-01-01T00:00:00Z");
        set_condition(&mut pod, "A", "False", "R", "", now());
        assert_eq!(pod["status"]["conditions"][0]["lastTransitionTime"], "2026-01-01T00:00:00Z");
    }
}
