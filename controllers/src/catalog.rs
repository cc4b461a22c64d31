//! Discovery -> the collections that the server serves, custom ones included.

use api::names::api_version;
use client::kube;
use http::Request;
use serde_json::Value;

/// One collection in its preferred version.
#[derive(Clone, Debug, PartialEq, Eq)]
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
    let mut all = Vec::new();
    for path in std::iter::once("/api/v1".to_owned()).chain(listed) {
        let list = get(client, &path).await?;
        let gv = list["groupVersion"].as_str().unwrap_or_default();
        let Some((group, version)) = api::names::split_api_version(gv) else { continue };
        all.extend(list["resources"].as_array().into_iter().flatten().filter_map(|r| collection(group, version, r)));
    }
    Ok(all)
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
