//! What the server says of the cluster -> what a node must know to serve its pods.
//!
//! The two ConfigMaps are kubeadm's, so that our nodes join its clusters and stock ones ours: `kubelet-config` (a KubeletConfiguration) and
//! `kubeadm-config` (a ClusterConfiguration), both in kube-system, which nodes and who joins may read.

use std::net::IpAddr;

use anyhow::{Context, bail};
use api::k8s::api::core::v1::ConfigMap;
use client::kube::{self, Api, Client};
use ipnet::IpNet;
use serde_json::{Value, json};

use crate::flags::ClusterFlags;

const NAMESPACE: &str = "kube-system";
const KUBELET: &str = "kubelet-config";
const KUBEADM: &str = "kubeadm-config";
/// The key of each that holds the YAML.
const KUBELET_KEY: &str = "kubelet";
const KUBEADM_KEY: &str = "ClusterConfiguration";

/// The same for all nodes of a cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterConfig {
    /// Where pods' addresses come from, at most one of each family.
    pub cluster_cidrs: Vec<IpNet>,
    pub cluster_dns: IpAddr,
    pub cluster_domain: String,
}

/// As far as they are known.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Told {
    cluster_cidrs: Option<Vec<IpNet>>,
    cluster_dns: Option<IpAddr>,
    cluster_domain: Option<String>,
}

impl ClusterConfig {
    /// Asks a server; what a flag says goes before what it says.
    ///
    /// # Errors
    /// No server answers, or none knows and no flag says.
    pub async fn ask(client: &Client, flags: &ClusterFlags) -> anyhow::Result<Self> {
        let flags = Told::of_flags(flags);
        if let Ok(all) = flags.clone().whole() {
            return Ok(all);
        }
        let mut told = flags;
        for (name, key) in [(KUBELET, KUBELET_KEY), (KUBEADM, KUBEADM_KEY)] {
            match Api::<ConfigMap>::namespaced(client.clone(), NAMESPACE).get(name).await {
                Ok(map) => told = told.or(Told::read(map.data.as_ref().and_then(|data| data.get(key)).map_or("", String::as_str))),
                // Another's control plane need not have them.
                Err(kube::Error::Api(status)) if [403, 404].contains(&status.code) => {
                    tracing::debug!(name, error = status.message, "a ConfigMap about the cluster cannot be read");
                }
                Err(error) => return Err(error).with_context(|| format!("asking for ConfigMap {NAMESPACE}/{name}")),
            }
        }
        told.whole()
    }

    /// With what the flags say.
    pub fn with(self, flags: &ClusterFlags) -> Self {
        let told = Told::of_flags(flags);
        Self {
            cluster_cidrs: told.cluster_cidrs.unwrap_or(self.cluster_cidrs),
            cluster_dns: told.cluster_dns.unwrap_or(self.cluster_dns),
            cluster_domain: told.cluster_domain.unwrap_or(self.cluster_domain),
        }
    }

    pub fn to_json(&self) -> String {
        let cidrs: Vec<String> = self.cluster_cidrs.iter().map(IpNet::to_string).collect();
        json!({"clusterCIDRs": cidrs, "clusterDNS": self.cluster_dns, "clusterDomain": self.cluster_domain}).to_string()
    }

    /// # Errors
    /// It is none, or not whole.
    pub fn from_json(text: &str) -> anyhow::Result<Self> {
        let value: Value = serde_json::from_str(text)?;
        let list = |value: &Value| value.as_array().map(|all| all.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(","));
        let cidrs = list(&value["clusterCIDRs"]).unwrap_or_default();
        Told {
            cluster_cidrs: ranges(&cidrs),
            cluster_dns: first_address(&json!([value["clusterDNS"]])),
            cluster_domain: domain(&value["clusterDomain"]),
        }
        .whole()
    }
}

impl Told {
    fn of_flags(flags: &ClusterFlags) -> Self {
        Self {
            cluster_cidrs: flags.cluster_cidr.as_ref().map(|ranges| ranges.list().to_vec()),
            cluster_dns: flags.cluster_dns,
            cluster_domain: flags.cluster_domain.clone(),
        }
    }

