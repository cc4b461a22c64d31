//! Where API servers are reached -> the `kubernetes` Service in `default`, its Endpoints and its EndpointSlices.
//!
//! Source: `pkg/controlplane/controller/kubernetesservice`, `pkg/controlplane/reconcilers` (`endpointsadapter.go`, `lease.go`). Each server writes what
//! follows from the same set of addresses, so that several of them agree. Upstream knows one port and one family for all: servers of another port or
//! family have a subset, and a slice, of their own here.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::Arc,
};

use api::{
    GroupResource, Key, Status,
    csr::{SERVING_NAMES, SERVING_NAMES_KEY},
};
use apiserver::engine::Engine;
use serde_json::{Value, json};

use crate::{
    Config,
    auth::system_user,
    common::{Read, read},
};

const NAMESPACE: &str = "default";
const NAME: &str = "kubernetes";
/// Of the names of servers.
const NAMES_NAMESPACE: &str = "kube-system";
/// Names and addresses of API servers that are told of.
const NAMES_MAX: usize = 512;
const SERVICE_LABEL: &str = "kubernetes.io/service-name";

/// Makes or mends the Service. Runs at each start; `advertised` is where this server is reached.
///
/// # Errors
/// The write that failed.
pub async fn kubernetes_service(engine: &Arc<Engine>, config: &Config, advertised: SocketAddr) -> Result<(), Status> {
    let address = config.kubernetes_address().to_string();
    let metadata = json!({"name": NAME, "namespace": NAMESPACE, "labels": {"component": "apiserver", "provider": "kubernetes"}});
    let service = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": metadata,
        "spec": {
            "clusterIP": address, "clusterIPs": [address], "type": "ClusterIP", "sessionAffinity": "None",
            "ports": [{"name": "https", "protocol": "TCP", "port": 443, "targetPort": advertised.port()}],
        },
    });
    ensure(engine, &GroupResource::new("", "services"), NAME, service, &["/spec/ports"]).await
}

/// Makes or mends its Endpoints and slices: pods' connections are led to `servers`, and agents find them there.
///
/// # Errors
/// The first write that failed.
pub async fn kubernetes_endpoints(engine: &Arc<Engine>, servers: &BTreeSet<SocketAddr>) -> Result<(), Status> {
    let groups = groups(servers);
    let skipped = json!({"name": NAME, "namespace": NAMESPACE, "labels": {"endpointslice.kubernetes.io/skip-mirror": "true"}});
    let subsets: Vec<Value> = groups.iter().map(Group::subset).collect();
    let endpoints = json!({"apiVersion": "v1", "kind": "Endpoints", "metadata": skipped, "subsets": subsets});
    ensure(engine, &GroupResource::new("", "endpoints"), NAME, endpoints, &["/subsets"]).await?;
    let slices = GroupResource::new("discovery.k8s.io", "endpointslices");
    let mut wanted = BTreeSet::new();
    for (n, group) in groups.iter().enumerate() {
        let name = group.slice_name(n);
        let old = engine.cached(&slices, &Key::new(NAMESPACE, &name));
        if old.is_some_and(|old| old.value().text("addressType") != group.family) {
            // A slice's family cannot be changed.
            remove(engine, &slices, &name).await?;
        }
        ensure(engine, &slices, &name, group.slice(&name), &["/endpoints", "/ports"]).await?;
        wanted.insert(name);
    }
    for slice in engine.cached_list(&slices, Some(NAMESPACE)) {
        let slice = slice.value();
        let name = read::name(&slice);
        if is_ours(name, &slice) && !wanted.contains(name) {
            remove(engine, &slices, name).await?;
        }
    }
    Ok(())
}

