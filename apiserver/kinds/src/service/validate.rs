//! A Service -> all that is wrong with it. Source: `pkg/apis/core/validation/validation.go`, `validateService`; `pkg/api/service/warnings.go`.

use std::collections::BTreeSet;

use api::field_errors::FieldErrors;
use serde_json::{Value, json};

use super::{cluster_ips, shape};
use crate::{
    common::{Path, Read, name_rules, read::text_at, selector, well_formed},
    net, ports,
};

const SPEC: Path<'static> = Path::new("spec");
const ONLY_LOAD_BALANCER: &str = "may only be used when `type` is 'LoadBalancer'";

/// A new one. Upstream claims its addresses and node ports before it looks at anything: what is wrong with the former is told alone, and two ports that
/// ask for one node port meet when it is claimed.
pub fn new(service: &Value, family: &str, causes: &mut FieldErrors) {
    let mut related = FieldErrors::default();
    if shape::needs_cluster_ip(service) {
        cluster_ips::validate(service, &mut related);
    }
    if related.is_empty() {
        whole(service, family, causes);
    } else {
        *causes = related;
    }
}

/// One that is there, as it is to be.
pub fn changed(service: &Value, family: &str, causes: &mut FieldErrors) {
    whole(service, family, causes);
    twice(service, causes);
}

/// `family` is the one family that this cluster has.
fn whole(service: &Value, family: &str, causes: &mut FieldErrors) {
    kind(service, causes);
    all_ports(service, causes);
    selector::labels(shape::spec(service).at("selector"), SPEC.field("selector"), causes);
    session_affinity(shape::spec(service), causes);
    if shape::needs_cluster_ip(service) {
        cluster_ips::validate(service, causes);
        families_of_cluster(service, family, causes);
    }
    external_ips(service, causes);
    node_ports(service, causes);
    source_ranges(service, causes);
    load_balancer(service, causes);
    external_traffic(service, causes);
    internal_traffic(service, causes);
    topology_annotations(service, causes);
}

pub fn warnings(service: &Value) -> Vec<String> {
    let spec = shape::spec(service);
    let (headless, external) = (shape::is_headless(service), shape::kind(service) == "ExternalName");
    let externals = !spec.list("externalIPs").is_empty();
    let mut out = Vec::new();
    let mut warn = |when: bool, text: &str| {
        if when {
            out.push(text.to_owned());
        }
    };
    let hints = "service.kubernetes.io/topology-aware-hints";
    let has_hints = service.pointer("/metadata/annotations").at(hints).is_some();
    warn(has_hints, &format!("annotation {hints} is deprecated, please use service.kubernetes.io/topology-mode instead"));
    warn(headless && !spec.text("loadBalancerIP").is_empty(), "spec.loadBalancerIP is ignored for headless services");
    warn(headless && externals, "spec.externalIPs is ignored for headless services");
    warn(headless && spec.text("sessionAffinity") != "None", "spec.SessionAffinity is ignored for headless services");
    let deprecated = externals && !headless && !external;
    warn(deprecated, "spec.externalIPs is deprecated and may no longer be implemented in some clusters");
    warn(external && externals, "spec.externalIPs is ignored when spec.type is \"ExternalName\"");
    let named = !external && !spec.text("externalName").is_empty();
    warn(named, "spec.externalName is ignored when spec.type is not \"ExternalName\"");
    let close = spec.text("trafficDistribution") == "PreferClose";
    warn(close, "spec.trafficDistribution: \"PreferClose\" is deprecated; use \"PreferSameZone\"");
    for field in ["clusterIPs", "externalIPs"] {
        let addresses = shape::texts(service, field).into_iter().enumerate();
        out.extend(addresses.filter_map(|(i, ip)| net::ip_warning(&format!("spec.{field}[{i}]"), ip)));
    }
    out
}

