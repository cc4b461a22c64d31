//! Node: the strategy of machines: taints, pod networks, status, and the way to a node's agent.
//!
//! Source: `pkg/registry/core/node/strategy.go`, `pkg/apis/core/validation`, `ValidateNode` and `ValidateNodeUpdate`.

use std::{borrow::Cow, collections::BTreeSet};

use api::{
    field_errors::{FieldErrors, Reason},
    quantity::Quantity,
    time::Timestamp,
};
use apiserver::kind::{Column, Ctx, Field, Kind, MetaCheck, Name, Scope, Storage, Strategy, names};
use serde_json::{Value, json};

use crate::{
    common::{self, Path, Read, edit, name_rules, read, resources::canonical_list, table, well_formed},
    net,
};

mod proxy;
pub mod tunnel;

const ADDRESSES: &str = "List of addresses reachable to the node. Queried from cloud provider, if available.";
const COLUMNS: &[Column] = &[
    table::NAME_COLUMN,
    table::column("Status", "string", "The status of the node"),
    table::column("Roles", "string", "The roles of the node"),
    table::AGE_COLUMN,
    table::column("Version", "string", "Kubelet Version reported by the node."),
    table::wide("Internal-IP", "string", ADDRESSES),
    table::wide("External-IP", "string", ADDRESSES),
    table::wide("OS-Image", "string", "OS Image reported by the node from /etc/os-release (e.g. Debian GNU/Linux 7 (wheezy))."),
    table::wide("Kernel-Version", "string", "Kernel Version reported by the node from 'uname -r' (e.g. 3.16.0-0.bpo.4-amd64)."),
    table::wide(
        "Container-Runtime",
        "string",
        "ContainerRuntime Version reported by the node through runtime remote API (e.g. containerd://1.4.2).",
    ),
];
const FIELDS: &[Field] = &[table::field("spec.unschedulable", "/spec/unschedulable", "false")];

pub fn kind() -> Kind {
    Kind {
        short_names: names(&["no"]),
        scope: Scope::Cluster,
        storage: Storage::Kept { prefix: Name::Borrowed("minions"), ttl_seconds: None },
        subresources: vec![proxy::subresource(), common::status("", "v1", "Node")],
        columns: Cow::Borrowed(COLUMNS),
        fields: Cow::Borrowed(FIELDS),
        ..common::kind("", "v1", "Node", "nodes", "io.k8s.api.core.v1", Nodes)
    }
}

struct Nodes;

impl Strategy for Nodes {
    fn created_with_status(&self) -> bool {
        true
    }

    fn default(&self, object: &mut Value) {
        if let Some(spec) = edit::child(object, "spec") {
            pair_pod_cidrs(spec);
        }
        let Some(status) = edit::child(object, "status") else { return };
        canonical_list(status, "capacity");
        canonical_list(status, "allocatable");
        if let Some(capacity) = status.at("capacity").cloned() {
            edit::default_to(status, "allocatable", capacity);
        }
    }

    fn prepare_create(&self, _ctx: &Ctx<'_>, object: &mut Value) {
        drop_field(object, "spec", "configSource");
        drop_field(object, "status", "config");
    }

    fn prepare_update(&self, _ctx: &Ctx<'_>, new: &mut Value, old: &Value) {
        if old.at("spec").at("configSource").is_none() {
            drop_field(new, "spec", "configSource");
        }
    }

    fn prepare_subresource(&self, _ctx: &Ctx<'_>, new: &mut Value, old: &Value) {
        if old.at("status").at("config").is_none() {
            drop_field(new, "status", "config");
        }
    }

    fn validate(&self, object: &Value, causes: &mut FieldErrors) {
        avoided_pods(object, causes);
        taints(object, causes);
        resources(object, causes);
        pod_cidrs(object, causes);
    }

    fn validate_update(&self, new: &Value, old: &Value, causes: &mut FieldErrors) {
        addresses(new, causes);
        fixed_once_set(new, old, causes);
    }

    fn validate_subresource(&self, _subresource: &str, new: &Value, old: &Value, causes: &mut FieldErrors) {
        resources(new, causes);
        self.validate_update(new, old, causes);
    }

    fn warnings(&self, new: &Value, _old: Option<&Value>) -> Vec<String> {
        let spec = new.at("spec");
        let mut warnings = Vec::new();
        if spec.at("configSource").is_some() {
            warnings.push("spec.configSource: the feature is removed".to_owned());
        }
        if !spec.text("externalID").is_empty() {
            warnings.push("spec.externalID: this field is deprecated, and is unused by Kubernetes".to_owned());
        }
        let networks = spec.list("podCIDRs").iter().enumerate();
        warnings.extend(networks.filter_map(|(i, v)| net::cidr_warning(&format!("spec.podCIDRs[{i}]"), v.as_str()?)));
        warnings
    }

