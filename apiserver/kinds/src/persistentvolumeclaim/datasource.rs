//! What a claim is to be filled from -> the same in both of its fields. Source: `pkg/api/persistentvolumeclaim/util.go`, KEP-1495.

use serde_json::{Map, Value};

use crate::common::{
    Read,
    edit::{remove, set},
};

const FIELDS: [&str; 2] = ["dataSource", "dataSourceRef"];

/// Upstream's three steps, with its feature gates as they are by default.
pub fn prepare(spec: &mut Value, old: Option<&Value>) {
    let had_reference = old.at("dataSourceRef").is_some();
    // CrossNamespaceVolumeDataSource is off.
    if !spec.at("dataSourceRef").text("namespace").is_empty() && !had_reference {
        remove(spec, "dataSourceRef");
    }
    let was_filled = FIELDS.iter().any(|field| old.at(field).is_some());
    if !was_filled && spec.at("dataSourceRef").is_none() && !is_claim_or_snapshot(spec.at("dataSource")) {
        remove(spec, "dataSource");
    }
    normalize(spec);
}

/// `NormalizeDataSources`
pub fn normalize(spec: &mut Value) {
    let (source, reference) = (spec.at("dataSource"), spec.at("dataSourceRef"));
    match (source, reference) {
        (Some(source), None) => {
            let copy = copy(source);
            set(spec, "dataSourceRef", copy);
        }
        (None, Some(reference)) if reference.text("namespace").is_empty() => {
            let copy = copy(reference);
            set(spec, "dataSource", copy);
        }
        _ => {}
    }
}

fn copy(of: &Value) -> Value {
    let fields = ["apiGroup", "kind", "name"].into_iter();
    fields.filter_map(|field| Some((field.to_owned(), of.at(field)?.clone()))).collect::<Map<_, _>>().into()
}

fn is_claim_or_snapshot(source: Option<&Value>) -> bool {
    let names = (source.text("apiGroup"), source.text("kind"));
    matches!(names, ("", "PersistentVolumeClaim") | ("snapshot.storage.k8s.io", "VolumeSnapshot"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn both_fields_say_the_same() {
        let claim = json!({"kind": "PersistentVolumeClaim", "name": "a"});
        let crate_of = json!({"apiGroup": "x.example", "kind": "Crate", "name": "a"});
        let afar = json!({"apiGroup": "x.example", "kind": "Crate", "name": "a", "namespace": "n"});
        let both = |of: &Value| json!({"dataSource": of, "dataSourceRef": of});
        let cases = [
            (json!({"dataSource": claim}), None, both(&claim)),
            (json!({"dataSourceRef": crate_of}), None, both(&crate_of)),
            (json!({"dataSource": crate_of}), None, json!({})),
            (json!({"dataSource": crate_of}), Some(both(&crate_of)), both(&crate_of)),
            (json!({"dataSourceRef": afar}), None, json!({})),
            (json!({"dataSourceRef": afar}), Some(json!({"dataSourceRef": afar})), json!({"dataSourceRef": afar})),
        ];
        for (mut spec, old, wanted) in cases {
            prepare(&mut spec, old.as_ref());
            assert_eq!(spec, wanted);
        }
    }
}
