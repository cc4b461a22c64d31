//! Endpoints of a service port -> which of them this node uses. Source: upstream `pkg/proxy/topology.go`, `endpointslicecache.go`.

use std::{collections::BTreeMap, net::IpAddr};

use api::{
    k8s::api::discovery::v1::{self, EndpointPort, EndpointSlice},
    steps,
};

use super::{Backends, Endpoint, Node, Protocol};
use crate::{family::Family, model::protocol_of};

/// One endpoint as the slices show it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct EndpointInfo {
    state: State,
    local: bool,
    zones: Vec<String>,
    nodes: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum State {
    Unusable,
    /// Terminating and still serving: used where nothing is ready.
    ServingTerminating,
    Ready,
}

/// Which hints are followed.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Topology {
    Anywhere,
    SameNode,
    SameZone,
}

/// The endpoints of the service port `name`/`protocol` in the slices of that family.
pub fn of_port<'a>(
    slices: impl Iterator<Item = &'a EndpointSlice>,
    name: &str,
    protocol: Protocol,
    node: &Node,
    family: Family,
) -> Backends {
    let found = collect(slices.filter(|slice| slice.address_type == family.word()), name, protocol, node, family);
    let topology = topology(&found, node);
    let pick = |wanted: &dyn Fn(&EndpointInfo) -> bool| -> Vec<Endpoint> {
        found.iter().filter(|(_, f)| wanted(f)).map(|(address, _)| *address).collect()
    };
    let first = |ready: Vec<Endpoint>, leaving: Vec<Endpoint>| if ready.is_empty() { leaving } else { ready };
    let cluster = first(pick(&|f| f.state == State::Ready && f.fits(topology, node)), pick(&|f| f.state == State::ServingTerminating));
    let local = first(pick(&|f| f.local && f.state == State::Ready), pick(&|f| f.local && f.state == State::ServingTerminating));
    Backends { any: found.values().any(|f| f.state != State::Unusable), cluster, local }
}

fn collect<'a>(
    slices: impl Iterator<Item = &'a EndpointSlice>,
    name: &str,
    protocol: Protocol,
    node: &Node,
    family: Family,
) -> BTreeMap<Endpoint, EndpointInfo> {
    let mut found: BTreeMap<Endpoint, EndpointInfo> = BTreeMap::new();
    for slice in slices {
        let ports = slice.ports.iter().flatten().filter(|p| is_port(p, name, protocol));
        for port in ports.filter_map(|p| u16::try_from(p.port?).ok()) {
            for endpoint in steps::counted(slice.endpoints.iter().flatten()) {
                let Some(ip) = address_of(endpoint).filter(|ip| Family::of(*ip) == family) else { continue };
                let new = EndpointInfo::of(endpoint, node);
                let slot = found.entry(Endpoint { ip, port }).or_insert_with(|| new.clone());
                // While an endpoint moves between slices it stands in both.
                if new.state > slot.state {
                    *slot = new;
                }
            }
        }
    }
    found
}

/// Hints count only where all ready endpoints have them and one is meant for us.
fn topology(found: &BTreeMap<Endpoint, EndpointInfo>, node: &Node) -> Topology {
    let ready = || found.values().filter(|f| f.state == State::Ready);
    if ready().next().is_none() {
        return Topology::Anywhere;
    }
    if ready().all(|f| !f.nodes.is_empty()) && ready().any(|f| f.nodes.contains(&node.name)) {
        return Topology::SameNode;
    }
    if ready().all(|f| !f.zones.is_empty()) && ready().any(|f| f.zones.contains(&node.zone)) {
        return Topology::SameZone;
    }
    Topology::Anywhere
}

impl EndpointInfo {
    fn of(endpoint: &v1::Endpoint, node: &Node) -> Self {
        let hints = endpoint.hints.as_ref();
        Self {
            state: State::of(endpoint),
            local: endpoint.node_name.as_deref() == Some(node.name.as_str()),
            zones: hints.and_then(|h| h.for_zones.as_ref()).into_iter().flatten().map(|z| z.name.clone()).collect(),
            nodes: hints.and_then(|h| h.for_nodes.as_ref()).into_iter().flatten().map(|n| n.name.clone()).collect(),
        }
    }

    fn fits(&self, topology: Topology, node: &Node) -> bool {
        match topology {
            Topology::Anywhere => true,
            Topology::SameNode => self.nodes.contains(&node.name),
            Topology::SameZone => self.zones.contains(&node.zone),
        }
    }
}

impl State {
    /// Absent conditions read as: ready, serving as ready, not terminating.
    fn of(endpoint: &v1::Endpoint) -> Self {
        let conditions = endpoint.conditions.clone().unwrap_or_default();
        let ready = conditions.ready.unwrap_or(true);
        let serving = conditions.serving.unwrap_or(ready);
        match (ready, serving && conditions.terminating.unwrap_or(false)) {
            (true, _) => State::Ready,
            (false, true) => State::ServingTerminating,
            (false, false) => State::Unusable,
        }
    }
}

fn is_port(port: &EndpointPort, name: &str, protocol: Protocol) -> bool {
    port.name.as_deref().unwrap_or("") == name && protocol_of(port.protocol.as_deref()) == Some(protocol)
}

fn address_of(endpoint: &v1::Endpoint) -> Option<IpAddr> {
    // Upstream, too, uses the first only.
    endpoint.addresses.first()?.parse().ok()
}
