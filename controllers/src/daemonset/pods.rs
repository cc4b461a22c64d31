//! A template and a node -> the pod for it; a pod -> the node it is for.
//!
//! Source: `pkg/controller/daemon/util`.

use api::k8s::api::{
    apps::v1::DaemonSet,
    core::v1::{Affinity, NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, PodSpec, PodTemplateSpec, Toleration},
};
use client::{kube::ResourceExt, pods::Pod};

use crate::revisions::HASH;

/// The label of pods that older versions know them by, and the annotation that the number stands in.
const GENERATION: &str = "pod-template-generation";
const OF_SET: &str = "deprecated.daemonset.template.generation";
/// What a daemon's pod puts up with, whatever it says: taint, effect.
const TOLERATED: [(&str, &str); 6] = [
    ("node.kubernetes.io/not-ready", "NoExecute"),
    ("node.kubernetes.io/unreachable", "NoExecute"),
    ("node.kubernetes.io/disk-pressure", "NoSchedule"),
    ("node.kubernetes.io/memory-pressure", "NoSchedule"),
    ("node.kubernetes.io/pid-pressure", "NoSchedule"),
    ("node.kubernetes.io/unschedulable", "NoSchedule"),
];
/// As above, on the host's network.
const TOLERATED_BY_HOST: (&str, &str) = ("node.kubernetes.io/network-unavailable", "NoSchedule");
const NAME: &str = "metadata.name";

/// `AddOrUpdateDaemonPodTolerations`
pub fn tolerations(spec: &PodSpec) -> Vec<Toleration> {
    let mut all = spec.tolerations.clone().unwrap_or_default();
    let of_host = Some(TOLERATED_BY_HOST).filter(|_| spec.host_network == Some(true));
    for (key, effect) in TOLERATED.into_iter().chain(of_host) {
        let wanted =
            Toleration { key: Some(key.into()), operator: Some("Exists".into()), effect: Some(effect.into()), ..Toleration::default() };
        let mut is_there = false;
        for toleration in all.iter_mut().filter(|toleration| are_alike(toleration, &wanted)) {
            toleration.clone_from(&wanted);
            is_there = true;
        }
        if !is_there {
            all.push(wanted);
        }
    }
    all
}

/// `MatchToleration`: whatever their seconds.
fn are_alike(a: &Toleration, b: &Toleration) -> bool {
    let text = |text: &Option<String>| text.clone().unwrap_or_default();
    [(&a.key, &b.key), (&a.effect, &b.effect), (&a.operator, &b.operator), (&a.value, &b.value)].iter().all(|(a, b)| text(a) == text(b))
}

/// The number of the template as the annotation has it, where it can be read. `GetTemplateGeneration`
pub fn generation(set: &DaemonSet) -> Option<String> {
    set.annotations().get(OF_SET)?.parse::<i64>().ok().map(|number| number.to_string())
}

/// `CreatePodTemplate`
pub fn template(set: &DaemonSet, hash: &str) -> PodTemplateSpec {
    let mut template = set.spec.as_ref().map(|spec| spec.template.clone()).unwrap_or_default();
    let labels = template.metadata.get_or_insert_default().labels.get_or_insert_default();
    labels.extend(generation(set).map(|number| (GENERATION.to_owned(), number)));
    labels.insert(HASH.into(), hash.into());
    let spec = template.spec.get_or_insert_default();
    spec.tolerations = Some(tolerations(spec));
    template
}

/// `ReplaceDaemonSetPodNodeNameNodeAffinity`
pub fn affinity_to(affinity: Option<Affinity>, node: &str) -> Affinity {
    let on_name = NodeSelectorRequirement { key: NAME.into(), operator: "In".into(), values: Some(vec![node.into()]) };
    let term = NodeSelectorTerm { match_fields: Some(vec![on_name]), match_expressions: None };
    let mut affinity = affinity.unwrap_or_default();
    let of_node = affinity.node_affinity.get_or_insert_default();
    of_node.required_during_scheduling_ignored_during_execution = Some(NodeSelector { node_selector_terms: vec![term] });
    affinity
}

/// The node that the pod is on, or is to come to. `GetTargetNodeName`
pub fn target(pod: &Pod) -> Option<&str> {
    let spec = pod.spec.as_ref()?;
    if let Some(node) = spec.node_name.as_deref().filter(|name| !name.is_empty()) {
        return Some(node);
    }
    let of_node = spec.affinity.as_ref()?.node_affinity.as_ref()?;
    let required = of_node.required_during_scheduling_ignored_during_execution.as_ref()?;
    let fields = required.node_selector_terms.iter().flat_map(|term| term.match_fields.iter().flatten());
    let mut on_name = fields.filter(|field| field.key == NAME && field.operator == "In");
    match on_name.next()?.values.as_deref() {
        Some([node]) => Some(node),
        _ => None,
    }
}

/// Whether it is of the current template, by its revision or, as older versions told, by its number. `IsPodUpdated`
pub fn is_updated(pod: &Pod, hash: &str, generation: Option<&str>) -> bool {
    let says = |label: &str, value: &str| pod.labels().get(label).is_some_and(|said| said == value);
    generation.is_some_and(|number| says(GENERATION, number)) || (!hash.is_empty() && says(HASH, hash))
}
