//! A pod template -> the ControllerRevision that keeps it, and back: the history of DaemonSets and StatefulSets.
//!
//! Source: `pkg/controller/history`, `getPatch` of `pkg/controller/daemon` and `pkg/controller/statefulset`.

use std::{cmp::Ordering, sync::Arc};

use api::k8s::{
    api::{apps::v1::ControllerRevision, core::v1::PodTemplateSpec},
    apimachinery::pkg::{
        apis::meta::v1::{ObjectMeta, OwnerReference},
        runtime::RawExtension,
    },
};
use client::Object;
use serde_json::{Map, Value, json};

/// The label of a pod that says which revision of its set it is of; of a revision of a `DaemonSet` as well.
pub const HASH: &str = "controller-revision-hash";
/// What a name may have before its hash.
const PREFIX_CHARS: usize = 223;

/// What a revision keeps: a patch that sets the template again, its keys in order. `getPatch`
pub fn data_of(template: &PodTemplateSpec) -> Value {
    let mut template = serde_json::to_value(template).unwrap_or_default();
    if let Some(fields) = template.as_object_mut() {
        fields.insert("$patch".into(), "replace".into());
    }
    let mut data = json!({"spec": {"template": template}});
    data.sort_all_objects();
    data
}

/// The template that such a patch sets.
pub fn template_in(data: &Value) -> Option<PodTemplateSpec> {
    let mut fields = data.pointer("/spec/template")?.as_object()?.clone();
    fields.remove("$patch");
    serde_json::from_value(Value::Object(fields)).ok()
}

pub fn data(revision: &ControllerRevision) -> &Value {
    revision.data.as_ref().map_or(&Value::Null, |data| &data.0)
}

/// Whether two patches set the same. Upstream compares letters, and then (`StatefulSetSemanticRevisionComparison`) what comes of them: older servers
/// wrote `creationTimestamp: null`.
pub fn are_same(a: &Value, b: &Value) -> bool {
    let holds = |a: &Map<String, Value>, b: &Map<String, Value>| a.iter().all(|(k, v)| are_same(v, b.get(k).unwrap_or(&Value::Null)));
    match (a, b) {
        (Value::Object(a), Value::Object(b)) => {
            let only_in_b = |(key, value): (&String, &Value)| !value.is_null() && !a.contains_key(key);
            holds(a, b) && !b.iter().any(only_in_b)
        }
        (Value::Array(a), Value::Array(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| are_same(a, b)),
        _ => a == b,
    }
}

/// `ControllerRevisionName`
pub fn name(parent: &str, hash: &str) -> String {
    format!("{}-{hash}", parent.get(..PREFIX_CHARS).unwrap_or(parent))
}

/// FNV-1 (32 bits) of the data as Go writes it, in the alphabet of generated names: the same as upstream's. `HashControllerRevision`
pub fn data_hash(data: &Value, collisions: i32) -> String {
    let text = data.to_string().replace('<', "\\u003c").replace('>', "\\u003e").replace('&', "\\u0026");
    let text = text.replace('\u{2028}', "\\u2028").replace('\u{2029}', "\\u2029") + &collisions.to_string();
    encoded(text.bytes().fold(OFFSET, |hash, byte| hash.wrapping_mul(PRIME) ^ u32::from(byte)))
}

/// FNV-1a (32 bits) of the template as JSON, in the alphabet of generated names. Upstream hashes Go's dump of the template (`ComputeHash`), so the
/// letters differ from a stock controller's; what bears the hash is found by its template, not by its name.
pub fn template_hash(template: &PodTemplateSpec, collisions: Option<i32>) -> String {
    let mut text = serde_json::to_string(template).unwrap_or_default();
    text.extend(collisions.map(|n| n.to_string()));
    encoded(text.bytes().fold(OFFSET, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(PRIME)))
}

const OFFSET: u32 = 0x811c_9dc5;
const PRIME: u32 = 0x0100_0193;

/// `SafeEncodeString`
fn encoded(hash: u32) -> String {
    let alphabet = b"bcdfghjklmnpqrstvwxz2456789";
    hash.to_string().bytes().map(|digit| char::from(alphabet[usize::from(digit) % alphabet.len()])).collect()
}

/// A new one of that name, with the labels of the template and one more, and the annotations of the set.
pub fn revision_of<K: Object>(
    set: &K,
    owner: &OwnerReference,
    template: &PodTemplateSpec,
    data: Value,
    (revision, name): (i64, String),
    (label, hash): (&str, String),
) -> ControllerRevision {
    let mut labels = template.metadata.as_ref().and_then(|meta| meta.labels.clone()).unwrap_or_default();
    labels.insert(label.to_owned(), hash);
    let metadata = ObjectMeta {
        name: Some(name),
        namespace: Some(set.object_meta().namespace.to_owned()),
        labels: Some(labels),
        owner_references: Some(vec![owner.clone()]),
        ..ObjectMeta::default()
    };
    ControllerRevision { metadata, data: Some(RawExtension(data)), revision }
}

/// By number, then by age, then by name.
pub fn sort(revisions: &mut [Arc<ControllerRevision>]) {
    revisions.sort_by(|a, b| order(a, b));
}

fn order(a: &ControllerRevision, b: &ControllerRevision) -> Ordering {
    let age = |r: &ControllerRevision| r.metadata.creation_timestamp.as_ref().map(|at| at.0);
    a.revision.cmp(&b.revision).then_with(|| age(a).cmp(&age(b))).then_with(|| a.metadata.name.cmp(&b.metadata.name))
}

/// The highest number there is; 0 where there is none.
pub fn highest<'a>(revisions: impl IntoIterator<Item = &'a Arc<ControllerRevision>>) -> i64 {
    revisions.into_iter().map(|revision| revision.revision).max().unwrap_or(0).max(0)
}

