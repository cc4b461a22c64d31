//! How long things took -> histograms in Prometheus' text form, under upstream's names where upstream has them.
//!
//! Source: `pkg/kubelet/metrics/metrics.go`.

use std::{collections::BTreeMap, fmt::Write as _, sync::Arc, time::Duration};

use parking_lot::Mutex;

/// Upper bounds in seconds. Finer at the low end than upstream's, whose pods take longer.
const BOUNDS: [f64; 18] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0];

pub const POD_START: Family =
    Family::new("kubelet_pod_start_duration_seconds", "Duration from seeing a pod for the first time to the pod starting to run");
pub const WORKER_START: Family =
    Family::new("kubelet_pod_worker_start_duration_seconds", "Duration from seeing a pod to starting a worker");
pub const STATUS_SYNC: Family =
    Family::new("kubelet_pod_status_sync_duration_seconds", "Duration from a change of a pod's status until the API has it");
pub const RELIST: Family = Family::new("kubelet_pleg_relist_duration_seconds", "Duration of listing all pods of the runtime");
pub const RUNTIME: Family =
    Family::by("kubelet_runtime_operations_duration_seconds", "operation_type", "Duration of calls of the container runtime");
pub const CGROUPS: Family = Family::by("kubelet_cgroup_manager_duration_seconds", "operation_type", "Duration of cgroup operations");
pub const VOLUMES: Family =
    Family::new("skiff_kubelet_volumes_prepare_duration_seconds", "Duration of making a pod's volumes or bringing them up to date");
const ERRORS: &str = "kubelet_runtime_operations_errors_total";
const TOTAL: &str = "kubelet_runtime_operations_total";

/// One histogram, or one for each value of a label.
#[derive(Clone, Copy, Debug)]
pub struct Family {
    name: &'static str,
    label: &'static str,
    help: &'static str,
}

/// What was measured on this node. Clones share it.
#[derive(Clone, Default)]
pub struct Metrics {
    shared: Arc<Mutex<Shared>>,
}

#[derive(Default)]
struct Shared {
    /// By name and the label's value; bounded by the calls that we make.
    histograms: BTreeMap<(&'static str, &'static str), (Family, Histogram)>,
    /// Calls of the runtime that failed.
    errors: BTreeMap<&'static str, u64>,
}

#[derive(Clone, Copy, Default)]
struct Histogram {
    /// Not cumulative; what is above the last bound is in `count` only.
    buckets: [u64; BOUNDS.len()],
    count: u64,
    sum: f64,
}

impl Family {
    const fn new(name: &'static str, help: &'static str) -> Self {
        Self { name, label: "", help }
    }

    const fn by(name: &'static str, label: &'static str, help: &'static str) -> Self {
        Self { name, label, help }
    }
}

impl Metrics {
    pub fn observe(&self, family: Family, value: &'static str, took: Duration) {
        let mut shared = self.shared.lock();
        let (_, histogram) = shared.histograms.entry((family.name, value)).or_insert_with(|| (family, Histogram::default()));
        histogram.observe(took.as_secs_f64());
    }

    /// Times the work.
    pub async fn timed<T>(&self, family: Family, value: &'static str, work: impl Future<Output = T>) -> T {
        let began = std::time::Instant::now();
        let done = work.await;
        self.observe(family, value, began.elapsed());
        done
    }

    /// For the runtime's client.
    pub fn observer(&self) -> cri::Observe {
        let metrics = self.clone();
        Arc::new(move |call, took, failed| {
            metrics.observe(RUNTIME, call, took);
            if failed {
                *metrics.shared.lock().errors.entry(call).or_default() += 1;
            }
        })
    }

    /// How often that was observed.
    #[cfg(test)]
    pub fn count(&self, family: Family, value: &'static str) -> u64 {
        self.shared.lock().histograms.get(&(family.name, value)).map_or(0, |(_, h)| h.count)
    }

    pub fn render(&self, out: &mut String) {
        let shared = self.shared.lock();
        let mut last = "";
        for ((name, value), (family, histogram)) in &shared.histograms {
            if *name != last {
                let _ = writeln!(out, "# HELP {name} {}\n# TYPE {name} histogram", family.help);
                last = name;
            }
            histogram.render(out, name, &label(family.label, value));
        }
        let calls = shared.histograms.iter().filter(|((name, _), _)| *name == RUNTIME.name);
        counter(out, TOTAL, "Calls of the container runtime", calls.map(|((_, call), (_, h))| (*call, h.count)));
        counter(out, ERRORS, "Calls of the container runtime that failed", shared.errors.iter().map(|(call, n)| (*call, *n)));
    }
}

impl Histogram {
    fn observe(&mut self, seconds: f64) {
        if let Some(bucket) = BOUNDS.iter().position(|bound| seconds <= *bound).and_then(|at| self.buckets.get_mut(at)) {
            *bucket += 1;
        }
        self.count += 1;
        self.sum += seconds;
    }

    fn render(&self, out: &mut String, name: &str, label: &str) {
        let (mut below, comma) = (0, if label.is_empty() { "" } else { "," });
        for (bound, count) in BOUNDS.iter().zip(self.buckets) {
            below += count;
            let _ = writeln!(out, "{name}_bucket{{{label}{comma}le=\"{bound}\"}} {below}");
        }
        let _ = writeln!(out, "{name}_bucket{{{label}{comma}le=\"+Inf\"}} {}", self.count);
        let braced = if label.is_empty() { String::new() } else { format!("{{{label}}}") };
        let _ = writeln!(out, "{name}_sum{braced} {}\n{name}_count{braced} {}", self.sum, self.count);
    }
}

fn counter(out: &mut String, name: &str, help: &str, values: impl Iterator<Item = (&'static str, u64)>) {
    let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} counter");
    for (value, count) in values {
        let _ = writeln!(out, "{name}{{{}}} {count}", label(RUNTIME.label, value));
    }
}

fn label(name: &str, value: &str) -> String {
    if name.is_empty() { String::new() } else { format!("{name}=\"{}\"", value.replace("pod_sandbox", "podsandbox")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn histograms_read_as_prometheus_wants_them() {
        let metrics = Metrics::default();
        metrics.observe(POD_START, "", Duration::from_millis(180));
        metrics.observe(POD_START, "", Duration::from_secs(400));
        let observer = metrics.observer();
        observer("run_pod_sandbox", Duration::from_millis(40), true);
        let mut text = String::new();
        metrics.render(&mut text);
        for line in [
            "# TYPE kubelet_pod_start_duration_seconds histogram",
            "kubelet_pod_start_duration_seconds_bucket{le=\"0.15\"} 0",
            "kubelet_pod_start_duration_seconds_bucket{le=\"0.2\"} 1",
            "kubelet_pod_start_duration_seconds_bucket{le=\"300\"} 1",
            "kubelet_pod_start_duration_seconds_bucket{le=\"+Inf\"} 2",
            "kubelet_pod_start_duration_seconds_count 2",
            "kubelet_runtime_operations_duration_seconds_bucket{operation_type=\"run_podsandbox\",le=\"0.05\"} 1",
            "kubelet_runtime_operations_total{operation_type=\"run_podsandbox\"} 1",
            "kubelet_runtime_operations_errors_total{operation_type=\"run_podsandbox\"} 1",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} is not in\n{text}");
        }
    }
}
