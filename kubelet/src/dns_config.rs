//! Pod + node's resolv.conf -> the pod's DNS configuration.
//!
//! Source: `pkg/kubelet/network/dns/dns.go`.

use api::k8s::api::core::v1::{Pod, PodDNSConfig};

use crate::meta;

const SERVERS_MAX: usize = 3;
const SEARCHES_MAX: usize = 32;
const SEARCH_LINE_MAX: usize = 2048;
const SEARCH_MAX: usize = 253;

/// What a resolv.conf says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Dns {
    pub servers: Vec<String>,
    pub searches: Vec<String>,
    /// `ndots:5`, `rotate`.
    pub options: Vec<String>,
}

/// What the node knows of DNS.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Node {
    /// The node's own resolv.conf; `None` where the kubelet is configured without one.
    pub host: Option<Dns>,
    pub cluster_dns: Vec<String>,
    pub cluster_domain: String,
}

/// A pod's configuration, with what becomes Warning events (reason, message) on the pod.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Formed {
    pub dns: Dns,
    pub warnings: Vec<(&'static str, String)>,
}

enum Base {
    Cluster,
    Host,
    Nothing,
}

impl Dns {
    /// Reads a resolv.conf. Servers add up, the last search line wins, options overwrite each other by name.
    pub fn parse(text: &str) -> Self {
        let mut dns = Self::default();
        for line in text.lines().map(str::trim).filter(|l| !l.starts_with('#')) {
            let mut words = line.split_whitespace();
            match words.next() {
                Some("nameserver") => dns.servers.extend(words.next().map(str::to_owned)),
                Some("search") => {
                    let kept = words.filter(|w| *w != ".");
                    dns.searches = kept.map(|w| w.strip_suffix('.').unwrap_or(w).to_owned()).collect();
                }
                Some("options") => words.for_each(|w| set_option(&mut dns.options, w.to_owned())),
                _ => {}
            }
        }
        dns
    }

    fn append(&mut self, config: &PodDNSConfig) {
        self.servers.extend(config.nameservers.iter().flatten().cloned());
        self.searches.extend(config.searches.iter().flatten().cloned());
        dedupe(&mut self.servers);
        dedupe(&mut self.searches);
        for option in config.options.iter().flatten() {
            let name = option.name.clone().unwrap_or_default();
            let text = match option.value.as_deref().filter(|v| !v.is_empty()) {
                Some(value) => format!("{name}:{value}"),
                None => name,
            };
            set_option(&mut self.options, text);
        }
    }
}

/// The configuration of one pod.
pub fn for_pod(node: &Node, pod: &Pod) -> Formed {
    let mut formed = Formed::default();
    formed.dns = match base(pod) {
        Base::Nothing => Dns::default(),
        Base::Host => of_host(node),
        Base::Cluster if !node.cluster_dns.is_empty() => of_cluster(node, pod),
        Base::Cluster => {
            let why = "kubelet does not have ClusterDNS IP configured and cannot create Pod using \"ClusterFirst\" policy. Falling back to \"Default\" policy.";
            formed.warnings.push(("MissingClusterDNS", format!("pod: {:?}. {why}", meta::format(pod))));
            of_host(node)
        }
    };
    if let Some(config) = pod.spec.as_ref().and_then(|s| s.dns_config.as_ref()) {
        formed.dns.append(config);
    }
    limit(&mut formed);
    formed
}

fn base(pod: &Pod) -> Base {
    match pod.spec.as_ref().and_then(|s| s.dns_policy.as_deref()) {
        Some("None") => Base::Nothing,
        Some("Default") => Base::Host,
        Some("ClusterFirstWithHostNet") => Base::Cluster,
        _ if meta::host_network(pod) => Base::Host,
        _ => Base::Cluster,
    }
}

fn of_host(node: &Node) -> Dns {
    // Without a resolv.conf, upstream turns look-ups off by naming the local machine and the root domain.
    let none = || Dns { servers: vec!["127.0.0.1".into()], searches: vec![".".into()], options: Vec::new() };
    node.host.clone().unwrap_or_else(none)
}

fn of_cluster(node: &Node, pod: &Pod) -> Dns {
    let host = node.host.as_ref().map(|h| h.searches.clone()).unwrap_or_default();
    let mut searches = Vec::new();
    if !node.cluster_domain.is_empty() {
        let domain = &node.cluster_domain;
        searches = vec![format!("{}.svc.{domain}", meta::namespace(pod)), format!("svc.{domain}"), domain.clone()];
    }
    searches.extend(host);
    dedupe(&mut searches);
    Dns { servers: node.cluster_dns.clone(), searches, options: vec!["ndots:5".into()] }
}

