//! A pod or pod template -> warnings: what is allowed and most likely not meant. Source: `pkg/api/pod/warnings.go`.

use std::collections::{HashMap, HashSet};

use serde_json::Value;

use crate::{
    common::{Path, Read, resources::quantity},
    persistentvolumeclaim,
};

/// More warnings than these do not fit into the headers that carry them, however short they are.
const SHOWN_MAX: usize = 4096;

const NODE_LABELS: &[(&str, &str)] = &[
    ("beta.kubernetes.io/arch", "deprecated since v1.14; use \"kubernetes.io/arch\" instead"),
    ("beta.kubernetes.io/os", "deprecated since v1.14; use \"kubernetes.io/os\" instead"),
    ("failure-domain.beta.kubernetes.io/region", "deprecated since v1.17; use \"topology.kubernetes.io/region\" instead"),
    ("failure-domain.beta.kubernetes.io/zone", "deprecated since v1.17; use \"topology.kubernetes.io/zone\" instead"),
    ("beta.kubernetes.io/instance-type", "deprecated since v1.17; use \"node.kubernetes.io/instance-type\" instead"),
    ("app.kubernetes.io/created-by", "deprecated since v1.9"),
    ("scheduler.alpha.kubernetes.io/preferAvoidPods", "deprecated since v1.22; use Taints and Tolerations instead"),
    ("node-role.kubernetes.io/master", "use \"node-role.kubernetes.io/control-plane\" instead"),
];

const ANNOTATIONS: &[(&str, &str)] = &[
    ("scheduler.alpha.kubernetes.io/critical-pod", "non-functional in v1.16+; use the \"priorityClassName\" field instead"),
    ("security.alpha.kubernetes.io/sysctls", "non-functional in v1.11+; use the \"sysctls\" field instead"),
    ("security.alpha.kubernetes.io/unsafe-sysctls", "non-functional in v1.11+; use the \"sysctls\" field instead"),
];

const VOLUMES: &[(&str, &str)] = &[
    ("photonPersistentDisk", "deprecated in v1.11, non-functional in v1.16+"),
    ("gitRepo", "deprecated in v1.11, and disabled by default in v1.33+"),
    ("scaleIO", "deprecated in v1.16, non-functional in v1.22+"),
    ("flocker", "deprecated in v1.22, non-functional in v1.25+"),
    ("storageos", "deprecated in v1.22, non-functional in v1.25+"),
    ("quobyte", "deprecated in v1.22, non-functional in v1.25+"),
    ("glusterfs", "deprecated in v1.25, non-functional in v1.26+"),
    ("cephfs", "deprecated in v1.28, non-functional in v1.31+"),
    ("rbd", "deprecated in v1.28, non-functional in v1.31+"),
];

const REQUIRED: &str = "requiredDuringSchedulingIgnoredDuringExecution";
const PREFERRED: &str = "preferredDuringSchedulingIgnoredDuringExecution";

/// `path` is that of the pod (`Path::ROOT`) or of the template.
pub fn of(pod: &Value, path: Path<'_>) -> Vec<String> {
    let mut out = Vec::new();
    let (spec, spec_path) = (pod.at("spec"), path.field("spec"));
    let metadata = path.field("metadata");
    let annotations = metadata.field("annotations");
    for (key, text) in ANNOTATIONS.iter().filter(|(key, _)| pod.at("metadata").at("annotations").at(key).is_some()) {
        out.push(format!("{}: {text}", annotations.key(key)));
    }
    placement(spec, spec_path, &mut out);
    volumes(spec, spec_path.field("volumes"), &mut out);
    duplicates(spec, spec_path, &mut out);
    for list in ["initContainers", "containers"] {
        let at = spec_path.field(list);
        for (i, container) in spec.list(list).iter().enumerate() {
            fractions(container, at.index(i), &mut out);
            hidden_variables(container, at.index(i), &mut out);
        }
    }
    ports(spec, spec_path, &mut out);
    if spec.int("terminationGracePeriodSeconds").is_some_and(|s| s < 0) {
        let at = spec_path.field("terminationGracePeriodSeconds");
        out.push(format!("{at}: must be >= 0; negative values are invalid and will be treated as 1"));
    }
    affinity(spec, spec_path.field("affinity"), &mut out);
    out
}

