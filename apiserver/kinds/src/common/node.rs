//! A node's name -> where its agent listens; and the parts of a proxy's name. Source: `pkg/kubelet/client/kubelet_client.go`.

use std::fmt::Write;

use api::{GroupResource, Key, Status};
use apiserver::kind::Ctx;
use serde_json::{Value, json};

use super::Read;

/// The port of a node agent that does not say otherwise.
pub const AGENT_PORT: u16 = 10250;

/// Host and port of a node's agent.
///
/// # Errors
/// 404 without such a node, 503 where it has no address yet.
pub async fn agent(ctx: &Ctx<'_>, name: &str) -> Result<(String, u16), Status> {
    let node = ctx.needed(&GroupResource::new("", "nodes"), &Key::new("", name)).await?.value();
    agent_of(&node).ok_or_else(|| Status::unavailable(format!("no preferred addresses found for node {name:?}; known addresses: []")))
}

/// Host and port of the agent of a node object; `None` without address. Internal addresses first, as kubeadm sets it up.
pub fn agent_of(node: &Value) -> Option<(String, u16)> {
    let status = node.at("status");
    let addresses = status.list("addresses");
    let order = ["InternalIP", "Hostname", "InternalDNS", "ExternalDNS", "ExternalIP"];
    let chosen = order.iter().find_map(|typ| addresses.iter().find(|a| a.text("type") == *typ))?;
    let port = status.at("daemonEndpoints").at("kubeletEndpoint").int("Port").and_then(|p| u16::try_from(p).ok()).filter(|p| *p != 0);
    Some((chosen.text("address").to_owned(), port.unwrap_or(AGENT_PORT)))
}

/// `name`, `name:port`, `scheme:name:port` -> (scheme, name, port), empty where not given (`utilnet.SplitSchemeNamePort`).
pub fn split_scheme_name_port(id: &str) -> Option<(&str, &str, &str)> {
    let parts: Vec<&str> = id.split(':').collect();
    let (scheme, name, port) = match parts.as_slice() {
        [name] => ("", *name, ""),
        [name, port] => ("", *name, *port),
        [scheme, name, port] => (*scheme, *name, *port),
        _ => return None,
    };
    (!name.is_empty() && matches!(scheme, "" | "http" | "https")).then_some((scheme, name, port))
}

/// What follows the subresource in the URL, decoded, and the raw query -> `/path?query`, the path encoded as Go does.
pub fn join_path(path: &str, query: &str) -> String {
    let mut out = String::from("/");
    for byte in path.strip_prefix('/').unwrap_or(path).bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' => out.push(char::from(byte)),
            byte if b"-_.~$&+,/:;=@".contains(&byte) => out.push(char::from(byte)),
            // Writing to a string does not fail.
            byte => drop(write!(out, "%{byte:02X}")),
        }
    }
    if !query.is_empty() {
        out.push('?');
        out.push_str(query);
    }
    out
}

/// The options object of a proxy request (`PodProxyOptions`, `ServiceProxyOptions`, `NodeProxyOptions`).
pub fn proxy_options(path: &str) -> Value {
    if path.is_empty() { json!({}) } else { json!({"path": path}) }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_agent_is_found_by_internal_address() {
        let node = json!({"status": {"addresses": [{"type": "Hostname", "address": "n"}, {"type": "InternalIP", "address": "10.0.0.1"}]}});
        assert_eq!(agent_of(&node), Some(("10.0.0.1".into(), 10250)));
        let node =
            json!({"status": {"addresses": [{"type": "Hostname", "address": "n"}], "daemonEndpoints": {"kubeletEndpoint": {"Port": 7}}}});
        assert_eq!(agent_of(&node), Some(("n".into(), 7)));
        assert_eq!(agent_of(&json!({})), None);
    }

    #[test]
    fn proxy_names_have_up_to_three_parts() {
        assert_eq!(split_scheme_name_port("a"), Some(("", "a", "")));
        assert_eq!(split_scheme_name_port("a:80"), Some(("", "a", "80")));
        assert_eq!(split_scheme_name_port("https:a:web"), Some(("https", "a", "web")));
        for bad in ["", "ftp:a:1", "a:b:c:d", "http::80"] {
            assert_eq!(split_scheme_name_port(bad), None, "{bad}");
        }
        assert_eq!(join_path("a/b", "x=1"), "/a/b?x=1");
        assert_eq!(join_path("a b/?c=d/%2f/\r\n#", "x=%20"), "/a%20b/%3Fc=d/%252f/%0D%0A%23?x=%20", "what was decoded is no query");
        assert_eq!((join_path("", "").as_str(), join_path("a//b/", "").as_str()), ("/", "/a//b/"));
    }
}
