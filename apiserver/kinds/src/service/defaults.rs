//! A Service as sent -> with upstream's defaults. Source: `pkg/apis/core/v1/defaults.go`, `SetDefaults_Service`.

use serde_json::{Value, json};

use super::shape;
use crate::common::{Read, edit};

/// How long a client stays with its endpoint, in seconds.
const AFFINITY_SECONDS: i64 = 10800;

pub fn fill(service: &mut Value) {
    let accessible = |service: &Value| shape::is_externally_accessible(service);
    let Some(spec) = edit::make_child(service, "spec") else { return };
    session_affinity(spec);
    edit::default_text(spec, "type", "ClusterIP");
    edit::each(spec, "ports").for_each(port);
    if accessible(service) {
        edit_spec(service, |spec| edit::default_text(spec, "externalTrafficPolicy", "Cluster"));
    }
    if shape::needs_cluster_ip(service) {
        edit_spec(service, |spec| edit::default_to(spec, "internalTrafficPolicy", "Cluster"));
    }
    if shape::kind(service) == "LoadBalancer" {
        edit_spec(service, |spec| edit::default_to(spec, "allocateLoadBalancerNodePorts", true));
        ingress_mode(service);
    }
}

pub fn edit_spec(service: &mut Value, change: impl FnOnce(&mut Value)) {
    if let Some(spec) = edit::make_child(service, "spec") {
        change(spec);
    }
}

fn session_affinity(spec: &mut Value) {
    edit::default_text(spec, "sessionAffinity", "None");
    match spec.text("sessionAffinity") {
        "None" => edit::remove(spec, "sessionAffinityConfig"),
        "ClientIP" if spec.pointer("/sessionAffinityConfig/clientIP/timeoutSeconds").is_none_or(Value::is_null) => {
            edit::set(spec, "sessionAffinityConfig", json!({"clientIP": {"timeoutSeconds": AFFINITY_SECONDS}}));
        }
        _ => {}
    }
}

fn port(port: &mut Value) {
    edit::default_text(port, "protocol", "TCP");
    let unset = port.at("targetPort").is_none_or(|t| t == 0 || t == "");
    if let (true, Some(number)) = (unset, port.int("port")) {
        edit::set(port, "targetPort", number);
    }
}

fn ingress_mode(service: &mut Value) {
    let ingress = service.pointer_mut("/status/loadBalancer/ingress").and_then(Value::as_array_mut);
    for entry in ingress.into_iter().flatten().filter(|e| !e.text("ip").is_empty()) {
        edit::default_to(entry, "ipMode", "VIP");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filled(spec: Value) -> Value {
        let mut service = json!({"spec": spec});
        fill(&mut service);
        let once = service.clone();
        fill(&mut service);
        assert_eq!(service, once, "idempotent");
        service["spec"].clone()
    }

    #[test]
    fn defaults_follow_the_type() {
        let cases = [
            (json!({}), json!({"sessionAffinity": "None", "type": "ClusterIP", "internalTrafficPolicy": "Cluster"})),
            (json!({"type": "ExternalName"}), json!({"type": "ExternalName", "sessionAffinity": "None"})),
            (
                json!({"type": "NodePort", "ports": [{"port": 80}, {"port": 53, "protocol": "UDP", "targetPort": "dns"}]}),
                json!({"type": "NodePort", "ports": [
                    {"port": 80, "protocol": "TCP", "targetPort": 80}, {"port": 53, "protocol": "UDP", "targetPort": "dns"}],
                    "sessionAffinity": "None", "externalTrafficPolicy": "Cluster", "internalTrafficPolicy": "Cluster"}),
            ),
            (
                json!({"type": "LoadBalancer", "sessionAffinity": "ClientIP"}),
                json!({"type": "LoadBalancer", "sessionAffinity": "ClientIP", "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 10800}},
                    "externalTrafficPolicy": "Cluster", "internalTrafficPolicy": "Cluster", "allocateLoadBalancerNodePorts": true}),
            ),
            (
                json!({"externalIPs": ["1.2.3.4"]}),
                json!({"externalIPs": ["1.2.3.4"], "sessionAffinity": "None", "type": "ClusterIP",
                    "externalTrafficPolicy": "Cluster", "internalTrafficPolicy": "Cluster"}),
            ),
        ];
        for (spec, wanted) in cases {
            assert_eq!(filled(spec.clone()), wanted, "{spec}");
        }
    }
}
