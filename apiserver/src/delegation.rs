//! Group versions that another server serves -> who that is, and what is known of it. Somebody keeps the table: the engine knows of no kind that says so.
//!
//! Source: kube-aggregator `pkg/apiserver`.

mod forward;
mod places;

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use api::{certificate::Identity, task::Group};
use arc_swap::{ArcSwap, ArcSwapOption};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, StatusCode, header};
use http_body_util::{BodyExt, Limited};
use parking_lot::Mutex;
use serde_json::Value;

pub(crate) use forward::{Asked, HandedOn, forward};

use crate::{
    body::{Response, empty},
    front_proxy::{self, RequestHeader},
    identity::User,
    outbound::{Origin, Trusts},
};
use places::Load;

/// What the front, discovery and OpenAPI look at. Cheap where nobody else serves anything.
#[derive(Default)]
pub struct Delegations {
    table: ArcSwap<Table>,
    believed: ArcSwapOption<RequestHeader>,
}

/// Group versions in nobody's order, each once. A table does not change: another one takes its place.
#[derive(Default)]
pub struct Table {
    versions: Vec<Version>,
    delegates: HashMap<String, HashMap<String, Arc<Delegate>>>,
}

/// What discovery must know of a group version.
pub struct Version {
    pub group: String,
    pub version: String,
    /// The highest of its versions is the group's; groups with a higher one come first.
    pub group_priority: i64,
    pub version_priority: i64,
    /// Where another server serves it.
    pub remote: Option<Remote>,
}

pub struct Remote {
    pub delegate: Arc<Delegate>,
    /// An `APIVersionDiscovery`.
    pub discovery: Arc<Value>,
    /// The hash of its OpenAPI v3 document, if it has one.
    pub openapi_v3: Option<String>,
    /// Of its OpenAPI v2 document, what is of this group version ([`of_group_version`](crate::openapi::of_group_version)), as text.
    pub openapi_v2: Option<Bytes>,
}

/// One server that serves a group version in our place.
pub struct Delegate {
    /// The name by which it is told of.
    pub name: String,
    /// An error is what is wrong with what is known of it.
    origin: Result<Origin, String>,
    /// `host:port` of each place where it may be reached. An error is why there is none.
    places: ArcSwap<Result<Vec<String>, String>>,
    is_available: AtomicBool,
    load: Mutex<Load>,
}

/// An answer, whole.
pub struct Fetched {
    pub code: u16,
    pub content_type: String,
    pub etag: Option<String>,
    pub body: Bytes,
}

impl Delegations {
    pub fn table(&self) -> Arc<Table> {
        self.table.load_full()
    }

    pub fn replace(&self, versions: Vec<Version>) {
        let mut delegates = HashMap::<String, HashMap<String, Arc<Delegate>>>::new();
        for of in &versions {
            if let Some(remote) = &of.remote {
                delegates.entry(of.group.clone()).or_default().insert(of.version.clone(), remote.delegate.clone());
            }
        }
        self.table.store(Arc::new(Table { versions, delegates }));
    }

    /// Headers that only front proxies may send: they are never handed on.
    pub fn believe(&self, believed: Arc<RequestHeader>) {
        self.believed.store(Some(believed));
    }

    pub(crate) fn believed(&self) -> Option<Arc<RequestHeader>> {
        self.believed.load_full()
    }

    /// Who serves a path (as decoded and authorized) in our place.
    pub(crate) fn find(&self, path: &str) -> Option<Arc<Delegate>> {
        let table = self.table.load();
        if table.delegates.is_empty() {
            return None;
        }
        let (below, is_document) = match path.strip_prefix("/apis/") {
            Some(below) => (below, false),
            None => (path.strip_prefix("/openapi/v3/apis/")?, true),
        };
        let (group, rest) = below.split_once('/')?;
        let (version, deeper) = rest.split_once('/').map_or((rest, false), |(version, deeper)| (version, !deeper.is_empty()));
        if is_document && deeper {
            return None;
        }
        table.delegates.get(group)?.get(version).cloned()
    }
}

impl Table {
    pub fn versions(&self) -> &[Version] {
        &self.versions
    }

    pub(crate) fn remote(&self, group: &str, version: &str) -> Option<&Remote> {
        self.delegates.get(group)?.get(version)?;
        self.versions.iter().find(|of| of.group == group && of.version == version)?.remote.as_ref()
    }
}

/// How a [`Delegate`] is reached.
pub struct Reached<'a> {
    pub name: &'a str,
    pub server_name: &'a str,
    pub ca_bundle: Result<Vec<u8>, String>,
    pub insecure: bool,
    pub shown: Option<&'a Identity>,
    pub may_be_called: fn(IpAddr) -> bool,
}

impl Delegate {
    /// Connections are tasks of `group`. It is not available until somebody says so.
    pub fn new(group: &Group, reached: Reached<'_>) -> Self {
        let Reached { name, server_name, ca_bundle, insecure, shown, may_be_called } = reached;
        let origin = ca_bundle
            .and_then(|ca_bundle| Origin::new(group, &Trusts { server_name, ca_bundle: &ca_bundle, insecure, shown, may_be_called }));
        let places = ArcSwap::from_pointee(Err("no addresses are known yet".to_owned()));
        Self { name: name.to_owned(), origin, places, is_available: AtomicBool::new(false), load: Mutex::default() }
    }

    /// Says where it is.
    pub fn is_at(&self, places: Result<Vec<String>, String>) {
        if **self.places.load() != places {
            self.places.store(Arc::new(places));
        }
    }