fn kind(service: &Value, causes: &mut FieldErrors) {
    let spec = shape::spec(service);
    let headless = shape::is_headless(service);
    match shape::kind(service) {
        kind @ ("LoadBalancer" | "NodePort") if headless => {
            causes.invalid("spec.clusterIPs[0]", "None", &format!("may not be set to 'None' for {kind} services"));
        }
        "ClusterIP" | "NodePort" | "LoadBalancer" => {}
        "ExternalName" => external_name(service, causes),
        "" => causes.required(SPEC.field("type"), ""),
        other => causes.not_supported(SPEC.field("type"), other, &["ClusterIP", "NodePort", "LoadBalancer", "ExternalName"]),
    }
    if spec.list("ports").is_empty() && !headless && shape::needs_cluster_ip(service) {
        causes.required(SPEC.field("ports"), "");
    }
}

fn external_name(service: &Value, causes: &mut FieldErrors) {
    let spec = shape::spec(service);
    for (field, set) in [
        ("clusterIPs", !spec.list("clusterIPs").is_empty()),
        ("ipFamilies", !spec.list("ipFamilies").is_empty()),
        ("ipFamilyPolicy", spec.at("ipFamilyPolicy").is_some()),
    ] {
        if set {
            causes.forbidden(SPEC.field(field), "may not be set for ExternalName services");
        }
    }
    // A trailing dot says that the name is fully qualified.
    let name = spec.text("externalName");
    let name = name.strip_suffix('.').unwrap_or(name);
    if name.is_empty() {
        causes.required(SPEC.field("externalName"), "");
    } else {
        well_formed(name, name_rules::dns_subdomain(name), SPEC.field("externalName"), causes);
    }
}

fn all_ports(service: &Value, causes: &mut FieldErrors) {
    let path = SPEC.field("ports");
    let all = shape::ports(service);
    let (mut names, mut numbers) = (BTreeSet::new(), BTreeSet::new());
    for (i, port) in all.iter().enumerate() {
        let path = path.index(i);
        port_name(port.text("name"), all.len() > 1, &mut names, path, causes);
        one_port(port, path, causes);
    }
    for (i, port) in all.iter().enumerate() {
        let (protocol, number) = (port.text("protocol"), port.int("port").unwrap_or(0));
        if !numbers.insert((protocol, number)) {
            let shown = json!({"Name": "", "Protocol": protocol, "AppProtocol": null, "Port": number, "TargetPort": 0, "NodePort": 0});
            causes.duplicate(path.index(i), shown);
        }
    }
}

fn port_name<'a>(name: &'a str, required: bool, seen: &mut BTreeSet<&'a str>, path: Path<'_>, causes: &mut FieldErrors) {
    if name.is_empty() {
        if required {
            causes.required(path.field("name"), "");
        }
        return;
    }
    well_formed(name, name_rules::dns_label(name), path.field("name"), causes);
    if !seen.insert(name) {
        causes.duplicate(path.field("name"), name);
    }
}

fn one_port(port: &Value, path: Path<'_>, causes: &mut FieldErrors) {
    ports::number(port.int("port").unwrap_or(0), path.field("port"), causes);
    ports::protocol(port.text("protocol"), path.field("protocol"), causes);
    match port.at("targetPort") {
        Some(Value::String(name)) => well_formed(name, name_rules::port_name(name), path.field("targetPort"), causes),
        number => ports::number(number.and_then(Value::as_i64).unwrap_or(0), path.field("targetPort"), causes),
    }
    ports::app_protocol(port, path, causes);
}

fn session_affinity(spec: Option<&Value>, causes: &mut FieldErrors) {
    let path = SPEC.field("sessionAffinityConfig");
    match spec.text("sessionAffinity") {
        "" => causes.required(SPEC.field("sessionAffinity"), ""),
        "ClientIP" => affinity_timeout(spec, path, causes),
        "None" if spec.at("sessionAffinityConfig").is_some() => {
            causes.forbidden(path, "must not be set when session affinity is None");
        }
        "None" => {}
        other => causes.not_supported(SPEC.field("sessionAffinity"), other, &["ClientIP", "None"]),
    }
}

