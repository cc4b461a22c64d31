//! A pod as it is served -> what schedulers and controllers read of it: a fifth of the memory, and less to decode.
//!
//! k8s-openapi's types are wide (a container takes 2 KiB before anything is in it), and pods are many, made from few templates. The fields
//! have the names they have there; those that come from a template are kept once for all pods that say the same ([`PodTemplateFields`]). Whoever runs
//! pods needs all of a pod, and takes k8s-openapi's. These here cannot be written: nothing in here is `Serialize` but what is read of it.

pub mod node_affinity;
mod shared;
mod status;
mod view;
#[cfg(test)]
mod view_tests;
mod volume;

use std::{collections::BTreeMap, ops::Deref};

use api::{
    k8s::{
        api::core::v1::{
            Affinity, ContainerPort, PodIP, PodResourceClaim, PodSchedulingGate, ResourceRequirements, Toleration, TopologySpreadConstraint,
        },
        apimachinery::pkg::{
            api::resource::Quantity,
            apis::meta::v1::{OwnerReference, Time},
        },
    },
    time::{Timestamp, rfc3339},
};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Value, json};

pub use shared::Shared;
use shared::{Pool, Pooled};
pub use status::{Exit, Exits, Role};
pub use volume::{Disk, Volume};

use crate::Meta;

static EMPTY: BTreeMap<String, String> = BTreeMap::new();
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
pub struct Pod {
    #[serde(default, deserialize_with = "or_default")]
    pub metadata: PodMeta,
    pub spec: Option<PodSpec>,
    pub status: Option<PodStatus>,
}

/// What is the pod's own; all else is found in its [`SharedMeta`]. Each pod that is read has a name.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(from = "WireMeta")]
pub struct PodMeta {
    pub name: Option<String>,
    pub namespace: Option<String>,
    pub uid: Option<String>,
    pub resource_version: Option<String>,
    pub generation: Option<i64>,
    pub creation_timestamp: Option<Time>,
    pub deletion_timestamp: Option<Time>,
    pub finalizers: Option<Vec<String>>,
    /// Without the whole object once more, as kubectl keeps it.
    pub annotations: Option<BTreeMap<String, String>>,
    pub shared: Shared<SharedMeta>,
}

/// What the pods of one owner have in common: a map's smallest node alone takes 544 bytes.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct SharedMeta {
    pub labels: Option<BTreeMap<String, String>>,
    pub owner_references: Option<Vec<OwnerReference>>,
    /// Of those that are being deleted.
    pub deletion_grace_period_seconds: Option<i64>,
}

/// What is the pod's own; all else is found in its [`PodTemplateFields`].
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(from = "Spec")]
pub struct PodSpec {
    pub node_name: Option<String>,
    pub hostname: Option<String>,
    /// Only those that say something about where the pod can run.
    pub volumes: Option<Vec<Volume>>,
    /// A `DaemonSet` gives each of its pods another.
    pub affinity: Option<Shared<Affinity>>,
    pub template: Shared<PodTemplateFields>,
}

