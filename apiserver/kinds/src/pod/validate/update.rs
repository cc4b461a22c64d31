//! A pod and what it was -> what may not have changed. Source: `ValidatePodUpdate`.

use std::collections::HashSet;

use api::{annotations::CONFIG_MIRROR, field_errors::FieldErrors};
use serde_json::{Value, json};

use super::{annotations::APP_ARMOR, scheduling};
use crate::{
    common::{
        Path, Read, diff,
        edit::{carry, each},
        read::same,
    },
    schema::internal,
};

const UPDATABLE: &str = "`spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)";

/// Runs after the new pod has been validated by itself.
pub fn pod(new: &Value, old: &Value, causes: &mut FieldErrors) {
    annotations(new, old, causes);
    let null = Value::Null;
    let (new, old) = (new.get("spec").unwrap_or(&null), old.get("spec").unwrap_or(&null));
    let path = Path::new("spec");
    for list in ["containers", "initContainers"] {
        if new.list(list).len() != old.list(list).len() {
            return causes.forbidden(path.field(list), "pod updates may not add or remove containers");
        }
        images(new.list(list), path.field(list), causes);
    }
    if !deadline(new, old, path.field("activeDeadlineSeconds"), causes) {
        return;
    }
    tolerations(new, old, path.field("tolerations"), causes);
    scheduling_gates(new, old, path.field("schedulingGates"), causes);
    if same(Some(new), Some(old)) {
        return;
    }
    let rest = without_updatable(new, old, path, causes);
    if !same(Some(&rest), Some(old)) {
        let [was, now] = [old, &rest].map(|spec| internal::shown("core.PodSpec", Some(spec)));
        let text = format!("pod updates may not change fields other than {UPDATABLE}\n{}", diff::in_order(&was, &now));
        causes.forbidden(path, &text);
    }
}

/// `ValidatePodSpecificAnnotationUpdates`: the mirror annotation and AppArmor's stay as they are.
pub fn annotations(new: &Value, old: &Value, causes: &mut FieldErrors) {
    let path = Path::new("metadata.annotations");
    let (new, old) = (new.at("metadata").at("annotations"), old.at("metadata").at("annotations"));
    let mut guard = |key: &str, verb: &str| {
        if key.starts_with(APP_ARMOR) {
            causes.forbidden(path.key(key), &format!("may not {verb} AppArmor annotations"));
        }
        if key == CONFIG_MIRROR {
            causes.forbidden(path.key(key), &format!("may not {verb} mirror pod annotation"));
        }
    };
    for (key, _) in old.and_then(Value::as_object).into_iter().flatten().filter(|(k, v)| new.at(k) != Some(v)) {
        guard(key, "remove or update");
    }
    for (key, _) in new.and_then(Value::as_object).into_iter().flatten().filter(|(k, _)| old.at(k).is_none()) {
        guard(key, "add");
    }
}

/// `ValidateContainerUpdates`: who changes an image names one, with nothing around it.
fn images(containers: &[Value], path: Path<'_>, causes: &mut FieldErrors) {
    for (i, image) in containers.iter().map(|container| container.text("image")).enumerate() {
        let at = path.index(i);
        if image.is_empty() {
            causes.required(at.field("image"), "");
        }
        if image.trim() != image {
            causes.invalid(at.field("image"), image, "must not have leading or trailing whitespace");
        }
    }
}

/// The deadline may be set, and drawn nearer; false where nothing more should be said.
fn deadline(new: &Value, old: &Value, path: Path<'_>, causes: &mut FieldErrors) -> bool {
    match (new.int("activeDeadlineSeconds"), old.int("activeDeadlineSeconds")) {
        (Some(now), _) if !(0..=i64::from(i32::MAX)).contains(&now) => {
            causes.invalid(path, now, &format!("must be between 0 and {}, inclusive", i32::MAX));
            return false;
        }
        (Some(now), Some(before)) if before < now => {
            causes.invalid(path, now, "must be less than or equal to previous value");
            return false;
        }
        (None, Some(_)) => causes.invalid(path, Value::Null, "must not update from a positive integer to nil value"),
        _ => {}
    }
    true
}

