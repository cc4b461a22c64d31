//! Annotations of pods and templates that once were fields, and those that say what the fields must not contradict -> what is wrong with them.
//! Source: `ValidatePodSpecificAnnotations`, `validateSeccompAnnotationsAndFields`, `validateAppArmorAnnotationsAndFieldsMatchOnCreate`.

use std::collections::HashSet;

use api::{annotations::CONFIG_MIRROR, field_errors::FieldErrors};
use serde_json::Value;

use super::{descending_path, scheduling};
use crate::common::{Path, Read};

pub const SECCOMP_OF_POD: &str = "seccomp.security.alpha.kubernetes.io/pod";
pub const SECCOMP: &str = "container.seccomp.security.alpha.kubernetes.io/";
pub const APP_ARMOR: &str = "container.apparmor.security.beta.kubernetes.io/";
const TOLERATIONS: &str = "scheduler.alpha.kubernetes.io/tolerations";
const DELETION_COST: &str = "controller.kubernetes.io/pod-deletion-cost";
const RUNTIME_DEFAULT: &str = "runtime/default";
const DOCKER_DEFAULT: &str = "docker/default";
const UNCONFINED: &str = "unconfined";
const LOCALHOST: &str = "localhost/";
/// Lists of containers, in the order in which upstream visits them.
pub const LISTS: [&str; 3] = ["initContainers", "containers", "ephemeralContainers"];

/// `ValidatePodSpecificAnnotations`; `path` is that of the annotations.
pub fn validate(annotations: Option<&Value>, spec: &Value, path: Path<'_>, causes: &mut FieldErrors) {
    if annotations.at(CONFIG_MIRROR).is_some() && spec.text("nodeName").is_empty() {
        causes.invalid(path.key(CONFIG_MIRROR), annotations.text(CONFIG_MIRROR), "must set spec.nodeName if mirror pod annotation is set");
    }
    tolerations(annotations.text(TOLERATIONS), path, causes);
    let wanted = annotations.text(DELETION_COST);
    let well = wanted.parse::<i32>().is_ok_and(|n| n.to_string() == wanted);
    if annotations.at(DELETION_COST).is_some() && !well {
        causes.invalid(path.key(DELETION_COST), wanted, "must be a 32bit integer");
    }
    let Some(all) = annotations.and_then(Value::as_object) else { return };
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    if let Some(profile) = all.get(SECCOMP_OF_POD) {
        seccomp(&text(profile), path.field(SECCOMP_OF_POD), causes);
    }
    for (key, profile) in all.iter().filter(|(key, _)| key.starts_with(SECCOMP)) {
        seccomp(&text(profile), path.field(key), causes);
    }
    app_armor(annotations, spec, path, causes);
}

/// The fields of a pod or template agree with its annotations.
pub fn agree(annotations: Option<&Value>, spec: Option<&Value>, path: Path<'_>, causes: &mut FieldErrors) {
    if annotations.and_then(Value::as_object).is_none_or(serde_json::Map::is_empty) {
        return;
    }
    let of_pod = spec.at("securityContext");
    if let (Some(profile), Some(annotation)) = (of_pod.at("seccompProfile"), annotations.at(SECCOMP_OF_POD)) {
        let at = path.field("securityContext");
        matches(annotation, profile, Words::SECCOMP, at.field("seccompProfile"), causes);
    }
    each_container(spec, path, |container, at| {
        let profile = container.at("securityContext").at("seccompProfile");
        if let (Some(profile), Some(annotation)) = (profile, annotations.at(&format!("{SECCOMP}{}", container.text("name")))) {
            let at = at.field("securityContext");
            matches(annotation, profile, Words::SECCOMP, at.field("seccompProfile"), causes);
        }
    });
    if spec.at("os").text("name") == "windows" {
        return;
    }
    each_container(spec, path, |container, at| {
        let profile = container.at("securityContext").at("appArmorProfile").or(of_pod.at("appArmorProfile"));
        if let (Some(profile), Some(annotation)) = (profile, annotations.at(&format!("{APP_ARMOR}{}", container.text("name")))) {
            let at = at.field("securityContext");
            matches(annotation, profile, Words::APP_ARMOR, at.field("appArmorProfile"), causes);
        }
    });
}

/// Every container, also one that is for debugging, with its path.
pub fn each_container(spec: Option<&Value>, path: Path<'_>, mut look: impl FnMut(&Value, Path<'_>)) {
    for list in LISTS {
        let at = path.field(list);
        spec.list(list).iter().enumerate().for_each(|(i, container)| look(container, at.index(i)));
    }
}

/// `ApparmorFieldForAnnotation`, where that is well-formed: the profile's type, and its name on the node.
pub fn app_armor_field(annotation: &str) -> Option<(&'static str, Option<&str>)> {
    match annotation {
        UNCONFINED => Some(("Unconfined", None)),
        RUNTIME_DEFAULT => Some(("RuntimeDefault", None)),
        other => other.strip_prefix(LOCALHOST).filter(|name| !name.is_empty()).map(|name| ("Localhost", Some(name))),
    }
}

/// `ValidateTolerationsInPodAnnotations`
fn tolerations(text: &str, path: Path<'_>, causes: &mut FieldErrors) {
    if text.is_empty() {
        return;
    }
    match serde_json::from_str::<Option<Vec<Value>>>(text) {
        Err(error) => causes.invalid(path, TOLERATIONS, &error.to_string()),
        Ok(found) => scheduling::tolerations(&found.unwrap_or_default(), path.field(TOLERATIONS), causes),
    }
}

