//! One pod of the loop: its object, what the runtime has of it, what we remember, and what is under way for it.

use std::{
    collections::BTreeSet,
    sync::Arc,
    time::{Duration, Instant},
};

use api::{
    k8s::api::core::v1::{Pod, PodSpec},
    time::{Timestamp, after, span},
};
use cri::TaskEvent;

use super::{inspections::Inspections, pod_worker::PodWorker, published::Published};
use crate::{
    PodView, meta,
    pods::{
        plan::{
            self, Call, Plan, PlanInput, grace_seconds,
            outcome::{Outcome, StartCause},
            pod_state::{Health, PodState, ProbeResults, Stop, StopCause, Waiting},
        },
        probes::{Finding, Kind, Prober, Probes},
        recorder::PodRecorder,
        runtime_state::{
            pleg_generic::{Fingerprint, fingerprint},
            pod::{Made, RuntimePod, State},
        },
        status::{self, Facts, api_pod::ApiPod},
    },
};

/// A container that could not be started for a reason of its own is tried again after this. Upstream's back-off of its pod workers.
const RETRY: Duration = Duration::from_secs(10);
/// As CRI names it.
const OOM_KILLED: &str = "OOMKilled";

/// Where a pod is wanted from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    Api,
    Manifest,
    /// Nobody: found in the runtime.
    Runtime,
}

/// What [`Entry::advance`] comes to.
pub type Advanced = Option<(Plan, Vec<(String, Waiting)>)>;
pub type Advance = fn(&mut Entry, &[String], Timestamp) -> Advanced;

pub struct Entry {
    pub origin: Origin,
    pub pod: Arc<Pod>,
    /// Its object in the API: the pod itself, or a static pod's mirror.
    pub api: ApiPod,
    /// `None` until the runtime was asked.
    pub runtime: Option<Arc<RuntimePod>>,
    pub pod_state: PodState,
    probes: Probes,
    pub worker: PodWorker,
    pub inspections: Inspections,
    seen: Fingerprint,
    /// Containers that lost a process for want of memory.
    oom_killed: BTreeSet<String>,
    first_seen: Instant,
    /// It came while we were here, and does not run yet.
    is_starting: bool,
    /// Its `activeDeadlineSeconds` passed a moment ago: the event is due.
    overdue: bool,
    published: Published,
}

impl Entry {
    pub fn new(origin: Origin, pod: Arc<Pod>) -> Self {
        Self {
            origin,
            api: ApiPod::of((origin == Origin::Api).then(|| pod.clone())),
            pod,
            runtime: None,
            pod_state: PodState::default(),
            probes: Probes::default(),
            worker: PodWorker::default(),
            inspections: Inspections::default(),
            seen: Fingerprint::new(),
            oom_killed: BTreeSet::new(),
            first_seen: Instant::now(),
            is_starting: false,
            overdue: false,
            published: Published::default(),
        }
    }

    /// Whether the lists show its parts in other states than it is known.
    pub fn differs(&self, parts: &Fingerprint) -> bool {
        self.seen != *parts
    }

    /// Whether the runtime had something of it.
    pub fn had_parts(&self) -> bool {
        !self.seen.is_empty()
    }

    /// It came while we were here.
    pub fn starts(&mut self) {
        self.is_starting = true;
    }

    /// Since it came, where it has nothing in the runtime yet.
    pub fn waited(&self) -> Option<Duration> {
        let waits = self.is_starting && self.runtime.as_ref().is_some_and(|r| r.sandboxes.is_empty());
        waits.then(|| self.first_seen.elapsed())
    }

    /// How long it took to run; returned once, of one that came while we were here.
    pub fn started(&mut self) -> Option<Duration> {
        let runs = self.is_starting && self.pod_state.status.as_ref().and_then(|s| s.phase.as_deref()) == Some("Running");
        self.is_starting &= !runs;
        runs.then(|| self.first_seen.elapsed())
    }

    /// Its `activeDeadlineSeconds` passed; returned once.
    pub fn take_overdue(&mut self) -> bool {
        std::mem::take(&mut self.overdue)
    }