    /// Of either of the two documents. What is not as it should be counts as not there.
    fn read(yaml: &str) -> Self {
        let value: Value = serde_yaml::from_str(yaml).unwrap_or_default();
        let networking = &value["networking"];
        Self {
            cluster_cidrs: networking["podSubnet"].as_str().and_then(ranges),
            cluster_dns: first_address(&value["clusterDNS"]),
            cluster_domain: domain(&value["clusterDomain"]).or_else(|| domain(&networking["dnsDomain"])),
        }
    }

    fn or(self, other: Self) -> Self {
        Self {
            cluster_cidrs: self.cluster_cidrs.or(other.cluster_cidrs),
            cluster_dns: self.cluster_dns.or(other.cluster_dns),
            cluster_domain: self.cluster_domain.or(other.cluster_domain),
        }
    }

    fn whole(self) -> anyhow::Result<ClusterConfig> {
        let lacks = |flag: &str| format!("no server says what {flag} is for nodes of this cluster: give the flag");
        let Some(cluster_cidrs) = self.cluster_cidrs else { bail!(lacks("--cluster-cidr")) };
        let Some(cluster_dns) = self.cluster_dns else { bail!(lacks("--cluster-dns")) };
        Ok(ClusterConfig { cluster_cidrs, cluster_dns, cluster_domain: self.cluster_domain.unwrap_or_else(|| "cluster.local".into()) })
    }
}

fn ranges(text: &str) -> Option<Vec<IpNet>> {
    crate::flags::pod_ranges(text).ok().map(|ranges| ranges.list().to_vec())
}

fn first_address(list: &Value) -> Option<IpAddr> {
    list.get(0)?.as_str()?.parse().ok()
}

fn domain(value: &Value) -> Option<String> {
    value.as_str().filter(|name| api::selector::is_dns_subdomain(name)).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cluster() -> ClusterConfig {
        ClusterConfig {
            cluster_cidrs: vec!["10.244.0.0/16".parse().unwrap(), "fd00::/48".parse().unwrap()],
            cluster_dns: "10.96.0.10".parse().unwrap(),
            cluster_domain: "a.example".into(),
        }
    }

    #[test]
    fn what_is_kept_is_read_again() {
        assert_eq!(ClusterConfig::from_json(&cluster().to_json()).unwrap(), cluster());
        for cut in ["", "{}", "{\"clusterCIDRs\":[\"10.0.0.0/8\"]}"] {
            assert!(ClusterConfig::from_json(cut).is_err(), "{cut}");
        }
    }

    #[test]
    fn kubeadm_s_documents_are_read_and_nonsense_is_not() {
        let kubeadm = "apiVersion: kubeadm.k8s.io/v1beta4\nnetworking:\n  dnsDomain: cluster.local\n  podSubnet: 10.1.0.0/16\n  serviceSubnet: 10.2.0.0/16\n";
        let kubelet = "clusterDNS:\n- 10.2.0.10\nclusterDomain: other.local\n";
        let told = Told::read(kubelet).or(Told::read(kubeadm)).whole().unwrap();
        assert_eq!((told.cluster_dns.to_string().as_str(), told.cluster_domain.as_str()), ("10.2.0.10", "other.local"));
        assert_eq!(told.cluster_cidrs, ["10.1.0.0/16".parse().unwrap()]);
        for nonsense in [
            "",
            "[]",
            "clusterDNS: 7",
            "networking: x",
            "clusterDNS: [a]\nnetworking: {podSubnet: '10.0.0.0'}",
            ": : :",
            "clusterDomain: A B",
        ] {
            assert_eq!(Told::read(nonsense), Told::default(), "{nonsense}");
        }
        let error = Told::read(kubelet).whole().unwrap_err().to_string();
        assert!(error.contains("--cluster-cidr"), "{error}");
    }

    #[test]
    fn flags_go_before_what_a_server_says() {
        let flags = ClusterFlags { cluster_domain: Some("mine".into()), ..ClusterFlags::default() };
        assert_eq!(cluster().with(&flags), ClusterConfig { cluster_domain: "mine".into(), ..cluster() });
    }
}
