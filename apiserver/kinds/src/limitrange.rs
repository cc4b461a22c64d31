//! LimitRange: the strategy of what containers, pods and claims may ask for. Source: `pkg/apis/core/validation`, `ValidateLimitRange`.

use std::{borrow::Cow, collections::BTreeSet};

use api::{field_errors::FieldErrors, quantity::Quantity, time::Timestamp};
use apiserver::kind::{Column, Kind, MetaCheck, Strategy, names};
use serde_json::{Map, Value};

use crate::common::{
    self, Path, Read, edit, name_rules, read,
    resource_names::{is_extended, is_native, is_of_containers, is_standard},
    resources::{canonical_list, quantity},
    table, well_formed,
};

const LISTS: [&str; 5] = ["max", "min", "default", "defaultRequest", "maxLimitRequestRatio"];
const COLUMNS: &[Column] =
    &[table::NAME_COLUMN, table::column("Created At", "date", "CreationTimestamp is when the object was created, in UTC.")];

pub fn kind() -> Kind {
    Kind {
        short_names: names(&["limits"]),
        columns: Cow::Borrowed(COLUMNS),
        ..common::kind("", "v1", "LimitRange", "limitranges", "io.k8s.api.core.v1", LimitRanges)
    }
}

struct LimitRanges;

impl Strategy for LimitRanges {
    fn default(&self, object: &mut Value) {
        let Some(spec) = edit::child(object, "spec") else { return };
        for limit in edit::each(spec, "limits") {
            LISTS.iter().for_each(|list| canonical_list(limit, list));
            if limit.text("type") == "Container" {
                container_defaults(limit);
            }
        }
    }

    fn validate(&self, object: &Value, causes: &mut FieldErrors) {
        let path = Path::new("spec.limits");
        let mut types = BTreeSet::new();
        for (i, limit) in object.at("spec").list("limits").iter().enumerate() {
            let path = path.index(i);
            let kind = limit.text("type");
            limit_type(kind, path.field("type"), causes);
            if !types.insert(kind) {
                causes.duplicate(path.field("type"), kind);
            }
            self::limit(limit, path, causes);
        }
    }

    fn create_on_update(&self) -> bool {
        true
    }

    /// Upstream gives one a name.
    fn prepare_name(&self, object: &mut Value) {
        if read::name(object).is_empty() && object.at("metadata").text("generateName").is_empty() {
            edit::make_child(object, "metadata")
                .into_iter()
                .for_each(|metadata| edit::set(metadata, "name", uuid::Uuid::new_v4().to_string()));
        }
    }

    fn meta_check(&self) -> MetaCheck {
        MetaCheck::Create
    }

    fn cells(&self, object: &Value, _now: Timestamp) -> Vec<Value> {
        vec![read::name(object).into(), read::text_at(object, "/metadata/creationTimestamp").into()]
    }
}

/// The limit defaults to the maximum, the request to the limit, or else to the minimum.
fn container_defaults(limit: &mut Value) {
    for (to, from) in [("default", "max"), ("defaultRequest", "default"), ("defaultRequest", "min")] {
        let Some(source) = limit.object(from).filter(|m| !m.is_empty()).cloned() else { continue };
        let Some(target) = edit::make_child(limit, to) else { continue };
        source.into_iter().for_each(|(resource, value)| edit::default_to(target, &resource, value));
    }
}

fn limit_type(kind: &str, path: Path<'_>, causes: &mut FieldErrors) {
    let errors = name_rules::qualified(kind);
    if errors.is_empty() && !kind.contains('/') && !matches!(kind, "Pod" | "Container" | "PersistentVolumeClaim") {
        causes.invalid(path, kind, "must be a standard limit type or fully qualified");
    }
    well_formed(kind, errors, path, causes);
}

