//! A pod with other resources -> what may not have changed. Source: `ValidatePodResize`.

use api::{annotations::CONFIG_MIRROR, field_errors::FieldErrors};
use podspec::QosClass;
use serde_json::{Map, Value};

use super::pod;
use crate::common::{
    Path, Read,
    edit::{child, each, make_child, remove, set},
    read::{is_nothing, same},
};

const LISTS: [&str; 2] = ["initContainers", "containers"];
const ONLY: &str = "only cpu and memory resources are mutable";

pub fn update(new: &Value, old: &Value, causes: &mut FieldErrors) {
    if old.at("metadata").at("annotations").at(CONFIG_MIRROR).is_some() {
        return causes.forbidden("", "static pods cannot be resized");
    }
    let null = Value::Null;
    let (spec, before, path) = (new.get("spec").unwrap_or(&null), old.get("spec").unwrap_or(&null), Path::new("spec"));
    if before.at("os").text("name") == "windows" {
        return causes.forbidden("", "windows pods cannot be resized");
    }
    pod(new, causes);
    let known = old.at("status").text("qosClass");
    let class = if known.is_empty() { QosClass::of(before).word() } else { known };
    if class != QosClass::of(spec).word() {
        causes.invalid(path, new.at("status").text("qosClass"), "Pod QOS Class may not change as a result of resizing");
    }
    if !is_supported(old) {
        causes.forbidden(path, "Pod running on node without support for resize");
    }
    if !is_in_order(spec, before, path, causes) {
        return;
    }
    removed(spec.at("resources"), before.at("resources"), path.field("resources"), causes);
    for list in LISTS {
        let at = path.field(list);
        for (i, (container, was)) in spec.list(list).iter().zip(before.list(list)).enumerate() {
            removed(container.at("resources"), was.at("resources"), at.index(i).field("resources"), causes);
        }
    }
    fixed(spec, before, path, causes);
}

/// `isPodResizeRequestSupported`: nodes that can, tell of the resources of what runs.
fn is_supported(pod: &Value) -> bool {
    let statuses = pod.at("status").list("containerStatuses");
    statuses.iter().find(|status| status.at("state").at("running").is_some()).is_none_or(|status| status.at("resources").is_some())
}

/// `validatePodResizeContainerOrdering`
fn is_in_order(spec: &Value, before: &Value, path: Path<'_>, causes: &mut FieldErrors) -> bool {
    let mut well = true;
    for list in ["containers", "initContainers"] {
        let (now, was, at) = (spec.list(list), before.list(list), path.field(list));
        if now.len() != was.len() {
            causes.forbidden(at, &format!("{list} may not be added or removed on resize"));
            well = false;
            continue;
        }
        for (i, _) in now.iter().zip(was).enumerate().filter(|(_, (now, was))| now.text("name") != was.text("name")) {
            causes.forbidden(at.index(i).field("name"), &format!("{list} may not be renamed or reordered on resize"));
            well = false;
        }
    }
    well
}

/// `validateContainerResize`
fn removed(now: Option<&Value>, was: Option<&Value>, path: Path<'_>, causes: &mut FieldErrors) {
    for list in ["requests", "limits"] {
        let kept = now.object(list);
        if was.object(list).into_iter().flatten().any(|(name, _)| kept.is_none_or(|kept| !kept.contains_key(name))) {
            causes.forbidden(path.field(list), &format!("resource {list} cannot be removed"));
        }
    }
}

/// But for CPU, memory and resize policies all is as it was.
fn fixed(spec: &Value, before: &Value, path: Path<'_>, causes: &mut FieldErrors) {
    let mut found = false;
    for list in ["containers", "initContainers"] {
        let at = path.field(list);
        for (i, (container, was)) in spec.list(list).iter().zip(before.list(list)).enumerate() {
            if same(Some(&sized_as(container, was)), Some(was)) {
                let restarts = |policy: &Value| policy.text("restartPolicy") == "RestartContainer";
                let is_sidecar = list == "containers" || container.text("restartPolicy") == "Always";
                if !is_sidecar && !same(Some(container), Some(was)) && container.list("resizePolicy").iter().any(restarts) {
                    let text = "non-sidecar init containers with a resize policy of RestartContainer cannot be resized";
                    causes.forbidden(at.index(i), text);
                    found = true;
                }
                continue;
            }
            found = true;
            match list {
                "containers" => causes.forbidden(path, ONLY),
                _ => causes.forbidden(at.index(i), "only cpu and memory resources for init or sidecar containers are mutable"),
            }
        }
    }
    let mut rest = sized_as(spec, before);
    for list in LISTS {
        for (container, was) in each(&mut rest, list).zip(before.list(list)) {
            *container = sized_as(container, was);
        }
    }
    if !found && causes.is_empty() && !same(Some(&rest), Some(before)) {
        causes.forbidden(path, ONLY);
    }
}

