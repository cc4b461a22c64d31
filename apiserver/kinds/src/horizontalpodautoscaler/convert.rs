//! An autoscaler of v1 <-> the same in v2: what v1 has no field for stands in annotations. Source: `pkg/apis/autoscaling/v1/conversion.go`.

use serde_json::{Map, Value, json};

use crate::common::{
    Read,
    edit::{carry, carry_as, child, make_child, remove, set},
    resources::quantity,
};

const METRICS: &str = "autoscaling.alpha.kubernetes.io/metrics";
const CURRENT: &str = "autoscaling.alpha.kubernetes.io/current-metrics";
const CONDITIONS: &str = "autoscaling.alpha.kubernetes.io/conditions";
const BEHAVIOR: &str = "autoscaling.alpha.kubernetes.io/behavior";
/// All that v2 does not show.
const ROUND_TRIP: &[&str] = &[
    METRICS,
    CURRENT,
    CONDITIONS,
    BEHAVIOR,
    "autoscaling.alpha.kubernetes.io/scale-down-tolerance",
    "autoscaling.alpha.kubernetes.io/scale-up-tolerance",
];
/// (in v2, in upstream's internal type, which v1's annotation holds)
const RULES: [(&str, &str); 4] = [
    ("stabilizationWindowSeconds", "StabilizationWindowSeconds"),
    ("selectPolicy", "SelectPolicy"),
    ("policies", "Policies"),
    ("tolerance", "Tolerance"),
];
const POLICY: [(&str, &str); 3] = [("type", "Type"), ("value", "Value"), ("periodSeconds", "PeriodSeconds")];

/// Leaves what is in v1 already.
pub fn to_v1(mut object: Value) -> Value {
    if object.text("apiVersion") == "autoscaling/v1" {
        return object;
    }
    set(&mut object, "apiVersion", "autoscaling/v1");
    drop_round_trip(&mut object);
    let metrics = object.at("spec").list("metrics").to_vec();
    let percent =
        metrics.iter().find(|m| is_cpu(m, "target")).and_then(|m| m.at("resource").at("target").at("averageUtilization")).cloned();
    let others: Vec<Value> = metrics.iter().filter(|m| !is_cpu(m, "target")).map(|m| metric_to_v1(m, Part::Spec)).collect();
    let behavior = object.at("spec").at("behavior").map(internal_behavior);
    if let Some(spec) = child(&mut object, "spec") {
        ["metrics", "behavior"].into_iter().for_each(|field| remove(spec, field));
        carry_as(spec, "targetCPUUtilizationPercentage", percent.as_ref());
    }
    let status = object.at("status");
    let current = status.list("currentMetrics").to_vec();
    let conditions = status.at("conditions").filter(|c| c.as_array().is_some_and(|c| !c.is_empty())).cloned();
    let now = current.iter().rfind(|m| is_cpu(m, "current")).and_then(|m| m.at("resource").at("current").at("averageUtilization")).cloned();
    if let Some(status) = child(&mut object, "status") {
        ["currentMetrics", "conditions"].into_iter().for_each(|field| remove(status, field));
        carry_as(status, "currentCPUUtilizationPercentage", now.as_ref());
    }
    let current: Vec<Value> = current.iter().map(|m| metric_to_v1(m, Part::Status)).collect();
    note(&mut object, METRICS, (!others.is_empty()).then_some(Value::from(others)));
    note(&mut object, CURRENT, (!current.is_empty()).then_some(Value::from(current)));
    note(&mut object, BEHAVIOR, behavior);
    note(&mut object, CONDITIONS, conditions);
    object
}

/// Whether an autoscaler of v1 has metrics that v1 has no field for.
pub fn has_metrics(object: &Value) -> bool {
    let told = object.at("metadata").at("annotations").text(METRICS);
    serde_json::from_str::<Vec<Value>>(told).is_ok_and(|metrics| !metrics.is_empty())
}

