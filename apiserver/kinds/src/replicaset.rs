//! ReplicaSet: keeps a number of pods, by a label selector. Source: `pkg/registry/apps/replicaset`, `pkg/apis/apps`.

use std::borrow::Cow;

use api::{field_errors::FieldErrors, time::Timestamp};
use apiserver::kind::{Column, Kind, Strategy, names};
use serde_json::Value;

use crate::{
    common::{
        self, Path, Read,
        edit::{default_to, make_child},
        not_negative, selector,
        table::{AGE_COLUMN, CONTAINERS_COLUMN, IMAGES_COLUMN, NAME_COLUMN, column, wide},
        unchanged,
    },
    podtemplate,
    replicationcontroller::{scale, set_cells},
};

const COLUMNS: &[Column] = &[
    NAME_COLUMN,
    column(
        "Desired",
        "integer",
        "Replicas is the number of desired pods. This is a pointer to distinguish between explicit zero and unspecified. Defaults to 1. More info: https://kubernetes.io/docs/concepts/workloads/controllers/replicaset",
    ),
    column(
        "Current",
        "integer",
        "Replicas is the most recently observed number of non-terminating pods. More info: https://kubernetes.io/docs/concepts/workloads/controllers/replicaset",
    ),
    column("Ready", "integer", "The number of non-terminating pods targeted by this ReplicaSet with a Ready Condition."),
    AGE_COLUMN,
    CONTAINERS_COLUMN,
    IMAGES_COLUMN,
    wide(
        "Selector",
        "string",
        "Selector is a label query over pods that should match the replica count. Label keys and values that must match in order to be controlled by this replica set. It must match the pod template's labels. More info: https://kubernetes.io/docs/concepts/overview/working-with-objects/labels/#label-selectors",
    ),
];

pub fn kind() -> Kind {
    Kind {
        short_names: names(&["rs"]),
        categories: names(&["all"]),
        subresources: vec![scale("/spec/selector"), common::status("apps", "v1", "ReplicaSet")],
        columns: Cow::Borrowed(COLUMNS),
        generation: true,
        ..common::kind("apps", "v1", "ReplicaSet", "replicasets", "io.k8s.api.apps.v1", ReplicaSetStrategy)
    }
}

struct ReplicaSetStrategy;

impl Strategy for ReplicaSetStrategy {
    fn default(&self, object: &mut Value) {
        if let Some(spec) = make_child(object, "spec") {
            default_to(spec, "replicas", 1);
            podtemplate::default_within(spec);
        }
    }

    fn validate(&self, object: &Value, causes: &mut FieldErrors) {
        let (spec, path) = (object.at("spec"), Path::new("spec"));
        not_negative(spec.int("replicas"), path.field("replicas"), causes);
        not_negative(spec.int("minReadySeconds"), path.field("minReadySeconds"), causes);
        podtemplate::validate_selected(spec, path, causes);
    }

    fn validate_update(&self, new: &Value, old: &Value, causes: &mut FieldErrors) {
        unchanged(new.pointer("/spec/selector"), old.pointer("/spec/selector"), Path::new("spec.selector"), causes);
    }

    fn validate_subresource(&self, subresource: &str, new: &Value, old: &Value, causes: &mut FieldErrors) {
        if subresource == "status" {
            let parts = ["fullyLabeledReplicas", "readyReplicas", "availableReplicas"];
            podtemplate::validate_counts(new.at("status"), &parts, &["observedGeneration", "terminatingReplicas"], causes);
        } else {
            self.validate(new, causes);
            self.validate_update(new, old, causes);
        }
    }

    fn warnings(&self, new: &Value, old: Option<&Value>) -> Vec<String> {
        podtemplate::warnings(new, old)
    }

    fn cells(&self, object: &Value, now: Timestamp) -> Vec<Value> {
        set_cells(object, selector::print(object.pointer("/spec/selector")), now)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn object() -> Value {
        let mut object = json!({"metadata": {"name": "web"}, "spec": {
            "selector": {"matchLabels": {"app": "web"}},
            "template": {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "a", "image": "nginx:1"}]}}}});
        ReplicaSetStrategy.default(&mut object);
        object
    }

    fn texts(check: impl Fn(&mut FieldErrors)) -> Vec<String> {
        let mut causes = FieldErrors::default();
        check(&mut causes);
        causes.0.iter().map(|c| c.text()).collect()
    }

    #[test]
    fn a_good_one_passes_with_defaults() {
        let found = object();
        assert_eq!(found["spec"]["replicas"], 1);
        assert_eq!(found["spec"]["template"]["spec"]["dnsPolicy"], "ClusterFirst");
        assert!(found["spec"]["template"]["spec"].get("enableServiceLinks").is_none(), "that one is for pods only");
        assert_eq!(texts(|c| ReplicaSetStrategy.validate(&found, c)), Vec::<String>::new());
    }

    #[test]
    fn selectors_must_be_there_match_and_stay() {
        let mut none = object();
        none["spec"]["selector"] = Value::Null;
        let unmatched = "spec.template.metadata.labels: Invalid value: {\"app\":\"web\"}: `selector` does not match template `labels`";
        assert_eq!(texts(|c| ReplicaSetStrategy.validate(&none, c)), ["spec.selector: Required value", unmatched]);
        let mut other = object();
        other["spec"]["selector"] = json!({"matchLabels": {"app": "x"}});
        let wanted = r#"spec.template.metadata.labels: Invalid value: {"app":"web"}: `selector` does not match template `labels`"#;
        assert_eq!(texts(|c| ReplicaSetStrategy.validate(&other, c)), [wanted]);
        let wanted = r#"spec.selector: Invalid value: {"matchLabels":{"app":"x"}}: field is immutable"#;
        assert_eq!(texts(|c| ReplicaSetStrategy.validate_update(&other, &object(), c)), [wanted]);
    }

    #[test]
    fn status_counts_fit_together() {
        let status = json!({"status": {"replicas": 1, "readyReplicas": 2, "availableReplicas": 3, "fullyLabeledReplicas": -1}});
        let found = texts(|c| ReplicaSetStrategy.validate_subresource("status", &status, &status, c));
        let wanted = [
            "status.fullyLabeledReplicas: Invalid value: -1: must be greater than or equal to 0",
            "status.readyReplicas: Invalid value: 2: cannot be greater than status.replicas",
            "status.availableReplicas: Invalid value: 3: cannot be greater than status.replicas",
            "status.availableReplicas: Invalid value: 3: cannot be greater than readyReplicas",
        ];
        assert_eq!(found, wanted);
    }
}
