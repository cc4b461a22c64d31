//! Annotations that name a container's AppArmor profile -> the fields that took their place. Source: `applyAppArmorVersionSkew`.

use serde_json::{Value, json};

use super::validate::annotations::{APP_ARMOR, LISTS, app_armor_field};
use crate::common::{
    Read,
    edit::{self, child, make_child},
};

/// The longest name of a profile on the node (`ValidateAppArmorProfileField`).
const NAME_BYTES: usize = 4095;

/// Fills in the fields of a new pod; what of its annotations is to be warned of.
pub fn of_annotations(pod: &mut Value) -> Vec<String> {
    let annotations = pod.at("metadata").object("annotations");
    let named: Vec<(String, String)> = annotations
        .into_iter()
        .flatten()
        .filter_map(|(key, value)| Some((key.strip_prefix(APP_ARMOR)?.to_owned(), value.as_str().unwrap_or_default().to_owned())))
        .collect();
    let mut warnings = Vec::new();
    let Some(spec) = child(pod, "spec").filter(|spec| !named.is_empty() && spec.at("os").text("name") != "windows") else {
        return warnings;
    };
    let named: std::collections::HashMap<String, String> = named.into_iter().collect();
    let of_pod = spec.at("securityContext").at("appArmorProfile").cloned();
    for list in LISTS {
        for container in edit::each(spec, list) {
            let name = container.text("name").to_owned();
            let Some(annotation) = named.get(&name) else { continue };
            if container.at("securityContext").at("appArmorProfile").is_some() {
                continue;
            }
            let profile = profile(annotation);
            let is_the_pods = profile.is_some() && profile == of_pod;
            if let Some(profile) = profile.filter(|_| !is_the_pods)
                && let Some(context) = make_child(container, "securityContext")
            {
                edit::set(context, "appArmorProfile", profile);
            }
            if !is_the_pods {
                let what = "deprecated since v1.30; use the \"appArmorProfile\" field instead";
                warnings.push(format!("metadata.annotations[{APP_ARMOR}{name}]: {what}"));
            }
        }
    }
    warnings
}

/// What an annotation says, where that is a field that passes.
fn profile(annotation: &str) -> Option<Value> {
    let (typ, name) = app_armor_field(annotation)?;
    match name {
        None => Some(json!({"type": typ})),
        Some(name) => (name.trim() == name && name.len() <= NAME_BYTES).then(|| json!({"type": typ, "localhostProfile": name})),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(annotation: &str, of_pod: Value, of_container: Value) -> Value {
        json!({
            "metadata": {"annotations": {format!("{APP_ARMOR}a"): annotation}},
            "spec": {"securityContext": of_pod, "containers": [{"name": "a", "securityContext": of_container}, {"name": "b"}]},
        })
    }

    #[test]
    fn an_annotation_becomes_a_field_where_none_says_so() {
        let localhost = json!({"type": "Localhost", "localhostProfile": "x"});
        let own = |profile: &Value| json!({"appArmorProfile": profile});
        let cases = [
            (pod("localhost/x", json!({}), json!({})), localhost.clone(), 1),
            (pod("unconfined", json!({}), json!({})), json!({"type": "Unconfined"}), 1),
            (pod("localhost/x", own(&localhost), json!({})), Value::Null, 0),
            (pod("localhost/x", json!({}), own(&json!({"type": "Unconfined"}))), json!({"type": "Unconfined"}), 0),
            (pod("localhost/ x", json!({}), json!({})), Value::Null, 1),
            (pod("nothing", json!({}), json!({})), Value::Null, 1),
        ];
        for (mut pod, wanted, warned) in cases {
            let told = of_annotations(&mut pod);
            assert_eq!((&pod["spec"]["containers"][0]["securityContext"]["appArmorProfile"], told.len()), (&wanted, warned), "{pod}");
            assert!(pod["spec"]["containers"][1].get("securityContext").is_none());
        }
    }
}
