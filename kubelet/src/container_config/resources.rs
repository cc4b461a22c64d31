//! Requests and limits -> the kernel's numbers: cpu shares, quota, memory, of a container and of a whole pod.
//!
//! Source: `pkg/kubelet/cm/helpers_linux.go`, `staging/src/k8s.io/component-helpers/resource/helpers.go`.

use api::{
    k8s::api::core::v1::{Container, Pod, PodSpec},
    quantity::Quantity,
};

use super::qos::{QosClass, ResourceList, amount};
use crate::meta;

/// The period of the cpu quota, in microseconds.
pub const QUOTA_PERIOD_US: i64 = 100_000;
const QUOTA_MIN_US: i64 = 1000;
const SHARES_MIN: i64 = 2;
const SHARES_MAX: i64 = 262_144;

/// What one cgroup is given. `None` is "no limit".
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    pub cpu_shares: i64,
    /// Microseconds of cpu per [`QUOTA_PERIOD_US`].
    pub cpu_quota_us: Option<i64>,
    pub memory_bytes: Option<i64>,
}

/// Which of the two lists is summed.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Side {
    Requests,
    Limits,
}

impl Limits {
    /// A container's own cgroup.
    pub fn of_container(pod: &Pod, container: &Container) -> Self {
        let pod_limits = pod.spec.as_ref().and_then(|s| s.resources.as_ref()).and_then(|r| r.limits.as_ref());
        let limit = |name| nonzero(list(container, Side::Limits), name).or_else(|| nonzero(pod_limits, name));
        let cpu_limit = limit("cpu").map(Quantity::milli);
        let cpu_request = amount(list(container, Side::Requests), "cpu").map(Quantity::milli);
        Self {
            cpu_shares: shares(cpu_request.or(cpu_limit).unwrap_or(0)),
            cpu_quota_us: cpu_limit.map(quota_us),
            memory_bytes: limit("memory").map(Quantity::units),
        }
    }

    /// The cgroup above all of a pod's containers.
    pub fn of_pod(pod: &Pod) -> Self {
        let class = QosClass::of(pod);
        if class == QosClass::BestEffort {
            return Self { cpu_shares: SHARES_MIN, ..Self::default() };
        }
        let limit = |name| if limited(pod, name) { total(pod, Side::Limits, name) } else { None };
        Self {
            cpu_shares: shares(total(pod, Side::Requests, "cpu").map_or(0, Quantity::milli)),
            cpu_quota_us: limit("cpu").map(|q| quota_us(q.milli())),
            memory_bytes: limit("memory").map(Quantity::units),
        }
    }
}

/// Thousandths of a cpu -> cgroup v1 shares.
pub fn shares(milli_cpu: i64) -> i64 {
    (milli_cpu.saturating_mul(1024) / 1000).clamp(SHARES_MIN, SHARES_MAX)
}

/// The cpu that a pod asks for, in thousandths.
pub fn cpu_request_milli(pod: &Pod) -> i64 {
    total(pod, Side::Requests, "cpu").map_or(0, Quantity::milli)
}

/// What a pod asks for: thousandths of a cpu, or units of anything else.
pub fn requests(pod: &Pod, name: &str) -> i64 {
    let total = total(pod, Side::Requests, name);
    total.map_or(0, if name == "cpu" { Quantity::milli } else { Quantity::units })
}

fn quota_us(milli_cpu: i64) -> i64 {
    (milli_cpu.saturating_mul(QUOTA_PERIOD_US) / 1000).max(QUOTA_MIN_US)
}

fn list(container: &Container, side: Side) -> Option<&ResourceList> {
    let resources = container.resources.as_ref()?;
    if side == Side::Requests { resources.requests.as_ref() } else { resources.limits.as_ref() }
}

fn nonzero(list: Option<&ResourceList>, name: &str) -> Option<Quantity> {
    amount(list, name).filter(|q| !q.is_zero())
}

/// Whether every container has this limit, or the pod itself has.
fn limited(pod: &Pod, name: &str) -> bool {
    let own = pod.spec.as_ref().and_then(|s| s.resources.as_ref()).and_then(|r| r.limits.as_ref());
    nonzero(own, name).is_some() || meta::containers(pod).all(|c| nonzero(list(c, Side::Limits), name).is_some())
}