/// `validateOnlyAddedTolerations`
fn tolerations(new: &Value, old: &Value, path: Path<'_>, causes: &mut FieldErrors) {
    // All but its seconds.
    fn bare(t: &Value) -> [&str; 4] {
        ["key", "operator", "value", "effect"].map(|field| t.text(field))
    }
    let after: HashSet<_> = new.list("tolerations").iter().map(bare).collect();
    if !old.list("tolerations").iter().all(|t| after.contains(&bare(t))) {
        causes.forbidden(path, "existing toleration can not be modified except its tolerationSeconds");
        return;
    }
    scheduling::tolerations(new.list("tolerations"), path, causes);
}

/// `validateOnlyDeletedSchedulingGates`
fn scheduling_gates(new: &Value, old: &Value, path: Path<'_>, causes: &mut FieldErrors) {
    let before: HashSet<&str> = old.list("schedulingGates").iter().map(|gate| gate.text("name")).collect();
    for (i, gate) in new.list("schedulingGates").iter().enumerate() {
        let name = gate.text("name");
        if !before.contains(name) {
            let text = format!("only deletion is allowed, but found new scheduling gate '{name}'");
            causes.forbidden(path.index(i).field("name"), &text);
        }
    }
}

/// The new spec with what may change set back to what it was.
fn without_updatable(new: &Value, old: &Value, path: Path<'_>, causes: &mut FieldErrors) -> Value {
    let mut rest = new.clone();
    for list in ["containers", "initContainers"] {
        for (container, before) in each(&mut rest, list).zip(old.list(list)) {
            carry(container, before, "image");
        }
    }
    for field in ["activeDeadlineSeconds", "schedulingGates", "tolerations"] {
        carry(&mut rest, old, field);
    }
    if old.int("terminationGracePeriodSeconds").is_some_and(|s| s < 0) && rest.int("terminationGracePeriodSeconds") == Some(1) {
        carry(&mut rest, old, "terminationGracePeriodSeconds");
    }
    if !old.list("schedulingGates").is_empty() {
        gated(&mut rest, old, path, causes);
    }
    rest
}

/// Of a pod that waits for its gates, node selector and node affinity may still be narrowed.
fn gated(rest: &mut Value, old: &Value, path: Path<'_>, causes: &mut FieldErrors) {
    let (now, before) = (rest.at("nodeSelector"), old.at("nodeSelector"));
    let kept = before.and_then(Value::as_object).into_iter().flatten().all(|(k, v)| now.at(k) == Some(v));
    if !kept {
        let text = "only additions to spec.nodeSelector are allowed (no mutations or deletions)";
        causes.invalid(path.field("nodeSelector"), now.cloned().unwrap_or(Value::Null), text);
    }
    carry(rest, old, "nodeSelector");
    let before = old.at("affinity").at("nodeAffinity");
    node_affinity(rest.at("affinity").at("nodeAffinity"), before, path, causes);
    if let Some(affinity) = rest.get_mut("affinity").filter(|a| a.is_object()) {
        let old_affinity = old.at("affinity").cloned().unwrap_or_else(|| json!({}));
        carry(affinity, &old_affinity, "nodeAffinity");
    } else if let (Some(before), Some(rest)) = (before, rest.as_object_mut()) {
        rest.insert("affinity".into(), json!({"nodeAffinity": before}));
    }
}

/// `validateNodeAffinityMutation`
fn node_affinity(new: Option<&Value>, old: Option<&Value>, path: Path<'_>, causes: &mut FieldErrors) {
    let required = "requiredDuringSchedulingIgnoredDuringExecution";
    let terms = |affinity: Option<&Value>| affinity.at(required).list("nodeSelectorTerms").to_vec();
    let (now, before) = (terms(new), terms(old));
    let at = format!("{}.{required}.nodeSelectorTerms", path.field("affinity").field("nodeAffinity"));
    if before.is_empty() {
        return;
    }
    if now.len() != before.len() {
        let shown = if now.is_empty() { Value::Null } else { internal::shown_each("core.NodeSelectorTerm", &now) };
        return causes.invalid(at, shown, "no additions/deletions to non-empty NodeSelectorTerms list are allowed");
    }
    for (i, (now, before)) in now.iter().zip(&before).enumerate() {
        if !only_added(now, before) {
            let shown = internal::shown("core.NodeSelectorTerm", Some(now));
            causes.invalid(format!("{at}[{i}]"), shown, "only additions are allowed (no mutations or deletions)");
        }
    }
}

fn only_added(now: &Value, before: &Value) -> bool {
    let lists = ["matchExpressions", "matchFields"];
    if lists.iter().all(|l| before.list(l).is_empty()) {
        return lists.iter().all(|l| now.list(l).is_empty());
    }
    lists.iter().all(|l| now.list(l).starts_with(before.list(l)))
}

