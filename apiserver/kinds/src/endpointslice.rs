//! EndpointSlice: the strategy of a Service's addresses in slices. Source: `pkg/registry/discovery/endpointslice`, `pkg/apis/discovery/validation`.

use std::{borrow::Cow, collections::BTreeSet};

use api::{field_errors::FieldErrors, time::Timestamp};
use apiserver::kind::{Column, Ctx, Kind, MetaCheck, Strategy};
use serde_json::Value;

use crate::{
    common::{self, Path, Read, edit, name_rules, read, selector, table, unchanged, well_formed},
    net, ports,
};

const ENDPOINTS_MAX: usize = 1000;
const ADDRESSES_MAX: usize = 100;
const PORTS_MAX: usize = 20000;
const TOPOLOGY_MAX: usize = 16;
const HINTS_MAX: usize = 8;
/// How many ports or addresses a table cell names.
const SHOWN_MAX: usize = 3;

const COLUMNS: &[Column] = &[
    table::NAME_COLUMN,
    table::column("AddressType", "string", "addressType specifies the type of address carried by this EndpointSlice."),
    table::column("Ports", "string", "ports specifies the list of network ports exposed by each endpoint in this slice."),
    table::column("Endpoints", "string", "endpoints is a list of unique endpoints in this slice."),
    table::AGE_COLUMN,
];

pub fn kind() -> Kind {
    Kind {
        columns: Cow::Borrowed(COLUMNS),
        generation: true,
        ..common::kind("discovery.k8s.io", "v1", "EndpointSlice", "endpointslices", "io.k8s.api.discovery.v1", EndpointSlices)
    }
}

struct EndpointSlices;

impl Strategy for EndpointSlices {
    fn default(&self, object: &mut Value) {
        for port in edit::each(object, "ports") {
            edit::default_to(port, "name", "");
            edit::default_to(port, "protocol", "TCP");
        }
    }

    fn prepare_create(&self, _ctx: &Ctx<'_>, object: &mut Value) {
        drop_topology(object, None);
    }

    fn prepare_update(&self, _ctx: &Ctx<'_>, new: &mut Value, old: &Value) {
        if !read::same(new.at("endpoints"), old.at("endpoints")) {
            risen(new, old);
            drop_topology(new, Some(old));
        }
    }

    fn validate(&self, object: &Value, causes: &mut FieldErrors) {
        match object.text("addressType") {
            "" => causes.required("addressType", ""),
            "IPv4" | "IPv6" | "FQDN" => {}
            other => causes.not_supported("addressType", other, &["FQDN", "IPv4", "IPv6"]),
        }
        slice_ports(object.list("ports"), causes);
        endpoints(object, causes);
    }

    fn validate_update(&self, new: &Value, old: &Value, causes: &mut FieldErrors) {
        unchanged(new.at("addressType"), old.at("addressType"), Path::new("addressType"), causes);
    }

    fn warnings(&self, new: &Value, old: Option<&Value>) -> Vec<String> {
        let mut warnings = Vec::new();
        if old.is_none() && new.text("addressType") == "FQDN" {
            warnings.push("spec.addressType: FQDN endpoints are deprecated".to_owned());
        }
        let ours = ["endpointslice-controller.k8s.io", "endpointslicemirroring-controller.k8s.io"];
        if ours.contains(&new.at("metadata").at("labels").text("endpointslice.kubernetes.io/managed-by")) {
            return warnings;
        }
        for (i, endpoint) in new.list("endpoints").iter().enumerate() {
            let addresses = endpoint.list("addresses").iter().filter_map(Value::as_str).enumerate();
            warnings.extend(addresses.filter_map(|(j, ip)| net::ip_warning(&format!("endpoints[{i}].addresses[{j}]"), ip)));
        }
        warnings
    }

    fn meta_check(&self) -> MetaCheck {
        MetaCheck::Create
    }

    /// `PrepareForUpdate`, in upstream's strategy.
    fn counted_metadata(&self) -> &'static [&'static str] {
        &["labels"]
    }

    fn cells(&self, object: &Value, now: Timestamp) -> Vec<Value> {
        let addresses = object.list("endpoints").iter().flat_map(|e| e.list("addresses")).filter_map(Value::as_str).map(str::to_owned);
        vec![
            read::name(object).into(),
            object.text("addressType").into(),
            shown(object.list("ports").iter().map(port_shown)).into(),
            shown(addresses).into(),
            table::age(object, now),
        ]
    }
}

/// Upstream counts generations before it drops what cannot be written.
fn risen(new: &mut Value, old: &Value) {
    let generation = old.at("metadata").int("generation").unwrap_or(0);
    if let Some(metadata) = edit::make_child(new, "metadata") {
        edit::set(metadata, "generation", generation.saturating_add(1));
    }
}

