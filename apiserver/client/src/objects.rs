//! The types that rooms read: each is read by code that is made here, once.
//!
//! What reads a type is large (a pod's is some 200 KB, and twice that with [`crate::lenient`]); left generic, it would be made again in each room.

use std::{collections::BTreeMap, fmt::Debug};

use api::{
    Key,
    k8s::{
        api::{
            apps::v1::{ControllerRevision, DaemonSet, Deployment, ReplicaSet, StatefulSet},
            autoscaling::v2::HorizontalPodAutoscaler,
            batch::v1::{CronJob, Job},
            certificates::v1::CertificateSigningRequest,
            coordination::v1::Lease,
            core::v1::{
                ConfigMap, Endpoints, Namespace, Node, PersistentVolume, PersistentVolumeClaim, Pod, ReplicationController, ResourceQuota,
                Secret, Service, ServiceAccount,
            },
            discovery::v1::EndpointSlice,
            networking::v1::{IPAddress, ServiceCIDR},
            node::v1::RuntimeClass,
            policy::v1::PodDisruptionBudget,
            rbac::v1::ClusterRole,
            storage::v1::{CSIDriver, CSINode, CSIStorageCapacity, StorageClass, VolumeAttachment, VolumeAttributesClass},
        },
        apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference},
    },
};
use kube::Resource;

use crate::{
    lenient::{Seen, decode},
    pods,
};

/// What can be cached and read: a k8s-openapi type that is served as a collection, or what is read of one ([`crate::pods`]).
pub trait Object: Clone + Debug + Send + Sync + 'static {
    /// The type that says which collection it is of.
    type Served: Resource<DynamicType = ()>;

    /// Reads one, as [`decode`] does.
    ///
    /// # Errors
    /// Where not even its name can be read.
    fn read(json: &[u8]) -> serde_json::Result<Seen<Self>>;

    /// As `meta.Accessor` of apimachinery.
    fn object_meta(&self) -> Meta<'_>;

    /// Takes over the metadata of `other`.
    fn set_meta_of(&mut self, other: &Self);
}

/// What rooms read of the metadata of an object of any kind.
#[derive(Clone, Copy, Debug, Default)]
pub struct Meta<'a> {
    pub name: &'a str,
    /// Empty where the kind has no namespaces.
    pub namespace: &'a str,
    pub uid: Option<&'a str>,
    pub resource_version: Option<&'a str>,
    pub generation: Option<i64>,
    pub is_deleting: bool,
    pub labels: Option<&'a BTreeMap<String, String>>,
    pub owner_references: &'a [OwnerReference],
    pub finalizers: &'a [String],
}

impl<'a> From<&'a ObjectMeta> for Meta<'a> {
    fn from(of: &'a ObjectMeta) -> Self {
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

impl<'a> Meta<'a> {
    pub fn key(&self) -> Key {
        Key::new(self.namespace, self.name)
    }

    /// Namespace and name: what objects of one kind are found and ordered by.
    pub fn full_name(&self) -> (&'a str, &'a str) {
        (self.namespace, self.name)
    }

    /// The owner reference that says `controller: true`.
    pub fn controller(&self) -> Option<&'a OwnerReference> {
        self.owner_references.iter().find(|reference| reference.controller == Some(true))
    }
}

/// Metadata that may say who owns which field.
trait Managed {
    fn forget_managers(&mut self);
}

impl Managed for ObjectMeta {
    fn forget_managers(&mut self) {
        self.managed_fields = None;
    }
}

/// It has never heard of them.
impl Managed for pods::PodMeta {
    fn forget_managers(&mut self) {}
}

macro_rules! objects {
    ($($object:ty => $served:ty),* $(,)?) => {
        $(impl Object for $object {
            type Served = $served;

            fn read(json: &[u8]) -> serde_json::Result<Seen<Self>> {
                let mut seen = decode::<Self>(json)?;
                // Nobody reads who owns which field, and what is written without says nothing of it.
                seen.object.metadata.forget_managers();
                Ok(seen)
            }

            fn object_meta(&self) -> Meta<'_> {
                (&self.metadata).into()
            }

            fn set_meta_of(&mut self, other: &Self) {
                self.metadata.clone_from(&other.metadata);
            }
        })*
    };
}

objects![
    CSIDriver => CSIDriver,
    CSINode => CSINode,
    CSIStorageCapacity => CSIStorageCapacity,
    CertificateSigningRequest => CertificateSigningRequest,
    ClusterRole => ClusterRole,
    ConfigMap => ConfigMap,
    ControllerRevision => ControllerRevision,
    CronJob => CronJob,
    HorizontalPodAutoscaler => HorizontalPodAutoscaler,
    DaemonSet => DaemonSet,
    Deployment => Deployment,
    Endpoints => Endpoints,
    EndpointSlice => EndpointSlice,
    IPAddress => IPAddress,
    Job => Job,
    Lease => Lease,
    Namespace => Namespace,
    Node => Node,
    PersistentVolume => PersistentVolume,
    PersistentVolumeClaim => PersistentVolumeClaim,
    Pod => Pod,
    PodDisruptionBudget => PodDisruptionBudget,
    ReplicaSet => ReplicaSet,
    ReplicationController => ReplicationController,
    ResourceQuota => ResourceQuota,
    RuntimeClass => RuntimeClass,
    Secret => Secret,
    Service => Service,
    ServiceAccount => ServiceAccount,
    ServiceCIDR => ServiceCIDR,
    StatefulSet => StatefulSet,
    StorageClass => StorageClass,
    VolumeAttachment => VolumeAttachment,
    VolumeAttributesClass => VolumeAttributesClass,
    pods::Pod => Pod,
];
