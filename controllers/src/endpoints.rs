//! Service and its pods -> Endpoints. Source: `pkg/controller/endpoint/endpoints_controller.go`.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use api::{
    Key,
    k8s::{
        api::core::v1::{EndpointAddress, EndpointPort, EndpointSubset, Endpoints as Object, Service},
        apimachinery::pkg::apis::meta::v1::ObjectMeta,
    },
};
use client::{Cache, Caches, kube};
use kube::ResourceExt;
use reconcile::{Action, Controller, Plan, Wake};

use crate::services::{Backend, Port, Selected, is_headless};

const HEADLESS: &str = "service.kubernetes.io/headless";
const MANAGED_BY: (&str, &str) = ("endpoints.kubernetes.io/managed-by", "endpoint-controller");
const OVER_CAPACITY: &str = "endpoints.kubernetes.io/over-capacity";
const ADDRESSES_MAX: usize = 1000;

pub struct Endpoints {
    selected: Arc<Selected>,
    endpoints: Cache<Object>,
}

pub struct World {
    service: Option<Arc<Service>>,
    backends: Option<Vec<Backend>>,
    current: Option<Arc<Object>>,
}

impl Endpoints {
    pub fn new(caches: &Caches, selected: &Arc<Selected>) -> Self {
        Self { selected: selected.clone(), endpoints: caches.of() }
    }
}

impl Controller for Endpoints {
    type World = World;

    fn name(&self) -> &'static str {
        "endpoints-controller"
    }

    fn weight(&self, world: &World) -> usize {
        world.backends.as_ref().map_or(0, Vec::len)
    }

    fn watches(&self, wake: &Wake) {
        self.selected.watches(wake);
        wake.on_own(&self.endpoints);
    }

    async fn observe(&self, key: &Key) -> Option<World> {
        let (service, current) = (self.selected.services.get(key), self.endpoints.get(key));
        let backends = service.as_ref().and_then(|s| self.selected.backends(s));
        Some(World { service, backends, current })
    }

    fn plan(&self, world: &World, _: &Key) -> Plan {
        plan(world)
    }
}

fn plan(world: &World) -> Plan {
    let (Some(service), current) = (&world.service, &world.current) else {
        // Endpoints without a service are somebody's own unless they are ours.
        let ours = world.current.as_ref().filter(|e| e.labels().get(MANAGED_BY.0).is_some_and(|v| v == MANAGED_BY.1));
        return ours.map_or_else(Plan::rest, |endpoints| Plan::act(vec![Action::delete(&**endpoints)]));
    };
    let Some(backends) = &world.backends else { return Plan::rest() };
    let wanted = wanted(service, backends, current.as_deref());
    match current {
        None => Plan::act(vec![Action::create(&wanted)]),
        Some(current) if **current == wanted => Plan::rest(),
        Some(_) => Plan::act(vec![Action::update(&wanted)]),
    }
}

fn wanted(service: &Service, backends: &[Backend], current: Option<&Object>) -> Object {
    let (subsets, cut) = subsets(service, backends);
    let fresh =
        || ObjectMeta { name: service.metadata.name.clone(), namespace: service.metadata.namespace.clone(), ..ObjectMeta::default() };
    let mut metadata = current.map_or_else(fresh, |c| c.metadata.clone());
    let mut labels = service.labels().clone();
    labels.remove(HEADLESS);
    if is_headless(service) {
        labels.insert(HEADLESS.into(), String::new());
    }
    labels.insert(MANAGED_BY.0.into(), MANAGED_BY.1.into());
    metadata.labels = Some(labels);
    let mut annotations = metadata.annotations.unwrap_or_default();
    annotations.remove(OVER_CAPACITY);
    if cut {
        annotations.insert(OVER_CAPACITY.into(), "truncated".into());
    }
    metadata.annotations = (!annotations.is_empty()).then_some(annotations);
    Object { metadata, subsets: (!subsets.is_empty()).then_some(subsets) }
}

/// Addresses grouped by the ports they serve; true if there were too many.
fn subsets(service: &Service, backends: &[Backend]) -> (Vec<EndpointSubset>, bool) {
    let publish = service.spec.as_ref().and_then(|s| s.publish_not_ready_addresses) == Some(true);
    let mut groups: BTreeMap<BTreeSet<Port>, (Vec<EndpointAddress>, Vec<EndpointAddress>)> = BTreeMap::new();
    let included: Vec<&Backend> = backends.iter().filter(|b| publish || !b.terminating).collect();
    for backend in included.iter().take(ADDRESSES_MAX) {
        if backend.ports.is_empty() && !is_headless(service) {
            continue;
        }
        let group = groups.entry(backend.ports.iter().cloned().collect()).or_default();
        let side = if backend.ready(publish) { &mut group.0 } else { &mut group.1 };
        side.extend(backend.addresses.first().map(|ip| address(backend, ip)));
    }
    let filled = |list: Vec<EndpointAddress>| (!list.is_empty()).then_some(list);
    let made = groups.into_iter().map(|(ports, (mut ready, mut waiting))| {
        ready.sort_by(|a, b| a.ip.cmp(&b.ip));
        waiting.sort_by(|a, b| a.ip.cmp(&b.ip));
        let ports: Vec<EndpointPort> = ports.into_iter().map(port).collect();
        EndpointSubset { addresses: filled(ready), not_ready_addresses: filled(waiting), ports: (!ports.is_empty()).then_some(ports) }
    });
    (made.collect(), included.len() > ADDRESSES_MAX)
}

fn address(backend: &Backend, ip: &str) -> EndpointAddress {
    EndpointAddress {
        ip: ip.into(),
        node_name: backend.node.clone(),
        hostname: backend.hostname.clone(),
        target_ref: Some(backend.target.clone()),
    }
}

fn port(port: Port) -> EndpointPort {
    let name = (!port.name.is_empty()).then_some(port.name);
    EndpointPort { name, port: port.number, protocol: Some(port.protocol), app_protocol: port.app_protocol }
}
