//! Metrics of a spec -> what the three metrics APIs say of them. Source: `pkg/controller/podautoscaler/metrics/client.go`, `k8s.io/metrics/pkg/client`.

use std::{collections::BTreeMap, time::Duration};

use api::{
    k8s::{
        api::autoscaling::v2::{CrossVersionObjectReference, MetricIdentifier, MetricSpec},
        apimachinery::pkg::apis::meta::v1::LabelSelector,
    },
    names::segment,
    quantity::Quantity,
    selector::Labels,
    time::{Timestamp, go_duration, parse},
};
use serde::{Deserialize, Deserializer, de};
use tokio::time::Instant;

use super::ask::{Asks, path};

const CUSTOM: &str = "custom.metrics.k8s.io";
/// Those that are known, the best first.
const CUSTOM_VERSIONS: [&str; 2] = ["v1beta2", "v1beta1"];
/// What a pod's custom metric is taken to be measured over (`metricServerDefaultMetricWindow`).
const WINDOW: Duration = Duration::from_secs(60);

/// What one pod uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PodMetric {
    pub at: Timestamp,
    pub window: Duration,
    /// In thousandths.
    pub value: i64,
}

/// By the pod's name.
pub type PodMetrics = BTreeMap<String, PodMetric>;

/// In thousandths.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Measured {
    Pods(PodMetrics),
    Object(i64),
    External(Vec<i64>),
}

/// What was said of one metric, and how long that took.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    pub answer: Result<Measured, String>,
    pub took: Duration,
}

/// One look at the metrics of one autoscaler.
pub struct Measuring<'a> {
    asks: &'a Asks,
    namespace: &'a str,
    /// Of the pods.
    selector: String,
    until: Instant,
    /// Several metrics are of the same answer.
    resources: Option<Result<Vec<OfPod>, String>>,
}

#[derive(Deserialize)]
struct List<T> {
    items: Option<Vec<T>>,
}

#[derive(Clone, Default, Deserialize)]
#[serde(default)]
struct OfPod {
    metadata: Named,
    timestamp: Option<String>,
    window: Option<String>,
    containers: Option<Vec<OfContainer>>,
}

#[derive(Clone, Default, Deserialize)]
#[serde(default)]
struct OfContainer {
    name: String,
    usage: Option<BTreeMap<String, Milli>>,
}

/// Both versions: the window is `window` in the older one.
#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct OfObject {
    described_object: Named,
    timestamp: Option<String>,
    #[serde(alias = "window")]
    window_seconds: Option<i64>,
    value: Milli,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct OfExternal {
    value: Milli,
}

#[derive(Clone, Default, Deserialize)]
#[serde(default)]
struct Named {
    name: String,
}

/// A quantity's thousandths, rounded up: as text or as a number; nothing is none.
#[derive(Clone, Copy, Default)]
struct Milli(i64);

impl<'de> Deserialize<'de> for Milli {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = match serde_json::Value::deserialize(from)? {
            serde_json::Value::Null => return Ok(Self(0)),
            serde_json::Value::String(text) => text,
            serde_json::Value::Number(number) => number.to_string(),
            _ => return Err(de::Error::custom("a quantity is a text or a number")),
        };
        Quantity::parse(text.trim()).map(|amount| Self(amount.milli())).map_err(de::Error::custom)
    }
}

impl<'a> Measuring<'a> {
    pub fn new(asks: &'a Asks, namespace: &'a str, selector: &Labels, until: Instant) -> Self {
        Self { asks, namespace, selector: selector.to_string(), until, resources: None }
    }

    /// One after the other, as upstream.
    pub async fn all(mut self, metrics: &[MetricSpec]) -> Vec<Asked> {
        let mut all = Vec::with_capacity(metrics.len());
        for metric in metrics {
            let began = Instant::now();
            let answer = self.one(metric).await;
            all.push(Asked { answer, took: began.elapsed() });
        }
        all
    }

    async fn one(&mut self, metric: &MetricSpec) -> Result<Measured, String> {
        if let Some(source) = &metric.resource {
            return self.resources().await.map(|all| Measured::Pods(of_pods(all, &source.name)));
        }
        if let Some(source) = &metric.container_resource {
            return self.resources().await.map(|all| Measured::Pods(of_containers(all, &source.name, &source.container)));
        }
        let custom = |why: String| format!("unable to fetch metrics from custom metrics API: {why}");
        if let Some(source) = &metric.pods {
            return self.pods(&source.metric).await.map_err(custom).and_then(|items| some("custom", items)).map(by_name);
        }
        if let Some(source) = &metric.object {
            return self.object(&source.metric, &source.described_object).await.map_err(custom).map(Measured::Object);
        }
        let Some(source) = &metric.external else { return Err("nothing to measure is named".into()) };
        let asked = self.external(&source.metric).await;
        let items = some("external", asked.map_err(|why| format!("unable to fetch metrics from external metrics API: {why}"))?)?;
        Ok(Measured::External(items.into_iter().map(|item| item.value.0).collect()))
    }

    async fn resources(&mut self) -> Result<&[OfPod], String> {
        if self.resources.is_none() {
            let list = self.list("metrics.k8s.io", "v1beta1", &["pods"], &[("labelSelector", &self.selector)]).await;
            let items = list.map_err(|why| format!("unable to fetch metrics from resource metrics API: {why}"));
            self.resources = Some(items.and_then(|items| some("resource", items)));
        }
        match &self.resources {
            Some(Ok(items)) => Ok(items),
            Some(Err(why)) => Err(why.clone()),
            None => Ok(&[]),
        }
    }

