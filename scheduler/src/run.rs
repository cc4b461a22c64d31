//! Changes in, bindings out: the loop around [`plan`].
//!
//! Caches' handlers and the loop share one locked state: a plan sees all changes up to it, and none falls between a plan and its result.

use std::sync::Arc;

use api::{
    Key,
    faults::catch_all,
    k8s::api::{
        core::v1::{Namespace, Node},
        policy::v1::PodDisruptionBudget,
    },
    task::Group,
    time::Timestamp,
};
use client::{
    Cache, Caches, Recorder, kube,
    pods::{Pod, Wanted},
};
use futures::{FutureExt, StreamExt, future::BoxFuture, stream::FuturesUnordered};
use parking_lot::Mutex;
use reconcile::own_key;
use serde_json::{Value, json};
use tokio::{sync::Notify, time::Instant};

use crate::{
    act::{Act, is_gone},
    framework::Change,
    plan::{Nomination, Refused},
    pod::{PodInfo, SCHEDULER, node_of},
    preemption::Preemption,
    queue::{Ended, Tried},
    siblings::Siblings,
    state::{State, Todo},
};

/// Writes (bindings and others) that are under way at the same time.
const IN_FLIGHT_MAX: usize = 64;

/// Binds pods in `group`. See [`crate::start`].
pub fn start(client: kube::Client, caches: &Caches, group: &Group) {
    let recorder = Recorder::new(client.clone(), SCHEDULER, None, group);
    let scheduler = Arc::new(Scheduler {
        act: Act { client },
        recorder,
        pods: caches.of(),
        budgets: caches.of(),
        siblings: Siblings::new(caches),
        state: Mutex::default(),
        woken: Notify::new(),
    });
    let (nodes, namespaces) = (caches.of(), caches.of());
    scheduler.clone().wire(&nodes, &namespaces);
    group.spawn_loop(SCHEDULER, Box::pin(scheduler.run(nodes, namespaces)));
}

struct Scheduler {
    act: Act,
    recorder: Recorder,
    pods: Cache<Pod>,
    budgets: Cache<PodDisruptionBudget>,
    siblings: Siblings,
    state: Mutex<State>,
    woken: Notify,
}

impl Scheduler {
    fn wire(self: Arc<Self>, nodes: &Cache<Node>, namespaces: &Cache<Namespace>) {
        let this = self.clone();
        namespaces.on_change(move |old, new| {
            let Some(name) = new.or(old).and_then(|n| n.metadata.name.clone()) else { return };
            let empty = std::collections::BTreeMap::new();
            let labels = new.map(|n| n.metadata.labels.as_ref().unwrap_or(&empty));
            this.state.lock().snapshot.set_namespace(&name, labels);
        });
        let this = self.clone();
        self.budgets.on_change(move |old, new| {
            let Some(meta) = new.or(old).map(|budget| &budget.metadata) else { return };
            let key = Key::new(meta.namespace.as_deref().unwrap_or(""), meta.name.as_deref().unwrap_or(""));
            this.state.lock().snapshot.budgets.set(&key, new.map(|budget| &**budget));
        });
        let this = self.clone();
        nodes.on_change(move |old, new| {
            this.state.lock().node_changed(old, new);
            this.woken.notify_one();
        });
        let this = self.clone();
        self.pods.on_change(move |old, new| {
            // What it asks for is not known: it takes what could be read of that where it is, and is not placed anew.
            let waits = new.filter(|pod| node_of(pod).is_none());
            if waits.is_some_and(|pod| this.pods.is_unreadable(&own_key(&**pod))) {
                this.state.lock().pod_changed(old, None);
                return;
            }
            this.state.lock().pod_changed(old, new);
            this.woken.notify_one();
        });
    }

    async fn run(self: Arc<Self>, nodes: Cache<Node>, namespaces: Cache<Namespace>) {
        tokio::join!(nodes.synced(), namespaces.synced(), self.pods.synced(), self.budgets.synced(), self.siblings.synced());
        let mut in_flight: FuturesUnordered<BoxFuture<'_, ()>> = FuturesUnordered::new();
        loop {
            while in_flight.len() < IN_FLIGHT_MAX
                && let Some(todo) = self.next()
            {
                in_flight.push(self.caught(todo).boxed());
            }
            let due = self.state.lock().queue.due().unwrap_or_else(|| Instant::now() + std::time::Duration::from_secs(3600));
            let full = in_flight.len() >= IN_FLIGHT_MAX;
            tokio::select! {
                Some(()) = in_flight.next() => {}
                () = self.woken.notified(), if !full => {}
                () = tokio::time::sleep_until(due), if !full => {}
            }
        }
    }

    fn next(&self) -> Option<Todo> {
        self.state.lock().next(Instant::now(), |pod| self.siblings.of(pod), rand::random())
    }

    /// A binding that panics counts as one that was refused.
    async fn caught(&self, todo: Todo) {
        let (bound, key) = match &todo {
            Todo::Bind(tried, _) => (Some(tried.clone()), tried.info.key.clone()),
            Todo::Tell(info, _) | Todo::Skip(info) => (None, info.key.clone()),
        };
        if let Err(panic) = catch_all(SCHEDULER, self.carry_out(todo)).await {
            tracing::error!(ns = key.namespace, name = key.name, error = %panic, "not carried out");
            if let Some(tried) = bound {
                self.back(tried);
            }
        }
    }