fn limit(formed: &mut Formed) {
    let dns = &mut formed.dns;
    if dns.servers.len() > SERVERS_MAX {
        dns.servers.truncate(SERVERS_MAX);
        let line = dns.servers.join(" ");
        let text = format!("Nameserver limits were exceeded, some nameservers have been omitted, the applied nameserver line is: {line}");
        formed.warnings.push(("DNSConfigForming", text));
    }
    let before = dns.searches.len();
    dns.searches.truncate(SEARCHES_MAX);
    dns.searches.retain(|s| s.len() <= SEARCH_MAX);
    while dns.searches.join(" ").len() > SEARCH_LINE_MAX {
        dns.searches.pop();
    }
    if dns.searches.len() < before {
        let line = dns.searches.join(" ");
        let text = format!("Search Line limits were exceeded, some search paths have been omitted, the applied search line is: {line}");
        formed.warnings.push(("DNSConfigForming", text));
    }
}

fn set_option(options: &mut Vec<String>, option: String) {
    let name = |o: &str| o.split(':').next().unwrap_or_default().to_owned();
    match options.iter_mut().find(|o| name(o) == name(&option)) {
        Some(same) => *same = option,
        None => options.push(option),
    }
}

fn dedupe(list: &mut Vec<String>) {
    let mut seen = std::collections::HashSet::new();
    list.retain(|item| seen.insert(item.clone()));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::container_config::testing::pod;

    fn node() -> Node {
        let host = Dns::parse("# x\nnameserver 8.8.8.8\nsearch old\nsearch corp. example.com .\noptions ndots:1 rotate ndots:2\n");
        Node { host: Some(host), cluster_dns: vec!["10.96.0.10".into()], cluster_domain: "cluster.local".into() }
    }

    #[test]
    fn resolv_conf_is_read_as_upstream_reads_it() {
        let host = node().host.unwrap();
        assert_eq!(host.servers, ["8.8.8.8"]);
        assert_eq!(host.searches, ["corp", "example.com"]);
        assert_eq!(host.options, ["ndots:2", "rotate"]);
    }

    #[test]
    fn each_policy_has_its_base() {
        let of = |spec: &str| for_pod(&node(), &pod(spec)).dns;
        let cluster = Dns {
            servers: vec!["10.96.0.10".into()],
            searches: ["default.svc.cluster.local", "svc.cluster.local", "cluster.local", "corp", "example.com"].map(String::from).into(),
            options: vec!["ndots:5".into()],
        };
        let host = node().host.unwrap();
        assert_eq!(of(r#"{"containers":[],"dnsPolicy":"ClusterFirst"}"#), cluster);
        assert_eq!(of(r#"{"containers":[],"dnsPolicy":"ClusterFirst","hostNetwork":true}"#), host);
        assert_eq!(of(r#"{"containers":[],"dnsPolicy":"ClusterFirstWithHostNet","hostNetwork":true}"#), cluster);
        assert_eq!(of(r#"{"containers":[],"dnsPolicy":"Default"}"#), host);
        assert_eq!(of(r#"{"containers":[],"dnsPolicy":"None"}"#), Dns::default());
    }

    #[test]
    fn the_pods_own_config_is_merged() {
        let spec = r#"{"containers":[],"dnsPolicy":"ClusterFirst","dnsConfig":{"nameservers":["1.1.1.1","10.96.0.10"],
            "searches":["corp","mine"],"options":[{"name":"ndots","value":"2"},{"name":"edns0"}]}}"#;
        let dns = for_pod(&node(), &pod(spec)).dns;
        assert_eq!(dns.servers, ["10.96.0.10", "1.1.1.1"]);
        assert_eq!(dns.searches.last().unwrap(), "mine");
        assert_eq!(dns.options, ["ndots:2", "edns0"]);
    }

    #[test]
    fn too_much_is_cut_and_told() {
        let spec = r#"{"containers":[],"dnsPolicy":"None","dnsConfig":{"nameservers":["1","2","3","4"]}}"#;
        let formed = for_pod(&node(), &pod(spec));
        assert_eq!(formed.dns.servers, ["1", "2", "3"]);
        assert_eq!(formed.warnings[0].0, "DNSConfigForming");
        let many: Vec<String> = (0..40).map(|i| format!("\"d{i}\"")).collect();
        let spec = format!(r#"{{"containers":[],"dnsPolicy":"None","dnsConfig":{{"searches":[{}]}}}}"#, many.join(","));
        assert_eq!(for_pod(&node(), &pod(&spec)).dns.searches.len(), 32);
    }

    #[test]
    fn without_cluster_dns_the_node_s_is_taken_and_told() {
        let mut node = node();
        node.cluster_dns.clear();
        let formed = for_pod(&node, &pod(r#"{"containers":[]}"#));
        assert_eq!(formed.dns, node.host.unwrap());
        assert_eq!(formed.warnings[0].0, "MissingClusterDNS");
    }
}
