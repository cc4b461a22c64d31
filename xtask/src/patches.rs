//! What the published crate does not tell: strategic merge patch strategies, keys of lists that differ from them, map types.
//!
//! Facts of the upstream types' `patchStrategy`, `patchMergeKey`, `+listType`, `+listMapKey` and `+structType` marks.

use std::collections::BTreeMap;

use serde_json::{Value, json};

/// Definition, field, `x-kubernetes-patch-strategy`, `x-kubernetes-patch-merge-key` (may be empty).
const PATCHES: &[(&str, &str, &str, &str)] = &[
    ("io.k8s.api.admissionregistration.v1.MutatingAdmissionPolicySpec", "matchConditions", "merge", "name"),
    ("io.k8s.api.admissionregistration.v1.MutatingWebhook", "matchConditions", "merge", "name"),
    ("io.k8s.api.admissionregistration.v1.MutatingWebhookConfiguration", "webhooks", "merge", "name"),
    ("io.k8s.api.admissionregistration.v1.ValidatingAdmissionPolicySpec", "matchConditions", "merge", "name"),
    ("io.k8s.api.admissionregistration.v1.ValidatingAdmissionPolicySpec", "variables", "merge", "name"),
    ("io.k8s.api.admissionregistration.v1.ValidatingWebhook", "matchConditions", "merge", "name"),
    ("io.k8s.api.admissionregistration.v1.ValidatingWebhookConfiguration", "webhooks", "merge", "name"),
    ("io.k8s.api.admissionregistration.v1alpha1.MutatingAdmissionPolicySpec", "matchConditions", "merge", "name"),
    ("io.k8s.api.admissionregistration.v1beta1.MutatingAdmissionPolicySpec", "matchConditions", "merge", "name"),
    ("io.k8s.api.apps.v1.DaemonSetStatus", "conditions", "merge", "type"),
    ("io.k8s.api.apps.v1.DeploymentSpec", "strategy", "retainKeys", ""),
    ("io.k8s.api.apps.v1.DeploymentStatus", "conditions", "merge", "type"),
    ("io.k8s.api.apps.v1.ReplicaSetStatus", "conditions", "merge", "type"),
    ("io.k8s.api.apps.v1.StatefulSetStatus", "conditions", "merge", "type"),
    ("io.k8s.api.autoscaling.v2.HorizontalPodAutoscalerStatus", "conditions", "merge", "type"),
    ("io.k8s.api.batch.v1.JobStatus", "conditions", "merge", "type"),
    ("io.k8s.api.certificates.v1beta1.PodCertificateRequestStatus", "conditions", "merge", "type"),
    ("io.k8s.api.core.v1.ComponentStatus", "conditions", "merge", "type"),
    ("io.k8s.api.core.v1.Container", "env", "merge", "name"),
    ("io.k8s.api.core.v1.Container", "ports", "merge", "containerPort"),
    ("io.k8s.api.core.v1.Container", "volumeDevices", "merge", "devicePath"),
    ("io.k8s.api.core.v1.Container", "volumeMounts", "merge", "mountPath"),
    ("io.k8s.api.core.v1.ContainerStatus", "allocatedResourcesStatus", "merge", "name"),
    ("io.k8s.api.core.v1.ContainerStatus", "volumeMounts", "merge", "mountPath"),
    ("io.k8s.api.core.v1.EphemeralContainer", "env", "merge", "name"),
    ("io.k8s.api.core.v1.EphemeralContainer", "ports", "merge", "containerPort"),
    ("io.k8s.api.core.v1.EphemeralContainer", "volumeDevices", "merge", "devicePath"),
    ("io.k8s.api.core.v1.EphemeralContainer", "volumeMounts", "merge", "mountPath"),
    ("io.k8s.api.core.v1.NamespaceStatus", "conditions", "merge", "type"),
    ("io.k8s.api.core.v1.NodeSpec", "podCIDRs", "merge", ""),
    ("io.k8s.api.core.v1.NodeStatus", "addresses", "merge", "type"),
    ("io.k8s.api.core.v1.NodeStatus", "conditions", "merge", "type"),
    ("io.k8s.api.core.v1.PersistentVolumeClaimStatus", "conditions", "merge", "type"),
    ("io.k8s.api.core.v1.PodSpec", "containers", "merge", "name"),
    ("io.k8s.api.core.v1.PodSpec", "ephemeralContainers", "merge", "name"),
    ("io.k8s.api.core.v1.PodSpec", "hostAliases", "merge", "ip"),
    ("io.k8s.api.core.v1.PodSpec", "imagePullSecrets", "merge", "name"),
    ("io.k8s.api.core.v1.PodSpec", "initContainers", "merge", "name"),
    ("io.k8s.api.core.v1.PodSpec", "resourceClaims", "merge,retainKeys", "name"),
    ("io.k8s.api.core.v1.PodSpec", "schedulingGates", "merge", "name"),
    ("io.k8s.api.core.v1.PodSpec", "topologySpreadConstraints", "merge", "topologyKey"),
    ("io.k8s.api.core.v1.PodSpec", "volumes", "merge,retainKeys", "name"),
    ("io.k8s.api.core.v1.PodStatus", "conditions", "merge", "type"),
    ("io.k8s.api.core.v1.PodStatus", "hostIPs", "merge", "ip"),
    ("io.k8s.api.core.v1.PodStatus", "podIPs", "merge", "ip"),
    ("io.k8s.api.core.v1.PodStatus", "resourceClaimStatuses", "merge,retainKeys", "name"),
    ("io.k8s.api.core.v1.ReplicationControllerStatus", "conditions", "merge", "type"),
    ("io.k8s.api.core.v1.ServiceAccount", "secrets", "merge", "name"),
    ("io.k8s.api.core.v1.ServiceSpec", "ports", "merge", "port"),
    ("io.k8s.api.core.v1.ServiceStatus", "conditions", "merge", "type"),
    ("io.k8s.api.flowcontrol.v1.FlowSchemaStatus", "conditions", "merge", "type"),
    ("io.k8s.api.flowcontrol.v1.PriorityLevelConfigurationStatus", "conditions", "merge", "type"),
    ("io.k8s.api.networking.v1.ServiceCIDRStatus", "conditions", "merge", "type"),
    ("io.k8s.api.networking.v1beta1.ServiceCIDRStatus", "conditions", "merge", "type"),
    ("io.k8s.api.policy.v1.PodDisruptionBudgetSpec", "selector", "replace", ""),
    ("io.k8s.api.policy.v1.PodDisruptionBudgetStatus", "conditions", "merge", "type"),
    ("io.k8s.api.resource.v1.ResourceClaimStatus", "reservedFor", "merge", "uid"),
    ("io.k8s.api.resource.v1alpha3.DeviceTaintRuleStatus", "conditions", "merge", "type"),
    ("io.k8s.api.resource.v1alpha3.ResourcePoolStatusRequestStatus", "conditions", "merge", "type"),
    ("io.k8s.api.resource.v1beta1.ResourceClaimStatus", "reservedFor", "merge", "uid"),
    ("io.k8s.api.resource.v1beta2.DeviceTaintRuleStatus", "conditions", "merge", "type"),
    ("io.k8s.api.resource.v1beta2.ResourceClaimStatus", "reservedFor", "merge", "uid"),
    ("io.k8s.api.scheduling.v1alpha2.PodGroupSpec", "resourceClaims", "merge,retainKeys", "name"),
    ("io.k8s.api.scheduling.v1alpha2.PodGroupStatus", "conditions", "merge", "type"),
    ("io.k8s.api.scheduling.v1alpha2.PodGroupStatus", "resourceClaimStatuses", "merge,retainKeys", "name"),
    ("io.k8s.api.scheduling.v1alpha2.PodGroupTemplate", "resourceClaims", "merge,retainKeys", "name"),
    ("io.k8s.api.storage.v1.CSINodeSpec", "drivers", "merge", "name"),
    ("io.k8s.api.storagemigration.v1beta1.StorageVersionMigrationStatus", "conditions", "merge", "type"),
    ("io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaProps", "x-kubernetes-validations", "merge", "rule"),
    ("io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta", "finalizers", "merge", ""),
    ("io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta", "ownerReferences", "merge", "uid"),
    ("io.k8s.kube-aggregator.pkg.apis.apiregistration.v1.APIServiceStatus", "conditions", "merge", "type"),
];

