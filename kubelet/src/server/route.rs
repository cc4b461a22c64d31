//! URL path -> what is asked of the node, and the subresource of `nodes` that it counts as.
//!
//! Source: `InstallAuthRequiredHandlers` in `pkg/kubelet/server/server.go`, `GetRequestAttributes` in `auth.go`.

use http::Method;

use super::STREAM_METHODS;

/// A container, or a pod where `container` is empty. `uid` is empty where the path has none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Place {
    pub namespace: String,
    pub pod: String,
    pub uid: String,
    pub container: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Route {
    Healthz,
    Pods,
    Metrics,
    Stats,
    Logs(Place),
    Run(Place),
    Exec(Place),
    Attach(Place),
    PortForward(Place),
}

impl Route {
    pub fn of(path: &str) -> Option<Self> {
        let mut parts = path.strip_prefix('/')?.split('/').map(decoded);
        let first = parts.next()??;
        let rest: Vec<String> = parts.collect::<Option<_>>()?;
        let rest: Vec<&str> = rest.iter().map(String::as_str).filter(|p| !p.is_empty()).collect();
        match (first.as_str(), rest.as_slice()) {
            ("healthz", [] | ["ping"]) => Some(Route::Healthz),
            ("pods", []) => Some(Route::Pods),
            ("metrics", []) => Some(Route::Metrics),
            ("stats" | "metrics", _) => Some(Route::Stats),
            ("containerLogs", [_, _, _]) => Some(Route::Logs(container(&rest)?)),
            ("run", _) => Some(Route::Run(container(&rest)?)),
            ("exec", _) => Some(Route::Exec(container(&rest)?)),
            ("attach", _) => Some(Route::Attach(container(&rest)?)),
            ("portForward", [namespace, pod]) => Some(Route::PortForward(place(namespace, pod, "", ""))),
            ("portForward", [namespace, pod, uid]) => Some(Route::PortForward(place(namespace, pod, uid, ""))),
            _ => None,
        }
    }

    pub fn takes(&self, method: &Method) -> bool {
        match self {
            Route::Run(_) => method == Method::POST,
            Route::Exec(_) | Route::Attach(_) | Route::PortForward(_) => STREAM_METHODS.contains(method),
            _ => method == Method::GET,
        }
    }
}

/// The subresources of which one must be allowed, and the verb.
pub fn attributes(method: &Method, path: &str) -> (&'static str, &'static [&'static str]) {
    let verb = match method.as_str() {
        "POST" => "create",
        "PUT" => "update",
        "PATCH" => "patch",
        "DELETE" => "delete",
        _ => "get",
    };
    let first = path.trim_start_matches('/').split('/').next().unwrap_or_default();
    let subresources: &[&str] = match first {
        "pods" | "runningpods" => &["pods", "proxy"],
        "healthz" => &["healthz", "proxy"],
        "configz" => &["configz", "proxy"],
        "stats" => &["stats"],
        "metrics" => &["metrics"],
        "logs" => &["log"],
        "checkpoint" => &["checkpoint"],
        _ => &["proxy"],
    };
    (verb, subresources)
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

fn container(rest: &[&str]) -> Option<Place> {
    match rest {
        [namespace, pod, container] => Some(place(namespace, pod, "", container)),
        [namespace, pod, uid, container] => Some(place(namespace, pod, uid, container)),
        _ => None,
    }
}

fn place(namespace: &str, pod: &str, uid: &str, container: &str) -> Place {
    Place { namespace: namespace.into(), pod: pod.into(), uid: uid.into(), container: container.into() }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_upstreams() {
        assert_eq!(Route::of("/healthz"), Some(Route::Healthz));
        assert_eq!(Route::of("/pods/"), Some(Route::Pods));
        assert_eq!(Route::of("/stats/summary"), Some(Route::Stats));
        assert_eq!(Route::of("/metrics/resource"), Some(Route::Stats));
        assert_eq!(Route::of("/containerLogs/ns/p/c"), Some(Route::Logs(place("ns", "p", "", "c"))));
        assert_eq!(Route::of("/exec/ns/p/c"), Some(Route::Exec(place("ns", "p", "", "c"))));
        assert_eq!(Route::of("/exec/ns/p/u/c"), Some(Route::Exec(place("ns", "p", "u", "c"))));
        assert_eq!(Route::of("/portForward/ns/p"), Some(Route::PortForward(place("ns", "p", "", ""))));
        for bad in ["", "/", "/exec", "/exec/a/b", "/containerLogs/a/b/c/d", "/x", "/exec/%zz/b/c"] {
            assert_eq!(Route::of(bad), None, "{bad}");
        }
    }

    #[test]
    fn permissions_are_upstreams() {
        assert_eq!(attributes(&Method::POST, "/exec/a/b/c"), ("create", &["proxy"][..]));
        assert_eq!(attributes(&Method::GET, "/pods"), ("get", &["pods", "proxy"][..]));
        assert_eq!(attributes(&Method::GET, "/metrics/cadvisor"), ("get", &["metrics"][..]));
        assert_eq!(attributes(&Method::GET, "/stats/summary"), ("get", &["stats"][..]));
    }

    #[test]
    fn queries_are_decoded() {
        assert_eq!(query("command=ls&command=-l%20a+b&tty=1&x", "command"), ["ls", "-l a b"]);
        assert_eq!(query("a=%", "a"), Vec::<String>::new());
    }
}
