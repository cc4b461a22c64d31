//! An event of `v1` <-> the same of `events.k8s.io/v1`: the fields' names differ, their values do not.

use serde_json::{Map, Value};

/// (in `v1`, in `events.k8s.io/v1`)
const NAMES: [(&str, &str); 7] = [
    ("involvedObject", "regarding"),
    ("message", "note"),
    ("source", "deprecatedSource"),
    ("firstTimestamp", "deprecatedFirstTimestamp"),
    ("lastTimestamp", "deprecatedLastTimestamp"),
    ("count", "deprecatedCount"),
    ("reportingComponent", "reportingController"),
];

/// Leaves what is in core's shape already.
pub fn to_core(event: Value) -> Value {
    renamed(event, |name| NAMES.iter().find(|(_, events)| *events == name).map(|(core, _)| *core))
}

/// Leaves what is in the other shape already.
pub fn to_events(event: Value) -> Value {
    let mut event = renamed(event, |name| NAMES.iter().find(|(core, _)| *core == name).map(|(_, events)| *events));
    // Always there in `v1`, and left out where they are empty here.
    if let Some(fields) = event.as_object_mut() {
        fields.retain(|name, value| !(matches!(name.as_str(), "reportingController" | "reportingInstance") && *value == ""));
    }
    event
}

fn renamed(event: Value, other: impl Fn(&str) -> Option<&'static str>) -> Value {
    let Value::Object(fields) = event else { return event };
    let mut out = Map::with_capacity(fields.len());
    for (name, value) in fields {
        match other(&name) {
            Some(name) => out.insert(name.to_owned(), value),
            None => out.insert(name, value),
        };
    }
    Value::Object(out)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    #[test]
    fn names_differ_and_values_stay() {
        let core = json!({"metadata": {"name": "e"}, "involvedObject": {"kind": "Pod"}, "message": "m", "source": {"component": "c"},
            "firstTimestamp": "a", "lastTimestamp": "b", "count": 1, "reportingComponent": "r", "reportingInstance": "i", "reason": "x",
            "type": "Normal", "eventTime": null, "action": "y", "related": {}, "series": {"count": 2}});
        let events = to_events(core.clone());
        assert_eq!(events["regarding"], core["involvedObject"]);
        assert_eq!(events["note"], "m");
        assert_eq!(events["reportingController"], "r");
        assert_eq!(events.get("message"), None);
        assert_eq!(to_core(events), core);
    }

    proptest! {
        #[test]
        fn there_and_back_is_the_same(fields in prop::collection::btree_map(
            prop::sample::select(vec!["involvedObject", "message", "source", "count", "reason", "type", "series", "action", "reportingComponent", "x"]),
            any::<u32>(), 0..8)) {
            let event = json!(fields);
            prop_assert_eq!(to_core(to_events(event.clone())), event.clone());
            prop_assert_eq!(to_core(event.clone()), event);
        }
    }
}