/// What pods of one template have in common.
#[derive(Debug, Default, PartialEq, Serialize)]
pub struct PodTemplateFields {
    pub active_deadline_seconds: Option<i64>,
    pub containers: Vec<Container>,
    pub init_containers: Option<Vec<Container>>,
    pub node_selector: Option<BTreeMap<String, String>>,
    pub overhead: Option<BTreeMap<String, Quantity>>,
    pub preemption_policy: Option<String>,
    pub priority: Option<i32>,
    pub priority_class_name: Option<String>,
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
    #[serde(default, deserialize_with = "or_default")]
    pub name: String,
    pub image: Option<String>,
    pub ports: Option<Vec<ContainerPort>>,
    pub resources: Option<ResourceRequirements>,
    pub restart_policy: Option<String>,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct PodStatus {
    /// Only those of [`CONDITIONS`]; of a pod that failed all.
    pub conditions: Option<Vec<PodCondition>>,
    pub container_statuses: Option<Box<[ContainerStatus]>>,
    /// See [`Pod::exits`]. A pointer, for most pods have none.
    pub exits: Option<Box<Exits>>,
    /// Of all init containers together.
    pub init_restarts: i32,
    pub nominated_node_name: Option<String>,
    pub phase: Option<String>,
    pub pod_ip: Option<String>,
    pub pod_ips: Option<Vec<PodIP>>,
    pub start_time: Option<Time>,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct ContainerStatus {
    pub restart_count: i32,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PodCondition {
    #[serde(rename = "type", default, deserialize_with = "or_default")]
    pub type_: String,
    #[serde(default, deserialize_with = "or_default")]
    pub status: String,
    pub reason: Option<String>,
    pub message: Option<String>,
    pub last_transition_time: Option<Time>,
    pub observed_generation: Option<i64>,
}

/// A condition as it should be; an empty text is none.
#[derive(Clone, Copy, Debug)]
pub struct Wanted<'a> {
    /// One of [`CONDITIONS`].
    pub kind: &'static str,
    pub status: &'static str,
    pub reason: &'static str,
    pub message: &'a str,
}

/// The conditions that a scheduler or a controller asks for. A running pod has five, of which the node reads and writes the others.
pub const CONDITIONS: [&str; 3] = ["DisruptionTarget", "PodScheduled", "Ready"];

impl Pod {
    /// When it became Ready, if it is.
    pub fn ready_since(&self) -> Option<Timestamp> {
        let ready = self.condition("Ready").filter(|condition| condition.status == "True")?;
        Some(ready.last_transition_time.as_ref().map_or(Timestamp::UNIX_EPOCH, |at| at.0))
    }

    /// It ran to its end.
    pub fn is_over(&self) -> bool {
        matches!(self.phase(), "Succeeded" | "Failed")
    }

    /// Neither over nor being deleted.
    pub fn is_active(&self) -> bool {
        !self.is_over() && self.metadata.deletion_timestamp.is_none()
    }

    /// How its containers ended that are not running now, init containers after the others; `state.terminated` of their statuses.
    pub fn exits(&self) -> &[Exit] {
        self.status.as_ref().and_then(|status| status.exits.as_deref()).map_or(&[], |exits| &exits.0)
    }

    pub fn phase(&self) -> &str {
        self.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or("Pending")
    }

    /// The first of its type, as upstream's `GetPodCondition`; of those that are kept.
    pub fn condition(&self, kind: &str) -> Option<&PodCondition> {
        self.status.as_ref()?.conditions.iter().flatten().find(|condition| condition.type_ == kind)
    }

    /// The condition to write, alone in a strategic merge patch; `None` if the pod says so already. Its time moves with its status only
    /// (upstream: `UpdatePodCondition`).
    pub fn changed_condition(&self, wanted: Wanted<'_>, now: Timestamp) -> Option<Value> {
        let same_status = self.condition(wanted.kind).filter(|have| have.status == wanted.status);
        let generation = self.metadata.generation;
        let is_said = |have: &PodCondition| {
            have.reason.as_deref().unwrap_or_default() == wanted.reason
                && have.message.as_deref().unwrap_or_default() == wanted.message
                && (generation.is_none() || have.observed_generation == generation)
        };
        if same_status.is_some_and(is_said) {
            return None;
        }
        let since = same_status.and_then(|have| have.last_transition_time.as_ref()).map_or(now, |at| at.0);
        // Null takes away what stood there.
        let text = |text: &str| if text.is_empty() { Value::Null } else { text.into() };
        let mut out = json!({
            "type": wanted.kind, "status": wanted.status, "reason": text(wanted.reason), "message": text(wanted.message),
            "lastProbeTime": null, "lastTransitionTime": rfc3339(since),
        });
        if let Some(generation) = generation {
            out["observedGeneration"] = generation.into();
        }
        Some(out)
    }

    pub fn name_any(&self) -> String {
        self.metadata.name.clone().unwrap_or_default()
    }

    pub fn namespace(&self) -> Option<String> {
        self.metadata.namespace.clone()
    }

    pub fn uid(&self) -> Option<String> {
        self.metadata.uid.clone()
    }

    pub fn resource_version(&self) -> Option<String> {
        self.metadata.resource_version.clone()
    }

    pub fn annotations(&self) -> &BTreeMap<String, String> {
        self.metadata.annotations.as_ref().unwrap_or(&EMPTY)
    }

    pub fn labels(&self) -> &BTreeMap<String, String> {
        self.metadata.labels.as_ref().unwrap_or(&EMPTY)
    }
}

impl<'a> From<&'a PodMeta> for Meta<'a> {
    fn from(of: &'a PodMeta) -> Self {
        Self {
            name: of.name.as_deref().unwrap_or_default(),
            namespace: of.namespace.as_deref().unwrap_or_default(),
            uid: of.uid.as_deref(),
            resource_version: of.resource_version.as_deref(),
            generation: of.generation,
            is_deleting: of.deletion_timestamp.is_some(),
            labels: of.labels.as_ref(),
            owner_references: of.owner_references.as_deref().unwrap_or_default(),
            finalizers: of.finalizers.as_deref().unwrap_or_default(),
        }
    }
}

impl Deref for PodMeta {
    type Target = SharedMeta;

