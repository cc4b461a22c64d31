//! Who owns which field, and what is applied. Sources: apiserver `test/integration/apiserver/apply`, structured-merge-diff `merge/*_test.go`.

use std::collections::{BTreeMap, BTreeSet};

use proptest::{prelude::*, test_runner::Config};
use serde_json::{Value, json};

use crate::kit::{Reply, Room, THINGS, thing, version};

const YAML: &str = "application/apply-patch+yaml";

async fn apply(room: &Room, path: &str, options: &str, config: &Value) -> Reply {
    room.raw("PATCH", &format!("{path}?{options}"), config.to_string(), &[("content-type", YAML)]).await
}

/// A Thing with these in `spec.m`.
fn config(name: &str, map: &Value) -> Value {
    json!({"apiVersion": "test.io/v1", "kind": "Thing", "metadata": {"name": name}, "spec": {"m": map}})
}

/// Manager, operation and subresource of each entry, and its fields.
fn owners(object: &Value) -> Vec<(String, Value)> {
    let entries = object["metadata"]["managedFields"].as_array().cloned().unwrap_or_default();
    let text = |entry: &Value, name: &str| entry[name].as_str().unwrap_or_default().to_owned();
    entries
        .iter()
        .map(|entry| {
            assert_eq!((&entry["fieldsType"], &entry["apiVersion"]), (&json!("FieldsV1"), &json!("test.io/v1")));
            let who = [text(entry, "manager"), text(entry, "operation"), text(entry, "subresource")].join(" ").trim_end().to_owned();
            (who, entry["fieldsV1"].clone())
        })
        .collect()
}

#[tokio::test]
async fn ordinary_writes_own_what_they_change() {
    let room = Room::new().await;
    let path = format!("{THINGS}/a");
    let by = |manager: &str| format!("{path}?fieldManager={manager}");
    let mut object = thing("a", &json!({}));
    object["metadata"]["labels"] = json!({"x": "1"});
    object["status"] = json!({"size": 2});
    let made = room.post(&format!("{THINGS}?fieldManager=maker"), &object).await.ok(201);
    let own = json!({"f:metadata": {"f:labels": {".": {}, "f:x": {}}}, "f:spec": {".": {}, "f:colour": {}, "f:size": {}}});
    assert_eq!(owners(&made), [("maker Update".into(), own.clone())], "the status is not the maker's");
    let changed = room.patch(&by("other"), "merge-patch", &json!({"spec": {"size": 9}})).await.ok(200);
    let kept = json!({"f:metadata": {"f:labels": {".": {}, "f:x": {}}}, "f:spec": {".": {}, "f:colour": {}}});
    assert_eq!(owners(&changed), [("maker Update".into(), kept.clone()), ("other Update".into(), json!({"f:spec": {"f:size": {}}}))]);
    let same = room.patch(&by("third"), "merge-patch", &json!({"spec": {"size": 9}})).await.ok(200);
    assert_eq!(same, changed, "who changes nothing owns nothing");
    let told = room
        .raw(
            "PATCH",
            &format!("{path}/status?fieldManager=teller"),
            r#"{"status":{"size":1},"spec":{"size":3}}"#,
            &[("content-type", "application/merge-patch+json")],
        )
        .await
        .ok(200);
    assert_eq!(owners(&told)[2], ("teller Update status".into(), json!({"f:status": {".": {}, "f:size": {}}})));
    let gone = room.patch(&by("other"), "merge-patch", &json!({"spec": {"size": null}, "metadata": {"labels": {"x": null}}})).await.ok(200);
    assert_eq!(owners(&gone)[0].1, json!({"f:metadata": {"f:labels": {}}, "f:spec": {".": {}, "f:colour": {}}}));
    assert_eq!(owners(&gone).len(), 2, "who has nothing left goes: {gone}");
    // A reader that does not know of the entries loses none by writing; an empty one says that there shall be none.
    let mut whole = gone.clone();
    whole["metadata"].as_object_mut().unwrap().remove("managedFields");
    whole["spec"]["new"] = json!(1);
    assert_eq!(owners(&room.put(&by("other"), &whole).await.ok(200)).len(), 3);
    whole["metadata"].as_object_mut().unwrap().remove("resourceVersion");
    for nobody in [json!([]), json!([{}])] {
        whole["metadata"]["managedFields"] = nobody;
        assert_eq!(owners(&room.put(&by("other"), &whole).await.ok(200)), []);
    }
}

