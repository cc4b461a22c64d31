//! log, exec, attach, portforward, proxy of a pod -> the address to forward to. Source: `pkg/registry/core/pod/strategy.go`, `rest/`.

use api::{GroupResource, Gvk, Key, Status, field_errors::FieldErrors};
use apiserver::kind::{Connect, Ctx, Target};
use async_trait::async_trait;
use serde_json::{Map, Value, json};

use crate::{
    common::{Read, node, query::Query, read::text_at},
    net,
};

/// A stream that the pod's node agent serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    Log,
    Exec,
    Attach,
    PortForward,
}

/// HTTP to the pod itself: `[scheme:]name[:port]`.
pub struct Proxy;

#[async_trait]
impl Connect for Stream {
    /// A WebSocket begins with a GET, but what is done is more than reading (`rest/authorize.go`).
    fn also_needs(&self) -> Option<&'static str> {
        (*self != Stream::Log).then_some("create")
    }

    fn options(&self, _path: &str, query: &str) -> Option<Value> {
        let asked = Query::parse(query);
        let mut options = Map::new();
        match self {
            Stream::Log => return None,
            Stream::PortForward => {
                let ports: Vec<i32> = asked.all("ports").filter_map(|port| port.parse().ok()).collect();
                options.extend((!ports.is_empty()).then(|| ("ports".into(), json!(ports))));
            }
            Stream::Exec | Stream::Attach => {
                let set = ["stdin", "stdout", "stderr", "tty"].into_iter().filter(|flag| asked.flag(flag));
                options.extend(set.map(|flag| (flag.into(), true.into())));
                let container = asked.first("container").filter(|name| !name.is_empty());
                options.extend(container.map(|name| ("container".into(), name.into())));
                let command: Vec<&str> = asked.all("command").filter(|_| *self == Stream::Exec).collect();
                options.extend((!command.is_empty()).then(|| ("command".into(), json!(command))));
            }
        }
        Some(options.into())
    }

    async fn target(&self, ctx: &Ctx<'_>, _path: &str, query: &str) -> Result<Target, Status> {
        let asked = Query::parse(query);
        let params = self.params(&asked, ctx.name)?;
        let pod = get(ctx, ctx.name).await?;
        let container = match self {
            Stream::PortForward => String::new(),
            _ => container(&pod, asked.first("container").unwrap_or(""))?,
        };
        let node = text_at(&pod, "/spec/nodeName");
        if node.is_empty() {
            return Err(Status::bad_request(format!("pod {} does not have a host assigned", ctx.name)));
        }
        let (host, port) = node::agent(ctx, node).await?;
        let path_and_query = params.after(&self.path(ctx.namespace, ctx.name, &container));
        Ok(Target { scheme: "https", host, port, path_and_query, node_agent: Some(node.to_owned()), rewrite_prefix: None })
    }
}

impl Stream {
    fn path(self, namespace: &str, pod: &str, container: &str) -> String {
        match self {
            Stream::Log => format!("/containerLogs/{namespace}/{pod}/{container}"),
            Stream::Exec => format!("/exec/{namespace}/{pod}/{container}"),
            Stream::Attach => format!("/attach/{namespace}/{pod}/{container}"),
            Stream::PortForward => format!("/portForward/{namespace}/{pod}"),
        }
    }

    /// The options of the API -> the parameters of the node agent.
    fn params(self, asked: &Query, pod: &str) -> Result<Query, Status> {
        let mut out = Query::default();
        match self {
            Stream::Log => return log_params(asked, pod),
            Stream::PortForward => {
                let ports: Vec<&str> = asked.all("ports").collect();
                if !ports.is_empty() {
                    out.push("port", ports.join(","));
                }
            }
            Stream::Exec | Stream::Attach => {
                for (option, param) in [("stdin", "input"), ("stdout", "output"), ("stderr", "error"), ("tty", "tty")] {
                    if asked.flag(option) {
                        out.push(param, "1");
                    }
                }
                if self == Stream::Exec {
                    asked.all("command").for_each(|word| out.push("command", word));
                }
            }
        }
        Ok(out)
    }
}

#[async_trait]
impl Connect for Proxy {
    fn takes_path(&self) -> bool {
        true
    }

    fn options(&self, path: &str, _query: &str) -> Option<Value> {
        Some(node::proxy_options(path))
    }

    async fn target(&self, ctx: &Ctx<'_>, path: &str, query: &str) -> Result<Target, Status> {
        let invalid = || Status::bad_request(format!("invalid pod request {:?}", ctx.name));
        let (scheme, name, port) = node::split_scheme_name_port(ctx.name).ok_or_else(invalid)?;
        let pod = get(ctx, name).await?;
        let ip = text_at(&pod, "/status/podIPs/0/ip");
        if !net::parse(ip).is_some_and(net::is_global_unicast) {
            return Err(Status::bad_request("address not allowed"));
        }
        let scheme = if scheme == "https" { "https" } else { "http" };
        let port = match port {
            "" => first_port(&pod).unwrap_or(if scheme == "https" { 443 } else { 80 }),
            number => number.parse().map_err(|_| invalid())?,
        };
        let path_and_query = node::join_path(path, query);
        let rewrite_prefix = Some(format!("/api/v1/namespaces/{}/pods/{}/proxy", ctx.namespace, ctx.name));
        Ok(Target { scheme, host: ip.to_owned(), port, path_and_query, node_agent: None, rewrite_prefix })
    }
}

async fn get(ctx: &Ctx<'_>, name: &str) -> Result<Value, Status> {
    let key = Key::new(ctx.namespace, name);
    Ok(ctx.engine.get(&GroupResource::new("", "pods"), &key).await?.value())
}

