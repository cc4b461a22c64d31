//! Endpoints that somebody writes for a Service without a selector -> EndpointSlices, which the service proxy and DNS read.
//!
//! Source: `pkg/controller/endpointslicemirroring`: a slice for each set of ports and address family, with the Endpoints' labels and annotations.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use api::{
    Key,
    k8s::{
        api::{
            core::v1::{EndpointAddress, EndpointSubset, Endpoints, Service},
            discovery::v1::{Endpoint, EndpointConditions, EndpointSlice},
        },
        apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference},
    },
};
use client::{Cache, Caches, kube};
use kube::{Resource, ResourceExt};
use reconcile::{Action, Controller, Plan, Wake};

use crate::{
    endpointslice::{Group, MANAGED, SERVICE, group_of, ports_of},
    index::{ByLabel, by_label},
    services::Port,
};

const CONTROLLER: &str = "endpointslicemirroring-controller.k8s.io";
const SKIP: &str = "endpointslice.kubernetes.io/skip-mirror";
/// Endpoints that are a lock.
const LEADER: &str = "control-plane.alpha.kubernetes.io/leader";
const NOT_COPIED: [&str; 2] = ["endpoints.kubernetes.io/last-change-trigger-time", "kubectl.kubernetes.io/last-applied-configuration"];
/// `--mirroring-max-endpoints-per-subset`: upstream's default.
const ADDRESSES_MAX: usize = 1000;
/// What a name that is generated from may have, its dash included (`ValidateEndpointSliceName`).
const PREFIX_MAX: usize = 253;

pub struct Mirrors {
    endpoints: Cache<Endpoints>,
    services: Cache<Service>,
    slices: Cache<EndpointSlice>,
    by_label: ByLabel<EndpointSlice>,
}

pub struct World {
    /// Those that are to be mirrored.
    endpoints: Option<Arc<Endpoints>>,
    /// Ours, of this name.
    slices: Vec<Arc<EndpointSlice>>,
}

impl Mirrors {
    pub fn new(caches: &Caches) -> Self {
        let slices = caches.of();
        Self { endpoints: caches.of(), services: caches.of(), by_label: by_label(&slices), slices }
    }
}

impl Controller for Mirrors {
    type World = World;

    fn name(&self) -> &'static str {
        "endpointslice-mirroring-controller"
    }

    fn watches(&self, wake: &Wake) {
        wake.on_own(&self.endpoints);
        wake.on_own(&self.services);
        wake.on(&self.slices, |slice, wake| {
            if let Some(service) = slice.labels().get(SERVICE) {
                wake(Key::new(&slice.namespace().unwrap_or_default(), service));
            }
        });
    }

    async fn observe(&self, key: &Key) -> Option<World> {
        let is_mirrored = self.services.get(key).is_some_and(|service| has_no_selector(&service));
        let endpoints = self.endpoints.get(key).filter(|endpoints| is_mirrored && is_to_be_mirrored(endpoints));
        let ours = [(SERVICE.to_owned(), key.name.to_string()), (MANAGED.into(), CONTROLLER.into())];
        Some(World { endpoints, slices: self.by_label.having(&key.namespace, &BTreeMap::from(ours)) })
    }

    fn plan(&self, world: &World, _: &Key) -> Plan {
        plan(world)
    }
}

fn has_no_selector(service: &Service) -> bool {
    service.spec.as_ref().and_then(|spec| spec.selector.as_ref()).is_none_or(BTreeMap::is_empty)
}

fn is_to_be_mirrored(endpoints: &Endpoints) -> bool {
    endpoints.labels().get(SKIP).is_none_or(|skip| skip != "true") && !endpoints.annotations().contains_key(LEADER)
}

