//! A job's status and what it was -> what is wrong with it. Source: `ValidateJobStatusUpdate` in `pkg/apis/batch/validation`,
//! `getStatusValidationOptions` in `pkg/registry/batch/job`.
//!
//! Rules look at what changed: a status that was wrong before may be written again.

use std::collections::HashSet;

use api::field_errors::{FieldErrors, Reason};
use serde_json::Value;

use super::{has, indexes};
use crate::common::{Path, Read, not_negative, read::same};

const PATH: Path<'static> = Path::new("status");
const CONDITIONS: &str = "status.conditions";

/// The new and the old, and which parts changed.
struct Change<'v> {
    new: &'v Value,
    old: &'v Value,
    status: Option<&'v Value>,
    before: Option<&'v Value>,
}

pub fn update(new: &Value, old: &Value, causes: &mut FieldErrors) {
    let change = Change { new, old, status: new.at("status"), before: old.at("status") };
    counts(change.status, causes);
    uncounted(change.status, causes);
    change.conditions(causes);
    change.finished(causes);
    change.indexes(causes);
    change.pods(causes);
    change.success(causes);
    change.transitions(causes);
}

impl Change<'_> {
    fn changed(&self, field: &str) -> bool {
        !same(self.status.at(field), self.before.at(field)) || self.status.at(field).is_some() != self.before.at(field).is_some()
    }

    fn turned(&self, typ: &str) -> bool {
        has(self.new, typ) != has(self.old, typ)
    }

    fn is_finished(&self) -> bool {
        is_finished(self.new)
    }

    fn finish_changed(&self) -> bool {
        is_finished(self.new) != is_finished(self.old)
    }

    fn number(&self, field: &str) -> i64 {
        self.status.int(field).unwrap_or(0)
    }

    fn value(&self, field: &str) -> Value {
        self.status.at(field).cloned().unwrap_or(Value::Null)
    }

    fn spec(&self) -> Option<&Value> {
        self.new.at("spec")
    }

    fn is_indexed(&self) -> bool {
        self.spec().text("completionMode") == "Indexed"
    }

    /// What conditions and times must not stand beside each other.
    fn conditions(&self, causes: &mut FieldErrors) {
        let is = |typ: &str| has(self.new, typ);
        if (self.turned("Complete") || self.turned("Failed")) && is("Complete") && is("Failed") {
            omitted(CONDITIONS, "cannot set Complete=True and Failed=true conditions", causes);
        }
        if (self.turned("Complete") || self.turned("FailureTarget")) && is("Complete") && is("FailureTarget") {
            omitted(CONDITIONS, "cannot set Complete=True and FailureTarget=true conditions", causes);
        }
        let (completion, at) = (self.status.at("completionTime"), PATH.field("completionTime"));
        if self.turned("Complete") || self.changed("completionTime") {
            match completion {
                Some(time) if !is("Complete") => {
                    causes.invalid(at, time.clone(), "cannot set completionTime when there is no Complete=True condition");
                }
                None if is("Complete") => causes.required(at, "completionTime is required for Complete jobs"),
                _ => {}
            }
        }
        let time = |field: &str| api::time::parse(self.status.text(field));
        let backwards = matches!((time("startTime"), time("completionTime")), (Some(start), Some(end)) if end < start);
        if backwards && (self.changed("startTime") || self.changed("completionTime")) {
            causes.invalid(at, self.value("completionTime"), "must be equal to or after `startTime`");
        }
        if (self.turned("Failed") || self.changed("failedIndexes")) && is("Failed") && !is("FailureTarget") {
            omitted(CONDITIONS, "cannot set Failed=True condition without the FailureTarget=true condition", causes);
        }
        if (self.turned("Complete") || self.turned("SuccessCriteriaMet")) && is("Complete") && !is("SuccessCriteriaMet") {
            omitted(CONDITIONS, "cannot set Complete=True condition without the SuccessCriteriaMet=true condition", causes);
        }
    }

    /// What a finished job no longer has.
    fn finished(&self, causes: &mut FieldErrors) {
        if !self.is_finished() {
            return;
        }
        let changed = |field: &str| self.finish_changed() || self.changed(field);
        if changed("active") && self.number("active") > 0 {
            causes.invalid(PATH.field("active"), self.number("active"), "active>0 is invalid for finished job");
        }
        let is_idle = self.spec().is_true("suspend") && self.spec().int("completions") == Some(0);
        if changed("startTime") && !is_idle && self.status.at("startTime").is_none() {
            causes.required(PATH.field("startTime"), "startTime is required for finished job");
        }
        let uncounted = self.status.at("uncountedTerminatedPods");
        let some = ["succeeded", "failed"].iter().any(|list| !uncounted.list(list).is_empty());
        if changed("uncountedTerminatedPods") && some {
            let shown = serde_json::json!({"Succeeded": uncounted.at("succeeded"), "Failed": uncounted.at("failed")});
            causes.invalid(PATH.field("uncountedTerminatedPods"), shown, "must be empty for finished job");
        }
    }

    fn indexes(&self, causes: &mut FieldErrors) {
        let completions = self.spec().int("completions");
        let (completed, failed) = (self.status.text("completedIndexes"), self.status.at("failedIndexes").and_then(Value::as_str));
        let (completed_at, failed_at) = (PATH.field("completedIndexes"), PATH.field("failedIndexes"));
        let (completed_changed, failed_changed) = (self.changed("completedIndexes"), self.changed("failedIndexes"));
        let per_index = self.spec().at("backoffLimitPerIndex").is_some();
        let unreadable = |text: &str| completions.and_then(|most| indexes::count(text, most).err());
        if let Some(why) = unreadable(completed).filter(|_| completed_changed) {
            causes.invalid(completed_at, completed, &format!("error parsing completedIndexes: {why}"));
        }
        if let Some((text, why)) = failed.and_then(|text| Some((text, unreadable(text)?))).filter(|_| failed_changed && per_index) {
            causes.invalid(failed_at, text, &format!("error parsing failedIndexes: {why}"));
        }
        if completed_changed && !completed.is_empty() && !self.is_indexed() {
            causes.invalid(completed_at, completed, "cannot set non-empty completedIndexes when non-indexed completion mode");
        }
        let Some(failed) = failed else { return };
        if failed_changed && !per_index {
            causes.invalid(failed_at, failed, "cannot set non-null failedIndexes when backoffLimitPerIndex is null");
        }
        let both = completions.and_then(|most| indexes::overlap(completed, failed, most));
        if let Some(index) = both.filter(|_| completed_changed || failed_changed) {
            causes.invalid(failed_at, failed, &format!("failedIndexes and completedIndexes overlap at index: {index}"));
        }
    }

    fn pods(&self, causes: &mut FieldErrors) {
        let terminating = self.number("terminating");
        if (self.finish_changed() || self.changed("terminating")) && terminating > 0 && self.is_finished() {
            causes.invalid(PATH.field("terminating"), terminating, "terminating>0 is invalid for finished job");
        }
        let ready = self.number("ready");
        if (self.changed("ready") || self.changed("active")) && self.status.at("ready").is_some() && ready > self.number("active") {
            causes.invalid(PATH.field("ready"), ready, "cannot set more ready pods than active");
        }
    }

    fn success(&self, causes: &mut FieldErrors) {
        let is = |typ: &str| has(self.new, typ);
        let is_met = is("SuccessCriteriaMet");
        if is_met && is("Failed") {
            omitted(CONDITIONS, "cannot set SuccessCriteriaMet=True and Failed=true conditions", causes);
        }
        if is_met && is("FailureTarget") {
            omitted(CONDITIONS, "cannot set SuccessCriteriaMet=True and FailureTarget=true conditions", causes);
        }
        if self.spec().at("successPolicy").is_some() && !is_met && is("Complete") {
            omitted(CONDITIONS, "cannot set Complete=True for Job with SuccessPolicy unless SuccessCriteriaMet=True", causes);
        }
    }

    /// What only goes one way.
    fn transitions(&self, causes: &mut FieldErrors) {
        for typ in ["Failed", "Complete", "FailureTarget"] {
            if has(self.old, typ) && !has(self.new, typ) {
                omitted(CONDITIONS, &format!("cannot disable the terminal {typ}=True condition"), causes);
            }
        }
        let fell = |field: &str| self.number(field) < self.before.int(field).unwrap_or(0);
        if fell("failed") {
            causes.invalid(PATH.field("failed"), self.number("failed"), "cannot decrease the failed counter");
        }
        let is_elastic = self.is_indexed() && same(self.spec().at("completions"), self.spec().at("parallelism"));
        if fell("succeeded") && !is_elastic {
            causes.invalid(PATH.field("succeeded"), self.number("succeeded"), "cannot decrease the succeeded counter");
        }
        let moved = |field: &str| self.before.at(field).is_some() && self.changed(field);
        if moved("completionTime") && self.status.at("completionTime").is_some() {
            causes.invalid(PATH.field("completionTime"), self.value("completionTime"), "field is immutable");
        }
        if moved("startTime") && !self.resumes() && !self.spec().is_true("suspend") {
            causes.invalid(PATH.field("startTime"), self.value("startTime"), "field is immutable for unsuspended job once set");
        }
        let (was_met, is_met) = (has(self.old, "SuccessCriteriaMet"), has(self.new, "SuccessCriteriaMet"));
        if was_met && !is_met {
            omitted(CONDITIONS, "cannot disable the SuccessCriteriaMet=True condition", causes);
        }
        if has(self.old, "Complete") && !was_met && is_met {
            omitted(CONDITIONS, "cannot set SuccessCriteriaMet=True for Job already has Complete=true conditions", causes);
        }
    }

    /// Whether its suspension ends with this write.
    fn resumes(&self) -> bool {
        let conditions = self.status.list("conditions");
        has(self.old, "Suspended") && conditions.iter().any(|c| c.text("type") == "Suspended" && c.text("status") == "False")
    }
}