    fn meta_check(&self) -> MetaCheck {
        MetaCheck::Both
    }

    fn cells(&self, object: &Value, now: Timestamp) -> Vec<Value> {
        let info = object.pointer("/status/nodeInfo");
        let or_unknown = |text: &str| if text.is_empty() { "<unknown>".to_owned() } else { text.to_owned() };
        let mut kernel = or_unknown(info.text("kernelVersion"));
        let architecture = info.text("architecture");
        if !architecture.is_empty() {
            kernel = format!("{kernel} ({architecture})");
        }
        vec![
            read::name(object).into(),
            state(object).into(),
            table::or_none(&roles(object)),
            table::age(object, now),
            info.text("kubeletVersion").into(),
            table::or_none(address(object, "InternalIP")),
            table::or_none(address(object, "ExternalIP")),
            or_unknown(info.text("osImage")).into(),
            kernel.into(),
            or_unknown(info.text("containerRuntimeVersion")).into(),
        ]
    }
}

/// The first address of a type; empty where there is none.
pub fn address<'a>(node: &'a Value, kind: &str) -> &'a str {
    let addresses = node.pointer("/status/addresses").and_then(Value::as_array).into_iter().flatten();
    addresses.filter(|a| a.text("type") == kind).map(|a| a.text("address")).next().unwrap_or("")
}

/// `podCIDR` is the first of `podCIDRs`; the singular wins where they differ.
fn pair_pod_cidrs(spec: &mut Value) {
    let single = spec.text("podCIDR").to_owned();
    let first = spec.list("podCIDRs").first().and_then(Value::as_str).unwrap_or("").to_owned();
    if single.is_empty() && !first.is_empty() {
        edit::set(spec, "podCIDR", first);
    } else if single != first {
        edit::set(spec, "podCIDRs", json!([single]));
    }
}

fn drop_field(object: &mut Value, part: &str, name: &str) {
    if let Some(part) = edit::child(object, part) {
        edit::remove(part, name);
    }
}

fn taints(node: &Value, causes: &mut FieldErrors) {
    // Upstream's path is off by one level; clients may match on it.
    let path = Path::new("metadata.taints");
    let mut seen = BTreeSet::new();
    for (i, taint) in node.at("spec").list("taints").iter().enumerate() {
        let path = path.index(i);
        let (key, value, effect) = (taint.text("key"), taint.text("value"), taint.text("effect"));
        well_formed(key, name_rules::qualified(key), path.field("key"), causes);
        let errors = name_rules::label_value(value);
        if !errors.is_empty() {
            causes.invalid(path.field("value"), value, &errors.join(";"));
        }
        match effect {
            "" => causes.required(path.field("effect"), ""),
            "NoSchedule" | "PreferNoSchedule" | "NoExecute" => {}
            other => causes.not_supported(path.field("effect"), other, &["NoSchedule", "PreferNoSchedule", "NoExecute"]),
        }
        if !seen.insert((key, effect)) {
            let shown = json!({"Key": key, "Value": value, "Effect": effect, "TimeAdded": taint.at("timeAdded")});
            let message = format!("Duplicate value: {shown}: taints must be unique by key and effect pair");
            causes.push(Reason::Duplicate, path, message);
        }
    }
}

/// `ValidateAvoidPodsInNodeAnnotations`: an annotation of old that is still read.
fn avoided_pods(node: &Value, causes: &mut FieldErrors) {
    const ANNOTATION: &str = "scheduler.alpha.kubernetes.io/preferAvoidPods";
    let path = Path::new("metadata.annotations");
    let Some(text) = node.at("metadata").at("annotations").at(ANNOTATION).and_then(Value::as_str).filter(|text| !text.is_empty()) else {
        return;
    };
    let avoided = match apiserver::parse::json(text.as_bytes()) {
        Ok(parsed) => parsed.value,
        Err(why) => return causes.invalid(path.field("AvoidPods"), ANNOTATION, &why),
    };
    let path = path.field(ANNOTATION);
    for (i, entry) in avoided.list("preferAvoidPods").iter().enumerate() {
        let at = path.index(i);
        let signature = at.field("PodSignature");
        match entry.at("podSignature").at("podController") {
            None => causes.required(signature, ""),
            Some(owner) if !owner.is_true("controller") => {
                causes.invalid(signature.field("PodController.Controller"), false, "must point to a controller");
            }
            Some(_) => {}
        }
    }
}

/// Quantities are not negative; what is counted in whole units is whole.
fn resources(node: &Value, causes: &mut FieldErrors) {
    for part in ["capacity", "allocatable"] {
        let path = Path::new("status");
        let path = path.field(part);
        for (name, quantity) in node.at("status").object(part).into_iter().flatten() {
            let Some((shown, quantity)) = quantity_of(quantity) else { continue };
            let path = path.field(name);
            if quantity.is_negative() {
                causes.invalid(path, shown.clone(), "must be greater than or equal to 0");
            }
            if is_counted(name) && quantity.milli() % 1000 != 0 {
                causes.invalid(path, shown, "must be an integer");
            }
        }
    }
}

