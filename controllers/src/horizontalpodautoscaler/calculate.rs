//! Measured pods, and what they shall use -> how many replicas that takes. Source: `pkg/controller/podautoscaler/replica_calculator.go`, `metrics/utilization.go`.
//!
//! Amounts are in thousandths. Sums that do not fit end at the largest number there is, where Go's begin anew at the smallest.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use api::time::{Timestamp, after};
use client::pods::{Container, Pod};
use podspec::{ContainerView, Overhead, SpecView, is_supported_at_pod_level, running};

use super::{
    AutoscalerConfig,
    measure::{PodMetric, PodMetrics},
};

const CPU: &str = "cpu";

/// By how much usage may differ from its target, as a part of it, without anything being scaled.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Tolerances {
    pub down: f64,
    pub up: f64,
}

/// The pods that a target's selector selects, at one moment.
#[derive(Clone, Copy)]
pub struct Members<'a> {
    pub pods: &'a [Arc<Pod>],
    pub now: Timestamp,
    pub config: &'a AutoscalerConfig,
}

/// What a metric comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Proposal {
    pub replicas: i32,
    /// Per pod.
    pub usage: i64,
    /// In percent of what is requested.
    pub utilization: Option<i32>,
}

/// `groupPods`: by name.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Groups<'a> {
    pub ready: usize,
    pub unready: Vec<&'a str>,
    pub missing: Vec<&'a str>,
    pub ignored: Vec<&'a str>,
}

/// The ratio of usage to target, with what it was made of.
struct Ratio {
    ratio: f64,
    usage: i64,
    utilization: Option<i32>,
}

impl Tolerances {
    pub fn is_within(self, ratio: f64) -> bool {
        (1.0 - self.down) <= ratio && ratio <= (1.0 + self.up)
    }
}

/// `GetResourceReplicas`: `target` is in percent of what the pods request.
pub fn by_utilization(
    members: Members<'_>,
    metrics: PodMetrics,
    current: i32,
    target: i32,
    (resource, container): (&str, Option<&str>),
    tolerances: Tolerances,
) -> Result<Proposal, String> {
    let mut requested = None;
    by_ratio(members, metrics, current, resource, tolerances, |metrics, missing| {
        if requested.is_none() {
            requested = Some(requests(members.pods, container, resource)?);
        }
        let Some(requested) = &requested else { return Err("nothing is known of requests".into()) };
        // Those that are missing are taken to use all that they request, or the target where that is more.
        let fallback = i128::from(target.max(100));
        let used = |name: &str| saturate(i128::from(requested.get(name).copied().unwrap_or(0)) * fallback / 100);
        metrics.extend(missing.iter().map(|name| stand_in(name, used(name))));
        utilization_ratio(metrics, requested, target)
    })
}

/// `calcPlainMetricReplicas`: `target` is what each pod shall use.
pub fn by_average(
    members: Members<'_>,
    metrics: PodMetrics,
    current: i32,
    target: i64,
    resource: &str,
    tolerances: Tolerances,
) -> Result<Proposal, String> {
    by_ratio(members, metrics, current, resource, tolerances, |metrics, missing| {
        metrics.extend(missing.iter().map(|name| stand_in(name, target)));
        Ok(usage_ratio(metrics, target))
    })
}

