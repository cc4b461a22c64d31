//! Service and its pods -> EndpointSlices, changed as little as possible. Source: `staging/src/k8s.io/endpointslice/reconciler.go`.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
};

use api::{
    Key,
    k8s::{
        api::{
            core::v1::{Node, Service},
            discovery::v1::{Endpoint, EndpointConditions, EndpointPort, EndpointSlice},
        },
        apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference},
    },
};
use client::{Cache, Caches, kube};
use kube::{Resource, ResourceExt};
use reconcile::{Action, Controller, Plan, Wake};

use crate::{
    index::{ByLabel, by_label},
    services::{Backend, Port, Selected, is_headless},
};

pub const SERVICE: &str = "kubernetes.io/service-name";
pub const MANAGED: &str = "endpointslice.kubernetes.io/managed-by";
const MANAGED_BY: (&str, &str) = (MANAGED, "endpointslice-controller.k8s.io");
const HEADLESS: &str = "service.kubernetes.io/headless";
const ZONE: &str = "topology.kubernetes.io/zone";
/// `--max-endpoints-per-slice`: upstream's default.
const ENDPOINTS_MAX: usize = 100;

pub struct EndpointSlices {
    selected: Arc<Selected>,
    slices: Cache<EndpointSlice>,
    by_label: ByLabel<EndpointSlice>,
    nodes: Cache<Node>,
}

pub struct World {
    service: Option<Arc<Service>>,
    backends: Option<Vec<Backend>>,
    /// Slices of ours for this service.
    slices: Vec<Arc<EndpointSlice>>,
    /// Zone by node, for the nodes of the backends.
    zones: HashMap<String, String>,
}

impl EndpointSlices {
    pub fn new(caches: &Caches, selected: &Arc<Selected>) -> Self {
        let slices = caches.of::<EndpointSlice>();
        Self { selected: selected.clone(), by_label: by_label(&slices), slices, nodes: caches.of() }
    }
}

impl Controller for EndpointSlices {
    type World = World;

    fn name(&self) -> &'static str {
        "endpointslice-controller"
    }

    fn weight(&self, world: &World) -> usize {
        world.backends.as_ref().map_or(0, Vec::len)
    }

    fn watches(&self, wake: &Wake) {
        self.selected.watches(wake);
        wake.needs(&self.nodes);
        wake.on(&self.slices, |slice, wake| {
            if let Some(service) = slice.labels().get(SERVICE) {
                wake(Key::new(&slice.namespace().unwrap_or_default(), service));
            }
        });
    }

    async fn observe(&self, key: &Key) -> Option<World> {
        let service = self.selected.services.get(key);
        let backends = service.as_ref().and_then(|s| self.selected.backends(s));
        let ours = [(SERVICE.to_owned(), key.name.clone()), (MANAGED_BY.0.into(), MANAGED_BY.1.into())];
        let slices = self.by_label.having(&key.namespace, &BTreeMap::from(ours));
        let nodes: HashSet<&String> = backends.iter().flatten().filter_map(|b| b.node.as_ref()).collect();
        let zone = |name: &String| self.nodes.get(&Key::new("", name))?.labels().get(ZONE).cloned();
        let zones = nodes.into_iter().filter_map(|n| Some((n.clone(), zone(n)?))).collect();
        Some(World { service, backends, slices, zones })
    }

    fn plan(&self, world: &World, _: &Key) -> Plan {
        plan(world)
    }
}

/// Endpoints that share address family and ports share slices.
pub type Group = (&'static str, Vec<Port>);

fn plan(world: &World) -> Plan {
    let living = world.slices.iter().filter(|s| s.metadata.deletion_timestamp.is_none());
    let (Some(service), Some(backends)) = (&world.service, &world.backends) else {
        return Plan::act(living.map(|s| Action::delete(&**s)).collect());
    };
    let mut groups = wanted(service, backends, &world.zones);
    let mut actions = Vec::new();
    let mut by_group: BTreeMap<Group, Vec<&EndpointSlice>> = BTreeMap::new();
    for slice in living {
        by_group.entry(group_of(slice)).or_default().push(slice);
    }
    for (group, slices) in by_group {
        match groups.remove(&group) {
            Some(endpoints) => actions.extend(fill(service, &group, endpoints, &slices)),
            None => actions.extend(slices.into_iter().map(Action::delete)),
        }
    }
    for (group, endpoints) in groups {
        actions.extend(fill(service, &group, endpoints, &[]));
    }
    Plan::act(actions)
}

fn wanted(service: &Service, backends: &[Backend], zones: &HashMap<String, String>) -> BTreeMap<Group, Vec<Endpoint>> {
    let mut groups: BTreeMap<Group, Vec<Endpoint>> = BTreeMap::new();
    for backend in backends {
        for family in ["IPv4", "IPv6"] {
            let of_family = |a: &&String| a.contains(':') == (family == "IPv6");
            let addresses: Vec<String> = backend.addresses.iter().filter(of_family).cloned().collect();
            if !addresses.is_empty() {
                groups.entry((family, backend.ports.clone())).or_default().push(endpoint(service, backend, addresses, zones));
            }
        }
    }
    if groups.is_empty() {
        // One empty slice tells that the service is known and has nothing behind it.
        groups.insert((family_of(service), Vec::new()), Vec::new());
    }
    groups
}

fn family_of(service: &Service) -> &'static str {
    let families = service.spec.as_ref().and_then(|s| s.ip_families.as_deref()).unwrap_or_default();
    if families.first().is_some_and(|f| f == "IPv6") { "IPv6" } else { "IPv4" }
}

