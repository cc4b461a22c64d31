//! A JSON patch and the object it is for -> the patched object, within a bound of work. Sources: RFC 6902, apiserver `pkg/server/config.go`.
//!
//! Any of the 10,000 operations may move all that a list holds, or be about all of the object: together they would be about more than anybody waits for.

use std::sync::atomic::{AtomicUsize, Ordering};

use api::Status;
use json_patch::{
    Patch, PatchOperation,
    jsonptr::{Pointer, PointerBuf},
};
use serde_json::Value;

use crate::parse::DEPTH_MAX;

/// Most operations of a JSON patch.
pub(super) const OPERATIONS_MAX: usize = 10_000;
/// Most that the copies of one JSON patch may add up to, in bytes of JSON (`JSONPatchMaxCopyBytes`): the patch must not blow the object up.
pub(super) const COPIED_BYTES_MAX: usize = 3 << 20;
/// Most values that the operations of one JSON patch may move by a place, look through or copy, together.
pub(super) const STEPS_MAX: usize = 16 << 20;

/// # Errors
/// 400 for what are no operations, 413 for too many.
pub(super) fn read(value: Value) -> Result<Patch, Status> {
    let count = value.as_array().map(Vec::len);
    if let Some(count) = count.filter(|count| *count > OPERATIONS_MAX) {
        let why = format!("The allowed maximum operations in a JSON patch is {OPERATIONS_MAX}, got {count}");
        return Err(Status::too_large(format!("Request entity too large: {why}")));
    }
    let is_list = value.is_array();
    if !is_list {
        let word = crate::schema::word(&value);
        let why = format!("json: cannot unmarshal {word} into Go value of type []handlers.jsonPatchOp");
        return Err(Status::bad_request(format!("error decoding patch: {why}")));
    }
    // What is no operation is found when it is applied.
    serde_json::from_value(value).map_err(|error| unfit(&error.to_string()))
}

/// The steps that one request has taken, with all its tries.
#[derive(Default)]
pub(crate) struct Spent(AtomicUsize);

impl Spent {
    pub fn is_nothing(&self) -> bool {
        self.0.load(Ordering::Relaxed) == 0
    }
}

/// # Errors
/// 422 where an operation does not fit the object or copies too much, 413 where all of them are too much work.
pub(super) fn apply(patch: &Patch, object: &mut Value, spent: &Spent) -> Result<(), Status> {
    let mut work = Work { steps: spent.0.load(Ordering::Relaxed), copied_bytes: 0 };
    let done = work.apply(patch, object);
    spent.0.store(work.steps, Ordering::Relaxed);
    done
}

impl Work {
    /// # Errors
    /// As those of [`apply`].
    pub(super) fn apply(&mut self, patch: &Patch, object: &mut Value) -> Result<(), Status> {
        for operation in &patch.0 {
            let indexed = indexed(operation, object);
            let operation = indexed.as_ref().unwrap_or(operation);
            self.charge(operation, object)?;
            match operation {
                // As upstream's library (evanphx/json-patch) takes them: a key of an object may be replaced that is not there, and is null then.
                PatchOperation::Replace(replace) if put_new(object, &replace.path, &replace.value) => continue,
                PatchOperation::Test(test) if test.value.is_null() && is_missing_key(object, &test.path) => continue,
                _ => {}
            }
            // What is changed half is thrown away.
            json_patch::patch_unsafe(object, std::slice::from_ref(operation)).map_err(|error| unfit(&error.to_string()))?;
        }
        Ok(())
    }
}