fn plan(world: &World) -> Plan {
    let living = world.slices.iter().filter(|slice| slice.metadata.deletion_timestamp.is_none()).map(|slice| &**slice);
    let Some(endpoints) = &world.endpoints else { return Plan::act(living.map(Action::delete).collect()) };
    let mut there: BTreeMap<Group, Vec<&EndpointSlice>> = BTreeMap::new();
    living.for_each(|slice| there.entry(sorted(group_of(slice))).or_default().push(slice));
    let (groups, skipped) = groups(endpoints);
    let (mut actions, mut missing) = (told(endpoints, skipped), Vec::new());
    for (group, wanted) in groups {
        // The first is it; what is more than that is left over.
        match there.get_mut(&group).filter(|slices| !slices.is_empty()).map(|slices| slices.remove(0)) {
            Some(slice) => actions.extend(filled(endpoints, &group, wanted, slice)),
            None => missing.push((group, wanted)),
        }
    }
    let mut left: BTreeMap<&str, Vec<&EndpointSlice>> = BTreeMap::new();
    there.into_values().flatten().for_each(|slice| left.entry(&slice.address_type).or_default().push(slice));
    for (group, wanted) in missing {
        // What would be deleted becomes what would be made.
        match left.get_mut(group.0).and_then(Vec::pop) {
            Some(slice) => actions.extend(filled(endpoints, &group, wanted, slice)),
            None if endpoints.metadata.deletion_timestamp.is_some() => {}
            None => actions.push(Action::create(&slice(endpoints, &group, wanted, None))),
        }
    }
    actions.extend(left.into_values().flatten().map(Action::delete));
    Plan::act(actions)
}

/// How many addresses are no addresses, and how many were too many.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Skipped {
    invalid: usize,
    many: usize,
}

fn told(endpoints: &Endpoints, skipped: Skipped) -> Vec<Action> {
    let mut out = Vec::new();
    if skipped.invalid > 0 {
        let message = format!("Skipped {} invalid IP addresses when mirroring to EndpointSlices", skipped.invalid);
        out.push(Action::warning(endpoints, "InvalidIPAddress", message));
    }
    if skipped.many > 0 {
        let message = format!(
            "A max of {ADDRESSES_MAX} addresses can be mirrored to EndpointSlices per Endpoints subset. {} addresses were skipped",
            skipped.many + skipped.invalid
        );
        out.push(Action::warning(endpoints, "TooManyAddressesToMirror", message));
    }
    out
}

/// Endpoints that say the same but for their conditions are one.
type Wanted = BTreeMap<String, Endpoint>;

/// As upstream after `RepackSubsets`: subsets of the same ports are one, and what is ready in one of them is ready.
fn groups(endpoints: &Endpoints) -> (BTreeMap<Group, Wanted>, Skipped) {
    let mut by_ports: BTreeMap<Vec<Port>, Vec<&EndpointSubset>> = BTreeMap::new();
    for subset in endpoints.subsets.iter().flatten() {
        by_ports.entry(ports(subset)).or_default().push(subset);
    }
    let (mut groups, mut skipped) = (BTreeMap::<Group, Wanted>::new(), Skipped::default());
    for (ports, subsets) in by_ports {
        let ready = subsets.iter().flat_map(|subset| subset.addresses.iter().flatten()).map(|address| (address, true));
        let waiting = subsets.iter().flat_map(|subset| subset.not_ready_addresses.iter().flatten()).map(|address| (address, false));
        let mut added = BTreeSet::new();
        for (address, is_ready) in ready.chain(waiting) {
            let Some((family, endpoint)) = endpoint(address, is_ready) else {
                skipped.invalid += 1;
                continue;
            };
            let identity = identity(&endpoint);
            if added.len() >= ADDRESSES_MAX && !added.contains(&identity) {
                skipped.many += 1;
                continue;
            }
            added.insert(identity.clone());
            groups.entry((family, ports.clone())).or_default().entry(identity).or_insert(endpoint);
        }
    }
    (groups, skipped)
}

fn ports(subset: &EndpointSubset) -> Vec<Port> {
    let port = |port: &api::k8s::api::core::v1::EndpointPort| Port {
        name: port.name.clone().unwrap_or_default(),
        number: port.port,
        protocol: port.protocol.clone().unwrap_or_else(|| "TCP".into()),
        app_protocol: port.app_protocol.clone(),
    };
    let all: BTreeSet<Port> = subset.ports.iter().flatten().map(port).collect();
    all.into_iter().collect()
}

fn sorted((family, mut ports): Group) -> Group {
    ports.sort_unstable();
    (family, ports)
}

