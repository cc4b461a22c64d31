//! Tables of upstream's cases (structured-merge-diff `typed/*_test.go`, `fieldpath/*_test.go`), and laws.

use std::{ops::ControlFlow, sync::Arc};

use proptest::prelude::*;
use serde_json::{Map, Value, json};

use super::*;
use crate::schema::{Structure, Table};

const TEXT: &str = "=t.v1.Root\nmetadata !@t.v1.Meta\nname ~s\nflag ~b\ncount i\nfree x\nset ~[s set\nitems ~[@t.v1.Item map:key,id=1 -\nwhole ~[s\n\
    labels ~{s\nbound ~{s atomic-map\ninner !@t.v1.Inner\nmaybe @t.v1.Inner\none @t.v1.One\n=t.v1.Meta\nlabels ~{s\nname ~s\nfinalizers ~[s set\n\
    =t.v1.Item\nkey !s\nid ~s\nmade !t\nseen t\nvalue ~s\nports ~[@t.v1.Item map:key\n=t.v1.Inner\na ~s\nb ~s\n=t.v1.One atomic\na ~s\nb ~s\n";

fn structure() -> Structure {
    Structure::find(&Arc::new(Table::parse(TEXT)), "t.v1.Root").unwrap()
}

fn fields(of: &Value) -> Value {
    set_of(Typ::of(&structure()), of, Mode::Raw).to_fields()
}

fn change(old: &Value, new: &Value, mode: Mode) -> [Value; 3] {
    let structure = structure();
    let Comparison { added, modified, removed } =
        compare(Typ::of(&structure), Side { value: old, mode }, Side { value: new, mode }).unwrap();
    [added, modified, removed].map(|set| set.to_fields())
}

fn merged(live: &Value, config: &Value) -> Value {
    let structure = structure();
    let mut out = live.clone();
    merge(Typ::of(&structure), &mut out, config).unwrap();
    out
}