#[tokio::test]
async fn entries_of_a_body_count_where_they_can_be_read() {
    let room = Room::new().await;
    let path = format!("{THINGS}/a?fieldManager=me");
    room.thing("a", &json!({})).await;
    let entry = json!({"manager": "fake", "operation": "Update", "apiVersion": "test.io/v1", "fieldsType": "FieldsV1", "fieldsV1": {"f:spec": {"f:size": {}}}});
    let with = |entry: &Value| json!({"metadata": {"managedFields": [entry]}});
    let taken = room.patch(&path, "merge-patch", &with(&entry)).await.ok(200);
    assert_eq!(owners(&taken), [("fake Update".into(), json!({"f:spec": {"f:size": {}}}))]);
    for (field, value) in
        [("operation", json!("Sing")), ("apiVersion", json!("")), ("fieldsType", json!("FieldsV9")), ("fieldsV1", json!({"name": {}}))]
    {
        let mut bad = entry.clone();
        bad["manager"] = json!("bad");
        bad[field] = value;
        assert_eq!(owners(&room.patch(&path, "merge-patch", &with(&bad)).await.ok(200)), owners(&taken), "{field}");
    }
}

#[tokio::test]
async fn the_oldest_of_many_are_joined() {
    let room = Room::new().await;
    room.thing("a", &json!({})).await;
    let mut last = Value::Null;
    for at in 0..15 {
        let path = format!("{THINGS}/a?fieldManager=m{at:02}");
        last = room.patch(&path, "merge-patch", &json!({"spec": {format!("k{at}"): 1}})).await.ok(200);
    }
    let all = owners(&last);
    assert_eq!(all.len(), 10);
    let ancient = all.iter().find(|(who, _)| who == "ancient-changes Update").unwrap();
    assert!(ancient.1["f:spec"].get("f:k0").is_some(), "{ancient:?}");
    assert!(all.iter().any(|(who, _)| who == "m14 Update"));
}

/// Upstream's handlers try again without them (`isTooLargeError`).
#[tokio::test]
async fn what_is_too_large_is_stored_without_its_entries() {
    let room = Room::new().await;
    // A name of an entry takes about as much as the field does.
    let map = || (0..65_000).map(|i| (format!("a-rather-long-key-{i:012}"), json!(0))).collect();
    let mut object = thing("a", &json!({}));
    object["spec"]["m"] = Value::Object(map());
    let made = room.post(&format!("{THINGS}?fieldManager=one"), &object).await.ok(201);
    assert_eq!((made["spec"]["m"].as_object().map(serde_json::Map::len), owners(&made).len()), (Some(65_000), 0));
    room.thing("b", &json!({})).await;
    object["metadata"]["name"] = json!("b");
    let changed = room.put(&format!("{THINGS}/b?fieldManager=two"), &object).await.ok(200);
    assert_eq!((changed["spec"]["m"].as_object().map(serde_json::Map::len), owners(&changed).len()), (Some(65_000), 0));
    // What is applied is nothing without them.
    let whole = config("c", &Value::Object(map()));
    apply(&room, &format!("{THINGS}/c"), "fieldManager=m", &whole).await.refused(413, "Request entity too large");
}

