//! `scaleTargetRef` -> the scale of what it names: of any kind that the server serves, and always in the autoscaler's own namespace.

use std::{sync::Arc, time::Duration};

use api::{GroupResource, Gvr, k8s::api::autoscaling::v2::CrossVersionObjectReference, names::split_api_version};
use serde::Deserialize;
use serde_json::Value;
use tokio::time::Instant;

use super::ask::{Asks, Refused, path};

/// How long it is believed which resources are of a kind, as upstream's mapper is reset.
const LASTS: Duration = Duration::from_secs(30);

/// A target's scale as it was read.
#[derive(Clone, Debug, PartialEq)]
pub struct Scale {
    pub resource: Gvr,
    /// Of the subresource.
    pub path: String,
    pub object: Value,
    /// `spec.replicas`
    pub replicas: i32,
    /// `status.replicas`
    pub status_replicas: i32,
    pub selector: String,
}

/// Why there is no scale.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    pub message: String,
    /// The autoscaler itself is wrong (`errSpec`).
    pub is_of_spec: bool,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Group {
    versions: Option<Vec<Version>>,
    preferred_version: Option<Version>,
}

#[derive(Clone, Default, Deserialize)]
#[serde(default)]
struct Version {
    version: String,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Resources {
    resources: Option<Vec<Resource>>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Resource {
    name: String,
    kind: String,
}

impl Fault {
    fn of(message: impl Into<String>) -> Self {
        Self { message: message.into(), is_of_spec: false }
    }
}

impl Asks {
    /// `scaleForResourceMappings`: of the first resource of the kind that has one of this name.
    pub async fn scale(&self, namespace: &str, target: &CrossVersionObjectReference, until: Instant) -> Result<Scale, Fault> {
        let version = target.api_version.as_deref().unwrap_or_default();
        let Some((group, _)) = split_api_version(version) else {
            return Err(Fault { message: format!("unexpected GroupVersion string: {version}"), is_of_spec: true });
        };
        let mut first = None;
        for resource in self.resources(group, &target.kind, until).await.map_err(Fault::of)?.iter() {
            match self.scale_of(resource, namespace, &target.name, until).await {
                Ok(scale) => return Ok(scale),
                Err(fault) => drop(first.get_or_insert(fault)),
            }
        }
        Err(first.unwrap_or_else(|| Fault::of("unrecognized resource")))
    }

    async fn scale_of(&self, resource: &Gvr, namespace: &str, name: &str, until: Instant) -> Result<Scale, Fault> {
        let root = root(&resource.group, &resource.version).map_err(Fault::of)?;
        // In the namespace whatever the resource's scope is: who may make an autoscaler there has no say elsewhere.
        let rest = path(&["namespaces", namespace, &resource.resource, name, "scale"]).map_err(Fault::of)?;
        let path = root + &rest;
        let object: Value = self.get(&path, until).await.map_err(|refused| Fault::of(refused.message))?;
        let number = |pointer: &str| object.pointer(pointer).and_then(Value::as_i64).unwrap_or(0);
        let replicas = |pointer: &str| i32::try_from(number(pointer)).unwrap_or(if number(pointer) < 0 { 0 } else { i32::MAX });
        Ok(Scale {
            resource: resource.clone(),
            path,
            replicas: replicas("/spec/replicas"),
            status_replicas: replicas("/status/replicas"),
            selector: object.pointer("/status/selector").and_then(Value::as_str).unwrap_or_default().to_owned(),
            object,
        })
    }

    /// The resource that metrics about objects of this kind name (`RESTMapping`).
    pub async fn resource(&self, api_version: &str, kind: &str, until: Instant) -> Result<GroupResource, String> {
        let group = split_api_version(api_version).map_or("", |(group, _)| group);
        let found = self.resources(group, kind, until).await;
        let all = found.map_err(|why| format!("unable to map kind {} to resource: {why}", group_kind(group, kind)))?;
        Ok(all.first().map(Gvr::group_resource).unwrap_or_else(|| GroupResource::new(group, kind)))
    }

    /// Those of the first version of the group that has the kind, the preferred one before others.
    async fn resources(&self, group: &str, kind: &str, until: Instant) -> Result<Arc<[Gvr]>, String> {
        let (named, now) = ((group.to_owned(), kind.to_owned()), Instant::now());
        if let Some((till, known)) = self.kinds.lock().get(&named)
            && *till > now
        {
            return Ok(known.clone());
        }
        let none = || format!("no matches for kind {} in group {}", api::time::quoted(kind), api::time::quoted(group));
        let not_there = |refused: Refused| if refused.code == 404 { none() } else { refused.message };
        for version in self.versions(group, until).await.map_err(not_there)? {
            let list: Resources = match self.get(&root(group, &version)?, until).await {
                // A version that went meanwhile has nothing.
                Err(refused) if refused.code == 404 => continue,
                answer => answer.map_err(|refused| refused.message)?,
            };
            let of_kind = list.resources.unwrap_or_default().into_iter().filter(|r| r.kind == kind && !r.name.contains('/'));
            let found: Arc<[Gvr]> = of_kind.map(|r| Gvr::new(group.to_owned(), version.clone(), r.name)).collect();
            if !found.is_empty() {
                let mut all = self.kinds.lock();
                all.retain(|_, (till, _)| *till > now);
                all.insert(named, (now + LASTS, found.clone()));
                return Ok(found);
            }
        }
        Err(none())
    }

    /// The preferred one first.
    pub async fn versions(&self, group: &str, until: Instant) -> Result<Vec<String>, Refused> {
        if group.is_empty() {
            return Ok(vec!["v1".to_owned()]);
        }
        let path = path(&["apis", group]).map_err(|message| Refused { code: 0, message })?;
        let group: Group = self.get(&path, until).await?;
        let preferred = group.preferred_version.map(|preferred| preferred.version);
        let mut all: Vec<String> = preferred.into_iter().collect();
        for Version { version } in group.versions.unwrap_or_default() {
            if !all.contains(&version) {
                all.push(version);
            }
        }
        Ok(all)
    }
}

fn root(group: &str, version: &str) -> Result<String, String> {
    if group.is_empty() { path(&["api", version]) } else { path(&["apis", group, version]) }
}

/// `GroupKind.String`
fn group_kind(group: &str, kind: &str) -> String {
    if group.is_empty() { kind.to_owned() } else { format!("{kind}.{group}") }
}
