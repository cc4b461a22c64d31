//! An object -> what it takes of which resources, and in which scopes it is, as quotas count it.
//!
//! Admission charges a quota by it, and the quota controller counts anew by it. Source: `pkg/quota/v1/evaluator/core`, apiserver `pkg/quota/v1`.

use std::collections::{BTreeMap, BTreeSet};

use api::{quantity::Quantity, read::Read, time::Timestamp};
use serde_json::Value;

use crate::{
    Overhead, QosClass, SpecView, is_supported_at_pod_level, limits,
    names::{COMPUTE, DEVICE_CLASS, Of, is_extended, is_native, is_of_containers, measured_by},
    requests,
};

const CLAIM_COUNT: &str = "count/persistentvolumeclaims";
const BY_CLASS: &str = ".storageclass.storage.k8s.io/";
const DEVICE_CLAIM_COUNT: &str = "count/resourceclaims.resource.k8s.io";
const OF_DEVICE_CLASS: &str = ".deviceclass.resource.k8s.io/devices";
/// What a request for all devices counts (`AllocationResultsMaxSize`).
const ALL_DEVICES: i64 = 32;

/// A claim's class before there was a field for it.
pub const CLASS_ANNOTATION: &str = "volume.beta.kubernetes.io/storage-class";

/// Amounts by the names that quotas have for resources.
pub type Usage = BTreeMap<String, Quantity>;

/// One requirement of a quota: a scope by itself, or of a selector.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scope {
    pub name: String,
    pub operator: String,
    pub values: Vec<String>,
}

/// What of an object decides which scopes it is in.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub enum Standing {
    Pod {
        terminating: bool,
        best_effort: bool,
        crosses_namespaces: bool,
        /// Empty for none.
        priority_class: Box<str>,
    },
    /// A claim, by the classes of volume attributes that it names; none is empty.
    Claim(BTreeSet<Box<str>>),
    /// One that is only counted: in no scope.
    #[default]
    Counted,
}

/// What an object takes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Measure {
    pub standing: Standing,
    pub usage: Usage,
}

/// What is read of a pod besides its containers; as stated, where empty is absent.
#[derive(Clone, Copy, Debug, Default)]
pub struct PodFacts<'a> {
    pub phase: &'a str,
    pub active_deadline_seconds: Option<i64>,
    pub priority_class: &'a str,
    /// See [`crate::typed::crosses_namespaces`].
    pub crosses_namespaces: bool,
    /// Whether it is past [`expires`].
    pub is_expired: bool,
}

/// How objects of a kind are measured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Evaluator {
    Pods,
    Services,
    Claims,
    /// Claims of devices.
    DeviceClaims,
    /// By their number alone, under these names.
    Count(Vec<String>),
}

impl Scope {
    /// All that a quota's `spec` asks for.
    pub fn all(spec: Option<&Value>) -> Vec<Self> {
        let plain = spec.list("scopes").iter().filter_map(Value::as_str);
        let plain = plain.map(|name| Self { name: name.to_owned(), operator: "Exists".to_owned(), values: Vec::new() });
        plain.chain(spec.at("scopeSelector").list("matchExpressions").iter().map(Self::of)).collect()
    }

    /// Of a `ScopedResourceSelectorRequirement`.
    pub fn of(expression: &Value) -> Self {
        Self {
            name: expression.text("scopeName").to_owned(),
            operator: expression.text("operator").to_owned(),
            values: expression.list("values").iter().filter_map(Value::as_str).map(str::to_owned).collect(),
        }
    }

