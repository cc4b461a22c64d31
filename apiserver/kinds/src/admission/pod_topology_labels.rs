//! A pod that gets a node -> it has the node's zone and region as labels, for the downward API. Source: `plugin/pkg/admission/podtopologylabels`
//! (KEP-4742).

use api::{GroupResource, Key, Status};
use apiserver::identity::{Admission, Operation, Review};
use async_trait::async_trait;

use super::is;
use crate::common::{Read, edit};

const LABELS: [&str; 2] = ["topology.kubernetes.io/zone", "topology.kubernetes.io/region"];

pub struct PodTopologyLabels;

#[async_trait]
impl Admission for PodTopologyLabels {
    fn name(&self) -> &'static str {
        "PodTopologyLabels"
    }

    async fn admit(&self, review: &mut Review<'_>) -> Result<(), Status> {
        let ctx = review.ctx;
        if ctx.operation != Operation::Create || !is(review, "", "pods") {
            return Ok(());
        }
        let object = review.object.as_deref();
        let target = object.at("target");
        let name = match ctx.subresource {
            "" => object.at("spec").text("nodeName"),
            "binding" if target.text("kind") == "Node" => target.text("name"),
            _ => "",
        };
        if name.is_empty() {
            return Ok(());
        }
        let Some(node) = ctx.engine.cached(&GroupResource::new("", "nodes"), &Key::new("", name)) else { return Ok(()) };
        let found: Vec<(&str, String)> = LABELS.iter().filter_map(|label| Some((*label, node.label(label)?.to_owned()))).collect();
        if found.is_empty() {
            return Ok(());
        }
        let metadata = review.object.as_deref_mut().and_then(|object| edit::make_child(object, "metadata"));
        if let Some(labels) = metadata.and_then(|metadata| edit::make_child(metadata, "labels")) {
            found.into_iter().for_each(|(label, value)| edit::set(labels, label, value));
        }
        Ok(())
    }
}