    async fn carry_out(&self, todo: Todo) {
        match todo {
            Todo::Bind(tried, node) => self.bind(tried, &node).await,
            Todo::Tell(info, refused) => self.tell(&info, *refused).await,
            Todo::Skip(info) => {
                let message = format!("skip schedule deleting pod: {}", info.key);
                self.recorder.warning(&reconcile::reference(&*info.pod), "FailedScheduling", message);
            }
        }
    }

    async fn bind(&self, tried: Tried, node: &str) {
        let info = &tried.info;
        match self.act.bind(info, node).await {
            Ok(()) => {
                let message = format!("Successfully assigned {} to {node}", info.key);
                self.recorder.normal(&reconcile::reference(&*info.pod), "Scheduled", message);
            }
            Err(error) => self.not_bound(tried, &error).await,
        }
    }

    async fn not_bound(&self, tried: Tried, error: &kube::Error) {
        let info = tried.info.clone();
        if !self.back(tried) || is_gone(error) {
            tracing::debug!(ns = info.key.namespace, name = info.key.name, %error, "pod not bound: it changed");
            return;
        }
        tracing::warn!(ns = info.key.namespace, name = info.key.name, %error, "pod not bound; trying again");
        let message = format!("running Bind plugin \"DefaultBinder\": {error}");
        self.say(&info, "SchedulerError", &message, Some(Value::Null)).await;
    }

    /// Takes the pod from where it was to be, and lets it wait again; false where it does not wait any more.
    fn back(&self, tried: Tried) -> bool {
        let (info, now) = (tried.info.clone(), Instant::now());
        let state = &mut *self.state.lock();
        // Not so if the cache showed meanwhile that it was bound after all.
        if state.snapshot.forget(&info) {
            state.queue.changed(&Change::PodGone(&info, None), now);
        }
        // Between: somebody else bound it, deleted it, or made another of the same name.
        let current = self.pods.get(&info.key).filter(|p| p.metadata.uid.as_deref() == Some(&info.uid) && node_of(p).is_none());
        if let Some(pod) = &current {
            state.queue.back(Tried { info: Arc::new(PodInfo::new(pod)), ..tried }, Ended::Failed, now);
        }
        self.woken.notify_one();
        current.is_some()
    }

    async fn tell(&self, info: &Arc<PodInfo>, refused: Refused) {
        let nominated = match &refused.nomination {
            Nomination::Keep => None,
            Nomination::Clear => info.nominated().map(|_| Value::Null),
            Nomination::Preempt(preemption) => Some(Value::from(preemption.node.as_str())),
        };
        self.say(info, "Unschedulable", &refused.message, nominated).await;
        if let Nomination::Preempt(preemption) = refused.nomination {
            let outcome = self.preempt(info, preemption).await;
            self.state.lock().queue.preempted(&info.key, outcome, Instant::now());
            self.woken.notify_one();
        }
    }

    /// The event and, where it changed, the status. `nominated` is the new `nominatedNodeName`, null to clear it.
    async fn say(&self, info: &PodInfo, reason: &'static str, message: &str, nominated: Option<Value>) {
        self.recorder.warning(&reconcile::reference(&*info.pod), "FailedScheduling", message);
        let wanted = Wanted { kind: "PodScheduled", status: "False", reason, message };
        let mut status = json!({});
        if let Some(condition) = info.pod.changed_condition(wanted, Timestamp::now()) {
            status["conditions"] = json!([condition]);
        }
        let old = info.nominated().map_or(Value::Null, Value::from);
        if let Some(node) = nominated.filter(|n| *n != old) {
            status["nominatedNodeName"] = node;
        }
        if status.as_object().is_none_or(serde_json::Map::is_empty) {
            return;
        }
        match self.act.patch_status(info, json!({"status": status})).await {
            Err(error) if !is_gone(&error) => {
                tracing::warn!(ns = info.key.namespace, name = info.key.name, %error, "status of the pod not written");
            }
            _ => {}
        }
    }

    async fn preempt(&self, info: &Arc<PodInfo>, preemption: Preemption) -> Result<(), ()> {
        self.unnominate_weaker(info, &preemption.node).await;
        let mut evictions = FuturesUnordered::new();
        // Bounded by the pods of one node.
        for victim in preemption.victims {
            if !victim.terminating {
                evictions.push(self.evict(info, victim, &preemption.node));
            }
        }
        let mut outcome = Ok(());
        while let Some(done) = evictions.next().await {
            outcome = outcome.and(done);
        }
        outcome
    }

    async fn evict(&self, info: &PodInfo, victim: Arc<PodInfo>, node: &str) -> Result<(), ()> {
        if let Err(error) = self.act.evict(&victim, Timestamp::now()).await {
            tracing::warn!(ns = victim.key.namespace, name = victim.key.name, %error, "victim not deleted");
            return Err(());
        }
        let message = format!("Preempted by pod {} on node {node}", info.uid);
        self.recorder.normal(&reconcile::reference(&*victim.pod), "Preempted", message);
        Ok(())
    }

    /// Weaker pods that waited for the same node have to look elsewhere.
    async fn unnominate_weaker(&self, info: &PodInfo, node: &str) {
        let weaker = self.state.lock().snapshot.unnominate_weaker(info.priority, node);
        for pod in weaker {
            if let Err(error) = self.act.patch_status(&pod, json!({"status": {"nominatedNodeName": null}})).await {
                tracing::debug!(ns = pod.key.namespace, name = pod.key.name, %error, "nomination not cleared");
            }
        }
    }
}