    /// Whether such objects are in it.
    pub fn has(&self, standing: &Standing) -> bool {
        match standing {
            Standing::Pod { terminating, best_effort, crosses_namespaces, priority_class } => match self.name.as_str() {
                "Terminating" => *terminating,
                "NotTerminating" => !terminating,
                "BestEffort" => *best_effort,
                "NotBestEffort" => !best_effort,
                "PriorityClass" => self.selects(Some(&**priority_class).filter(|class| !class.is_empty()).into_iter()),
                "CrossNamespacePodAffinity" => *crosses_namespaces,
                _ => false,
            },
            Standing::Claim(classes) => self.name == "VolumeAttributesClass" && self.selects(classes.iter().map(|class| &**class)),
            Standing::Counted => false,
        }
    }

    /// Whether one of the names fits, or none where there is none to fit.
    fn selects<'n>(&self, mut names: impl ExactSizeIterator<Item = &'n str>) -> bool {
        let is_named = |name: &str| self.values.iter().any(|value| value == name);
        match self.operator.as_str() {
            "In" => names.any(is_named),
            "NotIn" => names.len() == 0 || names.any(|name| !is_named(name)),
            "Exists" => names.len() > 0,
            "DoesNotExist" => names.len() == 0,
            _ => false,
        }
    }
}

impl Evaluator {
    pub fn of(group: &str, plural: &str) -> Self {
        match (group, plural) {
            ("", "pods") => Self::Pods,
            ("", "services") => Self::Services,
            ("", "persistentvolumeclaims") => Self::Claims,
            ("resource.k8s.io", "resourceclaims") => Self::DeviceClaims,
            ("", plural) => {
                let old = (measured_by(plural) == Some(Of::Objects)).then(|| plural.to_owned());
                Self::Count(std::iter::once(format!("count/{plural}")).chain(old).collect())
            }
            (group, plural) => Self::Count(vec![format!("count/{plural}.{group}")]),
        }
    }

    /// Whether it measures this resource.
    pub fn counts(&self, resource: &str) -> bool {
        match self {
            Self::Pods => {
                let huge = ["hugepages-", "requests.hugepages-"].iter().any(|prefix| resource.starts_with(prefix));
                let own = resource == "count/pods" || measured_by(resource) == Some(Of::Pods);
                own || huge || resource.strip_prefix("requests.").is_some_and(|name| !is_native(resource) || name.starts_with(DEVICE_CLASS))
            }
            Self::Services => resource == "count/services" || measured_by(resource) == Some(Of::Services),
            Self::Claims => {
                let by_class = || resource.split_once(BY_CLASS).is_some_and(|(_, rest)| measured_by(rest) == Some(Of::Claims));
                resource == CLAIM_COUNT || measured_by(resource) == Some(Of::Claims) || by_class()
            }
            Self::DeviceClaims => resource == DEVICE_CLAIM_COUNT || resource.ends_with(OF_DEVICE_CLASS),
            Self::Count(names) => names.iter().any(|name| name == resource),
        }
    }

    /// `Constraints`: which of the limited resources containers do not state. `limits.memory for: a,b; requests.cpu for: a`
    pub fn missing(&self, limited: &[&str], object: &Value) -> Option<String> {
        let spec = object.at("spec").filter(|_| *self == Self::Pods)?;
        let own = spec.at("resources");
        let states = |list: &str| own.object(list).is_some_and(|list| list.keys().any(|name| is_supported_at_pod_level(name)));
        if states("requests") || states("limits") {
            return None;
        }
        let mut missing: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
        for container in spec.list("containers").iter().chain(spec.list("initContainers")) {
            let resources = container.at("resources");
            for name in limited.iter().copied().filter(|name| COMPUTE.contains(name)) {
                let (list, resource) = name.split_once('.').unwrap_or(("requests", name));
                if resources.at(list).at(resource).is_none() {
                    missing.entry(name).or_default().insert(container.text("name"));
                }
            }
        }
        let one =
            |(name, containers): (&str, BTreeSet<&str>)| format!("{name} for: {}", containers.into_iter().collect::<Vec<_>>().join(","));
        let all: Vec<String> = missing.into_iter().map(one).collect();
        (!all.is_empty()).then(|| all.join("; "))
    }

