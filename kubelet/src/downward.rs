//! Pod -> the values of its own fields and resources, for variables and files (downward API).
//!
//! Source: `pkg/fieldpath/fieldpath.go`, `pkg/api/v1/resource/helpers.go`, `podFieldSelectorRuntimeValue` in `pkg/kubelet/kubelet_pods.go`.

use std::collections::BTreeMap;

use api::{
    k8s::api::core::v1::{Container, Pod, ResourceFieldSelector},
    quantity::Quantity,
    selector::is_label_key,
};

use crate::{container_config::qos::amount, meta};

/// What the node contributes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    pub host_ips: Vec<String>,
    /// The pod's addresses as the runtime gave them.
    pub pod_ips: Vec<String>,
    pub allocatable: Allocatable,
}

/// The node's allocatable resources, which stand in for limits that a container does not have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Allocatable {
    pub cpu_milli: i64,
    pub memory_bytes: i64,
    pub ephemeral_storage_bytes: i64,
}

/// The value of a `fieldRef` in a variable.
///
/// # Errors
/// Upstream's words, where the path is not one of those that are supported.
pub fn variable(pod: &Pod, path: &str, facts: &Facts) -> Result<String, String> {
    let spec = pod.spec.as_ref();
    let first = |list: &[String]| list.first().cloned().unwrap_or_default();
    Ok(match path {
        "spec.nodeName" => spec.and_then(|s| s.node_name.clone()).unwrap_or_default(),
        "spec.serviceAccountName" => spec.and_then(|s| s.service_account_name.clone()).unwrap_or_default(),
        "status.hostIP" => first(&facts.host_ips),
        "status.hostIPs" => facts.host_ips.join(","),
        "status.podIP" => first(&facts.pod_ips),
        "status.podIPs" => facts.pod_ips.join(","),
        _ => return field(pod, path),
    })
}

/// The value of a `fieldRef` in a file: metadata only.
///
/// # Errors
/// Upstream's words, where the path is not one of those that are supported.
pub fn field(pod: &Pod, path: &str) -> Result<String, String> {
    if let Some((map, key)) = subscript(path) {
        return subscripted(pod, path, map, key);
    }
    Ok(match path {
        "metadata.name" => meta::name(pod).to_owned(),
        "metadata.namespace" => meta::namespace(pod).to_owned(),
        "metadata.uid" => meta::uid(pod).to_owned(),
        "metadata.labels" => format_map(pod.metadata.labels.as_ref()),
        "metadata.annotations" => format_map(pod.metadata.annotations.as_ref()),
        _ => return Err(format!("unsupported fieldPath: {path}")),
    })
}

/// The value of a `resourceFieldRef`; `own` is the container it stands in, where it names no other.
///
/// # Errors
/// Upstream's words for an unknown container or resource.
pub fn resource(pod: &Pod, own: Option<&Container>, selector: &ResourceFieldSelector, node: Allocatable) -> Result<String, String> {
    let name = selector.container_name.as_deref().unwrap_or_default();
    let container = match own.filter(|_| name.is_empty()) {
        Some(container) => container,
        None => meta::containers(pod).find(|c| c.name == name).ok_or_else(|| format!("container {name} not found"))?,
    };
    let divisor = selector.divisor.as_ref().and_then(|d| Quantity::parse(&d.0).ok()).filter(|d| !d.is_zero());
    let value = amount_of(container, &selector.resource, node)?;
    let divisor = divisor.unwrap_or(Quantity::from_units(1));
    let (value, by) = if selector.resource.ends_with(".cpu") { (value.milli(), divisor.milli()) } else { (value.units(), divisor.units()) };
    let by = by.max(1);
    Ok((value / by + i64::from(value % by > 0)).to_string())
}

fn amount_of(container: &Container, resource: &str, node: Allocatable) -> Result<Quantity, String> {
    let resources = container.resources.as_ref();
    let unknown = || format!("unsupported container resource : {resource}");
    let (side, name) = resource.split_once('.').ok_or_else(unknown)?;
    let known = matches!(name, "cpu" | "memory" | "ephemeral-storage") || name.starts_with("hugepages-");
    let zero = Quantity::from_units(0);
    match side {
        "requests" if known => Ok(amount(resources.and_then(|r| r.requests.as_ref()), name).unwrap_or(zero)),
        "limits" if known => {
            let limit = amount(resources.and_then(|r| r.limits.as_ref()), name).filter(|q| !q.is_zero());
            Ok(limit.unwrap_or_else(|| allocatable(name, node)))
        }
        _ => Err(unknown()),
    }
}

