//! An autoscaler in v2 -> its table cells. Source: `formatHPAMetrics` in `pkg/printers/internalversion/printers.go`.

use api::time::Timestamp;
use serde_json::Value;

use crate::common::{
    Read,
    read::{count, name},
    table::age,
};

const UNKNOWN: &str = "<unknown>";
/// Targets that are shown; others are counted.
const SHOWN_MAX: usize = 2;

pub fn of(object: &Value, now: Timestamp) -> Vec<Value> {
    let (spec, status) = (object.at("spec"), object.at("status"));
    let target = spec.at("scaleTargetRef");
    vec![
        name(object).into(),
        format!("{}/{}", target.text("kind"), target.text("name")).into(),
        targets(spec.list("metrics"), status.list("currentMetrics")).into(),
        spec.int("minReplicas").map_or("<unset>".into(), |min| min.to_string()).into(),
        count(object, "/spec/maxReplicas").into(),
        count(object, "/status/currentReplicas").into(),
        age(object, now),
    ]
}

fn targets(metrics: &[Value], current: &[Value]) -> String {
    if metrics.is_empty() {
        return "<none>".to_owned();
    }
    let shown: Vec<String> = metrics.iter().enumerate().take(SHOWN_MAX).map(|(i, metric)| target(metric, current.get(i))).collect();
    let all = shown.join(", ");
    match metrics.len() - shown.len() {
        0 => all,
        more => format!("{all} + {more} more..."),
    }
}

fn target(metric: &Value, current: Option<&Value>) -> String {
    let amount = |holder: Option<&Value>, field: &str| holder.at(field).map(text);
    match metric.text("type") {
        "External" => by_value(metric.at("external"), current.at("external")),
        "Object" => by_value(metric.at("object"), current.at("object")),
        "Pods" => {
            let now = current.at("pods").map(|pods| amount(pods.at("current"), "averageValue").unwrap_or_else(|| "0".into()));
            let wanted = amount(metric.at("pods").at("target"), "averageValue").unwrap_or_else(|| "0".into());
            format!("{}/{wanted}", now.as_deref().unwrap_or(UNKNOWN))
        }
        "Resource" => by_resource(metric.at("resource"), current.at("resource")),
        "ContainerResource" => by_resource(metric.at("containerResource"), current.at("containerResource")),
        _ => "<unknown type>".to_owned(),
    }
}

fn by_value(source: Option<&Value>, current: Option<&Value>) -> String {
    let (target, now) = (source.at("target"), current.at("current"));
    match target.at("averageValue") {
        Some(wanted) => format!("{}/{} (avg)", now.at("averageValue").map_or(UNKNOWN.into(), text), text(wanted)),
        None => {
            let now = current.map(|_| now.at("value").map_or("0".into(), text));
            format!("{}/{}", now.as_deref().unwrap_or(UNKNOWN), target.at("value").map_or("0".into(), text))
        }
    }
}

fn by_resource(source: Option<&Value>, current: Option<&Value>) -> String {
    let (resource, target, now) = (source.text("name"), source.at("target"), current.at("current"));
    if let Some(wanted) = target.at("averageValue") {
        let now = current.map(|_| now.at("averageValue").map_or("0".into(), text));
        return format!("{resource}: {}/{}", now.as_deref().unwrap_or(UNKNOWN), text(wanted));
    }
    let percent = |holder: Option<&Value>, none: &str| holder.int("averageUtilization").map_or(none.to_owned(), |p| format!("{p}%"));
    format!("{resource}: {}/{}", percent(now, UNKNOWN), percent(target, "<auto>"))
}

/// A quantity as it stands.
fn text(amount: &Value) -> String {
    amount.as_str().map_or_else(|| amount.to_string(), str::to_owned)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{super::tests::object, *};

    #[test]
    fn cells_are_upstreams() {
        let mut found = object(json!({"metrics": [
            {"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 70}}},
            {"type": "External", "external": {"metric": {"name": "m"}, "target": {"type": "AverageValue", "averageValue": "30"}}},
            {"type": "Pods", "pods": {"metric": {"name": "m"}, "target": {"type": "AverageValue", "averageValue": "1"}}}]}));
        found["status"] = json!({"currentReplicas": 2, "currentMetrics": [{"type": "Resource", "resource": {"name": "cpu", "current": {"averageUtilization": 12}}}]});
        let wanted = json!(["a", "Deployment/web", "cpu: 12%/70%, <unknown>/30 (avg) + 1 more...", "1", 5, 2, "<unknown>"]);
        assert_eq!(Value::from(of(&found, Timestamp::UNIX_EPOCH)), wanted);
    }
}
