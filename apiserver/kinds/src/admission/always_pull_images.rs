//! A pod -> its images are pulled anew, so that nobody runs another's private image because the node has it. Source:
//! `plugin/pkg/admission/alwayspullimages`.

use std::collections::HashSet;

use api::Status;
use apiserver::identity::{Admission, Operation, Review};
use async_trait::async_trait;
use serde_json::Value;

use super::{forbidden, written_pod};
use crate::common::{
    Path, Read,
    edit::{self, child},
};

const LISTS: [&str; 3] = ["initContainers", "containers", "ephemeralContainers"];

pub struct AlwaysPullImages;

#[async_trait]
impl Admission for AlwaysPullImages {
    fn name(&self) -> &'static str {
        "AlwaysPullImages"
    }

    async fn admit(&self, review: &mut Review<'_>) -> Result<(), Status> {
        if !concerns(review) {
            return Ok(());
        }
        let Some(spec) = review.object.as_deref_mut().and_then(|pod| child(pod, "spec")) else { return Ok(()) };
        for list in LISTS {
            edit::each(spec, list).for_each(|container| edit::set(container, "imagePullPolicy", "Always"));
        }
        edit::each(spec, "volumes").filter_map(|volume| child(volume, "image")).for_each(|image| edit::set(image, "pullPolicy", "Always"));
        Ok(())
    }

    async fn validate(&self, review: &Review<'_>) -> Result<(), Status> {
        if !concerns(review) {
            return Ok(());
        }
        let wrong = others(review.object.as_deref().at("spec"));
        match wrong.as_slice() {
            [] => Ok(()),
            [one] => Err(forbidden(review, one)),
            // Several are no Status any more, as upstream adds them up.
            all => {
                let all: Vec<String> = all.iter().map(|why| forbidden(review, why).message).collect();
                Err(Status::new(500, "", format!("[{}]", all.join(", "))))
            }
        }
    }
}

/// New pods, and those that get an image that they had not.
fn concerns(review: &Review<'_>) -> bool {
    let Some(pod) = written_pod(review) else { return false };
    let images = |pod: &Value| -> HashSet<String> {
        let containers = LISTS.into_iter().flat_map(|list| pod.at("spec").list(list));
        containers.map(|container| container.text("image").to_owned()).collect()
    };
    match review.old.filter(|_| review.ctx.operation == Operation::Update) {
        Some(old) => !images(pod).is_subset(&images(old)),
        None => true,
    }
}

/// What is wrong with each container and volume that is not pulled always.
fn others(spec: Option<&Value>) -> Vec<String> {
    let refused = |at: Path<'_>, policy: &str| format!("{at}: Unsupported value: {policy:?}: supported values: \"Always\"");
    let path = Path::new("spec");
    let mut out = Vec::new();
    for list in LISTS {
        let at = path.field(list);
        for (i, container) in spec.list(list).iter().enumerate().filter(|(_, container)| container.text("imagePullPolicy") != "Always") {
            out.push(refused(at.index(i).field("imagePullPolicy"), container.text("imagePullPolicy")));
        }
    }
    let at = path.field("volumes");
    for (i, volume) in spec.list("volumes").iter().enumerate() {
        if let Some(image) = volume.at("image").filter(|image| image.text("pullPolicy") != "Always") {
            out.push(refused(at.index(i).field("image").field("pullPolicy"), image.text("pullPolicy")));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn each_other_policy_is_told() {
        let spec = json!({
            "containers": [{"imagePullPolicy": "Always"}, {"imagePullPolicy": "Never"}],
            "volumes": [{"emptyDir": {}}, {"image": {"pullPolicy": "IfNotPresent"}}],
        });
        assert_eq!(
            others(Some(&spec)),
            [
                "spec.containers[1].imagePullPolicy: Unsupported value: \"Never\": supported values: \"Always\"",
                "spec.volumes[1].image.pullPolicy: Unsupported value: \"IfNotPresent\": supported values: \"Always\"",
            ]
        );
    }
}