#[cfg(test)]
mod tests {
    use super::*;

    type Change = fn(&mut Value);

    fn causes(change: impl Fn(&mut Value)) -> Vec<String> {
        let old = json!({"metadata": {"annotations": {CONFIG_MIRROR: "x"}}, "spec": {
            "containers": [{"name": "a", "image": "x:1", "stdin": false}], "activeDeadlineSeconds": 10, "nodeName": "n",
            "tolerations": [{"key": "a", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 1}]}});
        let mut new = old.clone();
        change(&mut new);
        let mut causes = FieldErrors::default();
        pod(&new, &old, &mut causes);
        causes.0.iter().map(|c| c.text()).collect()
    }

    #[test]
    fn what_may_change_may() {
        let changes: [Change; 6] = [
            |_| {},
            |p| p["spec"]["containers"][0]["image"] = json!("x:2"),
            |p| p["spec"]["activeDeadlineSeconds"] = json!(5),
            |p| p["spec"]["tolerations"][0]["tolerationSeconds"] = json!(9),
            |p| p["spec"]["tolerations"].as_array_mut().unwrap().push(json!({"operator": "Exists"})),
            // A Go client leaves out what is false or empty.
            |p| drop(p["spec"]["containers"][0].as_object_mut().unwrap().remove("stdin")),
        ];
        for (i, change) in changes.into_iter().enumerate() {
            assert_eq!(causes(change), Vec::<String>::new(), "change {i}");
        }
    }

    #[test]
    fn what_may_not_change_is_named() {
        let cases: [(Change, &str); 8] = [
            (|p| p["spec"]["containers"][0]["image"] = json!(""), "spec.containers[0].image: Required value"),
            (
                |p| p["spec"]["containers"][0]["image"] = json!(" i"),
                "spec.containers[0].image: Invalid value: \" i\": must not have leading or trailing whitespace",
            ),
            (
                |p| p["spec"]["activeDeadlineSeconds"] = json!(11),
                "spec.activeDeadlineSeconds: Invalid value: 11: must be less than or equal to previous value",
            ),
            (
                |p| p["spec"]["tolerations"] = json!([]),
                "spec.tolerations: Forbidden: existing toleration can not be modified except its tolerationSeconds",
            ),
            (|p| p["spec"]["containers"] = json!([]), "spec.containers: Forbidden: pod updates may not add or remove containers"),
            (
                |p| p["spec"]["schedulingGates"] = json!([{"name": "g"}]),
                "spec.schedulingGates[0].name: Forbidden: only deletion is allowed, but found new scheduling gate 'g'",
            ),
            (
                |p| p["metadata"]["annotations"] = json!({}),
                "metadata.annotations[kubernetes.io/config.mirror]: Forbidden: may not remove or update mirror pod annotation",
            ),
            (
                |p| drop(p["spec"].as_object_mut().unwrap().remove("activeDeadlineSeconds")),
                "spec.activeDeadlineSeconds: Invalid value: null: must not update from a positive integer to nil value",
            ),
        ];
        for (change, wanted) in cases {
            assert_eq!(causes(change), [wanted]);
        }
    }

    #[test]
    fn other_changes_are_shown_as_a_diff() {
        let found = causes(|p| p["spec"]["nodeName"] = json!("m"));
        assert_eq!(found.len(), 1);
        let start = "spec: Forbidden: pod updates may not change fields other than `spec.containers[*].image`,";
        assert!(found[0].starts_with(start), "{}", found[0]);
        assert!(found[0].contains("\n- \"NodeName\": \"n\",\n+ \"NodeName\": \"m\",\n"), "{}", found[0]);
    }

    #[test]
    fn a_gated_pod_may_be_narrowed() {
        let old = json!({"spec": {"schedulingGates": [{"name": "g"}], "nodeSelector": {"a": "b"}}});
        let check = |selector: Value| {
            let mut new = old.clone();
            new["spec"]["nodeSelector"] = selector;
            new["spec"]["affinity"] = json!({"nodeAffinity": {}});
            let mut causes = FieldErrors::default();
            pod(&new, &old, &mut causes);
            causes.0.len()
        };
        assert_eq!(check(json!({"a": "b", "c": "d"})), 0);
        assert_eq!(check(json!({"a": "x"})), 1);
    }
}
