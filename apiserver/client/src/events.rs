//! Something worth telling -> an Event object, counted instead of repeated.

mod correlate;

use std::{
    collections::{HashMap, hash_map::Entry},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use api::{
    k8s::{
        api::core::v1::{Event, EventSource, ObjectReference},
        apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time},
    },
    task::Group,
    time::Timestamp,
};
use futures::{StreamExt, stream::FuturesUnordered};
use kube::{
    Api, Client,
    api::{Patch, PatchParams, PostParams},
};
use parking_lot::Mutex;
use serde_json::json;
use tokio::sync::mpsc;

use correlate::{Correlator, Write};

/// Events that wait to be written; more are dropped with a log line (client-go holds 1,000): telling must not hold up doing.
const QUEUE_MAX: usize = 1024;
/// Events of one component that are being written at the same time.
const AT_ONCE_MAX: usize = 16;
const WRITE_BOUND: Duration = Duration::from_secs(30);

/// Records core/v1 Events for one component. Cloning shares the queue.
///
/// The same event (object, type, reason, message) again raises `count` and `lastTimestamp` of the first; the tenth message of one object and
/// reason, and those after it, become one event; a component tells 25 events about an object, and then one in five minutes
/// (client-go's `tools/record/events_cache.go`).
#[derive(Clone)]
pub struct Recorder {
    queue: mpsc::Sender<Write>,
    correlator: Arc<Mutex<Correlator>>,
    /// The last event was dropped: that is said once, not for each.
    full: Arc<AtomicBool>,
    source: Arc<EventSource>,
}

#[derive(Debug)]
struct Told {
    regarding: ObjectReference,
    kind: &'static str,
    reason: String,
    message: String,
    source: Arc<EventSource>,
    at: Timestamp,
}

impl Recorder {
    /// `component` as in upstream's events (`kubelet`, `default-scheduler`, `deployment-controller`); `host` is the node's name, where one matters.
    pub fn new(client: Client, component: &str, host: Option<&str>, group: &Group) -> Self {
        let (queue, receiver) = mpsc::channel(QUEUE_MAX);
        group.spawn(Box::pin(write_all(client, receiver)));
        let source = EventSource { component: Some(component.into()), host: host.map(Into::into) };
        Self { queue, correlator: Arc::default(), full: Arc::default(), source: Arc::new(source) }
    }

    /// A `Normal` event.
    pub fn normal(&self, regarding: &ObjectReference, reason: &str, message: impl Into<String>) {
        self.tell(regarding, "Normal", reason, message.into());
    }

    /// A `Warning` event.
    pub fn warning(&self, regarding: &ObjectReference, reason: &str, message: impl Into<String>) {
        self.tell(regarding, "Warning", reason, message.into());
    }

    fn tell(&self, regarding: &ObjectReference, kind: &'static str, reason: &str, message: String) {
        let told =
            Told { regarding: regarding.clone(), kind, reason: reason.into(), message, source: self.source.clone(), at: Timestamp::now() };
        let Some(mut write) = self.correlator.lock().correlate(told) else { return };
        // Upstream's API refuses more than 1024 bytes.
        truncate(&mut write.told.message, 1024);
        let dropped = self.queue.try_send(write).is_err();
        if dropped && !self.full.swap(dropped, Ordering::Relaxed) {
            tracing::warn!(reason, "events dropped: the queue is full");
        }
        self.full.store(dropped, Ordering::Relaxed);
    }
}

async fn write_all(client: Client, mut queue: mpsc::Receiver<Write>) {
    let mut running = FuturesUnordered::new();
    // Events that are being written, and what there is to write of the same one afterwards: the newest says it all.
    let mut busy: HashMap<u64, Option<Write>> = HashMap::new();
    let mut open = true;
    loop {
        tokio::select! {
            next = queue.recv(), if open && running.len() < AT_ONCE_MAX => match next {
                None => open = false,
                Some(write) => match busy.entry(write.key) {
                    Entry::Occupied(mut waiting) => drop(waiting.insert(Some(write))),
                    Entry::Vacant(free) => {
                        free.insert(None);
                        running.push(one(&client, write));
                    }
                },
            },
            Some(key) = running.next() => {
                if let Some(write) = busy.remove(&key).flatten() {
                    busy.insert(key, None);
                    running.push(one(&client, write));
                }
            }
            else => return,
        }
    }
}

/// Writes one event; its key.
async fn one(client: &Client, write: Write) -> u64 {
    let reason = &write.told.reason;
    match tokio::time::timeout(WRITE_BOUND, Box::pin(write.write(client))).await {
        Ok(Ok(())) => {}
        // Its namespace goes or is gone, and the event with it.
        Ok(Err(kube::Error::Api(status))) if status.code == 404 || is_terminating(&status) => {
            tracing::debug!(reason, error = status.message, "event not written");
        }
        Ok(Err(kube::Error::Api(status))) => tracing::warn!(reason, error = status.message, "event not written"),
        Ok(Err(error)) => tracing::warn!(reason, %error, "event not written"),
        Err(_) => tracing::warn!(reason, "event not written in time"),
    }
    write.key
}

fn is_terminating(status: &kube::core::Status) -> bool {
    status.details.iter().flat_map(|d| &d.causes).any(|c| c.reason == "NamespaceTerminating")
}

impl Write {
    async fn write(&self, client: &Client) -> Result<(), kube::Error> {
        let namespace = self.told.regarding.namespace.as_deref().filter(|n| !n.is_empty()).unwrap_or("default");
        let events: Api<Event> = Api::namespaced(client.clone(), namespace);
        if self.count > 1 {
            let patch = json!({"count": self.count, "lastTimestamp": Time(self.told.at), "message": self.told.message});
            match events.patch(&self.name, &PatchParams::default(), &Patch::Merge(patch)).await {
                // Its time was up: it begins anew.
                Err(kube::Error::Api(status)) if status.code == 404 => {}
                done => return done.map(drop),
            }
        }
        events.create(&PostParams::default(), &self.event(namespace)).await.map(drop)
    }

    fn event(&self, namespace: &str) -> Event {
        let told = &self.told;
        let at = Some(Time(told.at));
        Event {
            metadata: ObjectMeta { name: Some(self.name.clone()), namespace: Some(namespace.into()), ..ObjectMeta::default() },
            involved_object: told.regarding.clone(),
            reason: Some(told.reason.clone()),
            message: Some(told.message.clone()),
            type_: Some(told.kind.into()),
            source: Some((*told.source).clone()),
            reporting_component: told.source.component.clone(),
            reporting_instance: told.source.host.clone(),
            count: Some(self.count),
            first_timestamp: at.clone(),
            last_timestamp: at,
            ..Event::default()
        }
    }
}

impl Told {
    /// Of an event that is made for this.
    fn fresh_name(&self) -> String {
        format!("{}.{:x}", self.regarding.name.as_deref().unwrap_or("unknown"), self.at.as_nanosecond())
    }
}

fn truncate(text: &mut String, max: usize) {
    if text.len() > max {
        let end = (0..=max).rev().find(|i| text.is_char_boundary(*i)).unwrap_or(0);
        text.truncate(end);
    }
}
