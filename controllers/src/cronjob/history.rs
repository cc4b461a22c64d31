//! Jobs that are over -> those that are too many: the oldest.

use std::{cmp::Ordering, sync::Arc};

use api::k8s::api::batch::v1::{CronJob, Job};

pub const COMPLETE: &str = "Complete";
const FAILED: &str = "Failed";

/// `Complete` or `Failed`, where it is over.
pub fn finished(job: &Job) -> Option<&'static str> {
    let conditions = job.status.as_ref()?.conditions.as_ref()?;
    let holds = |condition: &&'static str| conditions.iter().any(|c| c.type_ == **condition && c.status == "True");
    [COMPLETE, FAILED].into_iter().find(|condition| holds(condition))
}

/// More than `successfulJobsHistoryLimit` and `failedJobsHistoryLimit` allow; what is being deleted already is not counted.
pub fn too_many(cron_job: &CronJob, jobs: &[Arc<Job>]) -> Vec<Arc<Job>> {
    let spec = &cron_job.spec;
    let mut out = Vec::new();
    for (how, limit) in [(COMPLETE, spec.successful_jobs_history_limit), (FAILED, spec.failed_jobs_history_limit)] {
        let Some(limit) = limit.and_then(|limit| usize::try_from(limit).ok()) else { continue };
        let is_over = |job: &&Arc<Job>| finished(job) == Some(how) && job.metadata.deletion_timestamp.is_none();
        let mut over: Vec<&Arc<Job>> = jobs.iter().filter(is_over).collect();
        over.sort_by(|a, b| by_start(a, b));
        out.extend(over.iter().take(over.len().saturating_sub(limit)).map(|job| Arc::clone(job)));
    }
    out
}

/// What has not begun is the youngest.
fn by_start(a: &Job, b: &Job) -> Ordering {
    let start = |job: &Job| job.status.as_ref().and_then(|status| status.start_time.clone());
    let (a_start, b_start) = (start(a), start(b));
    let unstarted = a_start.is_none().cmp(&b_start.is_none());
    unstarted.then(a_start.cmp(&b_start)).then_with(|| a.metadata.name.cmp(&b.metadata.name))
}
