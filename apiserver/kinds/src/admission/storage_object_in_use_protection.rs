//! A new claim, volume or class of attributes -> held by a finalizer until nobody uses it.
//!
//! Source: `plugin/pkg/admission/storage/storageobjectinuseprotection`. The controllers that take the finalizer away stand in `controllers/src/protection.rs`.

use api::Status;
use apiserver::identity::{Admission, Operation, Review};
use async_trait::async_trait;
use serde_json::{Value, json};

use super::is;
use crate::common::{
    Read,
    edit::{default_to, make_child},
};

const PROTECTED: [(&str, &str, &str); 3] = [
    ("", "persistentvolumes", "kubernetes.io/pv-protection"),
    ("", "persistentvolumeclaims", "kubernetes.io/pvc-protection"),
    ("storage.k8s.io", "volumeattributesclasses", "kubernetes.io/vac-protection"),
];

pub struct StorageObjectInUseProtection;

#[async_trait]
impl Admission for StorageObjectInUseProtection {
    fn name(&self) -> &'static str {
        "StorageObjectInUseProtection"
    }

    async fn admit(&self, review: &mut Review<'_>) -> Result<(), Status> {
        let is_new = review.ctx.operation == Operation::Create && review.ctx.subresource.is_empty();
        let held = PROTECTED.iter().find(|(group, plural, _)| is_new && is(review, group, plural));
        if let (Some((.., finalizer)), Some(object)) = (held, review.object.as_deref_mut()) {
            hold(object, finalizer);
        }
        Ok(())
    }
}

fn hold(object: &mut Value, finalizer: &str) {
    let Some(metadata) = make_child(object, "metadata") else { return };
    if metadata.list("finalizers").iter().any(|held| held == finalizer) {
        return;
    }
    default_to(metadata, "finalizers", json!([]));
    if let Some(all) = metadata.get_mut("finalizers").and_then(Value::as_array_mut) {
        all.push(finalizer.into());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_held_once() {
        let cases = [
            (json!({}), json!(["x"])),
            (json!({"finalizers": null}), json!(["x"])),
            (json!({"finalizers": ["a", "x"]}), json!(["a", "x"])),
        ];
        for (metadata, wanted) in cases {
            let mut object = json!({"metadata": metadata});
            hold(&mut object, "x");
            assert_eq!(object["metadata"]["finalizers"], wanted);
        }
    }
}
