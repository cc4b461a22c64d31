//! A watch, and what the node's agent has measured -> the stages of a pod's start, and how much of it is ours.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use serde_json::Value;

use crate::{
    load::Pool,
    report::{Figure, less},
    watch::Watcher,
};

const START: &str = "kubelet_pod_start_duration_seconds";
const WRITE: &str = "kubelet_pod_status_sync_duration_seconds";
const VOLUMES: &str = "skiff_kubelet_volumes_prepare_duration_seconds";
const CGROUP: &str = "kubelet_cgroup_manager_duration_seconds";
const CALLS: &str = "kubelet_runtime_operations_duration_seconds";
/// What makes a pod, whoever asks the runtime for it. All else is ours.
const MAKING: [(&str, &str); 3] =
    [("run_podsandbox", "RunPodSandbox"), ("create_container", "CreateContainer"), ("start_container", "StartContainer")];

/// Sums over the pods that were started between two readings.
#[derive(Default)]
pub struct Parts {
    starts: usize,
    answered: Duration,
    bound: Duration,
    whole: Duration,
    /// By name and labels: seconds, and how often.
    agent: Readings,
}

type Readings = HashMap<String, (f64, f64)>;

/// The moments of one start, from its creation.
pub struct Moments {
    begun: Instant,
    answered: Duration,
    bound: Option<Duration>,
}

impl Moments {
    /// The creation has been answered just now.
    pub fn answered(begun: Instant) -> Self {
        Self { begun, answered: begun.elapsed(), bound: None }
    }

    /// Each event of the pod.
    pub fn saw(&mut self, line: &[u8]) {
        if self.bound.is_none() && memchr::memmem::find(line, b"\"nodeName\":\"").is_some() {
            self.bound = Some(self.begun.elapsed());
        }
    }
}

impl Parts {
    /// One pod started, and nothing else happened on the node between the two readings.
    pub fn add(&mut self, moments: &Moments, whole: Duration, before: &Readings, after: &Readings) -> anyhow::Result<()> {
        self.starts += 1;
        self.answered += moments.answered;
        self.bound += moments.bound.context("the watch showed no node before the pod ran")?;
        self.whole += whole;
        for (name, (seconds, count)) in after {
            let (old, old_count) = before.get(name).copied().unwrap_or_default();
            let sum = self.agent.entry(name.clone()).or_default();
            *sum = (sum.0 + seconds - old, sum.1 + count - old_count);
        }
        Ok(())
    }

    /// Fails where the agent has not counted each start, and each of its calls, once.
    pub fn figures(&self) -> anyhow::Result<Vec<Figure>> {
        let starts = self.starts as f64;
        let each = |sum: f64| sum * 1000.0 / starts;
        let of = |name: &str| self.agent.get(name).copied().unwrap_or_default();
        let counted = |name: &str| {
            let (seconds, count) = of(name);
            ensure!((count - starts).abs() < 0.5, "{} pods started, and {name} was counted {count} times", self.starts);
            Ok(each(seconds))
        };
        let mut figures = vec![
            less("a start, mean", "ms", each(self.whole.as_secs_f64())),
            less("- created to answered", "ms", each(self.answered.as_secs_f64())),
            less("- created to bound", "ms", each(self.bound.as_secs_f64())),
            less("- agent: seen to running", "ms", counted(START)?),
            less("- volumes", "ms", each(of(VOLUMES).0)),
            less("- cgroup", "ms", each(self.family(CGROUP, ""))),
        ];
        let mut making = 0.0;
        for (call, name) in MAKING {
            let took = counted(&format!("{CALLS}{{operation_type=\"{call}\"}}"))?;
            making += took;
            figures.push(less(format!("- {name}"), "ms", took));
        }
        figures.push(less("- statuses asked of the runtime", "ms", each(self.family(CALLS, "_status\"}"))));
        let (seconds, writes) = of(WRITE);
        figures.push(less("- writing a status", "ms", seconds * 1000.0 / writes.max(1.0)));
        figures.push(less("ours: all but the three calls", "ms", each(self.whole.as_secs_f64()) - making).goal(30.0));
        Ok(figures)
    }

    /// Seconds, of all labels that end so.
    fn family(&self, name: &str, end: &str) -> f64 {
        self.agent.iter().filter(|(key, _)| key.starts_with(name) && key.ends_with(end)).map(|(_, (seconds, _))| seconds).sum()
    }
}

