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

/// What the loop is told.
pub enum Event {
    /// What is in the directory of static pods, all of it.
    Manifests(Vec<Arc<Pod>>),
    /// The runtime's pods, all of them.
    Listed(Listing),
    /// Something in the runtime ended.
    Told(TaskEvent),
    Looked {
        uid: String,
        seen: Option<RuntimePod>,
    },
    /// A worker that goes on has started one of several.
    Made {
        uid: String,
        container: Box<Container>,
    },
    Worked {
        uid: String,
        serial: u64,
        outcomes: Vec<Outcome>,
    },
    Wrote {
        uid: String,
        status: Arc<PodStatus>,
        answer: Answer,
    },
    Deleted {
        uid: String,
        answer: Answer,
    },
    MirrorTouched {
        key: Key,
        answer: Answer,
    },
}
