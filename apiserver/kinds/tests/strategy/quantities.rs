//! Every place of every kind whose type is Quantity: spaces around it are nothing, it comes back as Go writes it, and what is none is refused.

use std::sync::Arc;

use apiserver::{
    kind::Kind,
    schema::{FieldValidation, Structure, Type, check},
};
use kinds::schema::TABLES;
use serde_json::{Value, json};

/// As sent; as it comes back; the same where `SetDefaults_ResourceList` applies.
const FORMS: [(&str, &str, &str); 12] = [
    ("0.5Gi ", "512Mi", "512Mi"),
    ("\u{a0} 1", "1", "1"),
    ("1.1Gi", "1181116006400m", "1181116006400m"),
    ("1024Ki", "1Mi", "1Mi"),
    ("1000m", "1", "1"),
    ("0.1", "100m", "100m"),
    ("1e3", "1e3", "1e3"),
    ("+1", "+1", "+1"),
    ("1.500", "1.500", "1.500"),
    ("-0", "0", "0"),
    ("0.0001", "100u", "1m"),
    ("1e-6", "1e-6", "1e-3"),
];
const REFUSED: [(&str, &str); 6] = [
    ("", api::quantity::RULE),
    ("1Gib", api::quantity::RULE),
    ("1\n", api::quantity::RULE),
    ("1K", api::quantity::SUFFIX),
    ("1e", api::quantity::SUFFIX),
    ("e-10", api::quantity::NUMERIC),
];
/// Kinds whose lists of resources are rounded (`SetDefaults_ResourceList` in `pkg/apis/*/v1/zz_generated.defaults.go`).
const ROUNDED: [&str; 14] = [
    "CronJob",
    "DaemonSet",
    "Deployment",
    "Job",
    "LimitRange",
    "Node",
    "PersistentVolume",
    "PersistentVolumeClaim",
    "Pod",
    "PodTemplate",
    "ReplicaSet",
    "ReplicationController",
    "ResourceQuota",
    "StatefulSet",
];

#[derive(Clone)]
enum Step {
    Field(String),
    Item,
    Key,
}

/// The ways to all quantities of a structure; a definition within itself is not gone into again.
fn ways(structure: &Structure, typ: Type, way: &mut Vec<Step>, within: &mut Vec<u32>, found: &mut Vec<Vec<Step>>) {
    let table = structure.table();
    match typ {
        Type::Quantity => found.push(way.clone()),
        Type::List(at) | Type::Map(at) => {
            way.push(if matches!(typ, Type::List(_)) { Step::Item } else { Step::Key });
            ways(structure, table.element(at), way, within, found);
            way.pop();
        }
        Type::Object(at) if !within.contains(&at) => {
            within.push(at);
            for field in &table.definition(at).fields {
                way.push(Step::Field(field.name.to_string()));
                ways(structure, field.typ, way, within, found);
                way.pop();
            }
            within.pop();
        }
        _ => {}
    }
}

fn object(kind: &Kind, way: &[Step], leaf: &Value) -> Value {
    let inner = way.iter().rev().fold(leaf.clone(), |inner, step| match step {
        Step::Field(name) => json!({name: inner}),
        Step::Item => json!([inner]),
        Step::Key => json!({"cpu": inner}),
    });
    let mut object = json!({"apiVersion": kind.gvk().api_version(), "kind": &*kind.kind});
    object.as_object_mut().unwrap().extend(inner.as_object().unwrap().clone());
    object
}

fn pointer(way: &[Step]) -> String {
    way.iter()
        .map(|step| match step {
            Step::Field(name) => format!("/{name}"),
            Step::Item => "/0".into(),
            Step::Key => "/cpu".into(),
        })
        .collect()
}

/// One map of a pod's status is no ResourceList.
fn is_rounded(kind: &Kind, pointer: &str) -> bool {
    !pointer.contains("/nodeAllocatableResourceClaimStatuses/") && ROUNDED.contains(&&*kind.kind) && pointer.ends_with("/cpu")
        || pointer.ends_with("/inlineVolumeSpec/capacity/cpu")
}

