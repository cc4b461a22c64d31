//! Cases of upstream's documentation, written anew, and properties.

use std::sync::Arc;

use proptest::prelude::*;
use serde_json::json;

use super::*;

const LINES: &str = "=x.v1.Thing\nmetadata @x.v1.Meta\nspec @x.v1.Spec\n\
    =x.v1.Meta\nname s\nlabels {s\nfinalizers [s set merge\n\
    =x.v1.Spec\ncontainers [@x.v1.Container map:name merge:name\ntolerations [@x.v1.Container\nstrategy @x.v1.Strategy - retainKeys\n\
    volumes [@x.v1.Volume map:name merge,retainKeys:name\nselector @x.v1.Selector - replace\nnumber i\n\
    =x.v1.Container\nname s\nimage s\nargs [s\nports [@x.v1.Port map:port,protocol merge:port\n\
    =x.v1.Port\nport i\nprotocol s\n\
    =x.v1.Strategy\ntype s\nrollingUpdate x\n\
    =x.v1.Volume\nname s\nemptyDir x\nsecret x\n\
    =x.v1.Selector\nmatchLabels {s\n";

fn schema() -> Structure {
    Structure::find(&Arc::new(Table::parse(LINES)), "x.v1.Thing").unwrap()
}

fn patched(mut current: Value, patch: Value) -> Result<Value, Status> {
    apply(&schema(), &mut current, patch).map(|()| current)
}

fn spec(current: Value, patch: Value) -> Result<Value, Status> {
    patched(json!({"spec": current}), json!({"spec": patch})).map(|mut v| v["spec"].take())
}

