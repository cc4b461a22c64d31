//! Service ports of one service -> its share of the rules. Pure. Source of the rules: upstream `pkg/proxy/iptables/proxier.go`.

use std::collections::BTreeMap;

use ipnet::IpNet;

use super::names;
use crate::model::{Endpoint, NodeNetwork, Policy, ServicePort};

/// Chains that all services write into.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Shared {
    NatServices,
    NatNodePorts,
    FilterServices,
    FilterExternal,
    FilterNodePorts,
    FilterFirewall,
}

/// One service's rules: lines for the shared chains, and chains of its own (all in the table nat).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fragment {
    pub shared: BTreeMap<Shared, Vec<String>>,
    pub chains: BTreeMap<String, Vec<String>>,
}

/// One service port with what is worked out once.
struct Writer<'a> {
    service_port: &'a ServicePort,
    node_network: &'a NodeNetwork,
    out: &'a mut Fragment,
    has_internal: bool,
    has_external: bool,
}

impl Fragment {
    pub fn of(service_ports: &[ServicePort], node_network: &NodeNetwork) -> Self {
        let mut out = Self::default();
        for service_port in service_ports {
            Writer::new(service_port, node_network, &mut out).write();
        }
        out
    }

    fn share(&mut self, chain: Shared, line: String) {
        self.shared.entry(chain).or_default().push(line);
    }

    fn own(&mut self, chain: &str, line: String) {
        self.chains.entry(chain.to_owned()).or_default().push(line);
    }
}

impl<'a> Writer<'a> {
    fn new(service_port: &'a ServicePort, node_network: &'a NodeNetwork, out: &'a mut Fragment) -> Self {
        let has = |policy: Policy| service_port.backends.any && (policy == Policy::Cluster || !service_port.backends.local.is_empty());
        Self { service_port, node_network, out, has_internal: has(service_port.internal), has_external: has(service_port.external) }
    }

    fn write(&mut self) {
        self.capture_cluster_ip();
        self.capture_external_ips();
        self.capture_balancer_ips();
        self.capture_node_port();
        if let Some(port) = self.service_port.health_port {
            let line = format!(
                "-m comment --comment \"{} health check node port\" -m tcp -p tcp --dport {port} -j ACCEPT",
                self.service_port.name
            );
            self.out.share(Shared::FilterNodePorts, line);
        }
        self.internal_chain();
        if self.service_port.backends.any && self.service_port.is_external() {
            self.external_chain();
        }
        if self.uses_firewall() {
            self.firewall_chain();
        }
        self.policy_chains();
        for endpoint in self.service_port.reachable() {
            self.endpoint_chain(endpoint);
        }
    }

    fn capture_cluster_ip(&mut self) {
        let to = self.to(&self.service_port.cluster_ip.to_string());
        if self.has_internal {
            let line = format!("{}{to} -j {}", self.comment("cluster IP"), self.internal_name());
            return self.out.share(Shared::NatServices, line);
        }
        let line = format!("{}{to} -j {}", self.why_not(), self.verdict());
        self.out.share(Shared::FilterServices, line);
    }

    fn capture_external_ips(&mut self) {
        for ip in &self.service_port.external_ips {
            let to = self.to(&ip.to_string());
            if self.service_port.backends.any {
                let line = format!("{}{to} -j {}", self.comment("external IP"), names::external(self.service_port));
                self.out.share(Shared::NatServices, line);
            }
            self.refuse_external(&to);
        }
    }

    fn capture_balancer_ips(&mut self) {
        for ip in &self.service_port.balancer_ips {
            let to = self.to(&ip.to_string());
            if self.service_port.backends.any {
                let chain = if self.uses_firewall() { names::firewall(self.service_port) } else { names::external(self.service_port) };
                let line = format!("{}{to} -j {chain}", self.comment("loadbalancer IP"));
                self.out.share(Shared::NatServices, line);
            }
            if self.uses_firewall() {
                let what = format!("traffic not accepted by {}", names::firewall(self.service_port));
                let line = format!("{}{to} -j DROP", self.comment(&what));
                self.out.share(Shared::FilterFirewall, line);
            }
            self.refuse_external(&to);
        }
    }

    fn capture_node_port(&mut self) {
        let Some(node_port) = self.service_port.node_port else { return };
        let protocol = self.service_port.protocol.word();
        if self.service_port.backends.any {
            let line = format!(
                "-m comment --comment {} -m {protocol} -p {protocol} --dport {node_port} -j {}",
                self.service_port.name,
                names::external(self.service_port)
            );
            self.out.share(Shared::NatNodePorts, line);
        }
        self.refuse_external(&format!(" -m addrtype --dst-type LOCAL -m {protocol} -p {protocol} --dport {node_port}"));
    }