/// All kinds with their quantities.
fn all() -> Vec<(Arc<Kind>, Structure, Vec<Vec<Step>>)> {
    let kinds = kinds::table(&kinds::Config::default()).into_iter().filter_map(|kind| {
        let structure = kind.schema.structure()?;
        let mut found = Vec::new();
        ways(&structure, structure.typ(), &mut Vec::new(), &mut Vec::new(), &mut found);
        Some((kind, structure, found))
    });
    kinds.filter(|(_, _, found)| !found.is_empty()).collect()
}

#[test]
fn every_quantity_comes_back_as_go_writes_it() {
    let (mut wrong, mut seen) = (Vec::new(), 0);
    for (kind, structure, ways) in all() {
        for way in ways {
            seen += 1;
            let pointer = pointer(&way);
            for (sent, kept, rounded) in FORMS {
                let mut object = object(&kind, &way, &sent.into());
                check(&structure, &kind.gvk(), &mut object, &[], FieldValidation::Strict).unwrap();
                kind.strategy.default(&mut object);
                let wanted = if is_rounded(&kind, &pointer) { rounded } else { kept };
                let came = object.pointer(&pointer).cloned().unwrap_or_default();
                if came != wanted {
                    wrong.push(format!("{} {pointer}: {sent:?} is {came}, not {wanted:?}", kind.kind));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{} of {seen}:\n{}", wrong.len(), wrong.join("\n"));
    assert!(seen > 150, "{seen}");
}

#[test]
fn numbers_are_quantities_too_and_nothing_else_is() {
    let mut seen = Vec::new();
    for (kind, structure, ways) in all() {
        seen.push(kind.kind.to_string());
        for way in &ways {
            let run = |leaf: &Value| {
                let mut object = object(&kind, way, leaf);
                check(&structure, &kind.gvk(), &mut object, &[], FieldValidation::Strict).map(|_| object)
            };
            for (sent, kept) in [(json!(1), "1"), (json!(0.5), "500m"), (json!(-3000), "-3k")] {
                assert_eq!(run(&sent).unwrap().pointer(&pointer(way)), Some(&kept.into()), "{} {}", kind.kind, pointer(way));
            }
            let refused = REFUSED.map(|(text, why)| (json!(text), why));
            let others = [json!(true), json!([]), json!({})].map(|other| (other, api::quantity::RULE));
            for (sent, why) in refused.into_iter().chain(others) {
                let status = run(&sent).expect_err(&format!("{} {}: {sent}", kind.kind, pointer(way)));
                let named = kind.gvk();
                let words = format!("{} in version {:?} cannot be handled as a {}: {why}", named.kind, named.version, named.kind);
                assert_eq!((status.code, status.message.as_str()), (400, words.as_str()), "{sent}");
            }
        }
    }
    for kind in ["CSIStorageCapacity", "HorizontalPodAutoscaler", "ResourceClaim", "ResourceSlice", "RuntimeClass", "VolumeAttachment"] {
        assert!(seen.iter().any(|one| one == kind), "{kind}");
    }
}

#[test]
fn spaces_are_not_trimmed_in_protobuf() {
    let message = |quantity: &str| {
        let mut message = Vec::new();
        let object = json!({"apiVersion": "storage.k8s.io/v1", "kind": "CSIStorageCapacity", "capacity": quantity});
        let at = TABLES.writer().definition("storage.k8s.io/v1", "CSIStorageCapacity").unwrap();
        TABLES.writer().write(at, object.to_string().as_bytes(), &mut message).unwrap();
        TABLES.protobuf("CSIStorageCapacity", &apiserver::schema::enveloped("storage.k8s.io/v1", "CSIStorageCapacity", &message))
    };
    assert_eq!(message("1024Ki").unwrap().value["capacity"], "1024Ki", "types are checked after it");
    let words = |refused| format!("the object provided is unrecognized (must be of type CSIStorageCapacity): {refused}");
    assert_eq!(message("1Gi ").unwrap_err().message, words(api::quantity::RULE));
    assert_eq!(message("1K").unwrap_err().message, words(api::quantity::SUFFIX));
}