/// A container, or a spec, with the CPU and memory that it had (`dropCPUMemoryResourcesFromContainer`).
fn sized_as(now: &Value, was: &Value) -> Value {
    let mut out = now.clone();
    for list in ["requests", "limits"] {
        let before = was.at("resources").object(list);
        let Some(amounts) = make_child(&mut out, "resources").and_then(|resources| make_child(resources, list)) else { continue };
        for name in ["cpu", "memory"] {
            match before.and_then(|before| before.get(name)) {
                Some(amount) => set(amounts, name, amount.clone()),
                None => remove(amounts, name),
            }
        }
    }
    if let Some(resources) = child(&mut out, "resources") {
        for list in ["requests", "limits"] {
            if resources.get(list).and_then(Value::as_object).is_some_and(Map::is_empty) {
                remove(resources, list);
            }
        }
    }
    if out.get("resources").is_some_and(|resources| is_nothing("resources", resources)) {
        remove(&mut out, "resources");
    }
    out
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::pod::defaults;

    fn causes(change: impl Fn(&mut Value)) -> Vec<String> {
        let resources = json!({"requests": {"cpu": "100m", "memory": "64Mi"}, "limits": {"cpu": "200m", "memory": "128Mi"}});
        let mut old = json!({"metadata": {"name": "a"}, "spec": {"serviceAccountName": "default", "containers": [{"name": "c", "image": "x:1", "resources": resources}]},
            "status": {"qosClass": "Burstable"}});
        defaults::pod(&mut old);
        let mut new = old.clone();
        change(&mut new);
        let mut causes = FieldErrors::default();
        update(&new, &old, &mut causes);
        causes.0.iter().map(|c| c.text()).collect()
    }

    #[test]
    fn cpu_and_memory_may_change() {
        assert_eq!(causes(|pod| pod["spec"]["containers"][0]["resources"]["limits"]["cpu"] = json!("500m")), Vec::<String>::new());
        assert_eq!(causes(|pod| pod["spec"]["containers"][0]["resources"]["requests"]["memory"] = json!("96Mi")), Vec::<String>::new());
    }

    #[test]
    fn what_else_changes_is_named() {
        type Change = fn(&mut Value);
        let cases: [(Change, &str); 5] = [
            (
                |pod| pod["spec"]["containers"][0]["resources"]["requests"] = json!({"cpu": "200m", "memory": "128Mi"}),
                r#"spec: Invalid value: "Burstable": Pod QOS Class may not change as a result of resizing"#,
            ),
            (
                |pod| drop(pod["spec"]["containers"][0]["resources"]["limits"].as_object_mut().unwrap().remove("cpu")),
                "spec.containers[0].resources.limits: Forbidden: resource limits cannot be removed",
            ),
            (
                |pod| {
                    pod["spec"]["containers"][0]["resources"]["limits"]["example.com/x"] = json!("1");
                    pod["spec"]["containers"][0]["resources"]["requests"]["example.com/x"] = json!("1");
                },
                "spec: Forbidden: only cpu and memory resources are mutable",
            ),
            (
                |pod| pod["spec"]["containers"][0]["name"] = json!("d"),
                "spec.containers[0].name: Forbidden: containers may not be renamed or reordered on resize",
            ),
            (|pod| pod["spec"]["nodeName"] = json!("n"), "spec: Forbidden: only cpu and memory resources are mutable"),
        ];
        for (change, wanted) in cases {
            assert_eq!(causes(change), [wanted]);
        }
    }
}
