//! A Service -> its table row. Source: `pkg/printers/internalversion/printers.go`, `printService`.

use std::collections::BTreeSet;

use api::time::Timestamp;
use serde_json::Value;

use super::shape;
use crate::common::{Read, read, selector, table};

pub fn cells(service: &Value, now: Timestamp) -> Vec<Value> {
    vec![
        read::name(service).into(),
        shape::kind(service).into(),
        table::or_none(shape::texts(service, "clusterIPs").first().copied().unwrap_or("")),
        external_ip(service).into(),
        table::or_none(&ports(service)),
        table::age(service, now),
        selector::print_map(shape::spec(service).at("selector")).into(),
    ]
}

fn external_ip(service: &Value) -> String {
    let listed = shape::texts(service, "externalIPs");
    match shape::kind(service) {
        "ClusterIP" | "NodePort" if listed.is_empty() => "<none>".into(),
        "ClusterIP" | "NodePort" => listed.join(","),
        "LoadBalancer" => balanced(service, &listed),
        "ExternalName" => shape::spec(service).text("externalName").to_owned(),
        _ => "<unknown>".into(),
    }
}

fn balanced(service: &Value, listed: &[&str]) -> String {
    let ingress = service.pointer("/status/loadBalancer/ingress").and_then(Value::as_array).into_iter().flatten();
    let address = |entry: &'_ Value| match entry.text("ip") {
        "" => entry.text("hostname").to_owned(),
        ip => ip.to_owned(),
    };
    let given: BTreeSet<String> = ingress.map(address).filter(|a| !a.is_empty()).collect();
    let all: Vec<String> = given.into_iter().chain(listed.iter().map(|s| (*s).to_owned())).collect();
    if all.is_empty() { "<pending>".into() } else { all.join(",") }
}

fn ports(service: &Value) -> String {
    let port = |port: &Value| {
        let (number, protocol) = (port.int("port").unwrap_or(0), port.text("protocol"));
        match shape::node_port(port) {
            node if node > 0 => format!("{number}:{node}/{protocol}"),
            _ => format!("{number}/{protocol}"),
        }
    };
    shape::ports(service).iter().map(port).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn rows_read_as_kubectl_shows_them() {
        let cases = [
            (
                json!({"type": "ClusterIP", "clusterIPs": ["10.96.0.1"], "ports": [{"port": 443, "protocol": "TCP"}]}),
                ["ClusterIP", "10.96.0.1", "<none>", "443/TCP", "<none>"],
            ),
            (
                json!({"type": "NodePort", "clusterIPs": ["10.96.0.2"], "selector": {"b": "2", "a": "1"},
                    "ports": [{"port": 80, "nodePort": 30080, "protocol": "TCP"}, {"port": 53, "protocol": "UDP"}]}),
                ["NodePort", "10.96.0.2", "<none>", "80:30080/TCP,53/UDP", "a=1,b=2"],
            ),
            (json!({"type": "LoadBalancer", "clusterIPs": ["10.96.0.3"]}), ["LoadBalancer", "10.96.0.3", "<pending>", "<none>", "<none>"]),
            (json!({"type": "ExternalName", "externalName": "a.b"}), ["ExternalName", "<none>", "a.b", "<none>", "<none>"]),
            (json!({"type": "ClusterIP", "clusterIPs": ["None"]}), ["ClusterIP", "None", "<none>", "<none>", "<none>"]),
        ];
        for (spec, wanted) in cases {
            let mut cells = cells(&json!({"metadata": {"name": "s"}, "spec": spec}), Timestamp::UNIX_EPOCH);
            assert_eq!(cells.len(), super::super::COLUMNS.len());
            cells.remove(5);
            assert_eq!(cells[1..], wanted.map(Value::from));
        }
    }

    #[test]
    fn a_balancers_addresses_are_listed_once() {
        let service = json!({"spec": {"type": "LoadBalancer", "externalIPs": ["9.9.9.9"]},
            "status": {"loadBalancer": {"ingress": [{"ip": "2.2.2.2"}, {"hostname": "a"}, {"ip": "2.2.2.2"}]}}});
        assert_eq!(external_ip(&service), "2.2.2.2,a,9.9.9.9");
    }
}