#[tokio::test]
async fn what_is_applied_is_made_kept_and_given_up() {
    let room = Room::new().await;
    let path = format!("{THINGS}/a");
    let made = apply(&room, &path, "fieldManager=one", &config("a", &json!({"x": "1", "y": "1"}))).await.ok(201);
    assert_eq!(made["spec"], json!({"m": {"x": "1", "y": "1"}, "colour": "red"}));
    // A map that the schema does not name is owned itself.
    let own = json!({"f:spec": {".": {}, "f:m": {".": {}, "f:x": {}, "f:y": {}}}});
    assert_eq!(owners(&made), [("one Apply".into(), own.clone())]);
    let again = apply(&room, &path, "fieldManager=one", &config("a", &json!({"x": "1", "y": "1"}))).await.ok(200);
    assert_eq!(again, made, "nothing was written");
    let shared = apply(&room, &path, "fieldManager=two", &config("a", &json!({"x": "1"}))).await.ok(200);
    // What an apply leaves as it is has no time, and those without one come first (`managedFieldsUpdater.Apply`).
    assert_eq!(
        owners(&shared),
        [("two Apply".into(), json!({"f:spec": {".": {}, "f:m": {".": {}, "f:x": {}}}})), ("one Apply".into(), own)]
    );
    let refused = apply(&room, &path, "fieldManager=two", &config("a", &json!({"x": "2", "y": "2"}))).await;
    let status = refused.refused(409, "Apply failed with 2 conflicts: conflicts with \"one\":\n- .spec.m.x\n- .spec.m.y");
    assert_eq!(
        status["details"]["causes"][0],
        json!({"reason": "FieldManagerConflict", "message": "conflict with \"one\"", "field": ".spec.m.x"})
    );
    let dry = apply(&room, &path, "fieldManager=two&force=true&dryRun=All", &config("a", &json!({"x": "2"}))).await.ok(200);
    assert_eq!(dry["spec"]["m"], json!({"x": "2", "y": "1"}));
    assert_eq!(version(&room.get(&path).await.ok(200)), version(&shared));
    let forced = apply(&room, &path, "fieldManager=two&force=true", &config("a", &json!({"x": "2"}))).await.ok(200);
    assert_eq!(owners(&forced)[0].1, json!({"f:spec": {".": {}, "f:m": {".": {}, "f:y": {}}}}));
    let given_up = apply(&room, &path, "fieldManager=one", &config("a", &json!({}))).await.ok(200);
    assert_eq!(given_up["spec"], json!({"m": {"x": "2"}, "colour": "red"}));
    let by_update = room.patch(&format!("{path}?fieldManager=up"), "merge-patch", &json!({"spec": {"m": {"x": "3"}}})).await.ok(200);
    assert!(owners(&by_update).iter().all(|(who, fields)| who == "up Update" || fields["f:spec"]["f:m"].get("f:x").is_none()));
    apply(&room, &path, "fieldManager=two", &config("a", &json!({"x": "4"})))
        .await
        .refused(409, "Apply failed with 1 conflict: conflict with \"up\" using test.io/v1: .spec.m.x");
}

#[tokio::test]
async fn what_cannot_be_applied_is_refused() {
    let room = Room::new().await;
    let path = format!("{THINGS}/a");
    room.thing("a", &json!({})).await;
    let good = config("a", &json!({}));
    apply(&room, &path, "", &good).await.refused(422, "fieldManager: Required value: is required for apply patch");
    apply(&room, &path, "fieldManager=a%01b", &good).await.refused(422, "invalid character U+0001 (at position 1)");
    apply(&room, &path, &format!("fieldManager={}", "m".repeat(129)), &good).await.refused(422, "Too long: may not be more than 128 bytes");
    room.patch(&format!("{path}?force=true"), "merge-patch", &json!({}))
        .await
        .refused(422, "force: Forbidden: may not be specified for non-apply patch");
    let cases = [
        (json!({"kind": "Other"}), 400, "invalid object type: test.io/v1, Kind=Other"),
        (json!({"apiVersion": "v9"}), 400, "invalid object type: /v9, Kind=Thing"),
        (json!({"metadata": {"name": "a", "managedFields": [{}]}}), 400, "metadata.managedFields must be nil"),
        (json!({"metadata": {"name": "a", "namespace": "other"}}), 400, "the namespace of the provided object does not match"),
        (json!({"metadata": {"name": "b"}}), 400, "the name of the object (b) does not match the name on the URL (a)"),
        (json!({"metadata": {"name": "a", "resourceVersion": "99"}}), 409, "has been modified"),
    ];
    for (change, code, words) in cases {
        let mut bad = good.clone();
        change.as_object().unwrap().iter().for_each(|(name, value)| bad[name] = value.clone());
        apply(&room, &path, "fieldManager=m", &bad).await.refused(code, words);
    }
    for (body, words) in
        [("[", "error decoding YAML: "), ("text", "error decoding YAML: error unmarshaling JSON"), ("", "invalid object type: /, Kind=")]
    {
        room.raw("PATCH", &format!("{path}?fieldManager=m"), body, &[("content-type", YAML)]).await.refused(400, words);
    }
    let mut other = config("n", &json!({}));
    other["metadata"]["uid"] = json!("u");
    apply(&room, &format!("{THINGS}/n"), "fieldManager=m", &other).await.refused(409, "uid mismatch: the provided object specified uid u");
    apply(&room, &format!("{THINGS}/n/status"), "fieldManager=m", &config("n", &json!({}))).await.refused(404, "not found");
}

