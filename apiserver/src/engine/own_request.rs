//! Writes of this process's own, that came over no wire: the API server's, and what actions do.

use std::sync::Arc;

use api::{GroupResource, Key, Status, time::Timestamp};
use serde_json::{Value, json};

use super::{
    Engine, Object,
    context::{Ctx, Manager, ManagerOperation, Notes, Origin},
    delete,
    registry::Served,
    update,
};
use crate::identity::{Operation, User};

/// Who writes where no client does (upstream's own writes go through its loopback client under this name).
const OWN_MANAGER: &str = "kube-apiserver";

/// A request of this process's own, that came over no wire.
pub struct OwnRequest {
    pub(crate) served: Served,
    pub(crate) options: Value,
    pub(crate) origin: Origin,
    pub(crate) notes: Notes,
}

impl OwnRequest {
    pub(crate) fn new(served: Served) -> Self {
        Self { served, options: json!({}), origin: Origin::Request, notes: Notes::default() }
    }

    pub(crate) async fn update(
        &self,
        engine: &Arc<Engine>,
        key: &Key,
        subresource: &str,
        user: &User,
        change: &(dyn for<'b> Fn(&'b mut Value) -> Result<(), Status> + Send + Sync),
    ) -> Result<Arc<Object>, Status> {
        let ctx = self.ctx(engine, user, Operation::Update, (&key.namespace, &key.name, subresource));
        let updated = Box::pin(update::update(&ctx, &|value: &mut Value| change(value), 0, update::Missing::Refuse)).await?;
        Ok(updated.object)
    }

    pub(crate) async fn delete(&self, engine: &Arc<Engine>, key: &Key, user: &User) -> Result<(), Status> {
        let options = delete::Options::read(&self.options)?;
        let ctx = self.ctx(engine, user, Operation::Delete, (&key.namespace, &key.name, ""));
        Box::pin(delete::delete(&ctx, &options)).await.map(drop)
    }

    /// The context of one write of it. `place` is namespace, name and subresource.
    pub fn ctx<'a>(
        &'a self,
        engine: &'a Arc<Engine>,
        user: &'a User,
        operation: Operation,
        (namespace, name, subresource): (&'a str, &'a str, &'a str),
    ) -> Ctx<'a> {
        let verb = match operation {
            Operation::Create => "create",
            Operation::Update => "update",
            Operation::Delete => "delete",
            Operation::Connect => "connect",
        };
        let dry_run = self.options.get("dryRun").and_then(Value::as_array).is_some_and(|modes| !modes.is_empty());
        Ctx {
            engine,
            kind: &self.served.kind,
            served: &self.served,
            user,
            verb,
            operation,
            manager: Manager { name: OWN_MANAGER, operation: ManagerOperation::Update },
            namespace,
            name,
            subresource,
            options: &self.options,
            dry_run,
            now: Timestamp::now(),
            notes: &self.notes,
            origin: self.origin,
        }
    }
}

impl Ctx<'_> {
    /// As [`Engine::update`], for what an action does: as its user, without asking admission a second time.
    pub async fn update(
        &self,
        gr: &GroupResource,
        key: &Key,
        subresource: &str,
        change: &(dyn for<'b> Fn(&'b mut Value) -> Result<(), Status> + Send + Sync),
    ) -> Result<Arc<Object>, Status> {
        let own = OwnRequest { origin: Origin::Action, ..self.engine.own_request(gr)? };
        own.update(self.engine, key, subresource, self.user, change).await
    }

    /// As [`Engine::delete`], for what an action does.
    pub async fn delete(&self, gr: &GroupResource, key: &Key, options: Value) -> Result<(), Status> {
        let own = OwnRequest { origin: Origin::Action, options, ..self.engine.own_request(gr)? };
        own.delete(self.engine, key, self.user).await
    }
}
