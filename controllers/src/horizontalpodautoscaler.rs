//! HorizontalPodAutoscaler -> the scale of its target, by what is measured.
//!
//! Source: `pkg/controller/podautoscaler`. Each is looked at once in a period, as upstream, first a period after it was seen: its target's scale is read,
//! then its metrics, and what they come to is decided without asking anybody again ([`decide`]). Where there is none, nothing is asked. Scaling to
//! zero (`HPAScaleToZero`, alpha) is left out.

mod ask;
mod calculate;
mod decide;
mod limits;
mod measure;
mod metric;
mod status;
mod targets;
#[cfg(test)]
mod tests;
mod told;

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
    time::Duration,
};

use api::{
    Key,
    k8s::api::autoscaling::v2::{HorizontalPodAutoscaler, HorizontalPodAutoscalerSpec},
    selector::Labels,
    time::Timestamp,
};
use client::{Cache, kube, leader::Clock, pods::Pod};
use kube::ResourceExt;
use parking_lot::{Mutex, RwLock};
use reconcile::{Action, Controller, Done, Matters, Plan, Wake, selectors::Selectors};
use tokio::time::Instant;

use crate::Entry;
use ask::Asks;
use decide::{METRICS_MAX, decide};
use limits::History;
use measure::{Asked, Measuring};
use status::Failed;
use targets::{Fault, Scale};

/// All questions of one look; those that are left after that are not asked.
const LOOK_BOUND: Duration = Duration::from_secs(30);
/// Pods that are looked at before others have the thread.
const TURN_PODS: usize = 256;

/// How autoscalers are looked at. Names and defaults are kube-controller-manager's.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AutoscalerConfig {
    /// `--horizontal-pod-autoscaler-sync-period`
    pub sync_period: Duration,
    /// `--horizontal-pod-autoscaler-downscale-stabilization`
    pub downscale_stabilization: Duration,
    /// `--horizontal-pod-autoscaler-tolerance`: not negative.
    pub tolerance: f64,
    /// `--horizontal-pod-autoscaler-cpu-initialization-period`
    pub cpu_initialization: Duration,
    /// `--horizontal-pod-autoscaler-initial-readiness-delay`
    pub initial_readiness_delay: Duration,
}

impl Default for AutoscalerConfig {
    fn default() -> Self {
        Self {
            sync_period: Duration::from_secs(15),
            downscale_stabilization: Duration::from_secs(5 * 60),
            tolerance: 0.1,
            cpu_initialization: Duration::from_secs(5 * 60),
            initial_readiness_delay: Duration::from_secs(30),
        }
    }
}

pub struct Autoscalers {
    autoscalers: Cache<HorizontalPodAutoscaler>,
    pods: Cache<Pod>,
    config: AutoscalerConfig,
    clock: Clock,
    asks: Asks,
    /// What each selected when it was looked at last: two must not select the same pod.
    selectors: RwLock<Selectors>,
    memory: Mutex<HashMap<Key, Memory>>,
}

/// What is known of an autoscaler beside what is stored. As large as the number of autoscalers.
#[derive(Clone, Debug, Default)]
struct Memory {
    uid: String,
    /// When it is looked at again, on the clock that is never set.
    due: Duration,
    history: History,
    /// The target's scale could not be written: to be told.
    failed: Option<Box<Failed>>,
}

pub struct World {
    autoscaler: Arc<HorizontalPodAutoscaler>,
    config: AutoscalerConfig,
    /// On the clock that is never set: what was recommended when.
    at: Duration,
    now: Timestamp,
    history: History,
    seen: Seen,
}

/// What there was to see.
enum Seen {
    /// It is not time yet.
    Wait(Duration),
    Failed(Box<Failed>),
    NoScale(Fault),
    /// Without metrics where none are needed.
    Scale(Box<Scale>, Option<Looked>),
}

struct Looked {
    /// Those that are measured.
    pods: Result<Vec<Arc<Pod>>, Unselected>,
    /// By the place of the metric in the spec.
    asked: Vec<Asked>,
}

/// Why there is nothing to measure.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Unselected {
    Missing,
    Invalid(String),
    /// Others select pods of the same, these among them, in the order of their names.
    Ambiguous {
        selector: String,
        all: Vec<Key>,
    },
}

impl Autoscalers {
    pub fn of(entry: &Entry<'_>) -> Self {
        let (caches, config) = (entry.caches, entry.config);
        Self {
            asks: Asks::new(entry.client(), config.autoscalers.sync_period),
            autoscalers: caches.of(),
            pods: caches.of(),
            config: config.autoscalers,
            clock: config.clock.clone(),
            selectors: RwLock::default(),
            memory: Mutex::default(),
        }
    }

    fn forget(&self, key: &Key) {
        if self.memory.lock().remove(key).is_some() {
            told::forget(key);
        }
        self.selectors.write().set(key, None);
    }

    /// One that is new is looked at a period later (`enqueueHPA`).
    fn remembered(&self, key: &Key, uid: &str, at: Duration) -> Memory {
        let mut all = self.memory.lock();
        let known = all.entry(key.clone()).or_default();
        if known.uid != uid {
            *known = Memory { uid: uid.to_owned(), due: at.saturating_add(self.config.sync_period), ..Memory::default() };
        }
        known.clone()
    }

