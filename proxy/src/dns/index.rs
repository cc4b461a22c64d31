//! Cache events -> services by name, and names by address: each looked up in one step.

use std::{
    collections::{BTreeMap, HashMap},
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use api::{
    Key,
    k8s::api::{
        core::v1::Service,
        discovery::v1::{Endpoint, EndpointSlice},
    },
    steps,
};
use client::Caches;
use parking_lot::RwLock;

use crate::service_tracker::{Entry, ServiceTracker, service_of};

/// What the zone is made of. Cloning shares it.
#[derive(Clone, Default)]
pub struct Index {
    tracker: ServiceTracker,
    reverse: Arc<RwLock<Reverse>>,
    complete: Arc<AtomicBool>,
    generation: Arc<AtomicU64>,
}

/// Who an address belongs to. Services come before endpoints, as CoreDNS looks for them first.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Holder {
    Service(Key),
    /// The service, and the endpoint's name below it.
    Endpoint(Key, String),
}

#[derive(Default)]
struct Reverse {
    /// Several slices may name one endpoint: each name is counted.
    holders: HashMap<IpAddr, BTreeMap<Holder, usize>>,
    /// Services per namespace.
    namespaces: BTreeMap<String, usize>,
    /// By service, by an endpoint's name in lower case: the slices that it is in, each as often as it names it.
    places: HashMap<Key, HashMap<Box<str>, Vec<Arc<str>>>>,
}

#[derive(Clone, Copy)]
enum Change {
    Come,
    Gone,
}

impl Index {
    /// Filled by the caches from now on.
    pub fn follow(caches: &Caches) -> Self {
        let index = Self::default();
        let of_services = index.clone();
        caches.of::<Service>().on_change(move |old, new| of_services.service(old, new));
        let of_slices = index.clone();
        caches.of::<EndpointSlice>().on_change(move |old, new| of_slices.slice(old, new));
        index
    }

    pub fn service(&self, old: Option<&Arc<Service>>, new: Option<&Arc<Service>>) {
        self.tracker.service(old, new);
        let mut reverse = self.reverse.write();
        old.into_iter().for_each(|s| reverse.service(s, Change::Gone));
        new.into_iter().for_each(|s| reverse.service(s, Change::Come));
        self.generation.fetch_add(1, Ordering::Release);
    }

    pub fn slice(&self, old: Option<&Arc<EndpointSlice>>, new: Option<&Arc<EndpointSlice>>) {
        self.tracker.slice(old, new);
        let mut reverse = self.reverse.write();
        old.into_iter().for_each(|s| reverse.slice(s, Change::Gone));
        new.into_iter().for_each(|s| reverse.slice(s, Change::Come));
        self.generation.fetch_add(1, Ordering::Release);
    }

    /// The caches are filled: what is not here is not there.
    pub fn set_complete(&self) {
        self.complete.store(true, Ordering::Release);
        self.generation.fetch_add(1, Ordering::Release);
    }

    pub fn is_complete(&self) -> bool {
        self.complete.load(Ordering::Acquire)
    }

    /// A service and all of its slices. O(slices).
    pub fn entry(&self, namespace: &str, name: &str) -> Entry {
        self.tracker.entry(&Key::new(namespace, name))
    }

    /// A service without its slices.
    pub fn alone(&self, namespace: &str, name: &str) -> Option<Arc<Service>> {
        self.tracker.entry_with(&Key::new(namespace, name), &[]).service
    }

    /// A service and those of its slices that have an endpoint of that name, which is in lower case.
    pub fn entry_with(&self, namespace: &str, name: &str, endpoint: &str) -> Entry {
        let key = Key::new(namespace, name);
        let slices = self.reverse.read().places.get(&key).and_then(|places| places.get(endpoint)).cloned().unwrap_or_default();
        self.tracker.entry_with(&key, &slices)
    }

    /// Whether the namespace has any services.
    pub fn has_namespace(&self, namespace: &str) -> bool {
        self.reverse.read().namespaces.contains_key(namespace)
    }

    /// Rises after each change: what was read under one number holds for as long as it stands.
    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    pub fn holders(&self, address: IpAddr) -> Vec<Holder> {
        self.reverse.read().holders.get(&address).map(|h| h.keys().cloned().collect()).unwrap_or_default()
    }
}

/// An endpoint's name below its service: its host name, or its address with dashes.
pub fn endpoint_name(endpoint: &Endpoint, address: IpAddr) -> String {
    let named = endpoint.hostname.clone().filter(|h| !h.is_empty());
    named.unwrap_or_else(|| address.to_string().replace(['.', ':'], "-"))
}

