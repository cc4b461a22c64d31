//! Ephemeral containers -> what is wrong with them, and with a change of them. Source: `validateEphemeralContainers`,
//! `ValidatePodEphemeralContainersUpdate`.

use std::collections::HashSet;

use api::{annotations::CONFIG_MIRROR, field_errors::FieldErrors};
use serde_json::Value;

use super::{Whole, containers, pod, update};
use crate::{
    common::{
        Path, Read, diff,
        read::{is_nothing, same},
    },
    schema::internal,
};

const NOT_HERE: &str = "cannot be set for an Ephemeral Container";
/// Fields of containers that these do not have, in the order in which Go's type has them.
const FORBIDDEN: &[&str] = &[
    "ports",
    "resources",
    "resizePolicy",
    "restartPolicy",
    "restartPolicyRules",
    "livenessProbe",
    "readinessProbe",
    "startupProbe",
    "lifecycle",
];

/// Of one pod.
pub(super) fn all(whole: &Whole<'_>, path: Path<'_>, causes: &mut FieldErrors) {
    let others: HashSet<&str> = whole.containers().map(|(.., container)| container.text("name")).collect();
    let mut names = others.clone();
    for (i, container) in whole.spec.list("ephemeralContainers").iter().enumerate() {
        let (at, name, target) = (path.index(i), container.text("name"), container.text("targetContainerName"));
        containers::common(container, whole, at, causes);
        if !names.insert(name) {
            causes.duplicate(at.field("name"), name);
        }
        if !target.is_empty() && !others.contains(target) {
            causes.not_found(at.field("targetContainerName"), target);
        }
        for field in FORBIDDEN.iter().filter(|field| container.at(field).is_some_and(|value| !is_nothing(field, value))) {
            causes.forbidden(at.field(field), NOT_HERE);
        }
        let mounts = at.field("volumeMounts");
        for (i, mount) in container.list("volumeMounts").iter().enumerate() {
            for field in ["subPath", "subPathExpr"].into_iter().filter(|field| !mount.text(field).is_empty()) {
                causes.forbidden(mounts.index(i).field(field), NOT_HERE);
            }
        }
    }
}

/// Those that are there stay as they are.
pub fn update(new: &Value, old: &Value, causes: &mut FieldErrors) {
    if old.at("metadata").at("annotations").at(CONFIG_MIRROR).is_some() {
        return causes.forbidden("", "static pods do not support ephemeral containers");
    }
    pod(new, causes);
    update::annotations(new, old, causes);
    let (now, path) = (new.at("spec").list("ephemeralContainers"), Path::new("spec.ephemeralContainers"));
    for before in old.at("spec").list("ephemeralContainers") {
        let name = before.text("name");
        match now.iter().find(|container| container.text("name") == name) {
            None => causes.forbidden(path, &format!("existing ephemeral containers {name:?} may not be removed\n")),
            Some(container) if !same(Some(container), Some(before)) => {
                let [was, now] = [before, container].map(|container| internal::shown("core.EphemeralContainer", Some(container)));
                let shown = diff::in_order(&was, &now);
                causes.forbidden(path, &format!("existing ephemeral containers {name:?} may not be changed\n{shown}"));
            }
            Some(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::pod::defaults;

    fn object(ephemeral: Value) -> Value {
        let mut pod = json!({"metadata": {"name": "a"}, "spec": {"serviceAccountName": "default", "containers": [{"name": "c", "image": "x:1"}], "ephemeralContainers": ephemeral}});
        defaults::pod(&mut pod);
        pod
    }

    fn causes(new: Value, old: Value) -> Vec<String> {
        let mut causes = FieldErrors::default();
        update(&object(new), &object(old), &mut causes);
        causes.0.iter().map(|c| c.text()).collect()
    }

    #[test]
    fn a_container_that_debugs_has_rules() {
        let at = "spec.ephemeralContainers[0]";
        let cases = [
            (json!({"name": "d", "image": "x:1", "targetContainerName": "c"}), vec![]),
            (json!({"name": "d"}), vec![format!("{at}.image: Required value")]),
            (json!({"name": "c", "image": "x:1"}), vec![format!("{at}.name: Duplicate value: \"c\"")]),
            (
                json!({"name": "d", "image": "x:1", "targetContainerName": "none"}),
                vec![format!("{at}.targetContainerName: Not found: \"none\"")],
            ),
            (json!({"name": "d", "image": "x:1", "ports": [{"containerPort": 1}]}), vec![format!("{at}.ports: Forbidden: {NOT_HERE}")]),
            (
                json!({"name": "d", "image": "x:1", "resources": {"limits": {"cpu": "1"}}}),
                vec![format!("{at}.resources: Forbidden: {NOT_HERE}")],
            ),
        ];
        for (container, wanted) in cases {
            assert_eq!(causes(json!([container]), json!([])), wanted);
        }
    }

    #[test]
    fn those_that_are_there_stay() {
        let one = |image: &str| json!([{"name": "d", "image": image}]);
        let gone = causes(json!([]), one("x:1"));
        assert_eq!(gone, ["spec.ephemeralContainers: Forbidden: existing ephemeral containers \"d\" may not be removed\n"]);
        let changed = causes(one("x:2"), one("x:1"));
        assert!(
            changed[0].starts_with("spec.ephemeralContainers: Forbidden: existing ephemeral containers \"d\" may not be changed\n"),
            "{changed:?}"
        );
        assert_eq!(causes(one("x:1"), one("x:1")), Vec::<String>::new());
    }
}