/// `validateContainer`: the container asked for, or the only one.
fn container(pod: &Value, asked: &str) -> Result<String, Status> {
    let spec = pod.at("spec");
    let name = text_at(pod, "/metadata/name");
    let all = || ["initContainers", "containers", "ephemeralContainers"].into_iter().flat_map(|l| spec.list(l)).map(|c| c.text("name"));
    if !asked.is_empty() {
        let known = all().any(|c| c == asked);
        return if known {
            Ok(asked.to_owned())
        } else {
            Err(Status::bad_request(format!("container {asked} is not valid for pod {name}")))
        };
    }
    match spec.list("containers") {
        [only] => Ok(only.text("name").to_owned()),
        [] => Err(Status::bad_request(format!("a container name must be specified for pod {name}"))),
        _ => {
            let names = all().collect::<Vec<_>>().join(" ");
            Err(Status::bad_request(format!("a container name must be specified for pod {name}, choose one of: [{names}]")))
        }
    }
}

/// `ValidatePodLogOptions`, and the parameters that remain.
fn log_params(asked: &Query, pod: &str) -> Result<Query, Status> {
    let (mut out, mut causes) = (Query::default(), FieldErrors::default());
    for flag in ["follow", "previous", "timestamps"] {
        if asked.flag(flag) {
            out.push(flag, "true");
        }
    }
    if asked.first("sinceSeconds").is_some() && asked.first("sinceTime").is_some() {
        causes.forbidden("", "at most one of `sinceTime` or `sinceSeconds` may be specified");
    }
    let numbers = [
        ("sinceSeconds", 1, "must be greater than 0"),
        ("tailLines", 0, "must be greater than or equal to 0"),
        ("limitBytes", 1, "must be greater than 0"),
    ];
    for (option, least, text) in numbers {
        let Some(value) = asked.first(option).filter(|v| !v.is_empty()) else { continue };
        let number: i64 = value.parse().map_err(|_| Status::bad_request(format!("{option}: cannot parse {value:?} as an integer")))?;
        if number < least {
            causes.invalid(option, number, text);
        }
        out.push(option, value);
    }
    for option in ["sinceTime", "stream"] {
        asked.first(option).filter(|v| !v.is_empty()).into_iter().for_each(|v| out.push(option, v));
    }
    match causes.is_empty() {
        true => Ok(out),
        false => Err(Status::invalid(&Gvk::new("", "v1", "PodLogOptions"), pod, &causes)),
    }
}

fn first_port(pod: &Value) -> Option<u16> {
    let ports = pod.at("spec").list("containers").iter().find_map(|c| c.list("ports").first());
    ports.and_then(|p| p.int("containerPort")).and_then(|p| u16::try_from(p).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_become_the_agents_parameters() {
        let cases = [
            (
                Stream::Exec,
                "stdin=true&stdout=1&stderr=false&tty=true&container=a&command=sh&command=-c",
                "command=sh&command=-c&input=1&output=1&tty=1",
            ),
            (Stream::Attach, "stdout=true&command=x", "output=1"),
            (Stream::PortForward, "ports=80&ports=81", "port=80%2C81"),
            (Stream::PortForward, "", ""),
            (
                Stream::Log,
                "follow=true&tailLines=0&container=x&sinceTime=2026-01-01T00:00:00Z",
                "follow=true&sinceTime=2026-01-01T00%3A00%3A00Z&tailLines=0",
            ),
        ];
        for (stream, asked, wanted) in cases {
            assert_eq!(stream.params(&Query::parse(asked), "p").unwrap().encode(), wanted, "{asked}");
        }
        let exec = Stream::Exec.options("", "stdin=true&tty=false&container=a&command=sh&command=-c");
        assert_eq!(exec, Some(json!({"stdin": true, "container": "a", "command": ["sh", "-c"]})));
        assert_eq!(Stream::PortForward.options("", "ports=80&ports=x"), Some(json!({"ports": [80]})));
        assert_eq!((Stream::Attach.options("", ""), Stream::Log.options("", "follow=true")), (Some(json!({})), None));
        assert_eq!(Stream::Exec.path("ns", "p", "c"), "/exec/ns/p/c");
        assert_eq!(Stream::Log.path("ns", "p", "c"), "/containerLogs/ns/p/c");
    }

    #[test]
    fn log_options_are_checked() {
        let found = log_params(&Query::parse("tailLines=-1&sinceSeconds=0&sinceTime=x&limitBytes=0"), "p").unwrap_err();
        assert_eq!(found.code, 422);
        assert_eq!(found.details["causes"].as_array().map(Vec::len), Some(4));
        assert_eq!(log_params(&Query::parse("tailLines=x"), "p").unwrap_err().code, 400);
    }

    #[test]
    fn the_container_is_the_one_asked_for_or_the_only_one() {
        let one = json!({"metadata": {"name": "x"}, "spec": {"containers": [{"name": "a"}]}});
        let two =
            json!({"metadata": {"name": "x"}, "spec": {"containers": [{"name": "a"}, {"name": "b"}], "initContainers": [{"name": "i"}]}});
        assert_eq!(container(&one, "").unwrap(), "a");
        assert_eq!(container(&two, "i").unwrap(), "i");
        assert_eq!(container(&two, "").unwrap_err().message, "a container name must be specified for pod x, choose one of: [i a b]");
        assert_eq!(container(&two, "c").unwrap_err().message, "container c is not valid for pod x");
        assert_eq!(container(&json!({"metadata": {"name": "x"}}), "").unwrap_err().message, "a container name must be specified for pod x");
    }
}
