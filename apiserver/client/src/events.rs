//! Something worth telling -> an Event object, counted instead of repeated.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
};

use api::{
    k8s::{
        api::core::v1::{Event, EventSource, ObjectReference},
        apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time},
    },
    task::Group,
    time::Timestamp,
};
use kube::{
    Api, Client,
    api::{Patch, PatchParams, PostParams},
};
use serde_json::json;
use tokio::sync::mpsc;

/// Events that wait to be written; more are dropped with a log line: telling must not hold up doing.
const QUEUE_MAX: usize = 1024;
/// Distinct events that are remembered for counting.
const REMEMBERED_MAX: usize = 512;

/// Records core/v1 Events for one component. Cloning shares the queue.
///
/// The same event (object, type, reason, message) again raises `count` and `lastTimestamp` of the first, as client-go's
/// `tools/record/events_cache.go` does.
#[derive(Clone)]
pub struct Recorder {
    queue: mpsc::Sender<Told>,
    source: Arc<EventSource>,
}

struct Told {
    regarding: ObjectReference,
    kind: &'static str,
    reason: String,
    message: String,
    source: Arc<EventSource>,
    at: Timestamp,
}

#[derive(Default)]
struct Remembered {
    seen: HashMap<String, (String, i32)>,
    order: VecDeque<String>,
}

impl Recorder {
    /// `component` as in upstream's events (`kubelet`, `default-scheduler`, `deployment-controller`); `host` is the node's name, where one matters.
    pub fn new(client: Client, component: &str, host: Option<&str>, group: &Group) -> Self {
        let (queue, receiver) = mpsc::channel(QUEUE_MAX);
        group.spawn(Box::pin(write_all(client, receiver)));
        let source = EventSource { component: Some(component.into()), host: host.map(Into::into) };
        Self { queue, source: Arc::new(source) }
    }

    /// A `Normal` event.
    pub fn normal(&self, regarding: &ObjectReference, reason: &str, message: impl Into<String>) {
        self.tell(regarding, "Normal", reason, message.into());
    }

    /// A `Warning` event.
    pub fn warning(&self, regarding: &ObjectReference, reason: &str, message: impl Into<String>) {
        self.tell(regarding, "Warning", reason, message.into());
    }

    fn tell(&self, regarding: &ObjectReference, kind: &'static str, reason: &str, mut message: String) {
        // Upstream's API refuses more than 1024 bytes.
        truncate(&mut message, 1024);
        let told =
            Told { regarding: regarding.clone(), kind, reason: reason.into(), message, source: self.source.clone(), at: Timestamp::now() };
        if self.queue.try_send(told).is_err() {
            tracing::warn!(reason, "event dropped: the queue is full");
        }
    }
}

async fn write_all(client: Client, mut queue: mpsc::Receiver<Told>) {
    let mut remembered = Remembered::default();
    while let Some(told) = queue.recv().await {
        match write(&client, &mut remembered, &told).await {
            Ok(()) => {}
            // Its namespace goes or is gone, and the event with it.
            Err(kube::Error::Api(status)) if status.code == 404 || is_terminating(&status) => {
                tracing::debug!(reason = told.reason, error = status.message, "event not written");
            }
            Err(kube::Error::Api(status)) => tracing::warn!(reason = told.reason, error = status.message, "event not written"),
            Err(error) => tracing::warn!(reason = told.reason, %error, "event not written"),
        }
    }
}

fn is_terminating(status: &kube::core::Status) -> bool {
    status.details.iter().flat_map(|d| &d.causes).any(|c| c.reason == "NamespaceTerminating")
}

async fn write(client: &Client, remembered: &mut Remembered, told: &Told) -> Result<(), kube::Error> {
    let namespace = told.regarding.namespace.clone().filter(|n| !n.is_empty()).unwrap_or_else(|| "default".into());
    let events: Api<Event> = Api::namespaced(client.clone(), &namespace);
    let digest = told.digest();
    if let Some((name, count)) = remembered.again(&digest) {
        let patch = json!({"count": count, "lastTimestamp": Time(told.at)});
        match events.patch(&name, &PatchParams::default(), &Patch::Merge(patch)).await {
            Err(kube::Error::Api(status)) if status.code == 404 => remembered.forget(&digest),
            done => return done.map(drop),
        }
    }
    let event = told.event(&namespace);
    let name = event.metadata.name.clone().unwrap_or_default();
    events.create(&PostParams::default(), &event).await?;
    remembered.remember(digest, name);
    Ok(())
}

impl Told {
    fn digest(&self) -> String {
        let r = &self.regarding;
        let parts = [&r.kind, &r.namespace, &r.name, &r.uid, &r.field_path].map(|p| p.as_deref().unwrap_or(""));
        format!("{}|{}|{}|{}", parts.join("|"), self.kind, self.reason, self.message)
    }

    fn event(&self, namespace: &str) -> Event {
        let name = self.regarding.name.as_deref().unwrap_or("unknown");
        let at = Some(Time(self.at));
        Event {
            metadata: ObjectMeta {
                name: Some(format!("{name}.{:x}", self.at.as_nanosecond())),
                namespace: Some(namespace.into()),
                ..ObjectMeta::default()
            },
            involved_object: self.regarding.clone(),
            reason: Some(self.reason.clone()),
            message: Some(self.message.clone()),
            type_: Some(self.kind.into()),
            source: Some((*self.source).clone()),
            reporting_component: self.source.component.clone(),
            reporting_instance: self.source.host.clone(),
            count: Some(1),
            first_timestamp: at.clone(),
            last_timestamp: at,
            ..Event::default()
        }
    }
}

impl Remembered {
    /// The event's name and its new count, if it was told before.
    fn again(&mut self, digest: &str) -> Option<(String, i32)> {
        let (name, count) = self.seen.get_mut(digest)?;
        *count = count.saturating_add(1);
        Some((name.clone(), *count))
    }

    fn remember(&mut self, digest: String, name: String) {
        self.seen.insert(digest.clone(), (name, 1));
        self.order.push_back(digest);
        if self.order.len() > REMEMBERED_MAX
            && let Some(oldest) = self.order.pop_front()
        {
            self.seen.remove(&oldest);
        }
    }

    fn forget(&mut self, digest: &str) {
        self.seen.remove(digest);
        self.order.retain(|d| d != digest);
    }
}

fn truncate(text: &mut String, max: usize) {
    if text.len() > max {
        let end = (0..=max).rev().find(|i| text.is_char_boundary(*i)).unwrap_or(0);
        text.truncate(end);
    }
}
