//! What a Job asks for, where it says nothing the default.

use api::k8s::api::batch::v1::{Job, PodFailurePolicy};

use super::pods::spec;

/// Source: `pkg/apis/batch/v1/defaults.go`.
#[derive(Clone, Copy, Debug)]
pub struct Wanted<'a> {
    pub parallelism: i32,
    /// As many as there are indexes, where it is indexed.
    pub completions: Option<i32>,
    pub is_indexed: bool,
    pub is_suspended: bool,
    pub backoff_limit: i32,
    pub per_index: Option<i32>,
    pub failure_policy: Option<&'a PodFailurePolicy>,
    /// A pod that is being deleted is waited for.
    pub replaces_failed_only: bool,
    /// Containers are started again in their pod.
    pub restarts_on_failure: bool,
}

impl<'a> Wanted<'a> {
    pub fn of(job: &'a Job) -> Self {
        let spec = spec(job);
        let is_indexed = spec.completion_mode.as_deref() == Some("Indexed");
        let restart_policy = spec.template.spec.as_ref().and_then(|pod| pod.restart_policy.as_deref());
        Self {
            parallelism: spec.parallelism.unwrap_or(1),
            completions: spec.completions.or(is_indexed.then_some(0)),
            is_indexed,
            is_suspended: spec.suspend == Some(true),
            backoff_limit: spec.backoff_limit.unwrap_or(6),
            per_index: spec.backoff_limit_per_index.filter(|_| is_indexed),
            failure_policy: spec.pod_failure_policy.as_ref(),
            replaces_failed_only: spec.pod_failure_policy.is_some() || spec.pod_replacement_policy.as_deref() == Some("Failed"),
            restarts_on_failure: restart_policy == Some("OnFailure"),
        }
    }
}