/// Whether the endpoint is published: absent reads as ready.
pub fn is_ready(endpoint: &Endpoint) -> bool {
    endpoint.conditions.as_ref().and_then(|c| c.ready).unwrap_or(true)
}

impl Reverse {
    fn service(&mut self, service: &Service, change: Change) {
        let meta = &service.metadata;
        let key = Key::new(meta.namespace.as_deref().unwrap_or(""), meta.name.as_deref().unwrap_or(""));
        for address in cluster_ips(service) {
            count(self.holders.entry(address).or_default(), Holder::Service(key.clone()), change);
            self.drop_empty(address);
        }
        count(&mut self.namespaces, key.namespace, change);
    }

    fn slice(&mut self, slice: &EndpointSlice, change: Change) {
        let Some(key) = service_of(slice) else { return };
        let slice_name: Arc<str> = slice.metadata.name.as_deref().unwrap_or_default().into();
        for endpoint in steps::counted(slice.endpoints.iter().flatten()) {
            for address in endpoint.addresses.iter().filter_map(|a| a.parse().ok()) {
                let name = endpoint_name(endpoint, address);
                self.place(&key, &name, &slice_name, change);
                if is_ready(endpoint) {
                    count(self.holders.entry(address).or_default(), Holder::Endpoint(key.clone(), name), change);
                    self.drop_empty(address);
                }
            }
        }
        if self.places.get(&key).is_some_and(HashMap::is_empty) {
            self.places.remove(&key);
        }
    }

    fn place(&mut self, service: &Key, endpoint: &str, slice: &Arc<str>, change: Change) {
        let (places, name) = (self.places.entry(service.clone()).or_default(), endpoint.to_ascii_lowercase());
        match change {
            Change::Come => places.entry(name.into()).or_default().push(slice.clone()),
            Change::Gone => {
                let Some(slices) = places.get_mut(&*name) else { return };
                if let Some(at) = slices.iter().position(|other| other == slice) {
                    slices.swap_remove(at);
                }
                if slices.is_empty() {
                    places.remove(&*name);
                }
            }
        }
    }

    fn drop_empty(&mut self, address: IpAddr) {
        if self.holders.get(&address).is_some_and(BTreeMap::is_empty) {
            self.holders.remove(&address);
        }
    }
}

/// A service's addresses of both families; none for headless and ExternalName services.
pub fn cluster_ips(service: &Service) -> Vec<IpAddr> {
    let Some(spec) = &service.spec else { return Vec::new() };
    if spec.type_.as_deref() == Some("ExternalName") {
        return Vec::new();
    }
    let mut all: Vec<IpAddr> = spec.cluster_ips.iter().flatten().chain(&spec.cluster_ip).filter_map(|ip| ip.parse().ok()).collect();
    all.sort_unstable();
    all.dedup();
    all
}

fn count<K: Ord>(counts: &mut BTreeMap<K, usize>, key: K, change: Change) {
    match (change, counts.get_mut(&key)) {
        (Change::Come, Some(count)) => *count += 1,
        (Change::Come, None) => drop(counts.insert(key, 1)),
        (Change::Gone, Some(count)) if *count > 1 => *count -= 1,
        (Change::Gone, _) => drop(counts.remove(&key)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{service, slice};
    use serde_json::json;

    #[test]
    fn addresses_lead_back_to_names_until_the_last_holder_goes() {
        let index = Index::default();
        let web = Arc::new(service("d/web", json!({"clusterIP": "10.96.0.1"})));
        let slices = [slice("d/web", "a", "TCP", 80, &["10.0.0.1@n"]), slice("d/web", "b", "TCP", 81, &["10.0.0.1@n"])].map(Arc::new);
        index.service(None, Some(&web));
        slices.iter().for_each(|s| index.slice(None, Some(s)));
        let pod = Holder::Endpoint(Key::new("d", "web"), "10-0-0-1".into());
        assert_eq!(index.holders("10.0.0.1".parse().unwrap()), vec![pod.clone()]);
        assert_eq!(index.holders("10.96.0.1".parse().unwrap()), vec![Holder::Service(Key::new("d", "web"))]);
        index.slice(Some(&slices[0]), None);
        assert_eq!(index.holders("10.0.0.1".parse().unwrap()), vec![pod]);
        index.slice(Some(&slices[1]), None);
        index.service(Some(&web), None);
        assert!(index.holders("10.0.0.1".parse().unwrap()).is_empty());
        assert!(!index.has_namespace("d"));
        let reverse = index.reverse.read();
        assert!(reverse.holders.is_empty() && reverse.places.is_empty(), "nothing is left behind");
    }
}
