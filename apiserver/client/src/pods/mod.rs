//! A pod as it is served -> what schedulers and controllers read of it: a fifth of the memory, and less to decode.
//!
//! k8s-openapi's types are wide (a container takes 2 KiB before anything is in it), and pods are many, made from few templates. The fields
//! have the names they have there; those that come from a template are kept once for all pods that say the same ([`Shape`]). Whoever runs
//! pods needs all of a pod, and takes k8s-openapi's. These here cannot be written: nothing in here is `Serialize` but what is read of it.

mod shared;

use std::{collections::BTreeMap, ops::Deref};

use api::k8s::{
    self, Metadata, NamespaceResourceScope,
    api::core::v1::{
        Affinity, ContainerPort, EphemeralVolumeSource, ImageVolumeSource, PersistentVolumeClaimVolumeSource, Pod as Full, PodCondition,
        PodIP, PodResourceClaim, PodSchedulingGate, ResourceRequirements, Toleration, TopologySpreadConstraint,
    },
    apimachinery::pkg::{
        api::resource::Quantity,
        apis::meta::v1::{ObjectMeta, Time},
    },
};
use serde::{Deserialize, Deserializer, Serialize};

pub use shared::Shared;
use shared::{Pool, Pooled};

/// The whole object once more, as kubectl keeps it.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
pub struct Pod {
    #[serde(default, deserialize_with = "metadata")]
    pub metadata: ObjectMeta,
    pub spec: Option<PodSpec>,
    pub status: Option<PodStatus>,
}

/// What is the pod's own; all else is found in its [`Shape`].
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(from = "Spec")]
pub struct PodSpec {
    pub node_name: Option<String>,
    pub hostname: Option<String>,
    /// Only those that say something about where the pod can run.
    pub volumes: Option<Vec<Volume>>,
    /// A `DaemonSet` gives each of its pods another.
    pub affinity: Option<Shared<Affinity>>,
    pub shape: Shared<Shape>,
}