/// What both have in common: `ratio_of` is asked for the ratio of these metrics once some are added for those pods that are missing.
fn by_ratio(
    members: Members<'_>,
    mut metrics: PodMetrics,
    current: i32,
    resource: &str,
    tolerances: Tolerances,
    mut ratio_of: impl FnMut(&mut PodMetrics, &[&str]) -> Result<Ratio, String>,
) -> Result<Proposal, String> {
    if members.pods.is_empty() {
        return Err("no pods returned by selector while calculating replica count".into());
    }
    let groups = members.groups(&metrics, resource);
    for name in groups.ignored.iter().chain(&groups.unready) {
        metrics.remove(*name);
    }
    if metrics.is_empty() {
        return Err("did not receive metrics for targeted pods (pods might be unready)".into());
    }
    let Ratio { ratio, usage, utilization } = ratio_of(&mut metrics, &[])?;
    let proposal = |replicas| Ok(Proposal { replicas, usage, utilization });
    let scales_up_with_unready = !groups.unready.is_empty() && ratio > 1.0;
    if !scales_up_with_unready && groups.missing.is_empty() {
        return proposal(if tolerances.is_within(ratio) { current } else { ceil(ratio * groups.ready as f64) });
    }
    // Where pods are missing, more are not made on their account, and none are taken away.
    let full: &[&str] = if ratio < 1.0 { &groups.missing } else { &[] };
    let idle = groups.missing.iter().filter(|_| ratio > 1.0).chain(groups.unready.iter().filter(|_| scales_up_with_unready));
    metrics.extend(idle.map(|name| stand_in(name, 0)));
    let anew = ratio_of(&mut metrics, full)?.ratio;
    if tolerances.is_within(anew) || (ratio < 1.0 && anew > 1.0) || (ratio > 1.0 && anew < 1.0) {
        return proposal(current);
    }
    let replicas = ceil(anew * metrics.len() as f64);
    let turns = (anew < 1.0 && replicas > current) || (anew > 1.0 && replicas < current);
    proposal(if turns { current } else { replicas })
}

/// `getUsageRatioReplicaCount`: of what the pods have in common, an object's or an external metric.
pub fn by_value(members: Members<'_>, usage: i64, current: i32, target: i64, tolerances: Tolerances) -> Result<Proposal, String> {
    let ratio = usage as f64 / target as f64;
    let proposal = |replicas| Ok(Proposal { replicas, usage, utilization: None });
    if current == 0 {
        return proposal(ceil(ratio));
    }
    if tolerances.is_within(ratio) {
        return proposal(current);
    }
    if members.pods.is_empty() {
        return Err("unable to calculate ready pods: no pods returned by selector while calculating replica count".into());
    }
    let ready = members.pods.iter().filter(|pod| pod.phase() == "Running" && pod.ready_since().is_some()).count();
    proposal(ceil(ratio * ready as f64))
}

/// `GetObjectPerPodMetricReplicas`, `GetExternalPerPodMetricReplicas`: `target` is each pod's part. Of no pods the whole is shown, where Go divides by zero.
pub fn by_part(usage: i64, replicas: i32, target: i64, tolerances: Tolerances) -> Proposal {
    let ratio = usage as f64 / (target as f64 * f64::from(replicas));
    let proposed = if tolerances.is_within(ratio) { replicas } else { ceil(usage as f64 / target as f64) };
    let each = match usage {
        i64::MAX => i64::MAX,
        usage => (usage as f64 / f64::from(replicas.max(1))).ceil() as i64,
    };
    Proposal { replicas: proposed, usage: each, utilization: None }
}

/// The values of an external metric, together.
pub fn total(values: &[i64]) -> i64 {
    saturate(values.iter().map(|value| i128::from(*value)).sum())
}

impl<'a> Members<'a> {
    pub fn groups(&self, metrics: &PodMetrics, resource: &str) -> Groups<'a> {
        let mut groups = Groups::default();
        for pod in self.pods {
            let name = pod.metadata.name.as_deref().unwrap_or_default();
            if pod.metadata.deletion_timestamp.is_some() || pod.phase() == "Failed" {
                groups.ignored.push(name);
            } else if pod.phase() == "Pending" {
                groups.unready.push(name);
            } else if let Some(metric) = metrics.get(name) {
                match resource == CPU && self.is_unready(pod, metric) {
                    true => groups.unready.push(name),
                    false => groups.ready += 1,
                }
            } else {
                groups.missing.push(name);
            }
        }
        groups
    }

    /// Its CPU time says nothing yet: it has not begun its work.
    fn is_unready(&self, pod: &Pod, metric: &PodMetric) -> bool {
        let started = pod.status.as_ref().and_then(|status| status.start_time.as_ref());
        let (Some(condition), Some(started)) = (pod.condition("Ready"), started) else { return true };
        let is_false = condition.status == "False";
        let changed = condition.last_transition_time.as_ref().map_or(Timestamp::MIN, |at| at.0);
        if after(started.0, self.config.cpu_initialization) > self.now {
            return is_false || metric.at < after(changed, metric.window);
        }
        // It has never been ready.
        is_false && after(started.0, self.config.initial_readiness_delay) > changed
    }
}

