//! Old and new Service -> what may not change; and its status. Source: `ValidateServiceUpdate`, `ValidateLoadBalancerStatus`.

use api::field_errors::FieldErrors;
use serde_json::{Value, json};

use super::shape;
use crate::{
    common::{Path, Read, name_rules, read, well_formed},
    net,
};

const SPEC: Path<'static> = Path::new("spec");
const FIXED: &str = "may not change once set";

pub fn service(new: &Value, old: &Value, causes: &mut FieldErrors) {
    if shape::needs_cluster_ip(new) && shape::needs_cluster_ip(old) {
        addresses(new, old, causes);
        families(new, old, causes);
    }
    load_balancer_class(new, old, causes);
    let health = (shape::health_check_port(new), shape::health_check_port(old));
    if shape::needs_health_check(old) && shape::needs_health_check(new) && health.0 != health.1 {
        causes.forbidden(SPEC.field("healthCheckNodePort"), "field is immutable");
    }
}

/// The load balancer's addresses in `status`.
pub fn load_balancer_status(service: &Value, causes: &mut FieldErrors) {
    let ingress = service.pointer("/status/loadBalancer/ingress").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    let path = Path::new("status.loadBalancer.ingress");
    if shape::kind(service) != "LoadBalancer" && !ingress.is_empty() {
        return causes.forbidden(path, "may only be used when `spec.type` is 'LoadBalancer'");
    }
    for (i, entry) in ingress.iter().enumerate() {
        let path = path.index(i);
        ingress_ip(entry, path, causes);
        let host = entry.text("hostname");
        if !host.is_empty() {
            well_formed(host, name_rules::dns_subdomain(host), path.field("hostname"), causes);
            if net::parse(host).is_some() {
                causes.invalid(path.field("hostname"), host, "must be a DNS name, not an IP address");
            }
        }
    }
}

fn ingress_ip(entry: &Value, path: Path<'_>, causes: &mut FieldErrors) {
    let ip = entry.text("ip");
    if !ip.is_empty() {
        well_formed(ip, net::ip(ip), path.field("ip"), causes);
    }
    let mode = path.field("ipMode");
    match (entry.at("ipMode").and_then(Value::as_str), ip.is_empty()) {
        (None, false) => causes.required(mode, "must be specified when `ip` is set"),
        (Some(_), true) => causes.forbidden(mode, "may not be specified when `ip` is not set"),
        (Some(other), false) if !matches!(other, "VIP" | "Proxy") => causes.not_supported(mode, other, &["VIP", "Proxy"]),
        _ => {}
    }
}

/// The first address stays; a second may come, and go with `SingleStack`.
fn addresses(new: &Value, old: &Value, causes: &mut FieldErrors) {
    if shape::is_headless(new) && shape::is_headless(old) {
        return;
    }
    let path = SPEC.field("clusterIPs");
    let (now, before) = (shape::texts(new, "clusterIPs"), shape::texts(old, "clusterIPs"));
    if now.len() == before.len() {
        // All of them are shown with each.
        for (i, _) in before.iter().zip(&now).enumerate().filter(|(_, (a, b))| a != b) {
            if causes.is_full() {
                break;
            }
            causes.invalid(path.index(i), json!(now), FIXED);
        }
        return;
    }
    if now.is_empty() {
        causes.invalid(path.index(0), json!(now), "primary clusterIP can not be unset");
    } else if !before.is_empty() && now.first() != before.first() {
        causes.invalid(path.index(0), json!(now), FIXED);
    }
    if before.len() > now.len() && now.len() == 1 {
        single_stack_to_release(new, "must be set to 'SingleStack' when releasing the secondary clusterIP", causes);
    }
}

