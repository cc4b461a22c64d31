//! What was seen of an autoscaler and its target -> what is done. Source: `reconcileAutoscaler` of `pkg/controller/podautoscaler/horizontal.go`.

use std::time::Duration;

use api::{
    k8s::{
        api::autoscaling::v2::{HorizontalPodAutoscaler, HorizontalPodAutoscalerSpec, HorizontalPodAutoscalerStatus, MetricStatus},
        apimachinery::pkg::apis::meta::v1::Time,
    },
    time::whole_seconds,
};
use reconcile::{Action, Plan};

use super::{
    Looked, Seen, Unselected, World,
    calculate::{Members, Tolerances},
    limits::{History, Range},
    metric::{Computing, Failure},
    status::{self, ABLE, ACTIVE, Failed, LIMITED, SCALED_TO_ZERO},
    targets::{Fault, Scale},
};

/// Autoscalers that a message names which select the same pods.
const NAMED_MAX: usize = 10;
/// Metrics of one autoscaler. What each of them says of all pods is held until the last is known; upstream has no bound.
pub const METRICS_MAX: usize = 64;

/// What a plan comes to, beside its actions.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    pub history: History,
    /// The scale that is to be written: from, to.
    pub rescaled: Option<(i32, i32)>,
    /// What is told where that fails.
    failed: Option<Box<Failed>>,
    /// `desired_replicas` of the metrics.
    pub desired: Option<i32>,
    pub fault: Faulty,
    /// By the place of the metric in the spec: what it wants beside what there was; how long it took.
    pub computed: Vec<Computed>,
}

/// Whose fault it is that not all was done (`ErrorLabel`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Faulty {
    #[default]
    None,
    Spec,
    Internal,
}

/// For the metrics of the controller.
#[derive(Clone, Debug)]
pub struct Computed {
    pub kind: String,
    /// Where it is known: how it stands to what the status said before.
    pub wants: Result<std::cmp::Ordering, Faulty>,
    pub took: Duration,
}

/// One look, as it is decided.
struct Run<'a> {
    world: &'a World,
    autoscaler: &'a HorizontalPodAutoscaler,
    spec: &'a HorizontalPodAutoscalerSpec,
    status: HorizontalPodAutoscalerStatus,
    outcome: Outcome,
    actions: Vec<Action>,
}

/// What the metrics want together.
struct Wanted {
    replicas: i32,
    metric: String,
    statuses: Vec<MetricStatus>,
}

impl Outcome {
    /// What is to be told where the scale could not be written.
    pub fn failed(&self, message: String) -> Option<Failed> {
        self.failed.as_deref().map(|failed| Failed { message, ..failed.clone() })
    }
}

/// Whether the metrics say what is to be done: not where the target's replicas are out of range, or none.
pub fn needs_metrics(spec: &HorizontalPodAutoscalerSpec, replicas: i32) -> bool {
    replicas != 0 && (min(spec)..=spec.max_replicas).contains(&replicas)
}

pub fn decide(world: &World) -> (Plan, Outcome) {
    let autoscaler = &*world.autoscaler;
    let outcome = Outcome { history: world.history.clone(), ..Outcome::default() };
    let (spec, status) = (&autoscaler.spec, autoscaler.status.clone().unwrap_or_default());
    let mut run = Run { world, autoscaler, spec, status, outcome, actions: Vec::new() };
    match &world.seen {
        Seen::Wait(left) => return (Plan::rest().again_in(*left), run.outcome),
        Seen::NoScale(fault) => run.no_scale(fault),
        Seen::Failed(failed) => run.not_rescaled(failed),
        Seen::Scale(scale, looked) => run.scale(scale, looked.as_ref()),
    }
    (Plan::act(run.actions).again_in(world.config.sync_period), run.outcome)
}

fn min(spec: &HorizontalPodAutoscalerSpec) -> i32 {
    spec.min_replicas.unwrap_or(1)
}