    /// What an object of the kind takes, as JSON.
    pub fn measure(&self, object: &Value) -> Measure {
        match self {
            Self::Pods => pod(object.at("spec"), &facts(object)),
            Self::Services => Measure { usage: service(object), ..Measure::default() },
            Self::Claims => claim(object),
            Self::DeviceClaims => Measure { usage: devices(object), ..Measure::default() },
            Self::Count(names) => {
                let usage = names.iter().map(|name| (name.clone(), Quantity::from_units(1))).collect();
                Measure { usage, ..Measure::default() }
            }
        }
    }
}

/// When a pod that is being deleted stops counting, wherever it hangs (`QuotaV1Pod`).
pub fn expires(deletion: Timestamp, grace_seconds: i64) -> Timestamp {
    api::time::after(deletion, api::time::span(grace_seconds))
}

/// `IsTerminating`
pub fn is_terminating(active_deadline_seconds: Option<i64>) -> bool {
    active_deadline_seconds.is_some_and(|seconds| seconds >= 0)
}

/// `GetPersistentVolumeClaimClass`; a PersistentVolume's class is found so, too.
pub fn class(object: &Value) -> &str {
    match object.at("metadata").at("annotations").at(CLASS_ANNOTATION).and_then(Value::as_str) {
        Some(class) => class,
        None => object.at("spec").text("storageClassName"),
    }
}

fn facts(pod: &Value) -> PodFacts<'_> {
    let spec = pod.at("spec");
    PodFacts {
        phase: pod.at("status").text("phase"),
        active_deadline_seconds: spec.int("activeDeadlineSeconds"),
        priority_class: spec.text("priorityClassName"),
        crosses_namespaces: crosses_namespaces(spec.at("affinity")),
        is_expired: false,
    }
}

fn crosses_namespaces(affinity: Option<&Value>) -> bool {
    let crosses = |term: Option<&Value>| !term.list("namespaces").is_empty() || term.at("namespaceSelector").is_some();
    ["podAffinity", "podAntiAffinity"].into_iter().any(|side| {
        let terms = affinity.at(side);
        terms.list("requiredDuringSchedulingIgnoredDuringExecution").iter().any(|term| crosses(Some(term)))
            || terms.list("preferredDuringSchedulingIgnoredDuringExecution").iter().any(|term| crosses(term.at("podAffinityTerm")))
    })
}

/// `PodUsageFunc`, of a pod however it is kept. What containers' statuses say of a resize under way is not looked at.
pub fn pod<S: SpecView>(spec: Option<&S>, facts: &PodFacts<'_>) -> Measure {
    let one = Quantity::from_units(1);
    let mut usage = Usage::from([("count/pods".to_owned(), one)]);
    let standing = Standing::Pod {
        terminating: is_terminating(facts.active_deadline_seconds),
        best_effort: spec.is_none_or(|spec| QosClass::of(spec) == QosClass::BestEffort),
        crosses_namespaces: facts.crosses_namespaces,
        priority_class: facts.priority_class.into(),
    };
    let Some(spec) = spec.filter(|_| !facts.is_expired && !matches!(facts.phase, "Failed" | "Succeeded")) else {
        return Measure { standing, usage };
    };
    usage.insert("pods".to_owned(), one);
    for (name, amount) in requests(spec, Overhead::Included, &[]).iter() {
        let plain = is_of_containers(name);
        if plain {
            usage.insert(name.to_owned(), amount);
        }
        if plain || is_extended(name) || name.starts_with(DEVICE_CLASS) {
            usage.insert(format!("requests.{name}"), amount);
        }
    }
    for (name, amount) in limits(spec, Overhead::Included).iter() {
        if matches!(name, "cpu" | "memory" | "ephemeral-storage") {
            usage.insert(format!("limits.{name}"), amount);
        }
    }
    Measure { standing, usage }
}

