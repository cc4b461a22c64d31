//! A pod that failed, a Job's rules -> what follows; indexes that succeeded, a Job's rules -> whether they are enough.
//!
//! Source: `pod_failure_policy.go` and `success_policy.go` in `pkg/controller/job`.

use api::k8s::api::batch::v1::{
    PodFailurePolicy, PodFailurePolicyOnExitCodesRequirement, PodFailurePolicyOnPodConditionsPattern, PodFailurePolicyRule, SuccessPolicy,
};
use client::pods::Pod;

use super::indexes::Indexes;

/// What a failure means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Judged {
    /// Why the Job fails.
    pub fails_job: Option<String>,
    /// Whether it counts against the limits.
    pub counts: bool,
    /// That of the rule that matched.
    pub action: Option<&'static str>,
}

impl Judged {
    pub const COUNTS: Self = Self { fails_job: None, counts: true, action: None };
}

/// `matchPodFailurePolicy`: the first rule that matches.
pub fn judge(policy: Option<&PodFailurePolicy>, pod: &Pod) -> Judged {
    let rules = policy.into_iter().flat_map(|policy| policy.rules.iter().enumerate());
    rules.filter_map(|(number, rule)| by_rule(rule, number, pod)).next().unwrap_or(Judged::COUNTS)
}

fn by_rule(rule: &PodFailurePolicyRule, number: usize, pod: &Pod) -> Option<Judged> {
    let name = || format!("{}/{}", pod.metadata.namespace.as_deref().unwrap_or_default(), pod.metadata.name.as_deref().unwrap_or_default());
    let why = match (&rule.on_exit_codes, &rule.on_pod_conditions) {
        (Some(wanted), _) => {
            let (container, code) = exit(pod, wanted)?;
            format!("Container {container} for pod {} failed with exit code {code} matching {} rule at index {number}", name(), rule.action)
        }
        (None, Some(patterns)) => {
            let condition = condition(pod, patterns)?;
            format!("Pod {} has condition {condition} matching {} rule at index {number}", name(), rule.action)
        }
        (None, None) => return None,
    };
    match rule.action.as_str() {
        "Ignore" => Some(Judged { fails_job: None, counts: false, action: Some("Ignore") }),
        "FailIndex" => Some(Judged { action: Some("FailIndex"), ..Judged::COUNTS }),
        "Count" => Some(Judged { action: Some("Count"), ..Judged::COUNTS }),
        "FailJob" => Some(Judged { fails_job: Some(why), action: Some("FailJob"), ..Judged::COUNTS }),
        _ => None,
    }
}

/// Containers come before init containers; what ended well matches nothing.
fn exit<'p>(pod: &'p Pod, wanted: &PodFailurePolicyOnExitCodesRequirement) -> Option<(&'p str, i32)> {
    let is_meant = |name: &str| wanted.container_name.as_deref().is_none_or(|meant| meant == name);
    let matches = |code: i32| match wanted.operator.as_str() {
        "In" => wanted.values.contains(&code),
        "NotIn" => !wanted.values.contains(&code),
        _ => false,
    };
    let found = pod.exits().iter().find(|exit| is_meant(&exit.container) && exit.code != 0 && matches(exit.code))?;
    Some((&found.container, found.code))
}

fn condition<'p>(pod: &'p Pod, patterns: &[PodFailurePolicyOnPodConditionsPattern]) -> Option<&'p str> {
    let all = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
    let is_meant = |kind: &str, status: &str| patterns.iter().any(|p| p.type_ == kind && p.status.as_deref().unwrap_or("True") == status);
    all.into_iter().find(|c| is_meant(&c.type_, &c.status)).map(|c| c.type_.as_str())
}