    fn deref(&self) -> &SharedMeta {
        &self.shared
    }
}

impl Deref for PodSpec {
    type Target = PodTemplateFields;

    fn deref(&self) -> &PodTemplateFields {
        &self.template
    }
}

impl Pooled for PodTemplateFields {
    fn pool() -> &'static Pool<Self> {
        static POOL: Pool<PodTemplateFields> = Pool::new();
        &POOL
    }
}

impl Pooled for SharedMeta {
    fn pool() -> &'static Pool<Self> {
        static POOL: Pool<SharedMeta> = Pool::new();
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
struct WireMeta {
    name: Option<String>,
    namespace: Option<String>,
    uid: Option<String>,
    resource_version: Option<String>,
    generation: Option<i64>,
    creation_timestamp: Option<Time>,
    deletion_timestamp: Option<Time>,
    deletion_grace_period_seconds: Option<i64>,
    finalizers: Option<Vec<String>>,
    #[serde(default, deserialize_with = "annotations")]
    annotations: Option<BTreeMap<String, String>>,
    labels: Option<BTreeMap<String, String>>,
    owner_references: Option<Vec<OwnerReference>>,
}

impl From<WireMeta> for PodMeta {
    fn from(meta: WireMeta) -> Self {
        Self {
            name: meta.name,
            namespace: meta.namespace,
            uid: meta.uid,
            resource_version: meta.resource_version,
            generation: meta.generation,
            creation_timestamp: meta.creation_timestamp,
            deletion_timestamp: meta.deletion_timestamp,
            finalizers: meta.finalizers,
            annotations: meta.annotations,
            shared: Shared::new(SharedMeta {
                labels: meta.labels,
                owner_references: meta.owner_references,
                deletion_grace_period_seconds: meta.deletion_grace_period_seconds,
            }),
        }
    }
}

/// As it is on the wire.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Spec {
    active_deadline_seconds: Option<i64>,
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
    priority_class_name: Option<String>,
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
        let template = PodTemplateFields {
            active_deadline_seconds: spec.active_deadline_seconds,
            containers: spec.containers,
            init_containers: spec.init_containers,
            node_selector: spec.node_selector,
            overhead: spec.overhead,
            preemption_policy: spec.preemption_policy,
            priority: spec.priority,
            priority_class_name: spec.priority_class_name,
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
            template: Shared::new(template),
        }
    }
}

fn placed(volumes: Vec<Volume>) -> Option<Vec<Volume>> {
    let placed: Vec<Volume> = volumes.into_iter().filter(|volume| !volume.is_anywhere()).collect();
    (!placed.is_empty()).then(|| placed.into_boxed_slice().into_vec())
}

fn annotations<'de, D: Deserializer<'de>>(from: D) -> Result<Option<BTreeMap<String, String>>, D::Error> {
    let mut all = Option::<BTreeMap<String, String>>::deserialize(from)?;
    if let Some(all) = &mut all {
        all.remove(LAST_APPLIED);
    }
    Ok(all.filter(|all| !all.is_empty()))
}

/// Null is as good as absent.
fn or_default<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(from: D) -> Result<T, D::Error> {
    Ok(Option::deserialize(from)?.unwrap_or_default())
}

#[cfg(test)]
mod tests;
