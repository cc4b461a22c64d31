//! Changes of nodes and pods, and the next pod -> what is to be written. All that the scheduler knows; no I/O, time and random numbers come in.

mod storage;

use std::sync::Arc;

use api::{faults::catch, k8s::api::core::v1::Node, selector::Labels};
use client::pods::Pod;
use tokio::time::Instant;

use crate::{
    cycle_state::CycleState,
    framework::{Ask, BindingPlugins, Change, Failure, Freed, Memo, More, Plugins, Reserving, WaitingPod, WaitingPods},
    node::Facts,
    plan::{Nomination, Outcome, Refused, plan},
    plugins::PLUGINS,
    pod::{PodInfo, is_ours, is_over, node_of},
    queue::{Ended, Queue, QueuedPodInfo},
    snapshot::{NodeChange, PodChange, Snapshot},
};

/// What a pod is told that would have to wait while as many do as may.
pub const NO_ROOM: &str = "too many pods wait for their volumes or permits; it is tried again";

pub struct State {
    plugins: Plugins,
    pub snapshot: Snapshot,
    pub queue: Queue,
    /// Pods whose bindings are being prepared.
    pub waiting: Arc<WaitingPods>,
    /// Whether one more may be: one that would have to is tried again later, all others go on.
    pub has_room: bool,
    binding: BindingPlugins,
    memo: Memo,
}

/// What one try wants written.
pub enum Todo {
    Bind(Box<Binding>),
    /// The pod stays where it is; the refusal is reported.
    Unschedulable(Arc<PodInfo>, Box<Refused>),
    /// It is tried again after a rest; the condition's reason, and the message.
    Fail(Arc<PodInfo>, &'static str, String),
    Skip(Arc<PodInfo>),
}

impl Todo {
    /// The pod that it is about.
    pub fn info(&self) -> &Arc<PodInfo> {
        match self {
            Self::Bind(binding) => &binding.tried.info,
            Self::Unschedulable(info, _) | Self::Fail(info, ..) | Self::Skip(info) => info,
        }
    }
}

/// A pod that was given a node.
#[derive(Debug)]
pub struct Binding {
    pub tried: QueuedPodInfo,
    pub node: String,
    /// What plugins kept of it.
    pub state: CycleState,
    /// Those that have something to write before it is bound.
    pub pre_binds: BindingPlugins,
    /// `None` if nothing is to be waited for or written before.
    pub waiting: Option<Arc<WaitingPod>>,
    /// Nothing is any more.
    pub prepared: bool,
    /// While it waited something changed that could help it, were it rejected.
    pub helped: bool,
    /// When its try began.
    pub began: Instant,
}

impl Default for State {
    fn default() -> Self {
        Self::new(PLUGINS)
    }
}

impl State {
    pub fn new(plugins: Plugins) -> Self {
        let (queue, binding) = (Queue::new(plugins), BindingPlugins::of(plugins));
        Self { plugins, snapshot: Snapshot::default(), queue, waiting: Arc::default(), has_room: true, binding, memo: Memo::default() }
    }

    /// Decides about the next pod; the decision holds in the snapshot before anybody else decides. `siblings`: see [`Ask::new`].
    ///
    /// A pod about which deciding panics is tried again later, as one that could not be bound; what was remembered of its like is forgotten.
    pub fn next(&mut self, now: Instant, siblings: impl Fn(&Pod) -> Option<Labels>, random: u64) -> Option<Todo> {
        loop {
            let tried = self.queue.pop(now)?;
            if self.snapshot.is_assumed(&tried.info.key) {
                continue;
            }
            if tried.info.terminating {
                return Some(Todo::Skip(tried.info));
            }
            let again = tried.clone();
            let decided = catch("default-scheduler", || {
                let siblings = siblings(&tried.info.pod);
                self.decide(tried, siblings, random)
            });
            match decided {
                Ok(todo) => return Some(todo),
                Err(panic) => {
                    tracing::error!(ns = again.info.key.namespace, name = again.info.key.name, error = %panic, "scheduling cycle panicked; requeuing the pod");
                    self.memo = Memo::default();
                    self.snapshot.forget(&again.info);
                    self.queue.back(again, Ended::Failed, now);
                }
            }
        }
    }

