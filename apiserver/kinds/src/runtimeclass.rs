//! RuntimeClass: the strategy of how a node's runtime is to run a pod. Source: `pkg/registry/node/runtimeclass`, `pkg/apis/node/validation`.

use std::{borrow::Cow, collections::HashSet};

use api::{GroupResource, field_errors::FieldErrors, time::Timestamp};
use apiserver::kind::{Column, Kind, MetaCheck, Scope, Strategy};
use serde_json::Value;

use crate::{
    common::{self, Path, Read, edit, name_rules, read, resources, selector, table, unchanged, well_formed},
    pod,
    schema::internal,
};

const SCHEDULING: Path<'static> = Path::new("scheduling");
const COLUMNS: &[Column] = &[table::NAME_COLUMN, table::column("Handler", "string", ""), table::AGE_COLUMN];

pub fn kind() -> Kind {
    Kind {
        scope: Scope::Cluster,
        columns: Cow::Borrowed(COLUMNS),
        ..common::kind("node.k8s.io", "v1", "RuntimeClass", "runtimeclasses", "io.k8s.api.node.v1", RuntimeClasses)
    }
}

pub fn resource() -> GroupResource {
    GroupResource::new("node.k8s.io", "runtimeclasses")
}

struct RuntimeClasses;

impl Strategy for RuntimeClasses {
    fn default(&self, object: &mut Value) {
        // A Go string without `omitempty`: it is always written.
        edit::default_to(object, "handler", "");
        if let Some(overhead) = edit::child(object, "overhead") {
            resources::canonical_list(overhead, "podFixed");
        }
    }

    fn validate(&self, object: &Value, causes: &mut FieldErrors) {
        let (handler, path) = (object.text("handler"), Path::new("handler"));
        match handler {
            "" => causes.required(path, ""),
            handler => well_formed(handler, name_rules::dns_label(handler), path, causes),
        }
        pod::validate::limits(object.at("overhead").at("podFixed"), Path::new("overhead"), causes);
        let Some(scheduling) = object.at("scheduling") else { return };
        selector::labels(scheduling.at("nodeSelector"), SCHEDULING.field("nodeSelector"), causes);
        tolerations(scheduling.list("tolerations"), SCHEDULING.field("tolerations"), causes);
    }

    fn validate_update(&self, new: &Value, old: &Value, causes: &mut FieldErrors) {
        unchanged(new.at("handler"), old.at("handler"), Path::new("handler"), causes);
    }

    fn warnings(&self, new: &Value, _old: Option<&Value>) -> Vec<String> {
        let keys = new.at("scheduling").entries("nodeSelector").map(|(key, _)| key);
        let warned = keys.filter_map(pod::warnings::deprecated_node_label);
        warned.map(|text| format!("{}: {text}", SCHEDULING.field("nodeSelector"))).collect()
    }

    fn create_on_update(&self) -> bool {
        true
    }

    fn unconditional_update(&self) -> bool {
        false
    }

    fn meta_check(&self) -> MetaCheck {
        MetaCheck::Both
    }

    fn cells(&self, object: &Value, now: Timestamp) -> Vec<Value> {
        vec![read::name(object).into(), object.text("handler").into(), table::age(object, now)]
    }
}

/// `validateTolerations`: well-formed, and none twice but for its seconds.
fn tolerations(tolerations: &[Value], path: Path<'_>, causes: &mut FieldErrors) {
    pod::validate::tolerations(tolerations, path, causes);
    let mut seen = HashSet::new();
    for (i, toleration) in tolerations.iter().enumerate() {
        if !seen.insert(["key", "operator", "value", "effect"].map(|field| toleration.text(field))) {
            causes.duplicate(path.index(i), internal::shown("core.Toleration", Some(toleration)));
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn texts(object: &Value) -> Vec<String> {
        let mut causes = FieldErrors::default();
        RuntimeClasses.validate(object, &mut causes);
        causes.0.iter().map(|c| c.text()).collect()
    }

    #[test]
    fn each_rule_has_its_words() {
        let twice = json!({"key": "a", "operator": "Exists"});
        let cases: Vec<(Value, &[&str])> = vec![
            (json!({"handler": "gvisor", "overhead": {"podFixed": {"cpu": "100m"}}, "scheduling": {"nodeSelector": {"a": "b"}}}), &[]),
            (json!({}), &["handler: Required value"]),
            (json!({"handler": "a.b"}), &["handler: Invalid value: \"a.b\": must not contain dots"]),
            (
                json!({"handler": "a", "overhead": {"podFixed": {"memory": "-1", "fish": "1"}}}),
                &[
                    "overhead.limits[memory]: Invalid value: \"-1\": must be greater than or equal to 0",
                    "overhead.limits[fish]: Invalid value: \"fish\": must be a standard resource type or fully qualified",
                    "overhead.limits[fish]: Invalid value: \"fish\": must be a standard resource for containers",
                ],
            ),
            (
                json!({"handler": "a", "scheduling": {"tolerations": [twice, twice, {"key": "a"}]}}),
                &[
                    "scheduling.tolerations[1]: Duplicate value: {\"Key\":\"a\",\"Operator\":\"Exists\",\"Value\":\"\",\"Effect\":\"\",\"TolerationSeconds\":null}",
                ],
            ),
        ];
        for (object, wanted) in cases {
            assert_eq!(texts(&object), wanted, "{object}");
        }
    }

    #[test]
    fn the_handler_stays() {
        let mut causes = FieldErrors::default();
        RuntimeClasses.validate_update(&json!({"handler": "b"}), &json!({"handler": "a"}), &mut causes);
        assert_eq!(causes.0.iter().map(|c| c.text()).collect::<Vec<_>>(), ["handler: Invalid value: \"b\": field is immutable"]);
    }

    #[test]
    fn old_labels_are_warned_of() {
        let class = json!({"scheduling": {"nodeSelector": {"beta.kubernetes.io/os": "linux", "app": "x"}}});
        let wanted = "scheduling.nodeSelector: deprecated since v1.14; use \"kubernetes.io/os\" instead";
        assert_eq!(RuntimeClasses.warnings(&class, None), [wanted]);
    }
}
