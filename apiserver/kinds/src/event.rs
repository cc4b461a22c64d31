//! Event: the strategy of what happened to an object; one storage, two shapes (`v1` and `events.k8s.io/v1`), gone after an hour.
//!
//! Source: `pkg/registry/core/event`, `pkg/apis/core/validation/events.go`, `pkg/apis/events/v1/conversion.go`.

use std::{borrow::Cow, sync::Arc};

use api::{field_errors::FieldErrors, human, time::Timestamp};
use apiserver::kind::{Column, Conversion, Field, Kind, MetaCheck, Name, Storage, Strategy, names};
use serde_json::Value;

use crate::common::{self, Read, read, table};

mod convert;
mod validate;

use convert::{to_core, to_events};
use validate::Shape;

/// `--event-ttl`
const TTL_SECONDS: u64 = 3600;

const COLUMNS: &[Column] = &[
    table::column("Last Seen", "string", "The time at which the most recent occurrence of this event was recorded."),
    table::column("Type", "string", "Type of this event (Normal, Warning), new types could be added in the future"),
    table::column(
        "Reason",
        "string",
        "This should be a short, machine understandable string that gives the reason for the transition into the object's current status.",
    ),
    table::column("Object", "string", "The object that this event is about."),
    table::wide(
        "Subobject",
        "string",
        "If referring to a piece of an object instead of an entire object, this string contains a valid JSON/Go field access statement.",
    ),
    table::wide("Source", "string", "The component reporting this event. Should be a short machine understandable string."),
    table::column("Message", "string", "A human-readable description of the status of this operation."),
    table::wide("First Seen", "string", "The time at which the event was first recorded. (Time of server receipt is in TypeMeta.)"),
    table::wide("Count", "string", "The number of times this event has occurred."),
    Column { priority: 1, ..table::NAME_COLUMN },
];

// The engine keeps field values by position, as core's kind has them: the other shape's list has the same order. `source` is core's alone.
const CORE_FIELDS: &[Field] = &[
    table::field("involvedObject.kind", "/involvedObject/kind", ""),
    table::field("involvedObject.namespace", "/involvedObject/namespace", ""),
    table::field("involvedObject.name", "/involvedObject/name", ""),
    table::field("involvedObject.uid", "/involvedObject/uid", ""),
    table::field("involvedObject.apiVersion", "/involvedObject/apiVersion", ""),
    table::field("involvedObject.resourceVersion", "/involvedObject/resourceVersion", ""),
    table::field("involvedObject.fieldPath", "/involvedObject/fieldPath", ""),
    table::field("reason", "/reason", ""),
    table::field("reportingComponent", "/reportingComponent", ""),
    table::field("type", "/type", ""),
    table::field_or("source", "/source/component", "reportingComponent"),
];
/// Where they stand in what is stored.
const EVENTS_FIELDS: &[Field] = &[
    table::field("regarding.kind", "/involvedObject/kind", ""),
    table::field("regarding.namespace", "/involvedObject/namespace", ""),
    table::field("regarding.name", "/involvedObject/name", ""),
    table::field("regarding.uid", "/involvedObject/uid", ""),
    table::field("regarding.apiVersion", "/involvedObject/apiVersion", ""),
    table::field("regarding.resourceVersion", "/involvedObject/resourceVersion", ""),
    table::field("regarding.fieldPath", "/involvedObject/fieldPath", ""),
    table::field("reason", "/reason", ""),
    table::field("reportingController", "/reportingComponent", ""),
    table::field("type", "/type", ""),
];

/// `v1`: the stored shape.
pub fn kind() -> Kind {
    Kind {
        short_names: names(&["ev"]),
        storage: Storage::Kept { prefix: Name::Borrowed("events"), ttl_seconds: Some(TTL_SECONDS) },
        columns: Cow::Borrowed(COLUMNS),
        fields: Cow::Borrowed(CORE_FIELDS),
        ..common::kind("", "v1", "Event", "events", "io.k8s.api.core.v1", CoreEvents)
    }
}

/// `events.k8s.io/v1`
pub fn events_kind() -> Kind {
    let name = Name::Borrowed;
    Kind {
        short_names: names(&["ev"]),
        storage: Storage::As { group: name(""), version: name("v1"), plural: name("events") },
        conversion: Conversion::Direct(Arc::new(|to, event| if to.group.is_empty() { to_core(event) } else { to_events(event) })),
        columns: Cow::Borrowed(COLUMNS),
        fields: Cow::Borrowed(EVENTS_FIELDS),
        ..common::kind("events.k8s.io", "v1", "Event", "events", "io.k8s.api.events.v1", Events)
    }
}

struct CoreEvents;
struct Events;

impl Strategy for CoreEvents {
    /// Upstream does not look at it: old clients put all sorts of object names in front.
    fn name_error(&self, name: &str) -> Option<String> {
        apiserver::names::path_segment_error(name)
    }

    fn validate(&self, object: &Value, causes: &mut FieldErrors) {
        validate::always(object, Shape::Core, causes);
    }

    fn meta_check(&self) -> MetaCheck {
        MetaCheck::None
    }

    fn collects_garbage(&self, _object: &Value) -> bool {
        false
    }