#[tokio::test]
async fn a_scale_says_who_set_it() {
    let room = Room::new().await;
    let path = format!("{THINGS}/a");
    room.post(&format!("{THINGS}?fieldManager=maker"), &thing("a", &json!({}))).await.ok(201);
    let scale = |size: i64| json!({"apiVersion": "autoscaling/v1", "kind": "Scale", "metadata": {"name": "a"}, "spec": {"replicas": size}});
    let refused = apply(&room, &format!("{path}/scale"), "fieldManager=scaler", &scale(5)).await;
    refused.refused(409, "conflict with \"maker\" using autoscaling/v1: .spec.replicas");
    apply(&room, &format!("{path}/scale"), "fieldManager=scaler&force=true", &scale(5)).await.ok(200);
    let scaled = room.get(&path).await.ok(200);
    assert_eq!(scaled["spec"]["size"], 5);
    let by = |who: &str, of: &Value| owners(of).into_iter().find(|(name, _)| name == who).map(|(_, fields)| fields);
    assert_eq!(by("scaler Apply scale", &scaled), Some(json!({"f:spec": {"f:size": {}}})));
    let entry = scaled["metadata"]["managedFields"].as_array().unwrap().iter().find(|entry| entry["subresource"] == "scale").unwrap();
    assert_eq!(entry.get("time"), None, "as upstream's");
    assert_eq!(by("maker Update", &scaled).unwrap()["f:spec"].get("f:size"), None);
    room.put(&format!("{path}/scale?fieldManager=hand"), &scale(7)).await.ok(200);
    let scaled = room.get(&path).await.ok(200);
    assert_eq!((by("scaler Apply scale", &scaled), by("hand Update scale", &scaled)), (None, Some(json!({"f:spec": {"f:size": {}}}))));
}

#[tokio::test]
async fn what_kubectl_applied_itself_it_may_take_over() {
    let room = Room::new().await;
    let path = format!("{THINGS}/a");
    let last = config("a", &json!({"x": "1", "y": "1"}));
    let mut object = last.clone();
    object["metadata"]["annotations"] = json!({"kubectl.kubernetes.io/last-applied-configuration": last.to_string()});
    room.post(&format!("{THINGS}?fieldManager=kubectl-client-side-apply"), &object).await.ok(201);
    let next = config("a", &json!({"x": "2", "y": "1"}));
    apply(&room, &path, "fieldManager=other", &next)
        .await
        .refused(409, "conflict with \"kubectl-client-side-apply\" using test.io/v1: .spec.m.x");
    let taken = apply(&room, &path, "fieldManager=kubectl", &next).await.ok(200);
    assert_eq!(taken["spec"]["m"], json!({"x": "2", "y": "1"}));
    let told = taken["metadata"]["annotations"]["kubectl.kubernetes.io/last-applied-configuration"].as_str().unwrap();
    assert_eq!(serde_json::from_str::<Value>(told).unwrap(), next);
    // What was changed since was not applied by it.
    room.patch(&format!("{path}?fieldManager=hand"), "merge-patch", &json!({"spec": {"m": {"y": "9"}}})).await.ok(200);
    apply(&room, &path, "fieldManager=kubectl", &config("a", &json!({"x": "2", "y": "3"}))).await.refused(409, "conflict with \"hand\"");
}

