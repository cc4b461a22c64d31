//! Who wrote which field (`metadata.managedFields`): the step of a write that keeps it, and the equality that overlooks it.
//!
//! Nothing is kept yet (COMPAT.md, server-side apply): what a client sends is dropped. Source: apimachinery `pkg/util/managedfields`, apiserver
//! `pkg/endpoints/handlers/fieldmanager/equality.go`.

use serde_json::Value;

use super::{context::Ctx, meta};

const FIELD: &str = "managedFields";

/// Before mutating admission, whose changes are nobody's: the object gets the entries that hold from now on. Where admission is not asked (what an
/// action does) nobody becomes an owner.
pub(super) fn track(_ctx: &Ctx<'_>, object: &mut Value, _old: Option<&Value>) {
    forget(object);
}

/// What comes back from outside may not claim fields for others.
pub(super) fn forget(object: &mut Value) {
    meta::of(object).shift_remove(FIELD);
}

/// Whether two states of an object differ in nothing but the times of their managers, so that nothing need be written.
pub(super) fn is_unchanged(new: &Value, old: &Value) -> bool {
    // Most writes that change something change the status.
    match (new.get("status"), old.get("status")) {
        (Some(now), Some(was)) if !is_same(now, was) => return false,
        _ if is_same(new, old) => return true,
        _ => {}
    }
    let managers = |object| meta::field(object, FIELD).and_then(Value::as_array);
    let (Some(now), Some(was)) = (managers(new), managers(old)) else { return false };
    let timeless = |entries: &Vec<Value>| {
        let mut entries = entries.clone();
        entries.iter_mut().filter_map(Value::as_object_mut).for_each(|entry| drop(entry.shift_remove("time")));
        entries
    };
    timeless(now) == timeless(was) && is_same(&without(new), &without(old))
}

/// As `==`, for values that most often have their fields in the same order: those are not looked up.
pub(super) fn is_same(one: &Value, other: &Value) -> bool {
    match (one, other) {
        (Value::Object(one), Value::Object(other)) if one.keys().eq(other.keys()) => {
            one.values().zip(other.values()).all(|(one, other)| is_same(one, other))
        }
        (Value::Array(one), Value::Array(other)) => {
            one.len() == other.len() && one.iter().zip(other).all(|(one, other)| is_same(one, other))
        }
        _ => one == other,
    }
}

fn without(object: &Value) -> Value {
    let mut object = object.clone();
    meta::of(&mut object).shift_remove(FIELD);
    object
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_the_same_is_no_change_in_whatever_order() {
        let (a, b) =
            (json!({"kind": "K", "spec": {"x": [1, {"y": 2, "z": 3}]}}), json!({"spec": {"x": [1, {"z": 3, "y": 2}]}, "kind": "K"}));
        assert!(is_unchanged(&a, &b));
        for other in
            [json!({"kind": "K", "spec": {"x": [1]}}), json!({"kind": "K", "spec": {"x": [1, {"y": 2, "z": 4}]}}), json!({"kind": "K"})]
        {
            assert!(!is_unchanged(&a, &other), "{other}");
        }
        let told = |phase: &str| json!({"metadata": {}, "spec": 1, "status": {"phase": phase}});
        assert!(!is_unchanged(&told("a"), &told("b")));
        assert!(!is_unchanged(&told("a"), &json!({"metadata": {}, "spec": 1})));
    }

    #[test]
    fn the_time_of_a_manager_is_no_change_and_all_else_is() {
        let of = |time: &str, fields: &str, size: i64| json!({"metadata": {"name": "a", "managedFields": [{"manager": "m", "time": time, "fieldsV1": {fields: {}}}]}, "spec": size});
        assert!(is_unchanged(&of("1", "f:a", 1), &of("2", "f:a", 1)));
        assert!(!is_unchanged(&of("1", "f:a", 1), &of("1", "f:b", 1)));
        assert!(!is_unchanged(&of("1", "f:a", 1), &of("2", "f:a", 2)));
    }
}
