//! A container and how it ended -> whether it is to be started again.

use api::k8s::api::core::v1::{Container, PodSpec};

use crate::pods::runtime_state::pod as runtime;

/// Source: `ContainerShouldRestart` in `pkg/api/v1/pod/util.go`, KEP-5307 (rules by exit code).
pub fn after_exit(spec: &PodSpec, container: &Container, code: i32) -> bool {
    for rule in container.restart_policy_rules.iter().flatten() {
        let Some(codes) = &rule.exit_codes else { continue };
        let listed = codes.values.iter().flatten().any(|value| *value == code);
        if listed == (codes.operator == "In") {
            return rule.action == "Restart";
        }
    }
    let policy = container.restart_policy.as_deref().or(spec.restart_policy.as_deref());
    match policy.unwrap_or("Always") {
        "Never" => false,
        "OnFailure" => code != 0,
        _ => true,
    }
}

/// Whether a container in this state is one that a plan would start.
pub fn should_start(spec: &PodSpec, container: &Container, latest: Option<&runtime::Container>) -> bool {
    match latest.map(|c| &c.state) {
        None | Some(runtime::State::Created | runtime::State::Unknown) => true,
        Some(runtime::State::Running { .. }) => false,
        Some(runtime::State::Exited(exit)) => after_exit(spec, container, exit.code),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use api::k8s::api::core::v1::{ContainerRestartRule, ContainerRestartRuleOnExitCodes};

    #[test]
    fn policies_and_rules() {
        let cases = [("Always", None, 0, true), ("OnFailure", None, 0, false), ("OnFailure", None, 1, true), ("Never", None, 1, false)];
        let with_own = [("Never", Some("Always"), 0, true), ("Always", Some("Never"), 3, false)];
        for (pod, own, code, restarts) in cases.into_iter().chain(with_own) {
            let spec = PodSpec { restart_policy: Some(pod.into()), ..PodSpec::default() };
            let container = Container { restart_policy: own.map(Into::into), ..Container::default() };
            assert_eq!(after_exit(&spec, &container, code), restarts, "{pod} {own:?} {code}");
        }
        let exit_codes = ContainerRestartRuleOnExitCodes { operator: "In".into(), values: Some(vec![42]) };
        let rule = ContainerRestartRule { action: "Restart".into(), exit_codes: Some(exit_codes) };
        let container = Container { restart_policy: Some("Never".into()), restart_policy_rules: Some(vec![rule]), ..Container::default() };
        assert!(after_exit(&PodSpec::default(), &container, 42));
        assert!(!after_exit(&PodSpec::default(), &container, 41));
    }
}
