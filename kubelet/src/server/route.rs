//! URL path -> the handler, and the subresource of `nodes` that it counts as.
//!
//! Source: `InstallAuthRequiredHandlers` in `pkg/kubelet/server/server.go`, `GetRequestAttributes` in `auth.go`.

use std::convert::Infallible;

use axum::{
    Router,
    extract::{FromRequestParts, Path},
};
use http::{Method, StatusCode, Uri, request::Parts};
use serde::Deserialize;
use tower::service_fn;

use super::{
    STREAM_METHODS,
    reply::{Reply, Request, text},
};

/// A container, or a pod where `container` is empty. `uid` is empty where the path has none.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct ContainerRef {
    pub namespace: String,
    pub pod: String,
    pub uid: String,
    pub container: String,
}

/// What is served.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Handler {
    Healthz,
    Pods,
    Metrics,
    Summary,
    Resource,
    Cadvisor,
    Logs,
    Run,
    Exec,
    Attach,
    PortForward,
}

const ROUTES: [(Handler, &[&str]); 11] = [
    (Handler::Healthz, &["/healthz", "/healthz/ping"]),
    (Handler::Pods, &["/pods"]),
    (Handler::Metrics, &["/metrics"]),
    (Handler::Summary, &["/stats/summary"]),
    (Handler::Resource, &["/metrics/resource"]),
    (Handler::Cadvisor, &["/metrics/cadvisor"]),
    (Handler::Logs, &["/containerLogs/{namespace}/{pod}/{container}"]),
    (Handler::Run, &["/run/{namespace}/{pod}/{container}", "/run/{namespace}/{pod}/{uid}/{container}"]),
    (Handler::Exec, &["/exec/{namespace}/{pod}/{container}", "/exec/{namespace}/{pod}/{uid}/{container}"]),
    (Handler::Attach, &["/attach/{namespace}/{pod}/{container}", "/attach/{namespace}/{pod}/{uid}/{container}"]),
    (Handler::PortForward, &["/portForward/{namespace}/{pod}", "/portForward/{namespace}/{pod}/{uid}"]),
];

/// What a request asks of the node, as it is judged and then routed: both are of one reading of its method and path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestInfo {
    pub verb: &'static str,
    /// The subresources of `nodes` of which one must be allowed.
    pub subresources: &'static [&'static str],
    /// What was read, written in one way: nothing is encoded that need not be, and no part but the first is empty.
    path: String,
}

impl RequestInfo {
    pub fn new(method: &Method, path: &str) -> Self {
        // What cannot be decoded leads nowhere, and is judged as what has no name of its own.
        let mut parts = parts(path).unwrap_or_default().into_iter();
        let first = parts.next().unwrap_or_default();
        let verb = match method.as_str() {
            "POST" => "create",
            "GET" => "get",
            "PUT" => "update",
            "PATCH" => "patch",
            "DELETE" => "delete",
            _ => "",
        };
        let rest = parts.filter(|part| !part.is_empty()).map(|part| format!("/{}", encoded(&part)));
        Self { verb, subresources: subresources(&first), path: format!("/{}{}", encoded(&first), rest.collect::<String>()) }
    }

    /// The request as it was judged.
    pub fn of(&self, mut request: Request) -> Request {
        if request.uri().path() != self.path {
            let query = request.uri().query().map(|query| format!("?{query}")).unwrap_or_default();
            // Nowhere, if it is no URI.
            *request.uri_mut() = format!("{}{query}", self.path).parse().unwrap_or_else(|_| Uri::from_static("/"));
        }
        request
    }
}

/// To `serve` what has a route, as [`RequestInfo::of`] writes it. The handler judges methods.
pub fn router<F, R>(serve: F) -> Router
where
    F: Fn(Handler, Request) -> R + Clone + Send + Sync + 'static,
    R: Future<Output = Reply> + Send + 'static,
{
    let to = |handler| {
        let serve = serve.clone();
        service_fn(move |request| {
            let served = serve(handler, request);
            async move { Ok::<_, Infallible>(served.await) }
        })
    };
    let paths = ROUTES.iter().flat_map(|(handler, paths)| paths.iter().map(|path| (*handler, *path)));
    let router = paths.fold(Router::new(), |router, (handler, path)| router.route_service(path, to(handler)));
    router.fallback_service(service_fn(async |_: Request| Ok::<_, Infallible>(text(StatusCode::NOT_FOUND, "404 page not found"))))
}

impl Handler {
    /// Logs and streams: their readers may take as long as they like.
    pub fn is_read_by_people(self) -> bool {
        matches!(self, Self::Logs | Self::Run | Self::Exec | Self::Attach | Self::PortForward)
    }