#[cfg(test)]
mod tests {
    use api::{k8s::apimachinery::pkg::apis::meta::v1::Time, time::Timestamp};

    use super::*;

    /// As `testdata/compatibility_revision_1.34.0.json` of `pkg/controller/statefulset` has it.
    fn template() -> PodTemplateSpec {
        let container = json!({"image": "test", "imagePullPolicy": "Always", "name": "test", "resources": {},
            "terminationMessagePath": "/dev/termination-log", "terminationMessagePolicy": "File"});
        let spec = json!({"containers": [container], "dnsPolicy": "ClusterFirst", "restartPolicy": "Always",
            "schedulerName": "default-scheduler", "securityContext": {}, "terminationGracePeriodSeconds": 30});
        serde_json::from_value(json!({"metadata": {"annotations": {"test": "value"}, "labels": {"app": "foo"}}, "spec": spec})).unwrap()
    }

    #[test]
    fn names_are_those_of_a_stock_controller() {
        let data = data_of(&template());
        assert_eq!(name("test", &data_hash(&data, 0)), "test-776999688b");
        let mut older = data.clone();
        older["spec"]["template"]["metadata"]["creationTimestamp"] = Value::Null;
        older.sort_all_objects();
        assert_eq!(name("test", &data_hash(&older, 0)), "test-c77f6d978");
        assert!(are_same(&data, &older) && are_same(&older, &data));
        assert_ne!(data_hash(&data, 1), data_hash(&data, 0));
    }

    #[test]
    fn a_template_comes_back_as_it_was() {
        let data = data_of(&template());
        assert_eq!(data["spec"]["template"]["$patch"], "replace");
        assert_eq!(template_in(&data), Some(template()));
        for other in [json!({}), json!({"spec": {"template": 1}}), Value::Null, json!({"spec": {"template": {"spec": {"containers": 1}}}})]
        {
            assert_eq!(template_in(&other), None, "{other}");
        }
    }

    /// `TestEqualRevision`, `TestFindEqualRevisions`
    #[test]
    fn what_sets_the_same_is_the_same() {
        let data = data_of(&template());
        for (at, value) in
            [("/spec/template/spec/terminationGracePeriodSeconds", json!(31)), ("/spec/template/metadata/labels/app", Value::Null)]
        {
            let mut other = data.clone();
            *other.pointer_mut(at).unwrap() = value;
            assert!(!are_same(&data, &other) && !are_same(&other, &data), "{at}");
        }
        assert!(are_same(&json!({"a": null}), &json!({})) && !are_same(&json!([null]), &json!([])) && !are_same(&json!({}), &Value::Null));
    }

    /// `TestControllerRevisionName`
    #[test]
    fn long_names_are_cut() {
        assert_eq!(name("parent", "abc"), "parent-abc");
        assert_eq!(name(&"p".repeat(253), "abc").len(), 227);
    }

    /// `TestSortControllerRevisions`
    #[test]
    fn revisions_are_in_order() {
        let of = |name: &str, revision: i64, at: i64| {
            let created = Some(Time(Timestamp::from_second(at).unwrap()));
            let metadata = ObjectMeta { name: Some(name.into()), creation_timestamp: created, ..ObjectMeta::default() };
            Arc::new(ControllerRevision { metadata, revision, data: None })
        };
        let mut all = [of("e", 3, 1), of("d", 2, 9), of("b", 2, 1), of("a", 2, 1), of("c", 2, 2), of("f", 1, 7)];
        sort(&mut all);
        let names: Vec<&str> = all.iter().filter_map(|r| r.metadata.name.as_deref()).collect();
        assert_eq!(names, ["f", "a", "b", "c", "d", "e"]);
        assert_eq!((highest(&all), highest(&[])), (3, 0));
    }
}
