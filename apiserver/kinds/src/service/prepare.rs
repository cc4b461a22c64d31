//! Old and new Service -> the new one with what its writer left to us: addresses and ports kept, families inferred, fields of a left type dropped.
//!
//! Source: `pkg/registry/core/service/storage/storage.go` (`patchAllocatedValues`, `normalizeClusterIPs`), `alloc.go` (`initIPFamilyFields`),
//! `strategy.go` (`dropTypeDependentFields`).

use std::collections::{BTreeMap, BTreeSet};

use api::field_errors::FieldErrors;
use serde_json::{Value, json};

use super::{cluster_ips, defaults::edit_spec, shape};
use crate::{
    common::{Read, edit, read::same},
    net,
};

/// `family` is the one family that this cluster has.
pub fn create(service: &mut Value, family: &'static str) {
    let single = shape::spec(service).text("clusterIP").to_owned();
    if !single.is_empty() && shape::spec(service).list("clusterIPs").is_empty() {
        edit_spec(service, |spec| edit::set(spec, "clusterIPs", json!([single])));
    }
    let mut related = FieldErrors::default();
    if shape::needs_cluster_ip(service) {
        cluster_ips::validate(service, &mut related);
    }
    // What is wrong already is told of as it was said.
    if related.is_empty() {
        families(service, None, family);
    }
    no_internal_policy(service);
    no_load_balancer(service);
}

pub fn update(new: &mut Value, old: &Value, family: &'static str) {
    keep_allocated(new, old);
    pair_cluster_ips(new, old);
    families(new, Some(old), family);
    drop_what_left(new, old);
    no_internal_policy(new);
}

/// `defaultOnReadInternalTrafficPolicy`: what has no endpoints of its own shows none of the policies that there are.
fn no_internal_policy(service: &mut Value) {
    let is_one = |policy: &str| matches!(policy, "Cluster" | "Local");
    if shape::kind(service) == "ExternalName" && is_one(shape::spec(service).text("internalTrafficPolicy")) {
        edit_spec(service, |spec| edit::remove(spec, "internalTrafficPolicy"));
    }
}

/// What was claimed before stays where the writer does not say otherwise.
fn keep_allocated(new: &mut Value, old: &Value) {
    if shape::needs_cluster_ip(old) && shape::needs_cluster_ip(new) {
        edit_spec(new, |spec| {
            let old = shape::spec(old);
            edit::default_text(spec, "clusterIP", old.text("clusterIP"));
            if spec.list("clusterIPs").is_empty() && !old.list("clusterIPs").is_empty() {
                edit::set(spec, "clusterIPs", old.list("clusterIPs").to_vec());
            }
        });
    }
    if shape::needs_node_port(old) && shape::needs_node_port(new) {
        keep_node_ports(new, old);
    }
    let health = shape::health_check_port(old);
    if shape::needs_health_check(old) && shape::needs_health_check(new) && health != 0 {
        edit_spec(new, |spec| edit::default_number(spec, "healthCheckNodePort", health));
    }
}

/// Ports are matched by name; one that another port asks for is not given twice.
fn keep_node_ports(new: &mut Value, old: &Value) {
    let asked: BTreeSet<i64> = shape::node_ports(new).into_iter().collect();
    let by_name: BTreeMap<String, i64> = shape::ports(old).iter().map(|p| (p.text("name").to_owned(), shape::node_port(p))).collect();
    edit_spec(new, |spec| {
        for port in edit::each(spec, "ports").filter(|p| shape::node_port(p) == 0) {
            match by_name.get(port.text("name")) {
                Some(number) if *number != 0 && !asked.contains(number) => edit::set(port, "nodePort", *number),
                _ => {}
            }
        }
    });
}

/// `clusterIP` and `clusterIPs` say the same; old clients know the first only.
fn pair_cluster_ips(new: &mut Value, old: &Value) {
    let (before, after) = (shape::spec(old).text("clusterIP"), shape::spec(new).text("clusterIP").to_owned());
    let unchanged = same(shape::spec(new).at("clusterIPs"), shape::spec(old).at("clusterIPs"));
    if before == after || !unchanged {
        return;
    }
    edit_spec(new, |spec| match after.as_str() {
        "" => edit::remove(spec, "clusterIPs"),
        address => edit::set(spec, "clusterIPs", json!([address])),
    });
}