fn families(new: &Value, old: &Value, causes: &mut FieldErrors) {
    if shape::is_headless(new) || shape::is_headless(old) {
        return;
    }
    let path = SPEC.field("ipFamilies");
    let path = path.index(0);
    let (now, before) = (shape::texts(new, "ipFamilies"), shape::texts(old, "ipFamilies"));
    if now.len() == before.len() {
        for _ in before.iter().zip(&now).filter(|(a, b)| a != b) {
            if causes.is_full() {
                break;
            }
            causes.invalid(path, json!(now), FIXED);
        }
        return;
    }
    if !now.is_empty() && !before.is_empty() && now.first() != before.first() {
        causes.invalid(path, json!(now), FIXED);
    }
    if before.len() > now.len() && now.len() == 1 {
        single_stack_to_release(new, "must be set to 'SingleStack' when releasing the secondary ipFamily", causes);
    }
}

fn single_stack_to_release(service: &Value, detail: &str, causes: &mut FieldErrors) {
    let policy = shape::spec(service).at("ipFamilyPolicy").cloned().unwrap_or(Value::Null);
    if policy != "SingleStack" {
        causes.invalid(SPEC.field("ipFamilyPolicy"), policy, detail);
    }
}

fn load_balancer_class(new: &Value, old: &Value, causes: &mut FieldErrors) {
    let both = shape::kind(new) == "LoadBalancer" && shape::kind(old) == "LoadBalancer";
    let (now, before) = (shape::spec(new).at("loadBalancerClass"), shape::spec(old).at("loadBalancerClass"));
    if both && !read::same(now, before) {
        causes.invalid(SPEC.field("loadBalancerClass"), now.cloned().unwrap_or(Value::Null), FIXED);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(new: Value, old: Value) -> Vec<String> {
        let (new, old) = (json!({"spec": new}), json!({"spec": old}));
        let mut causes = FieldErrors::default();
        service(&new, &old, &mut causes);
        causes.0.iter().map(|c| c.text()).collect()
    }

    #[test]
    fn addresses_stay() {
        let spec = |ip: &str| json!({"type": "ClusterIP", "clusterIP": ip, "clusterIPs": [ip], "ipFamilies": ["IPv4"]});
        assert!(texts(spec("10.96.0.5"), spec("10.96.0.5")).is_empty());
        assert_eq!(
            texts(spec("10.96.0.6"), spec("10.96.0.5")),
            [r#"spec.clusterIPs[0]: Invalid value: ["10.96.0.6"]: may not change once set"#]
        );
        assert_eq!(texts(spec("None"), spec("10.96.0.5")), [r#"spec.clusterIPs[0]: Invalid value: ["None"]: may not change once set"#]);
        assert!(texts(json!({"type": "ExternalName"}), spec("10.96.0.5")).is_empty());
    }

    #[test]
    fn classes_stay() {
        let spec = |class: &str| json!({"type": "LoadBalancer", "loadBalancerClass": class});
        assert_eq!(texts(spec("b"), spec("a")), [r#"spec.loadBalancerClass: Invalid value: "b": may not change once set"#]);
        assert!(texts(spec("a"), json!({"type": "ClusterIP"})).is_empty());
    }

    #[test]
    fn the_balancers_status_is_checked() {
        let texts = |kind: &str, ingress: Value| {
            let mut causes = FieldErrors::default();
            load_balancer_status(&json!({"spec": {"type": kind}, "status": {"loadBalancer": {"ingress": ingress}}}), &mut causes);
            causes.0.iter().map(|c| c.text()).collect::<Vec<_>>()
        };
        assert!(texts("LoadBalancer", json!([{"ip": "1.2.3.4", "ipMode": "VIP"}, {"hostname": "a.b"}])).is_empty());
        assert_eq!(
            texts("ClusterIP", json!([{}])),
            ["status.loadBalancer.ingress: Forbidden: may only be used when `spec.type` is 'LoadBalancer'"]
        );
        let found = texts("LoadBalancer", json!([{"ip": "x"}, {"hostname": "1.2.3.4", "ipMode": "VIP"}]));
        assert_eq!(found.len(), 4, "{found:?}");
    }
}
