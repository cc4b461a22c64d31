//! What the loop sets going and does not wait for: inspections, workers, requests. Each answers with one event.

use std::{sync::Arc, time::Duration};

use api::{Key, faults::catch_all, k8s::api::core::v1::Pod, task::Group};
use tokio::sync::mpsc;
use tracing::Instrument;

use crate::{
    meta,
    metrics::STATUS_SYNC,
    pods::{
        desired::mirror::Touch,
        event::Event,
        plan::{Call, outcome::Outcome},
        recorder::PodRecorder,
        runtime_state::pod::{self as runtime, RuntimePod},
        status::{
            api_calls::{self, Answer},
            api_pod::Write,
        },
        workers::{self, Deps, Work},
    },
};

/// After the runtime did not answer.
const LOOK_RETRY: Duration = Duration::from_secs(1);
/// After an API call for a pod failed.
const API_RETRY: Duration = Duration::from_secs(2);
const MIRROR_RETRY: Duration = Duration::from_secs(5);

/// Where tasks run and what they answer to.
pub struct Tasks {
    deps: Arc<Deps>,
    group: Group,
    events: mpsc::Sender<Event>,
}

impl Tasks {
    pub fn new(deps: Arc<Deps>, group: Group, events: mpsc::Sender<Event>) -> Self {
        Self { deps, group, events }
    }

    /// Looks at all that the runtime has of a pod, after `pause`.
    pub fn look(&self, uid: &str, pause: Duration) {
        let (deps, events, uid) = (self.deps.clone(), self.events.clone(), uid.to_owned());
        self.group.spawn(Box::pin(async move {
            tokio::time::sleep(pause).await;
            let seen = catch_all("pods", runtime::inspect(&deps.runtime, &uid)).await;
            let seen = seen.map_err(|panic| tracing::error!(uid, error = %panic, "pod inspection panicked")).ok();
            let seen = seen.and_then(|seen| seen.map_err(|error| tracing::warn!(uid, %error, "runtime did not report the pod")).ok());
            if seen.is_none() {
                tokio::time::sleep(LOOK_RETRY).await;
            }
            let _ = events.send(Event::Inspected { uid, seen }).await;
        }));
    }

    /// Makes a pod's calls. Stopping `group` gives them up: nothing is answered then.
    pub fn work(&self, group: &Group, serial: u64, pod: Arc<Pod>, runtime: Arc<RuntimePod>, calls: Vec<Call>, tell: PodRecorder) {
        let events = self.events.clone();
        let uid = pod.metadata.uid.clone().unwrap_or_default();
        let span = tracing::debug_span!("pod", ns = meta::namespace(&pod), name = meta::name(&pod), uid);
        let work = Work { deps: self.deps.clone(), pod, runtime, tell, events: self.events.clone() };
        group.spawn(Box::pin(async move {
            let outcomes = catch_all("pods", workers::run(&work, calls)).instrument(span).await;
            let outcomes = outcomes.unwrap_or_else(|panic| vec![Outcome::Failed { error: panic.to_string() }]);
            let _ = events.send(Event::WorkerDone { uid, serial, outcomes }).await;
        }));
    }

    pub fn write(&self, uid: &str, write: Write) {
        let (deps, events, uid) = (self.deps.clone(), self.events.clone(), uid.to_owned());
        self.group.spawn(Box::pin(async move {
            let Write { pod, status, changes } = write;
            let answer = deps.metrics.timed(STATUS_SYNC, "", api_calls::patch_status(&deps.client, &pod, changes));
            let answer = catch_all("pods", answer).await.unwrap_or(Answer::Failed);
            if matches!(answer, Answer::Failed) {
                tokio::time::sleep(API_RETRY).await;
            }
            let _ = events.send(Event::StatusWritten { uid, status, answer }).await;
        }));
    }

    pub fn delete(&self, uid: &str, pod: Arc<Pod>) {
        let (client, events, uid) = (self.deps.client.clone(), self.events.clone(), uid.to_owned());
        self.group.spawn(Box::pin(async move {
            let answer = catch_all("pods", api_calls::delete(&client, &pod)).await.unwrap_or(Answer::Failed);
            if matches!(answer, Answer::Failed) {
                tokio::time::sleep(API_RETRY).await;
            }
            let _ = events.send(Event::PodDeleted { uid, answer }).await;
        }));
    }

    pub fn touch(&self, key: Key, touch: Touch) {
        let (deps, events) = (self.deps.clone(), self.events.clone());
        self.group.spawn(Box::pin(async move {
            let node_name = &deps.node.node_name;
            let node_uid = deps.nodes.get(&Key::new("", node_name)).and_then(|n| n.metadata.uid.clone());
            let answer = catch_all("pods", touch.carry_out(&deps.client, node_name, node_uid)).await.unwrap_or(Answer::Failed);
            if touch.is_to_wait(&answer) {
                tokio::time::sleep(MIRROR_RETRY).await;
            }
            let _ = events.send(Event::MirrorTouched { key, answer }).await;
        }));
    }

    /// What runs for the loop.
    pub fn group(&self) -> &Group {
        &self.group
    }
}