/// `matchSuccessPolicy`: which rule is met, in words.
pub fn is_success(policy: Option<&SuccessPolicy>, completions: i32, succeeded: &Indexes) -> Option<String> {
    if succeeded.is_empty() {
        return None;
    }
    let met = policy?.rules.iter().position(|rule| match &rule.succeeded_indexes {
        Some(text) => {
            let wanted = Indexes::parse(text, completions);
            let found = wanted.shared(succeeded);
            !wanted.is_empty() && (found == wanted.total() || rule.succeeded_count.is_some_and(|count| found >= count))
        }
        None => rule.succeeded_count.is_some_and(|count| succeeded.total() >= count),
    })?;
    Some(format!("Matched rules at index {met}"))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn pod(status: Value) -> Pod {
        serde_json::from_value(json!({"metadata": {"name": "mypod", "namespace": "default"}, "status": status})).unwrap()
    }

    fn judged(rules: Value, status: Value) -> Judged {
        let policy: PodFailurePolicy = serde_json::from_value(json!({"rules": rules})).unwrap();
        judge(Some(&policy), &pod(status))
    }

    fn exits(list: &str, codes: &[(&str, i32)]) -> Value {
        let of = |(name, code): &(&str, i32)| json!({"name": name, "state": {"terminated": {"exitCode": code}}});
        json!({"phase": "Failed", list: codes.iter().map(of).collect::<Vec<_>>()})
    }

    fn on_codes(action: &str, operator: &str, values: &[i32]) -> Value {
        json!({"action": action, "onExitCodes": {"operator": operator, "values": values}})
    }

    fn outcome(fails: Option<&str>, counts: bool, action: Option<&'static str>) -> Judged {
        Judged { fails_job: fails.map(str::to_owned), counts, action }
    }

    /// `TestMatchPodFailurePolicy`.
    #[test]
    fn exit_codes_are_judged_by_the_first_rule_that_matches() {
        let main = |codes: &[(&str, i32)]| exits("containerStatuses", codes);
        let fails = "Container main for pod default/mypod failed with exit code 2 matching FailJob rule at index 1";
        let (ignore, fail) = (on_codes("Ignore", "In", &[1, 3]), on_codes("FailJob", "In", &[2, 6]));
        let cases = [
            (json!([ignore, fail]), main(&[("main", 2)]), outcome(Some(fails), true, Some("FailJob"))),
            (json!([ignore, fail]), main(&[("main", 1)]), outcome(None, false, Some("Ignore"))),
            (json!([ignore, fail]), main(&[("main", 7)]), Judged::COUNTS),
            (json!([on_codes("Ignore", "In", &[0])]), main(&[("main", 0)]), Judged::COUNTS),
            (json!([on_codes("Count", "NotIn", &[1])]), main(&[("main", 2)]), outcome(None, true, Some("Count"))),
            (json!([on_codes("Count", "NotIn", &[1])]), main(&[("main", 0)]), Judged::COUNTS),
            (json!([on_codes("FailIndex", "In", &[2])]), main(&[("main", 2)]), outcome(None, true, Some("FailIndex"))),
            (json!([on_codes("Ignore", "In", &[2])]), main(&[("a", 1), ("b", 2)]), outcome(None, false, Some("Ignore"))),
            (
                json!([on_codes("Unknown", "In", &[2]), on_codes("Ignore", "In", &[2])]),
                main(&[("b", 2)]),
                outcome(None, false, Some("Ignore")),
            ),
            (json!([on_codes("Ignore", "Unknown", &[2])]), main(&[("b", 2)]), Judged::COUNTS),
            (json!([]), main(&[("b", 2)]), Judged::COUNTS),
            (json!([ignore]), json!({"phase": "Failed", "containerStatuses": [{"name": "b", "state": {"running": {}}}]}), Judged::COUNTS),
        ];
        for (rules, status, wanted) in cases {
            assert_eq!(judged(rules.clone(), status.clone()), wanted, "{rules} {status}");
        }
        let named = json!([{"action": "Ignore", "onExitCodes": {"containerName": "main", "operator": "In", "values": [2]}}]);
        assert_eq!(judged(named.clone(), main(&[("side", 2)])), Judged::COUNTS);
        assert!(!judged(named, main(&[("side", 2), ("main", 2)])).counts);
        let init = judged(json!([fail]), exits("initContainerStatuses", &[("init", 6)])).fails_job.unwrap();
        assert_eq!(init, "Container init for pod default/mypod failed with exit code 6 matching FailJob rule at index 0");
        assert_eq!(judge(None, &pod(main(&[("b", 2)]))), Judged::COUNTS);
    }

    #[test]
    fn conditions_are_judged_too() {
        let status = |conditions: Value| json!({"phase": "Failed", "conditions": conditions});
        let rule = |action: &str| json!([{"action": action, "onPodConditions": [{"type": "X", "status": "False"}, {"type": "DisruptionTarget", "status": "True"}]}]);
        let disrupted = status(json!([{"type": "Ready", "status": "False"}, {"type": "DisruptionTarget", "status": "True"}]));
        assert_eq!(judged(rule("Ignore"), disrupted.clone()), outcome(None, false, Some("Ignore")));
        let fails = "Pod default/mypod has condition DisruptionTarget matching FailJob rule at index 0";
        assert_eq!(judged(rule("FailJob"), disrupted.clone()), outcome(Some(fails), true, Some("FailJob")));
        assert_eq!(judged(rule("FailIndex"), disrupted).action, Some("FailIndex"));
        assert_eq!(judged(rule("Count"), status(json!([{"type": "X", "status": "False"}]))).action, Some("Count"));
        assert_eq!(judged(rule("Count"), status(json!([{"type": "X", "status": "True"}]))), Judged::COUNTS);
    }

    /// `TestMatchSuccessPolicy`.
    #[test]
    fn success_is_what_its_rules_say() {
        let met = |rules: Value, completions: i32, succeeded: &str| {
            let policy: SuccessPolicy = serde_json::from_value(json!({"rules": rules})).unwrap();
            is_success(Some(&policy), completions, &Indexes::parse(succeeded, completions))
        };
        let at = |rule: usize| Some(format!("Matched rules at index {rule}"));
        let indexes = |text: &str| json!({"succeededIndexes": text});
        let cases = [
            (json!([{"succeededCount": 2}]), "0-2", at(0)),
            (json!([{"succeededCount": 4}]), "0-2", None),
            (json!([indexes("0-2")]), "0-2", at(0)),
            (json!([indexes("0-2")]), "0-1,5", None),
            (json!([indexes("0-2"), indexes("5")]), "0-1,5", at(1)),
            (json!([{"succeededIndexes": "0-4", "succeededCount": 2}]), "1,4", at(0)),
            (json!([{"succeededIndexes": "0-4", "succeededCount": 3}]), "1,4,7", None),
            (json!([indexes("x")]), "0-9", None),
            (json!([{"succeededCount": 0}]), "", None),
            (json!([]), "0", None),
            (json!([indexes("0,10-12")]), "0", at(0)),
        ];
        for (rules, succeeded, wanted) in cases {
            assert_eq!(met(rules.clone(), 10, succeeded), wanted, "{rules} {succeeded}");
        }
        assert_eq!(is_success(None, 10, &Indexes::of([1])), None);
    }
}
