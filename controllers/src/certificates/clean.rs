//! A request for a certificate that is done with -> deleted.
//!
//! Source: `pkg/controller/certificates/cleaner/cleaner.go`. Upstream looks at all requests each hour; here each has its own time.

use std::{sync::Arc, time::Duration};

use api::{
    Key,
    k8s::api::certificates::v1::{CertificateSigningRequest, CertificateSigningRequestCondition},
    time::{Timestamp, after},
};
use client::{Cache, Caches};
use reconcile::{Action, Controller, Plan, Wake};

use super::{APPROVED, DENIED, FAILED, is_issued};

/// After it was approved and issued, denied, or failed.
const DONE: Duration = Duration::from_secs(3600);
/// While nobody decides, or nobody signs.
const PENDING: Duration = Duration::from_secs(24 * 3600);

pub struct Cleaning {
    requests: Cache<CertificateSigningRequest>,
}

pub struct World {
    request: Arc<CertificateSigningRequest>,
    now: Timestamp,
}

impl Cleaning {
    pub fn new(caches: &Caches) -> Self {
        Self { requests: caches.of() }
    }
}

impl Controller for Cleaning {
    type World = World;

    fn name(&self) -> &'static str {
        "certificatesigningrequest-cleaner-controller"
    }

    fn watches(&self, wake: &Wake) {
        wake.on_own(&self.requests);
    }

    async fn observe(&self, key: &Key) -> Option<World> {
        Some(World { request: self.requests.get(key)?, now: Timestamp::now() })
    }

    fn plan(&self, world: &World, _: &Key) -> Plan {
        let Some(end) = end(&world.request) else { return Plan::rest() };
        match Duration::try_from(end.duration_since(world.now)) {
            Ok(left) if !left.is_zero() => Plan::rest().again_in(left),
            _ => Plan::act(vec![Action::delete(&*world.request)]),
        }
    }
}

/// When the request goes; none without a time of anything.
fn end(request: &CertificateSigningRequest) -> Option<Timestamp> {
    let conditions: Vec<&CertificateSigningRequestCondition> = request.status.iter().flat_map(|s| s.conditions.iter().flatten()).collect();
    if conditions.is_empty() {
        return Some(after(request.metadata.creation_timestamp.as_ref()?.0, PENDING));
    }
    let kept = |condition: &CertificateSigningRequestCondition| match condition.type_.as_str() {
        APPROVED if is_issued(request) => Some(DONE),
        APPROVED => Some(PENDING),
        DENIED | FAILED => Some(DONE),
        _ => None,
    };
    conditions.into_iter().filter_map(|condition| Some(after(condition.last_update_time.as_ref()?.0, kept(condition)?))).min()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn ends(conditions: &[(&str, &str)], certificate: &str) -> Option<String> {
        let conditions: Vec<Value> = conditions
            .iter()
            .map(|(kind, at)| json!({"type": kind, "status": "True", "lastUpdateTime": format!("2026-01-0{at}T00:00:00Z")}))
            .collect();
        let request = json!({
            "metadata": {"name": "r", "creationTimestamp": "2026-01-01T00:00:00Z"}, "spec": {"request": "", "signerName": "a.b/c"},
            "status": {"conditions": conditions, "certificate": certificate},
        });
        end(&serde_json::from_value(request).unwrap()).map(api::time::rfc3339)
    }

    #[test]
    fn each_state_has_its_time() {
        assert_eq!(ends(&[], "").unwrap(), "2026-01-02T00:00:00Z");
        assert_eq!(ends(&[("Approved", "3")], "").unwrap(), "2026-01-04T00:00:00Z");
        assert_eq!(ends(&[("Approved", "3")], "eA==").unwrap(), "2026-01-03T01:00:00Z");
        assert_eq!(ends(&[("Denied", "3")], "").unwrap(), "2026-01-03T01:00:00Z");
        assert_eq!(ends(&[("Approved", "3"), ("Failed", "3")], "").unwrap(), "2026-01-03T01:00:00Z");
        assert_eq!(ends(&[("Mine", "3")], ""), None, "as upstream: it is somebody's");
    }
}