    /// Begins and ends its probes so that they fit what runs.
    pub fn fit_probes(&mut self, prober: &Prober) {
        let Some(runtime) = &self.runtime else { return };
        self.probes.fit(prober, &self.pod, runtime, &self.pod_state.probes, self.pod_state.stop.is_some());
    }

    /// What the node's server is to see, where that has changed.
    pub fn publish(&mut self) -> Option<PodView> {
        let shown = self.origin != Origin::Runtime;
        shown.then(|| self.published.next(&self.pod, self.pod_state.status.as_ref(), self.runtime.as_ref()))?
    }

    /// Takes in what the runtime has. What is adopted at the first look keeps what the API says of its probes.
    pub fn inspected(&mut self, mut runtime: RuntimePod) {
        if self.runtime.is_none() {
            self.adopt(&runtime);
        }
        self.pod_state.probes.retain(|id, _| runtime.by_id(id).is_some());
        self.oom_killed.retain(|id| runtime.by_id(id).is_some());
        self.inspections.showed(|id| runtime.runs(id));
        // The runtime says so too, but only once it has worked through its own events.
        let ended = runtime.containers.iter_mut().filter(|c| self.oom_killed.contains(&c.id));
        for exit in ended.filter_map(|c| if let State::Exited(exit) = &mut c.state { Some(exit) } else { None }) {
            exit.reason = OOM_KILLED.into();
        }
        self.seen = fingerprint(&runtime);
        self.runtime = Some(Arc::new(runtime));
    }

    /// Applies a runtime event to one of this pod's parts. False where it is not known.
    pub fn runtime_event(&mut self, event: &TaskEvent) -> bool {
        let (TaskEvent::Ended { id } | TaskEvent::OutOfMemory { id }) = event;
        if !self.runtime.as_ref().is_some_and(|r| r.has(id)) {
            return false;
        }
        match event {
            TaskEvent::Ended { .. } => self.inspections.ended(id),
            TaskEvent::OutOfMemory { .. } => drop(self.oom_killed.insert(id.clone())),
        }
        true
    }

    /// The next thing to do, with the status that goes with it, and the containers that begin to wait. `None` before the runtime was asked.
    pub fn advance(&mut self, host_ips: &[String], now: Timestamp) -> Advanced {
        let runtime = self.runtime.clone()?;
        let pod = self.pod.clone();
        let empty = PodSpec::default();
        let spec = pod.spec.as_ref().unwrap_or(&empty);
        self.stop_if_due(now);
        let mut plan = plan::plan(PlanInput { pod: &pod, spec, runtime: &runtime, pod_state: &self.pod_state, now });
        let newly = self.show_waiting(&plan);
        if self.origin != Origin::Runtime && !self.pod_state.removed {
            let input = PlanInput { pod: &pod, spec, runtime: &runtime, pod_state: &self.pod_state, now };
            let status = status::generate(Facts { input, host_ips });
            let ended = status::is_terminal(status.phase.as_deref());
            if self.pod_state.status.as_deref() != Some(&status) {
                self.pod_state.status = Some(Arc::new(status));
            }
            if ended && self.pod_state.stop.is_none() && !self.worker.is_busy() {
                self.pod_state.stop = Some(Stop { cause: StopCause::Completed, grace_seconds: grace_seconds(&pod) });
                plan = plan::plan(PlanInput { pod: &pod, spec, runtime: &runtime, pod_state: &self.pod_state, now });
            }
        }
        if let Some(at) = self.deadline() {
            plan.wake_at(at);
        }
        first_stage(&mut plan.calls);
        if plan.calls.is_empty() && self.pod_state.stop.is_none() {
            plan.calls = leftovers(&runtime);
        }
        if let Some(at) = self.worker.hold(&plan.calls, now) {
            plan.calls.clear();
            plan.wake_at(at);
        }
        Some((plan, newly))
    }

    /// What came of calls. False where only an inspection of the runtime can show it.
    pub fn worker_done(&mut self, outcomes: Vec<Outcome>, now: Timestamp) -> bool {
        self.worker.worker_done(&outcomes, now);
        // `runtime` is still as it was before them.
        outcomes.iter().for_each(|outcome| self.one_outcome(outcome, now));
        let made: Option<Vec<Made>> = outcomes.into_iter().map(Outcome::made).collect();
        made.is_some_and(|made| self.container_started(made))
    }