/// One write to `spec.m`: by whom, what, and how.
#[derive(Clone, Debug)]
enum Write {
    Apply { who: usize, map: BTreeMap<String, String>, force: bool },
    Put { who: usize, map: BTreeMap<String, String> },
}

/// The slow model: a map, and for each manager (`a`pply or `u`pdate) the keys that are its own.
#[derive(Clone, Debug, Default, PartialEq)]
struct Model {
    map: BTreeMap<String, String>,
    own: BTreeMap<String, BTreeSet<String>>,
}

impl Model {
    /// False: refused, and nothing is changed.
    fn write(&mut self, write: &Write) -> bool {
        let (who, map) = match write {
            Write::Apply { who, map, .. } => (format!("m{who} Apply"), map),
            Write::Put { who, map } => (format!("m{who} Update"), map),
        };
        let before = self.map.clone();
        let mut next = map.clone();
        if let Write::Apply { force, .. } = write {
            let changes = |key: &String| map.get(key).is_some_and(|value| before.get(key).is_some_and(|was| was != value));
            if !force && self.own.iter().any(|(other, keys)| *other != who && keys.iter().any(changes)) {
                return false;
            }
            let given_up: BTreeSet<String> = self.own.insert(who.clone(), map.keys().cloned().collect()).unwrap_or_default();
            let is_owned = |key: &String| self.own.values().any(|keys| keys.contains(key));
            next = before.clone().into_iter().filter(|(key, _)| !given_up.contains(key) || is_owned(key)).collect();
            next.extend(map.clone());
        }
        let is_changed = |key: &String| before.get(key) != next.get(key);
        for (_, keys) in self.own.iter_mut().filter(|(other, _)| **other != who) {
            keys.retain(|key| !is_changed(key));
        }
        if matches!(write, Write::Put { .. }) {
            let keys = self.own.entry(who).or_default();
            keys.retain(|key| next.contains_key(key));
            keys.extend(next.keys().filter(|key| is_changed(key)).cloned());
        }
        self.own.retain(|_, keys| !keys.is_empty());
        self.map = next;
        true
    }

    fn of(object: &Value) -> Self {
        let map = serde_json::from_value(object["spec"]["m"].clone()).unwrap();
        let keys = |fields: &Value| {
            let keys = fields["f:spec"]["f:m"].as_object().into_iter().flatten();
            keys.filter_map(|(key, _)| key.strip_prefix("f:").map(str::to_owned)).collect::<BTreeSet<_>>()
        };
        let own = owners(object).iter().map(|(who, fields)| (who.clone(), keys(fields))).filter(|(_, keys)| !keys.is_empty()).collect();
        Self { map, own }
    }
}

fn writes() -> impl Strategy<Value = Vec<Write>> {
    let map = || prop::collection::btree_map("[a-d]", "[12]", 0..4);
    let write = prop_oneof![
        3 => (0..3usize, map(), any::<bool>()).prop_map(|(who, map, force)| Write::Apply { who, map, force }),
        1 => (0..2usize, map()).prop_map(|(who, map)| Write::Put { who, map }),
    ];
    prop::collection::vec(write, 1..8)
}

async fn write(room: &Room, name: &str, write: &Write) -> Reply {
    let path = format!("{THINGS}/{name}");
    let with_base = |map: &BTreeMap<String, String>| {
        let mut map = map.clone();
        map.insert("base".into(), "0".into());
        config(name, &json!(map))
    };
    match write {
        Write::Apply { who, map, force } => {
            apply(room, &path, &format!("fieldManager=m{who}&force={force}"), &config(name, &json!(map))).await
        }
        Write::Put { who, map } => room.put(&format!("{path}?fieldManager=m{who}"), &with_base(map)).await,
    }
}

