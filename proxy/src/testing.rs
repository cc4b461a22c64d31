//! Short words -> services and slices, for tests.

use std::net::SocketAddr;

use api::k8s::api::{
    core::v1::Service,
    discovery::v1::{self, EndpointSlice},
};
use serde_json::{Value, json};

use crate::{family::Family, model::Endpoint};

/// `name` is `namespace/name`.
pub fn service(name: &str, spec: Value) -> Service {
    let (namespace, name) = name.split_once('/').unwrap();
    serde_json::from_value(json!({"metadata": {"namespace": namespace, "name": name}, "spec": spec})).unwrap()
}

/// A slice of the service with one port; endpoints are `address@node`, all of the family of the first (IPv4 where there is none).
pub fn slice(service: &str, port_name: &str, protocol: &str, port: u16, endpoints: &[&str]) -> EndpointSlice {
    let (namespace, name) = service.split_once('/').unwrap();
    let family = if endpoints.first().is_some_and(|e| e.contains(':')) { Family::V6 } else { Family::V4 };
    let endpoints: Vec<Value> = endpoints
        .iter()
        .map(|e| e.split_once('@').unwrap())
        .map(|(address, node)| json!({"addresses": [address], "nodeName": node, "conditions": {"ready": true}}))
        .collect();
    serde_json::from_value(json!({
        "metadata": {"namespace": namespace, "name": format!("{name}-{port_name}"), "labels": {"kubernetes.io/service-name": name}},
        "addressType": family.word(), "endpoints": endpoints, "ports": [{"name": port_name, "protocol": protocol, "port": port}],
    }))
    .unwrap()
}

/// The slice with each endpoint changed; `change` gets its place in the list.
pub fn with(slice: &EndpointSlice, change: impl Fn(usize, &mut v1::Endpoint)) -> EndpointSlice {
    let mut slice = slice.clone();
    slice.endpoints.iter_mut().flatten().enumerate().for_each(|(i, e)| change(i, e));
    slice
}

pub fn addr(text: &str) -> Endpoint {
    let address: SocketAddr = text.parse().unwrap();
    Endpoint { ip: address.ip(), port: address.port() }
}