/// Leaves what is in v2 already.
pub fn to_v2(mut object: Value) -> Value {
    if object.text("apiVersion") == "autoscaling/v2" {
        return object;
    }
    set(&mut object, "apiVersion", "autoscaling/v2");
    let read = |object: &Value, key: &str| -> Option<Value> {
        serde_json::from_str(object.at("metadata").at("annotations").at(key)?.as_str()?).ok()
    };
    let list = |object: &Value, key: &str| read(object, key).and_then(|found| found.as_array().cloned());
    let (others, current) = (list(&object, METRICS), list(&object, CURRENT));
    let (conditions, behavior) = (list(&object, CONDITIONS), read(&object, BEHAVIOR).and_then(|found| external_behavior(&found)));
    drop_round_trip(&mut object);
    if let Some(spec) = make_child(&mut object, "spec") {
        let percent = spec.at("targetCPUUtilizationPercentage").cloned();
        remove(spec, "targetCPUUtilizationPercentage");
        let cpu = percent.map(|percent| {
            let target = json!({"type": "Utilization", "averageUtilization": percent});
            json!({"type": "Resource", "resource": {"name": "cpu", "target": target}})
        });
        let all: Vec<Value> = others.iter().flatten().map(|m| metric_to_v2(m, Part::Spec)).chain(cpu).collect();
        carry_as(spec, "metrics", (!all.is_empty()).then_some(Value::from(all)).as_ref());
        carry_as(spec, "behavior", behavior.as_ref());
    }
    if object.at("status").is_some() || current.is_some() || conditions.is_some() {
        status_to_v2(&mut object, current, conditions);
    }
    object
}

/// Gives an autoscaler of v1 the annotations that it has when it has been v2 meanwhile: what cannot be read is gone.
pub fn renew_annotations(object: &mut Value) {
    let annotations = object.at("metadata").at("annotations");
    if object.text("apiVersion") != "autoscaling/v1" || !ROUND_TRIP.iter().any(|key| annotations.at(key).is_some()) {
        return;
    }
    let renewed = to_v1(to_v2(object.clone()));
    if let Some(metadata) = child(object, "metadata") {
        carry_as(metadata, "annotations", renewed.at("metadata").at("annotations"));
    }
}

fn status_to_v2(object: &mut Value, current: Option<Vec<Value>>, conditions: Option<Vec<Value>>) {
    let Some(status) = make_child(object, "status") else { return };
    let percent = status.at("currentCPUUtilizationPercentage").cloned();
    remove(status, "currentCPUUtilizationPercentage");
    let told = current.map(|all| all.iter().map(|m| metric_to_v2(m, Part::Status)).collect::<Vec<_>>());
    let alone =
        percent.map(|percent| vec![json!({"type": "Resource", "resource": {"name": "cpu", "current": {"averageUtilization": percent}}})]);
    carry_as(status, "currentMetrics", told.or(alone).map(Value::from).as_ref());
    carry_as(status, "conditions", conditions.map(Value::from).as_ref());
}

/// What is wanted of a metric, or what it is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Part {
    Spec,
    Status,
}

/// A metric that v1 has a field for.
fn is_cpu(metric: &Value, part: &str) -> bool {
    let resource = metric.get("resource").filter(|_| metric.text("type") == "Resource");
    resource.text("name") == "cpu" && resource.and_then(|r| r.get(part)).at("averageUtilization").is_some()
}

fn metric_to_v1(metric: &Value, part: Part) -> Value {
    let mut out = json!({"type": metric.text("type")});
    let (amounts, prefix) = if part == Part::Spec { ("target", "target") } else { ("current", "current") };
    for name in ["object", "pods", "resource", "containerResource", "external"] {
        let Some(source) = metric.get(name).filter(|source| source.is_object()) else { continue };
        let target = source.get(amounts);
        let zero = |field: &str| target.at(field).cloned().unwrap_or_else(|| "0".into());
        let named = |what: &str| format!("{prefix}{what}");
        let mut old = Map::new();
        let mut put = |field: String, value: Option<Value>| drop(value.map(|value| old.insert(field, value)));
        let identifier = source.at("metric");
        match name {
            "object" => {
                put("target".into(), Some(source.at("describedObject").cloned().unwrap_or_else(|| json!({}))));
                put("metricName".into(), Some(identifier.text("name").into()));
                put(named("Value"), Some(zero("value")));
                put("selector".into(), identifier.at("selector").cloned());
                put("averageValue".into(), target.at("averageValue").cloned());
            }
            "pods" => {
                put("metricName".into(), Some(identifier.text("name").into()));
                put(named("AverageValue"), Some(zero("averageValue")));
                put("selector".into(), identifier.at("selector").cloned());
            }
            "external" => {
                put("metricName".into(), Some(identifier.text("name").into()));
                put("metricSelector".into(), identifier.at("selector").cloned());
                let value = if part == Part::Spec { target.at("value").cloned() } else { Some(zero("value")) };
                put(named("Value"), value);
                put(named("AverageValue"), target.at("averageValue").cloned());
            }
            _ => {
                put("name".into(), Some(source.text("name").into()));
                put(named("AverageUtilization"), target.at("averageUtilization").cloned());
                let value = if part == Part::Spec { target.at("averageValue").cloned() } else { Some(zero("averageValue")) };
                put(named("AverageValue"), value);
                put("container".into(), source.at("container").cloned());
            }
        }
        set(&mut out, name, Value::Object(old));
    }
    out
}

