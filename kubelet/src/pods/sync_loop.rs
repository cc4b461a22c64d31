//! What happens to this node's pods -> each pod brought on: the one event loop.
//!
//! The loop alone holds state; it never waits for the runtime or the API. What it sets going ([`Tasks`]) answers with an [`Event`].
//! Upstream: `syncLoop` and `podWorkers` in `pkg/kubelet`.

mod begin;
mod changed;
mod early;
pub mod entry;
mod inspections;
#[cfg(test)]
mod panics;
mod pod_worker;
mod published;
mod tasks;
mod timers;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
    time::Duration,
};

use api::{
    Key,
    annotations::CONFIG_MIRROR,
    faults::{Panic, catch},
    k8s::api::core::v1::{Pod, PodStatus},
    time::{Timestamp, after},
};
use client::{Cache, pods::node_affinity::NamedLabels};
use cri::TaskEvent;
use tokio::sync::{Notify, mpsc, watch};

pub use self::begin::start;
use self::{
    changed::Changed,
    early::Early,
    entry::{Advance, Entry, Origin},
    tasks::Tasks,
    timers::Timers,
};
use super::{
    desired::{
        admit::{self, NodeCapacity},
        burstable::Burstable,
        mirror::{MirrorPods, StaticPod},
    },
    event::Event,
    plan::{Call, grace_seconds, outcome::Outcome, pod_state::StopCause},
    probes::{Finding, Prober},
    recorder::PodRecorder,
    runtime_state::{
        pleg_generic::{Listed, Listing},
        pod::{Container, Made, RuntimePod},
    },
    status::{
        api_calls::{Answer, key},
        api_pod::Ending,
    },
    workers::Deps,
};
use crate::{
    Pods, meta,
    metrics::{POD_START, WORKER_START},
};

/// After a pod's plan panicked.
const PANIC_RETRY: Duration = Duration::from_secs(10);
const EVICTED: &str = "Evicted";

/// All that is known of this node's pods. [`start`] makes it; it changes by events only, and acts through the workers it starts.
struct SyncLoop {
    deps: Arc<Deps>,
    tasks: Tasks,
    /// By uid.
    entries: HashMap<String, Entry>,
    mirrors: MirrorPods,
    /// What the directory of manifests holds.
    static_pods: Vec<Arc<Pod>>,
    synced: bool,
    /// The pods that the runtime had when it was listed last; `None` before that.
    listed: Option<BTreeSet<String>>,
    early: Early,
    timers: Timers,
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
    burstable: Burstable,
    serial: u64,
}

impl SyncLoop {
    async fn run(mut self, mut inbox: mpsc::Receiver<Event>, mut findings: mpsc::Receiver<Finding>, changed: Changed, has_manifests: bool) {
        let cache = self.cache.clone();
        let (synced, current) = (cache.synced(), cache.current());
        tokio::pin!(synced, current);
        let (mut api_synced, mut api_current, mut manifests_read) = (false, false, !has_manifests);
        loop {
            let next = self.timers.next();
            tokio::select! {
                () = &mut synced, if !api_synced => api_synced = true,
                () = &mut current, if !api_current => api_current = true,
                () = changed.notified() => {}
                Some(event) = inbox.recv() => {
                    manifests_read |= matches!(event, Event::Manifests(_));
                    let _ = self.caught(|this| this.event(event));
                }
                Some(finding) = findings.recv() => drop(self.caught(|this| this.found(&finding))),
                () = until(next) => drop(self.caught(Self::fire)),
            }
            for key in changed.take() {
                if self.caught(|this| this.changed(&key)).is_err() {
                    let changed = changed.clone();
                    self.tasks.group().spawn(async move {
                        tokio::time::sleep(PANIC_RETRY).await;
                        changed.mark(key);
                    });
                }
            }
            // What only a file of before has told is not all there is: a pod that is not in it may be wanted all the same.
            if !self.synced && api_current && manifests_read {
                self.synced = true;
                let _ = self.caught(Self::sweep);
            }
            let active = !(api_synced && manifests_read) || self.entries.values().any(Entry::is_active);
            self.active.send_if_modified(|was| std::mem::replace(was, active) != active);
        }
    }