    /// Puts what was made beside what was known. False where nothing is known yet.
    pub fn container_started(&mut self, made: impl IntoIterator<Item = Made>) -> bool {
        let Some(runtime) = &self.runtime else { return false };
        let mut runtime = RuntimePod::clone(runtime);
        made.into_iter().for_each(|made| runtime.merge(made));
        self.inspected(runtime);
        true
    }

    pub fn found(&mut self, finding: &Finding) {
        let results = self.pod_state.probes.entry(finding.container_id.clone()).or_default();
        match finding.kind {
            Kind::Startup => results.startup = Some(finding.health),
            Kind::Liveness => results.liveness = Some(finding.health),
            Kind::Readiness => results.readiness = Some(finding.health),
        }
    }

    /// Ends the pod for `cause`; a shorter grace replaces a longer one, deletion replaces all other causes.
    pub fn stop(&mut self, cause: StopCause, grace_seconds: u32) {
        match &mut self.pod_state.stop {
            None => self.pod_state.stop = Some(Stop { cause, grace_seconds }),
            Some(stop) => {
                stop.grace_seconds = stop.grace_seconds.min(grace_seconds);
                if !stop.removes() || cause == StopCause::Gone {
                    stop.cause = cause;
                }
            }
        }
    }

    /// Nothing is left of it but the API object.
    pub fn is_finished(&self) -> bool {
        !self.worker.is_busy()
            && !self.inspections.is_under_way()
            && self.pod_state.removed
            && self.pod_state.cleaned
            && self.pod_state.stop.as_ref().is_some_and(Stop::removes)
    }

    /// True where the runtime has something of it that may change by itself.
    pub fn is_active(&self) -> bool {
        self.worker.is_busy() || self.runtime.as_ref().is_some_and(|r| !r.is_stopped())
    }

    /// True while it takes the node's room: neither ended nor ending for good.
    pub fn is_alive(&self) -> bool {
        let phase = self.pod_state.status.as_deref().or(self.pod.status.as_ref()).and_then(|s| s.phase.as_deref());
        !status::is_terminal(phase) && self.origin != Origin::Runtime
    }

    /// True once it was inspected, which is when its room was counted.
    pub fn was_admitted(&self) -> bool {
        self.runtime.is_some()
    }

    fn adopt(&mut self, runtime: &RuntimePod) {
        let status = self.api.shown().and_then(|pod| pod.status.as_ref());
        let lists = status.map(|s| [&s.container_statuses, &s.init_container_statuses]);
        for status in lists.into_iter().flatten().flatten().flatten() {
            let id = status.container_id.as_deref().and_then(|id| id.split_once("://")).map(|(_, id)| id);
            let Some(container) = id.and_then(|id| runtime.by_id(id)).filter(|c| c.is_running()) else { continue };
            let good = |holds: bool| holds.then_some(Health::Good);
            let results = ProbeResults { startup: good(status.started == Some(true)), liveness: None, readiness: good(status.ready) };
            self.pod_state.probes.insert(container.id.clone(), results);
        }
    }

    fn stop_if_due(&mut self, now: Timestamp) {
        if self.origin == Origin::Runtime {
            return;
        }
        let grace = grace_seconds(&self.pod);
        if self.pod.metadata.deletion_timestamp.is_some() {
            // An ended pod's objects of the runtime go too.
            return self.stop(StopCause::Deleted, grace);
        }
        let phase = self.pod.status.as_ref().and_then(|s| s.phase.as_deref());
        if status::is_terminal(phase) && self.pod_state.stop.is_none() {
            return self.stop(StopCause::Completed, grace);
        }
        if self.pod_state.stop.is_none() && self.deadline().is_some_and(|at| at <= now) {
            let message = "Pod was active on the node longer than the specified deadline".to_owned();
            self.overdue = true;
            self.stop(StopCause::Failed { reason: "DeadlineExceeded".into(), message }, grace);
        }
    }