fn affinity_timeout(spec: Option<&Value>, path: Path<'_>, causes: &mut FieldErrors) {
    let client = path.field("clientIP");
    let config = spec.at("sessionAffinityConfig");
    let missing = match (config, config.at("clientIP"), config.at("clientIP").at("timeoutSeconds")) {
        (None, ..) => Some(path),
        (_, None, _) => Some(client),
        (_, _, None) => Some(client.field("timeoutSeconds")),
        (_, _, Some(seconds)) => {
            if !seconds.as_i64().is_some_and(|s| s > 0 && s <= 86400) {
                causes.invalid(client.field("timeoutSeconds"), seconds.clone(), "must be greater than 0 and less than 86400");
            }
            None
        }
    };
    if let Some(path) = missing {
        causes.required(path, "when session affinity type is ClientIP");
    }
}

/// `initIPFamilyFields`: what this cluster, which has one family, can give.
fn families_of_cluster(service: &Value, family: &str, causes: &mut FieldErrors) {
    let (ips, families) = (shape::texts(service, "clusterIPs"), shape::texts(service, "ipFamilies"));
    let policy = shape::spec(service).text("ipFamilyPolicy");
    let path = SPEC.field("ipFamilyPolicy");
    if policy == "SingleStack" {
        let tail = "are specified";
        if ips.len() == 2 {
            causes.invalid(path, policy, &format!("must be 'RequireDualStack' or 'PreferDualStack' when multiple cluster IPs {tail}"));
        }
        if families.len() == 2 {
            causes.invalid(path, policy, &format!("must be 'RequireDualStack' or 'PreferDualStack' when multiple IP families {tail}"));
        }
    }
    if shape::is_headless_without_selector(service) {
        return;
    }
    if policy == "RequireDualStack" {
        causes.invalid(path, policy, "this cluster is not configured for dual-stack services");
    }
    for (i, wanted) in families.iter().enumerate().filter(|(_, f)| **f != family) {
        causes.invalid(SPEC.field("ipFamilies").index(i), *wanted, "not configured on this cluster");
    }
    let asked: BTreeSet<&str> = families.iter().copied().collect();
    for (i, ip) in ips.iter().enumerate() {
        let other = net::parse(ip).map(net::family).filter(|f| *f != family && !asked.contains(f));
        // All of them are shown with each.
        if let Some(other) = other.filter(|_| !causes.is_full()) {
            causes.invalid(SPEC.field("clusterIPs").index(i), json!(ips), &format!("{other} is not configured on this cluster"));
        }
    }
}

fn external_ips(service: &Value, causes: &mut FieldErrors) {
    let path = SPEC.field("externalIPs");
    for (i, ip) in shape::texts(service, "externalIPs").into_iter().enumerate() {
        let errors = net::ip(ip);
        let errors = if errors.is_empty() { net::endpoint_ip(ip) } else { errors };
        well_formed(ip, errors, path.index(i), causes);
    }
}

fn node_ports(service: &Value, causes: &mut FieldErrors) {
    let path = SPEC.field("ports");
    for (i, _) in shape::ports(service).iter().enumerate().filter(|(_, port)| shape::node_port(port) != 0) {
        if shape::kind(service) == "ClusterIP" {
            causes.forbidden(path.index(i).field("nodePort"), "may not be used when `type` is 'ClusterIP'");
        }
    }
}

/// Node ports that two ports ask for.
fn twice(service: &Value, causes: &mut FieldErrors) {
    let (path, mut seen) = (SPEC.field("ports"), BTreeSet::new());
    for (i, port) in shape::ports(service).iter().enumerate() {
        let number = shape::node_port(port);
        if number != 0 && !seen.insert((port.text("protocol"), number)) {
            causes.duplicate(path.index(i).field("nodePort"), number);
        }
    }
}