fn allocatable(name: &str, node: Allocatable) -> Quantity {
    match name {
        "cpu" => Quantity::from_milli(node.cpu_milli),
        "memory" => Quantity::from_bytes(node.memory_bytes),
        "ephemeral-storage" => Quantity::from_bytes(node.ephemeral_storage_bytes),
        _ => Quantity::from_units(0),
    }
}

/// `metadata.labels['a']` -> (`metadata.labels`, `a`).
fn subscript(path: &str) -> Option<(&str, &str)> {
    let (map, key) = path.strip_suffix("']")?.split_once("['")?;
    (!map.is_empty()).then_some((map, key))
}

fn subscripted(pod: &Pod, path: &str, map: &str, key: &str) -> Result<String, String> {
    let (values, valid) = match map {
        "metadata.annotations" => (pod.metadata.annotations.as_ref(), is_label_key(&key.to_lowercase())),
        "metadata.labels" => (pod.metadata.labels.as_ref(), is_label_key(key)),
        _ => return Err(format!("fieldPath {path:?} does not support subscript")),
    };
    if !valid {
        return Err(format!("invalid key subscript in {path}: {}", api::selector::LABEL_KEY_RULE));
    }
    Ok(values.and_then(|v| v.get(key)).cloned().unwrap_or_default())
}

/// One `key="value"` a line, in key order, quoted as Go quotes.
fn format_map(map: Option<&BTreeMap<String, String>>) -> String {
    let lines: Vec<String> = map.into_iter().flatten().map(|(k, v)| format!("{k}={}", api::quoted(v))).collect();
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::container_config::testing::pod;

    const SPEC: &str = r#"{"nodeName":"n1","serviceAccountName":"sa","containers":[{"name":"a",
        "resources":{"requests":{"cpu":"1250m"},"limits":{"memory":"65Mi"}}}]}"#;

    fn facts() -> Facts {
        let allocatable = Allocatable { cpu_milli: 2000, memory_bytes: 1 << 30, ephemeral_storage_bytes: 5 };
        Facts { host_ips: vec!["1.1.1.1".into()], pod_ips: vec!["10.0.0.1".into(), "fd::1".into()], allocatable }
    }

    #[test]
    fn fields_have_upstreams_values() {
        let mut p = pod(SPEC);
        p.metadata.labels = Some([("b".into(), "x\"y\n".into()), ("a".into(), "1".into())].into());
        p.metadata.annotations = Some([("k/A".into(), "v".into())].into());
        let cases = [
            ("metadata.name", "web"),
            ("metadata.namespace", "default"),
            ("metadata.uid", "u1"),
            ("metadata.labels", "a=\"1\"\nb=\"x\\\"y\\n\""),
            ("metadata.labels['a']", "1"),
            ("metadata.labels['none']", ""),
            ("metadata.annotations['k/A']", "v"),
            ("spec.nodeName", "n1"),
            ("spec.serviceAccountName", "sa"),
            ("status.hostIP", "1.1.1.1"),
            ("status.podIP", "10.0.0.1"),
            ("status.podIPs", "10.0.0.1,fd::1"),
        ];
        for (path, wanted) in cases {
            assert_eq!(variable(&p, path, &facts()).as_deref(), Ok(wanted), "{path}");
        }
        for bad in ["spec.x", "metadata.name['a']", "metadata.labels['-']"] {
            assert!(variable(&p, bad, &facts()).is_err(), "{bad}");
        }
    }

    #[test]
    fn resources_are_divided_and_rounded_up() {
        let p = pod(SPEC);
        let own = &p.spec.as_ref().unwrap().containers[0];
        let get = |resource: &str, divisor: Option<&str>| {
            let divisor = divisor.map(|d| api::k8s::apimachinery::pkg::api::resource::Quantity(d.into()));
            let selector = ResourceFieldSelector { resource: resource.into(), divisor, container_name: None };
            super::resource(&p, Some(own), &selector, facts().allocatable)
        };
        let cases = [
            ("requests.cpu", None, "2"),
            ("requests.cpu", Some("1m"), "1250"),
            ("limits.cpu", None, "2"),
            ("limits.memory", None, "68157440"),
            ("limits.memory", Some("1Mi"), "65"),
            ("limits.memory", Some("1Gi"), "1"),
            ("requests.memory", None, "0"),
            ("limits.ephemeral-storage", Some("0"), "5"),
        ];
        for (name, divisor, wanted) in cases {
            assert_eq!(get(name, divisor).as_deref(), Ok(wanted), "{name} {divisor:?}");
        }
        assert_eq!(get("limits.gpu", None).unwrap_err(), "unsupported container resource : limits.gpu");
        let other = ResourceFieldSelector { resource: "limits.cpu".into(), container_name: Some("zz".into()), divisor: None };
        assert_eq!(super::resource(&p, None, &other, facts().allocatable).unwrap_err(), "container zz not found");
    }
}