    async fn look(&self, key: &Key, spec: &HorizontalPodAutoscalerSpec) -> Seen {
        let until = Instant::now() + LOOK_BOUND;
        let scale = match self.asks.scale(&key.namespace, &spec.scale_target_ref, until).await {
            Ok(scale) => scale,
            Err(fault) => return Seen::NoScale(fault),
        };
        if !decide::needs_metrics(spec, scale.replicas) {
            return Seen::Scale(Box::new(scale), None);
        }
        let looked = match self.select(key, &scale.selector).await {
            Err(unselected) => Looked { pods: Err(unselected), asked: Vec::new() },
            Ok((pods, labels)) => {
                let all = spec.metrics.as_deref().unwrap_or_default();
                let metrics = if all.len() > METRICS_MAX { &[] } else { all };
                let asked = Measuring::new(&self.asks, &key.namespace, &labels, until).all(metrics).await;
                Looked { pods: Ok(pods), asked }
            }
        };
        Seen::Scale(Box::new(scale), Some(looked))
    }

    /// `validateAndParseSelector`
    async fn select(&self, key: &Key, selector: &str) -> Result<(Vec<Arc<Pod>>, Labels), Unselected> {
        if selector.is_empty() {
            return Err(Unselected::Missing);
        }
        let labels = Labels::parse(selector).map_err(Unselected::Invalid)?;
        self.selectors.write().set(key, Some(labels.clone()));
        let (mut pods, mut all) = (Vec::new(), BTreeSet::from([key.name.clone()]));
        for some in self.pods.in_namespace(&key.namespace).chunks(TURN_PODS) {
            let selected = some.iter().filter(|pod| labels.matches(pod.metadata.labels.as_ref()));
            let before = pods.len();
            pods.extend(selected.cloned());
            self.others(key, &pods[before..], &mut all);
            tokio::task::yield_now().await;
        }
        if all.len() > 1 {
            let all = all.into_iter().map(|name| Key::new(&key.namespace, &name)).collect();
            return Err(Unselected::Ambiguous { selector: selector.to_owned(), all });
        }
        Ok((pods, labels))
    }

    /// `hpasControllingPodsUnderSelector`
    fn others(&self, key: &Key, pods: &[Arc<Pod>], all: &mut BTreeSet<String>) {
        let selectors = self.selectors.read();
        for labels in pods.iter().filter_map(|pod| pod.metadata.labels.as_ref()) {
            for name in selectors.matching(&key.namespace, labels) {
                if !all.contains(name) {
                    all.insert(name.to_owned());
                }
            }
        }
    }
}

impl Controller for Autoscalers {
    type World = World;

    fn name(&self) -> &'static str {
        "horizontal-pod-autoscaler-controller"
    }

    fn watches(&self, wake: &Wake) {
        told::follow(&self.autoscalers);
        // One that changed is looked at when its time comes.
        wake.on_own_if(&self.autoscalers, |old, new| match (old, new) {
            (Some(old), Some(new)) if old.metadata.uid == new.metadata.uid => Matters::Not,
            _ => Matters::Somewhat,
        });
        wake.needs(&self.pods);
    }

    async fn observe(&self, key: &Key) -> Option<World> {
        let Some(autoscaler) = self.autoscalers.get(key) else {
            self.forget(key);
            return None;
        };
        let (at, spec) = (self.clock.now(), &autoscaler.spec);
        let memory = self.remembered(key, &autoscaler.uid().unwrap_or_default(), at);
        let seen = match memory.failed {
            _ if memory.due > at => Seen::Wait(memory.due.saturating_sub(at)),
            Some(failed) => Seen::Failed(failed),
            None => self.look(key, spec).await,
        };
        Some(World { autoscaler, config: self.config, at, now: Timestamp::now(), history: memory.history, seen })
    }

    fn plan(&self, world: &World, _: &Key) -> Plan {
        decide(world).0
    }

    fn ran(&self, key: &Key, world: &World, done: &Done<'_>) {
        if matches!(world.seen, Seen::Wait(_)) {
            return;
        }
        // A plan of the same world is the same.
        let outcome = decide(world).1;
        let refused = done.failed.iter().find(|(action, _)| is_of_scale(action)).map(|(_, error)| error);
        let next = world.at.saturating_add(self.config.sync_period);
        let mut all = self.memory.lock();
        let Some(memory) = all.get_mut(key).filter(|memory| memory.uid == world.autoscaler.uid().unwrap_or_default()) else { return };
        memory.failed = None;
        match refused {
            // The target is not as it was seen: it is looked at anew (upstream reads it and writes again, five times).
            Some(error) if code(error) == 409 => memory.due = world.at,
            Some(error) => {
                memory.history = outcome.history.clone();
                // What is gone is missed at the next look; all else is told at once.
                let failed = outcome.failed(error_text(error)).filter(|_| code(error) != 404);
                memory.due = if failed.is_some() { world.at } else { next };
                memory.failed = failed.map(Box::new);
            }
            None => {
                memory.history = outcome.history.clone();
                if let Some((from, to)) = outcome.rescaled {
                    memory.history.rescaled(world.autoscaler.spec.behavior.as_ref(), from, to, world.at);
                }
                memory.due = next;
            }
        }
        drop(all);
        // One that could not scale was counted when that showed.
        if !matches!(world.seen, Seen::Failed(_)) {
            told::ran(key, &outcome, refused.is_some(), done);
        }
    }

    fn failed(&self, key: &Key, action: &Action, error: &kube::Error) -> Option<Action> {
        // A scale that could not be written is told with the status.
        let is_of_status = matches!(action, Action::Update { .. }) && !is_of_scale(action);
        let autoscaler = self.autoscalers.get(key).filter(|_| is_of_status)?;
        Some(Action::warning(&*autoscaler, "FailedUpdateStatus", error_text(error)))
    }
}

fn is_of_scale(action: &Action) -> bool {
    matches!(action, Action::Update { path, .. } if path.ends_with("/scale"))
}

fn code(error: &kube::Error) -> u16 {
    if let kube::Error::Api(status) = error { status.code } else { 0 }
}

fn error_text(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) => status.message.clone(),
        other => other.to_string(),
    }
}
