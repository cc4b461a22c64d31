//! Nodes and pods -> placements, without an API server: the same state and plans as in a cluster. For `benches/cost.rs`.

use std::sync::Arc;

use api::{
    k8s::api::core::v1::{Namespace, Node},
    selector::Labels,
};
use client::pods::Pod;
use tokio::time::Instant;

use crate::{
    plan::Nomination,
    state::{State, Todo},
};

/// The scheduler's mind alone. Time stands still but for [`Offline::decide`]'s argument.
#[derive(Default)]
pub struct Offline(State);

/// What was decided about one pod.
#[derive(Debug)]
pub enum Decision {
    Bound {
        pod: Arc<Pod>,
        node: String,
    },
    Refused {
        pod: Arc<Pod>,
        message: String,
    },
    /// The victims have to go first.
    Preempts {
        pod: Arc<Pod>,
        node: String,
        victims: Vec<Arc<Pod>>,
    },
}

impl Offline {
    pub fn node(&mut self, old: Option<&Arc<Node>>, new: Option<&Arc<Node>>) {
        self.0.node_changed(old, new);
    }

    pub fn pod(&mut self, old: Option<&Arc<Pod>>, new: Option<&Arc<Pod>>) {
        self.0.pod_changed(old, new);
    }

    pub fn namespace(&mut self, namespace: &Namespace) {
        let labels = namespace.metadata.labels.clone().unwrap_or_default();
        self.0.snapshot.set_namespace(namespace.metadata.name.as_deref().unwrap_or(""), Some(&labels));
    }

    /// Decides about the next pod; `None` if none is due. `siblings` selects the pods that the pod's services and its controller select.
    pub fn decide(&mut self, now: Instant, siblings: Option<Labels>, random: u64) -> Option<Decision> {
        Some(match self.0.next(now, |_| siblings.clone(), random)? {
            Todo::Bind(binding) => Decision::Bound { pod: binding.tried.info.pod.clone(), node: binding.node },
            Todo::Fail(info, _, message) => Decision::Refused { pod: info.pod.clone(), message },
            Todo::Skip(info) => Decision::Refused { pod: info.pod.clone(), message: "it is being deleted".into() },
            Todo::Unschedulable(info, refused) => match refused.nomination {
                Nomination::Preempt(preemption) => {
                    self.0.queue.preempted(&info.key, Ok(()), now);
                    let victims = preemption.victims.iter().map(|v| v.pod.clone()).collect();
                    Decision::Preempts { pod: info.pod.clone(), node: preemption.node, victims }
                }
                _ => Decision::Refused { pod: info.pod.clone(), message: refused.message },
            },
        })
    }
}
