//! A request for a certificate that is done with -> deleted.
//!
//! Source: `pkg/controller/certificates/cleaner/cleaner.go`. Upstream looks at all requests each hour; here each has its own time.

use std::{sync::Arc, time::Duration};

use api::{
    Key,
    k8s::api::certificates::v1::{CertificateSigningRequest, CertificateSigningRequestCondition},
    time::Timestamp,
};
use client::{Cache, Caches};
use reconcile::{Action, Controller, Plan, Wake};

use super::{APPROVED, DENIED, FAILED, is_issued};
use crate::{
    Config,
    lasted::{Ages, Lasted},
};

/// After it was approved and issued, denied, or failed.
const DONE: Duration = Duration::from_secs(3600);
/// While nobody decides, or nobody signs.
const PENDING: Duration = Duration::from_secs(24 * 3600);

pub struct Cleaning {
    requests: Cache<CertificateSigningRequest>,
    ages: Ages,
}

pub struct World {
    request: Arc<CertificateSigningRequest>,
    lasted: Lasted,
}

impl Cleaning {
    pub fn new(caches: &Caches, config: &Config) -> Self {
        Self { requests: caches.of(), ages: Ages::new(&config.clock) }
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
        let request = self.requests.get(key);
        let ends = request.iter().flat_map(|request| ends(request));
        let lasted = self.ages.of(key, ends.map(|(began, _)| began), Timestamp::now());
        Some(World { request: request?, lasted })
    }

    fn plan(&self, world: &World, _: &Key) -> Plan {
        match left(&world.request, &world.lasted) {
            None => Plan::rest(),
            Some(Duration::ZERO) => Plan::act(vec![Action::delete(&*world.request)]),
            Some(left) => Plan::rest().again_in(left),
        }
    }
}

/// Until the request goes; `None` without a time of anything.
fn left(request: &CertificateSigningRequest, lasted: &Lasted) -> Option<Duration> {
    ends(request).into_iter().map(|(began, span)| lasted.left(began, span)).min()
}

/// What would end the request: since when, and after how long. Who decides on it says when that was.
fn ends(request: &CertificateSigningRequest) -> Vec<(Timestamp, Duration)> {
    let conditions: Vec<&CertificateSigningRequestCondition> = request.status.iter().flat_map(|s| s.conditions.iter().flatten()).collect();
    if conditions.is_empty() {
        return request.metadata.creation_timestamp.iter().map(|made| (made.0, PENDING)).collect();
    }
    let kept = |condition: &CertificateSigningRequestCondition| match condition.type_.as_str() {
        APPROVED if is_issued(request) => Some(DONE),
        APPROVED => Some(PENDING),
        DENIED | FAILED => Some(DONE),
        _ => None,
    };
    conditions.into_iter().filter_map(|condition| Some((condition.last_update_time.as_ref()?.0, kept(condition)?))).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    /// Hours that are left of it at the beginning of the 4th.
    fn hours(conditions: &[(&str, &str)], certificate: &str) -> Option<u64> {
        let conditions: Vec<Value> =
            conditions.iter().map(|(kind, at)| json!({"type": kind, "status": "True", "lastUpdateTime": at})).collect();
        let request = json!({
            "metadata": {"name": "r", "creationTimestamp": "2026-01-03T12:00:00Z"}, "spec": {"request": "", "signerName": "a.b/c"},
            "status": {"conditions": conditions, "certificate": certificate},
        });
        let now = "2026-01-04T00:00:00Z".parse().unwrap();
        left(&serde_json::from_value(request).unwrap(), &Lasted::at(now)).map(|left| left.as_secs() / 3600)
    }

    #[test]
    fn each_state_has_its_time() {
        let (now, before) = ("2026-01-04T00:00:00Z", "2026-01-03T23:00:00Z");
        assert_eq!(hours(&[], ""), Some(12));
        assert_eq!(hours(&[("Approved", now)], ""), Some(24));
        assert_eq!(hours(&[("Approved", now)], "eA=="), Some(1));
        assert_eq!(hours(&[("Approved", before)], "eA=="), Some(0));
        assert_eq!(hours(&[("Denied", now)], ""), Some(1));
        assert_eq!(hours(&[("Approved", now), ("Failed", before)], ""), Some(0));
        assert_eq!(hours(&[("Mine", now)], ""), None, "as upstream: it is somebody's");
        for kind in ["Approved", "Denied", "Failed"] {
            assert_eq!(hours(&[(kind, "2999-01-01T00:00:00Z")], "eA=="), Some(1), "{kind}: nobody keeps a request for ever");
        }
    }
}
