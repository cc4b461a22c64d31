//! HorizontalPodAutoscaler: how many replicas a workload shall have by what is measured; stored as v2, shown as v1 too.
//!
//! Source: `pkg/registry/autoscaling/horizontalpodautoscaler`, `pkg/apis/autoscaling`.

mod cells;
mod convert;
mod metrics;
mod reference;
mod validate;

use std::{borrow::Cow, sync::Arc};

use api::{field_errors::FieldErrors, time::Timestamp};
use apiserver::kind::{Column, Conversion, Kind, Name, Storage, Strategy, names};
use serde_json::{Value, json};

use crate::common::{
    self, Path, Read,
    edit::{child, default_to, each, make_child, set},
    not_negative,
    resources::canonical_field,
    table::{AGE_COLUMN, NAME_COLUMN, column},
};

const GROUP: &str = "autoscaling";
const PLURAL: &str = "horizontalpodautoscalers";
/// Of CPU, where nothing else is measured.
const UTILIZATION: i64 = 80;
/// Per metric: what it is measured by, in v2.
const SOURCES: &[&str] = &["object", "external", "pods", "resource", "containerResource"];
const COLUMNS: &[Column] = &[
    NAME_COLUMN,
    column(
        "Reference",
        "string",
        "scaleTargetRef points to the target resource to scale, and is used to the pods for which metrics should be collected, as well as to actually change the replica count.",
    ),
    column(
        "Targets",
        "string",
        "metrics contains the specifications for which to use to calculate the desired replica count (the maximum replica count across all metrics will be used).  The desired replica count is calculated multiplying the ratio between the target value and the current value by the current number of pods.  Ergo, metrics used must decrease as the pod count is increased, and vice-versa.  See the individual metric source types for more information about how each type of metric must respond. If not set, the default metric will be set to 80% average CPU utilization.",
    ),
    column(
        "MinPods",
        "string",
        "minReplicas is the lower limit for the number of replicas to which the autoscaler can scale down.  It defaults to 1 pod.  minReplicas is allowed to be 0 if the alpha feature gate HPAScaleToZero is enabled and at least one Object or External metric is configured.  Scaling is active as long as at least one metric value is available.",
    ),
    column(
        "MaxPods",
        "string",
        "maxReplicas is the upper limit for the number of replicas to which the autoscaler can scale up. It cannot be less that minReplicas.",
    ),
    column(
        "Replicas",
        "string",
        "currentReplicas is current number of replicas of pods managed by this autoscaler, as last seen by the autoscaler.",
    ),
    AGE_COLUMN,
];

/// `autoscaling/v2`: the stored shape.
pub fn kind() -> Kind {
    of("v2", "io.k8s.api.autoscaling.v2", Autoscalers)
}

/// `autoscaling/v1`
pub fn v1_kind() -> Kind {
    let name = Name::Borrowed;
    Kind {
        storage: Storage::As { group: name(GROUP), version: name("v2"), plural: name(PLURAL) },
        conversion: Conversion::Direct(Arc::new(|to, object| if to.version == "v2" { stored(object) } else { convert::to_v1(object) })),
        ..of("v1", "io.k8s.api.autoscaling.v1", OldAutoscalers)
    }
}

fn of(version: &'static str, package: &str, strategy: impl Strategy + 'static) -> Kind {
    Kind {
        short_names: names(&["hpa"]),
        categories: names(&["all"]),
        subresources: vec![common::status(GROUP, version, "HorizontalPodAutoscaler")],
        columns: Cow::Borrowed(COLUMNS),
        ..common::kind(GROUP, version, "HorizontalPodAutoscaler", PLURAL, package, strategy)
    }
}

struct Autoscalers;

/// Those in v1's shape: each rule is v2's.
struct OldAutoscalers;

impl Strategy for Autoscalers {
    fn default(&self, object: &mut Value) {
        default(object);
    }

    fn validate_create(&self, object: &Value, causes: &mut FieldErrors) {
        validate::spec(object.at("spec"), None, causes);
    }

    fn validate_update(&self, new: &Value, old: &Value, causes: &mut FieldErrors) {
        validate::spec(new.at("spec"), old.at("spec"), causes);
    }

    fn validate_subresource(&self, _subresource: &str, new: &Value, _old: &Value, causes: &mut FieldErrors) {
        let (status, path) = (new.at("status"), Path::new("status"));
        ["currentReplicas", "desiredReplicas"].into_iter().for_each(|field| not_negative(status.int(field), path.field(field), causes));
    }

    fn cells(&self, object: &Value, now: Timestamp) -> Vec<Value> {
        cells::of(object, now)
    }
}

impl Strategy for OldAutoscalers {
    fn default(&self, object: &mut Value) {
        convert::renew_annotations(object);
        let is_told_of_metrics = convert::has_metrics(object);
        if let Some(spec) = make_child(object, "spec") {
            default_to(spec, "minReplicas", 1);
            // Upstream does so as it converts.
            if !is_told_of_metrics {
                default_to(spec, "targetCPUUtilizationPercentage", UTILIZATION);
            }
        }
    }

