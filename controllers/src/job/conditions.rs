//! A Job's conditions.

use api::{
    k8s::{
        api::batch::v1::{JobCondition, JobStatus},
        apimachinery::pkg::apis::meta::v1::Time,
    },
    time::Timestamp,
};

pub const COMPLETE: &str = "Complete";
pub const FAILED: &str = "Failed";
/// It will fail once its pods are gone.
pub const FAILURE_TARGET: &str = "FailureTarget";
/// It will be complete once its pods are gone.
pub const CRITERIA_MET: &str = "SuccessCriteriaMet";
pub const SUSPENDED: &str = "Suspended";

pub fn condition(kind: &str, status: &str, (reason, message): (&str, &str), now: Timestamp) -> JobCondition {
    JobCondition {
        type_: kind.into(),
        status: status.into(),
        reason: Some(reason.into()),
        message: Some(message.into()),
        last_probe_time: Some(Time(now)),
        last_transition_time: Some(Time(now)),
    }
}

/// The one of this type that says `True`.
pub fn holding<'s>(status: &'s JobStatus, kind: &str) -> Option<&'s JobCondition> {
    status.conditions.iter().flatten().find(|c| c.type_ == kind && c.status == "True")
}

/// `ensureJobConditionStatus`: whether the list changed. What was never said is not denied.
pub fn ensure(status: &mut JobStatus, wanted: JobCondition) -> bool {
    let list = status.conditions.get_or_insert_default();
    let is_said = |c: &JobCondition| c.status == wanted.status && c.reason == wanted.reason && c.message == wanted.message;
    let changed = match list.iter_mut().find(|c| c.type_ == wanted.type_) {
        Some(have) if is_said(have) => false,
        Some(have) => {
            *have = wanted;
            true
        }
        None if wanted.status == "False" => false,
        None => {
            list.push(wanted);
            true
        }
    };
    if list.is_empty() {
        status.conditions = None;
    }
    changed
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `TestEnsureJobConditions`.
    #[test]
    fn a_condition_is_added_changed_or_left() {
        let of = |status: &str, reason: &str| condition(SUSPENDED, status, (reason, ""), Timestamp::UNIX_EPOCH);
        let now = |have: Option<JobCondition>, wanted: JobCondition| {
            let mut status = JobStatus { conditions: have.map(|one| vec![one]), ..JobStatus::default() };
            let changed = ensure(&mut status, wanted);
            (changed, status.conditions)
        };
        assert_eq!(now(None, of("True", "a")), (true, Some(vec![of("True", "a")])));
        assert_eq!(now(None, of("False", "a")), (false, None));
        assert_eq!(now(Some(of("True", "a")), of("False", "b")), (true, Some(vec![of("False", "b")])));
        assert_eq!(now(Some(of("False", "b")), of("True", "a")), (true, Some(vec![of("True", "a")])));
        assert_eq!(now(Some(of("True", "a")), of("True", "a")), (false, Some(vec![of("True", "a")])));
    }
}