/// The operation with places in lists as RFC 6901 writes them, where it writes them as Go's `strconv.Atoi` reads them: `00`, `+1`, and `-1` for the last.
fn indexed(operation: &PatchOperation, object: &Value) -> Option<PatchOperation> {
    let is_odd = |path: &PointerBuf| path.tokens().any(|token| is_odd(token.encoded()));
    let (path, from, grows) = match operation {
        PatchOperation::Add(add) => (&add.path, None, true),
        PatchOperation::Replace(replace) => (&replace.path, None, false),
        PatchOperation::Remove(remove) => (&remove.path, None, false),
        PatchOperation::Test(test) => (&test.path, None, false),
        PatchOperation::Move(shift) => (&shift.path, Some(&shift.from), true),
        PatchOperation::Copy(copy) => (&copy.path, Some(&copy.from), true),
    };
    // A value may be large: what is as it should be is not copied.
    if !is_odd(path) && !from.is_some_and(is_odd) {
        return None;
    }
    let (path, from) = (resolved(path, object, grows), from.map(|from| resolved(from, object, false)).unwrap_or_default());
    let mut operation = operation.clone();
    match &mut operation {
        PatchOperation::Add(add) => add.path = path,
        PatchOperation::Replace(replace) => replace.path = path,
        PatchOperation::Remove(remove) => remove.path = path,
        PatchOperation::Test(test) => test.path = path,
        PatchOperation::Move(shift) => (shift.path, shift.from) = (path, from),
        PatchOperation::Copy(copy) => (copy.path, copy.from) = (path, from),
    }
    Some(operation)
}

fn is_odd(token: &str) -> bool {
    token.len() > 1 && token.starts_with(['0', '+', '-'])
}

/// `grows`: what comes to stand there makes the list longer.
fn resolved(path: &Pointer, object: &Value, grows: bool) -> PointerBuf {
    let (mut out, mut at, count) = (PointerBuf::new(), Some(object), path.tokens().count());
    for (nth, token) in path.tokens().enumerate() {
        let mut step = token.decoded().into_owned();
        if let Some(Value::Array(list)) = at
            && is_odd(&step)
            && let Ok(index) = step.parse::<i64>()
        {
            let length = list.len() + usize::from(grows && nth + 1 == count);
            let length = i64::try_from(length).unwrap_or(i64::MAX);
            step = if index < 0 { index.saturating_add(length) } else { index }.to_string();
        }
        at = match at {
            Some(Value::Array(list)) => step.parse::<usize>().ok().and_then(|index| list.get(index)),
            Some(Value::Object(map)) => map.get(&step),
            _ => None,
        };
        out.push_back(step);
    }
    out
}

/// Whether the path is of a key that an object does not have.
fn is_missing_key(object: &Value, path: &Pointer) -> bool {
    let Some((parent, last)) = path.split_back() else { return false };
    let parent = object.pointer(parent.as_str()).and_then(Value::as_object);
    parent.is_some_and(|parent| !parent.contains_key(last.decoded().as_ref()))
}

/// Puts the value where an object has no such key. False: that is not so.
fn put_new(object: &mut Value, path: &Pointer, value: &Value) -> bool {
    if !is_missing_key(object, path) {
        return false;
    }
    let Some((parent, last)) = path.split_back() else { return false };
    let Some(Value::Object(parent)) = object.pointer_mut(parent.as_str()) else { return false };
    parent.insert(last.decoded().into_owned(), value.clone());
    true
}

fn unfit(why: &str) -> Status {
    tracing::debug!(why, "patch does not apply");
    Status::new(422, "Invalid", "the server rejected our request due to an error in our request")
}

/// What has been done so far.
#[derive(Default)]
pub(super) struct Work {
    steps: usize,
    copied_bytes: usize,
}

impl Work {
    fn charge(&mut self, operation: &PatchOperation, object: &Value) -> Result<(), Status> {
        match operation {
            PatchOperation::Add(add) => {
                self.moved(object, &add.path)?;
                self.placed(&add.path, &add.value)
            }
            PatchOperation::Replace(replace) => self.placed(&replace.path, &replace.value),
            PatchOperation::Remove(remove) => self.moved(object, &remove.path),
            PatchOperation::Move(shift) => {
                self.moved(object, &shift.from)?;
                self.moved(object, &shift.path)?;
                object.pointer(shift.from.as_str()).map_or(Ok(()), |value| self.placed(&shift.path, value))
            }
            PatchOperation::Copy(copy) => {
                self.moved(object, &copy.path)?;
                let Some(value) = object.pointer(copy.from.as_str()) else { return Ok(()) };
                self.placed(&copy.path, value)?;
                self.copied_bytes += value.to_string().len();
                if self.copied_bytes > COPIED_BYTES_MAX {
                    return Err(unfit("the accumulated size of its copies exceeds the limit"));
                }
                Ok(())
            }
            PatchOperation::Test(_) => Ok(()),
        }
    }