fn endpoint(service: &Service, backend: &Backend, addresses: Vec<String>, zones: &HashMap<String, String>) -> Endpoint {
    let publish = service.spec.as_ref().and_then(|s| s.publish_not_ready_addresses) == Some(true);
    Endpoint {
        addresses,
        conditions: Some(EndpointConditions {
            ready: Some(backend.ready(publish)),
            serving: Some(backend.serving),
            terminating: Some(backend.terminating),
        }),
        hostname: backend.hostname.clone(),
        node_name: backend.node.clone(),
        target_ref: Some(backend.target.clone()),
        zone: backend.node.as_ref().and_then(|n| zones.get(n)).cloned(),
        ..Endpoint::default()
    }
}

/// Puts the endpoints of one group into slices: those that stand where they are stay there, new ones fill gaps before new slices.
fn fill(service: &Service, group: &Group, wanted: Vec<Endpoint>, slices: &[&EndpointSlice]) -> Vec<Action> {
    let mut left: BTreeMap<String, Endpoint> = wanted.into_iter().map(|e| (identity(&e), e)).collect();
    let mut contents: Vec<Vec<Endpoint>> = Vec::new();
    for slice in slices {
        contents.push(slice.endpoints.iter().flatten().filter_map(|old| left.remove(&identity(old))).collect());
    }
    let mut fresh: Vec<Endpoint> = left.into_values().collect();
    for content in &mut contents {
        let room = ENDPOINTS_MAX.saturating_sub(content.len());
        content.extend(fresh.drain(..room.min(fresh.len())));
    }
    let mut actions = Vec::new();
    let mut kept = 0;
    for (i, (slice, content)) in slices.iter().zip(contents).enumerate() {
        let last_empty = i + 1 == slices.len() && kept == 0 && fresh.is_empty();
        if content.is_empty() && !last_empty {
            actions.push(Action::delete(*slice));
            continue;
        }
        kept += 1;
        let updated = EndpointSlice { endpoints: Some(content), metadata: labelled(service, slice.metadata.clone()), ..(*slice).clone() };
        if updated != **slice {
            actions.push(Action::update(&updated));
        }
    }
    let chunks: Vec<Vec<Endpoint>> = fresh.chunks(ENDPOINTS_MAX).map(<[Endpoint]>::to_vec).collect();
    let chunks = if chunks.is_empty() && slices.is_empty() { vec![Vec::new()] } else { chunks };
    actions.extend(chunks.into_iter().map(|endpoints| Action::create(&new_slice(service, group, endpoints))));
    actions
}

/// The pod and its address: what makes an endpoint the same one.
fn identity(endpoint: &Endpoint) -> String {
    let uid = endpoint.target_ref.as_ref().and_then(|t| t.uid.as_deref()).unwrap_or("");
    format!("{uid}/{}", endpoint.addresses.join(","))
}

pub fn group_of(slice: &EndpointSlice) -> Group {
    let ports = slice.ports.iter().flatten().map(|p| Port {
        name: p.name.clone().unwrap_or_default(),
        number: p.port.unwrap_or(0),
        protocol: p.protocol.clone().unwrap_or_else(|| "TCP".into()),
        app_protocol: p.app_protocol.clone(),
    });
    (if slice.address_type == "IPv6" { "IPv6" } else { "IPv4" }, ports.collect())
}

fn new_slice(service: &Service, (family, ports): &Group, endpoints: Vec<Endpoint>) -> EndpointSlice {
    let owner = service.controller_owner_ref(&()).map(|r| OwnerReference { block_owner_deletion: Some(true), ..r });
    let metadata = ObjectMeta {
        generate_name: Some(format!("{}-", service.name_any())),
        namespace: service.namespace(),
        owner_references: owner.map(|r| vec![r]),
        ..ObjectMeta::default()
    };
    EndpointSlice {
        metadata: labelled(service, metadata),
        address_type: (*family).into(),
        endpoints: Some(endpoints),
        ports: ports_of(ports),
    }
}

