//! `services/proxy` -> one of a Service's ready endpoints. Source: `pkg/registry/core/service/storage/storage.go`, `ResourceLocation`.

use std::{cell::RefCell, collections::HashMap, sync::Arc};

use api::{GroupResource, Gvk, Key, Status};
use apiserver::{
    engine::Engine,
    kind::{Connect, Ctx, Handler, Subresource, Target, names},
};
use async_trait::async_trait;
use serde::Deserialize;
use serde_json::Value;

use super::shape;
use crate::common::{
    Read,
    node::{join_path, split_scheme_name_port},
};

/// How much of pods is looked through for one request. An address of which that says nothing leads nowhere.
const POD_BYTES_MAX: usize = 8 << 20;

pub fn subresource() -> Subresource {
    Subresource {
        name: "proxy".into(),
        body: Gvk::new("", "v1", "ServiceProxyOptions"),
        schema: apiserver::schema::Schema::Open,
        verbs: names(&["create", "delete", "get", "patch", "update"]),
        handler: Handler::Connect(Arc::new(ToEndpoint)),
    }
}

struct ToEndpoint;

#[async_trait]
impl Connect for ToEndpoint {
    fn takes_path(&self) -> bool {
        true
    }

    fn options(&self, path: &str, _query: &str) -> Option<Value> {
        Some(crate::common::node::proxy_options(path))
    }

    async fn target(&self, ctx: &Ctx<'_>, path: &str, query: &str) -> Result<Target, Status> {
        let bad = || Status::bad_request(format!("invalid service request {:?}", ctx.name));
        let (scheme, name, asked) = split_scheme_name_port(ctx.name).ok_or_else(bad)?;
        let key = Key::new(ctx.namespace, name);
        let port = match asked.parse::<i64>() {
            Ok(number) => {
                let service = ctx.engine.get(&GroupResource::new("", "services"), &key).await?.value();
                port_named(&service, number, name)?
            }
            Err(_) => asked.to_owned(),
        };
        let endpoints = ctx.engine.get(&GroupResource::new("", "endpoints"), &key).await?.value();
        let pods = Pods { engine: ctx.engine, namespace: ctx.namespace, seen: RefCell::default() };
        let none = |name: &str| Status::unavailable(format!("no endpoints available for service {name:?}"));
        if endpoints.list("subsets").is_empty() {
            return Err(none(name));
        }
        let (host, port) = choose(&endpoints, &port, rand::random(), |address| pods.have(address)).ok_or_else(|| none(ctx.name))?;
        let rewrite_prefix = Some(format!("/api/v1/namespaces/{}/services/{}/proxy", ctx.namespace, ctx.name));
        let path_and_query = join_path(path, query);
        let scheme = if scheme == "https" { "https" } else { "http" };
        Ok(Target { scheme, host, port, path_and_query, node_agent: None, rewrite_prefix })
    }
}

/// A number is looked up in the Service: endpoints know its ports by name.
fn port_named(service: &Value, number: i64, name: &str) -> Result<String, Status> {
    let port = shape::ports(service).iter().find(|p| p.int("port") == Some(number));
    let none = || Status::unavailable(format!("no service port {number} found for service {name:?}"));
    Ok(port.ok_or_else(none)?.text("name").to_owned())
}

/// An address and a port of that name, beginning where `random` falls; only those that `accept` lets pass.
fn choose(endpoints: &Value, port: &str, random: u64, accept: impl Fn(&Value) -> bool) -> Option<(String, u16)> {
    let found = endpoints.list("subsets").iter().filter_map(|subset| {
        let number = subset.list("ports").iter().find(|p| p.text("name") == port)?.int("port")?;
        Some((subset.list("addresses"), u16::try_from(number).ok()?))
    });
    let all: Vec<(&Value, u16)> = found.flat_map(|(addresses, number)| addresses.iter().map(move |a| (a, number))).collect();
    let start = usize::try_from(random % u64::try_from(all.len().max(1)).ok()?).ok()?;
    let (before, after) = all.split_at(start.min(all.len()));
    let chosen = after.iter().chain(before).find(|(address, _)| accept(address))?;
    Some((chosen.0.text("ip").to_owned(), chosen.1))
}

/// The pod of the Service's own namespace that an address says it belongs to (`isValidAddress`).
fn own_pod<'a>(namespace: &str, address: &'a Value) -> Option<&'a str> {
    let target = address.at("targetRef").filter(|t| t.text("kind") == "Pod" && t.text("namespace") == namespace)?;
    Some(target.text("name")).filter(|name| !name.is_empty())
}

