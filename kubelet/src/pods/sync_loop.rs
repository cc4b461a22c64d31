//! What happens to this node's pods -> each pod brought on: the one event loop.
//!
//! The loop alone holds state; it never waits for the runtime or the API. Workers, looks and status writes are tasks that answer with
//! an [`Event`]. Upstream: `syncLoop` and `podWorkers` in `pkg/kubelet`.

mod begin;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use api::{
    Key,
    faults::{Panic, catch, catch_all},
    k8s::api::core::v1::Pod,
    task::Group,
    time::{Timestamp, after},
};
use client::{Cache, pods::node_affinity::NamedLabels};
use cri::TaskEvent;
use parking_lot::Mutex;
use tokio::sync::{Notify, mpsc, watch};
use tracing::Instrument;

pub use self::begin::start;
use super::{
    admit::{self, NodeCapacity},
    api_calls::Answer,
    entry::{self, Advance, Doing, Entry, Origin, Worker},
    execute::{self, Deps, Outcome, Work},
    plan::{Call, grace_seconds},
    pleg_generic::{self, Listing},
    pod_state::StopCause,
    probe::{Finding, Prober},
    recorder::PodRecorder,
    runtime::{Container, Made, RuntimePod},
};
use crate::{
    ContainerView, PodView, Pods, container_config, meta,
    metrics::{POD_START, WORKER_START},
};

/// After the runtime did not answer.
const LOOK_RETRY: Duration = Duration::from_secs(1);
/// After a pod's plan panicked.
const PANIC_RETRY: Duration = Duration::from_secs(10);
/// What the API calls a static pod's shadow.
const MIRROR: &str = "kubernetes.io/config.mirror";

/// All that can happen, beside changes of API objects, probe results and time.
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
        status: Box<api::k8s::api::core::v1::PodStatus>,
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

/// Keys of API pods that changed; bounded by the number of pods of this node.
#[derive(Clone, Default)]
struct Changed {
    keys: Arc<Mutex<BTreeSet<Key>>>,
    notify: Arc<Notify>,
}

pub(super) struct SyncLoop {
    pub(super) deps: Arc<Deps>,
    pub(super) group: Group,
    pub(super) events: mpsc::Sender<Event>,
    pub(super) entries: HashMap<String, Entry>,
    /// Mirror pods that the API has.
    pub(super) mirrors: HashMap<Key, Arc<Pod>>,
    /// Mirror pods that are being made or deleted.
    pub(super) touching: BTreeSet<Key>,
    pub(super) synced: bool,
    /// The pods that the runtime had when it was listed last; `None` before that.
    listed: Option<BTreeSet<String>>,
    /// What was told of parts that nobody knew: a worker may be about to say that it made them.
    pub(super) early: VecDeque<TaskEvent>,
    /// What the directory of manifests holds.
    pub(super) static_pods: Vec<Arc<Pod>>,
    timers: BTreeSet<(Timestamp, String)>,
    cache: Cache<Pod>,
    pods: Pods,
    /// [`Entry::advance`].
    advance: Advance,
    prober: Prober,
    active: watch::Sender<bool>,
    /// Asks for a list of the runtime's pods.
    nudge: Arc<Notify>,
    host_ips: Vec<String>,
    room: NodeCapacity,
    burstable_milli: Option<i64>,
    serial: u64,
}

impl SyncLoop {
    async fn run(mut self, mut inbox: mpsc::Receiver<Event>, mut findings: mpsc::Receiver<Finding>, changed: Changed, has_manifests: bool) {
        let cache = self.cache.clone();
        let synced = cache.synced();
        tokio::pin!(synced);
        let (mut api_synced, mut manifests_read) = (false, !has_manifests);
        loop {
            let next = self.timers.first().map(|(at, _)| *at);
            tokio::select! {
                () = &mut synced, if !api_synced => api_synced = true,
                () = changed.notify.notified() => {}
                Some(event) = inbox.recv() => {
                    manifests_read |= matches!(event, Event::Manifests(_));
                    let _ = self.caught(|this| this.event(event));
                }
                Some(finding) = findings.recv() => drop(self.caught(|this| this.found(&finding))),
                () = until(next) => drop(self.caught(Self::fire)),
            }
            let keys = std::mem::take(&mut *changed.keys.lock());
            for key in keys {
                if self.caught(|this| this.changed(&key)).is_err() {
                    let changed = changed.clone();
                    self.group.spawn(async move {
                        tokio::time::sleep(PANIC_RETRY).await;
                        changed.mark(key);
                    });
                }
            }
            if !self.synced && api_synced && manifests_read {
                self.synced = true;
                let _ = self.caught(Self::sweep);
            }
            let active = !self.synced || self.entries.values().any(Entry::is_active);
            self.active.send_if_modified(|was| std::mem::replace(was, active) != active);
        }
    }

