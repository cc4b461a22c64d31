//! A pod that asks for extended resources -> it tolerates taints named after them, so that nodes may be kept for such pods. Source:
//! `plugin/pkg/admission/extendedresourcetoleration`.

use std::collections::BTreeSet;

use api::Status;
use apiserver::identity::{Admission, Review};
use async_trait::async_trait;
use serde_json::{Value, json};

use super::written_pod;
use crate::common::{
    Read,
    edit::{self, child},
    read, resource_names,
};

pub struct ExtendedResourceToleration;

#[async_trait]
impl Admission for ExtendedResourceToleration {
    fn name(&self) -> &'static str {
        "ExtendedResourceToleration"
    }

    async fn admit(&self, review: &mut Review<'_>) -> Result<(), Status> {
        if written_pod(review).is_some()
            && let Some(spec) = review.object.as_deref_mut().and_then(|pod| child(pod, "spec"))
        {
            tolerate(spec);
        }
        Ok(())
    }
}

fn tolerate(spec: &mut Value) {
    let containers = ["containers", "initContainers"].into_iter().flat_map(|list| spec.list(list));
    let asked = containers.flat_map(|container| container.at("resources").object("requests").into_iter().flatten());
    let names: BTreeSet<String> = asked.map(|(name, _)| name.clone()).filter(|name| resource_names::is_extended(name)).collect();
    for name in names {
        add(spec, json!({"key": name, "operator": "Exists", "effect": "NoSchedule"}));
    }
}

/// `AddOrUpdateTolerationInPod`: in the place of those that match the same taint.
fn add(spec: &mut Value, toleration: Value) {
    edit::default_to(spec, "tolerations", json!([]));
    let Some(list) = spec.get_mut("tolerations").and_then(Value::as_array_mut) else { return };
    let matches = |one: &Value| ["key", "effect", "operator", "value"].iter().all(|field| one.text(field) == toleration.text(field));
    let mut updated = false;
    list.retain_mut(|one| {
        if !matches(one) {
            return true;
        }
        if read::same(Some(one), Some(&toleration)) {
            updated = true;
            return true;
        }
        *one = toleration.clone();
        !std::mem::replace(&mut updated, true)
    });
    if !updated {
        list.push(toleration);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_extended_resource_is_tolerated_once() {
        let mut spec = json!({
            "containers": [{"resources": {"requests": {"cpu": "1", "example.com/tpu": "1", "example.com/gpu": "1"}}}],
            "initContainers": [{"resources": {"requests": {"example.com/gpu": "1"}}}],
            "tolerations": [{"key": "a", "operator": "Exists"}, {"key": "example.com/gpu", "operator": "Exists", "effect": "NoSchedule"}],
        });
        tolerate(&mut spec);
        let keys: Vec<&str> = spec.list("tolerations").iter().map(|one| one.text("key")).collect();
        assert_eq!(keys, ["a", "example.com/gpu", "example.com/tpu"]);
        let before = spec.clone();
        tolerate(&mut spec);
        assert_eq!(spec, before);
    }
}