/// The pods of one namespace, as one request sees them: each is looked at once, however many addresses name it.
struct Pods<'a> {
    engine: &'a Engine,
    namespace: &'a str,
    seen: RefCell<Seen>,
}

#[derive(Default)]
struct Seen {
    addresses: HashMap<String, Vec<String>>,
    bytes: usize,
}

impl Pods<'_> {
    /// Endpoints that anybody may write must not lead to where pods are not, nor to those of other namespaces.
    fn have(&self, address: &Value) -> bool {
        let Some(name) = own_pod(self.namespace, address) else { return false };
        let (ip, mut seen) = (address.text("ip"), self.seen.borrow_mut());
        if !seen.addresses.contains_key(name) {
            let addresses = self.addresses(name, &mut seen.bytes);
            seen.addresses.insert(name.to_owned(), addresses);
        }
        seen.addresses.get(name).is_some_and(|all| all.iter().any(|known| known == ip))
    }

    fn addresses(&self, name: &str, looked_at: &mut usize) -> Vec<String> {
        let pods = GroupResource::new("", "pods");
        let found = self.engine.cached(&pods, &Key::new(self.namespace, name)).filter(|_| *looked_at < POD_BYTES_MAX);
        let Some(pod) = found else { return Vec::new() };
        *looked_at += pod.stored().len();
        pod.part::<Pod>().ok().and_then(|pod| pod.status).map(PodStatus::addresses).unwrap_or_default()
    }
}

/// Of a pod, what it is reached at.
#[derive(Deserialize)]
struct Pod {
    status: Option<PodStatus>,
}

#[derive(Deserialize)]
struct PodStatus {
    #[serde(rename = "podIP")]
    ip: Option<String>,
    #[serde(rename = "podIPs")]
    ips: Option<Vec<PodIp>>,
}

#[derive(Deserialize)]
struct PodIp {
    ip: Option<String>,
}

impl PodStatus {
    fn addresses(self) -> Vec<String> {
        self.ip.into_iter().chain(self.ips.into_iter().flatten().filter_map(|one| one.ip)).collect()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_address_with_the_port_is_chosen() {
        let endpoints = json!({"subsets": [
            {"addresses": [{"ip": "10.0.0.1"}, {"ip": "10.0.0.2"}], "ports": [{"name": "web", "port": 80}]},
            {"notReadyAddresses": [{"ip": "10.0.0.3"}], "ports": [{"name": "web", "port": 81}]},
            {"addresses": [{"ip": "10.0.0.4"}], "ports": [{"name": "dns", "port": 53}]}]});
        let at = |port: &str, random| choose(&endpoints, port, random, |_| true);
        assert_eq!(at("web", 0), Some(("10.0.0.1".into(), 80)));
        assert_eq!(at("web", 3), Some(("10.0.0.2".into(), 80)));
        assert_eq!(at("dns", 9), Some(("10.0.0.4".into(), 53)));
        assert_eq!(at("none", 0), None);
        assert_eq!(choose(&endpoints, "web", 0, |a| a["ip"] == "10.0.0.2"), Some(("10.0.0.2".into(), 80)));
        assert_eq!(choose(&endpoints, "web", 0, |_| false), None);
        assert_eq!(choose(&json!({}), "web", 7, |_| true), None);
    }

    #[test]
    fn addresses_lead_to_pods_of_their_own_namespace_only() {
        let of = |target: Value| own_pod("a", &json!({"ip": "10.0.0.1", "targetRef": target})).map(str::to_owned);
        assert_eq!(of(json!({"kind": "Pod", "namespace": "a", "name": "p"})).as_deref(), Some("p"));
        for foreign in [
            json!({"kind": "Pod", "namespace": "b", "name": "p"}),
            json!({"kind": "Pod", "name": "p"}),
            json!({"kind": "Node", "namespace": "a", "name": "p"}),
            json!({"kind": "Pod", "namespace": "a"}),
            Value::Null,
        ] {
            assert_eq!(of(foreign.clone()), None, "{foreign}");
        }
    }

    #[test]
    fn numbers_become_names() {
        let service = json!({"spec": {"ports": [{"name": "web", "port": 80}]}});
        assert_eq!(port_named(&service, 80, "s"), Ok("web".into()));
        assert_eq!(port_named(&service, 81, "s").unwrap_err().message, "no service port 81 found for service \"s\"");
    }
}