/// The sum over what runs at the same time at most: main containers with sidecars, or one init container with the sidecars before it; what is
/// said of the pod as a whole in its place; overhead on top (`PodRequests`, `PodLimits`).
fn total(pod: &Pod, side: Side, name: &str) -> Option<Quantity> {
    let spec = pod.spec.as_ref()?;
    let own = spec.resources.as_ref();
    let own = own.and_then(|r| if side == Side::Requests { r.requests.as_ref() } else { r.limits.as_ref() });
    let sum = amount(own, name).or_else(|| together(spec, side, name));
    let overhead = amount(spec.overhead.as_ref(), name);
    if side == Side::Limits && sum.is_none() { None } else { plus(sum, overhead) }
}

/// Of the containers alone.
fn together(spec: &PodSpec, side: Side, name: &str) -> Option<Quantity> {
    let mut sum = spec.containers.iter().filter_map(|c| amount(list(c, side), name)).reduce(Quantity::plus);
    let (mut sidecars, mut peak) = (None, None);
    for container in spec.init_containers.as_deref().unwrap_or_default() {
        let quantity = amount(list(container, side), name);
        let beside = plus(quantity, sidecars);
        if meta::is_sidecar(container) {
            sidecars = beside;
            sum = plus(sum, quantity);
        }
        peak = larger(peak, beside);
    }
    larger(sum, peak)
}

fn plus(a: Option<Quantity>, b: Option<Quantity>) -> Option<Quantity> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.plus(b)),
        (a, b) => a.or(b),
    }
}

fn larger(a: Option<Quantity>, b: Option<Quantity>) -> Option<Quantity> {
    match (a, b) {
        (Some(a), Some(b)) => Some(if a < b { b } else { a }),
        (a, b) => a.or(b),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::container_config::testing::pod;

    #[test]
    fn shares_and_quota_are_upstreams() {
        for (milli, wanted) in [(0, 2), (1, 2), (100, 102), (1000, 1024), (1_000_000, 262_144)] {
            assert_eq!(shares(milli), wanted, "{milli}");
        }
        for (milli, wanted) in [(1, 1000), (500, 50_000), (2000, 200_000)] {
            assert_eq!(quota_us(milli), wanted, "{milli}");
        }
    }

    #[test]
    fn a_container_without_request_takes_its_limit() {
        let p = pod(r#"{"containers":[{"name":"a","resources":{"limits":{"cpu":"500m","memory":"64Mi"}}}]}"#);
        let limits = Limits::of_container(&p, &p.spec.as_ref().unwrap().containers[0]);
        assert_eq!(limits, Limits { cpu_shares: 512, cpu_quota_us: Some(50_000), memory_bytes: Some(64 << 20) });
    }

    #[test]
    fn a_pod_sums_what_runs_together() {
        let r = |cpu: &str| format!(r#"{{"requests":{{"cpu":"{cpu}"}},"limits":{{"cpu":"{cpu}"}}}}"#);
        let p = pod(&format!(
            r#"{{"containers":[{{"name":"a","resources":{}}},{{"name":"b","resources":{}}}],
                "initContainers":[{{"name":"s","restartPolicy":"Always","resources":{}}},{{"name":"i","resources":{}}}]}}"#,
            r("1"),
            r("500m"),
            r("250m"),
            r("3")
        ));
        let limits = Limits::of_pod(&p);
        assert_eq!(limits.cpu_shares, 3250 * 1024 / 1000);
        assert_eq!(limits.cpu_quota_us, Some(325_000));
        assert_eq!(limits.memory_bytes, None);
    }

    #[test]
    fn overhead_comes_on_top_of_what_the_pod_as_a_whole_asks_for() {
        let whole = r#""containers":[{"name":"a"}],"resources":{"requests":{"cpu":"1"},"limits":{"cpu":"2"}},"overhead":{"cpu":"250m","memory":"1Mi"}"#;
        let p = pod(&format!("{{{whole}}}"));
        assert_eq!((requests(&p, "cpu"), requests(&p, "memory")), (1250, 1 << 20));
        let limits = Limits::of_pod(&p);
        assert_eq!((limits.cpu_shares, limits.cpu_quota_us, limits.memory_bytes), (1280, Some(225_000), None));
    }

    #[test]
    fn one_unlimited_container_leaves_the_pod_unlimited() {
        let p = pod(r#"{"containers":[{"name":"a","resources":{"limits":{"memory":"1Gi"}}},{"name":"b"}]}"#);
        assert_eq!(Limits::of_pod(&p).memory_bytes, None);
    }
}
