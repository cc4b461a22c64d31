//! Levels and flow schemas as plain data -> objects of `flowcontrol.apiserver.k8s.io/v1`. Source: apiserver `pkg/apis/flowcontrol/bootstrap/default.go`.

use apiserver::fairness::{Config, Distinguisher, Level, Limits, Paths, Resources, Response, Rule, Schema, Subject};
use serde_json::{Value, json};

use super::AUTO_UPDATE;
use crate::common::edit;

/// The level of this name, as it is stored.
pub fn level(level: &Level) -> Value {
    object("PriorityLevelConfiguration", &level.name, level_spec(level))
}

/// The flow schema of this name, as it is stored.
pub fn schema(schema: &Schema) -> Value {
    object("FlowSchema", &schema.name, schema_spec(schema))
}

/// The spec that a mandatory level has, if that is one.
pub fn mandatory_level(name: &str) -> Option<Value> {
    Config::mandatory(Limits::default()).levels.iter().find(|level| level.name == name).map(level_spec)
}

/// The spec that a mandatory flow schema has, if that is one.
pub fn mandatory_schema(name: &str) -> Option<Value> {
    Config::mandatory(Limits::default()).schemas.iter().find(|schema| schema.name == name).map(schema_spec)
}

fn object(kind: &str, name: &str, spec: Value) -> Value {
    let metadata = json!({"name": name, "annotations": {AUTO_UPDATE: "true"}});
    json!({"apiVersion": "flowcontrol.apiserver.k8s.io/v1", "kind": kind, "metadata": metadata, "spec": spec})
}

fn level_spec(level: &Level) -> Value {
    let mut share = json!({"nominalConcurrencyShares": level.shares, "lendablePercent": level.lendable_percent});
    if let Some(percent) = level.borrowing_percent {
        edit::set(&mut share, "borrowingLimitPercent", percent);
    }
    let response = match level.response {
        Response::Exempt => return json!({"type": "Exempt", "exempt": share}),
        Response::Reject => json!({"type": "Reject"}),
        Response::Queue(queuing) => json!({"type": "Queue", "queuing": {
            "queues": queuing.queues, "handSize": queuing.hand, "queueLengthLimit": queuing.length}}),
    };
    edit::set(&mut share, "limitResponse", response);
    json!({"type": "Limited", "limited": share})
}

fn schema_spec(schema: &Schema) -> Value {
    let mut spec = json!({"priorityLevelConfiguration": {"name": schema.level}, "matchingPrecedence": schema.precedence});
    if let Some(by) = schema.by {
        let by = match by {
            Distinguisher::User => "ByUser",
            Distinguisher::Namespace => "ByNamespace",
        };
        edit::set(&mut spec, "distinguisherMethod", json!({"type": by}));
    }
    edit::set(&mut spec, "rules", schema.rules.iter().map(rule).collect::<Value>());
    spec
}

fn rule(rule: &Rule) -> Value {
    let mut out = json!({"subjects": rule.subjects.iter().map(subject).collect::<Value>()});
    if !rule.resources.is_empty() {
        edit::set(&mut out, "resourceRules", rule.resources.iter().map(resources).collect::<Value>());
    }
    if !rule.paths.is_empty() {
        edit::set(&mut out, "nonResourceRules", rule.paths.iter().map(paths).collect::<Value>());
    }
    out
}

fn subject(subject: &Subject) -> Value {
    match subject {
        Subject::User(name) => json!({"kind": "User", "user": {"name": name}}),
        Subject::Group(name) => json!({"kind": "Group", "group": {"name": name}}),
        Subject::Account { namespace, name } => {
            json!({"kind": "ServiceAccount", "serviceAccount": {"namespace": namespace, "name": name}})
        }
    }
}

fn resources(of: &Resources) -> Value {
    let mut out = json!({"verbs": of.verbs, "apiGroups": of.groups, "resources": of.resources});
    if of.cluster {
        edit::set(&mut out, "clusterScope", true);
    }
    edit::set(&mut out, "namespaces", json!(of.namespaces));
    out
}

fn paths(of: &Paths) -> Value {
    json!({"verbs": of.verbs, "nonResourceURLs": of.paths})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_made_is_upstreams() {
        let config = super::super::config(Limits::default());
        let of = |name: &str| schema(config.schemas.iter().find(|s| s.name == name).unwrap())["spec"].clone();
        let leases = json!({
            "priorityLevelConfiguration": {"name": "leader-election"}, "matchingPrecedence": 100,
            "distinguisherMethod": {"type": "ByUser"},
            "rules": [{
                "subjects": [
                    {"kind": "User", "user": {"name": "system:kube-controller-manager"}},
                    {"kind": "User", "user": {"name": "system:kube-scheduler"}},
                    {"kind": "ServiceAccount", "serviceAccount": {"namespace": "kube-system", "name": "*"}},
                ],
                "resourceRules": [{
                    "verbs": ["get", "create", "update"], "apiGroups": ["coordination.k8s.io"], "resources": ["leases"],
                    "namespaces": ["*"]}],
            }],
        });
        assert_eq!(of("system-leader-election"), leases);
        assert_eq!(of("probes").get("distinguisherMethod"), None);
        let system = level(config.levels.iter().find(|l| l.name == "system").unwrap());
        let queuing = json!({"queues": 64, "handSize": 6, "queueLengthLimit": 50});
        let limited =
            json!({"nominalConcurrencyShares": 30, "lendablePercent": 33, "limitResponse": {"type": "Queue", "queuing": queuing}});
        assert_eq!(system["spec"], json!({"type": "Limited", "limited": limited}));
        assert_eq!(system["metadata"], json!({"name": "system", "annotations": {AUTO_UPDATE: "true"}}));
        assert_eq!(mandatory_level("exempt").unwrap()["type"], "Exempt");
        assert_eq!(mandatory_level("system"), None);
    }
}
