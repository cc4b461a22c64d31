//! Objects of one kind, or what the server knows -> those of another that is kept nowhere: each is worked out when somebody asks for it.
//!
//! A kind that is derived of another has the names, namespaces and labels of its origins, so that selectors choose among those. There is no revision and no page
//! of what nobody keeps: `resourceVersion`, `limit` and `continue` say nothing (as with upstream's `rest.Lister` over anything but a store).

use std::sync::Arc;

use api::{GroupResource, Key, Status};
use async_trait::async_trait;
use bytes::{BufMut, Bytes, BytesMut};
use serde_json::json;

use super::{
    Engine,
    list::{self, Listed, When},
    object::Object,
    registry::Served,
    select::{Selection, Source},
};
use crate::kind::Kind;

/// How a kind's objects are worked out.
#[async_trait]
pub trait Derived: Send + Sync {
    /// Of which objects. `None`: of none; all that there is is derived, and what was asked for chosen from it.
    fn origin(&self) -> Option<GroupResource>;

    /// One for each origin, in their order. Those of which there is nothing to tell are left out.
    ///
    /// # Errors
    /// Why there is none at all.
    async fn derive(&self, origins: &Origins) -> Result<Vec<Made>, Status>;

    /// What is said where there is no origin of that name.
    fn no_origin(&self, key: &Key) -> Status {
        self.origin().map_or_else(Status::no_such_path, |origin| Status::not_found(&origin, &key.name))
    }

    /// What is said where there is an origin, and nothing to tell of it.
    fn nothing(&self, kind: &Kind, key: &Key) -> Status {
        Status::not_found(&kind.group_resource(), &key.name)
    }
}

/// A derived object: JSON without `kind` and `apiVersion`.
pub struct Made {
    pub key: Key,
    pub json: Bytes,
}

/// What objects are derived of, as it is stored.
pub struct Origins {
    pub engine: Arc<Engine>,
    pub objects: Arc<Vec<Arc<Object>>>,
    kind: Option<Arc<Kind>>,
}

impl Origins {
    /// The value of a selectable field of one of them; empty where their kind has no such field.
    pub fn field<'a>(&'a self, object: &'a Object, label: &str) -> &'a str {
        let Some(kind) = &self.kind else { return "" };
        let at = kind.fields.iter().position(|field| field.label == label);
        at.map_or("", |at| Source::Field(at).value(kind, object))
    }
}

/// # Errors
/// 404 where there is no origin, or nothing to tell of it.
pub(crate) async fn get(engine: &Arc<Engine>, served: &Served, derived: &dyn Derived, key: &Key) -> Result<Arc<Object>, Status> {
    let origins = match derived.origin() {
        None => Origins { engine: engine.clone(), objects: Arc::default(), kind: None },
        Some(origin) => {
            let origin = engine.resource(&origin)?;
            let found = engine.stored(&origin, key).await?.ok_or_else(|| derived.no_origin(key))?;
            Origins { engine: engine.clone(), objects: Arc::new(vec![found]), kind: Some(origin.kind) }
        }
    };
    let made = derived.derive(&origins).await?.into_iter().find(|made| made.key == *key);
    let made = made.ok_or_else(|| derived.nothing(&served.kind, key))?;
    Ok(Arc::new(Object::loose(made.key, typed(&served.kind, &made.json))))
}

pub(crate) async fn list(engine: &Arc<Engine>, derived: &dyn Derived, selection: &Selection) -> Result<Listed, Status> {
    let origins = match derived.origin() {
        None => Origins { engine: engine.clone(), objects: Arc::default(), kind: None },
        Some(origin) => {
            let origin = engine.resource(&origin)?;
            let objects = list::list(engine, &origin, selection, &When::Newest, 0).await?.objects;
            Origins { engine: engine.clone(), objects, kind: Some(origin.kind) }
        }
    };
    let made = derived.derive(&origins).await?.into_iter().map(|made| Arc::new(Object::loose(made.key, made.json)));
    // What has origins is chosen by them.
    let objects = made.filter(|object| origins.kind.is_some() || selection.matches(object)).collect();
    Ok(Listed { objects: Arc::new(objects), shown: None, rev: 0, token: String::new(), remaining: None })
}

/// With the kind and version at its start.
fn typed(kind: &Kind, json: &Bytes) -> Bytes {
    let mut out = BytesMut::from(json!({"kind": kind.kind, "apiVersion": kind.api_version()}).to_string().as_bytes());
    out.truncate(out.len() - 1);
    out.put_u8(b',');
    out.put_slice(json.get(1..).unwrap_or_default());
    out.freeze()
}
