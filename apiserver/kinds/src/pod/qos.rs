//! A pod's requests and limits -> its quality of service class. Source: `pkg/apis/core/helper/qos/qos.go`.

use api::quantity::Quantity;
use serde_json::Value;

use crate::common::{Read, resources::quantity};

/// CPU and memory, each as a sum over containers; `None` where nobody asks for any.
#[derive(Default, PartialEq)]
struct Sum {
    cpu: Option<Quantity>,
    memory: Option<Quantity>,
}

/// `Guaranteed`, `Burstable` or `BestEffort`.
pub fn class(spec: &Value) -> &'static str {
    let (mut requests, mut limits, mut all_limited) = (Sum::default(), Sum::default(), true);
    let parts: Vec<Option<&Value>> = match spec.at("resources") {
        Some(own) => vec![Some(own)],
        None => ["containers", "initContainers"].iter().flat_map(|l| spec.list(l)).map(|c| c.at("resources")).collect(),
    };
    for resources in parts {
        requests.add(resources.at("requests"));
        let mut own = Sum::default();
        own.add(resources.at("limits"));
        all_limited &= own.cpu.is_some() && own.memory.is_some();
        limits.add(resources.at("limits"));
    }
    if requests.is_empty() && limits.is_empty() {
        return "BestEffort";
    }
    if all_limited && requests.equals(&limits) { "Guaranteed" } else { "Burstable" }
}

impl Sum {
    fn add(&mut self, list: Option<&Value>) {
        add(&mut self.cpu, list.at("cpu"));
        add(&mut self.memory, list.at("memory"));
    }

    fn is_empty(&self) -> bool {
        self.cpu.is_none() && self.memory.is_none()
    }

    /// By value: `1` equals `1000m`.
    fn equals(&self, other: &Self) -> bool {
        let same = |a: Option<Quantity>, b: Option<Quantity>| match (a, b) {
            (Some(a), Some(b)) => a.partial_cmp(&b) == Some(std::cmp::Ordering::Equal),
            (a, b) => a.is_none() && b.is_none(),
        };
        same(self.cpu, other.cpu) && same(self.memory, other.memory)
    }
}

fn add(sum: &mut Option<Quantity>, value: Option<&Value>) {
    let Some(more) = value.and_then(quantity).filter(|q| !q.is_zero() && !q.is_negative()) else { return };
    *sum = Some(sum.map_or(more, |s| s.plus(more)));
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::class;

    #[test]
    fn classes_are_upstreams() {
        let full = json!({"cpu": "1", "memory": "1Gi"});
        let cases = [
            (json!({"containers": [{}]}), "BestEffort"),
            (json!({"containers": [{"resources": {"requests": {"cpu": "0"}}}]}), "BestEffort"),
            (json!({"containers": [{"resources": {"requests": {"cpu": "1"}}}]}), "Burstable"),
            (json!({"containers": [{"resources": {"limits": full, "requests": {"cpu": "1000m", "memory": "1Gi"}}}]}), "Guaranteed"),
            (json!({"containers": [{"resources": {"limits": full, "requests": full}}, {}]}), "Burstable"),
            (json!({"containers": [{"resources": {"limits": full, "requests": full}}], "initContainers": [{}]}), "Burstable"),
            (json!({"resources": {"limits": full, "requests": full}, "containers": [{}]}), "Guaranteed"),
            (json!({"containers": [{"resources": {"limits": full, "requests": {"cpu": "1", "memory": "1"}}}]}), "Burstable"),
        ];
        for (spec, wanted) in cases {
            assert_eq!(class(&spec), wanted, "{spec}");
        }
    }
}
