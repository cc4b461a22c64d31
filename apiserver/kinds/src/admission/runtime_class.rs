//! A new pod's RuntimeClass -> its overhead, and where it may run; what no class says a pod may not say.
//!
//! Source: `plugin/pkg/admission/runtimeclass/admission.go`.

mod tolerations;

use std::sync::Arc;

use api::{Key, Status};
use apiserver::{
    engine::Object,
    identity::{Admission, Review},
};
use async_trait::async_trait;
use serde_json::Value;

use super::{creates_pod, forbidden};
use crate::{
    common::{Read, edit, resources::quantity},
    runtimeclass,
};

const MISMATCH: &str = "pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead";

pub struct RuntimeClass;

#[async_trait]
impl Admission for RuntimeClass {
    fn name(&self) -> &'static str {
        "RuntimeClass"
    }

    async fn admit(&self, review: &mut Review<'_>) -> Result<(), Status> {
        if !creates_pod(review) {
            return Ok(());
        }
        let Some(class) = class_of(review).await? else { return Ok(()) };
        let class = class.value();
        let Some(spec) = review.object.as_deref_mut().and_then(|pod| edit::child(pod, "spec")) else { return Ok(()) };
        let done = set_overhead(spec, &class).and_then(|()| set_scheduling(spec, &class));
        done.map_err(|why| forbidden(review, &why))
    }

    async fn validate(&self, review: &Review<'_>) -> Result<(), Status> {
        if !creates_pod(review) {
            return Ok(());
        }
        let class = class_of(review).await?.map(|class| class.value());
        let overhead = review.object.as_deref().at("spec").at("overhead");
        match class.as_ref().at("overhead") {
            Some(defined) if !same_amounts(defined.at("podFixed"), overhead) => Err(forbidden(review, MISMATCH)),
            None if overhead.is_some() => {
                Err(forbidden(review, "pod rejected: Pod Overhead set without corresponding RuntimeClass defined Overhead"))
            }
            _ => Ok(()),
        }
    }
}

/// The cache may be behind: what it does not have is looked for once more.
async fn class_of(review: &Review<'_>) -> Result<Option<Arc<Object>>, Status> {
    let name = match review.object.as_deref().at("spec").text("runtimeClassName") {
        "" => return Ok(None),
        name => name,
    };
    let (resource, key) = (runtimeclass::resource(), Key::new("", name));
    if let Some(class) = review.ctx.engine.cached(&resource, &key) {
        return Ok(Some(class));
    }
    match review.ctx.engine.get(&resource, &key).await {
        Err(status) if status.code == 404 => Err(forbidden(review, &format!("pod rejected: RuntimeClass {name:?} not found"))),
        found => found.map(Some),
    }
}

fn set_overhead(spec: &mut Value, class: &Value) -> Result<(), String> {
    let Some(defined) = class.at("overhead") else { return Ok(()) };
    let asked = spec.at("overhead").filter(|asked| asked.as_object().is_some_and(|amounts| !amounts.is_empty()));
    if asked.is_some() && !same_amounts(defined.at("podFixed"), asked) {
        return Err(MISMATCH.into());
    }
    edit::carry_as(spec, "overhead", defined.at("podFixed"));
    Ok(())
}

fn set_scheduling(spec: &mut Value, class: &Value) -> Result<(), String> {
    let Some(scheduling) = class.at("scheduling") else { return Ok(()) };
    if scheduling.at("nodeSelector").is_some()
        && let Some(own) = edit::make_child(spec, "nodeSelector")
    {
        for (key, value) in scheduling.entries("nodeSelector") {
            let asked = own.at(key).and_then(Value::as_str);
            if let Some(asked) = asked.filter(|asked| *asked != value) {
                let theirs = format!("runtimeClass.scheduling.nodeSelector[{key}] = {value}");
                return Err(format!("conflict: {theirs}; pod.spec.nodeSelector[{key}] = {asked}"));
            }
            edit::set(own, key, value);
        }
    }
    let merged = tolerations::merged(spec.list("tolerations"), scheduling.list("tolerations"));
    let merged = (!merged.is_empty()).then(|| Value::Array(merged));
    edit::carry_as(spec, "tolerations", merged.as_ref());
    Ok(())
}

/// Absent is as good as empty.
fn same_amounts(a: Option<&Value>, b: Option<&Value>) -> bool {
    let (a, b) = (a.and_then(Value::as_object), b.and_then(Value::as_object));
    let len = |amounts: Option<&serde_json::Map<String, Value>>| amounts.map_or(0, serde_json::Map::len);
    let same = |x: &Value, y: &Value| match (quantity(x), quantity(y)) {
        (Some(x), Some(y)) => x.partial_cmp(&y) == Some(std::cmp::Ordering::Equal),
        _ => x == y,
    };
    len(a) == len(b) && a.into_iter().flatten().all(|(name, x)| b.and_then(|b| b.get(name)).is_some_and(|y| same(x, y)))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn overhead_is_the_classs() {
        let class = json!({"overhead": {"podFixed": {"cpu": "250m"}}});
        for (asked, wanted) in [(Value::Null, Ok(())), (json!({}), Ok(())), (json!({"cpu": "0.25"}), Ok(()))] {
            let mut spec = json!({"overhead": asked});
            assert_eq!(set_overhead(&mut spec, &class), wanted);
            assert_eq!(spec, json!({"overhead": {"cpu": "250m"}}));
        }
        for other in [json!({"cpu": "1"}), json!({"cpu": "250m", "memory": "1"}), json!({"memory": "250m"})] {
            assert_eq!(set_overhead(&mut json!({"overhead": other}), &class), Err(MISMATCH.into()));
        }
    }

    #[test]
    fn selectors_are_merged_and_may_not_differ() {
        let class = json!({"scheduling": {"nodeSelector": {"a": "1"}, "tolerations": [{"key": "x", "operator": "Exists"}]}});
        let mut spec = json!({"nodeSelector": {"b": "2"}, "tolerations": [{"key": "x", "operator": "Equal", "value": "1"}]});
        assert_eq!(set_scheduling(&mut spec, &class), Ok(()));
        assert_eq!(spec, json!({"nodeSelector": {"b": "2", "a": "1"}, "tolerations": [{"key": "x", "operator": "Exists"}]}));
        let words = "conflict: runtimeClass.scheduling.nodeSelector[a] = 1; pod.spec.nodeSelector[a] = 2";
        assert_eq!(set_scheduling(&mut json!({"nodeSelector": {"a": "2"}}), &class), Err(words.into()));
    }
}