type Case = (&'static str, Value, Value, Value);

/// What it is about; current, patch, wanted.
fn applied(table: &[Case]) {
    for (what, current, patch, wanted) in table {
        assert_eq!(spec(current.clone(), patch.clone()).unwrap(), *wanted, "{what}");
    }
}

#[test]
fn objects_merge_as_documented() {
    applied(&[
        (
            "an object is replaced by directive",
            json!({"strategy": {"type": "x", "rollingUpdate": {"a": 1}}}),
            json!({"strategy": {"$patch": "replace", "type": "y"}}),
            json!({"strategy": {"type": "y"}}),
        ),
        (
            "an object is replaced by strategy",
            json!({"selector": {"matchLabels": {"a": "b"}}}),
            json!({"selector": {"matchLabels": {"c": "d"}}}),
            json!({"selector": {"matchLabels": {"c": "d"}}}),
        ),
        ("an object is emptied", json!({"strategy": {"type": "x"}}), json!({"strategy": {"$patch": "delete"}}), json!({"strategy": {}})),
        (
            "only named keys stay",
            json!({"strategy": {"type": "RollingUpdate", "rollingUpdate": {"a": 1}}}),
            json!({"strategy": {"$retainKeys": ["type"], "type": "Recreate"}}),
            json!({"strategy": {"type": "Recreate"}}),
        ),
        (
            "a volume changes its source",
            json!({"volumes": [{"name": "v", "emptyDir": {}}]}),
            json!({"volumes": [{"$retainKeys": ["name", "secret"], "name": "v", "secret": {}}]}),
            json!({"volumes": [{"name": "v", "secret": {}}]}),
        ),
        ("null deletes", json!({"number": 1, "selector": {}}), json!({"number": null, "strategy": null}), json!({"selector": {}})),
        (
            "nulls within what is new are dropped",
            json!({}),
            json!({"strategy": {"type": null, "rollingUpdate": {"a": null, "b": 1}}}),
            json!({"strategy": {"rollingUpdate": {"b": 1}}}),
        ),
    ]);
}

#[test]
fn lists_merge_as_documented() {
    applied(&[
        (
            "lists of maps merge by key",
            json!({"containers": [{"name": "a", "image": "1"}, {"name": "b"}]}),
            json!({"containers": [{"name": "a", "image": "2"}]}),
            json!({"containers": [{"name": "a", "image": "2"}, {"name": "b"}]}),
        ),
        (
            "new elements come first",
            json!({"containers": [{"name": "a"}]}),
            json!({"containers": [{"name": "b"}]}),
            json!({"containers": [{"name": "b"}, {"name": "a"}]}),
        ),
        (
            "an element is deleted",
            json!({"containers": [{"name": "a"}, {"name": "b"}]}),
            json!({"containers": [{"name": "a", "$patch": "delete"}]}),
            json!({"containers": [{"name": "b"}]}),
        ),
        (
            "a list is replaced",
            json!({"containers": [{"name": "a"}]}),
            json!({"containers": [{"$patch": "replace"}, {"name": "c"}]}),
            json!({"containers": [{"name": "c"}]}),
        ),
        (
            "a list without strategy is replaced",
            json!({"tolerations": [{"name": "a"}]}),
            json!({"tolerations": [{"name": "b"}]}),
            json!({"tolerations": [{"name": "b"}]}),
        ),
        (
            "the order is set",
            json!({"containers": [{"name": "a"}, {"name": "b"}, {"name": "c"}]}),
            json!({"$setElementOrder/containers": [{"name": "c"}, {"name": "a"}], "containers": [{"name": "c", "image": "1"}]}),
            json!({"containers": [{"name": "b"}, {"name": "c", "image": "1"}, {"name": "a"}]}),
        ),
    ]);
}

#[test]
fn orders_and_keys_work_as_documented() {
    applied(&[
        (
            "the order alone is set",
            json!({"containers": [{"name": "a"}, {"name": "b"}]}),
            json!({"$setElementOrder/containers": [{"name": "b"}, {"name": "a"}]}),
            json!({"containers": [{"name": "b"}, {"name": "a"}]}),
        ),
        (
            "deletion goes with order",
            json!({"containers": [{"name": "a"}, {"name": "b"}]}),
            json!({"$setElementOrder/containers": [{"name": "b"}], "containers": [{"name": "a", "$patch": "delete"}]}),
            json!({"containers": [{"name": "b"}]}),
        ),
        (
            "numbers are keys too",
            json!({"containers": [{"name": "a", "ports": [{"port": 80}]}]}),
            json!({"containers": [{"name": "a", "ports": [{"port": 80, "protocol": "UDP"}, {"port": 81}]}]}),
            json!({"containers": [{"name": "a", "ports": [{"port": 80, "protocol": "UDP"}, {"port": 81}]}]}),
        ),
    ]);
}

#[test]
fn lists_of_scalars_merge_by_value() {
    let current = json!({"metadata": {"finalizers": ["a", "b", "c"]}});
    let run = |patch: Value| patched(current.clone(), json!({"metadata": patch})).unwrap()["metadata"]["finalizers"].clone();
    assert_eq!(run(json!({"finalizers": ["d", "a"]})), json!(["d", "a", "b", "c"]));
    assert_eq!(run(json!({"$deleteFromPrimitiveList/finalizers": ["b"]})), json!(["a", "c"]));
    assert_eq!(run(json!({"$setElementOrder/finalizers": ["c", "a"], "$deleteFromPrimitiveList/finalizers": ["b"]})), json!(["c", "a"]));
}

#[test]
fn bad_patches_are_refused_in_upstreams_words() {
    let table = [
        (json!({"containers": [{"image": "x"}]}), 500, "map: map[image:x] does not contain declared merge key: name"),
        (json!({"containers": [{"$patch": "delete"}]}), 500, "map: map[$patch:delete] does not contain declared merge key: name"),
        (json!({"containers": [[]]}), 422, "lists of lists are not supported"),
        (json!({"containers": [1]}), 500, "list element types are not identical: [[map[name:a]] [1]]"),
        (json!({"containers": [{"name": "a", "$patch": "merge"}]}), 500, "merging lists cannot yet be specified in the patch"),
        (json!({"strategy": {"$patch": "x"}}), 500, "unknown patch type: x in map: map[$patch:x]"),
        (json!({"strategy": {"$patch": 5}}), 500, "unknown patch type: %!s(int64=5) in map: map[$patch:5]"),
        (json!({"strategy": {"$retainKeys": ["rollingUpdate"], "type": "a"}}), 400, "invalid patch format of retainKeys"),
        (json!({"$setElementOrder/containers": {}}), 500, "expected a []interface {}, but received a map[string]interface {}"),
        (
            json!({"$setElementOrder/containers": [{"name": "b"}], "containers": [{"name": "c"}]}),
            500,
            "The order in patch list:\n[map[name:c]]\n doesn't match $setElementOrder list:\n[map[name:b]]\n",
        ),
    ];
    for (patch, code, words) in table {
        let status = spec(json!({"containers": [{"name": "a"}], "strategy": {"type": "a"}}), patch).unwrap_err();
        assert_eq!((status.code, status.message.as_str()), (code, words));
    }
}

fn containers() -> impl Strategy<Value = Vec<(u8, u8)>> {
    proptest::collection::btree_map(0u8..6, 0u8..4, 0..6).prop_map(|map| map.into_iter().collect::<Vec<_>>()).prop_shuffle()
}

fn list(items: &[(u8, u8)]) -> Value {
    items.iter().map(|(name, image)| json!({"name": name.to_string(), "image": image.to_string()})).collect()
}

proptest! {
    #[test]
    fn applying_twice_is_applying_once(current in containers(), patch in containers()) {
        let patch = json!({"containers": list(&patch)});
        let once = spec(json!({"containers": list(&current)}), patch.clone()).unwrap();
        prop_assert_eq!(&spec(once.clone(), patch).unwrap(), &once);
    }

    #[test]
    fn nothing_is_lost_and_the_patch_has_the_last_word(current in containers(), patch in containers()) {
        let merged = spec(json!({"containers": list(&current)}), json!({"containers": list(&patch)})).unwrap();
        let merged = merged["containers"].as_array().unwrap().clone();
        for (name, image) in &current {
            let wanted = patch.iter().find(|(n, _)| n == name).map_or(image, |(_, image)| image);
            let found = merged.contains(&json!({"name": name.to_string(), "image": wanted.to_string()}));
            prop_assert!(found);
        }
        let names: std::collections::BTreeSet<u8> = current.iter().chain(&patch).map(|(n, _)| *n).collect();
        prop_assert_eq!(merged.len(), names.len());
    }

    #[test]
    fn a_set_order_is_kept(current in containers(), order in containers()) {
        let keys: Vec<Value> = order.iter().map(|(n, _)| json!({"name": n.to_string()})).collect();
        let merged = spec(json!({"containers": list(&current)}), json!({"$setElementOrder/containers": keys, "containers": list(&order)})).unwrap();
        let names: Vec<&str> = merged["containers"].as_array().unwrap().iter().filter_map(|c| c["name"].as_str()).collect();
        let ordered: Vec<String> = order.iter().map(|(n, _)| n.to_string()).collect();
        let found: Vec<&str> = names.into_iter().filter(|n| ordered.iter().any(|o| o == n)).collect();
        prop_assert_eq!(found, ordered.iter().map(String::as_str).collect::<Vec<_>>());
    }

    #[test]
    fn no_patch_makes_it_panic(current in anything(), patch in anything()) {
        let once = patched(json!({"spec": current.clone(), "metadata": current}), json!({"spec": patch.clone(), "metadata": patch}));
        if let Ok(value) = once {
            prop_assert!(value.is_object());
        }
    }
}

/// JSON made of words that mean something to patches.
fn anything() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i8>().prop_map(Value::from),
        "a|b|delete|replace|merge".prop_map(Value::from),
    ];
    let key = "name|containers|volumes|finalizers|labels|strategy|ports|port|\\$patch|\\$retainKeys|\\$setElementOrder/containers|\\$setElementOrder/finalizers|\\$deleteFromPrimitiveList/finalizers|\\$deleteFromPrimitiveList|\\$setElementOrder";
    leaf.prop_recursive(5, 40, 5, move |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            proptest::collection::vec((key, inner), 0..5).prop_map(|pairs| Value::Object(pairs.into_iter().collect())),
        ]
    })
}