/// Adds the names of this server's certificate to those of all: no node's certificate may bear them, whichever server approves it.
/// (`controllers/src/certificates/serving.rs`.) They stay when the server is gone: it may come back. They stand in `kube-system`: who may change objects of
/// `default` could reserve names of nodes, or free those of servers.
///
/// # Errors
/// The write that failed.
pub async fn kubernetes_names(engine: &Arc<Engine>, own: &BTreeSet<String>) -> Result<(), Status> {
    let (gr, key) = (GroupResource::new("", "configmaps"), Key::new(NAMES_NAMESPACE, SERVING_NAMES));
    if engine.cached(&gr, &key).is_some_and(|there| own.is_subset(&names(&there.value()))) {
        return Ok(());
    }
    let joined = |all: BTreeSet<String>| all.into_iter().collect::<Vec<_>>().join(",");
    let metadata = json!({"name": SERVING_NAMES, "namespace": NAMES_NAMESPACE});
    let first = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": {SERVING_NAMES_KEY: joined(own.clone())}});
    match engine.create(&gr, NAMES_NAMESPACE, first, &system_user()).await {
        Err(status) if status.reason == "AlreadyExists" => {}
        done => return done.map(drop),
    }
    let change = |current: &mut Value| {
        let mut all = own.clone();
        let room = NAMES_MAX.saturating_sub(all.len());
        all.extend(names(current).into_iter().filter(|name| !own.contains(name)).take(room));
        if !current["data"].is_object() {
            current["data"] = json!({});
        }
        current["data"][SERVING_NAMES_KEY] = joined(all).into();
        Ok(())
    };
    engine.update(&gr, &key, "", &system_user(), &change).await.map(drop)
}

fn names(told: &Value) -> BTreeSet<String> {
    told.at("data").text(SERVING_NAMES_KEY).split(',').filter(|name| !name.is_empty()).map(str::to_owned).collect()
}

async fn remove(engine: &Arc<Engine>, gr: &GroupResource, name: &str) -> Result<(), Status> {
    match engine.delete(gr, &Key::new(NAMESPACE, name), json!({}), &system_user()).await {
        // Another server was quicker.
        Err(status) if status.reason != "NotFound" => Err(status),
        _ => Ok(()),
    }
}

/// Servers of one port and one family of addresses.
struct Group {
    family: &'static str,
    port: u16,
    addresses: Vec<String>,
}

impl Group {
    fn subset(&self) -> Value {
        let addresses: Vec<Value> = self.addresses.iter().map(|ip| json!({"ip": ip})).collect();
        json!({"addresses": addresses, "ports": self.ports()})
    }

    fn slice(&self, name: &str) -> Value {
        let endpoints: Vec<Value> = self.addresses.iter().map(|ip| json!({"addresses": [ip], "conditions": {"ready": true}})).collect();
        json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": self.family,
            "metadata": {"name": name, "namespace": NAMESPACE, "labels": {SERVICE_LABEL: NAME}},
            "endpoints": endpoints, "ports": self.ports(),
        })
    }

    fn ports(&self) -> Value {
        json!([{"name": "https", "port": self.port, "protocol": "TCP"}])
    }

    /// The first has upstream's name.
    fn slice_name(&self, n: usize) -> String {
        if n == 0 { NAME.to_owned() } else { format!("{NAME}-{}-{}", self.family.to_lowercase(), self.port) }
    }
}