/// What pods of one template have in common.
#[derive(Debug, Default, PartialEq, Serialize)]
pub struct Shape {
    pub containers: Vec<Container>,
    pub init_containers: Option<Vec<Container>>,
    pub node_selector: Option<BTreeMap<String, String>>,
    pub overhead: Option<BTreeMap<String, Quantity>>,
    pub preemption_policy: Option<String>,
    pub priority: Option<i32>,
    pub resource_claims: Option<Vec<PodResourceClaim>>,
    pub resources: Option<ResourceRequirements>,
    pub scheduler_name: Option<String>,
    pub scheduling_gates: Option<Vec<PodSchedulingGate>>,
    pub subdomain: Option<String>,
    pub tolerations: Option<Vec<Toleration>>,
    pub topology_spread_constraints: Option<Vec<TopologySpreadConstraint>>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Container {
    pub image: Option<String>,
    pub ports: Option<Vec<ContainerPort>>,
    pub resources: Option<ResourceRequirements>,
    pub restart_policy: Option<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Volume {
    #[serde(default, deserialize_with = "or_default")]
    pub name: String,
    pub ephemeral: Option<Box<EphemeralVolumeSource>>,
    pub image: Option<Box<ImageVolumeSource>>,
    pub persistent_volume_claim: Option<Box<PersistentVolumeClaimVolumeSource>>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PodStatus {
    #[serde(deserialize_with = "shrunk")]
    pub conditions: Option<Vec<PodCondition>>,
    #[serde(deserialize_with = "shrunk")]
    pub container_statuses: Option<Vec<ContainerStatus>>,
    pub nominated_node_name: Option<String>,
    pub phase: Option<String>,
    #[serde(rename = "podIP")]
    pub pod_ip: Option<String>,
    #[serde(rename = "podIPs", deserialize_with = "shrunk")]
    pub pod_ips: Option<Vec<PodIP>>,
    pub start_time: Option<Time>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ContainerStatus {
    #[serde(default, deserialize_with = "or_default")]
    pub restart_count: i32,
}

impl k8s::Resource for Pod {
    const API_VERSION: &'static str = <Full as k8s::Resource>::API_VERSION;
    const GROUP: &'static str = <Full as k8s::Resource>::GROUP;
    const KIND: &'static str = <Full as k8s::Resource>::KIND;
    const VERSION: &'static str = <Full as k8s::Resource>::VERSION;
    const URL_PATH_SEGMENT: &'static str = <Full as k8s::Resource>::URL_PATH_SEGMENT;
    type Scope = NamespaceResourceScope;
}

impl Metadata for Pod {
    type Ty = ObjectMeta;

    fn metadata(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn metadata_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}

impl Deref for PodSpec {
    type Target = Shape;

    fn deref(&self) -> &Shape {
        &self.shape
    }
}

impl Pooled for Shape {
    fn pool() -> &'static Pool<Self> {
        static POOL: Pool<Shape> = Pool::new();
        &POOL
    }
}

impl Pooled for Affinity {
    fn pool() -> &'static Pool<Self> {
        static POOL: Pool<Affinity> = Pool::new();
        &POOL
    }
}

/// As it is on the wire.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Spec {
    node_name: Option<String>,
    hostname: Option<String>,
    volumes: Option<Vec<Volume>>,
    affinity: Option<Affinity>,
    #[serde(default, deserialize_with = "or_default")]
    containers: Vec<Container>,
    init_containers: Option<Vec<Container>>,
    node_selector: Option<BTreeMap<String, String>>,
    overhead: Option<BTreeMap<String, Quantity>>,
    preemption_policy: Option<String>,
    priority: Option<i32>,
    resource_claims: Option<Vec<PodResourceClaim>>,
    resources: Option<ResourceRequirements>,
    scheduler_name: Option<String>,
    scheduling_gates: Option<Vec<PodSchedulingGate>>,
    subdomain: Option<String>,
    tolerations: Option<Vec<Toleration>>,
    topology_spread_constraints: Option<Vec<TopologySpreadConstraint>>,
}

impl From<Spec> for PodSpec {
    fn from(spec: Spec) -> Self {
        let shape = Shape {
            containers: spec.containers,
            init_containers: spec.init_containers,
            node_selector: spec.node_selector,
            overhead: spec.overhead,
            preemption_policy: spec.preemption_policy,
            priority: spec.priority,
            resource_claims: spec.resource_claims,
            resources: spec.resources,
            scheduler_name: spec.scheduler_name,
            scheduling_gates: spec.scheduling_gates,
            subdomain: spec.subdomain,
            tolerations: spec.tolerations,
            topology_spread_constraints: spec.topology_spread_constraints,
        };
        Self {
            node_name: spec.node_name,
            hostname: spec.hostname,
            volumes: spec.volumes.and_then(placed),
            affinity: spec.affinity.map(Shared::new),
            shape: Shared::new(shape),
        }
    }
}

fn placed(volumes: Vec<Volume>) -> Option<Vec<Volume>> {
    let anywhere = |v: &Volume| v.persistent_volume_claim.is_none() && v.ephemeral.is_none() && v.image.is_none();
    let placed: Vec<Volume> = volumes.into_iter().filter(|volume| !anywhere(volume)).collect();
    (!placed.is_empty()).then(|| placed.into_boxed_slice().into_vec())
}

fn metadata<'de, D: Deserializer<'de>>(from: D) -> Result<ObjectMeta, D::Error> {
    let mut metadata = ObjectMeta::deserialize(from)?;
    metadata.managed_fields = None;
    if let Some(annotations) = &mut metadata.annotations {
        annotations.remove(LAST_APPLIED);
    }
    if let Some(owners) = &mut metadata.owner_references {
        owners.shrink_to_fit();
    }
    Ok(metadata)
}

/// Vectors grow to more than they hold.
fn shrunk<'de, D: Deserializer<'de>, T: Deserialize<'de>>(from: D) -> Result<Option<Vec<T>>, D::Error> {
    Ok(Option::<Box<[T]>>::deserialize(from)?.map(<[T]>::into_vec))
}

/// Null is as good as absent.
fn or_default<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(from: D) -> Result<T, D::Error> {
    Ok(Option::deserialize(from)?.unwrap_or_default())
}

#[cfg(test)]
mod tests;
