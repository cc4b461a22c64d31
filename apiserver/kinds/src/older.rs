//! Versions in which a stock server may have stored objects long ago, and which 1.36 still decodes though it serves them no more (or, of mutating policies, stores so that 1.35 can read them): their messages
//! have the field numbers of the version that is stored now.
//!
//! Source: `staging/src/k8s.io/api/*/v1beta*/generated.proto`. Left out, since their fields differ: networking.k8s.io/v1beta1 Ingress,
//! discovery.k8s.io/v1beta1 EndpointSlice, and group extensions.

use apiserver::at_rest::Older;

const fn of(group: &'static str, kind: &'static str, versions: &'static [&'static str]) -> Older {
    Older { group, kind, versions }
}

const BETA: &[&str] = &["v1beta1"];
const APPS: &[&str] = &["v1beta1", "v1beta2"];
const FLOW: &[&str] = &["v1beta1", "v1beta2", "v1beta3"];

/// For [`AtRest::reading`](apiserver::at_rest::AtRest::reading).
pub const STORED: &[Older] = &[
    of("admissionregistration.k8s.io", "MutatingAdmissionPolicy", BETA),
    of("admissionregistration.k8s.io", "MutatingAdmissionPolicyBinding", BETA),
    of("admissionregistration.k8s.io", "MutatingWebhookConfiguration", BETA),
    of("admissionregistration.k8s.io", "ValidatingAdmissionPolicy", BETA),
    of("admissionregistration.k8s.io", "ValidatingAdmissionPolicyBinding", BETA),
    of("admissionregistration.k8s.io", "ValidatingWebhookConfiguration", BETA),
    of("apps", "ControllerRevision", APPS),
    of("apps", "DaemonSet", &["v1beta2"]),
    of("apps", "Deployment", APPS),
    of("apps", "ReplicaSet", &["v1beta2"]),
    of("apps", "StatefulSet", APPS),
    of("batch", "CronJob", BETA),
    of("certificates.k8s.io", "CertificateSigningRequest", BETA),
    of("coordination.k8s.io", "Lease", BETA),
    of("flowcontrol.apiserver.k8s.io", "FlowSchema", FLOW),
    of("flowcontrol.apiserver.k8s.io", "PriorityLevelConfiguration", FLOW),
    of("networking.k8s.io", "IPAddress", BETA),
    of("networking.k8s.io", "IngressClass", BETA),
    of("networking.k8s.io", "ServiceCIDR", BETA),
    of("node.k8s.io", "RuntimeClass", BETA),
    of("policy", "PodDisruptionBudget", BETA),
    of("rbac.authorization.k8s.io", "ClusterRole", BETA),
    of("rbac.authorization.k8s.io", "ClusterRoleBinding", BETA),
    of("rbac.authorization.k8s.io", "Role", BETA),
    of("rbac.authorization.k8s.io", "RoleBinding", BETA),
    of("scheduling.k8s.io", "PriorityClass", BETA),
    of("storage.k8s.io", "CSIDriver", BETA),
    of("storage.k8s.io", "CSINode", BETA),
    of("storage.k8s.io", "CSIStorageCapacity", BETA),
    of("storage.k8s.io", "StorageClass", BETA),
    of("storage.k8s.io", "VolumeAttachment", BETA),
    of("storage.k8s.io", "VolumeAttributesClass", BETA),
];