    /// What panics is about one pod: the others go on.
    fn caught(&mut self, work: impl FnOnce(&mut Self)) -> Result<(), Panic> {
        catch("pods", || work(self)).inspect_err(|panic| tracing::error!(error = %panic, "sync loop panicked at an event"))
    }

    fn event(&mut self, event: Event) {
        match event {
            Event::Manifests(pods) => self.manifests(pods),
            Event::Listed(listing) => self.listed(listing),
            Event::Task(event) => self.runtime_event(event),
            Event::Exceeded { uid, message } => self.evict(&uid, message),
            Event::Inspected { uid, seen } => self.inspected(&uid, seen),
            Event::ContainerStarted { uid, container } => self.container_started(&uid, container),
            Event::WorkerDone { uid, serial, outcomes } => self.worker_done(&uid, serial, outcomes),
            Event::StatusWritten { uid, status, answer } => self.status_written(&uid, status, answer),
            Event::PodDeleted { uid, answer } => self.pod_deleted(&uid, &answer),
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
        let mirror = now.as_ref().filter(|pod| meta::annotation(pod, CONFIG_MIRROR).is_some());
        if mirror.is_some() || self.mirrors.has(key) {
            return self.mirror_changed(key, mirror.cloned());
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
    fn wanted(&mut self, origin: Origin, pod: Arc<Pod>) {
        let uid = meta::uid(&pod).to_owned();
        self.deps.volumes.updated(&pod);
        match self.entries.get_mut(&uid) {
            Some(entry) => {
                if origin == Origin::Api {
                    entry.api.saw(pod.clone());
                }
                // One that was an orphan of an earlier run is not: it is stopped all the same once that has begun.
                (entry.pod, entry.origin) = (pod, origin);
                self.step(&uid);
            }
            None => {
                self.entries.insert(uid.clone(), Entry::new(origin, pod));
                self.fit_burstable();
                // What the runtime did not have, only we can have made; who made it asks the runtime before it lets go of the pod.
                if self.listed.as_ref().is_some_and(|listed| !listed.contains(&uid)) {
                    return self.inspected(&uid, Some(RuntimePod::default()));
                }
                self.look(&uid);
            }
        }
    }

    /// Nobody wants it any more.
    fn gone(&mut self, uid: &str) {
        let Some(entry) = self.entries.get_mut(uid) else { return };
        let grace = grace_seconds(&entry.pod);
        entry.api.gone();
        entry.stop(StopCause::Gone, grace);
        self.step(uid);
    }

    /// Once: orphaned pods of the runtime, volumes and cgroups.
    fn sweep(&mut self) {
        let known: Vec<String> = self.deps.volumes.present().into_iter().chain(self.deps.cgroups.pods().into_keys()).collect();
        for uid in known {
            self.orphan(&uid, &Listed::default());
        }
        self.fit_mirrors();
    }

    fn orphan(&mut self, uid: &str, listed: &Listed) {
        if self.entries.contains_key(uid) || self.cache.unreadable().iter().any(|pod| meta::uid(pod) == uid) {
            return;
        }
        let mut pod = Pod::default();
        (pod.metadata.uid, pod.metadata.name, pod.metadata.namespace) =
            (Some(uid.into()), Some(listed.name.clone()), Some(listed.namespace.clone()));
        tracing::info!(uid, ns = listed.namespace, name = listed.name, "removing orphaned pod");
        let mut entry = Entry::new(Origin::Runtime, Arc::new(pod));
        let grace = grace_seconds(&entry.pod);
        entry.stop(StopCause::Gone, grace);
        self.entries.insert(uid.into(), entry);
        self.look(uid);
    }

    fn listed(&mut self, listing: Listing) {
        for (uid, listed) in &listing {
            match self.entries.get(uid) {
                Some(entry) if entry.differs(&listed.parts) => self.look(uid),
                None if self.synced => self.orphan(uid, listed),
                _ => {}
            }
        }
        let vanished = |(uid, e): (&String, &Entry)| (e.had_parts() && !listing.contains_key(uid)).then(|| uid.clone());
        let vanished: Vec<String> = self.entries.iter().filter_map(vanished).collect();
        vanished.iter().for_each(|uid| self.look(uid));
        self.listed = Some(listing.into_keys().collect());
    }

    fn look(&mut self, uid: &str) {
        self.look_after(uid, Duration::ZERO);
    }

    fn look_after(&mut self, uid: &str, pause: Duration) {
        if self.entries.get_mut(uid).is_some_and(|entry| entry.inspections.begin()) {
            self.tasks.look(uid, pause);
        }
    }

    fn inspected(&mut self, uid: &str, seen: Option<RuntimePod>) {
        let Some(entry) = self.entries.get_mut(uid) else { return };
        let again = entry.inspections.end() || seen.is_none();
        let first = entry.runtime.is_none();
        if let Some(seen) = seen {
            let is_new = first && seen.sandboxes.is_empty() && seen.containers.is_empty();
            entry.inspected(seen);
            if is_new {
                entry.starts();
                if let Err(panic) = catch("pods", || self.admit(uid)) {
                    // It is inspected, and admitted, anew.
                    self.entries.entry(uid.to_owned()).and_modify(|entry| entry.runtime = None);
                    return self.fell(uid, &panic);
                }
            }
        }
        self.early_events(uid);
        match self.entries.get_mut(uid).and_then(|entry| entry.inspections.late()) {
            Some(pause) => self.look_after(uid, pause),
            None if again => self.look(uid),
            None => {}
        }
        self.step(uid);
    }

    /// A pod of which nothing runs yet: refused where there is no room for it.
    fn admit(&mut self, uid: &str) {
        let Some(entry) = self.entries.get(uid).filter(|e| e.is_alive() && e.pod_state.stop.is_none()) else { return };
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

    /// It fails, at once. Upstream: `evictPod`.
    fn evict(&mut self, uid: &str, message: String) {
        let Some(entry) = self.entries.get_mut(uid).filter(|e| e.is_alive() && e.pod_state.stop.is_none()) else { return };
        PodRecorder::about(&self.deps.recorder, &entry.pod).warning(EVICTED, message.clone());
        entry.stop(StopCause::Failed { reason: EVICTED.into(), message }, 0);
        self.step(uid);
    }

    fn found(&mut self, finding: &Finding) {
        let Some(entry) = self.entries.get_mut(&finding.uid) else { return };
        entry.found(finding);
        self.step(&finding.uid);
    }

    fn container_started(&mut self, uid: &str, container: Box<Container>) {
        let Some(entry) = self.entries.get_mut(uid) else { return };
        entry.container_started([Made::Container(container)]);
        if entry.inspections.is_under_way() {
            return self.look(uid);
        }
        self.early_events(uid);
        self.step(uid);
    }

    fn worker_done(&mut self, uid: &str, serial: u64, outcomes: Vec<Outcome>) {
        let Some(entry) = self.entries.get_mut(uid) else { return };
        if !entry.worker.end(serial) {
            return;
        }
        // A look under way may have begun before the calls were made.
        if !entry.worker_done(outcomes, Timestamp::now()) || entry.inspections.is_under_way() {
            return self.look(uid);
        }
        self.early_events(uid);
        self.step(uid);
    }

    fn fire(&mut self) {
        let now = Timestamp::now();
        while let Some(uid) = self.timers.pop(now) {
            // One that was not admitted is admitted at an inspection.
            match self.entries.get(&uid) {
                Some(entry) if entry.runtime.is_none() => self.look(&uid),
                _ => self.step(&uid),
            }
        }
    }

    /// Brings one pod on: plans, shows, and begins what is to be done. One that panics is tried again after a while.
    fn step(&mut self, uid: &str) {
        if let Err(panic) = catch("pods", || self.step_once(uid)) {
            self.fell(uid, &panic);
        }
    }

    /// It is tried again after a while.
    fn fell(&mut self, uid: &str, panic: &Panic) {
        let pod = self.entries.get(uid).map(|entry| meta::format(&entry.pod));
        tracing::error!(pod, uid, error = %panic, "pod sync panicked; retrying");
        self.timers.set(uid, self.entries.get(uid).map(|_| after(Timestamp::now(), PANIC_RETRY)));
    }

    fn step_once(&mut self, uid: &str) {
        let Some(entry) = self.entries.get_mut(uid) else { return };
        let Some((plan, newly)) = (self.advance)(entry, &self.host_ips, Timestamp::now()) else { return };
        let tell = PodRecorder::about(&self.deps.recorder, &entry.pod);
        if entry.take_overdue() {
            tell.normal("DeadlineExceeded", "Pod was active on the node longer than the specified deadline");
        }
        entry::tell_back_offs(&tell, &entry.pod, &newly);
        if entry.worker.stop_overtaken(entry.pod_state.stop.as_ref()) {
            self.look(uid);
            // What the worker asked for may come to be after that look.
            self.nudge.notify_one();
        }
        let Some(entry) = self.entries.get_mut(uid) else { return };
        let idle = !entry.worker.is_busy() && !entry.inspections.is_under_way();
        entry.fit_probes(&self.prober);
        self.timers.set(uid, plan.wake);
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
        let Some(entry) = self.entries.get_mut(uid) else { return };
        let Some(took) = entry.started() else { return };
        self.deps.metrics.observe(POD_START, "", took);
        tracing::debug!(pod = meta::format(&entry.pod), ?took, "pod started");
    }

    fn work(&mut self, uid: &str, calls: Vec<Call>, tell: PodRecorder) {
        let Some(entry) = self.entries.get_mut(uid) else { return };
        let Some(runtime) = entry.runtime.clone() else { return };
        if let Some(waited) = entry.waited() {
            self.deps.metrics.observe(WORKER_START, "", waited);
        }
        self.serial += 1;
        let group = self.tasks.group().child();
        entry.worker.begin(&calls, group.clone(), self.serial);
        self.tasks.work(&group, self.serial, entry.pod.clone(), runtime, calls, tell);
    }

    /// Shows the pod to the node's server.
    fn publish(&mut self, uid: &str) {
        if let Some(view) = self.entries.get_mut(uid).and_then(Entry::publish) {
            self.pods.put(uid, view);
        }
    }

    /// Writes the status where the API's differs; one write at a time.
    fn write(&mut self, uid: &str) {
        let Some(entry) = self.entries.get_mut(uid) else { return };
        if let Some(write) = entry.pod_state.status.as_ref().and_then(|status| entry.api.begin_write(status)) {
            self.tasks.write(uid, write);
        }
    }

    fn status_written(&mut self, uid: &str, status: Arc<PodStatus>, answer: Answer) {
        let Some(entry) = self.entries.get_mut(uid) else { return };
        entry.api.status_written(status, answer);
        self.write(uid);
        self.finish(uid);
    }

    /// Lets go of a pod of which nothing is left: first its API object, then our own entry.
    fn finish(&mut self, uid: &str) {
        let Some(entry) = self.entries.get_mut(uid).filter(|e| e.is_finished()) else { return };
        let ending = if entry.origin == Origin::Api { entry.api.begin_delete() } else { Ending::Over };
        self.end(uid, ending);
    }

    fn pod_deleted(&mut self, uid: &str, answer: &Answer) {
        let Some(entry) = self.entries.get_mut(uid) else { return };
        let ending = entry.api.pod_deleted(answer);
        self.end(uid, ending);
        // Where that failed.
        self.finish(uid);
    }

    fn end(&mut self, uid: &str, ending: Ending) {
        match ending {
            Ending::Delete(pod) => self.tasks.delete(uid, pod),
            Ending::Waits => {}
            Ending::Over => self.forget(uid),
        }
    }

    fn forget(&mut self, uid: &str) {
        // Whatever held its objects last: nobody watches them for a pod that is no more.
        self.deps.volumes.forget(uid);
        self.timers.set(uid, None);
        self.pods.remove(uid);
        if let Some(entry) = self.entries.remove(uid) {
            tracing::debug!(pod = meta::format(&entry.pod), "pod removed from the sync loop");
        }
        self.fit_burstable();
        self.begin_static_pods();
        self.fit_mirrors();
    }

    fn fit_burstable(&mut self) {
        let alive = self.entries.values().filter(|e| e.is_alive()).map(|e| &*e.pod);
        self.burstable.fit(alive, &self.deps.cgroups);
    }

    /// A runtime event goes to its pod, which is then inspected.
    fn runtime_event(&mut self, event: TaskEvent) {
        match self.entries.iter_mut().find_map(|(uid, e)| e.runtime_event(&event).then(|| uid.clone())) {
            Some(uid) => self.look(&uid),
            None => self.early.keep(event),
        }
    }

    /// The runtime events for this pod's parts from before they were known.
    fn early_events(&mut self, uid: &str) {
        let Some(entry) = self.entries.get_mut(uid) else { return };
        if self.early.give(|event| entry.runtime_event(event)) {
            self.look(uid);
        }
    }

    /// The directory's pods, all of them.
    fn manifests(&mut self, pods: Vec<Arc<Pod>>) {
        let uids: BTreeSet<String> = pods.iter().map(|pod| meta::uid(pod).to_owned()).collect();
        let gone = |(uid, e): (&String, &Entry)| (e.origin == Origin::Manifest && !uids.contains(uid)).then(|| uid.clone());
        let gone: Vec<String> = self.entries.iter().filter_map(gone).collect();
        gone.iter().for_each(|uid| self.gone(uid));
        self.static_pods = pods;
        self.begin_static_pods();
        self.fit_mirrors();
    }

    /// Begins those that are new; one that takes the place of another of its name waits until nothing is left of that.
    fn begin_static_pods(&mut self) {
        for pod in self.static_pods.clone() {
            if self.static_uid(&key(&pod)).is_none() {
                self.wanted(Origin::Manifest, pod);
            }
        }
    }

    /// The API's object of that name is, or was, a mirror.
    fn mirror_changed(&mut self, key: &Key, mirror: Option<Arc<Pod>>) {
        self.mirrors.saw(key, mirror.clone());
        if let Some(uid) = self.static_uid(key) {
            self.show_in(&uid, mirror);
        }
        self.fit_mirrors();
    }

    fn mirror_touched(&mut self, key: &Key, answer: Answer) {
        let made = self.mirrors.touched(key, answer);
        if let (Some(mirror), Some(uid)) = (made, self.static_uid(key)) {
            self.mirrors.saw(key, Some(mirror.clone()));
            self.show_in(&uid, Some(mirror));
        }
        self.fit_mirrors();
    }

    fn show_in(&mut self, uid: &str, mirror: Option<Arc<Pod>>) {
        if let Some(entry) = self.entries.get_mut(uid) {
            entry.api.saw_mirror(mirror);
        }
        self.write(uid);
    }

    /// Makes, replaces and deletes mirrors so that they fit the static pods.
    fn fit_mirrors(&mut self) {
        if !self.synced {
            return;
        }
        let statics = self.entries.values().filter(|e| e.origin == Origin::Manifest);
        let statics = statics.map(|e| StaticPod { pod: &e.pod, ends: e.pod_state.stop.as_ref().is_some_and(|s| s.removes()) });
        for (key, touch) in self.mirrors.fit(statics) {
            self.tasks.touch(key, touch);
        }
    }

    fn static_uid(&self, key: &Key) -> Option<String> {
        let ours = self.entries.values().find(|e| e.origin == Origin::Manifest && is_named(&e.pod, key));
        ours.map(|e| meta::uid(&e.pod).to_owned())
    }
}

fn is_named(pod: &Pod, key: &Key) -> bool {
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