/// Lists whose keys or type differ from what their patches go by: definition, field, `x-kubernetes-list-type`, keys.
const LISTS: &[(&str, &str, &str, &[&str])] = &[
    ("io.k8s.api.apiserverinternal.v1alpha1.StorageVersionStatus", "storageVersions", "map", &["apiServerID"]),
    ("io.k8s.api.core.v1.Container", "ports", "map", &["containerPort", "protocol"]),
    ("io.k8s.api.core.v1.EphemeralContainer", "ports", "map", &["containerPort", "protocol"]),
    ("io.k8s.api.core.v1.PodSpec", "topologySpreadConstraints", "map", &["topologyKey", "whenUnsatisfiable"]),
    ("io.k8s.api.core.v1.ResourceStatus", "resources", "map", &["resourceID"]),
    ("io.k8s.api.core.v1.ServiceSpec", "ports", "map", &["port", "protocol"]),
    ("io.k8s.api.resource.v1.ResourceClaimStatus", "devices", "map", &["driver", "device", "pool", "shareID"]),
    ("io.k8s.api.resource.v1beta1.ResourceClaimStatus", "devices", "map", &["driver", "device", "pool", "shareID"]),
    ("io.k8s.api.resource.v1beta2.ResourceClaimStatus", "devices", "map", &["driver", "device", "pool", "shareID"]),
    ("io.k8s.api.apps.v1.StatefulSetSpec", "volumeClaimTemplates", "atomic", &[]),
    ("io.k8s.api.batch.v1.JobStatus", "conditions", "atomic", &[]),
    ("io.k8s.api.core.v1.PodStatus", "hostIPs", "atomic", &[]),
];