fn is_finished(job: &Value) -> bool {
    has(job, "Complete") || has(job, "Failed")
}

/// A cause that shows no value.
fn omitted(field: &str, why: &str, causes: &mut FieldErrors) {
    causes.push(Reason::Invalid, field, format!("Invalid value: {why}"));
}

fn counts(status: Option<&Value>, causes: &mut FieldErrors) {
    for field in ["active", "succeeded", "failed", "ready", "terminating"] {
        not_negative(status.int(field), PATH.field(field), causes);
    }
}

fn uncounted(status: Option<&Value>, causes: &mut FieldErrors) {
    let (pods, path) = (status.at("uncountedTerminatedPods"), PATH.field("uncountedTerminatedPods"));
    let mut seen = HashSet::new();
    for list in ["succeeded", "failed"] {
        let at = path.field(list);
        for (i, uid) in pods.list(list).iter().map(|uid| uid.as_str().unwrap_or("")).enumerate() {
            if uid.is_empty() {
                causes.invalid(at.index(i), uid, "must not be empty");
            } else if !seen.insert(uid) {
                causes.duplicate(at.index(i), uid);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{super::tests::object, *};

    fn causes(spec: Value, before: Value, after: Value) -> Vec<String> {
        let mut old = object(spec);
        let mut new = old.clone();
        (old["status"], new["status"]) = (before, after);
        let mut causes = FieldErrors::default();
        update(&new, &old, &mut causes);
        causes.0.iter().map(|c| c.text()).collect()
    }

    fn on(types: &[&str]) -> Value {
        types.iter().map(|typ| json!({"type": typ, "status": "True"})).collect()
    }

    const START: &str = "2026-01-01T00:00:00Z";

    #[test]
    fn a_job_may_finish() {
        let done =
            json!({"startTime": START, "completionTime": START, "succeeded": 1, "conditions": on(&["SuccessCriteriaMet", "Complete"])});
        assert_eq!(causes(json!({}), json!({"startTime": START, "active": 1}), done), Vec::<String>::new());
        let failed = json!({"startTime": START, "failed": 1, "conditions": on(&["FailureTarget", "Failed"])});
        assert_eq!(causes(json!({}), json!({"startTime": START}), failed), Vec::<String>::new());
    }

    #[test]
    fn what_contradicts_itself_is_refused() {
        let cases = [
            (
                json!({"active": 1, "terminating": 1, "conditions": on(&["Complete"])}),
                vec![
                    "status.completionTime: Required value: completionTime is required for Complete jobs",
                    "status.conditions: Invalid value: cannot set Complete=True condition without the SuccessCriteriaMet=true condition",
                    "status.active: Invalid value: 1: active>0 is invalid for finished job",
                    "status.startTime: Required value: startTime is required for finished job",
                    "status.terminating: Invalid value: 1: terminating>0 is invalid for finished job",
                ],
            ),
            (
                json!({"ready": 2, "active": 1, "uncountedTerminatedPods": {"succeeded": ["a", ""], "failed": ["a"]}}),
                vec![
                    r#"status.uncountedTerminatedPods.succeeded[1]: Invalid value: "": must not be empty"#,
                    r#"status.uncountedTerminatedPods.failed[0]: Duplicate value: "a""#,
                    "status.ready: Invalid value: 2: cannot set more ready pods than active",
                ],
            ),
            (
                json!({"completedIndexes": "0", "failedIndexes": "0"}),
                vec![
                    r#"status.completedIndexes: Invalid value: "0": cannot set non-empty completedIndexes when non-indexed completion mode"#,
                    r#"status.failedIndexes: Invalid value: "0": cannot set non-null failedIndexes when backoffLimitPerIndex is null"#,
                    r#"status.failedIndexes: Invalid value: "0": failedIndexes and completedIndexes overlap at index: 0"#,
                ],
            ),
        ];
        for (after, wanted) in cases {
            assert_eq!(causes(json!({}), json!({}), after), wanted);
        }
    }

    #[test]
    fn what_goes_one_way_does_not_come_back() {
        let before = json!({"startTime": START, "failed": 2, "succeeded": 2, "conditions": on(&["FailureTarget", "Failed"])});
        let wanted = [
            "status.conditions: Invalid value: cannot disable the terminal Failed=True condition",
            "status.conditions: Invalid value: cannot disable the terminal FailureTarget=True condition",
            "status.failed: Invalid value: 1: cannot decrease the failed counter",
            "status.succeeded: Invalid value: 1: cannot decrease the succeeded counter",
            "status.startTime: Invalid value: null: field is immutable for unsuspended job once set",
        ];
        assert_eq!(causes(json!({}), before, json!({"failed": 1, "succeeded": 1})), wanted);
    }

    #[test]
    fn what_was_wrong_before_may_be_written_again() {
        let wrong = json!({"active": 1, "ready": 3, "conditions": on(&["Complete"])});
        assert_eq!(causes(json!({}), wrong.clone(), wrong), Vec::<String>::new());
    }
}
