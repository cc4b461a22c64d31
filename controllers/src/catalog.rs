//! Discovery -> the collections that the server serves, custom ones included.

use std::time::Duration;

use api::{
    Gvr,
    names::{api_version, segment},
};
use client::kube;
use http::Request;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::time::timeout;

/// Questions of one kind that are asked at the same time.
pub const AT_ONCE_MAX: usize = 16;
/// Until one object is there.
const ANSWER_BOUND: Duration = Duration::from_secs(30);

/// One collection in its preferred version.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Collection {
    pub group: String,
    pub version: String,
    pub plural: String,
    pub kind: String,
    pub namespaced: bool,
    pub verbs: Vec<String>,
}

impl Collection {
    pub fn gvr(&self) -> Gvr {
        Gvr::new(self.group.clone(), self.version.clone(), self.plural.clone())
    }

    /// `/api/v1/namespaces/shop/pods`; `None` is the collection over all namespaces, or a cluster-scoped one.
    pub fn path(&self, namespace: Option<&str>) -> String {
        let root = if self.group.is_empty() { format!("/api/{}", self.version) } else { format!("/apis/{}/{}", self.group, self.version) };
        match namespace.filter(|ns| self.namespaced && !ns.is_empty()) {
            Some(namespace) => format!("{root}/namespaces/{}/{}", segment(namespace), self.plural),
            None => format!("{root}/{}", self.plural),
        }
    }

    /// The URL of one object.
    pub fn object(&self, namespace: &str, name: &str) -> String {
        format!("{}/{}", self.path(Some(namespace)), segment(name))
    }

    pub fn can(&self, verb: &str) -> bool {
        self.verbs.iter().any(|v| v == verb)
    }

    pub fn api_version(&self) -> String {
        api_version(&self.group, &self.version)
    }
}

/// A collection in one of the versions that the server has of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Served {
    pub collection: Collection,
    /// The first version that has it: its objects are to be had there once, and all of them.
    pub preferred: bool,
    /// The server knows it from hearsay alone: who serves it does not answer.
    pub stale: bool,
}

/// All collections, each in its preferred version.
///
/// # Errors
/// Also where a group does not answer: what is in it is not known.
pub async fn collections(client: &kube::Client) -> Result<Vec<Collection>, kube::Error> {
    let groups = groups(client).await?;
    if let Some(stale) = groups.iter().find_map(stale) {
        return Err(kube::Error::Service(format!("discovery of {stale} is stale").into()));
    }
    Ok(groups.iter().flat_map(group).filter(|s| s.preferred).map(|s| s.collection).collect())
}

/// All collections in all their versions (KEP-3352: two documents tell everything).
pub async fn served(client: &kube::Client) -> Result<Vec<Served>, kube::Error> {
    Ok(groups(client).await?.iter().flat_map(group).collect())
}

async fn groups(client: &kube::Client) -> Result<Vec<Value>, kube::Error> {
    let mut all = Vec::new();
    for root in ["/api", "/apis"] {
        let accept = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
        let mut document: Value = client.request(request(root, accept)?).await?;
        if let Value::Array(groups) = document["items"].take() {
            all.extend(groups);
        }
    }
    Ok(all)
}

/// The first version of which the server knows from hearsay alone, or nothing at all: who serves it does not answer.
fn stale(group: &Value) -> Option<String> {
    let mut versions = group["versions"].as_array().into_iter().flatten();
    let stale = versions.find(|version| is_stale(version))?;
    let name = group.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default();
    Some(api_version(name, stale["version"].as_str().unwrap_or_default()))
}

fn is_stale(version: &Value) -> bool {
    version["freshness"].as_str().is_some_and(|f| f != "Current")
}

fn group(group: &Value) -> Vec<Served> {
    let name = group.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default();
    let mut all: Vec<Served> = Vec::new();
    for version in group["versions"].as_array().into_iter().flatten() {
        let stale = is_stale(version);
        let of_version = version["version"].as_str().unwrap_or_default();
        for resource in version["resources"].as_array().into_iter().flatten() {
            let Some(collection) = collection(name, of_version, resource) else { continue };
            let preferred = !all.iter().any(|s| s.collection.plural == collection.plural);
            all.push(Served { collection, preferred, stale });
        }
    }
    all
}

/// One LIST of metadata alone.
pub async fn list_metadata<T: DeserializeOwned>(client: &kube::Client, path: &str) -> Result<T, kube::Error> {
    client.request(request(path, "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1")?).await
}

/// One GET, as JSON.
pub async fn get(client: &kube::Client, path: &str) -> Result<Value, kube::Error> {
    client.request(request(path, "application/json")?).await
}

/// One GET of an object's metadata, in bounded time.
pub async fn get_metadata<T: DeserializeOwned>(client: &kube::Client, path: &str) -> Result<T, kube::Error> {
    let asked = client.request(request(path, "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1")?);
    timeout(ANSWER_BOUND, asked).await.unwrap_or_else(|late| Err(kube::Error::Service(late.into())))
}

/// Whether the server has the collection, and no object of this name in it: a path that is not served is answered with 404, too, but names
/// no object.
pub fn is_absent(error: &kube::Error, name: &str) -> bool {
    let kube::Error::Api(status) = error else { return false };
    status.code == 404 && status.details.as_ref().is_some_and(|d| d.name == name)
}

fn request(path: &str, accept: &str) -> Result<Request<Vec<u8>>, kube::Error> {
    Request::get(path).header("accept", accept).body(Vec::new()).map_err(kube::Error::HttpError)
}

fn collection(group: &str, version: &str, resource: &Value) -> Option<Collection> {
    Some(Collection {
        group: group.into(),
        version: version.into(),
        plural: resource["resource"].as_str()?.into(),
        kind: resource.pointer("/responseKind/kind")?.as_str()?.into(),
        namespaced: resource["scope"] == "Namespaced",
        verbs: resource["verbs"].as_array().into_iter().flatten().filter_map(|v| v.as_str().map(str::to_owned)).collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_collection_is_read_in_the_first_version_that_has_it() {
        let resource = |name: &str| json!({"resource": name, "responseKind": {"kind": "K"}, "scope": "Namespaced", "verbs": ["get"]});
        let document = json!({"metadata": {"name": "g"}, "versions": [
            {"version": "v2", "freshness": "Current", "resources": [resource("a")]},
            {"version": "v1", "freshness": "Stale", "resources": [resource("a"), resource("b")]}]});
        assert_eq!(stale(&document).as_deref(), Some("g/v1"));
        let unknown = json!({"metadata": {"name": "g"}, "versions": [{"version": "v3", "freshness": "Stale"}]});
        assert_eq!(
            (stale(&unknown).as_deref(), group(&unknown).len()),
            (Some("g/v3"), 0),
            "nothing is known of it, not even that there is nothing"
        );
        let all: Vec<_> = group(&document).into_iter().map(|s| (s.collection.version, s.collection.plural, s.preferred, s.stale)).collect();
        let of = |v: &str, p: &str, preferred, stale| (v.to_owned(), p.to_owned(), preferred, stale);
        assert_eq!(all, [of("v2", "a", true, false), of("v1", "a", false, true), of("v1", "b", true, true)]);
    }
}