    fn refuse_external(&mut self, to: &str) {
        if !self.has_external {
            let line = format!("{}{to} -j {}", self.why_not(), self.verdict());
            self.out.share(Shared::FilterExternal, line);
        }
    }

    /// Traffic from outside the cluster to the cluster IP may be answered by another node: it is masqueraded.
    fn internal_chain(&mut self) {
        if let (true, Some(cidr)) = (self.has_internal, self.node_network.cluster_cidr) {
            let to = self.to(&self.service_port.cluster_ip.to_string());
            let line = format!("{}{to} ! -s {cidr} -j KUBE-MARK-MASQ", self.comment("cluster IP"));
            self.out.own(&self.internal_name(), line);
        }
    }

    fn external_chain(&mut self) {
        let chain = names::external(self.service_port);
        let cluster = names::cluster(self.service_port);
        if self.service_port.external == Policy::Cluster {
            let line = format!("{} -j KUBE-MARK-MASQ", self.for_external("masquerade traffic"));
            self.out.own(&chain, line);
        } else {
            if let Some(cidr) = self.node_network.cluster_cidr {
                let line = format!("{} -s {cidr} -j {cluster}", self.for_external("pod traffic"));
                self.out.own(&chain, line);
            }
            let line = format!("{} -m addrtype --src-type LOCAL -j KUBE-MARK-MASQ", self.for_external("masquerade LOCAL traffic"));
            self.out.own(&chain, line);
            let line = format!("{} -m addrtype --src-type LOCAL -j {cluster}", self.for_external("route LOCAL traffic"));
            self.out.own(&chain, line);
            // The chain is jumped to, so it must be there.
            self.out.chains.entry(cluster.clone()).or_default();
        }
        if self.has_external {
            let to = if self.service_port.external == Policy::Local { names::local(self.service_port) } else { cluster };
            self.out.own(&chain, format!("-j {to}"));
        }
    }

    fn firewall_chain(&mut self) {
        let (chain, external) = (names::firewall(self.service_port), names::external(self.service_port));
        let comment = self.comment("loadbalancer IP");
        for range in &self.service_port.source_ranges {
            self.out.own(&chain, format!("{comment} -s {range} -j {external}"));
        }
        // A balancer's address may stand on this node: its own traffic then comes from that address.
        if self.service_port.source_ranges.iter().any(|range| self.node_network.node_ips.iter().any(|ip| range.contains(ip))) {
            for ip in &self.service_port.balancer_ips {
                self.out.own(&chain, format!("{comment} -s {} -j {external}", IpNet::from(*ip)));
            }
        }
        let rest = format!("-m comment --comment \"other traffic to {} will be dropped by KUBE-PROXY-FIREWALL\"", self.service_port.name);
        self.out.own(&chain, rest);
    }

    fn policy_chains(&mut self) {
        let service_port = self.service_port;
        if service_port.uses_cluster() && !service_port.backends.cluster.is_empty() {
            self.spread(&names::cluster(service_port), &service_port.backends.cluster);
        }
        if service_port.uses_local() && !service_port.backends.local.is_empty() {
            self.spread(&names::local(service_port), &service_port.backends.local);
        }
    }

    /// Rules that give each endpoint an equal share; a client that has been here goes back to its endpoint first.
    fn spread(&mut self, chain: &str, endpoints: &[Endpoint]) {
        for endpoint in endpoints.iter().filter(|_| self.service_port.affinity_seconds.is_some()) {
            let (to, seconds) = (names::endpoint(self.service_port, *endpoint), self.service_port.affinity_seconds.unwrap_or_default());
            let line = format!("{} -m recent --name {to} --rcheck --seconds {seconds} --reap -j {to}", self.arrow(*endpoint));
            self.out.own(chain, line);
        }
        for (i, endpoint) in endpoints.iter().enumerate() {
            let left = endpoints.len() - i;
            let chance = if left > 1 { format!(" -m statistic --mode random --probability {}", probability(left)) } else { String::new() };
            let line = format!("{}{chance} -j {}", self.arrow(*endpoint), names::endpoint(self.service_port, *endpoint));
            self.out.own(chain, line);
        }
    }

