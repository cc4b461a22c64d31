//! Requests and limits -> the kernel's numbers: cpu shares, quota, memory, of a container and of a whole pod.
//!
//! Source: `pkg/kubelet/cm/helpers_linux.go`.

use api::{
    k8s::api::core::v1::{Container, Pod},
    quantity::Quantity,
};
use podspec::{Amounts, ContainerView, List, Overhead, Side};

use super::qos::{QosClass, class};

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

impl Limits {
    /// A container's own cgroup.
    pub fn of_container(pod: &Pod, container: &Container) -> Self {
        let stated = ContainerView::resources(container);
        let limit = |name| nonzero(stated.limits, name).or_else(|| nonzero(pod_limits(pod), name));
        let cpu_limit = limit("cpu").map(Quantity::milli);
        let cpu_request = stated.requests.get("cpu").map(Quantity::milli);
        Self {
            cpu_shares: shares(cpu_request.or(cpu_limit).unwrap_or(0)),
            cpu_quota_us: cpu_limit.map(quota_us),
            memory_bytes: limit("memory").map(Quantity::units),
        }
    }

    /// The cgroup above all of a pod's containers.
    pub fn of_pod(pod: &Pod) -> Self {
        let Some(spec) = pod.spec.as_ref().filter(|_| class(pod) != QosClass::BestEffort) else {
            return Self { cpu_shares: SHARES_MIN, ..Self::default() };
        };
        let limits = podspec::limits(spec, Overhead::Included);
        let limit = |name| limits.get(name).filter(|_| limited(pod, name));
        Self {
            cpu_shares: shares(requests(pod, "cpu")),
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
    requests(pod, "cpu")
}

/// What a pod asks for: thousandths of a cpu, or units of anything else.
pub fn requests(pod: &Pod, name: &str) -> i64 {
    let all = pod.spec.as_ref().map(|spec| podspec::requests(spec, Overhead::Included, &[])).unwrap_or_default();
    all.get(name).map_or(0, |amount| if name == "cpu" { amount.milli() } else { amount.units() })
}

fn quota_us(milli_cpu: i64) -> i64 {
    (milli_cpu.saturating_mul(QUOTA_PERIOD_US) / 1000).max(QUOTA_MIN_US)
}

fn pod_limits(pod: &Pod) -> List<'_> {
    pod.spec.as_ref().and_then(|s| s.resources.as_ref()).and_then(|r| r.limits.as_ref()).into()
}

fn nonzero(list: List<'_>, name: &str) -> Option<Quantity> {
    list.get(name).filter(|q| !q.is_zero())
}

/// Whether the pod itself has this limit, or every container while it is started: one that has none of its own is limited by the sidecars
/// before it.
fn limited(pod: &Pod, name: &str) -> bool {
    let mut all = true;
    let has = |amounts: &Amounts<'_>| amounts.get(name).is_some_and(|q| !q.is_zero());
    let each = |own: &Amounts<'_>, beside: &Amounts<'_>| all &= has(own) || has(beside);
    pod.spec.as_ref().map(|spec| podspec::aggregate(spec, Side::Limits, &[], each));
    all || nonzero(pod_limits(pod), name).is_some()
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
    fn an_init_container_is_limited_by_the_sidecars_before_it() {
        let limited = r#""resources":{"limits":{"memory":"1Gi"}}"#;
        let side = format!(r#"{{"name":"s","restartPolicy":"Always",{limited}}}"#);
        for (inits, memory) in [(format!(r#"{side},{{"name":"i"}}"#), Some(2 << 30)), (format!(r#"{{"name":"i"}},{side}"#), None)] {
            let p = pod(&format!(r#"{{"containers":[{{"name":"a",{limited}}}],"initContainers":[{inits}]}}"#));
            assert_eq!(Limits::of_pod(&p).memory_bytes, memory, "{inits}");
        }
    }

    #[test]
    fn one_unlimited_container_leaves_the_pod_unlimited() {
        let p = pod(r#"{"containers":[{"name":"a","resources":{"limits":{"memory":"1Gi"}}},{"name":"b"}]}"#);
        assert_eq!(Limits::of_pod(&p).memory_bytes, None);
    }
}
