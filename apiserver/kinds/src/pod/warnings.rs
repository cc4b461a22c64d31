//! A pod or pod template -> warnings: what is allowed and most likely not meant. Source: `pkg/api/pod/warnings.go`.

mod paths;

use std::collections::{HashMap, HashSet};

use serde_json::Value;

use super::validate::annotations::{APP_ARMOR, SECCOMP, SECCOMP_OF_POD, app_armor_field, each_container};
use crate::{
    common::{Path, Read, name_rules, resources::quantity},
    net, persistentvolumeclaim,
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

const BYTES: [&str; 2] = ["memory", "ephemeral-storage"];
const SECCOMP_OF_OLD: &str = "non-functional in v1.27+; use the \"seccompProfile\" field instead";
const APP_ARMOR_OF_OLD: &str = "deprecated since v1.30; use the \"appArmorProfile\" field instead";
const REQUIRED: &str = "requiredDuringSchedulingIgnoredDuringExecution";
const PREFERRED: &str = "preferredDuringSchedulingIgnoredDuringExecution";

/// `path` is that of the pod (`Path::ROOT`) or of the template.
pub fn of(pod: &Value, path: Path<'_>) -> Vec<String> {
    let mut out = Vec::new();
    let (spec, spec_path) = (pod.at("spec"), path.field("spec"));
    let metadata = path.field("metadata");
    let annotations = metadata.field("annotations");
    placement(spec, spec_path, &mut out);
    for (key, text) in ANNOTATIONS.iter().filter(|(key, _)| pod.at("metadata").at("annotations").at(key).is_some()) {
        out.push(format!("{}: {text}", annotations.key(key)));
    }
    volumes(spec, spec_path.field("volumes"), &mut out);
    paths::overlapping(spec.list("volumes"), &mut out);
    duplicates(spec, spec_path, &mut out);
    for resource in BYTES {
        fraction(spec.at("overhead"), resource, spec_path.field("overhead"), &mut out);
    }
    let told = pod.at("metadata").at("annotations");
    if spec.at("securityContext").at("seccompProfile").is_none() && told.at(SECCOMP_OF_POD).is_some() {
        out.push(format!("{}: {SECCOMP_OF_OLD}", annotations.key(SECCOMP_OF_POD)));
    }
    // Of a pod they become fields when it is made, and are warned of then.
    let is_template = path.to_string() != Path::ROOT.to_string();
    each_container(spec, spec_path, |container, at| {
        if told.is_some() {
            profiles(container, spec, told, annotations, is_template, &mut out);
        }
        fractions(container, at, &mut out);
        hidden_variables(container, at, &mut out);
    });
    ports(spec, spec_path, &mut out);
    if spec.int("terminationGracePeriodSeconds").is_some_and(|s| s < 0) {
        let at = spec_path.field("terminationGracePeriodSeconds");
        out.push(format!("{at}: must be >= 0; negative values are invalid and will be treated as 1"));
    }
    affinity(spec, spec_path.field("affinity"), &mut out);
    addresses(spec, spec_path, &mut out);
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
    let at = path.field("affinity");
    node_affinity(spec.at("affinity").at("nodeAffinity"), at.field("nodeAffinity"), out);
    let list = path.field("topologySpreadConstraints");
    for (i, constraint) in spec.list("topologySpreadConstraints").iter().enumerate() {
        let key = constraint.text("topologyKey");
        if let Some(text) = deprecated_node_label(key) {
            out.push(format!("{}: {key} is {text}", list.index(i).field("topologyKey")));
        }
        null_selector(constraint, list.index(i), out);
    }
}

fn node_affinity(affinity: Option<&Value>, path: Path<'_>, out: &mut Vec<String>) {
    if let Some(required) = affinity.at(REQUIRED) {
        out.extend(node_selector(required, path.field(REQUIRED)));
    }
    let list = path.field(PREFERRED);
    for (i, term) in affinity.list(PREFERRED).iter().enumerate() {
        let at = list.index(i);
        let (at, expressions) = (at.field("preference"), term.at("preference").list("matchExpressions"));
        let at = at.field("matchExpressions");
        for (j, expression) in expressions.iter().enumerate() {
            let (at, key) = (at.index(j), expression.text("key"));
            out.extend(deprecated_node_label(key).map(|text| format!("{}: {key} is {text}", at.field("key"))));
            let values = at.field("values");
            for (k, value) in expression.list("values").iter().filter_map(Value::as_str).enumerate() {
                let wrong = name_rules::label_value(value).into_iter();
                out.extend(wrong.map(|why| format!("{}: {value} is invalid, {why}", values.index(k))));
            }
        }
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

/// Annotations of old for what has a field, where the field says nothing.
fn profiles(container: &Value, spec: Option<&Value>, told: Option<&Value>, path: Path<'_>, is_template: bool, out: &mut Vec<String>) {
    let (name, context) = (container.text("name"), container.at("securityContext"));
    let key = format!("{SECCOMP}{name}");
    if context.at("seccompProfile").is_none() && told.at(&key).is_some() {
        out.push(format!("{}: {SECCOMP_OF_OLD}", path.key(&key)));
    }
    let key = format!("{APP_ARMOR}{name}");
    let annotation = told.at(&key).and_then(Value::as_str);
    if let Some(annotation) = annotation.filter(|_| is_template && context.at("appArmorProfile").is_none()) {
        let of_pod = spec.at("securityContext").at("appArmorProfile");
        let said = of_pod.map(|profile| (profile.text("type"), profile.at("localhostProfile").and_then(Value::as_str)));
        if said.is_none() || said != app_armor_field(annotation) {
            out.push(format!("{}: {APP_ARMOR_OF_OLD}", path.key(&key)));
        }
    }
}

/// Addresses in forms that are not the usual ones.
fn addresses(spec: Option<&Value>, path: Path<'_>, out: &mut Vec<String>) {
    let at = path.field("dnsConfig");
    let list = at.field("nameservers");
    for (i, address) in spec.at("dnsConfig").list("nameservers").iter().enumerate() {
        out.extend(net::ip_warning(&list.index(i).to_string(), address.as_str().unwrap_or_default()));
    }
    let list = path.field("hostAliases");
    for (i, alias) in spec.list("hostAliases").iter().enumerate() {
        out.extend(net::ip_warning(&list.index(i).field("ip").to_string(), alias.text("ip")));
    }
}

/// Bytes do not come in parts.
fn fractions(container: &Value, path: Path<'_>, out: &mut Vec<String>) {
    let at = path.field("resources");
    for resource in BYTES {
        for list in ["limits", "requests"] {
            fraction(container.at("resources").at(list), resource, at.field(list), out);
        }
    }
}

fn fraction(list: Option<&Value>, resource: &str, path: Path<'_>, out: &mut Vec<String>) {
    if let Some(value) = list.at(resource).and_then(quantity).filter(|v| v.milli() % 1000 != 0) {
        out.push(format!("{}: fractional byte value {:?} is invalid, must be an integer", path.key(resource), value.to_string()));
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
    for list in ["initContainers", "containers", "ephemeralContainers"] {
        for (i, container) in spec.list(list).iter().enumerate() {
            for (j, port) in container.list("ports").iter().enumerate() {
                let at = format!("{}.ports[{j}]", path.field(list).index(i));
                if !port.text("hostIP").is_empty() && port.int("hostPort").unwrap_or(0) == 0 {
                    out.push(format!("{at}: hostIP set without hostPort: {}", as_go(port)));
                }
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

/// A port as `%+v` prints it.
fn as_go(port: &Value) -> String {
    let number = |field: &str| port.int(field).unwrap_or(0);
    let (host, inner) = (number("hostPort"), number("containerPort"));
    let (name, protocol, ip) = (port.text("name"), port.text("protocol"), port.text("hostIP"));
    format!("{{Name:{name} HostPort:{host} ContainerPort:{inner} Protocol:{protocol} HostIP:{ip}}}")
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
    fn annotations_of_old_are_told_where_a_field_says_nothing() {
        let seccomp = format!("{SECCOMP}a");
        let armor = format!("{APP_ARMOR}a");
        let pod = json!({
            "metadata": {"annotations": {SECCOMP_OF_POD: "unconfined", seccomp.clone(): "unconfined", armor.clone(): "unconfined"}},
            "spec": {"containers": [{"name": "a"}]},
        });
        let in_pod = [
            format!("metadata.annotations[{SECCOMP_OF_POD}]: {SECCOMP_OF_OLD}"),
            format!("metadata.annotations[{seccomp}]: {SECCOMP_OF_OLD}"),
        ];
        assert_eq!(of(&pod, Path::ROOT), in_pod);
        let found = of(&pod, Path::new("template"));
        assert_eq!(found.last().unwrap(), &format!("template.metadata.annotations[{armor}]: {APP_ARMOR_OF_OLD}"));
        let mut said = pod.clone();
        said["spec"]["securityContext"] = json!({"seccompProfile": {"type": "Unconfined"}, "appArmorProfile": {"type": "Unconfined"}});
        said["spec"]["containers"][0]["securityContext"] = json!({"seccompProfile": {"type": "Unconfined"}});
        assert!(of(&said, Path::new("template")).is_empty());
    }

    #[test]
    fn terms_of_node_affinity_are_looked_at() {
        let terms = json!({"matchExpressions": [{"key": "beta.kubernetes.io/arch", "operator": "In", "values": ["a b"]}]});
        let affinity = json!({REQUIRED: {"nodeSelectorTerms": [terms]}, PREFERRED: [{"preference": terms}]});
        let found = of(&json!({"spec": {"affinity": {"nodeAffinity": affinity}}}), Path::ROOT);
        let old = "beta.kubernetes.io/arch is deprecated since v1.14; use \"kubernetes.io/arch\" instead";
        let at = "spec.affinity.nodeAffinity";
        assert_eq!(found[0], format!("{at}.{REQUIRED}.nodeSelectorTerms[0].matchExpressions[0].key: {old}"));
        assert_eq!(found[1], format!("{at}.{PREFERRED}[0].preference.matchExpressions[0].key: {old}"));
        assert!(
            found[2].starts_with(&format!("{at}.{PREFERRED}[0].preference.matchExpressions[0].values[0]: a b is invalid, a valid label"))
        );
        assert_eq!(found.len(), 3);
    }

    #[test]
    fn templates_have_their_path() {
        let found = of(&json!({"spec": {"terminationGracePeriodSeconds": -1}}), Path::new("spec.template"));
        let text = "spec.template.spec.terminationGracePeriodSeconds: must be >= 0; negative values are invalid and will be treated as 1";
        assert_eq!(found, [text]);
    }
}