fn source_ranges(service: &Value, causes: &mut FieldErrors) {
    const ANNOTATION: &str = "service.beta.kubernetes.io/load-balancer-source-ranges";
    let balanced = shape::kind(service) == "LoadBalancer";
    let ranges = shape::texts(service, "loadBalancerSourceRanges");
    if !ranges.is_empty() {
        // Upstream's path has this capital letter.
        let path = SPEC.field("LoadBalancerSourceRanges");
        if !balanced {
            causes.forbidden(path, ONLY_LOAD_BALANCER);
        }
        for (i, range) in ranges.iter().map(|r| r.trim()).enumerate() {
            well_formed(range, net::cidr(range), path.index(i), causes);
        }
    } else if let Some(text) = service.pointer("/metadata/annotations").at(ANNOTATION).and_then(Value::as_str) {
        let path = Path::new("metadata.annotations");
        let path = path.key(ANNOTATION);
        if !balanced {
            causes.forbidden(path, ONLY_LOAD_BALANCER);
        }
        for range in text.split(',').map(str::trim).filter(|_| !text.trim().is_empty()) {
            well_formed(range, net::cidr(range), path, causes);
        }
    }
}

fn load_balancer(service: &Value, causes: &mut FieldErrors) {
    let spec = shape::spec(service);
    let balanced = shape::kind(service) == "LoadBalancer";
    match spec.at("allocateLoadBalancerNodePorts") {
        Some(_) if !balanced => causes.forbidden(SPEC.field("allocateLoadBalancerNodePorts"), ONLY_LOAD_BALANCER),
        None if balanced => causes.required("allocateLoadBalancerNodePorts", ""),
        _ => {}
    }
    match spec.at("loadBalancerClass").and_then(Value::as_str) {
        Some(_) if !balanced => causes.forbidden(SPEC.field("loadBalancerClass"), ONLY_LOAD_BALANCER),
        Some(class) => well_formed(class, name_rules::qualified(class), SPEC.field("loadBalancerClass"), causes),
        None => {}
    }
}

fn external_traffic(service: &Value, causes: &mut FieldErrors) {
    let policy = shape::spec(service).text("externalTrafficPolicy");
    let path = SPEC.field("externalTrafficPolicy");
    match (shape::is_externally_accessible(service), policy) {
        (false, "") | (true, "Cluster" | "Local") => {}
        (false, _) => causes.invalid(path, policy, "may only be set for externally-accessible services"),
        (true, "") => causes.required(path, ""),
        (true, _) => causes.not_supported(path, policy, &["Cluster", "Local"]),
    }
    let number = shape::health_check_port(service);
    let path = SPEC.field("healthCheckNodePort");
    // Unset is fine here: a number is claimed after validation.
    match shape::needs_health_check(service) {
        true if number != 0 => ports::number(number, path, causes),
        false if number != 0 => {
            causes.invalid(path, number, "may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'");
        }
        _ => {}
    }
}

fn internal_traffic(service: &Value, causes: &mut FieldErrors) {
    let spec = shape::spec(service);
    let path = SPEC.field("internalTrafficPolicy");
    match spec.at("internalTrafficPolicy").and_then(Value::as_str) {
        None if matches!(shape::kind(service), "ClusterIP" | "NodePort" | "LoadBalancer") => causes.required(path, ""),
        None | Some("Cluster" | "Local") => {}
        Some(other) => causes.not_supported(path, other, &["Cluster", "Local"]),
    }
    let known = ["PreferClose", "PreferSameZone", "PreferSameNode"];
    match spec.at("trafficDistribution").and_then(Value::as_str) {
        // In upstream's order.
        Some(other) if !known.contains(&other) => {
            let why = "supported values: \"PreferClose\", \"PreferSameZone\", \"PreferSameNode\"";
            causes.not_supported_as(SPEC.field("trafficDistribution"), other, why);
        }
        _ => {}
    }
}

