//! A pod that asks for more on its node -> refused, where the node could not give it in all. Source: `plugin/pkg/admission/podresize`.

use api::{GroupResource, Key, Status, quantity::Quantity};
use apiserver::identity::{Admission, Review};
use async_trait::async_trait;
use podspec::Overhead;
use serde_json::Value;

use super::{forbidden, updated_spec};
use crate::common::{Read, resources::quantity};

pub struct PodResizeValidator;

#[async_trait]
impl Admission for PodResizeValidator {
    fn name(&self) -> &'static str {
        "PodResizeValidator"
    }

    async fn validate(&self, review: &Review<'_>) -> Result<(), Status> {
        let Some(pod) = updated_spec(review, &["resize"]) else { return Ok(()) };
        let name = pod.at("spec").text("nodeName");
        let Some(node) = review.ctx.engine.cached(&GroupResource::new("", "nodes"), &Key::new("", name)) else {
            return Err(forbidden(review, &format!("node {name:?} not found")));
        };
        if let Some(system) = node.label("kubernetes.io/os").filter(|system| *system != "linux") {
            let why = format!("pod resize is only supported on linux nodes, node {name:?} is {system:?}");
            return Err(forbidden(review, &why).cause("UnsupportedPlatform", "", ""));
        }
        match misfit(pod, &node.value()) {
            Some(why) => Err(forbidden(review, &why).cause("NodeCapacity", "", "")),
            None => Ok(()),
        }
    }
}

/// `validateRequestsWithinAllocatable`
fn misfit(pod: &Value, node: &Value) -> Option<String> {
    let spec = pod.at("spec")?;
    let (requests, allocatable) = (podspec::requests(spec, Overhead::Included, &[]), node.at("status").at("allocatable"));
    let nothing = Quantity::from_units(0);
    let of = |name: &str| (requests.get(name).unwrap_or(nothing), allocatable.at(name).and_then(quantity).unwrap_or(nothing));
    let mut why = Vec::new();
    let (wanted, most) = of("cpu");
    if wanted > most {
        why.push(format!("cpu, requested: {}, allocatable: {}", wanted.milli(), most.milli()));
    }
    let (wanted, most) = of("memory");
    if wanted > most {
        why.push(format!("memory, requested: {}, allocatable: {}", wanted.units(), most.units()));
    }
    (!why.is_empty()).then(|| format!("node didn't have enough allocatable resources: {}", why.join("; ")))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_a_node_could_never_give_is_told() {
        let node = json!({"status": {"allocatable": {"cpu": "1500m", "memory": "1Ki"}}});
        let pod = |cpu: &str, memory: &str| json!({"spec": {"containers": [{"resources": {"requests": {"cpu": cpu, "memory": memory}}}]}});
        assert_eq!(misfit(&pod("1500m", "1Ki"), &node), None);
        let why = "node didn't have enough allocatable resources: cpu, requested: 2000, allocatable: 1500; memory, requested: 2048, allocatable: 1024";
        assert_eq!(misfit(&pod("2", "2Ki"), &node).as_deref(), Some(why));
    }
}