/// `GetNodeLabelDeprecatedMessage`
pub fn deprecated_node_label(key: &str) -> Option<&'static str> {
    NODE_LABELS.iter().find(|(known, _)| *known == key).map(|(_, text)| *text)
}

/// `GetWarningsForNodeSelectorTerm` of each term: labels of old.
pub fn node_selector(selector: &Value, path: Path<'_>) -> Vec<String> {
    let list = path.field("nodeSelectorTerms");
    let told = |(i, term): (usize, &Value)| {
        let keys = term.list("matchExpressions").iter().map(|e| e.text("key")).enumerate();
        let old = keys.filter_map(|(j, key)| Some((j, key, deprecated_node_label(key)?)));
        old.map(|(j, key, text)| format!("{}: {key} is {text}", list.index(i).field("matchExpressions").index(j).field("key")))
            .collect::<Vec<_>>()
    };
    selector.list("nodeSelectorTerms").iter().enumerate().flat_map(told).collect()
}

fn placement(spec: Option<&Value>, path: Path<'_>, out: &mut Vec<String>) {
    for (key, _) in spec.entries("nodeSelector") {
        if let Some(text) = deprecated_node_label(key) {
            out.push(format!("{}: {text}", path.field("nodeSelector").key(key)));
        }
    }
    let list = path.field("topologySpreadConstraints");
    for (i, constraint) in spec.list("topologySpreadConstraints").iter().enumerate() {
        let key = constraint.text("topologyKey");
        if let Some(text) = deprecated_node_label(key) {
            out.push(format!("{}: {key} is {text}", list.index(i).field("topologyKey")));
        }
        null_selector(constraint, list.index(i), out);
    }
}

fn affinity(spec: Option<&Value>, path: Path<'_>, out: &mut Vec<String>) {
    for side in ["podAffinity", "podAntiAffinity"] {
        let (terms, at) = (spec.at("affinity").at(side), path.field(side));
        let list = at.field(REQUIRED);
        for (i, term) in terms.list(REQUIRED).iter().enumerate() {
            null_selector(term, list.index(i), out);
        }
        let list = at.field(PREFERRED);
        for (i, term) in terms.list(PREFERRED).iter().enumerate() {
            let inner = term.get("podAffinityTerm").unwrap_or(&Value::Null);
            null_selector(inner, list.index(i).field("podAffinityTerm"), out);
        }
    }
}

fn null_selector(term: &Value, path: Path<'_>, out: &mut Vec<String>) {
    if term.at("labelSelector").is_none() {
        out.push(format!("{}: a null labelSelector results in matching no pod", path.field("labelSelector")));
    }
}

fn volumes(spec: Option<&Value>, path: Path<'_>, out: &mut Vec<String>) {
    for (i, volume) in spec.list("volumes").iter().enumerate() {
        for (name, text) in VOLUMES.iter().filter(|(name, _)| volume.at(name).is_some()) {
            out.push(format!("{}: {text}", path.index(i).field(name)));
        }
        let template = path.index(i);
        let template = template.field("ephemeral");
        let template = template.field("volumeClaimTemplate");
        let spec = volume.at("ephemeral").at("volumeClaimTemplate").at("spec");
        out.extend(persistentvolumeclaim::spec_warnings(spec, template.field("spec")));
    }
}

