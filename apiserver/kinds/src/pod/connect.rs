//! log, exec, attach, portforward, proxy of a pod -> the address to forward to. Source: `pkg/registry/core/pod/strategy.go`, `rest/`.

use std::num::{IntErrorKind, ParseIntError};

use api::{GroupResource, Gvk, Key, Status, field_errors::FieldErrors};
use apiserver::{
    kind::{Connect, Ctx, Target},
    schema::time_error,
};
use async_trait::async_trait;
use serde_json::{Map, Value, json};

use crate::{
    common::{Read, node, query::Query, read::text_at},
    net,
};

/// Go's layout of times.
const RFC_3339: &str = "2006-01-02T15:04:05Z07:00";

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

    async fn target(&self, ctx: &Ctx<'_>, _path: &str, query: &str) -> Result<Option<Target>, Status> {
        let asked = Query::parse(query);
        let params = self.params(&asked, ctx.name)?;
        let pod = get(ctx, ctx.name).await?;
        let container = match self {
            Stream::PortForward => String::new(),
            _ => container(&pod, asked.first("container").unwrap_or(""))?,
        };
        let node = text_at(&pod, "/spec/nodeName");
        if node.is_empty() && *self == Stream::Log {
            return Ok(None);
        }
        if node.is_empty() {
            return Err(Status::bad_request(format!("pod {} does not have a host assigned", ctx.name)));
        }
        let (host, port) = node::agent(ctx, node).await?;
        let path_and_query = params.after(&self.path(ctx.namespace, ctx.name, &container));
        Ok(Some(Target { scheme: "https", host, port, path_and_query, node_agent: Some(node.to_owned()), rewrite_prefix: None }))
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

    async fn target(&self, ctx: &Ctx<'_>, path: &str, query: &str) -> Result<Option<Target>, Status> {
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
        Ok(Some(Target { scheme, host: ip.to_owned(), port, path_and_query, node_agent: None, rewrite_prefix }))
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

/// `Convert_url_Values_To_v1_PodLogOptions`, `ValidatePodLogOptions`, and the parameters that remain.
fn log_params(asked: &Query, pod: &str) -> Result<Query, Status> {
    let (mut out, mut causes) = (Query::default(), FieldErrors::default());
    for flag in ["follow", "previous", "timestamps"] {
        if asked.flag(flag) {
            out.push(flag, "true");
        }
    }
    let since = number(asked, "sinceSeconds")?;
    let since_time = asked.first("sinceTime");
    if let Some(why) = since_time.filter(|text| !matches!(*text, "" | "null")).and_then(|text| time_error(text, RFC_3339)) {
        return Err(Status::bad_request(why));
    }
    let (tail, limit) = (number(asked, "tailLines")?, number(asked, "limitBytes")?);
    if let Some(tail) = tail.filter(|tail| *tail < 0) {
        causes.invalid("tailLines", tail, "must be greater than or equal to 0");
    }
    if let Some(limit) = limit.filter(|limit| *limit < 1) {
        causes.invalid("limitBytes", limit, "must be greater than 0");
    }
    match (since, since_time) {
        (Some(_), Some(_)) => causes.forbidden("", "at most one of `sinceTime` or `sinceSeconds` may be specified"),
        (Some(since), None) if since < 1 => causes.invalid("sinceSeconds", since, "must be greater than 0"),
        _ => {}
    }
    // `PodLogsQuerySplitStreams` is off.
    if asked.first("stream").is_some() {
        causes.forbidden("stream", "may not be specified");
    }
    for (option, number) in [("sinceSeconds", since), ("tailLines", tail), ("limitBytes", limit)] {
        number.into_iter().for_each(|number| out.push(option, number.to_string()));
    }
    since_time.filter(|text| !text.is_empty()).into_iter().for_each(|text| out.push("sinceTime", text));
    match causes.is_empty() {
        true => Ok(out),
        false => Err(Status::invalid(&Gvk::new("", "v1", "PodLogOptions"), pod, &causes)),
    }
}

/// A number of the options, as Go reads it.
fn number(asked: &Query, option: &str) -> Result<Option<i64>, Status> {
    let Some(text) = asked.first(option) else { return Ok(None) };
    let refused = |error: ParseIntError| {
        let why = match error.kind() {
            IntErrorKind::PosOverflow | IntErrorKind::NegOverflow => "value out of range",
            _ => "invalid syntax",
        };
        Status::bad_request(format!("strconv.ParseInt: parsing {}: {why}", api::quoted(text)))
    };
    text.parse().map(Some).map_err(refused)
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
        let found =
            |query: &str| log_params(&Query::parse(query), "p").map(|query| query.encode()).map_err(|status| (status.code, status.message));
        let told = "PodLogOptions \"p\" is invalid: [tailLines: Invalid value: -1: must be greater than or equal to 0, \
                    limitBytes: Invalid value: 0: must be greater than 0, sinceSeconds: Invalid value: 0: must be greater than 0]";
        assert_eq!(found("sinceSeconds=0&tailLines=-1&limitBytes=0"), Err((422, told.to_owned())));
        let both = "PodLogOptions \"p\" is invalid: : Forbidden: at most one of `sinceTime` or `sinceSeconds` may be specified";
        assert_eq!(found("sinceSeconds=0&sinceTime="), Err((422, both.to_owned())));
        assert_eq!(
            found("stream=Nowhere"),
            Err((422, "PodLogOptions \"p\" is invalid: stream: Forbidden: may not be specified".to_owned()))
        );
        assert_eq!(found("tailLines=x"), Err((400, r#"strconv.ParseInt: parsing "x": invalid syntax"#.to_owned())));
        assert_eq!(
            found("limitBytes=99999999999999999999"),
            Err((400, r#"strconv.ParseInt: parsing "99999999999999999999": value out of range"#.to_owned()))
        );
        let time = r#"parsing time "x" as "2006-01-02T15:04:05Z07:00": cannot parse "x" as "2006""#;
        assert_eq!(found("sinceTime=x"), Err((400, time.to_owned())));
        assert_eq!(found("follow=FALSE&previous=maybe&insecureSkipTLSVerifyBackend=true"), Ok("previous=true".to_owned()));
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
