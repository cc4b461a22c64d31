//! Deployment: replica sets, one per revision of a template. Source: `pkg/registry/apps/deployment`, `pkg/apis/apps`.

use std::borrow::Cow;

use api::{field_errors::FieldErrors, time::Timestamp};
use apiserver::kind::{Column, Ctx, Kind, Strategy, names};
use serde_json::{Value, json};

use crate::{
    common::{
        self, Path, Read,
        amount::{amount, at_most_all, int_or_percent},
        edit::{carry, child, default_text, default_to, make_child},
        not_negative,
        read::{count, name},
        selector,
        table::{AGE_COLUMN, CONTAINERS_COLUMN, IMAGES_COLUMN, NAME_COLUMN, age, column, containers_cells, wide},
        unchanged,
    },
    podtemplate,
    replicationcontroller::scale,
};

const COLUMNS: &[Column] = &[
    NAME_COLUMN,
    column("Ready", "string", "Number of the pod with ready state"),
    column("Up-to-date", "string", "Total number of non-terminating pods targeted by this deployment that have the desired template spec."),
    column(
        "Available",
        "string",
        "Total number of available non-terminating pods (ready for at least minReadySeconds) targeted by this deployment.",
    ),
    AGE_COLUMN,
    CONTAINERS_COLUMN,
    IMAGES_COLUMN,
    wide(
        "Selector",
        "string",
        "Label selector for pods. Existing ReplicaSets whose pods are selected by this will be the ones affected by this deployment. It must match the pod template's labels.",
    ),
];

pub fn kind() -> Kind {
    Kind {
        short_names: names(&["deploy"]),
        categories: names(&["all"]),
        subresources: vec![scale("/spec/selector"), common::status("apps", "v1", "Deployment")],
        columns: Cow::Borrowed(COLUMNS),
        generation: true,
        ..common::kind("apps", "v1", "Deployment", "deployments", "io.k8s.api.apps.v1", DeploymentStrategy)
    }
}

struct DeploymentStrategy;

impl Strategy for DeploymentStrategy {
    fn reset_fields(&self, subresource: &str) -> Option<&'static [&'static [&'static str]]> {
        (subresource == "status").then_some(&[&["spec"], &["metadata", "labels"]])
    }

    fn default(&self, object: &mut Value) {
        if let Some(spec) = make_child(object, "spec") {
            default_to(spec, "replicas", 1);
            if let Some(strategy) = make_child(spec, "strategy") {
                default_strategy(strategy);
            }
            default_to(spec, "revisionHistoryLimit", 10);
            default_to(spec, "progressDeadlineSeconds", 600);
            podtemplate::default_within(spec);
        }
    }

    fn prepare_subresource(&self, ctx: &Ctx<'_>, new: &mut Value, old: &Value) {
        if ctx.subresource != "status" {
            return;
        }
        if let (Some(metadata), Some(before)) = (child(new, "metadata"), old.get("metadata")) {
            carry(metadata, before, "labels");
        }
    }

    fn validate(&self, object: &Value, causes: &mut FieldErrors) {
        let (spec, path) = (object.at("spec"), Path::new("spec"));
        not_negative(spec.int("replicas"), path.field("replicas"), causes);
        podtemplate::validate_selected(spec, path, causes);
        strategy(spec.at("strategy"), path.field("strategy"), causes);
        for name in ["minReadySeconds", "revisionHistoryLimit", "progressDeadlineSeconds"] {
            not_negative(spec.int(name), path.field(name), causes);
        }
        let ready = spec.int("minReadySeconds").unwrap_or(0);
        if let Some(deadline) = spec.int("progressDeadlineSeconds").filter(|d| *d <= ready) {
            causes.invalid(path.field("progressDeadlineSeconds"), deadline, "must be greater than minReadySeconds");
        }
    }

    fn validate_update(&self, new: &Value, old: &Value, causes: &mut FieldErrors) {
        unchanged(new.pointer("/spec/selector"), old.pointer("/spec/selector"), Path::new("spec.selector"), causes);
    }

    fn validate_subresource(&self, subresource: &str, new: &Value, old: &Value, causes: &mut FieldErrors) {
        if subresource != "status" {
            self.validate(new, causes);
            self.validate_update(new, old, causes);
            return;
        }
        let status = new.at("status");
        let parts = ["updatedReplicas", "readyReplicas", "availableReplicas"];
        let others = ["observedGeneration", "unavailableReplicas", "terminatingReplicas", "collisionCount"];
        podtemplate::validate_counts(status, &parts, &others, causes);
        podtemplate::collisions(new, old, causes);
    }

    fn warnings(&self, new: &Value, old: Option<&Value>) -> Vec<String> {
        podtemplate::warnings(new, old)
    }

    /// `PrepareForUpdate`, in upstream's strategy.
    fn counted_metadata(&self) -> &'static [&'static str] {
        &["annotations"]
    }

    fn cells(&self, object: &Value, now: Timestamp) -> Vec<Value> {
        let [names, images] = containers_cells(object.pointer("/spec/template/spec"));
        let ready = format!("{}/{}", count(object, "/status/readyReplicas"), count(object, "/spec/replicas"));
        let selector = match selector::parse(object.pointer("/spec/selector")) {
            Err(_) => "<invalid>".to_owned(),
            Ok(found) => found.map(|s| s.to_string()).unwrap_or_default(),
        };
        vec![
            name(object).into(),
            ready.into(),
            count(object, "/status/updatedReplicas").into(),
            count(object, "/status/availableReplicas").into(),
            age(object, now),
            names,
            images,
            selector.into(),
        ]
    }
}