    /// What panics is about one pod: the others go on.
    fn caught(&mut self, work: impl FnOnce(&mut Self)) -> Result<(), Panic> {
        catch("pods", || work(self)).inspect_err(|panic| tracing::error!(error = %panic, "a pod is not brought on"))
    }

    pub(super) fn event(&mut self, event: Event) {
        match event {
            Event::Manifests(pods) => self.manifests(pods),
            Event::Listed(listing) => self.listed(listing),
            Event::Told(event) => self.told(event),
            Event::Looked { uid, seen } => self.looked(&uid, seen),
            Event::Made { uid, container } => self.made(&uid, container),
            Event::Worked { uid, serial, outcomes } => self.worked(&uid, serial, outcomes),
            Event::Wrote { uid, status, answer } => self.wrote(&uid, *status, answer),
            Event::Deleted { uid, answer } => self.deleted(&uid, &answer),
            Event::MirrorTouched { key, answer } => self.mirror_touched(&key, answer),
        }
    }

    /// The API's pod of that name, as the cache has it now.
    fn changed(&mut self, key: &Key) {
        let now = self.cache.get(key);
        if let Some(pod) = now.as_ref().filter(|_| self.cache.is_unreadable(key)) {
            // What it wants is not known: what runs of it runs on, and of an end we can tell.
            if let Some(entry) = self.entries.get_mut(meta::uid(pod)) {
                let stands = Pod { metadata: pod.metadata.clone(), ..(*entry.pod).clone() };
                entry.pod = Arc::new(stands);
                self.step(meta::uid(pod));
            }
            return;
        }
        let mirror = now.as_ref().filter(|pod| meta::annotation(pod, MIRROR).is_some());
        if mirror.is_some() || self.mirrors.contains_key(key) {
            let mirror = mirror.cloned();
            return self.mirror_changed(key, mirror);
        }
        let uid = now.as_ref().map(|pod| meta::uid(pod).to_owned());
        let is_gone = |e: &&Entry| e.origin == Origin::Api && is_named(&e.pod, key) && uid.as_deref() != Some(meta::uid(&e.pod));
        let gone: Vec<String> = self.entries.values().filter(is_gone).map(|e| meta::uid(&e.pod).to_owned()).collect();
        gone.iter().for_each(|uid| self.gone(uid));
        if let Some(pod) = now {
            self.wanted(Origin::Api, pod);
        }
    }

    /// A pod that is to be here, new or changed.
    pub(super) fn wanted(&mut self, origin: Origin, pod: Arc<Pod>) {
        let uid = meta::uid(&pod).to_owned();
        self.deps.volumes.updated(&pod);
        match self.entries.get_mut(&uid) {
            Some(entry) => {
                let newer = |known: &Arc<Pod>| revision(known) <= revision(&pod);
                if origin == Origin::Api && entry.shown.as_ref().is_none_or(newer) {
                    entry.shown = Some(pod.clone());
                }
                // One that was an orphan of an earlier run is not: it is stopped all the same once that has begun.
                (entry.pod, entry.origin) = (pod, origin);
                self.step(&uid);
            }
            None => {
                self.entries.insert(uid.clone(), Entry::new(origin, pod));
                self.burstable();
                // What the runtime did not have, only we can have made; who made it asks the runtime before it lets go of the pod.
                if self.listed.as_ref().is_some_and(|listed| !listed.contains(&uid)) {
                    return self.looked(&uid, Some(RuntimePod::default()));
                }
                self.look(&uid);
            }
        }
    }

    /// Nobody wants it any more.
    pub(super) fn gone(&mut self, uid: &str) {
        let Some(entry) = self.entries.get_mut(uid) else { return };
        let grace = grace_seconds(&entry.pod);
        entry.shown = None;
        entry.stop(StopCause::Gone, grace);
        self.step(uid);
    }

