//! ReplicationController: keeps a number of pods, by a plain map of labels. Source: `pkg/registry/core/replicationcontroller`.

use std::borrow::Cow;

use api::{Gvk, field_errors::FieldErrors, time::Timestamp};
use apiserver::kind::{Column, Field, Handler, Kind, ScalePaths, Strategy, Subresource, names};
use serde_json::Value;

use crate::{
    common::{
        self, Path, Read,
        edit::{default_to, make_child, set},
        not_negative,
        read::{count, name},
        selector,
        table::{AGE_COLUMN, CONTAINERS_COLUMN, IMAGES_COLUMN, NAME_COLUMN, age, column, containers_cells, field, wide},
    },
    podtemplate,
};

pub const COLUMNS: &[Column] = &[
    NAME_COLUMN,
    column(
        "Desired",
        "integer",
        "Replicas is the number of desired replicas. This is a pointer to distinguish between explicit zero and unspecified. Defaults to 1. More info: https://kubernetes.io/docs/concepts/workloads/controllers/replicationcontroller#what-is-a-replicationcontroller",
    ),
    column(
        "Current",
        "integer",
        "Replicas is the most recently observed number of replicas. More info: https://kubernetes.io/docs/concepts/workloads/controllers/replicationcontroller#what-is-a-replicationcontroller",
    ),
    column("Ready", "integer", "The number of ready replicas for this replication controller."),
    AGE_COLUMN,
    CONTAINERS_COLUMN,
    IMAGES_COLUMN,
    wide(
        "Selector",
        "string",
        "Selector is a label query over pods that should match the Replicas count. If Selector is empty, it is defaulted to the labels present on the Pod template. Label keys and values that must match in order to be controlled by this replication controller, if empty defaulted to labels on Pod template. More info: https://kubernetes.io/docs/concepts/overview/working-with-objects/labels/#label-selectors",
    ),
];

const FIELDS: &[Field] = &[field("status.replicas", "/status/replicas", "0")];

pub fn kind() -> Kind {
    Kind {
        short_names: names(&["rc"]),
        categories: names(&["all"]),
        storage: apiserver::kind::Storage::Kept { prefix: "controllers".into(), ttl_seconds: None },
        subresources: vec![scale("/spec/selector"), common::status("", "v1", "ReplicationController")],
        columns: Cow::Borrowed(COLUMNS),
        fields: Cow::Borrowed(FIELDS),
        generation: true,
        ..common::kind("", "v1", "ReplicationController", "replicationcontrollers", "io.k8s.api.core.v1", ReplicationControllerStrategy)
    }
}

/// The `scale` subresource of a workload that counts `spec.replicas` and `status.replicas`.
pub fn scale(selector: &'static str) -> Subresource {
    Subresource {
        name: "scale".into(),
        body: Gvk::new("autoscaling", "v1", "Scale"),
        schema: crate::schema::built_in("io.k8s.api.autoscaling.v1.Scale".into()),
        verbs: names(common::OBJECT_VERBS),
        handler: Handler::Scale(ScalePaths {
            spec_replicas: "/spec/replicas".into(),
            status_replicas: "/status/replicas".into(),
            selector: selector.into(),
        }),
    }
}

struct ReplicationControllerStrategy;

impl Strategy for ReplicationControllerStrategy {
    fn name_error(&self, name: &str) -> Option<String> {
        common::long_name_error(name)
    }

    fn default(&self, object: &mut Value) {
        let labels = object.pointer("/spec/template/metadata/labels").filter(|l| l.as_object().is_some_and(|l| !l.is_empty())).cloned();
        if let Some(spec) = make_child(object, "spec") {
            default_to(spec, "replicas", 1);
            if let Some(labels) = labels.as_ref().filter(|_| spec.object("selector").is_none_or(|s| s.is_empty())) {
                set(spec, "selector", labels.clone());
            }
        }
        let bare = object.at("metadata").object("labels").is_none_or(|l| l.is_empty());
        if let (Some(labels), true) = (labels, bare)
            && let Some(metadata) = make_child(object, "metadata")
        {
            set(metadata, "labels", labels);
        }
        podtemplate::default(object);
    }