fn default_strategy(strategy: &mut Value) {
    default_text(strategy, "type", "RollingUpdate");
    if strategy.text("type") != "RollingUpdate" {
        return;
    }
    default_to(strategy, "rollingUpdate", json!({}));
    if let Some(rolling) = child(strategy, "rollingUpdate") {
        default_to(rolling, "maxUnavailable", "25%");
        default_to(rolling, "maxSurge", "25%");
    }
}

/// `ValidateDeploymentStrategy`
fn strategy(strategy: Option<&Value>, path: Path<'_>, causes: &mut FieldErrors) {
    let (rolling, at) = (strategy.at("rollingUpdate"), path.field("rollingUpdate"));
    match strategy.text("type") {
        "Recreate" if rolling.is_some() => causes.forbidden(at, "may not be specified when strategy `type` is 'Recreate'"),
        "Recreate" => {}
        "RollingUpdate" if rolling.is_none() => causes.required(at, "this should be defaulted and never be nil"),
        "RollingUpdate" => rolling_update(rolling, at, causes),
        _ => causes.not_supported(path, strategy.cloned().unwrap_or(Value::Null), &["Recreate", "RollingUpdate"]),
    }
}

fn rolling_update(rolling: Option<&Value>, path: Path<'_>, causes: &mut FieldErrors) {
    let (unavailable, surge) = (rolling.at("maxUnavailable"), rolling.at("maxSurge"));
    let at = path.field("maxUnavailable");
    int_or_percent(unavailable, at, causes);
    int_or_percent(surge, path.field("maxSurge"), causes);
    if amount(unavailable) == 0 && amount(surge) == 0 {
        causes.invalid(at, unavailable.cloned().unwrap_or(Value::Null), "may not be 0 when `maxSurge` is 0");
    }
    at_most_all(unavailable, at, causes);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(strategy: Value) -> Value {
        let mut object = json!({"metadata": {"name": "web"}, "spec": {
            "selector": {"matchLabels": {"app": "web"}}, "strategy": strategy,
            "template": {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "a", "image": "nginx:1"}, {"name": "b", "image": "c"}]}}}});
        DeploymentStrategy.default(&mut object);
        object
    }

    fn causes(object: &Value) -> Vec<String> {
        let mut causes = FieldErrors::default();
        DeploymentStrategy.validate(object, &mut causes);
        causes.0.iter().map(|c| c.text()).collect()
    }

    #[test]
    fn defaults_are_upstreams() {
        let found = object(json!({}));
        let spec = &found["spec"];
        assert_eq!(spec["strategy"], json!({"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": "25%", "maxSurge": "25%"}}));
        assert_eq!(
            (&spec["replicas"], &spec["revisionHistoryLimit"], &spec["progressDeadlineSeconds"]),
            (&json!(1), &json!(10), &json!(600))
        );
        assert_eq!(causes(&found), Vec::<String>::new());
        assert_eq!(object(json!({"type": "Recreate"}))["spec"]["strategy"], json!({"type": "Recreate"}));
    }

    #[test]
    fn strategies_have_rules() {
        let rolling = |unavailable: Value, surge: Value| json!({"rollingUpdate": {"maxUnavailable": unavailable, "maxSurge": surge}});
        let cases = [
            (
                rolling(json!(0), json!("0%")),
                vec!["spec.strategy.rollingUpdate.maxUnavailable: Invalid value: 0: may not be 0 when `maxSurge` is 0"],
            ),
            (
                rolling(json!("101%"), json!(1)),
                vec![r#"spec.strategy.rollingUpdate.maxUnavailable: Invalid value: "101%": must not be greater than 100%"#],
            ),
            (
                rolling(json!(-1), json!(1)),
                vec!["spec.strategy.rollingUpdate.maxUnavailable: Invalid value: -1: must be greater than or equal to 0"],
            ),
            (
                json!({"type": "Recreate", "rollingUpdate": {}}),
                vec!["spec.strategy.rollingUpdate: Forbidden: may not be specified when strategy `type` is 'Recreate'"],
            ),
            (
                json!({"type": "X"}),
                vec![r#"spec.strategy: Unsupported value: {"type":"X"}: supported values: "Recreate", "RollingUpdate""#],
            ),
        ];
        for (strategy, wanted) in cases {
            assert_eq!(causes(&object(strategy)), wanted);
        }
    }

    #[test]
    fn the_deadline_is_after_readiness() {
        let mut bad = object(json!({}));
        bad["spec"]["minReadySeconds"] = json!(600);
        assert_eq!(causes(&bad), ["spec.progressDeadlineSeconds: Invalid value: 600: must be greater than minReadySeconds"]);
    }

    #[test]
    fn cells_are_upstreams() {
        let mut object = object(json!({}));
        object["status"] = json!({"replicas": 2, "readyReplicas": 1, "updatedReplicas": 2, "availableReplicas": 1});
        let cells = DeploymentStrategy.cells(&object, api::time::parse("2026-01-01T00:00:00Z").unwrap());
        let wanted = json!(["web", "1/1", 2, 1, "<unknown>", "a,b", "nginx:1,c", "app=web"]);
        assert_eq!(Value::Array(cells.clone()), wanted);
        assert_eq!(cells.len(), COLUMNS.len());
    }
}