fn duplicates(spec: Option<&Value>, path: Path<'_>, out: &mut Vec<String>) {
    for (list, field) in [("hostAliases", "ip"), ("imagePullSecrets", "name")] {
        let (at, mut seen) = (path.field(list), HashSet::new());
        for (i, item) in spec.list(list).iter().enumerate().filter(|(_, item)| !seen.insert(item.text(field))) {
            out.push(format!("{}: duplicate {field} {:?}", at.index(i).field(field), item.text(field)));
        }
    }
    let at = path.field("imagePullSecrets");
    for (i, _) in spec.list("imagePullSecrets").iter().enumerate().filter(|(_, s)| s.text("name").is_empty()) {
        out.push(format!("{}: invalid empty name \"\"", at.index(i).field("name")));
    }
}

/// Bytes do not come in parts.
fn fractions(container: &Value, path: Path<'_>, out: &mut Vec<String>) {
    let at = path.field("resources");
    for resource in ["memory", "ephemeral-storage"] {
        for list in ["limits", "requests"] {
            let value = container.at("resources").at(list).at(resource).and_then(quantity);
            if let Some(value) = value.filter(|v| v.milli() % 1000 != 0) {
                let place = at.field(list);
                out.push(format!("{}: fractional byte value {:?} is invalid, must be an integer", place.key(resource), value.to_string()));
            }
        }
    }
}

/// A variable set twice, the second not built on the first.
fn hidden_variables(container: &Value, path: Path<'_>, out: &mut Vec<String>) {
    let (list, mut seen) = (path.field("env"), HashSet::new());
    for (i, variable) in container.list("env").iter().enumerate() {
        let (name, value) = (variable.text("name"), variable.text("value"));
        let reference = format!("$({name})");
        let built_on = variable.at("valueFrom").is_none() && value != reference && value.contains(&reference);
        if !seen.insert(name) && !built_on {
            out.push(format!("{}: hides previous definition of {name:?}, which may be dropped when using apply", list.index(i)));
        }
    }
}

fn ports(spec: Option<&Value>, path: Path<'_>, out: &mut Vec<String>) {
    let mut numbers: HashMap<(i64, &str), Known<'_>> = HashMap::new();
    let mut names: HashMap<&str, String> = HashMap::new();
    let mut named = Vec::new();
    for list in ["initContainers", "containers"] {
        for (i, container) in spec.list(list).iter().enumerate() {
            for (j, port) in container.list("ports").iter().enumerate() {
                let at = format!("{}.ports[{j}]", path.field(list).index(i));
                let others = numbers.entry((port.int("containerPort").unwrap_or(0), port.text("protocol"))).or_default();
                let clashing = others.near(port).into_iter().filter_map(|(at, other)| Some((at, clash(port, other)?)));
                out.extend(clashing.map(|(other_at, how)| format!("{at}: {how} with {other_at}")));
                others.add(at.clone(), port);
                if out.len() >= SHOWN_MAX {
                    return;
                }
                match names.get(port.text("name")) {
                    Some(first) => named.push(duplicate_name(&at, port.text("name"), first)),
                    None if !port.text("name").is_empty() => drop(names.insert(port.text("name"), at)),
                    None => {}
                }
            }
        }
    }
    out.extend(named);
}

