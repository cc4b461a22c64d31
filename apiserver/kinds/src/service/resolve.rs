//! A Service, and a port of it -> the address of one of its ready endpoints, for calls of the API server's own.
//!
//! Source: `ResolveEndpoint` in apiserver `pkg/util/proxy/proxy.go`. What is looked at is cached: whoever calls keeps the connection.

use std::net::{IpAddr, SocketAddr};

use api::{GroupResource, Key};
use apiserver::{connect::is_global_unicast, engine::Engine};
use rand::seq::IteratorRandom;
use serde_json::Value;

use super::shape;
use crate::common::Read;

pub const SERVICE_NAME: &str = "kubernetes.io/service-name";

/// One of [`endpoints`].
///
/// # Errors
/// There is no such Service or port, or nobody behind it.
pub fn endpoint(engine: &Engine, key: &Key, port: u16) -> Result<SocketAddr, String> {
    let found = endpoints(engine, key, port, is_global_unicast)?;
    found.into_iter().choose(&mut rand::rng()).ok_or_else(|| none(&key.name))
}

/// All ready endpoints; slices that anybody may write lead to where `may_be_called` says alone.
///
/// # Errors
/// There is no such Service or port, or nobody behind it.
pub fn endpoints(engine: &Engine, key: &Key, port: u16, may_be_called: fn(IpAddr) -> bool) -> Result<Vec<SocketAddr>, String> {
    let name = &key.name;
    let service = engine.cached(&services(), key).ok_or_else(|| format!("service {name:?} not found"))?.value();
    let kind = service.at("spec").text("type");
    if kind == "ExternalName" {
        return Err(format!("unsupported service type {kind:?}"));
    }
    let found = shape::ports(&service).iter().find(|p| p.int("port") == Some(i64::from(port)));
    let port = found.ok_or_else(|| format!("no service port {port} found for service {name:?}"))?.text("name").to_owned();
    let found: Vec<SocketAddr> = slices(engine, key).iter().flat_map(|slice| addresses(slice, &port, may_be_called)).collect();
    if found.is_empty() { Err(none(name)) } else { Ok(found) }
}

/// The slices of a Service.
pub fn slices(engine: &Engine, key: &Key) -> Vec<Value> {
    let slices = engine.cached_list(&GroupResource::new("discovery.k8s.io", "endpointslices"), Some(&key.namespace));
    slices.iter().filter(|slice| slice.label(SERVICE_NAME) == Some(&key.name)).map(|slice| slice.value()).collect()
}

/// The name that a Service of type ExternalName stands for.
pub fn external_name(engine: &Engine, key: &Key) -> Option<String> {
    let service = engine.cached(&services(), key)?.value();
    let spec = service.at("spec");
    (spec.text("type") == "ExternalName").then(|| spec.text("externalName").to_owned())
}

fn services() -> GroupResource {
    GroupResource::new("", "services")
}

fn none(name: &str) -> String {
    format!("no endpoints available for service {name:?}")
}

/// Of the ready endpoints of a slice.
fn addresses(slice: &Value, port: &str, may_be_called: fn(IpAddr) -> bool) -> Vec<SocketAddr> {
    let number = slice.list("ports").iter().find(|p| p.text("name") == port).and_then(|p| u16::try_from(p.int("port")?).ok());
    let Some(number) = number else { return Vec::new() };
    let is_ready = |endpoint: &&Value| endpoint.at("conditions").at("ready").and_then(Value::as_bool).unwrap_or(true);
    let ready = slice.list("endpoints").iter().filter(is_ready);
    let first = ready.filter_map(|endpoint| endpoint.list("addresses").first()?.as_str()?.parse::<IpAddr>().ok());
    first.filter(|address| may_be_called(*address)).map(|address| SocketAddr::new(address, number)).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn ready_endpoints_are_taken_and_none_that_is_ours() {
        let endpoint = |address: &str, ready: Value| json!({"addresses": [address], "conditions": {"ready": ready}});
        let slice = json!({
            "ports": [{"name": "a", "port": 443}, {"name": "b", "port": null}],
            "endpoints": [
                endpoint("10.0.0.1", json!(true)), endpoint("10.0.0.2", json!(false)), endpoint("10.0.0.3", Value::Null),
                endpoint("127.0.0.1", json!(true)), endpoint("169.254.169.254", json!(true)), endpoint("x", json!(true)), json!({}), Value::Null,
            ],
        });
        let texts = |port: &str| addresses(&slice, port, is_global_unicast).iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(texts("a"), ["10.0.0.1:443", "10.0.0.3:443"]);
        assert!(texts("b").is_empty() && texts("c").is_empty() && addresses(&Value::Null, "a", is_global_unicast).is_empty());
    }
}