/// `ValidateSeccompProfile`
fn seccomp(profile: &str, path: Path<'_>, causes: &mut FieldErrors) {
    match (profile, profile.strip_prefix(LOCALHOST)) {
        (RUNTIME_DEFAULT | DOCKER_DEFAULT | UNCONFINED, _) => {}
        (_, Some(file)) => descending_path(file, path, causes),
        (other, None) => causes.invalid(path, other, "must be a valid seccomp profile"),
    }
}

/// `ValidateAppArmorPodAnnotations`
fn app_armor(annotations: Option<&Value>, spec: &Value, path: Path<'_>, causes: &mut FieldErrors) {
    let all = annotations.and_then(Value::as_object).into_iter().flatten();
    let mut known: Option<HashSet<&str>> = None;
    for (key, name, profile) in all.filter_map(|(key, value)| Some((key, key.strip_prefix(APP_ARMOR)?, value.as_str()?))) {
        let names = || LISTS.into_iter().flat_map(|list| spec.list(list)).map(|container| container.text("name")).collect();
        if !known.get_or_insert_with(names).contains(name) {
            causes.invalid(path.key(key), name, "container not found");
        }
        if !matches!(profile, "" | RUNTIME_DEFAULT | UNCONFINED) && !profile.starts_with(LOCALHOST) {
            causes.invalid(path.key(key), profile, &format!("invalid AppArmor profile name: {profile:?}"));
        }
    }
}

/// How one kind of profile is told of.
#[derive(Clone, Copy)]
struct Words {
    name: &'static str,
    defaults: &'static [&'static str],
}

impl Words {
    const SECCOMP: Self = Self { name: "seccomp", defaults: &[RUNTIME_DEFAULT, DOCKER_DEFAULT] };
    const APP_ARMOR: Self = Self { name: "apparmor", defaults: &[RUNTIME_DEFAULT] };
}

fn matches(annotation: &Value, profile: &Value, words: Words, path: Path<'_>, causes: &mut FieldErrors) {
    let annotation = annotation.as_str().unwrap_or_default();
    let is_same = match profile.text("type") {
        "Unconfined" => annotation == UNCONFINED,
        "RuntimeDefault" => words.defaults.contains(&annotation),
        "Localhost" => annotation.starts_with(LOCALHOST),
        _ => true,
    };
    let of_node = annotation.strip_prefix(LOCALHOST);
    if !is_same {
        causes.forbidden(path.field("type"), &format!("{} type in annotation and field must match", words.name));
    } else if profile.text("type") == "Localhost" && profile.at("localhostProfile").and_then(Value::as_str) != of_node {
        causes.forbidden(path.field("localhostProfile"), &format!("{} profile in annotation and field must match", words.name));
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn told(annotations: Value, spec: Value) -> Vec<String> {
        let mut causes = FieldErrors::default();
        validate(Some(&annotations), &spec, Path::new("metadata.annotations"), &mut causes);
        agree(Some(&annotations), Some(&spec), Path::new("spec"), &mut causes);
        causes.0.iter().map(|cause| cause.text()).collect()
    }

    #[test]
    fn profiles_in_annotations_have_rules() {
        let of = |key: &str, value: &str| told(json!({key: value}), json!({"containers": [{"name": "a"}]}));
        for good in ["runtime/default", "docker/default", "unconfined", "localhost/a/b"] {
            assert!(of(SECCOMP_OF_POD, good).is_empty(), "{good}");
        }
        let at = "metadata.annotations.seccomp.security.alpha.kubernetes.io/pod";
        assert_eq!(of(SECCOMP_OF_POD, "x"), [format!("{at}: Invalid value: \"x\": must be a valid seccomp profile")]);
        assert_eq!(of(SECCOMP_OF_POD, "localhost//a"), [format!("{at}: Invalid value: \"/a\": must be a relative path")]);
        let key = format!("{APP_ARMOR}b");
        assert_eq!(
            of(&key, "x"),
            [
                format!("metadata.annotations[{key}]: Invalid value: \"b\": container not found"),
                format!("metadata.annotations[{key}]: Invalid value: \"x\": invalid AppArmor profile name: \"x\""),
            ]
        );
        assert!(of(&format!("{APP_ARMOR}a"), "localhost/x").is_empty());
        assert!(of(TOLERATIONS, "[{\"key\": \"a\", \"operator\": \"Exists\"}]").is_empty());
        assert!(
            of(TOLERATIONS, "[{\"key\": \"a b\", \"operator\": \"Exists\"}]")[0]
                .starts_with(&format!("metadata.annotations.{TOLERATIONS}[0].key"))
        );
        assert!(of(TOLERATIONS, "{")[0].starts_with(&format!("metadata.annotations: Invalid value: \"{TOLERATIONS}\"")));
    }

    #[test]
    fn fields_do_not_contradict_annotations() {
        let spec = |context: Value| json!({"securityContext": {"seccompProfile": {"type": "RuntimeDefault"}}, "containers": [{"name": "a", "securityContext": context}]});
        assert_eq!(
            told(json!({SECCOMP_OF_POD: "unconfined"}), spec(json!({}))),
            ["spec.securityContext.seccompProfile.type: Forbidden: seccomp type in annotation and field must match"]
        );
        assert!(told(json!({SECCOMP_OF_POD: "docker/default"}), spec(json!({}))).is_empty());
        let armor = json!({"appArmorProfile": {"type": "Localhost", "localhostProfile": "x"}});
        let key = format!("{APP_ARMOR}a");
        assert!(told(json!({key.clone(): "localhost/x"}), spec(armor.clone())).is_empty());
        let wanted = [
            "spec.containers[0].securityContext.appArmorProfile.localhostProfile: Forbidden: apparmor profile in annotation and field must match",
        ];
        assert_eq!(told(json!({key: "localhost/y"}), spec(armor)), wanted);
    }
}
