//! All that can happen to this node's pods, beside changes of API objects, probe results and time.

use std::sync::Arc;

use api::{
    Key,
    k8s::api::core::v1::{Pod, PodStatus},
};
use cri::TaskEvent;

use super::{
    plan::outcome::Outcome,
    runtime_state::{
        pleg_generic::Listing,
        pod::{Container, RuntimePod},
    },
    status::api_calls::Answer,
};

/// What the sync loop reacts to.
pub enum Event {
    /// What is in the directory of static pods, all of it.
    Manifests(Vec<Arc<Pod>>),
    /// The runtime's pods, all of them.
    Listed(Listing),
    /// Something in the runtime ended.
    Task(TaskEvent),
    /// A pod has more on this node's disk than it may have.
    Exceeded {
        uid: String,
        message: String,
    },
    Inspected {
        uid: String,
        seen: Option<RuntimePod>,
    },
    /// A worker that goes on has started one of several.
    ContainerStarted {
        uid: String,
        container: Box<Container>,
    },
    WorkerDone {
        uid: String,
        serial: u64,
        outcomes: Vec<Outcome>,
    },
    StatusWritten {
        uid: String,
        status: Arc<PodStatus>,
        answer: Answer,
    },
    PodDeleted {
        uid: String,
        answer: Answer,
    },
    MirrorTouched {
        key: Key,
        answer: Answer,
    },
}
