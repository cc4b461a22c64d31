//! Endpoints: the strategy of a Service's addresses in the old shape. Source: `pkg/registry/core/endpoint/strategy.go`, `ValidateEndpoints`.

use std::borrow::Cow;

use api::{field_errors::FieldErrors, time::Timestamp};
use apiserver::kind::{Column, Kind, MetaCheck, Name, Storage, Strategy, names};
use serde_json::Value;

use crate::{
    common::{self, Path, Read, edit, name_rules, read, table, well_formed},
    net, ports,
};

/// How many addresses a table cell names.
const SHOWN_MAX: usize = 3;
const COLUMNS: &[Column] =
    &[table::NAME_COLUMN, table::column("Endpoints", "string", "The set of all endpoints is the union of all subsets."), table::AGE_COLUMN];

pub fn kind() -> Kind {
    Kind {
        short_names: names(&["ep"]),
        // The singular is the plural: there is no `endpoint`.
        storage: Storage::Kept { prefix: Name::Borrowed("services/endpoints"), ttl_seconds: None },
        columns: Cow::Borrowed(COLUMNS),
        ..common::kind("", "v1", "Endpoints", "endpoints", "io.k8s.api.core.v1", Endpoints)
    }
}

struct Endpoints;

impl Strategy for Endpoints {
    fn default(&self, object: &mut Value) {
        for subset in edit::each(object, "subsets") {
            edit::each(subset, "ports").for_each(|port| edit::default_text(port, "protocol", "TCP"));
        }
    }

    fn validate(&self, object: &Value, causes: &mut FieldErrors) {
        let path = Path::new("subsets");
        for (i, subset) in object.list("subsets").iter().enumerate() {
            self::subset(subset, path.index(i), causes);
        }
    }

    fn deprecation(&self) -> Option<Name> {
        Some("v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice".into())
    }

    fn warnings(&self, new: &Value, _old: Option<&Value>) -> Vec<String> {
        // Our own controller writes canonical addresses.
        if new.at("metadata").at("labels").text("endpoints.kubernetes.io/managed-by") == "endpoint-controller" {
            return Vec::new();
        }
        let subsets = new.list("subsets").iter().enumerate();
        subsets
            .flat_map(|(i, subset)| ["addresses", "notReadyAddresses"].into_iter().flat_map(move |f| address_warnings(subset, i, f)))
            .collect()
    }

    fn create_on_update(&self) -> bool {
        true
    }

    fn meta_check(&self) -> MetaCheck {
        MetaCheck::Both
    }

    fn cells(&self, object: &Value, now: Timestamp) -> Vec<Value> {
        vec![read::name(object).into(), shown(object).into(), table::age(object, now)]
    }
}

fn address_warnings(subset: &Value, i: usize, field: &'static str) -> Vec<String> {
    let addresses = subset.list(field).iter().enumerate();
    addresses.filter_map(|(j, a)| net::ip_warning(&format!("subsets[{i}].{field}[{j}].ip"), a.text("ip"))).collect()
}

fn subset(subset: &Value, path: Path<'_>, causes: &mut FieldErrors) {
    if subset.list("addresses").is_empty() && subset.list("notReadyAddresses").is_empty() {
        causes.required(path, "must specify `addresses` or `notReadyAddresses`");
    }
    for field in ["addresses", "notReadyAddresses"] {
        let path = path.field(field);
        for (i, address) in subset.list(field).iter().enumerate() {
            self::address(address, path.index(i), causes);
        }
    }
    let all = subset.list("ports");
    let path = path.field("ports");
    for (i, port) in all.iter().enumerate() {
        self::port(port, all.len() > 1, path.index(i), causes);
    }
}

fn address(address: &Value, path: Path<'_>, causes: &mut FieldErrors) {
    let ip = address.text("ip");
    well_formed(ip, net::ip(ip), path.field("ip"), causes);
    let (host, node) = (address.text("hostname"), address.text("nodeName"));
    if !host.is_empty() {
        well_formed(host, name_rules::dns_label(host), path.field("hostname"), causes);
    }
    if address.at("nodeName").is_some() {
        well_formed(node, name_rules::dns_subdomain(node), path.field("nodeName"), causes);
    }
    well_formed(ip, net::endpoint_ip(ip), path.field("ip"), causes);
}