/// What the agent of `node` has measured so far.
pub async fn read(pool: &mut Pool, node: &str) -> anyhow::Result<Readings> {
    let text = pool.must("GET", &format!("/api/v1/nodes/{node}/proxy/metrics"), &Value::Null).await?;
    Ok(parse(text.as_str().context("the agent's metrics are no text")?))
}

/// Reads until the pod of that name runs: how long that took.
pub async fn until_running(
    watcher: &mut Watcher,
    moments: &mut Moments,
    is_running: impl Fn(&[u8]) -> anyhow::Result<bool>,
) -> anyhow::Result<Duration> {
    let seen = |line: &[u8]| {
        moments.saw(line);
        is_running(line)
    };
    watcher.until_one(seen).await?;
    Ok(moments.begun.elapsed())
}

/// Histograms' sums and counts, by what stands before their value without `_sum` and `_count`.
fn parse(text: &str) -> Readings {
    let mut readings = Readings::new();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let Some((name, value)) = line.rsplit_once(' ').and_then(|(n, v)| Some((n, v.parse::<f64>().ok()?))) else { continue };
        let (bare, labels) = name.split_once('{').map_or((name, String::new()), |(bare, labels)| (bare, format!("{{{labels}")));
        if let Some(bare) = bare.strip_suffix("_sum") {
            readings.entry(format!("{bare}{labels}")).or_default().0 = value;
        } else if let Some(bare) = bare.strip_suffix("_count") {
            readings.entry(format!("{bare}{labels}")).or_default().1 = value;
        }
    }
    readings
}

#[cfg(test)]
mod tests {
    use super::*;

    const BEFORE: &str = "# TYPE kubelet_pod_start_duration_seconds histogram\n\
        kubelet_pod_start_duration_seconds_sum 1.5\nkubelet_pod_start_duration_seconds_count 3\n";
    const AFTER: &str = "kubelet_pod_start_duration_seconds_bucket{le=\"0.1\"} 4\n\
        kubelet_pod_start_duration_seconds_sum 1.625\nkubelet_pod_start_duration_seconds_count 4\n\
        kubelet_runtime_operations_duration_seconds_sum{operation_type=\"run_podsandbox\"} 0.0625\n\
        kubelet_runtime_operations_duration_seconds_count{operation_type=\"run_podsandbox\"} 1\n\
        kubelet_runtime_operations_duration_seconds_sum{operation_type=\"create_container\"} 0.005\n\
        kubelet_runtime_operations_duration_seconds_count{operation_type=\"create_container\"} 1\n\
        kubelet_runtime_operations_duration_seconds_sum{operation_type=\"image_status\"} 0.002\n\
        kubelet_runtime_operations_duration_seconds_count{operation_type=\"image_status\"} 2\n";
    const START_CALL: &str = "kubelet_runtime_operations_duration_seconds_sum{operation_type=\"start_container\"} 0.0325\n\
        kubelet_runtime_operations_duration_seconds_count{operation_type=\"start_container\"} 1\n";

    fn parts(after: &str) -> Parts {
        let mut moments = Moments::answered(Instant::now());
        moments.saw(br#"{"type":"MODIFIED","object":{"spec":{"nodeName":"n"}}}"#);
        let mut parts = Parts::default();
        parts.add(&moments, Duration::from_millis(120), &parse(BEFORE), &parse(after)).unwrap();
        parts
    }

    #[test]
    fn ours_is_what_the_three_calls_leave() {
        let figures = parts(&format!("{AFTER}{START_CALL}")).figures().unwrap();
        let value = |name: &str| figures.iter().find(|f| f.name == name).unwrap().value;
        let close = |name: &str, wanted: f64| assert!((value(name) - wanted).abs() < 0.001, "{name}: {}", value(name));
        close("- agent: seen to running", 125.0);
        close("- RunPodSandbox", 62.5);
        close("- statuses asked of the runtime", 2.0);
        close("ours: all but the three calls", 20.0);
    }

    #[test]
    fn a_call_that_was_not_counted_is_a_wrong_result() {
        assert!(parts(AFTER).figures().is_err());
        let bound = Parts::default().add(&Moments::answered(Instant::now()), Duration::ZERO, &parse(""), &parse(""));
        assert!(bound.is_err());
    }
}
