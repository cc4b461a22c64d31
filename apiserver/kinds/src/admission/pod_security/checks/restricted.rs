//! What the restricted level does not allow besides. Source: `pod-security-admission/policy/check_*.go`.

use std::collections::BTreeSet;

use serde_json::Value;

use super::{Finding, Pod, containers, found, plural, quoted, seccomp_finding, setters};
use crate::common::Read;

const VOLUMES: &[&str] =
    &["configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "image", "persistentVolumeClaim", "projected", "secret"];
/// All others, in the order in which upstream looks for them.
const OTHER_VOLUMES: &[&str] = &[
    "hostPath",
    "gcePersistentDisk",
    "awsElasticBlockStore",
    "gitRepo",
    "nfs",
    "iscsi",
    "glusterfs",
    "rbd",
    "flexVolume",
    "cinder",
    "cephfs",
    "flocker",
    "fc",
    "azureFile",
    "vsphereVolume",
    "quobyte",
    "azureDisk",
    "photonPersistentDisk",
    "portworxVolume",
    "scaleIO",
    "storageos",
];

pub fn privilege_escalation(pod: &Pod<'_>) -> Finding {
    let names = pod.bad(|container| container.at("securityContext").flag("allowPrivilegeEscalation") != Some(false));
    if names.is_empty() {
        return None;
    }
    let detail = format!("{} must set securityContext.allowPrivilegeEscalation=false", containers(&names));
    found("allowPrivilegeEscalation != false", detail)
}

pub fn capabilities(pod: &Pod<'_>) -> Finding {
    let of = |container: &'_ Value, list: &str| -> Vec<String> {
        let all = container.at("securityContext").at("capabilities").list(list);
        all.iter().filter_map(Value::as_str).map(str::to_owned).collect()
    };
    let keeping = pod.bad(|container| !of(container, "drop").iter().any(|capability| capability == "ALL"));
    let mut added = BTreeSet::new();
    let adding = pod.bad(|container| {
        let bad: Vec<String> = of(container, "add").into_iter().filter(|capability| capability != "NET_BIND_SERVICE").collect();
        let is_bad = !bad.is_empty();
        added.extend(bad);
        is_bad
    });
    let mut details = Vec::new();
    if !keeping.is_empty() {
        details.push(format!("{} must set securityContext.capabilities.drop=[\"ALL\"]", containers(&keeping)));
    }
    if !adding.is_empty() {
        let all = quoted(added.iter().map(String::as_str));
        details.push(format!("{} must not include {all} in securityContext.capabilities.add", containers(&adding)));
    }
    if details.is_empty() { None } else { found("unrestricted capabilities", details.join("; ")) }
}

pub fn volumes(pod: &Pod<'_>) -> Finding {
    let (mut names, mut types) = (Vec::new(), BTreeSet::new());
    for volume in pod.spec.list("volumes") {
        if VOLUMES.iter().all(|typ| volume.at(typ).is_none()) {
            names.push(volume.text("name"));
            types.insert(OTHER_VOLUMES.iter().copied().find(|typ| volume.at(typ).is_some()).unwrap_or("unknown"));
        }
    }
    if names.is_empty() {
        return None;
    }
    let (what, uses) = (plural(names.len(), "volume", "volumes"), plural(names.len(), "uses", "use"));
    let kinds = plural(types.len(), "restricted volume type", "restricted volume types");
    found("restricted volume types", format!("{what} {} {uses} {kinds} {}", quoted(names), quoted(types)))
}

pub fn run_as_non_root(pod: &Pod<'_>) -> Finding {
    let own = pod.security().flag("runAsNonRoot");
    let says = |container: &Value| container.at("securityContext").flag("runAsNonRoot");
    let explicit = pod.bad(|container| says(container) == Some(false));
    if let Some(who) = setters(own == Some(false), &explicit) {
        return found("runAsNonRoot != true", format!("{who} must not set securityContext.runAsNonRoot=false"));
    }
    let implicit = pod.bad(|container| own != Some(true) && says(container).is_none());
    if implicit.is_empty() {
        return None;
    }
    found("runAsNonRoot != true", format!("pod or {} must set securityContext.runAsNonRoot=true", containers(&implicit)))
}

pub fn run_as_user(pod: &Pod<'_>) -> Finding {
    let is_root = |holder: Option<&Value>| holder.int("runAsUser") == Some(0);
    let names = pod.bad(|container| is_root(container.at("securityContext")));
    let who = setters(is_root(pod.security()), &names)?;
    found("runAsUser=0", format!("{who} must not set runAsUser=0"))
}

pub fn seccomp(pod: &Pod<'_>) -> Finding {
    if let Some(bad) = seccomp_finding(pod) {
        return Some(bad);
    }
    let has = |holder: Option<&Value>| holder.at("seccompProfile").is_some();
    let names = pod.bad(|container| !has(pod.security()) && !has(container.at("securityContext")));
    if names.is_empty() {
        return None;
    }
    let what = "must set securityContext.seccompProfile.type to \"RuntimeDefault\" or \"Localhost\"";
    found("seccompProfile", format!("pod or {} {what}", containers(&names)))
}
