//! A controller's queue -> `workqueue_*` on the page of metrics.
//!
//! Source: client-go `util/workqueue/metrics.go`, component-base `metrics/prometheus/workqueue`. A key that is woken while it runs, or is held, counts as added
//! then (as upstream's dirty ones), and as waiting from when it may run.

use std::{
    collections::BTreeMap,
    sync::{Arc, Once},
    time::Duration,
};

use api::metrics::{self, Family, Series};
use parking_lot::Mutex;

/// By the queue's name; bounded by the controllers that the code names.
static QUEUES: Mutex<BTreeMap<String, Look>> = Mutex::new(BTreeMap::new());

/// How a queue stands now; `None` where it is gone.
type Look = Box<dyn Fn() -> Option<Standing> + Send + Sync>;

/// How a queue stands.
#[derive(Default)]
pub(crate) struct Standing {
    pub depth: usize,
    /// How long runs have been under way: together, and the longest.
    pub unfinished: Duration,
    pub longest: Duration,
}

/// Seconds (`ExponentialBuckets(10e-9, 10, 10)`).
const BUCKETS: &[f64] = &[1e-8, 1e-7, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0];

static DEPTH: Family = Family::gauge("workqueue_depth", "[BETA] Current depth of workqueue", &["name"]);
static ADDS: Family = Family::counter("workqueue_adds_total", "[BETA] Total number of adds handled by workqueue", &["name"]);
static WAITED: Family = Family::times(
    "workqueue_queue_duration_seconds",
    "[BETA] How long in seconds an item stays in workqueue before being requested.",
    &["name"],
    BUCKETS,
);
static WORKED: Family = Family::times(
    "workqueue_work_duration_seconds",
    "[BETA] How long in seconds processing an item from workqueue takes.",
    &["name"],
    BUCKETS,
);
static UNFINISHED: Family = Family::gauge(
    "workqueue_unfinished_work_seconds",
    "[BETA] How many seconds of work has done that is in progress and hasn't been observed by work_duration. Large values indicate stuck threads. One can deduce the number of stuck threads by observing the rate at which this increases.",
    &["name"],
);
static LONGEST: Family = Family::gauge(
    "workqueue_longest_running_processor_seconds",
    "[BETA] How many seconds has the longest running processor for workqueue been running.",
    &["name"],
);
static RETRIES: Family = Family::counter("workqueue_retries_total", "[BETA] Total number of retries handled by workqueue", &["name"]);

/// Upstream's names of queues, where they are not the controller's with `_`.
const NAMES: [(&str, &str); 22] = [
    ("certificatesigningrequest-approving-controller", "certificate"),
    ("certificatesigningrequest-cleaner-controller", "certificate_cleaner"),
    ("certificatesigningrequest-signing-controller", "certificate_signer"),
    ("bootstrap-signer-controller", "bootstrap_signer_queue"),
    ("endpoints-controller", "endpoint"),
    ("endpointslice-controller", "endpoint_slice"),
    ("endpointslice-mirroring-controller", "endpoint_slice_mirroring"),
    ("garbage-collector-controller", "garbage_collector_attempt_to_delete"),
    ("horizontal-pod-autoscaler-controller", "horizontalpodautoscaler"),
    ("node-lifecycle-controller", "node_lifecycle_controller"),
    ("node-ttl-controller", "ttlcontroller"),
    ("persistentvolume-attach-detach-controller", "pvcs"),
    ("persistentvolume-binder-claims", "claims"),
    ("persistentvolume-binder-volumes", "volumes"),
    ("persistentvolume-expander-controller", "volume_expand"),
    ("pod-garbage-collector-controller", "orphaned_pods_nodes"),
    ("pv-protection-controller", "pvprotection"),
    ("pvc-protection-controller", "pvcprotection"),
    ("replication-controller", "replicationmanager"),
    ("resourcequota-controller", "resourcequota_primary"),
    ("stale-disruption-controller", "stale_pod_disruption"),
    ("ttl-after-finished-controller", "ttl_jobs_to_delete"),
];

