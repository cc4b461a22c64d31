//! Jobs that are over, some time after -> deleted, with their pods. Source: `pkg/controller/ttlafterfinished`.

use std::sync::Arc;

use api::{
    Key,
    k8s::api::batch::v1::Job,
    metrics::Family,
    time::{Timestamp, span},
};
use client::{Cache, Caches};
use reconcile::{Action, Controller, Done, Plan, Propagation, Wake};

use crate::{
    Config,
    job::is_finished,
    lasted::{Ages, Lasted},
};

/// Seconds (`ExponentialBuckets(0.1, 2, 14)`).
const BUCKETS: &[f64] = &[0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8, 25.6, 51.2, 102.4, 204.8, 409.6, 819.2];

static LATE: Family = Family::times(
    "ttl_after_finished_controller_job_deletion_duration_seconds",
    "[ALPHA] The time it took to delete the job since it became eligible for deletion",
    &[],
    BUCKETS,
);

pub struct Finished {
    jobs: Cache<Job>,
    ages: Ages,
}

pub struct World {
    job: Arc<Job>,
    lasted: Lasted,
}

impl Finished {
    pub fn new(caches: &Caches, config: &Config) -> Self {
        Self { jobs: caches.of(), ages: Ages::new(&config.clock) }
    }
}

/// When it came to its end, where that limits its life, and for how many seconds it stays.
fn ended(job: &Job) -> Option<(Timestamp, i32)> {
    let seconds =
        job.spec.as_ref()?.ttl_seconds_after_finished.filter(|_| job.metadata.deletion_timestamp.is_none() && is_finished(job))?;
    let conditions = job.status.iter().flat_map(|status| status.conditions.iter().flatten());
    let end = conditions.into_iter().find(|c| matches!(c.type_.as_str(), "Complete" | "Failed") && c.status == "True")?;
    Some((end.last_transition_time.as_ref()?.0, seconds))
}

impl Controller for Finished {
    type World = World;

    fn name(&self) -> &'static str {
        "ttl-after-finished-controller"
    }

    fn watches(&self, wake: &Wake) {
        wake.on_own(&self.jobs);
    }

    async fn observe(&self, key: &Key) -> Option<World> {
        let job = self.jobs.get(key).filter(|job| ended(job).is_some());
        let lasted = self.ages.of(key, job.as_deref().and_then(ended).map(|(end, _)| end), Timestamp::now());
        Some(World { job: job?, lasted })
    }

    fn plan(&self, world: &World, _: &Key) -> Plan {
        plan(&world.job, &world.lasted)
    }

    fn ran(&self, _: &Key, world: &World, done: &Done<'_>) {
        let Some((end, seconds)) = ended(&world.job).filter(|_| done.failed.is_empty()) else { return };
        let (lasted, life) = (world.lasted.since(end), span(seconds));
        if lasted >= life {
            LATE.took(&[], lasted - life + done.took);
        }
    }
}

/// As it was seen: who gives it a longer life at the last moment is heard.
fn plan(job: &Job, lasted: &Lasted) -> Plan {
    let Some((end, seconds)) = ended(job) else { return Plan::rest() };
    let left = lasted.left(end, span(seconds));
    if left.is_zero() { Plan::act(vec![Action::delete_unchanged(job, Propagation::Foreground)]) } else { Plan::rest().again_in(left) }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::{Value, json};

    use super::*;

    fn planned(spec: Value, status: Value, deleting: bool) -> Plan {
        let mut metadata = json!({"name": "j", "namespace": "d", "uid": "u", "resourceVersion": "7"});
        if deleting {
            metadata["deletionTimestamp"] = "2026-01-01T00:00:00Z".into();
        }
        let mut job = json!({"metadata": metadata, "spec": {"template": {}}, "status": status});
        job["spec"].as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
        plan(&serde_json::from_value(job).unwrap(), &Lasted::at("2026-01-01T00:01:00Z".parse().unwrap()))
    }

    fn over(kind: &str, status: &str, at: Value) -> Value {
        json!({"conditions": [{"type": "Suspended", "status": "False"}, {"type": kind, "status": status, "lastTransitionTime": at}]})
    }

    /// `TestTimeLeft`.
    #[test]
    fn a_job_goes_when_its_time_is_up() {
        let at = || json!("2026-01-01T00:00:30Z");
        let ttl = |seconds: i32| json!({"ttlSecondsAfterFinished": seconds});
        for kind in ["Complete", "Failed"] {
            let gone = planned(ttl(30), over(kind, "True", at()), false);
            let Action::Delete { path, options, .. } = &gone.actions[0] else { panic!("{gone:?}") };
            assert_eq!(path, "/apis/batch/v1/namespaces/d/jobs/j");
            assert_eq!(*options, json!({"propagationPolicy": "Foreground", "preconditions": {"uid": "u", "resourceVersion": "7"}}));
            assert_eq!(planned(ttl(45), over(kind, "True", at()), false), Plan::rest().again_in(Duration::from_secs(15)));
        }
        let rests = [
            (json!({}), over("Complete", "True", at()), false),
            (ttl(0), over("Complete", "False", at()), false),
            (ttl(0), over("SuccessCriteriaMet", "True", at()), false),
            (ttl(0), over("Complete", "True", Value::Null), false),
            (ttl(0), over("Complete", "True", at()), true),
        ];
        for (spec, status, deleting) in rests {
            assert_eq!(planned(spec.clone(), status.clone(), deleting), Plan::rest(), "{spec} {status}");
        }
        assert_eq!(planned(ttl(0), over("Complete", "True", json!("2026-01-01T00:02:00Z")), false).actions.len(), 1);
    }
}
