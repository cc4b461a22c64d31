//! A new status of a pod -> what may not be so. Source: `ValidatePodStatusUpdate`.

use std::collections::{HashMap, HashSet};

use api::field_errors::FieldErrors;
use serde_json::Value;

use super::{claims, update::annotations};
use crate::{
    common::{Path, Read, name_rules, well_formed},
    net,
};

const SYSTEM_CONDITIONS: [&str; 3] = ["PodScheduled", "Ready", "Initialized"];

pub fn update(new: &Value, old: &Value, causes: &mut FieldErrors) {
    annotations(new, old, causes);
    let path = Path::new("status");
    let (status, before) = (new.at("status"), old.at("status"));
    conditions(status.list("conditions"), path.field("conditions"), causes);
    if new.at("spec").text("nodeName") != old.at("spec").text("nodeName") {
        causes.forbidden(path.field("nodeName"), "may not be changed directly");
    }
    nominated(status, before, old.at("spec").text("nodeName"), path.field("nominatedNodeName"), causes);
    if let Some(generation) = status.int("observedGeneration").filter(|g| *g < 0) {
        causes.invalid(path.field("observedGeneration"), generation, "must be a non-negative integer");
    }
    let (class, class_before) = (status.text("qosClass"), before.text("qosClass"));
    if class != class_before {
        causes.invalid(path.field("qosClass"), class, "field is immutable");
    }
    let spec = old.at("spec");
    for (statuses, list) in [("containerStatuses", "containers"), ("initContainerStatuses", "initContainers")] {
        transitions(status.list(statuses), before.list(statuses), spec, list, path.field(statuses), causes);
    }
    claims::statuses(status.list("resourceClaimStatuses"), spec.list("resourceClaims"), path.field("resourceClaimStatuses"), causes);
    if let Some(extended) = status.at("extendedResourceClaimStatus") {
        claims::extended(extended, spec, path.field("extendedResourceClaimStatus"), causes);
    }
    for list in ["podIPs", "hostIPs"] {
        addresses(status.list(list), before.list(list), path.field(list), causes);
    }
}

/// `validatePodConditions`
fn conditions(conditions: &[Value], path: Path<'_>, causes: &mut FieldErrors) {
    for (i, condition) in conditions.iter().enumerate() {
        let at = path.index(i);
        if let Some(generation) = condition.int("observedGeneration").filter(|g| *g < 0) {
            causes.invalid(at.field("observedGeneration"), generation, "must be a non-negative integer");
        }
        let typ = condition.text("type");
        if !SYSTEM_CONDITIONS.contains(&typ) {
            well_formed(typ, name_rules::qualified(typ), at.field("Type"), causes);
        }
    }
}

fn nominated(new: Option<&Value>, old: Option<&Value>, node: &str, path: Path<'_>, causes: &mut FieldErrors) {
    let name = new.text("nominatedNodeName");
    if name.is_empty() || name == old.text("nominatedNodeName") {
        return;
    }
    well_formed(name, name_rules::dns_subdomain(name), path, causes);
    if !node.is_empty() {
        causes.forbidden(path, "may not be set on pods that are already bound to a node");
    }
}

/// `ValidateContainerStateTransition`: what has ended and must not start again stays ended.
fn transitions(new: &[Value], old: &[Value], spec: Option<&Value>, list: &str, path: Path<'_>, causes: &mut FieldErrors) {
    let all = ["containers", "initContainers"].into_iter().flat_map(|l| spec.list(l));
    let restarts_all = |rule: &Value| rule.text("action") == "RestartAllContainers";
    if all.flat_map(|c| c.list("restartPolicyRules")).any(restarts_all) {
        return;
    }
    let (states, containers) = (by_name(new), by_name(spec.list(list)));
    for (i, before) in old.iter().enumerate() {
        let Some(ended) = before.at("state").at("terminated") else { continue };
        let name = before.text("name");
        let running_again = states.get(name).is_some_and(|s| s.at("state").at("terminated").is_none());
        let may = containers.get(name).is_some_and(|c| restarts(c, spec.text("restartPolicy"), ended.int("exitCode").unwrap_or(0)));
        if running_again && !may {
            causes.forbidden(path.index(i).field("state"), "may not be transitioned to non-terminated state");
        }
    }
}

