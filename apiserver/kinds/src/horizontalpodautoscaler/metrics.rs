//! The metrics of an autoscaler -> what is wrong with them. Source: `validateMetrics` in `pkg/apis/autoscaling/validation`.

use api::field_errors::FieldErrors;
use serde_json::Value;

use super::{
    SOURCES,
    reference::{Version, reference, version_error},
};
use crate::common::{Path, Read, name_rules, not_supported, resources::quantity, well_formed};

const TYPES: &[&str] = &["ContainerResource", "External", "Object", "Pods", "Resource"];
const EITHER: &str = "must set either a target raw value or a target utilization";

/// The metrics of `spec`; `old` is that of an update.
pub fn validate(spec: Option<&Value>, old: Option<&Value>, path: Path<'_>, causes: &mut FieldErrors) {
    let had_bad = old.list("metrics").iter().any(|metric| {
        let described = metric.at("object").at("describedObject");
        metric.text("type") == "Object" && described.is_some() && version_error(described.text("apiVersion"), Version::Core).is_some()
    });
    let version = if had_bad { Version::Any } else { Version::Core };
    for (i, metric) in spec.list("metrics").iter().enumerate() {
        one(metric, version, path.index(i), causes);
    }
    let scales_by = |metric: &Value| matches!(metric.text("type"), "Object" | "External");
    if spec.int("minReplicas") == Some(0) && !spec.list("metrics").iter().any(scales_by) {
        causes.forbidden(path, "must specify at least one Object or External metric to support scaling to zero replicas");
    }
}

/// `validateMetricSpec`
fn one(metric: &Value, version: Version, path: Path<'_>, causes: &mut FieldErrors) {
    let typ = metric.text("type");
    if typ.is_empty() {
        causes.required(path.field("type"), "must specify a metric source type");
    }
    if !TYPES.contains(&typ) {
        // Upstream says it twice.
        (0..2).for_each(|_| not_supported(typ, TYPES, path.field("type"), causes));
    }
    let present: Vec<&str> = SOURCES.iter().copied().filter(|source| metric.at(source).is_some()).collect();
    if let Some(first) = present.first() {
        source(first, metric.at(first), version, path.field(first), causes);
    }
    let expected = SOURCES.iter().copied().find(|source| is_source_of(source, typ));
    if let Some(expected) = expected.filter(|source| metric.at(source).is_none()) {
        causes.required(path.field(expected), "must populate information for the given metric source");
    }
    if present.len() > 1 {
        for other in present.into_iter().filter(|source| Some(*source) != expected) {
            causes.forbidden(path.field(other), "must populate the given metric source only");
        }
    }
}

/// `containerResource` is the source of type `ContainerResource`.
fn is_source_of(source: &str, typ: &str) -> bool {
    source.len() == typ.len() && source.eq_ignore_ascii_case(typ) && TYPES.contains(&typ)
}

fn source(name: &str, source: Option<&Value>, version: Version, path: Path<'_>, causes: &mut FieldErrors) {
    let (target, at) = (source.at("target"), path.field("target"));
    let has = |field: &str| target.at(field).is_some();
    match name {
        "object" => {
            reference(source.at("describedObject"), version, path.field("describedObject"), causes);
            identifier(source.at("metric"), path.field("metric"), causes);
        }
        "external" | "pods" => identifier(source.at("metric"), path.field("metric"), causes),
        _ => {
            if source.text("name").is_empty() {
                causes.required(path.field("name"), "must specify a resource name");
            }
            if name == "containerResource" {
                container(source.text("container"), path.field("container"), causes);
            }
        }
    }
    validate_target(target, at, causes);
    let (value, average, utilization) = (has("value"), has("averageValue"), has("averageUtilization"));
    match name {
        "object" if !value && !average => causes.required(at.field("averageValue"), "must set either a target value or averageValue"),
        "external" if !value && !average => {
            causes.required(at.field("averageValue"), "must set either a target value for metric or a per-pod target");
        }
        "external" if value && average => {
            causes.forbidden(at.field("value"), "may not set both a target value for metric and a per-pod target");
        }
        "pods" if !average => causes.required(at.field("averageValue"), "must specify a positive target averageValue"),
        "resource" | "containerResource" if !utilization && !average => causes.required(at.field("averageUtilization"), EITHER),
        "resource" | "containerResource" if utilization && average => {
            causes.forbidden(at.field("averageValue"), "may not set both a target raw value and a target utilization");
        }
        _ => {}
    }
}

