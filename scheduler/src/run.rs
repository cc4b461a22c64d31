//! Changes in, bindings out: the loop around [`plan`].
//!
//! Caches' handlers and the loop share one locked state: a plan sees all changes up to it, and none falls between a plan and its result.

use std::sync::Arc;

use api::{
    Key,
    k8s::api::{
        core::v1::{Namespace, Node, Pod},
        policy::v1::PodDisruptionBudget,
    },
    task::Group,
    time::Timestamp,
};
use client::{Cache, Caches, Recorder, kube};
use futures::{FutureExt, StreamExt, future::BoxFuture, stream::FuturesUnordered};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::{sync::Notify, time::Instant};

use crate::{
    act::{Act, Wanted, changed_condition, is_gone},
    ask::Ask,
    memo::Memo,
    node::Facts,
    plan::{Nomination, Outcome, Refused, plan},
    plugins::Change,
    pod::{PodInfo, SCHEDULER, is_ours, is_over, node_of},
    preemption::Preemption,
    queue::{Ended, Queue, Tried},
    siblings::Siblings,
    table::{NodeChange, PodChange, Table},
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
    group.spawn(Box::pin(scheduler.run(nodes, namespaces)));
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

#[derive(Default)]
struct State {
    table: Table,
    memo: Memo,
    queue: Queue,
}

/// What one try wants written.
enum Todo {
    Bind(Tried, String),
    /// The pod stays where it is; the refusal is told.
    Tell(Arc<PodInfo>, Box<Refused>),
    Skip(Arc<PodInfo>),
}

impl Scheduler {
    fn wire(self: Arc<Self>, nodes: &Cache<Node>, namespaces: &Cache<Namespace>) {
        let this = self.clone();
        namespaces.on_change(move |old, new| {
            let Some(name) = new.or(old).and_then(|n| n.metadata.name.clone()) else { return };
            let empty = std::collections::BTreeMap::new();
            let labels = new.map(|n| n.metadata.labels.as_ref().unwrap_or(&empty));
            this.state.lock().table.set_namespace(&name, labels);
        });
        let this = self.clone();
        self.budgets.on_change(move |old, new| {
            let Some(meta) = new.or(old).map(|budget| &budget.metadata) else { return };
            let key = Key::new(meta.namespace.as_deref().unwrap_or(""), meta.name.as_deref().unwrap_or(""));
            this.state.lock().table.budgets.set(&key, new.map(|budget| &**budget));
        });
        let this = self.clone();
        nodes.on_change(move |old, new| {
            this.state.lock().node_changed(old, new);
            this.woken.notify_one();
        });
        let this = self.clone();
        self.pods.on_change(move |old, new| {
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
                in_flight.push(self.carry_out(todo).boxed());
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

    /// Decides about the next pod; the decision holds in the table before anybody else decides.
    fn next(&self) -> Option<Todo> {
        let state = &mut *self.state.lock();
        let tried = loop {
            let tried = state.queue.pop(Instant::now())?;
            if !state.table.is_assumed(&tried.info.key) {
                break tried;
            }
        };
        if tried.info.terminating {
            return Some(Todo::Skip(tried.info));
        }
        let siblings = self.siblings.of(&tried.info.pod);
        Some(state.decide(tried, siblings, rand::random()))
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
        let (info, now) = (tried.info.clone(), Instant::now());
        let waits = {
            let state = &mut *self.state.lock();
            // Not so if the cache showed meanwhile that it was bound after all.
            if state.table.forget(&info) {
                state.queue.changed(&Change::PodGone(&info), now);
            }
            // Between: somebody else bound it, deleted it, or made another of the same name.
            let current = self.pods.get(&info.key).filter(|p| p.metadata.uid.as_deref() == Some(&info.uid) && node_of(p).is_none());
            if let Some(pod) = &current {
                state.queue.back(Tried { info: Arc::new(PodInfo::new(pod)), ..tried }, Ended::Failed, now);
            }
            current.is_some()
        };
        self.woken.notify_one();
        if !waits || is_gone(error) {
            tracing::debug!(ns = info.key.namespace, name = info.key.name, %error, "pod not bound: it changed");
            return;
        }
        tracing::warn!(ns = info.key.namespace, name = info.key.name, %error, "pod not bound; trying again");
        let message = format!("running Bind plugin \"DefaultBinder\": {error}");
        self.say(&info, "SchedulerError", &message, Some(Value::Null)).await;
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
        if let Some(condition) = changed_condition(&info.pod, wanted, Timestamp::now()) {
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
        let weaker = self.state.lock().table.unnominate_weaker(info.priority, node);
        for pod in weaker {
            if let Err(error) = self.act.patch_status(&pod, json!({"status": {"nominatedNodeName": null}})).await {
                tracing::debug!(ns = pod.key.namespace, name = pod.key.name, %error, "nomination not cleared");
            }
        }
    }
}

impl State {
    fn decide(&mut self, tried: Tried, siblings: Option<api::selector::Labels>, dice: u64) -> Todo {
        let info = tried.info.clone();
        let ask = Ask::new(&mut self.table, info.clone(), siblings);
        let class = self.memo.class(&self.table, &ask);
        match plan(&self.table, class, &ask, dice) {
            Outcome::Bind(node) => {
                self.table.nominate(&info, None);
                self.table.assume(info.clone(), &node);
                self.queue.changed(&Change::PodPlaced(&info), Instant::now());
                Todo::Bind(tried, node)
            }
            Outcome::Refused(refused) => {
                let plugins = refused.plugins.clone();
                let ended = match &refused.nomination {
                    Nomination::Keep => Ended::Refused(plugins),
                    Nomination::Clear => {
                        self.table.nominate(&info, None);
                        Ended::Refused(plugins)
                    }
                    Nomination::Preempt(preemption) => {
                        self.table.nominate(&info, Some(&preemption.node));
                        Ended::Preempting(plugins)
                    }
                };
                self.queue.back(tried, ended, Instant::now());
                Todo::Tell(info, refused)
            }
        }
    }

    fn node_changed(&mut self, old: Option<&Arc<Node>>, new: Option<&Arc<Node>>) {
        let now = Instant::now();
        match (old, new) {
            (_, Some(node)) => match self.table.set_node(Facts::new(node)) {
                Some(NodeChange::Added(facts)) => self.queue.changed(&Change::NodeAdded(&facts), now),
                Some(NodeChange::Changed(old, new)) => self.queue.changed(&Change::NodeChanged(&old, &new), now),
                None => {}
            },
            (Some(node), None) => {
                let name = node.metadata.name.as_deref().unwrap_or("");
                if let Some(facts) = self.table.remove_node(name) {
                    self.queue.changed(&Change::NodeGone(&facts), now);
                }
            }
            (None, None) => {}
        }
    }

    fn pod_changed(&mut self, old: Option<&Arc<Pod>>, new: Option<&Arc<Pod>>) {
        let now = Instant::now();
        let same = old.zip(new).is_some_and(|(old, new)| old.metadata.uid == new.metadata.uid);
        if let Some(old) = old.filter(|_| !same) {
            self.pod_gone(&Arc::new(PodInfo::new(old)), now);
        }
        let Some(new) = new else { return };
        let info = Arc::new(PodInfo::new(new));
        if is_over(new) {
            return self.pod_gone(&info, now);
        }
        match node_of(new) {
            Some(node) => {
                self.queue.remove(&info.key);
                self.table.nominate(&info, None);
                match self.table.put_pod(info.clone(), node) {
                    PodChange::Changed(before) => self.queue.changed(&Change::PodChanged(&before, &info), now),
                    PodChange::Placed => self.queue.changed(&Change::PodPlaced(&info), now),
                    PodChange::Same => {}
                }
            }
            // One that is assumed shows itself bound, or its binding fails.
            None if is_ours(new) && !self.table.is_assumed(&info.key) => {
                // What we nominated ourselves is not in the object yet.
                let before = old.filter(|_| same).and_then(|o| o.status.as_ref()?.nominated_node_name.as_deref());
                if before != info.nominated() {
                    self.table.nominate(&info, info.nominated());
                }
                self.queue.put(info, now);
            }
            None => {}
        }
    }

    fn pod_gone(&mut self, info: &Arc<PodInfo>, now: Instant) {
        self.queue.remove(&info.key);
        // Weaker pods kept away from the node that was meant for it.
        let expected = self.table.nominated_node(&info.key).is_some();
        self.table.nominate(info, None);
        if self.table.take_pod(&info.key).is_some() || expected {
            self.queue.changed(&Change::PodGone(info), now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::{node, pod};

    fn asking(name: &str, cpu: &str, node: &str, phase: &str) -> Arc<Pod> {
        let containers = json!([{"name": "c", "resources": {"requests": {"cpu": cpu}}}]);
        let said = json!({"metadata": {"name": name, "uid": name}, "spec": {"containers": containers, "nodeName": node}, "status": {"phase": phase}});
        pod(&said).pod
    }

    fn state(cpu: &str) -> State {
        let mut state = State::default();
        let said = json!({"metadata": {"name": "a"}, "status": {"allocatable": {"cpu": cpu, "pods": "10"}}});
        state.node_changed(None, Some(&Arc::new(node(&said))));
        state
    }

    /// The next pod, and the node it gets.
    fn step(state: &mut State) -> Option<(String, Option<String>)> {
        let tried = state.queue.pop(Instant::now())?;
        let name = tried.info.key.name.clone();
        match state.decide(tried, None, 0) {
            Todo::Bind(_, node) => Some((name, Some(node))),
            _ => Some((name, None)),
        }
    }

    #[test]
    fn pods_that_end_make_room() {
        let mut state = state("2");
        let (running, over) = (asking("old", "2", "a", "Running"), asking("old", "2", "a", "Succeeded"));
        state.pod_changed(None, Some(&running));
        state.pod_changed(None, Some(&asking("new", "1", "", "Pending")));
        assert_eq!(step(&mut state), Some(("new".into(), None)));
        assert_eq!(step(&mut state), None);
        state.pod_changed(Some(&running), Some(&over));
        assert_eq!(step(&mut state), Some(("new".into(), Some("a".into()))));
        state.pod_changed(Some(&over), None);
        assert_eq!(state.table.find("a").unwrap().used.milli_cpu, 1000, "what was over is not taken away twice");
    }

    #[test]
    fn an_assumed_pod_is_not_tried_again() {
        let mut state = state("2");
        let pending = asking("p", "1", "", "Pending");
        state.pod_changed(None, Some(&pending));
        assert_eq!(step(&mut state), Some(("p".into(), Some("a".into()))));
        state.pod_changed(Some(&pending), Some(&pending));
        assert_eq!(step(&mut state), None);
        state.pod_changed(Some(&pending), None);
        assert_eq!(state.table.find("a").unwrap().used.milli_cpu, 0);
    }

    #[test]
    fn a_nominated_pod_that_is_deleted_frees_its_place() {
        let mut state = state("2");
        let mut strong = (*asking("strong", "2", "", "Pending")).clone();
        strong.spec.as_mut().unwrap().priority = Some(9);
        strong.spec.as_mut().unwrap().scheduling_gates = serde_json::from_value(json!([{"name": "g"}])).unwrap();
        strong.status.as_mut().unwrap().nominated_node_name = Some("a".into());
        let strong = Arc::new(strong);
        state.pod_changed(None, Some(&strong));
        state.pod_changed(None, Some(&asking("weak", "1", "", "Pending")));
        assert_eq!(step(&mut state), Some(("weak".into(), None)));
        state.pod_changed(Some(&strong), None);
        assert_eq!(step(&mut state), Some(("weak".into(), Some("a".into()))));
    }
}
