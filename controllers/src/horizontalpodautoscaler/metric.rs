//! One metric of a spec, and what was measured of it -> how many replicas it wants, or why that is not known.
//!
//! Source: `computeReplicasForMetric` and the `computeStatusFor...Metric` of `pkg/controller/podautoscaler/horizontal.go`, whose words these are.

use api::{
    k8s::{
        api::autoscaling::v2::{
            ContainerResourceMetricStatus, ExternalMetricSource, ExternalMetricStatus, HorizontalPodAutoscalerSpec, MetricIdentifier,
            MetricSpec, MetricStatus, MetricTarget, MetricValueStatus, ObjectMetricSource, ObjectMetricStatus, PodsMetricSource,
            PodsMetricStatus, ResourceMetricStatus,
        },
        apimachinery::pkg::{api::resource::Quantity as Text, apis::meta::v1::LabelSelector},
    },
    quantity::Quantity,
};

use super::{
    AutoscalerConfig,
    calculate::{Members, Proposal, Tolerances, by_average, by_part, by_utilization, by_value, total},
    measure::{Measured, PodMetrics},
    targets::Scale,
};

/// A metric that could be computed.
#[derive(Clone, Debug, PartialEq)]
pub struct Computed {
    pub replicas: i32,
    /// As events name it.
    pub name: String,
    pub status: MetricStatus,
}

/// One that could not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// Of the event, and of the condition if no other metric failed before.
    pub reason: &'static str,
    /// For both.
    pub message: String,
    /// The same, as it is told of the whole.
    pub whole: String,
    /// The autoscaler itself is wrong (`errSpec`).
    pub is_of_spec: bool,
}

/// What all metrics of one autoscaler have in common.
#[derive(Clone, Copy)]
pub struct Computing<'a> {
    pub members: Members<'a>,
    pub scale: &'a Scale,
    pub namespace: &'a str,
    pub tolerances: Tolerances,
}

type Answer<'a> = Result<&'a Measured, &'a str>;

/// A proposal, the metric's name and what the status shows; or a message, and what it is within.
type Found = Result<(Proposal, String, MetricStatus), (String, String)>;

impl Tolerances {
    /// `tolerancesForHpa` (`HPAConfigurableTolerance`)
    pub fn of(spec: &HorizontalPodAutoscalerSpec, config: &AutoscalerConfig) -> Self {
        let behavior = spec.behavior.as_ref();
        let said = |text: &Text| Quantity::parse(&text.0).ok().map(Quantity::approximate);
        let up = behavior.and_then(|b| b.scale_up.as_ref()?.tolerance.as_ref()).and_then(said);
        let down = behavior.and_then(|b| b.scale_down.as_ref()?.tolerance.as_ref()).and_then(said);
        Self { down: down.unwrap_or(config.tolerance), up: up.unwrap_or(config.tolerance) }
    }
}