fn service(service: &Value) -> Usage {
    let spec = service.at("spec");
    let ports = spec.list("ports");
    let assigned = ports.iter().filter(|port| port.int("nodePort").is_some_and(|port| port != 0)).count();
    let (node_ports, balancers) = match spec.text("type") {
        "NodePort" => (ports.len(), 0),
        "LoadBalancer" if spec.flag("allocateLoadBalancerNodePorts") == Some(false) => (assigned, 1),
        "LoadBalancer" => (ports.len(), 1),
        _ => (0, 0),
    };
    let counts = [("count/services", 1), ("services", 1), ("services.nodeports", node_ports), ("services.loadbalancers", balancers)];
    counts.into_iter().map(|(name, count)| (name.to_owned(), Quantity::from_units(i64::try_from(count).unwrap_or(i64::MAX)))).collect()
}

fn claim(claim: &Value) -> Measure {
    let one = Quantity::from_units(1);
    let mut usage = Usage::from([("persistentvolumeclaims".to_owned(), one), (CLAIM_COUNT.to_owned(), one)]);
    let (spec, status, class) = (claim.at("spec"), claim.at("status"), class(claim));
    let storage = |list: Option<&Value>| list.at("storage").and_then(quantity).map(Quantity::whole);
    let (asked, allocated) = (storage(spec.at("resources").at("requests")), storage(status.at("allocatedResources")));
    let storage = asked.map(|asked| allocated.filter(|allocated| *allocated > asked).unwrap_or(asked));
    if !class.is_empty() {
        usage.insert(format!("{class}{BY_CLASS}persistentvolumeclaims"), one);
    }
    if let Some(storage) = storage {
        usage.insert("requests.storage".to_owned(), storage);
        if !class.is_empty() {
            usage.insert(format!("{class}{BY_CLASS}requests.storage"), storage);
        }
    }
    let classes = [
        spec.text("volumeAttributesClassName"),
        status.text("currentVolumeAttributesClassName"),
        status.at("modifyVolumeStatus").text("targetVolumeAttributesClassName"),
    ];
    let classes = classes.into_iter().filter(|name| !name.is_empty()).map(Into::into).collect();
    Measure { standing: Standing::Claim(classes), usage }
}

/// Of what is asked for in turn, the most of each class counts.
fn devices(claim: &Value) -> Usage {
    let mut usage = Usage::from([(DEVICE_CLAIM_COUNT.to_owned(), Quantity::from_units(1))]);
    for request in claim.at("spec").at("devices").list("requests") {
        let either = request.list("firstAvailable");
        let all = if either.is_empty() { request.at("exactly").into_iter().collect() } else { either.iter().collect::<Vec<_>>() };
        let mut most: BTreeMap<&str, i64> = BTreeMap::new();
        for asked in all {
            let count = match asked.text("allocationMode") {
                "ExactCount" => asked.int("count").unwrap_or(0),
                "All" => ALL_DEVICES,
                _ => 0,
            };
            let known = most.entry(asked.text("deviceClassName")).or_default();
            *known = count.max(*known);
        }
        for (class, count) in most {
            let sum = usage.entry(format!("{class}{OF_DEVICE_CLASS}")).or_insert(Quantity::from_units(0));
            *sum = sum.plus(Quantity::from_units(count));
        }
    }
    usage
}