    /// `activeDeadlineSeconds` after its start; `None` where it has none or has ended.
    fn deadline(&self) -> Option<Timestamp> {
        let seconds = self.pod.spec.as_ref()?.active_deadline_seconds.filter(|s| *s >= 0)?;
        let status = self.pod_state.status.as_deref().or(self.pod.status.as_ref())?;
        let began = status.start_time.as_ref()?.0;
        self.pod_state.stop.is_none().then(|| after(began, span(seconds)))
    }

    fn show_waiting(&mut self, plan: &Plan) -> Vec<(String, Waiting)> {
        let mut newly = Vec::new();
        for (container, waiting) in &plan.waiting {
            let before = self.pod_state.waiting.insert(container.clone(), waiting.clone());
            if before.is_none_or(|before| before.reason != waiting.reason) {
                newly.push((container.clone(), waiting.clone()));
            }
        }
        newly
    }

    fn one_outcome(&mut self, outcome: &Outcome, now: Timestamp) {
        match outcome {
            Outcome::Done => {}
            Outcome::SandboxMade { .. } => self.pod_state.release(),
            Outcome::SandboxFailed => self.pod_state.hold(now),
            Outcome::Started { container, .. } => {
                self.tried(container, now);
                self.pod_state.waiting.remove(container);
                let image = meta::containers(&self.pod).find(|c| c.name == *container).and_then(|c| c.image.clone());
                self.pod_state.pulls.remove(&image.unwrap_or_default());
            }
            Outcome::StartFailed { container, reason, message, cause } => {
                let retry_at = self.start_failed(container, reason, message, cause, now);
                let waiting = Waiting { reason: (*reason).into(), message: message.clone(), retry_at };
                self.pod_state.waiting.insert(container.clone(), waiting);
            }
            Outcome::Cleaned => self.pod_state.cleaned = true,
            Outcome::Removed => self.pod_state.removed = true,
            Outcome::Failed { error } => {
                tracing::warn!(pod = meta::format(&self.pod), error, "pod sync failed; retrying");
            }
        }
    }

    fn start_failed(&mut self, container: &str, reason: &str, message: &str, cause: &StartCause, now: Timestamp) -> Option<Timestamp> {
        match cause {
            StartCause::Pull { image } => {
                self.pod_state.pull_failed(image, format!("{reason}: {message}"), now);
                None
            }
            // It was made: how it ended decides when it is tried again.
            StartCause::Other if matches!(reason, "RunContainerError" | "PostStartHookError") => {
                self.tried(container, now);
                None
            }
            StartCause::Other => Some(now + RETRY),
        }
    }

    /// Counts a restart.
    fn tried(&mut self, container: &str, now: Timestamp) {
        // Its successor may be known already.
        let ended = self.runtime.iter().flat_map(|r| &r.containers).filter(|c| c.name == container);
        let exit = ended.filter_map(|c| c.exit()).next().cloned();
        if let Some(exit) = exit {
            self.pod_state.restarted(container, &exit, now);
        }
    }
}

/// Tells of containers that begin to wait for their next try.
pub fn tell_back_offs(tell: &PodRecorder, pod: &Pod, newly: &[(String, Waiting)]) {
    for (name, waiting) in newly {
        let Some(container) = meta::containers(pod).find(|c| c.name == *name) else { continue };
        let tell = tell.container(pod, container);
        match waiting.reason.as_str() {
            "CrashLoopBackOff" => {
                tell.warning("BackOff", format!("Back-off restarting failed container {name} in pod {}", meta::format(pod)));
            }
            "ImagePullBackOff" => {
                tell.normal("BackOff", waiting.message.clone());
                tell.warning("Failed", "Error: ImagePullBackOff");
            }
            _ => {}
        }
    }
}

/// Calls after one that changes what the rest were planned from are planned again when it is done.
fn first_stage(calls: &mut Vec<Call>) {
    let changes = |call: &Call| matches!(call, Call::StopPod { .. } | Call::CreateSandbox { .. });
    if let Some(at) = calls.iter().position(changes) {
        calls.truncate(at + 1);
    }
}