impl Computing<'_> {
    pub fn one(&self, spec: &MetricSpec, answer: Answer<'_>) -> Result<Computed, Failure> {
        let (reason, of, found) = if let Some(source) = &spec.object {
            ("FailedGetObjectMetric", "object metric".to_owned(), self.object(source, answer))
        } else if let Some(source) = &spec.pods {
            ("FailedGetPodsMetric", "pods metric".to_owned(), self.pods(source, answer))
        } else if let Some(source) = &spec.resource {
            let found = self.resource(&source.target, &source.name, None, answer).map(|(proposal, name, current)| {
                let resource = Some(ResourceMetricStatus { current, name: source.name.clone() });
                (proposal, name, MetricStatus { resource, ..of_type("Resource") })
            });
            ("FailedGetResourceMetric", format!("{} resource metric", source.name), found)
        } else if let Some(source) = &spec.container_resource {
            let container = source.container.clone();
            let found = self.resource(&source.target, &source.name, Some(&container), answer).map(|(proposal, name, current)| {
                let status = ContainerResourceMetricStatus { container: container.clone(), current, name: source.name.clone() };
                (proposal, name, MetricStatus { container_resource: Some(status), ..of_type("ContainerResource") })
            });
            ("FailedGetContainerResourceMetric", format!("{container} container metric"), found)
        } else if let Some(source) = &spec.external {
            ("FailedGetExternalMetric", format!("{} external metric", source.metric.name), self.external(source, answer))
        } else {
            let message = format!("unknown metric source type {}", api::time::quoted(&spec.type_));
            return Err(Failure { reason: "InvalidMetricSourceType", whole: message.clone(), message, is_of_spec: true });
        };
        match found {
            Ok((proposal, name, status)) => Ok(Computed { replicas: proposal.replicas, name, status }),
            Err((message, whole)) => {
                Err(Failure { reason, message, whole: format!("failed to get {of} value: {whole}"), is_of_spec: false })
            }
        }
    }

    /// `computeStatusForObjectMetric`
    fn object(&self, source: &ObjectMetricSource, answer: Answer<'_>) -> Found {
        let (metric, object) = (&source.metric, &source.described_object);
        let status = |current| {
            let status = ObjectMetricStatus { current, described_object: object.clone(), metric: metric.clone() };
            MetricStatus { object: Some(status), ..of_type("Object") }
        };
        let measured = match answer {
            Ok(Measured::Object(value)) => Ok(*value),
            // Upstream's own order of words.
            Err(why) => Err(format!("unable to get metric {}: {} on {} {}/{why}", metric.name, object.kind, self.namespace, object.name)),
            Ok(_) => Err(other()),
        };
        match (milli(source.target.value.as_ref()), milli(source.target.average_value.as_ref())) {
            (Some(target), _) if source.target.type_ == "Value" => {
                let proposal = measured.and_then(|usage| by_value(self.members, usage, self.scale.replicas, target, self.tolerances));
                let proposal = proposal.map_err(alike)?;
                let current = MetricValueStatus { value: Some(decimal(proposal.usage)), ..MetricValueStatus::default() };
                Ok((proposal, format!("{} metric {}", object.kind, metric.name), status(current)))
            }
            (_, Some(target)) if source.target.type_ == "AverageValue" => {
                let within = |why: String| (why.clone(), format!("failed to get {} object metric: {why}", metric.name));
                let proposal = by_part(measured.map_err(within)?, self.scale.status_replicas, target, self.tolerances);
                Ok((proposal, external_name(metric), status(average(proposal))))
            }
            _ => Err(alike("invalid object metric source: neither a value target nor an average value target was set".into())),
        }
    }

    /// `computeStatusForPodsMetric`
    fn pods(&self, source: &PodsMetricSource, answer: Answer<'_>) -> Found {
        let Some(target) = milli(source.target.average_value.as_ref()) else {
            return Err(alike("invalid pods metric source: no average value target was set".into()));
        };
        let metrics = of_pods(answer).map_err(|why| alike(format!("unable to get metric {}: {why}", source.metric.name)))?;
        let proposal = by_average(self.members, metrics, self.scale.replicas, target, "", self.tolerances).map_err(alike)?;
        let pods = Some(PodsMetricStatus { current: average(proposal), metric: source.metric.clone() });
        Ok((proposal, format!("pods metric {}", source.metric.name), MetricStatus { pods, ..of_type("Pods") }))
    }

    /// `computeStatusForResourceMetricGeneric`
    fn resource(
        &self,
        target: &MetricTarget,
        name: &str,
        container: Option<&str>,
        answer: Answer<'_>,
    ) -> Result<(Proposal, String, MetricValueStatus), (String, String)> {
        let metrics = of_pods(answer).map_err(|why| format!("unable to get metrics for resource {name}: {why}"));
        if let Some(target) = milli(target.average_value.as_ref()) {
            let proposal = metrics.and_then(|all| by_average(self.members, all, self.scale.replicas, target, name, self.tolerances));
            let proposal = proposal.map_err(|why| alike(format!("failed to get {name} usage: {why}")))?;
            let current = MetricValueStatus { average_value: Some(amount(name, proposal.usage)), ..MetricValueStatus::default() };
            return Ok((proposal, format!("{name} resource"), current));
        }
        let Some(target) = target.average_utilization else {
            let why = "invalid resource metric source: neither an average utilization target nor an average value (usage) target was set";
            return Err(alike(why.into()));
        };
        let of = (name, container);
        let proposal = metrics.and_then(|all| by_utilization(self.members, all, self.scale.replicas, target, of, self.tolerances));
        let proposal = proposal.map_err(|why| alike(format!("failed to get {name} utilization: {why}")))?;
        let current = MetricValueStatus {
            average_utilization: proposal.utilization,
            average_value: Some(amount(name, proposal.usage)),
            ..MetricValueStatus::default()
        };
        let of = if container.is_some() { "container resource" } else { "resource" };
        Ok((proposal, format!("{name} {of} utilization (percentage of request)"), current))
    }

    /// `computeStatusForExternalMetric`
    fn external(&self, source: &ExternalMetricSource, answer: Answer<'_>) -> Found {
        let metric = &source.metric;
        let measured = match answer {
            Ok(Measured::External(values)) => Ok(total(values)),
            Ok(_) => Err(other()),
            Err(why) => {
                Err(format!("unable to get external metric {}/{}/{}: {why}", self.namespace, metric.name, go(metric.selector.as_ref())))
            }
        };
        let status = |current| {
            let external = Some(ExternalMetricStatus { current, metric: metric.clone() });
            MetricStatus { external, ..of_type("External") }
        };
        if let Some(target) = milli(source.target.average_value.as_ref()) {
            let within = |why: String| (why.clone(), format!("failed to get {} external metric: {why}", metric.name));
            let proposal = by_part(measured.map_err(within)?, self.scale.status_replicas, target, self.tolerances);
            return Ok((proposal, external_name(metric), status(average(proposal))));
        }
        let Some(target) = milli(source.target.value.as_ref()) else {
            return Err(alike("invalid external metric source: neither a value target nor an average value target was set".into()));
        };
        let within = |why: String| (why.clone(), format!("failed to get external metric {}: {why}", metric.name));
        let proposal = measured.and_then(|usage| by_value(self.members, usage, self.scale.replicas, target, self.tolerances));
        let proposal = proposal.map_err(within)?;
        let current = MetricValueStatus { value: Some(decimal(proposal.usage)), ..MetricValueStatus::default() };
        Ok((proposal, external_name(metric), status(current)))
    }
}

