//! Service and its pods -> backends: what `endpoints` and `endpointslice` share.
//!
//! Source: `staging/src/k8s.io/endpointslice/util`, `pkg/api/v1/pod/util.go`.

use api::{
    k8s::{
        api::core::v1::{ObjectReference, Service, ServicePort},
        apimachinery::pkg::util::intstr::IntOrString,
    },
    selector::Labels,
};
use client::{Cache, Caches, pods::Pod};
use reconcile::{Wake, own_key};

use crate::members::Members;

/// Services with a selector and the pods they select.
pub struct Selected {
    pub services: Cache<Service>,
    pods: Cache<Pod>,
    members: Members,
}

/// One pod behind a service.
#[derive(Clone, Debug, PartialEq)]
pub struct Backend {
    pub addresses: Vec<String>,
    /// Name, number, protocol, application protocol; a named port that the pod lacks is left out.
    pub ports: Vec<Port>,
    /// Passes its readiness probes.
    pub serving: bool,
    pub terminating: bool,
    pub node: Option<String>,
    pub hostname: Option<String>,
    pub target: ObjectReference,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Port {
    pub name: String,
    pub number: i32,
    pub protocol: String,
    pub app_protocol: Option<String>,
}

impl Selected {
    pub fn new(caches: &Caches) -> Self {
        let (services, pods) = (caches.of::<Service>(), caches.of::<Pod>());
        Self { members: Members::new(&services, &pods, selector), services, pods }
    }

    /// Wakes a service's key when it or one of its pods changes.
    pub fn watches(&self, wake: &Wake) {
        wake.on_own(&self.services);
        let members = self.members.clone();
        wake.on(&self.pods, move |pod, wake| members.owners(pod, wake));
    }

    /// The backends of a service, in the order of their pods' names; `None` where somebody else keeps its endpoints.
    pub fn backends(&self, service: &Service) -> Option<Vec<Backend>> {
        selector(service)?;
        let pods = self.members.pods(&own_key(service));
        Some(pods.iter().filter_map(|pod| backend(service, pod)).collect())
    }
}

impl Backend {
    /// Whether traffic may go there; `publish` is the service's `publishNotReadyAddresses`.
    pub fn ready(&self, publish: bool) -> bool {
        publish || (self.serving && !self.terminating)
    }
}

/// No cluster address: its name stands for the pods themselves.
pub fn is_headless(service: &Service) -> bool {
    let address = service.spec.as_ref().and_then(|s| s.cluster_ip.as_deref()).unwrap_or("");
    address.is_empty() || address == "None"
}

/// Whose endpoints we keep: an empty selector leaves them to somebody else.
fn selector(service: &Service) -> Option<Labels> {
    let spec = service.spec.as_ref().filter(|s| s.type_.as_deref() != Some("ExternalName"))?;
    Some(Labels::from_map(spec.selector.as_ref().filter(|s| !s.is_empty())?))
}

fn backend(service: &Service, pod: &Pod) -> Option<Backend> {
    let (spec, status) = (pod.spec.as_ref()?, pod.status.as_ref()?);
    if matches!(status.phase.as_deref(), Some("Succeeded" | "Failed")) {
        return None;
    }
    let listed: Vec<String> = status.pod_ips.iter().flatten().map(|ip| ip.ip.clone()).collect();
    let addresses = if listed.is_empty() { status.pod_ip.clone().into_iter().collect() } else { listed };
    if addresses.is_empty() {
        return None;
    }
    let named = spec.hostname.as_ref().filter(|h| !h.is_empty() && spec.subdomain == service.metadata.name);
    let wanted = service.spec.as_ref().and_then(|s| s.ports.as_deref()).unwrap_or_default();
    Some(Backend {
        addresses,
        ports: wanted.iter().filter_map(|port| resolve(port, pod)).collect(),
        serving: pod.ready_since().is_some(),
        terminating: pod.metadata.deletion_timestamp.is_some(),
        node: spec.node_name.clone(),
        hostname: named.cloned(),
        target: ObjectReference {
            kind: Some("Pod".into()),
            namespace: pod.namespace(),
            name: pod.metadata.name.clone(),
            uid: pod.uid(),
            ..ObjectReference::default()
        },
    })
}

/// The pod's number for a service's port.
fn resolve(port: &ServicePort, pod: &Pod) -> Option<Port> {
    let protocol = port.protocol.clone().unwrap_or_else(|| "TCP".into());
    let number = match &port.target_port {
        None => port.port,
        Some(IntOrString::Int(0)) => port.port,
        Some(IntOrString::Int(number)) => *number,
        Some(IntOrString::String(name)) => named_port(pod, name, &protocol)?,
    };
    Some(Port { name: port.name.clone().unwrap_or_default(), number, protocol, app_protocol: port.app_protocol.clone() })
}

fn named_port(pod: &Pod, name: &str, protocol: &str) -> Option<i32> {
    let spec = pod.spec.as_ref()?;
    let ports = podspec::running(spec).flat_map(|c| c.ports.iter().flatten());
    let fits =
        |p: &&api::k8s::api::core::v1::ContainerPort| p.name.as_deref() == Some(name) && p.protocol.as_deref().unwrap_or("TCP") == protocol;
    ports.into_iter().find(fits).map(|p| p.container_port)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn named_ports_are_looked_up_in_the_pod() {
        let service = json!({"metadata": {"name": "web"}, "spec": {"ports": [
            {"name": "a", "port": 80, "targetPort": "http"}, {"name": "b", "port": 81, "targetPort": "none"}, {"name": "c", "port": 82}]}});
        let pod = json!({"metadata": {"name": "p"}, "status": {"podIP": "10.0.0.1", "phase": "Running"},
            "spec": {"hostname": "h", "subdomain": "web", "containers": [{"name": "c", "ports": [{"name": "http", "containerPort": 8080}]}]}});
        let (service, pod) = (serde_json::from_value(service).unwrap(), serde_json::from_value(pod).unwrap());
        let backend = backend(&service, &pod).unwrap();
        let ports: Vec<(&str, i32)> = backend.ports.iter().map(|p| (p.name.as_str(), p.number)).collect();
        assert_eq!(ports, [("a", 8080), ("c", 82)]);
        assert_eq!((backend.hostname.as_deref(), backend.ready(false), backend.ready(true)), (Some("h"), false, true));
    }
}