fn metric_to_v2(metric: &Value, part: Part) -> Value {
    let mut out = json!({"type": metric.text("type")});
    let (amounts, prefix) = if part == Part::Spec { ("target", "target") } else { ("current", "current") };
    for name in ["object", "pods", "resource", "containerResource", "external"] {
        let Some(old) = metric.get(name).filter(|source| source.is_object()) else { continue };
        let take = |what: &str| old.get(format!("{prefix}{what}")).filter(|v| !v.is_null()).cloned();
        let own_average = old.at("averageValue").cloned();
        let (value, average, utilization) = match name {
            "object" => {
                let is_zero = take("Value").as_ref().and_then(quantity).is_none_or(|amount| amount.is_zero());
                let value =
                    take("Value").or_else(|| Some("0".into())).filter(|_| part == Part::Status || own_average.is_none() || !is_zero);
                (value, own_average, None)
            }
            "pods" => (None, take("AverageValue").or_else(|| Some("0".into())), None),
            "external" => {
                let zero = (part == Part::Status).then(|| Value::from("0"));
                (take("Value").or(zero), take("AverageValue"), None)
            }
            _ => {
                let zero = (part == Part::Status).then(|| Value::from("0"));
                (None, take("AverageValue").or(zero), take("AverageUtilization"))
            }
        };
        let typ = match (name, &value, &average, &utilization) {
            ("pods", ..) | ("object", _, Some(_), _) | ("external", None, ..) => "AverageValue",
            ("object" | "external", ..) => "Value",
            (.., Some(_)) => "Utilization",
            _ => "AverageValue",
        };
        let mut target = if part == Part::Spec { json!({"type": typ}) } else { json!({}) };
        carry_as(&mut target, "value", value.as_ref());
        carry_as(&mut target, "averageValue", average.as_ref());
        carry_as(&mut target, "averageUtilization", utilization.as_ref());
        let mut source = json!({});
        match name {
            "resource" | "containerResource" => {
                carry(&mut source, old, "name");
                carry(&mut source, old, "container");
            }
            _ => {
                let mut identifier = json!({"name": old.get("metricName").and_then(Value::as_str).unwrap_or("")});
                let selector = old.get(if name == "external" { "metricSelector" } else { "selector" });
                carry_as(&mut identifier, "selector", selector.filter(|s| !s.is_null()));
                set(&mut source, "metric", identifier);
                if name == "object" {
                    carry_as(&mut source, "describedObject", old.at("target"));
                }
            }
        }
        set(&mut source, amounts, target);
        set(&mut out, name, source);
    }
    out
}

fn internal_behavior(behavior: &Value) -> Value {
    let policy = |policy: &Value| -> Value {
        POLICY.iter().map(|(v2, internal)| ((*internal).to_owned(), policy[v2].clone())).collect::<Map<_, _>>().into()
    };
    let rules = |direction: &str| match behavior.get(direction).filter(|rules| rules.is_object()) {
        None => Value::Null,
        Some(rules) => {
            let mut out: Map<String, Value> = RULES.iter().map(|(v2, internal)| ((*internal).to_owned(), rules[v2].clone())).collect();
            if let Some(policies) = rules.at("policies").and_then(Value::as_array) {
                out.insert("Policies".into(), policies.iter().map(policy).collect());
            }
            Value::Object(out)
        }
    };
    json!({"ScaleUp": rules("scaleUp"), "ScaleDown": rules("scaleDown")})
}

/// `None` for what says nothing. Go finds the names of fields in any case.
fn external_behavior(behavior: &Value) -> Option<Value> {
    let find = |object: &Value, name: &str| {
        let fields = object.as_object()?;
        fields.iter().find(|(key, value)| key.eq_ignore_ascii_case(name) && !value.is_null()).map(|(_, value)| value.clone())
    };
    let mut out = Map::new();
    for (direction, internal) in [("scaleUp", "ScaleUp"), ("scaleDown", "ScaleDown")] {
        let Some(rules) = find(behavior, internal).filter(Value::is_object) else { continue };
        let mut told = Map::new();
        for (v2, internal) in RULES {
            let Some(value) = find(&rules, internal) else { continue };
            let policy = |policy: &Value| -> Value {
                POLICY.iter().filter_map(|(v2, internal)| Some(((*v2).to_owned(), find(policy, internal)?))).collect::<Map<_, _>>().into()
            };
            let value = value.as_array().map_or(value.clone(), |all| all.iter().map(policy).collect());
            told.insert(v2.to_owned(), value);
        }
        out.insert(direction.to_owned(), Value::Object(told));
    }
    (!out.is_empty()).then_some(Value::Object(out))
}