fn of_type(kind: &str) -> MetricStatus {
    MetricStatus { type_: kind.into(), ..MetricStatus::default() }
}

/// A message that is told alike of the metric and of the whole.
fn alike(why: String) -> (String, String) {
    (why.clone(), why)
}

fn of_pods(answer: Answer<'_>) -> Result<PodMetrics, String> {
    match answer {
        Ok(Measured::Pods(metrics)) => Ok(metrics.clone()),
        Ok(_) => Err(other()),
        Err(why) => Err(why.to_owned()),
    }
}

/// A spec that names sources of several types.
fn other() -> String {
    "the answer is of another metric".into()
}

fn milli(target: Option<&Text>) -> Option<i64> {
    Quantity::parse(&target?.0).ok().map(Quantity::milli)
}

fn average(proposal: Proposal) -> MetricValueStatus {
    MetricValueStatus { average_value: Some(decimal(proposal.usage)), ..MetricValueStatus::default() }
}

fn decimal(milli: i64) -> Text {
    Text(Quantity::from_milli(milli).to_string())
}

/// `buildQuantity`: memory as metrics-server shows it.
fn amount(resource: &str, milli: i64) -> Text {
    if resource == "memory" && milli % 1000 == 0 { Text(Quantity::from_bytes(milli / 1000).to_string()) } else { decimal(milli) }
}

fn external_name(metric: &MetricIdentifier) -> String {
    format!("external metric {}({})", metric.name, go(metric.selector.as_ref()))
}

/// A selector as Go prints it (`%+v`).
fn go(selector: Option<&LabelSelector>) -> String {
    let Some(selector) = selector else { return "nil".into() };
    let labels: String = selector.match_labels.iter().flatten().map(|(k, v)| format!("{k}: {v},")).collect();
    let expression = |e: &api::k8s::apimachinery::pkg::apis::meta::v1::LabelSelectorRequirement| {
        let values = e.values.as_deref().unwrap_or_default().join(" ");
        format!("LabelSelectorRequirement{{Key:{},Operator:{},Values:[{values}],}},", e.key, e.operator)
    };
    let expressions: String = selector.match_expressions.iter().flatten().map(expression).collect();
    format!("&LabelSelector{{MatchLabels:map[string]string{{{labels}}},MatchExpressions:[]LabelSelectorRequirement{{{expressions}}},}}")
}
