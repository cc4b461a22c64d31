//! Changes in, bindings out: the loop around [`plan`].
//!
//! Caches' handlers and the loop share one locked state: a plan sees all changes up to it, and none falls between a plan and its result.

mod binding;
mod storage;
#[cfg(test)]
mod tests;

use std::{collections::VecDeque, sync::Arc};

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
use tracing::Instrument;

use self::storage::Storage;
use crate::{
    act::{Act, is_gone},
    framework::{Plugins, WaitingPods},
    plan::{Nomination, Refused},
    plugins::PLUGINS,
    pod::{PodInfo, SCHEDULER, node_of},
    preemption::Preemption,
    queue::Pending,
    siblings::Siblings,
    state::{Binding, State, Todo},
    told,
};

/// Writes (bindings and others) that are under way at the same time.
const IN_FLIGHT_MAX: usize = 64;
/// Bindings that plugins make wait, or have something to write for, at the same time: beyond it a pod that would have to wait is tried again later.
const PREPARING_MAX: usize = 4096;

/// Binds pods in `group`. See [`crate::start`].
pub fn start(client: kube::Client, caches: &Caches, group: &Group) {
    start_with(PLUGINS, PREPARING_MAX, client, caches, group);
}

fn start_with(plugins: Plugins, preparing_max: usize, client: kube::Client, caches: &Caches, group: &Group) -> Arc<Scheduler> {
    let state = State::new(plugins);
    let recorder = Recorder::new(client.clone(), SCHEDULER, None, group);
    let scheduler = Arc::new(Scheduler {
        act: Act { client },
        preparing_max,
        recorder,
        pods: caches.of(),
        budgets: caches.of(),
        storage: Storage::new(caches),
        siblings: Siblings::new(caches),
        waiting: state.waiting.clone(),
        state: Mutex::new(state),
        woken: Notify::new(),
    });
    let (nodes, namespaces) = (caches.of(), caches.of());
    scheduler.clone().wire(&nodes, &namespaces);
    let followed = Arc::downgrade(&scheduler);
    told::follow(move || followed.upgrade().map(|scheduler| scheduler.pending()));
    group.spawn_loop(SCHEDULER, Box::pin(scheduler.clone().run(nodes, namespaces)));
    scheduler
}