impl Run<'_> {
    fn set(&mut self, kind: &str, is: bool, words: (&str, impl Into<String>)) {
        status::set(&mut self.status, kind, is, words, self.world.now);
    }

    fn warn(&mut self, reason: &'static str, message: impl Into<String>) {
        self.actions.push(Action::warning(self.autoscaler, reason, message));
    }

    fn tell(&mut self) {
        let status = std::mem::take(&mut self.status);
        self.actions.extend(status::update(self.autoscaler, status));
    }

    fn no_scale(&mut self, fault: &Fault) {
        self.outcome.fault = if fault.is_of_spec { Faulty::Spec } else { Faulty::Internal };
        self.warn("FailedGetScale", &fault.message);
        let message = format!("the HPA controller was unable to get the target's current scale: {}", fault.message);
        self.set(ABLE, false, ("FailedGetScale", message));
        self.tell();
    }

    /// The scale could not be written at the look before.
    fn not_rescaled(&mut self, failed: &Failed) {
        self.outcome.fault = Faulty::Internal;
        let Failed { status, desired, reason, message } = failed;
        self.warn("FailedRescale", format!("New size: {desired}; reason: {reason}; error: {message}"));
        self.status = status.clone();
        self.set(ABLE, false, ("FailedUpdateScale", format!("the HPA controller was unable to update the target scale: {message}")));
        self.tell();
    }

    fn scale(&mut self, scale: &Scale, looked: Option<&Looked>) {
        self.set(ABLE, true, ("SucceededGetScale", "the HPA controller was able to get the target's current scale"));
        let (current, spec) = (scale.replicas, self.spec);
        self.outcome.history.begin(current, self.world.at);
        let (mut metrics, mut reason) = (Vec::new(), String::new());
        let desired = match looked {
            _ if current == 0 => {
                self.set(ACTIVE, false, ("ScalingDisabled", "scaling is disabled since the replica count of the target is zero"));
                status::remove(&mut self.status, SCALED_TO_ZERO);
                0
            }
            _ if current > spec.max_replicas => {
                "Current number of replicas above Spec.MaxReplicas".clone_into(&mut reason);
                spec.max_replicas
            }
            _ if current < min(spec) => {
                "Current number of replicas below Spec.MinReplicas".clone_into(&mut reason);
                min(spec)
            }
            None => current,
            Some(looked) => {
                let wanted = match self.wanted(scale, looked) {
                    Ok(wanted) => wanted,
                    Err((why, statuses)) => return self.not_computed(current, &why, statuses),
                };
                metrics = wanted.statuses;
                // Less than nothing is nothing.
                let desired = wanted.replicas.max(0);
                if desired > current {
                    reason = format!("{} above target", wanted.metric);
                } else if desired < current {
                    "All metrics below target".clone_into(&mut reason);
                }
                self.limited(current, desired)
            }
        };
        let before = self.status.clone();
        self.outcome.desired = Some(desired);
        status::measured(&mut self.status, current, desired, metrics.clone());
        if desired != current {
            self.rescale(scale, desired, reason, before, metrics);
        }
        self.tell();
    }

    /// All that stands behind the write of the scale is done only once it is done.
    fn rescale(&mut self, scale: &Scale, desired: i32, reason: String, before: HorizontalPodAutoscalerStatus, metrics: Vec<MetricStatus>) {
        let mut object = scale.object.clone();
        object["spec"]["replicas"] = desired.into();
        self.actions.push(Action::Update { resource: scale.resource.clone(), path: scale.path.clone(), object });
        let event = format!("New size: {desired}; reason: {reason}");
        self.actions.push(Action::normal(self.autoscaler, "SuccessfulRescale", event));
        self.set(ABLE, true, ("SucceededRescale", format!("the HPA controller was able to update the target scale to {desired}")));
        status::remove(&mut self.status, SCALED_TO_ZERO);
        self.status.last_scale_time = Some(Time(whole_seconds(self.world.now)));
        self.outcome.rescaled = Some((scale.replicas, desired));
        let mut status = before;
        let kept = status.desired_replicas;
        status::measured(&mut status, scale.replicas, kept, metrics);
        self.outcome.failed = Some(Box::new(Failed { status, desired, reason, message: String::new() }));
    }

    fn limited(&mut self, current: i32, desired: i32) -> i32 {
        let range = Range { current, min: min(self.spec), max: self.spec.max_replicas };
        let (window, at, history) = (self.world.config.downscale_stabilization, self.world.at, &mut self.outcome.history);
        let limited = match &self.spec.behavior {
            None => history.limit(desired, range, window, at),
            Some(behavior) => history.limit_by(behavior, desired, range, window, at),
        };
        self.set(ABLE, true, limited.able);
        self.set(LIMITED, limited.is_limited, limited.limited);
        limited.replicas
    }

    fn not_computed(&mut self, current: i32, why: &str, statuses: Vec<MetricStatus>) {
        let desired = self.status.desired_replicas;
        status::measured(&mut self.status, current, desired, statuses);
        self.warn("FailedComputeMetricsReplicas", why);
        self.tell();
    }

    /// `computeReplicasForMetrics`: the most that one of them wants. If one is not known, there are not to be fewer replicas on the word of the others.
    fn wanted(&mut self, scale: &Scale, looked: &Looked) -> Result<Wanted, (String, Vec<MetricStatus>)> {
        let pods = looked.pods.as_deref().map_err(|why| (self.unselected(why), Vec::new()))?;
        let config = &self.world.config;
        let members = Members { pods, now: self.world.now, config };
        let namespace = self.autoscaler.metadata.namespace.as_deref().unwrap_or_default();
        let computing = Computing { members, scale, namespace, tolerances: Tolerances::of(self.spec, config) };
        let (metrics, before) = (self.spec.metrics.as_deref().unwrap_or_default(), self.status.current_replicas.unwrap_or(0));
        if metrics.is_empty() {
            return Err(("no metrics are named".into(), Vec::new()));
        }
        if metrics.len() > METRICS_MAX {
            let message = format!("more than {METRICS_MAX} metrics are named: none of them is measured");
            self.set(ACTIVE, false, ("InvalidMetrics", message.clone()));
            return Err((message, Vec::new()));
        }
        let (mut statuses, mut failures) = (Vec::with_capacity(metrics.len()), Vec::<Failure>::new());
        let (mut replicas, mut name) = (0, String::new());
        for (metric, asked) in metrics.iter().zip(&looked.asked) {
            let computed = computing.one(metric, asked.answer.as_ref().map_err(String::as_str));
            let wants = match &computed {
                Ok(computed) => Ok(computed.replicas.cmp(&before)),
                Err(failure) => Err(failure.fault()),
            };
            self.outcome.computed.push(Computed { kind: metric.type_.clone(), wants, took: asked.took });
            match computed {
                Ok(computed) => {
                    if replicas == 0 || computed.replicas > replicas {
                        (replicas, name) = (computed.replicas, computed.name);
                    }
                    statuses.push(computed.status);
                }
                Err(failure) => {
                    self.warn(failure.reason, &failure.message);
                    statuses.push(MetricStatus::default());
                    failures.push(failure);
                }
            }
        }
        if let Some(first) = failures.first() {
            self.outcome.fault = Faulty::Internal;
            if failures.len() >= metrics.len() || replicas < scale.replicas {
                let message = format!("the HPA was unable to compute the replica count: {}", first.message);
                self.set(ACTIVE, false, (first.reason, message));
                let (failed, all) = (failures.len(), metrics.len());
                return Err((format!("invalid metrics ({failed} invalid out of {all}), first error is: {}", first.whole), statuses));
            }
        }
        let message = format!("the HPA was able to successfully calculate a replica count from {name}");
        self.set(ACTIVE, true, ("ValidMetricFound", message));
        Ok(Wanted { replicas, metric: name, statuses })
    }

    /// Why nothing is measured.
    fn unselected(&mut self, why: &Unselected) -> String {
        self.outcome.fault = Faulty::Internal;
        let (event, reason, message, condition) = match why {
            Unselected::Missing => {
                let condition = "the HPA target's scale is missing a selector".to_owned();
                ("SelectorRequired", "InvalidSelector", "selector is required".to_owned(), Some(condition))
            }
            Unselected::Invalid(why) => {
                let message = format!("couldn't convert selector into a corresponding internal selector object: {why}");
                ("InvalidSelector", "InvalidSelector", message, None)
            }
            Unselected::Ambiguous { selector, all } => {
                let mut named: Vec<String> = all.iter().take(NAMED_MAX).map(|key| format!("{{{} {}}}", key.name, key.namespace)).collect();
                named.extend((all.len() > NAMED_MAX).then(|| format!("and {} more", all.len() - NAMED_MAX)));
                let message = format!("pods by selector {selector} are controlled by multiple HPAs: [{}]", named.join(" "));
                ("AmbiguousSelector", "AmbiguousSelector", message, None)
            }
        };
        self.warn(event, &message);
        self.set(ACTIVE, false, (reason, condition.unwrap_or_else(|| message.clone())));
        message
    }
}

impl Failure {
    fn fault(&self) -> Faulty {
        if self.is_of_spec { Faulty::Spec } else { Faulty::Internal }
    }
}