    /// Once: pods of the runtime, volumes and cgroups that nobody wants.
    fn sweep(&mut self) {
        let known: Vec<String> = self.deps.volumes.present().into_iter().chain(self.deps.cgroups.pods().into_keys()).collect();
        for uid in known {
            self.orphan(&uid, &pleg_generic::Listed::default());
        }
        self.fit_mirrors();
    }

    fn orphan(&mut self, uid: &str, listed: &pleg_generic::Listed) {
        if self.entries.contains_key(uid) || self.cache.unreadable().iter().any(|pod| meta::uid(pod) == uid) {
            return;
        }
        let mut pod = Pod::default();
        (pod.metadata.uid, pod.metadata.name, pod.metadata.namespace) =
            (Some(uid.into()), Some(listed.name.clone()), Some(listed.namespace.clone()));
        tracing::info!(uid, ns = listed.namespace, name = listed.name, "a pod that nobody wants is taken away");
        let mut entry = Entry::new(Origin::Runtime, Arc::new(pod));
        entry.stop(StopCause::Gone, grace_seconds(&entry.pod.clone()));
        self.entries.insert(uid.into(), entry);
        self.look(uid);
    }

    fn listed(&mut self, listing: Listing) {
        for (uid, listed) in &listing {
            match self.entries.get(uid) {
                Some(entry) if entry.seen != listed.parts => self.look(uid),
                None if self.synced => self.orphan(uid, listed),
                _ => {}
            }
        }
        let vanished = |(uid, e): (&String, &Entry)| (!e.seen.is_empty() && !listing.contains_key(uid)).then(|| uid.clone());
        let vanished: Vec<String> = self.entries.iter().filter_map(vanished).collect();
        vanished.iter().for_each(|uid| self.look(uid));
        self.listed = Some(listing.into_keys().collect());
    }

    pub(super) fn look(&mut self, uid: &str) {
        self.look_after(uid, Duration::ZERO);
    }

    fn look_after(&mut self, uid: &str, pause: Duration) {
        let Some(entry) = self.entries.get_mut(uid) else { return };
        if std::mem::replace(&mut entry.looking, true) {
            entry.look_again = true;
            return;
        }
        let (deps, events, uid) = (self.deps.clone(), self.events.clone(), uid.to_owned());
        self.group.spawn(Box::pin(async move {
            tokio::time::sleep(pause).await;
            let seen = catch_all("pods", execute::look(&deps, &uid)).await.unwrap_or_else(|panic| {
                tracing::error!(uid, error = %panic, "a pod was not looked at");
                None
            });
            if seen.is_none() {
                tokio::time::sleep(LOOK_RETRY).await;
            }
            let _ = events.send(Event::Looked { uid, seen }).await;
        }));
    }

    fn looked(&mut self, uid: &str, seen: Option<RuntimePod>) {
        let Some(entry) = self.entries.get_mut(uid) else { return };
        entry.looking = false;
        let again = std::mem::take(&mut entry.look_again) || seen.is_none();
        let first = entry.runtime.is_none();
        if let Some(seen) = seen {
            let is_new = first && seen.sandboxes.is_empty() && seen.containers.is_empty();
            entry.looked(seen);
            if is_new {
                entry.is_starting = true;
                if let Err(panic) = catch("pods", || self.admit(uid)) {
                    // It is looked at, and admitted, anew.
                    self.entries.entry(uid.to_owned()).and_modify(|entry| entry.runtime = None);
                    return self.fell(uid, &panic);
                }
            }
        }
        self.told_early(uid);
        match self.entries.get_mut(uid).and_then(Entry::look_late) {
            Some(pause) => self.look_after(uid, pause),
            None if again => self.look(uid),
            None => {}
        }
        self.step(uid);
    }

    /// A pod of which nothing runs yet: refused where there is no room for it.
    fn admit(&mut self, uid: &str) {
        let Some(entry) = self.entries.get(uid).filter(|e| e.is_alive() && e.memory.stop.is_none()) else { return };
        let others: Vec<&Pod> = self.entries.values().filter(|e| e.is_alive() && e.was_admitted()).map(|e| &*e.pod).collect();
        let others: Vec<&Pod> = others.into_iter().filter(|pod| meta::uid(pod) != uid).collect();
        let node = self.deps.nodes.get(&Key::new("", &self.deps.node.node_name));
        let none = BTreeMap::new();
        let here = node.as_ref().map(|node| NamedLabels {
            name: node.metadata.name.as_deref().unwrap_or_default(),
            labels: node.metadata.labels.as_ref().unwrap_or(&none),
        });
        let Some(refusal) = admit::refusal(&entry.pod, &others, self.room, here) else {
            return;
        };
        PodRecorder::about(&self.deps.recorder, &entry.pod).warning(&refusal.reason, refusal.message.clone());
        let message = format!("Pod was rejected: {}", refusal.message);
        let grace = grace_seconds(&entry.pod);
        if let Some(entry) = self.entries.get_mut(uid) {
            entry.stop(StopCause::Failed { reason: refusal.reason, message }, grace);
        }
    }

