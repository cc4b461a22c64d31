//! Admission plugins, one file each, in upstream's order (`pkg/kubeapiserver/options/plugins.go`).

use std::{collections::BTreeMap, sync::Arc};

use api::{GroupResource, Key, Status};
use apiserver::identity::{Admission, Operation, Review};
use serde::Deserialize;
use serde_json::Value;

use crate::common::{Read, read};

pub mod always_admit;
pub mod always_deny;
pub mod always_pull_images;
pub mod certificate_approval;
pub mod certificate_signing;
pub mod certificate_subject_restriction;
mod configuration;
pub mod default_class;
pub mod default_toleration_seconds;
pub mod deny_service_external_ips;
pub mod event_rate_limit;
pub(crate) mod expressions;
pub mod extended_resource_toleration;
pub mod limit_pod_hard_anti_affinity_topology;
pub mod limit_ranger;
pub mod namespace_auto_provision;
pub mod namespace_exists;
pub mod namespace_lifecycle;
pub mod node_declared_feature_validator;
pub mod node_restriction;
pub mod options;
pub mod owner_references_permission_enforcement;
pub mod persistent_volume_claim_resize;
pub mod pod_node_selector;
pub mod pod_resize_validator;
pub mod pod_security;
pub mod pod_toleration_restriction;
pub mod pod_topology_labels;
pub mod policies;
pub mod priority;
pub(crate) mod request;
pub mod resource_quota;
pub mod runtime_class;
pub mod service_account;
pub mod storage_object_in_use_protection;
pub mod taint_nodes_by_condition;
pub mod webhooks;

pub use options::Options;

/// The chain that every write passes where nothing else is asked for: [`Options`].
pub fn chain() -> Vec<Arc<dyn Admission>> {
    vec![
        Arc::new(namespace_lifecycle::NamespaceLifecycle),
        Arc::new(limit_ranger::LimitRanger::default()),
        Arc::new(service_account::ServiceAccount),
        Arc::new(node_restriction::NodeRestriction),
        Arc::new(taint_nodes_by_condition::TaintNodesByCondition),
        Arc::new(pod_security::PodSecurity::default()),
        Arc::new(priority::Priority::default()),
        Arc::new(default_toleration_seconds::DefaultTolerationSeconds),
        Arc::new(default_class::DefaultClass::of_storage()),
        Arc::new(storage_object_in_use_protection::StorageObjectInUseProtection),
        Arc::new(persistent_volume_claim_resize::PersistentVolumeClaimResize),
        Arc::new(runtime_class::RuntimeClass),
        Arc::new(certificate_approval::CertificateApproval),
        Arc::new(certificate_signing::CertificateSigning),
        Arc::new(certificate_subject_restriction::CertificateSubjectRestriction),
        Arc::new(default_class::DefaultClass::of_ingress()),
        Arc::new(pod_topology_labels::PodTopologyLabels),
        Arc::new(node_declared_feature_validator::NodeDeclaredFeatureValidator),
        Arc::new(pod_resize_validator::PodResizeValidator),
        Arc::new(policies::MutatingAdmissionPolicy::default()),
        Arc::new(webhooks::MutatingAdmissionWebhook::default()),
        Arc::new(policies::ValidatingAdmissionPolicy::default()),
        Arc::new(webhooks::ValidatingAdmissionWebhook::default()),
        Arc::new(resource_quota::ResourceQuota::default()),
    ]
}

/// `admission.NewForbidden`: 403 about the object of the review.
fn forbidden(review: &Review<'_>, why: &str) -> Status {
    let object = review.object.as_deref();
    let named = [Some(review.ctx.name), object.map(read::name), object.map(|o| read::text_at(o, "/metadata/generateName"))];
    let name = named.into_iter().flatten().find(|n| !n.is_empty()).unwrap_or("Unknown");
    Status::forbidden(&review.ctx.kind.group_resource(), name, why)
}

fn is(review: &Review<'_>, group: &str, resource: &str) -> bool {
    review.ctx.kind.group == group && review.ctx.kind.plural == resource
}

fn writes(review: &Review<'_>) -> bool {
    matches!(review.ctx.operation, Operation::Create | Operation::Update)
}

/// A new pod, and no subresource of one.
fn creates_pod(review: &Review<'_>) -> bool {
    review.ctx.operation == Operation::Create && is(review, "", "pods") && review.ctx.subresource.is_empty()
}

/// A pod that is made or changed itself, and no subresource of one.
fn written_pod<'v>(review: &'v Review<'_>) -> Option<&'v Value> {
    let concerns = writes(review) && is(review, "", "pods") && review.ctx.subresource.is_empty();
    review.object.as_deref().filter(|_| concerns)
}

/// A pod that runs, whose spec is changed by one of these subresources (empty: by itself).
fn updated_spec<'v>(review: &'v Review<'_>, subresources: &[&str]) -> Option<&'v Value> {
    let concerns = review.ctx.operation == Operation::Update && is(review, "", "pods") && subresources.contains(&review.ctx.subresource);
    let pod = review.object.as_deref().filter(|_| concerns)?;
    let generation = |pod: &Value| read::count(pod, "/metadata/generation");
    let runs = !pod.at("spec").text("nodeName").is_empty();
    (runs && review.old.is_some_and(|old| generation(old) != generation(pod))).then_some(pod)
}

/// Of the namespace that is written into.
///
/// # Errors
/// 404 where it is not there.
async fn namespace_annotations(review: &Review<'_>) -> Result<BTreeMap<String, String>, Status> {
    #[derive(Deserialize)]
    struct Namespace {
        metadata: Metadata,
    }
    #[derive(Deserialize)]
    struct Metadata {
        annotations: Option<BTreeMap<String, String>>,
    }
    let (namespaces, key) = (GroupResource::new("", "namespaces"), Key::new("", review.ctx.namespace));
    let found = match review.ctx.engine.cached(&namespaces, &key) {
        Some(found) => found,
        None => review.ctx.engine.get(&namespaces, &key).await?,
    };
    let read = found.part::<Namespace>().map_err(|error| Status::internal(format!("namespace {:?}: {error}", review.ctx.namespace)))?;
    Ok(read.metadata.annotations.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_order_is_upstreams() {
        let names: Vec<&str> = chain().iter().map(|p| p.name()).collect();
        let order = [
            "NamespaceLifecycle",
            "LimitRanger",
            "ServiceAccount",
            "NodeRestriction",
            "TaintNodesByCondition",
            "PodSecurity",
            "Priority",
            "DefaultTolerationSeconds",
            "DefaultStorageClass",
            "StorageObjectInUseProtection",
            "PersistentVolumeClaimResize",
            "RuntimeClass",
            "CertificateApproval",
            "CertificateSigning",
            "CertificateSubjectRestriction",
            "DefaultIngressClass",
            "PodTopologyLabels",
            "NodeDeclaredFeatureValidator",
            "PodResizeValidator",
            "MutatingAdmissionPolicy",
            "MutatingAdmissionWebhook",
            "ValidatingAdmissionPolicy",
            "ValidatingAdmissionWebhook",
            "ResourceQuota",
        ];
        assert_eq!(names, order);
    }
}