/// Ended containers that are kept of each name: the newest is what `logs --previous` and the status show.
const ENDED_KEPT: usize = 2;

/// Upstream: `pkg/kubelet/kuberuntime/kuberuntime_gc.go`.
fn leftovers(runtime: &RuntimePod) -> Vec<Call> {
    let mut ended: std::collections::BTreeMap<&str, usize> = std::collections::BTreeMap::new();
    let mut calls = Vec::new();
    for container in runtime.containers.iter().filter(|c| c.exit().is_some()) {
        let count = ended.entry(&container.name).or_default();
        *count += 1;
        if *count > ENDED_KEPT {
            calls.push(Call::RemoveContainer { id: container.id.clone() });
        }
    }
    calls
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pods::runtime_state::pod::{Container, Exit};

    #[test]
    fn a_restart_counts_though_the_new_container_is_known_already() {
        let mut entry = Entry::new(Origin::Api, Arc::new(Pod::default()));
        let at = |second| Timestamp::from_second(second).unwrap();
        let exited = State::Exited(Exit { code: 1, finished_at: at(10), ..Exit::default() });
        let old = Container { state: exited, ..Container::named("old", "a") };
        entry.inspected(RuntimePod { sandboxes: Vec::new(), containers: vec![old] });
        let running = State::Running { started_at: at(20) };
        let new = Box::new(Container { state: running, created_at: at(20), ..Container::named("new", "a") });
        assert!(entry.container_started([Made::Container(new.clone())]));
        assert!(entry.worker_done(vec![Outcome::Started { container: "a".into(), made: Some(new) }], at(20)));
        assert!(entry.pod_state.crashes.contains_key("a"));
        assert_eq!(entry.runtime.unwrap().container("a").unwrap().id, "new");
    }

    #[test]
    fn calls_that_change_nothing_are_made_less_and_less_often() {
        let mut entry = Entry::new(Origin::Api, Arc::new(Pod::default()));
        let unknown = RuntimePod { sandboxes: Vec::new(), containers: vec![Container::named("c", "a")] };
        entry.stop(StopCause::Deleted, 0);
        let mut made = Vec::new();
        for second in 0..60 {
            let now = Timestamp::from_second(second).unwrap();
            entry.inspected(unknown.clone());
            let (plan, _) = entry.advance(&[], now).unwrap();
            if plan.calls.is_empty() {
                assert!(plan.wake.unwrap() > now);
                continue;
            }
            assert_eq!(plan.calls, [Call::StopPod { grace_seconds: 0 }]);
            entry.worker.begin(&plan.calls, api::task::Group::new(), 1);
            assert!(!entry.worker.end(2) && entry.worker.end(1));
            entry.worker_done(vec![Outcome::Done], now);
            made.push(second);
        }
        assert_eq!(made, [0, 1, 2, 3, 5, 9, 17, 33, 49]);
    }

    #[test]
    fn a_reported_end_is_inspected_until_it_shows() {
        let mut entry = Entry::new(Origin::Api, Arc::new(Pod::default()));
        let runs = Container { state: State::Running { started_at: Timestamp::UNIX_EPOCH }, ..Container::named("c", "a") };
        let pod = |container: &Container| RuntimePod { sandboxes: Vec::new(), containers: vec![container.clone()] };
        assert!(!entry.runtime_event(&TaskEvent::Ended { id: "c".into() }), "nothing is known of it yet");
        entry.inspected(pod(&runs));
        assert!(
            entry.runtime_event(&TaskEvent::Ended { id: "c".into() }) && entry.runtime_event(&TaskEvent::OutOfMemory { id: "c".into() })
        );
        entry.inspected(pod(&runs));
        assert!(entry.inspections.late().is_some());
        let exited = Container { state: State::Exited(Exit { reason: "Error".into(), ..Exit::default() }), ..runs };
        entry.inspected(pod(&exited));
        assert_eq!(entry.inspections.late(), None);
        assert_eq!(entry.runtime.unwrap().by_id("c").unwrap().exit().unwrap().reason, OOM_KILLED);
    }
}
