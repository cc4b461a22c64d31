//! A Node as it is served -> what a pod network reads of it: its name and age, its ranges and addresses. A fiftieth of the object, whose images are long.

use std::net::Ipv4Addr;

use api::k8s::api::core::v1::Node;
use client::{
    Meta, Object,
    lenient::{Seen, decode},
};
use ipnet::{IpNet, Ipv4Net};
use serde::{Deserialize, Deserializer};

/// A node, as far as packets to its pods go.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct NodeFacts {
    #[serde(default, deserialize_with = "or_default")]
    pub metadata: FactsMeta,
    #[serde(default, deserialize_with = "or_default")]
    pub spec: FactsSpec,
    #[serde(default, deserialize_with = "or_default")]
    pub status: FactsStatus,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FactsMeta {
    pub name: String,
    pub uid: Option<String>,
    pub resource_version: Option<String>,
    /// As it is written: RFC 3339, in UTC and whole seconds, so that the order of the texts is that of the times.
    pub creation_timestamp: Option<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct FactsSpec {
    #[serde(rename = "podCIDRs", deserialize_with = "or_default")]
    pub pod_cidrs: Vec<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct FactsStatus {
    #[serde(deserialize_with = "or_default")]
    pub addresses: Vec<FactsAddress>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct FactsAddress {
    #[serde(rename = "type", deserialize_with = "or_default")]
    pub kind: String,
    #[serde(deserialize_with = "or_default")]
    pub address: String,
}

/// Who came first: by creation, then by name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rank {
    created: String,
    pub name: String,
}

/// What a node says of itself, and what was given to it: nothing of it is checked yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    pub rank: Rank,
    /// The first InternalIP of IPv4.
    pub address: Option<Ipv4Addr>,
    /// Where its pods' addresses come from.
    pub range: Option<Ipv4Net>,
}

impl NodeFacts {
    pub fn claim(&self) -> Claim {
        let internal = self.status.addresses.iter().filter(|a| a.kind == "InternalIP");
        let ranges = self.spec.pod_cidrs.iter().filter_map(|text| text.parse::<IpNet>().ok());
        let four = |net| if let IpNet::V4(net) = net { Some(net.trunc()) } else { None };
        // Who has no time is no older than anybody.
        let created = self.metadata.creation_timestamp.clone().unwrap_or_else(|| "~".to_owned());
        Claim {
            rank: Rank { created, name: self.metadata.name.clone() },
            address: internal.filter_map(|a| a.address.parse().ok()).next(),
            range: ranges.filter_map(four).next(),
        }
    }
}

impl Object for NodeFacts {
    type Served = Node;

    fn read(json: &[u8]) -> serde_json::Result<Seen<Self>> {
        decode(json)
    }

    fn object_meta(&self) -> Meta<'_> {
        let meta = &self.metadata;
        Meta { name: &meta.name, uid: meta.uid.as_deref(), resource_version: meta.resource_version.as_deref(), ..Meta::default() }
    }

    fn set_meta_of(&mut self, other: &Self) {
        self.metadata.clone_from(&other.metadata);
    }
}

/// Null is what is not there.
fn or_default<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(from: D) -> Result<T, D::Error> {
    Option::deserialize(from).map(Option::unwrap_or_default)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_claim_is_the_first_internal_address_and_range_of_ipv4() {
        let node = json!({
            "kind": "Node",
            "metadata": {"name": "n1", "creationTimestamp": "2026-11-29T17:00:00Z", "resourceVersion": "7", "labels": {"a": "b"}},
            "spec": {"podCIDR": "fd00::/64", "podCIDRs": ["fd00::/64", "10.244.1.9/24"], "taints": null},
            "status": {
                "addresses": [
                    {"type": "Hostname", "address": "10.0.0.1"}, {"type": "ExternalIP", "address": "10.0.0.2"},
                    {"type": "InternalIP", "address": "2001:db8::1"}, {"type": "InternalIP", "address": "10.0.0.3"},
                ],
                "images": [{"names": ["x"]}],
            },
        });
        let seen = NodeFacts::read(node.to_string().as_bytes()).unwrap();
        let claim = seen.object.claim();
        assert_eq!((seen.fault, claim.rank.name.as_str()), (None, "n1"));
        assert_eq!((claim.address, claim.range), (Some([10, 0, 0, 3].into()), Some("10.244.1.0/24".parse().unwrap())));
        assert_eq!(seen.object.object_meta().resource_version, Some("7"));
    }

    #[test]
    fn what_says_nothing_claims_nothing() {
        for (spec, status) in [
            (json!(null), json!(null)),
            (json!({"podCIDRs": null}), json!({"addresses": null})),
            (json!({"podCIDRs": ["x", "10.0.0.0/99"]}), json!({"addresses": [{"type": "InternalIP", "address": "nowhere"}, {}]})),
        ] {
            let node = json!({"metadata": {"name": "n"}, "spec": spec, "status": status});
            let claim = NodeFacts::read(node.to_string().as_bytes()).unwrap().object.claim();
            assert_eq!((claim.address, claim.range), (None, None), "{node}");
        }
    }
}
