//! What strangers say in a definition and in a webhook's answer: expressions, paths, converted objects, applied configurations.

use api::Gvk;
use apiextensions::json_path::JsonPath;
use apiserver::{
    fields::{self, Mode, Side, Typ},
    parse,
};
use cel::{Checker, Run, T, V};
use serde_json::{Value, json};

use super::{corpus, fuzz, text};

/// What an expression may cost at run time (`PerCallLimit`).
const COST: u64 = 1_000_000;

#[test]
#[ignore = "run by every_target_for_a_while, beside the others"]
fn expressions() {
    let object: Value = serde_json::from_slice(corpus::JSON[0]).expect("the sample is good");
    fuzz("answers::expressions", corpus::EXPRESSIONS, |bytes| {
        let Ok(expr) = cel::parse(&text(bytes)) else { return };
        if Checker::new(vec![("self".into(), T::Dyn)]).check(&expr).is_err() {
            return;
        }
        let told = || {
            let came = Run::new(vec![("self".into(), V::of(&object, None))], COST).eval(&expr);
            came.and_then(|value| cel::to_json(&value, &mut COST.clone())).map_err(drop)
        };
        assert_eq!(told(), told(), "it comes to the same each time");
    });
}

#[test]
#[ignore = "run by every_target_for_a_while, beside the others"]
fn paths() {
    let object: Value = serde_json::from_slice(corpus::JSON[0]).expect("the sample is good");
    fuzz("answers::paths", corpus::PATHS, |bytes| {
        let Some(path) = JsonPath::parse(&text(bytes)) else { return };
        let found = path.first(&object);
        if let Some(pointer) = path.pointer() {
            assert_eq!(object.pointer(&pointer), found, "{pointer} is another place");
        }
        let _ = apiextensions::json_path::cell("date", found, api::time::Timestamp::UNIX_EPOCH);
    });
}

#[test]
#[ignore = "run by every_target_for_a_while, beside the others"]
fn converted() {
    let to = Gvk { group: "example.test".into(), version: "v2".into(), kind: "Boat".into() };
    let was = json!({"apiVersion": "example.test/v1", "kind": "Boat", "metadata": {"name": "a", "namespace": "b", "uid": "u", "labels": {"x": "y"},
        "resourceVersion": "7", "finalizers": ["f"]}, "spec": {"sails": 2}});
    fuzz("answers::converted", corpus::CONVERTED, |bytes| {
        let Ok(believed) = apiextensions::conversion::read_answer(bytes, "1", &to, std::slice::from_ref(&was)) else { return };
        let [object] = believed.as_slice() else { panic!("not one: {believed:?}") };
        assert_eq!((&object["apiVersion"], &object["kind"]), (&json!("example.test/v2"), &json!("Boat")));
        let kept = |object: &Value| {
            let mut metadata = object["metadata"].clone();
            let fields = metadata.as_object_mut().expect("metadata are an object");
            fields.retain(|name, _| !["labels", "annotations"].contains(&name.as_str()));
            metadata
        };
        assert_eq!(kept(object), kept(&was), "a webhook changed what is not its own");
    });
}

#[test]
#[ignore = "run by every_target_for_a_while, beside the others"]
fn applied() {
    let pod = kinds::schema::TABLES.structure("io.k8s.api.core.v1.Pod").expect("pods have a shape");
    let typ = || Typ::of(&pod);
    let live: Value = serde_json::from_slice(corpus::JSON[0]).expect("the sample is good");
    fuzz("answers::applied", corpus::APPLIED, |bytes| {
        let Ok(config) = parse::json(bytes) else { return };
        let config = config.value;
        if fields::validate(typ(), &config).is_err() {
            return;
        }
        let mut once = live.clone();
        if fields::merge(typ(), &mut once, &config).is_err() {
            return;
        }
        let mut twice = once.clone();
        fields::merge(typ(), &mut twice, &config).expect("what was applied can be applied again");
        assert_eq!(once, twice, "applied twice it changes nothing");
        // What is given up by all is gone, and what is left can be owned, written and read.
        let owned = fields::set_of(typ(), &config, Mode::Raw);
        let again = fields::Set::from_fields(&owned.to_fields()).expect("what was written can be read");
        assert_eq!(again.to_fields(), owned.to_fields());
        fields::remove(typ(), &mut twice, &owned);
        let change = fields::compare(typ(), Side { value: &once, mode: Mode::Raw }, Side { value: &twice, mode: Mode::Raw });
        assert!(change.is_ok_and(|change| change.added.is_empty()), "removing adds nothing");
    });
}
