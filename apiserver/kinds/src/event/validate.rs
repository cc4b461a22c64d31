//! An event in core's shape -> what is wrong with it. Source: `pkg/apis/core/validation/events.go`.

use api::field_errors::FieldErrors;
use serde_json::Value;

use crate::{
    common::{Path, Read, name_rules, read, unchanged, unchanged_as, well_formed},
    schema::internal,
};

const WORD_MAX: usize = 128;
const NOTE_MAX: usize = 1024;

/// Which version the writer spoke.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    Core,
    Events,
}

/// What holds for both versions.
pub fn always(event: &Value, shape: Shape, causes: &mut FieldErrors) {
    let namespace = read::namespace(event);
    if is_set(event, "eventTime") {
        new_style(event, shape, causes);
    } else {
        let about = event.at("involvedObject").text("namespace");
        let fits = if about.is_empty() { matches!(namespace, "" | "default") } else { about == namespace };
        if !fits {
            causes.invalid("involvedObject.namespace", about, "does not match event.namespace");
        }
    }
    well_formed(namespace, name_rules::dns_subdomain(namespace), Path::new("namespace"), causes);
}

/// What `events.k8s.io/v1` asks of a new event besides.
pub fn create(event: &Value, causes: &mut FieldErrors) {
    series(event, causes);
    if !is_set(event, "eventTime") {
        causes.required("eventTime", "");
    }
    let typ = event.text("type");
    if !matches!(typ, "Normal" | "Warning") {
        causes.invalid("type", "", &format!("has invalid value: {typ}"));
    }
    let source = event.at("source");
    let sourced = !source.text("component").is_empty() || !source.text("host").is_empty();
    for (field, set) in [
        ("firstTimestamp", is_set(event, "firstTimestamp")),
        ("lastTimestamp", is_set(event, "lastTimestamp")),
        ("count", event.int("count").is_some_and(|n| n != 0)),
        ("source", sourced),
    ] {
        if set {
            causes.invalid(field, "", "needs to be unset");
        }
    }
}

/// In `events.k8s.io/v1` only the series changes.
pub fn update(new: &Value, old: &Value, causes: &mut FieldErrors) {
    if !read::same(new.at("series"), old.at("series")) {
        series(new, causes);
    }
    type Shown = fn(Option<&Value>) -> Value;
    let plain: Shown = |value| value.cloned().unwrap_or(Value::Null);
    let fixed: [(&str, Shown); 11] = [
        ("involvedObject", |value| internal::shown("core.ObjectReference", value)),
        ("reason", plain),
        ("message", plain),
        ("source", |value| internal::shown("core.EventSource", value)),
        ("firstTimestamp", plain),
        ("lastTimestamp", plain),
        ("count", plain),
        ("type", plain),
        ("action", plain),
        ("related", |value| internal::shown_or_null("core.ObjectReference", value)),
        ("reportingInstance", plain),
    ];
    fixed.iter().for_each(|(field, shown)| unchanged_as(new.at(field), old.at(field), shown, Path::new(field), causes));
    unchanged(new.at("reportingComponent"), old.at("reportingComponent"), Path::new("reportingController"), causes);
    // Clients round to microseconds differently.
    let micros = |event: &Value| api::time::parse(event.text("eventTime")).map(|t| t.as_microsecond());
    if micros(new) != micros(old) {
        unchanged(new.at("eventTime"), old.at("eventTime"), Path::new("eventTime"), causes);
    }
}

fn new_style(event: &Value, shape: Shape, causes: &mut FieldErrors) {
    let about = event.at("involvedObject").text("namespace");
    if about.is_empty() && !matches!(read::namespace(event), "default" | "kube-system") {
        causes.invalid("involvedObject.namespace", about, "does not match event.namespace");
    }
    let controller = event.text("reportingComponent");
    let path = if shape == Shape::Core { "reportingComponent" } else { "reportingController" };
    if controller.is_empty() {
        causes.required(path, "");
    }
    well_formed(controller, name_rules::qualified(controller), Path::new(path), causes);
    for field in ["reportingInstance", "action", "reason"] {
        if event.text(field).is_empty() {
            causes.required(field, "");
        }
        at_most(event.text(field), WORD_MAX, field, causes);
    }
    at_most(event.text("message"), NOTE_MAX, "message", causes);
}