fn container(name: &str, path: Path<'_>, causes: &mut FieldErrors) {
    if name.is_empty() {
        causes.required(path, "must specify a container");
    } else {
        well_formed(name, name_rules::dns_label(name), path, causes);
    }
}

fn identifier(metric: Option<&Value>, path: Path<'_>, causes: &mut FieldErrors) {
    let name = metric.text("name");
    if name.is_empty() {
        causes.required(path.field("name"), "must specify a metric name");
    } else {
        well_formed(name, name_rules::path_segment(name), path.field("name"), causes);
    }
}

/// `validateMetricTarget`
fn validate_target(target: Option<&Value>, path: Path<'_>, causes: &mut FieldErrors) {
    let typ = target.text("type");
    if typ.is_empty() {
        causes.required(path.field("type"), "must specify a metric target type");
    }
    if !matches!(typ, "Utilization" | "Value" | "AverageValue") {
        causes.invalid(path.field("type"), typ, "must be either Utilization, Value, or AverageValue");
    }
    for field in ["value", "averageValue"] {
        if let Some(amount) = target.at(field).and_then(quantity).filter(|amount| amount.is_negative() || amount.is_zero()) {
            causes.invalid(path.field(field), amount.to_string(), "must be positive");
        }
    }
    if let Some(percent) = target.int("averageUtilization").filter(|percent| *percent < 1) {
        causes.invalid(path.field("averageUtilization"), percent, "must be greater than 0");
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{super::tests::object, *};

    #[test]
    fn each_source_has_its_rules() {
        let metric = |name: &str, typ: &str, source: Value| json!({"type": typ, name: source});
        let by = |target: Value| json!({"name": "cpu", "target": target});
        let cases = [
            (
                metric("resource", "Resource", by(json!({"type": "Utilization", "averageUtilization": 0}))),
                vec!["resource.target.averageUtilization: Invalid value: 0: must be greater than 0".to_owned()],
            ),
            (
                metric("resource", "Resource", by(json!({"type": "Utilization"}))),
                vec![format!("resource.target.averageUtilization: Required value: {EITHER}")],
            ),
            (
                metric("containerResource", "ContainerResource", by(json!({"type": "Utilization", "averageUtilization": 1}))),
                vec!["containerResource.container: Required value: must specify a container".to_owned()],
            ),
            (
                metric("external", "External", json!({"metric": {"name": "m"}, "target": {"type": "Value", "value": "-1"}})),
                vec![r#"external.target.value: Invalid value: "-1": must be positive"#.to_owned()],
            ),
            (
                metric("pods", "Pods", json!({"metric": {}, "target": {"type": "Value", "value": "1"}})),
                vec![
                    "pods.metric.name: Required value: must specify a metric name".to_owned(),
                    "pods.target.averageValue: Required value: must specify a positive target averageValue".to_owned(),
                ],
            ),
            (
                metric("pods", "Object", json!({"metric": {"name": "m"}, "target": {"type": "AverageValue", "averageValue": "1"}})),
                vec!["object: Required value: must populate information for the given metric source".to_owned()],
            ),
        ];
        for (metric, wanted) in cases {
            let found = object(json!({"metrics": [metric]}));
            let mut causes = FieldErrors::default();
            validate(found.at("spec"), None, Path::new("spec.metrics"), &mut causes);
            let wanted: Vec<String> = wanted.iter().map(|text| format!("spec.metrics[0].{text}")).collect();
            assert_eq!(causes.0.iter().map(|c| c.text()).collect::<Vec<_>>(), wanted);
        }
    }
}