struct Scheduler {
    act: Act,
    /// [`PREPARING_MAX`], but in tests.
    preparing_max: usize,
    recorder: Recorder,
    pods: Cache<Pod>,
    budgets: Cache<PodDisruptionBudget>,
    storage: Storage,
    siblings: Siblings,
    waiting: Arc<WaitingPods>,
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
        self.storage.on_change(move |change| {
            change(&mut this.state.lock());
            this.woken.notify_one();
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
        self.storage.synced().await;
        tokio::join!(nodes.synced(), namespaces.synced(), self.pods.synced(), self.budgets.synced(), self.siblings.synced());
        let mut in_flight: FuturesUnordered<BoxFuture<'_, ()>> = FuturesUnordered::new();
        let mut preparing: FuturesUnordered<BoxFuture<'_, Option<Box<Binding>>>> = FuturesUnordered::new();
        // Bounded by how many are being prepared.
        let mut prepared = VecDeque::new();
        loop {
            while in_flight.len() < IN_FLIGHT_MAX
                && let Some(todo) = prepared.pop_front().or_else(|| self.next(preparing.len() < self.preparing_max))
            {
                let PodInfo { key, uid, .. } = &**todo.info();
                let span = tracing::debug_span!("pod", ns = key.namespace, name = key.name, uid);
                match todo {
                    Todo::Bind(binding) if binding.waiting.is_some() && !binding.prepared => {
                        preparing.push(self.prepare(binding).instrument(span).boxed());
                    }
                    todo => in_flight.push(self.caught(todo).instrument(span).boxed()),
                }
            }
            let due = self.state.lock().queue.due().unwrap_or_else(|| Instant::now() + std::time::Duration::from_secs(3600));
            let full = in_flight.len() >= IN_FLIGHT_MAX;
            tokio::select! {
                Some(()) = in_flight.next() => {}
                Some(done) = preparing.next() => prepared.extend(done.map(Todo::Bind)),
                () = self.woken.notified(), if !full => {}
                () = tokio::time::sleep_until(due), if !full => {}
            }
        }
    }

    fn next(&self, has_room: bool) -> Option<Todo> {
        let began = Instant::now();
        let todo = {
            let state = &mut *self.state.lock();
            state.has_room = has_room;
            state.next(began, |pod| self.siblings.of(pod), rand::random())
        };
        if let Some(todo) = &todo {
            told::decided(todo, began.elapsed());
        }
        todo
    }

    fn pending(&self) -> Pending {
        self.state.lock().queue.pending()
    }

    async fn caught(&self, todo: Todo) {
        let key = todo.info().key.clone();
        if let Err(panic) = catch_all(SCHEDULER, self.carry_out(todo)).await {
            tracing::error!(ns = key.namespace, name = key.name, error = %panic, "scheduling decision panicked");
        }
    }

    async fn carry_out(&self, todo: Todo) {
        match todo {
            Todo::Bind(binding) => self.bind(binding).await,
            Todo::Unschedulable(info, refused) => self.tell(&info, *refused).await,
            Todo::Fail(info, reason, message) => {
                tracing::warn!(ns = info.key.namespace, name = info.key.name, message, "failed to schedule pod; retrying");
                self.say(&info, reason, &message, info.nominated(), Some(Value::Null)).await;
            }
            Todo::Skip(info) => {
                let message = format!("skip schedule deleting pod: {}", info.key);
                self.recorder.warning(&reconcile::reference(&*info.pod), "FailedScheduling", message);
            }
        }
    }

    async fn tell(&self, info: &Arc<PodInfo>, refused: Refused) {
        let nominated = match &refused.nomination {
            Nomination::Keep => None,
            Nomination::Clear => info.nominated().map(|_| Value::Null),
            Nomination::Preempt(preemption) => Some(Value::from(preemption.node.as_str())),
        };
        self.say(info, "Unschedulable", &refused.message, info.nominated(), nominated).await;
        if let Nomination::Preempt(preemption) = refused.nomination {
            told::preempts(preemption.victims.len());
            let outcome = self.preempt(info, preemption).await;
            self.state.lock().queue.preempted(&info.key, outcome, Instant::now());
            self.woken.notify_one();
        }
    }

    /// The event and, where it changed, the status. `was` is the old `nominatedNodeName`, `nominated` the new one, null to clear it.
    async fn say(&self, info: &PodInfo, reason: &'static str, message: &str, was: Option<&str>, nominated: Option<Value>) {
        self.recorder.warning(&reconcile::reference(&*info.pod), "FailedScheduling", message);
        let wanted = Wanted { kind: "PodScheduled", status: "False", reason, message };
        let mut status = json!({});
        if let Some(condition) = info.pod.changed_condition(wanted, Timestamp::now()) {
            status["conditions"] = json!([condition]);
        }
        let old = was.map_or(Value::Null, Value::from);
        if let Some(node) = nominated.filter(|n| *n != old) {
            status["nominatedNodeName"] = node;
        }
        self.write_status(info, status).await;
    }

    async fn write_status(&self, info: &PodInfo, status: Value) {
        if status.as_object().is_none_or(serde_json::Map::is_empty) {
            return;
        }
        match self.act.patch_status(info, json!({"status": status})).await {
            Err(error) if !is_gone(&error) => {
                tracing::warn!(ns = info.key.namespace, name = info.key.name, %error, "failed to update pod status");
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
        // One that is not bound yet goes back to those who wait: nothing is lost.
        let spared = self.waiting.get(&victim.uid).is_some_and(|waiting| waiting.preempt("DefaultPreemption"));
        if !spared && let Err(error) = self.act.evict(&victim, Timestamp::now()).await {
            tracing::warn!(ns = victim.key.namespace, name = victim.key.name, %error, "failed to delete victim");
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
                tracing::debug!(ns = pod.key.namespace, name = pod.key.name, %error, "failed to clear nominatedNodeName");
            }
        }
    }
}