    pub fn takes(self, method: &Method) -> bool {
        match self {
            Self::Run => method == Method::POST,
            Self::Exec | Self::Attach | Self::PortForward | Self::Summary => STREAM_METHODS.contains(method),
            _ => method == Method::GET,
        }
    }
}

impl ContainerRef {
    /// Where the route of a request leads; nowhere in particular where it has no names in it.
    pub async fn of(request: &mut Parts) -> Self {
        Path::<Self>::from_request_parts(request, &()).await.map(|Path(container_ref)| container_ref).unwrap_or_default()
    }
}

/// The parts of a path, decoded.
fn parts(path: &str) -> Option<Vec<String>> {
    path.strip_prefix('/')?.split('/').map(decoded).collect()
}

/// What the first part of a path counts as.
fn subresources(first: &str) -> &'static [&'static str] {
    match first {
        "pods" | "runningpods" => &["pods", "proxy"],
        "healthz" => &["healthz", "proxy"],
        "configz" => &["configz", "proxy"],
        "flagz" => &["configz"],
        "statusz" => &["statusz"],
        "stats" => &["stats"],
        "metrics" => &["metrics"],
        "logs" => &["log"],
        "checkpoint" => &["checkpoint"],
        _ => &["proxy"],
    }
}

/// The values of one key of a query string, decoded, in order.
pub fn query(query: &str, key: &str) -> Vec<String> {
    pairs(query).into_iter().filter(|(k, _)| k == key).map(|(_, v)| v).collect()
}

/// All of a query string, decoded. What is not UTF-8 after decoding is left out.
pub fn pairs(query: &str) -> Vec<(String, String)> {
    let one = |pair: &str| {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        Some((decoded(&key.replace('+', " "))?, decoded(&value.replace('+', " "))?))
    };
    query.split('&').filter(|p| !p.is_empty()).filter_map(one).collect()
}

/// Percent-decoding.
fn decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        rest = after;
        if first != b'%' {
            bytes.push(first);
            continue;
        }
        let digits = std::str::from_utf8(after.get(..2)?).ok()?;
        bytes.push(u8::from_str_radix(digits, 16).ok()?);
        rest = after.get(2..)?;
    }
    String::from_utf8(bytes).ok()
}