fn quantity_of(value: &Value) -> Option<(String, Quantity)> {
    let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    Quantity::parse(&text).ok().map(|q| (text, q))
}

/// Pods and extended resources (`example.com/gpu`).
fn is_counted(resource: &str) -> bool {
    resource == "pods" || (resource.contains('/') && !resource.contains("kubernetes.io/") && !resource.starts_with("requests."))
}

fn pod_cidrs(node: &Value, causes: &mut FieldErrors) {
    let path = Path::new("spec.podCIDRs");
    let networks: Vec<&str> = node.at("spec").list("podCIDRs").iter().filter_map(Value::as_str).collect();
    for (i, network) in networks.iter().enumerate() {
        well_formed(network, net::cidr(network), path.index(i), causes);
    }
    let families: BTreeSet<bool> = networks.iter().map(|n| n.contains(':')).collect();
    if families.len() < networks.len() {
        causes.invalid(path, json!(networks), "may specify no more than one CIDR for each IP family");
    }
}

fn addresses(node: &Value, causes: &mut FieldErrors) {
    let mut seen = BTreeSet::new();
    let path = Path::new("status.addresses");
    for (i, entry) in node.at("status").list("addresses").iter().enumerate() {
        let (kind, address) = (entry.text("type"), entry.text("address"));
        if !seen.insert((kind, address)) {
            causes.duplicate(path.index(i), json!({"Type": kind, "Address": address}));
        }
    }
}

/// Pod networks and the provider's id are set once.
fn fixed_once_set(new: &Value, old: &Value, causes: &mut FieldErrors) {
    let (new, old) = (new.at("spec"), old.at("spec"));
    if !old.list("podCIDRs").is_empty() && old.list("podCIDRs") != new.list("podCIDRs") {
        causes.forbidden("spec.podCIDRs", "node updates may not change podCIDR except from \"\" to valid");
    }
    let provider = old.text("providerID");
    if !provider.is_empty() && provider != new.text("providerID") {
        causes.forbidden("spec.providerID", "node updates may not change providerID except from \"\" to valid");
    }
    if !read::same(new.at("externalID"), old.at("externalID")) {
        causes.forbidden("spec.externalID", "may not be updated");
    }
}

/// `Ready`, `NotReady` or `Unknown`, and `SchedulingDisabled`.
fn state(node: &Value) -> String {
    let ready = node.at("status").list("conditions").iter().rfind(|c| c.text("type") == "Ready");
    let state = match ready.map(|c| c.text("status")) {
        Some("True") => "Ready",
        Some(_) => "NotReady",
        None => "Unknown",
    };
    let cordoned = node.at("spec").is_true("unschedulable");
    if cordoned { format!("{state},SchedulingDisabled") } else { state.to_owned() }
}