    fn decide(&mut self, tried: QueuedPodInfo, siblings: Option<Labels>, random: u64) -> Todo {
        let (info, began) = (tried.info.clone(), Instant::now());
        let ask = Ask::new(self.plugins, &mut self.snapshot, info.clone(), siblings.as_ref());
        let class = self.memo.class(&self.snapshot, &ask);
        match plan(&self.snapshot, class, &ask, random) {
            Outcome::Bind(node) => {
                self.snapshot.nominate(&info, None);
                self.snapshot.assume(info, &node);
                let (state, pre_binds) = (ask.state, BindingPlugins::default());
                self.reserve(Box::new(Binding { tried, node, state, pre_binds, waiting: None, prepared: false, helped: false, began }))
            }
            Outcome::Refused(refused) => {
                let plugins = refused.plugins.clone();
                let ended = match &refused.nomination {
                    Nomination::Keep => Ended::Refused(plugins),
                    Nomination::Clear => {
                        self.snapshot.nominate(&info, None);
                        Ended::Refused(plugins)
                    }
                    Nomination::Preempt(preemption) => {
                        self.snapshot.nominate(&info, Some(&preemption.node));
                        Ended::Preempting(plugins)
                    }
                };
                self.queue.back(tried, ended, Instant::now());
                Todo::Unschedulable(info, refused)
            }
        }
    }

    /// What plugins have to say before the pod is bound, as far as they need not wait.
    fn reserve(&mut self, mut binding: Box<Binding>) -> Todo {
        let done = catch("default-scheduler", || {
            if !self.binding.is_empty() {
                self.asked(&mut binding)?;
            }
            self.queue.changed(&Change::PodPlaced(&binding.tried.info), Instant::now());
            Ok(())
        });
        match done.unwrap_or_else(|panic| Err(Failure::error(panic.to_string()))) {
            Ok(()) => Todo::Bind(binding),
            Err(failure) => self.refused(&mut binding, failure),
        }
    }

    fn asked(&mut self, binding: &mut Binding) -> Result<(), Failure> {
        let (info, now) = (&binding.tried.info, Instant::now());
        let at = &mut Reserving { pod: info, node: &binding.node, snapshot: &mut self.snapshot, state: &mut binding.state };
        self.binding.reserve(at)?;
        let waits = self.binding.permit(at, &self.waiting)?;
        binding.pre_binds = self.binding.pre_flight(at)?;
        let must_wait = !waits.is_empty() || !binding.pre_binds.is_empty();
        if must_wait && !self.has_room {
            return Err(Failure::error(NO_ROOM.into()));
        }
        if !waits.is_empty() {
            let permitting = waits.iter().map(|(plugin, _)| *plugin).collect();
            self.queue.back(binding.tried.clone(), Ended::Permitting(permitting), now);
        }
        if must_wait {
            binding.waiting = Some(self.waiting.add(info.clone(), waits, now));
        }
        Ok(())
    }

    /// In the scheduling cycle: nobody saw that the pod had a node.
    fn refused(&mut self, binding: &mut Binding, failure: Failure) -> Todo {
        self.waited(binding);
        self.unreserve(binding);
        let (tried, now) = (binding.tried.clone(), Instant::now());
        let info = tried.info.clone();
        match failure {
            Failure::Refused(refusal) => {
                self.queue.back(tried, Ended::Refused([refusal.plugin].into()), now);
                Todo::Unschedulable(info, Box::new(Refused::of_one(&refusal)))
            }
            Failure::Again(reason, message) => {
                self.queue.back(tried, Ended::Failed, now);
                Todo::Fail(info, reason, message)
            }
        }
    }

    /// What was waited for is over, well or badly.
    pub fn waited(&mut self, binding: &mut Binding) {
        self.waiting.remove(&binding.tried.info.uid);
        (binding.helped, binding.prepared) = (self.queue.permitted(&binding.tried.info), true);
    }

    /// Takes the pod from where it was to be. True if this very pod was still only assumed to be there.
    pub fn unreserve(&mut self, binding: &mut Binding) -> bool {
        let info = &binding.tried.info;
        let at = &mut Reserving { pod: info, node: &binding.node, snapshot: &mut self.snapshot, state: &mut binding.state };
        self.binding.unreserve(at);
        self.snapshot.forget(info)
    }