    async fn pods(&self, metric: &MetricIdentifier) -> Result<Vec<OfObject>, String> {
        let (version, of_metric) = (self.custom_version().await?, text_of(metric.selector.as_ref())?);
        let query = [("labelSelector", self.selector.as_str()), ("metricLabelSelector", &of_metric)];
        self.list(CUSTOM, &version, &["pods", "*", &metric.name], &query).await
    }

    /// `GetObjectMetric`; of a Namespace it is the autoscaler's own, whatever it names.
    async fn object(&self, metric: &MetricIdentifier, object: &CrossVersionObjectReference) -> Result<i64, String> {
        let (version, of_metric) = (self.custom_version().await?, text_of(metric.selector.as_ref())?);
        let query = [("metricLabelSelector", of_metric.as_str())];
        let api_version = object.api_version.as_deref().unwrap_or_default();
        let items: Vec<OfObject> = if object.kind == "Namespace" && !api_version.contains('/') {
            self.list(CUSTOM, &version, &["metrics", &metric.name], &query).await?
        } else {
            let resource = self.asks.resource(api_version, &object.kind, self.until).await?.to_string();
            self.list(CUSTOM, &version, &[&resource, &object.name, &metric.name], &query).await?
        };
        match items.as_slice() {
            [one] => Ok(one.value.0),
            all => Err(format!("the custom metrics API server returned {} results when we asked for exactly one", all.len())),
        }
    }

    async fn external(&self, metric: &MetricIdentifier) -> Result<Vec<OfExternal>, String> {
        let of_metric = text_of(metric.selector.as_ref())?;
        self.list("external.metrics.k8s.io", "v1beta1", &[&metric.name], &[("labelSelector", &of_metric)]).await
    }

    async fn list<T: for<'de> Deserialize<'de>>(
        &self,
        group: &str,
        version: &str,
        what: &[&str],
        query: &[(&str, &str)],
    ) -> Result<Vec<T>, String> {
        let words: Vec<&str> = ["apis", group, version, "namespaces", self.namespace].into_iter().chain(what.iter().copied()).collect();
        let query: Vec<String> = query.iter().filter(|(_, v)| !v.is_empty()).map(|(k, v)| format!("{k}={}", segment(v))).collect();
        let path = path(&words)? + if query.is_empty() { "" } else { "?" } + &query.join("&");
        let list: List<T> = self.asks.get(&path, self.until).await.map_err(|refused| match refused.code {
            // As clients in Go say it.
            404 if refused.message.ends_with("the requested resource") => format!("{} (get {}.{group})", refused.message, what[0]),
            _ => refused.message,
        })?;
        Ok(list.items.unwrap_or_default())
    }

    /// `PreferredVersion`
    async fn custom_version(&self) -> Result<String, String> {
        let now = Instant::now();
        if let Some((version, till)) = self.asks.custom_version.lock().as_ref()
            && *till > now
        {
            return Ok(version.clone());
        }
        let all = self.asks.versions(CUSTOM, self.until).await.map_err(|refused| match refused.code {
            404 => format!("no custom metrics API ({CUSTOM}) registered"),
            _ => refused.message,
        })?;
        let known = all.into_iter().find(|version| CUSTOM_VERSIONS.contains(&version.as_str()));
        let version = known.ok_or("no known available metric versions found")?;
        *self.asks.custom_version.lock() = Some((version.clone(), now + self.asks.custom_version_lasts));
        Ok(version)
    }
}

/// A list of nothing is no answer.
fn some<T>(api: &str, items: Vec<T>) -> Result<Vec<T>, String> {
    if items.is_empty() { Err(format!("no metrics returned from {api} metrics API")) } else { Ok(items) }
}

/// As a query's parameter: what selects nothing and what selects all look alike there (`LabelSelectorAsSelector`).
fn text_of(selector: Option<&LabelSelector>) -> Result<String, String> {
    Labels::from_selector(selector).map(|labels| labels.map(|labels| labels.to_string()).unwrap_or_default())
}

fn by_name(items: Vec<OfObject>) -> Measured {
    let one = |item: OfObject| {
        let window = item.window_seconds.map_or(WINDOW, api::time::span);
        (item.described_object.name, PodMetric { at: time(item.timestamp.as_deref()), window, value: item.value.0 })
    };
    Measured::Pods(items.into_iter().map(one).collect())
}

/// `getPodMetrics`: a pod one of whose containers is not measured is left out.
fn of_pods(all: &[OfPod], resource: &str) -> PodMetrics {
    let sum = |pod: &OfPod| {
        let containers = pod.containers.as_deref().filter(|all| !all.is_empty())?;
        let mut used = containers.iter().map(|c| c.usage.as_ref().and_then(|usage| usage.get(resource)));
        used.try_fold(0_i64, |sum, used| Some(sum.saturating_add(used?.0)))
    };
    all.iter().filter_map(|pod| Some((pod.metadata.name.clone(), pod.metric(sum(pod)?)))).collect()
}

/// `getContainerMetrics`
fn of_containers(all: &[OfPod], resource: &str, container: &str) -> PodMetrics {
    let used = |pod: &OfPod| pod.containers.iter().flatten().find(|c| c.name == container)?.usage.as_ref()?.get(resource).copied();
    all.iter().filter_map(|pod| Some((pod.metadata.name.clone(), pod.metric(used(pod)?.0)))).collect()
}

impl OfPod {
    fn metric(&self, value: i64) -> PodMetric {
        let window = self.window.as_deref().and_then(|text| go_duration(text).ok()).and_then(|nanos| u64::try_from(nanos).ok());
        PodMetric { at: time(self.timestamp.as_deref()), window: Duration::from_nanos(window.unwrap_or(0)), value }
    }
}

/// What has no time is as old as can be.
fn time(text: Option<&str>) -> Timestamp {
    text.and_then(parse).unwrap_or(Timestamp::MIN)
}