    fn steps(&mut self, count: usize) -> Result<(), Status> {
        self.steps = self.steps.saturating_add(count);
        if self.steps <= STEPS_MAX {
            return Ok(());
        }
        Err(Status::too_large(format!("Request entity too large: a JSON patch may move and copy {STEPS_MAX} values at most")))
    }

    /// Something comes or goes at `path`: if that is in a list, all that is behind it moves.
    fn moved(&mut self, object: &Value, path: &Pointer) -> Result<(), Status> {
        let Some((parent, last)) = path.split_back() else { return Ok(()) };
        let Some(list) = object.pointer(parent.as_str()).and_then(Value::as_array) else { return Ok(()) };
        let at = last.encoded().parse().unwrap_or(list.len());
        self.steps(list.len().saturating_sub(at))
    }

    /// `value` comes to stand at `path`. No object gets deeper than what a body may bring: whoever walks through it does so level by level.
    fn placed(&mut self, path: &Pointer, value: &Value) -> Result<(), Status> {
        let levels = DEPTH_MAX.checked_sub(path.count()).ok_or_else(|| unfit("exceeded max depth"))?;
        // One more than there may be: who takes it is refused.
        let mut left = STEPS_MAX.saturating_sub(self.steps) + 1;
        let before = left;
        let fits = is_within(value, levels, &mut left);
        self.steps(before - left)?;
        if fits { Ok(()) } else { Err(unfit("exceeded max depth")) }
    }
}

