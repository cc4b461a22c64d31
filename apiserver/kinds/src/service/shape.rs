//! A Service -> what follows from its type: short readings that defaults, checks and claims share.

use std::{collections::BTreeSet, net::IpAddr};

use serde_json::Value;

use crate::{common::Read, net};

pub fn spec(service: &Value) -> Option<&Value> {
    service.at("spec")
}

pub fn kind(service: &Value) -> &str {
    spec(service).text("type")
}

pub fn is_headless(service: &Value) -> bool {
    texts(service, "clusterIPs") == ["None"]
}

/// Headless and without a selector: somebody else writes its endpoints.
pub fn is_headless_without_selector(service: &Value) -> bool {
    spec(service).text("clusterIP") == "None" && spec(service).object("selector").is_none_or(|s| s.is_empty())
}

pub fn needs_cluster_ip(service: &Value) -> bool {
    kind(service) != "ExternalName"
}

pub fn needs_node_port(service: &Value) -> bool {
    matches!(kind(service), "NodePort" | "LoadBalancer")
}

/// Whether ports without a node port get one.
pub fn hands_out_node_ports(service: &Value) -> bool {
    kind(service) == "NodePort" || kind(service) == "LoadBalancer" && spec(service).is_true("allocateLoadBalancerNodePorts")
}

/// The cluster IPs that are the Service's own; none where it is headless, or a mere name.
pub fn addresses(service: &Value) -> BTreeSet<IpAddr> {
    if !needs_cluster_ip(service) {
        return BTreeSet::new();
    }
    let listed = texts(service, "clusterIPs");
    // Stores of long ago have the first only.
    let all = if listed.is_empty() { vec![spec(service).text("clusterIP")] } else { listed };
    all.into_iter().filter_map(net::parse).collect()
}

pub fn needs_health_check(service: &Value) -> bool {
    kind(service) == "LoadBalancer" && spec(service).text("externalTrafficPolicy") == "Local"
}

pub fn is_externally_accessible(service: &Value) -> bool {
    needs_node_port(service) || (kind(service) == "ClusterIP" && !spec(service).list("externalIPs").is_empty())
}

/// The strings of a list in the spec.
pub fn texts<'a>(service: &'a Value, field: &str) -> Vec<&'a str> {
    spec(service).list(field).iter().filter_map(Value::as_str).collect()
}

pub fn ports(service: &Value) -> &[Value] {
    spec(service).list("ports")
}

/// All node ports that are set, without the health check's.
pub fn node_ports(service: &Value) -> Vec<i64> {
    ports(service).iter().map(node_port).filter(|n| *n != 0).collect()
}

/// 0 where not set.
pub fn node_port(port: &Value) -> i64 {
    port.int("nodePort").unwrap_or(0)
}

pub fn health_check_port(service: &Value) -> i64 {
    spec(service).int("healthCheckNodePort").unwrap_or(0)
}