fn at_most(text: &str, max: usize, field: &str, causes: &mut FieldErrors) {
    if text.len() > max {
        causes.invalid(field, "", &format!("can have at most {max} characters"));
    }
}

fn series(event: &Value, causes: &mut FieldErrors) {
    let Some(series) = event.at("series") else { return };
    if series.int("count").unwrap_or(0) < 2 {
        causes.invalid("series.count", "", "should be at least 2");
    }
    if !is_set(series, "lastObservedTime") {
        causes.required("series.lastObservedTime", "");
    }
}

fn is_set(object: &Value, time: &str) -> bool {
    !object.text(time).is_empty()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn texts(check: impl FnOnce(&mut FieldErrors)) -> Vec<String> {
        let mut causes = FieldErrors::default();
        check(&mut causes);
        causes.0.iter().map(|c| c.text()).collect()
    }

    fn good() -> Value {
        json!({"metadata": {"name": "e", "namespace": "a"}, "involvedObject": {"kind": "Pod", "namespace": "a"}, "type": "Normal", "reason": "r",
            "action": "x", "reportingComponent": "a.b/c", "reportingInstance": "i", "eventTime": "2026-01-01T00:00:00.000000Z"})
    }

    #[test]
    fn namespaces_agree() {
        let event = |namespace: &str, about: &str| json!({"metadata": {"namespace": namespace}, "involvedObject": {"namespace": about}});
        for (namespace, about, count) in [("a", "a", 0), ("default", "", 0), ("a", "", 1), ("a", "b", 1)] {
            assert_eq!(texts(|c| always(&event(namespace, about), Shape::Core, c)).len(), count, "{namespace} {about}");
        }
    }

    #[test]
    fn new_events_say_who_and_what() {
        assert!(texts(|c| always(&good(), Shape::Events, c)).is_empty());
        assert!(texts(|c| create(&good(), c)).is_empty());
        let mut bad = good();
        for field in ["reportingComponent", "reportingInstance", "action", "reason"] {
            bad[field] = "".into();
        }
        bad["message"] = "x".repeat(1025).into();
        let found = texts(|c| always(&bad, Shape::Core, c));
        assert_eq!(found[0], "reportingComponent: Required value");
        assert!(
            found.contains(&"action: Required value".to_owned())
                && found.contains(&r#"message: Invalid value: "": can have at most 1024 characters"#.to_owned())
        );
    }

    #[test]
    fn old_fields_stay_unset() {
        let mut event = good();
        event["count"] = 1.into();
        event["source"] = json!({"component": "c"});
        event["type"] = "Odd".into();
        event["series"] = json!({"count": 1});
        let wanted = [
            r#"series.count: Invalid value: "": should be at least 2"#,
            "series.lastObservedTime: Required value",
            r#"type: Invalid value: "": has invalid value: Odd"#,
            r#"count: Invalid value: "": needs to be unset"#,
            r#"source: Invalid value: "": needs to be unset"#,
        ];
        assert_eq!(texts(|c| create(&event, c)), wanted);
    }

    #[test]
    fn only_the_series_changes() {
        let mut event = good();
        event["series"] = json!({"count": 2, "lastObservedTime": "2026-01-01T00:00:01.000000Z"});
        event["eventTime"] = "2026-01-01T00:00:00.0000001Z".into();
        assert!(texts(|c| update(&event, &good(), c)).is_empty());
        event["message"] = "new".into();
        assert_eq!(texts(|c| update(&event, &good(), c)), [r#"message: Invalid value: "new": field is immutable"#]);
    }
}