pub fn ports_of(ports: &[Port]) -> Option<Vec<EndpointPort>> {
    let port = |p: &Port| EndpointPort {
        name: Some(p.name.clone()),
        port: Some(p.number),
        protocol: Some(p.protocol.clone()),
        app_protocol: p.app_protocol.clone(),
    };
    (!ports.is_empty()).then(|| ports.iter().map(port).collect())
}

fn labelled(service: &Service, metadata: ObjectMeta) -> ObjectMeta {
    let mut labels: BTreeMap<String, String> = service.labels().clone();
    for reserved in [SERVICE, MANAGED_BY.0, HEADLESS] {
        labels.remove(reserved);
    }
    if is_headless(service) {
        labels.insert(HEADLESS.into(), String::new());
    }
    labels.insert(SERVICE.into(), service.name_any());
    labels.insert(MANAGED_BY.0.into(), MANAGED_BY.1.into());
    ObjectMeta { labels: Some(labels), ..metadata }
}

#[cfg(test)]
mod tests {
    use super::*;
    use api::k8s::api::core::v1::ObjectReference;
    use serde_json::json;

    fn backend(i: usize) -> Backend {
        let port = Port { name: "http".into(), number: 80, protocol: "TCP".into(), app_protocol: None };
        let target = ObjectReference { uid: Some(format!("uid{i:04}")), ..ObjectReference::default() };
        let addresses = vec![format!("10.0.{}.{}", i / 250, i % 250)];
        Backend { addresses, ports: vec![port], serving: true, terminating: false, node: None, hostname: None, target }
    }

    fn world(backends: Vec<Backend>, slices: Vec<EndpointSlice>) -> World {
        let service = json!({"metadata": {"name": "web", "namespace": "d", "uid": "s"}, "spec": {"clusterIP": "10.96.0.9"}});
        let service = Some(Arc::new(serde_json::from_value(service).unwrap()));
        World { service, backends: Some(backends), slices: slices.into_iter().map(Arc::new).collect(), zones: HashMap::new() }
    }

    fn count(slice: &EndpointSlice) -> usize {
        slice.endpoints.as_ref().map_or(0, Vec::len)
    }

    fn apply(plan: &Plan, mut slices: Vec<EndpointSlice>) -> Vec<EndpointSlice> {
        for action in &plan.actions {
            match action {
                Action::Create { object, .. } => {
                    let mut slice: EndpointSlice = serde_json::from_value(object.clone()).unwrap();
                    slice.metadata.name = Some(format!("s{}", slices.len()));
                    slices.push(slice);
                }
                Action::Update { object, .. } => {
                    let slice: EndpointSlice = serde_json::from_value(object.clone()).unwrap();
                    let at = slices.iter().position(|s| s.metadata.name == slice.metadata.name).unwrap();
                    slices[at] = slice;
                }
                Action::Delete { path, .. } => slices.retain(|s| !path.ends_with(&format!("/{}", s.name_any()))),
                other => panic!("unexpected {other:?}"),
            }
        }
        slices
    }

    #[test]
    fn one_change_touches_one_slice() {
        let all: Vec<Backend> = (0..250).map(backend).collect();
        let slices = apply(&plan(&world(all.clone(), vec![])), vec![]);
        assert_eq!(slices.iter().map(count).collect::<Vec<_>>(), [100, 100, 50]);
        assert_eq!(plan(&world(all.clone(), slices.clone())), Plan::rest());
        let mut changed = all;
        changed[120].serving = false;
        let plan = plan(&world(changed, slices));
        assert_eq!(plan.actions.len(), 1, "{plan:?}");
    }

    #[test]
    fn gaps_are_filled_before_new_slices_are_made() {
        let slices = apply(&plan(&world((0..150).map(backend).collect(), vec![])), vec![]);
        let slices = apply(&plan(&world((10..160).map(backend).collect(), slices.clone())), slices);
        assert_eq!(slices.len(), 2);
        assert_eq!(slices.iter().map(count).sum::<usize>(), 150);
    }

    #[test]
    fn a_service_without_backends_has_one_empty_slice() {
        let slices = apply(&plan(&world(vec![], vec![])), vec![]);
        assert_eq!((slices.len(), count(&slices[0])), (1, 0));
        assert_eq!(plan(&world(vec![], slices.clone())), Plan::rest());
        let gone = World { service: None, ..world(vec![], slices.clone()) };
        assert_eq!(apply(&plan(&gone), slices).len(), 0);
    }
}
