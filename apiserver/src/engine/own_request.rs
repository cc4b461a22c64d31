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

/// Who the API server is to itself. A client of that name is a client nevertheless.
pub const OWN_USER: &str = "system:apiserver";

/// A request of this process's own, that came over no wire.
pub struct OwnRequest {
    pub(crate) served: Served,
    pub(crate) options: Value,
    pub(crate) notes: Notes,
}

impl OwnRequest {
    pub(crate) fn new(served: Served) -> Self {
        Self { served, options: json!({}), notes: Notes::default() }
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
            dry_run: is_dry_run(&self.options),
            now: Timestamp::now(),
            notes: &self.notes,
            origin: if user.name == OWN_USER { Origin::Own } else { Origin::Request },
        }
    }
}

impl Ctx<'_> {
    /// As [`Engine::update`], for what an action does: under its context, without asking admission a second time.
    pub async fn update(
        &self,
        gr: &GroupResource,
        key: &Key,
        subresource: &str,
        change: &(dyn for<'b> Fn(&'b mut Value) -> Result<(), Status> + Send + Sync),
    ) -> Result<Arc<Object>, Status> {
        let (served, options) = (self.engine.resource(gr)?, json!({}));
        let ctx = self.of_action(&served, Operation::Update, (key, subresource), &options);
        let updated = Box::pin(update::update(&ctx, &|value: &mut Value| change(value), 0, update::Missing::Refuse)).await?;
        Ok(updated.object)
    }

    /// As [`Engine::delete`], for what an action does.
    pub async fn delete(&self, gr: &GroupResource, key: &Key, options: Value) -> Result<(), Status> {
        let served = self.engine.resource(gr)?;
        let read = delete::Options::read(&options)?;
        let mut ctx = self.of_action(&served, Operation::Delete, (key, ""), &options);
        ctx.dry_run |= is_dry_run(&options);
        Box::pin(delete::delete(&ctx, &read)).await.map(drop)
    }

    fn of_action<'b>(
        &'b self,
        served: &'b Served,
        operation: Operation,
        (key, subresource): (&'b Key, &'b str),
        options: &'b Value,
    ) -> Ctx<'b> {
        let (namespace, name) = (key.namespace.as_str(), key.name.as_str());
        Ctx { kind: &served.kind, served, operation, namespace, name, subresource, options, origin: Origin::Action, ..*self }
    }
}

fn is_dry_run(options: &Value) -> bool {
    options.get("dryRun").and_then(Value::as_array).is_some_and(|modes| !modes.is_empty())
}