    /// Says whether requests are handed on to it; it was so before.
    pub fn set_available(&self, is_available: bool) -> bool {
        self.is_available.swap(is_available, Relaxed)
    }

    /// Any of the places.
    ///
    /// # Errors
    /// Why there is none.
    pub fn place(&self) -> Result<String, String> {
        match &**self.places.load() {
            Ok(places) => {
                let at = usize::try_from(rand::random::<u32>()).unwrap_or_default().checked_rem(places.len()).unwrap_or_default();
                places.get(at).cloned().ok_or_else(|| "no addresses available".to_owned())
            }
            Err(why) => Err(why.clone()),
        }
    }

    /// Asks the server itself, as `user`, for no more than `bytes_max`; `None`: the body is not read. Redirects are not followed.
    ///
    /// # Errors
    /// Why there is no answer.
    pub async fn ask(&self, asking: Asking<'_>) -> Result<Fetched, String> {
        let bound = asking.bound;
        let late = || "context deadline exceeded (Client.Timeout exceeded while awaiting headers)".to_owned();
        tokio::time::timeout(bound, self.asked(asking)).await.unwrap_or_else(|_| Err(late()))
    }

    async fn asked(&self, asking: Asking<'_>) -> Result<Fetched, String> {
        let origin = self.origin.as_ref().map_err(Clone::clone)?;
        let mut request = Request::get(format!("https://{}{}", asking.place, asking.path))
            .header(header::HOST, asking.place)
            .header(header::ACCEPT, asking.accept)
            .header(header::USER_AGENT, concat!("kube-aggregator skiff/", env!("CARGO_PKG_VERSION")))
            .body(empty())
            .map_err(|error| error.to_string())?;
        if let Some(etag) = asking.etag.and_then(|etag| HeaderValue::from_str(etag).ok()) {
            request.headers_mut().insert(header::IF_NONE_MATCH, etag);
        }
        front_proxy::tell(request.headers_mut(), asking.user).map_err(|status| status.message)?;
        let (parts, body) = origin.send(request).await?.into_parts();
        let text = |name| text(&parts.headers, name);
        let body = match asking.bytes_max {
            Some(most) => Limited::new(body, most).collect().await.map_err(|error| error.to_string())?.to_bytes(),
            None => Bytes::new(),
        };
        let content_type = text(header::CONTENT_TYPE).unwrap_or_default();
        Ok(Fetched { code: parts.status.as_u16(), content_type, etag: text(header::ETAG), body })
    }
}

/// A request of our own.
#[derive(Clone, Copy)]
pub struct Asking<'a> {
    /// One of [`Delegate::place`].
    pub place: &'a str,
    pub path: &'a str,
    pub user: &'a User,
    pub accept: &'a str,
    pub etag: Option<&'a str>,
    pub bytes_max: Option<usize>,
    pub bound: Duration,
}

fn text(headers: &HeaderMap, name: http::HeaderName) -> Option<String> {
    headers.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned)
}

/// A refusal as the aggregator writes it (`http.Error`).
fn refusal(code: StatusCode, words: &str) -> Response {
    crate::wire::text(code, format!("{words}\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn delegate(group: &Group, name: &str) -> Arc<Delegate> {
        let may_be_called = |_| true;
        let reached = Reached { name, server_name: "s.n.svc", ca_bundle: Ok(Vec::new()), insecure: true, shown: None, may_be_called };
        Arc::new(Delegate::new(group, reached))
    }

    #[tokio::test]
    async fn paths_lead_to_who_serves_their_group_version() {
        let (group, delegations) = (Group::new(), Delegations::default());
        assert!(delegations.find("/apis/a.example/v1").is_none());
        let version = |group_name: &str, version: &str| Version {
            group: group_name.into(),
            version: version.into(),
            group_priority: 1,
            version_priority: 1,
            remote: Some(Remote {
                delegate: delegate(&group, &format!("{version}.{group_name}")),
                discovery: Arc::default(),
                openapi_v3: None,
                openapi_v2: None,
            }),
        };
        delegations.replace(vec![version("a.example", "v1"), version("a.example", "v2"), version("b", "v1")]);
        let found = |path: &str| delegations.find(path).map(|delegate| delegate.name.clone());
        for (path, name) in [
            ("/apis/a.example/v1", "v1.a.example"),
            ("/apis/a.example/v1/", "v1.a.example"),
            ("/apis/a.example/v2/namespaces/x/things/y", "v2.a.example"),
            ("/apis/b/v1/x", "v1.b"),
            ("/openapi/v3/apis/b/v1", "v1.b"),
        ] {
            assert_eq!(found(path).as_deref(), Some(name), "{path}");
        }
        for nobody in [
            "/apis/a.example",
            "/apis/a.example/",
            "/apis/a.example/v1x",
            "/apis/a.example/v",
            "//apis/a.example/v1",
            "/apis//a.example/v1",
            "/api/v1",
            "/openapi/v3/apis/b/v1/x",
            "/openapi/v3",
        ] {
            assert_eq!(found(nobody), None, "{nobody}");
        }
    }

    #[tokio::test]
    async fn one_of_the_places_is_taken() {
        let delegate = delegate(&Group::new(), "v1.a");
        assert!(delegate.place().is_err());
        delegate.is_at(Ok(vec!["10.0.0.1:443".into(), "10.0.0.2:443".into()]));
        assert!(delegate.place().is_ok_and(|place| place.starts_with("10.0.0.")));
        delegate.is_at(Ok(Vec::new()));
        assert_eq!(delegate.place(), Err("no addresses available".into()));
        delegate.is_at(Err("gone".into()));
        assert_eq!(delegate.place(), Err("gone".into()));
    }
}