/// `calculateRequests`: by name.
pub fn requests(pods: &[Arc<Pod>], container: Option<&str>, resource: &str) -> Result<BTreeMap<String, i64>, String> {
    let one = |pod: &Arc<Pod>| Ok((pod.name_any(), request(pod, container, resource)?));
    pods.iter().map(one).collect()
}

/// What a pod says of itself as a whole counts before what its containers say, unless one of them is meant (KEP-2837).
fn request(pod: &Pod, container: Option<&str>, resource: &str) -> Result<i64, String> {
    let Some(spec) = &pod.spec else { return Ok(0) };
    let own = spec.resources().map(|own| own.requests).unwrap_or_default();
    if container.is_none() && own.iter().any(|(name, _)| is_supported_at_pod_level(name)) {
        let all = podspec::requests(spec, Overhead::Included, &[]);
        let missing = || format!("missing pod-level request for {resource} in Pod {}", pod.name_any());
        return all.get(resource).map(|amount| amount.milli()).ok_or_else(missing);
    }
    let requested = |c: &Container| {
        let missing = || format!("missing request for {resource} in container {} of Pod {}", c.name, pod.name_any());
        c.resources().requests.get(resource).map(|amount| amount.milli()).ok_or_else(missing)
    };
    match container {
        Some(named) => match running(spec).find(|c| c.name == named) {
            Some(found) => requested(found),
            None => Err(format!("container {named} not found in Pod {}", pod.name_any())),
        },
        None => running(spec).try_fold(0_i64, |sum, c| Ok(sum.saturating_add(requested(c)?))),
    }
}

/// `GetResourceUtilizationRatio`
fn utilization_ratio(metrics: &PodMetrics, requested: &BTreeMap<String, i64>, target: i32) -> Result<Ratio, String> {
    let known = metrics.iter().filter_map(|(name, metric)| Some((metric.value, *requested.get(name)?)));
    let (used, wanted, count) = known.fold((0_i128, 0_i128, 0_i128), |(used, wanted, count), (value, request)| {
        (used + i128::from(value), wanted + i128::from(request), count + 1)
    });
    if wanted == 0 {
        return Err("no metrics returned matched known pods".into());
    }
    let percent = used * 100 / wanted;
    let utilization = i32::try_from(percent).unwrap_or(if percent < 0 { i32::MIN } else { i32::MAX });
    let ratio = f64::from(utilization) / f64::from(target);
    Ok(Ratio { ratio, usage: saturate(used / count), utilization: Some(utilization) })
}

/// `GetMetricUsageRatio`; there is at least one.
fn usage_ratio(metrics: &PodMetrics, target: i64) -> Ratio {
    let used: i128 = metrics.values().map(|metric| i128::from(metric.value)).sum();
    let usage = saturate(used / (metrics.len() as i128).max(1));
    Ratio { ratio: usage as f64 / target as f64, usage, utilization: None }
}

/// What a pod is taken to use of which nothing is known.
fn stand_in(pod: &str, value: i64) -> (String, PodMetric) {
    (pod.to_owned(), PodMetric { at: Timestamp::UNIX_EPOCH, window: Duration::ZERO, value })
}

/// What is no number is none.
fn ceil(replicas: f64) -> i32 {
    replicas.ceil() as i32
}

fn saturate(value: i128) -> i64 {
    i64::try_from(value).unwrap_or(if value < 0 { i64::MIN } else { i64::MAX })
}

#[cfg(test)]
mod tests;
