//! `--node-labels`, `--register-with-taints` -> what a node says of itself when it registers.

use std::collections::BTreeMap;

use api::k8s::api::core::v1::Taint;

/// Namespaces whose labels a node may set of itself. Source: `pkg/kubelet/apis/well_known_labels.go`.
const OWN_NAMESPACES: [&str; 2] = ["kubelet.kubernetes.io", "node.kubernetes.io"];
const OWN_LABELS: [&str; 13] = [
    "beta.kubernetes.io/arch",
    "beta.kubernetes.io/instance-type",
    "beta.kubernetes.io/os",
    "failure-domain.beta.kubernetes.io/region",
    "failure-domain.beta.kubernetes.io/zone",
    "kubernetes.io/arch",
    "kubernetes.io/hostname",
    "kubernetes.io/os",
    "node.kubernetes.io/instance-type",
    "topology.kubernetes.io/region",
    "topology.kubernetes.io/zone",
    "failure-domain.kubernetes.io/region",
    "failure-domain.kubernetes.io/zone",
];
const EFFECTS: [&str; 3] = ["NoSchedule", "PreferNoSchedule", "NoExecute"];

/// Those that NodeRestriction would refuse of a node. Source: `ValidateKubeletFlags` of `cmd/kubelet/app/options/options.go`.
///
/// # Errors
/// It names them, and what helps.
pub fn own_labels(labels: &BTreeMap<String, String>) -> Result<(), String> {
    let within = |namespace: &str, of: &str| namespace == of || namespace.ends_with(&format!(".{of}"));
    let is_unknown = |key: &&String| {
        let Some((namespace, _)) = key.split_once('/') else { return false };
        let is_system = within(namespace, "kubernetes.io") || within(namespace, "k8s.io");
        is_system && !OWN_NAMESPACES.iter().any(|own| within(namespace, own)) && !OWN_LABELS.contains(&key.as_str())
    };
    let unknown: Vec<&str> = labels.keys().filter(is_unknown).map(String::as_str).collect();
    if unknown.is_empty() {
        return Ok(());
    }
    Err(format!(
        "unknown 'kubernetes.io' or 'k8s.io' labels specified with --node-labels: {}\n--node-labels in the 'kubernetes.io' namespace must begin with an allowed \
         prefix ({}) or be in the specifically allowed set ({}); an administrator may set others: `kubectl label node`",
        unknown.join(", "),
        OWN_NAMESPACES.join(", "),
        OWN_LABELS.join(", ")
    ))
}

/// `key=value:effect`, or `key:effect`. Source: `pkg/util/taints` (`parseTaint`).
///
/// # Errors
/// It is none.
pub fn taint(text: &str) -> Result<Taint, String> {
    let wrong =
        || format!("invalid taint spec: {text}; it must be key=value:effect, with effect NoSchedule, PreferNoSchedule or NoExecute");
    let (label, effect) = text.split_once(':').ok_or_else(wrong)?;
    let (key, value) = label.split_once('=').unwrap_or((label, ""));
    let is_one = api::selector::is_label_key(key) && api::selector::is_label_value(value) && EFFECTS.contains(&effect);
    if !is_one {
        return Err(wrong());
    }
    let value = (!value.is_empty()).then(|| value.to_owned());
    Ok(Taint { key: key.to_owned(), value, effect: effect.to_owned(), time_added: None })
}

/// As [`taint`] reads it.
pub fn taint_text(taint: &Taint) -> String {
    let value = taint.value.as_ref().map(|value| format!("={value}")).unwrap_or_default();
    format!("{}{value}:{}", taint.key, taint.effect)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_of_the_system_are_refused_but_for_a_node_s_own() {
        let of = |key: &str| own_labels(&BTreeMap::from([(key.to_owned(), "v".to_owned())]));
        for good in [
            "disk",
            "a.example/b",
            "node.kubernetes.io/x",
            "x.kubelet.kubernetes.io/y",
            "topology.kubernetes.io/zone",
            "kubernetes.io/hostname",
        ] {
            assert!(of(good).is_ok(), "{good}");
        }
        for bad in
            ["node-role.kubernetes.io/control-plane", "kubernetes.io/x", "k8s.io/x", "a.k8s.io/x", "node-restriction.kubernetes.io/x"]
        {
            let error = of(bad).unwrap_err();
            assert!(error.contains(bad) && error.contains("kubectl label node"), "{error}");
        }
    }

    #[test]
    fn taints_have_a_key_and_an_effect() {
        let read = taint("a.example/b=c:NoSchedule").unwrap();
        assert_eq!((read.key.as_str(), read.value.as_deref(), read.effect.as_str()), ("a.example/b", Some("c"), "NoSchedule"));
        assert_eq!(taint("a:NoExecute").unwrap().value, None);
        for bad in ["", "a", "a=b", "a=b:Never", ":NoSchedule", "a b:NoSchedule", "a=b=c:NoSchedule"] {
            assert!(taint(bad).is_err(), "{bad}");
        }
    }
}
