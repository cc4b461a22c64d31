//! One service -> its service ports. Source: upstream `pkg/proxy/serviceport.go`, `servicechangetracker.go`.

use std::net::IpAddr;

use api::k8s::api::{
    core::v1::{self, Service, ServiceSpec},
    discovery::v1::EndpointSlice,
};
use ipnet::IpNet;

use super::{Node, Policy, ServicePort, backends, protocol_of};
use crate::family::Family;

/// Another proxy serves services with this label.
const PROXY_NAME: &str = "service.kubernetes.io/service-proxy-name";
/// Upstream's default, in seconds.
const AFFINITY_SECONDS: u32 = 10_800;

/// The service ports of a service; none for headless and ExternalName services, and none where it has no address of the family.
pub fn service_ports<'a>(
    service: &Service,
    slices: impl Iterator<Item = &'a EndpointSlice> + Clone,
    node: &Node,
    family: Family,
) -> Vec<ServicePort> {
    let Some(spec) = &service.spec else { return Vec::new() };
    let elsewhere = service.metadata.labels.as_ref().is_some_and(|l| l.contains_key(PROXY_NAME));
    let Some(cluster_ip) = cluster_ip(spec, family).filter(|ip| !elsewhere && !node.answered_here.contains(ip)) else {
        return Vec::new();
    };
    let ports = spec.ports.iter().flatten();
    ports.filter_map(|port| service_port(service, spec, port, cluster_ip, slices.clone(), node)).collect()
}

/// The service's address of the family, if it has one (`None` and the empty string are words for having none). Source: `GetClusterIPByFamily`.
fn cluster_ip(spec: &ServiceSpec, family: Family) -> Option<IpAddr> {
    if spec.type_.as_deref() == Some("ExternalName") {
        return None;
    }
    let all = spec.cluster_ips.iter().flatten().chain(&spec.cluster_ip);
    all.filter_map(|ip| ip.parse().ok()).find(|ip| Family::of(*ip) == family)
}

fn service_port<'a>(
    service: &Service,
    spec: &ServiceSpec,
    port: &v1::ServicePort,
    cluster_ip: IpAddr,
    slices: impl Iterator<Item = &'a EndpointSlice>,
    node: &Node,
) -> Option<ServicePort> {
    let protocol = protocol_of(port.protocol.as_deref())?;
    let (port_name, family) = (port.name.as_deref().unwrap_or(""), Family::of(cluster_ip));
    Some(ServicePort {
        name: name(service, port_name),
        protocol,
        cluster_ip,
        port: number(Some(port.port))?,
        node_port: number(port.node_port),
        external_ips: family.pick(spec.external_ips.iter().flatten().filter_map(|ip| ip.parse().ok())),
        balancer_ips: balancer_ips(service, family),
        source_ranges: source_ranges(spec, family),
        affinity_seconds: affinity(spec),
        internal: policy(spec.internal_traffic_policy.as_deref()),
        external: policy(spec.external_traffic_policy.as_deref()),
        health_port: number(spec.health_check_node_port),
        backends: backends::of_port(slices, port_name, protocol, node, family),
    })
}

fn name(service: &Service, port: &str) -> String {
    let (namespace, name) = (service.metadata.namespace.as_deref().unwrap_or(""), service.metadata.name.as_deref().unwrap_or(""));
    if port.is_empty() { format!("{namespace}/{name}") } else { format!("{namespace}/{name}:{port}") }
}

fn number(port: Option<i32>) -> Option<u16> {
    port.and_then(|p| u16::try_from(p).ok()).filter(|p| *p != 0)
}

fn policy(word: Option<&str>) -> Policy {
    if word == Some("Local") { Policy::Local } else { Policy::Cluster }
}

/// Those that packets arrive with as their destination (`ipMode` VIP).
fn balancer_ips(service: &Service, family: Family) -> Vec<IpAddr> {
    let balancer = service.status.as_ref().and_then(|s| s.load_balancer.as_ref());
    let ingress = balancer.and_then(|b| b.ingress.as_ref()).into_iter().flatten();
    let vips = ingress.filter(|i| i.ip_mode.as_deref().is_none_or(|mode| mode == "VIP"));
    family.pick(vips.filter_map(|i| i.ip.as_deref()?.parse().ok()))
}

fn source_ranges(spec: &ServiceSpec, family: Family) -> Vec<IpNet> {
    let ranges = spec.load_balancer_source_ranges.iter().flatten();
    ranges.filter_map(|r| r.trim().parse::<IpNet>().ok()).filter(|net| Family::of_net(*net) == family).map(|n| n.trunc()).collect()
}

