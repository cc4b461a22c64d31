//! What a server says of itself -> its part of discovery and OpenAPI, read as the types that they are: what is none harms nobody else's part.
//!
//! Sources: kube-aggregator `pkg/apiserver/handler_discovery.go`, `pkg/controllers/openapi`, `pkg/controllers/openapiv3`; apiserver
//! `ConvertGroupVersionIntoToDiscovery` (`pkg/endpoints/groupversion.go`).

use std::{collections::HashMap, sync::Arc, time::Duration};

use apiserver::{
    delegation::{Asking, Delegate, Fetched},
    identity::User,
    openapi,
};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::sync::Semaphore;

use crate::apiservice::spec::Spec;

const DISCOVERY_BOUND: Duration = Duration::from_secs(5);
const OPENAPI_BOUND: Duration = Duration::from_secs(20);
/// Of a discovery document.
const DISCOVERY_BYTES_MAX: usize = 4 << 20;
/// Of an OpenAPI document.
const OPENAPI_BYTES_MAX: usize = 8 << 20;
const ACCEPT: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList";

/// What is known of one group version.
#[derive(Clone, Default)]
pub struct Documents {
    found: Option<VersionDiscovery>,
    etag: Option<String>,
    is_current: bool,
    pub openapi_v3: Option<String>,
    pub openapi_v2: Option<Bytes>,
    openapi_v2_etag: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct GroupList {
    items: Vec<GroupDiscovery>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct GroupDiscovery {
    metadata: Named,
    versions: Option<Vec<VersionDiscovery>>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Named {
    name: String,
}

/// `APIVersionDiscovery`
#[derive(Clone, Default, PartialEq, Deserialize, Serialize)]
#[serde(default)]
struct VersionDiscovery {
    version: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    resources: Option<Vec<ResourceDiscovery>>,
}

/// `APIResourceDiscovery`
#[derive(Clone, Default, PartialEq, Deserialize, Serialize)]
#[serde(default, rename_all = "camelCase")]
struct ResourceDiscovery {
    resource: String,
    response_kind: Option<GroupVersionKind>,
    scope: String,
    singular_resource: String,
    verbs: Option<Vec<String>>,
    #[serde(skip_serializing_if = "is_empty")]
    short_names: Option<Vec<String>>,
    #[serde(skip_serializing_if = "is_empty")]
    categories: Option<Vec<String>>,
    #[serde(skip_serializing_if = "is_empty")]
    subresources: Option<Vec<SubresourceDiscovery>>,
}

/// `APISubresourceDiscovery`
#[derive(Clone, Default, PartialEq, Deserialize, Serialize)]
#[serde(default, rename_all = "camelCase")]
struct SubresourceDiscovery {
    subresource: String,
    response_kind: Option<GroupVersionKind>,
    #[serde(skip_serializing_if = "is_empty")]
    accepted_types: Option<Vec<GroupVersionKind>>,
    verbs: Option<Vec<String>>,
}

#[derive(Clone, Default, PartialEq, Deserialize, Serialize)]
#[serde(default)]
struct GroupVersionKind {
    group: String,
    version: String,
    kind: String,
}

/// `APIResourceList`
#[derive(Default, Deserialize)]
#[serde(default)]
struct ResourceList {
    resources: Option<Vec<LegacyResource>>,
}

/// `APIResource`
#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct LegacyResource {
    name: String,
    singular_name: String,
    namespaced: bool,
    group: String,
    version: String,
    kind: String,
    verbs: Option<Vec<String>>,
    short_names: Option<Vec<String>>,
    categories: Option<Vec<String>>,
}

#[derive(Deserialize)]
struct V3Root {
    #[serde(default)]
    paths: std::collections::BTreeMap<String, V3Place>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct V3Place {
    #[serde(default, rename = "serverRelativeURL")]
    server_relative_url: String,
}

fn is_empty<T>(list: &Option<Vec<T>>) -> bool {
    list.as_ref().is_none_or(Vec::is_empty)
}

impl Documents {
    /// The `APIVersionDiscovery` as it is shown.
    pub fn discovery(&self, version: &str) -> Arc<Value> {
        let found = self.found.as_ref().and_then(|found| serde_json::to_value(found).ok());
        let mut shown = found.unwrap_or_else(|| json!({"version": version}));
        shown["freshness"] = if self.is_current { "Current" } else { "Stale" }.into();
        Arc::new(shown)
    }

    /// Whether discovery and OpenAPI show the same of both.
    pub fn shows_as(&self, other: &Self) -> bool {
        self.found == other.found
            && self.is_current == other.is_current
            && self.openapi_v3 == other.openapi_v3
            && self.openapi_v2 == other.openapi_v2
    }

    /// As of now. What is not answered stays as it was, and is told to be stale. Each document has one of `places` while it is read, so that a server
    /// that hangs with one has others wait for that one alone.
    ///
    /// # Errors
    /// Why discovery is not current; the documents are worth as much as they say.
    pub async fn renewed(mut self, delegate: &Delegate, spec: &Spec, places: &Semaphore) -> (Self, Result<(), String>) {
        let discovered = with_place(places, self.discover(delegate, spec)).await;
        self.is_current = discovered.is_ok();
        if discovered.is_ok() {
            // Who has no such document is served without.
            let v3 = with_place(places, self.read_v3(delegate, spec)).await;
            let v2 = with_place(places, self.read_v2(delegate, spec)).await;
            if let Err(why) = v3.and(v2) {
                tracing::debug!(name = delegate.name, why, "OpenAPI of an aggregated API server could not be read");
            }
        }
        (self, discovered)
    }

    async fn discover(&mut self, delegate: &Delegate, spec: &Spec) -> Result<(), String> {
        let user = User { name: "system:kube-aggregator".into(), groups: vec!["system:masters".into()], ..User::default() };
        let etag = self.found.as_ref().and(self.etag.as_deref());
        let asked = ask(delegate, "/apis", &user, ACCEPT, (etag, DISCOVERY_BYTES_MAX, DISCOVERY_BOUND)).await?;
        match asked.code {
            304 => Ok(()),
            503 => Err(format!("non-success response code: {}", asked.code)),
            200 if is_aggregated(&asked.content_type) => {
                let list: GroupList = serde_json::from_slice(&asked.body).map_err(|error| error.to_string())?;
                let group = list.items.into_iter().find(|group| group.metadata.name == spec.group);
                let versions = group.into_iter().flat_map(|group| group.versions.unwrap_or_default());
                let found = versions.into_iter().find(|of| of.version == spec.version);
                self.found =
                    Some(found.map(complete).unwrap_or_else(|| VersionDiscovery { version: spec.version.clone(), resources: None }));
                self.etag = asked.etag;
                Ok(())
            }
            _ => self.discover_legacy(delegate, spec).await,
        }
    }

    /// Of a server that knows no aggregated discovery.
    async fn discover_legacy(&mut self, delegate: &Delegate, spec: &Spec) -> Result<(), String> {
        let (user, path) =
            (User { name: "system:kube-aggregator".into(), ..User::default() }, format!("/apis/{}/{}", spec.group, spec.version));
        let asked = ask(delegate, &path, &user, "application/json", (None, DISCOVERY_BYTES_MAX, DISCOVERY_BOUND)).await?;
        if asked.code != 200 {
            return Err(format!("failed to download legacy discovery for {path}: {}", asked.code));
        }
        let list: ResourceList = serde_json::from_slice(&asked.body).map_err(|error| error.to_string())?;
        let resources = converted(list.resources.unwrap_or_default());
        self.found = Some(VersionDiscovery { version: spec.version.clone(), resources: Some(resources) });
        self.etag = None;
        Ok(())
    }

    async fn read_v3(&mut self, delegate: &Delegate, spec: &Spec) -> Result<(), String> {
        let asked = ask(delegate, "/openapi/v3", &aggregator(), "application/json", (None, OPENAPI_BYTES_MAX, OPENAPI_BOUND)).await?;
        if asked.code == 404 {
            self.openapi_v3 = None;
            return Ok(());
        }
        let root: V3Root = read(&asked)?;
        let place = root.paths.get(&format!("apis/{}/{}", spec.group, spec.version));
        self.openapi_v3 = place.map(|place| hash(&place.server_relative_url));
        Ok(())
    }

    async fn read_v2(&mut self, delegate: &Delegate, spec: &Spec) -> Result<(), String> {
        let etag = self.openapi_v2.as_ref().and(self.openapi_v2_etag.as_deref());
        let asked = ask(delegate, "/openapi/v2", &aggregator(), "application/json", (etag, OPENAPI_BYTES_MAX, OPENAPI_BOUND)).await?;
        match asked.code {
            304 => return Ok(()),
            404 => self.openapi_v2 = None,
            200 => {
                let part = openapi::of_group_version(&asked.body, &spec.group, &spec.version)?;
                self.openapi_v2 = Some(part.to_string().into());
            }
            code => return Err(format!("failed to retrieve openAPI spec, http error: {code}")),
        }
        self.openapi_v2_etag = asked.etag;
        Ok(())
    }
}

async fn with_place<T>(places: &Semaphore, read: impl Future<Output = T>) -> T {
    // Never closed.
    let _place = places.acquire().await;
    read.await
}

fn aggregator() -> User {
    User { name: "system:aggregator".into(), ..User::default() }
}

async fn ask(
    delegate: &Delegate,
    path: &str,
    user: &User,
    accept: &str,
    (etag, bytes_max, bound): (Option<&str>, usize, Duration),
) -> Result<Fetched, String> {
    let place = delegate.place()?;
    delegate.ask(Asking { place: &place, path, user, accept, etag, bytes_max: Some(bytes_max), bound }).await
}

fn read<'a, T: Deserialize<'a>>(asked: &'a Fetched) -> Result<T, String> {
    match asked.code {
        200 => serde_json::from_slice(&asked.body).map_err(|error| error.to_string()),
        code => Err(format!("non-success response code: {code}")),
    }
}

/// Both versions are read alike.
fn is_aggregated(content_type: &str) -> bool {
    let mut parts = content_type.split(';').map(str::trim);
    parts.next() == Some("application/json")
        && content_type.contains("as=APIGroupDiscoveryList")
        && content_type.contains("g=apidiscovery.k8s.io")
}

/// The hash that clients tell versions of a document apart by: letters, digits and what base64 has besides.
fn hash(url: &str) -> String {
    let given = url.split_once("hash=").map(|(_, hash)| hash.split('&').next().unwrap_or_default()).unwrap_or_default();
    given.chars().filter(|c| c.is_ascii_alphanumeric() || "-_=+/%".contains(*c)).take(256).collect()
}

/// Older clients look into each kind that is answered.
fn complete(mut of: VersionDiscovery) -> VersionDiscovery {
    for resource in of.resources.iter_mut().flatten() {
        resource.response_kind.get_or_insert_default();
        for sub in resource.subresources.iter_mut().flatten() {
            sub.response_kind.get_or_insert_default();
        }
    }
    of
}

fn converted(legacy: Vec<LegacyResource>) -> Vec<ResourceDiscovery> {
    let (mut all, mut places) = (Vec::<ResourceDiscovery>::new(), HashMap::<String, usize>::new());
    for of in legacy {
        let response_kind = Some(GroupVersionKind { group: of.group, version: of.version, kind: of.kind });
        let scope = if of.namespaced { "Namespaced" } else { "Cluster" }.to_owned();
        let (name, sub) = of.name.split_once('/').map_or((of.name.as_str(), None), |(name, sub)| (name, Some(sub)));
        let at = *places.entry(name.to_owned()).or_insert_with(|| {
            all.push(ResourceDiscovery { resource: name.to_owned(), scope: scope.clone(), ..ResourceDiscovery::default() });
            all.len() - 1
        });
        let Some(place) = all.get_mut(at) else { continue };
        match sub {
            Some(sub) => place.subresources.get_or_insert_default().push(SubresourceDiscovery {
                subresource: sub.to_owned(),
                response_kind,
                accepted_types: None,
                verbs: of.verbs,
            }),
            None => {
                let subresources = place.subresources.take();
                let (singular_resource, verbs) = (of.singular_name, of.verbs);
                let (short_names, categories, resource) = (of.short_names, of.categories, name.to_owned());
                *place =
                    ResourceDiscovery { resource, response_kind, scope, singular_resource, verbs, short_names, categories, subresources };
            }
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use tokio::time::{Instant, sleep};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_server_that_hangs_with_each_document_has_others_wait_for_one_of_them() {
        let places = Semaphore::new(1);
        let hangs = async {
            for _ in 0..3 {
                with_place(&places, sleep(OPENAPI_BOUND)).await;
            }
        };
        let other = async {
            let begun = Instant::now();
            with_place(&places, std::future::ready(())).await;
            begun.elapsed()
        };
        let ((), waited) = tokio::join!(hangs, other);
        assert_eq!(waited, OPENAPI_BOUND);
    }

    #[test]
    fn legacy_lists_become_aggregated_ones() {
        let list: ResourceList = serde_json::from_value(json!({"resources": [
            {"name": "things/status", "namespaced": true, "kind": "Thing", "verbs": ["get"]},
            {"name": "things", "singularName": "thing", "namespaced": true, "kind": "Thing", "verbs": ["list"], "shortNames": ["th"]},
            {"name": "nodes", "kind": "Node", "verbs": null},
        ]}))
        .unwrap();
        let shown = serde_json::to_value(converted(list.resources.unwrap())).unwrap();
        assert_eq!(
            shown,
            json!([
                {"resource": "things", "responseKind": {"group": "", "version": "", "kind": "Thing"}, "scope": "Namespaced", "singularResource": "thing",
                 "verbs": ["list"], "shortNames": ["th"],
                 "subresources": [{"subresource": "status", "responseKind": {"group": "", "version": "", "kind": "Thing"}, "verbs": ["get"]}]},
                {"resource": "nodes", "responseKind": {"group": "", "version": "", "kind": "Node"}, "scope": "Cluster", "singularResource": "", "verbs": null},
            ])
        );
    }

    #[test]
    fn what_is_unknown_is_stale() {
        assert_eq!(*Documents::default().discovery("v1"), json!({"version": "v1", "freshness": "Stale"}));
        assert_eq!(hash("/openapi/v3/apis/a/v1?hash=AB%3D\"\n<&x=1"), "AB%3D");
        assert!(is_aggregated("application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"));
        assert!(!is_aggregated("application/json") && !is_aggregated("text/html;as=APIGroupDiscoveryList;g=apidiscovery.k8s.io"));
    }
}