    fn endpoint_chain(&mut self, endpoint: Endpoint) {
        let (chain, protocol) = (names::endpoint(self.service_port, endpoint), self.service_port.protocol.word());
        let comment = format!("-m comment --comment {}", self.service_port.name);
        // A pod that reaches itself through its service must see another source, or it would answer itself.
        self.out.own(&chain, format!("{comment} -s {} -j KUBE-MARK-MASQ", endpoint.ip));
        let recent = if self.service_port.affinity_seconds.is_some() { format!(" -m recent --name {chain} --set") } else { String::new() };
        self.out.own(&chain, format!("{comment}{recent} -m {protocol} -p {protocol} -j DNAT --to-destination {endpoint}"));
    }

    fn uses_firewall(&self) -> bool {
        self.service_port.backends.any && !self.service_port.balancer_ips.is_empty() && !self.service_port.source_ranges.is_empty()
    }

    fn internal_name(&self) -> String {
        if self.service_port.internal == Policy::Local { names::local(self.service_port) } else { names::cluster(self.service_port) }
    }

    fn to(&self, ip: &str) -> String {
        let protocol = self.service_port.protocol.word();
        format!(" -m {protocol} -p {protocol} -d {ip} --dport {}", self.service_port.port)
    }

    fn comment(&self, what: &str) -> String {
        format!("-m comment --comment \"{} {what}\"", self.service_port.name)
    }

    fn for_external(&self, what: &str) -> String {
        format!("-m comment --comment \"{what} for {} external destinations\"", self.service_port.name)
    }

    fn arrow(&self, endpoint: Endpoint) -> String {
        format!("-m comment --comment \"{} -> {endpoint}\"", self.service_port.name)
    }

    fn why_not(&self) -> String {
        self.comment(if self.service_port.backends.any { "has no local endpoints" } else { "has no endpoints" })
    }

    /// Nothing anywhere: say so. Nothing here: another node might be asked.
    fn verdict(&self) -> &'static str {
        if self.service_port.backends.any { "DROP" } else { "REJECT" }
    }
}