/// With its address as it is usually written.
fn endpoint(address: &EndpointAddress, is_ready: bool) -> Option<(&'static str, Endpoint)> {
    let ip = address.ip.parse::<IpAddr>().ok()?.to_canonical();
    let endpoint = Endpoint {
        addresses: vec![ip.to_string()],
        conditions: Some(EndpointConditions { ready: Some(is_ready), ..EndpointConditions::default() }),
        target_ref: address.target_ref.clone(),
        node_name: address.node_name.clone(),
        hostname: address.hostname.clone().filter(|hostname| !hostname.is_empty()),
        ..Endpoint::default()
    };
    Some((if ip.is_ipv6() { "IPv6" } else { "IPv4" }, endpoint))
}

fn identity(endpoint: &Endpoint) -> String {
    let of = (&endpoint.addresses, &endpoint.hostname, &endpoint.node_name, &endpoint.target_ref);
    format!("{of:?}")
}

/// The slice as it should be, where it is not.
fn filled(endpoints: &Endpoints, group: &Group, wanted: Wanted, old: &EndpointSlice) -> Option<Action> {
    let there: Wanted = old.endpoints.iter().flatten().map(|endpoint| (identity(endpoint), endpoint.clone())).collect();
    let (is_same, new) = (there == wanted && sorted(group_of(old)) == *group, slice(endpoints, group, wanted, Some(old)));
    let of = |slice: &EndpointSlice| {
        let meta = slice.metadata.clone();
        (meta.labels.unwrap_or_default(), meta.annotations.unwrap_or_default(), meta.owner_references.unwrap_or_default())
    };
    (!is_same || of(&new) != of(old)).then(|| Action::update(&new))
}