#[test]
fn elements_have_two_texts() {
    for (text, shown) in [
        ("f:spec", ".spec"),
        (r#"k:{"name":"x"}"#, r#"[name="x"]"#),
        (r#"k:{"port":80,"protocol":"TCP"}"#, r#"[port=80,protocol="TCP"]"#),
        (r#"v:"a""#, r#"[="a"]"#),
        ("v:true", "[=true]"),
        ("v:1.5", "[=1.5]"),
        (r#"v:"\u003ca\u003e""#, r#"[="<a>"]"#),
        ("i:3", "[3]"),
    ] {
        let element = Element::parse(text).unwrap().unwrap();
        assert_eq!((element.text().as_str(), element.to_string().as_str()), (text, shown));
    }
    assert_eq!(Element::parse("z:new"), Ok(None));
    for bad in ["", "f", "name", "k:[]", "k:{", "v:", "i:x"] {
        assert!(Element::parse(bad).is_err(), "{bad}");
    }
}

#[test]
fn elements_are_ordered_by_what_they_are() {
    let sorted =
        ["f:a", "f:b", r#"k:{"a":1}"#, r#"k:{"a":1,"b":1}"#, r#"k:{"a":"1"}"#, "v:1", "v:1.5", "v:2", r#"v:"1""#, "v:true", "i:0", "i:1"];
    let elements: Vec<Element> = sorted.iter().map(|text| Element::parse(text).unwrap().unwrap()).collect();
    assert!(elements.is_sorted_by(|one, two| one < two), "{elements:?}");
    assert_eq!(Element::Value(json!(1)), Element::Value(json!(1.0)));
}

#[test]
fn fields_are_read_and_written_in_canonical_order() {
    let given = json!({"f:b": {".": {}, "f:x": {}}, "z:later": {"f:q": {}}, "f:a": {"k:{\"id\":\"1\"}": {}}, "f:c": null});
    let set = Set::from_fields(&given).unwrap();
    let text = r#"{"f:a":{"k:{\"id\":\"1\"}":{}},"f:b":{".":{},"f:x":{}},"f:c":{}}"#;
    assert_eq!(set.to_fields().to_string(), text);
    let told: Vec<String> = paths(&set).iter().map(|path| path.iter().map(Element::to_string).collect()).collect();
    assert_eq!(told, [".b", ".c", r#".a[id="1"]"#, ".b.x"]);
    assert!(Set::from_fields(&json!({"f:a": 1})).is_err() && Set::from_fields(&json!([])).is_err());
    let deep = (0..200).fold(json!({}), |below, _| json!({"f:a": below}));
    assert!(Set::from_fields(&deep).is_err());
}

#[test]
fn sets_have_the_leaves_and_the_items() {
    let cases = [
        (json!({"name": "a", "count": 1}), json!({"f:count": {}, "f:name": {}})),
        (json!({"set": ["b", "a"]}), json!({"f:set": {"v:\"a\"": {}, "v:\"b\"": {}}})),
        (json!({"set": []}), json!({})),
        (json!({"labels": {}}), json!({"f:labels": {}})),
        (json!({"labels": {"x": "1"}}), json!({"f:labels": {"f:x": {}}})),
        (json!({"labels": null}), json!({"f:labels": {}})),
        (json!({"bound": {"x": "1"}, "whole": ["a"], "one": {"a": "1"}}), json!({"f:bound": {}, "f:one": {}, "f:whole": {}})),
        (json!({"inner": {"a": "1"}}), json!({"f:inner": {"f:a": {}}})),
        (
            json!({"items": [{"key": "a", "value": "v"}]}),
            json!({"f:items": {"k:{\"id\":\"1\",\"key\":\"a\"}": {".": {}, "f:key": {}, "f:value": {}}}}),
        ),
        (json!({"items": [{"key": "a"}, {"key": "a"}]}), json!({"f:items": {"k:{\"id\":\"1\",\"key\":\"a\"}": {}}})),
        (json!({"free": {"a": {"b": 1}, "c": [1]}}), json!({"f:free": {"f:a": {".": {}, "f:b": {}}, "f:c": {}}})),
    ];
    for (object, expected) in cases {
        assert_eq!(fields(&object), expected, "{object}");
    }
}

/// A schema may have become another since it was stored.
#[test]
fn what_is_there_and_cannot_be_merged_is_not_dropped() {
    let structure = structure();
    let keyless = "associative list with keys has an element that omits all key fields";
    let cases = [
        (json!({"items": [{"key": "a"}, {"value": "v"}]}), json!({"items": [{"key": "a"}]}), None),
        (
            json!({"items": ["v"]}),
            json!({"items": [{"key": "a"}]}),
            Some(".items: element 0: associative list with keys may not have non-map elements"),
        ),
        (json!({"items": {"a": "b"}}), json!({"items": [{"key": "a"}]}), Some(".items: expected list, got &{map[a:b]}")),
        (json!({"labels": ["a", "b"]}), json!({"labels": {"a": "b"}}), Some(".labels: expected map, got &{[a b]}")),
        (
            json!({"set": [{"a": 1}]}),
            json!({"set": ["a"]}),
            Some(".set: element 0: associative list without keys has an element that's a map type"),
        ),
        (
            json!({"items": [{"key": "a", "ports": ["x"]}]}),
            json!({"items": [{"key": "a", "ports": [{"key": "b"}]}]}),
            Some(r#".items[id="1",key="a"].ports: element 0: associative list with keys may not have non-map elements"#),
        ),
        // Nobody says anything about it, it is owned as a whole, or nothing is known of it.
        (json!({"items": ["v"]}), json!({"name": "a"}), None),
        (json!({"whole": {"a": "b"}}), json!({"whole": ["a"]}), None),
        (json!({"free": ["a"]}), json!({"free": {"a": "b"}}), None),
        (json!({"items": null}), json!({"items": [{"key": "a"}]}), None),
    ];
    for (live, config, wanted) in cases {
        let found = merge(Typ::of(&structure), &mut live.clone(), &config).err();
        assert_eq!(found.as_deref(), wanted, "{live} {config} ({keyless})");
    }
}

#[test]
fn what_changes_is_told_by_field_and_item() {
    let none = || json!({});
    let cases = [
        (json!({"name": "a"}), json!({"name": "b", "count": 1}), [json!({"f:count": {}}), json!({"f:name": {}}), none()]),
        (
            json!({"set": ["a", "b"]}),
            json!({"set": ["c", "b"]}),
            [json!({"f:set": {"v:\"c\"": {}}}), none(), json!({"f:set": {"v:\"a\"": {}}})],
        ),
        (json!({}), json!({"labels": {"x": "1"}}), [json!({"f:labels": {".": {}, "f:x": {}}}), none(), none()]),
        (json!({"labels": {"x": "1"}}), json!({}), [none(), none(), json!({"f:labels": {".": {}, "f:x": {}}})]),
        (json!({"whole": ["a"]}), json!({"whole": ["b"]}), [none(), json!({"f:whole": {}}), none()]),
        (
            json!({"items": [{"key": "a", "value": "1"}]}),
            json!({"items": [{"key": "a", "value": "2"}]}),
            [none(), json!({"f:items": {"k:{\"id\":\"1\",\"key\":\"a\"}": {"f:value": {}}}}), none()],
        ),
        // Items that are there several times are owned as one.
        (
            json!({"items": [{"key": "a"}]}),
            json!({"items": [{"key": "a"}, {"key": "a", "value": "1"}]}),
            [
                json!({"f:items": {"k:{\"id\":\"1\",\"key\":\"a\"}": {}}}),
                none(),
                json!({"f:items": {"k:{\"id\":\"1\",\"key\":\"a\"}": {".": {}, "f:key": {}}}}),
            ],
        ),
        // What is deduced may change its form.
        (json!({"free": 1}), json!({"free": {"a": 1}}), [json!({"f:free": {"f:a": {}}}), json!({"f:free": {}}), none()]),
        // What the system keeps is nobody's.
        (
            json!({"metadata": {"name": "a", "uid": "1"}}),
            json!({"metadata": {"name": "a", "labels": {"l": "1"}}, "kind": "K"}),
            [json!({"f:metadata": {"f:labels": {".": {}, "f:l": {}}}}), none(), none()],
        ),
    ];
    for (old, new, expected) in cases {
        assert_eq!(change(&old, &new, Mode::Raw), expected, "{old} {new}");
    }
}

#[test]
fn objects_are_read_as_go_reads_them() {
    let none = || json!({});
    // No pointer: it is there before anything is said of it. A zero value is none.
    assert_eq!(
        change(&json!({}), &json!({"inner": {"a": "1"}, "flag": false}), Mode::Typed),
        [json!({"f:inner": {"f:a": {}}}), none(), none()]
    );
    assert_eq!(change(&json!({}), &json!({"maybe": {"a": "1"}}), Mode::Typed), [json!({"f:maybe": {".": {}, "f:a": {}}}), none(), none()]);
    assert_eq!(change(&json!({"name": ""}), &json!({"name": null}), Mode::Typed), [none(), none(), none()]);
    // A time that is no pointer is null where it is not known; one that is a pointer is not there, whatever was sent.
    let made = |seen: Value| change(&json!({}), &json!({"items": [{"key": "a", "seen": seen}]}), Mode::Typed);
    let item = |fields: Value| [json!({"f:items": {".": {}, "k:{\"id\":\"1\",\"key\":\"a\"}": fields}}), none(), none()];
    assert_eq!(made(json!(null)), item(json!({".": {}, "f:key": {}, "f:made": {}})));
    assert_eq!(made(json!("2026-01-01T00:00:00Z")), item(json!({".": {}, "f:key": {}, "f:made": {}, "f:seen": {}})));
}

#[test]
fn what_is_applied_is_put_over_what_is_there() {
    let item = |key: &str, value: &str| json!({"key": key, "value": value});
    let cases = [
        (json!({"name": "a", "count": 1}), json!({"name": "b"}), json!({"name": "b", "count": 1})),
        (json!({"labels": {"x": "1"}}), json!({"labels": {"y": "2"}}), json!({"labels": {"x": "1", "y": "2"}})),
        (json!({"labels": {"x": "1"}}), json!({"labels": null}), json!({"labels": {"x": "1"}})),
        (json!({"bound": {"x": "1"}}), json!({"bound": {"y": "2"}}), json!({"bound": {"y": "2"}})),
        (json!({"set": ["a", "b", "c"]}), json!({"set": ["c", "a"]}), json!({"set": ["b", "c", "a"]})),
        (json!({"set": ["a", "b"]}), json!({"set": ["c"]}), json!({"set": ["a", "b", "c"]})),
        (json!({"set": ["a", "b", "c"]}), json!({"set": ["x", "b"]}), json!({"set": ["a", "x", "b", "c"]})),
        (
            json!({"items": [item("a", "1"), item("b", "1")]}),
            json!({"items": [item("b", "2")]}),
            json!({"items": [item("a", "1"), item("b", "2")]}),
        ),
        (json!({"free": [1]}), json!({"free": {"a": 1}}), json!({"free": {"a": 1}})),
    ];
    for (live, config, expected) in cases {
        assert_eq!(merged(&live, &config), expected, "{live} {config}");
    }
}

#[test]
fn what_is_owned_as_a_whole_now_is_one() {
    let structure = structure();
    let typ = Typ::of(&structure);
    let old = json!({"f:bound": {".": {}, "f:x": {}}, "f:one": {"f:a": {}}, "f:whole": {"v:\"a\"": {}}, "f:labels": {"f:x": {}}, "f:free": {"f:x": {}}});
    let mut set = Set::from_fields(&old).unwrap();
    assert!(is_outdated(typ, &old));
    reconcile(typ, &mut set);
    let new = json!({"f:bound": {}, "f:one": {}, "f:whole": {}, "f:labels": {"f:x": {}}, "f:free": {"f:x": {}}});
    assert_eq!(set.to_fields(), new);
    assert!(!is_outdated(typ, &new));
}

#[test]
fn what_is_wrong_is_told_in_upstreams_words() {
    let structure = structure();
    let wrong = |value: Value| validate(Typ::of(&structure), &value).unwrap_err();
    assert_eq!(wrong(json!({"nothing": 1})), ".nothing: field not declared in schema");
    assert_eq!(wrong(json!({"labels": "text"})), ".labels: expected map, got &{text}");
    assert_eq!(wrong(json!({"set": {"a": 1}})), ".set: expected list, got &{map[a:1]}");
    assert_eq!(wrong(json!({"name": 1})), ".name: expected string, got &value.valueUnstructured{Value:1}");
    assert_eq!(wrong(json!({"count": "1"})), ".count: expected numeric (int or float), got string");
    assert_eq!(wrong(json!({"set": ["a", "a"]})), r#".set: duplicate entries for key [="a"]"#);
    assert_eq!(wrong(json!({"set": [null]})), ".set: element 0: associative list without keys has an element that's an explicit null");
    assert_eq!(validate(Typ::of(&structure), &json!({"free": {"a": [1, {"b": null}]}, "items": [{"key": "a"}]})), Ok(()));
}

/// Objects of the schema: in lists, no item twice.
fn object() -> impl Strategy<Value = Value> {
    let word = || prop_oneof!["a", "b", "c"].prop_map(String::from);
    let labels = || prop::collection::btree_map(word(), word(), 0..3).prop_map(|map| json!(map));
    let set = prop::collection::btree_set(word(), 0..3).prop_map(|set| json!(set)).boxed();
    let item = (prop::option::of(word()), prop::option::of(labels()));
    let items = prop::collection::btree_map(word(), item, 0..3).prop_map(|items| {
        let item = |(key, (value, _)): (String, (Option<String>, Option<Value>))| match value {
            Some(value) => json!({"key": key, "value": value}),
            None => json!({"key": key}),
        };
        items.into_iter().map(item).collect::<Value>()
    });
    let all = (
        prop::option::of(word().prop_map(Value::from)),
        prop::option::of(set),
        prop::option::of(items),
        prop::option::of(labels()),
        prop::option::of(labels()),
        prop::option::of(labels()),
    );
    all.prop_map(|(name, set, items, labels, bound, inner)| {
        let fields = [("name", name), ("set", set), ("items", items), ("labels", labels), ("bound", bound), ("free", inner)];
        let there = fields.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?)));
        Value::Object(there.collect::<Map<_, _>>())
    })
}

fn any_set() -> impl Strategy<Value = Set> {
    let path =
        prop::collection::vec(prop_oneof!["f:[a-c]", "v:[1-3]", "i:[0-2]"].prop_map(|text| Element::parse(&text).unwrap().unwrap()), 1..4);
    prop::collection::vec(path, 0..8).prop_map(Set::of)
}

fn paths(set: &Set) -> Vec<Path> {
    let mut out = Vec::new();
    let _: ControlFlow<()> = set.each(&mut |path| {
        out.push(path.iter().map(|element| (*element).clone()).collect());
        ControlFlow::Continue(())
    });
    out
}

/// The members of a set, one by one: what its algebra is held against.
fn members(set: &Set) -> std::collections::BTreeSet<Path> {
    paths(set).into_iter().collect()
}

proptest! {
    #[test]
    fn sets_are_sets(one in any_set(), two in any_set()) {
        let (a, b) = (members(&one), members(&two));
        prop_assert_eq!((one.len(), two.len()), (a.len(), b.len()));
        prop_assert_eq!(members(&one.union(&two)), a.union(&b).cloned().collect());
        prop_assert_eq!(members(&one.intersection(&two)), a.intersection(&b).cloned().collect());
        prop_assert_eq!(members(&one.difference(&two)), a.difference(&b).cloned().collect());
        let without = a.iter().filter(|path| !(1..=path.len()).any(|end| b.contains(&path[..end]))).cloned().collect();
        prop_assert_eq!(members(&one.without(&two)), without);
        let fields = one.to_fields();
        prop_assert_eq!(Set::from_fields(&fields), Ok(one.clone()));
        prop_assert_eq!(two.meets(&fields), !a.is_disjoint(&b));
        prop_assert_eq!(two.is_within(&fields), b.is_subset(&a));
    }

    #[test]
    fn any_fields_are_refused_or_settle(text in r#"\{("(f:a|f:b|\.|v:1|k:\{\}|i:1|q|zz:)":(\{\}|null|1|\{"f:x":\{\}\}),?){0,4}\}"#) {
        if let Ok(value) = serde_json::from_str::<Value>(&text)
            && let Ok(set) = Set::from_fields(&value)
        {
            let fields = set.to_fields();
            prop_assert_eq!(Set::from_fields(&fields).unwrap().to_fields().to_string(), fields.to_string());
        }
    }

    /// Sets of both objects tell what came and went, as a comparison does.
    #[test]
    fn a_comparison_agrees_with_the_sets(old in object(), new in object()) {
        let structure = structure();
        let typ = Typ::of(&structure);
        let of = |value: &Value| set_of(typ, value, Mode::Raw);
        let side = |value| Side { value, mode: Mode::Raw };
        let told = compare(typ, side(&old), side(&new)).unwrap();
        // An empty container is a leaf until something is in it.
        let full = |set: Set, of: &Value| {
            let is_empty = |path: &Path| of.pointer(&pointer(path)).is_some_and(|value| value == &json!({}));
            Set::of(paths(&set).into_iter().filter(|path| !is_empty(path)))
        };
        prop_assert!(full(of(&new).difference(&of(&old)), &new).difference(&told.added).is_empty(), "{told:?}");
        prop_assert!(full(of(&old).difference(&of(&new)), &old).difference(&told.removed).is_empty(), "{told:?}");
        prop_assert!(told.added.intersection(&told.removed).is_empty() && told.added.intersection(&told.modified).is_empty());
        prop_assert_eq!(told.is_same(), compare(typ, side(&new), side(&old)).unwrap().is_same());
        prop_assert!(compare(typ, side(&old), side(&old)).unwrap().is_same());
    }

    /// Nothing goes, all that is applied is there, and applying it again changes nothing.
    #[test]
    fn a_merge_has_all_of_both(live in object(), config in object()) {
        let structure = structure();
        let typ = Typ::of(&structure);
        let out = merged(&live, &config);
        prop_assert_eq!(&merged(&out, &config), &out);
        prop_assert_eq!(&merged(&live, &json!({})), &live);
        let leaves = |value: &Value| set_of(typ, value, Mode::Raw);
        // An empty container is a leaf until something is in it.
        let gone = paths(&leaves(&live).union(&leaves(&config)).difference(&leaves(&out)));
        let is_filled = |path: &Path| paths(&leaves(&out)).iter().any(|other| other.len() > path.len() && other.starts_with(path));
        prop_assert!(gone.iter().all(is_filled), "{gone:?} of {live} {config} {out}");
        prop_assert_eq!(validate(typ, &out), Ok(()));
    }

    #[test]
    fn what_is_removed_is_gone_and_nothing_else(object in object(), other in object()) {
        let structure = structure();
        let typ = Typ::of(&structure);
        let set = set_of(typ, &other, Mode::Raw);
        let mut left = object.clone();
        remove(typ, &mut left, &set);
        let is_named = |path: &Path| set.has(path);
        prop_assert!(!paths(&set_of(typ, &left, Mode::Raw)).iter().any(|path| is_named(path) && !matches!(left.pointer(&pointer(path)), Some(Value::Object(map)) if map.is_empty())), "{left}");
        let kept = set_of(typ, &object, Mode::Raw).without(&set).difference(&set_of(typ, &left, Mode::Raw));
        prop_assert!(kept.is_empty(), "{kept:?}");
    }
}

fn pointer(path: &Path) -> String {
    path.iter().map(|element| if let Element::Field(name) = element { format!("/{name}") } else { "/?".to_owned() }).collect()
}