/// Ports of one number and protocol, found by what may get into each other's way: each may clash with all others.
#[derive(Default)]
struct Known<'v> {
    all: Vec<(String, &'v Value)>,
    /// By port of the host.
    hosts: HashMap<i64, Vec<usize>>,
    /// By port and address of the host.
    places: HashMap<(i64, &'v str), Vec<usize>>,
}

impl<'v> Known<'v> {
    /// Those that may clash with `port`, in the order they were added; not more than can be told.
    fn near(&self, port: &Value) -> Vec<&(String, &'v Value)> {
        let (host, ip) = (port.int("hostPort").unwrap_or(0), port.text("hostIP"));
        if host == 0 {
            return self.all.iter().take(SHOWN_MAX).collect();
        }
        // Where one of both has no address, the other's does not matter.
        let near = match ip {
            "" => [self.hosts.get(&0), self.hosts.get(&host), None],
            ip => [self.hosts.get(&0), self.places.get(&(host, ip)), self.places.get(&(host, ""))],
        };
        let mut found: Vec<usize> = near.into_iter().flatten().flat_map(|list| list.iter().copied().take(SHOWN_MAX)).collect();
        found.sort_unstable();
        found.iter().filter_map(|i| self.all.get(*i)).collect()
    }

    fn add(&mut self, at: String, port: &'v Value) {
        let host = port.int("hostPort").unwrap_or(0);
        self.hosts.entry(host).or_default().push(self.all.len());
        self.places.entry((host, port.text("hostIP"))).or_default().push(self.all.len());
        self.all.push((at, port));
    }
}

fn duplicate_name(at: &str, name: &str, first: &str) -> String {
    format!("{at}: duplicate port name {name:?} with {first}, services and probes that select ports by name will use {first}")
}

/// How two definitions of one port and protocol get into each other's way.
fn clash(port: &Value, other: &Value) -> Option<&'static str> {
    let host = |p: &Value| p.int("hostPort").unwrap_or(0);
    let (ip, other_ip) = (port.text("hostIP"), other.text("hostIP"));
    if ip == other_ip && host(port) == host(other) {
        return Some("duplicate port definition");
    }
    if host(port) == 0 || host(other) == 0 {
        return Some("overlapping port definition");
    }
    let ambiguous = host(port) == host(other) && ip.is_empty() != other_ip.is_empty();
    ambiguous.then_some("dangerously ambiguous port definition")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn each_oddity_is_warned_about_once() {
        let cases = [
            (json!({"containers": [{"env": [{"name": "A", "value": "1"}, {"name": "A", "value": "$(A)2"}]}]}), ""),
            (
                json!({"containers": [{"env": [{"name": "A", "value": "1"}, {"name": "A", "value": "2"}]}]}),
                "spec.containers[0].env[1]: hides previous definition of \"A\", which may be dropped when using apply",
            ),
            (
                json!({"containers": [{"ports": [{"containerPort": 1, "protocol": "TCP"}]}, {"ports": [{"containerPort": 1, "protocol": "TCP"}]}]}),
                "spec.containers[1].ports[0]: duplicate port definition with spec.containers[0].ports[0]",
            ),
            (
                json!({"containers": [{"ports": [{"containerPort": 1, "name": "a"}, {"containerPort": 2, "name": "a"}]}]}),
                "spec.containers[0].ports[1]: duplicate port name \"a\" with spec.containers[0].ports[0], services and probes that select ports by name will use spec.containers[0].ports[0]",
            ),
            (
                json!({"containers": [{"resources": {"limits": {"memory": "100m"}}}]}),
                "spec.containers[0].resources.limits[memory]: fractional byte value \"100m\" is invalid, must be an integer",
            ),
            (
                json!({"nodeSelector": {"beta.kubernetes.io/os": "linux"}}),
                "spec.nodeSelector[beta.kubernetes.io/os]: deprecated since v1.14; use \"kubernetes.io/os\" instead",
            ),
            (json!({"imagePullSecrets": [{"name": ""}]}), "spec.imagePullSecrets[0].name: invalid empty name \"\""),
            (
                json!({"topologySpreadConstraints": [{}]}),
                "spec.topologySpreadConstraints[0].labelSelector: a null labelSelector results in matching no pod",
            ),
        ];
        for (spec, wanted) in cases {
            let found = of(&json!({"spec": spec}), Path::ROOT);
            let wanted: Vec<&str> = [wanted].into_iter().filter(|w| !w.is_empty()).collect();
            assert_eq!(found, wanted);
        }
    }

    #[test]
    fn templates_have_their_path() {
        let found = of(&json!({"spec": {"terminationGracePeriodSeconds": -1}}), Path::new("spec.template"));
        let text = "spec.template.spec.terminationGracePeriodSeconds: must be >= 0; negative values are invalid and will be treated as 1";
        assert_eq!(found, [text]);
    }
}
