//! One write on its way from the front door to the store: who wants what done, to what, and how. Bodies, patches, scales, statuses, actions,
//! connects, deletions of one object and of many, and the API server's own writes all carry it; strategies and admission see nothing else.

use std::{collections::BTreeMap, mem, sync::Arc};

use api::{GroupResource, Gvk, Key, Status, time::Timestamp};
use parking_lot::Mutex;
use serde_json::Value;

use super::{Engine, Object, registry::Served};
use crate::{
    identity::{Operation, User},
    kind::Kind,
    schema::Schema,
};

/// Longest name of a manager, in bytes (`FieldManager` in metav1 `validation.go`).
pub(crate) const MANAGER_LENGTH_MAX: usize = 128;

/// What a write is about. Cheap to copy: who acts under another name or operation takes one with that changed.
#[derive(Clone, Copy)]
pub struct Ctx<'a> {
    pub engine: &'a Arc<Engine>,
    pub kind: &'a Arc<Kind>,
    pub(crate) served: &'a Served,
    pub user: &'a User,
    /// The request's: `create`, `update`, `patch`, `delete`, `deletecollection`, or that of a connect.
    pub verb: &'a str,
    /// As admission is asked about it. An update that makes its object is a create from there on.
    pub operation: Operation,
    pub manager: Manager<'a>,
    pub namespace: &'a str,
    /// Empty for a create whose name is to be generated.
    pub name: &'a str,
    /// Empty, or the subresource's name.
    pub subresource: &'a str,
    /// CreateOptions, UpdateOptions, PatchOptions, DeleteOptions as sent; of a connect its own options.
    pub options: &'a Value,
    pub dry_run: bool,
    pub now: Timestamp,
    pub(crate) notes: &'a Notes,
    pub(crate) origin: Origin,
}

/// Whose a change is (an entry of `metadata.managedFields`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Manager<'a> {
    /// `fieldManager`, else the user agent's name.
    pub name: &'a str,
    pub operation: ManagerOperation,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ManagerOperation {
    Update,
    Apply,
}

/// Whether admission has still to be asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    Request,
    /// The API server's own: as a request, but nobody outside is asked about it, who may not be there before it is done.
    Own,
    /// An action's write: admission was asked about the action, and is not asked about what it does (as upstream's bindings and evictions).
    Action,
}

/// What is told about a write besides its result.
#[derive(Default)]
pub(crate) struct Notes(Mutex<Gathered>);

#[derive(Default)]
struct Gathered {
    /// Texts for `Warning` headers.
    warnings: Vec<String>,
    /// `annotations` of the request's audit event.
    annotations: BTreeMap<String, String>,
}

impl<'a> Ctx<'a> {
    /// The same under the name that was found for it.
    pub(crate) fn named(self, name: &'a str) -> Self {
        Self { name, ..self }
    }

    pub(crate) fn operating(self, operation: Operation) -> Self {
        Self { operation, ..self }
    }

    /// The schema and the kind of what is written: the object's, or those of the subresource's body.
    pub fn body(&self) -> (&'a Schema, Gvk) {
        (self.kind.body_schema(self.subresource), self.kind.body_kind(self.subresource))
    }

    /// Whether the API server itself does it, and not for a client: webhooks are not asked about that.
    pub fn is_own(&self) -> bool {
        self.origin == Origin::Own
    }

    pub fn key(&self) -> Key {
        Key::new(self.namespace, self.name)
    }

    /// Another object that the request needs, linearizable. That it is not there is told as if it were of the request's own resource: upstream's stores
    /// take that from the request (`qualifiedResourceFromContext`).
    ///
    /// # Errors
    /// 404 without such an object.
    pub async fn needed(&self, gr: &GroupResource, key: &Key) -> Result<Arc<Object>, Status> {
        let found = self.engine.get(gr, key).await;
        found.map_err(|status| if status.code == 404 { Status::not_found(&self.kind.group_resource(), &key.name) } else { status })
    }

    /// Texts that the client shall see (`Warning` headers).
    pub fn warn(&self, texts: Vec<String>) {
        self.notes.warn(texts);
    }

    /// Adds to the request's audit event. The first value of a key stands (`AddAuditAnnotation`).
    pub fn annotate(&self, key: &str, value: String) {
        self.notes.0.lock().annotations.entry(key.to_owned()).or_insert(value);
    }
}

impl<'a> Manager<'a> {
    /// `managerOrUserAgent`: where no manager is given the user agent up to its first slash, of printable characters, cut at the bound.
    pub(crate) fn new(field_manager: &'a str, user_agent: &'a str) -> Self {
        let agent = user_agent.split('/').next().unwrap_or_default();
        let fits = |(at, c): &(usize, char)| !c.is_control() && at + c.len_utf8() <= MANAGER_LENGTH_MAX;
        let end = agent.char_indices().find(|one| !fits(one)).map_or(agent.len(), |(at, _)| at);
        let name = if field_manager.is_empty() { &agent[..end] } else { field_manager };
        Self { name, operation: ManagerOperation::Update }
    }
}

impl Notes {
    pub fn warn(&self, texts: Vec<String>) {
        if !texts.is_empty() {
            self.0.lock().warnings.extend(texts);
        }
    }

    /// Those told so far, in order; they are told once.
    pub fn take_warnings(&self) -> Vec<String> {
        mem::take(&mut self.0.lock().warnings)
    }

    pub fn annotations(&self) -> BTreeMap<String, String> {
        self.0.lock().annotations.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_manager_is_the_one_given_or_the_program() {
        assert_eq!(Manager::new("me", "kubectl/v1.36 (linux)").name, "me");
        assert_eq!(Manager::new("", "kubectl/v1.36 (linux)").name, "kubectl");
        assert_eq!(Manager::new("", "").name, "");
        assert_eq!(Manager::new("", &"é".repeat(200)).name.len(), MANAGER_LENGTH_MAX);
    }
}