fn groups(servers: &BTreeSet<SocketAddr>) -> Vec<Group> {
    let mut by: BTreeMap<(&'static str, u16), Vec<String>> = BTreeMap::new();
    for server in servers {
        let family = if server.is_ipv6() { "IPv6" } else { "IPv4" };
        by.entry((family, server.port())).or_default().push(server.ip().to_string());
    }
    by.into_iter().map(|((family, port), addresses)| Group { family, port, addresses }).collect()
}

/// Whether we, or an older skiff, made the slice: others may have slices of this Service, too.
fn is_ours(name: &str, slice: &Value) -> bool {
    let is_labelled = slice.pointer("/metadata/labels").and_then(|labels| labels.get(SERVICE_LABEL)).is_some_and(|service| service == NAME);
    is_labelled && (name == NAME || name.strip_prefix("kubernetes-ipv").is_some_and(|rest| rest.starts_with(['4', '6'])))
}

/// Creates the object, or sets the parts at `pointers` where they differ. Others may do the same at the same time.
async fn ensure(
    engine: &Arc<Engine>,
    gr: &GroupResource,
    name: &str,
    object: Value,
    pointers: &'static [&'static str],
) -> Result<(), Status> {
    let key = Key::new(NAMESPACE, name);
    if engine.cached(gr, &key).is_none() {
        match engine.create(gr, NAMESPACE, object.clone(), &system_user()).await {
            Err(status) if status.reason == "AlreadyExists" => {}
            done => return done.map(drop),
        }
    }
    let differs = |there: &Value| {
        let wanted = |pointer: &&str| object.pointer(pointer).cloned().unwrap_or_default();
        pointers.iter().any(|pointer| !covers(there.pointer(pointer).unwrap_or(&Value::Null), &wanted(pointer)))
    };
    if engine.cached(gr, &key).is_some_and(|found| !differs(&found.value())) {
        return Ok(());
    }
    let change = |current: &mut Value| {
        for pointer in pointers {
            let (parent, field) = pointer.rsplit_once('/').unwrap_or_default();
            if let Some(Value::Object(parent)) = current.pointer_mut(parent) {
                parent.insert(field.to_owned(), object.pointer(pointer).cloned().unwrap_or_default());
            }
        }
        Ok(())
    };
    engine.update(gr, &key, "", &system_user(), &change).await.map(drop)
}

/// Whether all that is wanted stands there; defaults may stand beside it.
fn covers(there: &Value, wanted: &Value) -> bool {
    match (there, wanted) {
        (Value::Object(there), Value::Object(wanted)) => wanted.iter().all(|(k, w)| there.get(k).is_some_and(|t| covers(t, w))),
        (Value::Array(there), Value::Array(wanted)) => there.len() == wanted.len() && there.iter().zip(wanted).all(|(t, w)| covers(t, w)),
        (Value::Null, Value::Array(wanted)) => wanted.is_empty(),
        (there, wanted) => there == wanted,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(servers: &[&str]) -> Vec<(String, Value)> {
        let servers = servers.iter().map(|s| s.parse().unwrap()).collect();
        let groups = groups(&servers);
        groups.iter().enumerate().map(|(n, group)| (group.slice_name(n), group.subset())).collect()
    }

    #[test]
    fn servers_of_a_port_and_family_stand_together() {
        let https = |port: u16| json!([{"name": "https", "port": port, "protocol": "TCP"}]);
        let both = json!({"addresses": [{"ip": "10.0.0.1"}, {"ip": "10.0.0.2"}], "ports": https(6443)});
        assert_eq!(of(&["10.0.0.2:6443", "10.0.0.1:6443"]), [("kubernetes".to_owned(), both.clone())]);
        let other = json!({"addresses": [{"ip": "10.0.0.3"}], "ports": https(7443)});
        let six = json!({"addresses": [{"ip": "fd00::1"}], "ports": https(6443)});
        let names = ["kubernetes", "kubernetes-ipv4-7443", "kubernetes-ipv6-6443"].map(str::to_owned);
        let all = of(&["[fd00::1]:6443", "10.0.0.3:7443", "10.0.0.1:6443", "10.0.0.2:6443"]);
        assert_eq!(all, names.into_iter().zip([both, other, six]).collect::<Vec<_>>());
        assert_eq!(of(&["[fd00::1]:6443"])[0].0, "kubernetes");
        assert_eq!(of(&[]), []);
    }

    #[test]
    fn slices_of_others_are_left_alone() {
        let labelled = json!({"metadata": {"labels": {SERVICE_LABEL: NAME}}});
        for (name, slice, ours) in [
            ("kubernetes", &labelled, true),
            ("kubernetes-ipv6-6443", &labelled, true),
            ("kubernetes-abcde", &labelled, false),
            ("kubernetes-ipv4-1", &json!({"metadata": {}}), false),
        ] {
            assert_eq!(is_ours(name, slice), ours, "{name}");
        }
    }
}