    fn create_on_update(&self) -> bool {
        true
    }

    fn cells(&self, object: &Value, now: Timestamp) -> Vec<Value> {
        cells(object, now)
    }
}

impl Strategy for Events {
    fn validate(&self, object: &Value, causes: &mut FieldErrors) {
        let core = to_core(object.clone());
        validate::always(&core, Shape::Events, causes);
    }

    fn validate_create(&self, object: &Value, causes: &mut FieldErrors) {
        validate::create(&to_core(object.clone()), causes);
    }

    fn validate_update(&self, new: &Value, old: &Value, causes: &mut FieldErrors) {
        validate::update(&to_core(new.clone()), &to_core(old.clone()), causes);
    }

    fn collects_garbage(&self, _object: &Value) -> bool {
        false
    }

    fn create_on_update(&self) -> bool {
        true
    }

    fn cells(&self, object: &Value, now: Timestamp) -> Vec<Value> {
        cells(&to_core(object.clone()), now)
    }
}

/// Of an event in core's shape.
fn cells(event: &Value, now: Timestamp) -> Vec<Value> {
    let first = first_of([event.text("firstTimestamp"), event.text("eventTime")]);
    let last = match event.at("series") {
        Some(series) => series.text("lastObservedTime"),
        None => first_of([event.text("lastTimestamp"), first]),
    };
    let count = match event.at("series") {
        Some(series) => series.int("count").unwrap_or(0),
        None => event.int("count").filter(|n| *n != 0).unwrap_or(1),
    };
    let about = event.at("involvedObject");
    vec![
        ago(last, now).into(),
        event.text("type").into(),
        event.text("reason").into(),
        target(about.text("kind"), about.text("name")).into(),
        about.text("fieldPath").into(),
        source(event).into(),
        event.text("message").trim().into(),
        ago(first, now).into(),
        count.into(),
        read::name(event).into(),
    ]
}

fn first_of(texts: [&str; 2]) -> &str {
    if texts[0].is_empty() { texts[1] } else { texts[0] }
}

fn ago(timestamp: &str, now: Timestamp) -> String {
    api::time::parse(timestamp).map_or_else(|| "<unknown>".into(), |then| human::duration(now.as_second() - then.as_second()))
}

fn target(kind: &str, name: &str) -> String {
    let kind = kind.to_lowercase();
    if name.is_empty() { kind } else { format!("{kind}/{name}") }
}

fn source(event: &Value) -> String {
    let source = event.at("source");
    let component = first_of([source.text("component"), event.text("reportingComponent")]);
    let instance = first_of([source.text("host"), event.text("reportingInstance")]);
    if instance.is_empty() { component.to_owned() } else { format!("{component}, {instance}") }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn cells_fill_the_columns_in_both_shapes() {
        let now = Timestamp::from_second(100).unwrap();
        let core = json!({"metadata": {"name": "e"}, "involvedObject": {"kind": "Pod", "name": "web", "fieldPath": "spec.containers{a}"},
            "type": "Normal", "reason": "Pulled", "message": " got it \n", "count": 3, "source": {"component": "kubelet", "host": "n"},
            "firstTimestamp": "1970-01-01T00:00:10Z", "lastTimestamp": "1970-01-01T00:00:40Z"});
        let wanted = json!(["60s", "Normal", "Pulled", "pod/web", "spec.containers{a}", "kubelet, n", "got it", "90s", 3, "e"]);
        assert_eq!(Value::Array(CoreEvents.cells(&core, now)), wanted);
        assert_eq!(Value::Array(Events.cells(&to_events(core), now)), wanted);
        assert_eq!(COLUMNS.len(), 10);
    }

    #[test]
    fn a_series_has_its_own_count_and_time() {
        let now = Timestamp::from_second(100).unwrap();
        let event = json!({"eventTime": "1970-01-01T00:00:10.000000Z", "reportingComponent": "c", "involvedObject": {"kind": "Node"},
            "series": {"count": 7, "lastObservedTime": "1970-01-01T00:01:39.000000Z"}});
        let cells = CoreEvents.cells(&event, now);
        assert_eq!(
            (&cells[0], &cells[3], &cells[5], &cells[7], &cells[8]),
            (&json!("1s"), &json!("node"), &json!("c"), &json!("90s"), &json!(7))
        );
        assert_eq!(CoreEvents.cells(&json!({}), now)[0], "<unknown>");
    }

    #[test]
    fn where_an_event_has_no_source_its_controller_is_looked_up() {
        // `ToSelectableFields` (`registry/core/event/strategy.go`).
        let source = CORE_FIELDS.iter().find(|field| field.label == "source").unwrap();
        assert!(CORE_FIELDS.iter().any(|field| Some(&field.label) == source.instead.as_ref()));
    }

    #[test]
    fn fields_are_looked_up_in_what_is_stored() {
        for field in EVENTS_FIELDS {
            let label = field.label.replace("regarding", "involvedObject").replace("reportingController", "reportingComponent");
            let stored = CORE_FIELDS.iter().find(|other| other.label == label);
            assert_eq!(stored.map(|other| &other.pointer), Some(&field.pointer), "{label}");
        }
    }
}
