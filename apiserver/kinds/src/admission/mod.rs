//! Admission plugins, one file each, in upstream's order (`pkg/kubeapiserver/options/plugins.go`).

use std::sync::Arc;

use api::Status;
use apiserver::identity::{Admission, Operation, Review};

use crate::common::read;

pub mod certificate_approval;
pub mod certificate_signing;
pub mod certificate_subject_restriction;
pub mod default_class;
pub mod default_toleration_seconds;
pub(crate) mod expressions;
pub mod limit_ranger;
pub mod namespace_lifecycle;
pub mod node_restriction;
pub mod persistent_volume_claim_resize;
pub mod pod_security;
pub mod policies;
pub mod priority;
pub(crate) mod request;
pub mod resource_quota;
pub mod runtime_class;
pub mod service_account;
pub mod storage_object_in_use_protection;
pub mod taint_nodes_by_condition;
pub mod webhooks;

/// The chain that every write passes.
pub fn chain() -> Vec<Arc<dyn Admission>> {
    vec![
        Arc::new(namespace_lifecycle::NamespaceLifecycle),
        Arc::new(limit_ranger::LimitRanger::default()),
        Arc::new(service_account::ServiceAccount),
        Arc::new(node_restriction::NodeRestriction),
        Arc::new(taint_nodes_by_condition::TaintNodesByCondition),
        Arc::new(pod_security::PodSecurity),
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
            "MutatingAdmissionPolicy",
            "MutatingAdmissionWebhook",
            "ValidatingAdmissionPolicy",
            "ValidatingAdmissionWebhook",
            "ResourceQuota",
        ];
        assert_eq!(names, order);
    }
}
