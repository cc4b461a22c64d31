//! A change of a pod on its node -> refused, where the node does not say that it can carry it out. Source:
//! `plugin/pkg/admission/nodedeclaredfeatures`, `component-helpers/nodedeclaredfeatures` (KEP-5328).

use api::{GroupResource, Key, Status};
use apiserver::identity::{Admission, Review};
use async_trait::async_trait;
use serde_json::Value;

use super::{forbidden, updated_spec};
use crate::common::{Read, read};

const INIT_CONTAINERS: &str = "InPlacePodVerticalScalingInitContainers";
const POD_LEVEL: &str = "InPlacePodLevelResourcesVerticalScaling";

pub struct NodeDeclaredFeatureValidator;

#[async_trait]
impl Admission for NodeDeclaredFeatureValidator {
    fn name(&self) -> &'static str {
        "NodeDeclaredFeatureValidator"
    }

    async fn validate(&self, review: &Review<'_>) -> Result<(), Status> {
        let Some((pod, old)) = updated_spec(review, &["", "resize"]).zip(review.old) else { return Ok(()) };
        let needed = needed(pod.at("spec"), old.at("spec"));
        if needed.is_empty() {
            return Ok(());
        }
        let name = pod.at("spec").text("nodeName");
        let Some(node) = review.ctx.engine.cached(&GroupResource::new("", "nodes"), &Key::new("", name)) else {
            return Err(forbidden(review, &format!("node {name:?} not found")));
        };
        let node = node.value();
        let declared = node.at("status").list("declaredFeatures");
        let missing: Vec<&str> = needed.into_iter().filter(|feature| !declared.iter().any(|one| one.as_str() == Some(*feature))).collect();
        if missing.is_empty() {
            return Ok(());
        }
        let what = missing.join(", ");
        Err(forbidden(review, &format!("pod update requires features {what} which are not available on node {name:?}")))
    }
}

/// `InferForPodUpdate`
fn needed(new: Option<&Value>, old: Option<&Value>) -> Vec<&'static str> {
    let mut out = Vec::new();
    if !read::same(new.at("resources"), old.at("resources")) {
        out.push(POD_LEVEL);
    }
    let mut pairs = old.list("initContainers").iter().zip(new.list("initContainers"));
    let resized =
        |(was, now): (&Value, &Value)| was.text("restartPolicy") != "Always" && !read::same(now.at("resources"), was.at("resources"));
    if pairs.any(resized) {
        out.push(INIT_CONTAINERS);
    }
    out
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_resized_says_what_the_node_must_know() {
        let spec = |pod: &str, init: &str, sidecar: &str| {
            let of = |cpu: &str| json!({"requests": {"cpu": cpu}});
            let sidecar = json!({"restartPolicy": "Always", "resources": of(sidecar)});
            json!({"resources": of(pod), "initContainers": [{"resources": of(init)}, sidecar]})
        };
        let old = spec("1", "1", "1");
        assert!(needed(Some(&spec("1", "1", "2")), Some(&old)).is_empty());
        assert_eq!(needed(Some(&spec("2", "2", "1")), Some(&old)), [POD_LEVEL, INIT_CONTAINERS]);
    }
}