/// `deprecatedTopology` cannot be written in v1; the node's name in it is saved where an old slice had it there.
fn drop_topology(object: &mut Value, old: Option<&Value>) {
    const HOST: &str = "kubernetes.io/hostname";
    let before: BTreeSet<&str> =
        old.list("endpoints").iter().map(|e| e.at("deprecatedTopology").text(HOST)).filter(|n| !n.is_empty()).collect();
    for endpoint in edit::each(object, "endpoints") {
        let host = endpoint.at("deprecatedTopology").text(HOST).to_owned();
        if endpoint.at("nodeName").is_none() && before.contains(host.as_str()) && name_rules::dns_subdomain(&host).is_empty() {
            edit::set(endpoint, "nodeName", host);
        }
        edit::remove(endpoint, "deprecatedTopology");
    }
}

fn slice_ports(all: &[Value], causes: &mut FieldErrors) {
    let path = Path::new("ports");
    if all.len() > PORTS_MAX {
        return causes.too_many(path, all.len(), PORTS_MAX);
    }
    let mut names = BTreeSet::new();
    for (i, port) in all.iter().enumerate() {
        let path = path.index(i);
        let name = port.text("name");
        if !name.is_empty() {
            well_formed(name, name_rules::dns_label(name), path.field("name"), causes);
        }
        if !names.insert(name) {
            causes.duplicate(path.field("name"), name);
        }
        ports::protocol(port.text("protocol"), path.field("protocol"), causes);
        ports::app_protocol(port, path, causes);
    }
}

fn endpoints(object: &Value, causes: &mut FieldErrors) {
    let path = Path::new("endpoints");
    let all = object.list("endpoints");
    if all.len() > ENDPOINTS_MAX {
        return causes.too_many(path, all.len(), ENDPOINTS_MAX);
    }
    for (i, one) in all.iter().enumerate() {
        endpoint(one, object.text("addressType"), path.index(i), causes);
    }
}

fn endpoint(endpoint: &Value, address_type: &str, path: Path<'_>, causes: &mut FieldErrors) {
    let list = path.field("addresses");
    let addresses = endpoint.list("addresses");
    match addresses.len() {
        0 => causes.required(list, "must contain at least 1 address"),
        n if n > ADDRESSES_MAX => causes.too_many(list, n, ADDRESSES_MAX),
        _ => {}
    }
    for (i, value) in addresses.iter().enumerate() {
        address(value.as_str().unwrap_or(""), address_type, list, i, causes);
    }
    if let Some(node) = endpoint.at("nodeName").and_then(Value::as_str) {
        well_formed(node, name_rules::dns_subdomain(node), path.field("nodeName"), causes);
    }
    let topology = path.field("deprecatedTopology");
    let count = endpoint.object("deprecatedTopology").map_or(0, |t| t.len());
    if count > TOPOLOGY_MAX {
        causes.too_many(topology, count, TOPOLOGY_MAX);
    }
    selector::labels(endpoint.at("deprecatedTopology"), topology, causes);
    if let Some(host) = endpoint.at("hostname").and_then(Value::as_str) {
        well_formed(host, name_rules::dns_label(host), path.field("hostname"), causes);
    }
    if let Some(hints) = endpoint.at("hints") {
        let path = path.field("hints");
        self::hints(hints.list("forZones"), name_rules::label_value, path.field("forZones"), causes);
        self::hints(hints.list("forNodes"), name_rules::dns_subdomain, path.field("forNodes"), causes);
    }
}

fn address(value: &str, address_type: &str, list: Path<'_>, i: usize, causes: &mut FieldErrors) {
    let path = list.index(i);
    let (errors, family) = match address_type {
        "IPv4" => (net::ip(value), "IPv4"),
        "IPv6" => (net::canonical_ip(value), "IPv6"),
        "FQDN" => return fqdn(value, path, causes),
        _ => return,
    };
    if !errors.is_empty() {
        return well_formed(value, errors, path, causes);
    }
    if net::parse(value).is_some_and(|ip| net::family(ip) != family) {
        causes.invalid(list, value, &format!("must be an {family} address"));
    }
    well_formed(value, net::endpoint_ip(value), path, causes);
}

/// `IsFullyQualifiedDomainName`
fn fqdn(value: &str, path: Path<'_>, causes: &mut FieldErrors) {
    if value.is_empty() {
        return causes.required(path, "");
    }
    let name = value.strip_suffix('.').unwrap_or(value);
    let errors = name_rules::dns_subdomain(name);
    if !errors.is_empty() {
        return causes.invalid(path, name, &errors.join(","));
    }
    if !name.contains('.') {
        return causes.invalid(path, name, "should be a domain with at least two segments separated by dots");
    }
    if let Some(label) = name.split('.').find(|l| !name_rules::dns_label(l).is_empty()) {
        causes.invalid(path, label, &name_rules::dns_label(label).join(","));
    }
}

fn hints(all: &[Value], rule: fn(&str) -> Vec<String>, path: Path<'_>, causes: &mut FieldErrors) {
    if all.len() > HINTS_MAX {
        return causes.too_many(path, all.len(), HINTS_MAX);
    }
    let mut seen = BTreeSet::new();
    for (i, hint) in all.iter().enumerate() {
        let path = path.index(i);
        let name = hint.text("name");
        if !seen.insert(name) {
            causes.duplicate(path.field("name"), name);
        }
        well_formed(name, rule(name), path.field("name"), causes);
    }
}