/// The series of one queue.
pub(crate) struct Told {
    adds: Arc<Series>,
    waited: Arc<Series>,
    worked: Arc<Series>,
    retries: Arc<Series>,
}

impl Told {
    pub fn new(name: &str) -> Self {
        let with = |family: &'static Family| family.with(&[name]);
        Self { adds: with(&ADDS), waited: with(&WAITED), worked: with(&WORKED), retries: with(&RETRIES) }
    }

    pub fn added(&self) {
        self.adds.add(1);
    }

    pub fn waited(&self, time: Duration) {
        self.waited.took(time);
    }

    pub fn worked(&self, time: Duration) {
        self.worked.took(time);
    }

    pub fn retried(&self) {
        self.retries.add(1);
    }
}

/// As upstream calls the queue of that controller.
pub(crate) fn queue_name(controller: &str) -> String {
    match NAMES.iter().find(|(own, _)| *own == controller) {
        Some((_, name)) => (*name).to_owned(),
        None => controller.strip_suffix("-controller").unwrap_or(controller).replace('-', "_"),
    }
}

/// What is only known by looking is looked at for each page. Who begins to lead again has new queues of the same names.
pub(crate) fn follow(name: String, look: impl Fn() -> Option<Standing> + Send + Sync + 'static) {
    static READS: Once = Once::new();
    QUEUES.lock().insert(name, Box::new(look));
    READS.call_once(|| {
        metrics::before_page(|| {
            QUEUES.lock().iter().for_each(|(name, look)| tell(name, look().unwrap_or_default()));
            true
        });
    });
}

fn tell(name: &str, Standing { depth, unfinished, longest }: Standing) {
    let whole = |time: Duration| i64::try_from(time.as_secs()).unwrap_or(i64::MAX);
    DEPTH.set(&[name], i64::try_from(depth).unwrap_or(i64::MAX));
    UNFINISHED.set(&[name], whole(unfinished));
    LONGEST.set(&[name], whole(longest));
}

#[cfg(test)]
mod tests {
    use api::Key;

    use super::*;
    use crate::queue::Queue;

    #[test]
    fn queues_have_upstreams_names() {
        let cases = [
            ("deployment-controller", "deployment"),
            ("endpointslice-controller", "endpoint_slice"),
            ("endpointslice-mirroring-controller", "endpoint_slice_mirroring"),
            ("root-ca-cert-publisher", "root_ca_cert_publisher"),
            ("token-cleaner-controller", "token_cleaner"),
        ];
        for (controller, name) in cases {
            assert_eq!(queue_name(controller), name);
        }
    }

    #[test]
    fn what_a_queue_does_is_told() {
        let queue = Queue::of("told-controller");
        for name in ["a", "b", "a"] {
            queue.wake(Key::new("d", name));
        }
        let key = queue.next().unwrap();
        queue.wake(key.clone());
        queue.wake(key.clone());
        let page = || {
            let mut page = String::new();
            metrics::text("workqueue_", &mut page);
            page
        };
        let has = |line: &str| assert!(page().lines().any(|one| one == line), "{line}\n{}", page());
        has("workqueue_depth{name=\"told\"} 1");
        has("workqueue_adds_total{name=\"told\"} 3");
        has("workqueue_queue_duration_seconds_count{name=\"told\"} 1");
        has("workqueue_work_duration_seconds_count{name=\"told\"} 0");
        has("workqueue_longest_running_processor_seconds{name=\"told\"} 0");
        queue.finish(&key, vec![]);
        queue.failed(&key);
        has("workqueue_work_duration_seconds_count{name=\"told\"} 1");
        has("workqueue_retries_total{name=\"told\"} 1");
        has("workqueue_depth{name=\"told\"} 2");
        drop(queue);
        has("workqueue_depth{name=\"told\"} 0");
    }
}