    fn validate(&self, object: &Value, causes: &mut FieldErrors) {
        let (spec, path) = (object.at("spec"), Path::new("spec"));
        not_negative(spec.int("minReadySeconds"), path.field("minReadySeconds"), causes);
        let wanted = spec.object("selector").filter(|s| !s.is_empty());
        if wanted.is_none() {
            causes.required(path.field("selector"), "");
        }
        not_negative(spec.int("replicas"), path.field("replicas"), causes);
        let labels = spec.at("template").at("metadata").at("labels");
        let matches = wanted.into_iter().flatten().all(|(key, value)| labels.at(key) == Some(value));
        podtemplate::validate_running(spec.at("template"), matches, "ReplicationController", path.field("template"), causes);
    }

    fn validate_subresource(&self, subresource: &str, new: &Value, _old: &Value, causes: &mut FieldErrors) {
        if subresource == "status" {
            let parts = ["fullyLabeledReplicas", "readyReplicas", "availableReplicas"];
            podtemplate::validate_counts(new.at("status"), &parts, &["observedGeneration"], causes);
        } else {
            self.validate(new, causes);
        }
    }

    fn warnings(&self, new: &Value, old: Option<&Value>) -> Vec<String> {
        podtemplate::warnings(new, old)
    }

    fn orphans_by_default(&self) -> bool {
        true
    }

    fn cells(&self, object: &Value, now: Timestamp) -> Vec<Value> {
        set_cells(object, selector::print_map(object.pointer("/spec/selector")), now)
    }
}

/// The cells of what keeps a number of pods; `selector` as it is printed.
pub fn set_cells(object: &Value, selector: String, now: Timestamp) -> Vec<Value> {
    let [names, images] = containers_cells(object.pointer("/spec/template/spec"));
    let [desired, current, ready] =
        ["/spec/replicas", "/status/replicas", "/status/readyReplicas"].map(|pointer| count(object, pointer).into());
    vec![name(object).into(), desired, current, ready, age(object, now), names, images, selector.into()]
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn object() -> Value {
        let mut object = json!({"metadata": {"name": "web"}, "spec": {"template": {
            "metadata": {"labels": {"app": "web"}, "creationTimestamp": null}, "spec": {"containers": [{"name": "a", "image": "nginx:1"}]}}}});
        ReplicationControllerStrategy.default(&mut object);
        object
    }

    fn causes(object: &Value) -> Vec<String> {
        let mut causes = FieldErrors::default();
        ReplicationControllerStrategy.validate(object, &mut causes);
        causes.0.iter().map(|c| c.text()).collect()
    }

    #[test]
    fn selector_labels_and_count_come_from_the_template() {
        let found = object();
        assert_eq!(found["spec"]["selector"], json!({"app": "web"}));
        assert_eq!(found["metadata"]["labels"], json!({"app": "web"}));
        assert_eq!(found["spec"]["replicas"], 1);
        assert_eq!(found["spec"]["template"]["metadata"], json!({"labels": {"app": "web"}}));
        assert_eq!(causes(&found), Vec::<String>::new());
    }

    #[test]
    fn what_is_wrong_is_named() {
        let mut bad = object();
        bad["spec"]["selector"] = json!({"app": "other"});
        bad["spec"]["replicas"] = json!(-1);
        bad["spec"]["template"]["spec"]["restartPolicy"] = json!("Never");
        let wanted = [
            "spec.replicas: Invalid value: -1: must be greater than or equal to 0",
            r#"spec.template.metadata.labels: Invalid value: {"app":"web"}: `selector` does not match template `labels`"#,
            r#"spec.template.spec.restartPolicy: Unsupported value: "Never": supported values: "Always""#,
        ];
        assert_eq!(causes(&bad), wanted);
        assert_eq!(causes(&json!({"spec": {"replicas": 1}})), ["spec.selector: Required value", "spec.template: Required value"]);
    }

    #[test]
    fn cells_are_upstreams() {
        let mut object = object();
        object["status"] = json!({"replicas": 2, "readyReplicas": 1});
        let cells = ReplicationControllerStrategy.cells(&object, api::time::parse("2026-01-01T00:00:00Z").unwrap());
        assert_eq!(cells, [json!("web"), json!(1), json!(2), json!(1), json!("<unknown>"), json!("a"), json!("nginx:1"), json!("app=web")]);
        assert_eq!(cells.len(), COLUMNS.len());
    }
}