    pub fn node_changed(&mut self, old: Option<&Arc<Node>>, new: Option<&Arc<Node>>) {
        let now = Instant::now();
        match (old, new) {
            (_, Some(node)) => match self.snapshot.set_node(Facts::new(node)) {
                Some(NodeChange::Added(facts)) => self.queue.changed(&Change::NodeAdded(&facts), now),
                Some(NodeChange::Changed(old, new)) => self.queue.changed(&Change::NodeChanged(&old, &new), now),
                None => {}
            },
            (Some(node), None) => {
                let name = node.metadata.name.as_deref().unwrap_or("");
                if let Some(facts) = self.snapshot.remove_node(name) {
                    self.queue.changed(&Change::NodeGone(&facts), now);
                }
            }
            (None, None) => {}
        }
    }

    pub fn pod_changed(&mut self, old: Option<&Arc<Pod>>, new: Option<&Arc<Pod>>) {
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
                self.snapshot.nominate(&info, None);
                match self.snapshot.put_pod(info.clone(), node) {
                    PodChange::Changed(before) => self.queue.changed(&Change::PodChanged(&before, &info), now),
                    PodChange::Placed => self.queue.changed(&Change::PodPlaced(&info), now),
                    PodChange::Same => {}
                }
            }
            // One that is assumed shows itself bound, or its binding fails.
            None if is_ours(new) && !self.snapshot.is_assumed(&info.key) => {
                // What we nominated ourselves is not in the object yet.
                let before = old.filter(|_| same).and_then(|o| o.status.as_ref()?.nominated_node_name.as_deref());
                if before != info.nominated() {
                    self.snapshot.nominate(&info, info.nominated());
                }
                self.queue.put(info, now);
            }
            None => {}
        }
    }

    fn pod_gone(&mut self, info: &Arc<PodInfo>, now: Instant) {
        self.queue.remove(&info.key);
        if let Some(waiting) = self.waiting.get(&info.uid) {
            waiting.gone();
        }
        // Where it was, or where weaker pods kept away because it was expected.
        let node = self.snapshot.node_of(&info.key).or_else(|| self.snapshot.nominated_node(&info.key)).map(str::to_owned);
        self.snapshot.nominate(info, None);
        self.snapshot.take_pod(&info.key);
        let Some(node) = node else { return };
        let nominated: Vec<Arc<PodInfo>> = self.snapshot.nominated_on(&node).cloned().collect();
        let freed = self.snapshot.find(&node).map(|node| Freed { node, nominated: &nominated, more: More::WeakerCouldLeave });
        self.queue.changed(&Change::PodGone(info, freed), now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        framework::{Permit, Status},
        probe::{Probe, answers, long, reserved, table},
        tests::{node, pod},
    };
    use api::Key;
    use serde_json::json;
    use std::time::Duration;

    fn asking(name: &str, cpu: &str, node: &str, phase: &str) -> Arc<Pod> {
        let containers = json!([{"name": "c", "resources": {"requests": {"cpu": cpu}}}]);
        let said = json!({"metadata": {"name": name, "uid": name}, "spec": {"containers": containers, "nodeName": node}, "status": {"phase": phase}});
        pod(&said).pod
    }

    fn state(cpu: &str) -> State {
        with(State::default(), cpu)
    }

    fn with(mut state: State, cpu: &str) -> State {
        let said = json!({"metadata": {"name": "a"}, "status": {"allocatable": {"cpu": cpu, "pods": "10"}}});
        state.node_changed(None, Some(&Arc::new(node(&said))));
        state
    }

    /// The next pod, and the node it gets.
    fn step(state: &mut State) -> Option<(String, Option<String>)> {
        let tried = state.queue.pop(Instant::now())?;
        let name = tried.info.key.name.clone();
        match state.decide(tried, None, 0) {
            Todo::Bind(binding) => Some((name, Some(binding.node))),
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
        assert_eq!(state.snapshot.find("a").unwrap().used.milli_cpu, 1000, "what was over is not taken away twice");
    }

    #[test]
    fn a_pod_that_panics_rests_and_the_others_are_placed() {
        let mut state = state("2");
        // The older one comes first.
        state.pod_changed(None, Some(&asking("bad", "1", "", "Pending")));
        state.pod_changed(None, Some(&asking("good", "1", "", "Pending")));
        let (panics, now) = (api::faults::panics(), Instant::now());
        let siblings = |pod: &Pod| -> Option<Labels> {
            assert_ne!(pod.metadata.name.as_deref(), Some("bad"), "it is not to be looked at");
            None
        };
        let placed = |todo: Option<Todo>| match todo {
            Some(Todo::Bind(binding)) => Some((binding.tried.info.key.name.clone(), binding.node)),
            _ => None,
        };
        assert_eq!(placed(state.next(now, siblings, 0)), Some(("good".into(), "a".into())));
        assert!(placed(state.next(now, siblings, 0)).is_none() && api::faults::panics() > panics);
        let due = state.queue.due().expect("it is tried again");
        assert!(due > now);
        assert_eq!(placed(state.next(due, |_| None, 0)), Some(("bad".into(), "a".into())));
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
        assert_eq!(state.snapshot.find("a").unwrap().used.milli_cpu, 0);
    }

    #[test]
    fn a_nominated_pod_that_is_deleted_frees_its_place() {
        let mut state = state("2");
        let containers = json!([{"name": "c", "resources": {"requests": {"cpu": "2"}}}]);
        let spec = json!({"containers": containers, "priority": 9, "schedulingGates": [{"name": "g"}]});
        let strong = json!({"metadata": {"name": "strong", "uid": "strong"}, "spec": spec, "status": {"nominatedNodeName": "a"}});
        let strong = pod(&strong).pod;
        state.pod_changed(None, Some(&strong));
        state.pod_changed(None, Some(&asking("weak", "1", "", "Pending")));
        assert_eq!(step(&mut state), Some(("weak".into(), None)));
        state.pod_changed(Some(&strong), None);
        assert_eq!(step(&mut state), Some(("weak".into(), Some("a".into()))));
    }

    #[test]
    fn what_is_refused_late_is_given_back_in_reverse() {
        let no = || Status::Rejected("no".into());
        let broken = || Status::Error("broken".into());
        let (told, failed) = ("0/1 nodes are available: 1 no.", |point: &str, why: &str| format!("running {point} plugin \"Two\": {why}"));
        let rows = [
            (Probe { reserves: answers([Err(no())]), ..Probe::default() }, "", told.to_owned()),
            (Probe { reserves: answers([Err(broken())]), ..Probe::default() }, "", failed("Reserve", "broken")),
            (Probe { permits: answers([Permit::Deny(no())]), ..Probe::default() }, "permit", told.to_owned()),
            (Probe { permits: answers([Permit::Deny(broken())]), ..Probe::default() }, "permit", failed("Permit", "broken")),
        ];
        for (two, asked, want) in rows {
            let (plugins, log) = table(Probe::default(), two);
            let (mut state, now) = (with(State::new(plugins), "2"), Instant::now());
            state.pod_changed(None, Some(&asking("p", "2", "", "Pending")));
            let (message, rests) = match state.next(now, |_| None, 0) {
                Some(Todo::Unschedulable(_, refused)) => (refused.message, state.queue.due() > Some(now + Duration::from_secs(60))),
                Some(Todo::Fail(_, "SchedulerError", message)) => (message, state.queue.due() < Some(now + Duration::from_secs(60))),
                _ => panic!("it is not bound"),
            };
            assert!(rests && message == want, "{message}");
            let mut calls = vec!["One reserve", "Two reserve", "One permit", "Two permit", "Two unreserve", "One unreserve"];
            calls.retain(|call| !asked.is_empty() || !call.contains("permit"));
            assert_eq!(*log.lock(), calls);
            assert_eq!((reserved(&state.snapshot), state.snapshot.find("a").unwrap().used.milli_cpu), (0, 0));
        }
    }

    #[test]
    fn a_plugin_that_panics_while_it_reserves_keeps_nothing() {
        let (plugins, _) = table(Probe { reserves: answers([Err(Status::Error("panic".into()))]), ..Probe::default() }, Probe::default());
        let mut state = with(State::new(plugins), "2");
        state.pod_changed(None, Some(&asking("p", "2", "", "Pending")));
        assert!(matches!(state.next(Instant::now(), |_| None, 0), Some(Todo::Fail(_, _, message)) if message.contains("panic")));
        assert_eq!((reserved(&state.snapshot), state.snapshot.find("a").unwrap().used.milli_cpu), (0, 0));
        let due = state.queue.due().expect("it is tried again");
        assert!(matches!(state.next(due, |_| None, 0), Some(Todo::Bind(binding)) if binding.waiting.is_none()));
        assert_eq!(reserved(&state.snapshot), 2);
    }

    #[test]
    fn a_hint_that_panics_wakes_who_waits_and_harms_nobody_else() {
        let denies = answers([Permit::Deny(Status::Rejected("no".into()))]);
        let (plugins, _) = table(Probe { permits: denies, panics: true, ..Probe::default() }, Probe::default());
        let (mut state, now) = (with(State::new(plugins), "2"), Instant::now());
        state.pod_changed(None, Some(&asking("first", "1", "", "Pending")));
        assert!(matches!(state.next(now, |_| None, 0), Some(Todo::Unschedulable(..))));
        state.pod_changed(None, Some(&asking("second", "1", "", "Pending")));
        let bound = |state: &mut State| match state.next(now, |_| None, 0) {
            Some(Todo::Bind(binding)) => Some(binding.tried.info.key.name.clone()),
            _ => None,
        };
        assert_eq!((bound(&mut state).as_deref(), bound(&mut state).as_deref()), (Some("second"), Some("first")));
    }

    #[test]
    fn what_happens_while_a_permit_is_waited_for_is_not_missed() {
        for (happens, is_ready) in [(false, false), (true, true)] {
            let (plugins, _) = table(Probe { permits: answers([long()]), ..Probe::default() }, Probe::default());
            let (mut state, now) = (with(State::new(plugins), "2"), Instant::now());
            state.pod_changed(None, Some(&asking("p", "1", "", "Pending")));
            let Some(Todo::Bind(mut binding)) = state.next(now, |_| None, 0) else { panic!("it waits for its permit") };
            assert_eq!(binding.waiting.as_ref().map(|w| w.pending()), Some(vec!["One"]));
            assert!(state.next(now + Duration::from_secs(600), |_| None, 0).is_none(), "it is not tried twice");
            if happens {
                let said = json!({"metadata": {"name": "b"}, "status": {"allocatable": {"cpu": "1", "pods": "10"}}});
                state.node_changed(None, Some(&Arc::new(node(&said))));
            }
            state.waited(&mut binding);
            assert!(state.unreserve(&mut binding) && binding.helped == happens);
            assert!(state.waiting.all().is_empty());
            state.queue.back(binding.tried, Ended::Refused(["One"].into()), now);
            if binding.helped {
                state.queue.wake(&Key::new("default", "p"), now);
            }
            assert_eq!(state.next(now, |_| None, 0).is_some(), is_ready);
        }
    }

    #[test]
    fn without_room_who_would_wait_is_tried_again_and_the_others_go_on() {
        let (plugins, _) = table(Probe { permits: answers([long()]), ..Probe::default() }, Probe::default());
        let (mut state, now) = (with(State::new(plugins), "2"), Instant::now());
        state.has_room = false;
        state.pod_changed(None, Some(&asking("waits", "2", "", "Pending")));
        state.pod_changed(None, Some(&asking("plain", "2", "", "Pending")));
        assert!(matches!(state.next(now, |_| None, 0), Some(Todo::Fail(_, "SchedulerError", message)) if message == NO_ROOM));
        assert_eq!((reserved(&state.snapshot), state.waiting.all().len()), (0, 0));
        assert!(matches!(state.next(now, |_| None, 0), Some(Todo::Bind(binding)) if binding.tried.info.key.name == "plain"));
        assert!(state.queue.due().is_some_and(|due| due > now), "it rests");
    }

    #[test]
    fn a_pod_that_is_deleted_waits_no_longer() {
        let (plugins, _) = table(Probe { permits: answers([long()]), ..Probe::default() }, Probe::default());
        let mut state = with(State::new(plugins), "2");
        let pending = asking("p", "1", "", "Pending");
        state.pod_changed(None, Some(&pending));
        let Some(Todo::Bind(binding)) = state.next(Instant::now(), |_| None, 0) else { panic!("it waits for its permit") };
        state.pod_changed(Some(&pending), None);
        assert!(!binding.waiting.unwrap().reject("One", "no"), "it is rejected already");
    }

    #[test]
    fn a_pod_that_is_deleted_is_prepared_no_longer() {
        let (plugins, _) = table(Probe { writes: true, ..Probe::default() }, Probe::default());
        let mut state = with(State::new(plugins), "2");
        let pending = asking("p", "1", "", "Pending");
        state.pod_changed(None, Some(&pending));
        let Some(Todo::Bind(binding)) = state.next(Instant::now(), |_| None, 0) else { panic!("it is prepared") };
        state.pod_changed(Some(&pending), None);
        assert_eq!(binding.waiting.unwrap().pre_bound(), Err(Failure::error("pod is removed".into())));
    }
}