fn families(service: &mut Value, old: Option<&Value>, family: &'static str) {
    if !shape::needs_cluster_ip(service) {
        return;
    }
    let policy = policy(service, old);
    let without_selector = shape::is_headless_without_selector(service);
    let mut list: Vec<Value> = shape::spec(service).list("ipFamilies").to_vec();
    let ips: Vec<String> = shape::texts(service, "clusterIPs").into_iter().map(str::to_owned).collect();
    // An address of a family the cluster does not have is left for validation to name.
    let inferred = ips.iter().skip(list.len()).filter_map(|ip| net::parse(ip)).map(net::family).filter(|f| *f == family);
    list.extend(inferred.map(Value::from));
    if list.is_empty() {
        list.push(family.into());
    }
    if without_selector && list.len() == 1 && policy != "SingleStack" {
        list.push(if list.first().is_some_and(|f| f == "IPv4") { "IPv6".into() } else { "IPv4".into() });
    }
    let single = policy == "SingleStack";
    edit_spec(service, |spec| {
        if single {
            release_secondary(spec, old.and_then(shape::spec), &mut list);
        }
        edit::set(spec, "ipFamilies", list);
        edit::set(spec, "ipFamilyPolicy", policy);
    });
}

/// Said, kept from before, or inferred.
fn policy(service: &Value, old: Option<&Value>) -> String {
    let said = shape::spec(service).text("ipFamilyPolicy");
    let before = old.map_or("", |o| shape::spec(o).text("ipFamilyPolicy"));
    let policy = match (said, before) {
        ("", "") if shape::is_headless_without_selector(service) => "RequireDualStack",
        ("", "") => "SingleStack",
        ("", before) => before,
        (said, _) => said,
    };
    policy.to_owned()
}

/// To ask for `SingleStack` is to let the second address and family go.
fn release_secondary(spec: &mut Value, old: Option<&Value>, families: &mut Vec<Value>) {
    if old.list("clusterIPs").len() > 1 && spec.list("clusterIPs") == old.list("clusterIPs") {
        let first: Vec<Value> = old.list("clusterIPs").iter().take(1).cloned().collect();
        edit::set(spec, "clusterIPs", first);
    }
    if old.list("ipFamilies") == families.as_slice() {
        families.truncate(1);
    }
}

/// A field that no longer applies goes, unless the writer changed it too: then validation refuses it.
fn drop_what_left(new: &mut Value, old: &Value) {
    let kept = |new: &Value, field: &str| same(shape::spec(new).at(field), shape::spec(old).at(field));
    let mut gone: Vec<&str> = Vec::new();
    if shape::needs_cluster_ip(old) && !shape::needs_cluster_ip(new) {
        if kept(new, "clusterIP") && kept(new, "clusterIPs") {
            gone.extend(["clusterIP", "clusterIPs"]);
        }
        gone.extend(["ipFamilies", "ipFamilyPolicy"].into_iter().filter(|f| kept(new, f)));
    }
    let was_balanced = shape::kind(old) == "LoadBalancer" && shape::kind(new) != "LoadBalancer";
    let left = [
        (shape::needs_health_check(old) && !shape::needs_health_check(new), "healthCheckNodePort"),
        (was_balanced, "allocateLoadBalancerNodePorts"),
        (was_balanced, "loadBalancerClass"),
        (shape::is_externally_accessible(old) && !shape::is_externally_accessible(new), "externalTrafficPolicy"),
    ];
    gone.extend(left.into_iter().filter(|(left, field)| *left && kept(new, field)).map(|(_, field)| field));
    let drop_ports = shape::needs_node_port(old) && !shape::needs_node_port(new) && no_new_node_ports(new, old);
    edit_spec(new, |spec| {
        gone.iter().for_each(|field| edit::remove(spec, field));
        if drop_ports {
            edit::each(spec, "ports").for_each(|port| edit::remove(port, "nodePort"));
        }
    });
    if shape::kind(new) != "LoadBalancer" {
        no_load_balancer(new);
    }
}

fn no_load_balancer(service: &mut Value) {
    if let Some(status) = edit::make_child(service, "status") {
        edit::set(status, "loadBalancer", json!({}));
    }
}