fn topology_annotations(service: &Value, causes: &mut FieldErrors) {
    const MODE: &str = "service.kubernetes.io/topology-mode";
    const HINTS: &str = "service.kubernetes.io/topology-aware-hints";
    let annotations = service.pointer("/metadata/annotations");
    if let (Some(mode), Some(hints)) = (annotations.at(MODE), annotations.at(HINTS))
        && mode != hints
    {
        let detail = format!("must match annotations[{HINTS}] when both are specified");
        causes.invalid(
            Path::new("metadata.annotations").key(MODE),
            text_at(service, "/metadata/annotations/service.kubernetes.io~1topology-mode"),
            &detail,
        );
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::{defaults, prepare},
        *,
    };

    fn texts(spec: Value) -> Vec<String> {
        let mut object = json!({"metadata": {"name": "web"}, "spec": spec});
        defaults::fill(&mut object);
        prepare::create(&mut object, "IPv4");
        let mut causes = FieldErrors::default();
        changed(&object, "IPv4", &mut causes);
        causes.0.iter().map(|c| c.text()).collect()
    }

    fn one() -> Value {
        json!([{"port": 80}])
    }

    #[test]
    fn what_is_fine_has_no_causes() {
        for spec in [
            json!({"ports": one()}),
            json!({"clusterIP": "None"}),
            json!({"type": "ExternalName", "externalName": "example.com."}),
            json!({"type": "NodePort", "ports": [{"port": 80, "nodePort": 30080}]}),
            json!({"type": "LoadBalancer", "ports": one(), "externalTrafficPolicy": "Local", "loadBalancerSourceRanges": [" 10.0.0.0/8"]}),
            json!({"ports": [{"name": "a", "port": 53, "protocol": "UDP"}, {"name": "b", "port": 53}], "sessionAffinity": "ClientIP"}),
        ] {
            assert_eq!(texts(spec.clone()), Vec::<String>::new(), "{spec}");
        }
    }

    fn check(cases: Vec<(Value, &[&str])>) {
        for (spec, wanted) in cases {
            assert_eq!(texts(spec.clone()), wanted, "{spec}");
        }
    }

    #[test]
    fn each_rule_has_its_words() {
        let cases: Vec<(Value, &[&str])> = vec![
            (json!({}), &["spec.ports: Required value"]),
            (
                json!({"type": "x", "ports": one()}),
                &[r#"spec.type: Unsupported value: "x": supported values: "ClusterIP", "ExternalName", "LoadBalancer", "NodePort""#],
            ),
            (
                json!({"ports": [{"port": 0}]}),
                &[
                    "spec.ports[0].port: Invalid value: 0: must be between 1 and 65535, inclusive",
                    "spec.ports[0].targetPort: Invalid value: 0: must be between 1 and 65535, inclusive",
                ],
            ),
            (json!({"ports": [{"port": 80}, {"port": 81}]}), &["spec.ports[0].name: Required value", "spec.ports[1].name: Required value"]),
            (
                json!({"ports": [{"name": "a", "port": 80}, {"name": "a", "port": 80}]}),
                &[
                    r#"spec.ports[1].name: Duplicate value: "a""#,
                    r#"spec.ports[1]: Duplicate value: {"Name":"","Protocol":"TCP","AppProtocol":null,"Port":80,"TargetPort":0,"NodePort":0}"#,
                ],
            ),
            (
                json!({"ports": [{"port": 80, "nodePort": 30080}]}),
                &["spec.ports[0].nodePort: Forbidden: may not be used when `type` is 'ClusterIP'"],
            ),
            (
                json!({"type": "NodePort", "clusterIP": "None", "ports": one()}),
                &[r#"spec.clusterIPs[0]: Invalid value: "None": may not be set to 'None' for NodePort services"#],
            ),
            (json!({"type": "ExternalName"}), &["spec.externalName: Required value"]),
            (
                json!({"type": "ExternalName", "externalName": "a", "clusterIP": "None"}),
                &["spec.clusterIPs: Forbidden: may not be set for ExternalName services"],
            ),
            (
                json!({"ports": one(), "clusterIP": "10.0.0"}),
                &[r#"spec.clusterIPs[0]: Invalid value: "10.0.0": must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)"#],
            ),
            (
                json!({"ports": one(), "clusterIPs": ["10.96.0.9"]}),
                &[r#"spec.clusterIPs: Invalid value: ["10.96.0.9"]: must be empty when `clusterIP` is not specified"#],
            ),
        ];
        check(cases);
    }

    #[test]
    fn of_a_new_one_addresses_are_told_of_first() {
        let of = |spec: Value| {
            let mut object = json!({"metadata": {"name": "web"}, "spec": spec});
            defaults::fill(&mut object);
            prepare::create(&mut object, "IPv4");
            let mut causes = FieldErrors::default();
            causes.required("metadata.name", "");
            new(&object, "IPv4", &mut causes);
            causes.0.iter().map(|c| c.text()).collect::<Vec<_>>()
        };
        assert_eq!(of(json!({"ipFamilies": ["IPv4", "IPv4"]})), [r#"spec.ipFamilies[1]: Duplicate value: "IPv4""#]);
        let three = r#"["10.96.0.61","fd00::1","10.96.0.62"]"#;
        let clusters = json!({"ports": one(), "clusterIPs": ["10.96.0.61", "fd00::1", "10.96.0.62"]});
        let why = ["must be empty when `clusterIP` is not specified", "may only hold up to 2 values"];
        assert_eq!(of(clusters), why.map(|why| format!("spec.clusterIPs: Invalid value: {three}: {why}")));
        let twice = json!({"type": "NodePort", "ports": [{"name": "a", "port": 1, "nodePort": 30020}, {"name": "b", "port": 2, "nodePort": 30020}]});
        assert_eq!(of(twice.clone()), ["metadata.name: Required value"]);
        assert_eq!(texts(twice), ["spec.ports[1].nodePort: Duplicate value: 30020"]);
    }

    #[test]
    fn each_rule_of_addresses_and_policies_has_its_words() {
        let cases: Vec<(Value, &[&str])> = vec![
            (
                json!({"ports": one(), "ipFamilies": ["IPv6"]}),
                &[r#"spec.ipFamilies[0]: Invalid value: "IPv6": not configured on this cluster"#],
            ),
            (
                json!({"ports": one(), "ipFamilyPolicy": "RequireDualStack"}),
                &[r#"spec.ipFamilyPolicy: Invalid value: "RequireDualStack": this cluster is not configured for dual-stack services"#],
            ),
            (
                json!({"ports": one(), "sessionAffinity": "ClientIP", "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 0}}}),
                &["spec.sessionAffinityConfig.clientIP.timeoutSeconds: Invalid value: 0: must be greater than 0 and less than 86400"],
            ),
            (
                json!({"ports": one(), "externalTrafficPolicy": "Local"}),
                &[r#"spec.externalTrafficPolicy: Invalid value: "Local": may only be set for externally-accessible services"#],
            ),
            (
                json!({"ports": one(), "externalIPs": ["127.0.0.1"]}),
                &[r#"spec.externalIPs[0]: Invalid value: "127.0.0.1": may not be in the loopback range (127.0.0.0/8, ::1/128)"#],
            ),
            (
                json!({"ports": one(), "loadBalancerClass": "a/b"}),
                &["spec.loadBalancerClass: Forbidden: may only be used when `type` is 'LoadBalancer'"],
            ),
            (
                json!({"ports": one(), "healthCheckNodePort": 30000}),
                &[
                    "spec.healthCheckNodePort: Invalid value: 30000: may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'",
                ],
            ),
        ];
        check(cases);
    }

    #[test]
    fn warnings_say_what_is_ignored() {
        let object = json!({"spec": {"type": "ClusterIP", "clusterIPs": ["None"], "sessionAffinity": "ClientIP", "externalIPs": ["10.1.1.1"], "externalName": "x"}});
        assert_eq!(warnings(&object).len(), 3, "{:?}", warnings(&object));
        assert!(warnings(&json!({"spec": {"type": "ClusterIP"}})).is_empty());
    }
}