    fn validate_create(&self, object: &Value, causes: &mut FieldErrors) {
        Autoscalers.validate_create(&convert::to_v2(object.clone()), causes);
    }

    fn validate_update(&self, new: &Value, old: &Value, causes: &mut FieldErrors) {
        Autoscalers.validate_update(&convert::to_v2(new.clone()), &convert::to_v2(old.clone()), causes);
    }

    fn validate_subresource(&self, subresource: &str, new: &Value, old: &Value, causes: &mut FieldErrors) {
        Autoscalers.validate_subresource(subresource, new, old, causes);
    }

    fn cells(&self, object: &Value, now: Timestamp) -> Vec<Value> {
        cells::of(&convert::to_v2(object.clone()), now)
    }
}

/// In the stored shape, complete as what is read from there is upstream.
fn stored(object: Value) -> Value {
    let mut out = convert::to_v2(object);
    default(&mut out);
    out
}

/// `SetDefaults_HorizontalPodAutoscaler` of v2.
fn default(object: &mut Value) {
    let Some(spec) = make_child(object, "spec") else { return };
    default_to(spec, "minReplicas", 1);
    if spec.list("metrics").is_empty() {
        let target = json!({"type": "Utilization", "averageUtilization": UTILIZATION});
        set(spec, "metrics", json!([{"type": "Resource", "resource": {"name": "cpu", "target": target}}]));
    }
    each(spec, "metrics").for_each(|metric| canonical(metric, "target"));
    if let Some(behavior) = child(spec, "behavior") {
        let policy = |typ: &str, value: i64| json!({"type": typ, "value": value, "periodSeconds": 15});
        rules(behavior, "scaleUp", json!([policy("Pods", 4), policy("Percent", 100)]));
        rules(behavior, "scaleDown", json!([policy("Percent", 100)]));
        if let Some(up) = child(behavior, "scaleUp") {
            default_to(up, "stabilizationWindowSeconds", 0);
        }
    }
    for metric in child(object, "status").into_iter().flat_map(|status| each(status, "currentMetrics")) {
        canonical(metric, "current");
    }
}

/// The amounts of a metric, of what is wanted or of what is.
fn canonical(metric: &mut Value, part: &str) {
    for source in SOURCES {
        if let Some(amounts) = metric.get_mut(*source).and_then(|source| source.get_mut(part)) {
            ["value", "averageValue"].into_iter().for_each(|field| canonical_field(amounts, field));
        }
    }
}

fn rules(behavior: &mut Value, direction: &str, policies: Value) {
    let Some(rules) = make_child(behavior, direction) else { return };
    default_to(rules, "selectPolicy", "Max");
    default_to(rules, "policies", policies);
    canonical_field(rules, "tolerance");
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) fn object(spec: Value) -> Value {
        let target = json!({"apiVersion": "apps/v1", "kind": "Deployment", "name": "web"});
        let mut object = json!({"apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler", "metadata": {"name": "a"},
            "spec": {"scaleTargetRef": target, "maxReplicas": 5}});
        object["spec"].as_object_mut().unwrap().extend(spec.as_object().cloned().unwrap());
        Autoscalers.default(&mut object);
        object
    }

    #[test]
    fn defaults_are_upstreams() {
        let found = object(json!({"behavior": {"scaleDown": {"selectPolicy": "Disabled", "tolerance": "0.10"}}}));
        assert_eq!(found["spec"]["minReplicas"], 1);
        assert_eq!(
            found["spec"]["metrics"],
            json!([{"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 80}}}])
        );
        let wanted = json!({
            "scaleDown": {"selectPolicy": "Disabled", "tolerance": "100m", "policies": [{"type": "Percent", "value": 100, "periodSeconds": 15}]},
            "scaleUp": {"selectPolicy": "Max", "stabilizationWindowSeconds": 0, "policies": [
                {"type": "Pods", "value": 4, "periodSeconds": 15}, {"type": "Percent", "value": 100, "periodSeconds": 15}]},
        });
        assert_eq!(found["spec"]["behavior"], wanted);
        let pods = object(
            json!({"metrics": [{"type": "Pods", "pods": {"metric": {"name": "m"}, "target": {"type": "AverageValue", "averageValue": "1.5k"}}}]}),
        );
        assert_eq!(pods["spec"]["metrics"][0]["pods"]["target"]["averageValue"], "1500");
    }

    #[test]
    fn what_v1_leaves_out_is_what_v2_defaults_to() {
        let old = json!({"apiVersion": "autoscaling/v1", "kind": "HorizontalPodAutoscaler", "metadata": {"name": "a"}, "spec": {"maxReplicas": 2}});
        let shown = convert::to_v1(stored(old));
        assert_eq!((&shown["spec"]["minReplicas"], &shown["spec"]["targetCPUUtilizationPercentage"]), (&json!(1), &json!(80)));
    }
}