/// Fields with a map type of their own.
const MAP_FIELDS: &[(&str, &str, &str)] = &[
    ("io.k8s.api.apps.v1.ControllerRevision", "data", "atomic"),
    ("io.k8s.api.core.v1.PersistentVolumeClaimStatus", "allocatedResourceStatuses", "granular"),
    ("io.k8s.api.core.v1.PersistentVolumeSpec", "claimRef", "granular"),
    ("io.k8s.api.core.v1.PodSpec", "nodeSelector", "atomic"),
    ("io.k8s.api.core.v1.ReplicationControllerSpec", "selector", "atomic"),
    ("io.k8s.api.core.v1.ServiceSpec", "selector", "atomic"),
    ("io.k8s.api.node.v1.Scheduling", "nodeSelector", "atomic"),
];

/// Objects that are owned as a whole.
const ATOMIC: &[&str] = &[
    "io.k8s.api.admissionregistration.v1.MatchResources",
    "io.k8s.api.admissionregistration.v1.NamedRuleWithOperations",
    "io.k8s.api.admissionregistration.v1.ParamKind",
    "io.k8s.api.admissionregistration.v1.ParamRef",
    "io.k8s.api.admissionregistration.v1.Variable",
    "io.k8s.api.admissionregistration.v1alpha1.MatchResources",
    "io.k8s.api.admissionregistration.v1alpha1.NamedRuleWithOperations",
    "io.k8s.api.admissionregistration.v1alpha1.ParamKind",
    "io.k8s.api.admissionregistration.v1alpha1.ParamRef",
    "io.k8s.api.admissionregistration.v1beta1.MatchResources",
    "io.k8s.api.admissionregistration.v1beta1.NamedRuleWithOperations",
    "io.k8s.api.admissionregistration.v1beta1.ParamKind",
    "io.k8s.api.admissionregistration.v1beta1.ParamRef",
    "io.k8s.api.admissionregistration.v1beta1.Variable",
    "io.k8s.api.autoscaling.v1.CrossVersionObjectReference",
    "io.k8s.api.core.v1.ConfigMapKeySelector",
    "io.k8s.api.core.v1.EndpointAddress",
    "io.k8s.api.core.v1.EndpointPort",
    "io.k8s.api.core.v1.FileKeySelector",
    "io.k8s.api.core.v1.LocalObjectReference",
    "io.k8s.api.core.v1.NodeSelector",
    "io.k8s.api.core.v1.NodeSelectorTerm",
    "io.k8s.api.core.v1.ObjectFieldSelector",
    "io.k8s.api.core.v1.ObjectReference",
    "io.k8s.api.core.v1.ResourceFieldSelector",
    "io.k8s.api.core.v1.ScopeSelector",
    "io.k8s.api.core.v1.SecretKeySelector",
    "io.k8s.api.core.v1.SecretReference",
    "io.k8s.api.core.v1.TopologySelectorTerm",
    "io.k8s.api.core.v1.TypedLocalObjectReference",
    "io.k8s.api.discovery.v1.EndpointPort",
    "io.k8s.api.networking.v1.ServiceBackendPort",
    "io.k8s.api.rbac.v1.RoleRef",
    "io.k8s.api.rbac.v1.Subject",
    "io.k8s.apimachinery.pkg.apis.meta.v1.LabelSelector",
    "io.k8s.apimachinery.pkg.apis.meta.v1.OwnerReference",
];

/// Any JSON: the crate's schema says less than its type takes.
const ANY: &[&str] = &["JSON", "JSONSchemaPropsOrArray", "JSONSchemaPropsOrBool", "JSONSchemaPropsOrStringArray"];

pub fn apply(definitions: &mut BTreeMap<String, Value>) {
    for (name, field, list_type, keys) in LISTS {
        let property = property(definitions, name, field);
        property["x-kubernetes-list-type"] = json!(list_type);
        match keys.is_empty() {
            true => property.as_object_mut().and_then(|p| p.remove("x-kubernetes-list-map-keys")).map_or((), drop),
            false => property["x-kubernetes-list-map-keys"] = json!(keys),
        }
    }
    for (name, field, strategy, key) in PATCHES {
        let property = property(definitions, name, field);
        property["x-kubernetes-patch-strategy"] = json!(strategy);
        if !key.is_empty() {
            property["x-kubernetes-patch-merge-key"] = json!(key);
        }
    }
    for (name, field, map_type) in MAP_FIELDS {
        property(definitions, name, field)["x-kubernetes-map-type"] = json!(map_type);
    }
    for name in ATOMIC {
        definitions.get_mut(*name).unwrap_or_else(|| panic!("no definition {name}"))["x-kubernetes-map-type"] = json!("atomic");
    }
    for name in ANY {
        let name = format!("io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.{name}");
        if let Some(definition) = definitions.get_mut(&name).and_then(Value::as_object_mut) {
            definition.retain(|key, _| key == "description");
        }
    }
}

fn property<'a>(definitions: &'a mut BTreeMap<String, Value>, name: &str, field: &str) -> &'a mut Value {
    let definition = definitions.get_mut(name).unwrap_or_else(|| panic!("no definition {name}"));
    definition["properties"].get_mut(field).unwrap_or_else(|| panic!("no field {name}.{field}"))
}