/// The first of each name.
fn by_name(list: &[Value]) -> HashMap<&str, &Value> {
    let mut out = HashMap::with_capacity(list.len());
    for item in list {
        out.entry(item.text("name")).or_insert(item);
    }
    out
}

/// `ContainerShouldRestart`
fn restarts(container: &Value, pod_policy: &str, exit_code: i64) -> bool {
    let matches = |rule: &&Value| {
        let codes = rule.at("exitCodes");
        let listed = codes.list("values").iter().any(|v| v.as_i64() == Some(exit_code));
        match codes.text("operator") {
            "In" => listed,
            "NotIn" => !listed,
            _ => false,
        }
    };
    let own = container.text("restartPolicy");
    if !own.is_empty() && container.list("restartPolicyRules").iter().find(matches).is_some_and(|r| r.text("action") == "Restart") {
        return true;
    }
    match if own.is_empty() { pod_policy } else { own } {
        "OnFailure" => exit_code != 0,
        "Never" => false,
        _ => true,
    }
}

/// `validatePodIPs`, `validateHostIPs`: addresses, at most one of each family.
fn addresses(new: &[Value], old: &[Value], path: Path<'_>, causes: &mut FieldErrors) {
    let known: HashSet<&str> = old.iter().map(|o| o.text("ip")).collect();
    for (i, address) in new.iter().enumerate() {
        let ip = address.text("ip");
        if !known.contains(ip) {
            well_formed(ip, net::ip(ip), path.index(i), causes);
        }
    }
    let four = new.iter().filter_map(|a| net::parse(a.text("ip"))).filter(std::net::IpAddr::is_ipv4).count();
    let one_of_each = new.len() == 2 && four == 1;
    if new.len() > 1 && !one_of_each {
        causes.invalid(path, new.to_vec(), "may specify no more than one IP for each IP family");
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn causes(spec: Value, old: Value, new: Value) -> Vec<String> {
        let pod = |status: Value| json!({"spec": spec, "status": status});
        let mut causes = FieldErrors::default();
        update(&pod(new), &pod(old), &mut causes);
        causes.0.iter().map(|c| c.text()).collect()
    }

    #[test]
    fn what_has_ended_stays_ended() {
        let spec = |policy: &str| json!({"restartPolicy": policy, "containers": [{"name": "a"}]});
        let state = |state: Value| json!({"containerStatuses": [{"name": "a", "state": state}]});
        let (failed, done, running) =
            (state(json!({"terminated": {"exitCode": 1}})), state(json!({"terminated": {"exitCode": 0}})), state(json!({"running": {}})));
        let refused = ["status.containerStatuses[0].state: Forbidden: may not be transitioned to non-terminated state"];
        assert_eq!(causes(spec("Never"), failed.clone(), running.clone()), refused);
        assert_eq!(causes(spec("OnFailure"), done.clone(), running.clone()), refused);
        for (policy, old) in [("OnFailure", &failed), ("Always", &done), ("Always", &failed)] {
            assert!(causes(spec(policy), old.clone(), running.clone()).is_empty(), "{policy}");
        }
    }

    #[test]
    fn status_fields_have_rules() {
        let cases = [
            (json!({"conditions": [{"type": "Ready"}, {"type": "a b"}]}), "status.conditions[1].Type"),
            (json!({"qosClass": "Burstable"}), "status.qosClass: Invalid value: \"Burstable\": field is immutable"),
            (json!({"podIPs": [{"ip": "x"}]}), "status.podIPs[0]: Invalid value: \"x\": must be a valid IP address"),
            (json!({"podIPs": [{"ip": "10.0.0.1"}, {"ip": "10.0.0.2"}]}), "may specify no more than one IP for each IP family"),
            (
                json!({"nominatedNodeName": "n"}),
                "status.nominatedNodeName: Forbidden: may not be set on pods that are already bound to a node",
            ),
            (json!({"observedGeneration": -1}), "status.observedGeneration: Invalid value: -1: must be a non-negative integer"),
        ];
        for (status, wanted) in cases {
            let found = causes(json!({"nodeName": "m"}), json!({}), status);
            assert!(found.len() == 1 && found[0].contains(wanted), "{found:?} is not {wanted}");
        }
        assert!(causes(json!({}), json!({}), json!({"podIPs": [{"ip": "10.0.0.1"}, {"ip": "fd00::1"}]})).is_empty());
    }
}