    fn found(&mut self, finding: &Finding) {
        let Some(entry) = self.entries.get_mut(&finding.uid) else { return };
        entry.found(finding);
        self.step(&finding.uid);
    }

    fn made(&mut self, uid: &str, container: Box<Container>) {
        let Some(entry) = self.entries.get_mut(uid) else { return };
        entry.made([Made::Container(container)]);
        if entry.looking {
            return self.look(uid);
        }
        self.told_early(uid);
        self.step(uid);
    }

    fn worked(&mut self, uid: &str, serial: u64, outcomes: Vec<Outcome>) {
        let Some(entry) = self.entries.get_mut(uid) else { return };
        if entry.worker.as_ref().is_none_or(|w| w.serial != serial) {
            return;
        }
        entry.worker = None;
        // A look under way may have begun before the calls were made.
        if !entry.worked(outcomes, Timestamp::now()) || entry.looking {
            return self.look(uid);
        }
        self.told_early(uid);
        self.step(uid);
    }

    fn fire(&mut self) {
        let now = Timestamp::now();
        while let Some((_, uid)) = self.timers.first().filter(|(at, _)| *at <= now).cloned() {
            self.timers.pop_first();
            // One that was not admitted is admitted at a look.
            match self.entries.get(&uid) {
                Some(entry) if entry.runtime.is_none() => self.look(&uid),
                _ => self.step(&uid),
            }
        }
    }

    /// Brings one pod on: plans, shows, and begins what is to be done. One that panics is tried again after a while.
    pub(super) fn step(&mut self, uid: &str) {
        if let Err(panic) = catch("pods", || self.step_once(uid)) {
            self.fell(uid, &panic);
        }
    }

    /// It is tried again after a while.
    fn fell(&mut self, uid: &str, panic: &Panic) {
        let pod = self.entries.get(uid).map(|entry| meta::format(&entry.pod));
        tracing::error!(pod, uid, error = %panic, "the pod is not brought on; trying again");
        self.wake(uid, Some(after(Timestamp::now(), PANIC_RETRY)));
    }

    fn step_once(&mut self, uid: &str) {
        let Some(entry) = self.entries.get_mut(uid) else { return };
        let Some((plan, newly)) = (self.advance)(entry, &self.host_ips, Timestamp::now()) else { return };
        let tell = PodRecorder::about(&self.deps.recorder, &entry.pod);
        if std::mem::take(&mut entry.overdue) {
            tell.normal("DeadlineExceeded", "Pod was active on the node longer than the specified deadline");
        }
        entry::tell_back_offs(&tell, &entry.pod, &newly);
        let overtaken = if entry.is_overtaken() { entry.worker.take() } else { None };
        if let Some(worker) = &overtaken {
            worker.group.stop();
            self.look(uid);
            // What the worker asked for may come to be after that look.
            self.nudge.notify_one();
        }
        let Some(entry) = self.entries.get_mut(uid) else { return };
        let idle = entry.worker.is_none() && !entry.looking;
        if let Some(runtime) = entry.runtime.clone() {
            let stopping = entry.memory.stop.is_some();
            entry.probes.fit(&self.prober, &entry.pod, &runtime, &entry.memory.probes, stopping);
        }
        self.wake(uid, plan.wake);
        if idle && !plan.calls.is_empty() {
            self.work(uid, plan.calls, tell);
        }
        self.started(uid);
        self.publish(uid);
        self.write(uid);
        self.finish(uid);
    }

    /// Measures, once, how long a pod took to run that came while we were here.
    fn started(&mut self, uid: &str) {
        let Some(entry) = self.entries.get_mut(uid).filter(|e| e.is_starting && e.is_running()) else { return };
        entry.is_starting = false;
        let took = entry.first_seen.elapsed();
        self.deps.metrics.observe(POD_START, "", took);
        tracing::debug!(pod = meta::format(&entry.pod), ?took, "pod runs");
    }