fn limit(limit: &Value, path: Path<'_>, causes: &mut FieldErrors) {
    let kind = limit.text("type");
    let mut resources = BTreeSet::new();
    for list in LISTS {
        let map = limit.object(list).into_iter().flatten();
        if kind == "Pod" && matches!(list, "default" | "defaultRequest") {
            if limit.object(list).is_some_and(|m| !m.is_empty()) {
                causes.forbidden(path.field(list), "may not be specified when `type` is 'Pod'");
            }
            continue;
        }
        for (resource, _) in map {
            resource_name(resource, kind, path.field(list).key(resource), causes);
            resources.insert(resource.as_str());
        }
    }
    let has = |list: &str| limit.at(list).at("storage").is_some();
    if kind == "PersistentVolumeClaim" && !has("min") && !has("max") {
        causes.required(path.field("limits"), "either minimum or maximum storage value is required, but neither was provided");
    }
    resources.into_iter().for_each(|resource| bounds(limit, resource, path, causes));
}

fn resource_name(name: &str, kind: &str, path: Path<'_>, causes: &mut FieldErrors) {
    let errors = name_rules::qualified(name);
    let named = errors.is_empty();
    let domain = name.contains('/');
    well_formed(name, errors, path, causes);
    if named && !domain && !is_standard(name) {
        causes.invalid(path, name, "must be a standard resource type or fully qualified");
    }
    if !matches!(kind, "Pod" | "Container") {
        return;
    }
    if !domain && !is_of_containers(name) {
        causes.invalid(path, name, "must be a standard resource for containers");
    } else if domain && !is_native(name) && !is_extended(name) {
        causes.invalid(path, name, "doesn't follow extended resource name standard");
    }
}

/// The five quantities of one resource fit together.
fn bounds(limit: &Value, resource: &str, path: Path<'_>, causes: &mut FieldErrors) {
    let of = |list: &str| limit.object(list).and_then(|m: &Map<String, Value>| m.get(resource)).and_then(quantity);
    let pod = limit.text("type") == "Pod";
    let (min, max, ratio) = (of("min"), of("max"), of("maxLimitRequestRatio"));
    let (default, request) = if pod { (None, None) } else { (of("default"), of("defaultRequest")) };
    // (the smaller, its name, the larger, its name, the field, the value shown)
    let pairs = [
        (min, "min value", max, "max value", "min", min),
        (min, "min value", request, "default request value", "defaultRequest", request),
        (request, "default request value", max, "max value", "defaultRequest", request),
        (request, "default request value", default, "default limit value", "defaultRequest", request),
        (min, "min value", default, "default value", "default", min),
        (default, "default value", max, "max value", "default", max),
    ];
    for (small, small_name, large, large_name, field, shown) in pairs {
        if let (Some(small), Some(large), Some(shown)) = (small, large, shown)
            && small > large
        {
            let detail = format!("{small_name} {small} is greater than {large_name} {large}");
            causes.invalid(path.field(field).key(resource), shown.to_string(), &detail);
        }
    }
    if let Some(ratio) = ratio {
        self::ratio(ratio, min, max, path.field("maxLimitRequestRatio").key(resource), causes);
    }
    let overcommit = is_native(resource) && !resource.starts_with("hugepages-");
    if let (false, Some(default), Some(request)) = (overcommit, default, request)
        && default != request
    {
        let detail = format!("default value {default} must equal to defaultRequest value {request} in {resource}");
        causes.invalid(path.field("defaultRequest").key(resource), request.to_string(), &detail);
    }
}