/// Percent-encoding of all that means something in a path.
fn encoded(part: &str) -> String {
    let one = |byte: u8| match byte {
        b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => char::from(byte).to_string(),
        _ => format!("%{byte:02X}"),
    };
    part.bytes().map(one).collect()
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;
    use tower::ServiceExt;

    use super::*;
    use crate::server::reply::Body;

    /// Where the routes lead a request, if it is one.
    fn route(path: &str) -> Option<(Handler, ContainerRef)> {
        let request = http::Request::get(path).body(Body::empty()).ok()?;
        let asked = RequestInfo::new(&Method::GET, request.uri().path());
        let routes = router(async |handler, request: Request| {
            let (mut parts, _) = request.into_parts();
            let mut reply = text(StatusCode::OK, "");
            reply.extensions_mut().insert((handler, ContainerRef::of(&mut parts).await));
            reply
        });
        let reply = routes.oneshot(asked.of(request)).now_or_never().unwrap().unwrap();
        let led = reply.extensions().get::<(Handler, ContainerRef)>().cloned();
        assert_eq!(reply.status(), if led.is_some() { 200 } else { 404 }, "{path}");
        led
    }

    fn container_ref(namespace: &str, pod: &str, uid: &str, container: &str) -> ContainerRef {
        ContainerRef { namespace: namespace.into(), pod: pod.into(), uid: uid.into(), container: container.into() }
    }

    #[test]
    fn paths_are_upstreams() {
        assert_eq!(route("/healthz"), Some((Handler::Healthz, ContainerRef::default())));
        assert_eq!(route("/pods/"), Some((Handler::Pods, ContainerRef::default())));
        assert_eq!(route("/stats/summary"), Some((Handler::Summary, ContainerRef::default())));
        assert_eq!(route("/metrics/resource"), Some((Handler::Resource, ContainerRef::default())));
        assert_eq!(route("/metrics/cadvisor/"), Some((Handler::Cadvisor, ContainerRef::default())));
        assert_eq!(route("/containerLogs/ns/p/c"), Some((Handler::Logs, container_ref("ns", "p", "", "c"))));
        assert_eq!(route("/exec/ns/p/c"), Some((Handler::Exec, container_ref("ns", "p", "", "c"))));
        assert_eq!(route("/exec/ns/p/u/c"), Some((Handler::Exec, container_ref("ns", "p", "u", "c"))));
        assert_eq!(route("/portForward/ns/p"), Some((Handler::PortForward, container_ref("ns", "p", "", ""))));
        assert_eq!(route("/portForward/ns/p/u?port=1"), Some((Handler::PortForward, container_ref("ns", "p", "u", ""))));
        // Names are what they were before they were encoded, whatever is in them.
        assert_eq!(route("/%65xec//n%2fs/%25/c%20%e2%82%ac/"), Some((Handler::Exec, container_ref("n/s", "%", "", "c \u{20ac}"))));
        for bad in [
            "/stats",
            "/stats/x",
            "/metrics/probes",
            "/",
            "/exec",
            "/exec/a/b",
            "/containerLogs/a/b/c/d",
            "/x",
            "/exec/%zz/b/c",
            "/exec/%ff/b/c",
            "//pods",
            "/%2fpods",
        ] {
            assert_eq!(route(bad), None, "{bad}");
        }
    }

    #[test]
    fn permissions_are_upstreams() {
        let asked = |method: Method, path: &str| {
            let RequestInfo { verb, subresources, .. } = RequestInfo::new(&method, path);
            (verb, subresources)
        };
        assert_eq!(asked(Method::POST, "/exec/a/b/c"), ("create", &["proxy"][..]));
        assert_eq!(asked(Method::GET, "/pods"), ("get", &["pods", "proxy"][..]));
        assert_eq!(asked(Method::GET, "/metrics/cadvisor"), ("get", &["metrics"][..]));
        assert_eq!(asked(Method::GET, "/stats/summary"), ("get", &["stats"][..]));
        assert_eq!(asked(Method::HEAD, "/flagz"), ("", &["configz"][..]));
    }

    /// One word, in the forms that a path can have it in.
    fn forms(word: &str) -> Vec<String> {
        let encoded = |letters: usize| {
            word.char_indices()
                .map(|(at, c)| if at < letters { format!("%{:02x}", u32::from(c)) } else { c.to_string() })
                .collect::<String>()
        };
        let whole = encoded(usize::MAX);
        let mut forms = vec![word.to_owned(), encoded(1), whole.to_uppercase(), whole, word.to_uppercase()];
        for around in ["/{}", "//{}", "%2f{}", "{}%2f", "{}%2fexec", "{}%00", "./{}", "x/../{}", "%2e%2e/{}", "{};x", "{}%zz", "{}%25"] {
            forms.push(around.replace("{}", word));
        }
        forms
    }

    #[test]
    fn what_is_judged_is_what_is_done() {
        let words = [
            "healthz",
            "pods",
            "runningpods",
            "configz",
            "statusz",
            "flagz",
            "metrics",
            "stats",
            "logs",
            "checkpoint",
            "containerLogs",
            "run",
            "exec",
            "attach",
            "portForward",
            "x",
            "",
        ];
        let tails = [
            "/summary",
            "/resource",
            "/cadvisor",
            "",
            "/",
            "/ping",
            "/a",
            "/a/b",
            "/a/b/c",
            "/a/b/c/d",
            "//a//b//c//",
            "/../exec/a/b/c",
            "/%2e%2e/pods",
            "/metrics",
            "/%zz",
        ];
        let mut served = std::collections::HashSet::new();
        for path in words.iter().flat_map(|word| forms(word)).flat_map(|form| tails.map(|tail| format!("/{form}{tail}"))) {
            let RequestInfo { subresources, .. } = RequestInfo::new(&Method::GET, &path);
            let Some((handler, _)) = route(&path) else { continue };
            let allowed: &[&[&str]] = match handler {
                Handler::Healthz => &[&["healthz", "proxy"]],
                Handler::Pods => &[&["pods", "proxy"]],
                Handler::Metrics | Handler::Resource | Handler::Cadvisor => &[&["metrics"]],
                Handler::Summary => &[&["stats"]],
                _ => &[&["proxy"]],
            };
            assert!(allowed.contains(&subresources), "{path}: {handler:?} for {subresources:?}");
            served.insert((handler, path.contains('%')));
        }
        assert_eq!(served.len(), 2 * 11, "every route is reached, plain and encoded");
    }

    #[test]
    fn queries_are_decoded() {
        assert_eq!(query("command=ls&command=-l%20a+b&tty=1&x", "command"), ["ls", "-l a b"]);
        assert_eq!(query("a=%", "a"), Vec::<String>::new());
    }
}