async fn agrees(room: &Room, name: &str, all: &[Write]) {
    // Somebody owns the map as such, and one key that nobody else names.
    room.post(&format!("{THINGS}?fieldManager=base"), &config(name, &json!({"base": "0"}))).await.ok(201);
    let mut model = Model::default();
    for one in all {
        let reply = write(room, name, one).await;
        let is_taken = model.write(one);
        assert_eq!(reply.code, if is_taken { 200 } else { 409 }, "{one:?} of {all:?}: {}", reply.json());
        let now = room.get(&format!("{THINGS}/{name}")).await.ok(200);
        let mut found = Model::of(&now);
        assert_eq!(found.map.remove("base").as_deref(), Some("0"));
        found.own.remove("base Update");
        assert_eq!(found, model, "after {one:?} of {all:?}");
        if is_taken && matches!(one, Write::Apply { .. }) {
            write(room, name, one).await.ok(200);
            assert_eq!(room.get(&format!("{THINGS}/{name}")).await.ok(200), now, "applied twice: {one:?} of {all:?}");
        }
    }
}

#[test]
fn writes_agree_with_a_slow_model() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let room = runtime.block_on(Room::new());
    let mut runner = proptest::test_runner::TestRunner::new(Config { cases: 96, failure_persistence: None, ..Config::default() });
    let at = std::cell::Cell::new(0);
    let outcome = runner.run(&writes(), |all| {
        at.set(at.get() + 1);
        runtime.block_on(agrees(&room, &format!("t{}", at.get()), &all));
        Ok(())
    });
    outcome.unwrap();
}

#[test]
fn who_applies_different_things_may_come_in_any_order() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let room = runtime.block_on(Room::new());
    let at = std::cell::Cell::new(0);
    let mut runner = proptest::test_runner::TestRunner::new(Config { cases: 32, failure_persistence: None, ..Config::default() });
    let maps = (prop::collection::btree_map("[a-c]", "[12]", 1..4), prop::collection::btree_map("[x-z]", "[12]", 1..4));
    let outcome = runner.run(&maps, |(one, two)| {
        at.set(at.get() + 1);
        let done = |name: String, order: [&Write; 2]| {
            runtime.block_on(async {
                for one in order {
                    let reply = write(&room, &name, one).await;
                    assert!(matches!(reply.code, 200 | 201), "{}", reply.json());
                }
                Model::of(&room.get(&format!("{THINGS}/{name}")).await.ok(200))
            })
        };
        let one = Write::Apply { who: 1, map: one, force: false };
        let two = Write::Apply { who: 2, map: two, force: false };
        prop_assert_eq!(done(format!("f{}", at.get()), [&one, &two]), done(format!("b{}", at.get()), [&two, &one]));
        Ok(())
    });
    outcome.unwrap();
}

#[tokio::test]
async fn keys_that_stand_twice_are_told_by_their_lines() {
    let room = Room::new().await;
    let body = "apiVersion: test.io/v1\nkind: Thing\nmetadata: {name: twice}\nspec:\n  colour: red\n  colour: blue\n";
    let apply = async |more: &str| {
        let path = format!("{THINGS}/twice?fieldManager=m{more}");
        room.raw("PATCH", &path, body, &[("content-type", YAML)]).await
    };
    let line = "line 6: key \"colour\" already set in map";
    let refused = apply("&fieldValidation=Strict").await.refused(400, "error strict decoding YAML: error converting YAML to JSON: ");
    assert!(refused["message"].as_str().unwrap().ends_with(&format!("yaml: unmarshal errors:\n  {line}")), "{refused}");
    let warned = apply("").await;
    assert!(warned.headers["warning"].to_str().unwrap().contains("already set in map"), "{:?}", warned.headers);
    assert_eq!(warned.ok(201)["spec"]["colour"], "blue");
    assert!(!apply("&fieldValidation=Ignore").await.headers.contains_key("warning"));
}