fn ratio(ratio: Quantity, min: Option<Quantity>, max: Option<Quantity>, path: Path<'_>, causes: &mut FieldErrors) {
    if ratio < Quantity::from_units(1) {
        causes.invalid(path, ratio.to_string(), &format!("ratio {ratio} is less than 1"));
    }
    let (Some(min), Some(max)) = (min, max) else { return };
    // Exact enough: upstream compares floats too.
    #[allow(clippy::cast_precision_loss)]
    let bound = max.milli() as f64 / min.milli() as f64;
    #[allow(clippy::cast_precision_loss)]
    let asked = ratio.milli() as f64 / 1000.0;
    if asked > bound {
        causes.invalid(path, ratio.to_string(), &format!("ratio {ratio} is greater than max/min = {bound:.6}"));
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn texts(limits: Value) -> Vec<String> {
        let mut causes = FieldErrors::default();
        LimitRanges.validate(&json!({"spec": {"limits": limits}}), &mut causes);
        causes.0.iter().map(|c| c.text()).collect()
    }

    #[test]
    fn defaults_follow_from_bounds() {
        let mut range = json!({"spec": {"limits": [
            {"type": "Container", "max": {"cpu": 1, "memory": "1024Mi"}, "min": {"cpu": "100m", "ephemeral-storage": "1Gi"}, "default": {"cpu": "500m"}},
            {"type": "Pod", "max": {"cpu": "2"}}]}});
        LimitRanges.default(&mut range);
        let limits = &range["spec"]["limits"];
        assert_eq!(limits[0]["default"], json!({"cpu": "500m", "memory": "1Gi"}));
        assert_eq!(limits[0]["defaultRequest"], json!({"cpu": "500m", "memory": "1Gi", "ephemeral-storage": "1Gi"}));
        assert_eq!(limits[1], json!({"type": "Pod", "max": {"cpu": "2"}}));
        let once = range.clone();
        LimitRanges.default(&mut range);
        assert_eq!(range, once);
    }

    #[test]
    fn each_rule_has_its_words() {
        let cases: Vec<(Value, &[&str])> = vec![
            (json!([{"type": "Container", "max": {"cpu": "1"}, "min": {"cpu": "1"}}, {"type": "a.b/c"}]), &[]),
            (json!([{"type": "x"}]), &[r#"spec.limits[0].type: Invalid value: "x": must be a standard limit type or fully qualified"#]),
            (json!([{"type": "Pod"}, {"type": "Pod"}]), &[r#"spec.limits[1].type: Duplicate value: "Pod""#]),
            (
                json!([{"type": "Pod", "default": {"cpu": "1"}}]),
                &["spec.limits[0].default: Forbidden: may not be specified when `type` is 'Pod'"],
            ),
            (
                json!([{"type": "Container", "max": {"cpu": "1"}, "min": {"cpu": "2"}}]),
                &[r#"spec.limits[0].min[cpu]: Invalid value: "2": min value 2 is greater than max value 1"#],
            ),
            (
                json!([{"type": "Container", "default": {"memory": "1Gi"}, "defaultRequest": {"memory": "2Gi"}}]),
                &[
                    r#"spec.limits[0].defaultRequest[memory]: Invalid value: "2Gi": default request value 2Gi is greater than default limit value 1Gi"#,
                ],
            ),
            (
                json!([{"type": "Container", "max": {"pods": "1"}}]),
                &[r#"spec.limits[0].max[pods]: Invalid value: "pods": must be a standard resource for containers"#],
            ),
            (
                json!([{"type": "PersistentVolumeClaim"}]),
                &["spec.limits[0].limits: Required value: either minimum or maximum storage value is required, but neither was provided"],
            ),
            (
                json!([{"type": "Pod", "max": {"cpu": "2"}, "min": {"cpu": "1"}, "maxLimitRequestRatio": {"cpu": "3"}}]),
                &[r#"spec.limits[0].maxLimitRequestRatio[cpu]: Invalid value: "3": ratio 3 is greater than max/min = 2.000000"#],
            ),
            (
                json!([{"type": "Pod", "maxLimitRequestRatio": {"cpu": "500m"}}]),
                &[r#"spec.limits[0].maxLimitRequestRatio[cpu]: Invalid value: "500m": ratio 500m is less than 1"#],
            ),
        ];
        for (limits, wanted) in cases {
            assert_eq!(texts(limits.clone()), wanted, "{limits}");
        }
    }

    #[test]
    fn cells_are_name_and_date() {
        let range = json!({"metadata": {"name": "r", "creationTimestamp": "2026-01-01T00:00:00Z"}});
        assert_eq!(LimitRanges.cells(&range, Timestamp::UNIX_EPOCH), [json!("r"), json!("2026-01-01T00:00:00Z")]);
    }
}
