//! An object -> what it takes of which resources, as quotas count it. Source: `pkg/quota/v1/evaluator/core`.

use std::collections::{BTreeMap, BTreeSet};

use api::quantity::Quantity;
use apiserver::{
    identity::Operation,
    kind::{Ctx, Kind},
};
use podspec::{Overhead, QosClass};
use serde_json::Value;

use super::{Amounts, Scope};
use crate::{
    common::{
        Read,
        resource_names::{COMPUTE, Of, is_extended, is_native, is_of_containers, measured_by},
        resources::quantity,
    },
    persistentvolumeclaim,
};

const CLAIM_COUNT: &str = "count/persistentvolumeclaims";
const BY_CLASS: &str = ".storageclass.storage.k8s.io/";

/// How objects of a kind are measured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Evaluator {
    Pods,
    Services,
    Claims,
    /// By their number alone, under these names.
    Count(Vec<String>),
}

impl Evaluator {
    pub fn of(kind: &Kind) -> Self {
        match (kind.group.as_ref(), kind.plural.as_ref()) {
            ("", "pods") => Self::Pods,
            ("", "services") => Self::Services,
            ("", "persistentvolumeclaims") => Self::Claims,
            ("", plural) => {
                let old = (measured_by(plural) == Some(Of::Objects)).then(|| plural.to_owned());
                Self::Count(std::iter::once(format!("count/{plural}")).chain(old).collect())
            }
            (group, plural) => Self::Count(vec![format!("count/{plural}.{group}")]),
        }
    }

    /// Whether the write changes what is taken.
    pub fn handles(&self, ctx: &Ctx<'_>, object: &Value, old: Option<&Value>) -> bool {
        let (creates, updates) = (ctx.operation == Operation::Create, ctx.operation == Operation::Update);
        match (self, ctx.subresource) {
            (Self::Pods, "") => creates || updates && old.is_some_and(|old| is_terminating(old) != is_terminating(object)),
            (Self::Pods, "resize") => updates,
            (Self::Services | Self::Claims, "") => creates || updates,
            (Self::Count(_), "") => creates,
            _ => false,
        }
    }

    /// Whether it measures this resource.
    pub fn counts(&self, resource: &str) -> bool {
        match self {
            Self::Pods => {
                let huge = ["hugepages-", "requests.hugepages-"].iter().any(|prefix| resource.starts_with(prefix));
                let own = resource == "count/pods" || measured_by(resource) == Some(Of::Pods);
                own || huge || resource.starts_with("requests.") && !is_native(resource)
            }
            Self::Services => resource == "count/services" || measured_by(resource) == Some(Of::Services),
            Self::Claims => {
                let by_class = || resource.split_once(BY_CLASS).is_some_and(|(_, rest)| measured_by(rest) == Some(Of::Claims));
                resource == CLAIM_COUNT || measured_by(resource) == Some(Of::Claims) || by_class()
            }
            Self::Count(names) => names.iter().any(|name| name == resource),
        }
    }

    /// Whether the object is in the scope; those that are only counted are in none.
    pub fn is_in(&self, scope: &Scope, object: &Value) -> bool {
        let spec = object.at("spec");
        match (self, scope.name.as_str()) {
            (Self::Pods, "Terminating") => is_terminating(object),
            (Self::Pods, "NotTerminating") => !is_terminating(object),
            (Self::Pods, "BestEffort") => is_best_effort(object),
            (Self::Pods, "NotBestEffort") => !is_best_effort(object),
            (Self::Pods, "PriorityClass") => scope.selects(&named(&[spec.text("priorityClassName")])),
            (Self::Pods, "CrossNamespacePodAffinity") => crosses_namespaces(spec.at("affinity")),
            (Self::Claims, "VolumeAttributesClass") => {
                let status = object.at("status");
                let target = status.at("modifyVolumeStatus").text("targetVolumeAttributesClassName");
                let current = status.text("currentVolumeAttributesClassName");
                scope.selects(&named(&[spec.text("volumeAttributesClassName"), current, target]))
            }
            _ => false,
        }
    }

    /// `Constraints`: which of the limited resources containers do not state. `limits.memory for: a,b; requests.cpu for: a`
    pub fn missing(&self, limited: &[&str], object: &Value) -> Option<String> {
        let spec = object.at("spec").filter(|_| *self == Self::Pods)?;
        let own = spec.at("resources");
        let states = |list: &str| own.object(list).is_some_and(|list| list.keys().any(|name| podspec::is_supported_at_pod_level(name)));
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

    pub fn usage(&self, object: &Value) -> Amounts {
        match self {
            Self::Pods => pod(object),
            Self::Services => service(object),
            Self::Claims => claim(object),
            Self::Count(names) => names.iter().map(|name| (name.clone(), Quantity::from_units(1))).collect(),
        }
    }
}

/// Those of the names that are set.
fn named<'v>(names: &[&'v str]) -> Vec<&'v str> {
    names.iter().copied().filter(|name| !name.is_empty()).collect()
}