fn note(object: &mut Value, key: &str, value: Option<Value>) {
    let Some(value) = value else { return };
    if let Some(annotations) = make_child(object, "metadata").and_then(|metadata| make_child(metadata, "annotations")) {
        set(annotations, key, value.to_string());
    }
}

fn drop_round_trip(object: &mut Value) {
    let Some(metadata) = child(object, "metadata") else { return };
    let Some(annotations) = child(metadata, "annotations") else { return };
    ROUND_TRIP.iter().for_each(|key| remove(annotations, key));
    if annotations.as_object().is_some_and(Map::is_empty) {
        remove(metadata, "annotations");
    }
}

#[cfg(test)]
mod tests {
    use super::{super::tests::object, *};

    #[test]
    fn everything_comes_back() {
        let full = object(json!({
            "metrics": [
                {"type": "Pods", "pods": {"metric": {"name": "m", "selector": {"matchLabels": {"a": "b"}}}, "target": {"type": "AverageValue", "averageValue": "1"}}},
                {"type": "Object", "object": {"metric": {"name": "m"}, "target": {"type": "Value", "value": "2k"}, "describedObject": {"kind": "X", "name": "x", "apiVersion": "v1"}}},
                {"type": "External", "external": {"metric": {"name": "e"}, "target": {"type": "AverageValue", "averageValue": "30"}}},
                {"type": "ContainerResource", "containerResource": {"name": "memory", "container": "c", "target": {"type": "AverageValue", "averageValue": "100Mi"}}},
                {"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 70}}},
            ],
            "behavior": {"scaleDown": {"policies": [{"type": "Percent", "value": 10, "periodSeconds": 60}]}},
        }));
        let mut full = full;
        full["status"] = json!({"currentReplicas": 1, "desiredReplicas": 2, "conditions": [{"type": "AbleToScale", "status": "True"}], "currentMetrics": [
            {"type": "Resource", "resource": {"name": "cpu", "current": {"averageValue": "1", "averageUtilization": 12}}}]});
        let old = to_v1(full.clone());
        assert_eq!(
            (&old["spec"]["targetCPUUtilizationPercentage"], &old["status"]["currentCPUUtilizationPercentage"]),
            (&json!(70), &json!(12))
        );
        assert_eq!(old["metadata"]["annotations"].as_object().unwrap().len(), 4);
        assert_eq!(old["spec"].get("metrics"), None);
        let back = to_v2(old);
        // Only what was not there in v1's shape comes back in another order of keys.
        assert_eq!(back, full);
    }

    #[test]
    fn annotations_are_those_that_can_be_read() {
        let mut old = json!({"apiVersion": "autoscaling/v1", "metadata": {"annotations": {"a": "b", (BEHAVIOR): "{bad"}}, "spec": {}});
        renew_annotations(&mut old);
        assert_eq!(old["metadata"], json!({"annotations": {"a": "b"}}));
        let good = json!({"apiVersion": "autoscaling/v1", "metadata": {"annotations": {(BEHAVIOR): r#"{"ScaleUp":{"Policies":null}}"#}}});
        let mut again = good.clone();
        renew_annotations(&mut again);
        assert!(again["metadata"]["annotations"].get(BEHAVIOR).is_some());
    }

    #[test]
    fn annotations_that_cannot_be_read_are_none() {
        for bad in ["{", "1", "[1, null]", "{}", "[{\"type\": 1, \"pods\": 3}]"] {
            let mut old = json!({"apiVersion": "autoscaling/v1", "metadata": {}, "spec": {"targetCPUUtilizationPercentage": 5}});
            for key in ROUND_TRIP {
                old["metadata"]["annotations"][key] = bad.into();
            }
            let found = to_v2(old);
            assert_eq!(found["metadata"], json!({}));
            assert!(found["spec"].get("behavior").is_none());
            assert_eq!(found["spec"]["metrics"].as_array().unwrap().last().unwrap()["resource"]["target"]["averageUtilization"], 5);
        }
    }
}