fn slice(endpoints: &Endpoints, group: &Group, wanted: Wanted, old: Option<&EndpointSlice>) -> EndpointSlice {
    let (mut labels, mut annotations) = (endpoints.labels().clone(), endpoints.annotations().clone());
    labels.insert(SERVICE.into(), endpoints.name_any());
    labels.insert(MANAGED.into(), CONTROLLER.into());
    for own in NOT_COPIED {
        annotations.remove(own);
    }
    let name = endpoints.name_any();
    let prefix = if name.len() < PREFIX_MAX { format!("{name}-") } else { name };
    let fresh = || ObjectMeta { generate_name: Some(prefix), namespace: endpoints.namespace(), ..ObjectMeta::default() };
    let owner = endpoints.controller_owner_ref(&()).map(|owner| OwnerReference { block_owner_deletion: Some(true), ..owner });
    EndpointSlice {
        metadata: ObjectMeta {
            labels: Some(labels),
            annotations: (!annotations.is_empty()).then_some(annotations),
            owner_references: owner.map(|owner| vec![owner]),
            ..old.map_or_else(fresh, |old| old.metadata.clone())
        },
        address_type: group.0.into(),
        endpoints: Some(wanted.into_values().collect()),
        ports: ports_of(&group.1),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn endpoints(subsets: &Value) -> Arc<Endpoints> {
        let metadata = json!({"name": "db", "namespace": "d", "uid": "e", "labels": {"a": "b"},
            "annotations": {"c": "d", "kubectl.kubernetes.io/last-applied-configuration": "{}"}});
        Arc::new(serde_json::from_value(json!({"metadata": metadata, "subsets": subsets})).unwrap())
    }

    fn planned(endpoints: &Arc<Endpoints>, slices: &[EndpointSlice]) -> Vec<Action> {
        let slices = slices.iter().cloned().map(Arc::new).collect();
        plan(&World { endpoints: Some(endpoints.clone()), slices }).actions
    }

    fn made(actions: &[Action]) -> Vec<EndpointSlice> {
        let objects = actions.iter().filter_map(|action| match action {
            Action::Create { object, .. } | Action::Update { object, .. } => Some(object.clone()),
            _ => None,
        });
        let slices = objects.enumerate().map(|(n, object)| {
            let mut slice: EndpointSlice = serde_json::from_value(object).unwrap();
            slice.metadata.name.get_or_insert(format!("db-{n}"));
            slice.metadata.generate_name = None;
            slice
        });
        slices.collect()
    }

    #[test]
    fn each_set_of_ports_and_each_family_has_its_slice() {
        let subsets = json!([
            {"addresses": [{"ip": "10.0.0.1", "hostname": "one"}, {"ip": "2001:DB8::1"}], "notReadyAddresses": [{"ip": "10.0.0.2"}, {"ip": "x"}],
             "ports": [{"name": "sql", "port": 5432, "protocol": "TCP"}]},
            {"addresses": [{"ip": "10.0.0.2"}], "ports": [{"name": "sql", "port": 5432}]},
            {"addresses": [{"ip": "10.0.0.3"}], "ports": [{"port": 80}]}]);
        let endpoints = endpoints(&subsets);
        let actions = planned(&endpoints, &[]);
        let Action::Event { reason, message, .. } = &actions[0] else { panic!("{actions:?}") };
        assert_eq!((*reason, message.as_str()), ("InvalidIPAddress", "Skipped 1 invalid IP addresses when mirroring to EndpointSlices"));
        let slices = made(&actions);
        let told = slices.iter().map(|slice| {
            let addresses: Vec<&str> = slice.endpoints.iter().flatten().map(|endpoint| endpoint.addresses[0].as_str()).collect();
            let ready = slice.endpoints.iter().flatten().all(|endpoint| endpoint.conditions.as_ref().unwrap().ready == Some(true));
            (slice.address_type.as_str(), group_of(slice).1[0].number, addresses, ready)
        });
        let wanted = [
            ("IPv4", 80, vec!["10.0.0.3"], true),
            ("IPv4", 5432, vec!["10.0.0.1", "10.0.0.2"], true),
            ("IPv6", 5432, vec!["2001:db8::1"], true),
        ];
        assert_eq!(told.collect::<Vec<_>>(), wanted, "what is ready somewhere is ready");
        let meta = &slices[0].metadata;
        assert_eq!(json!(meta.labels), json!({"a": "b", SERVICE: "db", MANAGED: CONTROLLER}));
        assert_eq!((json!(meta.annotations), meta.owner_references.as_ref().unwrap()[0].kind.as_str()), (json!({"c": "d"}), "Endpoints"));
        // Once it is so it stays so.
        assert_eq!(planned(&endpoints, &slices).len(), 1, "but for the event");
    }

    #[test]
    fn slices_follow_and_are_used_again() {
        let port = |number: u16| json!([{"addresses": [{"ip": "10.0.0.1"}], "ports": [{"port": number}]}]);
        let slices = made(&planned(&endpoints(&port(80)), &[]));
        let moved = planned(&endpoints(&port(81)), &slices);
        let [Action::Update { object, .. }] = &moved[..] else { panic!("{moved:?}") };
        assert_eq!((&object["metadata"]["name"], &object["ports"][0]["port"]), (&json!("db-0"), &json!(81)));
        // Of two that say the same one goes, and all where there is nothing to mirror.
        let twice = [
            slices[0].clone(),
            EndpointSlice { metadata: ObjectMeta { name: Some("more".into()), ..slices[0].metadata.clone() }, ..slices[0].clone() },
        ];
        assert!(matches!(&planned(&endpoints(&port(80)), &twice)[..], [Action::Delete { path, .. }] if path.ends_with("/more")));
        let none = plan(&World { endpoints: None, slices: twice.into_iter().map(Arc::new).collect() });
        assert_eq!(none.actions.len(), 2);
        assert!(matches!(&planned(&endpoints(&json!([])), &slices)[..], [Action::Delete { .. }]));
    }

    #[test]
    fn no_more_are_mirrored_than_are_allowed() {
        let all: Vec<Value> = (0..1100).map(|n| json!({"ip": format!("10.0.{}.{}", n / 250, n % 250)})).collect();
        let actions = planned(&endpoints(&json!([{"addresses": all, "ports": [{"port": 1}]}])), &[]);
        let Action::Event { message, .. } = &actions[0] else { panic!() };
        assert_eq!(message, "A max of 1000 addresses can be mirrored to EndpointSlices per Endpoints subset. 100 addresses were skipped");
        assert_eq!(made(&actions)[0].endpoints.as_ref().map(Vec::len), Some(1000));
    }

    #[test]
    fn locks_and_what_says_so_are_not_mirrored() {
        let of = |metadata: Value| is_to_be_mirrored(&serde_json::from_value(json!({"metadata": metadata})).unwrap());
        assert!(of(json!({})) && of(json!({"labels": {SKIP: "false"}})));
        assert!(!of(json!({"labels": {SKIP: "true"}})) && !of(json!({"annotations": {LEADER: ""}})));
    }
}
