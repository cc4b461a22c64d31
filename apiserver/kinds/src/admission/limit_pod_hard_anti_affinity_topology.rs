//! A pod that keeps others off a whole zone -> refused: off a node is enough. Source: `plugin/pkg/admission/antiaffinity`.

use api::Status;
use apiserver::identity::{Admission, Review};
use async_trait::async_trait;

use super::written_pod;
use crate::common::{Read, read};

const HOSTNAME: &str = "kubernetes.io/hostname";

pub struct LimitPodHardAntiAffinityTopology;

#[async_trait]
impl Admission for LimitPodHardAntiAffinityTopology {
    fn name(&self) -> &'static str {
        "LimitPodHardAntiAffinityTopology"
    }

    async fn validate(&self, review: &Review<'_>) -> Result<(), Status> {
        let Some(pod) = written_pod(review) else { return Ok(()) };
        let terms = pod.at("spec").at("affinity").at("podAntiAffinity").list("requiredDuringSchedulingIgnoredDuringExecution");
        let Some(key) = terms.iter().map(|term| term.text("topologyKey")).find(|key| *key != HOSTNAME) else { return Ok(()) };
        let why = format!("affinity.PodAntiAffinity.RequiredDuringScheduling has TopologyKey {key} but only key {HOSTNAME} is allowed");
        Err(Status::forbidden(&review.ctx.kind.group_resource(), read::name(pod), &why))
    }
}
