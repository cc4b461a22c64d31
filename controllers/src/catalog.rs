//! Discovery -> the collections that the server serves, custom ones included.

use api::names::api_version;
use client::kube;
use futures::{StreamExt, TryStreamExt, stream};
use http::Request;
use serde::de::DeserializeOwned;
use serde_json::Value;

/// Questions of one kind that are asked at the same time.
pub const AT_ONCE_MAX: usize = 16;

/// One collection in its preferred version.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Collection {
    pub group: String,
    pub version: String,
    pub plural: String,
    pub kind: String,
    pub namespaced: bool,
    pub verbs: Vec<String>,
}

impl Collection {
    /// `/api/v1/namespaces/shop/pods`; `None` is the collection over all namespaces, or a cluster-scoped one.
    pub fn path(&self, namespace: Option<&str>) -> String {
        let root = if self.group.is_empty() { format!("/api/{}", self.version) } else { format!("/apis/{}/{}", self.group, self.version) };
        match namespace.filter(|ns| self.namespaced && !ns.is_empty()) {
            Some(namespace) => format!("{root}/namespaces/{namespace}/{}", self.plural),
            None => format!("{root}/{}", self.plural),
        }
    }

    pub fn can(&self, verb: &str) -> bool {
        self.verbs.iter().any(|v| v == verb)
    }

    pub fn api_version(&self) -> String {
        api_version(&self.group, &self.version)
    }
}

/// All collections, each in its group's preferred version.
pub async fn collections(client: &kube::Client) -> Result<Vec<Collection>, kube::Error> {
    let groups = get(client, "/apis").await?;
    let preferred = |group: &Value| group.pointer("/preferredVersion/groupVersion")?.as_str().map(|gv| format!("/apis/{gv}"));
    let listed = groups["groups"].as_array().into_iter().flatten().filter_map(preferred);
    let paths: Vec<String> = std::iter::once("/api/v1".to_owned()).chain(listed).collect();
    let lists: Vec<Value> =
        stream::iter(paths).map(|path| async move { get(client, &path).await }).buffered(AT_ONCE_MAX).try_collect().await?;
    let mut all = Vec::new();
    for list in lists {
        let gv = list["groupVersion"].as_str().unwrap_or_default();
        let Some((group, version)) = api::names::split_api_version(gv) else { continue };
        all.extend(list["resources"].as_array().into_iter().flatten().filter_map(|r| collection(group, version, r)));
    }
    Ok(all)
}

/// One LIST of metadata alone.
pub async fn list_metadata<T: DeserializeOwned>(client: &kube::Client, path: &str) -> Result<T, kube::Error> {
    let accept = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1";
    let request = Request::get(path).header("accept", accept);
    client.request(request.body(Vec::new()).expect("paths are made of checked names")).await
}

/// One GET, as JSON.
pub async fn get(client: &kube::Client, path: &str) -> Result<Value, kube::Error> {
    client.request(Request::get(path).body(Vec::new()).expect("paths are made of checked names")).await
}

fn collection(group: &str, version: &str, resource: &Value) -> Option<Collection> {
    let plural = resource["name"].as_str().filter(|name| !name.contains('/'))?;
    let verbs = resource["verbs"].as_array().into_iter().flatten().filter_map(|v| v.as_str().map(str::to_owned)).collect();
    Some(Collection {
        group: group.into(),
        version: version.into(),
        plural: plural.into(),
        kind: resource["kind"].as_str()?.into(),
        namespaced: resource["namespaced"].as_bool()?,
        verbs,
    })
}
