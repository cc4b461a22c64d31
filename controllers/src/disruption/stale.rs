//! A pod that was to be disrupted and was not -> its condition DisruptionTarget says so. Source: `syncStalePodDisruption`.

use std::{sync::Arc, time::Duration};

use api::{Key, time::Timestamp};
use client::{
    Cache, Caches,
    pods::{Pod, PodCondition, Wanted},
};
use reconcile::{Action, Controller, Plan, Wake, own_key};
use serde_json::json;

use crate::{
    Config,
    lasted::{Ages, Lasted},
};

const TARGET: &str = "DisruptionTarget";
/// How long a pod may stand as disrupted without being deleted.
const TIMEOUT: Duration = Duration::from_secs(120);

pub struct StaleDisruptions {
    pods: Cache<Pod>,
    ages: Ages,
}

pub struct World {
    pod: Arc<Pod>,
    lasted: Lasted,
}

impl StaleDisruptions {
    pub fn new(caches: &Caches, config: &Config) -> Self {
        Self { pods: caches.of(), ages: Ages::new(&config.clock) }
    }
}

impl Controller for StaleDisruptions {
    type World = World;

    fn name(&self) -> &'static str {
        "stale-disruption-controller"
    }

    fn watches(&self, wake: &Wake) {
        wake.on(&self.pods, |pod, wake| {
            if promised(pod).is_some() {
                wake(own_key(pod));
            }
        });
    }

    async fn observe(&self, key: &Key) -> Option<World> {
        let (pod, now) = (self.pods.get(key), Timestamp::now());
        let since = pod.as_ref().and_then(|pod| Some(promised(pod)?.last_transition_time.as_ref()?.0));
        let lasted = self.ages.of(key, since, now);
        Some(World { pod: pod?, lasted })
    }

    fn plan(&self, world: &World, _: &Key) -> Plan {
        plan(&world.pod, &world.lasted)
    }
}

fn plan(pod: &Pod, lasted: &Lasted) -> Plan {
    let Some(promise) = promised(pod) else { return Plan::rest() };
    let left = promise.last_transition_time.as_ref().map_or(TIMEOUT, |since| lasted.left(since.0, TIMEOUT));
    if !left.is_zero() {
        return Plan::rest().again_in(left);
    }
    let broken = pod.changed_condition(Wanted { kind: TARGET, status: "False", reason: "", message: "" }, lasted.now);
    let metadata = json!({"resourceVersion": pod.metadata.resource_version});
    Plan::act(vec![Action::patch_status(pod, json!({"metadata": metadata, "status": {"conditions": [broken]}}))])
}

/// The condition of a pod that is to go and does not. What a node agent ends itself may take its time.
fn promised(pod: &Pod) -> Option<&PodCondition> {
    let status = pod.status.as_ref().filter(|_| pod.metadata.deletion_timestamp.is_none())?;
    if matches!(status.phase.as_deref(), Some("Succeeded" | "Failed")) {
        return None;
    }
    let found = pod.condition(TARGET).filter(|condition| condition.status == "True")?;
    (found.reason.as_deref() != Some("TerminationByKubelet")).then_some(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_promise_that_is_not_kept_is_taken_back() {
        let pod = |reason: &str| -> Pod {
            let condition = json!({"type": TARGET, "status": "True", "reason": reason, "lastTransitionTime": "2026-01-01T00:00:00Z"});
            serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "d", "uid": "u"}, "status": {"conditions": [condition]}}))
                .unwrap()
        };
        let at = |text: &str| Lasted::at(api::time::parse(text).unwrap());
        assert_eq!(plan(&pod("X"), &at("2026-01-01T00:01:00Z")), Plan::rest().again_in(Duration::from_secs(60)));
        assert_eq!(plan(&pod("TerminationByKubelet"), &at("2026-01-01T01:00:00Z")), Plan::rest());
        let done = plan(&pod("X"), &at("2026-01-01T00:02:00Z"));
        let [Action::Patch { path, patch, form: reconcile::PatchType::Strategic, .. }] = done.actions.as_slice() else {
            panic!("{done:?}")
        };
        let condition = &patch["status"]["conditions"][0];
        assert_eq!((path.as_str(), &condition["status"]), ("/api/v1/namespaces/d/pods/p/status", &json!("False")));
        assert_eq!((&condition["reason"], &condition["lastTransitionTime"]), (&json!(null), &json!("2026-01-01T00:02:00Z")));
    }
}