/// Whether `value` has no more than `levels`; `left` counts the values that may still be looked at.
fn is_within(value: &Value, levels: usize, left: &mut usize) -> bool {
    let Some(rest) = left.checked_sub(1) else { return false };
    *left = rest;
    let mut below = |value: &Value| levels > 0 && is_within(value, levels - 1, left);
    match value {
        Value::Array(list) => list.iter().all(&mut below),
        Value::Object(map) => map.values().all(&mut below),
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn run(object: &mut Value, operations: Vec<Value>) -> Result<(), u16> {
        apply(&read(Value::Array(operations)).map_err(|status| status.code)?, object, &Spent::default()).map_err(|status| status.code)
    }

    #[test]
    fn copies_cannot_blow_an_object_up() {
        let mut object = json!({"a": "x".repeat(1 << 20)});
        let copies = (0..8).map(|i| json!({"op": "copy", "from": "/a", "path": format!("/b{i}")})).collect();
        assert_eq!(run(&mut object, copies), Err(422));
        let doubling = (0..40).map(|_| json!({"op": "copy", "from": "/a", "path": "/a/-"})).collect();
        assert_eq!(run(&mut json!({"a": ["x"]}), doubling), Err(422));
        let many = vec![json!({"op": "remove", "path": "/a"}); OPERATIONS_MAX + 1];
        assert_eq!(run(&mut object, many), Err(413));
    }

    #[test]
    fn places_in_lists_are_numbers_as_go_reads_them() {
        let mut object = json!({"l": [{"a": 1}, {"a": 2}], "00": {"-1": 0}});
        let operations = json!([
            {"op": "replace", "path": "/l/00/a", "value": 5}, {"op": "test", "path": "/l/-1/a", "value": 2}, {"op": "remove", "path": "/l/+1"},
            {"op": "add", "path": "/l/-1", "value": 7}, {"op": "copy", "from": "/l/-2/a", "path": "/l/00"},
            {"op": "replace", "path": "/00/-1", "value": 1},
        ]);
        assert_eq!(run(&mut object, operations.as_array().unwrap().clone()), Ok(()));
        assert_eq!(object, json!({"l": [5, {"a": 5}, 7], "00": {"-1": 1}}));
        assert_eq!(run(&mut object, vec![json!({"op": "remove", "path": "/l/-4"})]), Err(422));
        assert_eq!(run(&mut object, vec![json!({"op": "remove", "path": "/l/0x"})]), Err(422));
    }

    #[test]
    fn missing_keys_may_be_replaced_and_are_null() {
        let mut object = json!({"a": {}, "l": [1]});
        let replaced = json!([{"op": "replace", "path": "/a/b~1c", "value": 1}, {"op": "test", "path": "/a/x", "value": null}]);
        assert_eq!(run(&mut object, replaced.as_array().unwrap().clone()), Ok(()));
        assert_eq!(object["a"], json!({"b/c": 1}));
        for refused in [
            json!({"op": "replace", "path": "/l/7", "value": 1}),
            json!({"op": "replace", "path": "/x/y", "value": 1}),
            json!({"op": "test", "path": "/a/x", "value": 1}),
            json!({"op": "dance", "path": "/a"}),
            json!({"path": "/a"}),
        ] {
            assert_eq!(run(&mut object, vec![refused.clone()]), Err(422), "{refused}");
        }
        assert_eq!(read(json!({})).map_err(|status| status.code).err(), Some(400));
    }

    #[test]
    fn moving_a_long_list_over_and_over_is_refused() {
        let long: Vec<u8> = vec![0; 100_000];
        let ways = [
            json!({"op": "add", "path": "/a/0", "value": 1}),
            json!({"op": "remove", "path": "/a/0"}),
            json!({"op": "move", "from": "/a/0", "path": "/a/99999"}),
            json!({"op": "move", "from": "/a/99999", "path": "/a/0"}),
            json!({"op": "copy", "from": "/b", "path": "/a/0"}),
        ];
        for way in ways {
            let mut object = json!({"a": &long, "b": 1});
            assert_eq!(run(&mut object, vec![way.clone(); OPERATIONS_MAX]), Err(413), "{way}");
            assert_eq!(run(&mut json!({"a": &long, "b": 1}), vec![way.clone(); 10]), Ok(()), "{way}");
        }
        let ends = json!({"op": "add", "path": "/a/-", "value": 1});
        assert_eq!(run(&mut json!({"a": &long}), vec![ends; OPERATIONS_MAX]), Ok(()));
        let whole = (0..OPERATIONS_MAX).map(|i| json!({"op": "move", "from": format!("/m{i}"), "path": format!("/m{}", i + 1)})).collect();
        assert_eq!(run(&mut json!({"m0": &long}), whole), Err(413));
    }

    #[test]
    fn all_tries_of_a_request_are_charged_together() {
        let (long, spent): (Vec<u8>, _) = (vec![0; 100_000], Spent::default());
        let patch = read(json!(vec![json!({"op": "add", "path": "/a/0", "value": 1}); 100])).unwrap();
        let tries = (0..8).map(|_| apply(&patch, &mut json!({"a": &long}), &spent).map_err(|status| status.code));
        assert_eq!(tries.collect::<Vec<_>>(), [Ok(()), Err(413), Err(413), Err(413), Err(413), Err(413), Err(413), Err(413)]);
    }

    #[test]
    fn no_object_gets_deeper_than_a_body_may_be() {
        let chain = |levels: usize| (0..levels).fold(json!({}), |below, _| json!({"a": below}));
        let down = |levels: usize| "/a".repeat(levels);
        let grown = [
            vec![json!({"op": "add", "path": down(100), "value": chain(100)})],
            vec![json!({"op": "copy", "from": "/a", "path": down(101)})],
            vec![json!({"op": "replace", "path": down(100), "value": chain(100)})],
            vec![
                json!({"op": "add", "path": "/b", "value": chain(100)}),
                json!({"op": "move", "from": "/b", "path": format!("{}/b", down(100))}),
            ],
        ];
        for operations in grown {
            assert_eq!(run(&mut chain(100), operations.clone()), Err(422), "{}", operations[0]["op"]);
        }
        assert_eq!(run(&mut chain(100), vec![json!({"op": "add", "path": down(101), "value": 1})]), Ok(()));
    }
}
