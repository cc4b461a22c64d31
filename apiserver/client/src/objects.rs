//! The types that rooms read: each is read by code that is made here, once.
//!
//! What reads a type is large (a pod's is some 200 KB, and twice that with [`crate::lenient`]); left generic, it would be made again in each room.

use std::fmt::Debug;

use api::k8s::api::{
    apps::v1::{Deployment, ReplicaSet},
    coordination::v1::Lease,
    core::v1::{ConfigMap, Endpoints, Namespace, Node, Pod, ReplicationController, Secret, Service, ServiceAccount},
    discovery::v1::EndpointSlice,
    policy::v1::PodDisruptionBudget,
    rbac::v1::ClusterRole,
};
use kube::Resource;

use crate::{
    lenient::{Seen, decode},
    pods,
};

/// What can be cached and read: a k8s-openapi type that is served as a collection, or what is read of one ([`crate::pods`]).
pub trait Object: Resource<DynamicType = ()> + Clone + Debug + Send + Sync + 'static {
    /// Reads one, as [`decode`] does.
    ///
    /// # Errors
    /// Where not even its name can be read.
    fn read(json: &[u8]) -> serde_json::Result<Seen<Self>>;
}

macro_rules! objects {
    ($($object:ty),* $(,)?) => {
        $(impl Object for $object {
            fn read(json: &[u8]) -> serde_json::Result<Seen<Self>> {
                decode(json)
            }
        })*
    };
}

objects![
    ClusterRole,
    ConfigMap,
    Deployment,
    Endpoints,
    EndpointSlice,
    Lease,
    Namespace,
    Node,
    Pod,
    pods::Pod,
    PodDisruptionBudget,
    ReplicaSet,
    ReplicationController,
    Secret,
    Service,
    ServiceAccount,
];
