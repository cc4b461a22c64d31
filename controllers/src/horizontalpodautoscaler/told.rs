//! What the controller does -> `horizontal_pod_autoscaler_controller_*` on the page of metrics. Source: `pkg/controller/podautoscaler/monitor`.

use std::cmp::Ordering;

use api::{Key, k8s::api::autoscaling::v2::HorizontalPodAutoscaler, metrics::Family};
use client::Cache;
use reconcile::Done;

use super::decide::{Faulty, Outcome};

/// Seconds (`ExponentialBuckets(0.001, 2, 15)`).
const BUCKETS: &[f64] = &[0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.128, 0.256, 0.512, 1.024, 2.048, 4.096, 8.192, 16.384];
const OF_RUN: &[&str] = &["action", "error"];
const OF_METRIC: &[&str] = &["action", "error", "metric_type"];

static RUNS: Family = Family::counter(
    "horizontal_pod_autoscaler_controller_reconciliations_total",
    "[BETA] Number of reconciliations of HPA controller. The label 'action' should be either 'scale_down', 'scale_up', or 'none'. Also, the label 'error' should be either 'spec', 'internal', or 'none'. Note that if both spec and internal errors happen during a reconciliation, the first one to occur is reported in `error` label.",
    OF_RUN,
);
static RUN_TOOK: Family = Family::times(
    "horizontal_pod_autoscaler_controller_reconciliation_duration_seconds",
    "[BETA] The time(seconds) that the HPA controller takes to reconcile once. The label 'action' should be either 'scale_down', 'scale_up', or 'none'. Also, the label 'error' should be either 'spec', 'internal', or 'none'. Note that if both spec and internal errors happen during a reconciliation, the first one to occur is reported in `error` label.",
    OF_RUN,
    BUCKETS,
);
static COMPUTED: Family = Family::counter(
    "horizontal_pod_autoscaler_controller_metric_computation_total",
    "[BETA] Number of metric computations. The label 'action' should be either 'scale_down', 'scale_up', or 'none'. Also, the label 'error' should be either 'spec', 'internal', or 'none'. The label 'metric_type' corresponds to HPA.spec.metrics[*].type",
    OF_METRIC,
);
static COMPUTED_TOOK: Family = Family::times(
    "horizontal_pod_autoscaler_controller_metric_computation_duration_seconds",
    "[BETA] The time(seconds) that the HPA controller takes to calculate one metric. The label 'action' should be either 'scale_down', 'scale_up', or 'none'. The label 'error' should be either 'spec', 'internal', or 'none'. The label 'metric_type' corresponds to HPA.spec.metrics[*].type",
    OF_METRIC,
    BUCKETS,
);
static AUTOSCALERS: Family = Family::gauge(
    "horizontal_pod_autoscaler_controller_num_horizontal_pod_autoscalers",
    "[ALPHA] Current number of controlled HPA objects.",
    &[],
);
static DESIRED: Family = Family::gauge(
    "horizontal_pod_autoscaler_controller_desired_replicas",
    "[ALPHA] Current desired replica count for HPA objects.",
    &["namespace", "hpa_name"],
);

pub fn follow(autoscalers: &Cache<HorizontalPodAutoscaler>) {
    autoscalers.on_change(|old, new| match (old, new) {
        (None, Some(_)) => AUTOSCALERS.with(&[]).add(1),
        (Some(_), None) => AUTOSCALERS.with(&[]).add(-1),
        _ => {}
    });
}

/// It is gone.
pub fn forget(key: &Key) {
    DESIRED.forget(&[&key.namespace, &key.name]);
}

pub fn ran(key: &Key, outcome: &Outcome, is_refused: bool, done: &Done<'_>) {
    let action = match outcome.rescaled {
        Some((from, to)) if !is_refused => action(to.cmp(&from)),
        _ => action(Ordering::Equal),
    };
    let values = [action, if is_refused { Faulty::Internal.word() } else { outcome.fault.word() }];
    RUNS.count(&values);
    RUN_TOOK.took(&values, done.took);
    for computed in &outcome.computed {
        let (wants, fault) = computed.wants.map_or_else(|fault| (Ordering::Equal, fault), |wants| (wants, Faulty::None));
        let values = [self::action(wants), fault.word(), &computed.kind];
        COMPUTED.count(&values);
        COMPUTED_TOOK.took(&values, computed.took);
    }
    if let Some(desired) = outcome.desired.filter(|_| !is_refused) {
        DESIRED.set(&[&key.namespace, &key.name], desired.into());
    }
}

fn action(wants: Ordering) -> &'static str {
    match wants {
        Ordering::Greater => "scale_up",
        Ordering::Less => "scale_down",
        Ordering::Equal => "none",
    }
}

impl Faulty {
    fn word(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Spec => "spec",
            Self::Internal => "internal",
        }
    }
}
