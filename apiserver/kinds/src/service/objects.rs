//! A Service and its address -> the IPAddress that says so, and back. Source: `pkg/registry/core/service/ipallocator/ipallocator.go`.

use std::net::IpAddr;

use api::{GroupResource, Key};
use apiserver::engine::Object;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::{
    ipaddress::{ALLOCATOR, FAMILY_LABEL, MANAGED_BY_LABEL},
    net,
};

pub fn services() -> GroupResource {
    GroupResource::new("", "services")
}

pub fn ip_addresses() -> GroupResource {
    GroupResource::new("networking.k8s.io", "ipaddresses")
}

pub fn service_cidrs() -> GroupResource {
    GroupResource::new("networking.k8s.io", "servicecidrs")
}

pub fn key(address: IpAddr) -> Key {
    Key::new("", &address.to_string())
}

/// Complete but for what the system sets.
pub fn ip_address(address: IpAddr, service: &Key) -> Value {
    json!({
        "metadata": {"name": address.to_string(), "labels": {FAMILY_LABEL: net::family(address), MANAGED_BY_LABEL: ALLOCATOR}},
        "spec": {"parentRef": {"resource": "services", "namespace": service.namespace, "name": service.name}},
    })
}

/// The Service that an IPAddress belongs to; `None` where it is something else's.
pub fn parent(object: &Object) -> Option<Key> {
    #[derive(Deserialize)]
    struct Part {
        spec: Spec,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Spec {
        parent_ref: ParentRef,
    }
    #[derive(Deserialize)]
    struct ParentRef {
        #[serde(default)]
        group: Option<String>,
        #[serde(default)]
        resource: Option<String>,
        #[serde(default)]
        namespace: Option<String>,
        #[serde(default)]
        name: Option<String>,
    }
    let ParentRef { group, resource, namespace, name } = object.part::<Part>().ok()?.spec.parent_ref;
    let is_service = group.is_none_or(|group| group.is_empty()) && resource.as_deref() == Some("services");
    is_service.then(|| Key::new(&namespace.unwrap_or_default(), &name.unwrap_or_default()))
}