    fn work(&mut self, uid: &str, calls: Vec<Call>, tell: PodRecorder) {
        let Some(entry) = self.entries.get_mut(uid) else { return };
        let Some(runtime) = entry.runtime.clone() else { return };
        if entry.is_starting && runtime.sandboxes.is_empty() {
            self.deps.metrics.observe(WORKER_START, "", entry.first_seen.elapsed());
        }
        self.serial += 1;
        let (serial, group) = (self.serial, self.group.child());
        let doing = Doing::of(&calls);
        let pod = &entry.pod;
        let span = tracing::debug_span!("pod", ns = meta::namespace(pod), name = meta::name(pod), uid, ?doing);
        entry.begin(&calls, Worker { group: group.clone(), serial, doing });
        let work = Work { deps: self.deps.clone(), pod: entry.pod.clone(), runtime, tell, events: self.events.clone() };
        let (events, uid) = (self.events.clone(), uid.to_owned());
        group.spawn(Box::pin(async move {
            let outcomes = catch_all("pods", work.run(calls)).instrument(span).await;
            let outcomes = outcomes.unwrap_or_else(|panic| vec![Outcome::Failed { error: panic.to_string() }]);
            let _ = events.send(Event::Worked { uid, serial, outcomes }).await;
        }));
    }

    fn wake(&mut self, uid: &str, at: Option<Timestamp>) {
        let Some(entry) = self.entries.get_mut(uid) else { return };
        if let Some(old) = std::mem::replace(&mut entry.wake, at) {
            self.timers.remove(&(old, uid.to_owned()));
        }
        if let Some(at) = at {
            self.timers.insert((at, uid.to_owned()));
        }
    }

    /// Shows the pod to the node's server.
    fn publish(&self, uid: &str) {
        let Some(entry) = self.entries.get(uid).filter(|e| e.origin != Origin::Runtime) else { return };
        let mut pod = (*entry.pod).clone();
        pod.status = entry.memory.status.clone().or(pod.status);
        let runtime = entry.runtime.clone().unwrap_or_default();
        let containers = runtime.containers.iter().rev().map(|c| ContainerView {
            name: c.name.clone(),
            id: c.id.clone(),
            attempt: c.restart_count,
            running: c.is_running(),
            log_path: c.log_path.clone(),
        });
        let sandbox_id = runtime.ready_sandbox().map(|s| s.id.clone());
        self.pods.put(uid, PodView { pod: Arc::new(pod), sandbox_id, containers: containers.collect() });
    }

    pub(super) fn forget(&mut self, uid: &str) {
        // Whatever held its objects last: nobody watches them for a pod that is no more.
        self.deps.volumes.forget(uid);
        self.wake(uid, None);
        self.pods.remove(uid);
        if let Some(entry) = self.entries.remove(uid) {
            tracing::debug!(pod = meta::format(&entry.pod), "pod forgotten");
        }
        self.burstable();
        self.begin_static_pods();
        self.fit_mirrors();
    }

    /// The burstable class gets what all its pods ask for.
    fn burstable(&mut self) {
        let burstable = |e: &&Entry| container_config::qos::class(&e.pod) == container_config::qos::QosClass::Burstable;
        let milli = self
            .entries
            .values()
            .filter(|e| e.is_alive())
            .filter(burstable)
            .map(|e| container_config::cpu_request_milli(&e.pod))
            .fold(0, i64::saturating_add);
        if self.burstable_milli == Some(milli) {
            return;
        }
        match self.deps.cgroups.set_burstable(milli) {
            Ok(()) => self.burstable_milli = Some(milli),
            Err(error) => tracing::warn!(%error, "the burstable class does not get its shares"),
        }
    }
}

pub(super) fn revision(pod: &Pod) -> u64 {
    pod.metadata.resource_version.as_deref().and_then(|rv| rv.parse().ok()).unwrap_or(0)
}

pub(super) fn is_named(pod: &Pod, key: &Key) -> bool {
    meta::name(pod) == key.name && meta::namespace(pod) == key.namespace
}

async fn until(at: Option<Timestamp>) {
    match at {
        None => std::future::pending().await,
        Some(at) => {
            let left = at.duration_since(Timestamp::now());
            if left.is_positive() {
                tokio::time::sleep(left.unsigned_abs()).await;
            }
        }
    }
}