/// `0.5000000000`
fn probability(of: usize) -> String {
    #[allow(clippy::cast_precision_loss)]
    let chance = 1.0 / of as f64;
    format!("{chance:.10}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        family::Family,
        model::{Node, service_ports},
        testing::{service, slice},
    };
    use serde_json::{Value, json};

    fn fragment(spec: Value, endpoints: &[&str]) -> Fragment {
        let node = Node { name: "n1".into(), ..Node::default() };
        let node_network = NodeNetwork {
            cluster_cidr: Some("10.0.0.0/8".parse().unwrap()),
            node_ips: vec!["192.0.2.2".parse().unwrap()],
            ..NodeNetwork::of(Family::V4)
        };
        let slices = [slice("ns1/svc1", "p80", "TCP", 80, endpoints)];
        Fragment::of(&service_ports(&service("ns1/svc1", spec), slices.iter(), &node, Family::V4), &node_network)
    }

    fn port(more: Value) -> Value {
        let mut spec = json!({"clusterIP": "172.30.0.41", "ports": [{"name": "p80", "port": 80}]});
        let node_port = more.get("nodePort").cloned();
        for (key, value) in more.as_object().unwrap().iter().filter(|(k, _)| *k != "nodePort") {
            spec[key] = value.clone();
        }
        if let Some(port) = node_port {
            spec["ports"][0]["nodePort"] = port;
        }
        spec
    }

    fn shows(fragment: &Fragment, wanted: &str) {
        let mut text = String::new();
        for (chain, lines) in &fragment.shared {
            lines.iter().for_each(|line| text.push_str(&format!("{chain:?} {line}\n")));
        }
        for (chain, lines) in &fragment.chains {
            lines.iter().for_each(|line| text.push_str(&format!("{chain} {line}\n")));
        }
        assert_eq!(text, wanted);
    }

    #[test]
    fn a_cluster_ip_with_two_endpoints() {
        let text = r#"NatServices -m comment --comment "ns1/svc1:p80 cluster IP" -m tcp -p tcp -d 172.30.0.41 --dport 80 -j KUBE-SVC-XPGD46QRK7WJZT7O
KUBE-SEP-SXIVWICOYRO3J4NJ -m comment --comment ns1/svc1:p80 -s 10.180.0.1 -j KUBE-MARK-MASQ
KUBE-SEP-SXIVWICOYRO3J4NJ -m comment --comment ns1/svc1:p80 -m tcp -p tcp -j DNAT --to-destination 10.180.0.1:80
KUBE-SEP-ZX7GRIZKSNUQ3LAJ -m comment --comment ns1/svc1:p80 -s 10.180.2.1 -j KUBE-MARK-MASQ
KUBE-SEP-ZX7GRIZKSNUQ3LAJ -m comment --comment ns1/svc1:p80 -m tcp -p tcp -j DNAT --to-destination 10.180.2.1:80
KUBE-SVC-XPGD46QRK7WJZT7O -m comment --comment "ns1/svc1:p80 cluster IP" -m tcp -p tcp -d 172.30.0.41 --dport 80 ! -s 10.0.0.0/8 -j KUBE-MARK-MASQ
KUBE-SVC-XPGD46QRK7WJZT7O -m comment --comment "ns1/svc1:p80 -> 10.180.0.1:80" -m statistic --mode random --probability 0.5000000000 -j KUBE-SEP-SXIVWICOYRO3J4NJ
KUBE-SVC-XPGD46QRK7WJZT7O -m comment --comment "ns1/svc1:p80 -> 10.180.2.1:80" -j KUBE-SEP-ZX7GRIZKSNUQ3LAJ
"#;
        shows(&fragment(port(json!({})), &["10.180.0.1@n1", "10.180.2.1@n2"]), text);
    }

    #[test]
    fn a_cluster_ip_of_ipv6_is_written_in_its_own_words() {
        let spec = json!({"clusterIP": "fd00:96::1", "ports": [{"name": "p80", "port": 80}]});
        let slices = [slice("ns1/svc1", "p80", "TCP", 80, &["fd00::1@n1"])];
        let node_network = NodeNetwork { cluster_cidr: Some("fd00::/48".parse().unwrap()), ..NodeNetwork::of(Family::V6) };
        let of = |family| service_ports(&service("ns1/svc1", spec.clone()), slices.iter(), &Node::default(), family);
        let text = r#"NatServices -m comment --comment "ns1/svc1:p80 cluster IP" -m tcp -p tcp -d fd00:96::1 --dport 80 -j KUBE-SVC-XPGD46QRK7WJZT7O
KUBE-SEP-ENDPOINT -m comment --comment ns1/svc1:p80 -s fd00::1 -j KUBE-MARK-MASQ
KUBE-SEP-ENDPOINT -m comment --comment ns1/svc1:p80 -m tcp -p tcp -j DNAT --to-destination [fd00::1]:80
KUBE-SVC-XPGD46QRK7WJZT7O -m comment --comment "ns1/svc1:p80 cluster IP" -m tcp -p tcp -d fd00:96::1 --dport 80 ! -s fd00::/48 -j KUBE-MARK-MASQ
KUBE-SVC-XPGD46QRK7WJZT7O -m comment --comment "ns1/svc1:p80 -> [fd00::1]:80" -j KUBE-SEP-ENDPOINT
"#;
        let chain = names::endpoint(&of(Family::V6)[0], crate::testing::addr("[fd00::1]:80"));
        shows(&Fragment::of(&of(Family::V6), &node_network), &text.replace("KUBE-SEP-ENDPOINT", &chain));
        assert_eq!(Fragment::of(&of(Family::V4), &NodeNetwork::of(Family::V4)), Fragment::default());
    }

    #[test]
    fn without_endpoints_everything_is_rejected() {
        let text = r#"FilterServices -m comment --comment "ns1/svc1:p80 has no endpoints" -m tcp -p tcp -d 172.30.0.41 --dport 80 -j REJECT
FilterExternal -m comment --comment "ns1/svc1:p80 has no endpoints" -m tcp -p tcp -d 1.2.3.4 --dport 80 -j REJECT
FilterExternal -m comment --comment "ns1/svc1:p80 has no endpoints" -m addrtype --dst-type LOCAL -m tcp -p tcp --dport 3001 -j REJECT
"#;
        shows(&fragment(port(json!({"nodePort": 3001, "externalIPs": ["1.2.3.4"]})), &[]), text);
    }

    #[test]
    fn an_external_policy_local_drops_where_nothing_is_local_but_serves_the_cluster() {
        let spec = port(json!({"nodePort": 3001, "externalTrafficPolicy": "Local"}));
        let text = r#"NatServices -m comment --comment "ns1/svc1:p80 cluster IP" -m tcp -p tcp -d 172.30.0.41 --dport 80 -j KUBE-SVC-XPGD46QRK7WJZT7O
NatNodePorts -m comment --comment ns1/svc1:p80 -m tcp -p tcp --dport 3001 -j KUBE-EXT-XPGD46QRK7WJZT7O
FilterExternal -m comment --comment "ns1/svc1:p80 has no local endpoints" -m addrtype --dst-type LOCAL -m tcp -p tcp --dport 3001 -j DROP
KUBE-EXT-XPGD46QRK7WJZT7O -m comment --comment "pod traffic for ns1/svc1:p80 external destinations" -s 10.0.0.0/8 -j KUBE-SVC-XPGD46QRK7WJZT7O
KUBE-EXT-XPGD46QRK7WJZT7O -m comment --comment "masquerade LOCAL traffic for ns1/svc1:p80 external destinations" -m addrtype --src-type LOCAL -j KUBE-MARK-MASQ
KUBE-EXT-XPGD46QRK7WJZT7O -m comment --comment "route LOCAL traffic for ns1/svc1:p80 external destinations" -m addrtype --src-type LOCAL -j KUBE-SVC-XPGD46QRK7WJZT7O
KUBE-SEP-SXIVWICOYRO3J4NJ -m comment --comment ns1/svc1:p80 -s 10.180.0.1 -j KUBE-MARK-MASQ
KUBE-SEP-SXIVWICOYRO3J4NJ -m comment --comment ns1/svc1:p80 -m tcp -p tcp -j DNAT --to-destination 10.180.0.1:80
KUBE-SVC-XPGD46QRK7WJZT7O -m comment --comment "ns1/svc1:p80 cluster IP" -m tcp -p tcp -d 172.30.0.41 --dport 80 ! -s 10.0.0.0/8 -j KUBE-MARK-MASQ
KUBE-SVC-XPGD46QRK7WJZT7O -m comment --comment "ns1/svc1:p80 -> 10.180.0.1:80" -j KUBE-SEP-SXIVWICOYRO3J4NJ
"#;
        shows(&fragment(spec, &["10.180.0.1@n2"]), text);
    }

    #[test]
    fn an_internal_policy_local_drops_where_nothing_is_local() {
        let spec = port(json!({"internalTrafficPolicy": "Local"}));
        let text = r#"FilterServices -m comment --comment "ns1/svc1:p80 has no local endpoints" -m tcp -p tcp -d 172.30.0.41 --dport 80 -j DROP
"#;
        shows(&fragment(spec.clone(), &["10.180.0.1@n2"]), text);
        let here = fragment(spec, &["10.180.0.1@n2", "10.180.0.2@n1"]);
        assert!(here.chains.contains_key("KUBE-SVL-XPGD46QRK7WJZT7O"));
        assert_eq!(here.chains.keys().filter(|c| c.starts_with("KUBE-SEP-")).count(), 1);
    }

    #[test]
    fn affinity_remembers_the_client() {
        let spec = port(json!({"sessionAffinity": "ClientIP", "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 60}}}));
        let fragment = fragment(spec, &["10.180.0.1@n1"]);
        let chain = &fragment.chains["KUBE-SVC-XPGD46QRK7WJZT7O"];
        assert!(chain[1].ends_with("-m recent --name KUBE-SEP-SXIVWICOYRO3J4NJ --rcheck --seconds 60 --reap -j KUBE-SEP-SXIVWICOYRO3J4NJ"));
        let endpoint = &fragment.chains["KUBE-SEP-SXIVWICOYRO3J4NJ"][1];
        assert!(endpoint.contains("-m recent --name KUBE-SEP-SXIVWICOYRO3J4NJ --set -m tcp -p tcp -j DNAT"));
    }

    #[test]
    fn source_ranges_guard_the_balancer() {
        let spec = port(json!({"loadBalancerSourceRanges": ["192.0.2.0/24"], "type": "LoadBalancer", "nodePort": 3001}));
        let mut service = service("ns1/svc1", spec);
        service.status =
            serde_json::from_value(json!({"loadBalancer": {"ingress": [{"ip": "5.6.7.8"}, {"ip": "5.6.7.9", "ipMode": "Proxy"}]}})).ok();
        let node_network = NodeNetwork { cluster_cidr: None, node_ips: vec!["192.0.2.2".parse().unwrap()], ..NodeNetwork::of(Family::V4) };
        let slices = [slice("ns1/svc1", "p80", "TCP", 80, &["10.180.0.1@n1"])];
        let fragment = Fragment::of(&service_ports(&service, slices.iter(), &Node::default(), Family::V4), &node_network);
        let firewall = &fragment.chains["KUBE-FW-XPGD46QRK7WJZT7O"];
        assert!(firewall[0].ends_with("-s 192.0.2.0/24 -j KUBE-EXT-XPGD46QRK7WJZT7O"));
        assert!(firewall[1].ends_with("-s 5.6.7.8/32 -j KUBE-EXT-XPGD46QRK7WJZT7O"));
        assert_eq!(fragment.shared[&Shared::FilterFirewall].len(), 1);
        assert!(fragment.shared[&Shared::NatServices][1].ends_with("-d 5.6.7.8 --dport 80 -j KUBE-FW-XPGD46QRK7WJZT7O"));
    }
}