fn port(port: &Value, name_required: bool, path: Path<'_>, causes: &mut FieldErrors) {
    match port.text("name") {
        "" if name_required => causes.required(path.field("name"), ""),
        "" => {}
        name => well_formed(name, name_rules::dns_label(name), path.field("name"), causes),
    }
    ports::number(port.int("port").unwrap_or(0), path.field("port"), causes);
    ports::protocol(port.text("protocol"), path.field("protocol"), causes);
    ports::app_protocol(port, path, causes);
}

/// `10.0.0.1:80,10.0.0.2:80 + 3 more...`
fn shown(object: &Value) -> String {
    let mut all = Vec::new();
    for subset in object.list("subsets") {
        let addresses = || subset.list("addresses").iter().map(|a| a.text("ip"));
        match subset.list("ports") {
            [] => all.extend(addresses().map(str::to_owned)),
            ports => ports.iter().for_each(|p| all.extend(addresses().map(|ip| join(ip, p.int("port").unwrap_or(0))))),
        }
    }
    match all.len() {
        0 if object.list("subsets").is_empty() => "<none>".into(),
        n if n > SHOWN_MAX => format!("{} + {} more...", all.get(..SHOWN_MAX).unwrap_or_default().join(","), n - SHOWN_MAX),
        _ => all.join(","),
    }
}

fn join(ip: &str, port: i64) -> String {
    if ip.contains(':') { format!("[{ip}]:{port}") } else { format!("{ip}:{port}") }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn subsets_are_checked() {
        let texts = |subsets: Value| {
            let mut object = json!({"subsets": subsets});
            Endpoints.default(&mut object);
            let mut causes = FieldErrors::default();
            Endpoints.validate(&object, &mut causes);
            causes.0.iter().map(|c| c.text()).collect::<Vec<_>>()
        };
        assert!(texts(json!([{"addresses": [{"ip": "10.0.0.1", "nodeName": "n", "hostname": "h"}], "ports": [{"port": 80}]}])).is_empty());
        assert_eq!(texts(json!([{}])), ["subsets[0]: Required value: must specify `addresses` or `notReadyAddresses`"]);
        let bad = texts(
            json!([{"notReadyAddresses": [{"ip": "127.0.0.1"}], "ports": [{"port": 80, "name": "a"}, {"port": 0, "protocol": "x"}]}]),
        );
        let wanted = [
            r#"subsets[0].notReadyAddresses[0].ip: Invalid value: "127.0.0.1": may not be in the loopback range (127.0.0.0/8, ::1/128)"#,
            "subsets[0].ports[1].name: Required value",
            "subsets[0].ports[1].port: Invalid value: 0: must be between 1 and 65535, inclusive",
            r#"subsets[0].ports[1].protocol: Unsupported value: "x": supported values: "SCTP", "TCP", "UDP""#,
        ];
        assert_eq!(bad, wanted);
    }

    #[test]
    fn three_addresses_are_shown() {
        let cases = [
            (json!([]), "<none>"),
            (json!([{"addresses": [{"ip": "10.0.0.1"}], "ports": [{"port": 80}]}]), "10.0.0.1:80"),
            (json!([{"addresses": [{"ip": "fd00::1"}], "ports": [{"port": 80}]}]), "[fd00::1]:80"),
            (json!([{"addresses": [{"ip": "10.0.0.1"}]}]), "10.0.0.1"),
            (json!([{"notReadyAddresses": [{"ip": "10.0.0.1"}], "ports": [{"port": 80}]}]), ""),
            (
                json!([{"addresses": [{"ip": "10.0.0.1"}, {"ip": "10.0.0.2"}], "ports": [{"port": 80}, {"port": 81}]}]),
                "10.0.0.1:80,10.0.0.2:80,10.0.0.1:81 + 1 more...",
            ),
        ];
        for (subsets, wanted) in cases {
            assert_eq!(shown(&json!({"subsets": subsets})), wanted, "{subsets}");
        }
    }
}