/// Quantities may be written as numbers.
fn quantity(value: &Value) -> Option<Quantity> {
    match value {
        Value::String(text) => Quantity::parse(text).ok(),
        Value::Number(number) => Quantity::parse(&number.to_string()).ok(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use api::k8s::api::core::v1::{Affinity, PodSpec};
    use serde_json::json;

    use super::*;

    fn told(measure: &Measure) -> Vec<String> {
        measure.usage.iter().map(|(name, amount)| format!("{name}={amount}")).collect()
    }

    #[test]
    fn pods_are_measured() {
        let resources = json!({"requests": {"cpu": "500m", "example.com/gpu": "1", "deviceclass.resource.kubernetes.io/x": "2"},
            "limits": {"memory": "1Gi", "example.com/gpu": "1"}});
        let mut pod = json!({"spec": {"containers": [{"name": "c", "resources": resources}]}});
        let wanted = [
            "count/pods=1",
            "cpu=500m",
            "limits.memory=1Gi",
            "pods=1",
            "requests.cpu=500m",
            "requests.deviceclass.resource.kubernetes.io/x=2",
            "requests.example.com/gpu=1",
        ];
        let measure = Evaluator::Pods.measure(&pod);
        assert_eq!(told(&measure), wanted);
        assert!(measure.usage.keys().all(|name| Evaluator::Pods.counts(name)));
        let missing = Evaluator::Pods.missing(&["limits.memory", "pods", "requests.cpu", "requests.memory"], &pod);
        assert_eq!(missing.as_deref(), Some("requests.memory for: c"));
        assert_eq!(Evaluator::Pods.missing(&["pods"], &pod), None);
        // However it is kept.
        let typed: PodSpec = serde_json::from_value(pod["spec"].clone()).unwrap();
        assert_eq!(super::pod(Some(&typed), &PodFacts::default()), measure);
        let expired = PodFacts { is_expired: true, ..PodFacts::default() };
        assert_eq!(told(&super::pod(Some(&typed), &expired)), ["count/pods=1"]);
        pod["status"] = json!({"phase": "Succeeded"});
        assert_eq!(told(&Evaluator::Pods.measure(&pod)), ["count/pods=1"]);
    }

    #[test]
    fn scopes_choose_pods() {
        let scope = |name: &str| Scope { name: name.into(), operator: "Exists".into(), values: Vec::new() };
        let pod = json!({"spec": {"activeDeadlineSeconds": 1, "containers": [{}], "priorityClassName": "high",
            "affinity": {"podAntiAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [{"podAffinityTerm": {"namespaces": ["x"]}}]}}}});
        let cases = [
            ("Terminating", true),
            ("NotTerminating", false),
            ("BestEffort", true),
            ("NotBestEffort", false),
            ("PriorityClass", true),
            ("CrossNamespacePodAffinity", true),
            ("VolumeAttributesClass", false),
        ];
        let (of_pod, of_service) = (Evaluator::Pods.measure(&pod).standing, Evaluator::Services.measure(&pod).standing);
        for (name, wanted) in cases {
            assert_eq!(scope(name).has(&of_pod), wanted, "{name}");
            assert!(!scope(name).has(&of_service), "{name}");
        }
        for (operator, values, wanted) in
            [("In", vec!["high"], true), ("In", vec!["low"], false), ("NotIn", vec!["high"], false), ("DoesNotExist", vec![], false)]
        {
            let expression = json!({"scopeName": "PriorityClass", "operator": operator, "values": values});
            assert_eq!(Scope::of(&expression).has(&of_pod), wanted, "{expression}");
        }
    }

    #[test]
    fn selectors_choose_by_names() {
        let scope = |operator: &str| Scope { name: "VolumeAttributesClass".into(), operator: operator.into(), values: vec!["a".into()] };
        let cases = [
            ("In", &["a"][..], true),
            ("In", &["b"], false),
            ("In", &[], false),
            ("NotIn", &["b"], true),
            ("NotIn", &["a"], false),
            ("NotIn", &["a", "b"], true),
            ("NotIn", &[], true),
            ("Exists", &[], false),
            ("DoesNotExist", &[], true),
        ];
        for (operator, names, wanted) in cases {
            let standing = Standing::Claim(names.iter().map(|name| Box::from(*name)).collect());
            assert_eq!(scope(operator).has(&standing), wanted, "{operator} {names:?}");
        }
    }

    #[test]
    fn affinity_is_read_in_both_representations() {
        let term = |term: Value| json!({"podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [term]}});
        let rows = [
            (json!({}), false),
            (term(json!({"topologyKey": "k"})), false),
            (term(json!({"topologyKey": "k", "namespaceSelector": {}})), true),
            (term(json!({"topologyKey": "k", "namespaces": ["x"]})), true),
        ];
        for (affinity, wanted) in rows {
            let typed: Affinity = serde_json::from_value(affinity.clone()).unwrap();
            assert_eq!((crosses_namespaces(Some(&affinity)), crate::typed::crosses_namespaces(&typed)), (wanted, wanted), "{affinity}");
        }
    }

    #[test]
    fn services_and_claims_are_measured() {
        let service = json!({"spec": {"type": "LoadBalancer", "ports": [{"nodePort": 30000}, {}], "allocateLoadBalancerNodePorts": false}});
        assert_eq!(
            told(&Evaluator::Services.measure(&service)),
            ["count/services=1", "services=1", "services.loadbalancers=1", "services.nodeports=1"]
        );
        let mut claim = json!({"spec": {"storageClassName": "gold", "resources": {"requests": {"storage": "2Gi"}}}});
        let wanted = [
            "count/persistentvolumeclaims=1",
            "gold.storageclass.storage.k8s.io/persistentvolumeclaims=1",
            "gold.storageclass.storage.k8s.io/requests.storage=2Gi",
            "persistentvolumeclaims=1",
            "requests.storage=2Gi",
        ];
        assert_eq!(told(&Evaluator::Claims.measure(&claim)), wanted);
        assert!(wanted.iter().all(|entry| Evaluator::Claims.counts(entry.split('=').next().unwrap())));
        claim["status"] = json!({"allocatedResources": {"storage": "3Gi"}, "currentVolumeAttributesClassName": "fast"});
        let measure = Evaluator::Claims.measure(&claim);
        assert!(told(&measure).contains(&"requests.storage=3Gi".to_owned()));
        let fast = json!({"scopeName": "VolumeAttributesClass", "operator": "In", "values": ["fast"]});
        assert!(Scope::of(&fast).has(&measure.standing));
        claim = json!({"spec": {"resources": {"requests": {"storage": "1500m"}}}});
        assert!(told(&Evaluator::Claims.measure(&claim)).contains(&"requests.storage=2".to_owned()), "whole bytes");
    }

    #[test]
    fn devices_are_counted_at_their_most() {
        let one = |class: &str, mode: &str, count: i64| json!({"deviceClassName": class, "allocationMode": mode, "count": count});
        let requests = json!([
            {"name": "a", "exactly": one("gpu", "ExactCount", 2)},
            {"name": "b", "firstAvailable": [one("gpu", "ExactCount", 1), one("gpu", "ExactCount", 3), one("nic", "All", 0)]},
            {"name": "c", "exactly": one("gpu", "Later", 9)},
        ]);
        let measure = Evaluator::DeviceClaims.measure(&json!({"spec": {"devices": {"requests": requests}}}));
        let wanted = [
            "count/resourceclaims.resource.k8s.io=1",
            "gpu.deviceclass.resource.k8s.io/devices=5",
            "nic.deviceclass.resource.k8s.io/devices=32",
        ];
        assert_eq!(told(&measure), wanted);
        assert!(measure.usage.keys().all(|name| Evaluator::of("resource.k8s.io", "resourceclaims").counts(name)));
    }

    #[test]
    fn objects_are_counted_by_name() {
        assert_eq!(Evaluator::of("", "secrets"), Evaluator::Count(vec!["count/secrets".into(), "secrets".into()]));
        assert_eq!(Evaluator::of("", "endpoints"), Evaluator::Count(vec!["count/endpoints".into()]));
        assert_eq!(Evaluator::of("apps", "deployments"), Evaluator::Count(vec!["count/deployments.apps".into()]));
    }
}
