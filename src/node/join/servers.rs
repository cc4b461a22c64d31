//! `--server`, what was kept, and the endpoints of `kubernetes` -> the servers that the node tries.

use std::sync::Arc;

use api::{k8s::api::discovery::v1::EndpointSlice, task::Group};
use client::{
    Cache, Caches,
    transport::{SERVERS_MAX, Server, Transport},
};
use tokio::sync::Notify;

use super::kubelet_certificate::Member;

const NAMESPACE: &str = "default";
const SERVICE: &str = "kubernetes";
const LABEL: &str = "kubernetes.io/service-name";

/// Those of the flag first; they are kept whatever the cluster says, since it may not know the way that leads there from here.
///
/// # Errors
/// One of the flag cannot be read. What was kept and cannot is left out.
pub fn known(given: &[String], kept: &[String]) -> anyhow::Result<Vec<Server>> {
    let mut servers: Vec<Server> = given.iter().map(|url| Server::parse(url)).collect::<Result<_, _>>()?;
    add(&mut servers, kept.iter().filter_map(|url| Server::parse(url).ok()));
    Ok(servers)
}

/// The server of the connection, for people.
pub fn used(transport: &Transport) -> String {
    transport.used().borrow().as_ref().map_or_else(|| "no server".to_owned(), Server::to_string)
}

/// Follows the cluster's servers, and keeps them for the next start, while `group` lives.
pub fn follow(member: &Member, given: &[String], caches: &Caches, group: &Group) {
    let (changed, slices) = (Arc::new(Notify::new()), caches.of::<EndpointSlice>());
    let notify = changed.clone();
    slices.on_change(move |old, new| {
        if [old, new].into_iter().flatten().any(|slice| is_of_servers(slice)) {
            notify.notify_one();
        }
    });
    let (member, given) = (member.clone(), given.to_vec());
    group.spawn_loop("servers", async move {
        loop {
            changed.notified().await;
            take(&member, &given, &slices);
        }
    });
}

fn take(member: &Member, given: &[String], slices: &Cache<EndpointSlice>) {
    let told: Vec<Server> =
        slices.in_namespace(NAMESPACE).iter().filter(|slice| is_of_servers(slice)).flat_map(|slice| servers_of(slice)).collect();
    if told.is_empty() {
        return;
    }
    let Ok(mut servers) = known(given, &[]) else { return };
    add(&mut servers, told);
    if *member.transport.servers() == servers[..] {
        return;
    }
    let urls: Vec<String> = servers.iter().map(Server::to_string).collect();
    tracing::info!(servers = urls.join(","), "the cluster's servers");
    member.kept.set_servers(&urls);
    member.transport.set_servers(servers);
}

fn is_of_servers(slice: &EndpointSlice) -> bool {
    let of_service = slice.metadata.labels.as_ref().and_then(|labels| labels.get(LABEL)).is_some_and(|name| name == SERVICE);
    of_service && slice.metadata.namespace.as_deref() == Some(NAMESPACE) && slice.metadata.name.as_deref().is_some_and(is_kept_by_servers)
}

/// Others may write slices with that label: these are the names that servers write, and write over.
fn is_kept_by_servers(name: &str) -> bool {
    name == SERVICE || name.strip_prefix("kubernetes-ipv").is_some_and(|rest| rest.starts_with(['4', '6']))
}

/// A server that says of itself that it is at a loopback address is reached there by nobody else.
fn servers_of(slice: &EndpointSlice) -> Vec<Server> {
    let is_https = |name: &Option<String>| name.as_deref() == Some("https");
    let port = slice.ports.iter().flatten().find(|port| is_https(&port.name)).and_then(|port| port.port);
    let addresses = slice.endpoints.iter().flatten().flat_map(|endpoint| &endpoint.addresses).filter_map(|one| one.parse().ok());
    let reached = addresses.filter(|ip: &std::net::IpAddr| !ip.is_loopback() && !ip.is_unspecified() && !ip.is_multicast());
    let url = |ip: std::net::IpAddr| {
        let port = u16::try_from(port?).ok()?;
        Server::parse(&format!("https://{}", std::net::SocketAddr::new(ip, port))).ok()
    };
    reached.filter_map(url).collect()
}

fn add(servers: &mut Vec<Server>, more: impl IntoIterator<Item = Server>) {
    for server in more {
        if !servers.contains(&server) && servers.len() < SERVERS_MAX {
            servers.push(server);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn servers_are_those_given_then_those_told() {
        let slice = |namespace: &str, service: &str, addresses: &[&str]| -> EndpointSlice {
            serde_json::from_value(json!({
                "metadata": {"name": SERVICE, "namespace": namespace, "labels": {LABEL: service}}, "addressType": "IPv4",
                "ports": [{"name": "metrics", "port": 1}, {"name": "https", "port": 6443}], "endpoints": [{"addresses": addresses}],
            }))
            .unwrap()
        };
        let ours = slice("default", "kubernetes", &["10.0.0.5", "127.0.0.1", "nonsense", "fd00::1"]);
        assert!(
            is_of_servers(&ours) && !is_of_servers(&slice("other", "kubernetes", &[])) && !is_of_servers(&slice("default", "web", &[]))
        );
        let told: Vec<String> = servers_of(&ours).iter().map(Server::to_string).collect();
        assert_eq!(told, ["https://10.0.0.5:6443", "https://[fd00::1]:6443"]);
        let url = |text: &str| vec![text.to_owned()];
        let all = known(&url("https://a:1/"), &["https://a:1".into(), "nonsense".into(), "https://b:2".into()]).unwrap();
        assert_eq!(all.iter().map(Server::to_string).collect::<Vec<_>>(), ["https://a:1", "https://b:2"]);
        assert!(known(&url("nonsense"), &[]).is_err());
        let many: Vec<String> = (0..100).map(|n| format!("https://a:{}", n + 1)).collect();
        assert_eq!(known(&[], &many).unwrap().len(), SERVERS_MAX);
    }
}