fn roles(node: &Value) -> String {
    let role = |(key, value): (&'_ str, &'_ str)| match key.strip_prefix("node-role.kubernetes.io/") {
        Some(role) => Some(role.to_owned()),
        None if key == "kubernetes.io/role" => Some(value.to_owned()),
        None => None,
    };
    let roles: BTreeSet<String> = node.at("metadata").entries("labels").filter_map(role).filter(|r| !r.is_empty()).collect();
    roles.into_iter().collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(new: &Value, old: Option<&Value>) -> Vec<String> {
        let mut causes = FieldErrors::default();
        Nodes.validate(new, &mut causes);
        if let Some(old) = old {
            Nodes.validate_update(new, old, &mut causes);
        }
        causes.0.iter().map(|c| c.text()).collect()
    }

    #[test]
    fn pods_to_avoid_are_read() {
        let of = |text: &str| texts(&json!({"metadata": {"annotations": {"scheduler.alpha.kubernetes.io/preferAvoidPods": text}}}), None);
        let at = "metadata.annotations.scheduler.alpha.kubernetes.io/preferAvoidPods[0].PodSignature";
        let cases = [
            ("", vec![]),
            (r#"{"preferAvoidPods": [{"podSignature": {"podController": {"controller": true}}}]}"#, vec![]),
            (
                "{bad",
                vec![
                    "metadata.annotations.AvoidPods: Invalid value: \"scheduler.alpha.kubernetes.io/preferAvoidPods\": invalid character 'b' looking for beginning of object key string".to_owned(),
                ],
            ),
            (r#"{"preferAvoidPods": [{}]}"#, vec![format!("{at}: Required value")]),
            (
                r#"{"preferAvoidPods": [{"podSignature": {"podController": {"controller": false}}}]}"#,
                vec![format!("{at}.PodController.Controller: Invalid value: false: must point to a controller")],
            ),
        ];
        for (text, wanted) in cases {
            assert_eq!(of(text), wanted, "{text}");
        }
    }

    #[test]
    fn pod_networks_come_in_both_shapes() {
        let mut node = json!({"spec": {"podCIDR": "10.244.0.0/24"}, "status": {"capacity": {"cpu": "2"}}});
        Nodes.default(&mut node);
        assert_eq!(node["spec"]["podCIDRs"], json!(["10.244.0.0/24"]));
        assert_eq!(node["status"]["allocatable"], json!({"cpu": "2"}));
        let mut node = json!({"spec": {"podCIDRs": ["10.244.1.0/24"]}});
        Nodes.default(&mut node);
        assert_eq!(node["spec"]["podCIDR"], "10.244.1.0/24");
    }

    #[test]
    fn taints_are_well_formed_and_unique() {
        let taint = |effect: &str| json!({"key": "a", "value": "b", "effect": effect});
        let good = json!({"spec": {"taints": [taint("NoSchedule"), taint("NoExecute")]}});
        assert!(texts(&good, None).is_empty());
        let bad = json!({"spec": {"taints": [taint("NoSchedule"), taint("NoSchedule"), taint(""), taint("x"), {"key": "a b", "effect": "NoSchedule"}]}});
        let found = texts(&bad, None);
        assert_eq!(
            found[0],
            r#"metadata.taints[1]: Duplicate value: {"Key":"a","Value":"b","Effect":"NoSchedule","TimeAdded":null}: taints must be unique by key and effect pair"#
        );
        assert_eq!(found[1], "metadata.taints[2].effect: Required value");
        assert!(
            found[2].starts_with(r#"metadata.taints[3].effect: Unsupported value: "x": supported values: "NoExecute""#),
            "{}",
            found[2]
        );
        assert!(found[3].starts_with("metadata.taints[4].key: Invalid value"), "{}", found[3]);
    }

    #[test]
    fn pod_networks_are_set_once() {
        let node = |network: &str| json!({"spec": {"podCIDRs": [network], "podCIDR": network}});
        assert!(texts(&node("10.0.0.0/24"), Some(&json!({}))).is_empty());
        let found = texts(&node("10.0.1.0/24"), Some(&node("10.0.0.0/24")));
        assert_eq!(found, [r#"spec.podCIDRs: Forbidden: node updates may not change podCIDR except from "" to valid"#]);
        let two = texts(&json!({"spec": {"podCIDRs": ["10.0.0.0/24", "10.0.1.0/24"]}}), None);
        assert_eq!(
            two,
            [r#"spec.podCIDRs: Invalid value: ["10.0.0.0/24","10.0.1.0/24"]: may specify no more than one CIDR for each IP family"#]
        );
    }

    #[test]
    fn status_is_checked() {
        let node = json!({"status": {
            "capacity": {"cpu": "-1", "pods": "1500m", "example.com/gpu": 1, "memory": "1.5"},
            "addresses": [{"type": "InternalIP", "address": "1"}, {"type": "InternalIP", "address": "1"}]}});
        let mut causes = FieldErrors::default();
        Nodes.validate_subresource("status", &node, &node, &mut causes);
        let fields: Vec<String> = causes.0.into_iter().map(|c| c.field).collect();
        assert_eq!(fields, ["status.capacity.cpu", "status.capacity.pods", "status.addresses[1]"]);
    }

    #[test]
    fn cells_fill_the_columns() {
        let node = json!({
            "metadata": {"name": "n", "creationTimestamp": "1970-01-01T00:00:00Z", "labels": {
                "node-role.kubernetes.io/worker": "", "node-role.kubernetes.io/control-plane": "", "kubernetes.io/role": "x"}},
            "spec": {"unschedulable": true},
            "status": {"conditions": [{"type": "Ready", "status": "Unknown"}],
                "addresses": [{"type": "Hostname", "address": "n"}, {"type": "InternalIP", "address": "10.0.0.1"}],
                "nodeInfo": {"kubeletVersion": "v1.36.0", "kernelVersion": "6.1", "architecture": "amd64"}}});
        let cells = Nodes.cells(&node, Timestamp::from_second(60).unwrap());
        let wanted = json!([
            "n",
            "NotReady,SchedulingDisabled",
            "control-plane,worker,x",
            "60s",
            "v1.36.0",
            "10.0.0.1",
            "<none>",
            "<unknown>",
            "6.1 (amd64)",
            "<unknown>"
        ]);
        assert_eq!(Value::Array(cells), wanted);
        assert_eq!(COLUMNS.len(), 10);
        assert_eq!(Nodes.cells(&json!({}), Timestamp::UNIX_EPOCH)[1], "Unknown");
    }
}