fn is_terminating(pod: &Value) -> bool {
    pod.at("spec").int("activeDeadlineSeconds").is_some_and(|seconds| seconds >= 0)
}

fn is_best_effort(pod: &Value) -> bool {
    QosClass::of(pod.get("spec").unwrap_or(&Value::Null)) == QosClass::BestEffort
}

fn crosses_namespaces(affinity: Option<&Value>) -> bool {
    let crosses = |term: Option<&Value>| !term.list("namespaces").is_empty() || term.at("namespaceSelector").is_some();
    ["podAffinity", "podAntiAffinity"].into_iter().any(|side| {
        let terms = affinity.at(side);
        terms.list("requiredDuringSchedulingIgnoredDuringExecution").iter().any(|term| crosses(Some(term)))
            || terms.list("preferredDuringSchedulingIgnoredDuringExecution").iter().any(|term| crosses(term.at("podAffinityTerm")))
    })
}

/// `PodUsageFunc`
fn pod(pod: &Value) -> Amounts {
    let one = Quantity::from_units(1);
    let mut out = Amounts::from([("count/pods".to_owned(), one)]);
    let Some(spec) = pod.at("spec").filter(|_| !matches!(pod.at("status").text("phase"), "Failed" | "Succeeded")) else { return out };
    out.insert("pods".to_owned(), one);
    for (name, amount) in podspec::requests(spec, Overhead::Included, &[]).iter() {
        let plain = is_of_containers(name);
        if plain {
            out.insert(name.to_owned(), amount);
        }
        if plain || is_extended(name) {
            out.insert(format!("requests.{name}"), amount);
        }
    }
    for (name, amount) in podspec::limits(spec, Overhead::Included).iter() {
        if matches!(name, "cpu" | "memory" | "ephemeral-storage") {
            out.insert(format!("limits.{name}"), amount);
        }
    }
    out
}

fn service(service: &Value) -> Amounts {
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

fn claim(claim: &Value) -> Amounts {
    let one = Quantity::from_units(1);
    let mut out = Amounts::from([("persistentvolumeclaims".to_owned(), one), (CLAIM_COUNT.to_owned(), one)]);
    let class = persistentvolumeclaim::class(claim);
    let asked = claim.at("spec").at("resources").at("requests").at("storage").and_then(quantity);
    let allocated = claim.at("status").at("allocatedResources").at("storage").and_then(quantity);
    let storage = asked.map(|asked| allocated.filter(|allocated| *allocated > asked).unwrap_or(asked));
    if !class.is_empty() {
        out.insert(format!("{class}{BY_CLASS}persistentvolumeclaims"), one);
    }
    if let Some(storage) = storage {
        out.insert("requests.storage".to_owned(), storage);
        if !class.is_empty() {
            out.insert(format!("{class}{BY_CLASS}requests.storage"), storage);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn told(amounts: &Amounts) -> Vec<String> {
        amounts.iter().map(|(name, amount)| format!("{name}={amount}")).collect()
    }

    #[test]
    fn pods_are_measured() {
        let resources = json!({"requests": {"cpu": "500m", "example.com/gpu": "1"}, "limits": {"memory": "1Gi", "example.com/gpu": "1"}});
        let pod = json!({"spec": {"containers": [{"name": "c", "resources": resources}]}});
        let wanted = ["count/pods=1", "cpu=500m", "limits.memory=1Gi", "pods=1", "requests.cpu=500m", "requests.example.com/gpu=1"];
        assert_eq!(told(&Evaluator::Pods.usage(&pod)), wanted);
        let missing = Evaluator::Pods.missing(&["limits.memory", "pods", "requests.cpu", "requests.memory"], &pod);
        assert_eq!(missing.as_deref(), Some("requests.memory for: c"));
        assert_eq!(Evaluator::Pods.missing(&["pods"], &pod), None);
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
        for (name, wanted) in cases {
            assert_eq!(Evaluator::Pods.is_in(&scope(name), &pod), wanted, "{name}");
            assert!(!Evaluator::Services.is_in(&scope(name), &pod), "{name}");
        }
    }

    #[test]
    fn services_and_claims_are_measured() {
        let service = json!({"spec": {"type": "LoadBalancer", "ports": [{"nodePort": 30000}, {}], "allocateLoadBalancerNodePorts": false}});
        assert_eq!(
            told(&Evaluator::Services.usage(&service)),
            ["count/services=1", "services=1", "services.loadbalancers=1", "services.nodeports=1"]
        );
        let claim = json!({"spec": {"storageClassName": "gold", "resources": {"requests": {"storage": "2Gi"}}}});
        let wanted = [
            "count/persistentvolumeclaims=1",
            "gold.storageclass.storage.k8s.io/persistentvolumeclaims=1",
            "gold.storageclass.storage.k8s.io/requests.storage=2Gi",
            "persistentvolumeclaims=1",
            "requests.storage=2Gi",
        ];
        assert_eq!(told(&Evaluator::Claims.usage(&claim)), wanted);
        assert!(wanted.iter().all(|entry| Evaluator::Claims.counts(entry.split('=').next().unwrap())));
    }
}
