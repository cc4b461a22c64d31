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

/// What a request asks of the node: what of it is judged, and what is then done. Both are of one reading of its method and path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    pub verb: &'static str,
    /// The subresources of `nodes` of which one must be allowed.
    pub subresources: &'static [&'static str],
    /// `None`: there is no such path.
    pub route: Option<Route>,
}

impl Asked {
    pub fn new(method: &Method, path: &str) -> Self {
        // What cannot be decoded leads nowhere, and is judged as what has no name of its own.
        let parts = parts(path).unwrap_or_default();
        let (first, rest) = parts.split_first().map_or(("", &[][..]), |(first, rest)| (first.as_str(), rest));
        let verb = match method.as_str() {
            "POST" => "create",
            "GET" => "get",
            "PUT" => "update",
            "PATCH" => "patch",
            "DELETE" => "delete",
            _ => "",
        };
        let rest: Vec<&str> = rest.iter().map(String::as_str).filter(|part| !part.is_empty()).collect();
        Self { verb, subresources: subresources(first), route: Route::of(first, &rest) }
    }
}

impl Route {
    fn of(first: &str, rest: &[&str]) -> Option<Self> {
        match (first, rest) {
            ("healthz", [] | ["ping"]) => Some(Route::Healthz),
            ("pods", []) => Some(Route::Pods),
            ("metrics", []) => Some(Route::Metrics),
            ("stats" | "metrics", _) => Some(Route::Stats),
            ("containerLogs", [_, _, _]) => Some(Route::Logs(container(rest)?)),
            ("run", _) => Some(Route::Run(container(rest)?)),
            ("exec", _) => Some(Route::Exec(container(rest)?)),
            ("attach", _) => Some(Route::Attach(container(rest)?)),
            ("portForward", [namespace, pod]) => Some(Route::PortForward(place(namespace, pod, "", ""))),
            ("portForward", [namespace, pod, uid]) => Some(Route::PortForward(place(namespace, pod, uid, ""))),
            _ => None,
        }
    }

    /// Logs and streams: whoever reads them may take as long as it likes.
    pub fn is_read_by_people(&self) -> bool {
        matches!(self, Route::Logs(_) | Route::Run(_) | Route::Exec(_) | Route::Attach(_) | Route::PortForward(_))
    }

    pub fn takes(&self, method: &Method) -> bool {
        match self {
            Route::Run(_) => method == Method::POST,
            Route::Exec(_) | Route::Attach(_) | Route::PortForward(_) => STREAM_METHODS.contains(method),
            _ => method == Method::GET,
        }
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

    fn route(path: &str) -> Option<Route> {
        Asked::new(&Method::GET, path).route
    }

    #[test]
    fn paths_are_upstreams() {
        assert_eq!(route("/healthz"), Some(Route::Healthz));
        assert_eq!(route("/pods/"), Some(Route::Pods));
        assert_eq!(route("/stats/summary"), Some(Route::Stats));
        assert_eq!(route("/metrics/resource"), Some(Route::Stats));
        assert_eq!(route("/containerLogs/ns/p/c"), Some(Route::Logs(place("ns", "p", "", "c"))));
        assert_eq!(route("/exec/ns/p/c"), Some(Route::Exec(place("ns", "p", "", "c"))));
        assert_eq!(route("/exec/ns/p/u/c"), Some(Route::Exec(place("ns", "p", "u", "c"))));
        assert_eq!(route("/portForward/ns/p"), Some(Route::PortForward(place("ns", "p", "", ""))));
        for bad in ["", "/", "/exec", "/exec/a/b", "/containerLogs/a/b/c/d", "/x", "/exec/%zz/b/c"] {
            assert_eq!(route(bad), None, "{bad}");
        }
    }

    #[test]
    fn permissions_are_upstreams() {
        let asked = |method: Method, path: &str| {
            let Asked { verb, subresources, .. } = Asked::new(&method, path);
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
        let tails =
            ["", "/", "/ping", "/a", "/a/b", "/a/b/c", "/a/b/c/d", "//a//b//c//", "/../exec/a/b/c", "/%2e%2e/pods", "/metrics", "/%zz"];
        let mut served = std::collections::HashSet::new();
        for path in words.iter().flat_map(|word| forms(word)).flat_map(|form| tails.map(|tail| format!("/{form}{tail}"))) {
            let Asked { subresources, route, .. } = Asked::new(&Method::GET, &path);
            let Some(route) = route else { continue };
            let allowed: &[&[&str]] = match route {
                Route::Healthz => &[&["healthz", "proxy"]],
                Route::Pods => &[&["pods", "proxy"]],
                Route::Metrics => &[&["metrics"]],
                // Of both it answers that there is nothing.
                Route::Stats => &[&["stats"], &["metrics"]],
                _ => &[&["proxy"]],
            };
            assert!(allowed.contains(&subresources), "{path}: {route:?} for {subresources:?}");
            served.insert((std::mem::discriminant(&route), path.contains('%')));
        }
        assert_eq!(served.len(), 2 * 9, "every route is reached, plain and encoded");
    }

    #[test]
    fn queries_are_decoded() {
        assert_eq!(query("command=ls&command=-l%20a+b&tty=1&x", "command"), ["ls", "-l a b"]);
        assert_eq!(query("a=%", "a"), Vec::<String>::new());
    }
}