fn port_shown(port: &Value) -> String {
    match (port.int("port"), port.at("name")) {
        (Some(number), _) => number.to_string(),
        (None, Some(name)) => name.as_str().unwrap_or("").to_owned(),
        (None, None) => "*".into(),
    }
}

/// `a,b,c + 2 more...`
fn shown(all: impl Iterator<Item = String>) -> String {
    let all: Vec<String> = all.collect();
    match all.len() {
        0 => "<unset>".into(),
        n if n > SHOWN_MAX => format!("{} + {} more...", all.get(..SHOWN_MAX).unwrap_or_default().join(","), n - SHOWN_MAX),
        _ => all.join(","),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn texts(mut object: Value) -> Vec<String> {
        EndpointSlices.default(&mut object);
        let mut causes = FieldErrors::default();
        EndpointSlices.validate(&object, &mut causes);
        causes.0.iter().map(|c| c.text()).collect()
    }

    #[test]
    fn what_is_dropped_makes_a_generation() {
        let old = json!({"metadata": {"generation": 3}, "endpoints": [{"addresses": ["10.0.0.1"]}]});
        let mut new = old.clone();
        new["endpoints"][0]["deprecatedTopology"] = json!({"a": "b"});
        risen(&mut new, &old);
        drop_topology(&mut new, Some(&old));
        assert_eq!((&new["metadata"]["generation"], &new["endpoints"]), (&json!(4), &old["endpoints"]));
    }

    #[test]
    fn what_is_fine_has_no_causes() {
        for object in [
            json!({"addressType": "IPv4", "ports": [{"port": 80}], "endpoints": [{"addresses": ["10.0.0.1"], "nodeName": "n"}]}),
            json!({"addressType": "IPv6", "endpoints": [{"addresses": ["fd00::1"], "hints": {"forZones": [{"name": "a"}]}}]}),
            json!({"addressType": "FQDN", "endpoints": [{"addresses": ["a.b."]}]}),
        ] {
            assert_eq!(texts(object.clone()), Vec::<String>::new(), "{object}");
        }
    }

    #[test]
    fn each_rule_has_its_words() {
        let v4 = |addresses: Value| json!({"addressType": "IPv4", "endpoints": [{"addresses": addresses}]});
        let cases: Vec<(Value, &[&str])> = vec![
            (json!({}), &["addressType: Required value"]),
            (json!({"addressType": "x"}), &[r#"addressType: Unsupported value: "x": supported values: "FQDN", "IPv4", "IPv6""#]),
            (v4(json!([])), &["endpoints[0].addresses: Required value: must contain at least 1 address"]),
            (v4(json!(["fd00::1"])), &[r#"endpoints[0].addresses: Invalid value: "fd00::1": must be an IPv4 address"#]),
            (v4(json!(["0.0.0.0"])), &[r#"endpoints[0].addresses[0]: Invalid value: "0.0.0.0": may not be unspecified (0.0.0.0)"#]),
            (json!({"addressType": "IPv4", "ports": [{}, {}]}), &[r#"ports[1].name: Duplicate value: """#]),
            (
                json!({"addressType": "FQDN", "endpoints": [{"addresses": ["a"]}]}),
                &[r#"endpoints[0].addresses[0]: Invalid value: "a": should be a domain with at least two segments separated by dots"#],
            ),
        ];
        for (object, wanted) in cases {
            assert_eq!(texts(object.clone()), wanted, "{object}");
        }
    }

    #[test]
    fn topology_goes_and_node_names_stay() {
        let old = json!({"endpoints": [{"deprecatedTopology": {"kubernetes.io/hostname": "n"}}]});
        let mut new = json!({"endpoints": [{"deprecatedTopology": {"kubernetes.io/hostname": "n"}}, {"deprecatedTopology": {"kubernetes.io/hostname": "m"}}]});
        drop_topology(&mut new, Some(&old));
        assert_eq!(new, json!({"endpoints": [{"nodeName": "n"}, {}]}));
    }

    #[test]
    fn cells_name_three_and_count_the_rest() {
        let slice = json!({"metadata": {"name": "s"}, "addressType": "IPv4", "ports": [{"port": 80}, {"name": "x"}, {}],
            "endpoints": [{"addresses": ["1.1.1.1", "1.1.1.2"]}, {"addresses": ["1.1.1.3", "1.1.1.4"]}]});
        let cells = EndpointSlices.cells(&slice, Timestamp::UNIX_EPOCH);
        assert_eq!(cells[1..4], [json!("IPv4"), json!("80,x,*"), json!("1.1.1.1,1.1.1.2,1.1.1.3 + 1 more...")]);
        assert_eq!(EndpointSlices.cells(&json!({}), Timestamp::UNIX_EPOCH)[2], "<unset>");
    }
}