fn no_new_node_ports(new: &Value, old: &Value) -> bool {
    let before: BTreeSet<i64> = shape::node_ports(old).into_iter().collect();
    shape::node_ports(new).iter().all(|n| before.contains(n))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stored(spec: Value) -> Value {
        json!({"spec": spec, "status": {"loadBalancer": {}}})
    }

    #[test]
    fn families_are_inferred() {
        let cases = [
            (json!({"type": "ClusterIP"}), json!(["IPv4"]), "SingleStack"),
            (json!({"type": "ClusterIP", "clusterIP": "None"}), json!(["IPv4", "IPv6"]), "RequireDualStack"),
            (json!({"type": "ClusterIP", "clusterIP": "None", "selector": {"a": "b"}}), json!(["IPv4"]), "SingleStack"),
            (json!({"type": "ClusterIP", "ipFamilyPolicy": "PreferDualStack"}), json!(["IPv4"]), "PreferDualStack"),
        ];
        for (spec, families, policy) in cases {
            let mut service = stored(spec.clone());
            create(&mut service, "IPv4");
            assert_eq!((&service["spec"]["ipFamilies"], &service["spec"]["ipFamilyPolicy"]), (&families, &json!(policy)), "{spec}");
        }
        let mut external = stored(json!({"type": "ExternalName"}));
        create(&mut external, "IPv4");
        assert_eq!(external, stored(json!({"type": "ExternalName"})));
    }

    #[test]
    fn what_is_wrong_with_addresses_stays_as_it_was_said() {
        let mut service = stored(json!({"type": "ClusterIP", "ipFamilies": ["IPv4", "IPv4"]}));
        create(&mut service, "IPv4");
        assert_eq!(service, stored(json!({"type": "ClusterIP", "ipFamilies": ["IPv4", "IPv4"]})));
    }

    #[test]
    fn a_name_elsewhere_has_no_internal_policy() {
        let spec = json!({"type": "ExternalName", "externalName": "a.b", "internalTrafficPolicy": "Cluster"});
        let mut service = stored(spec.clone());
        create(&mut service, "IPv4");
        assert_eq!(service["spec"].get("internalTrafficPolicy"), None);
        let mut service = stored(spec);
        update(&mut service, &stored(json!({"type": "ClusterIP", "clusterIP": "None", "internalTrafficPolicy": "Cluster"})), "IPv4");
        assert_eq!(service["spec"].get("internalTrafficPolicy"), None);
    }

    #[test]
    fn what_was_claimed_is_kept() {
        let old = stored(json!({"type": "NodePort", "clusterIP": "10.96.0.5", "clusterIPs": ["10.96.0.5"], "ipFamilies": ["IPv4"],
            "ipFamilyPolicy": "SingleStack", "ports": [{"name": "a", "port": 80, "nodePort": 30080}]}));
        let mut new = stored(json!({"type": "NodePort", "ports": [{"name": "a", "port": 81}, {"name": "b", "port": 82}]}));
        update(&mut new, &old, "IPv4");
        let wanted = json!({"type": "NodePort", "ports": [{"name": "a", "port": 81, "nodePort": 30080}, {"name": "b", "port": 82}],
            "clusterIP": "10.96.0.5", "clusterIPs": ["10.96.0.5"], "ipFamilies": ["IPv4"], "ipFamilyPolicy": "SingleStack"});
        assert_eq!(new["spec"], wanted);
    }

    #[test]
    fn leaving_a_type_clears_its_fields() {
        let old = stored(json!({"type": "NodePort", "clusterIP": "10.96.0.5", "clusterIPs": ["10.96.0.5"], "ipFamilies": ["IPv4"],
            "ipFamilyPolicy": "SingleStack", "externalTrafficPolicy": "Cluster", "ports": [{"port": 80, "nodePort": 30080}]}));
        let with_type = |kind: &str| {
            let mut new = old.clone();
            new["spec"]["type"] = kind.into();
            update(&mut new, &old, "IPv4");
            new["spec"].clone()
        };
        assert_eq!(with_type("ExternalName"), json!({"type": "ExternalName", "ports": [{"port": 80}]}));
        let cluster = with_type("ClusterIP");
        assert_eq!((&cluster["clusterIP"], &cluster["ports"]), (&json!("10.96.0.5"), &json!([{"port": 80}])));
        assert_eq!(cluster.get("externalTrafficPolicy"), None);
    }

    #[test]
    fn a_changed_address_is_seen_in_both_fields() {
        let old = stored(json!({"type": "ClusterIP", "clusterIP": "10.96.0.5", "clusterIPs": ["10.96.0.5"]}));
        let mut new = old.clone();
        new["spec"]["clusterIP"] = "10.96.0.6".into();
        update(&mut new, &old, "IPv4");
        assert_eq!(new["spec"]["clusterIPs"], json!(["10.96.0.6"]));
    }
}