fn affinity(spec: &ServiceSpec) -> Option<u32> {
    if spec.session_affinity.as_deref() != Some("ClientIP") {
        return None;
    }
    let seconds = spec.session_affinity_config.as_ref().and_then(|c| c.client_ip.as_ref()?.timeout_seconds);
    Some(seconds.and_then(|s| u32::try_from(s).ok()).unwrap_or(AFFINITY_SECONDS))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Protocol;
    use crate::testing::{addr, service, slice, with};
    use api::k8s::api::discovery::v1::{EndpointConditions, EndpointHints, ForNode, ForZone};
    use serde_json::json;

    fn node() -> Node {
        Node { name: "n1".into(), zone: "z1".into(), answered_here: vec!["10.96.0.10".parse().unwrap()], vxlan_port: None }
    }

    fn only(service: &Service, slices: &[EndpointSlice]) -> ServicePort {
        let mut all = service_ports(service, slices.iter(), &node(), Family::V4);
        assert_eq!(all.len(), 1);
        all.remove(0)
    }

    #[test]
    fn services_without_a_service_port() {
        let cases = [
            json!({"clusterIP": "None", "ports": [{"port": 80}]}),
            json!({"clusterIP": "", "ports": [{"port": 80}]}),
            json!({"type": "ExternalName", "externalName": "x.y", "ports": [{"port": 80}]}),
            json!({"clusterIP": "fd00::1", "ports": [{"port": 80}]}),
            json!({"clusterIP": "10.96.0.10", "ports": [{"port": 53}]}),
        ];
        for spec in cases {
            assert!(service_ports(&service("d/s", spec.clone()), [].iter(), &node(), Family::V4).is_empty(), "{spec}");
        }
        let mut foreign = service("d/s", json!({"clusterIP": "10.96.0.1", "ports": [{"port": 80}]}));
        foreign.metadata.labels = Some([(PROXY_NAME.to_owned(), "x".to_owned())].into());
        assert!(service_ports(&foreign, [].iter(), &node(), Family::V4).is_empty());
    }

    /// What each family gets of a service: addresses, and endpoints from the slices of that family alone.
    #[test]
    fn each_family_has_its_own_service_ports() {
        let slices =
            [slice("d/s", "", "TCP", 8080, &["10.0.0.1@n1", "10.0.0.2@n2"]), slice("d/s", "", "TCP", 8080, &["fd00::1@n2", "fd00::2@n1"])];
        let six = json!({"clusterIP": "fd00:96::1", "clusterIPs": ["fd00:96::1"], "ipFamilies": ["IPv6"], "ports": [{"port": 80}]});
        let both = json!({
            "clusterIP": "10.96.0.1", "clusterIPs": ["10.96.0.1", "fd00:96::1"], "ipFamilies": ["IPv4", "IPv6"], "type": "LoadBalancer",
            "externalIPs": ["2001:db8::9", "192.0.2.9"], "loadBalancerSourceRanges": ["2001:db8::/32", " 198.51.100.0/24"], "ports": [{"port": 80}],
        });
        let four = json!({"clusterIP": "10.96.0.1", "ports": [{"port": 80}]});
        type Texts = Vec<&'static str>;
        // Cluster IP, external IPs, balancer's addresses, source ranges, endpoints of the policies Cluster and Local.
        type Wanted = Option<(&'static str, Texts, Texts, Texts, Texts, Texts)>;
        let only_six: Wanted =
            Some(("fd00:96::1", vec![], vec!["2001:db8::8"], vec![], vec!["[fd00::1]:8080", "[fd00::2]:8080"], vec!["[fd00::2]:8080"]));
        let only_four: Wanted =
            Some(("10.96.0.1", vec![], vec!["192.0.2.8"], vec![], vec!["10.0.0.1:8080", "10.0.0.2:8080"], vec!["10.0.0.1:8080"]));
        let with = |wanted: &Wanted, external, range| wanted.clone().map(|w| (w.0, vec![external], w.2, vec![range], w.4, w.5));
        let cases: [(&serde_json::Value, Family, Wanted); 6] = [
            (&six, Family::V6, only_six.clone()),
            (&six, Family::V4, None),
            (&four, Family::V4, only_four.clone()),
            (&four, Family::V6, None),
            (&both, Family::V6, with(&only_six, "2001:db8::9", "2001:db8::/32")),
            (&both, Family::V4, with(&only_four, "192.0.2.9", "198.51.100.0/24")),
        ];
        for (spec, family, wanted) in cases {
            let mut service = service("d/s", spec.clone());
            service.status =
                serde_json::from_value(json!({"loadBalancer": {"ingress": [{"ip": "192.0.2.8"}, {"ip": "2001:db8::8"}]}})).ok();
            let ports = service_ports(&service, slices.iter(), &node(), family);
            let texts = |all: &[std::net::IpAddr]| all.iter().map(ToString::to_string).collect::<Vec<_>>();
            let endpoints = |all: &[crate::model::Endpoint]| all.iter().map(ToString::to_string).collect::<Vec<_>>();
            let came: Vec<_> = ports
                .iter()
                .map(|p| {
                    let ranges: Vec<String> = p.source_ranges.iter().map(ToString::to_string).collect();
                    let (cluster, local) = (endpoints(&p.backends.cluster), endpoints(&p.backends.local));
                    (p.cluster_ip.to_string(), texts(&p.external_ips), texts(&p.balancer_ips), ranges, cluster, local)
                })
                .collect();
            let own = |all: Texts| all.into_iter().map(str::to_owned).collect::<Vec<String>>();
            let wanted: Vec<_> = wanted.into_iter().map(|w| (w.0.to_owned(), own(w.1), own(w.2), own(w.3), own(w.4), own(w.5))).collect();
            assert_eq!(came, wanted, "{family} of {spec}");
        }
    }

    #[test]
    fn a_slice_of_another_family_or_of_names_is_left_out() {
        let service = service("d/s", json!({"clusterIP": "10.96.0.1", "ports": [{"port": 80}]}));
        let mut slices = [slice("d/s", "", "TCP", 80, &["10.0.0.1@n1"]), slice("d/s", "", "TCP", 80, &["10.0.0.2@n1", "fd00::1@n1"])];
        slices[0].address_type = "FQDN".into();
        assert_eq!(
            only(&service, &slices).backends.cluster,
            [addr("10.0.0.2:80")],
            "nor is an address of another family than its slice says"
        );
    }

    #[test]
    fn ports_find_their_endpoints_by_name() {
        let spec = json!({"clusterIP": "10.96.0.1", "ports": [{"name": "a", "port": 80}, {"name": "b", "port": 81, "protocol": "UDP"}]});
        let slices = [slice("d/s", "a", "TCP", 8080, &["10.0.0.1@n1", "10.0.0.2@n2"]), slice("d/s", "b", "UDP", 5353, &["10.0.0.3@n2"])];
        let all = service_ports(&service("d/s", spec), slices.iter(), &node(), Family::V4);
        assert_eq!(all[0].name, "d/s:a");
        assert_eq!(all[0].backends.cluster, [addr("10.0.0.1:8080"), addr("10.0.0.2:8080")]);
        assert_eq!(all[0].backends.local, [addr("10.0.0.1:8080")]);
        assert_eq!((all[1].protocol, &all[1].backends.cluster), (Protocol::Udp, &vec![addr("10.0.0.3:5353")]));
        assert!(all[1].backends.local.is_empty());
    }

    #[test]
    fn leaving_endpoints_serve_only_where_nothing_is_ready() {
        let leaving = EndpointConditions { ready: Some(false), serving: Some(true), terminating: Some(true) };
        let dead = EndpointConditions { ready: Some(false), serving: Some(false), terminating: Some(true) };
        let spec = json!({"clusterIP": "10.96.0.1", "ports": [{"port": 80}]});
        let service = service("d/s", spec);
        let base = slice("d/s", "", "TCP", 80, &["10.0.0.1@n1", "10.0.0.2@n1", "10.0.0.3@n2"]);
        let one = with(&base, |i, e| e.conditions = (i != 2).then(|| if i == 0 { leaving.clone() } else { dead.clone() }));
        let service_port = only(&service, &[one]);
        assert_eq!(service_port.backends.cluster, [addr("10.0.0.3:80")]);
        assert_eq!(service_port.backends.local, [addr("10.0.0.1:80")]);
        let all_leaving = with(&base, |_, e| e.conditions = Some(leaving.clone()));
        assert_eq!(only(&service, &[all_leaving]).backends.cluster.len(), 3);
        let all_dead = with(&base, |_, e| e.conditions = Some(dead.clone()));
        assert!(!only(&service, &[all_dead]).backends.any);
    }

    #[test]
    fn hints_count_only_where_everybody_has_them() {
        let spec = json!({"clusterIP": "10.96.0.1", "ports": [{"port": 80}]});
        let service = service("d/s", spec);
        let base = slice("d/s", "", "TCP", 80, &["10.0.0.1@n1", "10.0.0.2@n2"]);
        let zone = |z: &str| Some(EndpointHints { for_zones: Some(vec![ForZone { name: z.into() }]), for_nodes: None });
        let hinted = with(&base, |i, e| e.hints = zone(if i == 0 { "z2" } else { "z1" }));
        assert_eq!(only(&service, &[hinted]).backends.cluster, [addr("10.0.0.2:80")]);
        let half = with(&base, |i, e| e.hints = if i == 0 { zone("z1") } else { None });
        assert_eq!(only(&service, &[half]).backends.cluster.len(), 2);
        let elsewhere = with(&base, |_, e| e.hints = zone("z9"));
        assert_eq!(only(&service, &[elsewhere]).backends.cluster.len(), 2);
        let by_node = |n: &str| Some(EndpointHints { for_nodes: Some(vec![ForNode { name: n.into() }]), for_zones: None });
        let nodes = with(&base, |i, e| e.hints = by_node(if i == 0 { "n1" } else { "n2" }));
        assert_eq!(only(&service, &[nodes]).backends.cluster, [addr("10.0.0.1:80")]);
    }

    #[test]
    fn an_endpoint_in_two_slices_counts_once() {
        let spec = json!({"clusterIP": "10.96.0.1", "ports": [{"port": 80}]});
        let base = slice("d/s", "", "TCP", 80, &["10.0.0.1@n1"]);
        let unready = with(&base, |_, e| e.conditions = Some(EndpointConditions { ready: Some(false), ..EndpointConditions::default() }));
        assert_eq!(only(&service("d/s", spec), &[unready, base]).backends.cluster, [addr("10.0.0.1:80")]);
    }
}
