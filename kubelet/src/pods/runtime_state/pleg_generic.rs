//! The runtime's lists -> which pods changed.
//!
//! Upstream: `pkg/kubelet/pleg/generic.go`.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use cri::{ListContainersRequest, ListPodSandboxRequest, Runtime};

use super::pod::{RuntimePod, State};
use crate::labels;

/// One pod's parts and their states; differs whenever there is something new to look at.
pub type Fingerprint = BTreeSet<(String, i32)>;

/// One pod as the lists show it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Listed {
    pub namespace: String,
    pub name: String,
    pub parts: Fingerprint,
}

pub type Listing = BTreeMap<String, Listed>;

/// All pods of the runtime.
pub async fn list(runtime: &Runtime) -> cri::Result<Listing> {
    let sandboxes = runtime.list_pod_sandbox(ListPodSandboxRequest::default());
    let containers = runtime.list_containers(ListContainersRequest::default());
    let (sandboxes, containers) = tokio::try_join!(sandboxes, containers)?;
    let mut listing = Listing::new();
    for sandbox in sandboxes.items {
        add(&mut listing, &sandbox.labels, (sandbox.id, sandbox.state));
    }
    for container in containers.containers {
        add(&mut listing, &container.labels, (container.id, container.state));
    }
    Ok(listing)
}

/// What a look at the pod says, in the lists' terms.
pub fn fingerprint(pod: &RuntimePod) -> Fingerprint {
    let sandboxes = pod.sandboxes.iter().map(|s| (s.id.clone(), i32::from(!s.ready)));
    let containers = pod.containers.iter().map(|c| (c.id.clone(), number(&c.state)));
    sandboxes.chain(containers).collect()
}

fn number(state: &State) -> i32 {
    let state = match state {
        State::Created => cri::ContainerState::ContainerCreated,
        State::Running { .. } => cri::ContainerState::ContainerRunning,
        State::Exited(_) => cri::ContainerState::ContainerExited,
        State::Unknown => cri::ContainerState::ContainerUnknown,
    };
    state.into()
}

/// What has no uid is not ours.
fn add(listing: &mut Listing, labels: &HashMap<String, String>, part: (String, i32)) {
    let Some(uid) = labels.get(labels::POD_UID).filter(|uid| !uid.is_empty()) else { return };
    let listed = listing.entry(uid.clone()).or_default();
    let label = |key: &str| labels.get(key).cloned().unwrap_or_default();
    (listed.namespace, listed.name) = (label(labels::POD_NAMESPACE), label(labels::POD_NAME));
    listed.parts.insert(part);
}
